"""Inputs of the model for a conversation, and the room that is left for an answer."""

import re
from typing import TYPE_CHECKING, Any

from .errors import ClientError

if TYPE_CHECKING:
    from .engine import Engine

_LEAST_ROOM = 16  # tokens that an answer must have
_TOO_LONG = re.compile(r"tokens long, the context, got (\d+)")  # of the processor


def fit_messages(
    engine: "Engine", messages: list[dict[str, Any]], max_tokens: int, may_forget: bool
) -> tuple[Any, int]:
    """Return the inputs of a conversation, and how many tokens its answer may have.

    Args:
        engine ([`Engine`]): The model.
        messages (`list[dict]`): The conversation.
        max_tokens (`int`): Longest answer.
        may_forget (`bool`): Whether to leave out the oldest turns, but instructions, where not all of them fit.

    Raises:
        [`ClientError`]: It does not fit, or the model cannot read it.
    """
    context = engine.model.config.thinker_config.max_sequence_length
    least = min(max_tokens, _LEAST_ROOM)
    while True:
        inputs, length = _prepare(engine, messages)
        if inputs is not None and length + least <= context:
            return inputs, min(max_tokens, context - length)
        oldest = next((place for place, turn in enumerate(messages) if turn["role"] != "system"), len(messages))
        if not may_forget or oldest >= len(messages) - 1:
            raise ClientError(
                f"The conversation must leave room for an answer in {context} tokens, got {length}.",
                "messages",
                "context_length_exceeded",
            )
        later = [place for place, turn in enumerate(messages) if place > oldest and turn["role"] == "user"]
        messages = messages[:oldest] + messages[later[0] if later else oldest + 1 :]


def _prepare(engine: "Engine", messages: list[dict[str, Any]]) -> tuple[Any, int]:
    """Return inputs and their length in tokens; no inputs where the processor refuses that length."""
    try:
        inputs = engine.processor.apply_chat_template(
            messages, tokenize=True, add_generation_prompt=True, return_dict=True, return_tensors="pt"
        )
    except ValueError as error:
        too_long = _TOO_LONG.search(str(error))
        if too_long is not None:
            return None, int(too_long[1])
        raise ClientError(f"The conversation cannot be read by this model: {error}", "messages") from error
    return inputs, inputs["input_ids"].shape[1]
