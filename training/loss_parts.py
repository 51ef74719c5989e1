"""What a plain `Trainer` does not know of losses that have parts: how many targets each has, and what each comes to.

The `Trainer` counts the words to learn in the batches that one update is made of, and nothing else; and it throws
away all that a model returns but the loss.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from .averages import AverageMeter

_LOSS = "_loss"


class LossParts(TrainerCallback):
    """Gives a model the number of targets of each kind in the batches of an update, and logs the parts of its loss.

        trainer = Trainer(model, arguments, train_dataset=..., data_collator=...)
        LossParts.attach(trainer)

    With the numbers, gradients that are accumulated, and gradients of several processes, are those of one big batch,
    whatever each part of it holds. What is logged of a part (`text_loss`, `talker_loss`, `depth_loss`; in evaluations
    with their prefix) is its mean over all targets since the last log, of all processes.

    Args:
        trainer (`Trainer`): Of any class, training a model with `count_targets`, bare or inside an adapter's.

    Raises:
        `ValueError`: The Trainer makes the loss itself, or splits batches over devices of one process.
    """

    def __init__(self, trainer: Trainer):
        args: Any = trainer.args
        for name, value, plain in (
            ("label_smoothing_factor", args.label_smoothing_factor, 0),
            ("compute_loss_func", trainer.compute_loss_func, None),
        ):
            if value != plain:
                raise ValueError(f"`{name}` must be {plain} where the model makes the parts of its loss, got {value}.")
        if args.n_gpu > 1:
            raise ValueError(f"`trainer` must run one process a device, got one for {args.n_gpu}.")
        self._trainer: Any = trainer
        self._get_batch_samples: Any = trainer.get_batch_samples
        self._compute_loss: Any = trainer.compute_loss
        self._training, self._evaluation = AverageMeter(), AverageMeter()

    @classmethod
    def attach(cls, trainer: Trainer) -> "LossParts":
        """Make `trainer` use it; before training or evaluating."""
        parts = cls(trainer)
        attached: Any = trainer
        attached.get_batch_samples, attached.compute_loss = parts.get_batch_samples, parts.compute_loss
        attached.model_accepts_loss_kwargs = True
        attached.callback_handler.callbacks.insert(0, parts)  # whoever reports logs comes after who completes them
        return parts

    def get_batch_samples(
        self, epoch_iterator: Iterator, num_batches: int, device: torch.device
    ) -> tuple[list, dict[str, torch.Tensor] | None]:
        """Return the batches of an update, as the `Trainer` does, and how many targets of each kind they have."""
        batches, _ = self._get_batch_samples(epoch_iterator, num_batches, device)
        return batches, self._count(batches, device)

    def _count(self, batches: list, device: torch.device) -> dict[str, torch.Tensor] | None:
        trainer = self._trainer
        counted = [trainer.model.count_targets(**batch) for batch in batches]
        # Processes may have other kinds of targets, and have to ask each other for the same numbers.
        names = trainer.model.target_names
        zero = torch.zeros((), dtype=torch.long, device=device)
        total = torch.stack([sum((counts.get(name, zero).to(device) for counts in counted), zero) for name in names])
        if trainer.args.average_tokens_across_devices and trainer.args.world_size > 1:
            total = trainer.accelerator.reduce(total, "sum")
        # As the Trainer does where several devices have the same batch.
        total = total / (trainer.get_tp_size() * trainer.get_cp_size() * trainer.get_sp_size())
        return dict(zip(names, total, strict=True)) if batches else None

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """Return the loss as the `Trainer` does, and remember its parts until they are logged."""
        if not isinstance(num_items_in_batch, dict):  # an evaluation
            num_items_in_batch = self._count([inputs], self._trainer.args.device)
        own = self._trainer.model.count_targets(**inputs)
        loss, outputs = self._compute_loss(model, inputs, True, num_items_in_batch)
        counts = {name: own[name] for name in own if outputs.get(f"{name}{_LOSS}") is not None}
        # Divided by the number of the whole update, they are not yet means of their own.
        means = {
            name: outputs[f"{name}{_LOSS}"].detach() * num_items_in_batch[name].clamp(min=1) / count.clamp(min=1)
            for name, count in counts.items()
        }
        averages = self._training if self._trainer.model.training else self._evaluation
        averages.add(*({f"{name}{_LOSS}": value for name, value in some.items()} for some in (means, counts)))
        return (loss, outputs) if return_outputs else loss

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ):
        """Add the parts to what is logged of training, and of an evaluation."""
        logs = {} if logs is None else logs
        losses = [name for name in logs if name == "loss" or name.endswith("_loss")]
        if not losses or "train_loss" in losses:  # the summary at the end
            return
        prefix = min(losses, key=len).removesuffix("loss")
        averages = (self._evaluation if prefix else self._training).pop(self._trainer.accelerator.num_processes)
        parts = {f"{prefix}{name}": value for name, value in averages.items()}
        logs |= parts
        state.log_history[-1] |= parts

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any):
        """Begin anew."""
        self._training = AverageMeter()

    def on_predict(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any):
        """Forget the parts of a prediction, which nobody logs."""
        self._evaluation = AverageMeter()
