"""Tokens a second: the Thinker's `generate` beside `LlamaForCausalLM` of the same sizes.

Both have width 256, 4 layers, 4 heads, an MLP of 1024 and a vocabulary of 5000; batch 1, float32, random weights,
greedy choice, a prompt of 32 tokens.

    python benchmarks/thinker.py [--tokens 128] [--json FILE]
"""

import torch
from measure import measure, parse_arguments, report
from transformers import LlamaConfig, LlamaForCausalLM

from josie import JosieThinkerConfig, JosieThinkerForConditionalGeneration

SIZES = dict(vocab_size=5000, hidden_size=256, intermediate_size=1024, num_hidden_layers=4, num_attention_heads=4)


def main() -> None:
    """Measure and print."""
    arguments = parse_arguments(__doc__.splitlines()[0], tokens=128)
    torch.manual_seed(0)
    text = SIZES | dict(model_type="josie_text", max_position_embeddings=2048)
    models = {
        "JOSIE Thinker": JosieThinkerForConditionalGeneration(JosieThinkerConfig(text_config=text)).eval(),
        "Llama": LlamaForCausalLM(LlamaConfig(**SIZES, eos_token_id=None, bos_token_id=None)).eval(),
    }
    prompt = torch.randint(0, 5000, (1, 32))

    def run(model):
        sequences = model.generate(prompt, max_new_tokens=arguments.tokens, do_sample=False)
        assert sequences.shape == (1, 32 + arguments.tokens)

    seconds = measure({name: lambda model=model: run(model) for name, model in models.items()}, arguments.rounds)
    report("Thinker, batch 1", seconds, arguments.tokens, "tokens", arguments)


if __name__ == "__main__":
    main()
