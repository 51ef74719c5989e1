"""Media of clients: samples of 16 bits are the same there and back, and images those of their files."""

import base64
import io

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image

from josie.processing_josie import JosieImageProcessor
from josie.processing_josie.audio_writer import AudioWriter
from josie.serving.endpoints.containers import Container, encode
from josie.serving.errors import ClientError
from josie.serving.limits import Limits
from josie.serving.media import PCM_RATE, decode_image, decode_pcm, encode_pcm, to_float

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


RAMP = np.arange(64 * 48, dtype=np.uint32).reshape(48, 64) * 65535 // (64 * 48 - 1)
GREY = Image.fromarray((RAMP >> 8).astype(np.uint8))
OPACITY = Image.fromarray(np.where(RAMP % 9 < 4, 0, 200).astype(np.uint8))
TURNED = Image.Exif()
TURNED[0x0112] = 6
IMAGES = {
    "opacity": (Image.merge("RGBA", (GREY, GREY, GREY, OPACITY)), "PNG", {}),
    "grey with opacity": (Image.merge("LA", (GREY, OPACITY)), "PNG", {}),
    "turned": (Image.merge("RGBA", (GREY, GREY, GREY, OPACITY)), "PNG", {"exif": TURNED}),
    "16 bits": (Image.fromarray(RAMP.astype(np.uint16)), "PNG", {}),
    "palette": (GREY.convert("RGB").quantize(16), "PNG", {}),
    "palette with opacity": (GREY.convert("RGB").quantize(16), "PNG", {"transparency": 3}),
    "GIF": (GREY.convert("RGB").quantize(16), "GIF", {"transparency": 3}),
    "one bit": (GREY.convert("1"), "PNG", {}),
    "CMYK": (GREY.convert("CMYK"), "JPEG", {}),
}


def write_image(name):
    image, form, options = IMAGES[name]
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue(), f"data:image/{form.lower()};base64," + base64.b64encode(file.getvalue()).decode()


@pytest.mark.parametrize("name", IMAGES)
@pytest.mark.parametrize("side", [32, 4])
def test_a_model_sees_an_image_of_a_client_as_it_sees_a_file(name, side):
    content, url = write_image(name)
    image_processor = JosieImageProcessor(size={"height": side, "width": side})
    seen = image_processor(decode_image(url, "url", Limits()))["pixel_values"]
    torch.testing.assert_close(seen, image_processor(content)["pixel_values"], rtol=0, atol=0)
    assert seen.std() > 0.1


def test_an_image_that_is_cut_short_is_refused_when_it_is_taken():
    content, _ = write_image("16 bits")
    url = "data:image/png;base64," + base64.b64encode(content[: len(content) // 2]).decode()
    with pytest.raises(ClientError, match="`url` must be a PNG"):
        decode_image(url, "url", Limits())
