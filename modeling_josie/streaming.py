"""Streaming state: what a causal codec carries from chunk to chunk. It goes in and comes out; no module keeps it."""

import copy
from dataclasses import dataclass, field, replace

import torch
from transformers.cache_utils import Cache


def fork_cache(cache: Cache | None) -> Cache | None:
    """Return a cache that goes on by itself and shares the tensors so far; for layers that grow (`DynamicCache`)."""
    if cache is None:
        return None
    fork = copy.copy(cache)
    fork.layers = [copy.copy(layer) for layer in cache.layers]
    return fork


@dataclass
class JodioStreamingState:
    """State of one direction (encoding or decoding) of a stream of JODIO.

    A state is never changed: the one that comes out shares what it can with the one that went in, and both can be
    continued.

    Args:
        buffers (`dict[str, torch.Tensor]`): By convolution: its last inputs, `(batch, context, channels)`; and, when
            encoding, under `"pending"`, samples that do not fill a frame yet, `(batch, channels, num_samples)`.
        past_key_values (`Cache`, *optional*): Keys and values of the transformer.
        num_frames (`int`): Frames that went through so far.
        row_starts (`torch.LongTensor`, *optional*): `(batch,)`, the frame at which each row began anew; all at 0 when
            `None`.
    """

    buffers: dict[str, torch.Tensor] = field(default_factory=dict)
    past_key_values: Cache | None = None
    num_frames: int = 0
    row_starts: torch.Tensor | None = None

    @property
    def batch_size(self) -> int:
        """Rows of the stream."""
        return len(next(iter(self.buffers.values())))

    def reset_rows(self, rows: torch.Tensor) -> "JodioStreamingState":
        """Return a state in which some rows begin a new stream while the others go on.

        What a row had pending becomes silence at the start of its new stream: reset encoders at frame boundaries.

        Args:
            rows (`torch.BoolTensor`): `(batch,)`, true for the rows to reset.

        Raises:
            `ValueError`: `rows` is of another type or shape.
        """
        if rows.dtype != torch.bool or rows.shape != (self.batch_size,):
            raise ValueError(
                f"`rows` must be a bool tensor of shape ({self.batch_size},), got {rows.dtype} {tuple(rows.shape)}."
            )
        buffers = {name: buffer.masked_fill(rows[:, None, None], 0) for name, buffer in self.buffers.items()}
        starts = torch.zeros_like(rows, dtype=torch.long) if self.row_starts is None else self.row_starts
        return replace(self, buffers=buffers, row_starts=starts.masked_fill(rows, self.num_frames))
