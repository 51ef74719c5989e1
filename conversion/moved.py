"""Former places of public names, until version 0.3."""

import importlib
import warnings
from collections.abc import Callable
from typing import Any


def moved_names(package: str, **modules: str) -> Callable[[str], Any]:
    """Return a module `__getattr__` that finds names where they are now, and says so in a `FutureWarning`.

    Args:
        package (`str`): The module that had them, its `__name__`.
        modules (`str`): Name of the module that has each, relative to `package`.
    """

    def find(name: str) -> Any:
        if name not in modules:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        module = importlib.import_module(modules[name], package)
        warnings.warn(f"`{package}.{name}` is `{module.__name__}.{name}` now.", FutureWarning, stacklevel=2)
        return getattr(module, name)

    return find
