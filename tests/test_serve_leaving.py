"""Clients that leave, and servers that end: nothing is worked at for nobody, and who waits for an answer is told."""

import asyncio
import contextlib
import http.client
import io
import json
import logging
import signal
import socket
import time

import numpy as np
import pytest
import soundfile
from serving_clients import load_engine, running

from josie.serving.app import make_app
from josie.serving.server import make_server
from josie.serving.token_stream import Piece

HELLO = {"model": "tiny", "messages": [{"role": "user", "content": "Hello."}]}
SAID = {"model": "tiny", "voice": "ada", "input": "It is blue."}


def form():
    """Return a form with a clip."""
    file = io.BytesIO()
    soundfile.write(file, np.zeros(2400), 24000, format="WAV")
    head = '--edge\r\nContent-Disposition: form-data; name="{}"\r\n\r\n'
    clip = head.format('file"; filename="a.wav').encode() + file.getvalue()
    return clip + b"\r\n" + head.format("model").encode() + b"tiny\r\n--edge--\r\n"


CHAT, SPEECH, TRANSCRIPTION = "/v1/chat/completions", "/v1/audio/speech", "/v1/audio/transcriptions"
AUDIO = {"modalities": ["text", "audio"]}
WHOLE = {
    "mp3": (SPEECH, json.dumps(SAID).encode()),
    "flac": (SPEECH, json.dumps(SAID | {"response_format": "flac"}).encode()),
    "chat": (CHAT, json.dumps(HELLO).encode()),
    "spoken chat": (CHAT, json.dumps(HELLO | AUDIO).encode()),
    "transcription": (TRANSCRIPTION, form()),
}
STREAMED = {
    "wav": (SPEECH, json.dumps(SAID | {"response_format": "wav"}).encode()),
    "events": (CHAT, json.dumps(HELLO | {"stream": True}).encode()),
    "events of speech": (SPEECH, json.dumps(SAID | {"stream_format": "sse"}).encode()),
}


def send(clients, port, path, body):
    """Return a connection that has sent a request, and is closed with all `clients`."""
    connection = clients.enter_context(contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=30)))
    connection.request("POST", path, body, {"content-type": "multipart/form-data; boundary=edge"})
    return connection


def wait_for_jobs(engine, count, seconds=20):
    """Wait until so many jobs are worked at."""
    end = time.monotonic() + seconds
    while engine.workers.num_jobs != count and time.monotonic() < end:
        time.sleep(0.01)
    assert engine.workers.num_jobs == count


def make_endless(engine, num_pieces):
    """Make an engine give some pieces of each answer, and then work on until it is cancelled."""

    def work(job, *args):
        for _ in range(num_pieces):
            job.put(Piece(tokens=[40], text="a", samples=np.zeros(2400, np.float32)))
        while True:
            job.ticket.pass_on()
            time.sleep(0.001)

    engine._say = engine._answer = work


@contextlib.contextmanager
def logged():
    """Give the list of what a server logs meanwhile."""
    records: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: records.append(record.getMessage())
    logger = logging.getLogger("uvicorn.error")
    logger.addHandler(handler)
    try:
        yield records
    finally:
        logger.removeHandler(handler)


class TestClients:
    @pytest.mark.parametrize("num_pieces", [0, 1])
    @pytest.mark.parametrize("name", [*WHOLE, *STREAMED])
    def test_the_work_for_one_that_hangs_up_ends(self, port, engine, name, num_pieces):
        make_endless(engine, num_pieces)
        path, body = (WHOLE | STREAMED)[name]
        head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n"
        with logged() as records:
            with socket.create_connection(("127.0.0.1", port)) as client:
                client.sendall(f"{head}Content-Type: multipart/form-data; boundary=edge\r\n\r\n".encode() + body)
                wait_for_jobs(engine, 1)
            wait_for_jobs(engine, 0)
        assert not records

    @pytest.mark.parametrize("name", WHOLE)
    def test_one_that_hangs_up_while_it_sends_is_no_fault(self, engine, name):
        path, body = WHOLE[name]
        messages = [{"type": "http.request", "body": body[:20], "more_body": True}, {"type": "http.disconnect"}]
        sent = []

        async def receive():
            return messages.pop(0)

        async def take(message):
            sent.append(message)

        scope = {
            "type": "http",
            "method": "POST",
            "path": path,
            "query_string": b"",
            "headers": [(b"host", b"localhost")],
        }
        asyncio.run(make_app(engine)(scope, receive, take))
        assert not messages
        assert engine.workers.num_jobs == 0


@pytest.mark.parametrize("name", WHOLE)
def test_an_answer_that_takes_too_long_is_told_so(speaking_folder, name):
    engine = load_engine(speaking_folder, response_seconds=0.05)
    make_endless(engine, 0)
    with contextlib.ExitStack() as clients, running(engine) as port:
        response = send(clients, port, *WHOLE[name]).getresponse()
        assert response.status == 504
        assert json.loads(response.read())["error"]["message"] == "The answer took too long."
        wait_for_jobs(engine, 0)


class TestServers:
    def test_who_waits_for_an_answer_is_told_of_the_end(self, speaking_folder, monkeypatch):
        monkeypatch.setattr("josie.serving.server._LEAVING_SECONDS", 60)  # the processor may be slow
        engine = load_engine(speaking_folder)
        make_endless(engine, 1)
        with logged() as records, contextlib.ExitStack() as clients:
            with running(engine) as port:
                streams = [send(clients, port, *STREAMED[name]).getresponse() for name in STREAMED if name != "wav"]
                whole = [send(clients, port, *request) for request in WHOLE.values()]
                wait_for_jobs(engine, len(streams) + len(whole))
            for connection in whole:
                response = connection.getresponse()
                assert response.status == 503
                assert json.loads(response.read())["error"]["code"] == "server_stopped"
            for response in streams:
                events = response.read().decode().split("\n\n")
                assert any('"code": "server_stopped"' in event for event in events[-3:])
        assert not records

    def test_audio_that_is_cut_does_not_pass_for_whole(self, speaking_folder):
        engine = load_engine(speaking_folder)
        make_endless(engine, 1)
        with logged() as records, contextlib.ExitStack() as clients:
            with running(engine) as port:
                response = send(clients, port, *STREAMED["wav"]).getresponse()
            with pytest.raises(http.client.IncompleteRead):
                response.read()
        assert not records

    @pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="needs terminals that hang up")
    def test_a_closed_terminal_ends_it(self, engine):
        server, raised = make_server(engine, "127.0.0.1", 0), []
        before = signal.signal(signal.SIGHUP, lambda number, _: raised.append(number))
        try:
            with server.capture_signals():
                signal.raise_signal(signal.SIGHUP)
                assert server.should_exit
                assert not raised
            assert raised == [signal.SIGHUP]  # again, for whoever has begun the server
        finally:
            signal.signal(signal.SIGHUP, before)

    def test_a_second_ctrl_c_ends_it_at_once(self, engine):
        left = []
        server = make_server(engine, "127.0.0.1", 0, on_leave=lambda: left.append(True))
        server.handle_exit(signal.SIGINT, None)
        assert server.should_exit
        assert not left
        server.handle_exit(signal.SIGINT, None)
        assert left
