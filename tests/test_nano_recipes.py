"""The chain of nano's recipes: each goes on from the one before, has the data it names, and the model is small."""

import json
import re
from pathlib import Path

import nano_world
import pytest
import torch
from nano_world.sight import SightArguments
from nano_world.tasks import TASKS, NanoArguments
from nano_world.voices import QUESTIONERS, TRAINING, UNKNOWN, VALIDATION, Voice
from recipes.audio_ctc import CTCArguments, CTCModel
from recipes.configuration import read_section
from recipes.model_cards import CardArguments
from recipes.teacher import TeacherArguments
from recipes.token_ctc import TokenCTCArguments
from safetensors.torch import save_file
from transformers import AutoModelForMultimodalLM

import josie
from josie.training.augmentation import read_augmentation

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "examples" / "nano_world"
CHAIN = ("see", "hear", "read", "look", "think")
MOST_PARAMETERS = 22_000_000


def read(name):
    return json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))


def test_each_recipe_goes_on_from_the_one_before():
    before = "runs/nano/start"
    for name in CHAIN:
        config = read(name)
        assert config["model"]["path"] == before
        assert config["trainer"]["output_dir"] == f"runs/nano/{name}"
        assert config["threads"] == 1
        before = f"runs/nano/{name}/model"
    assert f"make_nano.py join {before} runs/nano/talk/model" in str(nano_world.__doc__)
    assert read("talk")["model"]["path"] == "runs/nano/start"


@pytest.mark.parametrize("name", CHAIN)
def test_sections_are_read(name):
    config = read(name)
    assert read_section(config, "card", CardArguments).license == "cc-by-sa-3.0"  # of Asterisk's prompts
    if name == "see":
        assert read_section(config, "data", SightArguments).source == "emoji"
        return
    data = read_section(config["data"], "nano", NanoArguments)
    assert set(data.tasks) <= set(TASKS)
    assert data.stamps == "emoji"
    assert data.batch_size == config["trainer"]["per_device_train_batch_size"]
    assert data.batch_size % 2 == 0  # both of a pair
    if name == "hear":
        teacher = read_section(config, "teacher", TeacherArguments)
        assert teacher.cache is not None  # Whisper reads 30 seconds of each clip: once is enough
    if name in ("hear", "read", "think"):
        assert read_augmentation(config) is not None
    if config.get("token_ctc") is not None:
        read_section(config, "token_ctc", TokenCTCArguments)
    if config.get("ctc") is not None:
        read_section(config, "ctc", CTCArguments)


def test_hearing_begins_beside_the_head_of_sight(tiny_folder, tmp_path):
    model = AutoModelForMultimodalLM.from_pretrained(tiny_folder)
    learner = CTCModel(model, CTCArguments())
    before = {name: value.clone() for name, value in learner.state_dict().items()}
    path = tmp_path / "extra_weights.safetensors"
    save_file({"name.weight": torch.zeros(2, 3)}, path, metadata={"format": "pt"})
    learner.load_head(tmp_path)
    assert all(torch.equal(value, before[name]) for name, value in learner.state_dict().items())
    settings = learner.describe_extra_weights() | {"letters_per_frame": "7"}
    save_file({"ctc_head.weight": torch.zeros(2, 3)}, path, metadata={"format": "pt", **settings})
    with pytest.raises(ValueError, match="`ctc` must have the settings of"):
        learner.load_head(tmp_path)


def test_the_commands_of_the_page_are_those_of_the_world():
    commands = [line.split("#")[0].strip() for line in str(nano_world.__doc__).splitlines() if line.startswith("    ")]
    page = (ROOT / "docs" / "nano.md").read_text(encoding="utf-8")
    block = next(text for text in re.findall(r"```bash\n(.*?)```", page, re.DOTALL) if "train_sight" in text)
    assert [line.split("#")[0].strip() for line in block.splitlines()] == commands[:-1]
    assert commands[-1] == "josie evaluate runs/nano/josie --data runs/nano/test/tasks.jsonl"
    for command in commands:
        for file in re.findall(r"examples/\S+\.(?:py|json)", command):
            assert (ROOT / file).is_file()


def test_the_model_is_small_and_hears_causally():
    values = read("model")
    codec = josie.JodioConfig(**read("voice")["model"])
    config = josie.JosieConfig.from_dict(values | {"audio_codec_config": codec.to_dict()})
    with torch.device("meta"):
        model = josie.JosieForConditionalGeneration(config)
    assert model.num_parameters() <= MOST_PARAMETERS
    audio_config = config.thinker_config.audio_config
    assert audio_config.is_causal
    assert audio_config.algorithmic_delay is not None
    assert config.talker_config.num_quantizers == codec.num_quantizers
    assert config.talker_config.codebook_size == codec.codebook_size


def test_no_voice_is_in_two_splits():
    voices = [*TRAINING, *VALIDATION, *UNKNOWN]
    assert len({voice.key for voice in voices}) == len(voices) > 24
    assert set(QUESTIONERS) <= set(TRAINING)
    with pytest.raises(ValueError, match=r"`engine` must be one of \['flite', 'espeak', 'festival'\], got 'mbrola'"):
        Voice("mbrola", "us1")
