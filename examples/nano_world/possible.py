"""All that JOSIE may say about training scenes and in small talk."""

import random
from functools import cache

from nano_world.grammar import caption, observe
from nano_world.scenes import draw_scene
from nano_world.small_talk import chats
from nano_world.wordings import KINDS, UNKNOWN

_NUM_CENSUS_SCENES = 30000  # as many as show all but the rarest answers
_NUM_CAPTIONS = 2000


def possible_answers() -> list[str]:
    """Return the answers of small talk, and those about training scenes in a mixed order."""
    return [*sorted({answer for _, answer in chats()}), UNKNOWN, *_census()[0]]


def possible_captions() -> list[str]:
    """Return many captions of training scenes, in a mixed order."""
    return _census()[1][:_NUM_CAPTIONS]


@cache
def _census() -> tuple[list[str], list[str]]:
    """Return the answers and captions of many training scenes."""
    draw, mix = random.Random(1), random.Random(0)
    scenes = [draw_scene(draw, "train") for _ in range(_NUM_CENSUS_SCENES)]
    captions = sorted({caption(scene) for scene in scenes if len(scene.things) < 3})
    answers = sorted({seen.answer for scene in scenes for kind in KINDS for seen in observe(scene, kind)})
    for found in (captions, answers):
        mix.shuffle(found)
    return answers, captions
