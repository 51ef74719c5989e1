"""Runs of a `Trainer`: start with a seed, stop on a signal with a checkpoint, resume with the same next losses."""

import logging
import shutil
import signal
from pathlib import Path
from typing import Any

import torch
from datasets import IterableDataset
from transformers import Trainer, TrainerCallback, set_seed
from transformers.trainer_callback import TrainerState

from josie.modeling_josie.layers.precision import describe_slowdown
from recipes.configuration import Mode, Section, read_section

logger = logging.getLogger("josie.examples.runs")
STATE_FILE = "trainer_state.json"


def read_trainer_section(config: dict[str, Any], arguments_class: type[Section], **defaults: Any) -> Section:
    """Return the section `trainer` as arguments of `Trainer`, which chooses the device.

    Its `bf16` may be `"auto"`: true on an accelerator, and on a processor that is not slow in bfloat16.

    Args:
        config (`dict`): All sections.
        arguments_class: `TrainingArguments` or a subclass.
        defaults: Values in place of its own defaults.

    Raises:
        `ValueError`: It lacks `output_dir` or `max_steps`, or has an unknown key.
    """
    section = config.get("trainer", {})
    for name in ("output_dir", "max_steps"):
        if not isinstance(section, dict) or name not in section:
            raise ValueError(f"`trainer` must be a section with `{name}`, got {section!r}.")
    # Without an accelerator the Trainer would use the CPU anyway, but refuses bfloat16 unless it is asked to.
    common = {"report_to": "none", "use_cpu": not torch.accelerator.is_available()}
    given = common | defaults | section
    slowness = describe_slowdown(torch.bfloat16, "cpu") if given["use_cpu"] and given.get("bf16") else None
    if given.get("bf16") == "auto":
        section = section | {"bf16": slowness is None}
        logger.info(f"bf16 is {str(slowness is None).lower()}. {slowness or ''}".rstrip())
    elif slowness is not None:
        logger.warning(f"{slowness} `--set trainer.bf16=false` is faster.")
    return read_section(config | {"trainer": section}, "trainer", arguments_class, **common | defaults)


def start_training(config: dict[str, Any], arguments_class: type[Section], **defaults: Any) -> Section:
    """Return the section `trainer` as [`read_trainer_section`] does, and set `threads` and the seed of the run."""
    threads = config.get("threads")
    if threads is not None:
        if isinstance(threads, bool) or not isinstance(threads, int) or threads < 1:
            raise ValueError(f"`threads` must be a positive integer, got {threads!r}.")
        torch.set_num_threads(threads)
    arguments = read_trainer_section(config, arguments_class, **defaults)
    set_seed(arguments.seed)  # type: ignore[attr-defined]
    return arguments


class StopOnSignal(TrainerCallback):
    """Saves a checkpoint and stops after the step during which the process was asked to end."""

    def __init__(self):
        self.was_asked = False

    def ask(self, *_: Any) -> None:
        """Take the signal."""
        self.was_asked = True

    def on_step_end(self, args, state, control, **kwargs):
        """End the run early."""
        if self.was_asked:
            control.should_save = control.should_training_stop = True


class ResumeStream(TrainerCallback):
    """Lets a run go on in the middle of a stream whose seen rows are left out before anything is made of them.

    By itself `Trainer` would make every batch that was seen once more, audio and images and all. Rows that are left
    out are only read. The state of the random numbers is the checkpoint's when the first step begins.

    Args:
        trainer (`Trainer`): Its `train_dataset` becomes the rest of the stream.
        checkpoint (`Path`): Where it goes on.
        state (`TrainerState`): Of the checkpoint.
    """

    def __init__(self, trainer: Trainer, checkpoint: Path, state: TrainerState):
        self.trainer, self.checkpoint = trainer, checkpoint
        arguments: Any = trainer.args
        rows = arguments.train_batch_size * arguments.gradient_accumulation_steps * arguments.world_size
        trainer.train_dataset = trainer.train_dataset.skip(state.global_step * rows)
        arguments.ignore_data_skip = True
        self.is_restored = False

    def on_step_begin(self, args, state, control, **kwargs):
        """Restore random numbers, after the reading of data has started."""
        if not self.is_restored:
            self.trainer._load_rng_state(str(self.checkpoint))
            self.is_restored = True

    def on_step_end(self, args, state, control, **kwargs):
        """Count on, where `Trainer` counts from the start of what is left."""
        state.epoch = state.global_step / state.max_steps


def find_checkpoint(folder: Path) -> Path | None:
    """Return the last checkpoint, and delete what a run left of one that was killed while it saved."""
    found = {}
    for path in folder.glob("checkpoint-*"):
        number = path.name.rpartition("-")[2]
        try:
            state = TrainerState.load_from_json(str(path / STATE_FILE))  # written last
        except (OSError, ValueError, TypeError):
            logger.warning(f"Deleted {path}: it is not complete.")
            shutil.rmtree(path)
            continue
        if number.isdigit() and state.global_step == int(number):
            found[int(number)] = path
    return found[max(found)] if found else None


def train(trainer: Trainer, mode: Mode) -> bool:
    """Train from the start or from the last checkpoint. SIGINT and SIGTERM save one and stop.

    Returns:
        Whether all steps are done: `False` if the run was asked to stop.

    Raises:
        `ValueError`: It shall be resumed and there is no checkpoint.
    """
    folder = Path(str(trainer.args.output_dir))
    if mode == "restart":
        for path in folder.glob("checkpoint-*"):
            shutil.rmtree(path)
    checkpoint = find_checkpoint(folder)
    if mode == "resume" and checkpoint is None:
        raise ValueError(f"`--resume` needs a checkpoint in {str(folder)!r}, found none.")
    if checkpoint is not None:
        state = TrainerState.load_from_json(str(checkpoint / STATE_FILE))
        if state.global_step >= trainer.args.max_steps > 0:  # `Trainer` would do one step more
            logger.info(f"All steps are done: {checkpoint}")
            trainer._load_from_checkpoint(str(checkpoint))
            trainer.state = state
            return True
        logger.info(f"Going on from {checkpoint}")
        stream = trainer.train_dataset
        if isinstance(stream, IterableDataset) and stream.num_shards == 1:  # whose order no worker changes
            trainer.add_callback(ResumeStream(trainer, checkpoint, state))
    stop = StopOnSignal()
    trainer.add_callback(stop)
    previous = {number: signal.signal(number, stop.ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
    if stop.was_asked:
        logger.info("Stopped as asked; the same command goes on from here.")
    return not stop.was_asked
