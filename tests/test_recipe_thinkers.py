"""Recipes and scripts with a Thinker alone: they do with it what they can, or say that they need a whole model."""

import json

import pytest
import read_tokens
import soundfile
import torch
import train_duplex
from recipe_runs import run_recipe
from recipes.spoken_rows import SpokenConversations
from recipes.token_ctc import TokenCTCArguments, TokenCTCModel
from safetensors.torch import save_file
from transformers import AutoModelForMultimodalLM, AutoProcessor

from josie.training.encode_dataset import PLAN_FILE, hash_audio_encoder
from josie.training.whole_checkpoints import EXTRA_FILE


@pytest.fixture
def folder(tiny_folder, tmp_path):
    """A Thinker with its processor."""
    AutoModelForMultimodalLM.from_pretrained(tiny_folder).thinker.save_pretrained(tmp_path / "thinker")
    AutoProcessor.from_pretrained(tiny_folder).save_pretrained(tmp_path / "thinker")
    return tmp_path / "thinker"


def test_full_duplex_needs_a_whole_model(folder, tmp_path):
    row = {"turns": [{"begin": 0.1, "text": "Yes."}], "messages": [], "seconds": 1.0}
    (tmp_path / "rows.jsonl").write_text(json.dumps(row) + "\n")
    trainer = {"output_dir": str(tmp_path / "run"), "max_steps": 1, "use_cpu": True}
    config = {"data": {"train": str(tmp_path / "rows.jsonl")}, "model": {"path": str(folder)}, "trainer": trainer}
    with pytest.raises(ValueError, match="`model` must be a whole JOSIE, which speaks, got a 'josie_thinker' alone."):
        run_recipe(train_duplex, config)


def test_features_are_read_by_the_thinker_of_the_model_that_wrote_them(folder, tiny_folder, tmp_path):
    whole, alone = (AutoModelForMultimodalLM.from_pretrained(path) for path in (tiny_folder, folder))
    plan = {"features": True, "audio_encoder": hash_audio_encoder(whole)}
    (tmp_path / PLAN_FILE).write_text(json.dumps(plan))
    rows = SpokenConversations({}, [], "", encoded=[str(tmp_path)])
    with pytest.raises(ValueError, match="`data.audio_features` must be false unless"):
        rows.require_encoder(alone)
    alone.freeze("audio.encoder")
    rows.require_encoder(alone)


def test_tokens_of_a_thinker_are_read(folder, tmp_path, monkeypatch, capsys):
    clip = tmp_path / "clip.wav"
    soundfile.write(clip, torch.linspace(-30, 30, 900).sin().mul(0.3).numpy(), 1600)
    monkeypatch.setattr(read_tokens, "choose_clips", lambda *_: {"tale": [{"path": str(clip), "text": "A tale."}]})
    with pytest.raises(SystemExit, match="error: `MODEL` must be a folder or Hub name of a model, got '/no/where': "):
        read_tokens.main(["/no/where", "x"])
    model = AutoModelForMultimodalLM.from_pretrained(folder)
    head = TokenCTCModel(model, TokenCTCArguments(), torch.arange(20, 40)).state_dict()
    save_file({name: head[name] for name in ("token_ids", "blank", "bias")}, folder / EXTRA_FILE)
    read_tokens.main([str(folder), "x"])
    assert capsys.readouterr().out.startswith("tale: 1 clips, WER ")
