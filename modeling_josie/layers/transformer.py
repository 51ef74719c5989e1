"""The layers that every transformer of JOSIE is made of: rotary positions, attention, MLP, block.

Query, key and value come out of one matrix, gate and up out of another, and queries and keys are rotated together: at
batch 1 the number of operations is what costs time.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from transformers import initialization as init
from transformers.cache_utils import Cache
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS, dynamic_rope_update
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.utils import TransformersKwargs
from typing_extensions import Unpack

from ...configuration_josie import JosieBackboneConfig
from .activations import make_activation
from .fast import rms_norm

PositionEmbeddings = tuple[torch.Tensor, torch.Tensor]


class JosieRMSNorm(nn.RMSNorm):
    """`torch.nn.RMSNorm`, on a CPU in fewer operations."""

    eps: float

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Normalise the last dimension."""
        return rms_norm(x, self.weight, self.eps)


def build_norm(norm_type: str, size: int, eps: float) -> nn.Module:
    """Return a norm over the last dimension.

    Args:
        norm_type (`"rms"`, `"layer"` or `"none"`): Which one.
        size (`int`): Its width.
        eps (`float`): Added to the mean square, or to the variance.
    """
    if norm_type == "rms":
        return JosieRMSNorm(size, eps=eps)
    return nn.LayerNorm(size, eps=eps) if norm_type == "layer" else nn.Identity()


class JosieRotaryEmbedding(nn.Module):
    """Rotary positions (Su et al., 2021) in Llama's half-split form, over one axis or several.

    Args:
        config ([`JosieBackboneConfig`]): Its `rope_parameters`, `rope_sections` and `head_dim` are read.
    """

    inv_freq: torch.Tensor

    def __init__(self, config: JosieBackboneConfig):
        super().__init__()
        self.config = config
        self.max_seq_len_cached = self.original_max_seq_len = config.max_position_embeddings
        self.rope_type = (config.rope_parameters or {})["rope_type"]
        initialize = ROPE_INIT_FUNCTIONS.get(self.rope_type, self.compute_default_rope_parameters)
        inv_freq, self.attention_scaling = initialize(config)
        self.register_buffer("inv_freq", inv_freq, persistent=False)
        self.register_buffer("original_inv_freq", inv_freq.clone(), persistent=False)

    @staticmethod
    def compute_default_rope_parameters(config: JosieBackboneConfig, **kwargs) -> tuple[torch.Tensor, float]:
        """Return the `(head_dim // 2,)` frequencies of the original paper and a scale of 1."""
        head_dim: int = config.head_dim or config.hidden_size // config.num_attention_heads
        exponent = torch.arange(0, head_dim, 2, dtype=torch.float) / head_dim
        return (config.rope_parameters or {})["rope_theta"] ** -exponent, 1.0

    @torch.no_grad()
    @dynamic_rope_update
    def forward(self, x: torch.Tensor, position_ids: torch.Tensor) -> PositionEmbeddings:
        """Return cosines and signed sines that rotate heads.

        Args:
            x (`torch.Tensor`): Gives device and dtype.
            position_ids (`torch.LongTensor`): `(batch, length)`, or `(axes, batch, length)` with `rope_sections`.

        Returns:
            Two tensors of shape `(batch, 1, length, head_dim)`; the first half of the sines is negated.
        """
        dtype = torch.promote_types(x.dtype, torch.float)
        angles = position_ids[..., None].to(dtype) * self.inv_freq.to(x.device, dtype)
        if position_ids.ndim == 3:
            sections = angles.split(self.config.rope_sections, dim=-1)
            angles = torch.cat([section[axis] for axis, section in enumerate(sections)], dim=-1)
        angles = angles[:, None]
        cos, sin = angles.cos(), angles.sin()
        if self.attention_scaling != 1.0:
            cos, sin = cos * self.attention_scaling, sin * self.attention_scaling
        return torch.cat((cos, cos), dim=-1).to(x.dtype), torch.cat((-sin, sin), dim=-1).to(x.dtype)


def rotate(heads: torch.Tensor, position_embeddings: PositionEmbeddings) -> torch.Tensor:
    """Rotate `heads` of shape `(batch, heads, length, head_dim)` by what [`JosieRotaryEmbedding`] returned."""
    cos, signed_sin = position_embeddings
    return torch.addcmul(heads * cos, heads.roll(heads.shape[-1] // 2, dims=-1), signed_sin)


def eager_attention_forward(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    **kwargs,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention written out; the reference for every other implementation.

    Args:
        module ([`JosieAttention`]): Whose attention it is.
        query (`torch.Tensor`): `(batch, num_heads, length, head_dim)`.
        key, value (`torch.Tensor`): `(batch, num_key_value_heads, past + length, head_dim)`.
        attention_mask (`torch.Tensor`, *optional*): Added to the scores; of a shape that broadcasts to theirs.
        scaling (`float`): Factor of the products.
        dropout (`float`): Share of the weights that become 0 in training.
    """
    batch_size, num_heads, length, head_dim = query.shape
    grouped = query.reshape(batch_size, key.shape[1], -1, head_dim)  # the heads of one group share keys and values
    weights = (grouped @ key.transpose(2, 3)).view(batch_size, num_heads, length, key.shape[2]) * scaling
    if attention_mask is not None:
        weights = weights + attention_mask
    weights = nn.functional.softmax(weights, dim=-1, dtype=torch.float32).to(query.dtype)
    weights = nn.functional.dropout(weights, p=dropout, training=module.training)
    grouped = weights.view(batch_size, key.shape[1], -1, key.shape[2]) @ value
    return grouped.view(batch_size, num_heads, length, head_dim).transpose(1, 2), weights


def attend_with_mask(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor,
    scaling: float,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Attention of a single step to what a mask of its loop lets it see, whatever the configured attention is.

    Args:
        module ([`JosieAttention`]): Whose attention it is.
        query, key, value (`torch.Tensor`): As of [`eager_attention_forward`], with a length of 1.
        mask (`torch.Tensor`): As `scaled_dot_product_attention` takes it.
        scaling (`float`): Factor of the products.
    """
    is_grouped = query.shape[1] != key.shape[1]
    return nn.functional.scaled_dot_product_attention(
        query, key, value, attn_mask=mask, scale=scaling, enable_gqa=is_grouped
    ), None


def get_attention_function(config: JosieBackboneConfig) -> Callable:
    """Return the function of the configured attention implementation; a stack looks it up once for all layers."""
    return ALL_ATTENTION_FUNCTIONS.get_interface(config._attn_implementation or "eager", eager_attention_forward)


class JosieAttention(nn.Module):
    """Multi-head or grouped-query attention with one fused input projection, through transformers' interface."""

    def __init__(self, config: JosieBackboneConfig, layer_idx: int):
        super().__init__()
        self.config = config
        self.layer_idx = layer_idx
        self.head_dim = config.head_dim or config.hidden_size // config.num_attention_heads
        self.num_heads = config.num_attention_heads
        self.num_key_value_heads = config.num_key_value_heads or config.num_attention_heads
        self.num_key_value_groups = self.num_heads // self.num_key_value_heads
        self.scaling = self.head_dim**-0.5
        self.is_causal = config.is_causal
        self.attention_dropout = config.attention_dropout
        self.sliding_window = config.sliding_window
        num_projected = self.num_heads + 2 * self.num_key_value_heads
        self.qkv_proj = nn.Linear(config.hidden_size, num_projected * self.head_dim, bias=config.attention_bias)
        self.o_proj = nn.Linear(self.num_heads * self.head_dim, config.hidden_size, bias=config.attention_bias)

    def forward(
        self,
        hidden_states: torch.Tensor,
        position_embeddings: PositionEmbeddings | None = None,
        attention_mask: torch.Tensor | None = None,
        cache: Cache | None = None,
        attend: Callable = eager_attention_forward,
        **kwargs: Unpack[TransformersKwargs],
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Attend.

        Args:
            hidden_states (`torch.Tensor`): `(batch, length, hidden_size)`.
            position_embeddings: What [`JosieRotaryEmbedding`] returned; no positions when `None`.
            attention_mask: What `transformers.masking_utils` made for the current implementation.
            cache (`Cache`, *optional*): Takes the new keys and values and gives all of them.
            attend: The attention function, from [`get_attention_function`].

        Returns:
            The result, of the input's shape, and the weights where the implementation has them.
        """
        batch_size, length = hidden_states.shape[:2]
        heads = self.qkv_proj(hidden_states).view(batch_size, length, -1, self.head_dim).transpose(1, 2)
        num_heads, num_kv = self.num_heads, self.num_key_value_heads
        if position_embeddings is None:
            query, key, value = heads.split_with_sizes((num_heads, num_kv, num_kv), dim=1)
        else:
            rotated, value = heads.split_with_sizes((num_heads + num_kv, num_kv), dim=1)
            query, key = rotate(rotated, position_embeddings).split_with_sizes((num_heads, num_kv), dim=1)
        if cache is not None:
            key, value = cache.update(key, value, self.layer_idx)
        output, weights = attend(
            self,
            query,
            key,
            value,
            attention_mask,
            dropout=self.attention_dropout if self.training else 0.0,
            scaling=self.scaling,
            sliding_window=self.sliding_window,
            **kwargs,
        )
        return self.o_proj(output.reshape(batch_size, length, -1)), weights


class JosieMLP(nn.Module):
    """Two matrices and an activation, gated (gate and up fused in one matrix) or plain."""

    def __init__(self, config: JosieBackboneConfig):
        super().__init__()
        self.is_gated = config.gated_mlp
        self.intermediate_size = config.intermediate_size
        self.act_fn = make_activation(config.hidden_act, "hidden_act")
        if self.is_gated:
            self.gate_up_proj = nn.Linear(config.hidden_size, 2 * config.intermediate_size, bias=config.mlp_bias)
        else:
            self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=config.mlp_bias)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=config.mlp_bias)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Map `(batch, length, hidden_size)` to the same shape."""
        if not self.is_gated:
            return self.down_proj(self.act_fn(self.up_proj(hidden_states)))
        fused = self.gate_up_proj(hidden_states)
        gate, up = fused.split_with_sizes((self.intermediate_size, self.intermediate_size), dim=-1)
        return self.down_proj(self.act_fn(gate) * up)


class JosieLayerScale(nn.Module):
    """A learned scale for each channel of what a sub-layer adds (CaiT, Touvron et al., 2021), then dropout.

    Args:
        size (`int`): Channels.
        start (`float`): Their scale at the start of training.
        dropout (`float`): Share of what becomes 0 in training.
    """

    def __init__(self, size: int, start: float, dropout: float = 0.0):
        super().__init__()
        self.start = start
        self.dropout = dropout
        self.scale = nn.Parameter(torch.full((size,), start))

    def reset_weights(self) -> None:
        """Initialise the scale; called by [`JosiePreTrainedModel`]."""
        init.constant_(self.scale, self.start)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Scale the last dimension."""
        return nn.functional.dropout(hidden_states * self.scale, self.dropout, self.training)


def build_scale(config: JosieBackboneConfig) -> nn.Module | None:
    """Return what a sub-layer's output passes before it is added: scale, dropout, both, or nothing at all."""
    if config.layer_scale is not None:
        return JosieLayerScale(config.hidden_size, config.layer_scale, config.hidden_dropout)
    return nn.Dropout(config.hidden_dropout) if config.hidden_dropout else None


class JosieLayer(GradientCheckpointingLayer):
    """A pre-norm block: attention and MLP, each added to the residual stream."""

    def __init__(self, config: JosieBackboneConfig, layer_idx: int):
        super().__init__()
        self.input_layernorm = build_norm(config.norm_type, config.hidden_size, config.norm_eps)
        self.self_attn = JosieAttention(config, layer_idx)
        self.post_attention_layernorm = build_norm(config.norm_type, config.hidden_size, config.norm_eps)
        self.mlp = JosieMLP(config)
        self.attn_scale, self.mlp_scale = build_scale(config), build_scale(config)

    def forward(
        self,
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        position_embeddings: PositionEmbeddings | None = None,
        cache: Cache | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> torch.Tensor:
        """Map `(batch, length, hidden_size)` to the same shape; arguments as in [`JosieAttention`]."""
        attended, _ = self.self_attn(
            self.input_layernorm(hidden_states),
            position_embeddings,
            attention_mask=attention_mask,
            cache=cache,
            **kwargs,
        )
        if self.attn_scale is not None:
            attended = self.attn_scale(attended)
        hidden_states = hidden_states + attended
        computed = self.mlp(self.post_attention_layernorm(hidden_states))
        if self.mlp_scale is not None:
            computed = self.mlp_scale(computed)
        return hidden_states + computed
