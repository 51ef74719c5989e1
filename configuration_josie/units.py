"""Units of a full duplex session: how long they are, which audio inputs can be heard in them, and what fits into one.

Time is cut into units of equal length. In each the Thinker reads the unit's audio, and decides to listen or to speak.
"""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from .geometry import audio_codec_geometry, encodes_in_stream, is_codec


@dataclass(frozen=True)
class SpeechTiming:
    """Times that the layout of units depends on beside the Thinker: how long the Talker takes to say what.

    Args:
        unit_frames (`int`): Frames of speech in a unit.
        frame_rate (`float`): Frames a second.
        speech_delay (`int`): Of the Talker.
        right_context (`int`): How many tokens after a token must be written before it is known how long that one is
            said.
        token_durations (`Callable`, *optional*): Takes the ids of a text's spoken tokens, and returns for how many
            frames each is said; `None` where that depends on the Thinker's states.
    """

    unit_frames: int
    frame_rate: float
    speech_delay: int
    right_context: int = 0
    token_durations: Callable[[Sequence[int]], list[float]] | None = None


def hears_in_units(audio_config: Any) -> bool:
    """Return whether an audio input hears a unit when its last sample is there: one that streams without look-ahead."""
    has_lookahead = not is_codec(audio_config) and getattr(audio_config, "mel_lookahead", 0) != 0
    return encodes_in_stream(audio_config) and not has_lookahead


def require_stream(audio_config: Any) -> None:
    """Raise a `ValueError` unless an audio input can be heard in units."""
    if hears_in_units(audio_config):
        return
    if encodes_in_stream(audio_config):
        raise ValueError(
            "`audio_config.mel_lookahead` must be 0 with `unit_frames`, so that a unit is heard when it is over, got "
            f"{audio_config.mel_lookahead}."
        )
    found = "no audio input" if audio_config is None else f"a {audio_config.model_type!r} that does not"
    raise ValueError(
        "`audio_config` must stream with `unit_frames`, as JODIO, Mimi and a causal audio encoder with `mel_lookahead` "
        f"do, since a bidirectional one waits for the end of the audio, got {found}."
    )


def token_samples(audio_config: Any, stack_factor: int = 1) -> tuple[int, int]:
    """Return how many samples a token of audio stands for, and their rate in Hz.

    Args:
        audio_config: Of the Thinker, see [`hears_in_units`].
        stack_factor (`int`): Features of an encoder in a token.
    """
    if is_codec(audio_config):
        geometry = audio_codec_geometry(audio_config)
        return geometry.hop_length, geometry.sampling_rate
    return audio_config.hop_length * stack_factor, audio_config.sampling_rate


def speech_frames(unit_frames: int, samples: int, sampling_rate: int, codec_config: Any) -> int:
    """Return how many frames of speech a unit has.

    Args:
        unit_frames (`int`): Tokens of audio in a unit.
        samples, sampling_rate (`int`): Of [`token_samples`].
        codec_config: Of the codec that speaks.

    Raises:
        `ValueError`: It is no whole number.
    """
    geometry = audio_codec_geometry(codec_config)
    frames = Fraction(unit_frames * samples, sampling_rate) * Fraction(geometry.sampling_rate, geometry.hop_length)
    if frames.denominator != 1:
        raise ValueError(
            f"`unit_frames` must make a whole number of frames of the audio codec, got {unit_frames}, which are "
            f"{float(frames)}."
        )
    return int(frames)


def split_into_units(
    durations: Sequence[float], unit_frames: int, speech_delay: int, right_context: int = 0
) -> list[int]:
    """Return how many tokens of a turn are written in each of its units, up to the one that ends the text.

    A unit has tokens until the Talker can make all of its frames: until the durations that are known sum to more than
    the step that makes its last one, which is `speech_delay` steps behind. Where no token is left, the text is ended in
    that unit.

    Args:
        durations (`Sequence[float]`): Frames of each spoken token; 0 for tokens that are not spoken.
        unit_frames (`int`): Frames of speech in a unit.
        speech_delay (`int`): Of the Talker.
        right_context (`int`): See [`SpeechTiming`].

    Returns:
        The numbers; the text ends in the last of these units.
    """
    counts, end, index, unknown = [], 0.0, 0, deque()
    while True:
        needed = unit_frames * (len(counts) + 1) + speech_delay - 0.5
        begin = index
        while index < len(durations) and end <= needed:
            if durations[index]:
                unknown.append(durations[index])
            if len(unknown) > right_context:
                end += unknown.popleft()
            index += 1
        counts.append(index - begin)
        if end <= needed:  # the text has no more
            return counts
