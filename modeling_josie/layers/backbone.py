"""The one transformer stack."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from transformers import AutoModel
from transformers.cache_utils import Cache, DynamicCache
from transformers.masking_utils import create_causal_mask, create_sliding_window_causal_mask
from transformers.modeling_outputs import BaseModelOutputWithPast
from transformers.utils.deprecation import deprecate_kwarg
from transformers.utils.output_capturing import capture_outputs

from ...configuration_josie import JosieBackboneConfig
from ..pretrained import JosiePreTrainedModel
from .transformer import (
    JosieAttention,
    JosieLayer,
    JosieRotaryEmbedding,
    PositionEmbeddings,
    build_norm,
    get_attention_function,
)


class JosieBackbone(JosiePreTrainedModel):
    """Embeddings in, hidden states out: the transformer inside every part of JOSIE.

    Args:
        config ([`JosieBackboneConfig`]): Its shape.
    """

    config: JosieBackboneConfig
    main_input_name = "inputs_embeds"
    _can_record_outputs = {"hidden_states": JosieLayer, "attentions": JosieAttention}

    def __init__(self, config: JosieBackboneConfig):
        super().__init__(config)
        self.layers = nn.ModuleList([JosieLayer(config, index) for index in range(config.num_hidden_layers)])
        self.norm = build_norm(config.final_norm_type or config.norm_type, config.hidden_size, config.norm_eps)
        self.rotary_emb = JosieRotaryEmbedding(config) if config.rope_parameters is not None else None
        self.is_causal = config.is_causal
        self.create_mask = create_causal_mask if config.sliding_window is None else create_sliding_window_causal_mask
        self.gradient_checkpointing = False
        self.post_init()

    @deprecate_kwarg("past_key_values", "5.40.0", new_name="cache")
    @capture_outputs
    def forward(
        self,
        inputs_embeds: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        cache: Cache | None = None,
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
            cache (`Cache`, *optional*): Keys and values of what came before.
            use_cache (`bool`, *optional*): Make a cache where none is given. Only causal backbones.
            block_sequence_ids (`torch.LongTensor`, *optional*): `(batch, length)`; in a causal backbone, neighbouring
                positions with the same id of 0 or more see each other both ways.

        Returns:
            [`BaseModelOutputWithPast`] with `last_hidden_state` of shape `(batch, length, hidden_size)`.
        """
        use_cache = self.config.use_cache if use_cache is None else use_cache
        recomputes = self.gradient_checkpointing and self.training
        if use_cache and cache is None and self.is_causal and not recomputes:
            cache = DynamicCache(config=self.config)
        mask = self.create_mask(
            self.config,
            inputs_embeds,
            attention_mask,
            cache,
            position_ids=position_ids if position_ids is not None and position_ids.ndim == 2 else None,
            block_sequence_ids=block_sequence_ids,
        )
        if position_ids is None:
            start = cache.get_seq_length() if cache is not None else 0
            position_ids = (torch.arange(inputs_embeds.shape[1], device=inputs_embeds.device) + start)[None]
        position_embeddings = self.rotary_emb(inputs_embeds, position_ids) if self.rotary_emb is not None else None
        return BaseModelOutputWithPast(
            last_hidden_state=self.run_layers(inputs_embeds, mask, position_embeddings, cache, **kwargs),
            cache=cache,
        )

    def run_layers(
        self,
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        position_embeddings: PositionEmbeddings | None = None,
        cache: Cache | None = None,
        attend: Callable | None = None,
        **kwargs: Any,
    ) -> torch.Tensor:
        """Run layers and final norm on what [`JosieBackbone.forward`] prepares; tight loops prepare it themselves.

        Args:
            hidden_states (`torch.Tensor`): `(batch, length, hidden_size)`.
            attention_mask, position_embeddings, cache, attend: As of [`JosieAttention.forward`]; the configured
                attention function when `attend` is `None`.
        """
        attend = get_attention_function(self.config) if attend is None else attend
        for layer in self.layers:
            hidden_states = layer(
                hidden_states,
                attend=attend,
                attention_mask=attention_mask,
                position_embeddings=position_embeddings,
                cache=cache,
                **kwargs,
            )
        return self.norm(hidden_states)


AutoModel.register(JosieBackboneConfig, JosieBackbone, exist_ok=True)
