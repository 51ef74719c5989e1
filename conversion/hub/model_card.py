"""Model cards: what a model is, its training, its scores, its limits, and an example that runs.

`templates/model_card.md` is the card. The sections that it makes stand between HTML comments that name them, so that
they can be made anew; whatever a person wrote around them stays.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import ModelCard, ModelCardData
from transformers import AutoModel, PreTrainedModel
from transformers.configuration_utils import PreTrainedConfig

from ... import modeling_josie
from ...configuration_josie import audio_codec_geometry
from .card_metadata import (
    CODECS,
    find_datasets,
    list_tags,
    merge_metadata,
    pipeline_tag,
    write_results,
)

CARD_FILE = "README.md"
_TEMPLATE = Path(__file__).parent / "templates" / "model_card.md"
_SECTION = re.compile(r"<!-- josie:(\w+) -->\n.*?\n<!-- /josie:\1 -->", re.DOTALL)
_DESCRIPTIONS = {
    "josie": "An omni model: it reads {inputs} and writes {outputs}.",
    "josie_thinker": "A language model that reads {inputs}: the part of an omni model that listens, looks and writes.",
    "josie_talker": "The voice of an omni model: a language model's states to codes of speech, frame by frame.",
    "jodio": "A neural audio codec: waveforms to codes and back.",
    "josie_mel_codec": "An audio codec of quantized mel spectrograms, which are heard through Griffin-Lim.",
    "jovio": "A vision codec: images and videos to codes and back.",
    "josie_audio_encoder": "An audio encoder: mel spectrograms to features.",
    "josie_vision_encoder": "An image encoder: pixels to features.",
    "josie_text": "A text backbone: token ids to hidden states.",
    "josie_backbone": "A transformer: embeddings to hidden states.",
}


@dataclass(frozen=True)
class _Part:
    """A row of the table of parts."""

    name: str
    class_name: str
    num_parameters: int


def write_model_card(
    folder: str | Path,
    config: PreTrainedConfig,
    *,
    model: PreTrainedModel | None = None,
    with_code: bool = False,
    data: Sequence[str] = (),
    metrics: Mapping[str, float | int | str] | None = None,
    evaluated_on: str | None = None,
    evaluation_command: str | None = None,
    evaluation_date: str | None = None,
    command: str | None = None,
    hours: float | None = None,
    hardware: str | None = None,
    license: str | None = None,
    license_notes: Sequence[str] = (),
    languages: Sequence[str] = (),
    tags: Iterable[str] = (),
    base_model: str | Sequence[str] | None = None,
    repo_id: str | None = None,
    title: str | None = None,
    source: str | None = None,
    question: str = "What is on the table?",
    limitations: str | None = None,
) -> Path:
    """Write the model card of a folder, `README.md`. A card that is there is kept and completed, not replaced.

    Of an existing card, all text outside of the marked sections stays, sections are made anew where there is something
    to say, given metadata win over old metadata, and lists are joined.

    Args:
        folder (`str` or `Path`): Of the checkpoint.
        config ([`PreTrainedConfig`]): Of a model of this package.
        model ([`PreTrainedModel`], *optional*): The model, whose parameters are counted; built without memory from
            `config` when `None`.
        with_code (`bool`): The folder has the code with it, and needs no installed package.
        data (`Sequence[str]`): Training data: names on the Hub (`owner/name`), which become metadata too, or words.
        metrics (`Mapping[str, float]`, *optional*): Names and values, in the order to show them.
        evaluated_on (`str`, *optional*): The data of `metrics`, a name on the Hub or words.
        evaluation_command, evaluation_date (`str`, *optional*): The command that measured `metrics`, and the day.
        command (`str`, *optional*): The command that trained the model.
        hours (`float`, *optional*): Training time.
        hardware (`str`, *optional*): The machine it was trained on.
        license (`str`, *optional*): Of the weights, as the Hub calls it (`"apache-2.0"`); the old card's when `None`.
        license_notes (`Sequence[str]`): Sentences about it: authors to name, and why it is this one.
        languages (`Sequence[str]`): Codes such as `"en"`.
        tags (`Iterable[str]`): Beside those that follow from the configuration.
        base_model (`str` or `Sequence[str]`, *optional*): Names on the Hub of what it started from.
        repo_id (`str`, *optional*): Name on the Hub. A placeholder stands in the example when this and `source` are
            `None`.
        title (`str`, *optional*): Headline of a new card; the name on the Hub or of the folder when `None`.
        source (`str`, *optional*): Python expression that the example loads from, in place of `repo_id`.
        question (`str`): Question of the example, for models that answer.
        limitations (`str`, *optional*): What it does badly.

    Returns:
        The path of the card.

    Raises:
        `ValueError`: `config` is of no model of this package, or `hours` is below 0.
    """
    if config.model_type not in _DESCRIPTIONS:
        raise ValueError(f"`config` must be of one of {sorted(_DESCRIPTIONS)}, got {config.model_type!r}.")
    if hours is not None and hours < 0:
        raise ValueError(f"`hours` must be at least 0, got {hours}.")
    path = Path(folder) / CARD_FILE
    old = ModelCard.load(path, ignore_metadata_errors=True) if path.is_file() else None
    old_metadata = old.data.to_dict() if old is not None else {}

    model = model if model is not None else _build_without_memory(config)
    name = (repo_id or Path(folder).resolve().name).rpartition("/")[2]
    task = pipeline_tag(config)
    metadata: dict[str, Any] = {
        "base_model": base_model,
        "datasets": find_datasets(data) or None,
        "language": list(languages) or None,
        "library_name": "transformers",
        "license": license,
        "pipeline_tag": task,
        "tags": [*list_tags(config, with_code), *tags],
    }
    if metrics:
        metadata |= write_results(metrics, evaluated_on, name, task)
    card = ModelCard.from_template(
        ModelCardData(**merge_metadata(old_metadata, metadata)),
        template_path=str(_TEMPLATE),
        **_describe(config, model),
        with_code=with_code,
        data=[f"[{item}](https://huggingface.co/datasets/{item})" if find_datasets([item]) else item for item in data],
        metrics={
            name: f"{value:.4g}" if isinstance(value, float) else value for name, value in (metrics or {}).items()
        },
        evaluated_on=evaluated_on,
        evaluation_command=_strip(evaluation_command),
        evaluation_date=evaluation_date,
        command=_strip(command),
        hours=hours,
        hardware=hardware,
        license_notes=license_notes,
        title=title or name,
        source=source or f'"{repo_id or f"owner/{name}"}"',
        is_placeholder=source is None and repo_id is None,
        question=f'"{question}"',
        limitations=_strip(limitations),
    )
    text = card.text if old is None else _merge_text(old.text, card.text)
    path.write_text(f"---\n{card.data.to_yaml()}\n---\n\n{text.strip()}\n", encoding="utf-8")
    return path


def _strip(text: str | None) -> str | None:
    return None if text is None else text.strip()


def _merge_text(old: str, new: str) -> str:
    """Put each section of a new text in the place of its marks; in a card of ours, one without a place goes last."""
    is_ours = "<!-- josie:" in old
    for section in _SECTION.finditer(new):
        start, end = f"<!-- josie:{section[1]} -->", f"<!-- /josie:{section[1]} -->"
        if start in old and end in old:
            before, rest = old.split(start, 1)
            old = before + section[0] + rest.split(end, 1)[1]
        elif is_ours:
            old = f"{old.rstrip()}\n\n{section[0]}\n"
    return old


def _build_without_memory(config: PreTrainedConfig) -> PreTrainedModel:
    model_class = getattr(modeling_josie, (config.architectures or [""])[0], None)
    with torch.device("meta"):
        return model_class(config) if model_class is not None else AutoModel.from_config(config)


def _describe(config: PreTrainedConfig, model: Any) -> dict[str, Any]:
    """Return what the template says of a model: its class and parts, and what it reads and writes."""
    inputs = getattr(model, "input_modalities", None) or getattr(config, "input_modalities", ("text",))
    outputs = getattr(model, "output_modalities", ()) if config.model_type == "josie" else ()
    return {
        "model_type": config.model_type,
        "description": _DESCRIPTIONS[config.model_type].format(
            inputs=_join(inputs), outputs=_join(["speech" if name == "audio" else name for name in outputs])
        )
        + _describe_units(config),
        "class_name": type(model).__name__,
        "num_parameters": model.num_parameters(),
        "parts": list(_list_parts(model)),
        "geometry": _describe_codes(config),
        "speaks": "audio" in outputs,
    }


def _describe_units(config: PreTrainedConfig) -> str:
    """Return that a whole model listens while it speaks, where it has units."""
    thinker = getattr(config, "thinker_config", None)
    if thinker is None or thinker.unit_frames is None:
        return ""
    return f" It listens while it speaks, and decides when it speaks in units of {thinker.unit_seconds:g} s."


def _join(words: Sequence[str]) -> str:
    return " and ".join(filter(None, (", ".join(words[:-1]), *words[-1:])))


def _list_parts(model: Any, prefix: str = "") -> Iterator[_Part]:
    """Give the parts of a model that have parameters; a Thinker's own parts too."""
    for name, part in model.named_children():
        num_parameters = sum(parameter.numel() for parameter in part.parameters())
        if not num_parameters:
            continue
        if name == "model" and not prefix:
            yield from _list_parts(part)
            continue
        yield _Part(prefix + name.replace("_", " "), type(part).__name__, num_parameters)
        if name == "thinker":
            yield from _list_parts(part.model, "thinker: ")


def _describe_codes(config: PreTrainedConfig) -> str | None:
    """Say how many codes a codec makes; `None` where there is none."""
    codec: Any = config if config.model_type in CODECS else getattr(config, "audio_codec_config", None)
    if codec is None:
        return None
    if codec.model_type == "jovio":
        size = f"{codec.temporal_patch_size}×{codec.patch_size}×{codec.patch_size}"
        codes = f"{codec.num_quantizers} codes of {codec.codebook_size}"
        return f"A patch of {size} (frames, rows, columns) has {codes} each."
    geometry = audio_codec_geometry(codec)
    bits = geometry.frame_rate * geometry.num_quantizers * (geometry.codebook_size - 1).bit_length()
    return (
        f"Audio: {geometry.sampling_rate} Hz, {geometry.frame_rate:g} frames a second of {geometry.num_quantizers} "
        f"codes of {geometry.codebook_size} each, {bits:.0f} bit/s."
    )
