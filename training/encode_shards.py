"""Shards of an encoding on the disk: their names, and whether each is there as it was written.

The mark of a shard, `shards/00003.json`, has the size of its file and a hash of that file's end, where Parquet keeps
the number of rows, and the place and bounds of each column. By these a file that is cut, empty, or another shard's is
found without reading its rows. Marks of encodings from before have neither: their files are asked for their rows.
"""

import hashlib
import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from pyarrow import ArrowException

PLAN_FILE = "encoding.json"
_SIZE, _END = "bytes", "end"  # what a mark has of a file
_MAGIC = b"PAR1"  # Parquet's last bytes, behind four that count those of the end


def shard_files(folder: Path, shard: int, num_shards: int) -> tuple[Path, Path]:
    """Return the file of a shard's rows, and that which says that it is complete.

    Args:
        folder (`Path`): Of the encoding.
        shard, num_shards (`int`): Its number, and that of all.
    """
    return folder / "data" / f"train-{shard:05d}-of-{num_shards:05d}.parquet", folder / "shards" / f"{shard:05d}.json"


def record_file(path: Path) -> dict[str, Any]:
    """Return what a mark has of a shard's file, so that another one under its name is told from it."""
    size = path.stat().st_size
    return {_SIZE: size, _END: _hash_end(path, size)}


def _hash_end(path: Path, size: int) -> str:
    with path.open("rb") as file:
        file.seek(max(size - 8, 0))
        last = file.read()
        if last[4:] == _MAGIC:
            file.seek(max(size - 8 - int.from_bytes(last[:4], "little"), 0))
            last = file.read()
    return hashlib.sha256(last).hexdigest()


def is_complete(folder: Path, shard: int, num_shards: int) -> bool:
    """Return whether a shard is there as it was written; of a copy of the rows alone, whether its file can be read.

    Args:
        folder (`Path`): Of the encoding.
        shard, num_shards (`int`): Its number, and that of all.
    """
    rows, mark = shard_files(folder, shard, num_shards)
    if not mark.parent.is_dir():  # a copy of the rows alone
        return rows.is_file() and _count_rows(rows) is not None
    state = _read_mark(mark)
    if state is None:
        return False
    if not state["num_rows"]:
        return not rows.exists()
    if not rows.is_file():
        return False
    if _SIZE not in state:
        return _count_rows(rows) == state["num_rows"]
    return rows.stat().st_size == state[_SIZE] and _hash_end(rows, state[_SIZE]) == state[_END]


def _read_mark(mark: Path) -> dict[str, Any] | None:
    """Return what a mark says; `None` where there is none, or not a whole one."""
    if not mark.is_file():
        return None
    try:
        state = json.loads(mark.read_text(encoding="utf-8"))
    except ValueError:  # cut, or of other bytes
        return None
    return state if isinstance(state, dict) and {"num_rows", "num_frames", "broken"} <= state.keys() else None


def _count_rows(path: Path) -> int | None:
    """Return the number of rows of a Parquet file; `None` of what is none."""
    try:
        return pq.read_metadata(path).num_rows
    except ArrowException:
        return None


def require_no_others(folder: Path, num_shards: int, argument: str) -> None:
    """Raise a `ValueError` that names a file beside the shards, which `datasets` would read as one of them.

    Args:
        folder (`Path`): Of the encoding.
        num_shards (`int`): Of all shards.
        argument (`str`): What the folder is called.
    """
    own = {shard_files(folder, shard, num_shards)[0].name for shard in range(num_shards)}
    found = sorted(path for path in (folder / "data").glob("*.parquet") if not path.name.startswith("."))
    others = [path for path in found if path.name not in own]
    if others:
        raise ValueError(
            f"{argument} must have no files in `data` beside the {num_shards} shards of its encoding, got "
            f"{str(others[0])!r}: delete it."
        )


def read_plan(folder: Path) -> dict[str, Any]:
    """Return what a folder says that it has encoded; nothing where it is none of `josie encode`.

    Raises:
        `ValueError`: That cannot be read.
    """
    path = folder / PLAN_FILE
    if not path.is_file():
        return {}
    try:
        plan = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{PLAN_FILE!r} of an encoding must be JSON, got {str(path)!r}: {error}.") from error
    return plan if isinstance(plan, dict) else {}


def require_complete(folder: Path, names: Collection[str] | None = None) -> None:
    """Raise a `ValueError` unless all shards of a folder of `josie encode` are there as they were written, alone.

    Args:
        folder (`Path`): Of the encoding.
        names (`Collection[str]`, *optional*): Files of the shards to look at, where others are not read.
    """
    plan = read_plan(folder)
    num_shards = -(-plan["num_rows"] // plan["shard_rows"])
    files = {shard: shard_files(folder, shard, num_shards)[0] for shard in range(num_shards)}
    wanted = [shard for shard, file in files.items() if names is None or file.name in names]
    missing = [shard for shard in wanted if not is_complete(folder, shard, num_shards)]
    if missing:
        file = files[missing[0]]
        state = "as it was written" if file.exists() else "at all"
        raise ValueError(
            f"`path` of a source must have all shards of its encoding, got {str(folder)!r} with "
            f"{len(wanted) - len(missing)} of {len(wanted)}, where {str(file.relative_to(folder))!r} is not there "
            f"{state}: the same `josie encode` again makes the others."
        )
    if names is None:
        require_no_others(folder, num_shards, "`path` of a source")
