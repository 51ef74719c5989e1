"""Assembly: a JOSIE of pretrained parts computes what its parts computed, on tiny random checkpoints of each family."""

import shutil

import numpy as np
import pytest
import torch
import transformers
from assembly_parts import FAMILIES, TOWER
from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer

import josie
from josie.configuration_josie import audio_codec_geometry
from josie.conversion.assemble.build import assemble
from josie.modeling_josie.codecs.adapters import encode_audio

pytestmark = pytest.mark.filterwarnings("ignore:`torch.nn.utils.weight_norm`:FutureWarning")

TALKER = dict(hidden_size=24, num_hidden_layers=1, num_attention_heads=2, head_dim=12, intermediate_size=30)
ASSISTANT = [
    {"role": "user", "content": "What is on the table?"},
    {"role": "assistant", "content": "A red ball."},
    {"role": "user", "content": "Where?"},
    {"role": "assistant", "content": " There. "},
]


def noise(*shape, seed=0):
    return np.random.default_rng(seed).normal(0, 0.1, shape).astype(np.float32)


def save_and_load(model, processor, path):
    model.save_pretrained(path)
    processor.save_pretrained(path)
    loaded = transformers.AutoModelForMultimodalLM.from_pretrained(path)
    return loaded, transformers.AutoProcessor.from_pretrained(path)


@pytest.mark.parametrize("family", list(FAMILIES))
class TestText:
    def test_logits_and_text_are_the_originals(self, parts, family, tmp_path):
        folder = parts("text", family)
        original = AutoModelForCausalLM.from_pretrained(folder).eval()
        tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
        tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
        model, processor = assemble(folder)
        texts = ["What is on the table?", "A ball"]
        batch = tokenizer(texts, return_tensors="pt", padding=True)
        num_tokens, mask = len(tokenizer), batch["attention_mask"].bool()
        expected = original(**batch).logits[..., :num_tokens]
        assert torch.equal(model(**batch).logits[..., :num_tokens][mask], expected[mask])
        # The processor gives the ids that the tokenizer gave, beginning of text or not.
        ours = processor(text=texts)
        assert ours["input_ids"][mask].tolist() == batch["input_ids"][mask].tolist()
        assert torch.equal(ours["attention_mask"], batch["attention_mask"])
        options = dict(max_new_tokens=9, do_sample=False, temperature=None, top_k=None, eos_token_id=[])
        written = original.generate(**batch, **options, pad_token_id=0)
        assert torch.equal(model.generate(**batch, **options), written)
        loaded, _ = save_and_load(model, processor, tmp_path)
        assert torch.equal(loaded(**batch).logits, model(**batch).logits)
        sampling = {name: getattr(loaded.generation_config, name) for name in ("do_sample", "temperature", "top_k")}
        assert sampling == dict(do_sample=True, temperature=0.7, top_k=5)

    def test_new_tokens_start_at_the_mean_and_the_end_of_a_turn_at_the_end_of_text(self, parts, family):
        original = AutoModelForCausalLM.from_pretrained(parts("text", family))
        known = len(AutoTokenizer.from_pretrained(parts("text", family)))
        model, processor = assemble(parts("text", family))
        tokenizer = processor.tokenizer
        assert [t for t in ("<|image|>", "<|video|>", "<|audio|>") if tokenizer.convert_tokens_to_ids(t) < known] == []
        rows = model.get_input_embeddings().weight.shape[0]
        assert rows == max(len(tokenizer), original.config.vocab_size) == model.config.get_text_config().vocab_size
        for ours, theirs in (
            (model.get_input_embeddings(), original.get_input_embeddings()),
            (model.get_output_embeddings(), original.get_output_embeddings()),
        ):
            assert torch.equal(ours.weight[:known], theirs.weight[:known])
            expected = theirs.weight[:known].mean(dim=0).repeat(len(tokenizer) - known, 1)
            if "<|end|>" in tokenizer.get_vocab():  # JOSIE's, of a model without a template: as the end of text
                expected[tokenizer.convert_tokens_to_ids("<|end|>") - known] = theirs.weight[tokenizer.eos_token_id]
            torch.testing.assert_close(ours.weight[known : len(tokenizer)], expected)
        tied = original.get_input_embeddings().weight is original.get_output_embeddings().weight
        assert (model.get_input_embeddings().weight is model.get_output_embeddings().weight) == tied
        assert tokenizer.pad_token_id not in (None, tokenizer.eos_token_id)

    def test_the_chat_template_is_kept_and_extended(self, parts, family):
        template, *_ = FAMILIES[family]
        _, processor = assemble(parts("text", family))
        before = AutoTokenizer.from_pretrained(parts("text", family))
        before.chat_template = template or josie.load_default_tokenizer().chat_template
        for turns in (ASSISTANT[:1], ASSISTANT[:3], ASSISTANT):
            for prompt in (False, True):
                expected = before.apply_chat_template(turns, tokenize=False, add_generation_prompt=prompt)
                assert processor.apply_chat_template(turns, add_generation_prompt=prompt) == expected
        content = [{"type": "image"}, {"type": "text", "text": "Look: "}, {"type": "audio"}]
        shown = processor.apply_chat_template([{"role": "user", "content": content}])
        flat = [{"role": "user", "content": "<|image|>Look: <|audio|>"}]
        assert shown == before.apply_chat_template(flat, tokenize=False)
        wrong = [{"role": "user", "content": [{"type": "smell"}]}]
        with pytest.raises(Exception, match="must be 'text', 'image', 'video' or 'audio', got smell"):
            processor.apply_chat_template(wrong)

    def test_assistant_masks_are_the_answers_to_their_end(self, parts, family):
        _, processor = assemble(parts("text", family))
        batch = processor.apply_chat_template(
            ASSISTANT, tokenize=True, return_dict=True, return_assistant_tokens_mask=True
        )
        ids, mask = batch["input_ids"], batch["assistant_masks"].bool()
        end = {"llama": "</s>", "gpt2": "<|end|>"}.get(family, "<|im_end|>")
        last = "There." if family in ("llama", "gemma3_text") else " There. "
        assert processor.tokenizer.decode(ids[mask]) == f"A red ball.{end}{last}{end}"


@pytest.mark.parametrize("family", ["whisper", "wav2vec2", "hubert", "wavlm"])
def test_audio_features_are_the_encoders(parts, family, tmp_path):
    folder = parts("audio", family)
    model, processor = assemble(parts("text", "llama"), audio=folder)
    original = AutoModel.from_pretrained(folder).eval()
    extractor = transformers.AutoFeatureExtractor.from_pretrained(folder)
    clips = [noise(9100), 0.01 * noise(7600, seed=1)]  # normalisation shows its small number in quiet clips
    batch = processor(text=["Hear <|audio|> this.", "<|audio|>"], audio=clips, sampling_rate=16000)
    if family == "whisper":
        features = extractor(clips, sampling_rate=16000, return_tensors="pt")["input_features"]
        assert torch.equal(batch["input_features"], features)
        encoded = original.get_encoder()(features).last_hidden_state
        expected = [row[: -(-len(clip) // 320)] for row, clip in zip(encoded, clips, strict=True)]  # what is real
    else:
        expected = [
            original(torch.from_numpy(extractor(clip, sampling_rate=16000)["input_values"][0])[None]).last_hidden_state[
                0
            ]
            for clip in clips
        ]
        for clip, values, mask in zip(clips, batch["input_values"], batch["padding_mask"], strict=True):
            theirs = torch.from_numpy(extractor(clip, sampling_rate=16000)["input_values"][0])
            torch.testing.assert_close(values[0, : mask.sum()], theirs, rtol=1e-5, atol=1e-5)
    front_end = model.thinker.model.audio_front_end
    inputs = {name: value for name, value in batch.items() if name not in ("input_ids", "attention_mask")}
    rows, counts, _ = front_end(**inputs)
    assert (
        counts.tolist()
        == [len(row) for row in expected]
        == (batch["input_ids"] == model.config.thinker_config.audio_token_id).sum(1).tolist()
    )
    torch.testing.assert_close(rows, front_end.projector(torch.cat(expected)), rtol=1e-4, atol=1e-5)
    for name, value in original.state_dict().items():
        name = name.removeprefix("encoder.") if family == "whisper" else name
        if family != "whisper" or name in front_end.encoder.state_dict():
            assert torch.equal(front_end.encoder.state_dict()[name], value), name
    loaded, again = save_and_load(model, processor, tmp_path)
    batch = again(text=["Hear <|audio|> this.", "<|audio|>"], audio=clips, sampling_rate=16000)
    assert torch.equal(loaded(**batch).logits, model(**batch).logits)


@pytest.mark.parametrize(("family", "mean"), [("dinov2_with_registers", 0.485), ("ijepa", None)])
def test_a_tower_without_an_image_processor_is_normalised_as_known_or_warned_of(parts, family, mean, tmp_path, caplog):
    config = transformers.AutoConfig.for_model(family, **TOWER)
    AutoModel.from_config(config).save_pretrained(tmp_path)
    with caplog.at_level("WARNING"):
        _, processor = assemble(parts("text", "qwen3"), vision=tmp_path)
    warning = next(record.message for record in caplog.records if "no image processor" in record.message)
    assert processor.image_processor.do_normalize == processor.video_processor.do_normalize == (mean is not None)
    if mean is None:
        assert "pixels are not normalised, as nothing says how" in warning
    else:
        assert "the usual settings of its model type are used" in warning
        assert processor.image_processor.image_mean[0] == mean


@pytest.mark.parametrize("family", ["siglip", "clip", "vit"])
def test_image_features_are_the_towers(parts, family, tmp_path):
    folder = parts("vision", family)
    model, processor = assemble(parts("text", "qwen3"), vision=folder)
    image = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    batch = processor(text="<|image|> and <|image|>", images=[image, 255 - image])
    theirs = transformers.AutoImageProcessor.from_pretrained(folder, backend="pil")
    pixels = theirs([image, 255 - image], return_tensors="pt")["pixel_values"]
    step = 1 / 255 / min(theirs.image_std)  # theirs are rounded to bytes after each of two passes
    assert (batch["pixel_values"] - pixels).abs().max() / step <= 3
    original = AutoModel.from_pretrained(folder).eval()
    tower = getattr(original, "vision_model", original)
    features = tower(pixel_values=batch["pixel_values"]).last_hidden_state[:, -9:]
    front_end = model.thinker.model.vision_front_end
    assert torch.equal(front_end("image", batch["pixel_values"]).rows, front_end.projector(features).flatten(0, 1))
    assert (batch["input_ids"] == model.config.thinker_config.image_token_id).sum() == 18
    loaded, again = save_and_load(model, processor, tmp_path)
    reread = again(text="<|image|> and <|image|>", images=[image, 255 - image])
    assert torch.equal(reread["pixel_values"], batch["pixel_values"])
    assert torch.equal(loaded(**reread).logits, model(**batch).logits)


@pytest.mark.parametrize("family", ["mimi", "dac", "encodec", "jodio", "josie_mel_codec"])
def test_codes_are_the_codecs_and_it_speaks(parts, family, tmp_path):
    folder = parts("codec", family)
    model, processor = assemble(parts("text", "gpt2"), codec=folder, talker=TALKER)
    original = AutoModel.from_pretrained(folder).eval()
    waveform = torch.from_numpy(noise(2, 1, 960))
    assert torch.equal(encode_audio(model.audio_codec, waveform)[0], encode_audio(original, waveform)[0])
    geometry = audio_codec_geometry(original.config)
    talker = model.config.talker_config
    assert (talker.num_quantizers, talker.codebook_size) == (geometry.num_quantizers, geometry.codebook_size)
    inputs = processor(text=["What is on the table?", "A ball"])
    frames = dict(talker_max_new_frames=4, talker_min_new_frames=4)
    options = dict(generation_mode="audio", max_new_tokens=5, do_sample=False, **frames)
    spoken = model.generate(**inputs, **options)
    assert spoken.audio_codes.shape == (2, talker.num_quantizers, 4)
    assert torch.isfinite(spoken.audio_values).all()
    loaded, _ = save_and_load(model, processor, tmp_path)
    again = loaded.generate(**inputs, **options)
    assert torch.equal(again.audio_codes, spoken.audio_codes)
    assert torch.equal(again.audio_values, spoken.audio_values)


@pytest.mark.parametrize("codec", ["mimi", "jodio"])
def test_codecs_at_both_ends(parts, codec, tmp_path):
    folder = parts("codec", codec)
    model, processor = assemble(parts("text", "llama"), folder, parts("vision", "jovio"), folder, talker=TALKER)
    assert model.input_modalities == ("text", "image", "video", "audio")
    assert model.output_modalities == ("text", "audio")
    content = [
        {"type": "image", "image": np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)},
        {"type": "audio", "audio": noise(480), "sampling_rate": 1600},
        {"type": "text", "text": "Well?"},
    ]
    batch = processor.apply_chat_template(
        [{"role": "user", "content": content}], tokenize=True, return_dict=True, add_generation_prompt=True
    )
    thinker = model.config.thinker_config
    assert (batch["input_ids"] == thinker.audio_token_id).sum() == thinker.get_num_audio_tokens(480)
    spoken = model.generate(**batch, generation_mode="audio", max_new_tokens=3, talker_max_new_frames=3)
    assert torch.isfinite(spoken.audio_values).all()
    loaded, _ = save_and_load(model, processor, tmp_path)
    assert torch.equal(loaded(**batch).logits, model(**batch).logits)


def test_every_part_trains(parts):
    model, processor = assemble(
        parts("text", "qwen3"), parts("audio", "whisper"), parts("vision", "siglip"), parts("codec", "mimi"), TALKER
    )
    image = np.zeros((30, 30, 3), dtype=np.uint8)
    batch = processor(text="<|image|><|audio|> A red ball.", images=[image], audio=[noise(800)], sampling_rate=16000)
    model.train()
    codes = torch.randint(0, 16, (1, 3, 5))
    model(**batch, labels=batch["input_ids"], speech_codes=codes).loss.backward()
    wanting = [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert wanting == []
    assert not any(p.requires_grad for p in model.audio_codec.parameters())


def test_dtypes(parts, tmp_path):
    folder = shutil.copytree(parts("text", "llama"), tmp_path / "text")
    AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).save_pretrained(folder)
    others = dict(audio=parts("audio", "whisper"), codec=parts("codec", "mimi"), talker=TALKER)
    for dtype in (None, torch.float32):
        model, processor = assemble(folder, **others, dtype=dtype)
        wanted = dtype or torch.bfloat16
        loaded, _ = save_and_load(model, processor, tmp_path / str(dtype))
        for found in (model, loaded):
            assert {p.dtype for name, p in found.named_parameters() if not name.startswith("audio_codec.")} == {wanted}
            assert {p.dtype for p in found.audio_codec.parameters()} == {torch.float32}  # whatever the others are in
        assert {n: b.dtype for n, b in model.named_buffers()} == {n: b.dtype for n, b in loaded.named_buffers()}
        inputs = processor(text="A ball <|audio|>", audio=[noise(800)], sampling_rate=16000)
        assert torch.equal(loaded(**inputs).logits, model(**inputs).logits)


def test_the_text_half_of_a_multimodal_model(parts, tmp_path):
    _, _, _, sizes = FAMILIES["gemma3_text"]
    text = transformers.Gemma3TextConfig(**sizes, pad_token_id=4, bos_token_id=0, eos_token_id=1)
    tower = transformers.SiglipVisionConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2)
    config = transformers.Gemma3Config(text_config=text, vision_config=tower, image_token_index=5)
    original = transformers.Gemma3ForConditionalGeneration(config).eval()
    original.save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(parts("text", "gemma3_text")).save_pretrained(tmp_path)
    model, _ = assemble(tmp_path)
    assert type(model.thinker.model.language_model).__name__ == "Gemma3TextModel"
    ids = torch.randint(6, 280, (2, 7))
    assert torch.equal(model(ids).logits[..., :285], original(ids).logits[..., :285])


def test_tokens_beyond_the_embedding_get_rows(parts, tmp_path):
    folder = shutil.copytree(parts("text", "llama"), tmp_path / "text")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    rows = AutoModelForCausalLM.from_pretrained(folder).config.vocab_size
    tokenizer.add_tokens([f"<spare-{index}>" for index in range(rows + 2 - len(tokenizer))])
    tokenizer.save_pretrained(folder)
    model, processor = assemble(folder)
    assert model.get_input_embeddings().weight.shape[0] == len(processor.tokenizer)
    assert processor.tokenizer.convert_tokens_to_ids("<|audio|>") > rows + 1
