"""Rows of a data set by their number: a JSONL file, a folder of recordings, a saved data set, or one of the Hub.

Nothing is held in memory but the places of the rows, so that millions of them can be shared among processes.
"""

import hashlib
import json
import os
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

from datasets import Audio, Dataset, Features, Json, Value, load_dataset, load_from_disk

from ..processing_josie.part_forms import AUDIO_SUFFIXES
from .conversations import normalize_row

_STRINGS = ("speaker", "text", "path")

_TABLES = (".jsonl", ".csv", ".parquet")


class Rows(ABC):
    """Rows with `messages`, or with `audio`.

    Args:
        features (`Features`): The types of their columns, without `audio`.
        fingerprint (`str`): Equal for equal rows.
    """

    features: Features
    fingerprint: str

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def __getitem__(self, index: int) -> dict[str, Any]:
        """Return a row, its paths absolute.

        Raises:
            `ValueError`: It cannot be read.
        """


class JsonlRows(Rows):
    """The lines of a JSONL file of conversations; paths are relative to the file."""

    def __init__(self, path: Path):
        self.path, self.offsets = path, []
        digest, offset, names = hashlib.sha256(), 0, {"messages"}
        with path.open("rb") as lines:
            for line in lines:
                digest.update(line)
                if line.strip():
                    self.offsets.append(offset)
                    names |= _keys_of(line)
                offset += len(line)
        self.fingerprint = digest.hexdigest()
        self.columns = sorted(names - {"messages"})
        kinds = {name: Value("string") if name in _STRINGS else Json() for name in self.columns}
        self.features = Features(messages=Json(), **kinds)

    def __len__(self) -> int:
        return len(self.offsets)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Return the row of a line."""
        with self.path.open("rb") as file:
            file.seek(self.offsets[index])
            line = file.readline().decode("utf-8-sig")
        return normalize_row(json.loads(line), self.path.absolute().parent, self.columns)


class AudioFileRows(Rows):
    """The recordings of a folder; `x.txt` beside `x.wav` is its text."""

    features = Features(path=Value("string"), text=Value("string"))

    def __init__(self, folder: Path):
        self.files = sorted(path.absolute() for path in folder.rglob("*") if path.suffix.lower() in AUDIO_SUFFIXES)
        digest = hashlib.sha256()
        for path in self.files:
            digest.update(os.fsencode(f"{path.relative_to(folder.absolute())}:{path.stat().st_size}\n"))
            if path.with_suffix(".txt").is_file():
                digest.update(path.with_suffix(".txt").read_bytes())
        self.fingerprint = digest.hexdigest()

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Return a file with its text."""
        path, text = self.files[index], self.files[index].with_suffix(".txt")
        said = text.read_text(encoding="utf-8-sig").strip() if text.is_file() else None
        return {"audio": str(path), "path": str(path), "text": said}


class DatasetRows(Rows):
    """The rows of a data set with a column `messages` or `audio`."""

    def __init__(self, dataset: Dataset, root: Path | None):
        self.root, self.fingerprint = root, dataset._fingerprint
        names = dataset.column_names
        if "messages" not in names and "audio" not in names:
            raise ValueError(f"`DATASET` must have a column `messages` or `audio`, got {names}.")
        if isinstance(dataset.features.get("audio"), Audio):
            dataset = dataset.cast_column("audio", Audio(decode=False))
        self.dataset = dataset
        kept = {name: kind for name, kind in dataset.features.items() if name not in ("audio", "messages")}
        self.features = Features(**({"messages": Json()} if "messages" in names else {}), **kept)

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Return a row."""
        row = self.dataset[index]
        columns = [name for name in row if name != "messages"]
        return normalize_row(row, self.root, columns) if "messages" in row else dict(row)


def open_rows(name: str, split: str = "train") -> Rows:
    """Return the rows of a data set.

    Args:
        name (`str`): A JSONL file; a folder of recordings, of a data set that was saved, or of its files; or the name
            of a data set of the Hub.
        split (`str`): The split, where there are several.

    Raises:
        `ValueError`: There is no such data set or split, it is empty, or it has neither conversations nor audio; or a
            folder has rows and recordings.
    """
    path = Path(name)
    has_audio = path.is_dir() and any(file.suffix.lower() in AUDIO_SUFFIXES for file in path.rglob("*"))
    # Recordings with a table, as `datasets` reads them.
    is_described = path.is_dir() and any(file.suffix in _TABLES for file in path.rglob("metadata.*"))
    if split != "train" and (path.is_file() or (path / "state.json").is_file() or (has_audio and not is_described)):
        raise ValueError(f"`--split` must be left out for {name!r}, which has no splits, got {split!r}.")
    if path.is_file():
        if path.suffix not in (".jsonl", ".json"):
            raise ValueError(f"`DATASET` must be a JSONL file, a folder or a name of the Hub, got {name!r}.")
        rows: Rows = JsonlRows(path)
    elif path.is_dir() and (path / "state.json").is_file():
        rows = DatasetRows(load_from_disk(name), None)  # type: ignore[arg-type]
    elif (path / "dataset_dict.json").is_file():
        splits: Any = load_from_disk(name)
        if split not in splits:
            raise ValueError(f"`--split` must be one of {list(splits)}, got {split!r}.")
        rows = DatasetRows(splits[split], None)
    elif has_audio and not is_described:
        tables = [file for file in sorted(path.iterdir()) if file.suffix in _TABLES]
        if tables:
            raise ValueError(
                f"`DATASET` must be recordings or rows, got {name!r} with both: name the rows, {str(tables[0])!r}, or "
                "a folder of recordings alone."
            )
        rows = AudioFileRows(path)
    else:
        try:
            rows = DatasetRows(load_dataset(name, split=split), path.absolute() if path.is_dir() else None)  # type: ignore[arg-type]
        except (FileNotFoundError, ConnectionError) as error:
            raise ValueError(
                f"`DATASET` must be a JSONL file, a folder with data or a name of the Hub, got {name!r}: {error}"
            ) from error
    if not len(rows):
        raise ValueError(f"`DATASET` must have rows, got none in {name!r}.")
    return rows


def _keys_of(line: bytes) -> set[str]:
    try:
        row = json.loads(line.decode("utf-8-sig"))
    except ValueError:  # listed as broken when it is read
        return set()
    return set(row) if isinstance(row, dict) else set()
