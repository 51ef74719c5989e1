"""Times of words and tokens in a recording, from the phones of flite: what an aligner would find in others."""

import subprocess
from collections.abc import Sequence
from functools import cache

import numpy as np
from transformers import PreTrainedTokenizerBase

from recipes.debian import require_tool

PAUSE = "pau"
_MARKS = ".,;:?!"
_QUICK_VOICE = "kal16"  # whose words have the phones of any other's


@cache
def pronounce(word: str) -> tuple[str, ...]:
    """Return the phones of a word that is said by itself."""
    command = [require_tool("flite", "flite"), "-voice", _QUICK_VOICE, "-ps", "-t", word, "none"]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    return tuple(phone for phone in said if phone != PAUSE)


def time_words(words: Sequence[str], phones: Sequence[str], ends: Sequence[float]) -> list[float]:
    """Return when each word of a recording ends, in seconds.

    What is said of the words one by one is laid over the phones of the recording with as few changes as possible
    (Levenshtein, 1966): in a sentence some vowels are weaker.

    Args:
        words (`list[str]`): What is said.
        phones, ends (`list`): The recording's, pauses included, and when each ends, in seconds.
    """
    said = [(phone, end) for phone, end in zip(phones, ends, strict=True) if phone != PAUSE]
    wanted = [(phone, index) for index, word in enumerate(words) for phone in pronounce(word)]
    costs = np.zeros((len(wanted) + 1, len(said) + 1))
    costs[:, 0], costs[0] = np.arange(len(wanted) + 1), np.arange(len(said) + 1)
    for row, (phone, _) in enumerate(wanted):
        for column, (other, _) in enumerate(said):
            changed = costs[row, column] + (phone != other)
            costs[row + 1, column + 1] = min(changed, costs[row, column + 1] + 1, costs[row + 1, column] + 1)
    times, row, column = [0.0] * len(words), len(wanted), len(said)
    while row and column:
        (phone, word), (other, end) = wanted[row - 1], said[column - 1]
        if costs[row, column] == costs[row - 1, column - 1] + (phone != other):
            times[word] = max(times[word], end)
            row, column = row - 1, column - 1
        elif costs[row, column] == costs[row - 1, column] + 1:
            row -= 1
        else:
            column -= 1
    return np.maximum.accumulate(times).tolist()


def time_text(text: str, phones: Sequence[str], ends: Sequence[float]) -> list[float]:
    """Return when a text begins, and when each of its words ends, in seconds.

    Args:
        text (`str`): What is said; its words are what white space separates.
        phones, ends (`list`): As of [`time_words`].
    """
    words = [word.strip(_MARKS) for word in text.split()]
    return [ends[0] if phones[0] == PAUSE else 0.0, *time_words(words, phones, ends)]


def time_tokens(
    text: str, tokenizer: PreTrainedTokenizerBase, word_times: Sequence[float], seconds: float
) -> list[float]:
    """Return how long each token of a text is said, in seconds, in all as long as the recording.

    The letters of a word share its time. The pause before the first word is part of the first token, and that after
    the last word is part of what stands behind it.

    Args:
        text (`str`): What is said.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]): Of fast ones, which know where tokens stand.
        word_times (`list[float]`): As of [`time_text`].
        seconds (`float`): Length of the recording.
    """
    places, place = [0], 0
    for word in text.split():
        place = text.index(word, place) + len(word.rstrip(_MARKS))
        places.append(place)
    bounds = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
    edges = [0, *(end for _, end in bounds)]
    at = np.interp(edges, [*places, len(text)], [*word_times, seconds])
    at[0], at[-1] = 0.0, seconds
    return np.diff(at).tolist()
