"""Admission: one more session begins where speech would still come as fast as it is heard."""

import time

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
