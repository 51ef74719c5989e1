"""Losses that are made and then dropped: by a library that puts its own `forward` around the model's."""

from typing import Any

import torch
from torch import nn
from transformers.utils import logging

logger = logging.get_logger(__name__)


def warn_of_dropped_speech(model: nn.Module) -> None:
    """Warn once where TRL calls a model, which makes the loss of the text by itself then.

    TRL gives `forward` the codes of speech without the labels of the text. Accelerate may lie around it.

    Args:
        model (`nn.Module`): Whose `forward` is called so, in training.
    """
    if torch.compiler.is_compiling():
        return
    if any(_is_of_trl(vars(model).get(name)) for name in ("forward", "_original_forward")):
        logger.warning_once(
            "`speech_codes` teach nothing here: TRL makes the loss of the text and drops the others. "
            "`josie.LossParts.attach(trainer)` before training learns both."
        )


def _is_of_trl(function: Any) -> bool:
    while function is not None:
        function = getattr(function, "__func__", function)
        if getattr(function, "__globals__", {}).get("__name__", "").partition(".")[0] == "trl":
            return True
        function = getattr(function, "__wrapped__", None)
    return False
