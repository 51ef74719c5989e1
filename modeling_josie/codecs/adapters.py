"""One way to call any audio codec: JOSIE's own, or an audio tokenizer of transformers (Mimi, DAC, EnCodec).

[`adapt_codec`] gives the surface of [`AudioCodec`] to any of them, one small class for each family that needs one.
"""

from typing import Any

import torch
from transformers.modeling_utils import PreTrainedModel

from ...configuration_josie import audio_codec_geometry
from ..layers.masks import length_mask
from ..outputs import JosieAudioDecoderOutput, JosieAudioEncoderOutput
from .checks import check_num_quantizers
from .protocol import AudioCodec, ConfiguredCodec


class TransformersCodec(ConfiguredCodec):
    """An audio tokenizer of transformers with the surface of [`AudioCodec`]: Mimi, and those that are called like it.

    Args:
        model (`PreTrainedModel`): The tokenizer.
    """

    def __init__(self, model: PreTrainedModel):
        self.model: Any = model
        self.config = audio_codec_geometry(model.config)

    def encode(
        self,
        input_values: torch.Tensor,
        padding_mask: torch.Tensor | None = None,
        num_quantizers: int | None = None,
    ) -> JosieAudioEncoderOutput:
        """Encode, see [`AudioCodec`]; with as many quantizers as the tokenizer uses by itself when `None`."""
        codes = self.encode_codes(input_values, padding_mask, num_quantizers)
        codes = codes[:, : check_num_quantizers(num_quantizers, codes.shape[1])]
        if padding_mask is None:
            lengths = torch.full((len(codes),), input_values.shape[-1], device=codes.device)
        else:
            lengths = padding_mask.sum(dim=-1)
        return JosieAudioEncoderOutput(audio_codes=codes, audio_lengths=lengths)

    def encode_codes(
        self, input_values: torch.Tensor, padding_mask: torch.Tensor | None, num_quantizers: int | None
    ) -> torch.Tensor:
        """Return codes, `(batch, quantizers, frames)`, of which the first ones are wanted.

        Args:
            input_values, padding_mask, num_quantizers: As of [`AudioCodec.encode`].
        """
        return self.model.encode(input_values, padding_mask=padding_mask).audio_codes

    def decode(self, audio_codes: torch.Tensor, audio_lengths: torch.Tensor | None = None) -> JosieAudioDecoderOutput:
        """Decode, see [`AudioCodec`]; the result is as long as the codes."""
        values = self.decode_codes(audio_codes)
        values = values if values.ndim == 3 else values[:, None]
        if audio_lengths is not None:
            lengths = audio_lengths.clamp(max=values.shape[-1])
            values = values * length_mask(lengths, values.shape[-1])[:, None]
        return JosieAudioDecoderOutput(audio_values=values)

    def decode_codes(self, audio_codes: torch.Tensor) -> torch.Tensor:
        """Return the waveforms of codes, with or without an axis of channels."""
        return self.model.decode(audio_codes).audio_values


class DacCodec(TransformersCodec):
    """DAC (Kumar et al., 2023), which takes no mask."""

    def encode_codes(
        self, input_values: torch.Tensor, padding_mask: torch.Tensor | None, num_quantizers: int | None
    ) -> torch.Tensor:
        """Return codes, see [`TransformersCodec`]."""
        return self.model.encode(input_values).audio_codes

    def decode_codes(self, audio_codes: torch.Tensor) -> torch.Tensor:
        """Return waveforms, see [`TransformersCodec`]."""
        return self.model.decode(audio_codes=audio_codes).audio_values


class EncodecCodec(TransformersCodec):
    """EnCodec (Défossez et al., 2022), whose codes come in chunks and whose bandwidth says how many there are."""

    def encode_codes(
        self, input_values: torch.Tensor, padding_mask: torch.Tensor | None, num_quantizers: int | None
    ) -> torch.Tensor:
        """Return codes, see [`TransformersCodec`]."""
        # Its fewest quantizers are its default: fewer than the highest bandwidth's are a prefix.
        bandwidth = None if num_quantizers is None else max(self.model.config.target_bandwidths)
        codes = self.model.encode(input_values, padding_mask=padding_mask, bandwidth=bandwidth).audio_codes
        return codes.permute(1, 2, 0, 3).flatten(2)  # of (chunks, batch, num_quantizers, num_frames)

    def decode_codes(self, audio_codes: torch.Tensor) -> torch.Tensor:
        """Return waveforms, see [`TransformersCodec`]."""
        return self.model.decode(audio_codes[None], [None]).audio_values


class MelCodec(ConfiguredCodec):
    """The mel codec, rows of one length decoded together, without the frames of longer rows.

    The window of a spectrogram at the end of a row's samples reaches into the next frame. Alone, a row has none; given
    one, the codec cannot tell it from a real frame, as audio of this length is encoded with a frame more.

    Args:
        model ([`JosieMelCodecModel`]): The codec.
    """

    def __init__(self, model: PreTrainedModel):
        self.model: Any = model
        self.config = model.config

    def encode(
        self,
        input_values: torch.Tensor,
        padding_mask: torch.Tensor | None = None,
        num_quantizers: int | None = None,
    ) -> JosieAudioEncoderOutput:
        """Encode, see [`AudioCodec`]."""
        return self.model.encode(input_values, padding_mask, num_quantizers)

    def decode(self, audio_codes: torch.Tensor, audio_lengths: torch.Tensor | None = None) -> JosieAudioDecoderOutput:
        """Decode whole frames, see [`AudioCodec`]."""
        if audio_lengths is None:
            return self.model.decode(audio_codes)
        sizes = (audio_lengths // self.hop_length).tolist()
        shape = len(sizes), 1, max(sizes) * self.hop_length
        values = torch.zeros(shape, dtype=self.model.dtype, device=audio_codes.device)
        for size in sorted({size for size in sizes if size > 0}):
            rows = [row for row, other in enumerate(sizes) if other == size]
            values[rows, :, : size * self.hop_length] = self.model.decode(audio_codes[rows, :, :size]).audio_values
        return JosieAudioDecoderOutput(audio_values=values)


_ADAPTERS: dict[str, type] = {"dac": DacCodec, "encodec": EncodecCodec, "josie_mel_codec": MelCodec}


def adapt_codec(codec: PreTrainedModel) -> AudioCodec:
    """Return a codec with the surface of [`AudioCodec`]: itself where it has it, else in an adapter of its family."""
    adapter: Any = _ADAPTERS.get(codec.config.model_type)
    if adapter is None and isinstance(codec, AudioCodec):
        return codec
    return (adapter or TransformersCodec)(codec)


@torch.no_grad()
def encode_audio(
    codec: PreTrainedModel,
    input_values: torch.Tensor,
    padding_mask: torch.Tensor | None = None,
    num_quantizers: int | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Encode waveforms with any codec.

    Args:
        codec: The codec.
        input_values (`torch.Tensor`): `(batch, channels, num_samples)`.
        padding_mask (`torch.Tensor`, *optional*): `(batch, num_samples)`, 1 for real samples.
        num_quantizers (`int`, *optional*): Use only the first ones; all that the codec uses by itself when `None`.

    Returns:
        Codes, `(batch, num_quantizers, num_frames)`, and which frames are real, `(batch, num_frames)`.

    Raises:
        `ValueError`: There are not that many quantizers.
    """
    adapted = adapt_codec(codec)
    codes: Any = adapted.encode(input_values.to(codec.dtype), padding_mask, num_quantizers).audio_codes
    num_frames = codes.shape[-1]
    if padding_mask is None:
        return codes, torch.ones(codes.shape[0], num_frames, dtype=torch.bool, device=codes.device)
    frames = [adapted.get_num_frames(length) for length in padding_mask.sum(dim=-1).tolist()]
    return codes, length_mask(torch.tensor(frames, device=codes.device), num_frames)


@torch.no_grad()
def decode_audio(
    codec: PreTrainedModel, audio_codes: torch.Tensor, num_frames: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Decode codes with any codec.

    Args:
        codec: The codec.
        audio_codes (`torch.LongTensor`): `(batch, num_quantizers, num_frames)`.
        num_frames (`torch.LongTensor`): `(batch,)`, real frames of each row.

    Returns:
        Waveforms, `(batch, channels, num_samples)`, 0 past a row's end, and `(batch,)` samples of each row.
    """
    adapted = adapt_codec(codec)
    lengths = num_frames * adapted.hop_length
    values: Any = adapted.decode(audio_codes, audio_lengths=lengths).audio_values
    lengths = lengths.clamp(max=values.shape[-1])
    return values * length_mask(lengths, values.shape[-1])[:, None], lengths
