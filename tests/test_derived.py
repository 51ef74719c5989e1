"""What modules keep of their weights is always that of the weights they have."""

import copy
import pickle
from collections.abc import Callable

import pytest
import torch
from torch import nn

from josie.configuration_josie import JosieCodecConfig
from josie.modeling_josie.codecs.codebook import VectorQuantizer
from josie.modeling_josie.codecs.convolution import CausalConv1d, CausalConvTranspose1d


def build(kind: str) -> tuple[nn.Module, str, Callable[[nn.Module], torch.Tensor]]:
    """Return a module, the name of the weight that it keeps something of, and what it does."""
    torch.manual_seed(0)
    if kind in ("ema", "gradient"):
        quantizer = VectorQuantizer(JosieCodecConfig(codebook_size=11, codebook_dim=5, codebook_update=kind))
        with torch.no_grad():
            quantizer.codebook.normal_()
        vectors = torch.randn(40, 5)
        return quantizer.eval(), "codebook", lambda module: module.encode(vectors.to(module.codebook.dtype))
    conv = CausalConv1d(3, 5, 4, stride=2) if kind == "strided" else CausalConvTranspose1d(3, 5, 2, activate=True)
    samples = torch.randn(2, 6, 3)
    run = lambda module: module(samples.to(module.weight_direction.dtype))[0]  # noqa: E731
    return conv.eval(), "weight_direction", run


def edit(module: nn.Module, name: str) -> None:
    with torch.no_grad():
        getattr(module, name)[..., 1].mul_(3).add_(0.5)


def load(module: nn.Module, name: str, assign: bool = False) -> None:
    state = {key: value.clone() for key, value in module.state_dict().items()}
    state[name] = state[name].flip(-1) * 2 + 0.3
    module.load_state_dict(state, assign=assign)


def step(module: nn.Module, name: str) -> None:
    weight = getattr(module, name)
    if not isinstance(weight, nn.Parameter):
        module.update(torch.randn(40, 5) + 3, torch.arange(40) % 11, torch.ones(40))
        return
    weight.grad = torch.randn_like(weight)
    torch.optim.AdamW([weight], lr=0.5).step()
    weight.grad = None


def replace(module: nn.Module, name: str) -> None:
    weight = getattr(module, name).detach() * 0.5 + 0.7
    setattr(module, name, nn.Parameter(weight) if isinstance(getattr(module, name), nn.Parameter) else weight)


def edit_data_and_switch(module: nn.Module, name: str) -> None:
    getattr(module, name).data.mul_(0.3).add_(0.4)
    module.eval()


CHANGES = {
    "edited in place": edit,
    "loaded": load,
    "loaded by assignment": lambda module, name: load(module, name, assign=True),
    "an optimizer's step or an update": step,
    "replaced": replace,
    "cast": lambda module, name: module.to(torch.float64),
    "cast there and back": lambda module, name: module.bfloat16().float(),
    "edited through .data, then eval": edit_data_and_switch,
}


def fresh(module: nn.Module, run: Callable) -> torch.Tensor:
    """Return what a module with these weights gives that never ran."""
    return run(copy.deepcopy(module))


@pytest.mark.parametrize("kind", ["strided", "transposed", "ema", "gradient"])
@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_a_change_of_the_weight_is_seen(kind, change, mode):
    module, name, run = build(kind)
    with mode():
        before = run(module)
        assert module._kept is not None
        kept = module._kept[1].clone()
        assert torch.equal(run(module), before)
    CHANGES[change](module, name)
    with mode():
        after = run(module)
        torch.testing.assert_close(after, fresh(module, run), rtol=0, atol=0)
        assert not torch.equal(module._kept[1].to(kept.dtype), kept) or change == "cast"


@pytest.mark.parametrize("kind", ["strided", "transposed", "ema", "gradient"])
def test_it_is_no_part_of_a_state_or_a_copy(kind):
    module, _, run = build(kind)
    names = set(module.state_dict())
    with torch.no_grad():
        expected = run(module)
        assert module._kept is not None
        assert set(module.state_dict()) == names
        assert "_kept" not in vars(copy.deepcopy(module))
        loaded = pickle.loads(pickle.dumps(module))
        assert "_kept" not in vars(loaded)
        assert torch.equal(run(loaded), expected)


@pytest.mark.parametrize("kind", ["strided", "transposed"])
def test_gradients_reach_the_norm(kind):
    module, name, run = build(kind)
    with torch.no_grad():
        run(module)
    run(module).square().sum().backward()
    assert module._kept is None
    direction = getattr(module, name)
    # The output does not depend on the length of the weight, so its gradient is at right angles to it.
    along = (direction.grad * direction.detach()).sum((0, 2, 3))
    torch.testing.assert_close(along, torch.zeros_like(along), rtol=0, atol=1e-4)


def test_a_traced_module_follows_its_weights():
    module, name, run = build("strided")
    samples = torch.randn(2, 6, 3)
    with torch.no_grad():
        module(samples)
        compiled = torch.compile(module, backend="eager", fullgraph=True)
        torch.testing.assert_close(compiled(samples)[0], module(samples)[0])
        edit(module, name)
        torch.testing.assert_close(compiled(samples)[0], module(samples)[0])
