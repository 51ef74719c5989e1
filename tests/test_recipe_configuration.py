"""Configurations of recipes: files and the command line say what they seem to, and values are of their types."""

import json
import re
from dataclasses import dataclass, field, make_dataclass
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from datasets.exceptions import DatasetGenerationError
from recipes.configuration import read_config, read_section, run
from recipes.debian import FetchError
from recipes.runs import read_trainer_section
from transformers import TrainingArguments

from josie.configuration_josie import JodioConfig

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"


@dataclass
class Values:
    """One field of each kind."""

    flag: bool = False
    count: int = 0
    share: float = 0.0
    name: str = ""
    limit: int | None = None
    kind: Literal["a", "b"] = "a"
    names: list[str] = field(default_factory=list)
    weights: dict[str, float] = field(default_factory=dict)
    shapes: list[list[int]] = field(default_factory=list)
    anything: Any = None


def read(tmp_path, *changes):
    """Return the section `data` that `--set` makes."""
    path = tmp_path / "config.json"
    path.write_text("{}")
    return read_section(read_config(path, changes), "data", Values)


@pytest.mark.parametrize(
    ("change", "value"),
    [
        ("flag=True", True),
        ("flag=False", False),
        ("flag=false", False),
        ("limit=None", None),
        ("limit=3", 3),
        ("share=1", 1),
        ("share=1e-4", 1e-4),
        ("name=speaker", "speaker"),
        ("kind=b", "b"),
        ('names=["speaker"]', ["speaker"]),
        ('weights={"a": 1, "b": 0.5}', {"a": 1, "b": 0.5}),
        ("shapes=[[1, 2]]", [[1, 2]]),
        ("anything=[1]", [1]),
    ],
)
def test_values_of_their_types_are_taken(tmp_path, change, value):
    assert getattr(read(tmp_path, f"data.{change}"), change.partition("=")[0]) == value


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("flag=no", "`data.flag` must be of type bool, got 'no'."),
        ("flag=1", "`data.flag` must be of type bool, got 1."),
        ("count=0.5", "`data.count` must be of type int, got 0.5."),
        ("count=true", "`data.count` must be of type int, got True."),
        ("share=much", "`data.share` must be of type float, got 'much'."),
        ("share=True", "`data.share` must be of type float, got True."),
        ("name=3", "`data.name` must be of type str, got 3."),
        ("name=None", "`data.name` must be of type str, got None."),
        ("limit=all", "`data.limit` must be of type int | None, got 'all'."),
        ("kind=c", "`data.kind` must be of type Literal['a', 'b'], got 'c'."),
        ("names=speaker", "`data.names` must be of type list[str], got 'speaker'."),
        ("names=[1]", "`data.names` must be of type list[str], got [1]."),
        ("weights=[1]", "`data.weights` must be of type dict[str, float], got [1]."),
        ("shapes=[1]", "`data.shapes` must be of type list[list[int]], got [1]."),
    ],
)
def test_values_of_other_types_are_refused(tmp_path, change, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        read(tmp_path, f"data.{change}")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"bf16": "False"}, "`trainer.bf16` must be of type bool | Literal['auto'], got 'False'."),
        ({"learning_rate": "high"}, "`trainer.learning_rate` must be of type float, got 'high'."),
        ({"max_grad_norm": None}, "`trainer.max_grad_norm` must be of type float, got None."),
        ({"save_only_model": True}, "`trainer.save_only_model` must be false, as a run goes on from all"),
        ({"resume_from_checkpoint": "x"}, "`trainer.resume_from_checkpoint` must be null, as the same command goes on"),
    ],
)
def test_arguments_that_a_run_cannot_obey_are_refused(tmp_path, change, message):
    section = {"output_dir": str(tmp_path), "max_steps": 1, "use_cpu": True}
    with pytest.raises(ValueError, match=re.escape(message)):
        read_trainer_section({"trainer": section | change}, TrainingArguments)


def test_what_transformers_takes_is_taken(tmp_path):
    more = {"max_grad_norm": 0, "eval_strategy": "steps", "eval_steps": 2, "report_to": [], "optim": "sgd"}
    more |= {
        "lr_scheduler_type": "cosine",
        "lr_scheduler_kwargs": {"num_cycles": 2},
        "save_only_model": False,
        "resume_from_checkpoint": None,
    }
    config = {"trainer": {"output_dir": str(tmp_path), "max_steps": 1, "use_cpu": True} | more}
    assert read_trainer_section(config, TrainingArguments).max_grad_norm == 0
    assert read_section({"trainer": {"fsdp": True, "save_steps": 0.5}}, "trainer", dict_of_fsdp()).fsdp is True


def dict_of_fsdp():
    """Return arguments that nothing is made of, as sharding needs an accelerator."""
    fields = {name: TrainingArguments.__annotations__[name] for name in ("fsdp", "save_steps")}
    return dataclass(type("Sharding", (), {"__annotations__": fields, "fsdp": None, "save_steps": 1}))


@pytest.mark.parametrize("text", ['{"trainer": {"learning_rate": 1e-4}}', '{\n\t"trainer": {"learning_rate": 1e-4}}'])
@pytest.mark.parametrize("name", ["config.json", "config"])
def test_files_of_json_are_read_as_json(tmp_path, name, text):
    path = tmp_path / name
    path.write_text(text)
    assert read_config(path) == json.loads(text) == {"trainer": {"learning_rate": 0.0001}}


@pytest.mark.parametrize("number", ["1e-4", "1E-4", "+1.e-4", ".1e-3", "1.0e-4", "0.0001"])
def test_numbers_of_yaml_are_numbers(tmp_path, number):
    path = tmp_path / "config.yaml"
    path.write_text(f"rate: {number}\nname: 1e-4x\nseed: 10\n")
    assert read_config(path) == {"rate": 0.0001, "name": "1e-4x", "seed": 10}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"card": {"license": "\xe9"}}', "`config` must be text in UTF-8, got '{path}': "),
        (b'{\n\t"threads": 1 2}', "`config` must be JSON or YAML, got '{path}': Expecting ',' delimiter: line 2"),
        (b"a: [1", "`config` must be JSON or YAML, got '{path}': while parsing a flow sequence"),
    ],
)
def test_broken_files_are_named(tmp_path, content, message):
    path = tmp_path / "config.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=re.escape(message.format(path=path))):
        read_config(path)


def test_a_byte_order_mark_is_no_content(tmp_path):
    path = tmp_path / "config.json"
    path.write_text('{"threads": 1}', encoding="utf-8-sig")
    assert read_config(path) == {"threads": 1}


def test_the_package_has_no_configuration_of_other_types():
    configs = [read_config(path) for path in EXAMPLES.rglob("*.json") if '"max_steps"' in path.read_text()]
    assert len(configs) > 15
    for config in configs:
        section = {name: value for name, value in config["trainer"].items() if not name.startswith("adversarial")}
        read_trainer_section({"trainer": section | {"bf16": False}}, TrainingArguments, use_cpu=True)


def test_what_a_section_needs_is_named():
    needs = make_dataclass("Needs", [("path", str), ("count", int, 3)])
    with pytest.raises(ValueError, match=re.escape("`data` must have the key 'path', got none.")):
        read_section({}, "data", needs)
    with pytest.raises(ValueError, match=re.escape("`data` must have the key 'path', got ['count'].")):
        read_section({"data": {"count": 2}}, "data", needs)
    assert read_section({"data": {"path": "a"}}, "data", needs).count == 3
    assert read_section({}, "data", needs, path="b").path == "b"


class Broken(torch.utils.data.Dataset):
    """A data set of errors."""

    def __init__(self, error):
        self.error = error

    def __len__(self):
        return 1

    def __getitem__(self, index):
        """Fail."""
        raise self.error


@pytest.mark.parametrize("num_workers", [0, 1])
@pytest.mark.parametrize(
    "error",
    [
        ValueError("`audio` must be\na file, got 'ValueError: 3'."),
        FetchError("It cannot be had."),
        FileNotFoundError("No such file"),
        OSError(2, "No such file", "a.npy"),
        UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"),
        json.JSONDecodeError("Expecting value", "a", 0),
    ],
)
def test_errors_of_workers_are_said_as_they_are(error, num_workers):
    loader = torch.utils.data.DataLoader(Broken(error), num_workers=num_workers)
    with pytest.raises(SystemExit, match=f"^{re.escape(f'error: {error}')}$"):
        run(lambda: list(loader))


@pytest.mark.parametrize("error", [TypeError("a fault"), RuntimeError("of torch"), KeyError("text")])
@pytest.mark.parametrize("num_workers", [0, 1])
def test_faults_keep_their_traceback(error, num_workers):
    loader = torch.utils.data.DataLoader(Broken(error), num_workers=num_workers)
    with pytest.raises(type(error)):
        run(lambda: list(loader))


def test_what_libraries_say_of_files_and_settings_is_a_sentence():
    def generate():
        error = DatasetGenerationError("An error occurred while generating the dataset")
        raise error from UnicodeDecodeError("utf-8", b"\xe9", 0, 1, "unexpected end of data")

    with pytest.raises(SystemExit, match="error: 'utf-8' codec can't decode byte 0xe9 in position 0"):
        run(generate)
    with pytest.raises(SystemExit, match="error: .*/nowhere"):
        run(lambda: Path("/nowhere").read_text())
    with pytest.raises(SystemExit, match="error: Validation error for field 'channels'"):
        run(lambda: JodioConfig(channels=3))
