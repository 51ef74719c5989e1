"""Training rows of full duplex in nano's world: what is said, seen, answered and forgotten in them."""

import pickle
import random
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from nano_world import duplex_rows, tasks
from nano_world.duplex import NODS, halves
from nano_world.grammar import ask_pair, observe
from nano_world.scenes import draw_scene
from nano_world.small_talk import chats
from nano_world.voices import TRAINING
from nano_world.wordings import KINDS, UNKNOWN

RATE = 16000


class Said:
    """Recordings of some texts, as tones as long as they are."""

    def __init__(self, texts, level):
        self.texts, self.level = list(texts), level

    def __contains__(self, text):
        return text in self.texts or (self.level == 0.25 and not text.startswith("Can"))

    def play(self, text, draw):
        return {"audio": np.full(len(text) * 800, self.level, np.float32), "text": text}


class Heard:
    """A made-up `HeardSpeech`; nobody has said questions that begin with "Can"."""

    def __init__(self, *args):
        self.voices, self.answers = TRAINING[:3], Said([], 0.5)
        self.unknown = Said(["Who is Ada?", "What is an anvil?"], 0.0)
        self.chats = self.answers

    def pairs_of(self, voice, name):
        draw = random.Random(f"{voice}:{name}")
        pairs = [(scene, ask_pair(scene, draw)) for scene in (draw_scene(draw, "train") for _ in range(80))]
        return [pair for pair in pairs if not any(one.text.startswith("Can") for one in pair[1])]

    def of_voice(self, voice):
        return Said([*self.unknown.texts, *NODS["train"]], 0.25)


@pytest.fixture(scope="module")
def rows():
    """200 rows, and the scenes that they show."""
    heard = Heard()
    return [duplex_rows.draw_row(random.Random(seed), "train", heard, 2, 32) for seed in range(200)]


@pytest.mark.slow
def test_rows_fit_into_the_context_and_have_what_training_reads(rows):
    for row in rows:
        assert set(row) <= {"turns", "audio", "seconds", "text", "images", "messages", "forget_until", "past"}
        assert row["seconds"] <= duplex_rows.MOST_SECONDS
        assert len(row["audio"]["array"]) == pytest.approx(row["seconds"] * RATE, abs=1)
        assert row["audio"]["array"].dtype == np.float32
        assert np.abs(row["audio"]["array"]).max() <= 1
        assert not ("images" in row and "messages" in row)
        assert "Can" not in row["text"]


def test_everything_happens(rows):
    seen = Counter()
    known = {answer for _, answer in chats()}
    for row in rows:
        answers = [turn["text"] for turn in row["turns"]]
        seen["silence"] += not answers
        seen["several"] += len(answers) > 1 and "cut_at" not in row["turns"][0]
        seen["cut"] += any("cut_at" in turn for turn in row["turns"])
        seen["unknown"] += UNKNOWN in answers
        seen["chat"] += bool(known & set(answers) - {UNKNOWN})
        seen["late"] += "messages" in row
        seen["imageless"] += "messages" not in row and "images" not in row
        seen["forgets"] += "forget_until" in row
        seen["past"] += "past" in row
    expected = {"silence", "several", "cut", "unknown", "chat", "late", "imageless", "forgets", "past"}
    assert {name for name, count in seen.items() if count >= 3} == expected


def test_nothing_is_forgotten_before_it_is_answered(rows):
    for row in rows:
        if "forget_until" in row:
            assert row["turns"][0]["begin"] <= row["forget_until"] < row["turns"][-1]["begin"]


def test_late_images_come_before_the_question(rows):
    for row in rows:
        for message in row.get("messages", ()):
            begin = message["content"][0]["begin"]
            heard = np.abs(row["audio"]["array"][: round(begin * RATE)])
            assert not (heard > 0.2).any()


@pytest.mark.slow
def test_answers_are_right(monkeypatch):
    shown = []
    monkeypatch.setattr(duplex_rows, "render", lambda scene, size: shown.append(scene) or scene)
    for seed in range(60):
        row = duplex_rows.draw_row(random.Random(seed), "train", Heard(), 2, 32)
        if not row["turns"] or not shown:
            continue
        scene = shown.pop()
        answers = {seen.answer for kind in KINDS for seen in observe(scene, kind)}
        answers |= {answer for _, answer in chats()} | {UNKNOWN}
        assert {turn["text"] for turn in row["turns"]} <= answers


def test_the_task_is_drawn_from_its_number(monkeypatch):
    monkeypatch.setattr(tasks, "HeardSpeech", Heard)
    given = {"packages": Path("none"), "recordings": Path("none"), "num_rows": 20}
    made = tasks.NanoTasks({"duplex": 1.0}, **given)
    again = pickle.loads(pickle.dumps(tasks.NanoTasks({"duplex": 1.0}, **given)))
    assert [row["task"] for row in made] == ["duplex"] * 20
    for index in (7, 3):
        assert made[index]["turns"] == again[index]["turns"]
        assert np.array_equal(made[index]["audio"]["array"], again[index]["audio"]["array"])
    mixed = tasks.NanoTasks({"duplex": 1.0, "chat": 1.0}, **given | {"num_rows": 64}, batch_size=8)
    kinds = [{mixed[index]["task"] for index in range(start, start + 8)} for start in range(0, 64, 8)]
    assert sum(len(found) == 1 for found in kinds) >= 6  # what is long is in batches of its own


def test_halves_are_the_whole():
    for text in ("What is red?", "Where is the star?", "Yes."):
        assert " ".join(halves(text)).strip() == text
