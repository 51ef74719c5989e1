"""Data sets that a source names: what keeps one from being loaded is said in a sentence."""

from typing import Any

from datasets import Dataset, IterableDataset
from datasets.exceptions import DatasetsError

from recipes.streams import load_rows

_FILE_TYPES = ("arrow", "csv", "json", "parquet", "text")  # of `load_dataset`, by themselves no data


def load_source(options: dict[str, Any], is_streaming: bool = False) -> Dataset | IterableDataset:
    """Load the data set of a source.

    Args:
        options (`dict`): Arguments of `load_dataset`, one split among them.
        is_streaming (`bool`): Read it as it comes.

    Raises:
        `ValueError`: There is none, an option is unknown, or a file cannot be read, or is empty.
    """
    path, files = options.get("path"), options.get("data_files")
    if not isinstance(path, str) or not path:
        raise ValueError(f"`path` of a source must be the name of a data set, got {path!r}.")
    if "streaming" in options:
        raise ValueError(
            f"`streaming` must be among `data`, not among what a source has, got {options['streaming']!r} there."
        )
    if not isinstance(options.get("split"), str):
        raise ValueError(f"`split` of a source must be the name of one, got {options.get('split')!r}.")
    if path in _FILE_TYPES and not (files or options.get("data_dir")):
        raise ValueError(f"`data_files` of a source must be files where its `path` is {path!r}, got {files!r}.")
    try:
        rows = load_rows(options, is_streaming)
        if is_streaming:
            next(iter(rows), None)  # what is wrong with a stream is said at once
        return rows
    except StopIteration as error:  # of the reader of JSON
        raise ValueError(describe_unreadable(options, ValueError("no file has a row"))) from error
    except (DatasetsError, OSError, TypeError, ValueError, AttributeError, NotImplementedError) as error:
        reason = error.__cause__ or error
        if not isinstance(reason, FileNotFoundError | ConnectionError):
            raise ValueError(describe_unreadable(options, reason)) from error
        if not files:
            raise
        raise ValueError(f"`data_files` of a source must be files that exist, got {files!r}: {reason}.") from error


def describe_unreadable(options: dict[str, Any], error: BaseException) -> str:
    """Return the sentence for a data set that cannot be read.

    Args:
        options (`dict`): Of the data set.
        error (`BaseException`): What its reader said.
    """
    given = options.get("data_files") or options.get("path")
    return f"`data.sources` must name data that `load_dataset` can read, got {given!r}: {str(error).rstrip('.')}."
