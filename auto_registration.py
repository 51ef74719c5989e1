"""Teaches transformers' Auto classes JOSIE's types, and imports nothing until somebody asks for an Auto class.

JOSIE's modules register their own classes when they are imported. So each has to be imported as soon as the Auto module
that may be asked for its classes exists, and importing those Auto modules here would cost seconds (they bring torch).
Instead a finder at the front of `sys.meta_path` watches the imports of transformers. It finds no module by itself: it
lets the other finders do that and wraps the execution of what they found. JOSIE's modules need much of transformers,
and an Auto module may well be imported half-way through another module of it; they are therefore imported only when the
outermost of the thread's transformers imports has finished, which is still before the importing statement returns. The
finder removes itself when it has nothing left to do.
"""

import importlib
import sys
import threading
from functools import partial
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

# Which of our packages registers what an Auto module knows, in the order of their imports.
REGISTERED_BY = {
    "transformers.models.auto.configuration_auto": "configuration_josie",
    "transformers.models.auto.modeling_auto": "modeling_josie",
    "transformers.models.auto.feature_extraction_auto": "processing_josie",
    "transformers.models.auto.image_processing_auto": "processing_josie",
    "transformers.models.auto.processing_auto": "processing_josie",
    "transformers.models.auto.tokenization_auto": "processing_josie",
    "transformers.models.auto.video_processing_auto": "processing_josie",
}


class _ThreadState(threading.local):
    """Depth of a thread in imports of transformers, and the packages of ours that it has to import after them."""

    def __init__(self):
        self.depth = 0
        self.waiting: list[str] = []
        self.is_registering = False


class AutoRegistration(MetaPathFinder):
    """The finder that watches transformers; one is enough for a process."""

    def __init__(self):
        self._state = _ThreadState()
        self._missing = set(REGISTERED_BY.values())

    def install(self) -> None:
        """Register with the Auto modules that are already imported, and watch for the others."""
        sys.meta_path.insert(0, self)
        self._state.waiting += [package for name, package in REGISTERED_BY.items() if name in sys.modules]
        self._register()

    def find_spec(self, fullname: str, path: Any, target: ModuleType | None = None) -> ModuleSpec | None:
        """Return what the other finders find for a module of transformers, its execution wrapped; else `None`."""
        if fullname.partition(".")[0] != "transformers":
            return None
        for finder in [finder for finder in sys.meta_path if finder is not self]:
            spec = finder.find_spec(fullname, path, target) if hasattr(finder, "find_spec") else None
            if spec is not None:
                self._wrap(spec)
                return spec
        return None

    def _wrap(self, spec: ModuleSpec) -> None:
        # The loader belongs to this one module, so its method is replaced on the instance and put back when it runs.
        loader: Any = spec.loader
        if hasattr(loader, "exec_module") and not isinstance(loader, type):
            loader.exec_module = partial(self._execute, loader, loader.exec_module)

    def _execute(self, loader: Any, exec_module: Any, module: ModuleType) -> None:
        del loader.exec_module
        self._state.depth += 1
        try:
            exec_module(module)
        finally:
            self._state.depth -= 1
        if module.__name__ in REGISTERED_BY:
            self._state.waiting.append(REGISTERED_BY[module.__name__])
        if self._state.depth == 0:
            self._register()

    def _register(self) -> None:
        # Our own imports reach into transformers and come back here: the outer call deals with what they add.
        if self._state.is_registering:
            return
        self._state.is_registering = True
        try:
            while self._state.waiting:
                package = self._state.waiting.pop(0)
                importlib.import_module(f".{package}", __package__)
                self._missing.discard(package)
        finally:
            self._state.is_registering = False
        if not self._missing and self in sys.meta_path:
            sys.meta_path.remove(self)
