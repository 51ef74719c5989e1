"""A stand-in for TRL, which the tests do not need.

Its `SFTTrainer` runs a model for its states and makes the loss of the text by itself: what else the model learns is
dropped.
"""

import functools
from dataclasses import dataclass
from types import FunctionType, MethodType
from typing import Any

import torch
from torch.nn import functional
from transformers import Trainer, TrainingArguments


@dataclass
class SFTConfig(TrainingArguments):
    """Settings that TRL adds, and tests use.

    Args:
        dataset_kwargs (`dict`, *optional*): How rows are prepared; here they never are.
        loss_type (`str`): The loss of the text.
    """

    dataset_kwargs: dict[str, Any] | None = None
    loss_type: str = "nll"


class SFTTrainer(Trainer):
    """A trainer of text alone."""

    aux_loss_enabled, router_aux_loss_coef = False, 0.0

    def __init__(self, model, *args, **kwargs):
        super().__init__(model, *args, **kwargs)
        core = model.get_base_model() if hasattr(model, "get_base_model") else model
        core.forward = MethodType(_around(core.forward), core)

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """Return the loss of the text, as a share of the number of tokens in an update."""
        inputs["use_cache"] = False
        outputs = model(**{name: value for name, value in inputs.items() if name != "labels"})
        labels = inputs["labels"][:, 1:]
        logits = model.get_output_embeddings()(outputs.last_hidden_state[:, :-1])
        total = functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=-100, reduction="sum")
        count = (labels != -100).sum() if num_items_in_batch is None else num_items_in_batch
        loss = total / torch.as_tensor(count).clamp(min=1)
        return (loss, outputs) if return_outputs else loss


class DPOTrainer(Trainer):
    """A trainer whose loss is no model's."""

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """Refuse to be called, as no test gets so far."""
        raise NotImplementedError


def _around(forward: Any) -> Any:
    """Return a function of TRL's module around a model's `forward`."""

    def fused(self: Any, *args: Any, **kwargs: Any) -> Any:
        return forward(*args, **kwargs)

    own = FunctionType(fused.__code__, globals() | {"__name__": "trl.trainer"}, closure=fused.__closure__)
    return functools.wraps(forward.__func__)(own)


for method in (SFTTrainer.compute_loss, DPOTrainer.compute_loss):
    method.__module__ = "trl.trainer"
