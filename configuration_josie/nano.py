"""Where the small trained models are that come with the package."""

from pathlib import Path
from typing import Literal, get_args

NanoPart = Literal["jodio", "jovio"]
_FOLDER = Path(__file__).parents[1] / "nano"


def nano_path(part: NanoPart) -> str:
    """Return the folder of a small trained model, for `from_pretrained`; its README.md says what it is and can do.

    Args:
        part (`"jodio"` or `"jovio"`): The codec of speech, or that of pictures.

    Raises:
        `ValueError`: There is no such part.
    """
    if part not in get_args(NanoPart):
        raise ValueError(f"`part` must be one of {list(get_args(NanoPart))}, got {part!r}.")
    return str(_FOLDER / part)
