"""Questions about the drawn world: every answer is right by another way of looking, and none is told by the words."""

import random
import re
from collections import Counter, defaultdict

import pytest
from nano_world import grammar as nano_grammar, scenes as nano_scenes, small_talk, wordings
from nano_world.scenes import COLOURS, HELD_OUT, SHAPES, SIZES, Scene, draw_scene
from test_nano_world import combinations_of, scenes_of, stands, words_of

NUMBERS = {"none": 0, "one": 1, "two": 2, "three": 3}
DIRECTIONS = {"left of": "left of", "right of": "right of", "above": "above", "over": "above"}
DIRECTIONS |= {"below": "below", "under": "below"}
ONE_COLOUR, ONE_SHAPE = "|".join(COLOURS), "|".join(SHAPES)


# What is asked, read by its key words alone: nothing below asks the grammar.


def named(text):
    """Return the things that a question names, such as "red star", "star" or "red thing", in order."""
    return [found.rstrip("s") for found in re.findall(rf"(?:(?:{ONE_COLOUR}) )?\b(?:{ONE_SHAPE}|thing)s?\b", text)]


def find_all(scene, words):
    """Return the things of a scene that these words fit."""
    return [
        thing for thing in scene.things if all(word in (thing.colour, thing.shape, "thing") for word in words.split())
    ]


def find(scene, words):
    """Return the only one."""
    (found,) = find_all(scene, words)
    return found


def direction_of(text):
    (found,) = re.findall(rf"\b({'|'.join(DIRECTIONS)})\b", text)
    return DIRECTIONS[found]


def say_number(number):
    word = {value: key for key, value in NUMBERS.items()}[number]
    return "There is one." if number == 1 else f"There are {word}."


def say_thing(thing):
    return f"It looks like {'an' if thing.colour == 'orange' else 'a'} {thing.colour} {thing.shape}."


def answer(scene, kind, text):
    """Return the right answer to a question, by its key words."""
    names = named(text)
    if kind == "colour":
        return f"It looks {find(scene, names[0]).colour}."
    if kind == "size":
        return f"It looks {find(scene, names[0]).size}."
    if kind == "shape":
        (colour,) = re.findall(rf"\b({ONE_COLOUR})\b", text)
        return f"It looks like a {find(scene, colour).shape}."
    if kind == "count":
        return say_number(len(find_all(scene, names[0])))
    if kind == "where":
        thing = find(scene, names[0])
        (other,) = (other for other in scene.things if other is not thing)
        (direction,) = (one for one in set(DIRECTIONS.values()) if stands(thing, one, other))
        return f"It is {direction} the {other.colour} {other.shape}."
    if kind == "what":
        other = find(scene, names[-1])
        return say_thing(
            next(one for one in scene.things if one is not other and stands(one, direction_of(text), other))
        )
    if kind == "yes_no":
        right = stands(find(scene, names[0]), direction_of(text), find(scene, names[1]))
        return "Yes, it is." if right else "No, it is not."
    if kind == "there":
        return "Yes, there is." if find_all(scene, names[0]) else "No, there is not."
    missing = [name for name in names if not find_all(scene, name)]
    if not missing:
        (colour,) = re.findall(rf"\b({ONE_COLOUR})\b", text)
        missing = [] if find_all(scene, colour) else [f"{colour} thing"]
    return f"I see no {missing[0]}."


# Questions.


def test_no_train_question_mentions_a_held_out_combination():
    for scene in scenes_of("train", 40):
        for question in nano_grammar.questions(scene):
            if question.kind == "yes_no":
                thing, other = (find(scene, name) for name in named(question.text))
                direction = direction_of(question.text)
                assert (thing.colour, thing.shape, direction) not in HELD_OUT
                assert (other.colour, other.shape, nano_scenes.OPPOSITES[direction]) not in HELD_OUT


@pytest.mark.parametrize("unseen", [False, True], ids=["training", "unseen"])
@pytest.mark.parametrize("split", ["train", "test"])
def test_every_answer_is_right_and_the_only_one(split, unseen):
    seen = Counter()
    for scene in scenes_of(split, 25):
        answers = defaultdict(set)
        for question in nano_grammar.questions(scene, unseen):
            assert question.answer == answer(scene, question.kind, question.text), question
            answers[question.text].add(question.answer)
            seen[question.kind] += 1
        assert all(len(found) == 1 for found in answers.values())
    assert set(seen) == set(nano_grammar.KINDS)


def test_pairs_are_right_in_all_phrases_and_differ_where_they_can():
    draw, same = random.Random(0), Counter()
    for scene in (*scenes_of("train", 400), *scenes_of("test", 400)):
        first, second = nano_grammar.ask_pair(scene, draw, unseen=draw.random() < 0.5)
        for question in (first, second):
            assert question.answer == answer(scene, question.kind, question.text), question
        same[first.kind] += first.answer == second.answer
        if {first.kind, second.kind} & {"where", "yes_no", "there"}:
            assert first.answer != second.answer
    assert same["what"] < 8


def test_wordings_of_the_test_are_never_learned():
    assert wordings.WORDINGS.keys() == wordings.UNSEEN.keys() == set(wordings.KINDS) - {"absent"}
    for kind, known in wordings.WORDINGS.items():
        unseen = wordings.UNSEEN[kind]
        assert len(set(known)) == len(known) >= 6
        assert len(unseen) >= 2
        assert not set(known) & set(unseen)
    for scene in scenes_of("test", 20):
        known, unseen = ({one.text for one in nano_grammar.questions(scene, unseen)} for unseen in (False, True))
        assert known
        assert not known & unseen


def test_directions_are_balanced_whatever_the_words():
    """Of both directions of an axis each is the answer as often, and yes as often as no."""
    draw, where, yes, axis = random.Random(1), Counter(), Counter(), Counter()
    for scene in 4 * scenes_of("train"):
        pair = nano_grammar.ask_pair(scene, draw)
        for question in pair if pair[0].kind == pair[1].kind else ():  # not one beside what is absent
            if question.kind == "where":
                where[re.match("It is (left of|right of|above|below)", question.answer)[1]] += 1
            if question.kind == "yes_no":
                yes[question.answer] += 1
                thing, other = (find(scene, name) for name in named(question.text)[:2])
                level = direction_of(question.text) in ("left of", "right of")
                directions = ("left of", "right of") if level else ("above", "below")
                axis[any(stands(thing, one, other) for one in directions)] += 1
    for first, second in (("left of", "right of"), ("above", "below")):
        assert where[first] == where[second] > 200  # both things of each scene are asked for
    assert yes["Yes, it is."] == yes["No, it is not."] > 300
    assert 0.9 < axis[True] / axis.total() < 0.99  # else yes would be as good a guess as any


def test_questions_are_short_and_answers_can_be_heard():
    known = nano_grammar.words()
    said = set()
    for scene in scenes_of("train", 20) + scenes_of("test", 20):
        for question in (*nano_grammar.questions(scene), *nano_grammar.questions(scene, unseen=True)):
            assert len(question.text) <= wordings.LONGEST_QUESTION
            assert len(question.answer.split()) >= 2
            assert "colour" not in question.answer
            said |= words_of(question.text) | words_of(question.answer)
    for asked, replied in small_talk.chats():
        assert len(replied.split()) >= 2
        said |= words_of(asked) | words_of(replied)
    assert known - said <= {"over", "under"}
    assert said <= known


def test_ask_draws_every_kind():
    draw = random.Random(0)
    scenes = [scene for scene in scenes_of("train") if len(scene.things) > 1]
    asked = [nano_grammar.ask(draw.choice(scenes), draw) for _ in range(1500)]
    kinds = Counter(question.kind for question in asked)
    assert set(kinds) == set(nano_grammar.KINDS)
    assert min(kinds.values()) > 0.04 * len(asked)
    numbers = Counter(question.answer.split()[2].rstrip(".") for question in asked if question.kind == "count")
    assert set(numbers) == set(NUMBERS)
    first, second = ([nano_grammar.ask(scenes[0], random.Random(seed)) for seed in range(30)] for _ in range(2))
    assert first == second
    assert len(set(first)) > 5


def test_a_kind_that_a_scene_has_not_is_refused():
    alone = draw_scene(random.Random(0), "train", 1)
    with pytest.raises(ValueError, match="`kind` must be one that the scene has questions of, got 'where'"):
        nano_grammar.ask(alone, random.Random(0), "where")


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
            found = re.fullmatch(rf"A {thing}\.", text).groups()
            parts = [found]
        else:
            found = re.fullmatch(rf"A {thing} (left of|above) a {thing}\.", text).groups()
            parts = [found[:3], found[4:]]
            first, second = (find(scene, " ".join(part[1:])) for part in parts)
            assert stands(first, found[3], second)
        assert {(thing.size, thing.colour, thing.shape) for thing in scene.things} == set(parts)


def test_small_talk_has_one_answer_each():
    pairs = small_talk.chats()
    assert len({asked for asked, _ in pairs}) == len(pairs) > 250
    assert small_talk.chat(random.Random(4)) == small_talk.chat(random.Random(4))
    assert small_talk.chat(random.Random(4)) in pairs
    assert all(asked[0].isupper() and asked[-1] in ".?" for asked, _ in pairs)
    assert all(answer[0].isupper() and answer[-1] == "." for _, answer in pairs)


def test_sums_and_orders_are_right():
    talk = dict(small_talk.chats())
    values = {number: value for value, number in enumerate(wordings.NUMBERS)} | {"zero": 0}
    sums = [re.fullmatch(r"What is (\w+) (plus|minus) (\w+)\?", asked) for asked in talk]
    for found in filter(None, sums):
        first, second = values[found[1]], values[found[3]]
        result = first + second if found[2] == "plus" else first - second
        assert values[re.fullmatch(r"It is (\w+)\.", talk[found[0]])[1]] == result
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
    drawn = {nano_grammar.caption(scene) for scene in scenes_of("train") if len(scene.things) < 3}
    layouts = [layout for num_things in (1, 2) for layout in nano_scenes.layouts("train", num_things)]
    assert drawn <= {nano_grammar.caption(nano_scenes.lay_out(layout)) for layout in layouts}


def test_two_hundred_hours_do_not_repeat():
    sizes = [nano_grammar.measure_world("train", num_things, 20) for num_things in (1, 2, 3)]
    assert sum(size.hours for size in sizes) > 200


def test_questions_of_a_layout_are_distinct():
    for layout in list(nano_scenes.layouts("train", 2))[::200]:
        asked = [question.text for question in nano_grammar.questions(nano_scenes.lay_out(layout))]
        assert len(set(asked)) == len(asked)
