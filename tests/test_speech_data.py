"""Speech of folders for recipes: what is read of it, and what is refused."""

import numpy as np
import pytest
import soundfile
from media_files import encode_audio
from recipes.speech_data import SpeechDataArguments, prepare_speech, read_manifest


@pytest.fixture
def folder(tmp_path):
    """A folder with two recordings, one of them in a container that libsndfile does not know."""
    folder = tmp_path / "recordings"
    folder.mkdir()
    samples = np.random.default_rng(0).integers(-3000, 3000, 8000, dtype=np.int16)
    soundfile.write(folder / "a.wav", samples, 16000)
    (folder / "b.m4a").write_bytes(encode_audio(samples, 16000, "mp4", "aac", {}))
    return folder


def prepare(folder, **options):
    source = {"name": "folder", "path": str(folder)} | options
    arguments = SpeechDataArguments([source], folder=str(folder.parent / "data"), validation_share=0, test_share=0)
    return read_manifest(prepare_speech(arguments)["train"])


def test_texts_are_what_they_were(folder):
    (folder / "a.txt").write_text("one\u2028two\x85three", encoding="utf-8")
    (folder / "b.txt").write_text("four\n", encoding="utf-8-sig")
    clips = prepare(folder, language="en")
    assert [clip["text"] for clip in clips] == ["one\u2028two\x85three", "four"]
    assert clips[0]["seconds"] == 0.5
    assert clips[1]["seconds"] == pytest.approx(0.5, abs=0.1)


def test_what_cannot_be_read_is_named(folder, caplog):
    (folder / "c.flac").write_bytes(b"no audio")
    assert len(prepare(folder)) == 2
    assert "c.flac" in caplog.text
    (folder / "a.txt").write_bytes("zwölf".encode("latin-1"))
    with pytest.raises(ValueError, match=r"`data.sources` must have texts in UTF-8, got '.*a.txt'"):
        prepare(folder)


@pytest.mark.parametrize(
    ("source", "option"),
    [
        ({"name": "folder", "path": ".", "langauge": "en"}, "langauge"),
        ({"name": "flite", "max_clips": 1}, "max_clips"),
        ({"name": "asterisk", "voices": ["slt"]}, "voices"),
    ],
    ids=str,
)
def test_options_of_other_sources_are_refused(source, option):
    with pytest.raises(ValueError, match=rf"`data.sources` must hold \['name', 'split', 'licence'.*got '{option}'"):
        SpeechDataArguments([source])
