"""Laws of the codecs' trainer: it resumes exactly, logs every part, and keeps processes equal."""

import json
import os
import re

import pytest
import torch
from processes import run_two
from test_jodio import make_model
from transformers import Trainer, TrainingArguments

from josie.configuration_josie import JodioDiscriminatorConfig, JosieMelCodecConfig
from josie.modeling_josie.codecs.discriminators import JodioDiscriminatorModel
from josie.modeling_josie.codecs.mel_codec import JosieMelCodecModel
from josie.training.averages import AverageMeter
from josie.training.codec_trainer import CodecTrainer, CodecTrainingArguments

NUM_SAMPLES = 333


class Crops(torch.utils.data.Dataset):
    """Noise that depends on its place alone."""

    def __init__(self, length: int):
        self.length = length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        generator = torch.Generator().manual_seed(index)
        num_real = NUM_SAMPLES - 40 * (index % 3)
        mask = (torch.arange(NUM_SAMPLES) < num_real).long()
        labels = torch.tensor([1 + index % 6, 2, -100])
        noise = 0.3 * torch.randn(1, NUM_SAMPLES, generator=generator)
        return {"input_values": noise, "padding_mask": mask, "labels": labels}


def make_discriminator(**changes) -> JodioDiscriminatorModel:
    torch.manual_seed(0)
    sizes = {
        "n_ffts": [64, 32],
        "channels": [3, 4],
        "frequency_strides": [2, 2],
        "time_dilations": [1, 2],
        "kernel_size": [3, 5],
    }
    return JodioDiscriminatorModel(JodioDiscriminatorConfig(**(sizes | changes)))


def make_trainer(folder, adversarial: bool = True, model=None, **changes) -> CodecTrainer:
    arguments = {
        "output_dir": str(folder),
        "max_steps": 6,
        "per_device_train_batch_size": 2,
        "per_device_eval_batch_size": 3,
        "learning_rate": 3e-3,
        "logging_steps": 1,
        "save_steps": 3,
        "report_to": "none",
        "use_cpu": True,
        "disable_tqdm": True,
        **({"adversarial_start_step": 1} if adversarial else {}),
    }
    model = model or make_model(loss_windows=[64, 128], quantizer_dropout=0.5, semantic_target_size=None)
    return CodecTrainer(
        model,
        CodecTrainingArguments(**(arguments | changes)),
        discriminator=make_discriminator() if adversarial else None,
        train_dataset=Crops(8),
        eval_dataset=Crops(5),
    )


def history(trainer: CodecTrainer) -> list[dict[str, float]]:
    """Return what was logged at each step, without what depends on the clock."""
    return [entry for entry in trainer.state.log_history if "loss" in entry]


@pytest.mark.parametrize(
    ("adversarial", "changes"),
    [(False, {}), (True, {}), (True, {"gradient_accumulation_steps": 2, "adversarial_start_step": 4, "max_steps": 7})],
    ids=["alone", "adversarial", "accumulated"],
)
def test_a_resumed_run_goes_on_exactly(adversarial, changes, tmp_path):
    whole = make_trainer(tmp_path / "whole", adversarial, **changes)
    whole.train()
    resumed = make_trainer(tmp_path / "resumed", adversarial, **changes)
    for other in (resumed.model, resumed.discriminator):  # nothing of the start survives
        for parameter in other.parameters() if other is not None else ():
            torch.nn.init.normal_(parameter)
    resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-3"))
    assert history(resumed) == history(whole)
    assert len(history(whole)) == whole.args.max_steps
    for (name, value), other in zip(whole.model.state_dict().items(), resumed.model.state_dict().values(), strict=True):
        assert torch.equal(value, other), name
    if adversarial:
        ours, theirs = whole.discriminator.state_dict(), resumed.discriminator.state_dict()
        start = make_discriminator().state_dict()
        for name, value in ours.items():
            assert torch.equal(value, theirs[name]), name
        assert any(not torch.equal(value, start[name]) for name, value in ours.items())


def test_the_discriminator_begins_at_its_step(tmp_path):
    trainer = make_trainer(tmp_path, adversarial_start_step=3, save_strategy="no")
    trainer.train()
    plain = make_trainer(tmp_path, adversarial=False, save_strategy="no")
    plain.train()
    extra = {"loss_adversarial", "loss_feature", "loss_discriminator", "discriminator_grad_norm"}
    for step, (entry, other) in enumerate(zip(history(trainer), history(plain), strict=True)):
        if step < 3:
            assert entry.items() >= {key: other[key] for key in other if key.startswith("loss")}.items()
            assert not extra & entry.keys()
        else:
            assert extra <= entry.keys()
            weights = {"adversarial": 1.0, "feature": 2.0, "commitment": 0.25}
            named = {key[5:]: value for key, value in entry.items() if key.startswith("loss_")}
            named.pop("discriminator")
            expected = sum(weights.get(name, 1.0) * value for name, value in named.items())
            assert entry["loss"] == pytest.approx(expected, rel=1e-5)
    assert history(trainer)[2]["loss"] == history(plain)[2]["loss"]
    assert history(trainer)[4]["loss_mel"] != history(plain)[4]["loss_mel"]


def test_every_part_is_logged_and_averaged(tmp_path):
    each = make_trainer(tmp_path, adversarial=False, save_strategy="no", eval_strategy="steps", eval_steps=3)
    each.train()
    rare = make_trainer(tmp_path, adversarial=False, save_strategy="no", logging_steps=3)
    rare.train()
    names = {f"loss_{name}" for name in ("waveform", "mel", "stft", "commitment", "ctc")}
    names |= {f"{name}_{index}" for name in ("usage", "perplexity") for index in range(4)}
    for entry in history(each):
        assert names <= entry.keys()
    first, second = history(each)[:3], history(rare)[0]
    for name in names:
        assert second[name] == pytest.approx(sum(entry[name] for entry in first) / 3, rel=1e-5), name
    evaluations = [entry for entry in each.state.log_history if "eval_loss" in entry]
    assert len(evaluations) == 2
    for entry in evaluations:
        assert {f"eval_{name}" for name in names} <= entry.keys()
    state = {name: value.clone() for name, value in each.model.state_dict().items()}
    metrics = each.evaluate()
    assert metrics["eval_loss_mel"] == pytest.approx(evaluations[-1]["eval_loss_mel"])
    for name, value in each.model.state_dict().items():
        assert torch.equal(value, state[name]), name


def test_the_mel_codec_trains_with_it(tmp_path):
    sizes = {"num_mel_bins": 16, "n_fft": 128, "win_length": 128, "mel_hop_length": 32, "hidden_size": 24}
    model = JosieMelCodecModel(JosieMelCodecConfig(codebook_size=16, num_quantizers=2, **sizes))
    trainer = make_trainer(tmp_path, adversarial=False, model=model, save_strategy="no", max_steps=2)
    trainer.train()
    assert {"loss_mel", "loss_commitment", "usage_1", "perplexity_0"} <= history(trainer)[-1].keys()
    assert trainer.evaluate()["eval_loss_mel"] > 0


def test_the_plain_trainer_trains_too(tmp_path):
    arguments = TrainingArguments(
        str(tmp_path),
        max_steps=2,
        logging_steps=1,
        report_to="none",
        use_cpu=True,
        save_strategy="no",
        disable_tqdm=True,
    )
    trainer = Trainer(make_model(loss_windows=[64], semantic_target_size=None), arguments, train_dataset=Crops(8))
    trainer.train()
    assert all(entry["loss"] > 0 for entry in trainer.state.log_history if "loss" in entry)


def test_bfloat16_and_checkpointing_train_against_a_discriminator(tmp_path):
    trainer = make_trainer(tmp_path, max_steps=3, bf16=True, activation_checkpointing=True, save_strategy="no")
    trainer.train()
    assert all(torch.tensor(value).isfinite() for entry in history(trainer) for value in entry.values())
    assert {parameter.dtype for parameter in trainer.discriminator.parameters()} == {torch.float32}


def test_a_meter_forgets_what_it_told():
    meter = AverageMeter()
    assert meter.pop() == {}
    meter.add({"a": torch.tensor(1.0), "b": torch.tensor([1.0, 2.0])})
    meter.add({"a": torch.tensor(4.0)})
    assert meter.pop() == {"a": 2.5, "b_0": 1.0, "b_1": 2.0}
    assert meter.pop() == {}


def test_wrong_arguments_are_named(tmp_path):
    with pytest.raises(ValueError, match="`adversarial_weight` must be at least 0, got -1"):
        CodecTrainingArguments(str(tmp_path), adversarial_weight=-1)
    arguments = TrainingArguments(str(tmp_path), use_cpu=True)
    with pytest.raises(ValueError, match="`args` must be CodecTrainingArguments when there is a `discriminator`"):
        CodecTrainer(make_model(), arguments, discriminator=make_discriminator())


@pytest.mark.parametrize(
    ("adversarial", "changes", "message"),
    [
        (False, {"adversarial_start_step": 2}, "`adversarial_start_step` must be 0 without a `discriminator`, got 2."),
        (False, {"adversarial_weight": 50}, "`adversarial_weight` must be 1.0 without a `discriminator`, got 50."),
        (False, {"feature_weight": 0}, "`feature_weight` must be 2.0 without a `discriminator`, got 0."),
        (
            False,
            {"discriminator_learning_rate": 9},
            "`discriminator_learning_rate` must be None without a `discriminator`, got 9.",
        ),
        (False, {"optim_target_modules": ["x"]}, "`optim_target_modules` must be None with `optim`"),
        (False, {"max_grad_norm": None}, "`max_grad_norm` must be a number, 0 for no limit, got None."),
        (
            True,
            {"lr_scheduler_type": "reduce_lr_on_plateau", "eval_strategy": "steps"},
            "`lr_scheduler_type` must be one that depends on the step alone when there is a `discriminator`, of which "
            "nothing is evaluated, got 'reduce_lr_on_plateau'.",
        ),
        (True, {"lr_scheduler_type": "greedy", "eval_strategy": "steps"}, "nothing is evaluated, got 'greedy'."),
    ],
    ids=str,
)
def test_settings_that_would_be_passed_over_are_refused_at_once(tmp_path, adversarial, changes, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        make_trainer(tmp_path, adversarial, **changes)


def test_an_optimizer_of_a_discriminator_is_no_one_elses(tmp_path):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], 0.1)
    arguments = {"output_dir": str(tmp_path), "use_cpu": True}
    with pytest.raises(ValueError, match="`discriminator_optimizer` must be None without a `discriminator`, got one."):
        CodecTrainer(make_model(), CodecTrainingArguments(**arguments), discriminator_optimizer=optimizer)
    given = {"discriminator": make_discriminator(), "discriminator_optimizer": optimizer}
    with pytest.raises(ValueError, match="`discriminator_learning_rate` must be None with a `discriminator_optimizer`"):
        CodecTrainer(make_model(), CodecTrainingArguments(**arguments, discriminator_learning_rate=0.1), **given)


def train_process(rank: int, folder: str) -> None:
    """Train in one of two processes, each of which gets other crops, and write down what came out."""
    os.environ["ACCELERATE_USE_CPU"] = "true"
    trainer = make_trainer(
        folder,
        max_steps=4,
        per_device_train_batch_size=1,
        ddp_backend="gloo",
        gradient_accumulation_steps=2,
        save_steps=4,
    )
    trainer.train()
    assert trainer.args.world_size == 2
    state = {f"codec.{name}": value for name, value in trainer.model.state_dict().items()}
    state |= {f"discriminator.{name}": value for name, value in trainer.discriminator.state_dict().items()}
    torch.save(state, f"{folder}/{rank}.pt")
    with open(f"{folder}/{rank}.json", "w") as file:
        json.dump(history(trainer), file)
    torch.distributed.destroy_process_group()


def test_two_processes_stay_equal(tmp_path):
    first, second = run_two(train_process, tmp_path)
    for name, value in first.items():
        assert torch.equal(value, second[name]), name
    logged = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2)]
    for ours, theirs in zip(*logged, strict=True):
        assert ours["loss_mel"] == theirs["loss_mel"]
        assert ours["usage_0"] == theirs["usage_0"]
    assert (tmp_path / "checkpoint-4" / "discriminator" / "model.safetensors").is_file()
