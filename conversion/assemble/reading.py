"""Checkpoints of parts: reading their files, in one voice about what is missing."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig
from transformers.configuration_utils import PreTrainedConfig
from transformers.modeling_utils import PreTrainedModel

Source = str | Path

# Weights that no front end uses, so that a checkpoint may lack them.
_UNUSED = frozenset({"pooler", "head", "masked_spec_embed"})


def read_config(argument: str, source: Source, **kwargs: Any) -> PreTrainedConfig:
    """Return the configuration of a checkpoint.

    Args:
        argument (`str`): The caller's name for it, for messages.
        source (`str` or `Path`): A folder, or the name of a repository on the Hub.
        kwargs: For `AutoConfig.from_pretrained`.

    Raises:
        `ValueError`: There is none, or it is of no model type that transformers knows.
    """
    return read_file(argument, source, "the configuration of a model", partial(AutoConfig.from_pretrained, **kwargs))


def read_file(argument: str, source: Source, content: str, read: Callable[[Source], Any]) -> Any:
    """Return what `read` makes of a checkpoint, or raise in one sentence why it cannot.

    Args:
        argument (`str`): The caller's name for the checkpoint.
        source (`str` or `Path`): A folder, or the name of a repository on the Hub.
        content (`str`): What is read, for the message.
        read (`Callable`): Reads it from `source`.
    """
    try:
        return read(source)
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(
            f"`{argument}` must be a folder, or a name on the Hub, with {content}, got {str(source)!r}: {reason}"
        ) from error


def load_model(
    argument: str, source: Source, auto_class: Any, dtype: torch.dtype | None, **kwargs: Any
) -> PreTrainedModel:
    """Return a model in evaluation mode.

    Args:
        argument (`str`): The caller's name for the checkpoint.
        source (`str` or `Path`): A folder, or the name of a repository on the Hub.
        auto_class: The Auto class that loads it.
        dtype (`torch.dtype`, *optional*): The checkpoint's own when `None`.
        kwargs: For `from_pretrained`.

    Raises:
        `ValueError`: It cannot be loaded, or lacks weights.
    """
    try:
        model, loading = auto_class.from_pretrained(
            source, dtype="auto" if dtype is None else dtype, output_loading_info=True, **kwargs
        )
    except (OSError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"`{argument}` must hold a model's weights, got {str(source)!r}: {reason}") from error
    missing = sorted(key for key in loading["missing_keys"] if not _UNUSED.intersection(key.split(".")))
    if missing:
        raise ValueError(
            f"`{argument}` must hold all weights of a {type(model).__name__}, got {str(source)!r}, which lacks "
            f"{len(missing)} of them, such as {missing[0]!r}."
        )
    return model.eval()


def misfit(argument: str, source: Source, wanted: str, config: PreTrainedConfig) -> ValueError:
    """Return the error for a checkpoint of another model than is wanted.

    Args:
        argument (`str`): The caller's name for the checkpoint.
        source (`str` or `Path`): The checkpoint.
        wanted (`str`): What it should be: `"a causal language model"`.
        config (`PreTrainedConfig`): Its configuration.
    """
    return ValueError(f"`{argument}` must be {wanted}, got {str(source)!r}, of the model type {config.model_type!r}.")
