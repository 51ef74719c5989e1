"""Clips that an audio encoder has read before, as `josie encode --features` writes them."""

from typing import Any

import numpy as np

from .nested_values import join_arrays, to_list


class EncodedClip:
    """A clip as the states of an audio encoder, in place of its waveform.

    Args:
        features: `(num_features, encoder_hidden_size)`, an array or lists.

    Raises:
        `ValueError`: They have another shape, or are not finite.
    """

    def __init__(self, features: Any):
        values = np.asarray(join_arrays(features), dtype=np.float32)
        if values.ndim != 2 or 0 in values.shape:
            raise ValueError(
                f"`features` of audio must be of shape (num_features, encoder_hidden_size), got {values.shape}."
            )
        if not np.isfinite(values).all():
            raise ValueError("`features` of audio must be finite, got NaN or infinity.")
        self.features = values


def join_clips(clips: list[EncodedClip]) -> dict[str, np.ndarray]:
    """Return the model inputs of clips: `audio_features`, filled up with 0, and `audio_features_mask`.

    Raises:
        `ValueError`: They are of different encoders.
    """
    widths = sorted({clip.features.shape[1] for clip in clips})
    if len(widths) > 1:
        raise ValueError(f"`features` of audio must be of one encoder, got widths {widths}.")
    longest = max(len(clip.features) for clip in clips)
    features = np.zeros((len(clips), longest, widths[0]), dtype=np.float32)
    mask = np.zeros((len(clips), longest), dtype=np.int64)
    for row, clip in enumerate(clips):
        features[row, : len(clip.features)] = clip.features
        mask[row, : len(clip.features)] = 1
    return {"audio_features": features, "audio_features_mask": mask}


def with_features(conversation: list[dict[str, Any]], features: Any) -> list[dict[str, Any]]:
    """Return a conversation whose clips, those that are heard, have features in place of their inputs.

    Args:
        conversation (`list[dict]`): Messages in JOSIE's form; not changed.
        features: Of each clip in order, `(num_clips, num_features, encoder_hidden_size)`; nothing when `None` or empty.

    Raises:
        `ValueError`: They are of another number of clips.
    """
    given = to_list(features) if features is not None else []
    if not given:
        return conversation
    left = iter(given)
    changed, num_clips = [], 0
    for message in conversation:
        parts = message.get("content")
        if message.get("role") != "assistant" and isinstance(parts, list):
            are_clips = [isinstance(part, dict) and part.get("type") == "audio" for part in parts]
            num_clips += sum(are_clips)
            parts = [
                _replace_input(part, next(left, None)) if is_clip else part
                for part, is_clip in zip(parts, are_clips, strict=True)
            ]
            message = message | {"content": parts}
        changed.append(message)
    if num_clips != len(given):
        raise ValueError(
            f"`audio_features` must be of as many clips as are heard in `messages` ({num_clips}), got {len(given)}."
        )
    return changed


def _replace_input(part: dict[str, Any], features: Any) -> dict[str, Any]:
    kept = {name: part[name] for name in ("type", "text") if name in part}
    return kept | {"features": features}
