"""Teach a Thinker when to listen and when to speak: `python examples/train_duplex.py examples/train_duplex.json`.

The rows have times, as `examples/make_duplex.py` writes them (`docs/duplex.md`). Everything is stated in the
configuration, a JSON or YAML file with these sections:

| section | what |
| --- | --- |
| `data` | `DuplexDataArguments` below: JSONL files of rows with times |
| `model` | `ModelArguments` in `recipes/models.py`: a model that hears and speaks in streams |
| `units` | `UnitArguments` below: units are added to a model that has none |
| `freeze` | names of parts that learn nothing, as `model.freeze` takes them |
| `trainer` | `TrainingArguments` |
| `card` | `license`, `hardware`, `limitations` of the model card |
| `threads` | of torch; its own choice where it is missing |

The Talker stays as it is, and so do the embeddings that it reads: both belong to `freeze`. A run that ends in any way
goes on with the same command from its last checkpoint. In `trainer.output_dir` it leaves `log.jsonl`, checkpoints and
`model`, which `josie duplex` and `josie evaluate --duplex` take.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from recipes.configuration import CommandLine, read_section, require_sections, run_training
from recipes.model_cards import CardArguments, write_card
from recipes.models import ModelArguments, learn_in_float32, load_start, save_model
from recipes.run_log import RunLog
from recipes.runs import evaluate, start_training, train
from torch.utils.data import Dataset
from transformers import TrainingArguments

from josie import JosieDataCollator, JosieTrainer, add_units
from josie.configuration_josie import JosieConfig
from josie.training.conversations import move_messages, move_part, read_json_lines
from josie.training.unit_rows import is_unit_row

SECTIONS = ("data", "model", "units", "freeze", "trainer", "card", "threads")
_AS_THEY_ARE = ("turns", "seconds", "forget_until", "past", "system")  # of the fields of a row
_READ = (*_AS_THEY_ARE, "messages", "audio", "images")
# What `josie evaluate --duplex` reads, and what the rows of `make_duplex.py` have beside.
_FOR_OTHERS = ("situation", "question_end", "event", "later", "answers", "voice", "scene")


@dataclass
class DuplexDataArguments:
    """Rows with times.

    Args:
        train (`str`): A JSONL file; paths in it, those of messages too, are relative to it.
        validation (`str`, *optional*): Another, of which the loss is told.
    """

    train: str = ""
    validation: str | None = None

    def __post_init__(self):
        for name in ("train", "validation"):
            path = getattr(self, name)
            if path is not None and not Path(path).is_file():
                raise ValueError(f"`data.{name}` must be an existing file, got {path!r}.")


@dataclass
class UnitArguments:
    """Units of a model that has none yet.

    Args:
        unit_frames (`int`): Tokens of audio in a unit.
        unit_window (`int`, *optional*): Units that a session remembers with their audio.
    """

    unit_frames: int = field(default=6)
    unit_window: int | None = None


class TimedRows(Dataset):
    """Rows with times of a JSONL file.

    Args:
        path (`str`): The file.

    Raises:
        `ValueError`: A line that is no row, which is named, or no line.
    """

    def __init__(self, path: str):
        self.root, self.lines = Path(path).absolute().parent, []
        for number, row in read_json_lines(path):
            if not isinstance(row, dict) or not is_unit_row(row):
                raise ValueError(
                    f"Line {number} of {path!r} must be a row with `turns` or parts with `begin`, got "
                    f"{str(row)[:40]!r}."
                )
            unknown = sorted(name for name in row if row[name] is not None and name not in (*_READ, *_FOR_OTHERS))
            if unknown:
                raise ValueError(
                    f"Line {number} of {path!r} must have fields among {list(_READ)}, or those of `josie evaluate "
                    f"--duplex`, got {unknown}."
                )
            messages = row.get("messages") or []
            if not isinstance(messages, list) or not all(isinstance(message, dict) for message in messages):
                raise ValueError(
                    f"`messages` in line {number} of {path!r} must be a list of dicts, got {messages!r:.40}."
                )
            self.lines.append(row)
        if not self.lines:
            raise ValueError(f"`data` must name files of at least one row, got {path!r} without.")

    def __len__(self) -> int:
        return len(self.lines)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Return what the collator reads of a row."""
        row = self.lines[index]
        read = {name: row[name] for name in _AS_THEY_ARE if name in row}
        read["messages"] = move_messages(row.get("messages") or [], self.root)
        if row.get("audio") is not None:
            read["audio"] = move_part({"type": "audio", "audio": row["audio"]}, self.root)["audio"]
        shown = [{"type": "image", "image": image} for image in row.get("images") or ()]
        return read | {"images": [move_part(part, self.root)["image"] for part in shown]}


def require_units(thinker_config: Any, stated: dict[str, Any]) -> None:
    """Raise a `ValueError` for one of `units` that a model with units does not have.

    Args:
        thinker_config ([`JosieThinkerConfig`]): Of the model.
        stated (`dict`): The section `units`.
    """
    for name, value in stated.items():
        own = getattr(thinker_config, name)
        if value != own:
            raise ValueError(f"`units.{name}` must be {own}, as the model has units already, got {value}.")


def train_model(line: CommandLine) -> dict[str, Any] | None:
    """Train, evaluate, save.

    Returns:
        The loss on the rows for validation; `None` if the run was asked to stop before its end.
    """
    config = line.config
    require_sections(config, *SECTIONS)
    card = read_section(config, "card", CardArguments)
    data = read_section(config, "data", DuplexDataArguments)
    units = read_section(config, "units", UnitArguments)
    chosen = read_section(config, "model", ModelArguments)
    arguments = start_training(config, TrainingArguments, remove_unused_columns=False, label_names=["labels"])
    rows = TimedRows(data.train)
    held_out = None if data.validation is None else TimedRows(data.validation)
    with arguments.main_process_first():
        model, processor = load_start(chosen, line.mode, arguments)
    if model.config.model_type != JosieConfig.model_type:
        raise ValueError(f"`model` must be a whole JOSIE, which speaks, got a {model.config.model_type!r} alone.")
    if model.config.thinker_config.unit_frames is None:
        processor = add_units(model, processor, units.unit_frames, units.unit_window)
    else:
        require_units(model.config.thinker_config, config.get("units", {}))
    names = config.get("freeze") or []
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError(f"`freeze` must be a list of names among {list(model.get_groups())}, got {names!r}.")
    model.freeze(*names)
    learn_in_float32(model, arguments.bf16 or arguments.fp16)
    trainer = JosieTrainer(
        model,
        arguments,
        train_dataset=rows,
        eval_dataset=held_out,
        data_collator=JosieDataCollator(processor, speech_timing=model.get_speech_timing()),
        processing_class=processor,
        callbacks=[RunLog()],
    )
    if not train(trainer, line.mode):
        return None
    metrics = {name: value for name, value in evaluate(trainer).items() if name.endswith("loss")}
    save_model(trainer)
    if trainer.is_world_process_zero():
        write_card(trainer, card, line.command, [data.train], metrics, "conversations that were held out")
    return metrics


def main(argv: list[str] | None = None) -> None:
    """Do what the command line says."""
    run_training(__doc__, train_model, argv)


if __name__ == "__main__":
    main()
