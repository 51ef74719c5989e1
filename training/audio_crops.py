"""Crops of audio files for training: a data set of files becomes a data set of equally long waveforms.

Nothing but the crop is decoded where the format can seek, and in the workers of the data loader. What is drawn depends
on the seed, the epoch and the item alone, never on a worker's random numbers, so that a run that was interrupted goes
on as if it had not been. Files that cannot be used are replaced by others, named once, and counted where all processes
see it.
"""

import math
import random
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.utils.data import Dataset as TorchDataset, IterableDataset as TorchIterableDataset, get_worker_info
from transformers.utils import logging

from ..processing_josie.audio import check_waveform
from ..processing_josie.audio_files import open_audio
from ..processing_josie.resampling import require_rate, resample, resampled_length, resampling_margin, resampling_ratio
from ..processing_josie.sources import Source, describe_source
from .epochs import EpochCallback

if TYPE_CHECKING:  # datasets takes a second to import
    from datasets import Dataset, IterableDataset

logger = logging.get_logger(__name__)

_FILE_TYPES = ("string", "large_string", "binary", "large_binary")
_MAX_WORKERS = 256
_BROKEN, _USED, _FINISHED = range(3)
_MAX_BROKEN_IN_A_ROW = 1000


@dataclass(frozen=True)
class CropSettings:
    """Settings of a crop.

    Args:
        sampling_rate (`int`): Rate of the crops, in Hz.
        crop_length (`int`): Samples of a crop. Shorter files are followed by silence, where `padding_mask` is 0.
        num_channels (`1` or `2`): Channels of a crop: two of a file are averaged to one, one is repeated to two.
        min_length (`int`): Files of fewer samples, at `sampling_rate`, are too short to use.
        is_random (`bool`): Crop anywhere, or always from the start.
        max_gain_db (`float`): Crops become louder or softer by up to this, in dB, but never louder than full scale.
        seed (`int`): Of everything that is drawn.
    """

    sampling_rate: int
    crop_length: int
    num_channels: int = 1
    min_length: int = 1
    is_random: bool = True
    max_gain_db: float = 0.0
    seed: int = 0

    def __post_init__(self):
        require_rate(self.sampling_rate)
        for name in ("crop_length", "min_length"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"`{name}` must be a positive integer, got {value!r}.")
        if self.num_channels not in (1, 2):
            raise ValueError(f"`num_channels` must be 1 or 2, got {self.num_channels!r}.")
        if not (math.isfinite(self.max_gain_db) and self.max_gain_db >= 0):
            raise ValueError(f"`max_gain_db` must be at least 0, got {self.max_gain_db!r}.")


def read_crop(source: Source, settings: CropSettings, draw: random.Random) -> dict[str, torch.Tensor]:
    """Read one crop of an audio file. It equals the same part of the whole file, resampled as a whole.

    Args:
        source (`str`, `Path`, `bytes` or file): The file.
        settings ([`CropSettings`]): What a crop is.
        draw (`random.Random`): Where chance comes from.

    Returns:
        `input_values` of shape `(num_channels, crop_length)`, float32, and `padding_mask` of shape `(crop_length,)`.

    Raises:
        `ValueError`: The file cannot be read, is cut short, is too short, or the crop has values that are not finite
            or out of range.
    """
    with open_audio(source) as file:
        rates = file.sampling_rate, settings.sampling_rate
        length = resampled_length(file.num_samples, *rates)
        if length < settings.min_length:
            raise ValueError(
                f"`audio` must have at least {settings.min_length} samples at {settings.sampling_rate} Hz, "
                f"got {length} in {describe_source(source)}."
            )
        place, gain = draw.random(), draw.uniform(-settings.max_gain_db, settings.max_gain_db)
        spare = max(length - settings.crop_length, 0)
        start = int(place * (spare + 1)) if settings.is_random else 0
        stop = min(start + settings.crop_length, length)
        # Whole periods of the resampling, and what its filter reaches beyond them.
        ratio = resampling_ratio(*rates)
        up, down = ratio.numerator, ratio.denominator
        margin = -(-resampling_margin(*rates) // down)
        first = max(start // up - margin, 0)
        last = min((-(-stop // up) + margin) * down, file.num_samples)
        values = file.read(first * down, last)
    check_waveform(values, where=f" in {describe_source(source)}")
    if settings.num_channels == 1:
        values = values.mean(axis=0, keepdims=True)
    elif len(values) == 1:
        values = values.repeat(2, axis=0)
    values = resample(values, *rates)[:, start - first * up : stop - first * up]
    if gain:
        peak = float(np.abs(values).max())
        values = values * min(10 ** (gain / 20), max(1 / peak, 1.0) if peak else 1.0)
    crop = torch.zeros(settings.num_channels, settings.crop_length, dtype=torch.float32)
    crop[:, : stop - start] = torch.from_numpy(np.ascontiguousarray(values))
    mask = torch.zeros(settings.crop_length, dtype=torch.long)
    mask[: stop - start] = 1
    return {"input_values": crop, "padding_mask": mask}


class AudioCrops(TorchDataset):
    """Crops of the files of a map-style data set, for a data loader or `Trainer`.

    Add an [`AudioCropsCallback`] to the `Trainer`: it tells the epoch, also on resuming in the middle of one.

    Args:
        dataset (`datasets.Dataset`): Has a column of paths, or of the `Audio` feature, which is not decoded by it.
        settings ([`CropSettings`]): What a crop is.
        column (`str`): Name of the column.

    Raises:
        `ValueError`: There is no such column, it holds no files, or the data set is empty.
    """

    def __init__(self, dataset: "Dataset", settings: CropSettings, column: str = "audio"):
        if not len(dataset):
            raise ValueError("`dataset` must have at least one file, got none.")
        self.dataset = _undecoded(dataset, column).select_columns([column])
        self.settings = settings
        self.column = column
        # In shared memory, so that workers, also persistent ones, and the main process see the same.
        self._epoch = torch.zeros((), dtype=torch.long).share_memory_()
        self._is_broken = torch.zeros(len(dataset), dtype=torch.bool).share_memory_()

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        """Return the crop of file `index` in this epoch, or of another file if that one is broken.

        Raises:
            `ValueError`: All files are broken.
        """
        index = range(len(self))[index]  # negative ones too, and an IndexError for what is beyond
        draw = random.Random(f"{self.settings.seed}:{int(self._epoch)}:{index}")
        for candidate in self._candidates(index, draw):
            # Whether a file was known to be broken must not change what is drawn for the next.
            state = random.Random(draw.random())
            if self._is_broken[candidate]:
                continue
            try:
                return read_crop(_source(self.dataset[candidate][self.column]), self.settings, state)
            except ValueError as error:
                if not self._is_broken[candidate]:
                    self._is_broken[candidate] = True
                    logger.warning(f"Skipped a broken file: {error}")
        raise ValueError(f"`dataset` must have a file that can be used, got {len(self)} broken ones.")

    @property
    def num_broken(self) -> int:
        """Number of files found broken so far, by all workers."""
        return int(self._is_broken.sum())

    def broken_indices(self) -> list[int]:
        """Return which files were found broken so far, by all workers."""
        return self._is_broken.nonzero().flatten().tolist()

    def set_epoch(self, epoch: int) -> None:
        """Draw other crops from now on, in all workers."""
        self._epoch.fill_(epoch)

    def _candidates(self, index: int, draw: random.Random) -> Iterator[int]:
        """Yield the item asked for, then others by chance, then all: it ends."""
        yield index
        for _ in range(32):
            yield draw.randrange(len(self))
        for offset in range(1, len(self)):
            yield (index + offset) % len(self)


class AudioCropStream(TorchIterableDataset):
    """Crops of the files of a streamed data set, one of each, for a data loader or `Trainer`.

    Args:
        dataset (`datasets.IterableDataset`): As for [`AudioCrops`]. It shares its work among workers itself.
        settings ([`CropSettings`]): What a crop is.
        column (`str`): Name of the column.

    Raises:
        `ValueError`: There is no such column, or it holds no files; while iterating: no file at all can be used.
    """

    def __init__(self, dataset: "IterableDataset", settings: CropSettings, column: str = "audio"):
        self.dataset = _undecoded(dataset, column)
        self.settings = settings
        self.column = column
        self._epoch = torch.zeros((), dtype=torch.long).share_memory_()
        self._counts = torch.zeros(_MAX_WORKERS, 3, dtype=torch.long).share_memory_()  # a row for each worker
        self._named: set[int] = set()

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        info = get_worker_info()
        worker, num_workers = (0, 1) if info is None else (info.id, info.num_workers)
        if num_workers > _MAX_WORKERS:
            raise ValueError(f"`num_workers` must be at most {_MAX_WORKERS}, got {num_workers}.")
        counts, epoch = self._counts[worker], int(self._epoch)
        counts[_FINISHED] = 0
        self.dataset.set_epoch(epoch)
        in_a_row = 0
        for row in self.dataset:
            name = _identity(row[self.column])
            draw = random.Random(f"{self.settings.seed}:{epoch}:{name}")
            try:
                crop = read_crop(_source(row[self.column]), self.settings, draw)
            except ValueError as error:
                in_a_row += 1
                if name not in self._named:
                    self._named.add(name)
                    counts[_BROKEN] += 1
                    logger.warning(f"Skipped a broken file: {error}")
                if in_a_row == _MAX_BROKEN_IN_A_ROW and not self._counts[:, _USED].any():
                    raise ValueError(f"`dataset` must have files that can be used, got {in_a_row} broken.") from error
                continue
            in_a_row = 0
            counts[_USED] += 1
            yield crop
        counts[_FINISHED] = 1
        # The last worker that ends speaks for all: one alone may have had bad luck.
        if self._counts[:num_workers, _FINISHED].all() and not self._counts[:, _USED].any():
            raise ValueError(f"`dataset` must have a file that can be used, got {self.num_broken} broken ones.")

    @property
    def num_broken(self) -> int:
        """Number of files found broken so far, by all workers; after a restart of workers, again."""
        return int(self._counts[:, _BROKEN].sum())

    def set_epoch(self, epoch: int) -> None:
        """Draw other crops, and in another order if the data set shuffles, when the next epoch starts."""
        self._epoch.fill_(epoch)


class AudioCropsCallback(EpochCallback):
    """Tells crops which epoch it is, and logs how many files were broken as `num_broken_files`.

    `Trainer` tells its data set the epoch too, but not in every case: not after resuming in the middle of an epoch, and
    not on several processes.

    Args:
        crops ([`AudioCrops`] or [`AudioCropStream`]): The training data.
    """

    def __init__(self, crops: AudioCrops | AudioCropStream):
        super().__init__(crops)
        self.crops = crops

    def on_log(self, args, state, control, logs=None, **kwargs):
        """Add the number of broken files to what is logged."""
        if logs is not None:
            logs["num_broken_files"] = self.crops.num_broken
            if state.log_history:
                state.log_history[-1]["num_broken_files"] = self.crops.num_broken


def _undecoded(dataset: Any, column: str) -> Any:
    """Return the data set with a column that gives paths, or paths and bytes."""
    from datasets import Audio

    names = dataset.column_names
    if names is not None and column not in names:
        raise ValueError(f"`column` must be one of {names}, got {column!r}.")
    feature = None if dataset.features is None else dataset.features.get(column)
    if isinstance(feature, Audio):
        return dataset.cast_column(column, Audio(decode=False))
    if feature is None or isinstance(feature, dict) or getattr(feature, "dtype", None) in _FILE_TYPES:
        return dataset
    raise ValueError(f"`column` must hold paths, or files as the Audio feature of datasets, got {feature}.")


def _source(value: Any) -> Source:
    """Return the file that a cell of the column names or holds."""
    if isinstance(value, dict):
        value = value.get("bytes") or value.get("path")
    if not isinstance(value, (str, bytes)):
        raise ValueError(f"`audio` must be a path or the content of a file, got {value!r}.")
    return value


def _identity(value: Any) -> int:
    """Return a number that stands for the file that a cell of the column names or holds."""
    if isinstance(value, dict):
        value = value.get("path") or value.get("bytes")
    return zlib.crc32(value if isinstance(value, bytes) else str(value).encode())
