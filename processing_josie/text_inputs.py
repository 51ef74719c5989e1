"""Texts to rows of tokens: placeholders expanded, inputs in front of texts without any, truncation and padding."""

from typing import Any, cast

from transformers.processing_utils import ProcessorMixin
from transformers.tokenization_utils_base import LARGE_INTEGER

from ..configuration_josie import JosieThinkerConfig
from .messages import MODALITIES
from .vision_settings import check_settings

# Options of transformers' processors that are not obeyed, by their part; each must have one of these values.
_REFUSED: dict[str, dict[str, tuple[Any, ...]]] = {
    "text_kwargs": {
        "text_pair": (None,),
        "text_target": (None,),
        "text_pair_target": (None,),
        "stride": (None, 0),
        "is_split_into_words": (None, False),
        "return_token_type_ids": (None, False),
        "return_attention_mask": (None, True),
        "return_overflowing_tokens": (None, False),
        "return_special_tokens_mask": (None, False),
        "return_length": (None, False),
    },
    "audio_kwargs": {
        "raw_speech": (None,),
        "padding": (None, True),
        "max_length": (None,),
        "truncation": (None, False),
        "pad_to_multiple_of": (None,),
        "return_attention_mask": (None, True),
        "device": (None, "cpu"),
        "load_audio_backend": (None, "auto"),
    },
}
_SHARED = _REFUSED["audio_kwargs"].keys() & {"padding", "max_length", "truncation", "pad_to_multiple_of"}
_PADDINGS = (True, False, None, "longest", "max_length", "do_not_pad")
_PARTS = ("text_kwargs", "images_kwargs", "videos_kwargs", "audio_kwargs")


class TextInputsMixin(ProcessorMixin):
    """The part of [`JosieProcessor`] that tokenizes, and that reads the options of a call."""

    thinker_config: JosieThinkerConfig

    def _read_options(self, kwargs: dict[str, Any]) -> dict[str, dict[str, Any]]:
        """Return the options of a call by their part, those that the tokenizer was loaded with below them.

        Raises:
            `ValueError`: One that there is not, or that is not obeyed.
        """
        names = {part: {*self.valid_processor_kwargs.__annotations__[part].__annotations__} for part in _PARTS}
        for part, name in (("images_kwargs", "image_processor"), ("videos_kwargs", "video_processor")):
            own = getattr(self, name, None)
            names[part].update(() if own is None else own.valid_kwargs.__annotations__)
        flat = set(self.valid_processor_kwargs.__annotations__).union(*names.values(), ("common_kwargs",))
        for name, value in kwargs.items():
            if name not in flat:
                raise ValueError(f"`{name}` must be an option of the processor, one of {sorted(flat)}, got {value!r}.")
        for part in _PARTS:
            nested = kwargs.get(part) or {}
            if not isinstance(nested, dict):
                raise ValueError(f"`{part}` must be a dict of options, got {nested!r}.")
            for name in nested:
                if name not in names[part]:
                    raise ValueError(
                        f"`{part}` must have options of the processor, {sorted(names[part])}, got {name!r}."
                    )
            given = {name: value for name, value in kwargs.items() if part == "text_kwargs" or name not in _SHARED}
            for name, allowed in _REFUSED.get(part, {}).items():
                value = nested.get(name, given.get(name))
                if not any(value is one or (type(value) is type(one) and value == one) for one in allowed):
                    raise ValueError(f"`{name}` must be {allowed[-1]!r}, got {value!r}.")
        for part in ("images_kwargs", "videos_kwargs"):
            check_settings(kwargs | (kwargs.get(part) or {}))
        return self._merge_kwargs(tokenizer_init_kwargs=self.tokenizer.init_kwargs, **kwargs)

    @property
    def vocab_size(self) -> int:
        """Rows of the model's table of tokens: those of its configuration, and of tokens added to the tokenizer since.

        Tokens that were added are those beyond a vocabulary that the model has rows for.
        """
        text_config: Any = self.thinker_config.text_config
        is_extended = self.tokenizer.vocab_size <= text_config.vocab_size < len(self.tokenizer)
        return len(self.tokenizer) if is_extended else text_config.vocab_size

    def _count_placeholders(self, text: str) -> dict[str, int]:
        """Return how many placeholders of each modality a text has, without those that were marked as plain text."""
        counts = [text.count(getattr(self, f"{modality}_token") or "\0") for modality in MODALITIES]
        _, offsets = self.get_text_with_replacements([text], *([""] * count for count in counts))
        modalities = [offset["type"] for row in cast(list[list[dict]], offsets) for offset in row]
        return {modality: modalities.count(modality) for modality in MODALITIES}

    def _tokenize(
        self,
        texts: list[str],
        found: list[dict[str, int]],
        replacements: dict[str, list[list[str]]],
        options: dict[str, Any],
    ) -> dict[str, Any]:
        """Expand placeholders, put inputs in front of texts without any, tokenize and pad."""
        kwargs = dict(options["text_kwargs"])
        padding = {name: kwargs.pop(name, None) for name in ("padding", "padding_side", "pad_to_multiple_of")}
        for name in ("return_tensors", "return_mm_token_type_ids", "return_text_replacement_offsets"):
            kwargs.pop(name, None)
        truncation = kwargs.get("truncation")
        if truncation == "only_second":
            raise ValueError(f"`truncation` must be True, as there is no second text, got {truncation!r}.")
        truncates = truncation not in (None, False, "do_not_truncate")
        max_length = kwargs.get("max_length") if truncates else kwargs.pop("max_length", None)
        pads_to_length = padding["padding"] == "max_length" or padding["padding"] not in _PADDINGS  # refused below
        if max_length is not None and not truncates and not pads_to_length:
            raise ValueError(
                "`max_length` must come with `truncation=True` or `padding='max_length'`, which it is for, got "
                f"{max_length} with `truncation={truncation!r}` and `padding={padding['padding']!r}`."
            )
        wants_bos = kwargs.pop("add_special_tokens", True) in (True, None) and self._starts_with_bos()
        bos = self.tokenizer.bos_token_id if wants_bos else None
        fronts, all_spans = [], []
        texts = list(texts)
        for row, text in enumerate(texts):
            pieces = [replacements[modality][row] for modality in MODALITIES]
            front: list[int] = []
            if not any(found[row].values()):
                for modality, items in zip(MODALITIES, pieces, strict=True):
                    count = sum(len(item) for item in items) // max(len(getattr(self, f"{modality}_token") or ""), 1)
                    front += [getattr(self, f"{modality}_token_id")] * count
                pieces = [[], [], []]
            (text,), spans = self.get_text_with_replacements([text], *pieces)
            if bos is not None and not text.startswith(self.tokenizer.bos_token):
                front.append(bos)
            texts[row] = text
            fronts.append(front)
            all_spans += spans or [[]]
        name, limit = "max_length", max_length if truncates else None
        if truncates and limit is None and self.tokenizer.model_max_length < LARGE_INTEGER:  # beyond it, it is none
            name, limit = "tokenizer.model_max_length", self.tokenizer.model_max_length
        data = self._encode(texts, fronts, (name, limit), kwargs)
        for row, ids in enumerate(data["input_ids"]):
            self._check_ids(ids, row, replacements, name)
        data = pad_tokens(data, self.tokenizer.pad_token_id, max_length, **padding)
        if options["return_mm_token_type_ids"]:
            data["mm_token_type_ids"] = self.create_mm_token_type_ids(data["input_ids"])
        if options["return_text_replacement_offsets"]:
            data["text_replacement_offsets"] = all_spans
        return data

    def _encode(
        self, texts: list[str], fronts: list[list[int]], limit: tuple[str, int | None], kwargs: dict[str, Any]
    ) -> dict[str, list]:
        """Return `input_ids`, and `offset_mapping` if wanted, of texts behind what goes in front of them.

        Args:
            texts (`list[str]`): One a row.
            fronts (`list[list[int]]`): Tokens in front of each.
            limit (`tuple`): What a user calls the most tokens of a row, and how many these are; all when `None`.
            kwargs (`dict`): Of the tokenizer.
        """
        name, max_length = limit
        rooms: list[int | None] = [None] * len(texts)
        if max_length is not None:
            for row, front in enumerate(fronts):
                if len(front) > max_length:
                    raise ValueError(
                        f"`{name}` must be at least {len(front)}, for what goes in front of row {row}, "
                        f"got {max_length}."
                    )
            rooms = [max_length - len(front) for front in fronts]
        wanted = ["input_ids", *(["offset_mapping"] if kwargs.get("return_offsets_mapping", False) else [])]
        data: dict[str, list] = {key: [None] * len(texts) for key in wanted}
        # Calling a tokenizer is slow, so that rows with the same room go together: as a rule, all.
        for room in set(rooms):
            rows = [row for row, other in enumerate(rooms) if other == room]
            most = {} if room is None else {"max_length": room}
            encoded = self.tokenizer([texts[row] for row in rows], add_special_tokens=False, **(kwargs | most))
            for index, row in enumerate(rows):
                data["input_ids"][row] = fronts[row] + encoded["input_ids"][index]
                if "offset_mapping" in data:
                    data["offset_mapping"][row] = [(0, 0)] * len(fronts[row]) + list(encoded["offset_mapping"][index])
        return data

    def _starts_with_bos(self) -> bool:
        """Return whether the tokenizer puts the beginning of text in front by itself; some only have the token."""
        return self.tokenizer.bos_token_id in self.tokenizer("")["input_ids"][:1]

    def _check_ids(self, ids: list[int], row: int, replacements: dict[str, list[list[str]]], limit_name: str) -> None:
        """Refuse ids the model does not have, more of them than its context, and placeholders lost to truncation."""
        if ids and max(ids) >= self.vocab_size:
            raise ValueError(
                f"`tokenizer` must give ids below the model's `vocab_size` ({self.vocab_size}), got {max(ids)}."
            )
        limit = self.thinker_config.max_sequence_length
        if len(ids) > limit:
            raise ValueError(
                f"`text` with its placeholders must be at most {limit} tokens long, the context, "
                f"got {len(ids)} in row {row}."
            )
        for modality in MODALITIES:
            token = getattr(self, f"{modality}_token")
            if token is None:
                continue
            expected = sum(len(item) for item in replacements[modality][row]) // len(token)
            if ids.count(getattr(self, f"{modality}_token_id")) != expected:
                raise ValueError(
                    f"`{limit_name}` must leave all {expected} {token} of row {row}, "
                    f"got {ids.count(getattr(self, f'{modality}_token_id'))} after truncation."
                )


def require_side(padding_side: Any) -> None:
    """Raise a `ValueError` for a side that is neither left nor right."""
    if padding_side not in ("left", "right", None):
        raise ValueError(f"`padding_side` must be 'left' or 'right', got {padding_side!r}.")


def pad_tokens(
    data: dict[str, list],
    pad_token_id: int | None,
    max_length: int | None = None,
    padding: Any = True,
    padding_side: str | None = "left",
    pad_to_multiple_of: int | None = None,
) -> dict[str, list]:
    """Bring rows to one length and add `attention_mask`.

    Args:
        data (`dict`): `input_ids`, and `offset_mapping` if wanted, each a list of rows.
        pad_token_id (`int`, *optional*): What `input_ids` are filled up with.
        max_length (`int`, *optional*): Least length when `padding` is `"max_length"`.
        padding (`bool` or `str`): Whether to pad, as in transformers' tokenizers.
        padding_side (`"left"` or `"right"`): Where.
        pad_to_multiple_of (`int`, *optional*): What the length must be a multiple of.

    Raises:
        `ValueError`: `max_length` is missing, or there is nothing to pad with.
    """
    if padding not in _PADDINGS:
        raise ValueError(f"`padding` must be one of {list(_PADDINGS)}, got {padding!r}.")
    require_side(padding_side)
    for name, value in (("max_length", max_length), ("pad_to_multiple_of", pad_to_multiple_of)):
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
            raise ValueError(f"`{name}` must be an integer of at least 1, got {value!r}.")
    lengths = [len(ids) for ids in data["input_ids"]]
    data = data | {"attention_mask": [[1] * length for length in lengths]}
    if padding in (False, None, "do_not_pad"):
        return data
    target = max(lengths)
    if padding == "max_length":
        if max_length is None:
            raise ValueError("`max_length` must be given when `padding` is 'max_length', got None.")
        target = max(target, max_length)
    multiple = pad_to_multiple_of or 1
    target = -(-target // multiple) * multiple
    if pad_token_id is None and target > min(lengths):
        raise ValueError("`padding` must be False, as the tokenizer has no padding token, got True.")
    fillers = {"input_ids": pad_token_id, "offset_mapping": (0, 0), "attention_mask": 0}
    padded = {}
    for name, rows in data.items():
        fills = [[fillers[name]] * (target - len(row)) for row in rows]
        left = padding_side != "right"
        padded[name] = [fill + row if left else row + fill for row, fill in zip(rows, fills, strict=True)]
    return padded
