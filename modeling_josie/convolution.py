"""Causal convolutions over time, channels last, that stream.

A causal convolution is a sum of matrix products of shifted inputs. Channels last, those products need no rearranging:
on a CPU they run at matmul speed, which the direct convolution kernels do not reach. Folding time into blocks makes
strided and transposed convolutions the same operation, so there is one kernel, one kind of state and one test.
"""

import torch
from torch import nn
from transformers import initialization as init

# Below this many columns a gathered (or scattered) copy is cheaper than one product for each tap.
_NARROW = 64


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
    # The scale goes to the smaller side: a copy of a large weight would cost more than a short convolution.
    scale_output = weight.numel() > batch_size * length * out_width
    if not scale_output:
        weight = weight * scale[:, None, None]
    if torch.is_autocast_enabled(padded.device.type):  # which does not reach in-place sums
        dtype = torch.get_autocast_dtype(padded.device.type)
        padded, weight, scale, bias = padded.to(dtype), weight.to(dtype), scale.to(dtype), bias.to(dtype)
    if scale_output:
        return torch.addcmul(bias, _convolve_wide(padded, weight, torch.zeros_like(bias), dilation), scale)
    if in_width * num_taps <= _NARROW:
        windows = torch.cat([padded[:, tap * dilation : tap * dilation + length] for tap in range(num_taps)], dim=-1)
        return nn.functional.linear(windows, weight.flatten(1), bias)
    if out_width * num_taps <= _NARROW:
        taps = nn.functional.linear(padded, weight.transpose(0, 1).flatten(0, 1)).unflatten(-1, (num_taps, out_width))
        output = bias
        for tap in range(num_taps):
            output = output + taps[:, tap * dilation : tap * dilation + length, tap]
        return output
    return _convolve_wide(padded, weight, bias, dilation)


def _convolve_wide(padded: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, dilation: int) -> torch.Tensor:
    """Sum one matrix product for each tap; all rows at once, as if they were one.

    What mixes two rows falls between them, where the result is not read.
    """
    batch_size, padded_length, _ = padded.shape
    out_width, num_taps, _ = weight.shape
    span = (num_taps - 1) * dilation
    rows = padded.flatten(0, 1)
    output = torch.addmm(bias, rows[: len(rows) - span], weight[:, 0].T)
    for tap in range(1, num_taps):
        output = output.addmm_(rows[tap * dilation : len(rows) - span + tap * dilation], weight[:, tap].T)
    return output.as_strided((batch_size, padded_length - span, out_width), (padded_length * out_width, out_width, 1))


class CausalConv1d(nn.Module):
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
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        dilation: int = 1,
        activate: bool = False,
    ):
        super().__init__()
        assert kernel_size % stride == 0
        assert 1 in (stride, dilation)
        self.in_channels, self.out_channels = in_channels, out_channels
        self.downsampling, self.upsampling, self.dilation, self.activate = stride, 1, dilation, activate
        self._build_parameters(kernel_size // stride)

    def _build_parameters(self, num_taps: int) -> None:
        """Make the parameters of a convolution over blocks, whose samples lie side by side in its channels."""
        shape = (self.upsampling, self.out_channels, num_taps, self.downsampling * self.in_channels)
        self.weight_direction = nn.Parameter(torch.empty(shape))
        self.weight_scale = nn.Parameter(torch.empty(self.out_channels))
        self.bias = nn.Parameter(torch.empty(self.out_channels))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Keep the variance of the input. The `_init_weights` of the model that owns the module calls this."""
        _, _, num_taps, in_width = self.weight_direction.shape
        std = (num_taps * in_width) ** -0.5
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
            padded = nn.functional.pad(hidden_states, (0, 0, self.context_shape[0], 0))
        else:
            padded = torch.cat((context, hidden_states), dim=1)
        following = padded[:, padded.shape[1] - self.context_shape[0] :].clone()
        if self.activate:
            padded = nn.functional.silu(padded, inplace=padded is not hidden_states and not torch.is_grad_enabled())
        blocks = padded.reshape(len(padded), -1, self.downsampling * self.in_channels)
        direction = self.weight_direction
        # Rows first: reducing along the contiguous axis is many times faster.
        norm_dtype = torch.promote_types(direction.dtype, torch.float32)
        norm = torch.linalg.vector_norm(direction.flatten(2), dim=2, dtype=norm_dtype)
        norm = torch.linalg.vector_norm(norm, dim=0).clamp(min=1e-12)
        scale = (self.weight_scale / norm).to(direction.dtype).repeat(self.upsampling)
        bias = self.bias.repeat(self.upsampling)
        output = convolve(blocks, direction.flatten(0, 1), scale, bias, self.dilation)
        return output.reshape(len(padded), -1, self.out_channels), following


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
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int, activate: bool = False):
        nn.Module.__init__(self)
        self.in_channels, self.out_channels = in_channels, out_channels
        self.downsampling, self.upsampling, self.dilation, self.activate = 1, stride, 1, activate
        self._build_parameters(2)
