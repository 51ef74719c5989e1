"""Conversations in full duplex about drawn scenes, in five situations, split by voice, wording, scene and timing.

| situation | what happens |
| --- | --- |
| `question` | a question, and its answer |
| `pause` | a pause of 1 to 2 seconds inside the question |
| `backchannel` | "mm-hm" over the answer, which goes on |
| `interruption` | a second question over the answer, which is cut; then the answer to that |
| `noise` | noise, clicks, and JOSIE's own voice at -20 dB over the answer, which goes on |

A `session` is longer: six questions, one after the other.

Rows are those of training (`turns` with times) and of `josie evaluate --duplex` at once.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .grammar import Question, ask
from .scenes import Scene, draw_scene
from .sentences import Split
from .voices import SAMPLING_RATE, TRAINING, UNKNOWN, VALIDATION

SITUATIONS = ("question", "pause", "backchannel", "interruption", "noise")
VOICES = {"train": TRAINING, "validation": VALIDATION, "test": UNKNOWN}
STARTS = {"train": (0.1, 0.9), "validation": (0.1, 0.9), "test": (0.9, 1.4)}  # seconds, of the question
PAUSES = {"train": (0.8, 2.2), "validation": (1.0, 2.0), "test": (1.0, 2.0)}
EVENTS = {"train": (0.15, 0.7), "validation": (0.25, 0.6), "test": (0.35, 0.7)}  # after the answer began
NODS = {  # over an answer
    "train": ("Mm hm.", "Uh huh.", "Okay.", "I see.", "Right.", "Yes.", "Yeah.", "All right."),
    "validation": ("Mm hm.", "Uh huh.", "Okay."),
    "test": ("Mm hm.",),
}
ANSWER_DELAY, REACTION = 0.3, 0.25  # seconds from a question to its answer, and from a second question to silence
NUM_QUESTIONS = {"interruption": 2, "session": 6}  # 1 in others
GAPS = (0.7, 2.0)  # seconds from an answer to the next question
ECHO = 10 ** (-20 / 20)
_END = 1.5  # seconds of silence behind all

# Gives the waveform of a text in a voice, by its key; JOSIE's own for `None`.
Say = Callable[[str, str | None], np.ndarray]


@dataclass
class Conversation:
    """A conversation.

    Args:
        row (`dict`): `situation`, `question_end`, `event`, `answers`, `turns`, `seconds`, `voice`.
        track (`np.ndarray`): `(num_samples,)`, the user's side at 16 kHz.
        text (`str`): What the user says.
        starts (`list[float]`): When each question begins.
    """

    row: dict[str, Any]
    track: np.ndarray
    text: str
    starts: list[float]


def draw_conversation(draw: random.Random, split: Split, situation: str, say: Say) -> tuple[Conversation, Scene]:
    """Return a random conversation, and what is seen.

    Args:
        draw (`random.Random`): What chances come from.
        split (`"train"`, `"validation"` or `"test"`): Whose voices, wordings, scenes and times.
        situation (`str`): One of `SITUATIONS`, or `"session"`.
        say (`Callable`): Speaks.

    Raises:
        `ValueError`: There is no such situation.
    """
    scene = draw_scene(draw, "test" if split == "test" else "train")
    asked: list[Question] = []
    while len(asked) < NUM_QUESTIONS.get(situation, 1):
        question = ask(scene, draw, unseen=split == "test" and draw.random() < 0.5)
        if question.text not in [one.text for one in asked]:
            asked.append(question)
    voice = draw.choice(VOICES[split]).key
    return hold(draw, split, situation, asked, voice, say), scene


def hold(
    draw: random.Random,
    split: Split,
    situation: str,
    asked: Sequence[Question],
    voice: str,
    say: Say,
    silence: float = 0.0,
    place: Callable[[str], int] | None = None,
) -> Conversation:
    """Return a conversation of given questions.

    Args:
        draw (`random.Random`): What times come from.
        split (`str`): Whose times.
        situation (`str`): What happens with the first question; the second one is that of an `interruption`. More of
            them follow, each when the answer before is over.
        asked (`Sequence[Question]`): At least one, or two for an `interruption`.
        voice (`str`): The key of who asks.
        say (`Callable`): Speaks.
        silence (`float`): Seconds of it before all.
        place (`Callable`, *optional*): Says after how many words the pause of a `pause` is; in the middle if not given.

    Raises:
        `ValueError`: There is no such situation, or too few questions.
    """
    if situation not in (*SITUATIONS, "session"):
        raise ValueError(f"`situation` must be one of {[*SITUATIONS, 'session']}, got {situation!r}.")
    if len(asked) < 1 + (situation == "interruption"):
        raise ValueError(f"`asked` must be at least {1 + (situation == 'interruption')} questions, got {len(asked)}.")
    track = _Track(voice, say)
    row: dict[str, Any] = {"situation": situation, "answers": [question.answer for question in asked]}
    time, rest = silence + draw.uniform(*STARTS[split]), list(asked[1:])
    if situation == "pause":
        first, second = halves(asked[0].text, place and place(asked[0].text))
        begin = track.add(time, first)
        time = begin + draw.uniform(*PAUSES[split])
        row["event"] = [begin, time]
        end = track.add(time, second)
    else:
        end = track.add(time, asked[0].text)
    row["question_end"] = end
    begin, over = end + ANSWER_DELAY, end + ANSWER_DELAY + draw.uniform(*EVENTS[split])
    end = track.answer(begin, asked[0].answer)
    if situation == "backchannel":
        row["event"] = [over, track.add(over, draw.choice(NODS[split]), is_question=False)]
    elif situation == "noise":
        row["event"] = [over, track.mix(over, draw_noise(draw))]
        track.mix(begin + 0.1, say(asked[0].answer, None) * ECHO)
    elif situation == "interruption":
        track.turns[-1]["cut_at"] = over + REACTION
        asked_end = track.add(over, rest[0].text)
        row["event"] = [over, asked_end]
        end = track.answer(asked_end + ANSWER_DELAY, rest.pop(0).answer)
    later = []
    for question in rest:
        begin = max(end, track.end) + draw.uniform(*GAPS)
        later.append([begin, track.add(begin, question.text)])
        end = track.answer(later[-1][1] + ANSWER_DELAY, question.answer)
    if situation == "session":
        row["later"] = later
    seconds = max(end, track.end) + _END
    row |= {"turns": track.turns, "seconds": seconds, "voice": voice}
    return Conversation(_rounded(row), track.render(round(seconds, 3)), " ".join(track.texts), track.starts)


def halves(text: str, place: int | None = None) -> tuple[str, str]:
    """Return a question in two parts, between which somebody may think.

    Args:
        text (`str`): The question.
        place (`int`, *optional*): How many words the first part has; as many as the second, or one less, if not given.
    """
    words = text.split()
    place = _middle(words) if place is None else place
    return " ".join(words[:place]), " ".join(words[place:])


def place_of(text: str) -> int:
    """Return after how many words of a question somebody thinks in training: half of the time in the middle."""
    draw, words = random.Random(text), text.split()
    return _middle(words) if draw.random() < 0.5 else draw.randint(1, max(len(words) - 1, 1))


def _middle(words: list[str]) -> int:
    return max(len(words) // 2, 1)


def draw_noise(draw: random.Random, seconds: float = 1.0) -> np.ndarray:
    """Return noise and up to three clicks, each below speech, float32 at 16 kHz."""
    generator = np.random.default_rng(draw.getrandbits(32))
    noise = generator.normal(size=round(seconds * SAMPLING_RATE)).astype(np.float32) * draw.uniform(0.003, 0.02)
    for _ in range(draw.randint(1, 3)):
        place = draw.randrange(len(noise) - 160)
        noise[place : place + 160] += 0.2 * generator.normal(size=160).astype(np.float32)
    return noise


@dataclass
class _Track:
    """The user's side of a conversation, and the turns of the answers.

    Args:
        voice (`str`): The key of who asks.
        say (`Callable`): Speaks.
    """

    voice: str
    say: Say
    clips: list[tuple[float, np.ndarray]] = field(default_factory=list)
    turns: list[dict[str, Any]] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    starts: list[float] = field(default_factory=list)

    @property
    def end(self) -> float:
        """The end of the last clip, in seconds."""
        return max((begin + _length(clip) for begin, clip in self.clips), default=0.0)

    def add(self, begin: float, text: str, is_question: bool = True) -> float:
        """Say a text, a question or a part of one; return when that ends."""
        self.texts += [text] * is_question
        self.starts += [begin] * is_question
        return self.mix(begin, self.say(text, self.voice))

    def mix(self, begin: float, clip: np.ndarray) -> float:
        """Add a clip; return when it ends."""
        self.clips.append((begin, clip))
        return begin + _length(clip)

    def answer(self, begin: float, text: str) -> float:
        """Add a turn; return when it is over."""
        self.turns.append({"begin": begin, "text": text})
        return begin + _length(self.say(text, None))

    def render(self, seconds: float) -> np.ndarray:
        """Return the sum of all clips."""
        track = np.zeros(round(seconds * SAMPLING_RATE), np.float32)
        for begin, clip in self.clips:
            start = round(begin * SAMPLING_RATE)
            track[start : start + len(clip)] += clip[: len(track) - start]
        return track.clip(-1, 1)


def _length(clip: np.ndarray) -> float:
    return len(clip) / SAMPLING_RATE


def _rounded(value: Any) -> Any:
    """Return a value with all times in whole milliseconds."""
    if isinstance(value, dict):
        return {name: _rounded(part) for name, part in value.items()}
    if isinstance(value, list):
        return [_rounded(part) for part in value]
    return round(value, 3) if isinstance(value, float) else value
