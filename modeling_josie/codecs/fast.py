"""Fast paths of the codecs, each beside its naive twin.

Convolutions over time, channels last. On a CPU torch's `conv1d` takes no channels last; its kernels for images do:

    path              serves                                              why
    matrix product    few steps of wide layers, float64, exported steps   reads a weight once, in the order it lies in
    2-d convolution   all others, on an image one row high                no rearranging, no copy of the windows

`benchmarks/codec_convolutions.py` prints what each path gains.
"""

import torch
from torch import nn

# The matrix product takes over from so many weights per output on: from there, reading the weights takes longest.
_WEIGHTS_PER_OUTPUT = 32


def convolve_naive(padded: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, dilation: int = 1) -> torch.Tensor:
    """Convolve along time without padding, as [`convolve`].

    Args:
        padded, weight, bias, dilation: As of [`convolve`].
    """
    output = nn.functional.conv1d(padded.transpose(1, 2), weight.transpose(1, 2), bias, dilation=dilation)
    return output.transpose(1, 2)


def convolve(padded: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, dilation: int = 1) -> torch.Tensor:
    """Convolve along time without padding.

    Args:
        padded (`torch.Tensor`): `(batch, length + (num_taps - 1) * dilation, in_width)`, contiguous.
        weight (`torch.Tensor`): `(out_width, num_taps, in_width)`, contiguous.
        bias (`torch.Tensor`): `(out_width,)`.
        dilation (`int`): Steps between the taps.

    Returns:
        `torch.Tensor` of shape `(batch, length, out_width)`.
    """
    batch_size, padded_length, in_width = padded.shape
    num_taps = weight.shape[1]
    length = padded_length - (num_taps - 1) * dilation
    # An exported program serves all sizes in one way.
    is_short = torch.compiler.is_exporting() or num_taps * in_width > _WEIGHTS_PER_OUTPUT * batch_size * length
    if is_short or padded.dtype == torch.float64:
        return multiply_windows(padded, weight, bias, dilation)
    return convolve_as_image(padded, weight, bias, dilation)


def multiply_windows(padded: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, dilation: int) -> torch.Tensor:
    """Convolve as [`convolve`], by one matrix product.

    The weight comes first: on a CPU, matrix products share their work among threads by the rows of the first factor.

    Args:
        padded, weight, bias, dilation: As of [`convolve`].
    """
    num_taps = weight.shape[1]
    length = padded.shape[1] - (num_taps - 1) * dilation
    windows = torch.cat([padded[:, tap * dilation : tap * dilation + length] for tap in range(num_taps)], dim=-1)
    output = torch.addmm(bias[:, None], weight.flatten(1), windows.flatten(0, 1).T)
    return output.T.unflatten(0, (padded.shape[0], length))


def convolve_as_image(padded: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, dilation: int) -> torch.Tensor:
    """Convolve as [`convolve`], by a convolution of images that are one row high, channels last.

    Args:
        padded, weight, bias, dilation: As of [`convolve`].
    """
    images, kernel = padded.transpose(1, 2)[:, :, None], weight.transpose(1, 2)[:, :, None]
    return nn.functional.conv2d(images, kernel, bias, dilation=dilation)[:, :, 0].transpose(1, 2)
