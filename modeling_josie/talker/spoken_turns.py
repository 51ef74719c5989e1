"""Spoken turns of a batch: the Talker says each turn by itself, from the states of one pass over all turns of a row."""

from typing import NamedTuple

import torch
from torch import nn
from transformers.utils import torch_compilable_check

from ...configuration_josie.constants import IGNORE_INDEX
from ..layers.embeddings import gather_rows


class SpokenTurns(NamedTuple):
    """Inputs of the Talker, a row for each spoken turn.

    Args:
        speech_codes (`torch.LongTensor`): `(num_turns, num_quantizers, num_frames)`.
        states (`tuple[torch.Tensor, ...]`): Each `(num_turns, longest turn, width)`, of the turn's tokens.
        mask (`torch.Tensor`): `(num_turns, longest turn)`, 1 for real tokens.
        speaker_ids (`torch.LongTensor`, *optional*): `(num_turns,)`.
        speech_durations (`torch.Tensor`, *optional*): `(num_turns, longest turn)`.
        places (`torch.LongTensor`, *optional*): `(num_turns,)`, index of each in `(batch, most turns)`, flattened;
            `None` where each row of the batch is a turn.
    """

    speech_codes: torch.Tensor
    states: tuple[torch.Tensor, ...]
    mask: torch.Tensor
    speaker_ids: torch.Tensor | None
    speech_durations: torch.Tensor | None
    places: torch.Tensor | None


def split_turns(
    speech_codes: torch.Tensor,
    speech_mask: torch.Tensor,
    *states: torch.Tensor,
    speaker_ids: torch.Tensor | None = None,
    speech_durations: torch.Tensor | None = None,
) -> SpokenTurns:
    """Make a row of each spoken turn; places without speech are left out, but for one if there is no other.

    Args:
        speech_codes (`torch.LongTensor`): `(batch, num_quantizers, num_frames)`, or
            `(batch, most turns, num_quantizers, num_frames)`; -100 in places without speech.
        speech_mask (`torch.Tensor`): `(batch, length)`, 1 for tokens of a row's first spoken turn, 2 for those of its
            second, and so on; 0 for tokens that are not spoken.
        states (`torch.Tensor`): Each `(batch, length, width)`.
        speaker_ids (`torch.LongTensor`, *optional*): `(batch,)`, one voice a row.
        speech_durations (`torch.Tensor`, *optional*): `(batch, num_tokens)`, of all spoken tokens of a row in order.

    Raises:
        `ValueError`: The mask has more turns than there are codes for.
    """
    most = speech_codes.shape[1] if speech_codes.ndim == 4 else 1
    torch_compilable_check(
        (speech_mask <= most).all(),
        lambda: (
            f"`speech_codes` must be of shape (batch, {int(speech_mask.max())}, num_quantizers, num_frames) for the "
            f"spoken turns that `speech_mask` counts, got {tuple(speech_codes.shape)}."
        ),
    )
    if speech_codes.ndim != 4:
        *chosen, mask = gather_rows(speech_mask, *states)
        return SpokenTurns(speech_codes, tuple(chosen), mask, speaker_ids, speech_durations, None)
    flat = speech_codes.flatten(0, 1)
    places = (flat != IGNORE_INDEX).flatten(1).any(dim=1).nonzero()[:, 0]  # waits for the device, once a batch
    places = places if len(places) else places.new_zeros(1)
    rows = places // most
    is_said = speech_mask[rows] == (places % most + 1)[:, None]
    if speech_durations is not None:  # to the places of the tokens
        index = (speech_mask > 0).cumsum(dim=1) - 1
        wanted, given = int(index.max()) + 1, speech_durations.shape[1]
        if given != wanted:
            raise ValueError(
                f"`speech_durations` must have a number for each spoken token, in all {(len(index), wanted)}, "
                f"got {tuple(speech_durations.shape)}."
            )
        durations = nn.functional.pad(speech_durations, (0, 1)).gather(1, index.clamp(min=0))
        states = (*states, durations[..., None])
    *chosen, mask = gather_rows(is_said, *(state[rows] for state in states))
    durations = None if speech_durations is None else chosen.pop()[..., 0] * mask
    speakers = None if speaker_ids is None else speaker_ids[rows]
    return SpokenTurns(flat[places], tuple(chosen), mask, speakers, durations, places)


def join_turns(values: torch.Tensor, places: torch.Tensor | None, speech_codes: torch.Tensor) -> torch.Tensor:
    """Return what the Talker gave for each turn in the form of `speech_codes`, 0 in places without speech.

    Args:
        values (`torch.Tensor`): `(num_turns, ...)`.
        places (`torch.LongTensor`, *optional*): Of [`SpokenTurns`].
        speech_codes (`torch.LongTensor`): As given to [`split_turns`].

    Returns:
        `(batch, ...)`, or `(batch, most turns, ...)`.
    """
    if places is None:
        return values
    size = speech_codes.shape[:2]
    return values.new_zeros(size.numel(), *values.shape[1:]).index_copy(0, places, values).unflatten(0, size)
