"""One step of one stream of speech, or of several at once: from what the rows read to the codes of a frame.

What is here is all that a batch gains by. What a stream reads, and what it makes of the codes, is its own: see
`speech_stream`.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from .decoding import CodeSampler, StepLoop, join_samplers, step_together


@dataclass(eq=False)
class StreamStep:
    """The part of a step that a stream brings.

    Args:
        talker ([`JosieTalkerForConditionalGeneration`]): The Talker.
        loop ([`StepLoop`]): The stream's past.
        depth_loop ([`StepLoop`], *optional*): That of its frames.
        sampler ([`CodeSampler`]): Chooses its codes.
        embeds (`torch.Tensor`): `(batch, 1, hidden_size)`, what its rows read.
        starts (`list[int]`, *optional*): As of [`StepLoop.step`].
        speaking (`list[int]`): Rows that make a frame, unless they end.
        early (`list[int]`): Those of them that may not end yet.
    """

    talker: Any
    loop: StepLoop
    depth_loop: StepLoop | None
    sampler: CodeSampler
    embeds: torch.Tensor
    starts: list[int] | None
    speaking: list[int]
    early: list[int]


@dataclass(eq=False)
class StreamCodes:
    """The part of a step that a stream takes away.

    Args:
        rows (`list[int]`): Rows that made a frame.
        codes (`torch.LongTensor`, *optional*): `(batch, num_quantizers)`; `None` where there are no such rows.
    """

    rows: list[int]
    codes: torch.Tensor | None = None


@torch.no_grad()
def make_steps(steps: Sequence[StreamStep]) -> list[StreamCodes]:
    """Make a step of some streams of one Talker, whose samplers have the same options.

    Either all of them make it, or an error leaves each where it was.
    """
    with _undone_by_errors(steps):
        states = step_together(
            [step.loop for step in steps], [step.embeds for step in steps], [step.starts for step in steps]
        )
        made = [StreamCodes([]) for _ in steps]
        speaking = [number for number, step in enumerate(steps) if step.speaking]
        if speaking:
            chosen = _choose_codes([steps[number] for number in speaking], [states[number] for number in speaking])
            for number, codes in zip(speaking, chosen, strict=True):
                made[number] = codes
        return made


def _choose_codes(steps: list[StreamStep], states: list[torch.Tensor]) -> list[StreamCodes]:
    """Choose the codes of a frame, where at least one row of each stream speaks; `states` are `(batch, 1, size)`."""
    talker, sampler = steps[0].talker, join_samplers([step.sampler for step in steps])
    sizes = [len(state) for state in states]
    firsts = [sum(sizes[:number]) for number in range(len(sizes))]  # row of the batch at which a stream begins
    rows = [[first + row for row in step.speaking] for first, step in zip(firsts, steps, strict=True)]
    state = (states[0] if len(states) == 1 else torch.cat(states))[:, 0]
    logits, end_id = talker.head(state), talker.config.end_of_speech_id
    early = [first + row for first, step in zip(firsts, steps, strict=True) for row in step.early]
    if end_id is not None and early:
        logits[early, end_id] = -torch.inf
    sampler.select_rows(row for group in rows for row in group)
    codes = sampler(logits)
    if end_id is not None:
        classes = codes.tolist()
        rows = [[row for row in group if classes[row] != end_id] for group in rows]
        codes = codes.clamp(max=talker.config.codebook_size - 1)
        sampler.select_rows(row for group in rows for row in group)
    if not any(rows):
        return [StreamCodes([]) for _ in steps]
    if talker.depth_decoder is None:
        codes = codes[:, None]
    else:
        loop = steps[0].depth_loop if len(steps) == 1 else talker.depth_decoder.make_loop(len(state), state)
        codes = talker.depth_decoder.generate(state, codes, sampler, loop)
    return [
        StreamCodes([row - first for row in group], part if group else None)
        for first, group, part in zip(firsts, rows, codes.split(sizes), strict=True)
    ]


@contextmanager
def _undone_by_errors(steps: Sequence[StreamStep]) -> Iterator[None]:
    """Put the past and the random streams back where a step fails, so that it can be made once more."""
    lengths = [step.loop.length for step in steps]
    draws = [[generator.get_state() for generator in step.sampler.generators] for step in steps]
    try:
        yield
    except Exception:
        for step, length, states in zip(steps, lengths, draws, strict=True):
            step.loop.cache.length = length
            for generator, state in zip(step.sampler.generators, states, strict=True):
                generator.set_state(state)
        raise
