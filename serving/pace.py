"""Pace of a server: whether it makes speech as fast as it is heard."""

import time
from collections import deque
from dataclasses import dataclass

import numpy as np

_MEMORY = 15.0  # seconds for which a speech that has ended counts
_SHORTEST = 0.5  # seconds of speech that tell something
_LEAST_SPREAD = 0.5  # of the numbers of speeches at once, from which on they tell what one more adds


@dataclass
class Clock:
    """Time and length of one speech.

    Args:
        first (`float`, *optional*): When its first sample was there.
        last (`float`): When the last one was, as if nothing had paused for a slow client.
        seen (`float`): When the last one was.
        seconds (`float`): Its length behind the first piece.
        received (`float`): Its whole length.
        late (`float`): Seconds for which a player that began with the first piece waited for a later one, at most.
        waited (`float`): Seconds for which others had the turn before the first piece.
    """

    first: float | None = None
    last: float = 0.0
    seen: float = 0.0
    seconds: float = 0.0
    received: float = 0.0
    late: float = 0.0
    waited: float = 0.0

    def add(self, seconds: float, paused: float = 0.0, waited: float = 0.0) -> None:
        """Note that there is more.

        Args:
            seconds (`float`): Of speech.
            paused (`float`): Seconds for which the making has waited for the client until now.
            waited (`float`): Seconds for which it has waited for its turns until now.
        """
        self.seen = time.monotonic()
        self.last = self.seen - paused
        if self.first is None:
            self.first, self.waited = self.last, waited
        else:
            self.late = max(self.late, self.last - self.first - self.received)
            self.seconds += seconds
        self.received += seconds

    def share_with(self, other: "Clock") -> float:
        """Return for which share of its time another speech was in the making too."""
        if self.first is None or other.first is None or self.seen <= self.first:
            return float(self is other)
        return max(0.0, min(self.seen, other.seen) - max(self.first, other.first)) / (self.seen - self.first)

    @property
    def due(self) -> float | None:
        """Time at which a player that began with the first piece has played all; `None` before that piece."""
        return None if self.first is None else self.first + self.received + self.seen - self.last

    @property
    def real_time_factor(self) -> float | None:
        """Seconds that it took for a second of speech, once there is enough to tell."""
        if self.first is None or self.seconds < _SHORTEST:
            return None
        return (self.last - self.first) / self.seconds


class Pace:
    """The speeches of the last seconds.

    Args:
        slowest (`float`): The largest real-time factor that there may be with one more.
        latest (`float`): Seconds that a piece may be late without a new speech being one too many.
        longest (`float`): Seconds that a speech may wait for others before its first piece, likewise.
    """

    def __init__(self, slowest: float = 0.9, latest: float = 0.1, longest: float = 0.5) -> None:
        self.slowest, self.latest, self.longest = slowest, latest, longest
        self._clocks: deque[Clock] = deque(maxlen=64)

    def begin(self) -> Clock:
        """Return the clock of a new speech."""
        clock = Clock()
        self._clocks.append(clock)
        return clock

    def _recent(self) -> list[Clock]:
        since = time.monotonic() - _MEMORY
        return [clock for clock in self._clocks if clock.seen > since and clock.first is not None]

    def _measure(self) -> list[tuple[float, float]]:
        """Return how many spoken at once, itself included, and the real-time factor, of each speech that tells."""
        recent = self._recent()
        return [
            (sum(clock.share_with(other) for other in recent), factor)
            for clock in recent
            if (factor := clock.real_time_factor) is not None
        ]

    @property
    def real_time_factor(self) -> float | None:
        """The slowest one's, or `None` where nothing was said lately."""
        return max((factor for _, factor in self._measure()), default=None)

    @property
    def late(self) -> float:
        """Seconds for which somebody waited for a piece lately, at most; a factor is a mean, and hides such gaps."""
        return max((clock.late for clock in self._recent()), default=0.0)

    @property
    def waited(self) -> float:
        """Seconds for which a speech of the last seconds waited for others before its first piece, at most."""
        return max((clock.waited for clock in self._recent()), default=0.0)

    @property
    def next_real_time_factor(self) -> float:
        """The slowest one's if one more spoke; 0 where nothing was said lately.

        One more adds what one more has added, by a line through the speeches of the last seconds: much where steps are
        made one by one, little in a batch. It adds nothing where all had the same company.
        """
        measured = self._measure()
        if not measured:
            return 0.0
        voices, factors = np.array(measured).T
        slowest = int(factors.argmax())
        growth = 0.0
        if np.ptp(voices) >= _LEAST_SPREAD:
            growth = float(np.polyfit(voices, factors, 1)[0])
        # Not less than nothing, and not more than one of those who share the time now takes of it.
        return float(factors[slowest]) + min(max(growth, 0.0), float(factors[slowest] / voices[slowest]))

    @property
    def keeps_up(self) -> bool:
        """Whether another session would be heard without gaps, by what the last ones tell."""
        return self.next_real_time_factor <= self.slowest and self.late <= self.latest and self.waited <= self.longest
