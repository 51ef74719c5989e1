"""The drawn world: its split holds, every answer is right by another way of looking, every question has only one."""

import json
import math
import random
import re
from collections import Counter, defaultdict
from itertools import combinations, permutations
from pathlib import Path

import numpy as np
import pytest
from nano_world import grammar as nano_grammar, scenes as nano_scenes, stamps as nano_stamps
from nano_world.scenes import COLOURS, HELD_OUT, RELATIONS, SHAPES, SIZES, Scene, Thing, draw_scene

ROOT = Path(__file__).resolve().parents[1]

STAMPS_FOLDER = ROOT / "runs" / "data" / "debian" / "root" / nano_stamps.STAMPS_FOLDER
NUMBERS = {"none": 0, "one": 1, "two": 2, "three": 3}


def draw_scenes(split, number, seed=0):
    draw = random.Random(seed)
    return [draw_scene(draw, split) for _ in range(number)]


TRAIN, TEST = draw_scenes("train", 1500), draw_scenes("test", 1500, 1)


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


def find(scene, words):
    """Return the only thing that these words, such as "red star" or "small", fit."""
    found = [
        thing
        for thing in scene.things
        if all(word in (thing.colour, thing.shape, thing.size, "thing") for word in words.split())
    ]
    assert len(found) == 1, words
    return found[0]


def match(pattern, text):
    found = re.fullmatch(pattern, text)
    assert found, (pattern, text)
    return found.groups()


DIRECTION = "(left of|right of|above|below)"


def answer_colour(scene, text):
    words = match(r"(?:What colour is|Which colour is|Tell me the colour of) the (.+)[?.]", text)[0]
    return f"It looks {find(scene, words).colour}."


def answer_size(scene, text):
    words = match(r"(?:How big is|What size is|Is) the (.+?)(?: big or small)?\?", text)[0]
    return f"It looks {find(scene, words).size}."


def answer_shape(scene, text):
    words = match(r"(?:What is|Which shape is|What is the) (\w+)(?: thing)?\?", text)[0]
    shape = find(scene, words).shape
    return f"It looks like a {shape}."


def answer_count(scene, text):
    plural = match(r"(?:How many (\w+) (?:are there|do you see)\?|Count the (\w+)\.)", text)
    (plural,) = filter(None, plural)
    number = len(scene.things) if plural == "things" else sum(f"{thing.shape}s" == plural for thing in scene.things)
    word = {value: key for key, value in NUMBERS.items()}[number]
    return "There is one." if number == 1 else f"There are {word}."


def answer_where(scene, text):
    words = match(r"Where (?:is|do you see) the (.+)\?", text)[0]
    thing = find(scene, words)
    (other,) = (other for other in scene.things if other is not thing)
    (direction,) = (direction for direction in RELATIONS[:4] if stands(thing, direction, other))
    return f"It is {direction} the {other.colour} {other.shape}."


def answer_what(scene, text):
    direction, words = match(rf"What (?:is|do you see) {DIRECTION} the (.+)\?", text)
    other = find(scene, words)
    (thing,) = (thing for thing in scene.things if thing is not other and stands(thing, direction, other))
    return f"It looks like {'an' if thing.colour == 'orange' else 'a'} {thing.colour} {thing.shape}."


def answer_yes_no(scene, text):
    words, direction, others = match(rf"Is the (.+) {DIRECTION} the (.+)\?", text)
    return "Yes, it is." if stands(find(scene, words), direction, find(scene, others)) else "No, it is not."


def words_of(text):
    return set(re.findall(r"[a-z]+", text.lower()))


# The split.


def test_a_fifth_is_held_out_and_every_part_is_known():
    assert len(HELD_OUT) * 5 == len(COLOURS) * len(SHAPES) * len(RELATIONS)
    for kept in ((0, 1), (0, 2), (1, 2)):
        choices = [(tuple(COLOURS), SHAPES, RELATIONS)[place] for place in kept]
        known = {
            (colour, shape, relation)[kept[0]] + "," + (colour, shape, relation)[kept[1]]
            for scene in TRAIN
            for colour, shape, relation in nano_scenes.triples(scene)
        }
        assert known == {f"{first},{second}" for first in choices[0] for second in choices[1]}


def test_no_train_scene_has_a_held_out_combination_and_every_test_scene_has_one():
    shown = [combinations_of(scene) for scene in TRAIN]
    assert not any(found & HELD_OUT for found in shown)
    assert all(combinations_of(scene) & HELD_OUT for scene in TEST)
    assert set.union(*shown) == {(c, s, r) for c in COLOURS for s in SHAPES for r in RELATIONS} - HELD_OUT
    assert set.union(*map(combinations_of, TEST)) >= HELD_OUT
    assert all(nano_scenes.triples(scene) == combinations_of(scene) for scene in TRAIN + TEST)


def test_no_train_question_mentions_a_held_out_combination():
    for scene in TRAIN:
        for question in nano_grammar.questions(scene):
            if question.kind == "yes_no":
                words, direction, others = match(rf"Is the (.+) {DIRECTION} the (.+)\?", question.text)
                thing, other = find(scene, words), find(scene, others)
                assert (thing.colour, thing.shape, direction) not in HELD_OUT
                assert (other.colour, other.shape, nano_scenes.OPPOSITES[direction]) not in HELD_OUT


# Scenes.


@pytest.mark.parametrize("scenes", [TRAIN, TEST], ids=["train", "test"])
def test_scenes_are_clear(scenes):
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
    scene = TRAIN[0]
    first, second = ([nano_grammar.ask(scene, random.Random(seed)) for seed in range(30)] for _ in range(2))
    assert first == second
    assert len(set(first)) > 5
    assert np.array_equal(nano_scenes.render(scene, 96), nano_scenes.render(scene, 96))


def test_scenes_survive_json():
    for scene in TRAIN[:50]:
        again = Scene.from_dict(json.loads(json.dumps(scene.to_dict())))
        assert again == scene
        assert hash(again) == hash(scene)


@pytest.mark.parametrize("size", [64, 129, 256])
def test_images_show_the_things(size):
    for scene in TRAIN[:30]:
        picture = nano_scenes.render(scene, size)
        assert picture.size == (size, size)
        assert picture.mode == "RGB"
        pixels = np.asarray(picture).astype(int)
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
    for thing in (thing for scene in TRAIN[:300] for thing in scene.things):
        shown = np.array(COLOURS[thing.colour]) + thing.tint
        distances = {name: np.linalg.norm(shown - np.array(colour)) for name, colour in COLOURS.items()}
        assert min(distances, key=distances.__getitem__) == thing.colour


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: draw_scene(random.Random(0), "validation"), '`split` must be "train" or "test", got \'validation\''),
        (lambda: draw_scene(random.Random(0), "train", 4), r"`num_things` must be in \[1, 3\], got 4"),
        (lambda: Thing("cube", "red", "big", 0.5, 0.5), "`shape` must be one of .*, got 'cube'"),
        (lambda: nano_scenes.render(TRAIN[0], 4), "`size` must be at least 8, got 4"),
        (lambda: nano_grammar.caption(draw_scene(random.Random(0), "train", 3)), "`scene` must be .*, got 3"),
        (lambda: nano_stamps.StampScene("unicorn", 0.5, 0.5, 0.3), "`stamp` must be one of .*, got 'unicorn'"),
        (lambda: nano_stamps.draw_stamp(random.Random(0), "all"), '`split` must be "train" or "test", got \'all\''),
    ],
)
def test_wrong_arguments_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


# Questions.


@pytest.mark.parametrize("scenes", [TRAIN[:500], TEST[:500]], ids=["train", "test"])
def test_every_answer_is_right_and_the_only_one(scenes):
    seen = Counter()
    for scene in scenes:
        answers = defaultdict(set)
        for question in nano_grammar.questions(scene):
            assert question.answer == globals()[f"answer_{question.kind}"](scene, question.text)
            answers[question.text].add(question.answer)
            seen[question.kind] += 1
        assert all(len(found) == 1 for found in answers.values())
    assert set(seen) == set(nano_grammar.KINDS)


def test_questions_are_short_and_answers_can_be_heard():
    known = nano_grammar.words()
    said = set()
    for scene in TRAIN[:500] + TEST[:500]:
        for question in nano_grammar.questions(scene):
            assert len(question.text) <= nano_grammar.LONGEST_QUESTION
            assert len(question.answer.split()) >= 2
            assert "colour" not in question.answer
            said |= words_of(question.text) | words_of(question.answer)
    for asked, answer in nano_grammar.chats():
        assert len(answer.split()) >= 2
        said |= words_of(asked) | words_of(answer)
    assert said == known


def test_ask_is_balanced():
    draw = random.Random(0)
    scenes = [scene for scene in TRAIN if len(scene.things) > 1]
    asked = [nano_grammar.ask(draw.choice(scenes), draw) for _ in range(4000)]
    kinds = Counter(question.kind for question in asked)
    assert set(kinds) == set(nano_grammar.KINDS)
    assert min(kinds.values()) > 0.05 * len(asked)
    answers = Counter(question.answer for question in asked if question.kind == "yes_no")
    assert set(answers) == {"Yes, it is.", "No, it is not."}
    assert abs(answers["Yes, it is."] / answers.total() - 0.5) < 0.1
    numbers = Counter(question.answer.split()[2].rstrip(".") for question in asked if question.kind == "count")
    assert set(numbers) == set(NUMBERS)


def test_the_words_of_a_yes_or_no_question_do_not_tell_the_answer():
    """Of the directions asked about, each is as often right, whatever the scene."""
    answers = defaultdict(Counter)
    for scene in TEST:
        for question in nano_grammar.questions(scene):
            if question.kind == "yes_no":
                direction = match(rf"Is the .+ {DIRECTION} the .+", question.text)[0]
                answers[direction][question.answer] += 1
    shares = [counts["Yes, it is."] / counts.total() for counts in answers.values()]
    assert len(shares) == 4
    assert max(shares) - min(shares) < 0.12


@pytest.mark.parametrize("num_things", [1, 2])
def test_captions_say_all_there_is(num_things):
    draw = random.Random(1)
    size, colour, shape = "(" + "|".join(SIZES) + ")", "(" + "|".join(COLOURS) + ")", "(" + "|".join(SHAPES) + ")"
    for split in ("train", "test") * 100:
        scene = draw_scene(draw, split, num_things)
        text = nano_grammar.caption(scene)
        assert text == nano_grammar.caption(Scene(scene.things[::-1], scene.background))
        thing = rf"{size} {colour} {shape}"
        if num_things == 1:
            found = match(rf"A {thing}\.", text)
            parts = [found]
        else:
            found = match(rf"A {thing} (left of|above) a {thing}\.", text)
            parts = [found[:3], found[4:]]
            first, second = (find(scene, " ".join(part)) for part in parts)
            assert stands(first, found[3], second)
        assert {(thing.size, thing.colour, thing.shape) for thing in scene.things} == set(parts)


def test_small_talk_has_one_answer_each():
    pairs = nano_grammar.chats()
    assert len({asked for asked, _ in pairs}) == len(pairs) > 250
    assert nano_grammar.chat(random.Random(4)) == nano_grammar.chat(random.Random(4))
    assert nano_grammar.chat(random.Random(4)) in pairs
    assert all(asked[0].isupper() and asked[-1] in ".?" for asked, _ in pairs)
    assert all(answer[0].isupper() and answer[-1] == "." for _, answer in pairs)


def test_sums_and_orders_are_right():
    talk = dict(nano_grammar.chats())
    values = {number: value for value, number in enumerate(nano_grammar.NUMBERS)} | {"zero": 0}
    sums = [re.fullmatch(r"What is (\w+) (plus|minus) (\w+)\?", asked) for asked in talk]
    for found in filter(None, sums):
        first, second = values[found[1]], values[found[3]]
        result = first + second if found[2] == "plus" else first - second
        assert values[match(r"It is (\w+)\.", talk[found[0]])[0]] == result
    assert sum(map(bool, sums)) > 80
    assert talk["Which day comes after Sunday?"] == "Monday comes after Sunday."
    assert talk["Which month comes before January?"] == "December comes before January."
    assert talk["What comes before ten?"] == "Nine comes before ten."


# How much there is.


def test_layouts_are_distinct_and_of_their_split():
    for split in ("train", "test"):
        for num_things in (1, 2):
            layouts = list(nano_scenes.layouts(split, num_things))
            assert len(set(layouts)) == len(layouts)
            scenes = [nano_scenes.lay_out(layout) for layout in layouts]
            assert len(set(map(nano_grammar.caption, scenes))) == len(layouts)
            assert all(bool(combinations_of(scene) & HELD_OUT) == (split == "test") for scene in scenes)
    drawn = {nano_grammar.caption(scene) for scene in TRAIN if len(scene.things) < 3}
    layouts = [layout for num_things in (1, 2) for layout in nano_scenes.layouts("train", num_things)]
    assert drawn <= {nano_grammar.caption(nano_scenes.lay_out(layout)) for layout in layouts}


def test_two_hundred_hours_do_not_repeat():
    sizes = [nano_grammar.measure_world("train", num_things, 100) for num_things in (1, 2, 3)]
    assert sum(size.hours for size in sizes) > 200


def test_questions_of_a_layout_are_distinct():
    for layout in list(nano_scenes.layouts("train", 2))[::40]:
        asked = [question.text for question in nano_grammar.questions(nano_scenes.lay_out(layout))]
        assert len(set(asked)) == len(asked)


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


@pytest.mark.skipif(not STAMPS_FOLDER.exists(), reason=f"no {nano_stamps.PACKAGE} in {STAMPS_FOLDER}")
def test_stamps_are_what_they_are_called():
    pictures = {}
    for stamp, file in nano_stamps.STAMPS.items():
        text = (STAMPS_FOLDER / file).with_suffix(".txt").read_text("utf-8").splitlines()[0]
        assert stamp in words_of(text)
        scene = nano_stamps.StampScene(stamp, 0.3, 0.7, 0.4)
        picture = nano_stamps.render(scene, STAMPS_FOLDER, 97)
        assert picture.size == (97, 97)
        pixels = np.asarray(picture)
        painted = np.any(pixels != scene.background, axis=-1)
        assert painted[48:, :49].sum() > 100
        assert not painted[:40].any()
        assert not painted[:, 57:].any()
        pictures[pixels.tobytes()] = stamp
        mirrored = nano_stamps.StampScene(stamp, 0.3, 0.7, 0.4, mirrored=True)
        assert not np.array_equal(np.asarray(nano_stamps.render(mirrored, STAMPS_FOLDER, 97)), pixels)
    assert len(pictures) == len(nano_stamps.STAMPS)
