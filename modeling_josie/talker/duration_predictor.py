"""Duration predictor and length regulator of the Talker, after FastSpeech (Ren et al., 2019).

FastSpeech predicts how many frames each phoneme takes and repeats its state that often. Here the units are the
Thinker's tokens, durations are not whole numbers, and each step also reads where in its token it is. No pass over the
text comes before speech begins.

Durations learn in one of two ways. With an aligner each token has its own target. Without one, utterance lengths
suffice: the durations of an utterance's tokens must sum to its length.
"""

import math

import torch
from torch import nn

from ...configuration_josie import JosieTalkerConfig

# Largest distance to a token's beginning or end, in frames, that the Talker reads.
_FARTHEST = 8.0


class DurationPredictor(nn.Module):
    """Durations of spoken tokens in frames, and the token that each step of the Talker reads.

    The predictor sees only what the Talker reads of the token itself. It learns from its own loss alone: durations
    choose tokens, and a choice has no gradient.

    Args:
        config ([`JosieTalkerConfig`]): Widths, and `frames_per_token`, the duration before any training.
        in_size (`int`): Width of what is read of a token.
    """

    def __init__(self, config: JosieTalkerConfig, in_size: int):
        super().__init__()
        self.offset = math.log(math.expm1(config.frames_per_token))  # softplus of it is `frames_per_token`
        self.hidden = nn.Linear(in_size, config.hidden_size)
        self.out = nn.Linear(config.hidden_size, 1)
        self.place = nn.Linear(2, config.hidden_size, bias=False)

    def forward(self, given: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        """Predict durations.

        Args:
            given (`torch.Tensor`): `(batch, num_tokens, in_size)`.
            mask (`torch.Tensor`, *optional*): `(batch, num_tokens)`, 1 for real tokens; all are when `None`.

        Returns:
            `(batch, num_tokens)`, in frames, float32 or wider; 0 for padding.
        """
        raw = self.out(nn.functional.silu(self.hidden(given)))[..., 0]
        durations = nn.functional.softplus(raw.to(torch.promote_types(raw.dtype, torch.float32)) + self.offset)
        return durations if mask is None else durations * mask.to(durations.dtype)

    def loss(
        self,
        durations: torch.Tensor,
        num_frames: torch.Tensor,
        num_items: torch.Tensor,
        known: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Return the absolute error of durations in frames, summed over rows that have text and speech.

        Args:
            durations (`torch.Tensor`): `(batch, num_tokens)`, what [`DurationPredictor.forward`] returned.
            num_frames (`torch.LongTensor`): `(batch,)`, the length of each row's speech.
            num_items (`torch.Tensor`): Divisor of the sum.
            known (`torch.Tensor`, *optional*): `(batch, num_tokens)`, an aligner's durations. When `None`, the error is
                that of a row's sum.
        """
        errors = durations.sum(dim=1) - num_frames if known is None else (durations - known).abs().sum(dim=1)
        counts = (num_frames > 0) & (durations > 0).any(dim=1)
        return (errors.abs() * counts).sum() / num_items.clamp(min=1)

    def embed_place(self, places: torch.Tensor) -> torch.Tensor:
        """Embed a step's place in its token.

        Args:
            places (`torch.Tensor`): `(..., 2)`, frames since the token's beginning, or the text's end, and to its end.

        Returns:
            `(..., hidden_size)`.
        """
        return self.place(places.clamp(0, _FARTHEST))

    @torch.no_grad()
    def expand(self, durations: torch.Tensor, num_steps: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the token that each step reads, and the step's place in it: the length regulator.

        Args:
            durations (`torch.Tensor`): `(batch, num_tokens)`.
            num_steps (`int`): Number of steps, one frame each.

        Returns:
            Indices of tokens, `(batch, num_steps)`, `num_tokens` after the last one; and places,
            `(batch, num_steps, 2)`, frames since the token's beginning (or the text's end) and frames to its end.
        """
        ends = durations.cumsum(dim=1)
        steps = torch.arange(num_steps, device=ends.device, dtype=ends.dtype) + 0.5
        steps = steps.expand(len(ends), -1).contiguous()
        tokens = torch.searchsorted(ends, steps, right=True)
        bounds = nn.functional.pad(ends, (1, 0))
        since = steps - bounds.gather(1, tokens)
        # Nothing ends after the last token: 0 stands there, and is below the clamp.
        until = nn.functional.pad(bounds, (0, 1)).gather(1, tokens + 1) - steps
        return tokens, torch.stack((since, until), dim=-1).clamp(0, _FARTHEST)
