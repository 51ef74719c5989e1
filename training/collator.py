"""Batches for training: of conversations, or of already processed examples."""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal, cast

import numpy as np
import torch
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence

from ..configuration_josie import SpeechTiming
from ..configuration_josie.constants import IGNORE_INDEX
from ..processing_josie.encoded_clips import with_features
from ..processing_josie.message_forms import ROW_COLUMNS, add_system, drop_missing, row_messages
from ..processing_josie.messages import Conversation
from ..processing_josie.nested_values import join_arrays, to_list
from ..processing_josie.processor import JosieProcessor
from ..processing_josie.spoken_turns import join_codes, with_codes
from ..processing_josie.text_inputs import require_side
from .unit_rows import Items, is_unit_row, make_unit_row

# By position of the text. Everything else that is a tensor holds items (clips, images, videos) along its first axis.
_TOKEN_FILLERS = {
    "attention_mask": 0,
    "labels": IGNORE_INDEX,
    "speech_mask": 0,
    "mm_token_type_ids": 0,
    "assistant_masks": 0,
}
# Of processed examples: what they were made of, and what they are grouped by.
_IGNORED = (*ROW_COLUMNS, "length")


@dataclass
class JosieDataCollator:
    """Joins examples into a batch: conversations, which it processes all at once, or processed ones.

    `Trainer` needs `remove_unused_columns=False`, so that conversations reach it.

    Args:
        processor ([`JosieProcessor`]): Processes conversations, or made the examples.
        padding_side (`"left"` or `"right"`): Where shorter texts are filled up.
        speech_timing ([`SpeechTiming`], *optional*): `model.get_speech_timing()`, for rows of full duplex.
    """

    columns: ClassVar[tuple[str, ...]] = (
        *ROW_COLUMNS,
        "speech_codes",
        "audio_features",
        "speech_durations",
        "speaker",
        *("turns", "seconds", "forget_until", "past"),
    )

    processor: JosieProcessor
    padding_side: Literal["left", "right"] = "left"
    speech_timing: SpeechTiming | None = None

    def __post_init__(self):
        require_side(self.padding_side)

    def __call__(self, features: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """Join examples.

        Args:
            features (`list[dict]`): Either conversations, each with `messages` as in
                [`JosieProcessor.apply_chat_template`]; where the assistant speaks, `speech_codes` of shape
                `(num_quantizers, num_frames)`, of its turn with audio or else of its last one, or of several turns,
                see [`with_codes`]; `speech_durations`, for how many frames each spoken token is said, where that is
                known; `audio_features`, the states of the audio encoder of each clip that is heard, in place of its
                input, as `josie encode --features` makes them; and `speaker`, the name of its voice. A text as `system`
                is the first message. Files belong into the messages, and not beside them. All else is ignored, as
                `speaker` is by a model whose voice has no name.
                Or rows of full duplex, with `turns` that have times, `audio` and `messages`, see
                [`read_timed_row`]; other rows of the batch may be conversations.
                Or processed examples, each with `input_ids` of shape `(length,)` or `(1, length)` and, as wanted,
                others of that shape (`attention_mask`, `labels`, `speech_mask`); a number as `speaker_ids`;
                `speech_codes` as above, or `(num_turns, num_quantizers, num_frames)`; and the inputs of its clips,
                images and videos, `(num_items, ...)`. Examples may have different ones, others `None`. Their `length`
                and the columns of [`row_messages`], of which they may have been made, are ignored.

        Returns:
            `dict` of tensors: by text `(batch, max_length)`, `labels` filled up with -100; `speech_codes`
            `(batch, num_quantizers, max_frames)`, or `(batch, num_turns, num_quantizers, max_frames)` where a row has
            several spoken turns, filled up with -100; `speech_durations` `(batch, max_tokens)`, filled
            up with 0; items of all examples along the first axis, in order, filled up with 0.

        Raises:
            `ValueError`: No examples, one without `input_ids`, or one with a column that is no numbers; the errors of
                [`JosieProcessor.apply_chat_template`] and of [`row_messages`], an unknown voice, a spoken turn without
                codes, or durations of other tokens than are spoken.
        """
        features = [drop_missing(feature) for feature in features]
        is_timed = [is_unit_row(feature) for feature in features]
        if any(is_timed):
            features = [
                self._make_unit_row(feature) if timed else self._process_alone(feature)
                for feature, timed in zip(features, is_timed, strict=True)
            ]
        if features and all("messages" in feature or "conversations" in feature for feature in features):
            return self._process(features)
        without = [sorted(feature) for feature in features if "input_ids" not in feature]
        if not features or without:
            found = f"one with {without[0] or 'nothing'}" if without else "none"
            raise ValueError(f"`features` must be examples with `input_ids`, or all rows with `messages`, got {found}.")
        names = list(dict.fromkeys(name for feature in features for name in feature if name not in _IGNORED))
        rows = [{name: _as_tensors(name, feature[name]) for name in names if name in feature} for feature in features]
        pad_id = self.processor.tokenizer.pad_token_id
        fillers = _TOKEN_FILLERS | {"input_ids": IGNORE_INDEX if pad_id is None else pad_id}
        lengths = [row["input_ids"].shape[-1] for row in rows]
        if pad_id is None and len(set(lengths)) > 1:
            raise ValueError(f"`features` must be of one length, as the tokenizer has no padding token, got {lengths}.")
        if "attention_mask" not in names:
            names.append("attention_mask")
        batch = {}
        for name in names:
            if name in fillers:
                batch[name] = self._join_tokens(rows, name, lengths, fillers[name])
            elif name == "speech_codes":
                batch[name] = join_codes([_list_turns(cast(Any, row.get(name))) for row in rows])
            elif name == "speaker_ids":  # of every row, also of those that do not speak
                batch[name] = torch.cat([torch.as_tensor(row.get(name, 0)).reshape(1) for row in rows])
            elif name == "speech_durations":
                masks = [row.get("speech_mask") for row in rows]
                counts = None if all(mask is None for mask in masks) else [_count(mask) for mask in masks]
                given = [row[name].reshape(-1) if name in row else None for row in rows]
                batch[name] = _join_durations(given, counts)
            else:
                items = (item for row in rows if name in row for item in _list_items(row[name]))
                batch[name] = _join_items([torch.atleast_1d(item) for item in items])
        return batch

    def _make_unit_row(self, feature: dict[str, Any]) -> dict[str, Any]:
        if self.speech_timing is None:
            raise ValueError(
                "`speech_timing` of the collator must be `model.get_speech_timing()` for rows with times, got None."
            )
        messages = add_system(to_list(feature.get("messages")) or [], feature)
        return make_unit_row(self.processor, self.speech_timing, feature | {"messages": messages})

    def _process_alone(self, feature: dict[str, Any]) -> dict[str, Any]:
        """Return a conversation, or what is processed already, as an example that joins rows of full duplex."""
        if "messages" not in feature and "conversations" not in feature:
            return feature
        return self._process([feature])

    def _process(self, examples: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """Return a batch of conversations."""
        conversations = [_read_conversation(example) for example in examples]
        batch = self.processor.apply_chat_template(
            conversations,
            tokenize=True,
            return_dict=True,
            output_labels=True,
            processor_kwargs={"padding": True, "padding_side": self.padding_side},
        )
        if "speech_values" in batch:
            raise ValueError(
                "`messages` must have codes of the assistant's speech: make them with `josie.add_speech_codes`, got "
                "audio alone."
            )
        durations = [example.get("speech_durations") for example in examples]
        if any(values is not None for values in durations):
            mask = batch.get("speech_mask")
            counts = [0] * len(durations) if mask is None else [_count(row) for row in mask]
            batch["speech_durations"] = _join_durations(durations, counts)
        names = [example.get("speaker") for example in examples]
        if self.processor.speakers and any(name is not None for name in names):
            batch["speaker_ids"] = torch.tensor([self._speaker_id(name) for name in names])
        return dict(batch)

    def _speaker_id(self, speaker: str | None) -> int:
        """Return the number of a voice; the first one's without a name, as in the Talker."""
        if speaker is None:
            return 0
        if speaker not in self.processor.speakers:
            raise ValueError(f"`speaker` must be one of {self.processor.speakers}, got {speaker!r}.")
        return self.processor.speakers.index(speaker)

    def _join_tokens(self, rows: list[dict], name: str, lengths: list[int], filler: int) -> torch.Tensor:
        """Return `(batch, max_length)`; an example without it has nothing masked, or nothing to learn."""
        joined = []
        for row, length in zip(rows, lengths, strict=True):
            default = torch.full((length,), 1 if name == "attention_mask" else filler)
            values = row.get(name, default).reshape(-1)
            if len(values) != length:
                raise ValueError(f"`{name}` must be as long as its `input_ids` ({length}), got {len(values)}.")
            missing = max(lengths) - length
            sides = (missing, 0) if self.padding_side == "left" else (0, missing)
            joined.append(functional.pad(values, sides, value=filler))
        return torch.stack(joined)


def _read_conversation(example: dict[str, Any]) -> Conversation:
    """Return the messages of a row, with what was encoded ahead of training in its place."""
    return with_features(with_codes(row_messages(example), example.get("speech_codes")), example.get("audio_features"))


def _as_tensors(name: str, value: Any) -> torch.Tensor | Items:
    """Return a tensor of a value, also of one that comes back from a table; floating point as single precision."""
    if isinstance(value, Items):
        return value
    try:
        joined = join_arrays(value)
        tensor = torch.as_tensor(joined.copy() if isinstance(joined, np.ndarray) else joined)  # some are read-only
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(
            f"`{name}` of an example with `input_ids` must be numbers, in rows of one length, got {value!r:.200}: "
            "remove columns that are no inputs."
        ) from error
    return tensor.float() if tensor.dtype == torch.float64 else tensor


def _count(mask: Any) -> int:
    """Return how many tokens of a row are spoken."""
    return 0 if mask is None else int((mask > 0).sum())


def _join_durations(durations: list[Any], counts: list[int] | None) -> torch.Tensor:
    """Return `(batch, num_tokens)`, how long each spoken token is said, filled up with 0.

    Args:
        durations (`list`): Of each row; `None` where they are not known.
        counts (`list[int]`, *optional*): Of spoken tokens; as many as there are durations if not given.
    """
    if counts is None:
        counts = [0 if values is None else len(values) for values in durations]
    durations = [
        [] if values is None and not count else values for values, count in zip(durations, counts, strict=True)
    ]
    found = [None if values is None else len(values) for values in durations]
    if found != counts:
        raise ValueError(
            "`speech_durations` must have a number for each spoken token in every example of a batch, in all "
            f"{counts}, got {found}."
        )
    rows = [torch.as_tensor(values, dtype=torch.float32) for values in durations]
    for row in rows:
        if not (row.isfinite() & (row >= 0)).all():
            raise ValueError(f"`speech_durations` must be finite numbers of frames, at least 0, got {row.tolist()}.")
    return pad_sequence(rows, batch_first=True)


def _list_items(value: torch.Tensor | Items) -> list[torch.Tensor]:
    """Return tensors of items of one example, `(num_items, ...)` each."""
    return value if isinstance(value, Items) else [value]


def _list_turns(codes: torch.Tensor | None) -> list[torch.Tensor]:
    """Return the codes of each spoken turn of an example."""
    if codes is None or not codes.numel():
        return []
    return list(codes.reshape(-1, *codes.shape[-2:]))


def _join_items(items: list[torch.Tensor]) -> torch.Tensor:
    """Return tensors one after the other along the first axis, the others filled up with 0 to the largest."""
    shape = [max(item.shape[axis] for item in items) for axis in range(1, items[0].ndim)]
    joined = items[0].new_zeros(sum(len(item) for item in items), *shape)
    start = 0
    for item in items:
        joined[(slice(start, start + len(item)), *map(slice, item.shape[1:]))] = item
        start += len(item)
    return joined
