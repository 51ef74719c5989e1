"""`LossParts.attach`: a trainer of another library learns what the model learns, or is refused; TRL's among them."""

import importlib

import pytest
import torch
import trl_stand_in
from test_training_losses import join, make_model, make_row
from transformers import Trainer, TrainingArguments

import josie
from josie.modeling_josie.losses import dropped

ROWS = [make_row(index, kind) for index, kind in enumerate(["speech", "text", "mute", "speech"])]
PARTS = ("text_loss", "talker_loss", "depth_loss")
SPLITS = pytest.mark.parametrize(("size", "steps"), [(4, 1), (1, 4)], ids=["whole", "accumulated"])


@pytest.fixture(params=["stand-in", "trl"])
def trl(request):
    """TRL, or what is like it."""
    if request.param == "stand-in":
        return trl_stand_in
    pytest.importorskip("trl", reason="the stand-in is tried alone where TRL is not installed: pip install trl")
    return importlib.import_module("trl")


def settings(folder, size=4, steps=1, **changes) -> dict:
    """Return arguments of two steps on the rows, in order."""
    common = dict(
        output_dir=str(folder),
        max_steps=2,
        per_device_train_batch_size=size,
        per_device_eval_batch_size=size,
        gradient_accumulation_steps=steps,
        train_sampling_strategy="sequential",
        learning_rate=1e-2,
        logging_steps=1,
        report_to="none",
        save_strategy="no",
        use_cpu=True,
        bf16=False,
        activation_checkpointing=False,
        disable_tqdm=True,
        remove_unused_columns=False,
        seed=3,
    )
    return common | changes


class Numbers(torch.utils.data.Dataset):
    """Rows by their number, as a table that TRL takes."""

    column_names = ["input_ids"]

    def __len__(self):
        return len(ROWS)

    def __getitem__(self, index):
        return {"input_ids": index}


def collate(examples: list[dict]) -> dict[str, torch.Tensor]:
    """Return the batch of some numbers."""
    return join([ROWS[example["input_ids"]] for example in examples])


def build(trl, model, folder, **changes):
    """Return TRL's trainer, not yet attached."""
    arguments = trl.SFTConfig(**settings(folder, **changes), dataset_kwargs={"skip_prepare_dataset": True})
    options = dict(data_collator=collate, train_dataset=Numbers(), eval_dataset=Numbers())
    if trl is not trl_stand_in:
        from datasets import Dataset

        table = Dataset.from_dict({"input_ids": list(range(len(ROWS)))})
        options |= dict(train_dataset=table, eval_dataset=table, processing_class=josie.load_default_tokenizer(301))
    return trl.SFTTrainer(model, arguments, **options)


def build_ours(model, folder, **changes):
    """Return JOSIE's trainer of the same batches."""
    arguments = TrainingArguments(**settings(folder, **changes))
    return josie.JosieTrainer(model, arguments, collate, Numbers(), Numbers())


def losses_of(trainer) -> list[dict]:
    """Return what was logged of the losses, by steps."""
    entries = [entry for entry in trainer.state.log_history if "loss" in entry]
    return [{name: entry[name] for name in ("loss", *PARTS)} for entry in entries]


@SPLITS
def test_an_attached_sft_trainer_learns_what_ours_does(trl, tmp_path, size, steps):
    ours = build_ours(make_model(), tmp_path, size=size, steps=steps)
    theirs = josie.LossParts.attach(build(trl, make_model(), tmp_path, size=size, steps=steps))
    for trainer in (ours, theirs):
        trainer.train()
    assert losses_of(theirs) == losses_of(ours)
    for (name, learned), expected in zip(theirs.model.named_parameters(), ours.model.parameters(), strict=True):
        assert torch.equal(learned, expected), name
    moved = {
        name.partition(".")[0]
        for (name, now), before in zip(theirs.model.named_parameters(), make_model().parameters(), strict=True)
        if not torch.equal(now, before)
    }
    assert moved == {"thinker", "talker"}
    metrics = [trainer.evaluate() for trainer in (theirs, ours)]
    for name in ("loss", *PARTS):
        assert metrics[0][f"eval_{name}"] == metrics[1][f"eval_{name}"]


@pytest.mark.parametrize("is_attached", [True, False], ids=["attached", "alone"])
@pytest.mark.parametrize("bf16", [False, True], ids=["float32", "autocast"])  # accelerate's `forward` around TRL's
def test_speech_that_is_dropped_is_told(trl, tmp_path, monkeypatch, is_attached, bf16):
    told = []
    monkeypatch.setattr(dropped.logger, "warning_once", told.append)
    trainer = build(trl, make_model(), tmp_path, bf16=bf16, max_steps=1)
    if is_attached:
        josie.LossParts.attach(trainer)
    trainer.train()
    pairs = zip(trainer.model.talker.parameters(), make_model().talker.parameters(), strict=True)
    assert any(not torch.equal(now, before) for now, before in pairs) == is_attached
    assert any("`josie.LossParts.attach(trainer)`" in sentence for sentence in told) != is_attached


@SPLITS
@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")  # peft 0.21 asks it
def test_adapters_learn_what_they_learn_with_ours(trl, tmp_path, size, steps):
    peft = pytest.importorskip("peft", reason="adapters need peft: pip install 'josie[peft]'")
    config = peft.LoraConfig(target_modules=r"talker\..*(qkv_proj|o_proj)", r=3)
    adapted = []
    for _ in range(2):
        model = make_model()
        torch.manual_seed(7)
        adapted.append(peft.get_peft_model(model, config))
    ours = build_ours(adapted[0], tmp_path, size=size, steps=steps)
    theirs = josie.LossParts.attach(build(trl, adapted[1], tmp_path, size=size, steps=steps))
    for trainer in (ours, theirs):
        trainer.train()
    assert losses_of(theirs) == losses_of(ours)
    learned = {name: value for name, value in theirs.model.named_parameters() if "lora_B" in name}
    assert learned
    assert all(value.abs().sum() > 0 for value in learned.values())
    expected = dict(ours.model.named_parameters())
    assert all(torch.equal(value, expected[name]) for name, value in learned.items())


def test_without_it_text_alone_is_learned(trl, tmp_path):
    """The fault that the documentation tells of, which the stand-in has too."""
    trainer = build(trl, make_model(), tmp_path)
    trainer.train()
    entry = trainer.state.log_history[0]
    assert "talker_loss" not in entry
    with torch.no_grad():
        text_loss = make_model()(**join(ROWS)).text_loss
    assert entry["loss"] == pytest.approx(float(text_loss), rel=1e-4)
    start = make_model()
    for learned, expected in zip(trainer.model.talker.parameters(), start.talker.parameters(), strict=True):
        assert torch.equal(learned, expected)


class Scaled(trl_stand_in.SFTTrainer):
    """A user's own kind of TRL's trainer."""

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """Return twice the loss."""
        return 2 * super().compute_loss(model, inputs, False, num_items_in_batch)


class Forgetful(Trainer):
    """A trainer that keeps the number of targets to itself."""

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """Return the loss of this batch."""
        outputs = model(**inputs)
        return (outputs.loss, outputs) if return_outputs else outputs.loss


class Faulty(Trainer):
    """A trainer with a fault of its own, behind the model."""

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """Raise an error."""
        super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        raise RuntimeError("no such thing")


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (
            Scaled,
            r"`compute_loss` of the trainer must hand `num_items_in_batch` on .*, got a Scaled .*: Could not infer",
        ),
        (
            Forgetful,
            "`compute_loss` of the trainer must hand `num_items_in_batch` on .*, got a Forgetful that does not.$",
        ),
    ],
)
@pytest.mark.parametrize("step", ["train", "evaluate"])
def test_a_class_that_drops_what_the_model_learns_is_refused(kind, message, step, tmp_path):
    arguments = trl_stand_in.SFTConfig(**settings(tmp_path))
    trainer = kind(make_model(), arguments, data_collator=collate, train_dataset=Numbers(), eval_dataset=Numbers())
    with pytest.raises(ValueError, match=message):
        getattr(josie.LossParts.attach(trainer), step)()
    assert not trainer.model._forward_pre_hooks


def test_its_own_faults_are_its_own(tmp_path):
    trainer = Faulty(make_model(), TrainingArguments(**settings(tmp_path)), collate, Numbers())
    with pytest.raises(RuntimeError, match="^no such thing$"):
        josie.LossParts.attach(trainer).train()
    assert not trainer.model._forward_pre_hooks


@pytest.mark.parametrize(
    ("kind", "changes", "message"),
    [
        ("DPOTrainer", {}, "`trainer` must learn what its rows say .*, as `SFTTrainer` of TRL does, got a DPOTrainer."),
        ("SFTTrainer", {"loss_type": "dft"}, "`loss_type` must be 'nll' where the model makes its loss, got 'dft'."),
        ("SFTTrainer", {"aux_loss_enabled": True, "router_aux_loss_coef": 0.1}, "`router_aux_loss_coef` must be 0"),
    ],
)  # fmt: skip
def test_losses_that_are_none_of_the_models_are_refused(kind, changes, message, tmp_path):
    trainer = getattr(trl_stand_in, kind)(make_model(), trl_stand_in.SFTConfig(**settings(tmp_path)), collate)
    for name, value in changes.items():
        setattr(trainer.args if hasattr(trainer.args, name) else trainer, name, value)
    with pytest.raises(ValueError, match=message):
        josie.LossParts.attach(trainer)


@pytest.mark.parametrize("only", [None, "thinker"], ids=["whole", "thinker"])
def test_rows_that_trl_reads_are_told_of(only, tmp_path, caplog):
    reader = type("DataCollatorForLanguageModeling", (), {"__call__": lambda _, __: {}, "__module__": "trl.trainer"})()
    trainer = trl_stand_in.SFTTrainer(make_model(only), trl_stand_in.SFTConfig(**settings(tmp_path)), reader)
    with caplog.at_level("WARNING", logger="josie"):
        josie.LossParts.attach(trainer)
    assert ("`data_collator` must be a `josie.JosieDataCollator`" in caplog.text) == (only is None)


def test_configurations_have_an_auto_map_that_is_not_saved(tmp_path):
    """Trainers of preferences read it where they load the model that they compare with."""
    model = make_model()
    for config in (model.config, model.config.thinker_config):
        assert config.auto_map == {}
        assert "auto_map" not in config.to_dict()
        config.save_pretrained(tmp_path)
        assert "auto_map" not in (tmp_path / "config.json").read_text()
    model.config.auto_map = {"AutoModel": "code.Model"}
    assert model.config.to_dict()["auto_map"] == {"AutoModel": "code.Model"}
    model.save_pretrained(tmp_path)
    assert "auto_map" not in (tmp_path / "config.json").read_text()


def test_code_of_a_checkpoint_has_its_own_auto_map(monkeypatch):
    monkeypatch.setattr(josie.JosieConfig, "_auto_class", "AutoConfig")
    assert not hasattr(make_model().config, "auto_map")
