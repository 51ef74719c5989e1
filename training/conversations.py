"""Rows of conversations: read from JSONL files, and held in data sets.

A row has `messages`, each with a `role` and a `content`: a text, or parts such as `{"type": "text", "text": "..."}` and
`{"type": "audio", "path": "question.wav"}`. Paths are relative to the file that names them. The files themselves are
not read here.
"""

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from datasets import Dataset, Features, Json, concatenate_datasets

from ..processing_josie.message_forms import row_messages
from ..processing_josie.messages import change_paths


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
    """Return `messages` in JOSIE's form and the other columns to keep, with paths under `root`.

    Args:
        row (`dict`): With `messages`, or in another form of conversations, see [`row_messages`].
        root (`Path`, *optional*): Folder of relative paths; they stay as they are when `None`.
        columns (`tuple[str, ...]`): Names of the other columns; `None` where the row has none of that name.
    """
    if not isinstance(row, dict):
        raise ValueError(f"A row must have `messages`, a list of dicts, got {row!r}.")
    messages = row_messages(row)
    if root is not None:
        messages = [_move_message(message, root) for message in messages]
    return {"messages": messages, **{name: row.get(name) for name in columns}}


def _move_message(message: dict[str, Any], root: Path) -> dict[str, Any]:
    if not isinstance(message.get("content"), list):
        return message
    move = partial(change_paths, change=lambda path: str(root / path))
    return message | {"content": [move(part) if isinstance(part, dict) else part for part in message["content"]]}


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
