"""Options of `generate` that would be passed over: each is refused in a sentence.

transformers takes some options and does nothing with them, for a decoder alone or without another option beside.
"""

from collections.abc import Mapping
from typing import Any

import torch
from transformers.generation import GenerationConfig
from transformers.utils import torch_compilable_check

# Options that mean nothing here, and the reasons.
_WITHOUT_EFFECT = {
    "forced_bos_token_id": "an answer begins after a prompt of several tokens",
    "decoder_start_token_id": "there is no encoder before the decoder",
    "low_memory": "transformers no longer has what it chose",
    "speculation_type": "no Thinker has draft layers of its own",
    "use_mtp": "no Thinker predicts several tokens at once",
    "assistant_early_exit": "states of earlier layers were never trained to be read by the head",
    "continuous_batching_config": "the Thinker has no `generate_batch`",
    "token_healing": "a prompt that is written anew fits neither its media nor its mask",
    "labels": "nothing is learned",
}
# Options that are read from `assistant_model.generation_config`, whatever a call says.
_OF_ASSISTANTS = (
    "num_assistant_tokens",
    "num_assistant_tokens_schedule",
    "assistant_confidence_threshold",
    "assistant_lookbehind",
    "target_lookbehind",
)
# Options that are read together with another, one of those named.
_NEEDS = {
    "assistant_ensemble_weight": ("assistant_model",),
    "assistant_tokenizer": ("assistant_model",),
    "max_matching_ngram_size": ("prompt_lookup_num_tokens",),
    "negative_prompt_ids": ("guidance_scale",),
    "negative_prompt_attention_mask": ("negative_prompt_ids",),
    "diversity_penalty": ("num_beam_groups",),
    "max_cache_len": ("cache_implementation",),
    "cache_config": ("cache_implementation",),
}


def check_options(
    arguments: dict[str, Any],
    generation_config: GenerationConfig | None,
    own_config: GenerationConfig,
    vocab_size: int,
) -> None:
    """Check the prompt and the options of one call of `generate`.

    An assistant is not checked: transformers calls it with a copy of the main model's options, some of them changed.

    Args:
        arguments (`dict`): Those that are given by name, and the prompt as `input_ids`.
        generation_config ([`GenerationConfig`], *optional*): The one that is given.
        own_config ([`GenerationConfig`]): The model's, which fills what neither says. What it says to assistants is
            for calls in which the model is one.
        vocab_size (`int`): Tokens that the prompt may have.

    Raises:
        `ValueError`: One of them would be passed over or is of another type, or the prompt is empty, no tokens of the
            vocabulary, or does not fit its mask.
    """
    if _is_call_of_assistant(generation_config):
        return
    check_config(generation_config)
    check_ids("input_ids", arguments.get("input_ids"), vocab_size)
    _check_prompt(arguments)
    for name in ("logits_processor", "stopping_criteria"):
        value = arguments.get(name)
        if value is not None and not isinstance(value, (list, tuple)):
            raise ValueError(f"`{name}` must be a list, got a {type(value).__name__}.")
    held = {name: value for name, value in _get_set(own_config).items() if name not in _OF_ASSISTANTS}
    held |= {} if generation_config is None else _get_set(generation_config)
    given = {name: value for name, value in (held | arguments).items() if value is not None and value is not False}
    for name, reason in _WITHOUT_EFFECT.items():
        if name in given:
            raise ValueError(f"`{name}` must be None, as {reason}, got {_describe(given[name])}.")
    for name in given.keys() & _OF_ASSISTANTS:
        raise ValueError(f"`{name}` must be set in `assistant_model.generation_config`, got {given[name]!r} in a call.")
    if "is_assistant" in given:
        raise ValueError("`is_assistant` must be left to `assistant_model`, which sets it, got True.")
    if given.get("cache_implementation") == "paged":
        raise ValueError(
            "`cache_implementation` must be one for a batch, as there is no `generate_batch`, got 'paged'."
        )
    for name in given.keys() & _NEEDS.keys():
        if not given.keys() & set(_NEEDS[name]):
            names = " or ".join(f"`{other}`" for other in _NEEDS[name])
            raise ValueError(f"`{name}` must be None without {names}, got {_describe(given[name])}.")


def check_config(generation_config: Any) -> None:
    """Raise a `ValueError` unless this is a generation configuration or `None`."""
    if generation_config is not None and not isinstance(generation_config, GenerationConfig):
        raise ValueError(
            f"`generation_config` must be a GenerationConfig, got a {type(generation_config).__name__}: its fields may "
            "be given as arguments."
        )


def check_ids(name: str, ids: Any, vocab_size: int | None = None) -> None:
    """Check that ids of tokens are a tensor of integers, and in the vocabulary.

    Args:
        name (`str`): Their argument.
        ids: What was given; `None` is none.
        vocab_size (`int`, *optional*): How many tokens there are; not looked at when `None`.

    Raises:
        `ValueError`: They are not.
    """
    if ids is None:
        return
    if isinstance(ids, Mapping) or hasattr(ids, "convert_to_tensors"):  # what a processor returns
        raise ValueError(f"`{name}` must be a tensor of token ids, got a {type(ids).__name__}: give it as `**inputs`.")
    if not isinstance(ids, torch.Tensor):
        raise ValueError(f"`{name}` must be a tensor of token ids, got a {type(ids).__name__}.")
    if ids.dtype not in (torch.long, torch.int):
        raise ValueError(f"`{name}` must be integers of 32 or 64 bits, got {ids.dtype}.")
    if vocab_size is not None:
        torch_compilable_check(
            ((ids >= 0) & (ids < vocab_size)).all(),
            lambda: f"`{name}` must be in [0, {vocab_size - 1}], got values from {int(ids.min())} to {int(ids.max())}.",
        )


def check_mask(name: str, mask: Any) -> None:
    """Raise a `ValueError` unless a mask is a tensor or `None`."""
    if mask is not None and not isinstance(mask, torch.Tensor):
        raise ValueError(f"`{name}` must be a tensor, got a {type(mask).__name__}.")


def _is_call_of_assistant(generation_config: GenerationConfig | None) -> bool:
    """Return whether transformers calls an assistant, whose scores it asks for."""
    asked = ("is_assistant", "return_dict_in_generate", "output_scores")
    return all(getattr(generation_config, name, None) for name in asked)


def _get_set(generation_config: GenerationConfig) -> dict[str, Any]:
    """Return what a configuration says beside the defaults of transformers, which say nothing."""
    defaults = GenerationConfig._get_default_generation_params()
    values = {name: value for name, value in vars(generation_config).items() if value is not None}
    return {name: value for name, value in values.items() if name not in defaults or value != defaults[name]}


def _check_prompt(arguments: dict[str, Any]) -> None:
    ids, mask = (arguments.get(name) for name in ("input_ids", "attention_mask"))
    check_mask("attention_mask", mask)
    if ids is None or any(arguments.get(name) is not None for name in ("inputs_embeds", "cache", "past_key_values")):
        return
    if ids.ndim != 2 or not ids.numel():
        raise ValueError(
            f"`input_ids` must be (batch, length) with at least one row and one token, got {tuple(ids.shape)}."
        )
    if mask is not None and mask.shape != ids.shape:
        raise ValueError(
            f"`attention_mask` must have the shape {tuple(ids.shape)} of `input_ids`, got {tuple(mask.shape)}."
        )


def _describe(value: Any) -> str:
    return f"a {type(value).__name__}" if hasattr(value, "shape") or hasattr(value, "vocab_size") else repr(value)
