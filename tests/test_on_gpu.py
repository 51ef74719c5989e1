"""The benchmark for accelerators, on the CPU: every row is there and none failed."""

import json
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).resolve().parents[1] / "benchmarks"))

import on_gpu


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning")  # of CSM and Mimi, whose caches the peers make themselves
def test_it_runs_on_a_cpu_and_writes_both_reports(tmp_path, monkeypatch):
    for name, value in (("PROMPT", 3), ("TOKENS", 2), ("FRAMES", 2), ("SECONDS", 1), ("WARMUP", 0)):
        monkeypatch.setattr(on_gpu, name, value)
    on_gpu.main(["--device", "cpu", "--rounds", "1", "--out", str(tmp_path / "report")])
    report = json.loads((tmp_path / "report.json").read_text())
    tables = report["tables"]
    assert {name: len(rows) for name, rows in tables.items()} == {
        "Agreement with float32 on the CPU": 6,
        "Attention": 2,
        "A training step": 18,
        "Speed": 6,
    }
    assert not [row for rows in tables.values() for row in rows if "note" in row]
    assert tables["Agreement with float32 on the CPU"][0]["same choice"] == 1
    page = (tmp_path / "report.md").read_text()
    assert page.count("\n## ") == 4
    assert "| JOSIE Talker, eager |" in page


def test_without_time_left_rows_say_so(tmp_path):
    session = on_gpu.Session(on_gpu.torch.device("cpu"), minutes=-1.0, rounds=1)
    session.add("Speed", "anything", lambda: {"a second": 1.0})
    assert session.tables == {"Speed": [{"what": "anything", "note": "not run: no time left"}]}
    session.end += 120
    session.add("Speed", "a failure", lambda: {"a second": 1 / 0})
    assert session.tables["Speed"][1]["note"] == "failed: ZeroDivisionError: division by zero"


@pytest.mark.parametrize(
    ("arguments", "message"), [(["--rounds", "0"], "must be above 0"), (["--device", "cuda"], "`--device` must be")]
)
def test_wrong_arguments(arguments, message, monkeypatch):
    monkeypatch.setattr(on_gpu.torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit, match=message):
        on_gpu.main(arguments)
