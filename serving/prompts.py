"""Inputs of the model for a conversation, and the room that is left for an answer."""

from typing import TYPE_CHECKING, Any

from .errors import ClientError

if TYPE_CHECKING:
    from .engine import Engine

_LEAST_ROOM = 16  # tokens that an answer must have


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
        inputs = _prepare(engine, messages)
        length = inputs["input_ids"].shape[1]
        if length + least <= context:
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


def _prepare(engine: "Engine", messages: list[dict[str, Any]]) -> Any:
    try:
        return engine.processor.apply_chat_template(
            messages, tokenize=True, add_generation_prompt=True, return_dict=True, return_tensors="pt"
        )
    except ValueError as error:
        raise ClientError("The conversation cannot be read by this model: its parts do not fit together.") from error
