"""Reading of a batch of sessions: the Thinker's cache grows by what each row has to read, and is made anew in time.

Rows read different numbers of tokens in a unit. What is read together is filled up in front; the filling is masked, and
each row counts its own positions.
"""

from typing import Any

import torch
from torch import nn

from ..layers.offloading import find_device
from ..thinker.input_stream import list_gap_readers
from .memory import Entry, count_positions
from .state import JosieSessionState

_HISTORY_SHARE = 0.25  # of the positions, for what was said before the units that are remembered
_TOKENS_PER_FRAME = 2  # a unit has at most so many tokens for each of its frames


def most_tokens(config: Any) -> int:
    """Return how many tokens a unit may have beside its audio."""
    talker = config.talker_config
    return _TOKENS_PER_FRAME * (config.unit_speech_frames + talker.speech_delay) + talker.duration_right_context + 4


def require_batch(model: Any, batch_size: int) -> None:
    """Raise a `ValueError` unless rows may read different numbers of tokens, which leave gaps in a batch."""
    readers = list_gap_readers(model._backbone.language_model)
    if batch_size > 1 and readers:
        raise ValueError(
            f"`input_ids` must have one row for a text backbone with {readers}, which gaps between the tokens of a row "
            f"would change: open sessions one by one, got {batch_size} rows."
        )


class SessionReader:
    """The Thinker of a whole model, for sessions.

    Args:
        model ([`JosieForConditionalGeneration`]): The model.
    """

    def __init__(self, model: Any):
        self.backbone, self.config = model._backbone, model.config
        self.embed = model.get_input_embeddings()
        thinker_config = model.config.thinker_config
        self.num_positions: int = thinker_config.max_sequence_length
        self.most_history = int(_HISTORY_SHARE * self.num_positions)
        self.unit_size: int = thinker_config.unit_frames + most_tokens(model.config)

    def read(self, state: JosieSessionState, pieces: list[list[Entry]]) -> torch.Tensor:
        """Read what is given for each row, and nothing in rows without.

        Args:
            state ([`JosieSessionState`]): Is changed.
            pieces (`list[list[Entry]]`): For each row; some row has some.

        Returns:
            `(batch, 1, hidden_size)`, the state of each row's last token; of no meaning in rows that read nothing.
        """
        rows = [self._embed_entries(entries) for entries in pieces]
        longest = max(map(len, rows))
        embeds = torch.stack([nn.functional.pad(row, (0, 0, longest - len(row), 0)) for row in rows])
        mask = torch.tensor([[place >= longest - len(row) for place in range(longest)] for row in rows])
        mask = mask.to(embeds.device)
        starts = torch.tensor([row.position for row in state.rows], device=embeds.device)
        positions = (starts[:, None] + mask.cumsum(dim=1) - 1).clamp(min=0)
        for row, read in zip(state.rows, rows, strict=True):
            row.position += len(read)
        before = state.attention_mask
        state.attention_mask = mask if before is None else torch.cat((before, mask), dim=1)
        outputs = self.backbone(
            inputs_embeds=embeds,
            attention_mask=state.attention_mask.long(),
            position_ids=positions,
            cache=state.cache,
            use_cache=True,
            return_dict=True,
        )
        state.cache = outputs.cache
        return outputs.last_hidden_state[:, -1:]

    def _embed_entries(self, entries: list[Entry]) -> torch.Tensor:
        """Return `(length, hidden_size)`."""
        device, dtype = find_device(self.embed), self.embed.weight.dtype
        parts = [
            self.embed(torch.tensor(entry, device=device)) if isinstance(entry, list) else entry.values
            for entry in entries
        ]
        if not parts:
            return torch.zeros(0, self.embed.weight.shape[1], device=device, dtype=dtype)
        return torch.cat([part.to(device, dtype) for part in parts])

    def make_room(self, state: JosieSessionState, num_new: list[int]) -> bool:
        """Forget audio of rows that have no room for another unit; return whether all is to be read anew.

        Args:
            state ([`JosieSessionState`]): Is changed.
            num_new (`list[int]`): Positions that each row's next unit has beside audio and tokens: those of images.
        """
        thinker = self.config.thinker_config
        for row, size in zip(state.rows, num_new, strict=True):
            memory = row.memory
            is_full = memory.num_positions + self.unit_size + size > self.num_positions
            if not is_full and (thinker.unit_window is None or len(memory.units) < thinker.unit_window):
                continue
            num_kept = len(memory.units) // 2
            if is_full:
                room = self.num_positions - count_positions(memory.prompt) - self.most_history - self.unit_size - size
                num_kept = min(num_kept, _count_fitting(memory.units, room // 2))
            memory.forget(num_kept, self.most_history, thinker.listen_token_id, thinker.speak_token_id)
            state.cache = None
        longest = 0 if state.attention_mask is None else state.attention_mask.shape[1]
        # Places that one row fills and others leave free take memory too.
        return state.cache is None or longest > 2 * self.num_positions

    def read_anew(self, state: JosieSessionState) -> torch.Tensor:
        """Read all that the rows remember, from the first position on; as [`SessionReader.read`]."""
        state.cache = state.attention_mask = None
        for row in state.rows:
            row.position, row.memory.pending = 0, []
        return self.read(state, [row.memory.list_entries() for row in state.rows])


def _count_fitting(units: list[list[Entry]], room: int) -> int:
    """Return how many of the last units fit into so many positions."""
    for count, unit in enumerate(reversed(units)):
        room -= count_positions(unit)
        if room < 0:
            return count
    return len(units)
