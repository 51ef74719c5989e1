"""Make tasks for `josie evaluate` of recorded texts: `python examples/make_tasks.py OUT.jsonl FOLDER [FOLDER ...]`.

Each FOLDER is one that `fetch_data.py speech` has filled, and its test split is used: clips that are to be written down
(`wer`), a task for each source; and with `--say` texts that are to be said (`spoken_wer`). `--num N` takes the first N
of each task, in an order of chance that is always the same.
"""

import argparse
import json
import os
import random
from pathlib import Path
from typing import Any

from recipes.configuration import run
from recipes.speech_data import read_manifest

from josie.conversion.files import write_file


def choose_clips(folder: Path, num: int | None) -> dict[str, list[dict[str, Any]]]:
    """Return clips of the test split that have a text, for each source.

    Args:
        folder (`Path`): With `test.jsonl`.
        num (`int`, *optional*): Most clips of a source; all when `None`.

    Raises:
        `ValueError`: There is no such folder, it has no clips with texts, or the number is below 1.
    """
    manifest = folder / "test.jsonl"
    if not manifest.is_file():
        raise ValueError(f"`FOLDER` must be one that `fetch_data.py speech` has filled, got {str(folder)!r}.")
    if num is not None and num < 1:
        raise ValueError(f"`--num` must be at least 1, got {num}.")
    found: dict[str, list[dict[str, Any]]] = {}
    for clip in read_manifest(manifest):
        if clip["text"]:
            found.setdefault(f"{folder.name}-{clip['source']}", []).append(clip)
    if not found:
        raise ValueError(f"`FOLDER` must have clips with a `text`, got none in {str(manifest)!r}.")
    for clips in found.values():
        random.Random(0).shuffle(clips)
    return {name: clips[:num] for name, clips in found.items()}


def make_tasks(folder: Path, says: bool, num: int | None, root: Path) -> list[dict[str, Any]]:
    """Return the rows of a folder.

    Args:
        folder, num: As of [`choose_clips`].
        says (`bool`): Texts to be said, in place of clips to be written down.
        root (`Path`): The folder that paths are to be relative to.
    """
    rows = []
    for name, clips in choose_clips(folder, num).items():
        for clip in clips:
            row: dict[str, Any] = {"task": f"{name}-{'say' if says else 'transcribe'}", "answer": clip["text"]}
            if says:
                times = {"word_times": clip["word_times"]} if clip.get("word_times") else {}
                rows.append(row | {"speak": True, "scores": ["spoken_wer"], **times})
            else:
                audio = {"type": "audio", "path": os.path.relpath(clip["path"], root.resolve())}
                rows.append(row | {"messages": [{"role": "user", "content": [audio]}], "scores": ["wer"]})
    return rows


def main(argv: list[str] | None = None) -> None:
    """Do what the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("--say", action="store_true", help="texts to be said")
    parser.add_argument("--num", type=int, help="most rows of each source")
    arguments = parser.parse_args(argv)

    def write() -> None:
        root = arguments.out.parent
        if arguments.out.is_dir():
            raise ValueError(f"`OUT` must be the name of a file, got {str(arguments.out)!r}, a folder.")
        root.mkdir(parents=True, exist_ok=True)
        rows = [row for folder in arguments.folders for row in make_tasks(folder, arguments.say, arguments.num, root)]
        write_file(arguments.out, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
        print(f"{arguments.out}: {len(rows)} rows")

    run(write)


if __name__ == "__main__":
    main()
