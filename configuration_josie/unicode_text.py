"""Texts that tokenizers take: strings may have halves of surrogate pairs, which are no characters."""


def is_unicode(text: str) -> bool:
    """Return whether a string has no halves of surrogate pairs, not even two that would be a pair."""
    return text.isascii() or text.encode(errors="ignore").decode() == text


def require_unicode(name: str, text: str) -> None:
    """Raise a `ValueError` that names an argument whose string has halves of surrogate pairs."""
    if not is_unicode(text):
        raise ValueError(f"`{name}` must be text without halves of surrogate pairs, got {text!r:.200}.")
