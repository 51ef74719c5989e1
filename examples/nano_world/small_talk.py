"""Small talk: what is said, and the one answer to it."""

import random
from collections.abc import Iterator
from functools import cache
from itertools import permutations

from nano_world.wordings import NUMBERS, article

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
