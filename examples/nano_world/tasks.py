"""Training rows of the nano model: conversations about drawn images and spoken sentences, each drawn from its number.

| task | in | out |
| --- | --- | --- |
| `answer` | an image and one or two spoken questions, one after the other | the answers |
| `look` | an image and one to three written questions | the answers |
| `caption` | an image, and at times a written question after it | what is on it, and the answer |
| `stamp` | an image of a stamp and a written question | what it is |
| `transcribe` | a sentence that a voice says | the same in writing |
| `people` | what a person says | the same in writing |
| `chat` | small talk, written or spoken, once or twice | the answers |
| `unknown` | an image, a clip or a question of another world | "I do not know." |
| `duplex` | all of these while it listens, see [`nano_world.duplex_rows`] | answers, and when it listens |

Conversations come in pairs, 0 and 1, 2 and 3 ...: of the same tasks, and where there is a scene about the same one,
with the questions of [`grammar.ask_pair`]. Batches of an even number have both.

A model that has seen one question a conversation answers the second as if it were the first: so some have several, and
some go on with another task. A number stands for the same conversation on every machine, in every worker and process,
so that a run that is resumed skips what was seen at no cost. Images are drawn when they are asked for; voices are
recorded once.
"""

import random
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar, Literal

from PIL.Image import Image
from torch.utils.data import Dataset as TorchDataset

from nano_world.duplex_rows import RECORDED, draw_row
from nano_world.grammar import Question, ask, ask_pair, caption
from nano_world.hearing import HeardSpeech
from nano_world.scenes import Scene, draw_scene, render, vary
from nano_world.small_talk import chats
from nano_world.speech import Recordings
from nano_world.stamps import PACKAGES, ask as ask_about_stamp, draw_stamp, find_stamps, render as render_stamp
from nano_world.unknown import CLIPS, IMAGES, QUESTIONS_ABOUT_IMAGES, draw_clip, draw_image
from nano_world.voices import SAMPLING_RATE
from nano_world.wordings import DESCRIBE, UNKNOWN, WRITE_DOWN

TASKS = ("answer", "look", "caption", "stamp", "transcribe", "people", "chat", "unknown", "duplex")
IMAGE_SIZE = 128
NUM_TURNS = {  # of a conversation, equally likely
    "answer": (1, 2),
    "look": (1, 2, 3),
    "caption": (1, 1, 2),
    "stamp": (1,),
    "transcribe": (1,),
    "people": (1,),
    "chat": (1, 2),
    "unknown": (1, 1, 2),
    "duplex": (1, 1, 2),
}
CHANGES_TASK = 0.15  # how often a conversation goes on with another task, perhaps with another image
NUM_TOKENS = {  # of each task about so many, and as many again for each question
    "answer": (18, 45),
    "look": (18, 23),
    "caption": (18, 25),
    "stamp": (18, 20),
    "transcribe": (0, 85),
    "people": (0, 60),
    "chat": (0, 30),
    "unknown": (18, 30),
    "duplex": (160, 60),
}

UNKNOWN_KINDS = ("asked", "image", "image", "clip")  # equally likely

_NUM_GROUPED = 8  # batches

Row = dict[str, Any]
Turn = tuple[list[dict[str, Any]], str]  # what is shown and said, and the answer


@dataclass
class NanoArguments:
    """The conversations of a recipe.

    Args:
        tasks (`dict[str, float]`): How often each of `TASKS` comes.
        packages (`str`): Folder that keeps Debian packages.
        recordings (`str`): Folder that keeps recorded speech, see [`nano_world.hearing`].
        num_rows (`int`): How many conversations there are; an epoch.
        rounds (`int`): Of recordings of each voice.
        num_voices (`int`, *optional*): Only the first ones.
        stamps (`str`): Images of stamps, `"emoji"` or `"tuxpaint"`, whose licence is GPL-2.
        num_validation_rows (`int`): Held out; scenes as in training, other voices and other sentences.
        seed (`int`): Of what is drawn.
        batch_size (`int`): Batches of so many rows, the trainer's, get conversations of like length; 0 for any.
    """

    LICENCES: ClassVar[list[str]] = [
        "drawn scenes and small talk (Apache-2.0)",
        "flite's, festival's and espeak-ng's voices (free licences)",
        "sentences of the King James Bible (public domain), WordNet (WordNet licence), Debian's fortunes (BSD)",
        "prompts of Asterisk, spoken by Allison Smith (CC-BY-SA-3.0)",
        "Noto Color Emoji (SIL Open Font License 1.1)",
        "photographs of scikit-image (public domain, CC0)",
        "photographs of scikit-learn, by danielbuechele and vultilion (CC-BY-2.0)",
    ]

    tasks: dict[str, float] = field(default_factory=lambda: dict.fromkeys(TASKS[:-1], 1.0))
    packages: str = "runs/data/debian"
    recordings: str = "runs/data/nano/heard"
    num_rows: int = 1_000_000
    rounds: int = 3
    num_voices: int | None = None
    stamps: str = "emoji"
    num_validation_rows: int = 100
    seed: int = 0
    batch_size: int = 0

    def __post_init__(self):
        lowest = {"num_rows": 1, "rounds": 1, "num_voices": 1, "num_validation_rows": 0, "batch_size": 0}
        for name, least in lowest.items():
            value = getattr(self, name)
            if value is not None and value < least:
                raise ValueError(f"`data.nano.{name}` must be at least {least}, got {value}.")
        if self.stamps not in PACKAGES:
            raise ValueError(f"`data.nano.stamps` must be one of {list(PACKAGES)}, got {self.stamps!r}.")


def load_nano(arguments: NanoArguments) -> dict[str, Any]:
    """Return the training conversations, and as a list the ones to validate with."""
    shared: dict[str, Any] = {
        "tasks": arguments.tasks,
        "packages": Path(arguments.packages),
        "recordings": Path(arguments.recordings),
        "rounds": arguments.rounds,
        "num_voices": arguments.num_voices,
        "stamps": arguments.stamps,
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
    plans = {index: plan(_draw(seed, split, index // 2), dict(tasks)) for index in range(start, stop)}
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
        split (`"train"` or `"validation"`): Of voices and sentences. Nothing has the combinations of the test's scenes.
        num_rows (`int`): How many conversations.
        rounds (`int`), num_voices (`int`, *optional*): Of recordings.
        stamps (`str`): `"emoji"` or `"tuxpaint"`.
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
        rounds: int = 3,
        num_voices: int | None = None,
        stamps: str = "emoji",
        seed: int = 0,
        batch_size: int = 0,
    ):
        unknown = sorted(set(tasks) - set(TASKS))
        if unknown or not tasks or min(tasks.values()) < 0 or not sum(tasks.values()):
            raise ValueError(f"`tasks` must give shares of {list(TASKS)}, got {tasks}.")
        self.tasks, self.split, self.num_rows, self.seed = tasks, split, num_rows, seed
        self.packages, self.stamps, self.batch_size = packages, stamps, batch_size
        self.heard = HeardSpeech(packages, recordings, split, rounds, num_voices)

    def __len__(self) -> int:
        return self.num_rows

    def __getitem__(self, index: int) -> Row:
        """Return conversation `index`: `messages`, or a row with times, and the `task` that it begins with."""
        index = range(self.num_rows)[index]
        if self.batch_size:
            start = index - index % (_NUM_GROUPED * self.batch_size)
            stop = min(start + _NUM_GROUPED * self.batch_size, self.num_rows)
            order = _group(self.seed, self.split, tuple(self.tasks.items()), start, stop, self.batch_size)
            index = order[index - start]
        pair, member = divmod(index, 2)
        draw = _draw(self.seed, self.split, pair)
        own = random.Random(f"{self.seed}:{self.split}:{pair}:{member}")
        parts = plan(draw, self.tasks)
        if parts[0][0] == "duplex":
            return {"task": "duplex"} | draw_row(own, self.split, self.heard, parts[0][1], IMAGE_SIZE)
        turns = []
        for task, num_turns in parts:
            if task == "duplex":  # has no other task beside it
                continue
            if task in ("answer", "look"):
                turns += self._ask(task, num_turns, draw, own, member)
            else:
                turns += getattr(self, f"_{task}")(own, num_turns)
        roles = ("user", "assistant")
        messages = [{"role": role, "content": said} for turn in turns for role, said in zip(roles, turn, strict=True)]
        return {"task": parts[0][0], "messages": messages}

    def _ask(self, task: str, num_turns: int, draw: random.Random, own: random.Random, member: int) -> list[Turn]:
        if task == "look":
            scene = draw_scene(draw, "train")
            pairs = [ask_pair(scene, draw) for _ in range(num_turns)]
        else:
            scene, pairs = self._draw_spoken(num_turns, draw)
        say = _write if task == "look" else lambda text: self.heard.questions.play(text, own)
        return _show(render(scene, IMAGE_SIZE), [([say(pair[member].text)], pair[member].answer) for pair in pairs])

    def _draw_spoken(self, num_turns: int, draw: random.Random) -> tuple[Scene, list[tuple[Question, Question]]]:
        """Return a scene and up to so many pairs of questions about it that were said.

        There are so many questions that few of the longer ones are found by chance, which is why the first pair is
        mostly drawn of those that were said, with a scene as that was.
        """
        scene, pairs = draw_scene(draw, "train"), []
        if draw.random() < RECORDED:
            scene, pair = draw.choice(self.heard.pairs)
            scene, pairs = vary(scene, draw), [pair]
        while True:
            for _ in range(6 * num_turns):
                if len(pairs) == num_turns:
                    return scene, pairs
                pair = ask_pair(scene, draw)
                if all(one.text in self.heard.questions for one in pair):
                    pairs.append(pair)
            if pairs:
                return scene, pairs
            scene = draw_scene(draw, "train")

    def _caption(self, draw: random.Random, num_turns: int) -> list[Turn]:
        scene = draw_scene(draw, "train", draw.choice((1, 2, 2)))
        asked = [ask(scene, draw) for _ in range(num_turns - 1)]
        written = [([_write(question.text)], question.answer) for question in asked]
        return _show(render(scene, IMAGE_SIZE), [([_write(draw.choice(DESCRIBE))], caption(scene)), *written])

    def _stamp(self, draw: random.Random, num_turns: int) -> list[Turn]:
        scene = draw_stamp(draw, "train")
        asked = [ask_about_stamp(scene, draw) for _ in range(num_turns)]
        image = render_stamp(scene, find_stamps(self.packages, self.stamps), IMAGE_SIZE, self.stamps)
        return _show(image, [([_write(question.text)], question.answer) for question in asked])

    def _transcribe(self, draw: random.Random, num_turns: int) -> list[Turn]:
        return self._hear(self.heard.sentences, draw, num_turns)

    def _people(self, draw: random.Random, num_turns: int) -> list[Turn]:
        return self._hear(self.heard.people, draw, num_turns)

    def _hear(self, said: Recordings, draw: random.Random, num_turns: int) -> list[Turn]:
        texts = [draw.choice(said.texts) for _ in range(num_turns)]
        return [([said.play(text, draw), _write(draw.choice(WRITE_DOWN))], text) for text in texts]

    def _chat(self, draw: random.Random, num_turns: int) -> list[Turn]:
        pairs = [draw.choice(chats()) for _ in range(num_turns)]
        return [
            ([_write(said) if draw.random() < 0.5 else self.heard.chats.play(said, draw)], answer)
            for said, answer in pairs
        ]

    def _unknown(self, draw: random.Random, num_turns: int) -> list[Turn]:
        """Return questions and clips without an answer, about an image of another world, a scene or none."""
        kind = draw.choice(UNKNOWN_KINDS)
        if kind == "image":
            image = draw_image(draw, draw.choice(IMAGES), self.split, self.packages, IMAGE_SIZE)
            return _show(image, [([self._ask_about_image(draw)], UNKNOWN) for _ in range(num_turns)])
        turns: list[Turn] = []
        for _ in range(num_turns):
            if kind == "clip":
                audio = draw_clip(draw, draw.choice(CLIPS))
                said = [{"type": "audio", "audio": audio, "sampling_rate": SAMPLING_RATE, "text": ""}]
                turns.append((said + [_write(draw.choice(WRITE_DOWN))] * (draw.random() < 0.3), UNKNOWN))
            else:
                text = draw.choice(self.heard.unknown.texts)
                turns.append(([_write(text) if draw.random() < 0.5 else self.heard.unknown.play(text, draw)], UNKNOWN))
        shown = draw.random() < 0.3
        return _show(render(draw_scene(draw, "train"), IMAGE_SIZE), turns) if shown else turns

    def _ask_about_image(self, draw: random.Random) -> dict[str, Any]:
        """Return a question about an image, of those about scenes, stamps or captions, written or spoken."""
        if draw.random() < 0.4:
            return _write(draw.choice((*QUESTIONS_ABOUT_IMAGES, *DESCRIBE)))
        text = draw.choice(self.heard.questions.texts)
        return _write(text) if draw.random() < 0.5 else self.heard.questions.play(text, draw)


def _show(image: Image, turns: list[Turn]) -> list[Turn]:
    """Return turns, the first of which begins with an image."""
    (said, answer), *others = turns
    return [([{"type": "image", "image": image}, *said], answer), *others]


def _write(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text}
