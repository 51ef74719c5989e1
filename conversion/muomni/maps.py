"""Maps of keys: for each tensor of JOSIE its sources in μOmni.

`a + b` is put together along the first dimension, `a | b` is whichever of the two there is.
"""

from collections.abc import Container

BLOCK = {
    "input_layernorm.weight": "norm1.weight",
    "self_attn.qkv_proj.weight": "attn.qkv.weight | attn.q.weight + attn.k.weight + attn.v.weight",
    "self_attn.o_proj.weight": "attn.o.weight",
    "post_attention_layernorm.weight": "norm2.weight",
    "mlp.gate_up_proj.weight": "mlp.gate_proj.weight + mlp.up_proj.weight",
    "mlp.up_proj.weight": "mlp.fc1.weight",
    "mlp.up_proj.bias": "mlp.fc1.bias",
    "mlp.down_proj.weight": "mlp.down_proj.weight | mlp.fc2.weight",
    "mlp.down_proj.bias": "mlp.fc2.bias",
}
AUDIO_BLOCK = {
    "input_layernorm.weight": "norm1.weight",
    "self_attn.qkv_proj.weight": "attn.in_proj_weight | attn.qkv_proj.weight | qkv_proj.weight",
    "self_attn.qkv_proj.bias": "attn.in_proj_bias | attn.qkv_proj.bias | qkv_proj.bias",
    "self_attn.o_proj.weight": "attn.out_proj.weight | out_proj.weight",
    "self_attn.o_proj.bias": "attn.out_proj.bias | out_proj.bias",
    "post_attention_layernorm.weight": "norm2.weight",
    "mlp.up_proj.weight": "mlp.0.weight",
    "mlp.up_proj.bias": "mlp.0.bias",
    "mlp.down_proj.weight": "mlp.2.weight",
    "mlp.down_proj.bias": "mlp.2.bias",
}
VISION_BLOCK = {
    "input_layernorm.weight": "norm1.weight",
    "input_layernorm.bias": "norm1.bias",
    "self_attn.qkv_proj.weight": "self_attn.in_proj_weight",
    "self_attn.qkv_proj.bias": "self_attn.in_proj_bias",
    "self_attn.o_proj.weight": "self_attn.out_proj.weight",
    "self_attn.o_proj.bias": "self_attn.out_proj.bias",
    "post_attention_layernorm.weight": "norm2.weight",
    "post_attention_layernorm.bias": "norm2.bias",
    "mlp.up_proj.weight": "linear1.weight",
    "mlp.up_proj.bias": "linear1.bias",
    "mlp.down_proj.weight": "linear2.weight",
    "mlp.down_proj.bias": "linear2.bias",
}
TEXT = "thinker.model.language_model"
AUDIO = "thinker.model.audio_front_end"
VISION = "thinker.model.vision_front_end"
WEIGHTS = {
    f"{TEXT}.embed_tokens.weight": "thinker.tok_emb.weight",
    f"{TEXT}.norm.weight": "thinker.norm.weight",
    "thinker.lm_head.weight": "thinker.lm_head.weight",
    f"{AUDIO}.encoder.convolutions.0.weight": "audio_encoder.down.net.0.weight | audio_encoder.down.0.net.0.weight",
    f"{AUDIO}.encoder.convolutions.0.bias": "audio_encoder.down.net.0.bias | audio_encoder.down.0.net.0.bias",
    f"{AUDIO}.encoder.convolutions.1.weight": "audio_encoder.down.net.2.weight | audio_encoder.down.0.net.2.weight",
    f"{AUDIO}.encoder.convolutions.1.bias": "audio_encoder.down.net.2.bias | audio_encoder.down.0.net.2.bias",
    f"{AUDIO}.encoder.convolutions.2.weight": "audio_encoder.down.1.weight",
    f"{AUDIO}.encoder.convolutions.2.bias": "audio_encoder.down.1.bias",
    f"{AUDIO}.encoder.proj.weight": "audio_encoder.proj.weight",
    f"{AUDIO}.encoder.proj.bias": "audio_encoder.proj.bias",
    f"{AUDIO}.encoder.backbone.norm.weight": "audio_encoder.norm.weight",
    f"{AUDIO}.projector.linear_1.weight": "proj_a.weight",
    f"{AUDIO}.projector.linear_1.bias": "proj_a.bias",
    f"{VISION}.encoder.cls_token": "vision_encoder.cls",
    f"{VISION}.encoder.position_embedding": "vision_encoder.pos",
    f"{VISION}.encoder.patch_embed.weight": "vision_encoder.proj.weight",
    f"{VISION}.encoder.patch_embed.bias": "vision_encoder.proj.bias",
    f"{VISION}.encoder.backbone.norm.weight": "vision_encoder.norm.weight",
    f"{VISION}.projector.linear_1.weight": "proj_v.weight",
    f"{VISION}.projector.linear_1.bias": "proj_v.bias",
    "talker.start": "talker.start",
    "talker.code_embedding.embedding.weight": "talker.emb.weight",
    "talker.model.norm.weight": "talker.norm.weight",
    "talker.head.weight": "talker.base_head.weight",
    "talker.head.bias": "talker.base_head.bias",
    "talker.depth_decoder.heads.weight": "talker.res_head.weight",
    "talker.depth_decoder.heads.bias": "talker.res_head.bias",
    "audio_codec.quantizer.proj_in.weight": "rvq.proj_in.weight",
    "audio_codec.quantizer.proj_in.bias": "rvq.proj_in.bias",
    "audio_codec.quantizer.proj_out.weight": "rvq.proj_out.weight",
    "audio_codec.quantizer.proj_out.bias": "rvq.proj_out.bias",
}
# Numbered groups: where they stand in both, and the map inside one.
GROUPS = {
    f"{TEXT}.layers": ("thinker.blocks", BLOCK),
    f"{AUDIO}.encoder.backbone.layers": ("audio_encoder.blocks", AUDIO_BLOCK),
    f"{VISION}.encoder.backbone.layers": ("vision_encoder.blocks", VISION_BLOCK),
    "talker.model.layers": ("talker.blocks", BLOCK),
    "audio_codec.quantizer.quantizers": ("rvq.codebooks", {"codebook": "weight"}),
}
DROPPED = {
    "audio_head.": "head of the encoder's own training; the Thinker reads its features",
    "vision_head.": "heads of the encoder's own training; the Thinker reads its CLS row",
    "audio_encoder.attention_pool.": "pooling of the encoder's own training; the Thinker reads all its features",
    "ocr.": "another model, which reads texts in images",
}
# Tensors that are not taken as they are.
TOKEN_TABLES = (f"{TEXT}.embed_tokens.weight", "thinker.lm_head.weight")
CODE_TABLE = "talker.code_embedding.embedding.weight"
START = "talker.start"
CHANGES = {
    TOKEN_TABLES[0]: "rows of the new tokens are the mean of all others",
    TOKEN_TABLES[1]: "rows of the new tokens are the mean of all others: such a logit is never above all of them",
    CODE_TABLE: "the start, read before the first frame, is code 0, as μOmni feeds there",
    START: "without its two dimensions of 1",
}
# Tensors of JOSIE that μOmni has nothing for.
NEW = {
    "talker.thinker_projection.weight": "zeros: μOmni's Talker hears no text; training can start from here",
    "talker.end_of_text": "zeros: μOmni's Talker hears no text; training can start from here",
    "cluster_size": "ones: its moving average starts there",
    "initialized": "true: the codebook is not to be drawn from data",
}


def find_rule(target: str) -> str | None:
    """Return the entry of the tables for a key of JOSIE, with full names; `None` where there is none."""
    if target in WEIGHTS:
        return WEIGHTS[target]
    for group, (source, table) in GROUPS.items():
        if not target.startswith(f"{group}."):
            continue
        number, _, key = target.removeprefix(f"{group}.").partition(".")
        if key not in table:
            return None
        choices = [choice.split(" + ") for choice in table[key].split(" | ")]
        return " | ".join(" + ".join(f"{source}.{number}.{name}" for name in choice) for choice in choices)
    return None


def choose_sources(rule: str, keys: Container[str]) -> list[str]:
    """Return the alternative of a rule of which `keys` has most, the first of equals."""
    choices = [choice.split(" + ") for choice in rule.split(" | ")]
    return max(choices, key=lambda names: sum(name in keys for name in names) / len(names))
