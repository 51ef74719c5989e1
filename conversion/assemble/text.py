"""The text part: a causal language model with its tokenizer."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase
from transformers.modeling_utils import PreTrainedModel

from .reading import Source, load_model, misfit, read_config, read_file


@dataclass
class TextPart:
    """A causal language model in its pieces, which are not copied.

    Args:
        model (`PreTrainedModel`): The whole of it.
        decoder (`PreTrainedModel`): Its transformer, embeddings included.
    """

    model: PreTrainedModel
    decoder: PreTrainedModel

    @property
    def head(self) -> nn.Linear:
        """Its projection to the vocabulary; another module after it was resized."""
        return self.model.get_output_embeddings()  # type: ignore[return-value]

    @property
    def is_tied(self) -> bool:
        """Whether projection and embeddings are one matrix."""
        return self.head.weight is self.decoder.get_input_embeddings().weight


def load_text(source: Source, dtype: torch.dtype | None = None) -> TextPart:
    """Load a causal language model.

    Args:
        source (`str` or `Path`): A folder or a name on the Hub; of a multimodal model the text half is taken.
        dtype (`torch.dtype`, *optional*): The checkpoint's own when `None`.

    Raises:
        `ValueError`: It is none, lacks weights, or makes its logits in a way that JOSIE's head cannot.
    """
    config = read_config("text", source)
    text_config = config.get_text_config(decoder=True)
    decoders = AutoModel._model_mapping  # type: ignore[attr-defined]
    is_known = type(config) in AutoModelForCausalLM._model_mapping and type(text_config) in decoders  # type: ignore[attr-defined]
    if config.is_encoder_decoder or not is_known:
        raise misfit("text", source, "a causal language model", config)
    model = load_model("text", source, AutoModelForCausalLM, dtype)
    decoder_class = decoders[type(model.config.get_text_config(decoder=True))]
    found = [module for module in model.modules() if type(module) is decoder_class and module is not model]
    head: Any = model.get_output_embeddings()
    if len(found) != 1 or not isinstance(head, nn.Linear):
        raise misfit("text", source, "a causal language model of a transformer and a linear head", config)
    decoder: Any = found[0]
    if head.bias is not None or head.in_features != decoder.config.hidden_size:
        raise misfit("text", source, "a language model whose head is a matrix of its own width without bias", config)
    if getattr(decoder.config, "max_position_embeddings", None) is None:
        raise misfit("text", source, "a language model with a known longest context", config)
    return TextPart(model, decoder)


def load_tokenizer(source: Source) -> PreTrainedTokenizerBase:
    """Load a tokenizer.

    Raises:
        `ValueError`: There is none.
    """
    tokenizer = read_file("text", source, "the tokenizer of its model", AutoTokenizer.from_pretrained)
    if not len(tokenizer):
        raise ValueError(f"`text` must hold the tokenizer of its model, got {str(source)!r}, whose tokenizer is empty.")
    return tokenizer
