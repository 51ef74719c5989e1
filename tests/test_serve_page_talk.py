"""A conversation on the page of `josie serve`, in Chromium, with nano: questions are heard, answers played and cut.

The server detects turns; `test_serve_page_live.py` lets nano decide.
"""

import random

import numpy as np
import pytest
import soundfile
import soxr
from this_tree import ROOT

pytest.importorskip("websockets", reason="drives Chromium: josie[serve]")
pytest.importorskip("uvicorn", reason="runs the server: josie[serve]")

from chromium import EXECUTABLE, open_page
from nano_world.scenes import draw_scene, render
from page_server import run_server

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(EXECUTABLE is None, reason="needs Chromium: apt-get install chromium"),
]
RECORDINGS = ROOT / "examples" / "nano_world" / "questions"
ANSWERS = "document.querySelectorAll('.turn.answer[data-status={}]').length"
LAST = "[...document.querySelectorAll('.turn.answer')].at(-1)"
STATE = "document.body.dataset.state"


@pytest.fixture(scope="module")
def recording(tmp_path_factory):
    """The file that Chromium hears: read again whenever the page opens the microphone, and played once."""
    question, rate = soundfile.read(RECORDINGS / "star.flac")
    path = tmp_path_factory.mktemp("recording") / "star.wav"
    question = soxr.resample(question, rate, 48000)
    soundfile.write(
        path,
        np.concatenate([np.zeros(24000), question, np.zeros(48000 * 20)]),
        48000,
        subtype="PCM_16",
    )
    return path


@pytest.fixture(scope="module")
def browser(tmp_path_factory, recording):
    with open_page(
        tmp_path_factory.mktemp("profile"),
        f"--use-file-for-fake-audio-capture={recording}%noloop",
    ) as page:
        yield page


@pytest.fixture(scope="module")
def address():
    with run_server(decides_turns=False) as address:
        yield address


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    """An image with a red star, of those that nano was not trained on."""
    path = tmp_path_factory.mktemp("image") / "scene.png"
    render(draw_scene(random.Random(6), "test")).save(path)
    return path


@pytest.fixture
def page(browser, address, image):
    """The page, connected, with an image shown."""
    browser.frames.clear()
    browser.errors.clear()
    browser.emulate(1000, 800)
    browser.open(address)
    browser.wait_for(f"{STATE} === 'ready'")
    show(browser, image)
    return browser


def show(page, path):
    """Choose a file as the image."""
    root = page.call("DOM.getDocument")["root"]["nodeId"]
    node = page.call("DOM.querySelector", nodeId=root, selector="#file")["nodeId"]
    page.call("DOM.setFileInputFiles", nodeId=node, files=[str(path)])
    page.wait_for("document.querySelectorAll('.turn img').length === 1")


def ask(page, text):
    """Type a question and send it."""
    page.click("#message")
    page.write(text)
    page.press("Enter")


def answers(page):
    """Return the text, the number of played samples and the loudest of them of each answer on the page."""
    script = """[...document.querySelectorAll('.turn.answer')].map(({ dataset, children: [_, said] }) => ({
        text: said.querySelector('.text').textContent, heard: said.querySelector('.text span').textContent,
        played: Number(dataset.playedSamples), peak: Number(dataset.peak), latency: Number(dataset.latencyMs),
        meta: said.querySelector('.meta').textContent }))"""
    return page.evaluate(script)


def received(page, event_type):
    """Return the events of a type that the server has sent."""
    return [event for direction, event in page.frames if direction == "received" and event["type"] == event_type]


def sent(page, event_type):
    """Return the events of a type that the page has sent."""
    return [event for direction, event in page.frames if direction == "sent" and event["type"] == event_type]


def count_samples(page, item_id):
    """Return the number of samples of an answer that the server has sent."""
    deltas = [event for event in received(page, "response.output_audio.delta") if event["item_id"] == item_id]
    return sum(len(event["delta"]) // 4 * 3 - event["delta"].count("=") for event in deltas) // 2


def test_a_spoken_question_is_answered_aloud(page):
    page.click("#microphone")
    page.wait_for(f"{ANSWERS.format('finished')} === 1", 30)
    (answer,) = answers(page)
    assert answer["text"] == "It looks red."
    (item,) = {event["item_id"] for event in received(page, "response.output_audio.delta")}
    assert answer["played"] == count_samples(page, item) > 12000
    assert answer["peak"] > 0.05
    assert 0 < answer["latency"] < 30000
    assert "first sound after" in answer["meta"]
    ends = [
        event["transcript_end"] for event in received(page, "response.output_audio.delta") if "transcript_end" in event
    ]
    assert ends == sorted(ends)
    assert len(set(ends)) > 2  # word by word
    assert ends[-1] == len(answer["text"])
    assert page.evaluate(STATE) == "listening"
    assert page.evaluate("document.querySelectorAll('.turn.user .strip:not([hidden])').length") == 1
    page.click("#microphone")
    page.wait_for(f"{STATE} === 'ready'")
    assert not page.errors


def test_speaking_interrupts_an_answer_and_what_was_heard_is_kept(page):
    ask(page, "Describe the picture.")
    page.wait_for(f"Number({LAST}?.dataset.playedSamples) > 12000", 30)
    page.click("#microphone")  # and the recorded question is heard
    page.wait_for(f"{ANSWERS.format('interrupted')} === 1", 30)
    page.wait_for(f"{ANSWERS.format('finished')} === 1", 30)
    cut, answer = answers(page)
    assert answer["text"] == "It looks red."
    assert 12000 < cut["played"] < count_samples(page, sent(page, "conversation.item.truncate")[0]["item_id"])
    assert "interrupted" in cut["meta"]


def test_escape_stops_an_answer_at_once(page):
    ask(page, "Describe the picture.")
    page.wait_for(f"Number({LAST}?.dataset.playedSamples) > 12000", 30)
    page.press("Escape")
    page.wait_for(f"{ANSWERS.format('interrupted')} === 1")
    page.wait_for(f"{STATE} === 'ready'")
    (cut,) = answers(page)
    (truncate,) = sent(page, "conversation.item.truncate")
    assert truncate["audio_end_ms"] == cut["played"] // 24
    assert received(page, "conversation.item.truncated")
    assert not received(page, "error")
