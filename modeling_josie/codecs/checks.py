"""Checks of what a user gives to the codecs."""

import torch

from ...configuration_josie.constants import IGNORE_INDEX
from ..layers.masks import length_mask


def check_num_quantizers(num_quantizers: int | None, available: int) -> int:
    """Return how many quantizers to use, all for `None`.

    Raises:
        `ValueError`: There are not that many.
    """
    if num_quantizers is None:
        return available
    if not 1 <= num_quantizers <= available:
        raise ValueError(f"`num_quantizers` must be in [1, {available}], got {num_quantizers}.")
    return num_quantizers


def check_sampling_rate(sampling_rate: int | None, expected: int) -> None:
    """Raise a `ValueError` if the rate that a caller states, in Hz, is not the configuration's."""
    if sampling_rate is not None and sampling_rate != expected:
        raise ValueError(
            f"`sampling_rate` must be that of the configuration ({expected} Hz), to which audio is resampled first, "
            f"got {sampling_rate}."
        )


def check_codes(codes: torch.Tensor, num_quantizers: int, codebook_size: int, name: str = "codes") -> None:
    """Check codes; exported programs do not.

    Args:
        codes (`torch.Tensor`): `(batch, at most num_quantizers, num_frames)`.
        num_quantizers, codebook_size (`int`): Of the codec.
        name (`str`): The argument that they came by.

    Raises:
        `ValueError`: They are no integers, of another shape, or out of range.
    """
    if torch.compiler.is_exporting():
        return
    if codes.dtype.is_floating_point or codes.dtype.is_complex or codes.dtype == torch.bool:
        raise ValueError(f"`{name}` must be integers, got {codes.dtype}.")
    if codes.ndim != 3 or not 1 <= codes.shape[1] <= num_quantizers:
        raise ValueError(
            f"`{name}` must have shape (batch, 1 to {num_quantizers} quantizers, frames), got {tuple(codes.shape)}."
        )
    if codes.numel():
        low, high = (int(value) for value in torch.aminmax(codes))
        if low < 0 or high >= codebook_size:
            raise ValueError(f"`{name}` must be in [0, {codebook_size - 1}], got values from {low} to {high}.")


def check_audio(
    input_values: torch.Tensor, channels: int, padding_mask: torch.Tensor | None = None, allow_empty: bool = False
) -> torch.Tensor:
    """Return how many samples each row of a batch of waveforms has, `(batch,)`.

    Args:
        input_values (`torch.Tensor`): `(batch, channels, num_samples)`.
        channels (`int`): Of the codec.
        padding_mask (`torch.Tensor`, *optional*): `(batch, num_samples)`, 1 for real samples, which come first.
        allow_empty (`bool`): Whether there may be no samples, as in a chunk of a stream.

    Raises:
        `ValueError`: Wrong dimensions or channels, no samples, NaN or infinity, or a mask that does not fit.
    """
    if input_values.ndim != 3:
        raise ValueError(f"`input_values` must have shape (batch, channels, samples), got {tuple(input_values.shape)}.")
    batch_size, num_channels, num_samples = input_values.shape
    if num_channels != channels:
        raise ValueError(f"`input_values` must have {channels} channel{'s' * (channels > 1)}, got {num_channels}.")
    if batch_size == 0 or (num_samples == 0 and not allow_empty):
        raise ValueError(f"`input_values` must have at least 1 sample, got shape {tuple(input_values.shape)}.")
    if not input_values.is_floating_point():
        raise ValueError(f"`input_values` must be floats in [-1, 1], got {input_values.dtype}.")
    if not torch.isfinite(input_values).all():
        raise ValueError("`input_values` must be finite, got NaN or infinity.")
    if padding_mask is None:
        return torch.full((batch_size,), num_samples, dtype=torch.long, device=input_values.device)
    if padding_mask.shape != (batch_size, num_samples):
        raise ValueError(
            f"`padding_mask` must have shape {(batch_size, num_samples)}, got {tuple(padding_mask.shape)}."
        )
    real = padding_mask != 0
    lengths = real.sum(-1)
    if (real != length_mask(lengths, num_samples)).any():
        raise ValueError("`padding_mask` must have its zeros at the end of each row, got zeros before ones.")
    if not allow_empty and (lengths == 0).any():
        raise ValueError("`padding_mask` must leave each row at least 1 sample, got a row without.")
    return lengths


def check_audio_lengths(
    audio_lengths: torch.Tensor | None, batch_size: int, max_length: int, device: torch.device
) -> torch.Tensor:
    """Return how many samples to decode of each row, `(batch,)`.

    Args:
        audio_lengths (`torch.Tensor`, *optional*): `(batch,)`; `max_length` each when `None`.
        batch_size (`int`): Rows.
        max_length (`int`): Samples that the codes give.
        device (`torch.device`): Of the result.

    Raises:
        `ValueError`: Wrong shape, or a length below 0 or above `max_length`.
    """
    if audio_lengths is None:
        return torch.full((batch_size,), max_length, dtype=torch.long, device=device)
    if audio_lengths.shape != (batch_size,):
        raise ValueError(f"`audio_lengths` must have shape ({batch_size},), got {tuple(audio_lengths.shape)}.")
    low, high = (int(value) for value in torch.aminmax(audio_lengths))
    if low < 0 or high > max_length:
        raise ValueError(f"`audio_lengths` must be in [0, {max_length}], got values from {low} to {high}.")
    return audio_lengths.to(device)


def check_semantic_targets(semantic_targets: torch.Tensor | None, batch_size: int, size: int | None) -> None:
    """Raise a `ValueError` unless semantic targets fit.

    Args:
        semantic_targets (`torch.Tensor`, *optional*): `(batch, frames, size)`.
        batch_size (`int`): Rows.
        size (`int`, *optional*): Width of the targets; `None` without their head.
    """
    if semantic_targets is None:
        return
    if size is None:
        raise ValueError("`semantic_targets` must be None when `semantic_target_size` is None, got a tensor.")
    shape = tuple(semantic_targets.shape)
    if len(shape) != 3 or shape[0] != batch_size or shape[1] == 0 or shape[2] != size:
        raise ValueError(f"`semantic_targets` must have shape ({batch_size}, frames, {size}), got {shape}.")


def check_labels(labels: torch.Tensor | None, batch_size: int, size: int | None) -> None:
    """Raise a `ValueError` unless labels of CTC fit.

    Args:
        labels (`torch.LongTensor`, *optional*): `(batch, num_labels)`, in [1, size) or -100.
        batch_size (`int`): Rows.
        size (`int`, *optional*): Classes, the blank included; `None` without their head.
    """
    if labels is None:
        return
    if size is None:
        raise ValueError("`labels` must be None when `semantic_vocab_size` is None, got a tensor.")
    if labels.ndim != 2 or len(labels) != batch_size:
        raise ValueError(f"`labels` must have shape ({batch_size}, num_labels), got {tuple(labels.shape)}.")
    wrong = labels[(labels != IGNORE_INDEX) & ((labels < 1) | (labels >= size))]
    if len(wrong):
        raise ValueError(f"`labels` must be {IGNORE_INDEX} or in [1, {size - 1}], got {int(wrong[0])}.")
