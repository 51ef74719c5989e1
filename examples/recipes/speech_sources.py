"""Sources of speech in Debian packages: from unpacked files, or a program, to clips."""

import gzip
import hashlib
import re
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from recipes.debian import require_tool
from recipes.debian_texts import bible, wordnet
from recipes.word_times import time_text

VOICES = ("slt", "rms", "awb", "kal16")
_WORD = re.compile(r"[a-z']+")
_DIALOGUE = re.compile(
    r'dialogId\("(?P<name>[^"]*)",\s*"font_(?P<font>[^"]*)",\s*"(?:[^"\\]|\\.)*"\)\s*dialogStr\("(?P<text>(?:[^"\\]|\\.)*)"\)'
)


@dataclass(frozen=True)
class Clip:
    """One clip of a source.

    The function returns what else the manifest has of it.

    Args:
        name (`str`): Within the source.
        text (`str`, *optional*): What is said, where it is known.
        language (`str`): Two letters.
        speaker (`str`): Who says it.
        audio (`Path` or `Callable`): A file, or a function that writes one as WAV to a path and returns what else the
            manifest has of the clip.
    """

    name: str
    text: str | None
    language: str
    speaker: str
    audio: Path | Callable[[Path], dict[str, Any]]


def asterisk(root: Path, options: dict[str, Any], scratch: Path) -> Iterator[Clip]:
    """Yield the prompts of Asterisk. Tones, silence and what is no speech are left out.

    Args:
        root, options, scratch: As of [`Source`].
    """
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
    """Yield the dialogues of Fish Fillets in the language that ends the source's name.

    Args:
        root, options, scratch: As of [`Source`].
    """
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
    """Yield the spoken captions of Tux Paint's stamps, in all languages or in `languages` only.

    Args:
        root, options, scratch: As of [`Source`].
    """
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
    """Yield sentences spoken by flite.

    Args:
        root (`Path`): Of the unpacked packages.
        options (`dict`): `num_clips` (3000); `voices`, in turn; `stretch`, how many times as slow, where a voice does
            not say so itself (`rms@1.2`); `max_characters` (160) of a sentence; `num_words`, the most frequent ones, to
            which sentences are limited; `timed`, whether to keep [`recipes.word_times.time_text`] as `word_times`.
        scratch (`Path`): For files on the way.
    """
    command = require_tool("flite", "flite")
    voices, stretch = options.get("voices", VOICES), float(options.get("stretch", 1.0))
    timing = ["-psdur"] if options.get("timed") else []

    def speak(text: str, voice: str, target: Path) -> dict[str, Any]:
        name, _, own = voice.partition("@")
        duration = f"duration_stretch={float(own or stretch)}"
        said = _run([command, "-voice", name, "--setf", duration, *timing, "-t", text, "-o", target])
        if not timing:
            return {}
        phones, ends = zip(*(phone.split(":") for phone in said.split()), strict=True)
        return {"word_times": time_text(text, phones, [float(end) for end in ends])}

    for number, text in enumerate(_choose_sentences(root, options)):
        voice = voices[number % len(voices)]
        name = f"{voice}/{number:06d}"
        yield Clip(name, text, "en", f"flite-{voice}", partial(speak, text, voice))


def _choose_sentences(root: Path, options: dict[str, Any]) -> list[str]:
    """Return sentences; which ones depends on nothing but their text, and more of them begin with the same."""
    ranked = {}
    for text in (*bible(root), *(re.sub(r"\(.*?\)", "", gloss).partition(";")[0] for gloss in wordnet(root))):
        text = " ".join(text.split())
        if 20 <= len(text) <= options.get("max_characters", 160) and re.fullmatch(r"[A-Za-z',.:?! -]+", text):
            ranked[sentence_key(text)] = text
    if options.get("num_words") is not None:
        counts = Counter(word for text in ranked.values() for word in set(_WORD.findall(text.lower())))
        common = {word for word, _ in counts.most_common(options["num_words"])}
        ranked = {key: text for key, text in ranked.items() if common.issuperset(_WORD.findall(text.lower()))}
    chosen = sorted(ranked, key=lambda key: hashlib.blake2b(key.encode()).digest())
    return [ranked[key] for key in chosen[: options.get("num_clips", 3000)]]


def pocketsphinx(root: Path, options: dict[str, Any], scratch: Path) -> Iterator[Clip]:
    """Yield the test recordings of Pocketsphinx: a reader of LibriVox, and a man who names playing cards.

    Args:
        root, options, scratch: As of [`Source`].
    """
    data = root / "usr/share/pocketsphinx/test/data"
    for folder, file, speaker in (("librivox", "transcription", "librivox"), ("cards", "cards.transcription", "cards")):
        for line in (data / folder / file).read_text(encoding="utf-8").splitlines():
            found = re.fullmatch(r"(?:<s>)?\s*(.*?)\s*(?:</s>)?\s*\((.*)\)", line)
            if found:
                yield Clip(f"{folder}/{found[2]}", found[1], "en", speaker, data / folder / f"{found[2]}.wav")


@dataclass(frozen=True)
class Source:
    """Origin of the clips of a source: Debian packages, and a function from the folder of their unpacked files.

    The function also takes the source as the configuration has it, and a folder for what it makes on the way.

    Args:
        packages (`tuple[str, ...]`): Debian packages.
        licence (`str`): Of the clips.
        clips (`Callable`): Yields them. It takes `root`, the folder of the unpacked packages; `options`, the source as
            the configuration has it; and `scratch`, a folder for what it makes on the way.
        options (`tuple[str, ...]`): Names of the options that it reads.
    """

    packages: tuple[str, ...]
    licence: str
    clips: Callable[[Path, dict[str, Any], Path], Iterator[Clip]]
    options: tuple[str, ...] = ()


_FISH = "GPL-2 (Fish Fillets)"
SOURCES = {
    "asterisk": Source(
        ("asterisk-core-sounds-en-g722", "asterisk-core-sounds-en"), "CC-BY-SA-3.0 (Asterisk core sounds)", asterisk
    ),
    "fillets-nl": Source(("fillets-ng-data-nl", "fillets-ng-data"), _FISH, fillets),
    "fillets-cs": Source(("fillets-ng-data-cs", "fillets-ng-data"), _FISH, fillets),
    "tuxpaint": Source(("tuxpaint-stamps-default",), "GPL-2 (Tux Paint stamps)", tuxpaint, ("languages",)),
    "flite": Source(
        ("bible-kjv", "bible-kjv-text", "wordnet-base"),
        "flite's free licence; sentences of the King James Bible (public domain) and WordNet (WordNet licence)",
        flite,
        ("num_clips", "voices", "stretch", "max_characters", "num_words", "timed"),
    ),
    "pocketsphinx": Source(
        ("pocketsphinx-testdata",), "BSD-2-Clause (Pocketsphinx); LibriVox (public domain)", pocketsphinx
    ),
}


def sentence_key(text: str) -> str:
    """Return the letters and digits of a sentence: what is the same in two of its spellings."""
    return "".join(character for character in text.casefold() if character.isalnum())


def _run(command: list[Any]) -> str:
    """Run a program and return what it prints."""
    arguments = [str(part) for part in command]
    return subprocess.run(arguments, stdin=subprocess.DEVNULL, capture_output=True, check=True, text=True).stdout
