"""The assistant's recorded speech: audio in its turns, which is not heard but learned.

Audio in a turn of the assistant is how the words of that turn are to be spoken. It puts no placeholder into the text.
It comes as a waveform, which a codec turns into codes, or as codes that were made before.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch

from ..configuration_josie.constants import IGNORE_INDEX
from .audio import as_waveform
from .message_forms import read_conversation
from .messages import Conversation, is_audio_part, list_parts, part_value


@dataclass(frozen=True)
class SpokenTurn:
    """A turn of a conversation that is spoken.

    Args:
        turn (`int`): Which of the assistant's turns, from the end: 1 for the last.
        audio: Its waveform or file, in a form that [`as_waveform`] takes; `None` with codes.
        codes (`torch.LongTensor`, *optional*): `(num_quantizers, num_frames)`.
    """

    turn: int
    audio: Any = None
    codes: torch.Tensor | None = None

    def read(self, sampling_rate: int, num_channels: int = 1, default_rate: int | None = None) -> np.ndarray:
        """Return the waveform, `(num_channels, num_samples)`.

        Args:
            sampling_rate (`int`): Of the result, in Hz.
            num_channels (`1` or `2`): Of the result.
            default_rate (`int`, *optional*): Of values that come without one, in Hz.
        """
        return as_waveform(self.audio, default_rate, sampling_rate, num_channels)


def split_speech(conversation: Conversation) -> tuple[Conversation, list[SpokenTurn]]:
    """Take the assistant's speech out of a conversation.

    Args:
        conversation (`list[dict]`): Messages. Audio in a turn of the assistant may have `codes`, of shape
            `(num_quantizers, num_frames)`, in place of an input.

    Returns:
        The conversation without audio in the assistant's turns, and the turns that are spoken, in order.

    Raises:
        `ValueError`: More than one clip in a turn, one without an input, or codes of another shape.
    """
    conversation = read_conversation(conversation)
    heard, clips, num_turns = [], [], 0
    for message in conversation:
        if message.get("role") == "assistant":
            num_turns += 1
            parts = list_parts(message)
            found = [part for part in parts if is_audio_part(part)]
            if len(found) > 1:
                raise ValueError(f"`messages` must have at most one clip in a turn of the assistant, got {len(found)}.")
            if found:
                clips.append((num_turns, found[0]))
                message = dict(message, content=[part for part in parts if not is_audio_part(part)])
        heard.append(message)
    spoken = []
    for turn, part in clips:
        codes = as_codes(part.get("codes"))
        spoken.append(SpokenTurn(1 + num_turns - turn, part_value(part) if codes is None else None, codes))
    return (heard if spoken else conversation), spoken


def with_codes(conversation: Conversation, codes: Any) -> Conversation:
    """Return a conversation with the codes of its spoken turns.

    Args:
        conversation (`list[dict]`): Messages; not changed.
        codes: Of the turns that have audio, in order; if none has, of the assistant's last turn, or of each of its
            turns. In a form that [`split_codes`] takes; nothing when `None` or empty.

    Raises:
        `ValueError`: There is no turn of the assistant, or codes of another number of turns.
    """
    conversation = read_conversation(conversation)
    turns = [index for index, message in enumerate(conversation) if message.get("role") == "assistant"]
    sounding = [index for index in turns if any(is_audio_part(part) for part in list_parts(conversation[index]))]
    given = split_codes(codes)
    if len(sounding or turns) == 1 and len(given) > 1 and _depth(codes) == 2:
        given = [as_codes(codes)]  # frames in the middle of which nothing is learned
    if not any(value is not None for value in given):
        return conversation
    if not turns:
        raise ValueError("`speech_codes` must belong to a turn of the assistant, got a conversation without one.")
    spoken = sounding or (turns[-1:] if len(given) == 1 else turns)
    spoken = turns if len(given) == len(turns) and len(given) != len(spoken) else spoken
    if len(given) != len(spoken):
        raise ValueError(
            f"`speech_codes` must be as many as the spoken turns of their `messages` ({len(spoken)}), got {len(given)}."
        )
    changed = list(conversation)
    for index, value in zip(spoken, given, strict=True):
        if value is not None:
            parts = [part for part in list_parts(conversation[index]) if not is_audio_part(part)]
            changed[index] = dict(conversation[index], content=[*parts, {"type": "audio", "codes": value}])
    return changed


def split_codes(codes: Any) -> list[torch.Tensor | None]:
    """Return the codes of each spoken turn, `(num_quantizers, num_frames)`.

    Args:
        codes: Of one turn, `(num_quantizers, num_frames)`; of several, one after the other with a frame of -100 between
            them, as [`join_turns`] makes them; or a list of those of each turn, some of which may be `None`.
    """
    if codes is None or (_is_nested(codes) and all(map(_is_nothing, codes))):
        return []
    if _depth(codes) == 3:
        return [as_codes(value) for value in codes]
    matrix = as_codes(codes)
    if matrix is None:
        return []
    is_between = (matrix == IGNORE_INDEX).all(dim=0)
    ends = [*is_between.nonzero()[:, 0].tolist(), matrix.shape[1]]
    return [matrix[:, before + 1 : end] for before, end in pairwise([-1, *ends]) if end > before + 1]


def join_turns(turns: Sequence[torch.Tensor]) -> torch.Tensor:
    """Return the codes of several turns as one matrix, a frame of -100 between them.

    Args:
        turns (`list[torch.Tensor]`): Each `(num_quantizers, num_frames)`.

    Raises:
        `ValueError`: Different numbers of quantizers.
    """
    _count_quantizers(turns)
    between = turns[0].new_full((turns[0].shape[0], 1), IGNORE_INDEX)
    return torch.cat([piece for turn in turns for piece in (between, turn)][1:], dim=1)


def _depth(codes: Any) -> int:
    """Return how many axes nested codes have."""
    if not _is_nested(codes):
        return getattr(codes, "ndim", 0)
    inner = (value for value in codes if not _is_nothing(value))
    return 1 + next(map(_depth, inner), 0)


def _is_nothing(value: Any) -> bool:
    return value is None or (_is_nested(value) and len(value) == 0)


def _is_nested(codes: Any) -> bool:
    """Return whether codes are lists, or arrays of arrays as data frames have them."""
    return isinstance(codes, (list, tuple)) or (isinstance(codes, np.ndarray) and codes.dtype.hasobject)


def as_codes(codes: Any) -> torch.Tensor | None:
    """Return codes of any form as a tensor `(num_quantizers, num_frames)`; `None` where there are none.

    Raises:
        `ValueError`: They have another shape, or are no integers.
    """
    if codes is None:
        return None
    if not _is_nested(codes) and getattr(codes, "ndim", 0) == 0:
        raise ValueError(f"`speech_codes` must be integers of shape (num_quantizers, num_frames), got {codes!r:.200}.")
    if len(codes) == 0:
        return None
    if _is_nested(codes):
        rows = [np.asarray(row) for row in codes]
        if len({row.shape for row in rows}) > 1:
            raise ValueError(
                "`speech_codes` must be integers of shape (num_quantizers, num_frames), got rows of different lengths "
                f"{[row.size for row in rows]}."
            )
        codes = np.stack(rows)
    try:
        codes = torch.as_tensor(codes.copy() if isinstance(codes, np.ndarray) else codes)  # some are read-only
    except (TypeError, RuntimeError) as error:  # values of which torch makes no tensor
        raise ValueError(
            f"`speech_codes` must be integers of shape (num_quantizers, num_frames), got {codes.tolist()!r:.200}."
        ) from error
    if codes.ndim == 3 and codes.shape[0] == 1:
        codes = codes[0]
    if codes.ndim != 2 or codes.is_floating_point():
        raise ValueError(
            "`speech_codes` must be integers of shape (num_quantizers, num_frames), "
            f"got {str(codes.dtype).removeprefix('torch.')} of shape {tuple(codes.shape)}."
        )
    return codes.long() if codes.numel() else None


def join_codes(rows: Sequence[Sequence[torch.Tensor | None]]) -> torch.Tensor:
    """Return the codes of a batch, filled up with -100: all of it where nothing is spoken.

    Args:
        rows (`list`): The spoken turns of each row, each `(num_quantizers, num_frames)` or `None`; some are there.

    Returns:
        `(batch, num_quantizers, max_frames)`, or `(batch, most turns, num_quantizers, max_frames)` where a row has
        several.

    Raises:
        `ValueError`: Different numbers of quantizers.
    """
    given = [value for row in rows for value in row if value is not None]
    most = max(map(len, rows))
    size = (len(rows), most, _count_quantizers(given), max(value.shape[1] for value in given))
    joined = given[0].new_full(size, IGNORE_INDEX)
    for index, row in enumerate(rows):
        for turn, value in enumerate(row):
            if value is not None:
                joined[index, turn, :, : value.shape[1]] = value
    return joined if most > 1 else joined[:, 0]


def _count_quantizers(codes: Sequence[torch.Tensor]) -> int:
    counts = {value.shape[0] for value in codes}
    if len(counts) > 1:
        raise ValueError(f"`speech_codes` must have one number of quantizers, got {sorted(counts)}.")
    return counts.pop()


def join_waveforms(waveforms: list[np.ndarray | None]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return `(batch, channels, max_samples)`, filled up with 0, and the mask of real samples, `(batch, max_samples)`.

    Args:
        waveforms (`list`): Each `(channels, num_samples)`, or `None`; some are there.
    """
    given = [value for value in waveforms if value is not None]
    shape = (len(waveforms), len(given[0]), max(value.shape[1] for value in given))
    values = torch.zeros(shape, dtype=torch.float32)
    mask = torch.zeros(len(waveforms), values.shape[-1], dtype=torch.long)
    for row, value in enumerate(waveforms):
        if value is not None:
            values[row, :, : value.shape[1]] = torch.from_numpy(value)
            mask[row, : value.shape[1]] = 1
    return values, mask
