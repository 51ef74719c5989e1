"""Fast forms of operations equal their naive forms, in values and gradients."""

import pytest
import torch

from josie import JosieBackboneConfig
from josie.modeling_josie.layers.fast import (
    naive_rms_norm,
    naive_step_attention,
    rms_norm,
    step_attention,
    store_by_columns,
)
from josie.modeling_josie.layers.transformer import JosieAttention, eager_attention_forward


@pytest.mark.parametrize("shape", [(1, 1, 8), (3, 5, 12), (7, 33)], ids=str)
@pytest.mark.parametrize("scale", [0.0, 1e-4, 1.0, 1e4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_rms_norm(shape, scale, dtype):
    torch.manual_seed(0)
    x = (scale * torch.randn(shape)).to(dtype).requires_grad_()
    weight = torch.randn(shape[-1]).to(dtype).requires_grad_()
    above = torch.randn(shape).to(dtype)
    expected, actual = naive_rms_norm(x, weight, 1e-5), rms_norm(x, weight, 1e-5)
    torch.testing.assert_close(actual, expected)
    gradients = [torch.autograd.grad(result, (x, weight), above) for result in (expected, actual)]
    for ours, theirs in zip(gradients[1], gradients[0], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5 * float(theirs.abs().max()))


@pytest.mark.parametrize("num_kv", [1, 2, 4])
@pytest.mark.parametrize("num_keys", [1, 7])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_step_attention(num_kv, num_keys, dtype):
    torch.manual_seed(0)
    config = JosieBackboneConfig(
        hidden_size=32, num_attention_heads=4, num_key_value_heads=num_kv, num_hidden_layers=1, intermediate_size=8
    )
    module = JosieAttention(config, 0).eval()
    query, key, value = (
        torch.randn(3, heads, length, 8).to(dtype) for heads, length in ((4, 1), (num_kv, num_keys), (num_kv, num_keys))
    )
    arguments = module, query, key, value, None, module.scaling
    actual, _ = step_attention(*arguments, dropout=0.0, sliding_window=None)
    assert actual.shape == (3, 1, 4, 8)
    torch.testing.assert_close(actual, naive_step_attention(*arguments)[0])
    if dtype == torch.float32:  # written out, bfloat16 is rounded between the operations
        torch.testing.assert_close(actual, eager_attention_forward(*arguments)[0])


def test_weights_by_columns_are_the_same():
    torch.manual_seed(0)
    tied, linear = torch.nn.Embedding(7, 5), torch.nn.Linear(5, 6)
    head = torch.nn.Linear(5, 7, bias=False)
    head.weight = tied.weight
    module = torch.nn.ModuleList([tied, linear, head])
    x, expected = torch.randn(3, 5), {name: value.clone() for name, value in module.state_dict().items()}
    before = linear(x)
    store_by_columns(module)
    assert linear.weight.stride() == (1, 6)
    assert head.weight is tied.weight
    assert tied.weight.is_contiguous()
    assert all(torch.equal(value, expected[name]) for name, value in module.state_dict().items())
    torch.testing.assert_close(linear(x), before)
