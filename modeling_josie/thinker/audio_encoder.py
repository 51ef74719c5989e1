"""The audio encoder: waveforms or mel spectrograms to features, whole clips or, where it is causal, chunk by chunk.

It comes from μOmni. A batch row equals the row alone: whatever a convolution writes past the end of a row is cleared
before the next one reads it. The convolutions look back only, by one frame each, so that a causal transformer is all
that a stream needs::

    stride 2     frames        0 | a   b | c   d |
                              [0   a   b]             -> first output, there when b is
                                      [b   c   d]     -> second; d is the context of what follows
"""

import math
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any

import torch
from torch import nn
from transformers import AutoModel
from transformers.modeling_outputs import BaseModelOutput
from transformers.utils import TransformersKwargs
from transformers.utils.generic import can_return_tuple
from typing_extensions import Unpack

from ...configuration_josie import JosieAudioEncoderConfig
from ...configuration_josie.constants import LOG_FLOOR
from ..codecs.checks import check_audio, check_sampling_rate
from ..codecs.mel_transform import encoder_mel
from ..codecs.streaming import PENDING, AudioStreamingState, enter_stream, run_in_stream
from ..layers.backbone import JosieBackbone
from ..layers.fast import is_untouched
from ..layers.masks import length_mask
from ..outputs import JosieAudioFeaturesOutput
from ..pretrained import JosiePreTrainedModel

# Name of the running level in a state.
_LEVEL = "level"
_MIN_POWER = 1e-6  # of samples


class JosieAudioEncoder(JosiePreTrainedModel):
    """Mel spectrogram, strided convolutions, transformer without positions; the audio encoder of μOmni.

    Args:
        config ([`JosieAudioEncoderConfig`]): Its shape.
    """

    config: JosieAudioEncoderConfig
    base_model_prefix = "backbone"
    main_input_name = "input_features"
    input_modalities = ["audio"]

    def __init__(self, config: JosieAudioEncoderConfig):
        super().__init__(config)
        widths = [1] + [config.conv_channels] * config.num_convolutions
        self.convolutions = nn.ModuleList(
            [nn.Conv2d(before, after, 3, stride=2, padding=1) for before, after in pairwise(widths)]
        )
        self.proj = nn.Linear(config.conv_channels * config.downsample(config.num_mel_bins), config.hidden_size)
        self.backbone = JosieBackbone(config)
        self.reads_waveforms = config.mel_lookahead is not None
        if self.reads_waveforms:
            self.main_input_name = "input_values"
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        """Return the first convolution."""
        return self.convolutions[0]

    def set_input_embeddings(self, value: nn.Module):
        """Replace the first convolution, by one with as many channels."""
        self.convolutions[0] = value

    def downsample_mask(self, attention_mask: torch.Tensor) -> torch.Tensor:
        """Return the mask of the features.

        Args:
            attention_mask (`torch.Tensor`): `(batch, num_frames)`, 1 for real mel frames, which come first; of an
                encoder that reads waveforms, `(batch, num_samples)`.

        Returns:
            `(batch, num_features)`, with `config.downsample(length)` ones for `length` real frames.
        """
        if self.reads_waveforms:
            attention_mask = attention_mask[:, :: self.config.mel_hop_length]
        return attention_mask[:, :: self.config.downsampling_factor]

    @can_return_tuple
    def forward(
        self,
        input_features: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        input_values: torch.Tensor | None = None,
        padding_mask: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> BaseModelOutput:
        """Encode whole clips: mel spectrograms, or waveforms where `config.mel_lookahead` is a number.

        Args:
            input_features (`torch.FloatTensor`, *optional*): `(batch, num_mel_bins, num_frames)`.
            attention_mask (`torch.Tensor`, *optional*): `(batch, num_frames)`, 1 for real frames, which come first;
                all are when `None`.
            input_values (`torch.FloatTensor`, *optional*): `(batch, 1, num_samples)`, in place of both.
            padding_mask (`torch.Tensor`, *optional*): `(batch, num_samples)`, 1 for real samples, which come first;
                all are when `None`.

        Returns:
            [`BaseModelOutput`] with `last_hidden_state` of shape `(batch, config.downsample(num_frames), hidden_size)`,
            0 past a row's end.

        Raises:
            `ValueError`: A shape is wrong, or the inputs are not those that this encoder reads.
        """
        self._require_inputs(input_features, attention_mask, input_values, padding_mask)
        if self.reads_waveforms:
            input_features, mask = self._transform(input_values, padding_mask)  # type: ignore[arg-type]
        else:
            self._check(input_features, attention_mask)  # type: ignore[arg-type]
            mask = None if attention_mask is None else attention_mask.to(input_features.device, torch.bool)  # type: ignore[union-attr]
        hidden_states = self._normalize(self._divide_by_level(input_features)[0])  # type: ignore[arg-type]
        hidden_states, mask, _ = self._convolve(hidden_states, mask)
        outputs = self.backbone(hidden_states, attention_mask=mask, use_cache=False, return_dict=True, **kwargs)
        last_hidden_state = outputs.last_hidden_state
        if mask is not None:
            last_hidden_state = last_hidden_state.masked_fill(~mask[..., None], 0.0)
        return BaseModelOutput(last_hidden_state, outputs.hidden_states, outputs.attentions)

    @can_return_tuple
    def encode(
        self,
        input_values: torch.Tensor | None = None,
        padding_mask: torch.Tensor | None = None,
        input_features: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        streaming_state: AudioStreamingState | None = None,
        use_streaming: bool = False,
        is_final: bool = False,
        sampling_rate: int | None = None,
    ) -> JosieAudioFeaturesOutput:
        """Encode clips or, with a state or `use_streaming`, the next chunk of a stream.

        Chunks of any lengths give the features of the whole, each as soon as it can be made: `config.hop_length`
        samples each, the first after `config.algorithmic_delay`. Memory is bounded where `config.sliding_window` is
        set.

        Args:
            input_values (`torch.FloatTensor`, *optional*): `(batch, 1, num_samples)`, in a stream any number of
                samples, even none; where `config.mel_lookahead` is a number.
            padding_mask (`torch.Tensor`, *optional*): `(batch, num_samples)`, 1 for real samples, which come first. In
                a stream only in its last chunk, where rows may end one by one.
            input_features, attention_mask (`torch.Tensor`, *optional*): Mel frames in place of waveforms,
                `(batch, num_mel_bins, num_frames)` and `(batch, num_frames)`, elsewhere.
            streaming_state ([`AudioStreamingState`], *optional*): State after the chunk before. It is not changed.
            use_streaming (`bool`): Begin a stream. What does not fill a feature waits in the state.
            is_final (`bool`): End the stream: silence fills the last feature, as behind a whole clip.
            sampling_rate (`int`, *optional*): Rate of `input_values` in Hz, for the check that it is the encoder's.

        Returns:
            [`JosieAudioFeaturesOutput`], with `streaming_state` in a stream that goes on.

        Raises:
            `ValueError`: As `forward`; a stream through an encoder that is not causal, a mask before the end of a
                stream, or a state of another batch size or model.
        """
        check_sampling_rate(sampling_rate, self.config.sampling_rate)
        self._require_inputs(input_features, attention_mask, input_values, padding_mask)
        given: Any = input_values if self.reads_waveforms else input_features
        mask = padding_mask if self.reads_waveforms else attention_mask
        if use_streaming or streaming_state is not None:
            return self._encode_chunk(given, mask, streaming_state, is_final)
        if is_final:
            raise ValueError("`is_final` must be False outside a stream, got True.")
        features = self(input_features, attention_mask, input_values, padding_mask, return_dict=True).last_hidden_state
        mask = None if mask is None else self.downsample_mask(mask.to(features.device, torch.bool))
        return JosieAudioFeaturesOutput(audio_features=features, audio_features_mask=mask)

    def _encode_chunk(
        self, given: torch.Tensor, mask: torch.Tensor | None, state: AudioStreamingState | None, is_final: bool
    ) -> JosieAudioFeaturesOutput:
        if not self.config.is_causal:
            raise ValueError(
                "`use_streaming` must be False for an audio encoder whose `config.is_causal` is False: it hears each "
                "moment with what follows it, and needs whole clips."
            )
        if mask is not None and not is_final:
            raise ValueError("`padding_mask` and `attention_mask` must be None before the end of a stream, got one.")
        if self.reads_waveforms:
            lengths = check_audio(given, 1, mask, allow_empty=True)
        else:
            self._check(given, mask, allow_empty=True)
            lengths = given.new_full((len(given),), given.shape[2]) if mask is None else mask.sum(dim=1)
        precise = {PENDING: torch.float32, _LEVEL: torch.float64}
        state = enter_stream(self.backbone, self._context_shapes(len(given)), state, AudioStreamingState, precise)
        if mask is not None:
            given = given.masked_fill(~mask.to(given.device, torch.bool)[:, None], 0.0)
        pending = torch.cat((state.buffers[PENDING], given.to(state.buffers[PENDING].dtype)), dim=2)
        lengths = lengths.long() + pending.shape[2] - given.shape[2] - self._context_length
        unit = self.config.mel_hop_length if self.reads_waveforms else 1  # inputs a mel frame stands for
        size = unit * self.config.downsampling_factor  # and a feature
        lookahead = self.config.mel_lookahead or 0
        num_new = pending.shape[2] - self._context_length
        num_features = -(-num_new // size) if is_final else max(num_new - lookahead, 0) // size
        if is_final:
            pending = nn.functional.pad(pending, (0, max(num_features * size + lookahead - num_new, 0)))
        used = pending[..., : num_features * size + lookahead + self._context_length]
        following = replace(state, buffers=state.buffers | {PENDING: pending[..., num_features * size :].clone()})
        real = None
        if is_final:
            real = length_mask(-(-lengths // unit), num_features * self.config.downsampling_factor)
        features = pending.new_zeros(len(given), 0, self.config.hidden_size, dtype=self.dtype)
        if num_features:
            mel = encoder_mel(self.config, used[:, 0]) if self.reads_waveforms else used
            mel, level = self._divide_by_level(mel, state.buffers)
            hidden_states, real, contexts = self._convolve(self._normalize(mel), real, state.buffers)
            features, following = run_in_stream(self.backbone, hidden_states, following)
            following = replace(following, buffers=following.buffers | contexts | level)
            if real is not None:
                features = features.masked_fill(~real[..., None], 0.0)
        elif real is not None:
            real = real[:, :0]
        return JosieAudioFeaturesOutput(
            audio_features=features,
            audio_features_mask=real,
            streaming_state=None if is_final else following,
        )

    @property
    def _context_length(self) -> int:
        """Samples before the hop of a mel frame that its window reaches back to."""
        config = self.config
        if config.mel_lookahead is None:
            return 0
        return config.win_length - config.mel_hop_length - config.mel_lookahead

    def _context_shapes(self, batch_size: int) -> dict[str, tuple[int, ...]]:
        """Return the shapes of the tensors in a state; that of the pending inputs at the start."""
        height, channels, shapes = self.config.num_mel_bins, 1, {}
        for index in range(len(self.convolutions)):
            shapes[f"convolutions.{index}"] = (batch_size, 1, channels * height)
            height, channels = (height + 1) // 2, self.config.conv_channels
        if self.config.level_half_life is not None:
            shapes[_LEVEL] = (batch_size, 1, 1)
        rows = 1 if self.reads_waveforms else self.config.num_mel_bins
        return shapes | {PENDING: (batch_size, rows, self._context_length)}

    def _transform(
        self, input_values: torch.Tensor, padding_mask: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return the mel spectrogram of whole waveforms, `(batch, num_mel_bins, num_frames)`, and its mask."""
        config: Any = self.config
        shape = tuple(input_values.shape)
        if len(shape) != 3 or shape[1] != 1 or shape[2] < 1:
            raise ValueError(f"`input_values` must be of shape (batch, 1, num_samples), got {shape}.")
        mask = None
        if padding_mask is not None:
            if tuple(padding_mask.shape) != (shape[0], shape[2]):
                raise ValueError(
                    f"`padding_mask` must be of shape ({shape[0]}, {shape[2]}), got {tuple(padding_mask.shape)}."
                )
            mask = padding_mask.to(input_values.device, torch.bool)
            input_values = input_values.masked_fill(~mask[:, None], 0.0)
            mask = mask[:, :: config.mel_hop_length]
        behind = config.mel_lookahead - input_values.shape[2] % -config.mel_hop_length
        samples = nn.functional.pad(input_values[:, 0], (self._context_length, behind))
        return encoder_mel(config, samples), mask

    def _divide_by_level(
        self, mel: torch.Tensor, buffers: dict[str, torch.Tensor] | None = None
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Divide mel frames, `(batch, num_mel_bins, num_frames)`, by the running level where the configuration says so.

        Returns:
            The frames, and in a stream the level that follows: its logarithm above the smallest, `(batch, 1, 1)`.
        """
        config = self.config
        if config.level_half_life is None:
            return mel, {}
        frames = mel.double()  # sums over a long clip
        power = frames.logsumexp(dim=1) if config.log_mel else frames.sum(dim=1).clamp(min=LOG_FLOOR).log()
        # Of white noise at -60 dB: what the bands share, and the window lets through of each.
        spread, passed = math.log(config.n_fft // 2 + 1), math.log(_MIN_POWER * 0.375 * config.win_length)
        lowest = spread + config.mel_power / 2 * passed
        fall = math.log(2) * config.mel_power / 2 * config.mel_hop_length
        fall /= config.level_half_life * config.sampling_rate
        start = power.new_zeros(len(mel), 1) if buffers is None else buffers[_LEVEL][:, 0]
        levels = torch.cat((start, (power - lowest).clamp(min=0)), dim=1)
        fallen = torch.arange(levels.shape[1], device=mel.device, dtype=levels.dtype) * fall
        levels = ((levels + fallen).cummax(dim=1).values - fallen)[:, 1:].clamp(min=0)
        scale = (levels + lowest)[:, None]
        divided = frames - scale if config.log_mel else frames * (-scale).exp()
        return divided.to(mel.dtype), {} if buffers is None else {_LEVEL: levels[:, -1:, None].clone()}

    def _normalize(self, mel: torch.Tensor) -> torch.Tensor:
        """Return mel frames as the convolutions read them, `(batch, 1, num_frames, num_mel_bins)`."""
        features = (mel - self.config.mel_mean) / self.config.mel_std
        return features.transpose(1, 2)[:, None].to(self.dtype)

    def _convolve(
        self,
        hidden_states: torch.Tensor,
        mask: torch.Tensor | None,
        contexts: dict[str, torch.Tensor] | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor | None, dict[str, torch.Tensor]]:
        """Run the convolutions on `(batch, 1, num_frames, num_mel_bins)`, in a stream on whole features.

        Returns:
            Features as the transformer reads them, their mask, and in a stream the contexts of what follows.
        """
        following = {}
        hidden_states = _clear(hidden_states, mask)
        for index, convolution in enumerate(self.convolutions):
            run: Callable = convolution
            if contexts is not None:
                name, channels = f"convolutions.{index}", hidden_states.shape[1]
                following[name] = hidden_states[:, :, -1:].transpose(1, 2).flatten(2).clone()
                before = contexts[name].unflatten(2, (channels, -1)).transpose(1, 2)
                hidden_states = torch.cat((before, hidden_states), dim=2)
                run = _look_back(convolution)
            hidden_states = nn.functional.gelu(run(hidden_states))
            mask = None if mask is None else mask[:, ::2]  # feature i stands where frame 2i stood
            hidden_states = _clear(hidden_states, mask)
        return self.proj(hidden_states.transpose(1, 2).flatten(2)), mask, following

    def _require_inputs(
        self,
        input_features: torch.Tensor | None,
        attention_mask: torch.Tensor | None,
        input_values: torch.Tensor | None,
        padding_mask: torch.Tensor | None,
    ):
        """Raise a `ValueError` unless the inputs are those that this encoder reads."""
        own, others = {"input_features": input_features, "attention_mask": attention_mask}, {}
        others = {"input_values": input_values, "padding_mask": padding_mask}
        if self.reads_waveforms:
            own, others = others, own
        for name, value in others.items():
            if value is not None:
                kind = "a number" if self.reads_waveforms else "None"
                raise ValueError(
                    f"`{name}` must be None where `config.mel_lookahead` is {kind}, whose input is `{next(iter(own))}`."
                )
        if next(iter(own.values())) is None:
            raise ValueError(f"`{next(iter(own))}` must be given, got None.")

    def _check(self, input_features: torch.Tensor, attention_mask: torch.Tensor | None, allow_empty: bool = False):
        shape, num_mel_bins = tuple(input_features.shape), self.config.num_mel_bins
        if len(shape) != 3 or shape[1] != num_mel_bins or (shape[2] < 1 and not allow_empty):
            raise ValueError(f"`input_features` must be of shape (batch, {num_mel_bins}, num_frames), got {shape}.")
        if attention_mask is not None and tuple(attention_mask.shape) != (shape[0], shape[2]):
            raise ValueError(
                f"`attention_mask` must be of shape ({shape[0]}, {shape[2]}), got {tuple(attention_mask.shape)}."
            )


def _clear(hidden_states: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """Put 0 where `mask`, `(batch, frames)`, is false in `(batch, channels, frames, mel)`: what padding puts there."""
    return hidden_states if mask is None else hidden_states.masked_fill(~mask[:, None, :, None], 0.0)


def _look_back(convolution: Any) -> Callable[[torch.Tensor], torch.Tensor]:
    """Return a convolution without its padding in time, for what has its context in front."""

    def run(hidden_states: torch.Tensor) -> torch.Tensor:
        if not is_untouched(convolution, nn.Conv2d):
            return convolution(nn.functional.pad(hidden_states, (0, 0, 1, 0)))[:, :, 1:]
        return nn.functional.conv2d(hidden_states, convolution.weight, convolution.bias, stride=2, padding=(0, 1))

    return run


AutoModel.register(JosieAudioEncoderConfig, JosieAudioEncoder, exist_ok=True)
