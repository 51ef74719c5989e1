"""Vocabulary of an assembled model: the language model's, with JOSIE's special tokens behind it."""

from typing import Any, cast

import torch
from transformers import PreTrainedTokenizerBase
from transformers.modeling_utils import PreTrainedModel

from ...tokenization import AUDIO_TOKEN, IMAGE_TOKEN, PAD_TOKEN, SPECIAL_TOKENS, VIDEO_TOKEN, load_chat_template
from .chat_template import begin_with_bos, extend_chat_template
from .reading import Source

PLACEHOLDERS = (IMAGE_TOKEN, VIDEO_TOKEN, AUDIO_TOKEN)


def extend_tokenizer(tokenizer: PreTrainedTokenizerBase, num_rows: int, source: Source) -> tuple[list[int], list[int]]:
    """Add JOSIE's placeholders, padding and chat template to a tokenizer, in place.

    A tokenizer with a chat template of its own keeps its roles and gets the placeholders alone; one without gets
    JOSIE's template and all of its special tokens. A padding token is added where there is none. Where the tokenizer
    puts a token in front of texts, the template does so too.

    Args:
        tokenizer ([`PreTrainedTokenizerBase`]): The backbone's.
        num_rows (`int`): Rows of the backbone's embedding.
        source (`str` or `Path`): Its source, for messages.

    Returns:
        The ids that the backbone has learned, and those that it has not.

    Raises:
        `ValueError`: The tokenizer has more tokens than the embedding has rows, or a template that cannot be extended.
    """
    # Added tokens may lie beyond the embedding (Gemma 3 has one); they are new here.
    beyond = max(tokenizer.get_vocab().values(), default=0)
    added = cast(Any, tokenizer).get_added_vocab().values()
    base = max(set(tokenizer.get_vocab().values()) - set(added), default=0)
    if base >= num_rows:
        raise ValueError(
            f"`text` must have a tokenizer whose ids are below the {num_rows} rows of its model's embedding, "
            f"got {str(source)!r}, with ids up to {beyond}."
        )
    known = {index for index in tokenizer.get_vocab().values() if index < num_rows}
    tokens = list(PLACEHOLDERS if tokenizer.chat_template else (t for t in SPECIAL_TOKENS if t != PAD_TOKEN))
    tokenizer.add_special_tokens({"extra_special_tokens": tokens}, replace_extra_special_tokens=False)
    if tokenizer.pad_token is None:
        tokenizer.add_special_tokens({"pad_token": PAD_TOKEN})
    tokenizer.padding_side = "left"  # what generation needs
    template = tokenizer.chat_template
    if isinstance(template, dict):  # one for each use
        tokenizer.chat_template = {name: _extend(tokenizer, text) for name, text in template.items()}
    else:
        tokenizer.chat_template = _extend(tokenizer, template)
    return sorted(known), sorted(set(tokenizer.get_vocab().values()) - known)


def _extend(tokenizer: PreTrainedTokenizerBase, template: str | None) -> str:
    """Return an extended chat template, JOSIE's where there is none, that begins as the tokenizer's texts do."""
    special_tokens = tokenizer.special_tokens_map
    template = extend_chat_template(template, special_tokens) if template else load_chat_template()
    adds_bos = tokenizer.bos_token_id is not None and tokenizer("")["input_ids"][:1] == [tokenizer.bos_token_id]
    return begin_with_bos(template, special_tokens) if adds_bos else template


def extend_embeddings(
    model: PreTrainedModel, known_ids: list[int], new_ids: list[int], ends: tuple[int | None, int | None] = (None, None)
) -> None:
    """Give new tokens rows in a language model's embedding and head, its bias too: the mean of the known tokens' rows.

    The mean of all logits is never above all of them, so that new tokens are not written before they are trained. A
    language model that stays frozen could never write the end of a turn then, which so is as likely as its end of text
    is. A model with spare rows behind its vocabulary gets no larger.

    Args:
        model (`PreTrainedModel`): The language model, changed in place.
        known_ids (`list[int]`): The ids it has learned.
        new_ids (`list[int]`): The ids to add.
        ends (`tuple[int, int]`): The end of a turn, if it is new, and the known end of text whose row it gets.
    """
    rows: Any = model.get_input_embeddings().weight
    num_rows = rows.shape[0]
    if max(new_ids, default=0) >= num_rows:
        model.resize_token_embeddings(max(new_ids) + 1, mean_resizing=False)
    head: Any = model.get_output_embeddings()
    tables = [model.get_input_embeddings().weight, head.weight, *([] if head.bias is None else [head.bias])]
    if getattr(model.config.get_text_config(), "hidden_size_per_layer_input", None):
        tables.append(cast(Any, model).get_per_layer_input_embeddings().weight)
    with torch.no_grad():
        for table in {id(table): table for table in tables}.values():
            # Tables of layers may be shorter.
            known, new = ([index for index in ids if index < len(table)] for ids in (known_ids, new_ids))
            table[new] = table[known].mean(dim=0, dtype=torch.float32).to(table.dtype)
            end_of_turn, end_of_text = ends
            if end_of_turn in new and end_of_text in known:
                table[end_of_turn] = table[end_of_text]
