"""Tracks of video files: joined ones of Matroska, the default one, and what the command line finds without them."""

import io

import av
import numpy as np
import pytest
from media_files import encode_video, frames, number_of

from josie.cli import media
from josie.processing_josie import load_audio
from josie.processing_josie.containers import NO_PROTOCOLS
from josie.processing_josie.video_files import probe_video, read_video_file


def read_all(content: bytes) -> np.ndarray:
    found = read_video_file(content, lambda timeline: list(range(timeline.num_frames)), lambda frame: frame)
    return np.stack([np.asarray(frame) for frame in found]).transpose(0, 3, 1, 2) / 255


@pytest.mark.parametrize("live", ["0", "1"])
@pytest.mark.parametrize("copies", [2, 3])
def test_joined_matroska_is_refused(copies, live):
    content = encode_video(frames(30), "matroska", rate=10, codec_options={"bf": "3"}, live=live)
    assert probe_video(content).timeline.seconds == pytest.approx(3)
    assert number_of(read_all(content), 30) == list(range(30))
    with pytest.raises(ValueError, match="`videos` must be single files, got .* several joined"):
        probe_video(content * copies)
    with pytest.raises(ValueError, match="`audio` must be single files of this kind, got .* several joined"):
        load_audio(content * copies)


@pytest.mark.parametrize(("is_default", "seen"), [((False, True), 1), ((True, False), 0), ((True, True), 0)], ids=str)
def test_the_default_track_is_seen(is_default, seen):
    file = io.BytesIO()
    with av.open(file, "w", format="matroska") as output:
        tracks = [output.add_stream("ffv1", rate=10) for _ in is_default]
        for track, is_marked in zip(tracks, is_default, strict=True):
            track.height, track.width, track.pix_fmt = 48, 80, "yuv420p"
            track.disposition = av.stream.Disposition.default if is_marked else av.stream.Disposition(0)
        for index in range(5):
            for level, track in enumerate(tracks):
                image = np.full((48, 80, 3), 200 * level, np.uint8)
                frame = av.VideoFrame.from_ndarray(image, format="rgb24")
                frame.pts = index
                output.mux(track.encode(frame))
        for track in tracks:
            output.mux(track.encode(None))
    values = read_all(file.getvalue())
    assert len(values) == 5
    assert values.mean() == pytest.approx(200 * seen / 255, abs=0.02)


def test_the_command_line_opens_nothing_that_a_playlist_names(tmp_path):
    assert media._NO_PROTOCOLS == NO_PROTOCOLS
    (tmp_path / "a.ts").write_bytes(encode_video(frames(10), "mpegts"))
    assert media.find_modalities(tmp_path / "a.ts") == ("video",)
    playlist = tmp_path / "a.m3u8"
    playlist.write_text("#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\na.ts\n#EXT-X-ENDLIST\n")
    assert media.find_modalities(playlist) == ()
    listed = tmp_path / "a.ffconcat"
    listed.write_text("ffconcat version 1.0\nfile a.ts\n")
    assert media.find_modalities(listed) == ()


def test_names_with_a_colon_are_files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "http:a.ts"
    path.write_bytes(encode_video(frames(10), "mpegts"))
    assert media.find_modalities(path.relative_to(tmp_path)) == ("video",)
