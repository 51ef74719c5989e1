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


def make_tasks(folder: Path, says: bool, num: int | None, root: Path) -> list[dict[str, Any]]:
    """Return the rows of a folder.

    Args:
        folder (`Path`): With `test.jsonl`.
        says (`bool`): Texts to be said, in place of clips to be written down.
        num (`int`, *optional*): Most rows of a source; all when `None`.
        root (`Path`): The folder that paths are to be relative to.

    Raises:
        `ValueError`: There is no such folder.
    """
    manifest = folder / "test.jsonl"
    if not manifest.is_file():
        raise ValueError(f"`FOLDER` must be one that `fetch_data.py speech` has filled, got {str(folder)!r}.")
    found: dict[str, list[dict[str, Any]]] = {}
    for clip in read_manifest(manifest):
        if clip["text"]:
            found.setdefault(clip["source"], []).append(clip)
    rows = []
    for source, clips in found.items():
        random.Random(0).shuffle(clips)
        for clip in clips[:num]:
            name = f"{folder.name}-{source}-{'say' if says else 'transcribe'}"
            row: dict[str, Any] = {"task": name, "answer": clip["text"]}
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
        if arguments.num is not None and arguments.num < 1:
            raise ValueError(f"`--num` must be at least 1, got {arguments.num}.")
        root = arguments.out.parent
        root.mkdir(parents=True, exist_ok=True)
        rows = [row for folder in arguments.folders for row in make_tasks(folder, arguments.say, arguments.num, root)]
        write_file(arguments.out, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
        print(f"{arguments.out}: {len(rows)} rows")

    run(write)


if __name__ == "__main__":
    main()
