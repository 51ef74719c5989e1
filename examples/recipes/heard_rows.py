"""Rows whose clips an encoder has heard ahead of training: its states on disk, in place of its work at every step.

An encoder that learns nothing gives the same states each time. They are kept in shards of rows, so that a run that was
stopped while it encoded goes on with the shard that it was at.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset, Features, List, Value, concatenate_datasets, disable_progress_bars
from datasets.fingerprint import Hasher

from josie.configuration_josie import is_codec, num_audio_tokens
from josie.configuration_josie.constants import IGNORE_INDEX
from josie.processing_josie.audio import as_waveform
from josie.processing_josie.lengths import count_audio_tokens
from josie.processing_josie.messages import is_audio_part, list_parts, part_value
from recipes.audio_ctc import list_transcripts
from recipes.conversations import date_files
from recipes.places import make_folder
from recipes.progress import progress
from recipes.spoken_rows import without_speech
from recipes.token_ctc import pad_transcripts

_FEATURES = Features(
    input_ids=List(Value("int32")),
    labels=List(Value("int32")),
    transcripts=List(List(Value("int32"))),
    states=List(Value("binary")),  # of each clip, bfloat16
    length=Value("int64"),
)
_GAP_SECONDS = 0.5
_SINGLE_WINDOWS = 3  # one of so many has a clip alone


@dataclass
class HearingArguments:
    """The encoding of clips ahead of training.

    Args:
        folder (`str`): The place of the states.
        packed (`bool`): Let several clips share a window of an encoder that always reads 30 seconds (Whisper), half a
            second apart: many times cheaper, and not what the encoder makes of each alone, so that every third window
            has one clip only. Rows that are held out are encoded alone.
        shard_rows (`int`): Rows of a shard.
    """

    folder: str = "runs/data/heard"
    packed: bool = False
    shard_rows: int = 256

    def __post_init__(self):
        if self.shard_rows < 1:
            raise ValueError(f"`hearing.shard_rows` must be at least 1, got {self.shard_rows}.")


@dataclass
class Listener:
    """Encodes the user's clips of rows, and makes tokens of the rest.

    Args:
        model: A JOSIE or its Thinker, with an audio encoder.
        processor: Its processor.
        arguments ([`HearingArguments`]): Where and how.

    Raises:
        `ValueError`: The model has no audio encoder, or clips cannot share a window.
    """

    model: Any
    processor: Any
    arguments: HearingArguments

    def __post_init__(self):
        config = self.processor.thinker_config.audio_config
        if config is None or is_codec(config):
            found = "none" if config is None else f"a {config.model_type!r}"
            raise ValueError(f"`hearing` must be null for a model without an audio encoder, got {found}.")
        if self.arguments.packed and config.model_type != "whisper":
            raise ValueError(f"`hearing.packed` must be false for an encoder of clips, got a {config.model_type!r}.")

    @property
    def _front_end(self) -> Any:
        return getattr(self.model, "thinker", self.model).model.audio_front_end

    @property
    def encoder(self) -> Any:
        """The audio encoder."""
        return self._front_end.encoder

    def encode_splits(self, rows: dict[str, Any]) -> dict[str, Any]:
        """Return the rows to train on and to validate with, as [`Listener.encode_rows`] does.

        Raises:
            `ValueError`: The encoder learns, so that its states would be others at each step, or rows are streams.
        """
        if any(parameter.requires_grad for parameter in self.encoder.parameters()):
            raise ValueError("`hearing` must be null where the audio encoder learns; `freeze` it.")
        if not all(isinstance(part, Dataset) for part in rows.values()):
            raise ValueError("`data.streaming` must be false with `hearing`, got true.")
        return {split: self.encode_rows(rows[split], split != "train") for split in ("train", "validation")}

    def encode_rows(self, rows: Dataset, is_held_out: bool = False) -> Dataset:
        """Return rows with `input_ids`, `labels`, `length`, and what [`as_batch_items`] makes of their clips.

        Args:
            rows (`datasets.Dataset`): With `messages`.
            is_held_out (`bool`): Encode each clip alone.
        """
        if not len(rows):
            return rows
        folder = make_folder(self.arguments.folder, "hearing.folder")
        is_packed = self.arguments.packed and not is_held_out
        weights = self.encoder.state_dict()
        template = self.processor.chat_template
        common = Hasher.hash(
            (weights, self.processor.feature_extractor.to_dict(), template, self._front_end.config.audio_stack_factor)
        )
        size, shards = self.arguments.shard_rows, []
        disable_progress_bars()
        for start in progress(range(0, len(rows), size), "Hearing", unit="shards"):
            messages = list(rows[start : start + size]["messages"])
            dates = [date_files(_list_clips(without_speech(row))) for row in messages]
            name = Hasher.hash((common, is_packed, json.dumps(messages, sort_keys=True, default=_name), dates))
            options = {"messages": messages, "is_packed": is_packed}
            path = folder / f"{name}.parquet"
            if not path.exists():
                made = Dataset.from_list(list(self._encode(**options)), features=_FEATURES)
                made.to_parquet(f"{path}.new")
                Path(f"{path}.new").rename(path)
            shards.append(Dataset.from_parquet(str(path), cache_dir=str(folder / "cache")))
        width = self.encoder.config.hidden_size
        return concatenate_datasets(shards).with_transform(lambda batch: as_batch_items(batch, width))

    @torch.no_grad()
    def _encode(self, messages: list[list[dict[str, Any]]], is_packed: bool) -> Iterator[dict[str, Any]]:
        extractor, tokenizer = self.processor.feature_extractor, self.processor.tokenizer
        said = [without_speech(row) for row in messages]
        clips = [
            [as_waveform(part_value(part), None, extractor.sampling_rate, 1)[0] for part in parts]
            for parts in map(_list_clips, said)
        ]
        states = iter(self._listen([clip for row in clips for clip in row], is_packed))
        for row, waveforms in zip(said, clips, strict=True):
            counts = iter([count_audio_tokens(self.processor, len(waveform)) for waveform in waveforms])
            ids, labels = self._tokenize(row, lambda: next(counts))  # noqa: B023
            heard = [next(states) for _ in waveforms]
            texts = [text or "" for text in list_transcripts(row)]
            yield {
                "input_ids": ids,
                "labels": labels,
                "transcripts": [tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts],
                "states": [value.to(torch.bfloat16).view(torch.int16).numpy().tobytes() for value in heard],
                "length": len(ids),
            }

    def _tokenize(self, messages: list[dict[str, Any]], count: Callable[[], int]) -> tuple[list[int], list[int]]:
        """Return tokens and labels of a row, as the processor makes them of the clips themselves."""
        token = self.processor.audio_token
        written = [dict(message, content=_spell(message, token, count)) for message in messages]
        tokens = self.processor.tokenizer.apply_chat_template(
            written,
            chat_template=self.processor.chat_template,
            tokenize=True,
            return_dict=True,
            return_assistant_tokens_mask=True,
        )
        learned = zip(tokens["input_ids"], tokens["assistant_masks"], strict=True)
        return tokens["input_ids"], [number if is_said else IGNORE_INDEX for number, is_said in learned]

    def _listen(self, waveforms: list[np.ndarray], is_packed: bool) -> list[torch.Tensor]:
        """Return the encoder's states of each clip, `(num_features, width)`."""
        if not is_packed:
            return [self._hear(waveform) for waveform in waveforms]
        config, extractor = self.processor.thinker_config.audio_config, self.processor.feature_extractor
        step = 2 * extractor.hop_length  # samples of a feature
        gap, room = int(_GAP_SECONDS * extractor.sampling_rate), extractor.n_samples
        states: list[Any] = [None] * len(waveforms)
        for window in _fill_windows([len(waveform) for waveform in waveforms], step, gap, room):
            joined = np.zeros(room, dtype=np.float32)
            for index, start in window:
                clip = waveforms[index][: room - start]
                joined[start : start + len(clip)] = clip
            heard = self._hear(joined)
            for index, start in window:
                length = -(-min(len(waveforms[index]), room) // extractor.hop_length)
                first = start // step
                states[index] = heard[first : first + num_audio_tokens(config, length)].clone()
        return states

    def _hear(self, waveform: np.ndarray) -> torch.Tensor:
        extractor = self.processor.feature_extractor
        batch = self.processor(text=self.processor.audio_token, audio=(waveform, extractor.sampling_rate))
        names = ("input_features", "input_features_mask", "input_values", "padding_mask")
        inputs = {name: batch[name].to(self.model.device) for name in names if name in batch}
        states = getattr(self.model, "thinker", self.model).get_audio_features(**inputs).last_hidden_state[0]
        length = int(next(value for name, value in inputs.items() if name.endswith("mask")).sum())
        return states[: num_audio_tokens(self.processor.thinker_config.audio_config, length)].cpu()


def as_batch_items(batch: dict[str, list[Any]], width: int) -> dict[str, list[Any]]:
    """Return rows as a [`JosieDataCollator`] joins them: with `audio_features` and their mask where there are clips.

    Args:
        batch (`dict`): Columns as they are kept.
        width (`int`): Of the encoder.
    """
    items = {name: [torch.tensor(row) for row in batch[name]] for name in ("input_ids", "labels") if name in batch}
    items |= {name: list(batch[name]) for name in ("transcripts", "length") if name in batch}
    if "states" in batch:
        clips = [[_read_states(value, width) for value in row] for row in batch["states"]]
        items["audio_features"] = [torch.nn.utils.rnn.pad_sequence(row, True) if row else None for row in clips]
        items["audio_features_mask"] = [
            torch.nn.utils.rnn.pad_sequence([torch.ones(len(clip)) for clip in row], True) if row else None
            for row in clips
        ]
    return items


@dataclass
class HeardCollator:
    """Joins rows that were heard ahead.

    Args:
        collate (`Callable`): A [`JosieDataCollator`].
        keeps_transcripts (`bool`): Whether a batch has the tokens that are said in each clip, as `transcripts`.
    """

    collate: Callable[[list[dict[str, Any]]], dict[str, Any]]
    keeps_transcripts: bool = False

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        """Return the batch."""
        kept = ("input_ids", "labels", "audio_features", "audio_features_mask")
        batch = self.collate([{name: row[name] for name in kept if row.get(name) is not None} for row in rows])
        if self.keeps_transcripts:
            batch["transcripts"] = pad_transcripts([clip for row in rows for clip in row["transcripts"]])
        return batch


def _read_states(value: bytes, width: int) -> torch.Tensor:
    return torch.from_numpy(np.frombuffer(value, dtype=np.int16).copy()).view(torch.bfloat16).view(-1, width)


def _list_clips(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [part for message in messages for part in list_parts(message) if is_audio_part(part)]


def _spell(message: dict[str, Any], token: str, count: Callable[[], int]) -> Any:
    """Return the content of a message with as many placeholders as a clip has tokens in its place."""
    if not any(map(is_audio_part, list_parts(message))):
        return message["content"]
    return [{"type": "text", "text": token * count()} if is_audio_part(part) else part for part in list_parts(message)]


def _fill_windows(lengths: list[int], step: int, gap: int, room: int) -> Iterator[list[tuple[int, int]]]:
    """Yield for each window its clips and where they start, in samples; all starts are multiples of `step`."""
    window: list[tuple[int, int]] = []
    place = num_windows = 0
    for index, length in enumerate(lengths):
        is_single = num_windows % _SINGLE_WINDOWS == 0
        if window and (is_single or place + length > room):
            yield window
            window, place, num_windows = [], 0, num_windows + 1
        window.append((index, place))
        place = -(-(place + length + gap) // step) * step
    if window:
        yield window


def _name(value: Any) -> str:
    return Hasher.hash(value)
