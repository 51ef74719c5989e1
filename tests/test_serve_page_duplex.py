"""Full duplex on the page of `josie serve`, in Chromium: listening and speaking are shown as the model decides."""

import pytest
from duplex_models import make_pair

pytest.importorskip("websockets", reason="drives Chromium: josie[serve]")
pytest.importorskip("uvicorn", reason="runs the server: josie[serve]")

from chromium import EXECUTABLE, open_page
from serving_clients import running

from josie.serving.engine import Engine
from josie.serving.realtime import duplex

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(EXECUTABLE is None, reason="needs Chromium: apt-get install chromium"),
]
STATE = "document.body.dataset.state"
LAST = "[...document.querySelectorAll('.turn.answer')].at(-1)"


@pytest.fixture(scope="module")
def address():
    # Units of 0.15 s, which a slow machine too hears as they come.
    model, processor = make_pair(codec_options=dict(sampling_rate=24000, upsampling_ratios=[40, 30]))
    with running(Engine(model.prepare_for_inference(), processor, "tiny")) as port:
        yield f"http://127.0.0.1:{port}/"


@pytest.fixture(scope="module")
def page(tmp_path_factory, address):
    with open_page(tmp_path_factory.mktemp("profile")) as page:
        page.emulate(1000, 800)
        page.open(address)
        page.wait_for(f"{STATE} === 'ready'")
        yield page


def test_the_page_shows_when_the_model_listens_and_speaks(page, monkeypatch):
    decisions = iter("llssssssss")  # of the first units; then it listens

    def choose(self, session):
        return 100.0 if next(decisions, "l") == "s" else -100.0

    monkeypatch.setattr(duplex.Duplex, "_choose_bias", choose)
    assert not page.evaluate("document.querySelector('#message').disabled")
    page.click("#microphone")
    page.wait_for(f"{STATE} === 'listening'")
    assert page.evaluate("document.querySelector('#message').disabled")
    page.wait_for(f"{STATE} === 'speaking'", 20)
    page.wait_for(f"{LAST}?.dataset.status === 'interrupted'", 20)
    page.wait_for(f"{STATE} === 'listening'", 20)
    answer = page.evaluate(f"({{ ...{LAST}.dataset, meta: {LAST}.querySelector('.meta').textContent }})")
    assert int(answer["playedSamples"]) > 3600
    assert 0 <= int(answer.get("latencyMs", 0)) < 10_000  # from the last beep of Chromium's microphone
    assert "interrupted: " in answer["meta"]
    events = [event for direction, event in page.frames if direction == "sent"]
    (truncate,) = [event for event in events if event["type"] == "conversation.item.truncate"]
    assert truncate["audio_end_ms"] == int(answer["playedSamples"]) // 24
    received = [event["type"] for direction, event in page.frames if direction == "received"]
    assert received.count("response.done") == received.count("conversation.item.truncated") == 1
    assert "error" not in received
    page.click("#microphone")
    page.wait_for(f"{STATE} === 'ready'")
    assert not page.errors


def test_what_is_typed_is_answered_in_turn(page):
    page.frames.clear()
    answers = page.evaluate("document.querySelectorAll('.turn.answer').length")
    page.evaluate(
        "document.querySelector('#message').value = 'Hello.'; document.querySelector('#composer').requestSubmit()"
    )
    page.wait_for(f"document.querySelectorAll('.turn.answer').length === {answers + 1}", 20)
    page.wait_for(f"{STATE} === 'speaking'", 20)
    page.click("#stop")
    page.wait_for(f"{LAST}?.dataset.status === 'interrupted'", 20)
    sent = [event for direction, event in page.frames if direction == "sent"]
    kinds = [event["type"] for event in sent]
    assert kinds[:3] == ["session.update", "conversation.item.create", "response.create"]
    assert sent[0]["session"]["audio"]["input"]["turn_detection"] is None
    assert "error" not in [event["type"] for direction, event in page.frames if direction == "received"]
    page.click("#microphone")
    page.wait_for(f"{STATE} === 'listening'", 20)
    updates = [event for direction, event in page.frames if direction == "sent" and event["type"] == "session.update"]
    assert updates[-1]["session"]["audio"]["input"]["turn_detection"] == {"type": "model"}
    assert not page.errors
