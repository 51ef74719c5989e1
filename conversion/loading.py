"""Loading of checkpoints whose files may be damaged or incomplete: errors that say which one, and of what."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def reading(folder: str | Path, what: str, argument: str = "DIR") -> Iterator[None]:
    """Turn what a damaged file makes its parser raise, which may be anything, into a `ValueError` that says which one.

    Args:
        folder (`str` or `Path`): The checkpoint.
        what (`str`): What is read from it: `"a valid config.json"`.
        argument (`str`): The argument of the command that named it.
    """
    try:
        yield
    except Exception as error:
        reason = _find_closed(Path(folder)) or str(error) or type(error).__name__
        raise ValueError(f"`{argument}` must hold {what}, got {str(folder)!r}: {reason}") from error


def _find_closed(folder: Path) -> str | None:
    """Return that a file of a checkpoint may not be read, which its parser may take for one that is not there."""
    files = sorted(folder.iterdir()) if folder.is_dir() and os.access(folder, os.R_OK) else []
    closed = [file for file in files if file.suffix in (".safetensors", ".json") and not os.access(file, os.R_OK)]
    return f"{str(closed[0])!r} is there and may not be read ({os.strerror(errno.EACCES)})." if closed else None


def load_whole(
    source: str | Path, model_class: Any, argument: str = "DIR", name: str | Path | None = None, **options: Any
) -> Any:
    """Load a model all of whose weights are in its checkpoint.

    Args:
        source (`str` or `Path`): A folder or Hub name.
        model_class: A model, or an Auto class.
        argument (`str`): What the user calls the checkpoint, for the message.
        name (`str` or `Path`, *optional*): What the user wrote, where that is another one than `source`.
        options: Others of `from_pretrained`.

    Raises:
        `ValueError`: The weights are damaged, or some are missing or of other shapes.
    """
    shown = str(source if name is None else name)
    with reading(shown, "a model's weights", argument):
        loaded: Any = model_class.from_pretrained(
            source, output_loading_info=True, ignore_mismatched_sizes=True, **options
        )
    model, loading = loaded
    wrong = {
        "which lacks {} of them": sorted(loading["missing_keys"]),
        "where {} of them are of other shapes": sorted(key for key, *_ in loading["mismatched_keys"]),
    }
    for fault, names in wrong.items():
        if names:
            raise ValueError(
                f"`{argument}` must hold all weights that its config.json asks for, got {shown!r}, "
                f"{fault.format(len(names))}, such as {names[0]!r}."
            )
    return model
