"""The section `trainer` of a recipe: each value is obeyed, or refused by its name before a model is made."""

import logging
import math
import re
from typing import Any

import torch
from accelerate.utils import DynamoBackend
from transformers import Trainer, TrainingArguments
from transformers.integrations import get_reporting_integration_callbacks
from transformers.training_args import OptimizerNames, ParallelMode

from josie.modeling_josie.layers.precision import describe_slowdown
from josie.training.loss_parts import check_optimizer
from recipes.configuration import Section, read_section
from recipes.places import require_place

logger = logging.getLogger("josie.examples.trainer_settings")
# What must be false or null, and why.
REFUSED: dict[str, tuple[str, str]] = {
    "save_only_model": ("false", "as a run goes on from all that a checkpoint has"),
    "ignore_data_skip": ("false", "as a run goes on with the rows that it has not seen yet"),
    "enable_jit_checkpoint": ("false", "as a run saves a checkpoint on SIGTERM by itself"),
    "batch_eval_metrics": ("false", "as of each batch only a few numbers are kept for the scores"),
    "use_liger_kernel": ("false", "as no kernels are written for JOSIE's models"),
    "resume_from_checkpoint": ("null", "as the same command goes on from the last checkpoint by itself"),
    "parallelism_config": (
        "null",
        "as a file cannot have an object; `accelerate launch` makes it of a file of its own",
    ),
}
# The least that numbers may be, what they are below, and both in words.
_Range = tuple[float, float, str]
_AT_LEAST_0: _Range = (0, math.inf, "at least 0")
_AT_LEAST_1: _Range = (1, math.inf, "at least 1")
_RANGES: dict[str, _Range] = {
    **dict.fromkeys(("per_device_train_batch_size", "per_device_eval_batch_size", "save_total_limit"), _AT_LEAST_1),
    **dict.fromkeys(("gradient_accumulation_steps", "eval_accumulation_steps", "ddp_timeout"), _AT_LEAST_1),
    **dict.fromkeys(("dataloader_prefetch_factor", "ddp_bucket_cap_mb"), _AT_LEAST_1),
    **dict.fromkeys(("dataloader_num_workers", "neftune_noise_alpha", "adam_epsilon", "weight_decay"), _AT_LEAST_0),
    **dict.fromkeys(("max_grad_norm", "eval_delay"), _AT_LEAST_0),
    **dict.fromkeys(("adam_beta1", "adam_beta2", "label_smoothing_factor"), (0, 1, "in [0, 1)")),
    "seed": (0, 2**32, "in [0, 2**32)"),
}
_COUNTS = ("no", "all", "non_padding")  # of `include_num_input_tokens_seen`
# What a recipe that sets it has to have as it sets it.
SET_BY_RECIPES = (
    "remove_unused_columns",
    "label_names",
    "prediction_loss_only",
    "eval_do_concat_batches",
    "train_sampling_strategy",
)
# What transformers raises for values that it cannot obey.
_OF_VALUES = (ValueError, TypeError, KeyError, AttributeError, ImportError, OSError, NotImplementedError)


def read_trainer_section(config: dict[str, Any], arguments_class: type[Section], **defaults: Any) -> Section:
    """Return the section `trainer` as arguments of `Trainer`, which chooses the device.

    Its `bf16` may be `"auto"`: true on an accelerator, and on a processor that is not slow in bfloat16.

    Args:
        config (`dict`): All sections.
        arguments_class: `TrainingArguments` or a subclass.
        defaults: Values in place of its own defaults.

    Raises:
        `ValueError`: It lacks `output_dir` or `max_steps`, has an unknown key or a value of another type or that cannot
            be obeyed, or would keep a run from going on by itself.
    """
    section = config.get("trainer", {})
    for name in ("output_dir", "max_steps"):
        if not isinstance(section, dict) or name not in section:
            raise ValueError(f"`trainer` must be a section with `{name}`, got {section!r}.")
    # Without an accelerator the Trainer would use the CPU anyway, but refuses bfloat16 unless it is asked to.
    common = {"report_to": "none", "use_cpu": not torch.accelerator.is_available()}
    given = common | defaults | section
    for name, (allowed, reason) in REFUSED.items():
        if given.get(name) if allowed == "false" else given.get(name) is not None:
            raise ValueError(f"`trainer.{name}` must be {allowed}, {reason}, got {given[name]!r}.")
    for name in SET_BY_RECIPES:
        if name in defaults and given[name] != defaults[name]:
            raise ValueError(
                f"`trainer.{name}` must be {defaults[name]!r}, as this recipe needs it, got {given[name]!r}."
            )
    strategy, data = given.get("train_sampling_strategy", "random"), config.get("data")
    if strategy not in ("random", "sequential") and isinstance(data, dict) and data.get("streaming") is True:
        logger.warning(
            f"`trainer.train_sampling_strategy` {strategy!r} does nothing with `data.streaming`: rows of a stream come "
            "in its order, which `data.shuffle_buffer` changes."
        )
    slowness = describe_slowdown(torch.bfloat16, "cpu") if given["use_cpu"] and given.get("bf16") else None
    if given.get("bf16") == "auto":
        section = section | {"bf16": slowness is None}
        logger.info(f"bf16 is {str(slowness is None).lower()}. {slowness or ''}".rstrip())
    elif slowness is not None:
        logger.warning(f"{slowness} `--set trainer.bf16=false` is faster.")
    arguments: Any = _make_arguments(section, arguments_class, common | defaults)
    require_place(arguments.output_dir if section["output_dir"] else "", "trainer.output_dir")
    require_values(arguments, given)
    check_optimizer(arguments)
    return arguments


def require_values(arguments: TrainingArguments, given: dict[str, Any]) -> None:
    """Raise a `ValueError` for a value that ends a run with a sentence of torch, a traceback, or without a step.

    Args:
        arguments (`TrainingArguments`): What was made of the section.
        given (`dict`): The section, of which transformers changes some.
    """
    for name, (least, limit, words) in _RANGES.items():
        value = getattr(arguments, name)
        if value is not None and not least <= value < limit:
            raise ValueError(f"`trainer.{name}` must be {words}, got {value}.")
    for name in ("logging", "eval", "save"):
        steps = given.get(f"{name}_steps")
        if steps is not None and not steps > 0 and getattr(arguments, f"{name}_strategy") == "steps":
            raise ValueError(f"`trainer.{name}_steps` must be above 0, got {steps}.")
    if not (arguments.max_steps > 0 or arguments.num_train_epochs > 0):
        raise ValueError(
            "`trainer.num_train_epochs` must be above 0 where `trainer.max_steps` is not, got "
            f"{arguments.num_train_epochs} and {arguments.max_steps}."
        )
    count = arguments.include_num_input_tokens_seen
    if count not in _COUNTS:
        raise ValueError(f"`trainer.include_num_input_tokens_seen` must be of {list(_COUNTS)}, got {count!r}.")
    require_workers(arguments)
    require_here(arguments)


def require_workers(arguments: TrainingArguments) -> None:
    """Raise a `ValueError` for options of a data loader's workers where there are none."""
    for name in ("dataloader_persistent_workers", "dataloader_multiprocessing_context"):
        if getattr(arguments, name) and not arguments.dataloader_num_workers:
            raise ValueError(
                f"`trainer.{name}` must be left out where `trainer.dataloader_num_workers` is 0, got "
                f"{getattr(arguments, name)!r}."
            )


def require_here(arguments: TrainingArguments) -> None:
    """Raise a `ValueError` for what needs a package, several processes, or a device, and does not have it here."""
    if arguments.fsdp and arguments.parallel_mode != ParallelMode.DISTRIBUTED:
        raise ValueError(
            f"`trainer.fsdp` must be left out in one process, got {arguments.fsdp!r}: `accelerate launch` "
            "starts several."
        )
    if arguments.fp16 and arguments.device.type == "cpu":
        raise ValueError("`trainer.fp16` must be false on a CPU, where accelerate leaves float32, got true.")
    reason = "`trainer.report_to` must be of what there is, got"
    try:
        reports = get_reporting_integration_callbacks(arguments.report_to)
    except ValueError as error:
        raise ValueError(f"{reason} {arguments.report_to}: {error}") from error
    for report in reports:
        try:
            report()
        except (ImportError, RuntimeError) as error:  # its package is missing
            raise ValueError(f"{reason} {arguments.report_to}: {error}") from error
    try:
        Trainer.get_optimizer_cls_and_kwargs(arguments)
    except (ImportError, ValueError) as error:
        if isinstance(error, ImportError) or re.search(r"\b(install\w*|import)\b", str(error)):
            optimizer = OptimizerNames(arguments.optim).value
            raise ValueError(f"`trainer.optim` must be what is installed, got {optimizer!r}: {error}") from error
    if arguments.torch_compile:
        require_compiler(arguments)


def require_compiler(arguments: TrainingArguments) -> None:
    """Raise a `ValueError` for a backend or a mode of `torch.compile` that there is not."""
    from torch._dynamo import list_backends
    from torch._inductor import list_mode_options

    backends = sorted({name.lower() for name in DynamoBackend.list()} & {*list_backends(()), "no"})
    for name, known in (("backend", backends), ("mode", list(list_mode_options()))):
        value = getattr(arguments, f"torch_compile_{name}")
        if value not in (None, *known):
            raise ValueError(f"`trainer.torch_compile_{name}` must be of {known}, got {value!r}.")


def _make_arguments(section: dict[str, Any], arguments_class: type[Section], defaults: dict[str, Any]) -> Section:
    """Return a section as arguments; what transformers says of a value that it refuses gets the name of that value."""
    config = {"trainer": section}
    try:
        return read_section(config, "trainer", arguments_class, **defaults)
    except _OF_VALUES as error:
        named = re.findall(r"`(?:trainer\.)?(\w+)`", str(error))
        if any(name in (*section, "trainer") for name in named):
            raise
        for name in section:
            left = {other: value for other, value in section.items() if other != name}
            try:
                read_section({"trainer": left}, "trainer", arguments_class, **defaults)
            except _OF_VALUES:
                continue
            raise ValueError(
                f"`trainer.{name}` must be a value that can be obeyed here, got {section[name]!r}: "
                f"{' '.join(str(error).split())}"
            ) from error
        raise
