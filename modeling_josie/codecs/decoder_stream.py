"""Codes to samples as the codes are made: decoders that go on where they stopped, one row each.

Which frames are decoded together depends on their place in the row and on nothing else (`BLOCKS`): the first frame
alone, so that audio begins at once, later ones in blocks, which cost less each. So a row has the same samples however
its frames arrived, to the last bit, and speech that is not streamed is decoded in the same blocks.
"""

from collections.abc import Iterator
from itertools import chain
from typing import Any, Protocol

import torch
from transformers.cache_utils import DynamicCache
from transformers.modeling_utils import PreTrainedModel

from ...configuration_josie import audio_codec_geometry, decodes_in_stream
from ...configuration_josie.constants import STREAMING_CODECS
from ..layers.shared_steps import run_step
from .streaming import join_states, split_state

BLOCKS = (1, 1, 2, 4)  # frames of the first blocks of a row; the last number holds from then on
_ALIGNMENT = 64  # bytes, of every tensor that torch allocates on a CPU
_CONTEXT_FRAMES = 16  # of Mimi's SEANet decoder at its transformer's rate, more than it reaches back


class DecoderStream(Protocol):
    """A decoder of one row."""

    def push(self, codes: torch.Tensor, max_waiting_steps: int = 0) -> torch.Tensor:
        """Decode.

        Args:
            codes (`torch.LongTensor`): `(num_quantizers, num_frames)`, at least one frame.
            max_waiting_steps (`int`): As of [`run_step`].

        Returns:
            Samples, `(channels, num_frames * hop_length)`.
        """
        ...


def open_decoder(codec: PreTrainedModel) -> DecoderStream:
    """Begin a row.

    Raises:
        `ValueError`: The codec needs all codes at once.
    """
    if not decodes_in_stream(codec.config):
        raise ValueError(
            f"`audio_codec` must be one of {list(STREAMING_CODECS)} for speech in a stream, got "
            f"{codec.config.model_type!r}, which decodes whole utterances."
        )
    return JodioDecoderStream(codec) if codec.config.model_type == "jodio" else MimiDecoderStream(codec)


class JodioDecoderStream:
    """JODIO's decoder.

    Args:
        codec ([`JodioModel`]): The codec.
    """

    def __init__(self, codec: Any):
        self.codec = codec
        self.state = None

    def push(self, codes: torch.Tensor, max_waiting_steps: int = 0) -> torch.Tensor:
        """As in [`DecoderStream`]."""
        part = self.codec, codes, self.state
        samples, self.state = run_step(_decode_rows, part, (self.codec, codes.shape), max_waiting_steps)
        return samples


def _decode_rows(parts: list[tuple[Any, torch.Tensor, Any]]) -> list[tuple[torch.Tensor, Any]]:
    """Decode the codes of some streams of a JODIO, equally many frames of each; return samples and the next states."""
    codec, codes, state = parts[0]
    if len(parts) == 1:
        output = codec.decode(codes[None], streaming_state=state, use_streaming=True)
        return [(output.audio_values[0], output.streaming_state)]
    decoding = codec.get_decoding()
    states = [decoding.enter_stream(state, 1) for _, _, state in parts]
    codes = torch.stack([codes for _, codes, _ in parts])
    output = codec.decode(codes, streaming_state=join_states(states), use_streaming=True)
    return list(zip(output.audio_values, split_state(output.streaming_state, states), strict=True))


class MimiDecoderStream:
    """Mimi's decoder (Défossez et al., 2024), of which transformers streams the transformer alone.

    Its transformer has a cache; of the convolutions before and behind it, which are causal, each block is given as many
    frames of what came before as they reach back.

    Args:
        codec ([`~transformers.MimiModel`]): The codec.
    """

    def __init__(self, codec: Any):
        self.quantizer, self.decoder = codec.quantizer, codec.decoder
        self.hop_length = audio_codec_geometry(codec.config).hop_length
        self.cache = DynamicCache(config=self.decoder.config)
        self.latent: torch.Tensor | None = None  # the last one
        self.context: torch.Tensor | None = None  # the last states, `(1, hidden_size, frames)`

    def push(self, codes: torch.Tensor, max_waiting_steps: int = 0) -> torch.Tensor:
        """As in [`DecoderStream`]; other streams are not waited for."""
        num_frames = codes.shape[1]
        latents = self.quantizer.decode(codes[None])
        known = latents if self.latent is None else torch.cat((self.latent, latents), dim=2)
        self.latent = latents[:, :, -1:]
        states = known
        if self.decoder.upsample is not None:
            states = self.decoder.upsample(known)
        per_frame = states.shape[2] // known.shape[2]
        states = states[:, :, -num_frames * per_frame :]
        states = self.decoder.decoder_transformer(states.transpose(1, 2), cache=self.cache).last_hidden_state
        states = states.transpose(1, 2)
        if self.context is not None:
            states = torch.cat((self.context, states), dim=2)
        self.context = states[:, :, -_CONTEXT_FRAMES:]
        return self.decoder.decoder_seanet(states)[0, :, -num_frames * self.hop_length :]


def align_weights(codec: PreTrainedModel) -> None:
    """Move weights of a mapped file to where torch puts tensors of its own; their values stay.

    A file's weights lie at any address, and products with a single row are rounded otherwise there: a codec that was
    loaded would not give to the bit what it gave before it was saved.
    """
    for tensor in chain(codec.parameters(), codec.buffers()):
        is_plain = type(tensor.data) is torch.Tensor and tensor.device.type == "cpu"
        if is_plain and tensor.data_ptr() % _ALIGNMENT:
            tensor.data = tensor.data.clone()


class RowDecoder:
    """One row's frames, gathered into blocks and decoded.

    Args:
        codec: A codec that streams.
    """

    def __init__(self, codec: PreTrainedModel):
        align_weights(codec)
        self.stream = open_decoder(codec)
        self.num_blocks = 0
        self._waiting: list[torch.Tensor] = []

    def push(self, codes: torch.Tensor) -> Iterator[torch.Tensor]:
        """Take the `(num_quantizers,)` codes of a frame; give the samples of the block that it completes."""
        self._waiting.append(codes)
        if len(self._waiting) == BLOCKS[min(self.num_blocks, len(BLOCKS) - 1)]:
            # Nothing is waited for until there is audio to play. Later blocks wait for streams whose own end soon: from
            # then on all of them end at the same steps.
            yield from self.finish(BLOCKS[-1] if self.num_blocks >= len(BLOCKS) - 1 else 0)

    def finish(self, max_waiting_steps: int = 0) -> Iterator[torch.Tensor]:
        """Give the samples of the frames that wait, `(channels, num_samples)`; at the end of a row.

        Args:
            max_waiting_steps (`int`): As of [`DecoderStream.push`].
        """
        if self._waiting:
            codes = torch.stack(self._waiting, dim=1)
            self._waiting, self.num_blocks = [], self.num_blocks + 1
            yield self.stream.push(codes, max_waiting_steps)
