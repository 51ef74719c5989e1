"""Configuration of JODIO, the neural audio codec."""

import math
from dataclasses import field
from typing import Literal, cast

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig
from transformers.configuration_utils import SubConfigSpec

from .backbone import JosieBackboneConfig, SubConfig, require_fixed_rotations, require_positive
from .mel import JosieMelConfig
from .renamed import RenamedField


@strict
class JodioConfig(JosieMelConfig):
    r"""SEANet encoder, causal transformer, split residual quantizer, causal transformer, SEANet decoder.

    The encoder reads the waveform and the decoder writes it; or, with `domain="mel"`, both work on mel spectrograms,
    whose hop takes the place of the strides that cost most. The fields of [`JosieMelConfig`] are for those.

    Args:
        audio_channels (`int`): Channels of the waveform; 1 in the mel domain.
        domain (`"waveform"` or `"mel"`): Representation that the convolutions work on. In the mel domain the encoder
            reads the mel bands of windows that end at the newest sample, and the decoder predicts those of windows that
            reach `mel_lookahead` samples beyond the samples it gives, which phase reconstruction makes of them: so
            neither adds delay. The training loss is `mel_weight` times the absolute error of those bands, for which no
            waveform is made: `waveform_weight` and `stft_weight` must be 0.
        mel_lookahead (`int`): Samples by which the decoder's windows reach beyond the samples they give. There a
            decoder has to guess what its codes do not know yet, and a window needs enough of it that the samples it
            gives are not at its faint edge.
        phase_iterations (`int`): Iterations of phase reconstruction for each mel frame.
        channels (`list[int]`): Widths of the SEANet encoder: after the first convolution, then after each strided
            one, so one entry more than `upsampling_ratios`; the decoder mirrors it.
        upsampling_ratios (`list[int]`): Strides, in the decoder's order; in the mel domain over mel frames.
        kernel_size (`int`): Kernel of the first and last convolution.
        residual_kernel_size (`int`): Kernel of the dilated convolutions.
        num_residual_layers (`int` or `list[int]`): Dilated residual convolutions before each change of rate of the
            encoder, one number for all or one for each in the encoder's order; the decoder mirrors it. 0 at the
            waveform's own rate is what makes a codec cheap.
        dilation_growth (`int`): Factor between the dilations of consecutive residual convolutions.
        encoder_config, decoder_config ([`JosieBackboneConfig`]): The transformers at frame rate, both causal.
        semantic_target_size (`int`, *optional*): Width of teacher features that the semantic quantizer learns to
            predict; no such head when `None`.
        semantic_vocab_size (`int`, *optional*): Labels, blank (0) included, that it learns to predict with CTC; no
            such head when `None`.
        loss_windows (`list[int]`): Window lengths, in samples, of the log-mel and STFT losses.
        waveform_weight, mel_weight, stft_weight, semantic_weight, ctc_weight (`float`): Weights of the losses: absolute
            error of the waveform, log-mel and STFT losses, and what the semantic quantizer learns to predict. What
            weighs 0 is not computed.
    """

    model_type = "jodio"
    sub_configs_defaults = {
        "encoder_config": SubConfigSpec(JosieBackboneConfig),
        "decoder_config": SubConfigSpec(JosieBackboneConfig),
    }

    num_quantizers: int = 9
    num_semantic_quantizers: int = 1
    sampling_rate: int = 24000
    audio_channels: int = 1
    domain: Literal["waveform", "mel"] = "waveform"
    n_fft: int = 512
    mel_hop_length: int = 160
    mel_lookahead: int = 160
    phase_iterations: int = 8
    channels: list[int] = field(default_factory=lambda: [512] * 6)
    upsampling_ratios: list[int] = field(default_factory=lambda: [2, 8, 6, 5, 4])
    kernel_size: int = 7
    residual_kernel_size: int = 3
    num_residual_layers: int | list[int] = 3
    dilation_growth: int = 2
    encoder_config: SubConfig = None
    decoder_config: SubConfig = None
    semantic_target_size: int | None = None
    semantic_vocab_size: int | None = None
    loss_windows: list[int] = field(default_factory=lambda: [512, 1024, 2048])
    waveform_weight: float | int = 1.0
    mel_weight: float | int = 1.0
    stft_weight: float | int = 1.0
    semantic_weight: float | int = 1.0
    ctc_weight: float | int = 1.0

    ends = RenamedField("domain")
    mel_overhang = RenamedField("mel_lookahead")

    @property
    def hop_length(self) -> int:
        """Samples a code frame stands for."""
        return math.prod(self.upsampling_ratios) * (self.mel_hop_length if self.domain == "mel" else 1)

    @property
    def latent_size(self) -> int:
        """Width of what is quantized."""
        return cast(JosieBackboneConfig, self.encoder_config).hidden_size

    @property
    def frame_size(self) -> int:
        """Samples that must be there before a code frame can be made, which are those it stands for: no look-ahead."""
        return self.hop_length

    @property
    def algorithmic_delay(self) -> int:
        """Samples from the start of a sample at the encoder to its start at the decoder, at best.

        The first sample of a frame waits for the rest of its frame. Nothing waits after that: the convolutions and the
        transformers are causal, and the decoder's transposed convolutions are cut where they would need the next frame.
        """
        return self.frame_size

    @property
    def frame_rate(self) -> float:
        """Code frames a second, in Hz."""
        return self.sampling_rate / self.hop_length

    @property
    def residual_layers(self) -> list[int]:
        """Residual convolutions before each change of rate, in the encoder's order."""
        numbers = self.num_residual_layers
        return list(numbers) if isinstance(numbers, list) else [numbers] * len(self.upsampling_ratios)

    def get_num_frames(self, num_samples: int) -> int:
        """Return how many code frames a waveform of `num_samples` samples gives."""
        return -(-num_samples // self.hop_length)

    def validate_geometry(self):
        """Widths match the strides, and both transformers are causal."""
        require_positive(self, "sampling_rate", "audio_channels", "kernel_size", "residual_kernel_size")
        if len(self.channels) != len(self.upsampling_ratios) + 1:
            raise ValueError(
                f"`channels` must have one entry more than `upsampling_ratios` ({len(self.upsampling_ratios) + 1}), "
                f"got {len(self.channels)}."
            )
        if min(self.upsampling_ratios, default=0) < 1 or min(self.channels) < 1:
            raise ValueError(
                "`upsampling_ratios` and `channels` must hold numbers of at least 1, "
                f"got {self.upsampling_ratios} and {self.channels}."
            )
        if len(self.residual_layers) != len(self.upsampling_ratios) or min(self.residual_layers) < 0:
            raise ValueError(
                f"`num_residual_layers` must be at least 0, or one such number for each of the "
                f"{len(self.upsampling_ratios)} `upsampling_ratios`, got {self.num_residual_layers}."
            )
        if not self.loss_windows or min(self.loss_windows) < 16:
            raise ValueError(f"`loss_windows` must hold numbers of at least 16, got {self.loss_windows}.")
        for name in ("encoder_config", "decoder_config"):
            if not getattr(self, name).is_causal:
                raise ValueError(f"`{name}.is_causal` must be True so that the codec streams, got False.")
            require_fixed_rotations(f"{name}.rope_parameters", getattr(self, name))

    def validate_domain(self):
        """In the mel domain there is one channel, windows overlap, and no loss needs a waveform."""
        if self.domain == "waveform":
            return
        require_positive(self, "phase_iterations")
        if self.audio_channels != 1:
            raise ValueError(f"`audio_channels` must be 1 when `domain` is 'mel', got {self.audio_channels}.")
        if 2 * self.mel_hop_length > self.n_fft:
            raise ValueError(
                f"`mel_hop_length` must be at most half of `n_fft` ({self.n_fft}) when `domain` is 'mel', so that "
                f"windows overlap, got {self.mel_hop_length}."
            )
        if not 0 <= self.mel_lookahead <= self.n_fft - self.mel_hop_length:
            raise ValueError(
                f"`mel_lookahead` must be in [0, {self.n_fft - self.mel_hop_length}], what a window of `n_fft` leaves "
                f"beside a hop, got {self.mel_lookahead}."
            )
        for name in ("waveform_weight", "stft_weight"):
            if getattr(self, name):
                raise ValueError(
                    f"`{name}` must be 0 when `domain` is 'mel', where training makes no waveform, "
                    f"got {getattr(self, name)}."
                )


AutoConfig.register(JodioConfig.model_type, JodioConfig, exist_ok=True)
