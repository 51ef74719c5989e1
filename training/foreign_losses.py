"""Losses of trainers of other libraries: which of them hand on what the model learns, and which drop a part of it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, cast

from torch import nn
from transformers import Trainer
from transformers.utils import logging

logger = logging.get_logger(__name__)

_NAME = "num_items_in_batch"


def makes_text_loss(compute_loss: Callable[..., Any]) -> bool:
    """Return whether a method is that of TRL's `SFTTrainer`, which makes the loss of the text in the model's place.

    What the model makes itself has that loss in it, and beside it those of what is spoken.
    """
    return _is_of_trl(compute_loss) and _function(compute_loss).__qualname__ == "SFTTrainer.compute_loss"


def require_model_loss(trainer: Trainer, compute_loss: Callable[..., Any]) -> None:
    """Raise a `ValueError` for a trainer of TRL whose loss is another one than the model's.

    Where TRL reads the rows, which leaves out what is said, a warning says so.

    Args:
        trainer (`Trainer`): Of any class.
        compute_loss (`Callable`): The method by which it has its loss.
    """
    arguments, model = (cast(Any, value) for value in (trainer.args, trainer.model))
    if not _is_of_trl(compute_loss):
        return
    if not makes_text_loss(compute_loss):
        raise ValueError(
            "`trainer` must learn what its rows say to have the parts of the loss, as `SFTTrainer` of TRL does, got a "
            f"{type(trainer).__name__}."
        )
    if arguments.loss_type != "nll":
        raise ValueError(f"`loss_type` must be 'nll' where the model makes its loss, got {arguments.loss_type!r}.")
    if getattr(trainer, "aux_loss_enabled", False):
        raise ValueError(
            "`router_aux_loss_coef` must be 0 where the model makes its loss, which has no such part, got "
            f"{getattr(trainer, 'router_aux_loss_coef', None)}."
        )
    if "talker" in model.target_names and _is_of_trl(type(trainer.data_collator)):
        logger.warning(
            "`data_collator` must be a `josie.JosieDataCollator` for speech to be learned, got one of TRL's, a "
            f"{type(trainer.data_collator).__name__}, which leaves it out."
        )


@contextmanager
def require_handed_on(trainer: Trainer, model: nn.Module) -> Iterator[None]:
    """Watch a trainer of another class make its loss: the model has to be given the number of targets of each kind.

    Args:
        trainer (`Trainer`): For the sentence.
        model (`nn.Module`): What is called inside.

    Raises:
        `ValueError`: It was not, so that the loss is not the model's, or of accumulated batches not that of one.
    """
    handed_on: list[bool] = []

    def look(_: nn.Module, __: Any, given: dict[str, Any]) -> None:
        handed_on.append(isinstance(given.get(_NAME), dict))

    refusal = (
        f"`compute_loss` of the trainer must hand `{_NAME}` on to the model, which makes its loss of text and speech, "
        f"got a {type(trainer).__name__} that does not"
    )
    handle = model.register_forward_pre_hook(look, with_kwargs=True)
    try:
        yield
    except (AttributeError, RuntimeError, TypeError, ValueError) as error:  # it has met a `dict`
        if any(handed_on):
            raise
        raise ValueError(f"{refusal}: {error}.") from error
    finally:
        handle.remove()
    if not any(handed_on):
        raise ValueError(f"{refusal}.")


def _function(method: Callable[..., Any]) -> Any:
    return getattr(method, "__func__", method)


def _is_of_trl(method: Callable[..., Any]) -> bool:
    return _function(method).__module__.partition(".")[0] == "trl"
