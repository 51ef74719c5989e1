"""Conversations in full duplex about drawn scenes, in five situations, split by voice, wording, scene and timing.

| situation | what happens |
| --- | --- |
| `question` | a question, and its answer |
| `pause` | a pause of 1 to 2 seconds inside the question |
| `backchannel` | "mm-hm" over the answer, which goes on |
| `interruption` | a second question over the answer, which is cut; then the answer to that |
| `noise` | noise, clicks, and JOSIE's own voice at -20 dB over the answer, which goes on |

Rows are those of training (`turns` with times) and of `josie evaluate --duplex` at once.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from .grammar import WORDINGS, Question, questions
from .scenes import Scene, Split, draw_scene

SAMPLING_RATE = 16000
SITUATIONS = ("question", "pause", "backchannel", "interruption", "noise")
VOICES = {"train": ("slt", "rms", "kal16"), "test": ("awb",)}
PAUSES = {"train": (1.0, 1.6), "test": (1.6, 2.0)}  # seconds
STARTS = {"train": (0.3, 0.9), "test": (0.9, 1.4)}  # of the question
EVENTS = {"train": (0.25, 0.6), "test": (0.35, 0.7)}  # after the answer began
ANSWER_DELAY, REACTION = 0.3, 0.5  # seconds from a question to its answer, and from a second question to silence
_ECHO = 10 ** (-20 / 20)

# Gives the waveform of a text in a voice; JOSIE's own for `None`.
Say = Callable[[str, str | None], np.ndarray]


@dataclass
class Conversation:
    """A conversation.

    Args:
        row (`dict`): `situation`, `question_end`, `event`, `answers`, `turns`, `seconds`, `voice`, `scene`.
        track (`np.ndarray`): `(num_samples,)`, the user's side at 16 kHz.
        scene ([`Scene`]): What is seen.
    """

    row: dict[str, Any]
    track: np.ndarray
    scene: Scene


def draw_conversation(draw: random.Random, split: Split, situation: str, say: Say) -> Conversation:
    """Return a random conversation.

    Args:
        draw (`random.Random`): What chances come from.
        split (`"train"` or `"test"`): Whose voices, wordings, scenes and times.
        situation (`str`): One of `SITUATIONS`.
        say (`Callable`): Speaks.

    Raises:
        `ValueError`: There is no such situation.
    """
    if situation not in SITUATIONS:
        raise ValueError(f"`situation` must be one of {list(SITUATIONS)}, got {situation!r}.")
    scene = draw_scene(draw, split)
    asked = draw.sample(_questions(scene, split), 2 if situation == "interruption" else 1)
    voice = draw.choice(VOICES[split])
    clips: list[tuple[float, np.ndarray]] = []
    start, event = draw.uniform(*STARTS[split]), None
    if situation == "pause":
        parts, seconds = _halves(asked[0].text), draw.uniform(*PAUSES[split])
        first, second = (say(part, voice) for part in parts)
        begin = start + _length(first)
        event = [begin, begin + seconds]
        clips += [(start, first), (begin + seconds, second)]
        question_end = begin + seconds + _length(second)
    else:
        clip = say(asked[0].text, voice)
        clips.append((start, clip))
        question_end = start + _length(clip)
    answer_begin = question_end + ANSWER_DELAY
    answer = say(asked[0].answer, None)
    turns: list[dict[str, Any]] = [{"begin": answer_begin, "text": asked[0].answer}]
    end = answer_begin + _length(answer)
    over = answer_begin + draw.uniform(*EVENTS[split])
    if situation == "backchannel":
        clips.append((over, say("mm hm.", voice)))
    elif situation == "noise":
        clips += [(over, _noise(draw)), (answer_begin + 0.1, answer * _ECHO)]
    elif situation == "interruption":
        clips.append((over, say(asked[1].text, voice)))
        turns[0]["cut_at"] = over + REACTION
        end = over + _length(clips[-1][1])
        turns.append({"begin": end + ANSWER_DELAY, "text": asked[1].answer})
        end += ANSWER_DELAY + _length(say(asked[1].answer, None))
    if situation in ("backchannel", "interruption"):
        event = [over, over + _length(clips[-1][1])]
    elif situation == "noise":
        event = [over, over + _length(clips[0 if situation == "pause" else 1][1])]
    seconds = round(max(end, *(begin + _length(clip) for begin, clip in clips)) + 1.5, 3)
    row = {
        "situation": situation,
        "question_end": round(question_end, 3),
        "answers": [question.answer for question in asked],
        "turns": [{name: _rounded(value) for name, value in turn.items()} for turn in turns],
        "seconds": seconds,
        "voice": voice,
        "scene": scene.to_dict(),
    }
    if event is not None:
        row["event"] = [round(time, 3) for time in event]
    return Conversation(row, _mix(clips, seconds), scene)


def _questions(scene: Scene, split: Split) -> list[Question]:
    """Return the questions about a scene in the wordings of a split: the last one of each kind is for the test."""
    held_out = {kind: _pattern(wordings[-1]) for kind, wordings in WORDINGS.items() if len(wordings) > 1}
    found = [
        question
        for question in questions(scene)
        if question.kind in held_out and (question.text.startswith(held_out[question.kind])) == (split == "test")
    ]
    # One of each text, as answers are right to the word.
    return list({question.text: question for question in found}.values())


def _pattern(wording: str) -> str:
    """Return how a wording begins, up to the first thing that is named."""
    return wording.partition("{")[0]


def _halves(text: str) -> tuple[str, str]:
    words = text.split()
    middle = max(len(words) // 2, 1)
    return " ".join(words[:middle]), " ".join(words[middle:])


def _noise(draw: random.Random) -> np.ndarray:
    """Return a second of noise and clicks, each below speech."""
    generator = np.random.default_rng(draw.getrandbits(32))
    noise = generator.normal(size=SAMPLING_RATE).astype(np.float32) * draw.uniform(0.003, 0.02)
    for _ in range(draw.randint(1, 3)):
        place = draw.randrange(SAMPLING_RATE - 160)
        noise[place : place + 160] += 0.2 * generator.normal(size=160).astype(np.float32)
    return noise


def _mix(clips: list[tuple[float, np.ndarray]], seconds: float) -> np.ndarray:
    track = np.zeros(round(seconds * SAMPLING_RATE), np.float32)
    for begin, clip in clips:
        start = round(begin * SAMPLING_RATE)
        track[start : start + len(clip)] += clip
    return track.clip(-1, 1)


def _length(clip: np.ndarray) -> float:
    return len(clip) / SAMPLING_RATE


def _rounded(value: Any) -> Any:
    return round(value, 3) if isinstance(value, float) else value
