"""Folders of recordings with their texts: beside each, or in one table, as corpora have them.

| texts | as of |
| --- | --- |
| `x.txt` beside `x.wav` | many |
| `metadata.csv` of the folder, lines of `x|text`, or `x|text|text without digits and abbreviations` | LJSpeech |
| `text` or `*.trans.txt` in any folder, lines of `x text` | Kaldi; LibriSpeech |
"""

import logging
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from josie.processing_josie.audio_files import open_audio
from josie.processing_josie.part_forms import AUDIO_SUFFIXES
from josie.processing_josie.sources import describe_source

logger = logging.getLogger("josie.examples.speech_data")

_TABLES = ("text", "*.trans.txt")


def list_folder(source: dict[str, Any]) -> Iterable[dict[str, Any]]:
    """Yield the clips of a folder of audio files, as lines of a manifest.

    Args:
        source (`dict`): With `path`, and perhaps `language` and `licence`.

    Raises:
        `ValueError`: There is no such folder, no audio in it, or a text that cannot be read.
    """
    folder = find_folder(source)
    texts, found = _read_metadata(folder) | _read_tables(folder), False
    for path in sorted(path for path in folder.rglob("*") if path.suffix.lower() in AUDIO_SUFFIXES):
        seconds = measure(path)
        if seconds is None:
            continue
        found = True
        text = path.with_suffix(".txt")
        yield {
            "path": str(path.resolve()),
            "seconds": seconds,
            "text": _read_text(text).strip() if text.exists() else texts.get(path.stem),
            "language": source.get("language"),
            "speaker": path.parent.parent.name if path.parent.name == "wavs" else path.parent.name,
            "source": folder.name,
            "licence": source.get("licence", "not stated"),
        }
    if not found:
        raise ValueError(f"`data.sources` must give a folder with audio that can be read, got {str(folder)!r}.")


def _read_metadata(folder: Path) -> dict[str, str]:
    """Return the texts of a folder's `metadata.csv`, of the last column that has one, by the names of clips."""
    path = folder / "metadata.csv"
    lines = [line for line in _read_text(path).split("\n") if line.strip()] if path.exists() else []
    rows = [line.rstrip("\r").split("|") for line in lines]
    for number, row in enumerate(rows, 1):
        if len(row) < 2:
            raise ValueError(
                "`data.sources` must have `name|text` in the lines of a folder's metadata.csv ('datasets' reads other "
                f"tables), got line {number} of {str(path)!r}: {lines[number - 1]!r}."
            )
    return {Path(row[0]).stem: row[2 if len(row) > 2 and row[2].strip() else 1].strip() for row in rows}


def _read_tables(folder: Path) -> dict[str, str]:
    """Return the texts of all tables of a folder, and of folders in it, by the names of clips."""
    paths = sorted(path for name in _TABLES for path in folder.rglob(name) if path.is_file())
    lines = [line.split(maxsplit=1) for path in paths for line in _read_text(path).split("\n")]
    return {line[0]: line[1].strip() for line in lines if len(line) == 2}


def as_sentence(text: str) -> str:
    """Return a text that is in capitals alone, as those of many corpora, as a sentence; others as they are."""
    if not text.isupper():
        return text
    sentence = re.sub(r"\bi\b", "I", text.lower())
    return sentence[:1].upper() + sentence[1:]


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"`data.sources` must have texts in UTF-8, got {str(path)!r}: {error}.") from error


def find_folder(source: dict[str, Any]) -> Path:
    """Return the `path` of a source.

    Raises:
        `ValueError`: It has none, or it is no folder.
    """
    folder = Path(source.get("path", ""))
    if "path" not in source or not folder.is_dir():
        raise ValueError(f"`data.sources` must give an existing folder as `path`, got {source.get('path')!r}.")
    return folder


def measure(audio: str | bytes | Path) -> float | None:
    """Return the seconds of an audio file, or `None`, and log why, if it cannot be read."""
    try:
        with open_audio(audio) as file:
            return round(file.num_samples / file.sampling_rate, 4)
    except (ValueError, ImportError) as error:
        logger.warning(f"Skipped {describe_source(audio)}: {error}")
        return None
