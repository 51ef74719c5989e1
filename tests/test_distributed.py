"""Two processes on CPU: the losses of one, and of a run that was killed and went on."""

import json
from pathlib import Path

import pytest
import torch
from distributed_training import SAVED, STEPS, evaluate_tiny, train_and_evaluate, train_sharded, train_tiny
from processes import call_in_two

import josie


def read_losses(folder: Path) -> dict[int, float]:
    """Return the loss of each step in a run's log."""
    lines = map(json.loads, (folder / "log.jsonl").read_text().splitlines())
    return {entry["step"]: entry["loss"] for entry in lines if "loss" in entry}


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The losses and the last weights of one process."""
    folder = tmp_path_factory.mktemp("alone")
    weights = train_tiny(str(folder))
    return read_losses(folder), {name: value.clone() for name, value in weights.items()}


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["ddp", "fsdp"])
def test_two_processes_have_the_losses_of_one(kind, alone, tmp_path):
    """Sharded ones also where they go on after a kill; the others evaluate batches of other lengths, too."""
    expected, weights = alone
    assert sorted(expected) == list(range(1, STEPS + 1))
    assert len(set(expected.values())) == STEPS
    before = {}
    if kind == "fsdp":
        with pytest.raises(torch.multiprocessing.ProcessExitedException, match="SIGKILL"):
            call_in_two(train_sharded, str(tmp_path), SAVED + 1)
        before = read_losses(tmp_path)
        assert sorted(before) == list(range(1, SAVED + 2))
        assert not (tmp_path / "model").exists()
        call_in_two(train_sharded, str(tmp_path))
    else:
        call_in_two(train_and_evaluate, str(tmp_path))

    losses = read_losses(tmp_path)
    assert {step: losses[step] for step in before} == before  # the step after the checkpoint was done twice
    assert losses == pytest.approx(expected, rel=1e-3)

    saved = josie.JosieForConditionalGeneration.from_pretrained(tmp_path / "model").state_dict()
    for name, value in weights.items():
        torch.testing.assert_close(
            saved[name], value, rtol=1e-2, atol=1e-3, msg=lambda text, name=name: f"{name}: {text}"
        )
    if kind == "ddp":  # but for `eval_loss`, a mean over what is evaluated at once
        found = json.loads((tmp_path / "scores.json").read_text())
        ends = ("_text_loss", "_talker_loss", "_depth_loss", "perplexity", "accuracy", "_0", "_1", "_2")
        scores = {name: value for name, value in evaluate_tiny(str(tmp_path)).items() if name.endswith(ends)}
        assert len(scores) == 8
        assert {name: found[name] for name in scores} == pytest.approx(scores, rel=1e-4)
