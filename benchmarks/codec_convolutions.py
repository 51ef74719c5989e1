"""The two paths of the codecs' convolutions against torch's `conv1d`, at the shapes of JODIO in `codec.py`.

Each row is a convolution of the encoder over chunks of a stream (one code frame of 80 ms) or over a recording of 4
seconds, batch 1 and 8. `convolve` chooses one of the two; the peer is its naive twin.

    python benchmarks/codec_convolutions.py [--rounds 7] [--json FILE]
"""

import torch
from codec import build_jodio
from measure import measure, parse_arguments, report

from josie.modeling_josie.codecs.convolution import CausalConv1d
from josie.modeling_josie.codecs.fast import convolve, convolve_as_image, convolve_naive, multiply_windows

FRAMES = {"a chunk of 80 ms": 1, "4 seconds": 50}


def main() -> None:
    """Measure and print."""
    arguments = parse_arguments(__doc__.splitlines()[0])
    torch.manual_seed(0)
    jodio = build_jodio()
    layers = [module for module in jodio.encoder.modules() if isinstance(module, CausalConv1d)]
    for title, num_frames in FRAMES.items():
        for batch_size in (1, 8):
            length = num_frames * jodio.config.hop_length
            for layer in layers:
                length //= layer.downsampling
                weight, bias = (part.detach() for part in layer.compute_form())
                padded = torch.randn(batch_size, length + (weight.shape[1] - 1) * layer.dilation, weight.shape[2])
                paths = {
                    "convolve": convolve,
                    "matrix product": multiply_windows,
                    "2-d convolution": convolve_as_image,
                    "conv1d": convolve_naive,
                }
                contestants = {
                    name: lambda path=path, given=(padded, weight, bias, layer.dilation): path(*given)
                    for name, path in paths.items()
                }
                shape = f"{weight.shape[2]} to {weight.shape[0]}, {weight.shape[1]} taps, {length} steps"
                seconds = measure(contestants, arguments.rounds)
                report(f"{title}, batch {batch_size}: {shape}", seconds, batch_size * length, "steps", arguments)


if __name__ == "__main__":
    main()
