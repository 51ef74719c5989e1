"""Pretrained parts, read from their folders or the Hub by their own `from_pretrained`, and refused if they do not fit.

A checkpoint may hold more than the part that is wanted of it: of Whisper the encoder is taken, of CLIP and SigLIP the
half that sees, of a model that reads pictures too the half that reads text.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoFeatureExtractor,
    AutoImageProcessor,
    AutoModel,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedTokenizerBase,
)
from transformers.configuration_utils import PreTrainedConfig
from transformers.feature_extraction_sequence_utils import SequenceFeatureExtractor
from transformers.modeling_utils import PreTrainedModel

from ...configuration_josie import JosieAudioEncoderConfig, JovioConfig, audio_codec_geometry, is_codec

Source = str | Path

# What a front end makes no use of, so that a checkpoint may lack it.
_UNUSED = frozenset({"pooler", "head", "masked_spec_embed"})


@dataclass
class TextPart:
    """A causal language model in its pieces, which stay its own: they are not copied.

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


def read_config(argument: str, source: Source) -> PreTrainedConfig:
    """Return the configuration of a checkpoint.

    Args:
        argument (`str`): What the caller calls it, for messages.
        source (`str` or `Path`): A folder, or the name of a repository on the Hub.

    Raises:
        `ValueError`: There is none, or it is of no kind that transformers knows.
    """
    return _read(argument, source, "the configuration of a model", AutoConfig.from_pretrained)


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
        raise _misfit("text", source, "a causal language model", config)
    model = _load("text", source, AutoModelForCausalLM, dtype)
    kind = decoders[type(model.config.get_text_config(decoder=True))]
    found = [module for module in model.modules() if type(module) is kind and module is not model]
    head: Any = model.get_output_embeddings()
    if len(found) != 1 or not isinstance(head, nn.Linear):
        raise _misfit("text", source, "a causal language model of a transformer and a linear head", config)
    decoder: Any = found[0]
    if head.bias is not None or head.in_features != decoder.config.hidden_size:
        raise _misfit("text", source, "a language model whose head is a matrix of its own width without bias", config)
    if getattr(decoder.config, "max_position_embeddings", None) is None:
        raise _misfit("text", source, "a language model with a known longest context", config)
    return TextPart(model, decoder)


def load_tokenizer(source: Source) -> PreTrainedTokenizerBase:
    """Load a tokenizer.

    Raises:
        `ValueError`: There is none.
    """
    tokenizer = _read("text", source, "the tokenizer of its model", AutoTokenizer.from_pretrained)
    if not len(tokenizer):
        raise ValueError(f"`text` must hold the tokenizer of its model, got {str(source)!r}, whose tokenizer is empty.")
    return tokenizer


def load_ear(source: Source, dtype: torch.dtype | None = None) -> PreTrainedModel:
    """Load an audio encoder: Whisper's, one that hears waveforms (wav2vec 2.0, HuBERT, WavLM...), μOmni's; or a codec.

    Raises:
        `ValueError`: It is nothing of the kind, or lacks weights.
    """
    config = read_config("audio", source)
    if is_codec(config):
        return load_codec(source, dtype, argument="audio")
    of_waveforms = hasattr(config, "conv_stride") and not getattr(config, "add_adapter", False)
    if not (config.model_type == "whisper" or of_waveforms or isinstance(config, JosieAudioEncoderConfig)):
        raise _misfit(
            "audio", source, "an audio encoder (Whisper, wav2vec 2.0, HuBERT, WavLM...) or an audio codec", config
        )
    model = _load("audio", source, AutoModel, dtype)
    return model.get_encoder() if config.model_type == "whisper" else model  # type: ignore[return-value]


def load_eye(source: Source, dtype: torch.dtype | None = None) -> PreTrainedModel:
    """Load a vision tower: SigLIP's, CLIP's, ViT, μOmni's...; or JOVIO.

    Raises:
        `ValueError`: It is nothing of the kind, or lacks weights.
    """
    config = read_config("vision", source)
    if isinstance(config, JovioConfig):
        return _load("vision", source, AutoModel, dtype)
    tower: Any = getattr(config, "vision_config", None) or config
    sides = (getattr(tower, "image_size", None), getattr(tower, "patch_size", None))
    is_known = type(tower) in AutoModel._model_mapping  # type: ignore[attr-defined]
    if is_codec(config) or not is_known or not all(isinstance(side, int) for side in sides):
        raise _misfit("vision", source, "a vision tower (SigLIP, CLIP, ViT...) or JOVIO", config)
    return _load("vision", source, AutoModel, dtype, **({} if tower is config else {"config": tower}))


def load_codec(source: Source, dtype: torch.dtype | None = None, argument: str = "codec") -> PreTrainedModel:
    """Load an audio codec: JODIO, the mel codec, Mimi, DAC, EnCodec...

    Args:
        source (`str` or `Path`): A folder or a name on the Hub.
        dtype (`torch.dtype`, *optional*): The checkpoint's own when `None`.
        argument (`str`): What the caller calls it, for messages.

    Raises:
        `ValueError`: It is none, or lacks weights.
    """
    config = read_config(argument, source)
    try:
        audio_codec_geometry(config)
    except (ValueError, AttributeError) as error:
        kinds = "an audio codec (JODIO, the mel codec, Mimi, DAC, EnCodec...)"
        raise _misfit(argument, source, kinds, config) from error
    return _load(argument, source, AutoModel, dtype)


def require_one_codec(audio: Source, audio_config: PreTrainedConfig, codec: Source) -> None:
    """Refuse two codecs: what is heard and what is said are codes of one.

    Raises:
        `ValueError`: `audio` is a codec, and `codec` another.
    """
    is_same = str(audio) == str(codec) or Path(audio).absolute() == Path(codec).absolute()
    if not is_codec(audio_config) or is_same:
        return
    raise ValueError(
        f"`codec` must be left out or be `audio` itself ({str(audio)!r}), which is a codec too, as JOSIE hears and "
        f"speaks the codes of one, got {str(codec)!r}."
    )


def load_feature_extractor(source: Source) -> SequenceFeatureExtractor | None:
    """Return the feature extractor of an audio encoder, `None` if its checkpoint has none."""
    try:
        return AutoFeatureExtractor.from_pretrained(source)
    except (OSError, ValueError):
        return None


def load_image_processor(source: Source) -> Any:
    """Return the image processor of a vision tower, `None` if its checkpoint has none."""
    try:
        return AutoImageProcessor.from_pretrained(
            source, backend="pil"
        )  # its settings count; torchvision may be absent
    except (OSError, ValueError):
        return None


def _read(argument: str, source: Source, what: str, read: Any) -> Any:
    """Read a file by `read`, or raise in one sentence why it cannot be read."""
    try:
        return read(source)
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(
            f"`{argument}` must be a folder, or a name on the Hub, with {what}, got {str(source)!r}: {reason}"
        ) from error


def _load(argument: str, source: Source, auto_class: Any, dtype: torch.dtype | None, **kwargs: Any) -> PreTrainedModel:
    """Load a model in evaluation mode and refuse one that lacks weights."""
    try:
        model, loading = auto_class.from_pretrained(
            source, dtype="auto" if dtype is None else dtype, output_loading_info=True, **kwargs
        )
    except (OSError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"`{argument}` must hold a model's weights, got {str(source)!r}: {reason}") from error
    missing = sorted(key for key in loading["missing_keys"] if not _UNUSED.intersection(key.split(".")))
    if missing:
        raise ValueError(
            f"`{argument}` must hold all weights of a {type(model).__name__}, got {str(source)!r}, which lacks "
            f"{len(missing)} of them, such as {missing[0]!r}."
        )
    return model.eval()


def _misfit(argument: str, source: Source, wanted: str, config: PreTrainedConfig) -> ValueError:
    return ValueError(f"`{argument}` must be {wanted}, got {str(source)!r}, of the model type {config.model_type!r}.")
