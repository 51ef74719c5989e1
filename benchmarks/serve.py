"""`josie serve` under several conversations at once, over a thousand short ones, and under random events.

    python benchmarks/serve.py --sessions 1 4 8
    python benchmarks/serve.py --sessions 4 8 --apart
    python benchmarks/serve.py --short 1000
    python benchmarks/serve.py --events 100000

The model has nano's Thinker and Talker, and nano's JODIO as codec, so that it speaks while it writes; it was not
trained for that, and what it says is noise, of the cost of speech. Server and clients share the machine.

First audio: from the request to the first delta, at the client. Real-time factor: time between the first and the last
delta over the seconds of audio in all but the first. Underrun: how long a client that plays from the first delta on
waits for one of the later ones. Cancelled: from `speech_started` to the end of the answer that the speech interrupts.
`--apart` measures each number of sessions a second time, with steps that are made one by one.
"""

import argparse
import asyncio
import gc
import itertools
import math
import random
import resource
import statistics
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForMultimodalLM, AutoProcessor

import josie
from josie.serving.engine import Engine
from josie.serving.limits import Limits
from josie.serving.realtime.outbox import Outbox
from josie.serving.realtime.session import Session
from josie.serving.shared_steps import SharedSteps

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from serving_clients import Talk, running, spoken_question, talking
from serving_fuzz import draw_event

_TOKENS = 12  # of an answer
_ROUNDS = 2  # answers of a session


def make_engine() -> Engine:
    """Return nano with its processor."""
    model = AutoModelForMultimodalLM.from_pretrained(josie.nano_path()).eval().prepare_for_inference()
    limits = Limits(max_sessions=64, max_real_time_factor=math.inf)
    return Engine(model, AutoProcessor.from_pretrained(josie.nano_path()), "nano", limits)


class ApartSteps(SharedSteps):
    """Steps that every job makes for itself."""

    def run(self, ticket: Any, make: Callable, part: Any, key: Any, max_waiting_steps: int) -> Any:
        """Make a step of one job."""
        ticket.pass_on()
        return make([part])[0]


def percentile(values: list[float], share: float) -> float:
    """Return the value below which a share of them lies."""
    return sorted(values)[min(int(share * len(values)), len(values) - 1)]


def ask(talk: Talk) -> tuple[float, float, float, float]:
    """Ask once; return seconds to the first audio, real-time factor, largest underrun, seconds of speech."""
    begin = time.perf_counter()
    talk.say("How many things are there?", max_output_tokens=_TOKENS)
    times, lengths = [], []
    while (event := talk.take(120))["type"] != "response.done":
        if event["type"] == "response.output_audio.delta":
            times.append(time.perf_counter())
            lengths.append(len(event["delta"]) * 3 / 4 / 48000)
    received, underrun = 0.0, 0.0
    for moment, length in zip(times, lengths, strict=True):
        underrun = max(underrun, moment - times[0] - received)
        received += length
    return times[0] - begin, (times[-1] - times[0]) / max(sum(lengths[1:]), 1e-9), underrun, received


def run_threads(count: int, work: Callable[[], None]) -> None:
    """Run work in some threads at once."""
    threads = [threading.Thread(target=work) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def measure_sessions(engine: Engine, counts: list[int], apart: bool = False) -> None:
    """Print a row for each number of sessions.

    Args:
        engine ([`Engine`]): The model.
        counts (`list[int]`): Numbers of sessions.
        apart (`bool`): Whether to print another row of each without batches.
    """
    question = spoken_question(0.1, 0.0)
    print("sessions | first audio p50, p95 (s) | real-time factor p95 | largest underrun (s) | cancelled p95 (s)")
    with running(engine) as port:
        with talking(port) as talk:  # all that is made once
            ask(talk)
        for count, steps in itertools.product(counts, (SharedSteps(), ApartSteps()) if apart else (SharedSteps(),)):
            engine.workers.steps = steps
            rows: list[tuple[float, float, float, float]] = []
            stops: list[float] = []

            def work(port: int = port, rows: list = rows, stops: list = stops) -> None:
                with talking(port) as talk:
                    rows.extend([ask(talk) for _ in range(_ROUNDS)])
                    talk.send("session.update", session={"audio": {"input": {"transcription": None}}})
                    talk.say("How many things are there?", max_output_tokens=_TOKENS)
                    talk.until("response.output_audio.delta", 120)
                    talk.send_audio(question)
                    started = ended = None
                    while ended is None or started is None:
                        event = talk.take(120)
                        if event["type"] == "input_audio_buffer.speech_started":
                            started = time.perf_counter()
                        elif event["type"] == "response.done":
                            ended = time.perf_counter()
                            if event["response"]["status"] == "cancelled" and started is not None:
                                stops.append(ended - started)

            run_threads(count, work)
            firsts, factors, underruns, _ = zip(*rows, strict=True)
            stop = f"{percentile(stops, 0.95):.3f}" if stops else "none was"
            print(
                f"{count:8d} | {statistics.median(firsts):.3f}, {percentile(list(firsts), 0.95):.3f} | "
                f"{percentile(list(factors), 0.95):.2f} | {max(underruns):.3f} | {stop} ({len(stops)} of {count})"
                + " | one by one"
                * isinstance(steps, ApartSteps)
            )


def measure_memory(engine: Engine, count: int) -> None:
    """Print resident memory after each tenth of some short sessions."""
    with running(engine) as port:
        for number in range(count):
            with talking(port) as talk:
                talk.send_audio(spoken_question()[:4800])
                talk.say("Hello.", output_modalities=["text"], max_output_tokens=3)
                talk.until("response.done", 60)
            if (number + 1) % max(count // 10, 1) == 0:
                gc.collect()
                pages = int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[1])
                print(f"{number + 1:6d} sessions: {pages * resource.getpagesize() / 2**20:.0f} MB")


async def measure_events(engine: Engine, count: int) -> None:
    """Print how many of some random events were errors, and how many of these faults of the server."""
    kinds: dict[str, int] = {}
    draw, begin = random.Random(1), time.perf_counter()
    for _ in range(0, count, 1000):
        outbox = Outbox(30)
        session = Session(engine, outbox)

        async def drain(outbox: Outbox = outbox) -> None:
            while (event := await outbox.get()) is not None:
                kind = "fault" if (event.get("error") or {}).get("code") == "internal_error" else event["type"]
                kinds[kind] = kinds.get(kind, 0) + 1

        draining = asyncio.create_task(drain())
        await session.begin()
        for _ in range(min(1000, count)):
            await session.receive(draw_event(draw))
        await session.close()
        await draining
    seconds = time.perf_counter() - begin
    print(f"{count} events in {seconds:.0f} s: {kinds['error']} errors, {kinds.get('fault', 0)} faults")


def main() -> None:
    """Run what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sessions", type=int, nargs="+", default=[], help="numbers of conversations at once")
    parser.add_argument("--apart", action="store_true", help="also measure them with steps that are made one by one")
    parser.add_argument("--short", type=int, default=0, help="number of short conversations, one after the other")
    parser.add_argument("--events", type=int, default=0, help="number of random events")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of torch")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.sessions:
        measure_sessions(make_engine(), arguments.sessions, arguments.apart)
    if arguments.short:
        measure_memory(make_engine(), arguments.short)
    if arguments.events:
        asyncio.run(measure_events(make_engine(), arguments.events))


if __name__ == "__main__":
    main()
