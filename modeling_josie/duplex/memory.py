"""Memory of a session: the prompt, the latest units with their audio, and before these what was said, as text.

A row is what the Thinker has read, in the form in which it can be read again. When the units are too many, the older
half loses its audio: what is left of it are the tokens that were said, images, and the decisions that began and ended
turns. The Thinker then reads all of it again, from its first position on. So memory and positions are bounded, and what
a session says after that follows from what one pass reads.
"""

from dataclasses import dataclass, field

import torch


@dataclass
class Rows:
    """Media that were read, as rows of the Thinker's width.

    Args:
        values (`torch.Tensor`): `(num_rows, hidden_size)`.
        is_audio (`bool`): Whether it is audio of a unit, which is forgotten first.
    """

    values: torch.Tensor
    is_audio: bool = False

    def __len__(self) -> int:
        return len(self.values)


# A part of what a row has read: token ids, or media.
Entry = list[int] | Rows


def count_positions(entries: list[Entry]) -> int:
    """Return how many positions entries take."""
    return sum(map(len, entries))


@dataclass
class RowMemory:
    """Everything that one row has read.

    Args:
        prompt (`list[Entry]`): Before the first unit.
        history (`list[Entry]`): What is left of units that are forgotten.
        units (`list[list[Entry]]`): The latest units.
        pending (`list[Entry]`): The end of the last unit (or an image before the next one) that is not read yet.
        was_speaking (`bool`): Whether the last unit of `history` was spoken.
        num_units (`int`): Units so far.
        shown (`list[Entry]`): Images that were shown since the last unit.
    """

    prompt: list[Entry]
    history: list[Entry] = field(default_factory=list)
    units: list[list[Entry]] = field(default_factory=list)
    pending: list[Entry] = field(default_factory=list)
    shown: list[Entry] = field(default_factory=list)
    was_speaking: bool = False
    num_units: int = 0

    @property
    def num_positions(self) -> int:
        """Positions of all that was read, and of what is pending."""
        return count_positions([*self.prompt, *self.history, *self.shown]) + sum(map(count_positions, self.units))

    def begin_unit(self, audio: torch.Tensor) -> None:
        """Append the unit of `(num_tokens, hidden_size)` audio, behind images that were shown since the last one."""
        entries: list[Entry] = [*self.shown, Rows(audio, is_audio=True)]
        self.shown = []
        self.units.append(entries)
        self.pending += entries
        self.num_units += 1

    def write(self, token: int) -> None:
        """Append a token to the current unit."""
        self.units[-1].append([token])
        self.pending.append([token])

    def take_pending(self) -> list[Entry]:
        """Return what is to be read, as it is read now."""
        pending, self.pending = self.pending, []
        return pending

    def list_entries(self) -> list[Entry]:
        """Return all that was read or is pending, in order."""
        return [*self.prompt, *self.history, *(entry for unit in self.units for entry in unit)]

    def forget(self, num_kept: int, most_history: int, listen_id: int, speak_id: int) -> None:
        """Turn all but the last units into text.

        Args:
            num_kept (`int`): Units that keep their audio.
            most_history (`int`): Positions that the text may take; the oldest is dropped beyond.
            listen_id, speak_id (`int`): The tokens of decisions.
        """
        forgotten = self.units[: len(self.units) - num_kept]
        self.units = self.units[len(forgotten) :]
        for unit in forgotten:
            for entry in unit:
                if isinstance(entry, Rows):
                    self.history += [] if entry.is_audio else [entry]
                    continue
                for token in entry:
                    if token in (listen_id, speak_id):
                        is_change = self.was_speaking == (token == listen_id)
                        self.was_speaking = token == speak_id
                        if not is_change:
                            continue
                    self.history.append([token])
        while self.history and count_positions(self.history) > most_history:
            self.history.pop(0)
