"""What if: other events in a history and in a world. The answer is a plain fold over an edited Python list."""

from __future__ import annotations

import datetime as dt
import json
import random
import tempfile
from collections import Counter
from decimal import Decimal
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from logs import BASE_MS, IDS, captured, few, logs
from oracle import Event, Oracle, canonical, moment

import eslab
from eslab import MISSING, Coordinates, Record
from eslab.changes import same
from eslab.errors import MomentError, UnknownEvent, UnknownId, UnknownTopic, WhatIfError
from eslab.model import dumps
from eslab.overlay import Overlay
from eslab.sources.memory import MemorySource

SHOP = [
    {"eventId": "e1", "eventType": "Created", "data": {"orderId": "o1", "total": 5}},
    {"eventId": "e2", "eventType": "Paid", "causationId": "e1", "data": {"orderId": "o1", "paid": True}},
    {"eventId": "e3", "eventType": "Shipped", "causationId": "e2", "data": {"orderId": "o1", "status": "shipped"}},
    {"eventId": "e4", "eventType": "Noted", "data": {"orderId": "o1", "total": 7}},
    {"eventId": "x1", "eventType": "Created", "causationId": "e3", "data": {"orderId": "o2", "total": 9}},
]


@pytest.fixture(name="lab", scope="module")
def _lab():
    return eslab.play(SHOP)


@pytest.fixture(name="w")
def _w(lab):
    return lab.what_if(lab.history("order", "o1"))


def ids(history):
    return [step.event.id for step in history]


# --- the verbs


def test_an_event_is_dropped_alone_or_with_all_that_it_caused(w):
    assert ids(w.drop("e2").history) == ["e1", "e3", "e4"]
    assert ids(w.drop("e2", effects=True).history) == ["e1", "e4"]
    assert ids(w.drop("e1", effects=True).history) == ["e4"]
    assert "drop e1 and the 3 that it caused" in repr(w.drop("e1", effects=True))
    assert "drop e4, which caused none" in repr(w.drop("e4", effects=True))


def test_an_edit_changes_what_stands_at_a_path_or_takes_it_away(w):
    assert w.edit("e1", {"data.total": 10}).history[0].after["total"] == 10
    assert w.edit("e4", {"data.total": MISSING, "data.deep.er": [1]}).history.at().value == {
        "orderId": "o1",
        "total": 5,
        "paid": True,
        "status": "shipped",
        "_type": "Noted",
        "deep": {"er": [1]},
    }
    edited = (
        w.edit("e4", {"type": "Renamed", "version": "2", "id": "e9", "happened_at": "2026-01-02T00:00:00Z", "metadata.who": "me"})
        .history[-1]
        .event
    )
    assert (edited.type, edited.version, edited.id, edited.metadata) == ("Renamed", "2", "e9", {"who": "me"})
    assert edited.happened_at == dt.datetime(2026, 1, 2, tzinfo=dt.UTC)


def test_an_edit_of_an_id_takes_an_event_to_another_aggregate(w):
    assert ids(w.edit("e4", {"data.orderId": "o2"}).history) == ["e1", "e2", "e3"]
    assert ids(w.edit("x1", {"data.orderId": "o1"}).history) == ["e1", "e2", "e3", "e4", "x1"]


def test_an_event_moves_beside_another_one_or_to_a_time(w):
    assert ids(w.move("e4", before="e1").history) == ["e4", "e1", "e2", "e3"]
    assert ids(w.move("e1", after="e3").history) == ["e2", "e3", "e1", "e4"]
    assert ids(w.move("e1", after="x1").history) == ["e2", "e3", "e4", "e1"], "one that is in another history"
    assert ids(w.move("e1", at="09:00:02.5").history) == ["e2", "e3", "e1", "e4"]
    moved = w.move("e1", at="09:00:02.5").history[2].event
    assert (moved.recorded_at, moved.happened_at) == (moved.order_at, dt.datetime(2026, 1, 1, 9, tzinfo=dt.UTC))
    assert str(moved.coordinates) == "events/0/0", "it is the same record"


def test_what_is_put_beside_an_event_stands_nearer_than_what_was_put_there_before(w):
    twice = (
        w.insert({"eventId": "n1", **NEW}, after="e1")
        .insert({"eventId": "n2", **NEW}, after="e1")
        .insert({"eventId": "n3", **NEW}, before="e2")
    )
    assert ids(twice.history) == ["e1", "n2", "n1", "n3", "e2", "e3", "e4"]
    assert ids(twice.insert({"eventId": "n4", **NEW}, before="n1").insert({"eventId": "n5", **NEW}, after="n1").history)[:6] == [
        *("e1", "n2", "n4", "n1", "n5", "n3")
    ]


NEW = {"eventType": "New", "data": {"orderId": "o1"}}


def test_a_delayed_event_is_recorded_later_and_says_what_it_said(w):
    delayed = w.delay("e1", "2.5s").history
    assert ids(delayed) == ["e2", "e3", "e1", "e4"]
    event = delayed[2].event
    assert (event.recorded_at - event.happened_at).total_seconds() == 2.5
    assert [step.event.order_at for step in delayed] == sorted(step.event.order_at for step in delayed)


def test_a_duplicate_is_folded_again_and_marked(w):
    again = w.duplicate("e1").duplicate("e1", delay="10s").history
    assert ids(again) == ["e1", "e1", "e2", "e3", "e4", "e1"]
    assert [step.marks for step in again] == [(), ("duplicate",), (), (), (), ("duplicate",)]
    assert [step.event.offset for step in again] == [0, -1, 1, 2, 3, -2], "the log has no such record"


def test_an_event_is_inserted_where_it_is_told_else_at_its_own_time_else_at_the_end(w):
    assert ids(w.insert(NEW, before="e1").history)[0] == "events/0/-1", "one without an id is called by its place"
    assert ids(w.insert({"eventId": "n", **NEW}, at="09:00:00.5").history) == ["e1", "n", "e2", "e3", "e4"]
    assert ids(w.insert({"eventId": "n", "timestamp": "2026-01-01T09:00:01.5Z", **NEW}).history) == ["e1", "e2", "n", "e3", "e4"]
    assert ids(w.insert({"eventId": "n", **NEW}).history) == ["e1", "e2", "e3", "e4", "n"]
    ended = w.insert(None, key="o1", after="e2").history
    assert [step.after for step in ended[2:4]] == [{}, {"orderId": "o1", "status": "shipped", "_type": "Shipped"}]
    assert ended[2].marks == ("tombstone",)


def test_every_verb_leaves_the_what_if_that_it_was_asked_of(w):
    first = w.drop("e2")
    second = first.drop("e3")
    assert (ids(w.history), ids(first.history), ids(second.history)) == (["e1", "e2", "e3", "e4"], ["e1", "e3", "e4"], ["e1", "e4"])
    assert ids(first.history) == ["e1", "e3", "e4"]


def test_a_verb_sees_what_those_before_it_left(w):
    assert ids(
        w.insert({"eventId": "n", "eventType": "New", "causationId": "e1", "data": {"orderId": "o1"}}).drop("e1", effects=True).history
    ) == ["e4"]
    assert w.edit("e1", {"data.total": 6}).edit("e1", {"data.note": "x"}).history[0].after == {
        "orderId": "o1",
        "total": 6,
        "note": "x",
        "_type": "Created",
    }
    with pytest.raises(UnknownEvent, match="e1 no longer stands in this what-if"):
        w.drop("e1").edit("e1", {"data.total": 1})
    with pytest.raises(UnknownEvent, match="e1 no longer stands"):
        w.drop("e1").history.at(event_id="e1")


def test_of_an_id_that_was_seen_twice_the_first_is_meant_and_it_says_so_but_with_effects_all_go():
    lab = eslab.play([*SHOP, SHOP[0]])
    w = lab.what_if(lab.history("order", "o1"))
    assert [step.event.offset for step in w.drop("e1").history] == [1, 2, 3, 5]
    assert w.drop("e1").notes == ("e1 was seen 2 times; the first is meant, events/0/0 (a (topic, partition, offset) names any one)",)
    assert w.drop("e1").notes[0] in repr(w.drop("e1"))
    assert [step.event.offset for step in w.drop(("events", 0, 5)).history] == [0, 1, 2, 3]
    assert [step.event.offset for step in w.drop(Coordinates("events", 0, 0, 5)).history] == [0, 1, 2, 3]
    assert ids(w.drop("e1", effects=True).history) == ["e4"]


def test_what_cannot_be_is_one_sentence_and_said_at_once(lab, w):
    broken = eslab.play([Record(topic="events", key=b"o1", value=value) for value in (dumps(SHOP[0]), b"{broken")])
    cases = [
        (lambda: w.drop("nope"), UnknownEvent, "no captured event is called 'nope'"),
        (lambda: w.edit("e1", {}), WhatIfError, "edit e1 how"),
        (lambda: w.edit("e1", {"total": 1}), WhatIfError, "'total' is nothing in an event that can be edited"),
        (lambda: w.edit("e1", {"data.items[].n": 1}), WhatIfError, "can be edited"),
        (lambda: w.edit("e1", {"type.x": 1}), WhatIfError, "can be edited"),
        (lambda: w.edit("e1", {3: 1}), WhatIfError, "can be edited"),
        (lambda: w.edit("e1", {"data.total.x": 1}), WhatIfError, r"data.total.x: there is no x in what is no object"),
        (lambda: w.edit("e1", {"data.list[0].x[2]": 1}), WhatIfError, r"there is no \[0\] to edit"),
        (lambda: w.edit("e1", {"data.total": object()}), WhatIfError, "this is no JSON"),
        (lambda: w.edit("e1", {"type": None}).history, WhatIfError, "would be no event"),
        (lambda: w.move("e1"), WhatIfError, "where to"),
        (lambda: w.move("e1", before="e2", at="09:00"), WhatIfError, "where to"),
        (lambda: w.move("e1", after="e1"), WhatIfError, "cannot stand beside itself"),
        (lambda: w.move("e1", at="soon"), MomentError, "no time"),
        (lambda: w.delay("e1", "soon"), MomentError, "no length of time"),
        (lambda: w.delay("e1", "3000000d"), MomentError, "past the year 9999"),
        (lambda: w.duplicate("e1", delay="-1s"), MomentError, "no length of time"),
        (lambda: w.insert("e1"), WhatIfError, "is no event"),
        (lambda: w.insert({"data": {}}), WhatIfError, "no event of topic events: no eventType"),
        (lambda: w.insert({"eventType": "X", "data": object()}), WhatIfError, "this is no JSON"),
        (lambda: w.insert(None), WhatIfError, "give key="),
        (lambda: w.insert(NEW, topic="orders"), UnknownTopic, "no topic 'orders'; it has events"),
        (lambda: lab.what_if("order").insert(NEW), WhatIfError, "insert it where"),
        (lambda: lab.what_if(w.drop("e1").history), WhatIfError, "go on from the what-if itself"),
        (lambda: lab.what_if(lab.history("order", "o1"), at="09:00:01"), MomentError, "brings its own moment"),
        (lambda: lab.what_if("nothing"), UnknownId, "no captured event belongs to an aggregate 'nothing'"),
        (lambda: w.drop("e1").history.at(version=1).cut, MomentError, "a what-if stands at no cut"),
        (lambda: broken.what_if("order").edit(("events", 0, 1), {"data.total": 1}), WhatIfError, "events/0/1 is no event"),
    ]
    for verb, error, said in cases:
        with pytest.raises(error, match=said):
            verb()


# --- all that can be asked of a history


def test_a_changed_history_takes_moments_like_any_other(lab, w):
    changed = w.delay("e1", "2.5s").insert({"eventId": "n", **NEW}, after="e4").history
    assert ids(changed) == ["e2", "e3", "e1", "e4", "n"]
    assert changed.at("09:00:02").version == 2
    assert changed.at("09:00:02.500").version == 3
    assert changed.at(event_id="e1").version == 3
    assert changed.at(event_id="n").version == 5
    assert changed.at(event_id="x1").version == 5
    assert changed.at(version=4).event.id == "e4"
    assert changed.at(lab.cut("09:00:02")).version == 3, "the first record that the cut leaves out is e4"
    assert changed.at(lab.cut("09:00:03")).version == 5, "what was put in stands right behind e4"
    assert [one.event.id for one in changed.blame("total")] == ["e4", "e1"]
    assert changed.step().position == 5
    assert list(changed.df()["event_id"]) == ids(changed)


def test_handlers_see_the_events_as_they_were_made_through_upcasters_too():
    lab = eslab.play([{"eventId": "e1", "eventType": "Created", "eventVersion": "1", "data": {"orderId": "o1", "name": "a b"}}])

    @lab.upcaster("Created", from_version="1", to_version="2")
    def split(data):
        first, _, last = data.pop("name").partition(" ")
        return {**data, "first": first, "last": last}

    w = lab.what_if(lab.history("order", "o1"))
    assert w.edit("e1", {"data.name": "c d"}).history.at()["last"] == "d"
    assert w.edit("e1", {"data.name": "c d", "version": "2"}).history.at()["name"] == "c d"


def test_decimals_keep_their_digits_in_what_is_edited_and_in_the_rest(tmp_path):
    (tmp_path / "lab").mkdir()
    (tmp_path / "lab" / "lab.toml").write_text(
        'format_version = 1\n[topics.t]\nenvelope = "default"\naggregates = [{ name = "a", id = "data.aId" }]\ndecimals = ["data.x", "data.y"]\n'
    )
    lab = eslab.Lab(tmp_path / "lab", tz="UTC", say=lambda notice: None)
    value = b'{"eventType": "T", "data": {"aId": "1", "x": 1.10, "y": 12345678901234567890.123456789, "z": 10000000000000000000000000001}}'
    lab.snapshot(MemorySource([Record(topic="t", key=b"1", value=value)]), progress=False)
    state = lab.what_if(lab.history("a", "1")).edit(("t", 0, 0), {"data.x": Decimal("2.50")}).history.at().value
    assert (str(state["x"]), str(state["y"]), state["z"]) == ("2.50", "12345678901234567890.123456789", 10**28 + 1)


def test_until_a_moment_a_delayed_event_is_not_there_and_by_the_other_clock_it_is(lab):
    until = lab.what_if(lab.history("order", "o1", at="09:00:02"))
    assert ids(until.history) == ["e1", "e2", "e3"]
    assert ids(until.delay("e1", "1.5s").history) == ["e2", "e1", "e3"]
    assert ids(until.delay("e1", "10s").history) == ["e2", "e3"]
    assert ids(until.move("e4", at="09:00:00").history) == ["e1", "e4", "e2", "e3"], "one that came later comes in"
    happened = lab.what_if(lab.history("order", "o1", at="09:00:02", clock="happened"))
    assert ids(happened.delay("e1", "10s").history) == ["e2", "e3", "e1"]
    assert happened.delay("e1", "10s").history.at("09:00:01").version == 2
    cut = lab.what_if(lab.history("order", "o1", at=lab.cut(event_id="e3")))
    assert ids(cut.delay("e1", "10s").history) == ["e2", "e3"], "it stands behind the first record that the cut leaves out"
    assert ids(cut.delay("e1", "2s").insert({"eventId": "n", **NEW}).history) == ["e2", "e1", "e3", "n"]


def test_a_partial_history_stays_partial(tmp_path):
    lab = eslab.Lab(tmp_path / "lab", tz="UTC", say=lambda notice: None)
    source = MemorySource(
        [
            Record(topic="t", key=b"1", timestamp_ms=at, value=dumps({"eventId": f"e{at}", "eventType": "T", "data": {"aId": "1"}}))
            for at in range(4)
        ]
    )
    lab.snapshot(source, start={"t": {0: 2}}, progress=False)
    h = lab.history("a", "1")
    assert "not requested" in h.partial
    assert lab.what_if(h).drop("e2").drop("e3").history.partial == h.partial


def test_a_handler_that_raises_fails_its_side(lab):
    projection = eslab.Projection("strict", aggregate="order")
    projection.on("Created")(lambda state, event: {"total": event.data["total"]})
    projection.on("Paid", "Noted")(lambda state, event: {**state, "left": state["total"] - 5})
    w = lab.what_if(lab.history("order", "o1", projection=projection)).drop("e1")
    assert w.history[0].marks == ("failed",)
    compared = w.compare()
    assert [row.differs for row in compared] == [True] * 4
    assert "What if it fails at version 1: KeyError: 'total'." in repr(compared)
    worlds = lab.what_if(projection).drop("e1").compare()
    assert worlds.df().loc["o1"].to_dict() == {"kind": "failed", "paths": [], "problem": "what if failed: KeyError: 'total' (at e2)"}


def test_nothing_is_written(lab, w):
    def files():
        return {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in lab.path.rglob("*")}

    before = files()
    every = w.drop("e2", effects=True).edit("e1", {"data.total": 1}).insert(NEW).move("e4", before="e1").duplicate("e1").delay("e4", 5)
    every.compare().df()
    lab.what_if("order").drop("e2").compare().df()
    assert files() == before
    assert ids(lab.history("order", "o1")) == ["e1", "e2", "e3", "e4"]


# --- both timelines


def test_the_timelines_stand_side_by_side_and_it_is_told_where_they_part(w):
    compared = w.drop("e2", effects=True).edit("e1", {"data.total": 10}).compare()
    assert [(row.left and row.left.version, row.right and row.right.version, row.done) for row in compared] == [
        (1, 1, "edited"),
        (2, None, "dropped"),
        (3, None, "dropped"),
        (4, 2, ""),
    ]
    assert compared.divergence.event.id == "e1"
    assert str(compared.divergence.paths) == str(compared[0].paths)
    assert {str(change) for change in compared.changes} == {"paid: true → —", 'status: "shipped" → —'}
    assert not compared.healed
    assert repr(compared) == (
        "<Timelines of order o1: 4 steps as it was, 2 in the what-if. They part after Created e1 (edited), recorded 2026-01-01 09:00:00 UTC, in total; "
        "at the end 2 paths differ.>"
    )
    assert w.edit("e1", {"data.total": 10}).compare().healed
    assert "at the end they are the same again" in repr(w.edit("e1", {"data.total": 10}).compare())
    assert w.duplicate("e1").compare().divergence is None
    assert "nothing comes out different" in repr(w.duplicate("e1").compare())
    assert "none of it touches this history" in repr(w.drop("x1").compare())


def test_the_timelines_are_a_table_and_a_view_that_reads_without_css(w):
    compared = w.drop("e2").move("e4", before="e1").compare()
    frame = compared.df()
    assert frame["left_version"].tolist() == [pd.NA, 1, 2, 3, 4]
    assert frame["right_version"].tolist() == [1, 2, pd.NA, 3, pd.NA]
    assert frame["done"].tolist() == ["moved", "", "dropped", "", "moved"]
    assert frame["right"].tolist()[-1] == compared.after.at().value
    table = compared.arrow()
    assert json.loads(table["left"].to_pylist()[-1]) == compared.before.at().value
    page = compared._repr_html_()
    assert "differs: orderId, total" in page
    assert "drop e2; move e4 before e1" in page
    assert "<td" in page


def test_a_long_pair_of_timelines_shows_what_was_touched_and_says_how_much_more_there_is():
    lab = eslab.play([{"eventId": f"e{at}", "eventType": "T", "data": {"aId": "1", "n": at}} for at in range(300)])
    page = lab.what_if(lab.history("a", "1")).drop("e150").compare()._repr_html_()
    assert page.count("e150") >= 2
    assert "294 rows more" in page
    assert len(page) < 10_000


# --- the world


def test_only_the_keys_that_are_touched_are_folded_once_on_either_side():
    calls = Counter()
    lab = eslab.play([{"eventId": f"e{at}", "eventType": "T", "data": {"aId": f"a{at % 50}", "n": at}} for at in range(500)])
    counted = eslab.Projection("counted", aggregate="a")

    @counted.on("T")
    def fold(state, event):
        calls[event.aggregate_id] += 1
        return {"sum": state.get("sum", 0) + event.data["n"]}

    compared = lab.what_if(counted).drop("e7").edit("e108", {"data.n": 0}).duplicate("e8").compare()
    assert calls == {"a7": 10 + 9, "a8": 10 + 11}
    assert compared.counts == {"changed": 2, "came": 0, "went": 0, "failed": 0, "equal": 0, "ended": 0}
    whole = lab.replay(counted, progress=False)
    assert compared.before["a7"] == whole["a7"]
    assert compared.after["a7"]["sum"] == whole["a7"]["sum"] - 7
    assert compared.after["a8"]["sum"] == whole["a8"]["sum"] - 108 + 8


def test_a_world_tells_of_each_key_what_it_comes_to(lab):
    compared = lab.what_if("order").drop("e2", effects=True).edit("e4", {"data.orderId": "o3"}).compare()
    assert compared.df()["kind"].to_dict() == {"o1": "changed", "o2": "went", "o3": "came"}
    assert list(compared) == ["o1", "o2", "o3"]
    assert [row.done for row in compared["o3"]] == ["edited"]
    assert repr(compared) == "<WorldTimelines of default(order) v1: 3 order keys touched: 1 changed, 1 came, 1 went>"
    assert set(compared.changes["o1"]) == set(compared["o1"].changes)
    assert compared.arrow()["kind"].to_pylist() == ["changed", "went", "came"]
    assert "o3" in compared._repr_html_()
    with pytest.raises(UnknownId, match="is not among the 3 that are touched: it is as it was"):
        compared["o9"]
    assert len(lab.what_if("order").compare()) == 0
    ended = lab.what_if("order").insert(None, key="o2", after="x1")
    assert ended.compare().df()["kind"].to_dict() == {"o2": "went"}
    assert lab.what_if("order", ended=True).insert(None, key="o2", after="x1").compare().df()["kind"].to_dict() == {"o2": "changed"}


def test_worlds_by_other_keys_and_of_a_moment_are_changed_alike(lab):
    everything = eslab.Projection("all", key=None)
    everything.on("Created", "Noted")(lambda state, event: {"n": state.get("n", 0) + event.data["total"]})
    compared = lab.what_if(everything).edit("e1", {"data.total": 100}).compare()
    assert (compared.before["all"], compared.after["all"]) == ({"n": 21}, {"n": 116})
    until = lab.what_if(everything, at="09:00:03").delay("e4", "30s").compare()
    assert (until.before["all"], until.after["all"]) == ({"n": 12}, {"n": 5})
    typed = eslab.Projection("typed", key="type")
    typed.on("Created", "Paid", "New")(lambda state, event: {"n": state.get("n", 0) + 1})
    compared = lab.what_if(typed).edit("e1", {"type": "New"}).compare()
    assert compared.df()["kind"].to_dict() == {"Created": "changed", "New": "came"}
    assert [row.done for row in compared["Created"]] == ["edited", ""]
    own = eslab.Projection("own", key=lambda event: event.data["orderId"].upper())
    own.on("Created")(lambda state, event: event.data)
    assert list(lab.what_if(own).drop("x1").compare()) == ["O2"]


# --- against a plain fold over an edited list


class Plain:
    """The lab's order as a Python list, and the verbs as what they do to one. `base` is by which place an item that comes at a time finds its own."""

    def __init__(self, oracle: Oracle, chance: random.Random) -> None:
        self.oracle, self.chance = oracle, chance
        self.list: list[tuple[Event, tuple]] = [(event, event.order) for event in oracle.log]
        self.verbs = 0

    def at(self, one):
        return Coordinates(*one.life, one.offset)

    def renewed(self, event: Event, **record) -> Event:
        made = Event(event.life, record.get("offset", event.offset), {**event.record, **record})
        self.oracle._read(made, self.oracle.topics[event.life[0]])
        return made

    def put(self, event: Event, base: tuple, index: int) -> None:
        event.order_ms = base[0]
        self.list.insert(index, (event, base))

    def put_in_time(self, event: Event, ms: int) -> None:
        base = (ms, *event.life, event.offset)
        self.put(event, base, sum(one < base for _, one in self.list))

    def step(self, whatif):
        """One verb, of both."""
        self.verbs += 1
        chance = self.chance
        index = chance.randrange(len(self.list))
        event, base = self.list[index]
        verb = chance.choice(["drop", "effects", "edit", "edit", "move", "at", "delay", "duplicate", "later", "insert"])
        if verb == "drop":
            del self.list[index]
            return whatif.drop(self.at(event))
        if verb == "effects":
            return self.drop_with_effects(event, whatif)
        if verb == "edit":
            return self.edit(index, whatif)
        if verb == "move":
            other = chance.randrange(len(self.list))
            if other == index:
                return whatif.drop(self.at(self.list.pop(index)[0]))
            beside, where = self.list[other], chance.choice(["before", "after"])
            self.list.remove((event, base))
            place = self.list.index(beside) + (where == "after")
            self.put(self.renewed(event, timestamp_ms=beside[1][0]), beside[1], place)
            return whatif.move(self.at(event), **{where: self.at(beside[0])})
        if verb in ("at", "delay"):
            ms = BASE_MS + chance.randint(0, 360_000) if verb == "at" else event.order_ms + chance.randint(1, 90_000)
            del self.list[index]
            self.put_in_time(self.renewed(event, timestamp_ms=ms), ms)
            return (
                whatif.move(self.at(event), at=moment(ms))
                if verb == "at"
                else whatif.delay(self.at(event), dt.timedelta(milliseconds=ms - event.order_ms))
            )
        if verb == "duplicate":
            self.put(self.renewed(event, offset=-self.verbs), base, index + 1)
            return whatif.duplicate(self.at(event))
        if verb == "later":
            ms = event.order_ms + 30_000
            self.put_in_time(self.renewed(event, offset=-self.verbs, timestamp_ms=ms), ms)
            return whatif.duplicate(self.at(event), delay="30s")
        payload = {"eventId": "new", "eventType": "Added", "causationId": "e1", "data": {"orderId": chance.choice(IDS), "n": 5}}
        lives = sorted(life for life in self.oracle.newest if life[0] == "orders")
        life = event.life if event.life in lives else lives[0]
        made = Event(
            life, -self.verbs, {"key": None, "value": json.dumps(payload).encode(), "timestamp_ms": base[0], "timestamp_type": "create"}
        )
        self.oracle._read(made, self.oracle.topics["orders"])
        self.put(made, base, index)
        return whatif.insert(payload, before=self.at(event), topic="orders")

    def edit(self, index: int, whatif):
        event, base = self.list[index]
        data = json.loads(event.record["value"]).get("data") if event.kind == "event" else 0
        if data is not None and not isinstance(data, dict):
            self.verbs -= 1
            return whatif
        path, value = self.chance.choice(
            [("n", 7), ("n", MISSING), ("orderId", self.chance.choice(IDS)), ("parcelId", "b"), ("note", {"x": [10**30, None]})]
        )
        payload = json.loads(event.record["value"], parse_float=Digits)
        payload["data"] = {
            name: inner for name, inner in {**((data and payload["data"]) or {}), path: value}.items() if inner is not MISSING
        }
        made = self.renewed(event, value=written(payload))
        made.order_ms = event.order_ms
        self.list[index] = (made, base)
        return whatif.edit(self.at(event), {f"data.{path}": value})

    def drop_with_effects(self, event: Event, whatif):
        names = {event.name} - {None}
        links = [*self.oracle.log, *(one for one, _ in self.list)]
        while grown := {one.name for one in links if one.kind == "event" and one.parts["causation_id"] in names} - names:
            names |= grown
        self.list = [(one, base) for one, base in self.list if one.name not in names and one is not event]
        return whatif.drop(self.at(event), effects=True)

    def history(self, key, held=lambda event: True):
        return [event for event, _ in self.list if key in event.keys and held(event)]


class Digits(str):
    __slots__ = ()


def written(payload) -> bytes:
    """JSON with the digits that its numbers had."""
    if isinstance(payload, dict):
        return b"{" + b",".join(json.dumps(name).encode() + b":" + written(inner) for name, inner in payload.items()) + b"}"
    if isinstance(payload, list):
        return b"[" + b",".join(map(written, payload)) + b"]"
    return payload.encode() if isinstance(payload, Digits) else json.dumps(payload).encode()


def check_histories(lab, oracle, plain, verbs, keys, held, **options):
    for key in keys:
        before = [event for event in oracle.histories[key] if held(event)]
        whatif = lab.what_if(lab.history(*key, **options))
        for verb in verbs:
            whatif = verb(whatif)
        after = plain.history(key, held)
        assert [step.event.coordinates for step in whatif.history] == [plain.at(event) for event in after]
        assert [step.event.order_at for step in whatif.history] == [event.order_at for event in after]
        wanted = oracle.states(key, after)
        assert [canonical(step.after) for step in whatif.history] == [canonical(state) for state in wanted[1:]]
        left, right = oracle.states(key, before), wanted
        at = [0, 0]
        parted = None
        compared = whatif.compare()
        for row, pair in enumerate(compared):
            at = [at[0] + (pair.left is not None), at[1] + (pair.right is not None)]
            assert [canonical(state) for state in pair.states] == [canonical(left[at[0]]), canonical(right[at[1]])]
            assert pair.differs is not same(left[at[0]], right[at[1]])
            parted = row if pair.differs and parted is None else parted
            if pair.left and pair.right:
                assert pair.left.event.coordinates == pair.right.event.coordinates
        assert at == [len(before), len(after)]
        first = compared.divergence
        assert (first is None) == (parted is None)


class Recorded:
    """Takes down what is asked of a what-if."""

    def __init__(self, verbs) -> None:
        self.verbs = verbs

    def __getattr__(self, name):
        def verb(*told, **options):
            return Recorded([*self.verbs, lambda whatif: getattr(whatif, name)(*told, **options)])

        return verb


@few(3)
@given(logs(), st.integers(0, 2**32))
def test_a_changed_history_is_a_plain_fold_over_an_edited_list(log, seed):
    chance = random.Random(seed)
    with tempfile.TemporaryDirectory() as folder:
        lab = captured(Path(folder) / "lab", log)
        oracle = Oracle(lab.path)
        plain, recorded = Plain(oracle, chance), Recorded([])
        for _ in range(chance.randint(1, 4)):
            recorded = plain.step(recorded) if plain.list else recorded
        keys = [chance.choice(oracle.keys)]
        check_histories(lab, oracle, plain, recorded.verbs, keys, lambda event: True)
        until = chance.choice(oracle.log).order_at
        check_histories(lab, oracle, plain, recorded.verbs, keys, lambda event: event.order_at <= until, at=until)
        check_histories(lab, oracle, plain, recorded.verbs, keys, lambda event: event.happened <= until, at=until, clock="happened")


@few(3)
@given(logs(), st.integers(0, 2**32))
def test_a_changed_world_is_one_too_and_untouched_keys_are_as_they_were(log, seed):
    chance = random.Random(seed)
    with tempfile.TemporaryDirectory() as folder:
        lab = captured(Path(folder) / "lab", log)
        oracle = Oracle(lab.path)
        aggregate = chance.choice([name for name in ("order", "item", "parcel") if any(key[0] == name for key in oracle.keys)])
        plain = Plain(oracle, chance)
        whatif = lab.what_if(aggregate)
        for _ in range(chance.randint(1, 4)):
            whatif = plain.step(whatif) if plain.list else whatif
        compared = whatif.compare()

        def world(log):
            found = replace_log(oracle, log)
            return {identity: canonical(state) for identity, (_, state) in found.world(aggregate).items()}

        before, after = world(oracle.log), world([event for event, _ in plain.list])
        for key in before.keys() | after.keys():
            if key not in compared:
                assert before[key] == after[key], "untouched"
        for side, wanted in ((compared.before, before), (compared.after, after)):
            assert {key: canonical(state) for key, state in side.items()} == {
                key: state for key, state in wanted.items() if key in compared
            }
            assert not side.failed


def replace_log(oracle: Oracle, log: list[Event]) -> Oracle:
    """The oracle of another log."""
    other = Oracle.__new__(Oracle)
    vars(other).update(vars(oracle))
    other.log = log
    return other


def test_a_fault_in_how_rows_are_laid_over_others_would_be_found(monkeypatch):
    lab = eslab.play(SHOP)
    oracle = Oracle(lab.path)

    def check():
        plain = Plain(oracle, random.Random(1))
        event, _ = plain.list.pop(0)
        plain.put_in_time(plain.renewed(event, timestamp_ms=event.order_ms + 2500), event.order_ms + 2500)
        check_histories(lab, oracle, plain, [lambda whatif: whatif.delay("e1", "2.5s")], [("order", "o1")], lambda event: True)

    check()
    for fault in (lambda self, part: None, lambda self, part: np.arange(len(part.table)) > 1):
        monkeypatch.setattr(Overlay, "_kept", fault)
        with pytest.raises(AssertionError):
            check()
