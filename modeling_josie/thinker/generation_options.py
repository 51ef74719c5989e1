"""Options of `generate` that would be passed over: each is refused in a sentence.

transformers takes some options and does nothing with them, for a decoder alone or without another option beside.
"""

from collections.abc import Callable, Collection, Mapping
from functools import partial
from typing import Any

import torch
from transformers.generation import GenerationConfig
from transformers.generation.configuration_utils import ALL_STATIC_CACHE_IMPLEMENTATIONS, BaseWatermarkingConfig
from transformers.utils import torch_compilable_check

from ..option_values import (
    check_at_least,
    check_decay,
    check_finite,
    check_flag,
    check_methods,
    check_penalty,
    check_positive,
    check_share,
    check_strings,
    check_temperature,
    describe,
    is_integer,
)

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
_FLAGS = (
    "do_sample",
    "use_cache",
    "renormalize_logits",
    "remove_invalid_values",
    "output_attentions",
    "output_hidden_states",
    "output_scores",
    "output_logits",
    "return_dict_in_generate",
    "disable_compile",
)
# Integers, and the least that each may be.
_LEAST = {
    "max_length": 1,
    "max_new_tokens": 1,
    "min_length": 0,
    "min_new_tokens": 0,
    "num_beams": 1,
    "num_return_sequences": 1,
    "top_k": 0,
    "no_repeat_ngram_size": 0,
    "encoder_no_repeat_ngram_size": 0,
    "prompt_lookup_num_tokens": 1,
    "max_matching_ngram_size": 1,
    "max_cache_len": 1,
    "prefill_chunk_size": 1,
}
# Checks of values that transformers would pass over, or leave to fail in words that do not name them.
_CHECKS: dict[str, Callable[[str, Any], None]] = {
    **dict.fromkeys(_FLAGS, check_flag),
    **{name: partial(check_at_least, least=least) for name, least in _LEAST.items()},
    "max_time": check_positive,
    **dict.fromkeys(("top_p", "min_p", "top_h", "typical_p", "assistant_ensemble_weight"), check_share),
    **dict.fromkeys(("epsilon_cutoff", "eta_cutoff"), partial(check_share, may_be_one=False)),
    **dict.fromkeys(("repetition_penalty", "encoder_repetition_penalty"), check_penalty),
    **dict.fromkeys(("guidance_scale", "length_penalty"), check_finite),
    "temperature": check_temperature,
    "exponential_decay_length_penalty": check_decay,
    "stop_strings": check_strings,
    "streamer": partial(check_methods, methods=("put", "end")),
    "prefix_allowed_tokens_fn": partial(check_methods, methods=("__call__",)),
}
# Options that name tokens, and whether one may stand alone, and several together.
_TOKENS = {
    "pad_token_id": (True, False),
    "bos_token_id": (True, False),
    "eos_token_id": (True, True),
    "forced_eos_token_id": (True, True),
    "suppress_tokens": (False, True),
    "begin_suppress_tokens": (False, True),
}


def check_options(
    arguments: dict[str, Any],
    generation_config: GenerationConfig | None,
    own_config: GenerationConfig,
    vocab_size: int,
    placeholder_ids: Collection[int] = (),
) -> None:
    """Check the prompt and the options of one call of `generate`.

    An assistant is not checked: transformers calls it with a copy of the main model's options, some of them changed.

    Args:
        arguments (`dict`): Those that are given by name, and the prompt as `input_ids`.
        generation_config ([`GenerationConfig`], *optional*): The one that is given.
        own_config ([`GenerationConfig`]): The model's, which fills what neither says. What it says to assistants is
            for calls in which the model is one. Its values are not checked, as checkpoints have odd ones.
        vocab_size (`int`): Tokens that the prompt may have.
        placeholder_ids (`Collection[int]`): Tokens of media, which a negative prompt does not have.

    Raises:
        `ValueError`: One of them would be passed over, is of another type or out of range, or the prompt is empty, no
            tokens of the vocabulary, or does not fit its mask.
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
            raise ValueError(f"`{name}` must be None, as {reason}, got {describe(given[name])}.")
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
            raise ValueError(f"`{name}` must be None without {names}, got {describe(given[name])}.")
    said = arguments | _get_changed(generation_config, own_config, arguments)
    said = {name: value for name, value in said.items() if value is not None}
    _check_values(said, vocab_size)
    whole = {name: value for name, value in vars(own_config).items() if value is not None}
    whole |= {} if generation_config is None else {n: v for n, v in vars(generation_config).items() if v is not None}
    whole |= arguments
    _check_guesses(said, whole)
    _check_cache(said, whole)
    _check_negative_prompt(whole, vocab_size, placeholder_ids)


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


def _get_changed(
    generation_config: GenerationConfig | None, own_config: GenerationConfig, arguments: dict[str, Any]
) -> dict[str, Any]:
    """Return what a configuration says that neither an argument says nor the model's, of which it may be a copy."""
    if generation_config is None:
        return {}
    kept = {name: value for name, value in vars(generation_config).items() if name not in arguments}
    return {name: value for name, value in kept.items() if not _is_same(value, getattr(own_config, name, None))}


def _is_same(value: Any, other: Any) -> bool:
    return value is other or (type(value) is type(other) and not hasattr(value, "shape") and value == other)


def _check_values(said: dict[str, Any], vocab_size: int) -> None:
    """Check what a call says, each option alone."""
    for name, check in _CHECKS.items():
        if name in said:
            check(name, said[name])
    for name, (may_be_one, may_be_several) in _TOKENS.items():
        if name in said:
            _check_tokens(name, said[name], vocab_size, may_be_one, may_be_several)
    forced = said.get("forced_eos_token_id")
    if isinstance(forced, (list, tuple, set)) and not forced:
        raise ValueError(f"`forced_eos_token_id` must be a token id or a list of at least one, got {forced!r}.")
    bad_words = said.get("bad_words_ids")
    if bad_words is not None:
        if not isinstance(bad_words, list) or not bad_words or not all(isinstance(word, list) for word in bad_words):
            raise ValueError(f"`bad_words_ids` must be a list of lists of token ids, got {describe(bad_words)}.")
        for word in bad_words:
            _check_tokens("bad_words_ids", word, vocab_size, may_be_one=False)
    if "sequence_bias" in said:
        _check_biases(said["sequence_bias"], vocab_size)
    custom, watermark = (said.get(name) for name in ("custom_generate", "watermarking_config"))
    if custom is not None and not isinstance(custom, str) and not callable(custom):
        raise ValueError(f"`custom_generate` must be a function or a name of the Hub, got {describe(custom)}.")
    if watermark is not None and not isinstance(watermark, (dict, BaseWatermarkingConfig)):
        raise ValueError(f"`watermarking_config` must be a WatermarkingConfig or a dict, got {describe(watermark)}.")
    assistant = said.get("assistant_model")
    if assistant is not None:
        has_parts = all(hasattr(assistant, name) for name in ("config", "generation_config"))
        if not has_parts or not callable(getattr(assistant, "generate", None)):
            raise ValueError(f"`assistant_model` must be a model that generates, got a {type(assistant).__name__}.")


def _check_tokens(name: str, value: Any, vocab_size: int, may_be_one: bool = True, may_be_several: bool = True) -> None:
    """Check tokens: a number, or a list, a tensor or an array of them."""
    # transformers joins the suppressed ones to others, which a tensor cannot be.
    ids = value.tolist() if hasattr(value, "tolist") and name != "suppress_tokens" else value
    is_one = not isinstance(ids, (list, tuple, set, frozenset))
    forms = [form for form, may_be in (("a token id", may_be_one), ("a list of token ids", may_be_several)) if may_be]
    allowed = f"`{name}` must be {' or '.join(forms)} in [0, {vocab_size - 1}]"
    if is_one not in (may_be_one, not may_be_several):
        raise ValueError(f"{allowed}, got {describe(value)}.")
    for number in [ids] if is_one else ids:
        number = number.item() if getattr(number, "shape", None) == () else number
        if not is_integer(number) or not 0 <= number < vocab_size:
            raise ValueError(f"{allowed}, got {describe(number)}{'' if is_one else ' among them'}.")


def _check_biases(value: Any, vocab_size: int) -> None:
    """Check that sequences with biases are of tokens that there are."""
    pairs = list(value.items()) if isinstance(value, dict) else value
    is_list = isinstance(pairs, list) and pairs and all(isinstance(pair, (list, tuple)) for pair in pairs)
    if not is_list or not all(len(pair) == 2 and isinstance(pair[0], (list, tuple)) for pair in pairs):
        raise ValueError(
            "`sequence_bias` must be a dict of tuples of token ids and their biases, or a list of such pairs, got "
            f"{describe(value)}."
        )
    for sequence, _ in pairs:
        _check_tokens("sequence_bias", sequence, vocab_size, may_be_one=False)


def _check_guesses(said: dict[str, Any], whole: dict[str, Any]) -> None:
    """Check that one thing guesses tokens, and that no beams are to take them."""
    assistant, lookup = (whole.get(name) for name in ("assistant_model", "prompt_lookup_num_tokens"))
    if assistant is not None and lookup is not None:
        raise ValueError(
            f"`prompt_lookup_num_tokens` must be None with `assistant_model`, as one of them guesses, got {lookup!r}."
        )
    num_beams = whole.get("num_beams")
    for name in ("assistant_model", "prompt_lookup_num_tokens"):
        if name in said and num_beams is not None and num_beams != 1:
            raise ValueError(f"`num_beams` must be 1 with `{name}`, whose guesses no beams take, got {num_beams!r}.")


def _check_cache(said: dict[str, Any], whole: dict[str, Any]) -> None:
    """Check that the kind of cache is there, and reads what is said of it."""
    kind = whole.get("cache_implementation")
    if "cache_config" in said and kind != "quantized":
        raise ValueError(
            '`cache_config` must be None without `cache_implementation="quantized"`, which reads it, got '
            f"{describe(said['cache_config'])} with {kind!r}."
        )
    if "max_cache_len" in said and kind not in ALL_STATIC_CACHE_IMPLEMENTATIONS:
        raise ValueError(
            '`max_cache_len` must be None without `cache_implementation="static"`, which reads it, got '
            f"{said['max_cache_len']!r} with {kind!r}."
        )
    if "offloaded" in str(kind) and whole.get("use_cache") is not False and not torch.accelerator.is_available():
        raise ValueError(
            '`cache_implementation` must be "dynamic", "static" or "quantized" without an accelerator, from which '
            f"others move a cache, got {kind!r}."
        )


def _check_negative_prompt(whole: dict[str, Any], vocab_size: int, placeholder_ids: Collection[int]) -> None:
    """Check the prompt from which guidance leads away."""
    ids, mask = (whole.get(f"negative_prompt_{name}") for name in ("ids", "attention_mask"))
    check_ids("negative_prompt_ids", ids, vocab_size)
    check_mask("negative_prompt_attention_mask", mask)
    if ids is None:
        return
    if ids.ndim != 2 or not ids.numel():
        raise ValueError(
            "`negative_prompt_ids` must be (batch, length) with at least one row and one token, got "
            f"{tuple(ids.shape)}."
        )
    found = sorted(set(ids.flatten().tolist()) & set(placeholder_ids))
    if found:
        raise ValueError(f"`negative_prompt_ids` must be text, without placeholders of media, got {found} among them.")
    prompt = whole.get("input_ids")
    repeats = max(whole.get("num_beams") or 1, whole.get("num_return_sequences") or 1)
    if prompt is not None and prompt.ndim and len(ids) != len(prompt) * repeats:
        raise ValueError(
            f"`negative_prompt_ids` must have {len(prompt) * repeats} rows, one for each that is written, got "
            f"{len(ids)}."
        )
    if mask is not None and mask.shape != ids.shape:
        raise ValueError(
            f"`negative_prompt_attention_mask` must have the shape {tuple(ids.shape)} of `negative_prompt_ids`, got "
            f"{tuple(mask.shape)}."
        )
