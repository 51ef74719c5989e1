"""To mel bands and back to a waveform without learning: non-negative inversion of the mel filters, then Griffin-Lim."""

from functools import lru_cache
from typing import Any

import torch
from torchaudio.functional import griffinlim

from ...configuration_josie import JosieMelCodecConfig, JosieMelConfig
from ..losses.audio import mel_filters

# A logarithm that no waveform in [-1, 1] reaches; keeps untrained decoders finite.
_MAX_LOG_MEL = 15.0
# Start of linear bands that the pseudo-inverse leaves empty: multiplicative updates cannot leave 0.
_MIN_LINEAR = 1e-8


def build_mel_filters(config: JosieMelConfig, device: torch.device) -> torch.Tensor:
    """Return the codec's mel filters, `(n_fft // 2 + 1, num_mel_bins)`."""
    return mel_filters(*_filter_arguments(config)).to(device)


def build_mel_inverse(config: JosieMelConfig, device: torch.device) -> torch.Tensor:
    """Return the pseudo-inverse of the codec's mel filters, `(num_mel_bins, n_fft // 2 + 1)`."""
    return _invert_filters(*_filter_arguments(config)).to(device)


@lru_cache(maxsize=32)
def _invert_filters(*arguments: Any) -> torch.Tensor:
    with torch.inference_mode(False):
        return torch.linalg.pinv(mel_filters(*arguments))


def _filter_arguments(config: JosieMelConfig) -> tuple[int, int, int, float, float, str | None]:
    f_max = config.sampling_rate / 2 if config.f_max is None else float(config.f_max)
    num_frequencies = config.n_fft // 2 + 1
    return num_frequencies, config.num_mel_bins, config.sampling_rate, float(config.f_min), f_max, config.mel_norm


def compress_spectra(config: JosieMelConfig, magnitudes: torch.Tensor) -> torch.Tensor:
    """Return mel bands, with logarithm and normalisation as configured.

    Args:
        config ([`JosieMelConfig`]): Filters and normalisation.
        magnitudes (`torch.Tensor`): `(batch, n_fft // 2 + 1, frames)`.

    Returns:
        `torch.Tensor` of shape `(batch, num_mel_bins, frames)`.
    """
    mel = build_mel_filters(config, magnitudes.device).to(magnitudes.dtype).T @ magnitudes.pow(config.mel_power)
    if config.log_mel:
        mel = mel.clamp(min=config.log_floor).log()
    return (mel - config.mel_mean) / config.mel_std


def mel_to_waveform(config: JosieMelCodecConfig, mel: torch.Tensor, num_samples: int) -> torch.Tensor:
    """Return the waveforms of mel spectrograms of one length, by Griffin-Lim with momentum (Perraudin et al., 2013).

    Phases start at zero, so that the result repeats. Where the hop leaves Griffin-Lim less overlap than three quarters
    of a window, mel frames are first interpolated to a divisor of it.

    Args:
        config ([`JosieMelCodecConfig`]): Transform, normalisation and iterations.
        mel (`torch.Tensor`): `(batch, num_mel_bins, num_mel_frames)`, float32, normalised.
        num_samples (`int`): Length of the result, at least 1.

    Returns:
        `torch.Tensor` of shape `(batch, num_samples)`.
    """
    hop = config.mel_hop_length
    fine_hop = max(size for size in range(1, hop + 1) if hop % size == 0 and size <= max(config.win_length // 4, 1))
    # The transform inside reflects half a window, which takes that many samples.
    work_length = max(num_samples, config.n_fft // 2 + 1)
    num_frames = min(mel.shape[-1], num_samples // hop + 1)
    places = torch.arange(work_length // fine_hop + 1, device=mel.device) * (fine_hop / hop)
    places = places.clamp(max=num_frames - 1)
    before, after = places.floor().long(), places.ceil().long()
    mel = mel[..., before].lerp(mel[..., after], places - before)
    waveforms = griffinlim(
        invert_mel(config, mel),
        torch.hann_window(config.win_length, device=mel.device),
        config.n_fft,
        fine_hop,
        config.win_length,
        power=config.mel_power,
        n_iter=config.griffin_lim_iterations,
        momentum=config.griffin_lim_momentum,
        length=work_length,
        rand_init=False,
    )
    return waveforms[:, :num_samples]


def invert_mel(config: JosieMelConfig, mel: torch.Tensor) -> torch.Tensor:
    """Return linear bands, at least 0, whose mel bands come close to `mel`.

    The start is the filters' pseudo-inverse; multiplicative updates (Lee and Seung, 2000) then lower the squared error.

    Args:
        config ([`JosieMelConfig`]): Filters, normalisation and iterations.
        mel (`torch.Tensor`): `(batch, num_mel_bins, frames)`, normalised.

    Returns:
        `torch.Tensor` of shape `(batch, n_fft // 2 + 1, frames)`, to the configured `mel_power`.
    """
    mel = mel * config.mel_std + config.mel_mean
    mel = mel.clamp(max=_MAX_LOG_MEL).exp() if config.log_mel else mel.clamp(min=0)
    filters = build_mel_filters(config, mel.device).to(mel.dtype)
    linear = (build_mel_inverse(config, mel.device).to(mel.dtype).T @ mel).clamp(min=_MIN_LINEAR)
    wanted = filters @ mel
    for _ in range(config.inversion_iterations):
        linear = linear * wanted / (filters @ (filters.T @ linear)).clamp(min=_MIN_LINEAR)
    return linear
