"""Rows with times out of data sets of moshi-finetune and liquid-audio."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
from duplex_models import make_pair

import josie
from josie.training.unit_rows import make_unit_row, read_timed_row

RATE, UNIT = 1600, 0.0375


@pytest.fixture
def data(tmp_path):
    left, right = np.full(2 * RATE, 0.5, np.float32), np.full(2 * RATE, 0.25, np.float32)
    soundfile.write(tmp_path / "a.wav", np.stack((left, right), axis=1), RATE)
    words = [
        ["It", [0.3, 0.4], "SPEAKER_MAIN"],
        ["what", [0.35, 0.5], "SPEAKER_OTHER"],
        ["is", [0.45, 0.6], "SPEAKER_MAIN"],
        ["red.", [1.5, 1.7], "SPEAKER_MAIN"],
    ]
    (tmp_path / "a.json").write_text(json.dumps({"alignments": words}))
    (tmp_path / "data.jsonl").write_text(json.dumps({"path": "a.wav", "duration": 2.0}) + "\n")
    return tmp_path / "data.jsonl"


def test_stereo_files_with_alignments(data):
    rows = josie.MoshiRows(data)
    assert len(rows) == 1
    row = rows[0]
    assert [turn["begin"] for turn in row["turns"]] == [0.3, 1.5]
    assert [[word["text"] for word in turn["words"]] for turn in row["turns"]] == [["It", "is"], ["red."]]
    track = read_timed_row(row, RATE).track
    assert track.shape == (2 * RATE,)
    assert track == pytest.approx(0.25, abs=1e-3)
    model, processor = make_pair(talker="states, depth, durations")
    made = make_unit_row(processor, model.get_speech_timing(), row)
    thinker, ids = processor.thinker_config, made["input_ids"].tolist()
    spoken = [token for token in ids if token > 9 and token not in (thinker.listen_token_id, thinker.speak_token_id)]
    assert processor.tokenizer.decode(spoken) == "It isred."
    units = [ids[place + 1] for place in range(len(ids) - 1) if ids[place] == 8 != ids[place + 1]]
    first = units.index(thinker.speak_token_id)
    assert first == round(0.3 / UNIT) - 1
    # Two words of 0.3 s in all, and a unit more.
    assert units[first:].index(thinker.listen_token_id) == round(0.3 / UNIT) + 1


def test_files_that_are_no_such_data(data):
    folder = data.parent
    with pytest.raises(ValueError, match="`path` of a source must be an existing file, got"):
        josie.MoshiRows(folder / "none.jsonl")
    with pytest.raises(ValueError, match="`pause` must be above 0, got 0."):
        josie.MoshiRows(data, pause=0)
    (folder / "a.json").unlink()
    with pytest.raises(ValueError, match="`path` must name files with alignments beside them, got no"):
        josie.MoshiRows(data)[0]
    soundfile.write(folder / "a.wav", np.zeros(100), RATE)
    with pytest.raises(ValueError, match="`path` must name stereo files, got .* with 1 channels."):
        josie.MoshiRows(data)[0]
    data.write_text('{"file": "a.wav"}\n')
    with pytest.raises(ValueError, match="Line 1 of .* must have a `path`, got"):
        josie.MoshiRows(data)


@pytest.mark.parametrize("form", [dict, SimpleNamespace], ids=["dicts", "objects"])
def test_segments_follow_each_other(form):
    clip = (np.full(RATE, 0.5, np.float32), RATE)
    messages = [
        form(role="system", content=[form(text="Be short.")]),
        form(role="user", content=[form(audio=clip)]),
        form(role="assistant", content=[form(text="It is red.", audio=clip)]),
        form(role="user", content=[form(audio=clip)]),
    ]
    row = josie.place_segments(messages, RATE, gap=0.25)
    assert row["turns"] == [{"begin": 1.25, "text": "It is red."}]
    assert row["seconds"] == 3.75
    timed = read_timed_row(row, RATE)
    assert timed.prompt == [{"role": "system", "content": "Be short."}]
    heard = timed.track != 0
    assert heard[:RATE].all()
    assert not heard[RATE : round(2.5 * RATE)].any()
    assert heard[round(2.5 * RATE) : round(3.5 * RATE)].all()
    with pytest.raises(ValueError, match="`messages` must have audio in segments of 'assistant', .* got no audio."):
        josie.place_segments([form(role="assistant", content=[form(text="It is red.")])], RATE)
    with pytest.raises(ValueError, match="`messages` must have audio in segments of 'assistant', .* got no text."):
        josie.place_segments([form(role="assistant", content=[form(audio=clip)])], RATE)


@pytest.mark.parametrize(
    ("content", "why"),
    [(b'{"path": "a.wav"}\n{"path"', "Line 2 of .* must be JSON"), (b'{"path": "\xff"}', "in UTF-8")],
)
def test_lines_that_cannot_be_read_are_named(tmp_path, content, why):
    (tmp_path / "data.jsonl").write_bytes(content)
    with pytest.raises(ValueError, match=why):
        josie.MoshiRows(tmp_path / "data.jsonl")


@pytest.mark.parametrize("content", ["{", "[]", "{}", "3"])
def test_alignments_that_cannot_be_read_are_named(tmp_path, content):
    soundfile.write(tmp_path / "a.wav", np.zeros((100, 2)), 16000)
    (tmp_path / "a.json").write_text(content)
    (tmp_path / "data.jsonl").write_text('{"path": "a.wav"}\n')
    rows = josie.MoshiRows(tmp_path / "data.jsonl")
    with pytest.raises(ValueError, match=r"a\.json' must be JSON in UTF-8 with `alignments`"):
        rows[0]
