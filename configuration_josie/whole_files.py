"""Files that appear under their names only when they are complete, for processing and modeling."""

import os
from pathlib import Path
from uuid import uuid4


def write_whole(path: Path, content: bytes | memoryview) -> None:
    """Make or replace a file, which is complete when it appears; a link, a pipe or a device stays what it is.

    Raises:
        `OSError`: It cannot be written; nothing of it is left.
    """
    target = Path(os.path.realpath(path))
    if target.exists() and not target.is_file():
        with target.open("wb") as stream:
            stream.write(content)
        return
    partial = target.with_name(f".{uuid4().hex}.partial")  # a longer name may be too long
    try:
        partial.write_bytes(content)
        os.replace(partial, target)
    finally:
        partial.unlink(missing_ok=True)
