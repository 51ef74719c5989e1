"""Real sentences that a small model can learn to read aloud and to write down.

They are examples of usage from WordNet and clauses of the King James Bible, written with the most common words of both
and without the forms that no one uses today, since neither speech recognisers nor voices know them. Which split a
sentence is in depends on nothing but its letters: no sentence is in two, however it is spelled or capitalised.
"""

import hashlib
import random
import re
from collections import Counter
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Literal

from recipes.debian import fetch_package
from recipes.debian_texts import bible, wordnet
from recipes.speech_data import SpeechDataArguments, choose_split, sentence_key

PACKAGES = ("bible-kjv", "bible-kjv-text", "wordnet-base")
NUM_WORDS = 1500
MIN_WORDS, MAX_WORDS = 3, 10
_PHRASE_WORDS = (2, 6)

_WORDS = re.compile(r"[a-z]+(?:'[a-z]+)?(?: [a-z]+(?:'[a-z]+)?)*")
_ARCHAIC = re.compile(
    r"\b(?:thou|thee|thy|thine|ye|hath|hast|shalt|unto|doth|thereof|wherefore|saith|thyself|yea|nay|wilt|art)\b|"
    r"\b(?!(?:rest|best|west|east|priest|harvest|forest|greatest|teeth|lest|test|guest|highest|midst)\b)\w+(?:est|eth)\b"
)
_SPLIT = SpeechDataArguments(sources=[{"name": "flite"}], validation_share=0.02, test_share=0.03)

Split = Literal["train", "validation", "test"]


def split_of(text: str) -> Split:
    """Return the split of a sentence."""
    return choose_split(sentence_key(text), _SPLIT)  # type: ignore[return-value]


def phrases(folder: Path, count: int) -> tuple[str, ...]:
    """Return so many rows of random words of the training sentences, each word as often as any other.

    Half of the words of real sentences are a few dozen words, and some of the others hardly ever come: whoever learns
    to speak from sentences alone never learns these.

    Args:
        folder (`Path`): Keeps the Debian packages.
        count (`int`): How many; more begin with the same ones. None is of another split by chance.
    """
    words = sorted({word for text in sentences(folder, "train") for word in text.rstrip(".").lower().split()})
    draw, found = random.Random(0), {}
    while len(found) < count:
        text = _finish(" ".join(draw.choices(words, k=draw.randint(*_PHRASE_WORDS))))
        if split_of(text) == "train":
            found[text] = None
    return tuple(found)


@cache
def sentences(folder: Path, split: Split) -> tuple[str, ...]:
    """Return the sentences of a split in a fixed order that mixes them well, capitalised, with a full stop.

    Args:
        folder (`Path`): Keeps the Debian packages, which are downloaded once.
        split (`"train"`, `"validation"` or `"test"`): Which.
    """
    for name in PACKAGES:
        root = fetch_package(name, folder)
    found = set(_examples(wordnet(root))) | set(_clauses(bible(root)))
    counts = Counter(word for text in found for word in text.split())
    common = {word for word, _ in sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:NUM_WORDS]}
    chosen = sorted((sentence_key(text)[::-1], text) for text in found if common.issuperset(text.split()))
    unique = dict(chosen)  # one spelling of each
    ranked = sorted(unique, key=choose_rank)
    return tuple(_finish(unique[key]) for key in ranked if split_of(unique[key]) == split)


def choose_rank(key: str) -> bytes:
    """Return what a sentence is sorted by: mixed, and the same on every machine."""
    return hashlib.blake2b(key.encode(), digest_size=8).digest()


def _examples(glosses: Iterable[str]) -> Iterable[str]:
    for gloss in glosses:
        for example in re.findall(r'"([^"]+)"', gloss):
            yield from _plain(example.rstrip(".!?"))


def _clauses(verses: Iterable[str]) -> Iterable[str]:
    for verse in verses:
        for clause in re.split(r"[;:,.?!()]", verse):
            clause = clause.strip().replace("LORD", "Lord")
            names = set(re.findall(r"(?<!^)\b[A-Z]\w*", clause)) - {"Lord", "God", "I"}
            if not names:
                yield from _plain(clause)


def _plain(text: str) -> Iterable[str]:
    text = " ".join(text.lower().split())
    if _WORDS.fullmatch(text) and MIN_WORDS <= len(text.split()) <= MAX_WORDS and not _ARCHAIC.search(text):
        yield text


def _finish(text: str) -> str:
    text = re.sub(r"\bi\b", "I", text)
    text = re.sub(r"\b(lord|god)\b", lambda found: found[0].capitalize(), text)
    return f"{text[0].upper()}{text[1:]}."
