"""Target counts and cross-entropies for text tokens, first codes and remaining codes.

A loss is a sum over targets, divided by their number. Where a batch is split, over accumulated gradients or over
processes, that divisor has to be the number in the whole batch, `num_items_in_batch`. transformers' `Trainer` counts
text tokens alone; [`LossParts`] counts each kind of target.
"""

from collections.abc import Mapping

import torch
from torch import nn
from transformers.utils import torch_compilable_check

from ...configuration_josie.constants import IGNORE_INDEX

# Targets in the whole batch: the number of each kind (`text`, `talker`, `depth`, `duration`), or of text tokens alone.
NumItems = torch.Tensor | int | Mapping[str, torch.Tensor] | None


def count_text_tokens(labels: torch.Tensor) -> torch.Tensor:
    """Return the number of learned text tokens.

    Args:
        labels (`torch.LongTensor`): `(..., length)`, not shifted; nothing predicts the first position.
    """
    return (labels[..., 1:] != IGNORE_INDEX).sum()


def count_codes(speech_codes: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return the number of learned codes of each loss of the Talker.

    Args:
        speech_codes (`torch.LongTensor`): `(..., num_quantizers, num_frames)`.

    Returns:
        `talker`, first codes; `depth`, remaining codes; `duration`, frames: the duration loss is in frames and shares
        the count of the first codes.
    """
    learned = speech_codes != IGNORE_INDEX
    num_frames = learned[..., 0, :].sum()
    return {"talker": num_frames, "depth": learned[..., 1:, :].sum(), "duration": num_frames}


def target_loss(logits: torch.Tensor, targets: torch.Tensor, num_items: torch.Tensor | None = None) -> torch.Tensor:
    """Return the cross-entropy of the targets that are not -100, without a shift; 0 without targets.

    Args:
        logits (`torch.Tensor`): `(..., num_classes)`.
        targets (`torch.LongTensor`): `(...)`.
        num_items (`torch.Tensor`, *optional*): Divisor of the sum; the number of `targets` when `None`.
    """
    losses = nn.functional.cross_entropy(
        logits.flatten(0, -2).float(), targets.flatten(), ignore_index=IGNORE_INDEX, reduction="sum"
    )
    num_items = (targets != IGNORE_INDEX).sum() if num_items is None else num_items.to(losses.device)
    return losses / num_items.clamp(min=1)


def text_loss_divisor(num_items: NumItems, labels: torch.Tensor) -> torch.Tensor | int:
    """Return the divisor of the summed text loss, at least 1.

    Args:
        num_items: Targets in the whole batch; those of `labels` count when `None`.
        labels (`torch.LongTensor`): `(batch, length)`, not shifted.
    """
    num_items = num_items["text"] if isinstance(num_items, Mapping) else num_items
    if num_items is None:
        num_items = count_text_tokens(labels)
    return num_items.clamp(min=1) if isinstance(num_items, torch.Tensor) else max(num_items, 1)


def code_loss_divisors(
    num_items: NumItems, labels: torch.Tensor | None, speech_codes: torch.Tensor
) -> dict[str, torch.Tensor] | None:
    """Return the divisors of the summed losses of codes, by the names of [`count_codes`].

    The number of text tokens alone does not tell the number of codes. Then each part of a batch gives the mean of its
    own codes, and the means are averaged with its share of the text tokens as weight.

    Args:
        num_items: Targets in the whole batch.
        labels (`torch.LongTensor`, *optional*): `(batch, length)`, not shifted.
        speech_codes (`torch.LongTensor`): `(batch, num_quantizers, num_frames)`.

    Returns:
        The divisors; `None` for the numbers of `speech_codes` themselves.

    Raises:
        `ValueError`: `num_items` is a number of text tokens, and `labels` have none to learn.
    """
    if num_items is None or isinstance(num_items, Mapping):
        return None if num_items is None else {name: num_items[name] for name in ("talker", "depth", "duration")}
    own = count_text_tokens(labels) if labels is not None else torch.zeros((), device=speech_codes.device)
    torch_compilable_check(
        own > 0,
        "`labels` must have a token to learn beside `speech_codes`, as `num_items_in_batch` counts text tokens alone, "
        "got none: a `Trainer` takes them away with `label_smoothing_factor`, which must be 0 where speech is learned; "
        "where rows are spoken alone, `JosieTrainer` counts codes too.",
    )
    return {name: count.clamp(min=1) * (num_items / own) for name, count in count_codes(speech_codes).items()}


def choose_frames(targets: torch.Tensor, fraction: float) -> tuple[torch.Tensor, float]:
    """Choose frames to learn from, at random, among those with a target.

    One frame is chosen even where none has a target, so that every parameter takes part.

    Args:
        targets (`torch.LongTensor`): `(num_frames, num_levels)`, -100 where nothing is learned.
        fraction (`float`): Share of the frames, in (0, 1].

    Returns:
        Rows of `targets`, `(chosen,)`, and the factor from a sum over them to the expected sum over all.
    """
    learned = (targets != IGNORE_INDEX).any(dim=1).nonzero()[:, 0]  # waits for the device, once a batch
    count = learned.shape[0]
    if count == 0:
        return torch.zeros(1, dtype=torch.long, device=targets.device), 1.0
    if fraction == 1:
        return learned, 1.0
    chosen = max(round(fraction * count), 1)
    order = torch.randperm(count, device=targets.device)[:chosen]
    return learned[order.sort().values], count / chosen
