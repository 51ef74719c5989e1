"""Requests that are refused: each in the form of OpenAI's errors, with a sentence that says why."""

import io
import json
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest
import soundfile
from serving_clients import load_engine, running, spoken_question


@pytest.fixture(scope="module")
def port(speaking_folder):
    """A server with a tiny model that speaks while it writes."""
    with running(load_engine(speaking_folder)) as port:
        yield port


@pytest.fixture(scope="module")
def clip():
    file = io.BytesIO()
    soundfile.write(file, spoken_question()[:12000], 24000, format="WAV")
    return file.getvalue()


def ask(port, path, body=None, method=None, **headers):
    """Return the status, the headers and the JSON of a request."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    request = Request(f"http://127.0.0.1:{port}{path}", body, named, method=method)
    try:
        with urlopen(request) as response:
            return response.status, response.headers, json.loads(response.read())
    except HTTPError as error:
        return error.code, error.headers, json.loads(error.read())


def chat(port, **fields):
    body = {"model": "tiny", "messages": [{"role": "user", "content": "Hello."}], "max_tokens": 3} | fields
    return ask(port, "/v1/chat/completions", json.dumps(body).encode())


def send_form(port, *fields):
    """Send a form of names and values, of which bytes are a file."""
    parts = []
    for name, value in fields:
        file = "" if isinstance(value, str) else '; filename="a.wav"'
        head = f'--edge\r\nContent-Disposition: form-data; name="{name}"{file}\r\n\r\n'
        parts.append(head.encode() + (value.encode() if isinstance(value, str) else value) + b"\r\n")
    body = b"".join(parts) + b"--edge--\r\n"
    return ask(port, "/v1/audio/transcriptions", body, content_type="multipart/form-data; boundary=edge")


@pytest.mark.parametrize(
    ("method", "path", "status", "message"),
    [
        ("GET", "/v1/nothing", 404, "The path must be one of this server's, got '/v1/nothing'."),
        ("GET", "/nothing.js", 404, "The path must be one of this server's, got '/nothing.js'."),
        ("GET", "/v1/audio/speech", 405, "The method must be one of POST for this path, got 'GET'."),
        ("DELETE", "/v1/models", 405, "The method must be one of GET, HEAD for this path, got 'DELETE'."),
        ("POST", "/nothing.js", 405, "The method must be one of GET, HEAD for this path, got 'POST'."),
    ],
)
def test_paths_and_methods_that_are_not_there(port, method, path, status, message):
    found, headers, body = ask(port, path, method=method)
    assert found == status
    kind = "not_found_error" if status == 404 else "invalid_request_error"
    code = "not_found" if status == 404 else "method_not_allowed"
    assert body == {"error": {"message": message, "type": kind, "param": None, "code": code}}
    assert headers["content-type"] == "application/json"
    assert (headers["allow"] is None) == (status == 404)


class TestForms:
    def test_a_whole_one_is_taken(self, port, clip):
        fields = [("model", "tiny"), ("file", clip), ("response_format", "json"), ("temperature", "0")]
        assert send_form(port, *fields)[0] == 200

    @pytest.mark.parametrize("content_type", ["multipart/form-data", "multipart/form-data; boundary=other"])
    def test_a_boundary_must_be_there(self, port, content_type):
        status, _, body = ask(port, "/v1/audio/transcriptions", b"--edge", content_type=content_type)
        assert status == 400
        assert body["error"]["code"] == "invalid_form"
        assert body["error"]["message"].startswith("The request must be a whole form with one file")

    def test_more_files_are_refused(self, port, clip):
        status, _, body = send_form(port, ("model", "tiny"), ("file", clip), ("file", clip))
        assert status == 400
        assert "with one file and at most 16 other fields" in body["error"]["message"]

    @pytest.mark.parametrize("name", ["model", "response_format", "timestamp_granularities[]"])
    def test_a_field_comes_once(self, port, clip, name):
        fields = [("model", "tiny"), ("file", clip), ("response_format", "json"), (name, "text")]
        status, _, body = send_form(port, *fields, (name, "text"))
        assert status == 400
        assert body["error"]["message"] == f"`{name}` must be given once, got it more than once."
        assert body["error"]["param"] == name


class TestChat:
    @pytest.mark.parametrize(
        "fields",
        [
            {"top_p": 1},
            {"top_p": 1, "temperature": 0},
            {"top_p": 0.5, "temperature": 0.7},
            {"max_completion_tokens": 3},
            {"max_tokens": None, "max_completion_tokens": 3},
            {"temperature": 0.01},
            {"stream_options": None},
        ],
        ids=str,
    )
    def test_what_clients_send_is_obeyed(self, port, fields):
        status, _, body = chat(port, **fields)
        assert status == 200
        assert body["usage"]["completion_tokens"] == 3

    @pytest.mark.parametrize(
        ("fields", "message"),
        [
            (
                {"top_p": 0.5},
                "`top_p` must be 1 or left out without a `temperature` above 0, as nothing is drawn, got 0.5.",
            ),
            (
                {"top_p": 0.5, "temperature": 0},
                "`top_p` must be 1 or left out without a `temperature` above 0, as nothing is drawn, got 0.5.",
            ),
            (
                {"max_completion_tokens": 4},
                "`max_tokens` must be left out or be `max_completion_tokens`, 4, got 3.",
            ),
            ({"temperature": 1e-45}, "`temperature` must be 0 or a number in [0.01, 2], got 1e-45."),
            ({"stream_options": {"include_usage": True}}, "`stream_options` must go with `stream: true`, got 'none'."),
            (
                {"messages": [{"role": "user", "content": "a\ud800b"}]},
                "`messages[0].content` must be text, without halves of surrogate pairs, got 'one with such'.",
            ),
            ({"a\ud800b": 1}, "`a\\ud800b` must be left out: this server does not know it."),
        ],
        ids=lambda value: str(value)[:30].encode(errors="backslashreplace").decode(),
    )
    def test_what_cannot_be_obeyed_is_refused(self, port, fields, message):
        status, _, body = chat(port, **fields)
        assert body["error"]["message"] == message
        assert status == 400


@pytest.mark.parametrize("name", ["input", "voice", "model", "a\ud800b"])
def test_halves_of_surrogate_pairs_are_not_said(port, name):
    fields = {"model": "tiny", "voice": "ada", "input": "It is blue."} | {name: "a\ud800b"}
    status, _, body = ask(port, "/v1/audio/speech", json.dumps(fields).encode())
    assert status == 400
    assert "must be" in body["error"]["message"]
