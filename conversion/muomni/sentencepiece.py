"""SentencePiece models to fast tokenizers, with the same ids and the same texts back.

SentencePiece works on the whole text at once, with spaces written as `▁`; the fast tokenizer does the same, so that
pieces may hold spaces anywhere.
"""

from dataclasses import dataclass, field
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, processors
from transformers import PreTrainedTokenizerFast
from transformers.convert_slow_tokenizer import generate_merges, import_protobuf

SPACE = "▁"
_BPE = 2  # number of the model type in sentencepiece_model.proto
_NORMAL, _USER_DEFINED = 1, 4  # and of types of pieces
_ALL = 2**31


@dataclass
class SentencePieceModel:
    """Content of a model file.

    Args:
        pieces (`list[str]`): The vocabulary, in the order of ids.
        scores (`list[float]`): Of each piece; the highest is merged first.
        types (`list[int]`): 1 normal, 2 unknown, 3 control, 4 user-defined, 5 unused, 6 byte.
        charsmap (`bytes`): Compiled normalization, empty for none.
        add_dummy_prefix (`bool`): A space is put in front of the text.
        remove_extra_whitespaces (`bool`): Spaces at the ends are removed, and repeated ones.
        byte_fallback (`bool`): Unknown characters are spelled in bytes.
        unk_id, bos_id, eos_id (`int`): Ids of the special pieces.
        unk_surface (`str`): The text of an unknown piece.
    """

    pieces: list[str] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    types: list[int] = field(default_factory=list)
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
        `ValueError`: No such file, not a SentencePiece model, or one of another type than BPE.
        `ImportError`: protobuf is missing.
    """
    try:
        protobuf = import_protobuf()
        from google.protobuf.message import DecodeError
    except ImportError as error:
        raise ImportError("SentencePiece models need protobuf: `pip install josie[muomni]`.") from error
    model = protobuf.ModelProto()
    try:
        model.ParseFromString(Path(path).read_bytes())
    except (OSError, DecodeError) as error:
        raise ValueError(f"`tokenizer` must be a SentencePiece model, got {str(path)!r}, which is not.") from error
    if not model.pieces:
        raise ValueError(
            f"`tokenizer` must be a SentencePiece model, got {str(path)!r}, which is not: it has no pieces."
        )
    trainer, normalizer = model.trainer_spec, model.normalizer_spec
    if trainer.model_type != _BPE:
        raise ValueError(f"`tokenizer` must be a BPE model (type 2), got type {trainer.model_type}.")
    if trainer.treat_whitespace_as_suffix or not normalizer.escape_whitespaces:
        raise ValueError("`tokenizer` must write spaces as '▁' in front of words, got a model that does not.")
    ids = {name: getattr(trainer, name) for name in ("unk_id", "bos_id", "eos_id")}
    for name, index in ids.items():
        if not 0 <= index < len(model.pieces):
            raise ValueError(
                f"`tokenizer` must have a piece for `{name}` in [0, {len(model.pieces) - 1}], got {index}."
            )
    return SentencePieceModel(
        [piece.piece for piece in model.pieces],
        [piece.score for piece in model.pieces],
        [piece.type for piece in model.pieces],
        charsmap=normalizer.precompiled_charsmap,
        add_dummy_prefix=normalizer.add_dummy_prefix,
        remove_extra_whitespaces=normalizer.remove_extra_whitespaces,
        byte_fallback=trainer.byte_fallback,
        unk_surface=trainer.unk_surface,
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
    user_defined = [
        piece for piece, piece_type in zip(model.pieces, model.types, strict=True) if piece_type == _USER_DEFINED
    ]
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
    normal = {
        piece: (index, score)
        for index, (piece, score, piece_type) in enumerate(zip(model.pieces, model.scores, model.types, strict=True))
        if piece_type == _NORMAL
    }
    vocab, scores = ({piece: pair[place] for piece, pair in normal.items()} for place in (0, 1))
    return generate_merges(vocab, scores)


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
