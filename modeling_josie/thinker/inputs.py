"""Modal inputs of a batch: everything that is read beside text, described once.

A `forward` takes them as `**kwargs: Unpack[...]`; `spell_inputs` shows their names in its signature, where `Trainer`,
`generate`, PEFT and `torch.export` look for them.
"""

import inspect
from collections.abc import Callable, Iterable
from typing import Any, TypedDict, TypeVar

import torch
from transformers.modeling_outputs import BaseModelOutputWithPooling

_Method = TypeVar("_Method", bound=Callable)


class AudioInputs(TypedDict, total=False):
    """Clips, packed over the batch in the order of their placeholders.

    Args:
        input_features (`torch.FloatTensor`): `(num_clips, num_mel_bins, num_frames)`, for encoders of mel spectrograms.
        input_features_mask (`torch.Tensor`): `(num_clips, num_frames)`, 1 for real frames, which come first; all when
            absent.
        input_values (`torch.FloatTensor`): `(num_clips, 1, num_samples)`, for encoders of waveforms; or
            `(num_clips, channels, num_samples)` for the codec of the whole model.
        padding_mask (`torch.Tensor`): `(num_clips, num_samples)`, 1 for real samples, which come first; all when
            absent.
        audio_features (`torch.FloatTensor`): `(num_clips, num_features, width)`, last states of the encoder that were
            made ahead, in place of its inputs.
        audio_features_mask (`torch.Tensor`): `(num_clips, num_features)`, 1 for real ones, which come first; all when
            absent.
        audio_codes (`torch.LongTensor`): `(num_clips, num_quantizers, num_frames)`, for a Thinker that reads codes.
        audio_codes_mask (`torch.Tensor`): `(num_clips, num_frames)`, 1 for real frames, which come first; all when
            absent.
    """

    input_features: torch.Tensor | None
    input_features_mask: torch.Tensor | None
    input_values: torch.Tensor | None
    padding_mask: torch.Tensor | None
    audio_features: torch.Tensor | None
    audio_features_mask: torch.Tensor | None
    audio_codes: torch.Tensor | None
    audio_codes_mask: torch.Tensor | None


class ImageInputs(TypedDict, total=False):
    """Images, packed over the batch in the order of their placeholders.

    Args:
        pixel_values (`torch.FloatTensor`): `(num_images, channels, height, width)`, for encoders, and for the codec of
            the whole model.
        image_grid_thw (`torch.LongTensor`): `(num_images, 3)`, patches of each image along time, height and width; all
            are real when absent. Encoders do not read it: their images have one size.
        image_codes (`torch.LongTensor`): `(num_images, num_quantizers, max_patches)`, for a Thinker that reads codes.
    """

    pixel_values: torch.Tensor | None
    image_grid_thw: torch.Tensor | None
    image_codes: torch.Tensor | None


class VideoInputs(TypedDict, total=False):
    """Videos, packed over the batch in the order of their placeholders.

    Args:
        pixel_values_videos (`torch.FloatTensor`): `(num_videos, frames, channels, height, width)`, for encoders, which
            read frame by frame, and for the codec of the whole model.
        video_grid_thw (`torch.LongTensor`): `(num_videos, 3)`, patches along time, height and width; all are real when
            absent. Encoders read the number of frames.
        video_codes (`torch.LongTensor`): `(num_videos, num_quantizers, max_patches)`, for a Thinker that reads codes.
    """

    pixel_values_videos: torch.Tensor | None
    video_grid_thw: torch.Tensor | None
    video_codes: torch.Tensor | None


class ModalInputs(AudioInputs, ImageInputs, VideoInputs, total=False):
    """All modal inputs. An input that is `None` counts as absent."""


class ThinkerKwargs(ModalInputs, total=False):
    """Arguments of a `forward` beside text: modal inputs, and options that the text backbone reads.

    Args:
        output_hidden_states, output_attentions (`bool`): Whether to return those of each layer.
        shift_labels (`torch.LongTensor`): `(batch, length)`, in place of `labels`, shifted already.

    So are all other [`~transformers.utils.TransformersKwargs`].
    """

    output_hidden_states: bool | None
    output_attentions: bool | None
    shift_labels: torch.Tensor | None


# What a batch of the whole model holds for the Talker.
SPEECH_INPUTS = frozenset({"speech_codes", "speech_mask", "speech_durations", "speaker_ids"})
# Names by modality, in the order in which features take the places of placeholders.
MODALITY_INPUTS = {
    "audio": tuple(AudioInputs.__annotations__),
    "image": tuple(ImageInputs.__annotations__),
    "video": tuple(VideoInputs.__annotations__),
}
MODALITIES = tuple(MODALITY_INPUTS)
# Encoded media by modality: `pooler_output` holds rows of the Thinker's width, one tensor an item.
MediaOutputs = dict[str, BaseModelOutputWithPooling]
_INPUT_NAMES = tuple(name for names in MODALITY_INPUTS.values() for name in names)


def spell_inputs(*modalities: str) -> Callable[[_Method], _Method]:
    """Return a decorator that shows the inputs of some modalities, of all without names, in a method's signature.

    A method that takes `*args` takes them by their place too.
    """
    names = [name for modality in modalities or MODALITIES for name in MODALITY_INPUTS[modality]]

    def decorate(method: _Method) -> _Method:
        signature = inspect.signature(method)
        *others, keywords = signature.parameters.values()
        kind = inspect.Parameter.KEYWORD_ONLY
        if others[-1].kind is inspect.Parameter.VAR_POSITIONAL:
            others.pop()
            kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
        spelled = [inspect.Parameter(name, kind, default=None, annotation=torch.Tensor | None) for name in names]
        spelling: Any = method
        spelling.__signature__ = signature.replace(parameters=[*others, *spelled, keywords])
        return method

    return decorate


def bind_inputs(modality: str, args: tuple[torch.Tensor | None, ...], kwargs: Any) -> ModalInputs:
    """Return the inputs of one modality, given by their place or by name.

    Args:
        modality (`"audio"`, `"image"` or `"video"`): The modality.
        args (`tuple`): Those given by their place.
        kwargs (`dict`): Those given by name, which leave it.
    """
    names = MODALITY_INPUTS[modality]
    for name, value in zip(names, args, strict=False):
        if name in kwargs:
            raise ValueError(f"`{name}` must be given once, got it by its place and by its name.")
        kwargs[name] = value
    if len(args) > len(names):
        raise ValueError(f"`{names[-1]}` must be the last {modality} input, got {len(args)} inputs.")
    return pop_inputs(kwargs)


def pop_inputs(kwargs: Any) -> ModalInputs:
    """Move the modal inputs out of `kwargs`, a dict, and return those that are not `None`."""
    given: Any = {name: kwargs.pop(name) for name in _INPUT_NAMES if name in kwargs}
    return {name: value for name, value in given.items() if value is not None}  # type: ignore[return-value]


def name_outputs(outputs: MediaOutputs) -> dict[str, BaseModelOutputWithPooling]:
    """Return the encoders' outputs under the names that they have in an output of the Thinker."""
    return {f"{modality}_outputs": output for modality, output in outputs.items()}


def refuse_unknown(kwargs: Iterable[str], known: Iterable[str]):
    """Raise a `ValueError` that names the first argument of `kwargs` that is not `known`."""
    for name in kwargs:
        if name not in known:
            raise ValueError(
                f"`{name}` must be an argument of the model's `forward`, got a name that it does not take."
            )
