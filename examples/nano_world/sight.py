"""Learning to see by naming: the vision encoder says of each patch what has its centre there, before any language.

The words of a language model tell a young vision encoder little about images, and wrong things too: which colour and
shape never stand where. Name, colour, size and place are asked of each patch apart from each other, so that what was
never seen together is seen all the same.
"""

import random
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL.Image import Image, Resampling
from torch import nn
from torch.utils.data import Dataset
from transformers.modeling_outputs import ModelOutput

from josie.configuration_josie.constants import IGNORE_INDEX
from nano_world.scenes import COLOURS, SHAPES, SIZES, Split, draw_scene, render
from nano_world.stamps import PACKAGES, STAMPS, draw_stamp, find_stamps, render as render_stamp
from nano_world.unknown import IMAGES, draw_image

NAMES = ("nothing", *SHAPES, *STAMPS, "unknown")
CLASSES = (len(NAMES), len(COLOURS), len(SIZES))
NUM_PLACES = 4  # of a centre: across and down, in its patch and in the image
IMAGE_SIZE = 128


@dataclass
class SightArguments:
    """The images to learn from.

    Args:
        packages (`str`): Folder that keeps Debian packages.
        stamps (`float`): Share of images of a stamp.
        unknown (`float`): Share of images of other worlds; the rest are drawn scenes.
        source (`str`): Images of stamps, `"emoji"` or `"tuxpaint"`.
        num_rows (`int`): How many images there are; an epoch.
        num_validation_rows (`int`): Further ones, of scenes as in training; 0 for no evaluation.
        seed (`int`): Of what is drawn.
    """

    packages: str = "runs/data/debian"
    stamps: float = 0.15
    unknown: float = 0.1
    source: str = "emoji"
    num_rows: int = 1_000_000
    num_validation_rows: int = 200
    seed: int = 0

    def __post_init__(self):
        shares = (self.stamps, self.unknown)
        if not (min(shares) >= 0 and sum(shares) <= 1):
            raise ValueError(
                f"`data.stamps` and `data.unknown` must be at least 0 and at most 1 together, got {shares}."
            )
        if self.source not in PACKAGES:
            raise ValueError(f"`data.source` must be one of {list(PACKAGES)}, got {self.source!r}.")
        for name, least in (("num_rows", 1), ("num_validation_rows", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"`data.{name}` must be at least {least}, got {getattr(self, name)}.")


class Sights(Dataset):
    """Images and what stands in each of their patches, each drawn from its number.

    Args:
        arguments ([`SightArguments`]): What is shown.
        grid (`int`): Patches a side.
        validation (`bool`): Other images than training has.
        split (`"train"` or `"test"`): Whether the combinations are those of training or the held-out ones.
    """

    def __init__(self, arguments: SightArguments, grid: int, validation: bool = False, split: Split = "train"):
        self.arguments, self.grid, self.validation = arguments, grid, validation
        self.split: Split = split

    def __len__(self) -> int:
        return self.arguments.num_validation_rows if self.validation else self.arguments.num_rows

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Return `image`, and of [`mark`] `classes` and `places`."""
        index = range(len(self))[index]
        draw = random.Random(f"sight:{self.arguments.seed}:{self.validation}:{index}")
        chance, packages, source = draw.random(), Path(self.arguments.packages), self.arguments.source
        if chance < self.arguments.stamps:
            stamp = draw_stamp(draw, self.split)
            image = render_stamp(stamp, find_stamps(packages, source), IMAGE_SIZE, source)
            return {"image": image, **mark([(stamp.stamp, None, None, stamp.x, stamp.y)], self.grid)}
        if chance < self.arguments.stamps + self.arguments.unknown:
            split = "validation" if self.validation else self.split
            image = draw_image(draw, draw.choice(IMAGES), split, packages, IMAGE_SIZE)
            return {"image": image, **mark_unknown(image, self.grid)}
        scene = draw_scene(draw, self.split)
        things = [(thing.shape, thing.colour, thing.size, thing.x, thing.y) for thing in scene.things]
        return {"image": render(scene, IMAGE_SIZE), **mark(things, self.grid)}


def mark(things: Iterable[tuple[str, str | None, str | None, float, float]], grid: int) -> dict[str, torch.Tensor]:
    """Return what stands in the patches of an image.

    Args:
        things: Name, colour and size, `None` where they have none, and the centre in sides of the image.
        grid (`int`): Patches a side.

    Returns:
        `classes`, long `(grid * grid, 3)`: indices of name, colour and size, -100 where nothing is asked, as in a patch
        with two centres; and `places`, `(grid * grid, 4)`: where the centre is in its patch and in the image, each
        from -1 to 1, right and down; NaN without one.
    """
    classes = torch.tensor([0, IGNORE_INDEX, IGNORE_INDEX]).repeat(grid * grid, 1)
    places = torch.full((grid * grid, NUM_PLACES), torch.nan)
    for name, colour, size, x, y in things:
        column, row = int(x * grid), int(y * grid)
        place = row * grid + column
        if classes[place, 0] != 0:
            classes[place], places[place] = IGNORE_INDEX, torch.nan
            continue
        classes[place, 0] = NAMES.index(name)
        classes[place, 1] = IGNORE_INDEX if colour is None else list(COLOURS).index(colour)
        classes[place, 2] = IGNORE_INDEX if size is None else list(SIZES).index(size)
        places[place] = torch.tensor([x * grid - column, y * grid - row, x, y]) * 2 - 1
    return {"classes": classes, "places": places}


def mark_unknown(image: Image, grid: int) -> dict[str, torch.Tensor]:
    """Return what [`mark`] does of an image of another world: unknown wherever a tenth of a patch is not bare ground.

    Args:
        image (`Image`): Square; its first pixel is of the ground.
        grid (`int`): Patches a side.
    """
    pixels = np.asarray(image.resize((8 * grid, 8 * grid), Resampling.BOX)).astype(int)
    painted = (np.abs(pixels - pixels[0, 0]) > 8).any(-1).reshape(grid, 8, grid, 8).mean((1, 3)) > 0.1
    marked = mark([], grid)
    marked["classes"][torch.from_numpy(painted.flatten()), 0] = NAMES.index("unknown")
    return marked


@dataclass
class SightCollator:
    """Makes batches of what [`Sights`] has.

    Args:
        image_processor: Of the model.
    """

    image_processor: Any

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """Return `pixel_values`, and `classes` and `places` with an axis for the images in front."""
        images: list[Image] = [row["image"] for row in rows]
        batch = {name: torch.stack([row[name] for row in rows]) for name in ("classes", "places")}
        return {"pixel_values": self.image_processor(images, return_tensors="pt")["pixel_values"], **batch}


@dataclass
class SightOutput(ModelOutput):
    """Output of [`SightModel`]: the loss, and for each patch the logits of all classes and the places."""

    loss: torch.Tensor | None = None
    logits: torch.Tensor | None = None


class SightModel(nn.Module):
    """A vision encoder that names what it sees.

    Args:
        encoder ([`JosieVisionEncoder`]): Learns to see.
    """

    target_names = ("sight",)

    def __init__(self, encoder: Any):
        super().__init__()
        self.encoder = encoder
        self.name = nn.Linear(encoder.config.hidden_size, sum(CLASSES) + NUM_PLACES)

    def count_targets(self, places: torch.Tensor, **batch: Any) -> dict[str, torch.Tensor]:
        """Return the number of things in a batch; takes what `forward` takes."""
        return {"sight": (~places[..., 0].isnan()).sum()}

    def forward(
        self,
        pixel_values: torch.Tensor,
        classes: torch.Tensor,
        places: torch.Tensor,
        num_items_in_batch: dict[str, torch.Tensor] | None = None,
    ) -> SightOutput:
        """Return the losses of names, colours, sizes and places together, for each thing that is seen.

        Args:
            pixel_values (`torch.FloatTensor`): `(batch, num_channels, image_size, image_size)`.
            classes (`torch.LongTensor`), places (`torch.FloatTensor`): Of [`mark`], a row for each image.
            num_items_in_batch (`dict`, *optional*): As `count_targets` returns it, of the whole batch.
        """
        states = self.encoder(pixel_values).last_hidden_state[:, 1:]
        logits = self.name(states.float())
        *parts, found = logits.split([*CLASSES, NUM_PLACES], dim=-1)
        loss = sum(
            nn.functional.cross_entropy(part.flatten(0, 1), classes[..., index].flatten(), reduction="sum")
            for index, part in enumerate(parts)
        )
        known = ~places.isnan()
        loss = loss + (found[known] - places[known]).square().sum()
        count = known[..., 0].sum() if num_items_in_batch is None else num_items_in_batch["sight"]
        return SightOutput(loss=loss / count.clamp(min=1), logits=logits)


def count_right(logits: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
    """Return how many things of each image are seen as what they are, and how many there are, `(batch, 2)`."""
    is_thing = classes[..., 0] > 0
    right = is_thing
    for index, part in enumerate(logits[..., : sum(CLASSES)].split(list(CLASSES), dim=-1)):
        asked = classes[..., index]
        right = right & ((part.argmax(-1) == asked) | (asked == IGNORE_INDEX))
    return torch.stack([right.sum(1), is_thing.sum(1)], dim=1)
