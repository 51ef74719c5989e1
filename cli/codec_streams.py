"""A codec on audio that comes in chunks: from a file or a microphone, through JODIO and out again.

Everything is done chunk by chunk with states that go in and come out, and gives what the whole clip gives.
"""

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from transformers.modeling_utils import PreTrainedModel

from ..configuration_josie import JodioConfig
from ..processing_josie.resampling import StreamResampler
from .shared import stop_on_interrupt

# The seed's microphone: mono, float32.
MICROPHONE_RATE = 16000
CHUNK_SECONDS = 0.25


@dataclass
class StreamedChunk:
    """Codes, and perhaps samples, of one chunk.

    Args:
        codes (`torch.LongTensor`): `(1, num_quantizers, num_frames)`.
        num_samples (`int`): Samples at the codec's rate that these codes stand for.
        values (`torch.Tensor`, *optional*): `(1, channels, num_samples)`, when they were decoded at once.
        audio_seconds (`float`): Length of the chunk.
        seconds (`float`): Time it took.
    """

    codes: torch.Tensor
    num_samples: int
    values: torch.Tensor | None
    audio_seconds: float
    seconds: float


def require_streaming(codec: PreTrainedModel) -> JodioConfig:
    """Return the configuration of a codec that streams.

    Raises:
        `ValueError`: The codec does not stream.
    """
    if not isinstance(codec.config, JodioConfig):
        raise ValueError(
            f"`--stream` must be used with a codec that streams ('jodio'), got {codec.config.model_type!r}."
        )
    return codec.config


@torch.no_grad()
def stream_audio(
    codec: Any,
    chunks: Iterable[torch.Tensor],
    rate: int,
    num_quantizers: int | None = None,
    decode: bool = False,
) -> Iterator[StreamedChunk]:
    """Encode chunks as they come, and decode their codes at once if wanted.

    Args:
        codec ([`JodioModel`]): The codec.
        chunks: `(channels, num_samples)` each, with the codec's channels.
        rate (`int`): Of the chunks, in Hz; they are resampled to the codec's.
        num_quantizers (`int`, *optional*): Use only the first ones.
        decode (`bool`): Also return waveforms.

    Yields:
        [`StreamedChunk`], one for each chunk, and one for what waits at the end.

    Raises:
        `ValueError`: The codec does not stream, or has fewer quantizers.
    """
    config = require_streaming(codec)
    resampler = StreamResampler(rate, config.sampling_rate, config.audio_channels)
    encoder_state = decoder_state = None
    empty = torch.zeros(config.audio_channels, 0)
    for chunk, is_final in _mark_end(chunks, empty):
        start, values = time.perf_counter(), None
        ready = torch.from_numpy(resampler.push(chunk.numpy(), is_final))[None].to(codec.device)
        encoded = codec.encode(
            ready,
            num_quantizers=num_quantizers,
            streaming_state=encoder_state,
            use_streaming=True,
            is_final=is_final,
        )
        encoder_state = encoded.streaming_state
        num_samples = int(encoded.audio_lengths[0])
        if decode:
            decoded = codec.decode(encoded.audio_codes, streaming_state=decoder_state, use_streaming=True)
            values, decoder_state = decoded.audio_values[..., :num_samples], decoded.streaming_state
        seconds = time.perf_counter() - start
        yield StreamedChunk(encoded.audio_codes, num_samples, values, chunk.shape[-1] / rate, seconds)


@torch.no_grad()
def stream_codes(codec: Any, codes: torch.Tensor) -> Iterator[StreamedChunk]:
    """Decode `(1, num_quantizers, num_frames)` codes in chunks of about a quarter of a second.

    Raises:
        `ValueError`: The codec does not stream.
    """
    config = require_streaming(codec)
    state = None
    for piece in codes.to(codec.device).split(max(round(CHUNK_SECONDS * config.frame_rate), 1), dim=-1):
        start = time.perf_counter()
        decoded = codec.decode(piece, streaming_state=state, use_streaming=True)
        state, seconds = decoded.streaming_state, time.perf_counter() - start
        num_samples = decoded.audio_values.shape[-1]
        yield StreamedChunk(piece, num_samples, decoded.audio_values, num_samples / config.sampling_rate, seconds)


def split_audio(values: torch.Tensor, rate: int) -> Iterator[torch.Tensor]:
    """Yield `(channels, num_samples)` in chunks of a quarter of a second, as the microphone gives them."""
    yield from values.split(max(round(CHUNK_SECONDS * rate), 1), dim=-1)


def record_audio(seconds: float | None, num_channels: int) -> Iterator[torch.Tensor]:
    """Yield what the microphone hears, in chunks of a quarter of a second, until the time is over or Ctrl-C is pressed.

    Args:
        seconds (`float`, *optional*): How long; until Ctrl-C when `None`.
        num_channels (`int`): Of the result: the one channel is repeated.

    Raises:
        `ValueError`: There is no microphone.
        `ImportError`: sounddevice is not installed.
    """
    try:
        import sounddevice  # type: ignore[import-not-found]
    except ImportError as error:
        raise ImportError("`--mic` needs sounddevice: `pip install josie[mic]`.") from error
    left = None if seconds is None else round(seconds * MICROPHONE_RATE)
    size = round(CHUNK_SECONDS * MICROPHONE_RATE)
    try:
        with (
            stop_on_interrupt() as stopped,
            sounddevice.InputStream(samplerate=MICROPHONE_RATE, channels=1, dtype="float32", blocksize=size) as stream,
        ):
            while not stopped.is_set() and (left is None or left > 0):
                values, _ = stream.read(size if left is None else min(size, left))
                left = None if left is None else left - len(values)
                yield torch.from_numpy(values.T.copy()).expand(num_channels, -1)
    except sounddevice.PortAudioError as error:
        raise ValueError(f"`--mic` must have a microphone to listen to: {error}.") from error


def _mark_end(chunks: Iterable[torch.Tensor], empty: torch.Tensor) -> Iterator[tuple[torch.Tensor, bool]]:
    """Yield the chunks as they come, and an empty one that is the last: nobody waits to know whether more follows."""
    for chunk in chunks:
        yield chunk, False
    yield empty, True
