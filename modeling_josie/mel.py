"""Mel spectrograms: filterbank, from waveforms to mel bands, and from mel bands to spectra and waveforms.

Nothing here learns. `config` is that of a codec, which says transform, filters and normalisation.
"""

import warnings
from functools import lru_cache
from typing import Any

import torch
from torchaudio.functional import griffinlim, melscale_fbanks
from transformers.modeling_utils import local_torch_dtype

from ..configuration_josie import JosieMelCodecConfig, JosieMelConfig

# A logarithm that no waveform in [-1, 1] reaches; keeps untrained decoders finite.
_MAX_LOG_MEL = 15.0
# Start of linear bands that the pseudo-inverse leaves empty: multiplicative updates cannot leave 0.
_MIN_LINEAR = 1e-8


@lru_cache(maxsize=32)
def create_mel_filterbank(
    num_frequencies: int, num_mel_bins: int, sampling_rate: int, f_min: float, f_max: float, norm: str | None
) -> torch.Tensor:
    """Return triangular filters on the HTK mel scale, `(num_frequencies, num_mel_bins)`, float32 on the CPU.

    Args:
        num_frequencies (`int`): Frequencies of the transform, from 0 to half the rate.
        num_mel_bins (`int`): Filters.
        sampling_rate (`int`): In Hz.
        f_min, f_max (`float`): Range of the filters, in Hz.
        norm (`"slaney"`, *optional*): Whether each filter has an area of 1.
    """
    with (
        torch.inference_mode(False),
        torch.device("cpu"),
        local_torch_dtype(torch.float32),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")  # about bands narrower than the transform resolves: they stay empty
        return melscale_fbanks(num_frequencies, f_min, f_max, num_mel_bins, sampling_rate, norm=norm)


@lru_cache(maxsize=32)
def _invert_mel_filterbank(*arguments: Any) -> torch.Tensor:
    with torch.inference_mode(False):
        return torch.linalg.pinv(create_mel_filterbank(*arguments))


def _filterbank_arguments(config: JosieMelConfig) -> tuple[int, int, int, float, float, str | None]:
    f_max = config.sampling_rate / 2 if config.f_max is None else float(config.f_max)
    num_frequencies = config.n_fft // 2 + 1
    return num_frequencies, config.num_mel_bins, config.sampling_rate, float(config.f_min), f_max, config.mel_norm


def get_mel_filterbank(config: JosieMelConfig, like: torch.Tensor) -> torch.Tensor:
    """Return the filters, `(n_fft // 2 + 1, num_mel_bins)`, in the type and on the device of `like`."""
    return create_mel_filterbank(*_filterbank_arguments(config)).to(like)


def get_inverse_mel_filterbank(config: JosieMelConfig, like: torch.Tensor) -> torch.Tensor:
    """Return the filters' pseudo-inverse, `(num_mel_bins, n_fft // 2 + 1)`, in type and device of `like`."""
    return _invert_mel_filterbank(*_filterbank_arguments(config)).to(like)


def build_window(config: JosieMelConfig, like: torch.Tensor) -> torch.Tensor:
    """Return the Hann window of `n_fft` samples, in the type and on the device of `like`."""
    return torch.hann_window(config.n_fft, dtype=like.dtype, device=like.device)


def spectrogram_to_mel(config: JosieMelConfig, magnitudes: torch.Tensor) -> torch.Tensor:
    """Return mel bands of linear magnitudes, with logarithm and normalisation as configured.

    Args:
        config ([`JosieMelConfig`]): Filters and normalisation.
        magnitudes (`torch.Tensor`): `(batch, n_fft // 2 + 1, frames)`.

    Returns:
        `torch.Tensor` of shape `(batch, num_mel_bins, frames)`.
    """
    mel = get_mel_filterbank(config, magnitudes).T @ magnitudes.pow(config.mel_power)
    if config.log_mel:
        mel = mel.clamp(min=config.log_floor).log()
    return (mel - config.mel_mean) / config.mel_std


def mel_to_spectrogram(config: JosieMelConfig, mel: torch.Tensor) -> torch.Tensor:
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
    filters = get_mel_filterbank(config, mel)
    linear = (get_inverse_mel_filterbank(config, mel).T @ mel).clamp(min=_MIN_LINEAR)
    wanted = filters @ mel
    for _ in range(config.inversion_iterations):
        linear = linear * wanted / (filters @ (filters.T @ linear)).clamp(min=_MIN_LINEAR)
    return linear


def waveform_to_mel(config: JosieMelConfig, waveforms: torch.Tensor) -> torch.Tensor:
    """Return the normalised mel bands of the windows that lie wholly inside, in float32 or wider.

    Args:
        config ([`JosieMelConfig`]): Transform and normalisation.
        waveforms (`torch.Tensor`): `(batch, num_samples)`, at least `n_fft` of them.

    Returns:
        `torch.Tensor` of shape `(batch, (num_samples - n_fft) // mel_hop_length + 1, num_mel_bins)`.
    """
    with torch.autocast(waveforms.device.type, enabled=False):
        waveforms = waveforms.to(torch.promote_types(waveforms.dtype, torch.float32))
        windows = waveforms.unfold(-1, config.n_fft, config.mel_hop_length)
        spectra = torch.fft.rfft(windows * build_window(config, waveforms))
        return spectrogram_to_mel(config, spectra.abs().transpose(1, 2)).transpose(1, 2)


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
    positions = torch.arange(work_length // fine_hop + 1, dtype=mel.dtype, device=mel.device) * (fine_hop / hop)
    positions = positions.clamp(max=num_frames - 1)
    before, after = positions.floor().long(), positions.ceil().long()
    mel = mel[..., before].lerp(mel[..., after], positions - before)
    waveforms = griffinlim(
        mel_to_spectrogram(config, mel),
        torch.hann_window(config.win_length, dtype=mel.dtype, device=mel.device),
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
