"""Speech of synthetic voices, made once and kept in shards.

Everything said is FLAC inside data sets of `datasets`, one Arrow file for so many sentences of a voice, so that a run
that was interrupted goes on where it stopped, and more sentences begin with the same shards.
"""

import io
import logging
import random
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import soundfile
from datasets import Dataset, concatenate_datasets
from datasets.utils.logging import disable_progress_bar
from recipes.debian import require_tool

from nano_world.voices import SAMPLING_RATE, Voice

JOSIE_VOICE, JOSIE_STRETCH = "rms", 1.2  # which the judge understands best, slower than flite speaks by itself
SHARD_SIZE = 1000

logger = logging.getLogger("josie.examples.nano_world.speech")


def speak(text: str, voice: str = JOSIE_VOICE, stretch: float = 1.0) -> np.ndarray:
    """Return what flite says, `(num_samples,)`, float32 at 16 kHz; arguments as of [`speak_in_time`]."""
    return speak_in_time(text, voice, stretch)[0]


def speak_in_time(text: str, voice: str, stretch: float) -> tuple[np.ndarray, list[str], list[float]]:
    """Return what flite says, `(num_samples,)`, float32 at 16 kHz, its phones, and when each ends, in seconds.

    Args:
        text (`str`): What to say.
        voice (`str`): One of flite's.
        stretch (`float`): How many times as long it takes.
    """
    command = [require_tool("flite", "flite"), "-voice", voice, "--setf", f"duration_stretch={stretch}", "-psdur"]
    with tempfile.NamedTemporaryFile(suffix=".wav") as file:
        said = subprocess.run([*command, "-t", text, "-o", file.name], check=True, capture_output=True, text=True)
        samples, rate = soundfile.read(file.name, dtype="float32")
    if rate != SAMPLING_RATE:
        raise ValueError(f"`voice` must be one of {SAMPLING_RATE} Hz, got {voice!r} with {rate} Hz.")
    phones, ends = zip(*(phone.split(":") for phone in said.stdout.split()), strict=True)
    return samples, list(phones), list(map(float, ends))


def pause(text: str) -> str:
    """Return a text as it is said with a tenth of a second before its last word; of two words or with commas, itself.

    Args:
        text (`str`): A short sentence: `"It looks like a red heart."`
    """
    *before, last = text.split()
    return f"{' '.join(before)}, {last}" if len(before) > 1 and "," not in text else text


def spoken(
    texts: Sequence[str], voice: str, stretch: float, folder: Path, timed: bool = False, paused: bool = False
) -> Dataset:
    """Return a data set with `text`, `voice` and `flac` (bytes) of what flite says, made where it was not made before.

    Where it is `timed`, it also has `phones` and their `ends`, in seconds.

    Args:
        texts (`Sequence[str]`): Sentences.
        voice (`str`): A voice of flite's.
        stretch (`float`): How much longer it takes.
        folder (`Path`): Keeps what was made.
        timed (`bool`): Whether there are also `phones` and their `ends`, in seconds.
        paused (`bool`): Whether they are said as [`pause`] has them.
    """
    folder.mkdir(parents=True, exist_ok=True)
    disable_progress_bar()
    shards, options = [], {"voice": voice, "stretch": stretch, "timed": timed, "paused": paused}
    name = f"{voice}-{stretch:g}-{'timed-' if timed else ''}{'paused-' if paused else ''}"
    for start in range(0, len(texts), SHARD_SIZE):
        part = Dataset.from_dict({"text": list(texts[start : start + SHARD_SIZE])})
        path = folder / f"{name}{part._fingerprint}.arrow"
        if not path.exists():
            logger.info(f"{voice}: sentences {start} to {start + len(part)} ...")
        shards.append(part.map(_say, fn_kwargs=options, cache_file_name=str(path)))
    return concatenate_datasets(shards)


def asked(texts: Sequence[str], voice: Voice, path: Path) -> Dataset:
    """Return a data set with `text`, `voice` and `flac` (bytes) of what a voice says.

    Args:
        texts (`Sequence[str]`): Sentences.
        voice ([`Voice`]): Who says them.
        path (`Path`): The file that keeps it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    disable_progress_bar()
    rows = Dataset.from_dict({"text": list(texts)})
    return rows.map(_ask, fn_kwargs={"voice": voice}, cache_file_name=str(path))


def _say(row: dict[str, str], voice: str, stretch: float, timed: bool, paused: bool) -> dict[str, object]:
    text = pause(row["text"]) if paused else row["text"]
    samples, phones, ends = speak_in_time(text, voice, stretch)
    return _pack(samples, voice) | ({"phones": phones, "ends": ends} if timed else {})


def _ask(row: dict[str, str], voice: Voice) -> dict[str, object]:
    return _pack(voice.say(row["text"]), voice.key)


def _pack(samples: np.ndarray, voice: str) -> dict[str, object]:
    file = io.BytesIO()
    soundfile.write(file, samples, SAMPLING_RATE, format="FLAC")
    return {"voice": voice, "flac": file.getvalue(), "seconds": len(samples) / SAMPLING_RATE}


class Recordings:
    """Recorded texts, found by what is said.

    Args:
        parts (`list[Dataset]`): As [`spoken`] returns them.
    """

    def __init__(self, parts: list[Dataset]):
        self._rows = concatenate_datasets(parts)
        self._places: dict[str, list[int]] = {}
        for place, text in enumerate(self._rows["text"]):
            self._places.setdefault(text, []).append(place)
        self.texts = list(self._places)

    def __contains__(self, text: str) -> bool:
        return text in self._places

    def play(self, text: str, draw: random.Random) -> dict[str, object]:
        """Return a recording of `text` as a part of a message, which keeps the text for who learns to hear."""
        row = self._rows[draw.choice(self._places[text])]
        return {"type": "audio", "audio": read(row["flac"]), "sampling_rate": SAMPLING_RATE, "text": text}


def read(flac: bytes) -> np.ndarray:
    """Return the samples of a row, `(num_samples,)`, float32."""
    return soundfile.read(io.BytesIO(flac), dtype="float32")[0]
