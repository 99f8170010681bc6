"""The fold: what it reads, what it skips, and what a key that fails leaves to the next one."""

from __future__ import annotations

import contextlib
import datetime as dt
import math
import secrets
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eslab import events, keyed, play, runs, sql, world
from eslab.errors import ProjectionError
from eslab.model import TOMBSTONE, Record, pack_state, pack_states, unpack_state
from eslab.projection import Projection

PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(st.characters(codec="utf-8")),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(st.characters(codec="utf-8"), max_size=3) | st.just("$time"), inner, max_size=3)
    ),
    max_leaves=8,
)
STATES = st.lists(PLAIN | st.decimals(allow_nan=False, allow_infinity=False) | st.dictionaries(st.just("at"), st.datetimes()), max_size=6)


@given(STATES)
@settings(max_examples=60, deadline=None)
def test_states_packed_together_are_what_each_is_packed_alone(states):
    assert pack_states(states) == [pack_state(state) for state in states]
    assert [unpack_state(text) for text in pack_states(states)] == states


@pytest.mark.parametrize(
    "odd",
    [math.nan, {"a": [{"b": math.inf}]}, {1: 2}, {"a": {(1, 2): 3}}, {"a": {1, 2}}, b"bytes", {"a": "\ud800"}, {"a": object()}],
)
def test_what_no_state_may_hold_is_refused_among_others_too(odd):
    with pytest.raises(ProjectionError):
        pack_states([{"fine": 1}, odd])


def test_a_state_that_holds_itself_is_refused_in_one_sentence():
    state = {}
    state["self"] = [state]
    with pytest.raises(ProjectionError, match="holds itself"):
        pack_states([state])


def test_texts_with_line_breaks_do_not_part_a_state():
    states = [{"a": "one\ntwo\r\u2028"}, {"\n": 1}, {"a": {"$decimal": "no decimal", "b": 1}}, {"a": {"$decimal": Decimal("1.10")}}]
    assert [unpack_state(text) for text in pack_states(states)] == states
    assert unpack_state(pack_states([{"at": dt.datetime(2026, 3, 12, tzinfo=dt.UTC)}])[0])["at"].year == 2026


# --- one key after another ------------------------------------------------------------------------


def record(key: str, value: bytes | None, at: int) -> Record:
    return Record(topic="events", key=key.encode(), value=value, timestamp_ms=1_773_270_000_000 + at)


def added(key: str, n: object, at: int) -> Record:
    return record(key, f'{{"eventType":"Added","eventId":"{key}-{at}","data":{{"cartId":"{key}","n":{n}}}}}'.encode(), at)


@pytest.fixture
def sums():
    sums = Projection("sums", aggregate="cart", initial={"sum": 0})

    @sums.on("Added")
    def add(state, event):
        if event.data["n"] == 13:
            raise ValueError("thirteen")
        return {"sum": state["sum"] + event.data["n"]}

    return sums


def test_a_key_that_fails_leaves_every_other_with_its_own_events(sums):
    told = {f"c{number:03d}": [number + step if number % 7 else 13 for step in range(5)] for number in range(100, 300)}
    lab = play([added(key, n, at * 1000 + step) for at, (key, values) in enumerate(told.items()) for step, n in enumerate(values)])
    world = lab.replay(sums, progress=False)
    failing = {key for key, values in told.items() if 13 in values}
    assert {failure.key for failure in world.failed} == failing
    assert {failure.event_id for failure in world.failed if told[failure.key][0] == 13} == {
        f"{key}-{(int(key[1:]) - 100) * 1000}" for key in failing
    }
    assert dict(world) == {key: {"sum": sum(values)} for key, values in told.items() if key not in failing}


def test_a_number_that_no_float_holds_leaves_the_state_and_the_events_beside_it(sums):
    values = [1, 2, "1e999", 4, *range(5, 100), "-1e999", 7]
    lab = play([added("c1", n, at) for at, n in enumerate(values)])
    world = lab.replay(sums, progress=False)
    assert [failure.event_id for failure in world.failed] == [f"c1-{values.index(13)}"]
    sums.on("Added")(lambda state, event: {"sum": state["sum"] + event.data["n"]})
    assert lab.replay(sums, progress=False)["c1"] == {"sum": sum(n for n in values if not isinstance(n, str))}


def test_a_tombstone_ends_a_key_until_something_folds_again(sums, monkeypatch):
    monkeypatch.setattr(events, "SCAN_ROWS", 1)
    monkeypatch.setattr(runs, "ROW_GROUP", 2)  # keys that go on in the next slice
    records = [added("c1", 1, 0), record("c1", None, 1), record("c1", b"{", 2), added("c2", 1, 3), record("c2", None, 4), added("c2", 5, 5)]
    lab = play([*records, record("c3", None, 6), added("c4", 2, 7)])
    world = lab.replay(sums, progress=False)
    assert dict(world) == {"c2": {"sum": 5}, "c4": {"sum": 2}}
    assert world.ended == 2
    assert dict(lab.replay(sums, progress=False, ended=True)) == {"c1": {"sum": 0}, "c2": {"sum": 5}, "c3": {"sum": 0}, "c4": {"sum": 2}}
    sums.on(TOMBSTONE)(lambda state, event: {"sum": -1})
    assert dict(lab.replay(sums, progress=False)) == {"c1": {"sum": -1}, "c2": {"sum": 4}, "c3": {"sum": -1}, "c4": {"sum": 2}}


def test_a_state_that_cannot_be_kept_fails_its_key_alone(sums):
    lab = play([added(f"c{number}", number, number) for number in range(400)])
    sums.on("Added")(lambda state, event: {"sum": {1} if event.data["n"] == 333 else 0})
    world = lab.replay(sums, progress=False)
    assert len(world) == 399
    assert "c333" not in world
    assert [(failure.key, failure.event_id) for failure in world.failed] == [("c333", "c333-333")]
    assert "a state holds JSON values" in world.failed[0].error


def test_ctrl_c_in_a_handler_says_which_key_and_event_it_was_at(sums):
    lab = play([added(f"c{number}", number, number) for number in range(10)])

    def forever(state, event):
        if event.data["n"] == 7:
            raise KeyboardInterrupt
        return state

    sums.on("Added")(forever)
    with pytest.raises(KeyboardInterrupt, match=r"sums was at cart c7, event c7-7 \(events/0/7, Added\)"):
        lab.replay(sums, progress=False)
    for ask in (lambda: lab.history("cart", "c7", projection=sums).at(), lambda: lab.compare(sums, "cart", progress=False)):
        with pytest.raises(KeyboardInterrupt, match=r"sums was at cart c7, event c7-7"):
            ask()


@pytest.mark.parametrize("pool", [None, ThreadPoolExecutor])
def test_a_replay_that_is_cancelled_leaves_nothing_behind(sums, tmp_path, monkeypatch, pool):
    lab = play([added(f"c{number:02d}", number, number) for number in range(60)])
    monkeypatch.setattr(keyed, "IN_MEMORY", 10)
    monkeypatch.setattr(world, "TOGETHER", 2)
    monkeypatch.setattr(keyed, "BATCH", 2)
    monkeypatch.setattr(keyed.tempfile, "tempdir", str(tmp_path))
    seen = []

    def pressed(state, event):
        seen.extend(tmp_path.glob("eslab-*/rows.arrow"))
        if event.data["n"] == 50:
            raise KeyboardInterrupt
        return state

    sums.on("Added")(pressed)
    with contextlib.ExitStack() as stack:
        executor = None if pool is None else stack.enter_context(pool(1))
        with pytest.raises(KeyboardInterrupt, match="sums was at cart c50"):
            lab.replay(sums, executor=executor, progress=False)
    assert seen, "there was something to leave behind"
    assert list(tmp_path.iterdir()) == []


# --- how much is read -----------------------------------------------------------------------------


def columns_read(monkeypatch) -> list[str]:
    seen: list[str] = []
    intact = runs.RunFile.read
    monkeypatch.setattr(runs.RunFile, "read", lambda self, begin, end, columns: seen.extend(columns) or intact(self, begin, end, columns))
    return seen


def test_a_replay_of_all_reads_three_columns_and_one_until_a_moment_those_that_tell_it(sums, monkeypatch):
    lab = play([added(f"c{number}", 1, number) for number in range(10)])
    cut = lab.cut(offsets={"events": {0: 5}})
    seen = columns_read(monkeypatch)
    assert len(lab.replay(sums, progress=False)) == 10
    assert set(seen) == {"aggregate_id", "event_type", "data"}
    seen.clear()
    assert len(lab.replay(sums, at=cut, progress=False)) == 5
    assert set(seen) == {"aggregate_id", "event_type", "data", "topic", "partition_id", "incarnation", "record_offset"}


def test_counting_the_undecodable_records_of_all_that_is_captured_reads_nothing(sums, monkeypatch):
    lab = play([added("c1", 1, 0), record("c1", b"{", 1), record("c1", b"}", 2)])
    cut = lab.cut(offsets={"events": {0: 2}})
    assert lab.replay(sums, at=cut, progress=False).undecodable == 1
    monkeypatch.setattr(sql, "session", None)
    assert lab.replay(sums, progress=False).undecodable == 2


@given(
    st.sets(st.tuples(st.sampled_from("ab"), st.integers(0, 9), st.integers(0, 3)), min_size=1, max_size=30), st.integers(1, 5), st.data()
)
@settings(max_examples=100, deadline=None)
def test_a_range_of_keys_is_the_rows_between_however_it_lies_to_the_batches(places, size, data):
    rows = [(aggregate, f"{number:02d}", at, "t", 0, 0, at) for aggregate, number, at in sorted(places)]
    columns = dict(zip(runs.KEY, map(list, zip(*rows, strict=True)), strict=True))
    table = pa.table(columns | {"order_at": pa.array(columns["order_at"], pa.timestamp("us", tz="UTC"))})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runs, "SPILL_ROWS", size)
        source = runs.InMemory(table)
        whole = [runs.key_at(table, at) for at in range(table.num_rows)]
        assert whole == rows
        bounds = st.sampled_from([*whole, *(key[:2] for key in whole), ("a",), ("a", "05"), ("a", "05\0"), ("a\0",), ("b",), ("c",)])
        low, high = sorted((data.draw(bounds), data.draw(bounds)))
        for upper in (high, None):
            found = runs.read_range(source, low, upper, ["aggregate_id"])
            wanted = [key[1] for key in whole if key >= low and (upper is None or key < upper)]
            assert found["aggregate_id"].to_pylist() == wanted
            assert found.column_names == ["aggregate_id"]


def test_a_run_that_was_read_leaves_nothing_of_it_in_memory(tmp_path):
    rows = 8 * runs.ROW_GROUP
    columns = {name: ["a"] * rows for name in ("aggregate", "topic")} | {name: [0] * rows for name in ("partition_id", "incarnation")}
    columns |= {"aggregate_id": sorted(secrets.token_hex(16) for _ in range(rows)), "record_offset": list(range(rows))}
    columns |= {"order_at": pa.array(range(rows), pa.timestamp("us", tz="UTC")), "data": [secrets.token_hex(32) for _ in range(rows)]}
    [written] = runs.write_run(tmp_path, "run", [pa.table(columns)])
    file, before = runs.RunFile(written.path), pa.total_allocated_bytes()
    assert sum(file.read(at, at + 1, None).num_rows for at in range(8)) == rows
    assert pa.total_allocated_bytes() - before < written.bytes / 10
