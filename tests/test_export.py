"""`torch.export`: programs of single steps give what the models give, at sizes they were not traced with."""

import io

import pytest
import torch
from tiny import CASES, JODIO, JODIO_MEL, build, talker_inputs, text_inputs
from transformers import DynamicCache

import josie

HOP, FRAMES = 6, 12
CODEC = dict(JODIO, channels=[6, 7, 8], upsampling_ratios=[2, 3], num_residual_layers=1)
MEL_DOMAIN = dict(JODIO_MEL, n_fft=8, mel_hop_length=2, mel_lookahead=3, channels=[6, 8], upsampling_ratios=[3])
TALKERS = ["talker-depth", "talker-parallel", "talker-durations"]


@pytest.fixture(scope="module", params=[CODEC, MEL_DOMAIN], ids=["waveform", "mel"])
def codec(request):
    return build(josie.JodioModel, josie.JodioConfig(**request.param))


def program_of(step):
    """Return the module of a step's program, after a round trip through a file."""
    file = io.BytesIO()
    torch.export.save(step.export(), file)
    file.seek(0)
    return torch.export.load(file).module()


@pytest.fixture(scope="module")
def encode_step(codec):
    step = josie.JodioEncodeStep(codec)
    return step, program_of(step)


@pytest.fixture(scope="module")
def decode_step(codec):
    step = josie.JodioDecodeStep(codec, frames=3)
    return step, program_of(step)


@pytest.fixture(scope="module", params=TALKERS)
def talker_steps(request):
    talker = CASES[request.param].build()
    steps = josie.TalkerStep(talker), josie.TalkerDepthLoop(talker)
    return talker, steps[0], *map(program_of, steps)


@torch.no_grad()
def stream(step, program, values, hop=1):
    """Return what a program makes of `values`, whose last axis goes in step by step."""
    state, pieces = list(step.initial_state(values.shape[0]).values()), []
    for chunk in values.split(hop * step.frames, dim=-1):
        piece, *state = program(chunk, *state)
        pieces.append(piece)
    return torch.cat(pieces, dim=-1), state


@pytest.mark.slow
@pytest.mark.parametrize("batch_size", [1, 4])
def test_programs_stream_what_the_codec_makes_of_the_whole(codec, encode_step, decode_step, batch_size):
    waveform = 0.3 * torch.randn(batch_size, 1, HOP * FRAMES)
    codes = codec.encode(waveform).audio_codes
    assert torch.equal(stream(*encode_step, waveform, HOP)[0], codes)
    audio_values, state = stream(*decode_step, codes)
    torch.testing.assert_close(audio_values, codec.decode(codes).audio_values, rtol=1e-4, atol=1e-5)
    assert [part.shape for part in state] == [part.shape for part in decode_step[0].initial_state(batch_size).values()]


@torch.no_grad()
def test_a_row_of_zeros_begins_a_new_stream(codec, decode_step):
    step, program = decode_step
    codes = torch.randint(0, 11, (2, 3, FRAMES))
    _, (contexts, past, num_frames) = stream(step, program, codes[..., :6])
    contexts[1], past[:, 1], num_frames[1] = 0, 0, 0
    audio_values, *_ = program(codes[..., 6:9], contexts, past, num_frames)
    whole = codec.decode(codes).audio_values[..., 6 * HOP : 9 * HOP]
    torch.testing.assert_close(audio_values[0], whole[0], rtol=1e-4, atol=1e-5)
    anew = codec.decode(codes[1:, :, 6:9]).audio_values
    torch.testing.assert_close(audio_values[1:], anew, rtol=1e-4, atol=1e-5)


def test_a_codec_without_a_window_needs_one_for_its_steps(codec):
    with pytest.raises(ValueError, match="`context_frames` must be None where the transformer has a window, got 5"):
        josie.JodioEncodeStep(codec, context_frames=5)
    endless = dict(CODEC["decoder_config"], sliding_window=None)
    model = build(josie.JodioModel, josie.JodioConfig(**dict(CODEC, decoder_config=endless)))
    with pytest.raises(ValueError, match="`context_frames` must be at least 1, as there is no window, got None"):
        josie.JodioDecodeStep(model)
    with pytest.raises(ValueError, match="`frames` must be at least 1, got 0"):
        josie.JodioDecodeStep(codec, frames=0)
    codes = torch.randint(0, 11, (2, 3, FRAMES))
    step = josie.JodioDecodeStep(model, frames=5, context_frames=FRAMES)
    audio_values, _ = stream(step, step, codes)
    torch.testing.assert_close(audio_values, model.decode(codes).audio_values, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("batch_size", [1, 2])
@torch.no_grad()
def test_programs_speak_what_the_talker_speaks(talker_steps, batch_size):
    talker, step, program, depth_program = talker_steps
    inputs = {name: value[:batch_size] for name, value in talker_inputs().items() if name != "speech_codes"}
    expected = talker.generate(**inputs, max_new_frames=9, min_new_frames=9).audio_codes
    states, embeds, mask = (inputs[f"thinker_{name}"] for name in ("hidden_states", "embeds", "mask"))
    num_tokens, config = states.shape[1], talker.config
    tokens = torch.arange(config.speech_delay + 9).expand(batch_size, -1) // config.frames_per_token
    places = None
    if talker.durations is not None:
        given = torch.cat((states, embeds), dim=-1)
        tokens, places = talker.durations.expand(talker.durations(given, mask), config.speech_delay + 9)
    rows = torch.arange(batch_size)
    past = step.initial_past(batch_size, inputs["speaker_ids"])
    codes, frames = torch.full((batch_size, config.num_quantizers), config.codebook_size), []
    noise = torch.zeros(batch_size, config.num_quantizers - 1, config.codebook_size)
    for index in range(config.speech_delay + 9):
        token = tokens[:, index].clamp(max=num_tokens - 1)
        has_text = mask[rows, token].bool() & (tokens[:, index] < num_tokens)
        where = () if places is None else (places[:, index],)
        logits, state, past = program(codes, states[rows, token], embeds[rows, token], has_text, past, *where)
        if index >= config.speech_delay:
            logits[:, config.end_of_speech_id] = -torch.inf
            codes = depth_program(state, logits.argmax(-1), noise)
            frames.append(codes)
    assert torch.equal(torch.stack(frames, dim=2), expected)


@torch.no_grad()
def test_noise_draws_from_the_distribution_of_the_logits(talker_steps):
    talker, _, _, program = talker_steps
    rows, temperature = 1000, 1.7
    states, first = torch.randn(1, 30).expand(rows, -1), torch.full((rows,), 4)
    gumbel = -torch.log(-torch.log(torch.rand(rows, 2, 11).clamp(1e-9, 1 - 1e-7)))
    drawn = program(states, first, temperature * gumbel)[:, 1]
    logits = talker.depth_decoder(states[:1], torch.tensor([[4, 0]]))[0][0]
    expected = (logits / temperature).softmax(-1)
    shares = torch.bincount(drawn, minlength=11) / rows
    assert (shares - expected).abs().max() < 0.05


def test_one_quantizer_needs_no_loop():
    config = josie.JosieTalkerConfig(hidden_size=18, num_hidden_layers=1, num_attention_heads=3, num_quantizers=1)
    with pytest.raises(ValueError, match="`num_quantizers` must be at least 2 for a loop over quantizers, got 1"):
        josie.TalkerDepthLoop(josie.JosieTalkerForConditionalGeneration(config))


@pytest.mark.slow
@torch.no_grad()
def test_transformers_exports_the_thinker():
    exporters = pytest.importorskip("transformers.exporters", reason="this transformers has no exporters")
    model = CASES["thinker"].build()
    config = exporters.DynamoConfig(dynamic=True)
    exported = exporters.DynamoExporter().export_for_generation(model, text_inputs(), config=config)
    prompt, step = (exported.components[name].program.module() for name in ("prefill", "decode"))
    for batch_size, length in ((3, 6), (2, 13)):
        ids = torch.randint(10, 53, (batch_size, length))
        mask = torch.ones_like(ids)
        mask[0, :2] = 0
        written = model.generate(ids, attention_mask=mask, max_new_tokens=5, min_new_tokens=5)
        position_ids = (mask.cumsum(1) - 1).clamp(min=0)
        given = dict(attention_mask=mask, position_ids=position_ids)
        output = prompt(input_ids=ids, cache=DynamicCache(config=model.config.get_text_config()), **given)
        for index in range(length, length + 5):
            logits = output.logits[:, -1]
            logits[:, [2, 6, 7, 8]] = -torch.inf
            assert torch.equal(logits.argmax(-1), written[:, index])
            given = dict(
                attention_mask=torch.ones(batch_size, index + 1, dtype=torch.long),
                position_ids=position_ids[:, -1:] + index + 1 - length,
            )
            given["attention_mask"][0, :2] = 0
            output = step(input_ids=written[:, index : index + 1], cache=output.cache, **given)


@pytest.mark.parametrize("make", ["JodioEncodeStep", "JodioDecodeStep", "TalkerStep", "TalkerDepthLoop"])
@pytest.mark.filterwarnings("ignore")  # of the converter, about itself
@torch.no_grad()
def test_onnxruntime_gives_what_the_step_gives(codec, make):
    pytest.importorskip("onnxscript", reason="ONNX needs onnxscript and onnxruntime")
    runtime = pytest.importorskip("onnxruntime", reason="ONNX needs onnxscript and onnxruntime")
    step = getattr(josie, make)(codec if make.startswith("Jodio") else CASES["talker-depth"].build())
    program = torch.onnx.export(step.export(), dynamo=True, verbose=False)
    session = runtime.InferenceSession(program.model_proto.SerializeToString())
    inputs = step.example_inputs(batch_size=2)
    for name, value in inputs.items():
        if value.is_floating_point():
            inputs[name] = 0.3 * torch.randn_like(value)
    if "past" in inputs and make == "TalkerStep":
        inputs["past"] = 0.3 * torch.randn(*inputs["past"].shape[:3], 5, inputs["past"].shape[4])
    names = [given.name for given in session.get_inputs()]
    answers = session.run(None, {name: value.numpy() for name, value in inputs.items() if name in names})
    expected = step.eval()(*inputs.values())
    expected = expected if isinstance(expected, tuple) else (expected,)
    for ours, theirs in zip(answers, expected, strict=True):
        torch.testing.assert_close(torch.from_numpy(ours), theirs, rtol=1e-3, atol=1e-4)
