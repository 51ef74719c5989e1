"""The surface of an audio codec: what everything that encodes or decodes audio relies on.

JODIO and the mel codec have it themselves. `adapters` gives it to audio tokenizers of transformers.
"""

from typing import Any, Protocol, runtime_checkable

import torch

from ..outputs import JosieAudioDecoderOutput, JosieAudioEncoderOutput


@runtime_checkable
class AudioCodec(Protocol):
    """Waveforms to codes, `(batch, num_quantizers, num_frames)`, and back."""

    @property
    def sampling_rate(self) -> int:
        """Samples a second, in Hz."""
        ...

    @property
    def hop_length(self) -> int:
        """Samples a code frame stands for."""
        ...

    @property
    def frame_rate(self) -> float:
        """Code frames a second, in Hz."""
        ...

    @property
    def num_quantizers(self) -> int:
        """Codes a frame has."""
        ...

    @property
    def codebook_size(self) -> int:
        """Number of values a code can take."""
        ...

    def get_num_frames(self, num_samples: int) -> int:
        """Return how many code frames a waveform of `num_samples` samples gives."""
        ...

    def encode(
        self,
        input_values: torch.Tensor,
        padding_mask: torch.Tensor | None = None,
        num_quantizers: int | None = None,
    ) -> JosieAudioEncoderOutput:
        """Encode waveforms, `(batch, channels, num_samples)`, with at most `num_quantizers` codes a frame.

        Args:
            input_values (`torch.Tensor`): In [-1, 1].
            padding_mask (`torch.Tensor`, *optional*): `(batch, num_samples)`, 1 for real samples, which come first.
            num_quantizers (`int`, *optional*): Use only the first ones.

        Raises:
            `ValueError`: There are not that many quantizers.
        """
        ...

    def decode(self, audio_codes: torch.Tensor, audio_lengths: torch.Tensor | None = None) -> JosieAudioDecoderOutput:
        """Decode codes to waveforms, `(batch, channels, num_samples)`.

        Args:
            audio_codes (`torch.LongTensor`): `(batch, num_quantizers, num_frames)`.
            audio_lengths (`torch.LongTensor`, *optional*): `(batch,)`, samples of each row; 0 past its end.
        """
        ...


class ConfiguredCodec:
    """The attributes of [`AudioCodec`], for models whose configuration has them."""

    config: Any

    @property
    def sampling_rate(self) -> int:
        """Samples a second, in Hz."""
        return self.config.sampling_rate

    @property
    def hop_length(self) -> int:
        """Samples a code frame stands for."""
        return self.config.hop_length

    @property
    def frame_rate(self) -> float:
        """Code frames a second, in Hz."""
        return self.config.frame_rate

    @property
    def num_quantizers(self) -> int:
        """Codes a frame has."""
        return self.config.num_quantizers

    @property
    def codebook_size(self) -> int:
        """Number of values a code can take."""
        return self.config.codebook_size

    def get_num_frames(self, num_samples: int) -> int:
        """Return how many code frames a waveform of `num_samples` samples gives."""
        return self.config.get_num_frames(num_samples)
