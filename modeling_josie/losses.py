"""Losses between waveforms, rows of different lengths in one batch.

Every loss is a mean over what is real, so a row counts by its length and padding not at all.
"""

import warnings
from functools import lru_cache

import torch
from torch import nn
from torchaudio.functional import melscale_fbanks

from .masks import length_mask

# Window lengths in samples; a quarter of each is the hop, a sixteenth the number of mel bands.
MEL_WINDOWS = (512, 1024, 2048)
_LOG_FLOOR = 1e-5


def masked_mean(values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Return the mean of `values` where `mask`, which broadcasts to it, is true; 0 where it never is."""
    mask = mask.expand_as(values).to(values.dtype)
    return (values * mask).sum() / mask.sum().clamp(min=1)


@lru_cache(maxsize=32)
def mel_filters(
    num_frequencies: int, num_mel_bins: int, sampling_rate: int, f_min: float, f_max: float, norm: str | None
) -> torch.Tensor:
    """Return triangular filters on the HTK mel scale, `(num_frequencies, num_mel_bins)`, float32 on the CPU."""
    with torch.inference_mode(False), torch.device("cpu"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about bands narrower than the transform resolves: they stay empty
        return melscale_fbanks(num_frequencies, f_min, f_max, num_mel_bins, sampling_rate, norm=norm)


def waveform_loss(predicted: torch.Tensor, target: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    """Return the mean absolute difference of waveforms.

    Args:
        predicted, target (`torch.Tensor`): `(batch, channels, num_samples)`.
        lengths (`torch.LongTensor`): `(batch,)`, samples of each row.
    """
    return masked_mean((predicted.float() - target.float()).abs(), length_mask(lengths, target.shape[-1])[:, None])


def log_mel_loss(
    predicted: torch.Tensor, target: torch.Tensor, lengths: torch.Tensor, sampling_rate: int
) -> torch.Tensor:
    """Return the mean absolute difference of log-mel spectrograms at several resolutions (Kumar et al., 2023).

    Args:
        predicted, target (`torch.Tensor`): `(batch, channels, num_samples)`, 0 past a row's end.
        lengths (`torch.LongTensor`): `(batch,)`, samples of each row.
        sampling_rate (`int`): In Hz.
    """
    with torch.autocast(predicted.device.type, enabled=False):
        waveforms = torch.cat((predicted.float(), target.float())).flatten(0, 1)
        losses = []
        for window_length in MEL_WINDOWS:
            hop = window_length // 4
            spectra = torch.stft(
                waveforms,
                window_length,
                hop_length=hop,
                window=torch.hann_window(window_length, device=waveforms.device),
                pad_mode="constant",
                return_complex=True,
            )
            # The square root has no gradient at 0, where digital silence is.
            magnitudes = (spectra.real.square() + spectra.imag.square()).clamp(min=_LOG_FLOOR**2).sqrt()
            num_bins = window_length // 16
            filters = mel_filters(window_length // 2 + 1, num_bins, sampling_rate, 0.0, sampling_rate / 2, None)
            mel = filters.to(waveforms.device).T @ magnitudes
            logs = mel.clamp(min=_LOG_FLOOR).log().unflatten(0, (2, *predicted.shape[:2]))
            # A frame is real when its centre is.
            mask = length_mask((lengths + hop - 1) // hop, logs.shape[-1])
            losses.append(masked_mean((logs[0] - logs[1]).abs(), mask[:, None, None]))
        return torch.stack(losses).mean()


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
    real = labels != -100
    log_probs = logits.float().log_softmax(-1).transpose(0, 1)
    return nn.functional.ctc_loss(log_probs, labels[real], num_frames, real.sum(-1), zero_infinity=True)


def weighted_sum(losses: dict[str, torch.Tensor], weights: dict[str, float]) -> torch.Tensor:
    """Return the sum of named losses, each times its weight, which is 1 where `weights` has none."""
    return torch.stack([loss * weights.get(name, 1.0) for name, loss in losses.items()]).sum()
