"""The vision codec that ships with trained weights: it loads, and images come back as good as its card says."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from transformers import AutoImageProcessor, AutoModel, AutoVideoProcessor

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "nano" / "jovio"


@pytest.fixture(scope="module")
def codec():
    """The model and its image processor."""
    return AutoModel.from_pretrained(FOLDER).eval(), AutoImageProcessor.from_pretrained(FOLDER)


def draw_landscape():
    """A hill under a sky that gets lighter, a sun and a tree."""
    rows, columns = np.mgrid[:160, :224]
    sky = np.stack((90 + rows * 0.7, 140 + rows * 0.6, 230 - rows * 0.1), axis=-1)
    hill = rows > 115 + 18 * np.sin(columns / 40)
    ground = np.stack((70 + columns * 0.2, 130 - rows * 0.2, 60 + 0 * rows), axis=-1)
    image = Image.fromarray(np.where(hill[..., None], ground, sky).clip(0, 255).astype(np.uint8))
    pen = ImageDraw.Draw(image)
    pen.ellipse((160, 20, 196, 56), fill=(250, 220, 90))
    pen.rectangle((60, 80, 68, 125), fill=(100, 70, 40))
    pen.ellipse((40, 45, 90, 95), fill=(40, 110, 50))
    return image


def draw_shapes():
    """Shapes in plain colours on white, with thin lines: hard for a codec of patches."""
    image = Image.new("RGB", (128, 128), "white")
    pen = ImageDraw.Draw(image)
    pen.ellipse((12, 14, 70, 72), fill=(200, 40, 50), outline=(60, 10, 20), width=2)
    pen.rectangle((60, 60, 118, 110), fill=(50, 90, 190))
    pen.polygon(((20, 118), (50, 76), (66, 120)), fill=(240, 190, 40))
    pen.line((8, 100, 120, 20), fill=(30, 30, 30), width=2)
    return image


def psnr(pixels, target):
    return -10 * math.log10(float((pixels - target).square().mean()))


@pytest.mark.parametrize(
    "image",
    [ROOT / "tests" / "data" / "picture.png", draw_landscape(), draw_shapes()],
    ids=["file", "landscape", "shapes"],
)
@torch.no_grad()
def test_images_come_back_and_more_quantizers_make_them_better(codec, image):
    model, processor = codec
    inputs = processor(image)
    encoded = model.encode(**inputs)
    most = model.config.num_quantizers
    assert encoded.vision_codes.shape[1] == most
    counts = [2**power for power in range(most.bit_length())]
    assert counts[-1] == most
    decoded = [
        model.decode(encoded.vision_codes[:, :count], encoded.grid_thw, num_frames=1).pixel_values[:, 0]
        for count in counts
    ]
    scores = [psnr(pixels, inputs["pixel_values"]) for pixels in decoded]
    assert scores == sorted(scores)
    assert scores[-1] >= 24


@torch.no_grad()
def test_videos_come_back_and_stream(codec):
    model, _ = codec
    wide = np.asarray(draw_landscape())
    video = [Image.fromarray(wide[16:112, shift : shift + 128]) for shift in range(0, 40, 8)]
    inputs = AutoVideoProcessor.from_pretrained(FOLDER)([video], do_sample_frames=False)
    encoded = model.encode(**inputs)
    decoded = model.decode(encoded.vision_codes, encoded.grid_thw, num_frames=len(video)).pixel_values
    assert psnr(decoded, inputs["pixel_values"]) >= 24
    first = model.encode(inputs["pixel_values"][:, :2], use_streaming=True)
    rest = model.encode(inputs["pixel_values"][:, 2:], streaming_state=first.streaming_state, is_final=True)
    streamed = torch.cat((first.vision_codes, rest.vision_codes), dim=2)
    assert (streamed == encoded.vision_codes).float().mean() > 0.99  # sums in another order may tip a near tie


def test_it_is_small():
    model = AutoModel.from_pretrained(FOLDER)
    learned = sum(quantizer.codebook.numel() for quantizer in model.quantizer.levels)
    assert model.num_parameters() + learned <= 5_000_000
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) <= 10_000_000
    assert (FOLDER / "README.md").is_file()
