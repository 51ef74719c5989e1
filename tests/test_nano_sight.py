"""The sight of the nano model: patches are named after what stands in them, in images that training may show."""

from pathlib import Path

import pytest
import torch
import train_sight
from nano_world import sight
from nano_world.scenes import is_held_out
from PIL import Image
from recipe_runs import run_recipe
from safetensors.torch import load_file
from transformers import AutoModelForMultimodalLM, AutoProcessor

import josie
from josie.modeling_josie.thinker.vision_encoder import JosieVisionEncoder

ROOT = Path(__file__).resolve().parents[1]

DRAWN = sight.SightArguments(stamps=0.0, unknown=0.0, num_rows=50, num_validation_rows=8)


def encoder():
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
    return JosieVisionEncoder(josie.JosieVisionEncoderConfig(**sizes, image_size=16, patch_size=4, stem_channels=[6]))


def batch(size=5):
    rows = [sight.Sights(DRAWN, 4)[index] for index in range(size)]
    joined = {name: torch.stack([row[name] for row in rows]) for name in ("classes", "places")}
    return {"pixel_values": torch.rand(size, 3, 16, 16), **joined}


def test_patches_are_marked_with_what_has_its_centre_there():
    marked = sight.mark([("star", "red", "big", 0.6, 0.1), ("cat", None, None, 0.25, 0.999)], 4)
    classes, places = marked["classes"], marked["places"]
    assert [sight.NAMES[name] for name in classes[:, 0]].count("nothing") == 14
    assert classes[2].tolist() == [sight.NAMES.index("star"), 0, 1]
    torch.testing.assert_close(places[2], torch.tensor([-0.2, -0.2, 0.2, -0.8]))
    assert classes[13].tolist() == [sight.NAMES.index("cat"), -100, -100]
    torch.testing.assert_close(places[13], torch.tensor([-1.0, 0.992, -0.5, 0.998]))
    assert places.isnan().all(dim=1).sum() == 14


def test_a_patch_with_two_centres_is_not_asked_for():
    marked = sight.mark([("star", "red", "small", 0.01, 0.01), ("heart", "red", "small", 0.2, 0.2)], 4)
    assert marked["classes"][0].tolist() == [-100] * 3
    assert marked["places"].isnan().all()


def test_images_of_other_worlds_are_unknown_where_they_are_not_bare():
    canvas = Image.new("RGB", (64, 64), (250, 250, 250))
    canvas.paste((10, 200, 30), (32, 0, 64, 16))
    classes = sight.mark_unknown(canvas, 4)["classes"]
    assert classes[:, 0].nonzero().flatten().tolist() == [2, 3]
    assert classes[2].tolist() == [sight.NAMES.index("unknown"), -100, -100]


def test_a_number_is_one_image_without_held_out_combinations(monkeypatch):
    drawn = []
    monkeypatch.setattr(sight, "render", lambda scene, size: drawn.append(scene) or "image")
    rows = sight.Sights(DRAWN, 4)
    first = [rows[index] for index in range(50)]
    for index in (31, 7):
        assert torch.equal(rows[index]["classes"], first[index]["classes"])
    assert not any(map(is_held_out, drawn))
    assert not torch.equal(sight.Sights(DRAWN, 4, validation=True)[0]["places"], first[0]["places"])
    with pytest.raises(IndexError):
        rows[50]


def test_every_weight_learns_and_what_is_right_is_counted():
    model = sight.SightModel(encoder())
    inputs = batch()
    output = model(**inputs)
    output.loss.backward()
    last = inputs["classes"].new_tensor(0)
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())
    perfect = torch.cat(
        [
            torch.nn.functional.one_hot(inputs["classes"][..., index].clamp(min=last), size).float()
            for index, size in enumerate(sight.CLASSES)
        ],
        dim=-1,
    )
    counted = sight.count_right(perfect, inputs["classes"])
    assert torch.equal(counted[:, 0], counted[:, 1])
    assert counted[:, 1].sum() > 0
    assert not sight.count_right(-perfect, inputs["classes"])[:, 0].any()


def train(folder, path, **changes):
    """Train on scenes, with changes to the sections, and return what was measured."""
    config = {
        "data": {"stamps": 0.0, "unknown": 0.0, "num_rows": 40, "num_validation_rows": 4},
        "model": {"path": str(folder)},
        "trainer": {
            "output_dir": str(path / "run"),
            "max_steps": 2,
            "per_device_train_batch_size": 3,
            "disable_tqdm": True,
            "use_cpu": True,
        },
    }
    return run_recipe(train_sight, {name: section | changes.get(name, {}) for name, section in config.items()})


def test_the_recipe_teaches_the_encoder_alone(tiny_folder, tmp_path):
    assert 0 <= train(tiny_folder, tmp_path)["eval_accuracy"] <= 1
    given = AutoModelForMultimodalLM.from_pretrained(tiny_folder).state_dict()
    learned = AutoModelForMultimodalLM.from_pretrained(tmp_path / "run" / "model").state_dict()
    changed = {name for name, value in learned.items() if not torch.equal(value, given[name])}
    assert changed
    assert all(name.startswith("thinker.model.vision_front_end.encoder.") for name in changed)


@pytest.mark.parametrize(
    ("changes", "measured"),
    [({"data": {"num_validation_rows": 0}}, set()), ({"trainer": {"prediction_loss_only": True}}, {"eval_loss"})],
    ids=["no-rows", "loss-only"],
)
def test_what_was_learned_is_saved_where_no_accuracy_is_measured(tiny_folder, tmp_path, changes, measured):
    metrics = train(tiny_folder, tmp_path, **changes)
    assert "eval_accuracy" not in metrics
    assert measured <= metrics.keys()
    assert (tmp_path / "run" / "model" / "README.md").is_file()


def test_small_steps_change_a_model_in_bfloat16(tiny_folder, tmp_path):
    for kind, options in ((AutoModelForMultimodalLM, {"dtype": torch.bfloat16}), (AutoProcessor, {})):
        kind.from_pretrained(tiny_folder, **options).save_pretrained(tmp_path / "half")
    train(tmp_path / "half", tmp_path, trainer={"learning_rate": 1e-5})
    path, start = tmp_path / "run" / "model" / "model.safetensors", "thinker.model.vision_front_end.encoder."
    given, learned = load_file(tmp_path / "half" / "model.safetensors"), load_file(path)
    encoder = [name for name in given if name.startswith(start)]
    assert {learned[name].dtype for name in encoder} == {torch.float32}
    assert not any(torch.equal(learned[name], given[name].float()) for name in encoder if given[name].ndim > 1)
    assert {value.dtype for name, value in learned.items() if name not in encoder} >= {torch.bfloat16}


def test_a_model_that_sees_otherwise_is_refused():
    model = torch.nn.Module()
    model.config = josie.JosieThinkerConfig(vision_config=None)
    with pytest.raises(ValueError, match="`model` must see with a 'josie_vision_encoder', got None"):
        train_sight.find_encoder(model)
