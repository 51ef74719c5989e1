"""The Thinker's recipe: that an interrupted run goes on, what learns, and that an audio encoder learns to spell."""

import json
import re
import sys
from pathlib import Path

import pytest
import torch
import train_thinker
from recipe_runs import interrupt_and_resume, read_losses, refuse, run_recipe, write_conversations
from recipes import audio_ctc, configuration, conversations as conversation_rows
from recipes.answers import AnswerArguments
from recipes.models import ModelArguments
from safetensors import safe_open
from tiny import TEXT, THINKER, build, josie_config
from transformers import AutoModelForMultimodalLM, AutoProcessor

import josie
from josie.training.conversations import read_jsonl

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
LISTENING = {"weight": 0.5, "letters_per_frame": 3}
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


@pytest.mark.parametrize("is_streaming", [False, True], ids=["in-memory", "streaming"])
@pytest.mark.parametrize("is_listening", [False, True], ids=["silent", "listening"])
def test_an_interrupted_run_goes_on_with_the_same_losses(
    config, tmp_path, monkeypatch, is_streaming, is_listening, tiny_folder
):
    for name in ("nano_world", "nano_world.tasks", "finetune_lora"):  # not needed
        monkeypatch.setitem(sys.modules, name, None)
    config["data"]["streaming"] = is_streaming
    config["freeze"] = ["talker", "thinker.vision"]
    config["listening"] = LISTENING if is_listening else None
    metrics = interrupt_and_resume(train_thinker, config, "text_loss", monkeypatch, tmp_path / "interrupted")
    assert SCORES | ({"eval_spelling_loss"} if is_listening else set()) <= set(metrics)
    spelled = read_losses(config, "spelling_loss")
    assert bool(spelled) == is_listening
    for step, (loss, text) in read_losses(config, "text_loss").items():
        _, spelling = spelled.get(step, (loss, 0.0))  # there may be no transcripts in a batch
        assert loss == pytest.approx(text + 0.5 * spelling, rel=1e-4)

    folder = tmp_path / "interrupted" / "model"
    assert (folder / audio_ctc.HEAD_FILE).exists() == is_listening
    groups = changed(tiny_folder, folder)
    assert {"thinker", "thinker.audio", "thinker.text"} <= groups
    assert not [name for name in groups if name.startswith(("talker", "thinker.vision", "audio_codec"))]
    model, processor = AutoModelForMultimodalLM.from_pretrained(folder), AutoProcessor.from_pretrained(folder)
    assert model.generate(**processor(text="What is 3?"), max_new_tokens=2).shape[0] == 1
    card = (folder / "README.md").read_text()
    for words in ("the command", "a tiny machine", "eval_perplexity", "omni model"):
        assert words in card


def test_everything_can_learn_at_once(config, tiny_folder):
    config["freeze"] = []
    config["trainer"]["max_steps"] = 3
    metrics = run_recipe(train_thinker, config)
    assert {"eval_text_loss", "eval_talker_loss", "eval_depth_loss"} <= set(metrics)
    groups = changed(tiny_folder, Path(config["trainer"]["output_dir"]) / "model")
    assert {"talker.backbone", "talker.depth", "thinker.text", "thinker.audio", "thinker.vision"} <= groups
    assert read_losses(config, "depth_loss")


def test_gradients_accumulated_are_those_of_one_batch(config, tmp_path):
    config["listening"] = LISTENING
    config["trainer"] |= {"max_steps": 2, "train_sampling_strategy": "sequential", "eval_strategy": "no"}
    found = []
    for size, parts in ((6, 1), (2, 3)):
        config["trainer"] |= {"per_device_train_batch_size": size, "gradient_accumulation_steps": parts}
        config["trainer"]["output_dir"] = str(tmp_path / f"parts-{parts}")
        run_recipe(train_thinker, config)
        names = ("grad_norm", "spelling_loss", "text_loss")
        found.append([number for name in names for pair in read_losses(config, name).values() for number in pair])
    assert len(found[0]) == 12
    assert found[1] == pytest.approx(found[0], rel=2e-4)


def test_spelling_alone_changes_the_encoder_alone_and_another_run_goes_on_with_it(config, tiny_folder, tmp_path):
    config["listening"] = LISTENING | {"only": True, "weight": 1.0}
    # Also batches without any sound.
    config["trainer"] |= {"max_steps": 4, "per_device_train_batch_size": 1, "per_device_eval_batch_size": 1}
    metrics = run_recipe(train_thinker, config)
    assert metrics["eval_spelling_loss"] > 0
    assert not any("text" in name for name in metrics)
    first = Path(config["trainer"]["output_dir"]) / "model"
    assert changed(tiny_folder, first) == {"thinker", "thinker.audio", "thinker.audio.encoder"}

    config["model"]["path"] = str(first)
    config["listening"] = LISTENING
    config["trainer"] |= {"output_dir": str(tmp_path / "second"), "learning_rate": 0.0, "max_steps": 1}
    run_recipe(train_thinker, config)
    kept = []
    for folder in (first, tmp_path / "second" / "model"):
        with safe_open(folder / audio_ctc.HEAD_FILE, framework="pt") as file:
            kept.append((file.metadata(), {name: file.get_tensor(name).tolist() for name in sorted(file.keys())}))
    assert kept[0] == kept[1]
    assert kept[0][1]
    config["listening"] = LISTENING | {"alphabet": "abc"}
    config["trainer"]["output_dir"] = str(tmp_path / "third")
    with pytest.raises(ValueError, match=re.escape("`listening` must spell as")):
        run_recipe(train_thinker, config)


def make_listener(**changes):
    text = dict(TEXT, tie_word_embeddings=True)
    model = build(josie.JosieForConditionalGeneration, josie_config(thinker_config=dict(THINKER, text_config=text)))
    return audio_ctc.ListeningModel(model, audio_ctc.ListeningArguments(**LISTENING | changes))


def test_a_clip_is_spelled_as_if_alone_and_one_without_a_transcript_teaches_nothing():
    learner = make_listener(only=True)
    features, mask = torch.rand(3, 9, 40), torch.ones(3, 40, dtype=torch.long)
    mask[1, 23:] = 0
    spelling = torch.tensor([[3, 1, 4, 9], [2, 2, 0, 0], [-100] * 4])
    batch = {"input_features": features * mask[:, None], "input_features_mask": mask}
    loss = learner(spelling=spelling, **batch).spelling_loss
    first = learner(spelling=spelling[:1], input_features=features[:1], input_features_mask=mask[:1]).spelling_loss
    second = learner(
        spelling=spelling[1:2, :2], input_features=features[1:2, :, :23], input_features_mask=mask[1:2, :23]
    ).spelling_loss
    assert loss.item() == pytest.approx((4 * first.item() + 2 * second.item()) / 6, rel=1e-4)
    assert learner.count_targets(spelling=spelling)["spelling"] == 6
    nothing = learner(spelling=spelling[2:], input_features=features[2:], input_features_mask=mask[2:])
    assert nothing.loss == 0


def test_what_was_learned_is_read_letter_by_letter():
    learner = make_listener(only=True, letters_per_frame=2)
    features, mask = torch.rand(1, 9, 90), torch.ones(1, 90, dtype=torch.long)
    spelling = torch.tensor([audio_ctc.spell("Ada's, 1bee")])
    assert "".join(audio_ctc.ALPHABET[index - 1] for index in spelling[0]) == "ada's bee"
    optimizer = torch.optim.Adam(learner.parameters(), lr=0.02)
    for _ in range(200):
        optimizer.zero_grad()
        learner(spelling=spelling, input_features=features, input_features_mask=mask).loss.backward()
        optimizer.step()
    assert learner.read_letters(features, mask) == ["ada's bee"]


def test_tied_weights_are_kept_once():
    learner, other = make_listener(), make_listener()
    state = learner.state_dict()
    assert len({value.data_ptr() for value in state.values() if value.numel()}) == len(state)
    with torch.no_grad():
        for value in learner.parameters():
            value.add_(0.1)
    result = other.load_state_dict({name: value.clone() for name, value in learner.state_dict().items()}, strict=False)
    assert set(result.missing_keys) == set(other._keys_to_ignore_on_save) != set()
    for ours, theirs in zip(learner.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_transcripts_are_those_of_the_sounds_that_are_heard(conversations, tiny_folder):
    rows = list(read_jsonl(conversations))
    chosen = [rows[index] for index in (0, 1, 3)]
    found = [audio_ctc.list_transcripts(row["messages"]) for row in chosen]
    assert found == [[], [None], ["No d"]]
    processor = AutoProcessor.from_pretrained(tiny_folder)
    collate = audio_ctc.SpellingCollator(train_thinker.SilentCollator(josie.JosieDataCollator(processor)))
    batch = collate(chosen)
    assert batch["spelling"].tolist() == [[-100] * 4, audio_ctc.spell("no d")]
    assert len(batch["input_features"]) == 2
    assert "spelling" not in collate(rows[:1])


def test_the_recipes_own_configuration_is_valid():
    config = configuration.read_config(EXAMPLES / "train_thinker.json")
    configuration.require_sections(config, *train_thinker.SECTIONS)
    configuration.read_section(config, "data", conversation_rows.ConversationDataArguments)
    configuration.read_section(config, "model", ModelArguments)
    configuration.read_section(config, "listening", audio_ctc.ListeningArguments)
    configuration.read_section(config, "answers", AnswerArguments)
    configuration.read_section(config, "trainer", train_thinker.TrainingArguments)
    groups = josie.JosieForConditionalGeneration(josie.JosieConfig.from_preset(config["model"]["preset"])).get_groups()
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
        ("listening.weight=0", "`listening.weight` must be above 0, got 0."),
        ("listening.letters_per_frame=0", "`listening.letters_per_frame` must be at least 1, got 0."),
        ("listening.alphabet=aa", "`listening.alphabet` must be different small letters, got 'aa'."),
        ("listening.words=3", "`listening` must have keys of"),
        ("answers.batch_size=0", "`answers.batch_size` must be an integer of at least 1, got 0."),
    ],
)
def test_wrong_configurations_are_errors(config, tmp_path, change, message, monkeypatch):
    nano = type(sys)("nano_world.tasks")
    nano.NanoArguments, nano.load_nano = None, None
    monkeypatch.setitem(sys.modules, "nano_world", type(sys)("nano_world"))
    monkeypatch.setitem(sys.modules, "nano_world.tasks", nano)
    refuse(train_thinker, config, change, message, tmp_path)


def test_a_model_that_hears_otherwise_does_not_spell():
    model = build(josie.JosieForConditionalGeneration, josie_config(thinker_config=dict(THINKER, audio_config=None)))
    with pytest.raises(ValueError, match="`listening` must be null for a model without a 'josie_audio_encoder', got"):
        audio_ctc.ListeningModel(model, audio_ctc.ListeningArguments())
