"""Report of a conversion: the fate of every key, and the reason."""

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
    """The fate of one key.

    Args:
        action (`"used"`, `"dropped"` or `"new"`): `"new"` keys have no source.
        source (`str`): Key of the old checkpoint; several that were joined stand with ` + ` between them.
        file (`str`): Its file.
        target (`str`): Key of the new checkpoint.
        reason (`str`): Of dropping or making it; empty where it is only renamed.
    """

    action: Literal["used", "dropped", "new"]
    source: str = ""
    file: str = ""
    target: str = ""
    reason: str = ""


@dataclass
class ConversionReport:
    """Report of a conversion.

    Args:
        source, destination (`str`): Old and new checkpoint.
        keys (`list[ConvertedKey]`): Every key of the old checkpoint and of the new one.
        notes (`list[str]`): For the user of the result; they are logged as warnings.
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
        """Return the keys as text; layers that differ in their number only share a line."""
        lines: Counter[tuple[str, str]] = Counter()
        for key in self.keys:
            names = [f"{key.source} ({key.file})" if key.action == "dropped" else key.source, key.target]
            names = [_NUMBER.sub("N", name) for name in names if name]
            lines[key.action, " -> ".join(names) + (f"  [{key.reason}]" if key.reason else "")] += 1
        text = [f"{self.source} -> {self.destination}"]
        for action, title in (("used", "used"), ("new", "new, without a source"), ("dropped", "dropped")):
            rows = {line: count for (of_action, line), count in lines.items() if of_action == action}
            text += ["", f"{title}: {sum(rows.values())}"]
            text += [f"  {line}" if count == 1 else f"  {count} x {line}" for line, count in rows.items()]
        return "\n".join(text)
