"""Full duplex: the audio of a client is heard unit by unit, and the model says when a turn of it begins and ends.

What comes in is worked at in order: audio, and images, which are seen from the unit on that comes in then. Turns of
the model become answers of the session. One that the session ends (a client cancelled it, or it took too long) the
model has to end too: it listens in the next unit.

Where a client sends no audio, time goes on: the model hears silence, until its turn is over, or has had time to begin.
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np

from ...modeling_josie.duplex.session import JosieSession, SessionPiece, SessionTurn
from ...modeling_josie.outputs import WordTime
from ...processing_josie.resampling import StreamResampler
from ..engine import Engine
from ..errors import ClientError, server_failure
from ..media import PCM_RATE, to_float
from ..token_stream import Piece
from .settings import SessionSettings
from .turn_detection import ModelTurns
from .turn_feed import TurnFeed

logger = logging.getLogger(__name__)

_FORCED = 1e4  # bias with which the model has no choice
_BUSY_SECONDS = 0.02  # between two tries at a server that has too much to do
_GAP = 1.0  # seconds without audio after which silence is heard
_PATIENCE = 4.0  # seconds of it in which a turn may begin
_CLOCK_SECONDS = 4.0  # of speech that one clock tells of


class Answers(Protocol):
    """A session, which takes the turns of the model."""

    async def begin_turn(self, feed: TurnFeed) -> None:
        """Begin an answer whose pieces come through `feed`."""
        ...

    async def interrupt(self, reason: str) -> None:
        """End the answer that is being made, and wait until its end is told."""
        ...

    async def fail(self, error: ClientError) -> None:
        """Tell the client of an error."""
        ...


class Duplex:
    """A conversation in full duplex.

    Args:
        engine ([`Engine`]): The model.
        settings ([`SessionSettings`]): Of the conversation.
        messages (`list[dict]`): What was said before.
        answers ([`Answers`]): Takes turns.
    """

    def __init__(self, engine: Engine, settings: SessionSettings, messages: list[dict[str, Any]], answers: Answers):
        self.engine, self.settings, self._messages, self._answers = engine, settings, messages, answers
        self.session: JosieSession | None = None
        thinker = engine.model.config.thinker_config
        self._rate, self._unit_samples = int(thinker.unit_sampling_rate), int(thinker.unit_samples)
        self._resampler = StreamResampler(PCM_RATE, self._rate)
        self._rest = np.zeros(0, np.float32)  # heard by nobody yet, at the model's rate
        self._inputs: deque[np.ndarray | tuple[Any, asyncio.Future[None]]] = deque()
        self._has_input = asyncio.Event()
        self._heard_at = self._silence = 0.0  # when audio came last, and seconds of silence since
        self._turn: SessionTurn | None = None
        self._feed: TurnFeed | None = None
        self._is_told = True  # whether the turn's end is
        self._num_turns = self._num_tokens = self._place = 0
        self._is_asked = False  # for a turn
        self._clock, self._idle = engine.pace.begin(), 0.0
        self._task = asyncio.create_task(self._run())

    # --- from the client

    @property
    def seconds(self) -> float:
        """Length of the audio that waits."""
        waiting = sum(len(entry) for entry in self._inputs if isinstance(entry, np.ndarray))
        return (waiting + len(self._rest)) / self._rate

    @property
    def is_over(self) -> bool:
        """Whether it hears nothing any more, as it failed."""
        return self._task.done()

    @property
    def is_answering(self) -> bool:
        """Whether a turn goes on, or was asked for."""
        return self._is_asked or not self._is_told

    def hear(self, samples: np.ndarray) -> None:
        """Take audio.

        Args:
            samples (`np.ndarray`): `(num_samples,)`, int16 at 24 kHz.

        Raises:
            [`ClientError`]: Too much of it waits.
        """
        room = self.engine.limits.max_audio_seconds
        if self.seconds + len(samples) / PCM_RATE > room:
            raise ClientError(
                f"The input buffer must have at most {room:g} s that the model has not heard; send audio as it is "
                "spoken.",
                "audio",
                "buffer_full",
            )
        self._inputs.append(self._resampler.push(to_float(samples)[None])[0])
        self._heard_at, self._silence = time.monotonic(), 0.0
        self._has_input.set()

    async def show(self, image: Any) -> None:
        """Show an image; return when it was shown.

        Raises:
            [`ClientError`]: The model has no room for it.
        """
        shown: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._inputs.append((image, shown))
        self._has_input.set()
        await asyncio.wait((shown, self._task), return_when=asyncio.FIRST_COMPLETED)
        if not shown.done():
            shown.cancel()
            raise ClientError("The image came too late: the conversation is over.", code="conversation_over")
        shown.result()

    def clear(self) -> None:
        """Forget audio that was not heard yet."""
        self._inputs = deque(entry for entry in self._inputs if not isinstance(entry, np.ndarray))
        self._rest = self._rest[:0]
        self._resampler = StreamResampler(PCM_RATE, self._rate)

    def ask(self) -> None:
        """Make the model speak with the next unit."""
        self._is_asked = True

    def adopt(self, settings: SessionSettings) -> None:
        """Go on with other settings.

        Raises:
            [`ClientError`]: They can be chosen only before the first audio.
        """
        for name in ("instructions", "voice"):
            if getattr(settings, name) != getattr(self.settings, name):
                raise ClientError(
                    f"`session.{name}` must stay as it is once the model has heard audio, where it decides when to "
                    f"speak, got {str(getattr(settings, name))[:60]!r}.",
                    f"session.{name}",
                    "invalid_value",
                )
        self.settings = settings

    async def close(self) -> None:
        """End it, and free what it holds. Any number of times."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        self._turn = None

    # --- work

    async def _run(self) -> None:
        try:
            session: JosieSession = await self._work(self._open)
            self.session = session
            while True:
                await self._take_input(session)
        except ClientError as error:
            await self._end(error)
        except ConnectionError:
            logger.debug("A client left while it was heard.")
        except Exception:
            logger.exception("A conversation in full duplex failed.")
            await self._end(server_failure())
        finally:
            if self.session is not None:
                self.session.close()
            self.session = None
            self._inputs.clear()

    async def _end(self, error: ClientError) -> None:
        """Tell that it cannot go on."""
        try:
            if self._feed is not None and not self._is_told:
                await self._feed.put(error)
            else:
                await self._answers.fail(error)
        except ConnectionError:
            logger.debug("A client left before it was told of an error.")
        self._is_told = True

    def _open(self) -> JosieSession:
        """Begin, in a thread."""
        settings = self.settings
        try:
            return self.engine.model.start_session(
                self.engine.processor, messages=self._messages or None, speaker=settings.voice
            )
        except ValueError as error:
            raise ClientError(
                "The conversation so far must fit into the model, and leave room for what is heard; begin another.",
                code="context_length_exceeded",
            ) from error

    async def _work(self, work: Callable[[], Any], is_due: bool = False) -> Any:
        """Return what a function gives that is called in a thread, in turn with other work at the model.

        Args:
            work (`Callable`): What to do.
            is_due (`bool`): Whether somebody listens who has nothing in advance.
        """
        while True:
            try:
                job = self.engine.workers.start(lambda job: job.put(work()), is_due)
                break
            except ClientError as error:
                if error.code != "server_busy":
                    raise
                # There is too much to do: what comes in waits.
                await asyncio.sleep(_BUSY_SECONDS)
        try:
            async for result in job:
                return result
        finally:
            job.cancel()
        raise ConnectionError("The server ends.")

    async def _take_input(self, session: JosieSession) -> None:
        begin = time.monotonic()
        while not self._inputs:
            self._has_input.clear()
            try:
                await asyncio.wait_for(self._has_input.wait(), self._seconds_to_silence())
            except TimeoutError:
                self._inputs.append(np.zeros(self._unit_samples, np.float32))
                self._silence += session.unit_seconds
        self._idle += time.monotonic() - begin
        entry = self._inputs.popleft()
        if isinstance(entry, tuple):
            image, shown = entry
            await self._show(session, image, shown)
            return
        self._rest = np.concatenate((self._rest, entry))
        while len(self._rest) >= self._unit_samples:
            unit, self._rest = self._rest[: self._unit_samples], self._rest[self._unit_samples :]
            session.speak_bias = self._choose_bias(session)
            piece: SessionPiece = await self._work(lambda unit=unit: session.push(unit, at_once=True), is_due=True)
            self._note_time(session.unit_seconds)
            await self._tell(session, piece)

    def _note_time(self, seconds: float) -> None:
        """Note that a unit was heard, with a new clock every few seconds: in a long one a slow unit would drown."""
        if self._clock.seconds >= _CLOCK_SECONDS:
            self._clock, self._idle = self.engine.pace.begin(), 0.0
        self._clock.add(seconds, self._idle)

    def _seconds_to_silence(self) -> float | None:
        """Return in how many seconds a unit of silence is due where nothing comes; `None` where none is."""
        if not self._heard_at or (self._silence > _PATIENCE and not self.is_answering):
            return None
        return max(self._heard_at + _GAP + self._silence - time.monotonic(), 0.0)

    async def _show(self, session: JosieSession, image: Any, shown: "asyncio.Future[None]") -> None:
        def show() -> ValueError | None:
            try:
                session.show_image(image)
            except ValueError as error:
                return error
            return None

        error = await self._work(show)
        if shown.done():  # who sent it is gone
            return
        if error is None:
            shown.set_result(None)
        else:
            logger.info("An image was not shown: %s", error)
            shown.set_exception(
                ClientError("`item` must leave room for what is heard: there are too many images.", "item", "too_many")
            )

    def _choose_bias(self, session: JosieSession) -> float:
        """Return the bias of the next unit."""
        if not self._is_told and self._feed is not None and self._feed.is_cancelled:
            return -_FORCED
        if self._is_asked and self._is_told:
            # After a turn that is over a unit is listened to, so that another one may begin.
            return -_FORCED if session.state.rows[0].is_speaking else _FORCED
        turns = self.settings.turns
        return turns.speak_bias if isinstance(turns, ModelTurns) else 0.0

    # --- turns

    async def _tell(self, session: JosieSession, piece: SessionPiece) -> None:
        """Tell what a unit has brought."""
        if len(session.turns) > self._num_turns:
            self._num_turns = len(session.turns)
            self._turn, self._feed, self._is_told, self._is_asked = session.turns[-1], None, False, False
            self._num_tokens = self._place = 0
        turn = self._turn
        if turn is None or self._is_told:
            return
        if turn.is_cut:
            self._is_told = True
            if self._feed is not None and not self._feed.is_cancelled:
                await self._answers.interrupt("turn_detected")
            return
        samples, tokens = self._take_samples(session, piece, turn), turn.token_ids[self._num_tokens :]
        self._num_tokens = len(turn.token_ids)
        self._is_told = turn.end is not None
        if self._feed is None:
            if not piece.text and not len(samples):  # nothing that could be heard or read
                return
            self._feed = TurnFeed(self.engine.limits.max_waiting)
            await self._answers.begin_turn(self._feed)
        await self._feed.put(
            Piece(
                tokens=tokens,
                text=piece.text,
                samples=samples,
                word_times=[self._place_token(turn, *token) for token in piece.heard],
                num_prompt_tokens=session.state.rows[0].position,
                is_final=self._is_told,
                is_cut=turn.is_limited,
            )
        )

    @staticmethod
    def _take_samples(session: JosieSession, piece: SessionPiece, turn: SessionTurn) -> np.ndarray:
        """Return the samples of a turn in the last unit."""
        length = session.unit_samples * session.sampling_rate // session.input_sampling_rate
        samples = np.atleast_2d(piece.audio_values).mean(axis=0)[-length:]
        if turn.end is not None:
            begin = session.state.rows[0].memory.num_units * session.unit_seconds
            samples = samples[: max(round((turn.end - begin) * session.sampling_rate), 0)]
        return samples if piece.is_speaking else samples[:0]

    def _place_token(self, turn: SessionTurn, token_id: int, begin: float, end: float) -> WordTime:
        """Return when a token is heard, with its place in the turn, of whose tokens some are not said."""
        index = turn.token_ids.index(token_id, self._place)
        self._place = index + 1
        return WordTime(index, begin - turn.begin, end - turn.begin)
