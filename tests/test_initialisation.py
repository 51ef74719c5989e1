"""Initial weights: modules with a `reset_weights` of their own start by it, and what was loaded stays."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from test_jodio import make_model
from transformers.utils import logging

from josie.modeling_josie.layers.transformer import JosieLayerScale
from josie.modeling_josie.pretrained import JosiePreTrainedModel


@pytest.fixture(autouse=True)
def quiet():
    """Keep the report of missing weights out of the output."""
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    yield
    logging.set_verbosity(verbosity)


@pytest.mark.parametrize("missing", ["encoder.layers.1.conv.weight_scale", "quantizer.acoustic.quantizers.0.codebook"])
def test_only_what_is_missing_is_initialised(tmp_path, missing):
    model = make_model()
    with torch.no_grad():
        for tensor in model.state_dict().values():
            tensor.copy_(torch.full_like(tensor, 7))
    model.save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    del weights[missing]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    torch.manual_seed(2)
    loaded = type(model).from_pretrained(tmp_path).state_dict()
    assert not (loaded.pop(missing) == 7).any()
    for name, value in loaded.items():
        assert torch.equal(value, torch.full_like(value, 7)), name


def test_a_module_that_resets_itself_does():
    model, scale = make_model(), JosieLayerScale(5, 0.25)
    with torch.no_grad():
        scale.scale.fill_(3)
    JosiePreTrainedModel._init_weights(model, scale)
    assert torch.equal(scale.scale.detach(), torch.full((5,), 0.25))


def test_modules_say_by_one_method_how_they_begin():
    package = Path(__file__).parents[1] / "modeling_josie"
    overriding = [path.name for path in package.rglob("*.py") if "def _init_weights" in path.read_text("utf-8")]
    assert overriding == ["pretrained.py"]
