"""All that is heard in training: what voices and people say, recorded once.

| set | what | of each voice and round |
| --- | --- | --- |
| `questions` | questions about scenes, as often as scenes have them | 800 |
| `sentences` | sentences, verses and sayings, other ones for each voice | 500 |
| `chats` | small talk | all, in the first round |
| `unknown` | questions that have no answer here | 150 |
| `halves` | questions in two parts, between which somebody thinks | 400 of them |
| `nods` | what is said over an answer | all, in the first round |

    python examples/make_nano.py voices --rounds 4

Each round is a file for each voice and set, made with the first rounds first: a recording that is stopped goes on with
the same command, and training can begin with the rounds there are. Round by round nobody says a text twice.
"""

import hashlib
import logging
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from datasets import Dataset
from recipes.debian import fetch_package
from recipes.speech_data import SpeechDataArguments, prepare_speech, read_manifest

from josie.processing_josie import load_audio
from nano_world.duplex import NODS, halves, place_of
from nano_world.grammar import Question, ask_pair
from nano_world.open_text import open_texts
from nano_world.possible import possible_answers
from nano_world.scenes import Scene, draw_scene
from nano_world.sentences import Split, choose_rank, sentences
from nano_world.small_talk import chats
from nano_world.speech import JOSIE_STRETCH, JOSIE_VOICE, Recordings, asked
from nano_world.unknown import unknown_questions
from nano_world.voices import SAMPLING_RATE, TRAINING, VALIDATION, Voice
from nano_world.wordings import PHRASES, WORDINGS

SETS = ("questions", "sentences", "chats", "unknown", "halves", "nods")
SIZES = {"questions": 800, "sentences": 500, "unknown": 150, "halves": 400}
ONCE = ("chats", "nods")  # in the first round alone
KINDS_OF_TEXT = ("example", "verse", "fortune")  # of open text, beside plain sentences
MAX_SECONDS = 8.0  # of a clip of people: two of them and what they say fit into the context
PEOPLE = SpeechDataArguments(
    sources=[{"name": "asterisk"}], sampling_rate=SAMPLING_RATE, validation_share=0.05, test_share=0.1
)
# Files are of the world that they were made for.
WORLD = hashlib.blake2b(repr((WORDINGS, PHRASES, sorted(chats()))).encode(), digest_size=4).hexdigest()

Pair = tuple[Scene, tuple[Question, Question]]

logger = logging.getLogger("josie.examples.nano_world.hearing")


@dataclass(frozen=True)
class HeardSpeech:
    """Recordings of a split.

    Args:
        packages (`Path`): Folder of unpacked Debian packages.
        recordings (`Path`): Folder of recorded speech.
        split (`"train"` or `"validation"`): Of voices, sentences and people.
        rounds (`int`): How many rounds of each voice.
        num_voices (`int`, *optional*): Only the first of them.
    """

    packages: Path
    recordings: Path
    split: Split = "train"
    rounds: int = 4
    num_voices: int | None = None

    @property
    def voices(self) -> tuple[Voice, ...]:
        """The voices of the split."""
        return (TRAINING if self.split == "train" else VALIDATION)[: self.num_voices]

    def record(self) -> int:
        """Record what was not recorded before; return how many recordings there are."""
        return sum(
            len(self._load(name, voice, number))
            for number in range(self.rounds)
            for name in SETS
            for voice in self.voices
            if name not in ONCE or number == 0
        )

    @cached_property
    def questions(self) -> Recordings:
        """Questions about scenes."""
        return self._collect("questions")

    @cached_property
    def sentences(self) -> Recordings:
        """Sentences of open text."""
        return self._collect("sentences")

    @cached_property
    def chats(self) -> Recordings:
        """Small talk."""
        return self._collect("chats")

    @cached_property
    def unknown(self) -> Recordings:
        """Questions without an answer."""
        return self._collect("unknown")

    @cached_property
    def people(self) -> Recordings:
        """Clips of people, with what they say; those that a conversation has room for."""
        return Recordings([load_people(self.packages, self.recordings, self.split, MAX_SECONDS)])

    def _collect(self, name: str) -> Recordings:
        return Recordings([part for voice in self.voices for part in self._load_all(name, voice)])

    def of_voice(self, voice: Voice) -> Recordings:
        """Return all that a voice says in conversations: questions, whole and in parts, small talk and nods."""
        known = self._of_voices.get(voice.key)
        if known is None:
            names = [name for name in SETS if name != "sentences"]
            known = Recordings([part for name in names for part in self._load_all(name, voice)])
            self._of_voices[voice.key] = known
        return known

    @cached_property
    def _of_voices(self) -> dict[str, Recordings]:
        return {}

    @cached_property
    def pairs(self) -> list[Pair]:
        """Pairs of questions that were said, each about a scene."""
        return [pair for voice in self.voices for pair in self.pairs_of(voice)]

    def pairs_of(self, voice: Voice, name: str = "questions") -> list[Pair]:
        """Return the pairs of questions that a voice says, whole or as `"halves"`, each with a scene."""
        key = f"{name}:{voice.key}"
        if key not in self._pairs:
            found = (self._draw_pairs(name, voice, number) for number in range(self.rounds))
            self._pairs[key] = [pair for pairs in found for pair in pairs]
        return self._pairs[key]

    @cached_property
    def _pairs(self) -> dict[str, list[Pair]]:
        return {}

    def _draw_pairs(self, name: str, voice: Voice, number: int) -> list[Pair]:
        seed = f"{self.split}:{voice.key}:{number}"
        if name == "halves":
            return draw_pairs(f"halves:{seed}", SIZES[name], set())
        known = {text for earlier in range(number) for text in self._load(name, voice, earlier)["text"]}
        return draw_pairs(seed, SIZES[name], known)

    @cached_property
    def answers(self) -> Recordings:
        """Answers of JOSIE's own voice, which its microphone hears too."""
        voice = Voice("flite", JOSIE_VOICE, JOSIE_STRETCH)
        path = self.recordings / f"answers-{WORLD}-{voice.key}.arrow"
        return Recordings([Dataset.from_file(str(path)) if path.exists() else asked(possible_answers(), voice, path)])

    def _load_all(self, name: str, voice: Voice) -> list[Dataset]:
        return [self._load(name, voice, number) for number in range(1 if name in ONCE else self.rounds)]

    def _load(self, name: str, voice: Voice, number: int) -> Dataset:
        path = self.recordings / f"{name}-{self.split}-{WORLD}-{voice.key}-{number}.arrow"
        if path.exists():
            return Dataset.from_file(str(path))
        logger.info(f"{path.name} ...")
        return asked(self._texts(name, voice, number), voice, path)

    def _texts(self, name: str, voice: Voice, number: int) -> Sequence[str]:
        if name == "chats":
            return [said for said, _ in chats()]
        if name == "nods":
            return NODS[self.split]
        size = SIZES[name]
        if name in ("questions", "halves"):
            asked = [question.text for _, pair in self._draw_pairs(name, voice, number) for question in pair]
            said = asked if name == "questions" else [part for text in asked for part in halves(text, place_of(text))]
            return list(dict.fromkeys(said))
        place = (number * len(TRAINING) + self.voices.index(voice)) * size
        if name == "unknown":
            return unknown_questions(self.packages, self.split, place + size)[place:]
        return self._open_texts[place : place + size]

    @cached_property
    def _open_texts(self) -> list[str]:
        texts = set(sentences(self.packages, self.split))
        texts |= {text for kind in KINDS_OF_TEXT for text in open_texts(self.packages, self.split, kind)}
        return sorted((text for text in texts if text.isascii() and not any(map(str.isdigit, text))), key=choose_rank)


def draw_pairs(seed: str, count: int, known: set[str]) -> list[Pair]:
    """Return pairs of questions about training scenes, with at least so many different ones that are not known.

    Args:
        seed (`str`): Of what is drawn.
        count (`int`): How many.
        known (`set[str]`): Questions that do not count.
    """
    draw, found, pairs = random.Random(f"questions:{seed}"), set(), []
    while len(found) < count:
        scene = draw_scene(draw, "train")
        pair = ask_pair(scene, draw)
        pairs.append((scene, pair))
        found |= {question.text for question in pair} - known
    return pairs


def load_people(packages: Path, recordings: Path, split: Split, max_seconds: float = float("inf")) -> Dataset:
    """Return clips of one person, the prompts of Asterisk: `text`, `voice` and `flac`.

    Args:
        packages (`Path`): Folder of Debian packages.
        recordings (`Path`): Where clips are kept.
        split (`str`): `"train"`, `"validation"` or `"test"`.
        max_seconds (`float`): Longer clips are left out.
    """
    folder = recordings / "people"
    if not (folder / f"{split}.jsonl").exists():
        prepare_speech(replace(PEOPLE, cache=str(packages), folder=str(folder)))
    rows = read_manifest(folder / f"{split}.jsonl")
    rows = [row for row in rows if row["text"] and row["seconds"] <= max_seconds]
    columns = {"text": [row["text"] for row in rows], "voice": ["asterisk"] * len(rows)}
    return Dataset.from_dict(columns | {"flac": [Path(row["path"]).read_bytes() for row in rows]})


def load_strangers(packages: Path) -> list[tuple[str, np.ndarray]]:
    """Return what readers of LibriVox say, whom training never hears, and their voices, float32 at 16 kHz."""
    folder = fetch_package("pocketsphinx-testdata", packages) / "usr/share/pocketsphinx/test/data/librivox"
    lines = (folder / "transcription").read_text(encoding="utf-8").splitlines()
    found = [re.fullmatch(r"(?:<s>)?\s*(.*?)\s*(?:</s>)?\s*\((\S+)\)", line.strip()) for line in lines]
    return [(line[1], load_audio(folder / f"{line[2]}.wav", SAMPLING_RATE)) for line in found if line is not None]
