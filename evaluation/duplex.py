"""Full duplex: sessions over recorded conversations, and how they take turns, after Full-Duplex-Bench v1.0 and v1.5.

The file has a JSON object a line, times in seconds of the user's track:

    {"situation": "interruption", "audio": "17.wav", "question_end": 2.1, "answers": ["It is red.", "Two."],
     "event": [4.0, 5.2], "images": ["17.png"]}

`situation` is one of `SITUATIONS`. `question_end` is the end of the first question, the pause inside it included.
`event` is when something else is heard: the pause; the second question, the "mm-hm", or the noise, over the answer.
`answers` are the right answers to the questions. A `session` has more questions, each after the answer before: `later`
has beginning and end of each of them. Instead of `audio`, the row may have `messages` as rows of training. Paths are
relative to the file. All times are inside the track; behind the last of them silence follows for as long as scores look
for an answer, unless the row says its `seconds`, the least length of the track.

Scores, of turns that follow from the model's own times of words:

* `take_over`: share of rows in which it speaks within 3 seconds after the end of the (first) question, and not before.
* `pause_take_over`: share of pauses in which it begins to speak.
* `backchannel_take_over`, `noise_take_over`: share of events over its answer after which, within 2 seconds, the answer
  is cut or another turn begins. Rows in which it does not speak at the event do not count.
* `stop_p50`, `stop_p95`: seconds from the beginning of a second question to the silence of the model; `stopped` is the
  share of second questions over its answer at which it fell silent within 3 seconds.
* `response_p50`: seconds from the end of a question, first or second, to the first word of its answer.
* `first_right`, `second_right`: share of answers that are right to the word; of a first answer that was cut, what was
  heard of it. `later_right` is the share of the later answers of a `session`, each begun before the next question ends.
* `unit_p95`: seconds that a unit takes to compute.

Full-Duplex-Bench (Lin et al., 2025) counts a take-over when what is said has 3 words or a second; here any word counts,
since answers may have one word.
"""

import json
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..processing_josie.audio import as_waveform
from ..processing_josie.messages import part_value
from .streaming import percentile
from .tasks import resolve_file, resolve_messages
from .words import split_words

SITUATIONS = ("question", "pause", "backchannel", "interruption", "noise", "session")
_ANSWER_WINDOW, _EVENT_WINDOW, _STOP_WINDOW = 3.0, 2.0, 3.0
_KEYS = {"situation", "audio", "messages", "question_end", "event", "later", "answers", "images", "seconds"}
_IGNORED = {"turns", "voice", "scene"}  # of rows that are also trained with
_RATE = 16000  # Hz, at which tracks are measured
_ROUNDING = 0.05  # seconds by which times, written to a tenth, may be beyond the end of the track


@dataclass
class DuplexRow:
    """A conversation, and how a session of the model went.

    Args:
        line (`int`): Of the file, from 1.
        situation (`str`): Of `SITUATIONS`.
        question_end (`float`): Seconds at which the first question is over.
        answers (`list[str]`): Right answers, to the first question and to those after it.
        event (`list[float]`, *optional*): Beginning and end.
        later (`list[list[float]]`): Beginning and end of the questions after the first, of a `session`.
        values (`dict`): The row, for [`read_timed_row`].
        images (`list[str]`): Files that are there from the beginning.
        turns (`list[dict]`): What the model said, as in [`JosieSession.transcript`].
        unit_seconds (`list[float]`): Times to compute each unit.
    """

    line: int
    situation: str
    question_end: float
    answers: list[str]
    event: list[float] | None = None
    later: list[list[float]] = field(default_factory=list)
    values: dict[str, Any] = field(default_factory=dict)
    images: list[str] = field(default_factory=list)
    turns: list[dict[str, Any]] = field(default_factory=list)
    unit_seconds: list[float] = field(default_factory=list)


def read_duplex_rows(path: Path) -> list[DuplexRow]:
    """Return the rows of a file.

    Raises:
        `ValueError`: There is none, or a wrong one; the line is named.
    """
    rows = []
    for number, line in enumerate(path.read_text(encoding="utf-8-sig").split("\n"), start=1):
        if line.strip():
            try:
                rows.append(_read_row(json.loads(line), number, path.parent))
            except (ValueError, TypeError) as error:
                raise ValueError(f"Line {number} of {str(path)!r}: {error}") from error
    if not rows:
        raise ValueError(f"`--data` must have at least one row, got {str(path)!r}.")
    return rows


def _read_row(values: Any, number: int, root: Path) -> DuplexRow:
    if not isinstance(values, dict):
        raise ValueError(f"a row must be a JSON object, got {values!r}.")
    values = {name: value for name, value in values.items() if value is not None}  # as in exports of tables
    unknown = values.keys() - _KEYS - _IGNORED
    if unknown:
        raise ValueError(f"a row must have keys among {sorted(_KEYS | _IGNORED)}, got {sorted(unknown)}.")
    situation, event, answers = values.get("situation"), values.get("event"), values.get("answers")
    if situation not in SITUATIONS:
        raise ValueError(f"`situation` must be one of {list(SITUATIONS)}, got {situation!r}.")
    if (event is None) != (situation in ("question", "session")):
        raise ValueError(f"`event` must be there but for plain questions, got {event} in {situation!r}.")
    if event is not None and not _is_span(event):
        raise ValueError(f"`event` must be two rising times, got {event}.")
    later = values.get("later")
    if (later is None) != (situation != "session"):
        raise ValueError(f"`later` must be there in a 'session' alone, got {later} in {situation!r}.")
    if later is not None and not (isinstance(later, list) and later and all(map(_is_span, later))):
        raise ValueError(f"`later` must be two rising times for each question after the first, got {later}.")
    expected = 2 if situation == "interruption" else 1 + len(later or ())
    if not isinstance(answers, list) or len(answers) != expected or not all(isinstance(text, str) for text in answers):
        raise ValueError(f"`answers` must be {expected} texts in {situation!r}, got {answers!r}.")
    end = values.get("question_end")
    for name, value in (("question_end", end), ("seconds", values.get("seconds", 0))):
        if not _is_time(value):
            raise ValueError(f"`{name}` must be seconds of at least 0, got {value!r}.")
    kept, images = _read_media(values, root)
    last = _require_inside(kept, {"question_end": [end], "event": event or [], "later": sum(later or [], [])})
    kept.setdefault("seconds", last + _ANSWER_WINDOW)
    return DuplexRow(number, situation, float(end), answers, event, later or [], kept, images)


def _read_media(values: dict[str, Any], root: Path) -> tuple[dict[str, Any], list[str]]:
    """Return what [`read_timed_row`] reads of a row, and the images that are there from the beginning."""
    audio, messages, images = values.get("audio"), values.get("messages", []), values.get("images", [])
    if audio is None and not messages:
        raise ValueError("a row must have `audio` or `messages`, got neither.")
    if audio is not None and not isinstance(audio, str):
        raise ValueError(f"`audio` must be a file, got {audio!r:.200}.")
    if not isinstance(messages, list) or not all(isinstance(message, dict) for message in messages):
        raise ValueError(f"`messages` must be a list of dicts, got {messages!r:.200}.")
    if not isinstance(images, list) or not all(isinstance(image, str) for image in images):
        raise ValueError(f"`images` must be a list of files, got {images!r:.200}.")

    def fail(required: str, got: Any) -> ValueError:
        return ValueError(f"`audio`, `images` and `messages` must have {required}, got {got!r}.")

    kept = {name: values[name] for name in ("seconds",) if name in values}
    if messages:
        kept["messages"] = resolve_messages(messages, root, fail)
    if audio is not None:
        kept["audio"] = resolve_file(audio, root, fail)
    return kept, [resolve_file(image, root, fail) for image in images]


def _require_inside(kept: dict[str, Any], times: dict[str, list[float]]) -> float:
    """Return the last of the times of a row.

    Raises:
        `ValueError`: It is beyond the end of the track.
    """
    clips = [(0.0, kept["audio"])] if "audio" in kept else []
    for message in kept.get("messages", ()):
        content = message.get("content")
        for part in content if isinstance(content, list) else ():
            if isinstance(part, dict) and part.get("type") == "audio" and part.get("begin") is not None:
                if not _is_time(part["begin"]):
                    raise ValueError(f"`begin` must be seconds of at least 0, got {part['begin']!r}.")
                clips.append((part["begin"], part_value(part)))
    ends = [begin + as_waveform(clip, None, _RATE).shape[-1] / _RATE for begin, clip in clips]
    length = max([kept.get("seconds", 0.0), *ends])
    for name, values in times.items():
        if max(values, default=0.0) > length + _ROUNDING:
            raise ValueError(f"`{name}` must be inside the track of {length:.2f} s, got {max(values)}.")
    return max(value for values in times.values() for value in values)


def _is_time(value: Any) -> bool:
    """Return whether this is a number of seconds from 0."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < math.inf


def _is_span(times: Any) -> bool:
    """Return whether these are a beginning and an end."""
    return isinstance(times, list) and len(times) == 2 and all(map(_is_time, times)) and times[0] < times[1]


def run_row(
    model: Any, processor: Any, row: DuplexRow, read: Callable[[dict[str, Any], int], Any], **options: Any
) -> None:
    """Play a row to a session, unit by unit, and note what it says.

    Args:
        model, processor: Of full duplex.
        row ([`DuplexRow`]): Gets its turns.
        read (`Callable`): Gives the track of a row, images that are shown and the prompt, as `read_timed_row`.
        options: Of `start_session`.
    """
    timed = read(row.values, model.config.thinker_config.unit_sampling_rate)
    with model.start_session(processor, timed.prompt or None, row.images or None, **options) as session:
        shown, size, row.unit_seconds = list(timed.images), session.unit_samples, []
        track = np.pad(timed.track, (0, -len(timed.track) % size))
        for start in range(0, len(track), size):
            while shown and shown[0][0] < (start + size) / session.input_sampling_rate:
                session.show_image(shown.pop(0)[1])
            begin = time.perf_counter()
            session.push(track[start : start + size])
            row.unit_seconds.append(time.perf_counter() - begin)
        row.turns = session.transcript()


def score_rows(rows: list[DuplexRow]) -> dict[str, float]:
    """Return the scores of rows that were run; those of which there is no case are left out."""
    cases: dict[str, list[float]] = {}
    for row in rows:
        for name, value in _score_row(row):
            cases.setdefault(name, []).append(value)
    scores = {name: sum(values) / len(values) for name, values in cases.items() if name not in ("stop", "response")}
    for name, percents in (("stop", (50, 95)), ("response", (50,))):
        for percent in percents:
            if cases.get(name):
                scores[f"{name}_p{percent}"] = percentile(cases[name], percent)
    times = [seconds for row in rows for seconds in row.unit_seconds]
    return {"rows": float(len(rows)), **scores} | ({"unit_p95": percentile(times, 95)} if times else {})


def _score_row(row: DuplexRow) -> Iterator[tuple[str, float]]:
    first = next((turn for turn in row.turns if turn["begin"] >= row.question_end), None)
    is_early = any(turn["begin"] < row.question_end for turn in row.turns)
    is_taken = first is not None and first["begin"] <= row.question_end + _ANSWER_WINDOW and not is_early
    yield "take_over", float(is_taken)
    yield "first_right", float(first is not None and _is_right(first, row.answers[0]))
    if first is not None and is_taken:
        yield "response", _first_word(first) - row.question_end
    if row.later:
        yield from _score_later(row)
    if row.event is None:
        return
    begin, end = row.event
    if row.situation == "pause":
        yield "pause_take_over", float(any(begin <= turn["begin"] < end for turn in row.turns))
        return
    spoken = next((turn for turn in row.turns if turn["begin"] <= begin < _end_of(turn)), None)
    if row.situation == "interruption":
        second = next((turn for turn in row.turns if turn["begin"] >= end), None)
        yield "second_right", float(second is not None and _is_right(second, row.answers[1]))
        if second is not None:
            yield "response", _first_word(second) - end
        if spoken is not None:
            is_stopped = spoken["is_cut"] and _end_of(spoken) <= begin + _STOP_WINDOW
            yield "stopped", float(is_stopped)
            if is_stopped:
                yield "stop", _end_of(spoken) - begin
    elif spoken is not None:
        last = end + _EVENT_WINDOW
        is_cut = spoken["is_cut"] and _end_of(spoken) <= last
        begins = any(begin < turn["begin"] <= last for turn in row.turns)
        yield f"{row.situation}_take_over", float(is_cut or begins)


def _score_later(row: DuplexRow) -> Iterator[tuple[str, float]]:
    ends = [*(end for _, end in row.later), float("inf")]
    for end, next_end, answer in zip(ends, ends[1:], row.answers[1:], strict=False):
        turn = next((turn for turn in row.turns if end <= turn["begin"] < next_end), None)
        yield "later_right", float(turn is not None and _is_right(turn, answer))
        if turn is not None:
            yield "response", _first_word(turn) - end


def _end_of(turn: dict[str, Any]) -> float:
    return float("inf") if turn["end"] is None else turn["end"]


def _first_word(turn: dict[str, Any]) -> float:
    """Return when the first word of a turn begins; the turn itself where words have no times."""
    return turn["words"][0]["begin"] if turn["words"] else turn["begin"]


def _is_right(turn: dict[str, Any], answer: str) -> bool:
    said, expected = split_words(turn["text"]), split_words(answer)
    if not turn["is_cut"]:
        return said == expected
    heard = split_words(turn["heard"] or "")
    return len(heard) > 0 and heard == expected[: len(heard)]


def duplex_dict(rows: list[DuplexRow]) -> dict[str, Any]:
    """Return scores and rows as they are written to a file."""
    situations = {name: [row for row in rows if row.situation == name] for name in SITUATIONS}
    return {
        "scores": score_rows(rows),
        "situations": {name: score_rows(some) for name, some in situations.items() if some},
        "rows": [{name: value for name, value in asdict(row).items() if name != "values"} for row in rows],
    }
