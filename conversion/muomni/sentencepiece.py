"""SentencePiece models to fast tokenizers, with the same ids and the same texts back.

The model file is a protocol buffer of a handful of fields, so it is read here and neither sentencepiece nor protobuf
has to be installed. SentencePiece works on the whole text at once, with spaces written as `▁`; the fast tokenizer does
the same, so that pieces may hold spaces anywhere.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, processors
from transformers import PreTrainedTokenizerFast

SPACE = "▁"
# Fields of ModelProto, TrainerSpec, NormalizerSpec and SentencePiece in sentencepiece_model.proto.
_PIECES, _TRAINER, _NORMALIZER = 1, 2, 3
_MODEL_TYPE, _SUFFIX_SPACE, _BYTE_FALLBACK, _UNK_ID, _BOS_ID, _EOS_ID, _UNK_SURFACE = 3, 24, 35, 40, 41, 42, 44
_CHARSMAP, _DUMMY_PREFIX, _REMOVE_SPACES, _ESCAPE_SPACES = 2, 3, 4, 5
_TEXT, _SCORE, _KIND = 1, 2, 3
_ROLES = (("unk_id", _UNK_ID, 0), ("bos_id", _BOS_ID, 1), ("eos_id", _EOS_ID, 2))
_BPE = 2
_NORMAL, _USER_DEFINED = 1, 4
_ALL = 2**31


@dataclass
class SentencePieceModel:
    """What a model file says.

    Args:
        pieces (`list[str]`): The vocabulary, in the order of ids.
        scores (`list[float]`): What is merged first has the highest.
        kinds (`list[int]`): 1 normal, 2 unknown, 3 control, 4 user-defined, 5 unused, 6 byte.
        charsmap (`bytes`): Compiled normalization, empty for none.
        add_dummy_prefix (`bool`): A space is put in front of the text.
        remove_extra_whitespaces (`bool`): Spaces at the ends are removed, and repeated ones.
        byte_fallback (`bool`): Unknown characters are spelled in bytes.
        unk_id, bos_id, eos_id (`int`): Ids of the special pieces.
        unk_surface (`str`): What an unknown piece is written as.
    """

    pieces: list[str] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    kinds: list[int] = field(default_factory=list)
    charsmap: bytes = b""
    add_dummy_prefix: bool = True
    remove_extra_whitespaces: bool = True
    byte_fallback: bool = False
    unk_id: int = 0
    bos_id: int = 1
    eos_id: int = 2
    unk_surface: str = " \u2047 "


def read_sentencepiece(path: str | Path) -> SentencePieceModel:
    """Read a SentencePiece model file.

    Args:
        path (`str` or `Path`): The file, usually `tokenizer.model`.

    Raises:
        `ValueError`: No such file, not a SentencePiece model, or one of another kind than BPE.
    """
    try:
        data = Path(path).read_bytes()
        messages = list(_read_fields(data))
        trainer = dict(_read_fields(_last(messages, _TRAINER)))
        normalizer = dict(_read_fields(_last(messages, _NORMALIZER)))
        pieces = [dict(_read_fields(value)) for number, value in messages if number == _PIECES]
        texts = [piece[_TEXT].decode() for piece in pieces]
        scores = [struct.unpack("<f", piece.get(_SCORE, bytes(4)))[0] for piece in pieces]
    except (OSError, KeyError, IndexError, TypeError, AttributeError, UnicodeDecodeError, struct.error) as error:
        raise ValueError(f"`tokenizer` must be a SentencePiece model, got {str(path)!r}, which is not.") from error
    if not texts:
        raise ValueError(f"`tokenizer` must be a SentencePiece model, got {str(path)!r}, without pieces.")
    if trainer.get(_MODEL_TYPE, 1) != _BPE:
        raise ValueError(f"`tokenizer` must be a BPE model (type 2), got type {trainer.get(_MODEL_TYPE, 1)}.")
    if trainer.get(_SUFFIX_SPACE, 0) or not normalizer.get(_ESCAPE_SPACES, 1):
        raise ValueError("`tokenizer` must write spaces as '▁' in front of words, got a model that does not.")
    ids = {name: _to_int32(trainer.get(number, default)) for name, number, default in _ROLES}
    for name, index in ids.items():
        if not 0 <= index < len(texts):
            raise ValueError(f"`tokenizer` must have a piece for `{name}` in [0, {len(texts) - 1}], got {index}.")
    surface = trainer.get(_UNK_SURFACE)
    return SentencePieceModel(
        texts,
        scores,
        [piece.get(_KIND, _NORMAL) for piece in pieces],
        charsmap=normalizer.get(_CHARSMAP, b""),
        add_dummy_prefix=bool(normalizer.get(_DUMMY_PREFIX, 1)),
        remove_extra_whitespaces=bool(normalizer.get(_REMOVE_SPACES, 1)),
        byte_fallback=bool(trainer.get(_BYTE_FALLBACK, 0)),
        unk_surface=SentencePieceModel.unk_surface if surface is None else surface.decode(),
        **ids,
    )


def convert_sentencepiece(
    model: SentencePieceModel, new_tokens: dict[str, str] | None = None, chat_template: str | None = None
) -> PreTrainedTokenizerFast:
    """Return the fast tokenizer of a SentencePiece BPE model.

    The unknown piece is no special token, so that it is seen when a text is decoded, as SentencePiece shows it.

    Args:
        model ([`SentencePieceModel`]): The model.
        new_tokens (`dict[str, str]`, *optional*): Special tokens to add behind the vocabulary, by role (`pad_token`,
            `image_token`...).
        chat_template (`str`, *optional*): Template of conversations.

    Returns:
        [`PreTrainedTokenizerFast`] that puts the beginning-of-text token in front and pads on the left.
    """
    unk, bos, eos = (model.pieces[index] for index in (model.unk_id, model.bos_id, model.eos_id))
    vocab = {piece: index for index, piece in enumerate(model.pieces)}
    tokenizer = Tokenizer(
        models.BPE(vocab, _list_merges(model), unk_token=unk, fuse_unk=True, byte_fallback=model.byte_fallback)
    )
    tokenizer.normalizer = normalizers.Sequence(_list_normalizers(model))  # pyright: ignore[reportAttributeAccessIssue]
    tokenizer.decoder = decoders.Sequence(_list_decoders(model, unk))  # pyright: ignore[reportAttributeAccessIssue]
    tokenizer.post_processor = processors.TemplateProcessing(  # pyright: ignore[reportAttributeAccessIssue]
        single=f"{bos} $A", pair=f"{bos} $A $B", special_tokens=[(bos, model.bos_id)]
    )
    user_defined = [piece for piece, kind in zip(model.pieces, model.kinds, strict=True) if kind == _USER_DEFINED]
    tokenizer.add_tokens(user_defined)
    named = dict(new_tokens or {})
    pad = {"pad_token": named.pop("pad_token")} if "pad_token" in named else {}
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=bos,
        eos_token=eos,
        extra_special_tokens=named,
        padding_side="left",  # what generation needs
        clean_up_tokenization_spaces=False,
        **pad,
    )
    fast.chat_template = chat_template
    return fast


def _list_merges(model: SentencePieceModel) -> list[tuple[str, str]]:
    """Return the pairs that make each piece, best piece first: SentencePiece keeps pieces and scores, no pairs."""
    normal = {piece for piece, kind in zip(model.pieces, model.kinds, strict=True) if kind == _NORMAL}
    order = sorted(range(len(model.pieces)), key=lambda index: -model.scores[index])
    merges = []
    for piece in (model.pieces[index] for index in order if model.pieces[index] in normal):
        pairs = [(piece[:cut], piece[cut:]) for cut in range(1, len(piece))]
        merges += [pair for pair in pairs if normal.issuperset(pair)]
    return merges


def _list_normalizers(model: SentencePieceModel) -> list[normalizers.Normalizer]:
    steps: list[normalizers.Normalizer] = []
    if model.charsmap:
        steps.append(normalizers.Precompiled(model.charsmap))
    if model.remove_extra_whitespaces:
        steps += [normalizers.Replace(Regex(r"\A +"), ""), normalizers.Replace(Regex(" {2,}"), " ")]
    if model.add_dummy_prefix:
        steps.append(normalizers.Prepend(SPACE))
    steps.append(normalizers.Replace(" ", SPACE))
    if model.remove_extra_whitespaces:
        steps.append(normalizers.Replace(Regex(rf"{SPACE}+\z"), ""))
    return steps


def _list_decoders(model: SentencePieceModel, unk: str) -> list[decoders.Decoder]:
    steps: list[decoders.Decoder] = [decoders.Replace(unk, model.unk_surface)]
    steps += [decoders.ByteFallback()] if model.byte_fallback else []
    steps.append(decoders.Fuse())
    if model.add_dummy_prefix or model.remove_extra_whitespaces:
        steps.append(decoders.Strip(SPACE, left=_ALL, right=0))  # spaces that were put in front of the text
    return [*steps, decoders.Replace(SPACE, " ")]


def _read_fields(data: bytes) -> Iterator[tuple[int, Any]]:
    """Yield number and value of each field of a protocol-buffer message: an `int`, or `bytes`."""
    position = 0
    while position < len(data):
        tag, position = _read_varint(data, position)
        number, wire_type = tag >> 3, tag & 7
        if wire_type == 0:
            value, position = _read_varint(data, position)
            yield number, value
            continue
        if wire_type == 2:
            size, position = _read_varint(data, position)
        elif wire_type in (1, 5):
            size = 8 if wire_type == 1 else 4
        else:
            raise IndexError(f"wire type {wire_type}")
        if position + size > len(data) or number == 0:
            raise IndexError(f"field {number} of {size} bytes")
        yield number, data[position : position + size]
        position += size


def _read_varint(data: bytes, position: int) -> tuple[int, int]:
    value, shift = 0, 0
    while True:
        byte = data[position]
        value |= (byte & 127) << shift
        position, shift = position + 1, shift + 7
        if byte < 128:
            return value, position


def _to_int32(value: int) -> int:
    """Undo the 64-bit two's complement in which negative numbers are written."""
    return value - 2**64 if value >= 2**63 else value


def _last(messages: list, number: int) -> bytes:
    return [value for key, value in messages if key == number][-1]
