"""Texts of Debian packages, one generator each: where the packages are unpacked -> texts."""

import gzip
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path


def bible(root: Path) -> Iterator[str]:
    """Yield the verses of the King James Bible without their numbers."""
    command = [str(root / "usr/bin/bible"), "-p", str(root / "usr/lib"), "-f", "gen1:1-rev22:21"]
    text = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True).stdout
    for line in text.splitlines():
        yield line.partition(" ")[2]


def wordnet(root: Path) -> Iterator[str]:
    """Yield the gloss, with its examples, of every synonym set of WordNet."""
    for path in sorted((root / "usr/share/wordnet").glob("data.*")):
        for line in path.read_text(encoding="utf-8").splitlines():
            if "|" in line:
                yield line.partition("|")[2].strip()


def wordnet_entries(root: Path) -> Iterator[tuple[list[str], str, list[str]]]:
    """Yield the words, the definition and the examples of every synonym set of WordNet."""
    for path in sorted((root / "usr/share/wordnet").glob("data.*")):
        for line in path.read_text(encoding="utf-8").splitlines():
            if line.startswith("  ") or "|" not in line:  # the licence
                continue
            head, _, gloss = line.partition("|")
            fields = head.split()
            words = [fields[4 + 2 * place] for place in range(int(fields[3], 16))]
            words = [re.sub(r"\(\w+\)$", "", word).replace("_", " ") for word in words]
            definition = gloss.partition('"')[0].strip().rstrip(";:")
            yield words, definition.strip(), re.findall(r'"([^"]+)"', gloss)


def fortunes(root: Path) -> Iterator[str]:
    """Yield the fortune cookies."""
    for path in sorted((root / "usr/share/games/fortunes").iterdir()):
        if path.suffix == "" and path.is_file():
            yield from path.read_text(encoding="utf-8", errors="replace").split("\n%\n")


def fillets(root: Path) -> Iterator[str]:
    """Yield the dialogues of Fish Fillets."""
    for path in sorted((root / "usr/share/games/fillets-ng/script").rglob("*.lua")):
        text = path.read_text(encoding="utf-8", errors="replace")
        yield from re.findall(r'dialog(?:Id\("[^"]*", "[^"]*", |Str\()"((?:[^"\\]|\\.)*)"\)', text)


def asterisk(root: Path) -> Iterator[str]:
    """Yield the sentences of the Asterisk core sounds."""
    path = root / "usr/share/doc/asterisk-core-sounds-en/core-sounds-en.txt.gz"
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        for line in lines:
            if ":" in line and not line.startswith(";"):
                yield line.partition(":")[2].strip()
