"""Laws of JODIO in the mel domain: analysis, synthesis, skip connection, pieces, training."""

import copy
import json
import pickle

import numpy as np
import pytest
import torch
from test_jodio import MEL, make_audio, make_model
from torchaudio.transforms import MelSpectrogram

from josie.configuration_josie import JodioConfig, JodioDiscriminatorConfig
from josie.modeling_josie import JodioDiscriminatorModel
from josie.modeling_josie.codecs.mel_transform import MelAnalysis, MelSynthesis, synthesis_targets
from josie.modeling_josie.codecs.spectral import latents_to_mel, mel_to_latents
from josie.modeling_josie.mel import waveform_to_mel
from josie.training.codec_trainer import CodecTrainer, CodecTrainingArguments

SMALL = {
    "domain": "mel",
    "waveform_weight": 0,
    "stft_weight": 0,
    "sampling_rate": 8000,
    "n_fft": 128,
    "mel_hop_length": 40,
    "mel_lookahead": 40,
    "num_mel_bins": 40,
    "log_floor": 1e-3,
    "mel_mean": -2.0,
    "mel_std": 1.5,
}


def make_tones(num_samples: int) -> torch.Tensor:
    """Return two rows of gliding tones, `(2, num_samples)`."""
    time = torch.arange(num_samples) / 8000
    phases = [2 * torch.pi * (pitch * time + 300 * time.square()) for pitch in (310.0, 170.0)]
    return torch.stack([sum(0.1 / n * (n * phase).sin() for n in range(1, 6)) for phase in phases])


def test_the_analysis_is_torchaudios():
    config, audio = JodioConfig(**SMALL), make_tones(1000)
    transform = MelSpectrogram(8000, 128, hop_length=40, n_mels=40, power=1.0, center=False)
    expected = (transform(audio).clamp(min=1e-3).log() + 2) / 1.5
    torch.testing.assert_close(waveform_to_mel(config, audio), expected.transpose(1, 2), atol=1e-4, rtol=1e-4)
    late = audio[:, 8:968]  # windows that end with a hop begin 88 samples before it
    mel, context = MelAnalysis(config)(late[..., None])
    torch.testing.assert_close(mel[:, 3:], expected.transpose(1, 2)[:, 1:22], atol=1e-4, rtol=1e-4)
    assert torch.equal(context[..., 0], late[:, -88:])


@pytest.mark.parametrize("lookahead", [30, 40, 88])
@torch.no_grad()
def test_a_clip_comes_back_at_once(lookahead):
    config, audio = JodioConfig(**(SMALL | {"mel_lookahead": lookahead})), make_tones(4000)
    again, _ = MelSynthesis(config)(synthesis_targets(config, audio))
    assert again.shape == (2, 4000, 1)
    # Of magnitudes, as a spectrogram that no audio has exactly leaves a little noise in the empty bands.
    wanted, actual = (
        (waveform_to_mel(config, clip[:, 400:]) * config.mel_std + config.mel_mean).exp()
        for clip in (audio, again[..., 0])
    )
    assert (actual - wanted).norm() < 0.15 * wanted.norm()


@pytest.mark.parametrize("lookahead", [40, 88])
@torch.no_grad()
def test_the_synthesis_is_the_textbooks(lookahead):
    config = JodioConfig(**(SMALL | {"mel_lookahead": lookahead}), phase_iterations=3)
    layer = MelSynthesis(config)
    mel = synthesis_targets(config, make_tones(400))[:1]
    magnitudes = layer._find_magnitudes(mel)[0].double().numpy()
    window, given = np.hanning(129)[:-1], 88 - lookahead
    laid = np.where(np.arange(128) < given, 0, window)
    signal, sums, powers = np.zeros(500), np.zeros(500), np.zeros(500)
    for index, magnitude in enumerate(magnitudes):
        place, new = slice(40 * index, 40 * index + 128), slice(40 * index + given, 40 * index + given + 40)
        powers[place] += laid**2

        def overlay(frame, place=place):  # the signal under the window
            later = (sums[place] + laid * frame) / np.maximum(powers[place], 1e-3)
            return np.where(np.arange(128) < given, signal[place], later)

        spectrum = np.fft.rfft(overlay(0) * window) + 1e-4 * (-1.0) ** np.arange(65)
        for _ in range(3):
            frame = np.fft.irfft(magnitude * np.exp(1j * np.angle(spectrum)))
            spectrum = np.fft.rfft(overlay(frame) * window)
        frame = np.fft.irfft(magnitude * np.exp(1j * np.angle(spectrum)))
        signal[new] = overlay(frame)[given : given + 40]
        sums[place] += laid * frame
    # Chaos: float32 and float64 part after some frames.
    actual = layer(mel)[0][0, :160, 0].numpy()
    np.testing.assert_allclose(actual, signal[given : given + 160], atol=1e-3)
    assert np.abs(actual).max() > 0.1


def shake(transform):
    """Return a Fourier transform that errs in its last digits, each time otherwise, as if on another processor."""

    def shaky(values, **options):
        result = transform(values, **options)
        return result + 1e-16 * result.abs().amax(dim=-1, keepdim=True) * torch.randn_like(result)

    return shaky


@pytest.mark.parametrize("sizes", [[1] * 25, [3, 7, 2, 13], [24, 1]], ids=str)
@torch.no_grad()
def test_pieces_and_rows_give_the_same_to_the_bit(sizes, monkeypatch):
    for name in ("rfft", "irfft"):
        monkeypatch.setattr(torch.fft, name, shake(getattr(torch.fft, name)))
    layer, mel = MelSynthesis(JodioConfig(**SMALL)), waveform_to_mel(JodioConfig(**SMALL), make_tones(1088)).double()
    whole, last = layer(mel)
    context, pieces = None, []
    for piece in mel.split(sizes, dim=1):
        # As much as float64 differs between shapes.
        values, context = layer(piece + 1e-13 * torch.randn_like(piece), context)
        pieces.append(values)
    assert torch.equal(torch.cat(pieces, dim=1), whole)
    assert torch.equal(context, last)
    assert torch.equal(layer(mel[1:])[0], whole[1:])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@torch.no_grad()
def test_a_model_of_any_type_streams_the_whole_to_the_bit(dtype):
    model, codes = make_model(**MEL).to(dtype), torch.randint(0, 32, (3, 4, 40))
    whole, state, pieces = model.decode(codes).audio_values, None, []
    for piece in codes.split([1, 5, 0, 34], dim=-1):
        output = model.decode(piece, streaming_state=state, use_streaming=True)
        state = output.streaming_state
        pieces.append(output.audio_values)
    assert whole.dtype == dtype
    assert torch.isfinite(whole).all()
    assert torch.equal(torch.cat(pieces, dim=-1), whole)
    assert torch.equal(model.decode(codes[1:2]).audio_values, whole[1:2])
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(model.decode(codes).audio_values, whole)


@torch.no_grad()
def test_the_copy_in_float64_follows_the_weights_and_is_no_part_of_the_model():
    model, codes = make_model(**MEL), torch.randint(0, 32, (1, 4, 9))
    names, first = list(model.state_dict()), model.decode(codes).audio_values
    assert model.get_decoding().proj.weight.dtype == torch.float64
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(twin.decode(codes).audio_values, first)
    model.decoder_proj.weight.mul_(2)
    assert not torch.equal(model.decode(codes).audio_values, first)
    model.decoder_proj.weight.div_(2)
    assert torch.equal(model.decode(codes).audio_values, first)
    assert list(model.prepare_for_inference().state_dict()) == names
    assert model.get_decoding() is model.get_decoding()
    assert torch.equal(model.decode(codes).audio_values, first)
    model.decoder.layers[0].double().float()  # a part that is cast: the copy no longer stands for it
    assert model.get_decoding() is not model.get_decoding()
    plain = make_model().prepare_for_inference()
    assert plain.get_decoding().stack is plain.decoder


@pytest.mark.parametrize("size", [20, 160, 200])
def test_the_path_around_the_layers_is_a_smoothed_copy(size):
    config = JodioConfig(**SMALL, channels=[4, 4], upsampling_ratios=[4])
    mel, _ = MelAnalysis(config)(make_tones(1600)[..., None])
    latents = mel_to_latents(config, mel, size)
    assert latents.shape == (2, 10, size)
    later = torch.cat((mel[:, 1:], mel[:, -1:]), dim=1).unflatten(1, (10, 4))  # by the lookahead, a hop
    later[:, :, 3] = later[:, :, 2]
    copied = latents_to_mel(config, latents).unflatten(1, (10, 4))
    if size >= 160:
        torch.testing.assert_close(copied, later, atol=1e-4, rtol=1e-4)
    else:
        assert 0 < (copied - later).norm() < later.norm()
        torch.testing.assert_close(copied.mean((-1, -2)), later.mean((-1, -2)), atol=1e-4, rtol=1e-4)


def test_training_compares_mel_frames_and_makes_no_waveform(monkeypatch):
    monkeypatch.setattr(MelSynthesis, "forward", None)
    model, audio = make_model(**MEL).train(), make_audio(2, 1, 60)
    mask = torch.ones(2, 60)
    mask[1, 3:] = 0  # shorter than hop and lookahead, so that nothing is known of it
    output = model(audio, mask)
    assert output.audio_values is None
    assert set(output.losses) == {"mel", "commitment"}
    output.loss.backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in model.decoder.parameters())
    model.eval()
    with torch.no_grad():
        loss = model(audio, mask, return_loss=True).losses["mel"]
        quantized = model.quantizer.decode(model.encode(audio[:1]).audio_codes)
        predicted = model._own_decoding().predict_mel(quantized)
        known = synthesis_targets(model.config, audio[:1, 0])[:, : (60 - 3) // 2]
    torch.testing.assert_close(loss, (predicted[:, : known.shape[1]] - known).abs().mean())
    assert not make_model(**MEL, mel_weight=0).train()(audio).losses.keys() & {"mel"}


def test_a_discriminator_is_refused(tmp_path):
    audio = [{"input_values": row} for row in make_audio(4, 1, 60)]
    arguments = CodecTrainingArguments(str(tmp_path), max_steps=1, report_to="none", use_cpu=True, disable_tqdm=True)
    discriminator = JodioDiscriminatorModel(JodioDiscriminatorConfig())
    trainer = CodecTrainer(make_model(**MEL), arguments, discriminator=discriminator, train_dataset=audio)
    with pytest.raises(ValueError, match="`discriminator` must be None for a codec that makes no `audio_values`"):
        trainer.train()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"audio_channels": 2}, "`audio_channels` must be 1 when `domain` is 'mel', got 2"),
        ({"mel_hop_length": 5}, "`mel_hop_length` must be at most half of `n_fft` .8. when `domain` is 'mel'.* got 5"),
        ({"mel_lookahead": 7}, "`mel_lookahead` must be in .0, 6., what a window of `n_fft` leaves .* got 7"),
        ({"waveform_weight": 1.0}, "`waveform_weight` must be 0 when `domain` is 'mel'.* got 1.0"),
        ({"stft_weight": 0.5}, "`stft_weight` must be 0 when `domain` is 'mel'.* got 0.5"),
        ({"phase_iterations": 0}, "`phase_iterations` must be at least 1, got 0"),
        ({"num_mel_bins": 0}, "`num_mel_bins` must be at least 1, got 0"),
        ({"domain": "linear"}, "linear"),
    ],
)
def test_an_impossible_mel_domain_is_named(changes, message):
    with pytest.raises(Exception, match=message):
        make_model(**(MEL | changes))


def test_frames_are_as_long_as_mel_frames_and_strides_say():
    config = JodioConfig(**SMALL, channels=[4, 4, 4], upsampling_ratios=[2, 3])
    assert config.hop_length == config.frame_size == config.algorithmic_delay == 240
    assert config.frame_rate == 8000 / 240
    assert config.get_num_frames(241) == 2


@pytest.mark.parametrize("former", [{"ends": "mel"}, {"mel_overhang": 1}], ids=str)
def test_former_names_of_fields_still_work(former, tmp_path):
    (old, value), new = next(iter(former.items())), {"ends": "domain", "mel_overhang": "mel_lookahead"}
    with pytest.warns(FutureWarning, match=f"`{old}` is deprecated .* it is `{new[old]}` now"):
        config = JodioConfig(**(SMALL | {"domain": "mel"} | former))
    assert getattr(config, new[old]) == value
    with pytest.warns(FutureWarning, match=old):
        assert getattr(config, old) == value
    with pytest.warns(FutureWarning, match=old):
        setattr(config, old, value)
    saved = config.to_dict()
    assert saved[new[old]] == value
    assert old not in saved
    saved[old] = saved.pop(new[old])
    (tmp_path / "config.json").write_text(json.dumps(saved))
    with pytest.warns(FutureWarning, match=old):
        assert JodioConfig.from_pretrained(tmp_path).to_dict() == config.to_dict()
