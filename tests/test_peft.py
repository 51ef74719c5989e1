"""Low-rank adapters (Hu et al., 2021) by peft on Thinker and Talker: trained, saved, loaded, merged."""

import copy

import pytest
import torch
from packaging import version
from tiny import CASES, josie_inputs
from transformers import GenerationConfig, Trainer, TrainingArguments
from transformers.integrations.peft import MIN_PEFT_VERSION

import josie

peft = pytest.importorskip("peft", reason="adapters need peft: pip install 'josie[peft]'")

# What peft 0.21 still asks every model of transformers.
pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")

# Names of the matrices in every transformer of the package; a fused one gets one adapter for all its parts.
MATRICES = ["qkv_proj", "o_proj", "gate_up_proj", "down_proj"]
IN_THINKER = rf"thinker\.model\.language_model\..*\.({'|'.join(MATRICES)})"
IN_TALKER = rf"talker\..*\.({'|'.join(MATRICES)})"
# As the documentation has them.
CODECS = r".*_codec\..*"
OF_ROWS = r"(thinker\.model\.language_model|talker\.model)\..*_proj"
TARGETS = {"thinker": IN_THINKER, "talker": IN_TALKER, "both": f"({IN_THINKER})|({IN_TALKER})"}


def outputs(model) -> list[torch.Tensor]:
    model.eval()
    torch.manual_seed(0)
    with torch.no_grad():
        given = model(**josie_inputs())
    return [given.logits, given.talker_logits, given.depth_logits]


def train(model, folder, **options) -> None:
    inputs = josie_inputs()
    arguments = TrainingArguments(
        output_dir=str(folder),
        max_steps=2,
        per_device_train_batch_size=2,
        report_to=[],
        save_strategy="no",
        use_cpu=True,
        learning_rate=3e-2,
        remove_unused_columns=False,
        disable_tqdm=True,
        dataloader_pin_memory=False,
        **options,
    )
    trainer = Trainer(model, arguments, train_dataset=[0, 1], data_collator=lambda _: inputs)
    trainer.train()
    trainer.save_model(str(folder))


@pytest.mark.parametrize("part", TARGETS)
def test_adapters_are_trained_saved_loaded_and_merged(part, tmp_path):
    model = CASES["josie"].build()
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    untouched = outputs(model)
    adapted = peft.get_peft_model(model, peft.LoraConfig(target_modules=TARGETS[part], r=3))
    learning = [name for name, parameter in adapted.named_parameters() if parameter.requires_grad]
    wanted = {"thinker": {"thinker"}, "talker": {"talker"}, "both": {"thinker", "talker"}}[part]
    assert {name.split(".")[2] for name in learning} == wanted
    assert all("lora_" in name for name in learning)

    train(adapted, tmp_path)
    trained = outputs(adapted)
    # The Talker hears the Thinker, not the other way round.
    changed = [not torch.equal(ours, theirs) for ours, theirs in zip(trained, untouched, strict=True)]
    assert changed == [part != "talker", True, True]
    assert not (tmp_path / "model.safetensors").exists()

    loaded = peft.PeftModel.from_pretrained(CASES["josie"].build(), tmp_path)
    for ours, theirs in zip(outputs(loaded), trained, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0)
    merged = loaded.merge_and_unload()
    assert isinstance(merged, josie.JosieForConditionalGeneration)
    for ours, theirs in zip(outputs(merged), trained, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3)
    for name, parameter in merged.named_parameters():
        assert torch.equal(parameter, before[name]) == (
            not any(f".{matrix}." in name for matrix in MATRICES)
            or (name.split(".")[0] not in wanted or "front_end" in name)
        ), name


@pytest.mark.parametrize("targets", [MATRICES, "all-linear"], ids=["names", "all-linear"])
def test_codecs_are_left_alone(targets):
    whole = josie.JosieForConditionalGeneration.from_pretrained(josie.nano_path())
    reached = []
    for excluded in (None, CODECS):
        config = peft.LoraConfig(target_modules=targets, exclude_modules=excluded, r=3)
        adapted = peft.get_peft_model(copy.deepcopy(whole), config)
        reached.append({name.split(".")[2] for name, value in adapted.named_parameters() if value.requires_grad})
    assert reached == [{"thinker", "talker", "audio_codec"}, {"thinker", "talker"}]


def test_dora_is_loaded_by_peft(tmp_path):
    model = CASES["josie"].build()
    model.save_pretrained(tmp_path / "whole")
    model = josie.JosieForConditionalGeneration.from_pretrained(tmp_path / "whole")
    config = peft.LoraConfig(target_modules=TARGETS["both"], r=3, use_dora=True, init_lora_weights=False)
    adapted = peft.get_peft_model(model, config)
    with torch.no_grad():
        for name, value in adapted.named_parameters():
            if "magnitude" in name:
                value.mul_(1.5)
    expected = outputs(adapted)
    adapted.save_pretrained(tmp_path / "adapters")
    by_auto = peft.AutoPeftModel.from_pretrained(tmp_path / "adapters", import_allowlist=["josie.modeling_josie.josie"])
    by_hand = peft.PeftModel.from_pretrained(
        josie.JosieForConditionalGeneration.from_pretrained(tmp_path / "whole"), tmp_path / "adapters"
    )
    for loaded in (by_auto, by_hand):
        assert all(map(torch.equal, outputs(loaded), expected))


def test_rows_of_a_batch_have_adapters_of_their_own():
    model = peft.get_peft_model(CASES["josie"].build(), peft.LoraConfig(target_modules=OF_ROWS, r=3), "first")
    model.add_adapter("second", peft.LoraConfig(target_modules=OF_ROWS, r=2))
    with torch.no_grad():
        for name, value in model.named_parameters():
            if "lora_B" in name:
                value.normal_()
    inputs = josie_inputs()
    names = ["second", "first"]
    model.eval()
    with torch.no_grad():
        mixed = model(**inputs, adapter_names=names)
        for row, name in enumerate(names):
            model.set_adapter(name)
            alone = model(**inputs)
            for kind in ("logits", "talker_logits"):
                torch.testing.assert_close(mixed[kind][row], alone[kind][row], rtol=1e-4, atol=1e-4)


def test_an_adapted_model_speaks(tmp_path):
    model = peft.get_peft_model(CASES["josie"].build(), peft.LoraConfig(target_modules=TARGETS["both"], r=3))
    inputs = josie_inputs()
    inputs = {
        name: inputs[name]
        for name in ("input_ids", "attention_mask", "pixel_values", "input_features", "input_features_mask")
    }
    options = dict(max_new_tokens=4, talker_max_new_frames=5, generation_mode="audio")
    fresh = CASES["josie"].build().generate(**inputs, **options)
    spoken = model.generate(**inputs, **options)  # an adapter begins as zero
    assert torch.equal(spoken.sequences, fresh.sequences)
    assert torch.equal(spoken.audio_codes, fresh.audio_codes)


# Of the frozen encoders in front, which need none.
@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad:UserWarning")
@pytest.mark.parametrize("reentrant", [False, True], ids=["plain", "reentrant"])
@pytest.mark.parametrize("part", TARGETS)
def test_checkpointing_keeps_the_adapters_gradients(part, reentrant):
    models = []
    for _ in range(2):
        torch.manual_seed(5)
        config = peft.LoraConfig(target_modules=TARGETS[part], r=3, init_lora_weights=False)
        models.append(peft.get_peft_model(CASES["josie"].build(), config).train())
    plain, checkpointed = models
    checkpointed.activation_checkpointing_enable(dict(use_reentrant=reentrant))
    checkpointed.enable_input_require_grads()
    for model in models:
        torch.manual_seed(0)
        model(**josie_inputs()).loss.backward()
    compared = 0
    for (name, ours), (_, theirs) in zip(plain.named_parameters(), checkpointed.named_parameters(), strict=True):
        if "lora_" in name:
            torch.testing.assert_close(theirs.grad, ours.grad, rtol=1e-4, atol=1e-5, msg=name)
            compared += bool(theirs.grad.abs().sum() > 0)
    assert compared > 0


def test_adapters_by_transformers_own_methods(tmp_path):
    if version.parse(peft.__version__) < version.parse(MIN_PEFT_VERSION):
        pytest.skip(f"transformers' own adapters need peft {MIN_PEFT_VERSION}, this is {peft.__version__}")
    model = CASES["josie"].build()
    model.add_adapter(peft.LoraConfig(target_modules=TARGETS["both"], r=3, init_lora_weights=False))
    expected = outputs(model)
    model.save_pretrained(tmp_path)
    loaded = CASES["josie"].build()
    fresh = outputs(loaded)
    loaded.load_adapter(str(tmp_path))
    for ours, theirs, before in zip(outputs(loaded), expected, fresh, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0)
        assert not torch.equal(ours, before)
    loaded.disable_adapters()
    for ours, before in zip(outputs(loaded), fresh, strict=True):
        torch.testing.assert_close(ours, before, rtol=0, atol=0)


def test_adapters_are_not_saved_as_a_model(tmp_path):
    adapted = peft.get_peft_model(CASES["josie"].build(), peft.LoraConfig(target_modules=TARGETS["both"], r=3))
    with pytest.raises(ValueError, match="must be a model of this package, got a PeftModel"):
        josie.save_with_code(adapted, tmp_path / "new")
    assert not any(tmp_path.iterdir())


def test_a_thinker_alone_is_a_causal_language_model_to_peft(tmp_path):
    case = CASES["thinker"]
    model = peft.get_peft_model(
        case.build(), peft.LoraConfig(task_type="CAUSAL_LM", target_modules=MATRICES, r=3, init_lora_weights=False)
    )
    inputs = case.inputs()
    with torch.no_grad():
        expected = model(**inputs).logits
        merged = model.merge_and_unload()(**inputs).logits
    torch.testing.assert_close(merged, expected, rtol=1e-3, atol=1e-3)
    assert not torch.allclose(case.build()(**inputs).logits, expected)


VIRTUAL = {
    "prompt tuning": lambda: peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3),
    "p-tuning": lambda: peft.PromptEncoderConfig(task_type="CAUSAL_LM", num_virtual_tokens=3, encoder_hidden_size=12),
}


class TestVirtualTokens:
    """Learned tokens in front of a prompt with media: peft gives their embeddings and those of the prompt."""

    @pytest.fixture(params=VIRTUAL)
    def tuned(self, request):
        torch.manual_seed(0)
        return peft.get_peft_model(CASES["thinker"].build(), VIRTUAL[request.param]())

    @staticmethod
    def inputs() -> dict[str, torch.Tensor]:
        given = CASES["thinker"].inputs()
        given.pop("position_ids")
        return given

    def test_media_reach_the_logits(self, tuned):
        tuned.eval()
        inputs = self.inputs()
        with torch.no_grad():
            expected = tuned(**inputs).logits
            for name in ("pixel_values", "input_features"):
                other = inputs | {name: inputs[name].flip(0)}
                assert not torch.allclose(tuned(**other).logits, expected), name
            # The same by hand.
            base = tuned.get_base_model()
            virtual = tuned.get_prompt(batch_size=2)
            embeds = base.get_input_embeddings()(inputs["input_ids"])
            mask = torch.nn.functional.pad(inputs["attention_mask"], (3, 0), value=1)
            media = {key: inputs[key] for key in ("pixel_values", "input_features", "input_features_mask")}
            by_hand = base(inputs_embeds=torch.cat((virtual, embeds), 1), attention_mask=mask, **media).logits
        torch.testing.assert_close(expected, by_hand)

    def test_only_the_tokens_learn_and_they_are_saved(self, tuned, tmp_path):
        before = {name: value.clone() for name, value in tuned.named_parameters()}
        batch = self.inputs()
        arguments = TrainingArguments(
            str(tmp_path), max_steps=3, per_device_train_batch_size=2, report_to=[], save_strategy="no", use_cpu=True,
            learning_rate=0.1, remove_unused_columns=False, disable_tqdm=True, dataloader_pin_memory=False,
            logging_steps=1,
        )  # fmt: skip
        trainer = Trainer(tuned, arguments, train_dataset=[0, 1], data_collator=lambda _: dict(batch))
        trainer.train()
        losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
        assert losses[-1] < losses[0]
        changed = {name for name, value in tuned.named_parameters() if not torch.equal(value, before[name])}
        assert changed
        assert all("prompt_encoder" in name for name in changed)
        tuned.save_pretrained(tmp_path / "tuned")
        loaded = peft.PeftModel.from_pretrained(CASES["thinker"].build(), tmp_path / "tuned").eval()
        with torch.no_grad():
            torch.testing.assert_close(loaded(**batch).logits, tuned.eval()(**batch).logits)

    def test_a_cache_beside_them_is_refused(self, tuned):
        with pytest.raises(ValueError, match="`use_cache` must be False with learned prompts of peft"):
            tuned.generate(input_ids=torch.tensor([[20, 21]]), max_new_tokens=2)
        assert tuned.get_base_model().generate(torch.tensor([[20, 21]]), max_new_tokens=2).shape[1] > 2

    @pytest.mark.filterwarnings("ignore:Position ids are not supported:UserWarning")
    def test_answers_are_written_with_media(self, tuned):
        inputs = self.inputs()
        inputs.pop("labels")
        # peft 0.21 looks for a cache under its former name, and would leave tokens out.
        written = tuned.generate(**inputs, max_new_tokens=4, min_new_tokens=4, use_cache=False)
        assert written.shape[1] == inputs["input_ids"].shape[1] + 4
        base = tuned.get_base_model()
        embeds = torch.cat((tuned.get_prompt(2), base.get_input_embeddings()(inputs["input_ids"])), 1)
        mask = torch.nn.functional.pad(inputs["attention_mask"], (3, 0), value=1)
        media = {key: inputs[key] for key in ("pixel_values", "input_features", "input_features_mask")}
        by_hand = base.generate(inputs_embeds=embeds, attention_mask=mask, **media, max_new_tokens=4, min_new_tokens=4)
        assert torch.equal(written[:, -4:], by_hand)


OF_WHOLE = dict(task_type="CAUSAL_LM", num_virtual_tokens=3, num_layers=2, num_attention_heads=2, token_dim=30)


@pytest.mark.parametrize("mode", ["text", "audio"])
@pytest.mark.parametrize("kind", ["PromptTuningConfig", "PrefixTuningConfig"])
def test_a_whole_model_refuses_learned_prompts(kind, mode, monkeypatch):
    refused = pytest.raises(ValueError, match="`model` must be a Thinker, such as `model.thinker`, for learned prompts")
    model = CASES["josie"].build()
    with refused:  # before anything is trained
        peft.get_peft_model(model, getattr(peft, kind)(**OF_WHOLE))
    options = dict(input_ids=torch.tensor([[20, 21]]), max_new_tokens=2, generation_mode=mode)
    model.generate(**options)  # as the whole model alone does
    with monkeypatch.context() as patched:  # a peft that looks elsewhere
        patched.setattr("josie.modeling_josie.generation._LOOKED_UP_BY_PEFT", "")
        tuned = peft.get_peft_model(model, getattr(peft, kind)(**OF_WHOLE))
    for use_cache in (True, False):
        with refused:
            tuned.generate(**options, use_cache=use_cache)
    model = CASES["josie"].build()
    model.thinker = peft.get_peft_model(model.thinker, getattr(peft, kind)(**OF_WHOLE))
    for use in (lambda: model.generate(**options), lambda: model(**josie_inputs())):
        with pytest.raises(ValueError, match="`thinker` must have its adapters inside .*, got learned prompts of peft"):
            use()


@pytest.mark.parametrize("part", ["thinker", "talker"])
def test_a_part_is_wrapped_where_it_stands(part):
    options = dict(generation_mode="audio", max_new_tokens=4, talker_max_new_frames=5)
    text = torch.tensor([[20, 21, 22]])
    config = peft.LoraConfig(target_modules=MATRICES, r=3, init_lora_weights=False)
    model = CASES["josie"].build()
    torch.manual_seed(0)
    wrapped = peft.get_peft_model(getattr(model, part), config)
    inside, spoken = model.generate(text, **options), model.generate_speech(text, talker_max_new_frames=5)
    setattr(model, part, wrapped)
    outside = model.generate(text, **options)
    assert torch.equal(outside.sequences, inside.sequences)
    assert torch.equal(outside.audio_codes, inside.audio_codes)
    assert torch.equal(model.generate_speech(text, talker_max_new_frames=5).audio_codes, spoken.audio_codes)
    assert len(model.generate(text, **options, num_beams=2).sequences) == 1
    model.generation_config = GenerationConfig(max_new_tokens=1, eos_token_id=2, pad_token_id=0)
    assert model.generate(text).shape[1] == 4
    model.resize_token_embeddings(model.config.get_text_config().vocab_size + 3)
    assert model.generate(text).shape[1] == 4


@pytest.mark.parametrize("saved", [None, ["quantizer"]], ids=["codebooks-stay", "quantizer-is-saved"])
@pytest.mark.parametrize("codec", ["jodio", "mel-codec", "jovio"])
def test_adapters_of_a_codec_give_the_codes_that_they_were_trained_to(codec, saved, tmp_path):
    """Codebooks move where they are saved beside the adapters, and nowhere else."""
    base = CASES[codec].build()
    targets = r"(encoder|encoder_transformer)\.layers.*\.down_proj"
    config = peft.LoraConfig(target_modules=targets, r=2, init_lora_weights=False, modules_to_save=saved)
    before = {name: value.clone() for name, value in base.quantizer.named_buffers()}
    adapted = peft.get_peft_model(base, config).train()
    inputs = CASES[codec].inputs()
    for _ in range(3):
        adapted(**inputs)
    learned = dict(
        base.quantizer.modules_to_save["default"].named_buffers() if saved else base.quantizer.named_buffers()
    )
    assert all(torch.equal(value, learned[name]) for name, value in before.items()) is (saved is None)
    adapted.save_pretrained(tmp_path)
    loaded = peft.PeftModel.from_pretrained(CASES[codec].build(), tmp_path)
    kind = "vision_codes" if codec == "jovio" else "audio_codes"
    with torch.no_grad():
        codes, again = (each.eval()(**inputs)[kind] for each in (adapted, loaded))
    assert torch.equal(codes, again)
