"""Streaming layers without parameters between waveforms and mel frames: causal analysis, and phase reconstruction.

The analysis reads windows that end at the newest sample. The synthesis inverts windows that end `mel_lookahead`
samples beyond those it gives; the samples before are given already and only steer the phases. So neither adds delay.
The context of the analysis is the samples before the next hop, that of the synthesis the sums that its windows spread
beyond::

    hop 2, n_fft 6, look-ahead 2    samples      a b | c d | e f
                     analysis    [. . . . a b]                   -> mel frame 0
                                     [. . a b   c d]             -> 1
                     synthesis      [. .  a b   c d]             <- mel frame 0, which gives a b
                                         [a b   c d   e f]       <- 1, which gives c d
"""

import torch
from torch import nn

from ...configuration_josie import JodioConfig, JosieAudioEncoderConfig
from ...configuration_josie.constants import LOG_FLOOR
from ..mel import build_window, create_mel_filterbank, mel_to_spectrogram, waveform_to_mel

# Smallest sum of squared windows that is divided by: where a stream begins, no window before the first has reached.
_MIN_POWER = 1e-3
# Phases of what begins in silence are those of a click in the middle of the window, this loud.
_CLICK = 1e-4
# Frames are rounded to multiples of this, 120 dB below the loudest sample.
_GRID = 2.0**-20


def synthesis_targets(config: JodioConfig, waveforms: torch.Tensor) -> torch.Tensor:
    """Return the normalised mel bands from which [`MelSynthesis`] makes a waveform; beyond both its ends is silence.

    Args:
        config ([`JodioConfig`]): Transform and normalisation.
        waveforms (`torch.Tensor`): `(batch, num_samples)`, a multiple of `mel_hop_length`.

    Returns:
        `torch.Tensor` of shape `(batch, num_samples // mel_hop_length, num_mel_bins)`.
    """
    lookahead = config.mel_lookahead
    padding = config.n_fft - config.mel_hop_length - lookahead, lookahead
    return waveform_to_mel(config, nn.functional.pad(waveforms, padding))


def encoder_mel(config: JosieAudioEncoderConfig, samples: torch.Tensor) -> torch.Tensor:
    """Return the mel frames of an audio encoder's windows that lie wholly inside, in float32 or wider.

    The transform is that of the feature extractor, but for its edges: filters on the HTK scale up to half the rate.

    Args:
        config ([`JosieAudioEncoderConfig`]): Its transform.
        samples (`torch.Tensor`): `(batch, num_samples)`, at least `win_length` of them.

    Returns:
        `torch.Tensor` of shape `(batch, num_mel_bins, (num_samples - win_length) // mel_hop_length + 1)`.
    """
    with torch.autocast(samples.device.type, enabled=False):
        samples = samples.to(torch.promote_types(samples.dtype, torch.float32))
        window = torch.hann_window(config.win_length, dtype=samples.dtype, device=samples.device)
        windows = samples.unfold(-1, config.win_length, config.mel_hop_length)
        spectra = torch.fft.rfft(windows * window, n=config.n_fft)
        power = spectra.real.square() + spectra.imag.square()  # `abs` would take a root, only to be squared again
        num_bins, rate = config.n_fft // 2 + 1, config.sampling_rate
        filters = create_mel_filterbank(num_bins, config.num_mel_bins, rate, 0.0, rate / 2, None).to(power)
        mel = power.pow(config.mel_power / 2) @ filters
        return (mel.clamp(min=LOG_FLOOR).log() if config.log_mel else mel).transpose(1, 2)


class MelAnalysis(nn.Module):
    """Waveform to normalised mel frames.

    Args:
        config ([`JodioConfig`]): Transform and normalisation.
    """

    def __init__(self, config: JodioConfig):
        super().__init__()
        self.config = config

    @property
    def context_shape(self) -> tuple[int, int]:
        """Samples before the next hop that a window reaches back to, and their one channel."""
        return self.config.n_fft - self.config.mel_hop_length, 1

    def forward(
        self, hidden_states: torch.Tensor, context: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Transform.

        Args:
            hidden_states (`torch.Tensor`): Samples, `(batch, length, 1)`, `length` a multiple of the hop.
            context (`torch.Tensor`, *optional*): Those before, `(batch, *context_shape)`; zeros when `None`.

        Returns:
            Mel frames, `(batch, length // mel_hop_length, num_mel_bins)`, and the next context.
        """
        if context is None:
            context = hidden_states.new_zeros(len(hidden_states), *self.context_shape)
        samples = torch.cat((context, hidden_states), dim=1)
        mel = waveform_to_mel(self.config, samples[..., 0]).to(hidden_states.dtype)
        return mel, samples[:, samples.shape[1] - self.context_shape[0] :].clone()


class MelSynthesis(nn.Module):
    """Normalised mel frames to a waveform, frame by frame: real-time iterative spectrogram inversion (Beauregard, Zhu
    and Wyse, 2005), which here may give samples before the last window over them.

    The phases of a frame begin as those of the samples before and of what earlier frames spread into it. Each iteration
    gives the frame its magnitudes, adds that and takes the phases of the sum. No gradient passes through.

    The iteration is chaotic: a difference in the last digit of one magnitude grows within 50 ms into another waveform,
    which sounds as good and is not the same. For one result whatever the pieces, the batch and the processor, float64
    is used throughout, and sums whose order libraries choose are rounded, so that such errors vanish: magnitudes to 8
    bits, transformed frames to a grid. The rest is plain arithmetic, the same for any shape.

    The context has two channels. The first holds samples, then sums of windowed frames; the second their divisors, 1
    for samples, then sums of squared windows. Hence a stream starts from zeros.

    Args:
        config ([`JodioConfig`]): Transform, normalisation and iterations.
    """

    def __init__(self, config: JodioConfig):
        super().__init__()
        self.config = config

    @property
    def context_shape(self) -> tuple[int, int]:
        """Samples of a window beside its hop, and the two sums over them."""
        return self.config.n_fft - self.config.mel_hop_length, 2

    @torch.no_grad()
    def forward(
        self, hidden_states: torch.Tensor, context: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Invert.

        Args:
            hidden_states (`torch.Tensor`): Mel frames, `(batch, length, num_mel_bins)`; in float64 if the result shall
                not depend on the pieces.
            context (`torch.Tensor`, *optional*): What came before, `(batch, *context_shape)`, in the type of
                `hidden_states` or wider; zeros when `None`.

        Returns:
            Samples, `(batch, length * mel_hop_length, 1)`, and the next context.
        """
        if context is None:
            context = hidden_states.new_zeros(len(hidden_states), *self.context_shape)
        hop, given = self.config.mel_hop_length, self.context_shape[0] - self.config.mel_lookahead
        num_samples = hidden_states.shape[1] * hop
        with torch.autocast(hidden_states.device.type, enabled=False):
            magnitudes = self._find_magnitudes(hidden_states)
            window = build_window(self.config, magnitudes)
            laid = torch.cat((torch.zeros_like(window[:given]), window[given:]))
            square = laid * laid
            canvas = nn.functional.pad(context.to(magnitudes.dtype), (0, 0, 0, num_samples))
            sums, powers = (values.contiguous() for values in canvas.unbind(-1))
            for index, magnitude in enumerate(magnitudes.unbind(1)):
                under = slice(index * hop, index * hop + len(window))
                total, power = sums[:, under], powers[:, under]  # parts of the canvas, which change in place
                power += square
                weight = window / power.clamp(min=_MIN_POWER)
                total += laid * self._find_frame(magnitude, total * weight, laid * weight)
                samples, divisor = total[:, given : given + hop], power[:, given : given + hop]
                samples /= divisor.clamp(min=_MIN_POWER)
                divisor.fill_(1)
            following = torch.stack((sums, powers), dim=-1)[:, num_samples:]
        waveforms = sums[:, given : given + num_samples, None]
        return waveforms.to(hidden_states.dtype, copy=True), following.to(context.dtype, copy=True)

    def _find_magnitudes(self, mel: torch.Tensor) -> torch.Tensor:
        """Return the linear bands of mel frames, `(batch, length, n_fft // 2 + 1)`, of 8 bits in float32 or wider."""
        mel = mel.to(torch.promote_types(mel.dtype, torch.float32))
        bands = mel_to_spectrogram(self.config, mel.transpose(1, 2)).pow(1 / self.config.mel_power)
        return bands.transpose(1, 2).to(torch.bfloat16).to(mel.dtype)

    def _find_frame(self, magnitude: torch.Tensor, before: torch.Tensor, share: torch.Tensor) -> torch.Tensor:
        """Return a frame, `(batch, n_fft)`, of `magnitude` that fits what came `before`.

        Under the window, the sum of all frames is `before` and `share` times this one.
        """
        click = torch.full_like(magnitude[:1], _CLICK)
        click[:, 1::2] = -_CLICK
        spectrum = torch.fft.rfft(before) + click
        # Frames count in steps of the grid here, a power of two, which changes no digit.
        magnitude, share = (magnitude / _GRID).to(spectrum.dtype), share * _GRID
        frame = self._match(spectrum, magnitude)
        for _ in range(self.config.phase_iterations):
            frame = self._match(torch.fft.rfft(torch.addcmul(before, share, frame)), magnitude)
        return frame * _GRID

    def _match(self, spectrum: torch.Tensor, magnitude: torch.Tensor) -> torch.Tensor:
        """Return the frame of `magnitude` with the phases of `spectrum`, which is overwritten, in whole numbers."""
        return torch.fft.irfft(spectrum.sgn_().mul_(magnitude), n=self.config.n_fft).round_()
