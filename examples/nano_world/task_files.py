"""Test of the nano model, as files for `josie evaluate`, which scores each kind apart.

Scenes, stamps, sentences, wordings, photographs, drawings and the voices of `UNKNOWN` are of the test split: no
training row has them. Where speech is changed, it is that of the first rows of `answer`, by one seed.

| task | asked | kinds |
| --- | --- | --- |
| `look` | an image and a written question | colour, shape, size, count, where, what, yes_no, there, absent |
| `look_wordings` | the same, in wordings that training never has | the same, without absent |
| `answer` | an image and a question spoken by a known voice | as `look` |
| `answer_wordings` | the same, in wordings that training never has | as `look_wordings` |
| `answer_changed` | those of `answer` | noise20, noise10 (dB), quiet (-20 dB), telephone, slow (.9), fast (1.1) |
| `answer_unknown` | an image and a question spoken by an unknown voice | the voices |
| `say` | an image and a spoken question; scored as it is heard | as `look` |
| `unknown` | what has no answer here | photo, drawing, texture, static, silence, noise, music, written, asked |
| `caption`, `stamp` | an image | things: 1, 2; none |
| `chat` | small talk | written, spoken |
| `transcribe` | a spoken sentence | known, unknown voices |
| `people` | people | prompts (a known person), books (strangers) |
| `read` | a text to read aloud | plain (1,500 words), open (any words, names, digits) |
"""

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soxr
from recipes.word_times import time_text

from josie.processing_josie import save_audio
from nano_world.grammar import Question, ask, caption, observe
from nano_world.hearing import load_people, load_strangers
from nano_world.open_text import KINDS as OPEN_KINDS, open_texts
from nano_world.scenes import Scene, draw_scene, render
from nano_world.sentences import sentences
from nano_world.small_talk import chats
from nano_world.speech import JOSIE_STRETCH, JOSIE_VOICE, read, speak_in_time
from nano_world.stamps import ask as ask_about_stamp, draw_stamp, find_stamps, render as render_stamp
from nano_world.unknown import (
    CLIPS,
    IMAGES,
    QUESTIONS_ABOUT_IMAGES,
    draw_clip,
    draw_image,
    unknown_questions,
)
from nano_world.voices import QUESTIONERS, SAMPLING_RATE, UNKNOWN as UNKNOWN_VOICES, Voice
from nano_world.wordings import DESCRIBE, KINDS, UNKNOWN, UNSEEN, WRITE_DOWN

IMAGE_SIZE = 256
TELEPHONE_BAND = (300, 3400)  # Hz


@dataclass(frozen=True)
class Asked:
    """A question about a scene.

    Args:
        scene ([`Scene`]): What is shown.
        question ([`Question`]): What is asked.
    """

    scene: Scene
    question: Question


def add_noise(waveform: np.ndarray, decibels: float, rng: np.random.Generator) -> np.ndarray:
    """Return speech with white noise.

    Args:
        waveform (`np.ndarray`): `(num_samples,)`.
        decibels (`float`): How far the noise is below the speech.
        rng (`np.random.Generator`): Draws it.
    """
    level = np.sqrt(np.square(waveform).mean()) * 10 ** (-decibels / 20)
    return waveform + level * rng.standard_normal(len(waveform)).astype(np.float32)


def through_telephone(waveform: np.ndarray) -> np.ndarray:
    """Return speech in the band of a telephone, 300 to 3,400 Hz, at the rate it had."""
    spectrum = np.fft.rfft(waveform)
    frequencies = np.fft.rfftfreq(len(waveform), 1 / SAMPLING_RATE)
    lowest, highest = TELEPHONE_BAND
    spectrum[(frequencies < lowest) | (frequencies > highest)] = 0
    return np.fft.irfft(spectrum, len(waveform)).astype(np.float32)


def change(waveform: np.ndarray, kind: str, rng: np.random.Generator) -> np.ndarray:
    """Return speech changed as `answer_changed` has it.

    Args:
        waveform (`np.ndarray`): `(num_samples,)`, at 16 kHz.
        kind (`str`): The change: `"noise20"`.
        rng (`np.random.Generator`): Draws noise.

    Raises:
        `ValueError`: There is no such change.
    """
    changes = {
        "noise20": lambda: add_noise(waveform, 20, rng),
        "noise10": lambda: add_noise(waveform, 10, rng),
        "quiet": lambda: 0.1 * waveform,
        "telephone": lambda: through_telephone(waveform),
        "slow": lambda: soxr.resample(waveform, SAMPLING_RATE, SAMPLING_RATE / 0.9),
        "fast": lambda: soxr.resample(waveform, SAMPLING_RATE, SAMPLING_RATE / 1.1),
    }
    if kind not in changes:
        raise ValueError(f"`kind` must be one of {list(changes)}, got {kind!r}.")
    return changes[kind]()


CHANGES = ("noise20", "noise10", "quiet", "telephone", "slow", "fast")


class TaskFiles:
    """Rows and the files they name.

    Args:
        folder (`Path`): Where they are written.
        packages (`Path`): Folder of unpacked Debian packages.
        recordings (`Path`): Folder that keeps clips of people.
        num_rows (`int`): Of each kind; fewer where there are no more.
        seed (`int`): Of what is drawn.
    """

    def __init__(self, folder: Path, packages: Path, recordings: Path, num_rows: int, seed: int):
        self.folder, self.packages, self.recordings, self.num_rows = folder, packages, recordings, num_rows
        self.draw, self.seed = random.Random(f"test:{seed}"), seed
        self.rows: list[dict[str, Any]] = []
        folder.mkdir(parents=True, exist_ok=True)

    def write(self) -> None:
        """Add the rows of all tasks, and write them."""
        self._add_scenes()
        self._add_unknown()
        self._add_images()
        self._add_speech()
        lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in self.rows)
        (self.folder / "tasks.jsonl").write_text("".join(lines), encoding="utf-8")

    def add(self, task: str, kind: str | None, answer: str, scores: list[str], content: list[dict[str, str]]) -> None:
        """Add a row.

        Args:
            task (`str`): Its task.
            kind (`str`, *optional*): Its kind within the task.
            answer (`str`): The right answer.
            scores (`list[str]`): By what answers are scored.
            content (`list[dict]`): Parts of the question.
        """
        messages = [{"role": "user", "content": content}]
        row = {"task": task, "messages": messages, "answer": answer, "scores": scores}
        self.rows.append(row if kind is None else row | {"kind": kind})

    def show(self, image: Any) -> dict[str, str]:
        """Save an image and return it as a part of a message."""
        path = f"{len(self.rows)}.png"
        image.save(self.folder / path)
        return {"type": "image", "path": path}

    def play(self, waveform: np.ndarray) -> dict[str, str]:
        """Save speech or another clip, and return it as a part of a message."""
        path = f"{len(self.rows)}.flac"
        save_audio(self.folder / path, waveform, SAMPLING_RATE)
        return {"type": "audio", "path": path}

    def _draw_asked(self, kind: str, unseen: bool = False) -> Asked:
        """Return a question of a kind, and a scene of the test split that it can be asked about."""
        while True:
            scene = draw_scene(self.draw, "test")
            if any(observe(scene, kind)):  # where a scene has one thing, nothing is left of it
                question = ask(scene, self.draw, kind, unseen)
                if question.kind == kind:
                    return Asked(scene, question)

    def _draw_all(self, kinds: tuple[str, ...], unseen: bool = False) -> Iterator[Asked]:
        """Yield questions of all kinds in turn, so many of each."""
        for _ in range(self.num_rows):
            for kind in kinds:
                yield self._draw_asked(kind, unseen)

    def _add_scenes(self) -> None:
        clean: list[tuple[Asked, np.ndarray]] = []
        for task, kinds, unseen in (("look", KINDS, False), ("look_wordings", tuple(UNSEEN), True)):
            for one in self._draw_all(kinds, unseen):
                content = [self.show(render(one.scene, IMAGE_SIZE)), {"type": "text", "text": one.question.text}]
                self.add(task, one.question.kind, one.question.answer, ["exact"], content)
        for number, one in enumerate(self._draw_all(KINDS)):
            said = QUESTIONERS[number % len(QUESTIONERS)].say(one.question.text)
            clean.append((one, said))
            self._add_heard("answer", one.question.kind, one, said)
        for number, one in enumerate(self._draw_all(tuple(UNSEEN), unseen=True)):
            said = QUESTIONERS[number % len(QUESTIONERS)].say(one.question.text)
            self._add_heard("answer_wordings", one.question.kind, one, said)
        for kind in CHANGES:
            rng = np.random.default_rng(self.seed)
            for one, said in clean[: self.num_rows]:
                self._add_heard("answer_changed", kind, one, change(said, kind, rng))
        for voice in UNKNOWN_VOICES:
            for number in range(self.num_rows):
                one = self._draw_asked(KINDS[number % len(KINDS)])
                self._add_heard("answer_unknown", voice.key, one, voice.say(one.question.text))
        for number in range(2 * self.num_rows):
            one = self._draw_asked(KINDS[number % len(KINDS)])
            said = QUESTIONERS[number % len(QUESTIONERS)].say(one.question.text)
            self._add_heard("say", None, one, said, ["exact", "spoken"])

    def _add_heard(
        self, task: str, kind: str | None, one: Asked, said: np.ndarray, scores: list[str] | None = None
    ) -> None:
        content = [self.show(render(one.scene, IMAGE_SIZE)), self.play(said)]
        self.add(task, kind, one.question.answer, scores or ["exact"], content)

    def _add_unknown(self) -> None:
        strange = unknown_questions(self.packages, "test", 2 * self.num_rows)
        for number in range(self.num_rows):
            voice = QUESTIONERS[number % len(QUESTIONERS)]
            for kind in IMAGES:
                text = self.draw.choice((*QUESTIONS_ABOUT_IMAGES, self._draw_asked("colour").question.text))
                shown = self.show(draw_image(self.draw, kind, "test", self.packages, IMAGE_SIZE))
                asked = self.play(voice.say(text)) if self.draw.random() < 0.5 else {"type": "text", "text": text}
                self.add("unknown", kind, UNKNOWN, ["exact"], [shown, asked])
            for kind in CLIPS:
                self.add("unknown", kind, UNKNOWN, ["exact"], [self.play(draw_clip(self.draw, kind))])
            self.add("unknown", "written", UNKNOWN, ["exact"], [{"type": "text", "text": strange[number]}])
            self.add("unknown", "asked", UNKNOWN, ["exact"], [self.play(voice.say(strange[-1 - number]))])

    def _add_images(self) -> None:
        stamps = find_stamps(self.packages)
        for number in range(2 * self.num_rows):
            count = 1 + number % 2
            scene = draw_scene(self.draw, "test", count)
            content = [self.show(render(scene, IMAGE_SIZE)), {"type": "text", "text": DESCRIBE[0]}]
            self.add("caption", f"things{count}", caption(scene), ["exact"], content)
        for _ in range(self.num_rows):
            stamp = draw_stamp(self.draw, "test")
            question = ask_about_stamp(stamp, self.draw)
            image = self.show(render_stamp(stamp, stamps, IMAGE_SIZE))
            self.add("stamp", None, question.answer, ["exact"], [image, {"type": "text", "text": question.text}])
        for kind in ("written", "spoken"):
            for number, (said, answer) in enumerate(self.draw.sample(chats(), self.num_rows)):
                voice = QUESTIONERS[number % len(QUESTIONERS)]
                part = {"type": "text", "text": said} if kind == "written" else self.play(voice.say(said))
                self.add("chat", kind, answer, ["exact"], [part])

    def _add_speech(self) -> None:
        unseen = sentences(self.packages, "test")
        voices: dict[str, tuple[Voice, ...]] = {"known": QUESTIONERS, "unknown": UNKNOWN_VOICES}
        for place, (kind, known) in enumerate(voices.items()):
            for number in range(self.num_rows):
                text = unseen[-1 - number - place * self.num_rows]
                self._add_transcript("transcribe", kind, text, known[number % len(known)].say(text))
        people = list(load_people(self.packages, self.recordings, "test"))
        for row in people[: max(self.num_rows, 40)]:
            self._add_transcript("people", "prompts", row["text"], read(row["flac"]))
        for text, waveform in load_strangers(self.packages):
            self._add_transcript("people", "books", text, waveform)
        texts = {"plain": list(unseen[: self.num_rows])}
        parts = [open_texts(self.packages, "test", kind) for kind in OPEN_KINDS]
        texts["open"] = [parts[number % len(parts)][number // len(parts)] for number in range(2 * self.num_rows)]
        for kind, chosen in texts.items():
            for text in chosen:
                _, phones, ends = speak_in_time(text, JOSIE_VOICE, JOSIE_STRETCH)
                row = {"task": "read", "kind": kind, "speak": True, "answer": text, "scores": ["spoken_wer"]}
                self.rows.append(row | {"word_times": time_text(text, phones, ends)})

    def _add_transcript(self, task: str, kind: str, text: str, waveform: np.ndarray) -> None:
        self.add(task, kind, text, ["wer"], [self.play(waveform), {"type": "text", "text": WRITE_DOWN[0]}])
