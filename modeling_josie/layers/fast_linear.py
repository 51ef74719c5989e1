"""A faster linear layer in training on a CPU, in place of `torch.nn.functional.linear`, which it equals.

torch leaves matrix products in float32 to MKL. oneDNN, which is in torch too, multiplies faster on processors that are
not Intel's; `benchmarks/training.py` compares them. It keeps a program for each shape that it ever met, so rows are
filled up to a few numbers of them: memory would grow with every new length of a batch.
"""

import platform
from collections.abc import Callable
from functools import cache, wraps
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

_FEWEST_ROWS = 16  # with fewer, both are as fast
_MANY_ROWS, _BLOCK, _LARGE_BLOCK = 256, 16, 128  # rows are filled up to a multiple of a block


class OneDNNLinear(torch.autograd.Function):
    """`torch.nn.functional.linear` of two axes by oneDNN, forward and backward; for float32 on a CPU.

    Matrices are contiguous, or transposes of contiguous ones: oneDNN has no fast kernel for others.
    """

    @staticmethod
    def forward(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        """Map rows.

        Args:
            x (`torch.Tensor`): `(num_rows, in_features)`.
            weight (`torch.Tensor`): `(out_features, in_features)`.
            bias (`torch.Tensor`, *optional*): `(out_features,)`.
        """
        return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
        """Keep what the gradients need."""
        x, weight, _ = inputs
        ctx.save_for_backward(x, weight)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:  # type: ignore[override]
        """Return the gradients of what wants one; they have gradients themselves."""
        x, weight = ctx.saved_tensors
        wants_x, wants_weight, wants_bias = ctx.needs_input_grad
        gradient = gradient.contiguous()
        return (
            OneDNNLinear.apply(gradient, weight.t(), None) if wants_x else None,
            OneDNNLinear.apply(gradient.t(), x.t(), None) if wants_weight else None,
            gradient.sum(0) if wants_bias else None,
        )


class _FastLinears(TorchFunctionMode):
    """Exchanges linear layers that learn, of any class and family: the modules stay what they are."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is nn.functional.linear and _is_faster(*args, **kwargs):
            return fast_linear(*args, **kwargs)
        return func(*args, **kwargs)


def fast_linear(input: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """`torch.nn.functional.linear` by [`OneDNNLinear`], in float32 on a CPU.

    Args:
        input (`torch.Tensor`): `(..., in_features)`.
        weight, bias: As of [`OneDNNLinear.forward`].
    """
    rows = input.flatten(0, -2)
    num_rows = rows.shape[0]
    missing = -num_rows % (_BLOCK if num_rows <= _MANY_ROWS else _LARGE_BLOCK)
    if missing:
        rows = nn.functional.pad(rows, (0, 0, 0, missing))
    mapped: Any = OneDNNLinear.apply(rows.contiguous(), weight, bias)
    return mapped[:num_rows].unflatten(0, input.shape[:-1])


def _is_faster(input: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> bool:
    given = [input, weight] if bias is None else [input, weight, bias]
    return (
        all(type(value) in (torch.Tensor, nn.Parameter) for value in given)
        and all(value.dtype == torch.float32 and value.device.type == "cpu" for value in given)
        and any(value.requires_grad for value in given)
        and input.ndim > 1
        and weight.is_contiguous()
        and input.shape[:-1].numel() >= _FEWEST_ROWS
        and torch.is_grad_enabled()
        and not torch.is_autocast_enabled("cpu")
    )


def has_fast_linear() -> bool:
    """Return whether torch has oneDNN's linear layer for this processor, and it is not switched off."""
    return (
        torch.backends.mkldnn.is_available()
        and torch.backends.mkldnn.enabled  # type: ignore[attr-defined]
        and torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512")
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    )


@cache
def is_intel() -> bool:
    """Return whether the processor is Intel's, for which MKL is made: it keeps nothing."""
    listed = Path("/proc/cpuinfo")
    return "GenuineIntel" in (listed.read_text() if listed.exists() else platform.processor())


def trains_fast(forward: Callable[..., Any]) -> Callable[..., Any]:
    """Make a model's `forward` use [`OneDNNLinear`] in training on a CPU that gains; everywhere else it is as it was.

    Compiled programs choose by themselves. With gradient checkpoints layers are run again outside of `forward`, and
    have to keep the same tensors there.
    """

    @wraps(forward)
    def wrapped(self: Any, *args: Any, **kwargs: Any) -> Any:
        if not self.training or torch.compiler.is_compiling() or self.device.type != "cpu":
            return forward(self, *args, **kwargs)
        if self.is_activation_checkpointing or is_intel() or not has_fast_linear():
            return forward(self, *args, **kwargs)
        with _FastLinears():
            return forward(self, *args, **kwargs)

    return wrapped
