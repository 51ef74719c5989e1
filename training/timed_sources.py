"""Rows with times out of data sets of other projects: moshi-finetune's stereo files, liquid-audio's segments.

moshi-finetune has a JSONL file of `{"path": "a.wav", "duration": 24.5}`; the left channel is the assistant's, the right
the user's, and `a.json` beside it has `{"alignments": [["word", [1.0, 1.2], "SPEAKER_MAIN"], ...]}`. liquid-audio has
messages of segments, the user's with `audio`, the assistant's with `text` and `audio`, and no times: there the clips
follow each other.
"""

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, cast

import soundfile
from torch.utils.data import Dataset

from ..processing_josie.audio import as_waveform
from .conversations import read_json_lines

_SPEAKER = "SPEAKER_MAIN"


class MoshiRows(Dataset):
    """Rows of a data set of moshi-finetune; files are read when a row is asked for.

    Args:
        path (`str` or `Path`): The JSONL file; paths in it are relative to it.
        pause (`float`): Seconds of silence of the assistant that end a turn; more than two units.

    Raises:
        `ValueError`: There is no such file, or a line without a `path`.
    """

    def __init__(self, path: str | Path, pause: float = 0.8):
        path = Path(path)
        if pause <= 0:
            raise ValueError(f"`pause` must be above 0, got {pause}.")
        self.pause, self.files = pause, []
        for number, row in read_json_lines(path):
            if not isinstance(row, dict) or not isinstance(row.get("path"), str):
                raise ValueError(f"Line {number} of {str(path)!r} must have a `path`, got {str(row)[:60]!r}.")
            self.files.append(path.parent / row["path"])

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Return a row with the user's track and the assistant's turns.

        Raises:
            `ValueError`: The file is not stereo, or has no alignments.
        """
        file = self.files[index]
        samples, rate = soundfile.read(cast(Any, os.fsencode(file)), dtype="float32", always_2d=True)
        if samples.shape[1] != 2:
            raise ValueError(f"`path` must name stereo files, got {str(file)!r} with {samples.shape[1]} channels.")
        aligned = file.with_suffix(".json")
        if not aligned.is_file():
            raise ValueError(f"`path` must name files with alignments beside them, got no {str(aligned)!r}.")
        try:
            alignments = json.loads(aligned.read_text(encoding="utf-8"))["alignments"]
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{str(aligned)!r} must be JSON in UTF-8 with `alignments`: {error!r}.") from error
        track = {"array": samples[:, 1].copy(), "sampling_rate": rate}
        return {"audio": track, "turns": join_words(alignments, self.pause), "seconds": len(samples) / rate}


def join_words(alignments: Iterable[list[Any]], pause: float) -> list[dict[str, Any]]:
    """Return the turns of the assistant.

    Args:
        alignments (`list`): Of each word its text, `[begin, end]` and the speaker, in order.
        pause (`float`): Seconds between words that end a turn.
    """
    turns: list[dict[str, Any]] = []
    for text, (begin, end), speaker in alignments:
        if speaker != _SPEAKER or not text.strip():
            continue
        word = {"text": text.strip(), "begin": float(begin), "end": float(end)}
        if turns and word["begin"] - turns[-1]["words"][-1]["end"] < pause:
            turns[-1]["words"].append(word)
        else:
            turns.append({"begin": word["begin"], "words": [word]})
    return turns


def place_segments(
    messages: Iterable[Any], sampling_rate: int, gap: float = 0.3, default_rate: int | None = None
) -> dict[str, Any]:
    """Return a row in which segments without times follow each other, as in liquid-audio.

    Args:
        messages (`list`): With `role` and `content`, segments with `text`, `audio` or both; as dicts or as objects.
        sampling_rate (`int`): Of the user's track, in Hz.
        gap (`float`): Seconds between segments.
        default_rate (`int`, *optional*): Of audio that comes without one, in Hz.

    Raises:
        `ValueError`: The user's segments have text and no audio, or the assistant's have no text or no audio, which
            says how long it lasts.
    """
    now, timed, turns = 0.0, [], []
    prompt: list[dict[str, Any]] = []
    for message in messages:
        role = _get(message, "role")
        for segment in _get(message, "content"):
            text, audio = _get(segment, "text"), _get(segment, "audio")
            if role == "system":
                prompt.append({"role": "system", "content": text})
                continue
            if audio is None or (role == "assistant" and not text):
                raise ValueError(
                    f"`messages` must have audio in segments of {role!r}, and text beside it in the assistant's, got "
                    f"{'no audio' if audio is None else 'no text'}."
                )
            waveform = as_waveform(audio, default_rate, sampling_rate)[0]
            if role == "assistant":
                turns.append({"begin": now, "text": text})
            else:
                clip = {"type": "audio", "audio": waveform, "sampling_rate": sampling_rate, "begin": now}
                timed.append({"role": "user", "content": [clip]})
            now += len(waveform) / sampling_rate + gap
    return {"messages": [*prompt, *timed], "turns": turns, "seconds": now}


def _get(value: Any, name: str) -> Any:
    return value.get(name) if isinstance(value, dict) else getattr(value, name, None)
