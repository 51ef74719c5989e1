"""The audio front end: clips to rows of the Thinker's width."""

from collections.abc import Sequence
from contextlib import suppress
from typing import Any, cast

import torch
from torch import nn
from transformers.modeling_outputs import BaseModelOutput
from transformers.utils import TransformersKwargs
from typing_extensions import Unpack

from ...configuration_josie import JosieThinkerConfig, audio_codec_geometry, is_codec, reads_waveforms
from ..layers.embeddings import CodeEmbedding
from .audio_encoder import JosieAudioEncoder
from .front_ends import Features, FrontEnd, pack, require_codes, require_features

_LONG_CLIP = 10**6  # samples or mel frames


class AudioFrontEnd(FrontEnd):
    """A continuous encoder with a projector, or an embedding of a codec's codes, as `config.audio_config` says.

    Args:
        config ([`JosieThinkerConfig`]): With an `audio_config`.
    """

    def __init__(self, config: JosieThinkerConfig):
        super().__init__(config)
        audio_config: Any = config.audio_config
        if is_codec(audio_config):
            geometry = audio_codec_geometry(audio_config)
            self.code_embedding = CodeEmbedding(geometry.num_quantizers, geometry.codebook_size, config.hidden_size)
            return
        config.get_num_audio_tokens(_LONG_CLIP)  # an encoder of unknown geometry is refused here, not at the first clip
        self.build(audio_config, config.audio_stack_factor)

    def dummy_forward(self) -> torch.Tensor:
        """Return the rows of the shortest silence."""
        weight = next(self.parameters())
        if self.code_embedding is not None:
            return self(audio_codes=torch.zeros(1, 1, 1, dtype=torch.long, device=weight.device)).rows
        audio_config: Any = self.config.audio_config
        if reads_waveforms(audio_config):
            return self(input_values=weight.new_zeros(1, 1, _shortest_clip(self.config))).rows
        mels = (getattr(audio_config, "num_mel_bins"), _shortest_clip(self.config))  # noqa: B009
        return self(input_features=weight.new_zeros(1, *mels)).rows

    def forward(
        self,
        input_features: torch.Tensor | None = None,
        input_features_mask: torch.Tensor | None = None,
        input_values: torch.Tensor | None = None,
        padding_mask: torch.Tensor | None = None,
        audio_features: torch.Tensor | None = None,
        audio_features_mask: torch.Tensor | None = None,
        audio_codes: torch.Tensor | None = None,
        audio_codes_mask: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> Features:
        """Turn clips into rows, each clip cut to `config.max_audio_tokens`.

        Takes [`AudioInputs`], and `kwargs` for the encoder.

        Returns:
            [`Features`].

        Raises:
            `ValueError`: The input is not the one this front end takes, or has a wrong shape.
        """
        limit = self.config.max_audio_tokens
        if self.code_embedding is not None:
            raw_name, raw = (
                ("input_features", input_features) if input_values is None else ("input_values", input_values)
            )
            if audio_features is not None:
                raw_name, raw = "audio_features", audio_features
            audio_codes = require_codes("audio_codes", audio_codes, raw_name, raw)
            return self.embed_codes("audio_codes", audio_codes, audio_codes_mask, limit)
        if audio_features is not None:
            given = {"input_features": input_features, "input_values": input_values, "audio_codes": audio_codes}
            for name, value in given.items():
                if value is not None:
                    raise ValueError(f"`{name}` must be None with `audio_features`, got both.")
            return self._project(*self.check_states(audio_features, audio_features_mask))
        if reads_waveforms(self.config.audio_config):
            input_values = require_features("input_values", input_values, "audio_codes", audio_codes)
            return self._encode_waveforms(input_values, padding_mask, **kwargs)
        if input_values is not None:
            raise ValueError("`input_values` must be `input_features` for an encoder of mel spectrograms.")
        input_features = require_features("input_features", input_features, "audio_codes", audio_codes)
        return self._project(*self._encode(input_features, input_features_mask, **kwargs))

    def _project(self, encoded: BaseModelOutput, mask: torch.Tensor | None) -> Features:
        """Stack, cut and project states of the encoder; `mask` says which are real, `(num_clips, max_features)`."""
        num_kept = self.config.max_audio_tokens * self.config.audio_stack_factor
        features = cast(torch.Tensor, encoded.last_hidden_state)[:, :num_kept]
        features, mask = self._stack(features, None if mask is None else mask[:, :num_kept])
        return Features(*pack(self.projector(features), mask), encoded)

    def project_chunk(
        self, features: torch.Tensor, mask: torch.Tensor | None, pending: torch.Tensor | None, is_final: bool
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """Stack and project the next features of clips that go on.

        Args:
            features (`torch.FloatTensor`): `(num_clips, num_features, width)`.
            mask (`torch.BoolTensor`, *optional*): `(num_clips, num_features)`, true for real ones; at the end of clips.
            pending (`torch.FloatTensor`, *optional*): `(num_clips, fewer than a stack, width)`, those before.
            is_final (`bool`): Fill the last stack.

        Returns:
            Rows of all clips, `(total_rows, hidden_size)`, their numbers, `(num_clips,)`, and what is pending then.
        """
        factor = self.config.audio_stack_factor
        if pending is not None:
            features = torch.cat((pending, features), dim=1)
            mask = None if mask is None else nn.functional.pad(mask, (pending.shape[1], 0), value=True)
        num_used = features.shape[1] if is_final else features.shape[1] // factor * factor
        used, mask = self._stack(features[:, :num_used], None if mask is None else mask[:, :num_used])
        rows, counts = pack(self.projector(used), mask)
        return rows, counts, features[:, num_used:].clone() if factor > 1 else None

    def check_states(
        self, features: torch.Tensor, mask: torch.Tensor | None
    ) -> tuple[BaseModelOutput, torch.Tensor | None]:
        """Return states that were made ahead as the encoder would give them."""
        width = self.encoder.config.hidden_size
        if features.ndim != 3 or features.shape[-1] != width:
            raise ValueError(
                f"`audio_features` must be of shape (num_clips, num_features, {width}), got {tuple(features.shape)}."
            )
        if mask is not None and tuple(mask.shape) != tuple(features.shape[:2]):
            raise ValueError(
                f"`audio_features_mask` must be of shape {tuple(features.shape[:2])}, got {tuple(mask.shape)}."
            )
        if torch.is_grad_enabled() and self.training and any(one.requires_grad for one in self.encoder.parameters()):
            raise ValueError(
                "`audio_features` must be None where the audio encoder learns, which they are of: freeze it, as by "
                "`model.freeze('thinker.audio.encoder')`, got some."
            )
        return BaseModelOutput(cast(torch.FloatTensor, features)), None if mask is None else mask.bool()

    def _stack(self, features: torch.Tensor, mask: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Stack neighbouring features, `(num_clips, max_features, width)`, and the mask of those that are real."""
        factor = self.config.audio_stack_factor
        if factor == 1:
            return features, mask
        if mask is not None:  # what stands behind a clip would be part of its last token
            features, mask = features.masked_fill(~mask[..., None], 0.0), mask[:, ::factor]
        features = nn.functional.pad(features, (0, 0, 0, -features.shape[1] % factor))
        return features.unflatten(1, (-1, factor)).flatten(2), mask

    def _encode_waveforms(
        self, input_values: torch.Tensor, padding_mask: torch.Tensor | None, **kwargs: Any
    ) -> Features:
        """Encode clip by clip: most encoders of waveforms normalise over time and would hear the padding."""
        if input_values.ndim != 3 or input_values.shape[1] != 1:
            raise ValueError(
                f"`input_values` must be of shape (num_clips, 1, num_samples), got {tuple(input_values.shape)}."
            )
        if isinstance(self.encoder, JosieAudioEncoder):
            encoded = self.encoder(input_values=input_values, padding_mask=padding_mask, return_dict=True, **kwargs)
            mask = None if padding_mask is None else padding_mask.to(input_values.device, torch.bool)
            return self._project(encoded, None if mask is None else self.encoder.downsample_mask(mask))
        num_clips, _, longest = input_values.shape
        lengths = [longest] * num_clips if padding_mask is None else padding_mask.sum(dim=-1).tolist()
        rows, encoded = [], []
        for clip, length in zip(input_values.to(self.encoder.dtype), lengths, strict=True):
            encoded.append(self.encoder(clip[:, : int(length)], return_dict=True, **kwargs))
            kept = self.config.get_num_audio_tokens(int(length)) * self.config.audio_stack_factor
            rows.append(self.projector(self._stack(encoded[-1].last_hidden_state[:, :kept], None)[0][0]))
        counts = torch.tensor([len(row) for row in rows], device=input_values.device)
        return Features(torch.cat(rows), counts, _join_clips(encoded))

    def _encode(
        self, input_features: torch.Tensor, input_features_mask: torch.Tensor | None, **kwargs: Any
    ) -> tuple[BaseModelOutput, torch.Tensor | None]:
        """Return the encoder's output, and which of its features are real, `(num_clips, max_features)`."""
        input_features = input_features.to(self.encoder.dtype)
        if isinstance(self.encoder, JosieAudioEncoder):
            encoded = self.encoder(input_features, attention_mask=input_features_mask, return_dict=True, **kwargs)
        else:  # Whisper: always the same length, silence included
            encoded = self.encoder(input_features, return_dict=True, **kwargs)
            expected, given = self.encoder.config.max_source_positions, encoded.last_hidden_state.shape[1]
            if given != expected:
                raise ValueError(f"`audio_config` must give {expected} features a clip, got {given}.")
        if input_features_mask is None:
            return encoded, None
        mask = input_features_mask.to(input_features.device, torch.bool)
        return encoded, self.encoder.downsample_mask(mask) if hasattr(self.encoder, "downsample_mask") else mask[:, ::2]


def _join_clips(outputs: Sequence[BaseModelOutput]) -> BaseModelOutput:
    """Join the encoder's outputs of single clips, 0 past a clip's end."""
    lengths = [cast(torch.Tensor, output.last_hidden_state).shape[1] for output in outputs]

    def join(values: Sequence[Any], is_attention: bool = False) -> torch.Tensor:
        missing = [max(lengths) - length for length in lengths]
        sizes = [(0, size, 0, size) if is_attention else (0, 0, 0, size) for size in missing]
        return torch.cat([nn.functional.pad(value, size) for value, size in zip(values, sizes, strict=True)])

    def join_layers(name: str) -> tuple[torch.Tensor, ...] | None:
        layers = [getattr(output, name) for output in outputs]
        if None in layers:
            return None
        return tuple(join(layer, name == "attentions") for layer in zip(*layers, strict=True))

    states = join([output.last_hidden_state for output in outputs])
    return BaseModelOutput(cast(torch.FloatTensor, states), join_layers("hidden_states"), join_layers("attentions"))  # type: ignore[arg-type]


def _shortest_clip(config: JosieThinkerConfig) -> int:
    """Return a length of a clip, in samples or mel frames, that gives a row, and not much more than one."""
    positions = getattr(config.audio_config, "max_source_positions", None)
    if positions is not None and not hasattr(config.audio_config, "downsample"):
        return 2 * positions  # Whisper reads nothing shorter
    for length in (2**power for power in range(20)):
        with suppress(ValueError):  # too short for the convolutions
            if config.get_num_audio_tokens(length) > 0:
                return length
    return _LONG_CLIP
