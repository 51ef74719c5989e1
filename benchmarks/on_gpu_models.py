"""Models and inputs of `on_gpu.py`: nano, a random assembly, and the peers' sizes."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from codec import build_jodio, build_mimi
from talker import build_csm, build_talker
from transformers import AutoModelForMultimodalLM, LlamaConfig, LlamaForCausalLM

import josie

# Widths and depths: about 300 M parameters on an accelerator, and a small one of the same parts for a CPU.
SIZES = {
    "large": dict(width=1024, layers=14, heads=16, mlp=2816, vocab=32000, audio=384, vision=384, depth=12, talker=768),
    "small": dict(width=64, layers=2, heads=4, mlp=128, vocab=300, audio=32, vision=32, depth=1, talker=48),
}
PLACEHOLDERS = dict(image_token_id=6, video_token_id=7, audio_token_id=8)


@dataclass
class Contestant:
    """A model and a batch for it.

    Args:
        model (`torch.nn.Module`): In float32 on the CPU.
        inputs (`dict[str, torch.Tensor]`): What `forward` takes, labels included.
        output (`str`): The output to compare.
    """

    model: Any
    inputs: dict[str, torch.Tensor]
    output: str


def assembly_config(size: str) -> josie.JosieConfig:
    """Return a Llama that hears through Whisper, sees through SigLIP and speaks through Mimi."""
    n = SIZES[size]
    transformer = dict(hidden_size=n["width"], intermediate_size=n["mlp"], num_attention_heads=n["heads"])
    text = transformer | dict(
        model_type="llama",
        num_hidden_layers=n["layers"],
        num_key_value_heads=n["heads"] // 2,
        vocab_size=n["vocab"],
        max_position_embeddings=2048,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    audio = dict(
        model_type="whisper",
        d_model=n["audio"],
        encoder_layers=n["depth"] // 2 or 1,
        encoder_attention_heads=4,
        encoder_ffn_dim=4 * n["audio"],
        num_mel_bins=80,
        max_source_positions=100,
    )
    vision = dict(
        model_type="siglip_vision_model",
        hidden_size=n["vision"],
        intermediate_size=4 * n["vision"],
        num_hidden_layers=n["depth"],
        num_attention_heads=4,
        image_size=64,
        patch_size=16,
    )
    talker = dict(
        hidden_size=n["talker"],
        intermediate_size=4 * n["talker"],
        num_hidden_layers=n["depth"] // 2 or 1,
        num_attention_heads=4,
        num_quantizers=8,
        codebook_size=2048,
        thinker_hidden_size=n["width"],
        max_position_embeddings=512,
        depth_decoder_config=dict(
            hidden_size=n["talker"] // 2,
            intermediate_size=2 * n["talker"],
            num_hidden_layers=2,
            num_attention_heads=4,
        ),
    )
    mimi = {"model_type": "mimi", "num_quantizers": 8}
    if size == "small":
        mimi |= dict(hidden_size=32, num_filters=4, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=2)
        mimi |= dict(
            intermediate_size=32,
            codebook_dim=16,
            vector_quantization_hidden_dimension=16,
            head_dim=16,
            upsample_groups=32,
        )
    thinker = dict(
        text_config=text, audio_config=audio, vision_config=vision, vision_feature_select="patch", **PLACEHOLDERS
    )
    return josie.JosieConfig(thinker_config=thinker, talker_config=talker, audio_codec_config=mimi)


def assembly(size: str) -> Contestant:
    """Return the random assembly with two rows of image, audio, words and speech."""
    torch.manual_seed(0)
    config = assembly_config(size)
    model = josie.JosieForConditionalGeneration(config).eval()
    thinker, frames = config.thinker_config, 200
    row = [6] * thinker.get_num_image_tokens(64, 64) + [8] * thinker.get_num_audio_tokens(frames)
    words = torch.randint(10, SIZES[size]["vocab"], (2, 64))
    ids = torch.cat((torch.tensor([row, row]), words), dim=1)
    inputs = dict(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        labels=torch.where(ids > 9, ids, -100),
        input_features=torch.randn(2, 80, frames),
        input_features_mask=torch.ones(2, frames, dtype=torch.long),
        pixel_values=torch.rand(2, 3, 64, 64),
        speech_codes=torch.randint(0, 2048, (2, 8, 40)),
    )
    return Contestant(model, inputs, "logits")


def nano() -> Contestant:
    """Return nano with an image and a question."""
    model: Any = AutoModelForMultimodalLM.from_pretrained(josie.nano_path()).eval()
    torch.manual_seed(0)
    thinker = model.config.thinker_config
    count = thinker.get_num_image_tokens(64, 64)
    ids = torch.cat((torch.full((2, count), thinker.image_token_id), torch.randint(300, 1000, (2, 24))), dim=1)
    talker = model.config.talker_config
    codes = torch.randint(0, talker.codebook_size, (2, talker.num_quantizers, 40))
    labels = torch.where(ids != thinker.image_token_id, ids, -100)
    inputs = dict(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        labels=labels,
        pixel_values=torch.rand(2, 3, 64, 64),
        speech_codes=codes,
    )
    return Contestant(model, inputs, "logits")


def parts(size: str) -> dict[str, Callable[[], Contestant]]:
    """Return every part that trains, each with a batch: whole models, Thinker, Talker and the codecs."""

    def thinker() -> Contestant:
        whole = assembly(size)
        speech = {"speech_codes"}
        inputs = {name: value for name, value in whole.inputs.items() if name not in speech}
        return Contestant(whole.model.thinker, inputs, "logits")

    def talker() -> Contestant:
        whole = assembly(size)
        states = torch.randn(2, 64, SIZES[size]["width"])
        inputs = dict(
            speech_codes=whole.inputs["speech_codes"], thinker_hidden_states=states, thinker_embeds=states.clone()
        )
        return Contestant(whole.model.talker, inputs, "logits")

    def codec(name: str) -> Contestant:
        torch.manual_seed(0)
        if name == "jovio":
            small = dict(hidden_size=24, num_hidden_layers=1, num_attention_heads=2, intermediate_size=48)
            sizes = dict(encoder_config=small, decoder_config=dict(small), num_quantizers=2) if size == "small" else {}
            config = josie.JovioConfig(**sizes)
            return Contestant(josie.JovioModel(config), {"pixel_values": torch.rand(2, 2, 3, 64, 64)}, "pixel_values")
        if name == "mel codec":
            config = josie.JosieMelCodecConfig(sampling_rate=16000, hidden_size=256 if size == "large" else 16)
            model = josie.JosieMelCodecModel(config)
        else:
            model = build_jodio() if size == "large" else josie.JodioModel.from_pretrained(josie.nano_path("jodio"))
        return Contestant(model, {"input_values": 0.1 * torch.randn(2, 1, 32000)}, "audio_values")

    return {
        "whole": lambda: assembly(size),
        "Thinker": thinker,
        "Talker": talker,
        "JODIO": lambda: codec("jodio"),
        "mel codec": lambda: codec("mel codec"),
        "JOVIO": lambda: codec("jovio"),
    }


def speed_pairs(size: str) -> dict[str, tuple[Any, Any]]:
    """Return each part of ours and its peer of the same sizes: Talker and CSM, Thinker and Llama, JODIO and Mimi."""
    torch.manual_seed(0)
    n = SIZES[size]
    sizes = dict(
        vocab_size=n["vocab"],
        hidden_size=n["width"],
        intermediate_size=n["mlp"],
        num_hidden_layers=n["layers"],
        num_attention_heads=n["heads"],
        max_position_embeddings=2048,
    )
    thinker = josie.JosieThinkerForConditionalGeneration(
        josie.JosieThinkerConfig(text_config=sizes | dict(model_type="josie_text"))
    )
    llama = LlamaForCausalLM(LlamaConfig(**sizes, eos_token_id=None, bos_token_id=None))
    return {
        "Thinker": (thinker.eval(), llama.eval()),
        "Talker": (build_talker(), build_csm()),
        "codec": (build_jodio(), build_mimi()),
    }
