"""The command line on real files, and its one-line answers to what is wrong."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import soundfile
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from josie import JosieConfig, JosieForConditionalGeneration, JosieProcessor
from josie.cli.app import app

DATA = Path(__file__).parent / "data"


@pytest.fixture
def folder(tiny_folder):
    """A checkpoint of the tiny model."""
    return tiny_folder


@pytest.fixture
def copy(folder, tmp_path):
    """A copy of the checkpoint that a test may break."""
    return Path(shutil.copytree(folder, tmp_path / "copy"))


def run(*arguments):
    """Run a command that must succeed; return what it printed on standard output."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == 0, (result.stderr, result.exception)
    return result.stdout


def fail(*arguments):
    """Run a command that must fail; return its one line on standard error."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert isinstance(result.exception, SystemExit), result.exception
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr.count("\n") == 1
    assert result.stderr.startswith("Error: ")
    return result.stderr[len("Error: ") :].strip()


def contents(folder):
    """Return the names in a folder, hidden ones too."""
    return sorted(path.name for path in folder.iterdir())


class TestInit:
    def test_makes_a_checkpoint_that_loads(self, tmp_path):
        assert "micro, random weights" in run("init", "micro", tmp_path / "new" / "micro", "--seed", 3)
        assert contents(tmp_path / "new") == ["micro"]
        model = JosieForConditionalGeneration.from_pretrained(tmp_path / "new" / "micro")
        processor = JosieProcessor.from_pretrained(tmp_path / "new" / "micro")
        assert len(processor.tokenizer) == 5000
        torch.manual_seed(3)
        fresh = JosieForConditionalGeneration(JosieConfig.from_preset("micro"))
        assert model.config.thinker_config.text_config.vocab_size == 5000
        torch.testing.assert_close(model.state_dict(), fresh.state_dict(), rtol=0, atol=0)

    def test_unknown_preset(self, tmp_path):
        message = fail("init", "mega", tmp_path / "new")
        assert message == "`PRESET` must be one of ['base', 'micro'], got 'mega'."
        assert contents(tmp_path) == []

    def test_folder_with_something_in_it(self, tmp_path):
        (tmp_path / "note").write_text("mine")
        assert fail("init", "micro", tmp_path).startswith("`OUT` must not exist or be an empty folder, got ")
        assert contents(tmp_path) == ["note"]


class TestGenerate:
    inputs = ("--text", "What is on it?", "--image", DATA / "picture.png", "--audio", DATA / "speech.wav")

    def test_reads_everything_and_speaks(self, folder, tmp_path):
        out = tmp_path / "reply.wav"
        sizes = ("--max-new-tokens", 3, "--max-seconds", 0.3)
        more = ("--audio", DATA / "speech.flac", "--video", DATA / "video.mp4")
        run("generate", folder, *self.inputs, *more, "--out", out, *sizes, "--speaker", "bob")
        values, sampling_rate = soundfile.read(out)
        assert sampling_rate == 1600
        assert 0 < len(values) <= 10 * 48
        assert contents(tmp_path) == ["reply.wav"]

    def test_text_only_writes_no_audio(self, folder, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        assert run("generate", folder, *self.inputs, "--text-only", "--max-new-tokens", 3).strip()
        assert contents(tmp_path) == []

    def test_streamed_text_is_the_text(self, folder):
        arguments = ("generate", folder, *self.inputs, "--text-only", "--max-new-tokens", 9)
        assert run(*arguments, "--stream-text").split() == run(*arguments).split()

    def test_seed_reproduces_samples(self, folder):
        arguments = ("generate", folder, "--text", "Hi", "--text-only", "--max-new-tokens", 9, "--temperature", 1.5)
        assert run(*arguments, "--seed", 1) == run(*arguments, "--seed", 1) != run(*arguments, "--seed", 2)

    def test_nothing_to_say(self, folder):
        assert fail("generate", folder) == (
            "At least one of `--text`, `--image`, `--audio` and `--video` must be given, got none."
        )

    @pytest.mark.parametrize("modality", ["image", "audio", "video"])
    def test_missing_file(self, folder, tmp_path, modality):
        message = fail("generate", folder, f"--{modality}", tmp_path / "none", "--out", tmp_path / "reply.wav")
        assert message == f"`--{modality}` must be an existing file, got {str(tmp_path / 'none')!r}."
        assert contents(tmp_path) == []

    @pytest.mark.parametrize("modality", ["image", "audio", "video"])
    def test_a_pipe_and_a_name_that_is_too_long(self, folder, tmp_path, modality):
        pipe, long = tmp_path / "pipe", "a" * 300
        os.mkfifo(pipe)
        required = f"`--{modality}` must be a regular file, not a pipe or a device"
        for name in (pipe, "/dev/null"):
            assert fail("generate", folder, f"--{modality}", name) == f"{required}, got {str(name)!r}."
        assert fail("generate", folder, f"--{modality}", long) == (
            f"`--{modality}` must be a name that can be looked up (File name too long), got {long!r}."
        )

    def test_a_long_name_is_written_and_one_that_is_too_long_refused(self, folder, tmp_path):
        longest, longer = (tmp_path / f"{'a' * count}.wav" for count in (251, 252))
        message = fail("generate", folder, "--text", "Hi", "--out", longer)
        assert message.startswith("`--out` must be a name that can be looked up (File name too long), got '")
        run("generate", folder, "--text", "Hi", "--max-new-tokens", 3, "--out", longest)
        assert contents(tmp_path) == [longest.name]

    @pytest.mark.parametrize("modality", ["image", "audio", "video"])
    def test_unreadable_file(self, folder, tmp_path, modality):
        broken = tmp_path / "broken"
        broken.write_bytes(b"no such format" * 9)
        message = fail("generate", folder, f"--{modality}", broken, "--out", tmp_path / "reply.wav")
        assert "broken" in message
        assert contents(tmp_path) == ["broken"]

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (("--max-new-tokens", 0), "`--max-new-tokens` must be at least 1, got 0."),
            (("--max-seconds", -1), "`--max-seconds` must be a finite number above 0, got -1.0."),
            (("--temperature", 0), "`--temperature` must be in [0.01, 100], got 0.0."),
            (("--speaker", "eve"), "`--speaker` must be one of ['ada', 'bob'], got 'eve'."),
            (("--out", "reply.txt"), "`--out` must end in .wav"),
            (("--out", "none/reply.wav"), "`--out` must be a file in an existing folder, got 'none/reply.wav'."),
        ],
        ids=["tokens", "seconds", "temperature", "speaker", "suffix", "folder"],
    )
    def test_value_out_of_range(self, folder, tmp_path, monkeypatch, arguments, message):
        monkeypatch.chdir(tmp_path)
        assert message in fail("generate", folder, "--text", "Hi", *arguments)
        assert contents(tmp_path) == []

    def test_text_longer_than_the_context(self, folder, tmp_path):
        assert "256" in fail("generate", folder, "--text", "words " * 300, "--out", tmp_path / "reply.wav")

    def test_speech_without_a_talker(self, save_checkpoint, tmp_path):
        save_checkpoint(tmp_path / "mute", talker_config=None)
        message = fail("generate", tmp_path / "mute", "--text", "Hi", "--out", tmp_path / "reply.wav")
        folder = str(tmp_path / "mute")
        assert message == (
            f"`DIR` must hold a model that speaks without `--text-only`, got {folder!r} without `talker`."
        )
        assert contents(tmp_path) == ["mute"]


class TestSpeak:
    def test_writes_an_audio_file(self, folder, tmp_path):
        run("speak", folder, "Hello there.", "--out", tmp_path / "hello.flac", "--max-seconds", 0.3)
        values, sampling_rate = soundfile.read(tmp_path / "hello.flac")
        assert sampling_rate == 1600
        assert 0 < len(values) <= 10 * 48
        assert contents(tmp_path) == ["hello.flac"]

    def test_empty_text(self, folder, tmp_path):
        for text in ("", "  "):
            message = fail("speak", folder, text, "--out", tmp_path / "a.wav")
            assert message == f"`TEXT` must have at least one word, got {text!r}."
        assert contents(tmp_path) == []


class TestInfo:
    def test_shows_every_part_and_its_size(self, folder):
        table = run("info", folder)
        model = JosieForConditionalGeneration.from_pretrained(folder)
        for part in (model, model.thinker, model.talker, model.audio_codec):
            assert f"{sum(p.numel() for p in part.parameters()):,}" in table
        assert "1600 Hz, 33.3333 frames/s, 3 × 11 codes" in table

    def test_codecs_weigh_what_they_weigh_when_loaded(self, folder, tmp_path):
        config = JosieConfig.from_pretrained(folder)
        config.dtype = torch.bfloat16
        config.save_pretrained(tmp_path)
        rows = [run("info", path) for path in (folder, tmp_path)]
        whole, half = (
            {line.split("│")[1].strip(): line.split("│")[4].strip() for line in row.splitlines() if "MiB" in line}
            for row in rows
        )
        assert whole["audio_codec"] == half["audio_codec"]
        assert whole["talker"] != half["talker"]

    def test_base_without_its_weights(self, tmp_path):
        JosieConfig.from_preset("base").save_pretrained(tmp_path)
        table = run("info", tmp_path)
        assert "patches 2×16×16, 32 × 2048 codes" in table
        assert "24000 Hz, 12.5 frames/s, 9 × 2048 codes" in table


class TestTrainTokenizer:
    def test_makes_a_tokenizer(self, tmp_path):
        text = tmp_path / "text.txt"
        text.write_text("the cat sat on the mat, and the rat sat on the cat\n" * 5, encoding="utf-8")
        assert "275 tokens" in run("train-tokenizer", text, text, "--out", tmp_path / "new", "--vocab-size", 275)
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(tmp_path / "new")
        assert tokenizer.decode(tokenizer("a new cat")["input_ids"], skip_special_tokens=True) == "a new cat"

    @pytest.mark.parametrize(
        ("content", "size", "message"),
        [
            (b"some text", 9, "`--vocab-size` must be at least 265 (special tokens and bytes), got 9."),
            (b"", 300, "`texts`"),
            (b"\xff\xfe\xff", 300, "UTF-8"),
        ],
        ids=["too-small", "no-text", "not-utf-8"],
    )
    def test_bad_input_leaves_nothing(self, tmp_path, content, size, message):
        (tmp_path / "text.txt").write_bytes(content)
        arguments = (tmp_path / "text.txt", "--out", tmp_path / "new", "--vocab-size", size)
        assert message in fail("train-tokenizer", *arguments)
        assert contents(tmp_path) == ["text.txt"]


@pytest.mark.parametrize("command", [("generate", "--text", "Hi", "--text-only"), ("speak", "Hi"), ("info",)], ids=str)
class TestNoCheckpoint:
    def fail(self, command, folder, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        before = contents(tmp_path)
        message = fail(command[0], folder, *command[1:])
        assert contents(tmp_path) == before
        return message

    def test_no_folder(self, command, tmp_path, monkeypatch):
        message = self.fail(command, tmp_path / "none", tmp_path, monkeypatch)
        assert message.startswith("`DIR` must be a folder with a JOSIE checkpoint, got ")
        assert message.endswith("without a config.json.")

    def test_another_model(self, command, tmp_path, monkeypatch):
        (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama"}))
        assert self.fail(command, tmp_path, tmp_path, monkeypatch).endswith("of the model type 'llama'.")

    def test_no_json(self, command, tmp_path, monkeypatch):
        (tmp_path / "config.json").write_text("{")
        assert "config.json" in self.fail(command, tmp_path, tmp_path, monkeypatch)

    def test_wrong_type_in_the_configuration(self, command, copy, tmp_path, monkeypatch):
        config = json.loads((copy / "config.json").read_text())
        config["text_loss_weight"] = "much"
        (copy / "config.json").write_text(json.dumps(config))
        assert "text_loss_weight" in self.fail(command, copy, tmp_path, monkeypatch)

    def test_a_part_that_is_no_configuration(self, command, copy, tmp_path, monkeypatch):
        config = json.loads((copy / "config.json").read_text())
        config["thinker_config"] = "large"
        (copy / "config.json").write_text(json.dumps(config))
        assert "`thinker_config` must be" in self.fail(command, copy, tmp_path, monkeypatch)

    def test_impossible_configuration(self, command, copy, tmp_path, monkeypatch):
        config = json.loads((copy / "config.json").read_text())
        config["talker_config"]["codebook_size"] = 12
        (copy / "config.json").write_text(json.dumps(config))
        assert "`talker_config.codebook_size` must be the codec's (11), got 12." in self.fail(
            command, copy, tmp_path, monkeypatch
        )


class TestBrokenWeights:
    def fail(self, copy, tmp_path):
        message = fail("speak", copy, "Hi", "--out", tmp_path / "reply.wav")
        assert contents(tmp_path) == ["copy"]
        return message

    def test_no_weights(self, copy, tmp_path):
        (copy / "model.safetensors").unlink()
        assert "model.safetensors" in self.fail(copy, tmp_path)

    def test_truncated(self, copy, tmp_path):
        weights = (copy / "model.safetensors").read_bytes()
        (copy / "model.safetensors").write_bytes(weights[: len(weights) // 2])
        assert self.fail(copy, tmp_path)

    @pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json", "processor_config.json"])
    def test_other_content(self, copy, tmp_path, name):
        (copy / name).write_text('{"a": 1}')
        assert self.fail(copy, tmp_path).startswith("`DIR` must hold ")

    def test_some_missing(self, copy, tmp_path):
        weights = load_file(copy / "model.safetensors")
        del weights["talker.head.weight"]
        save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
        assert self.fail(copy, tmp_path).endswith("which lacks 1 of them, such as 'talker.head.weight'.")

    def test_other_shape(self, copy, tmp_path):
        weights = load_file(copy / "model.safetensors")
        weights["talker.head.weight"] = torch.zeros(2, 3)
        save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
        assert self.fail(copy, tmp_path).endswith("of other shapes, such as 'talker.head.weight'.")

    def test_no_tokenizer(self, copy, tmp_path):
        for name in ("tokenizer.json", "tokenizer_config.json"):
            (copy / name).unlink()
        assert self.fail(copy, tmp_path)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("speek",), "No such command 'speek'. Did you mean 'speak'"),
        (("info",), "Missing argument"),
        (("generate", "x", "--max-new-tokens", "many"), "`--max-new-tokens` must be a valid integer, got 'many'."),
        (("info", "x", "--loud"), "--loud"),
    ],
    ids=["unknown", "argument", "number", "option"],
)
def test_wrong_command_lines(arguments, message):
    assert message in fail(*arguments)


def test_a_process_ends_with_exit_code_2_and_one_line(tmp_path):
    command = [sys.executable, "-m", "josie", "info", str(tmp_path)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout, result.stderr.count("\n")) == (2, "", 1)


def test_help_imports_neither_torch_nor_transformers():
    code = "import sys; from josie.cli.app import app; app(['--help'], standalone_mode=False); "
    code += "print(sorted({'torch', 'transformers'} & sys.modules.keys()))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "Usage:" in result.stdout
    assert result.stdout.endswith("[]\n")
