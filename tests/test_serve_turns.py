"""Order of turns: whoever has waited longest, and before that whoever's listener would wait."""

import threading
import time

import pytest

from josie.serving import turns as room
from josie.serving.turns import Ticket, Turns


def order(tickets: list[Ticket], rounds: int = 1) -> list[int]:
    """Return in which order tickets that wait get the turn, each so many times."""
    turns, found = tickets[0].turns, []
    first = Ticket(turns)
    first.take()

    def run(number: int) -> None:
        with tickets[number]:
            for _ in range(rounds):
                found.append(number)
                tickets[number].pass_on()

    threads = [threading.Thread(target=run, args=(number,)) for number in range(len(tickets))]
    for number, thread in enumerate(threads):
        thread.start()
        while len(turns._waiting) <= number:
            time.sleep(0.001)
    first.leave()
    for thread in threads:
        thread.join(10)
        assert not thread.is_alive()
    return found


def make(*lead: float | None) -> list[Ticket]:
    """Return tickets whose listeners have so many seconds in advance; `None`: nobody listens."""
    turns = Turns()
    tickets = [Ticket(turns) for _ in lead]
    for ticket, seconds in zip(tickets, lead, strict=True):
        if seconds is not None:
            ticket.due = lambda seconds=seconds: time.monotonic() + seconds
    return tickets


def test_without_listeners_everybody_in_turn():
    assert order(make(None, None, None), rounds=2) == [0, 1, 2, 0, 1, 2]


def test_a_listener_with_enough_is_not_urgent():
    assert order(make(None, 1.0, None)) == [0, 1, 2]


def test_who_would_keep_a_listener_waiting_goes_first():
    assert order(make(None, 0.05, None, -0.3), rounds=2) == [1, 3, 1, 3, 0, 2, 0, 2]


def test_before_the_first_piece_nobody_listens():
    tickets = make(None, None)
    tickets[1].due = lambda: None
    assert order(tickets) == [0, 1]


def test_nobody_waits_for_ever(monkeypatch):
    monkeypatch.setattr(room, "_PATIENCE", 0.0)
    assert order(make(None, 0.0)) == [0, 1]


@pytest.mark.parametrize("number", [1, 3])
def test_who_leaves_gives_the_turn_to_all_others(number):
    tickets = make(*[None] * number, 0.0)
    assert sorted(order(tickets)) == list(range(number + 1))
    assert not tickets[0].turns.is_wanted


def test_waiting_is_counted():
    tickets = make(None, None)
    order(tickets)
    assert min(ticket.waited for ticket in tickets) > 0
