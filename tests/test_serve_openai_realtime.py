"""The realtime client of the package openai, as it is, against a server."""

import asyncio
import base64

import openai
import pytest
from serving_clients import load_engine, running, spoken_question


@pytest.fixture(scope="module")
def port(speaking_folder):
    """A server with a tiny model that speaks while it writes."""
    with running(load_engine(speaking_folder)) as port:
        yield port


def test_a_spoken_conversation(port):
    async def talk() -> list:
        client = openai.AsyncOpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none")
        events = []
        async with client.realtime.connect(model="tiny") as connection:
            await connection.session.update(
                session={
                    "type": "realtime",
                    "instructions": "Be short.",
                    "output_modalities": ["audio"],
                    "max_output_tokens": 6,
                    "audio": {
                        "input": {
                            "format": {"type": "audio/pcm", "rate": 24000},
                            "turn_detection": {"type": "server_vad", "silence_duration_ms": 300},
                        },
                        "output": {"voice": "ada", "format": {"type": "audio/pcm", "rate": 24000}},
                    },
                }
            )
            samples = (spoken_question() * 32767).astype("<i2").tobytes()
            for start in range(0, len(samples), 9600):
                await connection.input_audio_buffer.append(
                    audio=base64.b64encode(samples[start : start + 9600]).decode()
                )
            async for event in connection:
                events.append(event)
                if event.type == "response.done":
                    item_id = event.response.output[0].id
                    await connection.conversation.item.truncate(item_id=item_id, content_index=0, audio_end_ms=50)
                if event.type == "conversation.item.truncated":
                    break
        await client.close()
        return events

    events = asyncio.run(asyncio.wait_for(talk(), 20))
    assert not [event for event in events if event.type == "error"]
    kinds = [event.type for event in events]
    for kind in (
        "session.created",
        "session.updated",
        "input_audio_buffer.speech_started",
        "response.output_audio.delta",
    ):
        assert kind in kinds
    done = next(event for event in events if event.type == "response.done")
    assert done.response.output[0].content[0].type == "output_audio"
