"""Tokens that end a sentence: where a text that is longer than the Talker's positions may be cut."""

from typing import Any

_SENTENCE_ENDS = (".", "!", "?", "…", "。", "！", "？", ";", ":")
_CLOSING = "\"')]}”’»"


def find_sentence_ends(tokenizer: Any) -> list[int]:
    """Return the ids of a tokenizer's tokens that end with the punctuation of a sentence, for
    `talker_sentence_end_ids`.

    Args:
        tokenizer: Of transformers.
    """
    special = set(tokenizer.all_special_ids)
    tokens = tokenizer.get_vocab().items()
    return sorted(
        index for token, index in tokens if index not in special and token.rstrip(_CLOSING).endswith(_SENTENCE_ENDS)
    )
