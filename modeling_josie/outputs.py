"""Outputs of every entry point of the models, with all shapes; `return_dict=False` gives them as tuples."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from transformers.cache_utils import Cache
from transformers.modeling_outputs import BaseModelOutputWithPast, BaseModelOutputWithPooling
from transformers.utils import ModelOutput

from .codecs.streaming import AudioStreamingState, JodioStreamingState, JovioStreamingState, ThinkerStreamingState


@dataclass
class QuantizerOutput(ModelOutput):
    """A quantizer's answer.

    Args:
        quantized_latents (`torch.FloatTensor`): `(batch, dim, num_frames)`, straight-through in training.
        codes (`torch.LongTensor`): `(batch, num_quantizers, num_frames)`.
        commitment_loss (`torch.FloatTensor`): Scalar, mean over quantizers, unweighted.
        codebook_loss (`torch.FloatTensor`): Scalar, mean over quantizers, unweighted; 0 with EMA codebooks.
        perplexity (`torch.FloatTensor`): `(num_quantizers,)`, of the codes used for the real frames of this batch.
        usage (`torch.FloatTensor`): `(num_quantizers,)`, fraction of each codebook that this batch used.
    """

    quantized_latents: torch.Tensor | None = None
    codes: torch.Tensor | None = None
    commitment_loss: torch.Tensor | None = None
    codebook_loss: torch.Tensor | None = None
    perplexity: torch.Tensor | None = None
    usage: torch.Tensor | None = None


@dataclass
class JosieAudioEncoderOutput(ModelOutput):
    """Codes of audio.

    Args:
        audio_codes (`torch.LongTensor`): `(batch, num_quantizers, num_frames)`; 0 past a row's end.
        audio_lengths (`torch.LongTensor`): `(batch,)`, samples of each row, for [`decode`] to cut to.
        streaming_state ([`JodioStreamingState`], *optional*): To pass in with the next chunk.
    """

    audio_codes: torch.Tensor | None = None
    audio_lengths: torch.Tensor | None = None
    streaming_state: JodioStreamingState | None = None


@dataclass
class JosieAudioFeaturesOutput(ModelOutput):
    """Features of audio, which a Thinker takes by the same names.

    Args:
        audio_features (`torch.FloatTensor`): `(batch, num_features, hidden_size)`; 0 past a row's end.
        audio_features_mask (`torch.BoolTensor`, *optional*): `(batch, num_features)`, true for real ones; all are when
            `None`.
        streaming_state ([`AudioStreamingState`], *optional*): To pass in with the next chunk.
    """

    audio_features: torch.Tensor | None = None
    audio_features_mask: torch.Tensor | None = None
    streaming_state: AudioStreamingState | None = None


@dataclass
class JosieAudioDecoderOutput(ModelOutput):
    """A waveform.

    Args:
        audio_values (`torch.FloatTensor`): `(batch, channels, num_samples)`; 0 past a row's end.
        streaming_state ([`JodioStreamingState`], *optional*): To pass in with the next chunk.
    """

    audio_values: torch.Tensor | None = None
    streaming_state: JodioStreamingState | None = None


@dataclass
class JosieAudioCodecOutput(ModelOutput):
    """There and back: what an audio codec's `forward` returns.

    Args:
        loss (`torch.FloatTensor`, *optional*): Scalar, the weighted sum of `losses`; in training mode or when asked.
        audio_values (`torch.FloatTensor`): `(batch, channels, num_samples)`, as long as the input.
        audio_codes (`torch.LongTensor`): `(batch, num_quantizers, num_frames)`.
        losses (`dict[str, torch.Tensor]`, *optional*): The named parts, unweighted scalars.
        perplexity, usage (`torch.FloatTensor`): `(num_quantizers,)`, as in [`QuantizerOutput`].
    """

    loss: torch.Tensor | None = None
    audio_values: torch.Tensor | None = None
    audio_codes: torch.Tensor | None = None
    losses: dict[str, torch.Tensor] | None = None
    perplexity: torch.Tensor | None = None
    usage: torch.Tensor | None = None


@dataclass
class JovioEncoderOutput(ModelOutput):
    """Codes of images or videos.

    Args:
        vision_codes (`torch.LongTensor`): `(batch, num_quantizers, max_patches)`, patches in order of time, row,
            column; 0 past an item's end.
        grid_thw (`torch.LongTensor`): `(batch, 3)`, patches of each item along time, height and width.
        streaming_state ([`JovioStreamingState`], *optional*): For the next chunk of a stream.
    """

    vision_codes: torch.Tensor | None = None
    grid_thw: torch.Tensor | None = None
    streaming_state: JovioStreamingState | None = None


@dataclass
class JovioDecoderOutput(ModelOutput):
    """Pixels.

    Args:
        pixel_values (`torch.FloatTensor`): `(batch, frames, channels, height, width)`, in [0, 1]; 0 past an item's end.
        streaming_state ([`JovioStreamingState`], *optional*): For the next chunk of a stream.
    """

    pixel_values: torch.Tensor | None = None
    streaming_state: JovioStreamingState | None = None


@dataclass
class JovioOutput(ModelOutput):
    """There and back: what JOVIO's `forward` returns.

    Args:
        loss (`torch.FloatTensor`, *optional*): Scalar, the weighted sum of `losses`; in training mode or when asked.
        pixel_values (`torch.FloatTensor`): Of the input's shape.
        vision_codes (`torch.LongTensor`): As in [`JovioEncoderOutput`].
        grid_thw (`torch.LongTensor`): `(batch, 3)`.
        losses (`dict[str, torch.Tensor]`, *optional*): The named parts, unweighted scalars.
        perplexity, usage (`torch.FloatTensor`): `(num_quantizers,)`, as in [`QuantizerOutput`].
    """

    loss: torch.Tensor | None = None
    pixel_values: torch.Tensor | None = None
    vision_codes: torch.Tensor | None = None
    grid_thw: torch.Tensor | None = None
    losses: dict[str, torch.Tensor] | None = None
    perplexity: torch.Tensor | None = None
    usage: torch.Tensor | None = None


@dataclass
class JosieThinkerModelOutput(BaseModelOutputWithPast):
    """Output of the Thinker without its head.

    Args:
        last_hidden_state (`torch.FloatTensor`): `(batch, length, hidden_size)`.
        inputs_embeds (`torch.FloatTensor`): `(batch, length, hidden_size)`, with features in place of placeholders.
        cache (`Cache`, *optional*): For the next step.
        hidden_states, attentions (`tuple[torch.Tensor]`, *optional*): One for each layer, when asked for.
        image_outputs, video_outputs, audio_outputs ([`BaseModelOutputWithPooling`], *optional*): The encoders', of what
            this batch has.
    """

    inputs_embeds: torch.Tensor | None = None
    image_outputs: BaseModelOutputWithPooling | None = None
    video_outputs: BaseModelOutputWithPooling | None = None
    audio_outputs: BaseModelOutputWithPooling | None = None


@dataclass
class JosieThinkerOutput(ModelOutput):
    """The Thinker's answer.

    Args:
        loss (`torch.FloatTensor`, *optional*): Scalar, next-token cross-entropy; with `labels`.
        logits (`torch.FloatTensor`, *optional*): `(batch, length, vocab_size)`; `None` with `skip_logits`, as in
            training with `labels`.
        last_hidden_state (`torch.FloatTensor`): `(batch, length, hidden_size)`, what the Talker listens to.
        inputs_embeds (`torch.FloatTensor`): `(batch, length, hidden_size)`, with features in place of placeholders.
        cache (`Cache`, *optional*): For the next step.
        hidden_states, attentions (`tuple[torch.Tensor]`, *optional*): One for each layer, when asked for.
        image_outputs, video_outputs, audio_outputs ([`BaseModelOutputWithPooling`], *optional*): The encoders', of what
            this batch has.
    """

    loss: torch.Tensor | None = None
    logits: torch.Tensor | None = None
    last_hidden_state: torch.Tensor | None = None
    inputs_embeds: torch.Tensor | None = None
    cache: Cache | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None
    attentions: tuple[torch.Tensor, ...] | None = None
    image_outputs: BaseModelOutputWithPooling | None = None
    video_outputs: BaseModelOutputWithPooling | None = None
    audio_outputs: BaseModelOutputWithPooling | None = None


@dataclass
class JosieThinkerStreamOutput(JosieThinkerOutput):
    """The Thinker's answer to what was appended; of positions that are none it is without meaning.

    Args:
        streaming_state ([`ThinkerStreamingState`]): To append to. It has the cache, which `cache` is not.
        num_tokens (`torch.LongTensor`): `(batch,)`, positions that each row has got.

    All others as of [`JosieThinkerOutput`], and `None` where nothing was appended yet.
    """

    streaming_state: ThinkerStreamingState | None = None
    num_tokens: torch.Tensor | None = None


@dataclass
class JosieTalkerOutput(ModelOutput):
    """The Talker's answer.

    Args:
        loss (`torch.FloatTensor`, *optional*): Scalar, the sum of the following; with `speech_codes` as targets.
        talker_loss (`torch.FloatTensor`, *optional*): Scalar, cross-entropy of quantizer 0 and end of speech.
        depth_loss (`torch.FloatTensor`, *optional*): Scalar, mean cross-entropy of quantizers 1...N-1.
        duration_loss (`torch.FloatTensor`, *optional*): Scalar, frames by which the durations of an utterance's tokens
            miss its length, for each frame; of Talkers that learn durations.
        logits (`torch.FloatTensor`): `(batch, num_frames, codebook_size (+ 1))`, of quantizer 0.
        depth_logits (`torch.FloatTensor`, *optional*): `(batch, num_quantizers - 1, num_frames, codebook_size)`; in
            evaluation mode.
        last_hidden_state (`torch.FloatTensor`): `(batch, num_frames, hidden_size)`.
        hidden_states, attentions (`tuple[torch.FloatTensor]`, *optional*): Of the backbone's layers, when asked for;
            over all its steps, `1 + speech_delay` of which stand before the first frame.
    """

    loss: torch.Tensor | None = None
    talker_loss: torch.Tensor | None = None
    depth_loss: torch.Tensor | None = None
    duration_loss: torch.Tensor | None = None
    logits: torch.Tensor | None = None
    depth_logits: torch.Tensor | None = None
    last_hidden_state: torch.Tensor | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None
    attentions: tuple[torch.Tensor, ...] | None = None


@dataclass
class JosieTalkerGenerateOutput(ModelOutput):
    """Generated speech, as codes.

    Args:
        audio_codes (`torch.LongTensor`): `(batch, num_quantizers, num_frames)`; 0 past a row's end.
        num_frames (`torch.LongTensor`): `(batch,)`, frames of each row before its end of speech.
    """

    audio_codes: torch.Tensor | None = None
    num_frames: torch.Tensor | None = None


@dataclass
class JosieOutput(ModelOutput):
    """Output of [`JosieForConditionalGeneration`].

    Args:
        loss (`torch.FloatTensor`, *optional*): Scalar, the weighted sum of the parts below.
        text_loss, talker_loss, depth_loss, duration_loss (`torch.FloatTensor`, *optional*): Scalars, unweighted.
        logits (`torch.FloatTensor`, *optional*): `(batch, length, vocab_size)`; `None` with `skip_logits`, as in
            training with `labels` or `speech_codes`.
        talker_logits (`torch.FloatTensor`, *optional*): `(batch, num_frames, codebook_size (+ 1))`, of quantizer 0;
            with a second axis `num_turns` where `speech_codes` have one.
        depth_logits (`torch.FloatTensor`, *optional*): `(batch, num_quantizers - 1, num_frames, codebook_size)`,
            likewise; in evaluation mode.
        last_hidden_state (`torch.FloatTensor`): `(batch, length, hidden_size)`, the Thinker's.
        cache (`Cache`, *optional*): For the next step.
        hidden_states, attentions (`tuple[torch.Tensor]`, *optional*): The Thinker's, when asked for.
        image_outputs, video_outputs, audio_outputs ([`BaseModelOutputWithPooling`], *optional*): The encoders', of what
            this batch has.
    """

    loss: torch.Tensor | None = None
    text_loss: torch.Tensor | None = None
    talker_loss: torch.Tensor | None = None
    depth_loss: torch.Tensor | None = None
    duration_loss: torch.Tensor | None = None
    logits: torch.Tensor | None = None
    talker_logits: torch.Tensor | None = None
    depth_logits: torch.Tensor | None = None
    last_hidden_state: torch.Tensor | None = None
    cache: Cache | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None
    attentions: tuple[torch.Tensor, ...] | None = None
    image_outputs: BaseModelOutputWithPooling | None = None
    video_outputs: BaseModelOutputWithPooling | None = None
    audio_outputs: BaseModelOutputWithPooling | None = None


@dataclass
class JosieGenerateOutput(ModelOutput):
    """Generated text and speech.

    Args:
        sequences (`torch.LongTensor`): `(batch, prompt + new tokens)`.
        audio_values (`torch.FloatTensor`, *optional*): `(batch, channels, num_samples)`; 0 past a row's end.
        audio_lengths (`torch.LongTensor`, *optional*): `(batch,)`, samples of each row.
        audio_codes (`torch.LongTensor`, *optional*): `(batch, num_quantizers, num_frames)`; 0 past a row's end.
        sampling_rate (`int`, *optional*): Of `audio_values`, in Hz.
        word_times (`torch.DoubleTensor`, *optional*): `(batch, prompt + new tokens, 2)`, when each token of `sequences`
            begins and ends in its row of `audio_values`, in seconds; NaN for those that are not heard. Of Talkers that
            learn durations.
        scores, logits (`tuple[torch.FloatTensor]`, *optional*): `(batch, vocab_size)` of each step of the text, when
            asked for; as are `attentions`, `hidden_states`, `cache`, `sequences_scores` and `beam_indices`, all as
            `generate` of transformers returns them.
        is_cut (`torch.BoolTensor`, *optional*): `(batch,)`, whether a row's speech was ended before its text was said
            or its end had come: at `talker_max_new_frames`, at the Talker's last position, or as it ran away.
    """

    sequences: torch.Tensor | None = None
    audio_values: torch.Tensor | None = None
    audio_lengths: torch.Tensor | None = None
    audio_codes: torch.Tensor | None = None
    sampling_rate: int | None = None
    word_times: torch.Tensor | None = None
    scores: tuple[torch.Tensor, ...] | None = None
    logits: tuple[torch.Tensor, ...] | None = None
    attentions: tuple[Any, ...] | None = None
    hidden_states: tuple[Any, ...] | None = None
    cache: Cache | None = None
    sequences_scores: torch.Tensor | None = None
    beam_indices: torch.Tensor | None = None
    is_cut: torch.Tensor | None = None

    def spoken_until(self, num_samples: int, row: int = 0) -> int:
        """Return how many tokens of `sequences` are left of a row whose speech was stopped: as many as were heard.

        Args:
            num_samples (`int`): Samples that were played.
            row (`int`): The row.

        Raises:
            `ValueError`: There are no `word_times`.
        """
        if self.word_times is None or self.sampling_rate is None:
            raise ValueError("`word_times` must be there to know what was heard: the Talker must learn durations.")
        ends = self.word_times[row, :, 1].tolist()
        times = [WordTime(token, 0.0, end) for token, end in enumerate(ends) if end == end]
        return count_heard_tokens(times, num_samples, self.sampling_rate)


class WordTime(NamedTuple):
    """The time at which a spoken token is heard.

    Args:
        token (`int`): Its index in the answer, prompt not counted.
        begin, end (`float`): In seconds from the first sample.
    """

    token: int
    begin: float
    end: float


class HeardToken(NamedTuple):
    """A token that was heard in a session.

    Args:
        token_id (`int`): Its id.
        begin, end (`float`): In seconds from the beginning of the session.
    """

    token_id: int
    begin: float
    end: float


def count_heard_tokens(word_times: Sequence[WordTime], num_samples: int, sampling_rate: int) -> int:
    """Return how many tokens of an answer were heard to their end; those before the first word count as heard.

    Args:
        word_times (`Sequence[WordTime]`): Of the answer, in order.
        num_samples (`int`): Samples that were played.
        sampling_rate (`int`): Of these, in Hz.
    """
    if not word_times:
        return 0
    # Half a sample of tolerance: an end is a sum of durations, rounded to samples by whoever counts them.
    heard = [time.token for time in word_times if time.end * sampling_rate <= num_samples + 0.5]
    return heard[-1] + 1 if heard else word_times[0].token


@dataclass
class SpeechPiece:
    """New parts of an answer in text and speech.

    Args:
        sequences (`torch.LongTensor`): `(batch, num_tokens)`, tokens that were written.
        audio_values (`torch.FloatTensor`): `(batch, channels, num_samples)`; 0 past a row's end.
        audio_lengths (`torch.LongTensor`): `(batch,)`, samples of each row.
        sampling_rate (`int`): Of `audio_values`, in Hz.
        is_final (`bool`): Whether nothing follows.
        word_times (`list[list[WordTime]]`, *optional*): For each row, tokens whose last sample came with this piece. Of
            Talkers that learn durations.
        is_cut (`list[bool]`, *optional*): For each row, as of [`JosieGenerateOutput`], by now.
    """

    sequences: torch.Tensor
    audio_values: torch.Tensor
    audio_lengths: torch.Tensor
    sampling_rate: int
    is_final: bool = False
    word_times: list[list[WordTime]] | None = None
    is_cut: list[bool] | None = None
