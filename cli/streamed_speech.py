"""Speech that is written, and played, while it is made; text that comes while it is said."""

import codecs
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .options import utf8
from .playback import LivePlayer
from .shared import is_terminal, report, require_input, writing_out

if TYPE_CHECKING:
    from ..modeling_josie.speech.pieces import SpeechPieces

Stream = Annotated[
    bool,
    typer.Option("--stream", help="Speak while the text is written: the audio file grows, and --play plays meanwhile."),
]


@dataclass
class SpokenStream:
    """Speech that was taken from a stream.

    Args:
        token_ids (`list[int]`): Tokens that were written.
        num_samples (`int`): Samples that were said.
        sampling_rate (`int`): In Hz.
        first_seconds (`float`, *optional*): Time until the first sample was there.
        seconds (`float`): Time until the last one was.
    """

    token_ids: list[int] = field(default_factory=list)
    num_samples: int = 0
    sampling_rate: int = 0
    first_seconds: float | None = None
    seconds: float = 0.0


def take_speech(pieces: "SpeechPieces", path: Path, play_it: bool, begin: float) -> SpokenStream:
    """Write the pieces of one row to a file that grows, and play them if wanted; note how fast they came.

    Args:
        pieces ([`SpeechPieces`]): Of a model. They are closed at the end, and when anything fails.
        path (`Path`): The file; it holds what was said until then if making it fails.
        play_it (`bool`): Whether to play it too.
        begin (`float`): When the model was asked, by `time.perf_counter`.

    Returns:
        [`SpokenStream`]; there is no file where there are no samples.

    Raises:
        `ValueError`: The file cannot be written.
    """
    from ..processing_josie import AudioWriter

    spoken, writer, player = SpokenStream(), None, None
    with writing_out(path), ExitStack() as opened, pieces:
        for piece in pieces:
            spoken.token_ids += piece.sequences[0].tolist()
            length = int(piece.audio_lengths[0])
            if not length:
                continue
            if spoken.first_seconds is None:
                spoken.first_seconds = time.perf_counter() - begin
            values = piece.audio_values[0, :, :length].float().cpu().numpy()
            if writer is None:
                if play_it:
                    player = LivePlayer(piece.sampling_rate, len(values))
                    opened.callback(player.close)
                writer = opened.enter_context(AudioWriter(path, piece.sampling_rate, len(values)))
            spoken.num_samples += length
            spoken.sampling_rate = piece.sampling_rate
            spoken.seconds = time.perf_counter() - begin
            writer.write(values)
            if player is not None:
                player.write(values)
    return spoken


def report_speech(spoken: SpokenStream, path: Path) -> None:
    """Tell what was written, and how fast it came.

    Raises:
        `ValueError`: There is no speech.
    """
    if spoken.first_seconds is None:
        raise ValueError(f"There is no speech for {path}: the answer has no words, or the Talker ended it at once.")
    duration = spoken.num_samples / spoken.sampling_rate
    report(
        f"{path}: {duration:.2f} s of speech; first sample after {spoken.first_seconds:.3f} s, real-time factor "
        f"{spoken.seconds / duration:.2f}"
    )


def read_text() -> Iterator[str]:
    """Give the text of standard input as it comes, in whatever pieces.

    Raises:
        `ValueError`: It is closed, or no UTF-8.
    """
    require_input("the text")
    if is_terminal(sys.stdin):
        report("Reading the text from here; Ctrl-D ends it.")
    decoder: Any = codecs.getincrementaldecoder("utf-8-sig")("surrogateescape")
    read: Any = getattr(sys.stdin.buffer, "read1", sys.stdin.buffer.read)  # what is there, without waiting for more
    is_final = False
    while not is_final:
        data = read(4096)
        is_final = not data
        text = decoder.decode(data, is_final)
        if utf8(text):
            broken = next(filter(utf8, text)).encode(errors="surrogateescape")
            raise ValueError(f"The text on standard input must be UTF-8, got {broken!r}.")
        yield text
