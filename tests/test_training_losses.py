"""Losses of words and codes: what they are, and that a batch in parts teaches what the whole batch does."""

import pytest
import torch
from tiny import CASES, DEPTH, TALKER, TEXT, THINKER, build, josie_config, talker_inputs
from transformers import Trainer, TrainerCallback, TrainingArguments

import josie
from josie.configuration_josie.constants import IGNORE_INDEX
from josie.modeling_josie.losses.targets import choose_frames
from josie.training.loss_parts import LossParts


def make_row(index: int, kind: str) -> dict[str, torch.Tensor]:
    """Return a row of some length: words, and in speech rows codes of some length; `mute` learns no words."""
    generator = torch.Generator().manual_seed(index)
    length, frames = 3 + (5 * index) % 7, 2 + (3 * index) % 6
    ids = torch.randint(10, 53, (length,), generator=generator)
    labels = torch.where(torch.arange(length) < index % 3, IGNORE_INDEX, ids)
    row = {"input_ids": ids, "labels": torch.full_like(ids, IGNORE_INDEX) if kind == "mute" else labels}
    codes = torch.full((3, frames), IGNORE_INDEX)
    if kind != "text":
        codes = torch.randint(0, 11, (3, frames), generator=generator)
        codes[0, -1], codes[1:, -1] = 11, IGNORE_INDEX
    return row | {"speech_codes": codes, "speech_mask": torch.full((length,), int(kind != "text"))}


def join(rows: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """Return a batch, padded on the right."""
    fillers = {"input_ids": 0, "labels": IGNORE_INDEX, "speech_codes": IGNORE_INDEX, "speech_mask": 0}
    longest = {name: max(row[name].shape[-1] for row in rows) for name in rows[0]}
    batch = {
        name: torch.stack(
            [torch.nn.functional.pad(row[name], (0, size - row[name].shape[-1]), value=fillers[name]) for row in rows]
        )
        for name, size in longest.items()
    }
    if "input_ids" in batch:
        batch["attention_mask"] = (batch["input_ids"] != 0).long()
    return batch


MIXES = {
    "text": ["text"] * 4,
    "speech": ["mute"] * 4,
    "mixed": ["text", "speech", "mute", "speech"],
}


def make_model(only: str | None = None, **changes):
    """Return JOSIE without front ends, or one part of it."""
    torch.manual_seed(0)
    thinker = dict(text_config=TEXT)
    talker = dict(TALKER, depth_decoder_config=DEPTH) | changes
    if only == "thinker":
        return build(josie.JosieThinkerForConditionalGeneration, josie.JosieThinkerConfig(**thinker))
    if only == "talker":
        return build(josie.JosieTalkerForConditionalGeneration, josie.JosieTalkerConfig(**talker))
    config = josie_config(thinker_config=thinker, talker_config=talker, talker_loss_weight=0.7, depth_loss_weight=1.3)
    return build(josie.JosieForConditionalGeneration, config)


class KeepGradients(TrainerCallback):
    """Copies the gradients of the last step."""

    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
        self.gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def train(folder, model, rows, batch_size: int, attach: bool = True, **changes):
    """Train one step on all rows in parts of `batch_size`; return the gradients of it and the trainer."""
    arguments = dict(
        output_dir=str(folder),
        max_steps=1,
        per_device_train_batch_size=batch_size,
        per_device_eval_batch_size=batch_size,
        gradient_accumulation_steps=len(rows) // batch_size,
        logging_steps=1,
        max_grad_norm=0.0,
        learning_rate=0.0,
        report_to="none",
        save_strategy="no",
        use_cpu=True,
        disable_tqdm=True,
        remove_unused_columns=False,
    )
    trainer = Trainer(
        model,
        TrainingArguments(**(arguments | changes)),
        train_dataset=rows,
        eval_dataset=rows,
        data_collator=join,
    )
    assert type(trainer) is Trainer
    if attach:
        LossParts.attach(trainer)
    keeper = KeepGradients()
    trainer.add_callback(keeper)
    trainer.train()
    return keeper.gradients, trainer


def assert_equal(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]):
    assert ours.keys() == theirs.keys()
    largest = max(float(value.abs().max()) for value in ours.values())
    assert largest > 0
    for name, value in ours.items():
        torch.testing.assert_close(theirs[name], value, rtol=1e-5, atol=1e-5 * largest, msg=name)


@pytest.mark.parametrize("mix", list(MIXES))
def test_accumulated_gradients_are_those_of_one_batch(mix, tmp_path):
    rows = [make_row(index, kind) for index, kind in enumerate(MIXES[mix])]
    whole, whole_trainer = train(tmp_path, make_model(), rows, batch_size=4)
    parts, parts_trainer = train(tmp_path, make_model(), rows, batch_size=1)
    assert_equal(whole, parts)
    logs = [trainer.state.log_history[0] for trainer in (whole_trainer, parts_trainer)]
    weights = {"text_loss": 1.0, "talker_loss": 0.7, "depth_loss": 1.3}
    for name in ("loss", *weights):
        assert logs[0].get(name, 0) == pytest.approx(logs[1].get(name, 0), rel=1e-4)
    assert logs[0]["loss"] == pytest.approx(sum(weights[name] * logs[0].get(name, 0) for name in weights), rel=1e-4)
    assert {name for name in weights if name in logs[0]} == {
        "text": {"text_loss"},
        "speech": {"talker_loss", "depth_loss"},
        "mixed": set(weights),
    }[mix]


def test_one_batch_teaches_what_forward_does(tmp_path):
    rows = [make_row(index, kind) for index, kind in enumerate(MIXES["mixed"])]
    model = make_model().train()
    model(**join(rows)).loss.backward()
    expected = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    assert_equal(expected, train(tmp_path, make_model(), rows, batch_size=4)[0])


@pytest.mark.parametrize("attach", [True, False], ids=["parts", "plain"])
def test_thinker_alone(attach, tmp_path):
    names = ("input_ids", "labels")
    rows = [{name: make_row(index, "text")[name] for name in names} for index in range(4)]
    whole, parts = (train(tmp_path, make_model("thinker"), rows, size, attach)[0] for size in (4, 1))
    assert_equal(whole, parts)


def test_talker_alone(tmp_path):
    rows = [{"speech_codes": make_row(index, "speech")["speech_codes"]} for index in range(4)]
    whole, parts = (train(tmp_path, make_model("talker"), rows, size)[0] for size in (4, 1))
    assert_equal(whole, parts)


def test_words_are_exact_without_help_and_codes_are_refused_where_none_stand_by(tmp_path):
    rows = [make_row(index, "text") for index in range(4)]
    whole, parts = (train(tmp_path, make_model(), rows, size, attach=False)[0] for size in (4, 1))
    assert_equal(whole, parts)
    rows = [make_row(index, kind) for index, kind in enumerate(MIXES["mixed"])]
    with pytest.raises(ValueError, match="`labels` must have a token to learn"):
        train(tmp_path, make_model(), rows, 1, attach=False)


def test_codes_without_help_are_averaged_by_words():
    model, rows = make_model(), [make_row(index, "speech") for index in range(3)]
    counts = [int(model.count_targets(**join([row]))["text"]) for row in rows]
    total = torch.tensor(sum(counts))
    for row, count in zip(rows, counts, strict=True):
        alone, part = model(**join([row])), model(**join([row]), num_items_in_batch=total)
        for name in ("text_loss", "talker_loss", "depth_loss"):
            torch.testing.assert_close(part[name], alone[name] * count / total)


def test_evaluation_logs_the_parts(tmp_path):
    rows = [make_row(index, kind) for index, kind in enumerate(MIXES["mixed"])]
    _, trainer = train(tmp_path, make_model(), rows, batch_size=2)
    metrics = trainer.evaluate()
    with torch.no_grad():
        expected = trainer.model.eval()(**join(rows))
    for name in ("text_loss", "talker_loss", "depth_loss"):
        assert metrics[f"eval_{name}"] == pytest.approx(float(expected[name]), rel=1e-4)
        assert trainer.state.log_history[-1][f"eval_{name}"] == metrics[f"eval_{name}"]


def test_smoothed_labels_are_refused_where_speech_is_learned(tmp_path):
    rows = [make_row(index, kind) for index, kind in enumerate(MIXES["speech"])]
    with pytest.raises(ValueError, match="`label_smoothing_factor` must be 0 .* got 0.1"):
        train(tmp_path, make_model(), rows, 4, label_smoothing_factor=0.1)


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize("name", ["talker-depth", "talker-parallel"])
def test_losses_equal_a_naive_loop(name, training):
    """Frame `t`, level by level, with a model that is given nothing from `t` on."""
    model, inputs = CASES[name].build(), talker_inputs()
    codes = inputs.pop("speech_codes")
    outputs = model.train(training)(codes, **inputs)
    model.eval()
    first, rest = [], []
    for row in range(2):
        alone = {key: value[row : row + 1] for key, value in inputs.items()}
        for frame in range(8):
            known = torch.zeros(1, 3, frame + 1, dtype=torch.long)
            known[:, :, :frame] = codes[row : row + 1, :, :frame].clamp(0, 10)
            if codes[row, 0, frame] == IGNORE_INDEX:
                continue
            for level in range(3):
                target = codes[row, level, frame]
                given = model(known, **alone)
                logits = given.logits[0, frame] if level == 0 else given.depth_logits[0, level - 1, frame]
                if target != IGNORE_INDEX:
                    (rest if level else first).append(-logits.log_softmax(-1)[target])
                    known[0, level, frame] = target.clamp(max=10)
    torch.testing.assert_close(outputs.talker_loss, torch.stack(first).mean())
    torch.testing.assert_close(outputs.depth_loss, torch.stack(rest).mean())


class TestFractionOfFrames:
    def test_is_unbiased(self):
        model, inputs = make_model("talker").train(), talker_inputs()
        expected = float(model(**inputs).depth_loss.detach())
        model.config.depth_loss_fraction = 0.3
        with torch.no_grad():
            drawn = torch.stack([model(**inputs).depth_loss for _ in range(300)])
        assert drawn.std() > 0
        assert abs(float(drawn.mean()) - expected) < 4 * float(drawn.std()) / 300**0.5

    def test_only_chosen_frames_are_decoded(self, monkeypatch):
        model, inputs = make_model("talker", depth_loss_fraction=0.3), talker_inputs()
        seen = []
        decode = model.depth_decoder.forward
        monkeypatch.setattr(model.depth_decoder, "forward", lambda *args: seen.append(len(args[0])) or decode(*args))
        model.train()(**inputs)
        model.eval()(**inputs)
        assert seen == [round(0.3 * 11), 16]  # 7 and 4 of 8 frames each have codes to learn

    def test_follows_the_seed(self):
        model, inputs = make_model("talker", depth_loss_fraction=0.3).train(), talker_inputs()
        losses = []
        for seed in (5, 5, 6):
            torch.manual_seed(seed)
            losses.append(float(model(**inputs).depth_loss.detach()))
        assert losses[0] == losses[1] != losses[2]

    def test_leaves_evaluation_alone(self):
        inputs = talker_inputs()
        some, all_frames = make_model("talker", depth_loss_fraction=0.1), make_model("talker")
        assert torch.equal(some(**inputs).depth_loss, all_frames(**inputs).depth_loss)

    @pytest.mark.parametrize(("fraction", "chosen"), [(1, 4), (0.5, 2), (1e-9, 1)], ids=str)
    def test_chooses_among_frames_with_something_to_learn(self, fraction, chosen):
        targets = torch.full((9, 2), IGNORE_INDEX)
        targets[[1, 4, 5, 8], 1] = 3
        frames, scale = choose_frames(targets, fraction)
        assert len(set(frames.tolist())) == chosen
        assert set(frames.tolist()) <= {1, 4, 5, 8}
        assert scale == 4 / chosen

    def test_nothing_to_learn_still_gives_gradients(self):
        model = make_model("talker", depth_loss_fraction=0.5).train()
        loss = model(torch.full((2, 3, 4), IGNORE_INDEX)).loss
        loss.backward()
        assert loss == 0
        assert all(p.grad is not None and not p.grad.any() for p in model.parameters())

    @pytest.mark.parametrize("fraction", [0, -0.5, 1.5])
    def test_out_of_range(self, fraction):
        with pytest.raises(Exception, match="`depth_loss_fraction` must be in"):
            josie.JosieTalkerConfig(**TALKER, depth_loss_fraction=fraction)


def test_no_words_to_learn_cost_nothing():
    model = build(josie.JosieThinkerForConditionalGeneration, josie.JosieThinkerConfig(**THINKER))
    ids = torch.randint(10, 53, (2, 5))
    assert model(ids, labels=torch.full_like(ids, IGNORE_INDEX)).loss == 0
