"""Open English text for a voice that shall say any word: as it is written, with names, digits and abbreviations.

| kind | what | where it is from |
| --- | --- | --- |
| `definition` | what a word means | WordNet |
| `entry` | a word or name, a colon, and what it means | WordNet |
| `example` | a phrase or sentence with a word in it | WordNet |
| `verse` | clauses and verses | King James Bible |
| `fortune` | sayings and quotations | Debian's `fortunes` |
| `number` | sentences with times, dates, prices, counts and titles | drawn here |

Which split a text is in depends on nothing but its letters and digits, as in `sentences`; a text that has a clause of
another split in it is in none.
"""

import random
import re
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

from recipes.debian import fetch_package
from recipes.debian_texts import bible, fortunes, wordnet_entries
from recipes.speech_data import sentence_key

from nano_world.sentences import Split, choose_rank, split_of

PACKAGES = ("bible-kjv", "bible-kjv-text", "wordnet-base", "fortunes-min", "fortunes")
KINDS = ("definition", "entry", "example", "verse", "fortune", "number")
MIN_WORDS, MAX_WORDS = 3, 18
MAX_CHARACTERS = 100
NUM_NUMBERS = 20_000  # sentences that are drawn

_READABLE = re.compile(r"[A-Za-z0-9 ,.;:?!'$%&-]+")


def _read_list(words: str) -> list[str]:
    return words.split()


FIRST_NAMES = _read_list("""
    James Mary Robert Linda Ahmed Sofia Chen Olga Pedro Aisha George Emma Hassan Julia Kenji Anna Paul Nina
    Oscar Ruth Victor Grace Samuel Alice Diego Maya Thomas Helen Igor Fatima Peter Laura Ravi Clara Hugo Zoe
    Martin Ingrid Leo Rosa
""")
LAST_NAMES = _read_list("""
    Smith Johnson Nguyen Garcia Brown Kowalski Miller Davis Tanaka Wilson Moore Schmidt Taylor Ivanov Lee
    Walker Rossi Hall Young King Silva Wright Lopez Hill Scott Green Adams Baker Okafor Carter Mitchell
    Larsen Turner Phillips Khan
""")
PLACES = _read_list("""
    London Paris Tokyo Berlin Cairo Toronto Chicago Madrid Lisbon Boston Nairobi Sydney Oslo Vienna Dublin
    Prague Lima Denver Seattle Mumbai Geneva Athens Warsaw Helsinki Texas Canada Brazil Norway Kenya India
    Japan Mexico Scotland
""")
_MONTHS = _read_list("""
    January February March April May June July August September October November December
""")
_DAYS = _read_list("Monday Tuesday Wednesday Thursday Friday Saturday Sunday")
_THINGS = _read_list("""
    books tickets apples chairs people students houses cars letters bottles games pages rooms birds trees
    phones cups photos lessons steps minutes boxes shirts songs stamps coins engines bridges islands windows
    bicycles messages
""")
_FRAMES = (
    "The train to {place} leaves at {time}.",
    "{name} was born on {date}, {year}.",
    "The meeting is on {day} at {time} in room {small}.",
    "It costs ${price}, or ${whole} for two.",
    "About {percent}% of the {things} were sold in {year}.",
    "{title} {last} will see you at {time} on {day}.",
    "There are {count} {things} in the hall.",
    "Please call {first} before {time}.",
    "Flight {flight} from {place} to {other} is {small} minutes late.",
    "In {year}, {place} had {big} inhabitants.",
    "{first} ran {decimal} km in {small} minutes.",
    "The museum opened in {year} and closed in {later}.",
    "You need {small} eggs and {grams} grams of flour.",
    "{name} lives at {count} Main St. in {place}.",
    "Add {small} and {tens}, and you get {sum}.",
    "Turn to page {count} and read lines {small} to {tens}.",
    "The score was {small} to {tens}, and {first} scored twice.",
    "On {date} it was {tens} degrees in {place}.",
    "The bill from {last} & Co. comes to ${price}.",
    "{title} {last} bought {count} {things} for ${big}.",
    "My number is {digits}, and my room is {count}.",
    "{first} and {other_first} waited from {time} until {later_time}.",
    "Chapter {small} begins on page {count}.",
    "The population grew by {decimal}% between {year} and {later}.",
    "Bus {count} stops here every {small} minutes.",
    "Mt. {last} is {big} feet high.",
    "World War II ended in {year}, said {name}.",
    "{name} paid {whole} dollars and {tens} cents.",
    "It happened {small} years ago, on a {day} in {month}.",
    "The {ordinal} of {month} is a {day}.",
    "{first} finished {ordinal} out of {count}.",
    "Send {tens} {things} to {name} in {place} by {date}.",
    "The U.S. team arrived in {place} on {date}.",
    "A ticket to {other} is ${whole}, said {title} {last}.",
    "Is {title} {last} free on {day}, or at {time} on {date}?",
    "Why did {first} need {count} {things}?",
    "{percent}% is less than {tens} out of {tens}.",
    "{place} is {big} miles from {other}.",
)


@cache
def open_texts(folder: Path, split: Split, kind: str) -> tuple[str, ...]:
    """Return the texts of a kind and a split in a fixed order that mixes them well; none of them is in two kinds.

    Args:
        folder (`Path`): Keeps the Debian packages, which are downloaded once.
        split (`"train"`, `"validation"` or `"test"`): Which.
        kind (`str`): One of `KINDS`.

    Raises:
        `ValueError`: There is no such kind.
    """
    if kind not in KINDS:
        raise ValueError(f"`kind` must be one of {list(KINDS)}, got {kind!r}.")
    return tuple(text for text in _all_texts(folder)[kind] if {split_of(part) for part in _parts(text)} == {split})


def _parts(text: str) -> list[str]:
    """Return a text and its clauses, which may be sentences elsewhere."""
    clauses = re.split(r"[;:,.?!]", text)
    return [text, *(clause for clause in clauses if len(clause.split()) >= MIN_WORDS)] if len(clauses) > 2 else [text]


@cache
def _all_texts(folder: Path) -> dict[str, tuple[str, ...]]:
    for name in PACKAGES:
        root = fetch_package(name, folder)
    entries = list(wordnet_entries(root))
    sources = {
        "number": _draw_numbers(),
        "fortune": (sentence for saying in fortunes(root) for sentence in _split(saying)),
        "example": (example for _, _, examples in entries for example in examples),
        "verse": _verses(bible(root)),
        "entry": (f"{words[0]}: {definition}" for words, definition, _ in entries if _is_entry(definition)),
        "definition": (definition for _, definition, _ in entries if not _is_entry(definition)),
    }
    seen: set[str] = set()
    found = {}
    for kind, texts in sources.items():
        chosen = {}
        for text in texts:
            text = finish(text)
            key = sentence_key(text)
            if key not in seen and is_readable(text):
                seen.add(key)
                chosen[key] = text
        found[kind] = tuple(chosen[key] for key in sorted(chosen, key=choose_rank))
    return found


def _is_entry(definition: str) -> bool:
    """Return whether a definition is said with its word: one half of all."""
    return choose_rank(definition) < b"\x80"


def is_readable(text: str) -> bool:
    """Return whether a text can be said in a few seconds and has no characters that are not said."""
    return (
        len(text) <= MAX_CHARACTERS
        and MIN_WORDS <= len(text.split()) <= MAX_WORDS
        and _READABLE.fullmatch(text) is not None
    )


def finish(text: str) -> str:
    """Return a text on one line, capitalised, with a mark at its end and none inside that cannot be heard."""
    text = text.replace("`", "'").replace("--", ", ").replace('"', "").replace("''", "")
    text = re.sub(r"\([^()]*\)", " ", text)
    text = re.sub(r"\.\.$", ".", text)
    text = re.sub(r"\s+([,.;:?!])", r"\1", " ".join(text.split())).strip(" ,;:-'")
    if not text:
        return text
    return text[0].upper() + text[1:] + ("" if text[-1] in ".?!" else ".")


def _split(saying: str) -> Iterator[str]:
    """Yield the sentences of a saying, without who said it."""
    said = re.split(r"\n\s*--", saying)[0]
    for sentence in re.split(r"(?<=[.?!])\s+(?=[A-Z])", " ".join(said.split())):
        if sentence[-1:] in (".", "?", "!") and not re.search(r"\b[A-Z]{4,}\b", sentence):
            yield sentence


def _verses(verses: Iterable[str]) -> Iterator[str]:
    for verse in verses:
        verse = verse.replace("LORD", "Lord")
        yield from [verse] if is_readable(finish(verse)) else re.split(r"[;:.?!()]", verse)


def _draw_numbers() -> Iterator[str]:
    draw = random.Random(0)
    for _ in range(NUM_NUMBERS):
        yield draw.choice(_FRAMES).format(**_slots(draw))


def _slots(draw: random.Random) -> dict[str, object]:
    place, other = draw.sample(PLACES, 2)
    first, other_first = draw.sample(FIRST_NAMES, 2)
    last, hour = draw.choice(LAST_NAMES), draw.randint(1, 11)
    small, tens = draw.randint(2, 20), draw.randint(21, 99)
    year = draw.randint(1700, 2029)
    day = draw.randint(1, 28)
    minutes = draw.choice(("00", "05", "10", "15", "20", "30", "40", "45", "50", "55", f"{draw.randint(10, 59)}"))
    suffix = "th" if 10 < day < 14 else {1: "st", 2: "nd", 3: "rd"}.get(day % 10, "th")
    return {
        "place": place, "other": other, "first": first, "other_first": other_first, "last": last,
        "name": f"{first} {last}", "title": draw.choice(("Mr.", "Mrs.", "Dr.", "Ms.", "Prof.")),
        "time": f"{hour}:{minutes}" + draw.choice(("", " a.m.", " p.m.")), "later_time": f"{hour + 1}:{minutes}",
        "date": f"{draw.choice(_MONTHS)} {day}", "month": draw.choice(_MONTHS), "day": draw.choice(_DAYS),
        "ordinal": f"{day}{suffix}", "year": year, "later": year + draw.randint(1, 60),
        "small": small, "tens": tens, "sum": small + tens, "count": draw.choice((draw.randint(100, 999), small, tens)),
        "whole": draw.randint(3, 400), "price": f"{draw.randint(1, 99)}.{draw.randint(10, 99)}",
        "percent": draw.randint(2, 99), "decimal": f"{draw.randint(1, 30)}.{draw.randint(1, 9)}",
        "grams": draw.randint(2, 20) * 50,
        "big": draw.choice((draw.randint(1000, 9999), f"{draw.randint(10, 900)},000")),
        "digits": " ".join(str(draw.randint(0, 9)) for _ in range(draw.randint(3, 6))),
        "flight": draw.randint(100, 999), "things": draw.choice(_THINGS),
    }  # fmt: skip
