"""A tiny Qwen2 as a GGUF file, written tensor by tensor."""

import json
from pathlib import Path

import torch
import transformers
from assembly_parts import CHATML, train_backbone_tokenizer

SIZES = dict(
    vocab_size=300,
    hidden_size=32,
    intermediate_size=40,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=128,
    tie_word_embeddings=False,
)
_NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}


def write_gguf(path: Path) -> transformers.PreTrainedModel:
    """Write a model with its tokenizer, and return the model."""
    import gguf

    torch.manual_seed(6)
    config = transformers.Qwen2Config(**SIZES)
    model = transformers.Qwen2ForCausalLM(config).eval()
    tokenizer = train_backbone_tokenizer(CHATML, has_bos=False, has_pad=True)
    vocab = sorted(tokenizer.get_vocab(), key=tokenizer.get_vocab().get)
    special = {"<s>", "</s>", "<|im_start|>", "<|im_end|>", "<pad>"}
    merges = json.loads(tokenizer.backend_tokenizer.to_str())["model"]["merges"]

    writer = gguf.GGUFWriter(str(path), "qwen2")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_vocab_size(config.vocab_size)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list(vocab)
    writer.add_token_types([3 if token in special else 1 for token in vocab])  # control, normal
    writer.add_token_merges([" ".join(merge) for merge in merges])
    for role in ("bos", "eos", "pad"):
        getattr(writer, f"add_{role}_token_id")(getattr(tokenizer, f"{role}_token_id"))
    writer.add_chat_template(CHATML)
    for name, tensor in model.state_dict().items():
        module, _, kind = name.rpartition(".")
        if module.startswith("model.layers."):
            _, _, number, module = module.split(".", 3)
            writer.add_tensor(f"blk.{number}.{_NAMES[module]}.{kind}", tensor.numpy())
        else:
            writer.add_tensor(f"{_NAMES[module]}.{kind}", tensor.numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return model
