"""The optimizer of JOVIO's recipe: the one that is asked for, slower in all that begins near its place."""

import pytest
import torch
import train_jovio
from test_recipe_jovio import CONFIG
from transformers import Trainer, TrainingArguments


@pytest.fixture
def model():
    return train_jovio.JovioModel(train_jovio.build_config(CONFIG["model"]))


def arguments(folder, **options):
    return TrainingArguments(
        str(folder), use_cpu=True, report_to="none", learning_rate=0.1, weight_decay=0.3, **options
    )


@pytest.mark.parametrize(
    ("options", "kind", "values"),
    [
        ({"adam_beta2": 0.95, "adam_epsilon": 100.0}, torch.optim.AdamW, {"betas": (0.9, 0.95), "eps": 100.0}),
        ({"optim": "sgd"}, torch.optim.SGD, {"momentum": 0}),
        ({"optim": "rmsprop", "optim_args": "momentum=0.4"}, torch.optim.RMSprop, {"momentum": 0.4}),
    ],
    ids=["adamw", "sgd", "rmsprop"],
)
def test_it_is_the_one_that_is_asked_for(model, tmp_path, options, kind, values):
    optimizer = train_jovio.build_optimizer(model, arguments(tmp_path, **options), 0.25)
    assert type(optimizer) is kind
    fast, slow = optimizer.param_groups
    assert (fast["lr"], slow["lr"]) == (0.1, 0.025)
    assert fast["weight_decay"] == slow["weight_decay"] == 0.3
    assert {name: fast[name] for name in values} == {name: slow[name] for name in values} == values
    assert len(fast["params"]) == len(list(model.decoder.parameters()))
    assert len(fast["params"]) + len(slow["params"]) == len(list(model.parameters()))


@pytest.mark.parametrize("made", [(torch.optim.AdamW, {"params": []}), (lambda: torch.optim.AdamW, {})])
def test_one_that_chooses_its_parameters_by_itself_is_refused(model, tmp_path, monkeypatch, made):
    monkeypatch.setattr(Trainer, "get_optimizer_cls_and_kwargs", staticmethod(lambda *_: made))
    with pytest.raises(ValueError, match=r"`trainer\.optim` must be one for any parameters, .* got 'sgd'\."):
        train_jovio.build_optimizer(model, arguments(tmp_path, optim="sgd"), 0.25)
