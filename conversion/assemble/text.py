"""The text part: a causal language model with its tokenizer."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer, GgufConfig, PreTrainedTokenizerBase
from transformers.configuration_utils import PreTrainedConfig
from transformers.modeling_utils import PreTrainedModel
from transformers.utils import is_gguf_available

from .reading import Source, load_model, misfit, read_config, read_file


@dataclass
class TextPart:
    """A causal language model in its pieces, which are not copied.

    Args:
        model (`PreTrainedModel`): The whole of it.
        decoder (`PreTrainedModel`): Its transformer, embeddings included.
        tokenizer (`PreTrainedTokenizerBase`): Its tokenizer.
    """

    model: PreTrainedModel
    decoder: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase

    @property
    def head(self) -> nn.Linear:
        """Its projection to the vocabulary; another module after it was resized."""
        return self.model.get_output_embeddings()  # type: ignore[return-value]

    @property
    def is_tied(self) -> bool:
        """Whether projection and embeddings are one matrix."""
        return self.head.weight is self.decoder.get_input_embeddings().weight


def load_text(
    source: Source, dtype: torch.dtype | None = None, gguf_file: str | None = None, context: int | None = None
) -> TextPart:
    """Load a causal language model and its tokenizer.

    Args:
        source (`str` or `Path`): A folder, a `.gguf` file, or a name on the Hub; of a multimodal model the text half is
            taken.
        dtype (`torch.dtype`, *optional*): The checkpoint's own when `None`.
        gguf_file (`str`, *optional*): Name of the GGUF file in `source`; its weights are dequantized.
        context (`int`, *optional*): Longest sequence, of a model that does not know it.

    Raises:
        `ValueError`: It is none, lacks weights or a tokenizer, or makes its logits in a way that JOSIE's head cannot.
        `ImportError`: It is a GGUF file, and the package gguf is missing.
    """
    source, gguf_file = _find_gguf(source, gguf_file)
    from_file = {} if gguf_file is None else {"gguf_file": gguf_file}
    config = read_config("text", source, **from_file)
    text_config = config.get_text_config(decoder=True)
    decoders = AutoModel._model_mapping  # type: ignore[attr-defined]
    is_known = type(config) in AutoModelForCausalLM._model_mapping and type(text_config) in decoders  # type: ignore[attr-defined]
    if config.is_encoder_decoder or not is_known:
        raise misfit("text", source, "a causal language model", config)
    dequantize = {} if gguf_file is None else {"quantization_config": GgufConfig(dequantize=True)}
    model = load_model("text", source, AutoModelForCausalLM, dtype, **from_file, **dequantize)
    decoder_class = decoders[type(model.config.get_text_config(decoder=True))]
    found = [module for module in model.modules() if type(module) is decoder_class and module is not model]
    head: Any = model.get_output_embeddings()
    if len(found) != 1 or not isinstance(head, nn.Linear):
        raise misfit("text", source, "a causal language model of a transformer and a linear head", config)
    decoder: Any = found[0]
    if head.in_features != decoder.config.hidden_size:
        raise misfit("text", source, "a language model whose head is as wide as its transformer", config)
    _set_context(decoder.config, context, source)
    tokenizer = read_file("text", source, "the tokenizer of its model", partial(_load_tokenizer, **from_file))
    if not len(tokenizer):
        raise ValueError(f"`text` must hold the tokenizer of its model, got {str(source)!r}, whose tokenizer is empty.")
    return TextPart(model, decoder, tokenizer)


def _load_tokenizer(source: Source, **kwargs: Any) -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(source, **kwargs)


def _find_gguf(source: Source, gguf_file: str | None) -> tuple[Source, str | None]:
    """Return folder and name of a GGUF file that may be given as one path."""
    path = Path(source)
    if gguf_file is None and path.suffix == ".gguf" and path.is_file():
        source, gguf_file = path.parent, path.name
    if gguf_file is not None and not is_gguf_available():
        raise ImportError("GGUF files need the package gguf: `pip install josie[gguf]`.")
    return source, gguf_file


def _set_context(config: PreTrainedConfig, context: int | None, source: Source) -> None:
    """Write the longest sequence into a configuration that has none: recurrent models and those with ALiBi know none.

    Raises:
        `ValueError`: Nobody knows it, or `context` is given for a model that does.
    """
    known = getattr(config, "max_position_embeddings", None) or getattr(config, "max_seq_len", None)
    if known is None and context is None:
        raise ValueError(
            f"`context` must be the longest sequence that {str(source)!r} is to read, because its model type "
            f"{config.model_type!r} knows none, got None."
        )
    if known is not None and context is not None:
        raise ValueError(
            f"`context` must be None for {str(source)!r}, which knows its longest sequence ({known}), got {context}."
        )
    if context is not None and context < 1:
        raise ValueError(f"`context` must be at least 1, got {context}.")
    if getattr(config, "max_position_embeddings", None) is None:
        config.max_position_embeddings = known or context  # type: ignore[attr-defined]
