"""Values that follow from weights alone, kept while the weights stay what they are."""

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import nn

T = TypeVar("T")


class KeepsDerived(nn.Module):
    """A module that keeps one thing that is computed from its weights: not a memory of a call.

    Reading a whole weight for it costs, in a stream, as much as using the weight. It is kept only where no
    gradient is wanted, and dropped when the weight is changed in place, replaced, moved or cast; it is no part of a
    `state_dict`, a copy or a pickle. Edits that go around the weight's version counter, through `.data`, are seen after
    `train`, `eval`, or a call with gradients.
    """

    _kept: tuple[tuple, Any] | None = None

    def derive(self, weights: torch.Tensor | tuple[torch.Tensor, ...], compute: Callable[[], T]) -> T:
        """Return `compute()`, or what it returned for the same `weights`.

        Args:
            weights (`torch.Tensor` or a tuple of them): All that the result depends on; parameters or buffers of this
                module.
            compute (`Callable`): Gives the result.
        """
        if torch.compiler.is_compiling() or torch.jit.is_tracing():  # whose programs outlive the weight's values
            return compute()
        weights = (weights,) if isinstance(weights, torch.Tensor) else weights
        if torch.is_grad_enabled() or not all(map(_is_plain, weights)):
            self._kept = None
            return compute()
        key = tuple((weight._version, weight.data_ptr(), weight.dtype, weight.device) for weight in weights)
        kept = self._kept
        if kept is None or kept[0] != key:
            with torch.inference_mode(False), torch.no_grad():
                kept = self._kept = (key, compute())
        return kept[1]

    def train(self, mode: bool = True):
        """Set the mode as [`torch.nn.Module.train`] does."""
        self._kept = None
        return super().train(mode)

    def _apply(self, fn: Callable, recurse: bool = True):
        self._kept = None
        return super()._apply(fn, recurse)

    def __getstate__(self) -> dict:
        return {name: value for name, value in self.__dict__.items() if name != "_kept"}


def _is_plain(weight: torch.Tensor) -> bool:
    if type(weight) not in (nn.Parameter, torch.Tensor) or weight.is_inference():
        return False
    return not torch._C._functorch.is_functorch_wrapped_tensor(weight)
