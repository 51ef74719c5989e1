"""Settings of a session, and of one answer, as `session.update` and `response.create` change them."""

from dataclasses import dataclass, replace
from typing import Any

from ..engine import AnswerOptions, Engine
from ..errors import ClientError
from ..fields import Fields
from ..media import PCM_RATE
from .turn_detection import ModelTurns, TurnSettings

_MOST_BIAS = 100.0  # far more than logits differ by
# Fields of `session.update` that turns of the model do not obey.
_UNOBEYED = ("output_modalities", "max_output_tokens", "max_response_output_tokens", "temperature")
_FORMAT = {"type": "audio/pcm", "rate": PCM_RATE}


@dataclass(frozen=True)
class SessionSettings:
    """Settings of a session.

    Args:
        engine ([`Engine`]): What answers.
        instructions (`str`): What it is told before the conversation.
        speaks (`bool`): Whether answers are said.
        max_tokens (`int`): Longest answer.
        turns ([`TurnSettings`] or [`ModelTurns`], *optional*): Of turn detection; `None` where the client says where
            turns end.
        transcribes (`bool`): Whether the user's turns are written down, where there are some.
        voice (`str`, *optional*): The speaker; the first when `None`.
        speed (`float`): Of speech.
        temperature (`float`, *optional*): Of the text; the likeliest when `None`.
    """

    engine: Engine
    instructions: str = ""
    speaks: bool = True
    max_tokens: int = 256
    turns: TurnSettings | ModelTurns | None = TurnSettings()
    transcribes: bool = True
    voice: str | None = None
    speed: float = 1.0
    temperature: float | None = None

    @classmethod
    def begin(cls, engine: Engine) -> "SessionSettings":
        """Return those of a new session."""
        hears = engine.takes("audio")
        turns = None if not hears else ModelTurns() if decides_turns(engine) else TurnSettings()
        limit = min(256, engine.limits.max_tokens)
        return cls(engine, speaks=engine.speaks, turns=turns, transcribes=hears, max_tokens=limit)

    def answer_options(self) -> AnswerOptions:
        """Return the options of an answer."""
        return AnswerOptions(
            speaks=self.speaks,
            max_tokens=self.max_tokens,
            temperature=self.temperature,
            voice=self.voice,
            speed=self.speed,
        )

    def update(self, fields: Fields) -> "SessionSettings":
        """Return what `session.update` makes of them.

        Raises:
            [`ClientError`]: A field is unknown, or its value impossible.
        """
        fields.only("type", "realtime")
        fields.only("object", "realtime.session")
        fields.text("id")
        for name in ("include", "prompt", "tracing"):
            fields.only(name, [])
        fields.only("truncation", "auto")
        fields.items("extensions", 32)  # what the client offers to understand, such as speech-to-speech's; none is used
        given = {name: fields.peek(name) for name in _UNOBEYED if name in fields}
        settings = self._update_common(fields)
        audio = fields.object("audio")
        if audio is not None:
            settings = settings._update_input(audio.object("input"))
            settings = settings._update_output(audio.object("output"))
            audio.done()
        fields.done()
        settings._require_obeyed(given)
        return settings

    @property
    def in_effect(self) -> "SessionSettings":
        """Return the settings without those that turns of the model do not obey."""
        if not isinstance(self.turns, ModelTurns):
            return self
        default = SessionSettings.begin(self.engine)
        return replace(self, speaks=True, max_tokens=default.max_tokens, temperature=None, transcribes=False)

    def _require_obeyed(self, given: dict[str, Any]) -> None:
        """Raise a [`ClientError`] for what turns of the model do not obey.

        Args:
            given (`dict`): Values of an update, by name. What came before is not in effect, but for the speed.
        """
        if not isinstance(self.turns, ModelTurns):
            return
        most, names = self.in_effect.max_tokens, ("max_output_tokens", "max_response_output_tokens")
        allowed: dict[str, tuple[tuple[Any, ...], str]] = {
            "output_modalities": ((["audio"],), '["audio"]'),
            **dict.fromkeys(names, ((None, "inf", most), f'left out, "inf" or {most}')),
            "temperature": ((None, 0), "0 or left out"),
            "audio.output.speed": ((1,), "1, the one at which the model learned to speak,"),
        }
        for name, value in (given | {"audio.output.speed": self.speed}).items():
            values, required = allowed[name]
            if value not in values:
                raise ClientError(
                    f"`session.{name}` must be {required} where the model decides when to speak (`turn_detection` of "
                    f'type "model"), got {value!r}.',
                    f"session.{name}",
                    "invalid_value",
                )

    def for_response(self, fields: Fields | None) -> "SessionSettings":
        """Return what `response.create` makes of them for one answer."""
        if fields is None:
            return self
        fields.only("conversation", "auto")
        fields.only("metadata", {})
        fields.only("prompt")
        settings = self._update_common(fields)
        audio = fields.object("audio")
        if audio is not None:
            settings = settings._update_output(audio.object("output"))
            audio.done()
        fields.done()
        return settings

    def _update_common(self, fields: Fields) -> "SessionSettings":
        engine, changes = self.engine, {}
        model = fields.text("model")
        if model is not None:
            engine.require_model(model)
        if "instructions" in fields:
            text = fields.text("instructions", "", engine.limits.max_text_length) or ""
            changes["instructions"] = engine.require_plain(text, fields.name("instructions"))
        if "output_modalities" in fields:
            modalities = fields.items("output_modalities", 2)
            if modalities not in (["text"], ["audio"]) or (modalities == ["audio"] and not engine.speaks):
                allowed = 'be ["audio"] or ["text"]' if engine.speaks else 'be ["text"], as this model does not speak'
                fields.fail("output_modalities", allowed, str(modalities))
            changes["speaks"] = modalities == ["audio"]
        for name in ("max_output_tokens", "max_response_output_tokens"):
            if name in fields:
                value = self._read_max_tokens(fields, name)
                if changes.setdefault("max_tokens", value) != value:
                    fields.fail(name, "be left out or be `max_output_tokens`", value)
        if "temperature" in fields:
            changes["temperature"] = fields.temperature()
        fields.only("tools", [])
        fields.only("tool_choice", "auto", "none")
        fields.only("parallel_tool_calls", True, False)
        return replace(self, **changes)

    def _read_max_tokens(self, fields: Fields, name: str) -> int:
        limit = self.engine.limits.max_tokens
        value = fields.take(name)
        if value is None or value == "inf":
            return limit
        if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= limit:
            fields.fail(name, f'be "inf" or an integer in [1, {limit}]', value)
        return value

    def _update_input(self, fields: Fields | None) -> "SessionSettings":
        if fields is None:
            return self
        changes: dict[str, Any] = {}
        _read_format(fields)
        fields.only("noise_reduction")
        hears = self.engine.takes("audio")
        if "turn_detection" in fields:
            changes["turns"] = self._read_turns(fields.object("turn_detection"))
        is_model = isinstance(changes.get("turns", self.turns), ModelTurns)
        if "transcription" in fields:
            transcription = fields.object("transcription")
            changes["transcribes"] = transcription is not None
            if is_model and transcription is not None:
                fields.fail("transcription", "be null where the model decides when to speak", "settings")
            if transcription is not None:
                model = transcription.text("model")
                if model is not None:
                    self.engine.require_model(model)
                transcription.only("language")
                transcription.only("prompt", "")
                transcription.done()
        if not hears and (changes.get("transcribes") or changes.get("turns")):
            fields.fail("turn_detection", "be null, as this model takes no audio", "settings")
        fields.done()
        return replace(self, **changes)

    def _read_turns(self, fields: Fields | None) -> TurnSettings | ModelTurns | None:
        if fields is None:
            return None
        kind = fields.choice("type", ("server_vad", "model"), "server_vad")
        if kind == "model" and not decides_turns(self.engine):
            fields.fail("type", 'be "server_vad", as this model did not learn when to speak', kind)
        settings: TurnSettings | ModelTurns
        if kind == "model":
            settings = ModelTurns(speak_bias=fields.number("speak_bias", -_MOST_BIAS, _MOST_BIAS, 0.0) or 0.0)
        else:
            fields.only("idle_timeout_ms")
            settings = TurnSettings(
                threshold=fields.number("threshold", 0, 1, 0.5) or 0.0,
                prefix_padding_ms=fields.integer("prefix_padding_ms", 0, 5000, 300) or 0,
                silence_duration_ms=fields.integer("silence_duration_ms", 32, 10_000, 500) or 500,
                create_response=fields.flag("create_response", True),
                interrupt_response=fields.flag("interrupt_response", True),
            )
        fields.done()
        return settings

    def _update_output(self, fields: Fields | None) -> "SessionSettings":
        if fields is None:
            return self
        changes: dict[str, Any] = {}
        _read_format(fields)
        if "voice" in fields:
            changes["voice"] = self.engine.find_voice(fields.text("voice"), fields.name("voice"))
        if "speed" in fields:
            low, high = (0.5, 2) if self.engine.has_word_times else (1, 1)
            changes["speed"] = fields.number("speed", low, high, 1.0)
        fields.done()
        return replace(self, **changes)

    def to_event(self, session_id: str, expires_at: int) -> dict[str, Any]:
        """Return them as a client reads them."""
        if self.in_effect != self:
            return self.in_effect.to_event(session_id, expires_at)
        turns = self.turns
        is_model = isinstance(turns, ModelTurns)
        kind = {"type": "model"} if is_model else {"type": "server_vad", "idle_timeout_ms": None}
        detection = None if turns is None else kind | vars(turns)
        transcription = {"model": self.engine.name} if self.transcribes else None
        return {
            "id": session_id,
            "object": "realtime.session",
            "type": "realtime",
            "model": self.engine.name,
            "expires_at": expires_at,
            "instructions": self.instructions,
            "output_modalities": ["audio" if self.speaks else "text"],
            "max_output_tokens": self.max_tokens,
            "tools": [],
            "tool_choice": "none",
            "truncation": "auto",
            "audio": {
                "input": {"format": _FORMAT, "turn_detection": detection, "transcription": transcription},
                "output": {"format": _FORMAT, "voice": self.voice or "default", "speed": self.speed},
            },
            "speaks_in_stream": self.engine.speaks_in_stream,
            "has_word_times": self.engine.has_word_times,
            "decides_turns": decides_turns(self.engine),
        }


def _read_format(fields: Fields) -> None:
    form = fields.object("format")
    if form is not None:
        form.only("type", "audio/pcm")
        form.only("rate", PCM_RATE)
        form.done()


def decides_turns(engine: Engine) -> bool:
    """Return whether a model learned when to speak, and so can be talked to in full duplex."""
    return engine.speaks and engine.model.config.thinker_config.unit_frames is not None
