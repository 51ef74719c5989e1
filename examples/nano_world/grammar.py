"""Questions and answers about drawn scenes: short sentences, each question with one right answer.

Answers are scored by exact match and judged by ear. How they are worded was chosen by ear, of what JOSIE's voice says:
Whisper tiny.en hears "The heart is purple" as "The hardest purple".

Questions come in pairs about one scene and in one wording, whose answers differ: where the one thing is, and where the
other; the same statement turned round. So nothing but the image tells the answers apart, and both are in one batch.

    python examples/make_nano.py count

counts how much there is to say: scenes are counted by what they show, not by where exactly, in which tint or by whom.
"""

import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import permutations

from nano_world.scenes import (
    COLOURS,
    DIRECTIONS,
    HELD_OUT,
    OPPOSITES,
    SHAPES,
    SIZES,
    Scene,
    Split,
    Thing,
    is_held_out,
    lay_out,
    layouts,
    relation,
)
from nano_world.small_talk import chats
from nano_world.wordings import (
    ABSENT,
    ANSWERS,
    KINDS,
    NO,
    NOT_THERE,
    NUMBERS,
    PHRASES,
    THERE,
    UNKNOWN,
    UNSEEN,
    WORDINGS,
    YES,
    article,
    choose_wordings,
    fill,
)

SPEAKING_RATE = 15  # characters a second
KIND_SHARES = {"where": 2.0, "what": 2.0, "yes_no": 2.0}  # others 1
FIRST_PHRASE = 0.7  # how often a thing or a direction is called by the first of its phrases
OFF_AXIS = 0.08  # how often a statement that is wrong is of the other axis


@dataclass(frozen=True)
class Question:
    """A question about an image, and its answer.

    Args:
        kind (`str`): One of `KINDS`, or another world's.
        text (`str`): What is asked.
        answer (`str`): The only right answer.
    """

    kind: str
    text: str
    answer: str


@dataclass(frozen=True)
class Observation:
    """Something that can be asked of a scene, in any wording.

    Args:
        kind (`str`): One of `KINDS`.
        worded (`str`): Kind of its wordings.
        parts (`dict[str, tuple[str, ...]]`): What stands in their braces: phrases that mean the same.
        answer (`str`): The only right answer.
    """

    kind: str
    worded: str
    parts: dict[str, tuple[str, ...]]
    answer: str

    def ask(self, wording: str, draw: random.Random) -> Question:
        """Return the question in a wording, with random phrases."""
        chosen = {
            name: phrases[0] if draw.random() < FIRST_PHRASE else draw.choice(phrases)
            for name, phrases in self.parts.items()
        }
        return Question(self.kind, fill(wording, **chosen), self.answer)


def name(thing: Thing) -> str:
    """Return colour and shape."""
    return f"{thing.colour} {thing.shape}"


def shortest_name(thing: Thing, scene: Scene) -> str:
    """Return the shape, with the colour if another thing has this shape."""
    return thing.shape if sum(other.shape == thing.shape for other in scene.things) == 1 else name(thing)


def _names(thing: Thing, scene: Scene) -> tuple[str, ...]:
    return tuple(dict.fromkeys((shortest_name(thing, scene), name(thing))))


def count(number: int) -> str:
    """Return how many there are."""
    return "There is one." if number == 1 else f"There are {NUMBERS[number] if number else 'none'}."


def questions(scene: Scene, unseen: bool = False) -> list[Question]:
    """Return everything that can be asked of a scene, in each wording of training or each that it never has.

    Things are called by as few words as possible, directions as `DIRECTIONS` has them. Of a scene without held-out
    combinations no question mentions one either, not even to be answered with no.
    """
    found = {
        Question(seen.kind, text, seen.answer): None
        for kind in KINDS
        for seen in observe(scene, kind)
        for wording in choose_wordings(seen.worded, unseen)
        for text in [fill(wording, **{part: phrases[0] for part, phrases in seen.parts.items()})]
    }
    return list(found)


def observe(scene: Scene, kind: str) -> Iterator[Observation]:
    """Yield what can be asked of a scene by questions of a kind."""
    if kind == "absent":
        yield from _observe_absent(scene)
    elif kind == "count":
        for shape in (None, *SHAPES):
            things = [thing for thing in scene.things if shape in (None, thing.shape)]
            yield Observation(kind, kind, {"things": (f"{shape or 'thing'}s",)}, count(len(things)))
    elif kind == "there":
        for thing in scene.things:
            yield Observation(kind, kind, {"thing": tuple(dict.fromkeys((thing.shape, name(thing))))}, THERE)
        for absent in _absent(scene):
            yield Observation(kind, kind, {"thing": (absent,)}, NOT_THERE)
    elif kind == "yes_no":
        for thing, other in permutations(scene.things, 2):
            for direction in DIRECTIONS:
                yield from _state(scene, thing, direction, other)
    elif kind == "where":
        for thing, other in permutations(scene.things) if len(scene.things) == 2 else ():
            answer = ANSWERS[kind].format(relation=relation(thing, other), thing=name(other))
            yield Observation(kind, kind, {"thing": _names(thing, scene)}, answer)
    else:
        for thing in scene.things:
            yield from _observe_thing(scene, kind, thing)


def _observe_thing(scene: Scene, kind: str, thing: Thing) -> Iterator[Observation]:
    called = {"thing": _names(thing, scene)}
    if kind == "colour":  # which a name must not tell
        yield from [Observation(kind, kind, {"thing": (thing.shape,)}, ANSWERS[kind].format(colour=thing.colour))] * (
            shortest_name(thing, scene) == thing.shape
        )
    elif kind == "size":
        yield Observation(kind, kind, called, ANSWERS[kind].format(size=thing.size))
    elif kind == "shape":
        if sum(other.colour == thing.colour for other in scene.things) == 1:
            answer = ANSWERS[kind].format(article=article(thing.shape), shape=thing.shape)
            yield Observation(kind, kind, {"colour": (thing.colour,)}, answer)
    elif kind == "what":
        for direction in DIRECTIONS:
            found = [other for other in scene.things if other is not thing and relation(other, thing) == direction]
            if len(found) == 1:
                answer = ANSWERS[kind].format(article=article(found[0].colour), thing=name(found[0]))
                yield Observation(kind, kind, {"relation": PHRASES[direction], **called}, answer)


def _state(scene: Scene, thing: Thing, direction: str, other: Thing) -> Iterator[Observation]:
    """Yield the question whether `thing` is there, seen from `other`, unless it mentions what is held out."""
    mentioned = {(thing.colour, thing.shape, direction), (other.colour, other.shape, OPPOSITES[direction])}
    if mentioned & HELD_OUT and not is_held_out(scene):
        return
    parts = {"thing": _names(thing, scene), "relation": PHRASES[direction], "other": _names(other, scene)}
    yield Observation("yes_no", "yes_no", parts, YES if relation(thing, other) == direction else NO)


def _absent(scene: Scene) -> list[str]:
    """Return the shapes that a scene does not have, and shapes that it has in another colour."""
    shapes = [shape for shape in SHAPES if all(shape != thing.shape for thing in scene.things)]
    found = {name(thing) for thing in scene.things}
    return shapes + [
        f"{colour} {shape}" for shape in SHAPES if shape not in shapes for colour in COLOURS
        if f"{colour} {shape}" not in found
    ]  # fmt: skip


def _observe_absent(scene: Scene) -> Iterator[Observation]:
    colours = [colour for colour in COLOURS if all(colour != thing.colour for thing in scene.things)]
    for kind in ABSENT:
        if kind == "shape":
            for colour in colours:
                yield _miss(kind, {"colour": (colour,)}, f"{colour} thing")
            continue
        for absent in _absent(scene):
            if kind in ("colour", "size", "where") and not (kind == "colour" and " " in absent):
                yield _miss(kind, {"thing": (absent,)}, absent)
            for thing in scene.things if kind in ("what", "yes_no") else ():
                for direction in DIRECTIONS:
                    turned = {"relation": PHRASES[direction]}
                    if kind == "what":
                        yield _miss(kind, {**turned, "thing": (absent,)}, absent)
                        continue
                    parts = {"thing": (absent,), **turned, "other": _names(thing, scene)}
                    if not _mentions_held_out(scene, absent, direction, thing):
                        yield _miss(kind, parts, absent)


def _mentions_held_out(scene: Scene, absent: str, direction: str, other: Thing) -> bool:
    """Return whether a statement about what is absent mentions a held-out combination of a training scene."""
    colour, _, shape = absent.rpartition(" ")
    mentioned = {(colour, shape, direction), (other.colour, other.shape, OPPOSITES[direction])}
    return bool(mentioned & HELD_OUT) and not is_held_out(scene)


def _miss(kind: str, parts: dict[str, tuple[str, ...]], absent: str) -> Observation:
    return Observation("absent", kind, parts, ANSWERS["absent"].format(thing=absent))


def ask(scene: Scene, draw: random.Random, kind: str | None = None, unseen: bool = False) -> Question:
    """Return a random question about a scene, one of [`ask_pair`].

    Args:
        scene ([`Scene`]): What is asked about.
        draw (`random.Random`): Draws.
        kind (`str`, *optional*): Kind of the question; any when `None`.
        unseen (`bool`): As of [`ask_pair`].

    Raises:
        `ValueError`: The scene has no question of this kind.
    """
    return draw.choice(ask_pair(scene, draw, kind, unseen))


def ask_pair(
    scene: Scene, draw: random.Random, kind: str | None = None, unseen: bool = False
) -> tuple[Question, Question]:
    """Return two questions about a scene, in one wording and with two answers wherever there are two.

    Args:
        scene ([`Scene`]): What is asked about.
        draw (`random.Random`): What chances come from.
        kind (`str`, *optional*): One of `KINDS`; drawn by `KIND_SHARES` if not given.
        unseen (`bool`): In a wording that training never has.

    Raises:
        `ValueError`: The scene has no question of this kind.
    """
    kinds = [kind] if kind is not None else list(KINDS)
    while kinds:
        chosen = draw.choices(kinds, [KIND_SHARES.get(one, 1.0) for one in kinds])[0]
        pair = _pair_statements(scene, draw) if chosen == "yes_no" else _pair_others(scene, chosen, draw)
        if pair is not None:
            wording = draw.choice(choose_wordings(pair[1].worded, unseen))
            asked = [seen.ask(wording, draw) for seen in pair]
            return asked[0], asked[1]
        kinds.remove(chosen)
    raise ValueError(f"`kind` must be one that the scene has questions of, got {kind!r}.")


def _pair_statements(scene: Scene, draw: random.Random) -> tuple[Observation, Observation] | None:
    """Return a statement that is right and the same one turned round, or at times moved to the other axis."""
    pairs = list(permutations(scene.things, 2))
    draw.shuffle(pairs)
    for thing, other in pairs:
        direction = relation(thing, other)
        turned = [(thing, OPPOSITES[direction], other), (other, direction, thing)]
        if draw.random() < OFF_AXIS:
            turned = [(thing, one, other) for one in DIRECTIONS if one not in (direction, OPPOSITES[direction])]
        draw.shuffle(turned)
        right = list(_state(scene, thing, direction, other))
        wrong = [seen for statement in turned for seen in _state(scene, *statement)]
        if right and wrong:
            return _shuffle(right[0], wrong[0], draw)
    return None


def _pair_others(scene: Scene, kind: str, draw: random.Random) -> tuple[Observation, Observation] | None:
    groups: dict[str, list[Observation]] = {}
    for seen in observe(scene, kind):
        if kind == "absent":
            groups.setdefault(seen.worded, []).append(seen)
        else:
            groups.setdefault(seen.answer, []).append(seen)
    if not groups:
        return None
    first, second = [draw.choice(groups[one]) for one in draw.choices(sorted(groups), k=2)]
    if kind == "absent":  # beside what is there, in the same words
        others = [seen for seen in observe(scene, first.worded) if not (mentions(seen) & mentions(first))]
        same = [seen for seen in others if len(seen.parts["thing"][0].split()) == 1] if "thing" in first.parts else []
        return _shuffle(first, draw.choice(same or others or groups[first.worded]), draw)
    different = [one for one in sorted(groups) if one != first.answer]
    if different:
        second = draw.choice(groups[draw.choice(different)])
    return _shuffle(first, second, draw)


def mentions(seen: Observation) -> set[str]:
    """Return the words that fill the braces of an observation, directions apart."""
    return {word for part, phrases in seen.parts.items() if part != "relation" for word in phrases}


def _shuffle(first: Observation, second: Observation, draw: random.Random) -> tuple[Observation, Observation]:
    return (first, second) if draw.random() < 0.5 else (second, first)


def caption(scene: Scene) -> str:
    """Return what a scene of one or two things shows; of two, the one on the left or above comes first.

    Raises:
        `ValueError`: The scene has more things.
    """
    if len(scene.things) not in (1, 2):
        raise ValueError(f"`scene` must be of one or two things, got {len(scene.things)}.")
    first, *others = scene.things
    if not others:
        return f"A {first.size} {name(first)}."
    second = others[0]
    if relation(first, second) in ("right of", "below"):
        first, second = second, first
    return f"A {first.size} {name(first)} {relation(first, second)} a {second.size} {name(second)}."


def words() -> set[str]:
    """Return every word that this module and small talk can ask or answer, in lower case."""
    wordings = [text for table in (WORDINGS, UNSEEN) for texts in table.values() for text in texts]
    scene_texts = [*wordings, *ANSWERS.values(), YES, NO, THERE, NOT_THERE, UNKNOWN]
    names = [*SHAPES, *(f"{shape}s" for shape in SHAPES), *COLOURS, *SIZES, *DIRECTIONS, "a an thing things"]
    phrases = [phrase for phrases in PHRASES.values() for phrase in phrases]
    counts = [count(number) for number in range(4)]
    texts = [re.sub(r"{\w+}", "", text) for text in scene_texts] + names + phrases + counts
    texts.extend(text for pair in chats() for text in pair)
    return set(re.findall(r"[a-z]+", " ".join(texts).lower()))


@dataclass(frozen=True)
class WorldSize:
    """Amount of what can be said of the scenes of a split.

    Args:
        num_layouts (`int`): Scenes that differ in what they show.
        num_questions (`int`): Pairs of such a scene and a question about it; extrapolated from the sample.
        hours (`float`): To say all these questions and their answers once, at `SPEAKING_RATE`.
    """

    num_layouts: int
    num_questions: int
    hours: float


def measure_world(split: Split, num_things: int, num_samples: int = 100) -> WorldSize:
    """Return how much there is, from the questions of some layouts.

    Args:
        split (`str`): Whose scenes.
        num_things (`int`): Things in a scene.
        num_samples (`int`): Most layouts whose questions are counted; all are if these are not more.
    """
    every = list(layouts(split, num_things))
    sample = random.Random(0).sample(every, min(num_samples, len(every)))
    asked = [question for layout in sample for question in questions(lay_out(layout))]
    share = len(sample) / len(every)
    seconds = sum(len(question.text) + len(question.answer) for question in asked) / SPEAKING_RATE
    return WorldSize(len(every), round(len(asked) / share), seconds / 3600 / share)
