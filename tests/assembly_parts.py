"""Tiny random checkpoints of every family, with tokenizers and processors of their own: what assembly is tried on."""

import json
from pathlib import Path
from typing import Any

import torch
import transformers
from test_ecosystem import BACKBONES, CODECS, ENCODER, ENCODERS
from tiny import JODIO, JOVIO, MEL_CODEC, build
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import AutoConfig, AutoModelForCausalLM

import josie

LINES = ["A red ball lies on the table.", "What is on the table?", "The table is red, the ball is round."] * 3

CHATML = """{%- if messages[0]['role'] == 'system' %}
    {{- '<|im_start|>system\\n' + messages[0]['content'] + '<|im_end|>\\n' }}
{%- endif %}
{%- for message in messages %}
    {%- if message['role'] != 'system' %}
        {{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}
"""
HEADERS = """{{- bos_token }}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content'] | trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system_message = '' %}
{%- endif %}
{{- '<|im_start|>system<|im_end|>' + system_message + '\\n\\n' }}
{%- for message in messages %}
    {{- '<|im_start|>' + message['role'] + '<|im_end|>\\n\\n' + message['content'] | trim + eos_token }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant<|im_end|>\\n\\n' }}
{%- endif %}
"""
TURNS = """{{ bos_token }}
{%- if messages[0]['role'] == 'system' -%}
    {{ raise_exception('System role not supported') }}
{%- endif -%}
{%- for message in messages -%}
    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) -%}
        {{ raise_exception('Roles must alternate') }}
    {%- endif -%}
    {%- if message['role'] == 'assistant' -%}
        {%- set role = 'model' -%}
    {%- else -%}
        {%- set role = message['role'] -%}
    {%- endif -%}
    {{ '<|im_start|>' + role + '
' + message['content'] | trim + '<|im_end|>
' }}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{ '<|im_start|>model
' }}
{%- endif -%}
"""
# Template, whether the tokenizer writes the beginning of text, whether it has padding, and the family's own sizes.
FAMILIES: dict[str, tuple[str | None, bool, bool, dict[str, Any]]] = {
    "llama": (HEADERS, True, False, BACKBONES["llama"] | dict(vocab_size=290)),
    "qwen3": (CHATML, False, True, BACKBONES["qwen3"] | dict(tie_word_embeddings=True)),  # with spare rows
    "gemma3_text": (TURNS, True, True, BACKBONES["gemma3_text"] | dict(tie_word_embeddings=True, vocab_size=290)),
    "gpt2": (None, False, False, BACKBONES["gpt2"] | dict(vocab_size=290)),
}
TOWER = dict(
    hidden_size=16, intermediate_size=20, num_hidden_layers=2, num_attention_heads=2, image_size=24, patch_size=8
)
WORDS = dict(vocab_size=40, hidden_size=16, intermediate_size=20, num_hidden_layers=1, num_attention_heads=2)
WHISPER = dict(
    d_model=16,
    encoder_layers=2,
    decoder_layers=1,
    encoder_attention_heads=2,
    decoder_attention_heads=2,
    encoder_ffn_dim=20,
    decoder_ffn_dim=20,
    vocab_size=60,
    max_source_positions=50,
    num_mel_bins=11,
    pad_token_id=0,
    bos_token_id=1,
    eos_token_id=2,
    decoder_start_token_id=1,
)
SIZE = {"height": 24, "width": 24}


def train_backbone_tokenizer(template: str | None, has_bos: bool, has_pad: bool) -> Any:
    """Return a byte-level tokenizer of 290 tokens or less with names of its own for its roles."""
    special = ["<s>", "</s>", "<|im_start|>", "<|im_end|>"] + (["<pad>"] if has_pad else [])
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=290, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(LINES, trainer)
    if has_bos:
        tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    pad = {"pad_token": "<pad>"} if has_pad else {}
    wrapped = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", clean_up_tokenization_spaces=False, **pad
    )
    wrapped.chat_template = template
    return wrapped


def lengthen(folder: Path) -> Path:
    """Give a saved text model a context in which a clip has room."""
    path = folder / "config.json"
    config_dict = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(config_dict | {"max_position_embeddings": 512}), encoding="utf-8")
    return folder


def save_text(model_type: str, folder: Path) -> Path:
    """Save a causal language model with its tokenizer."""
    template, has_bos, has_pad, sizes = FAMILIES[model_type]
    torch.manual_seed(2)
    ids = dict(pad_token_id=4 if has_pad else None, bos_token_id=0, eos_token_id=1)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(model_type, **sizes, **ids))
    model.generation_config.update(do_sample=True, temperature=0.7, top_k=5)
    model.save_pretrained(folder)
    train_backbone_tokenizer(template, has_bos, has_pad).save_pretrained(folder)
    return folder


def save_audio(model_type: str, folder: Path) -> Path:
    """Save a model with an audio encoder in it, and its feature extractor."""
    torch.manual_seed(3)
    if model_type == "whisper":
        config = transformers.WhisperConfig(**WHISPER, suppress_tokens=None, begin_suppress_tokens=None)
        transformers.WhisperForConditionalGeneration(config).save_pretrained(folder)
        transformers.WhisperFeatureExtractor(feature_size=11, chunk_length=1).save_pretrained(folder)
        return folder
    config = AutoConfig.for_model(model_type, **ENCODER, **ENCODERS[model_type], vocab_size=20)
    build(transformers.AutoModelForCTC._model_mapping[type(config)], config).save_pretrained(folder)
    transformers.Wav2Vec2FeatureExtractor(do_normalize=model_type != "hubert").save_pretrained(folder)
    return folder


def save_vision(model_type: str, folder: Path) -> Path:
    """Save a model with a vision tower in it, and its image processor."""
    torch.manual_seed(4)
    if model_type == "jovio":
        build(josie.JovioModel, josie.JovioConfig(**JOVIO)).save_pretrained(folder)
    elif model_type == "vit":
        transformers.ViTForImageClassification(transformers.ViTConfig(**TOWER)).save_pretrained(folder)
        transformers.ViTImageProcessorPil(size=SIZE, image_mean=[0.4] * 3, image_std=[0.3] * 3).save_pretrained(folder)
    elif model_type == "clip":
        config = transformers.CLIPConfig(vision_config=TOWER, text_config=WORDS)
        transformers.CLIPModel(config).save_pretrained(folder)
        processor = transformers.CLIPImageProcessorPil(size={"shortest_edge": 24}, crop_size=SIZE)
        processor.save_pretrained(folder)
    else:
        config = transformers.SiglipConfig(vision_config=TOWER, text_config=WORDS)
        transformers.SiglipModel(config).save_pretrained(folder)
        transformers.SiglipImageProcessorPil(size=SIZE).save_pretrained(folder)
    return folder


def save_codec(model_type: str, folder: Path) -> Path:
    """Save an audio codec."""
    torch.manual_seed(5)
    own = {"jodio": JODIO, "josie_mel_codec": MEL_CODEC}.get(model_type)
    config = AutoConfig.for_model(**own) if own else AutoConfig.for_model(model_type, **CODECS[model_type])
    transformers.AutoModel.from_config(config).eval().save_pretrained(folder)
    return folder
