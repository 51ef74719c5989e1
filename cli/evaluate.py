"""`josie evaluate`: what a checkpoint answers and says to a file of tasks, and how much of it is right.

The file has a JSON object a line:

    {"task": "answer", "messages": [{"role": "user", "content": [{"type": "image", "path": "1.png"}]}],
     "answer": "A red ball.", "scores": ["exact", "spoken"]}
    {"task": "read", "speak": true, "answer": "A red ball lies on the table.", "scores": ["spoken_wer"]}

`messages` are a conversation as `apply_chat_template` takes it, media paths relative to the file. A row that has
`"speak": true` in their place is read aloud. Rows of one task have the same scores. What is spoken is heard by Whisper
tiny.en, see `judge`.
"""

import json
import shlex
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from datetime import date
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from .shared import (
    Folder,
    MaxNewTokens,
    MaxSeconds,
    load,
    prepare,
    print_table,
    readable,
    report,
    sampling_options,
    talking_options,
)

WRITTEN, SPOKEN = ("exact", "wer"), ("spoken", "spoken_wer")
SCORES = WRITTEN + SPOKEN


@dataclass
class Row:
    """A line of the file, and what became of it.

    Args:
        line (`int`): Where it stands, from 1.
        task (`str`): What it is scored with.
        answer (`str`): The right text.
        scores (`list[str]`): Of `SCORES`.
        messages (`list[dict]`, *optional*): What is asked; `None` where `answer` is read aloud.
        written (`str`, *optional*): What the model wrote.
        heard (`str`, *optional*): The words that the judge heard; none where there was no speech.
    """

    line: int
    task: str
    answer: str
    scores: list[str]
    messages: list[dict[str, Any]] | None = None
    written: str | None = None
    heard: str | None = None


@dataclass
class TaskReport:
    """What a task came to.

    Args:
        num_rows (`int`): Its rows.
        scores (`dict[str, float]`): Shares, from 0; above 1 where more words are wrong than there are.
        seconds (`float`): Time the model took, without loading and without the judge.
        judge_seconds (`float`): Time the judge took.
    """

    num_rows: int
    scores: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    judge_seconds: float = 0.0


def evaluate_command(
    folder: Folder,
    data: Annotated[Path, typer.Option(metavar="FILE", help="Rows to answer, one JSON object a line.")],
    num: Annotated[int | None, typer.Option(help="Only so many rows of each task, the first.")] = None,
    batch_size: Annotated[int, typer.Option(help="Rows at a time; changes the time only.")] = 16,
    out: Annotated[Path | None, typer.Option(help="Also write scores and all answers to this .json file.")] = None,
    max_new_tokens: MaxNewTokens = 64,
    max_seconds: MaxSeconds = None,
    threads: Annotated[int | None, typer.Option(help="Threads of torch.")] = None,
) -> None:
    """Score what a checkpoint writes and says: exact answers, word errors, and what a listener hears."""
    counts = {"num": num, "batch-size": batch_size, "max-new-tokens": max_new_tokens, "threads": threads}
    for name, value in counts.items():
        if value is not None and value < 1:
            raise ValueError(f"`--{name}` must be at least 1, got {value}.")
    if out is not None and (out.suffix != ".json" or out.is_dir() or not out.absolute().parent.is_dir()):
        raise ValueError(f"`--out` must be a .json file in an existing folder, got {str(out)!r}.")
    tasks = {name: rows[:num] for name, rows in read_tasks(readable("--data", data)).items()}
    listens = any(name in SPOKEN for rows in tasks.values() for name in rows[0].scores)

    from ..evaluation import judge

    if listens:
        judge.require_judge()

    import torch

    if threads is not None:
        torch.set_num_threads(threads)
    model, processor = load(folder)
    if listens and "audio" not in model.output_modalities:
        raise ValueError(f"`DIR` must hold a model that speaks for {list(SPOKEN)}, got {str(folder)!r}.")
    options = talking_options(model, max_seconds)
    reports = {}
    for name, rows in tasks.items():
        report(f"{name}: {len(rows)} rows ...")
        answer = answer_rows if rows[0].messages is not None else read_rows_aloud
        run = partial(answer, model, processor, options=options, max_new_tokens=max_new_tokens)
        reports[name] = run_task(rows, run, batch_size, processor.output_sampling_rate)
    _print_reports(str(folder), reports)
    if out is not None:
        given = [
            (f"--{option}", value) for option, value in {"data": data, **counts, "max-seconds": max_seconds}.items()
        ]
        words = [str(word) for option, value in given if value is not None for word in (option, value)]
        _write(out, shlex.join(["josie", "evaluate", str(folder), *words, "--out", str(out)]), tasks, reports)


def read_tasks(path: Path) -> dict[str, list[Row]]:
    """Return the rows of a file, by task, in order.

    Raises:
        `ValueError`: There is none, or one is not as it must be; the line is named.
    """
    tasks: dict[str, list[Row]] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
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
    if not tasks:
        raise ValueError(f"`--data` must have at least one row, got {str(path)!r}.")
    return tasks


def _read_row(line: str, number: int, path: Path) -> Row:
    def fail(what: str, got: Any) -> ValueError:
        return ValueError(f"`--data` must have {what}, got {got!r} in line {number}.")

    try:
        values = json.loads(line)
    except ValueError as error:
        raise fail("a JSON object in each line", line[:40]) from error
    if not isinstance(values, dict):
        raise fail("a JSON object in each line", values)
    unknown = values.keys() - {"task", "messages", "speak", "answer", "scores"}
    if unknown:
        raise fail("only `task`, `messages`, `speak`, `answer` and `scores`", sorted(unknown))
    for name in ("task", "answer"):
        if not isinstance(values.get(name), str) or not values[name].strip():
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
        messages = [_resolve_paths(message, path.parent, fail) for message in messages]
    return Row(number, values["task"], values["answer"], scores, messages)


def _resolve_paths(message: Any, folder: Path, fail: Callable[[str, Any], ValueError]) -> dict[str, Any]:
    """Return a message in which the paths of files are relative to the working directory."""
    if not isinstance(message, dict) or not {"role", "content"} <= message.keys():
        raise fail("messages with `role` and `content`", message)
    if not isinstance(message["content"], list):
        return message
    parts = []
    for part in message["content"]:
        if isinstance(part, dict) and "path" in part:
            file = folder / str(part["path"])
            if not file.is_file():
                raise fail("paths of files that exist", str(file))
            part = part | {"path": str(file)}
        parts.append(part)
    return message | {"content": parts}


def answer_rows(model: Any, processor: Any, rows: list[Row], options: dict[str, Any], max_new_tokens: int) -> list[Any]:
    """Let a model answer rows of a task, and write down what it wrote.

    Args:
        model ([`JosieForConditionalGeneration`]), processor ([`JosieProcessor`]): What answers.
        rows (`list[Row]`): With `messages`; `written` is set.
        options (`dict`): Of the Talker.
        max_new_tokens (`int`): Longest answer.

    Returns:
        A waveform for each row, `(num_samples,)` or `(channels, num_samples)`; none where no score needs them.
    """
    inputs = prepare(processor, [row.messages for row in rows])
    speaks = any(name in SPOKEN for name in rows[0].scores)
    output = model.generate(
        **inputs,
        generation_mode="audio" if speaks else "text",
        max_new_tokens=max_new_tokens,
        return_dict_in_generate=True,
        **sampling_options(None),
        **(options if speaks else {}),
    )
    texts = processor.batch_decode(output.sequences[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    for row, text in zip(rows, texts, strict=True):
        row.written = text.strip()
    return processor.post_process_multimodal_output(output, generation_mode="audio") if speaks else []


def read_rows_aloud(
    model: Any, processor: Any, rows: list[Row], options: dict[str, Any], max_new_tokens: int
) -> list[Any]:
    """Let a model say the answers of rows as they are; arguments and result as of [`answer_rows`]."""
    del max_new_tokens  # nothing is written
    # What looks like a special token in the text is said as it is written.
    text = {"padding": True, "return_tensors": "pt", "add_special_tokens": False, "split_special_tokens": True}
    inputs = processor.tokenizer([row.answer for row in rows], **text)
    output = model.generate_speech(inputs["input_ids"], attention_mask=inputs["attention_mask"], **options)
    return processor.post_process_multimodal_output(output, generation_mode="audio")


def run_task(
    rows: list[Row], run: Callable[[list[Row]], list[Any]], batch_size: int, sampling_rate: int | None
) -> TaskReport:
    """Answer the rows of a task, listen to what is spoken, and score them.

    Args:
        rows (`list[Row]`): `written` and `heard` are set.
        run: Answers a batch of rows and returns their waveforms, if any.
        batch_size (`int`): Rows at a time.
        sampling_rate (`int`, *optional*): Of the waveforms, in Hz.
    """
    result = TaskReport(len(rows))
    for start in range(0, len(rows), batch_size):
        batch, begin = rows[start : start + batch_size], time.perf_counter()
        waveforms = run(batch)
        end = time.perf_counter()
        for row, waveform in zip(batch, waveforms, strict=True) if waveforms else ():
            row.heard = _listen(waveform, sampling_rate)
        result.seconds += end - begin
        result.judge_seconds += time.perf_counter() - end
    result.scores = {name: score(name, rows) for name in rows[0].scores}
    return result


def _listen(waveform: Any, sampling_rate: Any) -> str:
    """Return the words that the judge hears; none where there is no sound."""
    import numpy as np

    from ..evaluation import judge
    from ..processing_josie import resample

    mono = np.atleast_2d(waveform).mean(axis=0)
    return " ".join(judge.hear_words(resample(mono, sampling_rate, judge.SAMPLING_RATE))) if mono.size else ""


def is_right(name: str, row: Row) -> bool:
    """Return whether a row is right: the text to the letter, or what is heard to the word."""
    from ..evaluation import judge

    if name in SPOKEN:
        return judge.split_words(row.heard or "") == judge.split_words(row.answer)
    return row.written == row.answer.strip()


def score(name: str, rows: list[Row]) -> float:
    """Return one of `SCORES` of answered rows: a share of right ones, or the word error rate over all words."""
    from ..evaluation import judge

    if name in ("exact", "spoken"):
        return sum(is_right(name, row) for row in rows) / len(rows)
    texts = [(row.heard if name in SPOKEN else row.written) or "" for row in rows]
    return judge.word_error_rate(texts, [row.answer for row in rows])


def _print_reports(title: str, reports: dict[str, TaskReport]) -> None:
    from rich.table import Table

    columns = [name for name in SCORES if any(name in report.scores for report in reports.values())]
    table = Table(title=title, caption="scores in percent; seconds of the model alone")
    for name in ("task", "rows", *columns, "seconds"):
        table.add_column(name, justify="left" if name == "task" else "right")
    for task, result in reports.items():
        cells = [f"{100 * result.scores[name]:.1f}" if name in result.scores else "" for name in columns]
        table.add_row(task, str(result.num_rows), *cells, f"{result.seconds:.1f}")
    print_table(table)


def _write(out: Path, command: str, tasks: dict[str, list[Row]], reports: dict[str, TaskReport]) -> None:
    """Write scores and answers, the command and the date."""
    from ..conversion.files import new_file

    rows = [
        asdict(row) | {"right": {name: is_right(name, row) for name in row.scores if name in ("exact", "spoken")}}
        for rows in tasks.values()
        for row in rows
    ]
    values = {
        "command": command,
        "date": date.today().isoformat(),
        "tasks": {name: asdict(result) for name, result in reports.items()},
        "rows": rows,
    }
    with new_file(out) as unfinished:
        unfinished.write_text(json.dumps(values, indent=2, ensure_ascii=False, default=str) + "\n", encoding="utf-8")
