"""Make the files of this folder: two spoken sentences, a drawn image, a short video.

    python tests/data/make_data.py

Needs flite (the sentences; its voices are free to use), Pillow and PyAV. Everything is made here and is under the
licence of the package.
"""

import math
import subprocess
import tempfile
from pathlib import Path

import av
import numpy as np
import soundfile
from PIL import Image, ImageDraw

FOLDER = Path(__file__).parent
SENTENCE = "A red ball lies on the table."
# Whisper tiny.en does not hear `SENTENCE` right even before any codec ("and red bald lies..."); this one it does.
JUDGED_SENTENCE = "The boat left the harbor before the sun came up."
WIDTH, HEIGHT, NUM_FRAMES, FRAME_RATE = 96, 64, 24, 12


def make_speech() -> None:
    """Write the sentence as WAV (16 kHz, mono, 16 bits) and as FLAC."""
    path = FOLDER / "speech.wav"
    subprocess.run(["flite", "-voice", "slt", "-t", SENTENCE, "-o", str(path)], check=True)
    values, sampling_rate = soundfile.read(path, dtype="int16")
    soundfile.write(path.with_suffix(".flac"), values, sampling_rate)


def make_judged_speech() -> None:
    """Write the sentence for Whisper tiny.en as FLAC (16 kHz, mono, 16 bits)."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "speech.wav")
        subprocess.run(["flite", "-voice", "slt", "-t", JUDGED_SENTENCE, "-o", str(path)], check=True)
        values, sampling_rate = soundfile.read(path, dtype="int16")
    soundfile.write(FOLDER / "judged.flac", values, sampling_rate)


def make_image() -> None:
    """Write a table with a red ball on it."""
    image = Image.new("RGB", (320, 240), (190, 220, 245))
    draw = ImageDraw.Draw(image)
    draw.rectangle((40, 150, 280, 165), fill=(120, 80, 40))
    draw.rectangle((60, 165, 75, 235), fill=(95, 60, 30))
    draw.rectangle((245, 165, 260, 235), fill=(95, 60, 30))
    draw.ellipse((130, 80, 200, 150), fill=(210, 30, 30), outline=(110, 10, 10), width=3)
    image.save(FOLDER / "picture.png", optimize=True)


def make_video() -> None:
    """Write two seconds of a red ball that bounces from left to right."""
    with av.open(str(FOLDER / "video.mp4"), "w") as container:
        stream = container.add_stream("mpeg4", rate=FRAME_RATE)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for index in range(NUM_FRAMES):
            image = Image.new("RGB", (WIDTH, HEIGHT), (190, 220, 245))
            x = 10 + index * (WIDTH - 20) / (NUM_FRAMES - 1)
            y = 50 - 35 * abs(math.sin(index * math.pi / 8))
            ImageDraw.Draw(image).ellipse((x - 8, y - 8, x + 8, y + 8), fill=(210, 30, 30))
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.asarray(image), format="rgb24")))
        container.mux(stream.encode())


if __name__ == "__main__":
    make_speech()
    make_judged_speech()
    make_image()
    make_video()
