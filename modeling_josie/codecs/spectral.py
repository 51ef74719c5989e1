"""Spectral encoder and decoder of JODIO: the convolutions of SEANet between mel frames instead of waveforms.

A fixed transform stands before the encoder's convolutions and its inversion behind the decoder's (see `mel_transform`).
A skip connection leads around all layers: the encoder adds to cosine transforms of the mel frames, the decoder to their
inverse. So a new codec is a plain quantizer of spectra, and its layers learn what that lacks; through layers alone it
takes long to pass on more than how loud and how bright a sound is.
"""

from functools import lru_cache

import torch
from torch import nn
from torchaudio.functional import create_dct
from transformers.modeling_utils import local_torch_dtype

from ...configuration_josie import JodioConfig
from .mel_transform import MelAnalysis, MelSynthesis
from .seanet import ConvContext, SeanetOutput, SeanetStack, build_decoder_layers, build_encoder_layers

# Weight of the transformer's output, whose power is 1, beside the skip connection.
_LAYER_SHARE = 0.3
# Gain of a new decoder's last layer beside the skip connection to mel frames, whose power is about 1.
_LAYER_GAIN = 0.1


@lru_cache(maxsize=8)
def _create_cosine_basis(num_frames: int, num_mel_bins: int, size: int) -> torch.Tensor:
    """Return an orthonormal basis of the smoothest patches of a spectrogram, `(num_frames * num_mel_bins, size)`.

    They are products of cosines over the bands and over the frames, all of the latter for each of the former; columns
    for which there are none are 0.
    """
    with torch.inference_mode(False), torch.device("cpu"), local_torch_dtype(torch.float32):
        frames, bands = create_dct(num_frames, num_frames, "ortho"), create_dct(num_mel_bins, num_mel_bins, "ortho")
        # (frames, bands, over bands, over frames)
        patches = (frames[:, None, None, :] * bands[None, :, :, None]).flatten(2).flatten(0, 1)
        return nn.functional.pad(patches[:, :size], (0, max(size - patches.shape[1], 0)))


def mel_to_latents(config: JodioConfig, mel: torch.Tensor, size: int) -> torch.Tensor:
    """Return the skip connection of the encoder: cosine transforms of the mel frames that a decoder will need.

    A decoder's windows end later than an encoder's, by the look-ahead. So the frames are taken as many later, the last
    one repeated.

    Args:
        config ([`JodioConfig`]): Strides and look-ahead.
        mel (`torch.Tensor`): `(batch, length, num_mel_bins)`, whole code frames as [`MelAnalysis`] gives them.
        size (`int`): Width of the latents.

    Returns:
        `torch.Tensor` of shape `(batch, num_frames, size)`.
    """
    num_frames = config.hop_length // config.mel_hop_length
    shift = min(round(config.mel_lookahead / config.mel_hop_length), num_frames - 1)
    frames = mel.unflatten(1, (-1, num_frames))
    frames = torch.cat((frames[:, :, shift:], *[frames[:, :, -1:]] * shift), dim=2)
    return frames.flatten(2) @ _create_cosine_basis(num_frames, config.num_mel_bins, size).to(mel)


def latents_to_mel(config: JodioConfig, latents: torch.Tensor) -> torch.Tensor:
    """Return the skip connection of the decoder: the inverse of [`mel_to_latents`], without its shift.

    Args:
        config ([`JodioConfig`]): Strides and mel bands.
        latents (`torch.Tensor`): `(batch, num_frames, size)`.

    Returns:
        `torch.Tensor` of shape `(batch, length, num_mel_bins)`.
    """
    num_frames = config.hop_length // config.mel_hop_length
    frames = latents @ _create_cosine_basis(num_frames, config.num_mel_bins, latents.shape[-1]).to(latents).T
    return frames.unflatten(-1, (num_frames, config.num_mel_bins)).flatten(1, 2)


class SpectralEncoder(SeanetStack):
    """Waveform to mel frames to hidden states at frame rate, and latents that skip the layers.

    Args:
        config ([`JodioConfig`]): Transform, widths, strides, kernels.
    """

    def __init__(self, config: JodioConfig):
        layers = build_encoder_layers(config, config.num_mel_bins, gain=1.0)
        super().__init__([MelAnalysis(config), *layers], "encoder")
        self.config = config

    def forward(self, hidden_states: torch.Tensor, context: ConvContext | None = None) -> SeanetOutput:
        """Run the layers; arguments as of [`SeanetEncoder`], and the result has a `skip`."""
        mel, following = self.run_layers(hidden_states, context, stop=1)
        hidden_states, others = self.run_layers(mel, context, start=1)
        skip = mel_to_latents(self.config, mel, self.config.latent_size)
        return SeanetOutput(hidden_states, skip, following | others)

    def add_skip(self, hidden_states: torch.Tensor, skip: torch.Tensor) -> torch.Tensor:
        """Return the latents: the output of the transformer behind this encoder plus the skip connection."""
        return skip + _LAYER_SHARE * hidden_states


class SpectralDecoder(SeanetStack):
    """Hidden states at frame rate, and latents that skip the layers, to mel frames to a waveform.

    Phase reconstruction needs float64, see [`MelSynthesis`].

    Args:
        config ([`JodioConfig`]): Transform, widths, strides, kernels.
    """

    needs_float64 = True

    def __init__(self, config: JodioConfig):
        layers = build_decoder_layers(config, config.num_mel_bins, gain=_LAYER_GAIN)
        super().__init__([*layers, MelSynthesis(config)], "decoder")
        self.config = config

    def forward(
        self, hidden_states: torch.Tensor, latents: torch.Tensor, context: ConvContext | None = None
    ) -> SeanetOutput:
        """Run the layers; arguments as of [`SeanetDecoder`]. No gradient passes through phase reconstruction."""
        predicted = self.predict(hidden_states, latents, context)
        audio_values, others = self.run_layers(predicted.hidden_states, context, start=len(self.layers) - 1)
        return SeanetOutput(audio_values, None, predicted.context | others)

    def predict(
        self, hidden_states: torch.Tensor, latents: torch.Tensor, context: ConvContext | None = None
    ) -> SeanetOutput:
        """Return the normalised mel frames that the last layer inverts, `(batch, length, num_mel_bins)`.

        Args:
            hidden_states, latents, context: As of [`SeanetDecoder`].
        """
        hidden_states, following = self.run_layers(hidden_states, context, stop=len(self.layers) - 1)
        return SeanetOutput(hidden_states + latents_to_mel(self.config, latents), None, following)
