"""The parts that hear, see and speak: audio encoders, vision towers and audio codecs, with their processors."""

from pathlib import Path
from typing import Any

import torch
from transformers import AutoFeatureExtractor, AutoImageProcessor, AutoModel
from transformers.configuration_utils import PreTrainedConfig
from transformers.feature_extraction_sequence_utils import SequenceFeatureExtractor
from transformers.modeling_utils import PreTrainedModel

from ...configuration_josie import (
    JosieAudioEncoderConfig,
    JosieConfig,
    JovioConfig,
    audio_codec_geometry,
    is_codec,
    tower_image_size,
)
from ...modeling_josie import JosieForConditionalGeneration
from ...modeling_josie.thinker.vision_front_end import run_tower
from .reading import Source, load_model, misfit, read_config


def load_audio_encoder(source: Source, dtype: torch.dtype | None = None) -> PreTrainedModel:
    """Load an audio encoder: Whisper's, one of waveforms (wav2vec 2.0, HuBERT, WavLM...), μOmni's; or an audio codec.

    Raises:
        `ValueError`: It is nothing of the kind, or lacks weights.
    """
    config = read_config("audio", source)
    if is_codec(config):
        return load_codec(source, argument="audio")
    of_waveforms = hasattr(config, "conv_stride") and not getattr(config, "add_adapter", False)
    if not (config.model_type == "whisper" or of_waveforms or isinstance(config, JosieAudioEncoderConfig)):
        raise misfit(
            "audio", source, "an audio encoder (Whisper, wav2vec 2.0, HuBERT, WavLM...) or an audio codec", config
        )
    model = load_model("audio", source, AutoModel, dtype)
    return model.get_encoder() if config.model_type == "whisper" else model  # type: ignore[return-value]


def load_vision_tower(source: Source, dtype: torch.dtype | None = None) -> PreTrainedModel:
    """Load a vision tower: SigLIP's, CLIP's, ViT, μOmni's...; or JOVIO.

    Raises:
        `ValueError`: It is nothing of the kind, or lacks weights.
    """
    config = read_config("vision", source)
    if isinstance(config, JovioConfig):
        return load_model("vision", source, AutoModel, torch.float32)
    tower: Any = getattr(config, "vision_config", None) or config
    sizes = [tower_image_size(tower), *(getattr(tower, name, None) for name in ("patch_size", "hidden_size"))]
    is_known = type(tower) in AutoModel._model_mapping  # type: ignore[attr-defined]
    if is_codec(config) or not is_known:
        raise misfit("vision", source, "a vision tower (SigLIP, CLIP, ViT...) or JOVIO", config)
    if not all(isinstance(size, int) for size in sizes):
        wanted = "a vision tower (SigLIP, CLIP, ViT...) or JOVIO, of square images, square patches and one width"
        raise misfit("vision", source, wanted, config)
    model = load_model("vision", source, AutoModel, dtype, **({} if tower is config else {"config": tower}))
    _try_tower(model, source)
    return model


@torch.no_grad()
def _try_tower(model: Any, source: Source) -> None:
    """Encode two images alike, and require a row for each patch of each, and equal images to look alike.

    Raises:
        `ValueError`: It wants other inputs, or gives other outputs.
    """
    config = model.config
    side: Any = tower_image_size(config)
    num_patches = (side // config.patch_size) ** 2
    size = (2, getattr(config, "num_channels", 3), side, side)
    try:
        features = run_tower(model, torch.zeros(size, dtype=model.dtype)).last_hidden_state
        shape = tuple(features.shape)
    except Exception as error:  # whatever a family raises that wants other inputs, or gives other outputs
        reason = " ".join(str(error).split())
        wanted = f"a vision tower that needs no more than `pixel_values` of two images (it says: {reason})"
        raise misfit("vision", source, wanted, config) from error
    if len(shape) != 3 or shape[0] != 2 or shape[1] < num_patches or shape[2] != config.hidden_size:
        wanted = (
            f"a vision tower that gives at least {num_patches} rows of width {config.hidden_size} for each of two "
            f"images (it gives the shape {shape})"
        )
        raise misfit("vision", source, wanted, config)
    if not torch.allclose(features[0], features[1], atol=1e-3):
        raise misfit("vision", source, "a vision tower that sees equal images alike", config)


def load_codec(source: Source, argument: str = "codec") -> PreTrainedModel:
    """Load an audio codec in float32: JODIO, the mel codec, Mimi, DAC, EnCodec...; of a JOSIE, its codec.

    Args:
        source (`str` or `Path`): A folder or a name on the Hub.
        argument (`str`): The caller's name for it, for messages.

    Raises:
        `ValueError`: It is none, or lacks weights.
    """
    config = read_config(argument, source)
    if isinstance(config, JosieConfig) and config.audio_codec_config is not None:
        whole: Any = load_model(argument, source, JosieForConditionalGeneration, torch.float32)
        return whole.audio_codec
    try:
        audio_codec_geometry(config)
    except (ValueError, AttributeError) as error:
        wanted = "an audio codec (JODIO, the mel codec, Mimi, DAC, EnCodec...)"
        raise misfit(argument, source, wanted, config) from error
    return load_model(argument, source, AutoModel, torch.float32)


def require_one_codec(audio: Source, audio_config: PreTrainedConfig, codec: Source) -> None:
    """Refuse two codecs: input and output are codes of one.

    Args:
        audio (`str` or `Path`): Checkpoint of the audio encoder.
        audio_config (`PreTrainedConfig`): Its configuration.
        codec (`str` or `Path`): Checkpoint of the codec.

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
        # Only its settings are read, for which the backend that needs no torchvision will do.
        return AutoImageProcessor.from_pretrained(source, backend="pil")
    except (OSError, ValueError):
        return None
