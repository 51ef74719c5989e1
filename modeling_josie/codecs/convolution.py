"""Causal convolutions over time, channels last, that stream.

Folding time into blocks makes strided and transposed convolutions the same operation as plain ones, so there is one
kernel (see `fast`), one kind of context and one test.
"""

import torch
from torch import nn
from transformers import initialization as init

from .fast import convolve
from .inference import HasInferenceForm

# Mean square of what a SiLU gives for normal noise.
_SILU_POWER = 0.3557


class CausalConv1d(HasInferenceForm[tuple[torch.Tensor, torch.Tensor]]):
    """Weight-normalised (Salimans and Kingma, 2016) causal convolution; with a stride, one output for each block.

    The context, zeros before the start, is `kernel_size - stride` long (dilated: `(kernel_size - 1) * dilation`)::

        kernel 4, stride 2        context | input
                                   0   0  | a   b | c   d | e   f
                                  [0   0    a   b]                   -> first output
                                           [a   b   c   d]           -> second
                                                   [c   d   e   f]   -> third; e f is the context of what follows

    The normalisation is written out rather than taken from `torch.nn.utils.parametrizations`: parametrised modules
    cannot be pickled, and theirs start wrong when a model is built on the meta device.

    Args:
        in_channels, out_channels (`int`): Widths.
        kernel_size (`int`): Taps; a multiple of `stride`.
        stride (`int`): Input steps an output step stands for.
        dilation (`int`): Steps between the taps; 1 when there is a stride.
        activate (`bool`): Apply a SiLU to the input first.
        gain (`float`): Standard deviation of the output, to begin with, for an input of one.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        dilation: int = 1,
        activate: bool = False,
        gain: float = 1.0,
    ):
        super().__init__()
        if kernel_size % stride:
            raise ValueError(f"`kernel_size` must be a multiple of `stride` ({stride}), got {kernel_size}.")
        if 1 not in (stride, dilation):
            raise ValueError(f"`dilation` must be 1 where `stride` is not ({stride}), got {dilation}.")
        self.in_channels, self.out_channels = in_channels, out_channels
        self.downsampling, self.upsampling, self.dilation = stride, 1, dilation
        self.activate, self.gain = activate, gain
        self._build_parameters(kernel_size // stride)

    def _build_parameters(self, num_taps: int) -> None:
        """Make the parameters of a convolution over blocks, whose samples lie side by side in its channels."""
        shape = (self.upsampling, self.out_channels, num_taps, self.downsampling * self.in_channels)
        self.weight_direction = nn.Parameter(torch.empty(shape))
        self.weight_scale = nn.Parameter(torch.empty(self.out_channels))
        self.bias = nn.Parameter(torch.empty(self.out_channels))
        self.reset_weights()

    def reset_weights(self) -> None:
        """Initialise so that the variance of the input is kept, times the gain.

        Called by [`JosiePreTrainedModel`].
        """
        _, _, num_taps, in_width = self.weight_direction.shape
        # What a SiLU takes from the variance is given back: where signals shrink from layer to layer, it is nearly
        # linear, and an encoder without nonlinearity cannot tell loud from soft.
        std = self.gain * (num_taps * in_width * (_SILU_POWER if self.activate else 1.0)) ** -0.5
        init.normal_(self.weight_direction, std=std)
        init.constant_(self.weight_scale, std * (self.weight_direction.numel() / self.out_channels) ** 0.5)
        init.zeros_(self.bias)

    @property
    def context_shape(self) -> tuple[int, int]:
        """Length and channels of the context that a stream carries."""
        return (self.weight_direction.shape[2] - 1) * self.dilation * self.downsampling, self.in_channels

    def forward(
        self, hidden_states: torch.Tensor, context: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Convolve.

        Args:
            hidden_states (`torch.Tensor`): `(batch, length, in_channels)`, `length` a multiple of the stride.
            context (`torch.Tensor`, *optional*): What came before, `(batch, *context_shape)`; zeros when `None`.

        Returns:
            The output, `(batch, length // stride, out_channels)` (transposed: `length * stride`), and the next context.
        """
        if context is None:
            context = hidden_states.new_zeros(len(hidden_states), *self.context_shape)
        padded = torch.cat((context, hidden_states), dim=1)
        following = padded[:, padded.shape[1] - self.context_shape[0] :].clone()
        if self.activate:
            padded = nn.functional.silu(padded, inplace=not torch.is_grad_enabled())
        blocks = padded.reshape(padded.shape[0], -1, self.downsampling * self.in_channels)
        weight, bias = self.get_form()
        output = convolve(blocks, weight, bias, self.dilation)
        return output.reshape(padded.shape[0], -1, self.out_channels), following

    def compute_form(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the normalised weight over blocks, `(out_width, num_taps, in_width)`, and the bias, `(out_width,)`."""
        direction = self.weight_direction
        # In float32 or wider, and rows first: reducing along the contiguous axis is many times faster.
        norm_dtype = torch.promote_types(direction.dtype, torch.float32)
        norm = torch.linalg.vector_norm(direction.flatten(2), dim=2, dtype=norm_dtype)
        norm = torch.linalg.vector_norm(norm, dim=0).clamp(min=1e-12)
        scale = (self.weight_scale / norm).to(direction.dtype)
        weight = (direction * scale[:, None, None]).flatten(0, 1)
        return weight, self.bias.repeat(self.upsampling) if self.upsampling > 1 else self.bias


class CausalConvTranspose1d(CausalConv1d):
    """Weight-normalised transposed convolution with kernel `2 * stride`, trimmed by `stride` on the right.

    Each block of `stride` output samples sums what its own input step and the one before it spread::

        stride 2    input          a       b       c
                    a spreads     [a0 a1   a2 a3]
                    b spreads             [b0 b1   b2 b3]
                    output         a0 a1   a2+b0 a3+b1 ...     what c spreads beyond its own block is trimmed

    So it is a causal convolution of two taps that gives whole blocks, and its context is one input step.

    Args:
        in_channels, out_channels (`int`): Widths.
        stride (`int`): Output steps for each input step.
        activate (`bool`): Apply a SiLU to the input first.
        gain (`float`): As of [`CausalConv1d`].
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int, activate: bool = False, gain: float = 1.0):
        nn.Module.__init__(self)
        self.in_channels, self.out_channels = in_channels, out_channels
        self.downsampling, self.upsampling, self.dilation = 1, stride, 1
        self.activate, self.gain = activate, gain
        self._build_parameters(2)
