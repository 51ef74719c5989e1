"""Whisper's weights out of CTranslate2's `model.bin`, for tests that want a real pretrained encoder.

The file is a list of named arrays: sizes are little-endian, names end in a zero byte, a type is a number. Queries, keys
and values stand in one matrix, and keys, which have no bias in Whisper, have one of zeros.
"""

import json
import struct
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from transformers import GenerationConfig, WhisperConfig, WhisperForConditionalGeneration

_VERSION = 6
_TYPES = (np.float32, np.int8, np.int16, np.int32, np.float16)
_START, _END = 50257, 50256  # of a transcript, in the English models
_NO_TIMESTAMPS = 50362

_STEMS = {
    "conv1": "conv1",
    "conv2": "conv2",
    "layer_norm": "layer_norm",
    "position_encodings": "embed_positions",
    "embeddings": "embed_tokens",
    "self_attention/layer_norm": "self_attn_layer_norm",
    "self_attention/linear_0": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "self_attention/linear_1": "self_attn.out_proj",
    "attention/layer_norm": "encoder_attn_layer_norm",
    "attention/linear_0": "encoder_attn.q_proj",
    "attention/linear_1": ("encoder_attn.k_proj", "encoder_attn.v_proj"),
    "attention/linear_2": "encoder_attn.out_proj",
    "ffn/layer_norm": "final_layer_norm",
    "ffn/linear_0": "fc1",
    "ffn/linear_1": "fc2",
}
_LEAVES = {"gamma": "weight", "beta": "bias", "encodings": "weight"}


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """Return the arrays of a `model.bin` by name."""
    with path.open("rb") as file:
        (version,) = _unpack(file, "I")
        if version != _VERSION:
            raise ValueError(f"`path` must be a file of version {_VERSION}, got {version}.")
        _read_name(file), _unpack(file, "I")  # kind of model, and its revision
        arrays = {}
        for _ in range(_unpack(file, "I")[0]):
            name, (rank,) = _read_name(file), _unpack(file, "B")
            shape = _unpack(file, "I" * rank)
            kind, size = _unpack(file, "BI")
            arrays[name] = np.frombuffer(file.read(size), dtype=_TYPES[kind]).reshape(shape)
        return arrays


def load_whisper(folder: Path) -> WhisperForConditionalGeneration:
    """Return the model of a folder of CTranslate2, in float32; every weight comes from the file."""
    arrays = read_arrays(folder / "model.bin")
    width, num_mel_bins = arrays["encoder/conv1/weight"].shape[:2]
    layers = {
        half: len({name.split("/")[1] for name in arrays if name.startswith(f"{half}/layer_")} - {"layer_norm"})
        for half in ("encoder", "decoder")
    }
    config = WhisperConfig(
        d_model=width,
        num_mel_bins=num_mel_bins,
        vocab_size=arrays["decoder/embeddings/weight"].shape[0],
        encoder_layers=layers["encoder"],
        decoder_layers=layers["decoder"],
        encoder_attention_heads=int(arrays["encoder/num_heads"]),
        decoder_attention_heads=int(arrays["decoder/num_heads"]),
        encoder_ffn_dim=arrays["encoder/layer_0/ffn/linear_0/bias"].shape[0],
        decoder_ffn_dim=arrays["decoder/layer_0/ffn/linear_0/bias"].shape[0],
        decoder_start_token_id=_START,
        bos_token_id=_END,
        eos_token_id=_END,
        pad_token_id=_END,
    )
    weights = {}
    for name, array in arrays.items():
        if array.dtype == np.float16:
            weights |= _convert(name, torch.from_numpy(array.astype(np.float32)))
    model = WhisperForConditionalGeneration(config).eval()
    weights["proj_out.weight"] = weights["model.decoder.embed_tokens.weight"]
    model.load_state_dict(weights)
    settings = json.loads((folder / "config.json").read_text())
    model.generation_config = GenerationConfig(
        decoder_start_token_id=_START,
        eos_token_id=_END,
        pad_token_id=_END,
        no_timestamps_token_id=_NO_TIMESTAMPS,
        is_multilingual=False,
        suppress_tokens=settings["suppress_ids"],
        begin_suppress_tokens=settings["suppress_ids_begin"],
        max_length=config.max_target_positions,
    )
    return model


def _convert(name: str, array: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return one array under the names of transformers, cut where several are one."""
    half, _, rest = name.partition("/")
    stem, _, leaf = rest.rpartition("/")
    prefix = f"model.{half}."
    if stem.startswith("layer_") and not stem.startswith("layer_norm"):
        layer, _, stem = stem.partition("/")
        prefix += f"layers.{layer.removeprefix('layer_')}."
    targets, leaf = _STEMS[stem], _LEAVES.get(leaf, leaf)
    targets = (targets,) if isinstance(targets, str) else targets
    pieces = {
        f"{prefix}{target}.{leaf}": piece for target, piece in zip(targets, array.chunk(len(targets)), strict=True)
    }
    return {key: piece for key, piece in pieces.items() if not key.endswith("k_proj.bias")}


def _unpack(file: BinaryIO, layout: str) -> tuple:
    return struct.unpack(f"<{layout}", file.read(struct.calcsize(f"<{layout}")))


def _read_name(file: BinaryIO) -> str:
    return file.read(_unpack(file, "H")[0]).rstrip(b"\0").decode()
