"""Logs of every kind: each answer of a lab is the oracle's, however the log was captured, and whatever derived was lost."""

from __future__ import annotations

import random
import shutil
import tempfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from logs import TORTURE, Log, all_differences, captured, few, logs, made, new_lab, snapshot
from oracle import Oracle

from eslab.events import EVENTS, Events, newest_manifest
from eslab.lab import Lab
from eslab.model import Coordinates, Cut
from eslab.runs import KEY
from eslab.sources.memory import MemorySource

SEEDS = st.integers(0, 2**32)


def check_every_answer(log: Log, seed: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        lab = captured(Path(folder) / "lab", log)
        assert list(all_differences(lab, Oracle(lab.path), random.Random(seed).choice)) == []


@few(10)
@given(logs(), SEEDS)
def test_every_history_state_world_and_count_of_a_made_log_is_the_oracles(log, seed):
    check_every_answer(log, seed)


@pytest.mark.torture
@pytest.mark.timeout(0)
@TORTURE
@given(logs(60), SEEDS)
def test_every_history_state_world_and_count_of_very_many_made_logs_is_the_oracles(log, seed):
    check_every_answer(log, seed)


# --- however it was captured ----------------------------------------------------------------------


def captured_in_parts(folder: Path, log: Log, parts: int, chance: random.Random) -> Lab:
    """The same lab in so many snapshots: each takes a range of each partition wherever, the last one all that is missing."""
    lab = new_lab(folder, log.rules)
    source = MemorySource(log.records)
    ends = {(one.topic, one.partition): one.end for one in source.partitions(None)}
    for part in range(1, parts):
        stop = {place: min(end, end * part // parts + chance.randint(0, 2)) for place, end in ends.items()}
        start = {place: chance.randint(0, next_) for place, next_ in stop.items()} if chance.random() < 0.3 else None
        snapshot(lab, source, start=start, stop=stop)
    snapshot(lab, source, start=0)
    return lab


def event_rows(lab: Lab) -> pa.Table:
    """Every row of the sorted events, read without eslab's own merge."""
    manifest = newest_manifest(lab.path)
    assert manifest is not None
    rows = pa.concat_tables([pq.read_table(path, columns=EVENTS.names) for path in Events(lab.path, manifest).paths])
    return rows.sort_by([(name, "ascending") for name in KEY]).combine_chunks()


def what_the_manifest_says(lab: Lab) -> dict[str, Any]:
    manifest = newest_manifest(lab.path)
    assert manifest is not None
    for counts in manifest.topics.values():
        counts.bytes = 0  # what the values took in memory: a bit or two more where they came in more parts
    for state in manifest.lives:
        state.segments, state.origin = {}, ""  # the parts themselves; each source in memory is another
    told = {name: getattr(manifest, name) for name in ("lives", "topics", "aggregates", "types")}
    return told | {"fingerprints": manifest.fingerprints({state.life: state.next for state in manifest.lives})}


def check_parts(log: Log, parts: int, seed: int) -> None:
    chance = random.Random(seed)
    with tempfile.TemporaryDirectory() as folder:
        whole = captured(Path(folder) / "whole", log)
        split = captured_in_parts(Path(folder) / "split", log, parts, chance)
        assert event_rows(split).equals(event_rows(whole))
        assert what_the_manifest_says(split) == what_the_manifest_says(whole)
        assert list(all_differences(split, Oracle(split.path), chance.choice)) == []


@few(5)
@given(logs(), st.integers(2, 6), SEEDS)
def test_a_log_captured_in_any_parts_gives_the_same_events_and_answers(log, parts, seed):
    check_parts(log, parts, seed)


def test_a_log_captured_in_fifty_snapshots_gives_the_same_events_and_answers():
    check_parts(made(100, seed=5), 50, seed=5)


@pytest.mark.torture
@pytest.mark.timeout(0)
@TORTURE
@given(logs(60), st.integers(2, 50), SEEDS)
def test_very_many_logs_captured_in_any_parts_give_the_same_events_and_answers(log, parts, seed):
    check_parts(log, parts, seed)


@few(3)
@given(logs(), st.integers(1, 3), SEEDS)
def test_without_events_and_lab_duckdb_a_reopened_lab_gives_the_same_answers(log, parts, seed):
    chance = random.Random(seed)
    with tempfile.TemporaryDirectory() as folder:
        lab = captured_in_parts(Path(folder) / "lab", log, parts, chance)
        before = event_rows(lab)
        shutil.rmtree(lab.path / "events")
        (lab.path / "lab.duckdb").unlink()
        again = Lab(lab.path, tz="UTC", say=lambda notice: None)
        assert list(all_differences(again, Oracle(lab.path), chance.choice)) == []
        assert event_rows(again).equals(before)
        assert (lab.path / "lab.duckdb").exists()


@few(4)
@given(logs(15), logs(15), SEEDS)
def test_a_partition_made_anew_is_another_incarnation_and_the_newest_is_what_answers(first, second, seed):
    with tempfile.TemporaryDirectory() as folder:
        lab = new_lab(Path(folder) / "lab", first.rules)
        for log in (first, second):
            snapshot(lab, MemorySource(log.records), topics=None)
        oracle = Oracle(lab.path)
        assert {life[2] for life in oracle.newest} == {0, 1} or all(life[2] == 1 for life in oracle.newest)
        assert list(all_differences(lab, oracle, random.Random(seed).choice)) == []


# --- cuts -------------------------------------------------------------------------------------------


@few(6)
@given(logs(), SEEDS)
def test_cuts_are_prefixes_of_the_order_that_unite_intersect_and_survive_json(log, seed):
    chance = random.Random(seed)
    with tempfile.TemporaryDirectory() as folder:
        lab = captured(Path(folder) / "lab", log)
        oracle = Oracle(lab.path)
        one, other = chance.choice(oracle.log), chance.choice(oracle.log)
        by_time, by_event = lab.cut(one.order_at), lab.cut(event_id=Coordinates(*other.life, other.offset))
        assert held(by_time, oracle) == {event.order for event in oracle.log if event.order_ms <= one.order_ms}
        assert held(by_event, oracle) == {event.order for event in oracle.log[: oracle.log.index(other) + 1]}
        assert held(by_time | by_event, oracle) == held(by_time, oracle) | held(by_event, oracle)
        assert held(by_time & by_event, oracle) == held(by_time, oracle) & held(by_event, oracle)
        assert by_time & by_event <= by_time <= by_time | by_event <= lab.cut()
        for cut in (by_time, by_event, by_time | by_event, by_time & by_event, lab.cut()):
            read = Cut.from_json(cut.to_json())
            assert (read, read.label, read.store, read.excluded) == (cut, cut.label, cut.store, cut.excluded)


def held(cut: Cut, oracle: Oracle) -> set[Any]:
    return {event.order for event in oracle.log if cut.holds(Coordinates(*event.life, event.offset))}
