"""SEANet's convolutional encoder and decoder (Tagliasacchi et al., 2020), causal, channels last.

Each stage has residual convolutions with growing dilation and one change of rate. There is one SiLU before every
convolution but the first, and a residual layer is a single dilated convolution.
"""

from typing import cast

import torch
from torch import nn

from ..configuration_josie import JodioConfig
from .convolution import CausalConv1d, CausalConvTranspose1d

ConvBuffers = dict[str, torch.Tensor]

# How loud recordings are, roughly: the root of their mean square. Inside, signals have about the power of 1.
_LOUDNESS = 0.1
_RESIDUAL_GAIN = 0.5


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
        following = {}
        for index, layer in enumerate(self.layers):
            name = f"{self.prefix}.{index}"
            hidden_states, context = layer(hidden_states, None if buffers is None else buffers[name])
            if buffers is not None:
                following[name] = context
        return hidden_states, following


class SeanetEncoder(SeanetStack):
    """Waveform to latents at frame rate.

    Args:
        config ([`JodioConfig`]): Widths, strides, kernels.
    """

    def __init__(self, config: JodioConfig):
        layers: list[nn.Module] = [
            CausalConv1d(config.audio_channels, config.channels[0], config.kernel_size, gain=1 / _LOUDNESS)
        ]
        strides = config.upsampling_ratios[::-1]
        for channels, following, stride, num_residual_layers in zip(
            config.channels[:-1], config.channels[1:], strides, config.residual_layers, strict=True
        ):
            layers += [SeanetResidualLayer(config, channels, index) for index in range(num_residual_layers)]
            layers.append(CausalConv1d(channels, following, 2 * stride, stride, activate=True))
        super().__init__(layers, "encoder")


class SeanetDecoder(SeanetStack):
    """Latents at frame rate to waveform: the encoder's mirror.

    Args:
        config ([`JodioConfig`]): Widths, strides, kernels.
    """

    def __init__(self, config: JodioConfig):
        layers: list[nn.Module] = []
        widths = config.channels[::-1]
        for channels, following, stride, num_residual_layers in zip(
            widths[:-1], widths[1:], config.upsampling_ratios, config.residual_layers[::-1], strict=True
        ):
            layers.append(CausalConvTranspose1d(channels, following, stride, activate=True))
            layers += [SeanetResidualLayer(config, following, index) for index in range(num_residual_layers)]
        layers.append(
            CausalConv1d(config.channels[0], config.audio_channels, config.kernel_size, activate=True, gain=_LOUDNESS)
        )
        super().__init__(layers, "decoder")
