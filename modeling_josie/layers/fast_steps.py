"""Single steps of a backbone in as few calls as they need, beside [`JosieBackbone.run_layers`], which they equal.

At batch 1 a small transformer spends its time on calls, of torch and of Python. Here a step is written out in one loop
over the layers, without their modules' calls: sums are made by the products before them, and where there are no rotary
positions keys and values are stored at once. `benchmarks/talker.py --variants` measures what that gains.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import nn

from .backbone import JosieBackbone
from .fast import is_untouched, rms_norm
from .transformer import JosieAttention, JosieLayer, JosieMLP, JosieRMSNorm, PositionEmbeddings, rotate


class StepLayer(NamedTuple):
    """The weights of a layer, in the dictionaries that hold them: they may be edited, moved or cast meanwhile.

    Args:
        attention_norm, qkv, output (`dict`): Of the attention: its norm, what goes into it, what comes out.
        mlp_norm, gate_up, down (`dict`): Of the MLP.
    """

    attention_norm: dict[str, Any]
    qkv: dict[str, Any]
    output: dict[str, Any]
    mlp_norm: dict[str, Any]
    gate_up: dict[str, Any]
    down: dict[str, Any]


def list_step_layers(backbone: JosieBackbone) -> list[StepLayer] | None:
    """Return the layers of a backbone for [`fast_step`], or `None` where a step is not what it computes.

    That is so with other norms, biases, a plain MLP, scales or dropout, and wherever something else was put in: an
    adapter, quantized weights, a hook.

    Args:
        backbone ([`JosieBackbone`]): In evaluation mode.
    """
    layers: list[Any] = list(backbone.layers)
    if backbone.training or backbone.config._attn_implementation != "sdpa":
        return None
    return [_list_weights(layer) for layer in layers] if all(map(_is_plain, layers)) else None


def _is_plain(layer: Any) -> bool:
    attention, mlp = layer.self_attn, layer.mlp
    parts: tuple[tuple[Any, type], ...] = (
        *((layer, JosieLayer), (attention, JosieAttention), (mlp, JosieMLP)),
        *((layer.input_layernorm, JosieRMSNorm), (layer.post_attention_layernorm, JosieRMSNorm)),
        *((attention.qkv_proj, nn.Linear), (attention.o_proj, nn.Linear), (mlp.down_proj, nn.Linear)),
        (getattr(mlp, "gate_up_proj", None), nn.Linear),
    )
    return (
        all(is_untouched(part, known) and part._parameters.get("bias") is None for part, known in parts)
        and is_untouched(mlp.act_fn)
        and layer.attn_scale is None
        and layer.mlp_scale is None
    )


def _list_weights(layer: Any) -> StepLayer:
    attention, mlp = layer.self_attn, layer.mlp
    parts = (
        *(layer.input_layernorm, attention.qkv_proj, attention.o_proj),
        *(layer.post_attention_layernorm, mlp.gate_up_proj, mlp.down_proj),
    )
    return StepLayer(*(part._parameters for part in parts))


def fast_step(
    backbone: JosieBackbone,
    layers: list[StepLayer],
    hidden_states: torch.Tensor,
    caches: Sequence[Any],
    position_embeddings: PositionEmbeddings | None,
    masks: Sequence[torch.Tensor | None],
) -> torch.Tensor:
    """[`JosieBackbone.run_layers`] for one step of one or several groups of rows, of which each has a cache.

    Args:
        backbone ([`JosieBackbone`]): What runs.
        layers (`list[StepLayer]`): Of [`list_step_layers`].
        hidden_states (`torch.Tensor`): `(batch, 1, hidden_size)`.
        caches (`Sequence[LoopCache]`): Of each group.
        position_embeddings (`tuple`, *optional*): Of all rows, as of [`JosieAttention`].
        masks (`Sequence`): Of each group, true where a key is seen; `None` where all are.

    Returns:
        `torch.Tensor` of the same shape.
    """
    linear, addmm = nn.functional.linear, torch.addmm
    first: Any = backbone.layers[0]
    eps, activate, width = first.input_layernorm.eps, first.mlp.act_fn.forward, first.mlp.intermediate_size
    attention: JosieAttention = first.self_attn
    num_heads, num_kv, head_dim = attention.num_heads, attention.num_key_value_heads, attention.head_dim
    options: Any = {"scale": attention.scaling, "enable_gqa": num_heads != num_kv}
    sizes = [] if len(caches) == 1 else [cache.batch_size for cache in caches]
    x = hidden_states[:, 0]
    for index, layer in enumerate(layers):
        heads = linear(rms_norm(x, layer.attention_norm["weight"], eps), layer.qkv["weight"])
        heads = heads.view(len(x), -1, 1, head_dim)
        if position_embeddings is None:
            query, new = heads.split_with_sizes((num_heads, 2 * num_kv), dim=1)
        else:
            rotated, value = heads.split_with_sizes((num_heads + num_kv, num_kv), dim=1)
            query, key = rotate(rotated, position_embeddings).split_with_sizes((num_heads, num_kv), dim=1)
            new = torch.cat((key, value), dim=1)
        if len(caches) == 1:
            attended = _attend(query, *caches[0].write(new, index), masks[0], options)
        else:
            groups = zip(query.split(sizes), new.split(sizes), caches, masks, strict=True)
            attended = torch.cat(
                [_attend(one, *cache.write(part, index), mask, options) for one, part, cache, mask in groups]
            )
        x = addmm(x, attended.view(len(x), -1), layer.output["weight"].t())
        fused = linear(rms_norm(x, layer.mlp_norm["weight"], eps), layer.gate_up["weight"])
        gate, up = fused.split_with_sizes((width, width), dim=-1)
        x = addmm(x, activate(gate) * up, layer.down["weight"].t())
    return backbone.norm(x)[:, None]


def _attend(
    query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, mask: torch.Tensor | None, options: dict[str, Any]
) -> torch.Tensor:
    return nn.functional.scaled_dot_product_attention(query, keys, values, attn_mask=mask, **options)
