"""Augmentation of the audio that a model hears: settings of effects, and a collator that applies them to conversations.

What is drawn depends on the seed, the epoch, the row's number and the clip alone, so that neither the number of workers
nor an interruption changes it. Rows without a number, such as those that are held out, stay as they are.
"""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..processing_josie.audio import as_waveform
from ..processing_josie.message_forms import drop_missing, read_conversation, row_messages
from ..processing_josie.messages import is_audio_part, list_parts, part_value
from ..processing_josie.nested_values import to_dict, to_list
from ..processing_josie.part_forms import read_part
from ..processing_josie.resampling import require_rate
from . import audio_effects as effects
from .epochs import EpochCallback as EpochCallback
from .unit_rows import is_unit_row

NUMBER = "row_number"  # column of rows that are augmented


@dataclass
class Effect:
    """An effect, as its section of a configuration states it.

    Args:
        probability (`float`): Of a clip to have it.
    """

    probability: float = 0.5

    # Whether what is heard stays at its time.
    keeps_time = True
    # Of each range: smallest and largest value that it may have.
    _limits = {}

    def __post_init__(self):
        if isinstance(self.probability, bool) or not 0 <= self.probability <= 1:
            raise ValueError(f"`{self.name}.probability` must be in [0, 1], got {self.probability!r}.")
        for name, (low, high) in self._limits.items():
            value = getattr(self, name)
            is_range = isinstance(value, (list, tuple)) and len(value) == 2
            if not is_range or not all(isinstance(number, (int, float)) for number in value):
                raise ValueError(f"`{self.name}.{name}` must be two numbers, got {value!r}.")
            if not low <= value[0] <= value[1] <= high:
                raise ValueError(f"`{self.name}.{name}` must be rising numbers in [{low}, {high}], got {value!r}.")

    @property
    def name(self) -> str:
        """Name of its section."""
        return next(name for name, kind in EFFECTS.items() if type(self) is kind)

    def draw(self, name: str, rng: np.random.Generator) -> float:
        """Return a number of a range."""
        return float(rng.uniform(*getattr(self, name)))

    def apply(self, samples: np.ndarray, sampling_rate: int, rng: np.random.Generator) -> np.ndarray:
        """Return another waveform.

        Args:
            samples (`np.ndarray`): `(num_samples,)`, float32.
            sampling_rate (`int`): In Hz.
            rng (`np.random.Generator`): Draws what is random.
        """
        raise NotImplementedError


@dataclass
class Speed(Effect):
    """Faster or slower, with the pitch; `factors` of the speed."""

    factors: list[float] = field(default_factory=lambda: [0.9, 1.1])
    keeps_time = False
    _limits = {"factors": (0.25, 4.0)}

    def apply(self, samples: np.ndarray, sampling_rate: int, rng: np.random.Generator) -> np.ndarray:
        """Play at another speed."""
        return effects.change_speed(samples, sampling_rate, self.draw("factors", rng))


@dataclass
class Tempo(Effect):
    """Faster or slower at the same pitch; `factors` of the speed."""

    factors: list[float] = field(default_factory=lambda: [0.9, 1.1])
    keeps_time = False
    _limits = {"factors": (0.25, 4.0)}

    def apply(self, samples: np.ndarray, sampling_rate: int, rng: np.random.Generator) -> np.ndarray:
        """Say at another speed."""
        return effects.change_tempo(samples, self.draw("factors", rng))


@dataclass
class Pitch(Effect):
    """Higher or lower at the same length; `semitones` up."""

    semitones: list[float] = field(default_factory=lambda: [-3.0, 3.0])
    _limits = {"semitones": (-24.0, 24.0)}

    def apply(self, samples: np.ndarray, sampling_rate: int, rng: np.random.Generator) -> np.ndarray:
        """Change the pitch."""
        return effects.change_pitch(samples, sampling_rate, self.draw("semitones", rng))


@dataclass
class Reverberation(Effect):
    """A room; `seconds` until its echoes are 60 dB softer, `distance` as a share of that where they equal the voice."""

    seconds: list[float] = field(default_factory=lambda: [0.1, 0.7])
    distance: list[float] = field(default_factory=lambda: [0.1, 1.0])
    _limits = {"seconds": (0.01, 10.0), "distance": (0.0, 10.0)}

    def apply(self, samples: np.ndarray, sampling_rate: int, rng: np.random.Generator) -> np.ndarray:
        """Put the clip into a room."""
        return effects.reverberate(samples, sampling_rate, self.draw("seconds", rng), self.draw("distance", rng), rng)


@dataclass
class Noise(Effect):
    """Noise; `snr` in dB, of `colors` and, where there is a `folder`, as often of its recordings."""

    snr: list[float] = field(default_factory=lambda: [5.0, 30.0])
    colors: list[str] = field(default_factory=lambda: list(effects.NOISES))
    folder: str | None = None
    _limits = {"snr": (-60.0, 120.0)}

    def __post_init__(self):
        super().__post_init__()
        unknown = [color for color in self.colors if color not in effects.NOISES]
        if unknown or not (self.colors or self.folder):
            raise ValueError(f"`noise.colors` must be of {list(effects.NOISES)}, got {self.colors!r}.")
        if self.folder is not None and not _list_noises(self.folder):
            raise ValueError(f"`noise.folder` must be a folder with recordings, got {self.folder!r}.")

    def apply(self, samples: np.ndarray, sampling_rate: int, rng: np.random.Generator) -> np.ndarray:
        """Add noise."""
        snr, recordings = self.draw("snr", rng), _list_noises(self.folder) if self.folder else ()
        if recordings and (not self.colors or rng.random() < 0.5):
            path = recordings[int(rng.integers(len(recordings)))]
            return effects.add_noise(samples, effects.cut_noise(path, len(samples), sampling_rate, rng), snr)
        color = self.colors[int(rng.integers(len(self.colors)))]
        return effects.add_noise(samples, effects.make_noise(len(samples), color, rng), snr)


@dataclass
class Band(Effect):
    """A microphone or loudspeaker that loses the lowest and highest frequencies, below `low` and above `high` Hz."""

    low: list[float] = field(default_factory=lambda: [20.0, 400.0])
    high: list[float] = field(default_factory=lambda: [2500.0, 8000.0])
    _limits = {"low": (0.0, 1000.0), "high": (1000.0, 96000.0)}

    def apply(self, samples: np.ndarray, sampling_rate: int, rng: np.random.Generator) -> np.ndarray:
        """Limit the band."""
        return effects.limit_band(samples, sampling_rate, self.draw("low", rng), self.draw("high", rng))


@dataclass
class Telephone(Effect):
    """A telephone line."""

    def apply(self, samples: np.ndarray, sampling_rate: int, rng: np.random.Generator) -> np.ndarray:
        """Go through a line."""
        return effects.through_telephone(samples, sampling_rate)


@dataclass
class Clipping(Effect):
    """A microphone that is overdriven by so many `decibels`."""

    decibels: list[float] = field(default_factory=lambda: [1.0, 12.0])
    _limits = {"decibels": (0.0, 60.0)}

    def apply(self, samples: np.ndarray, sampling_rate: int, rng: np.random.Generator) -> np.ndarray:
        """Cut the peaks."""
        return effects.clip_peaks(samples, self.draw("decibels", rng))


@dataclass
class Codec(Effect):
    """A round trip through a codec of `names`."""

    names: list[str] = field(default_factory=lambda: list(effects.CODECS))

    def __post_init__(self):
        super().__post_init__()
        if not self.names or any(name not in effects.CODECS for name in self.names):
            raise ValueError(f"`codec.names` must be of {list(effects.CODECS)}, got {self.names!r}.")

    def apply(self, samples: np.ndarray, sampling_rate: int, rng: np.random.Generator) -> np.ndarray:
        """Encode and decode."""
        return effects.round_trip(samples, sampling_rate, self.names[int(rng.integers(len(self.names)))])


@dataclass
class Gain(Effect):
    """Louder or softer by `decibels`."""

    decibels: list[float] = field(default_factory=lambda: [-24.0, 6.0])
    _limits = {"decibels": (-120.0, 60.0)}

    def apply(self, samples: np.ndarray, sampling_rate: int, rng: np.random.Generator) -> np.ndarray:
        """Change the loudness."""
        return effects.scale(samples, self.draw("decibels", rng))


# From the mouth to the file; this is their order.
EFFECTS: dict[str, type[Effect]] = {
    "speed": Speed,
    "tempo": Tempo,
    "pitch": Pitch,
    "reverberation": Reverberation,
    "noise": Noise,
    "band": Band,
    "clipping": Clipping,
    "telephone": Telephone,
    "codec": Codec,
    "gain": Gain,
}


class AudioAugmentation:
    """Effects that clips have by chance, in the order of [`EFFECTS`].

    Args:
        seed (`int`): Of everything that is drawn.
        effects: By name in `EFFECTS`, its settings as a mapping; one that is missing is not applied.

    Raises:
        `ValueError`: There is no such effect or setting, a value is out of range, or there is no effect at all.
    """

    def __init__(self, seed: int = 0, **effects: Any):
        if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
            raise ValueError(f"`seed` must be an integer of at least 0, got {seed!r}.")
        if not effects:
            raise ValueError(f"`augmentation` must have effects of {list(EFFECTS)}, got none.")
        self.seed, self.effects = seed, [_read(name, effects.pop(name)) for name in EFFECTS if name in effects]
        for name in effects:
            raise ValueError(f"`augmentation` must have effects of {list(EFFECTS)}, got {name!r}.")

    def __call__(self, samples: np.ndarray, sampling_rate: int, *numbers: int, keeps_time: bool = False) -> np.ndarray:
        """Return an augmented clip, in [-1, 1]: what would be louder is cut off, as a converter does.

        Args:
            samples (`np.ndarray`): `(num_samples,)`.
            sampling_rate (`int`): Its rate, in Hz.
            numbers (`int`): Epoch, row and clip, or whatever else tells draws apart.
            keeps_time (`bool`): Whether the clip is as long as before, and all in it where it was: without the effects
                that change that.
        """
        require_rate(sampling_rate)
        changed = np.asarray(samples, dtype=np.float32)
        for effect in self.effects:
            if keeps_time and not effect.keeps_time:
                continue
            # Each has a generator of its own: one effect more leaves the draws of the others as they are.
            rng = np.random.default_rng((self.seed, list(EFFECTS).index(effect.name), *numbers))
            if rng.random() < effect.probability and len(changed):
                changed = effect.apply(changed, sampling_rate, rng)
        if keeps_time:
            changed = np.pad(changed[: len(samples)], (0, max(len(samples) - len(changed), 0)))
        return np.clip(np.ascontiguousarray(changed, dtype=np.float32), -1, 1)


def _read(name: str, values: Any) -> Effect:
    """Return an effect of its section.

    Raises:
        `ValueError`: The section is no mapping, or has an unknown key or a wrong value.
    """
    kind = EFFECTS[name]
    if not isinstance(values, dict):
        raise ValueError(f"`augmentation.{name}` must be a section of settings, got {values!r}.")
    known = [entry.name for entry in dataclasses.fields(kind)]
    for key in values:
        if key not in known:
            raise ValueError(f"`augmentation.{name}` must have keys of {known}, got {key!r}.")
    return kind(**values)


def read_augmentation(config: dict[str, Any]) -> AudioAugmentation | None:
    """Return the section `augmentation` of a recipe's configuration; `None` where it is missing or null.

    Raises:
        `ValueError`: It is no mapping, or as [`AudioAugmentation`].
    """
    values = config.get("augmentation")
    if values is None:
        return None
    if not isinstance(values, dict):
        raise ValueError(f"`augmentation` must be a section of effects, or null, got {values!r}.")
    return AudioAugmentation(**values)


@lru_cache(maxsize=8)
def _list_noises(folder: str) -> tuple[Path, ...]:
    return tuple(effects.list_noises(Path(folder)))


class NumberedRows(torch.utils.data.Dataset):
    """Rows of a data set of torch with their number.

    Args:
        rows ([`~torch.utils.data.Dataset`]): With a length; its rows are mappings.
    """

    def __init__(self, rows: Any):
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Return row `index`, with its number."""
        return _number(self.rows[index], range(len(self))[index])


def number_rows(rows: Any) -> Any:
    """Return rows of `datasets`, in memory or a stream, or of torch with their number, which lets them be augmented."""
    if not hasattr(rows, "map"):
        return NumberedRows(rows)
    if hasattr(rows, "add_column") and hasattr(rows, "__len__"):
        return rows.add_column(NUMBER, np.arange(len(rows)))
    return rows.map(_number, with_indices=True)


def _number(row: dict[str, Any], index: int) -> dict[str, Any]:
    return row | {NUMBER: index}


class AugmentingCollator:
    """Augments the clips that others than the assistant say in numbered rows, and joins the rows.

    Tracks of full duplex and clips that begin at a time have the effects alone that leave times as they are.

    Args:
        collate (`Callable`): Makes a batch of conversations.
        augmentation ([`AudioAugmentation`]): The effects.
        sampling_rate (`int`): Rate that clips are brought to before, in Hz.
    """

    def __init__(
        self,
        collate: Callable[[list[dict[str, Any]]], dict[str, Any]],
        augmentation: AudioAugmentation,
        sampling_rate: int,
    ):
        self.collate, self.augmentation = collate, augmentation
        self.sampling_rate = require_rate(sampling_rate)
        # Shared, so that workers that are kept from epoch to epoch see it change.
        self._epoch = torch.zeros((), dtype=torch.long).share_memory_()

    def set_epoch(self, epoch: int) -> None:
        """Start the draws of another epoch."""
        self._epoch.fill_(epoch)

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        """Return the batch."""
        return self.collate([self._augment(row) for row in rows])

    def _augment(self, row: dict[str, Any]) -> dict[str, Any]:
        changed = drop_missing(row)
        number = changed.pop(NUMBER, None)
        if number is None:
            return row
        if "audio_features" in changed:
            raise ValueError("`audio_features` must be None in rows whose audio is augmented, got some.")
        clips, messages = 0, []
        if "turns" in changed and "audio" in changed:
            samples = self._change(row["audio"], number, clips, keeps_time=True)
            changed["audio"], clips = {"array": samples, "sampling_rate": self.sampling_rate}, clips + 1
        for message in _read_messages(changed):
            if message.get("role") != "assistant" and any(map(is_audio_part, list_parts(message))):
                parts = []
                for part in list_parts(message):
                    if is_audio_part(part):
                        part, clips = self._change_part(part, number, clips), clips + 1
                    parts.append(part)
                message = message | {"content": parts}
            messages.append(message)
        if not messages:
            return changed
        if not is_unit_row(changed):  # else `system` goes to the prompt later
            changed = {name: value for name, value in changed.items() if name not in ("conversations", "system")}
        return changed | {"messages": messages}

    def _change_part(self, part: dict[str, Any], number: int, clip: int) -> dict[str, Any]:
        samples = self._change(part_value(part), number, clip, keeps_time=part.get("begin") is not None)
        kept = {name: value for name, value in part.items() if name in ("type", "text", "begin")}
        return kept | {"audio": samples, "sampling_rate": self.sampling_rate}

    def _change(self, audio: Any, number: int, clip: int, keeps_time: bool) -> np.ndarray:
        samples = as_waveform(audio, None, self.sampling_rate, 1)[0]
        return self.augmentation(samples, self.sampling_rate, int(self._epoch), number, clip, keeps_time=keeps_time)


def _read_messages(row: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the messages of a row, which may have none, in JOSIE's form; those with times keep them."""
    if is_unit_row(row):
        return [_read_timed(message) for message in to_list(row.get("messages")) or []]
    return row_messages(row) if "messages" in row or "conversations" in row else []


def _read_timed(message: Any) -> dict[str, Any]:
    values = to_dict(message) or {}
    parts = [to_dict(part) or {} for part in to_list(values.get("content")) or []]
    if all(part.get("begin") is None for part in parts):
        return read_conversation([message])[0]
    clips = [
        read_part(part | {"begin": None}) | {"begin": part["begin"]} if is_audio_part(part) else part for part in parts
    ]
    return values | {"content": clips}
