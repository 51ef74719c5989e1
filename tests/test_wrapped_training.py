"""Training of models with compiled parts, and of parts with adapters of their own."""

import pytest
import torch
from safetensors.torch import load_file
from tiny import CASES, josie_inputs, talker_inputs
from transformers import AutoModelForMultimodalLM, TrainingArguments

import josie


def arguments(folder, **options):
    return TrainingArguments(str(folder), use_cpu=True, report_to=[], remove_unused_columns=False, **options)


def compiled(module):
    return torch.compile(module, backend="eager")


@pytest.mark.parametrize("is_whole", [False, True], ids=["part", "whole"])
def test_a_compiled_model_goes_on_from_its_checkpoint(is_whole, tmp_path):
    model = CASES["josie"].build()
    if not is_whole:
        model.thinker = compiled(model.thinker)
    given = compiled(model) if is_whole else model
    trainer = josie.JosieTrainer(given, arguments(tmp_path), lambda _: josie_inputs(), [0])
    trainer.save_model(str(tmp_path / "saved"))
    expected = model.thinker.lm_head.weight.clone()
    trainer.state.best_model_checkpoint = str(tmp_path / "saved")
    for load in (lambda: trainer._load_from_checkpoint(str(tmp_path / "saved")), trainer._load_best_model):
        with torch.no_grad():
            model.thinker.lm_head.weight.zero_()
        load()
        assert torch.equal(model.thinker.lm_head.weight, expected)
    assert trainer.model is given


@pytest.mark.parametrize("place", ["thinker", "talker"])
def test_so_does_a_part_of_a_whole_with_a_compiled_one(place, tmp_path):
    model = CASES["josie"].build()
    plain = list(model.state_dict())
    setattr(model, place, compiled(getattr(model, place)))
    trainer = josie.JosieTrainer(model.talker, arguments(tmp_path), lambda _: talker_inputs(), [0], whole_model=model)
    trainer.save_model(str(tmp_path / "saved"))
    assert set(load_file(tmp_path / "saved" / "model.safetensors")) == set(plain)
    expected = [parameter.clone() for parameter in model.talker.parameters()]
    with torch.no_grad():
        for parameter in model.talker.parameters():
            parameter.zero_()
    trainer._load_from_checkpoint(str(tmp_path / "saved"))
    assert all(torch.equal(ours, old) for ours, old in zip(model.talker.parameters(), expected, strict=True))
    AutoModelForMultimodalLM.from_pretrained(tmp_path / "saved")


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")
@pytest.mark.parametrize("is_part", [False, True], ids=["whole", "part"])
def test_adapters_of_a_part_are_refused_before_training(is_part, tmp_path):
    peft = pytest.importorskip("peft", reason="adapters need peft: pip install 'josie[peft]'")
    model = CASES["josie"].build()
    model.talker = peft.get_peft_model(model.talker, peft.LoraConfig(target_modules=["o_proj"]))
    options = dict(whole_model=model) if is_part else {}
    given = model.talker if is_part else model
    with pytest.raises(ValueError, match="`model` must be without adapters of peft inside .* got some in 'talker'"):
        josie.JosieTrainer(given, arguments(tmp_path), lambda _: josie_inputs(), [0], **options)
    josie.JosieTrainer(given, arguments(tmp_path, save_strategy="no"), lambda _: josie_inputs(), [0], **options)
