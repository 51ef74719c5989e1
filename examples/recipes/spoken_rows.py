"""The assistant's recorded speech as codes: made once and kept on disk, or of a stream batch by batch; or left out."""

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from datasets.fingerprint import Hasher
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from josie import add_speech_codes
from josie.configuration_josie import audio_codec_geometry
from josie.processing_josie.messages import is_audio_part, list_parts
from josie.processing_josie.spoken_turns import with_codes
from josie.training.encode_dataset import require_own_codes, require_own_features
from recipes.configuration import read_section
from recipes.conversations import ConversationDataArguments, date_files, find_encodings, load_conversations
from recipes.model_cards import describe_sources
from recipes.places import make_folder
from recipes.word_times import time_tokens

COLUMNS = ("speech_codes", "length", "speaker", "speech_durations", "word_times", "seconds")  # beside `messages`
_TIMED = ("turns", "audio", "seconds", "images", "forget_until", "past")  # of rows of full duplex
_ROWS_AT_ONCE = 16
Collate = Callable[[list[dict[str, Any]]], dict[str, torch.Tensor]]


@dataclass
class SpeechEncoder:
    """Makes the codes that a Talker learns, a function for `map` of data sets.

    Args:
        codec ([`PreTrainedModel`]): Makes them.
        num_quantizers (`int`): As many as the Talker predicts.
        end_of_speech (`bool`): Whether it learns to stop.
    """

    codec: PreTrainedModel
    num_quantizers: int
    end_of_speech: bool

    @classmethod
    def of_model(cls, model: Any) -> "SpeechEncoder":
        """Return the encoder of a model, a copy that stays where it is when the model moves.

        Raises:
            `ValueError`: It does not speak.
        """
        if getattr(model, "talker", None) is None or model.audio_codec is None:
            raise ValueError(f"`model` must have a Talker and an audio codec, got a {type(model).__name__} without.")
        config = model.config.talker_config
        return cls(copy.deepcopy(model.audio_codec).eval(), config.num_quantizers, config.end_of_speech)

    @property
    def frame_rate(self) -> float:
        """Frames of codes in a second."""
        return audio_codec_geometry(self.codec.config).frame_rate

    def __call__(self, rows: dict[str, list[Any]]) -> dict[str, list[Any]]:
        """Return `speech_codes`, those that are given included, and `length` in frames for a batch of `messages`."""
        given = rows.get("speech_codes") or [None] * len(rows["messages"])
        messages = [with_codes(said, codes) for said, codes in zip(rows["messages"], given, strict=True)]
        codes = add_speech_codes({"messages": messages}, self.codec, self.num_quantizers, self.end_of_speech)
        return {**codes, "length": [value.shape[-1] for value in codes["speech_codes"]]}

    def encode_rows(self, rows: Dataset, folder: str | Path) -> Dataset:
        """Return rows with their codes, from a file in `folder` if the same recordings were encoded there before."""
        if not len(rows):
            return rows
        if {"speech_codes", "length"} <= set(rows.column_names) and _are_full(rows, "speech_codes", "length"):
            return rows  # of `josie encode`
        columns = [list(rows[name]) for name in ("messages", "speech_codes") if name in rows.column_names]
        name = Hasher.hash((self, columns, [date_files(_list_recordings(messages)) for messages in columns[0]]))
        folder = make_folder(folder, "data.folder")
        return rows.map(
            self,
            batched=True,
            batch_size=_ROWS_AT_ONCE,  # few, so that the bar moves
            desc="Encoding speech",
            cache_file_name=str(folder / f"codes-{name}.arrow"),
            new_fingerprint=name,  # else the codec is hashed once more
        )


@dataclass
class SpokenConversations:
    """The rows of a configuration's section `data`, which may be spoken.

    Args:
        rows (`dict`): The rows of each split, with `messages`.
        sources (`list[str]`): Their sources in words.
        folder (`str`): The place of codes that are made of recordings.
        encoded (`list[str]`): The folders of the features that are read in place of audio.
        encodings (`list[Path]`): The folders of `josie encode` that rows come from.
    """

    rows: dict[str, Any]
    sources: list[str]
    folder: str
    encoded: list[str] = field(default_factory=list)
    encodings: list[Path] = field(default_factory=list)

    @classmethod
    def load(
        cls, config: dict[str, Any], keep: Callable[[dict[str, Any]], bool] | None = None
    ) -> "SpokenConversations":
        """Load the rows, before there is a model.

        Args:
            config (`dict`): All sections.
            keep (`Callable`, *optional*): Whether a row is used; all are when `None`.
        """
        data = read_section(config, "data", ConversationDataArguments, columns=list(COLUMNS))
        encoded = [str(source["path"]) for source in data.sources] if data.audio_features else []
        encodings = [folder for each in data.sources if each["name"] == "datasets" for folder in find_encodings(each)]
        return cls(load_conversations(data, keep), describe_sources(data.sources), data.folder, encoded, encodings)

    def require_encoder(self, model: Any) -> None:
        """Raise a `ValueError` if features are to be read that another audio encoder wrote, or if that one learns."""
        for folder in self.encoded:
            require_own_features(Path(folder), model)
        encoder = getattr(model, "thinker", model).model.audio_front_end.encoder if self.encoded else None
        if encoder is not None and any(parameter.requires_grad for parameter in encoder.parameters()):
            raise ValueError(
                "`data.audio_features` must be false unless 'thinker.audio.encoder' is among `freeze`, got true."
            )

    def encode(self, encoder: SpeechEncoder, tokenizer: PreTrainedTokenizerBase | None = None) -> dict[str, Any]:
        """Return the rows of each split with `speech_codes` and their `length` in frames; streams as they are.

        Args:
            encoder ([`SpeechEncoder`]): Makes the codes.
            tokenizer ([`~transformers.PreTrainedTokenizerBase`], *optional*): Of whose tokens rows with `word_times`
                get `speech_durations`.

        Raises:
            `ValueError`: Codes were encoded ahead by another codec, or for a Talker that stops in another way.
        """
        for folder in self.encodings:
            require_own_codes(folder, encoder.codec, encoder.end_of_speech)
        return {
            split: time_rows(encoder.encode_rows(part, self.folder), tokenizer, encoder.frame_rate)
            if isinstance(part, Dataset)
            else part
            for split, part in self.rows.items()
        }


def time_rows(rows: Dataset, tokenizer: PreTrainedTokenizerBase | None, frame_rate: float) -> Dataset:
    """Return rows with `speech_durations`, in frames, where all rows have `word_times`; as they are elsewhere.

    Args:
        rows (`datasets.Dataset`): With `messages` of one spoken turn, `word_times` and `seconds`, see
            [`recipes.word_times.time_text`].
        tokenizer ([`~transformers.PreTrainedTokenizerBase`], *optional*): Of the texts; nothing is done without one.
        frame_rate (`float`): Frames in a second.
    """
    is_timed = "word_times" in rows.column_names and all(times is not None for times in rows["word_times"])
    if tokenizer is None or not is_timed or not len(rows):
        return rows
    columns = zip(rows["messages"], rows["word_times"], rows["seconds"], strict=True)
    durations = [
        [frame_rate * part for part in time_tokens(_read_words(messages), tokenizer, times, seconds)]
        for messages, times, seconds in columns
    ]
    return rows.remove_columns("speech_durations").add_column("speech_durations", durations)  # type: ignore[call-arg]


def _are_full(rows: Dataset, *names: str) -> bool:
    """Return whether no row lacks a value in one of some columns."""
    tables: Any = rows.select_columns(list(names)).with_format("arrow").iter(batch_size=1000)
    return not any(column.null_count for table in tables for column in table.columns)


def _read_words(messages: list[dict[str, Any]]) -> str:
    parts = [part for part in list_parts(messages[-1]) if not is_audio_part(part)]
    return "".join(part["text"] for part in parts)


def _list_recordings(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    spoken = [message for message in messages if message.get("role") == "assistant"]
    return [part for message in spoken for part in list_parts(message) if is_audio_part(part)]


def is_spoken(row: dict[str, Any]) -> bool:
    """Return whether the assistant speaks in a row."""
    codes = row.get("speech_codes")
    return bool(_list_recordings(row["messages"])) or codes is not None and len(codes) > 0


def without_speech(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return messages without the assistant's recordings."""
    return [
        dict(message, content=[part for part in list_parts(message) if not is_audio_part(part)])
        if message.get("role") == "assistant" and any(map(is_audio_part, list_parts(message)))
        else message
        for message in messages
    ]


@dataclass
class SpeechCollator:
    """Makes the codes of rows that have none yet, those of a stream.

    Args:
        collate: Makes the batch.
        encode ([`SpeechEncoder`]): Makes the codes.
    """

    collate: Collate
    encode: SpeechEncoder

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """Return the batch."""
        missing = [index for index, row in enumerate(rows) if row.get("speech_codes") is None]
        if missing:
            names = ("messages", "speech_codes")
            codes = self.encode({name: [rows[index].get(name) for index in missing] for name in names})
            made = dict(zip(missing, codes["speech_codes"], strict=True))
            rows = [row | {"speech_codes": made[index]} if index in made else row for index, row in enumerate(rows)]
        return self.collate(rows)


@dataclass
class SilentCollator:
    """Leaves the assistant's recordings out.

    Args:
        collate: Makes the batch.
    """

    collate: Collate

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """Return the batch."""
        names = ("messages", "system", "audio_features", *_TIMED)
        kept = [{name: row[name] for name in names if row.get(name) is not None} for row in rows]
        silent = [{"messages": without_speech(row["messages"])} if "messages" in row else {} for row in kept]
        return self.collate([row | messages for row, messages in zip(kept, silent, strict=True)])
