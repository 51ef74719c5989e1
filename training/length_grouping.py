"""Streams in which rows of like length follow each other, so that batches of them have little padding."""

import math
import random
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from numbers import Real
from typing import Any

import torch
from torch.utils.data import IterableDataset, get_worker_info


class LengthGroupedStream(IterableDataset):
    """Reorders a stream: of each `buffer_size` rows it makes batches of like length, in random order.

    What `train_sampling_strategy="group_by_length"` of `Trainer` is for data sets with a length, which it ignores for
    streams. The order depends on the seed, the epoch and the number of workers alone, so that a run that is resumed
    finds its place by skipping. Each worker groups what the stream gives it: data sets of `datasets` share their work
    out among workers by themselves, other iterables have to.

    Args:
        dataset (iterable of `dict`): The rows; `datasets.IterableDataset` or another that can be gone through again.
        batch_size (`int`): Rows of a batch, as of the data loader.
        length (`str` or callable): Column with a row's length, or what gives it, such as
            `lambda row: processor.get_num_tokens(row["messages"])`.
        buffer_size (`int`): Rows that are held at once, a multiple of `batch_size`.
        seed (`int`): Of the order.

    Raises:
        `ValueError`: A number is out of range; while iterating: a row without the column, or whose length is no number.
    """

    def __init__(
        self,
        dataset: Iterable[dict[str, Any]],
        batch_size: int,
        length: str | Callable[[dict[str, Any]], int] = "length",
        buffer_size: int = 512,
        seed: int = 0,
    ):
        if batch_size < 1:
            raise ValueError(f"`batch_size` must be at least 1, got {batch_size}.")
        if buffer_size < 1 or buffer_size % batch_size:
            raise ValueError(f"`buffer_size` must be a multiple of `batch_size` ({batch_size}), got {buffer_size}.")
        self.dataset = dataset
        self.batch_size = batch_size
        self.length = length
        self.buffer_size = buffer_size
        self.seed = seed
        # Shared, so that workers that are kept from epoch to epoch see it change.
        self._epoch = torch.zeros((), dtype=torch.long).share_memory_()

    def __iter__(self) -> Iterator[dict[str, Any]]:
        info = get_worker_info()
        draw = random.Random(f"{self.seed}:{int(self._epoch)}:{0 if info is None else info.id}")
        rows = iter(self.dataset)
        while buffer := list(islice(rows, self.buffer_size)):
            for batch in self._group(buffer, draw):
                yield from batch

    def set_epoch(self, epoch: int) -> None:
        """Make other batches when the next epoch starts; a data set that can do so changes its own order too."""
        self._epoch.fill_(epoch)
        change: Any = getattr(self.dataset, "set_epoch", None)
        if change is not None:
            change(epoch)

    def _group(self, rows: list[dict[str, Any]], draw: random.Random) -> list[list[dict[str, Any]]]:
        """Return batches in random order; what is left over comes last, or later batches would be shifted."""
        lengths = [self._length_of(row) for row in rows]
        order = list(range(len(rows)))
        draw.shuffle(order)
        order.sort(key=lengths.__getitem__)
        num_full = len(order) // self.batch_size * self.batch_size
        starts = list(range(0, num_full, self.batch_size))
        draw.shuffle(starts)
        batches = [order[start : start + self.batch_size] for start in starts]
        return [[rows[index] for index in batch] for batch in [*batches, order[num_full:]]]

    def _length_of(self, row: dict[str, Any]) -> float:
        if isinstance(self.length, str) and self.length not in row:
            raise ValueError(f"`length` must be a column or a function, got {self.length!r}, not in {sorted(row)}.")
        length = row[self.length] if isinstance(self.length, str) else self.length(row)
        number = length.item() if getattr(length, "ndim", None) == 0 else length
        if not isinstance(number, Real) or math.isnan(number):
            raise ValueError(f"`length` must be a number of every row, got {length!r:.200}.")
        return float(number)
