"""Clips to model inputs, each read once, and the placeholders that each of them takes."""

from typing import Any

from transformers.utils import logging

from .audio import AudioInput, as_waveform
from .encoded_clips import EncodedClip, join_clips
from .feature_extraction import JosieFeatureExtractor
from .lengths import count_encoded_tokens

logger = logging.get_logger(__name__)


def process_clips(
    processor: Any, clips: list[AudioInput], sampling_rate: int | None
) -> tuple[dict[str, Any], list[int]]:
    """Return model inputs of clips, and how many placeholders each of them takes.

    Args:
        processor ([`JosieProcessor`]): The processor whose model reads them.
        clips (`list`): In forms that [`as_waveform`] takes, or all as [`EncodedClip`].
        sampling_rate (`int`, *optional*): Rate of clips that come without one, in Hz.

    Raises:
        `ValueError`: A clip cannot be read, or some are encoded and others not.
    """
    encoded = [clip for clip in clips if isinstance(clip, EncodedClip)]
    if not encoded:
        return _process_waveforms(processor, clips, sampling_rate)
    if len(encoded) < len(clips):
        raise ValueError(
            f"`audio` must have `features` in all clips of a batch or in none, got {len(encoded)} of {len(clips)}."
        )
    counts = [count_encoded_tokens(processor, clip) for clip in encoded]
    for index, (clip, count) in enumerate(zip(encoded, counts, strict=True)):
        given = len(clip.features)
        if count * processor.thinker_config.audio_stack_factor < given:
            logger.warning(
                f"`audio` clip {index} is too long for its share of the context: kept "
                f"{count * processor.thinker_config.audio_stack_factor} of {given} features."
            )
    return dict(join_clips(encoded)), counts


def _process_waveforms(
    processor: Any, clips: list[AudioInput], sampling_rate: int | None
) -> tuple[dict[str, Any], list[int]]:
    extractor = processor.feature_extractor
    rate, channels = extractor.sampling_rate, getattr(extractor, "num_channels", 1)
    waveforms = [as_waveform(clip, sampling_rate, rate, channels) for clip in clips]
    if isinstance(extractor, JosieFeatureExtractor):
        outputs = dict(extractor.extract(waveforms, return_tensors="np"))
    else:
        outputs = dict(
            extractor(
                [waveform[0] for waveform in waveforms],
                sampling_rate=rate,
                return_tensors="np",
                return_attention_mask=True,
            )
        )
        outputs["input_features_mask"] = outputs.pop("attention_mask")  # the text has one of that name
    mask = outputs["padding_mask" if "padding_mask" in outputs else "input_features_mask"]
    counts = []
    for index, (waveform, length) in enumerate(zip(waveforms, mask.sum(axis=-1).tolist(), strict=True)):
        given = processor.thinker_config.get_num_audio_tokens(length, cut=False)
        kept = processor.thinker_config.get_num_audio_tokens(length)
        seconds = waveform.shape[1] / rate
        heard = min(seconds, getattr(extractor, "n_samples", waveform.shape[1]) / rate)
        if kept < given or heard < seconds:
            logger.warning(
                f"`audio` clip {index} is too long for its share of the context: kept {kept} of {given} tokens "
                f"({heard * kept / given:.2f} of {seconds:.2f} s)."
            )
        counts.append(kept)
    return outputs, counts
