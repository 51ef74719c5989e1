"""What the training recipes share: one style of command line, configuration files, resuming, logs.

    python examples/train_X.py CONFIG [--set KEY=VALUE ...] [--resume | --restart]

CONFIG is a JSON or YAML file in which everything is stated, in sections; each section becomes a dataclass. `--set`
changes single values, `data.seed=3`. A run goes on from its last checkpoint if there is one; `--resume` insists on one,
and `--restart` begins anew.
"""

import argparse
import dataclasses
import json
import logging
import os
import shlex
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
import yaml
from datasets import IterableDataset
from transformers import PreTrainedModel, Trainer, TrainerCallback, set_seed
from transformers.trainer_callback import TrainerState

from josie.conversion.hub.model_card import write_model_card

logger = logging.getLogger("josie.examples.recipe")
LOG_FILE, STATE_FILE = "log.jsonl", "trainer_state.json"
Section = TypeVar("Section")


@dataclasses.dataclass(frozen=True)
class CommandLine:
    """What a recipe was asked for.

    Args:
        config (`dict`): The sections of its configuration.
        mode (`"continue"`, `"resume"` or `"restart"`): What to do about checkpoints.
        command (`str`): What was typed, for the model card.
    """

    config: dict[str, Any]
    mode: Literal["continue", "resume", "restart"]
    command: str


def command_line(description: str | None, argv: list[str] | None = None) -> CommandLine:
    """Read the command line of a recipe and its configuration file; wrong ones end the program with a sentence."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", help="JSON or YAML file")
    parser.add_argument("--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE", help="changes to it")
    start = parser.add_mutually_exclusive_group()
    start.add_argument("--resume", action="store_true", help="go on from the last checkpoint, which must exist")
    start.add_argument("--restart", action="store_true", help="delete the checkpoints and begin anew")
    arguments = parser.parse_args(argv)
    logging.basicConfig(format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    logging.getLogger("josie").setLevel(logging.INFO)
    try:
        config = read_config(arguments.config, arguments.set)
    except ValueError as error:
        parser.error(str(error))
    mode = "resume" if arguments.resume else "restart" if arguments.restart else "continue"
    changes = ["--set", *arguments.set] if arguments.set else []
    command = shlex.join(["python", f"examples/{parser.prog}", arguments.config, *changes])
    return CommandLine(config, mode, command)


def read_config(path: str | Path, overrides: list[str] | tuple[str, ...] = ()) -> dict[str, Any]:
    """Read a JSON or YAML file and change single values.

    Args:
        path (`str` or `Path`): The file.
        overrides (`list[str]`): `section.key=value`, the value as JSON or else as text.

    Raises:
        `ValueError`: No such file, no mapping, or an override that names nothing it could change.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"`config` must be an existing file, got {str(path)!r}.")
    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8"))  # JSON is YAML
    except yaml.YAMLError as error:
        raise ValueError(f"`config` must be JSON or YAML, got {str(path)!r}: {error}.") from error
    if not isinstance(config, dict):
        raise ValueError(f"`config` must hold named sections, got {type(config).__name__} in {str(path)!r}.")
    for override in overrides:
        name, equals, value = override.partition("=")
        *parents, key = name.split(".")
        if not equals or not all((*parents, key)):
            raise ValueError(f"`--set` must be KEY=VALUE, got {override!r}.")
        section = config
        for parent in parents:
            section = section.setdefault(parent, {})
            if not isinstance(section, dict):
                raise ValueError(f"`--set` must name a value in a section, got {name!r}: {parent!r} is no section.")
        try:
            section[key] = json.loads(value)
        except json.JSONDecodeError:
            section[key] = value
    return config


def read_section(config: dict[str, Any], name: str, kind: type[Section], **defaults: Any) -> Section:
    """Return a section of a configuration as a dataclass.

    Args:
        config (`dict`): All sections.
        name (`str`): Of the section; one that is missing is empty.
        kind: A dataclass.
        defaults: Values in place of the dataclass's own defaults.

    Raises:
        `ValueError`: The section is no mapping, or has a key that the dataclass does not know.
    """
    values = config.get(name, {})
    if not isinstance(values, dict):
        raise ValueError(f"`{name}` must be a section of the configuration, got {values!r}.")
    known = {entry.name for entry in dataclasses.fields(kind) if entry.init}  # type: ignore[arg-type]
    for key in values:
        if key not in known:
            raise ValueError(f"`{name}` must have keys of {sorted(known)}, got {key!r}.")
    return kind(**defaults | values)


def require_sections(config: dict[str, Any], *names: str, within: str = "config") -> None:
    """Raise a `ValueError` for a section, of all or `within` another one, that a recipe does not know."""
    for name in config:
        if name not in names:
            raise ValueError(f"`{within}` must have sections of {list(names)}, got {name!r}.")


def start_training(config: dict[str, Any], kind: type[Section], **defaults: Any) -> Section:
    """Return the section `trainer` as arguments of `Trainer`, with `threads` and the seed of all that follows set."""
    threads = config.get("threads")
    if threads is not None:
        if isinstance(threads, bool) or not isinstance(threads, int) or threads < 1:
            raise ValueError(f"`threads` must be a positive integer, got {threads!r}.")
        torch.set_num_threads(threads)
    section = config.get("trainer", {})
    for name in ("output_dir", "max_steps"):
        if not isinstance(section, dict) or name not in section:
            raise ValueError(f"`trainer` must be a section with `{name}`, got {section!r}.")
    arguments = read_section(config, "trainer", kind, **{"report_to": "none"} | defaults)
    set_seed(arguments.seed)  # type: ignore[attr-defined]
    return arguments


class RunLog(TrainerCallback):
    """Adds `hours` of training, those before an interruption included, to what is logged, and keeps all in a file.

    The file `log.jsonl` is beside the checkpoints and can be watched while the run goes on.
    """

    def on_train_begin(self, args, state, control, **kwargs):
        """Start the clock where the checkpoint left it, and forget what was logged after that."""
        self._before = max((entry.get("hours", 0.0) for entry in state.log_history), default=0.0)
        self._start = time.perf_counter()
        if state.is_world_process_zero:
            Path(str(args.output_dir)).mkdir(parents=True, exist_ok=True)
            lines = (json.dumps(entry) + "\n" for entry in state.log_history)
            write_whole(Path(str(args.output_dir)) / LOG_FILE, "".join(lines))

    def on_log(self, args, state, control, logs=None, **kwargs):
        """Write one line."""
        if not hasattr(self, "_start") or not state.log_history:
            return
        hours = round(self._before + (time.perf_counter() - self._start) / 3600, 5)
        state.log_history[-1]["hours"] = hours
        if logs is not None:
            logs["hours"] = hours
        if state.is_world_process_zero:
            with (Path(str(args.output_dir)) / LOG_FILE).open("a", encoding="utf-8") as file:
                file.write(json.dumps(state.log_history[-1]) + "\n")


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

    By itself `Trainer` would make every batch that was seen once more, sounds and pictures and all. Rows that are left
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


def train(trainer: Trainer, mode: Literal["continue", "resume", "restart"]) -> bool:
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


def run(main: Callable[[], Any]) -> None:
    """Run a recipe; what the user can mend ends it with a sentence instead of a traceback."""
    try:
        main()
    except (ValueError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and type(error) is RuntimeError:
            raise  # torch's
        raise SystemExit(f"error: {error}") from error
    finally:
        if torch.distributed.is_initialized():
            # A thread of gloo that outlives the interpreter aborts the process, now and then.
            torch.distributed.destroy_process_group()


def run_training(
    description: str | None, train_model: Callable[[CommandLine], Any], argv: list[str] | None = None
) -> None:
    """Do what the command line of a training recipe says."""
    line = command_line(description, argv)
    run(lambda: train_model(line))


@dataclasses.dataclass
class CardArguments:
    """What only a person knows for the model card."""

    license: str | None = None
    hardware: str | None = None
    limitations: str | None = None


def describe_sources(sources: list[dict[str, Any]]) -> list[str]:
    """Return the sources of a section `data` in words, for the model card."""
    return [", ".join(map(str, source.values())) for source in sources]


def write_card(
    trainer: Trainer,
    card: CardArguments,
    command: str,
    data: list[str],
    metrics: dict[str, Any],
    evaluated_on: str,
    model: PreTrainedModel | None = None,
    **facts: Any,
) -> None:
    """Write the model card of a finished run into the folder `model` of its output.

    Args:
        trainer (`Trainer`): Its model, its last evaluation and the hours of its log are described.
        card ([`CardArguments`]): What the configuration says.
        command (`str`): What trained the model.
        data (`list[str]`): What it was trained on.
        metrics (`dict`): What it reached.
        evaluated_on (`str`): On what.
        model ([`PreTrainedModel`], *optional*): What is in the folder; what the trainer trained when `None`.
        facts: More of what [`write_model_card`] takes.
    """
    scores: dict[str, Any] = {}
    if trainer.eval_dataset is not None and "eval_loss" not in metrics:
        scores = trainer.evaluate()
    if model is None:
        trained: Any = trainer.model
        adapted = getattr(trained, "get_base_model", None)  # of what peft has wrapped
        model = trained if adapted is None else adapted()
    write_model_card(
        Path(str(trainer.args.output_dir)) / "model",
        model.config,
        model=model,
        data=data,
        metrics={**{name: value for name, value in scores.items() if name == "eval_loss"}, **metrics},
        evaluated_on=evaluated_on,
        command=command,
        hours=max((entry.get("hours", 0.0) for entry in trainer.state.log_history), default=0.0),
        hardware=card.hardware,
        license=card.license,
        limitations=card.limitations,
        **facts,
    )


def save_in_half(model: PreTrainedModel, folder: Path) -> None:
    """Save a model with weights of 16 bits, which load as 32."""
    weights = model.state_dict().items()
    half = {name: value.half() if value.is_floating_point() else value for name, value in weights}
    model.save_pretrained(folder, state_dict=half)


def write_whole(path: Path, text: str) -> None:
    """Write a text file that appears under its name only when it is complete."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)
