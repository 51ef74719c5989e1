"""The laws that every model class keeps, whatever it models. `tests/tiny.py` has the models and their inputs."""

import copy

import pytest
import torch
from tiny import CASES, Case
from transformers import AutoConfig, Trainer, TrainingArguments
from transformers.modeling_utils import local_torch_dtype

import josie
from josie.modeling_josie.codecs.spectral import _create_cosine_basis
from josie.modeling_josie.layers.fast import _rms_constants
from josie.modeling_josie.mel import _invert_mel_filterbank, create_mel_filterbank

ALL = list(CASES)
TRAINED = [name for name, case in CASES.items() if case.trains]
CACHED = ["backbone", "backbone-window", "text", "thinker", "josie"]


@pytest.fixture(params=ALL)
def case(request) -> Case:
    return CASES[request.param]


@pytest.fixture(params=TRAINED)
def trained_case(request) -> Case:
    return CASES[request.param]


def run(case: Case, model, inputs):
    with torch.no_grad():
        return getattr(model(**inputs), case.output)


def row(inputs: dict, index: int) -> dict:
    return {name: value[index : index + 1] for name, value in inputs.items()}


def test_saved_model_loads_with_equal_buffers_and_outputs(case, tmp_path):
    model, inputs = case.build(), case.inputs()
    model.save_pretrained(tmp_path)
    loaded, info = type(model).from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info.values()), info
    for (name, ours), (_, theirs) in zip(model.named_buffers(), loaded.named_buffers(), strict=True):
        assert torch.equal(ours, theirs), name
    torch.testing.assert_close(run(case, loaded, inputs), run(case, model, inputs), rtol=0, atol=0)


def test_trainable_parameters_stay_so_when_loaded(case, tmp_path):
    model = case.build()
    model.save_pretrained(tmp_path)
    loaded = type(model).from_pretrained(tmp_path)
    trainable = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    assert [name for name, parameter in loaded.named_parameters() if parameter.requires_grad] == trainable


def test_tuple_equals_dataclass(case):
    model, inputs = case.build(), case.inputs()
    with torch.no_grad():
        outputs, values = model(**inputs), model(**inputs, return_dict=False)
    assert isinstance(values, tuple)
    for ours, theirs in zip(outputs.to_tuple(), values, strict=True):
        if isinstance(ours, torch.Tensor):
            torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


def test_eager_equals_sdpa(case):
    model, inputs = case.build(), case.inputs()
    assert model.config._attn_implementation == "sdpa"
    expected = run(case, model, inputs)
    eager = copy.deepcopy(model)
    eager.set_attn_implementation("eager")
    real = inputs.get("attention_mask")
    actual = run(case, eager, inputs)
    if real is not None and actual.shape[:2] == real.shape:
        actual, expected = actual[real.bool()], expected[real.bool()]
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)


def test_configuration_round_trip(case, tmp_path):
    config = case.config()
    config.save_pretrained(tmp_path)
    loaded = AutoConfig.from_pretrained(tmp_path)
    ours, theirs = config.to_dict(), loaded.to_dict()
    assert ours.pop("_name_or_path", None) != theirs.pop("_name_or_path", "")
    assert theirs == ours


@pytest.mark.parametrize("name", CACHED)
def test_cached_equals_uncached_under_left_padding(name):
    case = CASES[name]
    model, inputs = case.build(), case.inputs()
    for extra in ("labels", "speech_codes", "speaker_ids"):
        inputs.pop(extra, None)
    key = "inputs_embeds" if "inputs_embeds" in inputs else "input_ids"
    mask = inputs["attention_mask"]
    expected = run(case, model, inputs)
    split = 8 if name in ("thinker", "josie") else 3  # behind the placeholders
    prefix = {n: v[:, :split] if n in (key, "attention_mask", "position_ids") else v for n, v in inputs.items()}
    with torch.no_grad():
        outputs = model(**prefix, use_cache=True)
        pieces = [getattr(outputs, case.output)]
        for index in range(split, mask.shape[1]):
            step = {key: inputs[key][:, index : index + 1], "attention_mask": mask[:, : index + 1]}
            if "position_ids" in inputs:
                step["position_ids"] = inputs["position_ids"][:, index : index + 1]
            outputs = model(**step, cache=outputs.cache, use_cache=True)
            pieces.append(getattr(outputs, case.output))
    torch.testing.assert_close(torch.cat(pieces, 1)[mask.bool()], expected[mask.bool()], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["backbone", "backbone-window", "text"])
def test_later_input_never_changes_earlier_output(name):
    case = CASES[name]
    model, inputs = case.build(), case.inputs()
    key = "inputs_embeds" if "inputs_embeds" in inputs else "input_ids"
    changed = {**inputs, key: inputs[key].clone()}
    changed[key][:, 5:] = inputs[key][:, 5:].flip(0)
    before, after = run(case, model, inputs), run(case, model, changed)
    real = inputs["attention_mask"][:, :5].bool()
    torch.testing.assert_close(after[:, :5][real], before[:, :5][real], rtol=0, atol=1e-6)
    assert not torch.allclose(before[:, 5:], after[:, 5:])


@pytest.mark.parametrize("name", ["talker-parallel", "talker-depth", "talker-durations"])
def test_later_frames_never_change_earlier_logits(name):
    case = CASES[name]
    model, inputs = case.build(), case.inputs()
    changed = {**inputs, "speech_codes": inputs["speech_codes"].clone()}
    changed["speech_codes"][0, :, 4:7] = (inputs["speech_codes"][0, :, 4:7] + 1) % 11
    before, after = model(**inputs), model(**changed)
    torch.testing.assert_close(after.logits[:, :5], before.logits[:, :5], rtol=0, atol=1e-5)
    torch.testing.assert_close(after.depth_logits[:, :, :4], before.depth_logits[:, :, :4], rtol=0, atol=1e-5)
    assert not torch.allclose(before.logits[0, 5:], after.logits[0, 5:])


@pytest.mark.parametrize("name", [name for name in ALL if name != "josie-codes"])
def test_row_of_batch_equals_row_alone(name):
    case = CASES[name]
    model, inputs = case.build(), case.inputs()
    together = run(case, model, inputs)
    for index in range(2):
        alone = row(inputs, index)
        for mask_name, names in (
            ("attention_mask", ("input_ids", "inputs_embeds", "position_ids", "labels", "attention_mask")),
            ("padding_mask", ("input_values", "padding_mask")),
            ("thinker_mask", ("thinker_hidden_states", "thinker_embeds", "thinker_mask")),
        ):
            if (
                mask_name not in inputs
                or "input_features" in inputs
                and mask_name == "attention_mask"
                and name == "audio-encoder"
            ):
                continue
            real = alone[mask_name][0].bool()
            for key in names:
                if key in alone:
                    axis = 2 if key == "input_values" else 1
                    alone[key] = alone[key].index_select(axis, real.nonzero()[:, 0])
        for feature, mask_name in (("input_features", "input_features_mask"), ("input_features", "attention_mask")):
            if feature in alone and mask_name in alone and alone[mask_name].shape[1] == inputs[feature].shape[2]:
                alone[feature] = alone[feature][..., alone[mask_name][0].bool()]
                alone[mask_name] = alone[mask_name][:, alone[mask_name][0].bool()]
        expected = run(case, model, alone)
        actual = together[index : index + 1]
        if case.output in ("audio_values",):
            actual = actual[..., : expected.shape[-1]]
        elif actual.shape[1] != expected.shape[1]:
            padded_left = "input_ids" in inputs or "inputs_embeds" in inputs
            actual = actual[:, -expected.shape[1] :] if padded_left else actual[:, : expected.shape[1]]
        torch.testing.assert_close(actual, expected, rtol=1e-3, atol=1e-4)


def test_loss_reaches_every_trainable_parameter(trained_case):
    model = trained_case.build().train()
    model(**trained_case.inputs()).loss.backward()
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, name
            assert torch.isfinite(parameter.grad).all(), name
    assert sum(parameter.grad.abs().sum() for parameter in model.parameters() if parameter.grad is not None) > 0


def test_gradient_checkpointing_keeps_gradients(trained_case):
    if not getattr(josie, trained_case.model_class).supports_gradient_checkpointing:
        pytest.skip("it has no transformer layers to checkpoint, and says so")
    inputs = trained_case.inputs()
    plain, checkpointed = trained_case.build().train(), trained_case.build().train()
    checkpointed.activation_checkpointing_enable()
    assert any(getattr(module, "gradient_checkpointing", False) for module in checkpointed.modules())
    for model in (plain, checkpointed):
        torch.manual_seed(3)
        model(**inputs).loss.backward()
    for (name, ours), (_, theirs) in zip(plain.named_parameters(), checkpointed.named_parameters(), strict=True):
        if ours.grad is not None:
            torch.testing.assert_close(theirs.grad, ours.grad, rtol=1e-4, atol=1e-5, msg=name)


def test_bfloat16_is_finite(case):
    model = case.build().to(torch.bfloat16)
    inputs = {
        name: value.to(torch.bfloat16) if value.is_floating_point() else value for name, value in case.inputs().items()
    }
    assert torch.isfinite(run(case, model, inputs)).all()


def test_the_default_dtype_does_not_matter(case):
    model, inputs = case.build(), case.inputs()
    for constants in (create_mel_filterbank, _invert_mel_filterbank, _create_cosine_basis, _rms_constants):
        constants.cache_clear()
    with local_torch_dtype(torch.bfloat16):
        actual = run(case, model, inputs)
    torch.testing.assert_close(actual, run(case, model, inputs), rtol=0, atol=0)


def test_meta_device_builds_without_memory(case):
    with torch.device("meta"):
        model = getattr(josie, case.model_class)(case.config())
    assert all(parameter.is_meta for parameter in model.parameters())


@pytest.mark.parametrize("name", ["jodio", "jodio-mel", "mel-codec"])
def test_decoded_audio_has_the_length_of_the_input(name):
    case = CASES[name]
    model, inputs = case.build(), case.inputs()
    encoded = model.encode(**inputs)
    assert encoded.audio_codes.shape == (2, 3, model.config.get_num_frames(203))
    assert model.decode(encoded.audio_codes, encoded.audio_lengths).audio_values.shape == inputs["input_values"].shape


@pytest.mark.parametrize("name", ["jodio", "jodio-mel", "mel-codec", "jovio"])
def test_fewer_quantizers_are_a_prefix_of_more(name):
    case = CASES[name]
    model, inputs = case.build(), case.inputs()
    full = model.encode(**inputs)[0]
    for count in (1, 2):
        assert torch.equal(model.encode(**inputs, num_quantizers=count)[0], full[:, :count])
        assert not torch.equal(model(**inputs, num_quantizers=count)[0], model(**inputs)[0])


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_one_trainer_step_saves_a_folder_that_loads(trained_case, tmp_path):
    inputs = trained_case.inputs()
    arguments = TrainingArguments(
        output_dir=str(tmp_path),
        max_steps=1,
        per_device_train_batch_size=2,
        report_to=[],
        save_strategy="no",
        use_cpu=True,
        learning_rate=1e-2,
        remove_unused_columns=False,
        disable_tqdm=True,
        dataloader_pin_memory=False,
    )
    model = trained_case.build()
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    trainer = Trainer(model, arguments, train_dataset=[0, 1], data_collator=lambda _: inputs)
    trainer.train()
    trainer.save_model(str(tmp_path / "trained"))
    changed = [name for name, parameter in model.named_parameters() if not torch.equal(before[name], parameter)]
    assert changed
    loaded = type(model).from_pretrained(tmp_path / "trained")
    model.eval()
    torch.testing.assert_close(run(trained_case, loaded, inputs), run(trained_case, model, inputs), rtol=0, atol=0)


@pytest.mark.slow
@pytest.mark.parametrize("name", ALL)
def test_hub_export_loads_without_the_package(exports, name):
    found, folder = exports[0][name], exports[1] / name
    assert "error" not in found, found["error"]
    first, second = found, found["again"]
    assert first["info"] == second["info"] == {}
    assert first["difference"] == second["difference"] == 0
    assert first["speaks"] == second["speaks"]
    assert first["speaks"] is (True if name.startswith("josie") else None)
    assert first["module"] == "transformers_modules"
    assert first["same_code"]
    assert (folder / "README.md").is_file()
