"""Laws of a teacher of the audio encoder: whatever its rate, its features are predicted where they are."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import train_thinker
from assembly_parts import save_audio
from recipe_runs import read_losses, run_recipe, write_conversations
from recipes.audio_ctc import CTCArguments
from recipes.teacher import TaughtModel, Teacher, TeacherArguments
from test_recipe_thinker import CONFIG, changed
from tiny import CAUSAL_AUDIO_ENCODER, THINKER, build

import josie
from josie.training.whole_checkpoints import EXTRA_FILE


@pytest.fixture(scope="module", params=["whisper", "wav2vec2"])
def folder(request, tmp_path_factory):
    return save_audio(request.param, tmp_path_factory.mktemp(request.param))


def learner(letters=None, width=3, **options) -> TaughtModel:
    config = josie.JosieThinkerConfig(**THINKER | dict(audio_config=CAUSAL_AUDIO_ENCODER))
    torch.manual_seed(0)
    model = build(josie.JosieThinkerForConditionalGeneration, config)
    return TaughtModel(model, letters, TeacherArguments("", **{"only": letters is None} | options), width)


def batch(lengths: list[int]) -> dict[str, torch.Tensor]:
    mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    values = torch.randn(len(lengths), 1, max(lengths), generator=torch.Generator().manual_seed(1))
    return {"input_values": values * 0.2 * mask[:, None], "padding_mask": mask.long()}


def test_features_are_as_many_as_the_clip_has_and_kept(folder, tmp_path):
    clip = np.random.default_rng(0).standard_normal(9000).astype(np.float32) * 0.1
    teacher = Teacher(TeacherArguments(str(folder)))
    features = teacher.listen(clip)
    assert features.shape[1] == teacher.width
    assert features.dtype == np.float16
    rate = teacher.sampling_rate / teacher.listen(np.concatenate([clip] * 3)).shape[0]
    assert len(features) == pytest.approx(9000 / 27000 * teacher.sampling_rate / rate, abs=1)
    kept = Teacher(TeacherArguments(str(folder), cache=str(tmp_path)))
    assert np.array_equal(kept.listen(clip), features)
    kept.encoder = None  # not asked again
    assert np.array_equal(kept.listen(clip), features)
    assert len(list(tmp_path.iterdir())) == 1
    first = Teacher(TeacherArguments(str(folder), layer=0, cache=str(tmp_path)))
    assert not np.array_equal(first.listen(clip), features)
    with pytest.raises(ValueError, match=r"`teacher.layer` must be in \[0, \d\], got 99"):
        Teacher(TeacherArguments(str(folder), layer=99))


@pytest.mark.parametrize("delay", [0, 2])
def test_the_loss_is_the_mean_square_that_is_missed_at_the_right_places(delay):
    model, inputs = learner(delay=delay), batch([240, 130])
    lengths = torch.tensor([20, 11])  # twice as often as the encoder's 10 and 6
    features = torch.randn(2, 20, 3)
    found = model(teacher_features=features, teacher_lengths=lengths, **inputs)
    states = model.encoder(**inputs).last_hidden_state
    predicted, losses = model.teacher_head(states), []
    for row, size in enumerate((10, 6)):
        wanted = (
            features[row, : 2 * size].reshape(size, 2, 3).mean(1)
            if row == 0
            else (torch.nn.functional.interpolate(features[row, :11].T[None], size=6, mode="linear")[0].T)
        )
        wanted = torch.nn.functional.layer_norm(wanted, (3,))
        losses += [(predicted[row, i + delay] - wanted[i]).square().mean() for i in range(size - delay)]
    torch.testing.assert_close(found.teacher_loss, torch.stack(losses).mean())
    assert model.count_targets(teacher_lengths=lengths, **inputs) == {"teacher": 16 - 2 * delay}
    assert found.loss == found.teacher_loss
    assert found.ctc_loss is None
    with torch.no_grad():
        model.teacher_head.weight.zero_()
        model.teacher_head.bias.zero_()
        guess = model(teacher_features=features, teacher_lengths=lengths, **inputs)
    assert guess.teacher_loss == pytest.approx(1, abs=1e-3)


def test_a_batch_without_clips_teaches_nothing():
    model = learner().train()
    loss = model(input_ids=torch.ones(1, 3, dtype=torch.long)).loss
    loss.backward()
    assert loss == 0
    assert all(value.grad is not None for value in (*model.teacher_head.parameters(), *model.encoder.parameters()))


def test_letters_are_learned_beside():
    model, inputs = learner(CTCArguments(weight=0.5, only=True), weight=2.0), batch([240, 130])
    labels = torch.tensor([[3, 1], [2, 0]])
    taught = {"teacher_features": torch.randn(2, 20, 3), "teacher_lengths": torch.tensor([20, 11])}
    output = model(ctc_labels=labels, **taught, **inputs)
    torch.testing.assert_close(output.loss, 0.5 * output.ctc_loss + 2 * output.teacher_loss)
    assert model.target_names == ("text", "ctc", "teacher")
    with pytest.raises(ValueError, match="`teacher.only` must be false with `ctc`"):
        learner(CTCArguments(), only=True)


def test_a_run_learns_from_a_teacher_alone_and_another_goes_on(tiny_folder, folder, tmp_path):
    config = json.loads(json.dumps(CONFIG))
    rows = write_conversations(tmp_path)
    config["data"] |= {"sources": [{"name": "jsonl", "path": str(rows)}], "folder": str(tmp_path / "data")}
    config["model"] = {"path": str(tiny_folder)}
    config["teacher"] = {"path": str(folder), "only": True, "cache": str(tmp_path / "cache")}
    config["augmentation"] = {"gain": {}, "speed": {}}
    config["trainer"] |= {"output_dir": str(tmp_path / "run"), "max_steps": 4, "logging_steps": 1}
    metrics = run_recipe(train_thinker, config)
    assert metrics["eval_teacher_loss"] > 0
    assert read_losses(config, "teacher_loss")
    model = Path(config["trainer"]["output_dir"]) / "model"
    assert changed(tiny_folder, model) == {"thinker", "thinker.audio", "thinker.audio.encoder"}
    assert (model / EXTRA_FILE).exists()
    assert len(list((tmp_path / "cache").iterdir())) == 1  # one clip, whatever it was changed to
    config["model"]["path"], config["ctc"] = str(model), {"weight": 0.5}
    config["teacher"]["only"] = False
    config["trainer"] |= {"output_dir": str(tmp_path / "second"), "max_steps": 2}
    metrics = run_recipe(train_thinker, config)
    assert {"eval_teacher_loss", "eval_ctc_loss", "eval_text_loss"} <= set(metrics)
