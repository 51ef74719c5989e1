"""The realtime protocol, driven by plain WebSockets: turns, answers, interruptions, and what was heard."""

import base64
import io

import numpy as np
import pytest
from PIL import Image
from serving_clients import load_engine, running, spoken_question, talking

from josie.modeling_josie.outputs import count_heard_tokens


@pytest.fixture
def talk(port):
    """A session."""
    with talking(port) as talk:
        yield talk


def no_turns(talk):
    talk.send("session.update", session={"audio": {"input": {"turn_detection": None, "transcription": None}}})
    assert talk.until("session.updated")["session"]["audio"]["input"]["turn_detection"] is None


def test_a_session_says_what_it_is(port):
    with talking(port, "?model=tiny") as talk:
        session = talk.events[0]["session"]
    assert session["model"] == "tiny"
    assert session["audio"]["input"]["format"] == {"type": "audio/pcm", "rate": 24000}
    assert session["audio"]["input"]["turn_detection"]["silence_duration_ms"] == 500
    assert session["output_modalities"] == ["audio"]


def test_the_settings_of_speech_to_speech_are_taken(talk):
    """As `speech-to-speech talk` sends them."""
    session = {
        "type": "realtime",
        "extensions": ["speech_to_speech.input_audio_transcription.snapshot"],
        "audio": {
            "input": {
                "turn_detection": {"type": "server_vad", "interrupt_response": True},
                "format": {"type": "audio/pcm", "rate": 24000},
            },
            "output": {"format": {"type": "audio/pcm", "rate": 24000}, "voice": "bob"},
        },
    }
    talk.send("session.update", session=session)
    assert talk.until("session.updated")["session"]["audio"]["output"]["voice"] == "bob"


def test_text_is_answered_in_text_and_speech(talk):
    talk.say("Hello.", max_output_tokens=12)
    response = talk.until("response.done")["response"]
    assert response["status"] in ("completed", "incomplete")
    kinds = [event["type"] for event in talk.events]
    order = [
        "conversation.item.added",
        "response.created",
        "response.output_item.added",
        "response.content_part.added",
        "response.output_audio.delta",
        "response.output_audio.done",
        "response.output_audio_transcript.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.done",
    ]
    assert [kinds.index(kind) for kind in order] == sorted(kinds.index(kind) for kind in order)
    text = "".join(e["delta"] for e in talk.events if e["type"] == "response.output_audio_transcript.delta")
    assert text == response["output"][0]["content"][0]["transcript"] != ""
    assert len(talk.audio(response["id"])) > 1000


def test_audio_is_that_of_the_model(talk, engine):
    """The deltas joined are the answer of `generate`, resampled."""
    from josie.processing_josie.resampling import resample

    talk.say("Hello.", max_output_tokens=12)
    response = talk.until("response.done")["response"]
    messages = [{"role": "user", "content": [{"type": "text", "text": "Hello."}]}]
    inputs = engine.processor.apply_chat_template(
        messages, tokenize=True, add_generation_prompt=True, return_dict=True, return_tensors="pt"
    )
    whole = engine.model.generate(
        **inputs, generation_mode="audio", max_new_tokens=12, tokenizer=engine.processor.tokenizer, do_sample=False
    )
    samples = whole.audio_values[0, 0, : whole.audio_lengths[0]].numpy()
    expected = resample(samples, engine.sampling_rate, 24000).clip(-1, 1)
    assert np.abs(talk.audio(response["id"]) - expected).max() < 1e-4


def test_speech_is_a_turn(talk):
    talk.send("session.update", session={"max_output_tokens": 4})
    talk.send_audio(spoken_question())
    started, stopped = (talk.until(f"input_audio_buffer.speech_{edge}") for edge in ("started", "stopped"))
    assert 0 <= started["audio_start_ms"] <= 700
    assert 2100 <= stopped["audio_end_ms"] <= 3100
    assert talk.until("input_audio_buffer.committed")["item_id"] == started["item_id"] == stopped["item_id"]
    response = talk.until("response.done")["response"]
    done = talk.until("conversation.item.input_audio_transcription.completed")
    assert done["item_id"] == started["item_id"]
    # Speech and the padding before it, but not the silence behind.
    assert done["usage"]["seconds"] == pytest.approx(1.9, abs=0.2)
    assert response["usage"]["input_tokens"] > 40  # the frames of 1.9 s


def test_the_client_says_where_turns_end(talk):
    no_turns(talk)
    talk.send_audio(spoken_question()[:24000])
    talk.send("input_audio_buffer.commit")
    item = talk.until("conversation.item.added")["item"]
    assert item["content"] == [{"type": "input_audio", "transcript": None}]
    talk.send("response.create", response={"output_modalities": ["text"], "max_output_tokens": 4})
    assert talk.until("response.done")["response"]["output"][0]["content"][0]["type"] == "output_text"
    assert not any("speech_started" in event["type"] for event in talk.events)


def test_a_click_does_not_interrupt_but_speech_does(talk):
    talk.send("session.update", session={"instructions": "Go on.", "max_output_tokens": 200})
    talk.say("Hello.")
    response = talk.until("response.created")["response"]
    click = np.zeros(24000, np.float32)
    click[5000 : 5000 + 1440] = np.random.default_rng(0).uniform(-0.9, 0.9, 1440)
    talk.send_audio(click)
    talk.until("response.output_audio.delta")
    talk.send_audio(spoken_question()[: 24000 * 2])
    done = talk.until("response.done")["response"]
    assert done["id"] == response["id"]
    assert done["status"] == "cancelled"
    assert done["status_details"] == {"type": "cancelled", "reason": "turn_detected"}
    kinds = [event["type"] for event in talk.events]
    assert kinds.count("input_audio_buffer.speech_started") == kinds.count("response.done") == 1
    assert kinds.index("input_audio_buffer.speech_started") < kinds.index("response.done")
    assert not [kind for kind in talk.quiet() if kind.startswith("response.")]


def test_an_answer_is_cancelled_once(talk):
    talk.say("Hello.", max_output_tokens=200)
    response = talk.until("response.created")["response"]
    talk.until("response.output_audio.delta")
    talk.send("response.cancel", response_id=response["id"])
    talk.send("response.cancel")
    done = talk.until("response.done")["response"]
    assert done["status_details"] == {"type": "cancelled", "reason": "client_cancelled"}
    assert talk.until("error")["error"]["code"] == "response_cancel_not_active"
    assert talk.quiet() == []


def test_truncation_keeps_what_was_heard(talk, engine):
    talk.say("Hello.", max_output_tokens=12)
    response = talk.until("response.done")["response"]
    item_id, seconds = response["output"][0]["id"], len(talk.audio(response["id"])) / 24000
    messages = [{"role": "user", "content": [{"type": "text", "text": "Hello."}]}]
    inputs = engine.processor.apply_chat_template(
        messages, tokenize=True, add_generation_prompt=True, return_dict=True, return_tensors="pt"
    )
    pieces = list(engine.model.generate_stream(**inputs, max_new_tokens=12, tokenizer=engine.processor.tokenizer))
    tokens = [token for piece in pieces for token in piece.sequences[0].tolist()]
    times = [time for piece in pieces for time in piece.word_times[0]]
    texts = set()
    for played in (int(seconds * 900), int(seconds * 500), int(seconds * 100), 0):
        talk.send("conversation.item.truncate", item_id=item_id, content_index=0, audio_end_ms=played)
        heard = talk.until("conversation.item.truncated")["transcript"]
        number = count_heard_tokens(times, round(played / 1000 * engine.sampling_rate), engine.sampling_rate)
        assert heard == engine.processor.decode(tokens[:number], skip_special_tokens=True)
        texts.add(heard)
    assert len(texts) > 2
    talk.send("conversation.item.truncate", item_id=item_id, content_index=0, audio_end_ms=1)
    assert talk.until("error")["error"]["param"] == "audio_end_ms"  # more than what is left of it


def test_images_go_with_what_is_said(talk):
    file = io.BytesIO()
    Image.new("RGB", (20, 30), "red").save(file, "PNG")
    url = "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
    content = [{"type": "input_image", "image_url": url}]
    talk.send("conversation.item.create", item={"type": "message", "role": "user", "content": content})
    assert talk.until("conversation.item.done")["item"]["content"] == [{"type": "input_image"}]
    talk.say("See?", output_modalities=["text"], max_output_tokens=3)
    assert talk.until("response.done")["response"]["status"] in ("completed", "incomplete")


def test_items_come_go_and_are_told(talk):
    content = [{"type": "input_text", "text": "One."}]
    for name in ("a", "b"):
        item = {"type": "message", "role": "user", "id": name, "content": content}
        talk.send("conversation.item.create", item=item, previous_item_id="root")
        assert talk.until("conversation.item.added")["previous_item_id"] is None
    talk.send("conversation.item.retrieve", item_id="b")
    assert talk.until("conversation.item.retrieved")["item"]["content"] == content
    talk.send("conversation.item.delete", item_id="b")
    assert talk.until("conversation.item.deleted")["item_id"] == "b"
    talk.send("conversation.item.delete", item_id="b")
    assert talk.until("error")["error"]["code"] == "not_found"


def test_long_conversations_forget_their_beginning(talk):
    talk.send("session.update", session={"output_modalities": ["text"], "max_output_tokens": 8})
    for number in range(8):
        talk.say(f"This is number {number} of many turns.")
        done = talk.until("response.done")["response"]
        assert done["status"] in ("completed", "incomplete"), done["status_details"]
    assert done["usage"]["total_tokens"] <= 256


def test_one_that_does_not_stream_speaks_when_all_is_said(tiny_folder):
    with running(load_engine(tiny_folder)) as port, talking(port) as talk:
        assert talk.events[0]["session"]["speaks_in_stream"] is False
        talk.say("Hello.", max_output_tokens=6)
        response = talk.until("response.done")["response"]
        assert response["status"] in ("completed", "incomplete")
        assert len(talk.audio(response["id"])) > 100
