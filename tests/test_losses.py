"""Laws of JODIO's losses."""

import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from test_jodio import make_audio, make_model

from josie.configuration_josie import JodioConfig
from josie.modeling_josie.losses.audio import _LOG_FLOOR, ctc_loss, spectral_losses, weighted_sum

LOSSES = ("waveform", "mel", "stft", "commitment", "codebook", "semantic", "ctc")
WINDOWS = (64, 128)


def naive_stft_loss(predicted: torch.Tensor, target: torch.Tensor, window: int) -> torch.Tensor:
    """Spectral convergence and log-magnitude distance of whole waveforms, `(batch, num_samples)`."""
    hop, pad = window // 4, window // 2
    spectra = []
    for waveforms in (predicted, target):
        frames = torch.nn.functional.pad(waveforms, (pad, pad)).unfold(1, window, hop)
        spectra.append(torch.fft.rfft(frames * torch.hann_window(window)).abs()[:, : -(-waveforms.shape[1] // hop)])
    ours, theirs = spectra
    convergence = (ours - theirs).norm() / theirs.norm()
    return convergence + (ours.clamp(min=_LOG_FLOOR).log() - theirs.clamp(min=_LOG_FLOOR).log()).abs().mean()


def training_inputs() -> dict[str, torch.Tensor]:
    mask = torch.ones(3, 203)
    mask[1, 100:] = 0
    labels = torch.tensor([[1, 2, -100], [3, -100, -100], [2, 2, 5]])
    return {
        "input_values": make_audio(3, 1, 203),
        "padding_mask": mask,
        "semantic_targets": torch.randn(3, 13, 5, generator=torch.Generator().manual_seed(2)),
        "labels": labels,
    }


def weigh(*names: str) -> dict[str, float]:
    """Return weights under which only these losses count."""
    return {f"{name}_weight": float(name in names) for name in LOSSES}


def test_the_stft_loss_is_the_naive_one():
    audio, other = make_audio(2, 1, 1001), make_audio(2, 1, 1001).flip(0)
    lengths = torch.tensor([1001, 1001])
    for window in (64, 100):
        losses = spectral_losses(other, audio, lengths, 16000, [window], ["stft"])
        torch.testing.assert_close(losses["stft"], naive_stft_loss(other[:, 0], audio[:, 0], window))
    parts = [spectral_losses(other, audio, lengths, 16000, [window]) for window in WINDOWS]
    whole = spectral_losses(other, audio, lengths, 16000, WINDOWS)
    for name in ("mel", "stft"):
        torch.testing.assert_close(whole[name], (parts[0][name] + parts[1][name]) / 2)


@pytest.mark.parametrize("rate", [16000, 24000])
def test_what_is_equal_has_no_loss_and_finite_gradients(rate):
    audio = make_audio(2, 1, 999)
    audio[1] = 0
    predicted = audio.clone().requires_grad_(True)
    losses = spectral_losses(predicted, audio, torch.tensor([999, 999]), rate)
    assert losses["mel"] == 0
    assert losses["stft"] < 1e-4
    sum(losses.values()).backward()
    assert predicted.grad.isfinite().all()


def test_padding_counts_nowhere():
    audio, other = make_audio(2, 1, 500), make_audio(2, 1, 500).flip(-1)
    lengths = torch.tensor([500, 123])
    for values in (audio, other):
        values[1, :, 123:] = 0
    padded = [torch.nn.functional.pad(values, (0, 333)) for values in (audio, other)]
    torch.testing.assert_close(
        spectral_losses(*padded, lengths, 16000, WINDOWS), spectral_losses(audio, other, lengths, 16000, WINDOWS)
    )


def test_the_loss_is_the_weighted_sum_of_its_parts():
    weights = {f"{name}_weight": 0.5 + index for index, name in enumerate(LOSSES)}
    model = make_model(codebook_update="gradient", loss_windows=list(WINDOWS), **weights).train()
    output = model(**training_inputs())
    assert output.losses.keys() == set(LOSSES)
    expected = sum(weights[f"{name}_weight"] * value for name, value in output.losses.items())
    torch.testing.assert_close(output.loss, expected)
    torch.testing.assert_close(weighted_sum(output.losses, model.config), expected)


def test_losses_come_when_they_are_asked_for():
    model, inputs = make_model(loss_windows=list(WINDOWS)), training_inputs()
    assert model(**inputs).loss is None
    before = {name: value.clone() for name, value in model.state_dict().items()}
    output = model(**inputs, return_loss=True)
    assert output.losses.keys() == set(LOSSES) - {"codebook"}
    assert output.loss.isfinite()
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert model.train()(**inputs, return_loss=False).loss is None


def test_what_weighs_nothing_is_not_computed():
    model = make_model(waveform_weight=0, mel_weight=0.0, stft_weight=0).train()
    assert model(make_audio(1, 1, 99)).losses.keys() == {"commitment"}


@pytest.mark.parametrize("autocast", [False, True], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("name", LOSSES)
def test_each_loss_moves_what_it_can_reach(name, autocast):
    model = make_model(codebook_update="gradient", loss_windows=list(WINDOWS), **weigh(name)).train()
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        output = model(**training_inputs())
    assert all(value.dtype == torch.float32 for value in output.losses.values())
    output.loss.backward()
    decoder = ("latent_proj", "decoder_transformer", "decoder_proj", "decoder.")
    reached = {
        "semantic": lambda parameter: not parameter.startswith((*decoder, "label_head", "quantizer.acoustic")),
        "ctc": lambda parameter: not parameter.startswith((*decoder, "semantic_head", "quantizer.acoustic")),
        "commitment": lambda parameter: parameter.startswith(("encoder", "quantizer")) and "proj_out" not in parameter,
        "codebook": lambda parameter: parameter.startswith("quantizer") and parameter.endswith("codebook"),
    }.get(name, lambda parameter: not parameter.startswith(("semantic_head", "label_head")))
    for parameter_name, parameter in model.named_parameters():
        if parameter.grad is not None:
            assert parameter.grad.isfinite().all(), parameter_name
        if reached(parameter_name) and not (name != "codebook" and parameter_name.endswith("codebook")):
            assert parameter.grad is not None, parameter_name
            assert parameter.grad.abs().sum() > 0, parameter_name


@pytest.mark.parametrize("name", ["waveform", "mel", "stft", "semantic", "ctc"])
def test_training_lowers_each_loss(name):
    model = make_model(loss_windows=list(WINDOWS), **weigh(name, "commitment")).train()
    inputs = training_inputs()
    tones = torch.arange(203) * torch.tensor([0.1, 0.2, 0.05])[:, None]
    inputs["input_values"] = 0.5 * tones.sin()[:, None]
    optimizer = torch.optim.Adam(model.parameters(), 5e-3)
    losses = []
    for _ in range(40):
        output = model(**inputs)
        optimizer.zero_grad()
        output.loss.backward()
        optimizer.step()
        losses.append(output.losses[name].item())
    assert sum(losses[-3:]) < 0.9 * sum(losses[:3])


def test_rows_without_labels_add_nothing_to_ctc():
    logits = torch.randn(2, 9, 7)
    labels, frames = torch.tensor([[1, 2, -100], [-100, -100, -100]]), torch.tensor([9, 5])
    alone = ctc_loss(logits[:1], labels[:1], frames[:1])
    assert alone > 0
    assert ctc_loss(logits[:1], labels[:1, :2], frames[:1]) == alone
    too_long = torch.tensor([[1, 1, 2, 2, 3, 3, 4, 4, 5, 5]])
    assert ctc_loss(logits[:1], too_long, frames[:1]) == 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mel_weight": -1}, "`mel_weight` must be at least 0, got -1"),
        ({"loss_windows": []}, r"`loss_windows` must hold numbers of at least 16, got \[\]"),
        ({"loss_windows": [8, 64]}, r"`loss_windows` must hold numbers of at least 16, got \[8, 64\]"),
    ],
)
def test_wrong_weights_and_windows_are_named(changes, message):
    with pytest.raises(StrictDataclassError, match=message):
        JodioConfig(**changes)
