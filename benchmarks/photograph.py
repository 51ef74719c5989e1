"""A photograph of 48 megapixels made as small as a vision tower sees it, beside what Pillow alone takes for that.

    python benchmarks/photograph.py

Both read the same JPEG: Pillow opens it, converts it to RGB and resizes it by its bicubic filter; JOSIE's image
processor makes `pixel_values` of it. Every run is a process of its own, whose memory is what it peaks above what it had
with all imports done, as Linux counts it. Runs take turns; figures are medians.
"""

import argparse
import multiprocessing
import statistics
import tempfile
import time
from datetime import date
from pathlib import Path

import numpy as np
import torch
from measure import find_processor
from PIL import Image

from josie.processing_josie import JosieImageProcessor

WIDTH, HEIGHT = 8000, 6000
SIZES = (64, 224, 384, 896)


def write_photograph(path: Path) -> None:
    """Write a JPEG of soft colours."""
    small = np.random.default_rng(0).integers(0, 255, (90, 120, 3), dtype=np.uint8)
    Image.fromarray(small).resize((WIDTH, HEIGHT)).save(path)


def shrink_by_pillow(path: Path, side: int) -> None:
    """Make a photograph small as Pillow does."""
    with Image.open(path) as image:
        image.convert("RGB").resize((side, side), Image.Resampling.BICUBIC)


def shrink_by_josie(path: Path, side: int) -> None:
    """Make a photograph small as JOSIE does."""
    JosieImageProcessor(size={"height": side, "width": side})(path)


CONTESTANTS = {"JOSIE": shrink_by_josie, "Pillow": shrink_by_pillow}


def run(name: str, path: Path, side: int) -> tuple[float, float]:
    """Return the seconds of a run in this process, and by how many MiB it peaks above what was there.

    Args:
        name (`str`): A key of `CONTESTANTS`.
        path (`Path`): The photograph; `small.jpg` lies beside it.
        side (`int`): Height and width of the result, in pixels.
    """
    torch.set_num_threads(1)
    CONTESTANTS[name](path.with_name("small.jpg"), side)  # what is loaded at the first call
    Path("/proc/self/clear_refs").write_text("5")  # the peak is the present size from now on
    before, start = read_kib("VmRSS"), time.perf_counter()
    CONTESTANTS[name](path, side)
    seconds = time.perf_counter() - start
    return seconds, (read_kib("VmHWM") - before) / 1024


def read_kib(name: str) -> int:
    """Return a size of this process as Linux states it."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name))


def main() -> None:
    """Print a row for each size."""
    parser = argparse.ArgumentParser(description="A photograph of 48 megapixels, beside Pillow.")
    parser.add_argument("--rounds", type=int, default=3, help="timed runs of each contestant")
    rounds = parser.parse_args().rounds
    context = multiprocessing.get_context("spawn")
    print(f"{WIDTH * HEIGHT / 1e6:.0f} megapixels, {rounds} runs each, one thread, {find_processor()}, {date.today()}")
    print(f"{'side':>6}{'JOSIE s':>10}{'Pillow s':>10}{'times':>8}{'JOSIE MiB':>12}{'Pillow MiB':>12}{'times':>8}")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "photograph.jpg"
        write_photograph(path)
        Image.new("RGB", (64, 64)).save(path.with_name("small.jpg"))
        for side in SIZES:
            found: dict[str, list[tuple[float, float]]] = {name: [] for name in CONTESTANTS}
            for _ in range(rounds):
                for name in CONTESTANTS:
                    with context.Pool(1) as pool:
                        found[name].append(pool.apply(run, (name, path, side)))
            (seconds, peak), (theirs, their_peak) = (
                tuple(map(statistics.median, zip(*found[name], strict=True))) for name in CONTESTANTS
            )
            print(
                f"{side:6}{seconds:10.2f}{theirs:10.2f}{seconds / theirs:8.2f}"
                f"{peak:12.0f}{their_peak:12.0f}{peak / their_peak:8.2f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
