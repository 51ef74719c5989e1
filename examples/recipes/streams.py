"""Data sets that are read as they come: endless and in a new order each time round, so that a run has no epochs.

The trainer counts batches from the start of a stream, so one that ended could not be found again after an interruption.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import count
from typing import Any

from datasets import Dataset, IterableDataset, load_dataset

Rows = Callable[[Iterator[dict[str, Any]]], Iterator[dict[str, Any]]]

_ROWS_AT_ONCE = 64


def load_rows(options: dict[str, Any], is_streaming: bool) -> Dataset | IterableDataset:
    """Load a data set of the Hub, or of this machine.

    Args:
        options (`dict`): Arguments of `load_dataset`, one split among them.
        is_streaming (`bool`): Read it as it comes.

    Raises:
        `ValueError`: There is none.
    """
    try:
        return load_dataset(**options, streaming=is_streaming)
    except (FileNotFoundError, ConnectionError) as error:
        path = options.get("path")
        raise ValueError(f"`path` of a source must be a data set that exists, got {path!r}: {error}") from error


def read_rows(dataset: Dataset | IterableDataset) -> Iterator[dict[str, Any]]:
    """Yield all rows, in a worker of a data loader too; by itself a stream would give that worker its share of them."""
    for batch in dataset.iter(batch_size=_ROWS_AT_ONCE):
        for values in zip(*batch.values(), strict=True):
            yield dict(zip(batch, values, strict=True))


def repeat_rows(dataset: IterableDataset, seed: int, buffer_size: int) -> Iterator[dict[str, Any]]:
    """Yield the rows of a stream again and again, each time in another order; of an empty one, nothing.

    Args:
        dataset (`datasets.IterableDataset`): The stream, with an end.
        seed (`int`): Of the orders.
        buffer_size (`int`): Rows among which the next one is drawn; below 2, they keep their order.
    """
    for epoch in count():
        rows = dataset
        if buffer_size > 1:
            rows = dataset.shuffle(seed=seed, buffer_size=buffer_size)
            rows.set_epoch(epoch)
        is_empty = True
        for row in read_rows(rows):
            is_empty = False
            yield row
        if is_empty:
            return


def take_turns(rows: Sequence[Iterator[dict[str, Any]]]) -> Iterator[dict[str, Any]]:
    """Yield a row of each in turn, of those that have not ended.

    datasets can do so too, but asks streams for the types of their columns first: messages have none that would hold
    for all rows.
    """
    left = list(rows)
    while left:
        for each in tuple(left):
            row = next(each, None)
            if row is None:
                left.remove(each)
            else:
                yield row


def endless_stream(
    dataset: IterableDataset | Sequence[IterableDataset], seed: int, buffer_size: int, change: Rows | None = None
) -> IterableDataset:
    """Return a stream without end.

    It has one shard: its order does not depend on how many workers or processes read it.

    Args:
        dataset (`datasets.IterableDataset` or several): The stream, with an end; several take turns.
        seed, buffer_size: As of [`repeat_rows`].
        change (*optional*): What makes other rows of the rows, such as blocks of texts.
    """
    # Not a list, of which datasets would make shards.
    streams = (dataset,) if isinstance(dataset, IterableDataset) else tuple(dataset)
    options = {"streams": streams, "seed": seed, "buffer_size": buffer_size, "change": change}
    return IterableDataset.from_generator(_generate, gen_kwargs=options)  # type: ignore[return-value]


def _generate(
    streams: Sequence[IterableDataset], seed: int, buffer_size: int, change: Rows | None
) -> Iterator[dict[str, Any]]:
    rows = take_turns([repeat_rows(stream, seed, buffer_size) for stream in streams])
    yield from rows if change is None else change(rows)
