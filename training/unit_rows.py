"""Rows of full duplex to tensors: a prompt, units of audio, and in each the decision and what is written.

A row has the user's track and the turns of the assistant with times::

    {"audio": "user.wav", "turns": [{"begin": 2.4, "text": "It is red.", "cut_at": 3.1}]}

Or its messages have parts with times, which are heard or shown then; those without are the prompt::

    {"messages": [{"role": "user", "content": [{"type": "audio", "path": "question.wav", "begin": 0.5}]}], "turns": ...}

A turn is heard from the first unit on whose output begins at or after `begin`, so that what decides about it was over
before. It goes on for a unit longer than it takes to say. It is cut at the first unit at or after `cut_at`.
"""

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from ..configuration_josie import SpeechTiming, split_into_units
from ..configuration_josie.constants import IGNORE_INDEX
from ..processing_josie.audio import as_waveform
from ..processing_josie.message_forms import row_messages
from ..processing_josie.messages import list_parts, part_value
from ..processing_josie.nested_values import is_empty, is_nested, to_dict, to_list
from ..processing_josie.processor import JosieProcessor
from .timed_turns import read_past, read_time, read_turns

_LONGEST = 86_400.0  # seconds, a day: what is longer is a time in other units, and no memory holds it
_ROUNDING = 1e-6  # of units: a time at a border of units belongs to that border


class Items(list[torch.Tensor]):
    """Inputs of clips or images of one row, `(num_items, ...)` each."""


def is_unit_row(row: dict[str, Any]) -> bool:
    """Return whether a row has times: turns, or parts of messages that begin somewhere."""
    if row.get("turns") is not None:
        return True
    messages = [to_dict(message) or {} for message in to_list(row.get("messages")) or []]
    parts = [to_dict(part) or {} for message in messages for part in to_list(message.get("content")) or []]
    return any(part.get("begin") is not None for part in parts)


@dataclass
class TimedRow:
    """A row, read.

    Args:
        track (`np.ndarray`): `(num_samples,)`, the user's side, at the rate of the audio input.
        turns (`list[dict]`): Of the assistant, in order.
        images (`list[tuple[float, Any]]`): Times and images that are shown.
        prompt (`list[dict]`): Messages without times.
        forget_until (`float`): Units that begin before are remembered as text.
        past (`list[str]`): Turns of the assistant before all, of which nothing but the text is remembered.
    """

    track: np.ndarray
    turns: list[dict[str, Any]]
    images: list[tuple[float, Any]] = field(default_factory=list)
    prompt: list[dict[str, Any]] = field(default_factory=list)
    forget_until: float = 0.0
    past: list[str] = field(default_factory=list)


def read_timed_row(row: dict[str, Any], sampling_rate: int) -> TimedRow:
    """Read a row.

    Args:
        row (`dict`): With `turns`, `audio` (a track), `messages`, `seconds` (the length at least), `forget_until`
            (seconds before which the audio of units is forgotten, as in a long session) and `past` (texts of turns
            before the row), all optional.
        sampling_rate (`int`): Of the result, in Hz.

    Raises:
        `ValueError`: A part with a time that is neither audio nor an image, a time below 0 or beyond a day, or turns of
            another form.
    """
    clips: list[tuple[float, Any]] = [] if row.get("audio") is None else [(0.0, row["audio"])]
    turns = read_turns(row.get("turns"))
    images: list[tuple[float, Any]] = []
    prompt: list[dict[str, Any]] = []
    if not is_empty(row.get("conversations")):
        raise ValueError("A row with times must have its prompt in `messages`, got `conversations`.")
    for given in to_list(row.get("messages")) or []:
        message = to_dict(given) or {}
        content = message.get("content")
        parts = list_parts(message | {"content": content if isinstance(content, str) else to_list(content)})
        parts = [to_dict(part) or part for part in parts]
        timed = [part for part in parts if isinstance(part, dict) and part.get("begin") is not None]
        if not timed:
            prompt.append(given)
            continue
        if len(timed) < len(parts):
            raise ValueError("`messages` must have `begin` in all parts of a message or in none, got some with it.")
        for part in timed:
            begin = read_time(part["begin"], "begin")
            if message.get("role") == "assistant" and part.get("type") == "text":
                turns += read_turns([{name: value for name, value in part.items() if name != "type"}])
            elif message.get("role") == "user" and part.get("type") in ("audio", "image"):
                (clips if part["type"] == "audio" else images).append((begin, _read_part(part)))
            else:
                raise ValueError(
                    "`begin` must stand in the user's audio and images, and in the assistant's text, got it in "
                    f"{part.get('type')!r} of {message.get('role')!r}."
                )
    prompt = row_messages({"messages": prompt}) if prompt else []
    waveforms = [(begin, as_waveform(clip, None, sampling_rate)[0]) for begin, clip in clips]
    length = round(_require_time(read_time(row.get("seconds"), "seconds"), "seconds") * sampling_rate)
    for begin, _ in clips + images:
        _require_time(begin, "begin")
    ends = [round(begin * sampling_rate) + len(waveform) for begin, waveform in waveforms]
    track = np.zeros(max([length, *ends]), np.float32)
    for begin, waveform in waveforms:
        start = round(begin * sampling_rate)
        track[start : start + len(waveform)] += waveform
    turns.sort(key=lambda turn: turn["begin"])
    forget_until = read_time(row.get("forget_until"), "forget_until")
    return TimedRow(track, turns, sorted(images, key=_first), prompt, forget_until, read_past(row.get("past")))


def make_unit_row(processor: JosieProcessor, timing: SpeechTiming, row: dict[str, Any]) -> dict[str, Any]:
    """Make the inputs of a row.

    Args:
        processor ([`JosieProcessor`]): Of a model with units.
        timing ([`SpeechTiming`]): Of the model.
        row (`dict`): As in [`read_timed_row`], and `images` that are there from the beginning.

    Returns:
        `input_ids` and `labels`, `(length,)`, where placeholders, the prompt and what was forgotten but for its text
        are not learned; and the inputs of clips and images, as [`Items`].

    Raises:
        `ValueError`: As [`read_timed_row`]; turns that follow each other without a unit between them.
    """
    thinker = processor.thinker_config
    if thinker.unit_frames is None:
        raise ValueError("`processor` must be of a model with `unit_frames` for rows with times, see `add_units`.")
    timed = read_timed_row(row, thinker.unit_sampling_rate)
    written = lay_out_turns(processor, timing, timed.turns)
    shown = [(int(begin / thinker.unit_seconds + _ROUNDING), image) for begin, image in timed.images]
    last = max(max(written, default=-1) + 1, *(place for place, _ in shown), 0)
    num_units = max(thinker.get_num_units(len(timed.track)), last + 1)
    images: Any = row.get("images")
    images = list(images) if is_nested(images) else images  # a list of a table
    inputs: Any = processor.process_session_prompt(timed.prompt, None if is_empty(images) else images)
    items: dict[str, Items] = {
        name: Items([value]) for name, value in inputs.items() if name not in ("input_ids", "attention_mask")
    }
    ids = inputs["input_ids"][0].tolist()
    for text in timed.past:  # as `RowMemory.forget` leaves it
        said = processor.tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
        ids += [thinker.speak_token_id, *said, processor.tokenizer.eos_token_id, thinker.listen_token_id]
    labels = [IGNORE_INDEX] * len(ids)
    first = min(math.ceil(timed.forget_until / thinker.unit_seconds - _ROUNDING), num_units - 1)
    was_speaking = False
    for unit in range(num_units):
        for image in [image for place, image in shown if place == unit]:
            seen = processor.process_shown_image(image)
            ids += seen.pop("input_ids")[0].tolist()
            for name, value in seen.items():
                items.setdefault(name, Items()).append(value)
        new = written.get(unit, [thinker.listen_token_id])
        is_speaking = new[0] == thinker.speak_token_id
        if unit < first:  # the same
            ids += new[is_speaking == was_speaking :]
        else:
            ids += [thinker.audio_token_id] * int(thinker.unit_frames)
        labels += [IGNORE_INDEX] * (len(ids) - len(labels))
        if unit >= first:
            ids, labels = ids + new, labels + new
        was_speaking = is_speaking
    track = np.zeros(num_units * thinker.unit_samples, np.float32)
    track[: len(timed.track)] = timed.track
    track = track[first * thinker.unit_samples :]
    items.setdefault("input_values", Items()).append(torch.from_numpy(track)[None, None])
    items.setdefault("padding_mask", Items()).append(torch.ones(1, len(track), dtype=torch.long))
    return {"input_ids": torch.tensor(ids), "labels": torch.tensor(labels), **items}


def lay_out_turns(processor: JosieProcessor, timing: SpeechTiming, turns: list[dict[str, Any]]) -> dict[int, list[int]]:
    """Return what is written in each unit that is spoken.

    Args:
        processor ([`JosieProcessor`]): Tokenizes.
        timing ([`SpeechTiming`]): Of the model.
        turns (`list[dict]`): In order.

    Raises:
        `ValueError`: Turns that follow each other without a unit between them, or go on beyond a day, or tokens without
            durations.
    """
    thinker = processor.thinker_config
    speak_id, end_id, seconds = thinker.speak_token_id, processor.tokenizer.eos_token_id, thinker.unit_seconds
    written: dict[int, list[int]] = {}
    for turn in turns:
        first = max(math.ceil(turn["begin"] / seconds - _ROUNDING) - 1, 0)
        if {first, first - 1} & written.keys():
            raise ValueError(
                f"`turns` must begin a unit of {seconds:.2f} s or more after the one before is over, or cut, got one "
                f"that begins at {turn['begin']} s."
            )
        ids, durations = time_tokens(processor, timing, turn)
        _require_time(turn["begin"] + sum(durations) / timing.frame_rate, "turns")
        counts = split_into_units(durations, timing.unit_frames, timing.speech_delay, timing.right_context)
        # A unit more than it takes: a model that stops a little too soon has said all.
        num_units = max(len(counts), math.ceil(math.ceil(sum(durations)) / timing.unit_frames)) + 1
        start, units = 0, []
        for unit in range(num_units):
            count = counts[unit] if unit < len(counts) else 0
            units.append([speak_id, *ids[start : start + count]])
            start += count
            if unit == len(counts) - 1:
                units[-1].append(end_id)
        if turn.get("cut_at") is not None:
            last = math.ceil(turn["cut_at"] / seconds - _ROUNDING) - 1
            units = units[: max(last - first, 1)]
        written |= {first + number: unit for number, unit in enumerate(units)}
    return written


def time_tokens(processor: JosieProcessor, timing: SpeechTiming, turn: dict[str, Any]) -> tuple[list[int], list[float]]:
    """Return the tokens of a turn, and for how many frames each is said; 0 for those that are not.

    Durations are those of the turn, or follow from its words' times, or from the model's durations of tokens.

    Args:
        processor ([`JosieProcessor`]): Tokenizes.
        timing ([`SpeechTiming`]): Of the model.
        turn (`dict`): As in [`read_timed_row`].

    Raises:
        `ValueError`: There are none, or of another number.
    """
    tokenizer = processor.tokenizer
    words = turn.get("words")
    text = turn["text"] if words is None else " ".join(word["text"] for word in words)
    encoded = tokenizer(
        text, add_special_tokens=False, split_special_tokens=True, return_offsets_mapping=words is not None
    )
    ids: list[int] = encoded["input_ids"]
    if turn.get("durations") is not None:
        durations = [float(value) for value in turn["durations"]]
        if len(durations) != len(ids):
            raise ValueError(
                f"`durations` must have a number for each of {len(ids)} tokens of {text!r}, got {len(durations)}."
            )
        return ids, durations
    if words is not None:
        return ids, _spread_words(turn["begin"], words, encoded["offset_mapping"], timing.frame_rate)
    if timing.token_durations is None:
        raise ValueError(
            "`durations` or `words` must stand in each turn for a model whose durations depend on states, got none in "
            f"the turn of {text!r}."
        )
    silent = set(tokenizer.all_special_ids)
    spoken = iter(timing.token_durations([token for token in ids if token not in silent]))
    return ids, [0.0 if token in silent else next(spoken) for token in ids]


def _spread_words(
    begin: float, words: list[dict[str, Any]], offsets: list[tuple[int, int]], frame_rate: float
) -> list[float]:
    """Return durations of tokens: each word lasts until the next begins, and its tokens share that."""
    starts = np.cumsum([0, *(len(word["text"]) + 1 for word in words[:-1])])
    bounds = [begin, *(word["begin"] for word in words[1:]), words[-1]["end"]]
    owners = [int(np.searchsorted(starts, max(end - 1, first), side="right")) - 1 for first, end in offsets]
    counts = np.bincount(owners, minlength=len(words))
    return [max(bounds[owner + 1] - bounds[owner], 0.0) * frame_rate / counts[owner] for owner in owners]


def _require_time(seconds: float, name: str) -> float:
    """Return a time; raise a `ValueError` that names the field for one beyond a day."""
    if seconds > _LONGEST:
        raise ValueError(f"`{name}` must be seconds, {_LONGEST:.0f} at most, got {seconds:g}.")
    return seconds


def _read_part(part: dict[str, Any]) -> Any:
    """Return the input of a part with a time."""
    plain = {name: value for name, value in part.items() if name != "begin"}
    return part_value(list_parts(row_messages({"messages": [{"role": "user", "content": [plain]}]})[0])[0])


def _first(pair: tuple[float, Any]) -> float:
    return pair[0]
