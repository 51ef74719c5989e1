"""Streaming state: what a causal model carries from chunk to chunk. It goes in and comes out; no module keeps it."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

import torch
from transformers.cache_utils import (
    Cache,
    DynamicCache,
    DynamicLayer,
    DynamicSlidingWindowLayer,
    LinearAttentionCacheLayerMixin,
)
from transformers.utils import logging

from ...configuration_josie import JosieBackboneConfig
from ..layers.backbone import JosieBackbone
from ..layers.offloading import find_device
from ..layers.row_caches import RowCaches, run_rows

# Name of the inputs in a state that do not fill a frame yet.
PENDING = "pending"

logger = logging.get_logger(__name__)


def needs_cache(config: JosieBackboneConfig) -> bool:
    """Return whether a backbone's stream has keys and values to carry."""
    # A window of 1 sees no past, and the sliding cache of transformers would keep all of it.
    return config.sliding_window != 1


def build_cache(config: JosieBackboneConfig) -> DynamicCache | None:
    """Return the cache with which a stream through a backbone begins, `None` where it needs none."""
    return DynamicCache(config=config) if needs_cache(config) else None


def check_cache(cache: Cache | RowCaches | None, batch_size: int, config: JosieBackboneConfig) -> None:
    """Check the keys and values of a state.

    Args:
        cache (`Cache` or [`RowCaches`], *optional*): Of the state.
        batch_size (`int`): Rows.
        config ([`JosieBackboneConfig`]): Of the backbone that goes on with it.

    Raises:
        `ValueError`: They are not those of a backbone of this configuration and batch size.
    """
    if isinstance(cache, RowCaches):
        for one, size in zip(cache.caches, cache.sizes, strict=True):
            check_cache(one, size, config)
        return
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
    """Return a cache that goes on by itself: layers that grow share the tensors so far, others are copied."""
    if cache is None:
        return None
    if any(type(layer) not in (DynamicLayer, DynamicSlidingWindowLayer) for layer in cache.layers):
        return copy.deepcopy(cache)
    fork = copy.copy(cache)
    fork.layers = [copy.copy(layer) for layer in cache.layers]
    return fork


def clear_rows(cache: Cache | None, rows: torch.Tensor) -> Cache | None:
    """Return a cache without the states of recurrent layers and convolutions of some rows.

    Keys and values stay: an attention mask hides them.

    Args:
        cache (`Cache`, *optional*): It is not changed.
        rows (`torch.BoolTensor`): `(batch,)`, true for the rows to clear.
    """
    if cache is None or not any(isinstance(layer, LinearAttentionCacheLayerMixin) for layer in cache.layers):
        return cache
    cache = copy.deepcopy(cache)
    for layer in cache.layers:
        for name in ("conv_states", "recurrent_states"):
            for state in getattr(layer, name, {}).values():
                if state is not None:
                    state[rows.to(state.device)] = 0
    return cache


_State = TypeVar("_State", bound="AudioStreamingState")


@dataclass
class AudioStreamingState:
    """State of a stream of audio: of an audio encoder, or of one direction (encoding or decoding) of JODIO.

    A state is never changed: the one that comes out shares what it can with the one that went in, and both can be
    continued.

    Args:
        buffers (`dict[str, torch.Tensor]`): By convolution: its last inputs, `(batch, context, channels)`; and, when
            encoding, under `"pending"`, samples that do not fill a frame yet, `(batch, channels, num_samples)`; of an
            audio encoder with those that the next window reaches back to, or mel frames.
        cache (`Cache` or [`RowCaches`], *optional*): Keys and values of the transformer.
        num_frames (`int`): Frames that went through so far; of joined states those since they were joined.
        row_starts (`torch.LongTensor`, *optional*): `(batch,)`, the frame at which each row began anew; all at 0 when
            `None`.
    """

    buffers: dict[str, torch.Tensor] = field(default_factory=dict)
    cache: Cache | RowCaches | None = None
    num_frames: int = 0
    row_starts: torch.Tensor | None = None

    @property
    def batch_size(self) -> int:
        """Rows of the stream."""
        return len(next(iter(self.buffers.values())))

    def reset_rows(self: _State, rows: torch.Tensor) -> _State:
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
class JodioStreamingState(AudioStreamingState):
    """State of one direction (encoding or decoding) of a stream of JODIO."""

    @property
    def past_key_values(self) -> Cache | RowCaches | None:
        """Former name of `cache`."""
        logger.warning_once("`past_key_values` of a streaming state is deprecated. Use `cache` instead.")
        return self.cache


@dataclass
class ThinkerStreamingState:
    """State of a Thinker that reads tokens and audio as they come.

    A state is never changed: the one that comes out shares what it can with the one that went in, and both can be
    continued.

    Args:
        input_ids (`torch.LongTensor`): `(batch, length)`, all tokens so far, placeholders of media included.
        attention_mask (`torch.LongTensor`): `(batch, length)`, 0 for positions that are none of a row's.
        cache (`Cache`, *optional*): Keys and values; `None` where nothing was read.
        audio ([`AudioStreamingState`], *optional*): Of the clip that goes on.
        pending (`torch.FloatTensor`, *optional*): Features of it that do not fill a token yet, `(batch, n, width)`.
    """

    input_ids: torch.Tensor
    attention_mask: torch.Tensor
    cache: Cache | None = None
    audio: AudioStreamingState | None = None
    pending: torch.Tensor | None = None

    @property
    def num_tokens(self) -> torch.Tensor:
        """Tokens that each row has read, placeholders included, `(batch,)`."""
        return self.attention_mask.sum(dim=1)

    def reset_rows(self, rows: torch.Tensor) -> "ThinkerStreamingState":
        """Return a state in which some rows have read nothing while the others go on.

        The positions that they had stay in the cache, where nothing sees them. The clip of such a row goes on as
        [`AudioStreamingState.reset_rows`] says.

        Args:
            rows (`torch.BoolTensor`): `(batch,)`, true for the rows to reset.

        Raises:
            `ValueError`: `rows` is of another type or shape.
        """
        if rows.dtype != torch.bool or rows.shape != (len(self.input_ids),):
            raise ValueError(
                f"`rows` must be a bool tensor of shape ({len(self.input_ids)},), got {rows.dtype} {tuple(rows.shape)}."
            )
        return replace(
            self,
            attention_mask=self.attention_mask.masked_fill(rows[:, None], 0),
            cache=clear_rows(self.cache, rows),
            audio=None if self.audio is None else self.audio.reset_rows(rows),
            pending=None if self.pending is None else self.pending.masked_fill(rows[:, None, None], 0),
        )

    def continue_with(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None
    ) -> dict[str, torch.Tensor | Cache | None]:
        """Return what `generate` takes to go on from here after more tokens.

        Args:
            input_ids (`torch.LongTensor`): `(batch, new_length)`, at least one token a row, padded on the left.
            attention_mask (`torch.Tensor`, *optional*): `(batch, new_length)`; all are real when `None`.
        """
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask.to(self.attention_mask)
        return {
            "input_ids": torch.cat((self.input_ids, input_ids), dim=1),
            "attention_mask": torch.cat((self.attention_mask, mask), dim=1),
            "cache": fork_cache(self.cache),
        }


def join_states(states: Sequence[_State]) -> _State:
    """Return the state of a batch whose rows are streams of one model that began at different times.

    Args:
        states (`Sequence[AudioStreamingState]`): Their states, of the same direction.

    Raises:
        `ValueError`: Some have rows that began anew.
    """
    if any(state.row_starts is not None for state in states):
        raise ValueError("`states` must have no rows that were reset, to be joined.")
    buffers = {name: torch.cat([state.buffers[name] for state in states]) for name in states[0].buffers}
    caches = None
    if states[0].cache is not None:
        caches = RowCaches([state.cache for state in states], [state.batch_size for state in states])
    return replace(states[0], buffers=buffers, cache=caches, num_frames=0)


def split_state(joined: _State, before: Sequence[_State]) -> list[_State]:
    """Return the states of the streams that [`join_states`] joined, after their batch went on.

    Args:
        joined ([`AudioStreamingState`]): That of the batch.
        before (`Sequence[AudioStreamingState]`): Those that were joined.
    """
    caches = joined.cache.caches if isinstance(joined.cache, RowCaches) else [None] * len(before)
    sizes = [state.batch_size for state in before]
    buffers = {name: buffer.split(sizes) for name, buffer in joined.buffers.items()}
    return [
        replace(
            state,
            # Copies: a part would keep the whole batch in memory, and in files.
            buffers={name: parts[number].clone() for name, parts in buffers.items()},
            cache=caches[number],
            num_frames=state.num_frames + joined.num_frames,
        )
        for number, state in enumerate(before)
    ]


def enter_stream(
    transformer: JosieBackbone,
    shapes: dict[str, tuple[int, ...]],
    state: _State | None,
    state_class: type[_State],
    dtypes: dict[str, torch.dtype] | None = None,
) -> _State:
    """Return `state`, or that of a stream that begins.

    Args:
        transformer ([`JosieBackbone`]): Whose keys and values are in it.
        shapes (`dict[str, tuple[int, ...]]`): Of its buffers, batch first; of the pending inputs at the start.
        state ([`AudioStreamingState`], *optional*): State after the chunk before.
        state_class: Its class.
        dtypes (`dict[str, torch.dtype]`, *optional*): Types of buffers that have not that of the weights.

    Raises:
        `ValueError`: It is the state of another direction, batch size or model.
    """
    dtype, batch_size = transformer.dtype, next(iter(shapes.values()))[0]
    types = {name: (dtypes or {}).get(name, dtype) for name in shapes}
    if state is None:
        device = find_device(transformer)
        buffers = {name: torch.zeros(shape, dtype=types[name], device=device) for name, shape in shapes.items()}
        return state_class(buffers, build_cache(transformer.config))
    if state.buffers.keys() != shapes.keys():
        raise ValueError(
            f"`streaming_state` must have the buffers {sorted(shapes)} of this direction and model, "
            f"got {sorted(state.buffers)}."
        )
    for name, shape in shapes.items():
        length = -1 if name == PENDING else None
        buffer = state.buffers[name]
        if buffer.shape[:length] != torch.Size(shape[:length]):
            raise ValueError(
                f"`streaming_state` must fit a batch of {batch_size} and this model, whose buffer {name!r} has "
                f"shape {shape}, got {tuple(buffer.shape)}."
            )
        if buffer.dtype != types[name]:
            raise ValueError(f"`streaming_state` must be of the model's type {types[name]}, got {buffer.dtype}.")
    check_cache(state.cache, batch_size, transformer.config)
    return state


def run_in_stream(
    transformer: JosieBackbone, hidden_states: torch.Tensor, state: _State
) -> tuple[torch.Tensor, _State]:
    """Run frames through a transformer; also return the state that follows, with the old contexts.

    Args:
        transformer ([`JosieBackbone`]): The backbone.
        hidden_states (`torch.Tensor`): `(batch, num_frames, hidden_size)`, the next frames.
        state: State of the stream, which is not changed.
    """
    if isinstance(state.cache, RowCaches):
        caches = RowCaches([fork_cache(cache) for cache in state.cache.caches], state.cache.sizes)
        output = run_rows(transformer, hidden_states, caches)
        return output, replace(state, cache=caches, num_frames=state.num_frames + hidden_states.shape[1])
    cache, mask, starts = fork_cache(state.cache), None, state.row_starts
    num_frames, window = state.num_frames + hidden_states.shape[1], transformer.config.sliding_window
    if cache is not None and starts is not None:
        mask = (torch.arange(num_frames, device=hidden_states.device) >= starts[:, None]).long()
        if window is not None and num_frames - int(starts.max()) >= window:
            starts = None  # no frame to come sees what was before a row began anew
    output = transformer(hidden_states, attention_mask=mask, cache=cache, use_cache=cache is not None)
    return output.last_hidden_state, replace(state, cache=cache, num_frames=num_frames, row_starts=starts)


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
