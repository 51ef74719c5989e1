"""A session in full duplex of ten minutes: what it holds, and how long a unit takes.

    python benchmarks/duplex.py
    python benchmarks/duplex.py --minutes 60 --model runs/duplex

The model is a tiny, untrained one with units of a second, unless another is given. It hears noise, and is made to speak
in turns of three units, with pauses of four; an image is shown every minute. Once its window is full, the state may not
grow: in the second half it has at most 5 % more bytes than in the first, and the process at most 32 MB more.

State: bytes of a file of the state, without the transcript. Memory: the most that the process has had.
"""

import argparse
import resource
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

import josie
from josie.modeling_josie.duplex.state_files import save_state

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from duplex_models import make_pair

_TURN, _PAUSE = 3, 4  # units
_FORCED = 1e4  # bias with which the model has no choice
_MOST_GROWTH = 1.05  # of the state, from the first half of a session to the second
_MOST_MEMORY = 32.0  # MB of the process, likewise


@dataclass
class Sample:
    """Sizes at a moment of a session.

    Args:
        seconds (`float`): Of audio that was heard.
        num_positions (`int`): That the Thinker has in view.
        state_bytes (`int`): Of the state's file.
        memory (`float`): MB, the most that the process has had.
    """

    seconds: float
    num_positions: int
    state_bytes: int
    memory: float


def run_session(model: Any, processor: Any, minutes: float, every: float) -> tuple[list[Sample], list[float], int]:
    """Return samples of a session, the seconds that each unit took, and the number of turns.

    Args:
        model ([`JosieForConditionalGeneration`]), processor ([`JosieProcessor`]): With units.
        minutes (`float`): Length.
        every (`float`): Seconds of audio between samples.
    """
    generator = np.random.default_rng(0)
    image = generator.integers(0, 255, (24, 24, 3), dtype=np.uint8)
    samples: list[Sample] = []
    seconds: list[float] = []
    has_images = model.config.thinker_config.image_token_id is not None
    with tempfile.TemporaryDirectory() as folder, model.start_session(processor, talker_seed=0) as session:
        per_minute = max(round(60 / session.unit_seconds), 1)
        for number in range(round(60 * minutes / session.unit_seconds)):
            session.speak_bias = _FORCED if number % (_TURN + _PAUSE) < _TURN else -_FORCED
            if has_images and number % per_minute == per_minute // 2:
                session.show_image(image)
            unit = generator.normal(scale=0.1, size=session.unit_samples).astype(np.float32)
            begin = time.perf_counter()
            session.push(unit)
            seconds.append(time.perf_counter() - begin)
            if session.seconds >= every * (len(samples) + 1):
                path = Path(folder) / "state"
                save_state(model, session.state, path)
                memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
                positions = session.state.rows[0].memory.num_positions
                samples.append(Sample(session.seconds, positions, path.stat().st_size, memory))
        return samples, seconds, len(session.turns)


def require_bounded(samples: list[Sample]) -> None:
    """Raise a `ValueError` if a state, or the process, has grown in the second half of a session."""
    first, second = samples[: len(samples) // 2], samples[len(samples) // 2 :]
    before, after = (max(sample.state_bytes for sample in half) for half in (first, second))
    if after > _MOST_GROWTH * before:
        raise ValueError(f"A state must not grow once its window is full, got {after} bytes after {before}.")
    grown = second[-1].memory - first[-1].memory
    if grown > _MOST_MEMORY:
        raise ValueError(f"The process must not grow with a session, got {grown:.0f} MB more in its second half.")


def make_tiny() -> tuple[Any, Any]:
    """Return a tiny model with units of a second, and its processor."""
    model, processor = make_pair(positions=300, unit_frames=20, codec_options={"upsampling_ratios": [10, 8]})
    return model.prepare_for_inference(), processor


def main() -> None:
    """Measure, print, and check that memory stays."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0, help="length of the session")
    parser.add_argument("--model", help="a folder with a model that has units, instead of the tiny one")
    parser.add_argument("--threads", type=int, default=1, help="of torch")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.model is None:
        model, processor = make_tiny()
    else:
        model = josie.JosieForConditionalGeneration.from_pretrained(arguments.model).eval().prepare_for_inference()
        processor = josie.JosieProcessor.from_pretrained(arguments.model)
    begin = time.perf_counter()
    samples, seconds, num_turns = run_session(model, processor, arguments.minutes, every=2 * arguments.minutes)
    for sample in samples[2::3]:
        print(
            f"{sample.seconds:7.1f} s  {sample.num_positions:5} positions  state {sample.state_bytes / 1024:8.0f} kB  "
            f"memory {sample.memory:6.0f} MB"
        )
    middle, late = statistics.median(seconds), float(np.percentile(seconds, 95))
    print(
        f"{len(seconds)} units, {num_turns} turns in {time.perf_counter() - begin:.0f} s; a unit of "
        f"{model.config.thinker_config.unit_seconds:g} s took {1000 * middle:.0f} ms (median), "
        f"{1000 * late:.0f} ms (95 %)"
    )
    require_bounded(samples)
    print("Bounded.")


if __name__ == "__main__":
    main()
