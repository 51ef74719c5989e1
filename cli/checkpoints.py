"""Checkpoints that a command line names: finding them, checking them by their config.json alone, and loading them.

The checks need neither torch nor transformers.
"""

import difflib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ..conversion.loading import load_whole, reading
from ..nano import NANO_NAMES, find_model
from .shared import quieten, report

if TYPE_CHECKING:
    import torch

    from ..configuration_josie import JosieConfig
    from ..modeling_josie import JosieForConditionalGeneration
    from ..processing_josie import JosieProcessor

_OUR_TYPES = ("josie", "jodio", "jovio")  # how the model types of this package begin
_OUR_CODECS = ("jodio", "josie_mel_codec", "jovio")
_STREAMING_CODECS = ("jodio", "mimi")  # as in `configuration_josie.constants`, which imports transformers


def read_config_dict(folder: Path, argument: str = "DIR") -> dict[str, Any]:
    """Return the contents of a checkpoint's config.json, and at least its `model_type`.

    Args:
        folder (`Path`): A folder, or a name that [`find_model`] knows.
        argument (`str`): What the user calls it, for the message.

    Raises:
        `ValueError`: There is none, or it is damaged.
    """
    required = f"`{argument}` must be a folder with a JOSIE checkpoint"
    file = find_model(folder) / "config.json"
    if not file.is_file():
        similar = difflib.get_close_matches(folder.as_posix(), NANO_NAMES, n=1)
        hint = f" Did you mean {similar[0]!r}?" if similar else ""
        raise ValueError(f"{required}, got {str(folder)!r}, without a config.json.{hint}")
    try:
        config_dict = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise ValueError(f"{required}, got {str(file)!r}: {error}.") from error
    return config_dict if isinstance(config_dict, dict) and "model_type" in config_dict else {"model_type": None}


def require_josie(folder: Path, argument: str = "DIR") -> dict[str, Any]:
    """Return the config.json of a whole JOSIE.

    Raises:
        `ValueError`: `folder` holds no JOSIE checkpoint.
    """
    config_dict = read_config_dict(folder, argument)
    if config_dict["model_type"] != "josie":
        raise ValueError(
            f"`{argument}` must be a folder with a JOSIE checkpoint, got {str(folder)!r}, of the model type "
            f"{config_dict['model_type']!r}."
        )
    return config_dict


def require_ours(folder: Path, argument: str = "DIR") -> None:
    """Raise a `ValueError` if a folder holds no model of this package."""
    model_type = read_config_dict(folder, argument)["model_type"]
    if not str(model_type).startswith(_OUR_TYPES):
        raise ValueError(f"`{argument}` must hold a model of this package, got {str(folder)!r}, a {model_type!r}.")


def require_codec(folder: Path, argument: str = "--model") -> None:
    """Raise a `ValueError` if a folder holds a model of this package that is no codec and has none."""
    config_dict = read_config_dict(folder, argument)
    model_type = config_dict["model_type"]
    parts = [f"{modality}_codec" for modality in ("audio", "vision")]
    if model_type == "josie" and not any(config_dict.get(f"{part}_config", "unknown") for part in parts):
        raise ValueError(f"`{argument}` must have a codec, got {str(folder)!r} without `{parts[0]}` and `{parts[1]}`.")
    if model_type is None or (model_type.startswith(_OUR_TYPES) and model_type not in ("josie", *_OUR_CODECS)):
        raise ValueError(f"`{argument}` must have a codec, got {str(folder)!r}, of the model type {model_type!r}.")


def require_speech(folder: Path, speaker: str | None = None, what_for: str = "") -> None:
    """Check by its config.json that a JOSIE speaks, and has a voice.

    Args:
        folder (`Path`): Its checkpoint.
        speaker (`str`, *optional*): Name of the voice.
        what_for (`str`): What needs speech, for the message.

    Raises:
        `ValueError`: There is no Talker or no audio codec, or it has no such voice.
    """
    config_dict = require_josie(folder)
    missing = [part for part in ("talker", "audio_codec") if not config_dict.get(f"{part}_config", "unknown")]
    if missing:
        raise ValueError(
            f"`DIR` must hold a model that speaks{what_for}, got {str(folder)!r} without "
            f"{' and '.join(f'`{part}`' for part in missing)}."
        )
    talker = config_dict.get("talker_config")
    if speaker is not None and isinstance(talker, dict) and "speakers" in talker and speaker not in talker["speakers"]:
        allowed = f"be one of {talker['speakers']}" if talker["speakers"] else "be left out for a single, unnamed voice"
        raise ValueError(f"`--speaker` must {allowed}, got {speaker!r}.")


def speaks_in_stream(folder: Path) -> bool:
    """Return whether a JOSIE's audio codec makes samples while codes come, by its config.json."""
    return (require_josie(folder).get("audio_codec_config") or {}).get("model_type") in _STREAMING_CODECS


def require_streamed_speech(folder: Path, option: str, instead: str) -> None:
    """Check by its config.json that a JOSIE can speak while it writes.

    Args:
        folder (`Path`): Its checkpoint.
        option (`str`): What asks for it, for the message: `"--stream"`.
        instead (`str`): What to do with this model: `"leave it out"`.

    Raises:
        `ValueError`: Its audio codec decodes whole utterances.
    """
    if not speaks_in_stream(folder):
        codec = (require_josie(folder).get("audio_codec_config") or {}).get("model_type")
        raise ValueError(
            f"`{option}` must go with a model whose audio codec is one of {', '.join(_STREAMING_CODECS)}, which make "
            f"samples while codes come, got {str(folder)!r} with {codec!r}, which decodes whole utterances: {instead}."
        )


def require_units(folder: Path) -> None:
    """Raise a `ValueError` if a JOSIE was not made for full duplex, by its config.json."""
    thinker = require_josie(folder).get("thinker_config") or {}
    if thinker.get("unit_frames") is None:
        raise ValueError(
            f"`DIR` must hold a model that learned when to speak, with `unit_frames`, got {str(folder)!r} without."
        )


def require_modality(folder: Path, modality: Literal["audio", "image", "video"], option: str, value: Any) -> None:
    """Check by its config.json that a JOSIE takes inputs of a modality.

    Args:
        folder (`Path`): Its checkpoint.
        modality (`"audio"`, `"image"` or `"video"`): Of the input.
        option (`str`): How it is given, for the message: `"--image"`.
        value: What is given; nothing is checked where it is empty.

    Raises:
        `ValueError`: The model takes none.
    """
    thinker = require_josie(folder).get("thinker_config")
    tower, token = f"{'audio' if modality == 'audio' else 'vision'}_config", f"{modality}_token_id"
    if value and isinstance(thinker, dict) and (not thinker.get(tower, "?") or thinker.get(token, "?") is None):
        shown = [str(item) for item in value] if isinstance(value, list) else value
        raise ValueError(f"`{option}` must be left out, as this model takes no {modality}, got {shown!r}.")


def read_config(folder: Path) -> "JosieConfig":
    """Read and check the configuration of a JOSIE checkpoint.

    Raises:
        `ValueError`: `folder` holds none, or an impossible one.
    """
    config_dict = require_josie(folder)

    from ..configuration_josie import JosieConfig

    with reading(folder, "a valid config.json"):
        return JosieConfig.from_dict(config_dict)


def load_processor(folder: Path) -> "JosieProcessor":
    """Load the processor of a JOSIE checkpoint."""
    read_config(folder)

    from ..processing_josie import JosieProcessor

    quieten()
    with reading(folder, "the files of a processor"):
        return JosieProcessor.from_pretrained(find_model(folder))


def load_josie(
    folder: Path, device: "torch.device | str" = "cpu", dtype: str | None = None
) -> "JosieForConditionalGeneration":
    """Load a JOSIE in eval mode, its codecs prepared for inference.

    Args:
        folder (`Path`): Its checkpoint.
        device (`torch.device` or `str`): Where it computes.
        dtype (`str`, *optional*): Of Thinker and Talker, as they were saved when `None`. Codecs are in float32, as
            rounded weights choose other codes.

    Raises:
        `ValueError`: The weights are damaged, or some are missing or of other shapes.

    A dtype in which the processor is slow is noted, be it asked for or the checkpoint's own.
    """
    import torch

    from ..modeling_josie import JosieForConditionalGeneration
    from ..modeling_josie.layers.precision import describe_slowdown

    quieten()
    model = load_model(folder, JosieForConditionalGeneration)
    if dtype is not None:
        for part in (model.thinker, model.talker):
            if part is not None:
                part.to(getattr(torch, dtype))
    for codec in (model.audio_codec, model.vision_codec):
        if codec is not None:
            codec.float()
    slowness = describe_slowdown(model.thinker.dtype, device)
    if slowness is not None:
        report(f"Warning: {slowness} `--dtype float32` is faster, and takes twice the memory.")
    return model.to(device).prepare_for_inference()


def load_model(folder: Path, model_class: Any, argument: str = "DIR") -> Any:
    """Load a model in eval mode.

    Args:
        folder (`Path`): Its checkpoint.
        model_class: A model, or an Auto class.
        argument (`str`): What the user calls the folder, for the message.

    Raises:
        `ValueError`: The weights are damaged, or some are missing or of other shapes.
    """
    return load_whole(find_model(folder), model_class, argument, name=folder).eval()


def read_codec_config(folder: Path, modality: Literal["audio", "vision"], argument: str = "--model") -> Any:
    """Read the configuration of a codec: of its own checkpoint, or of the codec for `modality` inside a JOSIE.

    Args:
        folder (`Path`): The checkpoint.
        modality (`"audio"` or `"vision"`): Which of two codecs; the one there is where there is one.
        argument (`str`): What the user calls the folder, for the message.

    Returns:
        The configuration.

    Raises:
        `ValueError`: There is no codec, or the checkpoint is damaged.
    """
    require_codec(folder, argument)
    model_type = read_config_dict(folder, argument)["model_type"]
    if model_type == "josie":
        config: Any = read_config(folder)
        return getattr(config, _codec_name(config, modality) + "_config")

    from transformers import CONFIG_MAPPING, AutoConfig

    from ..configuration_josie import is_codec

    if model_type not in CONFIG_MAPPING:
        raise ValueError(f"`{argument}` must have a codec, got {str(folder)!r}, of the model type {model_type!r}.")
    quieten()
    with reading(folder, "a valid config.json", argument):
        config = AutoConfig.from_pretrained(find_model(folder))
    if not is_codec(config):
        raise ValueError(f"`{argument}` must have a codec, got {str(folder)!r}, of the model type {model_type!r}.")
    return config


def load_codec(
    folder: Path,
    modality: Literal["audio", "vision"],
    device: "torch.device | str" = "cpu",
    dtype: str = "float32",
    argument: str = "--model",
) -> Any:
    """Load the codec of which [`read_codec_config`] reads the configuration, prepared for inference.

    Args:
        folder, modality, argument: As there.
        device (`torch.device` or `str`): Where it computes.
        dtype (`str`): Of its weights.

    Raises:
        `ValueError`: The weights are damaged, or some are missing or of other shapes.
    """
    import torch
    from transformers import AutoModel

    from ..modeling_josie import JosieForConditionalGeneration
    from ..modeling_josie.codecs.inference import prepare_codec

    quieten()
    if read_config_dict(folder, argument)["model_type"] == "josie":
        whole = load_model(folder, JosieForConditionalGeneration, argument)
        codec = getattr(whole, _codec_name(whole.config, modality))
    else:
        codec = load_model(folder, AutoModel, argument)
    return prepare_codec(codec.to(device, getattr(torch, dtype)))


def _codec_name(config: "JosieConfig", modality: str) -> str:
    """Return the name of a JOSIE's codec for a modality, or of the only one it has."""
    names = [f"{name}_codec" for name in ("audio", "vision") if getattr(config, f"{name}_codec_config") is not None]
    return f"{modality}_codec" if f"{modality}_codec" in names else names[0]


def list_files(folder: Path) -> list[Path]:
    """Return the files of a checkpoint that loading reads: weights, configurations, tokenizers."""
    patterns = ("*.safetensors", "*.safetensors.index.json", "*config.json", "tokenizer*.json", "tokenizer.model")
    return [file for pattern in patterns for file in sorted(find_model(folder).glob(pattern))]


def complete_model(incomplete: str) -> list[str]:
    """Return what a shell may complete the name of a model to: the models of the package, and folders."""
    start = Path(incomplete)
    parent = start if incomplete.endswith("/") or not incomplete else start.parent
    folders = parent.iterdir() if parent.is_dir() else ()
    found = sorted(f"{path.as_posix()}/" for path in folders if path.is_dir() and not path.name.startswith("."))
    return [name for name in (*NANO_NAMES, *found) if name.startswith(incomplete)]
