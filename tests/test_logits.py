"""Logits are made where labels are, in training and in evaluations that want a loss alone."""

import copy

import pytest
import torch
from tiny import CASES, josie_inputs, thinker_inputs
from transformers import Trainer, TrainingArguments

import josie


def inputs_of(name: str) -> dict[str, torch.Tensor]:
    inputs = josie_inputs() if name == "josie" else thinker_inputs()
    inputs["labels"] = inputs["labels"].clone()
    inputs["labels"][:, :6] = -100
    return inputs


class Rows:
    """Counts the rows that a head multiplies."""

    def __init__(self, model):
        self.count = 0
        head = model.get_output_embeddings()
        head.register_forward_hook(lambda _, args, output: setattr(self, "count", self.count + output[..., 0].numel()))


@pytest.mark.parametrize("name", ["josie", "thinker"])
def test_training_makes_logits_of_targets_alone(name):
    plain, lean = CASES[name].build().train(), CASES[name].build().train()
    inputs = inputs_of(name)
    rows = Rows(lean)
    expected, actual = plain(**inputs, skip_logits=False), lean(**inputs)
    assert expected.logits.shape[:2] == inputs["input_ids"].shape
    assert actual.logits is None
    assert rows.count == (inputs["labels"][:, 1:] != -100).sum() > 0
    torch.testing.assert_close(actual.loss, expected.loss)
    for model, output in ((plain, expected), (lean, actual)):
        output.loss.backward()
        assert all(p.grad is not None for p in model.parameters() if p.requires_grad)
    for (key, ours), theirs in zip(lean.named_parameters(), plain.parameters(), strict=True):
        if ours.grad is not None:
            torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-4, atol=1e-6, msg=key)


@pytest.mark.parametrize("name", ["josie", "thinker"])
def test_evaluation_returns_logits_unless_told_otherwise(name):
    model, inputs = CASES[name].build(), inputs_of(name)
    with torch.no_grad():
        whole, lean = model(**inputs), model(**inputs, skip_logits=True)
    assert whole.logits.shape == (*inputs["input_ids"].shape, 53)
    assert lean.logits is None
    torch.testing.assert_close(lean.loss, whole.loss)
    model.train()
    inputs.pop("labels")
    assert (
        model(**{key: inputs[key] for key in inputs if key not in ("speech_codes", "speaker_ids")}).logits is not None
    )


@pytest.mark.parametrize("name", ["josie", "thinker"])
def test_shifted_labels_and_no_targets(name):
    model, inputs = CASES[name].build().train(), inputs_of(name)
    expected = model(**inputs).loss
    shifted = torch.nn.functional.pad(inputs["labels"], (0, 1), value=-100)[:, 1:]
    torch.testing.assert_close(model(**inputs, shift_labels=shifted).loss, expected)
    nothing = model(**inputs | dict(labels=torch.full_like(inputs["labels"], -100)))
    text_loss = nothing.text_loss if name == "josie" else nothing.loss
    assert text_loss == 0
    nothing.loss.backward()
    assert model.get_output_embeddings().weight.grad.isfinite().all()


def test_speech_alone_needs_no_logits():
    model, inputs = CASES["josie"].build().train(), josie_inputs()
    inputs.pop("labels")
    rows = Rows(model)
    output = model(**inputs)
    assert output.logits is None
    assert rows.count == 0
    output.loss.backward()
    assert not [key for key, p in model.named_parameters() if p.requires_grad and p.grad is None]


@pytest.mark.parametrize("trainer_class", [josie.JosieTrainer, Trainer])
def test_a_trainer_that_wants_a_loss_alone_makes_few(trainer_class, tmp_path):
    model, inputs = CASES["josie"].build(), inputs_of("josie")
    with torch.no_grad():
        expected = float(model(**inputs).loss)
    rows = Rows(model)
    arguments = TrainingArguments(
        str(tmp_path),
        report_to=[],
        use_cpu=True,
        remove_unused_columns=False,
        disable_tqdm=True,
        dataloader_pin_memory=False,
    )
    trainer = trainer_class(model, arguments, eval_dataset=[0], data_collator=lambda _: copy.copy(inputs))
    assert trainer.evaluate()["eval_loss"] == pytest.approx(expected, rel=1e-5)
    few = (inputs["labels"][:, 1:] != -100).sum()
    assert rows.count == (few if trainer_class is josie.JosieTrainer else inputs["labels"].numel())


class ReadingTrainer(Trainer):
    """A trainer that reads the logits of training, as TRL's does."""

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """Return the loss, and keep the shape of the logits."""
        loss, outputs = super().compute_loss(model, inputs, True, num_items_in_batch)
        self.shape = outputs.logits.shape
        return (loss, outputs) if return_outputs else loss


def arguments(folder, **options) -> TrainingArguments:
    settings = dict(report_to=[], use_cpu=True, remove_unused_columns=False, disable_tqdm=True, max_steps=1)
    return TrainingArguments(str(folder), dataloader_pin_memory=False, **settings | options)


def test_an_attached_trainer_that_reads_logits_has_them(tmp_path):
    model, inputs = CASES["josie"].build(), inputs_of("josie")
    collate = dict(train_dataset=[0], data_collator=lambda _: copy.copy(inputs))
    trainer = ReadingTrainer(model, arguments(tmp_path), **collate)
    josie.LossParts.attach(trainer).train()
    assert trainer.shape == (*inputs["input_ids"].shape, 53)


def test_smoothed_labels_without_speech_to_learn(tmp_path):
    inputs = inputs_of("josie")
    inputs["speech_codes"] = torch.full_like(inputs["speech_codes"], -100)
    collate = dict(train_dataset=[0], data_collator=lambda _: copy.copy(inputs))
    options = arguments(tmp_path, label_smoothing_factor=0.1)
    josie.JosieTrainer(CASES["josie"].build(), options, **collate).train()


@pytest.mark.parametrize("step", ["train", "evaluate"])
def test_a_plain_trainer_smooths_no_labels_beside_speech(tmp_path, step):
    options = arguments(tmp_path, label_smoothing_factor=0.1)
    rows = dict(train_dataset=[0], eval_dataset=[0], data_collator=lambda _: copy.copy(inputs_of("josie")))
    trainer = Trainer(CASES["josie"].build(), options, **rows)
    with pytest.raises(ValueError, match="`label_smoothing_factor`, which must be 0 where speech is learned"):
        getattr(trainer, step)()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_other_types(dtype):
    model, inputs = CASES["thinker"].build().train().to(dtype), inputs_of("thinker")
    inputs = {name: value.to(dtype) if value.is_floating_point() else value for name, value in inputs.items()}
    expected, actual = model(**inputs, skip_logits=False).loss, model(**inputs).loss
    torch.testing.assert_close(actual, expected, rtol=1e-2 if dtype == torch.bfloat16 else 1e-9, atol=0)
