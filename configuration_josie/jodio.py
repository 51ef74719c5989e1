"""Configuration of JODIO, the neural audio codec."""

import math
from dataclasses import field

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig
from transformers.configuration_utils import SubConfigSpec

from .backbone import JosieBackboneConfig, SubConfig, require_positive
from .codec import JosieCodecConfig


@strict
class JodioConfig(JosieCodecConfig):
    r"""SEANet encoder, causal transformer, split residual quantizer, causal transformer, SEANet decoder.

    Args:
        sampling_rate (`int`): Samples a second, in Hz.
        audio_channels (`int`): Channels of the waveform.
        channels (`list[int]`): Widths of the SEANet encoder: after the first convolution, then after each strided
            one, so one entry more than `upsampling_ratios`; the decoder mirrors it.
        upsampling_ratios (`list[int]`): Strides, in the decoder's order.
        kernel_size (`int`): Kernel of the first and last convolution.
        residual_kernel_size (`int`): Kernel of the dilated convolutions.
        num_residual_layers (`int`): Dilated residual convolutions before each change of rate.
        dilation_growth (`int`): Factor between the dilations of consecutive residual convolutions.
        encoder_config, decoder_config ([`JosieBackboneConfig`]): The transformers at frame rate, both causal.
        semantic_target_size (`int`, *optional*): Width of teacher features that the semantic quantizer learns to
            predict; no such head when `None`.
        semantic_vocab_size (`int`, *optional*): Labels, blank (0) included, that it learns to predict with CTC; no
            such head when `None`.
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
    channels: list[int] = field(default_factory=lambda: [512] * 6)
    upsampling_ratios: list[int] = field(default_factory=lambda: [2, 8, 6, 5, 4])
    kernel_size: int = 7
    residual_kernel_size: int = 3
    num_residual_layers: int = 3
    dilation_growth: int = 2
    encoder_config: SubConfig = None
    decoder_config: SubConfig = None
    semantic_target_size: int | None = None
    semantic_vocab_size: int | None = None

    @property
    def hop_length(self) -> int:
        """Samples a code frame stands for."""
        return math.prod(self.upsampling_ratios)

    @property
    def frame_rate(self) -> float:
        """Code frames a second, in Hz."""
        return self.sampling_rate / self.hop_length

    def get_num_frames(self, num_samples: int) -> int:
        """Return how many code frames a waveform of `num_samples` samples gives."""
        return -(-num_samples // self.hop_length)

    def validate_geometry(self):
        """Widths match the strides, and both transformers are causal."""
        require_positive(
            self, "sampling_rate", "audio_channels", "kernel_size", "residual_kernel_size", "num_residual_layers"
        )
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
        for name in ("encoder_config", "decoder_config"):
            if not getattr(self, name).is_causal:
                raise ValueError(f"`{name}.is_causal` must be True so that the codec streams, got False.")


AutoConfig.register(JodioConfig.model_type, JodioConfig, exist_ok=True)
