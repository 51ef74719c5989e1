"""Activations by their names."""

from torch import nn
from transformers.activations import ACT2FN


def make_activation(name: str, argument: str) -> nn.Module:
    """Return an activation.

    Args:
        name (`str`): A key of `transformers.activations.ACT2FN`.
        argument (`str`): Field of the configuration that has it, for messages.

    Raises:
        `ValueError`: There is none of that name.
    """
    if name not in ACT2FN:
        raise ValueError(f"`{argument}` must be one of {', '.join(sorted(ACT2FN))}, got {name!r}.")
    return ACT2FN[name]
