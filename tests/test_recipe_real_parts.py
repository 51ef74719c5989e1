"""The recipe of real parts, on tiny ones: each of its configurations, one after the other, a few steps each."""

import json
import re
import shutil
from pathlib import Path

import pytest
import soundfile
import torch
from transformers import AutoModelForMultimodalLM, AutoProcessor, AutoTokenizer

pytest.importorskip("peft", reason="adapters need peft: pip install 'josie[peft]'")

import compare_text
import finetune_lora
import join_parts
import make_tasks
import merge_adapters
import read_tokens
import train_talker
import train_thinker
from recipe_runs import read_losses, run_recipe
from recipes import configuration, speech_data

import josie
from josie.evaluation.tasks import read_tasks

# What peft 0.21 still asks every model of transformers.
pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
REAL_PARTS = EXAMPLES / "real_parts"
STEPS = {"max_steps": 2, "logging_steps": 1, "save_steps": 1, "eval_steps": 2, "warmup_steps": 0, "use_cpu": True}
SMALL = {"per_device_train_batch_size": 3, "per_device_eval_batch_size": 2}
SENTENCES = ("A red ball lies on the table.", "What is on the table?", "The table is red.", "The ball is round.")
TALKER = {
    "hidden_size": 32,
    "head_dim": 8,
    "intermediate_size": 24,
    "num_hidden_layers": 1,
    "text_intermediate_size": 9,
}
DEPTH = {"hidden_size": 16, "head_dim": 8, "num_attention_heads": 2, "intermediate_size": 16, "num_hidden_layers": 1}


def write_clips(folder, timed):
    """Write a folder as `fetch_data.py speech` does, with four clips to train on and one for each other split."""
    folder.mkdir()
    for split, sentences in (("train", SENTENCES), ("validation", SENTENCES[:1]), ("test", SENTENCES[1:2])):
        lines = []
        for index, text in enumerate(sentences):
            seconds = 0.85 + 0.05 * index  # of a window of one second
            wave = torch.linspace(-40, 40, int(16000 * seconds)).sin().mul(0.3).numpy()
            soundfile.write(folder / f"{split}{index}.wav", wave, 16000)
            times = [0.02 + 0.02 * place for place in range(len(text.split()) + 1)]
            line = {"path": f"{split}{index}.wav", "text": text, "seconds": seconds, "source": "flite"}
            lines.append(json.dumps(line | ({"word_times": times} if timed else {})) + "\n")
        (folder / f"{split}.jsonl").write_text("".join(lines))
    return folder


@pytest.fixture(scope="module")
def root(tmp_path_factory, parts):
    """A folder with data and the assembled model, where the recipe has them."""
    root = tmp_path_factory.mktemp("real_parts")
    for name in ("speech", "common", "voice"):
        write_clips(root / name, timed=name == "voice")
    tokenizer = AutoTokenizer.from_pretrained(shutil.copytree(parts("text", "gemma3_text"), root / "text"))
    tokenizer.chat_template = None  # as of models that are no chat models, which get JOSIE's
    (root / "text" / "chat_template.jinja").unlink()
    tokenizer.save_pretrained(root / "text")
    fields = configuration.read_config(REAL_PARTS / "talker.json", []) | TALKER | {"depth_decoder_config": DEPTH}
    model, processor = josie.assemble(
        root / "text",
        audio=parts("audio", "whisper"),
        codec=parts("codec", "josie_mel_codec"),
        talker=fields,
        dtype=torch.bfloat16,
        audio_stack_factor=4,
        projector_intermediate_size=24,
    )
    model.save_pretrained(root / "omni")
    processor.save_pretrained(root / "omni")
    return root


def read_recipe(name, root, **changes):
    """Return a configuration of the recipe, in another folder, with few steps."""
    text = (REAL_PARTS / f"{name}.json").read_text(encoding="utf-8").replace("runs/real_parts", str(root))
    config = json.loads(text)
    config["trainer"] |= STEPS | SMALL | {"bf16": True}  # also where the processor is slow in it
    if "answers" in config:
        config["answers"] |= {"num_questions": min(config["answers"]["num_questions"], 1), "max_new_tokens": 3}
    for section, values in changes.items():
        config[section] |= values
    return config


def changed(before, after):
    """Return the names of the weights in which two folders differ, and the model of the second."""
    ours, theirs = (AutoModelForMultimodalLM.from_pretrained(folder) for folder in (before, after))
    weights = theirs.state_dict()
    return {name for name, value in ours.state_dict().items() if not torch.equal(value, weights[name])}, theirs


@pytest.mark.slow
def test_every_step_of_the_recipe(root, tmp_path, capsys):
    projector = "thinker.model.audio_front_end.projector."
    align = read_recipe("align", root)
    assert run_recipe(train_thinker, align)["eval_ctc_loss"] > 0
    names, model = changed(root / "omni", root / "align" / "model")
    assert names
    assert all(name.startswith(projector) for name in names)
    assert model.dtype == torch.bfloat16
    read_tokens.main([str(root / "align" / "model"), str(root / "speech")])
    assert re.search(r"^speech-flite: 1 clips, WER \d\.\d{3}$", capsys.readouterr().out, re.MULTILINE)
    before = len(list((root / "heard").glob("*.parquet")))

    hear = read_recipe("hear", root)
    assert {"eval_ctc_loss", "eval_text_loss", "eval_word_error_rate"} <= set(run_recipe(train_thinker, hear))
    assert len(list((root / "heard").glob("*.parquet"))) == before == 2  # encoded once
    names, _ = changed(root / "align" / "model", root / "hear" / "model")
    assert names
    assert all(name.startswith(projector) for name in names)

    lora = read_recipe("lora_hear", root)
    assert "eval_word_error_rate" in run_recipe(finetune_lora, lora)
    adapted = AutoModelForMultimodalLM.from_pretrained(root / "lora_hear" / "model")
    merge_adapters.merge(str(root / "lora_hear" / "model"), tmp_path / "merged")
    merged = AutoModelForMultimodalLM.from_pretrained(tmp_path / "merged")
    assert merged.dtype == torch.bfloat16
    ids = torch.tensor([[5, 6, 7]])
    with torch.no_grad():
        logits = [one(ids, torch.ones_like(ids)).logits.float() for one in (adapted, merged)]
    torch.testing.assert_close(logits[1], logits[0], atol=0.05, rtol=0.05)
    found = compare_text.compare(str(root / "lora_hear" / "model"), str(root / "text"))
    assert found["with adapters"] > found["adapters disabled"] == 0
    layers = {name.split(".lora_A")[0] for name, _ in adapted.named_parameters() if ".lora_A" in name}
    assert {name.rpartition(".")[2] for name in layers} == set(lora["lora"]["layers"])
    assert all(name.startswith("thinker.model.language_model") for name in layers)

    talk = read_recipe("talk", root, start={"weights": None, "spelled_tokens": 20})
    talk["model"].pop("attention")
    assert {"eval_talker_loss", "eval_duration_loss"} <= set(run_recipe(train_talker, talk))
    assert read_losses(talk, "duration_loss")
    names, _ = changed(root / "omni", root / "talk" / "model")
    assert names
    assert all(name.startswith("talker.") for name in names)

    join_parts.join(str(root / "hear" / "model"), str(root / "talk" / "model"), tmp_path / "joined")
    assert {name.split(".")[0] for name in changed(root / "talk" / "model", tmp_path / "joined")[0]} == {"thinker"}
    assert {name.split(".")[0] for name in changed(root / "hear" / "model", tmp_path / "joined")[0]} == {"talker"}

    spoken = read_recipe("lora_talk", root, model={"path": str(tmp_path / "joined")})
    assert {"eval_talker_loss", "eval_duration_loss"} <= set(run_recipe(finetune_lora, spoken))


def test_text_is_that_of_the_language_model_after_hearing_was_learned(root):
    from transformers import AutoModelForCausalLM

    config = read_recipe("align", root, trainer={"output_dir": str(root / "again")})
    run_recipe(train_thinker, config)
    model = AutoModelForMultimodalLM.from_pretrained(root / "again" / "model")
    original = AutoModelForCausalLM.from_pretrained(root / "text", dtype=torch.bfloat16)
    ids = AutoProcessor.from_pretrained(root / "omni")(text=SENTENCES[0])["input_ids"]
    with torch.no_grad():
        expected = original(ids).logits
        assert torch.equal(model.thinker(ids).logits[..., : expected.shape[-1]], expected)


def test_a_frozen_language_model_can_end_a_turn(root):
    model, processor = (kind.from_pretrained(root / "omni") for kind in (AutoModelForMultimodalLM, AutoProcessor))
    rows, names = model.get_input_embeddings().weight, ("<|end|>", "<|begin|>", processor.tokenizer.eos_token)
    end, begin, text_end = (rows[processor.tokenizer.convert_tokens_to_ids(name)] for name in names)
    assert torch.equal(end, text_end)
    assert not torch.equal(begin, text_end)


def test_text_is_compared_with_adapters_and_without(root, capsys):
    compare_text.main([str(root / "omni"), str(root / "text")])
    assert capsys.readouterr().out == "text: 0\n"


@pytest.mark.slow
def test_an_aligned_run_goes_on_with_the_same_losses(root, tmp_path, monkeypatch):
    from recipe_runs import interrupt_and_resume

    config = read_recipe("hear", root, model={"path": str(root / "omni")})
    config["trainer"] |= {"output_dir": str(tmp_path / "run"), "max_steps": 6, "save_steps": 3, "eval_strategy": "no"}
    interrupt_and_resume(train_thinker, config, "ctc_loss", monkeypatch, tmp_path / "interrupted")


def test_the_talker_of_the_page_is_the_recipes():
    page = (EXAMPLES.parent / "docs" / "real_parts.md").read_text(encoding="utf-8")
    block = re.search(r'```json title="runs/real_parts/talker.json"\n(.*?)```', page, re.DOTALL)
    assert block is not None
    assert json.loads(block[1]) == json.loads((REAL_PARTS / "talker.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", ["speech", "common", "voice", "people", "readers", "librispeech", "test_clean"])
def test_the_data_of_the_recipe_is_known(name):
    config = configuration.read_config(REAL_PARTS / f"{name}.json", [])
    configuration.require_sections(config, "data")
    arguments = configuration.read_section(config, "data", speech_data.SpeechDataArguments)
    assert arguments.folder == f"runs/real_parts/{name}"


def test_tasks_are_those_that_the_evaluation_reads(root, tmp_path):
    make_tasks.main([str(tmp_path / "hear.jsonl"), str(root / "speech"), str(root / "common"), "--num", "3"])
    tasks = read_tasks(tmp_path / "hear.jsonl")
    assert list(tasks) == ["speech-flite-transcribe", "common-flite-transcribe"]
    (row,) = tasks["speech-flite-transcribe"]
    assert (row.answer, row.scores) == (SENTENCES[1], ["wer"])
    assert SENTENCES[1] not in json.dumps(row.messages)
    make_tasks.main([str(tmp_path / "say.jsonl"), str(root / "voice"), "--say"])
    assert read_tasks(tmp_path / "say.jsonl")["voice-flite-say"][0].messages is None
    with pytest.raises(SystemExit, match="`FOLDER` must be one that"):
        make_tasks.main([str(tmp_path / "hear.jsonl"), str(tmp_path)])
