"""The codecs of record batches, each into memory that is used again."""

from __future__ import annotations

import struct
from typing import Final

import cramjam

__all__ = ["PAD", "PIECE", "Scratch"]

PIECE: Final = 24 << 20  # decompressed bytes decoded at once: wide enough for NumPy to pay, small enough to stay flat at any compression
PAD: Final = 64  # fields are read before they are known to lie inside their record; five varints reach at most 51 bytes past one
MAX_BYTES: Final = 2**31 - 1 - 2 * PAD
_NONE, _SNAPPY = 0, 2
_NO_ROOM: Final = "failed to write whole buffer"  # cramjam's word for too little room; a test holds it to that


class Scratch:
    """Memory that decompressed records pass through, reused because touching fresh memory costs more than decoding."""

    def __init__(self) -> None:
        self.bytes = bytearray(PIECE + (8 << 20))
        self.used = 0

    def add(self, codec: int, block: memoryview) -> tuple[int, int]:
        """Decompress the block behind what is there; return where it stands. Raises `cramjam.DecompressionError`, `ValueError`."""
        start = self.used
        if codec == _NONE:
            self._append(block)
        elif codec == _SNAPPY:
            self._append(_snappy(block, MAX_BYTES - start))
        elif codec in _INTO:
            try:
                self.used += _INTO[codec](block, memoryview(self.bytes)[start:-PAD])
            except cramjam.DecompressionError:  # too little room, or damaged: the second try tells
                self._unpack(codec, block)
        else:
            raise ValueError(f"codec {codec} is none of Kafka's")
        return start, self.used

    def _unpack(self, codec: int, block: memoryview) -> None:
        """Decompress into ever more room: a few bytes may unpack to more than the machine has."""
        while True:
            try:
                self.used += _FRAME[codec](block, memoryview(self.bytes)[self.used : -PAD])
            except cramjam.DecompressionError as exc:
                if _NO_ROOM not in str(exc):
                    raise
                room, most = len(self.bytes), MAX_BYTES + PAD
                self._make_room(most if room < most < 2 * room else 2 * room)
            else:
                return

    def _append(self, block: bytes | memoryview) -> None:
        end = self.used + len(block)
        if end + PAD > len(self.bytes):
            self._make_room(end + PAD)
        self.bytes[self.used : end] = block
        self.used = end

    def _make_room(self, size: int) -> None:
        if size > MAX_BYTES + PAD:
            raise _too_much()
        larger = bytearray(size)  # a new one: the old may still be exported
        larger[: self.used] = memoryview(self.bytes)[: self.used]
        self.bytes = larger


def _too_much() -> ValueError:
    return ValueError(f"it unpacks to more than {MAX_BYTES:,} bytes, which one Arrow array does not hold")


# --- LZ4 ----------------------------------------------------------------------------------------

_LZ4_PLAIN: Final = struct.pack("<IB", 0x184D2204, 0x60)
"""Version 1, independent blocks, nothing else: what Java's and librdkafka's producers write."""
_LZ4_FIRST: Final = 7  # where the blocks begin: after the flags come the largest size of a block, and a checksum of these two
_LZ4_SIZE: Final = struct.Struct("<I")
_LZ4_STORED: Final = 1 << 31
_LZ4_BLOCK: Final = 4 << 20  # no block is larger when unpacked


def _lz4_into(frame: memoryview, room: memoryview) -> int:
    """Decompress an LZ4 frame block by block; return its size.

    A frame decoder sets up its buffers anew for each frame, which costs ten times the decoding of a small batch. What is not of the plain kind goes to one
    all the same. The frame's own checksums are not looked at: the batch has one over all of it.
    """
    if frame[: len(_LZ4_PLAIN)] != _LZ4_PLAIN:
        return int(cramjam.lz4.decompress_into(frame, room))
    at, used, end = _LZ4_FIRST, 0, len(frame) - _LZ4_SIZE.size
    while size := _LZ4_SIZE.unpack_from(frame, at)[0]:
        at += _LZ4_SIZE.size
        stored, size = size & _LZ4_STORED, size & ~_LZ4_STORED
        if at + size > end or (stored and size > len(room) - used):
            raise cramjam.DecompressionError("a block longer than its frame, or than the room for it")
        if stored:
            room[used : used + size] = frame[at : at + size]
            used += size
        else:
            most = min(_LZ4_BLOCK, len(room) - used)  # told, because else the block's first bytes are taken for its size
            used += cramjam.lz4.decompress_block_into(frame[at : at + size], room[used:] if used else room, output_len=most)
        at += size
    if at != end:
        raise cramjam.DecompressionError("a frame without its end, or with more behind it")
    return used


_INTO = {1: cramjam.gzip.decompress_into, 3: _lz4_into, 4: cramjam.zstd.decompress_into}
_FRAME = {**_INTO, 3: cramjam.lz4.decompress_into}
_XERIAL: Final = b"\x82SNAPPY\x00"


def _snappy(block: memoryview, most: int) -> bytes:
    """Snappy as Java writes it (a 16-byte head, then blocks with their lengths) or bare, as librdkafka does."""
    if bytes(block[: len(_XERIAL)]) != _XERIAL:
        return _snappy_block(block, most)
    parts, at = [], 16
    while at < len(block):
        (size,) = struct.unpack_from(">i", block, at)
        if not 0 <= size <= len(block) - at - 4:
            raise ValueError(f"a snappy block claims {size} bytes")
        parts.append(_snappy_block(block[at + 4 : at + 4 + size], most))
        most -= len(parts[-1])
        at += 4 + size
    return b"".join(parts)


def _snappy_block(block: memoryview, most: int) -> bytes:
    if cramjam.snappy.decompress_raw_len(block) > most:  # what it claims is made room for before anything is read
        raise _too_much()
    return bytes(cramjam.snappy.decompress_raw(block))
