"""`josie assemble`: a checkpoint of pretrained parts."""

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from ..conversion.files import new_folder, require_new
from .shared import print_table, quieten

_SOURCE = "a folder or a name on the Hub"


def assemble_command(
    folder: Annotated[Path, typer.Argument(metavar="OUT", help="The folder to make.")],
    text: Annotated[str, typer.Option(help=f"A causal language model with its tokenizer: {_SOURCE}.")],
    audio: Annotated[str | None, typer.Option(help="What hears: an audio encoder or an audio codec.")] = None,
    vision: Annotated[str | None, typer.Option(help="What sees: a vision tower or JOVIO.")] = None,
    codec: Annotated[str | None, typer.Option(help="An audio codec to speak through.")] = None,
    talker: Annotated[str, typer.Option(help="Sizes of the Talker: fit, none, or those of a preset.")] = "fit",
    talker_hidden_size: Annotated[int | None, typer.Option(help="Its width, in place of the fitting one.")] = None,
    talker_layers: Annotated[int | None, typer.Option(help="Its layers, in place of the fitting number.")] = None,
    talker_quantizers: Annotated[int | None, typer.Option(help="Codes of a frame that it predicts.")] = None,
    speaker: Annotated[list[str] | None, typer.Option(help="Name of a voice; may be repeated.")] = None,
    dtype: Annotated[
        Literal["float32", "bfloat16", "float16"] | None,
        typer.Option(help="Of all parts; the text model's if not given."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of what is new and random.")] = 0,
) -> None:
    """Make a checkpoint of pretrained parts; what joins them is new and has to be trained."""
    require_new(folder, "OUT")
    fields = {
        "hidden_size": talker_hidden_size,
        "num_hidden_layers": talker_layers,
        "num_quantizers": talker_quantizers,
        "speakers": speaker,
    }
    sizes = {name: value for name, value in fields.items() if value is not None}
    if sizes and talker != "fit":
        raise ValueError(f"`--talker` must be 'fit' with sizes or names of voices, got {talker!r}.")

    import torch
    from transformers import set_seed

    from ..conversion.assemble.assemble import assemble

    quieten()
    set_seed(seed)
    model, processor = assemble(
        text,
        audio=audio,
        vision=vision,
        codec=codec,
        talker=sizes or (None if talker == "none" else talker),
        dtype=None if dtype is None else getattr(torch, dtype),
    )
    with new_folder(folder, "OUT") as unfinished:
        model.save_pretrained(unfinished)
        processor.save_pretrained(unfinished)
    _show_parts(folder, model)


def _show_parts(folder: Path, model: Any) -> None:
    from rich.table import Table

    from ..conversion.assemble.assemble import list_parts

    table = Table(title=f"{folder}, {str(model.dtype).removeprefix('torch.')}")
    for name, justify in (("part", "left"), ("class", "left"), ("parameters", "right"), ("weights", "left")):
        table.add_column(name, justify=justify)  # type: ignore[arg-type]
    for part in list_parts(model):
        origin = "pretrained" if part.is_pretrained else "fresh"
        table.add_row(part.name, part.class_name, f"{part.num_parameters:,}", origin)
    print_table(table)
