"""Test of the nano model, as files for `josie evaluate`.

Scenes, stamps and sentences are of the test split: no
training row has their combinations or their words. Questions are spoken by the four voices in turn, and are made for
the scenes at hand, so that some of them were never heard in training.

| task | asked | right |
| --- | --- | --- |
| `read` | a sentence to read aloud | what is heard |
| `transcribe` | a spoken sentence | its words |
| `answer` | an image and a spoken question | the answer, written and as it is heard |
| `caption` | an image | what is on it |
| `look` | an image and a written question | the answer |
| `stamp` | an image of a Tux Paint stamp and a written question | the answer |
| `chat` | small talk, spoken | the answer |
"""

import json
import random
from pathlib import Path
from typing import Any

from recipes.word_times import time_text

from josie.processing_josie import save_audio
from nano_world.grammar import ask, caption, chats
from nano_world.scenes import draw_scene, render
from nano_world.sentences import sentences
from nano_world.speech import JOSIE_STRETCH, JOSIE_VOICE, QUESTIONERS, SAMPLING_RATE, speak, speak_in_time
from nano_world.stamps import ask as ask_about_stamp, draw_stamp, find_stamps, render as render_stamp
from nano_world.tasks import CAPTION, TRANSCRIBE

IMAGE_SIZE = 256


class TaskFiles:
    """Rows and the files they name.

    Args:
        folder (`Path`): Where they are written.
        packages (`Path`): Folder of unpacked Debian packages.
        num_rows (`int`): Of each task.
        seed (`int`): Of what is drawn.
    """

    def __init__(self, folder: Path, packages: Path, num_rows: int, seed: int):
        self.folder, self.packages, self.num_rows = folder, packages, num_rows
        self.draw = random.Random(f"test:{seed}")
        self.rows: list[dict[str, Any]] = []
        folder.mkdir(parents=True, exist_ok=True)

    def add(self, task: str, answer: str, scores: list[str], content: list[dict[str, str]]) -> None:
        """Add a row that is asked with `content`."""
        messages = [{"role": "user", "content": content}]
        self.rows.append({"task": task, "messages": messages, "answer": answer, "scores": scores})

    def show(self, name: str, image: Any) -> dict[str, str]:
        """Save an image and return it as a part of a message."""
        image.save(self.folder / f"{name}.png")
        return {"type": "image", "path": f"{name}.png"}

    def say(self, name: str, number: int, text: str) -> dict[str, str]:
        """Save a spoken text and return it as a part of a message."""
        save_audio(self.folder / f"{name}.flac", speak(text, QUESTIONERS[number % len(QUESTIONERS)]), SAMPLING_RATE)
        return {"type": "audio", "path": f"{name}.flac"}

    def write(self) -> None:
        """Add the rows of all tasks, and write them."""
        unseen = sentences(self.packages, "test")
        stamps = find_stamps(self.packages)
        for text in unseen[: self.num_rows]:
            _, phones, ends = speak_in_time(text, JOSIE_VOICE, JOSIE_STRETCH)
            row = {"task": "read", "speak": True, "answer": text, "scores": ["spoken_wer"]}
            self.rows.append(row | {"word_times": time_text(text, phones, ends)})
        for number in range(self.num_rows):
            text = unseen[-1 - number]
            audio = self.say(f"transcribe-{number}", number, text)
            self.add("transcribe", text, ["wer"], [audio, {"type": "text", "text": TRANSCRIBE}])
        for number in range(self.num_rows):
            scene = draw_scene(self.draw, "test")
            question = ask(scene, self.draw)
            content = [self.show(f"answer-{number}", render(scene, IMAGE_SIZE))]
            content.append(self.say(f"answer-{number}", number, question.text))
            self.add("answer", question.answer, ["exact", "spoken"], content)
        for number in range(self.num_rows):
            scene = draw_scene(self.draw, "test", self.draw.choice((1, 2, 2)))
            content = [self.show(f"caption-{number}", render(scene, IMAGE_SIZE)), {"type": "text", "text": CAPTION}]
            self.add("caption", caption(scene), ["exact"], content)
        for number in range(self.num_rows):
            scene = draw_scene(self.draw, "test")
            question = ask(scene, self.draw)
            content = [
                self.show(f"look-{number}", render(scene, IMAGE_SIZE)),
                {"type": "text", "text": question.text},
            ]
            self.add("look", question.answer, ["exact"], content)
        for number in range(self.num_rows):
            stamp = draw_stamp(self.draw, "test")
            question = ask_about_stamp(stamp, self.draw)
            image = self.show(f"stamp-{number}", render_stamp(stamp, stamps, IMAGE_SIZE))
            self.add("stamp", question.answer, ["exact"], [image, {"type": "text", "text": question.text}])
        for number, (said, answer) in enumerate(self.draw.sample(chats(), self.num_rows)):
            self.add("chat", answer, ["exact"], [self.say(f"chat-{number}", number, said)])
        lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in self.rows)
        (self.folder / "tasks.jsonl").write_text("".join(lines), encoding="utf-8")
