"""Files of sessions: a state without the model, which is given again when it is read.

A file is safetensors, with a JSON text in its metadata. The text is the tree of the state: numbers, strings, lists, and
objects of the classes that are named here with their fields. Tensors stand under the numbers that the tree gives them,
what occurs twice is written once, and a part of the model is written as its place in the model. So reading a file makes
nothing but tensors, plain values, and these classes.
"""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import nn
from transformers.cache_utils import DynamicCache, DynamicLayer, DynamicSlidingWindowLayer
from transformers.generation import (
    LogitsProcessorList,
    MinPLogitsWarper,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from ...configuration_josie.whole_files import write_whole
from ..codecs.decoder_stream import JodioDecoderStream, MimiDecoderStream
from ..codecs.streaming import AudioStreamingState, JodioStreamingState
from ..layers.fast import step_attention
from ..layers.transformer import get_attention_function
from ..outputs import HeardToken
from ..talker.decoding import CodeSampler, LoopCache, StepLoop
from ..talker.duration_predictor import DurationStream
from ..talker.speech_stream import SpeechStream, _Row
from ..talker.timeline import Segment, Timeline
from .listening import MimiState
from .memory import RowMemory, Rows
from .state import JosieSessionState, SessionRow
from .voice import VoiceTurn

_CLASSES: tuple[type, ...] = (
    *(DynamicCache, DynamicLayer, DynamicSlidingWindowLayer),
    *(LogitsProcessorList, MinPLogitsWarper, TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper),
    *(JodioDecoderStream, MimiDecoderStream, JodioStreamingState, AudioStreamingState, MimiState, HeardToken),
    *(CodeSampler, LoopCache, StepLoop, SpeechStream, DurationStream, _Row, Segment, Timeline),
    *(RowMemory, Rows, JosieSessionState, SessionRow, VoiceTurn),
)
_KEY, _VERSION = "josie_session", 3
_CONTAINERS: dict[str, type] = {"list": list, "tuple": tuple, "set": set}


def _list_classes(others: tuple[type, ...]) -> tuple[type, ...]:
    from transformers.models.mimi.modeling_mimi import MimiConv1dPaddingCache  # takes long, and few sessions need it

    return (*_CLASSES, MimiConv1dPaddingCache, *others)


def _name_parts(model: nn.Module) -> dict[int, list[str]]:
    """Return kind and name of each part of a model that a state may refer to, by the part's `id`."""
    parts: dict[int, list[str]] = {id(step_attention): ["step", ""]}
    for name, parameter in model.named_parameters():
        parts[id(parameter)] = ["parameter", name]
    for name, module in model.named_modules():
        parts[id(module)] = ["module", name]
        config: Any = getattr(module, "config", None)
        if config is not None:
            parts.setdefault(id(config), ["config", name])
            parts.setdefault(id(get_attention_function(config)), ["attention", name])
    return parts


def _find_part(model: nn.Module, kind: str, name: str) -> Any:
    """Return the part of a model that `_name_parts` names."""
    if kind == "step":
        return step_attention
    if kind == "parameter":
        return model.get_parameter(name)
    part: Any = model.get_submodule(name)
    if kind == "module":
        return part
    return part.config if kind == "config" else get_attention_function(part.config)


def _identify(model: Any) -> str:
    """Return a number of a model's kind: states fit models whose Thinker and Talker have the same weights' shapes."""
    parts = [(name, tuple(value.shape)) for name, value in model.named_parameters() if not name.startswith("audio_cod")]
    return hashlib.sha256(repr(sorted(parts)).encode()).hexdigest()


class _Encoder:
    """A tree of plain values for a state, and the tensors beside it.

    Args:
        model: Whose state it is.
        classes (`tuple[type]`): Of objects that it may have.
    """

    def __init__(self, model: Any, classes: tuple[type, ...]):
        self.tensors: dict[str, torch.Tensor] = {}
        self._parts, self._classes, self._device = _name_parts(model), classes, model.device
        self._seen: dict[int, int] = {}

    def encode(self, value: Any) -> Any:
        """Return the tree of a value.

        Raises:
            `TypeError`: It is of a class that states do not have.
        """
        if value is None or type(value) in (bool, int, float, str):
            return value
        if id(value) in self._parts:
            return {"part": self._parts[id(value)]}
        if isinstance(value, torch.device):
            return {"device": None if value == self._device else str(value)}
        if isinstance(value, torch.dtype):
            return {"dtype": str(value).removeprefix("torch.")}
        if id(value) in self._seen:
            return {"same": self._seen[id(value)]}
        number = self._seen[id(value)] = len(self._seen)
        return {"id": number} | self._encode_new(value, number)

    def _encode_new(self, value: Any, number: int) -> dict[str, Any]:
        if isinstance(value, torch.Tensor):
            self.tensors[str(number)] = value.detach().cpu().clone(memory_format=torch.contiguous_format)
            return {"tensor": value.device == self._device}
        if isinstance(value, torch.Generator):
            self.tensors[str(number)] = value.get_state()
            return {"generator": value.device.type != "cpu"}
        for name, container in _CONTAINERS.items():
            if type(value) is container:
                return {name: [self.encode(item) for item in value]}
        if type(value) is dict:
            return {"dict": [[self.encode(key), self.encode(item)] for key, item in value.items()]}
        if type(value) not in self._classes:
            raise TypeError(f"A session has no objects of {type(value)}.")
        encoded: dict[str, Any] = {"class": type(value).__name__}
        if isinstance(value, (list, tuple)):
            encoded["items"] = [self.encode(item) for item in value]
        fields = {name: self.encode(item) for name, item in (value.__getstate__() or {}).items()}
        return encoded | {"fields": fields}


class _Decoder:
    """A state of such a tree.

    Args:
        model: Whose state it is.
        classes (`tuple[type]`): Of objects that it may have.
        tensors (`dict`): By their numbers.
    """

    def __init__(self, model: Any, classes: tuple[type, ...], tensors: dict[str, torch.Tensor]):
        self._model, self._tensors = model, tensors
        self._classes = {known.__name__: known for known in classes}
        self._made: dict[int, Any] = {}

    def decode(self, tree: Any) -> Any:
        """Return the value of a tree. One that is damaged raises any error."""
        if not isinstance(tree, dict):
            return tree
        if "part" in tree:
            return _find_part(self._model, *tree["part"])
        if "device" in tree:
            return self._model.device if tree["device"] is None else torch.device(tree["device"])
        if "dtype" in tree:
            return next(dtype for dtype in _DTYPES if str(dtype) == f"torch.{tree['dtype']}")
        if "same" in tree:
            return self._made[tree["same"]]
        return self._decode_new(tree, tree["id"])

    def _decode_new(self, tree: dict[str, Any], number: int) -> Any:
        if "tensor" in tree:
            # Copied, as tensors of files need not lie where those of torch lie, on which roundings depend.
            made: Any = self._tensors[str(number)].clone()
            made = made.to(self._model.device) if tree["tensor"] else made
        elif "generator" in tree:
            made = torch.Generator(self._model.device if tree["generator"] else "cpu")
            made.set_state(self._tensors[str(number)].clone())
        elif "dict" in tree:
            made = self._made[number] = {}
            made.update((self.decode(key), self.decode(item)) for key, item in tree["dict"])
        elif "class" in tree:
            known = self._classes[tree["class"]]
            if "items" in tree and issubclass(known, tuple):
                made = tuple.__new__(known, [self.decode(item) for item in tree["items"]])
            else:
                made = self._made[number] = known.__new__(known)
                if "items" in tree:
                    made.extend(self.decode(item) for item in tree["items"])
            for name, item in tree["fields"].items():
                made.__dict__[name] = self.decode(item)
        else:
            ((name, container),) = ((name, known) for name, known in _CONTAINERS.items() if name in tree)
            made = container(self.decode(item) for item in tree[name])
        self._made[number] = made
        return made


_DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16, torch.int64, torch.int32, torch.bool)


def save_state(model: Any, state: Any, path: str | Path, classes: tuple[type, ...] = ()) -> None:
    """Write a state.

    Args:
        model ([`JosieForConditionalGeneration`]): Whose state it is.
        state: A [`JosieSessionState`], or something that holds one.
        path (`str` or `Path`): The file.
        classes (`tuple[type]`): Classes beside those of a state that it has.

    Raises:
        `ValueError`: The file cannot be written.
    """
    _require_name(path)
    encoder = _Encoder(model, _list_classes(classes))
    tree = {"version": _VERSION, "model": _identify(model), "state": encoder.encode(state)}
    content = save(encoder.tensors, {_KEY: json.dumps(tree)})
    try:
        write_whole(Path(path), content)
    except OSError as error:
        raise ValueError(f"`path` must be a file to write, got {str(path)!r}: {error.strerror}.") from error


def _require_name(path: Any) -> None:
    """Raise a `ValueError` if a path is no name that a file can have."""
    if not isinstance(path, (str, os.PathLike)) or "\0" in str(path):
        raise ValueError(f"`path` must be the name of a file, got {path!r}.")


def load_state(model: Any, path: str | Path, classes: tuple[type, ...] = ()) -> Any:
    """Return a state that was written by `save_state`.

    Args:
        model ([`JosieForConditionalGeneration`]): The same model, with the same weights.
        path (`str` or `Path`): The file.
        classes (`tuple[type]`): Classes beside those of a state that may stand in the file.

    Raises:
        `ValueError`: There is no such file, it holds something else, or a session of another model.
    """
    _require_name(path)
    if not Path(path).is_file():
        raise ValueError(f"`path` must be a file of a session, got {str(path)!r}, which does not exist.")
    required = f"`path` must be a file of a session of this model, got {str(path)!r}"
    try:
        with safe_open(path, "pt") as file:
            tree = json.loads((file.metadata() or {})[_KEY])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        version, kind = tree["version"], tree["model"]
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{required}, which is none of a session.") from error
    if version != _VERSION or kind != _identify(model):
        raise ValueError(f"{required}, which another model or release wrote.")
    try:
        return _Decoder(model, _list_classes(classes), tensors).decode(tree["state"])
    except (LookupError, TypeError, ValueError, AttributeError, RuntimeError, StopIteration) as error:
        raise ValueError(f"{required}, which is damaged.") from error
