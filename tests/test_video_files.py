"""Laws of video files: the frames that a player shows, as it shows them, whatever the container says of itself."""

import io
import math
from fractions import Fraction
from types import SimpleNamespace

import av
import numpy as np
import pytest
import torch
from media_files import MIRRORS, QUARTERS, copy_video, encode_video, frames, number_of
from PIL import Image
from samples import SPEECH

from josie.processing_josie import JosieVideoProcessor
from josie.processing_josie.messages import part_value
from josie.processing_josie.video import measure_video, read_video
from josie.processing_josie.video_files import is_animation, probe_video

OPTIONS = {"do_sample_frames": True, "fps": 5.0, "num_frames": None, "max_frames": 32, "num_channels": 3}
FIFTY = frames(50)
TEN_OF_FIFTY = [2, 7, 12, 17, 22, 27, 32, 37, 42, 47]
CONTAINERS = {
    "mp4": ("mp4", "libx264"),
    "mov": ("mov", "libx264"),
    "mkv": ("matroska", "libx264"),
    "webm": ("webm", "libvpx"),
    "avi": ("avi", "mpeg4"),
    "avi-h264": ("avi", "libx264"),
    "ts": ("mpegts", "libx264"),
    "mpg": ("mpeg", "mpeg1video"),
    "flv": ("flv", "libx264"),
    "raw": ("h264", "libx264"),
}


@pytest.mark.parametrize("name", CONTAINERS)
def test_every_container_gives_the_same_frames(name):
    content = encode_video(FIFTY, *CONTAINERS[name])
    found = number_of(read_video(content, OPTIONS).numpy(), 50)
    np.testing.assert_allclose(found, TEN_OF_FIFTY, atol=1)  # some codecs change the brightness by a level
    probe = probe_video(content)
    assert (probe.num_frames, probe.height, probe.width) == (50, 48, 80)
    assert probe.rate == pytest.approx(25, abs=0.01)


def test_a_header_that_counts_empty_frames_is_not_believed():
    content = encode_video(FIFTY, "avi", "libx264", rate=50, times=list(range(0, 100, 2)))
    with pytest.importorskip("av").open(io.BytesIO(content)) as container:
        assert container.streams.video[0].frames == 99
        assert container.streams.video[0].average_rate == 50
    assert number_of(read_video(content, OPTIONS).numpy(), 50) == TEN_OF_FIFTY
    assert measure_video(content, OPTIONS) == (10, 48, 80)


def test_what_an_edit_list_hides_is_not_there():
    content = copy_video(encode_video(FIFTY), 0.5)  # between two frames that can be decoded alone
    options = OPTIONS | {"fps": None, "max_frames": 100}
    assert number_of(read_video(content, options).numpy(), 50) == list(range(13, 50))
    assert measure_video(content, options) == (37, 48, 80)
    assert measure_video(content, OPTIONS)[0] == len(read_video(content, OPTIONS)) == 7


def test_a_rate_that_varies_is_followed_in_time():
    # Ten frames in .4 s, then ten of .4 s each.
    content = encode_video(FIFTY[:20], times=[*range(10), *range(10, 110, 10)])
    found = number_of(read_video(content, OPTIONS).numpy(), 50)
    assert found[:3] == [2, 7, 10]
    assert all(0 <= later - earlier <= 1 for earlier, later in zip(found[2:], found[3:], strict=False))
    assert len(found) == measure_video(content, OPTIONS)[0] == 20
    evenly = OPTIONS | {"fps": None, "num_frames": 4}
    assert number_of(read_video(content, evenly).numpy(), 50) == [2, 7, 12, 17]


def upright(pixels: np.ndarray, turn: int | str) -> np.ndarray:
    """Return frames `(frames, height, width, channels)` as a player shows them."""
    if turn in QUARTERS:
        return np.rot90(pixels, -int(turn) // 90, axes=(1, 2))
    flips = {"horizontal": lambda x: x[:, :, ::-1], "vertical": lambda x: x[:, ::-1]}
    mirrors = {"main": lambda x: x.swapaxes(1, 2), "anti": lambda x: x[:, ::-1, ::-1].swapaxes(1, 2)}
    return (flips | mirrors)[turn](pixels)


@pytest.mark.parametrize("turn", [*QUARTERS, *MIRRORS])
def test_frames_are_turned_as_the_file_says(turn):
    content = encode_video(FIFTY[:5], matrix=(QUARTERS | MIRRORS)[turn])
    plain = read_video(encode_video(FIFTY[:5]), OPTIONS | {"fps": None}).permute(0, 2, 3, 1).numpy()
    pixels = read_video(content, OPTIONS | {"fps": None})
    np.testing.assert_array_equal(pixels.permute(0, 2, 3, 1).numpy(), upright(plain, turn))
    assert measure_video(content, OPTIONS | {"fps": None}) == (5, *pixels.shape[-2:])


def test_a_turn_by_another_angle_is_refused():
    with pytest.raises(ValueError, match="must be turned by quarters of a turn"):
        read_video(encode_video(FIFTY[:3], matrix=(1, 1, -1, 1)), OPTIONS)


@pytest.mark.parametrize(("aspect", "width"), [(Fraction(2), 160), (Fraction(1, 2), 40), (Fraction(1), 80)], ids=str)
def test_pixels_become_square(aspect, width):
    content = encode_video(FIFTY[:5], aspect=aspect)
    pixels = read_video(content, OPTIONS | {"fps": None})
    assert pixels.shape == (5, 3, 48, width)
    assert measure_video(content, OPTIONS | {"fps": None}) == (5, 48, width)
    assert float(pixels[0, :, 4, width // 8].mean()) == pytest.approx(250 / 255, abs=0.05)


OPACITY = {  # container and form of the pixels, by codec
    "qtrle": ("mov", "argb"),
    "png": ("mov", "rgba"),
    "prores_ks": ("mov", "yuva444p10le"),
    "ffv1": ("matroska", "bgra"),
    "libvpx": ("webm", "yuva420p"),
    "libvpx-vp9": ("webm", "yuva420p"),
}


def _translucent(codec: str, container: str, form: str, opacity: tuple[int, int] = (255, 0)) -> bytes:
    """Return two red frames, whose left and right half are of an opacity."""
    file = io.BytesIO()
    with av.open(file, "w", format=container) as output:
        options = {"auto-alt-ref": "0", "crf": "4"} if codec.startswith("libvpx") else {}
        stream = output.add_stream(codec, rate=5, options=options)
        stream.height, stream.width, stream.pix_fmt = 48, 80, form
        pixels = np.zeros((48, 80, 4), np.uint8)
        pixels[..., 0], pixels[:, :40, 3], pixels[:, 40:, 3] = 200, *opacity
        for index in range(2):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgba").reformat(format=form)
            frame.pts, frame.time_base = index, Fraction(1, 5)
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    return file.getvalue()


@pytest.mark.parametrize("codec", OPACITY)
def test_transparent_parts_become_white(codec):
    content = _translucent(codec, *OPACITY[codec])
    assert measure_video(content, OPTIONS) == (2, 48, 80)
    pixels = read_video(content, OPTIONS)
    assert pixels.shape == (2, 3, 48, 80)
    np.testing.assert_allclose(pixels[:, :, 24, 70], np.ones((2, 3)), atol=0.02)
    np.testing.assert_allclose(pixels[:, :, 24, 10], [[200 / 255, 0, 0]] * 2, atol=0.04)
    small = read_video(content, OPTIONS, lambda height, width: (6, 10))
    assert float(small[:, 1, :, -1].min()) > 0.95


def test_the_fourth_byte_of_a_raw_avi_is_no_opacity():
    pixels = read_video(_translucent("rawvideo", "avi", "bgra", (0, 0)), OPTIONS)
    np.testing.assert_allclose(pixels[0, :, 24, 70], [200 / 255, 0, 0], atol=0.01)


@pytest.mark.parametrize("name", ["mp4", "fast", "fragments", "mkv", "webm", "avi", "avi-h264", "gif", "webp", "png"])
@pytest.mark.parametrize("part", [0.5, 0.9])
def test_a_file_that_is_cut_short_is_refused(name, part, tmp_path):
    noise = np.random.default_rng(0).integers(0, 255, (20, 48, 80, 3), dtype=np.uint8)
    if name in ("gif", "webp", "png"):
        content = animate(noise, name)
    elif name == "fast":  # the index in front
        content = encode_video(noise, file=tmp_path / "fast.mp4", movflags="faststart")
    elif name == "fragments":
        content = encode_video(noise, movflags="frag_keyframe+empty_moov")
    else:
        content = encode_video(noise, *CONTAINERS[name])
    assert len(read_video(content, OPTIONS)) > 1
    with pytest.raises(ValueError, match="`videos` must be (complete|readable)"):
        read_video(content[: int(part * len(content))], OPTIONS)


def test_a_recording_may_begin_between_key_frames():
    content = encode_video(FIFTY, "mpegts", codec_options={"repeat-headers": "1"})
    late = content[188 * (len(content) // 188 // 10) :]
    found = number_of(read_video(late, OPTIONS | {"fps": None, "max_frames": 50}).numpy(), 50)
    assert found[0] % 10 == 0
    assert found == list(range(found[0], 50))


def animate(pixels: np.ndarray, name: str, duration: int | list[int] = 100) -> bytes:
    images, file = [Image.fromarray(image) for image in pixels], io.BytesIO()
    images[0].save(file, name, save_all=True, append_images=images[1:], duration=duration, lossless=True)
    return file.getvalue()


@pytest.mark.parametrize("name", ["gif", "webp", "png"])
def test_animations_are_videos_with_times_of_their_own(name):
    content = animate(FIFTY[:20:2], name, [100] * 5 + [300] * 5)
    assert is_animation(content)
    assert not is_animation(animate(FIFTY[:1], name))
    assert not is_animation(encode_video(FIFTY[:3]))
    found = number_of(read_video(content, OPTIONS).numpy(), 50)
    np.testing.assert_allclose(found, [2, 6, 10, 10, 12, 14, 14, 16, 18, 18], atol=1)
    assert measure_video(content, OPTIONS) == (10, 48, 80)
    assert probe_video(content).rate == pytest.approx(5)


def test_a_cover_is_no_video_and_audio_has_none():
    with pytest.raises(ValueError, match="must have a video track"):
        read_video(SPEECH, OPTIONS)


@pytest.mark.parametrize("form", ["open", "again", "pipe"])
def test_open_files_are_read_from_their_start(tmp_path, form):
    content = encode_video(FIFTY)
    (tmp_path / "video.mp4").write_bytes(content)
    with (tmp_path / "video.mp4").open("rb") as file:
        if form == "again":
            read_video(file, OPTIONS)
        if form == "pipe":
            file = SimpleNamespace(read=file.read, seekable=lambda: False)
        assert number_of(read_video(file, OPTIONS).numpy(), 50) == TEN_OF_FIFTY
    assert number_of(read_video((tmp_path / "video.mp4").as_uri(), OPTIONS).numpy(), 50) == TEN_OF_FIFTY


def test_nothing_that_a_playlist_names_is_opened(tmp_path):
    (tmp_path / "secret.ts").write_bytes(encode_video(FIFTY, "mpegts"))
    playlist = tmp_path / "list.m3u8"
    head = "#EXTM3U\n#EXT-X-TARGETDURATION:5\n#EXTINF:2.0,\n"
    playlist.write_text(f"{head}{(tmp_path / 'secret.ts').as_uri()}\n#EXT-X-ENDLIST\n")
    with pytest.raises(ValueError, match="`videos` must be readable"):
        read_video(playlist, OPTIONS)


# Frames that are no file


def test_metadata_say_how_fast_frames_follow_each_other():
    processor = JosieVideoProcessor(size={"height": 16, "width": 16}, patch_size=8)

    def count(video, **options):
        return processor(video, **options)["pixel_values_videos"].shape[1]

    clip = FIFTY[:8]
    assert count(clip, fps=1, video_metadata=[{"fps": 4, "duration": 2.0, "total_num_frames": 8}]) == 2
    assert count(clip, fps=1, video_metadata={"duration": 2.0, "total_num_frames": 8}) == 2
    indices = list(range(0, 80, 10))
    assert count(clip, fps=2, video_metadata=[[{"fps": 20, "total_num_frames": 80, "frames_indices": indices}]]) == 8
    assert count(clip, fps=1, video_metadata=[[{"fps": 20, "total_num_frames": 80, "frames_indices": indices}]]) == 4
    assert count([clip, clip[:4]], fps=2, video_metadata=[{"fps": 4}, {"fps": 2}]) == 4
    assert count(clip) == 8


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"fps": 1}, "`fps` must come with `video_metadata`"),
        ({"video_metadata": [{"fps": 4}] * 2}, "`video_metadata` must be of all 1 videos, got 2"),
        ({"video_metadata": {"fps": 4, "total_num_frames": 9}}, "must have the 8 frames of the video"),
        ({"video_metadata": {"fps": 4, "frames_indices": [1, 2]}}, "must have `frames_indices` of all 8 frames, got 2"),
        ({"video_metadata": {"fps": 4, "frames_indices": [*range(8)][::-1]}}, "in the order of time"),
        ({"video_metadata": {"fps": -4}}, "a finite number greater than 0 as `fps`, got -4"),
        ({"video_metadata": {"fps": "10"}}, "a finite number greater than 0 as `fps`, got '10'"),
        ({"video_metadata": {"duration": "10"}}, "a finite number greater than 0 as `duration`, got '10'"),
        ({"video_metadata": {"fps": 4, "frames_indices": 3}}, "must have integers as `frames_indices`, got 3"),
        ({"video_metadata": {"fsp": 4}}, r"`video_metadata` must have keys among .*, got \['fsp'\]"),
        ({"video_metadata": 5}, "`video_metadata` must be a dict for each video, got a int"),
        ({"fps": 1, "num_frames": 2}, "must not both be given"),
        ({"do_sample_frames": False, "fps": 1}, "`fps` must be None where `do_sample_frames` is False, got 1"),
        ({"do_sample_frames": False, "num_frames": 2}, "`num_frames` must be None where `do_sample_frames` is False"),
        ({"do_sample_frames": "no"}, "`do_sample_frames` must be True or False, got 'no'"),
        ({"num_frames": 2.5}, "`num_frames` must be an integer of at least 1, got 2.5"),
        ({"num_frames": "3"}, "`num_frames` must be an integer of at least 1, got '3'"),
        ({"max_frames": 3.5}, "`max_frames` must be an integer of at least 1, got 3.5"),
        ({"max_frames": "3"}, "`max_frames` must be an integer of at least 1, got '3'"),
        ({"fps": "1"}, "`fps` must be a finite number greater than 0, got '1'"),
        ({"fps": math.inf, "video_metadata": {"fps": 4}}, "`fps` must be a finite number greater than 0, got inf"),
        ({"fps": math.nan, "video_metadata": {"fps": 4}}, "`fps` must be a finite number greater than 0, got nan"),
    ],
    ids=str,
)
def test_options_that_cannot_be_obeyed_are_refused(options, match):
    with pytest.raises(ValueError, match=match):
        JosieVideoProcessor()(FIFTY[:8], **options)


@pytest.mark.parametrize(
    ("part", "match"),
    [
        ({"fps": 1, "num_frames": 2}, "`num_frames` and `fps` must not both be given, got 2 and 1"),
        ({"do_sample_frames": False, "fps": 1}, "`fps` must be None where `do_sample_frames` is False, got 1"),
        ({"do_sample_frames": False, "num_frames": 2}, "`num_frames` must be None where `do_sample_frames` is False"),
        ({"num_frames": 2.5}, "`num_frames` must be an integer of at least 1, got 2.5"),
        ({"video_metadata": {"fsp": 4}}, r"`video_metadata` must have keys among .*, got \['fsp'\]"),
    ],
    ids=str,
)
def test_options_of_a_part_that_cannot_be_obeyed_are_refused(part, match):
    value = part_value({"type": "video", "video": FIFTY[:8], **part})
    for processor, options in ((JosieVideoProcessor(), {}), (JosieVideoProcessor(fps=None), {"num_frames": 3})):
        with pytest.raises(ValueError, match=match):
            processor(value, **options)


def test_the_options_of_a_part_come_before_those_of_the_call():
    processor = JosieVideoProcessor(size={"height": 16, "width": 16}, patch_size=8)

    def count(part, **options):
        value = part_value({"type": "video", "video": FIFTY[:8], "video_metadata": {"fps": 4}, **part})
        return processor(value, **options)["pixel_values_videos"].shape[1]

    assert count({"fps": 1}, num_frames=3) == 2
    assert count({"num_frames": 3}, fps=1) == 3
    assert count({"do_sample_frames": False}, fps=1) == 8
    with pytest.raises(ValueError, match="`fps` must be None where `do_sample_frames` is False, got 1"):
        count({"fps": 1}, do_sample_frames=False)


def test_frames_are_sampled_as_transformers_asks_for_them():
    processor = JosieVideoProcessor()
    assert processor.sample_frames({"total_num_frames": 50, "fps": 25}, fps=5).tolist() == TEN_OF_FIFTY
    assert processor.sample_frames({"total_num_frames": 50, "fps": None}, num_frames=2).tolist() == [12, 37]
    with pytest.raises(ValueError, match="`fps` must be None"):
        processor.sample_frames({"total_num_frames": 50, "fps": None}, fps=5)


def test_decoders_and_batches_of_torchcodec_are_videos():
    tensor = torch.from_numpy(FIFTY).permute(0, 3, 1, 2)

    class Decoder:
        metadata = SimpleNamespace(average_fps=25.0)

        def __len__(self):
            return 50

        def get_frames_at(self, indices):
            return SimpleNamespace(data=tensor[indices])

    batch = SimpleNamespace(data=tensor, pts_seconds=torch.arange(50) / 25, duration_seconds=torch.full((50,), 0.04))
    for video in (Decoder(), batch):
        assert number_of(read_video(video, OPTIONS).numpy(), 50) == TEN_OF_FIFTY
        pixels = JosieVideoProcessor(size={"height": 48, "width": 80}, patch_size=8, fps=5)(video)
        assert pixels["pixel_values_videos"].shape == (1, 10, 3, 48, 80)


def test_a_list_of_files_is_a_video_of_frames(tmp_path):
    for index, image in enumerate(FIFTY[:6]):
        Image.fromarray(image).save(tmp_path / f"{index}.png")
    files = [tmp_path / f"{index}.png" for index in range(6)]
    forms = [files, [str(file) for file in files], [file.as_uri() for file in files]]
    forms += [[file.read_bytes() for file in files], [{"bytes": file.read_bytes(), "path": None} for file in files]]
    forms += [[Image.open(file) for file in files]]
    for form in forms:
        assert number_of(read_video(form, OPTIONS).numpy(), 50) == list(range(6))
        assert measure_video(form, OPTIONS) == (6, 48, 80)
