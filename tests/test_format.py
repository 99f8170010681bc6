"""A stranger reads a log with pyarrow alone: this reader was written from docs/format.md, and imports nothing of eslab."""

from __future__ import annotations

import json
import re
import urllib.parse
from collections import Counter
from pathlib import Path
from typing import Any

import crc32c
import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from logs import RULES, made, new_lab
from test_samples import everything, rows
from test_transactions import Entry, Topic

from eslab.capture import capture, plan
from eslab.events import EVENTS, LifeState, Run, Suspect, TopicCounts
from eslab.lab import Lab
from eslab.merging import merge
from eslab.model import Coordinates
from eslab.samples import SAMPLES, SampleFooter, merge_samples, write_samples
from eslab.segments import Log
from eslab.sources import table_to_records
from eslab.sources.memory import MemorySource
from eslab.transactions import TRANSACTIONS

DOC = (Path(__file__).resolve().parent.parent / "docs" / "format.md").read_text()

# --- the stranger's reader ------------------------------------------------------------------------

Row = dict[str, Any]


def footer(path: Path) -> Row:
    told: Row = json.loads(pq.read_metadata(path).metadata[b"eslab"])
    assert told["format_version"] == 1
    return told


def read_log(folder: Path) -> dict[tuple[str, int, int], list[Row]]:
    """Every record of every incarnation: sort by start, take from each only the offsets at or after the `next` reached so far."""
    found: dict[tuple[str, int, int], list[Row]] = {}
    for place in sorted(folder.glob("*/*/*")):
        topic, partition, incarnation = place.parts[-3:]
        rows = found.setdefault((urllib.parse.unquote(topic), int(partition), int(incarnation)), [])
        reached = -1
        for path in sorted(place.glob("[0-9]*.parquet")):
            told = footer(path)
            rows += [row for row in pq.ParquetFile(path).read().to_pylist() if row["offset"] >= reached]
            reached = max(reached, told["next"])
    return found


def read_gaps(folder: Path) -> dict[tuple[str, int, int], dict[int, str]]:
    """Each offset without a record, and why; a segment that covers it wins over what a later one says of what lies before it."""
    found: dict[tuple[str, int, int], dict[int, str]] = {}
    for place in sorted(folder.glob("*/*/*")):
        topic, partition, incarnation = place.parts[-3:]
        gaps = found.setdefault((urllib.parse.unquote(topic), int(partition), int(incarnation)), {})
        reached = 0
        for path in sorted(place.glob("[0-9]*.parquet")):
            told = footer(path)
            for hole in [*told["before"], *told["holes"]]:
                gaps |= dict.fromkeys(range(max(hole["start"], reached), hole["next"]), hole["cause"])
            reached = max(reached, told["next"])
    return found


def outcomes(folder: Path) -> dict[int, str | None]:
    """Of the one partition there is: what became of the transaction of each record."""
    ((_, rows),) = read_log(folder).items()
    paths = sorted(folder.glob("*/*/*/[0-9]*.parquet"))
    markers = sorted({(one["offset"], one["producer_id"], one["kind"]) for path in paths for one in footer(path)["markers"]})
    ends = {"commit": "committed", "abort": "aborted"}

    def of(row: Row) -> str | None:
        if not row["transactional"]:
            return None
        return next((ends[kind] for offset, producer, kind in markers if offset > row["offset"] and producer == row["producer_id"]), "open")

    return {row["offset"]: of(row) for row in rows}


def checksums(table: pa.Table) -> dict[str, int]:
    """CRC-32C of each column's content, as the document has it."""
    sums: dict[str, int] = {}

    def of_bytes(name: str, values: list[Any]) -> None:
        sums[f"{name}.length"] = crc32c.crc32c(
            b"".join((-1 if one is None else len(one)).to_bytes(4, "little", signed=True) for one in values)
        )
        sums[f"{name}.bytes"] = crc32c.crc32c(b"".join(one.encode() if isinstance(one, str) else one for one in values if one is not None))

    for name, kind in zip(table.column_names, table.schema.types, strict=True):
        values = table[name].to_pylist()
        if pa.types.is_list(kind):
            sums["headers.count"] = crc32c.crc32c(b"".join(len(one).to_bytes(4, "little") for one in values))
            for part in ("key", "value"):
                of_bytes(f"headers.{part}", [head[part] for one in values for head in one])
        elif pa.types.is_binary(kind) or pa.types.is_string(kind):
            of_bytes(name, values)
        else:
            width = 1 if pa.types.is_boolean(kind) else kind.bit_width // 8
            sums[f"{name}.value"] = crc32c.crc32c(b"".join(int(one or 0).to_bytes(width, "little", signed=width > 1) for one in values))
            if name not in ("offset", "timestamp_ms"):
                sums[f"{name}.valid"] = crc32c.crc32c(bytes(one is not None for one in values))
    return sums


# --- what it is held against ----------------------------------------------------------------------


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    """A log of every kind of record, captured in parts, with an earlier range filled in late."""
    lab = new_lab(tmp_path / "lab", RULES)
    source, log = MemorySource(made(200, 1).records), Log(tmp_path / "lab" / "log")
    for bounds in ({"start": 5, "stop": 9}, {"stop": 12}, {"start": 0, "stop": 7}, {}):
        list(capture(source, log, plan(source, log, None, **bounds)))
    return lab


def test_a_stranger_reads_every_record_as_it_was_sent(lab):
    source = MemorySource(made(200, 1).records)
    sent = {
        (one.topic, one.partition, 0): list(table_to_records(one.topic, one.partition, chunk.records))
        for one in source.partitions(None)
        for chunk in source.read({(one.topic, one.partition): (0, one.end)})
    }
    found = read_log(lab.path / "log")
    assert found.keys() == sent.keys()
    for life, records in sent.items():
        told = [
            (row["offset"], row["timestamp_ms"], row["timestamp_type"], row["key"], row["value"], row["producer_id"]) for row in found[life]
        ]
        assert told == [(one.offset, one.timestamp_ms, one.timestamp_type, one.key, one.value, one.producer_id) for one in records]


def test_a_stranger_finds_the_gaps_that_the_lab_tells(lab):
    log = Log(lab.path / "log")
    wanted: dict[Any, dict[int, str]] = {life: {} for life in log.lives()}
    for life, hole in log.holes():
        wanted[life] |= dict.fromkeys(range(hole.start, hole.next), hole.cause)
    held = {life: {row["offset"] for row in rows} for life, rows in read_log(lab.path / "log").items()}
    assert {
        life: {at: why for at, why in gaps.items() if at not in held[life]} for life, gaps in read_gaps(lab.path / "log").items()
    } == wanted


def test_a_stranger_checks_the_checksums(lab):
    for path in (lab.path / "log").glob("*/*/*/*.parquet"):
        told = footer(path)
        sums = checksums(pq.ParquetFile(path).read())
        assert {name: told["checksums"].get(name, 0) for name in sums} == sums
        assert told["checksums"].keys() <= sums.keys()
        raw = pq.read_metadata(path).metadata[b"eslab"]
        zeroed = raw[: raw.rindex(b":") + 1] + b"0}"
        assert crc32c.crc32c(zeroed) == told["self_checksum"]


def test_a_stranger_tells_how_transactions_ended_and_reads_merged_segments(tmp_path):
    told = [Entry(1, "data"), Entry(2, "data"), Entry(1, "abort"), Entry(2, "commit"), Entry(3, "data"), Entry(1, "plain")] * 4
    log = Log(tmp_path / "log")
    for stop in range(1, len(told) + 1):
        source = Topic(told[:stop])
        list(capture(source, log, plan(source, log, None)))
    merge(log)
    topic = Topic(told)
    assert outcomes(tmp_path / "log") == {at: topic.outcome(at) for at, one in enumerate(told) if one.kind in ("data", "plain")}


def sample_files(folder: Path) -> dict[Path, tuple[Row, list[Row]]]:
    """What each sample file says of itself, and its rows; without those that stand in another one."""
    files = {}
    for path in sorted((folder / "samples").glob("[0-9]*.parquet")):
        raw = pq.read_metadata(path).metadata[b"eslab"]
        assert crc32c.crc32c(raw[: raw.rindex(b":") + 1] + b"0}") == json.loads(raw)["self_checksum"]
        files[path] = (json.loads(raw), pq.ParquetFile(path).read())
    held = {name: checksum for told, _ in files.values() for name, checksum in told["merged"].items()}
    return {path: told for path, told in files.items() if held.get(path.name) != told[0]["self_checksum"]}


def test_a_stranger_reads_the_samples_whatever_a_killed_merge_left(tmp_path):
    copies = []
    for minute in range(9):
        path = write_samples(tmp_path, rows(minute))
        copies.append((path, path.read_bytes()))
    merge_samples(tmp_path)
    for path, content in copies[1:3]:
        path.write_bytes(content)
    found = sample_files(tmp_path)
    assert [told["level"] for told, _ in found.values()] == [1, 0]
    assert pa.concat_tables(table for _, table in found.values()).to_pylist() == everything(9).to_pylist()
    for told, table in found.values():
        times = table.set_column(6, "sampled_at", table["sampled_at"].cast(pa.int64()))
        sums = checksums(times.set_column(7, "committed_at", times["committed_at"].cast(pa.int64())))
        assert told["rows"] == table.num_rows
        assert {name: told["checksums"].get(name, 0) for name in sums} == sums


def test_a_stranger_reads_the_events_and_a_bookmark(lab):
    cut = lab.bookmark("here", at=lab.cut("2026-01-01T00:02:00Z"))
    manifest = json.loads(max((lab.path / "events").glob("manifest-*.json")).read_bytes())
    tables = [pq.ParquetFile(lab.path / "events" / name).read() for run in manifest["runs"] for name in run["files"]]
    typed = [run["typed"] for run in manifest["runs"] for _ in run["files"]]
    assert [table.column_names[len(EVENTS) :] for table in tables] == [[f"typed_{at}" for at in range(len(one))] for one in typed]
    events = [row for table in tables for row in table.to_pylist() if row["first"]]
    held = {(*life, row["offset"]): row for life, rows in read_log(lab.path / "log").items() for row in rows}
    assert {(row["topic"], row["partition_id"], row["incarnation"], row["record_offset"]) for row in events} == held.keys()
    counted = {topic: counts["events"] for topic, counts in manifest["topics"].items()}
    assert counted == Counter(row["topic"] for row in events if row["kind"] == "event")
    gaps = pq.read_table(lab.path / "events" / manifest["gaps"]).to_pylist()
    assert [(row["topic"], row["start_offset"], row["cause"]) for row in gaps] == [
        (life[0], hole.start, hole.cause) for life, hole in Log(lab.path / "log").holes()
    ]

    kept = json.loads((lab.path / "bookmarks.json").read_text())["bookmarks"]["here"]
    before = {(one["topic"], one["partition"], one["incarnation"]): one["next"] for one in kept["offsets"]}
    inside = [life for life in held if life[3] < before.get(life[:3], 0)]
    assert 0 < len(inside) < len(held)
    assert len(inside) == sum(cut.holds(Coordinates(*life)) for life in held)


def fields(kind: type[msgspec.Struct]) -> list[str]:
    return [field.encode_name for field in msgspec.structs.fields(kind)]


def test_the_document_names_every_column_and_every_field_of_all_that_is_written(lab):
    path = next((lab.path / "log").glob("*/*/*/*.parquet"))
    assert lab.cut().offsets, "the events are built"
    manifest = json.loads(max((lab.path / "events").glob("manifest-*.json")).read_bytes())
    written = [
        *pq.read_schema(path).names, *footer(path), *manifest, *pq.read_schema(lab.path / "events" / manifest["gaps"]).names, *EVENTS.names,
        *SAMPLES.names, *TRANSACTIONS.names, *fields(SampleFooter), *fields(Run), *fields(LifeState), *fields(TopicCounts), *fields(Suspect),
    ]  # fmt: skip
    assert [name for name in written if not re.search(rf"\b{re.escape(name)}\b", DOC)] == []


def test_the_document_names_every_file_of_a_lab(lab):
    lab.bookmark("here")
    write_samples(lab.path, rows(0))
    top = {path.relative_to(lab.path).parts[0] for path in lab.path.rglob("*")}
    assert {name for name in top if f"  {name}" not in DOC.split("```")[1]} == set()
    hidden = {path.relative_to(lab.path).as_posix() for path in (lab.path / "log").iterdir() if path.name.startswith(".")}
    assert {name for name in hidden if name not in DOC} == set()
