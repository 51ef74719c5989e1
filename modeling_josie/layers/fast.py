"""Faster forms of operations, each below the naive form that it equals, and a faster place of weights in memory.

At batch 1 a small transformer spends its time on the number of operations, not on their size.
"""

from functools import lru_cache
from typing import Any

import torch
from torch import nn
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS


def naive_rms_norm(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    """Root mean square norm of the last dimension (Zhang & Sennrich, 2019).

    Args:
        x (`torch.Tensor`): `(..., size)`.
        weight (`torch.Tensor`): `(size,)`.
        eps (`float`): Added to the mean square.
    """
    return nn.functional.rms_norm(x, weight.shape, weight.to(x.dtype), eps)


@lru_cache
def _rms_constants(size: int, eps: float) -> tuple[torch.Tensor, torch.Tensor]:
    with torch.inference_mode(False):
        constants = torch.tensor([(size * eps) ** 0.5, size**-0.5], dtype=torch.float32, device="cpu")
        return constants[0], constants[1]


def rms_norm(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    """[`naive_rms_norm`] by `sqrt(mean(x^2) + eps) = hypot(norm(x), sqrt(n eps)) / sqrt(n)`, in five operations.

    On a CPU torch composes its own of nine. Elsewhere, in other dtypes and in compiled programs it has a fused one.

    Args:
        x, weight, eps: As of [`naive_rms_norm`].
    """
    if x.device.type != "cpu" or x.dtype != torch.float32 or torch.compiler.is_compiling():
        return naive_rms_norm(x, weight, eps)
    floor, shrink = _rms_constants(x.shape[-1], eps)
    return x * weight / (torch.hypot(torch.linalg.vector_norm(x, 2, -1, True), floor) * shrink)


def naive_step_attention(
    module: nn.Module, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: None, scaling: float, **kwargs
) -> tuple[torch.Tensor, None]:
    """Attention of one step to all keys, by the `sdpa` of transformers.

    Args:
        module ([`JosieAttention`]): Whose attention it is.
        query (`torch.Tensor`): `(batch, num_heads, 1, head_dim)`.
        key, value (`torch.Tensor`): `(batch, num_key_value_heads, length, head_dim)`.
        mask (`None`): All keys are seen.
        scaling (`float`): Factor of the products.
    """
    return ALL_ATTENTION_FUNCTIONS["sdpa"](module, query, key, value, mask, scaling=scaling, **kwargs)


def step_attention(
    module: nn.Module, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: None, scaling: float, **kwargs
) -> tuple[torch.Tensor, None]:
    """[`naive_step_attention`] by torch's own function, whose wrapper in transformers takes half as long again.

    Args:
        module, query, key, value, mask, scaling: As of [`naive_step_attention`].
    """
    is_grouped = query.shape[1] != key.shape[1]
    attended = nn.functional.scaled_dot_product_attention(query, key, value, scale=scaling, enable_gqa=is_grouped)
    return attended.transpose(1, 2), None


def is_untouched(part: Any, known: type | None = None) -> bool:
    """Return whether a module is called without hooks, by its class's `forward`, on plain weights.

    What reads weights past a module may do so then alone: an adapter, a quantizer or offloading does more.

    Args:
        part (`nn.Module`): The module.
        known (`type`, *optional*): Its class; any when `None`.
    """
    return (
        (known is None or type(part) is known)
        and not part._forward_hooks
        and not part._forward_pre_hooks
        and "forward" not in part.__dict__
        and all(type(weight) in (nn.Parameter, torch.Tensor, type(None)) for weight in part._parameters.values())
    )


def store_by_columns(module: nn.Module) -> None:
    """Store the weights of linear layers column by column: shapes, values and checkpoints stay as they are.

    A single step multiplies a vector. On a CPU, BLAS takes a quarter longer over rows, which it sums up one by one.
    Matrices that are embeddings too are read by rows and stay.
    """
    embeddings = {id(part.weight) for part in module.modules() if isinstance(part, nn.Embedding)}
    for part in module.modules():
        if type(part) is nn.Linear and part.weight.device.type == "cpu" and id(part.weight) not in embeddings:
            part.weight.data = part.weight.data.t().contiguous().t()
