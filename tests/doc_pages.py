"""Pages of the documentation in parts: blocks of code, headings, links."""

import re
import textwrap
from dataclasses import dataclass
from pathlib import Path

_FENCE = re.compile(r"^( *)```(\w*) *(?:title=\"([^\"]*)\")?[^\n]*\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
_HEADING = re.compile(r"^#+ +(.+?) *$", re.MULTILINE)
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")


@dataclass(frozen=True)
class Block:
    """A fenced block of code.

    Args:
        language (`str`): What stands behind the fence: `python` is run; the commands of `bash` are run or checked;
            `text` is what the block before it prints; `json`, `jsonl` and `yaml` become a file where they have a title.
        title (`str`): The name of that file.
        text (`str`): What is inside.
        line (`int`): Where that begins in the page.
    """

    language: str
    title: str
    text: str
    line: int

    def commands(self) -> list[str]:
        """Return the commands of a `bash` block, each on one line; comments are left out."""
        lines = re.sub(r"\\\n\s*", " ", self.text).splitlines()
        return [line for line in lines if line.strip() and not line.lstrip().startswith("#")]


def read_blocks(text: str) -> list[Block]:
    """Return the blocks of a page, in order."""
    return [
        Block(match[2], match[3] or "", textwrap.dedent(match[4]), text.count("\n", 0, match.start(4)) + 1)
        for match in _FENCE.finditer(text)
    ]


def without_code(text: str) -> str:
    """Return a page without its blocks and without code inside lines."""
    return re.sub(r"`[^`\n]+`", "``", _FENCE.sub("", text))


def read_anchors(text: str) -> set[str]:
    """Return what links can lead to inside a page, named as GitHub names it."""
    found: set[str] = set()
    for heading in _HEADING.findall(_FENCE.sub("", text)):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower()
        anchor = re.sub(r"[^\w\- ]", "", plain).replace(" ", "-")
        count = sum(name == anchor or re.fullmatch(rf"{re.escape(anchor)}-\d+", name) is not None for name in found)
        found.add(f"{anchor}-{count}" if count else anchor)
    return found


def read_links(text: str) -> list[str]:
    """Return the targets of a page's links and images."""
    return _LINK.findall(without_code(text))


def read_title(text: str) -> str:
    """Return the first heading; empty where the page does not begin with one."""
    match = re.match(r"# (.+)\n", text)
    return match[1] if match else ""


def list_pages(root: Path) -> list[Path]:
    """Return the pages of a tree."""
    return [
        *(root / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")),
        *sorted(root.glob("docs/*.md")),
    ]


def read_options(root: Path, heading: str) -> dict[str, tuple[str, str]]:
    """Return the rows of the table under a heading of `docs/options.md`: what happens, and how it is tried."""
    text = (root / "docs" / "options.md").read_text(encoding="utf-8")
    section = re.split(r"^## ", text, flags=re.MULTILINE)
    rows = next(part for part in section if part.startswith(f"`{heading}`"))
    return {name: (verdict, how) for name, verdict, how in re.findall(r"^\| `(\w+)` \| (.+) \| (.+) \|$", rows, re.M)}
