"""`torch.compile`: one graph each for what runs once a token, a frame or a code, and no new one at every step."""

import shutil

import pytest
import torch
from tiny import CASES, talker_inputs, text_inputs, thinker_inputs
from transformers import StaticCache

from josie.modeling_josie.talker.decoding import CodeSampler, StepLoop

TALKERS = ["talker-depth", "talker-parallel"]


@pytest.fixture(autouse=True)
def fresh():
    """Forget compiled graphs before and after every test."""
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.fixture
def graphs():
    """A backend that runs graphs as they are and counts them; their being one is checked by `fullgraph=True`."""
    from torch._dynamo.testing import CompileCounter  # which takes long

    return CompileCounter()


@pytest.mark.slow
@pytest.mark.parametrize("given", [text_inputs, thinker_inputs], ids=["text", "images and clips"])
def test_the_thinker_is_one_graph(given, graphs):
    # In double precision, whose bounds are tighter: sums of another order can cost float32 more than its own allow.
    inputs = {name: value.double() if value.is_floating_point() else value for name, value in given().items()}
    model = CASES["thinker"].build().double()
    compiled = torch.compile(model, backend=graphs, fullgraph=True)
    expected, actual = model(**inputs), compiled(**inputs)
    torch.testing.assert_close(actual.logits, expected.logits)
    if "labels" in inputs:
        torch.testing.assert_close(actual.loss, expected.loss)
    assert graphs.frame_count == 1


@pytest.mark.parametrize("name", TALKERS)
def test_the_talker_learns_in_one_graph(name, graphs):
    inputs = talker_inputs()
    models = [CASES[name].build().train() for _ in range(2)]
    compiled = torch.compile(models[1], backend=graphs, fullgraph=True)
    losses = [model(**inputs).loss for model in (models[0], compiled)]
    for loss in losses:
        loss.backward()
    torch.testing.assert_close(losses[1], losses[0])
    assert graphs.frame_count == 1
    for (name, ours), (_, theirs) in zip(models[0].named_parameters(), models[1].named_parameters(), strict=True):
        torch.testing.assert_close(theirs.grad, ours.grad, msg=name)


@torch.no_grad()
def test_the_thinkers_step_is_compiled_once(graphs):
    model = CASES["thinker"].build()
    ids = torch.randint(10, 53, (2, 12))
    expected = model(ids, use_cache=False).logits
    compiled = torch.compile(model, backend=graphs, fullgraph=True)
    cache = StaticCache(config=model.config.get_text_config(), max_cache_len=17)
    pieces = [model(ids[:, :5], cache=cache).logits]
    pieces += [compiled(ids[:, index : index + 1], cache=cache).logits for index in range(5, 12)]
    torch.testing.assert_close(torch.cat(pieces, dim=1), expected, rtol=1e-4, atol=1e-4)
    assert graphs.frame_count == 1


@torch.no_grad()
def test_the_talkers_step_is_compiled_once(graphs):
    model = CASES["talker-depth"].build().model
    frames = torch.randn(2, 9, 30)
    expected = model(frames, use_cache=False).last_hidden_state
    compiled = torch.compile(model, backend=graphs, fullgraph=True)
    cache = StaticCache(config=model.config, max_cache_len=13)
    pieces = [model(frames[:, :1], cache=cache).last_hidden_state]
    pieces += [compiled(frames[:, i : i + 1], cache=cache).last_hidden_state for i in range(1, 9)]
    torch.testing.assert_close(torch.cat(pieces, dim=1), expected, rtol=1e-4, atol=1e-4)
    assert graphs.frame_count == 1


@torch.no_grad()
def test_the_loop_of_generation_is_compiled_for_its_first_step_and_for_all_others(graphs):
    model = CASES["talker-depth"].build().model
    frames = torch.randn(2, 9, 30)
    expected = model(frames, use_cache=False).last_hidden_state
    loop = StepLoop(model, 2, 13, frames)
    step = torch.compile(loop.step, backend=graphs, fullgraph=True)
    actual = torch.cat([step(frames[:, index : index + 1]) for index in range(9)], dim=1)
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)
    assert graphs.frame_count == 2


@torch.no_grad()
@pytest.mark.parametrize("name", TALKERS)
def test_the_loop_over_quantizers_is_one_graph_for_all_frames(name, graphs):
    decoder = CASES[name].build().depth_decoder
    states, firsts = torch.randn(5, 2, 30), torch.randint(0, 11, (5, 2))
    sampler, loop = CodeSampler(), decoder.make_loop(2, states)
    expected = [decoder.generate(state, first, sampler, loop) for state, first in zip(states, firsts, strict=True)]
    compiled = torch.compile(decoder.generate, backend=graphs, fullgraph=True)
    actual = [compiled(state, first, sampler, loop) for state, first in zip(states, firsts, strict=True)]
    assert torch.equal(torch.stack(actual), torch.stack(expected))
    assert graphs.frame_count == 1


def test_speech_is_the_same_with_a_compiled_loop_over_quantizers(graphs):
    model, inputs = CASES["talker-depth"].build(), talker_inputs()
    inputs.pop("speech_codes")
    expected = [model.generate(**inputs, max_new_frames=frames).audio_codes for frames in (6, 9)]
    model.depth_decoder.generate = torch.compile(model.depth_decoder.generate, backend=graphs, fullgraph=True)
    for frames, codes in zip((6, 9), expected, strict=True):
        assert torch.equal(model.generate(**inputs, max_new_frames=frames).audio_codes, codes)
    assert graphs.frame_count == 1


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="the inductor needs a C++ compiler")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch's own modules, while they are imported
@torch.no_grad()
def test_the_inductors_code_chooses_the_same_codes():
    decoder = CASES["talker-depth"].build().depth_decoder
    states, firsts = torch.randn(2, 30), torch.tensor([4, 7])
    sampler, loop = CodeSampler(), decoder.make_loop(2, states)
    expected = decoder.generate(states, firsts, sampler, loop)
    compiled = torch.compile(decoder.generate, fullgraph=True)
    assert torch.equal(compiled(states, firsts, sampler, loop), expected)
