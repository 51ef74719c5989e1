"""Compare the text of a JOSIE with that of its language model: `python examples/compare_text.py MODEL TEXT_MODEL`.

Prints the largest difference of their logits on sentences, over the vocabulary of the language model: 0 where what
was trained (projectors, the Talker) leaves the text as it was. With a folder of adapters as MODEL, both are printed:
with the adapters, and with them disabled.
"""

import sys

import torch
from recipes.configuration import run
from recipes.named_models import load_named, load_part
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForMultimodalLM, AutoTokenizer

from josie.configuration_josie import JosieConfig

SENTENCES = (
    "The capital of France is Paris.",
    "Once upon a time there was a king who had three daughters.",
    "2 + 2 = 4, and a room with 12 chairs has seats for a dozen people.",
)


@torch.no_grad()
def compare(folder: str, text: str) -> dict[str, float]:
    """Return the largest differences, by what they are of.

    Args:
        folder (`str`): Folder or Hub name of a JOSIE, or of adapters for one; or `nano`.
        text (`str`): Of the language model.

    Raises:
        `ValueError`: There is no such model, the second is a JOSIE itself, or they have other vocabularies.
    """
    model = load_named(folder, AutoModelForMultimodalLM, "MODEL")
    kind = load_part(text, AutoConfig, "TEXT_MODEL").model_type
    if kind == JosieConfig.model_type:  # which is loaded as a language model too
        raise ValueError(f"`TEXT_MODEL` must be the language model alone, got {text!r}, of the model type {kind!r}.")
    original = load_named(text, AutoModelForCausalLM, "TEXT_MODEL", dtype=model.dtype)
    tokenizer = load_part(text, AutoTokenizer, "TEXT_MODEL")
    has_adapters = bool(getattr(model, "peft_config", None))
    found = {}
    for name in ("with adapters", "adapters disabled") if has_adapters else ("text",):
        if name == "adapters disabled":
            disable_adapters(model)
        differences = []
        for sentence in SENTENCES:
            ids = tokenizer(sentence, return_tensors="pt")["input_ids"]
            expected = original(ids).logits
            logits = model(ids).logits
            if logits.shape[-1] < expected.shape[-1]:
                raise ValueError(f"`TEXT_MODEL` must be the one inside, got a vocabulary of {expected.shape[-1]}.")
            differences.append(float((logits[..., : expected.shape[-1]].float() - expected.float()).abs().max()))
        found[name] = max(differences)
    return found


def disable_adapters(model: nn.Module) -> None:
    """Switch adapters off, so that layers do what they did without."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    for part in model.modules():
        if isinstance(part, BaseTunerLayer):
            part.enable_adapters(False)


def main(argv: list[str] | None = None) -> None:
    """Do what the command line says."""
    given = sys.argv[1:] if argv is None else argv
    if len(given) != 2:
        raise SystemExit(f"usage: compare_text.py MODEL TEXT_MODEL\n{__doc__}")
    run(lambda: [print(f"{name}: {value:g}") for name, value in compare(*given).items()])


if __name__ == "__main__":
    main()
