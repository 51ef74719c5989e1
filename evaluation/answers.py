"""Inputs and options of `generate`, as the command line and the evaluation of tasks give them."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    from ..modeling_josie import JosieForConditionalGeneration
    from ..processing_josie import JosieProcessor


def prepare_inputs(processor: "JosieProcessor", messages: Any) -> Any:
    """Return the inputs that let a model answer one conversation, or each of several."""
    return processor.apply_chat_template(
        messages, tokenize=True, add_generation_prompt=True, return_dict=True, return_tensors="pt"
    )


def tokenize_speech(processor: "JosieProcessor", texts: Sequence[str]) -> Any:
    """Return the inputs of `generate_speech` that say texts as they are written, special tokens included."""
    inputs = processor.tokenizer(
        list(texts), padding=True, return_tensors="pt", add_special_tokens=False, split_special_tokens=True
    )
    inputs.pop("token_type_ids", None)
    return inputs


def sampling_options(temperature: float | None, prefix: str = "") -> dict[str, Any]:
    """Return the options of `generate` that sample at a temperature, or take the likeliest."""
    if temperature is None:
        return {f"{prefix}do_sample": False}
    return {f"{prefix}do_sample": True, f"{prefix}temperature": temperature}


def talking_options(
    model: "JosieForConditionalGeneration", max_seconds: float | None, temperature: float | None = None
) -> dict[str, Any]:
    """Return the options of `generate` for the Talker.

    Args:
        model ([`JosieForConditionalGeneration`]): It has an audio codec, whose frame rate counts.
        max_seconds (`float`, *optional*): Longest speech; at least one frame, and no more than the Talker can.
        temperature (`float`, *optional*): As in [`sampling_options`].
    """
    options = sampling_options(temperature, prefix="talker_")
    if max_seconds is None:
        return options

    from ..configuration_josie import audio_codec_geometry

    frame_rate = audio_codec_geometry(model.config.audio_codec_config).frame_rate
    num_frames = max_seconds * frame_rate
    if not model.config.talker_config.learns_durations:  # others say a text beyond their positions in segments
        num_frames = min(num_frames, model.talker.max_frames)
    return options | {"talker_max_new_frames": max(int(num_frames), 1)}


def is_cut(model: "JosieForConditionalGeneration", reply: "torch.Tensor", max_new_tokens: int) -> bool:
    """Return whether an answer ends only because it may not be longer.

    Args:
        model ([`JosieForConditionalGeneration`]): Whose tokens end an answer.
        reply (`torch.LongTensor`): `(length,)`, the answer.
        max_new_tokens (`int`): Longest answer.
    """
    ends: set[Any] = set()
    for config in (model.generation_config, model.config.get_text_config()):
        end = config.eos_token_id
        ends |= set(end if isinstance(end, (list, tuple)) else [end])
    return len(reply) >= max_new_tokens and int(reply[-1]) not in ends
