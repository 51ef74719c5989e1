"""JODIO, the neural audio codec: SEANet, causal transformer, split residual quantizer, and back.

Everything is causal, in the mel domain too. So padding on the right never reaches real samples, no attention mask is
needed, and a stream gives what the whole recording gives, whatever its chunks.
"""

from contextlib import nullcontext
from dataclasses import replace
from typing import Any, cast

import torch
from torch import nn
from transformers import AutoModel, AutoModelForAudioTokenization
from transformers.modeling_utils import PreTrainedAudioTokenizerBase
from transformers.utils import logging
from transformers.utils.generic import can_return_tuple

from ...configuration_josie import JodioConfig, JosieBackboneConfig
from ..layers.backbone import JosieBackbone
from ..layers.masks import length_mask
from ..losses.audio import ctc_loss, masked_mean, semantic_loss, spectral_losses, waveform_loss, weighted_sum
from ..outputs import JosieAudioCodecOutput, JosieAudioDecoderOutput, JosieAudioEncoderOutput, QuantizerOutput
from ..pretrained import JosiePreTrainedModel
from .checks import (
    check_audio,
    check_audio_lengths,
    check_codes,
    check_labels,
    check_num_quantizers,
    check_sampling_rate,
    check_semantic_targets,
)
from .inference import HasInferenceForm, InferenceFormMixin
from .jodio_directions import JodioDecoding, JodioEncoding
from .mel_transform import synthesis_targets
from .protocol import ConfiguredCodec
from .quantization import QuantizingModel, SplitResidualVectorQuantizer, build_quantizer
from .seanet import SeanetDecoder, SeanetEncoder
from .spectral import SpectralDecoder, SpectralEncoder
from .streaming import PENDING, JodioStreamingState

# Whole recordings of more frames than this run in pieces, as a stream does: attention over all pairs of frames, and
# activations at the waveform's rate, would take memory without bound.
_MAX_FRAMES_AT_ONCE = 64

logger = logging.get_logger(__name__)


class JodioModel(
    QuantizingModel,
    InferenceFormMixin,
    ConfiguredCodec,
    HasInferenceForm[JodioDecoding],
    JosiePreTrainedModel,
    PreTrainedAudioTokenizerBase,
):
    """Waveform to one semantic and several acoustic codes a frame, and back.

    Args:
        config ([`JodioConfig`]): Its shape.
    """

    config: JodioConfig
    main_input_name = "input_values"
    base_model_prefix = "audio_codec"
    input_modalities = ["audio"]

    def __init__(self, config: JodioConfig):
        super().__init__(config)
        encoder_config = cast(JosieBackboneConfig, config.encoder_config)
        decoder_config = cast(JosieBackboneConfig, config.decoder_config)
        is_spectral = config.domain == "mel"
        self.encoder = SpectralEncoder(config) if is_spectral else SeanetEncoder(config)
        self.encoder_proj = _connect(config.channels[-1], encoder_config.hidden_size)
        self.encoder_transformer = JosieBackbone(encoder_config)
        self.quantizer = build_quantizer(config, encoder_config.hidden_size, keep_variance=True)
        self.latent_proj = _connect(encoder_config.hidden_size, decoder_config.hidden_size)
        self.decoder_transformer = JosieBackbone(decoder_config)
        self.decoder_proj = _connect(decoder_config.hidden_size, config.channels[-1])
        self.decoder = SpectralDecoder(config) if is_spectral else SeanetDecoder(config)
        self.semantic_head: nn.Linear | None = None
        self.label_head: nn.Linear | None = None
        if config.semantic_target_size is not None:
            self.semantic_head = nn.Linear(encoder_config.hidden_size, config.semantic_target_size)
        if config.semantic_vocab_size is not None:
            self.label_head = nn.Linear(encoder_config.hidden_size, config.semantic_vocab_size)
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
        is_final: bool = False,
        sampling_rate: int | None = None,
    ) -> JosieAudioEncoderOutput:
        """Encode waveforms. Memory grows with the codes only: long recordings run in pieces.

        Args:
            input_values (`torch.Tensor`): `(batch, channels, num_samples)`, in [-1, 1]; in a stream any number of
                samples, even none.
            padding_mask (`torch.Tensor`, *optional*): `(batch, num_samples)`, 1 for real samples, which come first.
                Not in a stream, whose rows are equally long.
            num_quantizers (`int`, *optional*): Use only the first ones.
            streaming_state ([`JodioStreamingState`], *optional*): State after the chunk before. It is not changed.
            use_streaming (`bool`): Begin a stream. Samples that do not fill a frame wait in the state.
            is_final (`bool`): End the stream: pending samples are filled up with zeros and encoded.
            sampling_rate (`int`, *optional*): Rate of `input_values` in Hz, for the check that it is the model's.

        Returns:
            [`JosieAudioEncoderOutput`], with `streaming_state` in a stream that goes on. In a stream `audio_lengths`
            counts the samples that the codes of this chunk stand for.

        Raises:
            `ValueError`: Input of a wrong shape, channel count, type or sampling rate, NaN, no samples, more
                quantizers than there are, a mask in a stream, or a state of another batch size or model.
        """
        check_sampling_rate(sampling_rate, self.config.sampling_rate)
        num_quantizers = check_num_quantizers(num_quantizers, self.config.num_quantizers)
        if use_streaming or streaming_state is not None:
            return self._encode_chunk(input_values, padding_mask, num_quantizers, streaming_state, is_final)
        lengths = check_audio(input_values, self.config.audio_channels, padding_mask)
        codes, _ = self._encode_codes(self._fill_frames(input_values, lengths), num_quantizers)
        codes = codes * length_mask(self._count_frames(lengths), codes.shape[-1])[:, None]
        return JosieAudioEncoderOutput(audio_codes=codes, audio_lengths=lengths)

    @can_return_tuple
    def decode(
        self,
        audio_codes: torch.Tensor,
        audio_lengths: torch.Tensor | None = None,
        streaming_state: JodioStreamingState | None = None,
        use_streaming: bool = False,
    ) -> JosieAudioDecoderOutput:
        """Decode codes to waveforms. Without gradients long recordings run in pieces, so that memory grows with the
        waveform only. In the mel domain no gradient passes.

        There decoding runs in float64, on a copy of the decoder that is made at every call: streams should
        [`~JodioModel.prepare_for_inference`] first.

        Args:
            audio_codes (`torch.LongTensor`): `(batch, num_quantizers, num_frames)`; fewer quantizers are a prefix.
            audio_lengths (`torch.LongTensor`, *optional*): `(batch,)`, samples of each row: the result is as long as
                the longest, and 0 past a row's end. Whole frames when `None`.
            streaming_state ([`JodioStreamingState`], *optional*): State after the chunk before. It is not changed.
            use_streaming (`bool`): Begin a stream.

        Returns:
            [`JosieAudioDecoderOutput`], with `streaming_state` in a stream.

        Raises:
            `ValueError`: Codes of a wrong shape or type, or out of range; lengths that are longer than the codes; no
                frames outside a stream; or a state of another batch size or model.
        """
        config = self.config
        check_codes(audio_codes, config.num_quantizers, config.codebook_size, "audio_codes")
        batch_size, _, num_frames = audio_codes.shape
        max_length = num_frames * config.hop_length
        lengths = check_audio_lengths(audio_lengths, batch_size, max_length, audio_codes.device)
        decoding = self.get_decoding()
        if use_streaming or streaming_state is not None:
            if self.decoder.needs_float64 and decoding is not self._form:
                logger.warning_once("A stream of an unprepared JODIO is slow: call `prepare_for_inference()` first.")
            state = decoding.enter_stream(streaming_state, batch_size)
            audio_values = audio_codes.new_zeros((batch_size, config.audio_channels, 0), dtype=self.dtype)
            if num_frames:
                audio_values, state = self._decode_codes(decoding, audio_codes, state)
        elif num_frames == 0:
            raise ValueError(f"`audio_codes` must have at least 1 frame, got {tuple(audio_codes.shape)}.")
        else:
            audio_values, state = self._decode_codes(decoding, audio_codes)
        if audio_lengths is not None:
            audio_values = audio_values[..., : int(lengths.max())]
            audio_values = audio_values * length_mask(lengths, audio_values.shape[-1])[:, None]
        return JosieAudioDecoderOutput(audio_values=audio_values, streaming_state=state)

    @can_return_tuple
    def forward(
        self,
        input_values: torch.Tensor,
        padding_mask: torch.Tensor | None = None,
        num_quantizers: int | None = None,
        semantic_targets: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        return_loss: bool | None = None,
    ) -> JosieAudioCodecOutput:
        """Encode, quantize and decode; in training mode with losses, and the codebooks learn.

        Args:
            input_values (`torch.Tensor`): `(batch, channels, num_samples)`, in [-1, 1].
            padding_mask (`torch.Tensor`, *optional*): `(batch, num_samples)`, 1 for real samples, which come first.
            num_quantizers (`int`, *optional*): Use only the first ones.
            semantic_targets (`torch.Tensor`, *optional*): `(batch, any number of frames, semantic_target_size)`,
                features of the same padded input that the semantic codes shall predict.
            labels (`torch.LongTensor`, *optional*): `(batch, num_labels)`, in [1, semantic_vocab_size) with -100 for
                padding, that they shall predict in order.
            return_loss (`bool`, *optional*): Compute the losses; in training mode only when `None`. In the mel domain
                no waveform is made then: the losses need none, and phase reconstruction would take most of the time.

        Returns:
            [`JosieAudioCodecOutput`]; `losses` has `commitment`, `codebook` where codebooks learn by gradient,
            `semantic` and `ctc` where their targets are given, and each where its weight in the configuration is not 0
            `waveform`, `mel` and `stft`. In the mel domain `audio_values` is `None` where there are losses.

        Raises:
            `ValueError`: As in [`JodioModel.encode`]; or targets without their head, or of a wrong shape or range.
        """
        num_quantizers = check_num_quantizers(num_quantizers, self.config.num_quantizers)
        lengths = check_audio(input_values, self.config.audio_channels, padding_mask)
        check_semantic_targets(semantic_targets, len(input_values), self.config.semantic_target_size)
        check_labels(labels, len(input_values), self.config.semantic_vocab_size)
        filled = self._fill_frames(input_values, lengths)
        latents, _ = self.get_encoding().run(filled)
        num_frames = self._count_frames(lengths)
        mask = length_mask(num_frames, latents.shape[1])
        latents = latents.transpose(1, 2)
        quantized: Any
        if isinstance(self.quantizer, SplitResidualVectorQuantizer):
            quantized, semantic = self.quantizer.forward_parts(latents, mask, num_quantizers)
        else:
            quantized = self.quantizer(latents, mask=mask, num_quantizers=num_quantizers)
            semantic = quantized.quantized_latents
        wants_losses = self.training if return_loss is None else return_loss
        losses: dict[str, torch.Tensor] | None = None
        audio_values: torch.Tensor | None = None
        if self.config.domain == "mel" and wants_losses:
            losses = self._mel_losses(self._own_decoding().predict_mel(quantized.quantized_latents), filled, lengths)
        else:
            audio_values = self._decode_quantized(quantized, input_values.shape[-1], lengths)
            if wants_losses:
                losses = self._waveform_losses(audio_values, filled[..., : input_values.shape[-1]], lengths)
        if losses is not None:
            losses |= self._quantizer_losses(quantized)
            semantic = semantic.transpose(1, 2)
            if semantic_targets is not None and self.semantic_head is not None:
                losses["semantic"] = semantic_loss(self.semantic_head(semantic), semantic_targets, mask)
            if labels is not None and self.label_head is not None:
                losses["ctc"] = ctc_loss(self.label_head(semantic), labels, num_frames)
        return JosieAudioCodecOutput(
            loss=None if losses is None else weighted_sum(losses, self.config),
            audio_values=audio_values,
            audio_codes=quantized.codes,
            losses=losses,
            perplexity=quantized.perplexity,
            usage=quantized.usage,
        )

    def _quantizer_losses(self, quantized: QuantizerOutput) -> dict[str, torch.Tensor]:
        losses: dict[str, Any] = {"commitment": quantized.commitment_loss}
        if self.config.codebook_update == "gradient":
            losses["codebook"] = quantized.codebook_loss
        return losses

    def _waveform_losses(
        self, audio_values: torch.Tensor, target: torch.Tensor, lengths: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        config = self.config
        losses: dict[str, torch.Tensor] = {}
        if config.waveform_weight:
            losses["waveform"] = waveform_loss(audio_values, target, lengths)
        spectral = [name for name in ("mel", "stft") if getattr(config, f"{name}_weight")]
        if spectral:
            rate, windows = config.sampling_rate, config.loss_windows
            losses |= spectral_losses(audio_values, target, lengths, rate, windows, spectral)
        return losses

    def _mel_losses(self, mel: torch.Tensor, target: torch.Tensor, lengths: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return the loss of mel frames, over the windows that lie before the end of the recording."""
        if not self.config.mel_weight:
            return {}
        with torch.no_grad():
            wanted = synthesis_targets(self.config, target[:, 0])
        num_known = ((lengths - self.config.mel_lookahead) // self.config.mel_hop_length).clamp(min=0)
        return {"mel": masked_mean((mel.float() - wanted).abs(), length_mask(num_known, mel.shape[1])[..., None])}

    def _count_frames(self, lengths: torch.Tensor) -> torch.Tensor:
        return (lengths + self.config.hop_length - 1) // self.config.hop_length

    def _fill_frames(self, input_values: torch.Tensor, lengths: torch.Tensor | None = None) -> torch.Tensor:
        """Return the waveform in the model's dtype, silent past each row's end, with zeros up to a whole frame."""
        if lengths is not None:
            input_values = input_values * length_mask(lengths, input_values.shape[-1])[:, None]
        input_values = nn.functional.pad(input_values, (0, -input_values.shape[-1] % self.config.hop_length))
        return input_values.to(self.dtype)

    def get_encoding(self) -> JodioEncoding:
        """Return the direction that encodes: modules of this model in a row."""
        config = self.config
        return JodioEncoding(self.encoder, self.encoder_transformer, self.encoder_proj, config.audio_channels)

    def get_decoding(self) -> JodioDecoding:
        """Return the direction that decodes: modules of this model in a row, in the mel domain copies in float64.

        Phase reconstruction tells apart what float32 rounds differently in pieces of another size.
        """
        if not self.decoder.needs_float64:
            return self._own_decoding()
        parts = [part for part in (*self.decoder.modules(), *self.quantizer.modules()) if part is not self]
        if self._form is not None and all(part.has_form for part in parts if isinstance(part, HasInferenceForm)):
            return self._form
        return self.compute_form()

    def _own_decoding(self) -> JodioDecoding:
        parts: Any = self.decoder, self.decoder_transformer, self.quantizer, self.latent_proj, self.decoder_proj
        return JodioDecoding(*parts)

    @torch.no_grad()
    def compute_form(self) -> JodioDecoding:
        """Return the inference form of decoding, see [`JodioModel.get_decoding`]."""
        return self._own_decoding().copy_in_float64() if self.decoder.needs_float64 else self._own_decoding()

    def _encode_codes(
        self, input_values: torch.Tensor, num_quantizers: int, state: JodioStreamingState | None = None
    ) -> tuple[torch.Tensor, JodioStreamingState | None]:
        """Map whole frames of samples to codes, in pieces where there are many; return the state only in a stream."""
        pieces, is_stream = input_values.split(_MAX_FRAMES_AT_ONCE * self.config.hop_length, dim=-1), state is not None
        encoding = self.get_encoding()
        if len(pieces) > 1 and state is None:
            state = encoding.enter_stream(None, len(input_values))
        codes = []
        for piece in pieces:
            latents, state = encoding.run(piece, state)
            codes.append(self.quantizer.encode(latents.transpose(1, 2), num_quantizers))
        return torch.cat(codes, dim=-1), state if is_stream else None

    def _decode_codes(
        self, decoding: JodioDecoding, audio_codes: torch.Tensor, state: JodioStreamingState | None = None
    ) -> tuple[torch.Tensor, JodioStreamingState | None]:
        """Map codes to samples; as `_encode_codes`, but at once where gradients are wanted."""
        num_frames, is_stream, is_precise = audio_codes.shape[-1], state is not None, self.decoder.needs_float64
        at_once = torch.is_grad_enabled() and not is_precise
        pieces = audio_codes.split(num_frames if at_once else _MAX_FRAMES_AT_ONCE, dim=-1)
        if len(pieces) > 1 and state is None:
            state = decoding.enter_stream(None, len(audio_codes))
        values = []
        # float64 stays so under autocast too.
        precise = torch.autocast(audio_codes.device.type, enabled=False) if is_precise else nullcontext()
        with precise, torch.set_grad_enabled(at_once):
            for piece in pieces:
                audio_values, state = decoding.run(decoding.quantizer.decode(piece), state)
                values.append(audio_values.to(self.dtype))
        return torch.cat(values, dim=-1), state if is_stream else None

    def _decode_quantized(self, quantized: QuantizerOutput, num_samples: int, lengths: torch.Tensor) -> torch.Tensor:
        """Return `(batch, channels, num_samples)` of what was quantized, 0 past each row's end."""
        if self.decoder.needs_float64:
            audio_values, _ = self._decode_codes(self.get_decoding(), cast(torch.Tensor, quantized.codes))
        else:
            audio_values, _ = self._own_decoding().run(cast(torch.Tensor, quantized.quantized_latents))
        return audio_values[..., :num_samples] * length_mask(lengths, num_samples)[:, None]

    def _encode_chunk(
        self,
        input_values: torch.Tensor,
        padding_mask: torch.Tensor | None,
        num_quantizers: int,
        state: JodioStreamingState | None,
        is_final: bool,
    ) -> JosieAudioEncoderOutput:
        if padding_mask is not None:
            raise ValueError("`padding_mask` must be None in a stream, got a tensor.")
        check_audio(input_values, self.config.audio_channels, allow_empty=True)
        batch_size, hop_length = len(input_values), self.config.hop_length
        state = self.get_encoding().enter_stream(state, batch_size)
        pending = state.buffers[PENDING]
        waiting = torch.cat((pending, input_values.to(pending.dtype)), dim=-1)
        num_samples = waiting.shape[-1] if is_final else waiting.shape[-1] // hop_length * hop_length
        ready, pending = self._fill_frames(waiting[..., :num_samples]), waiting[..., num_samples:].clone()
        codes = torch.zeros(batch_size, num_quantizers, 0, dtype=torch.long, device=input_values.device)
        if num_samples:
            codes, following = self._encode_codes(ready, num_quantizers, state)
            state = cast(JodioStreamingState, following)
        state = replace(state, buffers=state.buffers | {PENDING: pending})
        return JosieAudioEncoderOutput(
            audio_codes=codes,
            audio_lengths=torch.full((batch_size,), num_samples, device=codes.device),
            streaming_state=None if is_final else state,
        )


def _connect(in_size: int, out_size: int) -> nn.Module:
    return nn.Identity() if in_size == out_size else nn.Linear(in_size, out_size)


AutoModel.register(JodioConfig, JodioModel, exist_ok=True)
AutoModelForAudioTokenization.register(JodioConfig, JodioModel, exist_ok=True)
