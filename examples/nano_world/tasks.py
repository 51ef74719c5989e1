"""Training rows of the nano model: conversations about drawn images and spoken sentences, each drawn from its number.

| task | in | out |
| --- | --- | --- |
| `answer` | an image and one or two spoken questions, one after the other | the answers |
| `look` | an image and one to three written questions | the answers |
| `caption` | an image, and at times a written question after it | what is on it, and the answer |
| `stamp` | an image of a Tux Paint stamp and a written question | what it is |
| `transcribe` | a spoken sentence | the same in writing |
| `chat` | small talk, written or spoken, once or twice | the answers |

A model that has seen one question a conversation answers the second as if it were the first: so some have several, and
some go on with another task. A number stands for the same conversation on every machine, in every worker and process,
so that a run that is resumed skips what was seen at no cost. Images are drawn when they are asked for; flite's voices
are recorded once.
"""

import random
from dataclasses import dataclass, field
from functools import cache, cached_property, lru_cache
from pathlib import Path
from typing import Any, ClassVar, Literal

from PIL.Image import Image
from torch.utils.data import Dataset as TorchDataset

from nano_world.grammar import ask, caption, chats, questions
from nano_world.scenes import Scene, draw_scene, render
from nano_world.sentences import sentences
from nano_world.speech import QUESTIONERS, Recordings, spoken
from nano_world.stamps import ask as ask_about_stamp, draw_stamp, find_stamps, render as render_stamp

TASKS = ("answer", "look", "caption", "stamp", "transcribe", "chat")
TRANSCRIBE, CAPTION = "Write what you hear.", "Describe the picture."
IMAGE_SIZE = 128
NUM_TURNS = {  # of a conversation, equally likely
    "answer": (1, 2),
    "look": (1, 2, 3),
    "caption": (1, 1, 2),
    "stamp": (1,),
    "transcribe": (1,),
    "chat": (1, 2),
}
CHANGES_TASK = 0.15  # how often a conversation goes on with another task, perhaps with another image
NUM_TOKENS = {  # of each task about so many, and as many again for each question
    "answer": (18, 45),
    "look": (18, 23),
    "caption": (18, 25),
    "stamp": (18, 20),
    "transcribe": (0, 85),
    "chat": (0, 30),
}

_NUM_CENSUS_SCENES = 30000  # as many as show all but the rarest questions and answers
_NUM_CAPTIONS = 2000
_NUM_GROUPED = 8  # batches

Row = dict[str, Any]
Turn = tuple[list[dict[str, Any]], str]  # what is shown and said, and the answer


@dataclass
class NanoArguments:
    """The conversations of a recipe.

    Args:
        tasks (`dict[str, float]`): How often each of `TASKS` comes.
        packages (`str`): Folder that keeps Debian packages.
        recordings (`str`): Folder that keeps recorded speech.
        num_rows (`int`): How many conversations there are; an epoch.
        num_sentences (`int`): Real sentences recorded by each of the four voices.
        num_validation_rows (`int`): Held out; scenes as in training, and other sentences.
        seed (`int`): Of what is drawn.
        batch_size (`int`): Batches of so many rows, the trainer's, get conversations of like length; 0 for any.
    """

    LICENCES: ClassVar[list[str]] = [
        "drawn scenes and small talk (Apache-2.0)",
        "flite's voices (flite's free licence)",
        "sentences of the King James Bible (public domain) and WordNet (WordNet licence)",
        "Tux Paint stamps (GPL-2)",
    ]

    tasks: dict[str, float] = field(default_factory=lambda: dict.fromkeys(TASKS, 1.0))
    packages: str = "runs/data/debian"
    recordings: str = "runs/data/nano/speech"
    num_rows: int = 1_000_000
    num_sentences: int = 3000
    num_validation_rows: int = 100
    seed: int = 0
    batch_size: int = 0


def load_nano(arguments: NanoArguments) -> dict[str, Any]:
    """Return the training conversations, and as a list the ones to validate with."""
    shared: dict[str, Any] = {
        "tasks": arguments.tasks,
        "packages": Path(arguments.packages),
        "recordings": Path(arguments.recordings),
        "num_sentences": arguments.num_sentences,
        "seed": arguments.seed,
    }
    held_out = NanoTasks(**shared, split="validation", num_rows=arguments.num_validation_rows)
    training = NanoTasks(**shared, num_rows=arguments.num_rows, batch_size=arguments.batch_size)
    return {"train": training, "validation": list(held_out)}


def plan(draw: random.Random, tasks: dict[str, float]) -> list[tuple[str, int]]:
    """Return what a conversation is made of, one or two tasks, and how many questions of each."""
    first, second = draw.choices(list(tasks), list(tasks.values()), k=2)
    found = (first, second) if draw.random() < CHANGES_TASK else (first,)
    return [(task, draw.choice(NUM_TURNS[task])) for task in found]


def _draw(seed: int, split: str, index: int) -> random.Random:
    return random.Random(f"{seed}:{split}:{index}")


@lru_cache(maxsize=2)
def _group(
    seed: int, split: str, tasks: tuple[tuple[str, float], ...], start: int, stop: int, batch_size: int
) -> list[int]:
    """Return the numbers from `start` to `stop` in batches of conversations of like length."""
    plans = {index: plan(_draw(seed, split, index), dict(tasks)) for index in range(start, stop)}
    lengths = {
        index: sum(NUM_TOKENS[task][0] + num_turns * NUM_TOKENS[task][1] for task, num_turns in parts)
        for index, parts in plans.items()
    }
    order = sorted(plans, key=lengths.__getitem__)
    batches = [order[place : place + batch_size] for place in range(0, len(order), batch_size)]
    _draw(seed, split, start).shuffle(batches)
    batches.sort(key=len, reverse=True)  # one that is not full comes last
    return [index for batch in batches for index in batch]


class NanoTasks(TorchDataset):
    """Conversations, as many as asked for.

    Args:
        tasks (`dict[str, float]`): How often each of `TASKS` comes.
        packages (`Path`): Folder of unpacked Debian packages.
        recordings (`Path`): Folder of recorded speech.
        split (`"train"` or `"validation"`): Of sentences. Nothing of it has the combinations of the test's scenes.
        num_rows (`int`): How many conversations.
        num_sentences (`int`): Real sentences recorded by each of the four voices.
        seed (`int`): Of what is drawn.
        batch_size (`int`): Batches of so many rows get conversations of like length; 0 for any.
    """

    def __init__(
        self,
        tasks: dict[str, float],
        packages: Path,
        recordings: Path,
        split: Literal["train", "validation"] = "train",
        num_rows: int = 1_000_000,
        num_sentences: int = 3000,
        seed: int = 0,
        batch_size: int = 0,
    ):
        unknown = sorted(set(tasks) - set(TASKS))
        if unknown or not tasks or min(tasks.values()) < 0 or not sum(tasks.values()):
            raise ValueError(f"`tasks` must give shares of {list(TASKS)}, got {tasks}.")
        self.tasks, self.split, self.num_rows, self.seed = tasks, split, num_rows, seed
        self.packages, self.recordings, self.num_sentences = packages, recordings, num_sentences
        self.batch_size = batch_size

    def __len__(self) -> int:
        return self.num_rows

    def __getitem__(self, index: int) -> Row:
        """Return conversation `index`: `messages`, and the `task` that it begins with."""
        index = range(self.num_rows)[index]
        if self.batch_size:
            start = index - index % (_NUM_GROUPED * self.batch_size)
            stop = min(start + _NUM_GROUPED * self.batch_size, self.num_rows)
            order = _group(self.seed, self.split, tuple(self.tasks.items()), start, stop, self.batch_size)
            index = order[index - start]
        draw = _draw(self.seed, self.split, index)
        parts = plan(draw, self.tasks)
        turns = [turn for task, num_turns in parts for turn in getattr(self, f"_{task}")(draw, num_turns)]
        roles = ("user", "assistant")
        messages = [{"role": role, "content": said} for turn in turns for role, said in zip(roles, turn, strict=True)]
        return {"task": parts[0][0], "messages": messages}

    def _answer(self, draw: random.Random, num_turns: int) -> list[Turn]:
        while True:  # what was not recorded is too rare to miss
            scene = draw_scene(draw, "train")
            asked = [ask(scene, draw) for _ in range(num_turns)]
            if all(question.text in self.questions for question in asked):
                turns = [([self.questions.play(question.text, draw)], question.answer) for question in asked]
                return _show(render(scene, IMAGE_SIZE), turns)

    def _look(self, draw: random.Random, num_turns: int) -> list[Turn]:
        scene = draw_scene(draw, "train")
        return _show(render(scene, IMAGE_SIZE), _ask_in_writing(scene, draw, num_turns))

    def _caption(self, draw: random.Random, num_turns: int) -> list[Turn]:
        scene = draw_scene(draw, "train", draw.choice((1, 2, 2)))
        asked = _ask_in_writing(scene, draw, num_turns - 1)
        return _show(render(scene, IMAGE_SIZE), [([_write(CAPTION)], caption(scene)), *asked])

    def _stamp(self, draw: random.Random, num_turns: int) -> list[Turn]:
        scene = draw_stamp(draw, "train")
        asked = [ask_about_stamp(scene, draw) for _ in range(num_turns)]
        image = render_stamp(scene, find_stamps(self.packages), IMAGE_SIZE)
        return _show(image, [([_write(question.text)], question.answer) for question in asked])

    def _transcribe(self, draw: random.Random, num_turns: int) -> list[Turn]:
        texts = [draw.choice(self.sentences.texts) for _ in range(num_turns)]
        return [([self.sentences.play(text, draw), _write(TRANSCRIBE)], text) for text in texts]

    def _chat(self, draw: random.Random, num_turns: int) -> list[Turn]:
        pairs = [draw.choice(chats()) for _ in range(num_turns)]
        return [
            ([_write(said) if draw.random() < 0.5 else self.small_talk.play(said, draw)], answer)
            for said, answer in pairs
        ]

    @cached_property
    def sentences(self) -> Recordings:
        """Real sentences, other ones for each voice."""
        texts = sentences(self.packages, self.split)
        size = min(self.num_sentences, len(texts) // len(QUESTIONERS))
        return Recordings(
            [
                spoken(texts[place * size : (place + 1) * size], voice, 1.0, self.recordings)
                for place, voice in enumerate(QUESTIONERS)
            ]
        )

    @cached_property
    def questions(self) -> Recordings:
        """Questions about scenes, by every voice."""
        return Recordings([spoken(possible_questions(), voice, 1.0, self.recordings) for voice in QUESTIONERS])

    @cached_property
    def small_talk(self) -> Recordings:
        """Recordings of small talk, by every voice."""
        return Recordings([spoken([said for said, _ in chats()], voice, 1.0, self.recordings) for voice in QUESTIONERS])


def possible_questions() -> list[str]:
    """Return what may be asked about training scenes, in a mixed order; the rarest may be missing."""
    return _census()[0]


def possible_answers() -> list[str]:
    """Return the answers of small talk, and those about training scenes in a mixed order."""
    return [*sorted({answer for _, answer in chats()}), *_census()[1]]


def possible_captions() -> list[str]:
    """Return many captions of training scenes, in a mixed order."""
    return _census()[2][:_NUM_CAPTIONS]


@cache
def _census() -> tuple[list[str], list[str], list[str]]:
    """Return the questions, answers and captions of many training scenes."""
    draw, mix = random.Random(1), random.Random(0)
    scenes = [draw_scene(draw, "train") for _ in range(_NUM_CENSUS_SCENES)]
    asked = [question for scene in scenes for question in questions(scene)]
    captions = sorted({caption(scene) for scene in scenes if len(scene.things) < 3})
    answers, texts = sorted({question.answer for question in asked}), sorted({question.text for question in asked})
    for found in (captions, answers, texts):
        mix.shuffle(found)
    return texts, answers, captions


def _ask_in_writing(scene: Scene, draw: random.Random, num_turns: int) -> list[Turn]:
    asked = [ask(scene, draw) for _ in range(num_turns)]
    return [([_write(question.text)], question.answer) for question in asked]


def _show(image: Image, turns: list[Turn]) -> list[Turn]:
    """Return turns, the first of which begins with an image."""
    (said, answer), *others = turns
    return [([{"type": "image", "image": image}, *said], answer), *others]


def _write(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text}
