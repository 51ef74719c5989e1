"""Samples of 16 bits: to floats and back they are the same, wherever they are written."""

import io

import numpy as np
import pytest
import soundfile

from josie.processing_josie.audio_writer import AudioWriter
from josie.serving.endpoints.containers import Container, encode
from josie.serving.media import PCM_RATE, decode_pcm, encode_pcm, to_float

ALL = np.arange(-(2**15), 2**15).astype("<i2")
BEYOND = np.array([1.0, -1.0, 1.5, -1.5, 0.0], np.float32)
CLIPPED = [32767, -32768, 32767, -32768, 0]


def write_pcm(samples, tmp_path):
    return decode_pcm(encode_pcm(samples), "audio")


def write_container(form):
    def write(samples, tmp_path):
        content = encode(form, samples, PCM_RATE)
        return soundfile.read(io.BytesIO(content), dtype="int16")[0]

    return write


def write_stream(samples, tmp_path):
    container = Container("wav", PCM_RATE)
    content = container.push(samples) + container.push(np.zeros(0, np.float32), is_final=True)
    return np.frombuffer(content[44:], "<i2")


def write_file(name):
    def write(samples, tmp_path):
        with AudioWriter(tmp_path / name, PCM_RATE) as file:
            file.write(samples[None])
        return soundfile.read(tmp_path / name, dtype="int16")[0]

    return write


WRITERS = {
    "protocol": write_pcm,
    "WAV": write_container("wav"),
    "FLAC": write_container("flac"),
    "streamed WAV": write_stream,
    "WAV file": write_file("speech.wav"),
    "FLAC file": write_file("speech.flac"),
}


@pytest.mark.parametrize("name", WRITERS)
def test_samples_are_the_same_there_and_back(name, tmp_path):
    assert np.array_equal(WRITERS[name](to_float(ALL), tmp_path), ALL)


@pytest.mark.parametrize("name", WRITERS)
def test_what_is_beyond_full_scale_is_clipped(name, tmp_path):
    assert WRITERS[name](BEYOND, tmp_path).tolist() == CLIPPED
