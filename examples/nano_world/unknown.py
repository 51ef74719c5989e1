"""Things of other worlds, which are answered honestly: questions, images and audio that nobody taught.

| kind | what | where it is from |
| --- | --- | --- |
| questions | "What is an anvil?", "Who is Clara Hill?" | WordNet's nouns, names drawn here |
| `photo` | photographs and micrographs, cropped | scikit-image and scikit-learn, or `photos` beside the packages |
| `drawing` | drawings that are no stamp, on any ground | Noto Color Emoji (SIL Open Font License 1.1) |
| `texture` | stripes, checks, gradients, clouds, scribbles | made here |
| `static` | random pixels | made here |
| `silence`, `noise`, `music` | nothing, hiss and hum, tunes | made here |

Which split a question, photograph or drawing is in depends on nothing but its name.
"""

import hashlib
import random
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw
from recipes.debian import FetchError, fetch_package
from recipes.debian_texts import wordnet_entries

from nano_world.open_text import FIRST_NAMES, LAST_NAMES, PLACES
from nano_world.sentences import Split, split_of
from nano_world.stamps import STAMPS, draw_emoji, emoji, find_stamps
from nano_world.voices import SAMPLING_RATE
from nano_world.wordings import article

IMAGES = ("photo", "drawing", "texture", "static")
CLIPS = ("silence", "noise", "music")
QUESTIONS_ABOUT_IMAGES = ("What is this?", "What do you see?", "Tell me what this is.", "Describe the picture.")
SPLIT_ENDS = {"train": 0.65, "validation": 0.72, "test": 1.0}
_NOUN_FRAMES = (
    "What is {a} {noun}?",
    "Tell me about {a} {noun}.",
    "How does {a} {noun} work?",
    "Where can I buy {a} {noun}?",
    "How much does {a} {noun} cost?",
    "Why do people like the {noun}?",
    "Who made the first {noun}?",
    "Do you like the {noun}?",
)
_NAME_FRAMES = (
    "Who is {first} {last}?",
    "How old is {first}?",
    "Where does {first} {last} live?",
    "When was {first} born?",
    "What did {first} say?",
    "How do I get to {place}?",
    "What is the weather in {place}?",
    "How many people live in {place}?",
    "When did {first} go to {place}?",
    "What time is it in {place}?",
)


@cache
def unknown_questions(folder: Path, split: Split, count: int = 4000) -> tuple[str, ...]:
    """Return questions that have no answer here, in a fixed order.

    Args:
        folder (`Path`): Keeps the Debian packages.
        split (`"train"`, `"validation"` or `"test"`): Which.
        count (`int`): How many; more begin with the same ones.
    """
    entries = wordnet_entries(fetch_package("wordnet-base", folder))
    nouns = sorted({words[0] for words, _, _ in entries if words[0].isalpha() and words[0].islower()})
    nouns = [noun for noun in nouns if 3 < len(noun) < 11 and noun not in STAMPS]
    draw, found = random.Random("unknown questions"), {}
    while len(found) < count:
        noun, place = draw.choice(nouns), draw.choice(PLACES)
        names = {"first": draw.choice(FIRST_NAMES), "last": draw.choice(LAST_NAMES), "place": place}
        frame = draw.choice((_NOUN_FRAMES, _NAME_FRAMES)[draw.random() < 0.4])
        text = frame.format(noun=noun, a=article(noun), **names)
        if split_of(text) == split:
            found[text] = None
    return tuple(found)


def _split_of_name(name: str) -> Split:
    share = hashlib.blake2b(name.encode(), digest_size=1).digest()[0] / 256
    return next(split for split, end in SPLIT_ENDS.items() if share < end)  # type: ignore[return-value]


@cache
def photographs(packages: Path, split: Split) -> tuple[Path, ...]:
    """Return the files of photographs of a split.

    Raises:
        [`FetchError`]: There are none.
    """
    folders = [packages / "photos"]
    for package, folder in (("skimage", "data"), ("sklearn", "datasets/images")):
        spec = find_spec(package)
        if spec is not None and spec.origin is not None:
            folders.append(Path(spec.origin).parent / folder)
    found = {path.stem: path for folder in folders for path in sorted(folder.glob("*.[jp][pn]g"))}
    if not found:
        raise FetchError("The photographs come with scikit-image and scikit-learn: pip install 'josie[recipes]'.")
    return tuple(path for name, path in sorted(found.items()) if _split_of_name(name) == split)


@cache
def _drawings(split: Split) -> tuple[str, ...]:
    known = set(STAMPS.values())
    return tuple(one for one in emoji() if one not in known and _split_of_name(f"emoji {one}") == split)


def draw_image(draw: random.Random, kind: str, split: Split, packages: Path, size: int) -> Image.Image:
    """Return a random image of a kind, RGB, `size` pixels a side.

    Args:
        draw (`random.Random`): What chances come from.
        kind (`str`): One of `IMAGES`.
        split (`"train"`, `"validation"` or `"test"`): Of photographs and drawings.
        packages (`Path`): Keeps the Debian packages, which are downloaded once, and perhaps `photos`.
        size (`int`): Of the image.

    Raises:
        `ValueError`: There is no such kind.
    """
    rng = np.random.default_rng(draw.getrandbits(32))
    if kind == "photo":
        return _crop(draw, draw.choice(photographs(packages, split)), size)
    if kind == "drawing":
        ground = tuple(int(level) for level in rng.integers(160, 256, 3)) if draw.random() < 0.3 else (250, 250, 250)
        canvas = Image.new("RGB", (size, size), ground)
        drawn = draw_emoji(find_stamps(packages), draw.choice(_drawings(split)), round(size * draw.uniform(0.3, 0.9)))
        place = [draw.randint(0, max(size - side, 0)) for side in drawn.size]
        canvas.paste(drawn, (place[0], place[1]), drawn)
        return canvas
    if kind == "texture":
        return _texture(rng, size)
    if kind == "static":
        coarse = int(rng.choice([1, 2, 4, 8]))
        pixels = rng.integers(0, 256, (-(-size // coarse), -(-size // coarse), 1 if rng.random() < 0.3 else 3))
        pixels = np.broadcast_to(pixels, (*pixels.shape[:2], 3)).astype(np.uint8)
        return Image.fromarray(pixels.copy()).resize((size, size), Image.Resampling.NEAREST)
    raise ValueError(f"`kind` must be one of {list(IMAGES)}, got {kind!r}.")


@cache
def _open(path: Path) -> Image.Image:
    with Image.open(path) as image:
        image.thumbnail((400, 400))
        return image.convert("RGB")


def _crop(draw: random.Random, path: Path, size: int) -> Image.Image:
    image = _open(path)
    side = round(min(image.size) * draw.uniform(0.5, 1))
    left, top = (draw.randint(0, length - side) for length in image.size)
    cropped = image.crop((left, top, left + side, top + side)).resize((size, size))
    return cropped.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if draw.random() < 0.5 else cropped


def _texture(rng: np.random.Generator, size: int) -> Image.Image:
    first, second = rng.integers(0, 256, (2, 3))
    across, down = np.meshgrid(*[np.linspace(0, 1, size)] * 2)
    angle, waves = rng.uniform(0, 2 * np.pi), rng.uniform(2, 20)
    along = across * np.cos(angle) + down * np.sin(angle)
    kind = rng.integers(5)
    if kind == 0:  # gradient
        mix = (along - along.min()) / np.ptp(along)
    elif kind == 1:  # stripes
        mix = (np.sin(2 * np.pi * waves * along) > 0).astype(float)
    elif kind == 2:  # checks
        mix = ((across * waves).astype(int) + (down * waves).astype(int)) % 2
    elif kind == 3:  # clouds
        mix = sum(_blur(rng, cells, size) / cells**0.5 for cells in (3, 6, 12, 24))
        mix = (mix - mix.min()) / np.ptp(mix)
    else:
        return _scribble(rng, size, tuple(int(level) for level in first))
    return Image.fromarray((first + mix[..., None] * (second.astype(int) - first)).astype(np.uint8))


def _blur(rng: np.random.Generator, cells: int, size: int) -> np.ndarray:
    coarse = Image.fromarray(rng.random((cells, cells)).astype(np.float32))
    return np.asarray(coarse.resize((size, size), Image.Resampling.BICUBIC))


def _scribble(rng: np.random.Generator, size: int, ground: tuple[int, ...]) -> Image.Image:
    canvas = Image.new("RGB", (size, size), ground)
    pencil = ImageDraw.Draw(canvas)
    for _ in range(rng.integers(3, 30)):
        points = [tuple(point) for point in rng.integers(0, size, (rng.integers(2, 6), 2)).tolist()]
        pencil.line(points, fill=tuple(rng.integers(0, 256, 3).tolist()), width=int(rng.integers(1, size // 16)))
    return canvas


def draw_clip(draw: random.Random, kind: str) -> np.ndarray:
    """Return a random clip of a kind, `(num_samples,)`, float32 at 16 kHz, 1 to 3 seconds.

    Raises:
        `ValueError`: There is no such kind.
    """
    rng = np.random.default_rng(draw.getrandbits(32))
    count = round(draw.uniform(1, 3) * SAMPLING_RATE)
    if kind == "silence":
        samples = rng.standard_normal(count) * draw.choice((0, 1e-5, 1e-4))
    elif kind == "noise":
        spectrum = np.fft.rfft(rng.standard_normal(count))
        slope = draw.uniform(-1.2, 0.3)  # white, pink, brown
        spectrum *= np.maximum(np.arange(len(spectrum)), 1) ** slope
        samples = np.fft.irfft(spectrum, count)
        beats = 1 + draw.uniform(0, 0.8) * np.sin(2 * np.pi * draw.uniform(0.3, 12) * np.arange(count) / SAMPLING_RATE)
        samples = samples * beats * draw.uniform(0.02, 0.5) / np.abs(samples * beats).max()
    elif kind == "music":
        samples = sum(_play(draw, count) for _ in range(draw.choice((1, 1, 2, 3))))
        samples = samples * draw.uniform(0.1, 0.6) / np.abs(samples).max()
    else:
        raise ValueError(f"`kind` must be one of {list(CLIPS)}, got {kind!r}.")
    return samples.astype(np.float32)


def _play(draw: random.Random, count: int) -> np.ndarray:
    """Return a tune of an instrument that is made up."""
    overtones = [draw.random() / number for number in range(1, draw.randint(2, 9))]
    scale, root = draw.choice(((0, 2, 4, 5, 7, 9, 11), (0, 2, 3, 5, 7, 8, 10), (0, 3, 5, 7, 10))), draw.uniform(80, 500)
    length, fade = round(SAMPLING_RATE * draw.uniform(0.1, 0.6)), draw.uniform(1, 12)
    samples = np.zeros(count)
    for begin in range(0, count, length):
        time = np.arange(min(length, count - begin)) / SAMPLING_RATE
        pitch = root * 2 ** (draw.choice(scale) / 12)
        note = sum(size * np.sin(2 * np.pi * pitch * number * time) for number, size in enumerate(overtones, 1))
        samples[begin : begin + length] = note * np.exp(-fade * time) * np.minimum(time * 100, 1)
    return samples
