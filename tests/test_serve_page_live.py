"""A conversation in full duplex on the page of `josie serve`, in Chromium, with nano, which decides when it speaks."""

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

import josie

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(EXECUTABLE is None, reason="needs Chromium: apt-get install chromium"),
]
RECORDINGS = ROOT / "examples" / "nano_world" / "questions"
RATE = 48000
STATE = "document.body.dataset.state"
ANSWERS = """[...document.querySelectorAll('.turn.answer')].map(({ dataset, children: [_, said] }) => ({
    status: dataset.status, text: said.querySelector('.text').textContent, played: Number(dataset.playedSamples),
    latency: Number(dataset.latencyMs), meta: said.querySelector('.meta').textContent }))"""


@pytest.fixture(scope="module")
def recording(tmp_path_factory):
    """The file that Chromium hears: a question, and another one over the answer."""
    files = (RECORDINGS / "star.flac", josie.example_path("question.flac"))
    star, count = (soxr.resample(*soundfile.read(file), RATE) for file in files)
    parts = [np.zeros(RATE), star, np.zeros(round(0.95 * RATE)), count, np.zeros(20 * RATE)]
    path = tmp_path_factory.mktemp("recording") / "both.wav"
    soundfile.write(path, np.concatenate(parts), RATE, subtype="PCM_16")
    return path


@pytest.fixture(scope="module")
def page(tmp_path_factory, recording):
    """The page, with an image of a red star; nano was not trained on it."""
    image = tmp_path_factory.mktemp("image") / "scene.png"
    render(draw_scene(random.Random(6), "test")).save(image)
    flag = f"--use-file-for-fake-audio-capture={recording}%noloop"
    with open_page(tmp_path_factory.mktemp("profile"), flag) as page, run_server() as address:
        page.emulate(1000, 800)
        page.open(address)
        page.wait_for(f"{STATE} === 'ready'")
        root = page.call("DOM.getDocument")["root"]["nodeId"]
        node = page.call("DOM.querySelector", nodeId=root, selector="#file")["nodeId"]
        page.call("DOM.setFileInputFiles", nodeId=node, files=[str(image)])
        page.wait_for("document.querySelectorAll('.turn img').length === 1")
        yield page


def test_nano_answers_stops_and_answers_again(page):
    page.click("#microphone")
    page.wait_for(f"{ANSWERS}.length === 2", 30)
    page.wait_for(f"{ANSWERS}[1].status === 'finished'", 30)
    cut, answer = page.evaluate(ANSWERS)
    assert cut["status"] == "interrupted"
    assert cut["text"].replace("Not heard: ", "").startswith("It looks")
    assert cut["played"] > 6000
    assert answer["text"] == "There is one."
    assert 0 < answer["latency"] < 3000
    assert page.evaluate(STATE) == "listening"
    sent = [event["type"] for direction, event in page.frames if direction == "sent"]
    assert "response.create" not in sent
    assert "input_audio_buffer.commit" not in sent
    assert sent.count("conversation.item.truncate") == 1
    page.click("#microphone")
    page.wait_for(f"{STATE} === 'ready'")
    assert not page.errors


def test_what_is_typed_is_answered_too(page):
    page.click("#message")
    page.write("What colour is the star?")
    page.press("Enter")
    page.wait_for(f"{ANSWERS}.length === 3", 30)
    page.wait_for(f"{ANSWERS}[2].status === 'finished'", 30)
    assert page.evaluate(ANSWERS)[2]["text"] == "It looks red."
    assert not page.errors
