"""Waveforms that a model made, as NumPy arrays which know their rate."""

from typing import Any

import numpy as np


class Waveform(np.ndarray):
    """Samples, `(num_samples,)` or `(channels, num_samples)`, with their `sampling_rate` in Hz.

    Args:
        samples: Anything that NumPy takes.
        sampling_rate (`int`, *optional*): Samples a second.
    """

    sampling_rate: int | None

    def __new__(cls, samples: Any, sampling_rate: int | None = None) -> "Waveform":
        """Make a view of the samples."""
        waveform = np.asarray(samples).view(cls)
        waveform.sampling_rate = sampling_rate
        return waveform

    def __array_finalize__(self, other: Any) -> None:
        """Keep the rate in slices and results."""
        self.sampling_rate = getattr(other, "sampling_rate", None)


def to_waveforms(generated_outputs: Any, sampling_rate: int | None) -> list[np.ndarray]:
    """Return the waveform of each row of what `generate` gave, without padding.

    Args:
        generated_outputs ([`JosieGenerateOutput`]): With `audio_values` and `audio_lengths`.
        sampling_rate (`int`, *optional*): Where the outputs have none.

    Raises:
        `ValueError`: There is no audio.
    """
    values = getattr(generated_outputs, "audio_values", None)
    if values is None:
        raise ValueError("`generated_outputs` must have `audio_values` for audio, got none.")
    rate = getattr(generated_outputs, "sampling_rate", None) or sampling_rate
    lengths = getattr(generated_outputs, "audio_lengths", None)
    lengths = [values.shape[-1]] * len(values) if lengths is None else lengths.tolist()
    clips = [value[:, :length] for value, length in zip(values.detach().float().cpu().numpy(), lengths, strict=True)]
    return [Waveform(clip[0] if len(clip) == 1 else clip, rate) for clip in clips]
