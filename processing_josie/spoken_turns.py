"""The assistant's recorded speech: sounds in its turns, which are not heard but learned.

A sound in a turn of the assistant is how the words of that turn are to be spoken. It puts no placeholder into the text.
It comes as a waveform, which a codec turns into codes, or as codes that were made before.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ..configuration_josie.constants import IGNORE_INDEX
from .audio import as_waveform
from .messages import Conversation, is_audio_part, list_parts, part_value

_TOO_MANY = (
    "`messages` must have at most one sound in the assistant's turns, as a row is learned with one spoken turn: make a "
    "row of each, got {}."
)


@dataclass(frozen=True)
class SpokenTurn:
    """The one turn of a conversation that is spoken.

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


def split_speech(conversation: Conversation) -> tuple[Conversation, SpokenTurn | None]:
    """Take the assistant's speech out of a conversation.

    Args:
        conversation (`list[dict]`): Messages. A sound in a turn of the assistant may have `codes`, of shape
            `(num_quantizers, num_frames)`, in place of an input.

    Returns:
        The conversation without sounds in the assistant's turns, and the turn that is spoken, if any.

    Raises:
        `ValueError`: More than one sound, one without an input, or codes of another shape.
    """
    heard, sounds, num_turns = [], [], 0
    for message in conversation:
        if message.get("role") == "assistant":
            num_turns += 1
            parts = list_parts(message)
            found = [(num_turns, part) for part in parts if is_audio_part(part)]
            if found:
                sounds += found
                message = dict(message, content=[part for part in parts if not is_audio_part(part)])
        heard.append(message)
    if len(sounds) > 1:
        raise ValueError(_TOO_MANY.format(len(sounds)))
    if not sounds:
        return conversation, None
    turn, part = sounds[0]
    codes = as_codes(part.get("codes"))
    return heard, SpokenTurn(1 + num_turns - turn, part_value(part) if codes is None else None, codes)


def with_codes(conversation: Conversation, codes: Any) -> Conversation:
    """Return a conversation with the codes of its spoken turn.

    Args:
        conversation (`list[dict]`): Messages; not changed.
        codes: Of the turn that has a sound, or of the assistant's last one if none has; nothing when `None` or empty.

    Raises:
        `ValueError`: There is no turn of the assistant.
    """
    codes = as_codes(codes)
    if codes is None:
        return conversation
    turns = [index for index, message in enumerate(conversation) if message.get("role") == "assistant"]
    if not turns:
        raise ValueError("`speech_codes` must belong to a turn of the assistant, got a conversation without one.")
    sounding = [index for index in turns if any(is_audio_part(part) for part in list_parts(conversation[index]))]
    if len(sounding) > 1:
        raise ValueError(_TOO_MANY.format(len(sounding)))
    index = (sounding or turns)[-1]
    parts = [part for part in list_parts(conversation[index]) if not is_audio_part(part)]
    message = dict(conversation[index], content=[*parts, {"type": "audio", "codes": codes}])
    return [*conversation[:index], message, *conversation[index + 1 :]]


def as_codes(codes: Any) -> torch.Tensor | None:
    """Return codes of any form as a tensor `(num_quantizers, num_frames)`; `None` where there are none.

    Raises:
        `ValueError`: They have another shape, or are no integers.
    """
    if codes is None or len(codes) == 0:
        return None
    codes = torch.as_tensor(np.asarray(codes) if isinstance(codes, (list, tuple)) else codes)
    if codes.ndim == 3 and codes.shape[0] == 1:
        codes = codes[0]
    if codes.ndim != 2 or codes.is_floating_point():
        raise ValueError(
            "`speech_codes` must be integers of shape (num_quantizers, num_frames), "
            f"got {str(codes.dtype).removeprefix('torch.')} of shape {tuple(codes.shape)}."
        )
    return codes.long() if codes.numel() else None


def join_codes(codes: list[torch.Tensor | None]) -> torch.Tensor:
    """Return `(batch, num_quantizers, max_frames)`, filled up with -100; rows without codes are -100 throughout.

    Args:
        codes (`list`): Each `(num_quantizers, num_frames)`, or with a batch of 1 in front, or `None`; some are there.

    Raises:
        `ValueError`: Different numbers of quantizers.
    """
    given = [value.reshape(value.shape[-2:]) for value in codes if value is not None]
    num_quantizers = {value.shape[0] for value in given}
    if len(num_quantizers) > 1:
        raise ValueError(f"`speech_codes` must have one number of quantizers, got {sorted(num_quantizers)}.")
    joined = given[0].new_full((len(codes), *num_quantizers, max(value.shape[1] for value in given)), IGNORE_INDEX)
    for row, value in enumerate(codes):
        if value is not None:
            joined[row, :, : value.shape[-1]] = value.reshape(value.shape[-2:])
    return joined


def join_waveforms(waveforms: list[np.ndarray | None]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return `(batch, channels, max_samples)`, filled up with 0, and the mask of real samples, `(batch, max_samples)`.

    Args:
        waveforms (`list`): Each `(channels, num_samples)`, or `None`; some are there.
    """
    given = [value for value in waveforms if value is not None]
    values = torch.zeros(len(waveforms), len(given[0]), max(value.shape[1] for value in given))
    mask = torch.zeros(len(waveforms), values.shape[-1], dtype=torch.long)
    for row, value in enumerate(waveforms):
        if value is not None:
            values[row, :, : value.shape[1]] = torch.from_numpy(value)
            mask[row, : value.shape[1]] = 1
    return values, mask
