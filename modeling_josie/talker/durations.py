"""How long each spoken token takes, so that a Talker reads the token that is being said.

Where nobody says when in a recording a word begins, that the tokens of many sentences take as long as these sentences
is enough to tell them apart: no aligner is needed, and no pass over the text before speech begins. Where an aligner has
said it, each token is learned by itself, and the Talker reads each one when it is said: so it learns much sooner what
words sound like.
"""

import math

import torch
from torch import nn

from ...configuration_josie import JosieTalkerConfig

# Frames from the beginning or to the end of a token beyond which the Talker does not count.
_FARTHEST = 8.0


class TokenDurations(nn.Module):
    """The frames each spoken token takes, and where in its token each step of the Talker is.

    A token's duration is read from nothing but what the Talker reads of it. Durations learn from known ones, or from
    the lengths of whole utterances ([`TokenDurations.loss`]), and from nothing else: they choose what the Talker reads,
    and rounding to steps has no gradient.

    Args:
        config ([`JosieTalkerConfig`]): Widths, and `frames_per_token`, what durations are before they are learned.
        in_size (`int`): Width of what is read of a token.
    """

    def __init__(self, config: JosieTalkerConfig, in_size: int):
        super().__init__()
        self.offset = math.log(math.expm1(config.frames_per_token))  # what softplus makes `frames_per_token` of
        self.hidden = nn.Linear(in_size, config.hidden_size)
        self.out = nn.Linear(config.hidden_size, 1)
        self.place = nn.Linear(2, config.hidden_size, bias=False)

    def forward(self, given: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        """Return how long tokens take.

        Args:
            given (`torch.Tensor`): `(batch, num_tokens, in_size)`.
            mask (`torch.Tensor`, *optional*): `(batch, num_tokens)`, 1 for real tokens.

        Returns:
            `(batch, num_tokens)`, in frames, float32 or wider; 0 for tokens that are not real.
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
        """Return by how many frames durations miss, added up over rows with text and speech.

        Args:
            durations (`torch.Tensor`): `(batch, num_tokens)`.
            num_frames (`torch.LongTensor`): `(batch,)`, frames of speech in each row, which its tokens take in all.
            num_items (`torch.Tensor`): What the sum is divided by.
            known (`torch.Tensor`, *optional*): `(batch, num_tokens)`, what each token takes, where that is known.
        """
        missed = durations.sum(dim=1) - num_frames if known is None else (durations - known).abs().sum(dim=1)
        missed = missed.abs()
        missed = missed * ((num_frames > 0) & (durations > 0).any(dim=1))
        return missed.sum() / num_items.clamp(min=1)

    def embed_place(self, places: torch.Tensor) -> torch.Tensor:
        """Return what it adds to a step where in its token it is.

        Args:
            places (`torch.Tensor`): `(..., 2)`, frames since the token began, or the text was over, and until it ends.
        """
        return self.place(places.clamp(0, _FARTHEST))

    @torch.no_grad()
    def locate(self, durations: torch.Tensor, num_steps: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Say which token each step reads, and where in it the step is.

        Args:
            durations (`torch.Tensor`): `(batch, num_tokens)`.
            num_steps (`int`): Steps, a frame each.

        Returns:
            Tokens, `(batch, num_steps)`, `num_tokens` when the text is over; and `(batch, num_steps, 2)`, frames since
            the token began, or the text was over, and frames until it ends.
        """
        ends = durations.cumsum(dim=1)
        steps = torch.arange(num_steps, device=ends.device, dtype=ends.dtype) + 0.5
        steps = steps.expand(len(ends), -1).contiguous()
        tokens = torch.searchsorted(ends, steps, right=True)
        bounds = nn.functional.pad(ends, (1, 0))
        # Past the last token there is no end to come.
        since = steps - bounds.gather(1, tokens)
        until = nn.functional.pad(bounds, (0, 1)).gather(1, tokens + 1) - steps
        return tokens, torch.stack((since, until), dim=-1).clamp(0, _FARTHEST)
