"""Runs of a `Trainer`: start with a seed, stop on a signal with a checkpoint, resume with the same next losses."""

import json
import logging
import re
import shutil
import signal
from collections.abc import Callable, Sized
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import broadcast_object_list
from datasets import IterableDataset
from transformers import Trainer, TrainerCallback, TrainingArguments, set_seed
from transformers.trainer_callback import TrainerState

from josie.conversion.files import write_json
from recipes.configuration import Mode, Section
from recipes.places import hold_folder
from recipes.trainer_settings import REFUSED, SET_BY_RECIPES, read_trainer_section

logger = logging.getLogger("josie.examples.runs")
STATE_FILE = "trainer_state.json"
ROWS_OF_A_STEP = "trainer.per_device_train_batch_size * gradient_accumulation_steps * processes"
SETTINGS_FILE = "settings.json"
# What may be another when a run goes on: places, reports, how often and where it is computed, and how long. What a step
# learns from may not.
_FREE = re.compile(
    r"(card|answers|report)(\..*)?|threads|model\.attention|(\w+\.)+(folder|cache|packages|recordings|rounds)|trainer\."
    r"(max_steps|num_train_epochs|output_dir|run_name|project|disable_tqdm|gradient_accumulation_steps|metric_for_best"
    r"|greater_is_better|skip_memory|prediction_loss|per_device|report|push|hub|trackio|log|eval|save|load_best|do_|use_"
    r"|bf16|fp16|tf32|fsdp|ddp|deepspeed|dataloader|torch|gradient_checkpointing|activation_checkpointing)\w*(\..*)?"
)


def start_training(config: dict[str, Any], arguments_class: type[Section], **defaults: Any) -> Section:
    """Return the section `trainer` as [`read_trainer_section`] does, and set `threads` and the seed of the run.

    The arguments get `settings`, which [`train`] compares with those that the run began with. A folder of that run is
    kept for this one, before a model is made; a new one is when it is made, in [`train`].
    """
    threads = config.get("threads")
    if threads is not None:
        if isinstance(threads, bool) or not isinstance(threads, int) or threads < 1:
            raise ValueError(f"`threads` must be a positive integer, got {threads!r}.")
        torch.set_num_threads(threads)
    arguments: Any = read_trainer_section(config, arguments_class, **defaults)
    if Path(arguments.output_dir).is_dir():
        keep_folder(arguments)
    arguments.settings = note_settings(config) | {ROWS_OF_A_STEP: count_rows(arguments)}
    set_seed(arguments.seed)
    return arguments


def keep_folder(arguments: TrainingArguments) -> None:
    """Keep `trainer.output_dir` for a run until its process ends, of several processes the first one."""
    if arguments.process_index == 0:
        folder = Path(str(arguments.output_dir))
        folder.mkdir(parents=True, exist_ok=True)
        hold_folder(folder, "trainer.output_dir")


def count_rows(arguments: Any) -> int:
    """Return the number of rows of a step, of all processes together."""
    return arguments.train_batch_size * arguments.gradient_accumulation_steps * arguments.world_size


def note_settings(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return what a run may not change while it goes on, by full name and as JSON gives it back; nulls are left out.

    Args:
        values (`dict`): Sections.
        prefix (`str`): Their place in the configuration, with a dot at its end.
    """
    settings: dict[str, Any] = {}
    for key, value in values.items():
        name = f"{prefix}{key}"
        if isinstance(value, dict) and value:
            settings |= note_settings(value, f"{name}.")
        elif value is not None and _FREE.fullmatch(name) is None:
            settings[name] = json.loads(json.dumps(value, default=str))
    return settings


def require_settings(folder: Path, settings: dict[str, Any]) -> None:
    """Raise a `ValueError` for settings that are not those of the run in a folder; one without any noted goes on.

    What a run began with before it was refused, and did not obey, may be left out now.
    """
    path = folder / SETTINGS_FILE
    before = json.loads(path.read_text(encoding="utf-8")) if path.exists() else settings
    for name in settings | before:
        old, new = before.get(name), settings.get(name)
        was_idle = new is None and name in {f"trainer.{other}" for other in (*REFUSED, *SET_BY_RECIPES)}
        if old != new and not (was_idle and name != "trainer.train_sampling_strategy"):
            raise ValueError(
                f"`{name}` must be {old!r}, as it was when the run in {str(folder)!r} began, got {new!r}; `--restart` "
                "begins anew."
            )


def evaluate(trainer: Trainer) -> dict[str, float]:
    """Return the scores of the rows that are held out, none without any; the model stays as it was trained.

    For `bf16_full_eval` and `fp16_full_eval` transformers casts it in place, and it would be saved so.

    Args:
        trainer (`Trainer`): After training; all processes have to call it.
    """
    arguments: Any = trainer.args
    if trainer.eval_dataset is None:
        return {}
    if not (arguments.bf16_full_eval or arguments.fp16_full_eval):
        return trainer.evaluate()
    if trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled:
        logger.warning(
            "`trainer.bf16_full_eval` and `trainer.fp16_full_eval` are not obeyed where the model is sharded."
        )
        arguments.bf16_full_eval = arguments.fp16_full_eval = False
        return trainer.evaluate()
    model: Any = trainer.model
    weights = [(parameter, parameter.data) for parameter in model.parameters()]
    buffers = [(each, dict(each._buffers)) for each in model.modules()]
    scores = trainer.evaluate()
    for parameter, value in weights:
        parameter.data = value
    for each, values in buffers:
        each._buffers.update(values)
    return scores


def finish_together(trainer: Trainer, write: Callable[[dict[str, float]], Any]) -> Any:
    """Return in every process what the first one has written, once it has; all have to call it, as all evaluate.

    Args:
        trainer (`Trainer`): After training.
        write (`Callable`): Called by the first process alone, with the `eval_loss` if there is one.
    """
    scores = evaluate(trainer)
    loss = {name: value for name, value in scores.items() if name == "eval_loss"}
    return broadcast_object_list([write(loss) if trainer.args.process_index == 0 else None])[0]


class StopOnSignal(TrainerCallback):
    """Saves a checkpoint and stops after the step during which any of the processes was asked to end.

    A signal reaches them at different times, or only one of them, and a checkpoint is saved by all together.
    """

    def __init__(self):
        self.was_asked = False
        self.stops = False

    def ask(self, *_: Any) -> None:
        """Take the signal."""
        self.was_asked = True

    def agree(self, device: torch.device) -> bool:
        """Return whether any process was asked; all of them have to call it.

        Args:
            device (`torch.device`): What the processes exchange is there.
        """
        self.stops = self.was_asked
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            flag = torch.tensor(int(self.was_asked), device=device)
            torch.distributed.all_reduce(flag, torch.distributed.ReduceOp.MAX)
            self.stops = bool(flag)
        return self.stops

    def on_step_end(self, args, state, control, **kwargs):
        """End the run early."""
        if self.agree(args.device):
            control.should_save = control.should_training_stop = True


class RequireMetric(TrainerCallback):
    """Raises a `ValueError` that names `trainer.metric_for_best_model` where an evaluation does not have it."""

    def on_evaluate(self, args, state, control, metrics, **kwargs):
        """Look for it."""
        name, prefix = args.metric_for_best_model, "eval_"
        if f"{prefix}{name.removeprefix(prefix)}" not in metrics:
            known = sorted(key.removeprefix(prefix) for key in metrics if key.startswith(prefix))
            raise ValueError(f"`trainer.metric_for_best_model` must be of {known}, got {name!r}.")


def require_metric(trainer: Trainer, is_new: bool) -> None:
    """Make a run end at its first evaluation where its best model is chosen by a metric that there is not.

    Only an evaluation knows what metrics there are, but for the loss: a new run begins with one, as hours may pass
    until the next.

    Args:
        trainer (`Trainer`): Before training.
        is_new (`bool`): Whether it is at its start.
    """
    arguments: Any = trainer.args
    name = arguments.metric_for_best_model
    if name is None or trainer.eval_dataset is None:
        return
    trainer.add_callback(RequireMetric())
    if is_new and arguments.eval_strategy != "no" and name.removeprefix("eval_") != "loss":
        logger.info(f"Evaluating first, to see that there is the `trainer.metric_for_best_model` {name!r}.")
        arguments.eval_on_start = True


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
        trainer.train_dataset = trainer.train_dataset.skip(state.global_step * count_rows(arguments))
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


def list_checkpoints(folder: Path) -> dict[int, Path]:
    """Return folders by the steps of their names; `checkpoint-best` or `checkpoint-500-copy` is a user's own."""
    paths = [path for path in folder.glob("checkpoint-*") if path.is_dir()]
    return {int(path.name[11:]): path for path in paths if re.fullmatch(r"checkpoint-\d+", path.name)}


def find_checkpoint(folder: Path) -> Path | None:
    """Return the last checkpoint, and delete what a run left of one that was killed while it saved."""
    found = {}
    for number, path in list_checkpoints(folder).items():
        try:
            state = TrainerState.load_from_json(str(path / STATE_FILE))  # written last
        except (OSError, ValueError, TypeError):
            logger.warning(f"Deleted {path}: it is not complete.")
            shutil.rmtree(path)
            continue
        if state.global_step == number:
            found[number] = path
    return found[max(found)] if found else None


def _describe_lack(arguments: TrainingArguments) -> str:
    return (
        "`data` must have rows for at least one step of training, got too few for a batch of "
        f"{arguments.train_batch_size} with `trainer.dataloader_drop_last` {arguments.dataloader_drop_last}."
    )


def train(trainer: Trainer, mode: Mode) -> bool:
    """Train from the start or from the last checkpoint. SIGINT and SIGTERM save one and stop.

    Returns:
        Whether all steps are done: `False` if the run was asked to stop.

    Raises:
        `ValueError`: It shall be resumed and there is no checkpoint, or would go on with other settings; another run is
            in its folder; or the data do not fill one step.
    """
    folder = Path(str(trainer.args.output_dir))
    keep_folder(trainer.args)
    with trainer.args.main_process_first():
        if mode == "restart":
            for path in list_checkpoints(folder).values():
                shutil.rmtree(path)
        checkpoint = find_checkpoint(folder)
    if mode == "resume" and checkpoint is None:
        raise ValueError(f"`--resume` needs a checkpoint in {str(folder)!r}, found none.")
    settings = getattr(trainer.args, "settings", None)
    if checkpoint is not None:
        if settings is not None:
            require_settings(folder, settings)
        state = TrainerState.load_from_json(str(checkpoint / STATE_FILE))
        if state.global_step >= trainer.args.max_steps > 0:  # `Trainer` would do one step more
            if trainer.args.load_best_model_at_end and state.best_model_checkpoint is not None:
                checkpoint = folder / Path(state.best_model_checkpoint).name  # also where the folder was moved
            logger.info(f"All steps are done: {checkpoint}")
            trainer._load_from_checkpoint(str(checkpoint))
            trainer.state = state
            return True
        logger.info(f"Going on from {checkpoint}")
        stream = trainer.train_dataset
        if isinstance(stream, IterableDataset) and stream.num_shards == 1:  # whose order no worker changes
            trainer.add_callback(ResumeStream(trainer, checkpoint, state))
    if isinstance(trainer.train_dataset, Sized):
        arguments: Any = trainer.args
        least = arguments.train_batch_size * arguments.world_size if arguments.dataloader_drop_last else 1
        if len(trainer.train_dataset) < least:
            raise ValueError(_describe_lack(arguments))
    if settings is not None and trainer.is_world_process_zero():
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / SETTINGS_FILE, settings)
    require_metric(trainer, checkpoint is None)
    stop = StopOnSignal()
    trainer.add_callback(stop)
    previous = {number: signal.signal(number, stop.ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
        stop.agree(trainer.args.device)  # after the last step too, what follows is done by all together or by none
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
    if stop.stops:
        logger.info("Stopped as asked; the same command goes on from here.")
    elif not trainer.state.global_step:
        raise ValueError(_describe_lack(trainer.args))
    return not stop.stops
