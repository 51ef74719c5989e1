"""Laws of JODIO's streams: any chunking gives the whole, memory is bounded, and the latency is what is stated."""

import gc
import random

import pytest
import torch
from test_jodio import BOTH_DOMAINS, HOP, long, make_audio, make_model
from torch.utils._python_dispatch import TorchDispatchMode

from josie.modeling_josie.codecs import jodio
from josie.modeling_josie.codecs.streaming import JodioStreamingState


def draw_chunks(total: int, sizes: list[int], seed: int) -> list[slice]:
    generator, start, chunks = random.Random(seed), 0, []
    while start < total:
        size = generator.choice(sizes)
        chunks.append(slice(start, min(start + size, total)))
        start += size
    return chunks


@BOTH_DOMAINS
@pytest.mark.parametrize("window", [None, 1, 2, 5])
@pytest.mark.parametrize("seed", range(4))
@torch.no_grad()
def test_a_stream_equals_the_whole(window, seed, domain):
    model, audio = make_model(window, **domain), make_audio(2, 1, 203)
    whole = model.encode(audio)
    state, codes = None, []
    chunks = draw_chunks(203, [0, 1, 5, 6, 7, 40], seed)
    for index, chunk in enumerate(chunks):
        final = index == len(chunks) - 1
        output = model.encode(audio[..., chunk], streaming_state=state, use_streaming=True, is_final=final)
        state = output.streaming_state
        codes.append(output.audio_codes)
    assert state is None
    assert torch.equal(torch.cat(codes, dim=-1), whole.audio_codes)
    values = []
    for chunk in draw_chunks(whole.audio_codes.shape[-1], [0, 1, 2, 9], seed):
        output = model.decode(whole.audio_codes[..., chunk], streaming_state=state, use_streaming=True)
        state = output.streaming_state
        values.append(output.audio_values)
    expected = model.decode(whole.audio_codes).audio_values
    torch.testing.assert_close(torch.cat(values, dim=-1), expected, atol=1e-5, rtol=0)


@BOTH_DOMAINS
@torch.no_grad()
def test_a_state_is_never_changed(domain):
    model, audio = make_model(**domain), make_audio(2, 1, 120)
    state = model.encode(audio[..., :50], use_streaming=True).streaming_state
    runs = [model.encode(audio[..., 50:], streaming_state=state).audio_codes for _ in range(2)]
    assert torch.equal(*runs)
    assert state.num_frames == 8
    assert state.cache.get_seq_length() == 8


@torch.no_grad()
def test_the_memory_of_a_stream_is_bounded():
    model, state = make_model(window=5), None
    for _ in range(4):
        state = model.encode(make_audio(1, 1, 20 * HOP), streaming_state=state, use_streaming=True).streaming_state
    assert all(layer.keys.shape[-2] == 4 for layer in state.cache.layers)


@BOTH_DOMAINS
@pytest.mark.parametrize("window", [None, 5])
@torch.no_grad()
def test_a_row_that_is_reset_begins_anew(window, domain):
    model, audio = make_model(window, **domain), make_audio(3, 1, 20 * HOP)
    state = model.encode(audio[..., : 7 * HOP], use_streaming=True).streaming_state
    state = state.reset_rows(torch.tensor([False, True, False]))
    codes = []
    for chunk in (slice(7 * HOP, 12 * HOP), slice(12 * HOP, 20 * HOP)):
        output = model.encode(audio[..., chunk], streaming_state=state)
        state = output.streaming_state
        codes.append(output.audio_codes)
    codes, whole = torch.cat(codes, dim=-1), model.encode(audio).audio_codes[..., 7:]
    assert torch.equal(codes[[0, 2]], whole[[0, 2]])
    assert torch.equal(codes[1:2], model.encode(audio[1:2, :, 7 * HOP :]).audio_codes)
    with pytest.raises(ValueError, match="`rows` must be a bool tensor"):
        state.reset_rows(torch.tensor([0, 1, 0]))


def count_bytes(state: JodioStreamingState) -> int:
    """Return the memory that a state holds, whole storages and not what is seen of them."""
    layers = state.cache.layers
    tensors = [*state.buffers.values(), *(tensor for layer in layers for tensor in (layer.keys, layer.values))]
    return sum(tensor.untyped_storage().nbytes() for tensor in tensors)


class LargestTensor(TorchDispatchMode):
    """Notes how many elements the largest tensor has that any operation makes."""

    def __init__(self):
        super().__init__()
        self.size = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        tensors = result if isinstance(result, (tuple, list)) else (result,)
        self.size = max(self.size, *(t.numel() for t in tensors if isinstance(t, torch.Tensor)), 0)
        return result


def count_live_bytes() -> int:
    """Return the memory of all tensors that this process holds; those of tracers have none."""
    gc.collect()
    tensors = [value for value in gc.get_objects() if type(value) in (torch.Tensor, torch.nn.Parameter)]
    return sum({t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}.values())


@pytest.mark.slow
@torch.no_grad()
def test_ten_minutes_stream_in_bounded_memory():
    window, rate, seconds = 20, 1600, 600
    model = make_model(window, sampling_rate=rate, upsampling_ratios=[10, 16], num_residual_layers=1)
    assert model.config.frame_rate == 10
    audio, encoder, decoder = make_audio(2, 1, 6 * rate), None, None
    num_frames = num_samples = 0
    states, live = [], []
    for index in range(seconds // 6):
        encoded = model.encode(audio, streaming_state=encoder, use_streaming=True)
        decoded = model.decode(encoded.audio_codes, streaming_state=decoder, use_streaming=True)
        encoder, decoder = encoded.streaming_state, decoded.streaming_state
        num_frames += encoded.audio_codes.shape[-1]
        num_samples += decoded.audio_values.shape[-1]
        states.append(count_bytes(encoder) + count_bytes(decoder))
        if index in (2, seconds // 6 - 1):
            live.append(count_live_bytes())
    assert (num_frames, num_samples) == (10 * seconds, rate * seconds)
    assert encoder.num_frames == decoder.num_frames == num_frames
    assert set(states[1:]) == {states[1]}  # from when the windows are full
    assert live[0] == live[1]


@BOTH_DOMAINS
@torch.no_grad()
def test_what_a_stream_needs_does_not_grow_with_its_length(domain):
    model, peaks = make_model(window=5, **domain), []
    state, decoder = None, None
    for _ in range(12):
        with LargestTensor() as largest:
            encoded = model.encode(make_audio(2, 1, 4 * HOP), streaming_state=state, use_streaming=True)
            decoded = model.decode(encoded.audio_codes, streaming_state=decoder, use_streaming=True)
        state, decoder = encoded.streaming_state, decoded.streaming_state
        peaks.append(largest.size)
    assert max(peaks[3:]) == peaks[3]


@BOTH_DOMAINS
@pytest.mark.parametrize("window", [None, 5])
@pytest.mark.parametrize("num_frames", [64, 65, 300])
@torch.no_grad()
def test_a_long_recording_in_pieces_equals_one_run(monkeypatch, window, num_frames, domain):
    model, num_samples = make_model(window, **domain), num_frames * HOP - 2
    audio, mask = make_audio(2, 1, num_samples), torch.ones(2, num_samples)
    mask[1, num_samples // 3 :] = 0
    in_pieces = model.encode(audio, mask)
    values = model.decode(in_pieces.audio_codes, in_pieces.audio_lengths).audio_values
    assert in_pieces.streaming_state is None
    assert model.decode(in_pieces.audio_codes).streaming_state is None
    monkeypatch.setattr(jodio, "_MAX_FRAMES_AT_ONCE", 10**6)
    at_once = model.encode(audio, mask)
    assert torch.equal(in_pieces.audio_codes, at_once.audio_codes)
    expected = model.decode(at_once.audio_codes, at_once.audio_lengths).audio_values
    torch.testing.assert_close(values, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("window", [None, 5])
@torch.no_grad()
def test_a_long_recording_needs_no_mask_over_all_pairs(window):
    model, num_frames = make_model(window), 2000
    audio = make_audio(1, 1, num_frames * HOP)
    with LargestTensor() as largest:
        codes = model.encode(audio).audio_codes
        model.decode(codes)
    # With a window the largest is an activation of one piece; without one, a piece attends to all that came before.
    limit = 3 * audio.numel() if window else 2 * 64 * num_frames
    assert largest.size <= limit < num_frames**2 / 10


def test_gradients_flow_through_the_decoding_of_long_codes():
    model, codes = make_model(), torch.randint(0, 32, (1, 4, 130))
    model.decode(codes).audio_values[..., -1].sum().backward()
    assert model.decoder.layers[0].weight_direction.grad.abs().sum() > 0


@BOTH_DOMAINS
@torch.no_grad()
def test_the_wait_is_what_the_configuration_says(domain):
    model, num_samples = make_model(**domain), 5 * HOP
    config, audio = model.config, make_audio(1, 1, num_samples)
    encoder = decoder = None
    ready_at, num_ready = {}, 0
    for index in range(num_samples):
        encoded = model.encode(audio[..., index : index + 1], streaming_state=encoder, use_streaming=True)
        decoded = model.decode(encoded.audio_codes, streaming_state=decoder, use_streaming=True)
        encoder, decoder = encoded.streaming_state, decoded.streaming_state
        for _ in range(decoded.audio_values.shape[-1]):
            ready_at[num_ready] = index + 1  # samples that had passed
            num_ready += 1
    assert num_ready == num_samples
    assert max(ready_at[sample] - sample for sample in ready_at) == config.algorithmic_delay
    assert config.algorithmic_delay == config.frame_size == config.hop_length == HOP


@torch.no_grad()
def test_a_sample_changes_nothing_before_its_frame_and_something_in_it():
    model, audio = make_model(), make_audio(1, 1, 8 * HOP)
    before = model.decode(model.encode(audio).audio_codes).audio_values
    for sample in range(3 * HOP, 5 * HOP):
        changed = audio.clone()
        changed[..., sample] += 50
        after = model.decode(model.encode(changed).audio_codes).audio_values
        first = int(((after - before).abs()[0, 0] > 1e-6).nonzero()[0])
        assert first // HOP == sample // HOP


def test_a_foreign_state_is_named():
    model = make_model()
    state = model.encode(make_audio(2, 1, 20), use_streaming=True).streaming_state
    with pytest.raises(ValueError, match="`streaming_state` must fit a batch of 3"):
        model.encode(make_audio(3, 1, 20), streaming_state=state)
    with pytest.raises(ValueError, match="`streaming_state` must have the buffers"):
        model.decode(long(2, 4, 2), streaming_state=state)
    with pytest.raises(ValueError, match="`streaming_state` must fit a batch of 2 and this model"):
        make_model(channels=[9, 12, 13]).encode(make_audio(2, 1, 20), streaming_state=state)
    with pytest.raises(ValueError, match="`streaming_state` must have keys and values of 0 layers, got 2"):
        make_model(window=1).encode(make_audio(2, 1, 20), streaming_state=state)


def test_a_state_of_another_configuration_is_named():
    model, audio = make_model(), make_audio(2, 1, 20)
    state = model.encode(audio, use_streaming=True).streaming_state
    other = model.config.encoder_config.to_dict()
    with pytest.raises(ValueError, match="`streaming_state` must have a window of 7, got 5"):
        make_model(window=7).encode(audio, streaming_state=state)
    with pytest.raises(ValueError, match="`streaming_state` must have keys and values of .* got .2, 2, 6."):
        make_model(encoder_config=other | {"head_dim": 8}).encode(audio, streaming_state=state)
    with pytest.raises(
        ValueError, match="`streaming_state` must be of the model's type torch.float64, got torch.float32"
    ):
        make_model().double().encode(audio, streaming_state=state)
    decoding = model.decode(long(2, 4, 2), use_streaming=True).streaming_state
    with pytest.raises(ValueError, match="`streaming_state` must fit a batch of 1"):
        model.decode(long(1, 4, 2), streaming_state=decoding)
    for codes, shape in ((long(2, 5, 2), "2, 5, 2"), (long(2, 0, 2), "2, 0, 2")):
        with pytest.raises(ValueError, match=rf"`audio_codes` must have shape .batch, 1 to 4 .* got .{shape}"):
            model.decode(codes, streaming_state=decoding)


@pytest.mark.parametrize("options", [{}, {"use_streaming": True}], ids=["whole", "stream"])
def test_another_sampling_rate_is_named(options):
    model, audio = make_model(), make_audio(1, 1, 20)
    assert torch.equal(
        model.encode(audio, sampling_rate=16000, **options).audio_codes, model.encode(audio, **options).audio_codes
    )
    with pytest.raises(ValueError, match=r"`sampling_rate` must be that of the configuration .16000 Hz.* got 24000"):
        model.encode(audio, sampling_rate=24000, **options)
