"""`josie duplex`: a conversation in full duplex with a recording, which is heard unit by unit as from a microphone."""

import math
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from .checkpoints import load_josie, load_processor, require_modality, require_speech, require_units
from .devices import choose_device
from .generate import files_option
from .media import audio_file, image_file
from .options import (
    Device,
    Dtype,
    Folder,
    Seed,
    Speaker,
    Temperature,
    Threads,
    audio_file_to_write,
    check_out,
    check_transcript,
    checked,
)
from .progress import counting, waiting
from .shared import report, writing_out

DEFAULT_OUT = Path("duplex.wav")


def _not_below_zero(value: float) -> str | None:
    return None if 0 <= value < math.inf else "be a finite number of at least 0"


def _not_finite(value: float) -> str | None:
    return None if math.isfinite(value) else "be a finite number"


SpeakBias = Annotated[
    float,
    typer.Option(help="Below 0 it speaks less readily, above 0 more readily.", callback=checked(_not_finite)),
]


def session_options(seed: int, temperature: float | None, speaker: str | None, speak_bias: float) -> dict[str, Any]:
    """Return the arguments of `start_session` for options of the command line.

    Args:
        seed (`int`): Of what is drawn.
        temperature (`float`, *optional*): Of the speech; the likeliest codes when `None`.
        speaker (`str`, *optional*): The voice; the first when `None`.
        speak_bias (`float`): Below 0 it speaks less readily.
    """
    options: dict[str, Any] = {"talker_seed": seed, "speaker": speaker, "speak_bias": speak_bias}
    if temperature is not None:
        options |= {"talker_do_sample": True, "talker_temperature": temperature}
    return options


def format_turn(turn: dict[str, Any]) -> str:
    """Return a line of a transcript: when a turn was heard, and what; of one that was cut, what was heard of it.

    Args:
        turn (`dict`): Of `transcript()` of a session.
    """
    end = "" if turn["end"] is None else f"{turn['end']:.2f}"
    return f"{turn['begin']:.2f}-{end} {turn['text'] if not turn['is_cut'] else (turn['heard'] or '') + ' --'}"


def duplex_command(
    folder: Folder,
    recording: Annotated[
        Path, typer.Argument(metavar="IN", help="A recording of the user.", callback=checked(audio_file))
    ],
    image: Annotated[list[Path] | None, files_option("An image that is there from the beginning", image_file)] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="The audio file to write, duplex.wav if not given: the user on the left, JOSIE on the right. A "
            "transcript with times, in JSON, is written beside it.",
            callback=checked(audio_file_to_write),
        ),
    ] = None,
    tail: Annotated[
        float, typer.Option(help="Seconds of silence behind the recording.", callback=checked(_not_below_zero))
    ] = 5.0,
    speak_bias: SpeakBias = 0.0,
    seed: Seed = 0,
    temperature: Temperature = None,
    speaker: Speaker = None,
    device: Device = "auto",
    dtype: Dtype = None,
    threads: Threads = None,
) -> None:
    """Play a recording to a model that listens while it speaks.

    What it said goes to standard output, turn by turn, with the seconds at which it was heard.
    """
    require_speech(folder, speaker)
    require_units(folder)
    require_modality(folder, "image", "--image", image)
    path, inputs = out or DEFAULT_OUT, [recording, *(image or [])]
    check_out(path, audio_file_to_write, inputs)
    transcript = check_transcript(path, inputs)
    with waiting(f"Loading {folder}"):
        chosen_device = choose_device(device, threads)
        processor = load_processor(folder)
        model = load_josie(folder, chosen_device, dtype)

    import numpy as np

    from ..conversion.files import write_json
    from ..processing_josie import AudioWriter, load_audio

    options = session_options(seed, temperature, speaker, speak_bias)
    images = [str(file) for file in image] if image else None
    seconds: list[float] = []
    with model.start_session(processor, images=images, **options) as session:
        user = load_audio(recording, session.input_sampling_rate)
        user = np.concatenate((user, np.zeros(round(tail * session.input_sampling_rate), np.float32)))
        left = load_audio(recording, session.sampling_rate)
        num_done = 0
        starts = range(0, len(user), session.unit_samples)
        with (
            writing_out(path),
            AudioWriter(path, session.sampling_rate, 2) as writer,
            counting("units", len(starts)) as advance,
        ):
            for start in starts:
                begin = time.perf_counter()
                piece = session.push(user[start : start + session.unit_samples])
                seconds.append(time.perf_counter() - begin)
                right = np.atleast_2d(piece.audio_values).mean(axis=0)
                both = np.zeros((2, len(right)), np.float32)
                known = left[num_done : num_done + len(right)]
                both[0, : len(known)], both[1] = known, right
                num_done += len(right)
                writer.write(both)
                advance(1)
        turns = session.transcript()
    for turn in turns:
        typer.echo(format_turn(turn))
    values = {"recording": str(recording), "unit_seconds": session.unit_seconds, "turns": turns}
    with writing_out(transcript):
        write_json(transcript, values, indent=1)
    report(
        f"{path}, {transcript}: {num_done / session.sampling_rate:.2f} s, {len(turns)} turns; a unit of "
        f"{session.unit_seconds:.2f} s took {np.percentile(seconds, 95):.3f} s (95 %)"
    )
