"""Helpers of the tests of all training recipes: runs in this process, their losses, and power cuts."""

import json
import re
from pathlib import Path

import pytest
import soundfile
import torch
from PIL import Image
from recipes.configuration import CommandLine, read_config
from recipes.run_log import LOG_FILE, RunLog


class InterruptAt(RunLog):
    """Kills the run in the middle of a step, as a power cut does."""

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == 5:
            raise KeyboardInterrupt


def run_recipe(module, config, mode="continue"):
    """Run a recipe with a copy of its configuration."""
    return module.train_model(CommandLine(json.loads(json.dumps(config)), mode, "the command"))


def refuse(module, config, change, message, folder):
    """A configuration with a wrong value ends in a sentence that has `message`."""
    path = folder / "config.json"
    path.write_text(json.dumps(config))
    with pytest.raises(ValueError, match=re.escape(message)):
        run_recipe(module, read_config(path, [change]))


def read_losses(config, name):
    """Return the loss, and its part `name`, of each step that was logged."""
    lines = (Path(config["trainer"]["output_dir"]) / LOG_FILE).read_text().splitlines()
    return {entry["step"]: (entry["loss"], entry[name]) for entry in map(json.loads, lines) if name in entry}


def interrupt_and_resume(module, config, name, monkeypatch, folder):
    """Run six steps in one go, and then, in `folder`, with a power cut between; both must have the same losses.

    What a run that was killed while it saved leaves behind is in the way, and a finished run goes no further.

    Returns:
        The metrics of the resumed run.
    """
    run_recipe(module, config)
    whole = read_losses(config, name)
    assert sorted(whole) == [1, 2, 3, 4, 5, 6]
    assert len({loss for loss, _ in whole.values()}) == 6

    config["trainer"]["output_dir"] = str(folder)
    with monkeypatch.context() as patch:
        patch.setattr(module, "RunLog", InterruptAt)
        with pytest.raises(KeyboardInterrupt):
            run_recipe(module, config)
    (folder / "checkpoint-5").mkdir()
    metrics = run_recipe(module, config, "resume")
    assert not (folder / "checkpoint-5").exists()
    assert read_losses(config, name) == whole
    assert run_recipe(module, config) == metrics
    assert read_losses(config, name) == whole
    return metrics


def write_conversations(folder, number=24):
    """Write a JSONL file of conversations: what is asked may be heard or about an image, what is answered is spoken.

    Every other question is a clip, of which two in three have a transcript; every third comes with an image. The
    assistant's recordings are of different lengths, and every fourth row has none.
    """
    Image.new("RGB", (30, 25), "red").save(folder / "red.png")
    for name, length in (("question", 900), ("short", 300), ("long", 500)):
        soundfile.write(folder / f"{name}.wav", torch.linspace(-30, 30, length).sin().mul(0.3).numpy(), 1600)
    rows = []
    for index in range(number):
        question = [{"type": "text", "text": f"What is {index}?"}]
        if index % 3 == 0:
            question.insert(0, {"type": "image", "path": "red.png"})
        if index % 2:
            transcript = {"text": f"No {chr(97 + index)}"} if index % 6 > 1 else {}
            question.insert(0, {"type": "audio", "path": "question.wav", **transcript})
        answer = [{"type": "text", "text": f"It is {index}."}]
        if index % 4:
            answer.append({"type": "audio", "path": f"{('short', 'long')[index % 2]}.wav"})
        messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
        rows.append({"messages": messages, "speaker": ("ada", "bob")[index % 2]})
    path = folder / "rows.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)) + "\n")
    return path
