"""A world carried on is the world of a replay, and costs only the events between."""

from __future__ import annotations

import random
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from logs import few, logs, new_lab, snapshot

from eslab import advancing, keyed, world
from eslab.errors import MomentError
from eslab.model import Cut, Record, dumps
from eslab.projection import Projection
from eslab.sources.memory import MemorySource

BASE_MS = 1_773_270_000_000


def told(made: Any) -> Any:
    failed = [(one.key, one.event_id, one.at) for one in made.failed]
    return made.arrow().to_pylist(), failed, made.ended, made.events, made.partial, made.undecodable, dict(made.selection.cut.offsets)


@pytest.fixture(autouse=True, scope="module")
def _small_batches():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(keyed, "BATCH", 5)
        patch.setattr(world, "TOGETHER", 2)
        patch.setattr(advancing, "PIECE_ROWS", 40)
        yield


def advances(lab: Any, cuts: list[Cut], **options: Any) -> list[str]:
    """Where worlds carried on through these cuts are not those of replays. Some keys fail."""
    picky = Projection("picky", aggregate="order", evolve=lambda state, event: state if len(str(event.data)) % 11 else 1 // 0)
    found = []
    for folds in ("item", picky):
        if (folds if isinstance(folds, str) else folds.aggregate) not in lab._now().manifest.aggregates:
            continue
        made = lab.replay(folds, at=cuts[0], progress=False, **options)
        for cut in cuts[1:]:
            made = made.advance(cut, progress=False)
            if told(made) != told(lab.replay(folds, at=cut, progress=False, **options)):
                found.append(f"{folds} at {cut} with {options}")
    return found


@few(4)
@given(log=logs(), seed=st.integers(0, 9))
def test_a_world_carried_on_through_any_cuts_is_that_of_a_replay(log, seed):
    chance = random.Random(seed)
    with tempfile.TemporaryDirectory() as folder:
        lab = new_lab(Path(folder) / "lab", log.rules)
        snapshot(lab, MemorySource(log.records))
        whole = lab.cut().offsets
        offsets = {life: sorted(chance.randint(0, next_) for _ in range(2)) for life, next_ in whole.items()}
        cuts = [*(Cut({life: parts[at] for life, parts in offsets.items()}) for at in (0, 1)), lab.cut()]
        assert advances(lab, cuts, ended=bool(seed % 2)) == []


# --- how much is folded ---------------------------------------------------------------------------


def event(key: str, n: int, at: int, topic: str = "carts", partition: int = 0) -> Record:
    payload = {"eventType": "Added", "eventId": f"{topic}-{at}", "data": {"cartId": key, "n": n}}
    return Record(topic=topic, partition=partition, key=key.encode(), value=dumps(payload), timestamp_ms=BASE_MS + at * 1000)


class Counting:
    """A projection that counts its handler's calls by key."""

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()
        self.projection = Projection("sums", aggregate="cart", initial={"sum": 0, "seen": []})
        self.projection.on("Added")(self._added)

    def _added(self, state: Any, event: Any) -> Any:
        self.calls[event.aggregate_id] += 1
        if event.data["n"] == 13:
            raise ValueError("13")
        return {"sum": state["sum"] + event.data["n"], "seen": [*state["seen"], event.data["n"]]}


@pytest.fixture
def counting():
    return Counting()


class Growing(MemorySource):
    """A lab, and the source that it is captured from."""

    def __init__(self, folder: Path, records: list[Record]) -> None:
        super().__init__(records)
        self.lab = lab_of(folder, records, self)

    def grow(self, records: list[Record]) -> None:
        for record in records:
            self.append(record)
        snapshot(self.lab, self)


def lab_of(tmp_path: Path, records: list[Record], source: MemorySource | None = None) -> Any:
    topics = sorted({record.topic for record in records} | {"late"})
    rules = "format_version = 1\n" + "".join(
        f'[topics.{topic}]\nenvelope = "default"\naggregates = [{{ name = "cart", id = "data.cartId" }}]\n' for topic in topics
    )
    lab = new_lab(tmp_path / "lab", rules)
    snapshot(lab, source or MemorySource(records))
    return lab


def test_only_the_events_between_are_folded(tmp_path, counting):
    lab = lab_of(tmp_path, [event(f"c{number % 20:02d}", number, number, partition=number % 3) for number in range(20, 400)])
    first = lab.replay(counting.projection, at=lab.cut("2026-03-11T23:05:00+00:00"), progress=False)
    counting.calls.clear()
    then = first.advance(lab.cut(), progress=False)
    assert counting.calls.total() == then.events - first.events > 50
    counting.calls.clear()
    again = then.advance(lab.cut(), progress=False)
    assert counting.calls.total() == 0
    assert told(again) == told(then) == told(lab.replay(counting.projection, progress=False))
    assert told(first) == told(lab.replay(counting.projection, at=first.selection.cut, progress=False)), "the first world was changed"


def test_keys_that_a_late_topic_reaches_are_folded_anew_and_no_others(tmp_path, counting):
    carts = [event(f"c{number % 10}", number, number) for number in range(20, 120)]
    source = Growing(tmp_path, carts)
    lab = source.lab
    first = lab.replay(counting.projection, progress=False)
    counting.calls.clear()
    late = [
        event(key, 1000 + at, at, "late", number) for number, (key, at) in enumerate([("c3", 50), ("c4", 500), ("c7", 113), ("new", 1)])
    ]
    source.grow(late)
    then = first.advance(lab.cut(), progress=False)
    assert counting.calls == {"c3": 11, "c4": 1, "c7": 11, "new": 1}
    assert then["c3"]["seen"].index(1050) == 3
    assert then["c4"]["seen"][-1] == 1500
    assert told(then) == told(lab.replay(counting.projection, progress=False))


def test_a_key_that_failed_is_folded_anew_where_it_has_new_events(tmp_path, counting):
    records = [event("a", 1, 1), event("b", 13, 2), event("c", 13, 3), event("a", 2, 4)]
    source = Growing(tmp_path, records)
    lab = source.lab
    first = lab.replay(counting.projection, progress=False)
    assert {one.key for one in first.failed} == {"b", "c"}
    source.grow([event("a", 13, 5), event("b", 5, 6), event("d", 1, 7)])
    counting.calls.clear()
    then = first.advance(progress=False)
    assert counting.calls == {"a": 1, "b": 1, "d": 1}
    assert told(then) == told(lab.replay(counting.projection, progress=False))
    assert {one.key for one in then.failed} == {"a", "b", "c"}


def test_a_key_that_ended_goes_on_from_its_initial_state(tmp_path, counting):
    records = [event("a", 1, 1), event("b", 2, 2), *(Record(topic="carts", key=key, timestamp_ms=BASE_MS + 3000) for key in (b"a", b"b"))]
    source = Growing(tmp_path, records)
    lab = source.lab
    first = lab.replay(counting.projection, progress=False)
    assert (len(first), first.ended) == (0, 2)
    source.grow([event("a", 7, 5)])
    counting.calls.clear()
    then = first.advance(progress=False)
    assert counting.calls == {"a": 1}
    assert (dict(then), then.ended) == ({"a": {"sum": 7, "seen": [7]}}, 1)
    assert told(then) == told(lab.replay(counting.projection, progress=False))


def test_all_is_folded_anew_where_a_handler_was_replaced_or_the_past_has_changed(tmp_path, counting):
    records = [event("a", 1, 1), event("a", 2, 2), event("b", 3, 3, partition=1), event("a", 4, 4)]
    source = Growing(tmp_path, records[:3])
    lab = source.lab
    first = lab.replay(counting.projection, progress=False)
    source.grow(records[3:])
    counting.projection.on("Added")(lambda state, event: {"sum": -1})
    assert dict(first.advance(progress=False)) == {"a": {"sum": -1}, "b": {"sum": -1}}
    lab.distrust(topic="carts", partition=0, offsets=(1, 2))
    second = lab.replay("cart", at=lab.cut(offsets={"carts": {0: 2}}), progress=False)
    lab.distrust(topic="carts", partition=1, offsets=(0, 1))
    assert told(second.advance(progress=False)) == told(lab.replay("cart", progress=False))


def test_the_states_of_a_class_are_made_anew(tmp_path):
    class Cart:
        def __init__(self) -> None:
            self.total = 0

        def apply_event(self, event: Any) -> None:
            self.total += event["data"]["n"]

    records = [event("a", 1, 1), event("a", 2, 2), event("a", 3, 3)]
    source = Growing(tmp_path, records[:2])
    lab = source.lab
    first = lab.replay(Projection.of(Cart, aggregate="cart"), progress=False)
    source.grow(records[2:])
    assert dict(first.advance(progress=False)) == {"a": {"total": 6}}


def test_a_world_does_not_go_back(tmp_path):
    lab = lab_of(tmp_path, [event("a", 1, 1), event("a", 2, 2)])
    with pytest.raises(MomentError, match="a world goes forward"):
        lab.replay("cart", progress=False).advance(lab.cut(offsets={"carts": {0: 1}}))


def test_a_world_of_some_keys_and_one_by_the_clock_of_happenings_go_on_as_such(tmp_path):
    lab = lab_of(tmp_path, [event(f"c{number % 5}", number, number) for number in range(50)])
    early = lab.cut(offsets={"carts": {0: 20}})
    some = lab.replay("cart", at=early, keys=["c1", "c3"], progress=False).advance(progress=False)
    assert told(some) == told(lab.replay("cart", keys=["c1", "c3"], progress=False))
    clocked = {"at": lab.moment("2026-03-11T23:00:30+00:00"), "clock": "happened"}
    by = lab.replay("cart", cut=early, progress=False, **clocked).advance(lab.cut(), progress=False)
    assert told(by) == told(lab.replay("cart", cut=lab.cut(), progress=False, **clocked))


def test_projections_with_other_keys_and_of_some_topics_go_on_as_such(tmp_path):
    source = Growing(tmp_path, [event(f"c{number % 5}", number, number) for number in range(20, 50)])
    early = source.lab.cut()
    by = Projection("by", key="data.n", evolve=lambda state, event: {"cart": event.data["cartId"]})
    some = Projection("some", aggregate="cart", topics="carts", evolve=lambda state, event: {"n": event.data["n"]})
    worlds = [source.lab.replay(one, at=early, progress=False) for one in (by, some)]
    source.grow([event("c1", 1, 60), event("c1", 2, 61, "late")])
    for made, one in zip(worlds, (by, some), strict=True):
        assert told(made.advance(progress=False)) == told(source.lab.replay(one, progress=False))
    assert worlds[1].advance(progress=False)["c1"] == {"n": 1}


# --- bugs that would be seen ------------------------------------------------------------------------


def believe_that_nothing_is_late(monkeypatch):
    monkeypatch.setattr(advancing._GoingOn, "_is_late", lambda self, key: False)


def forget_where_the_clocks_stood(monkeypatch):
    monkeypatch.setattr(advancing, "_clocks", lambda events, seen: {})


def lose_the_states_before(monkeypatch):
    monkeypatch.setattr(advancing, "_rows_of", lambda rows, keys: {})


def keep_what_has_failed(monkeypatch):
    intact = advancing.overlaid
    monkeypatch.setattr(advancing, "overlaid", lambda rows, changed, gone: intact(rows, changed))


def look_at_no_fingerprint(monkeypatch):
    monkeypatch.setattr(advancing.Start, "__eq__", lambda self, other: True)


@pytest.mark.parametrize(
    "plant",
    [believe_that_nothing_is_late, forget_where_the_clocks_stood, lose_the_states_before, keep_what_has_failed, look_at_no_fingerprint],
    ids=lambda plant: plant.__name__,
)
def test_a_bug_planted_in_the_way_on_is_seen(tmp_path, monkeypatch, counting, plant):
    plant(monkeypatch)
    records = [event(f"c{number % 5}", number, 78 if number == 22 else number, partition=number % 2) for number in range(20, 100)]
    source = Growing(tmp_path, records)
    lab, differs = source.lab, False
    early = lab.replay(counting.projection, at=lab.cut(offsets={"carts": {0: 15, 1: 15}}), progress=False)
    source.grow([event("c3", 1000, 35, "late"), event("c4", 13, 500, "late")])
    for _ in range(2):
        differs |= told(early.advance(progress=False)) != told(lab.replay(counting.projection, progress=False))
        lab.distrust(topic="carts", partition=0, offsets=(1, 2))
    assert differs


def test_so_the_way_on_without_a_bug_differs_in_nothing(tmp_path, counting):
    with pytest.raises(AssertionError), pytest.MonkeyPatch.context() as patch:
        test_a_bug_planted_in_the_way_on_is_seen(tmp_path, patch, counting, lambda patch: None)
