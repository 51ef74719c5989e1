"""The command line: `josie …` and `python -m josie …`.

Everything heavy is imported inside the commands, so that `--help` is there at once. What a user can get wrong ends in
one line on standard error and exit code 2, and files and folders appear under their names only when they are complete.
"""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .assemble import assemble_command
from .chat import chat_command
from .codec import codec_app
from .evaluate import evaluate_command
from .shared import (
    Folder,
    MaxNewTokens,
    MaxSeconds,
    OneLineErrors,
    Seed,
    Speaker,
    Temperature,
    find_checkpoint,
    load,
    prepare,
    quieten,
    read_config,
    readable,
    report,
    sampling_options,
    talking_options,
    writable,
)

if TYPE_CHECKING:
    from ..processing_josie import JosieProcessor

app = typer.Typer(
    cls=OneLineErrors,
    help="JOSIE reads text, images, video and audio, and answers in text and speech.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.add_typer(codec_app, name="codec")
app.command("assemble")(assemble_command)
app.command("chat")(chat_command)
app.command("evaluate")(evaluate_command)

Out = Annotated[Path, typer.Option(help="The sound file to write; its ending chooses the format.")]


@app.command("init")
def init_command(
    preset: Annotated[str, typer.Argument(help="The sizes: micro or base.")],
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The folder to make.")],
    seed: Seed = 0,
) -> None:
    """Make a checkpoint with random weights, ready to train, with all processor files."""
    from transformers import set_seed

    from ..configuration_josie import JosieConfig
    from ..conversion.files import new_folder

    config = JosieConfig.from_preset(preset)
    with new_folder(folder) as unfinished:
        from ..modeling_josie import JosieForConditionalGeneration
        from ..processing_josie import JosieProcessor
        from ..tokenization import load_default_tokenizer

        quieten()
        processor = JosieProcessor.from_config(config, load_default_tokenizer(config.get_text_config().vocab_size))
        set_seed(seed)
        report(f"Drawing the weights of {preset!r} with seed {seed} ...")
        model = JosieForConditionalGeneration(config)
        report(f"Writing {model.num_parameters():,} parameters ...")
        model.save_pretrained(unfinished)
        processor.save_pretrained(unfinished)
    typer.echo(f"{folder}: {preset}, random weights")


@app.command()
def generate(
    folder: Folder,
    text: Annotated[str | None, typer.Option(help="What to say to it.")] = None,
    image: Annotated[list[Path] | None, typer.Option(help="A picture; may be repeated.")] = None,
    audio: Annotated[list[Path] | None, typer.Option(help="A recording; may be repeated.")] = None,
    video: Annotated[list[Path] | None, typer.Option(help="A video; may be repeated.")] = None,
    out: Out = Path("reply.wav"),
    text_only: Annotated[bool, typer.Option("--text-only", help="Answer in text and write no sound.")] = False,
    stream_text: Annotated[bool, typer.Option("--stream-text", help="Print the text as it is made.")] = False,
    max_new_tokens: MaxNewTokens = 64,
    max_seconds: MaxSeconds = None,
    seed: Seed = 0,
    temperature: Temperature = None,
    speaker: Speaker = None,
) -> None:
    """Answer a message in text and speech."""
    files = {"image": image or [], "video": video or [], "audio": audio or []}
    content: list[Any] = []
    for kind, paths in files.items():
        content += [{"type": kind, "path": str(readable(f"--{kind}", path))} for path in paths]
    content += [{"type": "text", "text": text}] if text else []
    if not content:
        raise ValueError("At least one of `--text`, `--image`, `--audio` and `--video` must be given, got none.")
    if text_only and speaker is not None:
        raise ValueError(f"`--speaker` must go without `--text-only`, got {speaker!r}.")
    if not text_only:
        writable(out)

    from transformers import TextStreamer, set_seed

    model, processor = load(folder)
    messages: Any = [{"role": "user", "content": content}]
    inputs: Any = prepare(processor, messages)
    streamer = TextStreamer(processor.tokenizer, skip_prompt=True, skip_special_tokens=True) if stream_text else None
    set_seed(seed)
    arguments: dict[str, Any] = {
        "max_new_tokens": max_new_tokens,
        "streamer": streamer,
        "return_dict_in_generate": True,
    }
    arguments |= sampling_options(temperature)
    if not text_only:
        arguments |= {
            "generation_mode": "audio",
            "speaker": speaker,
            **talking_options(model, max_seconds, temperature),
        }
    output = model.generate(**inputs, **arguments)
    if not stream_text:
        reply = output.sequences[:, inputs["input_ids"].shape[1] :]
        typer.echo(processor.batch_decode(reply, skip_special_tokens=True)[0])
    if not text_only:
        _save_speech(processor, output, out)


@app.command()
def speak(
    folder: Folder,
    text: Annotated[str, typer.Argument(help="What to say aloud.")],
    out: Out = Path("reply.wav"),
    max_seconds: MaxSeconds = None,
    seed: Seed = 0,
    temperature: Temperature = None,
    speaker: Speaker = None,
) -> None:
    """Say a text aloud."""
    writable(out)

    from transformers import set_seed

    model, processor = load(folder)
    # What looks like a special token in the text is said as it is written.
    inputs = processor.tokenizer([text], return_tensors="pt", add_special_tokens=False, split_special_tokens=True)
    if not inputs["input_ids"].shape[1]:
        raise ValueError(f"`TEXT` must have at least one token, got {text!r}.")
    set_seed(seed)
    output = model.generate_speech(
        inputs["input_ids"],
        attention_mask=inputs["attention_mask"],
        speaker=speaker,
        **talking_options(model, max_seconds, temperature),
    )
    _save_speech(processor, output, out)


@app.command()
def info(
    folder: Folder,
    freeze: Annotated[list[str] | None, typer.Option(help="A part that is not to learn; may be repeated.")] = None,
) -> None:
    """Show the parts of a checkpoint: parameters, how many of them training changes, memory, geometry."""
    config = read_config(folder)
    import torch
    from rich.console import Console
    from rich.table import Table

    from ..modeling_josie import JosieForConditionalGeneration

    with torch.device("meta"):
        model = JosieForConditionalGeneration(config)
    model.freeze(*(freeze or ()))
    dtype = config.dtype or torch.float32
    table = Table(title=f"{folder}, {str(dtype).removeprefix('torch.')}")
    for name in ("part", "parameters", "trains", "memory", "geometry"):
        table.add_column(name, justify="left" if name in ("part", "geometry") else "right")
    rows = _describe(config)
    for path, geometry in rows.items():
        part = model.get_submodule(path)
        table.add_row("  " * ("." in path) + path.rpartition(".")[2], *_weigh(part, dtype), geometry)
    table.add_section()
    table.add_row("all", *_weigh(model, dtype), "")
    Console(width=None if sys.stdout.isatty() else 140).print(table)


@app.command("train-tokenizer")
def train_tokenizer_command(
    files: Annotated[list[Path], typer.Argument(help="Text files, UTF-8.")],
    out: Annotated[Path, typer.Option(help="The folder to make.")],
    vocab_size: Annotated[int, typer.Option(help="Number of tokens, special ones included.")],
) -> None:
    """Train a byte-level BPE tokenizer on text files."""
    for path in files:
        readable("FILES", path)

    from ..conversion.files import new_folder

    with new_folder(out) as unfinished:
        from ..tokenization import train_tokenizer

        tokenizer = train_tokenizer(files=files, vocab_size=vocab_size, show_progress=sys.stderr.isatty())
        tokenizer.save_pretrained(unfinished)
    typer.echo(f"{out}: {len(tokenizer)} tokens")


@app.command("export")
def export_command(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A folder with any model of JOSIE, a whole or a part.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The folder to make.")],
    license: Annotated[str | None, typer.Option(help="Of the weights, as the Hub calls it: apache-2.0.")] = None,
    language: Annotated[list[str] | None, typer.Option(help="A language it knows: en; may be repeated.")] = None,
    max_shard_size: Annotated[str, typer.Option(help="Largest file of weights.")] = "5GB",
) -> None:
    """Write a checkpoint with its code and a model card: it loads anywhere with trust_remote_code=True."""
    from ..conversion.hub.export import export_folder

    quieten()
    files = export_folder(find_checkpoint(folder), out, max_shard_size, license=license, languages=language or ())
    typer.echo(f"{out}: {len(files)} files, {sum(name.endswith('.py') for name in files)} of them code")


convert_app = typer.Typer(help="Turn checkpoints of other projects into JOSIE's.", rich_markup_mode=None)
app.add_typer(convert_app, name="convert")


@convert_app.command("muomni")
def convert_muomni_command(
    source: Annotated[Path, typer.Argument(metavar="SRC", help="A folder of .pt files, or a .safetensors file.")],
    destination: Annotated[Path, typer.Argument(metavar="DST", help="The folder to make.")],
    config: Annotated[Path | None, typer.Option(help="μOmni's config.json, or a folder of separate ones.")] = None,
    tokenizer: Annotated[Path | None, typer.Option(help="The SentencePiece model, if it is elsewhere.")] = None,
) -> None:
    """Convert a μOmni checkpoint, and say what became of every key."""
    from ..conversion.muomni.convert import convert_muomni

    quieten()
    typer.echo(convert_muomni(source, destination, config=config, tokenizer=tokenizer))


def _save_speech(processor: "JosieProcessor", output: Any, path: Path) -> None:
    """Write the first row's speech to `path`."""
    length = int(output.audio_lengths[0])
    if not length:
        raise ValueError("The answer has no speech: the Talker ended it before the first frame.")
    processor.save_audio(output.audio_values[0, :, :length], path)
    typer.echo(f"{path}: {length / output.sampling_rate:.2f} s of speech", err=True)


def _weigh(part: Any, dtype: Any) -> tuple[str, str, str]:
    """Return the parameters of a module, those that learn, and the memory of parameters and buffers in `dtype`."""
    size = sum(tensor.numel() for tensor in (*part.parameters(), *part.buffers()))
    parameters = list(part.parameters())
    learning = sum(parameter.numel() for parameter in parameters if parameter.requires_grad)
    return f"{sum(p.numel() for p in parameters):,}", f"{learning:,}", f"{size * dtype.itemsize / 2**20:,.1f} MiB"


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
    rows = {
        "thinker": f"vocabulary {text.vocab_size}, context {text.max_position_embeddings}",
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


def main() -> None:
    """Run the command line."""
    app()
