"""Files of μOmni's checkpoints: every form of them becomes one table of weights under one set of names.

The names are those of the single safetensors file: `thinker. audio_encoder. vision_encoder. talker. rvq. proj_a.
proj_v.`, then the module's own. Pickles are only ever read with `weights_only=True`.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from .maps import DROPPED

# The entries of each file, and the prefix of their weights. "" is the file itself.
FILES = {
    "omni.pt": {"thinker": "thinker.", "proj_a": "proj_a.", "proj_v": "proj_v."},
    "thinker.pt": {"": "thinker."},
    "audio_enc.pt": {"enc": "audio_encoder.", "head": "audio_head."},
    "vision.pt": {
        "vit": "vision_encoder.",
        "head": "vision_head.",
        "img_proj": "vision_head.img_proj.",
        "text_proj": "vision_head.text_proj.",
    },
    "talker.pt": {"rvq": "rvq.", "talker": "talker."},
}
# The separate configuration files of the original, and the part of the one `config.json` that each of them is.
CONFIG_FILES = {
    "thinker_tiny.json": "thinker",
    "audio_enc_tiny.json": "audio_enc",
    "vision_tiny.json": "vision",
    "talker_tiny.json": "talker",
}
TRAINING_STATE = ("optimizer", "scheduler", "scaler", "step", "epoch", "best_val_loss")
COMPILED = "_orig_mod."  # torch.compile's prefix of a module's keys, at any depth


class Origin(NamedTuple):
    """A tensor and the file it came from."""

    tensor: torch.Tensor
    file: str


@dataclass
class MuomniCheckpoint:
    """Content of a checkpoint.

    Args:
        weights (`dict[str, Origin]`): By name.
        dropped (`list[tuple[str, str, str]]`): Key, file and reason of what was not taken.
        faults (`list[str]`): Faults of the keys that were found while reading.
        config (`dict`): `thinker`, `audio_enc`, `vision`, `talker` (each a dict) and `rvq_d`, as far as known.
        tokenizer (`Path`): The SentencePiece model.
        has_projectors (`bool`): Whether the training stage that gives the encoders their projectors was reached.
    """

    weights: dict[str, Origin] = field(default_factory=dict)
    dropped: list[tuple[str, str, str]] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    config: dict[str, Any] = field(default_factory=dict)
    tokenizer: Path = Path()
    has_projectors: bool = False

    def add(self, key: str, tensor: Any, file: str) -> None:
        """Take a weight, or note why not.

        Args:
            key (`str`): Its name.
            tensor: What stands under it, a tensor or something else.
            file (`str`): The file that it came from.
        """
        if is_dropped(key):
            self.weights[key] = Origin(tensor, file)  # of whatever kind, it is not looked at
        elif not isinstance(tensor, torch.Tensor) or not tensor.is_floating_point():
            type_name = str(tensor.dtype if isinstance(tensor, torch.Tensor) else type(tensor).__name__)
            self.faults.append(f"not a weight: {key} in {file}, a {type_name.removeprefix('torch.')}")
        elif key in self.weights:
            self.faults.append(f"given twice: {key} in {file} and in {self.weights[key].file}")
        else:
            self.weights[key] = Origin(tensor, file)


def read_checkpoint(
    source: str | Path, config: str | Path | dict | None = None, tokenizer: str | Path | None = None
) -> MuomniCheckpoint:
    """Read a checkpoint.

    Args:
        source (`str` or `Path`): A folder with `.pt` files, at its top or one folder below; or a safetensors file, or a
            folder with one.
        config (`str`, `Path` or `dict`, *optional*): The content of a `config.json`, or that file, or a folder with the
            original's separate files; looked for in the folder and in `configs` inside it when `None`.
        tokenizer (`str` or `Path`, *optional*): The SentencePiece model; the folder's `tokenizer.model` when `None`.

    Raises:
        `ValueError`: There is no checkpoint, or a file of it cannot be read.
    """
    source = Path(source)
    folder = source.parent if source.is_file() else source
    if not folder.is_dir():
        raise ValueError(
            f"`source` must be a folder or a .safetensors file, got {str(source)!r}, which does not exist."
        )
    checkpoint = MuomniCheckpoint()
    files = {} if source.is_file() else {name: path for name in FILES if (path := find_file(folder, name))}
    if files:
        for name, path in files.items():
            _add_pickle(checkpoint, name, path, path.relative_to(folder).as_posix())
        used = set(files.values())
    else:
        path = source if source.is_file() else _find_safetensors(folder)
        _add_safetensors(checkpoint, path)
        used = {path}
    if source.is_dir():
        for path in sorted([*folder.rglob("*.pt"), *folder.rglob("*.safetensors")]):
            if path not in used:
                name = path.relative_to(folder).as_posix()
                checkpoint.dropped.append(("*", name, "no file of the model"))
    checkpoint.config = read_config(folder if config is None else config)
    found = find_file(folder, "tokenizer.model") if tokenizer is None else Path(tokenizer)
    if found is None:
        raise ValueError(f"`source` must have a tokenizer.model, got {str(source)!r}, without one.")
    checkpoint.tokenizer = found
    return checkpoint


def is_dropped(key: str) -> bool:
    """Return whether a key is of a part that JOSIE has no use for."""
    return key.startswith(tuple(DROPPED))


def find_file(folder: Path, name: str) -> Path | None:
    """Return the file called `name` in `folder` or one folder below.

    Raises:
        `ValueError`: There are several.
    """
    found = sorted([*folder.glob(name), *folder.glob(f"*/{name}")])
    if len(found) > 1:
        raise ValueError(
            f"`source` must have one {name}, got {[path.relative_to(folder).as_posix() for path in found]}."
        )
    return found[0] if found else None


def read_config(config: str | Path | dict) -> dict[str, Any]:
    """Return `thinker`, `audio_enc`, `vision`, `talker` (each a dict) and `rvq_d`, as far as they are known.

    Args:
        config (`str`, `Path` or `dict`): A `config.json` or its content; of its two forms, the flat one describes
            the Thinker alone. Or a folder with one, or with the original's separate files.

    Raises:
        `ValueError`: A file cannot be read or holds something else.
    """
    config_dict: dict[str, Any] = {}
    if isinstance(config, dict):
        config_dict = config
    elif (path := Path(config)).is_dir():
        for folder in (path / "configs", path):
            config_dict |= {
                part: _read_json(folder / name) for name, part in CONFIG_FILES.items() if (folder / name).is_file()
            }
        config_dict |= _nest(_read_json(path / "config.json")) if (path / "config.json").is_file() else {}
    else:
        config_dict = _read_json(path)
    config_dict = _nest(config_dict)
    for part in CONFIG_FILES.values():
        if not isinstance(config_dict.setdefault(part, {}), dict):
            raise ValueError(f"`config` must have an object for {part!r}, got {config_dict[part]!r}.")
    return config_dict


def _nest(config_dict: dict[str, Any]) -> dict[str, Any]:
    return {"thinker": config_dict} if "d_model" in config_dict else config_dict


def _read_json(path: Path) -> dict[str, Any]:
    try:
        config_dict = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"`config` must be readable JSON, got {str(path)!r}: {error}.") from error
    if not isinstance(config_dict, dict):
        raise ValueError(f"`config` must hold a JSON object, got {str(path)!r}, with a {type(config_dict).__name__}.")
    return config_dict


def _add_pickle(checkpoint: MuomniCheckpoint, name: str, path: Path, file: str) -> None:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # the unpickler stumbles over a broken file in any way there is
        reason = str(error).splitlines()[0].rstrip(".") if str(error) else type(error).__name__
        raise ValueError(f"`source` must hold files of weights only, got {file!r}: {reason}.") from error
    if not isinstance(content, dict):
        raise ValueError(f"`source` must hold dictionaries of weights, got {file!r}, with a {type(content).__name__}.")

    def drop(key: str, reason: str) -> None:
        checkpoint.dropped.append((key, file, reason))

    entries = FILES[name]
    if "" in entries:
        content = {"": content}
    for entry, value in content.items():
        if entry in TRAINING_STATE:
            drop(entry, "state of the training")
        elif is_dropped(entries.get(entry, "")) and not isinstance(value, dict):
            checkpoint.add(entries[entry] + entry, value, file)
        elif entry not in entries or not isinstance(value, dict):
            checkpoint.faults.append(f"unknown: {entry} in {file}")
        else:
            for key, tensor in _unwrap(value, drop):
                key = f"{entries[entry]}{key}"
                if name == "thinker.pt" and any(known.startswith("thinker.") for known in _of(checkpoint, "omni.pt")):
                    drop(key, "omni.pt has the Thinker of a later stage")
                else:
                    checkpoint.add(key, tensor, file)
    checkpoint.has_projectors |= name == "omni.pt"


def _of(checkpoint: MuomniCheckpoint, name: str) -> list[str]:
    return [key for key, origin in checkpoint.weights.items() if Path(origin.file).name == name]


def _unwrap(weights: dict[str, Any], drop: Callable[[str, str], None]) -> Iterator[tuple[str, Any]]:
    """Yield keys and tensors of a state dict, which may be wrapped as `{"model": ...}` and be of a compiled model."""
    while isinstance(weights.get("model"), dict):
        for key in weights.keys() & set(TRAINING_STATE):
            drop(key, "state of the training")
        rest = {key: value for key, value in weights.items() if key != "model" and key not in TRAINING_STATE}
        weights = weights["model"] | rest
    for key, tensor in weights.items():
        yield str(key).replace(COMPILED, ""), tensor


def _find_safetensors(folder: Path) -> Path:
    found = sorted(folder.glob("*.safetensors"))
    chosen = [path for path in found if path.name == "model.safetensors"] or found
    if len(chosen) != 1:
        got = [path.name for path in found] or "none of them"
        raise ValueError(
            f"`source` must have one .safetensors file, or one of {', '.join(FILES)}, got {got} in {str(folder)!r}."
        )
    return chosen[0]


def _add_safetensors(checkpoint: MuomniCheckpoint, path: Path) -> None:
    try:
        content = load_file(path)
    except (OSError, SafetensorError) as error:
        raise ValueError(f"`source` must be a readable .safetensors file, got {str(path)!r}: {error}.") from error
    for key, tensor in content.items():
        checkpoint.add(key.replace(COMPILED, ""), tensor, path.name)
    checkpoint.has_projectors = any(key.startswith(("proj_a.", "proj_v.")) for key in checkpoint.weights)
