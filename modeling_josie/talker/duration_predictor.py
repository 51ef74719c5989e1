"""Duration predictor and length regulator of the Talker, after FastSpeech (Ren et al., 2019).

FastSpeech predicts how many frames each phoneme takes and repeats its state that often. Here the units are the
Thinker's tokens, durations are not whole numbers, and each step also reads where in its token it is. No pass over the
text comes before speech begins: the predictor reads a window of tokens, as FastSpeech's convolution does, and a token's
duration is known as soon as the window's last token is there.

Durations learn in one of two ways. With an aligner each token has its own target. Without one, utterance lengths
suffice: the durations of an utterance's tokens must sum to its length.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from ...configuration_josie import JosieTalkerConfig

# Largest distance to a token's beginning or end, in frames, that the Talker reads.
_FARTHEST = 8.0


class DurationPredictor(nn.Module):
    """Durations of spoken tokens in frames, and the token that each step of the Talker reads.

    The predictor sees only what the Talker reads of the token and of its neighbours, zeros where the text has none. It
    learns from its own loss alone: durations choose tokens, and a choice has no gradient.

    Args:
        config ([`JosieTalkerConfig`]): Widths, how many neighbours are read, and `frames_per_token`, the duration
            before any training.
        in_size (`int`): Width of what is read of a token.
    """

    def __init__(self, config: JosieTalkerConfig, in_size: int):
        super().__init__()
        self.offset = math.log(math.expm1(config.frames_per_token))  # softplus of it is `frames_per_token`
        self.left_context, self.right_context = config.duration_left_context, config.duration_right_context
        self.hidden = nn.Linear((self.left_context + 1 + self.right_context) * in_size, config.hidden_size)
        self.out = nn.Linear(config.hidden_size, 1)
        self.place = nn.Linear(2, config.hidden_size, bias=False)

    def forward(self, given: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        """Predict the durations of whole texts.

        Args:
            given (`torch.Tensor`): `(batch, num_tokens, in_size)`.
            mask (`torch.Tensor`, *optional*): `(batch, num_tokens)`, 1 for real tokens; all are when `None`. The others
                are nobody's neighbours, wherever they stand.

        Returns:
            `(batch, num_tokens)`, in frames, float32 or wider; 0 for padding.
        """
        if not self.left_context and not self.right_context:
            durations = self.predict(given)
            return durations if mask is None else durations * mask.to(durations.dtype)
        if mask is None:
            return self.predict(self._join_neighbours(given))
        order = (~mask.bool()).long().argsort(dim=1, stable=True)  # real tokens first, in their order
        real = mask.gather(1, order)
        given = given.gather(1, order[..., None].expand_as(given)) * real[..., None].to(given.dtype)
        durations = self.predict(self._join_neighbours(given))
        durations = durations * real.to(durations.dtype)
        return torch.zeros_like(durations).scatter(1, order, durations)

    def _join_neighbours(self, given: torch.Tensor) -> torch.Tensor:
        """Return each token's window, `(batch, num_tokens, window * in_size)`; zeros stand beyond the text."""
        padded = nn.functional.pad(given, (0, 0, self.left_context, self.right_context))
        window = self.left_context + 1 + self.right_context
        return torch.cat([padded[:, start : start + given.shape[1]] for start in range(window)], dim=-1)

    def predict(self, windows: torch.Tensor) -> torch.Tensor:
        """Predict the durations of tokens whose neighbours are known.

        Args:
            windows (`torch.Tensor`): `(..., window * in_size)`, the `left_context` tokens before each token, itself,
                and the `right_context` tokens after it.

        Returns:
            `(...)`, in frames, float32 or wider.
        """
        raw = self.out(nn.functional.silu(self.hidden(windows)))[..., 0]
        return nn.functional.softplus(raw.to(torch.promote_types(raw.dtype, torch.float32)) + self.offset)

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


class DurationStream:
    """Durations of a text's tokens as it flows in: each is known when the tokens it depends on are there.

    Args:
        predictor ([`DurationPredictor`]): Predicts each token by itself, so that durations do not depend, even in their
            last digit, on how the text came.
    """

    def __init__(self, predictor: DurationPredictor):
        self.predictor = predictor
        self._tokens: list[torch.Tensor] = []  # `(in_size,)`: the left neighbours, then those that wait
        self._num_left = 0  # of the left neighbours

    def put(self, given: torch.Tensor) -> list[torch.Tensor]:
        """Append a token, `(in_size,)`; return the durations known now, each `()`, in the order of the text."""
        self._tokens.append(given)
        return self._predict(self.predictor.right_context)

    def close(self) -> list[torch.Tensor]:
        """Say that no more tokens will come; return the durations of those that waited."""
        return self._predict(0)

    def _predict(self, num_to_keep: int) -> list[torch.Tensor]:
        """Return the durations of all tokens but so many."""
        predictor, durations = self.predictor, []
        while len(self._tokens) - self._num_left > num_to_keep:
            index = self._num_left
            nothing = torch.zeros_like(self._tokens[index])
            right = self._tokens[index + 1 : index + 1 + predictor.right_context]
            missing = predictor.left_context - index, predictor.right_context - len(right)
            window = [nothing] * missing[0] + self._tokens[: index + 1] + right + [nothing] * missing[1]
            durations.append(predictor.predict(torch.cat(window)[None])[0])  # quantized layers want a batch
            self._num_left += 1
            if self._num_left > predictor.left_context:
                del self._tokens[0]
                self._num_left -= 1
        return durations


@dataclass
class TokenDurations:
    """Durations of the tokens of whole texts, for a Talker that reads nothing of the Thinker but embeddings.

    It stands apart from the model, on the CPU, so that workers which lay out training rows can have it.

    Args:
        predictor ([`DurationPredictor`], *optional*): When `None`, all tokens take `frames_per_token`.
        embeddings (`torch.Tensor`, *optional*): `(vocab_size, in_size)`, what it reads of each token.
        frames_per_token (`float`): See `predictor`.
    """

    predictor: DurationPredictor | None
    embeddings: torch.Tensor | None
    frames_per_token: float = 1.0

    @torch.no_grad()
    def __call__(self, token_ids: Sequence[int]) -> list[float]:
        """Return for how many frames each of a text's tokens is said, as a [`DurationStream`] finds it."""
        if self.predictor is None or self.embeddings is None:
            return [self.frames_per_token] * len(token_ids)
        stream = DurationStream(self.predictor)
        floating = (parameter.dtype for parameter in self.predictor.parameters() if parameter.is_floating_point())
        dtype = next(floating, self.embeddings.dtype)  # weights that are quantized have none
        durations = [known for token in token_ids for known in stream.put(self.embeddings[token].to(dtype))]
        return [float(duration) for duration in [*durations, *stream.close()]]
