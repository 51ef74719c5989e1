"""`examples/make_duplex.py`: files that are all there or not at all, in a folder that may have others of them."""

import re

import make_duplex
import numpy as np
import pytest


def say(text, voice):
    """Speak a sine."""
    return 0.3 * np.sin(np.arange(800 * len(text)) / 5)


def write(folder, **numbers):
    return make_duplex.write_files(folder, dict.fromkeys(make_duplex.FILES, 0) | numbers, 0, say)


def names(folder):
    return {path.name for path in folder.iterdir()}


def test_files_of_rows_are_written_beside_others(tmp_path):
    folder = tmp_path / "rows"
    made = write(folder, train=1, test=2)
    assert made == [[folder / "train.jsonl"], [folder / "test.jsonl", folder / "test-turns.jsonl"]]
    assert names(folder) == {"train", "train.jsonl", "test", "test.jsonl", "test-turns.jsonl"}
    assert len((folder / "test.jsonl").read_text().splitlines()) == len(list((folder / "test").glob("*.wav"))) == 2
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    write(folder, sessions=1)
    assert names(folder) >= {"sessions", "sessions.jsonl", "sessions-turns.jsonl"}
    assert "validation.jsonl" not in names(folder)
    assert {path: path.read_bytes() for path in before} == before


def test_a_run_that_dies_leaves_nothing(tmp_path):
    def fail(text, voice):
        raise RuntimeError("no voice")

    (tmp_path / "old").mkdir()
    for name in ("new", "old"):
        with pytest.raises(RuntimeError, match="no voice"):
            make_duplex.write_files(tmp_path / name, {"train": 1}, 0, fail)
    assert [path.name for path in tmp_path.rglob("*")] == ["old"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["new", "--train", "-3"], "`--train` must be at least 0, got -3."),
        (["new", "--sessions", "-1"], "`--sessions` must be at least 0, got -1."),
        (
            ["new", "--train", "0", "--validation", "0", "--test", "0"],
            "One of ['--train', '--validation', '--test', '--sessions'] must be above 0, got 0 for all.",
        ),
        (["file"], "`folder` must be the name of a folder, got '{path}/file', a file."),
        (["full"], "`folder` must not have 'train.jsonl' yet, got '{path}/full', which has."),
    ],
    ids=str,
)
def test_what_cannot_be_written_is_a_sentence(tmp_path, monkeypatch, arguments, message):
    monkeypatch.setattr(make_duplex, "write_rows", None)
    (tmp_path / "file").write_text("")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "train.jsonl").write_text("")
    with pytest.raises(SystemExit, match=re.escape("error: " + message.replace("{path}", str(tmp_path)))):
        make_duplex.main([str(tmp_path / arguments[0]), *arguments[1:]])
    assert names(tmp_path) == {"file", "full"}
