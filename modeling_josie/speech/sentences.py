"""Tokens that end a sentence: where a text that is longer than the Talker's positions may be cut."""

from typing import Any
from weakref import WeakKeyDictionary

_SENTENCE_ENDS = (".", "!", "?", "…", "。", "！", "？", ";", ":")
_CLOSING = "\"')]}”’»"
# Of each tokenizer: its size, and what was found. A large vocabulary takes a tenth of a second to look through.
_FOUND: WeakKeyDictionary[Any, tuple[int, list[int]]] = WeakKeyDictionary()


def find_sentence_ends(tokenizer: Any) -> list[int]:
    """Return the ids of a tokenizer's tokens that end with the punctuation of a sentence.

    They are what `talker_sentence_end_ids` takes.

    Args:
        tokenizer: Of transformers.
    """
    size, ids = _FOUND.get(tokenizer, (0, []))
    if size != len(tokenizer):
        special = set(tokenizer.all_special_ids)
        ids = sorted(
            index
            for token, index in tokenizer.get_vocab().items()
            if index not in special and token.rstrip(_CLOSING).endswith(_SENTENCE_ENDS)
        )
        _FOUND[tokenizer] = len(tokenizer), ids
    return ids
