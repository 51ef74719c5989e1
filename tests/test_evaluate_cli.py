"""`josie evaluate`: rows of every kind, scores against hand-made answers, and what it answers to wrong files."""

import importlib.util
import json
import random
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
from test_cli import contents, fail, run

import josie
from josie.evaluation import judge
from josie.evaluation.tasks import Row, compare_kinds, is_right, read_tasks, run_task, score
from josie.evaluation.words import count_word_errors, split_words, word_error_rate

DATA = Path(__file__).parent / "data"
CLIP = {"type": "audio", "path": "clips/speech.wav"}
IMAGE = {"type": "image", "path": "picture.png"}
QUESTION = {"type": "text", "text": "What is on it?"}
ANSWER = {"task": "answer", "answer": "A red ball.", "scores": ["exact", "spoken"]}
ASKED = [{"role": "user", "content": [IMAGE, QUESTION]}]
READ = {"task": "read", "speak": True, "answer": "One red ball.", "scores": ["spoken", "spoken_wer"]}


def ask(*parts, **changes):
    return {**ANSWER, "messages": [{"role": "user", "content": list(parts)}], **changes}


ROWS = [
    ask(IMAGE, QUESTION),
    READ,
    ask(QUESTION, task="talk", scores=["wer", "exact"]),
    ask(IMAGE, CLIP),
    ask(CLIP, QUESTION, IMAGE),
    READ | {"answer": "Two."},
    READ | {"answer": "A table, and under it the other 3 balls."},
]


@pytest.fixture
def data(tmp_path):
    """A function that writes rows into a folder with the files they name."""
    folder = tmp_path / "data"
    (folder / "clips").mkdir(parents=True)
    shutil.copy(DATA / "picture.png", folder)
    shutil.copy(DATA / "speech.wav", folder / "clips")

    def write(*rows):
        lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
        (folder / "rows.jsonl").write_text("\n".join([*lines, ""]), encoding="utf-8")
        return folder / "rows.jsonl"

    return write


@pytest.fixture
def heard(monkeypatch):
    """The judge's input; a stand-in of it hears the same words in everything."""
    waveforms = []

    def transcribe(waveform):
        waveforms.append(waveform)
        return "One red ball."

    monkeypatch.setattr(judge, "require_judge", lambda: None)
    monkeypatch.setattr(judge, "transcribe", transcribe)
    return waveforms


def evaluate(folder, file, out, *options):
    printed = run(
        "evaluate", folder, "--data", file, "--out", out, "--max-seconds", 0.3, "--max-new-tokens", 5, *options
    )
    return printed, json.loads(out.read_text(encoding="utf-8"))


class TestEvaluate:
    def test_batches_change_nothing(self, tiny_folder, data, tmp_path, heard):
        file = data(*ROWS)
        printed, together = evaluate(tiny_folder, file, tmp_path / "together.json", "--batch-size", 3)
        _, alone = evaluate(tiny_folder, file, tmp_path / "alone.json", "--batch-size", 1)
        assert together["rows"] == alone["rows"]
        assert [row["line"] for row in together["rows"]] == [1, 4, 5, 2, 6, 7, 3]
        assert {name: task["num_rows"] for name, task in together["tasks"].items()} == {
            "answer": 3,
            "read": 3,
            "talk": 1,
        }
        for first, second in zip(heard[: len(heard) // 2], heard[len(heard) // 2 :], strict=True):
            assert first.ndim == 1
            assert np.abs(first - second).max() < 0.02 * np.abs(first).max() + 1e-6
        assert together["command"].startswith(f"josie evaluate {tiny_folder} --data {file} --batch-size 3")
        assert [word for word in printed.split() if word in ("exact", "wer", "spoken", "spoken_wer")] == [
            *("exact", "wer", "spoken", "spoken_wer")
        ]

    def test_kinds_are_scored_apart(self, tiny_folder, data, tmp_path, heard):
        written = {"scores": ["exact", "spoken"], "answer": "One red ball."}
        rows = [ask(QUESTION) | written | {"kind": kind} for kind in ("big", "small", "big")]
        printed, found = evaluate(tiny_folder, data(*rows, ask(QUESTION) | written), tmp_path / "report.json")
        task = found["tasks"]["answer"]
        assert task["num_rows"] == 4
        assert {kind: part["num_rows"] for kind, part in task["kinds"].items()} == {"big": 2, "small": 1}
        assert all(part["scores"] == task["scores"] for part in task["kinds"].values())  # one question, one answer
        lines = [line.replace("│", " ").split() for line in printed.splitlines()]
        assert ["answer", "big", "2", "0.0", "100.0"] in lines  # the stand-in hears what is right
        assert ["answer", "spoken", "big", "100.0", "small", "100.0", "100.0"] in lines

    def test_written_and_heard_answers_are_the_models(self, tiny_folder, data, tmp_path, heard):
        rows = evaluate(tiny_folder, data(*ROWS), tmp_path / "report.json")[1]["rows"]
        model = josie.JosieForConditionalGeneration.from_pretrained(tiny_folder).eval()
        processor = josie.JosieProcessor.from_pretrained(tiny_folder)
        content = [{"type": "image", "path": str(DATA / "picture.png")}, QUESTION]
        inputs = processor.apply_chat_template(
            [{"role": "user", "content": content}],
            tokenize=True,
            add_generation_prompt=True,
            return_dict=True,
            return_tensors="pt",
        )
        ids = model.generate(**inputs, do_sample=False, max_new_tokens=5)[0, inputs["input_ids"].shape[1] :]
        assert rows[0]["written"] == processor.decode(ids, skip_special_tokens=True).strip()
        read = [row for row in rows if row["task"] == "read"]
        assert [row["written"] for row in read] == [None] * 3
        assert {row["heard"] for row in read} <= {"One red ball.", ""}  # nothing is heard where nothing was spoken
        assert read[0]["right"] == {"spoken": read[0]["heard"] == "One red ball."}

    def test_only_the_first_rows_of_each_task(self, tiny_folder, data, tmp_path, heard):
        _, report = evaluate(tiny_folder, data(*ROWS), tmp_path / "report.json", "--num", 2)
        assert [row["line"] for row in report["rows"]] == [1, 4, 2, 6, 3]

    def test_written_scores_need_no_judge(self, tiny_folder, data, tmp_path, monkeypatch):
        monkeypatch.setattr(judge, "_PACKAGES", ("no_such_judge",))
        written = ask(QUESTION, scores=["exact", "wer"])
        assert "answer" in run("evaluate", tiny_folder, "--data", data(written), "--max-new-tokens", 3)
        message = fail("evaluate", tiny_folder, "--data", data(*ROWS))
        assert message.startswith("The judges need `pip install 'josie[judge]'`: ")

    def test_a_mute_model_is_not_asked_to_speak(self, save_checkpoint, data, tmp_path, heard):
        folder = save_checkpoint(tmp_path / "mute", talker_config=None)
        assert fail("evaluate", folder, "--data", data(READ)).startswith("`DIR` must hold a model that speaks for ")


class TestScores:
    rows = [
        Row(1, "t", "The ball is red.", ["exact"], [], "The ball is red.", "the ball is read"),
        Row(2, "t", "There are two balls.", ["exact"], [], "There are 2 balls.", "there are two balls"),
        Row(3, "t", "No.", ["exact"], [], "no.", None),
    ]

    @pytest.mark.parametrize(
        ("name", "expected"), [("exact", 1 / 3), ("wer", 0.0), ("spoken", 1 / 3), ("spoken_wer", 2 / 9)]
    )
    def test_against_counting_by_hand(self, name, expected):
        assert score(name, self.rows) == pytest.approx(expected)

    def test_rows(self):
        assert [is_right("exact", row) for row in self.rows] == [True, False, False]
        assert [is_right("spoken", row) for row in self.rows] == [False, True, False]


class TestWords:
    @pytest.mark.parametrize(
        ("one", "other"),
        [
            ("There are 2 circles.", "there are two circles"),
            ("It is 10, or 105!", "It is ten, or one hundred five."),
            ("1,234,567 of 12", "one million two hundred thirty four thousand five hundred sixty seven of twelve"),
            ("the 1st, 2nd, 12th, 20th and 33rd", "the first, second, twelfth, twentieth and thirty-third"),
            ("3.14 for $5, 50% of it", "three point one four for five dollars, fifty percent of it"),
            ("The colour of its grey centre", "The color of its gray center"),
            ("Mr. Jones of St. Paul's", "Mister Jones of Saint Paul's"),
            ("Don\N{RIGHT SINGLE QUOTATION MARK}t! They're here.", "do not they are here"),
            ("I cannot. Goodbye, OK? Alright & good night!", "I can not; good-bye okay all right and goodnight"),
            ("A caf\N{LATIN SMALL LETTER E WITH ACUTE} [noise], um, (laughs)", "a cafe"),
        ],
    )
    def test_one_spelling_for_what_sounds_alike(self, one, other):
        assert split_words(one) == split_words(other) != []

    def test_nothing_else_is_changed(self):
        text = "our hours of pouring flour, a here where there were more, less wise than the rest"
        assert split_words(text) == text.replace(",", "").split()
        assert split_words("2") != split_words("to")

    def test_punctuation_is_no_word(self):
        assert split_words("... - ! \u2026") == []

    def test_word_error_rate_is_over_all_words(self):
        assert word_error_rate(["a ball", "", "one"], ["a red ball", "no", "1"]) == 2 / 5
        assert word_error_rate(["a red ball", "oh no"], ["a red ball", ""]) == 2 / 3  # said nothing, heard two
        with pytest.raises(ValueError, match="`heard` must be as many texts as `said` .1., got 0."):
            word_error_rate([], ["a"])
        with pytest.raises(ValueError, match="`said` must have at least one word, got 2 texts without any."):
            word_error_rate(["a", "b"], ["...", ""])

    @pytest.mark.parametrize("seed", range(5))
    def test_word_errors_are_the_edit_distance(self, seed):
        generator = random.Random(seed)
        said, heard = (generator.choices("abcd", k=generator.randrange(9)) for _ in range(2))
        assert count_word_errors(heard, said) == edit_distance(heard, said)


def edit_distance(heard, said):
    """Return the number of edits by its definition."""
    if not heard or not said:
        return len(heard) + len(said)
    keep = edit_distance(heard[1:], said[1:]) + (heard[0] != said[0])
    return min(keep, edit_distance(heard[1:], said) + 1, edit_distance(heard, said[1:]) + 1)


class TestErrors:
    @pytest.mark.parametrize(
        ("row", "message"),
        [
            ("{", "`--data` must have a JSON object in each line, got '{' in line 2."),
            ("[]", "`--data` must have a JSON object in each line, got [] in line 2."),
            (
                ask(QUESTION, voice="bob"),
                "only `task`, `kind`, `messages`, `speak`, `answer`, `scores` and `word_times`, "
                "got ['voice'] in line 2.",
            ),
            (ask(QUESTION, answer=" "), "a text as `answer`, got ' ' in line 2."),
            (ask(QUESTION, task=None), "a text as `task`, got None in line 2."),
            (ask(QUESTION, scores=["bleu"]), "as `scores`, got ['bleu'] in line 2."),
            (ask(QUESTION, scores=[]), "as `scores`, got [] in line 2."),
            (READ | {"scores": ["exact"]}, "of what is read aloud, got ['exact'] in line 2."),
            (ANSWER, 'either `messages` or `"speak": true`, got '),
            (READ | {"messages": ASKED}, 'either `messages` or `"speak": true`, got '),
            (ANSWER | {"messages": ["Hi"]}, "messages with `role` and `content`, got 'Hi' in line 2."),
            (
                ask(QUESTION) | {"messages": [*ASKED, {"role": "assistant", "content": "A red ball."}]},
                "messages that end with what is answered, got {'role': 'assistant', 'content': 'A red ball.'} in",
            ),
            (
                ask(QUESTION, task="talk", answer="Um.", scores=["exact", "wer"]),
                "a word in the first answer of each task and kind with ['wer'] as `scores`, got 'Um.' in line 2.",
            ),
            (ask({"type": "audio", "path": "none.wav"}), "paths of files that exist, got "),
            (ask(QUESTION, scores=["exact"]), "one kind of rows in each task: got another in line 2 than in line 1"),
        ],
    )
    def test_the_line_is_named(self, tiny_folder, data, row, message):
        answer = fail("evaluate", tiny_folder, "--data", data(ask(QUESTION), row))
        assert message in answer
        assert "line 2" in answer

    def test_no_rows(self, tiny_folder, data):
        assert "must have at least one row" in fail("evaluate", tiny_folder, "--data", data("", " "))

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            (("--num", 0), "`--num` must be at least 1, got 0."),
            (("--batch-size", -1), "`--batch-size` must be at least 1, got -1."),
            (("--threads", 0), "`--threads` must be at least 1, got 0."),
            (("--out", "report.txt"), "`--out` must end in .json, got 'report.txt'."),
        ],
    )
    def test_options(self, tiny_folder, data, options, message):
        assert fail("evaluate", tiny_folder, "--data", data(ask(QUESTION)), *options) == message

    def test_a_missing_file(self, tiny_folder):
        message = "`--data` must be an existing file, got 'none.jsonl'."
        assert fail("evaluate", tiny_folder, "--data", "none.jsonl") == message

    def test_a_failure_leaves_no_report(self, tiny_folder, data, tmp_path, heard):
        file = data(ask(QUESTION), ask({"type": "image", "path": "clips/speech.wav"}))
        (tmp_path / "out").mkdir()
        fail_after = run_and_fail("evaluate", tiny_folder, "--data", file, "--out", tmp_path / "out" / "report.json")
        assert fail_after.startswith("Error: ")
        assert contents(tmp_path / "out") == []


def run_and_fail(*arguments):
    """Run a command that fails after it has begun; return the last line on standard error."""
    from typer.testing import CliRunner

    from josie.cli.app import app

    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == 2
    return result.stderr.splitlines()[-1]


def test_paths_are_relative_to_the_file(data):
    file = data(ask(IMAGE, CLIP, QUESTION), ANSWER | {"messages": [{"role": "user", "content": "Hi"}]})
    first, second = read_tasks(file)["answer"]
    assert [part.get("path") for part in first.messages[0]["content"]] == [
        str(file.parent / "picture.png"),
        str(file.parent / "clips" / "speech.wav"),
        None,
    ]
    assert second.messages == [{"role": "user", "content": "Hi"}]


def test_what_is_empty_in_an_export_of_a_table_is_absent(data):
    empty = dict.fromkeys(("kind", "speak", "messages", "word_times"))
    rows = read_tasks(data(empty | ask(QUESTION), empty | READ))
    assert [(row.kind, row.messages is None) for row in (rows["answer"][0], rows["read"][0])] == [
        (None, False),
        (None, True),
    ]


def test_words_are_asked_for_where_errors_are_a_share_of_them(data):
    """Of the first answer alone: behind it one that says nothing counts, as what was written in its place is wrong."""
    row = ask(QUESTION, task="talk", scores=["exact", "wer"])
    others = [row | {"kind": "um"}, row | {"kind": "um", "answer": "Um."}, row | {"answer": "Um."}]
    read = read_tasks(data(row, *others, ask(QUESTION, answer="Um.")))
    result = run_task(read["talk"], lambda batch: [], batch_size=4, sampling_rate=None)
    assert (result.scores["wer"], result.kinds["um"].scores["wer"]) == (1, 1)
    with pytest.raises(ValueError, match=r"must have a word in the first answer .*, got 'Um.' in line 2"):
        read_tasks(data(row, *others[1:]))


def test_worst_and_best_kinds():
    def rows(kind, *written):
        return [Row(1, "look", "a b", ["exact", "wer"], [], text, kind=kind) for text in written]

    result = run_task(
        [*rows("few", "a b", "c d"), *rows("all", "a b"), *rows("half", "a b", "a b", "a c", "a c")],
        lambda batch: [],
        batch_size=2,
        sampling_rate=None,
    )
    assert {kind: found.num_rows for kind, found in result.kinds.items()} == {"few": 2, "all": 1, "half": 4}
    assert compare_kinds(result, "exact") == ("few", "all", pytest.approx(2 / 3))
    assert compare_kinds(result, "wer") == ("few", "all", pytest.approx(0.25))


def test_the_judge_hears_speech():
    """The real one, on a recording: what `josie evaluate` compares."""
    for name in judge._PACKAGES:
        if importlib.util.find_spec(name) is None:
            pytest.skip(f"josie[judge] is not installed: no {name}")
    samples, rate = soundfile.read(DATA / "judged.flac", dtype="float32")
    assert rate == judge.SAMPLING_RATE
    assert len(judge.hear_words(samples)) > 3
