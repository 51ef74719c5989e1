"""Answers of a server that are spoken at once: each is what it is alone, and none waits for another's client."""

import asyncio

import numpy as np
import pytest
from serving_clients import load_engine
from shared_runs import CountedSteps

from josie.serving.engine import AnswerOptions

QUESTIONS = ["How many things are there?", "Hello.", "What colour is it?", "Is it red?"]
GREEDY = [AnswerOptions(speaks=True, max_tokens=14 + number) for number in range(4)]
SAMPLED = [AnswerOptions(speaks=True, max_tokens=14, temperature=1.5, seed=number) for number in range(4)]


@pytest.fixture(scope="module")
def engine(speaking_folder):
    """A tiny model that speaks while it writes, and draws its codes where a text is drawn."""
    engine = load_engine(speaking_folder, max_waiting=3)
    engine.workers.steps = CountedSteps()
    yield engine
    engine.close()


def begin(engine, number, options):
    return engine.answer([{"role": "user", "content": QUESTIONS[number]}], options[number])


async def take(job):
    """Return the tokens and the samples of an answer."""
    pieces = [piece async for piece in job]
    return [token for piece in pieces for token in piece.tokens], np.concatenate([piece.samples for piece in pieces])


def assert_same(given, wanted):
    assert given[0] == wanted[0]
    assert len(wanted[1]) > 300
    np.testing.assert_allclose(given[1], wanted[1], rtol=1e-4, atol=1e-5)


async def take_alone(engine, options):
    return [await take(begin(engine, number, options)) for number in range(4)]


@pytest.mark.parametrize("options", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
def test_answers_at_once_are_those_alone(engine, options, monkeypatch):
    monkeypatch.setattr(engine.model.generation_config, "talker_do_sample", options is SAMPLED, raising=False)

    async def run():
        alone = await take_alone(engine, options)
        engine.workers.steps.sizes.clear()
        return alone, await asyncio.gather(*(take(begin(engine, number, options)) for number in range(4)))

    alone, together = asyncio.run(run())
    for given, wanted in zip(together, alone, strict=True):
        assert_same(given, wanted)
    sizes = engine.workers.steps.sizes
    assert max(sizes["make_steps"]) >= 3
    assert max(sizes["_decode_rows"]) >= 2


def test_a_slow_client_and_one_that_left_stop_nobody(engine):
    async def run():
        alone = await take_alone(engine, GREEDY)
        slow, left = begin(engine, 0, GREEDY), begin(engine, 1, GREEDY)
        others = await asyncio.gather(*(take(begin(engine, number, GREEDY)) for number in (2, 3)), leave(left))
        return alone, [await take(slow), *others]

    async def leave(job):
        async for _ in job:
            job.cancel()

    alone, (slow, third, fourth, _) = asyncio.run(run())
    assert_same(slow, alone[0])
    assert_same(third, alone[2])
    assert_same(fourth, alone[3])
