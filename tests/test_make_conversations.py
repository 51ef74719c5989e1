"""The data set that the recipes start with: its format, and that the recipes' own configurations run on it."""

import json
from pathlib import Path

import make_conversations
import pytest
import train_talker
import train_thinker
from recipe_runs import run_recipe
from recipes.configuration import read_config

from josie.training.conversations import read_jsonl

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder in which the command was run as it stands, with fewer rows."""
    folder = tmp_path_factory.mktemp("data")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        make_conversations.main(["--num-rows", "10"])
    return folder


@pytest.mark.slow
def test_every_file_is_there_and_every_answer_is_spoken(folder):
    rows = list(read_jsonl(folder / "runs" / "data" / "conversations" / "conversations.jsonl"))
    assert len(rows) == 10
    kinds = set()
    for row in rows:
        question, answer = (message["content"] for message in row["messages"])
        assert [part["type"] for part in answer] == ["text", "audio"]
        kinds |= {part["type"] for part in question}
        for part in (*question, *answer):
            assert "path" not in part or Path(part["path"]).stat().st_size > 200
            assert part["type"] == "image" or part["text"] if part["type"] != "audio" else part["path"]
    assert kinds == {"image", "audio", "text"}


def test_an_existing_folder_is_kept(folder, monkeypatch):
    monkeypatch.chdir(folder)
    with pytest.raises(SystemExit, match="error: `FOLDER` must not exist or be an empty folder"):
        make_conversations.main([])


@pytest.mark.parametrize("recipe", [train_thinker, train_talker], ids=["thinker", "talker"])
def test_the_recipes_own_configurations_run_on_it(recipe, folder, monkeypatch):
    monkeypatch.chdir(folder)
    config = read_config(EXAMPLES / f"{recipe.__name__}.json", ["trainer.max_steps=1", 'answers={"num_questions": 1}'])
    if recipe is train_talker:
        del config["answers"]
    metrics = run_recipe(recipe, config)
    assert "eval_loss" in metrics
    assert json.loads((folder / config["trainer"]["output_dir"] / "model" / "config.json").read_text())


@pytest.mark.parametrize("recipe", [train_thinker, train_talker], ids=["thinker", "talker"])
def test_missing_data_is_found_before_a_model_is_loaded(recipe, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(recipe, "load_start", lambda *args: pytest.fail("a model was loaded"))
    config = read_config(EXAMPLES / f"{recipe.__name__}.json")
    with pytest.raises(ValueError, match="`path` of a source must be an existing file, got 'runs/data/conversations/"):
        run_recipe(recipe, config)
