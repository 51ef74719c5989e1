"""The commands of `josie codec`: audio, images and videos to files of codes and back."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

import typer

from .checkpoints import list_files, load_codec, read_codec_config
from .codec_inputs import Modality, check_codec_options, choose_modality, read_codes_metadata
from .devices import choose_device
from .options import (
    CodecFolder,
    Device,
    Seconds,
    Threads,
    at_least_one,
    audio_file_to_write,
    check_out,
    check_seconds,
    checked,
    dtype_option,
    existing_file,
    file_ending_in,
)
from .progress import waiting
from .shared import CommandLine, report, show_help, writing_out

if TYPE_CHECKING:
    import torch

    from .codec_files import Codes
    from .codec_streams import StreamedChunk

codec_app = CommandLine(
    invoke_without_command=True, callback=show_help, help="Turn audio, images and videos into codes and back."
)

File = Annotated[
    Path | None,
    typer.Argument(
        metavar="FILE",
        help="Audio (WAV, FLAC, OGG, MP3) for an audio codec; an image or video for JOVIO.",
        callback=checked(existing_file),
    ),
]
Quantizers = Annotated[
    int | None, typer.Option("--num-quantizers", help="Use only the first ones.", callback=checked(at_least_one))
]
Stream = Annotated[bool, typer.Option("--stream", help="Go through audio in chunks of 250 ms.")]
Mic = Annotated[bool, typer.Option("--mic", help="Listen to the microphone (16 kHz, mono) in place of a file.")]
MaxPatches = Annotated[
    int,
    typer.Option(help="Most patches of an image; larger ones are made smaller.", callback=checked(at_least_one)),
]
CodecDtype = Annotated[str, dtype_option("float32, bfloat16 or float16; less than float32 may choose other codes.")]
_ENDINGS = {"audio": audio_file_to_write, "image": file_ending_in(".png"), "video": file_ending_in(".mp4")}


@codec_app.command("encode")
def encode_command(
    model: CodecFolder,
    out: Annotated[
        Path,
        typer.Option(help="The file of codes, .safetensors.", callback=checked(file_ending_in(".safetensors"))),
    ],
    file: File = None,
    num_quantizers: Quantizers = None,
    stream: Stream = False,
    mic: Mic = False,
    seconds: Seconds = None,
    max_patches: MaxPatches = 4096,
    device: Device = "auto",
    dtype: CodecDtype = "float32",
    threads: Threads = None,
) -> None:
    """Turn a file, or what the microphone hears, into codes."""
    modality = _check_source(model, file, num_quantizers, stream, mic, seconds)
    check_out(out, file_ending_in(".safetensors"), (file, *list_files(model)))
    source = _open(file, modality, model, max_patches)
    codec = _load(model, modality, device, dtype, threads)
    codes, _ = _encode(codec, source, num_quantizers, stream, seconds)
    with writing_out(out):
        codes.save(out)
    typer.echo(f"{out}: {_describe(codes)}")


@codec_app.command("decode")
def decode_command(
    codes: Annotated[
        Path, typer.Argument(metavar="CODES", help="What `josie codec encode` wrote.", callback=checked(existing_file))
    ],
    model: CodecFolder,
    out: Annotated[Path, typer.Option(help="The file to write: audio, .png or .mp4.")],
    stream: Stream = False,
    device: Device = "auto",
    dtype: CodecDtype = "float32",
    threads: Threads = None,
) -> None:
    """Turn codes into audio, an image or a video."""
    modality = read_codes_metadata(codes)["modality"]
    check_out(out, _ENDINGS[modality], [codes])
    check_codec_options(model, modality, None, stream)

    with waiting(f"Reading {codes}"):
        from .codec_files import Codes
        from .codec_images import require_av

        if modality == "video":
            require_av()
        stored = Codes.load(codes)
        stored.require_fit(read_codec_config(model, _codec_of(modality)))
    _decode(_load(model, modality, device, dtype, threads), stored, out, stream)


@codec_app.command("roundtrip")
def roundtrip_command(
    model: CodecFolder,
    out: Annotated[Path, typer.Option(help="The file to write: audio, .png or .mp4.")],
    file: File = None,
    num_quantizers: Quantizers = None,
    stream: Stream = False,
    mic: Mic = False,
    seconds: Seconds = None,
    max_patches: MaxPatches = 4096,
    device: Device = "auto",
    dtype: CodecDtype = "float32",
    threads: Threads = None,
) -> None:
    """Turn a file into codes and these into a file again: what the codec keeps."""
    modality = _check_source(model, file, num_quantizers, stream, mic, seconds)
    check_out(out, _ENDINGS[modality], [file])
    source = _open(file, modality, model, max_patches)
    codec = _load(model, modality, device, dtype, threads)
    codes, values = _encode(codec, source, num_quantizers, stream, seconds, decode=stream)
    typer.echo(_describe(codes))
    if values is None:
        _decode(codec, codes, out)
    else:
        _save_audio(values, codes, out)


def _check_source(
    model: Path, file: Path | None, num_quantizers: int | None, stream: bool, mic: bool, seconds: float | None
) -> Modality:
    """Check where the input comes from and the options for it, and return as what it is coded."""
    if (file is None) != mic:
        raise ValueError(f"Either `FILE` or `--mic` must be given, got {'both' if mic else 'neither'}.")
    check_seconds(seconds, mic)
    modality = choose_modality(file, model)
    check_codec_options(model, modality, num_quantizers, stream)
    return modality


def _codec_of(modality: Modality) -> Literal["audio", "vision"]:
    return "audio" if modality == "audio" else "vision"


def _load(model: Path, modality: Modality, device: str, dtype: str, threads: int | None) -> Any:
    with waiting(f"Loading {model}"):
        return load_codec(model, _codec_of(modality), choose_device(device, threads), dtype)


def _open(file: Path | None, modality: Modality, model: Path, max_patches: int) -> Any:
    """Read an input: a waveform and its rate, frames, or `None` of the microphone."""
    with waiting(f"Reading {file or 'the model'}"):
        config = read_codec_config(model, _codec_of(modality))
        if file is None:
            return None
        if modality == "audio":
            from .codec_files import read_clip

            return read_clip(file, config)

        from .codec_images import read_frames, require_av

        if modality == "video":
            require_av()  # a GIF needs it too, to become a video
        return read_frames(file, config, max_patches)


def _encode(
    codec: Any, source: Any, num_quantizers: int | None, stream: bool, seconds: float | None, decode: bool = False
) -> "tuple[Codes, torch.Tensor | None]":
    """Return the codes of the input, and with `decode` in a stream also the waveform, `(channels, num_samples)`."""
    from . import codec_files, codec_streams
    from .codec_images import Frames

    if isinstance(source, Frames):
        return _encode_frames(codec, source, num_quantizers), None

    import torch

    from ..configuration_josie import audio_codec_geometry

    config = codec.config
    if source is None:
        rate = codec_streams.MICROPHONE_RATE
        chunks = codec_streams.record_audio(seconds, getattr(config, "audio_channels", 1))
    else:
        values, rate = source
        chunks = codec_streams.split_audio(values, rate)
    if stream:
        parts = list(_watch(codec_streams.stream_audio(codec, chunks, rate, num_quantizers, decode)))
        _require_samples(sum(part.num_samples for part in parts))
        codes = codec_files.make_codes(
            config, torch.cat([part.codes for part in parts], dim=-1), sum(part.num_samples for part in parts)
        )
        _report_stream(codec, parts, rate)
        return codes, _join(parts)[0] if decode else None
    heard = list(chunks)
    _require_samples(sum(chunk.shape[-1] for chunk in heard))
    clip, start = torch.cat(heard, dim=-1), time.perf_counter()
    with waiting("Encoding"):
        codes = codec_files.encode_clip(codec, clip, rate, num_quantizers)
    _report_speed("Encoded", clip.shape[-1] / rate, time.perf_counter() - start)
    target = audio_codec_geometry(config).sampling_rate
    if rate != target:
        report(f"Resampled from {rate} to {target} Hz.")
    return codes, None


def _encode_frames(codec: Any, frames: Any, num_quantizers: int | None) -> "Codes":
    from .codec_images import encode_frames

    start = time.perf_counter()
    with waiting("Encoding"):
        codes = encode_frames(codec, frames, num_quantizers)
    seconds = time.perf_counter() - start
    _, num_frames, _, height, width = frames.pixel_values.shape
    report(f"Encoded {num_frames} frame{'s' * (num_frames > 1)} in {seconds:.2f} s.")
    if frames.source_size != (height, width):
        report("Resized from {1}×{0} to {3}×{2} pixels.".format(*frames.source_size, height, width))
    if frames.source_frames != num_frames:
        report(f"Took {num_frames} of {frames.source_frames} frames.")
    return codes


def _decode(codec: Any, stored: "Codes", out: Path, stream: bool = False) -> None:
    from . import codec_files, codec_images, codec_streams

    start = time.perf_counter()
    if stored.modality != "audio":
        with waiting("Decoding"):
            pixels = codec_images.decode_frames(codec, stored)
        seconds = time.perf_counter() - start
        with waiting(f"Writing {out}"), writing_out(out):
            codec_images.write_frames(out, pixels, stored.fps if stored.modality == "video" else None)
        report(f"Decoded {len(pixels)} frame{'s' * (len(pixels) > 1)} in {seconds:.2f} s.")
        typer.echo(f"{out}: {pixels.shape[3]}×{pixels.shape[2]} pixels")
        return
    if stream:
        parts = list(_watch(codec_streams.stream_codes(codec, stored.codes)))
        values = codec_files.cut_clip(_join(parts), stored)
    else:
        with waiting("Decoding"):
            values = codec_files.decode_clip(codec, stored)
    _report_speed("Decoded", stored.seconds, time.perf_counter() - start)
    _save_audio(values, stored, out)


def _watch(parts: "Iterator[StreamedChunk]") -> "Iterator[StreamedChunk]":
    """Report how fast each chunk went through."""
    for index, part in enumerate(parts):
        if part.audio_seconds:
            speed = part.audio_seconds / part.seconds
            report(f"chunk {index}: {part.codes.shape[-1]} frames, {speed:.1f} times as fast as real time")
        yield part


def _join(parts: "list[StreamedChunk]") -> "torch.Tensor":
    """Return the waveform of all chunks, `(1, channels, num_samples)`."""
    import torch

    return torch.cat([part.values for part in parts if part.values is not None], dim=-1)


def _report_stream(codec: Any, parts: "list[StreamedChunk]", rate: int) -> None:
    """Report the speed of the whole, and how long after its input a sample is there at the latest."""
    from ..processing_josie.resampling import StreamResampler
    from .codec_streams import CHUNK_SECONDS

    config = codec.config
    _report_speed("Streamed", sum(part.audio_seconds for part in parts), sum(part.seconds for part in parts))
    if rate != config.sampling_rate:
        report(f"Resampled from {rate} to {config.sampling_rate} Hz.")
    delays = {
        "the codec": config.algorithmic_delay / config.sampling_rate,
        "the chunk": CHUNK_SECONDS,
        "resampling": StreamResampler(rate, config.sampling_rate).look_ahead / rate,
        "computing": max(part.seconds for part in parts),
    }
    named = ", ".join(f"{1000 * delay:.1f} ms for {name}" for name, delay in delays.items())
    report(f"Latency: at most {1000 * sum(delays.values()):.1f} ms ({named}).")


def _report_speed(verb: str, audio_seconds: float, seconds: float) -> None:
    speed = audio_seconds / seconds
    report(f"{verb} {audio_seconds:.2f} s of audio in {seconds:.2f} s, {speed:.1f} times as fast as real time.")


def _describe(codes: "Codes") -> str:
    """Return the size of codes in a few words."""
    num_quantizers = codes.codes.shape[1]
    if codes.modality == "audio":
        return (
            f"{codes.seconds:.2f} s of audio, {codes.codes.shape[-1]} frames of {num_quantizers} × "
            f"{codes.codebook_size} codes, {codes.kbit_rate:.3g} kbit/s"
        )
    grid = "×".join(map(str, codes.grid or ()))
    size = f"{codes.num_bits / 8:.0f} bytes"
    return f"{codes.modality}, {grid} patches of {num_quantizers} × {codes.codebook_size} codes, {size}"


def _save_audio(values: "torch.Tensor", stored: "Codes", out: Path) -> None:
    from ..processing_josie import save_audio

    with writing_out(out):
        save_audio(out, values.float().cpu(), cast(int, stored.sampling_rate))
    typer.echo(f"{out}: {stored.seconds:.2f} s of audio")


def _require_samples(num_samples: int) -> None:
    if not num_samples:
        raise ValueError("There must be at least one sample of audio, got none.")
