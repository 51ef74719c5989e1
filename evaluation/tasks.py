"""Tasks for a JOSIE: a file of rows, the model's answers to them, and scores.

The file has a JSON object a line:

    {"task": "answer", "messages": [{"role": "user", "content": [{"type": "image", "path": "1.png"}]}],
     "answer": "A red ball.", "scores": ["exact", "spoken"]}
    {"task": "read", "speak": true, "answer": "A red ball lies on the table.", "scores": ["spoken_wer"]}

`word_times`, with `"speak": true`, are when another voice began the text, and when it ended each word, in seconds:
`[0.0, 0.31, ...]`, one number more than there are words. `josie evaluate --streaming` compares the model's own with it.

`"kind": "colour"` is optional: rows of a task that have one are also scored kind by kind.

`messages` are a conversation as `apply_chat_template` takes it, media paths relative to the file, that ends before the
answer. A row that has `"speak": true` in their place is read aloud. Rows of one task have the same scores.

Scores: `exact` is the share of written answers that are right to the letter, `wer` the word error rate of written
answers; `spoken` the share of spoken answers that are right to the word, `spoken_wer` their word error rate, as Whisper
tiny.en hears them, see `judge`. Which words are the same, `words` says.
"""

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np

from . import judge, words
from .answers import prepare_inputs, sampling_options, tokenize_speech

WRITTEN, SPOKEN = ("exact", "wer"), ("spoken", "spoken_wer")
SCORES = WRITTEN + SPOKEN
_SHARES = ("exact", "spoken")
# Names under which parts of messages have files, in any form that the processor takes.
_FILE_KEYS = frozenset(
    ["path", "url", "image", "audio", "video", "image_url", "audio_url", "video_url", "file", "files"]
)
_NOT_LOCAL = ("http://", "https://", "data:", "file:")


@dataclass
class Row:
    """A line of the file, and the answer to it.

    Args:
        line (`int`): Its number, from 1.
        task (`str`): Rows that are scored together.
        answer (`str`): The right text.
        scores (`list[str]`): Of `SCORES`.
        messages (`list[dict]`, *optional*): The question; `None` where `answer` is read aloud.
        written (`str`, *optional*): The text that the model wrote.
        heard (`str`, *optional*): The text that the judge heard; empty where there was no speech.
        word_times (`list[float]`, *optional*): When `answer` begins, and when each of its words ends, in seconds.
        kind (`str`, *optional*): Rows of a task that are scored apart, too.
    """

    line: int
    task: str
    answer: str
    scores: list[str]
    messages: list[dict[str, Any]] | None = None
    written: str | None = None
    heard: str | None = None
    word_times: list[float] | None = None
    kind: str | None = None


@dataclass
class TaskReport:
    """Scores of a task.

    Args:
        num_rows (`int`): Its rows.
        scores (`dict[str, float]`): Shares, from 0; above 1 where more words are wrong than there are.
        seconds (`float`): Time the model took, without loading and without the judge.
        judge_seconds (`float`): Time the judge took.
        kinds (`dict[str, KindReport]`): Scores of rows that have a `kind`.
    """

    num_rows: int
    scores: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    judge_seconds: float = 0.0
    kinds: dict[str, "KindReport"] = field(default_factory=dict)


@dataclass
class KindReport:
    """Scores of the rows of a task that are of one kind.

    Args:
        num_rows (`int`): Its rows.
        scores (`dict[str, float]`): As of [`TaskReport`].
    """

    num_rows: int
    scores: dict[str, float]


def read_tasks(path: Path) -> dict[str, list[Row]]:
    """Return the rows of a file, by task, in order.

    Args:
        path (`Path`): UTF-8, with or without a byte order mark.

    Raises:
        `ValueError`: There is no row, or a wrong one; the line is named.
    """
    tasks: dict[str, list[Row]] = {}
    kinds: set[tuple[str, str | None]] = set()
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"`--data` must be UTF-8 text, got {str(path)!r}: {error}.") from error
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        row = _read_row(line, number, path)
        rows = tasks.setdefault(row.task, [])
        rows.append(row)
        if row.scores != rows[0].scores or (row.messages is None) != (rows[0].messages is None):
            raise ValueError(
                f"`--data` must have one kind of rows in each task: got another in line {number} than in line "
                f"{rows[0].line}, both of {row.task!r}."
            )
        if (row.task, row.kind) not in kinds:
            _require_words(row)
        kinds.add((row.task, row.kind))
    if not tasks:
        raise ValueError(f"`--data` must have at least one row, got {str(path)!r}.")
    return tasks


def _require_words(row: Row) -> None:
    """Raise a `ValueError` where the first answer of a kind has no word that errors could be a share of."""
    rates = [name for name in row.scores if name not in _SHARES]
    if rates and not words.split_words(row.answer):
        raise ValueError(
            f"`--data` must have a word in the first answer of each task and kind with {rates} as `scores`, got "
            f"{row.answer!r} in line {row.line}."
        )


def _is_text(value: Any) -> bool:
    """Return whether a value is a text that says something, in Unicode; without the imports of other rooms."""
    return (
        isinstance(value, str) and bool(value.strip()) and not any("\ud800" <= letter <= "\udfff" for letter in value)
    )


def _read_row(line: str, number: int, path: Path) -> Row:
    def fail(required: str, got: Any) -> ValueError:
        return ValueError(f"`--data` must have {required}, got {got!r} in line {number}.")

    try:
        values = json.loads(line)
    except ValueError as error:
        raise fail("a JSON object in each line", line.strip()[:40]) from error
    if not isinstance(values, dict):
        raise fail("a JSON object in each line", values)
    values = {name: value for name, value in values.items() if value is not None}  # as in exports of tables
    unknown = values.keys() - {"task", "kind", "messages", "speak", "answer", "scores", "word_times"}
    if unknown:
        raise fail("only `task`, `kind`, `messages`, `speak`, `answer`, `scores` and `word_times`", sorted(unknown))
    for name in ("task", "answer", *(["kind"] if "kind" in values else [])):
        if not _is_text(values.get(name)):
            raise fail(f"a text as `{name}`", values.get(name))
    scores, messages, speaks = values.get("scores"), values.get("messages"), values.get("speak", False)
    if not isinstance(scores, list) or not scores or not set(map(str, scores)) <= set(SCORES):
        raise fail(f"some of {list(SCORES)} as `scores`", scores)
    if speaks is True and messages is None:
        if not set(scores) <= set(SPOKEN):
            raise fail(f"only {list(SPOKEN)} as `scores` of what is read aloud", scores)
    elif speaks is not False or not isinstance(messages, list) or not messages:
        raise fail('either `messages` or `"speak": true`', {"messages": messages, "speak": speaks})
    else:
        for message in messages:
            if not isinstance(message, dict) or not {"role", "content"} <= message.keys():
                raise fail("messages with `role` and `content`", message)
        if messages[-1]["role"] == "assistant":
            raise fail("messages that end with what is answered", messages[-1])
        messages = resolve_messages(messages, path.parent, fail)
    times = values.get("word_times")
    if times is not None and not (messages is None and _are_times(times, len(values["answer"].split()))):
        raise fail('a beginning and the end of each word as `word_times`, beside `"speak": true`', times)
    return Row(number, values["task"], values["answer"], scores, messages, word_times=times, kind=values.get("kind"))


def _are_times(times: Any, num_words: int) -> bool:
    """Return whether a value has a number more than there are words, which rise."""
    if not isinstance(times, list) or len(times) != num_words + 1:
        return False
    return all(isinstance(value, (int, float)) for value in times) and times == sorted(times) and times[0] >= 0


def resolve_messages(
    messages: list[dict[str, Any]], folder: Path, fail: Callable[[str, Any], ValueError]
) -> list[dict[str, Any]]:
    """Return messages in which the paths of files are relative to the working directory.

    Args:
        messages (`list[dict]`): With paths relative to `folder`.
        folder (`Path`): Of the file that names them.
        fail (`Callable`): Gives the error for what is required, and what came.

    Raises:
        `ValueError`: A file that there is not.
    """
    return [
        message | {name: _resolve_files(message[name], folder, fail) for name in ("content",) if name in message}
        for message in messages
    ]


def _resolve_files(value: Any, folder: Path, fail: Callable[[str, Any], ValueError]) -> Any:
    """Return a part of a message, of any form that the processor takes, with its paths resolved."""
    if isinstance(value, list):
        return [_resolve_files(item, folder, fail) for item in value]
    if not isinstance(value, dict):
        return value
    changed = dict(value)
    for name in _FILE_KEYS & value.keys():
        files = value[name] if isinstance(value[name], list) else [value[name]]
        files = [
            resolve_file(file, folder, fail) if isinstance(file, str) else _resolve_files(file, folder, fail)
            for file in files
        ]
        changed[name] = files if isinstance(value[name], list) else files[0]
    return changed


def resolve_file(path: str, folder: Path, fail: Callable[[str, Any], ValueError]) -> str:
    """Return a path relative to the working directory; arguments and errors as of [`resolve_messages`]."""
    if path.startswith(_NOT_LOCAL):
        return path
    file = folder / path
    if not file.is_file():
        raise fail("paths of files that exist", str(file))
    return str(file)


def needs_speech(rows: list[Row]) -> bool:
    """Return whether a score of a task's rows is of speech."""
    return any(name in SPOKEN for name in rows[0].scores)


def answer_rows(model: Any, processor: Any, rows: list[Row], options: dict[str, Any], max_new_tokens: int) -> list[Any]:
    """Have a model answer rows of a task, and write its texts down.

    Args:
        model ([`JosieForConditionalGeneration`]), processor ([`JosieProcessor`]): The model that answers.
        rows (`list[Row]`): With `messages`, where they are answered, or without, where they are read aloud.
            `written` is set.
        options (`dict`): Of the Talker.
        max_new_tokens (`int`): Longest answer.

    Returns:
        A waveform for each row, `(num_samples,)` or `(channels, num_samples)`, empty for an answer without words; none
        where no score needs them.
    """
    if rows[0].messages is None:
        inputs = tokenize_speech(processor, [row.answer for row in rows]).to(model.device)
        output = model.generate_speech(**inputs, tokenizer=processor.tokenizer, **options)
        return processor.post_process_multimodal_output(output, generation_mode="audio")
    speaks = needs_speech(rows)
    inputs = prepare_inputs(processor, [row.messages for row in rows]).to(model.device)
    output = model.generate(
        **inputs,
        generation_mode="audio" if speaks else "text",
        max_new_tokens=max_new_tokens,
        tokenizer=processor.tokenizer,
        return_dict_in_generate=True,
        **sampling_options(None),
        **(options if speaks else {}),
    )
    texts = processor.batch_decode(output.sequences[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    for row, text in zip(rows, texts, strict=True):
        row.written = text.strip()
    if not speaks:
        return []
    waveforms = processor.post_process_multimodal_output(output, generation_mode="audio")
    return [waveform if row.written else waveform[..., :0] for row, waveform in zip(rows, waveforms, strict=True)]


def run_task(
    rows: list[Row],
    answer: Callable[[list[Row]], list[Any]],
    batch_size: int,
    sampling_rate: int | None,
    on_rows: Callable[[int], None] = lambda num_rows: None,
) -> TaskReport:
    """Answer the rows of a task, listen to what is spoken, and score them.

    Args:
        rows (`list[Row]`): `written` and `heard` are set.
        answer: Answers a batch of rows and returns their waveforms, if any, see [`answer_rows`].
        batch_size (`int`): Rows at a time.
        sampling_rate (`int`, *optional*): Of the waveforms, in Hz.
        on_rows: Called with the number of rows that are done, after each batch.
    """
    result = TaskReport(len(rows))
    for start in range(0, len(rows), batch_size):
        batch, begin = rows[start : start + batch_size], time.perf_counter()
        waveforms = answer(batch)
        end = time.perf_counter()
        for row, waveform in zip(batch, waveforms, strict=True) if waveforms else ():
            row.heard = _listen(waveform, sampling_rate)
        result.seconds += end - begin
        result.judge_seconds += time.perf_counter() - end
        on_rows(len(batch))
    result.scores = {name: score(name, rows) for name in rows[0].scores}
    result.kinds = score_kinds(rows)
    return result


def score_kinds(rows: list[Row]) -> dict[str, KindReport]:
    """Return the scores of answered rows of a task for each kind, without rows that have none."""
    kinds: dict[str, list[Row]] = {}
    for row in rows:
        if row.kind is not None:
            kinds.setdefault(row.kind, []).append(row)
    return {
        kind: KindReport(len(found), {name: score(name, found) for name in found[0].scores})
        for kind, found in kinds.items()
    }


def compare_kinds(result: TaskReport, name: str) -> tuple[str, str, float]:
    """Return the kinds of a task that are worst and best by a score, and the mean of this score over its kinds.

    Args:
        result ([`TaskReport`]): With at least one kind.
        name (`str`): One of `SCORES`: a share, of which more is better, or a rate of errors.
    """
    values = {kind: found.scores[name] for kind, found in result.kinds.items()}
    ranked = sorted(values, key=values.__getitem__, reverse=name not in _SHARES)
    return ranked[0], ranked[-1], sum(values.values()) / len(values)


def _listen(waveform: np.ndarray, sampling_rate: Any) -> str:
    """Return the text that the judge hears; none where there is no audio."""
    from ..processing_josie import resample

    mono = np.atleast_2d(waveform).mean(axis=0)
    return judge.transcribe(resample(mono, sampling_rate, judge.SAMPLING_RATE)) if mono.size else ""


def is_right(name: str, row: Row) -> bool:
    """Return whether a row is right: the text to the letter, or what is heard to the word."""
    if name in SPOKEN:
        return words.split_words(row.heard or "") == words.split_words(row.answer)
    return row.written == row.answer.strip()


def score(name: str, rows: list[Row]) -> float:
    """Return one of `SCORES` of answered rows: a share of right ones, or the word error rate over all words."""
    if name in _SHARES:
        return sum(is_right(name, row) for row in rows) / len(rows)
    texts = [(row.heard if name in SPOKEN else row.written) or "" for row in rows]
    return words.word_error_rate(texts, [row.answer for row in rows])


def report_dict(command: str, tasks: dict[str, list[Row]], reports: dict[str, TaskReport]) -> dict[str, Any]:
    """Return scores and answers as they are written to a file: JSON, with the command and the date.

    Args:
        command (`str`): What was called.
        tasks (`dict[str, list[Row]]`): Answered rows of each task.
        reports (`dict[str, TaskReport]`): Scores of each task.
    """
    rows = [
        asdict(row) | {"right": {name: is_right(name, row) for name in row.scores if name in _SHARES}}
        for rows in tasks.values()
        for row in rows
    ]
    return {
        "command": command,
        "date": date.today().isoformat(),
        "tasks": {name: asdict(result) for name, result in reports.items()},
        "rows": rows,
    }
