"""Laws of JOVIO, the vision codec."""

import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from jovio_models import CODEBOOK_SIZE, backbone, config, mixed_batch, model, pixels
from PIL import Image
from transformers import AutoImageProcessor

# From the module, as transformers exports a stand-in when torchvision is missing.
from transformers.models.auto.video_processing_auto import AutoVideoProcessor

from josie.configuration_josie import JosieConfig
from josie.modeling_josie.codecs.jovio import JovioModel
from josie.modeling_josie.codecs.patches import PatchLayout
from josie.modeling_josie.josie import JosieForConditionalGeneration
from josie.processing_josie import JosieProcessor, JovioImageProcessor, JovioVideoProcessor
from josie.tokenization import load_default_tokenizer


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


def image(height: int, width: int, seed: int = 0) -> Image.Image:
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
    inputs = images(images=[image(30, 40), image(17, 9)], return_tensors="pt")
    assert set(inputs) == set(images.model_input_names)
    with torch.no_grad():
        output = jovio(**inputs)
    assert output.pixel_values.shape == inputs["pixel_values"].shape
    assert torch.equal(output.grid_thw, inputs["grid_thw"])
    assert inputs["grid_thw"].prod(-1).max() <= 12

    clip = [image(12, 8, seed) for seed in range(5)]
    inputs = videos(videos=[[image(8, 8)], clip, torch.stack([torch.rand(3, 16, 4)] * 2)], return_tensors="pt")
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


def test_the_thinker_reads_images_and_videos_as_codes():
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
    clip = [image(12, 16, seed) for seed in range(3)]
    inputs = processor(
        text=["<|image|> what?", "<|video|><|image|> which?"],
        images=[[image(20, 30)], [image(9, 16, 1)]],
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
