"""Training of codecs: a `Trainer` that logs what codecs are watched by, and trains them against discriminators.

With a discriminator each step has two sides, with an optimizer and a scheduler each. Both sides of a step see the same
discriminator: it is updated when the codec is, after both have their gradients, so that one pass over the real
waveforms serves both.
"""

import inspect
import os
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel, TrainingArguments, default_data_collator, get_scheduler
from transformers.trainer_utils import EvalLoopOutput, SchedulerType
from transformers.utils import ModelOutput, logging

from ..modeling_josie.codecs.discriminators import adversarial_loss, discriminator_loss, feature_loss
from .averages import AverageMeter
from .data_workers import LastingWorkersTrainer
from .loss_parts import check_optimizer

logger = logging.get_logger(__name__)

# What there is for a discriminator alone, by its default.
_ADVERSARIAL: dict[str, Any] = {
    "adversarial_start_step": 0,
    "adversarial_weight": 1.0,
    "feature_weight": 2.0,
    "discriminator_learning_rate": None,
}
# Schedules that go by what is evaluated.
_OF_METRICS = (SchedulerType.REDUCE_ON_PLATEAU, SchedulerType.GREEDY)
# Of checkpoints: the folder of the discriminator's weights, and what is in it beside them.
DISCRIMINATOR_FOLDER = "discriminator"
_OPTIMIZER_FILE, _SCHEDULER_FILE, _SCALER_FILE = "optimizer.pt", "scheduler.pt", "scaler.pt"


@dataclass
class CodecTrainingArguments(TrainingArguments):
    """Arguments of [`CodecTrainer`] beside those of `TrainingArguments`; all are for training with a discriminator.

    Args:
        adversarial_start_step (`int`): The step at which the discriminator begins to learn and to be listened to.
        adversarial_weight (`float`): Weight of the loss of not being taken for real.
        feature_weight (`float`): Weight of feature matching.
        discriminator_learning_rate (`float`, *optional*): That of the codec when `None`.
    """

    adversarial_start_step: int = field(default=0, metadata={"help": "Step at which the discriminator begins."})
    adversarial_weight: float = field(default=1.0, metadata={"help": "Weight of the adversarial loss."})
    feature_weight: float = field(default=2.0, metadata={"help": "Weight of feature matching."})
    discriminator_learning_rate: float | None = field(
        default=None, metadata={"help": "Learning rate of the discriminator; that of the codec when None."}
    )

    def __post_init__(self):
        super().__post_init__()
        for name in _ADVERSARIAL:
            value = getattr(self, name)
            if value is not None and value < 0:
                raise ValueError(f"`{name}` must be at least 0, got {value}.")


def check_discriminator(arguments: TrainingArguments, discriminator: Any, optimizer: Any = None) -> None:
    """Raise a `ValueError` that names a setting which would be passed over with this discriminator, or without one.

    Args:
        arguments (`TrainingArguments`): Of the training.
        discriminator ([`JodioDiscriminatorModel`], *optional*): Judges the codec.
        optimizer (`torch.optim.Optimizer`, *optional*): Of the discriminator.
    """
    given = isinstance(arguments, CodecTrainingArguments)
    if discriminator is None:
        if optimizer is not None:
            raise ValueError("`discriminator_optimizer` must be None without a `discriminator`, got one.")
        for name, default in _ADVERSARIAL.items() if given else ():
            value = getattr(arguments, name)
            if value != default:
                raise ValueError(f"`{name}` must be {default} without a `discriminator`, got {value}.")
        return
    if not given:
        raise ValueError(
            f"`args` must be CodecTrainingArguments when there is a `discriminator`, got {type(arguments).__name__}."
        )
    schedule = SchedulerType(arguments.lr_scheduler_type)
    if schedule in _OF_METRICS:
        raise ValueError(
            "`lr_scheduler_type` must be one that depends on the step alone when there is a `discriminator`, of which "
            f"nothing is evaluated, got {schedule.value!r}."
        )
    rate: Any = arguments.discriminator_learning_rate
    if optimizer is not None and rate is not None:
        raise ValueError(
            f"`discriminator_learning_rate` must be None with a `discriminator_optimizer`, which has one, got {rate}."
        )


class CodecTrainer(LastingWorkersTrainer):
    """A `Trainer` for codecs, with or without a discriminator.

    It logs every named loss as `loss_NAME`, and for each quantizer `perplexity_I` and the share of the codebook that a
    batch uses, `usage_I`: averages since the last log, over all processes; and the same of evaluations. A checkpoint
    holds the discriminator, its optimizer and its scheduler in a folder `discriminator`; a resumed run goes on exactly
    as the first would have, given examples that depend on nothing but their place and epoch.

    Args:
        model (`PreTrainedModel`): A codec whose output has `loss`, `losses`, `perplexity`, `usage`, and for a
            discriminator `audio_values` in training mode.
        args ([`CodecTrainingArguments`], *optional*): `TrainingArguments` do without a discriminator.
        discriminator ([`JodioDiscriminatorModel`], *optional*): Judges `input_values` and `audio_values`.
        discriminator_optimizer (`torch.optim.Optimizer`, *optional*): AdamW with betas of .8 and .99 when `None`.
        kwargs: As of `Trainer`.

    Raises:
        `ValueError`: A discriminator with arguments of another class, under DeepSpeed or FSDP, or with a schedule that
            depends on evaluations; a setting that would be passed over; and in training, a discriminator for a codec
            without `audio_values`.
    """

    def __init__(
        self,
        model: PreTrainedModel | nn.Module | None = None,
        args: TrainingArguments | None = None,
        *,
        discriminator: PreTrainedModel | None = None,
        discriminator_optimizer: torch.optim.Optimizer | None = None,
        **kwargs: Any,
    ):
        args = CodecTrainingArguments() if args is None else args
        check_discriminator(args, discriminator, discriminator_optimizer)
        check_optimizer(args)
        # A feature extractor to save with each checkpoint is not to pad what is as long already.
        kwargs.setdefault("data_collator", default_data_collator)
        super().__init__(model, args, **kwargs)
        if discriminator is not None and (self.is_deepspeed_enabled or self.is_fsdp_enabled):
            raise ValueError("`discriminator` must be None under DeepSpeed and FSDP, got one.")
        self.discriminator: Any = discriminator
        self.discriminator_wrapped: Any = None
        self.discriminator_optimizer = discriminator_optimizer
        self.discriminator_scheduler: torch.optim.lr_scheduler.LRScheduler | None = None
        self.discriminator_scaler: torch.amp.GradScaler | None = None
        self.accepts_return_loss = "return_loss" in inspect.signature(self.model.forward).parameters
        self._training_averages = AverageMeter()
        self._evaluation_averages = AverageMeter()

    @property
    def is_adversarial(self) -> bool:
        """Whether this step trains against the discriminator."""
        return self.discriminator is not None and self.state.global_step >= self.args.adversarial_start_step

    def create_scheduler(
        self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None
    ) -> torch.optim.lr_scheduler.LRScheduler:
        """Set up the codec's scheduler, and the discriminator with all that trains it."""
        if self.discriminator is not None:
            self._prepare_discriminator(num_training_steps)
        return super().create_scheduler(num_training_steps, optimizer)

    def _prepare_discriminator(self, num_training_steps: int) -> None:
        args: Any = self.args
        discriminator: Any = self.discriminator
        discriminator.to(args.device).train().requires_grad_(True)
        # Another loss scale than the codec's: the two are updated one after the other.
        fp16 = self.accelerator.mixed_precision == "fp16"
        self.discriminator_scaler = torch.amp.GradScaler(args.device.type, enabled=fp16)
        self.discriminator_wrapped = self.accelerator.prepare_model(discriminator)
        if self.discriminator_optimizer is None:
            learning_rate = args.learning_rate
            if args.discriminator_learning_rate is not None:
                learning_rate = args.discriminator_learning_rate
            self.discriminator_optimizer = torch.optim.AdamW(
                discriminator.parameters(), learning_rate, betas=(0.8, 0.99), weight_decay=0.0
            )
        num_steps = max(num_training_steps - args.adversarial_start_step, 1)
        self.discriminator_scheduler = get_scheduler(
            args.lr_scheduler_type,
            self.discriminator_optimizer,
            num_warmup_steps=args.get_warmup_steps(num_steps),
            num_training_steps=num_steps,
            scheduler_specific_kwargs=args.lr_scheduler_kwargs,
        )

    def training_step(
        self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: torch.Tensor | int | None = None
    ) -> torch.Tensor:
        """Compute the gradients of one batch; with the last batch of a step update the discriminator."""
        loss = super().training_step(model, inputs, num_items_in_batch)
        if self.is_adversarial and self.accelerator.sync_gradients:
            self._update_discriminator()
        return loss

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> torch.Tensor | tuple[torch.Tensor, Any]:
        """Return the loss of the codec, when training with what the discriminator adds; it learns on the way."""
        training = self.model.training
        if self.accepts_return_loss:
            inputs = {**inputs, "return_loss": True}
        computed: Any = super().compute_loss(model, inputs, True, num_items_in_batch)
        loss, outputs = computed
        if self.discriminator is not None and training and outputs.audio_values is None:
            raise ValueError(
                "`discriminator` must be None for a codec that makes no `audio_values` in training, got one."
            )
        values = self._read_values(outputs)
        if training and self.is_adversarial:
            parts = self._judge(inputs["input_values"], outputs.audio_values, inputs.get("padding_mask"))
            adversarial, features = parts["loss_adversarial"], parts["loss_feature"]
            loss = loss + self.args.adversarial_weight * adversarial + self.args.feature_weight * features
            values |= parts
        (self._training_averages if training else self._evaluation_averages).add(values)
        return (loss, outputs) if return_outputs else loss

    def _read_values(self, outputs: ModelOutput) -> dict[str, torch.Tensor]:
        """Return what is logged of a codec's output, by name."""
        values = {f"loss_{name}": loss for name, loss in (outputs.get("losses") or {}).items()}
        return values | {name: outputs[name] for name in ("usage", "perplexity") if outputs.get(name) is not None}

    def _judge(
        self, input_values: torch.Tensor, audio_values: torch.Tensor, padding_mask: torch.Tensor | None
    ) -> dict[str, torch.Tensor]:
        """Give the discriminator its gradients and return the codec's two losses, and that of the discriminator."""
        lengths = None
        if padding_mask is not None:
            lengths = padding_mask.sum(-1).repeat(2)
            input_values = input_values * padding_mask[:, None]
        loss_type: Any = getattr(self.discriminator.config, "loss_type", "hinge")
        input_values = input_values.to(audio_values.dtype)
        self.discriminator.requires_grad_(True)
        wait = not self.accelerator.sync_gradients
        with self.accelerator.no_sync(self.discriminator_wrapped) if wait else nullcontext():
            both = self.discriminator_wrapped(torch.cat((input_values, audio_values.detach())), lengths=lengths)
            masks = tuple(mask.chunk(2)[0] for mask in both.masks)
            real, decoded = (tuple(item.chunk(2)[side] for item in both.logits) for side in (0, 1))
            loss = discriminator_loss(real, decoded, masks, loss_type)
            self.discriminator_scaler.scale(loss / self.current_gradient_accumulation_steps).backward()
        # The codec's gradients pass through the discriminator and leave none in it.
        self.discriminator.requires_grad_(False)
        lengths = None if lengths is None else lengths[: len(input_values)]
        judged = self.discriminator(audio_values, lengths=lengths)
        features = tuple(tuple(item.chunk(2)[0].detach() for item in items) for items in both.features)
        return {
            "loss_adversarial": adversarial_loss(judged.logits, judged.masks, loss_type),
            "loss_feature": feature_loss(features, judged.features, judged.masks),
            "loss_discriminator": loss.detach(),
        }

    def _update_discriminator(self) -> None:
        optimizer: Any = self.discriminator_optimizer
        scaler: Any = self.discriminator_scaler
        scaler.unscale_(optimizer)
        limit = self.args.max_grad_norm if self.args.max_grad_norm > 0 else float("inf")
        norm = nn.utils.clip_grad_norm_(self.discriminator.parameters(), limit)
        self._training_averages.add({"discriminator_grad_norm": norm})
        scale = scaler.get_scale()
        scaler.step(optimizer)
        scaler.update()
        if scaler.get_scale() >= scale:  # else the gradients overflowed and nothing was updated
            self.discriminator_scheduler.step()
        optimizer.zero_grad()

    def prediction_step(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        prediction_loss_only: bool,
        ignore_keys: list[str] | None = None,
    ) -> tuple[torch.Tensor | None, Any, Any]:
        """Return the loss of one batch; a codec that gives none in evaluation is treated as by `Trainer`."""
        if not (prediction_loss_only and self.accepts_return_loss):
            return super().prediction_step(model, inputs, prediction_loss_only, ignore_keys)
        inputs = self._prepare_inputs(inputs)
        with torch.no_grad(), self.compute_loss_context_manager():
            loss = self.compute_loss(model, inputs)
        return loss.detach().mean(), None, None

    def evaluation_loop(self, dataloader: Any, description: str, *args: Any, **kwargs: Any) -> EvalLoopOutput:
        """Evaluate as `Trainer` does, and put the averages of all that is logged among the metrics."""
        self._evaluation_averages = AverageMeter()
        output = super().evaluation_loop(dataloader, description, *args, **kwargs)
        prefix = kwargs.get("metric_key_prefix", args[2] if len(args) > 2 else "eval")
        averages = self._evaluation_averages.pop(self.accelerator.num_processes)
        metrics = {f"{prefix}_{name}": value for name, value in averages.items()}
        return output._replace(metrics={**(output.metrics or {}), **metrics})

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log, during training together with the averages since the last time."""
        if "loss" in logs:
            logs |= self._training_averages.pop(self.accelerator.num_processes)
            if self.is_adversarial and self.discriminator_scheduler is not None:
                logs["discriminator_learning_rate"] = float(self.discriminator_scheduler.get_last_lr()[0])
        super().log(logs, start_time)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        super()._save_optimizer_and_scheduler(output_dir)
        if self.discriminator is None or not self.args.should_save:
            return
        folder = os.path.join(output_dir, DISCRIMINATOR_FOLDER)
        self.discriminator.save_pretrained(folder)
        for name, part in self._discriminator_states().items():
            torch.save(part.state_dict(), os.path.join(folder, name))

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        if self.discriminator is None or checkpoint is None:
            return
        folder = Path(checkpoint, DISCRIMINATOR_FOLDER)
        if not folder.is_dir():
            logger.warning(f"{checkpoint} has no discriminator: it starts anew.")
            return
        loaded = type(self.discriminator).from_pretrained(folder, dtype=self.discriminator.dtype)
        self.discriminator.load_state_dict(loaded.state_dict())
        for name, part in self._discriminator_states().items():
            part.load_state_dict(torch.load(folder / name, map_location=self.args.device, weights_only=True))

    def _discriminator_states(self) -> dict[str, Any]:
        """Return what a checkpoint holds of the discriminator beside its weights, by file name."""
        states = {_OPTIMIZER_FILE: self.discriminator_optimizer, _SCHEDULER_FILE: self.discriminator_scheduler}
        return states | ({_SCALER_FILE: self.discriminator_scaler} if self.discriminator_scaler.is_enabled() else {})
