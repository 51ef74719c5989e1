"""Inputs that come one after the other: tokens, media and a clip that goes on, on one cache.

Whatever the pieces are, the result is that of all at once. Rows of a batch may get different numbers of tokens: where a
row gets none, there is a position that its attention mask hides.
"""

from dataclasses import replace
from typing import Any

import torch
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.utils.generic import can_return_tuple
from typing_extensions import Unpack

from ...configuration_josie import JosieThinkerConfig
from ..codecs.streaming import AudioStreamingState, ThinkerStreamingState, clear_rows, fork_cache
from ..outputs import JosieThinkerStreamOutput
from .audio_encoder import JosieAudioEncoder
from .front_ends import require_codes, require_features
from .gaps import list_gap_readers
from .generation import placeholder_tokens
from .inputs import MODALITIES, MODALITY_INPUTS, MediaOutputs, ModalInputs, spell_inputs


class InputStreamMixin:
    """Appending to what a [`JosieThinkerForConditionalGeneration`] has read."""

    config: JosieThinkerConfig
    model: Any
    compute_logits: Any

    @can_return_tuple
    @spell_inputs()
    def append_inputs(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        streaming_state: ThinkerStreamingState | None = None,
        is_final: bool = False,
        logits_to_keep: int | torch.Tensor = 0,
        **inputs: Unpack[ModalInputs],
    ) -> JosieThinkerStreamOutput:
        """Read what comes next, tokens or audio.

        Tokens are given as to `forward`, with whole media and their placeholders. Audio without `input_ids` is the next
        chunk of a clip that goes on, of any length; its placeholders are put there. Only a causal audio encoder hears
        `input_values` so, or `input_features` where it reads mel frames. `audio_features` of such an encoder's
        [`~JosieAudioEncoder.encode`] and `audio_codes` of a codec that streams are taken as they are.

        Args:
            input_ids (`torch.LongTensor`, *optional*): `(batch, new_length)`.
            attention_mask (`torch.Tensor`, *optional*): `(batch, new_length)`, 1 for real tokens; all are when `None`.
                Rows that get less than others are best padded on the left, so that the last position is real. Some
                backbones cannot have such rows, see [`list_gap_readers`].
            streaming_state ([`ThinkerStreamingState`], *optional*): State after what came before, which is not changed;
                `None` to begin.
            is_final (`bool`): End the clip; the next audio begins another one.
            logits_to_keep (`int` or `torch.Tensor`): As of `forward`.
            inputs: The media, [`ModalInputs`].

        Returns:
            [`JosieThinkerStreamOutput`]; without logits where the audio does not fill a token yet.

        Raises:
            `ValueError`: There is nothing to read, or more than the positions allow; the state is of another batch; an
                encoder cannot stream; or rows get different numbers of tokens in a backbone that reads positions that
                are none.
        """
        given: Any = {name: value for name, value in inputs.items() if value is not None}
        if input_ids is None:
            if attention_mask is not None:
                raise ValueError("`attention_mask` must be None without `input_ids`, got a tensor.")
            return self._append_audio(given, streaming_state, is_final, logits_to_keep)
        if is_final:
            raise ValueError("`is_final` must be False with `input_ids`, whose clips are whole, got True.")
        media = self.model.encode_media(**given)
        for modality in MODALITIES:
            if modality not in media:
                places = self.model.get_placeholder_mask(modality, input_ids)
                self.model.check_placeholders(modality, places, None)
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        if mask.shape != input_ids.shape:
            raise ValueError(
                f"`attention_mask` must be of shape {tuple(input_ids.shape)}, that of what is new, "
                f"got {tuple(mask.shape)}."
            )
        state = self._enter(streaming_state, input_ids)
        return self._read(input_ids, mask.to(input_ids.device, torch.long), media, state, logits_to_keep)

    def _append_audio(
        self,
        given: dict[str, torch.Tensor],
        state: ThinkerStreamingState | None,
        is_final: bool,
        logits_to_keep: int | torch.Tensor,
    ) -> JosieThinkerStreamOutput:
        """Read the next chunk of a clip."""
        unheard = [name for name in given if name not in MODALITY_INPUTS["audio"]]
        if unheard or not given:
            raise ValueError(
                f"`input_ids` must be given with anything but the audio of a stream, got {unheard or 'nothing'}."
            )
        front_end = self.model.audio_front_end
        if front_end is None:
            raise ValueError(f"`{next(iter(given))}` cannot be heard: `config.audio_config` is None.")
        first = next(iter(given.values()))
        state = self._enter(state, first)
        audio, pending = state.audio, state.pending
        codes, raw = (
            given.get("audio_codes"),
            next((name for name in given if not name.startswith("audio_codes")), None),
        )
        if front_end.code_embedding is not None:
            codes = require_codes("audio_codes", codes, raw or "", None if raw is None else given[raw])
            rows, lengths, _ = front_end.embed_codes("audio_codes", codes, given.get("audio_codes_mask"))
        else:
            require_features(raw or "audio_features", first, "audio_codes", codes)
            if "audio_features" in given:
                encoded = front_end.check_states(given["audio_features"], given.get("audio_features_mask"))
                features, mask = encoded[0].last_hidden_state, encoded[1]
            else:
                features, mask, audio = self._encode_chunk(front_end, given, audio, is_final)
            if mask is not None and not is_final and not bool(mask.all()):
                raise ValueError("`audio_features_mask` must be all true before the end of a clip, got false.")
            rows, lengths, pending = front_end.project_chunk(features, mask, pending, is_final)
        if is_final:
            audio = pending = None
        state = replace(state, audio=audio, pending=pending)
        longest = int(lengths.max())
        if longest == 0:
            return JosieThinkerStreamOutput(streaming_state=state, num_tokens=lengths)
        mask = torch.arange(longest, device=lengths.device) >= longest - lengths[:, None]
        placeholder, others = self.config.audio_token_id, placeholder_tokens(self.config)
        filler = next(token for token in range(len(others) + 1) if token not in others)  # whatever, nothing sees it
        input_ids = torch.full_like(mask, filler, dtype=torch.long).masked_fill(mask, placeholder)  # type: ignore[arg-type]
        pooled: Any = rows.split(lengths.tolist())
        media: MediaOutputs = {"audio": BaseModelOutputWithPooling(pooler_output=pooled)}
        return self._read(input_ids, mask.long(), media, state, logits_to_keep)

    def _encode_chunk(
        self, front_end: Any, given: dict[str, torch.Tensor], state: AudioStreamingState | None, is_final: bool
    ) -> tuple[torch.Tensor, torch.Tensor | None, AudioStreamingState | None]:
        """Return the features of a chunk, `(batch, num_features, width)`, their mask, and the encoder's next state."""
        if not isinstance(front_end.encoder, JosieAudioEncoder):
            raise ValueError(
                f"`{next(iter(given))}` must be given with `input_ids` to an encoder of type "
                f"{self.config.audio_config.model_type!r}, which reads whole clips."
            )
        chunk = dict(given)
        if "input_features_mask" in chunk:
            chunk["attention_mask"] = chunk.pop("input_features_mask")
        encoded = front_end.encoder.encode(
            **chunk, streaming_state=state, use_streaming=True, is_final=is_final, return_dict=True
        )
        return encoded.audio_features, encoded.audio_features_mask, encoded.streaming_state

    def _enter(self, state: ThinkerStreamingState | None, first: torch.Tensor) -> ThinkerStreamingState:
        """Return `state`, or that of a stream that begins, for a batch as large as that of `first`."""
        if state is None:
            nothing = torch.zeros(len(first), 0, dtype=torch.long, device=first.device)
            return ThinkerStreamingState(nothing, nothing)
        if len(state.input_ids) != len(first):
            raise ValueError(f"`streaming_state` must be of a batch of {len(first)}, got {len(state.input_ids)}.")
        return state

    def _read(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        media: MediaOutputs,
        state: ThinkerStreamingState,
        logits_to_keep: int | torch.Tensor,
    ) -> JosieThinkerStreamOutput:
        """Run the backbone over what is new."""
        mask = torch.cat((state.attention_mask, attention_mask), dim=1)
        num_tokens, most = int(mask.sum(dim=1).max()), self.config.max_sequence_length
        if num_tokens > most:
            raise ValueError(
                f"`streaming_state` must leave positions for what is new, of {most} in all, got {num_tokens} with it."
            )
        has_gaps = bool((mask.diff(dim=1) < 0).any())
        readers = list_gap_readers(self.model.language_model) if has_gaps else []
        if readers:
            raise ValueError(
                "`attention_mask` must hide nothing behind the first token of a row in a text backbone with "
                f"{readers}, which would read positions that are none, got some: give all rows as many tokens."
            )
        options: dict[str, Any] = {}
        if self.model.takes("position_ids"):
            options["position_ids"] = (mask.cumsum(dim=1) - 1).clamp(min=0)[:, -input_ids.shape[1] :]
        model: Any = self
        output = model(
            input_ids=input_ids,
            attention_mask=mask,
            cache=fork_cache(state.cache),
            use_cache=True,
            mm_encoder_outputs=media,
            logits_to_keep=logits_to_keep,
            return_dict=True,
            **options,
        )
        unread = ~mask.any(dim=1)  # whose hidden positions a recurrent layer has read, one by one
        cache = clear_rows(output.cache, unread) if bool(unread.any()) else output.cache
        following = replace(
            state, input_ids=torch.cat((state.input_ids, input_ids), dim=1), attention_mask=mask, cache=cache
        )
        kept = {name: value for name, value in output.items() if name != "cache"}
        return JosieThinkerStreamOutput(**kept, streaming_state=following, num_tokens=attention_mask.sum(dim=1))
