"""The one transformer stack, and the base class of every JOSIE model."""

import os
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from transformers import AutoModel
from transformers import initialization as init
from transformers.cache_utils import Cache, DynamicCache
from transformers.masking_utils import create_causal_mask, create_sliding_window_causal_mask
from transformers.modeling_outputs import BaseModelOutputWithPast
from transformers.modeling_utils import PreTrainedModel
from transformers.utils.output_capturing import capture_outputs

from ..configuration_josie import JosieBackboneConfig
from .layers import (
    JosieAttention,
    JosieLayer,
    JosieLayerScale,
    JosieRotaryEmbedding,
    PositionEmbeddings,
    build_norm,
    get_attention_function,
)


class JosiePreTrainedModel(PreTrainedModel):
    """What all models of the package declare: which attention they take, how they are split, how they start."""

    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _no_split_modules = ["JosieLayer"]
    _skip_keys_device_placement = ["past_key_values"]
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _can_compile_fullgraph = True
    _can_record_outputs = {"hidden_states": JosieLayer, "attentions": JosieAttention}

    @classmethod
    def from_pretrained(cls, *args, **kwargs):
        """Load a model as [`~transformers.PreTrainedModel.from_pretrained`] does, which forgets what was frozen."""
        loaded = super().from_pretrained(*args, **kwargs)
        (loaded[0] if isinstance(loaded, tuple) else loaded).freeze_fixed_parts()
        return loaded

    def save_pretrained(
        self,
        save_directory: str | os.PathLike,
        is_main_process: bool = True,
        *args: Any,
        with_code: bool | None = None,
        processor: Any = None,
        **kwargs: Any,
    ):
        """Save as [`~transformers.PreTrainedModel.save_pretrained`] does, and what a model needs to stand alone.

        Args:
            save_directory (`str` or `os.PathLike`): The folder.
            is_main_process (`bool`): Whether this process writes.
            with_code (`bool`, *optional*): Also write code, processor and model card, so that the folder loads with
                `trust_remote_code=True` where this package is not installed; when `None`, as what was loaded had it.
            processor (*optional*): With code: the processor to write; when `None`, the one in the folder, or the one
                beside the weights that this model was loaded from, or what follows from the configuration.
            args, kwargs: For `PreTrainedModel.save_pretrained`.

        Raises:
            `ValueError`: `push_to_hub=True` with code: [`JosiePreTrainedModel.push_to_hub`] pushes it.
        """
        had_code = getattr(self.config, "auto_map", None) is not None
        if with_code is False and had_code and not self.is_remote_code():
            del self.config.auto_map
        writes_code = with_code or (with_code is None and had_code)
        if with_code and kwargs.get("push_to_hub"):
            raise ValueError("`push_to_hub` must be False with `with_code`: call `push_to_hub(..., with_code=True)`.")
        super().save_pretrained(save_directory, is_main_process, *args, **kwargs)
        if not writes_code or not is_main_process or getattr(self, "_hf_peft_config_loaded", False):
            return
        if self.is_remote_code():  # the code came from such a folder, and transformers has copied it
            if processor is not None:
                processor.save_pretrained(save_directory)
            return

        from ..conversion.hub import save_with_code

        save_with_code(self, save_directory, processor)

    def push_to_hub(self, repo_id: str, *, with_code: bool = False, processor: Any = None, **kwargs: Any):
        """Push as [`~transformers.PreTrainedModel.push_to_hub`] does.

        Args:
            repo_id (`str`): Name of the repository.
            with_code (`bool`): Push code, processor and model card too, in one commit, so that the model loads with
                `trust_remote_code=True` where this package is not installed.
            processor (*optional*): As in [`JosiePreTrainedModel.save_pretrained`].
            kwargs: For `PreTrainedModel.push_to_hub`.
        """
        if not with_code or self.is_remote_code():
            return super().push_to_hub(repo_id, **kwargs)  # type: ignore[arg-type]

        from ..conversion.hub import push_with_code

        return push_with_code(self, repo_id, processor, **kwargs)

    def freeze_fixed_parts(self):
        """Freeze what no loss of this model reaches, so that every trainable parameter gets a gradient.

        Modules that have such parts say so in a method `freeze_fixed_parts` of their own.
        """
        for module in self.modules():
            if module is not self and hasattr(module, "freeze_fixed_parts") and not isinstance(module, PreTrainedModel):
                module.freeze_fixed_parts()

    def _init_weights(self, module: nn.Module):
        super()._init_weights(module)
        if isinstance(module, JosieLayerScale):
            init.constant_(module.scale, module.start)


class JosieBackbone(JosiePreTrainedModel):
    """Embeddings in, hidden states out: the transformer inside every part of JOSIE.

    Args:
        config ([`JosieBackboneConfig`]): Its shape.
    """

    config: JosieBackboneConfig

    def __init__(self, config: JosieBackboneConfig):
        super().__init__(config)
        self.layers = nn.ModuleList([JosieLayer(config, index) for index in range(config.num_hidden_layers)])
        self.norm = build_norm(config.final_norm_type or config.norm_type, config.hidden_size, config.norm_eps)
        self.rotary_emb = JosieRotaryEmbedding(config) if config.rope_parameters is not None else None
        self.is_causal = config.is_causal
        self.create_mask = create_causal_mask if config.sliding_window is None else create_sliding_window_causal_mask
        self.gradient_checkpointing = False
        self.post_init()

    @capture_outputs
    def forward(
        self,
        inputs_embeds: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        past_key_values: Cache | None = None,
        use_cache: bool | None = None,
        block_sequence_ids: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> BaseModelOutputWithPast:
        """Run the stack.

        Args:
            inputs_embeds (`torch.Tensor`): `(batch, length, hidden_size)`.
            attention_mask (`torch.Tensor`, *optional*): `(batch, past + length)`, 1 for real positions; or a mask that
                `transformers.masking_utils` made.
            position_ids (`torch.LongTensor`, *optional*): `(batch, length)` or `(axes, batch, length)`; counted on from
                the cache when `None`.
            past_key_values (`Cache`, *optional*): Keys and values of what came before.
            use_cache (`bool`, *optional*): Make a cache where none is given. Only causal backbones.
            block_sequence_ids (`torch.LongTensor`, *optional*): `(batch, length)`; in a causal backbone, neighbouring
                positions with the same id of 0 or more see each other both ways.

        Returns:
            [`BaseModelOutputWithPast`] with `last_hidden_state` of shape `(batch, length, hidden_size)`.
        """
        use_cache = self.config.use_cache if use_cache is None else use_cache
        recomputes = self.gradient_checkpointing and self.training
        if use_cache and past_key_values is None and self.is_causal and not recomputes:
            past_key_values = DynamicCache(config=self.config)
        mask = None
        if attention_mask is not None or inputs_embeds.shape[1] > 1 or not self._sees_whole_cache(past_key_values):
            mask = self.create_mask(
                self.config,
                inputs_embeds,
                attention_mask,
                past_key_values,  # by its place: transformers 5.24 has another name for it than 5.23
                position_ids=position_ids if position_ids is not None and position_ids.ndim == 2 else None,
                block_sequence_ids=block_sequence_ids,
            )
        if position_ids is None:
            start = past_key_values.get_seq_length() if past_key_values is not None else 0
            position_ids = (torch.arange(inputs_embeds.shape[1], device=inputs_embeds.device) + start)[None]
        position_embeddings = self.rotary_emb(inputs_embeds, position_ids) if self.rotary_emb is not None else None
        return BaseModelOutputWithPast(
            last_hidden_state=self.run_layers(inputs_embeds, mask, position_embeddings, past_key_values, **kwargs),
            past_key_values=past_key_values,
        )

    def _sees_whole_cache(self, past_key_values: Cache | None) -> bool:
        """Whether a single new position attends to all that attention will be given, so that it needs no mask."""
        if getattr(past_key_values, "is_compileable", False):
            return False
        if self.config.sliding_window is None or past_key_values is None:
            return True
        if self.config.sliding_window == 1:  # which transformers' cache does not cut
            return False
        layers = past_key_values.layers  # which give no more than the window
        return bool(layers) and all(getattr(layer, "is_sliding", False) for layer in layers)

    def run_layers(
        self,
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        position_embeddings: PositionEmbeddings | None = None,
        past_key_values: Cache | None = None,
        attend: Callable | None = None,
        **kwargs: Any,
    ) -> torch.Tensor:
        """Run layers and final norm on what [`JosieBackbone.forward`] prepares; tight loops prepare it themselves."""
        if attend is None:
            is_step = attention_mask is None and hidden_states.shape[1] == 1 and not self.training
            attend = get_attention_function(self.config, is_unmasked_step=is_step)
        for layer in self.layers:
            hidden_states = layer(
                hidden_states,
                attend=attend,
                attention_mask=attention_mask,
                position_embeddings=position_embeddings,
                past_key_values=past_key_values,
                **kwargs,
            )
        return self.norm(hidden_states)


AutoModel.register(JosieBackboneConfig, JosieBackbone, exist_ok=True)
