"""A session: samples of any number in, as many out, and the text, words and decisions that belong to them.

What is heard while unit *n* comes in is the answer to the units before it, so a session answers one unit late. It does
not depend on how samples were cut into pieces.
"""

import copy
import math
import threading
from dataclasses import dataclass, field
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..layers.offloading import find_device
from ..outputs import HeardToken
from .samples import read_samples
from .state import JosieSessionOutput, JosieSessionState
from .state_files import load_state, save_state
from .steps import SessionStepsMixin


@dataclass
class SessionTurn:
    """A turn of the model.

    Args:
        begin (`float`): Seconds from the beginning of the session.
        end (`float`, *optional*): Where it was over, or cut; `None` while it goes on.
        token_ids (`list[int]`): What was written.
        heard (`list[HeardToken]`): What was heard of it, token by token; of Talkers that learn durations.
        is_cut (`bool`): Whether the model stopped before it had said all.
        is_limited (`bool`): Whether its speech was ended as it may not be longer, at the Talker's last position.
    """

    begin: float
    end: float | None = None
    token_ids: list[int] = field(default_factory=list)
    heard: list[HeardToken] = field(default_factory=list)
    is_cut: bool = False
    is_limited: bool = False


@dataclass
class SessionPiece:
    """An answer to pushed samples.

    Args:
        audio_values (`np.ndarray`): `(num_samples,)`, or `(channels, num_samples)`, as long in time as what was pushed;
            up to a unit more where it was asked for at once.
        sampling_rate (`int`): Of `audio_values`, in Hz.
        text (`str`): Text that was written.
        heard (`list[HeardToken]`): Tokens whose times were fixed, up to a unit ahead of `audio_values`.
        is_speaking (`bool`): Whether the model speaks, as of the last whole unit.
        num_units (`int`): Units that were completed.
    """

    audio_values: np.ndarray
    sampling_rate: int
    text: str
    heard: list[HeardToken]
    is_speaking: bool
    num_units: int


@dataclass
class _Progress:
    """Samples between units, and turns so far: all that a session carries beside the state."""

    waiting: torch.Tensor  # samples that do not fill a unit yet
    ready: torch.Tensor  # `(channels, num_samples)`, not returned yet
    num_pushed: int = 0
    num_returned: int = 0
    is_speaking: bool = False
    turns: list[SessionTurn] = field(default_factory=list)
    num_shown: int = 0  # characters of the last turn's text that were returned


class JosieSession:
    """One conversation in full duplex, of a model that learned when to speak.

    One thread at a time may use it. Several sessions may share a model.

    Args:
        model ([`JosieForConditionalGeneration`]): The model.
        processor ([`JosieProcessor`]): Its processor.
        state ([`JosieSessionState`]): Of one row.
        speak_bias (`float`): As in [`~JosieForConditionalGeneration.step_sessions`].
    """

    def __init__(self, model: Any, processor: Any, state: JosieSessionState, speak_bias: float = 0.0):
        self.model, self.processor, self.state = model, processor, state
        self.speak_bias = speak_bias
        thinker = model.config.thinker_config
        self.unit_samples: int = thinker.unit_samples
        self.unit_seconds: float = thinker.unit_seconds
        self.input_sampling_rate: int = thinker.unit_sampling_rate
        self.sampling_rate: int = model.sampling_rate
        num_output = self.unit_samples * self.sampling_rate // self.input_sampling_rate
        channels = getattr(model.config.audio_codec_config, "audio_channels", 1)
        self._progress = _Progress(
            torch.zeros(0, dtype=torch.float32), torch.zeros(channels, num_output, dtype=torch.float32)
        )
        self._lock, self._is_closed = threading.Lock(), False

    @property
    def turns(self) -> list[SessionTurn]:
        """Turns of the model so far."""
        return self._progress.turns

    @property
    def is_speaking(self) -> bool:
        """Whether the model speaks, as of the last whole unit."""
        return self._progress.is_speaking

    @property
    def seconds(self) -> float:
        """Length of what was pushed."""
        return self._progress.num_pushed / self.input_sampling_rate

    def push(self, samples: Any, sampling_rate: int | None = None, at_once: bool = False) -> SessionPiece:
        """Hear samples, and answer with as many seconds.

        Args:
            samples (`np.ndarray`, `torch.Tensor` or a list): `(num_samples,)`, any number of floats in [-1, 1], at
                `input_sampling_rate`.
            sampling_rate (`int`, *optional*): Their rate in Hz, for the check that it is this one.
            at_once (`bool`): Return all audio that is made, that of the last unit too, which is heard while the next
                one comes in. For who pushes whole units and plays what comes back behind what is played.

        Returns:
            [`SessionPiece`].

        Raises:
            `ValueError`: Samples of another rate, shape or type, or not finite; then nothing was heard. Or the session
                is closed, or used by another thread.
        """
        values = read_samples(samples, sampling_rate, self.input_sampling_rate)
        with self._use():
            progress = self._progress
            progress.num_pushed += len(values)
            progress.waiting = torch.cat((progress.waiting, values))
            texts: list[str] = []
            heard: list[HeardToken] = []
            num_units = len(progress.waiting) // self.unit_samples
            for _ in range(num_units):
                unit, progress.waiting = progress.waiting.split(
                    (self.unit_samples, len(progress.waiting) - self.unit_samples)
                )
                output = self._step(unit)
                texts.append(self._take_text())
                heard += output.heard[0]
            due = progress.num_pushed * self.sampling_rate // self.input_sampling_rate - progress.num_returned
            due = progress.ready.shape[1] if at_once else max(due, 0)
            values, progress.ready = progress.ready[:, :due], progress.ready[:, due:].clone()
            progress.num_returned += due
            audio = values.numpy()
            return SessionPiece(
                audio[0] if len(audio) == 1 else audio,
                self.sampling_rate,
                "".join(texts),
                heard,
                progress.is_speaking,
                num_units,
            )

    def decode(self, token_ids: list[int]) -> str:
        """Return the text of tokens, without those that are not said."""
        thinker = self.model.config.thinker_config
        kept = [token for token in token_ids if token not in (thinker.listen_token_id, thinker.speak_token_id)]
        return self.processor.tokenizer.decode(kept, skip_special_tokens=True)

    def show_image(self, image: Any) -> None:
        """Show an image, which is seen with the unit that comes in.

        Args:
            image: In any form that the processor takes.

        Raises:
            `ValueError`: The model sees nothing, there is no room for it, or the session is closed or used by another
                thread.
        """
        inputs = self.processor.process_shown_image(image).to(find_device(self.model))
        with self._use(closes=False):
            self.model.show_images(self.state, **inputs)

    def transcript(self) -> list[dict[str, Any]]:
        """Return what the model said, as values for JSON.

        Returns:
            For each turn `begin` and `end` in seconds (`end` is `None` while it goes on), `text` (what was written),
            `is_cut`, `heard` (text of what was heard to its end), and `words`: `text`, `begin` and `end` of each of its
            tokens. Without a Talker that learns durations `heard` is `None` and `words` are empty.
        """
        has_times = self.model.config.talker_config.learns_durations
        return [
            {
                "begin": round(turn.begin, 3),
                "end": None if turn.end is None else round(turn.end, 3),
                "text": self.decode(turn.token_ids),
                "is_cut": turn.is_cut,
                "heard": self.decode([token.token_id for token in turn.heard]) if has_times else None,
                "words": [
                    {"text": text, "begin": round(token.begin, 3), "end": round(token.end, 3)}
                    for text, token in zip(self._split_text(turn.heard), turn.heard, strict=True)
                ],
            }
            for turn in self.turns
        ]

    def _split_text(self, heard: list[HeardToken]) -> list[str]:
        """Return what each token adds to the text; a character of several tokens is added by its last one."""
        ids, texts, shown = [token.token_id for token in heard], [], ""
        for count in range(1, len(ids) + 1):
            text = self.decode(ids[:count])
            is_whole = count == len(ids) or not text.endswith("\N{REPLACEMENT CHARACTER}")
            texts.append(text[len(shown) :] if is_whole else "")
            shown = text if is_whole else shown
        return texts

    def copy(self) -> "JosieSession":
        """Return a session that goes on from here by itself; model and processor are shared."""
        with self._use(closes=False):
            session = object.__new__(type(self))
            session.__dict__.update(self.__dict__)
            session.state = self.state.copy(self.model)
            session._progress = copy.deepcopy(self._progress)
            session._lock = threading.Lock()
            return session

    def __copy__(self) -> "JosieSession":
        return self.copy()

    def __deepcopy__(self, memo: dict) -> "JosieSession":
        return self.copy()

    def __reduce__(self) -> Any:
        raise TypeError("`session` must be written by its `save`, without the model, and cannot be pickled.")

    def save(self, path: str | Path) -> None:
        """Write the session to a file, safetensors, from which `start_session(..., path=...)` goes on.

        The file appears under its name only when it is complete; a link, a pipe or a device stays what it is.

        Raises:
            `ValueError`: The file cannot be written, or the session is closed or used by another thread.
        """
        with self._use(closes=False):
            state = self.state, self._progress, self.speak_bias
            save_state(self.model, state, path, (_Progress, SessionTurn))

    def load(self, path: str | Path) -> None:
        """Go on where the session stopped that was saved in a file.

        Raises:
            `ValueError`: There is no such file, or it is of another model.
        """
        with self._use(closes=False):
            loaded = load_state(self.model, path, (_Progress, SessionTurn))
            if type(loaded) is not tuple or [type(part) for part in loaded[:2]] != [JosieSessionState, _Progress]:
                raise ValueError(
                    f"`path` must be a file of a session of this model, got {str(path)!r}, which is damaged."
                )
            self.state, self._progress, self.speak_bias = loaded

    @property
    def speak_bias(self) -> float:
        """Number that is added to the logit of speaking, from the next unit on."""
        return self._speak_bias

    @speak_bias.setter
    def speak_bias(self, value: float) -> None:
        if isinstance(value, bool) or not isinstance(value, Real) or math.isnan(value):
            raise ValueError(f"`speak_bias` must be a number, got {value!r}.")
        self._speak_bias = float(value)

    def close(self) -> None:
        """End the session; it cannot be used any more."""
        self._is_closed = True

    def __enter__(self) -> "JosieSession":
        return self

    def __exit__(self, *args: object) -> None:
        self.close()

    def _use(self, closes: bool = True) -> "_Use":
        return _Use(self, closes)

    def _step(self, unit: torch.Tensor) -> JosieSessionOutput:
        """Hear a unit, and note what was said."""
        progress = self._progress
        values = unit.to(find_device(self.model))[None, None]
        output = self.model.step_sessions(values, self.state, speak_bias=self.speak_bias)
        self.state = output.session_state
        progress.ready = torch.cat((progress.ready, output.audio_values[0].float().cpu()), dim=-1)
        row, now = self.state.rows[0], self.state.rows[0].memory.num_units * self.unit_seconds
        going = progress.turns[-1] if progress.turns and progress.turns[-1].end is None else None
        if row.turn is None and going is not None:
            going.end, going.is_cut = now, True
        if row.turn is not None:
            if len(progress.turns) < row.num_turns:
                progress.turns.append(SessionTurn(row.turn_start))
                progress.num_shown = 0
            turn = progress.turns[-1]
            turn.token_ids += output.sequences[0][1:]
            turn.heard += output.heard[0]
            if turn.end is None and row.turn.is_over:
                turn.end = row.turn_start + row.turn.num_frames / self._frame_rate
                turn.is_limited = row.turn.is_limited
        progress.is_speaking = output.is_speaking[0]
        return output

    def _take_text(self) -> str:
        """Return the new text of the last turn; a character that is not whole yet waits."""
        progress = self._progress
        if not progress.turns:
            return ""
        turn = progress.turns[-1]
        text = self.decode(turn.token_ids)
        text = text.rstrip("\N{REPLACEMENT CHARACTER}") if turn.end is None else text
        new, progress.num_shown = text[progress.num_shown :], max(progress.num_shown, len(text))
        return new

    @property
    def _frame_rate(self) -> float:
        return self.model.config.unit_speech_frames / self.unit_seconds


class _Use:
    """Use of a session by one thread; one that fails in the middle of a unit closes it."""

    def __init__(self, session: JosieSession, closes: bool):
        self.session, self.closes = session, closes

    def __enter__(self) -> None:
        if not self.session._lock.acquire(blocking=False):
            raise ValueError("`session` must be used by one thread at a time, got a call while another is going on.")
        if self.session._is_closed:
            self.session._lock.release()
            raise ValueError("`session` must be open, got one that was closed.")

    def __exit__(self, error_type: type[BaseException] | None, *args: object) -> None:
        if error_type is not None and self.closes:
            self.session._is_closed = True
        self.session._lock.release()


class SessionMixin(SessionStepsMixin):
    """`start_session` of [`JosieForConditionalGeneration`]."""

    def start_session(
        self,
        processor: Any,
        messages: list[dict[str, Any]] | None = None,
        images: Any = None,
        speaker: str | None = None,
        speak_bias: float = 0.0,
        path: str | Path | None = None,
        **kwargs: Any,
    ) -> JosieSession:
        """Begin a conversation in full duplex.

        Args:
            processor ([`JosieProcessor`]): The model's.
            messages (`list[dict]`, *optional*): What was said before, as in [`JosieProcessor.apply_chat_template`].
            images (*optional*): One or several images that are there from the beginning.
            speaker (`str`, *optional*): The voice; the first when `None`.
            speak_bias (`float`): Below 0 it speaks less readily.
            path (`str` or `Path`, *optional*): Of a session that was saved, to go on there; without other arguments.
            kwargs: `talker_*` options as in `generate`, but for numbers of frames and the speed, which is 1.

        Returns:
            [`JosieSession`].

        Raises:
            `ValueError`: The model was not trained for sessions, its audio input waits for the end of the audio, or an
                argument does not fit.
        """
        self.require_units()
        if path is not None:
            given = {"messages": messages, "images": images, "speaker": speaker} | kwargs
            for name, value in given.items():
                if value is not None:
                    raise ValueError(f"`{name}` must be None with `path`, a session that was saved, got both.")
        inputs = processor.process_session_prompt(messages, images).to(find_device(self))
        session = JosieSession(
            self, processor, self.open_sessions(**inputs, speaker=speaker, **kwargs), speak_bias=speak_bias
        )
        if path is not None:
            session.load(path)
        return session
