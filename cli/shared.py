"""What the commands of the command line share: errors in one line, checks of paths, and reading checkpoints."""

import json
import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from typer.core import TyperGroup

if TYPE_CHECKING:
    from rich.table import Table

    from ..configuration_josie import JosieConfig
    from ..modeling_josie import JosieForConditionalGeneration
    from ..processing_josie import JosieProcessor

Folder = Annotated[
    Path, typer.Argument(metavar="DIR", help="A folder with a JOSIE checkpoint; or nano, the small one.")
]
Seed = Annotated[int, typer.Option(help="Seed of everything random.")]
Speaker = Annotated[str | None, typer.Option(help="The voice, where the checkpoint has several.")]
Temperature = Annotated[float | None, typer.Option(help="Sample at this temperature instead of taking the likeliest.")]
MaxNewTokens = Annotated[int, typer.Option(help="Longest answer, in tokens.")]
MaxSeconds = Annotated[float | None, typer.Option(help="Longest speech, in seconds.")]
Seconds = Annotated[float | None, typer.Option(help="How long to listen; until Ctrl-C where it is not given.")]

_UsageError = typer.BadParameter.__mro__[1]  # what typer raises for a wrong command line; it does not export it


class OneLineErrors(TyperGroup):
    """A group of commands that answers every expected error with one line and exit code 2."""

    def main(self, *args: Any, standalone_mode: bool = True, **kwargs: Any) -> Any:
        """Run a command and exit; with `standalone_mode=False`, return or raise instead."""
        if not standalone_mode:
            return super().main(*args, standalone_mode=False, **kwargs)
        try:
            code = super().main(*args, standalone_mode=False, **kwargs)
        except typer.Abort:
            code = 1
        except Exception as error:
            # An import that fails has the name of its module; what we raise for a missing extra has not.
            is_extra = isinstance(error, ImportError) and error.name is None
            if not is_extra and not isinstance(error, _expected_errors()):
                raise
            message = error.format_message() if isinstance(error, _UsageError) else str(error)  # type: ignore[attr-defined]
            typer.echo(f"Error: {' '.join(message.split())}", err=True)
            code = 2
        sys.exit(code or 0)


def _expected_errors() -> tuple[type[BaseException], ...]:
    from huggingface_hub.errors import StrictDataclassError
    from safetensors import SafetensorError

    from ..evaluation.judge import MissingJudge

    return (_UsageError, ValueError, OSError, StrictDataclassError, SafetensorError, MissingJudge)


def report(message: str) -> None:
    typer.echo(message, err=True)


def quieten() -> None:
    # Warnings of transformers would stand beside our one line, and its bars make sense on a terminal only.
    from transformers.utils import logging

    logging.set_verbosity_error()
    if not sys.stderr.isatty():
        logging.disable_progress_bar()


def readable(argument: str, path: Path) -> Path:
    if not path.is_file():
        raise ValueError(f"`{argument}` must be an existing file, got {str(path)!r}.")
    return path


def writable(path: Path) -> None:
    import soundfile

    if path.suffix[1:].upper() not in soundfile.available_formats():
        raise ValueError(f"`--out` must end in .wav, .flac or another format of soundfile, got {str(path)!r}.")
    if path.is_dir() or not path.absolute().parent.is_dir():
        raise ValueError(f"`--out` must be a file in an existing folder, got {str(path)!r}.")


def print_table(table: "Table") -> None:
    """Print a table of rich: as wide as the terminal, or of a fixed width into a file or pipe."""
    from rich.console import Console

    Console(width=None if sys.stdout.isatty() else 120).print(table)


def check_seconds(seconds: float | None, mic: bool) -> None:
    """Raise a `ValueError` if `--seconds` is given without `--mic`, or not above 0."""
    if seconds is not None and (not mic or not 0 < seconds < math.inf):
        raise ValueError(f"`--seconds` must be above 0 and go with `--mic`, got {seconds}.")


def prepare(processor: "JosieProcessor", messages: Any) -> Any:
    """Return the inputs that let a model answer one conversation, or each of several."""
    return processor.apply_chat_template(
        messages, tokenize=True, add_generation_prompt=True, return_dict=True, return_tensors="pt"
    )


def sampling_options(temperature: float | None, prefix: str = "") -> dict[str, Any]:
    """Return how `generate` chooses: by a temperature, or the likeliest."""
    if temperature is None:
        return {f"{prefix}do_sample": False}
    return {f"{prefix}do_sample": True, f"{prefix}temperature": temperature}


def talking_options(
    model: "JosieForConditionalGeneration", max_seconds: float | None, temperature: float | None = None
) -> dict[str, Any]:
    """Return the Talker's options of `generate`.

    Raises:
        `ValueError`: `max_seconds` is not above 0.
    """
    options = sampling_options(temperature, prefix="talker_")
    if max_seconds is None or model.audio_codec is None:
        return options
    if not 0 < max_seconds < math.inf:
        raise ValueError(f"`--max-seconds` must be above 0, got {max_seconds}.")

    from ..configuration_josie import audio_codec_geometry

    frame_rate = audio_codec_geometry(model.audio_codec.config).frame_rate
    return options | {"talker_max_new_frames": max(int(max_seconds * frame_rate), 1)}


def find_checkpoint(folder: Path) -> Path:
    """Return the folder that a name on the command line means.

    `nano` is the small model that comes with the package, unless there is a checkpoint `nano` in the working directory.

    Raises:
        `ValueError`: It is not installed.
    """
    if folder != Path("nano") or (folder / "config.json").is_file():
        return folder

    from ..nano import nano_path

    return Path(nano_path())


def read_facts(folder: Path) -> dict[str, Any]:
    """Return what a checkpoint's config.json holds, and at least its `model_type`; see [`find_checkpoint`] for `nano`.

    Raises:
        `ValueError`: There is none, or it is damaged.
    """
    folder = find_checkpoint(folder)
    file = folder / "config.json"
    if not file.is_file():
        raise ValueError(f"`DIR` must be a folder with a JOSIE checkpoint, got {str(folder)!r}, without a config.json.")
    try:
        facts = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"`DIR` must be a folder with a JOSIE checkpoint, got {str(file)!r}: {error}.") from error
    return facts if isinstance(facts, dict) and "model_type" in facts else {"model_type": None}


def read_config(folder: Path) -> "JosieConfig":
    """Read the configuration of a checkpoint.

    Raises:
        `ValueError`: `folder` holds no JOSIE checkpoint.
    """
    facts = read_facts(folder)
    if facts["model_type"] != "josie":
        raise ValueError(
            f"`DIR` must be a folder with a JOSIE checkpoint, got {str(folder)!r}, of the model type "
            f"{facts['model_type']!r}."
        )

    from ..configuration_josie import JosieConfig

    with reading(folder, "a valid config.json"):
        return JosieConfig.from_dict(facts)


@contextmanager
def reading(folder: Path, what: str) -> Iterator[None]:
    """Turn what a damaged file makes its parser raise, which may be anything, into an error that says which one."""
    try:
        yield
    except Exception as error:
        raise ValueError(
            f"`DIR` must hold {what}, got {str(folder)!r}: {str(error) or type(error).__name__}"
        ) from error


def load(folder: Path) -> "tuple[JosieForConditionalGeneration, JosieProcessor]":
    """Load a JOSIE checkpoint, or `nano`: the model, in eval mode, and its processor."""
    folder = find_checkpoint(folder)
    read_config(folder)

    from ..modeling_josie import JosieForConditionalGeneration
    from ..processing_josie import JosieProcessor

    quieten()
    with reading(folder, "the files of a processor"):
        processor = JosieProcessor.from_pretrained(folder)
    return load_model(folder, JosieForConditionalGeneration), processor


def load_model(folder: Path, model_class: Any) -> Any:
    """Load a model in eval mode.

    Args:
        folder (`Path`): Its checkpoint.
        model_class: A model, or an Auto class.

    Raises:
        `ValueError`: The weights are damaged, or some are missing or of other shapes.
    """
    with reading(folder, "a model's weights"):
        loaded: Any = model_class.from_pretrained(folder, output_loading_info=True, ignore_mismatched_sizes=True)
    model, loading = loaded
    wrong = {
        "which lacks {} of them": sorted(loading["missing_keys"]),
        "where {} of them are of other shapes": sorted(key for key, *_ in loading["mismatched_keys"]),
    }
    for fault, names in wrong.items():
        if names:
            raise ValueError(
                f"`DIR` must hold all weights that its config.json asks for, got {str(folder)!r}, "
                f"{fault.format(len(names))}, such as {names[0]!r}."
            )
    return model.eval()


def load_codec(folder: Path, kind: Literal["audio", "vision"]) -> Any:
    """Load a codec: of its own checkpoint, or the codec for `kind` inside a JOSIE checkpoint.

    Args:
        folder (`Path`): The checkpoint.
        kind (`"audio"` or `"vision"`): Which of two codecs; the one there is where there is one.

    Raises:
        `ValueError`: There is no codec, or the checkpoint is damaged.
    """
    folder = find_checkpoint(folder)
    facts = read_facts(folder)

    from transformers import CONFIG_MAPPING, AutoConfig, AutoModel

    from ..configuration_josie import is_codec
    from ..modeling_josie import JosieForConditionalGeneration

    quieten()
    if facts["model_type"] == "josie":
        config: Any = read_config(folder)
        names = [f"{name}_codec" for name in ("audio", "vision") if getattr(config, f"{name}_codec_config") is not None]
        if not names:
            raise ValueError(f"`DIR` must have a codec, got {str(folder)!r} without `audio_codec` and `vision_codec`.")
        name = f"{kind}_codec" if f"{kind}_codec" in names else names[0]
        return getattr(load_model(folder, JosieForConditionalGeneration), name)
    if facts["model_type"] not in CONFIG_MAPPING:
        raise ValueError(f"`DIR` must have a codec, got {str(folder)!r}, of the model type {facts['model_type']!r}.")
    with reading(folder, "a valid config.json"):
        config = AutoConfig.from_pretrained(folder)
    if not is_codec(config):
        raise ValueError(f"`DIR` must have a codec, got {str(folder)!r}, of the model type {config.model_type!r}.")
    return load_model(folder, AutoModel)
