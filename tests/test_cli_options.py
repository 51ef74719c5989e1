"""Options of the commands that run a model: device, types, threads, progress, playback, and answers without words."""

import logging
import os
import pty
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import soundfile
import torch
from safetensors.torch import load_file, save_file
from test_cli import contents, fail, run
from transformers import GenerationConfig
from typer.testing import CliRunner

import josie
from josie.cli import shared
from josie.cli.app import app
from josie.cli.checkpoints import load_codec, load_josie
from josie.cli.codec_files import Codes
from josie.cli.devices import choose_device
from josie.cli.info import read_licence

DATA = Path(__file__).parent / "data"


class TestDevices:
    def test_the_processor_is_always_there(self):
        assert choose_device("cpu") == torch.device("cpu")
        assert choose_device("cpu:0") == torch.device("cpu", 0)
        assert choose_device("auto").type in ("cpu", "cuda", "mps", "xpu")

    @pytest.mark.parametrize("name", ["cpu:1", "hpu", "cuda:99"])
    def test_what_is_not_there_is_refused(self, tiny_folder, name):
        message = fail("generate", tiny_folder, "--text", "Hi", "--text-only", "--device", name)
        assert message.startswith("`--device` must be auto or a device that is here, cpu")
        assert message.endswith(f"got {name!r}.")

    def test_threads(self, monkeypatch):
        given = []
        monkeypatch.setattr(torch, "set_num_threads", given.append)
        choose_device("cpu")
        choose_device("cpu", threads=3)
        assert given == [3]


class TestDtypes:
    @pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
    def test_codecs_stay_in_float32(self, tiny_folder, dtype):
        model = load_josie(tiny_folder, "cpu", dtype)
        for part in (model.thinker, model.talker):
            assert {parameter.dtype for parameter in part.parameters()} == {getattr(torch, dtype)}
        saved = load_file(tiny_folder / "model.safetensors")
        for name, value in model.audio_codec.state_dict().items():
            assert torch.equal(value, saved[f"audio_codec.{name}"]), name

    def test_every_part_is_heard_and_speaks(self, tiny_folder, tmp_path):
        inputs = ("--text", "Hi", "--image", DATA / "picture.png", "--audio", DATA / "speech.wav")
        options = ("--max-new-tokens", 3, "--max-seconds", 0.3, "--dtype", "bfloat16", "--threads", 1)
        run("generate", tiny_folder, *inputs, *options, "--out", tmp_path / "a.wav")
        assert soundfile.info(tmp_path / "a.wav").frames

    def test_of_a_codec(self, codec_folder):
        folder = codec_folder("jodio")
        for dtype in ("float32", "bfloat16"):
            assert load_codec(folder, "audio", "cpu", dtype).dtype == getattr(torch, dtype)


@pytest.fixture(scope="module")
def wordless(tmp_path_factory, save_checkpoint):
    """A checkpoint that ends every answer before its first word."""
    folder = save_checkpoint(tmp_path_factory.mktemp("wordless"))
    end = josie.JosieProcessor.from_pretrained(folder).tokenizer.eos_token_id
    others = [token for token in range(301) if token != end]
    GenerationConfig(eos_token_id=end, pad_token_id=0, suppress_tokens=others).save_pretrained(folder)
    return folder


class TestNoWords:
    def test_no_audio_is_written(self, wordless, tmp_path):
        out = tmp_path / "a.wav"
        result = CliRunner().invoke(app, ["generate", str(wordless), "--text", "Hi", "--out", str(out)])
        assert (result.exit_code, result.stdout.strip()) == (2, "")
        assert result.stderr == (
            "Error: The answer has no words, so that there is nothing to say and no audio file is written.\n"
        )
        assert contents(tmp_path) == []

    def test_of_text_alone_it_is_said(self, wordless):
        result = CliRunner().invoke(app, ["generate", str(wordless), "--text", "Hi", "--text-only"])
        assert (result.exit_code, result.stderr) == (0, "The answer has no words.\n")

    def test_a_chat_goes_on(self, wordless, tmp_path):
        command = ["chat", str(wordless), "--speak", "--out", str(tmp_path / "a.wav")]
        result = CliRunner().invoke(app, command, input="One.\nTwo.\n")
        assert result.exit_code == 0
        assert result.stderr.count("The answer has no words") == 2
        assert contents(tmp_path) == []


def test_an_answer_that_is_cut_off_is_told(tiny_folder):
    command = ["generate", str(tiny_folder), "--text", "Hi", "--text-only", "--max-new-tokens", "2"]
    result = CliRunner().invoke(app, command)
    assert result.stderr == "The answer is cut off at 2 tokens, see `--max-new-tokens`.\n"


def test_speech_longer_than_the_talker_can_is_no_error(tiny_folder, tmp_path):
    run("speak", tiny_folder, "Hi", "--max-seconds", 9999, "--out", tmp_path / "a.wav")
    assert contents(tmp_path) == ["a.wav"]


def test_warnings_of_the_package_are_notes_of_one_line(capsys):
    shared.quieten()
    logging.getLogger("josie.modeling_josie.talker").warning("Speech is\ncut.")
    assert capsys.readouterr().err == "Warning: Speech is cut.\n"


class TestLicence:
    def test_of_the_models_of_the_package(self):
        shown = run("info", "nano")
        assert "licence of the weights: cc-by-sa-3.0" in shown
        assert read_licence(Path(josie.nano_path("jodio"))) == "cc-by-sa-3.0"

    @pytest.mark.parametrize(
        ("card", "expected"),
        [
            (None, "not stated, there is no model card (README.md)"),
            ("# A model\n", "not stated in the model card (README.md)"),
            ("---\nlicense: other\nlicense_name: mine\nlicense_link: https://a.b\n---\n", "other (mine, https://a.b)"),
            ("---\nlicense: [mit, apache-2.0]\n---\n", "mit, apache-2.0"),
        ],
    )
    def test_of_a_card(self, tmp_path, card, expected):
        if card is not None:
            (tmp_path / "README.md").write_text(card)
        assert read_licence(tmp_path) == expected


class TestPlayback:
    @pytest.fixture
    def player(self, tmp_path, monkeypatch):
        """A player that notes what it is given, the only one there is."""
        program = tmp_path / "bin" / "paplay"
        program.parent.mkdir()
        program.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/played\n')
        program.chmod(0o755)
        monkeypatch.setenv("PATH", str(program.parent))
        return program

    def test_speech_is_played(self, tiny_folder, tmp_path, player):
        out = tmp_path / "a.wav"
        run("speak", tiny_folder, "Hi", "--out", out, "--max-seconds", 0.3, "--play")
        assert (tmp_path / "played").read_text() == f"{out}\n"

    def test_a_player_that_fails_is_told_of(self, tiny_folder, tmp_path, player):
        player.write_text("#!/bin/sh\necho 'no loudspeaker' >&2\nexit 1\n")
        command = ["speak", str(tiny_folder), "Hi", "--out", str(tmp_path / "a.wav"), "--play"]
        result = CliRunner().invoke(app, command)
        assert result.exit_code == 0
        assert result.stderr.endswith(f"paplay could not play {tmp_path / 'a.wav'}: no loudspeaker\n")

    def test_without_a_player_it_is_refused(self, tiny_folder, tmp_path, monkeypatch):
        monkeypatch.setenv("PATH", str(tmp_path))
        message = fail("speak", tiny_folder, "Hi", "--out", tmp_path / "a.wav", "--play")
        assert message.startswith("`--play` must have a player of .wav files, one of afplay, ")


def run_on_terminal(*arguments, folder):
    """Run a command whose standard error is a terminal; return standard output and what the terminal got."""
    controller, terminal = pty.openpty()
    environment = os.environ | {"TERM": "xterm", "COLUMNS": "100"}
    command = [sys.executable, "-m", "josie", *map(str, arguments)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=terminal, cwd=folder, env=environment)
    os.close(terminal)
    seen = b""
    while True:
        try:
            piece = os.read(controller, 4096)
        except OSError:  # the other side is closed
            break
        if not piece:
            break
        seen += piece
    printed, _ = process.communicate()
    os.close(controller)
    return process.returncode, printed.decode(), seen.decode()


@pytest.mark.slow
def test_progress_is_shown_on_a_terminal_only(tiny_folder, tmp_path):
    rows = tmp_path / "rows.jsonl"
    row = '{"task": "talk", "messages": [{"role": "user", "content": "Hi"}], "answer": "Hi", "scores": ["exact"]}\n'
    rows.write_text(row * 3, encoding="utf-8-sig")  # as Windows writes it
    command = ("evaluate", tiny_folder, "--data", rows, "--batch-size", 1, "--max-new-tokens", 2)
    code, printed, seen = run_on_terminal(*command, folder=tmp_path)
    assert code == 0
    assert "talk" in printed
    assert "Loading" in seen
    assert "3/3" in seen
    result = CliRunner().invoke(app, list(map(str, command)))
    assert result.stderr == "talk: 3 rows ...\n"


class TestFilesOfCodes:
    @pytest.fixture
    def stored(self, codec_folder, tmp_path):
        path = tmp_path / "a.safetensors"
        run("codec", "encode", DATA / "speech.wav", "--model", codec_folder("jodio"), "--out", path)
        return path

    def test_whoever_may_read_the_folder_may_read_them(self, stored, tmp_path):
        (tmp_path / "other").write_text("")
        assert stat.S_IMODE(stored.stat().st_mode) == stat.S_IMODE((tmp_path / "other").stat().st_mode)

    def test_those_of_earlier_versions_are_read(self, stored):
        codes = Codes.load(stored)
        metadata = {"format": "josie codes", "kind": '"audio"', "model_type": '"jodio"', "codebook_size": "11"}
        metadata |= {"sampling_rate": "1600", "hop_length": "20", "length": str(codes.length)}
        save_file({"codes": codes.codes.to(torch.int16)}, stored, metadata=metadata)
        old = Codes.load(stored)
        assert (old.modality, old.length) == ("audio", codes.length)
        assert torch.equal(old.codes, codes.codes)
