"""Make a small data set of conversations in the format of the recipes: `python examples/make_conversations.py`.

It writes into `runs/data/conversations`, or the folder that is named:

* `conversations.jsonl`, a row a line: `{"messages": [{"role": "user", "content": [PART, ...]}, {"role": "assistant",
  "content": [PART, ...]}]}`, with parts such as `{"type": "image", "path": "images/0003.png"}`, `{"type": "audio",
  "path": "audio/star.flac", "text": "What colour is the star?"}` and `{"type": "text", "text": "It looks red."}`
* `images`, drawn scenes of one to three shapes; `audio`, recorded questions; `speech`, each answer said aloud by nano

An audio part of the user is heard; its `text`, the transcript, is for CTC alone. An audio part of the assistant is how
its text is spoken. Paths are relative to the file. Everything is drawn from the seed and needs no network.
"""

import argparse
import json
import random
import shutil
from pathlib import Path
from typing import Any

from nano_world.grammar import Question, ask, questions
from nano_world.recorded import find_recording, list_recordings
from nano_world.scenes import Scene, draw_scene, render
from recipes.places import require_place
from recipes.progress import progress
from transformers import AutoModelForMultimodalLM, AutoProcessor, logging

import josie
from josie.conversion.files import new_folder

IMAGE_SIZE = 128
SPOKEN_SHARE = 0.3  # of the questions
ANSWERS_AT_ONCE = 16


def draw_row(draw: random.Random, recorded: dict[str, str]) -> tuple[Scene, Question, str | None]:
    """Return a scene, a question about it, and the recording of the question, if it is spoken.

    Args:
        draw (`random.Random`): The source of chance.
        recorded (`dict[str, str]`): The recordings by their text.
    """
    while True:
        scene = draw_scene(draw, "train")
        if draw.random() >= SPOKEN_SHARE:
            return scene, ask(scene, draw), None
        fitting = [question for question in questions(scene) if question.text in recorded]
        if fitting:
            question = draw.choice(fitting)
            return scene, question, recorded[question.text]


def speak_answers(texts: list[str], folder: Path) -> dict[str, str]:
    """Write each text, said aloud by nano, into a folder, and return its file by the text."""
    model, processor = (cls.from_pretrained(josie.nano_path()) for cls in (AutoModelForMultimodalLM, AutoProcessor))
    files = {text: f"{index:04d}.wav" for index, text in enumerate(texts)}
    batches = [texts[start : start + ANSWERS_AT_ONCE] for start in range(0, len(texts), ANSWERS_AT_ONCE)]
    for batch in progress(batches, "Answers said aloud", unit="batches"):
        inputs = processor.tokenizer(batch, padding=True, return_tensors="pt")
        said = model.generate_speech(**inputs)
        for text, values, length in zip(batch, said.audio_values, said.audio_lengths, strict=True):
            processor.save_audio(values[:, :length], folder / files[text])
    return files


def write_conversations(folder: Path, num_rows: int, seed: int) -> None:
    """Write the data set into an empty folder.

    Args:
        folder (`Path`): The folder.
        num_rows (`int`): Conversations.
        seed (`int`): Of what is drawn.
    """
    for name in ("images", "audio", "speech"):
        (folder / name).mkdir()
    listed = list_recordings()
    recorded = {entry["text"]: file for file, entry in listed.items()}
    for file in listed:
        shutil.copyfile(find_recording(file), folder / "audio" / file)
    draw = random.Random(seed)
    drawn = [draw_row(draw, recorded) for _ in range(num_rows)]
    files = speak_answers(sorted({question.answer for _, question, _ in drawn}), folder / "speech")
    rows = []
    for index, (scene, question, recording) in enumerate(progress(drawn, "Scenes drawn", unit="rows")):
        render(scene, IMAGE_SIZE).save(folder / "images" / f"{index:04d}.png")
        asked: dict[str, Any] = {"type": "text", "text": question.text}
        if recording is not None:
            asked = {"type": "audio", "path": f"audio/{recording}", "text": question.text}
        user = [{"type": "image", "path": f"images/{index:04d}.png"}, asked]
        answer = [{"type": "text", "text": question.answer}]
        answer.append({"type": "audio", "path": f"speech/{files[question.answer]}"})
        rows.append({"messages": [{"role": "user", "content": user}, {"role": "assistant", "content": answer}]})
    (folder / "conversations.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def main(argv: list[str] | None = None) -> None:
    """Make the data set."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", default=Path("runs/data/conversations"))
    parser.add_argument("--num-rows", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args(argv)
    if arguments.num_rows < 1:
        parser.error(f"`--num-rows` must be at least 1, got {arguments.num_rows}.")
    logging.disable_progress_bar()
    try:
        require_place(arguments.folder, "FOLDER")
        with new_folder(arguments.folder, "FOLDER") as folder:
            write_conversations(folder, arguments.num_rows, arguments.seed)
    except ValueError as error:
        raise SystemExit(f"error: {error}") from error
    print(f"{arguments.folder / 'conversations.jsonl'}: {arguments.num_rows} rows")


if __name__ == "__main__":
    main()
