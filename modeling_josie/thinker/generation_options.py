"""Options of `generate` that would be passed over: each is refused in a sentence.

transformers takes some options and does nothing with them, for a decoder alone or without another option beside.
"""

from typing import Any

from transformers.generation import GenerationConfig

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


def check_options(arguments: dict[str, Any], generation_config: GenerationConfig | None) -> None:
    """Check the options of one call of `generate`.

    Args:
        arguments (`dict`): Those that are given by name.
        generation_config ([`GenerationConfig`], *optional*): The one that is given, in place of the model's.

    Raises:
        `ValueError`: One of them would be passed over.
    """
    given = {name: value for name, value in arguments.items() if value is not None and value is not False}
    for name, reason in _WITHOUT_EFFECT.items():
        value = given.get(name, getattr(generation_config, name, None))
        if value is not None and value is not False:
            raise ValueError(f"`{name}` must be None, as {reason}, got {value!r}.")
    for name in given.keys() & _OF_ASSISTANTS:
        raise ValueError(f"`{name}` must be set in `assistant_model.generation_config`, got {given[name]!r} in a call.")
    if "is_assistant" in given:
        raise ValueError("`is_assistant` must be left to `assistant_model`, which sets it, got True.")
    if given.get("cache_implementation") == "paged":
        raise ValueError(
            "`cache_implementation` must be one for a batch, as there is no `generate_batch`, got 'paged'."
        )
    for name in given.keys() & _NEEDS.keys():
        others = _NEEDS[name]
        if not any(other in given or getattr(generation_config, other, None) is not None for other in others):
            names = " or ".join(f"`{other}`" for other in others)
            raise ValueError(f"`{name}` must be None without {names}, got {_describe(given[name])}.")


def _describe(value: Any) -> str:
    return f"a {type(value).__name__}" if hasattr(value, "shape") or hasattr(value, "vocab_size") else repr(value)
