"""Documentation of what is public: a docstring for each thing, in which every parameter of several has its name."""

import ast
import functools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from test_words import PATHS, ROOT
from transformers import Cache, PreTrainedModel, Trainer, TrainerCallback

Function = ast.FunctionDef | ast.AsyncFunctionDef
SEVERAL = 3  # parameters from which on a reader cannot guess them
# Methods of these are documented where they come from, and what overrides them takes what they take.
FOREIGN: dict[str, Any] = {
    "Trainer": Trainer,
    "TrainerCallback": TrainerCallback,
    "PreTrainedModel": PreTrainedModel,
    "Cache": Cache,
    "Function": torch.autograd.Function,
}
# What makes arguments of the fields of a class.
RECORDS = {"dataclass", "strict", "NamedTuple", "TypedDict"}


class Thing(NamedTuple):
    """A public module, class or function of the package."""

    path: Path
    name: str
    node: ast.Module | ast.ClassDef | Function
    owner: ast.ClassDef | None = None

    @property
    def text(self) -> str:
        return ast.get_docstring(self.node) or ""

    @property
    def label(self) -> str:
        return f"{self.path.relative_to(ROOT).as_posix()}: {self.name}"


def find_things(path: Path) -> Iterator[Thing]:
    """Give what a file has, private things too, but nothing that is inside of functions."""

    def look_into(body: list[ast.stmt], owner: ast.ClassDef | None, start: str) -> Iterator[Thing]:
        for node in body:
            if isinstance(node, ast.If | ast.Try | ast.With):
                yield from look_into(node.body + getattr(node, "orelse", []), owner, start)
            elif isinstance(node, ast.ClassDef):
                yield Thing(path, start + node.name, node, owner)
                yield from look_into(node.body, node, f"{start}{node.name}.")
            elif isinstance(node, Function):
                yield Thing(path, start + node.name, node, owner)

    tree = ast.parse(path.read_text(encoding="utf-8"))
    yield Thing(path, path.stem, tree)
    yield from look_into(tree.body, None, "")


@functools.cache
def all_things() -> list[Thing]:
    """Return what all files have."""
    return [thing for path in PATHS for thing in find_things(path)]


@functools.cache
def things_by_name() -> dict[str, list[Thing]]:
    """Return what all files have, by its name, which several things may share."""
    named: dict[str, list[Thing]] = {}
    for thing in all_things():
        named.setdefault(thing.name, []).append(thing)
    return named


def is_public(thing: Thing) -> bool:
    return thing.name == "__init__" or not any(part.startswith("_") for part in thing.name.split("."))


def decorators(node: Any) -> set[str]:
    """Return the names in the decorators of a class or function, and those of the bases of a class."""
    nodes = [*node.decorator_list, *getattr(node, "bases", [])]
    return {word for item in nodes for word in re.findall(r"\w+", ast.unparse(item))}


def parameters_of(node: Any) -> list[str]:
    """Return the names of what a caller gives: of a class, to make one."""
    if isinstance(node, ast.Module):
        return []
    if isinstance(node, ast.ClassDef):
        makers = [item for item in node.body if isinstance(item, Function) and item.name == "__init__"]
        if makers:
            return parameters_of(makers[0])
        if not decorators(node) & RECORDS and not any(base.endswith("Kwargs") for base in decorators(node)):
            return []
        fields = [item for item in node.body if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name)]
        fields = [item for item in fields if "ClassVar" not in ast.unparse(item.annotation)]
        names = [ast.unparse(item.target) for item in fields]
        return [name for name in names if not name.startswith("_")]
    arguments = node.args.posonlyargs + node.args.args + node.args.kwonlyargs
    return [item.arg for item in arguments if item.arg not in ("self", "cls")]


def ancestors(node: Any) -> list[str]:
    """Return the names of all bases of a class, as far as they are in the package, and those right above."""
    found = []
    for base in [ast.unparse(base).rpartition(".")[2] for base in getattr(node, "bases", [])]:
        found.append(base)
        for thing in things_by_name().get(base, []):
            found += ancestors(thing.node)
    return found


def texts_of(thing: Thing, depth: int = 3) -> Iterator[str]:
    """Give the docstring of a thing, of what it overrides or builds on, and of what it refers to: "as of [`Codec`]"."""
    yield thing.text
    if not depth:
        return
    method = thing.name.rpartition(".")[2]
    if isinstance(thing.node, ast.ClassDef):
        names = ancestors(thing.node)
    else:
        names = [f"{base}.{method}" for base in ancestors(thing.owner)]
    for name in re.findall(r"\[`~?([\w.]+)`\]", thing.text):
        heirs = [base for other in things_by_name().get(name.partition(".")[0], []) for base in ancestors(other.node)]
        names += [name, f"{name}.forward", f"{name}.{method}", *(f"{base}.{method}" for base in heirs)]
    for name in names:
        for other in things_by_name().get(name, []):
            if other is not thing:
                yield from texts_of(other, depth - 1)


def is_foreign(thing: Thing) -> bool:
    """Return whether a method is that of a class of another package."""
    return any(hasattr(FOREIGN.get(base), thing.node.name) for base in ancestors(thing.owner))  # type: ignore[union-attr]


def is_command(thing: Thing) -> bool:
    """Return whether a function is a command, whose parameters have their help: `Annotated`, or an alias of that."""
    return thing.path.parent.name == "cli" and thing.name.endswith("_command")


def find_unnamed(thing: Thing) -> list[str]:
    """Return the parameters that no docstring which counts for a thing names."""
    names = parameters_of(thing.node)
    if len(names) < SEVERAL or is_command(thing) or is_foreign(thing):
        return []
    text = "\n".join(texts_of(thing))
    return [name for name in names if not re.search(rf"(?<!\w){re.escape(name)}(?!\w)", text)]


def is_setter(thing: Thing) -> bool:
    """Return whether a method sets a property, which is documented where it is read."""
    return not isinstance(thing.node, ast.Module) and "setter" in decorators(thing.node)


def test_missing_documentation_is_found(tmp_path):
    path = tmp_path / "code.py"
    path.write_text('class Codec:\n    """A codec."""\n    def run(self, one, two, three): """Run `one`."""\n')
    _, codec, run = find_things(path)
    assert (codec.name, run.name, find_unnamed(run)) == ("Codec", "Codec.run", ["two", "three"])
    assert run.text == "Run `one`."


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.relative_to(ROOT).as_posix())
class TestCode:
    def test_what_is_public_has_a_docstring(self, path):
        things = [thing for thing in all_things() if thing.path == path and is_public(thing) and not is_setter(thing)]
        assert not [thing.label for thing in things if not thing.text]

    def test_several_parameters_are_named(self, path):
        things = [thing for thing in all_things() if thing.path == path and is_public(thing)]
        assert not {thing.label: names for thing in things if (names := find_unnamed(thing))}
