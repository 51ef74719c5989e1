"""`josie evaluate --streaming`: how soon speech comes, whether pieces are the whole, and the times of words."""

import json

import pytest
from test_cli import fail, run

import josie
from josie.evaluation import judge, streaming
from josie.evaluation.streaming import StreamedRow, percentile, summarise, time_words
from josie.evaluation.tasks import read_tasks

READ = {"task": "read", "speak": True, "answer": "One red ball.", "scores": ["spoken"]}
ASKED = {
    "task": "talk",
    "messages": [{"role": "user", "content": "Hello."}],
    "answer": "One red ball.",
    "scores": ["spoken"],
}
TIMES = [0.0, 0.2, 0.5, 1.0]


@pytest.fixture
def write(tmp_path, monkeypatch):
    """A function that writes rows into a file; a stand-in of the judge hears nothing."""
    monkeypatch.setattr(judge, "require_judge", lambda: None)
    monkeypatch.setattr(judge, "transcribe", lambda waveform: "")

    def write(*rows):
        (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
        return tmp_path / "rows.jsonl"

    return write


def test_rows_are_said_in_pieces_that_are_the_whole(speaking_folder, write, tmp_path):
    file = write(READ | {"word_times": TIMES}, READ | {"answer": "Two."}, ASKED)
    out = tmp_path / "report.json"
    options = ("--data", file, "--out", out, "--max-new-tokens", 9, "--streaming")
    printed = run("evaluate", speaking_folder, *options)
    report = json.loads(out.read_text(encoding="utf-8"))
    assert "in pieces" in printed
    assert " --streaming --max-new-tokens 9 " in report["command"]
    assert set(report["streaming"]) == {"read", "talk"}
    read, talk = report["streaming"]["read"], report["streaming"]["talk"]
    for part in (read, talk):
        assert part["figures"]["whole"] == 1
        for row in part["rows"]:
            assert 0 < row["first_audio"] <= row["total"]
            assert row["duration"] > 0
    assert [row["first_token"] for row in read["rows"]] == [0, 0]
    assert 0 < talk["rows"][0]["first_token"] <= talk["rows"][0]["first_audio"]
    model = josie.JosieForConditionalGeneration.from_pretrained(speaking_folder).eval()
    processor = josie.JosieProcessor.from_pretrained(speaking_folder)
    inputs = processor.tokenizer(["One red ball."], add_special_tokens=False, return_tensors="pt")
    times = model.generate_speech(inputs["input_ids"]).word_times[0].tolist()
    words = time_words(processor.tokenizer, "One red ball.", times)
    bounds = [words[0][0], *(end for _, end in words)]
    errors = [abs(bound - label) for bound, label in zip(bounds, TIMES, strict=True)]
    assert read["rows"][0]["word_errors"] == pytest.approx(errors)
    assert read["figures"]["word_times_ms"] == pytest.approx(1000 * sum(errors) / 4)
    assert "word_times_ms" not in talk["figures"]


def test_pieces_that_are_not_the_whole_are_found(speaking_folder, monkeypatch):
    model = josie.JosieForConditionalGeneration.from_pretrained(speaking_folder).eval()
    processor = josie.JosieProcessor.from_pretrained(speaking_folder)
    speak, row = model.speak_stream, streaming_row(speaking_folder)

    def speak_otherwise(*given, **options):
        for piece in speak(*given, **options):
            piece.audio_values = piece.audio_values + 1e-7
            yield piece

    assert streaming.stream_row(model, processor, row, {}, 9).is_whole
    monkeypatch.setattr(model, "speak_stream", speak_otherwise)
    assert not streaming.stream_row(model, processor, row, {}, 9).is_whole


def streaming_row(folder):
    file = folder.parent / "row.jsonl"
    file.write_text(json.dumps(READ), encoding="utf-8")
    return read_tasks(file)["read"][0]


def test_words_have_the_times_of_their_tokens():
    tokenizer = josie.load_default_tokenizer(301)
    text = "The blue heart."
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    times = [(float(index), index + 1.0) for index in range(len(ids))]
    assert len(times) == 11  # T he, Ġb l u e, Ġ, he ar t .
    words = time_words(tokenizer, text, times)
    assert words == [(0, 2), (2, 6), (7, 11)]
    assert time_words(tokenizer, text, times[:4]) == [(0, 2), (2, 4)]


def test_figures():
    rows = [
        StreamedRow(1, 0.1, 0.2, 1.0, 2.0, 0.05, True, [0.1, 0.3]),
        StreamedRow(2, 0.3, 0.6, 3.0, 2.0, 0.01, False, [0.2]),
        StreamedRow(3),  # not said
    ]
    figures = summarise(rows)
    assert figures["whole"] == pytest.approx(1 / 3)
    assert figures["first_audio_p50"] == 0.2
    assert figures["first_audio_p95"] == 0.6
    assert figures["real_time_factor_p95"] == 1.5
    assert figures["underrun"] == 0.05
    assert figures["word_times_ms"] == pytest.approx(200)
    assert summarise(rows[2:]) == {"rows": 1.0, "whole": 0.0}


def test_percentiles_are_values_that_were_measured():
    assert [percentile([3.0, 1.0, 2.0, 4.0], share) for share in (0, 25, 50, 51, 95, 100)] == [1, 1, 2, 3, 4, 4]


@pytest.mark.parametrize(
    ("changes", "got"),
    [
        ({"word_times": TIMES[:3]}, TIMES[:3]),
        ({"word_times": [0, 1, 3, 2]}, [0, 1, 3, 2]),
        ({"word_times": "0 1"}, "0 1"),
        ({"word_times": [0, 1, 2, "3"]}, [0, 1, 2, "3"]),
    ],
)
def test_wrong_times(speaking_folder, write, changes, got):
    message = fail("evaluate", speaking_folder, "--data", write(READ | changes))
    required = 'a beginning and the end of each word as `word_times`, beside `"speak": true`'
    assert message == f"`--data` must have {required}, got {got!r} in line 1."


def test_what_cannot_be_streamed(tiny_folder, speaking_folder, write):
    message = fail("evaluate", tiny_folder, "--data", write(READ), "--streaming")
    assert message.startswith("`--streaming` must go with a model whose audio codec is one of jodio, mimi, ")
    message = fail("evaluate", speaking_folder, "--data", write(ASKED | {"scores": ["wer"]}), "--streaming")
    assert message == "`--streaming` must go with scores of ['spoken', 'spoken_wer'], got True."
