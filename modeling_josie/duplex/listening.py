"""Audio that flows in: rows of the Thinker's width for each unit, by an audio input that goes on where it stopped.

The state goes in and comes out, as that of codecs. Units are whole frames, so that nothing waits between them.
"""

import copy
from typing import Any, Protocol

import torch

from ...configuration_josie import is_codec
from ...configuration_josie.units import require_stream


class Listener(Protocol):
    """An audio input of a batch of streams."""

    def listen(self, values: torch.Tensor, state: Any) -> tuple[torch.Tensor, Any]:
        """Hear `(batch, 1, num_samples)`, whole frames; return `(batch, num_tokens, hidden_size)` and the next state.

        A stream begins with the state `None`. States are not changed, and have `reset_rows`.
        """
        ...


class JodioListener:
    """JODIO's codes, embedded by the front end.

    Args:
        codec ([`JodioModel`]): The codec.
        front_end ([`AudioFrontEnd`]): Of the Thinker.
    """

    def __init__(self, codec: Any, front_end: Any):
        self.codec, self.front_end = codec, front_end

    def listen(self, values: torch.Tensor, state: Any) -> tuple[torch.Tensor, Any]:
        """As in [`Listener`]."""
        output = self.codec.encode(values.to(self.codec.dtype), streaming_state=state, use_streaming=True)
        return _embed(self.front_end, output.audio_codes), output.streaming_state


class MimiState:
    """State of Mimi's encoder, a part for each row, as its caches have no rows to reset.

    Args:
        rows (`list`): For each row the cache of its transformer and that of its convolutions; `None` at a beginning.
    """

    def __init__(self, rows: list[Any]):
        self.rows = rows

    def reset_rows(self, rows: torch.Tensor) -> "MimiState":
        """Return a state in which the rows for which `rows`, `(batch,)`, is true begin anew."""
        return MimiState([None if is_new else row for row, is_new in zip(self.rows, rows.tolist(), strict=True)])


class MimiListener:
    """Mimi's codes (Défossez et al., 2024), embedded by the front end.

    Args:
        codec ([`~transformers.MimiModel`]): The codec.
        front_end ([`AudioFrontEnd`]): Of the Thinker.
    """

    def __init__(self, codec: Any, front_end: Any):
        self.codec, self.front_end = codec, front_end

    def listen(self, values: torch.Tensor, state: Any) -> tuple[torch.Tensor, Any]:
        """As in [`Listener`]."""
        before = [None] * len(values) if state is None else state.rows
        codes, rows = [], []
        for clip, row in zip(values.to(self.codec.dtype).split(1), before, strict=True):
            cache, padding = copy.deepcopy(row) if row is not None else (None, None)
            output = self.codec.encode(clip, encoder_cache=cache, padding_cache=padding, use_streaming=True)
            codes.append(output.audio_codes)
            rows.append((output.encoder_cache, output.padding_cache))
        return _embed(self.front_end, torch.cat(codes)), MimiState(rows)


class EncoderListener:
    """Features of a causal audio encoder, stacked and projected by the front end.

    Args:
        front_end ([`AudioFrontEnd`]): Of the Thinker.
    """

    def __init__(self, front_end: Any):
        self.front_end = front_end

    def listen(self, values: torch.Tensor, state: Any) -> tuple[torch.Tensor, Any]:
        """As in [`Listener`]."""
        encoder = self.front_end.encoder
        output = encoder.encode(values.float(), streaming_state=state, use_streaming=True)
        rows = self.front_end(audio_features=output.audio_features.to(encoder.dtype)).rows
        return rows.unflatten(0, (len(values), -1)), output.streaming_state


def open_listener(model: Any) -> Listener:
    """Return the audio input of a whole model.

    Raises:
        `ValueError`: It waits for the end of the audio.
    """
    audio_config, front_end = model.config.thinker_config.audio_config, model._backbone.audio_front_end
    require_stream(audio_config)
    if not is_codec(audio_config):
        return EncoderListener(front_end)
    listener = JodioListener if audio_config.model_type == "jodio" else MimiListener
    return listener(model.audio_codec, front_end)


def _embed(front_end: Any, codes: torch.Tensor) -> torch.Tensor:
    return front_end(audio_codes=codes).rows.unflatten(0, (len(codes), -1))
