"""Questions and answers about drawn scenes, and small talk: short sentences, each question with one right answer.

Answers are scored by exact match and judged by ear: they have one form each, at least two words, only words that a
speech recogniser writes in one way. How they are worded was chosen by ear, of what JOSIE's voice says: Whisper tiny.en
hears "The heart is purple" as "The hardest purple", and "It is big", from JOSIE's codec, as "Here it is a bag".

    python examples/make_nano.py count

counts how much there is to say: scenes are counted by what they show, not by where exactly, in which tint or by whom.
"""

import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
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

KINDS = ("colour", "shape", "size", "count", "where", "what", "yes_no")
NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
SPEAKING_RATE = 15  # characters a second
LONGEST_QUESTION = 45  # characters

# Questions of each kind, and what an answer to it is. `{thing}` is told apart from all others of its scene by as few
# words as possible; in answers it is named by colour and shape.
WORDINGS = {
    "colour": ("What colour is the {thing}?", "Which colour is the {thing}?", "Tell me the colour of the {thing}."),
    "shape": ("What is {colour}?", "Which shape is {colour}?", "What is the {colour} thing?"),
    "size": ("How big is the {thing}?", "What size is the {thing}?", "Is the {thing} big or small?"),
    "count": ("How many {things} are there?", "How many {things} do you see?", "Count the {things}."),
    "where": ("Where is the {thing}?", "Where do you see the {thing}?"),
    "what": ("What is {relation} the {thing}?", "What do you see {relation} the {thing}?"),
    "yes_no": ("Is the {thing} {relation} the {other}?",),
}
ANSWERS = {
    "colour": "It looks {colour}.",
    "shape": "It looks like {article} {shape}.",
    "size": "It looks {size}.",
    "where": "It is {relation} the {thing}.",
    "what": "It looks like {article} {thing}.",
}
YES, NO = "Yes, it is.", "No, it is not."


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


def article(word: str) -> str:
    """Return "a" or "an"."""
    return "an" if word[0] in "aeiou" else "a"


def name(thing: Thing) -> str:
    """Return colour and shape."""
    return f"{thing.colour} {thing.shape}"


def shortest_name(thing: Thing, scene: Scene) -> str:
    """Return the shape, with the colour if another thing has this shape."""
    return thing.shape if sum(other.shape == thing.shape for other in scene.things) == 1 else name(thing)


def count(number: int) -> str:
    """Return how many there are."""
    return "There is one." if number == 1 else f"There are {NUMBERS[number] if number else 'none'}."


def questions(scene: Scene) -> list[Question]:
    """Return everything that can be asked of a scene, in each wording.

    Of a scene without held-out combinations no question mentions one either, not even to be answered with no.
    """
    return [
        Question(kind, wording.format(**parts), answer)
        for kind, parts, answer in _observations(scene)
        for wording in WORDINGS[kind]
        if len(wording.format(**parts)) <= LONGEST_QUESTION
    ]


def _observations(scene: Scene) -> Iterator[tuple[str, dict[str, str], str]]:
    for thing in scene.things:
        called = {"thing": shortest_name(thing, scene)}
        yield "colour", called, ANSWERS["colour"].format(colour=thing.colour)
        yield "size", called, ANSWERS["size"].format(size=thing.size)
        if sum(other.colour == thing.colour for other in scene.things) == 1:
            answer = ANSWERS["shape"].format(article=article(thing.shape), shape=thing.shape)
            yield "shape", {"colour": thing.colour}, answer
    yield "count", {"things": "things"}, count(len(scene.things))
    for shape in SHAPES:
        yield "count", {"things": f"{shape}s"}, count(sum(thing.shape == shape for thing in scene.things))
    if len(scene.things) == 2:
        for thing, other in permutations(scene.things):
            answer = ANSWERS["where"].format(relation=relation(thing, other), thing=name(other))
            yield "where", {"thing": shortest_name(thing, scene)}, answer
    for thing in scene.things:
        for direction in DIRECTIONS:
            found = [other for other in scene.things if other is not thing and relation(other, thing) == direction]
            if len(found) == 1:
                answer = ANSWERS["what"].format(article=article(found[0].colour), thing=name(found[0]))
                yield "what", {"relation": direction, "thing": shortest_name(thing, scene)}, answer
    yield from _statements(scene)


def _statements(scene: Scene) -> Iterator[tuple[str, dict[str, str], str]]:
    hides = not is_held_out(scene)
    for thing, other in permutations(scene.things, 2):
        called = {"thing": shortest_name(thing, scene), "other": shortest_name(other, scene)}
        longest = WORDINGS["yes_no"][0].format(**called, relation=max(DIRECTIONS, key=len))
        if len(longest) > LONGEST_QUESTION:
            continue  # in no direction, or the short ones would be more often true than others
        for direction in DIRECTIONS:
            mentioned = {
                (thing.colour, thing.shape, direction),
                (other.colour, other.shape, OPPOSITES[direction]),
            }
            if not (hides and mentioned & HELD_OUT):
                yield "yes_no", {**called, "relation": direction}, YES if relation(thing, other) == direction else NO


def ask(scene: Scene, draw: random.Random) -> Question:
    """Return a random question about a scene: each kind, each number and yes and no are equally likely."""
    groups: dict[str, dict[str, list[Question]]] = {}
    for question in questions(scene):
        number = question.answer.split()[2] if question.kind == "count" else ""
        answer = question.answer if question.kind == "yes_no" else number
        groups.setdefault(question.kind, {}).setdefault(answer, []).append(question)
    kind = groups[draw.choice(sorted(groups))]
    return draw.choice(kind[draw.choice(sorted(kind))])


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


@cache
def chats() -> tuple[tuple[str, str], ...]:
    """Return all small talk: what is said, and the answer."""
    pairs = [*TALK.items(), *_sums(), *_orders()]
    for first, second in OPPOSITE_WORDS:
        for one, other in ((first, second), (second, first)):
            pairs.append((f"What is the opposite of {one}?", f"The opposite of {one} is {other}."))
    for colour, subjects in COLOURED.items():
        for subject in subjects.split(", "):
            verb = "are" if subject.endswith("s") and subject != "grass" else "is"
            pairs.append((f"What colour {verb} {subject}?", f"{subject.capitalize()} {verb} {colour}."))
    for number, animals in LEGS.items():
        for animal in animals.split(", "):
            owner = f"{article(animal)} {animal}"
            pairs.append((f"How many legs does {owner} have?", f"{owner.capitalize()} has {number} legs."))
    for number, shape in enumerate(("triangle", "square"), 3):
        pairs.append((f"How many sides does a {shape} have?", f"A {shape} has {NUMBERS[number]} sides."))
    pairs.extend((f"What is the capital of {country}?", f"It is {capital}.") for country, capital in CAPITALS.items())
    return tuple(pairs)


def chat(draw: random.Random) -> tuple[str, str]:
    """Return something that is said, and the answer to it."""
    return draw.choice(chats())


def _sums() -> Iterator[tuple[str, str]]:
    for first, second in permutations(range(11), 2):
        if second and first + second <= 10:
            yield f"What is {_number(first)} plus {_number(second)}?", f"It is {_number(first + second)}."
        if second and first > second:
            yield f"What is {_number(first)} minus {_number(second)}?", f"It is {_number(first - second)}."
    for number in range(1, 6):
        yield f"What is {_number(number)} plus {_number(number)}?", f"It is {_number(2 * number)}."


def _number(number: int) -> str:
    return NUMBERS[number] if number else "zero"


def _orders() -> Iterator[tuple[str, str]]:
    numbers = [(None, one, two) for one, two in zip(NUMBERS[1:], NUMBERS[2:], strict=False)]
    days = [("day", one, DAYS[(index + 1) % 7]) for index, one in enumerate(DAYS)]
    months = [("month", one, MONTHS[(index + 1) % 12]) for index, one in enumerate(MONTHS)]
    for what, earlier, later in (*numbers, *days, *months):
        asked = f"Which {what}" if what else "What"
        yield f"{asked} comes after {earlier}?", f"{later.capitalize()} comes after {earlier}."
        yield f"{asked} comes before {later}?", f"{earlier.capitalize()} comes before {later}."


def words() -> set[str]:
    """Return every word that this module can ask or answer, in lower case."""
    scene_texts = [*(wording for wordings in WORDINGS.values() for wording in wordings), *ANSWERS.values(), YES, NO]
    names = [*SHAPES, *(f"{shape}s" for shape in SHAPES), *COLOURS, *SIZES, *DIRECTIONS, "a an thing things"]
    counts = [count(number) for number in range(4)]
    texts = [re.sub(r"{\w+}", "", text) for text in scene_texts] + names + counts
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


def measure_world(split: Split, num_things: int, num_samples: int = 500) -> WorldSize:
    """Return how much there is, from all questions of `num_samples` layouts, or of all if these are not more."""
    every = list(layouts(split, num_things))
    sample = random.Random(0).sample(every, min(num_samples, len(every)))
    asked = [question for layout in sample for question in questions(lay_out(layout))]
    share = len(sample) / len(every)
    seconds = sum(len(question.text) + len(question.answer) for question in asked) / SPEAKING_RATE
    return WorldSize(len(every), round(len(asked) / share), seconds / 3600 / share)


DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
MONTHS = (
    *("January", "February", "March", "April", "May", "June"),
    *("July", "August", "September", "October", "November", "December"),
)
TALK = {
    "Hello.": "Hello, nice to meet you.",
    "Hello, Josie.": "Hello, nice to meet you.",
    "Good morning.": "Good morning to you.",
    "Good evening.": "Good evening to you.",
    "Good night.": "Good night to you.",
    "Goodbye.": "Goodbye, see you soon.",
    "Thank you.": "You are welcome.",
    "Thank you very much.": "You are welcome.",
    "How are you?": "I am very well.",
    "How are you today?": "I am very well.",
    "What is your name?": "My name is Josie.",
    "Who are you?": "My name is Josie.",
    "Tell me your name.": "My name is Josie.",
    "What can you do?": "I can listen, look and speak.",
    "Can you hear me?": "Yes, I can hear you.",
    "Can you see?": "Yes, I can see pictures.",
    "Can you speak?": "Yes, I can speak.",
    "Can you sing?": "No, I can not sing.",
    "Can you fly?": "No, I can not fly.",
    "Are you a person?": "No, I am a computer program.",
    "Are you a computer program?": "Yes, I am a computer program.",
    "Who made you?": "People made me.",
    "What are you?": "I am a computer program.",
    "What do bees make?": "Bees make honey.",
    "What do cows eat?": "Cows eat grass.",
    "What do cows give?": "Cows give milk.",
    "What do hens lay?": "Hens lay eggs.",
    "Where do fish live?": "Fish live in water.",
    "When does the sun rise?": "The sun rises in the morning.",
    "When does the sun set?": "The sun sets in the evening.",
    "How many days are in a week?": "There are seven days in a week.",
    "How many months are in a year?": "There are twelve months in a year.",
    "How many fingers are on a hand?": "There are five fingers on a hand.",
}
OPPOSITE_WORDS = (
    *(("hot", "cold"), ("big", "small"), ("up", "down"), ("left", "right"), ("open", "closed"), ("fast", "slow")),
    *(("old", "young"), ("happy", "sad"), ("full", "empty"), ("wet", "dry"), ("black", "white"), ("early", "late")),
    *(("good", "bad"), ("high", "low"), ("above", "below"), ("inside", "outside"), ("rich", "poor"), ("easy", "hard")),
    *(("first", "last"), ("light", "dark"), ("soft", "loud"), ("long", "short"), ("clean", "dirty"), ("thick", "thin")),
)
COLOURED = {
    "green": "grass, a leaf, a frog",
    "blue": "the sky, the sea",
    "white": "snow, milk, a cloud, salt",
    "yellow": "a lemon, a banana, the sun",
    "red": "blood, a strawberry, a tomato",
    "black": "coal, a crow, the night",
    "orange": "a carrot, a pumpkin",
    "brown": "chocolate, a potato",
}
LEGS = {
    "two": "man, hen, duck, bird",
    "four": "dog, cat, horse, cow, lion, table, chair",
    "six": "bee, fly",
    "eight": "spider",
    "no": "snake, fish",
}
CAPITALS = {
    "France": "Paris",
    "Italy": "Rome",
    "Spain": "Madrid",
    "Germany": "Berlin",
    "England": "London",
    "Russia": "Moscow",
    "Japan": "Tokyo",
    "Greece": "Athens",
    "Austria": "Vienna",
    "Poland": "Warsaw",
    "Ireland": "Dublin",
    "Egypt": "Cairo",
}
