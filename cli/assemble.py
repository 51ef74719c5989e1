"""`josie assemble`: a checkpoint of pretrained parts."""

import json
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from ..nano import NANO_NAMES, find_model
from .checkpoints import complete_model
from .make import preset_names
from .options import SOURCE, NewFolder, Seed, at_least_one, checked, checked_text, dtype_option, model_source, words
from .progress import waiting
from .shared import print_table, quieten

# Names of `transformers.activations.ACT2FN`, whose module imports torch.
ACTIVATIONS = (
    *("gelu", "gelu_10", "gelu_accurate", "gelu_fast", "gelu_new", "gelu_python", "gelu_python_tanh"),
    *("gelu_pytorch_tanh", "hardswish", "laplace", "leaky_relu", "linear", "mish", "prelu", "quick_gelu", "relu"),
    *("relu2", "relu6", "sigmoid", "silu", "sqrtsoftplus", "swish", "tanh", "xielu"),
)


def _text_source(name: str) -> str | None:
    """Allow a GGUF file too, or a folder with one."""
    path = Path(name)
    is_gguf = path.is_file() if path.suffix == ".gguf" else any(path.glob("*.gguf"))
    return None if is_gguf else model_source(name)


def _talker(name: str) -> str | None:
    allowed = ["fit", "none", *preset_names()]
    is_file = name.endswith(".json") and Path(name).is_file()
    return None if name in allowed or is_file else f"be one of {allowed}, or a .json file with fields"


def read_fields(path: str) -> dict[str, Any]:
    """Return the fields of a Talker's configuration in a JSON file."""
    try:
        fields = json.loads(Path(path).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"`--talker` must be a file of JSON, got {path!r}: {error}.") from error
    if not isinstance(fields, dict) or not fields:
        raise ValueError(f"`--talker` must be a JSON object with fields of a Talker, got {fields!r} in {path!r}.")
    return fields


def _stack_factor(value: int) -> str | None:
    return None if value in (1, 2, 4, 8) else "be 1, 2, 4 or 8"


def _part(what: str) -> Any:
    return typer.Option(help=f"{what}: {SOURCE}.", callback=checked(model_source), autocompletion=complete_model)


def _count(what: str) -> Any:
    return typer.Option(help=what, callback=checked(at_least_one))


def _activation(name: str) -> str | None:
    return None if name in ("none", *ACTIVATIONS) else f"be none or one of {', '.join(ACTIVATIONS)}"


def _fraction(value: float) -> str | None:
    return None if 0 < value <= 1 else "be in (0, 1]"


def _gguf_name(name: str) -> str | None:
    return None if name.endswith(".gguf") else "end in .gguf"


def assemble_command(
    folder: NewFolder,
    text: Annotated[
        str,
        typer.Option(
            help=f"A causal language model with its tokenizer: {SOURCE}, or a .gguf file.",
            callback=checked(_text_source),
            autocompletion=complete_model,
        ),
    ],
    audio: Annotated[str | None, _part("An audio encoder or an audio codec, which hears")] = None,
    vision: Annotated[str | None, _part("A vision tower or JOVIO, which sees")] = None,
    codec: Annotated[str | None, _part("An audio codec to speak through")] = None,
    talker: Annotated[
        str,
        typer.Option(
            help=f"Sizes of the Talker: fit, none, those of a preset ({', '.join(preset_names())}), or a .json file "
            "with fields of its configuration.",
            callback=checked(_talker),
        ),
    ] = "fit",
    talker_hidden_size: Annotated[int | None, _count("Its width, in place of the fitting one.")] = None,
    talker_layers: Annotated[int | None, _count("Its layers, in place of the fitting number.")] = None,
    talker_quantizers: Annotated[int | None, _count("Codes of a frame that it predicts.")] = None,
    speaker: Annotated[
        list[str] | None, typer.Option(help="Name of a voice; may be repeated.", callback=checked_text(words))
    ] = None,
    projector_hidden_act: Annotated[
        str,
        typer.Option(
            help="Activation of two-layer projectors; none for one linear layer.", callback=checked(_activation)
        ),
    ] = "gelu",
    projector_size: Annotated[
        int | None, _count("Width between the layers of projectors; the language model's if not given.")
    ] = None,
    vision_feature_select: Annotated[
        Literal["patch", "cls"], typer.Option(help="Rows of a vision tower that the Thinker sees.")
    ] = "patch",
    audio_context_fraction: Annotated[
        float, typer.Option(help="Largest part of the context that one clip may take.", callback=checked(_fraction))
    ] = 0.25,
    audio_stack_factor: Annotated[
        int,
        typer.Option(
            help="Features of an audio encoder that become one token: 1, 2, 4 or 8.", callback=checked(_stack_factor)
        ),
    ] = 1,
    gguf_file: Annotated[
        str | None,
        typer.Option(help="Name of the GGUF file in the folder or on the Hub.", callback=checked(_gguf_name)),
    ] = None,
    context: Annotated[
        int | None, _count("Longest sequence, of a language model that knows none, such as Mamba or BLOOM.")
    ] = None,
    dtype: Annotated[
        str | None,
        dtype_option("float32, bfloat16 or float16 for all parts but codecs; the text model's if not given."),
    ] = None,
    seed: Seed = 0,
) -> None:
    """Make a checkpoint of pretrained parts; what joins them is new and has to be trained."""
    fields = {
        "hidden_size": talker_hidden_size,
        "num_hidden_layers": talker_layers,
        "num_quantizers": talker_quantizers,
        "speakers": speaker,
    }
    sizes = {name: value for name, value in fields.items() if value is not None}
    if sizes and talker != "fit":
        raise ValueError(f"`--talker` must be 'fit' with sizes or names of voices, got {talker!r}.")
    if talker.endswith(".json"):
        sizes = read_fields(talker)
    if talker not in ("fit", "none") and codec is None and audio is None:
        raise ValueError("`--codec` must be given for a Talker to speak through, got None.")
    sources = {"text": text, "audio": audio, "vision": vision, "codec": codec}
    parts: Any = {name: str(find_model(part)) if part in NANO_NAMES else part for name, part in sources.items()}

    with waiting(f"Assembling {folder}"):
        import torch
        from transformers import set_seed

        from ..conversion.assemble.build import assemble
        from ..conversion.files import new_folder

        quieten()
        set_seed(seed)
        model, processor = assemble(
            **parts,
            talker=sizes or (None if talker == "none" else talker),
            dtype=None if dtype is None else getattr(torch, dtype),
            projector_hidden_act=None if projector_hidden_act == "none" else projector_hidden_act,
            vision_feature_select=vision_feature_select,
            projector_intermediate_size=projector_size,
            audio_context_fraction=audio_context_fraction,
            audio_stack_factor=audio_stack_factor,  # type: ignore[arg-type]
            gguf_file=gguf_file,
            context=context,
        )
        with new_folder(folder, "OUT") as unfinished:
            model.save_pretrained(unfinished)
            processor.save_pretrained(unfinished)
    _show_parts(folder, model)


def _show_parts(folder: Path, model: Any) -> None:
    from rich.table import Table

    from ..conversion.assemble.summary import list_parts

    table = Table(title=f"{folder}, {str(model.dtype).removeprefix('torch.')}")
    for name, justify in (("part", "left"), ("class", "left"), ("parameters", "right"), ("weights", "left")):
        table.add_column(name, justify=justify)  # type: ignore[arg-type]
    for part in list_parts(model):
        origin = ("pretrained" if part.is_pretrained else "fresh") + (f", {part.note}" if part.note else "")
        table.add_row(part.name, part.class_name, f"{part.num_parameters:,}", origin)
    print_table(table)
