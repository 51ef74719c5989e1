"""The page of `josie serve` as files: nothing from elsewhere, nothing inline, names for all, colours one can read."""

import re
from collections import Counter
from html.parser import HTMLParser
from itertools import product
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[1] / "serving" / "page"
FILES = {path.name: path.read_text(encoding="utf-8") for path in sorted(PAGE.iterdir())}
SCRIPTS = [name for name in FILES if name.endswith(".js")]
STYLES = [name for name in FILES if name.endswith(".css")]
NAMESPACES = ('xmlns="http://www.w3.org/2000/svg"',)  # a name that is never asked for
SPOKEN = ("button", "input", "canvas", "dialog", "main", "footer")  # elements that a screen reader says the name of


class Elements(HTMLParser):
    """The elements of a document with their attributes, and the texts in labels and buttons."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.texts: Counter[int] = Counter()
        self.open: list[int] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))
        if tag in ("button", "label"):
            self.open.append(len(self.found) - 1)

    def handle_endtag(self, tag):
        if tag in ("button", "label"):
            self.open.pop()

    def handle_data(self, data):
        for index in self.open:
            self.texts[index] += len(data.strip())


ELEMENTS = Elements(FILES["index.html"])


def luminance(colour: str) -> float:
    """Return the relative luminance of a colour such as #1a2b3c: https://www.w3.org/TR/WCAG22/#dfn-relative-luminance."""
    parts = (int(colour[index : index + 2], 16) / 255 for index in (1, 3, 5))
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def contrast(first: str, second: str) -> float:
    """Return the contrast ratio of two colours, from 1 to 21."""
    light, dark = sorted((luminance(first), luminance(second)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("name", FILES)
def test_nothing_comes_from_elsewhere(name):
    text = FILES[name]
    for namespace in NAMESPACES:
        text = text.replace(namespace, "")
    assert not re.findall(r"\w+://|[\"'(=]//", text.replace('replace("http", "ws")', ""))


def test_every_file_is_used_and_there():
    text = "\n".join(FILES.values())
    named = {name.removeprefix("./") for name in re.findall(r"[\"']((?:\./)?[\w-]+\.(?:js|css|svg))[\"']", text)}
    assert named | {"index.html"} == set(FILES)


def test_a_strict_policy_needs_no_exception():
    for tag, attributes in ELEMENTS.found:
        assert not [name for name in attributes if name == "style" or name.startswith("on")]
        assert tag != "style"
        assert tag != "script" or attributes.get("src")
    for name in SCRIPTS:
        assert not re.search(
            r"\beval\(|new Function|innerHTML|outerHTML|insertAdjacentHTML|document\.write", FILES[name]
        )


def test_every_element_that_is_used_has_its_name():
    ids = [attributes["id"] for _, attributes in ELEMENTS.found if "id" in attributes]
    assert len(ids) == len(set(ids))
    used = set(re.findall(r"find\(\"([\w-]+)\"\)", FILES["main.js"]))
    referred = {
        attributes[name]
        for _, attributes in ELEMENTS.found
        for name in ("for", "aria-describedby")
        if name in attributes
    }
    assert used | referred <= set(ids)
    labelled = {attributes.get("for") for tag, attributes in ELEMENTS.found if tag == "label"}
    for index, (tag, attributes) in enumerate(ELEMENTS.found):
        if tag in SPOKEN:
            assert attributes.get("aria-label") or ELEMENTS.texts[index] or attributes.get("id") in labelled, attributes


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_colours_can_be_read(scheme):
    light, dark = FILES["frame.css"].split("prefers-color-scheme: dark")
    colours = dict(re.findall(r"--([\w-]+): (#\w{6});", light))
    if scheme == "dark":
        colours |= dict(re.findall(r"--([\w-]+): (#\w{6});", dark))
    texts = [*product(("ink", "soft", "user", "answer", "error"), ("paper", "raised")), ("error", "error-paper")]
    texts += [("on-colour", "user"), ("on-colour", "answer"), ("paper", "ink")]
    assert not {pair: ratio for pair in texts if (ratio := contrast(*(colours[name] for name in pair))) < 4.5}


@pytest.mark.parametrize("name", FILES)
def test_files_have_one_idea_each(name):
    lines = FILES[name].splitlines()
    assert len(lines) <= 450
    if name != "icon.svg" and name != "index.html":
        assert lines[0].startswith(("//", "/*"))
        assert max(map(len, lines)) <= 120
