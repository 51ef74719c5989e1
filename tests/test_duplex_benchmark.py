"""The benchmark of long sessions, on a short one: what it measures is there, and growth is told."""

import importlib.util
from dataclasses import replace
from typing import Any

import pytest
from this_tree import ROOT

# By its path: the package has a room of this name.
spec: Any = importlib.util.spec_from_file_location("duplex_benchmark", ROOT / "benchmarks" / "duplex.py")
benchmark = importlib.util.module_from_spec(spec)


@pytest.fixture(scope="module")
def samples():
    spec.loader.exec_module(benchmark)
    samples, seconds, num_turns = benchmark.run_session(*benchmark.make_tiny(), minutes=0.75, every=5)
    assert len(seconds) == 45
    assert num_turns == 7
    return samples


def test_a_session_is_measured_and_bounded(samples):
    assert [sample.seconds for sample in samples] == [*range(5, 50, 5)]
    assert max(sample.num_positions for sample in samples) <= 300
    assert min(sample.state_bytes for sample in samples) > 10_000
    late = samples[4:]  # its window is full
    benchmark.require_bounded(late + late)


def test_growth_is_told(samples):
    grown = [replace(sample, state_bytes=int(sample.state_bytes * 1.1)) for sample in samples]
    with pytest.raises(ValueError, match="A state must not grow once its window is full, got "):
        benchmark.require_bounded(samples + grown)
    larger = [replace(sample, memory=sample.memory + 40) for sample in samples]
    with pytest.raises(ValueError, match="The process must not grow with a session, got "):
        benchmark.require_bounded(samples + larger)
