"""The Talker's recipe: an interrupted run goes on, with the Thinker or without it, and codes are made once."""

import json
import sys
from pathlib import Path

import pytest
import soundfile
import torch
import train_talker
from recipe_runs import interrupt_and_resume, read_losses, refuse, run_recipe, write_conversations
from recipes import configuration, conversations as conversation_rows, runs, spoken_rows
from recipes.models import ModelArguments
from tiny import DEPTH, TALKER, THINKER, build
from transformers import AutoModelForMultimodalLM, AutoProcessor

import josie
from josie.training.conversations import read_jsonl, to_dataset

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
CONFIG = {
    "data": {"validation_share": 0.3, "shuffle_buffer": 5, "max_validation_rows": 4},
    "trainer": {
        "max_steps": 6,
        "per_device_train_batch_size": 3,
        "per_device_eval_batch_size": 2,
        "learning_rate": 0.01,
        "logging_steps": 1,
        "save_steps": 3,
        "eval_strategy": "steps",
        "eval_steps": 4,
        "seed": 5,
        "disable_tqdm": True,
        "use_cpu": True,
    },
    "card": {"license": "apache-2.0", "hardware": "a tiny machine"},
}
SCORES = {"eval_loss", "eval_talker_loss", "eval_depth_loss", *(f"eval_code_accuracy_{index}" for index in range(3))}


@pytest.fixture(scope="module")
def conversations(tmp_path_factory):
    return write_conversations(tmp_path_factory.mktemp("conversations"))


@pytest.fixture(scope="module")
def folders(tiny_folder, tmp_path_factory, save_checkpoint):
    """Models whose Talker reads the Thinker's states, or not."""
    talker = dict(TALKER, depth_decoder_config=DEPTH, reads_thinker_states=False)
    return {True: tiny_folder, False: save_checkpoint(tmp_path_factory.mktemp("alone"), talker_config=talker)}


@pytest.fixture
def config(conversations, folders, tmp_path):
    config = json.loads(json.dumps(CONFIG))
    config["data"] |= {"sources": [{"name": "jsonl", "path": str(conversations)}], "folder": str(tmp_path / "data")}
    config["model"] = {"path": str(folders[False])}
    config["trainer"]["output_dir"] = str(tmp_path / "run")
    return config


@pytest.mark.slow
@pytest.mark.parametrize("is_streaming", [False, True], ids=["in-memory", "streaming"])
@pytest.mark.parametrize("reads_states", [False, True], ids=["alone", "with-thinker"])
def test_an_interrupted_run_goes_on_with_the_same_losses(
    config, tmp_path, monkeypatch, is_streaming, reads_states, folders
):
    for name in ("nano_world", "nano_world.tasks", "finetune_lora"):  # not needed
        monkeypatch.setitem(sys.modules, name, None)
    config["data"]["streaming"] = is_streaming
    config["model"]["path"] = str(folders[reads_states])
    if not is_streaming:
        config["trainer"]["train_sampling_strategy"] = "group_by_length"
    metrics = interrupt_and_resume(train_talker, config, "depth_loss", monkeypatch, tmp_path / "interrupted")
    assert set(metrics) >= SCORES
    talker = read_losses(config, "talker_loss")
    for step, (loss, depth) in read_losses(config, "depth_loss").items():
        assert loss == pytest.approx(talker[step][1] + depth, rel=1e-4)

    checkpoint, folder = tmp_path / "interrupted" / "checkpoint-6", tmp_path / "interrupted" / "model"
    last = AutoModelForMultimodalLM.from_pretrained(checkpoint).state_dict()
    AutoProcessor.from_pretrained(checkpoint)
    before, after = (AutoModelForMultimodalLM.from_pretrained(path) for path in (folders[reads_states], folder))
    assert after.config.text_loss_weight == before.config.text_loss_weight == 1
    old, new = before.state_dict(), after.state_dict()
    assert all(torch.equal(value, last[name]) for name, value in new.items())
    different = {name for name, value in old.items() if not torch.equal(value, new[name])}
    assert {name.split(".")[0] for name in different} == {"talker"}
    assert len(different) > 10
    spoken = after.generate_speech(
        **AutoProcessor.from_pretrained(folder)(text="It is 3."), speaker="bob", talker_max_new_frames=5
    )
    assert spoken.audio_values.shape[-1] > 0
    card = (folder / "README.md").read_text()
    for words in ("the command", "a tiny machine", "eval_code_accuracy_2", "omni model"):
        assert words in card


def test_a_talker_alone_learns_what_it_learns_in_the_whole_model(config, folders, conversations):
    model = AutoModelForMultimodalLM.from_pretrained(folders[False]).train()
    processor = AutoProcessor.from_pretrained(folders[False])
    rows = list(read_jsonl(conversations, ["speaker"]))[1:4]
    collate = train_talker.SpeechCollator(josie.JosieDataCollator(processor), spoken_rows.SpeechEncoder.of_model(model))
    whole = collate(rows)
    assert whole["speaker_ids"].tolist() == [1, 0, 1]
    part = train_talker.EmbeddingCollator(collate, model.get_input_embeddings())(rows)
    assert set(part) == {"speech_codes", "speaker_ids", "thinker_embeds", "thinker_mask"}
    losses = model(**whole)
    torch.testing.assert_close(model.talker(**part).loss, losses.talker_loss + losses.depth_loss)


def load(config, encode, **changes):
    return spoken_rows.SpokenConversations.load(
        config | {"data": config["data"] | changes}, spoken_rows.is_spoken
    ).encode(encode)


def test_recordings_are_encoded_once_and_again_when_they_change(config, folders, tmp_path, monkeypatch):
    source = write_conversations(tmp_path)
    config["data"]["sources"][0]["path"] = str(source)
    encode = spoken_rows.SpeechEncoder.of_model(AutoModelForMultimodalLM.from_pretrained(folders[False]))
    calls = []
    make = spoken_rows.add_speech_codes
    monkeypatch.setattr(spoken_rows, "add_speech_codes", lambda *args: calls.append(1) or make(*args))
    rows = load(config, encode)
    made = len(calls)
    assert made == 2  # one batch of each split
    for row in (*rows["train"], *rows["validation"]):
        expected = make({"messages": [row["messages"]]}, encode.codec, 3)["speech_codes"][0]
        assert row["speech_codes"] == expected.tolist()
        assert row["length"] == expected.shape[1]
        assert row["speaker"] in ("ada", "bob")
    assert sum(map(len, rows.values())) == 18  # the other rows are not spoken

    other = spoken_rows.SpeechEncoder.of_model(AutoModelForMultimodalLM.from_pretrained(folders[False]))
    again = load(config, other)
    assert len(calls) == made
    assert list(again["train"]) == list(rows["train"])
    soundfile.write(tmp_path / "long.wav", torch.zeros(700).numpy(), 1600)
    assert list(load(config, other)["train"]) != list(rows["train"])
    with torch.no_grad():
        next(other.codec.parameters()).add_(1.0)
    made = len(calls)
    load(config, other)
    assert len(calls) > made


def test_codes_that_are_given_are_kept(folders):
    encode = spoken_rows.SpeechEncoder.of_model(AutoModelForMultimodalLM.from_pretrained(folders[False]))
    messages = [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}]
    codes = [[1, 2, 11], [3, 4, -100], [5, 6, -100]]
    rows = to_dataset([{"messages": messages, "speech_codes": given, "speaker": "1089"} for given in (codes, None)])
    encoded = rows.map(encode, batched=True)
    assert encoded["speech_codes"][:] == [codes, []]
    assert encoded["length"][:] == [3, 0]
    assert encoded["speaker"][:] == ["1089"] * 2
    assert encoded["messages"][0] == messages
    assert [spoken_rows.is_spoken(row) for row in rows] == [True, False]


def test_rows_with_a_length_of_their_own_are_encoded(folders, conversations, tmp_path):
    encode = spoken_rows.SpeechEncoder.of_model(AutoModelForMultimodalLM.from_pretrained(folders[False]))
    rows = [row | {"length": 99} for row in read_jsonl(conversations) if spoken_rows.is_spoken(row)][:2]
    expected = encode({"messages": [row["messages"] for row in rows]})
    encoded = encode.encode_rows(to_dataset(rows), tmp_path)
    assert encoded["speech_codes"][:] == [codes.tolist() for codes in expected["speech_codes"]]
    assert encoded["length"][:] == expected["length"]
    assert encode.encode_rows(encoded, tmp_path) is encoded
    batch = spoken_rows.SpeechCollator(list, encode)(rows)
    assert [row["speech_codes"].tolist() for row in batch] == encoded["speech_codes"][:]


def test_recordings_are_left_out_of_every_turn():
    clip, words = {"type": "audio", "path": "x.wav"}, {"type": "text", "text": "yes"}
    messages = [
        {"role": "user", "content": [clip, words]},
        {"role": "assistant", "content": [words, clip]},
        {"role": "user", "content": "and?"},
        {"role": "assistant", "content": [clip, words]},
    ]
    silent = spoken_rows.without_speech(messages)
    assert [message["content"] for message in silent] == [[clip, words], [words], "and?", [words]]
    assert messages[1]["content"] == [words, clip]


def test_the_recipes_own_configuration_is_valid():
    config = configuration.read_config(EXAMPLES / "train_talker.json")
    configuration.require_sections(config, *train_talker.SECTIONS)
    configuration.read_section(config, "data", conversation_rows.ConversationDataArguments)
    configuration.read_section(config, "model", ModelArguments)
    runs.read_trainer_section(config, train_talker.TrainingArguments)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("freeze=[]", "`config` must have sections of"),
        ("data.sources=[]", "`data.sources` must name at least one of"),
        ("model.preset=micro", "`model` must have either `path` or `preset`"),
        ("model.path=/nowhere", "`model.path` must be a folder or Hub name of a model, got '/nowhere'"),
        ("data.folders=x", "`data` must have keys of"),
    ],
)
def test_wrong_configurations_are_errors(config, tmp_path, change, message):
    refuse(train_talker, config, change, message, tmp_path)


@pytest.mark.parametrize("is_streaming", [False, True])
def test_nothing_that_is_spoken_is_an_error(config, tmp_path, is_streaming):
    path = tmp_path / "silent.jsonl"
    row = {"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}]}
    path.write_text(json.dumps(row) + "\n")
    config["data"] |= {"sources": [{"name": "jsonl", "path": str(path)}], "streaming": is_streaming}
    with pytest.raises(ValueError, match="`data` must leave conversations to train on, got none."):
        run_recipe(train_talker, config)


def test_a_start_is_counted_and_where_nothing_fits_refused(
    config, folders, tmp_path, save_checkpoint, caplog, codec_folder
):
    caplog.set_level("INFO", "josie")
    config["trainer"] |= {"max_steps": 1, "eval_strategy": "no"}
    start = {"weights": str(folders[True])}  # with states to read, which this one has not
    assert run_recipe(train_talker, config | {"start": start}) is not None
    (said,) = [text for text in caplog.messages if "weights of the Talker are those of" in text]
    taken, own = (int(word) for word in said.split() if word.isdecimal())
    assert 0 < taken < own
    other = save_checkpoint(tmp_path / "other", talker_config=dict(TALKER, hidden_size=24, depth_decoder_config=None))
    for name, message in (
        (str(other), "must be a model whose Talker has weights of the same names and shapes, got "),
        (str(codec_folder("jodio")), "must be a model with a Talker, got "),
        ("/no/where", "must be a folder or Hub name of a model, got '/no/where': "),
    ):
        with pytest.raises(ValueError, match=f"^`start.weights` {message}"):
            run_recipe(train_talker, config | {"start": {"weights": name}}, "restart")


@pytest.mark.parametrize("start", [{}, {"weights": "nano"}], ids=["anew", "started"])
def test_a_model_without_a_voice_is_an_error(config, tmp_path, start):
    config["start"] = start
    model = build(josie.JosieThinkerForConditionalGeneration, josie.JosieThinkerConfig(**THINKER))
    model.save_pretrained(tmp_path / "thinker")
    josie.JosieProcessor.from_config(model.config, josie.load_default_tokenizer(300)).save_pretrained(
        tmp_path / "thinker"
    )
    config["model"]["path"] = str(tmp_path / "thinker")
    with pytest.raises(ValueError, match="`model` must have a Talker and an audio codec, got a JosieThinker"):
        run_recipe(train_talker, config)
