"""Servers that run in a thread of the tests, and clients of theirs."""

import base64
import contextlib
import json
import math
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import soundfile
from websockets.sync.client import ClientConnection, connect

import josie
from josie.processing_josie.resampling import resample
from josie.serving.engine import Engine
from josie.serving.limits import Limits
from josie.serving.server import make_server

RATE = 24000
# Limits of a server that begins with every session, however slow the machine of the tests is just then.
OPEN_TO_ALL = dict.fromkeys(("max_real_time_factor", "max_lateness", "max_wait"), math.inf)


def load_engine(folder: Any, name: str = "tiny", **limits: Any) -> Engine:
    """Return the engine of a checkpoint, which is open to all but for the limits that are given."""
    model = josie.JosieForConditionalGeneration.from_pretrained(folder).eval().prepare_for_inference()
    return Engine(model, josie.JosieProcessor.from_pretrained(folder), name, Limits(**OPEN_TO_ALL | limits))


@contextlib.contextmanager
def running(engine: Engine, api_key: str | None = None) -> Iterator[int]:
    """Run a server on a free port of this machine; yield the port."""
    ports: list[int] = []
    started = threading.Event()

    def tell(port: int) -> None:
        ports.append(port)
        started.set()

    server = make_server(engine, "127.0.0.1", 0, api_key, tell)
    thread = threading.Thread(target=server.run, name="server")
    thread.start()
    try:
        assert started.wait(20)
        yield ports[0]
    finally:
        server.should_exit = True
        thread.join(20)
        assert not thread.is_alive()


class Talk:
    """A client of one session that keeps all events.

    Args:
        socket (`ClientConnection`): Its WebSocket.
    """

    def __init__(self, socket: ClientConnection):
        self.socket = socket
        self.events: list[dict[str, Any]] = []

    def send(self, kind: str, **values: Any) -> None:
        """Send an event."""
        self.socket.send(json.dumps({"type": kind, **values}))

    def send_audio(self, samples: np.ndarray, piece: int = 4800) -> None:
        """Send float samples at 24 kHz, cut into pieces."""
        for start in range(0, len(samples), piece):
            chunk = (samples[start : start + piece] * 32767).astype("<i2").tobytes()
            self.send("input_audio_buffer.append", audio=base64.b64encode(chunk).decode())

    def say(self, text: str, **response: Any) -> None:
        """Write to the model, and ask for an answer."""
        content = [{"type": "input_text", "text": text}]
        self.send("conversation.item.create", item={"type": "message", "role": "user", "content": content})
        self.send("response.create", **({"response": response} if response else {}))

    def take(self, seconds: float = 10) -> dict[str, Any]:
        """Return the next event."""
        event = json.loads(self.socket.recv(timeout=seconds))
        self.events.append(event)
        return event

    def until(self, kind: str, seconds: float = 10) -> dict[str, Any]:
        """Return the next event of a type."""
        while (event := self.take(seconds))["type"] != kind:
            assert event["type"] != "error" or kind == "error", event
        return event

    def quiet(self, seconds: float = 0.3) -> list[str]:
        """Return the types of what comes within some time."""
        found = []
        with contextlib.suppress(TimeoutError):
            while True:
                found.append(self.take(seconds)["type"])
        return found

    def settle(self, counted: list, seconds: float = 0.3) -> None:
        """Wait until a list grows no more, however long the processor takes."""
        before = -1
        while len(counted) != before:
            before = len(counted)
            self.quiet(seconds)

    def audio(self, response_id: str) -> np.ndarray:
        """Return the samples of an answer that came."""
        kind = "response.output_audio.delta"
        deltas = [e["delta"] for e in self.events if e["type"] == kind and e["response_id"] == response_id]
        return np.frombuffer(b"".join(map(base64.b64decode, deltas)), "<i2").astype(np.float32) / 32768


@contextlib.contextmanager
def talking(port: int, query: str = "", **options: Any) -> Iterator[Talk]:
    """Open a session, whose greeting has been taken."""
    with connect(f"ws://127.0.0.1:{port}/v1/realtime{query}", max_size=None, compression=None, **options) as socket:
        talk = Talk(socket)
        talk.until("session.created")
        yield talk


def spoken_question(before: float = 0.5, after: float = 0.8) -> np.ndarray:
    """Return a question at 24 kHz, with seconds of silence around it."""
    samples, rate = soundfile.read(josie.example_path("question.flac"), dtype="float32")
    silences = [np.zeros(int(seconds * RATE), np.float32) for seconds in (before, after)]
    return np.concatenate((silences[0], resample(samples, rate, RATE), silences[1]))
