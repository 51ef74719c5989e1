"""Speech in a stream, measured: how soon it comes, whether it is the whole, and how well it knows its words' times."""

import math
import re
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from .answers import prepare_inputs, sampling_options, tokenize_speech

if TYPE_CHECKING:
    from .tasks import Row


@dataclass
class StreamedRow:
    """One answer in pieces.

    Args:
        line (`int`): Of the file.
        first_token, first_audio, total (`float`): Seconds until the first token was written, until the first sample was
            there, and until the last. A text that is read aloud is there from the beginning: 0.
        duration (`float`): Seconds of speech.
        underrun (`float`): The longest silence, in seconds, that who plays the pieces as they come would hear.
        is_whole (`bool`): Whether the pieces joined are the answer that is made at once, to the bit.
        word_errors (`list[float]`): Errors of the beginning of a text with labels, and of the end of each of its words,
            in seconds.
    """

    line: int
    first_token: float = 0.0
    first_audio: float | None = None
    total: float = 0.0
    duration: float = 0.0
    underrun: float = 0.0
    is_whole: bool = False
    word_errors: list[float] = field(default_factory=list)


class _FirstToken:
    """A streamer of text that notes when its first token comes; what is put before it is the prompt."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def put(self, value: Any) -> None:
        """Note the time."""
        self.times.append(time.perf_counter())

    def end(self) -> None:
        """There is nothing to do."""


def stream_row(model: Any, processor: Any, row: "Row", options: dict[str, Any], max_new_tokens: int) -> StreamedRow:
    """Have a model answer a row in pieces, and once more at once.

    Args:
        model ([`JosieForConditionalGeneration`]), processor ([`JosieProcessor`]): The model that answers.
        row (`Row`): With `messages`, where they are answered, or without, where it is read aloud.
        options (`dict`): Of the Talker.
        max_new_tokens (`int`): Longest answer.
    """
    import torch

    result, streamer = StreamedRow(row.line), _FirstToken()
    tokenizer = processor.tokenizer
    if row.messages is None:
        inputs = tokenize_speech(processor, [row.answer]).to(model.device)
        whole = model.generate_speech(**inputs, tokenizer=tokenizer, **options)
        begin = time.perf_counter()
        pieces = model.speak_stream(row.answer, tokenizer, **options)
    else:
        inputs = prepare_inputs(processor, [row.messages]).to(model.device)
        written = {"max_new_tokens": max_new_tokens, "tokenizer": tokenizer, **sampling_options(None), **options}
        whole = model.generate(**inputs, generation_mode="audio", **written)
        begin = time.perf_counter()
        pieces = model.generate_stream(**inputs, streamer=streamer, **written)
    samples, times = [], []
    for piece in pieces:
        now, length = time.perf_counter() - begin, int(piece.audio_lengths[0])
        times += piece.word_times[0] if piece.word_times else []
        if not length:
            continue
        if result.first_audio is None:
            result.first_audio = now
        result.underrun = max(result.underrun, now - result.first_audio - result.duration)
        result.duration += length / piece.sampling_rate
        result.total = now
        samples.append(piece.audio_values[0, :, :length])
    if len(streamer.times) > 1:
        result.first_token = streamer.times[1] - begin
    expected = whole.audio_values[0, :, : whole.audio_lengths[0]]
    result.is_whole = torch.equal(torch.cat(samples, dim=-1) if samples else expected[:, :0], expected)
    if row.word_times is not None and row.messages is None and times:
        spans = [(heard.begin, heard.end) for heard in times]
        words = time_words(tokenizer, row.answer, spans)
        bounds = [words[0][0], *(end for _, end in words)]
        result.word_errors = [abs(ours - theirs) for ours, theirs in zip(bounds, row.word_times, strict=False)]
    return result


def time_words(tokenizer: Any, text: str, token_times: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return begin and end of each word of a text, in seconds, as far as its tokens have times.

    Args:
        tokenizer: A fast one of transformers.
        text (`str`): Words are what white space separates.
        token_times (`list[tuple[float, float]]`): Of its first tokens, all of which are said.
    """
    encoded = tokenizer(text, add_special_tokens=False, split_special_tokens=True, return_offsets_mapping=True)
    offsets = encoded["offset_mapping"][: len(token_times)]
    result = []
    for word in re.finditer(r"\S+", text):
        inside = [
            heard
            for (first, last), heard in zip(offsets, token_times, strict=True)
            if first < word.end() and last > word.start()
        ]
        if inside:
            result.append((inside[0][0], inside[-1][1]))
    return result


def summarise(rows: list[StreamedRow]) -> dict[str, float]:
    """Return the figures of rows that were said: times in seconds, errors of word times in milliseconds, a share."""
    said = [row for row in rows if row.first_audio is not None and row.duration]
    figures = {"rows": float(len(rows)), "whole": sum(row.is_whole for row in rows) / len(rows)}
    if not said:
        return figures
    first = sorted(row.first_audio for row in said if row.first_audio is not None)
    figures |= {
        "first_token_p50": statistics.median(row.first_token for row in said),
        "first_audio_p50": percentile(first, 50),
        "first_audio_p95": percentile(first, 95),
        "real_time_factor_p95": percentile([row.total / row.duration for row in said], 95),
        "underrun": max(row.underrun for row in said),
    }
    errors = [error for row in said for error in row.word_errors]
    if errors:
        figures["word_times_ms"] = 1000 * sum(errors) / len(errors)
    return figures


def percentile(values: list[float], percent: float) -> float:
    """Return the smallest value that at least `percent` of the values do not exceed."""
    return sorted(values)[max(math.ceil(len(values) * percent / 100) - 1, 0)]


def stream_rows(
    rows: "list[Row]", answer: "Callable[[Row], StreamedRow]", on_rows: Callable[[int], None] = lambda num_rows: None
) -> Iterator[StreamedRow]:
    """Answer rows one by one. The first is answered twice, and counts once, since the first call of a model is slower.

    Args:
        rows (`list[Row]`): Of one task.
        answer: Answers a row, see [`stream_row`].
        on_rows: Called with 1 after each row.
    """
    for number, row in enumerate(rows):
        if number == 0:
            answer(row)
        yield answer(row)
        on_rows(1)


def streamed_dict(rows: list[StreamedRow]) -> dict[str, Any]:
    """Return figures and rows as they are written to a file."""
    return {"figures": summarise(rows), "rows": [asdict(row) for row in rows]}
