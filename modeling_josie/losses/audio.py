"""Losses between waveforms, rows of different lengths in one batch.

Every loss is a mean over what is real, so a row counts by its length and padding not at all.
"""

from collections.abc import Collection, Sequence

import torch
from torch import nn

from ...configuration_josie import JosieCodecConfig
from ...configuration_josie.constants import IGNORE_INDEX
from ..layers.masks import length_mask
from ..mel import create_mel_filterbank

# Smallest magnitude whose logarithm is compared: some 70 dB below full scale in windows of these lengths. Below it lies
# what nobody hears, digital silence too, which a network would spend itself on.
_LOG_FLOOR = 1e-2
# Smallest norm that is divided by.
_NORM_FLOOR = 1e-3


def masked_mean(values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Return the mean of `values` where `mask`, which broadcasts to it, is true; 0 where it never is."""
    mask = mask.expand_as(values).to(values.dtype)
    return (values * mask).sum() / mask.sum().clamp(min=1)


def waveform_loss(predicted: torch.Tensor, target: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    """Return the mean absolute difference of waveforms.

    Args:
        predicted, target (`torch.Tensor`): `(batch, channels, num_samples)`.
        lengths (`torch.LongTensor`): `(batch,)`, samples of each row.
    """
    return masked_mean((predicted.float() - target.float()).abs(), length_mask(lengths, target.shape[-1])[:, None])


def spectral_losses(
    predicted: torch.Tensor,
    target: torch.Tensor,
    lengths: torch.Tensor,
    sampling_rate: int,
    windows: Sequence[int] = (512, 1024, 2048),
    names: Collection[str] = ("mel", "stft"),
) -> dict[str, torch.Tensor]:
    """Return distances of spectrograms at several resolutions, from one transform at each, in float32.

    A quarter of a window is its hop, a sixteenth the number of its mel bands.

    Args:
        predicted, target (`torch.Tensor`): `(batch, channels, num_samples)`, 0 past a row's end.
        lengths (`torch.LongTensor`): `(batch,)`, samples of each row.
        sampling_rate (`int`): In Hz.
        windows (`Sequence[int]`): Window lengths in samples.
        names (`Collection[str]`): Which to compute.

    Returns:
        `mel`, the mean absolute difference of log-mel spectrograms (Kumar et al., 2023); and `stft`, the spectral
        convergence plus the mean absolute difference of log magnitudes (Yamamoto et al., 2020), in which the
        convergence is that of the whole batch, so that silent rows divide by nothing small. Means over the windows.
    """
    parts: dict[str, list[torch.Tensor]] = {name: [] for name in names}
    with torch.autocast(predicted.device.type, enabled=False):
        for window_length in windows:
            hop = window_length // 4
            ours = _power_spectrogram(predicted, window_length, hop)
            with torch.no_grad():
                theirs = _power_spectrogram(target, window_length, hop)
            # A frame is real when its centre is.
            mask = length_mask((lengths + hop - 1) // hop, ours.shape[-1])[:, None, None]
            powers = (ours, theirs)
            magnitudes = [power.clamp(min=_LOG_FLOOR**2).sqrt() for power in powers]
            if "mel" in parts:
                filters = create_mel_filterbank(
                    window_length // 2 + 1, window_length // 16, sampling_rate, 0.0, sampling_rate / 2, None
                ).to(predicted.device)
                logs = [(filters.T @ values).clamp(min=_LOG_FLOOR).log() for values in magnitudes]
                parts["mel"].append(masked_mean((logs[0] - logs[1]).abs(), mask))
            if "stft" in parts:
                real = mask.to(magnitudes[0].dtype)
                squares = ((magnitudes[0] - magnitudes[1]) * real).square().sum(), (magnitudes[1] * real).square().sum()
                # The square root has no gradient at 0, where nothing differs.
                convergence, size = (value.clamp(min=_NORM_FLOOR**2).sqrt() for value in squares)
                logs = [0.5 * power.clamp(min=_LOG_FLOOR**2).log() for power in powers]
                parts["stft"].append(convergence / size + masked_mean((logs[0] - logs[1]).abs(), mask))
    return {name: torch.stack(values).mean() for name, values in parts.items()}


def _power_spectrogram(waveforms: torch.Tensor, window_length: int, hop_length: int) -> torch.Tensor:
    """Map `(batch, channels, num_samples)` to squared magnitudes, `(batch, channels, frequencies, frames)`."""
    spectra = torch.stft(
        waveforms.float().flatten(0, 1),
        window_length,
        hop_length=hop_length,
        window=torch.hann_window(window_length, dtype=torch.float32, device=waveforms.device),
        pad_mode="constant",
        return_complex=True,
    )
    return (spectra.real.square() + spectra.imag.square()).unflatten(0, waveforms.shape[:2])


def semantic_loss(predicted: torch.Tensor, target: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Return the mean cosine distance of frame features.

    Args:
        predicted (`torch.Tensor`): `(batch, num_frames, size)`.
        target (`torch.Tensor`): `(batch, any number of frames, size)`; stretched in time to `num_frames`.
        mask (`torch.Tensor`): `(batch, num_frames)`, 1 for real frames.
    """
    target = target.float()
    if target.shape[1] != predicted.shape[1]:
        target = nn.functional.interpolate(target.transpose(1, 2), size=predicted.shape[1], mode="linear").transpose(
            1, 2
        )
    return masked_mean(1 - nn.functional.cosine_similarity(predicted.float(), target, dim=-1), mask)


def ctc_loss(logits: torch.Tensor, labels: torch.Tensor, num_frames: torch.Tensor) -> torch.Tensor:
    """Return the connectionist temporal classification loss (Graves et al., 2006); label 0 is the blank.

    Args:
        logits (`torch.Tensor`): `(batch, frames, num_labels)`.
        labels (`torch.LongTensor`): `(batch, num_labels)`, -100 for padding. Rows with more labels than fit add 0.
        num_frames (`torch.LongTensor`): `(batch,)`, real frames of each row.
    """
    real = labels != IGNORE_INDEX
    log_probs = logits.float().log_softmax(-1).transpose(0, 1)
    return nn.functional.ctc_loss(log_probs, labels[real], num_frames, real.sum(-1), zero_infinity=True)


def weighted_sum(losses: dict[str, torch.Tensor], config: JosieCodecConfig) -> torch.Tensor:
    """Return the sum of named losses, each times the configuration's weight, which is called `{name}_weight`."""
    return torch.stack([loss * getattr(config, f"{name}_weight") for name, loss in losses.items()]).sum()
