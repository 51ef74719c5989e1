"""Rows of conversations: read from JSONL files, and held in data sets.

A row has `messages`, each with a `role` and a `content`: a text, or parts such as `{"type": "text", "text": "..."}` and
`{"type": "audio", "path": "question.wav"}`. Paths are relative to the file that names them. The files themselves are
not read here.
"""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from datasets import Dataset, Features, Json, concatenate_datasets

_NOT_LOCAL = ("http://", "https://", "data:", "file:")


def read_jsonl(path: str | Path, columns: tuple[str, ...] | list[str] = ()) -> Iterator[dict[str, Any]]:
    """Yield the rows of a JSONL file, their paths relative to where the program runs.

    Raises:
        `ValueError`: No such file, or a line that is no conversation.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"`path` of a source must be an existing file, got {str(path)!r}.")
    with path.open(encoding="utf-8-sig") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                yield normalize_row(json.loads(line), path.parent, columns)
            except ValueError as error:
                raise ValueError(f"Line {number} of {str(path)!r}: {error}") from error


def normalize_row(row: Any, root: Path | None, columns: tuple[str, ...] | list[str]) -> dict[str, Any]:
    """Return `messages` and the other columns to keep, with paths under `root` and without keys of no value."""
    messages = row.get("messages") if isinstance(row, dict) else None
    if not isinstance(messages, list) or not messages or not all(isinstance(item, dict) for item in messages):
        raise ValueError(f"A row must have `messages`, a list of dicts, got {messages!r}.")
    return {
        "messages": [_normalize_message(item, root) for item in messages],
        **{name: row.get(name) for name in columns},
    }


def _normalize_message(message: dict[str, Any], root: Path | None) -> dict[str, Any]:
    content = message.get("content")
    if isinstance(content, list):
        content = [_normalize_part(part, root) if isinstance(part, dict) else part for part in content]
    return {name: value for name, value in message.items() if value is not None} | {"content": content}


def _normalize_part(part: dict[str, Any], root: Path | None) -> dict[str, Any]:
    part = {name: value for name, value in part.items() if value is not None}
    return part if root is None else change_paths(part, lambda path: str(root / path))


def change_paths(part: dict[str, Any], change: Callable[[str], str]) -> dict[str, Any]:
    """Return a part of a message with other paths; other addresses stay as they are."""
    names = [name for name in ("path", str(part.get("type"))) if name in ("path", "image", "video", "audio")]
    paths = {name: part[name] for name in names if isinstance(part.get(name), str)}
    return part | {name: change(path) for name, path in paths.items() if not path.startswith(_NOT_LOCAL)}


def to_dataset(rows: list[dict[str, Any]], columns: tuple[str, ...] = ()) -> Dataset:
    """Return rows as a data set in which messages keep the form they have.

    Args:
        rows (`list[dict]`): All with the same keys.
        columns (`tuple[str]`): Beside `messages`, where there are no rows to tell.
    """
    names = tuple(rows[0]) if rows else ("messages", *columns)
    parts = [
        Dataset.from_dict(
            {name: [row[name] for row in rows]}, features=Features(messages=Json()) if name == "messages" else None
        )
        for name in names
    ]
    return concatenate_datasets(parts, axis=1)
