"""Images for the JOVIO recipe: damaged manifests, short clips, crops at the edge, groups and splits."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from recipes import image_data, image_sources


def test_short_clips_are_not_drawn_for_long_crops(tmp_path):
    clips = []
    for frames in (5, 2, 4):
        np.save(tmp_path / f"{frames}.npy", np.full((frames, 9, 9, 3), 10 * frames, np.uint8))
        shape = [frames, 9, 9, 3]
        clips.append(image_data.StoredImage(f"{frames}.npy", "video", "", "CC0", "one" if frames < 5 else "two", shape))
    data = image_data.ImageDataArguments(str(tmp_path), shapes=[[1, 8, 8], [3, 8, 8], [6, 8, 8]], weights={"video": 1})
    crops = image_data.RandomCrops(data, clips, 60)
    assert crops.most_frames == 5
    drawn = [(len(crop["pixel_values"]), round(float(crop["pixel_values"].mean()) * 25.5)) for crop in crops]
    assert set(drawn) == {(1, 2), (1, 4), (1, 5), (3, 4), (3, 5)}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"images": [', "`data.folder` must have a manifest of JSON, got '{path}': Expecting value: line 1 column 13"),
        ("[]", "`data.folder` must have a manifest with a list of `images`, got '{path}' without."),
        ('{"images": [{"file": "a.npy"}]}', "An image of '{path}' must have ['file', 'source', 'origin', 'licence', "),
        ('{"images": [3]}', ", 'author'], got 3."),
        (
            '{"images": [{"split": "dev"}]}',
            "and a `split` of ['train', 'test', 'validation'], got [1, 2, 2, 3] and 'dev'.",
        ),
        ('{"images": [{"shape": [2, 2, 3]}]}', "must have a `shape` of frames, height, width and 3, and a `split`"),
    ],
)
def test_damaged_manifests_are_named(tmp_path, content, message):
    path = tmp_path / image_data.MANIFEST_FILE
    whole = dict.fromkeys(("file", "source", "origin", "licence", "group"), "") | {"shape": [1, 2, 2, 3]}
    if "split" in content or "shape" in content:
        content = json.dumps({"images": [whole | json.loads(content)["images"][0]]})
    path.write_text(content)
    with pytest.raises(ValueError, match=re.escape(message.replace("{path}", str(path)))):
        image_data.load_images(image_data.ImageDataArguments(str(tmp_path)))


def test_only_stamps_reach_beyond_their_image():
    black = np.zeros((2, 20, 11, 3), np.uint8)
    with_margin = [image_data.cut(black, 16, 24, True, np.random.default_rng(seed)) for seed in range(40)]
    inside = [image_data.cut(black, 16, 24, False, np.random.default_rng(seed)) for seed in range(40)]
    assert all(crop.shape == (2, 16, 24, 3) for crop in with_margin + inside)
    assert any(crop.max() > 200 for crop in with_margin)
    assert all(crop.max() == 0 for crop in inside)


def test_splits_have_their_shares_and_never_change():
    splits = [image_data.choose_split(f"group-{index}") for index in range(2000)]
    assert splits == [image_data.choose_split(f"group-{index}") for index in range(2000)]
    for split, share in image_data.SPLITS.items():
        assert abs(splits.count(split) / 2000 - share) < 0.02
    clips = [image_data.split_clip(index, 40) for index in range(40)]
    assert clips == ["train"] * 34 + ["validation"] * 2 + ["test"] * 4


@pytest.mark.parametrize(
    ("first", "second", "are_alike"),
    [
        ("animals/bat_left.png", "animals/bat_right.png", True),
        ("animals/flower9.png", "animals/flower10.png", True),
        ("town/blueflag.png", "town/redflag.png", False),  # seen by their thumbnails, not by their names
        ("town/flag_blue.png", "town/flag_red.png", True),
        ("symbols/chess/b_2_queen.png", "symbols/chess/w_4_knight.png", True),
        ("animals/bat.png", "food/bat.png", False),
        ("animals/cat.png", "animals/dog.png", False),
    ],
)
def test_versions_of_a_stamp_share_a_group(first, second, are_alike):
    groups = [image_sources.name_group(Path("/stamps", name), Path("/stamps")) for name in (first, second)]
    assert (groups[0] == groups[1]) == are_alike
