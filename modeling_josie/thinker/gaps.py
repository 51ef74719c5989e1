"""Gaps: positions that the mask hides behind a row's first token, as padding behind learned prompts is."""

import inspect
from itertools import chain
from typing import Any

import torch
from torch import nn
from transformers.utils import torch_compilable_check


def list_gap_readers(backbone: Any) -> list[str]:
    """Return what in a text backbone reads positions that are hidden between others; it is right without them alone.

    Windows, chunks and the biases of MPT count them, states and convolutions go on over them.

    Args:
        backbone (`PreTrainedModel`): Of any family.
    """
    config = backbone.config
    found = [name for name in ("sliding_window", "attention_chunk_size") if getattr(config, name, None) is not None]
    kinds = [getattr(config, name, None) or () for name in ("layer_types", "layers_block_type", "block_types")]
    kinds.append(getattr(config, "attention_layers", None) or ())  # of GPT-Neo
    others = {str(kind) for kind in chain(*kinds)} - {"full_attention", "attention", "global"}
    if getattr(type(backbone), "_is_stateful", False):
        others.add("state")
    if config.model_type == "mpt":  # Bloom's and Falcon's biases count by the mask
        others.add("alibi")
    return found + sorted(others)


def counts_by_mask(backbone: nn.Module) -> bool:
    """Return whether a text backbone counts positions by the mask itself (OPT, BioGPT): each row from its first token.

    Args:
        backbone (`nn.Module`): Of any family.
    """
    tables = [module for module in backbone.modules() if isinstance(module, nn.Embedding)]
    return any("attention_mask" in inspect.signature(table.forward).parameters for table in tables)


def count_positions(attention_mask: torch.Tensor, length: int) -> torch.Tensor:
    """Return the positions of the last `length` columns, `(batch, length)`; gaps are not counted.

    In front of a row's first token columns count, as in transformers where no positions are given.

    Args:
        attention_mask (`torch.Tensor`): `(batch, past + length)`, 0 for what is hidden.
        length (`int`): How many columns are new.
    """
    hidden = attention_mask == 0
    gaps = (hidden & _has_begun(hidden)).cumsum(dim=1)
    return (torch.arange(hidden.shape[1], device=hidden.device) - gaps)[:, -length:]


def refuse_gaps(backbone: Any, attention_mask: torch.Tensor) -> None:
    """Raise a `ValueError` if there are gaps between tokens and a text backbone would read them.

    It waits for the device where one would.

    Args:
        backbone (`PreTrainedModel`): Of any family.
        attention_mask (`torch.Tensor`): `(batch, past + length)`, 0 for what is hidden.
    """
    readers = list_gap_readers(backbone)
    if not readers:
        return
    hidden = attention_mask == 0
    ends = hidden[:, :-1] & ~hidden[:, 1:] & _has_begun(hidden)[:, :-1]
    torch_compilable_check(
        ~ends.any(),
        lambda: (
            f"`attention_mask` must hide nothing between the tokens of a row in a text backbone with {readers}, which "
            "would read positions that are none, got padding there: behind learned prompts or a cache, rows must be "
            "padded on the right, or as long as each other."
        ),
    )


def _has_begun(hidden: torch.Tensor) -> torch.Tensor:
    """Return where a row has had a token, `(batch, length)`."""
    return (~hidden).cumsum(dim=1) > 0
