"""Requests that are refused: each in the form of OpenAI's errors, with a sentence that says why."""

import base64
import io
import json
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest
import soundfile
from serving_clients import spoken_question, talking
from websockets.sync.client import connect


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


def send_form(port, *fields, content_type="multipart/form-data"):
    """Send a form of names and values, of which bytes are a file."""
    parts = []
    for name, value in fields:
        file = "" if isinstance(value, str) else '; filename="a.wav"'
        head = f'--edge\r\nContent-Disposition: form-data; name="{name}"{file}\r\n\r\n'
        parts.append(head.encode() + (value.encode() if isinstance(value, str) else value) + b"\r\n")
    body = b"".join(parts) + b"--edge--\r\n"
    return ask(port, "/v1/audio/transcriptions", body, content_type=f"{content_type}; boundary=edge")


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

    def test_the_name_of_their_type_has_no_case(self, port, clip):
        fields = [("model", "tiny"), ("file", clip)]
        assert send_form(port, *fields, content_type="Multipart/Form-Data")[0] == 200

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
            (
                {"messages": [{"role": "user", "content": "Say <|audio|>!"}]},
                "`messages[0].content` must be text without <|audio|>, which stands for media that come as a part of "
                "their own, got 1 of them.",
            ),
            (
                {"messages": [{"role": "user", "content": [{"type": "text", "text": "<|image|><|image|>"}]}]},
                "`messages[0].content[0].text` must be text without <|image|>, which stands for media that come as a "
                "part of their own, got 2 of them.",
            ),
            (
                {"messages": [{"role": "user", "content": [{"type": "text", "text": t} for t in ("<|au", "dio|>")]}]},
                "The conversation cannot be read by this model: `audio` must be as many as the <|audio|> of their text "
                "(1), got 0 in row 0.",
            ),
            ({"n": True}, "`n` must be one of [1], got True."),
            ({"logprobs": 0}, "`logprobs` must be one of [False], got 0."),
            ({"a\ud800b": 1}, "`a\\ud800b` must be left out: this server does not know it."),
        ],
        ids=lambda value: str(value)[:30].encode(errors="backslashreplace").decode(),
    )
    def test_what_cannot_be_obeyed_is_refused(self, port, fields, message):
        status, _, body = chat(port, **fields)
        assert body["error"]["message"] == message
        assert body["error"]["param"] is not None
        assert status == 400

    @pytest.mark.parametrize("stated", ["wav", "flac", "mp3", None])
    def test_a_clip_is_what_it_is_said_to_be(self, port, clip, stated):
        audio = {"data": base64.b64encode(clip).decode()} | ({} if stated is None else {"format": stated})
        content = [{"type": "input_audio", "input_audio": audio}]
        status, _, body = chat(port, messages=[{"role": "user", "content": content}])
        assert status == (200 if stated in ("wav", None) else 400)
        if status == 400:
            name = "messages[0].content[0].input_audio.format"
            assert body["error"]["param"] == name
            assert (
                body["error"]["message"]
                == f"`{name}` must be left out or be that of its `data`, 'wav', got {stated!r}."
            )


class TestSpeech:
    fields = {"model": "tiny", "voice": "ada", "input": "It is blue.", "response_format": "flac"}

    def say(self, port, **changes):
        body = json.dumps(self.fields | changes).encode()
        with urlopen(f"http://127.0.0.1:{port}/v1/audio/speech", body) as response:
            return response.headers["x-finish-reason"], response.read()

    @pytest.mark.parametrize(("most", "reason"), [(None, "stop"), (2, "length")])
    def test_clients_know_whether_it_was_cut(self, port, engine, monkeypatch, most, reason):
        monkeypatch.setattr(engine.model.generation_config, "talker_max_new_frames", most, raising=False)
        assert self.say(port)[0] == reason
        events = self.say(port, stream_format="sse")[1].decode().split("\n\n")
        assert json.loads(events[-2].removeprefix("data: "))["finish_reason"] == reason
        monkeypatch.setattr(engine, "_end_tokens", lambda: set(range(301)))  # so that no text counts as cut
        _, _, body = chat(port, modalities=["text", "audio"])
        assert body["choices"][0]["finish_reason"] == reason
        with talking(port) as talk:
            talk.say("Hello.", max_output_tokens=3)
            details = talk.until("response.done")["response"]["status_details"]
        assert details == (None if most is None else {"type": "incomplete", "reason": "max_output_tokens"})


class TestQueries:
    def test_a_field_that_is_not_known_is_refused(self, port):
        status, _, body = ask(port, "/v1/chat/completions?version=1", b"{}")
        assert status == 400
        assert body["error"]["message"] == "`version` must be left out of the query: this server does not know it."

    @pytest.mark.parametrize(
        ("query", "message"),
        [
            ("?intent=transcription", "`intent` must be left out of the query: this server does not know it."),
            ("?model=tiny&model=tiny", "`model` must be given once, got it more than once."),
        ],
    )
    def test_so_it_is_of_a_session(self, port, query, message):
        with connect(f"ws://127.0.0.1:{port}/v1/realtime{query}") as socket:
            assert json.loads(socket.recv())["error"]["message"] == message
        with talking(port, "?model=tiny"):
            pass


class TestEvents:
    def test_placeholders_are_no_text(self, port):
        content = [{"type": "input_text", "text": "Say <|audio|>!"}]
        item = {"type": "message", "role": "user", "content": content}
        events = {
            "item.content[0].text": ("conversation.item.create", {"item": item}),
            "session.instructions": ("session.update", {"session": {"instructions": "Say <|image|>!"}}),
            "response.instructions": ("response.create", {"response": {"instructions": "Say <|image|>!"}}),
        }
        with talking(port) as talk:
            for name, (kind, values) in events.items():
                talk.send(kind, **values)
                assert talk.until("error")["error"]["param"] == name
            talk.say("Hello.", max_output_tokens=3)
            assert talk.until("response.done")["response"]["status"] == "incomplete"

    def test_audio_is_not_left_out(self, port):
        with talking(port) as talk:
            talk.send("input_audio_buffer.append")
            assert talk.until("error")["error"]["message"] == "`audio` must be a string, got None."


@pytest.mark.parametrize("name", ["input", "voice", "model", "a\ud800b"])
def test_halves_of_surrogate_pairs_are_not_said(port, name):
    fields = {"model": "tiny", "voice": "ada", "input": "It is blue."} | {name: "a\ud800b"}
    status, _, body = ask(port, "/v1/audio/speech", json.dumps(fields).encode())
    assert status == 400
    assert "must be" in body["error"]["message"]
