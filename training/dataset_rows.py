"""Rows of a data set by their number: a JSONL file, a folder of recordings, a saved data set, or one of the Hub.

Nothing is held in memory but the places of the rows, so that millions of them can be shared among processes.
"""

import hashlib
import json
import os
import stat
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.compute as pc
from datasets import Audio, Dataset, Features, Image, Json, LargeList, List, Value, Video, load_dataset, load_from_disk

from ..configuration_josie.unicode_text import is_unicode
from ..processing_josie.part_forms import AUDIO_SUFFIXES
from .conversations import normalize_row

_STRINGS = ("speaker", "text", "path")
_WITH_FILES = ("messages", "conversations", "audio")  # columns
_TEXTS = ("role", "type", "text", "content", "from", "value")  # of messages and parts: a string there names no file
_NO_FILES = ("data:", "http://", "https://")
_LONGEST_PATH = 4096  # a longer string is data
_FILES_AT_ONCE = 1 << 16  # whose times are remembered while rows are read

_TABLES = (".jsonl", ".csv", ".parquet")


class Rows(ABC):
    """Rows with `messages`, or with `audio`.

    Args:
        features (`Features`): The types of their columns, without `audio`.
    """

    features: Features

    @abstractmethod
    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Return a row, its paths absolute.

        Raises:
            `ValueError`: It cannot be read, or has strings that are not Unicode, which no table holds.
        """
        row = self._read(index)
        _require_unicode(row)
        return row

    @abstractmethod
    def _read(self, index: int) -> dict[str, Any]:
        """Return a row, its paths absolute."""

    @cached_property
    def fingerprint(self) -> str:
        """The hash of the rows, and of the sizes and times of the files that they name, which are not read."""
        digest = hashlib.sha256()
        for piece in self._identify(lru_cache(_FILES_AT_ONCE)(_date_file)):
            digest.update(piece)
        return digest.hexdigest()

    @abstractmethod
    def _identify(self, date: Callable[[Path], bytes]) -> Iterator[bytes]:
        """Yield what tells these rows from others.

        Args:
            date (`Callable`): Size and time of a file.
        """


class JsonlRows(Rows):
    """The lines of a JSONL file of conversations; paths are relative to the file."""

    def __init__(self, path: Path):
        self.path, self.offsets = path, []
        offset, names = 0, {"messages"}
        with path.open("rb") as lines:
            for line in lines:
                if line.strip():
                    self.offsets.append(offset)
                    names |= _keys_of(line)
                offset += len(line)
        self.columns = sorted(names - {"messages"})
        kinds = {name: Value("string") if name in _STRINGS else Json() for name in self.columns}
        self.features = Features(messages=Json(), **kinds)

    def __len__(self) -> int:
        return len(self.offsets)

    def _read(self, index: int) -> dict[str, Any]:
        """Return the row of a line."""
        with self.path.open("rb") as file:
            file.seek(self.offsets[index])
            given = _parse(file.readline())
        _require_unicode(given)  # the names of columns too
        row = normalize_row(given, self.path.absolute().parent, self.columns)
        for name in _STRINGS:
            if type(row.get(name)) is int:  # as of speakers that are numbers
                row[name] = str(row[name])
            if not isinstance(row.get(name), str | None):
                raise ValueError(f"`{name}` of a row must be a string, got {row[name]!r:.200}.")
        return row

    def _identify(self, date: Callable[[Path], bytes]) -> Iterator[bytes]:
        """Yield each line, and its files' sizes and times."""
        root = self.path.absolute().parent
        with self.path.open("rb") as lines:
            for line in lines:
                yield line
                row = _parse_or_none(line)
                for column in _WITH_FILES if isinstance(row, dict) else ():
                    yield from (date(root / name) for name in _list_names(row.get(column)))


class AudioFileRows(Rows):
    """The recordings of a folder; `x.txt` beside `x.wav` is its text."""

    features = Features(path=Value("string"), text=Value("string"))

    def __init__(self, folder: Path):
        self.folder = folder.absolute()
        self.files = sorted(path.absolute() for path in folder.rglob("*") if path.suffix.lower() in AUDIO_SUFFIXES)

    def __len__(self) -> int:
        return len(self.files)

    def _read(self, index: int) -> dict[str, Any]:
        """Return a file with its text."""
        path, text = self.files[index], self.files[index].with_suffix(".txt")
        said = text.read_text(encoding="utf-8-sig").strip() if text.is_file() else None
        return {"audio": str(path), "path": str(path), "text": said}

    def _identify(self, date: Callable[[Path], bytes]) -> Iterator[bytes]:
        """Yield each file's name, size and time, and its text."""
        for path in self.files:
            yield os.fsencode(f"{path.relative_to(self.folder)}:") + date(path)
            if path.with_suffix(".txt").is_file():
                yield path.with_suffix(".txt").read_bytes()


class DatasetRows(Rows):
    """The rows of a data set with a column `messages` or `audio`."""

    def __init__(self, dataset: Dataset, root: Path | None):
        self.root = root
        names, own_fingerprint = dataset.column_names, dataset._fingerprint
        if "messages" not in names and "audio" not in names:
            raise ValueError(f"`DATASET` must have a column `messages` or `audio`, got {names}.")
        self.dataset, self.own_fingerprint = dataset, own_fingerprint
        self._table: Any = dataset.with_format("arrow")  # whose files are left as they are
        self._kinds = Features(_change_kinds(dict(dataset.features), _not_decoded))
        others = {name: kind for name, kind in dataset.features.items() if name not in ("audio", "messages")}
        kept = _change_kinds(others, _written_as_read)
        self.features = Features(**({"messages": Json()} if "messages" in names else {}), **kept)

    def __len__(self) -> int:
        return len(self.dataset)

    def _read(self, index: int) -> dict[str, Any]:
        """Return a row; files in it are their bytes and names, whatever they hold."""
        row = self._kinds.decode_example({name: cells[0] for name, cells in self._table[index].to_pydict().items()})
        columns = [name for name in row if name != "messages"]
        return normalize_row(row, self.root, columns) if "messages" in row else dict(row)

    def _identify(self, date: Callable[[Path], bytes]) -> Iterator[bytes]:
        """Yield the data set's own fingerprint, and the sizes and times of files beside it; none inside it is read."""
        yield self.own_fingerprint.encode()
        root = self.root or Path()
        for column in (name for name in _WITH_FILES if name in self.dataset.column_names):
            tables: Any = self.dataset.select_columns([column]).with_format("arrow").iter(batch_size=1000)
            for chunk in (chunk for table in tables for chunk in table.column(0).chunks):
                yield from (date(root / name) for name in _list_arrow_names(chunk))


class _AsRead:
    """A column of files whose cells are written as they are read, to the byte, without a decoder."""

    def encode_example(self, value: Any) -> Any:
        """Return a dict of `bytes` and `path` as it is."""
        return value


class _AudioAsRead(_AsRead, Audio):
    """Recordings, which tables call `Audio`."""


class _ImageAsRead(_AsRead, Image):
    """Images, which tables call `Image`."""


class _VideoAsRead(_AsRead, Video):
    """Videos, which tables call `Video`."""


_AS_READ: dict[type, type] = {Audio: _AudioAsRead, Image: _ImageAsRead, Video: _VideoAsRead}


def _change_kinds(kind: Any, change: Callable[[Any], Any]) -> Any:
    """Return types of columns in which those of files are changed, nested ones too."""
    if isinstance(kind, dict):
        return {name: _change_kinds(value, change) for name, value in kind.items()}
    if isinstance(kind, (List, LargeList)):
        return replace(kind, feature=_change_kinds(kind.feature, change))
    holds_files = hasattr(kind, "decode") and hasattr(kind, "decode_example") and not isinstance(kind, Json)
    return change(kind) if holds_files else kind


def _not_decoded(kind: Any) -> Any:
    return replace(kind, decode=False)


def _written_as_read(kind: Any) -> Any:
    values = {field.name: getattr(kind, field.name) for field in fields(kind) if field.init}
    return _AS_READ.get(type(kind), type(kind))(**values)


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


def _parse(line: bytes) -> Any:
    """Return the value of a line of JSON.

    Raises:
        `ValueError`: It is not JSON in UTF-8, or nested too deeply to be read.
    """
    try:
        return json.loads(line.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise ValueError(f"A row must be in UTF-8, got bytes that are not: {error}.") from error
    except (ValueError, RecursionError) as error:
        raise ValueError(f"A row must be JSON that can be read, got {line[:100]!r}: {error}.") from error


def _parse_or_none(line: bytes) -> Any:
    """Return the value of a line, `None` for one that is listed as broken when it is read."""
    try:
        return _parse(line)
    except ValueError:
        return None


def _keys_of(line: bytes) -> set[str]:
    row = _parse_or_none(line)
    return {name for name in row if is_unicode(name)} if isinstance(row, dict) else set()


def _require_unicode(row: Any) -> None:
    """Raise a `ValueError` if a row has a string, or a name, with lone surrogates."""
    waiting = [row]  # and no recursion, which deep rows would end
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            waiting += [*value, *value.values()]
        elif isinstance(value, (list, tuple)):
            waiting += [item for item in value if isinstance(item, (str, dict, list, tuple))]
        elif isinstance(value, str) and not is_unicode(value):
            raise ValueError(f"A row must have strings in Unicode, got a lone surrogate in {value!r:.200}.")


def _date_file(path: Path) -> bytes:
    """Return size and time of a file; the same of whatever is none, which is listed as broken when it is read."""
    try:
        found = os.stat(path)
    except (OSError, ValueError):  # ValueError: the string has a zero
        return b"-\n"
    return f"{found.st_size}:{found.st_mtime_ns}\n".encode() if stat.S_ISREG(found.st_mode) else b"-\n"


def _list_names(value: Any) -> list[str]:
    """Return the strings of messages that may name files."""
    waiting, names = [value], []
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            waiting += [item for name, item in value.items() if name not in _TEXTS or not isinstance(item, str)]
        elif isinstance(value, list):
            waiting += [item for item in value if isinstance(item, (str, dict, list))]
        elif isinstance(value, str) and len(value) <= _LONGEST_PATH and not value.startswith(_NO_FILES):
            names.append(unquote(value.removeprefix("file://")) if value.startswith("file://") else value)
    return names


def _list_arrow_names(array: Any) -> Iterator[str]:
    """Yield the strings of a column that may name files; the bytes beside them are left on the disk."""
    kind = array.type
    if isinstance(kind, pa.BaseExtensionType):  # JSON
        for text in array.storage.to_pylist():
            yield from _list_names(None if text is None else json.loads(text))
    elif pa.types.is_struct(kind):
        fields = {field.name: values for field, values in zip(kind, array.flatten(), strict=True)}
        if {"bytes", "path"} <= fields.keys():  # a file inside the data set keeps its name
            fields["path"] = pc.if_else(pc.is_null(fields["bytes"]), fields["path"], None)
        for name, values in fields.items():
            if name not in _TEXTS or not _is_string(values.type):
                yield from _list_arrow_names(values)
    elif pa.types.is_list(kind) or pa.types.is_large_list(kind):
        yield from _list_arrow_names(array.flatten())
    elif _is_string(kind):
        yield from _list_names(array.to_pylist())


def _is_string(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)
