"""Trains a tiny JOSIE with the plain `Trainer`: what `test_distributed.py` runs in two processes.

Whole models are also evaluated, on rows of other lengths.

Every other row has an image and a clip, so that two processes never use the same parts of the model. All rows have as
many words and frames to learn, in whatever batches they come.
"""

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import torch
from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import DistributedType
from tiny import CASES
from torch.distributed.fsdp import FSDPModule
from transformers import Trainer, TrainerCallback, TrainingArguments

from josie import JosieTrainer
from josie.training.metrics import Metrics, keep_scores

EXAMPLES = str(Path(__file__).resolve().parents[1] / "examples")
if EXAMPLES not in sys.path:
    sys.path.append(EXAMPLES)

from recipes.configuration import run  # noqa: E402
from recipes.run_log import RunLog  # noqa: E402
from recipes.runs import train  # noqa: E402

STEPS, SAVED, BATCH = 4, 2, 2
ON_CPU: dict[str, Any] = dict(
    remove_unused_columns=False, report_to="none", disable_tqdm=True, use_cpu=True, dataloader_pin_memory=False
)
FSDP = {"version": 2, "cpu_ram_efficient_loading": False, "state_dict_type": "FULL_STATE_DICT"}


def let_cpus_shard() -> None:
    """Make accelerate shard models over CPUs: 1.15 takes a plugin for it there and replicates them nevertheless."""
    initialize = AcceleratorState.__init__

    def initialize_sharded(state: AcceleratorState, *args: Any, fsdp_plugin: Any = None, **kwargs: Any) -> None:
        initialize(state, *args, fsdp_plugin=fsdp_plugin, **kwargs)
        if fsdp_plugin is not None and state.distributed_type == DistributedType.MULTI_CPU:
            state.distributed_type = PartialState._shared_state["distributed_type"] = DistributedType.FSDP
            state.fsdp_plugin = fsdp_plugin

    AcceleratorState.__init__ = initialize_sharded


class KillAt(TrainerCallback):
    """Ends the process as the machine does that runs out of memory."""

    def __init__(self, step: int):
        self.step = step

    def on_step_begin(self, args, state, control, **kwargs):
        """Die."""
        if state.global_step == self.step:
            torch.distributed.barrier()  # so that the first one has written what it has logged
            os.kill(os.getpid(), signal.SIGKILL)


class Rows(torch.utils.data.Dataset):
    """Words and speech; an image and a clip in front of the words of every other row."""

    def __len__(self) -> int:
        return STEPS * BATCH

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        """Return a row that depends on its index alone."""
        generator = torch.Generator().manual_seed(index)
        ids = torch.randint(10, 53, (12,), generator=generator)
        labels = ids.clone()
        labels[:6] = -100
        codes = torch.randint(0, 11, (3, 7), generator=generator)
        codes[0, 6], codes[1:, 6] = 11, -100
        row = {"input_ids": ids, "labels": labels, "speech_codes": codes}
        if index % 2 == 0:
            ids[0], ids[1:6] = 6, 8
            row["input_features"] = torch.rand(9, 19, generator=generator)
            row["input_features_mask"] = torch.ones(19, dtype=torch.long)
            row["pixel_values"] = torch.rand(3, 21, 21, generator=generator)
        return row


def collate(rows: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """Return a batch; images and clips are those of the rows that have them."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    return {name: torch.stack([row[name] for row in rows if name in row]) for name in names}


def train_tiny(folder: str, is_sharded: bool = False, kill_at: int | None = None) -> dict[str, torch.Tensor]:
    """Train from the start, or from the last checkpoint in `folder`, and return the weights."""
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    sharding: dict[str, Any] = {"fsdp": True, "fsdp_config": dict(FSDP)} if is_sharded else {}
    arguments = TrainingArguments(
        output_dir=folder,
        max_steps=STEPS,
        per_device_train_batch_size=BATCH // world_size,
        train_sampling_strategy="sequential",
        learning_rate=3e-3,
        adam_epsilon=1e-3,  # gradients that are rounding errors, such as of biases of keys, move nothing
        logging_steps=1,
        save_steps=SAVED,
        save_only_model=False,
        ddp_find_unused_parameters=False,
        **sharding,
        **ON_CPU,
    )
    callbacks: list[TrainerCallback] = [RunLog()] + ([KillAt(kill_at)] if kill_at is not None else [])
    trainer = Trainer(
        CASES["josie"].build(), arguments, train_dataset=Rows(), data_collator=collate, callbacks=callbacks
    )
    train(trainer, "continue")
    if is_sharded and not isinstance(trainer.model, FSDPModule):
        raise RuntimeError("The model was not sharded.")
    trainer.save_model(str(Path(folder) / "model"))
    return trainer.model.state_dict()


def evaluate_tiny(folder: str) -> dict[str, float]:
    """Write and return the scores of text and speech whose lengths differ from batch to batch."""
    rows = []
    for index, (length, num_frames) in enumerate(((12, 7), (9, 3), (7, 9), (12, 5))):
        row = Rows()[1 + 2 * index]
        rows.append({name: row[name][:length] for name in ("input_ids", "labels")})
        rows[-1]["speech_codes"] = torch.randint(0, 11, (3, num_frames), generator=torch.Generator().manual_seed(index))
    arguments = TrainingArguments(
        output_dir=folder,
        per_device_eval_batch_size=1,
        label_names=["labels", "speech_codes"],
        eval_do_concat_batches=False,
        **ON_CPU,
    )
    options: Any = dict(compute_metrics=Metrics(), preprocess_logits_for_metrics=keep_scores)
    trainer = JosieTrainer(CASES["josie"].build(), arguments, eval_dataset=rows, data_collator=collate, **options)  # type: ignore[arg-type]
    scores = trainer.evaluate()
    if trainer.is_world_process_zero():
        (Path(folder) / "scores.json").write_text(json.dumps(scores))
    return scores


def train_sharded(rank: int, folder: str, kill_at: int | None = None) -> None:
    """Train a sharded model, as one of the processes that share it."""
    let_cpus_shard()
    run(lambda: train_tiny(folder, True, kill_at))


def train_and_evaluate(rank: int, folder: str) -> None:
    """Train and evaluate a model that is whole in every process, as one of them."""

    def both() -> None:
        train_tiny(folder)
        evaluate_tiny(folder)

    run(both)
