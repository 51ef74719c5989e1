"""Joined audio streams: files that are several files one after the other, and MP3s that do not say how long they are.

Services that stream speech send MP3s which their clients append to one another, radio is a chain of Ogg streams, and
`cat` joins anything. libsndfile reads the first of them. It also takes the length of an MP3 without a table of its
frames from the size of the file, as if all were as large as the first, and stops there. So streams are told apart here,
and an MP3 gets a table that is right, before libsndfile reads them.
"""

import io
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import BinaryIO

from .audio_sizes import find_unfilled

_BIT_RATES = {  # kbit/s by version of MPEG (1, or 2 and 2.5) and layer
    (1, 1): (32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (1, 2): (32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (1, 3): (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (2, 1): (32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (2, 2): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (2, 3): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
_SAMPLING_RATES = (44100, 48000, 32000)  # Hz, of MPEG 1; half of it in MPEG 2, a quarter in MPEG 2.5
_OGG_BEGINS = 2  # flag of the first page of a stream


class CutShortError(ValueError):
    """A stream lacks its end."""


class UnknownLengthError(ValueError):
    """A stream does not say how long it is, and libsndfile would guess."""


def split_streams(content: bytes) -> list[bytes]:
    """Return the streams of an audio file, each a whole file for libsndfile.

    Args:
        content (`bytes`): WAV, AIFF, FLAC, Ogg or MP3, one or several joined; anything else is one stream.

    Returns:
        The streams in order. Where nothing had to be split or repaired, `content` itself is the only one.

    Raises:
        `CutShortError`: An Ogg file ends inside a page, an MP3 inside a frame, or it has fewer than its table says.
        `UnknownLengthError`: MPEG audio of layer I or II with frames of different lengths.
    """
    if content[:4] == b"OggS":
        return _cut(content, _ogg_starts(content))
    if content[:4] == b"fLaC":  # followed by the head of a block of 34 bytes that is always the first
        return _cut(content, [match.start() for match in re.finditer(rb"fLaC[\x00\x80]\x00\x00\x22", content)])
    if content[:4] in (b"RIFF", b"FORM"):
        return _cut(content, _chunk_starts(content))
    return _split_mp3(content) if _is_mp3(content) else [content]


def skip_tags(file: BinaryIO) -> BinaryIO:
    """Return an audio file without the tags in front of it; `file` itself, at its start, where there are none."""
    place = 0
    while tag := _tag_length(_bytes_at(file, place), 0):
        place += tag
    file.seek(place)
    return io.BytesIO(file.read()) if place else file


def _bytes_at(file: BinaryIO, place: int) -> bytes:
    file.seek(place)
    return file.read(32)


def _cut(content: bytes, starts: list[int]) -> list[bytes]:
    if len(starts) < 2:
        return [content]
    return [content[start:stop] for start, stop in zip(starts, [*starts[1:], len(content)], strict=True)]


def _chunk_starts(content: bytes) -> list[int]:
    """Return where each file of WAV or AIFF begins: after what the one before says is its size, or wherever it does."""
    order = "little" if content[:4] == b"RIFF" else "big"
    kinds = rb"RIFF.{4}WAVE" if content[:4] == b"RIFF" else rb"FORM.{4}AIF[FC]"
    pattern, starts = re.compile(kinds, re.DOTALL), [0]
    while True:
        start = starts[-1]
        size = int.from_bytes(content[start + 4 : start + 8], order)
        place = start + 8 + size + size % 2
        # Where it says more than there is, it was written to a pipe, whose writer could not go back to say it.
        is_known = place <= len(content) and not find_unfilled(io.BytesIO(content), start)
        found = pattern.match(content, place) if is_known else pattern.search(content, start + 12)
        if found is None:
            return starts
        starts.append(found.start())


def _ogg_starts(content: bytes) -> list[int]:
    """Return where each link of a chain of Ogg streams begins: at the first pages after others (RFC 3533, section 4).

    Raises:
        `CutShortError`: The last page is not all there.
    """
    starts, place, in_data = [0], 0, False
    while content[place : place + 4] == b"OggS" and place + 27 <= len(content):
        begins = bool(content[place + 5] & _OGG_BEGINS)
        if begins and in_data:
            starts.append(place)
        in_data = not begins
        num_segments = content[place + 26]
        place += 27 + num_segments + sum(content[place + 27 : place + 27 + num_segments])
    if place > len(content) or content[place : place + 4] == b"OggS":
        raise CutShortError
    return starts


@dataclass(frozen=True)
class _Header:
    """Header of a frame of MPEG audio (ISO/IEC 11172-3, section 2.4.2.3)."""

    version: int
    layer: int
    rate: int
    num_channels: int
    length: int  # bytes

    @property
    def kind(self) -> tuple[int, int, int]:
        """Version, layer and rate: they are the same in all frames of a stream."""
        return self.version, self.layer, self.rate

    @property
    def side_length(self) -> int:
        """Bytes of side information behind the header, in layer III."""
        return (32 if self.num_channels == 2 else 17) if self.version == 1 else (17 if self.num_channels == 2 else 9)


@dataclass
class _Mp3:
    """A stream of MPEG audio: where it begins, its frames, and how many its table says it has."""

    start: int
    header: _Header
    promised: int | None = None
    frames: list[int] = field(default_factory=list)


def _is_mp3(content: bytes) -> bool:
    num_zeros = len(content) - len(content.lstrip(b"\0"))  # behind a tag that is longer than it says
    return _read_header(content, num_zeros) is not None


def _read_header(content: bytes, place: int) -> _Header | None:
    """Return the header of the frame at `place`; `None` if there is none, or one of free format."""
    head = content[place : place + 4]
    if len(head) < 4 or head[0] != 0xFF or head[1] & 0xE0 != 0xE0:
        return None
    version = {0b11: 1, 0b10: 2, 0b00: 3}.get(head[1] >> 3 & 3)  # 3 stands for 2.5
    layer, rate, bits = 4 - (head[1] >> 1 & 3), head[2] >> 2 & 3, head[2] >> 4
    if version is None or layer == 4 or rate == 3 or bits in (0, 15):
        return None
    hertz = _SAMPLING_RATES[rate] >> (version - 1)
    bits_a_second = 1000 * _BIT_RATES[min(version, 2), layer][bits - 1]
    padding = head[2] >> 1 & 1
    if layer == 1:
        length = (12 * bits_a_second // hertz + padding) * 4
    else:
        length = (72 if layer == 3 and version > 1 else 144) * bits_a_second // hertz + padding
    return _Header(version, layer, hertz, 1 if head[3] >> 6 == 3 else 2, length)


def _tag_length(content: bytes, place: int) -> int:
    """Return the length of the tag at `place`, 0 if there is none: ID3v2 in front, ID3v1, APE and Lyrics3 behind."""
    head = content[place : place + 32]
    if head[:3] == b"ID3" and len(head) >= 10:
        size = sum((head[6 + index] & 0x7F) << 7 * (3 - index) for index in range(4))
        return 10 + size + (10 if head[5] & 0x10 else 0)
    if head[:3] == b"TAG":
        return 128
    if head[:8] == b"APETAGEX" and len(head) == 32:
        is_header = int.from_bytes(head[20:24], "little") & 1 << 29
        return 32 + (int.from_bytes(head[12:16], "little") if is_header else 0)
    return 0


def _find_frame(content: bytes, place: int) -> int | None:
    """Return where the next frame begins, behind bytes that are no frames: one that another follows, or the end."""
    while (place := content.find(b"\xff", place)) >= 0:
        header = _read_header(content, place)
        if header is not None:
            follows = _read_header(content, place + header.length)
            if place + header.length == len(content) or (follows is not None and follows.kind == header.kind):
                return place
        place += 1
    return None


def _promised_frames(content: bytes, place: int, header: _Header) -> int | None:
    """Return how many frames the table at `place` says there are: 0 if it does not say; `None` if it is a frame."""
    xing = place + 4 + header.side_length
    if content[xing : xing + 4] in (b"Xing", b"Info"):
        return int.from_bytes(content[xing + 8 : xing + 12], "big") if content[xing + 7] & 1 else 0
    if content[place + 36 : place + 40] == b"VBRI":
        return int.from_bytes(content[place + 50 : place + 54], "big")
    return None


def _walk_mp3(content: bytes) -> Iterator[_Mp3]:
    """Give the streams of an MP3 file, frame by frame.

    Raises:
        `CutShortError`: The last frame is not all there.
    """
    stream: _Mp3 | None = None
    place: int | None = 0
    while place is not None and place < len(content):
        if tag := _tag_length(content, place):
            place += tag
            continue
        header = _read_header(content, place)
        if header is None:
            place = _find_frame(content, place + 1)
            continue
        if place + header.length > len(content):
            if stream is None or header.kind == stream.header.kind:
                raise CutShortError
            return
        promised = _promised_frames(content, place, header) if header.layer == 3 else None
        if stream is None or promised is not None or header.kind != stream.header.kind:
            if stream is not None:
                yield stream
            stream = _Mp3(place, header, promised or None)
        if promised is None:
            stream.frames.append(place)
        place += header.length
    if stream is not None:
        yield stream


def _split_mp3(content: bytes) -> list[bytes]:
    pieces: list[bytes] = []
    is_whole = True
    for stream in _walk_mp3(content):
        frames, promised = stream.frames, stream.promised
        if not frames:
            continue
        stops = [*frames[1:], _end_of_frame(content, frames[-1])]
        if promised is not None and promised > len(frames) + 1:  # some writers count the table too
            raise CutShortError
        if stream.header.layer != 3:  # without tables: libsndfile's guess is right where all frames are of one length
            if len({stop - start for start, stop in zip(frames, stops, strict=True)}) > 1:
                raise UnknownLengthError
            is_whole = is_whole and (frames[0], stops[-1]) == (0, len(content))
            pieces.append(content[frames[0] : stops[-1]])
            continue
        if promised is not None and promised <= len(frames):
            pieces.append(content[stream.start : stops[promised - 1]])
            frames = frames[promised:]
        if frames:
            is_whole = False
            pieces.append(_table_of_frames(content, frames[0], len(frames)) + content[frames[0] : stops[-1]])
    return [content] if len(pieces) < 2 and is_whole else pieces


def _end_of_frame(content: bytes, place: int) -> int:
    header = _read_header(content, place)
    return place + (header.length if header is not None else 0)


def _table_of_frames(content: bytes, place: int, num_frames: int) -> bytes:
    """Return a frame that says how many follow, in the form of the one at `place` (Xing's table, without places)."""
    head = bytearray(content[place : place + 4])
    head[1] |= 1  # no checksum
    for bits in range(1, 15):
        head[2] = bits << 4 | head[2] & 0x0C
        header = _read_header(bytes(head), 0)
        if header is not None and header.length >= 4 + header.side_length + 12:
            table = b"Xing" + (1).to_bytes(4, "big") + num_frames.to_bytes(4, "big")
            return (bytes(head) + bytes(header.side_length) + table).ljust(header.length, b"\0")
    raise AssertionError("no frame is large enough for a table")
