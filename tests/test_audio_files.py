"""Laws of audio files: all that is in them is read, and its length is known, whatever the container says of itself."""

import io
import os
import re
import sys
from types import SimpleNamespace

import av
import numpy as np
import pytest
import soundfile
from media_files import encode_audio
from samples import SPEECH

from josie.cli.media import find_modalities
from josie.processing_josie import JosieFeatureExtractor, load_audio
from josie.processing_josie.audio_files import is_audio_file, open_audio
from josie.processing_josie.audio_streams import _walk_mp3, split_streams
from josie.processing_josie.containers import _ogg_checksum

SAMPLES, RATE = soundfile.read(SPEECH, dtype="int16")
VARIABLE = {"flags": "+qscale", "global_quality": "590"}
FORMATS = {  # container, codec, its options, options of the container
    "mp3": ("mp3", "libmp3lame", {}, {}),
    "mp3-variable-without-table": ("mp3", "libmp3lame", VARIABLE, {"write_xing": "0"}),
    "mp3-constant-without-table": ("mp3", "libmp3lame", {}, {"write_xing": "0"}),
    "mp3-tagged": ("mp3", "libmp3lame", {}, {"write_id3v1": "1", "id3v2_version": "3"}),
    "mp2": ("mp2", "mp2", {}, {}),
    "opus": ("ogg", "libopus", {}, {}),
    "flac": ("flac", "flac", {}, {}),
    "wav": ("wav", "pcm_s16le", {}, {}),
    "aiff": ("aiff", "pcm_s16be", {}, {}),
    "aac": ("adts", "aac", {}, {}),
    "m4a": ("mp4", "aac", {}, {}),
    "alac": ("mov", "alac", {}, {}),
    "webm": ("webm", "libopus", {}, {}),
    "mkv": ("matroska", "aac", {}, {}),
    "ts": ("mpegts", "aac", {}, {}),
}


def make(name: str) -> bytes:
    container, codec, codec_options, options = FORMATS[name]
    return encode_audio(SAMPLES, RATE, container, codec, codec_options, **options)


def delay_to(values: np.ndarray, clip: np.ndarray) -> int:
    """Return where in `values` the clip begins, by correlation; it must be there whole, but for what coding changes."""
    size = len(values) + len(clip)
    product = np.fft.irfft(np.fft.rfft(values, size) * np.conj(np.fft.rfft(clip, size)), size)
    place = int(product[: len(values)].argmax())
    part = values[place : place + len(clip)]
    assert len(part) >= len(clip) - 8
    assert np.corrcoef(part, clip[: len(part)])[0, 1] > 0.95
    return place


@pytest.mark.parametrize("name", FORMATS)
def test_all_of_a_file_is_read_and_its_length_known(name):
    content = make(name)
    with open_audio(content) as file:
        values = file.read()
        assert values.shape == (1, file.num_samples)
        np.testing.assert_allclose(file.read(5000, 9000), values[:, 5000:9000], rtol=0, atol=1e-6)
    values = load_audio(content, RATE)
    assert delay_to(values, SAMPLES / 2**15) < 2500
    assert len(values) < len(SAMPLES) + 4000
    assert is_audio_file(content)


def test_a_guessed_length_would_have_lost_the_end():
    content = make("mp3-variable-without-table")
    assert soundfile.info(io.BytesIO(content)).frames < len(SAMPLES) - 1000


@pytest.mark.parametrize("name", ["mp3", "mp3-variable-without-table", "opus", "flac", "wav", "aiff", "aac"])
def test_joined_files_are_read_to_the_last(name):
    content, other = make(name), make("mp3" if name.startswith("mp3") else name)
    values = load_audio(content + other, RATE)
    alone = [load_audio(part, RATE) for part in (content, other)]
    assert len(values) == sum(map(len, alone)) if name != "aac" else abs(len(values) - 2 * len(alone[0])) < 2100
    assert delay_to(values[len(alone[0]) :], SAMPLES / 2**15) < 2500


def test_joined_pipes_are_told_apart():
    content = bytearray(make("wav"))
    place = content.index(b"data")
    content[4:8] = content[place + 4 : place + 8] = b"\xff" * 4
    values = load_audio(bytes(content) * 2)
    np.testing.assert_array_equal(values, np.tile(SAMPLES / np.float32(2**15), 2))


def test_rates_that_change_in_a_file_are_refused():
    other = encode_audio(SAMPLES, 24000, "mp3", "libmp3lame")
    with pytest.raises(ValueError, match=r"one sampling rate and number of channels throughout, .*\[16000, 24000\] Hz"):
        load_audio(make("mp3") + other)


@pytest.mark.parametrize("name", [name for name in FORMATS if name != "ts"])
@pytest.mark.parametrize("part", [0.3, 0.8])
def test_a_file_that_is_cut_short_is_refused(name, part):
    content = make(name)
    with pytest.raises(ValueError, match="`audio` must be a (complete|readable) audio file"):
        load_audio(content[: int(part * len(content))])


@pytest.mark.parametrize("file_format", ["WAV", "WAVEX", "AIFF", "AU", "CAF", "W64", "RF64", "FLAC", "NIST"])
def test_a_format_of_libsndfile_that_is_cut_short_is_refused(file_format):
    file = io.BytesIO()
    soundfile.write(file, SAMPLES, RATE, format=file_format)
    np.testing.assert_array_equal(load_audio(file.getvalue()), SAMPLES / np.float32(2**15))
    with pytest.raises(ValueError, match="`audio` must be a (complete|readable) audio file"):
        load_audio(file.getvalue()[: len(file.getvalue()) * 6 // 10])


def test_flac_from_a_pipe_is_read_without_a_length():
    content = bytearray(make("flac"))
    head = int.from_bytes(content[18:26], "big")
    content[18:26] = (head >> 36 << 36).to_bytes(8, "big")
    np.testing.assert_array_equal(load_audio(bytes(content)), SAMPLES / np.float32(2**15))


@pytest.mark.parametrize("codec", ["pcm_f32le", "pcm_f64le"])
def test_floats_of_an_extensible_w64_are_read(codec):
    content = encode_audio(SAMPLES, RATE, "w64", codec)
    np.testing.assert_array_equal(load_audio(content), SAMPLES / np.float32(2**15))
    with pytest.raises(ValueError, match="must be a complete audio file"):
        load_audio(content[: len(content) * 8 // 10])


def test_logarithms_of_an_extensible_w64_are_read():
    content = bytearray(encode_audio(SAMPLES, RATE, "w64", "pcm_u8"))
    content += bytes(len(content) % 2)
    start, end = content.index(b"fmt "), content.index(b"data")
    subformat = (7).to_bytes(2, "little") + bytes.fromhex("000000001000800000aa00389b71")
    extended = content[start + 24 : start + 38] + (8).to_bytes(2, "little")
    extended += (22).to_bytes(2, "little") + (8).to_bytes(2, "little") + (4).to_bytes(4, "little") + subformat
    chunk = content[start : start + 16] + (24 + len(extended)).to_bytes(8, "little") + (0xFFFE).to_bytes(2, "little")
    content[start:end] = chunk + extended[2:]
    content[16:24] = len(content).to_bytes(8, "little")
    logarithms = encode_audio(SAMPLES, RATE, "mulaw", "pcm_mulaw")
    place = content.index(b"data") + 24
    content[place : place + len(logarithms)] = logarithms
    assert np.abs(load_audio(bytes(content))[: len(SAMPLES)] - SAMPLES / 2**15).max() < 0.02


@pytest.mark.parametrize("rate", [22050, 44100])
@pytest.mark.parametrize("is_padded", [False, True])
def test_mp2_with_frames_of_two_lengths_is_counted(rate, is_padded):
    content = encode_audio(SAMPLES, rate, "mp2", "mp2")
    (stream,) = _walk_mp3(content)
    lengths = np.diff([*stream.frames, len(content)])
    assert len(set(lengths)) == 2
    first = int(np.argmax(lengths == (max if is_padded else min)(lengths)))
    content = content[stream.frames[first] :]
    assert len(load_audio(content)) == (len(lengths) - first) * 1152
    with pytest.raises(ValueError, match="must be a complete audio file"):
        load_audio(content[:-9])


@pytest.mark.parametrize("name", ["wav", "aiff", "mp2", "mp3", "flac", "opus", "aac", "m4a", "ac3", "wavpack"])
@pytest.mark.parametrize("copies", [1, 2])
def test_a_tag_in_front_is_passed_over(name, copies, tmp_path):
    others = {"ac3": ("ac3", "ac3"), "wavpack": ("wv", "wavpack")}
    content = encode_audio(SAMPLES, 48000, *others[name]) if name in others else make(name)
    expected = load_audio(content)
    tag = b"ID3\x03\0\0\0\0\x01\0" + bytes(128)
    np.testing.assert_array_equal(load_audio(tag * copies + content), expected)
    path = tmp_path / "song"
    path.write_bytes(tag * copies + content)
    assert find_modalities(path) == ("audio",)
    with open_audio(path) as file:
        np.testing.assert_array_equal(file.read(1000, 3000).mean(axis=0), expected[1000:3000])
    with pytest.raises(ValueError, match="`audio` must (be a complete|be a readable|have at least one sample)"):
        load_audio(tag + content[: len(content) * 6 // 10])


def test_what_needs_no_repair_is_left_alone():
    for name in ("mp3", "opus", "flac", "wav", "aiff"):
        content = make(name)
        assert split_streams(content)[0] is content


def test_without_pyav_the_refusal_names_it(monkeypatch):
    content = make("m4a")
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(
        ValueError, match=r"Format not recognised; other formats need PyAV \(`pip install josie\[video\]`"
    ):
        load_audio(content)


@pytest.mark.parametrize("form", ["again", "read", "pipe", "real pipe"])
def test_open_files_are_read_from_their_start(form):
    with SPEECH.open("rb") as file:
        opened: object = file
        if form == "again":
            load_audio(file)
        elif form == "read":
            file.read()
        elif form == "pipe":
            opened = SimpleNamespace(read=file.read)
        else:
            reader, writer = os.pipe()
            os.write(writer, SPEECH.read_bytes()[:4044])  # a pipe holds no more than a page or some
            os.close(writer)
            opened = os.fdopen(reader, "rb")
            with pytest.raises(ValueError, match="got 'BufferedReader'.*cut short"):
                load_audio(opened)
            return opened.close()
        np.testing.assert_array_equal(load_audio(opened), SAMPLES / np.float32(2**15))
        return None


def test_files_that_cannot_be_read_are_refused(tmp_path):
    closed = SPEECH.open("rb")
    closed.close()
    (tmp_path / "a.txt").write_text("text")
    with (tmp_path / "a.txt").open() as text:
        for source, match in (
            (closed, "must be an open file, got .*, which is closed"),
            (text, "must be a file open for reading bytes, got .*, which is open for text"),
            (io.BytesIO(), "must not be empty"),
            ("file://elsewhere/a.wav", r"must be a file of this machine \(file:///...\)"),
            ("data:audio/wav", "must have a comma"),
        ):
            with pytest.raises(ValueError, match=match):
                load_audio(source)  # type: ignore[arg-type]


def test_names_of_files_have_many_forms(tmp_path):
    path, other = tmp_path / "a name with spaces é.wav", tmp_path / "not UTF-8 \udce9.wav"
    path.write_bytes(SPEECH.read_bytes())
    other.write_bytes(SPEECH.read_bytes())
    contents = (bytearray(SPEECH.read_bytes()), memoryview(SPEECH.read_bytes()))
    for source in (path.as_uri(), str(path), path, other, str(other), *contents):
        np.testing.assert_array_equal(load_audio(source), SAMPLES / np.float32(2**15))  # type: ignore[arg-type]


@pytest.mark.parametrize("scale", [2**15, 2**7, 3.0], ids=str)
def test_floats_out_of_range_are_refused(scale, tmp_path):
    loud = (SAMPLES / np.abs(SAMPLES).max() * scale).astype(np.float32)
    extractor = JosieFeatureExtractor()
    with pytest.raises(ValueError, match=r"`audio` of floating point must be in \[-1, 1\], got values from"):
        extractor((loud, RATE))
    soundfile.write(tmp_path / "loud.wav", loud, RATE, subtype="FLOAT")
    with pytest.raises(ValueError, match=r"must be in \[-1, 1\]"):
        load_audio(tmp_path / "loud.wav")
    extractor((loud / scale * 1.5, RATE))  # what resampling and decoding overshoot


def test_quiet_integers_of_32_bits_are_warned_of(caplog):
    from josie.processing_josie import audio

    audio.logger.addHandler(caplog.handler)
    try:
        JosieFeatureExtractor()((SAMPLES.astype(np.int32), RATE))
    finally:
        audio.logger.removeHandler(caplog.handler)
    assert "`audio` of int32 is as quiet as samples of int16" in caplog.text


def _write(file_format: str) -> bytearray:
    file = io.BytesIO()
    soundfile.write(file, SAMPLES, RATE, format=file_format)
    return bytearray(file.getvalue())


@pytest.mark.parametrize("riff", [0, 36, 0xFFFFFFFF, None])
@pytest.mark.parametrize("copies", [1, 2])
def test_a_wav_whose_writer_was_stopped_is_read_to_its_end(riff, copies):
    content = _write("WAV")
    place = content.index(b"data")
    content[place + 4 : place + 8] = bytes(4)
    if riff is not None:
        content[4:8] = riff.to_bytes(4, "little")
    values = load_audio(bytes(content) * copies)
    np.testing.assert_array_equal(values, np.tile(SAMPLES / np.float32(2**15), copies))


@pytest.mark.parametrize(
    ("file_format", "head", "values"),
    [
        ("RF64", b"ds64", {8: bytes(24)}),
        ("AIFF", b"SSND", {4: (8).to_bytes(4, "big")}),
        ("AU", b".snd", {8: bytes(4)}),
        ("CAF", b"data", {4: bytes(8)}),
        ("CAF", b"data", {4: (4).to_bytes(8, "big")}),
        ("W64", b"data", {16: (24).to_bytes(8, "little")}),
    ],
)
def test_other_sizes_that_were_never_filled_in_are_known_too(file_format, head, values, tmp_path):
    content = _write(file_format)
    for offset, value in values.items():
        place = content.index(head) + offset
        content[place : place + len(value)] = value
    np.testing.assert_array_equal(load_audio(bytes(content)), SAMPLES / np.float32(2**15))
    (tmp_path / "a").write_bytes(content)
    np.testing.assert_array_equal(load_audio(tmp_path / "a"), SAMPLES / np.float32(2**15))


def test_an_empty_wav_with_notes_behind_has_no_samples():
    content = _write("WAV")
    place = content.index(b"data")
    content = content[:place] + b"data" + bytes(4) + b"LIST" + (4).to_bytes(4, "little") + b"abcd"
    content[4:8] = (len(content) - 8).to_bytes(4, "little")
    with pytest.raises(ValueError, match="`audio` must have at least one sample, got 0"):
        JosieFeatureExtractor()(bytes(content))


def test_gsm_is_read():
    file = io.BytesIO()
    soundfile.write(file, SAMPLES, RATE, format="WAV", subtype="GSM610")
    assert delay_to(load_audio(file.getvalue()), SAMPLES / 2**15) == 0


def _tracks(codec: str, container: str, is_default: list[bool]) -> bytes:
    """Return a file with a silent track and one of speech."""
    file = io.BytesIO()
    with av.open(file, "w", format=container) as output:
        tracks = [output.add_stream(codec, rate=RATE, layout="mono") for _ in is_default]
        for track, is_marked in zip(tracks, is_default, strict=True):
            track.disposition = av.stream.Disposition.default if is_marked else av.stream.Disposition(0)
        for index, track in enumerate(tracks):
            frame = av.AudioFrame.from_ndarray(SAMPLES[None] * index, format="s16", layout="mono")
            frame.sample_rate, frame.pts = RATE, 0
            output.mux(track.encode(frame))
            output.mux(track.encode(None))
    return file.getvalue()


@pytest.mark.parametrize(("is_default", "heard"), [((False, True), 1), ((True, False), 0), ((True, True), 0)], ids=str)
def test_the_default_track_is_heard(is_default, heard):
    values = load_audio(_tracks("pcm_s16le", "matroska", list(is_default)))
    np.testing.assert_array_equal(values, SAMPLES * heard / np.float32(2**15))


def test_opus_whose_beginning_was_cut_off_is_read():
    content = make("opus")
    starts = [match.start() for match in re.finditer(b"OggS", content)]
    page = bytearray(content[starts[2] : starts[3]])
    page[6:14] = (24000).to_bytes(8, "little")  # fewer samples than the page has
    page[22:26] = bytes(4)
    page[22:26] = _ogg_checksum(page).to_bytes(4, "little")
    changed = content[: starts[2]] + bytes(page) + content[starts[3] :]
    with pytest.raises(soundfile.LibsndfileError):
        soundfile.info(io.BytesIO(changed))
    assert delay_to(load_audio(changed, RATE), SAMPLES / 2**15) < 2500
    damaged = bytearray(changed)
    damaged[starts[3] + 200] ^= 1
    with pytest.raises(ValueError, match="`audio` must be a readable audio file"):
        load_audio(bytes(damaged))
