"""One Tux Paint stamp on a canvas, anywhere, in any size, perhaps mirrored: "What is this?"

The images are those of Debian's `tuxpaint-stamps-default` (GPL-2), downloaded once. Each stamp stands in one of four
quadrants of the canvas; for every stamp one quadrant is held out: a training image never shows the stamp there, a
test image always does.
"""

import random
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

from PIL import Image, ImageOps
from recipes.debian import fetch_package
from recipes.image_data import STAMPS as STAMPS_FOLDER, shrink

from nano_world.grammar import Question, article
from nano_world.scenes import Split, draw_background

PACKAGE = "tuxpaint-stamps-default"
STAMPS = {
    "cat": "seasonal/halloween/blackcat.png",
    "dog": "animals/mammals/dogs/dog.png",
    "fox": "animals/mammals/dogs/fox.png",
    "cow": "animals/mammals/bovines/cow.png",
    "goat": "animals/mammals/bovines/goat.png",
    "camel": "animals/mammals/camel/camel.png",
    "tiger": "animals/mammals/cats/tiger.png",
    "lion": "animals/mammals/cats/lion.png",
    "zebra": "animals/mammals/equines/zebra.png",
    "horse": "animals/mammals/equines/horse.png",
    "elephant": "animals/mammals/elephant.png",
    "giraffe": "animals/mammals/giraffe.png",
    "pig": "animals/mammals/pig.png",
    "rabbit": "animals/mammals/rodents/rabbit.png",
    "mouse": "animals/mammals/rodents/mouse.png",
    "squirrel": "animals/mammals/rodents/squirrel.png",
    "bear": "animals/mammals/bears/bear.png",
    "kangaroo": "animals/marsupials/kangaroo.png",
    "dolphin": "animals/mammals/aquatic/dolphin.png",
    "owl": "animals/birds/owl.png",
    "duck": "animals/birds/duck.png",
    "penguin": "animals/birds/penguin.png",
    "frog": "animals/amphibians/frog.png",
    "bee": "animals/insects/bee.png",
    "butterfly": "animals/insects/cartoon/butterfly.png",
    "snail": "animals/insects/cartoon/snail.png",
    "apple": "food/fruit/apple_red.png",
    "banana": "food/fruit/banana.png",
    "orange": "food/fruit/orange.png",
    "lemon": "food/fruit/lemon.png",
    "pineapple": "food/fruit/pineapple.png",
    "carrot": "food/vegetables/carrot.png",
    "tomato": "food/vegetables/tomato.png",
    "mushroom": "food/vegetables/mushroom.png",
    "onion": "food/vegetables/onion.png",
    "glove": "clothes/t_glove.png",
    "sock": "clothes/t_sock.png",
    "camera": "hobbies/camera_35mm.png",
    "guitar": "hobbies/music/string/guitar_classical.png",
    "violin": "hobbies/music/string/violin.png",
    "trumpet": "hobbies/music/brass/trumpet.png",
    "hammer": "household/tools/hammer.png",
    "candle": "seasonal/candle.png",
    "moon": "space/moon/moon_full.png",
    "rose": "plants/flowers/rose.png",
}
QUADRANTS = ("upper left", "upper right", "lower left", "lower right")
WORDINGS = ("What is this?", "What do you see?", "Tell me what this is.")
SMALLEST, LARGEST = 0.3, 0.46  # longer side, in sides of the canvas
MARGIN = 0.01  # to the border
CLEAR = 0.04  # of the centre, to the lines between quadrants
LONGEST_SIDE = 256  # pixels that are kept of a stamp


def _hold_out() -> frozenset[tuple[str, str]]:
    quadrants = [QUADRANTS[number % len(QUADRANTS)] for number in range(len(STAMPS))]
    random.Random("josie nano stamps").shuffle(quadrants)
    return frozenset(zip(STAMPS, quadrants, strict=True))


HELD_OUT = _hold_out()


@dataclass(frozen=True)
class StampScene:
    """A stamp on a canvas.

    Args:
        stamp (`str`): One of `STAMPS`.
        x, y (`float`): Its centre, in sides of the canvas, from the left and from the top.
        size (`float`): Its longer side, in sides of the canvas.
        mirrored (`bool`): Whether left and right are exchanged.
        background (`tuple[int, int, int]`): Colour of the canvas.
    """

    stamp: str
    x: float
    y: float
    size: float
    mirrored: bool = False
    background: tuple[int, int, int] = (250, 250, 250)

    def __post_init__(self):
        if self.stamp not in STAMPS:
            raise ValueError(f"`stamp` must be one of {list(STAMPS)}, got {self.stamp!r}.")

    def to_dict(self) -> dict:
        """Return it as JSON has it."""
        return asdict(self) | {"background": list(self.background)}

    @classmethod
    def from_dict(cls, scene: dict) -> "StampScene":
        """Return the scene that [`StampScene.to_dict`] described."""
        values: dict[str, Any] = scene | {"background": tuple(scene["background"])}
        return cls(**values)


def quadrant(scene: StampScene) -> str:
    """Return in which quadrant the centre of the stamp is."""
    return QUADRANTS[(scene.x > 0.5) + 2 * (scene.y > 0.5)]


def is_held_out(scene: StampScene) -> bool:
    """Return whether no training image shows this stamp in this quadrant."""
    return (scene.stamp, quadrant(scene)) in HELD_OUT


def draw_stamp(draw: random.Random, split: Split) -> StampScene:
    """Return a random stamp at a random place.

    Args:
        draw (`random.Random`): What chances come from.
        split (`"train"` or `"test"`): Where it is not held out, or where it is.
    """
    if split not in ("train", "test"):
        raise ValueError(f'`split` must be "train" or "test", got {split!r}.')
    stamp = draw.choice(tuple(STAMPS))
    while True:
        size = round(draw.uniform(SMALLEST, LARGEST), 3)
        near, far = size / 2 + MARGIN, 0.5 - CLEAR
        x, y = (round(abs(draw.choice((0, 1)) - draw.uniform(near, far)), 3) for _ in range(2))
        scene = StampScene(stamp, x, y, size, draw.random() < 0.5, draw_background(draw))
        if is_held_out(scene) == (split == "test"):
            return scene


def ask(scene: StampScene, draw: random.Random) -> Question:
    """Return a random wording of the question what it is."""
    return Question("stamp", draw.choice(WORDINGS), f"It is {article(scene.stamp)} {scene.stamp}.")


def words() -> set[str]:
    """Return every word that is asked or answered here, in lower case."""
    asked = " ".join(WORDINGS).lower().replace("?", "").replace(".", "").split()
    return {*asked, *STAMPS, "it", "is", "a", "an"}


def find_stamps(cache: Path) -> Path:
    """Return the folder of the stamps, downloaded into `cache` unless that was done before.

    Raises:
        [`FetchError`]: The package cannot be had.
    """
    return fetch_package(PACKAGE, cache) / STAMPS_FOLDER


@cache
def _read(path: Path) -> Image.Image:
    with Image.open(path) as image:
        return shrink(image.convert("RGBA"), LONGEST_SIDE)


def render(scene: StampScene, folder: Path, size: int = 256) -> Image.Image:
    """Return an image of a scene, RGB, `size` pixels a side.

    Args:
        scene ([`StampScene`]): What to show.
        folder (`Path`): What [`find_stamps`] returned.
        size (`int`): Of the canvas, in pixels.
    """
    if size < 8:
        raise ValueError(f"`size` must be at least 8, got {size}.")
    image = _read(folder / STAMPS[scene.stamp])
    scale = size * scene.size / max(image.size)
    width, height = (max(round(side * scale), 1) for side in image.size)
    image = image.resize((width, height), Image.Resampling.LANCZOS)
    if scene.mirrored:
        image = ImageOps.mirror(image)
    canvas = Image.new("RGB", (size, size), scene.background)
    canvas.paste(image, (round(size * scene.x - width / 2), round(size * scene.y - height / 2)), image)
    return canvas
