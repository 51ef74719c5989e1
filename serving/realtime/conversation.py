"""Conversation of a session: its items, and the messages that a model reads of them."""

import itertools
import secrets
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from ...modeling_josie.outputs import WordTime, count_heard_tokens
from ..errors import ClientError
from ..limits import Limits
from ..media import PCM_RATE, to_float

Role = Literal["user", "assistant", "system"]


def new_id(prefix: str) -> str:
    """Return an identifier that nobody has."""
    return f"{prefix}_{secrets.token_hex(10)}"


@dataclass
class Part:
    """A part of an item.

    Args:
        kind (`str`): `"text"`, `"audio"` or `"image"`.
        text (`str`, *optional*): Of a text; of audio what is said in it, where that is known.
        samples (`np.ndarray`, *optional*): Of audio of the user, int16 at 24 kHz.
        image (*optional*): Of an image, a PIL image.
    """

    kind: str
    text: str | None = None
    samples: np.ndarray | None = None
    image: Any = None

    def to_message(self) -> dict[str, Any] | None:
        """Return the part as a model reads it; `None` if there is nothing to read."""
        if self.samples is not None:
            return {"type": "audio", "audio": to_float(self.samples), "sampling_rate": PCM_RATE}
        if self.image is not None:
            return {"type": "image", "image": self.image}
        return {"type": "text", "text": self.text} if self.text else None

    def to_event(self, role: Role) -> dict[str, Any]:
        """Return the part as a client reads it; media are not sent back."""
        side = "output" if role == "assistant" else "input"
        if self.kind == "audio":
            return {"type": f"{side}_audio", "transcript": self.text}
        return {"type": f"{side}_image"} if self.kind == "image" else {"type": f"{side}_text", "text": self.text or ""}


@dataclass
class Spoken:
    """Tokens of an answer that is said, and when each is heard.

    Args:
        tokens (`list[int]`): The tokens.
        word_times (`list[WordTime]`): Of those that were said.
        sampling_rate (`int`): Of the model's speech.
        num_samples (`int`): That were made, at that rate.
        num_sent (`int`): Samples at 24 kHz that were sent.
    """

    tokens: list[int] = field(default_factory=list)
    word_times: list[WordTime] = field(default_factory=list)
    sampling_rate: int = PCM_RATE
    num_samples: int = 0
    num_sent: int = 0

    def count_heard(self, seconds: float) -> int:
        """Return how many tokens were heard after so much time; by their share of it where no time is known."""
        num_samples = round(seconds * self.sampling_rate)
        if self.word_times:
            return count_heard_tokens(self.word_times, num_samples, self.sampling_rate)
        return len(self.tokens) * min(num_samples, self.num_samples) // max(self.num_samples, 1)


@dataclass
class Item:
    """A message.

    Args:
        id (`str`): Its identifier.
        role (`str`): Whose it is.
        parts (`list[Part]`): Its content.
        status (`str`): `"in_progress"`, `"completed"` or `"incomplete"`.
        spoken ([`Spoken`], *optional*): Of an answer that is said.
    """

    id: str
    role: Role
    parts: list[Part]
    status: str = "completed"
    spoken: Spoken | None = None

    @property
    def num_samples(self) -> int:
        """Samples of audio that it holds."""
        return sum(len(part.samples) for part in self.parts if part.samples is not None)

    @property
    def num_images(self) -> int:
        """Images that it holds."""
        return sum(part.image is not None for part in self.parts)

    @property
    def num_letters(self) -> int:
        """Characters of text that it holds."""
        return sum(len(part.text or "") for part in self.parts)

    def to_event(self) -> dict[str, Any]:
        """Return it as a client reads it."""
        return {
            "id": self.id,
            "object": "realtime.item",
            "type": "message",
            "status": self.status,
            "role": self.role,
            "content": [part.to_event(self.role) for part in self.parts],
        }


class Conversation:
    """Items in order.

    Args:
        limits ([`Limits`]): Of what is kept; the oldest items are forgotten beyond them.
    """

    def __init__(self, limits: Limits):
        self.limits = limits
        self.items: list[Item] = []

    def place(self, item_id: str, param: str = "item_id") -> int:
        """Return the index of an item.

        Raises:
            [`ClientError`]: There is none with this identifier.
        """
        for index, item in enumerate(self.items):
            if item.id == item_id:
                return index
        raise ClientError(f"`{param}` must be an item of the conversation, got {item_id[:40]!r}.", param, "not_found")

    def add(self, item: Item, previous_id: str | None = None) -> str | None:
        """Insert an item behind another: at the end when `None`, first when `"root"`; return that one's identifier.

        Raises:
            [`ClientError`]: There is no such item, or the new one's identifier is taken.
        """
        if any(item.id == other.id for other in self.items):
            raise ClientError(f"`item.id` must be new, got {item.id[:40]!r}.", "item.id", "invalid_value")
        if previous_id == "root":
            index = 0
        else:
            index = len(self.items) if previous_id is None else self.place(previous_id, "previous_item_id") + 1
        self.items.insert(index, item)
        return self.items[index - 1].id if index else None

    def forget(self) -> Iterator[Item]:
        """Take out the oldest items until the rest is within the limits; give them."""
        while len(self.items) > 1 and self._is_too_much():
            yield self.items.pop(0)

    def _is_too_much(self) -> bool:
        limits = self.limits
        return (
            len(self.items) > limits.max_items
            or sum(item.num_images for item in self.items) > limits.max_images
            or sum(item.num_letters for item in self.items) > 4 * limits.max_text_length
            or sum(item.num_samples for item in self.items) > 4 * limits.max_audio_seconds * PCM_RATE
        )

    def to_messages(self, instructions: str | None) -> list[dict[str, Any]]:
        """Return what a model reads: neighbours of one role as one message, without items that have no content."""
        messages = [] if not instructions else [{"role": "system", "content": instructions}]
        parts = [(item.role, part.to_message()) for item in self.items for part in item.parts]
        said = [(role, part) for role, part in parts if part is not None]
        for role, group in itertools.groupby(said, key=lambda pair: pair[0]):
            content: Any = [part for _, part in group]
            if role != "user":
                content = "".join(part["text"] for part in content)
            messages.append({"role": role, "content": content})
        return messages
