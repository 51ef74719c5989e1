"""Losses of JOVIO, and learning by them."""

import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from jovio_models import config, mixed_batch, model, pixels

from josie.modeling_josie.codecs.patches import PatchLayout
from josie.modeling_josie.losses.images import reconstruction_losses, structure_loss


def test_structure_is_that_of_each_item_alone():
    sizes = [(2, 20, 16), (1, 9, 28), (3, 4, 4)]  # the second has windows at one scale, the last none
    ours, target = pixels(3, 3, 3, 20, 28, seed=5), pixels(3, 3, 3, 20, 28, seed=6)
    real = torch.zeros(3, 3, 1, 20, 28, dtype=torch.bool)
    for row, (frames, height, width) in zip(real, sizes, strict=True):
        row[:frames, :, :height, :width] = True
    noisy = ours.masked_fill(~real, torch.nan)
    together = structure_loss(noisy, target, real)
    sums, counts = [0.0] * 3, [0] * 3
    for item, goal, (frames, height, width) in zip(ours, target, sizes, strict=True):
        one, other = item[:frames, :, :height, :width], goal[:frames, :, :height, :width]
        for index, scale in enumerate((1, 2, 4)):
            for values in similarities(one, other, scale):
                sums[index] += (1 - values).sum()
                counts[index] += values.numel()
    expected = [total / max(count, 1) for total, count in zip(sums, counts, strict=True)]
    # The batch is 20 high, so the coarsest scale has no window at all.
    assert counts[1] > counts[2] == 0
    torch.testing.assert_close(together, sum(expected[:2]) / 2)
    assert structure_loss(ours, ours, real).abs() < 1e-6
    assert structure_loss(pixels(1, 1, 3, 4, 4), pixels(1, 1, 3, 4, 4, seed=9), real[:1, :1, :, :4, :4]) == 0


def similarities(one: torch.Tensor, other: torch.Tensor, scale: int) -> list[torch.Tensor]:
    """Return the structural similarity of every window of 7 x 7, window by window, as its definition says."""
    one, other = (torch.nn.functional.avg_pool2d(item, scale) for item in (one, other))
    if min(one.shape[-2:]) < 7:
        return []
    x, y = (item.unfold(2, 7, 1).unfold(3, 7, 1).flatten(4) for item in (one, other))
    mean_x, mean_y = x.mean(-1), y.mean(-1)
    covariance = ((x - mean_x[..., None]) * (y - mean_y[..., None])).mean(-1)
    spread = x.var(-1, correction=0) + y.var(-1, correction=0)
    light = (2 * mean_x * mean_y + 1e-4) / (mean_x**2 + mean_y**2 + 1e-4)
    return [light * (2 * covariance + 9e-4) / (spread + 9e-4)]


@pytest.mark.parametrize("weight", ["l1_weight", "l2_weight", "gradient_weight", "structure_weight"])
def test_a_loss_without_weight_is_absent_and_others_count_by_theirs(weight):
    given = pixels(2, 3, 8, 8)
    jovio = model(kmeans_init=False, dead_code_threshold=0, **{weight: 0}).train()
    output = jovio(given)
    assert weight.removesuffix("_weight") not in output.losses
    expected = sum(value * getattr(jovio.config, f"{name}_weight") for name, value in output.losses.items())
    torch.testing.assert_close(output.loss, expected)
    heavy = model(kmeans_init=False, dead_code_threshold=0, **{weight: 7.5}).train()(given)
    name = weight.removesuffix("_weight")
    torch.testing.assert_close(heavy.loss - output.loss, 7.5 * heavy.losses[name])
    with pytest.raises(StrictDataclassError, match=f"`{weight}` must be at least 0, got -1"):
        config(**{weight: -1})


@pytest.mark.slow
def test_more_quantizers_give_a_better_image_after_training_with_dropout():
    # So few codes that each quantizer is needed: where one is nearly enough, the order of sums decides.
    jovio = model(initializer_range=0.1, quantizer_dropout=0.5, codebook_size=3, seed=3).train()
    rows = torch.linspace(0, 1, 8)
    basis = torch.stack((rows[:, None].expand(8, 8), rows.expand(8, 8), rows.outer(rows), 1 - rows.outer(rows)))
    given = basis[torch.tensor([[0, 1, 2], [2, 3, 0], [1, 3, 2], [3, 0, 1]])]
    optimizer = torch.optim.AdamW(jovio.parameters(), lr=3e-3)
    for _ in range(250):
        output = jovio(given)
        optimizer.zero_grad()
        output.loss.backward()
        optimizer.step()
    assert output.usage.shape == output.perplexity.shape == (3,)
    assert (output.usage > 0).all()
    jovio.eval()
    with torch.no_grad():
        encoded = jovio.encode(given)
        errors = []
        for num_quantizers in (1, 2, 3):
            decoded = jovio.decode(encoded.vision_codes[:, :num_quantizers], encoded.grid_thw, num_frames=1)
            errors.append(float((decoded.pixel_values[:, 0] - given).square().mean()))
    blank = float((given.mean() - given).square().mean())
    assert errors[2] < errors[1] < errors[0] < 0.5 * blank, (errors, blank)


def test_losses_are_of_real_pixels_only():
    batch, grid_thw, num_frames, items = mixed_batch()
    torch.manual_seed(0)
    other = torch.randn_like(batch)
    layout = PatchLayout.from_grids(grid_thw.tolist(), (3, 3, 3), batch.device)
    real = layout.real_pixels(config(), num_frames.tolist(), batch.shape)
    losses = reconstruction_losses(other, batch, real)
    errors = [
        other[index, : item.shape[0], :, : item.shape[2], : item.shape[3]] - item for index, item in enumerate(items)
    ]
    flat = torch.cat([error.flatten() for error in errors])
    slopes = torch.cat([error.diff(dim=axis).flatten() for error in errors for axis in (2, 3)])
    torch.testing.assert_close(losses["l1"], flat.abs().mean())
    torch.testing.assert_close(losses["l2"], flat.square().mean())
    torch.testing.assert_close(losses["gradient"], slopes.abs().mean())


def test_it_learns_an_image():
    jovio = model(initializer_range=0.05, codebook_size=32).train()
    rows = torch.linspace(0, 1, 8)
    given = torch.stack((rows[:, None].expand(8, 8), rows.expand(8, 8), rows.outer(rows)))[None]
    optimizer = torch.optim.AdamW(jovio.parameters(), lr=3e-3)
    losses = []
    for _ in range(60):
        output = jovio(given)
        optimizer.zero_grad()
        output.loss.backward()
        optimizer.step()
        losses.append(output.losses["l1"].item())
    assert losses[-1] < 0.4 * losses[0]


def test_losses_can_be_asked_for_without_learning():
    jovio = model(kmeans_init=False)
    before = {name: value.clone() for name, value in jovio.state_dict().items()}
    output = jovio(pixels(2, 3, 8, 8), return_loss=True)
    assert output.loss > 0
    assert set(output.losses) == {"l1", "l2", "gradient", "structure", "commitment"}
    assert all(torch.equal(value, before[name]) for name, value in jovio.state_dict().items())
    assert jovio.train()(pixels(2, 3, 8, 8), return_loss=False).loss is None
