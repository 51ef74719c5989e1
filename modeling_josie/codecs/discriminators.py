"""Discriminators of real and decoded waveforms: convolutions over complex spectrograms at several resolutions.

Multi-scale STFT discriminators (EnCodec, Défossez et al., 2022), the losses of both sides, and feature matching. Rows
may have different lengths: what lies past a row's end is 0 at every layer and counts nowhere.
"""

import math
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
from torch import nn
from torch.nn.utils.parametrizations import weight_norm
from transformers import AutoModel, initialization as init
from transformers.utils import ModelOutput
from transformers.utils.generic import can_return_tuple

from ...configuration_josie import JodioDiscriminatorConfig
from ..layers.masks import length_mask
from ..losses.audio import masked_mean
from ..pretrained import JosiePreTrainedModel

# Smallest mean size of features that distances are divided by.
_MIN_FEATURE_SIZE = 1e-3


@dataclass
class JodioDiscriminatorOutput(ModelOutput):
    """Opinions of the discriminators, one entry of each tuple for each of them.

    Args:
        logits (`tuple[torch.FloatTensor]`): `(batch, 1, frames, frequencies)`, high where the waveform seems real.
        features (`tuple[tuple[torch.FloatTensor]]`): What each layer gives, `(batch, channels, frames, frequencies)`.
        masks (`tuple[torch.BoolTensor]`): `(batch, 1, frames, 1)`, true for real frames.
    """

    logits: tuple[torch.Tensor, ...] | None = None
    features: tuple[tuple[torch.Tensor, ...], ...] | None = None
    masks: tuple[torch.Tensor, ...] | None = None


class NormalisedConv2d(nn.Conv2d):
    """A weight-normalised convolution (Salimans and Kingma, 2016); arguments as of `torch.nn.Conv2d`."""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        weight_norm(self)

    def reset_weights(self) -> None:
        """Initialise norms and directions as torch does the weight; called by [`JosiePreTrainedModel`]."""
        parts: Any = self.parametrizations.weight
        init.kaiming_uniform_(parts.original1, a=math.sqrt(5))
        init.copy_(parts.original0, parts.original1.detach().square().sum((1, 2, 3), keepdim=True).sqrt())


class StftDiscriminator(nn.Module):
    """Convolutions over a complex spectrogram, real and imaginary parts as channels.

    Args:
        config ([`JodioDiscriminatorConfig`]): The layers.
        n_fft (`int`): Window length in samples.
    """

    def __init__(self, config: JodioDiscriminatorConfig, n_fft: int):
        super().__init__()
        self.n_fft = n_fft
        self.hop_length = n_fft // 4
        self.negative_slope = config.negative_slope
        time_size, frequency_size = config.kernel_size
        width = 2 * config.audio_channels
        self.layers = nn.ModuleList()
        for channels, stride, dilation in zip(
            config.channels, config.frequency_strides, config.time_dilations, strict=True
        ):
            padding = (time_size // 2 * dilation, frequency_size // 2)
            kernel = (time_size, frequency_size)
            self.layers.append(NormalisedConv2d(width, channels, kernel, (1, stride), padding, (dilation, 1)))
            width = channels
        self.head = NormalisedConv2d(width, 1, 3, padding=1)

    def forward(
        self, waveforms: torch.Tensor, lengths: torch.Tensor
    ) -> tuple[torch.Tensor, tuple[torch.Tensor, ...], torch.Tensor]:
        """Return logits, features and mask of `(batch, channels, num_samples)`, see [`JodioDiscriminatorOutput`]."""
        hidden_states = self._transform(waveforms)
        # A frame is real when its centre is.
        num_frames = (lengths + self.hop_length - 1) // self.hop_length
        mask = length_mask(num_frames, hidden_states.shape[2])[:, None, :, None]
        hidden_states = (hidden_states * mask).to(cast(torch.Tensor, self.head.bias).dtype)
        features = []
        for layer in self.layers:
            hidden_states = nn.functional.leaky_relu(layer(hidden_states), self.negative_slope) * mask
            features.append(hidden_states)
        return self.head(hidden_states), tuple(features), mask

    def _transform(self, waveforms: torch.Tensor) -> torch.Tensor:
        """Return the spectrogram, `(batch, 2 * channels, frames, frequencies)`, in float32."""
        with torch.autocast(waveforms.device.type, enabled=False):
            spectra = torch.stft(
                waveforms.float().flatten(0, 1),
                self.n_fft,
                hop_length=self.hop_length,
                window=torch.hann_window(self.n_fft, dtype=torch.float32, device=waveforms.device),
                pad_mode="constant",
                normalized=True,
                return_complex=True,
            )
            parts = torch.view_as_real(spectra).unflatten(0, waveforms.shape[:2])
            return parts.permute(0, 1, 4, 3, 2).flatten(1, 2)


class JodioDiscriminatorModel(JosiePreTrainedModel):
    """One [`StftDiscriminator`] for each resolution.

    Args:
        config ([`JodioDiscriminatorConfig`]): Its shape.
    """

    config: JodioDiscriminatorConfig
    main_input_name = "waveforms"
    base_model_prefix = "discriminator"
    supports_gradient_checkpointing = False
    input_modalities = ["audio"]

    def __init__(self, config: JodioDiscriminatorConfig):
        super().__init__(config)
        self.discriminators = nn.ModuleList([StftDiscriminator(config, n_fft) for n_fft in config.n_ffts])
        self.post_init()

    @can_return_tuple
    def forward(self, waveforms: torch.Tensor, lengths: torch.Tensor | None = None) -> JodioDiscriminatorOutput:
        """Judge waveforms.

        Args:
            waveforms (`torch.Tensor`): `(batch, channels, num_samples)`, 0 past a row's end.
            lengths (`torch.LongTensor`, *optional*): `(batch,)`, samples of each row; all when `None`.

        Returns:
            [`JodioDiscriminatorOutput`]

        Raises:
            `ValueError`: Wrong dimensions or channels, or no samples.
        """
        channels = self.config.audio_channels
        if waveforms.ndim != 3 or waveforms.shape[1] != channels or waveforms.shape[2] == 0:
            raise ValueError(f"`waveforms` must have shape (batch, {channels}, samples), got {tuple(waveforms.shape)}.")
        if lengths is None:
            lengths = torch.full((len(waveforms),), waveforms.shape[-1], device=waveforms.device)
        logits, features, masks = zip(*(item(waveforms, lengths) for item in self.discriminators), strict=True)
        return JodioDiscriminatorOutput(logits, features, masks)


def discriminator_loss(
    real: tuple[torch.Tensor, ...],
    decoded: tuple[torch.Tensor, ...],
    masks: tuple[torch.Tensor, ...],
    loss_type: Literal["hinge", "least_squares"] = "hinge",
) -> torch.Tensor:
    """Return the loss of discriminators, a mean over them.

    Args:
        real, decoded (`tuple[torch.Tensor]`): Logits of real and of decoded waveforms, one entry a discriminator.
        masks (`tuple[torch.Tensor]`): Which logits count.
        loss_type (`"hinge"` or `"least_squares"`): Wanted are at least 1 and at most -1 (Lim and Ye, 2017), or exactly
            1 and 0 (Mao et al., 2017).
    """
    losses = []
    for ours, theirs, mask in zip(real, decoded, masks, strict=True):
        ours, theirs = ours.float(), theirs.float()
        if loss_type == "hinge":
            error = nn.functional.relu(1 - ours) + nn.functional.relu(1 + theirs)
        else:
            error = (1 - ours).square() + theirs.square()
        losses.append(masked_mean(error, mask))
    return torch.stack(losses).mean()


def adversarial_loss(
    decoded: tuple[torch.Tensor, ...],
    masks: tuple[torch.Tensor, ...],
    loss_type: Literal["hinge", "least_squares"] = "hinge",
) -> torch.Tensor:
    """Return the loss of what discriminators shall take for real; arguments as in [`discriminator_loss`]."""
    losses = []
    for logits, mask in zip(decoded, masks, strict=True):
        logits = logits.float()
        losses.append(masked_mean(-logits if loss_type == "hinge" else (1 - logits).square(), mask))
    return torch.stack(losses).mean()


def feature_loss(
    real: tuple[tuple[torch.Tensor, ...], ...],
    decoded: tuple[tuple[torch.Tensor, ...], ...],
    masks: tuple[torch.Tensor, ...],
) -> torch.Tensor:
    """Return the mean absolute distance of features over their mean size (EnCodec, Défossez et al., 2022).

    Args:
        real, decoded (`tuple[tuple[torch.Tensor]]`): Features of each layer of each discriminator.
        masks (`tuple[torch.Tensor]`): Which frames count.
    """
    losses = []
    for ours, theirs, mask in zip(real, decoded, masks, strict=True):
        for target, features in zip(ours, theirs, strict=True):
            size = masked_mean(target.detach().float().abs(), mask).clamp(min=_MIN_FEATURE_SIZE)
            losses.append(masked_mean((features.float() - target.detach().float()).abs(), mask) / size)
    return torch.stack(losses).mean()


AutoModel.register(JodioDiscriminatorConfig, JodioDiscriminatorModel, exist_ok=True)
