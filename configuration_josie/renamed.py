"""Former names of configuration fields, which still work for one release."""

import warnings
from typing import Any

from transformers.configuration_utils import PreTrainedConfig


class RenamedField:
    """A field's former name: it reads and sets the field, with a `FutureWarning`; saved is only the new name.

    As a class attribute it also serves the constructor and saved configurations, which set what is no field.

    Args:
        new_name (`str`): The field.
    """

    def __init__(self, new_name: str):
        self.new_name = new_name

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, config: PreTrainedConfig | None, owner: type | None = None) -> Any:
        if config is None:
            return self
        self._warn()
        return getattr(config, self.new_name)

    def __set__(self, config: PreTrainedConfig, value: Any) -> None:
        self._warn()
        setattr(config, self.new_name, value)

    def _warn(self) -> None:
        message = f"`{self.name}` is deprecated and goes in version 0.3: it is `{self.new_name}` now."
        warnings.warn(message, FutureWarning, stacklevel=3)
