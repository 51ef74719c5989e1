"""Fields of JSON objects that clients send: each is taken with its type and range, and what is not known is refused."""

import json
import math
from typing import Any, NoReturn

from ..configuration_josie.unicode_text import is_unicode
from .errors import ClientError

_SHOWN = 60  # characters of a value in a message
_LOWEST, _HIGHEST = 0.01, 2.0  # temperatures, besides 0


def parse_object(text: str | bytes, name: str) -> "Fields":
    """Return the JSON object that a text holds.

    Args:
        text (`str` or `bytes`): The text.
        name (`str`): What it is, for messages: `"an event"`.

    Raises:
        [`ClientError`]: It holds something else.
    """
    try:
        values = json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise ClientError(f"{name.capitalize()} must be a JSON object, got no JSON.", code="invalid_json") from error
    if not isinstance(values, dict):
        raise ClientError(f"{name.capitalize()} must be a JSON object, got {_show(values)}.", code="invalid_json")
    return Fields(values)


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(name)  # NaN and the infinities are no JSON


def _show(value: Any) -> str:
    text = repr(value) if isinstance(value, (str, int, float, bool, type(None))) else f"a {type(value).__name__}"
    return text if len(text) <= _SHOWN else text[:_SHOWN] + "..."


def printable(text: str) -> str:
    """Return a text whose halves of surrogate pairs, which no message can hold, are escaped."""
    return text.encode(errors="backslashreplace").decode()


def read_query(query: list[tuple[str, str]], *allowed: str) -> dict[str, str]:
    """Return the values of a query by name.

    Args:
        query (`list[tuple[str, str]]`): Names and values.
        allowed (`str`): Names that there may be, each once.

    Raises:
        [`ClientError`]: There is another, or one of them twice.
    """
    values: dict[str, str] = {}
    for name, value in query:
        shown = printable(name[:100])
        if name not in allowed:
            raise ClientError(
                f"`{shown}` must be left out of the query: this server does not know it.", shown, "unknown_parameter"
            )
        if name in values:
            raise ClientError(f"`{shown}` must be given once, got it more than once.", shown, "invalid_value")
        values[name] = value
    return values


class Fields:
    """A JSON object whose fields are taken one by one; `None` counts as not given.

    Args:
        values (`dict`): The object.
        path (`str`): Where it stands, for messages.
    """

    def __init__(self, values: dict[str, Any], path: str = ""):
        self._values, self.path = dict(values), path

    def name(self, field: str) -> str:
        """Return the full name of a field."""
        return f"{self.path}.{field}" if self.path else field

    def __contains__(self, field: str) -> bool:
        return field in self._values

    def fail(self, field: str, required: str, value: Any) -> NoReturn:
        """Raise a [`ClientError`] about a field.

        Args:
            field (`str`): Its name in this object.
            required (`str`): What its value must do: `"be a string"`.
            value: What came.
        """
        name = self.name(field)
        raise ClientError(f"`{name}` must {required}, got {_show(value)}.", name, "invalid_value")

    def take(self, field: str) -> Any:
        """Take any value."""
        return self._values.pop(field, None)

    def peek(self, field: str) -> Any:
        """Return any value without taking it."""
        return self._values.get(field)

    def text(self, field: str, default: str | None = None, max_length: int = 1000) -> str | None:
        """Take a string.

        Args:
            field (`str`): Its name in this object.
            default (`str`, *optional*): What is returned when it is not given.
            max_length (`int`): Most characters.
        """
        value = self.take(field)
        if value is None:
            return default
        if not isinstance(value, str):
            self.fail(field, "be a string", value)
        if len(value) > max_length:
            self.fail(field, f"have at most {max_length} characters", f"{value[:20]}... of {len(value)}")
        if not is_unicode(value):
            self.fail(field, "be text, without halves of surrogate pairs", "one with such")
        return value

    def required_text(self, field: str, max_length: int = 1000) -> str:
        """Take a string that must be there and not be empty."""
        value = self.text(field, max_length=max_length)
        if not value:
            self.fail(field, "be a string that is not empty", value)
        return value

    def choice(self, field: str, allowed: tuple[str, ...], default: str) -> str:
        """Take one of some strings.

        Args:
            field (`str`): Its name in this object.
            allowed (`tuple[str, ...]`): The strings.
            default (`str`): What is returned when it is not given.
        """
        value = self.take(field)
        if value is None:
            return default
        if value not in allowed or not isinstance(value, str):
            self.fail(field, f"be one of {list(allowed)}", value)
        return value

    def flag(self, field: str, default: bool) -> bool:
        """Take true or false."""
        value = self.take(field)
        if value is None:
            return default
        if not isinstance(value, bool):
            self.fail(field, "be true or false", value)
        return value

    def number(self, field: str, low: float, high: float, default: float | None = None) -> float | None:
        """Take a finite number in a range.

        Args:
            field (`str`): Its name in this object.
            low, high (`float`): The range; both are allowed.
            default (`float`, *optional*): What is returned when it is not given.
        """
        value = self.take(field)
        if value is None:
            return default
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not is_number or not low <= value <= high or not math.isfinite(value):
            self.fail(field, f"be a number in [{low:g}, {high:g}]", value)
        return float(value)

    def temperature(self, field: str = "temperature") -> float | None:
        """Take a temperature: 0, which draws nothing, or one by which logits can be divided."""
        value = self.number(field, 0, _HIGHEST)
        if value and value < _LOWEST:
            self.fail(field, f"be 0 or a number in [{_LOWEST:g}, {_HIGHEST:g}]", value)
        return value

    def integer(self, field: str, low: int, high: int, default: int | None = None) -> int | None:
        """Take an integer in a range.

        Args:
            field (`str`): Its name in this object.
            low, high (`int`): The range; both are allowed.
            default (`int`, *optional*): What is returned when it is not given.
        """
        value = self.take(field)
        if value is None:
            return default
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            self.fail(field, f"be an integer in [{low}, {high}]", value)
        return value

    def object(self, field: str) -> "Fields | None":
        """Take an object."""
        value = self.take(field)
        if value is None:
            return None
        if not isinstance(value, dict):
            self.fail(field, "be an object", value)
        return Fields(value, self.name(field))

    def items(self, field: str, max_length: int) -> list[Any]:
        """Take a list."""
        value = self.take(field)
        if value is None:
            return []
        if not isinstance(value, list):
            self.fail(field, "be a list", value)
        if len(value) > max_length:
            self.fail(field, f"have at most {max_length} items", f"{len(value)} items")
        return value

    def objects(self, field: str, max_length: int) -> list["Fields"]:
        """Take a list of objects."""
        found = []
        for number, value in enumerate(self.items(field, max_length)):
            if not isinstance(value, dict):
                self.fail(f"{field}[{number}]", "be an object", value)
            found.append(Fields(value, f"{self.name(field)}[{number}]"))
        return found

    def only(self, field: str, *allowed: Any) -> None:
        """Take a field that has an effect here for some values alone, such as none at all."""
        value = self.take(field)
        is_flag = isinstance(value, bool)  # which is no number, though Python counts with it
        if value is not None and not any(value == item and is_flag == isinstance(item, bool) for item in allowed):
            shown = [item for item in allowed if not isinstance(item, (dict, list))]
            self.fail(field, f"be one of {shown}" if shown else "be left out: this server has nothing for it", value)

    def done(self) -> None:
        """Raise a [`ClientError`] if there are fields that nobody took."""
        for field in self._values:
            name = printable(self.name(field)[:100])
            raise ClientError(f"`{name}` must be left out: this server does not know it.", name, "unknown_parameter")
