"""Gradients of zero for parts that a batch does not use, so that processes with other batches do not wait for them.

Data-parallel training waits for the gradient of every trainable parameter. Where parameters are sharded (FSDP,
ZeRO-3, tensor parallelism), already the forward pass of a module makes processes talk, so that all of them have to run
the same modules in the same order: there the part runs on the smallest input that it takes. Elsewhere nothing is
computed at all.
"""

from collections.abc import Callable

import torch
from torch import nn


def is_sharded(module: nn.Module) -> bool:
    """Whether parts of the parameters of `module` are in other processes: the marks of FSDP 2, ZeRO-3 and FSDP 1."""
    if torch.compiler.is_compiling() or not torch.distributed.is_available() or not torch.distributed.is_initialized():
        return False
    if getattr(module, "_is_fsdp_managed_module", False):
        return True

    from torch.distributed.tensor import DTensor  # not in every build of torch

    return any(isinstance(parameter, DTensor) or hasattr(parameter, "ds_id") for parameter in module.parameters())


def keep_in_graph(
    states: torch.Tensor, module: nn.Module | None, run_on_nothing: Callable[[], torch.Tensor]
) -> torch.Tensor:
    """Return `states` bit for bit, from which all trainable parameters of an unused part get gradients of zero.

    Args:
        states (`torch.Tensor`): Anything that the loss is made of.
        module (`nn.Module`, *optional*): The part.
        run_on_nothing (`Callable`): Runs the part on the smallest input it takes and returns what comes out; only
            called where its parameters are sharded.
    """
    if module is None:
        return states
    if is_sharded(module):
        unused = run_on_nothing()
    else:
        learning = module.training and torch.is_grad_enabled()
        parameters = [parameter for parameter in module.parameters() if learning and parameter.requires_grad]
        if not parameters:
            return states
        unused = torch.cat([parameter[None][:0].flatten().to(states) for parameter in parameters])
    # Nothing is copied from what is unused, and still it is an input.
    nowhere = torch.zeros((), dtype=torch.bool, device=states.device)
    return states.masked_scatter(nowhere, unused.to(states))
