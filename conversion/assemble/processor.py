"""The processor of a model of pretrained parts, which treats audio and images as the parts' own processors did."""

from typing import Any

from transformers import PreTrainedTokenizerBase, WhisperFeatureExtractor
from transformers.utils import logging

from ...configuration_josie import JosieAudioEncoderConfig, JosieConfig, is_codec, reads_waveforms
from ...processing_josie import JosieProcessor
from .encoders import load_feature_extractor, load_image_processor
from .reading import Source

logger = logging.get_logger(__name__)

_BILINEAR, _BICUBIC = 2, 3  # Pillow's numbers
_IMAGE_SETTINGS = ("do_rescale", "rescale_factor", "do_normalize", "image_mean", "image_std")


def build_processor(
    config: JosieConfig, tokenizer: PreTrainedTokenizerBase, audio: Source | None, vision: Source | None
) -> JosieProcessor:
    """Return the processor for a model, with the settings of its parts' own.

    Whisper's feature extractor is used itself. Of one for waveforms the sampling rate and whether it normalises are
    taken, of an image processor interpolation, scale and normalisation; images are brought to the tower's size whole,
    also where the original cuts out their centre. A checkpoint without such files gets the settings that its model
    type was trained with; where these are not known, pixels are not normalised, and a warning says so.

    Args:
        config ([`JosieConfig`]): The model.
        tokenizer ([`PreTrainedTokenizerBase`]): Its tokenizer.
        audio, vision (`str` or `Path`, *optional*): Sources of the front ends.

    Raises:
        `ValueError`: A feature extractor does not fit its encoder.
    """
    thinker: Any = config.thinker_config
    processor: Any = JosieProcessor.from_config(config, tokenizer)
    audio_config, vision_config = thinker.audio_config, thinker.vision_config
    if audio is not None and not is_codec(audio_config) and not isinstance(audio_config, JosieAudioEncoderConfig):
        _take_audio_settings(processor, audio_config, audio)
    if vision is not None and not vision_config.model_type.startswith(("josie", "jovio")):
        _take_image_settings(processor, vision)
    return processor


def _take_audio_settings(processor: Any, config: Any, source: Source) -> None:
    own: Any = load_feature_extractor(source)
    if own is None:
        logger.warning(f"`audio` {str(source)!r} has no feature extractor: the usual one of its model type is used.")
        return
    if reads_waveforms(config):
        processor.feature_extractor.sampling_rate = own.sampling_rate
        processor.feature_extractor.do_normalize = bool(getattr(own, "do_normalize", False))
        return
    wanted = (config.num_mel_bins, 2 * config.max_source_positions)
    got = (own.feature_size, getattr(own, "nb_max_frames", None))
    if not isinstance(own, WhisperFeatureExtractor) or got != wanted:
        raise ValueError(
            f"`audio` must have a feature extractor that gives {wanted[0]} mel bins of {wanted[1]} frames, "
            f"got {str(source)!r}, with a {type(own).__name__} of {got[0]} bins and {got[1]} frames."
        )
    processor.feature_extractor = own


def _take_image_settings(processor: Any, source: Source) -> None:
    own: Any = load_image_processor(source)
    if own is None:
        used = (
            "the usual settings of its model type are used"
            if processor.image_processor.do_normalize
            else "pixels are not normalised, as nothing says how; `image_mean`, `image_std` and `do_normalize` of the "
            "saved processor do"
        )
        logger.warning(f"`vision` {str(source)!r} has no image processor: {used}.")
        return
    settings = {name: getattr(own, name) for name in _IMAGE_SETTINGS if getattr(own, name, None) is not None}
    resample = getattr(own, "resample", None)
    if resample in (_BILINEAR, _BICUBIC):
        settings["resample"] = int(resample)
    elif resample is not None:
        logger.warning(f"`vision` {str(source)!r} interpolates by Pillow's filter {int(resample)}: bicubic is used.")
    for part in (processor.image_processor, processor.video_processor):
        for name, value in settings.items():
            setattr(part, name, value)
