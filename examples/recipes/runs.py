"""Runs of a `Trainer`: start with a seed, stop on a signal with a checkpoint, resume with the same next losses."""

import json
import logging
import math
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
from transformers.integrations import get_reporting_integration_callbacks
from transformers.trainer_callback import TrainerState

from josie.conversion.files import write_json
from josie.modeling_josie.layers.precision import describe_slowdown
from josie.training.loss_parts import check_optimizer
from recipes.configuration import Mode, Section, read_section

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
# What must be false or null, and why.
_REFUSED: dict[str, tuple[str, str]] = {
    "save_only_model": ("false", "as a run goes on from all that a checkpoint has"),
    "ignore_data_skip": ("false", "as a run goes on with the rows that it has not seen yet"),
    "enable_jit_checkpoint": ("false", "as a run saves a checkpoint on SIGTERM by itself"),
    "batch_eval_metrics": ("false", "as of each batch only a few numbers are kept for the scores"),
    "resume_from_checkpoint": ("null", "as the same command goes on from the last checkpoint by itself"),
    "parallelism_config": (
        "null",
        "as a file cannot have an object; `accelerate launch` makes it of a file of its own",
    ),
}
# The least that numbers may be, what they are below, and both in words.
_RANGES: dict[str, tuple[float, float, str]] = {
    **dict.fromkeys(("per_device_train_batch_size", "per_device_eval_batch_size"), (1, math.inf, "at least 1")),
    **dict.fromkeys(("gradient_accumulation_steps", "eval_accumulation_steps"), (1, math.inf, "at least 1")),
    **dict.fromkeys(("dataloader_num_workers", "neftune_noise_alpha", "adam_epsilon"), (0, math.inf, "at least 0")),
    **dict.fromkeys(("adam_beta1", "adam_beta2"), (0, 1, "in [0, 1)")),
    "seed": (0, 2**32, "in [0, 2**32)"),
}
# What a recipe that sets it has to have as it sets it.
_SET_BY_RECIPES = (
    "remove_unused_columns",
    "label_names",
    "prediction_loss_only",
    "eval_do_concat_batches",
    "train_sampling_strategy",
)
# What transformers raises for values that it cannot obey.
_OF_VALUES = (ValueError, TypeError, KeyError, AttributeError, ImportError, OSError, NotImplementedError)


def read_trainer_section(config: dict[str, Any], arguments_class: type[Section], **defaults: Any) -> Section:
    """Return the section `trainer` as arguments of `Trainer`, which chooses the device.

    Its `bf16` may be `"auto"`: true on an accelerator, and on a processor that is not slow in bfloat16.

    Args:
        config (`dict`): All sections.
        arguments_class: `TrainingArguments` or a subclass.
        defaults: Values in place of its own defaults.

    Raises:
        `ValueError`: It lacks `output_dir` or `max_steps`, has an unknown key or a value of another type or that cannot
            be obeyed, or would keep a run from going on by itself.
    """
    section = config.get("trainer", {})
    for name in ("output_dir", "max_steps"):
        if not isinstance(section, dict) or name not in section:
            raise ValueError(f"`trainer` must be a section with `{name}`, got {section!r}.")
    # Without an accelerator the Trainer would use the CPU anyway, but refuses bfloat16 unless it is asked to.
    common = {"report_to": "none", "use_cpu": not torch.accelerator.is_available()}
    given = common | defaults | section
    for name, (allowed, reason) in _REFUSED.items():
        if given.get(name) if allowed == "false" else given.get(name) is not None:
            raise ValueError(f"`trainer.{name}` must be {allowed}, {reason}, got {given[name]!r}.")
    for name in _SET_BY_RECIPES:
        if name in defaults and given[name] != defaults[name]:
            raise ValueError(
                f"`trainer.{name}` must be {defaults[name]!r}, as this recipe needs it, got {given[name]!r}."
            )
    strategy, data = given.get("train_sampling_strategy", "random"), config.get("data")
    if strategy not in ("random", "sequential") and isinstance(data, dict) and data.get("streaming") is True:
        logger.warning(
            f"`trainer.train_sampling_strategy` {strategy!r} does nothing with `data.streaming`: rows of a stream come "
            "in its order, which `data.shuffle_buffer` changes."
        )
    slowness = describe_slowdown(torch.bfloat16, "cpu") if given["use_cpu"] and given.get("bf16") else None
    if given.get("bf16") == "auto":
        section = section | {"bf16": slowness is None}
        logger.info(f"bf16 is {str(slowness is None).lower()}. {slowness or ''}".rstrip())
    elif slowness is not None:
        logger.warning(f"{slowness} `--set trainer.bf16=false` is faster.")
    arguments: Any = _make_arguments(section, arguments_class, common | defaults)
    require_ranges(arguments)
    check_optimizer(arguments)
    return arguments


def require_ranges(arguments: TrainingArguments) -> None:
    """Raise a `ValueError` for a number that ends a run with a sentence of torch, a traceback, or without a step."""
    for name, (least, limit, words) in _RANGES.items():
        value = getattr(arguments, name)
        if value is not None and not least <= value < limit:
            raise ValueError(f"`trainer.{name}` must be {words}, got {value}.")
    if not (arguments.max_steps > 0 or arguments.num_train_epochs > 0):
        raise ValueError(
            "`trainer.num_train_epochs` must be above 0 where `trainer.max_steps` is not, got "
            f"{arguments.num_train_epochs} and {arguments.max_steps}."
        )
    try:
        get_reporting_integration_callbacks(arguments.report_to)
    except ValueError as error:
        raise ValueError(f"`trainer.report_to` must be of what there is, got {arguments.report_to}: {error}") from error


def _make_arguments(section: dict[str, Any], arguments_class: type[Section], defaults: dict[str, Any]) -> Section:
    """Return a section as arguments; what transformers says of a value that it refuses gets the name of that value."""
    config = {"trainer": section}
    try:
        return read_section(config, "trainer", arguments_class, **defaults)
    except _OF_VALUES as error:
        named = re.findall(r"`(?:trainer\.)?(\w+)`", str(error))
        if any(name in (*section, "trainer") for name in named):
            raise
        for name in section:
            left = {other: value for other, value in section.items() if other != name}
            try:
                read_section({"trainer": left}, "trainer", arguments_class, **defaults)
            except _OF_VALUES:
                continue
            raise ValueError(
                f"`trainer.{name}` must be a value that can be obeyed here, got {section[name]!r}: "
                f"{' '.join(str(error).split())}"
            ) from error
        raise


def start_training(config: dict[str, Any], arguments_class: type[Section], **defaults: Any) -> Section:
    """Return the section `trainer` as [`read_trainer_section`] does, and set `threads` and the seed of the run.

    The arguments get `settings`, which [`train`] compares with those that the run began with.
    """
    threads = config.get("threads")
    if threads is not None:
        if isinstance(threads, bool) or not isinstance(threads, int) or threads < 1:
            raise ValueError(f"`threads` must be a positive integer, got {threads!r}.")
        torch.set_num_threads(threads)
    arguments: Any = read_trainer_section(config, arguments_class, **defaults)
    arguments.settings = note_settings(config) | {ROWS_OF_A_STEP: count_rows(arguments)}
    set_seed(arguments.seed)
    return arguments


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
        was_idle = new is None and name in {f"trainer.{other}" for other in (*_REFUSED, *_SET_BY_RECIPES)}
        if old != new and not (was_idle and name != "trainer.train_sampling_strategy"):
            raise ValueError(
                f"`{name}` must be {old!r}, as it was when the run in {str(folder)!r} began, got {new!r}; `--restart` "
                "begins anew."
            )


def finish_together(trainer: Trainer, write: Callable[[dict[str, float]], Any]) -> Any:
    """Return in every process what the first one has written, once it has; all have to call it, as all evaluate.

    Args:
        trainer (`Trainer`): After training.
        write (`Callable`): Called by the first process alone, with the `eval_loss` if there is one.
    """
    scores = trainer.evaluate() if trainer.eval_dataset is not None else {}
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
        `ValueError`: It shall be resumed and there is no checkpoint, or would go on with other settings; or the data
            do not fill one step.
    """
    folder = Path(str(trainer.args.output_dir))
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
