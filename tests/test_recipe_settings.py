"""Settings of recipes' trainers: each is obeyed, or refused with a sentence that names it, before a model is made."""

import json
import re
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import make_tasks
import pytest
import read_tokens
import torch
import train_jodio
import train_jovio
import train_talker
import train_thinker
import train_tokenizer
from recipe_runs import run_recipe
from recipes import runs, trainer_settings
from recipes.data_sets import load_source
from test_recipe_runs import Weight, config, run  # noqa: F401
from transformers import Trainer, TrainingArguments

from josie.training.codec_trainer import CodecTrainingArguments

BEST = {"load_best_model_at_end": True, "metric_for_best_model": "foo", "greater_is_better": False}


def read(
    folder: Path, arguments_class: Any = TrainingArguments, data: Any = None, defaults: Any = None, **changes: Any
):
    """Return the arguments of a section `trainer`."""
    section = {"output_dir": str(folder), "max_steps": 1, "use_cpu": True} | changes
    return runs.read_trainer_section({"trainer": section, "data": data or {}}, arguments_class, **defaults or {})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lr_scheduler_kwargs": {"foo": 1}}, "`lr_scheduler_kwargs` must be what `lr_scheduler_type` 'linear' takes"),
        ({"optim_args": "betas=(0.1,0.2)"}, "`optim_args` must be pairs such as 'momentum=0.9,nesterov=true', without"),
        ({"activation_checkpointing_kwargs": {"foo": 1}}, "(`gradient_checkpointing_kwargs`) must have keys of ["),
        ({"batch_eval_metrics": True}, "`trainer.batch_eval_metrics` must be false, as of each batch only a few num"),
        ({"ignore_data_skip": True}, "`trainer.ignore_data_skip` must be false, as a run goes on with the rows that"),
        ({"enable_jit_checkpoint": True}, "`trainer.enable_jit_checkpoint` must be false, as a run saves a checkpoint"),
        ({"parallelism_config": {"tp_size": 2}}, "`trainer.parallelism_config` must be null, as a file cannot have an"),
        ({"lr_scheduler_type": "foo"}, "`trainer.lr_scheduler_type` must be of ['linear', 'cosine', "),
        ({"optim": "foo"}, "`trainer.optim` must be of ['adamw_torch', "),
        ({"eval_strategy": False}, "`trainer.eval_strategy` must be of ['no', 'steps', 'epoch'], got False."),
        ({"train_sampling_strategy": "foo"}, "`trainer.train_sampling_strategy` must be of ['random', 'sequential', "),
        ({"log_level": "foo"}, "`trainer.log_level` must be of ['detail', 'debug', "),
        (
            {"debug": "foo"},
            "`trainer.debug` must be a value that can be obeyed here, got 'foo': foo is not a valid Deb",
        ),
        (
            {"accelerator_config": {"foo": 1}},
            "`trainer.accelerator_config` must be a value that can be obeyed here, go",
        ),
        ({"warmup_steps": -1}, "`trainer.warmup_steps` must be a value that can be obeyed here, got -1: "),
        ({"report_to": "foo"}, "`trainer.report_to` must be of what there is, got ['foo']: foo is not supported"),
        ({"per_device_train_batch_size": 0}, "`trainer.per_device_train_batch_size` must be at least 1, got 0."),
        ({"gradient_accumulation_steps": 0}, "`trainer.gradient_accumulation_steps` must be at least 1, got 0."),
        ({"eval_accumulation_steps": 0}, "`trainer.eval_accumulation_steps` must be at least 1, got 0."),
        ({"neftune_noise_alpha": -1.0}, "`trainer.neftune_noise_alpha` must be at least 0, got -1.0."),
        ({"adam_beta1": 1.0}, "`trainer.adam_beta1` must be in [0, 1), got 1.0."),
        ({"seed": -1}, "`trainer.seed` must be in [0, 2**32), got -1."),
        ({"weight_decay": -1.0}, "`trainer.weight_decay` must be at least 0, got -1.0."),
        ({"max_grad_norm": -1.0}, "`trainer.max_grad_norm` must be at least 0, got -1.0."),
        ({"label_smoothing_factor": 1.0}, "`trainer.label_smoothing_factor` must be in [0, 1), got 1.0."),
        ({"save_total_limit": 0}, "`trainer.save_total_limit` must be at least 1, got 0."),
        ({"save_steps": 0}, "`trainer.save_steps` must be above 0, got 0."),
        ({"eval_strategy": "steps", "eval_steps": 0}, "`trainer.eval_steps` must be above 0, got 0."),
        ({"logging_steps": -1}, "`trainer.logging_steps` must be above 0, got -1."),
        ({"ddp_timeout": 0}, "`trainer.ddp_timeout` must be at least 1, got 0."),
        (
            {"dataloader_persistent_workers": True},
            "`trainer.dataloader_persistent_workers` must be left out where `tra",
        ),
        ({"dataloader_multiprocessing_context": "spawn"}, "where `trainer.dataloader_num_workers` is 0, got 'spawn'."),
        (
            {"dataloader_prefetch_factor": 0, "dataloader_num_workers": 1},
            "`trainer.dataloader_prefetch_factor` must be",
        ),
        (
            {"fsdp": True},
            "`trainer.fsdp` must be left out in one process, got True: `accelerate launch` starts several",
        ),
        ({"deepspeed": "no.json"}, "`trainer.deepspeed` must be a value that can be obeyed here, got 'no.json': "),
        ({"fp16": True}, "`trainer.fp16` must be false on a CPU, where accelerate leaves float32, got true."),
        ({"use_liger_kernel": True}, "`trainer.use_liger_kernel` must be false, as no kernels are written for JOSIE"),
        ({"torch_compile_mode": "foo"}, "`trainer.torch_compile_mode` must be of ['default', "),
        ({"torch_compile_backend": "foo"}, "`trainer.torch_compile_backend` must be of ['aot_eager', "),
        ({"include_num_input_tokens_seen": "foo"}, "`trainer.include_num_input_tokens_seen` must be of ['no', 'all', "),
        (
            {"max_steps": -1, "num_train_epochs": 0},
            "`trainer.num_train_epochs` must be above 0 where `trainer.max_steps` is not, got 0 and -1.",
        ),
    ],
    ids=str,
)
def test_what_would_end_in_a_traceback_is_refused_by_name(tmp_path, changes, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        read(tmp_path, **changes)


def test_packages_that_are_missing_are_named_before_a_model_is_made(tmp_path, monkeypatch):
    class Report:
        def __init__(self):
            raise RuntimeError("Report requires foo.")

    monkeypatch.setattr(trainer_settings, "get_reporting_integration_callbacks", lambda names: [Report] * len(names))
    message = "`trainer.report_to` must be of what there is, got ['wandb']: Report requires foo."
    with pytest.raises(ValueError, match=re.escape(message)):
        read(tmp_path, report_to="wandb")
    for error in (ImportError("You need foo."), ValueError("Please install foo.")):
        monkeypatch.setattr(Trainer, "get_optimizer_cls_and_kwargs", Mock(side_effect=error))
        message = f"`trainer.optim` must be what is installed, got 'sgd': {error}"
        with pytest.raises(ValueError, match=re.escape(message)):
            read(tmp_path, optim="sgd")


def test_steps_that_no_strategy_counts_may_be_anything(tmp_path):
    assert read(tmp_path, save_strategy="no", save_steps=0, eval_steps=0).save_steps == 0


@pytest.mark.parametrize("name", ["random", "sequential", "group_by_length", "batch_rebalance"])
@pytest.mark.parametrize("is_streaming", [False, True], ids=["in-memory", "streaming"])
def test_it_is_said_that_rows_of_a_stream_are_not_sampled(tmp_path, name, is_streaming, caplog):
    arguments = read(tmp_path, data={"streaming": is_streaming}, train_sampling_strategy=name)
    assert arguments.train_sampling_strategy == name
    is_idle = is_streaming and name in ("group_by_length", "batch_rebalance")
    assert ("`trainer.train_sampling_strategy`" in caplog.text) == is_idle


def test_a_run_goes_on_without_what_is_refused_now(tmp_path):
    before = {"trainer.batch_eval_metrics": True, "trainer.label_names": ["labels"], "trainer.seed": 3}
    (tmp_path / runs.SETTINGS_FILE).write_text(json.dumps(before))
    runs.require_settings(tmp_path, {"trainer.seed": 3})
    with pytest.raises(ValueError, match="`trainer.seed` must be 3"):
        runs.require_settings(tmp_path, {})


@pytest.mark.parametrize(
    ("recipe", "changes", "message"),
    [
        (
            train_thinker,
            {"remove_unused_columns": True},
            "`trainer.remove_unused_columns` must be False, as this recip",
        ),
        (train_thinker, {"label_names": ["speech_codes"]}, "`trainer.label_names` must be ['labels'], as this recipe"),
        (train_talker, {"label_names": ["labels"]}, "`trainer.label_names` must be ['labels', 'speech_codes'], as"),
        (train_talker, {"eval_do_concat_batches": True}, "`trainer.eval_do_concat_batches` must be False, as this"),
        (train_jodio, {"prediction_loss_only": False}, "`trainer.prediction_loss_only` must be True, as this recipe"),
        (
            train_jovio,
            {"train_sampling_strategy": "random"},
            "`trainer.train_sampling_strategy` must be 'sequential', ",
        ),
    ],
    ids=str,
)
def test_what_a_recipe_sets_is_not_overwritten_in_silence(tmp_path, recipe, changes, message):
    trainer = {"output_dir": str(tmp_path / "run"), "max_steps": 1, "use_cpu": True} | changes
    data = {"sources": [{"name": "jsonl", "path": "no.jsonl"}]} if recipe in (train_thinker, train_talker) else {}
    with pytest.raises(ValueError, match=re.escape(message)):
        run_recipe(recipe, {"trainer": trainer, "model": {"path": "nano"}, "data": data})


def test_what_a_recipe_sets_may_be_said_too(tmp_path):
    defaults = {"label_names": ["input_values"], "prediction_loss_only": True}
    assert read(tmp_path, CodecTrainingArguments, defaults=defaults, **defaults).label_names == ["input_values"]


def test_a_metric_that_there_is_not_is_named_before_the_first_step(config, monkeypatch):  # noqa: F811
    message = "`trainer.metric_for_best_model` must be of ['loss', "
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "training_step", None)
        with pytest.raises(ValueError, match=re.escape(message) + ".*got 'foo'"):
            run(config, **BEST)
    for name in ("loss", "eval_loss", "eval_samples_per_second"):
        assert run(config, "restart", **BEST | {"metric_for_best_model": name}).state.best_metric is not None
    with pytest.raises(ValueError, match=re.escape(message)):  # of a run that goes on, at its next evaluation
        run(config, **BEST | {"max_steps": 5})


def test_what_is_known_of_a_metric_costs_no_evaluation(tmp_path):
    for name, is_first in (("loss", False), ("eval_loss", False), ("turns", True)):
        arguments = read(tmp_path, eval_strategy="steps", eval_steps=1, metric_for_best_model=name, seed=1)
        rows: Any = [{"labels": torch.tensor(1.0)}]
        trainer = Trainer(Weight(), arguments, train_dataset=rows, eval_dataset=rows)
        runs.require_metric(trainer, is_new=True)
        assert trainer.args.eval_on_start is is_first


@pytest.mark.parametrize("is_streaming", [False, True], ids=["in-memory", "streaming"])
@pytest.mark.parametrize("kind", ["json", "csv"])
def test_an_empty_file_is_named(tmp_path, kind, is_streaming):
    path = tmp_path / f"empty.{kind}"
    path.touch()
    options = {"path": kind, "data_files": str(path), "split": "train", "cache_dir": str(tmp_path / "cache")}
    with pytest.raises(ValueError, match=f"`data.sources` must name data that .*, got '{path}': [^\n]+"):
        load_source(options, is_streaming)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--output", "{file}"], "`--output` must be a folder, or the name of a new one, got '{file}'."),
        (["--output", "{file}/in"], "`--output` must be a folder, or the name of a new one, got '{file}/in'."),
        (["--output", "{new}", "--vocab-size", "5"], "`--vocab-size` must be at least 2"),
    ],
    ids=str,
)
def test_a_tokenizer_that_cannot_be_made_is_refused_before_texts_are_fetched(tmp_path, monkeypatch, options, message):
    monkeypatch.setattr(train_tokenizer, "fetch_package", None)
    places = {"file": str(tmp_path / "file"), "new": str(tmp_path / "new")}
    Path(places["file"]).touch()
    with pytest.raises(SystemExit, match=re.escape(f"error: {message.format(**places)}")):
        train_tokenizer.main([option.format(**places) for option in options])
    assert not Path(places["new"]).exists()


def test_a_tokenizer_is_saved_in_its_folder(tmp_path, monkeypatch, capsys):
    texts = [f"The cat no. {index} sat." for index in range(20)]
    monkeypatch.setattr(train_tokenizer, "fetch_package", lambda *_: None)
    for name in ("bible", "wordnet", "fortunes", "fillets", "asterisk"):
        monkeypatch.setattr(train_tokenizer, name, lambda _: texts)
    train_tokenizer.main(["--output", str(tmp_path / "new"), "--vocab-size", "300", "--cache", str(tmp_path)])
    assert (tmp_path / "new" / "tokenizer.json").is_file()
    assert f"saved in {tmp_path / 'new'}" in capsys.readouterr().out


def write_manifest(folder: Path, *sources: str) -> Path:
    """Make a folder of clips that only a manifest knows."""
    folder.mkdir(parents=True)
    rows = ({"path": f"{source}.wav", "text": source, "source": source} for source in sources)
    (folder / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def test_folders_of_one_name_are_not_taken_for_each_other(tmp_path, monkeypatch):
    first, second = (
        write_manifest(tmp_path / "sa" / "speech", "a"),
        write_manifest(tmp_path / "sb" / "speech", "a", "b"),
    )
    third = write_manifest(tmp_path / "other", "a")
    out, message = tmp_path / "new" / "out.jsonl", "`FOLDER` must be folders whose clips get different names, got "
    message += f"{str(first)!r} and {str(second)!r}, both with 'speech-a'."
    with pytest.raises(SystemExit, match=re.escape(message)):
        make_tasks.main([str(out), str(first), str(second)])
    with pytest.raises(SystemExit, match=re.escape(message)):
        read_tokens.main(["no/model", str(first), str(second)])
    assert not out.parent.exists()
    monkeypatch.chdir(second)
    make_tasks.main([str(out), ".", str(third)])
    tasks = [json.loads(line)["task"] for line in out.read_text().splitlines()]
    assert tasks == ["speech-a-transcribe", "speech-b-transcribe", "other-a-transcribe"]
