"""How many placeholders a picture, video or sound takes, from the head of its file, without decoding it."""

from typing import Any

import numpy as np
import torch
from PIL import Image

from .audio import as_waveform, open_audio
from .feature_extraction import JosieFeatureExtractor
from .image_processing import fit_size
from .images import array_to_pixels
from .resampling import resampled_length
from .sources import describe_source, is_source, open_source
from .video import choose_frames, probe_video, read_video

# The tag of EXIF that says how a picture was held, and from which of its values on it lies on its side.
_ORIENTATION, _TURNED = 0x0112, 5


def count_media_tokens(processor: Any, modality: str, item: Any) -> int:
    """Return the placeholders of one input.

    Args:
        processor ([`JosieProcessor`]): Whose model reads it.
        modality (`"image"`, `"video"` or `"audio"`): What it is.
        item: In a form that the processor takes.

    Raises:
        `ValueError`: It cannot be opened, or the model does not take its modality.
    """
    if getattr(processor, f"{modality}_token") is None:
        raise ValueError(f"`conversation` must have no {modality}, as this model takes none, got one.")
    config = processor.thinker_config
    if modality == "audio":
        return config.get_num_audio_tokens(_num_inputs(item, processor.feature_extractor))
    part = processor.image_processor if modality == "image" else processor.video_processor
    if modality == "image":
        return config.get_num_image_tokens(*_fit(_picture_size(item), part))
    times, height, width = _video_size(item, part)
    temporal = part.temporal_patch_size
    return config.get_num_video_tokens(-(-times // temporal) * temporal, *_fit((height, width), part))


def _num_inputs(clip: Any, extractor: Any) -> int:
    """Return the length of a clip in mel frames or samples: what the Thinker's configuration counts in."""
    source: Any = clip
    if isinstance(clip, tuple) and is_source(clip[0]):
        source = clip[0]  # a file has a rate of its own
    elif isinstance(clip, dict) and clip.get("array") is None:  # as in datasets
        source = clip.get("bytes") or clip.get("path")
    if is_source(source):
        with open_audio(source) as file:
            num_samples = resampled_length(file.frames, file.samplerate, extractor.sampling_rate)
    else:
        num_samples = as_waveform(clip, None, extractor.sampling_rate).shape[1]
    if not isinstance(extractor, JosieFeatureExtractor):  # Whisper's
        return -(-min(num_samples, extractor.n_samples) // extractor.hop_length)
    return num_samples // extractor.mel_hop_length + 1 if extractor.output == "features" else num_samples


def _fit(size: tuple[int, int], part: Any) -> tuple[int, int]:
    """Return the height and width that a picture or frame is brought to."""
    target = part.size
    if not part.do_resize:
        return size
    if target.height is not None and target.width is not None:
        return target.height, target.width
    return fit_size(*size, part.patch_size, target.min_pixels, target.max_pixels)


def _picture_size(picture: Any) -> tuple[int, int]:
    """Return height and width of a picture."""
    if is_source(picture):
        try:
            with Image.open(open_source(picture, "images")) as opened:
                return _upright(opened)
        except (OSError, SyntaxError, Image.DecompressionBombError) as error:
            raise ValueError(f"`images` must be readable pictures, got {describe_source(picture)}: {error}.") from error
    if isinstance(picture, Image.Image):
        return _upright(picture)
    return _array_size(picture)


def _upright(picture: Image.Image) -> tuple[int, int]:
    width, height = picture.size
    return (width, height) if picture.getexif().get(_ORIENTATION, 1) >= _TURNED else (height, width)


def _array_size(pixels: np.ndarray | torch.Tensor) -> tuple[int, int]:
    """Return height and width of an array with channels on either side, or none."""
    height, width = array_to_pixels(pixels[None], 1).shape[-2:]
    return height, width


def _video_size(video: Any, part: Any) -> tuple[int, int, int]:
    """Return how many frames of a video are looked at, and their height and width."""
    fps, num_frames = (getattr(part, name, None) if part.do_sample_frames else None for name in ("fps", "num_frames"))
    probe = probe_video(video) if is_source(video) else None
    if probe is None:
        options = {name: getattr(part, name, None) for name in ("do_sample_frames", "fps", "num_frames")}
        pixels = read_video(video, options | {"max_frames": part.max_frames, "num_channels": part.num_channels})
        return len(pixels), pixels.shape[-2], pixels.shape[-1]
    return len(choose_frames(probe.num_frames, probe.rate, fps, num_frames, part.max_frames)), probe.height, probe.width
