"""Inputs of each step of the Talker besides codes: the voice in its first step, then the spoken tokens."""

from typing import Any

import torch
from torch import nn
from transformers.utils import torch_compilable_check

from ...configuration_josie import JosieTalkerConfig
from ..layers.offloading import loads_own_parameters
from .duration_predictor import DurationPredictor


class TextReadingMixin:
    """Embeddings of the start step and of text, for a Talker that has their weights."""

    config: JosieTalkerConfig
    training: bool
    start: nn.Parameter
    end_of_text: nn.Parameter
    thinker_projection: nn.Linear
    text_layer: Any  # these are `None` for some configurations
    durations: Any
    speaker_embedding: Any

    def embed_start(self, batch_size: int, speaker_ids: torch.Tensor | None) -> torch.Tensor:
        """Return `(batch, 1, hidden_size)`: the learned start step, which carries the voice.

        Args:
            batch_size (`int`): Rows.
            speaker_ids (`torch.LongTensor`, *optional*): `(batch,)`, rows of `config.speakers`; the first when `None`.

        Raises:
            `ValueError`: Speakers are unknown, or not one for each row.
        """
        start = self.start.expand(batch_size, 1, -1)
        if self.speaker_embedding is None:
            if speaker_ids is not None:
                raise ValueError("`speaker_ids` must be None for a Talker without `config.speakers`, got ids.")
            return start
        if speaker_ids is None:
            speaker_ids = torch.zeros(batch_size, dtype=torch.long, device=start.device)
        if speaker_ids.shape != (batch_size,):
            raise ValueError(f"`speaker_ids` must have shape ({batch_size},), got {tuple(speaker_ids.shape)}.")
        torch_compilable_check(
            ((speaker_ids >= 0) & (speaker_ids < len(self.config.speakers))).all(),
            lambda: f"`speaker_ids` must be in [0, {len(self.config.speakers) - 1}], got {speaker_ids.tolist()}.",
        )
        return start + self.speaker_embedding(speaker_ids)[:, None]

    @loads_own_parameters
    def embed_bounds(self, batch_size: int, speaker_ids: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the inputs of the first step, as [`TextReadingMixin.embed_start`], and of steps after the text.

        Returns:
            `(batch, 1, hidden_size)` and `(hidden_size,)`.
        """
        return self.embed_start(batch_size, speaker_ids), self.end_of_text.clone()

    def embed_tokens(self, given: torch.Tensor) -> torch.Tensor:
        """Return what tokens add to the steps that read them, `(..., width)` to `(..., hidden_size)`."""
        text = self.thinker_projection(given)
        return text if self.text_layer is None else text + self.text_layer(given)

    def embed_step(
        self,
        hidden_states: torch.Tensor,
        embeds: torch.Tensor,
        mask: torch.Tensor,
        places: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Return what the text adds to one step, `(batch, 1, hidden_size)`.

        Args:
            hidden_states, embeds (`torch.Tensor`): `(batch, 1, thinker_hidden_size)`, of the token it reads.
            mask (`torch.BoolTensor`): `(batch, 1)`, whether there is a token.
            places (`torch.Tensor`, *optional*): `(batch, 1, 2)`, the step's place in the token, from
                [`DurationPredictor.expand`]; for Talkers that learn durations.
        """
        batch_size = embeds.shape[0]
        text = self._embed_text(batch_size, self._join_text(batch_size, hidden_states, embeds), mask)[:, :1]
        return text if self.durations is None else text + self.durations.place(places)

    def embed_steps(
        self,
        batch_size: int,
        num_steps: int,
        given: torch.Tensor | None,
        mask: torch.Tensor | None,
        known: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor]:
        """Return what the text adds to each step after the first.

        Args:
            batch_size, num_steps (`int`): Rows and steps.
            given (`torch.Tensor`, *optional*): `(batch, num_tokens, width)`, what is read of each token.
            mask (`torch.Tensor`, *optional*): `(batch, num_tokens)`, 1 for real tokens.
            known (`torch.Tensor`, *optional*): `(batch, num_tokens)`, durations to read by, in place of predicted ones.

        Returns:
            Embeddings, `(batch, num_steps, hidden_size)`; predicted durations, `(batch, num_tokens)`, `None` without a
            predictor; and the index of the token that each step reads, `(batch, num_steps)`.
        """
        text = self._embed_text(batch_size, given, mask)
        if self.durations is None:
            tokens = torch.arange(num_steps, device=text.device) // self.config.frames_per_token
            tokens = tokens.clamp(max=text.shape[1] - 1)
            return text[:, tokens], None, tokens.expand(batch_size, -1)
        predictor: DurationPredictor = self.durations
        durations = text.new_zeros(batch_size, 0) if given is None else predictor(given, mask=mask)
        tokens, places = predictor.expand(durations if known is None else known.to(durations.dtype), num_steps)
        read = text.gather(1, tokens[..., None].expand(-1, -1, text.shape[-1]))
        return read + predictor.place(places.to(read.dtype)), durations, tokens

    def _join_text(
        self, batch_size: int, hidden_states: torch.Tensor | None, embeds: torch.Tensor | None
    ) -> torch.Tensor | None:
        """Return what is read of each token, `(batch, num_tokens, width)`; `None` without text."""
        if hidden_states is None and embeds is None:
            if not self.training and not torch.is_grad_enabled():
                return None
            # No tokens are projected too, so that the projection takes part in every step.
            hidden_states = embeds = self.start.new_zeros(batch_size, 0, self.config.thinker_hidden_size)
        if hidden_states is None and not self.config.reads_thinker_states:
            hidden_states = embeds
        if hidden_states is None or embeds is None or hidden_states.shape != embeds.shape:
            raise ValueError("`thinker_hidden_states` and `thinker_embeds` must be given together and have one shape.")
        if hidden_states.shape[0] != batch_size:
            raise ValueError(
                f"`speech_codes` must have one row for each of the {hidden_states.shape[0]} texts, got {batch_size}."
            )
        given = torch.cat((hidden_states, embeds), dim=-1) if self.config.reads_thinker_states else embeds
        return given.to(self.start.dtype)

    def _embed_text(self, batch_size: int, given: torch.Tensor | None, mask: torch.Tensor | None) -> torch.Tensor:
        """Return `(batch, num_tokens + 1, hidden_size)`: each token's embedding, then that of the text's end."""
        end = self.end_of_text.expand(batch_size, 1, -1)
        if given is None:
            return end
        text = self.embed_tokens(given)
        if mask is not None:
            text = torch.where(mask[..., None].bool(), text, end)
        return torch.cat((text, end), dim=1)
