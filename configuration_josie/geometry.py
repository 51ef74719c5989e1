"""Numbers of codes and placeholder tokens of an input, for our parts and for those of transformers.

The processor writes as many placeholders as these functions say and the Thinker expects as many features, so that both
read the same numbers and neither needs the other.
"""

import math
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from transformers.configuration_utils import PreTrainedConfig

from .constants import STREAMING_CODECS

# Vision towers of transformers whose first row is a CLS token.
_TOWERS_WITH_CLS = frozenset({"clip_vision_model", "vit", "deit", "dinov2", "josie_vision_encoder"})


@dataclass(frozen=True)
class CodecGeometry:
    """Geometry of an audio codec, as everything else reads it.

    Args:
        sampling_rate (`int`): Samples a second, in Hz.
        hop_length (`int`): Samples a code frame stands for.
        num_quantizers (`int`): Codes a frame has.
        codebook_size (`int`): Number of values a code can take.
    """

    sampling_rate: int
    hop_length: int
    num_quantizers: int
    codebook_size: int

    @property
    def frame_rate(self) -> float:
        """Code frames a second, in Hz."""
        return self.sampling_rate / self.hop_length

    def get_num_frames(self, num_samples: int) -> int:
        """Return how many code frames a waveform of `num_samples` samples fills, the last one in part."""
        return -(-num_samples // self.hop_length)


@runtime_checkable
class CountsFrames(Protocol):
    """A configuration that says by itself how many code frames a waveform gives: those of JOSIE's codecs."""

    def get_num_frames(self, num_samples: int) -> int:
        """Return how many code frames a waveform of `num_samples` samples gives."""
        ...


def longest_sequence(text_config: Any) -> int:
    """Return how many positions a text backbone takes: `factor` times its own with dynamic rotary positions.

    Raises:
        `ValueError`: Its configuration has no number of positions.
    """
    if getattr(text_config, "max_position_embeddings", None) is None:
        raise ValueError(
            f"`text_config` must have `max_position_embeddings`, got a {text_config.model_type!r} without."
        )
    rope = getattr(text_config, "rope_parameters", None) or {}
    factor = rope.get("factor", 1) if rope.get("rope_type") == "dynamic" else 1
    return int(factor * text_config.max_position_embeddings)


def is_codec(config: PreTrainedConfig | None) -> bool:
    """Return whether `config` describes a codec (its output are codes) and not a continuous encoder."""
    return config is not None and hasattr(config, "codebook_size")


def decodes_in_stream(config: PreTrainedConfig | None) -> bool:
    """Return whether the decoder of an audio codec makes samples while codes come, exactly those of all at once."""
    return config is not None and config.model_type in STREAMING_CODECS


def encodes_in_stream(config: PreTrainedConfig | None) -> bool:
    """Return whether an `audio_config` describes something that reads waveforms while they come, exactly as if whole.

    Those are a streaming codec, and a causal audio encoder with a `mel_lookahead`.
    """
    return decodes_in_stream(config) or getattr(config, "algorithmic_delay", None) is not None


def reads_waveforms(config: PreTrainedConfig | None) -> bool:
    """Return whether `config` describes something that hears samples: a codec, an encoder with a convolutional front
    such as wav2vec 2.0, HuBERT or WavLM, or ours with a `mel_lookahead`; the others hear mel spectrograms."""
    return is_codec(config) or hasattr(config, "conv_stride") or getattr(config, "mel_lookahead", None) is not None


def same_codec(first: PreTrainedConfig, second: PreTrainedConfig) -> bool:
    """Return whether two configurations describe the same codec, wherever they were loaded from."""

    def without_provenance(values: dict) -> dict:
        provenance = ("_name_or_path", "architectures", "auto_map", "dtype", "transformers_version")
        kept = {key: value for key, value in values.items() if key not in provenance}
        return {key: without_provenance(value) if isinstance(value, dict) else value for key, value in kept.items()}

    return without_provenance(first.to_dict()) == without_provenance(second.to_dict())


def audio_codec_geometry(config: PreTrainedConfig) -> CodecGeometry:
    """Return the geometry of JODIO, the mel codec, or an audio tokenizer of transformers (Mimi, DAC, EnCodec).

    Raises:
        `ValueError`: `config` is no audio codec.
    """
    quantizers = getattr(config, "num_quantizers", getattr(config, "n_codebooks", None))
    rate = getattr(config, "sampling_rate", None)
    if not is_codec(config) or quantizers is None or rate is None:
        raise ValueError(f"`audio_codec_config` must describe an audio codec, got {config.model_type!r}.")
    hop = getattr(config, "hop_length", None) or getattr(config, "frame_size", None) or round(rate / config.frame_rate)
    return CodecGeometry(rate, hop, quantizers, config.codebook_size)


def num_audio_tokens(config: PreTrainedConfig, num_inputs: int) -> int:
    """Return how many features one clip gives.

    Args:
        config: The Thinker's `audio_config`.
        num_inputs (`int`): Length of the clip, in samples where [`reads_waveforms`] and in mel frames elsewhere.

    Raises:
        `ValueError`: The geometry of this kind of encoder is not known, or the clip is too short for it.
    """
    if is_codec(config):
        counting = config if isinstance(config, CountsFrames) else audio_codec_geometry(config)
        return counting.get_num_frames(num_inputs)
    if hasattr(config, "downsample"):
        num_frames = config.get_num_mel_frames(num_inputs) if reads_waveforms(config) else num_inputs
        return config.downsample(num_frames)
    if hasattr(config, "conv_stride") and not getattr(config, "add_adapter", False):
        length = num_inputs
        for kernel, stride in zip(config.conv_kernel, config.conv_stride, strict=True):
            length = (length - kernel) // stride + 1
        if length < 1:
            raise ValueError(
                f"`audio` must be long enough for a feature of {config.model_type!r}, got {num_inputs} samples."
            )
        return length
    if hasattr(config, "max_source_positions"):  # Whisper: one feature for two mel frames, of 30 seconds at most
        return min(-(-num_inputs // 2), config.max_source_positions)
    raise ValueError(f"`audio_config` of type {config.model_type!r} has no known number of features per clip.")


def has_cls_row(config: PreTrainedConfig) -> bool:
    """Return whether the first row of this vision tower's output is a CLS token."""
    return config.model_type in _TOWERS_WITH_CLS


def takes_patches(config: Any) -> bool:
    """Return whether this vision tower reads patches with their grid and a mask, not pixels: SigLIP 2's NaFlex."""
    return config.model_type == "siglip2_vision_model"


def tower_image_size(config: Any) -> Any:
    """Return the side of the square images that a vision tower sees, in pixels; of NaFlex, with all its positions.

    Whatever stands in the configuration is returned: an `int`, or `None`, or the sides of images that are not square.
    """
    if not takes_patches(config):
        return getattr(config, "image_size", None)
    return math.isqrt(config.num_patches) * config.patch_size if isinstance(config.patch_size, int) else None


def num_image_tokens(config: PreTrainedConfig, select: str, height: int, width: int, num_frames: int = 1) -> int:
    """Return how many features an image, or a video of `num_frames` frames, gives.

    Args:
        config: The Thinker's `vision_config`.
        select (`"cls"` or `"patch"`): Which rows of a continuous encoder are used.
        height, width (`int`): Size in pixels.
        num_frames (`int`): Frames; continuous encoders see them one by one.
    """
    if is_codec(config):
        return config.get_num_patches(num_frames, height, width)
    if select == "cls":
        return num_frames
    return num_frames * (height // config.patch_size) * (width // config.patch_size)
