"""The drawn world: its split holds, scenes show what they say, stamps are what they are called."""

import functools
import json
import math
import random
import re
import unicodedata
from itertools import combinations, permutations
from pathlib import Path

import numpy as np
import pytest
from nano_world import grammar as nano_grammar, scenes as nano_scenes, stamps as nano_stamps
from nano_world.scenes import COLOURS, HELD_OUT, RELATIONS, SHAPES, Scene, Thing, draw_scene

ROOT = Path(__file__).resolve().parents[1]

PACKAGES = ROOT / "runs" / "data" / "debian"
NUMBERS = {"none": 0, "one": 1, "two": 2, "three": 3}


def draw_scenes(split, number, seed=0):
    draw = random.Random(seed)
    return [draw_scene(draw, split) for _ in range(number)]


@functools.cache
def drawer(split):
    return random.Random(("train", "test").index(split)), []


def scenes_of(split, number=1500):
    """Return the first scenes that are drawn from a split; none is drawn twice, nor before it is asked for."""
    draw, scenes = drawer(split)
    scenes += [draw_scene(draw, split) for _ in range(number - len(scenes))]
    return scenes[:number]


# What scenes show, worked out anew: nothing below asks scenes or grammar.


def stands(thing, direction, other):
    """Whether, seen from `other`, `thing` lies in the quarter of the plane that `direction` names."""
    angle = math.degrees(math.atan2(other.y - thing.y, thing.x - other.x)) % 360
    middle = {"right of": 0, "above": 90, "left of": 180, "below": 270}[direction]
    return abs((angle - middle + 180) % 360 - 180) < 45


def combinations_of(scene):
    if len(scene.things) == 1:
        return {(scene.things[0].colour, scene.things[0].shape, "alone")}
    return {
        (thing.colour, thing.shape, direction)
        for thing, other in permutations(scene.things, 2)
        for direction in RELATIONS[:4]
        if stands(thing, direction, other)
    }


def words_of(text):
    return set(re.findall(r"[a-z]+", text.lower()))


# The split.


def test_a_fifth_is_held_out_and_every_part_is_known():
    assert len(HELD_OUT) * 5 == len(COLOURS) * len(SHAPES) * len(RELATIONS)
    for kept in ((0, 1), (0, 2), (1, 2)):
        choices = [(tuple(COLOURS), SHAPES, RELATIONS)[place] for place in kept]
        known = {
            (colour, shape, relation)[kept[0]] + "," + (colour, shape, relation)[kept[1]]
            for scene in scenes_of("train")
            for colour, shape, relation in nano_scenes.triples(scene)
        }
        assert known == {f"{first},{second}" for first in choices[0] for second in choices[1]}


def test_no_train_scene_has_a_held_out_combination_and_every_test_scene_has_one():
    shown = [combinations_of(scene) for scene in scenes_of("train")]
    assert not any(found & HELD_OUT for found in shown)
    assert all(combinations_of(scene) & HELD_OUT for scene in scenes_of("test"))
    assert set.union(*shown) == {(c, s, r) for c in COLOURS for s in SHAPES for r in RELATIONS} - HELD_OUT
    assert set.union(*map(combinations_of, scenes_of("test"))) >= HELD_OUT
    assert all(nano_scenes.triples(scene) == combinations_of(scene) for scene in scenes_of("train") + scenes_of("test"))


# Scenes.


@pytest.mark.parametrize("split", ["train", "test"])
def test_scenes_are_clear(split):
    scenes = scenes_of(split)
    assert {len(scene.things) for scene in scenes} == {1, 2, 3}
    for scene in scenes:
        names = {(thing.shape, thing.colour) for thing in scene.things}
        assert len(names) == len(scene.things)
        for thing in scene.things:
            assert min(thing.x, thing.y, 1 - thing.x, 1 - thing.y) > thing.radius
        for thing, other in combinations(scene.things, 2):
            across, down = abs(thing.x - other.x), abs(thing.y - other.y)
            assert math.hypot(across, down) > thing.radius + other.radius
            assert min(across, down) <= 0.5 * max(across, down)


@pytest.mark.parametrize("num_things", [1, 2, 3])
def test_number_of_things(num_things):
    draw = random.Random(3)
    for split in ("train", "test"):
        assert {len(draw_scene(draw, split, num_things).things) for _ in range(20)} == {num_things}


def test_seeds_govern_everything():
    assert draw_scenes("test", 30, 5) == draw_scenes("test", 30, 5) != draw_scenes("test", 30, 6)
    scene = scenes_of("train", 1)[0]
    first, second = ([nano_grammar.ask(scene, random.Random(seed)) for seed in range(30)] for _ in range(2))
    assert first == second
    assert len(set(first)) > 5
    assert np.array_equal(nano_scenes.render(scene, 96), nano_scenes.render(scene, 96))


def test_scenes_survive_json():
    for scene in scenes_of("train", 50):
        again = Scene.from_dict(json.loads(json.dumps(scene.to_dict())))
        assert again == scene
        assert hash(again) == hash(scene)


@pytest.mark.slow
def test_a_varied_scene_shows_the_same_things_elsewhere():
    draw = random.Random(0)
    for number in range(200):
        scene = draw_scene(draw, ("train", "test")[number % 2])
        varied = nano_scenes.vary(scene, draw)
        assert varied != scene
        assert set(nano_grammar.questions(varied)) == set(nano_grammar.questions(scene))
        assert nano_scenes.triples(varied) == nano_scenes.triples(scene)
        assert all(thing.radius <= at <= 1 - thing.radius for thing in varied.things for at in (thing.x, thing.y))
        for thing, other in combinations(varied.things, 2):
            assert math.hypot(thing.x - other.x, thing.y - other.y) > thing.radius + other.radius


@pytest.mark.parametrize("size", [64, 129, 256])
def test_images_show_the_things(size):
    for scene in scenes_of("train", 30):
        image = nano_scenes.render(scene, size)
        assert image.size == (size, size)
        assert image.mode == "RGB"
        pixels = np.asarray(image).astype(int)
        row, column = np.mgrid[:size, :size] / size
        far = np.ones((size, size), bool)
        for thing in scene.things:
            x, y = int(thing.x * size), int(thing.y * size)
            assert np.abs(pixels[y, x] - np.array(COLOURS[thing.colour])).max() <= 15
            # Beyond its shadow, and the pixels that its border only grazes.
            far &= np.hypot(column - thing.x, row - thing.y) > thing.radius + 0.018 + 1.5 / size
        assert np.all(pixels[far] == scene.background)


def test_nothing_is_drawn_outside_its_circle():
    for shape in SHAPES:
        radii = [math.hypot(x, y) for x, y in nano_scenes.OUTLINES[shape]]
        assert 0.85 < max(radii) <= 1.001


def test_colours_are_nearest_to_their_own_name():
    for thing in (thing for scene in scenes_of("train", 300) for thing in scene.things):
        shown = np.array(COLOURS[thing.colour]) + thing.tint
        distances = {name: np.linalg.norm(shown - np.array(colour)) for name, colour in COLOURS.items()}
        assert min(distances, key=distances.__getitem__) == thing.colour


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: draw_scene(random.Random(0), "validation"), '`split` must be "train" or "test", got \'validation\''),
        (lambda: draw_scene(random.Random(0), "train", 4), r"`num_things` must be in \[1, 3\], got 4"),
        (lambda: Thing("cube", "red", "big", 0.5, 0.5), "`shape` must be one of .*, got 'cube'"),
        (lambda: nano_scenes.render(scenes_of("train", 1)[0], 4), "`size` must be at least 8, got 4"),
        (lambda: nano_grammar.caption(draw_scene(random.Random(0), "train", 3)), "`scene` must be .*, got 3"),
        (lambda: nano_stamps.StampScene("unicorn", 0.5, 0.5, 0.3), "`stamp` must be one of .*, got 'unicorn'"),
        (lambda: nano_stamps.draw_stamp(random.Random(0), "all"), '`split` must be "train" or "test", got \'all\''),
        (lambda: nano_stamps.find_stamps(Path("none"), "clip art"), "`source` must be one of .*, got 'clip art'"),
    ],
)
def test_wrong_arguments_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


# Stamps.


def test_stamps_are_split_by_where_they_stand():
    draw = random.Random(0)
    seen = {split: {(s.stamp, nano_stamps.quadrant(s)) for s in stamps} for split, stamps in draw_stamps(draw).items()}
    assert seen["test"] == nano_stamps.HELD_OUT
    assert {stamp for stamp, _ in seen["test"]} == set(nano_stamps.STAMPS)
    every = {(stamp, place) for stamp in nano_stamps.STAMPS for place in nano_stamps.QUADRANTS}
    assert seen["train"] == every - nano_stamps.HELD_OUT


def draw_stamps(draw, number=2500):
    return {split: [nano_stamps.draw_stamp(draw, split) for _ in range(number)] for split in ("train", "test")}


def test_stamps_lie_on_the_canvas_and_survive_json():
    for scene in draw_stamps(random.Random(2), 200)["train"]:
        assert min(scene.x, scene.y, 1 - scene.x, 1 - scene.y) > scene.size / 2
        assert min(abs(scene.x - 0.5), abs(scene.y - 0.5)) > 0.03
        assert nano_stamps.StampScene.from_dict(json.loads(json.dumps(scene.to_dict()))) == scene


def test_stamps_are_named_with_the_right_article():
    known = nano_stamps.words()
    for stamp in nano_stamps.STAMPS:
        question = nano_stamps.ask(nano_stamps.StampScene(stamp, 0.3, 0.3, 0.4), random.Random(stamp))
        assert question.answer == f"It is {'an' if stamp[0] in 'aeiou' else 'a'} {stamp}."
        assert words_of(question.text) | words_of(question.answer) <= known


@pytest.mark.parametrize("source", ["emoji", "tuxpaint"])
def test_stamps_are_drawn(source):
    if not (PACKAGES / f"{nano_stamps.PACKAGES[source]}.done").exists():
        pytest.skip(f"no {nano_stamps.PACKAGES[source]} in {PACKAGES}")
    root = nano_stamps.find_stamps(PACKAGES, source)
    images = {}
    for stamp in nano_stamps.STAMPS:
        if source == "tuxpaint":
            file = root / nano_stamps.STAMPS_FOLDER / nano_stamps.TUX_PAINT[stamp]
            assert stamp in words_of(file.with_suffix(".txt").read_text("utf-8").splitlines()[0])
        scene = nano_stamps.StampScene(stamp, 0.3, 0.7, 0.4)
        image = nano_stamps.render(scene, root, 97, source)
        assert image.size == (97, 97)
        pixels = np.asarray(image)
        painted = np.any(pixels != scene.background, axis=-1)
        assert painted[48:, :49].sum() > 100
        assert not painted[:40].any()
        assert not painted[:, 57:].any()
        images[pixels.tobytes()] = stamp
    assert len(images) == len(nano_stamps.STAMPS)


def test_every_stamp_has_one_drawing_and_unknown_drawings_are_none_of_them():
    assert list(nano_stamps.STAMPS) == list(nano_stamps.TUX_PAINT)
    assert len(set(nano_stamps.STAMPS.values())) == len(nano_stamps.STAMPS)
    unknown = set(nano_stamps.emoji()) - set(nano_stamps.STAMPS.values())
    assert len(unknown) > 500
    for name in ("RED HEART", "LARGE RED CIRCLE", "CAT FACE", "UP-POINTING RED TRIANGLE", "GLOWING STAR"):
        found = {character for character in unknown if unicodedata.name(character) == name}
        assert not found, name
