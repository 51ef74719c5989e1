"""The parts of an assembled model as a table: what is pretrained, and what is new."""

from dataclasses import dataclass
from typing import Any

from ...configuration_josie import audio_codec_geometry
from ...modeling_josie import JosieForConditionalGeneration


@dataclass(frozen=True)
class AssembledPart:
    """One part of an assembled model.

    Args:
        name (`str`): The module.
        class_name (`str`): Its class.
        num_parameters (`int`): Its parameters; a head that is the embedding has none of its own.
        is_pretrained (`bool`): They come from a checkpoint. Others are new and random.
        note (`str`): What it leaves out.
    """

    name: str
    class_name: str
    num_parameters: int
    is_pretrained: bool
    note: str = ""


def list_parts(model: JosieForConditionalGeneration) -> list[AssembledPart]:
    """Return the parts of an assembled model, in the order of its modules."""
    thinker = model.thinker.model
    candidates: list[tuple[str, Any, bool]] = [("language_model", thinker.language_model, True)]
    candidates.append(("lm_head", model.thinker.lm_head, True))
    for name in ("audio_front_end", "vision_front_end"):
        front_end = getattr(thinker, name)
        for part, is_pretrained in (("encoder", True), ("projector", False), ("code_embedding", False)):
            candidates.append((f"{name}.{part}", getattr(front_end, part, None), is_pretrained))
    candidates += [("talker", model.talker, False)]
    candidates += [("audio_codec", model.audio_codec, True), ("vision_codec", model.vision_codec, True)]
    seen: set[int] = set()
    parts = []
    for name, module, is_pretrained in candidates:
        if module is None:
            continue
        parameters = [parameter for parameter in module.parameters() if id(parameter) not in seen]
        seen |= {id(parameter) for parameter in parameters}
        num_parameters = sum(parameter.numel() for parameter in parameters)
        note = _describe_codes(model) if module is model.talker else ""
        parts.append(AssembledPart(name, type(module).__name__, num_parameters, is_pretrained, note))
    return parts


def _describe_codes(model: JosieForConditionalGeneration) -> str:
    """Say that a Talker predicts fewer codes than a frame has."""
    predicted = model.config.talker_config.num_quantizers
    available = audio_codec_geometry(model.config.audio_codec_config).num_quantizers
    return "" if predicted == available else f"predicts {predicted} of {available} codes a frame"
