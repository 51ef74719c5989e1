"""The account of a conversion: what became of every key, and why."""

import json
import re
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

REPORT_FILE = "conversion_report.json"
_NUMBER = re.compile(r"(?<=\b(?:blocks|layers)\.)\d+")


@dataclass(frozen=True)
class ConvertedKey:
    """What became of one key.

    Args:
        action (`"used"`, `"dropped"` or `"new"`): `"new"` keys have no source.
        source (`str`): Key of the old checkpoint; several that were put together are joined by ` + `.
        file (`str`): Where that was.
        target (`str`): Key of the new checkpoint.
        reason (`str`): Why it was dropped or made; empty where it is only renamed.
    """

    action: Literal["used", "dropped", "new"]
    source: str = ""
    file: str = ""
    target: str = ""
    reason: str = ""


@dataclass
class ConversionReport:
    """What a conversion did.

    Args:
        source, destination (`str`): From where, to where.
        keys (`list[ConvertedKey]`): Every key of the old checkpoint and of the new one.
        notes (`list[str]`): What a user should know about the result.
    """

    source: str
    destination: str
    keys: list[ConvertedKey] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def save(self, folder: Path) -> None:
        """Write `conversion_report.json` into a folder."""
        text = json.dumps(asdict(self), indent=1, ensure_ascii=False)
        (folder / REPORT_FILE).write_text(text + "\n", encoding="utf-8")

    def __str__(self) -> str:
        """Return all of it as text; layers that differ in their number only share a line."""
        lines: Counter[tuple[str, str]] = Counter()
        for key in self.keys:
            names = [f"{key.source} ({key.file})" if key.action == "dropped" else key.source, key.target]
            names = [_NUMBER.sub("N", name) for name in names if name]
            lines[key.action, " -> ".join(names) + (f"  [{key.reason}]" if key.reason else "")] += 1
        text = [f"{self.source} -> {self.destination}"]
        for action, title in (("used", "used"), ("new", "new, without a source"), ("dropped", "dropped")):
            rows = {line: count for (kind, line), count in lines.items() if kind == action}
            text += ["", f"{title}: {sum(rows.values())}"]
            text += [f"  {line}" if count == 1 else f"  {count} x {line}" for line, count in rows.items()]
        return "\n".join([*text, "", *(f"Note: {note}" for note in self.notes)])
