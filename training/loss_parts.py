"""`Trainer` support for losses with parts: target counts of a whole update, and a log of each part.

A `Trainer` counts the text tokens of an update, and nothing else; of a model's output it keeps the loss alone. A JOSIE
learns text, first codes, remaining codes and durations at once, in numbers that differ from batch to batch.
"""

import copy
import inspect
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader
from transformers import Trainer, TrainingArguments, get_scheduler
from transformers.trainer_utils import EvalLoopOutput, SchedulerType
from transformers.training_args import OptimizerNames

from .averages import AverageMeter
from .foreign_losses import makes_text_loss, require_handed_on, require_model_loss

_LOSS = "_loss"
_STEPS = 1000  # of a schedule that is tried, where no number is given
# Of `activation_checkpointing_kwargs`: what transformers reads itself, and torch beside the arguments that it names.
_OF_TRANSFORMERS, _OF_TORCH = ("every_n_layers", "offload"), ("preserve_rng_state",)


def accepts(function: Callable[..., Any], name: str) -> bool:
    """Return whether a function takes an argument by this name."""
    parameters = inspect.signature(function).parameters
    return name in parameters or any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())


def check_arguments(arguments: TrainingArguments) -> None:
    """Raise a `ValueError` that names a field which would be passed over."""
    if arguments.use_liger_kernel:
        raise ValueError("`use_liger_kernel` must be False, as no kernels are written for JOSIE's models, got True.")
    if arguments.fp16 and arguments.device.type == "cpu":
        raise ValueError("`fp16` must be False on a CPU, where accelerate leaves float32, got True: `bf16` is obeyed.")
    if getattr(arguments.accelerator_config, "dispatch_batches", None):
        raise ValueError(
            "`accelerator_config` must have `dispatch_batches` of None or False, as a batch has other numbers of clips "
            "and images than of rows, got True."
        )
    check_optimizer(arguments)


def check_optimizer(arguments: TrainingArguments) -> None:
    """Raise a `ValueError` that names a field of how a model learns that would be passed over, or end the training."""
    names, limit = arguments.optim_target_modules, arguments.max_grad_norm
    optimizer = OptimizerNames(arguments.optim).value
    if not arguments.learning_rate >= 0:
        raise ValueError(f"`learning_rate` must be at least 0, got {arguments.learning_rate}.")
    if names is not None and not any(family in optimizer for family in ("galore", "apollo")):
        raise ValueError(f"`optim_target_modules` must be None with `optim` {optimizer!r}, got {names}.")
    if not isinstance(limit, int | float):
        raise ValueError(f"`max_grad_norm` must be a number, 0 for no limit, got {limit!r}.")
    check_optimizer_options(arguments)
    check_schedule(arguments)
    check_checkpointing(arguments)


def check_optimizer_options(arguments: TrainingArguments) -> None:
    """Raise a `ValueError` for `optim_args` that are no pairs, or that the optimizer does not read."""
    given, optimizer = arguments.optim_args, OptimizerNames(arguments.optim).value
    if not given:
        return

    def read(text: str | None) -> Any:
        changed = copy.copy(arguments)
        changed.optim_args = text
        return Trainer.get_optimizer_cls_and_kwargs(changed)

    pairs = [pair.split("=") for pair in given.replace(" ", "").split(",")]
    if not all(len(pair) == 2 and all(pair) for pair in pairs):
        raise ValueError(
            "`optim_args` must be pairs such as 'momentum=0.9,nesterov=true', without commas in a value, got "
            f"{given!r}."
        )
    try:
        without = read(None)
    except (ImportError, ValueError):  # a package or a model is missing: said, or had, where the optimizer is made
        return
    for name, value in pairs:
        try:
            is_read = any(read(f"{name}={other}") != without for other in (value, "0", "1"))  # one may be the default
        except (TypeError, ValueError, AttributeError) as error:
            raise ValueError(
                f"`optim_args` must have values that `optim` {optimizer!r} takes, got {name}={value}: {error}."
            ) from error
        if not is_read:
            raise ValueError(f"`optim_args` must be what `optim` {optimizer!r} reads, got {name!r}, which it does not.")


def check_schedule(arguments: TrainingArguments) -> None:
    """Raise a `ValueError` for `lr_scheduler_kwargs` with which there is no schedule."""
    name, given = SchedulerType(arguments.lr_scheduler_type), arguments.lr_scheduler_kwargs
    num_steps = arguments.max_steps if arguments.max_steps > 0 else _STEPS
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(()))], lr=arguments.learning_rate)
    options: Any = {"num_training_steps": num_steps, "scheduler_specific_kwargs": given}
    try:
        schedule = get_scheduler(name, optimizer, arguments.get_warmup_steps(num_steps), **options)
        for rate_of in getattr(schedule, "lr_lambdas", ()):
            for step in (0, num_steps // 2, num_steps):
                rate_of(step)
    except (TypeError, ValueError, KeyError, AttributeError, ZeroDivisionError) as error:
        raise ValueError(
            f"`lr_scheduler_kwargs` must be what `lr_scheduler_type` {name.value!r} takes, got {given!r}: {error}."
        ) from error


def check_checkpointing(arguments: TrainingArguments) -> None:
    """Raise a `ValueError` for `activation_checkpointing_kwargs` that torch does not take."""
    given: Any = arguments.activation_checkpointing_kwargs
    if given is None:
        return
    named = "`activation_checkpointing_kwargs` (`gradient_checkpointing_kwargs`) must"
    parameters = inspect.signature(checkpoint).parameters.values()
    known = sorted({one.name for one in parameters if one.kind is one.KEYWORD_ONLY} | {*_OF_TRANSFORMERS, *_OF_TORCH})
    if not isinstance(given, dict) or given.keys() - set(known):
        raise ValueError(f"{named} have keys of {known}, got {given!r}.")
    every = given.get("every_n_layers", 1)
    if isinstance(every, bool) or not isinstance(every, int) or every < 1:
        raise ValueError(f"{named} have an `every_n_layers` of at least 1, got {every!r}.")
    try:
        options: Any = {name: value for name, value in given.items() if name not in _OF_TRANSFORMERS}
        checkpoint(torch.neg, torch.zeros((), requires_grad=True), **{"use_reentrant": False} | options)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{named} have values that torch takes, got {given!r}: {error}.") from error


class LossPartsTrainer(Trainer):
    """A `Trainer` that gives the model the number of targets of each kind in an update, and logs the parts of its loss.

    With these numbers accumulated gradients, and gradients of several processes, are those of one big batch, whatever
    each part of it holds. The log has `text_loss`, `talker_loss`, `depth_loss` and `duration_loss`, and evaluations
    have them with their prefix: means over all targets since the last log, of all processes.

    The model has `count_targets(**batch)`, the number of targets of each kind, and `target_names`; bare, compiled or
    inside peft's wrapper.
    """

    _parts_in_training: AverageMeter
    _parts_in_evaluation: AverageMeter
    _has_handed_on = False  # a class of another library

    def prepare_parts(self) -> None:
        """Check the settings, once, before training and evaluation.

        Raises:
            `ValueError`: A model without parts, a loss of the user's or of another kind (TRL's of preferences and
                rewards), several devices in one process, or a setting that would be passed over.
        """
        model: Any = self.model
        if not hasattr(model, "count_targets") or not hasattr(model, "target_names"):
            raise ValueError(
                f"`model` must have `count_targets` and `target_names`, got a {type(model).__name__} without."
            )
        if self.compute_loss_func is not None:
            raise ValueError(
                f"`compute_loss_func` must be None where the model makes its loss, got {self.compute_loss_func}."
            )
        if self.args.n_gpu > 1:
            raise ValueError(
                f"`args` must be for one device a process (`accelerate launch` makes them), got {self.args.n_gpu}."
            )
        require_model_loss(self, super().compute_loss)
        check_arguments(self.args)
        self.model_accepts_loss_kwargs = True
        self._parts_in_training, self._parts_in_evaluation = AverageMeter(), AverageMeter()

    def get_batch_samples(
        self, epoch_iterator: Iterator, num_batches: int, device: torch.device
    ) -> tuple[list, dict[str, torch.Tensor] | None]:
        """Return the batches of an update, and the number of targets of each kind in them."""
        batches, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        return batches, self._count(batches, device)

    def _count(self, batches: list, device: torch.device) -> dict[str, torch.Tensor] | None:
        model: Any = self.model
        counted = [model.count_targets(**batch) for batch in batches]
        # Processes may have other kinds of targets, and have to ask each other for the same numbers.
        names = model.target_names
        zero = torch.zeros((), dtype=torch.long, device=device)
        total: Any = torch.stack(
            [sum((counts.get(name, zero).to(device) for counts in counted), zero) for name in names]
        )
        if self.args.average_tokens_across_devices and self.args.world_size > 1:
            total = self.accelerator.reduce(total, "sum")
        # As the Trainer does where several devices have the same batch.
        total = total / (self.get_tp_size() * self.get_cp_size() * self.get_sp_size())
        return dict(zip(names, total, strict=True)) if batches else None

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """Return the loss, and keep its parts for the next log.

        Raises:
            `ValueError`: Labels are smoothed, and the batch has speech; or the class of another library drops what the
                model learns.
        """
        learned: Any = self.model
        is_training = isinstance(num_items_in_batch, dict)
        num_items: Any = num_items_in_batch if is_training else self._count([inputs], self.args.device)
        own = learned.count_targets(**inputs)
        computed: Any = (
            self._compute(model, inputs, num_items)
            if self.label_smoother is None
            else self._smooth(model, inputs, own, num_items)
        )
        loss, outputs = computed
        counts = {name: own[name] for name in own if outputs.get(f"{name}{_LOSS}") is not None}
        # Divided by the number of the whole update, they are not yet means of their own.
        means = {
            name: outputs[f"{name}{_LOSS}"].detach() * num_items[name].clamp(min=1) / count.clamp(min=1)
            for name, count in counts.items()
        }
        averages = self._parts_in_training if learned.training else self._parts_in_evaluation
        averages.add(*({f"{name}{_LOSS}": value for name, value in some.items()} for some in (means, counts)))
        return (loss, outputs) if return_outputs else loss

    def _compute(self, model: nn.Module, inputs: dict[str, Any], num_items: Any) -> Any:
        """Return the model's loss, by the class's own method where it has one that keeps it, and the outputs."""
        learned: Any = self.model
        foreign: Any = super().compute_loss
        if foreign.__func__ is Trainer.compute_loss or makes_text_loss(foreign):
            return Trainer.compute_loss(self, model, inputs, True, num_items)
        if accepts(learned.forward, "skip_logits"):
            inputs = {"skip_logits": False, **inputs}  # another class may read them
        if self._has_handed_on:
            return foreign(model, inputs, True, num_items)
        with require_handed_on(self, learned):
            computed = foreign(model, inputs, True, num_items)
        self._has_handed_on = True
        return computed

    def _smooth(
        self, model: nn.Module, inputs: dict[str, Any], own: dict[str, torch.Tensor], num_items: dict[str, torch.Tensor]
    ) -> tuple[torch.Tensor, Any]:
        """Return the smoothed loss of the text, each position against the next token, and the outputs."""
        spoken = sorted(name for name, count in own.items() if name != "text" and bool(count))
        if spoken or "labels" not in inputs:
            raise ValueError(
                f"`label_smoothing_factor` must be 0 where speech is learned, got {self.args.label_smoothing_factor} "
                f"and a batch with targets of {spoken}."
            )
        batch: dict[str, Any] = {name: value for name, value in inputs.items() if name != "labels"}
        outputs = model(**batch, **({"skip_logits": False} if accepts(self.model.forward, "skip_logits") else {}))
        count = num_items["text"].clamp(min=1)
        smoother: Any = self.label_smoother
        loss = smoother(outputs, inputs["labels"], shift_labels=True, num_items_in_batch=count)
        if self.args.average_tokens_across_devices:
            loss = loss * (self.accelerator.num_processes // self.get_tp_size())
        return loss, outputs

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log, in training together with the parts of the loss since the last log."""
        if "loss" in logs:
            logs |= self._parts_in_training.pop(self.accelerator.num_processes)
        super().log(logs, start_time)

    def evaluation_loop(
        self,
        dataloader: DataLoader,
        description: str,
        prediction_loss_only: bool | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> EvalLoopOutput:
        """Evaluate, with the parts of the loss among the metrics."""
        self._parts_in_evaluation = AverageMeter()
        output = super().evaluation_loop(dataloader, description, prediction_loss_only, ignore_keys, metric_key_prefix)
        parts = self._parts_in_evaluation.pop(self.accelerator.num_processes)
        named = {f"{metric_key_prefix}_{name}": value for name, value in parts.items()}
        return output._replace(metrics={**(output.metrics or {}), **named})


class LossParts:
    """The parts of the loss for a `Trainer` of another class. [`JosieTrainer`] has them by itself.

    `SFTTrainer` of TRL, which by itself learns text alone, learns speech too then: its loss is the model's.
    """

    @staticmethod
    def attach(trainer: Trainer) -> Trainer:
        """Make the class of a trainer a [`LossPartsTrainer`] too; before training and evaluation.

        Args:
            trainer (`Trainer`): Of any class.

        Returns:
            The trainer.

        Raises:
            `ValueError`: As of [`LossPartsTrainer.prepare_parts`]; at the first batch, if its `compute_loss` does not
                hand `num_items_in_batch` on to the model.
        """
        if not isinstance(trainer, LossPartsTrainer):
            trainer.__class__ = type(type(trainer).__name__, (LossPartsTrainer, type(trainer)), {})
        trainer.prepare_parts()
        return trainer
