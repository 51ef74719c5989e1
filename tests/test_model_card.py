"""Model cards: their metadata, their text, and that their examples run."""

import os
import re
from pathlib import Path

import pytest
from exports import whole_model
from huggingface_hub import ModelCard
from tiny import CASES, THINKER, josie_config

import josie
from josie.conversion.hub.card_metadata import pipeline_tag
from josie.conversion.hub.export import find_processor
from josie.conversion.hub.model_card import write_model_card
from josie.conversion.hub.remote_code import add_code

METADATA = dict(
    data=["openslr/librispeech_asr", "flite's voice slt, 117 s"],
    metrics={"PESQ-WB": 3.68, "WER": 0.0414, "clips": 40},
    evaluated_on="20 verses in another voice",
    command="python examples/train_jodio.py --steps 100",
    hours=1.5,
    hardware="2 CPU cores",
    license="apache-2.0",
    languages=["en"],
    limitations="It has heard one voice.",
)
KINDS = ["backbone", "text", "audio-encoder", "vision-encoder", "jodio", "mel-codec", "jovio", "talker-depth"]


@pytest.fixture
def codec(tmp_path):
    """Return a folder with a tiny codec, and its configuration."""
    model = CASES["jodio"].build()
    model.save_pretrained(tmp_path / "codec")
    return tmp_path / "codec", model.config


def example(card: ModelCard) -> str:
    (program,) = re.findall(r"```python\n(.*?)```", card.text, re.DOTALL)
    return program


@pytest.mark.parametrize("with_code", [False, True], ids=["package", "code"])
@pytest.mark.parametrize("name", [*KINDS, "thinker", "thinker-model", "whole", "mute"])
def test_the_example_runs(name, with_code, tmp_path, monkeypatch, capsys):
    processor = None
    if name in ("whole", "thinker", "thinker-model", "mute"):
        model, processor = whole_model()
        if name == "thinker":
            model = model.thinker
        elif name == "thinker-model":
            model = model.thinker.model
        elif name == "mute":
            model.config.talker_config = model.config.audio_codec_config = None
            model = josie.JosieForConditionalGeneration(model.config)
    else:
        model = CASES[name].build()
        processor = find_processor(model.config)
    if hasattr(model, "generation_config"):
        model.generation_config.update(talker_max_new_frames=5, talker_min_new_frames=3)
    model.save_pretrained(tmp_path / f"tiny-{name}")
    if processor is not None:
        processor.save_pretrained(tmp_path / f"tiny-{name}")
    if with_code:
        add_code(tmp_path / f"tiny-{name}", model.config)
    path = write_model_card(tmp_path / f"tiny-{name}", model.config, model=model, with_code=with_code)
    monkeypatch.chdir(tmp_path)
    program = example(ModelCard.load(path))
    assert f'("owner/tiny-{name}"' in program
    program = program.replace(f"owner/tiny-{name}", f"tiny-{name}")
    assert ("trust_remote_code=True" in program) is with_code
    assert ("import josie" in program) is not with_code
    exec(compile(program, str(path), "exec"), {"__name__": "card"})
    if name == "whole":
        assert Path("reply.wav").stat().st_size > 44
        assert capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "tag"),
    [
        ("josie", "any-to-any"),
        ("thinker", "image-text-to-text"),
        ("talker-parallel", "text-to-speech"),
        ("jodio", "audio-to-audio"),
        ("mel-codec", "audio-to-audio"),
        ("jovio", "image-feature-extraction"),
        ("vision-encoder", "image-feature-extraction"),
        ("audio-encoder", "feature-extraction"),
        ("text", "feature-extraction"),
    ],
)
def test_pipeline_tags(name, tag):
    assert pipeline_tag(CASES[name].config()) == tag


def test_pipeline_tags_of_a_thinker_follow_its_senses():
    without_audio = {key: value for key, value in THINKER.items() if key not in ("audio_config", "vision_config")}
    assert pipeline_tag(josie.JosieThinkerConfig(**without_audio)) == "text-generation"
    without_vision = {key: value for key, value in THINKER.items() if key != "vision_config"}
    assert pipeline_tag(josie.JosieThinkerConfig(**without_vision)) == "audio-text-to-text"


def test_metadata(codec):
    folder, config = codec
    data = ModelCard.load(write_model_card(folder, config, **METADATA)).data
    assert data.pipeline_tag == "audio-to-audio"
    assert data.library_name == "transformers"
    assert data.license == "apache-2.0"
    assert data.language == ["en"]
    assert data.datasets == ["openslr/librispeech_asr"]
    assert data.tags == ["josie", "jodio", "codec"]
    assert data.model_name == "codec"
    results = {result.metric_name: result for result in data.eval_results}
    assert {name: result.metric_value for name, result in results.items()} == METADATA["metrics"]
    assert results["WER"].metric_type == "wer"
    assert results["WER"].dataset_name == METADATA["evaluated_on"]
    assert results["WER"].task_type == "audio-to-audio"


def test_text(codec):
    folder, config = codec
    text = ModelCard.load(write_model_card(folder, config, **METADATA)).text
    for phrase in (
        "# codec\n",
        "A neural audio codec",
        "1600 Hz, 80 frames a second of 3 codes of 11 each, 960 bit/s",
        "* data: [openslr/librispeech_asr](https://huggingface.co/datasets/openslr/librispeech_asr)",
        "* data: flite's voice slt, 117 s",
        "* time: 1.5 hours on 2 CPU cores",
        "python examples/train_jodio.py --steps 100",
        "| WER | 0.0414 |",
        "On 20 verses in another voice:",
        "It has heard one voice.",
    ):
        assert phrase in text
    model = CASES["jodio"].build()
    assert f"| **all** | `JodioModel` | {model.num_parameters():,} |" in text
    assert f"| decoder | `{type(model.decoder).__name__}` |" in text


def test_parts_of_a_whole_model_add_up(tmp_path):
    config = josie_config()
    text = ModelCard.load(write_model_card(tmp_path, config)).text
    rows = dict(re.findall(r"^\| ([^|]+) \| `\w+` \| ([\d,]+) \|$", text, re.MULTILINE))
    sizes = {name: int(size.replace(",", "")) for name, size in rows.items()}
    total = sizes.pop("**all**")
    assert total == CASES["josie"].build().num_parameters()
    assert sum(size for name, size in sizes.items() if ":" not in name) == total
    assert {"thinker: language model", "thinker: audio front end", "thinker: vision front end"} < sizes.keys()
    assert "reads text, image, video and audio and writes text and speech" in text


def test_a_card_by_hand_stays_and_gets_metadata(codec):
    folder, config = codec
    by_hand = "---\nlicense: mit\ntags:\n- mine\npipeline_tag: audio-classification\n---\n\n# My codec\n\nMy words.\n"
    (folder / "README.md").write_text(by_hand)
    card = ModelCard.load(write_model_card(folder, config))
    assert card.text.strip() == "# My codec\n\nMy words."
    assert card.data.license == "mit"
    assert card.data.pipeline_tag == "audio-classification"
    assert card.data.tags == ["mine", "josie", "jodio", "codec"]
    assert ModelCard.load(write_model_card(folder, config, license="apache-2.0")).data.license == "apache-2.0"


def test_a_card_of_ours_is_completed(codec):
    folder, config = codec
    path = write_model_card(folder, config, **METADATA)
    path.write_text(path.read_text().replace("# codec\n", "# My codec\n\nMy words.\n") + "\nMore words.\n")
    card = ModelCard.load(write_model_card(folder, config, with_code=True, metrics={"WER": 0.02}))
    for phrase in ("# My codec", "My words.", "More words.", "* time: 1.5 hours", "It has heard", "| WER | 0.02 |"):
        assert phrase in card.text
    assert "0.0414" not in card.text
    assert card.text.count("## Use") == 1
    assert "trust_remote_code=True" in card.text
    assert [result.metric_value for result in card.data.eval_results] == [0.02]
    assert card.data.tags == ["josie", "jodio", "codec", "custom_code"]
    again = path.read_text()
    write_model_card(folder, config, with_code=True)
    assert path.read_text() == again


def test_refuses(tmp_path):
    from transformers import LlamaConfig

    with pytest.raises(ValueError, match="`config` must be of one of .*, got 'llama'."):
        write_model_card(tmp_path, LlamaConfig())
    with pytest.raises(ValueError, match="`hours` must be at least 0, got -1."):
        write_model_card(tmp_path, CASES["jodio"].config(), hours=-1)
    assert os.listdir(tmp_path) == []


def test_the_title_and_the_source_are_the_callers(codec):
    folder, config = codec
    path = write_model_card(
        folder, config, title="My codec", source="find_it()", license="mit", license_notes=["Mine."]
    )
    text = ModelCard.load(path).text
    assert text.strip().startswith("# My codec\n")
    assert "from_pretrained(find_it())" in text
    assert "owner/" not in text
    assert "The weights are under mit, the code under apache-2.0.\nMine.\n" in text


def test_a_card_keeps_the_licence_that_it_has(codec):
    """Also when a later call does not name it."""
    folder, config = codec
    write_model_card(folder, config, license="mit")
    text = ModelCard.load(write_model_card(folder, config, with_code=True)).text
    assert "The weights are under mit" in text


def test_how_it_was_measured(codec):
    folder, config = codec
    measured = dict(evaluation_command="josie evaluate codec", evaluation_date="2026-11-26")
    text = ModelCard.load(write_model_card(folder, config, **METADATA, **measured)).text
    assert "On 20 verses in another voice, measured on 2026-11-26:" in text
    assert "```bash\njosie evaluate codec\n```" in text
