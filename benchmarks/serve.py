"""`josie serve` under several conversations at once, over a thousand short ones, and under random events.

    python benchmarks/serve.py --sessions 1 4 8
    python benchmarks/serve.py --sessions 4 8 --apart
    python benchmarks/serve.py --duplex 1 4 8
    python benchmarks/serve.py --arrivals 24
    python benchmarks/serve.py --short 1000
    python benchmarks/serve.py --events 100000

The model is nano. But for `--duplex` turns are detected, as of a model that did not learn when to speak. Server and
clients share the machine.

First audio: from the request to the first delta, at the client. Real-time factor: time between the first and the last
delta over the seconds of audio in all but the first. Underrun: how long a client that plays from the first delta on
waits for one of the later ones. Cancelled: from `speech_started` to the end of the answer that the speech interrupts.
`--apart` measures each number of sessions a second time, with steps that are made one by one. `--duplex`: each client
sends a spoken question and the silence behind it in pieces of 20 ms, as time goes on, and the model decides when it
answers. First audio is from the end of the question on, underrun as before.

`--arrivals`: one client more comes every second and a half, and asks again and again until the end, unless the server
refuses it. In the other measures the server refuses nobody.
"""

import argparse
import asyncio
import dataclasses
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

import numpy as np
import torch
from transformers import AutoModelForMultimodalLM, AutoProcessor
from websockets.sync.client import connect

import josie
from josie.serving.engine import Engine
from josie.serving.limits import Limits
from josie.serving.realtime.outbox import Outbox
from josie.serving.realtime.session import Session
from josie.serving.shared_steps import SharedSteps

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from serving_clients import RATE, Talk, running, spoken_question, talking
from serving_fuzz import draw_event

_TOKENS = 12  # of an answer
_ROUNDS = 2  # answers of a session
_PIECE = 0.02  # seconds of audio that a client in full duplex sends at once
_PATIENCE = 6.0  # seconds in which it expects an answer
_ARRIVAL = 1.5  # seconds between two clients that come
_LATE = 0.1  # seconds of underrun from which on a listener is kept waiting


def make_engine(decides_turns: bool = False, refuses: bool = False) -> Engine:
    """Return nano with its processor, which decides itself when to speak, and refuses sessions, or not."""
    model = AutoModelForMultimodalLM.from_pretrained(josie.nano_path()).eval().prepare_for_inference()
    if not decides_turns:
        model.config.thinker_config.unit_frames = None
    limits = Limits(max_sessions=64)
    if not refuses:
        limits = dataclasses.replace(limits, max_real_time_factor=math.inf, max_lateness=math.inf, max_wait=math.inf)
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
    times, lengths = take_speech(talk, 120)
    factor = (times[-1] - times[0]) / max(sum(lengths[1:]), 1e-9)
    return times[0] - begin, factor, find_underrun(times, lengths), sum(lengths)


def take_speech(talk: Talk, seconds: float) -> tuple[list[float], list[float]]:
    """Return when each piece of the next answer comes, and how many seconds it is long."""
    times, lengths = [], []
    while (event := talk.take(seconds))["type"] != "response.done":
        if event["type"] == "response.output_audio.delta":
            times.append(time.perf_counter())
            lengths.append(len(event["delta"]) * 3 / 4 / 48000)
    return times, lengths


def find_underrun(times: list[float], lengths: list[float]) -> float:
    """Return for how many seconds a player that begins with the first piece waits for a later one, at most."""
    received, underrun = 0.0, 0.0
    for moment, length in zip(times, lengths, strict=True):
        underrun = max(underrun, moment - times[0] - received)
        received += length
    return underrun


def converse(port: int) -> tuple[float, float] | None:
    """Ask aloud as time goes on; return seconds from the question's end to the first audio, and the largest underrun.

    `None` where no answer came.
    """
    question, size = spoken_question(0.5, 0.0), round(_PIECE * RATE)
    asked: list[float] = []
    is_over = threading.Event()
    with talking(port) as talk:

        def send() -> None:
            begin, number = time.perf_counter(), 0
            while not is_over.is_set():
                piece = question[number * size : (number + 1) * size]
                talk.send_audio(np.pad(piece, (0, size - len(piece))))
                number += 1
                if not asked and number * size >= len(question):
                    asked.append(time.perf_counter())
                time.sleep(max(begin + number * _PIECE - time.perf_counter(), 0))

        sender = threading.Thread(target=send)
        sender.start()
        try:
            talk.until("response.created", len(question) / RATE + _PATIENCE)
            times, lengths = take_speech(talk, _PATIENCE)
        except TimeoutError:
            return None
        finally:
            is_over.set()
            sender.join()
    return times[0] - asked[0], find_underrun(times, lengths)


def measure_duplex(engine: Engine, counts: list[int]) -> None:
    """Print a row for each number of conversations in full duplex."""
    print("conversations | answered | first audio p50, p95 (s) | largest underrun (s)")
    with running(engine) as port:
        converse(port)  # all that is made once
        for count in counts:
            rows: list[tuple[float, float] | None] = []
            for _ in range(_ROUNDS):
                run_threads(count, lambda rows=rows: rows.append(converse(port)))
            found = [row for row in rows if row is not None]
            firsts = [first for first, _ in found] or [math.nan]
            print(
                f"{count:13d} | {len(found)} of {len(rows)} | {statistics.median(firsts):.3f}, "
                f"{percentile(firsts, 0.95):.3f} | {max([underrun for _, underrun in found], default=math.nan):.3f}"
            )


def measure_arrivals(engine: Engine, count: int) -> None:
    """Print who is let in of clients that come one after the other, and how these are served."""
    is_over = threading.Event()
    rows: list[tuple[float, float, float, float]] = []
    refused: list[int] = []

    def work(number: int, port: int) -> None:
        with connect(f"ws://127.0.0.1:{port}/v1/realtime", max_size=None, compression=None) as socket:
            talk = Talk(socket)
            if talk.take()["type"] == "error":
                refused.append(number)
                return
            while not is_over.is_set():
                rows.append(ask(talk))

    with running(engine) as port:
        with talking(port) as talk:  # all that is made once
            ask(talk)
        threads = [threading.Thread(target=work, args=(number, port)) for number in range(1, count + 1)]
        for thread in threads:
            thread.start()
            time.sleep(_ARRIVAL)
        is_over.set()
        for thread in threads:
            thread.join()
    firsts, factors, underruns, _ = map(list, zip(*rows, strict=True))
    late = sum(underrun > _LATE for underrun in underruns)
    print(f"{count} came, {count - len(refused)} were let in; the first refused is number {min(refused, default=0)}")
    print(
        f"{len(rows)} answers: first audio p50, p95 {statistics.median(firsts):.3f}, {percentile(firsts, 0.95):.3f} s; "
        f"real-time factor p95 {percentile(factors, 0.95):.2f}; underrun p95 {percentile(underruns, 0.95):.3f}, "
        f"largest {max(underruns):.3f} s; {late} answers were late by more than {_LATE} s"
    )


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
    parser.add_argument("--duplex", type=int, nargs="+", default=[], help="numbers of conversations in full duplex")
    parser.add_argument("--arrivals", type=int, default=0, help="number of clients that come one after the other")
    parser.add_argument("--short", type=int, default=0, help="number of short conversations, one after the other")
    parser.add_argument("--events", type=int, default=0, help="number of random events")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of torch")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.sessions:
        measure_sessions(make_engine(), arguments.sessions, arguments.apart)
    if arguments.duplex:
        measure_duplex(make_engine(decides_turns=True), arguments.duplex)
    if arguments.arrivals:
        measure_arrivals(make_engine(refuses=True), arguments.arrivals)
    if arguments.short:
        measure_memory(make_engine(), arguments.short)
    if arguments.events:
        asyncio.run(measure_events(make_engine(), arguments.events))


if __name__ == "__main__":
    main()
