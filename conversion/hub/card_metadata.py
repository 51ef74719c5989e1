"""Metadata of a model card: what the Hub reads of a model before anybody reads the text."""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard
from transformers.configuration_utils import PreTrainedConfig

CODECS = ("jodio", "josie_mel_codec", "jovio")
_DATASET_ID = re.compile(r"[\w.-]+/[\w.-]+")
_PIPELINE_TAGS = {
    "josie": "any-to-any",
    "josie_talker": "text-to-speech",
    "jodio": "audio-to-audio",
    "josie_mel_codec": "audio-to-audio",
    "jovio": "image-feature-extraction",
    "josie_vision_encoder": "image-feature-extraction",
}


def pipeline_tag(config: PreTrainedConfig) -> str:
    """Return the Hub's name for the task of a model of this package."""
    if config.model_type == "josie_thinker":
        modality = next((name for name in ("image", "audio") if name in config.input_modalities), None)
        return f"{modality}-text-to-text" if modality else "text-generation"
    return _PIPELINE_TAGS.get(config.model_type, "feature-extraction")


def list_tags(config: PreTrainedConfig, with_code: bool) -> list[str]:
    """Return the tags that follow from a configuration, the model types of its codecs among them."""
    tags = ["josie", config.model_type]
    if config.model_type in CODECS:
        tags.append("codec")
    parts = (getattr(config, name, None) for name in ("audio_codec_config", "vision_codec_config"))
    tags += [part.model_type for part in parts if part is not None]
    return list(dict.fromkeys([*tags, *(["custom_code"] if with_code else [])]))


def find_datasets(names: Iterable[str]) -> list[str]:
    """Return those of `names` that are data sets on the Hub, `owner/name`."""
    return [name for name in names if _DATASET_ID.fullmatch(name)]


def write_results(
    metrics: Mapping[str, float | int | str], evaluated_on: str | None, model_name: str, task: str
) -> dict[str, Any]:
    """Return metrics as the Hub's model index.

    Args:
        metrics (`Mapping[str, float]`): Names and values.
        evaluated_on (`str`, *optional*): The data, a name on the Hub or words.
        model_name (`str`): Name of the model in the index.
        task (`str`): Its pipeline tag.
    """
    dataset_name = evaluated_on or "unspecified"
    dataset_type = dataset_name if find_datasets([dataset_name]) else _slug(dataset_name)
    results = [
        EvalResult(
            task_type=task,
            dataset_type=dataset_type,
            dataset_name=dataset_name,
            metric_type=_slug(name),
            metric_name=name,
            metric_value=value,
        )
        for name, value in metrics.items()
    ]
    return {"eval_results": results, "model_name": model_name}


def merge_metadata(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """Return the metadata of an old card with new metadata: lists are joined, task and library stay the old ones."""
    merged = dict(old)
    for key, value in new.items():
        if value is None:
            continue
        if key in ("tags", "datasets", "language"):
            before = merged.get(key) or []
            before = [before] if isinstance(before, str) else before
            merged[key] = list(dict.fromkeys([*before, *value]))
        elif key not in ("library_name", "pipeline_tag") or not merged.get(key):
            merged[key] = value
    if "eval_results" in new:
        merged.pop("model-index", None)
    return merged


def require_same_license(card: Path, license: str | None) -> None:
    """Refuse another licence than the card's for weights that are only copied: their author can change the card.

    Args:
        card (`Path`): The card that came with the weights.
        license (`str`, *optional*): The licence to name; nothing is refused when `None`.

    Raises:
        `ValueError`: The card names another licence.
    """
    known = ModelCard.load(card, ignore_metadata_errors=True).data.to_dict().get("license")
    if license is not None and known and str(known).lower() != license.lower():
        raise ValueError(f"`license` must be {str(known)!r}, as {str(card)!r} says of these weights, got {license!r}.")


def _slug(text: str) -> str:
    return re.sub(r"\W+", "-", text.lower()).strip("-")
