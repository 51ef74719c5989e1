"""Files of codes, and clips to codes and back through any audio codec.

A file of codes is a safetensors file with one tensor, `codes`, and what decoding needs in its metadata. That is
compared with the model before anything is decoded, as codes of another codec would only give noise.
"""

import json
import math
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from transformers.configuration_utils import PreTrainedConfig
from transformers.modeling_utils import PreTrainedModel

from ..configuration_josie import JovioConfig, audio_codec_geometry
from ..conversion.files import new_file
from ..modeling_josie.codecs.adapters import decode_audio, encode_audio
from ..modeling_josie.codecs.checks import check_codes, check_num_quantizers
from ..modeling_josie.codecs.protocol import AudioCodec
from ..processing_josie.audio import as_waveform
from ..processing_josie.audio_files import open_audio
from ..processing_josie.resampling import resample
from .codec_inputs import CODES_FORMAT, Modality, read_codes_metadata


@dataclass
class Codes:
    """A clip, an image or a video as the codes of a codec, and what it takes to decode them.

    Args:
        modality (`"audio"`, `"image"` or `"video"`): What they stand for.
        model_type (`str`): Of the codec.
        codebook_size (`int`): Of the codec.
        codes (`torch.LongTensor`): `(1, num_quantizers, num_frames)`, or patches in place of frames.
        sampling_rate (`int`, *optional*): Of audio, in Hz.
        hop_length (`int`, *optional*): Samples a frame of audio stands for.
        length (`int`, *optional*): Samples of audio.
        patch (`list[int]`, *optional*): Frames, height and width of a patch.
        grid (`list[int]`, *optional*): Patches along time, height and width.
        num_frames (`int`, *optional*): Frames of a video; 1 for an image.
        fps (`float`, *optional*): Frames a second of a video.
    """

    modality: Modality
    model_type: str
    codebook_size: int
    codes: torch.Tensor
    sampling_rate: int | None = None
    hop_length: int | None = None
    length: int | None = None
    patch: list[int] | None = None
    grid: list[int] | None = None
    num_frames: int | None = None
    fps: float | None = None

    @property
    def num_bits(self) -> float:
        """Bits that the codes carry."""
        return self.codes.numel() * math.log2(self.codebook_size)

    @property
    def seconds(self) -> float:
        """Length of audio."""
        return (self.length or 0) / (self.sampling_rate or 1)

    @property
    def kbit_rate(self) -> float:
        """Kilobits that a second of audio takes."""
        return self.num_bits / self.codes.shape[-1] * (self.sampling_rate or 0) / (self.hop_length or 1) / 1000

    def save(self, path: Path) -> None:
        """Write a file of codes, which appears under its name only when it is complete."""
        values = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "codes"}
        metadata = {name: json.dumps(value) for name, value in values.items() if value is not None}
        dtype = torch.int16 if self.codebook_size <= 2**15 else torch.int32
        with new_file(path) as unfinished:
            tensors = {"codes": self.codes.to("cpu", dtype).contiguous()}
            # `save_file` would let nobody but its owner read it.
            unfinished.write_bytes(save(tensors, metadata=metadata | {"format": CODES_FORMAT}))

    @classmethod
    def load(cls, path: Path) -> "Codes":
        """Read a file of codes.

        Raises:
            `ValueError`: It is none, or is damaged.
        """
        values = read_codes_metadata(path)
        required = f"`CODES` must be a file that `josie codec encode` wrote, got {str(path)!r}"
        try:
            with safe_open(path, "pt") as file:
                codes = file.get_tensor("codes").long()
        except SafetensorError as error:
            raise ValueError(f"{required}: {error}.") from error
        if codes.ndim != 3 or len(codes) != 1:
            raise ValueError(f"{required}, of shape {tuple(codes.shape)}.")
        names = {field.name for field in fields(cls)}
        return cls(codes=codes, **{name: value for name, value in values.items() if name in names})

    def require_fit(self, config: PreTrainedConfig) -> None:
        """Check that a codec can decode these codes.

        Raises:
            `ValueError`: They are of another kind, codec, rate or geometry, too many or out of range.
        """
        modalities = ("image", "video") if isinstance(config, JovioConfig) else ("audio",)
        if self.modality not in modalities:
            raise ValueError(
                f"`CODES` must be of {' or '.join(modalities)}, which {config.model_type!r} makes, got {self.modality}."
            )
        expected = codec_metadata(config)
        for name, value in expected.items():
            if getattr(self, name) != value:
                raise ValueError(f"`CODES` must have the model's `{name}`, {value!r}, got {getattr(self, name)!r}.")
        check_codes(self.codes, num_quantizers_of(config), self.codebook_size, "CODES")
        num_steps = self.codes.shape[-1]
        if self.grid is not None and math.prod(self.grid) != num_steps:
            raise ValueError(f"`CODES` must have one step for each patch of the grid {self.grid}, got {num_steps}.")
        if self.modality == "audio" and not (self.length and 1 <= self.length <= num_steps * (self.hop_length or 0)):
            raise ValueError(f"`CODES` must have frames for all {self.length} samples, got {num_steps} frames.")


def num_quantizers_of(config: PreTrainedConfig) -> int:
    """Return how many quantizers a codec has."""
    return config.num_quantizers if isinstance(config, JovioConfig) else audio_codec_geometry(config).num_quantizers


def codec_metadata(config: PreTrainedConfig) -> dict[str, Any]:
    """Return the metadata in which codes and codec must agree."""
    if isinstance(config, JovioConfig):
        patch = [config.temporal_patch_size, config.patch_size, config.patch_size]
        return {"model_type": config.model_type, "codebook_size": config.codebook_size, "patch": patch}
    codec = audio_codec_geometry(config)
    return {
        "model_type": config.model_type,
        "codebook_size": codec.codebook_size,
        "sampling_rate": codec.sampling_rate,
        "hop_length": codec.hop_length,
    }


def require_whole_clips(config: PreTrainedConfig) -> None:
    """Raise a `ValueError` for an EnCodec that cuts and scales its input: its codes alone do not say how."""
    if config.model_type == "encodec" and (config.normalize or config.chunk_length_s is not None):
        raise ValueError(
            "`DIR` must have an EnCodec that neither normalizes nor chunks (as the one for 24 kHz), got "
            f"`normalize={config.normalize}` and `chunk_length_s={config.chunk_length_s}`."
        )


def read_clip(path: Path, config: PreTrainedConfig) -> tuple[torch.Tensor, int]:
    """Read an audio file for an audio codec.

    Returns:
        `(channels, num_samples)`, float32 in [-1, 1], with the codec's channels, and the file's own rate in Hz.

    Raises:
        `ValueError`: It is damaged, or has no audio.
    """
    with open_audio(path) as file:
        rate, values = file.sampling_rate, file.read()
    return torch.from_numpy(as_waveform((values, rate), None, rate, getattr(config, "audio_channels", 1))), rate


def make_codes(config: PreTrainedConfig, codes: torch.Tensor, length: int) -> Codes:
    """Return the codes of a clip with their metadata.

    Args:
        config (`PreTrainedConfig`): Of the audio codec.
        codes (`torch.Tensor`): `(1, num_quantizers, num_frames)`.
        length (`int`): Samples of the clip.
    """
    return Codes(modality="audio", codes=codes, length=length, **codec_metadata(config))


def encode_clip(codec: PreTrainedModel, values: torch.Tensor, rate: int, num_quantizers: int | None = None) -> Codes:
    """Turn a clip into codes.

    Args:
        codec: JODIO, the mel codec, or an audio tokenizer of transformers.
        values (`torch.Tensor`): `(channels, num_samples)`, with the codec's channels.
        rate (`int`): Of `values`, in Hz; they are resampled to the codec's.
        num_quantizers (`int`, *optional*): Use only the first ones.

    Raises:
        `ValueError`: No samples, or more quantizers than there are.
    """
    config = codec.config
    require_whole_clips(config)
    geometry = audio_codec_geometry(config)
    if num_quantizers is not None:
        check_num_quantizers(num_quantizers, geometry.num_quantizers)
    values = torch.from_numpy(resample(values.numpy(), rate, geometry.sampling_rate))
    length = values.shape[-1]
    if not isinstance(codec, AudioCodec):  # DAC drops what does not fill a frame
        values = torch.nn.functional.pad(values, (0, -length % geometry.hop_length))
    codes, _ = encode_audio(codec, values[None].to(codec.device), num_quantizers=num_quantizers)
    return make_codes(config, codes, length)


def decode_clip(codec: PreTrainedModel, stored: Codes) -> torch.Tensor:
    """Return the `(channels, num_samples)` that codes stand for.

    Raises:
        `ValueError`: The codes do not fit the codec.
    """
    require_whole_clips(codec.config)
    stored.require_fit(codec.config)
    codes = stored.codes.to(codec.device)
    values, _ = decode_audio(codec, codes, torch.tensor([codes.shape[-1]], device=codec.device))
    return cut_clip(values, stored)


def cut_clip(values: torch.Tensor, stored: Codes) -> torch.Tensor:
    """Return `(1, channels, num_samples)` as float32 `(channels, length)`; codecs give whole frames, or a bit less."""
    length = stored.length or 0
    return torch.nn.functional.pad(values[0, :, :length].float().cpu(), (0, max(length - values.shape[-1], 0)))
