"""Turns of the assistant with times, as rows of full duplex have them, read from what tables and libraries give."""

import math
from numbers import Real
from typing import Any

from ..configuration_josie.unicode_text import require_unicode
from ..processing_josie.nested_values import is_empty, to_dict, to_list

_KEYS = ("begin", "text", "cut_at", "durations", "words")
_WORD_KEYS = ("text", "begin", "end")


def read_time(value: Any, name: str) -> float:
    """Return a time in seconds; 0 for `None`.

    Args:
        value: A number, also of NumPy, or an array or tensor of one.
        name (`str`): What it is called.

    Raises:
        `ValueError`: It is no number of at least 0.
    """
    if value is None:
        return 0.0
    number = value.item() if getattr(value, "ndim", None) == 0 else value
    if isinstance(number, bool) or not isinstance(number, Real) or not 0 <= float(number) < math.inf:
        raise ValueError(f"`{name}` must be seconds of at least 0, got {value!r}.")
    return float(number)


def read_past(value: Any) -> list[str]:
    """Return the texts of turns before a row."""
    texts = [] if value is None else to_list(value)
    if texts is None or not all(isinstance(text, str) and text for text in texts):
        raise ValueError(f"`past` must be a list of texts of turns, got {value!r}.")
    for text in texts:
        require_unicode("past", text)
    return texts


def read_turns(value: Any) -> list[dict[str, Any]]:
    """Return turns with `begin`, `text` or `words`, and perhaps `cut_at` and `durations`, times as floats.

    Raises:
        `ValueError`: They are no list of dicts, or a field is missing, unknown or of another form.
    """
    turns = [] if value is None else to_list(value)
    read = [to_dict(turn) for turn in turns or ()]
    if turns is None or any(turn is None for turn in read):
        raise ValueError(f"`turns` must be a list of dicts, got {value!r:.200}.")
    return [_read_turn({name: given for name, given in (turn or {}).items() if given is not None}) for turn in read]


def _read_turn(turn: dict[str, Any]) -> dict[str, Any]:
    unknown = sorted(map(str, turn.keys() - set(_KEYS)))
    if unknown:
        raise ValueError(f"`turns` must have keys among {list(_KEYS)}, got {unknown}.")
    given = [name for name in ("text", "words") if not is_empty(turn.get(name))]
    if "begin" not in turn or len(given) != 1:
        raise ValueError(f"`turns` must have `begin`, and either `text` or `words`, got {sorted(turn)}.")
    read: dict[str, Any] = {"begin": read_time(turn["begin"], "begin")}
    if given == ["text"]:
        if not isinstance(turn["text"], str):
            raise ValueError(f"`text` of a turn must be a string, got {turn['text']!r}.")
        require_unicode("text", turn["text"])
        read["text"] = turn["text"]
    else:
        read["words"] = _read_words(turn["words"], read["begin"])
    if "cut_at" in turn:
        read["cut_at"] = read_time(turn["cut_at"], "cut_at")
        if not read["cut_at"] > read["begin"]:
            raise ValueError(f"`cut_at` must be after `begin` ({read['begin']}), got {turn['cut_at']}.")
    if "durations" in turn:
        durations = to_list(turn["durations"])
        if durations is None or not all(_is_length(value) for value in durations):
            raise ValueError(
                f"`durations` must be finite numbers of frames, at least 0, got {turn['durations']!r:.200}."
            )
        read["durations"] = [float(value) for value in durations]
    return read


def _is_length(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and 0 <= float(value) < math.inf


def _read_words(value: Any, begin: float) -> list[dict[str, Any]]:
    words, last = [], begin
    for given in to_list(value) or [None]:
        word = to_dict(given)
        if word is None or set(word) != set(_WORD_KEYS) or not isinstance(word["text"], str):
            raise ValueError(f"`words` must be dicts with `text`, `begin` and `end`, got {given!r:.200}.")
        require_unicode("text", word["text"])
        word |= {name: read_time(word[name], f"{name} of a word") for name in ("begin", "end")}
        if not last <= word["begin"] <= word["end"]:
            raise ValueError(
                f"`words` must follow each other from the `begin` of their turn on, got {word['text']!r} from "
                f"{word['begin']} to {word['end']} s after {last} s."
            )
        words.append(word)
        last = word["begin"]
    return words
