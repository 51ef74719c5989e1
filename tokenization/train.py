"""Training of a tokenizer: byte-level BPE, so that every text has tokens and comes back exactly.

Notable choices: digits stand alone, so that a number is spelled; nothing is normalised; the special tokens come first,
so that their ids are the same in every vocabulary.
"""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

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

CHAT_TEMPLATE_FILE = Path(__file__).parent / "default" / "chat_template.jinja"
MIN_VOCAB_SIZE = len(SPECIAL_TOKENS) + 256


def load_chat_template() -> str:
    """Return the chat template that every tokenizer of the package carries."""
    return CHAT_TEMPLATE_FILE.read_text(encoding="utf-8")


def train_tokenizer(
    texts: Iterable[str] | None = None,
    vocab_size: int = 8192,
    *,
    files: Sequence[str | Path] | None = None,
    min_frequency: int = 2,
    model_max_length: int | None = None,
    show_progress: bool = False,
) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE tokenizer (Sennrich et al., 2016; bytes as in GPT-2, Radford et al., 2019).

    The same texts in the same order give the same tokenizer.

    Args:
        texts (`Iterable[str]`, *optional*): The training text, read once.
        vocab_size (`int`): Number of tokens in all, special ones included.
        files (`Sequence[str | Path]`, *optional*): UTF-8 text files to read in place of `texts`.
        min_frequency (`int`): How often a pair must occur to be merged.
        model_max_length (`int`, *optional*): Longest sequence the model is meant for, in tokens; unlimited when `None`.
        show_progress (`bool`): Show a progress bar.

    Returns:
        [`PreTrainedTokenizerFast`] with padding on the left, the chat template, and ids 0, 1, ... for
        [`SPECIAL_TOKENS`]. It has fewer tokens than `vocab_size` when the text has too few pairs to merge.

    Raises:
        `ValueError`: A size out of range, both or neither of `texts` and `files`, no text, or an unreadable file.
    """
    if (texts is None) == (files is None):
        raise ValueError(
            "Exactly one of `texts` and `files` must be given, got " + ("neither." if texts is None else "both.")
        )
    if isinstance(texts, str) or isinstance(files, (str, Path)):
        raise ValueError(
            "`texts` and `files` must be sequences, got a single " + ("text." if files is None else "path.")
        )
    if vocab_size < MIN_VOCAB_SIZE:
        raise ValueError(
            f"`vocab_size` must be at least {MIN_VOCAB_SIZE} (special tokens and bytes), got {vocab_size}."
        )
    if min_frequency < 1:
        raise ValueError(f"`min_frequency` must be at least 1, got {min_frequency}.")

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=min_frequency,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=show_progress,
    )
    source = texts if texts is not None else _read_lines(files or ())
    tokenizer.train_from_iterator(_require_texts(source), trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS_TOKEN} $A",
        pair=f"{BOS_TOKEN} $A $B",
        special_tokens=[(BOS_TOKEN, tokenizer.token_to_id(BOS_TOKEN))],
    )
    return wrap_tokenizer(tokenizer, model_max_length)


def wrap_tokenizer(tokenizer: Tokenizer, model_max_length: int | None = None) -> PreTrainedTokenizerFast:
    """Give a tokenizer whose vocabulary holds [`SPECIAL_TOKENS`] their roles, the chat template, and left padding.

    Args:
        tokenizer (`tokenizers.Tokenizer`): The tokenizer.
        model_max_length (`int`, *optional*): Longest sequence the model is meant for, in tokens.
    """
    limit = {} if model_max_length is None else {"model_max_length": model_max_length}
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD_TOKEN,
        bos_token=BOS_TOKEN,
        eos_token=EOS_TOKEN,
        extra_special_tokens={
            "system_token": SYSTEM_TOKEN,
            "user_token": USER_TOKEN,
            "assistant_token": ASSISTANT_TOKEN,
            "image_token": IMAGE_TOKEN,
            "video_token": VIDEO_TOKEN,
            "audio_token": AUDIO_TOKEN,
        },
        padding_side="left",  # what generation needs
        clean_up_tokenization_spaces=False,
        **limit,
    )
    wrapped.chat_template = load_chat_template()
    return wrapped


def _read_lines(files: Sequence[str | Path]) -> Iterator[str]:
    for path in files:
        try:
            with open(path, encoding="utf-8-sig", newline="") as lines:
                yield from lines
        except (OSError, UnicodeDecodeError) as error:
            raise ValueError(f"`files` must be readable UTF-8 text, got {str(path)!r}: {error}.") from error


def _require_texts(texts: Iterable[str]) -> Iterator[str]:
    """Pass texts on, and refuse what is no text and an end without any."""
    empty = True
    for text in texts:
        if not isinstance(text, str):
            raise ValueError(f"`texts` must hold strings, got a {type(text).__name__}.")
        empty = empty and not text
        yield text
    if empty:
        raise ValueError("`texts` must hold at least one text that is not empty, got none.")
