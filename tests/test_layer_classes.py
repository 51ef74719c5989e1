"""Layers of torch stay what they say: adapters and quantizers put their own in the place of each, by its class."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from tiny import CASES
from torch import nn

import josie

LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Embedding)


class Twice(nn.Module):
    """Stand-in for a layer that does more: it gives twice as much, as an adapter of the same weights would."""

    def __init__(self, layer: nn.Module):
        super().__init__()
        self.base_layer = layer

    def __getattr__(self, name: str) -> Any:
        return super().__getattr__(name) if name == "base_layer" else getattr(self.base_layer, name)

    def forward(self, *args: Any) -> torch.Tensor:
        return 2 * self.base_layer(*args)


def subclasses(layer: type) -> Iterator[type]:
    for each in layer.__subclasses__():
        yield each
        yield from subclasses(each)


def test_no_layer_does_other_than_its_class_of_torch():
    ours = {each for layer in LAYERS for each in subclasses(layer) if each.__module__.startswith("josie.")}
    assert not [each.__name__ for each in ours if each.forward not in [layer.forward for layer in LAYERS]]


def run(model: Any, inputs: dict[str, torch.Tensor], in_stream: bool) -> torch.Tensor:
    if in_stream:
        chunk = inputs["input_values"]
        return model.encode(chunk, use_streaming=True, is_final=True).audio_features
    if isinstance(model, josie.JovioModel):
        return model(**inputs).pixel_values
    return model(**inputs).last_hidden_state


@pytest.mark.parametrize(
    ("name", "in_stream"),
    [
        ("vision-encoder-stem", False),
        ("audio-encoder", False),
        ("audio-encoder-causal", False),
        ("audio-encoder-causal", True),
        ("jovio", False),
        ("jovio-causal", False),
    ],
)
@torch.no_grad()
def test_what_stands_for_a_convolution_is_asked(name, in_stream):
    wrapped, scaled, inputs = CASES[name].build(), CASES[name].build(), CASES[name].inputs()
    places = [place for place, part in wrapped.named_modules() if isinstance(part, (nn.Conv2d, nn.Conv3d))]
    assert places
    before = run(wrapped, inputs, in_stream)
    for place in places:
        parent, _, child = place.rpartition(".")
        setattr(wrapped.get_submodule(parent), child, Twice(wrapped.get_submodule(place)))
        for weight in scaled.get_submodule(place).parameters():
            weight.mul_(2)
    after = run(wrapped, inputs, in_stream)
    torch.testing.assert_close(after, run(scaled, inputs, in_stream), atol=1e-5, rtol=1e-4)
    assert not torch.allclose(after, before, atol=1e-3)
