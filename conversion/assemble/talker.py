"""Sizes of a new Talker that fits a Thinker and a codec."""

from typing import Any

from ...configuration_josie import CodecGeometry, JosieConfig, JosieTalkerConfig, JosieThinkerConfig

FIT = "fit"
_HEAD_DIM, _MAX_WIDTH, _MAX_QUANTIZERS = 64, 1024, 16
_DEPTH_WIDTH, _DEPTH_LAYERS = 512, 4


def size_talker(
    thinker: JosieThinkerConfig, codec: CodecGeometry, talker: str | dict[str, Any] = FIT
) -> JosieTalkerConfig:
    """Return the configuration of a Talker for a Thinker's states and a codec's codes.

    Args:
        thinker ([`JosieThinkerConfig`]): The Thinker, whose states it reads.
        codec ([`CodecGeometry`]): The codec, whose codes it predicts: all of a frame, or the first sixteen.
        talker (`str` or `dict`): `"fit"` for the Thinker's width (a multiple of 64, at most 1024), half of its layers
            (2 to 12) and a depth decoder of half that width; the name of a preset for the sizes of its Talker; or
            fields of [`JosieTalkerConfig`] to set on top of `"fit"`, from which the other sizes follow.

    Raises:
        `ValueError`: No such preset or field, or impossible sizes.
    """
    fixed = {
        "num_quantizers": min(codec.num_quantizers, _MAX_QUANTIZERS),
        "codebook_size": codec.codebook_size,
        "thinker_hidden_size": thinker.hidden_size,
    }
    if isinstance(talker, str) and talker != FIT:
        names = JosieConfig.preset_names()
        if talker not in names:
            raise ValueError(f"`talker` must be one of {[FIT, *names]}, or fields of a Talker, got {talker!r}.")
        preset: Any = JosieConfig.from_preset(talker).talker_config
        return _build(preset.to_dict() | fixed | {"speakers": [], "end_of_speech": True})
    options = dict(talker) if isinstance(talker, dict) else {}
    unknown = sorted(set(options) - set(JosieTalkerConfig.__annotations__) - set(_inherited_fields()))
    if unknown:
        raise ValueError(f"`talker` must hold fields of a Talker's configuration, got {unknown[0]!r}.")
    if options.get("thinker_hidden_size", thinker.hidden_size) != thinker.hidden_size:
        raise ValueError(
            f"`talker` must have the Thinker's width ({thinker.hidden_size}) as `thinker_hidden_size`, "
            f"got {options['thinker_hidden_size']}."
        )
    return _build(fixed | _fit(thinker, options) | options)


def _fit(thinker: JosieThinkerConfig, options: dict[str, Any]) -> dict[str, Any]:
    """Return the sizes that follow from a Thinker's and from those that are given."""
    text: Any = thinker.text_config
    width = options.get("hidden_size", min(_floor(thinker.hidden_size), _MAX_WIDTH))
    depth = min(_floor(width // 2), _DEPTH_WIDTH)
    return {
        "hidden_size": width,
        "num_hidden_layers": min(max(text.num_hidden_layers // 2, 2), 12),
        "depth_decoder_config": _transformer(depth) | {"num_hidden_layers": _DEPTH_LAYERS},
    } | _transformer(width)


def _transformer(width: int) -> dict[str, Any]:
    """Return sizes of a gated transformer, whose feed-forward width is 8/3 of its width, as Llama's."""
    return {
        "hidden_size": width,
        "num_attention_heads": max(width // _HEAD_DIM, 1),
        "head_dim": min(_HEAD_DIM, width),
        "intermediate_size": -(-8 * width // 3 // _HEAD_DIM) * _HEAD_DIM,
    }


def _floor(width: int) -> int:
    return max(width // _HEAD_DIM, 1) * _HEAD_DIM


def _inherited_fields() -> set[str]:
    return {name for base in JosieTalkerConfig.__mro__ for name in getattr(base, "__annotations__", {})}


def _build(config_dict: dict[str, Any]) -> JosieTalkerConfig:
    depth = config_dict.get("depth_decoder_config")
    if config_dict["num_quantizers"] < 2:
        depth = None
    elif isinstance(depth, dict):
        longest = max(depth.get("max_position_embeddings", 0), config_dict["num_quantizers"])
        depth = depth | {"max_position_embeddings": longest}
    fields = {name: value for name, value in config_dict.items() if name != "model_type"}
    fields["depth_decoder_config"] = depth
    return JosieTalkerConfig(**fields)
