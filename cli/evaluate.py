"""`josie evaluate`: scores of a checkpoint on a file of tasks, see `evaluation.tasks`."""

import shlex
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..evaluation.answers import talking_options
from .checkpoints import list_files, load_josie, load_processor, require_speech, require_streamed_speech, require_units
from .devices import choose_device
from .options import (
    Device,
    Dtype,
    Folder,
    MaxNewTokens,
    MaxSeconds,
    at_least_one,
    check_out,
    checked,
    existing_file,
    file_ending_in,
    refuse_given,
)
from .progress import counting, waiting
from .shared import print_table, report, writing_out

if TYPE_CHECKING:
    from ..evaluation.streaming import StreamedRow
    from ..evaluation.tasks import TaskReport


_BATCH_SIZE, _MAX_NEW_TOKENS = 16, 64


def evaluate_command(
    folder: Folder,
    data: Annotated[
        Path,
        typer.Option(metavar="FILE", help="Rows to answer, one JSON object a line.", callback=checked(existing_file)),
    ],
    num: Annotated[
        int | None, typer.Option(help="Only so many rows of each task, the first.", callback=checked(at_least_one))
    ] = None,
    batch_size: Annotated[
        int, typer.Option(help="Rows at a time; changes the time only.", callback=checked(at_least_one))
    ] = _BATCH_SIZE,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Also write scores and all answers to this .json file.", callback=checked(file_ending_in(".json"))
        ),
    ] = None,
    streaming: Annotated[
        bool,
        typer.Option(
            "--streaming",
            help="Also say each spoken answer in pieces: how soon they come, and whether they are the whole.",
        ),
    ] = False,
    duplex: Annotated[
        bool,
        typer.Option(
            "--duplex", help="The rows are conversations in full duplex: score how it takes turns, unit by unit."
        ),
    ] = False,
    max_new_tokens: MaxNewTokens = _MAX_NEW_TOKENS,
    max_seconds: MaxSeconds = None,
    device: Device = "auto",
    dtype: Dtype = None,
    threads: Annotated[
        int,
        typer.Option(
            help="Threads of torch on the processor. More help a large model on an idle machine; where cores are busy "
            "they wait for each other.",
            callback=checked(at_least_one),
        ),
    ] = 1,
) -> None:
    """Score what a checkpoint writes and says: exact answers, word errors, and what a listener hears."""
    if out is not None:
        check_out(out, file_ending_in(".json"), (data, *list_files(folder)))
    if duplex:
        of_turns: dict[str, Any] = {"--streaming": streaming, "--max-seconds": max_seconds}
        of_turns["--batch-size"] = None if batch_size == _BATCH_SIZE else batch_size
        of_turns["--max-new-tokens"] = None if max_new_tokens == _MAX_NEW_TOKENS else max_new_tokens
        refuse_given("go without `--duplex`", of_turns)
        given = {"data": data, "num": num, "duplex": True, "device": device, "dtype": dtype, "threads": threads}
        _evaluate_duplex(folder, data, num, out, given)
        return
    with waiting(f"Reading {data}"):
        from ..evaluation import judge, streaming as streams, tasks

        rows_of = {name: rows[:num] for name, rows in tasks.read_tasks(data).items()}
    if any(map(tasks.needs_speech, rows_of.values())):
        require_speech(folder, what_for=f" for {list(tasks.SPOKEN)}")
        judge.require_judge()
    else:
        of_speech = {"--max-seconds": max_seconds, "--streaming": streaming}
        refuse_given(f"go with scores of {list(tasks.SPOKEN)}", of_speech)
    if streaming:
        require_streamed_speech(folder, "--streaming", "leave it out")

    with waiting(f"Loading {folder}"):
        chosen_device = choose_device(device, threads)
        processor = load_processor(folder)
        model = load_josie(folder, chosen_device, dtype)
    options = talking_options(model, max_seconds)
    streamed: dict[str, list[StreamedRow]] = {}
    reports: dict[str, TaskReport] = {}
    for name, rows in rows_of.items():
        report(f"{name}: {len(rows)} rows ...")
        answer = partial(tasks.answer_rows, model, processor, options=options, max_new_tokens=max_new_tokens)
        with counting(name, len(rows)) as advance:
            reports[name] = tasks.run_task(rows, answer, batch_size, processor.output_sampling_rate, advance)
        if streaming and tasks.needs_speech(rows):
            say = partial(streams.stream_row, model, processor, options=options, max_new_tokens=max_new_tokens)
            with counting(f"{name} in pieces", len(rows)) as advance:
                streamed[name] = list(streams.stream_rows(rows, say, advance))
    _print_reports(str(folder), reports)
    if streamed:
        _print_streams({name: streams.summarise(rows) for name, rows in streamed.items()})
    if out is not None:
        given = {
            "data": data,
            "num": num,
            "batch-size": batch_size,
            "streaming": streaming or None,
            "max-new-tokens": max_new_tokens,
            "max-seconds": max_seconds,
            "device": chosen_device,
            "dtype": dtype,
            "threads": threads,
        }
        from ..conversion.files import write_json

        values = tasks.report_dict(_command(folder, out, given), rows_of, reports)
        if streamed:
            values["streaming"] = {name: streams.streamed_dict(rows) for name, rows in streamed.items()}
        with writing_out(out):
            write_json(out, values)


def _command(folder: Path, out: Path, given: dict[str, Any]) -> str:
    """Return the command line with all its options."""
    options = [
        (f"--{name}",) if value is True else (f"--{name}", str(value))
        for name, value in given.items()
        if value is not None
    ]
    words = [word for option in options for word in option]
    return shlex.join(["josie", "evaluate", str(folder), *words, "--out", str(out)])


def _evaluate_duplex(folder: Path, data: Path, num: int | None, out: Path | None, given: dict[str, Any]) -> None:
    """Score how a checkpoint takes turns, see `evaluation.duplex`."""
    require_units(folder)
    require_speech(folder)

    from ..conversion.files import write_json

    with waiting(f"Reading {data}"):
        from ..evaluation import duplex
        from ..training.unit_rows import read_timed_row

        read = duplex.read_duplex_rows(data)
    rows = [row for name in duplex.SITUATIONS for row in [row for row in read if row.situation == name][:num]]
    with waiting(f"Loading {folder}"):
        chosen_device = choose_device(given["device"], given["threads"])
        processor = load_processor(folder)
        model = load_josie(folder, chosen_device, given["dtype"])
    with counting("conversations", len(rows)) as advance:
        for row in rows:
            duplex.run_row(model, processor, row, read_timed_row, talker_seed=0)
            advance(1)
    values = duplex.duplex_dict(rows)
    _print_duplex(str(folder), values)
    if out is not None:
        with writing_out(out):
            write_json(out, {"command": _command(folder, out, given)} | values)


def _print_duplex(title: str, values: dict[str, Any]) -> None:
    from rich.table import Table

    groups = values["situations"] | {"all": values["scores"]}
    table = Table(title=title, caption="shares in percent; latencies and times to compute in seconds")
    table.add_column("score", justify="left")
    for name in groups:
        table.add_column(name, justify="right")
    for score in dict.fromkeys(score for group in groups.values() for score in group):
        cells = []
        for group in groups.values():
            value, is_time = group.get(score), "_p" in score and not score.startswith("pause")
            cells.append(
                ""
                if value is None
                else f"{value:.0f}"
                if score == "rows"
                else f"{value:.3f}"
                if is_time
                else f"{100 * value:.1f}"
            )
        table.add_row(score.replace("_", " "), *cells)
    print_table(table)


def _print_streams(figures: dict[str, dict[str, float]]) -> None:
    from rich.table import Table

    table = Table(title="in pieces", caption="seconds; whole: pieces that are the answer made at once, in percent")
    columns = {
        "first token": "first_token_p50",
        "first audio p50": "first_audio_p50",
        "p95": "first_audio_p95",
        "real-time p95": "real_time_factor_p95",
        "underrun": "underrun",
    }
    for name in ("task", "rows", "whole", *columns, "word times, ms"):
        table.add_column(name, justify="left" if name == "task" else "right")
    for task, values in figures.items():
        cells = [f"{values[name]:.3f}" if name in values else "" for name in columns.values()]
        times = f"{values['word_times_ms']:.0f}" if "word_times_ms" in values else ""
        table.add_row(task, f"{values['rows']:.0f}", f"{100 * values['whole']:.1f}", *cells, times)
    print_table(table)


def _print_reports(title: str, reports: "dict[str, TaskReport]") -> None:
    from rich.table import Table

    from ..evaluation.tasks import SCORES

    columns = [name for name in SCORES if any(name in result.scores for result in reports.values())]
    table = Table(title=title, caption="scores in percent; seconds of the model alone")
    for name in ("task", "rows", *columns, "seconds"):
        table.add_column(name, justify="left" if name == "task" else "right")
    for task, result in reports.items():
        table.add_row(task, str(result.num_rows), *_cells(result.scores, columns), f"{result.seconds:.1f}")
    print_table(table)
    if any(result.kinds for result in reports.values()):
        _print_kinds(reports, columns)


def _cells(scores: dict[str, float], columns: list[str]) -> list[str]:
    return [f"{100 * scores[name]:.1f}" if name in scores else "" for name in columns]


def _print_kinds(reports: "dict[str, TaskReport]", columns: list[str]) -> None:
    from rich.table import Table

    from ..evaluation.tasks import compare_kinds

    table = Table(title="kinds", caption="scores in percent")
    for name in ("task", "kind", "rows", *columns):
        table.add_column(name, justify="left" if name in ("task", "kind") else "right")
    for task, result in reports.items():
        for kind, found in result.kinds.items():
            table.add_row(task, kind, str(found.num_rows), *_cells(found.scores, columns))
    print_table(table)
    table = Table(title="worst and best kinds", caption="in percent; mean over the kinds")
    for name in ("task", "score", "worst", "", "best", "", "mean"):
        table.add_column(name, justify="left" if name in ("task", "score", "worst", "best") else "right")
    for task, result in reports.items():
        for name in result.scores if result.kinds else ():
            worst, best, mean = compare_kinds(result, name)
            shown = [(kind, f"{100 * result.kinds[kind].scores[name]:.1f}") for kind in (worst, best)]
            table.add_row(task, name, *shown[0], *shown[1], f"{100 * mean:.1f}")
    print_table(table)
