"""JODIO, the neural audio codec: SEANet, causal transformer, split residual quantizer, and back.

Everything is causal, between mel ends too. So padding on the right never reaches real samples, no attention mask is
needed, and a stream gives what the whole recording gives, whatever its chunks.
"""

import copy
from contextlib import nullcontext
from dataclasses import replace
from typing import Any, cast

import torch
from torch import nn
from transformers import AutoModel, AutoModelForAudioTokenization
from transformers.modeling_utils import PreTrainedAudioTokenizerBase
from transformers.utils.generic import can_return_tuple

from ...configuration_josie import JodioConfig, JosieBackboneConfig
from ..layers.backbone import JosieBackbone
from ..layers.derived import KeepsDerived
from ..layers.masks import length_mask
from ..losses.audio import ctc_loss, masked_mean, semantic_loss, spectral_losses, waveform_loss, weighted_sum
from ..outputs import JosieAudioCodecOutput, JosieAudioDecoderOutput, JosieAudioEncoderOutput, QuantizerOutput
from ..pretrained import JosiePreTrainedModel
from .checks import check_audio, check_audio_lengths, check_codes, check_num_quantizers, check_sampling_rate
from .quantization import SplitResidualVectorQuantizer, build_quantizer
from .seanet import SeanetDecoder, SeanetEncoder, SeanetStack, add_latents, join_latents, part_latents
from .spectral_ends import measure_targets
from .streaming import JodioStreamingState, build_cache, check_cache, fork_cache

# Whole recordings of more frames than this run in pieces, as a stream does: attention over all pairs of frames, and
# activations at the waveform's rate, would take memory without bound.
_MAX_FRAMES_AT_ONCE = 64
_DECODING_PARTS = ("quantizer", "latent_proj", "decoder_transformer", "decoder_proj", "decoder")


class JodioModel(KeepsDerived, JosiePreTrainedModel, PreTrainedAudioTokenizerBase):
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
        self.encoder = SeanetEncoder(config)
        self.encoder_proj = _connect(config.channels[-1], encoder_config.hidden_size)
        self.encoder_transformer = JosieBackbone(encoder_config)
        self.quantizer = build_quantizer(config, encoder_config.hidden_size, keep_variance=True)
        self.latent_proj = _connect(encoder_config.hidden_size, decoder_config.hidden_size)
        self.decoder_transformer = JosieBackbone(decoder_config)
        self.decoder_proj = _connect(decoder_config.hidden_size, config.channels[-1])
        self.decoder = SeanetDecoder(config)
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
        """Turn waveforms into codes. Memory grows with the codes only: long recordings run in pieces.

        Args:
            input_values (`torch.Tensor`): `(batch, channels, num_samples)`, in [-1, 1]; in a stream any number of
                samples, even none.
            padding_mask (`torch.Tensor`, *optional*): `(batch, num_samples)`, 1 for real samples, which come first.
                Not in a stream, whose rows are equally long.
            num_quantizers (`int`, *optional*): Use only the first ones.
            streaming_state ([`JodioStreamingState`], *optional*): What the chunk before returned. It stays as it is.
            use_streaming (`bool`): Begin a stream. Samples that do not fill a frame wait in the state.
            is_final (`bool`): End the stream: what waits is filled up with zeros and encoded.
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
        """Turn codes into waveforms. Without gradients long recordings run in pieces, so that memory grows with the
        waveform only. Between mel ends no gradient passes.

        Args:
            audio_codes (`torch.LongTensor`): `(batch, num_quantizers, num_frames)`; fewer quantizers are a prefix.
            audio_lengths (`torch.LongTensor`, *optional*): `(batch,)`, samples of each row: the result is as long as
                the longest, and 0 past a row's end. Whole frames when `None`.
            streaming_state ([`JodioStreamingState`], *optional*): What the chunk before returned. It stays as it is.
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
        if use_streaming or streaming_state is not None:
            state = self._enter_stream(streaming_state, batch_size, self.decoder)
            audio_values = audio_codes.new_zeros((batch_size, config.audio_channels, 0), dtype=self.dtype)
            if num_frames:
                audio_values, state = self._decode_codes(audio_codes, state)
        elif num_frames == 0:
            raise ValueError(f"`audio_codes` must have at least 1 frame, got {tuple(audio_codes.shape)}.")
        else:
            audio_values, state = self._decode_codes(audio_codes)
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
            return_loss (`bool`, *optional*): Compute the losses; in training mode only when `None`. Between mel ends no
                waveform is made with them: the losses need none, and phase reconstruction would take most of the time.

        Returns:
            [`JosieAudioCodecOutput`]; `losses` has `commitment`, `codebook` where codebooks learn by gradient,
            `semantic` and `ctc` where their targets are given, and each where its weight in the configuration is not 0
            `waveform`, `mel` and `stft`. Between mel ends `audio_values` is `None` where there are losses.

        Raises:
            `ValueError`: As in [`JodioModel.encode`]; or targets without their head, or of a wrong shape or range.
        """
        num_quantizers = check_num_quantizers(num_quantizers, self.config.num_quantizers)
        lengths = check_audio(input_values, self.config.audio_channels, padding_mask)
        self._check_targets(len(input_values), semantic_targets, labels)
        filled = self._fill_frames(input_values, lengths)
        latents, _ = self._encode_frames(filled)
        num_frames = self._count_frames(lengths)
        mask = length_mask(num_frames, latents.shape[1])
        latents = latents.transpose(1, 2)
        quantized: Any
        if isinstance(self.quantizer, SplitResidualVectorQuantizer):
            quantized, semantic = self.quantizer.forward_parts(latents, mask, num_quantizers)
        else:
            quantized = self.quantizer(latents, mask, num_quantizers)
            semantic = quantized.quantized_latents
        num_samples = input_values.shape[-1]
        wants_losses = self.training if return_loss is None else return_loss
        losses: dict[str, torch.Tensor] | None = None
        audio_values: torch.Tensor | None = None
        if wants_losses and self.config.ends == "mel":
            hidden_states, _ = self._prepare_frames(quantized.quantized_latents)
            losses = self._mel_losses(self.decoder.predict_mel(hidden_states)[0], filled, lengths)
        else:
            if self.config.ends == "mel":
                audio_values, _ = self._decode_codes(quantized.codes)
            else:
                audio_values, _ = self._decode_frames(quantized.quantized_latents)
            audio_values = audio_values[..., :num_samples] * length_mask(lengths, num_samples)[:, None]
            if wants_losses:
                losses = self._waveform_losses(audio_values, filled[..., :num_samples], lengths)
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
        """Compare with the windows that lie before the end of the recording."""
        if not self.config.mel_weight:
            return {}
        with torch.no_grad():
            wanted = measure_targets(self.config, target[:, 0])
        num_known = ((lengths - self.config.mel_overhang) // self.config.mel_hop_length).clamp(min=0)
        return {"mel": masked_mean((mel.float() - wanted).abs(), length_mask(num_known, mel.shape[1])[..., None])}

    def _check_targets(
        self, batch_size: int, semantic_targets: torch.Tensor | None, labels: torch.Tensor | None
    ) -> None:
        if semantic_targets is not None:
            size = self.config.semantic_target_size
            if size is None:
                raise ValueError("`semantic_targets` must be None when `semantic_target_size` is None, got a tensor.")
            shape = tuple(semantic_targets.shape)
            if len(shape) != 3 or shape[0] != batch_size or shape[1] == 0 or shape[2] != size:
                raise ValueError(f"`semantic_targets` must have shape ({batch_size}, frames, {size}), got {shape}.")
        if labels is not None:
            size = self.config.semantic_vocab_size
            if size is None:
                raise ValueError("`labels` must be None when `semantic_vocab_size` is None, got a tensor.")
            if labels.ndim != 2 or len(labels) != batch_size:
                raise ValueError(f"`labels` must have shape ({batch_size}, num_labels), got {tuple(labels.shape)}.")
            wrong = labels[(labels != -100) & ((labels < 1) | (labels >= size))]
            if len(wrong):
                raise ValueError(f"`labels` must be -100 or in [1, {size - 1}], got {int(wrong[0])}.")

    def _count_frames(self, lengths: torch.Tensor) -> torch.Tensor:
        return (lengths + self.config.hop_length - 1) // self.config.hop_length

    def _fill_frames(self, input_values: torch.Tensor, lengths: torch.Tensor | None = None) -> torch.Tensor:
        """Return the waveform in the model's dtype, silent past each row's end, with zeros up to a whole frame."""
        if lengths is not None:
            input_values = input_values * length_mask(lengths, input_values.shape[-1])[:, None]
        input_values = nn.functional.pad(input_values, (0, -input_values.shape[-1] % self.config.hop_length))
        return input_values.to(self.dtype)

    def _encode_codes(
        self, input_values: torch.Tensor, num_quantizers: int, state: JodioStreamingState | None = None
    ) -> tuple[torch.Tensor, JodioStreamingState | None]:
        """Map whole frames of samples to codes, in pieces where there are many; return the state only in a stream."""
        pieces, is_stream = input_values.split(_MAX_FRAMES_AT_ONCE * self.config.hop_length, dim=-1), state is not None
        if len(pieces) > 1 and state is None:
            state = self._enter_stream(None, len(input_values), self.encoder)
        codes = []
        for piece in pieces:
            latents, state = self._encode_frames(piece, state)
            codes.append(self.quantizer.encode(latents.transpose(1, 2), num_quantizers))
        return torch.cat(codes, dim=-1), state if is_stream else None

    def _decode_codes(
        self, audio_codes: torch.Tensor, state: JodioStreamingState | None = None
    ) -> tuple[torch.Tensor, JodioStreamingState | None]:
        """Map codes to samples; as `_encode_codes`, but at once where gradients are wanted."""
        decoder, num_frames, is_stream = self.precise_decoder(), audio_codes.shape[-1], state is not None
        at_once = decoder is self and torch.is_grad_enabled()
        pieces = audio_codes.split(num_frames if at_once else _MAX_FRAMES_AT_ONCE, dim=-1)
        if len(pieces) > 1 and state is None:
            state = self._enter_stream(None, len(audio_codes), self.decoder)
        values = []
        # What is precise is so under autocast too.
        precise = nullcontext() if decoder is self else torch.autocast(audio_codes.device.type, enabled=False)
        with precise, torch.set_grad_enabled(at_once):
            for piece in pieces:
                audio_values, state = decoder._decode_frames(decoder.quantizer.look_up(piece), state)
                values.append(audio_values.to(self.dtype))
        return torch.cat(values, dim=-1), state if is_stream else None

    def precise_decoder(self) -> "JodioModel":
        """Return the model whose decoding parts decode: between mel ends a copy of them in float64, which is kept while
        the weights stay what they are, as phase reconstruction tells apart what float32 rounds differently in pieces of
        another size; else this model itself."""
        if self.config.ends == "waveform":
            return self
        with torch.no_grad():
            parts = [getattr(self, name) for name in _DECODING_PARTS]
            weights = tuple(tensor for part in parts for tensor in (*part.parameters(), *part.buffers()))
            return self.derive(weights, self._copy_decoder)

    def _copy_decoder(self) -> "JodioModel":
        copied = copy.copy(self)
        copied._modules = {
            name: copy.deepcopy(getattr(self, name)).to(_precise_dtype(self)) for name in _DECODING_PARTS
        }
        copied.decoder_transformer.set_attn_implementation("sdpa")  # the others have no float64
        return copied

    def _encode_frames(
        self, input_values: torch.Tensor, state: JodioStreamingState | None = None
    ) -> tuple[torch.Tensor, JodioStreamingState | None]:
        """Map whole frames of samples, `(batch, channels, num_samples)`, to latents, `(batch, num_frames, size)`."""
        hidden_states, buffers = self.encoder(input_values.transpose(1, 2), None if state is None else state.buffers)
        hidden_states, latents = part_latents(self.config, hidden_states)
        hidden_states = self.encoder_proj(hidden_states)
        hidden_states, following = _run_transformer(self.encoder_transformer, hidden_states, buffers, state)
        return add_latents(hidden_states, latents), following

    def _decode_frames(
        self, latents: torch.Tensor, state: JodioStreamingState | None = None
    ) -> tuple[torch.Tensor, JodioStreamingState | None]:
        """Map quantized latents, `(batch, size, num_frames)`, to samples, `(batch, channels, num_samples)`."""
        hidden_states, following = self._prepare_frames(latents, state)
        audio_values, buffers = self.decoder(hidden_states, None if state is None else state.buffers)
        return audio_values.transpose(1, 2), None if following is None else replace(following, buffers=buffers)

    def _prepare_frames(
        self, latents: torch.Tensor, state: JodioStreamingState | None = None
    ) -> tuple[torch.Tensor, JodioStreamingState | None]:
        """Map quantized latents to what the decoder reads, `(batch, num_frames, channels)`."""
        latents = latents.transpose(1, 2)
        hidden_states, following = _run_transformer(self.decoder_transformer, self.latent_proj(latents), {}, state)
        return join_latents(self.config, self.decoder_proj(hidden_states), latents), following

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
        state = self._enter_stream(state, batch_size, self.encoder)
        pending = state.buffers["pending"]
        waiting = torch.cat((pending, input_values.to(pending.dtype)), dim=-1)
        num_samples = waiting.shape[-1] if is_final else waiting.shape[-1] // hop_length * hop_length
        ready, pending = self._fill_frames(waiting[..., :num_samples]), waiting[..., num_samples:].clone()
        codes = torch.zeros(batch_size, num_quantizers, 0, dtype=torch.long, device=input_values.device)
        if num_samples:
            codes, following = self._encode_codes(ready, num_quantizers, state)
            assert following is not None
            state = following
        state = replace(state, buffers=state.buffers | {"pending": pending})
        return JosieAudioEncoderOutput(
            audio_codes=codes,
            audio_lengths=torch.full((batch_size,), num_samples, device=codes.device),
            streaming_state=None if is_final else state,
        )

    def _enter_stream(
        self, state: JodioStreamingState | None, batch_size: int, stack: SeanetStack
    ) -> JodioStreamingState:
        """Return `state`, or that of a stream that begins.

        Raises:
            `ValueError`: It is the state of another direction, batch size or model.
        """
        shapes = {name: (batch_size, *shape) for name, shape in stack.context_shapes.items()}
        transformer = self.encoder_transformer if stack is self.encoder else self.decoder_transformer
        if stack is self.encoder:
            shapes["pending"] = (batch_size, self.config.audio_channels, 0)
        precise = self.config.ends == "mel" and stack is self.decoder
        dtype = _precise_dtype(self) if precise else self.dtype
        if state is None:
            buffers = {name: torch.zeros(shape, dtype=dtype, device=self.device) for name, shape in shapes.items()}
            return JodioStreamingState(buffers, build_cache(transformer.config))
        if state.buffers.keys() != shapes.keys():
            raise ValueError(
                f"`streaming_state` must have the buffers {sorted(shapes)} of this direction and model, "
                f"got {sorted(state.buffers)}."
            )
        for name, shape in shapes.items():
            length = -1 if name == "pending" else None
            buffer = state.buffers[name]
            if buffer.shape[:length] != torch.Size(shape[:length]):
                raise ValueError(
                    f"`streaming_state` must fit a batch of {batch_size} and this model, whose buffer {name!r} has "
                    f"shape {shape}, got {tuple(buffer.shape)}."
                )
            if buffer.dtype != dtype:
                raise ValueError(f"`streaming_state` must be of the model's type {dtype}, got {buffer.dtype}.")
        check_cache(state.cache, batch_size, transformer.config)
        return state


def _precise_dtype(model: JodioModel) -> torch.dtype:
    return torch.float32 if model.device.type == "mps" else torch.float64  # which Apple's devices have not


def _connect(in_size: int, out_size: int) -> nn.Module:
    return nn.Identity() if in_size == out_size else nn.Linear(in_size, out_size)


def _run_transformer(
    transformer: JosieBackbone,
    hidden_states: torch.Tensor,
    buffers: dict[str, torch.Tensor],
    state: JodioStreamingState | None,
) -> tuple[torch.Tensor, JodioStreamingState | None]:
    """Run frames through a transformer; in a stream also return the state that follows, with `buffers` in it."""
    if state is None:
        return transformer(hidden_states, use_cache=False).last_hidden_state, None
    cache, mask = fork_cache(state.cache), None
    num_frames = state.num_frames + hidden_states.shape[1]
    if cache is not None and state.row_starts is not None:
        mask = (torch.arange(num_frames, device=hidden_states.device) >= state.row_starts[:, None]).long()
    output = transformer(hidden_states, attention_mask=mask, cache=cache, use_cache=cache is not None)
    return output.last_hidden_state, JodioStreamingState(buffers, cache, num_frames, state.row_starts)


AutoModel.register(JodioConfig, JodioModel, exist_ok=True)
AutoModelForAudioTokenization.register(JodioConfig, JodioModel, exist_ok=True)
