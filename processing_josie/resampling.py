"""Sampling rates: one resampler for whole waveforms, for streams, and for parts of files.

It is soxr's at high quality, with which transformers resamples too. A filter that long keeps what is heard up to 0.9 of
the lower rate's band and lets nothing fold back into it; in return a stream is late by some hundred samples.
"""

import math
from fractions import Fraction
from functools import lru_cache
from typing import Any

import numpy as np
import soxr

# Samples of the lower rate, to each side, beyond which the filter's weights are below 1e-7.
_REACH = 100
_QUALITY = "HQ"


def resample(waveform: np.ndarray, sampling_rate: int, target_rate: int) -> np.ndarray:
    """Change the sampling rate of a waveform.

    Args:
        waveform (`np.ndarray`): `(..., num_samples)`.
        sampling_rate, target_rate (`int`): Rates before and after, in Hz.

    Returns:
        `(..., resampled_length(num_samples, sampling_rate, target_rate))`, float32.

    Raises:
        `ValueError`: A rate is no positive integer.
    """
    ratio = resampling_ratio(sampling_rate, target_rate)
    values = np.asarray(waveform, dtype=np.float32)
    if ratio == 1 or values.size == 0:
        return values
    length = math.ceil(values.shape[-1] * ratio)
    # soxr rounds the length. What follows a clip is silence, so a bit of it makes the last sample complete.
    rows = np.pad(values.reshape(-1, values.shape[-1]), ((0, 0), (0, _tail(ratio))))
    resampled = [soxr.resample(row, ratio.denominator, ratio.numerator, _QUALITY)[:length] for row in rows]
    return np.stack(resampled).reshape(*values.shape[:-1], length)


def resampling_ratio(sampling_rate: int, target_rate: int) -> Fraction:
    """Return the factor by which [`resample`] makes a waveform longer.

    Raises:
        `ValueError`: A rate is no positive integer.
    """
    return Fraction(require_rate(target_rate, "target_rate"), require_rate(sampling_rate))


def resampled_length(num_samples: int, sampling_rate: int, target_rate: int) -> int:
    """Return how many samples [`resample`] makes: as many as it takes to cover their time.

    Args:
        num_samples (`int`): Samples before.
        sampling_rate, target_rate (`int`): Rates before and after, in Hz.
    """
    return math.ceil(num_samples * resampling_ratio(sampling_rate, target_rate))


def resampling_margin(sampling_rate: int, target_rate: int) -> int:
    """Return how many samples before and behind it, at `sampling_rate`, a resampled sample depends on."""
    ratio = resampling_ratio(sampling_rate, target_rate)
    return 0 if ratio == 1 else math.ceil(_REACH / min(ratio, 1))


def require_rate(sampling_rate: Any, name: str = "sampling_rate") -> int:
    """Return `sampling_rate` as an `int`, or raise a `ValueError` that calls it `name`."""
    if isinstance(sampling_rate, bool) or not isinstance(sampling_rate, (int, np.integer)) or sampling_rate <= 0:
        raise ValueError(f"`{name}` must be a positive integer in Hz, got {sampling_rate!r}.")
    return int(sampling_rate)


class StreamResampler:
    """Change of the sampling rate chunk by chunk; the pieces joined are what [`resample`] makes of the whole.

    Args:
        sampling_rate, target_rate (`int`): Rates before and after, in Hz.
        num_channels (`int`): Channels of every chunk.
    """

    def __init__(self, sampling_rate: int, target_rate: int, num_channels: int = 1):
        self._ratio = resampling_ratio(sampling_rate, target_rate)
        self._num_read = self._num_made = 0
        rates = self._ratio.denominator, self._ratio.numerator
        self._stream = soxr.ResampleStream(*rates, num_channels, "float32", _QUALITY) if self._ratio != 1 else None

    @property
    def look_ahead(self) -> int:
        """Samples, before resampling, by which the output is late at most."""
        return 0 if self._stream is None else _stream_delay(self._ratio)

    def push(self, values: np.ndarray, is_final: bool = False) -> np.ndarray:
        """Return what is ready after more samples.

        Args:
            values (`np.ndarray`): `(num_channels, num_samples)`.
            is_final (`bool`): Return all the rest; nothing may be pushed after it.

        Returns:
            `(num_channels, num_ready)`, float32.
        """
        values = np.asarray(values, dtype=np.float32)
        if self._stream is None:
            return values
        self._num_read += values.shape[-1]
        if is_final:
            values = np.pad(values, ((0, 0), (0, _tail(self._ratio))))
        made = self._stream.resample_chunk(np.ascontiguousarray(values.T), last=is_final).T
        if is_final:
            made = made[:, : math.ceil(self._num_read * self._ratio) - self._num_made]
        self._num_made += made.shape[-1]
        return np.ascontiguousarray(made)


def _tail(ratio: Fraction) -> int:
    """Return how many samples of silence make at least one more after resampling."""
    return math.ceil(1 / ratio) + 1


@lru_cache(maxsize=32)
def _stream_delay(ratio: Fraction) -> int:
    """Return by how many samples soxr's stream is late at most; it works in blocks, whose sizes it does not tell."""
    stream = soxr.ResampleStream(ratio.denominator, ratio.numerator, 1, "float32", _QUALITY)
    num_made, delay, sample = 0, Fraction(0), np.zeros(1, dtype=np.float32)
    for num_read in range(1, 4000 * math.ceil(1 / min(ratio, 1))):
        num_made += len(stream.resample_chunk(sample))
        delay = max(delay, num_read - num_made / ratio)
    return math.ceil(delay)
