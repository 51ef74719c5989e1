"""Parts of a checkpoint: loaded by their own classes, in the dtype that is asked for, with all their buffers."""

import copy

import pytest
import torch
from huggingface_hub.errors import StrictDataclassFieldValidationError
from tiny import AUDIO_ENCODER, CASES, PLACEHOLDERS, THINKER, build, josie_inputs, text_inputs, thinker_inputs
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoModelForMultimodalLM,
    Trainer,
    TrainingArguments,
)

import josie

SIZES = dict(
    vocab_size=60, hidden_size=32, num_hidden_layers=2, intermediate_size=40, num_attention_heads=4,
    num_key_value_heads=2, head_dim=8, max_position_embeddings=64, pad_token_id=0, bos_token_id=1, eos_token_id=2,
)  # fmt: skip
FAMILIES = {
    "llama": {},
    "gemma2": dict(query_pre_attn_scalar=8, final_logit_softcapping=0.3),
    "gemma3_text": {},
    "granite": dict(logits_scaling=7.0, embedding_multiplier=3.0, residual_multiplier=0.3, attention_multiplier=0.2),
    "cohere": dict(logit_scale=0.07),
    "falcon_h1": dict(
        mamba_d_ssm=32, mamba_n_heads=4, mamba_d_head=8, mamba_d_state=8, mamba_n_groups=1, mamba_chunk_size=8,
        ssm_multipliers=[0.5, 0.6, 0.7, 0.8, 0.9], lm_head_multiplier=0.3,
    ),
}  # fmt: skip


def text_config(family: str):
    return AutoConfig.for_model(family, **SIZES | FAMILIES[family])


def family_thinker(family: str) -> josie.JosieThinkerForConditionalGeneration:
    config = josie.JosieThinkerConfig(text_config=text_config(family), audio_config=AUDIO_ENCODER, audio_token_id=8)
    return build(josie.JosieThinkerForConditionalGeneration, config)


@pytest.mark.parametrize("family", list(FAMILIES))
def test_scales_and_caps_of_a_family_are_kept(family):
    torch.manual_seed(0)
    original = AutoModelForCausalLM.from_config(text_config(family)).eval()
    thinker = family_thinker(family)
    thinker.model.language_model.load_state_dict(original.base_model.state_dict())
    thinker.lm_head.load_state_dict(original.get_output_embeddings().state_dict())
    ids = torch.randint(10, 60, (2, 7))
    with torch.no_grad():
        torch.testing.assert_close(thinker(ids).logits, original(ids).logits, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("family", list(FAMILIES))
def test_saved_families_load_with_all_their_buffers(family, tmp_path):
    model = family_thinker(family)
    model.save_pretrained(tmp_path)
    loaded = type(model).from_pretrained(tmp_path)
    for (name, ours), (_, theirs) in zip(model.named_buffers(), loaded.named_buffers(), strict=True):
        assert torch.equal(ours, theirs), name
    ids = torch.randint(10, 60, (2, 7))
    with torch.no_grad():
        assert torch.equal(loaded(ids).logits, model(ids).logits)


@pytest.mark.parametrize("saved", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("asked", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_a_dtype_reaches_every_part_but_the_codecs(saved, asked, tmp_path):
    encoder = dict(
        model_type="whisper", d_model=16, encoder_layers=1, encoder_attention_heads=2, encoder_ffn_dim=24,
        decoder_layers=1, decoder_attention_heads=2, decoder_ffn_dim=24, num_mel_bins=9, max_source_positions=50,
        vocab_size=8, pad_token_id=0, bos_token_id=1, eos_token_id=2, decoder_start_token_id=1,
    )  # fmt: skip
    tower = dict(
        model_type="siglip_vision_model", image_size=21, patch_size=7, hidden_size=16, intermediate_size=24,
        num_hidden_layers=1, num_attention_heads=2,
    )  # fmt: skip
    config = CASES["josie"].config().to_dict()
    config["talker_config"] |= dict(thinker_hidden_size=32)
    config["thinker_config"] = dict(
        text_config=text_config("llama"), audio_config=encoder, vision_config=tower, vision_feature_select="patch",
        **PLACEHOLDERS,
    )  # fmt: skip
    model = build(josie.JosieForConditionalGeneration, josie.JosieConfig.from_dict(config))
    model.thinker.to(saved)
    model.talker.to(saved)
    model.save_pretrained(tmp_path)
    loaded = AutoModelForMultimodalLM.from_pretrained(tmp_path, dtype=asked)
    for name, parameter in loaded.named_parameters():
        assert parameter.dtype == (torch.float32 if name.startswith("audio_codec") else asked), name
    plain = AutoModelForMultimodalLM.from_pretrained(tmp_path, dtype=torch.float32)
    for (name, ours), theirs in zip(plain.audio_codec.named_parameters(), model.audio_codec.parameters(), strict=True):
        assert torch.equal(ours, theirs), name
    assert loaded.audio_codec.to(torch.bfloat16).dtype == torch.bfloat16  # when asked


@pytest.mark.parametrize("name", ["josie", "josie-codes"])
def test_parts_load_out_of_a_whole_checkpoint(name, tmp_path):
    whole = CASES[name].build()
    whole.save_pretrained(tmp_path / "whole")
    thinker, talker = (
        getattr(josie, class_name).from_pretrained(tmp_path / "whole", output_loading_info=True)
        for class_name in ("JosieThinkerForConditionalGeneration", "JosieTalkerForConditionalGeneration")
    )
    body, info = josie.JosieThinkerModel.from_pretrained(tmp_path / "whole", output_loading_info=True)
    for part, found, expected in (
        (*thinker, whole.thinker),
        (*talker, whole.talker),
        (body, {name: keys for name, keys in info.items() if name != "unexpected_keys"}, whole.thinker.model),
    ):
        assert not any(found.values()), found
        for (key, ours), (_, theirs) in zip(part.state_dict().items(), expected.state_dict().items(), strict=True):
            assert torch.equal(ours, theirs), key
    # and what is saved of a part is the part's own
    thinker[0].save_pretrained(tmp_path / "thinker")
    again, info = type(thinker[0]).from_pretrained(tmp_path / "thinker", output_loading_info=True)
    assert not any(info.values()), info
    assert torch.equal(again.lm_head.weight, whole.thinker.lm_head.weight)


@pytest.mark.parametrize("auto", [AutoModelForMultimodalLM, AutoModelForImageTextToText, AutoModelForCausalLM])
def test_a_thinker_alone_is_known(auto, tmp_path):
    CASES["thinker"].build().save_pretrained(tmp_path)
    assert type(auto.from_pretrained(tmp_path)) is josie.JosieThinkerForConditionalGeneration


@torch.no_grad()
def test_a_whole_model_is_a_language_model_too(tmp_path):
    model, ids = CASES["josie"].build(), torch.randint(10, 53, (2, 5))
    model.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert type(loaded) is josie.JosieForConditionalGeneration
    assert loaded.state_dict().keys() == model.state_dict().keys()
    assert torch.equal(loaded(input_ids=ids).logits, model.thinker(input_ids=ids).logits)
    options = dict(max_new_tokens=3, do_sample=False)
    assert torch.equal(loaded.generate(ids, **options), model.thinker.generate(ids, **options))


def test_parts_know_where_they_came_from_and_files_do_not(tmp_path):
    model = CASES["josie"].build()
    assert not model.thinker.config.name_or_path
    model.save_pretrained(tmp_path / "first")
    loaded = AutoModelForMultimodalLM.from_pretrained(tmp_path / "first")
    for part in (loaded.thinker, loaded.talker):
        assert part.config.name_or_path == part.name_or_path == str(tmp_path / "first")
        assert type(part).from_pretrained(part.config.name_or_path)
    loaded.save_pretrained(tmp_path / "second")
    loaded.thinker.save_pretrained(tmp_path / "thinker")
    for name in ("second", "thinker"):
        assert str(tmp_path) not in (tmp_path / name / "config.json").read_text()


@pytest.mark.parametrize("name", ["image_token_id", "video_token_id", "audio_token_id"])
def test_placeholders_are_the_thinkers_and_known_to_the_whole(name, tmp_path):
    config = CASES["josie"].config()
    assert getattr(config, name) == getattr(config.thinker_config, name)
    assert name not in config.to_dict()
    setattr(config, name, 11)
    assert getattr(config.thinker_config, name) == 11
    config.save_pretrained(tmp_path)
    loaded = AutoConfig.from_pretrained(tmp_path)
    assert getattr(loaded, name) == 11
    assert loaded.to_diff_dict() == config.to_diff_dict()
    assert getattr(type(config).from_dict(config.to_dict() | {name: 12}).thinker_config, name) == 12
    with pytest.raises(StrictDataclassFieldValidationError, match=name):
        setattr(config, name, "11")


@pytest.mark.parametrize("name", ["josie", "josie-codes", "thinker"])
def test_settings_reach_the_text_backbone(name):
    config = CASES[name].config()
    text = config.get_text_config()
    text.tie_word_embeddings = True
    assert config.tie_word_embeddings
    model = getattr(josie, CASES[name].model_class)(config)
    head = model.get_output_embeddings()
    assert head.weight is model.get_input_embeddings().weight
    config.tie_word_embeddings = False
    assert not text.tie_word_embeddings
    config.max_position_embeddings = 120
    assert text.max_position_embeddings == config.max_position_embeddings == 120
    copied = type(config).from_dict(config.to_dict())
    assert copied.max_position_embeddings == 120
    assert not copied.tie_word_embeddings
    tied = type(config).from_dict(config.to_dict() | dict(tie_word_embeddings=True))
    assert tied.get_text_config().tie_word_embeddings


def test_codecs_have_settings_of_their_own():
    config = CASES["josie-codes"].config()
    assert config.audio_codec_config is not config.thinker_config.audio_config
    assert config.vision_codec_config is not config.thinker_config.vision_config
    model = josie.JosieForConditionalGeneration(config)
    model.set_attn_implementation({"audio_codec_config": "eager"})
    assert model.audio_codec.config._attn_implementation == "eager"
    assert model.vision_codec.config._attn_implementation == "sdpa"
    model.set_attn_implementation({"thinker_config": "eager"})
    assert model.vision_codec.config._attn_implementation == "sdpa"


def arguments(folder, **options) -> TrainingArguments:
    return TrainingArguments(
        str(folder), report_to=[], use_cpu=True, remove_unused_columns=False, disable_tqdm=True,
        dataloader_pin_memory=False, per_device_eval_batch_size=1, **options,
    )  # fmt: skip


@pytest.mark.parametrize("part", ["josie", "thinker"])
def test_predictions_are_logits_of_mixed_rows(part, tmp_path):
    model = CASES[part].build()
    inputs = josie_inputs() if part == "josie" else thinker_inputs()
    spoken = {name: value[:1] for name, value in inputs.items()}
    shorter = dict(spoken)
    if part == "josie":
        shorter["speech_codes"] = spoken["speech_codes"][..., 2:]
    silent = {name: value for name, value in spoken.items() if name not in ("speech_codes", "speaker_ids")}
    rows = [spoken, shorter, silent]
    seen = []
    trainer = Trainer(
        model, arguments(tmp_path), eval_dataset=rows, data_collator=lambda batch: batch[0],
        compute_metrics=lambda prediction: seen.append(prediction) or {},
    )  # fmt: skip
    assert trainer.evaluate()["eval_loss"] > 0
    length = spoken["input_ids"].shape[1]
    assert seen[0].predictions.shape == (3, length, 53)
    assert seen[0].label_ids.shape == (3, length)


@pytest.mark.parametrize("part", ["josie", "thinker"])
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_smoothed_labels_are_shifted(part, tmp_path):
    inputs = text_inputs()
    inputs["labels"] = inputs["input_ids"]
    losses = []
    for smoothing in (0.0, 1e-7):
        model = CASES[part].build()
        options = arguments(tmp_path, label_smoothing_factor=smoothing)
        trainer = Trainer(model, options, eval_dataset=[0], data_collator=lambda _: dict(inputs))
        losses.append(trainer.evaluate()["eval_loss"])
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)


def test_mask_tokens_of_towers_do_not_learn():
    tower = dict(
        model_type="dinov2", image_size=21, patch_size=7, hidden_size=18, num_hidden_layers=1, num_attention_heads=2,
    )  # fmt: skip
    config = josie.JosieThinkerConfig(**copy.deepcopy(THINKER) | dict(vision_config=tower))
    model = build(josie.JosieThinkerForConditionalGeneration, config).train()
    model(**thinker_inputs()).loss.backward()
    assert not [
        name for name, parameter in model.named_parameters() if parameter.requires_grad and parameter.grad is None
    ]
