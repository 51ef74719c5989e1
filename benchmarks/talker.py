"""Frames of speech a second: the Talker's `generate` beside transformers' CSM of the same sizes.

Both have 9 codebooks of 2048, a backbone of width 256 with 4 layers, a depth decoder of width 128 with 4 layers,
batch 1, float32, random weights, greedy choice, and a prompt of 32 text tokens. The Talker is prepared for inference.
With `--variants` it runs with steps that call each module, with int8 weights, in bfloat16, and with its depth decoder's
loop compiled as well.

    python benchmarks/talker.py [--frames 50] [--variants] [--json FILE]
"""

import copy
import warnings
from collections.abc import Callable

import torch
from measure import measure, parse_arguments, report
from torch import nn
from transformers import CsmConfig, CsmForConditionalGeneration

from josie import JosieTalkerConfig, JosieTalkerForConditionalGeneration
from josie.modeling_josie.layers.transformer import JosieLayer

QUANTIZERS, CODEBOOK, TOKENS = 9, 2048, 32
BACKBONE = dict(
    hidden_size=256, intermediate_size=1024, num_hidden_layers=4, num_attention_heads=4, num_key_value_heads=4
)
DEPTH = dict(hidden_size=128, intermediate_size=512, num_hidden_layers=4, num_attention_heads=4, num_key_value_heads=4)


def build_csm() -> CsmForConditionalGeneration:
    """Return a CSM that never ends by itself."""
    depth = DEPTH | dict(backbone_hidden_size=256, num_codebooks=QUANTIZERS, vocab_size=CODEBOOK, head_dim=32)
    config = CsmConfig(
        **BACKBONE,
        head_dim=64,
        num_codebooks=QUANTIZERS,
        vocab_size=CODEBOOK,
        text_vocab_size=5000,
        codebook_eos_token_id=CODEBOOK - 1,
        codebook_pad_token_id=CODEBOOK - 2,
        pad_token_id=0,
        bos_token_id=1,
        audio_token_id=2,
        audio_eos_token_id=3,
        depth_decoder_config=depth,
        codec_config={"model_type": "mimi", "num_hidden_layers": 1},
    )
    return CsmForConditionalGeneration(config).eval()


def build_talker() -> JosieTalkerForConditionalGeneration:
    """Return a Talker of the same sizes that never ends by itself."""
    config = JosieTalkerConfig(
        **BACKBONE,
        num_quantizers=QUANTIZERS,
        codebook_size=CODEBOOK,
        thinker_hidden_size=256,
        depth_decoder_config=DEPTH,
        end_of_speech=False,
    )
    return JosieTalkerForConditionalGeneration(config).eval().prepare_for_inference()


def build_variants(talker: JosieTalkerForConditionalGeneration) -> dict[str, JosieTalkerForConditionalGeneration]:
    """Return copies of a Talker that might be faster, and one that calls every module in a step."""
    called, int8, bf16, compiled = (copy.deepcopy(talker) for _ in range(4))
    for module in called.modules():
        if type(module) is JosieLayer:
            module.attn_scale = nn.Identity()  # which a step that is written out does not know
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch moves its quantization to a package of its own
        int8 = torch.ao.quantization.quantize_dynamic(int8, {torch.nn.Linear}, dtype=torch.qint8)
    decoder = compiled.depth_decoder
    decoder.generate = torch.compile(decoder.generate, dynamic=False)
    return {
        "steps by modules": called,
        "int8 weights": int8,
        "bfloat16": bf16.to(torch.bfloat16),
        "compiled depth loop": compiled,
    }


def main() -> None:
    """Measure and print."""
    flags = {"variants": "also time int8 weights, bfloat16 and a compiled depth decoder"}
    arguments = parse_arguments(__doc__.splitlines()[0], flags=flags, frames=50)
    torch.manual_seed(0)
    talker, csm = build_talker(), build_csm()
    states = torch.randn(1, TOKENS, 256)
    prompt = torch.randint(10, 5000, (1, TOKENS))

    def run(talker: JosieTalkerForConditionalGeneration) -> Callable[[], None]:
        inputs = states.to(next(talker.parameters()).dtype)

        def speak() -> None:
            codes = talker.generate(inputs, inputs, max_new_frames=arguments.frames).audio_codes
            assert codes.shape == (1, QUANTIZERS, arguments.frames)

        return speak

    def run_csm():
        codes = csm.generate(
            prompt, max_new_tokens=arguments.frames, do_sample=False, depth_decoder_do_sample=False, output_audio=False
        )
        assert codes.shape == (1, arguments.frames, QUANTIZERS)

    variants = build_variants(talker) if arguments.variants else {}
    contestants = {"JOSIE Talker": run(talker)} | {name: run(variant) for name, variant in variants.items()}
    seconds = measure(contestants | {"CSM": run_csm}, arguments.rounds)
    report("Talker, batch 1", seconds, arguments.frames, "frames", arguments)


if __name__ == "__main__":
    main()
