"""One stamp on a canvas, anywhere, in any size, perhaps mirrored: "What is this?"

The images are those of Noto Color Emoji (SIL Open Font License 1.1), of Debian's `fonts-noto-color-emoji`, or where
they are asked for those of Tux Paint (GPL-2), of `tuxpaint-stamps-default`; both are downloaded once. Each stamp stands
in one of four quadrants of the canvas; for every stamp one quadrant is held out: a training image never shows the stamp
there, a test image always does.
"""

import random
import unicodedata
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont, ImageOps
from recipes.debian import fetch_package
from recipes.image_files import shrink

from nano_world.grammar import Question, article
from nano_world.scenes import Split, draw_background

PACKAGES = {"emoji": "fonts-noto-color-emoji", "tuxpaint": "tuxpaint-stamps-default"}
STAMPS_FOLDER = "usr/share/tuxpaint/stamps"
FONT = "usr/share/fonts/truetype/noto/NotoColorEmoji.ttf"
FONT_SIZE = 109  # the only one that it has
STAMPS = {
    "cat": "\N{CAT}",
    "dog": "\N{DOG}",
    "fox": "\N{FOX FACE}",
    "cow": "\N{COW}",
    "goat": "\N{GOAT}",
    "camel": "\N{DROMEDARY CAMEL}",
    "tiger": "\N{TIGER}",
    "lion": "\N{LION FACE}",
    "zebra": "\N{ZEBRA FACE}",
    "horse": "\N{HORSE}",
    "elephant": "\N{ELEPHANT}",
    "giraffe": "\N{GIRAFFE FACE}",
    "pig": "\N{PIG}",
    "rabbit": "\N{RABBIT}",
    "mouse": "\N{MOUSE}",
    "squirrel": "\N{CHIPMUNK}",
    "bear": "\N{BEAR FACE}",
    "kangaroo": "\N{KANGAROO}",
    "dolphin": "\N{DOLPHIN}",
    "owl": "\N{OWL}",
    "duck": "\N{DUCK}",
    "penguin": "\N{PENGUIN}",
    "frog": "\N{FROG FACE}",
    "bee": "\N{HONEYBEE}",
    "butterfly": "\N{BUTTERFLY}",
    "snail": "\N{SNAIL}",
    "apple": "\N{RED APPLE}",
    "banana": "\N{BANANA}",
    "orange": "\N{TANGERINE}",
    "lemon": "\N{LEMON}",
    "pineapple": "\N{PINEAPPLE}",
    "carrot": "\N{CARROT}",
    "tomato": "\N{TOMATO}",
    "mushroom": "\N{MUSHROOM}",
    "onion": "\N{ONION}",
    "glove": "\N{GLOVES}",
    "sock": "\N{SOCKS}",
    "camera": "\N{CAMERA}",
    "guitar": "\N{GUITAR}",
    "violin": "\N{VIOLIN}",
    "trumpet": "\N{TRUMPET}",
    "hammer": "\N{HAMMER}",
    "candle": "\N{CANDLE}",
    "moon": "\N{FULL MOON SYMBOL}",
    "rose": "\N{ROSE}",
}
TUX_PAINT = {
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
# Blocks of drawings in Unicode, without moons and stars, heads of known animals, hearts, clocks, signs and flags.
_EMOJI = (
    *((0x1F300, 0x1F310), (0x1F320, 0x1F34E), (0x1F350, 0x1F3FA), (0x1F400, 0x1F42B), (0x1F438, 0x1F438)),
    *((0x1F43A, 0x1F492), (0x1F4A0, 0x1F4FD), (0x1F5FB, 0x1F64F), (0x1F680, 0x1F6C5), (0x1F90F, 0x1F9AD)),
    *((0x1F9AF, 0x1F9E0), (0x1F9E2, 0x1F9FF)),
)
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


def find_stamps(cache: Path, source: str = "emoji") -> Path:
    """Return the root of the stamps' files, downloaded into `cache` unless that was done before.

    Raises:
        [`FetchError`]: The package cannot be had.
        `ValueError`: `source` is neither `"emoji"` nor `"tuxpaint"`.
    """
    if source not in PACKAGES:
        raise ValueError(f"`source` must be one of {list(PACKAGES)}, got {source!r}.")
    return fetch_package(PACKAGES[source], cache)


@cache
def _load_font(root: Path) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(str(root / FONT), FONT_SIZE)


@cache
def emoji() -> tuple[str, ...]:
    """Return the characters that are drawings, but neither drawn shapes nor heads of animals of `STAMPS`."""
    every = (chr(code) for first, last in _EMOJI for code in range(first, last + 1))
    return tuple(one for one in every if unicodedata.east_asian_width(one) == "W")


@cache
def _read_emoji(root: Path, character: str) -> Image.Image:
    """Return a drawing without the empty space around it, RGBA."""
    font = _load_font(root)
    canvas = Image.new("RGBA", (2 * FONT_SIZE, 2 * FONT_SIZE))
    ImageDraw.Draw(canvas).text((FONT_SIZE // 3, FONT_SIZE // 3), character, font=font, embedded_color=True)
    return canvas.crop(canvas.getbbox())


def draw_emoji(root: Path, character: str, size: int) -> Image.Image:
    """Return a drawing whose longer side is `size` pixels, RGBA.

    Args:
        root (`Path`): What [`find_stamps`] returned.
        character (`str`): One of [`emoji`].
        size (`int`): In pixels.
    """
    return _resize(_read_emoji(root, character), size)


def _resize(image: Image.Image, longest: float) -> Image.Image:
    scale = longest / max(image.size)
    width, height = (max(round(side * scale), 1) for side in image.size)
    return image.resize((width, height), Image.Resampling.LANCZOS, reducing_gap=3)


@cache
def _read_file(path: Path) -> Image.Image:
    with Image.open(path) as image:
        return shrink(image.convert("RGBA"), LONGEST_SIDE)


def render(scene: StampScene, folder: Path, size: int = 256, source: str = "emoji") -> Image.Image:
    """Return an image of a scene, RGB, `size` pixels a side.

    Args:
        scene ([`StampScene`]): What to show.
        folder (`Path`): What [`find_stamps`] returned.
        size (`int`): Of the canvas, in pixels.
        source (`str`): `"emoji"` or `"tuxpaint"`, as [`find_stamps`] was asked for.
    """
    if size < 8:
        raise ValueError(f"`size` must be at least 8, got {size}.")
    file = folder / STAMPS_FOLDER / TUX_PAINT[scene.stamp]
    image = _read_file(file) if source == "tuxpaint" else _read_emoji(folder, STAMPS[scene.stamp])
    image = _resize(image, size * scene.size)
    if scene.mirrored:
        image = ImageOps.mirror(image)
    canvas = Image.new("RGB", (size, size), scene.background)
    width, height = image.size
    canvas.paste(image, (round(size * scene.x - width / 2), round(size * scene.y - height / 2)), image)
    return canvas
