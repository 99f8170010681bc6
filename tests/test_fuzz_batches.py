"""The batch decoder under fire: whatever bytes come, it reads what aiokafka reads or raises our error; it never crashes, hangs or reads past its buffer."""

from __future__ import annotations

import random
import struct
import time
import warnings
from typing import Any

import pytest
from aiokafka.record.memory_records import MemoryRecords
from test_record_batches import BLOCKS, SCRATCH, batch, marker, sealed

from eslab.errors import SourceError
from eslab.sources import Chunk, batch_records
from eslab.sources.fetched_bytes import FetchedBytes
from eslab.sources.record_batches import decode

EXTREMES = [0, 1, 0x7F, 0x80, 0xFF]
SIZES = [0, 1, 2, 5, 11, 12, 13, 100, 130, 3000]
SLOW_S = 10.0  # of the processor's time for one input


class Fuzzer:
    """Batches that are almost right."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._seeds = [self._whole() for _ in range(200)]

    def _value(self) -> bytes | None:
        return None if self._random.random() < 0.1 else bytes([self._random.randrange(256)]) * self._random.choice(SIZES)

    def _records(self) -> list[tuple[Any, ...]]:
        return [
            (
                self._random.choice([0, 1, 1_700_000_000_000, 1 << 42]),
                self._value(),
                self._value(),
                [("h" * self._random.randrange(3), self._value()) for _ in range(self._random.choice([0, 0, 1, 4]))],
            )
            for _ in range(self._random.choice([1, 1, 2, 7]))
        ]

    def _whole(self) -> bytes:
        data, base = b"", self._random.choice([0, 0, 1000])
        for _ in range(self._random.choice([1, 1, 2])):
            if self._random.random() < 0.1:
                data, base = data + marker(base, 7, self._random.randrange(2)), base + 1
                continue
            records = self._records()
            attributes = self._random.choice([0, 0, 8, 16])
            data += batch(
                base, records, codec=self._random.randrange(BLOCKS + 1), attributes=attributes, producer=self._random.choice([-1, 7])
            )
            base += len(records) + self._random.choice([0, 0, 3])
        return data

    def next(self) -> bytes:
        data = bytearray(self._random.choice(self._seeds))
        for _ in range(self._random.choice([0, 1, 1, 1, 2, 5])):
            self._mutate(data)
        if self._random.random() < 0.9:  # with checksums that fit: what lies behind them is attacked, not they
            _seal(data)
        return bytes(data)

    def _mutate(self, data: bytearray) -> None:
        if not data:
            return
        at = self._random.randrange(len(data))
        kind = self._random.randrange(6)
        if kind == 0:
            data[at] ^= 1 << self._random.randrange(8)
        elif kind == 1:
            data[at] = self._random.choice(EXTREMES)
        elif kind == 2:
            del data[at : at + self._random.choice([1, 2, 9])]
        elif kind == 3:
            data[at:at] = bytes(self._random.choice(EXTREMES) for _ in range(self._random.choice([1, 2, 9])))
        elif kind == 4:
            del data[at:]
        elif len(data) > 61:  # the fields of the head
            offset, form = self._random.choice([(8, ">i"), (16, ">b"), (21, ">h"), (23, ">i"), (27, ">q"), (43, ">q"), (57, ">i")])
            struct.pack_into(form, data, offset, self._random.choice([-1, 0, 1, 2, 100, 127]))


def _seal(data: bytearray) -> None:
    at = 0
    while len(data) - at >= 61:
        end = at + 12 + max(struct.unpack_from(">i", data, at + 8)[0], 49)
        if end <= len(data):
            data[at:end] = sealed(data[at:end])
        at = end


def ours(data: bytes) -> list[tuple[Any, ...]] | None:
    """What is decoded, whole and within its buffers; None if it is our error."""
    chunks: list[Chunk] = []
    try:
        while True:  # as a source does: what is no batch is left for the next fetch, which says so
            fetched = FetchedBytes("t", 0, chunks[-1].next if chunks else 0, 2**63 - 1, data)
            if fetched.next == fetched.start:
                break
            chunks += decode(fetched, SCRATCH)
    except SourceError as exc:
        assert "t[0]" in str(exc)  # noqa: PT017 - both ends are right
        return None
    rows = []
    for chunk in chunks:
        chunk.records.validate(full=True)
        assert chunk.records.num_rows + sum(hole.next - hole.start for hole in chunk.holes) == chunk.next - chunk.start
        rows += [
            (row["offset"], row["timestamp_ms"], row["key"], row["value"], [(head["key"], head["value"]) for head in row["headers"]])
            for row in chunk.records.to_pylist()
        ]
    return rows


def aiokafkas(data: bytes) -> tuple[list[tuple[Any, ...]], bool]:
    """What aiokafka reads one by one, with its own checks, and whether it came to the end; a batch that it does not read whole is left out."""
    rows: list[tuple[Any, ...]] = []
    try:
        memory = MemoryRecords(data)
        while memory.has_next():
            one = memory.next_batch()
            if not one.validate_crc():
                return rows, False
            records = [(it.offset, it.timestamp, it.key, it.value, [(key.encode(), value) for key, value in it.headers]) for it in one]
            rows += records if not one.is_control_batch else []
    except Exception:  # noqa: BLE001 - its own, cramjam's and Cython's, of any kind
        return rows, False
    return rows, True


def attack(inputs: int, seed: int) -> tuple[int, int]:
    """How many inputs were read, and how many refused; anything else fails."""
    fuzzer, read, refused = Fuzzer(seed), 0, 0
    for number in range(inputs):
        data = fuzzer.next()
        began = time.process_time()
        found = ours(data)
        assert time.process_time() - began < SLOW_S, (seed, number, data)
        if found is None:
            refused += 1
            continue
        read += 1
        wanted, whole = aiokafkas(data)
        assert (found if whole else found[: len(wanted)]) == wanted, (seed, number, data)
    return read, refused


@pytest.fixture(params=[30, 0], ids=["alone", "abreast"])
def walk(request, monkeypatch):
    """How records and headers are found: one by one, which so few of them would always be, or all abreast."""
    monkeypatch.setattr(batch_records, "_ABREAST", request.param)
    return request.param


@pytest.mark.usefixtures("walk")
def test_a_sample_of_damaged_batches_is_read_as_aiokafka_reads_them_or_refused():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        read, refused = attack(1500, seed=1)
    assert read > 250
    assert refused > 250


@pytest.mark.torture
@pytest.mark.timeout(0)
@pytest.mark.parametrize("seed", range(5))
def test_a_million_damaged_batches_are_read_as_aiokafka_reads_them_or_refused(seed, walk):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        read, refused = attack(100_000, seed=1000 + seed if walk else 2000 + seed)
    assert read > 10_000
    assert refused > 10_000


def test_the_oracle_catches_a_decoder_that_is_wrong(monkeypatch):
    plain = batch_records._binary
    monkeypatch.setattr(batch_records, "_binary", lambda buffer, start, length: plain(buffer, start, length.clip(max=100)))
    with pytest.raises(AssertionError):
        attack(2000, seed=1)
