"""Text that comes in an event loop is said as it comes, and nobody waits for the rest of what was closed."""

import asyncio

import pytest
import torch
from speech_pieces import join, make_reader

TEXT = "The heart is blue. It looks small."
LIMITS = dict(talker_max_new_frames=20)


async def come(*texts, pause=0.0):
    for text in texts:
        await asyncio.sleep(pause)
        yield text


def cut(size=5):
    return [TEXT[start : start + size] for start in range(0, len(TEXT), size)]


@pytest.fixture(scope="module")
def reader():
    return make_reader("embeddings, durations")


def test_it_is_said_as_if_it_were_a_list(reader):
    model, tokenizer = reader

    async def say():
        return [piece async for piece in model.speak_stream(come(*cut()), tokenizer, **LIMITS)]

    said, rows = join(asyncio.run(say()))
    expected, samples = join(list(model.speak_stream(cut(), tokenizer, **LIMITS)))
    assert torch.equal(said, expected)
    assert torch.equal(rows[0], samples[0])
    assert rows[0].shape[-1] > 0


def test_speech_comes_before_the_text_has_ended(reader):
    model, tokenizer = reader

    async def say():
        may_end, heard = asyncio.Event(), []

        async def write():
            yield TEXT
            await may_end.wait()

        async for piece in model.speak_stream(write(), tokenizer, **LIMITS):
            heard.append(piece.audio_values.shape[-1])
            may_end.set()
        return heard

    assert sum(asyncio.run(asyncio.wait_for(say(), 30))) > 0


def test_closing_ends_the_waiting(reader):
    model, tokenizer = reader

    async def say():
        ended = asyncio.Event()

        async def write():
            try:
                yield TEXT
                await asyncio.Event().wait()  # for ever
            finally:
                ended.set()

        async with model.speak_stream(write(), tokenizer, **LIMITS) as pieces:
            async for _ in pieces:
                break
            waiting = asyncio.create_task(anext(pieces, None))
            await asyncio.sleep(0.05)
        await waiting
        await ended.wait()

    asyncio.run(asyncio.wait_for(say(), 30))


def test_what_fails_in_the_text_is_raised(reader):
    model, tokenizer = reader

    async def write():
        yield "The heart "
        raise RuntimeError("no more")

    async def say():
        return [piece async for piece in model.speak_stream(write(), tokenizer, **LIMITS)]

    with pytest.raises(RuntimeError, match="no more"):
        asyncio.run(say())


class TestRefusals:
    def test_without_a_loop(self, reader):
        model, tokenizer = reader
        with pytest.raises(ValueError, match="`text` must not be asynchronous where no event loop runs"):
            model.speak_stream(come(TEXT), tokenizer)

    def test_taken_in_the_thread_of_the_loop(self, reader):
        model, tokenizer = reader

        async def say():
            with model.speak_stream(come(TEXT), tokenizer) as pieces:
                return list(pieces)

        with pytest.raises(ValueError, match="an asynchronous `text` must be taken by `async for`, got `for`"):
            asyncio.run(say())

    def test_no_strings(self, reader):
        model, tokenizer = reader

        async def say():
            return [piece async for piece in model.speak_stream(come("Hi ", 3), tokenizer, **LIMITS)]

        with pytest.raises(ValueError, match="`text` must give strings, got int"):
            asyncio.run(say())
