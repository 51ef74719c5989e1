"""State of a batch of sessions: all that is carried from unit to unit. It goes in and comes out; the model keeps none.

A state may be copied, to go on from one place twice; `state_files` writes it to a file. What it holds of the model (the
Talker's stream reads its weights) is shared by copies.
"""

import copy
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from transformers.cache_utils import Cache

from ..outputs import HeardToken
from .memory import RowMemory
from .voice import VoiceTurn


@dataclass
class SessionRow:
    """One session of a batch.

    Args:
        memory ([`RowMemory`]): What the Thinker has read.
        speaker_ids (`torch.LongTensor`, *optional*): `(1,)`, the voice.
        seed (`int`): Of the first turn's draws; each turn counts on.
        turn ([`VoiceTurn`], *optional*): The turn that is said.
        turn_start (`float`): Seconds at which it began.
        num_turns (`int`): Turns so far.
        is_speaking (`bool`): Whether the last unit was spoken.
        position (`int`): The Thinker's next position.
    """

    memory: RowMemory
    speaker_ids: torch.Tensor | None
    seed: int
    turn: VoiceTurn | None = None
    turn_start: float = 0.0
    num_turns: int = 0
    is_speaking: bool = False
    position: int = 0


@dataclass
class JosieSessionState:
    """State of sessions.

    Args:
        rows (`list[SessionRow]`): One for each session.
        options (`dict`): Of the Talker, for all of them.
        audio (*optional*): State of the audio input; `None` at the beginning.
        cache (`Cache`, *optional*): The Thinker's; `None` where it has to read all anew.
        attention_mask (`torch.BoolTensor`, *optional*): `(batch, length)`, which places of the cache a row has read.
    """

    rows: list[SessionRow]
    options: dict[str, Any] = field(default_factory=dict)
    audio: Any = None
    cache: Cache | None = None
    attention_mask: torch.Tensor | None = None

    @property
    def num_units(self) -> list[int]:
        """Units of each row so far."""
        return [row.memory.num_units for row in self.rows]

    def copy(self, model: nn.Module) -> "JosieSessionState":
        """Return a copy that goes on by itself.

        Args:
            model ([`JosieForConditionalGeneration`]): The model, which is not copied.
        """
        return copy.deepcopy(self, share_model(model))

    def __copy__(self) -> "JosieSessionState":
        raise TypeError("`state` must be copied by its `copy`, as a shallow copy would share its rows.")

    def reset_rows(self, rows: torch.Tensor) -> None:
        """Begin some sessions anew, with their prompts, while the others go on.

        Args:
            rows (`torch.BoolTensor`): `(batch,)`, true for those.

        Raises:
            `ValueError`: `rows` is of another type or shape.
        """
        if rows.dtype != torch.bool or rows.shape != (len(self.rows),):
            raise ValueError(
                f"`rows` must be a bool tensor of shape ({len(self.rows)},), got {rows.dtype} {tuple(rows.shape)}."
            )
        for number in rows.nonzero()[:, 0].tolist():
            row = self.rows[number]
            self.rows[number] = SessionRow(RowMemory(row.memory.prompt), row.speaker_ids, row.seed)
        if self.audio is not None:
            self.audio = self.audio.reset_rows(rows)
        self.cache = self.attention_mask = None


def share_model(model: nn.Module) -> dict[int, Any]:
    """Return a memo for `copy.deepcopy` with which parts of a model, its configurations and weights stay the same."""
    memo: dict[int, Any] = {}
    for module in model.modules():
        for part in (module, getattr(module, "config", None)):
            if part is not None:
                memo[id(part)] = part
    memo |= {id(parameter): parameter for parameter in model.parameters()}
    return memo


@dataclass
class JosieSessionOutput:
    """One unit of sessions.

    Args:
        audio_values (`torch.FloatTensor`): `(batch, channels, num_samples)`, what is heard while the next unit is
            listened to; 0 where a session is silent.
        sequences (`list[list[int]]`): For each row the tokens that were written: the decision first, then text.
        heard (`list[list[HeardToken]]`): For each row the spoken tokens that end in `audio_values`.
        is_speaking (`list[bool]`): Whether a row speaks.
        session_state ([`JosieSessionState`]): For the next unit.
        logits (`list[torch.Tensor]`, *optional*): For each row `(num_tokens, vocab_size)`, of `sequences`, when asked.
    """

    audio_values: torch.Tensor
    sequences: list[list[int]]
    heard: list[list[HeardToken]]
    is_speaking: list[bool]
    session_state: JosieSessionState
    logits: list[torch.Tensor] | None = None
