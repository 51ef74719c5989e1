"""What a batch is to teach: words, first codes of frames, and further codes; counted, and lost by.

A loss is a sum over targets, divided by how many there are. Of a batch that is split in parts, over accumulated
gradients or over processes, that number has to be the whole batch's: `num_items_in_batch`. transformers' `Trainer`
gives one number, of the words; [`LossParts`] gives it a number for each kind of target.
"""

from collections.abc import Mapping

import torch
from torch import nn
from transformers.utils import torch_compilable_check

IGNORE = -100
# For each kind of target its number in the whole batch; or of the words alone.
NumItems = torch.Tensor | int | Mapping[str, torch.Tensor] | None


def count_words(labels: torch.Tensor) -> torch.Tensor:
    """Return how many labels `(..., length)` are learned: the first position is predicted from nothing."""
    return (labels[..., 1:] != IGNORE).sum()


def count_codes(speech_codes: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return how many codes `(batch, num_quantizers, num_frames)` the head and the depth decoder learn.

    Durations are lost by in frames, and count as often as the head.
    """
    learned = speech_codes != IGNORE
    num_frames = learned[:, 0].sum()
    return {"talker": num_frames, "depth": learned[:, 1:].sum(), "duration": num_frames}


def target_loss(logits: torch.Tensor, targets: torch.Tensor, num_items: torch.Tensor | None = None) -> torch.Tensor:
    """Return the cross-entropy of the targets that are not -100, nothing shifted; 0 where all are.

    Args:
        logits (`torch.Tensor`): `(..., num_classes)`.
        targets (`torch.LongTensor`): `(...)`.
        num_items (`torch.Tensor`, *optional*): What their sum is divided by; their own number when `None`.
    """
    losses = nn.functional.cross_entropy(
        logits.flatten(0, -2).float(), targets.flatten(), ignore_index=IGNORE, reduction="sum"
    )
    num_items = (targets != IGNORE).sum() if num_items is None else num_items.to(losses.device)
    return losses / num_items.clamp(min=1)


def num_words(num_items: NumItems, labels: torch.Tensor) -> torch.Tensor | int:
    """Return what the loss of words is divided by: their number in the whole batch, or in `labels` when `None`."""
    num_items = num_items["text"] if isinstance(num_items, Mapping) else num_items
    if num_items is None:
        num_items = count_words(labels)
    return num_items.clamp(min=1) if isinstance(num_items, torch.Tensor) else max(num_items, 1)


def num_codes(
    num_items: NumItems, labels: torch.Tensor | None, speech_codes: torch.Tensor
) -> dict[str, torch.Tensor] | None:
    """Return what the losses of codes are divided by; `None` for their own number.

    From the number of the words alone nobody can tell that of the codes: then the means of the parts of a batch are
    averaged, a part with more of the words counting for more.

    Raises:
        `ValueError`: There is the number of the words, and this part of the batch has none.
    """
    if num_items is None or isinstance(num_items, Mapping):
        return None if num_items is None else {name: num_items[name] for name in ("talker", "depth", "duration")}
    own = count_words(labels) if labels is not None else torch.zeros((), device=speech_codes.device)
    torch_compilable_check(
        own > 0,
        "`labels` must have a word to learn beside `speech_codes`, as `num_items_in_batch` counts words alone, got "
        "none: `LossParts.attach(trainer)` counts codes too.",
    )
    return {name: count.clamp(min=1) * (num_items / own) for name, count in count_codes(speech_codes).items()}


def choose_frames(targets: torch.Tensor, fraction: float) -> tuple[torch.Tensor, float]:
    """Choose frames to learn from, at random, among those with something to learn.

    One of the batch's frames is there even if nothing is learned from it, so that every parameter takes part.

    Args:
        targets (`torch.LongTensor`): `(num_frames, num_levels)`, -100 where nothing is learned.
        fraction (`float`): How many of them, in (0, 1].

    Returns:
        Rows of `targets`, `(chosen,)`, and by how much a sum over them is smaller than over all, on average.
    """
    learned = (targets != IGNORE).any(dim=1).nonzero()[:, 0]  # waits for the device, once a batch
    count = learned.shape[0]
    if count == 0:
        return torch.zeros(1, dtype=torch.long, device=targets.device), 1.0
    if fraction == 1:
        return learned, 1.0
    chosen = max(round(fraction * count), 1)
    order = torch.randperm(count, device=targets.device)[:chosen]
    return learned[order.sort().values], count / chosen
