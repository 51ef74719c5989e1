"""Scores for `Trainer`: perplexity, token accuracy and code accuracy, without keeping logits.

    Trainer(..., compute_metrics=Metrics(), preprocess_logits_for_metrics=keep_scores)

`keep_scores` reduces the logits of each batch to a few numbers a row, so that rows may have any length.
"""

import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.nn import functional
from transformers import EvalPrediction

from ..configuration_josie.constants import IGNORE_INDEX

_LARGEST_EXPONENT = math.log(sys.float_info.max)
_NUM_TEXT_SCORES = 3  # negative log-likelihood, right tokens, tokens


def keep_scores(outputs: torch.Tensor | tuple[Any, ...], labels: torch.Tensor | tuple[Any, ...]) -> torch.Tensor:
    """Return what [`Metrics`] needs of a batch: `preprocess_logits_for_metrics`.

    Args:
        outputs (`torch.Tensor` or `tuple`): What the model returned without the loss, in the order of its output class.
        labels (`torch.Tensor` or `tuple`): As `label_names` say: `labels` `(batch, length)`; or `speech_codes`
            `(batch, num_quantizers, num_frames)`, of a Talker alone; or both, in this order; a row with several spoken
            turns has an axis of them behind the first. With `speech_codes`,
            `eval_do_concat_batches` must be `False`, as `Trainer` cannot join codes of different lengths. Of the whole
            model, `Trainer` hands on the logits of text alone: [`JosieTrainer`] those of codes too.

    Returns:
        `(batch, 3 + 2 * num_quantizers)`, sums over each row: negative log-likelihood of the tokens, right tokens,
        tokens; and for each quantizer right codes and codes.

    Raises:
        `ValueError`: There are codes to score, and no logits of codes.
    """
    given = [outputs] if isinstance(outputs, torch.Tensor) else outputs
    tensors = [value for value in given if isinstance(value, torch.Tensor) and value.ndim > 2]
    flat = [value for value in tensors if value.ndim == 3]  # text, quantizer 0, and hidden states behind them
    targets = [labels] if isinstance(labels, torch.Tensor) else list(labels)
    text = next((value for value in targets if value.ndim == 2), None)
    codes = next((value for value in targets if value.ndim > 2), None)
    rows = targets[0]
    scores = [rows.new_zeros(len(rows), _NUM_TEXT_SCORES, dtype=torch.float32)]
    if text is not None:
        scores[0] = score_tokens(flat.pop(0), text)
    if codes is not None:
        first = flat if codes.ndim == 3 else [value for value in tensors if value.ndim == 4]
        depth = next((value for value in tensors if value.ndim == codes.ndim + 1), None)
        if not first:
            raise ValueError(
                "`outputs` must have the logits of codes with `speech_codes`: `JosieTrainer` hands them on."
            )
        scores.append(score_codes(first[0], depth, codes))
    return torch.cat(scores, dim=1)


def score_tokens(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return `(batch, 3)` for logits `(batch, length, vocab_size)` and the tokens at each position `(batch, length)`.

    In columns: the sum of negative log-likelihoods, how many tokens the model would have chosen, how many there are.
    """
    logits, labels = logits[:, :-1], labels[:, 1:]
    is_target = labels != IGNORE_INDEX
    losses = functional.cross_entropy(
        logits.float().flatten(0, 1), labels.flatten(), ignore_index=IGNORE_INDEX, reduction="none"
    )
    is_right = (logits.argmax(-1) == labels) & is_target
    return torch.stack([losses.view(labels.shape).sum(1), is_right.sum(1), is_target.sum(1)], dim=1).float()


def score_codes(logits: torch.Tensor, depth_logits: torch.Tensor | None, codes: torch.Tensor) -> torch.Tensor:
    """Return `(batch, 2 * num_quantizers)`, for each quantizer how many codes the model would have chosen, of how many.

    Args:
        logits (`torch.Tensor`): `(batch, num_frames, codebook_size (+ 1))`, of quantizer 0; the end counts as a code.
            Several turns of a row have an axis behind the first, here and below. `Trainer` fills up the second axis of
            whatever it is given to that of other processes: frames beyond those of `codes` are no frames.
        depth_logits (`torch.Tensor`, *optional*): `(batch, num_quantizers - 1, num_frames, codebook_size)`.
        codes (`torch.LongTensor`): `(batch, num_quantizers, num_frames)`, -100 where nothing is asked for.
    """
    chosen = logits.argmax(-1)[..., None, : codes.shape[-1]]
    if depth_logits is not None:
        chosen = torch.cat([chosen, depth_logits.argmax(-1)], dim=-2)
    codes = codes[..., : chosen.shape[-2], :]
    is_target = codes != IGNORE_INDEX
    counts = torch.stack([((chosen == codes) & is_target).sum(-1), is_target.sum(-1)], dim=-1)
    return (counts.sum(1) if codes.ndim == 4 else counts).flatten(1).float()


@dataclass
class Metrics:
    """`compute_metrics` on what [`keep_scores`] kept.

    Args:
        answers (`Callable`, *optional*): Returns further scores, at each evaluation.
    """

    answers: Callable[[], dict[str, float]] | None = None

    def __call__(self, prediction: EvalPrediction) -> dict[str, float]:
        """Return `perplexity` and `token_accuracy` where there are tokens, `code_accuracy_0` and so on where there are
        codes, and what `answers` finds."""
        given: Any = prediction.predictions
        rows = np.concatenate(given) if isinstance(given, list) else given
        sums = rows.astype(np.float64).sum(0)
        loss, num_right, num_tokens = sums[:_NUM_TEXT_SCORES].tolist()
        metrics = {}
        if num_tokens:
            mean = loss / num_tokens
            perplexity = math.inf if mean > _LARGEST_EXPONENT else math.exp(mean)
            metrics = {"perplexity": perplexity, "token_accuracy": num_right / num_tokens}
        for index, (right, total) in enumerate(sums[_NUM_TEXT_SCORES:].reshape(-1, 2).tolist()):
            if total:
                metrics[f"code_accuracy_{index}"] = right / total
        return metrics | (self.answers() if self.answers is not None else {})
