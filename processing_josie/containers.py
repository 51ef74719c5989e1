"""Container files: whether one is cut short, by the sizes that its own parts state, and which of its tracks is meant.

Containers of media promise much that is wrong in whole files: counts of frames, rates, durations. The sizes of their
parts are what readers find the next part by, so a part that ends behind the end of the file is a proof.
"""

import io
from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO

# Parts that a file of the MP4 family may have at its top; what is none of them is not counted.
_BOXES = frozenset(b"ftyp moov mdat free skip wide moof mfra sidx styp meta uuid pnot udta emsg prft".split())
# An option for PyAV. A playlist is a file too: nothing that it names may be opened.
NO_PROTOCOLS = {"protocol_whitelist": ""}
_DEFAULT = 1  # flag of a track (AV_DISPOSITION_DEFAULT)
_EBML, _SEGMENT = 0x1A45DFA3, 0x18538067
_STREAMED_SIZES = (0, 0xFFFFFFFF)  # what RIFF files say whose writer could not go back
_W64 = bytes.fromhex("726966662e91cf11a5d628db04c10000")
_STREAMED_W64 = 1 << 62  # what W64 files say from here on is of writers that could not go back
_OGG_HEAD = 27  # bytes of the head of a page, without the lengths of its segments
_TS_PACKET = 188  # bytes of a packet of an MPEG transport stream
_PACK = b"\x00\x00\x01\xba"  # begins a pack of an MPEG program stream
_ASF_HEADER = bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c")
_ASF_PROPERTIES = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")  # File Properties: the file's size
# Heads that no other part of a file has, and as much of them as is looked for behind the first.
_UNIQUE_HEADS = {b"Creative Voice File": 19, b".snd": 8, b"TTA1": 8, b"RF64": 12, b"FLV": 9, _ASF_HEADER: 16}
_PNG = b"\x89PNG\r\n\x1a\n"


def is_cut_short(file: BinaryIO) -> bool:
    """Return whether a file lacks its end, as far as its container says: MP4, RIFF (AVI, WebP, WAV), W64, CAF,
    Matroska (MKV, WebM), Ogg, FLV, ASF (WMA, WMV), or an MPEG transport or program stream (MPG, VOB).

    A program stream that is cut between two packets is whole to this function, and so is raw video (H.264), which
    states no sizes.

    Args:
        file: Open for reading bytes, and able to seek; its position is kept.
    """
    place = file.tell()
    length = file.seek(0, io.SEEK_END)
    file.seek(0)
    head = file.read(16)
    if head[:4] == b"RIFF":
        size = int.from_bytes(head[4:8], "little")
        ends = [] if size in _STREAMED_SIZES else [8 + size]
    elif head == _W64:
        size = int.from_bytes(file.read(8), "little")
        ends = [] if size >= _STREAMED_W64 else [size]
    elif head[:4] == b"OggS":
        ends = list(_page_ends(file, length))
    elif head[:3] == b"FLV":
        ends = list(_tag_ends(file, length))
    elif head == _ASF_HEADER:
        ends = list(_stated_ends(file))
    elif _is_transport_stream(file, length):
        ends = [-(-length // _TS_PACKET) * _TS_PACKET]
    elif head[:4] == _PACK:
        ends = list(_packet_ends(file, length))
    elif head[4:8] in _BOXES:
        ends = list(_box_ends(file, length))
    elif head[:4] == b"caff":
        ends = list(_chunk_ends(file, length))
    elif int.from_bytes(head[:4], "big") == _EBML:
        ends = list(_element_ends(file, length))
    else:
        ends = []
    file.seek(place)
    return any(end > length for end in ends)


def is_intact_ogg(file: BinaryIO) -> bool:
    """Return whether a file is Ogg of which nothing is missing or changed: all pages are there, from the first of each
    stream to its last, and have the checksums that they state (RFC 3533, section 6).

    Args:
        file: Open for reading bytes, and able to seek; its position is kept.
    """
    place = file.tell()
    length = file.seek(0, io.SEEK_END)
    start, expected = 0, {}  # the number of the next page, by stream
    for end in _page_ends(file, length):
        page = bytearray(_bytes_at(file, start, end - start))
        serial, number = bytes(page[14:18]), int.from_bytes(page[18:22], "little")
        stated, page[22:26] = bytes(page[22:26]), bytes(4)
        is_next = number == expected.get(serial, 0) and bool(page[5] & 2) == (serial not in expected)
        if end > length or not is_next or _ogg_checksum(page) != int.from_bytes(stated, "little"):
            break
        expected[serial] = number + 1
        if page[5] & 4:
            del expected[serial]
        start = end
    file.seek(place)
    return start == length and not expected


def _ogg_checksum(page: bytes | bytearray) -> int:
    value = 0
    for byte in page:
        value = value << 8 & 0xFFFFFFFF ^ _OGG_CHECKSUMS[value >> 24 ^ byte]
    return value


def _divide(value: int) -> int:
    """Return the checksum of one byte that is followed by zeros, by the polynomial of Ogg."""
    value <<= 24
    for _ in range(8):
        value = (value << 1) ^ (0x104C11DB7 if value >> 31 else 0)
    return value


_OGG_CHECKSUMS = [_divide(value) for value in range(256)]


def is_joined(file: BinaryIO) -> bool:
    """Return whether a file is several ones joined, of a kind of which readers show the first alone.

    Known are the MP4 family, Matroska (of which FFmpeg reads two, and no third), WebP, GIF, PNG, CAF, FLV, ASF, AU,
    TTA, VOC and RF64.

    Args:
        file: Open for reading bytes, and able to seek; its position is kept.
    """
    place = file.tell()
    length = file.seek(0, io.SEEK_END)
    file.seek(0)
    head = file.read(24)
    start: int | None = None
    if head[4:8] == b"ftyp":
        starts = _inside(_box_ends(file, length), length)
        start = next((start for start in starts if _bytes_at(file, start + 4, 4) == b"ftyp"), None)
    elif head[:4] == b"RIFF" and head[8:12] == b"WEBP" and (size := int.from_bytes(head[4:8], "little")):
        start = 8 + size + size % 2 if _bytes_at(file, 8 + size + size % 2, 4) == b"RIFF" else None
    elif head[:4] == b"caff":
        starts = _inside(_chunk_ends(file, length), length)
        start = next((start for start in starts if _bytes_at(file, start, 4) == b"caff"), None)
    elif int.from_bytes(head[:4], "big") == _EBML:
        ends = list(_inside(_element_ends(file, length), length + 1))
        start = next((end for end in ends if _bytes_at(file, end, 4) == head[:4]), None)
        if start is None and ends[-1:] != [length]:  # of unknown size, as from a recorder that streams
            start = _find(file, head[:16])
    elif head[:8] == _PNG:
        start = next((end for end in _png_ends(file, length) if _bytes_at(file, end, 8) == _PNG), None)
    elif head[:4] == b"GIF8":
        start = _find(file, b"\x00\x3bGIF8")  # behind a trailer (GIF89a, section 27)
    else:
        count = next((count for known, count in _UNIQUE_HEADS.items() if head.startswith(known)), None)
        start = None if count is None else _find(file, head[:count])
    file.seek(place)
    return start is not None


def choose_track(tracks: Sequence[Any]) -> Any | None:
    """Return the track that players choose of those of one kind: the first marked as default, or the first of all;
    `None` where there is none.

    Args:
        tracks: Streams of PyAV.
    """
    marked = (track for track in tracks if int(track.disposition) & _DEFAULT)
    return next(marked, tracks[0] if tracks else None)


def _inside(places: Iterator[int], length: int) -> Iterator[int]:
    return (place for place in places if place < length)


def _bytes_at(file: BinaryIO, place: int, count: int) -> bytes:
    file.seek(place)
    return file.read(count)


def _png_ends(file: BinaryIO, length: int) -> Iterator[int]:
    """Give where each chunk of a PNG ends (ISO/IEC 15948, section 5.3)."""
    place = 8
    while place + 12 <= length:
        place += 12 + int.from_bytes(_bytes_at(file, place, 4), "big")
        yield place


def _find(file: BinaryIO, wanted: bytes) -> int | None:
    """Return where bytes are behind the beginning of a file."""
    file.seek(1)
    found = file.read().find(wanted)
    return None if found < 0 else found + 1


def _page_ends(file: BinaryIO, length: int) -> Iterator[int]:
    """Give where each page of an Ogg file ends (RFC 3533, section 6)."""
    place = 0
    while place < length:
        head = _bytes_at(file, place, _OGG_HEAD + 255)
        if head[:4] != b"OggS":
            return
        count = head[_OGG_HEAD - 1] if len(head) >= _OGG_HEAD else 1
        place += _OGG_HEAD + count + sum(head[_OGG_HEAD : _OGG_HEAD + count])
        yield place


def _tag_ends(file: BinaryIO, length: int) -> Iterator[int]:
    """Give where each tag of a Flash video ends (Video File Format 10, section E.3)."""
    place = int.from_bytes(_bytes_at(file, 5, 4), "big") + 4
    while place < length:
        head = _bytes_at(file, place, 4)
        if head[0] & 0x1F not in (8, 9, 18):
            return
        place += 15 + int.from_bytes(head[1:], "big")
        yield place


def _stated_ends(file: BinaryIO) -> Iterator[int]:
    """Give the size that a file of Windows Media states (Advanced Systems Format, section 3.2), unless it is live."""
    file.seek(0)
    content = file.read(1 << 16)
    place = content.find(_ASF_PROPERTIES)
    if place >= 0 and len(content) >= place + 92 and not content[place + 88] & 1:
        yield int.from_bytes(content[place + 40 : place + 48], "little")


def _is_transport_stream(file: BinaryIO, length: int) -> bool:
    """Return whether a file begins with packets of a transport stream (ISO/IEC 13818-1), which all begin alike."""
    places = range(0, min(length, 8 * _TS_PACKET), _TS_PACKET)
    return length > 2 * _TS_PACKET and all(_bytes_at(file, place, 1) == b"\x47" for place in places)


def _packet_ends(file: BinaryIO, length: int) -> Iterator[int]:
    """Give where each packet of a program stream ends (ISO/IEC 13818-1, section 2.5; ISO/IEC 11172-1)."""
    place = 0
    while place + 4 <= length:
        head = _bytes_at(file, place, 14)
        if head[:3] != _PACK[:3] or head[3] < 0xBA:  # 0xB9 ends the stream
            return
        if head[3] > 0xBA:
            place += 6 + int.from_bytes(head[4:6], "big")
        elif len(head) < 14 or head[4] >> 6 == 1:
            place += 14 + (head[-1] & 7 if len(head) == 14 else 0)
        else:
            place += 12  # of MPEG-1
        yield place


def _box_ends(file: BinaryIO, length: int) -> Iterator[int]:
    """Give where each box at the top of a file of the MP4 family ends (ISO/IEC 14496-12, section 4.2)."""
    place = 0
    while place + 8 <= length:
        file.seek(place)
        head = file.read(16)
        if head[4:8] not in _BOXES:
            return
        size = int.from_bytes(head[:4], "big")
        if size == 1:
            size = int.from_bytes(head[8:16], "big")
        if size < 8:  # 0: up to the end, wherever that is
            return
        place += size
        yield place


def _chunk_ends(file: BinaryIO, length: int) -> Iterator[int]:
    """Give where each chunk of a Core Audio file ends (Apple Core Audio Format, "Chunk Header")."""
    place = 8
    while place + 12 <= length:
        file.seek(place + 4)
        size = int.from_bytes(file.read(8), "big", signed=True)
        if size < 0:  # up to the end, wherever that is
            return
        place += 12 + size
        yield place


def _element_ends(file: BinaryIO, length: int) -> Iterator[int]:
    """Give where each element at the top of a Matroska file ends, if it says so (RFC 8794, sections 4 and 5)."""
    place = 0
    while place < length:
        file.seek(place)
        head = file.read(12)
        id_length = 9 - head[0].bit_length()
        size_length = 9 - head[id_length].bit_length() if len(head) > id_length else 9
        if id_length > 4 or size_length > 8:
            return
        field = head[id_length : id_length + size_length]
        size, unknown = int.from_bytes(field, "big") - (1 << 7 * size_length), (1 << 7 * size_length) - 1
        is_known = int.from_bytes(head[:id_length], "big") in (_EBML, _SEGMENT)
        if not is_known or size == unknown:
            return
        place += id_length + size_length + size
        yield place
