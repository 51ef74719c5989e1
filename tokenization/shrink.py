"""A tokenizer with fewer tokens, for models whose vocabulary is smaller.

Byte-pair encoding learns its merges one after the other, so the first tokens of a vocabulary are the tokenizer that the
same text would have given with a smaller one.
"""

import json

from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from .train import MIN_VOCAB_SIZE, wrap_tokenizer


def shrink_tokenizer(tokenizer: PreTrainedTokenizerFast, vocab_size: int) -> PreTrainedTokenizerFast:
    """Return `tokenizer`, made by [`train_tokenizer`], with at most the first `vocab_size` of its tokens.

    Raises:
        `ValueError`: `vocab_size` has no room for the special tokens and the bytes.
    """
    if vocab_size < MIN_VOCAB_SIZE:
        raise ValueError(
            f"`vocab_size` must be at least {MIN_VOCAB_SIZE} (special tokens and bytes), got {vocab_size}."
        )
    if len(tokenizer) <= vocab_size:
        return tokenizer
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    model = state["model"]
    model["vocab"] = {token: index for token, index in model["vocab"].items() if index < vocab_size}
    model["merges"] = [pair for pair in model["merges"] if "".join(pair) in model["vocab"]]
    return wrap_tokenizer(Tokenizer.from_str(json.dumps(state)))
