"""Draws of text from a random stream of each row, so that what a row gets does not depend on the other rows."""

from typing import Any

import torch
from transformers.generation import GenerationConfig
from transformers.generation.logits_process import LogitsProcessor, LogitsProcessorList

from ..option_values import check_seeds, list_seeds

# Ways of decoding that draw several tokens of a row at once, or none.
_OTHER_WAYS = ("assistant_model", "prompt_lookup_num_tokens", "custom_generate")


class RowDraws(LogitsProcessor):
    """Chooses the token of each row, behind all other processors: the likeliest after division by exponential noise.

    What transformers then draws is certain. One object serves one call of `generate`.

    Args:
        seed (`int` or `list[int]`): Of the rows; from one number they count on.

    Raises:
        `ValueError`: It is no integer, and no list of integers; or, when called, not one for each row.
    """

    def __init__(self, seed: int | list[int]):
        check_seeds("seed", seed)
        self._seed = seed
        self._generators: list[torch.Generator] = []

    def _start(self, num_rows: int, device: torch.device) -> None:
        seeds = list_seeds("seed", self._seed, num_rows)
        self._generators = [torch.Generator(device).manual_seed(number) for number in seeds]

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        """Map scores `(batch, vocab_size)` to 0 for the token that is drawn, and minus infinity for the others."""
        if not self._generators:
            self._start(len(scores), scores.device)
        noise = torch.ones_like(scores, dtype=torch.float32)
        for row, generator in zip(noise, self._generators, strict=True):
            row.exponential_(generator=generator)
        chosen = (scores.float().softmax(dim=-1) / noise).argmax(dim=-1, keepdim=True)
        certain: Any = torch.full_like(scores, -torch.inf).scatter_(1, chosen, 0.0)
        return certain


def put_draws_last(processors: LogitsProcessorList) -> LogitsProcessorList:
    """Return the processors with the one that draws behind all others."""
    return LogitsProcessorList(sorted(processors, key=lambda processor: isinstance(processor, RowDraws)))


def check_seed(arguments: dict[str, Any], generation_config: GenerationConfig) -> None:
    """Check that a call of `generate` draws one token of each row at a time.

    Args:
        arguments (`dict`): Those that are given by name, beside `seed`.
        generation_config ([`GenerationConfig`]): What holds where they do not say.

    Raises:
        `ValueError`: It does not, or `scores` would be returned, which know the choice alone.
    """

    def option(name: str) -> Any:
        value = arguments.get(name)
        return getattr(generation_config, name, None) if value is None else value

    if not option("do_sample"):
        raise ValueError("`seed` must be None without `do_sample`, as nothing is drawn.")
    if (option("num_beams") or 1) > 1:
        raise ValueError(
            f"`seed` must be None with beams, whose draws are those of a group, got {option('num_beams')}."
        )
    for name in _OTHER_WAYS:
        if option(name) is not None:
            raise ValueError(f"`seed` must be None with `{name}`, which draws in a way of its own.")
    if option("output_scores") and option("return_dict_in_generate"):
        raise ValueError("`output_scores` must be False with `seed`: `output_logits` gives what tokens are drawn from.")
