"""The inference form of codecs: what follows from the weights alone, computed once instead of at every call.

It holds for weights as they are now. Training mode, `load_state_dict`, moves and casts undo it; after an edit of
weights in place it is made anew by another `prepare_for_inference`. Parameters and buffers stay, so checkpoints are the
same.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Generic, TypeVar

import torch
from torch import nn

from ..layers.offloading import loads_own_parameters

T = TypeVar("T")


class HasInferenceForm(nn.Module, Generic[T]):
    """A module that computes something of its weights, which `compute_form` returns.

    Modules ask for it by `get_form`: what was kept where inference was prepared, else computed at the call. Gradients
    pass only through the latter.
    """

    _form: T | None = None

    def compute_form(self) -> T:
        """Return what follows from the weights."""
        raise NotImplementedError

    def get_form(self) -> T:
        """Return the kept form, or compute it."""
        form = self._form  # read once: another thread may drop it
        return self._load_and_compute() if form is None or torch.is_grad_enabled() else form

    @property
    def has_form(self) -> bool:
        """Whether the form is kept."""
        return self._form is not None

    def keep_form(self) -> None:
        """Compute the form and keep it."""
        with torch.inference_mode(False), torch.no_grad():
            self._form = self._load_and_compute()

    @loads_own_parameters
    def _load_and_compute(self) -> T:
        return self.compute_form()

    def drop_form(self) -> None:
        """Forget the kept form; it is computed at every call again."""
        self._form = None

    def train(self, mode: bool = True):
        """Set the mode as [`torch.nn.Module.train`] does."""
        if mode:
            self.drop_form()
        return super().train(mode)

    def _apply(self, fn: Callable, recurse: bool = True):
        self.drop_form()
        return super()._apply(fn, recurse)

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], *args: Any, **kwargs: Any) -> None:
        self.drop_form()
        super()._load_from_state_dict(state_dict, *args, **kwargs)

    def __getstate__(self) -> dict:
        return {name: value for name, value in self.__dict__.items() if name != "_form"}


class InferenceFormMixin:
    """`prepare_for_inference` of codecs whose modules have an inference form, and of models with such codecs."""

    training: bool
    modules: Callable[[], Iterator[nn.Module]]

    def prepare_for_inference(self):
        """Compute once what encoding and decoding otherwise compute of the weights at every call.

        Streams gain most, whose chunks do little work for the weights that they read. Results are the same. Training
        mode, `load_state_dict`, moves and casts undo it; call it again after an edit of weights in place. Checkpoints
        do not change.

        Returns:
            The codec, or the model, itself.

        Raises:
            `ValueError`: It is in training mode.
        """
        if self.training:
            raise ValueError("`prepare_for_inference` must be called in evaluation mode, got a model in training mode.")
        # Parts first: the form of a whole is made of theirs.
        for module in reversed(list(self.modules())):
            if isinstance(module, HasInferenceForm):
                module.keep_form()
        return self


@contextmanager
def inference_form(codec: Any) -> Iterator[None]:
    """Prepare a codec in evaluation mode for inference meanwhile, where it is not already."""
    added = []
    if isinstance(codec, InferenceFormMixin) and not codec.training:
        # Parts first: the form of a whole is made of theirs.
        for module in reversed(list(codec.modules())):
            if isinstance(module, HasInferenceForm) and not module.has_form:
                module.keep_form()
                added.append(module)
    try:
        yield
    finally:
        for module in added:
            module.drop_form()


def prepare_codec(codec: Any) -> Any:
    """Return a codec, prepared for inference where it can be: tokenizers of transformers stay as they are."""
    return codec.prepare_for_inference() if isinstance(codec, InferenceFormMixin) else codec
