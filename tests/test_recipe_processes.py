"""Recipes in two processes: a signal that reaches one of them stops both, and what a codec's run leaves is written
once."""

import json
import os
import signal
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from processes import run_two
from recipes import image_data, runs
from recipes.configuration import run as run_script
from test_recipe_jodio import CONFIG as JODIO
from test_recipe_jovio import CONFIG as JOVIO, draw
from test_recipe_runs import Weight
from transformers import Trainer, TrainerCallback, TrainingArguments

STEPS = 4
PATIENCE = 120  # seconds, after which processes that wait for each other are ended
# What writes into the folder of a run, by recipe.
WRITERS = ("save_in_half", "write_report", "write_card")


class SignalAt(TrainerCallback):
    """Sends its own process a SIGTERM.

    Args:
        moment (`str`): In the middle of the second step, or after the last.
    """

    def __init__(self, moment: str):
        self.moment = moment

    def on_step_begin(self, args, state, control, **kwargs):
        """Send it in the middle."""
        if self.moment == "step" and state.global_step == 1:
            os.kill(os.getpid(), signal.SIGTERM)

    def on_train_end(self, args, state, control, **kwargs):
        """Send it at the end."""
        if self.moment == "end":
            os.kill(os.getpid(), signal.SIGTERM)


def stop_and_go_on(rank: int, folder: str) -> None:
    """Run with a signal to one process alone and go on, and save what was done of each: whether all, and the step."""
    signal.alarm(PATIENCE)
    found = {}
    for chosen, moment in ((0, "step"), (1, "step"), (1, "end")):
        output = f"{folder}/{chosen}-{moment}"
        for callbacks in ([SignalAt(moment)] if rank == chosen else [], []):
            arguments = TrainingArguments(
                output, max_steps=STEPS, save_steps=STEPS, report_to="none", use_cpu=True, disable_tqdm=True,
                per_device_train_batch_size=1, label_names=["labels"],
            )  # fmt: skip
            rows = [{"labels": torch.tensor(3.0)}] * 8
            trainer = Trainer(Weight(), arguments, train_dataset=rows, callbacks=callbacks)
            is_done = runs.train(trainer, "continue")
            found.setdefault(f"{chosen}-{moment}", []).append((is_done, trainer.state.global_step))
    torch.save(found, f"{folder}/{rank}.pt")
    run_script(lambda: None)  # ends the group


@pytest.mark.slow
def test_a_signal_to_one_process_stops_all_with_a_checkpoint(tmp_path):
    first, second = run_two(stop_and_go_on, tmp_path)
    assert first == second
    stopped = [(False, 2), (True, STEPS)]
    assert first == {"0-step": stopped, "1-step": stopped, "1-end": [(False, STEPS), (True, STEPS)]}
    for name in ("0-step", "1-step"):
        files = {path.name for path in (tmp_path / name / "checkpoint-2").iterdir()}
        assert files >= {"rng_state_0.pth", "rng_state_1.pth", "trainer_state.json", "optimizer.pt"}


def train_codecs(rank: int, folder: str) -> None:
    """Train both codecs by their recipes, and save the scores and what this process wrote."""
    import train_jodio
    import train_jovio
    from recipe_runs import run_recipe

    signal.alarm(PATIENCE)
    found = {}
    for recipe in (train_jodio, train_jovio):
        written: list[str] = []

        def note(name, write, written=written):
            return lambda *given, **options: (written.append(name), write(*given, **options))[1]

        for name in WRITERS:
            setattr(recipe, name, note(name, getattr(recipe, name)))
        config = json.loads(Path(folder, f"{recipe.__name__}.json").read_text())
        found[recipe.__name__] = run_recipe(recipe, config), written
    torch.save(found, f"{folder}/{rank}.pt")
    run_script(lambda: None)


def configure(folder: Path, name: str, config: dict, data: dict) -> Path:
    """Write a configuration of two steps, and return the folder of its run."""
    trainer = config["trainer"] | {"output_dir": str(folder / name), "max_steps": 2, "per_device_train_batch_size": 1}
    (folder / f"{name}.json").write_text(json.dumps(config | {"data": data, "trainer": trainer}))
    return folder / name


@pytest.fixture
def codec_runs(tmp_path):
    """The folders of two runs, whose data and configurations are there."""
    recordings, images = tmp_path / "recordings", tmp_path / "images"
    recordings.mkdir()
    (images / "arrays").mkdir(parents=True)
    for index in range(12):
        soundfile.write(recordings / f"{index}.wav", 0.3 * np.sin(np.arange(400) * (0.1 + 0.02 * index)), 1600)
    stored = []
    for index, split in enumerate(("train", "train", "train", "validation", "test")):
        clip = draw(index, 24, 30)
        np.save(images / "arrays" / f"{index}.npy", clip)
        file = f"arrays/{index}.npy"
        stored.append(image_data.StoredImage(file, "stamps", str(index), "CC0", str(index), list(clip.shape), split))
    manifest = {"images": [asdict(image) for image in stored], "skipped": {}}
    (images / image_data.MANIFEST_FILE).write_text(json.dumps(manifest))
    sources = [{"name": "folder", "path": str(recordings)}]
    speech = {"sources": sources, "folder": str(tmp_path / "data"), "validation_share": 0.3, "test_share": 0.3}
    crops = {"folder": str(images), "shapes": [[1, 16, 16]], "weights": {"stamps": 1.0}, "num_validation_crops": 2}
    return configure(tmp_path, "train_jodio", JODIO, speech), configure(tmp_path, "train_jovio", JOVIO, crops)


@pytest.mark.slow
def test_what_a_codecs_run_leaves_is_written_by_one_process(codec_runs, tmp_path):
    first, second = run_two(train_codecs, tmp_path)
    for folder in codec_runs:
        (metrics, written), (others, nothing) = first[folder.name], second[folder.name]
        assert metrics == others
        assert sorted(written) == sorted(WRITERS)
        assert nothing == []
        report = json.loads((folder / "report" / "metrics.json").read_text())
        shared = report.keys() & metrics.keys()
        assert len(shared) > 2
        assert {name: report[name] for name in shared} == {name: metrics[name] for name in shared}
        assert "eval_loss" in (folder / "model" / "README.md").read_text()
