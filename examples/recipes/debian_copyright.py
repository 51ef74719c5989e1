"""Licence and holder of each file of a Debian package, by its machine-readable copyright file (DEP-5)."""

import re
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path


@dataclass(frozen=True)
class Terms:
    """A paragraph on files.

    Args:
        patterns (`tuple[str, ...]`): Of paths in the source; `*` stands for any text, slashes too, `?` for one letter.
        licence (`str`): Its short name.
        holder (`str`): Who has the copyright, without years.
    """

    patterns: tuple[str, ...]
    licence: str
    holder: str


def read_copyright(root: Path, package: str) -> list[Terms]:
    """Return the paragraphs on files of an unpacked package, in their order.

    Args:
        root (`Path`): What [`fetch_package`] returned.
        package (`str`): Its name.

    Raises:
        `ValueError`: The file is not machine-readable.
    """
    text = (root / "usr/share/doc" / package / "copyright").read_text("utf-8")
    terms = []
    for paragraph in re.split(r"\n\s*\n", text):
        fields = {name.lower(): value for name, value in re.findall(r"^([\w-]+):((?:.*)(?:\n\s.*)*)", paragraph, re.M)}
        if "files" in fields:
            licence = fields.get("license", "").strip().partition("\n")[0]
            terms.append(Terms(tuple(fields["files"].split()), licence, _strip_years(fields.get("copyright", ""))))
    if not terms:
        raise ValueError(f"The copyright file of {package!r} must have paragraphs on files, got none.")
    return terms


def _strip_years(holder: str) -> str:
    """Return holders without years, addresses, quotation marks and the word "copyright"."""
    noise = re.compile(r"<[^>]*>|\([^)]*\)|[©\"]|\b(copyright|\d{4})\b", re.IGNORECASE)
    names = (" ".join(noise.sub(" ", line).split()).strip(" ,.-") for line in holder.split("\n"))
    return ", ".join(name for name in names if name)


def find_terms(terms: list[Terms], path: str) -> Terms | None:
    """Return the paragraph that a file is under: the last one that names it.

    Args:
        terms (`list[Terms]`): From [`read_copyright`].
        path (`str`): Of the file, in the source of the package.
    """
    found = [each for each in terms if any(fnmatchcase(path, pattern) for pattern in each.patterns)]
    return found[-1] if found else None
