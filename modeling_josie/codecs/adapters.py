"""One way to call any audio codec: JOSIE's own, or an audio tokenizer of transformers (Mimi, DAC, EnCodec)."""

from typing import Any

import torch
from transformers.modeling_utils import PreTrainedModel

from ...configuration_josie import audio_codec_geometry
from ..layers.masks import length_mask
from .checks import check_num_quantizers


@torch.no_grad()
def encode_audio(
    codec: PreTrainedModel,
    input_values: torch.Tensor,
    padding_mask: torch.Tensor | None = None,
    num_quantizers: int | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Turn waveforms into codes.

    Args:
        codec: The codec.
        input_values (`torch.Tensor`): `(batch, channels, num_samples)`.
        padding_mask (`torch.Tensor`, *optional*): `(batch, num_samples)`, 1 for real samples.
        num_quantizers (`int`, *optional*): Use only the first ones; all that the codec uses by itself when `None`.

    Returns:
        Codes, `(batch, num_quantizers, num_frames)`, and which frames are real, `(batch, num_frames)`.
    """
    input_values = input_values.to(codec.dtype)
    config: Any = codec.config
    if hasattr(config, "get_num_frames"):
        codes = codec.encode(input_values, padding_mask, num_quantizers).audio_codes  # type: ignore[operator]
    elif config.model_type == "dac":
        codes = codec.encode(input_values).audio_codes  # type: ignore[operator]
    else:
        # EnCodec's fewest quantizers are its default: fewer than the highest bandwidth's are a prefix.
        options = {"bandwidth": max(config.target_bandwidths)} if config.model_type == "encodec" else {}
        options = {} if num_quantizers is None else options
        codes = codec.encode(input_values, padding_mask=padding_mask, **options).audio_codes  # type: ignore[operator]
    if config.model_type == "encodec":  # (chunks, batch, num_quantizers, num_frames)
        codes = codes.permute(1, 2, 0, 3).flatten(2)
    codes = codes[:, : check_num_quantizers(num_quantizers, codes.shape[1])]
    num_frames = codes.shape[-1]
    if padding_mask is None:
        return codes, torch.ones(codes.shape[0], num_frames, dtype=torch.bool, device=codes.device)
    if hasattr(config, "get_num_frames"):
        lengths = [config.get_num_frames(length) for length in padding_mask.sum(dim=-1).tolist()]
        frames = torch.tensor(lengths, device=codes.device)
    else:
        hop = audio_codec_geometry(config).hop_length
        frames = (padding_mask.sum(dim=-1) + hop - 1) // hop
    return codes, length_mask(frames, num_frames)


@torch.no_grad()
def decode_audio(
    codec: PreTrainedModel, audio_codes: torch.Tensor, num_frames: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Turn codes into waveforms.

    Args:
        codec: The codec.
        audio_codes (`torch.LongTensor`): `(batch, num_quantizers, num_frames)`.
        num_frames (`torch.LongTensor`): `(batch,)`, real frames of each row.

    Returns:
        Waveforms, `(batch, channels, num_samples)`, 0 past a row's end, and `(batch,)` samples of each row.
    """
    config: Any = codec.config
    lengths = num_frames * audio_codec_geometry(config).hop_length
    if config.model_type == "encodec":
        values = codec.decode(audio_codes[None], [None]).audio_values  # type: ignore[operator]
    elif config.model_type == "dac":
        values = codec.decode(audio_codes=audio_codes).audio_values  # type: ignore[operator]
    elif hasattr(codec, "decode_to_mel"):
        values = _decode_by_length(codec, audio_codes, num_frames)
    elif hasattr(config, "get_num_frames"):
        values = codec.decode(audio_codes, audio_lengths=lengths).audio_values  # type: ignore[operator]
    else:
        values = codec.decode(audio_codes).audio_values  # type: ignore[operator]
    values = values if values.ndim == 3 else values[:, None]
    lengths = lengths.clamp(max=values.shape[-1])
    return values * length_mask(lengths, values.shape[-1])[:, None], lengths


def _decode_by_length(codec: Any, audio_codes: torch.Tensor, num_frames: torch.Tensor) -> torch.Tensor:
    """Decode rows of one length together, without the frames of longer rows.

    The window of a spectrogram at the end of a row's samples reaches into the next frame. Alone, a row has none; given
    one, the codec cannot tell it from a real frame, as sound of this length is encoded with a frame more.
    """
    sizes = num_frames.tolist()
    hop = audio_codec_geometry(codec.config).hop_length
    values = torch.zeros(len(sizes), 1, max(sizes) * hop, dtype=codec.dtype, device=audio_codes.device)
    for size in sorted({size for size in sizes if size > 0}):
        rows = [row for row, other in enumerate(sizes) if other == size]
        values[rows, :, : size * hop] = codec.decode(audio_codes[rows, :, :size]).audio_values
    return values
