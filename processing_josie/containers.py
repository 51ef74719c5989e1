"""Container files: whether one is cut short, by the sizes that its own parts state.

Containers of media promise much that is wrong in whole files: counts of frames, rates, durations. The sizes of their
parts are what readers find the next part by, so a part that ends behind the end of the file is a proof.
"""

import io
from collections.abc import Iterator
from typing import BinaryIO

# Parts that a file of the MP4 family may have at its top; what is none of them is not counted.
_BOXES = frozenset(b"ftyp moov mdat free skip wide moof mfra sidx styp meta uuid pnot udta emsg prft".split())
# An option for PyAV. A playlist is a file too: nothing that it names may be opened.
NO_PROTOCOLS = {"protocol_whitelist": ""}
_EBML, _SEGMENT = 0x1A45DFA3, 0x18538067
_STREAMED_SIZES = (0, 0xFFFFFFFF)  # what RIFF files say whose writer could not go back


def is_cut_short(file: BinaryIO) -> bool:
    """Return whether a file of the MP4, RIFF (AVI, WebP, WAV), CAF or Matroska (MKV, WebM) family lacks its end.

    Args:
        file: Open for reading bytes, and able to seek; its position is kept.
    """
    place = file.tell()
    length = file.seek(0, io.SEEK_END)
    file.seek(0)
    head = file.read(12)
    if head[:4] == b"RIFF":
        size = int.from_bytes(head[4:8], "little")
        ends = [] if size in _STREAMED_SIZES else [8 + size]
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
