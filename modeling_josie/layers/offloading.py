"""Offloaded parameters in methods other than `forward`, and plain copies of modules with any kind of weights."""

import copy
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import wraps
from itertools import chain
from typing import Any

import torch
from torch import nn


def loads_own_parameters(method: Callable) -> Callable:
    """Decorate a method of a module that reads parameters which no submodule holds.

    `device_map` may keep parameters on disk: accelerate's hook loads a module's own ones around its `forward`, and
    around no other method. diffusers' `apply_forward_hook` is the same for autoencoders.
    """

    @wraps(method)
    def wrapper(self: Any, *args: Any, **kwargs: Any) -> Any:
        if not is_offloaded(self):
            return method(self, *args, **kwargs)
        args, kwargs = self._hf_hook.pre_forward(self, *args, **kwargs)
        return self._hf_hook.post_forward(self, method(self, *args, **kwargs))

    return wrapper


def is_offloaded(module: nn.Module) -> bool:
    """Return whether accelerate holds parameters or buffers of a module elsewhere, of its own and now."""
    if "_hf_hook" not in module.__dict__:  # asked in each step of a stream, where `getattr` of a module is slow
        return False
    own = chain(module.parameters(recurse=False), module.buffers(recurse=False))
    return any(tensor.is_meta for tensor in own)


def find_device(module: Any) -> torch.device:
    """Return where a module runs, which for one that is offloaded is not where its parameters are."""
    for part in module.modules():
        hook: Any = getattr(part, "_hf_hook", None)
        for each in getattr(hook, "hooks", [hook]):
            device = getattr(each, "execution_device", None)
            if device is not None and is_offloaded(part):
                return torch.device(device)
        for tensor in part.parameters(recurse=False):
            return tensor.device
    return torch.device("cpu")


@contextmanager
def loaded(*modules: nn.Module) -> Iterator[None]:
    """Load what is offloaded of modules meanwhile, with what is inside of them."""
    with ExitStack() as stack:
        for part in (part for module in modules for part in module.modules() if is_offloaded(part)):
            hook: Any = part._hf_hook
            hook.pre_forward(part)
            stack.callback(hook.post_forward, part, None)
        yield


def copy_plainly(module: nn.Module, dtype: torch.dtype | None = None) -> Any:
    """Return a copy, on request in another type, whose weights are where the module runs.

    Linear layers with weights in a class of their own, as of quantizers, become those of torch.

    Args:
        module (`nn.Module`): It may be offloaded.
        dtype (`torch.dtype`, *optional*): Of the copy.
    """
    parts: list[Any] = list(module.modules())
    hooks = [part._hf_hook for part in parts if getattr(part, "_hf_hook", None) is not None]
    known: dict[int, Any] = {id(hook): hook for hook in hooks}  # which hold the weights of other modules too
    with loaded(module):
        for part in parts:
            if isinstance(part, nn.Linear) and type(part.weight).dequantize is not torch.Tensor.dequantize:
                known[id(part)] = _make_plain(part)
        copied = copy.deepcopy(module, known)
    for part in copied.modules():
        if part.__dict__.pop("_hf_hook", None) is not None:
            part.forward = part.__dict__.pop("_old_forward")
    return copied if dtype is None else copied.to(dtype)


def _make_plain(linear: nn.Linear) -> nn.Linear:
    weight: Any = linear.weight
    with torch.no_grad():
        plain = nn.Linear(linear.in_features, linear.out_features, linear.bias is not None, device="meta")
        plain.weight = nn.Parameter(weight.dequantize(), requires_grad=False)
        if linear.bias is not None:
            plain.bias = nn.Parameter(linear.bias.detach().clone(), requires_grad=False)
    return plain.train(linear.training)
