"""Weights of 8 bits: bounds on size and error, and the example that measures both."""

import importlib.util
import runpy
import shutil
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import AUDIO_ENCODER, DEPTH, TALKER, TEXT, VISION_ENCODER, josie_config, josie_inputs
from transformers import AutoModelForMultimodalLM

import josie

EXAMPLE = Path(josie.__file__).parent / "examples" / "quantize.py"
META = {"format": "pt"}
WIDER = dict(hidden_size=96, intermediate_size=256, head_dim=32)
METHODS = [
    pytest.param(
        method,
        marks=pytest.mark.skipif(
            method != "torch-dynamic" and importlib.util.find_spec("torchao") is None,
            reason="torchao's weights need torchao: pip install 'josie[quantize]'",
        ),
    )
    for method in ("int8-weights", "int8-activations", "torch-dynamic")
]


@pytest.fixture(scope="module")
def model():
    """A model with wide enough matrices that scales, one for each row, are few beside weights."""
    torch.manual_seed(1)
    config = josie_config(
        thinker_config=dict(
            text_config=dict(TEXT, **WIDER),
            audio_config=AUDIO_ENCODER,
            vision_config=VISION_ENCODER,
            image_token_id=6,
            video_token_id=7,
            audio_token_id=8,
        ),
        talker_config=dict(TALKER, **WIDER, thinker_hidden_size=96, depth_decoder_config=dict(DEPTH, **WIDER)),
    )
    return josie.JosieForConditionalGeneration(config).eval()


@pytest.fixture(scope="module")
def example():
    return runpy.run_path(str(EXAMPLE))


@pytest.mark.parametrize("method", METHODS)
@torch.no_grad()
def test_a_quarter_of_the_size_and_almost_the_same_logits(model, example, method):
    inputs = josie_inputs()
    expected = model(**inputs)
    smaller = josie.JosieForConditionalGeneration(model.config).eval()
    smaller.load_state_dict(model.state_dict())
    for part in ("thinker", "talker"):
        linear = sum(module.weight.numel() for module in getattr(model, part).modules() if is_linear(module))
        before = example["count_bytes"](getattr(model, part))
        setattr(smaller, part, example["METHODS"][method](getattr(smaller, part)))
        after = example["count_bytes"](getattr(smaller, part))
        assert before - after > 0.85 * 3 * linear, "3 of 4 bytes go, but for scales and the names of things"
    actual = smaller(**inputs)
    for name in ("logits", "talker_logits", "depth_logits"):
        error = example["relative_error"](getattr(actual, name), getattr(expected, name))
        # torch's own has one scale for a whole matrix, torchao's one for each row.
        assert 0 < error < (0.15 if method == "torch-dynamic" else 0.05), name
    spoken = smaller.generate(
        torch.tensor([[20, 21, 22]]), max_new_tokens=3, generation_mode="audio", talker_max_new_frames=3
    )
    assert torch.isfinite(spoken.audio_values).all()


def is_linear(module) -> bool:
    return isinstance(module, torch.nn.Linear)


@pytest.mark.parametrize("learns", [False, True])
def test_a_talker_of_torchs_own_weights_speaks_a_text(example, learns):
    torch.manual_seed(1)
    config = josie_config(talker_config=dict(TALKER, learns_durations=learns, duration_right_context=int(learns)))
    smaller = josie.JosieForConditionalGeneration(config).eval()
    smaller.talker = example["METHODS"]["torch-dynamic"](smaller.talker)
    text, options = torch.tensor([[20, 21, 22]]), dict(talker_max_new_frames=3)
    spoken = smaller.generate(text, max_new_tokens=3, generation_mode="audio", **options)
    assert torch.isfinite(spoken.audio_values).all()
    assert torch.isfinite(smaller.generate_speech(text, **options).audio_values).all()
    assert example["compare"](smaller, "torch-dynamic", 4)["Talker"]["quantized_rate"] > 0


def test_a_missing_library_or_number_or_checkpoint_is_one_sentence(
    monkeypatch, tmp_path, example, capsys, codec_folder, tiny_folder
):
    halved = shutil.copytree(tiny_folder, tmp_path / "halved")
    weights = load_file(halved / "model.safetensors")
    save_file({name: weights[name] for name in weights if "talker" not in name}, halved / "model.safetensors", META)
    monkeypatch.setitem(sys.modules, "torchao", None)
    for arguments, message in (
        (
            ["nano", "--tokens", "2"],
            r"`--method` must be 'torch-dynamic' without torchao: pip install 'josie\[quantize\]'",
        ),
        (["nano", "--tokens", "0"], "`--tokens` must be at least 1, got 0."),
        (["nano", "--tokens", "250"], "`--tokens` must be at most 249 for the positions of 'nano', got 250."),
        (["nano", "--threads", "0"], "`--threads` must be at least 1, got 0."),
        ([str(tmp_path)], "`folder` must hold a JOSIE checkpoint, got .*, without a config.json."),
        (
            [str(codec_folder("jodio"))],
            r"`folder` must hold a model of \['josie', 'josie_thinker'\], got .* of 'jodio'",
        ),
        (
            [str(halved), "--tokens", "2"],
            "`folder` must hold all weights that its config.json asks for, got .*, which lacks",
        ),
    ):
        monkeypatch.setattr(sys, "argv", [str(EXAMPLE), *arguments])
        with pytest.raises(SystemExit, match=message):
            example["main"]()
        assert not capsys.readouterr().out, "no head of a table that does not come"


@torch.no_grad()
def test_transformers_loads_and_saves_weights_of_torchao(model, tmp_path):
    quantization = pytest.importorskip("torchao.quantization", reason="torchao's weights need torchao")
    from transformers import TorchAoConfig

    model.save_pretrained(tmp_path / "whole")
    config = TorchAoConfig(quantization.Int8WeightOnlyConfig(), modules_to_not_convert=["lm_head"])
    loaded = josie.JosieForConditionalGeneration.from_pretrained(tmp_path / "whole", quantization_config=config)
    assert all(type(weight.data) is torch.Tensor for weight in loaded.audio_codec.parameters())
    inputs = josie_inputs()
    expected, actual = model(**inputs), loaded(**inputs)
    for name in ("logits", "talker_logits", "depth_logits"):
        error = (getattr(actual, name) - getattr(expected, name)).norm() / getattr(expected, name).norm()
        assert 0 < error < 0.05, name
    loaded.save_pretrained(tmp_path / "small")
    sizes = [(tmp_path / name / "model.safetensors").stat().st_size for name in ("whole", "small")]
    assert sizes[1] < 0.5 * sizes[0]
    again = josie.JosieForConditionalGeneration.from_pretrained(tmp_path / "small")
    torch.testing.assert_close(again(**inputs).depth_logits, actual.depth_logits, rtol=0, atol=0)


@pytest.mark.parametrize("method", METHODS)
def test_the_example_prints_size_error_and_speed(tiny_folder, monkeypatch, capsys, method):
    monkeypatch.setattr(
        sys, "argv", [str(EXAMPLE), str(tiny_folder), "--method", method, "--tokens", "6", "--threads", "1"]
    )
    threads = torch.get_num_threads()
    try:
        runpy.run_path(str(EXAMPLE), run_name="__main__")
    finally:
        torch.set_num_threads(threads)
    rows = read_table(capsys, method)
    assert [row.split()[0] for row in rows] == ["Thinker", "Talker"]


def test_a_thinker_alone_is_measured_as_in_its_model(tiny_folder, monkeypatch, capsys, tmp_path, example):
    thinker = AutoModelForMultimodalLM.from_pretrained(tiny_folder).thinker
    thinker.save_pretrained(tmp_path)
    monkeypatch.setattr(
        sys, "argv", [str(EXAMPLE), str(tmp_path), "--method", "torch-dynamic", "--tokens", "6", "--threads", "1"]
    )
    example["main"]()
    (row,) = read_table(capsys, "torch-dynamic")
    name, size, *_ = row.split()
    assert name == "Thinker"
    assert float(size) == pytest.approx(example["count_bytes"](thinker) / 1e6, abs=0.051)


def read_table(capsys, method):
    """Return the rows of a table that was printed, each with a number in every cell."""
    title, head, *rows = capsys.readouterr().out.strip().splitlines()
    assert title.startswith(f"{method}, batch 1")
    assert "error of logits" in head
    assert all(len(row.split()) == 6 and all(float(cell) > 0 for cell in row.split()[1:]) for row in rows)
    return rows
