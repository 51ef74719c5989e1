"""A training step of a model of any family: every trainable parameter gets a finite gradient."""

from typing import Any

import numpy as np
import torch
from torch import nn

TEXTS = ("A red ball lies on the table.", "A ball")
MEDIA = {"audio": "audio_token", "vision": "image_token"}


def perturb(model: nn.Module) -> None:
    """Add noise to all parameters, so that none is constant: biases, norms and scales start so, and hide faults."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.01 * torch.randn_like(parameter))


def make_batch(processor: Any, part: str) -> dict[str, Any]:
    """Return two rows of text with labels, padded on the left.

    Args:
        processor ([`JosieProcessor`]): Of the model.
        part (`str`): `"audio"` and `"vision"` put a clip or an image into each row.
    """
    random = np.random.default_rng(0)
    media: dict[str, Any] = {}
    if part == "vision":
        media["images"] = [[random.integers(0, 256, (48, 48, 3), dtype=np.uint8)] for _ in TEXTS]
    elif part == "audio":
        media["audio"] = [random.normal(0, 0.1, 400).astype(np.float32) for _ in TEXTS]
        media["sampling_rate"] = processor.feature_extractor.sampling_rate
    texts = [f"{getattr(processor, MEDIA[part])} {text}" if media else text for text in TEXTS]
    batch = dict(processor(text=texts, **media))
    return batch | {"labels": batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)}


def find_failures(model: Any, batch: dict[str, Any]) -> dict[str, str]:
    """Go forward and back on one batch; return trainable parameters by name, whose gradient is none or not finite."""
    model.train()
    model(**batch).loss.backward()
    failures = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and parameter.grad is None:
            failures[name] = "has no gradient"
        elif parameter.grad is not None and not parameter.grad.isfinite().all():
            failures[name] = "has a gradient that is not finite"
    return failures
