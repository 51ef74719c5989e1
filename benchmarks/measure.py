"""Timing shared by the benchmarks: contestants take turns in one process; medians, spread, a table, optional JSON."""

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path

import torch
import transformers


def parse_arguments(
    description: str, folders: dict[str, str] | None = None, flags: dict[str, str] | None = None, **defaults: int
) -> argparse.Namespace:
    """Return the options of a benchmark: `--json`, `--rounds`, `--threads` and its own.

    Args:
        description (`str`): What it measures.
        folders (`dict[str, str]`, *optional*): Options that take a path, and their help.
        flags (`dict[str, str]`, *optional*): Switches, and their help.
        defaults: Options that take an integer, and their values where they are not given.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--json", type=Path, help="also write the table to this file")
    parser.add_argument("--rounds", type=int, default=7, help="timed runs of each contestant")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="threads of torch")
    for name, text in (folders or {}).items():
        parser.add_argument("--" + name, type=Path, metavar="DIR", help=text)
    for name, text in (flags or {}).items():
        parser.add_argument("--" + name.replace("_", "-"), action="store_true", help=text)
    for name, value in defaults.items():
        parser.add_argument("--" + name.replace("_", "-"), type=int, default=value)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    return arguments


def find_processor() -> str:
    """Return the name of the processor, and whether it has AVX-512, which decides much of torch's speed."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.exists() else []
    fields = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    name = fields.get("model name") or platform.processor() or platform.machine()
    return f"{name} with AVX-512" if "avx512f" in fields.get("flags", "") else name


def measure(
    contestants: dict[str, Callable[[], object]], rounds: int, warmup: int = 2, learns: bool = False
) -> dict[str, list[float]]:
    """Run the contestants in turns and return the seconds of each run, so that drift of the machine hits all alike.

    Args:
        contestants: What is run, by name.
        rounds (`int`): Timed runs of each.
        warmup (`int`): Runs of each before them.
        learns (`bool`): Whether a run needs gradients.
    """
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    with torch.enable_grad() if learns else torch.inference_mode():
        for index in range(warmup + rounds):
            for name, run in contestants.items():
                start = time.perf_counter()
                run()
                if index >= warmup:
                    seconds[name].append(time.perf_counter() - start)
    return seconds


def report(
    title: str, seconds: dict[str, list[float]], amount: float, unit: str, arguments: argparse.Namespace
) -> dict:
    """Print one table: rates in `unit` a second (`amount` of them are done in a run), and the ratio to the last row.

    Args:
        title (`str`): What was measured.
        seconds: What [`measure`] returned; the last contestant is the peer.
        amount (`float`): How much one run does.
        unit (`str`): Of what.

    Returns:
        The rows, which also go to `arguments.json`.
    """
    peer = list(seconds)[-1]
    rows = {}
    for name, runs in seconds.items():
        ratios = [theirs / ours for ours, theirs in zip(runs, seconds[peer], strict=True)]
        rows[name] = {
            "median": amount / statistics.median(runs),
            "slowest": amount / max(runs),
            "fastest": amount / min(runs),
            "ratio": statistics.median(ratios),
        }
    print(f"\n{title}  ({len(seconds[peer])} runs each, {arguments.threads} threads, torch {torch.__version__},")
    print(f"transformers {transformers.__version__}, {find_processor()}, {date.today()})")
    print(f"{'':28}{unit + '/s':>14}{'slowest':>12}{'fastest':>12}{'times ' + peer:>24}")
    for name, row in rows.items():
        print(f"{name:28}{row['median']:14.1f}{row['slowest']:12.1f}{row['fastest']:12.1f}{row['ratio']:24.2f}")
    if arguments.json:
        results = json.loads(arguments.json.read_text()) if arguments.json.exists() else {}
        arguments.json.write_text(json.dumps(results | {title: rows}, indent=2) + "\n")
    return rows
