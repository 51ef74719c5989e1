"""The walk-through prints the numbers of μOmni's document, and the reasons of differences."""

import re
import runpy
import sys
from pathlib import Path

import pytest

from josie.conversion.muomni.convert import convert_muomni

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "examples" / "muomni_walkthrough.py"
MUOMNI = ROOT / "tests" / "data" / "muomni"

# The document's tables, part by part, and what is different here.
DOCUMENT = {
    "Part 1: text": [
        ("tokens of 'Hello, how are you?'", "6"),
        ("token ids", "(1, 6)"),
        ("token embeddings", "(1, 6, 256)"),
        ("queries of a layer", "(1, 4, 6, 64)"),
        ("attention of a layer", "(1, 4, 6, 6)"),
        ("layers", "4"),
        ("output of a layer", "(1, 6, 256)"),
        ("after the final norm", "(1, 6, 256)"),
        ("logits", "(1, 6, 5000)"),
        ("positions in the cache", "6"),
        ("logits of the next call", "(1, 1, 5000)"),
        ("positions in the cache", "7"),
        ("tokens at the end of generation", "70"),
    ],
    "Part 2: image and text": [
        ("image", "(1, 3, 224, 224)"),
        ("patches", "(1, 128, 14, 14)"),
        ("with the CLS row, after the layers", "(1, 197, 128)"),
        ("the CLS row", "(1, 1, 128)"),
        ("projected to the Thinker", "(1, 1, 256)"),
        ("tokens of 'What do you see in this image?'", "8"),
        ("text embeddings", "(1, 8, 256)"),
        ("image and text", "(1, 9, 256)"),
        ("logits", "(1, 9, 5000)"),
        ("new tokens of one step", "1"),
    ],
    "Part 3: audio and text": [
        ("mel frames of 16,000 samples", "(1, 100, 128)"),
        ("features of 16,000 samples", "(1, 25, 192)"),
        ("mel frames of 15,999 samples", "(1, 100, 128)"),
        ("after convolution 1", "(1, 64, 50, 64)"),
        ("after convolution 2", "(1, 64, 25, 32)"),
        ("width of a frame before its projection", "2048"),
        ("after the layers", "(1, 25, 192)"),
        ("most features of one clip", "128"),
        ("projected to the Thinker", "(25, 256)"),
        ("tokens of 'What did you hear?'", "5"),
        ("audio and text", "(1, 30, 256)"),
        ("logits", "(1, 30, 5000)"),
    ],
    "Part 4: image, audio and text": [
        ("image tokens", "1"),
        ("audio tokens", "25"),
        ("text tokens", "9"),
        ("order", "image, audio, text"),
        ("all together", "(1, 35, 256)"),
        ("logits", "(1, 35, 5000)"),
        ("tokens after 3 steps", "38"),
    ],
    "Part 5: text to speech": [
        ("tokens of 'This is a test of text to speech.'", "10"),
        ("frames, 30 a token", "300"),
        ("frames a second", "12.5"),
        ("seconds", "24.0"),
        ("codes, with the start", "(1, 301, 2)"),
        ("code indices", "602"),
        ("mel spectrogram", "(301, 128)"),
        ("samples a code frame", "1280"),
        ("samples", "385280"),
    ],
    "Part 6: training of the Talker": [
        ("mel spectrograms", "(2, 50, 128)"),
        ("codes", "(2, 50, 2)"),
        ("code indices", "200"),
        ("logits of the base codes", "(2, 50, 128)"),
        ("logits of the residual codes", "(2, 50, 128)"),
        ("predictions of each codebook", "100"),
        ("the loss is the sum of two", "True"),
        ("the loss is a scalar", "()"),
        ("the loss falls", "True"),
    ],
}
DIFFERENT = {
    ("tokens of 'Hello, how are you?'", "6"): ("8", "another tokenizer"),
    ("tokens of 'What do you see in this image?'", "8"): ("9", "another tokenizer"),
    ("tokens of 'What did you hear?'", "5"): ("6", "another tokenizer"),
    ("tokens of 'This is a test of text to speech.'", "10"): ("9", "another tokenizer"),
    ("mel frames of 16,000 samples", "(1, 100, 128)"): ("(1, 101, 128)", "frames are centred"),
    ("features of 16,000 samples", "(1, 25, 192)"): ("(1, 26, 192)", "the frame more"),
    ("codes, with the start", "(1, 301, 2)"): ("(1, 300, 2)", "it is not decoded"),
    ("code indices", "602"): ("600", "it is not decoded"),
    ("mel spectrogram", "(301, 128)"): ("(1500, 128)", "several mel frames make a code frame"),
    ("samples", "385280"): ("384000", "it is not decoded"),
    ("mel spectrograms", "(2, 50, 128)"): ("(2, 250, 128)", "several mel frames make a code frame"),
    ("codes", "(2, 50, 2)"): ("(2, 2, 50)", "the same numbers"),
    ("logits of the base codes", "(2, 50, 128)"): ("(2, 50, 129)", "the end of speech"),
}


@pytest.fixture
def walk(monkeypatch, capsys):
    """A function that runs the script and returns the cells of what it printed, part by part, and its last line."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", [str(SCRIPT), *map(str, arguments)])
        runpy.run_path(str(SCRIPT), run_name="__main__")
        *blocks, last = capsys.readouterr().out.strip().split("\n\n")
        tables = [[re.split(r" {2,}", line.strip()) for line in block.splitlines()] for block in blocks]
        assert all(table[0][1:] == ["document", "here"] for table in tables)
        return {table[0][0]: table[1:] for table in tables}, last

    return run


@pytest.mark.slow
def test_micro_has_the_numbers_of_the_document(walk):
    printed, last = walk()
    assert {part: [tuple(cells[:2]) for cells in table] for part, table in printed.items()} == DOCUMENT
    for step, document, here, why in (cells for table in printed.values() for cells in table):
        if (step, document) in DIFFERENT:
            other, reason = DIFFERENT[step, document]
            assert (here, reason in why) == (other, True), (step, why)
        else:
            assert (here, why) == (document, "="), step
    assert last == "60 steps, 47 as in the document, 13 different"


@pytest.mark.slow
def test_a_converted_checkpoint_has_the_documents_numbers_for_its_sizes(walk, tmp_path):
    convert_muomni(MUOMNI, tmp_path / "josie")
    printed, last = walk(tmp_path / "josie")
    here = {(part, cells[0]): cells[1:3] for part, table in printed.items() for cells in table}
    assert [len(table) for table in printed.values()] == [len(table) for table in DOCUMENT.values()]
    assert here["Part 1: text", "token embeddings"] == ["(1, 6, 32)", "(1, 6, 32)"]
    assert here["Part 4: image, audio and text", "audio tokens"] == ["16", "16"]
    assert here["Part 5: text to speech", "mel spectrogram"] == ["(301, 128)", "(300, 128)"]
    assert here["Part 5: text to speech", "samples"] == ["385280", "384000"]
    assert here["Part 6: training of the Talker", "logits of the base codes"] == ["(2, 50, 16)", "(2, 50, 16)"]
    assert here["Part 6: training of the Talker", "the loss is the sum of two"] == ["True", "True"]
    reasons = [cells[3] for table in printed.values() for cells in table if cells[3] != "="]
    known = ("another tokenizer", "frames are centred", "the frame more", "it is not decoded", "the same numbers")
    assert [reason for reason in reasons if not any(phrase in reason for phrase in known)] == []
    assert last == f"60 steps, {60 - len(reasons)} as in the document, {len(reasons)} different"
    assert len(reasons) <= 11


def test_a_model_without_a_part_is_refused(walk, tmp_path, save_checkpoint):
    save_checkpoint(tmp_path, talker_config=None)
    with pytest.raises(ValueError, match=r"`FOLDER` must hold a model that sees, hears and speaks, got .*'audio'"):
        walk(tmp_path)
