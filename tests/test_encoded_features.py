"""Features of an audio encoder that were made before: they give what the audio gives, and train what it trains."""

import numpy as np
import pytest
import torch
import train_talker
import train_thinker
from datasets import load_dataset
from recipe_runs import read_losses, refuse, run_recipe, write_conversations
from transformers import AutoModelForMultimodalLM, AutoProcessor

from josie import JosieDataCollator
from josie.processing_josie.encoded_clips import with_features
from josie.training.encode_dataset import EncodeArguments, encode_dataset


@pytest.fixture(scope="module")
def encoded(tmp_path_factory, tiny_folder):
    """A folder of conversations, with what `josie encode --features` makes of them in `out`."""
    folder = tmp_path_factory.mktemp("encoded")
    rows = write_conversations(folder, number=12)
    encode_dataset(EncodeArguments(str(rows), str(tiny_folder), features=True, shard_rows=5), folder / "out")
    return folder


@pytest.fixture(scope="module")
def rows(encoded):
    read = load_dataset(str(encoded / "out"), split="train", cache_dir=str(encoded / "cache"))
    return [{name: value for name, value in row.items() if value is not None} for row in read]


@pytest.fixture(scope="module")
def tiny(tiny_folder):
    return AutoModelForMultimodalLM.from_pretrained(tiny_folder).eval(), AutoProcessor.from_pretrained(tiny_folder)


def test_features_give_the_logits_of_the_audio(rows, tiny):
    model, processor = tiny
    collate = JosieDataCollator(processor)
    heard = [row for row in rows if row["audio_features"]]
    assert len(heard) == 6
    with_audio = collate([{key: row[key] for key in row if key != "audio_features"} for row in heard])
    given = collate(heard)
    assert "input_features" in with_audio
    assert "input_features" not in given
    assert torch.equal(given["input_ids"], with_audio["input_ids"])
    with torch.no_grad():
        found, expected = model(**given), model(**with_audio)
    torch.testing.assert_close(found.logits, expected.logits, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.loss, expected.loss)
    lengths = [processor.get_num_tokens(with_features(row["messages"], row["audio_features"])) for row in heard]
    assert lengths == given["attention_mask"].sum(dim=1).tolist()


def test_no_audio_is_read_and_generation_hears_the_features(rows, tiny, monkeypatch):
    model, processor = tiny
    row = next(row for row in rows if row["audio_features"])
    question = row["messages"][:1]
    options = dict(tokenize=True, return_dict=True, add_generation_prompt=True)
    expected = model.generate(**processor.apply_chat_template(question, **options), max_new_tokens=5)
    monkeypatch.setattr("josie.processing_josie.clip_inputs.as_waveform", lambda *args: pytest.fail("read"))
    inputs = processor.apply_chat_template(with_features(question, row["audio_features"]), **options)
    assert torch.equal(model.generate(**inputs, max_new_tokens=5), expected)


def test_long_features_are_cut_as_clips_are(tiny, caplog):
    model, processor = tiny
    width = model.config.thinker_config.audio_config.hidden_size
    limit = model.config.thinker_config.max_audio_tokens
    part = {"type": "audio", "features": np.zeros((limit + 3, width), np.float32)}
    inputs = processor.apply_chat_template([{"role": "user", "content": [part]}], tokenize=True, return_dict=True)
    assert (inputs["input_ids"] == processor.audio_token_id).sum() == limit
    assert model(**inputs).logits.isfinite().all()


@pytest.mark.parametrize(
    ("features", "match"),
    [
        ([[0.0, 1.0], [2.0]], "inhomogeneous|must be of shape"),
        ([], r"must be of shape \(num_features, encoder_hidden_size\), got \(0,\)"),
        (np.full((2, 18), np.nan), "must be finite, got NaN"),
        (np.zeros((2, 18, 3)), r"must be of shape \(num_features, encoder_hidden_size\), got \(2, 18, 3\)"),
    ],
)
def test_features_of_another_form_are_refused(tiny, features, match):
    part = {"type": "audio", "features": features}
    with pytest.raises(ValueError, match=match):
        tiny[1].apply_chat_template([{"role": "user", "content": [part]}], tokenize=True, return_dict=True)


def test_features_that_cannot_be_used_are_refused(rows, tiny):
    model, processor = tiny
    heard = next(row for row in rows if row["audio_features"])
    collate = JosieDataCollator(processor)
    with pytest.raises(ValueError, match="`audio` must have `features` in all clips of a batch or in none, got 1 of 2"):
        collate([heard, {"messages": heard["messages"]}])
    with pytest.raises(
        ValueError, match=r"`audio_features` must be of as many clips as are heard in `messages` \(1\), got 2"
    ):
        collate([heard | {"audio_features": heard["audio_features"] * 2}])
    narrow = heard | {"audio_features": [[value[:-1] for value in heard["audio_features"][0]]]}
    with pytest.raises(ValueError, match="`audio_features` must be of shape"):
        model(**collate([narrow]))
    batch = collate([heard])
    with pytest.raises(ValueError, match="`input_features` must be None with `audio_features`, got both"):
        model(**batch, input_features=torch.zeros(1, 9, 8))
    model.train()
    try:
        with pytest.raises(ValueError, match="`audio_features` must be None where the audio encoder learns"):
            model(**batch)
        model.freeze("thinker.audio.encoder")
        model(**batch).loss.backward()
        front_end = model.thinker.model.audio_front_end
        assert all(parameter.grad is None for parameter in front_end.encoder.parameters())
        assert any(parameter.grad.any() for parameter in front_end.projector.parameters())
    finally:
        model.unfreeze("thinker.audio.encoder")
        model.zero_grad()
        model.eval()


def configure(folder, model, output, **options):
    trainer = dict(max_steps=3, logging_steps=1, per_device_train_batch_size=4, disable_tqdm=True, learning_rate=1e-2)
    trainer |= dict(output_dir=str(output), save_steps=3, eval_strategy="no")
    source = {"name": "datasets", "path": str(folder / "out"), "cache_dir": str(folder / "cache")}
    data = {"sources": [source], "validation_share": 0.2, "folder": str(folder / "codes")}
    return {"data": data, "model": {"path": str(model)}, "trainer": trainer} | options


def test_recipes_read_features_as_they_read_audio(encoded, tiny_folder, tmp_path, monkeypatch):
    frozen = {"freeze": ["thinker.audio.encoder", "talker"]}
    config = configure(encoded, tiny_folder, tmp_path / "audio", **frozen)
    run_recipe(train_thinker, config)
    config = configure(encoded, tiny_folder, tmp_path / "features", **frozen)
    config["data"]["audio_features"] = True
    monkeypatch.setattr("josie.processing_josie.clip_inputs.as_waveform", lambda *args: pytest.fail("read"))
    run_recipe(train_thinker, config)
    monkeypatch.undo()
    losses = [
        [loss for loss, _ in read_losses({"trainer": {"output_dir": str(tmp_path / name)}}, "text_loss").values()]
        for name in ("audio", "features")
    ]
    assert len(losses[0]) == 3
    np.testing.assert_allclose(losses[1], losses[0], rtol=2e-3)


def test_the_talkers_recipe_reads_features(encoded, tiny_folder, tmp_path, monkeypatch):
    monkeypatch.setattr("josie.processing_josie.clip_inputs.as_waveform", lambda *args: pytest.fail("read"))
    config = configure(encoded, tiny_folder, tmp_path / "run")
    config["data"]["audio_features"] = True
    assert "eval_depth_loss" in run_recipe(train_talker, config)


def test_recipes_refuse_features_of_another_encoder(encoded, tiny_folder, tmp_path):
    config = configure(encoded, tiny_folder, tmp_path / "run", freeze=["thinker.audio.encoder", "talker"])
    config["data"]["audio_features"] = True
    refuse(train_thinker, config, "freeze=[]", "`data.audio_features` must be false unless", tmp_path)
    message = "`data.audio_features` must be false with `ctc`, `teacher`, `token_ctc` or `hearing`"
    refuse(train_thinker, config, "ctc={}", message, tmp_path)
    refuse(train_thinker, config, "token_ctc={}", message, tmp_path)
    other = AutoModelForMultimodalLM.from_pretrained(tiny_folder)
    next(other.thinker.model.audio_front_end.encoder.parameters()).data.add_(1.0)
    other.save_pretrained(tmp_path / "other")
    AutoProcessor.from_pretrained(tiny_folder).save_pretrained(tmp_path / "other")
    change = f"model.path={tmp_path / 'other'}"
    refuse(train_thinker, config, change, "`audio_features` must be of the model's own audio encoder", tmp_path)
    plain = tmp_path / "plain"
    encode_dataset(EncodeArguments(str(encoded / "rows.jsonl"), str(tiny_folder), shard_rows=50), plain)
    config["data"]["sources"][0]["path"] = str(plain)
    refuse(train_thinker, config, "threads=1", "must come from a folder of `josie encode --features`", tmp_path)
