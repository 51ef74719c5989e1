"""Spoken tokens on the time of the frames: which token a step of the Talker reads, and when a token is heard.

The text of a row comes token by token, and may be longer than the Talker's positions. It is cut into segments, each
spoken from a new start: at the end of a sentence once half of the positions are used, and anywhere before they run out.
Where a cut falls depends on the tokens so far and on nothing else, so that text that flows in is cut as it would be if
all of it were known. Times are summed in double precision, as they must not depend on how many tokens are known.
"""

from dataclasses import dataclass, field

import torch

_SENTENCE_SHARE, _LONGEST_SHARE = 0.5, 0.9  # of the positions: when a segment may end, and when it must


@dataclass
class Reading:
    """Inputs of one step of a row.

    Args:
        embeds (`torch.Tensor`, *optional*): `(hidden_size,)`, of the token; `None` when the text is over.
        since, until (`float`): Frames since the token began, or since the text was over, and until it ends.
    """

    embeds: torch.Tensor | None
    since: float
    until: float


@dataclass
class Segment:
    """Tokens that are spoken from one start.

    Args:
        end (`float`): Frames that its tokens take.
        is_closed (`bool`): Whether it has all of its tokens.
        times (`list[tuple[float, float]]`): When each of its tokens begins and ends, in frames of the segment.
    """

    end: float = 0.0
    is_closed: bool = False
    times: list[tuple[float, float]] = field(default_factory=list)
    _waiting: list[torch.Tensor] = field(default_factory=list)  # embeddings of the tokens from `_first` on
    _first: int = 0

    def add(self, embeds: torch.Tensor, duration: float) -> None:
        """Append a token that takes `duration` frames."""
        self.times.append((self.end, self.end + duration))
        self.end += duration
        self._waiting.append(embeds)

    def read(self, step: int) -> Reading:
        """Return what a step reads: the token whose time covers its middle. Tokens before that are forgotten."""
        middle = step + 0.5
        while self._waiting and self.times[self._first][1] <= middle:
            del self._waiting[0]
            self._first += 1
        if not self._waiting:
            return Reading(None, middle - self.end, 0.0)
        begin, end = self.times[self._first]
        return Reading(self._waiting[0], middle - begin, end - middle)

    @property
    def num_unread(self) -> int:
        """Tokens that no step has gone beyond."""
        return len(self._waiting)


class Timeline:
    """The tokens of one row.

    Args:
        max_frames (`int`): Frames that the positions allow.
    """

    def __init__(self, max_frames: int):
        self.max_frames = max_frames
        self.is_closed = False  # no more tokens will come
        self.segments = [Segment()]
        self.index = 0  # of the segment that is spoken

    @property
    def current(self) -> Segment:
        """The segment that is spoken."""
        return self.segments[self.index]

    def add(self, embeds: torch.Tensor, duration: float, ends_sentence: bool = False) -> None:
        """Append a token.

        Args:
            embeds (`torch.Tensor`): `(hidden_size,)`, what it adds to the steps that read it.
            duration (`float`): Frames for which it is read.
            ends_sentence (`bool`): Whether a segment may end behind it.
        """
        last = self.segments[-1]
        last.is_closed = last.is_closed or (bool(last.times) and last.end + duration > _LONGEST_SHARE * self.max_frames)
        if last.is_closed:
            last = Segment()
            self.segments.append(last)
        last.add(embeds, duration)
        last.is_closed = ends_sentence and last.end > _SENTENCE_SHARE * self.max_frames

    def can_read(self, step: int) -> bool:
        """Whether it is known what step `step` of the current segment reads."""
        return self.is_closed or self.current.is_closed or self.current.end > step + 0.5

    @property
    def knows_what_follows(self) -> bool:
        """Whether it is known if another segment follows the current one."""
        return self.is_closed or self.index + 1 < len(self.segments)

    def advance(self) -> bool:
        """Go on to the next segment; return whether there is one."""
        if self.index + 1 == len(self.segments):
            return False
        self.index += 1
        return True
