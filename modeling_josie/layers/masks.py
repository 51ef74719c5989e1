"""The mask that everything padded on the right needs."""

import torch


def length_mask(lengths: torch.Tensor, size: int) -> torch.Tensor:
    """Return `(batch, size)`, true before each row's length; `lengths` are `(batch,)`."""
    return torch.arange(size, device=lengths.device) < lengths[:, None]
