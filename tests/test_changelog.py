"""The changelog is true: what it says was renamed is found under both names, and the old one warns."""

import importlib
import re
import warnings
from typing import Any

import pytest
from this_tree import ROOT

import josie

TEXT = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
RENAMED = re.findall(r"^\| `(josie[\w.]+)` \| `(josie[\w.]+)` \|$", TEXT, re.MULTILINE)


def find(name: str) -> Any:
    """Return a module, or what has a name in one."""
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:length]))
        except ModuleNotFoundError:
            continue
        for part in parts[length:]:
            found = getattr(found, part)
        return found
    raise AssertionError(name)


def test_the_newest_version_is_this_one():
    assert re.findall(r"^## (\S+)", TEXT, re.MULTILINE)[0] == josie.__version__


def test_names_of_the_table_are_read():
    assert len(RENAMED) > 5


@pytest.mark.parametrize(("before", "now"), RENAMED)
def test_both_names_are_one_thing_and_the_former_warns(before, now):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        new = find(now)
    with pytest.warns(FutureWarning, match=re.escape(before.rpartition(".")[2])):
        old = find(before)
    assert old is new


def test_the_citation_names_this_version():
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert f"version: {josie.__version__}\n" in citation
    assert re.search(r"^## \S+ \(([\d-]+)\)$", TEXT, re.MULTILINE)[1] in citation  # type: ignore[index]
