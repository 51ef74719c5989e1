"""Training rows of full duplex, of what was recorded: one to three questions, in the situations of `duplex.py`.

Beside these there are: several questions one after the other; small talk, and questions of another world; an image that
is shown in the middle; nothing but noise; the model's own echo in any situation; voices that are slower or faster; and
conversations whose beginning is remembered as text alone, as after a session has lasted some time.
"""

import random
from typing import Any

import numpy as np
from PIL.Image import Image

from josie.training.audio_effects import change_speed
from nano_world.duplex import Say, draw_noise, hold, place_of
from nano_world.grammar import Question, ask_pair
from nano_world.hearing import HeardSpeech
from nano_world.scenes import Scene, draw_scene, render, vary
from nano_world.sentences import Split
from nano_world.small_talk import chats
from nano_world.speech import Recordings
from nano_world.voices import SAMPLING_RATE, Voice
from nano_world.wordings import UNKNOWN

SITUATIONS = {"question": 0.2, "pause": 0.3, "backchannel": 0.13, "interruption": 0.22, "noise": 0.1, "silence": 0.05}
SOURCES = {"scene": 0.82, "chat": 0.1, "unknown": 0.08}  # of questions
SPEED = 0.4, (0.85, 1.15)  # how often, and how much
SILENCE = 0.25, (1.0, 4.0)  # the same, in seconds before all
ECHO = 0.3, (-35.0, -18.0)  # the same, in dB
SHOWN_LATE, FORGETS = 0.2, 0.4  # how often
RECORDED = 0.85  # how often a question is one that was said: of all there are, only short ones are by chance
PAST = 0.35, (1, 6)  # how often, and how many answers before are remembered
MOST_SECONDS = 15.0  # of a conversation, which has to fit into the context

Row = dict[str, Any]


def draw_row(draw: random.Random, split: Split, heard: HeardSpeech, num_questions: int, image_size: int) -> Row:
    """Return a row with times: `turns`, `audio`, `seconds`, the `text` that is said, and what is seen.

    Args:
        draw (`random.Random`): What chances come from.
        split (`"train"` or `"validation"`): Whose times.
        heard ([`HeardSpeech`]): Recordings of that split.
        num_questions (`int`): At most, and one more in an interruption.
        image_size (`int`): In pixels.
    """
    situation = draw.choices(list(SITUATIONS), list(SITUATIONS.values()))[0]
    if situation == "silence":
        seconds = draw.uniform(2, 10)
        track = draw_noise(draw, seconds) if draw.random() < 0.7 else np.zeros(round(seconds * SAMPLING_RATE))
        return {"turns": [], "seconds": seconds, "text": "", "audio": _clip(track)} | _see(draw, image_size)
    while True:  # until it is not too long
        row, seconds = _draw_talk(draw, split, heard, situation, num_questions, image_size)
        if seconds <= MOST_SECONDS:
            return row
        num_questions = 1


def _draw_talk(
    draw: random.Random, split: Split, heard: HeardSpeech, situation: str, num_questions: int, image_size: int
) -> tuple[Row, float]:
    voice = draw.choice(heard.voices)
    known = heard.of_voice(voice)
    count = num_questions + (situation == "interruption")
    scene, asked = _draw_questions(draw, known, heard, voice, "halves" if situation == "pause" else "questions", count)
    speed = draw.uniform(*SPEED[1]) if draw.random() < SPEED[0] else 1.0

    def say(text: str, by: str | None) -> np.ndarray:
        if by is None:
            return np.asarray(heard.answers.play(text, draw)["audio"])
        said = np.asarray(known.play(text, draw)["audio"])
        return said if speed == 1.0 else change_speed(said, SAMPLING_RATE, speed)

    silence = draw.uniform(*SILENCE[1]) if draw.random() < SILENCE[0] else 0.0
    talk = hold(draw, split, situation, asked, voice.key, say, silence, place_of)
    track, turns = talk.track, talk.row["turns"]
    if situation != "noise" and draw.random() < ECHO[0]:
        track = _add_echo(track, turns, say, 10 ** (draw.uniform(*ECHO[1]) / 20))
    row = {"turns": turns, "seconds": talk.row["seconds"], "text": talk.text, "audio": _clip(track)}
    if scene is not None:
        row |= _see(draw, image_size, scene, talk.starts[0])
        if "images" in row and draw.random() < PAST[0]:
            row["past"] = [draw.choice(ask_pair(scene, draw)).answer for _ in range(draw.randint(*PAST[1]))]
    first, last = turns[0]["begin"], talk.starts[-1]
    if last > first + 1 and situation != "interruption" and draw.random() < FORGETS:
        row["forget_until"] = draw.uniform(first, last)
    return row, talk.row["seconds"]


def _draw_questions(
    draw: random.Random, known: Recordings, heard: HeardSpeech, voice: Voice, name: str, count: int
) -> tuple[Scene | None, list[Question]]:
    """Return a scene, or `None`, and different questions that a voice has said, the first of them as `name` says."""
    while True:
        source = "scene" if name == "halves" else draw.choices(list(SOURCES), list(SOURCES.values()))[0]
        scene = draw_scene(draw, "train") if source == "scene" or draw.random() < 0.3 else None
        asked: dict[str, Question] = {}
        if name == "halves" or (source == "scene" and draw.random() < RECORDED):
            scene, pair = draw.choice(heard.pairs_of(voice, name))
            scene, question = vary(scene, draw), draw.choice(pair)
            asked[question.text] = question
        for _ in range(6 * count):
            if len(asked) == count:
                break
            question = _draw_question(draw, source, scene, known, heard)
            if question.text in known:
                asked[question.text] = question
        found = list(asked.values())
        if name == "halves":
            return scene, found
        if len(found) == count:
            draw.shuffle(found)
            return scene, found


def _draw_question(
    draw: random.Random, source: str, scene: Scene | None, known: Recordings, heard: HeardSpeech
) -> Question:
    if source == "scene" and scene is not None:
        return draw.choice(ask_pair(scene, draw))
    if source == "chat":
        return Question("chat", *draw.choice(chats()))
    text = next(text for text in iter(lambda: draw.choice(known.texts), None) if text in heard.unknown)
    return Question("unknown", text, UNKNOWN)


def _see(draw: random.Random, image_size: int, scene: Scene | None = None, before: float | None = None) -> Row:
    """Return an image that is there from the beginning, or that is shown at some time before another."""
    image = render(draw_scene(draw, "train") if scene is None else scene, image_size)
    if before is None or draw.random() >= SHOWN_LATE:
        return {"images": [image]}
    return {"messages": [{"role": "user", "content": [_show(image, draw.uniform(0, before))]}]}


def _show(image: Image, begin: float) -> dict[str, Any]:
    return {"type": "image", "image": image, "begin": begin}


def _add_echo(track: np.ndarray, turns: list[dict[str, Any]], say: Say, level: float) -> np.ndarray:
    """Return a track in which the answers are heard too, a little later."""
    changed = track.copy()
    for turn in turns:
        begin = round((turn["begin"] + 0.1) * SAMPLING_RATE)
        end = round(turn.get("cut_at", 1e4) * SAMPLING_RATE)
        said = say(turn["text"], None)[: max(end - begin, 0)]
        said = said[: max(len(track) - begin, 0)]
        changed[begin : begin + len(said)] += level * said
    return changed.clip(-1, 1)


def _clip(track: np.ndarray) -> dict[str, Any]:
    return {"array": track.astype(np.float32), "sampling_rate": SAMPLING_RATE}
