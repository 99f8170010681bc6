"""What caused an event and what it caused."""

import datetime as dt
import random
from collections import Counter

import pandas as pd
import pytest
from chains import TYPES, chained, lab_of
from hypothesis import given
from hypothesis import strategies as st
from logs import few

import eslab
from eslab import linking
from eslab.endings import endings
from eslab.errors import MomentError, UnknownEvent
from eslab.model import Coordinates
from eslab.tracing import find_trace


def event(name, type_, cause=None, *, correlation="c1", at=None, **more):
    told = {"eventId": name, "eventType": type_, "causationId": cause, "correlationId": correlation, "data": {"orderId": "o1"}, **more}
    return told if at is None else {**told, "timestamp": f"2026-01-01T09:{at}:00Z"}


SHOP = [
    event("e1", "Created", "cmd-1", at="00"),
    event("e2", "Reserved", "e1", at="01"),
    event("e3", "Paid", "e2", at="05"),
    event("e4", "Delivered", "e3", at="20"),
    event("f1", "Created", "cmd-2", correlation="c2", at="21"),
    event("f2", "Reserved", "f1", correlation="c2", at="22"),
    event("e2", "Reserved", "e1", at="30"),
    event("g1", "Noted", correlation=None, at="40"),
]


@pytest.fixture(scope="module")
def lab():
    return eslab.play(SHOP)


# --- what is in it ------------------------------------------------------------------------------


def test_a_trace_is_the_tree_of_causes_with_the_times_between(lab):
    trace = lab.trace("e3", done=["Delivered"])
    assert [(one.depth, one.event_id) for one in trace] == [(0, "cmd-1"), (1, "e1"), (2, "e2"), (3, "e3"), (4, "e4")]
    assert [one.after for one in trace] == [None, None, *(dt.timedelta(minutes=minutes) for minutes in (1, 4, 15))]
    assert trace.open == []
    assert repr(trace).splitlines()[0] == "Trace of e3: 4 events in 1 topic over 20 min 0 s, from 2026-01-01 09:00:00 UTC"
    assert "  └ Reserved  e2  events/0/1  09:01:00 UTC  +1 min 0 s  [again at events/0/6]" in repr(trace).splitlines()


def test_every_event_of_a_tree_its_correlation_and_its_command_have_the_same_trace(lab):
    rows = lab.trace("e1").df()
    for told in ("c1", "cmd-1", Coordinates("events", 0, 0, 6)):
        pd.testing.assert_frame_equal(lab.trace(told).df(), rows)


def test_a_command_outside_the_log_is_a_root_and_no_open_end(lab):
    trace = lab.trace("c2", done=["Delivered"])
    assert [(one.event_id, one.marks) for one in trace.roots] == [("cmd-2", ("outside the log",))]
    (end,) = trace.open
    assert (end.event_id, *end.marks) == ("f2", "open: nothing came after it for 18 min 0 s")


def test_events_of_one_correlation_that_name_no_causes_are_roots_of_one_trace():
    lab = eslab.play([event(f"e{at}", "T", correlation="c") for at in range(3)])
    assert [(one.event_id, one.depth) for one in lab.trace("e1")] == [("e0", 0), ("e1", 0), ("e2", 0)]


def test_an_effect_under_another_correlation_is_followed():
    lab = eslab.play([event("e1", "A"), event("e2", "B", "e1", correlation="other"), event("e3", "C", "e2", correlation=None)])
    assert [one.event_id for one in lab.trace("c1")] == ["e1", "e2", "e3"]


def test_a_saga_whose_end_is_linked_by_no_cause_is_not_open():
    lab = eslab.play([event("e1", "A"), event("e2", "B", "e1", correlation="other"), event("e3", "Ended", correlation="other")])
    assert [one.event_id for one in lab.trace("e1", done="Ended").open] == ["e1"]


def test_effects_recorded_before_their_causes_are_marked():
    def record(topic, at, told):
        return eslab.Record(topic=topic, key=b"o1", timestamp_ms=1_767_225_600_000 + at * 1000, value=eslab.model.dumps(told))

    lab = eslab.play([record("orders", 60, event("e1", "A")), record("parcels", 0, event("e2", "B", "e1"))])
    trace = lab.trace("e1")
    (effect,) = trace.backwards
    assert (effect.event_id, effect.marks[0]) == ("e2", "recorded 1 min 0 s before its cause")
    assert "1 effect recorded before its cause: clocks or partitions lie" in repr(trace)
    assert list(trace.df()["after"]) == [pd.NaT, -pd.Timedelta(minutes=1)]


def test_ends_are_learned_where_nobody_names_them_and_that_is_said(lab):
    many = eslab.play(
        [
            *SHOP[:4],
            *(event(f"x{at}{kind}", kind, correlation=f"x{at}") for at in range(3) for kind in ("Created", "Delivered")),
            *SHOP[4:6],
        ]
    )
    assert "what ends a saga, learned from the ends of those here: Delivered (ends 4 of the 4 that have it)" in repr(many.trace("c1"))
    assert many.trace("c1").open == []
    assert [one.event_id for one in many.trace("c2").open] == ["f2"]


def test_an_ending_type_that_no_event_has_is_said(lab):
    assert "no captured event is of type Deliverd" in repr(lab.trace("c1", done="Deliverd"))


def test_what_no_event_is_called_is_one_sentence(lab):
    for told in ("nobody", "", "\ud800", ("events", 0, 99), ("nowhere", 0, 0)):
        with pytest.raises(UnknownEvent):
            lab.trace(told)
    with pytest.raises(MomentError, match="names no event"):
        lab.trace(7)
    with pytest.raises(MomentError, match="stands in done= and in compensated="):
        lab.trace("e1", done=["Paid"], compensated=["Paid"])
    with pytest.raises(MomentError, match="are no event types"):
        lab.trace("e1", done=[1])


def test_a_tombstone_has_no_trace():
    lab = eslab.play([event("e1", "A"), eslab.Record(topic="events", key=b"o1", timestamp_ms=1_800_000_000_000, value=None)])
    with pytest.raises(UnknownEvent, match="holds no event"):
        lab.trace(("events", 0, 1))


# --- more than a trace holds ----------------------------------------------------------------------


def test_a_trace_with_more_events_than_it_holds_is_of_the_nearest_and_says_so():
    lab = eslab.play([event("e0", "T", correlation="c"), *(event(f"e{at}", "T", f"e{at - 1}", correlation=None) for at in range(1, 60))])
    events = lab._now()
    trace = find_trace(events, "e30", endings(events, "T", None), lab._clock(), most=10)
    names = {one.event_id for one in trace if one.facts}
    assert not trace.complete
    assert {f"e{at}" for at in range(27, 34)} <= names
    assert len(names) <= 12
    assert [one.marks for one in trace.roots] == [("not followed further",)], "its cause is captured, so it is not outside the log"
    assert "there is more of it" in repr(trace)
    assert trace.open == []
    assert find_trace(events, "e30", endings(events, "T", None), lab._clock(), most=60).complete


def test_a_correlation_with_more_events_than_a_trace_holds_gives_its_first():
    lab = eslab.play([event(f"e{at}", "T") for at in range(40)])
    events = lab._now()
    trace = find_trace(events, "c1", endings(events, "T", None), lab._clock(), most=10)
    assert ([one.event_id for one in trace], trace.complete) == ([f"e{at}" for at in range(10)], False)


def test_one_id_on_every_event_is_one_event_seen_often():
    lab = eslab.play([event("same", "T", "same") for _ in range(50)])
    (one,) = lab.trace("same")
    assert (one.facts["seen"], [place.offset for place in one.again]) == (50, [1, 2, 3])
    assert "again at events/0/1, events/0/2, events/0/3 and 46 more" in repr(lab.trace("same"))


# --- as an oracle has it ----------------------------------------------------------------------------


def plain_trace(oracle, told, ends):
    """Rows of depth, id, id of the cause in the tree, seconds since it, seen, whether open, by plain loops over the whole log."""
    log = [one for one in oracle.log if one.kind == "event"]
    first = {}
    for one in log:
        first.setdefault(one.name, one)
    own = first[told].parts["correlation_id"] if told in first else None
    asked = {
        one.name
        for one in log
        if told in (one.name, one.parts["correlation_id"], one.parts["causation_id"]) or (own and one.parts["correlation_id"] == own)
    }
    linked, more = set(asked), True
    while more:
        more = False
        for name, one in first.items():
            cause = one.parts["causation_id"]
            if cause and (name in linked) != (cause in linked):
                linked |= {name, cause}
                more = True
    held = [one for one in first.values() if one.name in linked]
    causes = {one.name: one.parts["causation_id"] or None for one in held}
    order = list(causes)

    def circle(name):
        walked = []
        while name in causes and causes[name] is not None:
            if name in walked:
                return walked[walked.index(name) :]
            walked.append(name)
            name = causes[name]
        return []

    tops = {min(circle(name), key=order.index) for name in order if circle(name)} | {name for name in order if causes[name] is None}
    seen = Counter(one.name for one in log)
    rows, trees = [], {}

    def grow(name, depth, cause, root):
        one = first.get(name)
        before = first.get(cause)
        after = None if one is None or before is None else (one.order_at - before.order_at).total_seconds()
        rows.append((depth, name, cause, after, seen[name]))
        if one is not None:
            trees.setdefault(root, []).append(one)
        for effect in order:
            if causes[effect] == name and effect not in tops:
                grow(effect, depth + 1, name, root)

    for name in order:
        root = name if name in tops else causes[name] if causes[name] not in first else None
        if root is not None and root not in trees:
            grow(root, 0, None, root)
    sagas = [[one for one in tree if not one.parts["correlation_id"]] for tree in trees.values()]
    for correlation in {one.parts["correlation_id"] for one in held if one.parts["correlation_id"]}:
        steps = {}
        for one in log:
            if one.parts["correlation_id"] == correlation:
                steps.setdefault(one.name, one)
        sagas.append(list(steps.values()))
    lasts = {
        max(each, key=lambda one: one.order).name for each in sagas if each and not any(one.parts["event_type"] in ends for one in each)
    }
    return rows, lasts & {row[1] for row in rows}


def check_traces(seed, most):
    with lab_of(chained(seed, most)) as (lab, oracle):
        chance = random.Random(seed)
        known = sorted(
            {
                text
                for one in oracle.log
                if one.kind == "event"
                for text in (one.name, one.parts["correlation_id"], one.parts["causation_id"])
                if text
            }
        )
        for told in chance.sample(known, min(3, len(known))):
            ends = chance.sample(TYPES, chance.randint(1, 2))
            trace = lab.trace(told, done=ends)
            rows, opened = plain_trace(oracle, told, ends)
            found = [
                (
                    one.depth,
                    one.event_id,
                    None if one.parent is None else trace[one.parent].event_id,
                    None if one.after is None else one.after.total_seconds(),
                    one.facts["seen"] if one.facts else 0,
                )
                for one in trace
            ]
            assert found == rows, told
            assert {one.event_id for one in trace.open} == opened
            assert trace.complete
            assert {one.event_id for one in trace.backwards} == {name for _, name, _, after, _ in rows if after is not None and after < 0}
            assert len(trace.df()) == trace.arrow().num_rows == len(trace) == len(rows)


def check_traces_of_ten(most):
    for seed in range(10):
        check_traces(seed, most)


@few(3)
@given(st.integers(0, 2**32))
def test_traces_of_made_logs_are_the_oracles(seed):
    check_traces(seed, 14)


def test_the_oracle_notices_a_trace_that_follows_effects_alone(monkeypatch):
    monkeypatch.setattr(
        linking,
        "_FURTHER",
        linking._FURTHER.replace(
            "select cause as name, order_at from links where id in", "select id as name, order_at from links where false and id in"
        ),
    )
    with pytest.raises(AssertionError):
        check_traces_of_ten(14)


# --- faces ------------------------------------------------------------------------------------------


def test_a_trace_has_tables(lab):
    trace = lab.trace("e2")
    assert trace.arrow().schema.field("order_at").type.tz == "UTC"
    frame = trace.df()
    assert list(frame["at"]) == [None, "events/0/0", "events/0/1", "events/0/2", "events/0/3"] or pd.isna(frame["at"][0])
    assert frame["marks"][0] == "outside the log"
    assert list(frame["seen"]) == [0, 1, 2, 1, 1]


def test_the_waterfall_in_html_reads_without_css(lab):
    page = lab.trace("e1")._repr_html_()
    bars = [part.split("</code>")[0] for part in page.split("<code>")[1:]]
    assert [bar.index("■") for bar in bars] == [0, 2, 8, 31]
    assert bars[3].count("─") == 23
    assert "outside the log" in page


def test_a_trace_draws_a_waterfall(lab):
    spec = lab.trace("e2", done="Delivered").chart().to_dict()
    values = next(iter(spec["datasets"].values()))
    assert next(row["row"] for row in values if row["x"] is not None).endswith("└\N{NO-BREAK SPACE}Created")
    assert {row["what"] for row in values} == {"recorded"}
    assert "open end" in str(lab.trace("c2", done="Delivered").chart().to_dict()["datasets"])


def test_a_waterfall_explains_the_marks_that_occur_and_no_others(lab):
    plain, open_end = (lab.trace(name, done="Delivered").chart().to_dict() for name in ("e2", "c2"))
    whole, left = (next(part for part in spec["vconcat"][0]["layer"] if part["mark"]["type"] == "point") for spec in (plain, open_end))
    assert whole["encoding"]["shape"]["legend"] is None
    assert left["encoding"]["shape"]["scale"]["domain"] == ["recorded", "open end"]
    assert whole["encoding"]["x"]["title"] == "1 January 2026, time in UTC"


def test_times_of_several_days_carry_their_day():
    lab = eslab.play([event("e1", "A", at="00"), {**event("e2", "B", "e1"), "timestamp": "2026-01-02T09:00:00Z"}])
    assert "e1  events/0/0  2026-01-01 09:00:00 UTC" in repr(lab.trace("e1"))


def test_a_long_or_deep_trace_is_cut_in_its_views_and_says_so():
    lab = eslab.play([event(f"e{at}", "T", f"e{at - 1}" if at else None) for at in range(230)])
    trace = lab.trace("c1")
    assert "and 210 events more" in repr(trace)
    assert "; the first 200" in trace._repr_html_()
    assert "(150) └ " in trace._repr_html_().replace("\N{NO-BREAK SPACE}", " ")
    assert len(repr(trace)) < 3000
    assert "the first 200 of 230" in str(trace.chart().to_dict()["title"])
