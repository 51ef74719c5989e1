"""Chat template of an assembled model: the language model's own, with parts of every modality and assistant marks.

Templates of text models expect `content` to be a string. Here lists of parts become strings first, with a placeholder
for each image, video and audio clip, and the language model's template renders those as it always did. It becomes a
macro: the conversation is rendered up to a turn of the assistant and with it, and the difference is marked for
assistant masks. A template that renders a turn otherwise as soon as others follow (one that drops earlier thoughts, for
example) leaves no such difference, and the turn stays unmarked.
"""

import re
from typing import Any

from transformers.utils import logging
from transformers.utils.chat_template_utils import render_jinja_template

logger = logging.get_logger(__name__)

_OWN_MARKS = re.compile(r"\{%[-+]?\s*generation\s*[-+]?%\}")

# Ends with a newline after a tag, which Jinja removes: the backbone's template starts as if nothing stood before it.
_PARTS_TO_TEXT = """
{%- set josie = namespace(messages=[], text='', done=0, end=0) -%}
{%- for message in messages -%}
    {%- if message['content'] is defined and message['content'] is not string
            and message['content'] is iterable and message['content'] is not mapping -%}
        {%- set josie.text = '' -%}
        {%- for part in message['content'] -%}
            {%- if part is string -%}
                {%- set josie.text = josie.text + part -%}
            {%- elif part['type'] == 'text' -%}
                {%- set josie.text = josie.text + part['text'] -%}
            {%- elif part['type'] in ['image', 'video', 'audio'] -%}
                {%- set josie.text = josie.text + '<|' + part['type'] + '|>' -%}
            {%- else -%}
                {{- raise_exception("The `type` of a content part must be 'text', 'image', 'video' or 'audio', got "
                    + part['type'] | string + ".") -}}
            {%- endif -%}
        {%- endfor -%}
        {%- set josie.messages = josie.messages + [dict(message, content=josie.text)] -%}
    {%- else -%}
        {%- set josie.messages = josie.messages + [message] -%}
    {%- endif -%}
{%- endfor -%}
"""

_REPLACE_MESSAGES = """{%- set messages = josie.messages %}
"""

_START_MACRO = """{%- macro josie_backbone(messages, add_generation_prompt) %}
"""

# `{%+` keeps the whitespace in front of it, which belongs to the backbone's template.
_MARK_TURNS = """{%+ endmacro -%}
{%- set josie_text = josie_backbone(josie.messages, add_generation_prompt) -%}
{%- for message in josie.messages -%}
    {%- if message['role'] == 'assistant' and not loop.first -%}
        {%- set before = josie_backbone(josie.messages[:loop.index0], true) -%}
        {%- set after = josie_backbone(josie.messages[:loop.index], false) -%}
        {%- if after.startswith(before) and josie_text.startswith(after) and before | length >= josie.done -%}
            {%- set josie.end = after.rstrip() | length -%}
            {%- if josie.end > before | length -%}
                {{- josie_text[josie.done:before | length] -}}
                {%- generation -%}
                    {{- josie_text[before | length:josie.end] -}}
                {%- endgeneration -%}
                {%- set josie.done = josie.end -%}
            {%- endif -%}
        {%- endif -%}
    {%- endif -%}
{%- endfor -%}
{{- josie_text[josie.done:] -}}
"""

_SYSTEM = {"role": "system", "content": "Be brief."}
_TURNS = [
    {"role": "user", "content": "What is it?"},
    {"role": "assistant", "content": "A ball."},
    {"role": "user", "content": " Where is it?\n"},
    {"role": "assistant", "content": "There."},
]
_PROBES = [*(_TURNS[:count] for count in range(1, 5)), [_SYSTEM, *_TURNS[:1]], [_SYSTEM, *_TURNS]]


def extend_chat_template(template: str, special_tokens: dict[str, Any] | None = None) -> str:
    """Return a language model's chat template that also takes images, videos and audio, and marks assistant turns.

    Conversations of text alone are rendered as before: some are tried in both. Templates with marks of their own keep
    them. A turn's marks end with its last character that is not white space, its end-of-turn token as a rule.

    Args:
        template (`str`): The language model's template, in Jinja.
        special_tokens (`dict`, *optional*): The tokenizer's `special_tokens_map`, which templates refer to.

    Returns:
        The extended template.

    Raises:
        `ValueError`: The template cannot be rendered, or the extended one renders something else.
    """
    special_tokens = special_tokens or {}
    plain = _PARTS_TO_TEXT + _REPLACE_MESSAGES + template
    # Jinja removes one newline at the end of a template, but not at the end of a macro.
    marked = _PARTS_TO_TEXT + _START_MACRO + template.removesuffix("\n") + _MARK_TURNS
    expected = _render_all(template, special_tokens)
    if all(isinstance(text, Exception) for text in expected):
        raise ValueError(f"`text` must have a chat template that renders conversations, got one with: {expected[0]}")
    for extended in [plain] if _OWN_MARKS.search(template) else [marked, plain]:
        if all(
            isinstance(a, Exception) or a == b
            for a, b in zip(expected, _render_all(extended, special_tokens), strict=True)
        ):
            if extended is plain and not _OWN_MARKS.search(template):
                logger.warning("The chat template cannot be marked: it gives no assistant masks.")
            return extended
    raise ValueError("`text` must have a chat template that renders the same inside another, got one that does not.")


def begin_with_bos(template: str, special_tokens: dict[str, Any]) -> str:
    """Return a template whose text begins with the tokenizer's `bos_token`, once.

    Tokenizing the rendered text without special tokens, as tokenizers and servers do, then gives the same prompt as
    tokenizing it with them.

    Args:
        template (`str`): Any chat template.
        special_tokens (`dict`): The tokenizer's `special_tokens_map`, with a `bos_token`.
    """
    texts = [text for text in _render_all(template, special_tokens) if isinstance(text, str)]
    if all(text.startswith(special_tokens["bos_token"]) for text in texts):
        return template
    return "{{- bos_token }}" + template


def _render_all(template: str, special_tokens: dict[str, Any]) -> list[Any]:
    """Return the text of each probe, or the error: some templates take no system message."""
    rendered: list[Any] = []
    for conversation in _PROBES:
        for add_generation_prompt in (False, True):
            try:
                texts, _ = render_jinja_template(
                    [conversation],
                    chat_template=template,
                    add_generation_prompt=add_generation_prompt,
                    **special_tokens,
                )
                rendered.append(texts[0])
            except Exception as error:  # whatever a template raises
                rendered.append(error)
    return rendered
