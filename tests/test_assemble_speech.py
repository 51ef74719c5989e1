"""Assembly of what speaks: the codec of a JOSIE, fields of a Talker from a file, and types that survive loading."""

import json

import pytest
import torch
from assembly_parts import FAMILIES
from tiny import MEL_CODEC, build, josie_config
from transformers import AutoModelForMultimodalLM
from typer.testing import CliRunner

import josie
from josie.cli.app import app

FIELDS = {"hidden_size": 64, "num_hidden_layers": 1, "reads_thinker_states": False, "learns_durations": True}


@pytest.fixture(scope="module")
def speaker(tmp_path_factory):
    """A whole model with a mel codec."""
    folder = tmp_path_factory.mktemp("speaker")
    talker = dict(josie_config().talker_config.to_dict(), num_quantizers=2, codebook_size=MEL_CODEC["codebook_size"])
    config = josie_config(audio_codec_config=MEL_CODEC, talker_config=talker)
    model = build(josie.JosieForConditionalGeneration, config)
    for quantizer in model.audio_codec.quantizer.quantizers:
        quantizer.initialized.fill_(True)
    model.save_pretrained(folder)
    return folder


def test_the_codec_of_a_josie_and_a_talker_of_a_file(parts, speaker, tmp_path):
    (tmp_path / "talker.json").write_text(json.dumps(FIELDS))
    options = {
        "text": parts("text", "llama"),
        "audio": parts("audio", "whisper"),
        "codec": speaker,
        "talker": tmp_path / "talker.json",
        "projector-size": 24,
        "audio-stack-factor": 4,
        "dtype": "bfloat16",
    }
    arguments = [str(word) for name, value in options.items() for word in (f"--{name}", value)]
    result = CliRunner().invoke(app, ["assemble", str(tmp_path / "new"), *arguments])
    assert result.exit_code == 0, (result.output, result.exception)
    model = AutoModelForMultimodalLM.from_pretrained(tmp_path / "new")
    assert {name: getattr(model.config.talker_config, name) for name in FIELDS} == FIELDS
    assert model.thinker.model.audio_front_end.projector.linear_1.weight.shape == (24, 4 * 16)
    original = AutoModelForMultimodalLM.from_pretrained(speaker).audio_codec.state_dict()
    for name, value in model.audio_codec.state_dict().items():
        assert torch.equal(value, original[name]), name


def test_flags_of_a_codec_are_flags_in_a_model_of_16_bits(speaker):
    model = AutoModelForMultimodalLM.from_pretrained(speaker, dtype=torch.bfloat16)
    assert {value.dtype for value in model.audio_codec.parameters()} == {torch.float32}
    flags = [quantizer.initialized for quantizer in model.audio_codec.quantizer.quantizers]
    assert flags
    assert all(flag.dtype == torch.bool and flag for flag in flags)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "`--talker` must be a file of JSON"),
        ("[1]", "`--talker` must be a JSON object with fields of a Talker"),
        ('{"hidden": 3}', "`talker` must hold fields of a Talker's configuration, got 'hidden'"),
    ],
)
def test_wrong_files_of_fields_are_refused(parts, codec_folder, tmp_path, content, message):
    assert "llama" in FAMILIES
    (tmp_path / "talker.json").write_text(content)
    sources = ["--text", str(parts("text", "llama")), "--codec", str(codec_folder("jodio"))]
    arguments = [str(tmp_path / "new"), *sources, "--talker", str(tmp_path / "talker.json")]
    result = CliRunner().invoke(app, ["assemble", *arguments])
    assert result.exit_code
    assert message in " ".join(f"{result.output} {result.exception}".split())
    assert not (tmp_path / "new").exists()
