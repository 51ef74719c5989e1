"""Streaming state: what a causal codec carries from chunk to chunk. It goes in and comes out; no module keeps it."""

import copy
from dataclasses import dataclass, field, replace

import torch
from transformers.cache_utils import Cache, DynamicCache
from transformers.utils import logging

from ...configuration_josie import JosieBackboneConfig

logger = logging.get_logger(__name__)


def needs_cache(config: JosieBackboneConfig) -> bool:
    """Return whether a backbone's stream has keys and values to carry."""
    # A window of 1 sees no past, and the sliding cache of transformers would keep all of it.
    return config.sliding_window != 1


def build_cache(config: JosieBackboneConfig) -> DynamicCache | None:
    """Return the cache with which a stream through a backbone begins, `None` where it needs none."""
    return DynamicCache(config=config) if needs_cache(config) else None


def check_cache(cache: Cache | None, batch_size: int, config: JosieBackboneConfig) -> None:
    """Check the keys and values of a state.

    Raises:
        `ValueError`: They are not those of a backbone of this configuration and batch size.
    """
    expected = config.num_hidden_layers if needs_cache(config) else 0
    layers = [] if cache is None else cache.layers
    if len(layers) != expected:
        raise ValueError(f"`streaming_state` must have keys and values of {expected} layers, got {len(layers)}.")
    for layer in layers:
        window = getattr(layer, "sliding_window", None)
        if window != config.sliding_window:
            raise ValueError(f"`streaming_state` must have a window of {config.sliding_window}, got {window}.")
        shape = (batch_size, config.num_key_value_heads, config.head_dim)
        if layer.is_initialized and (actual := (*layer.keys.shape[:2], layer.keys.shape[3])) != shape:
            raise ValueError(
                f"`streaming_state` must have keys and values of (batch, heads, head_dim) {shape}, got {tuple(actual)}."
            )


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
        cache (`Cache`, *optional*): Keys and values of the transformer.
        num_frames (`int`): Frames that went through so far.
        row_starts (`torch.LongTensor`, *optional*): `(batch,)`, the frame at which each row began anew; all at 0 when
            `None`.
    """

    buffers: dict[str, torch.Tensor] = field(default_factory=dict)
    cache: Cache | None = None
    num_frames: int = 0
    row_starts: torch.Tensor | None = None

    @property
    def past_key_values(self) -> Cache | None:
        """Former name of `cache`."""
        logger.warning_once("`past_key_values` of a streaming state is deprecated. Use `cache` instead.")
        return self.cache

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


@dataclass
class JovioStreamingState:
    """State of one direction (encoding or decoding) of a stream of videos through JOVIO.

    A state is never changed: the one that comes out shares what it can with the one that went in, and both can be
    continued.

    Args:
        shape (`tuple[int, int, int]`): Rows of the batch, and patches of a frame along height and width.
        pending (`torch.Tensor`, *optional*): When encoding, frames that do not fill a temporal patch yet,
            `(batch, frames, channels, height, width)`.
        cache (`Cache`, *optional*): Keys and values of the transformer.
        num_times (`int`): Temporal patches that went through so far.
    """

    shape: tuple[int, int, int]
    pending: torch.Tensor | None = None
    cache: Cache | None = None
    num_times: int = 0

    @property
    def past_key_values(self) -> Cache | None:
        """Former name of `cache`."""
        logger.warning_once("`past_key_values` of a streaming state is deprecated. Use `cache` instead.")
        return self.cache
