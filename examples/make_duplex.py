"""Conversations in full duplex about drawn scenes: `python examples/make_duplex.py runs/duplex-data`.

Writes `train.jsonl`, `validation.jsonl` and `test.jsonl` with the user's tracks and images beside them, in equal parts
of five situations (`nano_world/duplex.py`). Voices, scenes and times of the test are in no row of training, nor are
half of its wordings. The rows train `train_duplex.py` and are scored by `josie evaluate --duplex`.
`validation-turns.jsonl` and `test-turns.jsonl` have the same questions for `josie evaluate`, one by one, to tell what
full duplex costs. `sessions.jsonl` has longer ones of the test, with six questions, and `sessions-turns.jsonl` these
one by one. The voices are those of nano's world: flite, festival and espeak-ng have to be installed. Of 0 rows no file
is written; a folder that has some of these files may get the others later.
"""

import argparse
import json
import os
import random
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

import numpy as np
from nano_world.duplex import SITUATIONS, VOICES, Say, draw_conversation
from nano_world.scenes import render
from nano_world.sentences import Split
from nano_world.speech import JOSIE_STRETCH, JOSIE_VOICE, speak
from nano_world.voices import SAMPLING_RATE
from recipes.configuration import run
from recipes.places import require_place

from josie import load_audio, save_audio
from josie.training.conversations import read_json_lines

# Of each file of rows, whose conversations, and which.
FILES: dict[str, tuple[Split, Sequence[str]]] = {
    **{split: (split, SITUATIONS) for split in ("train", "validation", "test")},
    "sessions": ("test", ["session"]),
}
_BY_KEY = {voice.key: voice for voices in VOICES.values() for voice in voices}


@lru_cache(maxsize=4096)
def say(text: str, voice: str | None) -> np.ndarray:
    """Return what a voice says, JOSIE's own for `None`."""
    return speak(text, JOSIE_VOICE, JOSIE_STRETCH) if voice is None else _BY_KEY[voice].say(text)


def write_rows(
    folder: Path,
    split: Split,
    number: int,
    seed: int,
    say: Say = say,
    name: str | None = None,
    situations: Sequence[str] = SITUATIONS,
) -> Path:
    """Write conversations, of each situation in turn, and return the file of rows.

    Args:
        folder (`Path`): Where to.
        split (`"train"`, `"validation"` or `"test"`): Of voices, wordings, scenes and times.
        number (`int`): Of rows.
        seed (`int`): Of all of them.
        say (`Callable`): Speaks.
        name (`str`, *optional*): Of the file and the folder beside it; the split if not given.
        situations (`Sequence[str]`): Which.
    """
    name = name or split
    media = folder / name
    media.mkdir(parents=True, exist_ok=True)
    rows = []
    for index in range(number):
        draw = random.Random(f"{seed} {name} {index}")
        talk, scene = draw_conversation(draw, split, situations[index % len(situations)], say)
        save_audio(media / f"{index:05}.wav", talk.track, SAMPLING_RATE)
        render(scene).save(media / f"{index:05}.png")
        paths = {"audio": f"{name}/{index:05}.wav", "images": [f"{name}/{index:05}.png"]}
        rows.append(json.dumps(talk.row | {"scene": scene.to_dict()} | paths) + "\n")
    file = folder / f"{name}.jsonl"
    file.write_text("".join(rows), encoding="utf-8")
    return file


def write_turns(file: Path) -> Path:
    """Write the questions of a file of rows for a model that takes turns, and return the file.

    Args:
        file (`Path`): As [`write_rows`] returns it.
    """
    found = []
    for _, row in read_json_lines(file):
        track = load_audio(file.parent / row["audio"], SAMPLING_RATE)
        spans = {row["situation"]: (0.0, row["question_end"])}
        if row["situation"] == "interruption":
            spans["second"] = tuple(row["event"])
        spans |= {f"later{number}": (begin, end) for number, (begin, end) in enumerate(row.get("later", ()), start=1)}
        for (kind, (begin, end)), answer in zip(spans.items(), row["answers"], strict=True):
            path = f"{row['audio'].removesuffix('.wav')}-{kind}.flac"
            save_audio(
                file.parent / path, track[round(begin * SAMPLING_RATE) : round(end * SAMPLING_RATE)], SAMPLING_RATE
            )
            parts = [{"type": "image", "path": row["images"][0]}, {"type": "audio", "path": path}]
            messages = [{"role": "user", "content": parts}]
            values = {"task": "turns", "kind": kind, "messages": messages, "answer": answer, "scores": ["exact"]}
            found.append(json.dumps(values) + "\n")
    turns = file.with_name(f"{file.stem}-turns.jsonl")
    turns.write_text("".join(found), encoding="utf-8")
    return turns


def write_files(folder: Path, numbers: dict[str, int], seed: int, say: Say = say) -> list[list[Path]]:
    """Write files of rows, and beside all but those to train with the same one by one; all of them or none.

    Args:
        folder (`Path`): Where to; it may have other files of [`FILES`].
        numbers (`dict[str, int]`): Of rows, by the name of the file; 0 for no file.
        seed (`int`): Of all of them.
        say (`Callable`): Speaks.

    Returns:
        The files of each name.

    Raises:
        `ValueError`: A number is below 0, all are 0, or something is there under one of the names.
    """
    for name, number in numbers.items():
        if number < 0:
            raise ValueError(f"`--{name}` must be at least 0, got {number}.")
    wanted = [name for name, number in numbers.items() if number]
    if not wanted:
        raise ValueError(f"One of {[f'--{name}' for name in numbers]} must be above 0, got 0 for all.")
    require_place(folder, "folder")
    for path in (folder / f"{name}{ending}" for name in wanted for ending in ("", ".jsonl", "-turns.jsonl")):
        if path.exists():
            raise ValueError(f"`folder` must not have {path.name!r} yet, got {str(folder)!r}, which has.")
    is_new, files = not folder.exists(), []
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with tempfile.TemporaryDirectory(prefix=".unfinished.", dir=folder) as scratch:
            for name in wanted:
                split, situations = FILES[name]
                file = write_rows(Path(scratch), split, numbers[name], seed, say, name, situations)
                files.append([file] if name == "train" else [file, write_turns(file)])
            for name, made in zip(wanted, files, strict=True):
                for path in (Path(scratch, name), *made):
                    os.replace(path, folder / path.name)
    except BaseException:
        if is_new:
            with suppress(OSError):
                folder.rmdir()
        raise
    return [[folder / path.name for path in made] for made in files]


def main(argv: list[str] | None = None) -> None:
    """Do what the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where to")
    parser.add_argument("--train", type=int, default=500, help="rows to train with")
    parser.add_argument("--validation", type=int, default=50, help="rows to choose with")
    parser.add_argument("--test", type=int, default=50, help="rows to test with")
    parser.add_argument("--sessions", type=int, default=0, help="longer rows to test with")
    parser.add_argument("--seed", type=int, default=0, help="of everything that is drawn")
    arguments = parser.parse_args(argv)
    numbers = {name: getattr(arguments, name) for name in FILES}
    run(lambda: [print(", ".join(map(str, files))) for files in write_files(arguments.folder, numbers, arguments.seed)])


if __name__ == "__main__":
    main()
