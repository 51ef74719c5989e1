"""Values that follow from weights alone, kept while the weights stay what they are."""

from collections.abc import Callable

import torch
from torch import nn


class KeepsDerived(nn.Module):
    """A module that keeps one tensor that is computed from one of its weights: not a memory of a call.

    Reading a whole weight for such a tensor costs, in a stream, as much as using the weight. It is kept only where no
    gradient is wanted, and dropped when the weight is changed in place, replaced, moved or cast; it is no part of a
    `state_dict`, a copy or a pickle. Edits that go around the weight's version counter, through `.data`, are seen after
    `train`, `eval`, or a call with gradients.
    """

    _kept: tuple[tuple, torch.Tensor] | None = None

    def derive(self, weight: torch.Tensor, compute: Callable[[], torch.Tensor]) -> torch.Tensor:
        """Return `compute()`, or what it returned for the same `weight`.

        Args:
            weight (`torch.Tensor`): All that the result depends on; a parameter or buffer of this module.
            compute (`Callable`): Gives the result.
        """
        if torch.compiler.is_compiling() or torch.jit.is_tracing():  # whose programs outlive the weight's values
            return compute()
        is_plain = type(weight) in (nn.Parameter, torch.Tensor) and not weight.is_inference()
        if torch.is_grad_enabled() or not is_plain or torch._C._functorch.is_functorch_wrapped_tensor(weight):
            self._kept = None
            return compute()
        key = (weight._version, weight.data_ptr(), weight.dtype, weight.device)
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
