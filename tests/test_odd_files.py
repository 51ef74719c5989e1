"""Files that nobody lists: rare codecs and containers, joined and cut ones, images that lie on their side."""

import io
import os
from fractions import Fraction

import numpy as np
import pytest
import soundfile
import torch
from media_files import encode_audio, encode_video, frames, number_of
from PIL import Image
from samples import SPEECH

from josie.processing_josie import JosieImageProcessor, images, load_audio
from josie.processing_josie.containers import is_cut_short, is_joined
from josie.processing_josie.images import image_size, image_to_pixels
from josie.processing_josie.video import measure_video, read_video

SAMPLES, RATE = soundfile.read(SPEECH, dtype="int16")
OPTIONS = {"do_sample_frames": True, "fps": None, "num_frames": None, "max_frames": 100, "num_channels": 3}
RARE = {  # container, codec
    "voc": ("voc", "pcm_s16le"),
    "mp3-in-wav": ("wav", "libmp3lame"),
    "flac-in-ogg": ("ogg", "flac"),
    "ac3": ("ac3", "ac3"),
    "wma": ("asf", "wmav2"),
    "alac-in-caf": ("caf", "alac"),
    "tta": ("tta", "tta"),
    "wavpack": ("wv", "wavpack"),
    "adpcm": ("wav", "adpcm_ms"),
    "mu-law": ("wav", "pcm_mulaw"),
    "float64": ("wav", "pcm_f64le"),
    "24-bit": ("wav", "pcm_s24le"),
    "8-bit": ("wav", "pcm_u8"),
    "little-aifc": ("aiff", "pcm_s16le"),
}
TWENTY = frames(20)


def make(name: str) -> bytes:
    if name in ("ac3", "wma"):  # of higher rates alone
        return encode_audio(np.repeat(SAMPLES, 3), 3 * RATE, *RARE[name], {"b": "96000"})
    return encode_audio(SAMPLES, RATE, *RARE[name])


def place_of_clip(values: np.ndarray) -> int:
    """Return where the clip begins; it must be there whole, but for what coding changes."""
    size = len(values) + len(SAMPLES)
    product = np.fft.irfft(np.fft.rfft(values, size) * np.conj(np.fft.rfft(SAMPLES / 2**15, size)), size)
    place = int(product[: len(values)].argmax())
    part = values[place : place + len(SAMPLES)]
    assert len(part) > len(SAMPLES) - 700  # WMA's encoder leaves a frame out
    assert np.corrcoef(part, SAMPLES[: len(part)])[0, 1] > 0.95
    return place


@pytest.mark.parametrize("name", [name for name in RARE if name not in ("wma", "alac-in-caf")])
def test_a_rare_file_is_read_whole(name):
    values = load_audio(make(name), RATE)
    assert place_of_clip(values) < 1500
    assert len(values) < len(SAMPLES) + 3000


@pytest.mark.parametrize("name", ["mp3-in-wav", "flac-in-ogg", "ac3", "wma", "alac-in-caf", "tta", "wavpack"])
@pytest.mark.parametrize("part", [0.41, 0.77])
def test_a_rare_file_that_is_cut_short_is_refused(name, part):
    content = make(name)
    load_audio(content)
    with pytest.raises(ValueError, match="`audio` must (be a (complete|readable) audio file|have at least one sample)"):
        load_audio(content[: int(len(content) * part)])


@pytest.mark.parametrize("name", ["voc", "mp3-in-wav", "wma", "alac-in-caf", "tta", "m4a", "au", "rf64"])
def test_joined_files_of_which_the_first_is_read_alone_are_refused(name):
    if name in ("au", "rf64"):
        file = io.BytesIO()
        soundfile.write(file, SAMPLES, RATE, format=name.upper())
        content = file.getvalue()
    else:
        content = encode_audio(SAMPLES, RATE, "mp4", "aac") if name == "m4a" else make(name)
    load_audio(content)
    with pytest.raises(ValueError, match="`audio` must be single files of this kind, got .*, which is several joined"):
        load_audio(content + content)


def animated(kind: str) -> bytes:
    file = io.BytesIO()
    first, *others = (Image.fromarray(np.roll(frame, index, 1)) for index, frame in enumerate(TWENTY))
    first.save(file, kind, save_all=True, append_images=others, duration=40)
    return file.getvalue()


@pytest.mark.parametrize("name", ["mp4", "mov", "fragments", "matroska", "gif", "webp", "png", "flv", "asf"])
def test_joined_videos_of_which_the_first_is_shown_alone_are_refused(name):
    if name in ("gif", "webp", "png"):
        content = animated(name)
    elif name == "fragments":
        content = encode_video(TWENTY, movflags="frag_keyframe+empty_moov")
    else:
        content = encode_video(TWENTY, name, {"flv": "flv", "asf": "wmv2"}.get(name, "libx264"))
    assert len(read_video(content, OPTIONS)) == 20
    with pytest.raises(ValueError, match="`videos` must be single files, got .*, which is several joined"):
        read_video(content + content, OPTIONS)


@pytest.mark.parametrize("name", ["mpegts", "avi"])
def test_joined_videos_that_players_show_whole_are_read_whole(name):
    content = encode_video(TWENTY, name, "mpeg4")
    assert not is_joined(io.BytesIO(content))
    found = number_of(read_video(content + content, OPTIONS).numpy(), 20)
    np.testing.assert_allclose(found, [*range(20), *range(20)], atol=1)


CUT = [("flv", "flv"), ("ogg", "libvpx"), ("asf", "wmv2"), ("mpegts", "mpeg4"), ("mpeg", "mpeg1video")]
CUT += [("vob", "mpeg2video"), ("dvd", "mpeg2video")]


@pytest.mark.parametrize(("name", "codec"), CUT)
def test_a_stream_that_is_cut_short_is_refused(name, codec):
    noise = np.random.default_rng(0).integers(0, 255, (20, 48, 80, 3), dtype=np.uint8)
    content = encode_video(noise, name, codec)
    assert len(read_video(content, OPTIONS)) == 20
    for part in (0.41, 0.77):
        with pytest.raises(ValueError, match="`videos` must be complete, got .*, which is cut short"):
            read_video(content[: int(len(content) * part) // 2 * 2 + 1], OPTIONS)
    assert not is_cut_short(io.BytesIO(content))


def test_raw_video_states_no_sizes():
    """The frames before the break are read."""
    noise = np.random.default_rng(0).integers(0, 255, (20, 48, 80, 3), dtype=np.uint8)
    content = encode_video(noise, "h264")
    assert len(read_video(content, OPTIONS)) == 20
    assert 10 < len(read_video(content[: int(len(content) * 0.77)], OPTIONS)) < 20


@pytest.mark.parametrize("shape", [(1, 48, 80), (2, 48, 80), (5, 2, 2), (5, 96, 54)])
def test_short_and_small_videos_are_read(shape):
    pixels = frames(*shape)
    content = encode_video(pixels)
    assert read_video(content, OPTIONS).shape == (shape[0], 3, *shape[1:])
    assert measure_video(content, OPTIONS) == shape


@pytest.fixture
def same_scheduling():
    """Bring the scheduling policy back: SVT-AV1's encoder makes a process of root real-time, and starves all others."""
    if not hasattr(os, "sched_getscheduler"):  # of Linux alone
        yield
        return
    policy, parameter = os.sched_getscheduler(0), os.sched_getparam(0)
    yield
    os.sched_setscheduler(0, policy, parameter)


@pytest.mark.usefixtures("same_scheduling")
@pytest.mark.parametrize(("codec", "container"), [("libx265", "mp4"), ("libvpx-vp9", "webm"), ("libsvtav1", "mp4")])
def test_newer_codecs_are_read(codec, container):
    quiet = {"libx265": {"x265-params": "log-level=none"}}.get(codec, {})
    try:
        content = encode_video(frames(20, 96, 160), container, codec, codec_options=quiet | {"g": "10"})
    except ValueError as error:
        pytest.skip(f"this build of PyAV has no {codec}: {error}")
    np.testing.assert_allclose(number_of(read_video(content, OPTIONS).numpy(), 20), range(20), atol=1)


def test_a_size_that_changes_is_refused():
    both = encode_video(frames(5), "mpegts", "mpeg4") + encode_video(frames(5, 64, 64), "mpegts", "mpeg4")
    with pytest.raises(ValueError, match="`videos` must have frames of one size"):
        read_video(both, OPTIONS)


@pytest.mark.parametrize("kind", ["jpeg", "png", "webp", "tiff", "avif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_images_are_turned_and_measured_upright(kind, orientation):
    frame = frames(1, 40, 64)[0]
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = io.BytesIO()
    Image.fromarray(frame).save(file, kind, exif=exif, **({} if kind in ("png", "tiff") else {"quality": 95}))
    upright = frame.swapaxes(0, 1) if orientation > 4 else frame
    flips = {2: (0, 1), 3: (1, 1), 4: (1, 0), 6: (0, 1), 7: (1, 1), 8: (1, 0)}.get(orientation, (0, 0))
    upright = upright[:: -1 if flips[0] else 1, :: -1 if flips[1] else 1]
    pixels = image_to_pixels(file.getvalue())
    np.testing.assert_allclose(pixels.movedim(0, -1).numpy() * 255, upright, atol=30)
    assert np.abs(pixels.movedim(0, -1).numpy() * 255 - upright).mean() < 2
    assert image_size(file.getvalue()) == upright.shape[:2]
    with Image.open(file) as opened:
        assert image_size(opened) == upright.shape[:2]
        np.testing.assert_array_equal(image_to_pixels(opened).numpy(), pixels.numpy())
        assert image_size(opened) == upright.shape[:2]  # decoded meanwhile


def test_modes_of_images_become_colours():
    frame = frames(1, 40, 64)[0]
    image, grey = Image.fromarray(frame), np.asarray(Image.fromarray(frame).convert("L"))
    deep = Image.fromarray(grey.astype(np.uint16) * 257)
    forms = [
        (image.convert("CMYK"), "jpeg", frame, 4),
        (image, "bmp", frame, 0),
        (image.quantize(64), "png", frame, 6),
        (image.convert("LAB"), "tiff", frame, 30),
        (deep, "png", np.repeat(grey[..., None], 3, -1), 1),
        (deep, "tiff", np.repeat(grey[..., None], 3, -1), 1),
    ]
    for form, kind, expected, error in forms:
        file = io.BytesIO()
        form.save(file, kind)
        np.testing.assert_allclose(image_to_pixels(file.getvalue()).movedim(0, -1).numpy() * 255, expected, atol=error)
    palette = image.quantize(64)
    file = io.BytesIO()
    palette.save(file, "png", transparency=palette.getpixel((0, 0)))
    np.testing.assert_array_equal(image_to_pixels(file.getvalue())[:, 0, 0].numpy(), 1)  # white


def test_arrays_that_may_not_be_written_are_read():
    frame = frames(1)[0]
    frame.flags.writeable = False
    processor = JosieImageProcessor(size={"height": 48, "width": 80}, patch_size=8)
    assert processor(frame)["pixel_values"].shape == (1, 3, 48, 80)
    values = SAMPLES / np.float32(2**15)
    values.flags.writeable = False
    assert image_to_pixels(np.asarray(Image.fromarray(frames(1)[0]))).shape == (3, 48, 80)


def test_what_pillow_does_not_read_is_said(tmp_path):
    (tmp_path / "a.heic").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(200))
    (tmp_path / "a.svg").write_text("<svg xmlns='http://www.w3.org/2000/svg'/>")
    (tmp_path / "a.html").write_text("<html>404</html>")
    (tmp_path / "empty.png").write_bytes(b"")
    for name in ("a.heic", "a.svg", "a.html"):
        with pytest.raises(
            ValueError, match=f"`images` must be readable images, got '.*{name}', which is none that Pillow"
        ):
            image_to_pixels(tmp_path / name)
    with pytest.raises(ValueError, match=r"`images` must not be empty, got '.*empty.png' of 0 bytes"):
        image_to_pixels(tmp_path / "empty.png")
    bomb = bytearray(animated("png"))
    bomb[16:24] = (60000).to_bytes(4, "big") * 2
    with pytest.raises(ValueError, match="`images` must be readable images, got .*"):
        image_to_pixels(bytes(bomb))


def test_pixels_that_are_not_square_are_widened_in_each_container():
    for container, codec in (("mp4", "libx264"), ("matroska", "libx264")):
        content = encode_video(frames(20), container, codec, aspect=Fraction(2, 1))
        assert read_video(content, OPTIONS).shape[2:] == (48, 160)
        assert measure_video(content, OPTIONS)[1:] == (48, 160)


@pytest.mark.parametrize("size", [{"height": 50, "width": 70}, {"min_pixels": 64, "max_pixels": 6400}])
@pytest.mark.parametrize("orientation", [1, 6, 7])
@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "P", "I;16"])
def test_a_large_image_is_resized_in_bands_to_the_same_pixels(size, orientation, mode, monkeypatch):
    noise = np.random.default_rng(0).integers(0, 255, (45, 60, 3), dtype=np.uint8)
    image = Image.fromarray(noise).resize((240, 180))
    if mode == "I;16":
        image = Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257)
    elif mode == "RGBA":
        image.putalpha(image.convert("L"))
    else:
        image = image.quantize(64) if mode == "P" else image.convert(mode)
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = io.BytesIO()
    image.save(file, "png", exif=exif)
    processor = JosieImageProcessor(size=size, patch_size=4)
    sizes = []
    monkeypatch.setattr(images, "_LARGE", 1 << 14)
    monkeypatch.setattr(images, "_ROWS", 32)
    to_colours = images._to_colours
    monkeypatch.setattr(
        images, "_to_colours", lambda pixels, *args: sizes.append(pixels.numel()) or to_colours(pixels, *args)
    )
    found = processor(file.getvalue())["pixel_values"]
    assert max(sizes) <= 4 * 32 * 240  # never all of it as floats
    monkeypatch.setattr(images, "_LARGE", 1 << 40)
    torch.testing.assert_close(found, processor(file.getvalue())["pixel_values"], rtol=0, atol=2e-5)
