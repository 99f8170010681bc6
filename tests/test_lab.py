import datetime as dt
import gc
import json
import os
import threading
import time
from itertools import pairwise

import pandas as pd
import pytest

import eslab
from eslab import Coordinates, Cut, Lab, Record
from eslab.errors import (
    ConfigError,
    LabBusy,
    MomentError,
    NaiveTime,
    NotALab,
    ProjectionError,
    SourceError,
    UnknownEvent,
    UnknownId,
    VersionOutOfRange,
)
from eslab.locking import writer_lock
from eslab.model import dumps
from eslab.sources.memory import MemorySource

NOON = 1_773_313_200_000  # 2026-03-12 12:00:00 in Berlin


def order(number, at, kind="OrderChanged", **data):
    value = dumps({"eventId": f"e{at}", "eventType": kind, "data": {"orderId": f"o{number}", **data}})
    return Record(topic="orders", partition=number % 2, key=f"o{number}".encode(), timestamp_ms=NOON + at * 1000, value=value)


@pytest.fixture
def source():
    return MemorySource([order(at % 3, at, total=at) for at in range(30)])


@pytest.fixture
def lab(tmp_path, source):
    made = Lab(tmp_path / "shop", tz="Europe/Berlin", say=lambda text: None)
    made.snapshot(source, progress=False)
    return made


def test_a_missing_or_empty_folder_is_an_empty_lab_and_stays_untouched(tmp_path):
    assert "empty" in repr(Lab(tmp_path / "none"))
    assert "empty" in repr(Lab(tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_holds_something_else_is_refused(tmp_path):
    (tmp_path / "thesis.doc").write_text("mine")
    with pytest.raises(NotALab, match="something else"):
        Lab(tmp_path)
    with pytest.raises(NotALab):
        Lab(tmp_path / "thesis.doc")


def test_a_zone_that_is_none_is_named(tmp_path):
    with pytest.raises(ConfigError, match="Mars"):
        Lab(tmp_path, tz="Mars")


def test_a_moment_is_inclusive_and_versions_count_from_one(lab):
    history = lab.history("order", "o1")
    assert len(history) == 10
    assert history[0].version == 1
    assert history[-1].version == 10
    assert history.at("12:00:04").version == 2
    assert history.at("12:00:03.999").version == 1
    assert history.at(version=2)["total"] == 4
    assert history.at(event_id="e4").version == 2
    assert history.at(event_id="e5").version == 2
    assert history.at(cut=lab.cut("12:00:04")).version == 2
    assert history.at().version == 10


def test_before_the_birth_and_after_the_end_are_answers(lab):
    history = lab.history("order", "o1")
    born, over = history.at("11:00"), history.at("23:00")
    assert (born.value, born.version, born.event) == ({}, 0, None)
    assert "first event at 2026-03-12 12:00:01 CET" in born.note
    assert (over.version, "log ends at 2026-03-12 12:00:29 CET" in over.note) == (10, True)
    assert history.at(version=0).version == 0


def test_what_names_no_moment_raises(lab):
    history = lab.history("order", "o1")
    with pytest.raises(VersionOutOfRange, match="10 versions"):
        history.at(version=11)
    with pytest.raises(VersionOutOfRange):
        history.at(-1)
    with pytest.raises(UnknownEvent, match="nope"):
        history.at(event_id="nope")
    with pytest.raises(MomentError, match="no time"):
        history.at("soon")
    with pytest.raises(MomentError, match="one moment"):
        history.at("12:00", version=3)
    with pytest.raises(VersionOutOfRange):
        history[10]


@pytest.mark.parametrize("moment", ["2026-03-12 12:00", "12:00", dt.datetime(2026, 3, 12, 12)])  # noqa: DTZ001
def test_a_time_without_zone_in_a_lab_without_zone_says_tz(lab, moment):
    with pytest.raises(NaiveTime, match="tz="):
        Lab(lab.path).history("order", "o1").at(moment)


def test_the_same_moment_in_every_spelling_is_the_same_cut(lab):
    told = ["12:00:10", "2026-03-12 12:00:10", "2026-03-12T11:00:10Z", dt.datetime(2026, 3, 12, 11, 0, 10, tzinfo=dt.UTC)]
    assert len({lab.cut(moment) for moment in told}) == 1
    cut = lab.cut(told[0])
    assert cut.offsets == {("orders", 0, 0): 7, ("orders", 1, 0): 4}
    assert "12:00:10 CET" in repr(cut)
    assert Cut.from_json(cut.to_json()) == cut


@pytest.mark.parametrize(("moment", "word"), [("2026-10-25 02:30", "comes twice"), ("2026-03-29 02:30", "does not come")])
def test_a_time_that_a_changed_clock_makes_unclear_is_not_guessed(lab, moment, word):
    with pytest.raises(MomentError, match=word) as caught:
        lab.cut(moment)
    for offset in ("+01:00", "+02:00"):
        assert f"{moment.replace(' ', 'T')}:00{offset}" in str(caught.value)
        lab.cut(f"{moment}:00{offset}")


@pytest.mark.parametrize("told", [5, 1.5, dt.date(2026, 3, 12), pd.NaT, "9999-12-31T23:59:59-05:00", "0001-01-01T00:00:00+05:00"])
def test_what_is_no_time_is_said_in_one_sentence(lab, told):
    with pytest.raises(MomentError):
        lab.cut(told)


@pytest.mark.parametrize("told", [{"orders": 5}, {"orders": {"0": 1}}, {"orders": {0: "1"}}, {"orders": {0: None}}])
def test_offsets_that_are_none_say_how_to_write_them(lab, told):
    with pytest.raises(MomentError, match="write it like"):
        lab.cut(offsets=told)


@pytest.mark.parametrize("told", [5, ("orders", 0), ["orders", 0, 1]])
def test_what_names_no_event_says_what_does(lab, told):
    with pytest.raises(MomentError, match="names no event"):
        lab.cut(event_id=told)


def test_an_event_of_an_older_incarnation_is_not_taken_for_the_newest_ones(lab):
    with pytest.raises(UnknownEvent, match="orders/1~1/3"):
        lab.cut(event_id=Coordinates("orders", 1, 1, 3))


def test_a_bare_clock_needs_a_lab_of_one_day(lab, source):
    source.append(order(1, 86_400))
    lab.snapshot(source, progress=False)
    with pytest.raises(MomentError, match=r"covers 2026-03-12 to 2026-03-13"):
        lab.cut("12:00")


def test_a_cut_by_an_event_holds_what_comes_before_it_in_the_labs_order(lab):
    assert lab.cut(event_id="e10").offsets == {("orders", 0, 0): 7, ("orders", 1, 0): 4}
    assert lab.cut(event_id=("orders", 1, 3)) == lab.cut(event_id="e10")
    assert lab.cut(event_id=Coordinates("orders", 1, 0, 3)) == lab.cut(event_id="e10")


def test_partitions_that_offsets_do_not_name_are_excluded_and_listed(lab):
    cut = lab.cut(offsets={"orders": {0: 3}})
    assert cut.excluded == (("orders", 1, 0),)
    assert set(lab.replay("order", at=cut, progress=False)) == {"o0", "o2"}
    with pytest.raises(MomentError, match=r"orders\[7\]"):
        lab.cut(offsets={"orders": {7: 1}})


def test_a_history_ends_where_it_is_cut(lab):
    assert len(lab.history("order", "o1", at="12:00:10")) == 4
    assert len(lab.history("order", "o1", at=lab.cut(offsets={"orders": {0: 3}}))) == 0


def test_an_id_never_seen_says_where_to_look(lab):
    with pytest.raises(UnknownId, match=r"lab\.find"):
        lab.history("order", "o99")
    with pytest.raises(UnknownId, match="the lab has order"):
        lab.history("basket", "o1")
    with pytest.raises(UnknownId, match=r"no order 'o99'"):
        lab.replay("order", progress=False)["o99"]


def test_the_change_between_two_moments(lab):
    history = lab.history("order", "o1")
    assert [str(change) for change in history.diff(1, 2)] == ["total: 1 → 4"]
    assert history.diff("12:00:01", "12:00:04") == history.diff(1, 2)
    assert len(history.diff(2, 2)) == 0


def test_iteration_gives_the_state_before_and_after_each_step(lab):
    steps = list(lab.history("order", "o1"))
    assert [step.after["total"] for step in steps] == [1, 4, 7, 10, 13, 16, 19, 22, 25, 28]
    assert all(left.after == right.before for left, right in pairwise(steps))
    frame = lab.history("order", "o1").df()
    assert list(frame.index) == list(range(1, 11))
    assert str(frame["recorded_at"].dt.tz) == "Europe/Berlin"


def test_a_handler_sees_the_whole_event_and_is_replaced_when_defined_again(lab):
    seen = eslab.Projection("seen", aggregate="order")

    @seen.on("OrderChanged")
    def wrong(state, event):
        return {"wrong": True}

    @seen.on("OrderChanged")
    def last(state, event):
        return {"id": event.id, "at": event.recorded_at, "where": str(event.coordinates), "total": event.data["total"], "key": event.key}

    state = lab.history("order", "o1", projection=seen).at(version=2)
    moment = dt.datetime(2026, 3, 12, 11, 0, 4, tzinfo=dt.UTC)
    assert state.value == {"id": "e4", "at": moment, "where": "orders/1/1", "total": 4, "key": "o1"}
    world = lab.replay(seen, at="12:00:04", progress=False)
    assert world["o1"] == state.value
    assert len(world) == 3


def test_a_copied_projection_is_the_next_version_and_changes_apart_from_the_first():
    first = eslab.Projection("seen", aggregate="order", initial={"n": 0})
    first.on("OrderCreated")(lambda state, event: {"n": state["n"] + 1})
    second = first.copy()
    second.on("OrderCreated")(lambda state, event: {"n": state["n"] + 10})
    second.on("OrderShipped")(lambda state, event: state)
    assert (first.version, second.version, second.name, first.types) == (1, 2, "seen", ("OrderCreated",))
    assert (first.copy(name="other").version, first.copy(version=7).version) == (1, 7)
    toy = eslab.play([{"eventType": "OrderCreated", "data": {"orderId": "o1"}}])
    assert [dict(toy.replay(one, progress=False)) for one in (first, second)] == [{"o1": {"n": 1}}, {"o1": {"n": 10}}]


def test_what_sql_finds_in_a_played_lab_can_be_read_when_nothing_holds_the_lab_any_more():
    relation = eslab.play([{"eventType": "OrderCreated", "data": {"orderId": "o1"}}]).sql("from events select event_type")
    gc.collect()
    assert relation.fetchall() == [("OrderCreated",)]


def test_the_folder_of_a_played_lab_goes_with_it():
    lab = eslab.play([{"eventType": "OrderCreated", "data": {"orderId": "o1"}}])
    folder = lab.path
    assert sorted(one.name for one in folder.iterdir() if one.is_file()) == ["lab.toml"], "no lab.duckdb, which nobody else would open"
    del lab
    gc.collect()
    assert not folder.exists()


def test_a_handler_that_raises_fails_its_key_alone_and_the_world_says_so(lab):
    picky = eslab.Projection("picky", aggregate="order")

    @picky.on("OrderChanged")
    def handler(state, event):
        state["seen"] = event.data["total"]  # changes what it was given, as handlers must not
        if event.data["total"] == 7:
            raise ValueError("seven")
        return dict(state)

    world = lab.replay(picky, progress=False)
    assert set(world) == {"o0", "o2"}
    assert [(failure.key, failure.event_id, failure.error) for failure in world.failed] == [("o1", "e7", "ValueError: seven")]
    assert not world.complete
    assert "incomplete" in repr(world)
    with pytest.raises(UnknownId, match="failed at event e7: ValueError: seven"):
        world["o1"]
    history = lab.history("order", "o1", projection=picky)
    assert [step.marks for step in history[1:4]] == [(), ("failed",), ("skipped",)]
    assert history[2].after == {"seen": 4}
    assert history[9].after == {"seen": 4}
    assert "step 3 failed" in history.at().note
    assert [step.after for step in history] == [history[at].after for at in range(10)]


@pytest.mark.parametrize("state", [None, {"a": {1}}, float("nan"), {"a": object()}])
def test_what_is_no_state_fails_the_key_with_a_sentence(lab, state):
    bad = eslab.Projection("bad", aggregate="order")
    bad.on("OrderChanged")(lambda before, event: state)
    world = lab.replay(bad, progress=False)
    assert len(world) == 0
    assert len(world.failed) == 3
    assert "\n" not in world.failed[0].error


def test_a_projection_without_handlers_is_refused(lab):
    with pytest.raises(ProjectionError, match="no handlers"):
        lab.replay(eslab.Projection("none", aggregate="order"))
    with pytest.raises(ProjectionError, match="event types"):
        eslab.Projection("none", aggregate="order").on()


def test_a_world_of_some_keys_is_the_same_as_in_the_world_of_all(lab):
    everything = lab.replay("order", at="12:00:20", progress=False)
    some = lab.replay("order", at="12:00:20", keys=["o2", "o0", "o0", "none"], progress=False)
    assert dict(some) == {key: everything[key] for key in ("o0", "o2")}
    assert list(everything.df().index) == ["o0", "o1", "o2"]
    assert everything.arrow().column_names == ["aggregate_id", "version", "state"]


def test_a_tombstone_ends_a_key_unless_it_is_handled(lab, source):
    source.append(Record(topic="orders", partition=1, key=b"o1", value=None, timestamp_ms=NOON + 60_000))
    lab.snapshot(source, progress=False)
    assert set(lab.replay("order", progress=False)) == {"o0", "o2"}
    assert lab.replay("order", ended=True, progress=False)["o1"] == {}
    assert lab.history("order", "o1")[-1].marks == ("tombstone",)
    kept = eslab.Projection("kept", aggregate="order")
    kept.on(eslab.TOMBSTONE)(lambda state, event: {"erased": True})
    assert lab.replay(kept, progress=False)["o1"] == {"erased": True}


def test_both_clocks_are_asked_apart(tmp_path):
    def told(at, happened):
        return Record(
            topic="t",
            key=b"1",
            timestamp_ms=NOON + at * 1000,
            value=dumps({"eventType": "T", "timestamp": happened, "data": {"anId": "1", "n": at}}),
        )

    lab = Lab(tmp_path / "lab", tz="Europe/Berlin", say=lambda text: None)
    lab.snapshot(
        MemorySource([told(0, "2026-03-12T12:00:00+01:00"), told(10, "2026-03-12T11:59:00+01:00"), told(20, None)]), progress=False
    )
    assert [step.after["n"] for step in lab.history("an", "1", at="12:00:05")] == [0]
    assert [step.after["n"] for step in lab.history("an", "1", at="11:59:30", clock="happened")] == [10]
    assert lab.history("an", "1", clock="happened").at("11:59:30")["n"] == 10
    assert lab.replay("an", at="11:59:30", clock="happened", progress=False)["1"]["n"] == 10
    assert lab.replay("an", at="12:00:20", clock="happened", progress=False)["1"]["n"] == 20
    with pytest.raises(MomentError, match="recorded"):
        lab.history("an", "1", clock="wall")


def test_a_clock_that_runs_ahead_is_told_and_mended_by_the_line_that_is_suggested(tmp_path):
    def told(at, ahead=0):
        source = "bad" if ahead else "good"
        return Record(
            topic="t",
            key=b"1",
            timestamp_ms=NOON + (at + ahead) * 1000,
            value=dumps({"eventType": "T", "source": source, "data": {"anId": "1", "n": at}}),
        )

    said = []
    lab = Lab(tmp_path / "lab", tz="Europe/Berlin", say=said.append)
    lab.snapshot(MemorySource([told(0), told(10), told(20, ahead=1200), told(30), told(40)]), progress=False)
    assert lab.history("an", "1").at("12:01").version == 2
    (line,) = [text for text in said if "clock" in text]
    assert "19.8 min ahead at offset 2 (source bad); 2 records" in line
    eval(line.split("To mend it: ")[1], {"lab": lab})
    assert lab.history("an", "1").at("12:01").version == 5
    assert lab.history("an", "1").at("12:00:15").version == 3
    assert "suspect" not in repr(lab)
    assert Lab(lab.path, tz="UTC").history("an", "1").at("11:01").version == 5


def test_a_history_that_may_miss_events_is_partial_and_says_where(tmp_path, source):
    lab = Lab(tmp_path / "shop", say=lambda text: None)
    lab.snapshot(source, start={"orders": {0: 0, 1: 4}}, progress=False)
    assert "orders[1] lacks 4 offsets in 0–3 (not requested)" in lab.history("order", "o1").partial
    assert "partial" in repr(lab.history("order", "o1").at())
    assert lab.history("order", "o2").partial == ""
    world = lab.replay("order", progress=False)
    assert world.partial == {"o1"}
    assert not world.complete
    lab.snapshot(source, start=0, progress=False)
    assert lab.history("order", "o1").partial == ""


def test_times_bound_a_snapshot(tmp_path, source):
    lab = Lab(tmp_path / "shop", tz="Europe/Berlin", say=lambda text: None)
    lab.snapshot(source, start="2026-03-12 12:00:10", stop="2026-03-12 12:00:20", progress=False)
    assert lab.sql("select min(data ->> 'total'), max(data ->> 'total') from events").fetchall() == [("10", "19")]


def test_bounds_that_are_none_say_how_to_write_them(lab, source):
    for bound in ({"orders": 5}, {("orders",): 5}, {("orders", 0): None}):
        with pytest.raises(MomentError, match="write them like"):
            lab.snapshot(source, start=bound, progress=False)


def test_what_is_no_event_cannot_be_played():
    with pytest.raises(SourceError, match="give a dict"):
        eslab.play([5])


def test_find_takes_any_id(lab):
    assert list(lab.find("o1").df()["as"]) == ["aggregate", "key", "value"]
    assert "event OrderChanged" in repr(lab.find("e4"))
    assert len(lab.find("nothing")) == 0
    assert "nothing captured" in repr(lab.find("nothing"))


def test_a_mapping_that_fits_no_event_is_one_sentence_and_loses_nothing(tmp_path, source):
    path = tmp_path / "shop"
    path.mkdir()
    (path / "lab.toml").write_text('format_version = 1\n[topics.orders]\naggregates = [{ name = "order", id = "data.ordrId" }]\n')
    lab = Lab(path, say=lambda text: None)
    with pytest.raises(ConfigError, match=r"orders: none of its 30 events has data\.ordrId"):
        lab.snapshot(source, progress=False)
    (path / "lab.toml").write_text('format_version = 1\n[topics.orders]\naggregates = [{ name = "order", id = "data.orderId" }]\n')
    assert len(Lab(path).history("order", "o1")) == 10


def test_a_changed_mapping_is_seen_at_the_next_question(lab):
    assert lab.sql("select distinct aggregate from history").fetchall() == [("order",)]
    text = (lab.path / "lab.toml").read_text()
    (lab.path / "lab.toml").write_text(text.replace('"order"', '"basket"'))
    assert lab.sql("select distinct aggregate from history").fetchall() == [("basket",)]


def test_what_was_derived_can_be_deleted(lab):
    before = lab.history("order", "o1").df()
    for path in (lab.path / "events").iterdir():
        path.unlink()
    (lab.path / "lab.duckdb").unlink()
    again = Lab(lab.path, tz="Europe/Berlin").history("order", "o1").df()
    assert before.equals(again)


def test_verify_says_all_is_well_or_what_is_not(lab):
    assert lab.verify(progress=False).ok
    segment = next((lab.path / "log").glob("orders/1/0/*.parquet"))
    data = bytearray(segment.read_bytes())
    data[len(data) // 3] ^= 0x40
    segment.unlink()
    segment.write_bytes(data)
    told = Lab(lab.path).verify(progress=False)
    assert not told.ok
    assert segment.name in repr(told)
    segment.unlink()
    assert "no segment holds them now" in repr(Lab(lab.path).verify(progress=False))


def test_a_follower_brings_what_comes_and_stops_when_told(lab, source):
    """The interrupt is raised where Ctrl-C would be: in the thread that captures."""
    seen = []

    def feed():
        for at in range(30, 60):
            source.append(order(at % 3, at, total=at))
            time.sleep(0.02)

    reading = source.partitions

    def partitions(topics):
        seen.append(len(Lab(lab.path).history("order", "o1")))
        if seen[-1] == 20:
            raise KeyboardInterrupt
        return reading(topics)

    source.partitions = partitions
    feeder = threading.Thread(target=feed)
    feeder.start()
    with pytest.raises(KeyboardInterrupt):
        lab.snapshot(source, follow=True, progress=False)
    feeder.join()
    source.partitions = reading
    lab.snapshot(source, progress=False)
    assert lab.history("order", "o1").at()["total"] == 58
    assert lab.verify(progress=False).ok


def test_reading_goes_on_while_another_process_writes(lab, source):
    source.append(order(1, 99, total=99))
    with writer_lock(lab.path):
        assert len(lab.history("order", "o1")) == 10
        with pytest.raises(LabBusy, match=f"process {os.getpid()}"):
            lab.snapshot(source, progress=False)


def test_no_face_of_anything_lets_markup_through(tmp_path):
    bad = "<script>alert(1)</script>"
    lab = eslab.play([{"eventType": bad, "eventId": bad, "source": bad, "data": {"orderId": bad, bad: bad}}])
    history = lab.history("order", bad)
    faces = [
        lab,
        history,
        history.at(),
        history.diff(0, 1),
        lab.replay("order", progress=False),
        lab.find(bad),
        lab.gaps(),
        lab.verify(progress=False),
    ]
    for face in faces:
        assert "<script" not in face._repr_html_()
        assert repr(face)


def test_every_name_in_all_is_there():
    assert sorted(eslab.__all__) == sorted(set(eslab.__all__))
    assert all(hasattr(eslab, name) for name in eslab.__all__)


def test_a_lab_of_cuts_reads_its_json(lab):
    told = json.loads(lab.cut().to_json())
    assert told["offsets"][0] == {"topic": "orders", "partition": 0, "incarnation": 0, "next": 20, "store": told["offsets"][0]["store"]}
    assert told["offsets"][0]["store"]


def test_an_id_that_utf_8_cannot_hold_makes_no_event_of_a_played_record(capsys):
    lab = eslab.play([{"eventType": "OrderCreated", "data": {"orderId": "\ud800"}}])
    assert len(lab.find("\ud800")) == 0
    assert len(lab.sql("from problems").fetchall()) == 1


def test_a_tombstone_and_an_undecodable_record_are_called_so_wherever_they_are_shown():
    values = [b'{"eventType": "Created", "data": {"orderId": "o"}}', None, b"{broken"]
    lab = eslab.play([Record(topic="orders", key=b"o", value=value, timestamp_ms=1000 * at) for at, value in enumerate(values, 1)])
    h = lab.history("order", "o")
    names = ["Created", "(tombstone)", "(undecodable)"]
    for step, name in zip(h, names, strict=True):
        assert repr(step).startswith(f"<Step {step.version}: {name} ")
        assert repr(step.event).startswith(f"<Event {name} ")
        assert name in h._repr_html_()
    assert [*h.df()["event_type"]][:2] == names[:2]
    assert repr(eslab.MISSING) == str(eslab.MISSING) == "MISSING"
