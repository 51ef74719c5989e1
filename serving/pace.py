"""Pace of a server: whether it makes speech as fast as it is heard."""

import time
from collections import deque
from dataclasses import dataclass

_MEMORY = 15.0  # seconds for which a speech that has ended counts
_SHORTEST = 0.5  # seconds of speech that tell something


@dataclass
class Clock:
    """Time and length of one speech.

    Args:
        first (`float`, *optional*): When its first sample was there.
        last (`float`): When the last one was, as if nothing had paused for a slow client.
        seen (`float`): When the last one was.
        seconds (`float`): Its length behind the first piece.
    """

    first: float | None = None
    last: float = 0.0
    seen: float = 0.0
    seconds: float = 0.0

    def add(self, seconds: float, paused: float = 0.0) -> None:
        """Note that there is more.

        Args:
            seconds (`float`): Of speech.
            paused (`float`): Seconds for which the making has waited for the client until now.
        """
        self.seen = time.monotonic()
        self.last = self.seen - paused
        if self.first is None:
            self.first = self.last
        else:
            self.seconds += seconds

    @property
    def real_time_factor(self) -> float | None:
        """Seconds that it took for a second of speech, once there is enough to tell."""
        if self.first is None or self.seconds < _SHORTEST:
            return None
        return (self.last - self.first) / self.seconds


class Pace:
    """The speeches of the last seconds.

    Args:
        slowest (`float`): The real-time factor up to which there is room for one more.
    """

    def __init__(self, slowest: float = 0.9) -> None:
        self.slowest = slowest
        self._clocks: deque[Clock] = deque(maxlen=64)

    def begin(self) -> Clock:
        """Return the clock of a new speech."""
        clock = Clock()
        self._clocks.append(clock)
        return clock

    @property
    def real_time_factor(self) -> float | None:
        """The slowest one's, or `None` where nothing was said lately."""
        recent = [clock for clock in self._clocks if clock.seen > time.monotonic() - _MEMORY]
        return max((factor for clock in recent if (factor := clock.real_time_factor) is not None), default=None)

    @property
    def keeps_up(self) -> bool:
        """Whether another session would be heard without gaps, by what the last ones tell."""
        return (self.real_time_factor or 0.0) <= self.slowest
