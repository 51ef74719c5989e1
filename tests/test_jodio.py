"""Laws of JODIO and of the convolutions it is made of."""

import pytest
import torch
from transformers import AutoModel, AutoModelForAudioTokenization

from josie.configuration_josie import JodioConfig
from josie.modeling_josie.codecs.convolution import CausalConv1d, CausalConvTranspose1d
from josie.modeling_josie.codecs.fast import convolve, convolve_as_image, convolve_naive, multiply_windows
from josie.modeling_josie.codecs.jodio import JodioModel
from josie.modeling_josie.losses.audio import semantic_loss, spectral_losses, waveform_loss

HOP = 6
# The mel domain at the same hop, for `make_model`.
MEL = {
    "domain": "mel",
    "n_fft": 8,
    "mel_hop_length": 2,
    "mel_lookahead": 3,
    "num_mel_bins": 5,
    "channels": [11, 13],
    "upsampling_ratios": [3],
    "waveform_weight": 0,
    "stft_weight": 0,
}
BOTH_DOMAINS = pytest.mark.parametrize("domain", [{}, MEL], ids=["waveform", "mel"])


def make_model(window: int | None = 5, **changes) -> JodioModel:
    transformer = {
        "hidden_size": 20,
        "intermediate_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "head_dim": 6,
        "sliding_window": window,
    }
    sizes = {
        "num_quantizers": 4,
        "num_semantic_quantizers": 1,
        "codebook_size": 32,
        "codebook_dim": 6,
        "sampling_rate": 16000,
        "channels": [9, 11, 13],
        "upsampling_ratios": [3, 2],
        "num_residual_layers": 2,
        "encoder_config": transformer,
        "decoder_config": transformer | {"hidden_size": 18, "num_hidden_layers": 1},
        "semantic_target_size": 5,
        "semantic_vocab_size": 7,
    }
    torch.manual_seed(0)
    return JodioModel(JodioConfig(**(sizes | changes))).eval()


def make_audio(*shape: int) -> torch.Tensor:
    torch.manual_seed(1)
    return 0.3 * torch.randn(*shape)


def normalised_weight(conv: CausalConv1d) -> torch.Tensor:
    direction = conv.weight_direction
    return direction * (conv.weight_scale / direction.square().sum((0, 2, 3)).sqrt())[:, None, None]


@pytest.mark.parametrize("length", [5, 150])
@pytest.mark.parametrize("batch_size", [1, 3])
@pytest.mark.parametrize(
    "sizes", [(1, 9, 7, 1, 1), (9, 1, 7, 1, 1), (30, 31, 3, 1, 4), (30, 17, 6, 3, 1), (4, 5, 1, 1, 1)], ids=str
)
def test_convolution_is_torchs(sizes, batch_size, length):
    torch.manual_seed(0)
    in_channels, out_channels, kernel_size, stride, dilation = sizes
    conv = CausalConv1d(*sizes, activate=True)
    torch.nn.init.normal_(conv.bias)
    inputs = torch.randn(batch_size, length * stride, in_channels)
    weight = normalised_weight(conv)[0].reshape(out_channels, kernel_size, in_channels).transpose(1, 2)
    activated = torch.nn.functional.silu(inputs).transpose(1, 2)
    padded = torch.nn.functional.pad(activated, ((kernel_size - 1) * dilation - (stride - 1), 0))
    expected = torch.nn.functional.conv1d(padded, weight, conv.bias, stride=stride, dilation=dilation).transpose(1, 2)
    torch.testing.assert_close(conv(inputs)[0], expected, atol=1e-5, rtol=1e-4)
    with torch.no_grad():
        before = inputs.clone()
        first, context = conv(inputs[:, : 2 * stride])
        joined = torch.cat((first, conv(inputs[:, 2 * stride :], context)[0]), dim=1)
        torch.testing.assert_close(joined, expected, atol=1e-5, rtol=1e-4)
        assert torch.equal(inputs, before)


@pytest.mark.parametrize("length", [5, 150])
def test_transposed_convolution_is_torchs(length):
    torch.manual_seed(0)
    conv = CausalConvTranspose1d(30, 7, 3)
    torch.nn.init.normal_(conv.bias)
    inputs = torch.randn(2, length, 30)
    weight = normalised_weight(conv).flip(2).permute(3, 1, 2, 0).reshape(30, 7, 6)
    expected = torch.nn.functional.conv_transpose1d(inputs.transpose(1, 2), weight, conv.bias, stride=3)[..., :-3]
    torch.testing.assert_close(conv(inputs)[0], expected.transpose(1, 2), atol=1e-5, rtol=1e-4)


@BOTH_DOMAINS
@torch.no_grad()
def test_a_row_equals_the_row_alone(domain):
    model, audio = make_model(**domain), make_audio(3, 1, 100)
    lengths = [100, 37, 60]
    mask = (torch.arange(100) < torch.tensor(lengths)[:, None]).long()
    output = model.encode(audio, mask)
    decoded = model.decode(output.audio_codes, output.audio_lengths).audio_values
    both = model(audio, mask)
    assert output.audio_lengths.tolist() == lengths
    assert torch.equal(both.audio_codes, output.audio_codes)
    torch.testing.assert_close(both.audio_values, decoded, atol=1e-6, rtol=0)
    for row, length in enumerate(lengths):
        alone = model.encode(audio[row : row + 1, :, :length])
        num_frames = alone.audio_codes.shape[-1]
        assert num_frames == model.config.get_num_frames(length)
        assert torch.equal(output.audio_codes[row : row + 1, :, :num_frames], alone.audio_codes)
        assert output.audio_codes[row, :, num_frames:].abs().sum() == 0
        values = model.decode(alone.audio_codes, alone.audio_lengths).audio_values
        assert values.shape == (1, 1, length)
        torch.testing.assert_close(decoded[row : row + 1, :, :length], values, atol=1e-6, rtol=0)
        assert decoded[row, :, length:].abs().sum() == 0


@BOTH_DOMAINS
@torch.no_grad()
def test_later_input_never_changes_earlier_output(domain):
    model, audio = make_model(**domain), make_audio(1, 1, 20 * HOP)
    changed = audio.clone()
    changed[..., 11 * HOP :] *= -2
    codes, other = model.encode(audio).audio_codes, model.encode(changed).audio_codes
    assert torch.equal(codes[..., :11], other[..., :11])
    assert not torch.equal(codes, other)
    codes, other = codes.clone(), codes.clone()
    other[..., 11:] = (other[..., 11:] + 7) % 32
    values, others = model.decode(codes).audio_values, model.decode(other).audio_values
    torch.testing.assert_close(values[..., : 11 * HOP], others[..., : 11 * HOP], atol=1e-8, rtol=0)
    assert not torch.equal(values, others)


@pytest.mark.parametrize("num_samples", [1, 5, 6, 7, 203])
@torch.no_grad()
def test_decoded_audio_is_as_long_as_the_input(num_samples):
    model, audio = make_model(), make_audio(2, 1, num_samples)
    codes, lengths = model.encode(audio, return_dict=False)
    assert model.decode(codes, lengths).audio_values.shape == audio.shape
    assert model.decode(codes).audio_values.shape[-1] == codes.shape[-1] * HOP
    assert model(audio, num_quantizers=2).audio_codes.shape[1] == 2
    assert torch.equal(model.encode(audio, num_quantizers=2).audio_codes, codes[:, :2])


@pytest.mark.parametrize("update", ["ema", "gradient"])
@pytest.mark.parametrize("num_semantic", [0, 1], ids=["plain", "split"])
def test_every_parameter_gets_a_gradient(update, num_semantic):
    model = make_model(codebook_update=update, num_semantic_quantizers=num_semantic, quantizer_dropout=0.3).train()
    mask = torch.ones(3, 203)
    mask[1, 100:] = 0
    output = model(
        make_audio(3, 1, 203),
        mask,
        semantic_targets=torch.randn(3, 13, 5),
        labels=torch.tensor([[1, 2], [3, -100], [-100, -100]]),
    )
    expected = {"waveform", "mel", "stft", "commitment", "semantic", "ctc"} | (
        {"codebook"} if update == "gradient" else set()
    )
    assert output.losses.keys() == expected
    output.loss.backward()
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all(), name


def test_a_few_steps_lower_the_loss():
    model, audio = make_model().train(), make_audio(2, 1, 300)
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    losses = []
    for _ in range(25):
        output = model(audio)
        optimizer.zero_grad()
        output.loss.backward()
        optimizer.step()
        losses.append(output.loss.item())
    assert losses[-1] < 0.8 * losses[0]


@pytest.mark.parametrize("update", ["ema", "gradient"])
def test_saved_and_loaded_it_is_the_same(update, tmp_path):
    model, audio = make_model(codebook_update=update).train(), make_audio(2, 1, 100)
    model(audio)
    model.eval().save_pretrained(tmp_path)
    for auto in (AutoModel, AutoModelForAudioTokenization):
        loaded = auto.from_pretrained(tmp_path)
        assert isinstance(loaded, JodioModel)
        for name, value in model.state_dict().items():
            assert torch.equal(value, loaded.state_dict()[name]), name
        for (name, value), other in zip(model.named_buffers(), loaded.buffers(), strict=True):
            assert torch.equal(value, other), name
        assert torch.equal(model(audio).audio_values, loaded(audio).audio_values)


def test_a_model_made_without_weights_is_initialised(tmp_path):
    model = make_model()
    state = {name: value for name, value in model.state_dict().items() if name.startswith("encoder.")}
    loaded = JodioModel.from_pretrained(None, config=model.config, state_dict=state)
    assert not loaded.quantizer.semantic.quantizers[0].initialized
    torch.testing.assert_close(loaded.decoder.layers[0].weight_scale, model.decoder.layers[0].weight_scale)
    assert torch.equal(loaded.encoder.layers[0].weight_direction, model.encoder.layers[0].weight_direction)
    assert 0 < loaded.quantizer.semantic.quantizers[0].codebook.std() < 0.05


@torch.no_grad()
def test_bfloat16_is_finite():
    model, audio = make_model().to(torch.bfloat16), make_audio(2, 1, 100)
    output = model.train()(audio)
    assert output.audio_values.dtype == torch.bfloat16
    assert output.loss.isfinite()
    assert model.eval().encode(audio, use_streaming=True).audio_codes.shape[-1] == 16


def test_double_precision_stays():
    model = make_model().double().eval()
    outputs = model(torch.randn(2, 1, 203, dtype=torch.float64).mul(0.3))
    assert outputs.audio_values.dtype == torch.float64


def test_autocast_trains():
    model = make_model(channels=[40, 44, 48]).train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = model(make_audio(2, 1, 100)).loss
    loss.backward()
    assert all(p.grad.isfinite().all() for n, p in model.named_parameters() if "_head" not in n)


def test_losses_of_a_padded_row_are_those_of_the_row_alone():
    audio, other = make_audio(1, 1, 2000), make_audio(1, 1, 2000).flip(-1)
    lengths = torch.tensor([2000])
    padded = [torch.nn.functional.pad(values, (0, 1111)) for values in (audio, other)]
    torch.testing.assert_close(waveform_loss(*padded, lengths), waveform_loss(audio, other, lengths))
    torch.testing.assert_close(spectral_losses(*padded, lengths, 16000), spectral_losses(audio, other, lengths, 16000))
    features = torch.randn(2, 9, 4)
    assert semantic_loss(features, 3 * features, torch.ones(2, 9)).abs() < 1e-6


def long(*shape: int, value: int = 0) -> torch.Tensor:
    return torch.full(shape, value)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: m.encode(torch.zeros(1, 9)), r"`input_values` must have shape \(batch, channels, samples\)"),
        (lambda m: m.encode(torch.zeros(1, 2, 9)), r"`input_values` must have 1 channel, got 2\."),
        (lambda m: m(torch.zeros(1, 1, 0)), r"`input_values` must have at least 1 sample"),
        (lambda m: m.encode(long(1, 1, 9)), r"`input_values` must be floats"),
        (lambda m: m.encode(torch.full((1, 1, 9), torch.nan)), r"`input_values` must be finite"),
        (lambda m: m.encode(torch.full((1, 1, 9), torch.inf), use_streaming=True), r"`input_values` must be finite"),
        (lambda m: m.encode(torch.zeros(1, 1, 9), torch.ones(1, 8)), r"`padding_mask` must have shape \(1, 9\)"),
        (lambda m: m.encode(torch.zeros(1, 1, 2), torch.tensor([[0, 1]])), r"`padding_mask` must have its zeros"),
        (lambda m: m.encode(torch.zeros(1, 1, 2), torch.zeros(1, 2)), r"`padding_mask` must leave each row"),
        (
            lambda m: m.encode(torch.zeros(1, 1, 2), torch.ones(1, 2), use_streaming=True),
            r"`padding_mask` must be None",
        ),
        (lambda m: m.encode(torch.zeros(1, 1, 9), num_quantizers=5), r"`num_quantizers` must be in \[1, 4\], got 5\."),
        (lambda m: m.decode(long(1, 5, 2)), r"`audio_codes` must have shape"),
        (lambda m: m.decode(long(1, 4, 0)), r"`audio_codes` must have at least 1 frame"),
        (lambda m: m.decode(long(1, 4, 2, value=32)), r"`audio_codes` must be in \[0, 31\]"),
        (lambda m: m.decode(torch.zeros(1, 4, 2)), r"`audio_codes` must be integers"),
        (lambda m: m.decode(long(1, 4, 2), long(2)), r"`audio_lengths` must have shape \(1,\)"),
        (lambda m: m.decode(long(1, 4, 2), long(1, value=13)), r"`audio_lengths` must be in \[0, 12\]"),
        (
            lambda m: m(torch.zeros(1, 1, 9), semantic_targets=torch.zeros(1, 2, 3)),
            r"`semantic_targets` must have shape",
        ),
        (lambda m: m(torch.zeros(1, 1, 9), labels=long(1, 1)), r"`labels` must be -100 or in \[1, 6\], got 0"),
        (lambda m: m(torch.zeros(1, 1, 9), labels=long(1)), r"`labels` must have shape"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call(make_model())


def test_targets_without_their_head_are_named():
    model = make_model(semantic_target_size=None, semantic_vocab_size=None)
    with pytest.raises(ValueError, match="`semantic_targets` must be None"):
        model(torch.zeros(1, 1, 9), semantic_targets=torch.zeros(1, 2, 3))
    with pytest.raises(ValueError, match="`labels` must be None"):
        model(torch.zeros(1, 1, 9), labels=long(1, 1, value=1))


def test_a_convolution_that_cannot_be_is_named():
    with pytest.raises(ValueError, match=r"`kernel_size` must be a multiple of `stride` .2., got 3"):
        CausalConv1d(2, 2, 3, stride=2)
    with pytest.raises(ValueError, match=r"`dilation` must be 1 where `stride` is not .2., got 3"):
        CausalConv1d(2, 2, 4, stride=2, dilation=3)


@pytest.mark.parametrize("path", [convolve, multiply_windows, convolve_as_image])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("sizes", [(1, 2, 40, 9, 3, 1), (2, 70, 3, 5, 7, 1), (3, 6, 4, 5, 3, 4)], ids=str)
def test_every_fast_path_equals_its_naive_twin(path, dtype, sizes):
    batch_size, length, in_width, out_width, num_taps, dilation = sizes
    padded = torch.randn(batch_size, length + (num_taps - 1) * dilation, in_width, dtype=dtype, requires_grad=True)
    weight, bias = torch.randn(out_width, num_taps, in_width, dtype=dtype), torch.randn(out_width, dtype=dtype)
    given = padded, weight.requires_grad_(), bias.requires_grad_()
    actual, expected = path(*given, dilation), convolve_naive(*given, dilation)
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-4)
    target = torch.randn_like(expected)
    for ours, theirs in zip(
        torch.autograd.grad((actual * target).sum(), given),
        torch.autograd.grad((expected * target).sum(), given),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)
