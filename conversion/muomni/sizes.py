"""Sizes of a μOmni checkpoint, from its configuration, and where that is silent from its weights."""

import math
from collections.abc import Iterator
from typing import Any

from huggingface_hub.errors import StrictDataclassError

from ...configuration_josie import JosieConfig
from ...tokenization import AUDIO_TOKEN, IMAGE_TOKEN, PAD_TOKEN, VIDEO_TOKEN
from .files import MuomniCheckpoint, is_dropped
from .sentencepiece import SentencePieceModel

# Appended to the vocabulary, which has no room for them; μOmni pads with its unknown token.
NEW_TOKENS = {
    "pad_token": PAD_TOKEN,
    "image_token": IMAGE_TOKEN,
    "video_token": VIDEO_TOKEN,
    "audio_token": AUDIO_TOKEN,
}
HEAD_DIM = 64  # of every transformer of μOmni in its own sizes; how many heads there are cannot be read off weights
MAX_FRAMES = 1024  # of speech; μOmni generates at most 1000, after its start


def count_tokens(checkpoint: MuomniCheckpoint) -> int:
    """Return the size of the original vocabulary."""
    return _Sizes(checkpoint).get("thinker", "vocab_size", "thinker.tok_emb.weight", "thinker.lm_head.weight")


def build_config(checkpoint: MuomniCheckpoint, pieces: SentencePieceModel) -> JosieConfig:
    """Return the configuration of the converted model.

    Raises:
        `ValueError`: There is no Thinker, a size is impossible, or the tokenizer does not fit.
    """
    sizes = _Sizes(checkpoint)
    if not sizes.has("thinker."):
        raise ValueError("`source` must have a Thinker, in thinker.pt, omni.pt or a .safetensors file, got none.")
    vocab_size, first = count_tokens(checkpoint), len(pieces.pieces)
    if first > vocab_size:
        raise ValueError(f"`tokenizer` must have at most {vocab_size} pieces, got {first}.")
    ids = {role: first + index for index, role in enumerate(NEW_TOKENS)}
    text = sizes.decoder("thinker", "thinker") | {
        "model_type": "josie_text",
        "vocab_size": max(vocab_size, first + len(ids)),
        "max_position_embeddings": sizes.config["thinker"].get("ctx_len", 512),
        "pad_token_id": ids["pad_token"],
        "bos_token_id": pieces.bos_id,
        "eos_token_id": pieces.eos_id,
    }
    thinker: dict[str, Any] = {
        "text_config": text,
        "audio_config": sizes.audio_encoder() if sizes.has("audio_encoder.") else None,
        "vision_config": sizes.vision_encoder() if sizes.has("vision_encoder.") else None,
        "image_token_id": ids["image_token"],
        "video_token_id": ids["video_token"],
        "audio_token_id": ids["audio_token"],
    }
    speaks = sizes.has("talker.", "rvq.")
    try:
        return JosieConfig(
            thinker_config=thinker,
            talker_config=sizes.talker(text["hidden_size"]) if speaks else None,
            audio_codec_config=sizes.codec() if speaks else None,
        )
    except (StrictDataclassError, TypeError) as error:
        reason = " ".join(str(error.__cause__ or error).split())
        raise ValueError(f"`config` must have sizes that are possible, got others: {reason}") from error


class _Sizes:
    def __init__(self, checkpoint: MuomniCheckpoint):
        self.config = checkpoint.config
        self.shapes = {
            key: tuple(origin.tensor.shape) for key, origin in checkpoint.weights.items() if not is_dropped(key)
        }

    def has(self, *prefixes: str) -> bool:
        return any(key.startswith(prefixes) for key in self.shapes)

    def measure(self, *keys: str, axis: int = 0, default: int = 1) -> int:
        """Return the length of an axis of the first of `keys` that there is."""
        return next((self.shapes[key][axis] for key in keys if len(self.shapes.get(key, ())) > axis), default)

    def get(self, part: str, name: str, *keys: str, axis: int = 0, default: int = 1) -> Any:
        """Return a field of a part's configuration, or what [`_Sizes.measure`] finds."""
        return self.config[part][name] if name in self.config[part] else self.measure(*keys, axis=axis, default=default)

    def count(self, prefix: str) -> int:
        """Return one more than the highest number behind a prefix, at least 1."""
        numbers = (key.removeprefix(prefix).partition(".")[0] for key in self.shapes if key.startswith(prefix))
        return max((int(number) + 1 for number in numbers if number.isdecimal()), default=1)

    def in_blocks(self, name: str, *ends: str) -> Iterator[str]:
        """Yield the keys of a part's blocks that end in one of `ends`."""
        return (key for key in self.shapes if key.startswith(f"{name}.blocks.") and key.endswith(ends))

    def transformer(self, part: str, name: str) -> dict[str, Any]:
        """Return the fields of every transformer."""
        config_dict = self.config[part]
        width = self.get(part, "d_model", f"{name}.norm.weight", *self.in_blocks(name, "norm1.weight"))
        inner = self.in_blocks(name, "gate_proj.weight", "fc1.weight", "mlp.0.weight", "linear1.weight")
        return {
            "hidden_size": width,
            "intermediate_size": self.get(part, "d_ff", *inner),
            "num_hidden_layers": config_dict.get("n_layers", self.count(f"{name}.blocks.")),
            "num_attention_heads": config_dict.get("n_heads", max(width // HEAD_DIM, 1)),
            "norm_eps": 1e-5,
            "attention_dropout": config_dict.get("dropout", 0.1),
            "hidden_dropout": config_dict.get("dropout", 0.1),
        }

    def decoder(self, part: str, name: str) -> dict[str, Any]:
        """Return the fields of Thinker and Talker: rotary positions, and their forms of attention and MLP."""
        fields = self.transformer(part, name)
        gated = not any(self.in_blocks(name, "mlp.fc1.weight", "mlp.fc2.weight"))
        groups = None
        if any(self.in_blocks(name, "attn.k.weight", "attn.v.weight")):
            rows = self.measure(*self.in_blocks(name, "attn.k.weight", "attn.v.weight"))
            groups = max(rows * fields["num_attention_heads"] // fields["hidden_size"], 1)
        return fields | {
            "num_key_value_heads": groups,
            "gated_mlp": gated,
            "hidden_act": "silu" if gated else "gelu",
            "mlp_bias": not gated,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": float(self.config[part].get("rope_theta", 10000.0)),
            },
        }

    def audio_encoder(self) -> dict[str, Any]:
        """Return the audio encoder."""
        config_dict = self.config["audio_enc"]
        first = ("audio_encoder.down.net.0.weight", "audio_encoder.down.0.net.0.weight")
        return self.transformer("audio_enc", "audio_encoder") | {
            "model_type": "josie_audio_encoder",
            "sampling_rate": config_dict.get("sample_rate", 16000),
            "num_mel_bins": config_dict.get("mel_bins", 128),
            "n_fft": 1024,
            "win_length": config_dict.get("frame_win", 400),
            "mel_hop_length": config_dict.get("frame_hop", 160),
            "mel_power": 2.0,
            "log_mel": False,
            "conv_channels": self.measure(*first, default=64),
            "downsampling_factor": 8 if self.has("audio_encoder.down.0.", "audio_encoder.down.1.") else 4,
        }

    def vision_encoder(self) -> dict[str, Any]:
        """Return the vision encoder."""
        patch = self.get("vision", "patch", "vision_encoder.proj.weight", axis=2, default=16)
        side = math.isqrt(max(self.measure("vision_encoder.pos", axis=1, default=197) - 1, 1))
        size = self.config["vision"].get("img_size", side * patch)
        return self.transformer("vision", "vision_encoder") | {
            "model_type": "josie_vision_encoder",
            "image_size": size,
            "patch_size": patch,
            "max_position_embeddings": 1 + (size // patch) ** 2,
        }

    def codebook_size(self) -> int:
        return self.get("talker", "codebook_size", "talker.emb.weight", "rvq.codebooks.0.weight")

    def talker(self, thinker_hidden_size: int) -> dict[str, Any]:
        """Return the Talker: two heads side by side, and no end of speech."""
        return self.decoder("talker", "talker") | {
            "num_quantizers": 2,
            "codebook_size": self.codebook_size(),
            "thinker_hidden_size": thinker_hidden_size,
            "share_code_embedding": True,
            "head_bias": True,
            "end_of_speech": False,
            "max_position_embeddings": MAX_FRAMES,
        }

    def codec(self) -> dict[str, Any]:
        """Return the mel codec: one mel frame a code frame, power mel, projections and nothing else."""
        config_dict = self.config["talker"]
        rate = config_dict.get("sample_rate", 16000)
        frame_ms = config_dict.get("frame_ms", 1000 / config_dict.get("frame_rate", 12.5))
        dim = self.measure("rvq.proj_in.weight", default=self.measure("rvq.codebooks.0.weight", axis=1))
        return {
            "model_type": "josie_mel_codec",
            "sampling_rate": rate,
            "num_mel_bins": config_dict.get("n_mels", 128),
            "n_fft": 1024,
            "win_length": 1024,
            "mel_hop_length": round(rate * frame_ms / 1000),
            "mel_power": 2.0,
            "log_mel": False,
            "pad_mode": "reflect",
            "frames_per_code": 1,
            "num_encoder_layers": 0,
            "num_decoder_layers": 0,
            "num_quantizers": max(config_dict.get("codebooks", self.count("rvq.codebooks.")), 2),
            "codebook_size": self.codebook_size(),
            "codebook_dim": self.config.get("rvq_d", dim),
            "quantizer_bias": True,
        }
