"""The two directions of JODIO, waveform to latents and latents to waveform: modules of a model that run in a row.

Each direction has one streaming state. The modules stay the model's own; where decoding needs float64, the direction
holds copies of them.
"""

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from ..layers.backbone import JosieBackbone
from ..layers.offloading import copy_plainly, find_device
from .inference import HasInferenceForm
from .quantization import ResidualVectorQuantizer, SplitResidualVectorQuantizer
from .seanet import SeanetDecoder, SeanetEncoder
from .spectral import SpectralDecoder, SpectralEncoder
from .streaming import PENDING, JodioStreamingState, enter_stream, run_in_stream


@dataclass(frozen=True)
class JodioDirection:
    """The parts that both directions share.

    Args:
        stack ([`SeanetEncoder`], [`SeanetDecoder`] or a spectral sibling): Convolutions.
        transformer ([`JosieBackbone`]): Transformer at frame rate.
    """

    stack: Any
    transformer: JosieBackbone

    @property
    def dtype(self) -> torch.dtype:
        """Type of the weights, and of the contexts in a state."""
        return self.transformer.dtype

    def context_shapes(self, batch_size: int) -> dict[str, tuple[int, ...]]:
        """Return the shapes of the tensors in a state, by name."""
        return {name: (batch_size, *shape) for name, shape in self.stack.context_shapes.items()}

    def enter_stream(self, state: JodioStreamingState | None, batch_size: int) -> JodioStreamingState:
        """Return `state`, or that of a stream that begins.

        Raises:
            `ValueError`: It is the state of another direction, batch size or model.
        """
        return enter_stream(self.transformer, self.context_shapes(batch_size), state, JodioStreamingState)

    def run_transformer(
        self, hidden_states: torch.Tensor, state: JodioStreamingState | None
    ) -> tuple[torch.Tensor, JodioStreamingState | None]:
        """Run frames through the transformer; in a stream also return the state that follows, with the old contexts."""
        if state is None:
            return self.transformer(hidden_states, use_cache=False).last_hidden_state, None
        return run_in_stream(self.transformer, hidden_states, state)


@dataclass(frozen=True)
class JodioEncoding(JodioDirection):
    """Waveform to latents.

    Args:
        proj (`nn.Module`): From the convolutions to the transformer.
        audio_channels (`int`): Channels of the waveform.
        stack ([`SeanetEncoder`] or [`SpectralEncoder`]): Convolutions, as in [`JodioDirection`].
    """

    stack: SeanetEncoder | SpectralEncoder
    proj: nn.Module
    audio_channels: int

    def context_shapes(self, batch_size: int) -> dict[str, tuple[int, ...]]:
        """Return the shapes of the tensors in a state; that of the pending samples at the start."""
        return super().context_shapes(batch_size) | {PENDING: (batch_size, self.audio_channels, 0)}

    def run(
        self, input_values: torch.Tensor, state: JodioStreamingState | None = None
    ) -> tuple[torch.Tensor, JodioStreamingState | None]:
        """Encode whole frames.

        Args:
            input_values (`torch.Tensor`): `(batch, channels, num_samples)`.
            state ([`JodioStreamingState`], *optional*): That of a stream.

        Returns:
            Latents, `(batch, num_frames, latent_size)`, and the state that follows.
        """
        encoded = self.stack(input_values.transpose(1, 2), None if state is None else state.buffers)
        hidden_states, following = self.run_transformer(self.proj(encoded.hidden_states), state)
        latents = self.stack.add_skip(hidden_states, encoded.skip)
        return latents, None if following is None else replace(following, buffers=encoded.context)


@dataclass(frozen=True)
class JodioDecoding(JodioDirection):
    """Codes to latents to waveform.

    Args:
        quantizer ([`ResidualVectorQuantizer`] or [`SplitResidualVectorQuantizer`]): Gives the latents of codes.
        latent_proj (`nn.Module`): From the latents to the transformer.
        proj (`nn.Module`): From the transformer to the convolutions.
        stack ([`SeanetDecoder`] or [`SpectralDecoder`]): Convolutions, as in [`JodioDirection`].
    """

    stack: SeanetDecoder | SpectralDecoder
    quantizer: ResidualVectorQuantizer | SplitResidualVectorQuantizer
    latent_proj: nn.Module
    proj: nn.Module

    def run(
        self, latents: torch.Tensor, state: JodioStreamingState | None = None
    ) -> tuple[torch.Tensor, JodioStreamingState | None]:
        """Decode.

        Args:
            latents (`torch.Tensor`): Quantized latents, `(batch, latent_size, num_frames)`.
            state ([`JodioStreamingState`], *optional*): That of a stream.

        Returns:
            Samples, `(batch, channels, num_samples)`, and the state that follows.
        """
        latents = latents.transpose(1, 2)
        hidden_states, following = self.run_transformer(self.latent_proj(latents), state)
        decoded = self.stack(self.proj(hidden_states), latents, None if state is None else state.buffers)
        audio_values = decoded.hidden_states.transpose(1, 2)
        return audio_values, None if following is None else replace(following, buffers=decoded.context)

    def predict_mel(self, latents: torch.Tensor) -> torch.Tensor:
        """Return the mel frames that a spectral decoder predicts of latents, `(batch, length, num_mel_bins)`.

        Args:
            latents (`torch.Tensor`): Quantized latents, `(batch, latent_size, num_frames)`.
        """
        latents = latents.transpose(1, 2)
        hidden_states, _ = self.run_transformer(self.latent_proj(latents), None)
        stack: Any = self.stack
        return stack.predict(self.proj(hidden_states), latents).hidden_states

    def copy_in_float64(self) -> "JodioDecoding":
        """Return this direction with copies of its modules in float64; in float32 on Apple's devices, which lack it.

        They are where the modules run, whatever is offloaded of these.
        """
        dtype = torch.float32 if find_device(self.transformer).type == "mps" else torch.float64
        names = ("stack", "transformer", "quantizer", "latent_proj", "proj")
        copies: dict[str, Any] = {name: copy_plainly(getattr(self, name), dtype) for name in names}
        copies["transformer"].set_attn_implementation("sdpa")  # the others have no float64
        for part in (*copies["stack"].modules(), *copies["quantizer"].modules()):
            if isinstance(part, HasInferenceForm):
                part.keep_form()
        return JodioDecoding(**copies)
