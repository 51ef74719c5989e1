"""Losses between images and between videos, items of different sizes in one batch.

Every loss is a mean over what is real, so an item counts by its size and padding not at all.
"""

import torch
from torch import nn

# Sides of the windows whose statistics are compared, and of the squares that are averaged to look from further away.
_WINDOW = 7
_SCALES = (1, 2, 4)
# Stabilisers of the structural similarity of values in [0, 1].
_C1, _C2 = 0.01**2, 0.03**2


def reconstruction_losses(pixels: torch.Tensor, target: torch.Tensor, real: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return the L1, L2 and gradient errors, scalars, of the real pixels.

    Args:
        pixels, target (`torch.Tensor`): `(batch, frames, channels, height, width)`.
        real (`torch.BoolTensor`): `(batch, frames, 1, height, width)`.
    """
    real = real.expand(pixels.shape)
    error = (pixels.float() - target.float()).masked_fill(~real, 0.0)
    differences, pairs = error.new_zeros(()), real.new_zeros((), dtype=torch.long)
    for axis in (3, 4):  # the difference between gradients is the gradient of the difference
        length = error.shape[axis] - 1
        both = real.narrow(axis, 0, length) & real.narrow(axis, 1, length)
        differences = differences + (error.diff(dim=axis) * both).abs().sum()
        pairs = pairs + both.sum()
    num_real = real.sum()
    return {
        "l1": error.abs().sum() / num_real,
        "l2": error.square().sum() / num_real,
        "gradient": differences / pairs.clamp(min=1),
    }


def structure_loss(pixels: torch.Tensor, target: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
    """Return 1 minus the structural similarity (Wang et al., 2004), the mean over several scales (Wang et al., 2003).

    Windows are uniform and lie wholly inside an item; an item that is smaller than one at some scale adds nothing to
    that scale.

    Args:
        pixels, target (`torch.Tensor`): `(batch, frames, channels, height, width)`, about [0, 1].
        real (`torch.BoolTensor`): `(batch, frames, 1, height, width)`.

    Returns:
        A scalar, 0 when `pixels` are `target` or no window fits.
    """
    with torch.autocast(pixels.device.type, enabled=False):
        weights = real.float().flatten(0, 1)
        pair = torch.cat((pixels.float(), target.float())).masked_fill(~torch.cat((real, real)), 0.0).flatten(0, 1)
        losses = []
        for scale in _SCALES:
            if min(pair.shape[-2:]) < _WINDOW * scale:
                break
            seen = nn.functional.avg_pool2d(pair, scale)
            whole = nn.functional.avg_pool2d(nn.functional.avg_pool2d(weights, scale), _WINDOW, stride=1) == 1
            losses.append((_dissimilarity(seen) * whole).sum() / (whole.sum() * pair.shape[1]).clamp(min=1))
        return torch.stack(losses).mean() if losses else pair.sum() * 0


def _dissimilarity(pair: torch.Tensor) -> torch.Tensor:
    """Return 1 minus the similarity of each window of the first half of `pair` to that of the second."""
    ours, theirs = pair.chunk(2)
    moments = torch.cat((ours, theirs, ours.square(), theirs.square(), ours * theirs))
    means = nn.functional.avg_pool2d(moments, _WINDOW, stride=1).chunk(5)
    luminance = means[0] * means[1]
    squares = means[0].square() + means[1].square()
    covariance = means[4] - luminance
    variances = means[2] + means[3] - squares
    similarity = (2 * luminance + _C1) * (2 * covariance + _C2) / ((squares + _C1) * (variances + _C2))
    return 1 - similarity
