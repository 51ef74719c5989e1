"""`eval_loss`, `compute_metrics` and `load_best_model_at_end` for every part that trains, by every trainer."""

import pytest
import torch
from tiny import CASES
from transformers import Trainer, TrainingArguments

import josie

CODECS = ["jodio", "jodio-mel", "mel-codec", "jovio"]
TALKERS = ["talker-parallel", "talker-depth", "talker-durations"]
WITH_PARTS = ["josie", "josie-codes", "thinker", *TALKERS]
ARGUMENTS = dict(
    max_steps=3,
    per_device_train_batch_size=2,
    per_device_eval_batch_size=2,
    eval_strategy="steps",
    eval_steps=1,
    save_strategy="steps",
    save_steps=1,
    load_best_model_at_end=True,
    learning_rate=3e-3,
    remove_unused_columns=False,
    report_to=[],
    use_cpu=True,
    disable_tqdm=True,
    dataloader_pin_memory=False,
)


def labels_of(name: str) -> dict:
    """Return the names of what a codec is to make again."""
    return {} if name not in CODECS else dict(label_names=["pixel_values" if name == "jovio" else "input_values"])


pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


def batches(name: str) -> list[dict[str, torch.Tensor]]:
    """Return batches of different kinds: all there is, shorter or no speech, and other lengths of text."""
    torch.manual_seed(0)
    whole = CASES[name].inputs()
    if name in CODECS:
        return [whole | {"return_loss": True}]
    shorter = whole | {"speech_codes": whole["speech_codes"][..., :6]} if "speech_codes" in whole else whole
    found = [whole, shorter]
    if "input_ids" in whole:
        silent = {key: value for key, value in whole.items() if not key.startswith("spe")}
        longer = {
            key: torch.nn.functional.pad(value, (2, 0), value=-100 if key == "labels" else 0)
            if key in ("input_ids", "attention_mask", "labels", "position_ids")
            else value
            for key, value in silent.items()
        }
        found += [silent, longer]
    return found


class Rotating:
    """A collator that gives these batches one after the other, whatever the rows."""

    def __init__(self, name: str):
        self.batches, self.number = batches(name), 0

    def __call__(self, rows):
        self.number += 1
        return dict(self.batches[self.number % len(self.batches)])


@pytest.mark.parametrize(
    ("name", "trainer_class"),
    [(name, Trainer) for name in WITH_PARTS + CODECS] + [(name, josie.JosieTrainer) for name in WITH_PARTS],
    ids=lambda value: value if isinstance(value, str) else value.__name__,
)
def test_the_best_model_is_loaded(name, trainer_class, tmp_path):
    model, shapes = CASES[name].build(), []
    trainer = trainer_class(
        model,
        TrainingArguments(str(tmp_path), **ARGUMENTS | labels_of(name)),
        train_dataset=list(range(8)),
        eval_dataset=list(range(8)),
        data_collator=Rotating(name),
        compute_metrics=lambda prediction: shapes.append(prediction.predictions) or {"seen": len(shapes)},
    )
    trainer.train()
    losses = {entry["step"]: entry["eval_loss"] for entry in trainer.state.log_history if "eval_loss" in entry}
    assert len(losses) == 3
    best = min(losses, key=losses.get)
    assert trainer.state.best_global_step == best
    saved = type(model).from_pretrained(tmp_path / f"checkpoint-{best}")
    for key, value in saved.state_dict().items():
        assert torch.equal(model.state_dict()[key], value), key
    if name not in CODECS:
        assert shapes[-1].ndim == 3  # logits alone
        assert shapes[-1].shape[0] == 8


@pytest.mark.parametrize("name", CODECS)
def test_codecs_say_what_evaluation_needs(name, tmp_path):
    inputs = CASES[name].inputs()
    options = ARGUMENTS | dict(load_best_model_at_end=False) | labels_of(name)
    trainer = Trainer(
        CASES[name].build(),
        TrainingArguments(str(tmp_path), **options),
        eval_dataset=[0, 1],
        data_collator=lambda _: inputs | {"return_loss": True},
    )
    with torch.no_grad():
        expected = float(CASES[name].build()(**inputs, return_loss=True).loss)
    assert trainer.evaluate()["eval_loss"] == pytest.approx(expected, rel=1e-4)
