"""Hostile and clumsy clients: each gets an error or a close, and nobody else notices."""

import asyncio
import base64
import itertools
import json
import random
import re
import signal
import socket
import struct
import subprocess
import sys
import time
import zlib
from types import SimpleNamespace
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest
from serving_clients import load_engine, running, spoken_question, talking
from serving_fuzz import draw_event, errors_of
from this_tree import ROOT
from typer.testing import CliRunner
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from josie.cli.app import app
from josie.serving import timed_http
from josie.serving.guard import Guard
from josie.serving.limits import Limits
from josie.serving.pace import Pace


@pytest.fixture(scope="module")
def engine(speaking_folder):
    """A tiny model that speaks while it writes."""
    return load_engine(speaking_folder, max_sessions=3, max_jobs=6, max_body_bytes=1 << 20, idle_seconds=30)


def ask(port, path="/health", body=None, **headers):
    """Return status, headers and JSON of a request."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    request = Request(f"http://127.0.0.1:{port}{path}", body, named)
    try:
        with urlopen(request) as response:
            return response.status, response.headers, response.read()
    except HTTPError as error:
        return error.code, error.headers, error.read()


def say_too_much(talk):
    """Send an event that is too large, in two parts: a close may be lost to a client that still has much to send."""
    talk.socket.send(['{"audio": "' + "A" * ((1 << 20) - 100), "A" * 1000])
    talk.until("nothing")


def png(width, height):
    """Return the head of a PNG of a size, as a data URL."""

    def chunk(name, content):
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    content = b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    return "data:image/png;base64," + base64.b64encode(content).decode()


class TestDoor:
    @pytest.mark.parametrize(
        ("headers", "code"),
        [
            ({"Origin": "https://evil.example"}, "wrong_origin"),
            ({"Origin": "null"}, "wrong_origin"),
            ({"Host": "evil.example:8000"}, "wrong_host"),
            ({"Host": "[broken"}, "wrong_host"),
        ],
    )
    def test_other_sites_are_refused(self, port, headers, code):
        status, _, body = ask(port, "/v1/models", **headers)
        assert status == 403
        assert json.loads(body)["error"]["code"] == code
        if "Origin" in headers:
            with pytest.raises(InvalidStatus, match="403"):
                connect(f"ws://127.0.0.1:{port}/v1/realtime", origin=headers["Origin"])

    def test_the_own_page_is_let_in(self, port):
        assert ask(port, "/v1/models", Origin=f"http://127.0.0.1:{port}")[0] == 200
        with talking(port, origin=f"http://127.0.0.1:{port}", subprotocols=["realtime"]) as talk:
            assert talk.socket.subprotocol == "realtime"

    def test_pages_load_nothing_from_elsewhere(self, port):
        status, headers, body = ask(port, "/")
        assert status == 200
        assert b"<title>JOSIE" in body
        assert "default-src 'none'" in headers["content-security-policy"]
        assert ask(port, "/../app.py")[0] == ask(port, "/%2e%2e/app.py")[0] == 404

    def test_a_key_is_required(self):
        async def inside(scope, receive, send):
            raise AssertionError

        guard = Guard(inside, "secret")
        sent = []

        async def send(message):
            sent.append(message)

        scope = {"type": "http", "path": "/v1/models", "headers": [(b"host", b"example.org")], "method": "GET"}
        for value in (None, b"Bearer wrong", b"Basic secret", b"Bearer "):
            given = [] if value is None else [(b"authorization", value)]
            asyncio.run(guard(scope | {"headers": scope["headers"] + given}, None, send))
        assert [message["status"] for message in sent if "status" in message] == [401] * 4
        protocols = b"realtime, openai-insecure-api-key.secret"
        for given in ((b"authorization", b"Bearer secret"), (b"sec-websocket-protocol", protocols)):
            with pytest.raises(AssertionError):
                asyncio.run(guard(scope | {"headers": [*scope["headers"], given]}, None, send))

    def test_other_hosts_need_a_key(self, tmp_path, tiny_folder):
        result = CliRunner().invoke(app, ["serve", str(tiny_folder), "--host", "0.0.0.0"])
        assert result.exit_code == 2
        assert "`--api-key` must be given where `--host` is not one of" in result.output


class TestHttp:
    @pytest.mark.parametrize(
        ("body", "message"),
        [
            (b"", "must be a JSON object"),
            (b"[1]", "must be a JSON object"),
            (b'{"model": NaN}', "must be a JSON object"),
            (b"[" * 100_000, "must be a JSON object"),
            (b"\xff\xfe", "must be a JSON object"),
            (b'{"model": 5}', "`model` must be a string"),
            (b'{"model": "tiny", "messages": "a"}', "`messages` must be a list"),
            (b'{"model": "tiny", "messages": [{"role": "user", "content": [5]}]}', "must be an object"),
        ],
    )
    def test_what_is_wrong_is_said(self, port, body, message):
        status, _, answer = ask(port, "/v1/chat/completions", body)
        assert status == 400
        assert message in json.loads(answer)["error"]["message"]

    def test_large_requests_are_refused(self, port):
        status, _, answer = ask(port, "/v1/audio/speech", b'{"input": "' + bytes(2 << 20))
        assert status == 413
        assert json.loads(answer)["error"]["code"] == "too_large"

    def test_large_requests_are_refused_by_their_header(self, port):
        head = b"POST /v1/audio/speech HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999\r\n\r\n{"
        with socket.create_connection(("127.0.0.1", port), timeout=10) as client:
            client.sendall(head)
            assert client.recv(1000).startswith(b"HTTP/1.1 413 ")

    @pytest.mark.parametrize("before", [b"", b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"])
    @pytest.mark.parametrize("head", [b"GET /health HTTP/1.1\r\nHost: localhost\r\nX-", b""])
    def test_headers_must_end(self, port, monkeypatch, before, head):
        monkeypatch.setattr(timed_http, "HEADERS_SECONDS", 0.2)
        answer = b""
        with socket.create_connection(("127.0.0.1", port), timeout=10) as client:
            if before:
                client.sendall(before)
                assert client.recv(1000).startswith(b"HTTP/1.1 200 ")
            client.sendall(head)
            while part := client.recv(1000):
                answer += part
        assert answer.startswith(b"HTTP/1.1 408 ") == bool(head and not before)

    def test_large_images_are_refused_unread(self, port):
        content = [{"type": "image_url", "image_url": {"url": png(60_000, 60_000)}}]
        body = {"model": "tiny", "messages": [{"role": "user", "content": content}]}
        begin = time.monotonic()
        status, _, answer = ask(port, "/v1/chat/completions", json.dumps(body).encode())
        assert status == 400
        assert "image" in json.loads(answer)["error"]["message"]
        assert time.monotonic() - begin < 2

    def test_a_client_may_leave_in_the_middle(self, port, engine):
        body = {"model": "tiny", "stream": True, "messages": [{"role": "user", "content": "Hi."}], "max_tokens": 200}
        for _ in range(8):  # more than there may be jobs
            request = Request(f"http://127.0.0.1:{port}/v1/chat/completions", json.dumps(body).encode())
            with urlopen(request) as response:
                response.readline()
            end = time.monotonic() + 10
            while engine.workers.num_jobs and time.monotonic() < end:
                time.sleep(0.01)
        assert engine.workers.num_jobs == 0


class TestSession:
    @pytest.mark.parametrize(
        ("event", "message"),
        [
            ("{", "got no JSON"),
            ("5", "must be a JSON object"),
            ('{"type": "session.close"}', "`type` must be one of"),
            ('{"type": ["session.update"]}', "`type` must be one of"),
            ('{"type": "session.update"}', "`session` must be an object"),
            (
                '{"type": "session.update", "session": {"audio": {"input": {"format": {"rate": 8000}}}}}',
                r"`session.audio.input.format.rate` must be one of \[24000\], got 8000",
            ),
            (
                '{"type": "session.update", "session": {"modalities": ["text"]}}',
                "`session.modalities` must be left out",
            ),
            ('{"type": "input_audio_buffer.append", "audio": "AAA"}', "`audio` must be base64"),
            ('{"type": "input_audio_buffer.append", "audio": "AAAA"}', "`audio` must be whole samples"),
            ('{"type": "input_audio_buffer.commit"}', "must have audio to commit"),
            ('{"type": "response.create"}', "must have something of the user"),
            ('{"type": "response.cancel"}', "must be an answer to cancel"),
            ('{"type": "conversation.item.truncate", "item_id": "x"}', "must be an item of the conversation"),
        ],
    )
    def test_what_is_wrong_is_said_and_the_session_goes_on(self, port, event, message):
        with talking(port) as talk:
            talk.socket.send(event)
            error = talk.until("error")["error"]
            assert re.search(message, error["message"]), error
            talk.send("input_audio_buffer.clear", event_id="e1")
            talk.until("input_audio_buffer.cleared")

    @pytest.mark.parametrize("url", ["http://127.0.0.1/a.png", "file:///etc/passwd", png(60_000, 60_000)])
    def test_no_address_and_no_large_image_is_opened(self, port, url):
        with talking(port) as talk:
            item = {"type": "message", "role": "user", "content": [{"type": "input_image", "image_url": url}]}
            talk.send("conversation.item.create", item=item, event_id="mine")
            assert talk.until("error")["error"]["event_id"] == "mine"

    def test_bytes_and_large_events(self, port):
        with talking(port) as talk:
            talk.socket.send(b"\x00")
            assert "text message" in talk.until("error")["error"]["message"]
            with pytest.raises(ConnectionClosed) as closed:
                say_too_much(talk)
            assert closed.value.rcvd.code == 1009

    def test_more_sessions_are_refused(self, port):
        with talking(port), talking(port), talking(port):
            with connect(f"ws://127.0.0.1:{port}/v1/realtime") as socket:
                assert json.loads(socket.recv())["error"]["code"] == "server_busy"
                with pytest.raises(ConnectionClosed) as closed:
                    socket.recv()
            assert closed.value.rcvd.code == 1013
        end = time.monotonic() + 5
        while json.loads(ask(port)[2])["sessions"] and time.monotonic() < end:
            time.sleep(0.01)
        with talking(port):
            pass

    def test_a_client_that_does_not_read_stops_nobody(self, port):
        with talking(port) as lazy, talking(port) as talk:
            lazy.say("Hello.", max_output_tokens=200)
            talk.say("Hello.", max_output_tokens=12)
            assert talk.until("response.done")["response"]["status"] in ("completed", "incomplete")

    def test_sessions_share_the_model_step_by_step(self, port):
        """A short answer is there before a long one that began earlier."""
        with talking(port) as long, talking(port) as short:
            long.say("Hello.", max_output_tokens=220)
            long.until("response.output_audio.delta")
            short.say("Hello.", max_output_tokens=4)
            short.until("response.done")
            long.send("response.cancel")
            assert long.until("response.done")["response"]["status"] == "cancelled"

    def test_closing_in_the_middle_ends_the_work(self, port, engine):
        for _ in range(4):
            with talking(port) as talk:
                talk.say("Hello.", max_output_tokens=200)
                talk.send_audio(spoken_question()[:30000])
                talk.until("response.created")
        end = time.monotonic() + 10
        while (engine.workers.num_jobs or json.loads(ask(port)[2])["sessions"]) and time.monotonic() < end:
            time.sleep(0.01)
        assert engine.workers.num_jobs == 0


def test_random_events_are_answered(engine):
    """1,000 events of any kind: each is done or refused, none brings a session down or tells of a fault."""
    draw = random.Random(0)
    assert len(errors_of(engine, (draw_event(draw) for _ in range(1000)))) > 400


@pytest.mark.slow
def test_ctrl_c_ends_it(tiny_folder):
    command = [sys.executable, "-m", "josie", "serve", str(tiny_folder), "--port", "0", "--device", "cpu"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=ROOT.parent) as process:
        line = next(line for line in process.stderr if "Serving" in line)
        port = int(line.split("127.0.0.1:")[1].split("/")[0])
        with talking(port) as talk:
            talk.say("Hello.", max_output_tokens=200)
            talk.until("response.created")
            process.send_signal(signal.SIGINT)
            rest = process.stderr.read()
            assert process.wait(10) == 0
    assert rest.strip().splitlines()[-1] == "Stopped."
    assert "Traceback" not in rest


def test_a_slow_server_takes_no_more_and_a_slow_client_does_not_count(monkeypatch):
    moments = itertools.chain([0.0, 1.0, 2.0], itertools.repeat(10.0))
    # Of this module alone: other threads, such as a server's, have a clock of their own.
    monkeypatch.setattr("josie.serving.pace.time", SimpleNamespace(monotonic=lambda: next(moments)))
    pace = Pace(0.9, latest=1.0)
    clock = pace.begin()
    clock.add(0.5)
    clock.add(1.0)
    assert clock.real_time_factor == 1.0
    clock.add(1.0, paused=0.5)
    assert clock.real_time_factor == 0.75
    clock.add(1.0, paused=8.5)
    assert clock.real_time_factor == 0.5
    assert pace.keeps_up
    clock.last = 10.0
    assert not pace.keeps_up


def test_slow_speech_refuses_the_next_session(speaking_folder):
    engine = load_engine(speaking_folder, max_real_time_factor=Limits.max_real_time_factor)
    clock = engine.pace.begin()
    with running(engine) as port, talking(port):
        clock.first, clock.last, clock.seen, clock.seconds = 0.0, 2.0, time.monotonic(), 1.0
        with connect(f"ws://127.0.0.1:{port}/v1/realtime") as socket:
            error = json.loads(socket.recv())["error"]
        clock.seen = 0.0
    assert error["code"] == "server_busy"
    assert "as fast as it can" in error["message"]
