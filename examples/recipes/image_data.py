"""Free images and videos for the vision codec: fetched, cleaned, split, cut into random crops.

`python examples/fetch_data.py images CONFIG`, or the first training, fetches about 125 MB once (no root needed) and
writes each image as an array of at most 512 pixels a side, with a manifest that names source, collection, licence,
author, group and split of each, and the images of the test split as PNG files in `test`. What cannot be decoded is
skipped and counted. `recipes/image_sources.py` has the collections and their licences.

Images that show the same thing share a group, and a group never straddles the split: series of symbols, names that
differ by a number, a side or a colour, and images whose grey thumbnails, mirrored or not, are nearly equal.
"""

import hashlib
import json
from collections import Counter
from dataclasses import MISSING, asdict, dataclass, field, fields
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset
from transformers.utils import logging

from josie.conversion.files import write_file
from recipes.image_sources import COLLECTIONS, FREE_COLLECTIONS, FoundImage, find_images
from recipes.places import make_folder
from recipes.progress import progress

logger = logging.get_logger("josie.examples.image_data")

MANIFEST_FILE = "manifest.json"
SOURCES = ("stamps", "scenes", "photographs", "video")
SPLITS = {"test": 0.1, "validation": 0.05}  # the rest is for training


@dataclass
class ImageDataArguments:
    """The images of a recipe, and their crops.

    Args:
        folder (`str`): Where arrays and manifest are kept; one with a manifest of your own is used as it is.
        cache (`str`): Folder for what is downloaded.
        shapes (`list[list[int]]`): Frames, height and width of crops, drawn with equal chances; crops of several frames
            are cut out of clips.
        weights (`dict[str, float]`): How often each source is drawn; within a source, each group equally often.
        collections (`list[str]`): Of `recipes/image_sources.py`; without the two under GPL where it is not said. A
            folder that has a manifest keeps its images.
        num_validation_crops (`int`): Crops that the loss is evaluated on.
    """

    folder: str = "runs/data/images"
    cache: str = "runs/data/debian"
    shapes: list[list[int]] = field(default_factory=lambda: [[1, 128, 128]])
    weights: dict[str, float] = field(default_factory=lambda: {"stamps": 1.0, "scenes": 1.0, "photographs": 1.0})
    num_validation_crops: int = 96
    collections: list[str] = field(default_factory=lambda: list(FREE_COLLECTIONS))

    def __post_init__(self):
        unknown = [name for name in self.collections if name not in COLLECTIONS]
        if unknown or not self.collections:
            raise ValueError(f"`data.collections` must be of {list(COLLECTIONS)}, got {self.collections}.")
        for shape in self.shapes:
            if len(shape) != 3 or min(shape) < 1:
                raise ValueError(f"`data.shapes` must be of frames, height and width, got {shape}.")
        if self.num_validation_crops < 0:
            raise ValueError(f"`data.num_validation_crops` must be at least 0, got {self.num_validation_crops}.")
        if not self.shapes or not self.weights or min(self.weights.values()) <= 0:
            raise ValueError(
                "`data.shapes` and `data.weights` must not be empty, nor a weight 0, "
                f"got {self.shapes} and {self.weights}."
            )
        if "video" not in self.weights and max(shape[0] for shape in self.shapes) > 1:
            raise ValueError(
                "`data.weights` must have 'video' for the crops of several frames in `data.shapes`, "
                f"got {list(self.weights)} and {self.shapes}."
            )


@dataclass
class StoredImage:
    """A row of the manifest.

    Args:
        file (`str`): The array, `(frames, height, width, 3)` in uint8, relative to the manifest.
        source (`str`): `"stamps"`, `"scenes"`, `"photographs"` or `"video"`.
        origin (`str`): Where it lay in its package, or what it was drawn from.
        licence (`str`): Of the original.
        group (`str`): Shared by images of the same thing.
        shape (`list[int]`): Of the array.
        split (`str`): `"train"`, `"validation"` or `"test"`.
        collection (`str`): Where it was had; one of `recipes/image_sources.py`.
        author (`str`): Who has the copyright of the original; empty where nobody has it.
    """

    file: str
    source: str
    origin: str
    licence: str
    group: str
    shape: list[int]
    split: str = "train"
    collection: str = ""
    author: str = ""


def thumbnail(frame: np.ndarray, side: int = 24) -> np.ndarray:
    """Return `(side, side)` greys of mean 0 and norm 1."""
    grey = np.asarray(Image.fromarray(frame).convert("L").resize((side, side), Image.Resampling.BOX), np.float64)
    grey -= grey.mean()
    return grey / max(np.linalg.norm(grey), 1e-6)


def join_groups(images: list[StoredImage], thumbnails: np.ndarray, likeness: float = 0.95) -> None:
    """Give images that look alike, mirrored or not, one group.

    Args:
        images: Their groups are changed in place.
        thumbnails (`np.ndarray`): `(num_images, side, side)`.
        likeness (`float`): Correlation from which on two look alike.
    """
    leader = {image.group: image.group for image in images}

    def find(group: str) -> str:
        while leader[group] != group:
            group = leader[group]
        return group

    flat = thumbnails.reshape(len(images), -1)
    mirrored = thumbnails[:, :, ::-1].reshape(len(images), -1)
    alike = np.maximum(flat @ flat.T, flat @ mirrored.T) > likeness
    for first, second in zip(*np.nonzero(np.triu(alike, 1)), strict=True):
        one, other = sorted((find(images[first].group), find(images[second].group)))
        leader[other] = one
    for image in images:
        image.group = find(image.group)


def choose_split(group: str, salt: str = "pictures") -> str:
    """Return the split of a group, by its name alone: it never changes when images are added."""
    place = int.from_bytes(hashlib.sha256(f"{salt}/{group}".encode()).digest()[:8], "big") / 2**64
    for split, share in SPLITS.items():
        if place < share:
            return split
        place -= share
    return "train"


def split_clip(index: int, num_clips: int) -> str:
    """Return the split of a clip: the video's end is held out, and the clip at the border is validation."""
    first = round(num_clips * (1 - SPLITS["test"]))
    return "test" if index >= first else "validation" if index >= first - 2 else "train"


def prepare_images(folder: Path, cache: Path, collections: list[str]) -> None:
    """Fetch, read, group, split and write everything into `folder`, unless that was done before.

    Args:
        folder (`Path`): Gets `manifest.json`, with `images`, a list of [`StoredImage`] as dicts, and `skipped`, the
            number of files of each kind; the arrays; and the images of the test split as PNG files.
        cache (`Path`): Keeps what was downloaded.
        collections (`list[str]`): Where images are had.

    Raises:
        [`FetchError`]: A package cannot be had.
    """
    if (folder / MANIFEST_FILE).exists():
        return
    make_folder(folder, "data.folder")
    found = list(find_images(cache, collections))
    (folder / "arrays").mkdir(exist_ok=True)
    images: list[StoredImage] = []
    thumbnails: list[np.ndarray] = []
    skipped: Counter[str] = Counter()

    def keep(frames: np.ndarray, collection: str, image: FoundImage, group: str) -> None:
        file = f"arrays/{len(images):05}.npy"
        np.save(folder / file, frames)
        images.append(
            StoredImage(
                *(file, image.source, image.origin, image.licence, group, list(frames.shape)),
                collection=collection,
                author=image.author,
            )
        )
        thumbnails.append(thumbnail(frames[0]))

    for collection, image in progress(found, "Images read", unit="files"):
        try:
            clips = image.read()
        except ValueError as error:
            logger.warning(f"Skipped: {error}")
            skipped["broken"] += 1
            continue
        for index, clip in enumerate(clips):
            is_video = image.source == "video"
            keep(clip, collection, image, f"{image.group}/{split_clip(index, len(clips))}" if is_video else image.group)
    still = [index for index, image in enumerate(images) if image.source != "video"]
    join_groups([images[index] for index in still], np.stack([thumbnails[index] for index in still]))
    for image in images:
        is_video = image.source == "video"
        image.split = image.group.rpartition("/")[2] if is_video else choose_split(image.group)
    write_test_images(folder, [image for image in images if image.split == "test"])
    manifest = {"images": [asdict(image) for image in images], "skipped": dict(skipped)}
    write_file(folder / MANIFEST_FILE, json.dumps(manifest, indent=1) + "\n")


def write_test_images(folder: Path, images: list[StoredImage]) -> None:
    """Write images, and the first frame of clips, as `test/SOURCE/NAME.png`."""
    for image in images:
        path = folder / "test" / image.source / f"{Path(image.file).stem}_{Path(image.origin).stem}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.load(folder / image.file)[0]).save(path)


def read_manifest(folder: Path) -> tuple[list[StoredImage], dict[str, int]]:
    """Return the images of a folder, and the number of files of each kind that were skipped.

    Raises:
        `ValueError`: The manifest is damaged, or lacks something.
    """
    path = folder / MANIFEST_FILE
    try:
        manifest = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise ValueError(f"`data.folder` must have a manifest of JSON, got {str(path)!r}: {error}.") from error
    rows = manifest.get("images") if isinstance(manifest, dict) else None
    if not isinstance(rows, list):
        raise ValueError(f"`data.folder` must have a manifest with a list of `images`, got {str(path)!r} without.")
    images = []
    for row in rows:
        try:
            images.append(StoredImage(**row))
        except TypeError as error:
            needed = [entry.name for entry in fields(StoredImage) if entry.default is MISSING]
            allowed = [entry.name for entry in fields(StoredImage) if entry.name not in needed]
            raise ValueError(
                f"An image of {str(path)!r} must have {needed}, may have {allowed}, got {row!r}."
            ) from error
        shape, split = images[-1].shape, images[-1].split
        if not isinstance(shape, list) or len(shape) != 4 or split not in ("train", *SPLITS):
            raise ValueError(
                f"An image of {str(path)!r} must have a `shape` of frames, height, width and 3, and a `split` of "
                f"{['train', *SPLITS]}, got {shape!r} and {split!r}."
            )
    return images, manifest.get("skipped", {})


def load_images(arguments: ImageDataArguments) -> dict[str, list[StoredImage]]:
    """Return the images of each split, fetched and prepared if that was not done before."""
    folder = Path(arguments.folder)
    prepare_images(folder, Path(arguments.cache), arguments.collections)
    images, _ = read_manifest(folder)
    return {split: [image for image in images if image.split == split] for split in ("train", *SPLITS)}


class RandomCrops(Dataset):
    """Crops of random images, each drawn from its own index, so that a resumed training sees what it would have seen.

    Sources that have no image in the split are left out, and shapes of more frames than its clips have.

    Args:
        arguments ([`ImageDataArguments`]): Where the arrays are, and what crops are like.
        images (`list[StoredImage]`): What to draw from.
        num_crops (`int`): Length of the data set; 0 if there is no image.
        seed (`int`): Of everything drawn.
        num_alike (`int`): How many neighbours, counted from the first, have one shape: with the size of a batch, and
            in order, no batch needs padding.
    """

    def __init__(
        self,
        arguments: ImageDataArguments,
        images: list[StoredImage],
        num_crops: int,
        seed: int = 0,
        num_alike: int = 1,
    ):
        self.folder, self.seed, self.num_alike = Path(arguments.folder), seed, num_alike
        self.shapes = [(frames, height, width) for frames, height, width in arguments.shapes]
        self.sources: dict[str, list[list[StoredImage]]] = {}
        for source in sorted({image.source for image in images}):
            groups: dict[str, list[StoredImage]] = {}
            for image in images:
                if image.source == source:
                    groups.setdefault(image.group, []).append(image)
            self.sources[source] = list(groups.values())
        unknown = sorted(set(arguments.weights) - set(SOURCES))
        if unknown:
            raise ValueError(f"`data.weights` must be of sources among {list(SOURCES)}, got {unknown[0]!r}.")
        self.weights = {name: weight for name, weight in arguments.weights.items() if name in self.sources}
        clips = [image.shape[0] for image in images if image.source == "video" and "video" in self.weights]
        self.most_frames = max(clips, default=1)
        self.shapes = [shape for shape in self.shapes if shape[0] <= self.most_frames]
        self.num_crops = num_crops if self.weights and self.shapes else 0

    def __len__(self) -> int:
        return self.num_crops

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        """Return `pixel_values`, `(frames, 3, height, width)` in [0, 1], of one crop."""
        if not 0 <= index < self.num_crops:
            raise IndexError(index)
        turn = np.random.default_rng((self.seed, 0, index // self.num_alike)).integers(len(self.shapes))
        num_frames, height, width = self.shapes[turn]
        generator = np.random.default_rng((self.seed, 1, index))
        names = [name for name in self.weights if num_frames == 1 or name == "video"]
        chances = np.array([self.weights[name] for name in names])
        groups = self.sources[names[generator.choice(len(names), p=chances / chances.sum())]]
        if num_frames > 1:  # clips may be shorter
            groups = [[image for image in group if image.shape[0] >= num_frames] for group in groups]
            groups = [group for group in groups if group]
        group = groups[generator.integers(len(groups))]
        image = group[generator.integers(len(group))]
        frames = np.load(self.folder / image.file, mmap_mode="r")
        start = generator.integers(len(frames) - num_frames + 1)
        crop = cut(frames[start : start + num_frames], height, width, image.source == "stamps", generator)
        return {"pixel_values": torch.from_numpy(crop).movedim(-1, 1).float() / 255}


def cut(frames: np.ndarray, height: int, width: int, with_margin: bool, generator: np.random.Generator) -> np.ndarray:
    """Return a random part of `frames` in a random size, perhaps mirrored, `(frames, height, width, 3)` in uint8.

    Args:
        frames (`np.ndarray`): `(frames, rows, columns, 3)`, in uint8.
        height, width (`int`): Of the result.
        with_margin (`bool`): Whether the part may reach beyond the image, into white.
        generator: What chances come from.
    """
    rows, columns = frames.shape[1:3]
    fits = (height / rows, width / columns)
    smallest = min(fits) if with_margin else max(fits)
    zoom = float(np.exp(generator.uniform(np.log(min(smallest, 1.25)), np.log(1.25)))) if smallest < 1.25 else smallest
    box = [round(height / zoom), round(width / zoom)]
    if not with_margin:
        box = [min(length, side) for length, side in zip(box, (rows, columns), strict=True)]
    canvas = np.full((len(frames), *box, 3), 255, np.uint8)
    source, target = [], []
    for side, length in zip((rows, columns), box, strict=True):
        low, high = sorted((0, side - length))
        start = int(generator.integers(low, high + 1))
        first, last = max(start, 0), min(start + length, side)
        source.append(slice(first, last))
        target.append(slice(first - start, last - start))
    canvas[:, target[0], target[1]] = frames[:, source[0], source[1]]
    if generator.random() < 0.5:
        canvas = canvas[:, :, ::-1]
    canvas = np.ascontiguousarray(canvas)
    resized = (Image.fromarray(frame).resize((width, height), Image.Resampling.BICUBIC) for frame in canvas)
    return np.stack([np.asarray(frame) for frame in resized])


def print_counts(arguments: ImageDataArguments) -> None:
    """Print a table of the images of each source and split, and how many files were skipped."""
    splits = load_images(arguments)
    print("| source | " + " | ".join(splits) + " |\n| --- |" + " ---: |" * len(splits))
    for source in SOURCES:
        counts = (sum(image.source == source for image in images) for images in splits.values())
        print(f"| {source} | " + " | ".join(map(str, counts)) + " |")
    print(f"skipped: {read_manifest(Path(arguments.folder))[1]}")
