"""Offloaded parameters in methods other than `forward`."""

from collections.abc import Callable
from functools import wraps
from typing import Any


def loads_own_parameters(method: Callable) -> Callable:
    """Decorate a method of a module that reads parameters which no submodule holds.

    `device_map` may keep parameters on disk: accelerate's hook loads a module's own ones around its `forward`, and
    around no other method. diffusers' `apply_forward_hook` is the same for autoencoders.
    """

    @wraps(method)
    def wrapper(self: Any, *args: Any, **kwargs: Any) -> Any:
        hook = getattr(self, "_hf_hook", None)
        if hook is None:
            return method(self, *args, **kwargs)
        args, kwargs = hook.pre_forward(self, *args, **kwargs)
        return hook.post_forward(self, method(self, *args, **kwargs))

    return wrapper
