"""The oracle catches a bug planted in each fast path; how much is folded; and a log of many thousand events."""

from __future__ import annotations

import random
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import chain, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from logs import BASE_MS, all_differences, made, new_lab, snapshot
from oracle import Oracle, canonical

from eslab import building, decode, events, folding, keyed, moments, ordering, replay, runs, tape, world
from eslab.lab import Lab
from eslab.model import Coordinates, Record, dumps
from eslab.play import play
from eslab.projection import Projection
from eslab.sources.memory import MemorySource

# --- planted bugs ---------------------------------------------------------------------------------


def lab_in_parts(folder: Path) -> Path:
    """A log in which every fast path has something to do: many runs, many row groups, clocks that fall back, keys that end."""
    log = made(120, seed=3)
    lab = new_lab(folder, log.rules)
    source = MemorySource(log.records)
    for part in (3, 6, 9, 12):
        snapshot(lab, source, stop=part)
    snapshot(lab, source)
    return folder


@pytest.fixture(scope="module")
def well_built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return lab_in_parts(tmp_path_factory.mktemp("well built") / "lab")


def difference(folder: Path) -> str | None:
    """The first one of this lab, if there is any."""
    lab, oracle, chance = Lab(folder, tz="UTC", say=lambda notice: None), Oracle(folder), random.Random(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tape, "EVERY", 3)  # short histories, too, have kept states to seek from
        patch.setattr(keyed, "BATCH", 5)
        found = (one for _ in range(3) for one in all_differences(lab, oracle, chance.choice))
        return next(chain(found, look_up_differences(lab, oracle)), None)


def look_up_differences(lab: Lab, oracle: Oracle) -> Iterator[str]:
    """Where a state that is looked up in a world is not the one of the oracle's world."""
    for aggregate in sorted({key[0] for key in oracle.keys}):
        world = lab.replay(aggregate, progress=False)
        for key, (_, state) in oracle.world(aggregate, lambda event: True).items():
            if key not in world or canonical(world[key]) != canonical(state):
                yield f"{aggregate} {key} in a world is not {state}"


def lose_the_row_at_a_boundary(monkeypatch):
    intact = runs.read_range

    def read_range(source: Any, low: Any, high: Any, columns: Any = None) -> Any:
        table = intact(source, low, high, columns)
        return table.slice(0, table.num_rows - 1) if table.num_rows > 2 else table

    monkeypatch.setattr(runs, "read_range", read_range)


def take_the_high_bound_for_inclusive(monkeypatch):
    monkeypatch.setattr(
        events.Events,
        "lookup",
        lambda self, aggregate, identity, columns, selection: self._slice(
            self._sources(), (aggregate, identity), (aggregate, identity + "\x01"), columns, selection
        ),
    )


def pass_over_some_ids(monkeypatch):
    intact = runs.RunFile.may_hold
    monkeypatch.setattr(runs.RunFile, "may_hold", lambda self, *one: intact(self, *one) and runs.hash_of(*one) % 3 > 0)


def forget_the_maximum_between_segments(monkeypatch):
    intact = building.put_in_order

    def put_in_order(state: Any, *rest: Any) -> Any:
        state.order_ms = None
        return intact(state, *rest)

    monkeypatch.setattr(building, "put_in_order", put_in_order)


def believe_whom_nobody_trusts(monkeypatch):
    monkeypatch.setattr(ordering, "_distrusted", lambda state, records, *_: np.zeros(records.num_rows, np.bool_))


def shift_the_data_of_a_block(monkeypatch):
    intact = folding._decode

    def off_by_one(texts: Sequence[str | None]) -> Sequence[Any]:
        values = list(intact(texts))
        return [*values[1:], *values[:1]]

    monkeypatch.setattr(folding, "_decode", off_by_one)


def drop_a_run_in_a_merge(monkeypatch):
    intact = building._tiers

    def tiers(old: Any) -> Any:
        kept, merged, level = intact(old)
        return kept, merged[1:], level

    monkeypatch.setattr(building, "_tiers", tiers)


def include_the_record_at_the_cut(monkeypatch):
    intact = events._before

    def before(table: Any, cut: Any) -> Any:
        offsets = table["record_offset"].to_numpy()
        return intact(table, cut) | np.isin(offsets, [next_ for next_ in cut.offsets.values() if next_])

    monkeypatch.setattr(events, "_before", before)


def take_every_selection_for_all_there_is(monkeypatch):
    monkeypatch.setattr(events.Events, "holds_all", lambda self, selection: True)


def believe_that_files_never_overlap(monkeypatch):
    monkeypatch.setattr(
        runs, "pairwise", lambda found: () if isinstance(found, list) and isinstance(found[0], runs.RunFile) else pairwise(found)
    )


def leave_ended_keys_over(monkeypatch):
    monkeypatch.setattr(folding.Fold, "_revive", lambda self, handler: handler)


def name_each_element_twice(monkeypatch):
    monkeypatch.setattr(building, "_distinct", lambda *columns: columns)


def let_tombstones_belong_to_nobody(monkeypatch):
    monkeypatch.setattr(decode, "_text", lambda keys: pa.nulls(len(keys), pa.string()))


def keep_a_state_one_step_too_early(monkeypatch):
    intact = tape.Tape.state_at
    monkeypatch.setattr(tape.Tape, "state_at", lambda self, position: intact(self, max(position - 1, 0)))


def keep_a_state_for_the_step_after(monkeypatch):
    intact = tape.Tape._keep
    monkeypatch.setattr(tape.Tape, "_keep", lambda self, position, state: intact(self, position + 1, state))


def look_for_the_last_of_a_batch_in_the_next(monkeypatch):
    monkeypatch.setattr(keyed, "bisect_left", lambda ids, wanted, **how: (bisect_left if how else bisect_right)(ids, wanted, **how))


def carry_a_state_into_the_next_key(monkeypatch):
    intact = replay.Folding._end_key

    def end_key(self: Any) -> None:
        intact(self)
        self._todo.projection.initial = lambda kept=self._fold.state: dict(kept or {})

    monkeypatch.setattr(replay.Folding, "_end_key", end_key)


def take_a_time_in_a_history_for_exclusive(monkeypatch):
    monkeypatch.setattr(moments, "bisect_right", bisect_left)


def take_tombstones_for_what_cannot_be_read(monkeypatch):
    monkeypatch.setattr(folding, "UNDECODABLE", decode.TOMBSTONE_KIND)


def pack_states_in_another_order(monkeypatch):
    intact = world.pack_states
    monkeypatch.setattr(world, "pack_states", lambda states: intact(states)[::-1])


IN_BUILDING = [
    lose_the_row_at_a_boundary,
    forget_the_maximum_between_segments,
    drop_a_run_in_a_merge,
    believe_that_files_never_overlap,
    name_each_element_twice,
    let_tombstones_belong_to_nobody,
]
IN_READING = [
    take_the_high_bound_for_inclusive,
    pass_over_some_ids,
    shift_the_data_of_a_block,
    include_the_record_at_the_cut,
    take_every_selection_for_all_there_is,
    leave_ended_keys_over,
    keep_a_state_one_step_too_early,
    keep_a_state_for_the_step_after,
    look_for_the_last_of_a_batch_in_the_next,
    carry_a_state_into_the_next_key,
    take_a_time_in_a_history_for_exclusive,
    take_tombstones_for_what_cannot_be_read,
    pack_states_in_another_order,
]


def test_the_comparison_finds_nothing_where_no_bug_is_planted(well_built):
    assert difference(well_built) is None


@pytest.mark.parametrize("plant", IN_BUILDING, ids=lambda plant: plant.__name__)
def test_the_comparison_finds_a_bug_planted_in_the_building_of_events(tmp_path, monkeypatch, plant):
    plant(monkeypatch)
    assert difference(lab_in_parts(tmp_path / "lab"))


@pytest.mark.parametrize("plant", IN_READING, ids=lambda plant: plant.__name__)
def test_the_comparison_finds_a_bug_planted_in_the_reading_of_events(well_built, monkeypatch, plant):
    plant(monkeypatch)
    assert difference(well_built)


def test_the_comparison_finds_a_distrust_that_is_ignored(tmp_path, monkeypatch):
    believe_whom_nobody_trusts(monkeypatch)
    log = made(60, seed=4)
    lab = new_lab(tmp_path / "lab", log.rules + '[[distrust]]\nsource = "app"\n')
    snapshot(lab, MemorySource(log.records))
    assert any(all_differences(lab, Oracle(lab.path), random.Random(1).choice))


# --- how much is folded ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def long_history() -> Any:
    """One aggregate of 5,000 events, and a counter of the handler's calls."""
    lab = play([{"eventType": "Added", "data": {"cartId": "c", "n": number}} for number in range(5000)])
    calls: Counter[str] = Counter()
    sums = Projection("sums", aggregate="cart", initial={"sum": 0})

    @sums.on("Added")
    def added(state: Any, event: Any) -> Any:
        calls["added"] += 1
        return {"sum": state["sum"] + event.data["n"]}

    return lab, sums, calls


def test_a_seek_after_a_look_at_the_end_folds_at_most_512_steps(long_history):
    lab, sums, calls = long_history
    seen = lab.history("cart", "c", projection=sums)
    seen.at()
    for version in (4999, 1, 512, 513, 511, 2500, 4096, 4607, 4608, 0, 5000):
        calls.clear()
        assert seen.at(version=version).value == {"sum": version * (version - 1) // 2}
        assert calls["added"] <= 512, f"version {version} took {calls['added']} calls"


def test_asking_again_does_not_fold_from_the_start(long_history):
    lab, sums, calls = long_history
    seen = lab.history("cart", "c", projection=sums)
    seen.at(version=4900)
    assert calls["added"] >= 4900
    calls.clear()
    for _ in range(3):
        assert seen.at(version=4900).value == {"sum": 4900 * 4899 // 2}
    assert calls["added"] <= 3 * 512
    calls.clear()
    assert seen[4900].after == {"sum": 4901 * 4900 // 2}
    assert calls["added"] <= 513


def test_walking_a_history_folds_each_step_once(long_history):
    lab, sums, calls = long_history
    seen = lab.history("cart", "c", projection=sums)
    calls.clear()
    assert [step.after["sum"] for step in seen][-1] == 5000 * 4999 // 2
    assert calls["added"] == 5000


def test_a_replay_folds_each_step_once(long_history):
    lab, sums, calls = long_history
    calls.clear()
    assert lab.replay(sums, progress=False)["c"] == {"sum": 5000 * 4999 // 2}
    assert calls["added"] == 5000


# --- a log of many thousand events ------------------------------------------------------------------


def shop(folder: Path, size: int) -> Lab:
    """Orders with items over four partitions, late events and a clock that runs ahead; in snapshots, so that there are several runs."""
    chance = random.Random(20)
    records = []
    for number in range(size):
        order = f"ord-{int(chance.paretovariate(0.8)) % 700}"
        stamp = BASE_MS + number * 1000 - chance.choice([0, 0, 0, 500, 90_000]) + (3_600_000 if size // 4 < number < size // 4 + 40 else 0)
        items = [{"id": f"sku-{chance.randint(1, 300)}", "count": chance.randint(1, 9)} for _ in range(chance.choice([0, 0, 1, 3]))]
        payload = {
            "eventId": f"evt-{number - chance.choice([0] * 60 + [1])}",
            "eventType": chance.choice(["OrderCreated", "OrderChanged", "OrderShipped"]),
            "timestamp": stamp - chance.randint(0, 200_000),
            "data": {"orderId": order, "items": items, "total": chance.randint(0, 10**20), chance.choice("abc"): number},
        }
        value = None if chance.random() < 0.01 else b"{" if chance.random() < 0.005 else dumps(payload)
        records.append(Record(topic="orders", partition=sum(order.encode()) % 4, timestamp_ms=stamp, key=order.encode(), value=value))
    lab = new_lab(
        folder,
        """format_version = 1
[topics.orders]
envelope = "default"
aggregates = [{ name = "order", id = "data.orderId" }, { name = "item", id = "data.items[].id" }]
""",
    )
    source = MemorySource(records)
    for stop in (size // 9, size // 5):
        lab.snapshot(source, stop=stop, progress=False)
    lab.snapshot(source, progress=False)
    return lab


def random_differences(lab: Lab, pairs: int, chance: random.Random) -> list[str]:
    """So many (aggregate, moment) pairs of a lab of any size that differ from the oracle. Moments of every kind in turn, replays at some."""
    oracle = Oracle(lab.path)
    histories = oracle.histories
    keys = chance.sample(sorted(histories), min(len(histories), pairs // 10))
    states = {key: [canonical(state) for state in oracle.states(key, histories[key])] for key in keys}
    opened = {key: lab.history(*key) for key in keys}
    found = []
    for number in range(pairs):
        key, event = chance.choice(keys), chance.choice(oracle.log)
        wanted, state = _asked(
            opened[key], histories[key], event, chance.randint(0, len(histories[key])), 5 if number % 50 == 0 else number % 3
        )
        if state.version != wanted or canonical(state.value) != states[key][wanted]:
            found.append(
                f"{key}, event {event.order}, question {number}: version {state.version} {state.value}, not {wanted}: {states[key][wanted]}"
            )
    for event in chance.sample(oracle.log, 3):
        found += _world_differences(lab, oracle, chance.choice(keys)[0], event)
    return found


def _asked(opened: Any, events: list[Any], event: Any, version: int, kind: int) -> tuple[int, Any]:
    """A question to a history, and the version that answers it."""
    if kind == 0:
        return sum(one.order_ms <= event.order_ms for one in events), opened.at(event.order_at)
    if kind == 1:
        return version, opened.at(version=version)
    if kind == 2:  # a cut at one partition alone: what is in any other is not seen
        cut = opened.selection.cut & type(opened.selection.cut)({event.life: event.offset + 1})
        held = [one for one in events if one.life == event.life and one.offset <= event.offset]
        return (len(held), opened.at(cut=cut)) if events[: len(held)] == held else (version, opened.at(version=version))
    return sum(one.order <= event.order for one in events), opened.at(event_id=Coordinates(*event.life, event.offset))


def _world_differences(lab: Lab, oracle: Oracle, aggregate: str, event: Any) -> list[str]:
    world = lab.replay(aggregate, at=lab.cut(event_id=Coordinates(*event.life, event.offset)), ended=True, progress=False)
    wanted = oracle.world(aggregate, oracle.until_event(event), ended=True)
    odd = [
        key
        for key in world.keys() | wanted.keys()
        if key not in world or key not in wanted or canonical(world[key]) != canonical(wanted[key][1])
    ]
    return [f"world of {aggregate} at {event.order}: {key}" for key in odd]


@pytest.mark.parametrize("size", [5_000, pytest.param(20_000, marks=pytest.mark.torture)])
def test_a_thousand_random_moments_of_many_thousand_events_are_the_oracles(tmp_path, size):
    lab = shop(tmp_path / "lab", size)
    assert random_differences(lab, 1000, random.Random(7)) == []


def test_a_thousand_random_moments_of_the_demo_are_the_oracles(tmp_path):
    demo = pytest.importorskip("eslab.demo", reason="the demo has not landed")
    demo.demo(tmp_path / "shop")
    assert random_differences(Lab(tmp_path / "shop", tz="UTC"), 1000, random.Random(8)) == []


def test_the_order_of_a_partition_never_falls_back(tmp_path):
    oracle = Oracle(shop(tmp_path / "lab", 3000).path)
    for life in oracle.newest:
        offsets = [event.offset for event in oracle.log if event.life == life]
        assert all(left < right for left, right in pairwise(offsets))
