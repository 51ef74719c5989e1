"""`josie codec` on wrong files, codes and options: one line each, and nothing is left behind."""

from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file
from test_cli import contents, fail
from test_codec_cli import run
from tiny import JODIO
from transformers import AutoConfig, AutoModel
from typer.testing import CliRunner

from josie.cli.app import app

DATA = Path(__file__).parent / "data"
SPEECH = DATA / "speech.wav"


@pytest.fixture
def jodio(codec_folder):
    return codec_folder("jodio")


class TestErrors:
    @pytest.mark.parametrize(
        ("model_type", "arguments", "message"),
        [
            ("jodio", ("encode", DATA / "picture.png"), "`FILE` must be audio, which 'jodio' codes, got "),
            ("jodio", ("encode", DATA / "none.wav"), "`FILE` must be an existing file, got "),
            ("jodio", ("encode",), "Either `FILE` or `--mic` must be given, got neither."),
            ("jodio", ("encode", SPEECH, "--mic"), "Either `FILE` or `--mic` must be given, got both."),
            ("jodio", ("encode", SPEECH, "--seconds", 2), "`--seconds` must go with `--mic`, got 2.0."),
            ("jodio", ("encode", SPEECH, "--num-quantizers", 4), "`--num-quantizers` must be in [1, 3], got 4."),
            (
                "jodio",
                ("encode", SPEECH, "--num-quantizers", 4, "--stream"),
                "`--num-quantizers` must be in [1, 3], got 4.",
            ),
            ("jovio", ("encode", SPEECH), "`FILE` must be an image or a video, which 'jovio' codes, got "),
            ("jovio", ("encode", "--mic"), "`FILE` must be an image or a video, which 'jovio' codes, got 'the micro"),
            (
                "jovio",
                ("encode", DATA / "make_data.py"),
                "`FILE` must be an image or a video, which 'jovio' codes, got ",
            ),
            (
                "jovio",
                ("encode", DATA / "picture.png", "--max-patches", 0),
                "`--max-patches` must be at least 1, got 0.",
            ),
            ("jovio", ("encode", DATA / "picture.png", "--stream"), "`--stream` must be used with a codec that"),
            ("josie_mel_codec", ("encode", SPEECH, "--stream"), "`--stream` must be used with a codec that"),
        ],
    )
    def test_bad_input_leaves_nothing(self, codec_folder, tmp_path, model_type, arguments, message):
        out = ("--model", codec_folder(model_type), "--out", tmp_path / "a.safetensors")
        assert fail("codec", *arguments, *out).startswith(message)
        assert contents(tmp_path) == []

    @pytest.mark.parametrize(
        ("command", "model_type", "file", "out", "message"),
        [
            ("encode", "jodio", SPEECH, "a.wav", "`--out` must end in .safetensors, got "),
            ("roundtrip", "jodio", SPEECH, "a.png", "`--out` must end in .wav, .flac, "),
            ("roundtrip", "jovio", DATA / "picture.png", "a.wav", "`--out` must end in .png, got "),
            ("roundtrip", "jovio", DATA / "video.mp4", "a.png", "`--out` must end in .mp4, got "),
            ("encode", "jodio", SPEECH, "none/a.safetensors", "`--out` must be a file in an existing folder, got "),
        ],
    )
    def test_bad_output(self, codec_folder, tmp_path, command, model_type, file, out, message):
        pytest.importorskip("av", reason="video files need PyAV")
        arguments = ("--model", codec_folder(model_type), "--out", tmp_path / out)
        assert fail("codec", command, file, *arguments).startswith(message)
        assert contents(tmp_path) == []

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"codebook_size": 12}, "`CODES` must have the model's `codebook_size`, 12, got 11."),
            ({"sampling_rate": 800}, "`CODES` must have the model's `sampling_rate`, 800, got 1600."),
            ({"upsampling_ratios": [5, 5]}, "`CODES` must have the model's `hop_length`, 25, got 20."),
            ({"num_quantizers": 2}, "`CODES` must have shape (batch, 1 to 2 quantizers, frames), got (1, 3, 180)."),
        ],
        ids=["codebook", "rate", "hop", "quantizers"],
    )
    def test_codes_of_another_model(self, codec_folder, jodio, tmp_path, changes, message):
        codes = tmp_path / "codes.safetensors"
        run("encode", SPEECH, "--model", jodio, "--out", codes)
        other = ("--model", AutoConfigFolder.make(tmp_path / "other", changes), "--out", tmp_path / "a.wav")
        assert fail("codec", "decode", codes, *other) == message
        assert contents(tmp_path) == ["codes.safetensors", "other"]

    def test_codes_of_another_kind(self, codec_folder, jodio, tmp_path):
        codes = tmp_path / "codes.safetensors"
        run("encode", SPEECH, "--model", jodio, "--out", codes)
        out = ("--out", tmp_path / "a.wav")
        message = fail("codec", "decode", codes, "--model", codec_folder("jovio"), *out)
        assert message == "`CODES` must be of image or video, which 'jovio' makes, got audio."
        message = fail("codec", "decode", codes, "--model", codec_folder("josie_mel_codec"), *out)
        assert message == "`CODES` must have the model's `model_type`, 'josie_mel_codec', got 'jodio'."
        assert fail("codec", "decode", SPEECH, "--model", jodio, *out).startswith("`CODES` must be a file that ")

    @pytest.mark.parametrize(
        ("shape", "value", "changes", "message"),
        [
            ((1, 3, 179), 0, {}, "`CODES` must have frames for all 3584 samples, got 179 frames."),
            ((1, 3, 180), 11, {}, "`CODES` must be in [0, 10], got values from 11 to 11."),
            ((1, 0, 180), 0, {}, "`CODES` must have shape (batch, 1 to 3 quantizers, frames), got (1, 0, 180)."),
            ((3, 180), 0, {}, "`CODES` must be a file that `josie codec encode` wrote"),
            ((1, 3, 180), 0, {"kind": '"smell"'}, "`CODES` must be a file that `josie codec encode` wrote"),
            ((1, 3, 180), 0, {"length": "null"}, "`CODES` must be a file that `josie codec encode` wrote"),
            ((1, 3, 180), 0, {"length": "{"}, "`CODES` must be a file that `josie codec encode` wrote"),
            ((1, 3, 180), 0, {"format": "pt"}, "`CODES` must be a file that `josie codec encode` wrote"),
        ],
    )
    def test_damaged_codes(self, jodio, tmp_path, shape, value, changes, message):
        codes = tmp_path / "codes.safetensors"
        run("encode", SPEECH, "--model", jodio, "--out", codes)
        with safe_open(codes, "pt") as file:
            metadata = file.metadata()
        save_file({"codes": torch.full(shape, value, dtype=torch.int16)}, codes, metadata=metadata | changes)
        assert fail("codec", "decode", codes, "--model", jodio, "--out", tmp_path / "a.wav").startswith(message)
        assert contents(tmp_path) == ["codes.safetensors"]

    def test_truncated_codes(self, jodio, tmp_path):
        codes = tmp_path / "codes.safetensors"
        run("encode", SPEECH, "--model", jodio, "--out", codes)
        codes.write_bytes(codes.read_bytes()[:-9])
        message = fail("codec", "decode", codes, "--model", jodio, "--out", tmp_path / "a.wav")
        assert message.startswith("`CODES` must be a file that `josie codec encode` wrote, got ")

    @pytest.mark.parametrize("config", ['{"model_type": "llama"}', '{"model_type": "no-such"}', "[]"])
    def test_no_codec(self, tmp_path, config):
        (tmp_path / "config.json").write_text(config)
        message = fail("codec", "encode", SPEECH, "--model", tmp_path, "--out", tmp_path / "a.safetensors")
        assert message.startswith("`--model` must have a codec, got ")

    def test_an_encodec_that_cuts(self, codec_folder, tmp_path):
        folder = codec_folder("encodec", normalize=True)
        message = fail("codec", "encode", SPEECH, "--model", folder, "--out", tmp_path / "a.safetensors")
        assert message.startswith("`DIR` must have an EnCodec that neither normalizes nor chunks")

    def test_a_failure_while_writing_leaves_what_was_there(self, codec_folder, tmp_path, monkeypatch):
        out = tmp_path / "a.png"
        out.write_bytes(b"mine")
        monkeypatch.setattr(Image.Image, "save", lambda self, path, format: (path.write_bytes(b"half"), 1 / 0))
        arguments = ("--model", codec_folder("jovio"), "--out", out, "--max-patches", 12)
        result = CliRunner().invoke(app, ["codec", "roundtrip", str(DATA / "picture.png"), *map(str, arguments)])
        assert isinstance(result.exception, ZeroDivisionError)
        assert contents(tmp_path) == ["a.png"]
        assert out.read_bytes() == b"mine"


class AutoConfigFolder:
    """Checkpoints of JODIO with other sizes, made where a test wants them."""

    @staticmethod
    def make(folder, changes):
        sizes = {name: value for name, value in JODIO.items() if name != "model_type"} | changes
        config = AutoConfig.for_model("jodio", **sizes)
        AutoModel.from_config(config).save_pretrained(folder)
        return folder
