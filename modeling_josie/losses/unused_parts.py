"""Zero gradients for the parameters of parts that a batch does not use.

Data-parallel training waits for the gradient of every trainable parameter. Where parameters are sharded (FSDP,
ZeRO-3, tensor parallelism), the forward pass of a module already communicates, so that all processes have to run the
same modules in the same order: there the part does a dummy forward. Elsewhere nothing is computed.
"""

from collections.abc import Callable

import torch
from torch import nn


def is_sharded(module: nn.Module) -> bool:
    """Whether parts of the parameters of `module` are in other processes: the marks of FSDP 2, ZeRO-3 and FSDP 1."""
    if torch.compiler.is_compiling() or not _is_distributed():
        return False
    if getattr(module, "_is_fsdp_managed_module", False):
        return True

    from torch.distributed.tensor import DTensor  # not in every build of torch

    return any(isinstance(parameter, DTensor) or hasattr(parameter, "ds_id") for parameter in module.parameters())


def _is_distributed() -> bool:
    """Whether other processes may wait for gradients; some trainers learn in evaluation mode, as Lightning does."""
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def add_zero_gradients(
    states: torch.Tensor, module: nn.Module | None, dummy_forward: Callable[[], torch.Tensor]
) -> torch.Tensor:
    """Return `states` bit for bit, and give the trainable parameters of an unused part gradients of zero.

    Args:
        states (`torch.Tensor`): Any tensor that the loss depends on.
        module (`nn.Module`, *optional*): The unused part.
        dummy_forward (`Callable`): Runs the part on its smallest input and returns its output; called only where
            parameters are sharded.
    """
    if module is None:
        return states
    if is_sharded(module):
        unused = dummy_forward()
    else:
        learning = torch.is_grad_enabled() and (module.training or _is_distributed())
        parameters = [parameter for parameter in module.parameters() if learning and parameter.requires_grad]
        if not parameters:
            return states
        unused = torch.cat([parameter[None][:0].flatten().to(states) for parameter in parameters])
    # The empty mask copies nothing from `unused`, and autograd still counts it as an input.
    nowhere = torch.zeros((), dtype=torch.bool, device=states.device)
    return states.masked_scatter(nowhere, unused.to(states))
