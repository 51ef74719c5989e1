"""Make what the nano model needs besides its recipes; which of them when, `nano_world/__init__.py` says.

python examples/make_nano.py record                         # all that JOSIE's voice says
python examples/make_nano.py voices                         # all that JOSIE hears
python examples/make_nano.py start FOLDER                   # the model before training; or with `--from MODEL`
python examples/make_nano.py join THINKER TALKER FOLDER     # both parts, trained apart, in one model
python examples/make_nano.py codec CODEC FOLDER             # the codec of the voice, as it ships
python examples/make_nano.py test FOLDER                    # the test, for `josie evaluate`
python examples/make_nano.py count                          # how much of the world there is
"""

import argparse
import json
import re
from pathlib import Path
from typing import Any

import nano_world
import torch
from nano_world.grammar import measure_world, words
from nano_world.hearing import HeardSpeech, load_people
from nano_world.small_talk import chats
from nano_world.start import build, build_from
from nano_world.task_files import TaskFiles
from nano_world.tasks import NanoArguments
from nano_world.voice import VoiceArguments, record_voice
from recipes.configuration import run
from recipes.models import save_in_half, take_voice
from recipes.places import require_place
from safetensors.torch import load_file
from transformers import AutoFeatureExtractor, AutoModel, AutoModelForMultimodalLM, AutoProcessor

from josie import JosieForConditionalGeneration
from josie.conversion.files import write_file
from josie.conversion.hub.model_card import write_model_card

MAX_NEW_TOKENS = 64  # of an answer, where a user does not say; no answer in this world has more
EIGHT_BITS = ("talker.", "audio_codec.")  # parts of the whole model whose matrices are saved in 8 bits
EVERY_MATRIX = ("",)  # of the codec alone, which has to be the same there
HARDWARE = "two CPU cores that had other work to do; Thinker and Talker at the same time"
LICENSE = "cc-by-sa-3.0"
CODEC_DATA = (
    "Asterisk core sounds, spoken by Allison Smith (CC-BY-SA-3.0)",
    "flite's voices (flite's free licence), which say sentences of the King James Bible (public domain) and WordNet "
    "(WordNet licence)",
)
CODEC_LICENSE_NOTES = (
    "CC-BY-SA-3.0 is the licence of the Asterisk core sounds (2003-2010, Allison Smith), which it was trained on.",
    "WordNet 3.0 is copyright 2006 by Princeton University.",
)
LICENSE_NOTES = (
    CODEC_LICENSE_NOTES[0],
    "The drawings of stamps are those of Noto Color Emoji (2013-2017, Google), SIL Open Font License 1.1.",
    'The photographs "china.jpg" by danielbuechele and "flower.jpg" by vultilion are under CC-BY-2.0.',
    CODEC_LICENSE_NOTES[1],
)
CODEC_LIMITATIONS = """
It was trained for hours, on five English voices, four of them synthetic.
Other voices and languages, music and noise come out worse.
Its waveforms follow the spectrum and not the phase of the original, which is why SI-SDR is low.
"""
LIMITATIONS = """
It knows drawn shapes, 45 stamps, and a few hundred questions of small talk.
Of other questions, images and audio it was taught to say that it does not know them; what it says else is a guess.
It learned to hear from synthetic voices and one person. Other people are often misheard.
Rare words are misheard, and said unclearly, more often than common ones.
"""


def record(arguments: argparse.Namespace) -> None:
    """Record what JOSIE's voice learns from, for its codec; the Talker's recipe would do it too."""
    parts = record_voice(VoiceArguments(packages=str(arguments.packages)))
    seconds = sum(sum(part["seconds"]) for part in parts)
    print(f"{sum(map(len, parts))} recordings, {seconds / 3600:.1f} hours")


def voices(arguments: argparse.Namespace) -> None:
    """Record all that is heard in training, round by round; go on where it stopped."""
    for rounds in range(1, arguments.rounds + 1):
        for split in ("train", "validation"):
            count = HeardSpeech(arguments.packages, arguments.recordings, split, rounds).record()
            print(f"{rounds} rounds of {split}: {count} recordings", flush=True)
    people = len(load_people(arguments.packages, arguments.recordings, "train"))
    print(f"{people} clips of people")


def start(arguments: argparse.Namespace) -> None:
    """Save a model with random weights, a trained codec and a new tokenizer, or with what fits of another model."""
    if arguments.trained is None:
        model, processor = build(arguments.codec or Path("runs/nano-voice/model"), arguments.packages)
    else:
        model, processor, new = build_from(arguments.trained, arguments.codec, arguments.new)
        print(f"not from {arguments.trained}: {', '.join(new) or 'nothing'}")
    model.save_pretrained(arguments.folder)
    processor.save_pretrained(arguments.folder)
    print(f"{arguments.folder}: {model.num_parameters():,} parameters, {len(processor.tokenizer)} tokens")


def join(arguments: argparse.Namespace) -> None:
    """Save one model of two with the same words: the Thinker of one, the Talker and the codec of the other."""
    model, other = (AutoModelForMultimodalLM.from_pretrained(path) for path in (arguments.thinker, arguments.talker))
    if not model.get_input_embeddings().weight.equal(other.get_input_embeddings().weight):
        raise SystemExit("error: `THINKER` and `TALKER` must have the same token embeddings, got others.")
    model.talker, model.config.talker_config = other.talker, other.config.talker_config
    model.audio_codec, model.config.audio_codec_config = other.audio_codec, other.config.audio_codec_config
    model.config.audio_codec_config._name_or_path = ""  # a folder here
    if arguments.earlier is not None:
        average_talker(model, arguments.earlier, arguments.share)
    if arguments.before is not None:
        average_thinker(model, arguments.before, arguments.before_share)
    model.generation_config.max_new_tokens = MAX_NEW_TOKENS
    save_in_half(model, arguments.folder, EIGHT_BITS)
    processor = AutoProcessor.from_pretrained(arguments.thinker)  # it hears and sees
    take_voice(processor, model.config)
    processor.save_pretrained(arguments.folder)
    report: dict[str, Any] = (
        json.loads(arguments.report.read_text(encoding="utf-8")) if arguments.report else {"tasks": {}}
    )
    scores = {
        f"{task}_{name}": round(value, 4)
        for task, found in report["tasks"].items()
        for name, value in found["scores"].items()
    }
    commands = [line.strip() for line in str(nano_world.__doc__).splitlines() if line.startswith("    ")]
    num_training = next(index for index, line in enumerate(commands) if "make_nano.py test" in line)
    write_model_card(
        arguments.folder,
        model.config,
        model=model,
        data=NanoArguments.LICENCES,
        metrics=scores,
        evaluated_on="scenes, wordings, voices, stamps and sentences that training never had",
        evaluation_command="\n".join(commands[num_training:]),
        evaluation_date=arguments.date,
        command="\n".join(commands[:num_training]),
        hours=arguments.hours,
        hardware=HARDWARE,
        license=LICENSE,
        license_notes=LICENSE_NOTES,
        languages=["en"],
        title="JOSIE nano",
        source="josie.nano_path()",
        question="What is your name?",
        limitations=LIMITATIONS,
    )
    print(f"{arguments.folder}: {model.num_parameters():,} parameters")


def codec(arguments: argparse.Namespace) -> None:
    """Save the trained codec of the voice in as few bits as in the whole model, with a card of its own."""
    model = AutoModel.from_pretrained(arguments.trained)
    save_in_half(model, arguments.folder, EVERY_MATRIX)
    AutoFeatureExtractor.from_pretrained(arguments.trained).save_pretrained(arguments.folder)
    card = (arguments.trained / "README.md").read_text(encoding="utf-8")
    card = re.sub(r"^- name: .*", f"- name: {arguments.folder.name}", card, count=1, flags=re.MULTILINE)
    write_file(arguments.folder / "README.md", re.sub(r"^# .*", "# JODIO nano", card, count=1, flags=re.MULTILINE))
    write_model_card(
        arguments.folder,
        model.config,
        model=model,
        data=CODEC_DATA,
        command="python examples/train_jodio.py examples/nano_world/voice.json",
        hours=arguments.hours,
        hardware="half a CPU core",
        license=LICENSE,
        license_notes=CODEC_LICENSE_NOTES,
        languages=["en"],
        source='josie.nano_path("jodio")',
        limitations=CODEC_LIMITATIONS,
    )
    print(f"{arguments.folder}: {model.num_parameters():,} parameters")


def average_talker(model: JosieForConditionalGeneration, checkpoint: Path, share: float) -> None:
    """Average the Talker's weights with those of an earlier checkpoint, which learned less by heart.

    Args:
        model ([`JosieForConditionalGeneration`]): Whose Talker changes.
        checkpoint (`Path`): A folder with `model.safetensors`.
        share (`float`): Of the earlier weights, in [0, 1].

    Raises:
        `ValueError`: There is no checkpoint, it is of another Talker, or the share is no share.
    """
    if not 0 <= share <= 1:
        raise ValueError(f"`--share` must be between 0 and 1, got {share}.")
    if not (checkpoint / "model.safetensors").is_file():
        raise ValueError(f"`--earlier` must be a folder with `model.safetensors`, got {str(checkpoint)!r}.")
    saved = load_file(checkpoint / "model.safetensors")
    earlier = {name.removeprefix("talker."): value for name, value in saved.items() if name.startswith("talker.")}
    if not _average(model.talker.state_dict(), earlier, share):
        raise ValueError(f"`--earlier` must be a checkpoint of `TALKER`'s training, got {str(checkpoint)!r}.")


def average_thinker(model: JosieForConditionalGeneration, before: Path, share: float) -> None:
    """Average the Thinker's weights with those that its training began with, after Wortsman et al. (2022).

    A training on other shares of tasks gains on these and loses on others; a mean keeps most of both.

    Args:
        model ([`JosieForConditionalGeneration`]): Whose Thinker changes.
        before (`Path`): A whole model.
        share (`float`): Of the weights before, in [0, 1].

    Raises:
        `ValueError`: It has another Thinker, or the share is no share.
    """
    if not 0 <= share <= 1:
        raise ValueError(f"`--before-share` must be between 0 and 1, got {share}.")
    others = AutoModelForMultimodalLM.from_pretrained(before).thinker.state_dict()
    if not _average(model.thinker.state_dict(), others, share):
        raise ValueError(f"`--before` must be a model with the same Thinker, got {str(before)!r}.")


def _average(weights: dict[str, torch.Tensor], others: dict[str, torch.Tensor], share: float) -> bool:
    """Change weights into a mean with a share of others, if they are of the same names and shapes; return whether."""
    if {name: value.shape for name, value in weights.items()} != {name: value.shape for name, value in others.items()}:
        return False
    for name, value in weights.items():
        if value.is_floating_point():
            value.lerp_(others[name].to(value.dtype), share)
    return True


def test(arguments: argparse.Namespace) -> None:
    """Write the rows of all tasks."""
    files = TaskFiles(arguments.folder, arguments.packages, arguments.recordings, arguments.num_rows, arguments.seed)
    files.write()
    print(f"{arguments.folder / 'tasks.jsonl'}: {len(files.rows)} rows")


def count(arguments: argparse.Namespace) -> None:
    """Print how much there is to ask."""
    print("| split | things | layouts | questions | hours |\n| --- | ---: | ---: | ---: | ---: |")
    for split in ("train", "test"):
        for num_things in (1, 2, 3):
            size = measure_world(split, num_things)
            print(f"| {split} | {num_things} | {size.num_layouts} | {size.num_questions} | {size.hours:.1f} |")
    print(f"Small talk: {len(chats())} pairs; words: {len(words())}.")


def main(argv: list[str] | None = None) -> None:
    """Do what the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    for command, names in (
        (record, []),
        (voices, []),
        (start, ["folder"]),
        (join, ["thinker", "talker", "folder"]),
        (codec, ["trained", "folder"]),
        (test, ["folder"]),
        (count, []),
    ):
        sub = commands.add_parser(command.__name__, help=command.__doc__)
        sub.set_defaults(command=command)
        for name in names:
            sub.add_argument(name, type=Path)
        if command in (join, codec):
            sub.add_argument("--hours", type=float, help="of training, for the card")
        if command is join:
            sub.add_argument("--earlier", type=Path, help="checkpoint of the Talker's training, for a mean of both")
            sub.add_argument("--share", type=float, default=0.4, help="of the earlier one in that mean")
            sub.add_argument("--before", type=Path, help="model that the Thinker's training began with, for a mean too")
            sub.add_argument("--before-share", type=float, default=0.6, help="of that one in the mean")
            sub.add_argument("--report", type=Path, help="what `josie evaluate --out` wrote of it, for the card")
            sub.add_argument("--date", help="of that report, for the card")
        if command in (record, voices, start, test):
            sub.add_argument(
                "--packages", type=Path, default=Path("runs/data/debian"), help="folder of Debian packages"
            )
        if command in (voices, test):
            sub.add_argument("--recordings", type=Path, default=Path("runs/data/nano/heard"), help="folder of speech")
        if command is voices:
            sub.add_argument("--rounds", type=int, default=4, help="of each voice")
        if command is start:
            sub.add_argument("--codec", type=Path, help="the trained codec; runs/nano-voice/model, or that of `--from`")
            sub.add_argument("--from", dest="trained", type=Path, help="a model to take words and weights of")
            sub.add_argument("--new", nargs="*", default=[], help="parts that begin anew, such as thinker.vision")
        if command is test:
            sub.add_argument("--num-rows", type=int, default=40, help="rows of each kind")
            sub.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args(argv)

    def do() -> None:
        if "folder" in arguments:
            require_place(arguments.folder, "folder")
        arguments.command(arguments)

    run(do)


if __name__ == "__main__":
    main()
