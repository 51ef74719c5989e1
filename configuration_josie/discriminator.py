"""Configuration of the discriminators that JODIO trains against."""

from dataclasses import field
from typing import Literal

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig
from transformers.configuration_utils import PreTrainedConfig

from .backbone import require_positive


@strict
class JodioDiscriminatorConfig(PreTrainedConfig):
    r"""One stack of convolutions over a complex spectrogram for each entry of `n_ffts`.

    The defaults are the sizes of EnCodec. The work grows with the square of `channels` and hardly with the number of
    entries of `n_ffts`, each of which costs about the same.

    Args:
        audio_channels (`int`): Channels of the waveform.
        n_ffts (`list[int]`): Window lengths in samples, one discriminator each; a quarter of each is its hop.
        channels (`list[int]`): Widths of the layers.
        frequency_strides (`list[int]`): Strides of the layers over frequency.
        time_dilations (`list[int]`): Dilations of the layers over time, which is never strided.
        kernel_size (`list[int]`): Kernel of the layers over time and frequency, odd.
        negative_slope (`float`): Of the leaky rectifiers.
        loss_type (`"hinge"` or `"least_squares"`): What the logits are trained with.
    """

    model_type = "jodio_discriminator"

    audio_channels: int = 1
    n_ffts: list[int] = field(default_factory=lambda: [2048, 1024, 512, 256, 128])
    channels: list[int] = field(default_factory=lambda: [32, 32, 32, 32, 32])
    frequency_strides: list[int] = field(default_factory=lambda: [1, 2, 2, 2, 1])
    time_dilations: list[int] = field(default_factory=lambda: [1, 1, 2, 4, 1])
    kernel_size: list[int] = field(default_factory=lambda: [3, 9])
    negative_slope: float = 0.2
    loss_type: Literal["hinge", "least_squares"] = "hinge"

    def validate_layers(self):
        """Every layer has its numbers, and all are possible."""
        require_positive(self, "audio_channels")
        for name in ("n_ffts", "channels", "frequency_strides", "time_dilations", "kernel_size"):
            least = 4 if name == "n_ffts" else 1
            if min(getattr(self, name), default=0) < least:
                raise ValueError(f"`{name}` must hold numbers of at least {least}, got {getattr(self, name)}.")
        for name in ("frequency_strides", "time_dilations"):
            if len(getattr(self, name)) != len(self.channels):
                raise ValueError(
                    f"`{name}` must have one entry for each of the {len(self.channels)} `channels`, "
                    f"got {getattr(self, name)}."
                )
        if len(self.kernel_size) != 2 or not all(size % 2 for size in self.kernel_size):
            raise ValueError(f"`kernel_size` must hold two odd numbers, got {self.kernel_size}.")


AutoConfig.register(JodioDiscriminatorConfig.model_type, JodioDiscriminatorConfig, exist_ok=True)
