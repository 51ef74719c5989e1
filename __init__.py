"""JOSIE: a trainable omni model for the Hugging Face ecosystem. Text, images, video and audio in; text and speech out.

Importing the package is cheap: every public name of `__init__.pyi` is imported from its module on first use.
transformers' Auto classes and pipelines know JOSIE's types all the same, see `auto_registration`.
"""

import importlib
import warnings
from typing import Any

import lazy_loader

from .auto_registration import AutoRegistration

__version__ = "0.2.0"

_import_name, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
_MOVED_MODULES = {"judge": "evaluation.judge"}  # until version 0.3


def __getattr__(name: str) -> Any:
    if name in _MOVED_MODULES:
        new_name = f"{__name__}.{_MOVED_MODULES[name]}"
        warnings.warn(f"`{__name__}.{name}` is `{new_name}` now.", FutureWarning, stacklevel=2)
        return importlib.import_module(new_name)
    return _import_name(name)


AutoRegistration().install()
