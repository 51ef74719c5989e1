"""Model cards: what a model is, what it was trained on, how good it is, and an example that runs.

A card is metadata for the Hub and text. The parts of the text that are made here stand between HTML comments that name
them, so that they can be made anew when there is more to say; whatever a person wrote stays as it is.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import EvalResult, ModelCard, ModelCardData
from transformers import AutoModel, PreTrainedModel
from transformers.configuration_utils import PreTrainedConfig

from ... import modeling_josie
from ...configuration_josie import audio_codec_geometry
from .model_card_examples import write_example

CARD_FILE = "README.md"
_DATASET_ID = re.compile(r"[\w.-]+/[\w.-]+")
_DESCRIPTIONS = {
    "josie": "An omni model: it reads {inputs} and writes {outputs}.",
    "josie_thinker": "A language model that reads {inputs}: the part of an omni model that listens, looks and writes.",
    "josie_talker": "The voice of an omni model: a language model's states to codes of speech, frame by frame.",
    "jodio": "A neural audio codec: waveforms to codes and back.",
    "josie_mel_codec": "An audio codec of quantized mel spectrograms, which are heard through Griffin-Lim.",
    "jovio": "A vision codec: pictures and videos to codes and back.",
    "josie_audio_encoder": "An encoder of sounds: mel spectrograms to features.",
    "josie_vision_encoder": "An encoder of pictures: pixels to features.",
    "josie_text": "A text backbone: token ids to hidden states.",
    "josie_backbone": "A transformer: embeddings to hidden states.",
}
_CODECS = ("jodio", "josie_mel_codec", "jovio")
_PIPELINE_TAGS = {
    "josie": "any-to-any",
    "josie_talker": "text-to-speech",
    "jodio": "audio-to-audio",
    "josie_mel_codec": "audio-to-audio",
    "jovio": "image-feature-extraction",
    "josie_vision_encoder": "image-feature-extraction",
}


def write_model_card(
    folder: str | Path,
    config: PreTrainedConfig,
    *,
    model: PreTrainedModel | None = None,
    with_code: bool = False,
    data: Sequence[str] = (),
    metrics: Mapping[str, float | int | str] | None = None,
    evaluated_on: str | None = None,
    command: str | None = None,
    hours: float | None = None,
    hardware: str | None = None,
    license: str | None = None,
    languages: Sequence[str] = (),
    tags: Iterable[str] = (),
    base_model: str | Sequence[str] | None = None,
    repo_id: str | None = None,
    limitations: str | None = None,
) -> Path:
    """Write the model card of a folder, `README.md`. A card that is there is kept and completed, not replaced.

    Of an existing card, all text outside of the marked parts stays, marked parts are made anew where there is something
    to say, given metadata win over old metadata, and lists are joined.

    Args:
        folder (`str` or `Path`): Of the checkpoint.
        config ([`PreTrainedConfig`]): Of a model of this package.
        model ([`PreTrainedModel`], *optional*): The model, whose parameters are counted; built without memory from
            `config` when `None`.
        with_code (`bool`): Whether the folder has the code with it, and so needs no installed package.
        data (`Sequence[str]`): What it was trained on: Hub names (`owner/name`), which become metadata too, or words.
        metrics (`Mapping[str, float]`, *optional*): Names and values, in the order to show them.
        evaluated_on (`str`, *optional*): The data they were measured on, a Hub name or words.
        command (`str`, *optional*): What trained it.
        hours (`float`, *optional*): How long that took.
        hardware (`str`, *optional*): On what.
        license (`str`, *optional*): Of the weights, as the Hub calls it (`"apache-2.0"`).
        languages (`Sequence[str]`): Codes such as `"en"`.
        tags (`Iterable[str]`): Beside those that follow from the configuration.
        base_model (`str` or `Sequence[str]`, *optional*): Hub names of what it started from.
        repo_id (`str`, *optional*): Name on the Hub; the folder's own name when `None`.
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
    name = repo_id or Path(folder).resolve().name
    old = ModelCard.load(path, ignore_metadata_errors=True) if path.is_file() else None
    architecture = type(model).__name__ if model is not None else (config.architectures or [None])[0]
    sections = {
        "what": _describe(config, model if model is not None else _build_without_memory(config), license),
        "use": "## Use\n\n" + write_example(config, architecture, name, with_code),
        "training": _describe_training(data, command, hours, hardware),
        "results": _describe_results(metrics, evaluated_on),
        "limits": f"## Limits\n\n{limitations.strip()}" if limitations else "",
    }
    facts = {
        "base_model": base_model,
        "datasets": [item for item in data if _DATASET_ID.fullmatch(item)] or None,
        "language": list(languages) or None,
        "library_name": "transformers",
        "license": license,
        "pipeline_tag": pipeline_tag(config),
        "tags": [*_tags(config, with_code), *tags],
    }
    facts |= _evaluation(metrics, evaluated_on, name.rpartition("/")[2], facts["pipeline_tag"])
    merged = ModelCardData(**_merge_metadata(old.data.to_dict() if old is not None else {}, facts))
    text = old.text if old is not None else f"# {name.rpartition('/')[2]}\n"
    path.write_text(f"---\n{merged.to_yaml()}\n---\n\n{_merge_text(text, sections, old is None)}", encoding="utf-8")
    return path


def pipeline_tag(config: PreTrainedConfig) -> str:
    """Return what the Hub calls the task of a model of this package."""
    if config.model_type == "josie_thinker":
        modalities = config.input_modalities
        kinds = [kind for kind in ("image", "audio") if kind in modalities]
        return f"{kinds[0]}-text-to-text" if kinds else "text-generation"
    return _PIPELINE_TAGS.get(config.model_type, "feature-extraction")


def _tags(config: PreTrainedConfig, with_code: bool) -> list[str]:
    tags = ["josie", config.model_type]
    if config.model_type in _CODECS:
        tags.append("codec")
    parts = (getattr(config, name, None) for name in ("audio_codec_config", "vision_codec_config"))
    tags += [part.model_type for part in parts if part is not None]
    return list(dict.fromkeys([*tags, *(["custom_code"] if with_code else [])]))


def _merge_metadata(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """Return old metadata with what is given now; lists are joined, and of the task and the library the old stays."""
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


def _merge_text(text: str, sections: dict[str, str], is_new: bool) -> str:
    """Put each section in the place of its marks; in a card of ours, one without a place goes to the end."""
    is_ours = is_new or "<!-- josie:" in text
    for name, section in sections.items():
        if not section:
            continue
        start, end = f"<!-- josie:{name} -->", f"<!-- /josie:{name} -->"
        block = f"{start}\n{section.strip()}\n{end}"
        if start in text and end in text:
            before, rest = text.split(start, 1)
            text = before + block + rest.split(end, 1)[1]
        elif is_ours:
            text = f"{text.rstrip()}\n\n{block}\n"
    return text.strip() + "\n"


def _build_without_memory(config: PreTrainedConfig) -> PreTrainedModel:
    model_class = getattr(modeling_josie, (config.architectures or [""])[0], None)
    with torch.device("meta"):
        return model_class(config) if model_class is not None else AutoModel.from_config(config)


def _describe(config: PreTrainedConfig, model: Any, license: str | None) -> str:
    """Say what the model is, and how large its parts are."""
    inputs, outputs = _join(getattr(model, "input_modalities", ()) or _inputs(config)), ""
    if config.model_type == "josie":
        outputs = _join(["speech" if kind == "audio" else kind for kind in model.output_modalities])
    rows = ["| part | class | parameters |", "| --- | --- | ---: |"]
    rows += [f"| {name} | {kind} | {count:,} |" for name, kind, count in _parts(model)]
    rows.append(f"| **all** | `{type(model).__name__}` | {model.num_parameters():,} |")
    lines = [_DESCRIPTIONS[config.model_type].format(inputs=inputs, outputs=outputs), "", *rows]
    geometry = list(_geometry(config))
    lines += ["", *geometry] if geometry else []
    lines += [
        "",
        f"The weights are under {license}, the code under apache-2.0." if license else "The code is under apache-2.0.",
    ]
    return "\n".join(lines)


def _inputs(config: PreTrainedConfig) -> Sequence[str]:
    return getattr(config, "input_modalities", ("text",))


def _join(words: Sequence[str]) -> str:
    words = list(words)
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def _parts(model: Any, prefix: str = "") -> Iterator[tuple[str, str, int]]:
    """Give the parts of a model: their names, classes and numbers of parameters; a Thinker's own parts too."""
    for name, part in model.named_children():
        count = sum(parameter.numel() for parameter in part.parameters())
        if not count:
            continue
        if name == "model" and not prefix:
            yield from _parts(part)
            continue
        yield prefix + name.replace("_", " "), f"`{type(part).__name__}`", count
        if name == "thinker":
            yield from _parts(part.model, "thinker: ")


def _geometry(config: PreTrainedConfig) -> Iterator[str]:
    """Say how many codes a codec makes."""
    codec = config if config.model_type in _CODECS else getattr(config, "audio_codec_config", None)
    if codec is None:
        return
    if codec.model_type == "jovio":
        size = f"{codec.temporal_patch_size}×{codec.patch_size}×{codec.patch_size}"
        codes = f"{codec.num_quantizers} codes of {codec.codebook_size}"
        yield f"A patch of {size} (frames, rows, columns) has {codes} each."
        return
    facts = audio_codec_geometry(codec)
    bits = facts.frame_rate * facts.num_quantizers * (facts.codebook_size - 1).bit_length()
    yield (
        f"Sound: {facts.sampling_rate} Hz, {facts.frame_rate:g} frames a second of {facts.num_quantizers} codes of "
        f"{facts.codebook_size} each, {bits:.0f} bit/s."
    )


def _describe_training(data: Sequence[str], command: str | None, hours: float | None, hardware: str | None) -> str:
    lines = []
    for item in data:
        is_id = _DATASET_ID.fullmatch(item)
        lines.append(f"* data: [{item}](https://huggingface.co/datasets/{item})" if is_id else f"* data: {item}")
    if hours is not None:
        lines.append(f"* time: {hours:g} hours" + (f" on {hardware}" if hardware else ""))
    elif hardware:
        lines.append(f"* hardware: {hardware}")
    if command:
        lines += ["", "```bash", command.strip(), "```"]
    return "\n".join(["## Training", "", *lines]) if lines else ""


def _describe_results(metrics: Mapping[str, float | int | str] | None, evaluated_on: str | None) -> str:
    if not metrics:
        return ""
    rows = ["| metric | value |", "| --- | ---: |"]
    rows += [f"| {name} | {_number(value)} |" for name, value in metrics.items()]
    return "\n".join(["## Results", "", *([f"On {evaluated_on}:", ""] if evaluated_on else []), *rows])


def _number(value: float | int | str) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _evaluation(
    metrics: Mapping[str, float | int | str] | None, evaluated_on: str | None, name: str, task: str
) -> dict[str, Any]:
    """Return the metrics as the Hub's model index."""
    if not metrics:
        return {}
    data = evaluated_on or "unspecified"
    kind = data if _DATASET_ID.fullmatch(data) else re.sub(r"\W+", "-", data.lower()).strip("-")
    results = [
        EvalResult(
            task_type=task,
            dataset_type=kind,
            dataset_name=data,
            metric_type=re.sub(r"\W+", "-", metric.lower()).strip("-"),
            metric_name=metric,
            metric_value=value,
        )
        for metric, value in metrics.items()
    ]
    return {"eval_results": results, "model_name": name}
