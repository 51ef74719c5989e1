"""The report at the end of a vision codec's training: how good each number of quantizers is, and a sheet to look at."""

import json
import math
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw

from josie.conversion.files import write_file
from josie.modeling_josie import JovioModel
from josie.processing_josie import JovioImageProcessor
from recipes.image_data import StoredImage
from recipes.progress import progress

METRICS_FILE, SHEET_FILE = "metrics.json", "sheet.png"
_CELL, _GAP, _HEADER = 192, 6, 16  # pixels of the sheet


@dataclass
class ReportArguments:
    """Size of the report.

    Args:
        max_pixels (`int`): Images are shrunk to this area, here and by the processors that are saved with the model.
        num_rows (`int`): Images of the sheet.
    """

    max_pixels: int = 65536
    num_rows: int = 12

    def __post_init__(self):
        for name in ("max_pixels", "num_rows"):
            if getattr(self, name) < 1:
                raise ValueError(f"`report.{name}` must be at least 1, got {getattr(self, name)}.")


def count_quantizers(most: int) -> list[int]:
    """Return 1, 2, 4 and so on up to `most`, which is always the last."""
    return [*(2**power for power in range((most - 1).bit_length())), most]


def psnr(pixels: torch.Tensor, target: torch.Tensor) -> float:
    """Return the peak signal-to-noise ratio of values in [0, 1], in dB; at most 100."""
    return -10 * math.log10(max(float((pixels - target).square().mean()), 1e-10))


@torch.no_grad()
def reconstruct(model: JovioModel, pixel_values: torch.Tensor, counts: list[int]) -> list[torch.Tensor]:
    """Return an image after each number of quantizers; it is encoded once.

    Args:
        model ([`JovioModel`]): The codec.
        pixel_values (`torch.Tensor`): `(1, channels, height, width)`, in [0, 1].
        counts (`list[int]`): Numbers of quantizers.
    """
    encoded = model.encode(pixel_values)
    decoded = (model.decode(encoded.vision_codes[:, :count], encoded.grid_thw, num_frames=1) for count in counts)
    return [output.pixel_values[:, 0] for output in decoded]


def score_images(
    model: JovioModel,
    folder: Path,
    images: list[StoredImage],
    max_pixels: int,
    counts: list[int],
    rows: dict[str, list[torch.Tensor]] | None = None,
) -> list[dict[str, Any]]:
    """Return the PSNR of each image, in dB, after each number of quantizers.

    Args:
        model ([`JovioModel`]): The codec.
        folder (`Path`): Where the arrays of the images are.
        images (`list[StoredImage]`): What to send through the codec.
        max_pixels (`int`): Area that larger images are shrunk to.
        counts (`list[int]`): Numbers of quantizers.
        rows (`dict`, *optional*): Its keys are files; gets the original and what became of it for each of them.
    """
    side, was_training = model.config.patch_size, model.training
    processor = JovioImageProcessor(patch_size=side, size={"min_pixels": side**2, "max_pixels": max_pixels})
    scores = []
    model.eval()
    for image in progress(images, "Images of the report", unit="images"):
        frame = torch.from_numpy(np.load(folder / image.file)[0]).movedim(-1, 0)
        pixels = processor(frame)["pixel_values"].to(model.device)
        decoded = reconstruct(model, pixels, counts)
        values = [round(psnr(item, pixels), 3) for item in decoded]
        scores.append({"file": image.file, "origin": image.origin, "source": image.source, "psnr": values})
        if rows is not None and image.file in rows:
            rows[image.file] = [pixels, *decoded]
    model.train(was_training)
    return scores


def average_scores(scores: list[dict[str, Any]], counts: list[int]) -> dict[str, float]:
    """Return `psnr_K`, the mean over images in dB, for each number K of quantizers."""
    columns = zip(counts, zip(*(score["psnr"] for score in scores), strict=True), strict=True)
    return {f"psnr_{count}": round(statistics.fmean(values), 3) for count, values in columns}


def write_report(
    model: JovioModel, folder: Path, images: list[StoredImage], target: Path, arguments: ReportArguments
) -> dict[str, Any]:
    """Send images through the codec, measure what comes out, and write `metrics.json` and `sheet.png`.

    Args:
        model ([`JovioModel`]): The codec.
        folder (`Path`): Where the arrays of the images are.
        images (`list[StoredImage]`): What the codec has not seen.
        target (`Path`): Folder for the report.
        arguments ([`ReportArguments`]): What is reported.

    Returns:
        `psnr_K`, the mean over images in dB, for each number K of quantizers; and `num_images`.
    """
    target.mkdir(parents=True, exist_ok=True)
    counts = count_quantizers(model.config.num_quantizers)
    places = np.linspace(0, len(images) - 1, arguments.num_rows).round().astype(int)
    rows: dict[str, list[torch.Tensor]] = {images[place].file: [] for place in places}
    scores = score_images(model, folder, images, arguments.max_pixels, counts, rows)
    values = {score["file"]: score["psnr"] for score in scores}
    draw_sheet([(row, values[file]) for file, row in rows.items()], counts).save(target / SHEET_FILE)
    metrics = average_scores(scores, counts) | {"num_images": len(scores)}
    write_file(target / METRICS_FILE, json.dumps({**metrics, "images": scores}, indent=1) + "\n")
    return metrics


def draw_sheet(rows: list[tuple[list[torch.Tensor], list[float]]], counts: list[int]) -> Image.Image:
    """Return a sheet: a row for each image, the original first, then each number of quantizers with its PSNR."""
    strips = []
    for images, values in rows:
        titles = ["original", *(f"{count}: {value:.1f} dB" for count, value in zip(counts, values, strict=True))]
        cells = [_to_cell(pixels) for pixels in images]
        strip = Image.new("RGB", ((_CELL + _GAP) * len(cells), _HEADER + cells[0].height + _GAP), "lightgrey")
        draw = ImageDraw.Draw(strip)
        for column, (cell, title) in enumerate(zip(cells, titles, strict=True)):
            draw.text((column * (_CELL + _GAP) + 2, 2), title, fill="black")
            strip.paste(cell, (column * (_CELL + _GAP), _HEADER))
        strips.append(strip)
    sheet = Image.new("RGB", (strips[0].width, sum(strip.height for strip in strips)), "lightgrey")
    top = 0
    for strip in strips:
        sheet.paste(strip, (0, top))
        top += strip.height
    return sheet


def _to_cell(pixels: torch.Tensor) -> Image.Image:
    """Return `(1, channels, height, width)` in [0, 1] as an image that fits a cell."""
    array = pixels[0].mul(255).round().to(torch.uint8).movedim(0, -1).cpu().numpy()
    cell = Image.fromarray(array if array.shape[-1] == 3 else array[..., 0]).convert("RGB")
    cell.thumbnail((_CELL, _CELL), Image.Resampling.LANCZOS)
    return cell
