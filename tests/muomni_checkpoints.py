"""μOmni checkpoints of every form, made of the golden one, and their conversion.

Set MUOMNI_CHECKPOINT to a folder like `tests/data/muomni`, with `expected.safetensors` and `expected_tokens.json`, to
check another checkpoint.
"""

import json
import math
import os
import shutil
import tempfile
from functools import cache
from pathlib import Path

import torch
from safetensors.torch import load_file

from josie import JosieForConditionalGeneration, convert_muomni

GOLDEN = Path(__file__).parent / "data" / "muomni"
SOURCE = Path(os.environ.get("MUOMNI_CHECKPOINT", GOLDEN))
FILES = {
    "thinker": "thinker_tiny/thinker.pt",
    "audio": "audio_enc_tiny/audio_enc.pt",
    "vision": "vision_tiny/vision.pt",
    "talker": "talker_tiny/talker.pt",
    "omni": "omni_sft_tiny/omni.pt",
}


def close(actual, expected, rtol=0.0):
    """Assert equality to 1e-4, and to `rtol` of the value where it is large."""
    torch.testing.assert_close(actual, expected, atol=1e-4, rtol=rtol)


def convert(source, destination, **options):
    """Convert, and return the loaded model and the report."""
    report = convert_muomni(source, destination, **options)
    return JosieForConditionalGeneration.from_pretrained(destination).eval(), report


def read_parts():
    """Return the content of every `.pt` file of the golden checkpoint."""
    return {name: torch.load(GOLDEN / file, weights_only=True) for name, file in FILES.items()}


def write_parts(folder, parts, config=None):
    """Write a checkpoint folder with tokenizer and configuration."""
    for name, content in parts.items():
        (folder / FILES[name]).parent.mkdir(parents=True, exist_ok=True)
        torch.save(content, folder / FILES[name])
    (folder / "thinker_tiny").mkdir(parents=True, exist_ok=True)
    shutil.copy(GOLDEN / "thinker_tiny" / "tokenizer.model", folder / "thinker_tiny")
    config = json.loads((GOLDEN / "config.json").read_text()) if config is None else config
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def merge(parts):
    """Return the weights under the names of the single safetensors file."""
    groups = {
        "thinker": parts["omni"]["thinker"],
        "audio_encoder": parts["audio"]["enc"],
        "vision_encoder": parts["vision"]["vit"],
        "talker": parts["talker"]["talker"],
        "rvq": parts["talker"]["rvq"],
        "proj_a": parts["omni"]["proj_a"],
        "proj_v": parts["omni"]["proj_v"],
    }
    return {f"{name}.{key}": tensor for name, weights in groups.items() for key, tensor in weights.items()}


def rename(weights, *pairs):
    """Replace parts of the keys."""
    for old, new in pairs:
        weights = {key.replace(old, new): tensor for key, tensor in weights.items()}
    return weights


def same(weights, others):
    """Assert that two state dicts are equal."""
    assert weights.keys() == others.keys()
    for key, tensor in weights.items():
        assert torch.equal(tensor, others[key]), key


@cache
def read_expected():
    """Return inputs and outputs of the original modules."""
    expected = load_file(SOURCE / "expected.safetensors")
    return {"vision.pixels": draw_pixels()} | expected


def draw_pixels():
    """Return the image of the outputs in `tests/data/muomni`: noise that its seed stands for."""
    start, shape = 186568, (1, 3, 224, 224)
    noise = torch.rand(start + math.prod(shape), generator=torch.Generator().manual_seed(11))
    return noise[start:].reshape(shape)


@cache
def convert_golden():
    """Return the weights of the golden checkpoint, converted."""
    with tempfile.TemporaryDirectory() as folder:
        convert_muomni(GOLDEN, Path(folder) / "josie")
        return load_file(Path(folder) / "josie" / "model.safetensors")
