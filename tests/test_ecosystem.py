"""JOSIE among transformers' things: pipelines, text backbones and codecs of other families."""

import importlib.util

import numpy as np
import pytest
import torch
from tiny import AUDIO_ENCODER, CASES, MEL_CODEC, PLACEHOLDERS, TALKER, TEXT, VISION_ENCODER, build, josie_inputs
from transformers import AutoConfig, AutoModelForCausalLM, Trainer, TrainerCallback, TrainingArguments, pipeline

import josie
from josie.configuration_josie import audio_codec_geometry

SMALL = dict(vocab_size=300, hidden_size=32, num_hidden_layers=2, intermediate_size=40, max_position_embeddings=128)
HEADS = dict(num_attention_heads=4, num_key_value_heads=2, head_dim=8)
BACKBONES = {
    "llama": SMALL | HEADS,
    "qwen3": SMALL | HEADS,
    "gemma3_text": SMALL | HEADS | dict(sliding_window=4, layer_types=["sliding_attention", "full_attention"]),
    "gpt2": dict(vocab_size=300, n_embd=32, n_layer=2, n_head=4, n_positions=128),
}
# Families with masks of their own for static caches.
OWN_MASKS = {
    "bloom": dict(vocab_size=300, hidden_size=32, n_layer=2, n_head=4),
    "falcon_h1": SMALL
    | HEADS
    | dict(mamba_d_ssm=32, mamba_n_heads=4, mamba_d_head=8, mamba_d_state=4, mamba_chunk_size=8, mamba_n_groups=1),
}


@pytest.mark.parametrize("family", OWN_MASKS)
def test_a_static_cache_has_the_masks_of_its_family(family):
    text = OWN_MASKS[family] | dict(model_type=family, max_position_embeddings=128, pad_token_id=0)
    model = build(josie.JosieThinkerForConditionalGeneration, josie.JosieThinkerConfig(text_config=text))
    ids = torch.randint(5, 290, (2, 9), generator=torch.Generator().manual_seed(0))
    ids[1, :4] = 0
    options = dict(
        max_new_tokens=4, min_new_tokens=4, do_sample=False, output_logits=True, return_dict_in_generate=True
    )
    expected = model.generate(ids, attention_mask=ids > 0, **options)
    found = model.generate(ids, attention_mask=ids > 0, cache_implementation="static", **options)
    torch.testing.assert_close(found.logits, expected.logits, atol=1e-4, rtol=1e-4)
    assert torch.equal(found.sequences, expected.sequences)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Return a saved tiny JOSIE that hears, sees and speaks, with its processor."""
    path = tmp_path_factory.mktemp("checkpoint")
    tokenizer = josie.load_default_tokenizer(vocab_size=400)
    text = TEXT | dict(vocab_size=400, max_position_embeddings=256)
    config = josie.JosieConfig(
        thinker_config=dict(text_config=text, audio_config=AUDIO_ENCODER, vision_config=VISION_ENCODER, **PLACEHOLDERS),
        talker_config=dict(TALKER, speakers=[]),
        audio_codec_config=MEL_CODEC,
    )
    build(josie.JosieForConditionalGeneration, config).save_pretrained(path)
    josie.JosieProcessor.from_config(config, tokenizer).save_pretrained(path)
    return path


@pytest.mark.skipif(
    importlib.util.find_spec("torchvision") is None, reason="transformers' pipeline demands torchvision for images"
)
class TestPipeline:
    MESSAGES = [
        {
            "role": "user",
            "content": [
                {"type": "image", "path": "tests/data/picture.png"},
                {"type": "audio", "path": "tests/data/speech.wav"},
                {"type": "text", "text": "What is this?"},
            ],
        }
    ]

    @pytest.fixture
    def pipe(self, folder, pytestconfig, monkeypatch):
        monkeypatch.chdir(pytestconfig.rootpath)
        return pipeline("any-to-any", model=str(folder), device="cpu")

    def test_gives_text(self, pipe):
        result = pipe(text=self.MESSAGES, max_new_tokens=5, return_full_text=False)
        assert isinstance(result[0]["generated_text"], str)
        chat = pipe(text=self.MESSAGES, max_new_tokens=5)[0]["generated_text"]
        assert [message["role"] for message in chat] == ["user", "assistant"]

    def test_gives_audio(self, pipe):
        options = dict(talker_max_new_frames=6, talker_min_new_frames=6)
        result = pipe(text=self.MESSAGES, max_new_tokens=5, generation_mode="audio", generate_kwargs=options)
        waveform = result[0]["generated_audio"]
        assert isinstance(waveform, np.ndarray)
        assert waveform.shape == (6 * 48,)
        assert np.isfinite(waveform).all()

    def test_plain_text(self, pipe):
        result = pipe(text="Hello", max_new_tokens=4)
        assert result[0]["generated_text"].startswith("Hello")


@pytest.mark.parametrize("model_type", list(BACKBONES))
class TestTextBackbones:
    def make(self, model_type):
        text = AutoConfig.for_model(model_type, **BACKBONES[model_type], pad_token_id=0, bos_token_id=1, eos_token_id=2)
        original = AutoModelForCausalLM.from_config(text).eval()
        config = josie.JosieThinkerConfig(text_config=text, audio_config=AUDIO_ENCODER, audio_token_id=8)
        thinker = josie.JosieThinkerForConditionalGeneration(config).eval()
        thinker.model.language_model.load_state_dict(original.base_model.state_dict())
        thinker.lm_head.load_state_dict(original.get_output_embeddings().state_dict())
        return original, thinker

    def test_logits_and_text_are_the_originals(self, model_type):
        original, thinker = self.make(model_type)
        ids = torch.randint(10, 300, (2, 7))
        mask = torch.ones_like(ids)
        mask[0, :3] = 0
        inputs = dict(input_ids=ids, attention_mask=mask, position_ids=(mask.cumsum(1) - 1).clamp(min=0))
        expected, actual = original(**inputs).logits, thinker(**inputs).logits
        torch.testing.assert_close(actual[mask.bool()], expected[mask.bool()], rtol=1e-4, atol=1e-5)
        prompt = dict(input_ids=ids, attention_mask=mask, max_new_tokens=8, do_sample=False)
        assert torch.equal(thinker.generate(**prompt), original.generate(**prompt))

    def test_it_hears_trains_and_loads(self, model_type, tmp_path):
        _, thinker = self.make(model_type)
        ids = torch.tensor([[1, 8, 8, 8, 20, 21, 22]])
        inputs = dict(input_ids=ids, input_features=torch.rand(1, 9, 11))
        thinker.train()
        thinker(**inputs, labels=ids).loss.backward()
        missing = [name for name, p in thinker.named_parameters() if p.requires_grad and p.grad is None]
        assert missing == []
        thinker.eval()
        thinker.save_pretrained(tmp_path)
        loaded = type(thinker).from_pretrained(tmp_path)
        torch.testing.assert_close(loaded(**inputs).logits, thinker(**inputs).logits, rtol=0, atol=0)


@pytest.mark.parametrize("model_type", ["josie_text", "llama", "gpt2"])
def test_tied_embeddings_stay_tied(model_type, tmp_path):
    sizes = TEXT if model_type == "josie_text" else BACKBONES[model_type] | dict(model_type=model_type)
    thinker = dict(text_config=sizes | dict(tie_word_embeddings=True))
    model = josie.JosieForConditionalGeneration(josie.JosieConfig(thinker_config=thinker))
    assert model.thinker.lm_head.weight is model.get_input_embeddings().weight
    model.save_pretrained(tmp_path)
    loaded = type(model).from_pretrained(tmp_path)
    assert loaded.thinker.lm_head.weight is loaded.get_input_embeddings().weight
    assert torch.equal(loaded.get_input_embeddings().weight, model.get_input_embeddings().weight)


CODECS = {
    "mimi": dict(
        hidden_size=16,
        num_filters=4,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        intermediate_size=20,
        codebook_size=16,
        codebook_dim=8,
        vector_quantization_hidden_dimension=8,
        num_quantizers=3,
        upsampling_ratios=[4, 4],
        upsample_groups=16,
        sampling_rate=1600,
        frame_rate=50.0,
    ),
    "dac": dict(
        encoder_hidden_size=4,
        downsampling_ratios=[4, 4],
        decoder_hidden_size=16,
        upsampling_ratios=[4, 4],
        n_codebooks=3,
        codebook_size=16,
        codebook_dim=4,
        sampling_rate=1600,
    ),
    "encodec": dict(
        target_bandwidths=[1.2],
        sampling_rate=1600,
        num_filters=4,
        hidden_size=8,
        num_lstm_layers=1,
        upsampling_ratios=[4, 2],
        codebook_size=16,
        normalize=False,
        chunk_length_s=None,
    ),
}


@pytest.mark.filterwarnings("ignore:`torch.nn.utils.weight_norm`:FutureWarning")
@pytest.mark.parametrize("model_type", list(CODECS))
def test_other_audio_tokenizers_speak_and_hear(model_type):
    codec = AutoConfig.for_model(model_type, **CODECS[model_type])
    geometry = audio_codec_geometry(codec)
    config = josie.JosieConfig(
        thinker_config=dict(text_config=TEXT, audio_config=codec, audio_token_id=8),
        talker_config=dict(
            TALKER, num_quantizers=geometry.num_quantizers, codebook_size=geometry.codebook_size, speakers=[]
        ),
    )
    model = josie.JosieForConditionalGeneration(config).eval()
    samples = 5 * geometry.hop_length
    frames = config.thinker_config.get_num_audio_tokens(samples)
    prompt = torch.tensor([[1] + [8] * frames + [20, 21]])
    inputs = dict(input_ids=prompt, input_values=torch.randn(1, 1, samples), padding_mask=torch.ones(1, samples))
    spoken = model.generate(
        **inputs, generation_mode="audio", max_new_tokens=4, talker_max_new_frames=7, talker_min_new_frames=7
    )
    assert spoken.audio_codes.shape == (1, geometry.num_quantizers, 7)
    assert spoken.sampling_rate == 1600
    assert 0 < spoken.audio_lengths.item() <= 7 * geometry.hop_length
    assert torch.isfinite(spoken.audio_values).all()


ENCODERS = {
    "wav2vec2": dict(feat_extract_norm="group", mask_time_prob=0.0),
    "hubert": dict(feat_extract_norm="layer", mask_time_prob=0.0),
    "wavlm": dict(feat_extract_norm="layer", mask_time_prob=0.0),
}
ENCODER = dict(
    hidden_size=16,
    num_hidden_layers=1,
    num_attention_heads=2,
    intermediate_size=20,
    conv_dim=[8, 8, 8],
    conv_kernel=[10, 8, 4],
    conv_stride=[5, 8, 8],
    num_feat_extract_layers=3,
    num_conv_pos_embeddings=4,
    num_conv_pos_embedding_groups=2,
    layerdrop=0.0,
)


@pytest.mark.parametrize("model_type", list(ENCODERS))
def test_encoders_of_waveforms_hear(model_type, tmp_path):
    audio = AutoConfig.for_model(model_type, **ENCODER, **ENCODERS[model_type])
    thinker = dict(text_config=TEXT | dict(vocab_size=400), audio_config=audio, audio_token_id=8)
    config = josie.JosieConfig(thinker_config=thinker)
    model = josie.JosieForConditionalGeneration(config).eval()
    processor = josie.JosieProcessor.from_config(config, josie.load_default_tokenizer(vocab_size=400))
    clips = [np.random.default_rng(0).normal(size=length).astype(np.float32) * 0.1 for length in (4100, 2600)]
    together = processor(text=["Hi", "Hi"], audio=clips, sampling_rate=16000)
    assert (together["input_ids"] == 8).sum(dim=1).tolist() == [
        config.thinker_config.get_num_audio_tokens(len(clip)) for clip in clips
    ]
    front_end = model.thinker.model.audio_front_end
    rows, counts, _ = front_end(input_values=together["input_values"], padding_mask=together["padding_mask"])
    for clip, features in zip(clips, rows.split(counts.tolist()), strict=True):
        values = torch.from_numpy((clip - clip.mean()) / (clip.std() + 1e-7))[None]
        expected = front_end.projector(front_end.encoder(values).last_hidden_state[0])
        torch.testing.assert_close(features, expected, rtol=1e-4, atol=1e-5)
    assert model.generate(**together, max_new_tokens=3).shape[0] == 2
    model.save_pretrained(tmp_path)
    loaded = type(model).from_pretrained(tmp_path)
    loaded.train()
    loaded(**together, labels=together["input_ids"]).loss.backward()
    assert [name for name, p in loaded.named_parameters() if p.requires_grad and p.grad is None] == []
    with pytest.raises(ValueError, match="must be long enough for a feature of"):
        processor(text="Hi", audio=clips[0][:100], sampling_rate=16000)


class KeepGradients(TrainerCallback):
    """Keeps what the optimizer gets."""

    def __init__(self):
        self.gradients: dict[str, torch.Tensor] = {}

    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
        """Copy the gradients."""
        parameters = dict(model.named_parameters())
        self.gradients = {name: p.grad.clone() for name, p in parameters.items() if p.grad is not None}


def test_accumulated_gradients_are_those_of_the_batch(tmp_path):
    torch.manual_seed(0)
    ids, codes = torch.randint(10, 53, (4, 9)), torch.randint(0, 11, (4, 3, 6))
    examples = [{"input_ids": row, "labels": row, "speech_codes": code} for row, code in zip(ids, codes, strict=True)]

    def collect(batch_size: int) -> dict[str, torch.Tensor]:
        arguments = TrainingArguments(
            output_dir=str(tmp_path),
            max_steps=1,
            per_device_train_batch_size=batch_size,
            gradient_accumulation_steps=4 // batch_size,
            max_grad_norm=0.0,
            report_to=[],
            save_strategy="no",
            use_cpu=True,
            remove_unused_columns=False,
            disable_tqdm=True,
            dataloader_pin_memory=False,
        )
        kept = KeepGradients()
        model = CASES["josie"].build()
        collate = lambda rows: {name: torch.stack([row[name] for row in rows]) for name in rows[0]}  # noqa: E731
        Trainer(model, arguments, train_dataset=examples, data_collator=collate, callbacks=[kept]).train()
        return kept.gradients

    whole, parts = collect(4), collect(2)
    for name in ("thinker.lm_head.weight", "talker.head.weight", "talker.depth_decoder.input_projection.weight"):
        torch.testing.assert_close(parts[name], whole[name], rtol=1e-3, atol=1e-5)


def test_a_larger_vocabulary_is_saved_and_loads(tmp_path):
    model = CASES["josie"].build()
    model.resize_token_embeddings(61, mean_resizing=False)
    model.save_pretrained(tmp_path)
    loaded = josie.JosieForConditionalGeneration.from_pretrained(tmp_path)
    assert loaded.config.get_text_config().vocab_size == 61
    assert loaded(torch.tensor([[20, 60]])).logits.shape == (1, 2, 61)


@pytest.mark.slow
def test_reading_images_and_clips_compiles_into_one_graph():
    model = CASES["josie"].build().thinker
    inputs = josie_inputs()
    inputs = {name: inputs[name] for name in inputs.keys() & {"input_ids", "attention_mask", "pixel_values"}}
    inputs["input_ids"] = inputs["input_ids"].masked_fill(inputs["input_ids"] == 8, 20)  # an image and text only
    compiled = torch.compile(lambda **given: model(**given).logits, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(**inputs), model(**inputs).logits)
