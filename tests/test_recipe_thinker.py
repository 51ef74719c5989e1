"""The Thinker's recipe: that an interrupted run goes on, what learns, and that an audio encoder learns to spell."""

import json
import re
import sys
from pathlib import Path

import pytest
import torch
import train_thinker
from recipe_runs import interrupt_and_resume, read_losses, refuse, run_recipe, write_conversations
from recipes import audio_ctc, configuration, conversations as conversation_rows, runs, token_ctc
from recipes.answers import AnswerArguments
from recipes.models import ModelArguments
from safetensors import safe_open
from tiny import TEXT, THINKER, build, josie_config
from transformers import AutoModelForMultimodalLM, AutoProcessor

import josie
from josie.training.conversations import read_jsonl
from josie.training.whole_checkpoints import EXTRA_FILE, WholeCheckpoints

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
CONFIG = {
    "data": {"validation_share": 0.3, "shuffle_buffer": 5, "max_validation_rows": 4},
    "answers": {"num_questions": 2, "batch_size": 2, "max_new_tokens": 3},
    "trainer": {
        "max_steps": 6,
        "per_device_train_batch_size": 3,
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
CTC = {"weight": 0.5, "letters_per_frame": 3}
SCORES = {"eval_loss", "eval_text_loss", "eval_perplexity", "eval_token_accuracy", "eval_word_error_rate"}


@pytest.fixture(scope="module")
def conversations(tmp_path_factory):
    return write_conversations(tmp_path_factory.mktemp("conversations"))


@pytest.fixture
def config(conversations, tiny_folder, tmp_path):
    config = json.loads(json.dumps(CONFIG))
    config["data"] |= {"sources": [{"name": "jsonl", "path": str(conversations)}], "folder": str(tmp_path / "data")}
    config["model"] = {"path": str(tiny_folder)}
    config["trainer"]["output_dir"] = str(tmp_path / "run")
    return config


def load_two(before, after):
    """Return weights of the model in two folders."""
    return [dict(AutoModelForMultimodalLM.from_pretrained(folder).named_parameters()) for folder in (before, after)]


def changed(before, after):
    """Return the names of the groups of a model in which something differs between two folders."""
    ours, theirs = load_two(before, after)
    model = AutoModelForMultimodalLM.from_pretrained(before)
    different = {name for name in ours if not torch.equal(ours[name], theirs[name])}
    return {
        group
        for group, members in model.get_groups().items()
        if different & {name for name, value in model.named_parameters() if any(_has(m, value) for m in members)}
    }


def _has(member, value):
    return value is member if isinstance(member, torch.nn.Parameter) else any(value is p for p in member.parameters())


def answers_from(folder):
    """A folder is a model with its processor, and writes."""
    model, processor = AutoModelForMultimodalLM.from_pretrained(folder), AutoProcessor.from_pretrained(folder)
    assert getattr(model.config, "use_cache", True)
    assert model.generate(**processor(text="What is 3?"), max_new_tokens=2).shape[0] == 1


@pytest.mark.slow
@pytest.mark.parametrize("is_streaming", [False, True], ids=["in-memory", "streaming"])
@pytest.mark.parametrize("has_ctc", [False, True], ids=["alone", "ctc"])
def test_an_interrupted_run_goes_on_with_the_same_losses(
    config, tmp_path, monkeypatch, is_streaming, has_ctc, tiny_folder
):
    for name in ("nano_world", "nano_world.tasks", "finetune_lora"):  # not needed
        monkeypatch.setitem(sys.modules, name, None)
    config["data"]["streaming"] = is_streaming
    config["freeze"] = ["talker", "thinker.vision"]
    config["ctc"] = CTC if has_ctc else None
    metrics = interrupt_and_resume(train_thinker, config, "text_loss", monkeypatch, tmp_path / "interrupted")
    assert SCORES | ({"eval_ctc_loss"} if has_ctc else set()) <= set(metrics)
    letters = read_losses(config, "ctc_loss")
    assert bool(letters) == has_ctc
    for step, (loss, text) in read_losses(config, "text_loss").items():
        _, ctc = letters.get(step, (loss, 0.0))  # there may be no transcripts in a batch
        assert loss == pytest.approx(text + 0.5 * ctc, rel=1e-4)

    answers_from(tmp_path / "interrupted" / "checkpoint-3")
    folder = tmp_path / "interrupted" / "model"
    assert (folder / EXTRA_FILE).exists() == has_ctc
    groups = changed(tiny_folder, folder)
    assert {"thinker", "thinker.audio", "thinker.text"} <= groups
    assert not [name for name in groups if name.startswith(("talker", "thinker.vision", "audio_codec"))]
    answers_from(folder)
    card = (folder / "README.md").read_text()
    for words in ("the command", "a tiny machine", "eval_perplexity", "omni model"):
        assert words in card


@pytest.mark.slow
@pytest.mark.parametrize("is_streaming", [False, True], ids=["in-memory", "streaming"])
def test_an_interrupted_run_with_augmentation_goes_on_with_the_same_losses(config, tmp_path, monkeypatch, is_streaming):
    config["data"]["streaming"] = is_streaming
    config["trainer"]["eval_strategy"] = "no"
    run_recipe(train_thinker, config)
    plain = read_losses(config, "text_loss")
    config["trainer"]["output_dir"] = str(tmp_path / "augmented")
    config["augmentation"] = {"gain": {"probability": 0.7}, "speed": {"probability": 0.7}}
    interrupt_and_resume(train_thinker, config, "text_loss", monkeypatch, tmp_path / "interrupted")
    assert read_losses(config, "text_loss") != plain


def test_a_longer_run_over_a_stream_draws_on(config, tmp_path):
    config["data"]["streaming"] = True
    config["augmentation"] = {"gain": {"probability": 0.7}, "noise": {"probability": 0.7}}
    config["trainer"] |= {"eval_strategy": "no", "lr_scheduler_type": "constant", "max_steps": 3, "save_steps": 1}
    run_recipe(train_thinker, config)
    whole = read_losses(config, "text_loss")
    config["trainer"]["output_dir"] = str(tmp_path / "longer")
    for max_steps in (1, 3):
        config["trainer"]["max_steps"] = max_steps
        run_recipe(train_thinker, config)
    assert read_losses(config, "text_loss") == whole


def test_everything_can_learn_at_once(config, tiny_folder):
    config["freeze"] = []
    config["trainer"]["max_steps"] = 3
    metrics = run_recipe(train_thinker, config)
    assert {"eval_text_loss", "eval_talker_loss", "eval_depth_loss"} <= set(metrics)
    groups = changed(tiny_folder, Path(config["trainer"]["output_dir"]) / "model")
    assert {"talker.backbone", "talker.depth", "thinker.text", "thinker.audio", "thinker.vision"} <= groups
    assert read_losses(config, "depth_loss")


def test_gradients_accumulated_are_those_of_one_batch(config, tmp_path):
    config["ctc"] = CTC
    config["trainer"] |= {"max_steps": 2, "train_sampling_strategy": "sequential", "eval_strategy": "no"}
    found = []
    for size, parts in ((6, 1), (2, 3)):
        config["trainer"] |= {"per_device_train_batch_size": size, "gradient_accumulation_steps": parts}
        config["trainer"]["output_dir"] = str(tmp_path / f"parts-{parts}")
        run_recipe(train_thinker, config)
        names = ("grad_norm", "ctc_loss", "text_loss")
        found.append([number for name in names for pair in read_losses(config, name).values() for number in pair])
    assert len(found[0]) == 12
    assert found[1] == pytest.approx(found[0], rel=2e-4)


def test_ctc_alone_changes_the_encoder_alone_and_another_run_goes_on_with_it(config, tiny_folder, tmp_path):
    config["ctc"] = CTC | {"only": True, "weight": 1.0}
    # Also batches without any audio.
    config["trainer"] |= {"max_steps": 4, "per_device_train_batch_size": 1, "per_device_eval_batch_size": 1}
    metrics = run_recipe(train_thinker, config)
    assert metrics["eval_ctc_loss"] > 0
    assert not any("text" in name for name in metrics)
    first = Path(config["trainer"]["output_dir"]) / "model"
    assert changed(tiny_folder, first) == {"thinker", "thinker.audio", "thinker.audio.encoder"}

    config["model"]["path"] = str(first)
    config["ctc"] = CTC
    config["trainer"] |= {"output_dir": str(tmp_path / "second"), "learning_rate": 0.0, "max_steps": 1}
    run_recipe(train_thinker, config)
    kept = []
    for folder in (first, tmp_path / "second" / "model"):
        with safe_open(folder / EXTRA_FILE, framework="pt") as file:
            kept.append((file.metadata(), {name: file.get_tensor(name).tolist() for name in sorted(file.keys())}))
    assert kept[0] == kept[1]
    assert kept[0][1]
    config["ctc"] = CTC | {"alphabet": "abc"}
    config["trainer"]["output_dir"] = str(tmp_path / "third")
    with pytest.raises(ValueError, match=re.escape("`ctc` must have the settings of")):
        run_recipe(train_thinker, config)


def make_listener(**changes):
    text = dict(TEXT, tie_word_embeddings=True)
    model = build(josie.JosieForConditionalGeneration, josie_config(thinker_config=dict(THINKER, text_config=text)))
    return audio_ctc.CTCModel(model, audio_ctc.CTCArguments(**CTC | changes))


def test_a_clip_is_spelled_as_if_alone_and_one_without_a_transcript_teaches_nothing():
    learner = make_listener(only=True)
    features, mask = torch.rand(3, 9, 40), torch.ones(3, 40, dtype=torch.long)
    mask[1, 23:] = 0
    labels = torch.tensor([[3, 1, 4, 9], [2, 2, 0, 0], [-100] * 4])
    batch = {"input_features": features * mask[:, None], "input_features_mask": mask}
    loss = learner(ctc_labels=labels, **batch).ctc_loss
    first = learner(ctc_labels=labels[:1], input_features=features[:1], input_features_mask=mask[:1]).ctc_loss
    second = learner(
        ctc_labels=labels[1:2, :2], input_features=features[1:2, :, :23], input_features_mask=mask[1:2, :23]
    ).ctc_loss
    assert loss.item() == pytest.approx((4 * first.item() + 2 * second.item()) / 6, rel=1e-4)
    assert learner.count_targets(ctc_labels=labels)["ctc"] == 6
    nothing = learner(ctc_labels=labels[2:], input_features=features[2:], input_features_mask=mask[2:])
    assert nothing.loss == 0


def test_what_was_learned_is_read_letter_by_letter():
    learner = make_listener(only=True, letters_per_frame=2)
    features, mask = torch.rand(1, 9, 90), torch.ones(1, 90, dtype=torch.long)
    labels = torch.tensor([audio_ctc.encode_letters("Ada's, 1bee")])
    assert "".join(audio_ctc.ALPHABET[index - 1] for index in labels[0]) == "ada's bee"
    optimizer = torch.optim.Adam(learner.parameters(), lr=0.02)
    for _ in range(200):
        optimizer.zero_grad()
        learner(ctc_labels=labels, input_features=features, input_features_mask=mask).loss.backward()
        optimizer.step()
    assert learner.read_letters(features, mask) == ["ada's bee"]


def test_a_checkpoint_has_tied_weights_and_the_head(tmp_path):
    learner, other = make_listener(), make_listener()
    with torch.no_grad():
        for value in learner.parameters():
            value.add_(0.1)
    WholeCheckpoints(learner.model, learner).save(tmp_path)
    WholeCheckpoints(other.model, other).load(tmp_path)
    for ours, theirs in zip(learner.parameters(), other.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    saved = josie.JosieForConditionalGeneration.from_pretrained(tmp_path)
    assert saved.thinker.lm_head.weight is saved.get_input_embeddings().weight


def test_transcripts_are_those_of_the_clips_that_are_heard(conversations, tiny_folder):
    rows = list(read_jsonl(conversations))
    chosen = [rows[index] for index in (0, 1, 3)]
    found = [audio_ctc.list_transcripts(row["messages"]) for row in chosen]
    assert found == [[], [None], ["No d"]]
    processor = AutoProcessor.from_pretrained(tiny_folder)
    collate = audio_ctc.CTCCollator(train_thinker.SilentCollator(josie.JosieDataCollator(processor)))
    batch = collate(chosen)
    assert batch["ctc_labels"].tolist() == [[-100] * 4, audio_ctc.encode_letters("no d")]
    assert len(batch["input_features"]) == 2
    assert "ctc_labels" not in collate(rows[:1])


def test_tokens_are_those_of_the_clips_that_are_heard(conversations, tiny_folder):
    rows = list(read_jsonl(conversations))
    processor = AutoProcessor.from_pretrained(tiny_folder)
    collate = token_ctc.TokenCTCCollator(
        train_thinker.SilentCollator(josie.JosieDataCollator(processor)), processor.tokenizer
    )
    said = processor.tokenizer("No d", add_special_tokens=False)["input_ids"]
    batch = collate([rows[index] for index in (0, 1, 3)])
    assert batch["transcripts"].tolist() == [[-100] * len(said), said]
    assert "transcripts" not in collate(rows[:1])
    known = token_ctc.list_tokens(processor.tokenizer).tolist()
    assert known == sorted(known)
    assert set(said) <= set(known)
    assert not set(known) & set(processor.tokenizer.all_special_ids)


def test_encoder_and_projector_learn_tokens_alone(config, tmp_path, tiny_folder):
    config["freeze"] = ["talker", "thinker.text", "thinker.vision"]
    config["token_ctc"] = {"only": True}
    metrics = run_recipe(train_thinker, config)
    assert "eval_ctc_loss" in metrics
    assert "eval_text_loss" not in metrics
    folder = tmp_path / "run" / "model"
    assert changed(tiny_folder, folder) == {
        "thinker",
        "thinker.audio",
        "thinker.audio.encoder",
        "thinker.audio.projector",
    }
    model = AutoModelForMultimodalLM.from_pretrained(folder)
    learner = token_ctc.TokenCTCModel.of_checkpoint(model, folder)
    assert learner.bias.any()


def test_the_recipes_own_configuration_is_valid():
    config = configuration.read_config(EXAMPLES / "train_thinker.json")
    configuration.require_sections(config, *train_thinker.SECTIONS)
    configuration.read_section(config, "data", conversation_rows.ConversationDataArguments)
    configuration.read_section(config, "model", ModelArguments)
    assert config["ctc"] is None
    configuration.read_section(config, "answers", AnswerArguments)
    runs.read_trainer_section(config, train_thinker.TrainingArguments)
    groups = AutoModelForMultimodalLM.from_pretrained(josie.nano_path()).get_groups()
    assert set(config["freeze"]) <= set(groups)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("lora.rank=1", "`config` must have sections of"),
        ("data.sources=[]", "`data.sources` must name at least one of"),
        ('data.nano={"seed": 1}', "`data` must have sections of ['nano'], got 'validation_share'."),
        ("data.validation_share=0.9999", "`data` must leave conversations to train on, got none."),
        ("model.path=/nowhere", "`model.path` must be a folder or Hub name of a model, got '/nowhere'"),
        ("model.preset=micro", "`model` must have either `path` or `preset`"),
        ('freeze=["tail"]', "`groups` must be among"),
        ("freeze=talker", "`freeze` must be a list of names among"),
        ("ctc.weight=0", "`ctc.weight` must be above 0, got 0."),
        ("ctc.letters_per_frame=0", "`ctc.letters_per_frame` must be at least 1, got 0."),
        ("ctc.alphabet=aa", "`ctc.alphabet` must be different small letters, got 'aa'."),
        ("ctc.words=3", "`ctc` must have keys of"),
        ("augmentation=loud", "`augmentation` must be a section of effects, or null, got 'loud'."),
        ("augmentation.echo=1", "`augmentation` must have effects of"),
        ("augmentation.gain.decibels=3", "`gain.decibels` must be two numbers, got 3."),
        ("teacher.path=/nowhere", "`teacher.path` must be a folder or Hub name of a model, got '/nowhere'."),
        ('teacher={"path": "x", "weight": 0}', "`teacher.weight` must be above 0, got 0."),
        ('teacher={"path": "x", "delay": -1}', "`teacher.delay` must be at least 0, got -1."),
        ("answers.batch_size=0", "`answers.batch_size` must be an integer of at least 1, got 0."),
    ],
)
def test_wrong_configurations_are_errors(config, tmp_path, change, message, monkeypatch):
    nano = type(sys)("nano_world.tasks")
    nano.NanoArguments, nano.load_nano = None, None
    monkeypatch.setitem(sys.modules, "nano_world", type(sys)("nano_world"))
    monkeypatch.setitem(sys.modules, "nano_world.tasks", nano)
    refuse(train_thinker, config, change, message, tmp_path)


@pytest.mark.parametrize("section", [{"ctc": {}}, {"teacher": {"path": "x"}}], ids=["letters", "teacher"])
def test_tokens_are_learned_without_letters_or_a_teacher(config, tmp_path, section):
    (name,) = section
    config |= section
    refuse(train_thinker, config, "token_ctc={}", f"`{name}` must be null with `token_ctc`, got both.", tmp_path)


def test_a_model_that_hears_otherwise_does_not_spell():
    model = build(josie.JosieForConditionalGeneration, josie_config(thinker_config=dict(THINKER, audio_config=None)))
    with pytest.raises(ValueError, match="`ctc` must be null for a model without a 'josie_audio_encoder', got"):
        audio_ctc.CTCModel(model, audio_ctc.CTCArguments())
