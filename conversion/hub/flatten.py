"""The package's own modules as flat files, which is what `trust_remote_code=True` can load.

transformers copies the code of a Hub folder file by file: those that `auto_map` names, and those that these name in
`from .name import ...`. Packages, `..` and `from . import name` do not survive it. So every module becomes one file
beside the others, and only its relative imports are rewritten: each name comes from the file that defines it.
"""

import ast
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
_MAX_LINE = 120

Module = tuple[str, ...]  # path of a module below the package, such as ("modeling_josie", "josie")


def flat_name(module: Module) -> str:
    """Return the name of the flat file of a module, without `.py`: `modeling_josie/josie.py` is `modeling_josie`."""
    return "_".join([*(part.removesuffix("_josie") for part in module[:-1]), module[-1]])


def flatten(starts: Iterable[Module]) -> dict[Module, str]:
    """Return the text of the flat file of each module in `starts`, and of all modules that these need.

    Args:
        starts (`Iterable[tuple[str, ...]]`): Modules, by their path below the package.

    Raises:
        `ValueError`: There is no such module.
    """
    files: dict[Module, str] = {}
    waiting = list(starts)
    while waiting:
        module = waiting.pop()
        if module in files:
            continue
        if not _path(module).is_file():
            raise ValueError(f"`starts` must be modules of the package, got {'.'.join(module)!r}.")
        files[module], needed = _flatten_module(module)
        waiting += needed
    return dict(sorted(files.items()))


def _path(module: Module) -> Path:
    return ROOT.joinpath(*module).with_suffix(".py")


@cache
def _parse(module: Module) -> ast.Module:
    return ast.parse(_path(module).read_text(encoding="utf-8"))


@cache
def _flatten_module(module: Module) -> tuple[str, set[Module]]:
    """Return a module's text with flat imports, and the modules that these name."""
    lines = _path(module).read_text(encoding="utf-8").splitlines()
    tree = _parse(module)
    needed: set[Module] = set()
    statements = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.level]
    for node in sorted(statements, key=lambda node: node.lineno, reverse=True):
        imported = list(_resolve(module, node, tree))
        needed |= {origin for origin, _ in imported}
        new = _write_imports(imported, node.col_offset)
        indent = " " * node.col_offset
        lines[node.lineno - 1 : node.end_lineno] = [indent + line for line in new]
    note = f"# Made from {'/'.join(module)}.py of the package josie: changes belong there."
    return "\n".join([note, *lines]) + "\n", needed


def _target(module: Module, node: ast.ImportFrom) -> Module:
    """Return the path below the package that a relative import names."""
    package = module[: len(module) - node.level]
    return (*package, *(node.module.split(".") if node.module else ()))


def _resolve(module: Module, node: ast.ImportFrom, tree: ast.Module) -> Iterator[tuple[Module, str]]:
    """Give for each name of an import the module that it comes from, and the name with its `as`."""
    target = _target(module, node)
    for alias in node.names:
        bound = alias.asname or alias.name
        rename = f"{alias.name} as {alias.asname}" if alias.asname else alias.name
        if _path((*target, alias.name)).is_file():
            # A whole module: for what it registers when it is imported. Any of its classes stands for it.
            owners = [node.value for node in ast.walk(tree) if isinstance(node, ast.Attribute)]
            if any(isinstance(owner, ast.Name) and owner.id == bound for owner in owners):
                raise AssertionError(f"{'.'.join(module)} uses `{bound}` as a module, which flat files cannot do")
            origin = (*target, alias.name)
            yield origin, _last_class(origin)
        elif ROOT.joinpath(*target).is_dir():
            yield _defined_in(target, alias.name), rename
        else:
            yield target, rename


def _defined_in(package: Module, name: str) -> Module:
    """Return the module from which the `__init__.py` of a package takes a name."""
    init: Module = (*package, "__init__")
    for node in _parse(init).body:
        if isinstance(node, ast.ImportFrom) and name in [alias.asname or alias.name for alias in node.names]:
            return _target(init, node)
    raise AssertionError(f"{'.'.join(package)} imports no {name!r} from one of its modules")


def _last_class(module: Module) -> str:
    return [node.name for node in _parse(module).body if isinstance(node, ast.ClassDef)][-1]


def _write_imports(imported: list[tuple[Module, str]], indent: int = 0) -> list[str]:
    """Return import statements, one for each module."""
    statements = []
    for origin in sorted({origin for origin, _ in imported}):
        names = sorted({name for module, name in imported if module == origin})
        line = f"from .{flat_name(origin)} import {', '.join(names)}"
        if len(line) + indent <= _MAX_LINE:
            statements.append(line)
        else:
            statements += [f"from .{flat_name(origin)} import (", *(f"    {name}," for name in names), ")"]
    return statements


def write_index(classes: Iterable[tuple[Module, str, str]], unknown: Iterable[str]) -> str:
    """Return the text of the file that `auto_map` names: it has every class that an Auto class may ask for.

    It is a single file because transformers keeps one copy of a local folder's code for each file that `auto_map`
    names, and two copies of one class are two classes.

    Args:
        classes (`Iterable[tuple[tuple[str, ...], str, str]]`): Module, name and Auto class of each.
        unknown (`Iterable[str]`): Model types whose configurations are among the files and whose models are not.
    """
    classes = sorted(classes)
    imports = _write_imports([(module, name) for module, name, _ in classes])
    rows = [f'    ({name}, "{auto_class}"),' for _, name, auto_class in classes]
    names = ", ".join(f'"{name}"' for name in sorted(unknown))
    return _INDEX.format(imports="\n".join(imports), rows="\n".join(rows), unknown=f"[{names}]")


_INDEX = '''"""Every class of this folder that an Auto class of transformers may ask for; `auto_map` names this file.

One file for all of them: transformers keeps a copy of the code for each file that `auto_map` names, and two copies of a
class would be two classes.
"""

from transformers import CONFIG_MAPPING, AutoConfig

_known = dict(CONFIG_MAPPING._extra_content)  # what the code of other folders has registered

{imports}

# This file counts as their module, so that transformers copies all of the code when one of them is saved.
for _class, _auto_class in (
{rows}
):
    _class.__module__ = __name__
    _class.register_for_auto_class(_auto_class)

# There are no models for these here: the code of other folders has to speak for them.
for _model_type in {unknown}:
    CONFIG_MAPPING._extra_content.pop(_model_type)
    if _model_type in _known:
        AutoConfig.register(_model_type, _known[_model_type], exist_ok=True)
'''
