"""Admission: one more session begins where speech would still come as fast as it is heard."""

import itertools
import math
import time
from types import SimpleNamespace

import pytest

from josie.serving.pace import Pace


def pace_of(*speeches: tuple[float, float, float], seconds: float = 2.0) -> Pace:
    """Return the pace after speeches, each with its beginning and end in seconds from the first and a factor."""
    pace, start = Pace(0.9), time.monotonic() - 10
    for begin, end, factor in speeches:
        clock = pace.begin()
        clock.first, clock.seen = start + begin, start + end
        clock.last, clock.seconds = clock.first + factor * seconds, seconds
    return pace


def test_nothing_known_keeps_up():
    assert Pace(0.9).keeps_up
    assert Pace(0.9).next_real_time_factor == 0


def test_speeches_of_like_company_tell_only_their_own_factor():
    pace = pace_of((0, 2, 0.5), (0, 2, 0.6), (3, 5, 0.55), (3, 5, 0.6))
    assert pace.next_real_time_factor == pytest.approx(0.6)
    assert pace.keeps_up


def test_one_more_adds_what_one_more_has_added():
    alone, pair = (0, 2, 0.3), [(3, 5, 0.4), (3, 5, 0.4)]
    pace = pace_of(alone, *pair)
    assert pace.real_time_factor == pytest.approx(0.4)
    assert pace.next_real_time_factor == pytest.approx(0.5)


def test_who_is_beside_part_of_a_speech_counts_for_that_part():
    pace = pace_of((0, 4, 0.3), (0, 2, 0.36), (6, 8, 0.24))
    assert pace.next_real_time_factor == pytest.approx(0.36 + 0.12)


def test_steps_one_by_one_and_in_a_batch():
    """Four with the same factor: a fifth is too much one by one, and not in a batch."""
    four = [(3, 5, 0.8)] * 4
    assert not pace_of((0, 2, 0.2), *four).keeps_up
    assert pace_of((0, 2, 0.62), *four).keeps_up


def test_noise_does_not_make_one_more_cost_less_than_nothing_or_more_than_a_share():
    pair = [(3, 5, 0.6)] * 2
    assert pace_of((0, 2, 0.9), *pair).next_real_time_factor == pytest.approx(0.9)
    assert pace_of((0, 2, 0.05), *pair).next_real_time_factor == pytest.approx(0.9)


@pytest.mark.parametrize(("moments", "late"), [((0, 1, 2), 0.0), ((0, 1.3, 2), 0.3), ((0, 0.1, 2.25), 0.25)], ids=str)
def test_a_gap_that_a_mean_hides_refuses_the_next(monkeypatch, moments, late):
    """Pieces of a second, of which one comes later than a player has played those before."""
    times = itertools.chain((10.0 + moment for moment in moments), itertools.repeat(13.0))
    monkeypatch.setattr("josie.serving.pace.time", SimpleNamespace(monotonic=lambda: next(times)))
    pace = Pace(slowest=math.inf, latest=0.2)
    clock = pace.begin()
    for _ in moments:
        clock.add(1.0)
    assert clock.late == pytest.approx(late)
    assert pace.keeps_up == (late <= 0.2)


def test_a_gap_is_forgotten():
    pace = Pace(slowest=math.inf, latest=0.1)
    clock = pace.begin()
    clock.add(0.1)
    clock.late = 1.0
    assert not pace.keeps_up
    clock.seen -= 60
    assert pace.keeps_up


def test_time_that_a_client_took_is_not_late(monkeypatch):
    times = iter((0.0, 5.0))
    monkeypatch.setattr("josie.serving.pace.time", SimpleNamespace(monotonic=lambda: next(times)))
    clock = Pace().begin()
    clock.add(0.5)
    clock.add(0.5, paused=4.8)
    assert clock.late == 0


def test_long_waiting_refuses_the_next():
    pace = Pace(slowest=math.inf, longest=0.5)
    for waited in (0.4, 0.6):
        assert pace.keeps_up
        pace.begin().add(1.0, waited=waited)
        assert pace.waited == waited
    assert not pace.keeps_up


def test_waiting_after_the_first_piece_is_no_waiting():
    pace = Pace(longest=0.5)
    clock = pace.begin()
    clock.add(1.0, waited=0.1)
    clock.add(1.0, waited=3.0)
    assert pace.waited == 0.1
