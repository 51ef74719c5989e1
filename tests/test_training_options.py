"""Every field of `TrainingArguments` on a tiny JOSIE that writes and speaks; `docs/options.md` lists them."""

import copy
import dataclasses
import functools
import gc
import json
import math
import re
import tempfile
from pathlib import Path

import pytest
import torch
from doc_pages import read_options
from this_tree import ROOT
from tiny import CASES
from transformers import Trainer, TrainingArguments, logging

import josie
from josie.training.loss_parts import check_optimizer

BASE = dict(
    max_steps=2,
    per_device_train_batch_size=2,
    per_device_eval_batch_size=2,
    logging_steps=1,
    save_strategy="no",
    report_to="none",
    use_cpu=True,
    disable_tqdm=True,
    remove_unused_columns=False,
    dataloader_pin_memory=False,
    learning_rate=1e-2,
)
# What a run is tried with, where several fields can be looked at together.
OPTIMIZER = dict(
    optim="adamw_torch",
    learning_rate=3e-3,
    lr_scheduler_type="cosine_with_min_lr",
    lr_scheduler_kwargs=dict(min_lr=1e-3),
    warmup_steps=1,
    weight_decay=0.3,
    adam_beta1=0.7,
    adam_beta2=0.8,
    adam_epsilon=1e-5,
)
EVALUATED = dict(
    eval_strategy="steps",
    eval_steps=1,
    eval_delay=2,
    eval_on_start=True,
    save_strategy="steps",
    save_steps=1,
    save_total_limit=1,
    save_only_model=True,
    max_steps=3,
)
BEST = dict(
    eval_strategy="steps",
    eval_steps=1,
    save_strategy="best",
    load_best_model_at_end=True,
    metric_for_best_model="turns",
    greater_is_better=True,
    max_steps=3,
)
LOADED = dict(
    dataloader_num_workers=1,
    dataloader_prefetch_factor=3,
    dataloader_persistent_workers=True,
    dataloader_multiprocessing_context="spawn",
    dataloader_in_order=False,
    dataloader_drop_last=True,
    per_device_train_batch_size=3,
)


class Rows(torch.utils.data.Dataset):
    """Numbers of rows; those in one batch are the first rows of one batch of inputs."""

    def __init__(self, number: int = 8):
        self.number = number

    def __len__(self):
        return self.number

    def __getitem__(self, index):
        return dict(input_ids=[1] * (1 + index % 3), number=index)


def collate(rows):
    """Return the same batch, whatever the rows."""
    torch.manual_seed(0)
    return CASES["josie"].inputs()


def build_trainer(trainer_class=josie.JosieTrainer, data_collator=collate, callbacks=None, compute=None, **options):
    model = copy.deepcopy(_model())
    arguments = TrainingArguments(**BASE | dict(output_dir=tempfile.mkdtemp()) | options)
    return trainer_class(
        model,
        arguments,
        data_collator,
        Rows(),
        Rows(4),
        callbacks=callbacks,
        compute_metrics=compute,
    )


@functools.cache
def _model():
    return CASES["josie"].build()


def run(**options) -> Trainer:
    """Return a trainer after training."""
    trainer = build_trainer(**options)
    trainer.train()
    return trainer


@functools.cache
def plain() -> Trainer:
    """Return a trainer after training as usual."""
    return run()


def group_of(trainer: Trainer) -> dict:
    return trainer.optimizer.param_groups[0]


@functools.cache
def optimized() -> Trainer:
    return run(**OPTIMIZER)


@functools.cache
def evaluated() -> Trainer:
    return run(**EVALUATED)


class CountTurns:
    """A score that is best after the second step."""

    def __init__(self):
        self.scores = iter((1.0, 3.0, 2.0))

    def __call__(self, prediction):
        """Return the next score."""
        assert prediction.predictions.ndim == 3
        return {"turns": next(self.scores)}


@functools.cache
def best(**options) -> Trainer:
    return run(**BEST | options, compute=CountTurns())


@functools.cache
def loader():
    return build_trainer(**LOADED).get_train_dataloader()


def logged(trainer: Trainer, name: str) -> list[float]:
    return [entry[name] for entry in trainer.state.log_history if name in entry]


def steps_of(trainer: Trainer) -> list[int]:
    """Return the steps after which it was evaluated."""
    return [entry["step"] for entry in trainer.state.log_history if "eval_loss" in entry]


def differs(**options) -> bool:
    """Whether options change the losses of training."""
    return logged(run(**options), "loss")[-1] != logged(plain(), "loss")[-1]


def equals(rel: float = 1e-4, **options) -> bool:
    """Whether options leave the losses of training as they are."""
    return logged(run(**options), "loss") == pytest.approx(logged(plain(), "loss"), rel=rel)


def evaluate(**options) -> dict[str, float]:
    return build_trainer(**options).evaluate()


def looks_at(check, **options) -> bool:
    """Whether a check of what `compute_metrics` is given holds."""
    found = []
    build_trainer(compute=lambda prediction, **_: found.append(check(prediction)) or {}, **options).evaluate()
    return bool(found) and all(found)


def drawn(**options) -> list[int]:
    """Return the order in which rows are drawn."""
    trainer = build_trainer(data_collator=lambda rows: torch.tensor([row["number"] for row in rows]), **options)
    return torch.cat(list(trainer.get_train_dataloader())).tolist()


def smooths() -> bool:
    def silent(rows):
        return {name: value for name, value in collate(rows).items() if not name.startswith("spe")}

    found = [
        logged(run(label_smoothing_factor=factor, data_collator=silent, trainer_class=kind), "loss")
        for kind in (Trainer, josie.JosieTrainer)
        for factor in (0.0, 1e-6, 0.3)
    ]
    for without, tiny, much in (found[:3], found[3:]):
        assert tiny == pytest.approx(without, rel=1e-3)
        assert much[0] > without[0]
    return True


def counts_tokens() -> bool:
    ids = collate(None)["input_ids"].numel()
    return run(include_num_input_tokens_seen="all").state.num_input_tokens_seen == 2 * ids


def resumes(**options) -> Trainer:
    folder = run(save_strategy="steps", save_steps=1, max_steps=1).args.output_dir
    trainer = build_trainer(max_steps=2, **options)
    trainer.train(resume_from_checkpoint=str(Path(folder) / "checkpoint-1"))
    return trainer


def ignores_nan(keep: bool) -> bool:
    def broken(rows):
        batch = collate(rows)
        return batch | {"pixel_values": batch["pixel_values"] * torch.nan}

    return math.isnan(logged(run(data_collator=broken, logging_nan_inf_filter=keep), "loss")[0])


OBEYED = {
    "output_dir": lambda: any(Path(evaluated().args.output_dir).glob("checkpoint-*")),
    "per_device_train_batch_size": lambda: loader().batch_sampler.batch_size == 3,
    "per_device_eval_batch_size": lambda: len(build_trainer(per_device_eval_batch_size=4).get_eval_dataloader()) == 1,
    "num_train_epochs": lambda: run(max_steps=-1, num_train_epochs=0.5).state.global_step == 2,
    "max_steps": lambda: plain().state.global_step == 2,
    "learning_rate": lambda: logged(optimized(), "learning_rate")[1] == pytest.approx(3e-3),
    "lr_scheduler_type": lambda: type(optimized().lr_scheduler).__name__ == "LambdaLR",
    "lr_scheduler_kwargs": lambda: optimized().lr_scheduler.get_last_lr()[0] == pytest.approx(1e-3),
    "warmup_steps": lambda: logged(optimized(), "learning_rate")[0] == 0,
    "optim": lambda: type(run(optim="adafactor").optimizer.optimizer).__name__ == "Adafactor",
    "optim_args": lambda: group_of(run(optim="rmsprop", optim_args="momentum=0.4"))["momentum"] == 0.4,
    "weight_decay": lambda: group_of(optimized())["weight_decay"] == 0.3,
    "adam_beta1": lambda: group_of(optimized())["betas"][0] == 0.7,
    "adam_beta2": lambda: group_of(optimized())["betas"][1] == 0.8,
    "adam_epsilon": lambda: group_of(optimized())["eps"] == 1e-5,
    "gradient_accumulation_steps": lambda: equals(gradient_accumulation_steps=2),
    "max_grad_norm": lambda: differs(max_grad_norm=1e-9),
    "label_smoothing_factor": smooths,
    "bf16": lambda: differs(bf16=True) and equals(rel=0.05, bf16=True),
    "bf16_full_eval": lambda: (
        evaluate(bf16_full_eval=True)["eval_loss"] == pytest.approx(evaluate()["eval_loss"], rel=0.05)
    ),
    "fp16_full_eval": lambda: evaluate(fp16_full_eval=True)["eval_loss"] != evaluate()["eval_loss"],
    "activation_checkpointing": lambda: equals(activation_checkpointing=True),
    "activation_checkpointing_kwargs": lambda: equals(
        activation_checkpointing=True, activation_checkpointing_kwargs=dict(use_reentrant=True)
    ),
    "gradient_checkpointing": lambda: equals(gradient_checkpointing=True),
    "gradient_checkpointing_kwargs": lambda: equals(
        gradient_checkpointing=True, gradient_checkpointing_kwargs=dict(use_reentrant=False)
    ),
    "use_cache": lambda: equals(use_cache=True),
    "neftune_noise_alpha": lambda: differs(neftune_noise_alpha=5.0),
    "auto_find_batch_size": lambda: equals(auto_find_batch_size=True),
    "logging_strategy": lambda: not logged(run(logging_strategy="no"), "loss"),
    "logging_steps": lambda: len(logged(run(logging_steps=2), "loss")) == 1,
    "logging_first_step": lambda: len(logged(run(logging_steps=5, logging_first_step=True), "loss")) == 1,
    "logging_nan_inf_filter": lambda: (ignores_nan(True), ignores_nan(False)) == (False, True),
    "include_num_input_tokens_seen": counts_tokens,
    "log_level": lambda: build_trainer(log_level="error") and logging.get_verbosity() == logging.ERROR,
    "disable_tqdm": lambda: "ProgressCallback" in build_trainer(disable_tqdm=False).callback_handler.callback_list,
    "report_to": lambda: "TensorBoardCallback" not in plain().callback_handler.callback_list,
    "eval_strategy": lambda: len(logged(evaluated(), "eval_loss")) > 1,
    "eval_steps": lambda: len(logged(run(eval_strategy="steps", eval_steps=2), "eval_loss")) == 1,
    "eval_delay": lambda: (
        [entry["step"] for entry in evaluated().state.log_history if "eval_loss" in entry] == [0, 2, 3]
    ),
    "eval_on_start": lambda: evaluated().state.log_history[0]["step"] == 0,
    "prediction_loss_only": lambda: build_trainer(prediction_loss_only=True).predict(Rows(2)).predictions is None,
    "eval_do_concat_batches": lambda: looks_at(lambda p: isinstance(p.predictions, list), eval_do_concat_batches=False),
    "eval_use_gather_object": lambda: looks_at(lambda p: p.predictions.ndim == 3, eval_use_gather_object=True),
    "eval_accumulation_steps": lambda: looks_at(lambda p: len(p.predictions) == 4, eval_accumulation_steps=1),
    "include_for_metrics": lambda: looks_at(
        lambda p: p.inputs.shape == p.label_ids.shape and len(p.losses) == 4, include_for_metrics=["inputs", "loss"]
    ),
    "save_only_model": lambda: not list(Path(evaluated().args.output_dir).glob("checkpoint-3/optimizer*")),
    "save_strategy": lambda: not list(Path(plain().args.output_dir).glob("checkpoint-*")),
    "save_steps": lambda: evaluated().state.save_steps == 1,
    "save_total_limit": lambda: len(list(Path(evaluated().args.output_dir).glob("checkpoint-*"))) == 1,
    "load_best_model_at_end": lambda: best().state.best_global_step == 2,
    "metric_for_best_model": lambda: best().state.best_metric == 3.0,
    "greater_is_better": lambda: (
        run(**BEST | dict(greater_is_better=False), compute=CountTurns()).state.best_metric == 1
    ),
    "ignore_data_skip": lambda: resumes(ignore_data_skip=True).state.global_step == 2,
    "full_determinism": lambda: equals(full_determinism=True) and torch.are_deterministic_algorithms_enabled(),
    "seed": lambda: build_trainer(seed=5).args.seed == torch.initial_seed() == 5,
    "data_seed": lambda: drawn(data_seed=1) == drawn(data_seed=1) != drawn(data_seed=2),
    "use_cpu": lambda: plain().args.device.type == "cpu",
    "accelerator_config": lambda: (
        build_trainer(accelerator_config=dict(use_seedable_sampler=False)).accelerator.use_seedable_sampler is False
    ),
    "dataloader_drop_last": lambda: len(loader()) == 2,
    "dataloader_num_workers": lambda: loader().num_workers == 1,
    "dataloader_persistent_workers": lambda: loader().persistent_workers,
    "dataloader_prefetch_factor": lambda: loader().prefetch_factor == 3,
    "dataloader_multiprocessing_context": lambda: "spawn" in str(loader().multiprocessing_context).lower(),
    "dataloader_in_order": lambda: not loader().in_order,
    "label_names": lambda: looks_at(
        lambda p: len(p.label_ids) == 2, label_names=["labels", "speech_codes"], per_device_eval_batch_size=4
    ),
    "train_sampling_strategy": lambda: (
        list(build_trainer(train_sampling_strategy="sequential")._get_train_sampler()) == list(range(8))
    ),
    "skip_memory_metrics": lambda: "before_init_mem_cpu" in build_trainer(skip_memory_metrics=False).evaluate(),
    "debug": lambda: equals(debug="underflow_overflow"),
}


@pytest.fixture(autouse=True, scope="module")
def frozen():
    """Leave what is there already out of the collections of garbage that each training ends with."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(autouse=True)
def restored(monkeypatch):
    """Undo what options change for a whole process."""
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    yield
    torch.use_deterministic_algorithms(False)


def test_the_table_has_every_field_of_transformers():
    fields = {field.name for field in dataclasses.fields(TrainingArguments)}
    listed = read_options(ROOT, "TrainingArguments")
    assert fields - listed.keys() == set()
    assert listed.keys() - fields == set()


def test_the_table_says_what_is_tried_here():
    listed = read_options(ROOT, "TrainingArguments")
    assert {name for name, (_, how) in listed.items() if how == "run"} == OBEYED.keys()


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("name", OBEYED)
def test_fields_are_obeyed(name):
    assert OBEYED[name]()


REFUSED = {
    "use_liger_kernel": (dict(use_liger_kernel=True), "must be False, as no kernels are written for JOSIE"),
    "fp16": (dict(fp16=True), "must be False on a CPU, where accelerate leaves float32"),
    "optim_target_modules": (dict(optim_target_modules=["qkv_proj"]), "must be None with `optim` 'adamw_torch"),
    "learning_rate": (dict(learning_rate=-1.0), "must be at least 0, got -1.0"),
    "optim_args": (dict(optim_args="betas=(0.1,0.2)"), "must be pairs such as 'momentum=0.9,nesterov=true', without"),
    "lr_scheduler_kwargs": (dict(lr_scheduler_kwargs=dict(foo=1)), "must be what `lr_scheduler_type` 'linear' takes"),
    "activation_checkpointing_kwargs": (dict(activation_checkpointing_kwargs=dict(foo=1)), r"\(.*\) must have keys"),
    "label_names": (dict(label_names=[]), "must be inputs of the model, such as 'labels' and 'speech_codes', got"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_fields_are_refused(name):
    options, message = REFUSED[name]
    with pytest.raises(ValueError, match=f"`{name}` {message}"):
        build_trainer(**options)
    if name != "label_names":  # which JosieTrainer looks at by itself
        with pytest.raises((ValueError, ImportError), match=f"`{name}` {message}|liger-kernel"):
            josie.LossParts.attach(build_trainer(Trainer, **options))


@pytest.mark.parametrize(
    "options",
    [
        dict(optim="galore_adamw", optim_target_modules=["qkv_proj"], optim_args="rank=64"),
        dict(optim="galore_adafactor_layerwise", optim_target_modules="all-linear"),
        dict(optim="apollo_adamw", optim_target_modules=["qkv_proj"]),
        dict(optim="sgd", optim_args="momentum=0.9, nesterov=true"),
        dict(optim="sgd", optim_args="momentum=0"),
        dict(lr_scheduler_type="reduce_lr_on_plateau", eval_strategy="steps", lr_scheduler_kwargs=dict(patience=2)),
        dict(lr_scheduler_type="warmup_stable_decay", lr_scheduler_kwargs=dict(num_decay_steps=2), max_steps=9),
        dict(lr_scheduler_type="cosine_with_min_lr", lr_scheduler_kwargs=dict(min_lr=1e-4), max_steps=-1),
        dict(activation_checkpointing_kwargs=dict(use_reentrant=True, preserve_rng_state=False, every_n_layers=2)),
    ],
    ids=str,
)
def test_settings_of_learning_that_can_be_obeyed_are_taken(options):
    check_optimizer(TrainingArguments(**BASE | dict(output_dir=tempfile.mkdtemp()) | options))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(optim="sgd", optim_target_modules=["a"]), "`optim_target_modules` must be None with `optim` 'sgd', got"),
        (dict(optim_args="foo=1"), "`optim_args` must be what `optim` 'adamw_torch_fused' reads, got 'foo', which it"),
        (dict(optim="sgd", optim_args="momentun=1"), "`optim_args` must be what `optim` 'sgd' reads, got 'momentun'"),
        (dict(optim="sgd", optim_args="momentum=a"), "`optim_args` must have values that `optim` 'sgd' takes, got mom"),
        (dict(optim="sgd", optim_args="momentum"), "`optim_args` must be pairs such as 'momentum=0.9,nesterov=true'"),
        (
            dict(lr_scheduler_type="cosine_with_min_lr"),
            "`lr_scheduler_kwargs` must be what `lr_scheduler_type` 'cosine",
        ),
        (
            dict(lr_scheduler_type="cosine", lr_scheduler_kwargs=dict(num_cycles="a")),
            "`lr_scheduler_kwargs` must be what `lr_scheduler_type` 'cosine' takes, got {'num_cycles': 'a'}: could not",
        ),
        (dict(activation_checkpointing_kwargs=dict(every_n_layers="a")), "an `every_n_layers` of at least 1, got 'a'."),
        (dict(activation_checkpointing_kwargs=dict(determinism_check="x")), "must have values that torch takes, got"),
    ],
    ids=str,
)
def test_settings_of_learning_that_end_in_a_traceback_are_refused(options, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        check_optimizer(TrainingArguments(**BASE | dict(output_dir=tempfile.mkdtemp()) | options))


def test_columns_that_no_batch_reads_are_dropped():
    rows = json.loads('[{"messages": [{"role": "user", "content": "a"}], "junk": 1, "speaker": "ada"}]')
    trainer = build_trainer(remove_unused_columns=True)
    trainer.data_collator = josie.JosieDataCollator(None)
    trainer._signature_columns = None
    trainer._set_signature_columns_if_needed()
    assert set(rows[0]) - set(trainer._signature_columns) == {"junk"}
