"""The text part of an assembly: GGUF files, contexts, prompts that begin alike, and what a reload has to give."""

import pytest
import torch
import transformers
from assembly_parts import FAMILIES, train_backbone_tokenizer
from transformers import AutoModelForMultimodalLM

import josie
from josie import JosieDataCollator, assemble
from josie.conversion.assemble import build, text as text_parts

TURNS = [{"role": "user", "content": "What is on the table?"}, {"role": "assistant", "content": "A ball."}]
SMALL = dict(vocab_size=300, hidden_size=32, num_hidden_layers=2)


def save(folder, model, **tokenizer):
    """Save a language model with a tokenizer."""
    model.save_pretrained(folder)
    train_backbone_tokenizer(**dict(template=None, has_bos=True, has_pad=True) | tokenizer).save_pretrained(folder)
    return folder


class TestGguf:
    @pytest.fixture
    def file(self, tmp_path):
        pytest.importorskip("gguf")
        from gguf_files import write_gguf

        (tmp_path / "gguf").mkdir()
        return tmp_path / "gguf" / "tiny.gguf", write_gguf(tmp_path / "gguf" / "tiny.gguf")

    def test_logits_are_the_files(self, file, tmp_path):
        path, original = file
        ids = torch.randint(5, 280, (2, 7))
        for given in (dict(text=path), dict(text=path.parent, gguf_file=path.name)):
            model, processor = assemble(**given)
            assert torch.equal(model(ids).logits[..., :290], original(ids).logits[..., :290])
            assert processor.apply_chat_template(TURNS[:1]) == "<|im_start|>user\nWhat is on the table?<|im_end|>\n"
        model.save_pretrained(tmp_path / "new")
        assert torch.equal(AutoModelForMultimodalLM.from_pretrained(tmp_path / "new")(ids).logits, model(ids).logits)

    def test_a_file_that_is_not_there(self, file):
        path, _ = file
        with pytest.raises(ValueError, match="`text` must be a folder, or a name on the Hub, with the configuration"):
            assemble(path.parent, gguf_file="other.gguf")

    def test_the_package_is_asked_for(self, tmp_path, monkeypatch):
        monkeypatch.setattr(text_parts, "is_gguf_available", lambda: False)
        with pytest.raises(ImportError, match=r"GGUF files need the package gguf: `pip install josie\[gguf\]`"):
            assemble(tmp_path, gguf_file="x.gguf")


class TestContext:
    def bloom(self, folder):
        config = transformers.BloomConfig(vocab_size=300, hidden_size=32, n_layer=2, n_head=4)
        return save(folder, transformers.BloomForCausalLM(config))

    def test_it_is_asked_for_kept_and_obeyed(self, tmp_path):
        folder = self.bloom(tmp_path / "text")
        with pytest.raises(ValueError, match="`context` must be the longest sequence .* 'bloom' knows none, got None."):
            assemble(folder)
        model, _ = assemble(folder, context=40)
        model.save_pretrained(tmp_path / "new")
        loaded = AutoModelForMultimodalLM.from_pretrained(tmp_path / "new")
        assert loaded.config.thinker_config.max_position_embeddings == 40
        with pytest.raises(ValueError, match="at most 40 positions"):
            loaded(torch.full((1, 41), 7))

    def test_a_model_that_knows_it_keeps_it(self, parts, tmp_path):
        with pytest.raises(ValueError, match=r"`context` must be None for .*, which knows .* \(128\), got 40."):
            assemble(parts("text", "llama"), context=40)
        with pytest.raises(ValueError, match="`context` must be at least 1, got 0."):
            assemble(self.bloom(tmp_path), context=0)


@pytest.mark.parametrize("family", ["llama", "qwen3", "gemma3_text", "gpt2", "base"])
def test_every_way_gives_the_same_prompt(family, parts, tmp_path):
    """Also for a base model whose tokenizer begins texts, and which has no template that does."""
    folder = parts("text", "llama" if family == "base" else family)
    if family == "base":
        model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**FAMILIES["llama"][3]))
        folder = save(tmp_path / "base", model)
    _, processor = assemble(folder)
    tokenizer = processor.tokenizer
    ways = {
        "processor": processor.apply_chat_template(TURNS, tokenize=True, return_dict=True)["input_ids"][0].tolist(),
        "tokenizer": tokenizer.apply_chat_template(TURNS, tokenize=True, return_dict=True)["input_ids"],
        "text": tokenizer(processor.apply_chat_template(TURNS), add_special_tokens=False)["input_ids"],
        "collator": JosieDataCollator(processor)([{"messages": TURNS}])["input_ids"][0].tolist(),
    }
    assert len({tuple(ids) for ids in ways.values()}) == 1, ways
    begins = tokenizer("")["input_ids"][:1]
    assert ways["processor"][: len(begins)] == begins
    assert ways["processor"].count(tokenizer.bos_token_id) == len(begins)


class TestReload:
    def test_buffers_that_are_not_saved_are_made_again(self, tmp_path):
        """Falcon-H1 makes those of its layers in the initialisation of the whole model."""
        sizes = dict(intermediate_size=48, num_attention_heads=4, num_key_value_heads=2, head_dim=8)
        mamba = dict(mamba_d_ssm=64, mamba_n_heads=4, mamba_d_head=16, mamba_d_state=8, mamba_chunk_size=8)
        config = transformers.FalconH1Config(**SMALL, **sizes, **mamba, max_position_embeddings=128)
        model, _ = assemble(save(tmp_path / "text", transformers.FalconH1ForCausalLM(config)))
        model.save_pretrained(tmp_path / "new")
        loaded = AutoModelForMultimodalLM.from_pretrained(tmp_path / "new")
        buffers = dict(loaded.named_buffers())
        assert any(name.endswith("mup_vector") for name in buffers)
        for name, buffer in model.named_buffers():
            assert torch.equal(buffers[name], buffer), name
        ids = torch.randint(5, 260, (2, 7))
        assert torch.equal(loaded(ids).logits, model(ids).logits)

    def test_a_difference_is_found(self, parts, monkeypatch):
        """Here a buffer is another one in the assembled model than in what a folder would give."""
        put_together = build._put_together

        def spoil(config, found):
            model = put_together(config, found)
            model.thinker.model.language_model.rotary_emb.inv_freq *= 1.5
            return model

        monkeypatch.setattr(build, "_put_together", spoil)
        with pytest.raises(ValueError, match="must be the same after it was saved .*, got another `.*inv_freq`"):
            assemble(parts("text", "llama"))


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_a_family_that_does_not_go_on_from_a_cache_is_refused(tmp_path):
    config = transformers.OpenAIGPTConfig(vocab_size=300, n_embd=32, n_layer=2, n_head=4, n_positions=128)
    folder = save(tmp_path, transformers.OpenAIGPTLMHeadModel(config))
    with pytest.raises(ValueError, match="`text` must be a language model that returns a cache to go on from, got "):
        assemble(folder)


def test_codecs_stay_in_float32(parts, tmp_path):
    model, processor = assemble(parts("text", "llama"), codec=parts("codec", "mimi"), dtype=torch.bfloat16)
    model.save_pretrained(tmp_path)
    loaded = josie.JosieForConditionalGeneration.from_pretrained(tmp_path, dtype=torch.float16)
    for found, dtype in ((model, torch.bfloat16), (loaded, torch.float16)):
        assert {parameter.dtype for parameter in found.audio_codec.parameters()} == {torch.float32}
        assert {parameter.dtype for parameter in found.talker.parameters()} == {dtype}
    inputs = processor(text=["A ball"])
    options = dict(generation_mode="audio", max_new_tokens=2, talker_max_new_frames=3, talker_min_new_frames=3)
    assert torch.isfinite(model.generate(**inputs, **options).audio_values).all()
