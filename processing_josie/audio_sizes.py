"""Sizes of audio files that were never filled in: writers state them when they end, and some are stopped before.

The samples are there, and libsndfile reads none of them, as the file says that it has none. Where samples follow a size
that counts none, they are taken to go on to the end of the file, as FFmpeg has it.
"""

import io
from typing import BinaryIO, Literal

_LARGE = 0xFFFFFFFF
_UNKNOWN = b"\xff\xff\xff\xff"  # what libsndfile knows as the size of a file from a pipe
# By the beginning of a file: the order of its bytes, those of a size, where chunks begin, the chunk of samples, and
# sizes of it that count none.
_KINDS: dict[bytes, tuple[Literal["little", "big"], int, int, bytes, tuple[int, ...]]] = {
    b"RIFF": ("little", 4, 12, b"data", (0,)),
    b"RIFX": ("big", 4, 12, b"data", (0,)),
    b"RF64": ("little", 4, 12, b"data", (0, _LARGE)),
    b"FORM": ("big", 4, 12, b"SSND", (8,)),
    b"caff": ("big", 8, 8, b"data", (0, 4)),
}
_FORMS = {b"RIFF": (b"WAVE",), b"RIFX": (b"WAVE",), b"RF64": (b"WAVE",), b"FORM": (b"AIFF", b"AIFC")}


def find_unfilled(file: BinaryIO, start: int = 0) -> dict[int, bytes]:
    """Return what is to stand in place of sizes that count no samples though some follow: bytes by their place.

    Args:
        file: Open for reading bytes, and able to seek: WAV, RF64, AIFF, AU or CAF; nothing is found in others, and W64
            needs nothing. Its position is kept.
        start (`int`, *optional*): Where the audio file begins in it.
    """
    place = file.tell()
    length = file.seek(0, io.SEEK_END)
    head = _bytes_at(file, start, 12)
    if head[:4] in (b".snd", b"dns."):
        offset = int.from_bytes(head[4:8], "big" if head[:1] == b"." else "little")
        found = {start + 8: _UNKNOWN} if head[8:12] == bytes(4) and 24 <= offset < length - start else {}
    elif head[:4] in _KINDS and head[8:12] in _FORMS.get(head[:4], (head[8:12],)):
        found = _find_in_chunks(file, start, length, head[:4])
    else:
        found = {}
    file.seek(place)
    return found


def fill_sizes(content: bytes) -> bytes:
    """Return an audio file whose sizes count its samples; `content` itself where they do."""
    found = find_unfilled(io.BytesIO(content))
    if not found:
        return content
    filled = bytearray(content)
    for place, value in found.items():
        filled[place : place + len(value)] = value
    return bytes(filled)


def _find_in_chunks(file: BinaryIO, start: int, length: int, kind: bytes) -> dict[int, bytes]:
    order, width, first, wanted, idle = _KINDS[kind]
    place, wide = start + first, None
    while place + 4 + width <= length:
        head = _bytes_at(file, place, 4 + width)
        size, begin = int.from_bytes(head[4:], order), place + 4 + width
        if head[:4] == b"ds64":
            wide = begin  # sizes of 64 bits: of the file, and of its samples
        elif head[:4] == wanted:
            rest = begin + (max(idle) if kind in (b"FORM", b"caff") else 0)  # behind an offset, or a count of edits
            behind = begin + (size if size < _LARGE else 0)
            if size not in idle or length - rest < 2 or _is_chunk(file, behind, length, order, width):
                return {}
            if kind == b"RF64":
                if wide is None or any(_bytes_at(file, wide + 8, 8)):
                    return {}
                return {wide: (length - start - 8).to_bytes(8, order), wide + 8: (length - begin).to_bytes(8, order)}
            if kind == b"FORM":
                sizes = {start + 4: length - start - 8, place + 4: length - begin}
                return {where: min(size, _LARGE).to_bytes(4, order) for where, size in sizes.items()}
            if kind == b"caff":
                return {place + 4: (length - begin).to_bytes(8, order)}
            return {start + 4: _UNKNOWN, place + 4: _UNKNOWN}
        place = begin + size + (size % 2 if kind != b"caff" else 0)
    return {}


def _is_chunk(file: BinaryIO, place: int, length: int, order: Literal["little", "big"], width: int) -> bool:
    """Return whether another chunk stands at a place, and so no samples: a name in ASCII, and a size that fits."""
    head = _bytes_at(file, place, 4 + width)
    is_named = len(head) == 4 + width and all(0x20 <= byte < 0x7F for byte in head[:4])
    return is_named and place + 4 + width + int.from_bytes(head[4:], order) <= length


def _bytes_at(file: BinaryIO, place: int, count: int) -> bytes:
    file.seek(place)
    return file.read(count)
