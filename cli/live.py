"""`josie chat --live`: a conversation in full duplex, by microphone and loudspeaker.

Units of audio go to a session as they are heard, and what it says is played at once. Images come by lines on standard
input, which another thread reads.
"""

import contextlib
import queue
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import typer

from .duplex import format_turn, session_options
from .lines import strip_lines
from .live_audio import ConversationFile, Microphone, Recording, Source, import_sounddevice
from .media import find_named_file, image_file
from .options import audio_file_to_write, check_out, check_transcript
from .playback import LivePlayer, require_live_player
from .shared import is_terminal, report, writing_out

_TAIL = 5.0  # seconds of silence behind a recording
_LATE_UNITS = 4  # units that wait before it is told that the model is too slow
_COMMANDS = {"/image FILE": "show an image", "/help": "show these commands", "/quit": "end, as Ctrl-C does"}
_HELP = "\n".join(f"{name:12} {what}" for name, what in _COMMANDS.items())


@dataclass(frozen=True)
class LiveOptions:
    """Options of a live conversation.

    Args:
        recording (`Path`, *optional*): A file in place of the microphone.
        out (`Path`, *optional*): The file of the conversation.
        play_it (`bool`): Whether JOSIE is heard by a loudspeaker.
        seconds (`float`, *optional*): How long it lasts.
        images (`list[Path]`): Images that are there from the beginning.
        seed, temperature, speaker, speak_bias: As in [`session_options`].
    """

    recording: Path | None
    out: Path | None
    play_it: bool
    seconds: float | None
    images: list[Path]
    seed: int
    temperature: float | None
    speaker: str | None
    speak_bias: float


class Lines:
    """Lines of standard input, which are read while other things go on.

    `is_over` is an event that is set where a terminal has no more of them; a pipe that ends ends nothing.
    """

    def __init__(self) -> None:
        self._lines: queue.Queue[str] = queue.Queue()
        self.is_over, self._stream = threading.Event(), sys.stdin
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        for line in strip_lines(self._stream) if self._stream is not None else ():
            self._lines.put(line)
        if is_terminal(self._stream):
            self.is_over.set()

    def take(self) -> Iterator[str]:
        """Give the lines that have come."""
        while True:
            try:
                yield self._lines.get_nowait()
            except queue.Empty:
                return


def chat_live(model: Any, processor: Any, options: LiveOptions, lines: Lines, stopped: threading.Event) -> None:
    """Talk until Ctrl-C, the end of the recording, or `/quit`.

    Args:
        model ([`JosieForConditionalGeneration`]), processor ([`JosieProcessor`]): What listens and speaks.
        options ([`LiveOptions`]): Of the conversation.
        lines ([`Lines`]): Commands of the user.
        stopped (`threading.Event`): Ends it.

    Raises:
        `ValueError`: There is no microphone or loudspeaker, or none of the rates that the model needs.
        `ImportError`: sounddevice is not installed.
    """
    talking = session_options(options.seed, options.temperature, options.speaker, options.speak_bias)
    images = [str(path) for path in options.images] or None
    with writing_out(options.out), contextlib.ExitStack() as opened:
        session = opened.enter_context(model.start_session(processor, images=images, **talking))
        channels = getattr(model.config.audio_codec_config, "audio_channels", 1)
        file, player = None, None
        if options.out is not None:
            file = opened.enter_context(
                ConversationFile(options.out, session.input_sampling_rate, session.sampling_rate)
            )
        if options.play_it:
            player = LivePlayer(session.sampling_rate, channels, option="--live" if not options.recording else "--play")
            opened.callback(player.close)
        source = _open_source(options, session.input_sampling_rate, stopped)
        opened.callback(source.close)
        if options.recording is None:
            report("Listening; Ctrl-C ends it. With headphones the model does not hear itself.")
        conversation = _Conversation(session, file, player)
        while not lines.is_over.is_set() and (unit := source.read(session.unit_samples)) is not None:
            for line in lines.take():
                _obey(line, session, stopped)
            if stopped.is_set():
                break
            conversation.push(unit)
            if isinstance(source, Microphone):
                conversation.tell_if_late(source.num_waiting)
        turns = conversation.finish()
    if isinstance(source, Microphone) and source.num_lost:
        report(f"The microphone lost samples {source.num_lost} times.")
    if options.out is not None:
        transcript = options.out.with_suffix(".json")
        values = {"unit_seconds": session.unit_seconds, "turns": turns}
        from ..conversion.files import write_json

        with writing_out(transcript):
            write_json(transcript, values, indent=1)
        report(f"{options.out}, {transcript}")
    conversation.report()


def _open_source(options: LiveOptions, sampling_rate: int, stopped: threading.Event) -> Source:
    if options.recording is None:
        return Microphone(sampling_rate, stopped, options.seconds)

    from ..processing_josie import load_audio

    values = load_audio(options.recording, sampling_rate)
    length = len(values) / sampling_rate + _TAIL if options.seconds is None else options.seconds
    length = round(length * sampling_rate)
    return Recording(np.pad(values[:length], (0, max(length - len(values), 0))), stopped)


class _Conversation:
    """A session, and where what it says goes.

    Args:
        session ([`JosieSession`]): It.
        file ([`ConversationFile`], *optional*), player ([`LivePlayer`], *optional*): Take what is heard.
    """

    def __init__(self, session: Any, file: ConversationFile | None, player: LivePlayer | None):
        self.session, self.file, self.player = session, file, player
        self.seconds: list[float] = []  # that each unit took
        self._num_printed, self._is_late = 0, False

    def push(self, unit: np.ndarray) -> None:
        """Hear a unit, and let its answer be heard."""
        begin = time.perf_counter()
        piece = self.session.push(unit, at_once=True)
        self.seconds.append(time.perf_counter() - begin)
        if self.file is not None:
            self.file.write(unit, piece.audio_values)
        if self.player is not None:
            length = len(unit) * self.session.sampling_rate // self.session.input_sampling_rate
            self.player.write(np.atleast_2d(piece.audio_values)[:, -length:])
        self._print()

    def _print(self, is_final: bool = False) -> list[dict[str, Any]]:
        """Print turns that are over, or all; return all."""
        turns = self.session.turns
        num_over = sum(turn.end is not None for turn in turns[self._num_printed :]) + self._num_printed
        num_told = len(turns) if is_final else num_over
        if num_told == self._num_printed and not is_final:
            return []
        transcript = self.session.transcript()
        for turn in transcript[self._num_printed : num_told]:
            typer.echo(format_turn(turn))
        self._num_printed = num_told
        return transcript

    def tell_if_late(self, num_waiting: int) -> None:
        """Tell once that the model does not keep up with the microphone."""
        if not self._is_late and num_waiting > _LATE_UNITS * self.session.unit_samples:
            self._is_late = True
            report(
                f"The model is slower than the conversation: {num_waiting / self.session.input_sampling_rate:.1f} s of "
                "audio wait."
            )

    def finish(self) -> list[dict[str, Any]]:
        """Print a turn that was not over, and return all turns."""
        return self._print(is_final=True)

    def report(self) -> None:
        """Tell how long it was, and how fast."""
        if self.seconds:
            report(
                f"{len(self.seconds) * self.session.unit_seconds:.2f} s, {len(self.session.turns)} turns; a unit of "
                f"{self.session.unit_seconds:.2f} s took {np.percentile(self.seconds, 95):.3f} s (95 %)"
            )


def _obey(line: str, session: Any, stopped: threading.Event) -> None:
    """Do what a line asks for; tell why not, and go on."""
    command, _, name = line.partition(" ")
    try:
        if command == "/image":
            path = find_named_file(command, name, image_file)
            session.show_image(str(path))
            report(f"Shown at {session.seconds:.2f} s: {path}")
        elif line == "/quit":
            stopped.set()
        elif line == "/help":
            report(_HELP)
        elif line:
            raise ValueError(
                f"A line must be one of {list(_COMMANDS)} while the model listens to audio, got {line[:60]!r}."
            )
    except ValueError as error:
        report(f"Error: {error}")


def require_live(options: LiveOptions) -> None:
    """Raise an error where nothing can hear, be heard or be written, before a model is loaded.

    Raises:
        `ValueError`: There is no loudspeaker, or the file of the conversation cannot be written.
        `ImportError`: sounddevice is not installed.
    """
    if options.out is not None:
        inputs = [options.recording, *options.images]
        check_out(options.out, audio_file_to_write, inputs)
        check_transcript(options.out, inputs)
    if options.recording is None:
        import_sounddevice("--live")
    if options.play_it:
        require_live_player(True, "--play" if options.recording else "--live")
