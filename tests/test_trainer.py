"""`JosieTrainer`: rows of conversations, whole checkpoints, smoothed labels, and workers that outlive a signal."""

import copy
import os
import re
import signal
import subprocess

import numpy as np
import pytest
import torch
from datasets import Dataset, IterableDataset
from recipe_runs import write_conversations
from torch.utils.data import DataLoader
from transformers import AutoModelForMultimodalLM, AutoProcessor, TrainingArguments, default_data_collator

import josie
from josie.training.conversations import read_jsonl
from josie.training.data_workers import keep_workers_alive

SIZES = dict(per_device_train_batch_size=2, per_device_eval_batch_size=2, max_steps=2, logging_steps=1)


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    """Conversations with images and audio, text alone in the answers."""
    rows = list(read_jsonl(write_conversations(tmp_path_factory.mktemp("rows"), number=8), ["speaker"]))
    for row in rows:
        answer = row["messages"][1]["content"]
        row["messages"][1]["content"] = [part for part in answer if part["type"] == "text"]
    return rows


@pytest.fixture
def parts(tiny_folder):
    return AutoModelForMultimodalLM.from_pretrained(tiny_folder), AutoProcessor.from_pretrained(tiny_folder)


def speak(row):
    """Return a row whose answer is spoken, in codes."""
    codes = torch.randint(0, 11, (3, 2 + len(str(row)) % 5))
    codes[0, -1], codes[1:, -1] = 11, -100
    return row | {"speech_codes": codes.tolist()}


def make_trainer(model, folder, rows, processor=None, arguments=None, **options):
    settings = SIZES | dict(output_dir=str(folder), report_to="none", disable_tqdm=True, use_cpu=True)
    settings |= arguments or {}
    return josie.JosieTrainer(
        model,
        TrainingArguments(**settings),
        train_dataset=rows,
        eval_dataset=rows,
        processing_class=processor,
        **options,
    )


def test_rows_need_nothing_but_the_processor_and_each_checkpoint_is_a_model_that_answers(parts, rows, tmp_path):
    model, processor = parts
    make_trainer(model, tmp_path, rows, processor, dict(save_steps=2)).train()
    folder = tmp_path / "checkpoint-2"
    loaded, its_processor = AutoModelForMultimodalLM.from_pretrained(folder), AutoProcessor.from_pretrained(folder)
    question = its_processor.apply_chat_template(
        rows[3]["messages"][:1], add_generation_prompt=True, tokenize=True, return_dict=True
    )
    assert "input_features" in question
    expected = model.eval().generate(**question, max_new_tokens=3)
    assert torch.equal(loaded.generate(**question, max_new_tokens=3), expected)


def test_the_parts_of_the_loss_are_logged_and_evaluated(parts, rows, tmp_path):
    model, processor = parts
    mixed = [speak(row) if index % 2 else row for index, row in enumerate(rows)]
    collator = josie.JosieDataCollator(processor)
    trainer = josie.JosieTrainer(
        model,
        TrainingArguments(
            str(tmp_path), report_to="none", disable_tqdm=True, use_cpu=True, prediction_loss_only=True, **SIZES
        ),
        collator,
        mixed,
        mixed,
    )
    assert trainer.processing_class is processor
    trainer.train()
    metrics = trainer.evaluate()
    names = ("text_loss", "talker_loss", "depth_loss")
    assert any(set(names) <= entry.keys() for entry in trainer.state.log_history)
    with torch.no_grad():
        whole = model.eval()(**collator(mixed))
    for name in names:
        assert metrics[f"eval_{name}"] == pytest.approx(float(whole[name]), rel=1e-4)
    assert "test_depth_loss" in trainer.predict(mixed).metrics


@pytest.mark.parametrize("name", ["length", "size"])
def test_rows_are_grouped_by_their_column_of_lengths(name, parts, tmp_path):
    model, processor = parts
    lengths = [1 + 7 * index % 40 for index in range(40)]
    turns = [[{"role": "user", "content": "Hm"}, {"role": "assistant", "content": "a" * size}] for size in lengths]
    conversations = Dataset.from_dict({"messages": turns, name: lengths})
    made = [processor.apply_chat_template(each, tokenize=True, return_dict=True) for each in turns]
    processed = Dataset.from_dict({"input_ids": [each["input_ids"][0] for each in made], name: lengths})
    settings = dict(train_sampling_strategy="group_by_length", length_column_name=name)
    for rows in (conversations, processed):
        trainer = make_trainer(model, tmp_path, rows, processor, settings)
        for loader in (trainer.get_train_dataloader(), trainer.get_eval_dataloader()):
            batches = list(loader)
            assert set(batches[0]) <= {"input_ids", "labels", "attention_mask"}
            waste = [int(np.ptp(batch["attention_mask"].sum(dim=1).numpy())) for batch in batches]
            assert np.mean(waste) < 5  # 13 by chance


def test_lengths_are_a_plain_list(parts, tmp_path):
    rows = Dataset.from_dict({"messages": [[{"role": "user", "content": "Hm"}]] * 4, "length": [3, 1, 4, 2]})
    trainer = make_trainer(*parts[:1], tmp_path, rows, parts[1], dict(train_sampling_strategy="group_by_length"))
    sampler = trainer.get_train_dataloader().batch_sampler.sampler
    assert type(sampler.lengths) is list
    assert sampler.lengths == [3, 1, 4, 2]
    trainer.train_dataset = Dataset.from_dict(rows[:] | {"length": [3, None, 4, 2]})
    with pytest.raises(ValueError, match="`length_column_name` must be a column with a number in every row, got None"):
        trainer.get_train_dataloader()


@pytest.mark.parametrize(
    ("name", "columns", "message"),
    [
        (
            "lenght",
            {},
            "`length_column_name` must be a column, by which rows are grouped, got 'lenght', which is not am",
        ),
        ("lenght", {"input_features": [[1]] * 4}, "got 'lenght', which is not among ['input_features', 'messages']."),
        ("length", {}, "got 'length', which is not among ['messages']."),
        (
            "length",
            None,
            "`train_sampling_strategy` must not be 'group_by_length' for rows without 'input_features', of",
        ),
    ],
)
def test_rows_without_a_length_cannot_be_grouped(name, columns, message, parts, tmp_path):
    rows = Dataset.from_dict({"messages": [[{"role": "user", "content": "Hm"}]] * 4} | (columns or {}))
    rows = rows if columns is not None else list(rows)
    settings = dict(train_sampling_strategy="group_by_length", length_column_name=name)
    trainer = make_trainer(*parts[:1], tmp_path, rows, parts[1], settings)
    for make in (trainer.train, trainer.evaluate):
        with pytest.raises(ValueError, match=re.escape(message)):
            make()


class Head(torch.nn.Module):
    """A head around a model, which hands on what it does not know."""

    target_names = ("text",)

    def __init__(self, model):
        super().__init__()
        self.model = model

    def count_targets(self, **batch):
        return self.model.count_targets(**batch)

    def forward(self, own_labels=None, **batch):
        return self.model(**batch)


def test_labels_that_no_batch_has_are_refused(parts, rows, tmp_path):
    model, processor = parts
    head = Head(model)
    for learner, names, options in (
        (model, ["lables"], {}),
        (model.thinker, ["labels", "speech_codes"], {}),
        (model.talker, ["speech_codes", "labels"], {"whole_model": model}),
        (head, ["own_labels", "lables"], {"whole_model": model}),
    ):
        message = f"`label_names` must be inputs of the model, such as 'labels' and 'speech_codes', got {names[-1]!r}."
        with pytest.raises(ValueError, match=re.escape(message)):
            make_trainer(learner, tmp_path, rows, processor, {"label_names": names}, **options)
    for learner, names, options in (
        (model, ["labels", "speech_codes"], {}),
        (head, ["labels"], {"whole_model": model}),
    ):
        make_trainer(learner, tmp_path, rows, processor, {"label_names": names}, **options)


@pytest.mark.parametrize("place", [None, 0, 1])
def test_each_process_makes_its_own_batches_of_a_stream(place, parts, tmp_path, monkeypatch):
    """Rows have two images each, so that a batch has more images than rows; `place` is that of two processes."""
    model, processor = parts
    image = {"type": "image", "image": np.zeros((20, 20, 3), np.uint8)}
    turns = [[{"role": "user", "content": [image, image, {"type": "text", "text": "a" * size}]}] for size in range(8)]
    stream = IterableDataset.from_generator(lambda: ({"messages": messages} for messages in turns))
    trainer = make_trainer(model, tmp_path, stream, processor)
    count = 1 if place is None else 2
    shared = trainer.accelerator.state._shared_state
    monkeypatch.setitem(shared, "num_processes", count)
    monkeypatch.setitem(shared, "process_index", place or 0)
    for loader in (trainer.get_train_dataloader(), trainer.get_eval_dataloader()):
        batches = list(loader)
        starts = range(2 * (place or 0), 8, 2 * count)
        assert len(batches) == len(starts)
        for batch, start in zip(batches, starts, strict=True):
            expected = trainer.data_collator([{"messages": messages} for messages in turns[start : start + 2]])
            assert set(batch) == set(expected)
            assert all(torch.equal(batch[name], value) for name, value in expected.items())
    with pytest.raises(ValueError, match="`accelerator_config` must have `dispatch_batches` of None or False"):
        make_trainer(model, tmp_path, stream, processor, dict(accelerator_config={"dispatch_batches": True}))


def test_every_class_of_trainer_can_have_the_parts(parts, rows, tmp_path):
    from transformers import Trainer

    class Other(Trainer):
        pass

    model, processor = parts
    arguments = TrainingArguments(
        str(tmp_path), report_to="none", disable_tqdm=True, use_cpu=True, remove_unused_columns=False, **SIZES
    )
    trainer = Other(model, arguments, train_dataset=rows, data_collator=josie.JosieDataCollator(processor))
    assert josie.LossParts.attach(trainer) is trainer
    assert isinstance(trainer, Other)
    trainer.train()
    assert all("text_loss" in entry for entry in trainer.state.log_history if "loss" in entry)


class TestSmoothedLabels:
    @pytest.mark.parametrize("only_thinker", [False, True], ids=["whole", "thinker"])
    def test_almost_none_is_none(self, only_thinker, parts, rows, tmp_path):
        losses = []
        for smoothing in (0.0, 1e-6):
            model = copy.deepcopy(parts[0].thinker if only_thinker else parts[0])
            trainer = make_trainer(model, tmp_path, rows, parts[1], dict(label_smoothing_factor=smoothing))
            trainer.train()
            losses.append([entry["loss"] for entry in trainer.state.log_history if "loss" in entry])
            losses[-1].append(trainer.evaluate()["eval_loss"])
        assert losses[1] == pytest.approx(losses[0], rel=1e-4)

    def test_accumulated_gradients_are_those_of_one_batch(self, parts, rows, tmp_path):
        norms = []
        for size, count in ((6, 1), (2, 3)):
            arguments = dict(
                label_smoothing_factor=0.3,
                per_device_train_batch_size=size,
                gradient_accumulation_steps=count,
                train_sampling_strategy="sequential",
                max_steps=1,
            )
            trainer = make_trainer(copy.deepcopy(parts[0]), tmp_path, rows, parts[1], arguments)
            trainer.train()
            norms.append([trainer.state.log_history[0][name] for name in ("loss", "grad_norm")])
        assert norms[1] == pytest.approx(norms[0], rel=1e-4)

    def test_the_loss_is_the_one_of_torch(self, parts, rows, tmp_path):
        model, processor = parts
        trainer = make_trainer(model, tmp_path, rows[:2], processor, dict(label_smoothing_factor=0.3))
        batch = josie.JosieDataCollator(processor)(rows[:2])
        with torch.no_grad():
            logits = model(**{name: value for name, value in batch.items() if name != "labels"}).logits
        expected = torch.nn.functional.cross_entropy(
            logits[:, :-1].flatten(0, 1), batch["labels"][:, 1:].flatten(), label_smoothing=0.3
        )
        assert trainer.evaluate()["eval_loss"] == pytest.approx(float(expected), rel=1e-5)

    def test_speech_is_refused(self, parts, rows, tmp_path):
        spoken = [speak(row) for row in rows]
        trainer = make_trainer(parts[0], tmp_path, spoken, parts[1], dict(label_smoothing_factor=0.1))
        with pytest.raises(ValueError, match="`label_smoothing_factor` must be 0 where speech is learned, got 0.1"):
            trainer.train()


def test_foreign_models_and_losses_are_refused(parts, rows, tmp_path):
    with pytest.raises(ValueError, match="`model` must have `count_targets` and `target_names`, got a Linear without."):
        make_trainer(torch.nn.Linear(2, 2), tmp_path, rows)
    with pytest.raises(ValueError, match="`compute_loss_func` must be None where the model makes its loss"):
        make_trainer(parts[0], tmp_path, rows, parts[1], compute_loss_func=lambda *args, **kwargs: 0)


class Headed(torch.nn.Module):
    """A Talker with a head of its own beside it."""

    def __init__(self, talker):
        super().__init__()
        self.talker, self.head = talker, torch.nn.Linear(2, 1)
        self.target_names, self.count_targets = talker.target_names, talker.count_targets
        self.config = talker.config

    def forward(self, **batch):
        outputs = self.talker(**batch)
        outputs.loss = outputs.loss + self.head(torch.ones(2)).square().sum()
        return outputs


class TestWholeCheckpoints:
    @pytest.mark.parametrize("wrap", [lambda talker: talker, Headed], ids=["part", "head"])
    def test_a_part_is_trained_saved_whole_and_resumed(self, wrap, parts, tmp_path):
        codes = [{"speech_codes": torch.randint(0, 11, (3, 4))} for _ in range(8)]
        arguments = dict(save_steps=1, eval_strategy="steps", eval_steps=1, load_best_model_at_end=True, max_steps=3)
        arguments |= dict(remove_unused_columns=False, learning_rate=1e-2)
        whole = []
        for folder, checkpoint in ((tmp_path / "one", None), (tmp_path / "two", tmp_path / "one" / "checkpoint-2")):
            model = copy.deepcopy(parts[0])
            before = copy.deepcopy(model.state_dict())
            learner = wrap(model.talker)
            options = dict(whole_model=model, data_collator=default_data_collator)
            trainer = make_trainer(learner, folder, codes, parts[1], arguments, **options)
            trainer.train(resume_from_checkpoint=checkpoint and str(checkpoint))
            assert trainer.state.best_global_step == 3
            whole.append((learner.state_dict(), trainer.state.log_history[-1]["train_loss"]))
        for name, value in whole[0][0].items():
            assert torch.equal(whole[1][0][name], value), name

        saved = AutoModelForMultimodalLM.from_pretrained(tmp_path / "one" / "checkpoint-3")
        AutoProcessor.from_pretrained(tmp_path / "one" / "checkpoint-3")
        for name, value in saved.state_dict().items():
            assert torch.equal(value, model.state_dict()[name])
            changed = not torch.equal(value, before[name])
            assert not changed or name.startswith("talker.")
        assert (tmp_path / "one" / "checkpoint-3" / "extra_weights.safetensors").exists() == (wrap is Headed)

    def test_a_checkpoint_without_the_head_is_refused(self, parts, tmp_path):
        codes = [{"speech_codes": torch.randint(0, 11, (3, 4))} for _ in range(4)]
        arguments = dict(save_steps=1, remove_unused_columns=False)
        make_trainer(parts[0].talker, tmp_path, codes, None, arguments, whole_model=parts[0]).train()
        trainer = make_trainer(Headed(parts[0].talker), tmp_path, codes, None, arguments, whole_model=parts[0])
        with pytest.raises(ValueError, match="must have all weights, got .* without 'head.weight'"):
            trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-1"))


def test_workers_outlive_a_signal_that_their_parent_did_not_send():
    loader = keep_workers_alive(DataLoader(range(40), num_workers=1, prefetch_factor=2))
    batches = iter(loader)
    found = [int(next(batches))]
    (worker,) = batches._workers
    subprocess.run(["kill", "-TERM", str(worker.pid)], check=True)
    found += [int(batch) for batch in batches]
    assert found == list(range(40))

    batches = iter(loader)
    next(batches)
    (worker,) = batches._workers
    os.kill(worker.pid, signal.SIGTERM)
    worker.join(20)
    assert worker.exitcode == 0


def test_codes_are_predicted_where_they_are_labels(rows, parts, tmp_path):
    model, processor = parts
    spoken = [speak(row) for row in rows]
    found = []
    trainer = make_trainer(
        model,
        tmp_path,
        spoken,
        processor,
        dict(label_names=["labels", "speech_codes"], eval_do_concat_batches=False),
        compute_metrics=lambda prediction: found.append(prediction) or {},
    )
    trainer.evaluate()
    shapes = [sorted(value.ndim for value in batch if value.ndim > 2) for batch in found[0].predictions]
    assert all(shape[-1] == 4 for shape in shapes)  # the depth decoder's
