"""Samples that users push into a session, in the forms that arrays, tensors and lists have."""

from typing import Any

import numpy as np
import torch

_LOUDEST = 2.0  # as in processing: resampling overshoots full scale by less, integers that became floats do not


def read_samples(samples: Any, sampling_rate: int | None, required_rate: int) -> torch.Tensor:
    """Return samples as a tensor `(num_samples,)`, float32.

    Args:
        samples (`np.ndarray`, `torch.Tensor` or a list): `(num_samples,)`, floats in [-1, 1].
        sampling_rate (`int`, *optional*): Their rate in Hz.
        required_rate (`int`): What it must be.

    Raises:
        `ValueError`: Another rate, shape or type, or values that are not finite or out of range.
    """
    if sampling_rate is not None and sampling_rate != required_rate:
        raise ValueError(f"`sampling_rate` must be {required_rate} in a session, got {sampling_rate}.")
    if samples is None or isinstance(samples, (str, bytes)):
        raise ValueError(f"`samples` must be an array or tensor of floats, got {samples!r:.60}.")
    if isinstance(samples, dict):
        raise ValueError("`samples` must be an array or tensor of floats, and their rate `sampling_rate`, got a dict.")
    values = _to_tensor(samples)
    if values.ndim != 1:
        raise ValueError(f"`samples` must be of shape (num_samples,), one channel alone, got {tuple(values.shape)}.")
    if not values.is_floating_point() and len(values):
        raise ValueError(f"`samples` must be floats in [-1, 1], got {str(values.dtype).removeprefix('torch.')}.")
    if not values.isfinite().all():
        raise ValueError("`samples` must be finite, got NaN or infinity.")
    if len(values) and values.abs().max() > _LOUDEST:
        raise ValueError(f"`samples` must be in [-1, 1], got values up to {values.abs().max():g}.")
    return values.float()


def _to_tensor(samples: Any) -> torch.Tensor:
    """Return what is given as a tensor in memory; arrays are copied, as some are read-only or views backwards."""
    if isinstance(samples, torch.Tensor):
        if samples.is_meta or samples.is_quantized or samples.is_nested or samples.layout is not torch.strided:
            raise ValueError("`samples` must be a tensor that stores each of its values, got another.")
        return samples.detach().cpu()
    try:
        values = np.array(samples)
    except (TypeError, ValueError) as error:  # rows of several lengths, or a pair of values and rate
        raise ValueError(
            f"`samples` must be an array or tensor of floats, and their rate `sampling_rate`, got a "
            f"{type(samples).__name__} of {len(samples)}."
        ) from error
    if values.dtype.kind not in "biufc":
        raise ValueError(f"`samples` must be floats in [-1, 1], got {values.dtype}.")
    return torch.from_numpy(values.astype(np.float64) if values.dtype.kind == "f" else values)
