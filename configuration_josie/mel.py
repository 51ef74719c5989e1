"""Fields of the transform that codecs on mel spectrograms share."""

from typing import Literal

from huggingface_hub.dataclasses import strict

from .backbone import require_positive
from .codec import JosieCodecConfig


@strict
class JosieMelConfig(JosieCodecConfig):
    r"""Fields of a mel spectrogram and of the way back to magnitudes.

    Args:
        sampling_rate (`int`): Samples a second, in Hz.
        num_mel_bins (`int`): Mel bands.
        n_fft, mel_hop_length (`int`): Window of the short-time Fourier transform and its hop, in samples.
        f_min (`float`), f_max (`float`, *optional*): Range of the mel bands in Hz; to half the rate when `None`.
        mel_power (`float`): 1 for magnitudes, 2 for power.
        mel_norm (`"slaney"`, *optional*): Area normalisation of the mel bands.
        log_mel (`bool`): Take the logarithm of the mel spectrogram, which is what can be trained and heard.
        log_floor (`float`): Smallest mel value before the logarithm.
        mel_mean, mel_std (`float`): What is subtracted and divided by after it.
        inversion_iterations (`int`): Multiplicative updates of the non-negative inversion from mel to linear bands.
    """

    sampling_rate: int = 16000
    num_mel_bins: int = 128
    n_fft: int = 1024
    mel_hop_length: int = 256
    f_min: float | int = 0.0
    f_max: float | int | None = None
    mel_power: float | int = 1.0
    mel_norm: Literal["slaney"] | None = None
    log_mel: bool = True
    log_floor: float = 1e-5
    mel_mean: float | int = 0.0
    mel_std: float | int = 1.0
    inversion_iterations: int = 20

    def validate_transform(self):
        """There is a transform."""
        require_positive(self, "sampling_rate", "num_mel_bins", "n_fft", "mel_hop_length")
