"""The configuration for several machines: accelerate reads it, and a recipe trains by it, as far as CPUs can."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import train_thinker
from accelerate.commands.config.config_args import load_config_from_file
from processes import find_port
from recipe_runs import read_losses, run_recipe, write_conversations

import josie
from josie.modeling_josie.pretrained import JosiePreTrainedModel

ROOT = Path(__file__).resolve().parents[1]
FSDP2 = ROOT / "examples" / "accelerate" / "fsdp2.yaml"


def test_accelerate_reads_the_configuration():
    config = load_config_from_file(str(FSDP2))
    assert (str(config.distributed_type.value), config.mixed_precision, config.num_processes) == ("FSDP", "bf16", 8)
    assert config.fsdp_config["fsdp_version"] == 2
    layers = config.fsdp_config["fsdp_transformer_layer_cls_to_wrap"].split(",")
    assert layers == JosiePreTrainedModel._no_split_modules


def launch(script: str, *options: str) -> None:
    """Launch a script by the configuration in two processes, in the precision of CPUs, and wait for its end."""
    paths = [Path(josie.__file__).parents[1], ROOT / "tests", ROOT / "examples", os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, paths)), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(FSDP2), "--num_processes", "2"]
    command += ["--mixed_precision", "no", "--main_process_port", str(find_port()), script, *options]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False, timeout=600)
    assert done.returncode == 0, done.stderr[-4000:]


def configure(folder: Path, model: Path, batch_size: int) -> dict:
    trainer = dict(max_steps=2, logging_steps=1, per_device_train_batch_size=batch_size, disable_tqdm=True)
    trainer |= dict(output_dir=str(folder), save_steps=2, eval_strategy="no", learning_rate=1e-2, use_cpu=True)
    trainer |= dict(dataloader_pin_memory=False, train_sampling_strategy="sequential")
    rows = write_conversations(folder.parent, number=8)
    data = {"sources": [{"name": "jsonl", "path": str(rows)}], "validation_share": 0.0, "folder": str(folder / "codes")}
    answers = {"num_questions": 0}
    return {"data": data, "model": {"path": str(model)}, "answers": answers, "trainer": trainer, "freeze": ["talker"]}


@pytest.mark.slow
def test_the_thinkers_recipe_trains_sharded_in_two_processes(tiny_folder, tmp_path):
    alone = configure(tmp_path / "alone", tiny_folder, 4)
    run_recipe(train_thinker, alone)
    shared = configure(tmp_path / "shared", tiny_folder, 2)
    (tmp_path / "shared.json").write_text(json.dumps(shared))
    launch(str(ROOT / "tests" / "sharded_recipe.py"), "train_thinker", str(tmp_path / "shared.json"))
    expected, found = (read_losses(config, "text_loss") for config in (alone, shared))
    assert sorted(found) == [1, 2]
    for step, losses in expected.items():
        assert found[step] == pytest.approx(losses, rel=1e-3)
    before, *models = (
        josie.JosieForConditionalGeneration.from_pretrained(path).state_dict()
        for path in (tiny_folder, tmp_path / "alone" / "model", tmp_path / "shared" / "model")
    )
    moved = 0
    for name, value in models[0].items():
        torch.testing.assert_close(models[1][name], value, rtol=1e-2, atol=2e-2)
        moved += not torch.equal(value, before[name])
    assert moved > 10
