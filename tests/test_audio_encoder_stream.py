"""Laws of a causal audio encoder: any chunks give the features of the whole, as soon as stated, in bounded memory."""

import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from test_jodio_streaming import count_bytes, draw_chunks

from josie.configuration_josie import JosieAudioEncoderConfig, encodes_in_stream
from josie.modeling_josie.thinker.audio_encoder import JosieAudioEncoder
from josie.processing_josie import JosieFeatureExtractor

HOP, FEATURE = 5, 20
FIELDS = dict(
    hidden_size=24,
    intermediate_size=40,
    num_hidden_layers=2,
    num_attention_heads=3,
    sampling_rate=500,
    num_mel_bins=6,
    n_fft=32,
    win_length=17,
    mel_hop_length=HOP,
    conv_channels=4,
    log_mel=True,
    mel_mean=-4.0,
    mel_std=3.0,
    initializer_range=0.3,
    is_causal=True,
    sliding_window=5,
    mel_lookahead=3,
    rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
)
FORMS = {
    "waveform": {},
    "waveform-8": {"downsampling_factor": 8, "mel_lookahead": 0},
    "furthest": {"mel_lookahead": 12, "log_mel": False, "sliding_window": None},
    "plain": {"mel_lookahead": 1, "rope_parameters": None, "sliding_window": 1},
    "mel": {"mel_lookahead": None},
    "level": {"level_half_life": 0.1},
    "level-linear": {"level_half_life": 0.05, "log_mel": False, "mel_power": 1.0},
    "mel-level": {"mel_lookahead": None, "level_half_life": 0.2},
}


def build(**changes) -> JosieAudioEncoder:
    torch.manual_seed(0)
    encoder = JosieAudioEncoder(JosieAudioEncoderConfig(**(FIELDS | changes))).eval()
    for convolution in encoder.convolutions:
        torch.nn.init.normal_(convolution.bias)  # a bias is what would make padding leak
    return encoder


def make_clips(encoder: JosieAudioEncoder, length: int, batch_size: int = 2, seed: int = 1) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    if encoder.reads_waveforms:
        return {"input_values": torch.randn(batch_size, 1, length, generator=generator) * 0.3}
    return {"input_features": torch.randn(batch_size, 6, length, generator=generator) - 4}


def cut(clips: dict[str, torch.Tensor], chunk: slice) -> dict[str, torch.Tensor]:
    return {name: value[..., chunk] for name, value in clips.items()}


@pytest.fixture(params=FORMS)
def encoder(request) -> JosieAudioEncoder:
    return build(**FORMS[request.param])


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("length", [1, 19, 203, 240])
@torch.no_grad()
def test_a_stream_equals_the_whole(encoder, length, seed):
    clips, state, pieces = make_clips(encoder, length), None, []
    whole = encoder(**clips).last_hidden_state
    chunks = draw_chunks(length, [0, 1, 4, 7, 20, 90], seed)
    for index, chunk in enumerate(chunks):
        is_final = index == len(chunks) - 1
        output = encoder.encode(**cut(clips, chunk), streaming_state=state, use_streaming=True, is_final=is_final)
        state = output.streaming_state
        pieces.append(output.audio_features)
    assert state is None
    torch.testing.assert_close(torch.cat(pieces, dim=1), whole, atol=1e-5, rtol=0)
    assert whole.shape[1] == output.audio_features_mask.shape[1] + sum(piece.shape[1] for piece in pieces[:-1])


@torch.no_grad()
def test_rows_that_end_one_by_one_equal_the_rows_alone(encoder):
    clips = make_clips(encoder, 203, batch_size=4)
    name, mask_name = (
        ("input_values", "padding_mask") if encoder.reads_waveforms else ("input_features", "attention_mask")
    )
    lengths = torch.tensor([203, 170, 141, 140])
    mask = torch.arange(203) < lengths[:, None]
    clips[name] = clips[name].masked_fill(~mask[:, None], 5.0)  # what stands behind a row is not heard
    first = encoder.encode(**cut(clips, slice(140)), use_streaming=True)
    last = encoder.encode(
        **cut(clips, slice(140, None)),
        **{mask_name: mask[:, 140:]},
        streaming_state=first.streaming_state,
        is_final=True,
    )
    streamed = torch.cat((first.audio_features, last.audio_features), dim=1)
    whole = encoder(**clips, **{mask_name: mask}).last_hidden_state
    torch.testing.assert_close(streamed, whole, atol=1e-5, rtol=0)
    offline = encoder.encode(**clips, **{mask_name: mask})
    assert torch.equal(offline.audio_features, whole)
    for row, length in enumerate(lengths.tolist()):
        alone = (
            encoder(clips[name][row : row + 1, :, :length]).last_hidden_state[0]
            if name == "input_features"
            else (encoder(input_values=clips[name][row : row + 1, :, :length]).last_hidden_state[0])
        )
        torch.testing.assert_close(whole[row, : len(alone)], alone, atol=1e-5, rtol=0)
        assert not whole[row, len(alone) :].any()
        assert offline.audio_features_mask[row].sum() == len(alone)
        real = int(last.audio_features_mask[row].sum())
        assert real == max(len(alone) - first.audio_features.shape[1], 0)


@pytest.mark.parametrize("place", [120, 127])
@torch.no_grad()
def test_a_row_that_is_reset_is_a_new_stream_after_the_silence_that_was_pending(place):
    encoder = build()
    clips = make_clips(encoder, 240, batch_size=3)
    output = encoder.encode(**cut(clips, slice(place)), use_streaming=True)
    num_pending = place - FEATURE * output.audio_features.shape[1]
    state = output.streaming_state.reset_rows(torch.tensor([False, True, False]))
    pieces = []
    for chunk in (slice(place, 150), slice(150, 161), slice(161, 240)):
        output = encoder.encode(**cut(clips, chunk), streaming_state=state)
        state = output.streaming_state
        pieces.append(output.audio_features)
    features, values = torch.cat(pieces, dim=1), clips["input_values"]
    new = torch.nn.functional.pad(values[1:2, :, place:], (num_pending, 0))
    expected = encoder.encode(new, use_streaming=True).audio_features
    torch.testing.assert_close(features[1:2], expected, atol=1e-5, rtol=0)
    others = encoder.encode(values, use_streaming=True).audio_features[:, -features.shape[1] :]
    torch.testing.assert_close(features[[0, 2]], others[[0, 2]], atol=1e-5, rtol=0)
    assert state.row_starts is None  # which nothing sees any more


@torch.no_grad()
def test_a_state_is_never_changed(encoder):
    clips = make_clips(encoder, 160)
    state = encoder.encode(**cut(clips, slice(90)), use_streaming=True).streaming_state
    runs = [encoder.encode(**cut(clips, slice(90, 160)), streaming_state=state).audio_features for _ in range(2)]
    assert torch.equal(*runs)


@pytest.mark.parametrize("form", ["waveform", "waveform-8", "furthest"])
@torch.no_grad()
def test_the_wait_is_what_the_configuration_says(form):
    encoder = build(**FORMS[form])
    config, state, waits, num_features = encoder.config, None, [], 0
    clips = make_clips(encoder, 130, batch_size=1)
    for index in range(130):
        output = encoder.encode(**cut(clips, slice(index, index + 1)), streaming_state=state, use_streaming=True)
        state = output.streaming_state
        for _ in range(output.audio_features.shape[1]):
            waits.append(index + 1 - num_features * config.hop_length)
            num_features += 1
    assert set(waits) == {config.algorithmic_delay}
    assert config.algorithmic_delay == config.hop_length + config.mel_lookahead
    assert config.frame_rate == 500 / config.hop_length


@torch.no_grad()
def test_a_sample_changes_nothing_that_was_there_before_it():
    encoder, clips = build(), make_clips(build(), 200, batch_size=1)["input_values"]
    before = encoder(input_values=clips).last_hidden_state
    for sample in range(60, 110):
        changed = clips.clone()
        changed[..., sample] += 1
        differs = (encoder(input_values=changed).last_hidden_state - before).abs().amax(-1)[0] > 1e-6
        first = int(differs.nonzero()[0])
        # The feature that was complete when the sample came does not know of it.
        assert first == (sample - encoder.config.mel_lookahead) // FEATURE


@torch.no_grad()
def test_ten_minutes_stream_in_bounded_memory():
    encoder, state, sizes, num_features = build(), None, [], 0
    for _ in range(100):
        chunk = torch.randn(2, 1, 3000)
        output = encoder.encode(chunk, streaming_state=state, use_streaming=True)
        state = output.streaming_state
        num_features += output.audio_features.shape[1]
        pending = state.buffers["pending"]
        assert pending.shape[2] < 20 + 17
        assert pending.untyped_storage().nbytes() == 4 * pending.numel()
        sizes.append(count_bytes(state) - 4 * pending.numel())
    assert state.num_frames == num_features >= 14990
    assert len(set(sizes[1:])) == 1


@torch.no_grad()
def test_the_processors_waveforms_are_what_it_hears():
    encoder = build()
    extractor = JosieFeatureExtractor.from_config(encoder.config)
    clips = [torch.randn(90).numpy() * 0.1, torch.randn(61).numpy() * 0.1]
    inputs = extractor(clips, sampling_rate=500)
    features = encoder(**inputs).last_hidden_state
    assert extractor.sampling_rate == 500
    assert features.shape[1] == encoder.config.downsample(encoder.config.get_num_mel_frames(90)) == 5
    assert not features[1, 4:].any()


@torch.no_grad()
def test_the_transform_is_the_extractors_between_the_edges():
    """Windows of the same samples: those of the extractor are centred, these end `mel_lookahead` after the hop."""
    encoder = build(win_length=20, mel_lookahead=5)
    values = torch.randn(1, 1, 100) * 0.2
    extractor = JosieFeatureExtractor(
        sampling_rate=500, num_mel_bins=6, n_fft=32, win_length=20, mel_hop_length=HOP, log_mel=True
    )
    expected = extractor(values[0, 0].numpy(), sampling_rate=500)["input_features"]
    found, _ = encoder._transform(values, None)
    # Window i here covers [5i - 10, 5i + 10): the centre is 5i there too.
    torch.testing.assert_close(found[..., 2:18], expected[..., 2:18], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("changes", [{}, {"log_mel": False}, {"mel_power": 1.0}], ids=str)
@torch.no_grad()
def test_a_quiet_clip_is_heard_as_a_loud_one_where_the_level_is_followed(changes):
    values = torch.randn(1, 1, 400, generator=torch.Generator().manual_seed(2)) * 0.3
    followed, plain = build(level_half_life=2.0, **changes), build(**changes)
    heard = [followed._divide_by_level(followed._transform(values * gain, None)[0])[0] for gain in (1, 0.1)]
    if changes.get("log_mel") is False:
        torch.testing.assert_close(*heard, atol=1e-6, rtol=1e-4)
        assert heard[0].sum(dim=1).max() == pytest.approx(1, abs=1e-5)  # the loudest frame is the level
    else:
        is_loud = heard[1] > heard[1].max() - 4  # the smallest value of the logarithm is not divided
        torch.testing.assert_close(heard[0][is_loud], heard[1][is_loud], atol=2e-3, rtol=0)
        assert heard[0].logsumexp(dim=1).max() == pytest.approx(0, abs=1e-5)
    silent = followed._divide_by_level(followed._transform(values * 1e-5, None)[0])[0]
    if changes.get("log_mel") is False:
        assert silent.amax() < 1e-4
    else:
        assert silent.amax() < heard[0].amax() - 1
    differ = [plain(input_values=values * gain).last_hidden_state for gain in (1, 0.1)]
    assert not torch.allclose(*differ, atol=1e-2)


@torch.no_grad()
def test_the_level_falls_by_half_in_its_time():
    encoder = build(level_half_life=0.1, log_mel=False)
    mel = torch.full((1, 6, 31), 1.0)
    mel[..., 0] = 1e6
    divided = (
        encoder._divide_by_level(mel)[0][0, 0] * 6e6
    )  # what the frame was divided by the level's share of its start
    # Ten frames are a tenth of a second at 500 Hz and a hop of 5.
    assert (divided[20] / divided[10]).item() == pytest.approx(2, rel=1e-4)
    assert (divided[10] / divided[1]).item() == pytest.approx(2**0.9, rel=1e-4)


def test_every_parameter_gets_a_gradient_through_waveforms():
    encoder = build().train()
    encoder(**make_clips(encoder, 90)).last_hidden_state.square().mean().backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in encoder.parameters())


def test_what_streams_is_told_by_the_configuration():
    config = JosieAudioEncoderConfig(**FIELDS)
    assert encodes_in_stream(config)
    for changes in ({"is_causal": False}, {"mel_lookahead": None}):
        assert not encodes_in_stream(JosieAudioEncoderConfig(**(FIELDS | changes)))
    assert not encodes_in_stream(None)


def test_what_cannot_stream_is_refused():
    clips = make_clips(build(), 40)
    with pytest.raises(ValueError, match="`use_streaming` must be False for an audio encoder whose"):
        build(is_causal=False, sliding_window=None).encode(**clips, use_streaming=True)
    with pytest.raises(ValueError, match=r"`input_values` must be None where `config.mel_lookahead` is None"):
        build(mel_lookahead=None).encode(**clips, use_streaming=True)
    encoder = build()
    with pytest.raises(ValueError, match=r"`input_features` must be None where `config.mel_lookahead` is a number"):
        encoder(torch.zeros(1, 6, 10))
    with pytest.raises(ValueError, match="`input_values` must be given, got None"):
        encoder.encode()
    with pytest.raises(ValueError, match="must be None before the end of a stream"):
        encoder.encode(**clips, padding_mask=torch.ones(2, 40), use_streaming=True)
    with pytest.raises(ValueError, match="`is_final` must be False outside a stream, got True"):
        encoder.encode(**clips, is_final=True)
    with pytest.raises(ValueError, match=r"`sampling_rate` must be that of the configuration .500 Hz.* got 16000"):
        encoder.encode(**clips, sampling_rate=16000)
    with pytest.raises(ValueError, match="`input_values` must be finite"):
        encoder.encode(clips["input_values"] * torch.nan, use_streaming=True)
    for shape in ((2, 40), (2, 2, 40), (2, 1, 0)):
        with pytest.raises(ValueError, match=r"`input_values` must be of shape \(batch, 1, num_samples\), got"):
            encoder(input_values=torch.zeros(shape))
    with pytest.raises(ValueError, match=r"`padding_mask` must be of shape \(2, 40\), got \(2, 39\)"):
        encoder(**clips, padding_mask=torch.ones(2, 39))
    state = encoder.encode(**clips, use_streaming=True).streaming_state
    with pytest.raises(ValueError, match="`streaming_state` must fit a batch of 3"):
        encoder.encode(torch.zeros(3, 1, 40), streaming_state=state)
    with pytest.raises(ValueError, match="`streaming_state` must have a window of 4, got 5"):
        build(sliding_window=4).encode(**clips, streaming_state=state)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"mel_lookahead": 13},
            r"`mel_lookahead` must be in \[0, 12\], what a window of .* got 13",
        ),
        ({"mel_lookahead": -1}, r"`mel_lookahead` must be in \[0, 12\].* got -1"),
        ({"level_half_life": 0}, "`level_half_life` must be above 0, or None, got 0"),
        ({"win_length": 4, "mel_lookahead": 0}, r"`win_length` must be at least `mel_hop_length` \(5\) with a"),
    ],
)
def test_impossible_windows_are_refused(changes, message):
    with pytest.raises(StrictDataclassError, match=message):
        JosieAudioEncoderConfig(**(FIELDS | changes))
