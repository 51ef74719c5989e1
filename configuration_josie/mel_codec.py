"""Configuration of the mel codec: quantized mel spectrograms, heard through Griffin-Lim."""

from typing import Literal

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig

from .backbone import require_positive
from .mel import JosieMelConfig


@strict
class JosieMelCodecConfig(JosieMelConfig):
    r"""Waveform, mel spectrogram, residual codes, mel spectrogram, waveform.

    Args:
        audio_channels (`int`): Channels of the waveform; only 1 is supported.
        win_length (`int`): Samples of the transform's window; the rest of `n_fft` is zeros.
        pad_mode (`"constant"` or `"reflect"`): How the waveform continues past its ends in the transform.
        frames_per_code (`int`): Mel frames stacked into one code frame.
        hidden_size (`int`): Width of the convolutional encoder and decoder.
        num_encoder_layers, num_decoder_layers (`int`): Their residual blocks at the mel rate; 0 for none, in which
            case the stacked mel frames are quantized as they are.
        conv_kernel_size (`int`): Kernel of their depthwise convolutions, odd.
        griffin_lim_iterations (`int`): Iterations of phase reconstruction.
        griffin_lim_momentum (`float`): Its momentum.
        mel_weight (`float`): Weight of the absolute error of the mel frames.
    """

    model_type = "josie_mel_codec"

    num_quantizers: int = 8
    codebook_size: int = 256
    codebook_dim: int = 16
    audio_channels: int = 1
    win_length: int = 1024
    pad_mode: Literal["constant", "reflect"] = "constant"
    frames_per_code: int = 5
    hidden_size: int = 256
    num_encoder_layers: int = 4
    num_decoder_layers: int = 4
    conv_kernel_size: int = 7
    griffin_lim_iterations: int = 48
    griffin_lim_momentum: float = 0.9
    mel_weight: float | int = 1.0

    @property
    def hop_length(self) -> int:
        """Samples a code frame stands for."""
        return self.mel_hop_length * self.frames_per_code

    @property
    def frame_rate(self) -> float:
        """Code frames a second, in Hz."""
        return self.sampling_rate / self.hop_length

    def get_num_mel_frames(self, num_samples: int) -> int:
        """Return how many mel frames a waveform of `num_samples` samples gives (centred transform)."""
        return num_samples // self.mel_hop_length + 1

    def get_num_frames(self, num_samples: int) -> int:
        """Return how many code frames a waveform of `num_samples` samples gives."""
        return -(-self.get_num_mel_frames(num_samples) // self.frames_per_code)

    def validate_geometry(self):
        """The transform and the stacking are possible."""
        require_positive(self, "win_length", "frames_per_code")
        if self.audio_channels != 1:
            raise ValueError(f"`audio_channels` must be 1, got {self.audio_channels}.")
        if self.win_length > self.n_fft:
            raise ValueError(f"`win_length` must be at most `n_fft` ({self.n_fft}), got {self.win_length}.")
        if self.conv_kernel_size % 2 == 0:
            raise ValueError(f"`conv_kernel_size` must be odd, got {self.conv_kernel_size}.")
        if self.num_semantic_quantizers:
            raise ValueError(f"`num_semantic_quantizers` must be 0, got {self.num_semantic_quantizers}.")


AutoConfig.register(JosieMelCodecConfig.model_type, JosieMelCodecConfig, exist_ok=True)
