"""Laws of the mel codec."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torchaudio.transforms import MelSpectrogram
from transformers import AutoModel, AutoModelForAudioTokenization

from josie.configuration_josie import JosieMelCodecConfig
from josie.modeling_josie.codecs.adapters import decode_audio
from josie.modeling_josie.codecs.mel_codec import JosieMelCodecModel
from josie.modeling_josie.codecs.streaming import JodioStreamingState
from josie.modeling_josie.mel import create_mel_filterbank, mel_to_spectrogram

MUOMNI = {
    "num_mel_bins": 20,
    "mel_power": 2.0,
    "log_mel": False,
    "pad_mode": "reflect",
    "mel_hop_length": 80,
    "frames_per_code": 1,
    "num_encoder_layers": 0,
    "num_decoder_layers": 0,
    "quantizer_bias": True,
}
SHAPES = pytest.mark.parametrize(
    "changes",
    [{}, {"num_encoder_layers": 0}, {"num_decoder_layers": 0}, {"pad_mode": "reflect", "frames_per_code": 1}, MUOMNI],
    ids=["default", "no-encoder", "no-decoder", "reflect", "muomni"],
)


def make_model(**changes) -> JosieMelCodecModel:
    sizes = {
        "num_quantizers": 3,
        "codebook_size": 17,
        "codebook_dim": 6,
        "sampling_rate": 8000,
        "num_mel_bins": 20,
        "n_fft": 128,
        "win_length": 64,
        "mel_hop_length": 16,
        "frames_per_code": 3,
        "hidden_size": 12,
        "num_encoder_layers": 2,
        "num_decoder_layers": 1,
        "conv_kernel_size": 5,
        "griffin_lim_iterations": 4,
    }
    torch.manual_seed(0)
    return JosieMelCodecModel(JosieMelCodecConfig(**(sizes | changes))).eval()


def make_audio(*shape: int) -> torch.Tensor:
    torch.manual_seed(1)
    return 0.3 * torch.randn(*shape)


@pytest.mark.parametrize("pad_mode", ["constant", "reflect"])
@pytest.mark.parametrize("power", [1.0, 2.0])
def test_the_mel_spectrogram_is_torchaudios(pad_mode, power):
    model = make_model(pad_mode=pad_mode, mel_power=power, log_mel=False, mel_mean=0.5, mel_std=2.0)
    reference = MelSpectrogram(8000, 128, 64, 16, n_mels=20, power=power, pad_mode=pad_mode)
    audio = make_audio(2, 1, 501)
    expected = (reference(audio[:, 0]) - 0.5) / 2
    torch.testing.assert_close(model.extract_mel(audio), expected, atol=1e-5, rtol=1e-4)


@SHAPES
@torch.no_grad()
def test_a_row_equals_the_row_alone(changes):
    model, audio = make_model(**changes), make_audio(3, 1, 700)
    lengths = [700, 333, 40]
    mask = (torch.arange(700) < torch.tensor(lengths)[:, None]).long()
    mel, output = model.extract_mel(audio, mask), model.encode(audio, mask)
    decoded = model.decode(output.audio_codes, output.audio_lengths).audio_values
    both = model(audio, mask)
    assert output.audio_lengths.tolist() == lengths
    assert torch.equal(both.audio_codes, output.audio_codes)
    torch.testing.assert_close(both.audio_values, decoded, atol=1e-4, rtol=1e-3)
    for row, length in enumerate(lengths):
        single = audio[row : row + 1, :, :length]
        alone = model.encode(single)
        num_frames, num_mel_frames = alone.audio_codes.shape[-1], model.config.get_num_mel_frames(length)
        assert num_frames == model.config.get_num_frames(length)
        torch.testing.assert_close(mel[row : row + 1, :, :num_mel_frames], model.extract_mel(single))
        assert mel[row, :, num_mel_frames:].abs().sum() == 0
        assert torch.equal(output.audio_codes[row : row + 1, :, :num_frames], alone.audio_codes)
        assert output.audio_codes[row, :, num_frames:].abs().sum() == 0
        values = model.decode(alone.audio_codes, alone.audio_lengths).audio_values
        torch.testing.assert_close(decoded[row : row + 1, :, :length], values, atol=1e-4, rtol=1e-3)
        assert decoded[row, :, length:].abs().sum() == 0


@pytest.mark.parametrize("num_samples", [1, 47, 48, 49, 501])
@SHAPES
@torch.no_grad()
def test_decoded_audio_is_as_long_as_the_input(changes, num_samples):
    model, audio = make_model(**changes), make_audio(2, 1, num_samples)
    codes, lengths = model.encode(audio, return_dict=False)
    values = model.decode(codes, lengths).audio_values
    assert values.shape == audio.shape
    assert values.isfinite().all()
    assert torch.equal(model.decode(codes, lengths).audio_values, values)
    assert model.decode(codes).audio_values.shape[-1] == codes.shape[-1] * model.config.hop_length
    assert torch.equal(model.encode(audio, num_quantizers=2).audio_codes, codes[:, :2])


@pytest.mark.parametrize("log_mel", [True, False])
def test_the_inversion_is_non_negative_and_meets_the_mel(log_mel):
    config = make_model(log_mel=log_mel, mel_std=3.0, mel_mean=-1.0).config
    model = JosieMelCodecModel(config)
    mel = model.extract_mel(make_audio(1, 1, 500))
    linear = mel_to_spectrogram(config, mel)
    assert linear.min() >= 0
    again = create_mel_filterbank(65, 20, 8000, 0.0, 4000.0, None).T @ linear
    wanted = mel * config.mel_std + config.mel_mean
    wanted = wanted.exp() if log_mel else wanted
    assert (again - wanted).norm() < 0.05 * wanted.norm()


@pytest.mark.parametrize("hop", [64, 256], ids=["overlap", "no-overlap"])
def test_a_tone_survives_the_vocoder(hop):
    model = make_model(n_fft=256, win_length=256, mel_hop_length=hop, num_mel_bins=40, griffin_lim_iterations=16)
    tone = 0.5 * torch.sin(2 * torch.pi * 1000 * torch.arange(4000) / 8000)[None, None]
    values = model.mel_to_audio(model.extract_mel(tone), torch.tensor([4000]))
    spectra = [torch.fft.rfft(audio[0, 0, 500:3500]).abs() for audio in (tone, values)]
    assert spectra[1].argmax() == spectra[0].argmax()
    assert 0.7 < values[0, 0, 500:3500].std() / tone.std() < 1.4


@SHAPES
@pytest.mark.parametrize("update", ["ema", "gradient"])
def test_every_parameter_gets_a_gradient(changes, update):
    model = make_model(**changes, codebook_update=update, quantizer_dropout=0.3).train()
    mask = torch.ones(2, 600)
    mask[1, 200:] = 0
    output = model(make_audio(2, 1, 600), mask)
    assert output.audio_values is None
    assert output.losses.keys() == {"mel", "commitment"} | ({"codebook"} if update == "gradient" else set())
    output.loss.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name


def test_a_few_steps_lower_the_loss():
    model, audio = make_model().train(), make_audio(2, 1, 2000).cumsum(-1) * 0.05
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    losses = []
    for _ in range(60):
        output = model(audio)
        optimizer.zero_grad()
        output.loss.backward()
        optimizer.step()
        losses.append(output.losses["mel"].item())
    assert losses[-1] < 0.5 * losses[0]


def test_saved_and_loaded_it_is_the_same(tmp_path):
    model, audio = make_model().train(), make_audio(2, 1, 300)
    model(audio)
    model.eval().save_pretrained(tmp_path)
    for auto in (AutoModel, AutoModelForAudioTokenization):
        loaded = auto.from_pretrained(tmp_path)
        assert isinstance(loaded, JosieMelCodecModel)
        for (name, value), other in zip(model.named_buffers(), loaded.buffers(), strict=True):
            assert torch.equal(value, other), name
        assert torch.equal(model(audio).audio_values, loaded(audio).audio_values)


@torch.no_grad()
def test_bfloat16_is_finite():
    model, audio = make_model().to(torch.bfloat16), make_audio(2, 1, 300)
    assert model.train()(audio).loss.isfinite()
    output = model.eval()(audio)
    assert output.audio_values.dtype == torch.bfloat16
    assert output.audio_values.isfinite().all()


def long(*shape: int, value: int = 0) -> torch.Tensor:
    return torch.full(shape, value)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: m.encode(torch.zeros(1, 2, 9)), r"`input_values` must have 1 channel, got 2\."),
        (lambda m: m.encode(torch.zeros(1, 1, 0)), r"`input_values` must have at least 1 sample"),
        (lambda m: m(torch.full((1, 1, 9), torch.nan)), r"`input_values` must be finite"),
        (lambda m: m.encode(torch.zeros(1, 1, 9), num_quantizers=9), r"`num_quantizers` must be in \[1, 3\], got 9\."),
        (lambda m: m.encode(torch.zeros(1, 1, 9), use_streaming=True), "`use_streaming` must be False"),
        (lambda m: m.encode(torch.zeros(1, 1, 9), streaming_state=JodioStreamingState()), "does not stream"),
        (lambda m: m.decode(long(1, 3, 2), streaming_state=JodioStreamingState()), "does not stream"),
        (lambda m: m.decode(long(1, 4, 2)), "`audio_codes` must have shape"),
        (lambda m: m.decode(long(1, 3, 0)), "`audio_codes` must have at least 1 frame"),
        (lambda m: m.decode(long(1, 3, 2, value=17)), r"`audio_codes` must be in \[0, 16\]"),
        (lambda m: m.decode_to_mel(torch.zeros(1, 3, 2)), "`codes` must be integers"),
        (lambda m: m.decode(long(1, 3, 2), long(1, value=97)), r"`audio_lengths` must be in \[0, 96\]"),
        (lambda m: m.encode_mel(torch.zeros(1, 19, 4)), r"`mel` must have shape \(batch, 20, frames\)"),
        (lambda m: m.mel_to_audio(torch.zeros(1, 20, 0)), r"`mel` must have shape"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call(make_model())


def test_the_quantizer_is_muomnis():
    """With no layers and one mel frame a code, what is left is μOmni's residual quantizer, written out here."""
    model = make_model(**MUOMNI, num_quantizers=2)
    torch.nn.init.normal_(model.quantizer.proj_in.bias)
    torch.nn.init.normal_(model.quantizer.proj_out.bias)
    mel = torch.randn(1, 20, 13)
    residual, total, codes = model.quantizer.proj_in(mel[0].T), 0, []
    for quantizer in model.quantizer.quantizers:
        codes.append(torch.cdist(residual, quantizer.codebook).argmin(-1))
        total = total + quantizer.codebook[codes[-1]]
        residual = residual - quantizer.codebook[codes[-1]]
    assert torch.equal(model.encode_mel(mel)[0], torch.stack(codes))
    expected = model.quantizer.proj_out(total).T[None]
    torch.testing.assert_close(model.decode_to_mel(torch.stack(codes)[None]), expected)


def test_golden_values_of_muomni():
    folder = Path(__file__).parent / "data" / "muomni"
    golden = load_file(folder / "expected.safetensors")
    weights = torch.load(folder / "talker_tiny" / "talker.pt", weights_only=True)["rvq"]
    sizes = {"num_mel_bins": 128, "num_quantizers": 2, "codebook_size": 16, "codebook_dim": 8}
    model = make_model(**(MUOMNI | sizes))
    for name in ("proj_in", "proj_out"):
        part = {key.split(".")[1]: value for key, value in weights.items() if key.startswith(name)}
        getattr(model.quantizer, name).load_state_dict(part)
    for index, quantizer in enumerate(model.quantizer.quantizers):
        quantizer.codebook.copy_(weights[f"codebooks.{index}.weight"])
    codes = model.encode_mel(golden["rvq.mel"].transpose(1, 2))
    assert torch.equal(codes.transpose(1, 2), golden["rvq.codes"])
    torch.testing.assert_close(model.decode_to_mel(codes)[0].T, golden["rvq.decoded"], atol=1e-4, rtol=0)
    hearing = {"sampling_rate": 16000, "n_fft": 1024, "win_length": 400, "mel_hop_length": 160}
    model = make_model(**(MUOMNI | sizes | hearing))
    mel = model.extract_mel(golden["audio.waveform"][:, None]).transpose(1, 2)
    torch.testing.assert_close(mel, golden["audio.mel"], atol=1e-2, rtol=1e-4)


@SHAPES
@torch.no_grad()
def test_frames_of_longer_rows_do_not_reach_shorter_ones(changes):
    model, lengths = make_model(**changes), torch.tensor([4, 9, 1, 9])
    codes = torch.randint(model.config.codebook_size, (4, model.config.num_quantizers, 9))
    values, num_samples = decode_audio(model, codes, lengths)
    assert num_samples.tolist() == (lengths * model.config.hop_length).tolist()
    for row, length in enumerate(lengths.tolist()):
        alone, _ = decode_audio(model, codes[row : row + 1, :, :length], lengths[row : row + 1])
        size = alone.shape[-1]
        torch.testing.assert_close(values[row : row + 1, :, :size], alone, atol=1e-4, rtol=1e-3)
        assert values[row, :, size:].abs().sum() == 0


def test_files_with_sums_of_codebooks_load_without_a_word(tmp_path):
    model = make_model()
    model.save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    sums = {f"{name}_sum": value.clone() for name, value in weights.items() if name.endswith(".codebook")}
    assert len(sums) == 3
    save_file(weights | sums, tmp_path / "model.safetensors", metadata={"format": "pt"})
    loaded, info = JosieMelCodecModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["unexpected_keys"]
    assert not info["missing_keys"]
    for name, value in loaded.state_dict().items():
        assert torch.equal(value, weights[name]), name
