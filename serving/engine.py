"""The model of a server: what it can do, and its answers, texts said and clips written down, as jobs."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..configuration_josie import decodes_in_stream
from ..modeling_josie.outputs import WordTime
from .errors import ClientError
from .jobs import Job, Workers, pass_on
from .limits import Limits
from .pace import Pace
from .prompts import fit_messages
from .token_stream import SpeechTaker, TokenTaker

# What the model is asked where its generation configuration has no other words.
_TRANSCRIPTION_PROMPT = "Write what you hear."
_CHUNK_SECONDS = 0.2  # of speech that was made at once


@dataclass(frozen=True)
class AnswerOptions:
    """Options of an answer.

    Args:
        speaks (`bool`): Whether to say it.
        max_tokens (`int`): Longest answer.
        temperature (`float`, *optional*): Of the text; the likeliest token when `None` or 0.
        top_p (`float`, *optional*): Of the text, where it is drawn.
        voice (`str`, *optional*): The speaker; the first when `None`.
        speed (`float`): Of speech.
        seed (`int`, *optional*): Of what is drawn.
    """

    speaks: bool = False
    max_tokens: int = 256
    temperature: float | None = None
    top_p: float | None = None
    voice: str | None = None
    speed: float = 1.0
    seed: int | None = None


class Engine:
    """A model, its processor and the jobs that work at it.

    Args:
        model ([`JosieForConditionalGeneration`]), processor ([`JosieProcessor`]): What answers.
        name (`str`): Of the model, for clients.
        limits ([`Limits`], *optional*): Of what is worked at.
    """

    def __init__(self, model: Any, processor: Any, name: str, limits: Limits | None = None):
        self.model, self.processor, self.name = model, processor, name
        self.limits = limits or Limits()
        self.workers = Workers(self.limits.max_jobs, self.limits.max_waiting)
        limits = self.limits
        self.pace = Pace(limits.max_real_time_factor, limits.max_lateness, limits.max_wait)
        self.created = int(time.time())
        # Steps of the Talker and of the codec are shared; before each of the Thinker's the turn is passed on.
        self._hook = model.thinker.model.register_forward_pre_hook(lambda *_: pass_on())

    # --- what the model can do

    @property
    def speaks(self) -> bool:
        """Whether it answers in speech."""
        return "audio" in self.model.output_modalities

    @property
    def speaks_in_stream(self) -> bool:
        """Whether it says an answer while it is written."""
        return self.speaks and decodes_in_stream(self.model.config.audio_codec_config)

    @property
    def has_word_times(self) -> bool:
        """Whether it knows when each word is heard."""
        return self.speaks and self.model.config.talker_config.learns_durations

    @property
    def sampling_rate(self) -> int:
        """Of its speech, in Hz."""
        return int(self.model.sampling_rate)

    @property
    def voices(self) -> list[str]:
        """Names of its speakers."""
        return list(self.model.config.talker_config.speakers or ()) if self.speaks else []

    def takes(self, modality: str) -> bool:
        """Return whether it reads `"image"` or `"audio"`."""
        thinker = self.model.config.thinker_config
        tower = "audio_config" if modality == "audio" else "vision_config"
        return getattr(thinker, tower) is not None and getattr(thinker, f"{modality}_token_id") is not None

    def describe(self) -> dict[str, Any]:
        """Return what a client may want to know of it."""
        return {
            "id": self.name,
            "object": "model",
            "created": self.created,
            "owned_by": "josie",
            "input_modalities": ["text", *(name for name in ("image", "audio") if self.takes(name))],
            "output_modalities": list(self.model.output_modalities),
            "voices": self.voices,
            "sampling_rate": self.sampling_rate if self.speaks else None,
            "speaks_in_stream": self.speaks_in_stream,
            "has_word_times": self.has_word_times,
        }

    def require_model(self, name: str) -> None:
        """Raise a [`ClientError`] if a client names another model."""
        if name != self.name:
            raise ClientError(
                f"`model` must be {self.name!r}, got {name[:100]!r}.", "model", "model_not_found", status=404
            )

    def require_plain(self, text: str, param: str) -> str:
        """Return a text of a client.

        Raises:
            [`ClientError`]: It has the placeholder of an image or a clip, which come as parts of their own.
        """
        for token in (self.processor.image_token, self.processor.video_token, self.processor.audio_token):
            if token is not None and token in text:
                raise ClientError(
                    f"`{param}` must be text without {token}, which stands for media that come as a part of their own, "
                    f"got {text.count(token)} of them.",
                    param,
                    "invalid_value",
                )
        return text

    def find_voice(self, name: str | None, param: str = "voice") -> str | None:
        """Return the speaker that a client names; `"default"` is the first.

        Raises:
            [`ClientError`]: There is none of that name.
        """
        if name is None or name == "default":
            return None
        if name not in self.voices:
            raise ClientError(f"`{param}` must be one of {['default', *self.voices]}, got {name[:100]!r}.", param)
        return name

    # --- jobs

    def answer(self, messages: Sequence[dict[str, Any]], options: AnswerOptions, may_forget: bool = False) -> Job:
        """Answer a conversation; the items are [`Piece`]s.

        Args:
            messages (`Sequence[dict]`): The conversation, as `apply_chat_template` takes it.
            options ([`AnswerOptions`]): Of the answer.
            may_forget (`bool`): Whether to leave out the oldest turns where not all of them fit.
        """
        return self.workers.start(lambda job: self._answer(job, list(messages), options, may_forget))

    def say(self, text: str, options: AnswerOptions) -> Job:
        """Say a text; the items are [`Piece`]s."""
        return self.workers.start(lambda job: self._say(job, text, options))

    async def transcribe(self, samples: np.ndarray, sampling_rate: int, max_tokens: int = 256) -> str:
        """Write down what is said in a clip.

        Args:
            samples (`np.ndarray`): `(num_samples,)`, float32.
            sampling_rate (`int`): In Hz.
            max_tokens (`int`): Longest text.

        Raises:
            [`ClientError`]: There is too much to do, it takes too long, or the server is being stopped.
        """
        question = getattr(self.model.generation_config, "transcription_prompt", None) or _TRANSCRIPTION_PROMPT
        clip = {"type": "audio", "audio": samples, "sampling_rate": sampling_rate}
        messages = [{"role": "user", "content": [clip, {"type": "text", "text": question}]}]
        job = self.answer(messages, AnswerOptions(max_tokens=max_tokens))
        job.end_after(self.limits.response_seconds)
        try:
            return "".join([piece.text async for piece in job]).strip()
        finally:
            job.cancel()

    def _answer(self, job: Job, messages: list[dict[str, Any]], options: AnswerOptions, may_forget: bool) -> None:
        job.ticket.draw_from(options.seed, self.model.device)
        inputs, room = fit_messages(self, messages, options.max_tokens, may_forget)
        prompt_length = inputs["input_ids"].shape[1]
        writing: dict[str, Any] = self._sampling(options) | {"max_new_tokens": room}
        taker = self._taker(job, options)
        inputs = inputs.to(self.model.device)
        is_cut = False
        if not options.speaks:
            tokens = self.model.generate(**inputs, streamer=TokenTaker(taker.take_tokens), **writing)
        else:
            writing |= self._talking(options) | {"generation_mode": "audio"}
            if self.speaks_in_stream:
                spoken = self.model.generate(**inputs, audio_streamer=taker, **writing)
            else:
                spoken = self.model.generate(**inputs, streamer=TokenTaker(taker.take_tokens), **writing)
                self._take_whole(taker, spoken, prompt_length)
            tokens, is_cut = spoken.sequences, bool(spoken.is_cut[0])
        reply = tokens[0, prompt_length:].tolist()
        is_long = len(reply) >= room and reply[-1] not in self._end_tokens()
        taker.finish(num_prompt_tokens=prompt_length, is_cut=is_long or is_cut)

    def _say(self, job: Job, text: str, options: AnswerOptions) -> None:
        job.ticket.draw_from(options.seed, self.model.device)
        taker = self._taker(job, options)
        talking = self._talking(options)
        tokenizer = talking.pop("tokenizer")
        is_cut = False
        if self.speaks_in_stream:
            with self.model.speak_stream(text, tokenizer, **talking) as pieces:
                for piece in pieces:
                    taker.put(piece)
                    is_cut = piece.is_cut[0]
        else:
            inputs = tokenizer(text, return_tensors="pt", add_special_tokens=False, split_special_tokens=True)
            ids = inputs["input_ids"].to(self.model.device)
            taker.take_tokens(ids[0].tolist())
            spoken = self.model.generate_speech(ids, tokenizer=tokenizer, **talking)
            self._take_whole(taker, spoken, 0)
            is_cut = bool(spoken.is_cut[0])
        taker.finish(num_prompt_tokens=0, is_cut=is_cut)

    def _taker(self, job: Job, options: AnswerOptions) -> SpeechTaker:
        clock = self.pace.begin() if options.speaks else None
        if clock is not None:
            job.ticket.due = lambda: clock.due
        return SpeechTaker(job, self.decode, clock)

    def decode(self, tokens: list[int]) -> str:
        """Return the text of tokens, without those that are none."""
        return self.processor.decode(tokens, skip_special_tokens=True)

    @staticmethod
    def _sampling(options: AnswerOptions) -> dict[str, Any]:
        if not options.temperature:
            return {"do_sample": False}
        drawing: dict[str, Any] = {"do_sample": True, "temperature": options.temperature}
        return drawing if options.top_p is None else drawing | {"top_p": options.top_p}

    def talk_at(self, speed: float) -> dict[str, float]:
        """Return the option of a Talker that speaks so many times as fast as this model does by itself."""
        if speed == 1:
            return {}
        own = getattr(self.model.generation_config, "talker_speed", None) or 1.0
        return {"talker_speed": min(max(speed * own, 0.5), 2.0)}

    def _talking(self, options: AnswerOptions) -> dict[str, Any]:
        talking: dict[str, Any] = {"speaker": options.voice, "tokenizer": self.processor.tokenizer}
        talking |= self.talk_at(options.speed)
        draws = getattr(self.model.generation_config, "talker_do_sample", None) and options.seed is not None
        return talking | {"talker_seed": options.seed} if draws else talking

    def _take_whole(self, taker: SpeechTaker, spoken: Any, prompt_length: int) -> None:
        """Give speech that was made at once in chunks, each with the tokens that end in it."""
        samples = spoken.audio_values[0, :, : int(spoken.audio_lengths[0])].float().mean(dim=0).cpu().numpy()
        times: list[WordTime] = []
        if spoken.word_times is not None:
            rows = spoken.word_times[0, prompt_length:].tolist()
            times = [WordTime(index, begin, end) for index, (begin, end) in enumerate(rows) if begin == begin]
        size = max(1, int(_CHUNK_SECONDS * self.sampling_rate))
        for start in range(0, len(samples), size):
            stop = start + size
            ended = [time for time in times if time.end * self.sampling_rate <= stop + 0.5 or stop >= len(samples)]
            times = times[len(ended) :]
            taker.take_samples(samples[start:stop], ended, self.sampling_rate)

    def _end_tokens(self) -> set[int]:
        ends: set[int] = set()
        for config in (self.model.generation_config, self.model.config.get_text_config()):
            end = config.eos_token_id
            ends |= set(end if isinstance(end, (list, tuple)) else [end])
        return ends

    def stop(self) -> None:
        """End all jobs soon, and begin no more; who waits for one is told."""
        self.workers.stop()

    def close(self) -> None:
        """End all jobs, and leave the model as it was."""
        self.workers.close()
        self._hook.remove()
