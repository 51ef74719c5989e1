"""The linear layer of training equals torch's, in values and gradients, and is used in training alone."""

import pytest
import torch
from tiny import TEXT, build

import josie
from josie.modeling_josie.layers import fast_linear as room
from josie.modeling_josie.layers.fast_linear import fast_linear, has_fast_linear


def gradients_of(function, tensors, above):
    result = function(*tensors)
    wanted = [value for value in tensors if value is not None and value.requires_grad]
    return result, torch.autograd.grad(result, wanted, above, create_graph=True)


needs_onednn = pytest.mark.skipif(not has_fast_linear(), reason="this processor has no other linear layer")


@needs_onednn
@pytest.mark.parametrize("form", ["whole", "sliced", "transposed", "expanded"])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(
    ("rows", "sizes"), [((19,), (7, 5)), ((4, 9), (16, 33)), ((2, 3, 5), (1, 1)), ((2, 150), (8, 4))], ids=str
)
def test_linear(rows, sizes, bias, form):
    torch.manual_seed(0)
    x = torch.randn(*rows, sizes[0])
    if form == "sliced":
        x = torch.randn(rows[0], 3, *rows[1:], sizes[0])[:, 1]
    elif form == "transposed":
        x = torch.randn(sizes[0], *rows).movedim(0, -1)
    elif form == "expanded":
        x = x[..., :1].expand(*rows, sizes[0])
    given = [x.requires_grad_(), torch.randn(sizes[1], sizes[0]).requires_grad_()]
    given.append(torch.randn(sizes[1]).requires_grad_() if bias else None)
    above = torch.randn(sizes[1]).expand(*rows, sizes[1])
    naive, expected = gradients_of(torch.nn.functional.linear, given, above)
    result, actual = gradients_of(fast_linear, given, above)
    torch.testing.assert_close(result, naive, rtol=1e-4, atol=1e-5)
    for ours, theirs in zip(actual, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    twice = [
        torch.autograd.grad(sum(g.square().sum() for g in gradients), given[0]) for gradients in (actual, expected)
    ]
    torch.testing.assert_close(*twice, rtol=1e-3, atol=1e-3)


@needs_onednn
def test_few_numbers_of_rows_are_multiplied(monkeypatch):
    calls = count_calls(monkeypatch)
    weight = torch.randn(3, 4, requires_grad=True)
    for num_rows in range(16, 1024):
        assert fast_linear(torch.randn(num_rows, 4), weight).shape == (num_rows, 3)
    assert len(set(calls)) == 256 // 16 + (1024 - 256) // 128


def inputs_of(model) -> dict:
    return dict(input_ids=torch.randint(10, 50, (3, 11)), labels=torch.randint(10, 50, (3, 11)))


def thinker():
    config = josie.JosieThinkerConfig(text_config=TEXT)
    return build(josie.JosieThinkerForConditionalGeneration, config)


def count_calls(monkeypatch) -> list:
    calls = []
    apply = room.OneDNNLinear.apply
    monkeypatch.setattr(room.OneDNNLinear, "apply", lambda *args: calls.append(args[0].shape) or apply(*args))
    return calls


@pytest.fixture
def elsewhere(monkeypatch):
    """A processor that is not Intel's."""
    monkeypatch.setattr(room, "is_intel", lambda: False)


def test_what_is_intels_multiplies_as_torch_does(monkeypatch):
    calls, model = count_calls(monkeypatch), thinker()
    monkeypatch.setattr(room, "is_intel", lambda: True)
    model.train()(**inputs_of(model)).loss.backward()
    assert not calls


@needs_onednn
def test_a_model_uses_it_in_training_alone(monkeypatch, elsewhere):
    calls, model = count_calls(monkeypatch), thinker()
    torch.manual_seed(0)
    inputs = inputs_of(model)
    with monkeypatch.context() as patch:
        patch.setattr(torch.backends.mkldnn, "enabled", False)
        plain = model.train()(**inputs).loss
        expected = torch.autograd.grad(plain, list(model.parameters()))
    assert not calls
    loss = model(**inputs).loss
    actual = torch.autograd.grad(loss, list(model.parameters()))
    assert len(calls) > 10
    torch.testing.assert_close(loss, plain)
    for ours, theirs in zip(actual, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-5)
    calls.clear()
    model.eval()(**inputs)
    with torch.no_grad():
        model.train()(**inputs)
    model.double()(**inputs)
    with torch.autocast("cpu", torch.bfloat16):
        model.float()(**inputs)
    assert not calls


@needs_onednn
def test_gradient_checkpoints_keep_the_tensors_they_had(monkeypatch, elsewhere):
    calls, model = count_calls(monkeypatch), thinker()
    model.activation_checkpointing_enable()
    model.train()(**inputs_of(model)).loss.backward()
    assert not calls


@needs_onednn
def test_frozen_weights_get_no_gradient_and_pass_one_on(monkeypatch, elsewhere):
    calls, model = count_calls(monkeypatch), thinker()
    model.requires_grad_(False)
    model.get_input_embeddings().weight.requires_grad_(True)
    model.train()(**inputs_of(model)).loss.backward()
    assert calls
    assert model.get_input_embeddings().weight.grad.any()
    assert model.lm_head.weight.grad is None
