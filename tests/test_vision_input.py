"""Laws of images and videos going in: every form gives the same pixels, errors are named."""

import sys

import av
import numpy as np
import pyarrow
import pytest
import torch
from PIL import Image
from samples import IMAGE, SPEECH, VIDEO, short

from josie.configuration_josie import (
    JovioConfig,
)
from josie.processing_josie import (
    JosieImageProcessor,
    JosieVideoProcessor,
)
from josie.processing_josie.image_processing import fit_size
from josie.processing_josie.video import choose_frames

NORMALISED = {"do_normalize": True, "image_mean": 0.5, "image_std": 0.5}


def test_every_form_of_an_image_gives_the_same_pixels():
    image_processor = JosieImageProcessor()
    image = Image.open(IMAGE).convert("RGB")
    array = np.array(image)
    expected = image_processor(image)["pixel_values"]
    assert expected.shape == (1, 3, 224, 224)
    assert expected.dtype == torch.float32
    assert expected.min() >= 0
    assert expected.max() <= 1
    forms = [str(IMAGE), IMAGE, IMAGE.read_bytes(), [image], [[image]], array, array[None], array / 255]
    forms += [array.transpose(2, 0, 1), torch.from_numpy(array).permute(2, 0, 1), image.convert("RGBA")]
    for form in forms:
        torch.testing.assert_close(image_processor(form)["pixel_values"], expected, rtol=0, atol=1e-6)


def test_pixels_are_pillows_up_to_its_rounding():
    image = Image.open(IMAGE).convert("RGB")
    for resample_filter in (Image.Resampling.BILINEAR, Image.Resampling.BICUBIC):
        pillow = np.asarray(image.resize((224, 224), resample_filter)).transpose(2, 0, 1) / 255
        pixels = JosieImageProcessor(resample=resample_filter)(image)["pixel_values"][0]
        np.testing.assert_allclose(pixels, pillow, atol=2.5 / 255)


def test_scalars_of_pyarrow_are_what_they_hold():
    image_processor = JosieImageProcessor()
    content = IMAGE.read_bytes()
    expected = image_processor(content)["pixel_values"]
    for form in (pyarrow.scalar(content), pyarrow.scalar({"bytes": content, "path": None}), pyarrow.scalar(str(IMAGE))):
        torch.testing.assert_close(image_processor([form])["pixel_values"], expected, rtol=0, atol=0)


@pytest.mark.parametrize(("kind", "change"), [("meta", lambda x: x.to("meta")), ("sparse_coo", torch.Tensor.to_sparse)])
def test_tensors_that_do_not_store_their_values_are_refused(kind, change):
    frames = change(torch.zeros(4, 3, 8, 8))
    for processor, values, name in (
        (JosieImageProcessor(), frames[0], "images"),
        (JosieImageProcessor(), frames, "images"),
        (JosieVideoProcessor(), frames, "videos"),
    ):
        with pytest.raises(ValueError, match=f"`{name}` must be a tensor that stores each of its values, got a {kind}"):
            processor(values)


def test_integers_of_32_bits_are_16(caplog):
    from josie.processing_josie import images

    image_processor = JosieImageProcessor(size={"height": 2, "width": 2})
    for value in (-1, 65536):
        with pytest.raises(ValueError, match=rf"integers of 32 bits must be in \[0, 65535\], got values .*{value}"):
            image_processor(Image.fromarray(np.full((2, 2), value, np.int32)))
    images.logger.addHandler(caplog.handler)
    try:
        image_processor(Image.fromarray(np.full((2, 2), 256, np.int32)))
        assert caplog.text == ""
        pixels = image_processor(Image.fromarray(np.full((2, 2), 255, np.int32)))["pixel_values"]
    finally:
        images.logger.removeHandler(caplog.handler)
    assert "`images` of mode 'I' are as dark as values of 8 bits" in caplog.text
    assert float(pixels.max()) == pytest.approx(255 / 65535)


def test_grey_transparent_and_deep_images_become_colours():
    image_processor = JosieImageProcessor(size={"height": 2, "width": 2})
    for image, value in (
        (Image.new("L", (2, 2), 51), 0.2),
        (Image.new("1", (2, 2), 1), 1.0),
        (Image.new("RGBA", (2, 2), (0, 0, 0, 0)), 1.0),
        (Image.fromarray(np.full((2, 2), 13107, np.uint16)), 0.2),
        (np.full((2, 2), 51, np.uint8), 0.2),
    ):
        pixels = image_processor(image)["pixel_values"]
        torch.testing.assert_close(pixels, torch.full((1, 3, 2, 2), value))
    grey = JosieImageProcessor(size={"height": 2, "width": 2}, num_channels=1)
    assert grey(Image.new("RGB", (2, 2), (255, 0, 0)))["pixel_values"].flatten()[0] == pytest.approx(0.299)


def test_normalisation_and_scale():
    black = np.zeros((4, 4, 3), np.uint8)
    image_processor = JosieImageProcessor(do_normalize=True, image_mean=[0.5, 0.4, 0.3], image_std=[0.5, 0.5, 0.1])
    assert image_processor(black)["pixel_values"][0, :, 0, 0].tolist() == pytest.approx([-1, -0.8, -3])
    assert JosieImageProcessor(do_rescale=False)(black + 255)["pixel_values"].max() == 255
    grey = JosieImageProcessor(do_normalize=True, image_mean=0.5, image_std=np.array([0.5]))
    assert grey(black)["pixel_values"].max() == -1


def test_values_stay_as_they_are_without_rescaling():
    """As in transformers: bytes from 0 to 255, floats whatever they are."""
    image = Image.open(IMAGE).convert("RGB").resize((32, 32))
    floats, deep = np.asarray(image, np.float32), Image.fromarray(np.full((32, 32), 13107, np.uint16))
    plain = JosieImageProcessor(size={"height": 32, "width": 32})

    def check(part, inputs, name, values):
        found = part(inputs, do_rescale=False)[name].squeeze().movedim(-3, -1)
        np.testing.assert_allclose(found, values, atol=1e-4 * np.abs(values).max())

    for form in (image, np.asarray(image), floats):
        check(plain, form, "pixel_values", floats)
    check(plain, deep, "pixel_values", np.full((32, 32, 3), 51))
    check(plain, Image.fromarray(floats[..., 0]), "pixel_values", floats[..., :1].repeat(3, axis=-1))
    for values in (floats / 255, floats / 127.5 - 1, 100 * floats):
        check(plain, values, "pixel_values", values)
    video_processor = JosieVideoProcessor(size={"height": 32, "width": 32}, fps=None)
    for frames in (np.stack([floats, floats / 255]), np.stack([floats, floats]).astype(np.uint8)):
        check(video_processor, frames, "pixel_values_videos", frames)
        check(video_processor, list(frames), "pixel_values_videos", frames)
    with pytest.raises(ValueError, match="must be finite"):
        plain(floats * np.nan, do_rescale=False)
    with pytest.raises(ValueError, match=r"must be in \[0, 1\]"):  # what is seen through is not known otherwise
        plain(np.zeros((32, 32, 4)) + 9.0, do_rescale=False)


def test_resized_values_keep_their_range():
    array = np.asarray(Image.open(IMAGE).convert("RGB"))
    for size in (32, 400):
        image_processor = JosieImageProcessor(size={"height": size, "width": size}, patch_size=8)
        expected = image_processor(array)["pixel_values"]
        for values, scale in ((array, 255), (array / np.float32(255), 1), (array.astype(np.float32), 255)):
            found = image_processor(values, do_rescale=False)["pixel_values"]
            torch.testing.assert_close(found, scale * expected, rtol=0, atol=scale * 1e-5)


def test_codec_images_keep_their_shape_and_are_padded():
    config = JovioConfig(patch_size=8)
    image_processor = JosieImageProcessor.from_config(config, max_patches=50)
    pixels, grid = image_processor(
        [np.zeros((33, 47, 3), np.uint8) + 255, np.zeros((300, 100, 3), np.uint8) + 255]
    ).values()
    assert grid[0].tolist() == [1, 4, 6]
    assert pixels.shape[2] == 8 * grid[:, 1].max()
    for image, (_, rows, columns) in zip(pixels, grid.tolist(), strict=True):
        assert config.get_num_patches(1, 8 * rows, 8 * columns) <= 50
        assert image.sum() == image[:, : 8 * rows, : 8 * columns].sum() == 3 * 64 * rows * columns


def test_fitted_sizes_are_multiples_between_the_bounds():
    generator = np.random.default_rng(0)
    for height, width in np.exp(generator.uniform(0, 8.5, (300, 2))).astype(int):
        sides = fit_size(height, width, 14, 14 * 14 * 16, 14 * 14 * 100)
        assert all(side % 14 == 0 for side in sides)
        assert 16 <= sides[0] * sides[1] // 196 <= 100 or max(height, width) > 16 * min(height, width)
        assert sides[0] * sides[1] // 196 <= 100


@pytest.mark.parametrize(
    ("images", "match"),
    [
        (np.zeros((0, 4, 3), np.uint8), "at least one pixel"),
        (np.full((4, 4, 3), np.nan), "must be finite"),
        (np.full((4, 4, 3), 7.0), r"in \[0, 1\], got values from 7 to 7"),
        (np.zeros((4, 4, 3), np.int64), "uint8 or floating point, got int64"),
        (np.zeros((5, 5, 2), np.uint8), "1, 3 or 4 channels"),
        (np.zeros(4), "`images` must be images"),
        (3, "`images` must be images"),
        ([], "at least one image"),
        ("nowhere.png", "existing file, got 'nowhere.png'"),
        ("http://example.com/a.png", "offline mode.*got 'http://example.com/a.png'"),
        (b"no image", "which is none"),
        (SPEECH, "which is none"),
    ],
    ids=short,
)
def test_bad_images_are_refused(images, match):
    with pytest.raises(ValueError, match=match):
        JosieImageProcessor()(images)


def test_an_image_that_is_cut_short_or_empty_is_refused():
    content = IMAGE.read_bytes()
    with pytest.raises(ValueError, match="`images` must be readable images, got 600 bytes"):
        JosieImageProcessor()(content[:600])
    with pytest.raises(ValueError, match="at least one pixel, got 0 x 5"):
        JosieImageProcessor()(Image.new("RGB", (0, 5)))


@pytest.mark.parametrize(
    ("kwargs", "match"),
    [
        ({"size": {"height": 0, "width": 4}}, "`size` must have positive"),
        ({"size": {"shortest_edge": 4}}, "`size` must have 'height'"),
        ({"size": {"min_pixels": 9, "max_pixels": 4}}, "in order"),
        ({"resample": 0}, "`resample` must be"),
        ({"num_channels": 4}, "`num_channels` must be 1 or 3, got 4"),
        ({"size": {"height": 64.5, "width": 64}}, "`size` must have integers"),
        ({"resample": [3]}, r"`resample` must be .*got \[3\]"),
        ({"num_channels": 3.0}, "`num_channels` must be 1 or 3, got 3.0"),
        ({"patch_size": 0}, "`patch_size` must be an integer of at least 1, got 0"),
        ({"patch_size": 14.5}, "`patch_size` must be an integer of at least 1, got 14.5"),
        ({"patch_size": "16"}, "`patch_size` must be an integer of at least 1, got '16'"),
        ({"do_resize": "no"}, "`do_resize` must be True or False, got 'no'"),
        ({"rescale_factor": "x"}, "`rescale_factor` must be a finite number greater than 0, got 'x'"),
        ({"do_normalize": True}, "`image_mean` must be a number, or one for each .* where `do_normalize` is True"),
        ({**NORMALISED, "image_mean": [0.5, 0.5]}, r"`image_mean` must be .*\(3\), .*got \(?\[?0.5, 0.5"),
        ({**NORMALISED, "image_std": [0, 0, 0]}, "`image_std` must be a number greater than 0"),
        ({**NORMALISED, "image_std": "x"}, "`image_std` must be a number greater than 0.*got 'x'"),
    ],
    ids=short,
)
def test_bad_image_settings_are_refused(kwargs, match):
    with pytest.raises(ValueError, match=match):
        JosieImageProcessor(**kwargs)
    with pytest.raises(ValueError, match=match):
        JosieImageProcessor()(IMAGE, **kwargs)


def test_unresized_images_must_fit_the_patches():
    with pytest.raises(ValueError, match=r"multiples of `patch_size` \(16\)"):
        JosieImageProcessor(do_resize=False)(np.zeros((17, 16, 3), np.uint8))
    with pytest.raises(ValueError, match="must be one of .*'colour'"):
        JosieImageProcessor()(IMAGE, colour=3)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"image_mean": 0.5}, "`image_mean` must be None where `do_normalize` is False, got 0.5"),
        ({"image_std": [0.5] * 3}, "`image_std` must be None where `do_normalize` is False"),
        ({"do_rescale": False, "rescale_factor": 2.0}, "`rescale_factor` must be None where `do_rescale` is False"),
        ({"do_resize": False, "size": {"height": 64, "width": 64}}, "`size` must be None where `do_resize` is False"),
    ],
    ids=short,
)
def test_settings_that_another_switches_off_are_refused_in_a_call(options, match):
    for part, value in ((JosieImageProcessor, IMAGE), (JosieVideoProcessor, VIDEO)):
        part(**options)  # saved settings have all
        with pytest.raises(ValueError, match=match):
            part()(value, **options)


def test_frames_are_chosen_evenly():
    assert choose_frames(24, 12, 2.0, None, 32) == [3, 9, 15, 21]
    assert choose_frames(24, 12, None, 3, 32) == [4, 12, 20]
    assert choose_frames(24, None, 2.0, None, 32) == list(range(24))
    assert choose_frames(24, None, None, None, 5) == [2, 7, 12, 16, 21]
    assert choose_frames(3, 30, 1.0, None, 32) == [1]
    assert choose_frames(2, None, None, 9, 32) == [0, 1]


def test_every_form_of_a_video_gives_the_same_frames():
    video_processor = JosieVideoProcessor(size={"height": 64, "width": 96}, fps=None)
    with av.open(str(VIDEO)) as container:
        frames = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
    expected, grid = video_processor(frames).values()
    assert expected.shape == (1, 24, 3, 64, 96)
    assert grid.tolist() == [[24, 4, 6]]
    np.testing.assert_allclose(expected[0], frames.transpose(0, 3, 1, 2) / 255, atol=1e-6)
    forms = [str(VIDEO), VIDEO, VIDEO.read_bytes(), [VIDEO], frames[None], frames.transpose(0, 3, 1, 2)]
    forms += [torch.from_numpy(frames), [Image.fromarray(frame) for frame in frames], list(frames), frames / 255]
    for form in forms:
        torch.testing.assert_close(video_processor(form)["pixel_values_videos"], expected, rtol=0, atol=1e-6)


def test_animations_need_no_decoder(tmp_path):
    frames = [Image.new("RGB", (16, 16), (20 * index, 0, 0)) for index in range(10)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:], duration=100)
    video_processor = JosieVideoProcessor(size={"height": 16, "width": 16}, fps=5)
    pixels = video_processor(tmp_path / "a.gif")["pixel_values_videos"][0, :, 0, 0, 0]
    np.testing.assert_allclose(255 * pixels, [20, 60, 100, 140, 180], atol=4)


def test_codec_videos_fill_their_last_patch_with_their_last_frame():
    video_processor = JosieVideoProcessor.from_config(JovioConfig(patch_size=8, temporal_patch_size=4), 16)
    short, long = torch.rand(5, 3, 32, 32), torch.rand(9, 3, 16, 32)
    pixels, grid = video_processor([short, long]).values()
    assert grid.tolist() == [[2, 4, 4], [3, 2, 4]]
    assert pixels.shape == (2, 12, 3, 32, 32)
    assert (pixels[0, 4:8] == short[4]).all()
    assert not pixels[0, 8:].any()


def test_frames_can_be_chosen_at_the_call():
    video_processor = JosieVideoProcessor()
    assert video_processor(VIDEO)["video_grid_thw"][0, 0] == 4
    assert video_processor(VIDEO, fps=1)["video_grid_thw"][0, 0] == 2
    assert video_processor(VIDEO, num_frames=7)["video_grid_thw"][0, 0] == 7
    assert video_processor(VIDEO, do_sample_frames=False)["video_grid_thw"][0, 0] == 24
    with pytest.raises(ValueError, match="`num_frames` and `fps` must not both be given"):
        video_processor(VIDEO, num_frames=3, fps=2)


@pytest.mark.parametrize(
    ("videos", "match"),
    [
        (np.zeros((0, 4, 4, 3), np.uint8), "at least one frame, got 0"),
        (np.zeros((2, 0, 4, 3), np.uint8), "at least one pixel"),
        (np.full((2, 4, 4, 3), np.nan), "must be finite"),
        ([np.zeros((4, 4, 3)), np.zeros((5, 4, 3))], "frames of one size"),
        (np.zeros((4, 4, 3)), "`videos` must be lists of images"),
        ([], "at least one video"),
        ("nowhere.mp4", "existing file"),
        ("https://example.com/a.mp4", "offline mode"),
        (b"", "must not be empty"),
        (b"no video at all", "`videos` must be readable, got 15 bytes"),
        (SPEECH, "`videos` must have a video track"),
        (VIDEO.read_bytes()[:1500], "`videos` must be (readable|complete), got 1500 bytes"),
    ],
    ids=short,
)
def test_bad_videos_are_refused(videos, match):
    with pytest.raises(ValueError, match=match):
        JosieVideoProcessor()(videos)


def test_a_missing_decoder_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(ImportError, match=r"josie\[video\]"):
        JosieVideoProcessor()(VIDEO)


def test_towers_of_transformers_are_normalised():
    from transformers import SiglipVisionConfig

    options = JosieImageProcessor.from_config(SiglipVisionConfig(image_size=32, patch_size=8))
    assert (dict(options.size), options.patch_size, options.do_normalize) == ({"height": 32, "width": 32}, 8, True)
    assert options(np.zeros((4, 4, 3), np.uint8))["pixel_values"].max() == -1


def test_settings_that_transformers_wrote_before_are_read():
    """Saved video settings of nano have a switch of transformers that is off."""
    from transformers import AutoProcessor, AutoVideoProcessor

    import josie

    assert AutoProcessor.from_pretrained(josie.nano_path()).video_processor is not None
    assert AutoVideoProcessor.from_pretrained(josie.nano_path("jovio")).patch_size == 8
