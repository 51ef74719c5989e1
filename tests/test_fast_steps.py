"""Steps written out equal those of the modules, and leave what is not theirs to these."""

import pytest
import torch
from torch import nn

from josie import JosieBackboneConfig
from josie.modeling_josie.layers import fast_steps
from josie.modeling_josie.layers.backbone import JosieBackbone
from josie.modeling_josie.talker import decoding
from josie.modeling_josie.talker.decoding import StepLoop, step_together

NUM_STEPS = 6


def build(**values) -> JosieBackbone:
    torch.manual_seed(0)
    options = dict(hidden_size=32, num_attention_heads=4, num_hidden_layers=2, intermediate_size=48)
    backbone = JosieBackbone(JosieBackboneConfig(**(options | values))).eval()
    for parameter in backbone.parameters():
        parameter.data.normal_(std=0.3)
    return backbone


def run(backbone: JosieBackbone, rows: torch.Tensor, starts: list[int] | None = None) -> torch.Tensor:
    """Return what a loop gives for `(batch, length, size)`, step by step."""
    loop = StepLoop(backbone, rows.shape[0], rows.shape[1], rows)
    with torch.no_grad():
        return torch.cat([loop.step(rows[:, step : step + 1], starts) for step in range(rows.shape[1])], dim=1)


def run_naively(monkeypatch, *arguments) -> torch.Tensor:
    with monkeypatch.context() as patch:
        patch.setattr(decoding, "list_step_layers", lambda backbone: None)
        return run(*arguments)


def is_fast(backbone: JosieBackbone) -> bool:
    return bool(StepLoop(backbone, 1, 1, torch.zeros(1)).list_layers(torch.zeros(1)))


@pytest.mark.parametrize("rope", [None, {"rope_type": "default", "rope_theta": 100.0}], ids=["nowhere", "rotary"])
@pytest.mark.parametrize("num_kv", [1, 2, 4])
@pytest.mark.parametrize("window", [None, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_steps_equal_those_of_the_modules(monkeypatch, rope, num_kv, window, dtype):
    backbone = build(rope_parameters=rope, num_key_value_heads=num_kv, sliding_window=window).to(dtype)
    assert is_fast(backbone)
    rows = torch.randn(3, NUM_STEPS, 32, dtype=dtype)
    tolerance = {"rtol": 0.05, "atol": 0.05} if dtype == torch.bfloat16 else {}
    torch.testing.assert_close(run(backbone, rows), run_naively(monkeypatch, backbone, rows), **tolerance)
    starts = [0, 0, 0]
    masked = run(backbone, rows, starts)
    torch.testing.assert_close(masked, run_naively(monkeypatch, backbone, rows, starts), **tolerance)


@pytest.mark.parametrize("rope", [None, {"rope_type": "default", "rope_theta": 100.0}], ids=["nowhere", "rotary"])
def test_loops_together_equal_each_alone(rope):
    backbone = build(rope_parameters=rope)
    rows = torch.randn(3, NUM_STEPS, 32)
    loops = [StepLoop(backbone, size, NUM_STEPS, rows) for size in (1, 2)]
    with torch.no_grad():
        ahead = loops[0].step(rows[:1, :1])  # it is one step longer than the other
        found = [
            step_together(loops, [rows[:1, step + 1 : step + 2], rows[1:, step : step + 1]], [None, None])
            for step in range(NUM_STEPS - 1)
        ]
    torch.testing.assert_close(torch.cat([ahead, *(one for one, _ in found)], dim=1), run(backbone, rows[:1]))
    torch.testing.assert_close(torch.cat([two for _, two in found], dim=1), run(backbone, rows[1:, : NUM_STEPS - 1]))


@pytest.mark.parametrize(
    "values",
    [
        {"norm_type": "layer"},
        {"attention_bias": True},
        {"mlp_bias": True},
        {"gated_mlp": False},
        {"layer_scale": 0.1},
        {"hidden_dropout": 0.1},
    ],
    ids=str,
)
def test_other_layers_keep_their_modules(values):
    backbone = build(**values)
    assert not is_fast(backbone)
    assert run(backbone, torch.randn(2, 3, 32)).shape == (2, 3, 32)


class Doubled(nn.Linear):
    """Another module in the place of a linear layer, as an adapter is."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return 2 * super().forward(input)


@pytest.mark.parametrize("how", ["module", "hook", "pre-hook", "method", "training", "eager"])
def test_what_is_put_into_a_layer_is_obeyed(how):
    backbone = build()
    rows = torch.randn(2, 3, 32)
    before = run(backbone, rows)
    module = backbone.layers[1].mlp.down_proj
    if how == "module":
        doubled = Doubled(48, 32, bias=False)
        doubled.weight = module.weight
        backbone.layers[1].mlp.down_proj = doubled
    elif how == "hook":
        module.register_forward_hook(lambda module, inputs, output: 2 * output)
    elif how == "pre-hook":
        module.register_forward_pre_hook(lambda module, inputs: (2 * inputs[0],))
    elif how == "method":
        forward = module.forward
        module.forward = lambda input: 2 * forward(input)
    elif how == "training":
        backbone.train()
    else:
        backbone.set_attn_implementation("eager")
    assert not is_fast(backbone)
    after = run(backbone, rows)
    assert torch.allclose(before, after, atol=1e-5) == (how in ("training", "eager"))


@pytest.mark.parametrize("how", ["in place", "data", "parameter", "dtype"])
def test_weights_may_change_between_steps(how):
    """A loop holds no copy of weights."""
    backbone, rows = build(), torch.randn(1, 1, 32)
    before, loop = run(backbone, rows), StepLoop(backbone, 1, 1, rows)
    assert loop.list_layers(rows)
    linear = backbone.layers[0].mlp.down_proj
    if how == "data":
        linear.weight.data = linear.weight.data * 2
    elif how == "parameter":
        linear.weight = nn.Parameter(linear.weight.detach() * 2)
    else:
        linear.weight.data.mul_(2)
    if how == "dtype":
        backbone.double().float()
    with torch.no_grad():
        after = loop.step(rows)
    assert not torch.allclose(after, before, atol=1e-3)
    torch.testing.assert_close(after, run(backbone, rows))


def test_autocast_and_compiled_programs_keep_the_modules():
    loop = StepLoop(build(), 1, 1, torch.zeros(1))
    with torch.autocast("cpu", torch.bfloat16):
        assert not loop.list_layers(torch.zeros(1))
    assert loop.list_layers(torch.zeros(1)) == fast_steps.list_step_layers(loop.backbone)
