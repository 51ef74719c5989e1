"""Conversations in full duplex about drawn scenes: `python examples/make_duplex.py runs/duplex-data`.

Writes `train.jsonl`, `validation.jsonl` and `test.jsonl` with the user's tracks and images beside them, in equal parts
of five situations (`nano_world/duplex.py`). Voices, scenes and times of the test are in no row of training, nor are
half of its wordings. The rows train `train_duplex.py` and are scored by `josie evaluate --duplex`.
`validation-turns.jsonl` and `test-turns.jsonl` have the same questions for `josie evaluate`, one by one, to tell what
full duplex costs. `sessions.jsonl` has longer ones of the test, with six questions, and `sessions-turns.jsonl` these
one by one. The voices are those of nano's world: flite, festival and espeak-ng have to be installed.
"""

import argparse
import json
import random
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
from nano_world.duplex import SITUATIONS, VOICES, Say, draw_conversation
from nano_world.scenes import render
from nano_world.sentences import Split
from nano_world.speech import JOSIE_STRETCH, JOSIE_VOICE, speak
from nano_world.voices import SAMPLING_RATE

from josie import load_audio, save_audio
from josie.training.conversations import read_json_lines

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
    splits: tuple[Split, ...] = ("train", "validation", "test")
    for split in splits:
        file = write_rows(arguments.folder, split, getattr(arguments, split), arguments.seed)
        print(file if split == "train" else f"{file}, {write_turns(file)}")
    if arguments.sessions:
        options = {"name": "sessions", "situations": ["session"]}
        file = write_rows(arguments.folder, "test", arguments.sessions, arguments.seed, **options)
        print(f"{file}, {write_turns(file)}")


if __name__ == "__main__":
    main()
