"""Options that several commands take, and the checks of their values.

The checks run while the command line is read, before anything heavy is imported: a wrong value costs no time.
"""

import math
import os
import re
import stat
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated, Any

import typer

from ..nano import NANO_NAMES
from .checkpoints import complete_model, require_codec, require_josie, require_ours

SOURCE = "a folder or a name on the Hub"
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
_MAX_SEED = 2**32 - 1
_AUDIO_ENDINGS = (".wav", ".flac", ".ogg", ".mp3")  # of what every soundfile writes; it is asked for others
UNFIT_FORMATS = {"RAW", "SD2", "HTK", "SDS", "WVE", "XI"}  # those of `processing_josie.audio`, which has the reasons
_TEMPERATURES = (0.01, 100.0)  # far below and above, logits that are divided by it are not finite, or all the same
_DTYPES = ["float32", "bfloat16", "float16"]
_DEVICES = ("cpu", "cuda", "mps", "xpu", "hpu", "npu", "mlu")


def checked(requirement: Callable[[Any], str | None]) -> Callable[..., Any]:
    """Return a callback of typer that checks a value, or each of several.

    Args:
        requirement: Returns `None` for a right value, and what is required for a wrong one: `"be at least 1"`.
    """

    def check(context: typer.Context, parameter: typer.CallbackParam, value: Any) -> Any:
        if context.resilient_parsing:  # completion in a shell, of a line that is not finished
            return value
        for single in value if isinstance(value, (list, tuple)) else (value,):
            required = None if single is None else apply_requirement(requirement, single)
            if required:
                shown = repr(str(single) if isinstance(single, Path) else single)
                raise ValueError(f"`{name_of(parameter)}` must {required}, got {shown}.")
        return value

    return check


def checked_text(requirement: Callable[[Any], str | None]) -> Callable[..., Any]:
    """Return a callback as [`checked`] does, of text, whose bytes are UTF-8 in every locale.

    Args:
        requirement: As in [`checked`].
    """
    check = checked(requirement)

    def decode(context: typer.Context, parameter: typer.CallbackParam, value: Any) -> Any:
        decoded = [decode_bytes(single) for single in value] if isinstance(value, (list, tuple)) else value
        return check(context, parameter, decode_bytes(value) if isinstance(value, str) else decoded)

    return decode


def decode_bytes(text: str) -> str:
    """Return a text with the characters that its bytes are in UTF-8, if they are; Python kept them one by one.

    Args:
        text (`str`): With a surrogate in place of each byte that the locale has no character for.
    """
    try:
        return text.encode(errors="surrogateescape").decode()
    except UnicodeError:
        return text


def apply_requirement(requirement: Callable[[Any], str | None], value: Any) -> str | None:
    """Return what is required of a wrong value, also of a name that the system does not look up, as one too long.

    Args:
        requirement (`Callable`): As in [`checked`].
        value: What is given.
    """
    try:
        return requirement(value)
    except OSError as error:
        if error.filename is None:  # a library that cannot be loaded
            raise
        return f"be a name that can be looked up ({error.strerror})"


def name_of(parameter: typer.CallbackParam) -> str:
    """Return what a user calls a parameter: `--max-seconds`, or `DIR` of an argument."""
    if parameter.param_type_name == "option":
        return max(parameter.opts, key=len)
    return getattr(parameter, "metavar", None) or (parameter.name or "").upper()


def at_least_one(value: int) -> str | None:
    """Require a positive count."""
    return None if value >= 1 else "be at least 1"


def above_zero(value: float) -> str | None:
    """Require a positive, finite number."""
    return None if 0 < value < math.inf else "be a finite number above 0"


def model_source(name: str) -> str | None:
    """Require a folder with a configuration, a model of this package, or what may be a name on the Hub."""
    folder = Path(name)
    if folder.is_dir():
        has_config = name in NANO_NAMES or (folder / "config.json").is_file()
        return None if has_config else "be a folder with a config.json, or a name on the Hub"
    is_name = name in NANO_NAMES or (_HUB_NAME.fullmatch(name) and not folder.exists())
    return None if is_name else "be an existing folder or a name on the Hub"


def dataset_source(name: str) -> str | None:
    """Require a file, a folder, or what may be a name on the Hub."""
    is_one = Path(name).exists() or _HUB_NAME.fullmatch(name)
    return None if is_one else "be an existing file or folder, or a name on the Hub"


def folder_name(path: Path) -> str | None:
    """Require a folder, or the name of one to make."""
    if path.exists() and not path.is_dir():
        return "be a folder, or the name of one to make"
    return None if _takes_files(Path(os.path.realpath(path))) else "be a folder that can be written"


def utf8(value: str) -> str | None:
    """Require a text that came as UTF-8; of other bytes Python makes surrogates, which no tokenizer takes."""
    return "be valid UTF-8" if re.search("[\ud800-\udfff]", value) else None


def words(value: str) -> str | None:
    """Require a text that says something."""
    return utf8(value) or (None if value.strip() else "have at least one word")


def existing_file(path: Path) -> str | None:
    """Require a file; a pipe can be read once, and files are looked at before they are read."""
    if path.is_file():
        return None
    return "be a regular file, not a pipe or a device" if path.exists() and not path.is_dir() else "be an existing file"


def audio_file_to_write(path: Path) -> str | None:
    """Require the name of an audio file that can be written."""
    if path.suffix.lower() not in _AUDIO_ENDINGS:
        import soundfile

        others = [f".{name.lower()}" for name in soundfile.available_formats() if name not in UNFIT_FORMATS]
        if path.suffix.lower() not in others:
            return f"end in {', '.join(dict.fromkeys((*_AUDIO_ENDINGS, *others)))}"
    return _file_to_write(path)


def file_ending_in(*endings: str) -> Callable[[Path], str | None]:
    """Return the requirement of the name of a file that can be written, with one of some endings."""

    def requirement(path: Path) -> str | None:
        if path.suffix.lower() not in endings:
            return f"end in {' or '.join(endings)}"
        return _file_to_write(path)

    return requirement


def check_out(path: Path, requirement: Callable[[Path], str | None], inputs: Iterable[Path | None] = ()) -> None:
    """Check the file that a command writes, before anything is computed.

    Args:
        path (`Path`): The file of `--out`, or one beside it.
        requirement (`Callable`): Of its name, as in [`checked`].
        inputs (`Iterable[Path]`): Files that the command reads; `None` is none.

    Raises:
        `ValueError`: It cannot be written under this name, or is one of `inputs`, by whatever name.
    """
    required = apply_requirement(requirement, path)
    if not required and path.exists():
        same = next((file for file in inputs if file is not None and file.exists() and path.samefile(file)), None)
        required = None if same is None else f"be another file than {str(same)!r}, which is read"
    if required:
        raise ValueError(f"`--out` must {required}, got {str(path)!r}.")


def check_transcript(out: Path, inputs: Iterable[Path | None]) -> Path:
    """Return the file of JSON that is written beside an audio file.

    Args:
        out (`Path`): The audio file.
        inputs (`Iterable[Path]`): As in [`check_out`], which says what is raised.
    """
    path = out.with_suffix(".json")
    check_out(path, _file_to_write, inputs)
    return path


def _file_to_write(path: Path) -> str | None:
    """Require a file that can be made, or written: of a link the one that it names."""
    if path.is_dir() or not path.absolute().parent.is_dir():
        return "be a file in an existing folder"
    target = Path(os.path.realpath(path))
    if not target.parent.is_dir():
        return "be a file in an existing folder"
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        mode = None
    if mode is not None and not os.access(target, os.W_OK):
        return "be a file that may be written"
    if mode is not None and not stat.S_ISREG(mode):
        return None  # a pipe or a device, whose folder gets nothing new
    return None if _takes_files(target.parent) else "be in a folder that can be written"


def _takes_files(folder: Path) -> bool:
    """Return whether files can be made in a folder, or the nearest one that is there."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return folder.is_dir() and os.access(folder, os.W_OK | os.X_OK)


def new_folder_name(path: Path) -> str | None:
    """Require the name of a folder that can be made."""
    if path.name in ("", "..") or path.absolute() == Path.cwd():
        return "be the name of a folder to make"
    is_new = not _is_there(path) or (path.is_dir() and not any(path.iterdir()))
    if not is_new:
        return "not exist or be an empty folder"
    return None if _takes_files(Path(os.path.realpath(path)).parent) else "be in a folder that can be written"


def _is_there(path: Path) -> bool:
    """Return whether a path names something; a name that the system does not look up raises its `OSError`."""
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def _seed(value: int) -> str | None:
    return None if 0 <= value <= _MAX_SEED else f"be in [0, {_MAX_SEED}]"


def _temperature(value: float) -> str | None:
    low, high = _TEMPERATURES
    return None if low <= value <= high else f"be in [{low:g}, {high:g}]"


def _dtype(value: str) -> str | None:
    return None if value in _DTYPES else f"be one of {', '.join(_DTYPES)}"


def _device(value: str) -> str | None:
    kind, colon, index = value.partition(":")
    if value == "auto" or (kind in _DEVICES and (not colon or index.isdecimal())):
        return None
    return f"be auto or one of {', '.join(_DEVICES)}, with or without a number (cuda:1)"


def refuse_given(required: str, values: dict[str, Any]) -> None:
    """Raise a `ValueError` if an option is given that has no effect.

    Args:
        required (`str`): What it takes: `"go with `--speak`"`.
        values (`dict[str, Any]`): Options by name; `None` and `False` are not given.
    """
    for name, value in values.items():
        if value is not None and value is not False:
            raise ValueError(f"`{name}` must {required}, got {(str(value) if isinstance(value, Path) else value)!r}.")


def dtype_option(description: str) -> Any:
    """Return an option that takes the name of a type of numbers."""
    return typer.Option(metavar="DTYPE", help=description, callback=checked(_dtype), autocompletion=lambda: _DTYPES)


def check_seconds(seconds: float | None, mic: bool) -> None:
    """Raise a `ValueError` if `--seconds` is given without `--mic`."""
    if not mic:
        refuse_given("go with `--mic`", {"--seconds": seconds})


def _model(require: Callable[[Path, str], Any]) -> Callable[..., Any]:
    """Return a callback of typer that checks a checkpoint by its config.json."""

    def check(context: typer.Context, parameter: typer.CallbackParam, value: Path) -> Path:
        if not context.resilient_parsing:
            require(value, name_of(parameter))
        return value

    return check


_NANO = "or nano, the small one of the package"
Folder = Annotated[
    Path,
    typer.Argument(
        metavar="DIR",
        help=f"A folder with a JOSIE checkpoint; {_NANO}.",
        callback=_model(require_josie),
        autocompletion=complete_model,
    ),
]
AnyFolder = Annotated[
    Path,
    typer.Argument(
        metavar="DIR",
        help=f"A folder with any model of JOSIE, a whole or a part; {_NANO}, nano/jodio or nano/jovio.",
        callback=_model(require_ours),
        autocompletion=complete_model,
    ),
]
CodecFolder = Annotated[
    Path,
    typer.Option(
        "--model",
        metavar="DIR",
        help="A codec's checkpoint, or a JOSIE checkpoint with one; or nano/jodio (speech), nano/jovio (images).",
        callback=_model(require_codec),
        autocompletion=complete_model,
    ),
]
NewFolder = Annotated[
    Path, typer.Argument(metavar="OUT", help="The folder to make.", callback=checked(new_folder_name))
]
Out = Annotated[
    Path | None,
    typer.Option(
        help="The audio file to write, reply.wav if not given; its ending chooses the format.",
        callback=checked(audio_file_to_write),
    ),
]
Text = Annotated[
    str, typer.Argument(help="What to say aloud; - is the text on standard input.", callback=checked_text(words))
]
Seed = Annotated[int, typer.Option(help="Seed of everything random.", callback=checked(_seed))]
Speaker = Annotated[
    str | None, typer.Option(help="The voice, where the checkpoint has several.", callback=checked_text(utf8))
]
Temperature = Annotated[
    float | None,
    typer.Option(help="Sample at this temperature instead of taking the likeliest.", callback=checked(_temperature)),
]
MaxNewTokens = Annotated[int, typer.Option(help="Longest answer, in tokens.", callback=checked(at_least_one))]
MaxSeconds = Annotated[float | None, typer.Option(help="Longest speech, in seconds.", callback=checked(above_zero))]
Seconds = Annotated[
    float | None,
    typer.Option(
        help="How long to listen; until Ctrl-C where it is not given.",
        callback=checked(above_zero),
    ),
]
Device = Annotated[
    str,
    typer.Option(
        help="Where to compute: auto takes an accelerator where torch finds one, else the processor (cpu).",
        callback=checked(_device),
        autocompletion=lambda: ["auto", *_DEVICES],
    ),
]
Dtype = Annotated[
    str | None,
    dtype_option(
        "float32, bfloat16 or float16 for Thinker and Talker, as they were saved if not given; codecs are in float32."
    ),
]
Threads = Annotated[
    int | None,
    typer.Option(
        help="Threads of torch on the processor; as many as it chooses if not given.",
        callback=checked(at_least_one),
    ),
]
