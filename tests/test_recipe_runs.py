"""Runs of recipes: what is restored of a finished one, what is kept beside it, and with what it may go on."""

import json
import logging
import re
from typing import Any

import pytest
import torch
from recipes import runs
from transformers import Trainer, TrainingArguments

NUM_ROWS = 12


class Weight(torch.nn.Module):
    """One number that learns to be what it is shown."""

    def __init__(self):
        super().__init__()
        self.value = torch.nn.Parameter(torch.zeros(()))

    def forward(self, labels):
        """Return the squared error."""
        error = (self.value - labels).square()
        return {"loss": error.mean(), "logits": error}


@pytest.fixture
def config(tmp_path):
    trainer = {
        "output_dir": str(tmp_path / "run"),
        "max_steps": 3,
        "save_steps": 1,
        "eval_strategy": "steps",
        "eval_steps": 1,
        "optim": "sgd",
        "lr_scheduler_type": "constant",
        "learning_rate": 0.25,
        "max_grad_norm": 0.0,
        "per_device_train_batch_size": 2,
        "label_names": ["labels"],
        "use_cpu": True,
        "dataloader_pin_memory": False,
        "disable_tqdm": True,
    }
    return {"trainer": trainer, "data": {"seed": 1, "sources": [{"name": "threes"}]}, "card": {"license": "mit"}}


def run(config: Any, mode: Any = "continue", **changes: Any) -> Any:
    """Run with another section `trainer` and return the trainer; 0 is drawn to 3, and 1 would be best."""
    arguments = runs.start_training(config | {"trainer": config["trainer"] | changes}, TrainingArguments)
    train: Any
    held_out: Any
    train, held_out = ([{"labels": torch.tensor(value)}] * NUM_ROWS for value in (3.0, 1.0))
    trainer = Trainer(Weight(), arguments, train_dataset=train, eval_dataset=held_out)
    assert runs.train(trainer, mode)
    return trainer


@pytest.mark.parametrize("is_moved", [False, True])
def test_a_finished_run_has_its_best_weights_again(config, tmp_path, is_moved):
    found = run(config, load_best_model_at_end=True)
    assert found.state.best_global_step == 1
    assert found.model.value == 1.5
    assert run(config).model.value == 2.625  # the last
    if is_moved:
        (tmp_path / "run").rename(tmp_path / "moved")
        config["trainer"]["output_dir"] = str(tmp_path / "moved")
    again = run(config, load_best_model_at_end=True)
    assert again.model.value == 1.5
    assert again.state.global_step == 3


@pytest.mark.parametrize("name", ["bf16_full_eval", "fp16_full_eval"])
@pytest.mark.parametrize("is_best", [False, True])
def test_a_model_that_is_evaluated_in_16_bits_stays_as_it_was_trained(config, name, is_best):
    trainer = run(config, learning_rate=0.123456, load_best_model_at_end=is_best, **{name: True})
    model: Any = trainer.model
    model.register_buffer("mean", torch.tensor(0.123456))
    model.double_name = model.value  # tied
    before = {key: value.clone() for key, value in model.state_dict().items()}
    assert all(value != value.half() for value in before.values())
    found = []
    trainer.compute_metrics = lambda _: found.append(model.value.dtype) or {}
    for evaluate in (runs.evaluate, lambda trainer: runs.finish_together(trainer, dict)):
        assert "eval_loss" in evaluate(trainer)
        assert found.pop() == (torch.bfloat16 if name == "bf16_full_eval" else torch.float16)
        assert model.state_dict().keys() == before.keys()
        for key, value in model.state_dict().items():
            assert value.dtype == torch.float32
            assert value == before[key]
        assert model.double_name is model.value
    trainer.eval_dataset = None
    assert runs.evaluate(trainer) == {}


@pytest.mark.parametrize("mode", ["continue", "restart"])
def test_what_a_user_keeps_beside_checkpoints_stays(config, tmp_path, mode):
    run(config)
    folder = tmp_path / "run"
    (folder / "checkpoint-notes.txt").write_text("mine")
    kept = ["checkpoint-best", "checkpoint-2-good", "my-checkpoint-2"]
    for name in [*kept, "checkpoint-9"]:
        (folder / name).mkdir()
    run(config, mode)
    assert all((folder / name).exists() for name in [*kept, "checkpoint-notes.txt", "checkpoint-3"])
    assert not (folder / "checkpoint-9").exists()


@pytest.mark.parametrize(
    ("section", "changes", "name", "old", "new"),
    [
        ("trainer", {"learning_rate": 0.5}, "trainer.learning_rate", 0.25, 0.5),
        ("trainer", {"seed": 7}, "trainer.seed", None, 7),
        ("trainer", {"per_device_train_batch_size": 4}, runs.ROWS_OF_A_STEP, 2, 4),
        ("data", {"seed": 2}, "data.seed", 1, 2),
        ("data", {"sources": []}, "data.sources", [{"name": "threes"}], []),
        ("model", {"path": "nano"}, "model.path", None, "nano"),
    ],
)
def test_a_run_goes_on_with_the_settings_it_began_with(config, tmp_path, section, changes, name, old, new):
    run(config)
    changed = config | {section: config.get(section, {}) | changes}
    message = (
        f"`{name}` must be {old!r}, as it was when the run in {str(tmp_path / 'run')!r} began, got {new!r}; "
        "`--restart` begins anew."
    )
    for further in ({}, {"max_steps": 4}):
        with pytest.raises(ValueError, match=re.escape(message)):
            run(changed, **further)
    run(changed, "restart")
    assert run(changed).state.global_step == 3  # the new ones are kept


def test_how_long_and_where_a_run_is_computed_may_change(config):
    run(config)
    changed = config | {"card": {}, "threads": torch.get_num_threads(), "answers": {"num_questions": 1}}
    changed["data"] = config["data"] | {"folder": "elsewhere", "cache": "there"}
    free = {"max_steps": 4, "save_steps": 2, "logging_steps": 1, "eval_steps": 3, "per_device_eval_batch_size": 3}
    free |= {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 2, "save_total_limit": 3, "bf16": False}
    free |= {"dataloader_num_workers": 0, "disable_tqdm": True, "report_to": []}
    assert run(changed, **free).state.global_step == 4


def test_a_run_without_settings_goes_on_and_gets_them(config, tmp_path, caplog):
    run(config)
    path = tmp_path / "run" / runs.SETTINGS_FILE
    noted = json.loads(path.read_text())
    path.unlink()
    with caplog.at_level(logging.INFO, "josie"):
        assert run(config, max_steps=4).state.global_step == 4
    assert "Going on from" in caplog.text
    assert json.loads(path.read_text()) == noted


@pytest.mark.parametrize("length", [{}, {"max_steps": -1, "num_train_epochs": 2}])
def test_a_run_of_no_steps_is_an_error(config, tmp_path, length):
    small = {"per_device_train_batch_size": NUM_ROWS + 1, "dataloader_drop_last": True} | length
    message = f"got too few for a batch of {NUM_ROWS + 1} with `trainer.dataloader_drop_last` True."
    with pytest.raises(
        ValueError, match=re.escape(f"`data` must have rows for at least one step of training, {message}")
    ):
        run(config, **small)
    whole = run(config, "restart", **length)
    assert whole.state.global_step
    assert run(config, **length).state.global_step == whole.state.global_step  # of which nothing is left to do
