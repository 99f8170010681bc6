"""Where groups stood, told by a captured `__consumer_offsets`: Kafka's bytes in, samples out."""

from __future__ import annotations

import datetime as dt
import random
import struct
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from aiokafka.protocol.types import CompactString, Int16, Int32, Int64, String, UnsignedVarInt32
from hypothesis import given, settings
from hypothesis import strategies as st

from eslab.decode.consumer_offsets import CommitReader, Malformed, read_key, read_value
from eslab.lab import Lab
from eslab.model import Record
from eslab.positions import read_commits, read_samples
from eslab.samples import SAMPLES, write_samples
from eslab.segments import Log
from eslab.sources import CONSUMER_OFFSETS
from eslab.sources.memory import MemorySource

NOON = dt.datetime(2026, 3, 12, 12, tzinfo=dt.UTC)
NOON_MS = int(NOON.timestamp() * 1000)
GOLDEN_KEY = bytes.fromhex("0001000c6772702d636f6e73756d65720002673900000000")
GOLDEN_VALUE = bytes.fromhex("00040000000000000007ffffffff096d6574612dc3bc00000001a207a48bd2010010c32b33ac7f52422e8465e734e66e941d")

# --- Kafka's own way to write them, from OffsetCommitKey.json and OffsetCommitValue.json by aiokafka's types -------------


def key_bytes(group: str, topic: str, partition: int, *, kind: int = 1) -> bytes:
    text = String("utf-8")
    return Int16.encode(kind) + text.encode(group) + text.encode(topic) + Int32.encode(partition)


def value_bytes(
    offset: int,
    time_ms: int,
    *,
    version: int = 4,
    epoch: int = -1,
    metadata: str = "",
    expire_ms: int = -1,
    tags: dict[int, bytes] | None = None,
) -> bytes:
    out = [Int16.encode(version), Int64.encode(offset)]
    out += [Int32.encode(epoch)] if version >= 3 else []
    out += [CompactString("utf-8").encode(metadata) if version >= 4 else String("utf-8").encode(metadata), Int64.encode(time_ms)]
    out += [Int64.encode(expire_ms)] if version == 1 else []
    if version >= 4:
        out.append(UnsignedVarInt32.encode(len(tags or {})))
        for tag, content in sorted((tags or {}).items()):
            out += [UnsignedVarInt32.encode(tag), UnsignedVarInt32.encode(len(content)), content]
    return b"".join(out)


@dataclass(frozen=True)
class Told:
    """One record, and what stands in it."""

    key: bytes
    value: bytes | None
    place: tuple[str, str, int]
    offset: int | None
    time_ms: int | None
    topic_id: bytes | None


NAMES = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
LONGS = st.integers(0, 2**63 - 1)


@st.composite
def told(draw: st.DrawFn) -> Told:
    place = (draw(NAMES), draw(NAMES), draw(st.integers(0, 2**31 - 1)))
    key = key_bytes(*place, kind=draw(st.sampled_from([0, 1])))
    if draw(st.integers(0, 9)) == 0:
        return Told(key, None, place, None, None, None)
    version, offset, time_ms = draw(st.integers(0, 4)), draw(LONGS), draw(LONGS)
    tags = (
        {tag: draw(st.binary(max_size=200)) for tag in draw(st.sets(st.integers(1, 300), max_size=2))}
        if version == 4 and draw(st.booleans())
        else {}
    )
    topic_id = draw(st.binary(min_size=16, max_size=16)) if version == 4 and draw(st.booleans()) else None
    tags |= {} if topic_id is None else {0: topic_id}
    metadata = draw(st.one_of(st.just(""), NAMES, st.text("m", min_size=120, max_size=300)))
    value = value_bytes(
        offset, time_ms, version=version, epoch=draw(st.integers(-1, 99)), metadata=metadata, expire_ms=draw(LONGS), tags=tags
    )
    return Told(key, value, place, offset, time_ms, None if topic_id == bytes(16) else topic_id)


def table(pairs: list[tuple[bytes | None, bytes | None]]) -> pa.Table:
    keys, values = zip(*pairs, strict=True) if pairs else ((), ())
    columns = [pa.array([NOON_MS] * len(pairs), pa.int64()), pa.array(keys, pa.binary()), pa.array(values, pa.binary())]
    return pa.table(columns, names=["timestamp_ms", "key", "value"])


def read(*tables: pa.Table) -> tuple[list[tuple[Any, ...]], int, int]:
    """What the fast way reads: (place, offset, time, topic's id) of each commit, and the two counts."""
    reader = CommitReader()
    for one in tables:
        reader.add(one)
    got = reader.result()
    ids = [*got.topic_ids, None]
    columns = zip(got.place.tolist(), got.offset.tolist(), got.commit_ms.tolist(), got.topic_id.tolist(), strict=True)
    none = {-1: None}
    return [(got.places[p], none.get(o, o), none.get(t, t), ids[i]) for p, o, t, i in columns], got.others, got.malformed


def slowly(pairs: list[tuple[bytes | None, bytes | None]]) -> tuple[list[tuple[Any, ...]], int, int]:
    """The same, record by record."""
    rows, others, malformed = [], 0, 0
    for key, value in pairs:
        try:
            place = read_key(key or b"")
            found = (-1, -1, None) if value is None or place is None else read_value(value)
        except Malformed:
            malformed += 1
            continue
        if place is None or found is None:
            others += 1
        else:
            offset, time_ms, topic_id = found
            rows.append((place, *(None if number < 0 else number for number in (offset, time_ms)), topic_id))
    return rows, others, malformed


# --- one record ---------------------------------------------------------------------------------


def test_a_record_that_kafka_4_wrote_is_read():
    assert read_key(GOLDEN_KEY) == ("grp-consumer", "g9", 0)
    assert read_value(GOLDEN_VALUE) == (7, 1795424553938, uuid.UUID("c32b33ac-7f52-422e-8465-e734e66e941d").bytes)
    assert key_bytes("grp-consumer", "g9", 0) == GOLDEN_KEY
    assert value_bytes(7, 1795424553938, metadata="meta-ü\0", tags={0: GOLDEN_VALUE[-16:]}) == GOLDEN_VALUE


@settings(max_examples=100, deadline=None, database=None, derandomize=True)
@given(st.lists(told(), max_size=20), st.integers(1, 20))
def test_what_was_written_is_read_however_the_records_are_cut_into_tables(records: list[Told], size: int):
    pairs = [(one.key, one.value) for one in records]
    rows, others, malformed = read(*(table(pairs[at : at + size]) for at in range(0, len(pairs), size)))
    assert rows == [(one.place, one.offset, one.time_ms, one.topic_id) for one in records]
    assert (others, malformed) == (0, 0)


@settings(max_examples=100, deadline=None, database=None, derandomize=True)
@given(st.lists(told(), min_size=1, max_size=10), st.randoms(use_true_random=False))
def test_bytes_that_were_bent_are_counted_and_never_raise(records: list[Told], chance: random.Random):
    pairs = [(bent(one.key, chance), one.value and bent(one.value, chance)) for one in records]
    assert read(table(pairs)) == slowly(pairs)


def bent(data: bytes, chance: random.Random) -> bytes:
    """Sometimes as it is, else cut, lengthened, or with a byte changed."""
    how = chance.randrange(5)
    at = chance.randrange(len(data) + 1)
    if how == 0:
        return data[:at]
    if how == 1:
        return data + chance.randbytes(chance.randrange(1, 20))
    if how == 2 and at < len(data):
        return data[:at] + chance.randbytes(1) + data[at + 1 :]
    return data


@pytest.mark.parametrize(
    ("key", "value"),
    [
        (key_bytes("g", "t", 0, kind=2), value_bytes(1, NOON_MS)),
        (struct.pack(">hh", 3, 1) + b"g", b"\0\0\0\0\0\1"),
        (struct.pack(">hh", 2, 1) + b"g", None),
        (key_bytes("g", "t", 0, kind=-1), b""),
        (key_bytes("g", "t", 0), value_bytes(1, NOON_MS, version=5)),
        (key_bytes("g", "t", 0), value_bytes(1, NOON_MS, version=-1)),
    ],
)
def test_other_keys_and_unknown_versions_are_counted_apart_from_what_is_malformed(key: bytes, value: bytes | None):
    assert read(table([(key, value)])) == ([], 1, 0)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        (None, value_bytes(1, NOON_MS)),
        (b"", value_bytes(1, NOON_MS)),
        (b"\0", None),
        (key_bytes("g", "t", 0)[:-1], None),
        (key_bytes("g", "t", 0) + b"x", None),
        (key_bytes("g", "t", -1), None),
        (struct.pack(">hh", 1, -1) + b"g" * 20, None),
        (struct.pack(">hh", 1, 2) + b"\xff\xfe" + key_bytes("", "t", 0)[4:], None),
        (key_bytes("g", "t", 0), b""),
        (key_bytes("g", "t", 0), value_bytes(1, NOON_MS)[:-1]),
        (key_bytes("g", "t", 0), value_bytes(1, NOON_MS) + b"x"),
        (key_bytes("g", "t", 0), value_bytes(1, NOON_MS, version=1)[:-8]),
        (key_bytes("g", "t", 0), value_bytes(1, NOON_MS, tags={0: b"short"})),
        (key_bytes("g", "t", 0), struct.pack(">hqh", 0, 1, -1) + bytes(8)),
        (key_bytes("g", "t", 0), struct.pack(">hqi", 4, 1, -1) + b"\0" + bytes(8) + b"\0"),
        (key_bytes("g", "t", 0), struct.pack(">hqi", 4, 1, -1) + b"\xff" * 9),
    ],
)
def test_what_is_not_what_it_says_is_counted(key: bytes | None, value: bytes | None):
    assert read(table([(key, value)])) == ([], 0, 1)


# --- in a lab -----------------------------------------------------------------------------------

ORDERS = [b'{"eventType": "OrderCreated", "data": {"orderId": "o-1"}}', b'{"eventType": "OrderPaid", "data": {"orderId": "o-1"}}']


def record(topic: str, key: bytes | None, value: bytes | None, *, partition: int = 0, time_ms: int = NOON_MS) -> Record:
    return Record(topic=topic, partition=partition, offset=0, timestamp_ms=time_ms, key=key, value=value)


def commit(
    offset: int | None,
    after_s: float,
    *,
    group: str = "billing",
    topic: str = "orders",
    partition: int = 0,
    stands_in: int = 0,
    **options: Any,
) -> Record:
    time_ms = NOON_MS + int(after_s * 1000)
    value = None if offset is None else value_bytes(offset, time_ms, **options)
    return record(CONSUMER_OFFSETS, key_bytes(group, topic, partition), value, partition=stands_in, time_ms=time_ms)


def after(seconds: float) -> dt.datetime:
    return NOON + dt.timedelta(seconds=seconds)


def lab_of(folder: Path, records: list[Record], *, say: Any = lambda _: None) -> tuple[Lab, MemorySource]:
    lab, source = Lab(folder, tz="UTC", say=say), MemorySource(records)
    lab.snapshot(source, progress=False)
    return lab, source


def positions(folder: Path) -> list[tuple[Any, ...]]:
    names = ("sampled_at", "group", "topic", "partition", "committed")
    return [tuple(row[name] for name in names) for row in read_samples(folder).to_pylist()]


def test_commits_are_samples_by_time_and_a_commit_taken_back_has_no_offset(tmp_path: Path):
    lab_of(
        tmp_path,
        [
            commit(5, 1),
            commit(7, 3),
            commit(3, 2, partition=1, stands_in=1, version=1),
            commit(None, 9),
            commit(2, 2, group="audit", version=0),
        ],
    )
    assert positions(tmp_path) == [
        (after(1), "billing", "orders", 0, 5),
        (after(2), "audit", "orders", 0, 2),
        (after(2), "billing", "orders", 1, 3),
        (after(3), "billing", "orders", 0, 7),
        (after(9), "billing", "orders", 0, None),
    ]
    samples = read_samples(tmp_path)
    assert samples.schema.equals(SAMPLES)
    assert samples["committed_at"].to_pylist() == [after(1), after(2), after(2), after(3), None]
    assert set(samples["origin"].to_pylist()) == {"commits"}
    assert set(samples["log_start"].to_pylist() + samples["log_end"].to_pylist()) == {None}


def test_of_commits_in_one_millisecond_the_last_in_the_log_stands(tmp_path: Path):
    lab_of(tmp_path, [commit(5, 1), commit(9, 1), commit(4, 1, group="audit"), commit(7, 1)])
    assert positions(tmp_path) == [(after(1), "audit", "orders", 0, 4), (after(1), "billing", "orders", 0, 7)]


def test_decoded_commits_and_written_samples_stand_together(tmp_path: Path):
    lab, _ = lab_of(tmp_path, [commit(5, 1), commit(9, 3)])
    row = {"group": "billing", "topic": "orders", "partition": 0, "committed": 6, "log_start": 0, "log_end": 9, "sampled_at": after(2), "committed_at": None, "origin": "watch"}  # fmt: skip
    write_samples(tmp_path, pa.Table.from_pylist([row], schema=SAMPLES))
    assert [one[-1] for one in positions(tmp_path)] == [5, 6, 9]
    assert read_samples(tmp_path, Log(lab.path / "log")).equals(read_samples(tmp_path))


def test_commits_on_a_topic_that_was_made_anew_since_are_left_out_and_counted(tmp_path: Path):
    source = MemorySource([record("orders", b"o-1", ORDERS[0])])
    (now,) = source.partitions(["orders"])
    assert now.topic_id
    mine, other = bytes.fromhex(now.topic_id), uuid.uuid4().bytes
    for one in [
        commit(90, 1, tags={0: other}),
        commit(None, 2),
        commit(1, 3, tags={0: mine}),
        commit(2, 4),  # transactional: it does not say
        commit(3, 5, topic="never captured", tags={0: other}),
    ]:
        source.append(one)
    Lab(tmp_path, say=lambda _: None).snapshot(source, progress=False)
    assert [(one[2], one[-1]) for one in positions(tmp_path)] == [("orders", None), ("orders", 1), ("orders", 2), ("never captured", 3)]
    assert read_commits(Log(tmp_path / "log")).of_former_lives == 1


def test_a_time_that_nothing_can_show_is_the_records_own(tmp_path: Path):
    ever = record(CONSUMER_OFFSETS, key_bytes("billing", "orders", 0), value_bytes(5, 2**62))
    never = record(CONSUMER_OFFSETS, key_bytes("billing", "orders", 1), value_bytes(6, -1))
    lab_of(tmp_path, [ever, never])
    assert positions(tmp_path) == [(NOON, "billing", "orders", 0, 5), (NOON, "billing", "orders", 1, 6)]
    assert read_samples(tmp_path)["committed_at"].to_pylist() == [None, None]


def test_the_topic_of_commits_is_captured_and_makes_no_events(tmp_path: Path):
    said: list[str] = []
    odd = [record(CONSUMER_OFFSETS, b"\0\2\0\1g", b"\0\3"), record(CONSUMER_OFFSETS, b"x", b"y")]
    lab, source = lab_of(tmp_path, [record("orders", b"o-1", ORDERS[0]), commit(1, 0), *odd], say=said.append)
    assert [line for line in said if CONSUMER_OFFSETS in line] == []
    assert CONSUMER_OFFSETS not in (tmp_path / "lab.toml").read_text()
    assert lab.sql("select topic, count(*) from events group by all").fetchall() == [("orders", 1)]
    assert lab.sql("select count(*) from problems").fetchall() == [(0,)]
    assert lab.sql("select topic, count(*) from records group by all order by all").fetchall() == [(CONSUMER_OFFSETS, 3), ("orders", 1)]
    shown = lab.info().df().set_index("topic").loc[CONSUMER_OFFSETS]
    assert (shown["records"], shown["events"], shown["tombstones"], shown["undecodable"], shown["unassigned"]) == (3, 0, 0, 0, 0)
    assert f"{CONSUMER_OFFSETS}: 3 records, 1 commit of consumer groups, 1 malformed" in repr(lab)
    assert {life[0] for life in lab.cut().offsets} == {"orders"}
    assert lab.verify(progress=False).ok
    found = read_commits(Log(tmp_path / "log"))
    assert (found.others, found.malformed) == (1, 1)

    number = lab.info().manifest.number
    assert Lab(tmp_path).info().manifest.number == number, "nothing new: nothing is built"
    runs = lab.info().manifest.runs
    source.append(commit(2, 60))
    lab.snapshot(source, progress=False)
    assert lab.info().manifest.number == number + 1
    assert lab.info().manifest.runs == runs, "the events are left as they are"
    assert lab.sql("select count(*) from records where topic = '__consumer_offsets'").fetchall() == [(4,)]
    assert [one[-1] for one in positions(tmp_path)] == [1, 2]


def test_a_lab_of_commits_alone_answers(tmp_path: Path):
    lab, _ = lab_of(tmp_path, [commit(1, 0), commit(None, 5)])
    assert lab.sql("select count(*) from events").fetchall() == [(0,)]
    assert lab.info().df()["records"].tolist() == [2]
    assert lab.cut().offsets == {}
    assert len(positions(tmp_path)) == 2


def test_a_lab_without_commits_has_no_samples(tmp_path: Path):
    lab_of(tmp_path, [record("orders", b"o-1", ORDERS[0])])
    assert read_samples(tmp_path).equals(SAMPLES.empty_table())
    assert read_samples(tmp_path / "nowhere").equals(SAMPLES.empty_table())


def test_what_compaction_took_shows_in_gaps_and_makes_no_history_partial(tmp_path: Path):
    source = MemorySource([record("orders", b"o-1", ORDERS[0]), commit(1, 0), commit(2, 1), commit(3, 2)])
    del source._logs[CONSUMER_OFFSETS, 0][1]
    lab = Lab(tmp_path, say=lambda _: None)
    lab.snapshot(source, progress=False)
    assert lab.gaps().df()[["topic", "start", "next"]].values.tolist() == [[CONSUMER_OFFSETS, 1, 2]]
    assert lab.sql("select topic, start_offset from gaps").fetchall() == [(CONSUMER_OFFSETS, 1)]
    assert lab.history("order", "o-1")[-1].after["orderId"] == "o-1"
    assert not lab.history("order", "o-1").partial
    assert [one[-1] for one in positions(tmp_path)] == [1, 3]
