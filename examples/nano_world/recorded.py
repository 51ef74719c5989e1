"""Questions that were recorded once, for those who have no voice at hand."""

import json
from pathlib import Path

import josie

FOLDER = Path(__file__).parent / "questions"
EXAMPLE = "things.flac"  # which comes with the package


def list_recordings() -> dict[str, dict[str, str]]:
    """Return `text` and `voice` of each recording, by the name of its file."""
    return json.loads((FOLDER / "questions.json").read_text(encoding="utf-8"))


def find_recording(name: str) -> Path:
    """Return the file of a recording."""
    return Path(josie.example_path("question.flac")) if name == EXAMPLE else FOLDER / name
