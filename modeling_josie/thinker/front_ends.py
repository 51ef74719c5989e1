"""Parts that the front ends of the Thinker share: encoder and projector, packing, and checks.

A front end is one of two forms, chosen by the sub-config: a continuous encoder with a projector, or an embedding of a
codec's codes. Both return packed rows: all items one after the other without padding, the order in which rows replace
placeholders.
"""

from typing import Any, NamedTuple

import torch
from torch import nn
from transformers import AutoModel
from transformers.configuration_utils import PreTrainedConfig
from transformers.modeling_outputs import BaseModelOutput
from transformers.modeling_utils import PreTrainedModel

from ...configuration_josie import JosieThinkerConfig
from ..codecs.checks import check_codes
from ..layers.embeddings import CodeEmbedding, Projector

# Parts of transformers' encoders that their rows do not pass through, or (masks) not in every batch.
_PARTS_WITHOUT_USE = ("head", "pooler", "masked_spec_embed", "embeddings.mask_token")
_OWN_PARTS_WITHOUT_USE = {
    **dict.fromkeys(("clip_vision_model", "chinese_clip_vision_model"), ("post_layernorm",)),
    **dict.fromkeys(("mlcd", "mlcd_vision_model"), ("post_layernorm",)),
    "wav2vec2-conformer": ("encoder.pos_conv_embed",),
}


class Features(NamedTuple):
    """Output of a front end.

    Args:
        rows (`torch.FloatTensor`): `(total_rows, hidden_size)`, of all items one after the other.
        counts (`torch.LongTensor`): `(num_items,)`, rows of each item, as many as the configuration promises.
        encoded ([`BaseModelOutput`]): The encoder's output, or the embeddings of codes, before projector and packing.
    """

    rows: torch.Tensor
    counts: torch.Tensor
    encoded: BaseModelOutput


class FrontEnd(nn.Module):
    """An encoder with a projector, or an embedding of codes.

    Args:
        config ([`JosieThinkerConfig`]): Of the Thinker.
    """

    def __init__(self, config: JosieThinkerConfig):
        super().__init__()
        self.config = config
        self.encoder: Any = None  # of another class for every kind of config
        self.projector: Any = None
        self.code_embedding: CodeEmbedding | None = None

    def build(self, encoder_config: Any, num_stacked: int = 1):
        """Make the encoder, and the projector from the width of so many of its features to the Thinker's."""
        config = self.config
        self.encoder = build_part(encoder_config)
        in_size = num_stacked * encoder_config.hidden_size
        self.projector = Projector(
            in_size, config.hidden_size, config.projector_hidden_act, config.projector_intermediate_size
        )
        self.freeze_fixed_parts()

    def freeze_fixed_parts(self):
        """Freeze what an encoder of transformers has and is not used here, as it never gets a gradient."""
        if self.encoder is None:
            return
        for name in (*_PARTS_WITHOUT_USE, *_OWN_PARTS_WITHOUT_USE.get(self.encoder.config.model_type, ())):
            part = self.encoder
            for step in name.split("."):
                part = getattr(part, step, None)
            if part is not None:
                part.requires_grad_(False)

    def train(self, mode: bool = True):
        """Set the mode; an encoder of which nothing learns stays in evaluation mode."""
        super().train(mode)
        if self.encoder is not None and not any(parameter.requires_grad for parameter in self.encoder.parameters()):
            self.encoder.eval()
        return self

    def embed_codes(
        self, name: str, codes: torch.Tensor, mask: torch.Tensor | None, limit: int | None = None
    ) -> Features:
        """Check codes, embed them and pack the result.

        Args:
            name (`str`): Name of `codes` in messages.
            codes (`torch.LongTensor`): `(num_items, at most num_quantizers, max_frames)`; anything past an item's end.
            mask (`torch.BoolTensor`, *optional*): `(num_items, max_frames)`.
            limit (`int`, *optional*): Most frames of an item.

        Raises:
            `ValueError`: Wrong shape, or a code out of range.
        """
        embedding: Any = self.code_embedding
        if mask is not None:
            expected = (codes.shape[0], codes.shape[-1])
            if tuple(mask.shape) != expected:
                raise ValueError(f"The mask of `{name}` must be of shape {expected}, got {tuple(mask.shape)}.")
            mask = mask[:, :limit].to(codes.device, torch.bool)
        codes = codes[..., :limit]
        codes = codes if mask is None else codes.masked_fill(~mask[:, None], 0)
        # All tables are one matrix: a code out of range would read the next quantizer's table without a word.
        check_codes(codes, embedding.num_quantizers, embedding.codebook_size, name)
        embedded = embedding(codes)
        return Features(*pack(embedded, mask), BaseModelOutput(embedded))


def build_part(config: PreTrainedConfig) -> PreTrainedModel:
    """Return the model that `config` describes, of Whisper the encoder alone, in the dtype of the model around it.

    A part of transformers would follow the dtype it was saved in, which is written in its own configuration.
    """
    dtype = torch.get_default_dtype()
    if config.model_type == "whisper":
        from transformers.models.whisper.modeling_whisper import WhisperEncoder  # takes long, and few models have it

        return WhisperEncoder._from_config(config, dtype=dtype)
    return AutoModel.from_config(config, dtype=dtype)


def pack(features: torch.Tensor, mask: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
    """Put the real rows of all items one after the other.

    Args:
        features (`torch.Tensor`): `(num_items, max_rows, hidden_size)`.
        mask (`torch.BoolTensor`, *optional*): `(num_items, max_rows)`, true for real rows; all are when `None`.

    Returns:
        Rows, `(total_rows, hidden_size)`, and counts, `(num_items,)`.
    """
    if mask is None:
        num_items, num_rows = features.shape[:2]
        return features.flatten(0, 1), torch.full((num_items,), num_rows, device=features.device)
    return features[mask], mask.sum(dim=-1)


def require_codes(name: str, codes: torch.Tensor | None, raw_name: str, raw: torch.Tensor | None) -> torch.Tensor:
    """Return `codes`, or raise a `ValueError`: a front end of codes reads nothing else.

    Args:
        name (`str`): The argument of the codes.
        codes (`torch.Tensor`, *optional*): As given.
        raw_name (`str`): The argument of what codes are made of.
        raw (`torch.Tensor`, *optional*): As given.
    """
    if raw is not None:
        raise ValueError(
            f"`{raw_name}` cannot be read by a front end of codes: pass `{name}`, or use "
            "`JosieForConditionalGeneration`, whose codec makes them."
        )
    if codes is None:
        raise ValueError(f"`{name}` must be given, got None.")
    return codes


def require_features(
    name: str, features: torch.Tensor | None, codes_name: str, codes: torch.Tensor | None
) -> torch.Tensor:
    """Return `features`, or raise a `ValueError`: a continuous encoder reads no codes.

    Args:
        name (`str`): The argument of the features.
        features (`torch.Tensor`, *optional*): As given.
        codes_name (`str`): The argument of codes.
        codes (`torch.Tensor`, *optional*): As given.
    """
    if codes is not None:
        raise ValueError(f"`{codes_name}` cannot be read by a continuous encoder: pass `{name}`.")
    if features is None:
        raise ValueError(f"`{name}` must be given, got None.")
    return features
