"""Codecs whose weights are not there as plain tensors: offloaded by accelerate, or packed by a quantizer."""

from typing import Any

import pytest
import torch
from accelerate import cpu_offload
from tiny import CASES, JODIO, JODIO_MEL, JOVIO, MEL_CODEC, josie_config
from torch import nn
from transformers import AutoModelForMultimodalLM

import josie
from josie.modeling_josie.layers.offloading import copy_plainly, find_device

CODECS = ["jodio", "jodio-mel", "mel-codec", "jovio", "jovio-causal"]
WAYS = ["disk", "disk, buffers too", "cpu"]


def load_offloaded(folder: Any, model_class: Any, way: str, place: str = "") -> Any:
    """Return a model of a folder, of which one place is offloaded."""
    if way == "cpu":
        model = model_class.from_pretrained(folder)
        cpu_offload(model.get_submodule(place), execution_device=torch.device("cpu"), offload_buffers=True)
        return model
    parts = ("thinker", "talker", "audio_codec", *(["vision_codec"] if place == "vision_codec" else []))
    places = dict.fromkeys(parts, "cpu") if place else {}
    options = {"offload_folder": folder / "offloaded", "offload_buffers": way != "disk"}
    return model_class.from_pretrained(folder, device_map=places | {place: "disk"}, **options)


def run_codec(codec: Any, inputs: dict[str, torch.Tensor]) -> list[torch.Tensor]:
    """Return codes and what they decode to, of the whole and in a stream where there are any."""
    encoded = codec.encode(**inputs)
    if "pixel_values" not in inputs:
        found = [encoded.audio_codes, codec.decode(encoded.audio_codes).audio_values]
        if codec.config.model_type == "jodio":
            stream = codec.encode(inputs["input_values"], use_streaming=True, is_final=True)
            found += [stream.audio_codes, codec.decode(stream.audio_codes, use_streaming=True).audio_values]
        return found
    found = [encoded.vision_codes, codec.decode(encoded.vision_codes, encoded.grid_thw).pixel_values]
    if codec.config.causal_time:
        stream = codec.encode(inputs["pixel_values"], use_streaming=True, is_final=True)
        decoded = codec.decode(stream.vision_codes, stream.grid_thw, use_streaming=True)
        found += [stream.vision_codes, decoded.pixel_values]
    return found


def assert_same(actual: list[torch.Tensor], expected: list[torch.Tensor]) -> None:
    assert len(actual) == len(expected)
    assert all(map(torch.equal, actual, expected))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", CODECS)
@torch.no_grad()
def test_an_offloaded_codec_gives_the_same(name, way, tmp_path):
    model, inputs = CASES[name].build(), CASES[name].inputs()
    model.save_pretrained(tmp_path)
    expected = run_codec(model, inputs)
    loaded = load_offloaded(tmp_path, type(model), way)
    assert all(weight.is_meta for weight in loaded.parameters())
    assert find_device(loaded) == torch.device("cpu")
    assert_same(run_codec(loaded, inputs), expected)
    assert_same(run_codec(loaded.prepare_for_inference(), inputs), expected)
    assert all(weight.is_meta for weight in loaded.parameters())


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("codec", [JODIO, JODIO_MEL, MEL_CODEC], ids=["jodio", "jodio-mel", "mel-codec"])
def test_an_offloaded_codec_speaks_alike(codec, way, tmp_path):
    torch.manual_seed(0)
    model = josie.JosieForConditionalGeneration(josie_config(audio_codec_config=codec)).eval()
    model.save_pretrained(tmp_path)
    ids, options = torch.randint(10, 53, (2, 4)), dict(max_new_tokens=3, talker_max_new_frames=5)

    def speak(model: Any) -> list[torch.Tensor]:
        said = [model.generate(ids, generation_mode="audio", **options).audio_values]
        if codec["model_type"] == "jodio":
            said += [piece.audio_values for piece in model.generate_stream(ids[:1], **options)]
        return said

    loaded = load_offloaded(tmp_path, AutoModelForMultimodalLM, way, "audio_codec")
    for actual, expected in zip(speak(loaded), speak(model), strict=True):
        torch.testing.assert_close(actual, expected, atol=1e-6, rtol=1e-5)
    assert all(weight.is_meta for weight in loaded.audio_codec.parameters())


@torch.no_grad()
def test_an_offloaded_codec_sees_alike(tmp_path):
    model, inputs = CASES["josie-codes"].build(), CASES["josie-codes"].inputs()
    model.save_pretrained(tmp_path)
    loaded = load_offloaded(tmp_path, AutoModelForMultimodalLM, "disk", "vision_codec")
    pixels = torch.rand(1, 3, 2 * JOVIO["patch_size"], JOVIO["patch_size"])
    assert_same([loaded(**inputs).logits], [model(**inputs).logits])
    ours, theirs = (each.get_image_features(pixels).last_hidden_state for each in (loaded, model))
    assert torch.equal(ours, theirs)


@pytest.mark.parametrize("way", ["disk", "cpu"])
def test_a_model_that_is_offloaded_whole_says_a_text(way, tmp_path):
    torch.manual_seed(0)
    config = josie_config(audio_codec_config=JODIO)
    config.talker_config.speakers = ["a", "b"]
    model = josie.JosieForConditionalGeneration(config).eval()
    model.save_pretrained(tmp_path)
    loaded = load_offloaded(tmp_path, AutoModelForMultimodalLM, way)
    said = (
        each.generate_speech(torch.tensor([[20, 21, 22]]), speaker="b", talker_max_new_frames=5).audio_values
        for each in (loaded, model)
    )
    torch.testing.assert_close(*said, atol=1e-6, rtol=1e-5)


class Packed(torch.Tensor):
    """Weights in bytes with a scale, as quantizers wrap them: no copy of it can be made."""

    values: torch.Tensor
    scale: torch.Tensor

    @staticmethod
    def __new__(cls, values: torch.Tensor, scale: torch.Tensor):
        return torch.Tensor._make_wrapper_subclass(cls, values.shape, dtype=scale.dtype)

    def __init__(self, values: torch.Tensor, scale: torch.Tensor):
        self.values, self.scale = values, scale

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (torch.ops.aten.detach.default, torch.ops.aten.alias.default):
            return cls(args[0].values, args[0].scale)
        raise NotImplementedError(f"Packed has no {func}.")

    def __deepcopy__(self, memo: Any) -> Any:
        raise NotImplementedError("Packed cannot be copied.")

    def dequantize(self) -> torch.Tensor:
        return self.values * self.scale


@torch.no_grad()
def test_packed_weights_decode_as_what_they_stand_for():
    plain, packed = CASES["jodio-mel"].build(), CASES["jodio-mel"].build()
    layers = [(name, part) for name, part in packed.decoder_transformer.named_modules() if isinstance(part, nn.Linear)]
    assert layers
    for name, part in layers:
        scale = part.weight.abs().amax() / 127
        values = (part.weight / scale).round().to(torch.int8)
        part.weight = nn.Parameter(Packed(values, scale), requires_grad=False)
        plain.decoder_transformer.get_submodule(name).weight.copy_(values * scale)
    assert isinstance(layers[0][1].weight, Packed)
    codes = torch.randint(0, plain.codebook_size, (1, plain.num_quantizers, 4))
    expected = plain.decode(codes).audio_values
    assert torch.equal(packed.decode(codes).audio_values, expected)
    assert torch.equal(packed.prepare_for_inference().decode(codes).audio_values, expected)


def test_a_plain_copy_is_one_of_its_own():
    layer = nn.Linear(3, 2)
    copied = copy_plainly(layer, torch.float64)
    assert copied.weight.dtype == torch.float64
    assert torch.equal(copied.weight.float(), layer.weight)
    assert type(copied) is nn.Linear
    assert copy_plainly(layer).weight.data_ptr() != layer.weight.data_ptr()
