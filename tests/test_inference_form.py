"""Laws of the inference form of codecs: equal results, equal checkpoints, undone by all that changes weights."""

import copy
import pickle
from collections.abc import Callable

import pytest
import torch
from test_jodio import BOTH_DOMAINS, make_audio, make_model
from tiny import CASES, JODIO, josie_config
from torch import nn

from josie import JosieForConditionalGeneration
from josie.configuration_josie import JosieCodecConfig
from josie.modeling_josie.codecs import jodio
from josie.modeling_josie.codecs.codebook import VectorQuantizer
from josie.modeling_josie.codecs.convolution import CausalConv1d, CausalConvTranspose1d
from josie.modeling_josie.codecs.inference import HasInferenceForm

CODECS = ["jodio", "jodio-mel", "mel-codec", "jovio-causal"]
MODULES = ["strided", "transposed", "ema", "gradient"]


def build(kind: str) -> tuple[HasInferenceForm, str, Callable[[nn.Module], torch.Tensor]]:
    """Return a module, the name of the weight of which it has a form, and what it does."""
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


def load(module: nn.Module, name: str, assign: bool = False) -> None:
    state = {key: value.clone() for key, value in module.state_dict().items()}
    state[name] = state[name].flip(-1) * 2 + 0.3
    module.load_state_dict(state, assign=assign)


def train_one_step(module: nn.Module, name: str) -> None:
    module.train()
    weight = getattr(module, name)
    if isinstance(weight, nn.Parameter):
        weight.grad = torch.randn_like(weight)
        torch.optim.AdamW([weight], lr=0.5).step()
        weight.grad = None
    else:
        module.update(torch.randn(40, 5) + 3, torch.arange(40) % 11, torch.ones(40))
    module.eval()


def edit_and_prepare(module: nn.Module, name: str) -> None:
    with torch.no_grad():
        getattr(module, name)[..., 1].mul_(3).add_(0.5)
    module.keep_form()


def first(form: torch.Tensor | tuple[torch.Tensor, ...]) -> torch.Tensor:
    return form[0] if isinstance(form, tuple) else form


CHANGES = {
    "loaded": load,
    "loaded by assignment": lambda module, name: load(module, name, assign=True),
    "trained": train_one_step,
    "cast": lambda module, name: module.to(torch.float64),
    "cast there and back": lambda module, name: module.bfloat16().float(),
    "edited, then prepared again": edit_and_prepare,
}


@pytest.mark.parametrize("kind", MODULES)
@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_a_change_of_the_weight_is_seen(kind, change, mode):
    module, name, run = build(kind)
    with mode():
        before = run(module)
        module.keep_form()
        assert torch.equal(run(module), before)
    kept = first(module._form)
    CHANGES[change](module, name)
    with mode():
        assert torch.equal(run(module), run(copy.deepcopy(module)))
        assert not torch.equal(first(module.get_form()).to(kept.dtype), kept) or change == "cast"


def test_an_update_outside_of_training_mode_is_seen():
    quantizer, _, run = build("ema")
    quantizer.keep_form()
    quantizer.update(torch.randn(40, 5) + 3, torch.arange(40) % 11, torch.ones(40))
    assert not quantizer.has_form
    quantizer.keep_form()
    quantizer.initialize_by_kmeans(torch.randn(40, 5), torch.ones(40))
    assert not quantizer.has_form
    assert torch.equal(run(quantizer), run(copy.deepcopy(quantizer)))


@pytest.mark.parametrize("kind", MODULES)
def test_it_is_no_part_of_a_state_or_a_copy(kind):
    module, _, run = build(kind)
    names, expected = set(module.state_dict()), run(module)
    module.keep_form()
    assert set(module.state_dict()) == names
    for twin in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert not twin.has_form
        assert torch.equal(run(twin), expected)


@pytest.mark.parametrize("kind", ["strided", "transposed"])
def test_gradients_reach_the_norm(kind):
    module, name, run = build(kind)
    module.keep_form()
    run(module).square().sum().backward()
    direction = getattr(module, name)
    # The output does not depend on the length of the weight, so its gradient is at right angles to it.
    along = (direction.grad * direction.detach()).sum((0, 2, 3))
    torch.testing.assert_close(along, torch.zeros_like(along), rtol=0, atol=1e-4)
    assert module.weight_scale.grad.abs().sum() > 0


@pytest.mark.parametrize("prepared", [False, True])
def test_a_compiled_module_gives_the_same(prepared):
    module, _, run = build("strided")
    samples = torch.randn(2, 6, 3)
    with torch.no_grad():
        expected = run(module)
        if prepared:
            module.keep_form()
        compiled = torch.compile(module, backend="eager", fullgraph=True)
        torch.testing.assert_close(compiled(samples)[0], module(samples)[0])
        module.weight_scale.mul_(2)
        module.drop_form()
        torch.testing.assert_close(compiled(samples)[0], module(samples)[0])
        assert not torch.equal(run(module), expected)


def run_both_ways(model: nn.Module, inputs: dict[str, torch.Tensor]) -> list[torch.Tensor]:
    encoded = model.encode(**inputs)
    if "pixel_values" in inputs:
        return [encoded.vision_codes, model.decode(encoded.vision_codes, encoded.grid_thw).pixel_values]
    return [encoded.audio_codes, model.decode(encoded.audio_codes).audio_values]


@pytest.mark.parametrize("name", CODECS)
@torch.no_grad()
def test_a_prepared_codec_gives_the_same_and_saves_the_same(name, tmp_path):
    model, inputs = CASES[name].build(), CASES[name].inputs()
    expected = run_both_ways(model, inputs)
    weights = {key: value.clone() for key, value in model.state_dict().items()}
    assert model.prepare_for_inference() is model
    assert any(isinstance(part, HasInferenceForm) and part.has_form for part in model.modules())
    for actual, value in zip(run_both_ways(model, inputs), expected, strict=True):
        assert torch.equal(actual, value)
    model.save_pretrained(tmp_path)
    loaded = type(model).from_pretrained(tmp_path).state_dict()
    assert loaded.keys() == weights.keys()
    assert all(torch.equal(loaded[key], value) for key, value in weights.items())
    model.train()
    assert not any(isinstance(part, HasInferenceForm) and part.has_form for part in model.modules())


@BOTH_DOMAINS
@torch.no_grad()
def test_a_prepared_stream_is_the_plain_one_to_the_bit(domain):
    model, audio = make_model(**domain), make_audio(2, 1, 120)
    outputs = []
    for _ in range(2):
        state, codes, values = None, [], []
        for chunk in audio.split(17, dim=-1):
            output = model.encode(chunk, streaming_state=state, use_streaming=True)
            state = output.streaming_state
            codes.append(output.audio_codes)
        state = None
        for chunk in codes:
            output = model.decode(chunk, streaming_state=state, use_streaming=True)
            state = output.streaming_state
            values.append(output.audio_values)
        outputs.append((torch.cat(codes, dim=-1), torch.cat(values, dim=-1)))
        model.prepare_for_inference()
    assert all(map(torch.equal, *outputs))


@torch.no_grad()
def test_a_whole_model_prepares_its_codecs():
    torch.manual_seed(0)
    model = JosieForConditionalGeneration(josie_config(audio_codec_config=JODIO)).eval()
    codec = model.audio_codec
    codes = torch.randint(0, codec.codebook_size, (1, codec.num_quantizers, 5))
    expected = model.audio_codec.decode(codes).audio_values
    assert model.prepare_for_inference() is model
    assert model.talker.head.weight.stride() == (1, len(model.talker.head.weight))
    formed = [part.has_form for part in model.modules() if isinstance(part, HasInferenceForm)]
    assert formed
    assert all(formed)
    assert torch.equal(model.audio_codec.decode(codes).audio_values, expected)
    model.train()  # the codecs stay in evaluation mode, and prepared
    assert torch.equal(model.audio_codec.decode(codes).audio_values, expected)


@BOTH_DOMAINS
@torch.no_grad()
def test_a_slow_stream_says_so_once(domain, monkeypatch):
    model, said = make_model(**domain), []
    monkeypatch.setattr(jodio.logger, "warning_once", said.append)
    codes = torch.randint(0, 32, (1, 4, 5))
    model.decode(codes)
    assert not said
    model.decode(codes, use_streaming=True)
    assert said == ["A stream of an unprepared JODIO is slow: call `prepare_for_inference()` first."] * bool(domain)
    model.prepare_for_inference().decode(codes, use_streaming=True)
    assert len(said) == bool(domain)


@pytest.mark.parametrize("name", CODECS)
def test_training_mode_is_refused(name):
    with pytest.raises(ValueError, match="`prepare_for_inference` must be called in evaluation mode"):
        CASES[name].build().train().prepare_for_inference()


def test_gradients_flow_through_a_prepared_codec():
    gradients = []
    for prepare in (False, True):
        model = make_model()
        codes = torch.randint(0, 32, (1, 4, 5), generator=torch.Generator().manual_seed(0))
        (model.prepare_for_inference() if prepare else model).decode(codes).audio_values.square().sum().backward()
        gradients.append(model.decoder.layers[0].weight_direction.grad)
    assert gradients[0].abs().sum() > 0
    assert torch.equal(*gradients)
