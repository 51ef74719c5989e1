"""`josie init`, `convert`, `export` and `train-tokenizer`: commands that write a folder."""

import re
import sys
from pathlib import Path
from typing import Annotated

import typer

from ..nano import find_model
from .options import AnyFolder, NewFolder, Seed, checked, checked_text, existing_file, new_folder_name, words
from .progress import waiting
from .shared import CommandLine, is_terminal, quieten, report, show_help

_PRESETS = Path(__file__).parents[1] / "configuration_josie" / "presets"
_MIN_VOCAB_SIZE = 265  # nine special tokens and all bytes


def preset_names() -> list[str]:
    """Return the names of the presets, without importing their configurations."""
    return sorted(path.stem for path in _PRESETS.glob("*.json"))


def _preset(name: str) -> str | None:
    return None if name in preset_names() else f"be one of {preset_names()}"


def _vocab_size(size: int) -> str | None:
    return None if size >= _MIN_VOCAB_SIZE else f"be at least {_MIN_VOCAB_SIZE} (special tokens and bytes)"


def _shard_size(size: str) -> str | None:
    number = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?) *[KMGT]B", size, re.IGNORECASE)
    return None if number and float(number[1]) > 0 else "be a number above 0 and KB, MB, GB or TB, as in 5GB"


def _muomni(source: Path) -> str | None:
    is_one = source.is_dir() or (source.is_file() and source.suffix == ".safetensors")
    return None if is_one else "be a folder or a .safetensors file"


def _existing(path: Path) -> str | None:
    return None if path.exists() else "be an existing file or folder"


def init_command(
    preset: Annotated[
        str,
        typer.Argument(
            help=f"The sizes: {' or '.join(preset_names())}.", callback=checked(_preset), autocompletion=preset_names
        ),
    ],
    folder: NewFolder,
    seed: Seed = 0,
) -> None:
    """Make a checkpoint with random weights, ready to train, with all processor files."""
    from ..conversion.files import new_folder

    with new_folder(folder, "OUT") as unfinished, waiting(f"Making {folder}"):
        from transformers import set_seed

        from ..configuration_josie import JosieConfig
        from ..modeling_josie import JosieForConditionalGeneration
        from ..processing_josie import JosieProcessor
        from ..tokenization import load_default_tokenizer

        quieten()
        config = JosieConfig.from_preset(preset)
        processor = JosieProcessor.from_config(config, load_default_tokenizer(config.get_text_config().vocab_size))
        set_seed(seed)
        report(f"Drawing the weights of {preset!r} with seed {seed} ...")
        model = JosieForConditionalGeneration(config)
        report(f"Writing {model.num_parameters():,} parameters ...")
        model.save_pretrained(unfinished)
        processor.save_pretrained(unfinished)
    typer.echo(f"{folder}: {preset}, random weights")


def train_tokenizer_command(
    files: Annotated[list[Path], typer.Argument(help="Text files, UTF-8.", callback=checked(existing_file))],
    out: Annotated[Path, typer.Option(help="The folder to make.", callback=checked(new_folder_name))],
    vocab_size: Annotated[
        int, typer.Option(help="Number of tokens, special ones included.", callback=checked(_vocab_size))
    ],
) -> None:
    """Train a byte-level BPE tokenizer on text files."""
    from ..conversion.files import new_folder

    with new_folder(out, "--out") as unfinished:
        with waiting("Preparing to train"):
            from ..tokenization import train_tokenizer

        tokenizer = train_tokenizer(files=files, vocab_size=vocab_size, show_progress=is_terminal(sys.stderr))
        tokenizer.save_pretrained(unfinished)
    typer.echo(f"{out}: {len(tokenizer)} tokens")


def export_command(
    folder: AnyFolder,
    out: NewFolder,
    license: Annotated[
        str | None, typer.Option(help="Of the weights, as the Hub calls it: apache-2.0.", callback=checked_text(words))
    ] = None,
    language: Annotated[
        list[str] | None, typer.Option(help="A language it knows: en; may be repeated.", callback=checked_text(words))
    ] = None,
    max_shard_size: Annotated[
        str, typer.Option(help="Largest file of weights.", callback=checked(_shard_size))
    ] = "5GB",
) -> None:
    """Write a checkpoint with its code and a model card: it loads anywhere with trust_remote_code=True."""
    with waiting(f"Writing {out}"):
        from ..conversion.hub.export import export_folder

        quieten()
        files = export_folder(find_model(folder), out, max_shard_size, license=license, languages=language or ())
    typer.echo(f"{out}: {len(files)} files, {sum(name.endswith('.py') for name in files)} of them code")


convert_app = CommandLine(
    invoke_without_command=True, callback=show_help, help="Turn checkpoints of other projects into JOSIE's."
)


@convert_app.command("muomni")
def convert_muomni_command(
    source: Annotated[
        Path,
        typer.Argument(metavar="SRC", help="A folder of .pt files, or a .safetensors file.", callback=checked(_muomni)),
    ],
    destination: NewFolder,
    config: Annotated[
        Path | None,
        typer.Option(help="μOmni's config.json, or a folder of separate ones.", callback=checked(_existing)),
    ] = None,
    tokenizer: Annotated[
        Path | None,
        typer.Option(help="The SentencePiece model, if it is elsewhere.", callback=checked(existing_file)),
    ] = None,
) -> None:
    """Convert a μOmni checkpoint, and say what became of every key."""
    with waiting(f"Converting {source}"):
        from ..conversion.muomni.convert import convert_muomni

        quieten()
        conversion_report = convert_muomni(source, destination, config=config, tokenizer=tokenizer)
    typer.echo(conversion_report)
