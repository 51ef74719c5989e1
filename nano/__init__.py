"""The small trained models that come with the package, and something to try them on."""

from pathlib import Path
from typing import Literal, get_args

NanoPart = Literal["josie", "jodio", "jovio"]
ExampleFile = Literal["scene.png", "question.flac"]
NANO_NAMES = {"nano": "josie", "nano/jodio": "jodio", "nano/jovio": "jovio"}  # on a command line
_FOLDER = Path(__file__).parent


def nano_path(part: NanoPart = "josie") -> str:
    """Return the folder of a small trained model, for `from_pretrained`; its README.md is its card.

    Args:
        part (`"josie"`, `"jodio"` or `"jovio"`): The whole model, which hears, sees, answers and speaks; a codec of
            speech; or a codec of images.

    Raises:
        `ValueError`: There is no such part, or it was not installed.
    """
    if part not in get_args(NanoPart):
        raise ValueError(f"`part` must be one of {list(get_args(NanoPart))}, got {part!r}.")
    folder = _FOLDER / part
    if not (folder / "config.json").is_file():
        raise ValueError(f"`part` must be a model that came with this installation, got {part!r}: no {str(folder)!r}.")
    return str(folder)


def example_path(name: ExampleFile) -> str:
    """Return a file to try JOSIE on: a drawn scene, or a spoken question about it, "How many things are there?".

    Args:
        name (`"scene.png"` or `"question.flac"`): 256 × 256 pixels; or 16 kHz, mono, one of flite's voices.

    Raises:
        `ValueError`: There is no such file.
    """
    if name not in get_args(ExampleFile):
        raise ValueError(f"`name` must be one of {list(get_args(ExampleFile))}, got {name!r}.")
    return str(_FOLDER / "examples" / name)


def find_model(name: str | Path) -> Path:
    """Return the folder of a model that a user named.

    Args:
        name (`str` or `Path`): A folder, or one of [`NANO_NAMES`]. A folder of that name which holds a checkpoint comes
            before the model of the package.

    Raises:
        `ValueError`: The name is of a model of the package, which was not installed.
    """
    folder = Path(name)
    part = NANO_NAMES.get(folder.as_posix())
    if part is None or (folder / "config.json").is_file():
        return folder
    return Path(nano_path(part))  # type: ignore[arg-type]
