"""Drawn scenes: one to three shapes on white, where every pair stands clearly side by side or one above the other.

Each thing of a scene has a colour, a shape and, to each other thing, a relation. Of the five relations (four directions
and "alone"), one is held out for every pair of colour and shape: a training scene contains no such combination, a
test scene at least one, and yet every part of it, and every pair of parts, is known from training.
"""

import math
import random
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from itertools import permutations, product
from typing import Literal

from PIL import Image, ImageDraw

SHAPES = ("circle", "square", "triangle", "star", "heart")
COLOURS = {
    "red": (222, 40, 40),
    "green": (40, 165, 65),
    "blue": (40, 85, 220),
    "yellow": (250, 212, 40),
    "purple": (140, 55, 175),
    "orange": (255, 135, 20),
}
SIZES = {"small": 0.088, "big": 0.145}  # radius, in sides of the canvas
OPPOSITES = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}
DIRECTIONS = tuple(OPPOSITES)
ALONE = "alone"
RELATIONS = (*DIRECTIONS, ALONE)

GAP = 0.02  # between two things, and between a thing and the border
STEEPEST = 0.5  # what the lesser offset of two things may be of the greater
NUM_THINGS = (1, 2, 2, 3)  # equally likely
SUPERSAMPLING = 3

Split = Literal["train", "test"]
Triple = tuple[str, str, str]
Layout = tuple[str, tuple[tuple[str, str, str], ...]]


def _hold_out() -> frozenset[Triple]:
    pairs = [(colour, shape) for colour in COLOURS for shape in SHAPES]
    relations = list(RELATIONS) * (len(pairs) // len(RELATIONS))
    random.Random("josie nano scenes").shuffle(relations)
    return frozenset((*pair, relation) for pair, relation in zip(pairs, relations, strict=True))


HELD_OUT = _hold_out()


@dataclass(frozen=True)
class Thing:
    """One shape on the canvas.

    Args:
        shape (`str`): One of `SHAPES`.
        colour (`str`): One of `COLOURS`.
        size (`str`): One of `SIZES`.
        x, y (`float`): Its centre, in sides of the canvas, from the left and from the top.
        tint (`tuple[int, int, int]`): Added to the colour.
        turn (`float`): Degrees by which it is turned.
        scale (`float`): By which its radius differs from that of its size.
    """

    shape: str
    colour: str
    size: str
    x: float
    y: float
    tint: tuple[int, int, int] = (0, 0, 0)
    turn: float = 0.0
    scale: float = 1.0

    def __post_init__(self):
        for name, choices in (("shape", SHAPES), ("colour", COLOURS), ("size", SIZES)):
            if getattr(self, name) not in choices:
                raise ValueError(f"`{name}` must be one of {list(choices)}, got {getattr(self, name)!r}.")

    @property
    def radius(self) -> float:
        """Of a circle that it lies in, in sides of the canvas."""
        return SIZES[self.size] * self.scale


@dataclass(frozen=True)
class Scene:
    """Things on a canvas, in no order that means anything.

    Args:
        things (`tuple[Thing, ...]`): No two have the same colour and shape.
        background (`tuple[int, int, int]`): Colour of the canvas.
    """

    things: tuple[Thing, ...]
    background: tuple[int, int, int] = (250, 250, 250)

    def to_dict(self) -> dict:
        """Return it as JSON has it."""
        things = [asdict(thing) | {"tint": list(thing.tint)} for thing in self.things]
        return {"things": things, "background": list(self.background)}

    @classmethod
    def from_dict(cls, scene: dict) -> "Scene":
        """Return the scene that [`Scene.to_dict`] described."""
        things = (Thing(**(thing | {"tint": tuple(thing["tint"])})) for thing in scene["things"])
        return cls(tuple(things), tuple(scene["background"]))


def relation(thing: Thing, other: Thing) -> str:
    """Return where `thing` is, seen from `other`: the direction in which they are further apart."""
    across, down = thing.x - other.x, thing.y - other.y
    if abs(across) > abs(down):
        return "left of" if across < 0 else "right of"
    return "above" if down < 0 else "below"


def triples(scene: Scene) -> set[Triple]:
    """Return colour, shape and relation of each thing to each other one, or "alone"."""
    if len(scene.things) == 1:
        return {(scene.things[0].colour, scene.things[0].shape, ALONE)}
    return {(thing.colour, thing.shape, relation(thing, other)) for thing, other in permutations(scene.things, 2)}


def is_held_out(scene: Scene) -> bool:
    """Return whether a scene contains a combination that no training scene contains."""
    return not HELD_OUT.isdisjoint(triples(scene))


def draw_scene(draw: random.Random, split: Split, num_things: int | None = None) -> Scene:
    """Return a random scene.

    Args:
        draw (`random.Random`): What chances come from.
        split (`"train"` or `"test"`): Without any held-out combination, or with at least one.
        num_things (`int`, *optional*): 1, 2 or 3; drawn if not given.
    """
    if split not in ("train", "test"):
        raise ValueError(f'`split` must be "train" or "test", got {split!r}.')
    if num_things is None:
        num_things = draw.choice(NUM_THINGS)
    elif num_things not in NUM_THINGS:
        raise ValueError(f"`num_things` must be in [1, {max(NUM_THINGS)}], got {num_things}.")
    while True:
        scene = Scene(_draw_things(draw, num_things), draw_background(draw))
        if is_held_out(scene) == (split == "test"):
            return scene


def vary(scene: Scene, draw: random.Random) -> Scene:
    """Return a scene of which the same is true: its things stand a little elsewhere, in other tints."""
    shift = 0.1
    while True:
        things = tuple(_vary_thing(thing, draw, shift) for thing in scene.things)
        pairs = zip(permutations(things, 2), permutations(scene.things, 2), strict=True)
        if all(_stand_clear(*new) and relation(*new) == relation(*old) for new, old in pairs):
            return Scene(things, draw_background(draw))
        shift /= 2  # at last they stand where they stood


def _vary_thing(thing: Thing, draw: random.Random, shift: float) -> Thing:
    margin = thing.radius + GAP
    x, y = (min(max(at + draw.uniform(-shift, shift), margin), 1 - margin) for at in (thing.x, thing.y))
    return replace(thing, x=x, y=y, tint=_draw_tint(draw), turn=round(draw.uniform(-12, 12), 1))


def _draw_tint(draw: random.Random) -> tuple[int, int, int]:
    return draw.randint(-14, 14), draw.randint(-14, 14), draw.randint(-14, 14)


def draw_background(draw: random.Random) -> tuple[int, int, int]:
    """Return a random colour that is nearly white."""
    light = draw.randint(240, 252)
    return light + draw.randint(-3, 3), light + draw.randint(-3, 3), light + draw.randint(-3, 3)


def _draw_things(draw: random.Random, num_things: int) -> tuple[Thing, ...]:
    while True:
        things: list[Thing] = []
        while len(things) < num_things:
            thing = _draw_thing(draw, things)
            if not all(_stand_clear(thing, other) for other in things):
                break  # from the start, or where the first ones stand would depend on how many there are
            things.append(thing)
        else:
            return tuple(things)


def _draw_thing(draw: random.Random, others: list[Thing]) -> Thing:
    # A third of the later things repeat a shape, so that there is something to count.
    while True:
        shape = draw.choice(others).shape if others and draw.random() < 1 / 3 else draw.choice(SHAPES)
        colour = draw.choice(tuple(COLOURS))
        if all((shape, colour) != (other.shape, other.colour) for other in others):
            break
    size = draw.choice(tuple(SIZES))
    scale = draw.uniform(0.94, 1.06)
    margin = SIZES[size] * scale + GAP
    return Thing(
        shape,
        colour,
        size,
        x=round(draw.uniform(margin, 1 - margin), 3),
        y=round(draw.uniform(margin, 1 - margin), 3),
        tint=_draw_tint(draw),
        turn=round(draw.uniform(-12, 12), 1),
        scale=round(scale, 3),
    )


def _stand_clear(thing: Thing, other: Thing) -> bool:
    lesser, greater = sorted((abs(thing.x - other.x), abs(thing.y - other.y)))
    return lesser <= STEEPEST * greater and math.hypot(lesser, greater) >= thing.radius + other.radius + GAP


def _outline(shape: str) -> list[tuple[float, float]]:
    """Return the corners of a shape inside the circle of radius 1."""
    if shape == "heart":
        angles = [math.tau * step / 48 for step in range(48)]
        cosines = [[math.cos(times * angle) for times in (1, 2, 3, 4)] for angle in angles]
        heights = [-13 * row[0] + 5 * row[1] + 2 * row[2] + row[3] for row in cosines]
        return [(math.sin(angle) ** 3 * 0.87, (y - 2.5) / 18.2) for angle, y in zip(angles, heights, strict=True)]
    if shape == "star":
        lengths = (1.0, 0.45) * 5
    else:
        lengths = (1.0,) * {"circle": 64, "square": 4, "triangle": 3}[shape]
        lengths = tuple(length * (0.88 if shape == "circle" else 1.0) for length in lengths)
    start = math.pi / 4 if shape == "square" else -math.pi / 2
    angles = [start + math.tau * step / len(lengths) for step in range(len(lengths))]
    return [(length * math.cos(angle), length * math.sin(angle)) for length, angle in zip(lengths, angles, strict=True)]


OUTLINES = {shape: _outline(shape) for shape in SHAPES}


def render(scene: Scene, size: int = 256) -> Image.Image:
    """Return an image of a scene, RGB, `size` pixels a side."""
    if size < 8:
        raise ValueError(f"`size` must be at least 8, got {size}.")
    side = size * SUPERSAMPLING
    canvas = Image.new("RGB", (side, side), scene.background)
    pencil = ImageDraw.Draw(canvas)
    shadow = tuple(round(level * 0.9) for level in scene.background)
    for thing in scene.things:
        fill = tuple(
            min(max(level + add, 0), 255) for level, add in zip(COLOURS[thing.colour], thing.tint, strict=True)
        )
        rim = tuple(round(level * 0.75) for level in fill)
        cosine, sine = math.cos(math.radians(thing.turn)), math.sin(math.radians(thing.turn))
        for paint, scale, shift in ((shadow, 1.0, 0.012), (rim, 1.0, 0.0), (fill, 0.88, 0.0)):
            length = side * thing.radius * scale
            x, y = side * (thing.x + shift), side * (thing.y + shift)
            corners = [
                (x + length * (cosine * right - sine * down), y + length * (sine * right + cosine * down))
                for right, down in OUTLINES[thing.shape]
            ]
            pencil.polygon(corners, fill=paint)
    return canvas.reduce(SUPERSAMPLING)


def layouts(split: Split, num_things: int) -> Iterator[Layout]:
    """Yield what all scenes of a split show, each but once however its things are shifted, turned or tinted.

    Of three things only those in a row or in a column are counted: there are more than these.

    Yields:
        How the things are lined up, `"left of"`, `"above"` or `"alone"`, and shape, colour and size of each of them,
        first to last.
    """
    pairs = [(shape, colour) for shape in SHAPES for colour in COLOURS]
    for line in (ALONE,) if num_things == 1 else ("left of", "above"):
        for chosen in permutations(pairs, num_things):
            found = {(colour, shape, line) for shape, colour in chosen[: max(num_things - 1, 1)]}
            if num_things > 1:
                found |= {(colour, shape, OPPOSITES[line]) for shape, colour in chosen[1:]}
            if found.isdisjoint(HELD_OUT) == (split == "train"):
                for sizes in product(SIZES, repeat=num_things):
                    yield line, tuple((*pair, size) for pair, size in zip(chosen, sizes, strict=True))


def lay_out(layout: Layout) -> Scene:
    """Return a scene of this layout, in the middle of the canvas."""
    line, things = layout
    places = [(number + 1) / (len(things) + 1) for number in range(len(things))]
    return Scene(
        tuple(
            Thing(shape, colour, size, *((0.5, place) if line == "above" else (place, 0.5)))
            for place, (shape, colour, size) in zip(places, things, strict=True)
        )
    )
