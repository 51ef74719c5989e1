"""Dtypes in which a processor is slow: recipes leave them where they may choose, and whoever asks for one is told."""

import logging

import pytest
import torch
from recipes import runs
from transformers import TrainingArguments
from typer.testing import CliRunner

from josie.cli.app import app
from josie.modeling_josie.layers import precision


@pytest.fixture(params=[0.5, 40.0], ids=["fast", "slow"])
def slowdown(request, monkeypatch):
    """A processor that takes so many times as long in fewer bits."""
    monkeypatch.setattr(precision, "measure_slowdown", lambda dtype: request.param)
    return request.param


def test_a_product_takes_time_in_every_dtype():
    assert precision.measure_slowdown(torch.float32) == pytest.approx(1, rel=0.9)
    for dtype in (torch.bfloat16, torch.float16):
        assert 0.02 < precision.measure_slowdown(dtype) < 2000


def test_what_is_slow_is_described(slowdown):
    found = precision.describe_slowdown(torch.bfloat16, "cpu")
    assert (found is None) == (slowdown < 1)
    assert found is None or found == "This processor multiplies 40 times as slowly in bfloat16 as in float32."
    assert precision.describe_slowdown(torch.float32, "cpu") is None
    assert precision.describe_slowdown(torch.float16, "cuda:0") is None


@pytest.mark.parametrize("asked", ["auto", True, False])
def test_recipes_choose_or_obey(slowdown, asked, tmp_path, caplog):
    section = {"output_dir": str(tmp_path), "max_steps": 1, "bf16": asked, "use_cpu": True}
    config = {"trainer": section}
    with caplog.at_level(logging.INFO, "josie"):
        arguments = runs.read_trainer_section(config, TrainingArguments)
    assert arguments.bf16 == (slowdown < 1 if asked == "auto" else asked)
    assert section["bf16"] == asked  # what is kept of a run is what was asked for
    said = "40 times as slowly" in caplog.text
    assert said == (slowdown > 1 and asked is not False)
    assert ("--set trainer.bf16=false" in caplog.text) == (said and asked is True)


@pytest.mark.parametrize("dtype", ["bfloat16", None])
def test_the_command_line_tells(slowdown, dtype, speaking_folder):
    chosen = [] if dtype is None else ["--dtype", dtype]
    result = CliRunner().invoke(app, ["generate", str(speaking_folder), "--text", "a", "--text-only", *chosen])
    assert result.exit_code == 0, result.stderr
    said = "40 times as slowly in bfloat16 as in float32. `--dtype float32` is faster" in result.stderr
    assert said == (slowdown > 1 and dtype is not None)
