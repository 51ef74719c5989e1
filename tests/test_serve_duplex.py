"""Full duplex over the realtime protocol: the model says when it speaks, and its turns are answers, once each."""

import base64
import gc
import io
import json
import random
import time
import weakref

import numpy as np
import pytest
import torch
from duplex_models import make_pair
from PIL import Image
from serving_clients import OPEN_TO_ALL, RATE, load_engine, running, talking
from serving_fuzz import draw_event, errors_of

import josie
from josie.serving.engine import Engine
from josie.serving.limits import Limits
from josie.serving.realtime import duplex

END, UNIT_SAMPLES = 2, 60
DUPLEX = {"type": "model", "speak_bias": -100}


def make_engine(end_scale=1.0, positions=400, talker="embeddings, durations", **limits):
    """Return the engine of a model that learned when to speak; `end_scale` makes it end its turns sooner."""
    # Nothing is resampled, so every sample is known; units of 2.5 ms are late, and who is refused is tested elsewhere.
    model, processor = make_pair(talker, positions, codec_options=dict(sampling_rate=RATE))
    with torch.no_grad():
        model.thinker.lm_head.weight[END] *= end_scale
    return Engine(model.prepare_for_inference(), processor, "tiny", Limits(**OPEN_TO_ALL | limits))


@pytest.fixture(scope="module")
def engine():
    return make_engine()


@pytest.fixture
def talk(port):
    with talking(port) as talk:
        lean(talk, -100)
        yield talk


def lean(talk, speak_bias):
    """Make the model speak (100) or listen (-100), or let it choose (0)."""
    detection = {"type": "model", "speak_bias": speak_bias}
    talk.send("session.update", session={"audio": {"input": {"turn_detection": detection}}})
    updated = talk.until("session.updated")["session"]["audio"]["input"]["turn_detection"]
    assert updated == detection


def noise(num_units, seed=0):
    return np.random.default_rng(seed).uniform(-0.3, 0.3, num_units * UNIT_SAMPLES).astype(np.float32)


def kinds(talk, start="response."):
    return [event["type"] for event in talk.events if event["type"].startswith(start)]


def make_image_url(colour="red"):
    file = io.BytesIO()
    Image.new("RGB", (20, 30), colour).save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def create(talk, *content, **item):
    talk.send("conversation.item.create", item={"type": "message", "role": "user", "content": list(content)} | item)


IMAGE_PART = {"type": "input_image", "image_url": make_image_url()}


def refused(talk, param=None):
    error = talk.until("error")["error"]
    assert error["type"] == "invalid_request_error"
    assert param is None or error["param"] == param
    return error["message"]


def test_who_learned_when_to_speak_decides_by_default(port):
    with talking(port) as talk:
        session = talk.events[0]["session"]
    assert session["decides_turns"]
    assert session["audio"]["input"]["turn_detection"] == {"type": "model", "speak_bias": 0.0}
    assert session["audio"]["input"]["transcription"] is None


def test_who_did_not_is_refused_and_detects_as_ever(speaking_folder):
    with running(load_engine(speaking_folder)) as port, talking(port) as talk:
        session = talk.events[0]["session"]
        assert not session["decides_turns"]
        assert session["audio"]["input"]["turn_detection"]["type"] == "server_vad"
        talk.send("session.update", session={"audio": {"input": {"turn_detection": DUPLEX}}})
        message = refused(talk, "session.audio.input.turn_detection.type")
    assert message == (
        '`session.audio.input.turn_detection.type` must be "server_vad", as this model did not learn when to speak, '
        "got 'model'."
    )


def hear(engine, samples, bias=100):
    """Return a session that has heard samples as a server hears them, and its units' audio."""
    session = engine.model.start_session(engine.processor, speak_bias=bias)
    samples = (samples * 32767).astype(np.int16).astype(np.float32) / 32768
    assert session.unit_samples == UNIT_SAMPLES
    units = [session.push(unit, at_once=True).audio_values for unit in np.split(samples, len(samples) // UNIT_SAMPLES)]
    return session, [unit[-UNIT_SAMPLES:] for unit in units]


def joined_text(talk):
    return "".join(e["delta"] for e in talk.events if e["type"] == "response.output_audio_transcript.delta")


def test_a_turn_is_an_answer_with_the_audio_of_a_session(talk, engine):
    samples = noise(20)
    lean(talk, 100)
    talk.send_audio(samples, piece=77)
    response = talk.until("response.created")["response"]
    session, units = hear(engine, samples)
    expected = np.concatenate(units).clip(-1, 1)
    received = np.zeros(0)
    while len(received) < len(expected):
        talk.until("response.output_audio.delta")
        received = talk.audio(response["id"])
    assert np.abs(received - expected).max() < 1e-4
    assert np.abs(received).max() > 0.01
    assert joined_text(talk) == session.decode(session.turns[0].token_ids)[: len(joined_text(talk))] != ""
    assert [kind for kind in kinds(talk) if not kind.endswith("delta")] == [
        "response.created",
        "response.output_item.added",
        "response.content_part.added",
    ]


def test_a_model_that_listens_in_the_middle_has_cut_its_answer(talk, engine):
    lean(talk, 100)
    talk.send_audio(noise(12))
    response = talk.until("response.created")["response"]
    talk.quiet()
    lean(talk, -100)
    talk.send_audio(noise(6))
    done = talk.until("response.done")["response"]
    assert done["id"] == response["id"]
    assert done["status"] == "cancelled"
    assert done["status_details"] == {"type": "cancelled", "reason": "turn_detected"}
    talk.send_audio(noise(6))
    assert talk.quiet() == []
    assert kinds(talk).count("response.done") == kinds(talk).count("response.created") == 1
    (item,) = done["output"]
    session, _ = hear(engine, noise(12))
    session.speak_bias = -100
    session.push(np.zeros(session.unit_samples, np.float32))
    (turn,) = session.transcript()
    sent = len(talk.audio(response["id"])) / RATE
    heard = [word["text"] for word in turn["words"] if word["end"] - turn["begin"] <= sent + 1e-3]
    assert item["content"][0]["transcript"].encode() == "".join(heard).encode() != b""
    assert len(talk.audio(response["id"])) == 12 * UNIT_SAMPLES
    talk.send("conversation.item.truncate", item_id=item["id"], content_index=0, audio_end_ms=10)
    shorter = talk.until("conversation.item.truncated")["transcript"]
    assert len(shorter) < len(item["content"][0]["transcript"])


def test_a_turn_that_is_said_is_completed_and_another_begins_when_asked_for():
    with running(make_engine(end_scale=6)) as port, talking(port) as talk:
        lean(talk, 100)
        talk.send_audio(noise(40))
        first = talk.until("response.created")["response"]
        done = talk.until("response.done")["response"]
        assert done["id"] == first["id"]
        assert done["status"] == "completed"
        assert done["status_details"] is None
        assert done["usage"]["output_tokens"] > 5
        assert joined_text(talk) == done["output"][0]["content"][0]["transcript"] != ""
        assert talk.quiet() == []  # it is over, though units are spoken
        assert len(talk.audio(first["id"])) % 20 == 0  # whole frames, no silence behind
        lean(talk, -100)
        talk.send_audio(noise(4))
        talk.send("response.create")
        talk.send("response.create")
        assert "no other answer" in refused(talk)
        talk.send_audio(noise(20))
        second = talk.until("response.created")["response"]
        # Only its first unit was forced: the next one is listened to.
        done = talk.until("response.done")["response"]
        assert done["id"] == second["id"] != first["id"]
        assert done["status_details"]["reason"] == "turn_detected"
        assert len(talk.audio(second["id"])) == UNIT_SAMPLES


def test_a_turn_that_ends_at_the_last_position_is_incomplete():
    with running(make_engine(talker="states")) as port, talking(port) as talk:
        lean(talk, 100)
        talk.send_audio(noise(40))
        done = talk.until("response.done")["response"]
        assert done["status"] == "incomplete"
        assert done["status_details"]["reason"] == "max_output_tokens"


def test_silence_is_heard_where_a_client_sends_nothing(monkeypatch):
    """A turn is said to its end, and a model that does not begin one hears silence for some time alone."""
    monkeypatch.setattr(duplex, "_GAP", 0.05)
    monkeypatch.setattr(duplex, "_PATIENCE", 0.1)
    with running(make_engine(end_scale=6)) as port, talking(port) as talk:
        lean(talk, 100)
        talk.send_audio(noise(3))
        done = talk.until("response.done")["response"]
        assert done["status"] == "completed"
        assert len(talk.audio(done["id"])) > 3 * UNIT_SAMPLES
    units, whole = [], josie.JosieForConditionalGeneration
    step = whole.step_sessions
    monkeypatch.setattr(whole, "step_sessions", lambda *args, **options: units.append(1) or step(*args, **options))
    with running(make_engine()) as port, talking(port) as talk:
        lean(talk, -100)
        talk.send_audio(noise(3))
        talk.settle(units)
        seconds = UNIT_SAMPLES / RATE
        assert len(units) == pytest.approx(3 + 0.1 / seconds, abs=2)
        talk.send_audio(noise(1))
        talk.settle(units)
        assert len(units) == pytest.approx(4 + 2 * 0.1 / seconds, abs=4)


def test_what_is_written_before_the_first_audio_is_answered_in_turn(talk):
    talk.say("Hello.", max_output_tokens=3)
    done = talk.until("response.done")["response"]
    assert done["status"] in ("completed", "incomplete")
    lean(talk, 100)
    talk.send_audio(noise(12))
    again = talk.until("response.created")["response"]
    assert again["id"] != done["id"]


def test_an_answer_that_the_client_cancels_is_over_for_the_model_too(talk):
    lean(talk, 100)
    talk.send_audio(noise(12))
    response = talk.until("response.created")["response"]
    talk.send("response.cancel", response_id=response["id"])
    done = talk.until("response.done")["response"]
    assert done["status_details"] == {"type": "cancelled", "reason": "client_cancelled"}
    talk.quiet()
    lean(talk, -100)
    talk.send("response.cancel")
    talk.quiet()
    before = [event for event in talk.events if event.get("response_id") == response["id"]]
    lean(talk, 100)
    talk.send_audio(noise(12))
    again = talk.until("response.output_audio.delta")
    assert again["response_id"] != response["id"]
    assert [event for event in talk.events if event.get("response_id") == response["id"]] == before


def test_images_are_shown_at_any_time_and_other_items_before_alone(talk):
    create(talk, {"type": "input_text", "text": "Hello."}, IMAGE_PART)
    assert talk.until("conversation.item.done")["item"]["role"] == "user"
    talk.send_audio(noise(5))
    create(talk, IMAGE_PART)
    assert talk.until("conversation.item.done")["item"]["content"] == [{"type": "input_image"}]
    create(talk, {"type": "input_text", "text": "Hello."})
    assert "images of the user alone" in refused(talk, "item.content")
    create(talk, {"type": "output_text", "text": "Hello."}, role="assistant")
    assert "images of the user alone" in refused(talk, "item.content")
    item = {"type": "message", "role": "user", "content": [IMAGE_PART]}
    talk.send("conversation.item.create", item=item, previous_item_id="root")
    assert "what is new comes now" in refused(talk, "previous_item_id")


def test_images_that_leave_no_room_are_refused():
    with running(make_engine(positions=120)) as port, talking(port) as talk:
        lean(talk, -100)
        talk.send_audio(noise(2))
        create(talk, *[IMAGE_PART] * 60)
        assert "too many images" in refused(talk, "item")
        talk.send_audio(noise(2))
        lean(talk, -100)


def test_an_image_is_in_the_memory_of_the_model(monkeypatch, port):
    sessions = []
    from josie.serving.realtime import duplex

    push = duplex.JosieSession.push

    def note(session, *args, **kwargs):
        sessions.append(session)
        return push(session, *args, **kwargs)

    monkeypatch.setattr(duplex.JosieSession, "push", note)
    with talking(port) as talk:
        lean(talk, -100)
        talk.send_audio(noise(5))
        create(talk, IMAGE_PART)
        talk.until("conversation.item.done")
        talk.send_audio(noise(5))
        talk.quiet()
        (row,) = sessions[-1].state.rows
        kept = [entry for entry in row.memory.list_entries() if not isinstance(entry, list)]
        assert sum(not entry.is_audio for entry in kept) == 2  # the prompt and the image
        places = [place for place, entry in enumerate(kept) if not entry.is_audio]
        assert places[0] == 0
        assert 3 <= places[1] <= 6
        reference = weakref.ref(sessions[-1].state)
        sessions.clear()
        del row, kept
    for _ in range(50):
        gc.collect()
        if reference() is None:
            break
        time.sleep(0.1)
    assert reference() is None  # freed when the client has left


@pytest.mark.parametrize(
    ("session", "param"),
    [
        (dict(output_modalities=["text"]), "session.output_modalities"),
        (dict(max_output_tokens=7), "session.max_output_tokens"),
        (dict(temperature=0.5), "session.temperature"),
        (dict(audio={"input": {"transcription": {}}}), "session.audio.input.transcription"),
        (dict(audio={"input": {"turn_detection": DUPLEX | {"threshold": 0.5}}}), None),
        (dict(audio={"input": {"turn_detection": DUPLEX | {"speak_bias": 101}}}), None),
    ],
    ids=lambda value: str(value)[:40],
)
def test_settings_that_a_model_that_decides_does_not_obey(talk, session, param):
    talk.send("session.update", session=session)
    assert "must be" in refused(talk, param)
    talk.send("session.update", session={})
    assert talk.until("session.updated")["session"]["audio"]["input"]["turn_detection"] == DUPLEX


def test_settings_of_the_beginning_stay(talk):
    output = {"voice": "bob"}
    talk.send("session.update", session={"instructions": "Be short.", "audio": {"output": output}})
    talk.until("session.updated")
    talk.send_audio(noise(3))
    for session in (dict(instructions="Be long."), dict(audio={"output": {"voice": "ada"}})):
        talk.send("session.update", session=session)
        assert "must stay as it is once the model has heard audio" in refused(talk)
    talk.send("session.update", session={"instructions": "Be short.", "audio": {"output": output}})
    assert talk.until("session.updated")["session"]["instructions"] == "Be short."
    talk.send("input_audio_buffer.commit")
    assert "must not be committed" in refused(talk)
    talk.send("input_audio_buffer.clear")
    talk.until("input_audio_buffer.cleared")
    talk.send("response.create", response={"instructions": "Now."})
    assert "`response` must be left out" in refused(talk, "response")


def test_a_client_may_choose_turns_of_the_other_kinds(talk):
    lean(talk, 100)
    talk.send_audio(noise(8))
    talk.until("response.created")
    talk.send("session.update", session={"audio": {"input": {"turn_detection": None}}})
    assert talk.until("session.updated")["session"]["audio"]["input"]["turn_detection"] is None
    assert kinds(talk)[-1] == "response.done"
    talk.send_audio(noise(30))
    talk.send("input_audio_buffer.commit")
    talk.until("conversation.item.done")
    talk.send("response.create", response={"output_modalities": ["text"], "max_output_tokens": 3})
    assert talk.until("response.done")["response"]["status"] in ("completed", "incomplete")
    talk.send("session.update", session={"audio": {"input": {"turn_detection": {"type": "server_vad"}}}})
    updated = talk.until("session.updated")["session"]["audio"]["input"]
    assert updated["turn_detection"]["type"] == "server_vad"
    assert updated["transcription"] == {"model": "tiny"}
    lean(talk, 100)
    talk.send_audio(noise(8))
    talk.until("response.created")


def test_two_at_once_hear_themselves(port, engine, monkeypatch):
    monkeypatch.setattr(duplex, "_GAP", 60.0)  # or a slow processor hears silence behind it
    with talking(port) as one, talking(port) as other:
        for number, talk in enumerate((one, other)):
            lean(talk, 100)
            talk.send_audio(noise(10, seed=number), piece=50)
        for number, talk in enumerate((one, other)):
            response = talk.until("response.created")["response"]
            talk.quiet()
            _, units = hear(engine, noise(10, seed=number))
            expected = np.concatenate(units).clip(-1, 1)
            received = talk.audio(response["id"])
            assert np.abs(received - expected).max() < 1e-3


def test_audio_that_comes_faster_than_it_is_heard_is_refused_at_last():
    with running(make_engine(max_audio_seconds=1)) as port, talking(port) as talk:
        talk.send_audio(np.zeros(3 * RATE, np.float32), piece=RATE // 2)
        assert "must have at most 1 s that the model has not heard" in refused(talk, "audio")


def test_a_prompt_that_does_not_fit_is_told(port):
    with talking(port) as talk:
        talk.send("session.update", session={"instructions": "word " * 300})
        talk.until("session.updated")
        talk.send_audio(noise(3))
        assert "must fit into the model" in refused(talk)


def test_a_failure_ends_the_answer_and_the_next_audio_begins_anew(monkeypatch, caplog, talk):
    from josie.serving.realtime import duplex

    lean(talk, 100)
    talk.send_audio(noise(8))
    talk.until("response.created")
    talk.quiet()
    push = duplex.JosieSession.push
    monkeypatch.setattr(duplex.JosieSession, "push", lambda *args, **kwargs: 1 // 0)
    talk.send_audio(noise(4))
    done = talk.until("response.done")["response"]
    assert done["status"] == "failed"
    assert done["status_details"]["error"]["code"] == "internal_error"
    assert "ZeroDivisionError" in caplog.text
    monkeypatch.setattr(duplex.JosieSession, "push", push)
    talk.send_audio(noise(8))
    assert talk.until("response.created")["response"]["id"] != done["id"]


def draw_messages():
    """Return 300 events of any kind, and between them audio for a model that decides in another way each time."""
    draw = random.Random(0)
    for number in range(300):
        if number % 30 == 0:
            audio = base64.b64encode(bytes(10 * UNIT_SAMPLES)).decode()
            detection = {"type": "model", "speak_bias": draw.uniform(-9, 9)}
            update = {"session": {"audio": {"input": {"turn_detection": detection}}}}
            yield json.dumps({"type": "session.update", **update})
            yield json.dumps({"type": "input_audio_buffer.append", "audio": audio})
        event = draw_event(draw)
        if "input_audio_buffer.append" not in event:
            yield event


def test_random_events_are_answered():
    """Each is done or refused, and none tells of a fault."""
    engine = make_engine()
    assert len(errors_of(engine, draw_messages())) > 100
    engine.close()
