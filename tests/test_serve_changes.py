"""Changes in the middle of a session: nothing that was said is lost, and what the model does not obey is refused."""

import base64

import numpy as np
import pytest
from serving_clients import RATE, load_engine, running, spoken_question, talking
from test_serve_duplex import IMAGE_PART, create, lean, make_engine, noise, refused

from josie.serving.engine import Engine

QUESTION = spoken_question(after=1.5)
SPOKEN = int(1.5 * RATE)  # samples of it, in the middle of which a client changes its mind


@pytest.fixture(autouse=True)
def quick_words(monkeypatch):
    """Write down nothing but the length of a clip, as 256 tokens take their time."""

    async def transcribe(self, samples, sampling_rate):
        return f"{len(samples) / sampling_rate:g} s"

    monkeypatch.setattr(Engine, "transcribe", transcribe)


@pytest.fixture(scope="module")
def port(speaking_folder):
    """A server with a tiny model that speaks while it writes."""
    with running(load_engine(speaking_folder)) as port:
        yield port


@pytest.fixture(scope="module")
def duplex_port():
    """A server with a model that decides when to speak."""
    with running(make_engine()) as port:
        yield port


@pytest.fixture
def talk(port):
    with talking(port) as talk:
        change(talk, {"type": "server_vad", "create_response": False})
        yield talk


@pytest.fixture
def duplex_talk(duplex_port):
    with talking(duplex_port) as talk:
        yield talk


def change(talk, detection, **session):
    """Change how turns are detected."""
    talk.send("session.update", session={"audio": {"input": {"turn_detection": detection}}} | session)
    return talk.until("session.updated")["session"]


def audio_part(samples):
    content = (samples * 32767).astype("<i2").tobytes()
    return {"type": "input_audio", "audio": base64.b64encode(content).decode()}


class TestTurns:
    def test_other_settings_of_detection_leave_a_turn_as_it_is(self, talk):
        talk.send_audio(QUESTION[:SPOKEN])
        started = talk.until("input_audio_buffer.speech_started")
        change(talk, {"type": "server_vad", "create_response": False, "silence_duration_ms": 900})
        talk.send_audio(QUESTION[SPOKEN:])
        stopped = talk.until("input_audio_buffer.speech_stopped")
        done = talk.until("conversation.item.input_audio_transcription.completed")
        assert started["item_id"] == stopped["item_id"] == done["item_id"]
        assert done["usage"]["seconds"] == pytest.approx(1.9, abs=0.2)
        seconds = (stopped["audio_end_ms"] - started["audio_start_ms"]) / 1000
        assert seconds - done["usage"]["seconds"] == pytest.approx(0.9, abs=0.05)  # the new silence
        kinds = [event["type"] for event in talk.events]
        assert kinds.count("input_audio_buffer.speech_started") == 1

    def test_longer_padding_begins_where_the_buffer_does(self, talk):
        change(talk, {"type": "server_vad", "create_response": False, "prefix_padding_ms": 0})
        talk.send_audio(np.zeros(2 * RATE, np.float32))
        change(talk, {"type": "server_vad", "create_response": False, "prefix_padding_ms": 5000})
        talk.send_audio(QUESTION)
        started, stopped = (talk.until(f"input_audio_buffer.speech_{edge}") for edge in ("started", "stopped"))
        done = talk.until("conversation.item.input_audio_transcription.completed")
        seconds = (stopped["audio_end_ms"] - started["audio_start_ms"]) / 1000
        assert seconds - done["usage"]["seconds"] == pytest.approx(0.5, abs=0.05)

    def test_a_turn_ends_where_the_client_says_where_turns_end(self, talk):
        talk.send_audio(QUESTION[:SPOKEN])
        started = talk.until("input_audio_buffer.speech_started")
        change(talk, None)
        kinds = [event["type"] for event in talk.events]
        order = ["input_audio_buffer.speech_stopped", "input_audio_buffer.committed", "session.updated"]
        places = [kinds.index(kind, kinds.index("input_audio_buffer.speech_started")) for kind in order]
        assert places == sorted(places)
        stopped, committed = (talk.events[place] for place in places[:2])
        assert stopped["item_id"] == committed["item_id"] == started["item_id"]
        assert stopped["audio_end_ms"] == 1500
        talk.send_audio(QUESTION[SPOKEN:])
        talk.send("input_audio_buffer.commit")
        assert talk.until("input_audio_buffer.committed")["previous_item_id"] == started["item_id"]
        assert not any(kind.startswith("response.") for kind in talk.quiet())

    def test_a_turn_ends_where_the_client_commits_it(self, talk):
        talk.send_audio(QUESTION[:SPOKEN])
        started = talk.until("input_audio_buffer.speech_started")
        talk.send("input_audio_buffer.commit")
        stopped, committed = (talk.until(f"input_audio_buffer.{name}") for name in ("speech_stopped", "committed"))
        assert started["item_id"] == stopped["item_id"] == committed["item_id"]
        assert stopped["audio_end_ms"] == 1500

    def test_what_was_not_committed_is_heard_by_a_detector(self, talk):
        change(talk, None)
        talk.send_audio(QUESTION[:SPOKEN])
        change(talk, {"type": "server_vad", "create_response": False})
        started = talk.until("input_audio_buffer.speech_started")
        talk.send_audio(QUESTION[SPOKEN:])
        stopped = talk.until("input_audio_buffer.speech_stopped")
        assert started["audio_start_ms"] < 1500 < stopped["audio_end_ms"]

    def test_what_was_not_committed_is_heard_by_the_model(self, duplex_talk):
        change(duplex_talk, None)
        duplex_talk.send_audio(QUESTION[:SPOKEN])
        lean(duplex_talk, 100)
        assert duplex_talk.until("response.created")

    def test_a_turn_ends_where_the_model_decides(self, duplex_talk):
        talk = duplex_talk
        change(talk, {"type": "server_vad", "interrupt_response": False})
        talk.send_audio(QUESTION[:SPOKEN])
        started = talk.until("input_audio_buffer.speech_started")
        lean(talk, -100)
        named = [event for event in talk.events if event.get("item_id") == started["item_id"]]
        assert [event["type"].split(".")[-1] for event in named[:3]] == [
            "speech_started",
            "speech_stopped",
            "committed",
        ]
        talk.send("conversation.item.retrieve", item_id=started["item_id"])
        assert talk.until("conversation.item.retrieved")["item"]["content"][0]["type"] == "input_audio"

    def test_times_count_what_the_model_has_heard(self, duplex_talk):
        lean(duplex_talk, -100)
        duplex_talk.send_audio(noise(20))  # 1,200 samples, 50 ms
        change(duplex_talk, {"type": "server_vad", "create_response": False})
        duplex_talk.send_audio(QUESTION[:SPOKEN])
        started = duplex_talk.until("input_audio_buffer.speech_started")
        change(duplex_talk, None)
        stopped = next(e for e in duplex_talk.events if e["type"] == "input_audio_buffer.speech_stopped")
        assert stopped["audio_end_ms"] == 1550
        assert started["audio_start_ms"] >= 50


class TestTurnsOfTheModel:
    def test_another_speed_is_refused_in_any_order(self, duplex_talk):
        talk, faster = duplex_talk, {"output": {"speed": 1.2}}
        talk.send("session.update", session={"audio": faster})
        message = refused(talk, "session.audio.output.speed")
        assert message == (
            "`session.audio.output.speed` must be 1, the one at which the model learned to speak, where the model "
            'decides when to speak (`turn_detection` of type "model"), got 1.2.'
        )
        change(talk, {"type": "server_vad"})
        talk.send("session.update", session={"audio": faster})
        assert talk.until("session.updated")["session"]["audio"]["output"]["speed"] == 1.2
        talk.send("session.update", session={"audio": {"input": {"turn_detection": {"type": "model"}}}})
        assert "must be 1" in refused(talk, "session.audio.output.speed")
        talk.send("session.update", session={"audio": {"input": {"turn_detection": {"type": "model"}}, "output": {}}})
        assert "must be 1" in refused(talk, "session.audio.output.speed")
        both = {"input": {"turn_detection": {"type": "model"}}, "output": {"speed": 1}}
        talk.send("session.update", session={"audio": both})
        assert talk.until("session.updated")["session"]["audio"]["output"]["speed"] == 1

    def test_what_was_stored_is_not_in_effect_and_comes_back(self, duplex_talk):
        talk = duplex_talk
        stored = {"max_output_tokens": 7, "temperature": 0.5, "output_modalities": ["text"]}
        change(talk, {"type": "server_vad"}, **stored)
        session = change(talk, {"type": "model", "speak_bias": 100})
        assert session["max_output_tokens"] == 256
        assert session["output_modalities"] == ["audio"]
        talk.send_audio(noise(12))
        response = talk.until("response.created")["response"]
        assert response["output_modalities"] == ["audio"]
        assert response["max_output_tokens"] == 256
        talk.until("response.output_audio.delta")
        session = change(talk, {"type": "server_vad"})
        assert session["max_output_tokens"] == 7
        assert session["output_modalities"] == ["text"]

    @pytest.mark.parametrize("value", [None, "inf", 256])
    def test_defaults_may_be_given(self, duplex_talk, value):
        talk = duplex_talk
        change(talk, {"type": "server_vad"}, max_output_tokens=7)
        session = change(talk, {"type": "model"}, max_output_tokens=value, temperature=None)
        assert session["max_output_tokens"] == 256
        talk.send("session.update", session={"max_output_tokens": 100})
        assert refused(talk, "session.max_output_tokens") == (
            '`session.max_output_tokens` must be left out, "inf" or 256 where the model decides when to speak '
            '(`turn_detection` of type "model"), got 100.'
        )


class TestTranscription:
    @pytest.mark.parametrize(
        ("before", "numbers"),
        [
            ([], [0]),
            ([{"type": "input_text", "text": "Hello."}], [1]),
            ([IMAGE_PART], [1]),
            ([audio_part(QUESTION[:9600]), IMAGE_PART], [0, 2]),
            ([audio_part(QUESTION[:9600]) | {"transcript": "How?"}], [1]),
        ],
        ids=["alone", "text", "image", "two", "known"],
    )
    def test_each_part_is_written_down_at_its_place(self, talk, before, numbers):
        create(talk, *before, audio_part(QUESTION[:SPOKEN]))
        item_id = talk.until("conversation.item.done")["item"]["id"]
        kind = "conversation.item.input_audio_transcription.completed"
        told = [talk.until(kind) for _ in numbers]
        assert [event["content_index"] for event in told] == numbers
        assert {event["item_id"] for event in told} == {item_id}
        assert told[-1]["usage"]["seconds"] == 1.5
        assert told[-1]["transcript"] == "1.5 s"
        assert kind not in talk.quiet(0.2)


def test_two_different_lengths_are_refused(talk):
    talk.send("session.update", session={"max_output_tokens": 7, "max_response_output_tokens": 8})
    assert "must be left out or be `max_output_tokens`" in refused(talk, "session.max_response_output_tokens")


@pytest.mark.parametrize("value", [1e-45, 0.001])
def test_a_temperature_that_no_logits_can_be_divided_by_is_refused(talk, value):
    talk.send("session.update", session={"temperature": value})
    assert "must be 0 or a number in [0.01, 2]" in refused(talk, "session.temperature")


@pytest.mark.parametrize("place", ["instructions", "item", "name"])
def test_halves_of_surrogate_pairs_are_refused(talk, place):
    half = "a\ud800b"
    if place == "item":
        create(talk, {"type": "input_text", "text": half})
    else:
        talk.send("session.update", session={"instructions": half} if place == "instructions" else {half: 1})
    assert "must be" in refused(talk)
