"""Conversations for training: JSONL files, data sets of the Hub, and whatever a recipe adds to `SOURCES`.

A row has `messages`, each with a `role` and a `content`: a text, or parts such as `{"type": "text", "text": "..."}` and
`{"type": "audio", "path": "question.wav"}`. The paths of images, videos and audio are relative to the file. Nothing
of them is read here: that is the collator's work.

Which split a row is in depends on its messages, wherever their files are, and the seed alone, unless its source has
splits of its own.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from datasets import Dataset, IterableDataset, concatenate_datasets

from josie.training.conversations import change_paths, normalize_row, read_jsonl, to_dataset
from josie.training.encode_shards import read_plan, require_complete
from recipes.data_sets import load_source
from recipes.speech_rows import load_speech_rows
from recipes.streams import endless_stream, read_rows

SPLITS = ("train", "validation", "test")


@dataclass
class ConversationDataArguments:
    """The conversations of a recipe.

    Args:
        sources (`list[dict]`): Each with a `name`: `"jsonl"` (with `path`, and `split` for a file that is of one split
            alone), `"datasets"` (with what `load_dataset` takes, and `root`, the folder that paths are relative to),
            `"speech"` (see [`recipes.speech_rows`]), or another one of `SOURCES`.
        columns (`list[str]`): What rows keep beside `messages`; `None` in those without.
        streaming (`bool`): Train on streams, which are never in memory; several are mixed row by row.
        shuffle_buffer (`int`): Rows of a stream among which the next one is drawn; below 2, they keep their order.
        validation_share, test_share (`float`): Of all rows.
        max_validation_rows (`int`): More of them are not used, of all sources together; of a stream, the first.
        seed (`int`): Of splits and orders.
        folder (`str`): Where codes of speech are kept.
        audio_features (`bool`): Read what `josie encode --features` wrote of the clips that are heard, in place of
            their audio. All sources must have it, and the audio encoder be frozen.
    """

    sources: list[dict[str, Any]] = field(default_factory=list)
    columns: list[str] = field(default_factory=list)
    streaming: bool = False
    shuffle_buffer: int = 1000
    validation_share: float = 0.02
    test_share: float = 0.0
    max_validation_rows: int = 200
    seed: int = 0
    folder: str = "runs/data/conversations"
    audio_features: bool = False

    def __post_init__(self):
        for source in self.sources:
            if not isinstance(source, dict) or source.get("name") not in SOURCES:
                raise ValueError(f"`data.sources` must be of {sorted(SOURCES)}, got {source!r}.")
        if not self.sources:
            raise ValueError(f"`data.sources` must name at least one of {sorted(SOURCES)}, got none.")
        if self.audio_features:
            others = [source for source in self.sources if source["name"] != "datasets"]
            if others:
                raise ValueError(
                    "`data.audio_features` must be false with sources other than folders of `josie encode --features` "
                    f"(`datasets`), got {others}."
                )
            self.columns = [*self.columns, "audio_features"]
        shares = (self.validation_share, self.test_share)
        if min(shares) < 0 or sum(shares) >= 1:
            raise ValueError(
                f"`data.validation_share` and `data.test_share` must be at least 0 and below 1 together, got {shares}."
            )
        for name in ("shuffle_buffer", "max_validation_rows"):
            if getattr(self, name) < 0:
                raise ValueError(f"`data.{name}` must be at least 0, got {getattr(self, name)}.")


# Rows of a source by their split, or all rows, which are split here; streams where the arguments ask for them.
Loaded = dict[str, Dataset | IterableDataset] | Dataset | IterableDataset
Source = Callable[[dict[str, Any], ConversationDataArguments], Loaded]


def load_conversations(
    arguments: ConversationDataArguments, keep: Callable[[dict[str, Any]], bool] | None = None
) -> dict[str, Dataset | IterableDataset]:
    """Return the rows of each split, of all sources together.

    Args:
        arguments ([`ConversationDataArguments`]): Which.
        keep (`Callable`, *optional*): Whether a row is used; all are when `None`.

    Returns:
        `train`, a `Dataset`, or an `IterableDataset` without end; and, as `Dataset`s, `validation` and `test`, those of
        a stream cut at `max_validation_rows`.

    Raises:
        `ValueError`: A source that cannot be read, or nothing to train on.
    """
    found: dict[str, list[Any]] = {split: [] for split in SPLITS}
    for source in arguments.sources:
        options = {name: value for name, value in source.items() if name != "name"}
        loaded = SOURCES[source["name"]](options, arguments)
        for split, rows in (loaded if isinstance(loaded, dict) else split_rows(loaded, arguments)).items():
            found[split].append(rows if keep is None else rows.filter(keep))
    result = {
        split: _join_held_out(parts, None if split == "test" and not arguments.streaming else arguments)
        for split, parts in found.items()
        if split != "train"
    }
    if not arguments.streaming:
        train = _join_held_out(found["train"], None)
        if not len(train):
            raise ValueError("`data` must leave conversations to train on, got none.")
        return {"train": train, **result}
    if all(next(iter(rows), None) is None for rows in found["train"]):
        raise ValueError("`data` must leave conversations to train on, got none.")
    return {"train": endless_stream(found["train"], arguments.seed, arguments.shuffle_buffer), **result}


def _join_held_out(parts: list[Any], limit: ConversationDataArguments | None) -> Dataset:
    """Return rows of all sources as one data set, of streams too, at most as many as a limit says."""
    parts = [part for part in parts if not isinstance(part, Dataset) or len(part)]
    if limit is not None:
        share, rest = divmod(limit.max_validation_rows, max(len(parts), 1))
        parts = [
            part.select(range(min(len(part), most))) if isinstance(part, Dataset) else list(part.take(most))
            for part, most in ((part, share + (place < rest)) for place, part in enumerate(parts))
        ]
    joined = [part if isinstance(part, Dataset) else to_dataset(part) for part in parts]
    return concatenate_datasets(joined) if joined else to_dataset([])


def split_rows(rows: Dataset | IterableDataset, arguments: ConversationDataArguments) -> dict[str, Any]:
    """Return the rows of each split; those without rows to expect are left out."""
    if isinstance(rows, IterableDataset):
        return {
            split: IterableDataset.from_generator(
                _rows_of_split, gen_kwargs={"rows": rows, "split": split, "arguments": arguments}
            )
            for split in SPLITS
            if split == "train" or getattr(arguments, f"{split}_share") > 0
        }
    chosen = [choose_split(messages, arguments) for messages in rows["messages"]]
    return {split: rows.select([index for index, name in enumerate(chosen) if name == split]) for split in SPLITS}


def _rows_of_split(rows: IterableDataset, split: str, arguments: ConversationDataArguments) -> Iterator[dict[str, Any]]:
    for row in read_rows(rows):
        if choose_split(row["messages"], arguments) == split:
            yield row


def choose_split(messages: list[dict[str, Any]], arguments: ConversationDataArguments) -> str:
    """Return the split of a conversation, the same wherever its files are."""
    text = f"{arguments.seed}:{json.dumps([_without_folders(message) for message in messages], sort_keys=True)}"
    place = int.from_bytes(hashlib.sha256(text.encode()).digest()[:6], "big") / 2**48
    if place < arguments.test_share:
        return "test"
    return "validation" if place < arguments.test_share + arguments.validation_share else "train"


def _without_folders(message: dict[str, Any]) -> dict[str, Any]:
    content = message.get("content")
    if isinstance(content, list):
        content = [change_paths(part, _file_name) if isinstance(part, dict) else part for part in content]
    return message | {"content": content}


def _file_name(path: str) -> str:
    return Path(path).name


def date_files(parts: list[dict[str, Any]]) -> list[tuple[int, int]]:
    """Return size and time of the files that content parts name: other ones may come under the same name."""
    texts = [value for part in parts for value in part.values() if isinstance(value, str)]
    stats = [os.stat(text) for text in texts if os.path.isfile(text)]  # of a text of any length, data: among them
    return [(stat.st_size, stat.st_mtime_ns) for stat in stats]


def find_encodings(source: dict[str, Any]) -> list[Path]:
    """Return the folders of `josie encode` among what a source reads.

    Args:
        source (`dict`): With what `load_dataset` takes: the folder, or files of it, may be named in any way.
    """
    path = source.get("path")
    names = [Path(name) for name in (path, source.get("data_dir")) if isinstance(name, str)] + _list_files(source)
    roots = [Path(), Path(path)] if isinstance(path, str) else [Path()]
    found: dict[Path, None] = {}
    for place in (root / name for root in roots for name in names):
        # Where shards are named and not their folder, it is above `data`.
        inside = [folder.parent for folder in (place, *place.parents) if folder.name == "data"]
        found |= {folder: None for folder in (place, *inside) if {"num_rows", "shard_rows"} <= read_plan(folder).keys()}
    return list(found)


def _list_files(source: dict[str, Any]) -> list[Path]:
    """Return the files that a source names one by one, or by patterns."""
    files = source.get("data_files")
    named = [
        name
        for each in (files.values() if isinstance(files, dict) else [files])
        for name in (each if isinstance(each, list) else [each])
    ]
    return [Path(name) for name in named if isinstance(name, str)]


def _jsonl(options: dict[str, Any], arguments: ConversationDataArguments) -> Loaded:
    path, split = options.get("path"), options.get("split")
    if not isinstance(path, str) or options.keys() - {"path", "split"} or split not in (None, *SPLITS):
        raise ValueError(f"A source 'jsonl' must have `path` and perhaps `split` of {list(SPLITS)}, got {options!r}.")
    if arguments.streaming:
        next(read_jsonl(path), None)  # what is wrong with it is said at once
        given: Any = {"path": path, "columns": tuple(arguments.columns)}
        rows: Any = IterableDataset.from_generator(read_jsonl, gen_kwargs=given)
    else:
        rows = to_dataset(list(read_jsonl(path, arguments.columns)), tuple(arguments.columns))
    return rows if split is None else {split: rows}


def _datasets(options: dict[str, Any], arguments: ConversationDataArguments) -> Loaded:
    root = options.get("root")
    if not isinstance(root, str | None):
        raise ValueError(f"`root` of a source must be the name of a folder, got {root!r}.")
    options = {"split": "train"} | {name: value for name, value in options.items() if name != "root"}
    is_part = "data_files" in options and "*" not in repr(options["data_files"])
    for folder in find_encodings(options):
        require_complete(folder, {path.name for path in _list_files(options)} if is_part else None)
    loaded = load_source(options, arguments.streaming)
    given = {"dataset": loaded, "root": Path(root) if root else None, "columns": tuple(arguments.columns)}
    if arguments.streaming:
        return IterableDataset.from_generator(_normalize, gen_kwargs=given)
    return to_dataset(list(_normalize(**given)), tuple(arguments.columns))


def _normalize(dataset: Any, root: Path | None, columns: tuple[str, ...]) -> Iterator[dict[str, Any]]:
    for row in read_rows(dataset):
        yield normalize_row(row, root, columns)


def _speech(options: dict[str, Any], arguments: ConversationDataArguments) -> Loaded:
    if arguments.streaming:
        raise ValueError("`data.streaming` must be false with a source 'speech', got true.")
    return load_speech_rows(options, arguments.columns)


SOURCES: dict[str, Source] = {"jsonl": _jsonl, "datasets": _datasets, "speech": _speech}
