"""SEANet's convolutional encoder and decoder (Tagliasacchi et al., 2020), causal, channels last.

Each stage has residual convolutions with growing dilation and one change of rate. There is one SiLU before every
convolution but the first, and a residual layer is a single dilated convolution.

Between mel ends the outermost layers are a fixed transform and its inversion, and the convolutions work at its hop. A
path leads around them (see `spectral_ends`): what the encoder returns has its end behind its own channels, and the
decoder takes its start there.
"""

from typing import cast

import torch
from torch import nn

from ...configuration_josie import JodioConfig
from .convolution import CausalConv1d, CausalConvTranspose1d
from .spectral_ends import MelAnalysis, MelSynthesis, latents_to_mel, mel_to_latents

ConvBuffers = dict[str, torch.Tensor]

# How loud recordings are, roughly: the root of their mean square. Inside, signals have about the power of 1.
_LOUDNESS = 0.1
_RESIDUAL_GAIN = 0.5
# How much a new decoder adds to mel frames, whose power is about 1.
_ADDED_GAIN = 0.1
# How much of what a transformer gives, whose power is 1, is added to latents.
_ADDED_SHARE = 0.3


class SeanetResidualLayer(nn.Module):
    """A dilated convolution whose result is added to its input.

    Args:
        config ([`JodioConfig`]): Kernel and dilation growth.
        channels (`int`): Width.
        index (`int`): Its place in the stage, which sets the dilation.
    """

    def __init__(self, config: JodioConfig, channels: int, index: int):
        super().__init__()
        dilation = config.dilation_growth**index
        self.conv = CausalConv1d(
            channels, channels, config.residual_kernel_size, dilation=dilation, activate=True, gain=_RESIDUAL_GAIN
        )

    def forward(
        self, hidden_states: torch.Tensor, context: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Map `(batch, length, channels)` to the same shape, and return the next context."""
        added, following = self.conv(hidden_states, context)
        return (hidden_states + added if torch.is_grad_enabled() else added.add_(hidden_states)), following


class SeanetStack(nn.Module):
    """Layers in a row, each with a context that a stream carries.

    Args:
        layers (`list[nn.Module]`): Modules that take and return a context.
        prefix (`str`): Start of the names of the contexts.
    """

    def __init__(self, layers: list[nn.Module], prefix: str):
        super().__init__()
        self.prefix = prefix
        self.layers = nn.ModuleList(layers)

    @property
    def context_shapes(self) -> dict[str, tuple[int, int]]:
        """Length and channels of the context of every layer, by name."""
        convolutions = [layer.conv if isinstance(layer, SeanetResidualLayer) else layer for layer in self.layers]
        shapes = [cast(CausalConv1d, conv).context_shape for conv in convolutions]
        return {f"{self.prefix}.{index}": shape for index, shape in enumerate(shapes)}

    def forward(
        self, hidden_states: torch.Tensor, buffers: ConvBuffers | None = None
    ) -> tuple[torch.Tensor, ConvBuffers]:
        """Run the layers.

        Args:
            hidden_states (`torch.Tensor`): `(batch, length, channels)`.
            buffers (`dict[str, torch.Tensor]`, *optional*): Contexts of all layers; the start of a stream when `None`.

        Returns:
            The output, and the next contexts; none when `buffers` is `None`.
        """
        return self._run(hidden_states, buffers, range(len(self.layers)))

    def _run(
        self, hidden_states: torch.Tensor, buffers: ConvBuffers | None, indices: range
    ) -> tuple[torch.Tensor, ConvBuffers]:
        following = {}
        for index in indices:
            name = f"{self.prefix}.{index}"
            hidden_states, context = self.layers[index](hidden_states, None if buffers is None else buffers[name])
            if buffers is not None:
                following[name] = context
        return hidden_states, following


class SeanetEncoder(SeanetStack):
    """Waveform to latents at frame rate.

    Args:
        config ([`JodioConfig`]): Ends, widths, strides, kernels.
    """

    def __init__(self, config: JodioConfig):
        layers: list[nn.Module] = [MelAnalysis(config)] if config.ends == "mel" else []
        in_size, gain = (config.num_mel_bins, 1.0) if layers else (config.audio_channels, 1 / _LOUDNESS)
        layers.append(CausalConv1d(in_size, config.channels[0], config.kernel_size, gain=gain))
        strides = config.upsampling_ratios[::-1]
        for channels, following, stride, num_residual_layers in zip(
            config.channels[:-1], config.channels[1:], strides, config.residual_layers, strict=True
        ):
            layers += [SeanetResidualLayer(config, channels, index) for index in range(num_residual_layers)]
            layers.append(CausalConv1d(channels, following, 2 * stride, stride, activate=True))
        super().__init__(layers, "encoder")
        self.config = config

    def forward(
        self, hidden_states: torch.Tensor, buffers: ConvBuffers | None = None
    ) -> tuple[torch.Tensor, ConvBuffers]:
        """Run the layers; as [`SeanetStack.forward`], between mel ends with `mel_to_latents` behind the channels."""
        if self.config.ends == "waveform":
            return super().forward(hidden_states, buffers)
        mel, following = self._run(hidden_states, buffers, range(1))
        hidden_states, others = self._run(mel, buffers, range(1, len(self.layers)))
        latents = mel_to_latents(self.config, mel, self.config.latent_size)
        return torch.cat((hidden_states, latents), dim=-1), following | others


class SeanetDecoder(SeanetStack):
    """Latents at frame rate to waveform: the encoder's mirror.

    Args:
        config ([`JodioConfig`]): Ends, widths, strides, kernels.
    """

    def __init__(self, config: JodioConfig):
        layers: list[nn.Module] = []
        widths = config.channels[::-1]
        for channels, following, stride, num_residual_layers in zip(
            widths[:-1], widths[1:], config.upsampling_ratios, config.residual_layers[::-1], strict=True
        ):
            layers.append(CausalConvTranspose1d(channels, following, stride, activate=True))
            layers += [SeanetResidualLayer(config, following, index) for index in range(num_residual_layers)]
        is_mel = config.ends == "mel"
        out_size, gain = (config.num_mel_bins, _ADDED_GAIN) if is_mel else (config.audio_channels, _LOUDNESS)
        layers.append(CausalConv1d(config.channels[0], out_size, config.kernel_size, activate=True, gain=gain))
        if is_mel:
            layers.append(MelSynthesis(config))
        super().__init__(layers, "decoder")
        self.config = config

    def forward(
        self, hidden_states: torch.Tensor, buffers: ConvBuffers | None = None
    ) -> tuple[torch.Tensor, ConvBuffers]:
        """Run the layers; as [`SeanetStack.forward`], between mel ends with quantized latents behind the channels."""
        if self.config.ends == "waveform":
            return super().forward(hidden_states, buffers)
        mel, following = self.predict_mel(hidden_states, buffers)
        last = len(self.layers) - 1
        audio_values, others = self._run(mel, buffers, range(last, last + 1))
        return audio_values, following | others

    def predict_mel(
        self, hidden_states: torch.Tensor, buffers: ConvBuffers | None = None
    ) -> tuple[torch.Tensor, ConvBuffers]:
        """Run all layers but the last of mel ends, and return the mel frames that it inverts, and the next contexts."""
        latent_size = self.config.latent_size
        hidden_states, latents = hidden_states.split([hidden_states.shape[-1] - latent_size, latent_size], dim=-1)
        hidden_states, following = self._run(hidden_states, buffers, range(len(self.layers) - 1))
        return hidden_states + latents_to_mel(self.config, latents), following


def part_latents(config: JodioConfig, encoded: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Return the channels of what an encoder returned, and the latents behind them; `None` without mel ends."""
    if config.ends == "waveform":
        return encoded, None
    channels, latents = encoded.split([encoded.shape[-1] - config.latent_size, config.latent_size], dim=-1)
    return channels, latents


def add_latents(hidden_states: torch.Tensor, latents: torch.Tensor | None) -> torch.Tensor:
    """Return the latents that the layers of an encoder and the path around them give together."""
    return hidden_states if latents is None else latents + _ADDED_SHARE * hidden_states


def join_latents(config: JodioConfig, hidden_states: torch.Tensor, latents: torch.Tensor) -> torch.Tensor:
    """Return what a decoder takes: between mel ends with the latents behind the channels."""
    return hidden_states if config.ends == "waveform" else torch.cat((hidden_states, latents), dim=-1)
