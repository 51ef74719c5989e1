"""Where the small trained models are that come with the package."""

from pathlib import Path
from typing import Literal, get_args

NanoPart = Literal["josie", "jodio", "jovio"]
_FOLDER = Path(__file__).parent


def nano_path(part: NanoPart = "josie") -> str:
    """Return the folder of a small trained model, for `from_pretrained`; its README.md says what it is and can do.

    Args:
        part (`"josie"`, `"jodio"` or `"jovio"`): The whole, which hears, sees, answers and speaks; a codec of speech by
            itself; or that of pictures.

    Raises:
        `ValueError`: There is no such part, or it was not installed.
    """
    if part not in get_args(NanoPart):
        raise ValueError(f"`part` must be one of {list(get_args(NanoPart))}, got {part!r}.")
    folder = _FOLDER / part
    if not (folder / "config.json").is_file():
        raise ValueError(f"`part` must be a model that came with this installation, got {part!r}: no {str(folder)!r}.")
    return str(folder)
