"""Options of `from_pretrained` of a processor, given to the part that they are of, or refused."""

from typing import Any

# Of loading itself, by their names in transformers and in its Hub client.
_LOADING = [
    "cache_dir",
    "force_download",
    "local_files_only",
    "token",
    "revision",
    "subfolder",
    "trust_remote_code",
    "code_revision",
    "use_fast",
    "backend",
    "proxies",
    "resume_download",
    "return_unused_kwargs",
    "user_agent",
    "config",
]
_TOKENIZER = [
    "padding",
    "padding_side",
    "truncation",
    "truncation_side",
    "max_length",
    "model_max_length",
    "model_input_names",
    "legacy",
    "gguf_file",
    "clean_up_tokenization_spaces",
    "split_special_tokens",
    "add_prefix_space",
    "chat_template",
    "tokenizer_type",
]
_TOKENIZER_ENDS = ("_token", "_tokens", "_file", "_files")
AREAS = ("min_pixels", "max_pixels")


def assign_options(
    kwargs: dict[str, Any], known: dict[str, frozenset[str]], own: tuple[str, ...]
) -> dict[str, dict[str, Any]]:
    """Return the options of each part.

    Args:
        kwargs (`dict`): Of `from_pretrained`.
        known (`dict`): For each part that the processor has, the names of its settings.
        own (`tuple`): Names of the processor's own arguments.

    Raises:
        `ValueError`: One is of no part. Pipelines also give those of the model, which are left alone.
    """
    assigned: dict[str, dict[str, Any]] = {part: {} for part in known}
    for name, value in kwargs.items():
        parts = [part for part, names in known.items() if name in names]
        for part in parts:
            assigned[part][name] = value
        is_other = name[0] == "_" or name in (*_LOADING, *_TOKENIZER, *own) or name.endswith(_TOKENIZER_ENDS)
        if not parts and not is_other and "_from_pipeline" not in kwargs:
            options = sorted({*own, *_TOKENIZER, *(name for names in known.values() for name in names)})
            raise ValueError(f"`{name}` must be an option of loading or of a part, such as {options}, got {value!r}.")
    return assigned


def with_areas(settings: dict[str, Any], options: dict[str, Any]) -> dict[str, Any]:
    """Return settings of images with options on top, `min_pixels` and `max_pixels` in the place where they belong.

    Raises:
        `ValueError`: All images have one size.
    """
    areas = {name: options[name] for name in AREAS if options.get(name) is not None}
    size = dict(settings.get("size") or {})
    if areas and (size.get("min_pixels") is None or size.get("max_pixels") is None):
        name, value = next(iter(areas.items()))
        raise ValueError(f"`{name}` must be None, as all images of this model have one size, got {value}.")
    rest = {name: value for name, value in options.items() if name not in AREAS}
    return settings | ({"size": size | areas} if areas else {}) | rest
