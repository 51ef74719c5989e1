"""A step of training of every family that assembly takes: every trainable parameter gets a finite gradient."""

import re
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

import josie
from josie.conversion.assemble.vocabulary import PLACEHOLDERS, extend_tokenizer
from josie.modeling_josie import JosieForConditionalGeneration
from josie.processing_josie import JosieProcessor

ROOT = Path(__file__).resolve().parents[1]
if str(ROOT / "benchmarks") not in sys.path:
    sys.path.append(str(ROOT / "benchmarks"))

import families  # noqa: E402
import family_training  # noqa: E402

PAGE = (ROOT / "docs" / "families.md").read_text(encoding="utf-8")
# What the model freezes of these families, and why no gradient gets there.
FIXED = {
    ("text", "afmoe"): ("mlp.expert_bias", "top-k chooses experts by it"),
    ("text", "ernie4_5_moe"): ("e_score_correction_bias", "top-k chooses experts by it"),
    ("text", "laguna"): ("e_score_correction_bias", "top-k chooses experts by it"),
    ("text", "axk2"): ("indexer", "top-k chooses tokens by it"),
    ("text", "deepseek_v32"): ("indexer", "top-k chooses tokens by it"),
    ("text", "glm_moe_dsa"): ("indexer", "top-k chooses tokens by it"),
    ("text", "hy_v4"): ("indexer", "top-k chooses tokens by it"),
    ("text", "hrm_text"): ("z_L_init", "a fixed initial state, upstream too"),
    ("audio", "wav2vec2-conformer"): ("pos_conv_embed", "built upstream and never called"),
    ("vision", "clip_vision_model"): ("post_layernorm", "for the pooled row alone"),
    ("vision", "siglip_vision_model"): (".head.", "for the pooled row alone"),
    ("vision", "siglip2_vision_model"): (".head.", "for the pooled row alone"),
    ("vision", "dinov2"): ("mask_token", "for masked images alone"),
}
# In these a layer norm behind the last layer is part of every row.
USED = ("siglip_vision_model", "siglip2_vision_model", "idefics3_vision", "smolvlm_vision")
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning", "ignore::DeprecationWarning")


def list_taken(part: str) -> list[tuple[str, str]]:
    section = PAGE.split(f"## {families.TITLES[part]}\n")[1].split("\n## ")[0]
    rows = [row.rsplit(" | ", 1)[1] for row in section.splitlines() if row.startswith("| taken")]
    return [(part, name) for name in re.findall(r"`([^`]+)`", " ".join(rows))]


TAKEN = [pair for part in ("text", "audio", "vision") for pair in list_taken(part)]


@cache
def build_tokenizer() -> Any:
    tokenizer = families.train_tokenizer()
    extend_tokenizer(tokenizer, 300, "tiny")
    return tokenizer


def build_whole(part: str, family: str) -> tuple[JosieForConditionalGeneration, JosieProcessor]:
    """Return a tiny model all of whose parameters are trainable, as after loading, but for those it freezes."""
    text_config: Any = families.build_config(family if part == "text" else "llama")
    if getattr(text_config, "max_position_embeddings", None) is None:
        text_config.max_position_embeddings = families.CONTEXT
    tokenizer = build_tokenizer()
    image_id, video_id, audio_id = (tokenizer.convert_tokens_to_ids(token) for token in PLACEHOLDERS)
    thinker = josie.JosieThinkerConfig(
        text_config=text_config,
        audio_config=families.build_config(family) if part == "audio" else None,
        vision_config=families.build_config(family) if part == "vision" else None,
        vision_feature_select="patch",
        image_token_id=image_id,
        video_token_id=video_id,
        audio_token_id=audio_id,
    )
    config = josie.JosieConfig(thinker_config=thinker)
    torch.manual_seed(0)
    model = JosieForConditionalGeneration(config)
    family_training.perturb(model)
    model.requires_grad_(True)
    model.freeze_fixed_parts()
    return model, JosieProcessor.from_config(config, tokenizer)


@pytest.mark.parametrize(("part", "family"), TAKEN)
def test_every_trainable_parameter_gets_a_finite_gradient(part, family):
    model, processor = build_whole(part, family)
    assert not family_training.find_failures(model, family_training.make_batch(processor, part))


@pytest.mark.parametrize(("part", "family"), FIXED)
def test_no_gradient_gets_where_parameters_are_frozen(part, family):
    name, _ = FIXED[part, family]
    model, processor = build_whole(part, family)
    frozen = {key for key, parameter in model.named_parameters() if name in key and not parameter.requires_grad}
    assert frozen == {key for key, _ in model.named_parameters() if name in key} != set()
    for key, parameter in model.named_parameters():
        parameter.requires_grad_(parameter.requires_grad or key in frozen)
    failures = family_training.find_failures(model, family_training.make_batch(processor, part))
    assert failures == dict.fromkeys(frozen, "has no gradient")


@pytest.mark.parametrize("family", USED)
def test_a_norm_that_rows_pass_through_is_trained(family):
    norm = build_whole("vision", family)[0].thinker.model.vision_front_end.encoder.post_layernorm
    assert all(parameter.requires_grad for parameter in norm.parameters())


def test_gradients_that_are_missing_are_found():
    model, processor = build_whole("text", "llama")
    model.thinker.register_parameter("unused", torch.nn.Parameter(torch.zeros(1)))
    failures = family_training.find_failures(model, family_training.make_batch(processor, "text"))
    assert failures == {"thinker.unused": "has no gradient"}
