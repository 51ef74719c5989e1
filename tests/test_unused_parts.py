"""Parts that a batch does not use: gradients of zero, nothing else changed, and no process that waits for another."""

import pytest
import torch
from processes import run_two
from tiny import CASES, THINKER, build, josie_inputs, thinker_inputs
from torch.distributed.fsdp import fully_shard

import josie
from josie.modeling_josie import josie as josie_module
from josie.modeling_josie.thinker import media as media_module

AUDIO = ("input_features", "input_features_mask")


def without(kind: str) -> dict[str, torch.Tensor]:
    """Return JOSIE's batch without its clips, its images, its speech, its text to learn, or all but text."""
    inputs = josie_inputs()
    ids = inputs["input_ids"]
    if kind in ("clips", "all"):
        ids[ids == 8] = 30
        inputs = {name: value for name, value in inputs.items() if name not in AUDIO}
    if kind in ("images", "all"):
        ids[ids == 6] = 31
        inputs.pop("pixel_values")
    if kind in ("speech", "all"):
        inputs.pop("speech_codes")
        inputs.pop("speaker_ids")
    if kind == "text":
        inputs.pop("labels")
    return inputs


def gradients(model, inputs) -> tuple[torch.Tensor, dict[str, torch.Tensor | None]]:
    model.zero_grad()
    torch.manual_seed(0)
    loss = model(**inputs).loss
    loss.backward()
    return loss, {name: parameter.grad for name, parameter in model.named_parameters() if parameter.requires_grad}


@pytest.mark.parametrize("kind", ["clips", "images", "speech", "text", "all", "all, of codes"])
def test_every_part_gets_gradients_and_nothing_else_changes(kind, monkeypatch):
    inputs = without(kind.partition(",")[0])
    model = CASES["josie-codes" if "codes" in kind else "josie"].build()
    model.train()
    loss, ours = gradients(model, inputs)
    assert not [name for name, gradient in ours.items() if gradient is None]
    for module in (josie_module, media_module):
        monkeypatch.setattr(module, "add_zero_gradients", lambda states, *_: states)
    expected, theirs = gradients(model, inputs)
    assert torch.equal(loss, expected)
    unused = [name for name, gradient in theirs.items() if gradient is None]
    assert unused or kind == "text"
    for name, gradient in ours.items():
        if theirs[name] is None:
            assert not gradient.any(), name
        else:
            assert torch.equal(gradient, theirs[name]), name


@pytest.mark.parametrize("kind", ["clips", "images"])
def test_thinker_alone(kind):
    inputs = {name: value for name, value in without(kind).items() if name in thinker_inputs()}
    model = build(josie.JosieThinkerForConditionalGeneration, josie.JosieThinkerConfig(**THINKER)).train()
    _, ours = gradients(model, inputs)
    assert not [name for name, gradient in ours.items() if gradient is None]


def test_frozen_parts_and_evaluation_are_left_alone():
    inputs = without("all")
    model = CASES["josie"].build().train().freeze("thinker.audio", "thinker.vision", "talker")
    model(**inputs).loss.backward()
    assert not [name for name, p in model.named_parameters() if not p.requires_grad and p.grad is not None]
    model = CASES["josie"].build()
    model(**inputs).loss.backward()
    assert all(p.grad is None for p in model.talker.parameters())
    assert all(p.grad is None for p in model.thinker.model.audio_front_end.parameters())


@pytest.mark.parametrize("name", ["josie", "josie-codes"])
def test_parts_run_on_nothing(name):
    model = CASES[name].build()
    thinker = model.thinker.model
    for front_end in (thinker.audio_front_end, thinker.vision_front_end):
        rows = front_end.dummy_forward()
        assert rows.ndim == 2
        assert len(rows) >= 1
        assert rows.shape[1] == 30
    assert model.talker.dummy_forward() == 0


def batches(step: int) -> list[dict[str, torch.Tensor]]:
    """Return the batch of each process: words and clips, spoken; and words and images, silent."""
    torch.manual_seed(step)
    return [without("images"), without("speech") if step % 2 else without_clips_and_speech()]


def without_clips_and_speech() -> dict[str, torch.Tensor]:
    inputs = without("clips")
    return {name: value for name, value in inputs.items() if name not in ("speech_codes", "speaker_ids")}


def step_of(model, counter, rank: int, step: int) -> None:
    """Compute the gradients of one step: each loss over the targets of both processes, averaged by the wrapper."""
    inputs = batches(step)
    counts = [counter.count_targets(**part) for part in inputs]
    total = {name: sum(count.get(name, torch.tensor(0)) for count in counts) for name in counter.target_names}
    (2 * model(**inputs[rank], num_items_in_batch=total).loss).backward()


def run_ddp(rank: int, folder: str, training: bool = True) -> None:
    torch.distributed.init_process_group("gloo")
    model = CASES["josie"].build().train(training)
    wrapped = torch.nn.parallel.DistributedDataParallel(model)
    saved = {}
    for step in range(3):
        model.zero_grad()
        step_of(wrapped, model, rank, step)
        saved |= {f"{step}.{name}": p.grad.clone() for name, p in model.named_parameters() if p.requires_grad}
    torch.save(saved, f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


def run_ddp_in_evaluation(rank: int, folder: str) -> None:
    run_ddp(rank, folder, training=False)


def run_fsdp(rank: int, folder: str) -> None:
    torch.distributed.init_process_group("gloo")
    model = CASES["josie"].build().train().freeze("thinker.vision.encoder")
    for module in reversed(list(model.modules())):
        if type(module).__name__ in ("JosieLayer", "JosieDepthDecoder", "Projector"):
            fully_shard(module)
    fully_shard(model)
    saved = {}
    for step in range(3):
        model.zero_grad()
        step_of(model, model, rank, step)
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                saved[f"{step}.{name}"] = parameter.grad.full_tensor().clone()
    torch.save(saved, f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize(
    "run", [run_ddp, run_ddp_in_evaluation, run_fsdp], ids=["ddp", "ddp, in evaluation mode", "fsdp2"]
)
def test_processes_with_other_modalities_do_not_wait_for_each_other(run, tmp_path):
    saved = run_two(run, tmp_path)
    model = CASES["josie"].build().train(run is not run_ddp_in_evaluation)
    for step in range(3):
        inputs = batches(step)
        counts = [model.count_targets(**part) for part in inputs]
        total = {name: sum(count.get(name, torch.tensor(0)) for count in counts) for name in model.target_names}
        model.zero_grad()
        for part in inputs:
            model(**part, num_items_in_batch=total).loss.backward()
        for name, parameter in model.named_parameters():
            for rank in range(2):
                gradient = saved[rank].get(f"{step}.{name}")
                if gradient is not None:
                    torch.testing.assert_close(gradient, parameter.grad, rtol=1e-4, atol=1e-5, msg=name)
    names = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    learned = {name.partition(".")[2] for name in saved[0]}
    assert learned == {name for name in names if run is not run_fsdp or "vision_front_end.encoder" not in name}
