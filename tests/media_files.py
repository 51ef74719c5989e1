"""Audio and video files that tests make with PyAV, as recorders, phones and services write them."""

import io
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

QUARTERS = {0: (1, 0, 0, 1), 90: (0, 1, -1, 0), 180: (-1, 0, 0, -1), 270: (0, -1, 1, 0)}  # clockwise
MIRRORS = {"horizontal": (-1, 0, 0, 1), "vertical": (1, 0, 0, -1), "main": (0, 1, 1, 0), "anti": (0, -1, -1, 0)}


def encode_audio(
    samples: np.ndarray, rate: int, container: str, codec: str, codec_options: dict | None = None, **options: str
) -> bytes:
    """Return a file with int16 samples, `(num_samples,)`."""
    file = io.BytesIO()
    with av.open(file, "w", format=container, options=options) as output:
        stream = output.add_stream(codec, rate=rate, options=codec_options or {})
        stream.layout = "mono"
        context = stream.codec_context
        resampler = av.AudioResampler(context.format, "mono", rate, context.frame_size or None)
        frame = av.AudioFrame.from_ndarray(samples[None], format="s16", layout="mono")
        frame.sample_rate, frame.pts = rate, 0
        for part in (*resampler.resample(frame), *resampler.resample(None)):
            output.mux(stream.encode(part))
        output.mux(stream.encode(None))
    return file.getvalue()


def frames(count: int, height: int = 48, width: int = 80) -> np.ndarray:
    """Return frames that tell their number by brightness and where is up by a bright corner, uint8."""
    pixels = np.zeros((count, height, width, 3), np.uint8)
    pixels += np.linspace(20, 180, count).astype(np.uint8).reshape(-1, 1, 1, 1)
    pixels[:, : height // 3, : width // 4] = 250
    return pixels


def number_of(pixels: np.ndarray, count: int) -> list[int]:
    """Return which of `count` frames of [`frames`] these are, `(frames, channels, height, width)` in [0, 1]."""
    height, width = pixels.shape[-2:]
    middle = np.asarray(pixels)[:, :, height * 2 // 5 : height * 3 // 5, width * 2 // 5 : width * 3 // 5].mean(
        (1, 2, 3)
    )
    levels = np.linspace(20, 180, count).astype(np.uint8) / 255
    return [int(np.abs(levels - value).argmin()) for value in middle]


def encode_video(
    pixels: np.ndarray,
    container: str = "mp4",
    codec: str = "libx264",
    rate: int = 25,
    times: list[int] | None = None,
    matrix: tuple[int, int, int, int] | None = None,
    aspect: Fraction | None = None,
    codec_options: dict | None = None,
    file: Path | None = None,
    **options: str,
) -> bytes:
    """Return a file with uint8 frames `(frames, height, width, 3)`, shown at `times`, in units of `1 / rate` s."""
    written = io.BytesIO()
    with av.open(str(file) if file else written, "w", format=container, options=options) as output:
        stream = output.add_stream(codec, rate=rate, options={"bf": "0", "g": "10"} | (codec_options or {}))
        stream.height, stream.width = pixels.shape[1:3]
        stream.pix_fmt = "yuv420p"
        stream.codec_context.time_base = Fraction(1, rate)
        if aspect is not None:
            stream.codec_context.sample_aspect_ratio = aspect
        if matrix is not None:
            a, b, c, d = (part << 16 for part in matrix)
            stream.set_display_matrix([a, b, 0, c, d, 0, 0, 0, 1 << 30])
        for time, image in zip(times or range(len(pixels)), pixels, strict=True):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = time, Fraction(1, rate)
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    return file.read_bytes() if file else written.getvalue()


def copy_video(content: bytes, start: float, container: str = "mp4") -> bytes:
    """Return what a cut without encoding leaves: all from the frame before `start` on, with an edit list."""
    file = io.BytesIO()
    with av.open(io.BytesIO(content)) as source, av.open(file, "w", format=container) as output:
        track = source.streams.video[0]
        stream = output.add_stream_from_template(track)
        source.seek(int(start / track.time_base), stream=track, backward=True)
        offset = int(start / track.time_base)
        for packet in source.demux(track):
            if packet.size:
                packet.pts, packet.dts = packet.pts - offset, packet.dts - offset
                packet.stream = stream
                output.mux(packet)
    return file.getvalue()
