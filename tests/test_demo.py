"""The demonstration: with any checkpoint it writes what it promises, and with the trained one it is right."""

import random
import runpy
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from PIL import Image

import josie

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = ROOT / "examples"

pytest.importorskip("matplotlib", reason="the demonstration draws with matplotlib: josie[dev]")

import demo  # noqa: E402
from demo_image import Spoken, draw_demo  # noqa: E402
from nano_world import recorded  # noqa: E402
from nano_world.grammar import questions  # noqa: E402
from nano_world.scenes import draw_scene, is_held_out, render  # noqa: E402

RECORDED = recorded.list_recordings()
NANO = ROOT / "nano" / "josie"


def run_demo(monkeypatch, capsys, *arguments):
    """Run the script without flite; return what it printed, by the first word of each line."""
    monkeypatch.setattr(shutil, "which", lambda name: None)
    monkeypatch.setattr(sys, "argv", ["demo.py", *map(str, arguments)])
    runpy.run_path(str(EXAMPLES / "demo.py"), run_name="__main__")
    lines = (line.split(":", maxsplit=1) for line in capsys.readouterr().out.splitlines())
    return {name: text.strip() for name, text in lines}


@pytest.mark.parametrize("name", sorted(RECORDED))
def test_recorded_questions_can_be_asked_about_unseen_scenes(name):
    draw = random.Random(0)
    scenes = (draw_scene(draw, "test") for _ in range(400))
    assert any(question.text == RECORDED[name]["text"] for scene in scenes for question in questions(scene))
    info = soundfile.info(recorded.find_recording(name))
    assert (info.samplerate, info.channels, info.format) == (16000, 1, "FLAC")
    assert 0.8 < info.duration < 3


def test_every_recording_is_listed():
    assert sorted([*(path.name for path in recorded.FOLDER.glob("*.flac")), recorded.EXAMPLE]) == sorted(RECORDED)


def test_a_played_question_fits_its_scene():
    for seed in range(4):
        asked = demo.play_question(random.Random(seed))
        assert asked.question in questions(asked.scene)
        assert is_held_out(asked.scene)
        assert asked.waveform.dtype == np.float32


def test_the_example_files_are_what_is_asked_by_default():
    asked = demo.play_question(random.Random(demo.EXAMPLE_SEED))
    shown = np.asarray(Image.open(josie.example_path("scene.png"))).astype(int)
    assert np.abs(shown - np.asarray(render(asked.scene, demo.IMAGE_SIZE))).mean() < 1
    heard = josie.load_audio(josie.example_path("question.flac"), 16000)
    np.testing.assert_array_equal(heard, asked.waveform)


def test_unknown_example_file():
    with pytest.raises(ValueError, match=r"`name` must be one of \['scene.png', 'question.flac'\], got 'dog.png'."):
        josie.example_path("dog.png")  # type: ignore[arg-type]


@pytest.mark.filterwarnings("ignore:Glyph")  # random weights write what no font has
def test_it_writes_a_image_and_a_reply(tiny_folder, tmp_path, monkeypatch, capsys):
    printed = run_demo(monkeypatch, capsys, tmp_path / "demo", "--model", tiny_folder, "--seed", 1)
    assert list(printed) == ["scene", "question", "answer", "speech", "image", "time"]
    assert "wrong: " in printed["answer"]
    image = np.asarray(Image.open(tmp_path / "demo" / "demo.png").convert("RGB"))
    assert image.shape[1] > image.shape[0] > 1000
    assert (tmp_path / "demo" / "reply.wav").is_file() == (printed["speech"] != "none")


def test_the_image_shows_the_scene_and_both_clips(tmp_path):
    noise = np.random.default_rng(0).normal(size=16000).astype(np.float32) / 8
    scene = draw_scene(random.Random(0), "test")

    def draw(name, scene, *waveforms):
        said = [Spoken("label", "What is $left$ of it?", waveform, 16000) for waveform in waveforms]
        draw_demo(render(scene, 256), *said, "caption", tmp_path / name)
        return np.asarray(Image.open(tmp_path / name).convert("L")).astype(int)

    empty = noise[:0]
    blank = draw("blank.png", scene, noise, empty)
    height, width = blank.shape
    other = draw("other.png", draw_scene(random.Random(1), "test"), noise, empty)
    changed = np.abs(blank - other).max(axis=0) > 20
    assert changed[: width // 2].any()
    assert not changed[width // 2 + 100 :].any()
    both = draw("both.png", scene, noise, noise[:8000])
    changed = (np.abs(blank - both) > 20)[: int(0.85 * height)]  # above the axis of time
    assert not changed[: height // 2].any()
    right = changed[:, width // 2 :].any(axis=0)
    assert right[: width // 5].mean() > 0.4  # the answer is half as long as the question, on one scale
    assert not right[int(0.3 * width) :].any()


@pytest.mark.slow
@pytest.mark.skipif(not (NANO / "config.json").is_file(), reason="the trained model is not there: nano/josie")
def test_the_trained_model_answers_and_speaks(tmp_path, monkeypatch, capsys):
    right = 0
    for seed in range(3):
        printed = run_demo(monkeypatch, capsys, tmp_path, "--seed", seed)
        right += printed["answer"].endswith(", right")
        values, rate = soundfile.read(tmp_path / "reply.wav")
        assert 0.3 < len(values) / rate < 10
        assert np.abs(values).max() > 0.02
    assert right >= 1


@pytest.mark.skipif(not (NANO / "config.json").is_file(), reason="the trained model is not there: nano/josie")
def test_the_trained_model_is_small_and_loads_by_name():
    from transformers import AutoModelForMultimodalLM

    model = AutoModelForMultimodalLM.from_pretrained(josie.nano_path())
    assert model.num_parameters() <= 22_000_000
    assert sum(path.stat().st_size for path in NANO.iterdir()) <= 45_000_000
