"""Causal convolutions over time, channels last, that stream.

Folding time into blocks makes strided and transposed convolutions the same operation as plain ones, so there is one
kernel, one kind of state and one test. Channels last, short inputs are one matrix product and long ones need no
rearranging.
"""

import torch
from torch import nn
from transformers import initialization as init

from ..layers.derived import KeepsDerived

# Mean square of what a SiLU gives for normal noise.
_SILU_POWER = 0.3557
# Below this many columns a gathered (or scattered) copy is cheaper than one product for each tap.
_NARROW = 64
# From so many times as many weights as outputs on, reading the weights is what takes time.
_SHORT = 4


def convolve(
    padded: torch.Tensor, weight: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor, dilation: int = 1
) -> torch.Tensor:
    """Convolve along time without padding.

    Args:
        padded (`torch.Tensor`): `(batch, length + (num_taps - 1) * dilation, in_width)`, contiguous.
        weight (`torch.Tensor`): `(out_width, num_taps, in_width)`.
        scale (`torch.Tensor`): `(out_width,)`, by which the weight is multiplied.
        bias (`torch.Tensor`): `(out_width,)`.
        dilation (`int`): Steps between the taps.

    Returns:
        `torch.Tensor` of shape `(batch, length, out_width)`.
    """
    batch_size, padded_length, in_width = padded.shape
    out_width, num_taps, _ = weight.shape
    length = padded_length - (num_taps - 1) * dilation
    # A copy of a large weight would cost more than a short convolution, so there the scale goes to what comes out.
    # An exported program serves all sizes in one way.
    scale_output = not torch.compiler.is_exporting() and weight.numel() > _SHORT * batch_size * length * out_width
    if not scale_output:
        weight = weight * scale[:, None, None]
    if torch.is_autocast_enabled(padded.device.type):  # which does not reach in-place sums
        dtype = torch.get_autocast_dtype(padded.device.type)
        padded, weight, scale, bias = padded.to(dtype), weight.to(dtype), scale.to(dtype), bias.to(dtype)
    if scale_output:
        # The weight is read once, in the order in which it lies, and from the left: on a CPU, matrix products share
        # their work among threads by the rows of the first.
        windows = _gather_windows(padded, num_taps, dilation).flatten(0, 1)
        output = (weight.flatten(1) @ windows.T).T.unflatten(0, (batch_size, length))
        return torch.addcmul(bias, output, scale)
    if in_width * num_taps <= _NARROW:
        return nn.functional.linear(_gather_windows(padded, num_taps, dilation), weight.flatten(1), bias)
    if out_width * num_taps <= _NARROW:
        taps = nn.functional.linear(padded, weight.transpose(0, 1).flatten(0, 1)).unflatten(-1, (num_taps, out_width))
        output = bias
        for tap in range(num_taps):
            output = output + taps[:, tap * dilation : tap * dilation + length, tap]
        return output
    # Of pictures one row high, whose kernels take channels last; those for one axis do not.
    picture, kernel = padded.transpose(1, 2)[:, :, None], weight.transpose(1, 2)[:, :, None]
    return nn.functional.conv2d(picture, kernel, bias, dilation=dilation)[:, :, 0].transpose(1, 2)


def _gather_windows(padded: torch.Tensor, num_taps: int, dilation: int) -> torch.Tensor:
    """Return what each output reads, `(batch, length, num_taps * in_width)`."""
    length = padded.shape[1] - (num_taps - 1) * dilation
    return torch.cat([padded[:, tap * dilation : tap * dilation + length] for tap in range(num_taps)], dim=-1)


class CausalConv1d(KeepsDerived):
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
        assert kernel_size % stride == 0
        assert 1 in (stride, dilation)
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
        padded, following = self._prepend(hidden_states, context)
        blocks = padded.reshape(padded.shape[0], -1, self.downsampling * self.in_channels)
        direction = self.weight_direction
        scale = (self.weight_scale / self.derive(direction, self._compute_norm)).to(direction.dtype)
        bias = self.bias
        if self.upsampling > 1:
            scale, bias = scale.repeat(self.upsampling), bias.repeat(self.upsampling)
        output = convolve(blocks, direction.flatten(0, 1), scale, bias, self.dilation)
        return output.reshape(padded.shape[0], -1, self.out_channels), following

    def _prepend(self, hidden_states: torch.Tensor, context: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
        """Return context and input in one, activated where configured, and the next context."""
        length, num_before = hidden_states.shape[1], self.context_shape[0]
        if context is None:
            context = hidden_states.new_zeros(len(hidden_states), *self.context_shape)
        if self.activate and length >= num_before and not torch.is_grad_enabled() and not torch.compiler.is_compiling():
            # Each sample is read and written once.
            dtype = torch.promote_types(context.dtype, hidden_states.dtype)
            padded = hidden_states.new_empty(len(hidden_states), num_before + length, self.in_channels, dtype=dtype)
            torch.ops.aten.silu.out(context.to(dtype), out=padded[:, :num_before])
            torch.ops.aten.silu.out(hidden_states.to(dtype), out=padded[:, num_before:])
            return padded, hidden_states[:, length - num_before :].to(dtype, copy=True)
        padded = torch.cat((context, hidden_states), dim=1)
        following = padded[:, padded.shape[1] - num_before :].clone()
        if self.activate:
            padded = nn.functional.silu(padded, inplace=not torch.is_grad_enabled())
        return padded, following

    def _compute_norm(self) -> torch.Tensor:
        """Return the norm of each output channel's weight, `(out_channels,)`, in float32 or wider."""
        direction = self.weight_direction
        # Rows first: reducing along the contiguous axis is many times faster.
        norm_dtype = torch.promote_types(direction.dtype, torch.float32)
        norm = torch.linalg.vector_norm(direction.flatten(2), dim=2, dtype=norm_dtype)
        return torch.linalg.vector_norm(norm, dim=0).clamp(min=1e-12)


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
