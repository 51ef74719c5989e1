"""Freezing by name: what a group is, what stays frozen, and in which mode frozen parts are."""

import pytest
from tiny import CASES, coded_josie_config, josie_config
from typer.testing import CliRunner

import josie
from josie.cli.app import app

GROUPS = [
    "thinker",
    "thinker.text",
    "thinker.text.embeddings",
    "thinker.text.head",
    "thinker.audio",
    "thinker.audio.encoder",
    "thinker.audio.projector",
    "thinker.vision",
    "thinker.vision.encoder",
    "thinker.vision.projector",
    "talker",
    "talker.embeddings",
    "talker.projection",
    "talker.backbone",
    "talker.head",
    "talker.depth",
    "audio_codec",
]


@pytest.fixture
def model():
    return CASES["josie"].build()


def learning(model) -> set[str]:
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


def test_groups_have_these_names(model):
    assert list(model.get_groups()) == GROUPS
    assert list(model.thinker.get_groups()) == [name[8:] for name in GROUPS if name.startswith("thinker.")]
    assert list(model.talker.get_groups()) == [name[7:] for name in GROUPS if name.startswith("talker.")]
    coded = josie.JosieForConditionalGeneration(coded_josie_config())
    assert {"thinker.audio.code_embedding", "thinker.vision.code_embedding", "vision_codec"} <= set(coded.get_groups())
    text = josie.JosieForConditionalGeneration(josie_config(talker_config=None))
    assert "talker" not in text.get_groups()


@pytest.mark.parametrize("name", GROUPS[:-1])
def test_a_group_freezes_what_its_parts_do_and_nothing_else(model, name):
    before = learning(model)
    assert model.freeze(name) is model
    frozen = before - learning(model)
    assert frozen
    children = [child for child in GROUPS if child.startswith(f"{name}.")]
    assert model.unfreeze(name) is model
    assert learning(model) == before
    if children:
        model.freeze(*children)
        assert before - learning(model) <= frozen
        prefixes = {"thinker": "thinker.", "talker": "talker."}
        if name in prefixes:
            assert frozen == {parameter for parameter in before if parameter.startswith(prefixes[name])}


def test_parts_of_a_frozen_group_can_learn(model):
    model.freeze("thinker").unfreeze("thinker.audio.projector")
    thinker = {name for name in learning(model) if name.startswith("thinker.")}
    assert thinker == {
        f"thinker.model.audio_front_end.projector.{name}"
        for name, _ in model.thinker.model.audio_front_end.projector.named_parameters()
    }


def test_tied_embeddings_are_frozen_with_the_head():
    text = CASES["thinker"].config().text_config.to_dict() | {"tie_word_embeddings": True}
    config = CASES["thinker"].config().to_dict() | {"text_config": text}
    model = josie.JosieThinkerForConditionalGeneration(josie.JosieThinkerConfig.from_dict(config))
    model.freeze("text.head")
    assert not model.get_input_embeddings().weight.requires_grad


def test_what_is_always_frozen_stays_so(model):
    with pytest.raises(ValueError, match="`groups` must be parts that a loss of this model reaches, got 'audio_codec'"):
        model.unfreeze("audio_codec")
    assert not any(parameter.requires_grad for parameter in model.audio_codec.parameters())
    assert model.freeze("audio_codec") is model


@pytest.mark.parametrize("method", ["freeze", "unfreeze"])
def test_unknown_group(model, method):
    before = learning(model)
    with pytest.raises(ValueError, match="`groups` must be among .*'thinker.vision'.*, got 'vision'"):
        getattr(model, method)("talker", "vision")
    assert learning(model) == before


def test_frozen_encoders_rest_and_the_rest_trains(model):
    model.train().freeze("thinker.vision")
    assert not model.thinker.model.vision_front_end.encoder.training
    assert model.thinker.model.audio_front_end.encoder.training
    model.freeze("thinker.text").train()
    assert model.thinker.model.language_model.training  # gradient checkpointing asks for it
    assert not model.thinker.model.vision_front_end.encoder.training
    model.unfreeze("thinker.vision")
    assert model.thinker.model.vision_front_end.encoder.training
    assert not model.eval().thinker.model.vision_front_end.encoder.training


def test_frozen_parts_get_no_gradients():
    model = CASES["josie"].build().train().freeze("thinker.vision", "talker.depth")
    model(**CASES["josie"].inputs()).loss.backward()
    for name, parameter in model.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, name


def test_info_shows_what_trains(model, tiny_folder):
    def trains(*arguments: str) -> dict[str, int]:
        result = CliRunner().invoke(app, ["info", str(tiny_folder), *arguments], catch_exceptions=False)
        lines = [[cell.strip() for cell in line.split("│")[1:]] for line in result.stdout.splitlines() if "│" in line]
        return {line[0]: int(line[2].replace(",", "")) for line in lines if line[0]}

    everything = trains()
    loaded = josie.JosieForConditionalGeneration.from_pretrained(tiny_folder)
    count = lambda part: sum(p.numel() for p in part.parameters() if p.requires_grad)  # noqa: E731
    assert everything["all"] == count(loaded)
    assert everything["audio_codec"] == 0
    assert everything["thinker"] == count(loaded.thinker)
    frozen = trains("--freeze", "thinker.vision", "--freeze", "talker")
    assert frozen["talker"] == frozen["vision_front_end"] == 0
    assert frozen["all"] == everything["all"] - everything["talker"] - everything["vision_front_end"]


def test_freezing_is_not_saved(model, tmp_path):
    model.freeze("thinker").save_pretrained(tmp_path)
    loaded = josie.JosieForConditionalGeneration.from_pretrained(tmp_path)
    assert learning(loaded) == learning(CASES["josie"].build()) != learning(model)
