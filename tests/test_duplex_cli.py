"""`josie duplex` and `josie evaluate --duplex`: files, transcripts, tables, and what they refuse."""

import json
import math
import shutil
from contextlib import contextmanager

import numpy as np
import pytest
import soundfile
from duplex_models import save_pair
from samples import IMAGE
from test_cli import fail, run

import josie
from josie.cli import duplex
from josie.conversion.hub.model_card import write_model_card
from josie.evaluation.duplex import DuplexRow, read_duplex_rows, score_rows
from josie.training.unit_rows import read_timed_row

RATE = 1600


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_pair(tmp_path_factory.mktemp("duplex") / "model")


@pytest.fixture
def recording(tmp_path):
    values = np.random.default_rng(0).normal(size=700).astype(np.float32) * 0.2
    josie.save_audio(tmp_path / "user.wav", values, RATE)
    return tmp_path / "user.wav"


def test_a_recording_is_heard_and_answered(folder, recording, tmp_path):
    result = run("duplex", folder, recording, "--out", tmp_path / "out.wav", "--tail", 0.5, "--speak-bias", 100)
    both, rate = soundfile.read(tmp_path / "out.wav", dtype="float32")
    assert rate == RATE
    assert both.shape == (1500, 2)
    user = soundfile.read(recording, dtype="float32")[0]
    np.testing.assert_allclose(both[:700, 0], user, atol=1e-4)
    assert not both[700:, 0].any()
    assert np.abs(both[:, 1]).max() > 0
    written = json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))
    assert written["unit_seconds"] == pytest.approx(0.0375)
    assert len(written["turns"]) == 1
    assert written["turns"][0]["begin"] == pytest.approx(0.037, abs=0.001)
    assert result.startswith("0.04-")
    silent = run("duplex", folder, recording, "--out", tmp_path / "out.wav", "--tail", 0, "--speak-bias", -100)
    assert silent == ""
    assert not soundfile.read(tmp_path / "out.wav")[0][:, 1].any()


def test_every_unit_is_counted(folder, recording, tmp_path, monkeypatch):
    counted = []

    @contextmanager
    def record(task, total):
        counted.append((task, total))
        yield counted.append

    monkeypatch.setattr(duplex, "counting", record)
    run("duplex", folder, recording, "--out", tmp_path / "out.wav", "--tail", 0)
    assert counted == [("units", 12), *[1] * 12]  # 700 samples, 60 a unit


def test_what_cannot_be_heard(folder, tiny_folder, recording, tmp_path):
    assert "`DIR` must hold a model that learned when to speak" in fail("duplex", tiny_folder, recording)
    assert "`--tail` must be a finite number of at least 0" in fail("duplex", folder, recording, "--tail", -1)
    assert "must" in fail("duplex", folder, tmp_path / "nowhere.wav")
    assert "`--out` must end in" in fail("duplex", folder, recording, "--out", "a.txt")


def write_rows(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_conversations_are_scored(folder, recording, tmp_path):
    row = {"audio": "user.wav", "question_end": 0.1, "answers": ["red"], "seconds": 0.6}
    rows = [
        row | {"situation": "question"},
        row | {"situation": "noise", "event": [0.2, 0.3]},
        row | {"situation": "interruption", "event": [0.2, 0.3], "answers": ["red", "two"]},
    ]
    data, out = write_rows(tmp_path / "rows.jsonl", rows), tmp_path / "scores.json"
    result = run("evaluate", folder, "--data", data, "--duplex", "--out", out)
    assert "unit p95" in result
    values = json.loads(out.read_text(encoding="utf-8"))
    assert values["scores"]["rows"] == 3
    assert set(values["situations"]) == {"question", "noise", "interruption"}
    assert len(values["rows"]) == 3
    assert "--duplex" in values["command"]
    wrong = write_rows(tmp_path / "wrong.jsonl", [row | {"situation": "song"}])
    assert "`situation` must be one of" in fail("evaluate", folder, "--data", wrong, "--duplex")
    assert "`--streaming` must go without `--duplex`" in fail(
        "evaluate", folder, "--data", data, "--duplex", "--streaming"
    )

    assert "`--batch-size` must go without `--duplex`" in fail(
        "evaluate", folder, "--data", data, "--duplex", "--batch-size", 2
    )


def turn(begin, end, text="It is red.", is_cut=False, heard=None):
    words = [{"text": text, "begin": begin + 0.1, "end": end}]
    return dict(begin=begin, end=end, text=text, is_cut=is_cut, heard=heard or text, words=words)


def score(situation, turns, event=None, answers=("It is red.",)):
    return score_rows([DuplexRow(1, situation, 2.0, list(answers), event, turns=turns, unit_seconds=[0.01])])


class TestScores:
    def test_a_plain_question(self):
        right = score("question", [turn(2.5, 3.5)])
        assert right == dict(rows=1, take_over=1, first_right=1, response_p50=pytest.approx(0.6), unit_p95=0.01)
        assert score("question", [])["take_over"] == 0
        assert score("question", [turn(1.0, 1.5), turn(2.5, 3.5)])["take_over"] == 0
        assert score("question", [turn(5.5, 6.0)])["take_over"] == 0
        assert score("question", [turn(2.5, 3.5, "It is blue.")])["first_right"] == 0

    def test_a_pause(self):
        assert score("pause", [turn(2.5, 3.5)], [0.5, 1.5])["pause_take_over"] == 0
        early = score("pause", [turn(0.9, 1.2, is_cut=True, heard="It"), turn(2.5, 3.5)], [0.5, 1.5])
        assert (early["pause_take_over"], early["take_over"]) == (1, 0)

    @pytest.mark.parametrize("situation", ["backchannel", "noise"])
    def test_what_is_no_question(self, situation):
        name, event = f"{situation}_take_over", [3.0, 3.3]
        assert score(situation, [turn(2.5, 4.5)], event)[name] == 0
        assert score(situation, [turn(2.5, 3.5, is_cut=True, heard="It is")], event)[name] == 1
        assert score(situation, [turn(2.5, 3.5), turn(4.0, 4.5)], event)[name] == 1
        assert name not in score(situation, [turn(2.1, 2.9)], event)

    def test_a_second_question(self):
        answers, event = ("It is red.", "Two."), [3.0, 4.0]
        good = score(
            "interruption", [turn(2.5, 3.4, is_cut=True, heard="It is"), turn(4.3, 5.0, "Two.")], event, answers
        )
        assert (good["first_right"], good["second_right"], good["stopped"]) == (1, 1, 1)
        assert good["stop_p50"] == good["stop_p95"] == pytest.approx(0.4)
        assert good["response_p50"] == pytest.approx(0.4)
        going = score("interruption", [turn(2.5, 6.0)], event, answers)
        assert (going["second_right"], going["stopped"]) == (0, 0)
        assert "stop_p50" not in going

    def test_a_longer_session(self):
        row = DuplexRow(1, "session", 2.0, ["It is red.", "Two.", "No."], later=[[4.0, 5.0], [7.0, 8.0]])
        row.turns = [turn(2.5, 3.5), turn(5.4, 6.0, "Two."), turn(8.4, 9.0, "Yes.")]
        assert (score_rows([row])["first_right"], score_rows([row])["later_right"]) == (1, 0.5)
        row.turns = [turn(2.5, 3.5), turn(8.4, 9.0, "Two.")]  # too late, when the next question is over
        assert score_rows([row])["later_right"] == 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"later": [[4.0, 5.0]]}, "`later` must be there in a 'session' alone, got .* in 'question'"),
        ({"situation": "session"}, "`later` must be there in a 'session' alone, got None"),
        ({"situation": "session", "later": [[5.0, 4.0]]}, "`later` must be two rising times for each"),
        ({"situation": "session", "later": [[4.0, 5.0]]}, "`answers` must be 2 texts in 'session'"),
        ({"situation": "session", "event": [1.0, 2.0], "later": [[4.0, 5.0]]}, "`event` must be there but for plain"),
        ({"situation": "pause", "event": [4.0]}, "`event` must be two rising times"),
    ],
)
def test_wrong_rows_are_refused(changes, message, tmp_path):
    row = {"situation": "question", "audio": "user.wav", "question_end": 0.1, "answers": ["red"]}
    with pytest.raises(ValueError, match=f"Line 1 of .*{message}"):
        read_duplex_rows(write_rows(tmp_path / "rows.jsonl", [row | changes]))


TIMED = [{"role": "user", "content": [{"type": "audio", "path": "user.wav", "begin": 0.5}]}]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"question_end": math.nan}, "`question_end` must be seconds of at least 0, got nan"),
        ({"question_end": 100}, "`question_end` must be inside the track of 0.44 s, got 100"),
        ({"audio": None, "messages": TIMED, "question_end": 1.0}, "`question_end` must be inside the track of 0.94 s"),
        ({"seconds": 0.6, "question_end": 0.7}, "`question_end` must be inside the track of 0.60 s, got 0.7"),
        ({"seconds": "0.6"}, "`seconds` must be seconds of at least 0, got '0.6'"),
        ({"situation": "pause", "event": [200, 300]}, "`event` must be inside the track of 0.44 s, got 300"),
        ({"situation": "pause", "event": [False, True]}, "`event` must be two rising times"),
        ({"situation": "pause", "event": [0.1, math.inf]}, "`event` must be two rising times"),
        (
            {"situation": "session", "later": [[0.2, 0.3], [4.0, 5.0]], "answers": ["red"] * 3},
            "`later` must be inside the track of 0.44 s, got 5.0",
        ),
        ({"images": "scene.png"}, "`images` must be a list of files, got 'scene.png'"),
        ({"images": ["none.png"]}, "must have paths of files that exist, got .*none.png"),
        ({"audio": "none.wav"}, "must have paths of files that exist, got .*none.wav"),
        ({"audio": 3}, "`audio` must be a file, got 3"),
        ({"audio": "scene.png"}, "`audio` must have an audio track"),
        ({"audio": None, "messages": "Hi"}, "`messages` must be a list of dicts, got 'Hi'"),
        ({"audio": None, "messages": []}, "must have `audio` or `messages`, got neither"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image", "path": "none.png", "begin": 0.1}]}]},
            "must have paths of files that exist, got .*none.png",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "audio", "path": "user.wav", "begin": "x"}]}]},
            "`begin` must be seconds of at least 0, got 'x'",
        ),
    ],
)
def test_rows_that_cannot_be_scored_are_refused_before_any_is_run(changes, message, recording, tmp_path):
    shutil.copy(IMAGE, tmp_path / "scene.png")
    row = {"situation": "question", "audio": "user.wav", "question_end": 0.1, "answers": ["red"]}
    with pytest.raises(ValueError, match=f"Line 2 of .*{message}"):
        read_duplex_rows(write_rows(tmp_path / "rows.jsonl", [row, row | changes]))


def test_paths_of_rows_are_relative_to_the_file_and_what_is_empty_is_absent(recording, tmp_path):
    shutil.copy(IMAGE, tmp_path / "scene.png")
    empty = dict.fromkeys(("event", "later", "images", "seconds", "turns", "audio"))
    row = {"situation": "question", "question_end": 0.9, "answers": ["red"]}
    shown = {"type": "image", "path": "scene.png", "begin": 0.2}
    messages = [{"from": "human", "value": "Listen."}, {"role": "user", "content": [*TIMED[0]["content"], shown]}]
    rows = [empty | row | {"messages": messages}, row | {"audio": "user.wav", "seconds": 1.0, "images": ["scene.png"]}]
    first, second = read_duplex_rows(write_rows(tmp_path / "rows.jsonl", rows))
    parts = first.values["messages"][1]["content"]
    assert [part["path"] for part in parts] == [str(tmp_path / "user.wav"), str(tmp_path / "scene.png")]
    assert first.values["messages"][0] == messages[0]
    assert (second.values["audio"], second.images) == (str(recording), [str(tmp_path / "scene.png")])
    timed = read_timed_row(first.values, RATE)
    assert (len(timed.track), len(timed.images), timed.prompt[0]["content"]) == (round(3.9 * RATE), 1, "Listen.")


def test_an_answer_is_waited_for_behind_the_track(recording, tmp_path):
    """A track may end with its question: silence follows, unless the row says how long it is."""
    row = {"audio": "user.wav", "question_end": 0.4375, "answers": ["red"], "situation": "question"}
    event = {"situation": "noise", "event": [0.2, 0.44]}
    rows = read_duplex_rows(write_rows(tmp_path / "rows.jsonl", [row, row | event, row | {"seconds": 0.6}]))
    assert [row.values["seconds"] for row in rows] == [3.4375, 3.44, 0.6]


def test_info_and_card_say_that_it_listens_while_it_speaks(folder, tmp_path):
    assert "listens while it speaks, units of 0.0375 s" in " ".join(run("info", folder).split())
    path = write_model_card(tmp_path, josie.JosieConfig.from_pretrained(folder))
    card = " ".join(path.read_text(encoding="utf-8").split())
    assert "It listens while it speaks, and decides when it speaks in units of 0.0375 s." in card
