"""Laws of JOVIO, the vision codec."""

import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from PIL import Image
from transformers import AutoImageProcessor

# From the module, as transformers exports a stand-in when torchvision is missing.
from transformers.models.auto.video_processing_auto import AutoVideoProcessor

from josie.configuration_josie import JosieConfig, JovioConfig
from josie.modeling_josie.codecs.jovio import JovioModel
from josie.modeling_josie.codecs.patches import PatchLayout
from josie.modeling_josie.josie import JosieForConditionalGeneration
from josie.modeling_josie.losses.images import reconstruction_losses, structure_loss
from josie.processing_josie import JosieProcessor, JovioImageProcessor, JovioVideoProcessor
from josie.tokenization import load_default_tokenizer

CODEBOOK_SIZE = 11


def backbone(hidden_size: int) -> dict:
    return {
        "hidden_size": hidden_size,
        "intermediate_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "head_dim": 8,
    }


def config(**kwargs) -> JovioConfig:
    fields = {
        "num_quantizers": 3,
        "codebook_size": CODEBOOK_SIZE,
        "codebook_dim": 6,
        "patch_size": 4,
        "temporal_patch_size": 2,
        "max_frames": 9,
        "encoder_config": backbone(16),
        "decoder_config": backbone(12),
        "initializer_range": 0.3,
    }
    return JovioConfig(**(fields | kwargs))


def model(seed: int = 0, **kwargs) -> JovioModel:
    torch.manual_seed(seed)
    return JovioModel(config(**kwargs)).eval()


def pixels(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def mixed_batch() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, list[torch.Tensor]]:
    """Three items of different frames, heights and widths, padded with NaN, and the items alone."""
    items = [pixels(5, 3, 8, 12, seed=2), pixels(2, 3, 12, 4, seed=3), pixels(1, 3, 4, 8, seed=4)]
    batch = torch.full((3, 5, 3, 12, 12), torch.nan)
    for row, item in zip(batch, items, strict=True):
        row[: item.shape[0], :, : item.shape[2], : item.shape[3]] = item
    grid_thw = torch.tensor([[3, 2, 3], [1, 3, 1], [1, 1, 2]])
    return batch, grid_thw, torch.tensor([5, 2, 1]), items


@pytest.mark.parametrize(
    ("shape", "grid"),
    [
        ((2, 3, 8, 12), (1, 2, 3)),
        ((1, 5, 3, 4, 8), (3, 1, 2)),
        ((2, 4, 3, 12, 4), (2, 3, 1)),
        ((1, 1, 3, 4, 4), (1, 1, 1)),
    ],
    ids=str,
)
def test_round_trip_keeps_the_shape_and_gives_the_promised_patches(shape, grid):
    jovio, given = model(), pixels(*shape)
    num_frames = shape[1] if len(shape) == 5 else 1
    with torch.no_grad():
        encoded = jovio.encode(given)
        decoded = jovio.decode(encoded.vision_codes, encoded.grid_thw, num_frames=num_frames).pixel_values
        output = jovio(given)
    num_patches = jovio.config.get_num_patches(num_frames, *shape[-2:])
    assert encoded.vision_codes.shape == (shape[0], 3, num_patches)
    assert encoded.vision_codes.dtype == torch.long
    assert encoded.grid_thw.tolist() == [list(grid)] * shape[0]
    assert decoded.shape == (shape[0], num_frames, *shape[-3:])
    assert output.pixel_values.shape == shape
    assert torch.equal(output.vision_codes, encoded.vision_codes)
    torch.testing.assert_close(output.pixel_values.view_as(decoded), decoded, atol=1e-5, rtol=1e-4)
    assert decoded.min() >= 0
    assert decoded.max() <= 1
    assert output.loss is None
    assert output.perplexity.shape == output.usage.shape == (3,)


def test_patch_embedding_is_the_convolution_over_the_whole_video():
    jovio, given = model(), pixels(2, 4, 3, 8, 12)
    seen = []
    handle = jovio.encoder.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    jovio.encode(given)
    handle.remove()
    expected = jovio.patch_embed((given * 2 - 1).transpose(1, 2)).flatten(2).transpose(1, 2)
    torch.testing.assert_close(seen[0], expected)


def test_patches_go_back_where_they_came_from():
    layout = PatchLayout.from_grids([[3, 2, 3], [1, 3, 1]], (3, 3, 3), torch.device("cpu"))
    cells = pixels(2, 27, 5)
    there = layout.scatter_patches(layout.gather_patches(cells)).view(2, 3, 3, 3, 5)
    grid = cells.view(2, 3, 3, 3, 5)
    assert torch.equal(there[0, :, :2], grid[0, :, :2])
    assert torch.equal(there[1, :1, :, :1], grid[1, :1, :, :1])
    assert not there[0, :, 2:].any()
    assert not there[1, 1:].any()
    assert not there[1, :, :, 1:].any()
    assert layout.position_ids[:, 1, 1].tolist() == [0, 1, 0]
    assert layout.position_ids[:, 0, 7].tolist() == [1, 0, 1]


@pytest.mark.parametrize("causal_time", [False, True])
@pytest.mark.parametrize(("attention", "overlap"), [("eager", 0), ("sdpa", 0), ("sdpa", 3)])
def test_an_item_equals_the_item_alone(causal_time, attention, overlap):
    jovio = model(causal_time=causal_time, patch_overlap=overlap)
    jovio.set_attn_implementation(attention)
    batch, grid_thw, num_frames, items = mixed_batch()
    with torch.no_grad():
        encoded = jovio.encode(batch, grid_thw, num_frames=num_frames)
        output = jovio(batch, grid_thw, num_frames=num_frames)
        decoded = jovio.decode(encoded.vision_codes, grid_thw, num_frames=num_frames).pixel_values
    assert torch.equal(output.vision_codes, encoded.vision_codes)
    assert decoded.isfinite().all()
    assert output.pixel_values.isfinite().all()
    for index, item in enumerate(items):
        frames, _, height, width = item.shape
        num_patches = int(grid_thw[index].prod())
        with torch.no_grad():
            alone = jovio.encode(item[None])
            pixels_alone = jovio.decode(alone.vision_codes, alone.grid_thw, num_frames=frames).pixel_values[0]
        assert torch.equal(encoded.vision_codes[index, :, :num_patches], alone.vision_codes[0])
        assert not encoded.vision_codes[index, :, num_patches:].any()
        for result in (decoded, output.pixel_values):
            torch.testing.assert_close(result[index, :frames, :, :height, :width], pixels_alone, atol=1e-5, rtol=1e-4)
            outside = result[index].clone()
            outside[:frames, :, :height, :width] = 0
            assert not outside.any()


@pytest.mark.parametrize("overlap", [0, 1, 3])
def test_the_way_back_to_pixels_is_a_transposed_convolution(overlap):
    jovio = model(patch_overlap=overlap)
    layout = PatchLayout.from_grids([[2, 2, 3]] * 2, (2, 2, 3), torch.device("cpu"))
    states = []
    jovio.decoder.norm.register_forward_hook(lambda module, args, output: states.append(output))
    kernel = (2, 4 + 2 * overlap, 4 + 2 * overlap)
    convolution = torch.nn.ConvTranspose3d(12, 3, kernel, (2, 4, 4), (0, overlap, overlap), bias=False)
    with torch.no_grad():
        jovio.pixel_head.bias.zero_()  # else that of neighbours adds up where they overlap
        convolution.weight.copy_(jovio.pixel_head.weight.T.unflatten(1, (3, *kernel)))
        painted, _ = jovio._decode(torch.randn(2, 16, 12), layout)
        expected = convolution(states[0].transpose(1, 2).unflatten(2, (2, 2, 3)))
    torch.testing.assert_close(painted * 2 - 1, expected.transpose(1, 2), atol=1e-5, rtol=1e-4)


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


def test_more_quantizers_give_a_better_picture_after_training_with_dropout():
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


def test_frames_that_are_missing_repeat_the_last_one():
    jovio, given = model(), pixels(1, 3, 3, 8, 8)
    whole = torch.cat((given, given[:, -1:]), dim=1)
    assert torch.equal(jovio.encode(given).vision_codes, jovio.encode(whole).vision_codes)
    still = given[:, 0]
    codes = jovio.encode(still).vision_codes
    assert torch.equal(codes, jovio.encode(torch.stack((still, still), dim=1)).vision_codes)
    padded = torch.cat((given, torch.zeros(1, 1, 3, 8, 8)), dim=1)
    counted = jovio.encode(padded, num_frames=torch.tensor([3]))
    assert torch.equal(counted.vision_codes, jovio.encode(given).vision_codes)
    assert counted.grid_thw.tolist() == [[2, 2, 2]]


def test_later_frames_never_change_earlier_codes_when_time_is_causal():
    given = pixels(2, 6, 3, 8, 4)
    changed = given.clone()
    changed[:, 4:] = 1 - changed[:, 4:]
    per_time = 2 * 1
    for causal_time in (True, False):
        jovio = model(causal_time=causal_time)
        with torch.no_grad():
            layout = PatchLayout.from_grids([[3, 2, 1]] * 2, (3, 2, 1), given.device)
            before, after = jovio._encode(given, layout)[0], jovio._encode(changed, layout)[0]
        same = torch.allclose(before[..., : 2 * per_time], after[..., : 2 * per_time], atol=1e-5)
        assert same is causal_time
        assert not torch.allclose(before[..., 2 * per_time :], after[..., 2 * per_time :], atol=1e-5)
        if causal_time:
            codes = [jovio.encode(x).vision_codes[..., : 2 * per_time] for x in (given, changed, given[:, :4])]
            assert torch.equal(codes[0], codes[1])
            assert torch.equal(codes[0], codes[2])


def test_patches_of_one_time_see_each_other_when_time_is_causal():
    jovio = model(causal_time=True)
    given = pixels(1, 2, 3, 8, 8)
    changed = given.clone()
    changed[..., 4:, 4:] = 0  # the last patch
    layout = PatchLayout.from_grids([[1, 2, 2]], (1, 2, 2), given.device)
    with torch.no_grad():
        before, after = jovio._encode(given, layout)[0], jovio._encode(changed, layout)[0]
    assert not torch.allclose(before[..., 0], after[..., 0], atol=1e-5)


def test_fewer_quantizers_are_a_prefix_of_more():
    jovio, given = model(), pixels(2, 3, 3, 8, 4)
    with torch.no_grad():
        encoded = jovio.encode(given)
        for num_quantizers in (1, 2):
            fewer = jovio.encode(given, num_quantizers=num_quantizers).vision_codes
            assert torch.equal(fewer, encoded.vision_codes[:, :num_quantizers])
            assert torch.equal(jovio(given, num_quantizers=num_quantizers).vision_codes, fewer)
            decoded = jovio.decode(fewer, encoded.grid_thw).pixel_values
            assert decoded.shape == (2, 4, 3, 8, 4)


@pytest.mark.parametrize("codebook_update", ["ema", "gradient"])
@pytest.mark.parametrize("causal_time", [False, True])
def test_every_parameter_gets_a_finite_gradient(codebook_update, causal_time):
    jovio = model(codebook_update=codebook_update, causal_time=causal_time, kmeans_init=False).train()
    batch, grid_thw, num_frames, _ = mixed_batch()
    output = jovio(batch, grid_thw, num_frames=num_frames)
    output.loss.backward()
    names = {"l1", "l2", "gradient", "structure", "commitment"}
    assert set(output.losses) == (names | {"codebook"} if codebook_update == "gradient" else names)
    weights = {"commitment": 0.25, "structure": 0.1}
    expected = sum(weights.get(name, 1.0) * value for name, value in output.losses.items())
    torch.testing.assert_close(output.loss, expected)
    for name, parameter in jovio.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.any(), name


def test_checkpointing_keeps_gradients():
    gradients = []
    for checkpointing in (False, True):
        jovio = model(kmeans_init=False).train()
        if checkpointing:
            jovio.activation_checkpointing_enable()
        jovio(pixels(2, 3, 3, 8, 4)).loss.backward()
        gradients.append([parameter.grad for parameter in jovio.parameters()])
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other)


def test_it_learns_a_picture():
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


def test_save_and_load_gives_equal_outputs_and_buffers(tmp_path):
    jovio = model(causal_time=True).train()
    batch, grid_thw, num_frames, _ = mixed_batch()
    jovio(batch, grid_thw, num_frames=num_frames)  # moves the codebooks
    jovio.eval().save_pretrained(tmp_path)
    loaded = JovioModel.from_pretrained(tmp_path)
    buffers = dict(loaded.named_buffers())
    assert any(name.endswith("inv_freq") for name in buffers)
    for name, buffer in jovio.named_buffers():
        assert torch.equal(buffer, buffers[name]), name
    with torch.no_grad():
        one, other = (item(batch, grid_thw, num_frames=num_frames) for item in (jovio, loaded))
    assert torch.equal(one.pixel_values, other.pixel_values)
    assert torch.equal(one.vision_codes, other.vision_codes)
    for name in ("encoder_config", "decoder_config"):
        assert getattr(loaded.config, name).rope_sections == getattr(jovio.config, name).rope_sections
        assert getattr(loaded.config, name).is_causal


@pytest.mark.parametrize("training", [False, True])
def test_bfloat16_is_finite(training):
    jovio = model().to(torch.bfloat16).train(training)
    output = jovio(pixels(2, 3, 3, 8, 4))
    assert output.pixel_values.dtype == torch.bfloat16
    assert output.pixel_values.isfinite().all()
    if training:
        assert output.loss.isfinite()


def test_tuples_hold_what_dataclasses_hold():
    jovio, given = model(), pixels(1, 3, 8, 4)
    named, plain = jovio.encode(given), jovio.encode(given, return_dict=False)
    assert isinstance(plain, tuple)
    assert all(torch.equal(one, other) for one, other in zip(named.to_tuple(), plain, strict=True))
    assert isinstance(jovio(given, return_dict=False), tuple)
    assert isinstance(jovio.decode(*plain, return_dict=False), tuple)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"pixel_values": pixels(1, 3, 8, 6)}, "`width` must be a positive multiple of `patch_size`"),
        ({"pixel_values": pixels(1, 3, 7, 8)}, "`height` must be a positive multiple of `patch_size`"),
        ({"pixel_values": pixels(1, 3, 0, 8)}, "`height` must be a positive multiple"),
        ({"pixel_values": pixels(1, 0, 3, 8, 8)}, r"`num_frames` must be in \[1, 9\], got 0"),
        ({"pixel_values": pixels(1, 10, 3, 4, 4)}, r"`num_frames` must be in \[1, 9\], got 10"),
        ({"pixel_values": pixels(0, 3, 8, 8)}, "`pixel_values` must be of shape"),
        ({"pixel_values": pixels(1, 1, 8, 8)}, "`pixel_values` must be of shape"),
        ({"pixel_values": pixels(3, 8, 8)}, "`pixel_values` must be of shape"),
        ({"pixel_values": torch.zeros(1, 3, 8, 8, dtype=torch.uint8)}, "`pixel_values` must be floats"),
        ({"pixel_values": torch.full((1, 3, 8, 8), torch.nan)}, "`pixel_values` must be finite"),
        ({"pixel_values": pixels(1, 3, 8, 8), "num_quantizers": 4}, r"`num_quantizers` must be in \[1, 3\], got 4"),
        ({"pixel_values": pixels(1, 3, 8, 8), "grid_thw": torch.tensor([[1, 2, 3]])}, "`grid_thw` must be at least 1"),
        ({"pixel_values": pixels(1, 3, 8, 8), "grid_thw": torch.tensor([[1, 0, 2]])}, "`grid_thw` must be at least 1"),
        ({"pixel_values": pixels(1, 3, 8, 8), "grid_thw": torch.tensor([1, 2, 2])}, "`grid_thw` must be integers"),
        ({"pixel_values": pixels(1, 3, 8, 8), "num_frames": torch.tensor([2])}, "`num_frames` must be in"),
        ({"pixel_values": pixels(1, 3, 8, 8), "num_frames": torch.tensor([0])}, "`grid_thw` must be at least 1"),
        ({"pixel_values": pixels(1, 3, 8, 8), "num_frames": torch.tensor([1, 1])}, "`num_frames` must be of shape"),
    ],
)
def test_inputs_that_cannot_be_are_refused(given, message):
    jovio = model()
    for call in (jovio.encode, jovio):
        with pytest.raises(ValueError, match=message):
            call(**given)


@pytest.mark.parametrize(
    ("codes", "grid", "num_frames", "message"),
    [
        (torch.full((1, 3, 4), CODEBOOK_SIZE), [[1, 2, 2]], None, "`vision_codes` must be in"),
        (torch.full((1, 3, 4), -1), [[1, 2, 2]], None, "`vision_codes` must be in"),
        (torch.zeros(1, 4, 4, dtype=torch.long), [[1, 2, 2]], None, "`vision_codes` must have shape"),
        (torch.zeros(1, 3, 4), [[1, 2, 2]], None, "`vision_codes` must be integers"),
        (torch.zeros(3, 4, dtype=torch.long), [[1, 2, 2]], None, "`vision_codes` must be of shape"),
        (torch.zeros(1, 3, 3, dtype=torch.long), [[1, 2, 2]], None, "`vision_codes` must hold 4 patches"),
        (torch.zeros(1, 3, 4, dtype=torch.long), [[6, 1, 1]], None, "`grid_thw` must be at least 1 and at most"),
        (torch.zeros(1, 3, 4, dtype=torch.long), [[1, 2, 2]] * 2, None, "`grid_thw` must be integers of shape"),
        (torch.zeros(1, 3, 4, dtype=torch.long), [[1, 2, 2]], 3, r"`num_frames` must be in \[1, 2\]"),
    ],
)
def test_codes_that_cannot_be_are_refused(codes, grid, num_frames, message):
    with pytest.raises(ValueError, match=message):
        model().decode(codes, torch.tensor(grid), num_frames=num_frames)


@pytest.mark.parametrize("overlap", [-1, 5])
def test_overlaps_that_cannot_be_are_refused(overlap):
    with pytest.raises(StrictDataclassError, match=rf"`patch_overlap` must be in \[0, 4\], got {overlap}"):
        config(patch_overlap=overlap)


def picture(height: int, width: int, seed: int = 0) -> Image.Image:
    values = torch.randint(0, 256, (height, width, 3), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)
    return Image.fromarray(values.numpy())


def test_processors_of_a_checkpoint_give_what_the_codec_takes(tmp_path):
    jovio = model()
    jovio.save_pretrained(tmp_path)
    JovioImageProcessor.from_config(jovio.config, max_patches=12).save_pretrained(tmp_path)
    JovioVideoProcessor.from_config(jovio.config, max_patches=6, max_frames=5).save_pretrained(tmp_path)
    images, videos = AutoImageProcessor.from_pretrained(tmp_path), AutoVideoProcessor.from_pretrained(tmp_path)
    assert isinstance(images, JovioImageProcessor)
    assert isinstance(videos, JovioVideoProcessor)
    inputs = images(images=[picture(30, 40), picture(17, 9)], return_tensors="pt")
    assert set(inputs) == set(images.model_input_names)
    with torch.no_grad():
        output = jovio(**inputs)
    assert output.pixel_values.shape == inputs["pixel_values"].shape
    assert torch.equal(output.grid_thw, inputs["grid_thw"])
    assert inputs["grid_thw"].prod(-1).max() <= 12

    clip = [picture(12, 8, seed) for seed in range(5)]
    inputs = videos(videos=[[picture(8, 8)], clip, torch.stack([torch.rand(3, 16, 4)] * 2)], return_tensors="pt")
    assert set(inputs) == set(videos.model_input_names)
    assert inputs["num_frames"].tolist() == [1, 5, 2]
    assert inputs["grid_thw"][:, 0].tolist() == [1, 3, 1]
    encoded = jovio.encode(**inputs)
    with torch.no_grad():
        decoded = jovio.decode(**encoded, num_frames=inputs["num_frames"]).pixel_values
    assert decoded.shape == inputs["pixel_values"].shape
    alone = videos(videos=[clip], return_tensors="pt")
    codes = jovio.encode(**alone).vision_codes[0]
    assert torch.equal(encoded.vision_codes[1, :, : codes.shape[-1]], codes)
    jovio.train()(**inputs).loss.backward()


def test_the_thinker_reads_pictures_and_videos_as_codes():
    """From files to words: as many placeholders as codes, and the words depend on what is seen."""
    tokenizer = load_default_tokenizer()
    text = dict(backbone(16), model_type="josie_text", vocab_size=len(tokenizer), max_position_embeddings=256)
    vision = config().to_dict()
    names = {f"{kind}_token_id": tokenizer.convert_tokens_to_ids(f"<|{kind}|>") for kind in ("image", "video", "audio")}
    josie_config = JosieConfig(thinker_config=dict(text_config=text, vision_config=vision, **names))
    processor = JosieProcessor.from_config(josie_config, tokenizer)
    torch.manual_seed(0)
    josie = JosieForConditionalGeneration(josie_config).eval()
    with torch.no_grad():
        for parameter in josie.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=0.3)
    clip = [picture(12, 16, seed) for seed in range(3)]
    inputs = processor(
        text=["<|image|> what?", "<|video|><|image|> which?"],
        images=[[picture(20, 30)], [picture(9, 16, 1)]],
        videos=[[], [clip]],
        padding=True,
        return_tensors="pt",
    )
    with torch.no_grad():
        coded = josie.encode_inputs(**{name: inputs[name] for name in inputs if "pixel" in name or "grid" in name})
        seen = josie(**inputs).logits
        words = josie.generate(**inputs, max_new_tokens=3, do_sample=False)
    for kind in ("image", "video"):
        codes, grid = coded[f"{kind}_codes"], coded[f"{kind}_grid_thw"]
        num_placeholders = int((inputs["input_ids"] == names[f"{kind}_token_id"]).sum())
        assert num_placeholders == int(grid.prod(-1).sum()) > 0
        assert codes.shape == (len(grid), 3, int(grid.prod(-1).max()))
    assert words.shape == (2, inputs["input_ids"].shape[1] + 3)
    other = dict(inputs)
    other["pixel_values_videos"] = 1 - inputs["pixel_values_videos"]
    with torch.no_grad():
        changed = josie(**other).logits
    assert torch.equal(changed[0], seen[0])
    assert not torch.allclose(changed[1], seen[1])


def test_losses_can_be_asked_for_without_learning():
    jovio = model(kmeans_init=False)
    before = {name: value.clone() for name, value in jovio.state_dict().items()}
    output = jovio(pixels(2, 3, 8, 8), return_loss=True)
    assert output.loss > 0
    assert set(output.losses) == {"l1", "l2", "gradient", "structure", "commitment"}
    assert all(torch.equal(value, before[name]) for name, value in jovio.state_dict().items())
    assert jovio.train()(pixels(2, 3, 8, 8), return_loss=False).loss is None
