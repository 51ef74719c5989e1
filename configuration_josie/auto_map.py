"""`auto_map` of configurations of this package, whose classes come without code of their own."""

from typing import Any

from transformers.configuration_utils import PreTrainedConfig


class NoAutoMap:
    """An `auto_map` that is empty where none was loaded, and is not saved: TRL reads it of every configuration.

    Code that came with a checkpoint registers its classes, and has none until transformers makes one to save.
    """

    def __get__(self, config: PreTrainedConfig | None, owner: type[PreTrainedConfig]) -> dict[str, Any]:
        if owner._auto_class is not None:
            raise AttributeError(f"`{owner.__name__}` has no `auto_map`.")
        return {}
