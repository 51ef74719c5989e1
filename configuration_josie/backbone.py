"""Configuration of the one transformer stack that every part of JOSIE is built from."""

from dataclasses import field
from typing import Any, Literal

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig
from transformers.configuration_utils import PreTrainedConfig

# A field that holds a configuration: a dict or `None` may go in, and transformers resolves it when the owner is made.
SubConfig = Any

_ROPE_TYPES = ("default", "linear", "dynamic", "yarn", "longrope", "llama3", "proportional")
_ROPE_TYPES_OF_LENGTH = ("dynamic", "longrope")


def default_rope() -> dict:
    """Return standard rotary positions with the base of the original paper, 10000."""
    return {"rope_type": "default", "rope_theta": 10000.0}


def require_positive(config: PreTrainedConfig, *names: str) -> None:
    """Raise a `ValueError` that names the first field of `names` whose value is below 1."""
    for name in names:
        if getattr(config, name) < 1:
            raise ValueError(f"`{name}` must be at least 1, got {getattr(config, name)}.")


def require_fixed_rotations(name: str, config: "JosieBackboneConfig") -> None:
    """Raise a `ValueError` that names `name` where rotations depend on how long a batch is."""
    rope_type = (config.rope_parameters or {}).get("rope_type")
    if rope_type in _ROPE_TYPES_OF_LENGTH:
        raise ValueError(
            f"`{name}` must have a `rope_type` other than {_ROPE_TYPES_OF_LENGTH}, whose rotations depend on the "
            f"length of a batch, got {rope_type!r}."
        )


@strict
class JosieBackboneConfig(PreTrainedConfig):
    r"""Shape and behaviour of a [`JosieBackbone`].

    Models with a single backbone (text, Talker, encoders) derive their configuration from this one; models with
    several hold instances of it.

    Args:
        hidden_size (`int`): Width of the residual stream.
        intermediate_size (`int`): Width inside the MLP.
        num_hidden_layers (`int`): Number of layers.
        num_attention_heads (`int`): Number of query heads.
        num_key_value_heads (`int`, *optional*): Number of key and value heads; as many as query heads when `None`.
        head_dim (`int`, *optional*): Width of one head; `hidden_size // num_attention_heads` when `None`.
        hidden_act (`str`): Name of the MLP's activation in `transformers.activations.ACT2FN`.
        gated_mlp (`bool`): Gate the MLP (SwiGLU and its kin) instead of the two-matrix form.
        norm_type (`"rms"` or `"layer"`): Norm before attention and before the MLP.
        final_norm_type (`"rms"`, `"layer"` or `"none"`, *optional*): Norm after the last layer; `norm_type`
            when `None`.
        norm_eps (`float`): Epsilon of every norm.
        attention_bias (`bool`): Biases in the query, key, value and output projections.
        mlp_bias (`bool`): Biases in the MLP.
        attention_dropout (`float`): Dropout on attention weights.
        hidden_dropout (`float`): Dropout on what each sub-layer adds to the residual stream.
        rope_parameters (`dict`, *optional*): Rotary positions as in transformers (`rope_theta`, `rope_type`, ...);
            `None` for no positions in attention. `"dynamic"` and `"longrope"` rotate by the longest row of a batch, and
            are for text alone.
        rope_sections (`list[int]`, *optional*): With positions on several axes, `(axes, batch, length)`: how many of
            the `head_dim // 2` rotation planes each axis turns.
        is_causal (`bool`): Whether a position sees only itself and what comes before.
        sliding_window (`int`, *optional*): How many positions a position sees, itself included; all when `None`.
        max_position_embeddings (`int`): Longest sequence the model is meant for.
        layer_scale (`float`, *optional*): Start value of a learned scale on what each sub-layer adds; none when `None`.
        initializer_range (`float`): Standard deviation of the initial weights.
        use_cache (`bool`): Whether causal models return a key-value cache by default.
    """

    model_type = "josie_backbone"
    keys_to_ignore_at_inference = ["cache"]
    default_theta = 10000.0
    # Whether rotations may depend on how long a batch is. Steps of a stream or loop do not know that.
    _rotates_by_length = True

    hidden_size: int = 512
    intermediate_size: int = 2048
    num_hidden_layers: int = 12
    num_attention_heads: int = 8
    num_key_value_heads: int | None = None
    head_dim: int | None = None
    hidden_act: str = "silu"
    gated_mlp: bool = True
    norm_type: Literal["rms", "layer"] = "rms"
    final_norm_type: Literal["rms", "layer", "none"] | None = None
    norm_eps: float = 1e-5
    attention_bias: bool = False
    mlp_bias: bool = False
    attention_dropout: float | int = 0.0
    hidden_dropout: float | int = 0.0
    rope_parameters: dict | None = field(default_factory=default_rope)
    rope_sections: list[int] | None = None
    is_causal: bool = True
    sliding_window: int | None = None
    max_position_embeddings: int = 4096
    layer_scale: float | None = None
    initializer_range: float = 0.02
    use_cache: bool = True

    def __post_init__(self, **kwargs):
        if self.num_key_value_heads is None:
            self.num_key_value_heads = self.num_attention_heads
        if self.head_dim is None:
            self.head_dim = self.hidden_size // max(self.num_attention_heads, 1)
        if self.final_norm_type is None:
            self.final_norm_type = self.norm_type
        # Fused projections are cut after the matmul, so tensor parallelism gathers them first.
        self.base_model_tp_plan = {
            "layers.*.self_attn.qkv_proj": "colwise_gather_output",
            "layers.*.self_attn.o_proj": "rowwise_split_input",
            f"layers.*.mlp.{'gate_up_proj' if self.gated_mlp else 'up_proj'}": "colwise_gather_output",
            "layers.*.mlp.down_proj": "rowwise_split_input",
        }
        super().__post_init__(**kwargs)

    def convert_rope_params_to_dict(self, **kwargs):
        """Keep `rope_parameters=None`, which transformers would fill with defaults: here it means no rotary."""
        if self.rope_parameters is None and not {"rope_scaling", "rope_theta"} & kwargs.keys():
            return kwargs
        return super().convert_rope_params_to_dict(**kwargs)

    def validate_sizes(self):
        """Every count is at least 1 and probabilities are probabilities."""
        require_positive(
            self,
            "hidden_size",
            "intermediate_size",
            "num_hidden_layers",
            "num_attention_heads",
            "num_key_value_heads",
            "head_dim",
            "max_position_embeddings",
        )
        for name in ("attention_dropout", "hidden_dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"`{name}` must be in [0, 1), got {getattr(self, name)}.")
        if self.sliding_window is not None:
            require_positive(self, "sliding_window")

    def validate_heads(self):
        """Key-value heads divide the query heads, and rotary planes add up."""
        heads, head_dim = self.num_key_value_heads or 1, self.head_dim or 1
        if self.num_attention_heads % heads:
            raise ValueError(
                f"`num_key_value_heads` must divide `num_attention_heads` ({self.num_attention_heads}), "
                f"got {self.num_key_value_heads}."
            )
        if self.rope_parameters is None:
            return
        if head_dim % 2:
            raise ValueError(f"`head_dim` must be even to rotate, got {self.head_dim}.")
        if self.rope_sections is not None and sum(self.rope_sections) != head_dim // 2:
            raise ValueError(
                f"`rope_sections` must add up to half of `head_dim` ({head_dim // 2}), got {self.rope_sections}."
            )

    def validate_rope(self):
        """Rotary positions are of a known kind, which turns whole heads, and fit what the stack is for."""
        if not self.rope_parameters:
            return
        rope_type = self.rope_parameters.get("rope_type", "default")
        if rope_type not in _ROPE_TYPES:
            raise ValueError(f"`rope_parameters` must have a `rope_type` of {_ROPE_TYPES}, got {rope_type!r}.")
        if not self._rotates_by_length:
            require_fixed_rotations("rope_parameters", self)
        part = self.rope_parameters.get("partial_rotary_factor")
        if part not in (None, 1) and rope_type != "proportional":
            raise ValueError(
                "`rope_parameters` must have a `partial_rotary_factor` of 1 unless `rope_type` is 'proportional', "
                f"got {part}."
            )
        if "mrope_section" in self.rope_parameters:
            raise ValueError(
                "`rope_parameters` must have no `mrope_section`, which is `rope_sections` here, "
                f"got {self.rope_parameters['mrope_section']}."
            )
        super().validate_rope()


AutoConfig.register(JosieBackboneConfig.model_type, JosieBackboneConfig, exist_ok=True)
