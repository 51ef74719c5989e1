"""Speech on the command line while it is made: files that grow, text that comes on standard input, live players."""

import subprocess
import sys
import time

import numpy as np
import pytest
import soundfile
import torch
from test_cli import fail, run
from this_tree import ROOT
from typer.testing import CliRunner

import josie
from josie.cli import checkpoints, playback
from josie.cli.app import app
from josie.configuration_josie.constants import STREAMING_CODECS

TEXT = "The heart is blue. It looks small, doesn't it?"


@pytest.fixture
def player(tmp_path, monkeypatch):
    """A player of samples that notes what it is given, the only one there is."""
    program = tmp_path / "bin" / "paplay"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/asked\nexec /bin/cat >> {tmp_path}/played\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent))
    monkeypatch.setattr(playback, "_find_audio_device", lambda: None)
    return program


def whole(folder, tmp_path, *arguments) -> np.ndarray:
    """Return what a command without a stream writes."""
    run(*arguments[:1], folder, *arguments[1:], "--out", tmp_path / "whole.wav")
    return soundfile.read(tmp_path / "whole.wav", dtype="int16")[0]


class TestSpeak:
    @pytest.mark.parametrize("options", [(), ("--temperature", 0.9, "--seed", 4)], ids=["greedy", "sampled"])
    def test_the_file_is_that_of_the_whole(self, speaking_folder, tmp_path, options):
        expected = whole(speaking_folder, tmp_path, "speak", TEXT, *options)
        run("speak", speaking_folder, TEXT, "--stream", "--out", tmp_path / "a.wav", *options)
        assert np.array_equal(soundfile.read(tmp_path / "a.wav", dtype="int16")[0], expected)

    @pytest.mark.parametrize("options", [(), ("--whole",)], ids=str)
    def test_text_on_standard_input(self, speaking_folder, tmp_path, options):
        expected = whole(speaking_folder, tmp_path, "speak", TEXT)
        command = ["speak", str(speaking_folder), "-", "--out", str(tmp_path / "a.wav"), *options]
        result = CliRunner().invoke(app, command, input=TEXT)
        assert result.exit_code == 0, (result.stderr, result.exception)
        assert np.array_equal(soundfile.read(tmp_path / "a.wav", dtype="int16")[0], expected)

    @pytest.mark.slow
    def test_it_speaks_before_the_text_has_ended(self, speaking_folder, tmp_path):
        out = tmp_path / "a.wav"
        command = [sys.executable, "-m", "josie", "speak", speaking_folder, "-", "--out", out]
        with subprocess.Popen(
            command, cwd=ROOT.parent, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        ) as process:
            process.stdin.write(b"The heart is blue and looks small, ")
            process.stdin.flush()
            for _ in range(600):
                if (out.exists() and out.stat().st_size > 44) or process.poll() is not None:
                    break
                time.sleep(0.1)
            assert process.poll() is None, process.stderr.read()
            before = len(soundfile.read(out)[0])  # a whole file, as far as it goes
            _, errors = process.communicate(b"or large.", timeout=60)
        assert process.returncode == 0, errors
        assert 0 < before < len(soundfile.read(out)[0])

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("", "`text` must have at least one word to say, got none."),
            (" \n", "`text` must have at least one word to say, got none."),
            (b"\xff\xfe", r"The text on standard input must be UTF-8, got b'\xff'."),
        ],
    )
    def test_text_that_cannot_be_said(self, speaking_folder, tmp_path, text, message):
        result = CliRunner().invoke(app, ["speak", str(speaking_folder), "-", "--out", f"{tmp_path}/a.wav"], input=text)
        assert result.exit_code == 2
        assert result.stderr.endswith(f"Error: {message}\n")
        assert not (tmp_path / "a.wav").exists()

    def test_a_codec_that_cannot_stream_is_refused(self, tiny_folder):
        reason = (
            "must go with a model whose audio codec is one of jodio, mimi, which make samples while codes come, got"
        )
        for command, instead in [
            (("speak", tiny_folder, TEXT, "--stream"), "`--stream` {}: leave it out."),
            (("speak", tiny_folder, "-"), "`-` {}: `--whole` reads the text to its end and then says it."),
            (("generate", tiny_folder, "--text", "Hi", "--stream"), "`--stream` {}: leave it out."),
            (("chat", tiny_folder, "--speak", "--stream"), "`--stream` {}: leave it out."),
        ]:
            said = f"{reason} '{tiny_folder}' with 'josie_mel_codec', which decodes whole utterances"
            assert fail(*command) == instead.format(said)

    def test_options_that_do_not_fit(self, speaking_folder):
        assert fail("speak", speaking_folder, "Hi", "--whole") == "`--whole` must go with the text -, got True."
        message = fail("speak", speaking_folder, "-", "--whole", "--stream")
        assert message == "`--stream` must go without `--whole`, got True."
        message = fail("generate", speaking_folder, "--text", "Hi", "--text-only", "--stream")
        assert message == "`--stream` must go without `--text-only`, got True."
        message = fail("chat", speaking_folder, "--no-stream")
        assert message == "`--no-stream` must go with `--speak`, got 'it'."


class TestGenerate:
    def test_text_and_file_are_those_of_the_whole(self, speaking_folder, tmp_path):
        arguments = ("--text", "Hello.", "--max-new-tokens", 9)
        expected = whole(speaking_folder, tmp_path, "generate", *arguments)
        written = run("generate", speaking_folder, *arguments, "--text-only")
        streamed = run("generate", speaking_folder, *arguments, "--stream", "--out", tmp_path / "a.wav")
        assert streamed.split() == written.split()
        assert np.array_equal(soundfile.read(tmp_path / "a.wav", dtype="int16")[0], expected)

    def test_it_tells_how_fast_it_was(self, speaking_folder, tmp_path):
        command = ["generate", str(speaking_folder), "--text", "Hi", "--stream", "--out", str(tmp_path / "a.wav")]
        result = CliRunner().invoke(app, [*command, "--max-new-tokens", "9"])
        assert f"{tmp_path}/a.wav: " in result.stderr
        assert "s of speech; first sample after 0." in result.stderr


class TestPlaying:
    def test_what_is_played_is_what_is_written(self, speaking_folder, tmp_path, player):
        run("speak", speaking_folder, TEXT, "--stream", "--play", "--out", tmp_path / "a.wav")
        assert "--raw --format=float32le --rate=1600 --channels=1" in (tmp_path / "asked").read_text()
        played = np.frombuffer((tmp_path / "played").read_bytes(), dtype="<f4")
        written = soundfile.read(tmp_path / "a.wav", dtype="int16")[0]
        assert len(played) == len(written)
        assert np.abs(played.clip(-1, 1) * 32768 - written).max() <= 1

    def test_chat_plays_while_it_speaks(self, speaking_folder, tmp_path, player):
        arguments = ["chat", str(speaking_folder), "--speak", "--play", "--out", str(tmp_path / "a.wav")]
        result = CliRunner().invoke(app, [*arguments, "--max-new-tokens", "9"], input="Hello.\nAnd?\n")
        assert result.exit_code == 0, (result.stderr, result.exception)
        lengths = [len(soundfile.read(tmp_path / f"a-{number}.wav")[0]) for number in (1, 2)]
        assert len((tmp_path / "played").read_bytes()) == 4 * sum(lengths)

    def test_a_player_that_fails_is_told_of_and_the_file_is_whole(self, speaking_folder, tmp_path, player):
        expected = whole(speaking_folder, tmp_path, "speak", TEXT)
        player.write_text("#!/bin/sh\necho 'no loudspeaker' >&2\nexit 1\n")
        command = ["speak", str(speaking_folder), TEXT, "--stream", "--play", "--out", str(tmp_path / "a.wav")]
        result = CliRunner().invoke(app, command)
        assert result.exit_code == 0, (result.stderr, result.exception)
        assert "paplay could not play: no loudspeaker\n" in result.stderr
        assert np.array_equal(soundfile.read(tmp_path / "a.wav", dtype="int16")[0], expected)

    def test_without_a_player_it_is_refused(self, speaking_folder, tmp_path, monkeypatch):
        monkeypatch.setenv("PATH", str(tmp_path))
        monkeypatch.setattr(playback, "_find_audio_device", lambda: None)
        message = fail("speak", speaking_folder, "Hi", "--stream", "--play")
        assert message.startswith("`--play` must have a loudspeaker and one of sounddevice (Python), paplay, aplay")

    def test_a_sound_card_is_used_where_there_is_one(self, tmp_path, monkeypatch):
        class Card:
            def __init__(self):
                self.calls = []

            def OutputStream(self, **options):
                self.calls.append(options)
                return self

            def __getattr__(self, name):
                return lambda *given: self.calls.append((name, *given))

        card = Card()
        monkeypatch.setattr(playback, "_find_audio_device", lambda: card)
        player = playback.LivePlayer(1600, 2)
        player.write(np.ones((2, 5), np.float32))
        player.close()
        assert card.calls[0] == dict(samplerate=1600, channels=2, dtype="float32")
        assert [call[0] for call in card.calls[1:]] == ["start", "write", "stop", "close"]
        assert card.calls[2][1].shape == (5, 2)


class TestAudioWriter:
    @pytest.mark.parametrize(("ending", "channels"), [("wav", 1), ("wav", 2), ("flac", 1), ("ogg", 1)])
    def test_it_holds_what_is_written_at_once(self, tmp_path, ending, channels):
        values = torch.randn(channels, 4000).mul(0.4).numpy()  # some beyond full scale
        josie.save_audio(tmp_path / f"whole.{ending}", values, 16000)
        with josie.AudioWriter(tmp_path / f"a.{ending}", 16000, channels) as writer:
            for piece in np.array_split(values, 7, axis=1):
                writer.write(piece)
        read = [soundfile.read(tmp_path / f"{name}.{ending}", dtype="int16")[0] for name in ("whole", "a")]
        assert len(read[0]) == len(read[1]) == 4000
        if ending != "ogg":  # whose encoder sees other pieces
            assert np.array_equal(read[0], read[1])

    def test_a_wav_can_be_read_at_any_time(self, tmp_path):
        with josie.AudioWriter(tmp_path / "a.wav", 16000) as writer:
            for number in range(1, 5):
                writer.write(np.zeros((1, 100), np.float32))
                assert len(soundfile.read(tmp_path / "a.wav")[0]) == 100 * number

    def test_what_cannot_be_written(self, tmp_path):
        with pytest.raises(ValueError, match="`path` must end in .wav"):
            josie.AudioWriter(tmp_path / "a.txt", 16000)
        with pytest.raises(ValueError, match="`path` must be in an existing folder"):
            josie.AudioWriter(tmp_path / "none" / "a.wav", 16000)
        with (
            josie.AudioWriter(tmp_path / "a.wav", 16000) as writer,
            pytest.raises(ValueError, match=r"`values` must be \(1, num_samples\), got shape \(2, 5\)"),
        ):
            writer.write(np.zeros((2, 5), np.float32))


def test_the_command_line_knows_which_codecs_stream():
    assert checkpoints._STREAMING_CODECS == STREAMING_CODECS
