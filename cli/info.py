"""`josie info`: parts, sizes, memory, geometry and licence of a checkpoint."""

from pathlib import Path
from typing import Annotated, Any

import typer

from ..nano import find_model
from .checkpoints import read_config
from .options import Folder
from .progress import waiting
from .shared import print_table


def info_command(
    folder: Folder,
    freeze: Annotated[list[str] | None, typer.Option(help="A part that is not to learn; may be repeated.")] = None,
) -> None:
    """Show the parts of a checkpoint: parameters, how many of them training changes, memory, geometry, licence."""
    with waiting(f"Reading {folder}"):
        config = read_config(folder)
        import torch
        from rich.table import Table

        from ..modeling_josie import JosieForConditionalGeneration

        with torch.device("meta"):
            model = JosieForConditionalGeneration(config)
    for name in freeze or ():
        if name not in model.get_groups():
            raise ValueError(f"`--freeze` must be among {list(model.get_groups())}, got {name!r}.")
    model.freeze(*(freeze or ()))
    dtype: Any = config.dtype or torch.float32
    model.to(dtype)
    for codec in (model.audio_codec, model.vision_codec):
        if codec is not None:
            codec.float()  # as they are loaded
    caption = f"licence of the weights: {read_licence(find_model(folder))}"
    table = Table(title=f"{folder}, {str(dtype).removeprefix('torch.')}", caption=caption)
    for name in ("part", "parameters", "trains", "memory", "geometry"):
        table.add_column(name, justify="left" if name in ("part", "geometry") else "right")
    for path, geometry in _describe(config).items():
        part = model.get_submodule(path)
        table.add_row("  " * ("." in path) + path.rpartition(".")[2], *_weigh(part), geometry)
    table.add_section()
    table.add_row("all", *_weigh(model), "")
    print_table(table)


def read_licence(folder: Path) -> str:
    """Return the licence that a checkpoint's model card states, with its name and address where they are given."""
    from huggingface_hub import ModelCard

    card = folder / "README.md"
    if not card.is_file():
        return "not stated, there is no model card (README.md)"
    try:
        metadata = ModelCard.load(card, ignore_metadata_errors=True).data.to_dict()
    except ValueError as error:
        raise ValueError(f"`DIR` must have a model card with valid YAML, got {str(card)!r}: {error}.") from error
    licence = metadata.get("license")
    if not licence:
        return "not stated in the model card (README.md)"
    stated = ", ".join(map(str, licence)) if isinstance(licence, list) else str(licence)
    details = [str(metadata[name]) for name in ("license_name", "license_link") if metadata.get(name)]
    return f"{stated} ({', '.join(details)})" if details else stated


def _weigh(part: Any) -> tuple[str, str, str]:
    """Return the parameters of a module, those that learn, and the memory of parameters and buffers."""
    size = sum(tensor.nbytes for tensor in (*part.parameters(), *part.buffers()))
    parameters = list(part.parameters())
    learning = sum(parameter.numel() for parameter in parameters if parameter.requires_grad)
    return f"{sum(p.numel() for p in parameters):,}", f"{learning:,}", f"{size / 2**20:,.1f} MiB"


def _describe(config: Any) -> dict[str, str]:
    """Say in a few words what each part of a model measures; parts are named as its modules are."""
    from ..configuration_josie import audio_codec_geometry

    thinker, talker, audio, vision = (
        config.thinker_config,
        config.talker_config,
        config.audio_codec_config,
        config.vision_codec_config,
    )
    text = config.get_text_config()
    units = "" if thinker.unit_frames is None else f", listens while it speaks, units of {thinker.unit_seconds:g} s"
    rows = {
        "thinker": f"vocabulary {text.vocab_size}, context {text.max_position_embeddings}{units}",
        "thinker.model.language_model": f"{text.num_hidden_layers} layers of {text.hidden_size}",
    }
    if thinker.audio_config is not None:
        rows["thinker.model.audio_front_end"] = (
            f"{thinker.audio_config.model_type}, at most {thinker.max_audio_tokens} tokens"
        )
    if thinker.vision_config is not None:
        rows["thinker.model.vision_front_end"] = thinker.vision_config.model_type
    if talker is not None:
        heads = "parallel heads" if talker.depth_decoder_config is None else "depth decoder"
        rows["talker"] = f"{talker.num_hidden_layers} layers of {talker.hidden_size}, {heads}"
    if audio is not None:
        codec = audio_codec_geometry(audio)
        rows["audio_codec"] = (
            f"{audio.model_type}, {codec.sampling_rate} Hz, {codec.frame_rate:g} frames/s, "
            f"{codec.num_quantizers} × {codec.codebook_size} codes"
        )
    if vision is not None:
        patch = f"{vision.temporal_patch_size}×{vision.patch_size}×{vision.patch_size}"
        rows["vision_codec"] = (
            f"{vision.model_type}, patches {patch}, {vision.num_quantizers} × {vision.codebook_size} codes"
        )
    return rows
