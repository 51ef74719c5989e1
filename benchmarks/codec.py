"""JODIO against Mimi, its stream against itself, a small codec against the clock, and RVQ against its usual package.

Mimi and JODIO have a hop of 1920 samples at 24 kHz, SEANet widths 64 to 1024 with one residual layer a stage,
transformers of width 512 with 4 layers, 8 heads and MLPs of 2048, and 1 + 7 codebooks of 2048. Two differences remain.
Against JODIO: its residual layer is one full convolution (3 C² weights) where Mimi's is a bottleneck (2 C²). For JODIO:
its transformers run after the last stride (12.5 Hz) where Mimi's run before it (25 Hz). Weights are random.

Streams go in chunks of 80 ms, one alone and up to `--streams` at once, beside the same rows offline; Mimi, whose
decoder does not stream, encodes one too. JODIO is prepared for inference. `--nano DIR` measures a trained codec on one
thread in the same ways. RVQ has 8 codebooks of 2048 × 512 and reads 1,000 frames; `pip install vector-quantize-pytorch`
brings the peer.

    python benchmarks/codec.py [--seconds 4] [--streams 16] [--nano DIR] [--json FILE]
"""

import argparse
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from measure import measure, parse_arguments, report
from transformers import AutoModel, MimiConfig, MimiModel

from josie.configuration_josie import JodioConfig, JosieCodecConfig
from josie.modeling_josie.codecs.inference import prepare_codec
from josie.modeling_josie.codecs.jodio import JodioModel
from josie.modeling_josie.codecs.quantization import ResidualVectorQuantizer

RATIOS = [8, 6, 5, 4]
WIDTH, NUM_LAYERS, NUM_HEADS, MLP_WIDTH, WINDOW = 512, 4, 8, 2048, 250
NUM_QUANTIZERS, CODEBOOK_SIZE, CODEBOOK_DIM = 8, 2048, 256
CHUNK_SECONDS = 0.08
FEW_STREAMS = 1, 4, 8
NUM_VECTORS, VECTOR_SIZE = 1000, 512
PEAK = "import sys; sys.path.insert(0, sys.argv[1]); import codec; print(codec.measure_peak(sys.argv[2]))"


def build_jodio() -> JodioModel:
    """Return JODIO at the common sizes."""
    transformer = {
        "hidden_size": WIDTH,
        "intermediate_size": MLP_WIDTH,
        "num_hidden_layers": NUM_LAYERS,
        "num_attention_heads": NUM_HEADS,
        "hidden_act": "gelu",
        "gated_mlp": False,
        "norm_type": "layer",
        "layer_scale": 0.01,
        "sliding_window": WINDOW,
    }
    config = JodioConfig(
        channels=[64, 128, 256, 512, 1024, WIDTH],
        upsampling_ratios=[2, *RATIOS],
        num_residual_layers=1,
        encoder_config=transformer,
        decoder_config=dict(transformer),
        num_quantizers=NUM_QUANTIZERS,
        num_semantic_quantizers=1,
        codebook_size=CODEBOOK_SIZE,
        codebook_dim=CODEBOOK_DIM,
    )
    return JodioModel(config).eval().prepare_for_inference()


def build_mimi() -> MimiModel:
    """Return transformers' Mimi at the common sizes."""
    config = MimiConfig(
        hidden_size=WIDTH,
        num_filters=64,
        upsampling_ratios=RATIOS,
        num_hidden_layers=NUM_LAYERS,
        num_attention_heads=NUM_HEADS,
        num_key_value_heads=NUM_HEADS,
        intermediate_size=MLP_WIDTH,
        sliding_window=WINDOW,
        num_quantizers=NUM_QUANTIZERS,
        num_semantic_quantizers=1,
        codebook_size=CODEBOOK_SIZE,
        codebook_dim=CODEBOOK_DIM,
    )
    return MimiModel(config).eval()


def stream_both_ways(codec: JodioModel, waveforms: torch.Tensor, codes: torch.Tensor) -> tuple[Any, Any]:
    """Return functions that encode and decode in chunks of 80 ms.

    Args:
        codec ([`JodioModel`]): The codec.
        waveforms (`torch.Tensor`): `(batch, channels, num_samples)`, to encode.
        codes (`torch.LongTensor`): `(batch, num_quantizers, num_frames)`, to decode.
    """
    num_frames = round(CHUNK_SECONDS * codec.config.frame_rate)
    size = num_frames * codec.config.hop_length

    def encode() -> None:
        state = None
        for chunk in waveforms.split(size, dim=-1):
            state = codec.encode(chunk, streaming_state=state, use_streaming=True).streaming_state

    def decode() -> None:
        state = None
        for chunk in codes.split(num_frames, dim=-1):
            state = codec.decode(chunk, streaming_state=state, use_streaming=True).streaming_state

    return encode, decode


def stream_mimi(mimi: MimiModel, waveform: torch.Tensor) -> Any:
    """Return a function that encodes with Mimi in chunks of 80 ms."""
    size = round(CHUNK_SECONDS * mimi.config.sampling_rate)

    def encode() -> None:
        keys_and_values = padding = None
        for chunk in waveform.split(size, dim=-1):
            coded = mimi.encode(chunk, encoder_cache=keys_and_values, padding_cache=padding, use_streaming=True)
            keys_and_values, padding = coded.encoder_cache, coded.padding_cache

    return encode


def compare_streams(codec: JodioModel, name: str, arguments: argparse.Namespace) -> None:
    """Measure one stream and more, up to `--streams`, each a row of a batch, beside the same rows offline.

    Args:
        codec, name, arguments: As of [`compare_batch`].
    """
    for batch_size in (*(number for number in FEW_STREAMS if number < arguments.streams), arguments.streams):
        compare_batch(codec, name, batch_size, arguments)


def compare_batch(codec: JodioModel, name: str, batch_size: int, arguments: argparse.Namespace) -> None:
    """Measure that many streams.

    Args:
        codec ([`JodioModel`]): The codec.
        name (`str`): Of the codec, for the report.
        batch_size (`int`): Streams.
        arguments (`argparse.Namespace`): The command line.
    """
    config = codec.config
    waveforms = 0.1 * torch.randn(batch_size, config.audio_channels, arguments.seconds * config.sampling_rate)
    codes = codec.encode(waveforms, return_dict=False)[0]
    streams = stream_both_ways(codec, waveforms, codes)
    offline = (lambda: codec.encode(waveforms)), (lambda: codec.decode(codes))
    for title, stream, whole in zip(("encode", "decode"), streams, offline, strict=True):
        seconds = measure({"in chunks of 80 ms": stream, "offline": whole}, arguments.rounds)
        amount = batch_size * arguments.seconds
        report(f"{name}, {title} in a stream, batch {batch_size}", seconds, amount, "audio s", arguments)


def print_reading(codec: JodioModel) -> None:
    """Print how many weights any chunk has to read, however few its rows are, and how long reading alone takes."""
    names = {"encode": ("encoder", "quantizer"), "decode": ("decoder",)}  # of codebooks, decoding reads a row each
    block = torch.ones(2**27)  # more than caches hold
    seconds = statistics.median(measure({"reading": block.sum}, rounds=7)["reading"])
    speed = block.nbytes / seconds
    print(f"\nMemory is read at {speed / 1e9:.1f} GB/s.")
    weights = dict(codec.named_parameters()) | dict(codec.named_buffers())
    for title, starts in names.items():
        read = [value for name, value in weights.items() if name.startswith(starts)]
        size = sum(value.nbytes for value in read)
        print(f"To {title} a chunk reads {size / 1e6:.0f} MB of weights: {1000 * size / speed:.1f} ms at the least.")


def compare_with_mimi(arguments: argparse.Namespace) -> None:
    """Measure encode and decode of both, and JODIO in a stream."""
    torch.manual_seed(0)
    jodio, mimi = build_jodio(), build_mimi()
    for name, model in (("JODIO", jodio), ("Mimi", mimi)):
        print(f"{name}: {sum(parameter.numel() for parameter in model.parameters()) / 1e6:.1f} M parameters")
    waveform = 0.1 * torch.randn(1, 1, arguments.seconds * 24000)
    codes = {"JODIO": jodio.encode(waveform, return_dict=False)[0], "Mimi": mimi.encode(waveform, return_dict=False)[0]}
    assert codes["JODIO"].shape == codes["Mimi"].shape
    encoders = {"JODIO": lambda: jodio.encode(waveform), "Mimi": lambda: mimi.encode(waveform)}
    decoders = {"JODIO": lambda: jodio.decode(codes["JODIO"]), "Mimi": lambda: mimi.decode(codes["Mimi"])}
    for title, contestants in (("encode", encoders), ("decode", decoders)):
        seconds = measure(contestants, arguments.rounds)
        report(f"Codec, {title}, batch 1", seconds, arguments.seconds, "audio s", arguments)
    hop = jodio.config.hop_length
    chunks = waveform[..., : waveform.shape[-1] // hop * hop]  # Mimi takes no part of one
    encode, _ = stream_both_ways(jodio, chunks, codes["JODIO"])
    seconds = measure({"JODIO": encode, "Mimi": stream_mimi(mimi, chunks)}, arguments.rounds)
    amount = chunks.shape[-1] / 24000
    report("Codec, encode in chunks of 80 ms, batch 1", seconds, amount, "audio s", arguments)
    compare_streams(jodio, "JODIO", arguments)
    print_reading(jodio)


def time_nano(arguments: argparse.Namespace) -> None:
    """Measure a trained codec on one thread; seconds of audio a second are times real time."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    codec = prepare_codec(AutoModel.from_pretrained(arguments.nano).eval())
    waveform = 0.1 * torch.randn(1, codec.config.audio_channels, arguments.seconds * codec.config.sampling_rate)
    codes = codec.encode(waveform).audio_codes
    contestants = {"encode": lambda: codec.encode(waveform), "decode": lambda: codec.decode(codes)}
    seconds = measure(contestants, arguments.rounds)
    alone = argparse.Namespace(**vars(arguments) | {"threads": 1})
    report(f"{arguments.nano.name}, one thread", seconds, arguments.seconds, "audio s", alone)
    compare_streams(codec, f"{arguments.nano.name}, one thread", alone)
    torch.set_num_threads(threads)


def build_rvq(name: str) -> Any:
    """Return a function that encodes the common vectors with `"JOSIE"` or with `"vector-quantize-pytorch"`."""
    torch.manual_seed(0)
    vectors = torch.randn(1, NUM_VECTORS, VECTOR_SIZE)
    if name == "JOSIE":
        config = JosieCodecConfig(codebook_size=CODEBOOK_SIZE, codebook_dim=VECTOR_SIZE)
        ours = ResidualVectorQuantizer(config, VECTOR_SIZE, NUM_QUANTIZERS).eval()
        return lambda: ours.encode(vectors.transpose(1, 2))
    from vector_quantize_pytorch import ResidualVQ

    theirs = ResidualVQ(dim=VECTOR_SIZE, num_quantizers=NUM_QUANTIZERS, codebook_size=CODEBOOK_SIZE).eval()
    return lambda: theirs(vectors)


def measure_peak(name: str) -> int:
    """Return by how many KiB one encoding raises the memory of this process at its peak; Linux only."""
    run = build_rvq(name)
    Path("/proc/self/clear_refs").write_text("5")  # which begins a new peak

    def read(field: str) -> int:
        lines = Path("/proc/self/status").read_text("utf-8").splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith(field))

    before = read("VmRSS")
    with torch.inference_mode():
        run()
    return read("VmHWM") - before


def compare_rvq(arguments: argparse.Namespace) -> None:
    """Measure time and peak memory of RVQ."""
    peer = "vector-quantize-pytorch"
    try:
        contestants = {name: build_rvq(name) for name in ("JOSIE", peer)}
    except ImportError:
        print(f"\nRVQ is not compared: `pip install {peer}` brings the peer.")
        return
    report("RVQ, encode, 8 × 2048 × 512", measure(contestants, arguments.rounds), NUM_VECTORS, "frames", arguments)
    for name in contestants:
        command = [sys.executable, "-c", PEAK, str(Path(__file__).parent), name]
        # A fixed threshold gives freed memory back at once, so that building leaves none that encoding could use.
        environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536"}
        result = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
        print(f"{name}: {int(result.stdout.splitlines()[-1]) / 1024:.1f} MiB more at the peak")


def main() -> None:
    """Measure and print."""
    arguments = parse_arguments(
        __doc__.splitlines()[0], {"nano": "a trained codec's checkpoint, timed on one thread"}, seconds=4, streams=16
    )
    if arguments.nano is not None and not arguments.nano.is_dir():
        raise SystemExit(f"`--nano` must be a folder with a codec's checkpoint, got {str(arguments.nano)!r}.")
    if arguments.streams < 1:
        raise SystemExit(f"`--streams` must be at least 1, got {arguments.streams}.")
    compare_with_mimi(arguments)
    if arguments.nano is not None:
        time_nano(arguments)
    compare_rvq(arguments)


if __name__ == "__main__":
    main()
