"""The Talker as transformers expects a model: arguments, outputs, evaluation, offloading, dtype, and cut speech."""

import pytest
import torch
from tiny import CASES, TALKER, build, talker_inputs
from transformers import Trainer, TrainingArguments

import josie

TALKERS = ["talker-parallel", "talker-depth", "talker-durations"]


def states() -> dict[str, torch.Tensor]:
    return {name: value for name, value in talker_inputs().items() if name != "speech_codes"}


@pytest.mark.parametrize("name", TALKERS)
def test_hidden_states_and_attentions_are_returned(name):
    model = CASES[name].build()
    model.set_attn_implementation("eager")
    inputs = talker_inputs()
    outputs = model(**inputs, output_hidden_states=True, output_attentions=True)
    steps = 1 + model.config.speech_delay + inputs["speech_codes"].shape[2]
    assert len(outputs.hidden_states) == model.config.num_hidden_layers + 1
    assert all(states.shape == (2, steps, model.config.hidden_size) for states in outputs.hidden_states)
    assert [weights.shape[-2:] for weights in outputs.attentions] == [(steps, steps)] * model.config.num_hidden_layers
    assert torch.equal(outputs.hidden_states[-1][:, -8:], outputs.last_hidden_state)
    assert model(**inputs).hidden_states is None


def test_a_misspelt_argument_is_refused():
    with pytest.raises(TypeError, match="speaker_id"):
        CASES["talker-depth"].build()(**states(), speech_codes=talker_inputs()["speech_codes"], speaker_id=1)


def test_the_embedding_of_codes_can_be_replaced():
    model = CASES["talker-depth"].build()
    old = model.get_input_embeddings()
    new = torch.nn.Embedding(old.num_embeddings, old.embedding_dim)
    before = model(**talker_inputs()).logits
    model.set_input_embeddings(new)
    assert model.get_input_embeddings() is new
    assert not torch.allclose(model(**talker_inputs()).logits, before)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_the_trainer_evaluates_it(tmp_path):
    inputs = talker_inputs()
    arguments = TrainingArguments(
        str(tmp_path),
        max_steps=2,
        eval_strategy="steps",
        eval_steps=1,
        save_strategy="steps",
        save_steps=1,
        load_best_model_at_end=True,
        per_device_train_batch_size=2,
        per_device_eval_batch_size=2,
        remove_unused_columns=False,
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
        dataloader_pin_memory=False,
    )
    model = CASES["talker-depth"].build()
    trainer = Trainer(model, arguments, train_dataset=[0, 1], eval_dataset=[0, 1], data_collator=lambda _: inputs)
    trainer.train()
    with torch.no_grad():
        expected = float(model.eval()(**inputs).loss)
    assert trainer.evaluate()["eval_loss"] == pytest.approx(expected, rel=1e-4)
    assert trainer.state.best_model_checkpoint is not None
    assert model(**inputs, return_loss=False).loss is None


@pytest.mark.parametrize("name", TALKERS)
def test_what_is_offloaded_speaks_alike(name, tmp_path):
    model = CASES[name].build()
    model.save_pretrained(tmp_path / "model")
    inputs = states()
    expected = model.generate(**inputs, max_new_frames=4)
    loaded = type(model).from_pretrained(
        tmp_path / "model", device_map={"": "disk"}, offload_folder=str(tmp_path / "offload")
    )
    assert loaded.start.is_meta
    assert torch.equal(loaded.generate(**inputs, max_new_frames=4).audio_codes, expected.audio_codes)
    assert loaded.start.is_meta


@pytest.mark.parametrize("name", TALKERS)
def test_every_weight_has_the_dtype_that_is_asked_for(name, tmp_path):
    model = CASES[name].build()
    model.save_pretrained(tmp_path)
    loaded = type(model).from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert {parameter.dtype for parameter in loaded.parameters()} == {torch.bfloat16}
    assert loaded.generate(**states(), max_new_frames=3).audio_codes.shape[1] == model.config.num_quantizers


@pytest.fixture
def warnings(monkeypatch):
    """Return the warnings that the loop over frames logs."""
    from josie.modeling_josie.talker import speech_stream

    said: list[str] = []
    monkeypatch.setattr(speech_stream.logger, "warning", said.append)
    return said


def test_cut_speech_names_its_rows(warnings):
    options = TALKER | dict(learns_durations=True, frames_per_token=4, end_of_speech=False)
    model = build(josie.JosieTalkerForConditionalGeneration, josie.JosieTalkerConfig(**options))
    with torch.no_grad():
        model.durations.out.weight.zero_()
        model.durations.out.bias.zero_()
    model.generate(**states(), max_new_frames=14)  # rows of 20 and 12 frames
    assert len(warnings) == 1
    assert "`talker_max_new_frames` = 14 before its end in rows [0], with [1] of [5] tokens" in warnings[0]
    warnings.clear()
    model.generate(**states(), max_new_frames=20)
    assert not warnings
