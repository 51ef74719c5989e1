"""Fast forms of operations equal their naive forms, in values and gradients."""

import pytest
import torch

from josie.modeling_josie.layers.fast import naive_rms_norm, rms_norm


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
