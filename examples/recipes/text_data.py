"""Texts for training, and blocks of tokens made of them.

| source | what |
| --- | --- |
| `debian` | texts of Debian packages, as `debian_texts.py` reads them: `texts` names some, or all |
| `folder` | the `.txt` files of a folder, `path`; a text is a file, or with `by="line"` or `"paragraph"` a part of it |
| `datasets` | what `load_dataset` takes, and `text_column`; rows without a text are left out |

Which split a text is in depends on its words and the seed alone: a text that comes twice is in one split.
"""

import codecs
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from datasets import Dataset, IterableDataset, concatenate_datasets, interleave_datasets
from transformers import PreTrainedTokenizerBase

from josie.configuration_josie.constants import IGNORE_INDEX
from josie.conversion.files import write_file
from recipes import debian_texts
from recipes.data_sets import describe_unreadable, load_source
from recipes.debian import fetch_package
from recipes.places import make_folder
from recipes.progress import progress
from recipes.streams import endless_stream

# Name of a text: the packages it comes from, and what reads it.
TEXTS: dict[str, tuple[tuple[str, ...], Callable[[Path], Iterator[str]]]] = {
    "bible": (("bible-kjv", "bible-kjv-text"), debian_texts.bible),
    "wordnet": (("wordnet-base",), debian_texts.wordnet),
    "fortunes": (("fortunes-min", "fortunes"), debian_texts.fortunes),
    "fillets": (("fillets-ng-data",), debian_texts.fillets),
    "asterisk": (("asterisk-core-sounds-en",), debian_texts.asterisk),
}


@dataclass
class TextDataArguments:
    """The texts of a recipe.

    Args:
        sources (`list[dict]`): Each with a `name` of the table above, and what it asks for.
        folder (`str`): Where texts that are fetched and blocks that are made are kept.
        streaming (`bool`): Train on a stream, which is never in memory or on disk; several are mixed text by text.
        shuffle_buffer (`int`): Texts of a stream among which the next one is drawn; below 2, they keep their order.
        block_size (`int`): Tokens in a block.
        mask_documents (`bool`): Let no text see the one before it in its block, and none predict the next one's start.
        validation_share (`float`): Of all texts.
        max_validation_blocks (`int`): More of them are not used.
        seed (`int`): Of splits and orders.
    """

    sources: list[dict[str, Any]] = field(default_factory=list)
    folder: str = "runs/data/text"
    streaming: bool = False
    shuffle_buffer: int = 1000
    block_size: int = 256
    mask_documents: bool = False
    validation_share: float = 0.02
    max_validation_blocks: int = 200
    seed: int = 0

    def __post_init__(self):
        for source in self.sources:
            if not isinstance(source, dict) or source.get("name") not in _SOURCES:
                raise ValueError(f"`data.sources` must be of {sorted(_SOURCES)}, got {source!r}.")
            options = _OPTIONS.get(source["name"])  # of `datasets`, it is `load_dataset` that knows them
            for option in source:
                if options is not None and option not in ("name", *options):
                    raise ValueError(
                        f"`data.sources` must hold {['name', *options]} of the source {source['name']!r}, "
                        f"got {option!r}."
                    )
        if not self.sources:
            raise ValueError(f"`data.sources` must name at least one of {sorted(_SOURCES)}, got none.")
        if self.block_size < 2:
            raise ValueError(f"`data.block_size` must be at least 2, got {self.block_size}.")
        for name in ("shuffle_buffer", "max_validation_blocks"):
            if getattr(self, name) < 0:
                raise ValueError(f"`data.{name}` must be at least 0, got {getattr(self, name)}.")
        if not 0 <= self.validation_share < 1:
            raise ValueError(f"`data.validation_share` must be at least 0 and below 1, got {self.validation_share}.")


def load_blocks(
    arguments: TextDataArguments, tokenizer: PreTrainedTokenizerBase
) -> tuple[Dataset | IterableDataset, Dataset]:
    """Return blocks of tokens to train on, a stream without end if that is asked for, and blocks to validate with.

    Args:
        arguments ([`TextDataArguments`]): Which texts.
        tokenizer ([`PreTrainedTokenizerBase`]): With tokens for the beginning and the end of a text.

    Raises:
        `ValueError`: A source that cannot be read, or not one block to train on.
    """
    if tokenizer.bos_token_id is None or tokenizer.eos_token_id is None:
        raise ValueError("`tokenizer` must have tokens for the beginning and the end of a text, got one without.")
    loaded = [_SOURCES[source["name"]](source, arguments) for source in arguments.sources]
    texts: Any = loaded[0]
    if len(loaded) > 1 and arguments.streaming:
        texts = interleave_datasets(loaded, stopping_strategy="all_exhausted_without_replacement")
    elif len(loaded) > 1:
        texts = concatenate_datasets(loaded)
    make = partial(make_blocks, tokenizer=tokenizer, size=arguments.block_size, is_masked=arguments.mask_documents)
    parts = {
        name: texts.filter(partial(_is_of_split, name=name, share=arguments.validation_share, seed=arguments.seed))
        for name in ("train", "validation")
    }
    held_out = islice(
        make(iter(parts["validation"])) if arguments.validation_share else [], arguments.max_validation_blocks
    )
    validation = Dataset.from_list(list(held_out))
    if next(make(iter(parts["train"])), None) is None:
        raise ValueError(f"`data` must have a block of {arguments.block_size} tokens to train on, got none.")
    if arguments.streaming:
        return endless_stream(parts["train"], arguments.seed, arguments.shuffle_buffer, make), validation
    train: Any = Dataset.from_generator(
        _generate, gen_kwargs={"texts": parts["train"], "make": make}, cache_dir=f"{arguments.folder}/blocks"
    )
    return train, validation


def _generate(texts: Dataset, make: Callable) -> Iterator[dict[str, list[int]]]:
    yield from make(iter(texts))


def make_blocks(
    texts: Iterable[dict[str, str]], tokenizer: PreTrainedTokenizerBase, size: int, is_masked: bool = False
) -> Iterator[dict[str, list[int]]]:
    """Yield blocks of texts that follow each other without gaps; what does not fill the last block is left out.

    Args:
        texts (`Iterable[dict]`): Rows with `text`.
        tokenizer ([`PreTrainedTokenizerBase`]): A text is between its tokens for beginning and end.
        size (`int`): Tokens in a block.
        is_masked (`bool`): Also count `position_ids` from the start of each text, by which the model knows where one
            ends, and learn no text's first token.
    """
    ids: list[int] = []
    positions: list[int] = []
    rows = iter(texts)
    while batch := [row["text"] for row in islice(rows, 256)]:
        for tokens in tokenizer(batch, add_special_tokens=False)["input_ids"]:
            document = [tokenizer.bos_token_id, *tokens, tokenizer.eos_token_id]
            ids += document
            positions += range(len(document))
        whole = len(ids) // size * size
        for start in range(0, whole, size):
            yield _make_block(ids[start : start + size], positions[start : start + size], is_masked)
        ids, positions = ids[whole:], positions[whole:]


def _make_block(ids: list[int], positions: list[int], is_masked: bool) -> dict[str, list[int]]:
    if not is_masked:
        return {"input_ids": ids, "labels": ids}
    first = positions[0]  # a text that began in the block before goes on from 0
    length = next((index for index, position in enumerate(positions) if index and position == 0), len(positions))
    positions = [position - first for position in positions[:length]] + positions[length:]
    labels = [IGNORE_INDEX if position == 0 else token for token, position in zip(ids, positions, strict=True)]
    return {"input_ids": ids, "labels": labels, "position_ids": positions}


def _is_of_split(row: dict[str, str | None], name: str, share: float, seed: int) -> bool:
    if row["text"] is None:
        return False
    if not isinstance(row["text"], str):
        raise ValueError(f"`text_column` of a source must be of texts, got {row['text']!r}.")
    digest = hashlib.sha256(f"{seed}:{' '.join(row['text'].split())}".encode()).digest()
    is_held_out = int.from_bytes(digest[:6], "big") / 2**48 < share
    return is_held_out == (name == "validation") and bool(row["text"].strip())


def _debian(source: dict[str, Any], arguments: TextDataArguments) -> Any:
    names = source.get("texts", list(TEXTS))
    if not names or any(name not in TEXTS for name in names):
        raise ValueError(f"`texts` of a source 'debian' must be of {sorted(TEXTS)}, got {names!r}.")
    folder = Path(arguments.folder)
    files = []
    for name in names:
        path = folder / f"{name}.jsonl"
        if not path.exists():
            make_folder(folder, "data.folder")
            packages, read = TEXTS[name]
            roots = [fetch_package(package, folder / "debian") for package in packages]
            texts = progress(read(roots[0]), f"Texts of {name}", unit="texts")
            rows = (json.dumps({"text": text}) for text in texts if text)
            write_file(path, "\n".join(rows) + "\n")
        files.append(str(path))
    return _load({"path": "json", "data_files": files}, "text", arguments)


def _folder(source: dict[str, Any], arguments: TextDataArguments) -> Any:
    by = source.get("by", "document")
    if by not in _PARTS:
        raise ValueError(f"`by` of a source 'folder' must be of {list(_PARTS)}, got {by!r}.")
    files = sorted(str(path) for path in Path(str(source.get("path"))).rglob("*.txt"))
    if not files:
        raise ValueError(f"A source 'folder' must give a folder with .txt files as `path`, got {source.get('path')!r}.")
    for file in files:
        _require_utf8(file)
    return _load({"path": "text", "data_files": files, "sample_by": by}, "text", arguments)


def _require_utf8(path: str) -> None:
    decoder = codecs.getincrementaldecoder("utf-8")()
    with open(path, "rb") as file:
        try:
            while chunk := file.read(1 << 20):
                decoder.decode(chunk)
            decoder.decode(b"", final=True)
        except UnicodeDecodeError as error:
            raise ValueError(f"`data.sources` must have texts in UTF-8, got {path!r}: {error}.") from error


def _datasets(source: dict[str, Any], arguments: TextDataArguments) -> Any:
    options = {name: value for name, value in source.items() if name not in ("name", "text_column")}
    return _load(options, source.get("text_column", "text"), arguments)


def _load(options: dict[str, Any], column: str, arguments: TextDataArguments) -> Any:
    options = {"split": "train", "cache_dir": f"{arguments.folder}/cache"} | options
    texts: Any = load_source(options, arguments.streaming)
    try:
        next(iter(texts), None)  # what is wrong with a stream is said at once
    except ValueError as error:
        raise ValueError(describe_unreadable(options, error)) from error
    if texts.column_names is not None and column not in texts.column_names:
        raise ValueError(f"`text_column` must be one of {texts.column_names}, got {column!r}.")
    texts = texts.select_columns([column])
    return texts if column == "text" else texts.rename_column(column, "text")


_PARTS = ("document", "line", "paragraph")
_OPTIONS = {"debian": ("texts",), "folder": ("path", "by")}
_SOURCES = {"debian": _debian, "folder": _folder, "datasets": _datasets}
