"""The LoRA recipe and its conversations: splits, streams, what learns, and that an interrupted run goes on."""

import json
import shutil
from itertools import islice
from pathlib import Path

import pytest
import soundfile
import torch
from transformers import AutoModelForMultimodalLM, AutoProcessor, TrainingArguments

pytest.importorskip("peft", reason="adapters need peft: pip install 'josie[peft]'")


import finetune_lora
from peft import LoraConfig, get_peft_model
from recipe_runs import interrupt_and_resume, refuse, run_recipe
from recipes import answers, configuration, conversations as conversation_rows, models, runs

from josie.training.conversations import read_jsonl, to_dataset

# What peft 0.21 still asks every model of transformers.
pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
CONFIG = {
    "data": {"validation_share": 0.3, "shuffle_buffer": 5, "max_validation_rows": 4},
    "lora": {"parts": ["thinker", "talker"], "rank": 2, "dropout": 0.1},
    "answers": {"num_questions": 3, "batch_size": 2, "max_new_tokens": 3},
    "trainer": {
        "max_steps": 6,
        "per_device_train_batch_size": 2,
        "per_device_eval_batch_size": 2,
        "learning_rate": 0.01,
        "logging_steps": 1,
        "save_steps": 3,
        "seed": 5,
        "disable_tqdm": True,
        "use_cpu": True,
    },
    "card": {"license": "apache-2.0", "hardware": "a tiny machine"},
}


@pytest.fixture(scope="module")
def conversations(tmp_path_factory):
    """A JSONL file of 24 conversations, every other one about a clip beside it; some are answered aloud."""
    folder = tmp_path_factory.mktemp("conversations")
    soundfile.write(folder / "tone.wav", torch.linspace(-0.3, 0.3, 900).numpy(), 1600)
    rows = []
    for index in range(24):
        question = f"What is {index}?"
        if index % 2:
            question = [{"type": "audio", "path": "tone.wav"}, {"type": "text", "text": question}]
        answer = f"It is {index}."
        if index % 4 == 3:
            answer = [{"type": "text", "text": answer}, {"type": "audio", "path": "tone.wav"}]
        messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
        rows.append({"messages": messages, "topic": f"number {index}"})
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    return folder / "rows.jsonl"


@pytest.fixture
def config(conversations, tiny_folder, tmp_path):
    config = json.loads(json.dumps(CONFIG))
    config["data"]["sources"] = [{"name": "jsonl", "path": str(conversations)}]
    config["data"]["folder"] = str(tmp_path / "data")
    config["model"] = {"path": str(tiny_folder)}
    config["trainer"]["output_dir"] = str(tmp_path / "run")
    return config


@pytest.mark.slow
@pytest.mark.parametrize("is_streaming", [False, True], ids=["in-memory", "streaming"])
def test_an_interrupted_run_goes_on_with_the_same_losses(config, tmp_path, monkeypatch, is_streaming, tiny_folder):
    config["data"]["streaming"] = is_streaming
    metrics = interrupt_and_resume(finetune_lora, config, "grad_norm", monkeypatch, tmp_path / "interrupted")
    assert set(metrics) == set(
        {
            "eval_loss",
            "eval_text_loss",
            "eval_talker_loss",
            "eval_depth_loss",
            *(f"eval_code_accuracy_{index}" for index in range(3)),
            "eval_perplexity",
            "eval_token_accuracy",
            "eval_exact_match",
            "eval_word_error_rate",
        }
    )

    folder = tmp_path / "interrupted" / "model"
    assert not (folder / "model.safetensors").exists()
    adapted = AutoModelForMultimodalLM.from_pretrained(folder)
    fresh = AutoModelForMultimodalLM.from_pretrained(tiny_folder)
    processor = AutoProcessor.from_pretrained(folder)
    inputs = processor(text="What is 3?")
    assert not torch.allclose(adapted(**inputs).logits, fresh(**inputs).logits)
    assert adapted.generate(**inputs, max_new_tokens=2).shape[0] == 1
    card = (folder / "README.md").read_text()
    for words in ("the command", "a tiny machine", "eval_exact_match", "peft"):
        assert words in card


@pytest.mark.parametrize("parts", [["thinker"], ["talker"]], ids=["thinker", "talker"])
def test_recorded_answers_are_read_where_the_talker_learns(config, parts):
    config["lora"]["parts"], config["answers"]["num_questions"] = parts, 0
    config["trainer"] |= {"max_steps": 2, "save_steps": 2}
    metrics = run_recipe(finetune_lora, config)
    assert ("eval_talker_loss" in metrics) == (parts == ["talker"])
    entries = map(json.loads, (Path(config["trainer"]["output_dir"]) / "log.jsonl").read_text().splitlines())
    norms = [entry["grad_norm"] for entry in entries if "grad_norm" in entry]
    assert len(norms) == 2
    assert min(norms) > 0


@pytest.mark.parametrize("is_streaming", [False, True], ids=["in-memory", "streaming"])
@pytest.mark.parametrize("parts", ['["talker"]', '["thinker", "talker"]'])
def test_rows_in_which_nothing_is_spoken_teach_no_talker(config, tmp_path, is_streaming, parts):
    path = tmp_path / "written.jsonl"
    messages = [{"role": "user", "content": "Hm?"}, {"role": "assistant", "content": "Yes."}]
    path.write_text(json.dumps({"messages": messages}) + "\n")
    config["data"] = {"sources": [{"name": "jsonl", "path": str(path), "split": "train"}], "streaming": is_streaming}
    message = "`data` must have rows with recorded answers where `lora.parts` has 'talker', got none."
    refuse(finetune_lora, config, f"lora.parts={parts}", message, tmp_path)


def test_a_preset_is_kept_beside_its_adapters(tmp_path):
    model, processor = models.load_model(models.ModelArguments(preset="micro"), tmp_path / "base")
    again, _ = models.load_model(models.ModelArguments(preset="micro"), tmp_path / "base")
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(model.parameters(), again.parameters(), strict=True))
    started = TrainingArguments(str(tmp_path), use_cpu=True, report_to="none")
    for mode, is_kept in (("continue", True), ("restart", False)):  # of a preset which may be another one now
        start, _ = models.load_start(models.ModelArguments(preset="micro"), mode, started)
        pairs = zip(model.parameters(), start.parameters(), strict=True)
        assert all(torch.equal(ours, theirs) for ours, theirs in pairs) == is_kept
    models.load_start(models.ModelArguments(path=str(tmp_path / "base")), "restart", started)  # a user's own
    assert (tmp_path / "base" / "config.json").exists()
    assert processor.tokenizer.chat_template
    thinker = finetune_lora.find_layers(model, ["thinker"])
    assert all(name.startswith("thinker.model.language_model.") for name in thinker)
    both = finetune_lora.find_layers(model, ["talker", "thinker"])
    assert set(thinker) < set(both)
    assert {name.split(".")[0] for name in both} == {"thinker", "talker"}
    assert finetune_lora.find_layers(model.thinker, ["thinker"])
    with pytest.raises(ValueError, match="`lora.parts` must be parts that the model has, got 'talker'."):
        finetune_lora.find_layers(model.thinker, ["talker"])


def read(config, **changes):
    return conversation_rows.ConversationDataArguments(**config["data"] | changes)


def topics(rows):
    return {row["topic"] for row in rows}


def test_rows_keep_their_form_and_paths_are_found(config, conversations):
    rows = conversation_rows.load_conversations(read(config, columns=["topic", "speaker"], validation_share=0.0))
    assert {split: len(part) for split, part in rows.items()} == {"train": 24, "validation": 0, "test": 0}
    first, second = rows["train"][0], rows["train"][1]
    assert first["messages"][0] == {"role": "user", "content": "What is 0?"}
    assert second["messages"][0]["content"] == [
        {"type": "audio", "path": str(conversations.parent / "tone.wav")},
        {"type": "text", "text": "What is 1?"},
    ]
    assert (second["topic"], second["speaker"]) == ("number 1", None)


def test_splits_share_nothing_and_are_those_of_the_stream(config):
    shares = {"validation_share": 0.3, "test_share": 0.2, "columns": ["topic"], "max_validation_rows": 99}
    whole = conversation_rows.load_conversations(read(config, **shares))
    found = {split: topics(rows) for split, rows in whole.items()}
    assert sum(map(len, found.values())) == 24
    assert all(len(part) > 1 for part in found.values())
    streamed = conversation_rows.load_conversations(read(config, **shares, streaming=True))
    size = len(found["train"])
    rows = list(islice(streamed["train"], 2 * size))
    assert topics(rows[:size]) == topics(rows[size:]) == found["train"]
    assert rows[:size] != rows[size:]
    assert topics(streamed["validation"]) == found["validation"]
    assert topics(streamed["test"]) == found["test"]


def test_moved_files_stay_in_their_splits(config, conversations, tmp_path):
    shutil.copytree(conversations.parent, tmp_path / "moved")
    moved = [{"name": "jsonl", "path": str(tmp_path / "moved" / conversations.name)}]
    rows = [conversation_rows.load_conversations(read(config, columns=["topic"]))]
    rows.append(conversation_rows.load_conversations(read(config, columns=["topic"], sources=moved)))
    assert rows[0]["train"]["topic"][:] == rows[1]["train"]["topic"][:]
    assert rows[0]["train"]["messages"][:] != rows[1]["train"]["messages"][:]


def test_sources_can_be_added_and_have_splits_of_their_own(config, monkeypatch, conversations):
    def make(options, arguments):
        row = {"messages": [{"role": "user", "content": options["word"]}], "topic": "words"}
        return {split: to_dataset([row] * number) for split, number in (("train", 3), ("validation", 2))}

    monkeypatch.setitem(conversation_rows.SOURCES, "made", make)
    sources = [
        {"name": "made", "word": "hello"},
        {"name": "jsonl", "path": str(conversations), "split": "train"},
        {"name": "datasets", "path": "json", "data_files": str(conversations), "root": str(conversations.parent)},
    ]
    for is_streaming in (False, True):
        if is_streaming:
            sources = sources[1:]
        rows = conversation_rows.load_conversations(
            read(config, sources=sources, columns=["topic"], streaming=is_streaming)
        )
        assert len(rows["validation"]) >= 1
        for row in islice(rows["train"], 30):
            assert isinstance(row["messages"], list)


def test_the_recipes_own_configuration_is_valid():
    config = configuration.read_config(EXAMPLES / "finetune_lora.json")
    configuration.require_sections(config, *finetune_lora.SECTIONS)
    configuration.read_section(config, "data", conversation_rows.ConversationDataArguments)
    configuration.read_section(config, "model", models.ModelArguments)
    configuration.read_section(config, "lora", finetune_lora.AdapterArguments)
    configuration.read_section(config, "answers", answers.AnswerArguments)
    runs.read_trainer_section(config, finetune_lora.TrainingArguments)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("tokenizer.path=1", "`config` must have sections of"),
        ("data.sources=[]", "`data.sources` must name at least one of ['datasets', 'jsonl', 'speech'], got none."),
        ('data.sources=[{"name": "radio"}]', "got {'name': 'radio'}."),
        ('data.sources=[{"name": "jsonl"}]', "A source 'jsonl' must have `path`"),
        ('data.sources=[{"name": "jsonl", "path": "/nowhere"}]', "must be an existing file, got '/nowhere'."),
        ("data.test_share=0.7", "must be at least 0 and below 1 together, got (0.3, 0.7)."),
        ("model.preset=micro", "`model` must have either `path` or `preset`"),
        ("lora.parts=[]", "`lora.parts` must be of ['talker', 'thinker'], got []."),
        ("lora.rank=0", "`lora.rank` must be at least 1, got 0."),
        (
            'lora.modules_to_save=["there"]',
            "`lora.modules_to_save` must be names of modules with weights, got 'there'.",
        ),
        ('lora.modules_to_save=["orm"]', "must be names of modules with weights, got 'orm'."),
        ('lora.modules_to_save=[""]', "must be names of modules with weights, got ''."),
        (
            'lora.modules_to_save=["quantizer"]',
            "names outside of codecs, which are always frozen, got 'quantizer', also",
        ),
        ("hearing={}", "`lora.parts` must be ['thinker'] with `hearing`, got a Talker that learns."),
    ],
)
def test_wrong_configurations_are_errors(config, tmp_path, change, message):
    refuse(finetune_lora, config, change, message, tmp_path)


def test_layers_are_those_of_the_parts(tiny_folder):
    """Names in full, as others would reach into the codecs and the encoders."""
    model = AutoModelForMultimodalLM.from_pretrained(tiny_folder)
    names = finetune_lora.find_layers(model, ["thinker", "talker"])
    assert {name.startswith(("thinker.model.language_model.", "talker.model.")) for name in names} == {True}
    adapted = get_peft_model(model, LoraConfig(target_modules=names, r=2))
    learning = {name for name, value in adapted.named_parameters() if value.requires_grad}
    assert {name.removeprefix("base_model.model.").partition(".lora_")[0] for name in learning} == set(names)


def test_wrong_lines_are_named(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"messages": [{"role": "user", "content": "x"}]}\n\n{"messages": []}\n')
    with pytest.raises(ValueError, match="Line 3 of .*: A row must have `messages`, a list of dicts, got ..."):
        list(read_jsonl(path))
    path.write_text("{\n")
    with pytest.raises(ValueError, match="Line 1 of"):
        list(read_jsonl(path))
