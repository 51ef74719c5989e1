"""Training rows of JOSIE's voice: recordings of flite, when each token is said, and their codes."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from datasets import Dataset, concatenate_datasets
from recipes.spoken_rows import SpeechEncoder, without_speech
from transformers import PreTrainedTokenizerBase

from josie.configuration_josie import audio_codec_geometry
from nano_world.open_text import KINDS, open_texts
from nano_world.possible import possible_answers, possible_captions
from nano_world.sentences import phrases, sentences
from nano_world.speech import JOSIE_STRETCH, JOSIE_VOICE, SAMPLING_RATE, SHARD_SIZE, read, spoken
from nano_world.timing import time_tokens


@dataclass
class VoiceArguments:
    """The texts that JOSIE's voice is trained on.

    Args:
        packages (`str`): Folder that keeps Debian packages.
        recordings (`str`): Folder that keeps recorded speech.
        num_sentences (`int`): Real sentences, besides all there is to answer.
        num_phrases (`int`): Rows of random words, so that rare ones are learned too.
        open_texts (`dict[str, int]`): How many texts of each of [`nano_world.open_text.KINDS`], which have any words.
        open_texts_from (`dict[str, int]`): The first of each kind that is said, 0 if not given, so that a later run
            says others.
        answer_repeats (`int`): How many times an epoch has each answer, captions apart: they are few, short, and
            nearly all that is ever said.
        num_validation_rows (`int`): Sentences that are held out.
    """

    packages: str = "runs/data/debian"
    recordings: str = "runs/data/nano/speech"
    num_sentences: int = 10000
    num_phrases: int = 7000
    open_texts: dict[str, int] = field(default_factory=dict)
    open_texts_from: dict[str, int] = field(default_factory=dict)
    answer_repeats: int = 1
    num_validation_rows: int = 100

    def __post_init__(self):
        for name in ("num_sentences", "num_phrases", "num_validation_rows"):
            if getattr(self, name) < 0:
                raise ValueError(f"`data.nano.{name}` must be at least 0, got {getattr(self, name)}.")
        if self.answer_repeats < 1:
            raise ValueError(f"`data.nano.answer_repeats` must be at least 1, got {self.answer_repeats}.")
        for name in ("open_texts", "open_texts_from"):
            given = getattr(self, name)
            if set(given) - set(KINDS) or min(given.values(), default=0) < 0:
                raise ValueError(f"`data.nano.{name}` must give numbers of {list(KINDS)}, got {given}.")


def record_voice(arguments: VoiceArguments) -> list[Dataset]:
    """Return what JOSIE's voice says, as [`spoken`] does.

    Returns:
        Open texts, in parts, so that what was encoded of them is found again when there are more; sentences, phrases
        and captions; answers; sentences that are held out.
    """
    packages = Path(arguments.packages)
    texts = (
        *(
            open_texts(packages, "train", kind)[start : min(start + SHARD_SIZE, first + count)]
            for kind, count in arguments.open_texts.items()
            for first in [arguments.open_texts_from.get(kind, 0)]
            for start in range(first, first + count, SHARD_SIZE)
        ),
        sentences(packages, "train")[: arguments.num_sentences],
        phrases(packages, arguments.num_phrases),
        possible_captions(),
        possible_answers(),
        _held_out(packages, arguments),
    )
    answers = len(texts) - 2
    return [
        spoken(part, JOSIE_VOICE, JOSIE_STRETCH, Path(arguments.recordings), timed=True, paused=place == answers)
        for place, part in enumerate(texts)
    ]


def _held_out(packages: Path, arguments: VoiceArguments) -> list[str]:
    """Return sentences to validate with, and where open texts are learned as many of those."""
    kinds = [kind for kind, count in arguments.open_texts.items() if count]
    texts = list(sentences(packages, "validation")[: arguments.num_validation_rows])
    for kind in kinds:
        texts += open_texts(packages, "validation", kind)[: arguments.num_validation_rows // len(kinds)]
    return texts


def load_voice(
    arguments: VoiceArguments, encode: SpeechEncoder, tokenizer: PreTrainedTokenizerBase
) -> dict[str, Dataset]:
    """Return what JOSIE's voice says.

    Args:
        arguments ([`VoiceArguments`]): How much.
        encode ([`SpeechEncoder`]): Makes the codes, once.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]): Of whose tokens it is told how long each is said.

    Returns:
        Rows of each split with `messages`, `speech_codes`, their `length` in frames, and `speech_durations`.
    """
    options: Any = {"batched": True, "batch_size": 64}
    frame_rate = audio_codec_geometry(encode.codec.config).frame_rate
    timing = {"tokenizer": tokenizer, "frame_rate": frame_rate}
    *read, answered, held_out = (
        rows.map(_encode, remove_columns=["voice", "flac"], fn_kwargs={"encode": encode}, **options).map(
            _time, remove_columns=["text", "phones", "ends", "seconds"], fn_kwargs=timing, **options
        )
        for rows in record_voice(arguments)
    )
    training = concatenate_datasets([*read, *[answered] * arguments.answer_repeats])
    return {"train": training, "validation": held_out}


def _time(rows: dict[str, list[Any]], tokenizer: PreTrainedTokenizerBase, frame_rate: float) -> dict[str, list[Any]]:
    parts = zip(*(rows[name] for name in ("text", "phones", "ends", "seconds")), strict=True)
    times = [time_tokens(text, tokenizer, *said) for text, *said in parts]
    return {"speech_durations": [[frame_rate * seconds for seconds in row] for row in times]}


def _encode(rows: dict[str, list[Any]], encode: SpeechEncoder) -> dict[str, list[Any]]:
    said = [{"type": "text", "text": text} for text in rows["text"]]
    clips = [{"type": "audio", "audio": read(flac), "sampling_rate": SAMPLING_RATE} for flac in rows["flac"]]
    heard = [[{"role": "assistant", "content": list(parts)}] for parts in zip(said, clips, strict=True)]
    return {"messages": [without_speech(messages) for messages in heard], **encode({"messages": heard})}
