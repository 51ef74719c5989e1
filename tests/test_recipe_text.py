"""The text recipe: its blocks, its splits, streams, and that a run that was interrupted goes on as if it had not."""

import json
import re
from itertools import islice
from pathlib import Path

import pytest
import torch
import train_text
from datasets import Dataset
from recipe_runs import interrupt_and_resume, refuse
from recipes import configuration, runs, streams, text_data
from transformers import AutoModelForCausalLM, AutoTokenizer

import josie

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
CONFIG = {
    "data": {"block_size": 13, "shuffle_buffer": 5, "validation_share": 0.2, "max_validation_blocks": 7},
    "tokenizer": {"vocab_size": 300},
    "model": {"hidden_size": 12, "intermediate_size": 20, "num_hidden_layers": 1, "num_attention_heads": 2},
    "trainer": {
        "max_steps": 6,
        "per_device_train_batch_size": 3,
        "gradient_accumulation_steps": 2,
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


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    """A folder of texts."""
    folder = tmp_path_factory.mktemp("texts")
    for index in range(3):
        lines = (f"Line {number} of text {index} has {number * index} words." for number in range(12 + index))
        (folder / f"{index}.txt").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture
def config(texts, tmp_path):
    config = json.loads(json.dumps(CONFIG))
    config["data"] |= {
        "sources": [{"name": "folder", "path": str(texts), "by": "line"}],
        "folder": str(tmp_path / "data"),
    }
    config["trainer"]["output_dir"] = str(tmp_path / "run")
    return config


@pytest.mark.slow
@pytest.mark.parametrize("is_streaming", [False, True], ids=["on-disk", "streaming"])
def test_an_interrupted_run_goes_on_with_the_same_losses(config, tmp_path, monkeypatch, is_streaming):
    config["data"] |= {"streaming": is_streaming, "mask_documents": is_streaming}
    config["model"]["hidden_dropout"] = 0.1  # so that random numbers matter
    metrics = interrupt_and_resume(train_text, config, "grad_norm", monkeypatch, tmp_path / "interrupted")
    assert set(metrics) == {"eval_loss", "eval_perplexity", "eval_token_accuracy"}
    assert metrics["eval_perplexity"] == pytest.approx(torch.tensor(metrics["eval_loss"]).exp().item(), rel=0.05)

    folder = tmp_path / "interrupted" / "model"
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    written = model.generate(**tokenizer("Line", return_tensors="pt"), max_new_tokens=3)
    assert written.shape[1] >= 2
    card = (folder / "README.md").read_text()
    for words in ("the command", "a tiny machine", "eval_perplexity"):
        assert words in card


def make_arguments(config, **changes):
    return text_data.TextDataArguments(**config["data"] | changes)


def test_blocks_hold_all_texts_one_after_the_other():
    tokenizer = josie.load_default_tokenizer(300)
    rows = [{"text": "word " * (index % 7)} for index in range(600)]
    blocks = list(text_data.make_blocks(rows, tokenizer, 17))
    joined = [token for block in blocks for token in block["input_ids"]]
    expected = [
        token
        for row in rows
        for token in [1, *tokenizer(row["text"], add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
    ]
    assert tokenizer.bos_token_id == 1
    assert joined == expected[: len(joined)]
    assert len(expected) - len(joined) < 17
    assert all(len(block["input_ids"]) == 17 and block["labels"] == block["input_ids"] for block in blocks)


def test_masked_texts_in_a_block_are_read_as_if_alone(config):
    tokenizer = josie.load_default_tokenizer(300)
    rows = [{"text": text} for text in ("Ada", "Bob and Eve", "x" * 30, "end")]
    blocks = list(text_data.make_blocks(rows, tokenizer, 23, is_masked=True))
    model = josie.JosieThinkerForConditionalGeneration(train_text.build_config(config["model"], tokenizer, 23)).eval()
    model.config.use_cache = False  # as `Trainer` does: a cache knows nothing of several texts in a row
    batch = {name: torch.tensor([block[name] for block in blocks]) for name in blocks[0]}
    assert len(blocks) >= 2
    logits = model(**{name: batch[name] for name in ("input_ids", "position_ids")}).logits
    columns = [batch[name] for name in ("input_ids", "position_ids", "labels")]
    for ids, positions, labels, found in zip(*columns, logits, strict=True):
        starts = [*(positions == 0).nonzero()[:, 0].tolist(), 23]
        assert starts[0] == 0
        assert (labels == -100).nonzero()[:, 0].tolist() == starts[:-1]
        for start, end in zip(starts, starts[1:], strict=False):
            torch.testing.assert_close(found[start:end], model(ids[None, start:end]).logits[0], rtol=1e-4, atol=1e-5)


def test_splits_share_no_text_and_are_those_of_the_stream(config):
    tokenizer = josie.load_default_tokenizer(300)
    # One block for each text: what is in it is known by its first tokens.
    found = []
    for is_streaming in (False, True):
        arguments = make_arguments(config, block_size=20, streaming=is_streaming, max_validation_blocks=99)
        train, validation = text_data.load_blocks(arguments, tokenizer)
        rows = list(islice(train, 60)) if is_streaming else list(train)
        found.append(([tuple(row["input_ids"]) for row in rows], [tuple(row["input_ids"]) for row in validation]))
    (train, validation), (streamed, held_out) = found
    assert validation == held_out
    assert len(validation) > 2
    assert not set(train) & set(validation)
    assert not set(streamed) & set(validation)


def test_a_stream_has_no_end_and_another_order_each_time():
    rows = Dataset.from_dict({"value": list(range(20))}).to_iterable_dataset()
    stream = streams.endless_stream(rows, seed=1, buffer_size=30)
    values = [row["value"] for row in islice(stream, 60)]
    rounds = [values[start : start + 20] for start in (0, 20, 40)]
    assert all(sorted(values) == list(range(20)) for values in rounds)
    assert rounds[0] != rounds[1] != rounds[2]
    assert [row["value"] for row in islice(stream.skip(13), 10)] == values[13:23]
    assert list(streams.endless_stream(rows.take(0), 1, 30)) == []


def test_several_sources_are_mixed(config, texts):
    config["data"]["sources"] = [
        {"name": "folder", "path": str(texts)},
        {"name": "datasets", "path": "text", "data_files": str(texts / "0.txt"), "text_column": "text"},
    ]
    for is_streaming in (False, True):
        arguments = make_arguments(config, streaming=is_streaming, validation_share=0.0)
        train, validation = text_data.load_blocks(arguments, josie.load_default_tokenizer(300))
        assert len(validation) == 0
        assert len(list(islice(train, 50))) == 50


def test_debian_texts_are_fetched_once(config, tmp_path, monkeypatch):
    fetched = []
    monkeypatch.setattr(text_data, "fetch_package", lambda name, cache: fetched.append(name) or tmp_path)
    reader = lambda root: (f"Verse {number}, and so on." for number in range(40))  # noqa: E731
    monkeypatch.setitem(text_data.TEXTS, "bible", (("bible-kjv", "bible-kjv-text"), reader))
    arguments = make_arguments(config, sources=[{"name": "debian", "texts": ["bible"]}])
    for _ in range(2):
        train, _ = text_data.load_blocks(arguments, josie.load_default_tokenizer(300))
        assert len(train) > 10
    assert fetched == ["bible-kjv", "bible-kjv-text"]


def test_the_recipes_own_configuration_is_valid():
    config = configuration.read_config(EXAMPLES / "train_text.json")
    configuration.require_sections(config, *train_text.SECTIONS)
    data = configuration.read_section(config, "data", text_data.TextDataArguments)
    runs.read_trainer_section(config, train_text.TrainingArguments)
    configuration.read_section(config, "card", train_text.CardArguments)
    tokenizer = train_text.load_tokenizer(
        configuration.read_section(config, "tokenizer", train_text.TokenizerArguments)
    )
    model = josie.JosieThinkerForConditionalGeneration(
        train_text.build_config(config["model"], tokenizer, data.block_size)
    )
    assert model.num_parameters() <= 10_000_000


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("crops.seconds=1", "`config` must have sections of"),
        ("data.sources=[]", "`data.sources` must name at least one of ['datasets', 'debian', 'folder'], got none."),
        ('data.sources=[{"name": "radio"}]', "got {'name': 'radio'}."),
        ('data.sources=[{"name": "folder", "path": "/nowhere"}]', "must give a folder with .txt files as `path`"),
        ('data.sources=[{"name": "debian", "texts": ["news"]}]', "got ['news']."),
        (
            'data.sources=[{"name": "folder", "path": ".", "by": "lines"}]',
            "`by` of a source 'folder' must be of ['docum",
        ),
        (
            'data.sources=[{"name": "folder", "sample_by": "line"}]',
            "must hold ['name', 'path', 'by'] of the source 'fol",
        ),
        ('data.sources=[{"name": "debian", "path": "."}]', "['name', 'texts'] of the source 'debian', got 'path'."),
        ('data.sources=[{"name": "datasets", "path": "text"}]', "`data_files` of a source must be files where its"),
        ('data.sources=[{"name": "datasets"}]', "`path` of a source must be the name of a data set, got None."),
        ("model=null", "`model` must be a section of the configuration, got None."),
        ("model.model_type=nope", "`model.model_type` must be one that transformers knows, got 'nope'."),
        (
            'tokenizer={"path": "/no/where"}',
            "`tokenizer.path` must be a folder or Hub name of a model, got '/no/where': ",
        ),
        ("data.block_size=1", "`data.block_size` must be at least 2, got 1."),
        ("data.block_size=5000", "must have a block of 5000 tokens to train on, got none."),
        ("data.validation_share=1", "`data.validation_share` must be at least 0 and below 1, got 1."),
        ("model.widths=3", "`model` must have fields of JosieTextConfig, got 'widths'."),
        ("model.vocab_size=100", "`model.vocab_size` must be at least the tokenizer's (300), got 100."),
        ("model.max_position_embeddings=5", "`data.block_size` must be at most `model.max_position_embeddings` (5)"),
        ("tokenizer.path=x", "`tokenizer.vocab_size` must be null with a `path`, got 300."),
    ],
)
def test_wrong_configurations_are_errors(config, tmp_path, change, message):
    refuse(train_text, config, change, message, tmp_path)


@pytest.mark.parametrize("is_streaming", [False, True])
def test_rows_that_are_no_texts(config, tmp_path, is_streaming):
    path = tmp_path / "rows.jsonl"
    source = {"name": "datasets", "path": "json", "data_files": str(path)}
    for text, options, message in (
        (None, {}, None),
        (7, {"split": "train"}, "`text_column` of a source must be of texts, got 7."),
        (None, {"revison": "x"}, "unexpected keyword argument 'revison'"),
        (None, {"data_files": "/no.jsonl"}, "`data_files` of a source must be files that exist, got '/no.jsonl'"),
        (None, {"text_column": "words"}, "`text_column` must be one of ['text'], got 'words'."),
    ):
        rows = [{"text": text if text == 7 or index % 3 else "So many words. " * 9} for index in range(9)]
        path.write_text("\n".join(map(json.dumps, rows)) + "\n")
        arguments = make_arguments(config, sources=[source | options], streaming=is_streaming, validation_share=0.0)
        if message is None:
            blocks, _ = text_data.load_blocks(arguments, josie.load_default_tokenizer(300))
            assert next(iter(blocks))["input_ids"]
            continue
        with pytest.raises(ValueError, match=re.escape(message)):
            text_data.load_blocks(arguments, josie.load_default_tokenizer(300))


@pytest.mark.parametrize("is_streaming", [False, True])
def test_texts_in_another_encoding_are_named(config, tmp_path, is_streaming):
    (tmp_path / "old.txt").write_bytes("un café. ".encode("latin-1") * 30)
    (tmp_path / "cut.txt").write_bytes("caf\u00e9".encode()[:-1])
    for source, name in (
        ({"name": "folder", "path": str(tmp_path)}, "cut.txt"),
        ({"name": "datasets", "path": "text", "data_files": str(tmp_path / "old.txt")}, "old.txt"),
    ):
        arguments = make_arguments(config, sources=[source], streaming=is_streaming)
        with pytest.raises(ValueError, match="utf-8") as caught:
            text_data.load_blocks(arguments, josie.load_default_tokenizer(300))
        assert name in str(caught.value)


def test_workers_change_no_stream():
    """A stream of several shards is read whole by the one worker that gets it."""
    rows = Dataset.from_dict({"value": list(range(30))}).to_iterable_dataset(num_shards=3)
    stream = streams.endless_stream(rows, seed=1, buffer_size=0)
    expected = [row["value"] for row in islice(stream, 45)]
    assert sorted(expected[:30]) == list(range(30))
    loader = torch.utils.data.DataLoader(stream, batch_size=None, num_workers=2)
    assert [int(row["value"]) for row in islice(loader, 45)] == expected
