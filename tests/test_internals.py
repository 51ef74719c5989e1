"""The signs in the house: the reading order of each room, and the map in docs/internals.md, name what is there."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("configuration_josie", "tokenization", "processing_josie", "modeling_josie")
PACKAGES += ("training", "evaluation", "conversion", "serving", "cli")
ROOMS = [file.parent for package in PACKAGES for file in sorted((ROOT / package).rglob("__init__.py"))]


def listed_in(text: str) -> list[str]:
    """Return what a text names in backquotes."""
    return re.findall(r"`([\w./]+)`", text)


@pytest.mark.parametrize("room", ROOMS, ids=lambda room: room.relative_to(ROOT).as_posix())
def test_the_docstring_of_a_room_names_every_file_once(room):
    text = ast.get_docstring(ast.parse((room / "__init__.py").read_text(encoding="utf-8"))) or ""
    inside = {path.stem for path in room.glob("*.py")} - {"__init__"}
    inside |= {file.parent.name for file in room.glob("*/__init__.py")}
    named = [name for name in listed_in(text.partition("\n")[2]) if "." not in name]
    assert sorted(named) == sorted(inside)


def test_the_map_has_every_room():
    page = (ROOT / "docs" / "internals.md").read_text(encoding="utf-8")
    drawn = page.split("```")[3]
    found, package = set(), Path()
    for line in drawn.strip().splitlines():
        name = line.split()[0]
        if not line.startswith(" "):
            package = Path(name)
        found.add((package / name if line.startswith(" ") else package).as_posix())
    assert all((ROOT / name).exists() for name in found)
    rooms = {room.relative_to(ROOT).as_posix() for room in ROOMS}
    assert rooms <= found


@pytest.mark.parametrize("page", ["docs/internals.md", "CONTRIBUTING.md", "README.md", "examples/README.md"])
def test_files_that_pages_name_are_there(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    files = {name for name in listed_in(text) if "/" in name and re.search(r"\.(py|md|json|toml)$", name)}
    folders = ("", "examples", "examples/nano_world")
    made = {name for name in files if name.startswith("runs/")}
    assert not [name for name in files - made if not any((ROOT / folder / name).exists() for folder in folders)]
