"""Inputs of the codec commands, told apart and checked against a codec's config.json, without torch."""

import json
from pathlib import Path
from typing import Any

from .checkpoints import read_config_dict
from .media import Modality, find_modalities

CODES_FORMAT = "josie codes"
_NAMES = {"audio": "audio", "image": "an image", "video": "a video"}
_STREAMING_TYPES = ("jodio",)


def read_codec_dicts(folder: Path) -> dict[str, dict[str, Any]]:
    """Return the configurations of the codecs in a checkpoint, `"audio"` and `"vision"`, as its config.json has them.

    A checkpoint that is not of this package is taken for a codec of audio, until it is read by transformers.
    """
    config_dict = read_config_dict(folder, "--model")
    if config_dict["model_type"] == "josie":
        codecs = {modality: config_dict.get(f"{modality}_codec_config") for modality in ("audio", "vision")}
        return {modality: codec for modality, codec in codecs.items() if isinstance(codec, dict)}
    return {"vision" if config_dict["model_type"] == "jovio" else "audio": config_dict}


def choose_modality(file: Path | None, folder: Path) -> Modality:
    """Return as what a checkpoint codes a file, or the microphone where there is none.

    Raises:
        `ValueError`: It has no codec for what the file holds.
    """
    found = ("audio",) if file is None else find_modalities(file)
    codecs = read_codec_dicts(folder)
    for modality in found:
        if ("audio" if modality == "audio" else "vision") in codecs:
            return modality
    wanted = " or ".join(
        name for name, codec in (("audio", "audio"), ("an image or a video", "vision")) if codec in codecs
    )
    types = " and ".join(repr(codec.get("model_type")) for codec in codecs.values())
    got = "the microphone" if file is None else str(file)
    held = " or ".join(_NAMES[modality] for modality in found) or "which is none of these"
    verb = "codes" if len(codecs) == 1 else "code"
    raise ValueError(f"`FILE` must be {wanted}, which {types} {verb}, got {got!r}, {held}.")


def check_codec_options(folder: Path, modality: Modality, num_quantizers: int | None, stream: bool) -> None:
    """Check options against the codec for a modality, as far as its config.json tells.

    Args:
        folder (`Path`): A checkpoint with the codec.
        modality (`"audio"`, `"image"` or `"video"`): What is encoded.
        num_quantizers (`int`, *optional*): As given.
        stream (`bool`): Whether `--stream` is given.

    Raises:
        `ValueError`: It has fewer quantizers, or does not stream.
    """
    codec = read_codec_dicts(folder).get("audio" if modality == "audio" else "vision", {})
    available = codec.get("num_quantizers", codec.get("n_codebooks"))
    if num_quantizers is not None and isinstance(available, int) and num_quantizers > available:
        raise ValueError(f"`--num-quantizers` must be in [1, {available}], got {num_quantizers}.")
    if stream and codec.get("model_type") not in _STREAMING_TYPES:
        raise ValueError(
            f"`--stream` must be used with a codec that streams ({', '.join(map(repr, _STREAMING_TYPES))}), got "
            f"{codec.get('model_type')!r}."
        )


def read_codes_metadata(path: Path) -> dict[str, Any]:
    """Return the metadata of a file of codes, see [`~josie.cli.codec_files.Codes`].

    Raises:
        `ValueError`: `josie codec encode` did not write it, or it is damaged.
    """
    from safetensors import SafetensorError, safe_open

    required = f"`CODES` must be a file that `josie codec encode` wrote, got {str(path)!r}"
    try:
        with safe_open(path, "numpy") as file:
            metadata = dict(file.metadata() or {})
        if metadata.pop("format", None) != CODES_FORMAT:
            raise ValueError(f"{required}, without its metadata.")
        values = {name: json.loads(value) for name, value in metadata.items()}
    except (SafetensorError, json.JSONDecodeError) as error:
        raise ValueError(f"{required}: {error}.") from error
    values["modality"] = values.pop("kind", values.get("modality"))  # its name before version 0.3
    needed = (
        ("sampling_rate", "hop_length", "length") if values["modality"] == "audio" else ("patch", "grid", "num_frames")
    )
    missing = [name for name in ("model_type", "codebook_size", *needed) if values.get(name) is None]
    if values["modality"] not in ("audio", "image", "video") or missing:
        raise ValueError(f"{required}, of {values['modality']} without {missing}.")
    return values
