"""The mel codec: mel spectrogram, residual codes, mel spectrogram, and a waveform by Griffin-Lim.

Nothing in it works at the rate of samples but the transform, which makes it by far the cheapest codec to train. With
no layers, one mel frame a code and power mel it is the quantizer of μOmni; what differs from it is said at
[`JosieMelCodecModel.mel_to_audio`].
"""

import torch
from torch import nn
from transformers import AutoModel, AutoModelForAudioTokenization
from transformers.modeling_utils import PreTrainedAudioTokenizerBase
from transformers.utils.generic import can_return_tuple

from ...configuration_josie import JosieMelCodecConfig
from ..layers.masks import length_mask
from ..layers.transformer import JosieRMSNorm
from ..losses.audio import masked_mean, weighted_sum
from ..mel import mel_to_waveform, spectrogram_to_mel
from ..outputs import JosieAudioCodecOutput, JosieAudioDecoderOutput, JosieAudioEncoderOutput
from ..pretrained import JosiePreTrainedModel
from .checks import check_audio, check_audio_lengths, check_codes, check_num_quantizers
from .inference import InferenceFormMixin
from .protocol import ConfiguredCodec
from .quantization import QuantizingModel, ResidualVectorQuantizer
from .streaming import JodioStreamingState

# Widening of the pointwise layers inside a block.
_EXPANSION = 2


class MelConvLayer(nn.Module):
    """A residual block at the mel rate: depthwise convolution, norm, two pointwise layers (ConvNeXt, Liu et al., 2022).

    Args:
        config ([`JosieMelCodecConfig`]): Width and kernel.
    """

    def __init__(self, config: JosieMelCodecConfig):
        super().__init__()
        size, kernel_size = config.hidden_size, config.conv_kernel_size
        self.depthwise = nn.Conv1d(size, size, kernel_size, padding=kernel_size // 2, groups=size)
        self.norm = JosieRMSNorm(size, eps=1e-5)
        self.up_proj = nn.Linear(size, _EXPANSION * size)
        self.down_proj = nn.Linear(_EXPANSION * size, size)

    def forward(self, hidden_states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Map `(batch, length, size)` to the same shape; `mask`, `(batch, length, 1)`, is 1 for real frames."""
        added = self.depthwise((hidden_states * mask).transpose(1, 2)).transpose(1, 2)
        return hidden_states + self.down_proj(nn.functional.silu(self.up_proj(self.norm(added))))


class MelConvStack(nn.Module):
    """Blocks at the mel rate between two widths; a linear map, or nothing, without blocks.

    Args:
        config ([`JosieMelCodecConfig`]): Width and kernel of the blocks.
        in_size, out_size (`int`): Widths outside.
        num_layers (`int`): Blocks.
    """

    def __init__(self, config: JosieMelCodecConfig, in_size: int, out_size: int, num_layers: int):
        super().__init__()
        inner = config.hidden_size if num_layers else out_size
        self.proj_in = nn.Identity() if in_size == inner else nn.Linear(in_size, inner)
        self.layers = nn.ModuleList([MelConvLayer(config) for _ in range(num_layers)])
        self.norm = JosieRMSNorm(inner, eps=1e-5) if num_layers else nn.Identity()
        self.proj_out = nn.Identity() if inner == out_size else nn.Linear(inner, out_size)

    def forward(self, hidden_states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Map `(batch, length, in_size)` to `(batch, length, out_size)`, 0 where `mask`, `(batch, length)`, is 0."""
        mask = mask[..., None].to(hidden_states.dtype)
        hidden_states = self.proj_in(hidden_states)
        for layer in self.layers:
            hidden_states = layer(hidden_states, mask)
        return self.proj_out(self.norm(hidden_states)) * mask


class JosieMelCodecModel(
    QuantizingModel, InferenceFormMixin, ConfiguredCodec, JosiePreTrainedModel, PreTrainedAudioTokenizerBase
):
    """Waveform to the codes of stacked mel frames, and back; it sees whole recordings and does not stream.

    Args:
        config ([`JosieMelCodecConfig`]): Its shape.
    """

    config: JosieMelCodecConfig
    main_input_name = "input_values"
    base_model_prefix = "audio_codec"
    supports_gradient_checkpointing = False  # it has convolutions only
    input_modalities = ["audio"]

    def __init__(self, config: JosieMelCodecConfig):
        super().__init__(config)
        num_mel_bins = config.num_mel_bins
        self.latent_size = config.hidden_size if config.num_encoder_layers else num_mel_bins
        self.encoder = MelConvStack(config, num_mel_bins, self.latent_size, config.num_encoder_layers)
        self.quantizer = ResidualVectorQuantizer(
            config, config.frames_per_code * self.latent_size, config.num_quantizers
        )
        self.decoder = MelConvStack(config, self.latent_size, num_mel_bins, config.num_decoder_layers)
        self.post_init()

    @torch.no_grad()
    @can_return_tuple
    def encode(
        self,
        input_values: torch.Tensor,
        padding_mask: torch.Tensor | None = None,
        num_quantizers: int | None = None,
        streaming_state: JodioStreamingState | None = None,
        use_streaming: bool = False,
    ) -> JosieAudioEncoderOutput:
        """Turn waveforms into codes.

        Args:
            input_values (`torch.Tensor`): `(batch, 1, num_samples)`, in [-1, 1].
            padding_mask (`torch.Tensor`, *optional*): `(batch, num_samples)`, 1 for real samples, which come first.
            num_quantizers (`int`, *optional*): Use only the first ones.
            streaming_state, use_streaming: Must be left as they are: this codec does not stream.

        Returns:
            [`JosieAudioEncoderOutput`]

        Raises:
            `ValueError`: Input of a wrong shape, channel count or type, NaN, no samples, more quantizers than there
                are, or an attempt to stream.
        """
        self._refuse_stream(streaming_state, use_streaming)
        num_quantizers = check_num_quantizers(num_quantizers, self.config.num_quantizers)
        lengths = check_audio(input_values, self.config.audio_channels, padding_mask)
        mel = self._extract(input_values, lengths)
        codes = self.encode_mel(mel, self._count_mel_frames(lengths), num_quantizers)
        return JosieAudioEncoderOutput(audio_codes=codes, audio_lengths=lengths)

    @torch.no_grad()
    @can_return_tuple
    def decode(
        self,
        audio_codes: torch.Tensor,
        audio_lengths: torch.Tensor | None = None,
        streaming_state: JodioStreamingState | None = None,
        use_streaming: bool = False,
    ) -> JosieAudioDecoderOutput:
        """Turn codes into waveforms.

        Args:
            audio_codes (`torch.LongTensor`): `(batch, num_quantizers, num_frames)`; fewer quantizers are a prefix.
            audio_lengths (`torch.LongTensor`, *optional*): `(batch,)`, samples of each row: the result is as long as
                the longest, and 0 past a row's end. Whole frames when `None`.
            streaming_state, use_streaming: Must be left as they are: this codec does not stream.

        Returns:
            [`JosieAudioDecoderOutput`]

        Raises:
            `ValueError`: Codes of a wrong shape or type, or out of range; lengths that are longer than the codes; or
                an attempt to stream.
        """
        self._refuse_stream(streaming_state, use_streaming)
        check_codes(audio_codes, self.config.num_quantizers, self.config.codebook_size, "audio_codes")
        batch_size, _, num_frames = audio_codes.shape
        if num_frames == 0:
            raise ValueError(f"`audio_codes` must have at least 1 frame, got {tuple(audio_codes.shape)}.")
        max_length = num_frames * self.config.hop_length
        lengths = check_audio_lengths(audio_lengths, batch_size, max_length, audio_codes.device)
        # Samples may end where the last mel frame begins, so rows of whole frames have one code frame less to ask for.
        real = self._count_code_frames(self._count_mel_frames(lengths)).clamp(max=num_frames)
        mel = self.decode_to_mel(audio_codes, real)
        return JosieAudioDecoderOutput(audio_values=self._synthesize(mel, lengths).to(self.dtype))

    @can_return_tuple
    def forward(
        self,
        input_values: torch.Tensor,
        padding_mask: torch.Tensor | None = None,
        num_quantizers: int | None = None,
        return_loss: bool | None = None,
    ) -> JosieAudioCodecOutput:
        """Encode, quantize and decode; in training mode with losses, and the codebooks learn.

        Args:
            input_values (`torch.Tensor`): `(batch, 1, num_samples)`, in [-1, 1].
            padding_mask (`torch.Tensor`, *optional*): `(batch, num_samples)`, 1 for real samples, which come first.
            num_quantizers (`int`, *optional*): Use only the first ones.
            return_loss (`bool`, *optional*): Compute the losses, and no waveform; in training mode only when `None`.

        Returns:
            [`JosieAudioCodecOutput`]; `losses` has `mel`, `commitment`, and as configured `codebook`. With them
            there are no `audio_values`: the losses need none, and Griffin-Lim would take most of the time.

        Raises:
            `ValueError`: As in [`JosieMelCodecModel.encode`].
        """
        num_quantizers = check_num_quantizers(num_quantizers, self.config.num_quantizers)
        lengths = check_audio(input_values, self.config.audio_channels, padding_mask)
        mel = self._extract(input_values, lengths)
        mel_lengths = self._count_mel_frames(lengths)
        latents, mask = self._encode_frames(mel, mel_lengths)
        quantized = self.quantizer(latents, mask=mask, num_quantizers=num_quantizers)
        decoded = self._decode_frames(quantized.quantized_latents, mask)
        loss = losses = audio_values = None
        if self.training if return_loss is None else return_loss:
            real = length_mask(mel_lengths, mel.shape[-1])[:, None]
            error = (decoded[..., : mel.shape[-1]] - mel).abs()
            losses = {"mel": masked_mean(error, real), "commitment": quantized.commitment_loss}
            if self.config.codebook_update == "gradient":
                losses["codebook"] = quantized.codebook_loss
            loss = weighted_sum(losses, self.config)
        else:
            audio_values = self._synthesize(decoded, lengths).to(self.dtype)
            audio_values = nn.functional.pad(audio_values, (0, input_values.shape[-1] - audio_values.shape[-1]))
        return JosieAudioCodecOutput(
            loss=loss,
            audio_values=audio_values,
            audio_codes=quantized.codes,
            losses=losses,
            perplexity=quantized.perplexity,
            usage=quantized.usage,
        )

    def extract_mel(self, input_values: torch.Tensor, padding_mask: torch.Tensor | None = None) -> torch.Tensor:
        """Return what the encoder reads: the mel spectrogram, with logarithm and normalisation as configured.

        Args:
            input_values (`torch.Tensor`): `(batch, 1, num_samples)`, in [-1, 1].
            padding_mask (`torch.Tensor`, *optional*): `(batch, num_samples)`, 1 for real samples, which come first.

        Returns:
            `torch.Tensor` of shape `(batch, num_mel_bins, num_mel_frames)`, float32; 0 past a row's end.

        Raises:
            `ValueError`: As in [`JosieMelCodecModel.encode`].
        """
        return self._extract(input_values, check_audio(input_values, self.config.audio_channels, padding_mask))

    @torch.no_grad()
    def encode_mel(
        self, mel: torch.Tensor, mel_lengths: torch.Tensor | None = None, num_quantizers: int | None = None
    ) -> torch.Tensor:
        """Return the codes of what [`JosieMelCodecModel.extract_mel`] returned.

        Args:
            mel (`torch.Tensor`): `(batch, num_mel_bins, num_mel_frames)`.
            mel_lengths (`torch.LongTensor`, *optional*): `(batch,)`, mel frames of each row; all when `None`.
            num_quantizers (`int`, *optional*): Use only the first ones.

        Returns:
            `torch.LongTensor` of shape `(batch, num_quantizers, num_frames)`; 0 past a row's end.

        Raises:
            `ValueError`: `mel` has another shape, or there are not that many quantizers.
        """
        self._check_mel(mel)
        if mel_lengths is None:
            mel_lengths = torch.full((len(mel),), mel.shape[-1], device=mel.device)
        latents, mask = self._encode_frames(mel, mel_lengths)
        return self.quantizer.encode(latents, num_quantizers) * mask[:, None]

    def decode_to_mel(self, audio_codes: torch.Tensor, num_frames: torch.Tensor | None = None) -> torch.Tensor:
        """Return the mel spectrogram of codes, normalised as [`JosieMelCodecModel.extract_mel`] does.

        Args:
            audio_codes (`torch.LongTensor`): `(batch, num_quantizers, num_frames)`; fewer quantizers are a prefix.
            num_frames (`torch.LongTensor`, *optional*): `(batch,)`, code frames of each row; all when `None`.

        Returns:
            `torch.Tensor` of shape `(batch, num_mel_bins, frames_per_code * num_frames)`, float32.

        Raises:
            `ValueError`: Codes of a wrong shape or type, or out of range.
        """
        latents = self.quantizer.decode(audio_codes)
        if num_frames is None:
            num_frames = torch.full((len(latents),), latents.shape[-1], device=latents.device)
        return self._decode_frames(latents, length_mask(num_frames, latents.shape[-1]))

    def mel_to_audio(self, mel: torch.Tensor, audio_lengths: torch.Tensor | None = None) -> torch.Tensor:
        """Return the waveform of a mel spectrogram, by Griffin-Lim with momentum (Perraudin et al., 2013).

        Equal codes sound equal: nothing in it is random. Unlike μOmni's, the vocoder works at the codes' own hop.

        Args:
            mel (`torch.Tensor`): `(batch, num_mel_bins, num_mel_frames)`, as [`JosieMelCodecModel.extract_mel`]
                returned it.
            audio_lengths (`torch.LongTensor`, *optional*): `(batch,)`, samples of each row;
                `num_mel_frames * mel_hop_length` when `None`.

        Returns:
            `torch.Tensor` of shape `(batch, 1, num_samples)`, float32, 0 past a row's end.

        Raises:
            `ValueError`: `mel` has another shape, or a length is out of range.
        """
        self._check_mel(mel)
        max_length = mel.shape[-1] * self.config.mel_hop_length
        return self._synthesize(mel, check_audio_lengths(audio_lengths, len(mel), max_length, mel.device))

    def _extract(self, input_values: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        config = self.config
        with torch.autocast(input_values.device.type, enabled=False):
            padded = _pad_rows(input_values[:, 0].float(), lengths, config.n_fft // 2, config.pad_mode)
            spectra = torch.stft(
                padded,
                config.n_fft,
                hop_length=config.mel_hop_length,
                win_length=config.win_length,
                window=torch.hann_window(config.win_length, dtype=padded.dtype, device=padded.device),
                center=False,
                return_complex=True,
            )
            mel = spectrogram_to_mel(config, spectra.abs())
        return mel * length_mask(self._count_mel_frames(lengths), mel.shape[-1])[:, None]

    def _encode_frames(self, mel: torch.Tensor, mel_lengths: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Map mel frames to stacked latents, `(batch, frames_per_code * latent_size, num_frames)`, and their mask."""
        num_stacked = self.config.frames_per_code
        frames = nn.functional.pad(mel, (0, -mel.shape[-1] % num_stacked)).transpose(1, 2).to(self.dtype)
        hidden_states = self.encoder(frames, mask=length_mask(mel_lengths, frames.shape[1]))
        stacked = hidden_states.reshape(len(mel), -1, num_stacked * self.latent_size)
        return stacked.transpose(1, 2), length_mask(self._count_code_frames(mel_lengths), stacked.shape[1])

    def _decode_frames(self, latents: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Map stacked latents to float32 mel frames, `(batch, num_mel_bins, frames_per_code * num_frames)`."""
        frames = latents.transpose(1, 2).reshape(len(latents), -1, self.latent_size)
        mel = self.decoder(frames, mask.repeat_interleave(self.config.frames_per_code, dim=1))
        return mel.transpose(1, 2).float()

    @torch.no_grad()
    def _synthesize(self, mel: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """Return `(batch, 1, longest)`; rows of one length go together, so that none sees the padding of another."""
        sizes = lengths.tolist()
        audio_values = mel.new_zeros((len(mel), 1, max(sizes)), dtype=torch.float32)
        with torch.autocast(mel.device.type, enabled=False):
            for size in sorted({size for size in sizes if size > 0}):
                rows = [row for row, other in enumerate(sizes) if other == size]
                audio_values[rows, 0, :size] = mel_to_waveform(self.config, mel[rows].float(), size)
        return audio_values

    def _count_mel_frames(self, lengths: torch.Tensor) -> torch.Tensor:
        return lengths // self.config.mel_hop_length + 1

    def _count_code_frames(self, mel_lengths: torch.Tensor) -> torch.Tensor:
        return (mel_lengths + self.config.frames_per_code - 1) // self.config.frames_per_code

    def _check_mel(self, mel: torch.Tensor) -> None:
        if mel.ndim != 3 or mel.shape[1] != self.config.num_mel_bins or mel.shape[2] == 0:
            raise ValueError(
                f"`mel` must have shape (batch, {self.config.num_mel_bins}, frames), got {tuple(mel.shape)}."
            )

    def _refuse_stream(self, streaming_state: JodioStreamingState | None, use_streaming: bool) -> None:
        if streaming_state is not None:
            raise ValueError("`streaming_state` must be None: the mel codec does not stream, got a state.")
        if use_streaming:
            raise ValueError("`use_streaming` must be False: the mel codec does not stream, got True.")


def _pad_rows(waveforms: torch.Tensor, lengths: torch.Tensor, padding: int, mode: str) -> torch.Tensor:
    """Continue each row past its own ends by `padding` samples: with zeros, or reflected.

    Args:
        waveforms (`torch.Tensor`): `(batch, num_samples)`.
        lengths (`torch.LongTensor`): `(batch,)`, at least 1.

    Returns:
        `torch.Tensor` of shape `(batch, num_samples + 2 * padding)`.
    """
    num_samples = waveforms.shape[1]
    if mode == "constant":
        return nn.functional.pad(waveforms * length_mask(lengths, num_samples), (padding, padding))
    places = torch.arange(-padding, num_samples + padding, device=waveforms.device)
    period = (2 * (lengths - 1)).clamp(min=1)[:, None]  # back and forth, so that rows may be shorter than the padding
    places = places.remainder(period)
    return waveforms.gather(1, torch.minimum(places, period - places).clamp(max=num_samples - 1))


AutoModel.register(JosieMelCodecConfig, JosieMelCodecModel, exist_ok=True)
AutoModelForAudioTokenization.register(JosieMelCodecConfig, JosieMelCodecModel, exist_ok=True)
