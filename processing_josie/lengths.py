"""Numbers of placeholders of an image, video or clip, from the head of its file, without decoding it."""

from typing import Any

from .audio import as_waveform, split_rate
from .audio_files import open_audio
from .encoded_clips import EncodedClip
from .feature_extraction import JosieFeatureExtractor
from .images import image_size
from .resampling import resampled_length
from .sources import is_source, split_options
from .video import measure_video


def count_media_tokens(processor: Any, modality: str, item: Any) -> int:
    """Return the placeholders of one input.

    Args:
        processor ([`JosieProcessor`]): The processor whose model reads it.
        modality (`"image"`, `"video"` or `"audio"`): Its modality.
        item: In a form that the processor takes.

    Raises:
        `ValueError`: It cannot be opened, or the model does not take its modality.
    """
    if getattr(processor, f"{modality}_token") is None:
        raise ValueError(f"`conversation` must have no {modality}, as this model takes none, got one.")
    if isinstance(item, EncodedClip):
        return count_encoded_tokens(processor, item)
    if modality == "audio":
        clip, rate = split_rate(item)
        extractor = processor.feature_extractor
        if is_source(clip):
            with open_audio(clip) as file:
                num_samples = resampled_length(file.num_samples, file.sampling_rate, extractor.sampling_rate)
        else:
            num_samples = as_waveform((clip, rate) if rate else clip, None, extractor.sampling_rate).shape[1]
        return count_audio_tokens(processor, num_samples)
    value, own = split_options(item)
    if modality == "image":
        return count_image_tokens(processor, *image_size(value), own)
    return count_video_tokens(processor, *measure_video(value, processor.video_processor.item_options(own)), own)


def count_encoded_tokens(processor: Any, clip: EncodedClip) -> int:
    """Return the placeholders of a clip that the audio encoder has read before."""
    config = processor.thinker_config
    return min(-(-len(clip.features) // config.audio_stack_factor), config.max_audio_tokens)


def count_audio_tokens(processor: Any, num_samples: int) -> int:
    """Return the placeholders of a clip of `num_samples` at the rate of the processor's feature extractor."""
    extractor = processor.feature_extractor
    length = num_samples
    if not isinstance(extractor, JosieFeatureExtractor):  # Whisper's
        length = -(-min(num_samples, extractor.n_samples) // extractor.hop_length)
    elif extractor.output == "features":
        length = num_samples // extractor.mel_hop_length + 1
    return processor.thinker_config.get_num_audio_tokens(length)


def count_image_tokens(processor: Any, height: int, width: int, own: dict[str, Any] | None = None) -> int:
    """Return the placeholders of an image.

    Args:
        processor ([`JosieProcessor`]): Whose image processor fits it.
        height, width (`int`): Its size, in pixels.
        own (`dict`, *optional*): Options that it has of its own.
    """
    return processor.thinker_config.get_num_image_tokens(*_fit(processor.image_processor, height, width, own))


def count_image_patches(processor: Any, height: int, width: int, own: dict[str, Any] | None = None) -> int:
    """Return the patches of an image, as `image_grid_thw` counts them.

    Args:
        processor, height, width, own: As of [`count_image_tokens`].
    """
    part = processor.image_processor
    height, width = _fit(part, height, width, own)
    return (height // part.patch_size) * (width // part.patch_size)


def count_video_tokens(
    processor: Any, num_frames: int, height: int, width: int, own: dict[str, Any] | None = None
) -> int:
    """Return the placeholders of a video.

    Args:
        processor ([`JosieProcessor`]): Whose video processor fits it.
        num_frames (`int`): Frames that are looked at.
        height, width (`int`): Their size, in pixels.
        own (`dict`, *optional*): Options that it has of its own.
    """
    part = processor.video_processor
    num_frames += -num_frames % part.temporal_patch_size
    return processor.thinker_config.get_num_video_tokens(num_frames, *_fit(part, height, width, own))


def _fit(part: Any, height: int, width: int, own: dict[str, Any] | None) -> tuple[int, int]:
    fit = part.get_fit(part.item_options(own))
    return (height, width) if fit is None else fit(height, width)
