"""The commands of `josie codec`: sound, pictures and videos to files of codes and back."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from .checkpoints import load_codec, read_codec_config
from .options import CodecFolder, Seconds, check_out, check_seconds, checked, existing_file, file_ending_in, sound_file
from .shared import report, show_help

if TYPE_CHECKING:
    import torch

    from .codec_files import Codes
    from .codec_streams import StreamedChunk

codec_app = typer.Typer(
    invoke_without_command=True, callback=show_help, help="Turn sound, pictures and videos into codes and back."
)

File = Annotated[
    Path | None,
    typer.Argument(
        metavar="FILE",
        help="Sound (WAV, FLAC, OGG, MP3) for an audio codec; a picture or video for JOVIO.",
        callback=checked(existing_file),
    ),
]
Quantizers = Annotated[int | None, typer.Option("--num-quantizers", help="Use only the first ones.")]
Stream = Annotated[bool, typer.Option("--stream", help="Go through sound in chunks of 250 ms.")]
Mic = Annotated[bool, typer.Option("--mic", help="Listen to the microphone (16 kHz, mono) in place of a file.")]
MaxPatches = Annotated[int, typer.Option(help="Most patches of a picture; larger ones are made smaller.")]


@codec_app.command("encode")
def encode_command(
    model: CodecFolder,
    out: Annotated[
        Path,
        typer.Option(
            help="The file of codes to write, .safetensors.", callback=checked(file_ending_in(".safetensors"))
        ),
    ],
    file: File = None,
    num_quantizers: Quantizers = None,
    stream: Stream = False,
    mic: Mic = False,
    seconds: Seconds = None,
    max_patches: MaxPatches = 4096,
) -> None:
    """Turn a file, or what the microphone hears, into codes."""
    codec = _load_for(file, model, mic, seconds)
    codes, _ = _encode(codec, file, num_quantizers, stream, seconds, max_patches)
    codes.save(out)
    typer.echo(f"{out}: {_describe(codes)}")


@codec_app.command("decode")
def decode_command(
    codes: Annotated[
        Path, typer.Argument(metavar="CODES", help="What `josie codec encode` wrote.", callback=checked(existing_file))
    ],
    model: CodecFolder,
    out: Annotated[Path, typer.Option(help="The file to write: sound, .png or .mp4.")],
    stream: Stream = False,
) -> None:
    """Turn codes into sound, a picture or a video."""
    from .codec_files import Codes

    stored = Codes.load(codes)
    _require_out_for(stored.kind, out)
    modality = "audio" if stored.kind == "audio" else "vision"
    read_codec_config(model, modality)
    codec = load_codec(model, modality)
    stored.require_fit(codec.config)
    _decode(codec, stored, out, stream)


@codec_app.command("roundtrip")
def roundtrip_command(
    model: CodecFolder,
    out: Annotated[Path, typer.Option(help="The file to write: sound, .png or .mp4.")],
    file: File = None,
    num_quantizers: Quantizers = None,
    stream: Stream = False,
    mic: Mic = False,
    seconds: Seconds = None,
    max_patches: MaxPatches = 4096,
) -> None:
    """Turn a file into codes and these into a file again: what the codec keeps."""
    codec = _load_for(file, model, mic, seconds)
    _require_out_for(_kind_of(codec, file), out)
    codes, values = _encode(codec, file, num_quantizers, stream, seconds, max_patches, decode=stream)
    typer.echo(_describe(codes))
    if values is None:
        _decode(codec, codes, out)
    else:
        _save_sound(values, codes, out)


def _load_for(file: Path | None, model: Path, mic: bool, seconds: float | None) -> Any:
    """Check where the input comes from, and load the codec for it."""
    if (file is None) != mic:
        raise ValueError(f"Either `FILE` or `--mic` must be given, got {'both' if mic else 'neither'}.")
    check_seconds(seconds, mic)

    from .codec_files import codec_kinds, is_sound_file

    is_sound = file is None or is_sound_file(file)
    modality = "audio" if is_sound else "vision"
    read_codec_config(model, modality)
    codec = load_codec(model, modality)
    if is_sound != ("audio" in codec_kinds(codec.config)):
        wanted, given = ("a picture or a video", "sound") if is_sound else ("sound", "another file")
        raise ValueError(
            f"`FILE` must be {wanted}, which {codec.config.model_type!r} codes, "
            f"got {str(file) if file else 'the microphone'!r}, {given}."
        )
    return codec


def _kind_of(codec: Any, file: Path | None) -> str:
    from .codec_files import codec_kinds
    from .codec_images import is_still

    if file is None or "audio" in codec_kinds(codec.config):
        return "audio"
    return "image" if is_still(file) else "video"


def _encode(
    codec: Any,
    file: Path | None,
    num_quantizers: int | None,
    stream: bool,
    seconds: float | None,
    max_patches: int,
    decode: bool = False,
) -> "tuple[Codes, torch.Tensor | None]":
    """Return the codes of the input, and with `decode` in a stream also the waveform, `(channels, num_samples)`."""
    from . import codec_files, codec_streams

    if "audio" not in codec_files.codec_kinds(codec.config):
        if stream:
            codec_streams.require_streaming(codec)
        return _encode_pictures(codec, cast(Path, file), num_quantizers, max_patches), None

    import torch

    from ..configuration_josie import audio_codec_geometry
    from ..modeling_josie.codecs.checks import check_num_quantizers

    config = codec.config
    target = audio_codec_geometry(config).sampling_rate
    check_num_quantizers(num_quantizers, audio_codec_geometry(config).num_quantizers)
    if stream:
        codec_streams.require_streaming(codec)
    if file is None:
        rate = codec_streams.MICROPHONE_RATE
        chunks = codec_streams.record_sound(seconds, getattr(config, "audio_channels", 1))
    else:
        values, rate = codec_files.read_sound(file, config)
        chunks = codec_streams.split_sound(values, rate)
    if stream:
        parts = list(_watch(codec_streams.stream_sound(codec, chunks, rate, num_quantizers, decode)))
        _require_sound(sum(part.num_samples for part in parts))
        codes = codec_files.wrap_sound(
            config, torch.cat([part.codes for part in parts], dim=-1), sum(part.num_samples for part in parts)
        )
        _report_stream(codec, parts, rate)
        return codes, _join(parts)[0] if decode else None
    heard = list(chunks)
    _require_sound(sum(chunk.shape[-1] for chunk in heard))
    clip, start = torch.cat(heard, dim=-1), time.perf_counter()
    codes = codec_files.encode_sound(codec, clip, rate, num_quantizers)
    _report_speed("Encoded", clip.shape[-1] / rate, time.perf_counter() - start)
    if rate != target:
        report(f"Resampled from {rate} to {target} Hz.")
    return codes, None


def _encode_pictures(codec: Any, file: Path, num_quantizers: int | None, max_patches: int) -> "Codes":
    from .codec_images import encode_pictures, read_pictures

    pictures = read_pictures(file, codec.config, max_patches)
    start = time.perf_counter()
    codes = encode_pictures(codec, pictures, num_quantizers)
    seconds = time.perf_counter() - start
    _, num_frames, _, height, width = pictures.pixel_values.shape
    report(f"Encoded {num_frames} frame{'s' * (num_frames > 1)} in {seconds:.2f} s.")
    if pictures.source_size != (height, width):
        report("Resized from {1}×{0} to {3}×{2} pixels.".format(*pictures.source_size, height, width))
    if pictures.source_frames != num_frames:
        report(f"Took {num_frames} of {pictures.source_frames} frames.")
    return codes


def _decode(codec: Any, stored: "Codes", out: Path, stream: bool = False) -> None:
    from . import codec_files, codec_images as codec_pictures, codec_streams

    if stream:
        codec_streams.require_streaming(codec)
    start = time.perf_counter()
    if stored.kind != "audio":
        pixels = codec_pictures.decode_pictures(codec, stored)
        seconds = time.perf_counter() - start
        codec_pictures.write_pictures(out, pixels, stored.fps if stored.kind == "video" else None)
        report(f"Decoded {len(pixels)} frame{'s' * (len(pixels) > 1)} in {seconds:.2f} s.")
        typer.echo(f"{out}: {pixels.shape[3]}×{pixels.shape[2]} pixels")
        return
    if stream:
        parts = list(_watch(codec_streams.stream_codes(codec, stored.codes)))
        values = codec_files.cut_sound(_join(parts), stored)
    else:
        values = codec_files.decode_sound(codec, stored)
    _report_speed("Decoded", stored.seconds, time.perf_counter() - start)
    _save_sound(values, stored, out)


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
    """Report the speed of the whole, and how long after its sound a sample is there at the latest."""
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
    report(f"{verb} {audio_seconds:.2f} s of sound in {seconds:.2f} s, {speed:.1f} times as fast as real time.")


def _describe(codes: "Codes") -> str:
    """Return what codes measure, in a few words."""
    num_quantizers = codes.codes.shape[1]
    if codes.kind == "audio":
        return (
            f"{codes.seconds:.2f} s of sound, {codes.codes.shape[-1]} frames of {num_quantizers} × "
            f"{codes.codebook_size} codes, {codes.kbit_rate:.3g} kbit/s"
        )
    grid = "×".join(map(str, codes.grid or ()))
    size = f"{codes.num_bits / 8:.0f} bytes"
    return f"{codes.kind}, {grid} patches of {num_quantizers} × {codes.codebook_size} codes, {size}"


def _save_sound(values: "torch.Tensor", stored: "Codes", out: Path) -> None:
    from ..processing_josie import save_audio

    save_audio(out, values.float(), cast(int, stored.sampling_rate))
    typer.echo(f"{out}: {stored.seconds:.2f} s of sound")


def _require_sound(num_samples: int) -> None:
    if not num_samples:
        raise ValueError("There must be at least one sample of sound, got none.")


def _require_out_for(kind: str, out: Path) -> None:
    """Check the name of the file to write for what codes stand for."""
    endings = {"image": file_ending_in(".png"), "video": file_ending_in(".mp4")}
    check_out(out, endings.get(kind, sound_file))
