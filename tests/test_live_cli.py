"""`josie chat --live`: with a recording, and with a microphone and a loudspeaker that are none."""

import json
import os
import signal
import sys
import types

import numpy as np
import pytest
import soundfile
from duplex_models import save_pair
from test_cli import fail
from this_tree import ROOT
from typer.testing import CliRunner

import josie
from josie.cli.app import app

RATE, UNIT = 1600, 60
IMAGE = ROOT / "tests" / "data" / "picture.png"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_pair(tmp_path_factory.mktemp("live") / "model")


@pytest.fixture(scope="module")
def samples():
    return (np.random.default_rng(0).normal(size=10 * UNIT) * 0.2).astype(np.float32)


@pytest.fixture
def recording(tmp_path, samples):
    josie.save_audio(tmp_path / "user.wav", samples, RATE)
    return tmp_path / "user.wav"


class FakeCard(types.ModuleType):
    """A stand-in for sounddevice: its microphone hears samples, at once; its loudspeaker keeps what it plays.

    Args:
        samples (`np.ndarray`, *optional*): That are heard; there is no microphone when `None`.
        rate (`int`): That devices have.
        interrupt_after (`int`, *optional*): Writes to the loudspeaker after which Ctrl-C is pressed.
    """

    PortAudioError = type("PortAudioError", (Exception,), {})

    def __init__(self, samples=None, rate=RATE, interrupt_after=None):
        super().__init__("sounddevice")
        card, self.played, self.open = self, [], 0

        class Stream:
            def __init__(self, samplerate, channels, dtype, callback=None):
                if samplerate != rate:
                    raise card.PortAudioError("Invalid sample rate")
                assert (channels, dtype) == (1, "float32")
                self.callback = callback
                card.open += 1

            def start(self):
                if self.callback is not None:
                    for block in np.split(samples, len(samples) // 50):
                        self.callback(block[:, None], len(block), None, None)

            def write(self, values):
                card.played.append(values[:, 0].copy())
                if len(card.played) == interrupt_after:
                    os.kill(os.getpid(), signal.SIGINT)

            def stop(self):
                pass

            def close(self):
                card.open -= 1

        def query_devices(kind):
            if samples is None and kind == "input":
                raise card.PortAudioError("Error querying device -1")

        self.InputStream = self.OutputStream = Stream
        self.query_devices = query_devices


def chat(folder, *options, lines=()):
    """Return standard output and standard error of a live conversation."""
    arguments = ["chat", str(folder), "--live", *map(str, options)]
    result = CliRunner().invoke(app, arguments, input="".join(f"{line}\n" for line in lines))
    assert result.exit_code == 0, (result.stderr, result.exception)
    return result.stdout, result.stderr


def hear(folder, samples, bias=100.0, num_images=0, **options):
    """Return a session that has heard samples unit by unit, and what it said, silence of the first unit left out."""
    model = josie.JosieForConditionalGeneration.from_pretrained(folder).eval().prepare_for_inference()
    processor = josie.JosieProcessor.from_pretrained(folder)
    session = model.start_session(processor, talker_seed=0, speak_bias=bias, **options)
    for _ in range(num_images):
        session.show_image(str(IMAGE))
    units = [session.push(unit, at_once=True).audio_values[-UNIT:] for unit in np.split(samples, len(samples) // UNIT)]
    return session, np.concatenate(units)


def test_a_recording_stands_for_the_microphone(folder, recording, samples, tmp_path):
    out = tmp_path / "both.wav"
    printed, told = chat(folder, "--in", recording, "--seconds", 0.45, "--speak-bias", 100, "--out", out)
    heard, _ = soundfile.read(recording, dtype="float32")
    padded = np.pad(heard, (0, 12 * UNIT - len(samples)))
    session, answer = hear(folder, padded)
    both, rate = soundfile.read(out, dtype="float32")
    assert rate == RATE
    assert both.shape == (13 * UNIT, 2)  # the last unit is heard after what was pushed
    np.testing.assert_allclose(both[: 12 * UNIT, 0], padded, atol=1e-4)
    np.testing.assert_allclose(both[UNIT:, 1], answer.clip(-1, 1), atol=1e-4)
    assert not both[:UNIT, 1].any()
    (turn,) = session.transcript()
    assert printed == f"{turn['begin']:.2f}- {turn['text']}\n"
    assert json.loads((tmp_path / "both.json").read_text(encoding="utf-8"))["turns"] == [turn]
    assert "0.45 s, 1 turns; a unit of 0.04 s took" in told


def test_a_recording_is_followed_by_silence(folder, tmp_path):
    josie.save_audio(tmp_path / "short.wav", np.zeros(2 * UNIT, np.float32), RATE)
    printed, told = chat(folder, "--in", tmp_path / "short.wav", "--speak-bias", -100)
    assert printed == ""
    assert "5.10 s, 0 turns" in told  # whole units


def test_microphone_and_loudspeaker(folder, samples, monkeypatch):
    card = FakeCard(samples)
    monkeypatch.setitem(sys.modules, "sounddevice", card)
    printed, told = chat(folder, "--seconds", 8 * UNIT / RATE, "--speak-bias", 100, "--temperature", 1.5)
    session, answer = hear(folder, samples[: 8 * UNIT], talker_do_sample=True, talker_temperature=1.5)
    assert np.array_equal(np.concatenate(card.played), answer)
    assert printed == f"{session.turns[0].begin:.2f}- {session.transcript()[0]['text']}\n"
    assert card.open == 0
    assert told.startswith("Listening; Ctrl-C ends it.")
    assert "The model is slower than the conversation: 0.3 s of audio wait." in told  # all of it was there at once


def test_ctrl_c_ends_it_cleanly(folder, samples, tmp_path, monkeypatch):
    card = FakeCard(samples, interrupt_after=3)
    monkeypatch.setitem(sys.modules, "sounddevice", card)
    handler = signal.getsignal(signal.SIGINT)
    printed, told = chat(folder, "--speak-bias", 100, "--out", tmp_path / "both.wav")
    assert len(card.played) == 3
    assert card.open == 0
    assert signal.getsignal(signal.SIGINT) is handler
    assert soundfile.info(tmp_path / "both.wav").frames == 4 * UNIT
    assert printed.startswith("0.04- ")
    assert f"{3 * UNIT / RATE:.2f} s, 1 turns" in told


def test_lines_show_images_and_end_it(folder, recording, samples, monkeypatch):
    options = "--in", recording, "--seconds", 0.375, "--speak-bias", 100
    lines = [f"/image '{IMAGE}'", "/image none.png", "/sing", "Hello.", ""]
    printed, told = chat(folder, *options, lines=lines)
    heard, _ = soundfile.read(recording, dtype="float32")
    session, _ = hear(folder, heard, num_images=1)
    assert printed == f"0.04- {session.transcript()[0]['text']}\n"
    assert printed != chat(folder, *options)[0]
    notes = told.splitlines()
    assert notes[0] == f"Shown at 0.00 s: {IMAGE}"
    assert notes[1] == "Error: `/image FILE` must be an existing file, got 'none.png'."
    assert notes[2].startswith("Error: A line must be one of ['/image FILE', '/help', '/quit'] while the model listens")
    assert "'Hello.'" in notes[3]
    monkeypatch.setitem(sys.modules, "sounddevice", FakeCard(samples))
    printed, told = chat(folder, lines=["/help", "/quit"])
    assert printed == ""
    assert "/image FILE  show an image\n" in told


class TestRefusals:
    @pytest.mark.parametrize(
        ("options", "message"),
        [
            (("--live", "--speak"), "`--speak` must go without `--live`, got True."),
            (("--live", "--no-stream"), "`--stream` must go without `--live`, got False."),
            (("--live", "--mic"), "`--mic` must go without `--live`, got True."),
            (("--live", "--no-history"), "`--history` must go without `--live`, got False."),
            (("--live", "--max-new-tokens", 64), "`--max-new-tokens` must go without `--live`, got 64."),
            (("--live", "--max-seconds", 4), "`--max-seconds` must go without `--live`, got 4.0."),
            (("--live", "--speaker", "eve"), "`--speaker` must be one of ['ada', 'bob'], got 'eve'."),
            (("--live", "--in", "none.wav"), "`--in` must be an existing file, got 'none.wav'."),
            (("--live", "--speak-bias", "nan"), "`--speak-bias` must be a finite number, got nan."),
            (("--in", IMAGE.with_name("speech.wav")), "`--in` must go with `--live`, got '"),
            (("--speak-bias", 2), "`--speak-bias` must go with `--live`, got 2.0."),
        ],
        ids=lambda value: " ".join(map(str, value))[:30] if isinstance(value, tuple) else "",
    )
    def test_options(self, folder, options, message):
        assert fail("chat", folder, *options).startswith(message)

    def test_models_that_did_not_learn_it(self, tiny_folder, save_checkpoint, tmp_path):
        message = fail("chat", tiny_folder, "--live")
        assert message.startswith("`DIR` must hold a model that learned when to speak, with `unit_frames`, got ")
        mute = save_checkpoint(tmp_path / "mute", talker_config=None)
        assert fail("chat", mute, "--live").startswith("`DIR` must hold a model that speaks for `--live`, got ")

    def test_no_library(self, folder, monkeypatch):
        monkeypatch.setitem(sys.modules, "sounddevice", None)
        assert fail("chat", folder, "--live") == "`--live` needs sounddevice: `pip install josie[mic]`."

    def test_no_microphone(self, folder, monkeypatch):
        monkeypatch.setitem(sys.modules, "sounddevice", FakeCard())
        assert fail("chat", folder, "--live") == (
            "`--live` must have a microphone to listen to, or a recording by `--in`, got none: Error querying device "
            "-1."
        )

    def test_no_loudspeaker(self, folder, recording, monkeypatch):
        monkeypatch.setitem(sys.modules, "sounddevice", None)
        monkeypatch.setenv("PATH", "")
        message = fail("chat", folder, "--live", "--in", recording, "--play")
        assert message.startswith("`--play` must have a loudspeaker and one of sounddevice (Python), paplay, aplay")

    def test_a_device_of_another_rate(self, folder, samples, monkeypatch):
        card = FakeCard(samples, rate=44100)
        monkeypatch.setitem(sys.modules, "sounddevice", card)
        assert fail("chat", folder, "--live") == (
            "`--live` must have a loudspeaker that takes 1600 Hz, the rate of the model's speech, got one that does "
            "not: Invalid sample rate."
        )
        card.OutputStream = FakeCard(samples).OutputStream
        assert fail("chat", folder, "--live") == (
            "`--live` must have a microphone that gives 1600 Hz, the rate that the model hears, got one that does not: "
            "Invalid sample rate."
        )
