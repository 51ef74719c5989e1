"""Weights of 8 bits for the Thinker and the Talker: how much smaller, how far off, how fast.

    python examples/quantize.py nano [--method int8-weights] [--tokens 64] [--threads 1]

`int8-weights` and `int8-activations` are torchao's (`pip install 'josie[quantize]'`): weights alone, or activations
too, as they come. `torch-dynamic` is torch's own, which torch calls deprecated. Embeddings and the codecs stay as they
are.
"""

import argparse
import copy
import io
import time
import warnings
from collections.abc import Callable
from typing import Any

import torch
from recipes.configuration import run
from recipes.named_models import load_named, load_part
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForMultimodalLM, logging, set_seed

from josie.configuration_josie import JosieConfig, JosieThinkerConfig
from josie.nano import find_model

# What can be measured: a whole JOSIE, or its Thinker alone.
_PROMPT = 8  # tokens before those that are written
_CLASSES = {JosieConfig.model_type: AutoModelForMultimodalLM, JosieThinkerConfig.model_type: AutoModelForCausalLM}


def quantize_by_torch(part: nn.Module) -> nn.Module:
    """Return a copy with torch's dynamically quantized linear layers."""
    from torch.ao.quantization import quantize_dynamic

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return quantize_dynamic(part, {nn.Linear}, dtype=torch.qint8)


def quantize_by_torchao(part: nn.Module, name: str) -> nn.Module:
    """Return a copy whose linear layers have torchao's weights."""
    try:
        from torchao import quantization
    except ModuleNotFoundError as error:
        raise ImportError(
            "`--method` must be 'torch-dynamic' without torchao: pip install 'josie[quantize]' for the others."
        ) from error

    part = copy.deepcopy(part)
    quantization.quantize_(part, getattr(quantization, name)())
    return part


METHODS: dict[str, Callable[[nn.Module], nn.Module]] = {
    "int8-weights": lambda part: quantize_by_torchao(part, "Int8WeightOnlyConfig"),
    "int8-activations": lambda part: quantize_by_torchao(part, "Int8DynamicActivationInt8WeightConfig"),
    "torch-dynamic": quantize_by_torch,
}


def count_bytes(part: nn.Module) -> int:
    """Return how many bytes a part takes on disk."""
    file = io.BytesIO()
    torch.save(part.state_dict(), file)
    return file.tell()


def relative_error(actual: torch.Tensor, expected: torch.Tensor) -> float:
    """Return the root mean square of the difference, in units of that of `expected`."""
    return float((actual.float() - expected).norm() / expected.norm())


def time_rate(run: Callable[[], object], amount: int) -> float:
    """Return `amount` a second; the best of three runs after one that does not count."""
    seconds = []
    for _ in range(4):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return amount / min(seconds[1:])


@torch.no_grad()
def compare(model: Any, method: str, num_tokens: int) -> dict[str, dict[str, float]]:
    """Return megabytes before and after, relative error of the logits, and rates before and after, of each part.

    Args:
        model ([`JosieForConditionalGeneration`] or [`JosieThinkerForConditionalGeneration`]): The model.
        method (`str`): How it is quantized.
        num_tokens (`int`): Length of what is read, and of what is written.
    """
    text_config = model.config.get_text_config()
    ids = torch.randint(text_config.vocab_size // 2, text_config.vocab_size, (1, num_tokens))
    original = getattr(model, "thinker", model)
    parts = {"Thinker": (original, lambda thinker: thinker(ids).logits)}
    write = dict(max_new_tokens=num_tokens, min_new_tokens=num_tokens, do_sample=False)
    speak = dict(max_new_frames=num_tokens, min_new_frames=num_tokens)
    runs = {"Thinker": lambda thinker: thinker.generate(ids[:, :_PROMPT], **write)}
    if getattr(model, "talker", None) is not None:
        config = model.talker.config
        codes = torch.randint(0, config.codebook_size, (1, config.num_quantizers, num_tokens))
        said = {"thinker_embeds": model.get_input_embeddings()(ids)}
        if config.reads_thinker_states:
            said["thinker_hidden_states"] = original(ids).last_hidden_state
        parts["Talker"] = (model.talker, lambda talker: talker(codes, **said).logits)
        runs["Talker"] = lambda talker: talker.generate(**speak, **said)
    rows = {}
    for name, (part, read) in parts.items():
        smaller = METHODS[method](part)
        rows[name] = {
            "megabytes": count_bytes(part) / 1e6,
            "quantized_megabytes": count_bytes(smaller) / 1e6,
            "error": relative_error(read(smaller), read(part)),
            "rate": time_rate(lambda part=part, name=name: runs[name](part), num_tokens),
            "quantized_rate": time_rate(lambda part=smaller, name=name: runs[name](part), num_tokens),
        }
    return rows


def count_most_tokens(config: Any) -> int:
    """Return how many tokens, and frames, the positions of a JOSIE or its Thinker allow."""
    most = getattr(config, "thinker_config", config).max_sequence_length - _PROMPT
    talker = getattr(config, "talker_config", None)
    return most if talker is None else min(most, talker.max_position_embeddings - 1 - talker.speech_delay)


def main() -> None:
    """Compare and print."""
    parser = argparse.ArgumentParser(description=__doc__ and __doc__.splitlines()[0])
    parser.add_argument("folder", help="a folder with a JOSIE, or its Thinker alone; or nano")
    parser.add_argument("--method", choices=METHODS, default="int8-weights")
    parser.add_argument("--tokens", type=int, default=64, help="tokens and frames to measure with")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="threads of torch")
    arguments = parser.parse_args()
    run(lambda: print_comparison(arguments))


def print_comparison(arguments: argparse.Namespace) -> None:
    """Print a row for each part.

    Raises:
        `ValueError`: There is no such checkpoint, it is damaged or of another kind, or a number is below 1 or
            beyond its positions.
    """
    for name in ("tokens", "threads"):
        if getattr(arguments, name) < 1:
            raise ValueError(f"`--{name}` must be at least 1, got {getattr(arguments, name)}.")
    folder = find_model(arguments.folder)
    if not (folder / "config.json").is_file():
        raise ValueError(f"`folder` must hold a JOSIE checkpoint, got {arguments.folder!r}, without a config.json.")
    config = load_part(arguments.folder, AutoConfig, "folder")
    kind = config.model_type
    if kind not in _CLASSES:
        raise ValueError(f"`folder` must hold a model of {list(_CLASSES)}, got {arguments.folder!r}, of {kind!r}.")
    most = count_most_tokens(config)
    if arguments.tokens > most:
        raise ValueError(
            f"`--tokens` must be at most {most} for the positions of {arguments.folder!r}, got {arguments.tokens}."
        )
    torch.set_num_threads(arguments.threads)
    logging.disable_progress_bar()
    logging.set_verbosity_error()  # speech is cut where the measure ends
    set_seed(0)
    model = load_named(arguments.folder, _CLASSES[kind], "folder")
    rows = compare(model, arguments.method, arguments.tokens)
    print(f"{arguments.method}, batch 1, {arguments.threads} threads, torch {torch.__version__}")
    print(f"{'':10}{'MB':>10}{'MB int8':>10}{'error of logits':>18}{'per second':>14}{'int8 per second':>18}")
    for name, row in rows.items():
        print(f"{name:10}{row['megabytes']:10.1f}{row['quantized_megabytes']:10.1f}{row['error']:18.4f}", end="")
        print(f"{row['rate']:14.1f}{row['quantized_rate']:18.1f}")


if __name__ == "__main__":
    main()
