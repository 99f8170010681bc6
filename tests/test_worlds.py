"""The world at any cut, however it is named: with gaps and incarnations in the log, here and on an executor, it is the oracle's, and says what it cannot know."""

import datetime as dt
import random
import tempfile
from collections import defaultdict, deque
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from logs import _ANCHORS, DISTRUST, RULES, Log, few, logs, made, new_lab, snapshot, world_differences
from oracle import Oracle

from eslab import Cut, Projection, cuts, dispatch, events, replay, runs
from eslab.samples import SAMPLES, write_samples
from eslab.sources.memory import MemorySource


@pytest.fixture(scope="module", autouse=True)
def _small_parts():
    """Row groups and parts so small that a few dozen events are several."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runs, "ROW_GROUP", 4)
        patch.setattr(dispatch, "SMALLEST", 4)
        patch.setattr(dispatch, "KEYS", 3)
        yield


@pytest.fixture(scope="module")
def pool():
    with ThreadPoolExecutor(2) as pool:
        yield pool


def holed(log, chance):
    """A source that has lost some records, none of them the last of its partition."""
    source = MemorySource(log.records)
    anchors = {one.value for one in _ANCHORS}
    for kept in source._logs.values():
        for at in sorted(chance.sample(range(len(kept) - 1), min(len(kept) - 1, chance.randint(0, 2))), reverse=True):
            if kept[at].value not in anchors:
                del kept[at]
    return source


def named(lab, oracle, chance):
    """Cuts in every way in which they can be named, and what each holds."""
    one, other = chance.choice(oracle.log), chance.choice(oracle.log)
    told = {life: chance.randint(0, next_ + 1) for life, next_ in oracle.next.items() if life in oracle.newest and chance.random() < 0.6}
    nested = defaultdict(dict)
    for (topic, partition, _), next_ in told.items():
        nested[topic][partition] = next_
    group = f"g{chance.getrandbits(64)}"
    now = dt.datetime(9999, 12, 31, 12, tzinfo=dt.UTC)  # behind the births of all partitions, whatever their clocks say
    common = {"group": group, "log_start": 0, "log_end": None, "sampled_at": now, "committed_at": None, "origin": "watch"}
    rows = [{**common, "topic": topic, "partition": partition, "committed": next_} for (topic, partition, _), next_ in told.items()]

    def within(event):
        return event.offset < told.get(event.life, 0)

    ways = {
        "now": (lab.cut, lambda event: True),
        "time": (lambda: lab.cut(one.order_at), lambda event: event.order_at <= one.order_at),
        "coordinates": (lambda: lab.cut(event_id=(*one.life[:2], one.offset)), oracle.until_event(one)),
        "offsets": (lambda: lab.cut(offsets=nested), within),
    }
    if rows:
        write_samples(lab.path, SAMPLES.empty_table().from_pylist(rows, schema=SAMPLES))
        ways["group"] = (lambda: lab.cut(group=group), within)
    if other.name is not None:
        ways["event id"] = (lambda: lab.cut(event_id=other.name), oracle.until_event(oracle.first_of(other.name)))
    key = chance.choice(oracle.keys)
    steps = oracle.history(key)
    version = chance.randint(1, len(steps))
    ways["version"] = (lambda: lab.cut(version=(*key, version)), oracle.until_event(steps[version - 1]))
    (left, in_left), (right, in_right) = (ways[name] for name in chance.sample(sorted(ways), 2))
    ways["bookmark"] = (lambda: lab.bookmark("b", at=left(), replace=True) and lab.cut(bookmark="b"), in_left)
    ways["json"] = (lambda: Cut.from_json(right().to_json()), in_right)
    ways["union"] = (lambda: left() | right(), lambda event: in_left(event) or in_right(event))
    ways["minimum"] = (lambda: left() & right(), lambda event: in_left(event) and in_right(event))
    return ways


def lost(oracle):
    """The offsets of each partition for which there is no record."""
    there = defaultdict(set)
    for event in oracle.all:
        there[event.life].add(event.offset)
    return {life: set(range(next_)) - there[life] for life, next_ in oracle.next.items()}


def differences(lab, oracle, chance, pool, way=None):
    """Where the worlds at cuts named in some way (default: in two of them) are not the oracle's, or do not say which keys may miss events."""
    gone = lost(oracle)
    found = named(lab, oracle, chance)
    for name in [way] if way else chance.sample(sorted(found), 2):
        make, held = found[name]
        cut = make()
        if any(held(event) != (event.offset < cut.offsets.get(event.life, 0)) for event in oracle.log):
            yield f"{name}: {cut}"
        aggregate = chance.choice(sorted({key[0] for key in oracle.keys}))
        for executor in (None, pool):
            yield from (f"{name}: {one}" for one in world_differences(lab, oracle, aggregate, cut, held, executor=executor))
            robbed = {life for life, offsets in gone.items() if any(offset < cut.offsets.get(life, 0) for offset in offsets)}
            wanted = {key for event in oracle.log if held(event) and event.life in robbed for kind, key in event.keys if kind == aggregate}
            if (partial := lab.replay(aggregate, at=cut, executor=executor, progress=False).partial) != wanted:
                yield f"{name}: partial are {sorted(partial)}, not {sorted(wanted)}"


@few(4)
@given(logs(), logs(12), st.integers(0, 2**32))
def test_the_world_at_a_cut_named_in_any_way_is_the_oracles_here_and_on_an_executor(log, before, seed):
    chance = random.Random(seed)
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(2) as pool:
        lab = new_lab(Path(folder) / "lab", log.rules)
        old = None
        if chance.random() < 0.4:  # an earlier life of each partition
            snapshot(lab, holed(before, chance))
            old = lab.cut(), Oracle(lab.path)
        snapshot(lab, holed(log, chance))
        assert list(differences(lab, Oracle(lab.path), chance, pool)) == []
        if old is not None:
            cut, oracle = old
            assert list(world_differences(lab, oracle, "order", cut, executor=pool)) == []


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    """A lab with all of it: gaps, an earlier life, many row groups."""
    chance = random.Random(5)
    lab = new_lab(tmp_path_factory.mktemp("worlds") / "lab", RULES + DISTRUST[3])
    for log in (made(20, seed=1), made(50, seed=2)):
        snapshot(lab, holed(Log(log.records, ""), chance))
    return lab


def take_a_time_for_exclusive(monkeypatch):
    intact = cuts.query
    monkeypatch.setattr(cuts, "query", lambda events, sql, *told: intact(events, sql.replace("order_at <= $", "order_at < $"), *told))


def part_keys_between_workers(monkeypatch):
    def anywhere(self, aggregate, rows):
        return [(low, high or (aggregate + "\0",)) for low, high in runs.ranges(self._sources(), (aggregate,), (aggregate + "\0",), rows)]

    monkeypatch.setattr(events.Events, "key_ranges", anywhere)


def lose_the_last_part(monkeypatch):
    intact = dispatch._parts
    monkeypatch.setattr(dispatch, "_parts", lambda todo: list(intact(todo))[:-1])


def take_the_answers_of_workers_as_they_come(monkeypatch):
    class Stack(deque):
        popleft = deque.pop

    monkeypatch.setattr(dispatch, "deque", Stack)


def believe_that_nothing_was_lost(monkeypatch):
    monkeypatch.setattr(replay, "may_miss", lambda todo, part: set())


def take_what_is_lost_behind_the_cut_for_lost(monkeypatch):
    intact = events.Events.lossy
    monkeypatch.setattr(events.Events, "lossy", lambda self, cut: intact(self, self.cut))


def forget_one_side_of_a_union(monkeypatch):
    monkeypatch.setattr(Cut, "__or__", lambda self, other: self)


def take_the_larger_for_the_smaller(monkeypatch):
    monkeypatch.setattr(Cut, "__and__", Cut.__or__)


def take_partitions_that_are_not_named_whole(monkeypatch):
    monkeypatch.setattr(
        cuts, "_without_the_rest", lambda events, offsets, label: cuts._cut(events, {**events.cut.offsets, **offsets}, label)
    )


@pytest.mark.parametrize(
    ("way", "plant"),
    [
        ("time", take_a_time_for_exclusive),
        ("now", part_keys_between_workers),
        ("now", lose_the_last_part),
        ("now", take_the_answers_of_workers_as_they_come),
        ("now", believe_that_nothing_was_lost),
        ("offsets", take_what_is_lost_behind_the_cut_for_lost),
        ("union", forget_one_side_of_a_union),
        ("minimum", take_the_larger_for_the_smaller),
        ("offsets", take_partitions_that_are_not_named_whole),
    ],
    ids=lambda told: getattr(told, "__name__", told),
)
def test_the_comparison_finds_a_planted_bug(one, pool, monkeypatch, way, plant):
    plant(monkeypatch)
    oracle = Oracle(one.path)
    assert next((found for seed in range(1, 9) for found in differences(one, oracle, random.Random(seed), pool, way)), None)


def test_nothing_that_a_notebook_brings_is_stored_in_the_lab(tmp_path, pool):
    log = made(40, seed=3)
    lab = new_lab(tmp_path / "lab", log.rules)
    snapshot(lab, MemorySource(log.records))
    before = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in lab.path.rglob("*") if path.is_file()}
    mine = Projection("mine", aggregate="order", evolve=lambda state, event: {"n": state.get("n", 0) + 1})
    lab.upcaster("Created", from_version=None, to_version="2")(lambda data: data)
    early = lab.replay(mine, at=lab.cut(offsets={"orders": {0: 2}}), progress=False)
    early.advance(progress=False)
    lab.replay(mine, executor=pool, strict=True, progress=False)
    lab.replay(Projection("by", key="data.parcelId", evolve=lambda state, event: {}), progress=False)
    lab.history("order", next(iter(early)), projection=mine).df()
    lab.compare(mine, "order", progress=False)
    lab.timeline(mine, measure=lambda state: state.get("n"), every="364d", progress=False)
    lab.plan(mine)
    lab.upcast_check(progress=False)
    assert {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in lab.path.rglob("*") if path.is_file()} == before
