"""Quality of images after a vision codec: PSNR and SSIM by number of quantizers, beside JPEG and WebP in as many bytes.

For each image and each number of quantizers, JPEG (Pillow, optimized tables, with and without chroma subsampling) and
WebP (Pillow, method 6) get the highest quality whose file, headers included, is not larger than the packed codes. Where
even their lowest quality is larger they have no score, and the codec's mean over the images that did fit stands
beside theirs. All are scored as 8-bit RGB.

    pip install '.[judge]'
    python examples/fetch_data.py images examples/train_jovio.json
    python benchmarks/vision_codec_quality.py runs/data/images/test --codec nano/jovio
"""

import argparse
import importlib.util
import io
import json
import math
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import AutoImageProcessor, AutoModel

import josie  # noqa: F401  its import makes the Auto classes know it

SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp"}
# The settings that are tried at every quality; of those that fit, the best image counts.
FILES: dict[str, list[dict[str, Any]]] = {
    "JPEG": [{"format": "JPEG", "optimize": True, "subsampling": subsampling} for subsampling in ("4:2:0", "4:4:4")],
    "WebP": [{"format": "WEBP", "method": 6}],
}
QUALITIES = {"JPEG": (1, 95), "WebP": (0, 100)}
SMALLEST_SIDE = 64


@dataclass
class Score:
    """Likeness of an image to its original.

    Args:
        psnr (`float`): In dB, at most 100.
        ssim (`float`, *optional*): Structural similarity (Wang et al., 2004); `None` without torchmetrics.
    """

    psnr: float
    ssim: float | None


def score_image(image: np.ndarray, original: np.ndarray) -> Score:
    """Return PSNR and SSIM of `(height, width, 3)` in uint8."""
    error = np.mean((image.astype(np.float64) - original) ** 2) / 255**2
    psnr = -10 * math.log10(max(error, 1e-10))
    if importlib.util.find_spec("torchmetrics") is None:
        return Score(psnr, None)
    from torchmetrics.functional.image import structural_similarity_index_measure

    ours, theirs = (torch.from_numpy(array.copy()).movedim(-1, 0)[None].float() / 255 for array in (image, original))
    return Score(psnr, float(structural_similarity_index_measure(ours, theirs, data_range=1.0)))  # type: ignore[arg-type]


def save_bytes(image: Image.Image, options: dict[str, Any]) -> bytes:
    """Return the file of an image."""
    with io.BytesIO() as file:
        image.save(file, **options)
        return file.getvalue()


def fit_file(image: Image.Image, options: dict[str, Any], qualities: tuple[int, int], budget: int) -> bytes | None:
    """Return the file of the highest quality that fits; `None` if the lowest does not.

    Args:
        image (`Image.Image`): The image.
        options (`dict`): Of `Image.save`.
        qualities (`tuple[int, int]`): Lowest and highest.
        budget (`int`): Most bytes.
    """
    low, high = qualities
    best = None
    while low <= high:
        quality = (low + high) // 2
        file = save_bytes(image, options | {"quality": quality})
        if len(file) <= budget:
            best, low = file, quality + 1
        else:
            high = quality - 1
    return best


def score_files(original: np.ndarray, budget: int) -> dict[str, Score | None]:
    """Return the best score of each file format in `budget` bytes; `None` where it does not fit."""
    image = Image.fromarray(original)
    scores: dict[str, Score | None] = {}
    for name, variants in FILES.items():
        files = [fit_file(image, options, QUALITIES[name], budget) for options in variants]
        decoded = [np.asarray(Image.open(io.BytesIO(file)).convert("RGB")) for file in files if file is not None]
        candidates = [score_image(array, original) for array in decoded]
        scores[name] = max(candidates, key=lambda score: score.psnr) if candidates else None
    return scores


def count_header_bytes(original: np.ndarray) -> dict[str, int]:
    """Return how many bytes each format needs for a white image of this size: what it cannot do without."""
    blank = Image.fromarray(np.full_like(original, 255))
    return {
        name: min(len(save_bytes(blank, options | {"quality": QUALITIES[name][0]})) for options in variants)
        for name, variants in FILES.items()
    }


class Codec:
    """A vision codec's checkpoint.

    Args:
        folder (`str`): With weights and an image processor.
        max_pixels (`int`): Images are shrunk to this area.
    """

    def __init__(self, folder: str, max_pixels: int):
        self.model = AutoModel.from_pretrained(folder).eval()
        self.processor = AutoImageProcessor.from_pretrained(folder)
        self.size = {"min_pixels": SMALLEST_SIDE**2, "max_pixels": max_pixels}
        config = self.model.config
        self.bits_per_code = math.log2(config.codebook_size)
        most = config.num_quantizers
        self.counts = [*(2**power for power in range((most - 1).bit_length())), most]

    def prepare(self, path: Path) -> np.ndarray:
        """Return a file as `(height, width, 3)` in uint8, of a size that the codec takes."""
        pixels = self.processor(path, size=self.size)["pixel_values"][0]
        return pixels.mul(255).round().to(torch.uint8).movedim(0, -1).numpy()

    @torch.no_grad()
    def transmit(self, original: np.ndarray) -> Iterator[tuple[int, int, np.ndarray]]:
        """Yield for each number of quantizers: that number, bytes of the packed codes, and the decoded image."""
        pixels = torch.from_numpy(original.copy()).movedim(-1, 0)[None].float() / 255
        encoded = self.model.encode(pixels)
        for count in self.counts:
            codes = encoded.vision_codes[:, :count]
            decoded = self.model.decode(codes, encoded.grid_thw, num_frames=1).pixel_values[0, 0]
            array = decoded.mul(255).round().to(torch.uint8).movedim(0, -1).numpy()
            yield count, math.ceil(codes.numel() * self.bits_per_code / 8), array


def judge_image(codec: Codec, path: Path, source: str) -> dict[str, Any]:
    """Return all scores of one image.

    Args:
        codec ([`Codec`]): The codec.
        path (`Path`): The image.
        source (`str`): Where it comes from, for the report.
    """
    original = codec.prepare(path)
    start = time.perf_counter()
    transmitted = list(codec.transmit(original))
    seconds = time.perf_counter() - start
    rows = []
    for count, num_bytes, array in transmitted:
        files = score_files(original, num_bytes)
        rows.append(
            {
                "quantizers": count,
                "bytes": num_bytes,
                "codec": vars(score_image(array, original)),
                **{name: None if score is None else vars(score) for name, score in files.items()},
            }
        )
    shape = list(original.shape[:2])
    headers = count_header_bytes(original)
    return {"name": path.name, "source": source, "size": shape, "seconds": seconds, "headers": headers, "rows": rows}


def average(images: list[dict[str, Any]], index: int, name: str, among: str | None = None) -> dict[str, Any]:
    """Return number, means and medians of a contestant's scores in one row of the table.

    Args:
        images: From [`judge_image`].
        index (`int`): Of the row.
        name (`str`): `"codec"`, `"JPEG"` or `"WebP"`.
        among (`str`, *optional*): Count only images that fit this format.
    """
    rows = [image["rows"][index] for image in images]
    scores = [row[name] for row in rows if row[name] is not None and (among is None or row[among] is not None)]
    result: dict[str, Any] = {"fits": len(scores)}
    for kind in ("psnr", "ssim"):
        values = [score[kind] for score in scores if score[kind] is not None]
        result[f"{kind} mean"] = statistics.fmean(values) if values else None
        result[f"{kind} median"] = statistics.median(values) if values else None
    return result


def build_table(images: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return a row for each number of quantizers, with the averages of all contestants."""
    table = []
    for index, first in enumerate(images[0]["rows"]):
        num_bytes = [image["rows"][index]["bytes"] for image in images]
        bits = [8 * size / math.prod(image["size"]) for size, image in zip(num_bytes, images, strict=True)]
        row: dict[str, Any] = {"quantizers": first["quantizers"], "bytes": statistics.fmean(num_bytes)}
        row["bits/pixel"] = statistics.fmean(bits)
        row["codec"] = average(images, index, "codec")
        for name in FILES:
            row[name] = average(images, index, name)
            row[f"codec where {name} fits"] = average(images, index, "codec", name)
            row[f"{name} headers too large"] = sum(
                image["headers"][name] > image["rows"][index]["bytes"] for image in images
            )
        table.append(row)
    return table


def format_cell(value: float | None, digits: int) -> str:
    """Return a number, or a dash."""
    return "–" if value is None else f"{value:.{digits}f}"


def format_table(table: list[dict[str, Any]], num_images: int) -> Iterator[str]:
    """Yield the lines of a Markdown table; scores are means, medians in brackets."""
    columns = ["quantizers", "bytes", "bits/pixel", "PSNR", "SSIM"]
    for name in FILES:
        columns += [f"{name} fits", f"{name} PSNR", "codec there, PSNR", f"{name} SSIM", "codec there, SSIM"]
    yield "| " + " | ".join(columns) + " |"
    yield "|" + " ---: |" * len(columns)

    def both(scores: dict[str, Any], kind: str) -> str:
        digits = 2 if kind == "psnr" else 3
        return f"{format_cell(scores[f'{kind} mean'], digits)} ({format_cell(scores[f'{kind} median'], digits)})"

    for row in table:
        cells = [str(row["quantizers"]), f"{row['bytes']:.0f}", f"{row['bits/pixel']:.2f}"]
        cells += [both(row["codec"], kind) for kind in ("psnr", "ssim")]
        for name in FILES:
            cells.append(f"{row[name]['fits']}/{num_images}")
            for kind in ("psnr", "ssim"):
                cells += [both(row[name], kind), both(row[f"codec where {name} fits"], kind)]
        yield "| " + " | ".join(cells) + " |"


def format_sources(images: list[dict[str, Any]]) -> Iterator[str]:
    """Yield the lines of a table of the codec's mean PSNR for each source of images."""
    counts = [row["quantizers"] for row in images[0]["rows"]]
    yield "| PSNR of | images | " + " | ".join(map(str, counts)) + " |"
    yield "| --- |" + " ---: |" * (len(counts) + 1)
    for source in sorted({image["source"] for image in images}):
        among = [image for image in images if image["source"] == source]
        means = (average(among, index, "codec")["psnr mean"] for index in range(len(counts)))
        yield f"| {source} | {len(among)} | " + " | ".join(f"{mean:.2f}" for mean in means) + " |"


def find_images(folder: Path, limit: int | None) -> list[tuple[Path, str]]:
    """Return image files and the names of their folders; of more than `limit`, evenly spaced ones."""
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
    if limit is not None and len(paths) > limit:
        paths = [paths[(2 * index + 1) * len(paths) // (2 * limit)] for index in range(limit)]
    return [(path, path.parent.name if path.parent != folder else "images") for path in paths]


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """Return the command line's arguments, checked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="images, searched for in its folders too")
    parser.add_argument("--codec", required=True, metavar="DIR", help="a vision codec's checkpoint")
    parser.add_argument("--max-pixels", type=int, default=256 * 256, help="area that larger images are shrunk to")
    parser.add_argument("--limit", type=int, help="take at most so many images")
    parser.add_argument("--json", type=Path, help="also write all scores to this file")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="threads of torch")
    arguments = parser.parse_args(argv)
    if not arguments.folder.is_dir():
        parser.error(f"`folder` must be a folder, got {str(arguments.folder)!r}.")
    for name, least in (("max_pixels", SMALLEST_SIDE**2), ("limit", 1), ("threads", 1)):
        value = getattr(arguments, name)
        if value is not None and value < least:
            parser.error(f"`--{name.replace('_', '-')}` must be at least {least}, got {value}.")
    return arguments


def main(argv: list[str] | None = None) -> None:
    """Judge and print."""
    arguments = parse_arguments(argv)
    torch.set_num_threads(arguments.threads)
    paths = find_images(arguments.folder, arguments.limit)
    if not paths:
        raise SystemExit(f"`folder` must have images ({', '.join(sorted(SUFFIXES))}), got {str(arguments.folder)!r}.")
    if importlib.util.find_spec("torchmetrics") is None:
        print("SSIM is left out: torchmetrics is missing (pip install '.[judge]').\n")
    codec = Codec(arguments.codec, arguments.max_pixels)
    images = [judge_image(codec, path, source) for path, source in paths]
    table = build_table(images)
    megapixels = sum(math.prod(image["size"]) for image in images) / 1e6
    rate = megapixels / sum(image["seconds"] for image in images)
    print(f"{arguments.codec}, {len(images)} images, {megapixels:.2f} megapixels, {date.today()}; means (medians)\n")
    print("\n".join(format_table(table, len(images))))
    print()
    print("\n".join(format_sources(images)))
    print()
    for name in FILES:
        needed = statistics.fmean(image["headers"][name] for image in images)
        without = ", ".join(f"{row[f'{name} headers too large']} at {row['quantizers']}" for row in table)
        print(f"{name} needs {needed:.0f} bytes for a white image; that alone is more than the codes of: {without}.")
    print(f"Encoding once and decoding {len(codec.counts)} times: {rate:.3f} megapixels a second.")
    if arguments.json:
        arguments.json.write_text(json.dumps({"table": table, "images": images}, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
