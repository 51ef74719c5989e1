"""Files of sessions: a state without the model, which is given again when it is read.

Where a state refers to a part of the model, its place in the model is written. Files are read by torch's safe reader,
which makes nothing but tensors and the classes that are named here.
"""

import copy
import pickle
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.serialization import safe_globals
from transformers.cache_utils import DynamicCache, DynamicLayer, DynamicSlidingWindowLayer
from transformers.generation import (
    LogitsProcessorList,
    MinPLogitsWarper,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)
from transformers.models.mimi.modeling_mimi import MimiConv1dPaddingCache

from ..codecs.decoder_stream import JodioDecoderStream, MimiDecoderStream
from ..codecs.streaming import AudioStreamingState, JodioStreamingState
from ..layers.fast import step_attention
from ..layers.transformer import get_attention_function
from ..outputs import HeardToken
from ..talker.decoding import CodeSampler, LoopCache, StepLoop
from ..talker.speech_stream import SpeechStream, _Row
from ..talker.timeline import Segment, Timeline
from .listening import MimiState
from .memory import RowMemory, Rows
from .state import JosieSessionState, SessionRow
from .voice import VoiceTurn

_CLASSES: list[Any] = [
    *(DynamicCache, DynamicLayer, DynamicSlidingWindowLayer, MimiConv1dPaddingCache),
    *(LogitsProcessorList, MinPLogitsWarper, TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper),
    *(JodioDecoderStream, MimiDecoderStream, JodioStreamingState, AudioStreamingState, MimiState, HeardToken),
    *(CodeSampler, LoopCache, StepLoop, SpeechStream, _Row, Segment, Timeline),
    *(RowMemory, Rows, JosieSessionState, SessionRow, VoiceTurn, torch.Generator),
]


class ModelPart:
    """A place in a model: what stands in a file for the part itself.

    Args:
        name (`str`): Of the module, or of the parameter.
        kind (`str`): `"module"`, `"config"`, `"parameter"`, `"attention"` (the function of a backbone) or `"step"`.
    """

    def __init__(self, name: str, kind: str):
        self.name, self.kind = name, kind

    def __deepcopy__(self, memo: dict[Any, Any]) -> Any:
        """Return the part of the model that `memo` has under `"model"`."""
        model: nn.Module = memo["model"]
        if self.kind == "step":
            return step_attention
        if self.kind == "parameter":
            return model.get_parameter(self.name)
        part: Any = model.get_submodule(self.name)
        if self.kind == "module":
            return part
        return part.config if self.kind == "config" else get_attention_function(part.config)


def _name_parts(model: nn.Module) -> dict[Any, Any]:
    """Return a memo for `copy.deepcopy` that puts names in place of parts of a model."""
    memo: dict[Any, Any] = {id(step_attention): ModelPart("", "step")}
    for name, parameter in model.named_parameters():
        memo[id(parameter)] = ModelPart(name, "parameter")
    for name, module in model.named_modules():
        memo[id(module)] = ModelPart(name, "module")
        config: Any = getattr(module, "config", None)
        if config is not None:
            memo.setdefault(id(config), ModelPart(name, "config"))
            memo.setdefault(id(get_attention_function(config)), ModelPart(name, "attention"))
    return memo


def save_state(model: nn.Module, state: Any, path: str | Path) -> None:
    """Write a state.

    Args:
        model ([`JosieForConditionalGeneration`]): Whose state it is.
        state: A [`JosieSessionState`], or something that holds one.
        path (`str` or `Path`): The file.
    """
    torch.save(copy.deepcopy(state, _name_parts(model)), path)


def load_state(model: nn.Module, path: str | Path, classes: tuple[type, ...] = ()) -> Any:
    """Return a state that was written by `save_state`.

    Args:
        model ([`JosieForConditionalGeneration`]): The same model, with the same weights.
        path (`str` or `Path`): The file.
        classes (`tuple[type]`): Classes beside those of a state that may stand in the file.

    Raises:
        `ValueError`: There is no such file, or it holds something else.
    """
    if not Path(path).is_file():
        raise ValueError(f"`path` must be a file of a session, got {str(path)!r}, which does not exist.")
    with safe_globals([*_CLASSES, ModelPart, *classes]):
        try:
            named = torch.load(path, map_location=getattr(model, "device", None), weights_only=True)
            memo: dict[Any, Any] = {"model": model}
            return copy.deepcopy(named, memo)
        except (pickle.UnpicklingError, EOFError, RuntimeError, AttributeError) as error:
            raise ValueError(f"`path` must be a file of a session of this model, got {str(path)!r}.") from error
