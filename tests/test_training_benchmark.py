"""The benchmark of training on tiny sizes: every contestant learns, and both tables and the memory are printed."""

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

FOLDER = Path(__file__).resolve().parents[1] / "benchmarks"
sys.path.append(str(FOLDER))

import talker  # noqa: E402
import thinker  # noqa: E402

# By its path: the package has a room of this name.
spec: Any = importlib.util.spec_from_file_location("training_benchmark", FOLDER / "training.py")
training = importlib.util.module_from_spec(spec)
spec.loader.exec_module(training)

TINY = dict(hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=2)


@pytest.fixture
def tiny(monkeypatch):
    """Sizes at which a step takes no time."""
    heads = dict(num_key_value_heads=2)
    monkeypatch.setattr(thinker, "SIZES", TINY | dict(vocab_size=50))
    monkeypatch.setattr(talker, "BACKBONE", talker.BACKBONE | dict(num_hidden_layers=1, intermediate_size=24))
    monkeypatch.setattr(talker, "DEPTH", talker.DEPTH | dict(num_hidden_layers=1, intermediate_size=24) | heads)
    for name, value in (("ROWS", 2), ("LENGTH", 9), ("TOKENS", 3), ("FRAMES", 5)):
        monkeypatch.setattr(training, name, value)


@pytest.mark.parametrize("name", list(training.BUILDERS))
def test_every_contestant_learns(name, tiny):
    torch.manual_seed(0)
    step = training.BUILDERS[name]()
    losses = [step() for _ in range(4)]
    assert losses[-1] < losses[0]


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="memory is read from Linux's /proc")
def test_it_prints_both_tables_and_the_memory(tiny, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(training, "find_peak", training.measure_peak)
    threads = torch.get_num_threads()
    monkeypatch.setattr(sys, "argv", ["training.py", "--rounds", "2", "--json", str(tmp_path / "out.json")])
    training.main()
    assert torch.get_num_threads() == threads
    printed = capsys.readouterr().out
    rows = json.loads((tmp_path / "out.json").read_text())
    assert {title: list(table) for title, table in rows.items()} == {
        f"{part}, a step of training": list(names) for part, names in training.PAIRS.items()
    }
    for name in training.BUILDERS:
        assert f"\n{name}: " in printed
    assert all(row["ratio"] > 0 for table in rows.values() for row in table.values())
