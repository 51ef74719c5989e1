"""Text to tokens: the special tokens, the chat template, and the tokenizer that ships with the package.

Reading order: `special_tokens`, `train`, `shrink`.
"""

from pathlib import Path

from transformers import PreTrainedTokenizerFast

from .shrink import shrink_tokenizer
from .special_tokens import (
    ASSISTANT_TOKEN,
    AUDIO_TOKEN,
    BOS_TOKEN,
    EOS_TOKEN,
    IMAGE_TOKEN,
    PAD_TOKEN,
    SPECIAL_TOKENS,
    SYSTEM_TOKEN,
    USER_TOKEN,
    VIDEO_TOKEN,
)
from .train import load_chat_template, train_tokenizer, wrap_tokenizer

DEFAULT_TOKENIZER_FOLDER = Path(__file__).parent / "default"


def load_default_tokenizer(vocab_size: int | None = None) -> PreTrainedTokenizerFast:
    """Return the tokenizer that ships with the package; `examples/train_tokenizer.py` made it.

    Args:
        vocab_size (`int`, *optional*): Most tokens that the model has room for; the first of them are kept.
    """
    tokenizer = PreTrainedTokenizerFast.from_pretrained(DEFAULT_TOKENIZER_FOLDER)
    return tokenizer if vocab_size is None else shrink_tokenizer(tokenizer, vocab_size)


__all__ = [
    "ASSISTANT_TOKEN",
    "AUDIO_TOKEN",
    "BOS_TOKEN",
    "DEFAULT_TOKENIZER_FOLDER",
    "EOS_TOKEN",
    "IMAGE_TOKEN",
    "PAD_TOKEN",
    "SPECIAL_TOKENS",
    "SYSTEM_TOKEN",
    "USER_TOKEN",
    "VIDEO_TOKEN",
    "load_chat_template",
    "load_default_tokenizer",
    "shrink_tokenizer",
    "train_tokenizer",
    "wrap_tokenizer",
]
