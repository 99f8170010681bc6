"""A timeline's points are what replays until then add up to, each event folded once."""

from __future__ import annotations

import datetime as dt
import random
from collections import Counter
from decimal import Decimal
from statistics import mean
from typing import Any

import pytest

from eslab import events, play, runs, timeline
from eslab.errors import MomentError, ProjectionError, UnknownId
from eslab.model import Event, Record, dumps
from eslab.projection import Projection

BASE = dt.datetime(2026, 3, 12, 9, tzinfo=dt.UTC)


@pytest.fixture(scope="module")
def lab():
    """Orders that are paid, shipped, ended or fail, over twenty minutes, in small row groups."""
    chance = random.Random(4)
    told: list[Any] = []
    for number in range(300):
        at = BASE + dt.timedelta(seconds=number * 4)
        order = f"o{chance.randint(0, 30):02d}"
        if chance.random() < 0.05:
            told.append(Record(topic="events", key=order.encode(), timestamp_ms=int(at.timestamp() * 1000)))
        else:
            kind = chance.choice(["Placed", "Paid", "Paid", "Failed" if number > 250 else "Placed"])
            told.append({"eventType": kind, "timestamp": at.isoformat(), "data": {"orderId": order, "amount": chance.randint(1, 50)}})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runs, "ROW_GROUP", 16)
        return play(told, tz="UTC")


@pytest.fixture
def open_amounts(monkeypatch):
    monkeypatch.setattr(events, "SCAN_ROWS", 16)  # keys, and what lies between two points, go on in the next slice
    made = Projection("open", aggregate="order", initial={"open": 0, "calls": 0})

    @made.on("Placed")
    def placed(state: Any, event: Any) -> Any:
        return {**state, "open": state["open"] + event.data["amount"]}

    @made.on("Paid")
    def paid(state: Any, event: Any) -> Any:
        return {**state, "open": state["open"] - event.data["amount"]}

    made.on("Failed")(lambda state, event: 1 // 0)
    return made


def owed(state: Any) -> Any:
    return state["open"] if state["open"] > 0 else None


def median(held: Any) -> Any:
    return sorted(held)[len(held) // 2]


AGGREGATIONS: dict[Any, Any] = {"sum": sum, "mean": mean, "min": min, "max": max, "count": len, median: median}


def differing(lab: Any, projection: Projection, aggregations: dict[Any, Any], *, ended: bool) -> list[Any]:
    """The points of timelines that are not what a replay until then comes to."""
    found, worlds = [], dict[Any, Any]()
    for agg, wanted in aggregations.items():
        for row in lab.timeline(projection, measure=owed, every="3m", agg=agg, ended=ended, progress=False).arrow().to_pylist():
            if row["time"] not in worlds:
                worlds[row["time"]] = lab.replay(projection, at=row["time"], ended=ended, progress=False)
            held = [value for state in worlds[row["time"]].values() if (value := owed(state)) is not None]
            value = wanted(held) if held else 0 if agg in ("sum", "count") else None
            if row["keys"] != len(held) or row["value"] != pytest.approx(value):
                found.append((agg, row, value))
    assert len(worlds) == 8
    return found


@pytest.mark.parametrize("ended", [False, True])
def test_every_point_is_what_a_replay_until_then_comes_to(lab, open_amounts, ended):
    assert differing(lab, open_amounts, AGGREGATIONS, ended=ended) == []
    assert lab.timeline(open_amounts, measure=owed, ended=ended, progress=False).failed == lab.replay(open_amounts, progress=False).failed


def test_a_timeline_folds_each_event_once_and_measures_only_before_its_points(lab):
    calls: Counter[str] = Counter()
    counting = Projection("counting", aggregate="order", evolve=lambda state, event: calls.update(["fold"]) or {"n": 1})

    def measure(state: Any) -> int:
        calls["measure"] += 1
        return 1

    lab.timeline(counting, measure=measure, every="10m", progress=False)
    ((folded, keys),) = lab.sql("select count(*), count(distinct aggregate_id) from history where event_type is not null").fetchall()
    assert calls["fold"] == folded
    assert calls["measure"] <= keys * 3 + lab.sql("select count(*) from history where event_type is null").fetchall()[0][0]


def test_a_range_and_a_width_of_ones_own(lab, open_amounts):
    start, stop = BASE + dt.timedelta(minutes=5), BASE + dt.timedelta(minutes=8)
    seen = lab.timeline(open_amounts, measure=owed, every="1m", start=start, stop=stop, progress=False)
    assert [row.isoformat() for row in seen.df().index][:4] == [f"2026-03-12T09:0{minute}:00+00:00" for minute in (5, 6, 7, 8)]
    whole = lab.timeline(open_amounts, measure=owed, every="1m", progress=False).df()
    assert seen.df().iloc[0].tolist() == whole.loc[start].tolist()
    assert repr(seen).startswith("<Timeline of sum of owed of open: per minute from 2026-03-12 09:05:00 UTC")
    assert "keys failed" in repr(seen)
    assert "<table" in seen._repr_html_()


def test_what_cannot_be_measured_is_one_clear_error(lab, open_amounts):
    for measure, said in (
        (lambda state: state["none"], "measure= raised KeyError: 'none' on the state of order o"),
        (lambda state: "much", "measure= returned 'much' for order o"),
        (lambda state: float("nan"), "which does not add up; return None"),
        (4, "measure= is a function"),
    ):
        with pytest.raises(ProjectionError, match=said):
            lab.timeline(open_amounts, measure=measure, progress=False)
    with pytest.raises(ProjectionError, match=r"agg='most' is none of sum, mean"):
        lab.timeline(open_amounts, measure=owed, agg="most")
    with pytest.raises(MomentError, match="is no length of time"):
        lab.timeline(open_amounts, measure=owed, every="often")
    with pytest.raises(MomentError, match="must lie after start="):
        lab.timeline(open_amounts, measure=owed, start="2026-03-12 10:00", stop="2026-03-12 09:00")
    with pytest.raises(UnknownId):
        lab.timeline("parcel", measure=owed)


def test_decimals_and_truths_count_as_numbers(lab):
    made = Projection("made", aggregate="order", evolve=lambda state, event: {"sum": Decimal("0.5"), "is": True})
    assert lab.timeline(made, measure=lambda state: state.get("sum"), progress=False, ended=True).df()["value"].iloc[-1] == pytest.approx(
        15, abs=1
    )
    assert lab.timeline(made, measure=lambda state: state.get("is"), progress=False).df()["value"].max() <= 31


def test_a_chart_has_a_mark_for_each_point_and_names_what_it_shows(lab, open_amounts):
    drawn = lab.timeline(open_amounts, measure=owed, every="1m", progress=False).chart().to_dict()
    (frame,) = drawn["datasets"].values()
    assert len(frame) == 21
    assert "sum of owed of open, per minute" in drawn["title"]["text"]
    assert "keys failed" in drawn["title"]["subtitle"][0]
    nothing = lab.timeline(open_amounts, measure=lambda state: None, every="1m", agg="min", progress=False)
    assert nothing.df()["value"].isna().all()
    nothing.chart().to_dict()


# --- by the time in the payloads ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def late():
    """Events that arrive up to ten minutes after they happened, or say nothing of it; some end their key, one cannot be read."""
    chance = random.Random(6)
    told: list[Any] = [Record(topic="events", key=b"o01", value=b"{", timestamp_ms=int(BASE.timestamp() * 1000))]
    for number in range(300):
        at = BASE + dt.timedelta(seconds=number * 4)
        order = f"o{chance.randint(0, 20):02d}"
        payload: dict[str, Any] = {"eventType": chance.choice(["Placed", "Paid", "Failed" if number > 270 else "Paid"])}
        if chance.random() < 0.9:
            payload["timestamp"] = (at - dt.timedelta(seconds=chance.choice([0, 0, 0, 40, 200, 600]))).isoformat()
        value = None if chance.random() < 0.03 else dumps({**payload, "data": {"orderId": order, "amount": chance.randint(1, 50)}})
        told.append(Record(topic="events", key=order.encode(), value=value, timestamp_ms=int(at.timestamp() * 1000)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runs, "ROW_GROUP", 16)
        return play(told, tz="UTC")


@pytest.fixture
def folded_in_order(monkeypatch):
    """What it comes to depends on the order of the events, and each handler changes what it was given."""
    monkeypatch.setattr(events, "SCAN_ROWS", 16)
    made = Projection("mixed", aggregate="order", initial={"open": 1})

    @made.on("Placed", "Paid")
    def mixed(state: Any, event: Any) -> Any:
        event.data["amount"] += 1
        state["open"] = (state["open"] * 3 + event.data["amount"]) % 97
        return state

    made.on("Failed")(lambda state, event: 1 // 0 if state["open"] % 2 else state)
    return made


def differing_by_happenings(lab: Any, projection: Projection, *, ended: bool = False) -> list[Any]:
    found = []
    for row in lab.timeline(projection, measure=owed, every="4m", ended=ended, clock="happened", progress=False).arrow().to_pylist():
        world = lab.replay(projection, at=row["time"], ended=ended, clock="happened", progress=False)
        held = [value for state in world.values() if (value := owed(state)) is not None]
        if (row["value"], row["keys"]) != (sum(held), len(held)):
            found.append((row, sum(held), len(held)))
    return found


@pytest.mark.parametrize("ended", [False, True])
def test_by_the_clock_of_happenings_every_point_is_what_a_replay_by_it_comes_to(late, folded_in_order, ended):
    assert differing_by_happenings(late, folded_in_order, ended=ended) == []
    seen = late.timeline(folded_in_order, measure=owed, every="4m", ended=ended, clock="happened", progress=False)
    assert len(seen) > 5
    assert seen.failed == late.replay(folded_in_order, progress=False).failed
    assert "1 undecodable record in range" in repr(seen)
    by_record = late.timeline(folded_in_order, measure=owed, every="4m", ended=ended, progress=False).df()["value"]
    assert (by_record != seen.df()["value"].reindex(by_record.index)).any()
    with pytest.raises(MomentError, match="clock="):
        late.timeline(folded_in_order, measure=owed, clock="both")


def test_only_keys_with_late_events_are_folded_more_than_once(lab, late):
    calls: Counter[str] = Counter()
    counting = Projection("counting", aggregate="order", evolve=lambda state, event: calls.update([event.aggregate_id]) or {"n": 1})
    asked = {"measure": lambda state: 1, "every": "1m", "clock": "happened", "progress": False}
    lab.timeline(counting, **asked)
    assert calls == dict(lab.sql("select aggregate_id, count(*) from history where event_type is not null group by all").fetchall())
    calls.clear()
    late.timeline(counting, **asked)
    assert calls.total() > late.sql("select count(*) from history where event_type is not null").fetchall()[0][0]


def fold_only_what_is_new(monkeypatch):
    monkeypatch.setattr(timeline, "sorted", lambda places, key=None: sorted(places, key=key) if key else list(places)[-1:], raising=False)


def take_the_time_of_the_record(monkeypatch):
    monkeypatch.setattr(timeline._Happened, "_points_of", timeline._Changes._points_of)


def keep_the_data_that_a_handler_changed(monkeypatch):
    kept: dict[Any, Any] = {}
    intact = Event.undecoded
    monkeypatch.setattr(
        timeline, "Event", type("Kept", (), {"undecoded": staticmethod(lambda *of: kept.setdefault((id(of[0]), of[1]), intact(*of)))})
    )


@pytest.mark.parametrize(
    "plant", [fold_only_what_is_new, take_the_time_of_the_record, keep_the_data_that_a_handler_changed], ids=lambda plant: plant.__name__
)
def test_a_bug_planted_in_the_clock_of_happenings_is_seen(late, folded_in_order, monkeypatch, plant):
    plant(monkeypatch)
    assert differing_by_happenings(late, folded_in_order)


def forget_what_was_before(monkeypatch):
    monkeypatch.setattr(
        timeline._Changes,
        "_note",
        lambda self, point, value: [
            kept.append(one) for kept, one in ((self._at, point), (self._of, 0), (self._values, value), (self._before, float("nan")))
        ],
    )


def take_the_point_before(monkeypatch):
    intact = timeline.np.searchsorted
    monkeypatch.setattr(
        timeline.np,
        "searchsorted",
        lambda points, values, side="left": (
            intact(points, values, side="right") if side == "left" and len(points) == 8 else intact(points, values, side)
        ),
    )


@pytest.mark.parametrize("plant", [forget_what_was_before, take_the_point_before], ids=lambda plant: plant.__name__)
def test_a_planted_bug_is_seen(lab, open_amounts, monkeypatch, plant):
    plant(monkeypatch)
    assert differing(lab, open_amounts, {"sum": sum}, ended=False)
