"""JODIO against Mimi: encode and decode, side by side in one run.

Both have a hop of 1920 samples at 24 kHz, SEANet widths 64 to 1024 with one residual layer a stage, transformers of
width 512 with 4 layers, 8 heads and MLPs of 2048, and 1 + 7 codebooks of 2048. Two differences remain. Against JODIO:
its residual layer is one full convolution (3 C² weights) where Mimi's is a bottleneck (2 C²). For JODIO: its
transformers run after the last stride (12.5 Hz) where Mimi's run before it (25 Hz). Weights are random.

    python benchmarks/codec.py [--seconds 4] [--json FILE]
"""

import torch
from measure import measure, parse_arguments, report
from transformers import MimiConfig, MimiModel

from josie.configuration_josie import JodioConfig
from josie.modeling_josie.jodio import JodioModel

RATIOS = [8, 6, 5, 4]
WIDTH, NUM_LAYERS, NUM_HEADS, MLP_WIDTH, WINDOW = 512, 4, 8, 2048, 250
NUM_QUANTIZERS, CODEBOOK_SIZE, CODEBOOK_DIM = 8, 2048, 256


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
    return JodioModel(config).eval()


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


def main() -> None:
    """Measure and print."""
    arguments = parse_arguments(__doc__.splitlines()[0], seconds=4)
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


if __name__ == "__main__":
    main()
