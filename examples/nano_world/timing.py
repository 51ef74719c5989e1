"""Times at which tokens are said, from the phones of a recording, which flite itself knows: no aligner is needed."""

from collections.abc import Sequence

from recipes import word_times
from recipes.word_times import PAUSE, pronounce, time_text, time_words
from transformers import PreTrainedTokenizerBase

__all__ = ["PAUSE", "pronounce", "time_tokens", "time_words"]


def time_tokens(
    text: str, tokenizer: PreTrainedTokenizerBase, phones: Sequence[str], ends: Sequence[float], seconds: float
) -> list[float]:
    """Return how long each token of a text is said, in seconds, in all as long as the recording.

    Args:
        text (`str`): What is said.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]): Of fast ones, which know where tokens stand.
        phones, ends (`list`): As [`nano_world.speech.speak_in_time`] gives them.
        seconds (`float`): Length of the recording.
    """
    return word_times.time_tokens(text, tokenizer, time_text(text, phones, ends), seconds)
