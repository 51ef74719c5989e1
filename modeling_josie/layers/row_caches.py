"""Rows that have a cache each: they run through a backbone together, and each attends to its own past.

The rows of a batch usually share a cache, and with it their length. Here every row, or group of rows, has been running
for a time of its own: what they share is the reading of the weights. Nothing is padded, so a row computes what it would
compute alone, but for the rounding of products of matrices with more rows.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import nn

from .backbone import JosieBackbone


class RowCaches:
    """Caches of several groups of rows, which take keys and values as one.

    Args:
        caches (`Sequence`): Each has `update` and `get_seq_length` of transformers' caches.
        sizes (`Sequence[int]`, *optional*): Rows of each; one each when `None`.
    """

    def __init__(self, caches: Sequence[Any], sizes: Sequence[int] | None = None):
        self.caches = list(caches)
        self.sizes = [1] * len(self.caches) if sizes is None else list(sizes)

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[tuple[torch.Tensor, ...], tuple[torch.Tensor, ...]]:
        """Give each cache its rows; return the keys and the values of each.

        Args:
            key_states, value_states (`torch.Tensor`): `(batch, heads, length, head_dim)`.
            layer_idx (`int`): The layer.
        """
        new = zip(self.caches, key_states.split(self.sizes), value_states.split(self.sizes), strict=True)
        keys, values = zip(*(cache.update(key, value, layer_idx) for cache, key, value in new), strict=True)
        return keys, values


@lru_cache(maxsize=64)
def _causal_mask(length: int, num_keys: int, window: int | None, device: torch.device) -> torch.Tensor | None:
    """Return `(length, num_keys)`, true where a step sees a key, of which the last are the steps' own."""
    if length == 1 and (window is None or num_keys <= window):
        return None
    with torch.inference_mode(False):
        ages = torch.arange(num_keys - length, num_keys)[:, None] - torch.arange(num_keys)
        seen = (ages >= 0) if window is None else (ages >= 0) & (ages < window)
        return seen.to(device)


def attend_by_rows(
    module: nn.Module,
    query: torch.Tensor,
    keys: Sequence[torch.Tensor],
    values: Sequence[torch.Tensor],
    masks: Sequence[torch.Tensor | None] | None,
    scaling: float,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Attention of groups of rows, each to its own keys; whatever the configured attention is.

    Args:
        module (`nn.Module`): Has a `sliding_window`.
        query (`torch.Tensor`): `(batch, heads, length, head_dim)`.
        keys, values (`Sequence[torch.Tensor]`): Of each group, `(rows, heads, num_keys, head_dim)`, from [`RowCaches`].
        masks (`Sequence`, *optional*): Of each group, true where a key is seen; causal when `None`.
        scaling (`float`): Factor of the products.
        kwargs: Others that attention functions are given.

    Returns:
        `(batch, length, heads, head_dim)`, and no weights.
    """
    window: Any = module.sliding_window
    attended = []
    for number, one in enumerate(query.split([len(key) for key in keys])):
        key, value = keys[number], values[number]
        mask = _causal_mask(one.shape[2], key.shape[2], window, one.device) if masks is None else masks[number]
        is_grouped = one.shape[1] != key.shape[1]
        attended.append(
            nn.functional.scaled_dot_product_attention(
                one, key, value, attn_mask=mask, scale=scaling, enable_gqa=is_grouped
            )
        )
    return torch.cat(attended).transpose(1, 2), None


def run_rows(backbone: JosieBackbone, hidden_states: torch.Tensor, caches: RowCaches) -> torch.Tensor:
    """Run the next steps of rows with a cache each.

    Args:
        backbone ([`JosieBackbone`]): A causal one.
        hidden_states (`torch.Tensor`): `(batch, length, hidden_size)`.
        caches ([`RowCaches`]): Of its rows.

    Returns:
        `torch.Tensor` of the same shape.
    """
    position_embeddings = None
    if backbone.rotary_emb is not None:
        steps = torch.arange(hidden_states.shape[1], device=hidden_states.device)[None]
        places = [steps + cache.get_seq_length() for cache in caches.caches]
        rotary: Any = backbone.rotary_emb  # one row after the other: some scale by the length
        position_embeddings = join_positions([rotary(hidden_states, place) for place in places], caches.sizes)
    others: Any = dict(cache=caches, attend=attend_by_rows)
    return backbone.run_layers(hidden_states, position_embeddings=position_embeddings, **others)


def join_positions(
    positions: Sequence[tuple[torch.Tensor, torch.Tensor]], sizes: Sequence[int]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the rotary positions of groups of rows as those of one batch, `(batch, 1, length, head_dim)` each."""
    cos, sin = (
        torch.cat([part.expand(size, -1, -1, -1) for part, size in zip(parts, sizes, strict=True)])
        for parts in zip(*positions, strict=True)
    )
    return cos, sin
