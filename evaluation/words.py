"""Words and word errors: when two texts say the same, and how many words are wrong.

Texts are made comparable by the English normaliser of Whisper (Radford et al., 2022, appendix C), as transformers has
it: lower case, no punctuation, no words in brackets, no "um", contractions in full, numbers in digits, American
spelling. A few rules come before it, for what recognisers write in either way and the normaliser tells apart. Errors
are counted by jiwer.

`english_spellings.json` is the table of spellings that belongs to the normaliser; transformers expects it from a
checkpoint. It is OpenAI's, under the MIT licence, see NOTICE.
"""

import json
import re
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path

import jiwer

_SPELLINGS = Path(__file__).with_name("english_spellings.json")
_APOSTROPHES = str.maketrans("\N{RIGHT SINGLE QUOTATION MARK}\N{MODIFIER LETTER APOSTROPHE}", "''")
# Spellings of one word or sound; the second is what is compared.
_ALIKE = [
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"\bcannot\b", "can not"),
        (r"\balright\b", "all right"),
        (r"\bgood(bye|night)\b", r"good \1"),
        (r"\bok\b", "okay"),
        (r"&", " and "),
    )
]


@lru_cache(maxsize=1)
def _load_normalizer() -> Callable[[str], str]:
    from transformers.models.whisper.english_normalizer import EnglishTextNormalizer

    return EnglishTextNormalizer(json.loads(_SPELLINGS.read_text(encoding="utf-8")))


def split_words(text: str) -> list[str]:
    """Return the words of a text as they are compared: "Two colours aren't 2%." is `2 colors are not 2%`."""
    text = text.lower().translate(_APOSTROPHES)
    for pattern, replacement in _ALIKE:
        text = pattern.sub(replacement, text)
    words = _load_normalizer()(text).split()
    return [word for word in words if any(character.isalnum() for character in word)]


def count_word_errors(heard: Sequence[str], said: Sequence[str]) -> int:
    """Return the fewest words to insert, delete or replace that make `heard` of `said` (Levenshtein, 1966)."""
    counts = jiwer.process_words(" ".join(said), " ".join(heard))
    return counts.insertions + counts.deletions + counts.substitutions


def word_error_rate(heard: Sequence[str], said: Sequence[str]) -> float:
    """Return the word error rate of texts: errors in all of them, divided by the words that were said.

    Args:
        heard, said (`Sequence[str]`): As many texts of each, which [`split_words`] makes comparable.

    Raises:
        `ValueError`: Different numbers of texts, or no word was said.
    """
    if len(heard) != len(said):
        raise ValueError(f"`heard` must be as many texts as `said` ({len(said)}), got {len(heard)}.")
    references = [split_words(text) for text in said]
    if not any(references):
        raise ValueError(f"`said` must have at least one word, got {len(said)} texts without any.")
    hypotheses = [split_words(text) for text in heard]
    return jiwer.process_words([" ".join(words) for words in references], [" ".join(words) for words in hypotheses]).wer
