"""Conversations as other libraries write them, in the one form that JOSIE reads, with nothing left out.

A conversation is a list of dicts with `role` and `content`; here it may also come from a table (arrays and scalars
for lists, empty fields), as objects (dataclasses, pydantic), in ShareGPT's words (`from`, `value`) or Gradio's (a file,
a pair of a path and its description, or a text with files as `content`). Parts of a content are read by `part_forms`.
"""

import json
import math
import re
from collections.abc import Mapping
from typing import Any

from ..configuration_josie.unicode_text import require_unicode
from .messages import Conversation
from .nested_values import is_empty, to_dict, to_list, to_plain
from .part_forms import modality_of, read_file, read_part

_SHAREGPT_ROLES = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system"}
_SHAREGPT_MEDIA = re.compile(r"<(?:image|video|audio|speech|sound)>")
_BOOKKEEPING = ("id", "type", "status", "object", "created", "timestamp")  # of a message; says nothing of its text
_OF_PARTS = ("text", "begin")  # of a part of `content`, which templates read of those alone
_MEDIA = ("image", "images", "video", "videos", "audio", "audios", "files")
_CONVERSATIONS = ("messages", "conversations")
_NOT_RENDERED = ("tools", "documents", "chat_template_kwargs")  # of rows
ROW_COLUMNS = (*_CONVERSATIONS, "system", *_NOT_RENDERED, *_MEDIA)  # which rows of conversations are asked for


def read_conversations(value: Any) -> tuple[list[Conversation], bool]:
    """Return the conversations of one conversation or of a batch, and whether it is a batch.

    Raises:
        `ValueError`: As of [`read_conversation`].
    """
    items = to_list(getattr(value, "messages", value))
    if items is None:
        raise _no_conversation(value)
    if items and (to_list(items[0]) is not None or hasattr(items[0], "messages")):
        return [read_conversation(item) for item in items], True
    return [read_conversation(items)], False


def read_conversation(conversation: Any) -> Conversation:
    """Return a conversation in JOSIE's form; one that has it is returned equal. What is given is not changed.

    Args:
        conversation: A list of messages, in any of the forms above; or a row of a data set, see [`row_messages`].

    Raises:
        `ValueError`: It has no messages, or one of another form.
    """
    if isinstance(conversation, Mapping) and any(name in conversation for name in _CONVERSATIONS):
        return row_messages(conversation)
    messages = to_list(getattr(conversation, "messages", conversation))
    if not messages:
        raise _no_conversation(conversation)
    return [_read_message(message) for message in messages]


def _no_conversation(value: Any) -> ValueError:
    if isinstance(value, dict):
        value = f"a dict with {sorted(map(str, value))}"
    return ValueError(
        "`conversation` must be a list of messages, such as [{'role': 'user', 'content': 'Hello.'}], or a list of such "
        f"lists, got {value if isinstance(value, str) else f'{value!r:.200}'}."
    )


def drop_missing(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return the columns that a row has; those of other rows of its table are `None`, in pandas NaN."""
    return {
        name: value
        for name, value in row.items()
        if value is not None and not (isinstance(value, float) and math.isnan(value))
    }


def row_messages(row: Mapping[str, Any]) -> Conversation:
    """Return the conversation of a row of a data set: its `messages`, or `conversations` as ShareGPT names them.

    A text in the column `system` is the first message.

    Raises:
        `ValueError`: It has none, one of another form, contents that a table keeps as JSON, images, videos or audio
            outside of it, or what [`add_system`] refuses.
    """
    name = "messages" if row.get("messages") is not None else "conversations"
    messages = to_list(row.get(name))
    if not messages:
        raise ValueError(f"A row must have `messages`, a list of dicts, got {row.get(name)!r}.")
    for column in _MEDIA:
        if not is_empty(row.get(column)):
            raise ValueError(
                f"A row must have its files inside `messages`, as {{'type': 'image', 'path': ...}}, got a column "
                f"{column!r} beside them."
            )
    conversation = read_conversation(add_system(messages, row))
    texts = [message.get("content") for message in conversation[-len(messages) :]]
    _refuse_encoded([text for text in texts if isinstance(text, str)])
    return conversation


def _refuse_encoded(texts: list[str]) -> None:
    """Raise a `ValueError` if contents are JSON, as `datasets` writes a column of texts and lists to Parquet."""
    encoded = next((text for text in texts if text.startswith("[{") and _is_encoded(text)), None)
    if encoded is not None and all(_from_json(text) is not None for text in texts):
        raise ValueError(
            "`content` of a row must be a text or a list of parts, and not JSON of it, as pandas reads what `datasets` "
            f"wrote, got {encoded!r:.200}: read the file with `datasets`."
        )


def _is_encoded(text: str) -> bool:
    """Return whether a text is the JSON of a list of parts."""
    return all(isinstance(part, dict) and isinstance(part.get("type"), str) for part in _from_json(text) or [None])


def _from_json(text: str) -> Any:
    """Return the value of a text that is JSON, and `None` of any other."""
    try:
        return json.loads(text)
    except ValueError:
        return None


def add_system(messages: list[Any], row: Mapping[str, Any]) -> list[Any]:
    """Return the messages of a row with its `system`, a text, in front of them.

    Args:
        messages (`list`): In any form.
        row (`dict`): Its columns.

    Raises:
        `ValueError`: `system` is no text, or there is such a message; or the row has `tools`, `documents` or
            `chat_template_kwargs`, as rows are rendered without.
    """
    for column in _NOT_RENDERED:
        if not is_empty(row.get(column)):
            raise ValueError(
                f"`{column}` of a row must be None or empty, as rows are rendered without, got {row[column]!r:.200}."
            )
    system = row.get("system")
    if is_empty(system):
        return messages
    first = (to_dict(messages[0]) if messages else None) or {}
    if not isinstance(system, str) or "system" in (first.get("role"), first.get("from")):
        raise ValueError(
            "`system` of a row must be a text, and None or empty where its messages begin with a system message, got "
            f"{system!r:.200}."
        )
    return [{"role": "system", "content": system}, *messages]


def _read_message(message: Any) -> dict[str, Any]:
    values = to_dict(message)
    if values is None:
        raise ValueError(f"A message must be a dict with `role` and `content`, got {message!r:.200}.")
    values = {name: value for name, value in values.items() if name in ("role", "content") or not is_empty(value)}
    if "from" in values and "role" not in values:
        values = _read_sharegpt(values)
    role, content = values.pop("role", None), values.pop("content", None)
    if not isinstance(role, str):
        raise ValueError(f"`role` must be 'system', 'user' or 'assistant', got {role!r}.")
    if content is None and isinstance(values.get("refusal"), str):
        content = values.pop("refusal")  # OpenAI's place for what the assistant says in place of an answer
    kept = {name: to_plain(value) for name, value in values.items() if name not in _BOOKKEEPING}
    return {"role": role, **({} if content is None else {"content": _read_content(content)}), **kept}


def _read_sharegpt(values: dict[str, Any]) -> dict[str, Any]:
    role, text = _SHAREGPT_ROLES.get(values["from"]), values.get("value")
    if role is None:
        raise ValueError(f"`from` of a message must be one of {sorted(_SHAREGPT_ROLES)}, got {values['from']!r}.")
    if not isinstance(text, str) or _SHAREGPT_MEDIA.search(text):
        raise ValueError(
            "`value` of a message must be a text without marks of files, which are parts of a `content`, such as "
            f"{{'type': 'image', 'path': ...}}, got {text!r:.200}."
        )
    return {"role": role, "content": text} | {key: values[key] for key in values if key not in ("from", "value")}


def _read_content(content: Any) -> Any:
    if isinstance(content, str):
        require_unicode("content", content)
        return content
    pair: list[Any] = list(content) if isinstance(content, tuple) else []
    if pair and all(isinstance(item, str) or item is None for item in pair):  # Gradio's path and description
        if len(pair) > 2 or modality_of(pair[0]) is None:
            raise ValueError(
                "`content` as a tuple of texts must be the path of an image, video or audio, and perhaps its "
                f"description, got {content!r:.200}: give a list of parts."
            )
        return [read_file(pair[0])]
    parts = to_list(content)
    if parts is not None:
        return [read_part(part) for part in parts]
    values = to_dict(content)
    if values is None:
        raise ValueError(f"`content` must be a string or a list of parts, got a {type(content).__name__}.")
    if "files" in values:
        others = [name for name, value in values.items() if name not in ("text", "files") and not is_empty(value)]
        if others:
            raise ValueError(
                f"`content` with 'files' must have these and 'text', got {others}, which would be left out."
            )
        text, files = values.get("text"), values["files"]
        several = [] if is_empty(files) else to_list(files) or [files]
        return [*map(read_file, several), *([] if is_empty(text) else [read_part({"type": "text", "text": text})])]
    if {"path", "url", "file", "file_data"} & values.keys() and "type" not in values:
        return [read_part(values | {"type": "file"})]
    if "type" in values:
        return [read_part(values)]
    raise ValueError(f"`content` must be a string or a list of parts, got a dict with {sorted(map(str, values))}.")


def require_rendered(conversations: list[Conversation], template: str, given: dict[str, Any]) -> None:
    """Refuse what a chat template would leave out: its source does not name it.

    Args:
        conversations (`list`): In JOSIE's form.
        template (`str`): Its source.
        given (`dict`): `tools` and `documents` of the call.

    Raises:
        `ValueError`: There is such a thing, or a message without content.
    """

    code = " ".join(re.findall(r"\{[{%].*?[%}]\}", template, re.DOTALL))

    def is_named(name: str) -> bool:
        return re.search(rf"\b{re.escape(name)}\b", code) is not None

    def is_read(name: str) -> bool:
        """Return whether it is read of something, as `message.name`, `message['name']` or `message.get('name')`."""
        return re.search(rf"""(\.|\[\s*['"]|get\(\s*['"]){re.escape(name)}\b""", code) is not None

    for name in ("tools", "documents"):
        if not is_empty(given.get(name)) and not is_named(name):
            raise ValueError(
                f"`{name}` must be None, as the chat template of this model does not render them, got some."
            )
    for conversation in conversations:
        for message in conversation:
            others = [name for name in message if name not in ("role", "content")]
            for name in others:
                if name in _MEDIA:
                    raise ValueError(
                        "A message must have its files as parts of `content`, such as {'type': 'image', 'path': ...}, "
                        f"got {name!r}."
                    )
                if name in _OF_PARTS or not is_read(name):
                    raise ValueError(
                        "A message must have `role` and `content` alone, as the chat template of this model renders no "
                        f"other, got {name!r}."
                    )
            if "content" not in message and not others:
                raise ValueError(f"`content` must be a string or a list of parts, got None of {message['role']!r}.")
