"""Wrappers of peft around a model or one of its parts.

Adapters lie inside the modules that they change, so that what is wrapped has them too. Learned prompts are the
wrapper's alone: only a Thinker's own `forward` and `generate` read them.
"""

from typing import Any


def unwrap(part: Any) -> Any:
    """Return a part of the whole model without a wrapper of peft.

    Raises:
        `ValueError`: The wrapper has learned prompts, which would be passed over.
    """
    if not hasattr(part, "get_base_model"):
        return part
    inner = part.get_base_model()
    if getattr(getattr(part, "active_peft_config", None), "is_prompt_learning", False):
        raise ValueError(
            f"`{inner._name_in_whole}` must have its adapters inside in a whole model, got learned prompts of peft "
            f"({part.active_peft_config.peft_type.value}), which only its own `forward` and `generate` read."
        )
    return inner


def is_prompted(model: Any) -> bool:
    """Return whether peft, with learned prompts, calls a model's `generate`: it sets how inputs are prepared then."""
    return getattr(model.prepare_inputs_for_generation, "__self__", model) is not model
