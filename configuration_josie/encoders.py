"""Configurations of the continuous encoders: how the Thinker hears and sees without codes."""

from dataclasses import field
from typing import Literal

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig

from .backbone import JosieBackboneConfig, require_positive


@strict
class JosieAudioEncoderConfig(JosieBackboneConfig):
    r"""Mel spectrogram, strided 2-D convolutions, transformer without positions: one feature every few mel frames.

    The defaults are μOmni's. Backbone fields are those of [`JosieBackboneConfig`]. With `is_causal` the encoder streams
    mel frames, with `mel_lookahead` beside it waveforms; `sliding_window` bounds the memory of a stream, and
    `rope_parameters` tell it how long ago something was.

    Args:
        sampling_rate (`int`): Samples a second, in Hz.
        num_mel_bins (`int`): Mel bands.
        n_fft, win_length, mel_hop_length (`int`): Short-time Fourier transform, in samples.
        mel_power (`float`): 1 for magnitudes, 2 for power.
        log_mel (`bool`): Take the logarithm of the mel spectrogram.
        mel_mean, mel_std (`float`): What the encoder subtracts and divides by; a new one learns much faster from values
            around 0.
        conv_channels (`int`): Channels of the convolutions.
        downsampling_factor (`4` or `8`): Mel frames a feature stands for: one strided convolution for each factor of 2.
        mel_lookahead (`int`, *optional*): Samples by which the window of a mel frame, of `win_length` samples, ends
            after the frame's hop; before a waveform and behind it is silence. The encoder reads waveforms then, and
            makes its spectrogram itself. When `None` it reads the spectrograms of the feature extractor, whose windows
            are centred and whose edges are mirrored.
        level_half_life (`float`, *optional*): Follow the loudness: mel frames are divided by a level, the power of the
            loudest frame so far, which falls by half in so many seconds. So a quiet microphone is heard as a loud one,
            whole clips and streams alike. What is below -60 dB of full scale stays soft. As frames are when `None`.
    """

    model_type = "josie_audio_encoder"
    base_config_key = "audio_config"
    _rotates_by_length = False

    hidden_size: int = 192
    intermediate_size: int = 768
    num_hidden_layers: int = 4
    num_attention_heads: int = 3
    hidden_act: str = "gelu"
    gated_mlp: bool = False
    attention_bias: bool = True
    mlp_bias: bool = True
    rope_parameters: dict | None = None
    is_causal: bool = False
    use_cache: bool = False
    sampling_rate: int = 16000
    num_mel_bins: int = 128
    n_fft: int = 1024
    win_length: int = 400
    mel_hop_length: int = 160
    mel_power: float | int = 2.0
    log_mel: bool = False
    mel_mean: float | int = 0.0
    mel_std: float | int = 1.0
    conv_channels: int = 64
    downsampling_factor: Literal[4, 8] = 4
    mel_lookahead: int | None = None
    level_half_life: float | int | None = None

    @property
    def hop_length(self) -> int:
        """Samples a feature stands for."""
        return self.mel_hop_length * self.downsampling_factor

    @property
    def frame_rate(self) -> float:
        """Features a second, in Hz."""
        return self.sampling_rate / self.hop_length

    @property
    def algorithmic_delay(self) -> int | None:
        """Samples from the first that a feature stands for until it can be made; `None` where waveforms do not stream.

        The first sample waits for the rest of its feature and for the look-ahead of the last mel frame. Convolutions
        and transformer are causal.
        """
        return self.hop_length + self.mel_lookahead if self.is_causal and self.mel_lookahead is not None else None

    @property
    def num_convolutions(self) -> int:
        """Number of convolutions of stride 2 in front."""
        return self.downsampling_factor.bit_length() - 1

    def downsample(self, length: int) -> int:
        """Return what is left of `length` mel frames (or mel bins) after the convolutions."""
        for _ in range(self.num_convolutions):
            length = (length + 1) // 2
        return length

    def get_num_mel_frames(self, num_samples: int) -> int:
        """Return how many mel frames a waveform of `num_samples` samples gives.

        They are as many as its hops, the last in part; with a centred transform one for the start of each and the end.
        """
        if self.mel_lookahead is not None:
            return -(-num_samples // self.mel_hop_length)
        return num_samples // self.mel_hop_length + 1

    def validate_geometry(self):
        """The transform is possible."""
        require_positive(
            self, "sampling_rate", "num_mel_bins", "n_fft", "win_length", "mel_hop_length", "conv_channels"
        )
        if self.win_length > self.n_fft:
            raise ValueError(f"`win_length` must be at most `n_fft` ({self.n_fft}), got {self.win_length}.")
        if self.mel_std <= 0:
            raise ValueError(f"`mel_std` must be above 0, got {self.mel_std}.")
        if self.level_half_life is not None and not self.level_half_life > 0:
            raise ValueError(f"`level_half_life` must be above 0, or None, got {self.level_half_life}.")
        if self.mel_lookahead is None:
            return
        if self.win_length < self.mel_hop_length:
            raise ValueError(
                f"`win_length` must be at least `mel_hop_length` ({self.mel_hop_length}) with a `mel_lookahead`, so "
                f"that every sample is heard, got {self.win_length}."
            )
        if not 0 <= self.mel_lookahead <= self.win_length - self.mel_hop_length:
            raise ValueError(
                f"`mel_lookahead` must be in [0, {self.win_length - self.mel_hop_length}], what a window of "
                f"`win_length` leaves beside a hop, or None, got {self.mel_lookahead}."
            )


@strict
class JosieVisionEncoderConfig(JosieBackboneConfig):
    r"""A vision transformer: square patches, a CLS row, learned positions, and on request convolutions in front.

    The defaults are μOmni's. Backbone fields are those of [`JosieBackboneConfig`].

    Args:
        image_size (`int`): Height and width of the image, in pixels.
        patch_size (`int`): Height and width of a patch, in pixels.
        num_channels (`int`): Colour channels.
        stem_channels (`list[int]`): Channels of convolutions of stride 2 that read the image before it is cut into
            patches (Xiao et al., 2021); empty for none. A new encoder learns shapes much sooner with them.
        pixel_mean, pixel_std (`float`): What the encoder subtracts and divides by. Where most of an image has one
            colour, a new encoder sees little else without that.
    """

    model_type = "josie_vision_encoder"
    base_config_key = "vision_config"
    _rotates_by_length = False

    hidden_size: int = 128
    intermediate_size: int = 512
    num_hidden_layers: int = 4
    num_attention_heads: int = 2
    hidden_act: str = "gelu"
    gated_mlp: bool = False
    norm_type: Literal["rms", "layer"] = "layer"
    final_norm_type: Literal["rms", "layer", "none"] | None = "rms"
    attention_bias: bool = True
    mlp_bias: bool = True
    rope_parameters: dict | None = None
    is_causal: bool = False
    use_cache: bool = False
    image_size: int = 224
    patch_size: int = 16
    num_channels: int = 3
    stem_channels: list[int] = field(default_factory=list)
    pixel_mean: float | int = 0.0
    pixel_std: float | int = 1.0

    @property
    def num_patches(self) -> int:
        """Patches of one image, without the CLS row."""
        return (self.image_size // self.patch_size) ** 2

    @property
    def stem_stride(self) -> int:
        """Pixels from one feature of the stem to the next; 1 without a stem."""
        return 2 ** len(self.stem_channels)

    def validate_geometry(self):
        """Patches tile the image, and features of the stem a patch."""
        require_positive(self, "image_size", "patch_size", "num_channels")
        if min(self.stem_channels, default=1) < 1:
            raise ValueError(f"`stem_channels` must hold numbers of at least 1, got {self.stem_channels}.")
        if self.patch_size % self.stem_stride:
            raise ValueError(
                f"`stem_channels` must have at most as many entries as `patch_size` ({self.patch_size}) can be halved, "
                f"got {self.stem_channels}."
            )
        if self.pixel_std <= 0:
            raise ValueError(f"`pixel_std` must be above 0, got {self.pixel_std}.")
        if self.image_size % self.patch_size:
            raise ValueError(
                f"`image_size` must be a multiple of `patch_size` ({self.patch_size}), got {self.image_size}."
            )


AutoConfig.register(JosieAudioEncoderConfig.model_type, JosieAudioEncoderConfig, exist_ok=True)
AutoConfig.register(JosieVisionEncoderConfig.model_type, JosieVisionEncoderConfig, exist_ok=True)
