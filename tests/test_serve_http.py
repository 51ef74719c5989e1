"""The HTTP endpoints, driven by OpenAI's client."""

import base64
import io

import numpy as np
import openai
import pytest
import soundfile
from PIL import Image
from serving_clients import running, spoken_question


@pytest.fixture(scope="module")
def client(engine):
    """A client of a server with it."""
    with (
        running(engine) as port,
        openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none", max_retries=0) as client,
    ):
        yield client


@pytest.fixture(scope="module")
def wav():
    file = io.BytesIO()
    soundfile.write(file, spoken_question(), 24000, format="WAV")
    return file.getvalue()


@pytest.fixture(scope="module")
def png():
    file = io.BytesIO()
    Image.new("RGB", (30, 20), "blue").save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def said(engine, text):
    pieces = list(engine.model.speak_stream(text, engine.processor.tokenizer))
    samples = np.concatenate([p.audio_values[0, 0, : p.audio_lengths[0]].numpy() for p in pieces])
    return samples, [time for piece in pieces for time in piece.word_times[0]]


def test_models(client):
    assert [model.id for model in client.models.list()] == ["tiny"]
    assert client.models.retrieve("tiny").owned_by == "josie"
    with pytest.raises(openai.NotFoundError, match="must be 'tiny', got 'other'"):
        client.models.retrieve("other")


class TestSpeech:
    @pytest.mark.parametrize("form", ["wav", "pcm", "flac", "opus", "mp3"])
    def test_a_text_is_said_in_every_container(self, client, engine, form):
        content = client.audio.speech.create(
            model="tiny", voice="ada", input="It is blue.", response_format=form
        ).read()
        if form == "pcm":
            samples = np.frombuffer(content, "<i2") / 32768
        else:
            samples, rate = soundfile.read(io.BytesIO(content))
            assert rate == (48000 if form == "opus" else 24000) or form == "opus"
        from josie.processing_josie.resampling import resample

        expected = resample(said(engine, "It is blue.")[0], engine.sampling_rate, 24000).clip(-1, 1)
        assert len(samples) == pytest.approx(len(expected), rel=0.2 if form in ("mp3", "opus") else 0)
        if form in ("wav", "pcm", "flac"):
            assert np.abs(samples - expected).max() < 1e-4

    def test_speed_is_obeyed_or_refused(self, client):
        lengths = [
            len(
                client.audio.speech.create(
                    model="tiny", voice="bob", input="It is blue.", response_format="pcm", speed=speed
                ).read()
            )
            for speed in (1, 2)
        ]
        assert lengths[1] < 0.7 * lengths[0]
        with pytest.raises(openai.BadRequestError, match=r"`speed` must be a number in \[0.5, 2\], got 4"):
            client.audio.speech.create(model="tiny", voice="bob", input="It is blue.", speed=4)

    def test_speed_is_that_of_the_model(self, engine, monkeypatch):
        assert engine.talk_at(1) == {}
        assert engine.talk_at(1.5) == {"talker_speed": 1.5}
        monkeypatch.setattr(engine.model.generation_config, "talker_speed", 0.8, raising=False)
        assert engine.talk_at(1) == {}
        assert engine.talk_at(1.5) == {"talker_speed": pytest.approx(1.2)}
        assert engine.talk_at(0.5) == {"talker_speed": 0.5}

    def test_words_come_with_their_times(self, client, engine):
        with client.audio.speech.with_streaming_response.create(
            model="tiny",
            voice="default",
            input="It is blue.",
            response_format="pcm",
            stream_format="sse",
            extra_body={"word_timestamps": True},
        ) as response:
            import json

            events = [json.loads(line[6:]) for line in response.iter_lines() if line]
        words = [word for event in events for word in event.get("words", ())]
        assert [word["word"] for word in words] == ["It", "is", "blue."]
        times = said(engine, "It is blue.")[1]
        assert words[0]["start"] == round(times[0].begin, 4)
        assert words[-1]["end"] == round(times[-1].end, 4)
        assert events[-1]["type"] == "speech.audio.done"

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"voice": "eve"}, r"`voice` must be one of \['default', 'ada', 'bob'\], got 'eve'"),
            ({"input": " \n "}, "`input` must have at least one word"),
            ({"response_format": "aac"}, "`response_format` must be one of"),
            ({"extra_body": {"word_timestamps": True}}, "`word_timestamps` must go with"),
            ({"extra_body": {"volume": 2}}, "`volume` must be left out"),
            ({"instructions": "Whisper."}, "`instructions` must be one of"),
        ],
    )
    def test_what_cannot_be_obeyed_is_refused(self, client, changes, message):
        with pytest.raises(openai.BadRequestError, match=message):
            client.audio.speech.create(**{"model": "tiny", "voice": "ada", "input": "It is blue."} | changes)


class TestChat:
    messages = [{"role": "user", "content": "Hello."}]

    def test_text_is_the_models(self, client, engine):
        reply = client.chat.completions.create(model="tiny", messages=self.messages, max_tokens=9)
        inputs = engine.processor.apply_chat_template(
            [{"role": "user", "content": [{"type": "text", "text": "Hello."}]}],
            tokenize=True,
            add_generation_prompt=True,
            return_dict=True,
            return_tensors="pt",
        )
        ids = engine.model.generate(**inputs, max_new_tokens=9, do_sample=False)[0, inputs["input_ids"].shape[1] :]
        assert reply.choices[0].message.content == engine.decode(ids.tolist())
        assert reply.choices[0].finish_reason == "length"
        assert reply.usage.prompt_tokens == inputs["input_ids"].shape[1]
        assert reply.usage.completion_tokens == 9

    def test_streams_are_the_whole(self, client):
        options = {"model": "tiny", "messages": self.messages, "max_completion_tokens": 9}
        whole = client.chat.completions.create(**options)
        chunks = list(client.chat.completions.create(**options, stream=True, stream_options={"include_usage": True}))
        text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
        assert text == whole.choices[0].message.content
        assert chunks[-1].usage == whole.usage

    def test_speech_too(self, client):
        options = {"model": "tiny", "messages": self.messages, "max_tokens": 9, "modalities": ["text", "audio"]}
        whole = client.chat.completions.create(**options, audio={"voice": "ada", "format": "wav"})
        audio = whole.choices[0].message.audio
        samples, rate = soundfile.read(io.BytesIO(base64.b64decode(audio.data)))
        chunks = list(client.chat.completions.create(**options, audio={"voice": "ada", "format": "pcm16"}, stream=True))
        deltas = [chunk.choices[0].delta.to_dict().get("audio") for chunk in chunks]
        streamed = b"".join(base64.b64decode(delta["data"]) for delta in deltas if delta)
        assert rate == 24000
        assert np.array_equal(np.frombuffer(streamed, "<i2") / 32768, samples)
        assert "".join(delta["transcript"] for delta in deltas if delta) == audio.transcript

    def test_seeds_draw_the_same_whatever_others_do(self, client):
        def ask(seed):
            options = {"messages": self.messages, "max_tokens": 12, "temperature": 1.5}
            return client.chat.completions.create(model="tiny", seed=seed, **options).choices[0].message.content

        assert ask(3) == ask(3) != ask(4)

    def test_images_and_clips_are_read(self, client, wav, png):
        clip = {"type": "input_audio", "input_audio": {"data": base64.b64encode(wav).decode(), "format": "wav"}}
        image = {"type": "image_url", "image_url": {"url": png}}
        counts = []
        for content in ([], [image], [image, clip]):
            messages = [{"role": "user", "content": [*content, {"type": "text", "text": "Well?"}]}]
            reply = client.chat.completions.create(model="tiny", messages=messages, max_tokens=3)
            counts.append(reply.usage.prompt_tokens)
        assert counts[0] < counts[1] < counts[2]

    @pytest.mark.parametrize("url", ["http://127.0.0.1:1/a.png", "file:///etc/passwd", "/etc/passwd", "data:text/x,a"])
    def test_no_address_of_a_client_is_opened(self, client, url):
        messages = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": url}}]}]
        with pytest.raises(openai.BadRequestError, match="opens no addresses"):
            client.chat.completions.create(model="tiny", messages=messages)

    def test_what_does_not_fit_is_refused(self, client):
        messages = [{"role": "user", "content": "many words " * 100}]
        with pytest.raises(openai.BadRequestError, match="must leave room for an answer in 256 tokens"):
            client.chat.completions.create(model="tiny", messages=messages)
        with pytest.raises(openai.BadRequestError, match="`stop` must be left out"):
            client.chat.completions.create(model="tiny", messages=self.messages, stop=["a"])


def test_transcriptions(client, engine, wav):
    reply = client.audio.transcriptions.create(model="tiny", file=("a.wav", wav))
    text = client.audio.transcriptions.create(model="tiny", file=("a.wav", wav), response_format="text")
    assert reply.text == text.strip()
    with pytest.raises(openai.BadRequestError, match="`file` must be a WAV, FLAC, Ogg or MP3 file"):
        client.audio.transcriptions.create(model="tiny", file=("a.wav", b"RIFF"))
