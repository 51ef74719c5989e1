"""JOSIE's own text backbone: the transformer stack with a token embedding in front."""

from typing import Any

import torch
from torch import nn
from transformers import AutoModel
from transformers.cache_utils import Cache
from transformers.modeling_outputs import BaseModelOutputWithPast
from transformers.utils.deprecation import deprecate_kwarg

from ...configuration_josie import JosieTextConfig
from ..layers.backbone import JosieBackbone


class JosieTextModel(JosieBackbone):
    """A decoder-only text transformer, without a language-model head: the Thinker has that.

    Args:
        config ([`JosieTextConfig`]): Its shape and vocabulary.
    """

    config: JosieTextConfig
    main_input_name = "input_ids"

    def __init__(self, config: JosieTextConfig):
        super().__init__(config)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.post_init()

    @deprecate_kwarg("past_key_values", "5.40.0", new_name="cache")
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        cache: Cache | None = None,
        inputs_embeds: torch.Tensor | None = None,
        use_cache: bool | None = None,
        block_sequence_ids: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> BaseModelOutputWithPast:
        """Run the stack on `input_ids` `(batch, length)` or on `inputs_embeds`; the rest as in [`JosieBackbone`].

        Raises:
            `ValueError`: Both or neither of `input_ids` and `inputs_embeds` are given.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("Exactly one of `input_ids` and `inputs_embeds` must be given, got both or neither.")
        return super().forward(
            self.embed_tokens(input_ids) if inputs_embeds is None else inputs_embeds,
            attention_mask=attention_mask,
            position_ids=position_ids,
            cache=cache,
            use_cache=use_cache,
            block_sequence_ids=block_sequence_ids,
            **kwargs,
        )


AutoModel.register(JosieTextConfig, JosieTextModel, exist_ok=True)
