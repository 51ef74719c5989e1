"""Make tasks for `josie evaluate` of recorded texts: `python examples/make_tasks.py OUT.jsonl FOLDER [FOLDER ...]`.

Each FOLDER is one that `fetch_data.py speech` has filled, and its test split is used: clips that are to be written down
(`wer`), a task for each source, called by the folder and the source; and with `--say` texts that are to be said
(`spoken_wer`). `--num N` takes the first N of each task, in an order of chance that is always the same.
"""

import argparse
import json
import os
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from recipes.configuration import run
from recipes.places import require_place
from recipes.speech_data import read_manifest

from josie.conversion.files import write_file


def choose_clips(folders: Sequence[Path], num: int | None) -> dict[str, list[dict[str, Any]]]:
    """Return clips of the test splits that have a text, for each folder and source, by the names of both.

    Args:
        folders (`Sequence[Path]`): With `test.jsonl`.
        num (`int`, *optional*): Most clips of a source of a folder; all when `None`.

    Raises:
        `ValueError`: There is no such folder, it has no clips with texts, the number is below 1, or two folders would
            give clips the same name.
    """
    found: dict[str, list[dict[str, Any]]] = {}
    places: dict[str, Path] = {}
    for folder in folders:
        for name, clips in _choose_from(folder, num).items():
            if name in found:
                raise ValueError(
                    f"`FOLDER` must be folders whose clips get different names, got {str(places[name])!r} and "
                    f"{str(folder)!r}, both with {name!r}."
                )
            found[name], places[name] = clips, folder
    return found


def _choose_from(folder: Path, num: int | None) -> dict[str, list[dict[str, Any]]]:
    manifest = folder / "test.jsonl"
    if not manifest.is_file():
        raise ValueError(f"`FOLDER` must be one that `fetch_data.py speech` has filled, got {str(folder)!r}.")
    if num is not None and num < 1:
        raise ValueError(f"`--num` must be at least 1, got {num}.")
    found: dict[str, list[dict[str, Any]]] = {}
    name = Path(os.path.abspath(folder)).name  # of "." too, and of a link its own
    for clip in read_manifest(manifest):
        if clip["text"]:
            found.setdefault(f"{name}-{clip['source']}", []).append(clip)
    if not found:
        raise ValueError(f"`FOLDER` must have clips with a `text`, got none in {str(manifest)!r}.")
    for clips in found.values():
        random.Random(0).shuffle(clips)
    return {name: clips[:num] for name, clips in found.items()}


def make_tasks(folders: Sequence[Path], says: bool, num: int | None, root: Path) -> list[dict[str, Any]]:
    """Return the rows of folders.

    Args:
        folders, num: As of [`choose_clips`].
        says (`bool`): Texts to be said, in place of clips to be written down.
        root (`Path`): The folder that paths are to be relative to.
    """
    rows = []
    for name, clips in choose_clips(folders, num).items():
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
        require_place(arguments.out, "OUT", "file")
        rows = make_tasks(arguments.folders, arguments.say, arguments.num, root)
        root.mkdir(parents=True, exist_ok=True)
        write_file(arguments.out, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
        print(f"{arguments.out}: {len(rows)} rows")

    run(write)


if __name__ == "__main__":
    main()
