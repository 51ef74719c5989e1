"""SEANet's convolutional encoder and decoder (Tagliasacchi et al., 2020), causal, channels last.

Each stage has residual convolutions with growing dilation and one change of rate. There is one SiLU before every
convolution but the first, and a residual layer is a single dilated convolution.

Encoders and decoders have one interface, in which [`SeanetOutput`] carries what skips the layers; `spectral` has their
siblings for mel spectrograms.
"""

from typing import NamedTuple, cast

import torch
from torch import nn

from ...configuration_josie import JodioConfig
from .convolution import CausalConv1d, CausalConvTranspose1d

# Contexts of a stream by layer, each `(batch, length, channels)`.
ConvContext = dict[str, torch.Tensor]

# How loud recordings are, roughly: the root of their mean square. Inside, signals have about the power of 1.
_LOUDNESS = 0.1
_RESIDUAL_GAIN = 0.5


class SeanetOutput(NamedTuple):
    """Output of an encoder or decoder.

    Args:
        hidden_states (`torch.Tensor`): `(batch, length, channels)`.
        skip (`torch.Tensor`, *optional*): Latents that skip the transformer, `(batch, num_frames, latent_size)`; of
            spectral encoders.
        context (`dict[str, torch.Tensor]`): Contexts for what follows; none outside of a stream.
    """

    hidden_states: torch.Tensor
    skip: torch.Tensor | None
    context: ConvContext


class SeanetResidualLayer(nn.Module):
    """A dilated convolution whose result is added to its input.

    Args:
        config ([`JodioConfig`]): Kernel and dilation growth.
        channels (`int`): Width.
        index (`int`): Position in the stage, which sets the dilation.
    """

    def __init__(self, config: JodioConfig, channels: int, index: int):
        super().__init__()
        dilation = config.dilation_growth**index
        self.conv = CausalConv1d(
            channels, channels, config.residual_kernel_size, dilation=dilation, activate=True, gain=_RESIDUAL_GAIN
        )

    @property
    def context_shape(self) -> tuple[int, int]:
        """Length and channels of the context that a stream carries."""
        return self.conv.context_shape

    def forward(
        self, hidden_states: torch.Tensor, context: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Map `(batch, length, channels)` to the same shape, and return the next context."""
        added, following = self.conv(hidden_states, context)
        return (hidden_states + added if torch.is_grad_enabled() else added.add_(hidden_states)), following


class SeanetStack(nn.Module):
    """Layers in a row, each with a context that a stream carries.

    Args:
        layers (`list[nn.Module]`): Modules that have a `context_shape`, and take and return a context.
        prefix (`str`): Start of the names of the contexts.
    """

    needs_float64 = False

    def __init__(self, layers: list[nn.Module], prefix: str):
        super().__init__()
        self.prefix = prefix
        self.layers = nn.ModuleList(layers)

    @property
    def context_shapes(self) -> dict[str, tuple[int, int]]:
        """Length and channels of the context of every layer, by name."""
        shapes = [cast(CausalConv1d, layer).context_shape for layer in self.layers]
        return {f"{self.prefix}.{index}": shape for index, shape in enumerate(shapes)}

    def run_layers(
        self, hidden_states: torch.Tensor, context: ConvContext | None, start: int = 0, stop: int | None = None
    ) -> tuple[torch.Tensor, ConvContext]:
        """Run layers.

        Args:
            hidden_states (`torch.Tensor`): `(batch, length, channels)`.
            context (`dict[str, torch.Tensor]`, *optional*): Contexts of all layers; the start of a recording when
                `None`.
            start, stop (`int`): Which layers: as of a slice.

        Returns:
            The output, and the next contexts of these layers; none when `context` is `None`.
        """
        following = {}
        for index in range(len(self.layers))[start:stop]:
            name = f"{self.prefix}.{index}"
            hidden_states, last = self.layers[index](hidden_states, None if context is None else context[name])
            if context is not None:
                following[name] = last
        return hidden_states, following


def build_encoder_layers(config: JodioConfig, in_channels: int, gain: float) -> list[nn.Module]:
    """Return the convolutions of an encoder.

    Args:
        config ([`JodioConfig`]): Widths, strides, kernels.
        in_channels (`int`): Channels of the input.
        gain (`float`): Initial gain of the first convolution.
    """
    layers: list[nn.Module] = [CausalConv1d(in_channels, config.channels[0], config.kernel_size, gain=gain)]
    strides = config.upsampling_ratios[::-1]
    for channels, following, stride, num_residual_layers in zip(
        config.channels[:-1], config.channels[1:], strides, config.residual_layers, strict=True
    ):
        layers += [SeanetResidualLayer(config, channels, index) for index in range(num_residual_layers)]
        layers.append(CausalConv1d(channels, following, 2 * stride, stride, activate=True))
    return layers


def build_decoder_layers(config: JodioConfig, out_channels: int, gain: float) -> list[nn.Module]:
    """Return the convolutions of a decoder, which mirror an encoder's.

    Args:
        config ([`JodioConfig`]): Widths, strides, kernels.
        out_channels (`int`): Channels of the output.
        gain (`float`): Initial gain of the last convolution.
    """
    layers: list[nn.Module] = []
    widths = config.channels[::-1]
    for channels, following, stride, num_residual_layers in zip(
        widths[:-1], widths[1:], config.upsampling_ratios, config.residual_layers[::-1], strict=True
    ):
        layers.append(CausalConvTranspose1d(channels, following, stride, activate=True))
        layers += [SeanetResidualLayer(config, following, index) for index in range(num_residual_layers)]
    layers.append(CausalConv1d(config.channels[0], out_channels, config.kernel_size, activate=True, gain=gain))
    return layers


class SeanetEncoder(SeanetStack):
    """Waveform to hidden states at frame rate.

    Args:
        config ([`JodioConfig`]): Widths, strides, kernels.
    """

    def __init__(self, config: JodioConfig):
        super().__init__(build_encoder_layers(config, config.audio_channels, 1 / _LOUDNESS), "encoder")

    def forward(self, hidden_states: torch.Tensor, context: ConvContext | None = None) -> SeanetOutput:
        """Run the layers.

        Args:
            hidden_states (`torch.Tensor`): Samples, `(batch, num_samples, channels)`, whole code frames.
            context (`dict[str, torch.Tensor]`, *optional*): Contexts of all layers; the start of a recording when
                `None`.

        Returns:
            [`SeanetOutput`] with `hidden_states` of shape `(batch, num_frames, channels)`.
        """
        hidden_states, following = self.run_layers(hidden_states, context)
        return SeanetOutput(hidden_states, None, following)

    def add_skip(self, hidden_states: torch.Tensor, skip: torch.Tensor | None) -> torch.Tensor:
        """Return the latents: the output of the transformer behind this encoder, which nothing skips."""
        return hidden_states


class SeanetDecoder(SeanetStack):
    """Hidden states at frame rate to waveform: the encoder's mirror.

    Args:
        config ([`JodioConfig`]): Widths, strides, kernels.
    """

    def __init__(self, config: JodioConfig):
        super().__init__(build_decoder_layers(config, config.audio_channels, _LOUDNESS), "decoder")

    def forward(
        self, hidden_states: torch.Tensor, latents: torch.Tensor, context: ConvContext | None = None
    ) -> SeanetOutput:
        """Run the layers.

        Args:
            hidden_states (`torch.Tensor`): Output of the transformer in front, `(batch, num_frames, channels)`.
            latents (`torch.Tensor`): Quantized latents, `(batch, num_frames, latent_size)`: for decoders to which they
                skip.
            context (`dict[str, torch.Tensor]`, *optional*): Contexts of all layers; the start of a recording when
                `None`.

        Returns:
            [`SeanetOutput`] with samples, `(batch, num_samples, channels)`, in `hidden_states`.
        """
        hidden_states, following = self.run_layers(hidden_states, context)
        return SeanetOutput(hidden_states, None, following)
