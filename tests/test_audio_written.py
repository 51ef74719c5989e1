"""Audio files that are written: formats that keep what they are given, full disks, and names of any bytes."""

import os
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import soundfile
from samples import tone
from test_cli import contents, fail, run

from josie.cli import options, shared
from josie.cli.media import find_modalities
from josie.processing_josie import AudioWriter, load_audio, save_audio
from josie.processing_josie.audio import UNFIT_FORMATS, audio_formats

FULL = "/dev/full"
needs_full = pytest.mark.skipif(not os.path.exists(FULL), reason="only Linux has a device that is always full")


def write(path, values, rate):
    """Write a file piece by piece."""
    with AudioWriter(path, rate) as writer:
        for piece in np.array_split(values, 3):
            writer.write(piece[None])


@pytest.mark.parametrize("rate", [16000, 22050, 24000])
@pytest.mark.parametrize("name", audio_formats())
def test_every_format_is_read_again_as_it_was_written(tmp_path, name, rate):
    values = tone(0.1, rate)
    for index, save in enumerate((save_audio, write)):
        path = tmp_path / f"{index}.{name.lower()}"
        save(path, values, rate)
        assert soundfile.info(path).samplerate == rate
        assert load_audio(path).shape == values.shape
    assert len(contents(tmp_path)) == 2


@pytest.mark.parametrize("name", sorted(UNFIT_FORMATS))
def test_other_formats_are_refused(tmp_path, name):
    path = tmp_path / f"a.{name.lower()}"
    for save in (save_audio, write):
        with pytest.raises(ValueError, match=r"`path` must end in .wav, .flac, .ogg, .mp3, .aiff, .* got '.*'"):
            save(path, tone(0.1), 16000)
    required = options.audio_file_to_write(path)
    assert required.startswith("end in .wav, .flac, .ogg, .mp3, .aiff, ")
    assert f".{name.lower()}" not in required.split(", ")
    assert contents(tmp_path) == []


def test_the_command_line_knows_the_formats():
    assert set(UNFIT_FORMATS) == options.UNFIT_FORMATS
    assert set(options._AUDIO_ENDINGS) <= {f".{name.lower()}" for name in audio_formats()}


def test_rates_that_a_format_does_not_know(tmp_path):
    (tmp_path / "a.mp3").write_bytes(b"what was here before")
    for name, match in (("a.mp3", "`path` must be writable as MP3 at 96000 Hz"), ("a.svx", "at most 65535 Hz for SVX")):
        with pytest.raises(ValueError, match=match):
            AudioWriter(tmp_path / name, 96000)
    assert (tmp_path / "a.mp3").read_bytes() == b"what was here before"
    assert contents(tmp_path) == ["a.mp3"]


@needs_full
@pytest.mark.parametrize("ending", ["wav", "flac", "aiff"])
def test_a_full_disk(tmp_path, ending):
    path = tmp_path / f"full.{ending}"
    path.symlink_to(FULL)
    with pytest.raises(ValueError, match=rf"`path` must be writable as {ending.upper()} at 16000 Hz, got '.*': .+\.$"):
        write(path, tone(1.0), 16000)
    assert os.path.exists(FULL)


@pytest.mark.parametrize("ending", ["wav", "flac"])
def test_what_cannot_be_written_to_its_end_is_removed(tmp_path, monkeypatch, ending):
    def fill(*_):
        raise OSError(28, "No space left on device")

    writer = AudioWriter(tmp_path / f"a.{ending}", 16000)
    writer.write(tone(0.1)[None])
    monkeypatch.setattr(writer._wave or writer._file, "writeframes" if ending == "wav" else "write", fill)
    with pytest.raises(ValueError, match="`path` must be writable as .*: No space left on device.$"):
        writer.write(tone(0.1)[None])
    writer.close()
    assert contents(tmp_path) == []


@needs_full
@pytest.mark.parametrize("ending", ["wav", "flac"])
def test_the_command_line_names_its_option(speaking_folder, tmp_path, ending):
    path = tmp_path / f"full.{ending}"
    path.symlink_to(FULL)
    message = fail("speak", speaking_folder, "Hi", "--stream", "--max-seconds", 0.3, "--out", path)
    assert message.startswith(f"`--out` must be writable as {ending.upper()} at ")


def write_into_pipe(path, write):
    """Return what the other end of a named pipe gets."""
    os.mkfifo(path)
    with ThreadPoolExecutor(1) as readers:
        got = readers.submit(path.read_bytes)
        write(path)
        assert path.is_fifo()
        return got.result(timeout=30)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_pipes_get_what_files_get(tmp_path):
    values = tone(0.1)
    expected = load_audio(write_into_pipe(tmp_path / "a.wav", lambda path: save_audio(path, values, 16000)))
    assert expected.shape == values.shape
    given = write_into_pipe(tmp_path / "b.wav", lambda path: write(path, values, 16000))
    np.testing.assert_array_equal(load_audio(given), expected)
    save_audio(tmp_path / "file.flac", values, 16000)
    flac = write_into_pipe(tmp_path / "c.flac", lambda path: save_audio(path, values, 16000))
    np.testing.assert_array_equal(load_audio(flac), load_audio(tmp_path / "file.flac"))
    os.mkfifo(tmp_path / "d.flac")
    with pytest.raises(ValueError, match="`path` must be writable as FLAC .* pipe or a device takes WAV alone while"):
        AudioWriter(tmp_path / "d.flac", 16000)
    assert contents(tmp_path) == ["a.wav", "b.wav", "c.flac", "d.flac", "file.flac"]


@pytest.mark.parametrize("save", [save_audio, write])
def test_links_stay_and_their_files_are_written(tmp_path, save):
    (tmp_path / "other").mkdir()
    link = tmp_path / "a.wav"
    link.symlink_to(tmp_path / "other" / "b.wav")
    for _ in range(2):  # a file that is not there, and one that is
        save(link, tone(0.1), 16000)
        assert link.is_symlink()
        assert load_audio(tmp_path / "other" / "b.wav").shape == (1600,)
    assert contents(tmp_path / "other") == ["b.wav"]


@needs_full
def test_a_full_disk_is_told_in_the_words_of_the_system(tmp_path):
    path = tmp_path / "full.flac"
    path.symlink_to(FULL)
    with pytest.raises(ValueError, match="`path` must be writable as FLAC .*: No space left on device.$"):
        save_audio(path, tone(0.1), 16000)


def test_other_errors_stay_as_they_are():
    with pytest.raises(ValueError, match="`text` must be"), shared.writing_out():
        raise ValueError("`text` must be a text, got 1.")


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere names are Unicode")
@pytest.mark.parametrize("ending", ["wav", "flac"])
def test_names_that_are_not_utf8(tmp_path, ending):
    path = tmp_path / f"caf\udce9.{ending}"
    for save in (save_audio, write):
        save(path, tone(0.1), 16000)
        assert soundfile.info(os.fsencode(path)).frames == 1600
    assert find_modalities(path) == ("audio",)


def test_text_in_a_locale_without_utf8(tiny_folder):
    texts = "Grüße", "Gr\udcc3\udcbc\udcc3\udc9fe"  # as Python reads the same bytes
    one, other = (run("generate", tiny_folder, "--text-only", "--text", text) for text in texts)
    assert one == other


@pytest.mark.parametrize("command", [("generate", "--text-only", "--text"), ("speak",)])
def test_text_that_is_not_utf8(tiny_folder, command):
    message = fail(command[0], tiny_folder, *command[1:], "caf\udce9")
    assert message == rf"`{command[-1] if len(command) > 1 else 'TEXT'}` must be valid UTF-8, got 'caf\udce9'."
