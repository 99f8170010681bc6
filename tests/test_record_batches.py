"""The columnar decoder against aiokafka's record by record, and against bytes that are no records."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import cramjam
import pytest
from aiokafka.record.default_records import DefaultRecordBatchBuilder
from aiokafka.record.legacy_records import LegacyRecordBatchBuilder
from aiokafka.record.memory_records import MemoryRecords
from crc32c import crc32c
from hypothesis import given, settings
from hypothesis import strategies as st

from eslab.errors import SourceError
from eslab.sources import Chunk, Hole, Marker, batch_codecs, batch_records
from eslab.sources import record_batches as record_batches_module
from eslab.sources.batch_codecs import Scratch
from eslab.sources.fetched_bytes import FetchedBytes
from eslab.sources.record_batches import decode

SCRATCH = Scratch()  # one for all, as a reader has: what an earlier response left there must not show
FAR = 1 << 40
HEAD = 61
BLOCKS = 5  # beside Kafka's five codecs: LZ4 block by block

sizes = st.one_of(st.binary(max_size=20), st.integers(0, 20_000).map(lambda size: b"x" * size))
headers = st.lists(st.tuples(st.text(max_size=8), st.none() | st.binary(max_size=200)), max_size=4)
rows = st.lists(st.tuples(st.integers(0, 1 << 42), st.none() | sizes, st.none() | sizes, headers), min_size=1, max_size=12)
batches = st.lists(st.tuples(st.integers(0, BLOCKS), st.integers(0, 300), rows), max_size=5)


def lz4_blocks(raw: bytes) -> bytes:
    """The LZ4 frame that Java's and librdkafka's producers write, another one than aiokafka's: blocks of 64 KiB, as they are where that is shorter."""
    frame = bytearray(struct.pack("<IBBB", 0x184D2204, 0x60, 0x40, 0x82))
    for at in range(0, len(raw), 1 << 16):
        block = raw[at : at + (1 << 16)]
        packed = bytes(cramjam.lz4.compress_block(block, store_size=False))
        stored = len(packed) >= len(block)
        frame += struct.pack("<I", len(block) | 1 << 31 if stored else len(packed)) + (block if stored else packed)
    return bytes(frame + bytes(4))


def sealed(batch: bytearray) -> bytes:
    """The batch with the checksum that fits its bytes."""
    struct.pack_into(">I", batch, 17, crc32c(bytes(batch[21:])))
    return bytes(batch)


def batch(
    base: int, records: Sequence[tuple[Any, ...]], *, codec: int = 0, attributes: int = 0, producer: int = -1, span: int = 0
) -> bytes:
    built = DefaultRecordBatchBuilder(2, codec % BLOCKS, bool(attributes & 0x10), producer, 3, -1, 1 << 30)
    for delta, (timestamp, key, value, heads) in enumerate(records):
        assert built.append(delta, timestamp, key, value, heads)
    data = bytearray(built.build())
    if codec == BLOCKS:
        data[HEAD:] = lz4_blocks(bytes(data[HEAD:]))
        data[22] |= 3
        struct.pack_into(">i", data, 8, len(data) - 12)
    struct.pack_into(">q", data, 0, base)
    struct.pack_into(">i", data, 12, 7)  # leader epoch
    data[22] |= attributes
    if span:
        struct.pack_into(">i", data, 23, span - 1)
    return sealed(data)


def plain(count: int) -> list[tuple[Any, ...]]:
    return [(1000 + n, b"k", b"v%d" % n, []) for n in range(count)]


def marker(base: int, producer: int, kind: int) -> bytes:
    return batch(base, [(1, struct.pack(">hh", 0, kind), b"\0" * 6, [])], attributes=0x30, producer=producer)


def decoded(data: bytes, start: int = 0, stop: int = FAR, **more: Any) -> list[Chunk]:
    return list(decode(FetchedBytes("t", 0, start, stop, data, **more), SCRATCH))


def rows_of(chunks: Sequence[Chunk]) -> list[tuple[Any, ...]]:
    return [
        (row["offset"], row["timestamp_ms"], row["key"], row["value"], [(head["key"].decode(), head["value"]) for head in row["headers"]])
        for chunk in chunks
        for row in chunk.records.to_pylist()
    ]


def one_by_one(data: bytes) -> list[tuple[Any, ...]]:
    memory, found = MemoryRecords(data), []
    while memory.has_next():
        found += [(it.offset, it.timestamp, it.key, it.value, list(it.headers)) for it in memory.next_batch()]
    return found


@given(batches)
@settings(deadline=None)
def test_columns_hold_what_aiokafka_reads_record_by_record(parts: list[tuple[int, int, list[tuple[Any, ...]]]]):
    data, base = b"", 0
    for codec, gap, records in parts:
        data += batch(base + gap, records, codec=codec)
        base += gap + len(records)

    chunks = decoded(data)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(batch_records, "_ABREAST", 0)
        abreast = decoded(data)

    assert rows_of(chunks) == rows_of(abreast) == one_by_one(data)
    assert sum(chunk.next - chunk.start for chunk in chunks) == base


def test_many_batches_abreast_hold_what_aiokafka_reads_record_by_record():
    counts = [1 + number * number % 7 for number in range(300)]
    bases = [sum(counts[:number]) for number in range(300)]
    records = [(n, b"k" * (n % 70), b"v" * ((0, 5, 60, 300, 8180, 8200, 20_000)[n % 7]), [("h", None)] * (n % 3)) for n in range(7)]
    data = b"".join(batch(base, records[:count], codec=base % (BLOCKS + 1)) for base, count in zip(bases, counts, strict=True))

    assert rows_of(decoded(data)) == one_by_one(data)


@given(st.data())
@settings(deadline=None, max_examples=300)
def test_damaged_records_raise_our_error_or_nothing(draw: st.DataObject):
    whole = bytearray(batch(5, plain(20), codec=draw.draw(st.integers(0, BLOCKS))) + batch(30, [(1, b"", None, [("a", None)] * 3)] * 5))
    for _ in range(draw.draw(st.integers(1, 4))):
        whole[draw.draw(st.integers(0, len(whole) - 1))] = draw.draw(st.integers(0, 255))
    data = bytearray(whole[: draw.draw(st.integers(0, len(whole)))])
    at = 0
    while len(data) - at >= 61:  # with checksums that fit: what lies behind them is attacked, not they
        end = at + 12 + max(struct.unpack_from(">i", data, at + 8)[0], 49)
        if end <= len(data):
            data[at:end] = sealed(data[at:end])
        at = end

    try:
        chunks = decoded(bytes(data))
    except SourceError as exc:
        assert "t[0]" in str(exc)  # noqa: PT017 - both ends are right
    else:
        for chunk in chunks:
            chunk.records.validate(full=True)
            held = chunk.records.num_rows + sum(hole.next - hole.start for hole in chunk.holes)
            assert held == chunk.next - chunk.start


def zigzag(value: int) -> bytes:
    raw, out = (value << 1) ^ (value >> 63), bytearray()
    while raw > 127:
        out.append(raw & 127 | 128)
        raw >>= 7
    return bytes([*out, raw])


def record(
    *, offset: int = 0, key: int = 1, value: int = 1, count: int = 0, tail: bytes = b"", longer: int = 0, attributes: int = 0
) -> bytes:
    """A record that claims these lengths, over a key and a value of one byte."""
    body = bytes([attributes]) + zigzag(0) + zigzag(offset) + zigzag(key) + b"k" + zigzag(value) + b"v" + zigzag(count) + tail
    return zigzag(len(body) + longer) + body


HUGE = (1 << 62) + 1


@pytest.mark.parametrize("abreast", [30, 0])
@pytest.mark.parametrize(
    ("records", "count", "why"),
    [
        ([record(key=HUGE)], 1, "a record longer than itself"),
        ([record(key=12), record(offset=1)], 2, "a record longer than itself"),  # its key would reach into the next record
        ([record(value=HUGE)], 1, "a record longer than itself"),
        ([record(value=-HUGE)], 1, "an impossible number of headers"),  # negative is null, and its byte is taken for their number
        ([record(count=HUGE)], 1, "an impossible number of headers"),
        ([record(count=-1)], 1, "an impossible number of headers"),
        ([record(count=5000)], 1, "an impossible number of headers"),
        ([record(count=1, tail=zigzag(HUGE) + b"hhh")], 1, "a record longer than itself"),
        ([record(count=1, tail=zigzag(-1) + zigzag(-1))], 1, "a header without a name"),
        ([record(count=1, tail=zigzag(0) + zigzag(HUGE))], 1, "a record longer than itself"),
        ([record(count=1, tail=zigzag(0) + zigzag(1))], 1, "a record longer than itself"),
        ([record(count=1, tail=b"\xff" * 11)], 1, "a number of more than ten bytes"),
        ([record(tail=b"left over")], 1, "a record shorter than itself"),
        ([record(attributes=0x80)], 1, "attributes that no Kafka writes"),
        ([record(), record(offset=5)], 2, "an offset outside of it"),
        ([record(offset=-1)], 1, "an offset outside of it"),
        ([record(offset=(1 << 63) - 1)], 1, "an offset outside of it"),
        ([record(offset=1), record(offset=0)], 2, "offsets that do not ascend"),
        ([record(), record()], 2, "offsets that do not ascend"),
        ([zigzag(12) + b"\0" + b"\xff" * 10 + b"\0"], 1, "a number of more than ten bytes"),
        ([zigzag(-9) + b"\0" * 9], 1, "records that end"),
        ([record(longer=20)], 1, "records that end 20 bytes past its end"),
        ([record(longer=HUGE)], 1, "records that end"),
        ([record()], 2, "2 records in"),
        ([b"\xff" * 20], 1, "a record longer than itself"),
    ],
)
def test_lengths_that_do_not_fit_are_named(records: list[bytes], count: int, why: str, abreast: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(batch_records, "_ABREAST", abreast)
    head = bytearray(batch(0, plain(count))[:HEAD])
    body = b"".join(records)
    struct.pack_into(">i", head, 8, 49 + len(body))
    data = batch(0, plain(2)) + sealed(head + body)
    data = bytearray(data)
    struct.pack_into(">q", data, len(data) - len(body) - HEAD, 10)

    with pytest.raises(SourceError, match=rf"t\[0\] cannot be read at offset 10: the batch holds {why}"):
        decoded(bytes(data))


def flipped(data: bytearray) -> None:
    data[-1] ^= 1


def of_codec(number: int) -> Callable[[bytearray], None]:
    def change(data: bytearray) -> None:
        data[22] = data[22] & ~7 | number
        data[:] = sealed(data)

    return change


def claiming(place: int, form: str, value: int) -> Callable[[bytearray], None]:
    """A field of the head that is not so, under a checksum that fits."""

    def change(data: bytearray) -> None:
        struct.pack_into(form, data, place, value)
        data[:] = sealed(data)

    return change


DAMAGES = {
    "a flipped bit": (flipped, "the checksum of the batch does not fit its bytes"),
    "a codec of none": (of_codec(5), "the batch does not decompress (codec 5 is none of Kafka's)"),
    "another codec's": (of_codec(4), "the batch does not decompress ("),
    "fewer records": (claiming(57, ">i", 1), "the batch holds records that end"),
    "no such length": (claiming(8, ">i", 48), "a batch claims a length of 48 bytes"),
    "more records than offsets": (claiming(57, ">i", 9), "a batch claims 9 records over 3 offsets from 3, after offset"),
    "an offset that is taken": (claiming(0, ">q", 2), "a batch claims 3 records over 3 offsets from 2, after offset"),
    "before Kafka 0.11": (claiming(16, ">b", 1), "holds messages at offset 3 in the format of before Kafka 0.11"),
}


@pytest.mark.parametrize("codec", [2, 0])
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_batch_is_told_with_its_place_after_all_that_stands_before_it(damage: str, codec: int):
    change, why = DAMAGES[damage]
    bad = bytearray(batch(3, plain(3), codec=codec))
    change(bad)
    data = batch(0, plain(3), codec=codec) + bytes(bad) + batch(6, plain(3), codec=codec)
    found: list[Chunk] = []

    def fetch_again_and_again() -> None:
        for start in (0, 3):
            found.extend(decode(FetchedBytes("t", 0, start, FAR, data), SCRATCH))

    with pytest.raises(SourceError) as told:
        fetch_again_and_again()

    assert "t[0]" in str(told.value)
    assert why in str(told.value)
    assert rows_of(found) == one_by_one(data[: len(batch(0, plain(3), codec=codec))])
    assert found[-1].next == 3


@pytest.mark.parametrize("codec", range(1, BLOCKS + 1))
def test_few_bytes_that_unpack_to_more_than_an_array_holds_are_told_before_memory_is_full(codec: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(batch_codecs, "MAX_BYTES", 200_000)
    for size, scratch in ((150_000, Scratch()), (250_000, Scratch())):
        scratch.bytes = bytearray(1000)
        scratch.add(0, memoryview(b"before"))
        data = batch(0, [(1, b"k", b"v" * size, [])], codec=codec)
        if size > batch_codecs.MAX_BYTES:
            with pytest.raises(ValueError, match="unpacks to more than 200,000 bytes"):
                scratch.add(codec if codec < BLOCKS else 3, memoryview(data)[HEAD:])
        else:
            first, end = scratch.add(codec if codec < BLOCKS else 3, memoryview(data)[HEAD:])
            assert (bytes(scratch.bytes[:first]), end - first > size) == (b"before", True)
        assert len(scratch.bytes) <= 200_000 + batch_codecs.PAD
    with pytest.raises(ValueError, match="unpacks to more than 200,000 bytes"):
        Scratch().add(2, memoryview(b"\xff\xff\xff\xff\x0f" + b"four gigabytes, it says"))


def test_the_headers_of_one_record_are_not_each_a_pass_over_all(monkeypatch: pytest.MonkeyPatch):
    passes: list[int] = []
    plain_pass = batch_records._bytes_at
    monkeypatch.setattr(batch_records, "_bytes_at", lambda *args: passes.append(1) or plain_pass(*args))
    records = [(1, b"k", b"v", [("a", b"1"), ("b", None)])] * 100 + [
        (1, b"k", b"v", [(f"h{n}", b"%d" % n if n % 3 else None) for n in range(10_000)])
    ]

    data = batch(0, records)

    assert rows_of(decoded(data)) == one_by_one(data)
    assert len(passes) < 10


def test_the_leaders_that_wrote_it_are_told_with_the_end_of_what_each_did():
    def by_leader(epoch: int, data: bytes) -> bytes:
        return data[:12] + struct.pack(">i", epoch) + data[16:]

    data = batch(0, plain(2)) + by_leader(9, batch(2, plain(2))) + by_leader(9, marker(4, 1, 1))

    assert [chunk.epochs for chunk in decoded(data)] == [((7, 2), (9, 5))]
    assert [chunk.epochs for chunk in decoded(data, start=1, stop=3)] == [((7, 2), (9, 3))]
    assert [chunk.epochs for chunk in decoded(data, start=4)] == [((9, 5),)]
    assert [chunk.epochs for chunk in decoded(by_leader(-1, batch(0, plain(2))))] == [()]


def test_what_was_decoded_before_stays_when_the_scratch_is_used_again():
    first = decoded(batch(0, [(1, b"first", b"1" * 1000, [("h", b"1")])]))
    decoded(batch(0, [(1, b"other", b"2" * 1000, [("x", b"2")])]))

    assert rows_of(first) == [(0, 1, b"first", b"1" * 1000, [("h", b"1")])]


def test_the_aborted_list_is_unsorted_and_may_name_what_is_not_there():
    data = b"".join([
        batch(0, plain(2), attributes=0x10, producer=1),
        batch(2, plain(2), attributes=0x10, producer=2),
        marker(4, 1, 1),
        batch(5, plain(1), attributes=0x10, producer=1),
        marker(6, 2, 0),
        batch(7, plain(1), attributes=0x10, producer=2),
        marker(8, 1, 0),
        marker(9, 2, 1),
        batch(10, plain(1), producer=2),
    ])  # fmt: skip

    (chunk,) = decoded(data, aborted=[(9, 500), (1, 5), (2, 2)])

    assert chunk.records["offset"].to_pylist() == [0, 1, 7, 10]
    assert chunk.holes == (
        Hole(2, 4, "aborted"), Hole(4, 5, "control"), Hole(5, 6, "aborted"), Hole(6, 7, "control"), Hole(8, 10, "control")
    )  # fmt: skip
    assert chunk.markers == (Marker(4, 1, 3, "commit"), Marker(6, 2, 3, "abort"), Marker(8, 1, 3, "abort"), Marker(9, 2, 3, "commit"))


def test_spans_wider_than_their_records_are_compacted():
    data = batch(3, plain(2), span=10) + batch(20, plain(1)) + batch(21, [], span=4)

    (chunk,) = decoded(data, log_start=0)

    assert chunk.records["offset"].to_pylist() == [3, 4, 20]
    assert chunk.holes == (Hole(0, 3, "compaction"), Hole(5, 20, "compaction"), Hole(21, 25, "compaction"))
    assert chunk.next == 25


def test_what_lies_below_the_log_start_went_to_retention():
    (chunk,) = decoded(batch(9, plain(1)), log_start=6)

    assert chunk.holes == (Hole(0, 6, "retention"), Hole(6, 9, "compaction"))


def test_a_log_start_that_moved_while_records_were_sent_splits_their_gaps():
    (chunk,) = decoded(batch(2, plain(2)) + batch(8, plain(1)), log_start=6)

    assert chunk.records["offset"].to_pylist() == [2, 3, 8]
    assert chunk.holes == (Hole(0, 2, "retention"), Hole(4, 6, "retention"), Hole(6, 8, "compaction"))


def test_start_and_stop_cut_batches_holes_and_markers():
    data = batch(0, plain(10)) + marker(10, 1, 1) + batch(15, plain(10))

    (inside,) = decoded(data, start=4, stop=18)
    (between,) = decoded(data, start=11, stop=13)

    assert inside.records["offset"].to_pylist() == [4, 5, 6, 7, 8, 9, 15, 16, 17]
    assert (inside.next, inside.holes) == (18, (Hole(10, 11, "control"), Hole(11, 15, "compaction")))
    assert [it.offset for it in inside.markers] == [10]
    assert (between.start, between.next, between.holes, between.markers) == (11, 13, (Hole(11, 13, "compaction"),), ())


def test_a_cut_batch_at_the_end_is_left_for_the_next_fetch():
    whole = batch(0, plain(3))

    (chunk,) = decoded(whole + batch(3, plain(3))[:-1])

    assert chunk.next == 3
    assert decoded(whole[:-1]) == []


def test_facts_of_the_batch_are_columns():
    (chunk,) = decoded(batch(0, [(50, None, b"", [])], attributes=0x18, producer=42))

    assert chunk.records.to_pylist() == [
        {
            "offset": 0, "timestamp_ms": 50, "timestamp_type": "append", "producer_timestamp_ms": 50, "key": None, "value": b"", "headers": [],
            "leader_epoch": 7, "producer_id": 42, "producer_epoch": 3, "transactional": True,
        }
    ]  # fmt: skip


def test_a_response_that_unpacks_to_much_comes_in_pieces(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(record_batches_module, "PIECE", 1000)
    data = b"".join(batch(n * 2, [(1, b"k", b"v" * 600, [])], codec=3, span=2) for n in range(6)) + marker(12, 1, 1)

    chunks = decoded(data)

    assert [(it.start, it.next, it.records.num_rows) for it in chunks] == [(0, 4, 2), (4, 8, 2), (8, 12, 2), (12, 13, 0)]
    assert sum(len(it.markers) for it in chunks) == 1


def test_a_batch_larger_than_the_scratch_is_read_whole():
    value = random.Random(1).randbytes(70_000) * 3

    for codec in range(BLOCKS + 1):
        scratch = Scratch()
        scratch.bytes = bytearray(100_000)
        (chunk,) = decode(FetchedBytes("t", 0, 0, FAR, batch(0, [(1, b"k", value, [])], codec=codec)), scratch)
        assert chunk.records["value"][0].as_py() == value, codec


@pytest.mark.parametrize("size", [1, 500, (1 << 16) - 1, 1 << 16, (1 << 16) + 1, 300_000])
def test_the_blocks_of_a_plain_lz4_frame_are_read_without_a_frame_decoder(size: int, monkeypatch: pytest.MonkeyPatch):
    chance = random.Random(size)
    raw = b"".join(b"%d, " % chance.randrange(1000) for _ in range(size))[: size - size // 3] + chance.randbytes(size // 3)
    packed = lz4_blocks(raw)
    monkeypatch.setattr(
        batch_codecs, "cramjam", SimpleNamespace(lz4=SimpleNamespace(decompress_block_into=cramjam.lz4.decompress_block_into))
    )
    scratch = Scratch()
    scratch.add(3, memoryview(lz4_blocks(b"before")))

    first, end = scratch.add(3, memoryview(packed))

    assert scratch.bytes[first:end] == raw


def test_an_lz4_frame_that_is_cut_or_longer_than_itself_is_told():
    whole = batch(0, plain(30), codec=BLOCKS)
    for data in (*(bytearray(whole[: HEAD + size]) for size in (0, 1, 7, 8, 20)), bytearray(whole[:-4]), bytearray(whole + b"more")):
        struct.pack_into(">i", data, 8, len(data) - 12)
        with pytest.raises(SourceError, match=r"t\[0\] cannot be read at offset 0: the batch does not decompress"):
            decoded(sealed(data))


def test_a_control_batch_without_a_checksum_is_the_mock_brokers():
    data = bytearray(marker(0, 1, 1))
    struct.pack_into(">I", data, 17, 0)

    (chunk,) = decoded(bytes(data))

    assert chunk.markers == (Marker(0, 1, 3, "commit"),)


def test_messages_of_before_kafka_0_11_are_refused_with_a_way_out():
    built = LegacyRecordBatchBuilder(1, 0, 1 << 20)
    built.append(0, 1, b"k", b"v")

    with pytest.raises(SourceError, match=r"before Kafka 0\.11"):
        decoded(bytes(built.build()))
