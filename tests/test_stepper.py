"""The stepper's Python side: what its page is sent, and what one may ask it. The page is tested in test_stepper_page.py."""

import copy
import datetime as dt
import json
import math
import os
import subprocess
import sys
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_model import states

import eslab
from eslab import TOMBSTONE, Projection, Record
from eslab.errors import ConfigError, MomentError, VersionOutOfRange
from eslab.model import dumps
from eslab.patches import Follower
from eslab.views.stepper import Stepper
from eslab.views.tables import LEFT


def patched(state, patch):
    """The plain meaning of a patch, as eslab/patches.py says it."""
    for operation, path, *value in patch:
        if not path:
            state = {key: state[key] for key in value[0]} if operation == "#" else value[0]
            continue
        *way, last = path
        parent = state
        for part in way:
            parent = parent[part]
        if operation == "-":
            assert isinstance(parent, dict) or last == len(parent) - 1
            del parent[last]
        elif operation == "#":
            assert sorted(parent[last]) == sorted(value[0])
            parent[last] = {key: parent[last][key] for key in value[0]}
        elif isinstance(parent, list) and last == len(parent):
            parent.append(value[0])
        else:
            parent[last] = value[0]
    return state


class Number(str):
    """A number as it is written."""

    __slots__ = ()


def as_written(text):
    """JSON whose numbers are their own text, so that 1.0, 1 and 1.10 are three things."""
    return json.loads(text, parse_int=Number, parse_float=Number)


def read(lines):
    """The header, each step's head, data and patch, and the state after each of them, whole ones held against patched ones."""
    first, *rest = lines.decode().split("\n")
    header, begin = (as_written(field) for field in first.split("\t"))
    steps, states = [], [begin]
    for number, line in enumerate(rest, 1):
        head, data, patch, *whole = line.split("\t")
        index = [
            [operation, [int(part) if isinstance(part, Number) else part for part in path], *value]
            for operation, path, *value in as_written(patch)
        ]
        states.append(patched(copy.deepcopy(states[-1]), index))
        assert [as_written(one) for one in whole] == ([states[-1]] if str(int(header["first"]) + number) in header["keys"] else [])
        steps.append((json.loads(head), data, json.loads(patch)))
    return header, steps, states


def order(at, kind="OrderChanged", **data):
    return {"eventId": f"e{at}", "eventType": kind, "data": {"orderId": "o1", **data}}


@pytest.fixture
def lab():
    return eslab.play([order(at, total=at, big=2**70 + at, lines=[{"n": at}] * (at % 4)) for at in range(1200)])


# --- patches


@given(st.lists(states, min_size=1, max_size=6))
def test_the_patches_make_each_state_from_the_one_before_to_the_letter(told):
    follower = Follower(told[0])
    state = as_written(dumps(follower.state))
    for one in told:
        patch = follower.follow(one)
        state = patched(
            state,
            [
                [operation, list(path), *map(as_written, map(dumps, value))] if operation == "=" else [operation, list(path), *value]
                for operation, path, *value in patch
            ],
        )
        assert json.dumps(state) == json.dumps(as_written(dumps(one)))
        assert dumps(follower.state) == dumps(one)
        assert not follower.odd


@given(states)
def test_a_state_that_stays_has_no_patch(state):
    follower = Follower(state)
    assert follower.follow(copy.deepcopy(state)) == []


def test_a_state_that_is_changed_in_place_is_followed_all_the_same():
    state = {"a": {"b": [1, 2]}}
    follower = Follower(state)
    state["a"]["b"].append(3)
    assert follower.follow(state) == [("=", ("a", "b", 2), 3)]
    state["a"]["b"].clear()
    assert follower.follow(state) == [("-", ("a", "b", at)) for at in (2, 1, 0)]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (1, 1.0),
        (1, True),
        (0.0, -0.0),
        (Decimal("1.1"), Decimal("1.10")),
        (1.5, Decimal("1.5")),
        (dt.datetime(2026, 1, 1, 12, tzinfo=dt.UTC), dt.datetime(2026, 1, 1, 13, tzinfo=dt.timezone(dt.timedelta(hours=1)))),
    ],
)
def test_values_that_are_equal_but_written_otherwise_are_changes(before, after):
    assert before == after
    assert Follower({"a": before}).follow({"a": after}) == [("=", ("a",), after)]


def test_keys_in_another_order_are_put_in_that_order():
    follower = Follower({"a": 1, "b": {"c": 1, "d": 2}})
    assert follower.follow({"b": {"d": 2, "e": 3, "c": 1}, "a": 1}) == [
        ("=", ("b", "e"), 3),
        ("#", ("b",), ["d", "e", "c"]),
        ("#", (), ["b", "a"]),
    ]


@pytest.mark.parametrize("odd", [float("nan"), float("inf"), Decimal("NaN"), {1, 2}, object(), b"x", {1: 2}, dt.date(2026, 1, 1)])
def test_what_no_state_may_hold_is_shown_as_text_and_named_once(odd):
    follower = Follower({})
    ((_, path, shown),) = follower.follow({"a": odd})
    assert (path, shown) == (("a",), repr(odd))
    assert follower.odd.startswith("a is ")
    assert follower.follow({"a": odd}) == []
    assert not follower.odd


def test_a_state_deeper_than_anyone_reads_ends_in_a_text():
    deep = leaf = {}
    for _ in range(300):
        leaf["x"] = leaf = {}
    follower = Follower({})
    follower.follow(deep)
    assert "which no state may hold" in follower.odd
    assert len(dumps(follower.state)) < 3000


def test_half_a_surrogate_pair_is_sent_as_its_escape():
    text = dumps({"\ud800": ["\udfff", 1, Decimal("1.10"), {"a": None}]})
    assert text == b'{"\\ud800":["\\udfff",1,1.10,{"a":null}]}'


# --- what is sent


def test_what_is_sent_is_the_history_to_the_letter(lab):
    history = lab.history("order", "o1")
    header, steps, states = read(history.step()._steps.lines)
    assert [states[0], *states[1:]] == [as_written(dumps(one)) for one in ({}, *(step.after for step in history))]
    assert (header["first"], header["last"], header["total"]) == ("0", "1200", "1200")
    for step, (head, data, _) in zip(history, steps, strict=True):
        assert json.loads(data) == step.event.data
        assert (head[0], head[5], head[8]) == (step.event.type, step.event.id, str(step.event.coordinates))
    assert header["keys"]


def test_times_of_any_year_are_sent_as_they_are():
    recorded = [1, 1_773_313_200_000, 253_118_217_600_123, 253_118_217_600_124]
    happened = ["2026-03-12T10:00:00.0005Z", "9990-12-31T00:00:00.123456Z", "0002-01-03T00:00:00Z", None]
    steps = eslab.play(
        [
            Record(topic="events", key=b"o", timestamp_ms=at, value=dumps({"eventType": "A", "timestamp": told, "data": {"orderId": "o"}}))
            for at, told in zip(recorded, happened, strict=True)
        ],
        aggregates={"order": "data.orderId"},
        tz="Europe/Berlin",
    ).history("order", "o")
    header, *heads = [json.loads(line.split(b"\t")[0]) for line in steps.step()._steps.lines.split(b"\n")]
    assert header["times_ms"] == recorded
    for event, head in zip((step.event for step in steps), heads, strict=True):
        assert head[3:5] == [one and steps._clock.show(one) for one in (event.recorded_at, event.happened_at)]
        late = event.happened_at and math.floor((event.recorded_at - event.happened_at) / dt.timedelta(milliseconds=1) + 0.5)
        assert head[12] == late


def test_each_step_is_folded_once_and_no_state_is_sent_that_another_step_changed(lab):
    folded = []
    in_place = Projection("in place", aggregate="order")

    @in_place.on("OrderChanged")
    def handler(state, event):
        folded.append(event.id)
        state.setdefault("totals", []).append(event.data["total"])  # as handlers must not
        del state["totals"][:-5]
        return state

    _, _, states = read(lab.history("order", "o1", projection=in_place).step()._steps.lines)
    assert folded == [f"e{at}" for at in range(1200)]
    assert states[3] == {"totals": ["0", "1", "2"]}
    assert states[1200] == {"totals": ["1195", "1196", "1197", "1198", "1199"]}


def test_no_jump_reads_more_than_two_states_and_whole_states_at_most_double_what_is_sent(lab):
    lines = lab.history("order", "o1").step()._steps.lines.split(b"\n")[1:]
    since = whole = patches = wholes = 0
    for line in lines:
        _, _, patch, *state = line.split(b"\t")
        since, patches = since + len(patch), patches + len(patch)
        if state:
            since, whole, wholes = 0, len(state[0]), wholes + len(state[0])
        assert since <= max(whole, 8 * 120)
    assert wholes <= patches


def test_the_unusual_is_marked_with_its_problem():
    events = [
        order(0, total=1),
        order(0, total=1),
        order(1, kind="Other"),
        Record(topic="events", key=b"o1", value=b"{not json", timestamp_ms=1_767_258_000_000),
        order(3, total=0),
        order(4, total=1),
    ]
    lab = eslab.play(events, aggregates={"order": "data.orderId"})
    picky = Projection("picky", aggregate="order")
    picky.on("OrderChanged")(lambda state, event: {"share": 1 / event.data["total"]})
    history = lab.history("order", "o1", projection=picky)
    header, steps, _ = read(history.step()._steps.lines)
    assert [(head[1], head[2]) for head, _, _ in steps] == [(list(step.marks), step.problem) for step in history]
    assert {mark: len(versions) for mark, versions in header["marks"].items()} == {
        "duplicate": 1,
        "unhandled": 1,
        "undecodable": 1,
        "failed": 1,
        "skipped": 1,
    }
    assert "ZeroDivisionError" in next(head[2] for head, _, _ in steps if head[1] == ["failed"])
    assert [patch for head, _, patch in steps if head[1]] == [[]] * 5


def test_a_tombstone_is_marked_and_a_handler_of_tombstones_is_not_one(lab):
    lab.publish(Record(topic="events", key=b"o1", value=None, timestamp_ms=1_767_268_000_000))
    header, steps, states = read(lab.history("order", "o1").step()._steps.lines)
    assert header["marks"] == {"tombstone": ["1201"]}
    assert (steps[-1][0][0], states[-1]) == (None, {})
    kept = Projection("kept", aggregate="order")
    kept.on(TOMBSTONE)(lambda state, event: {"erased": True})
    assert "tombstone" not in read(lab.history("order", "o1", projection=kept).step()._steps.lines)[0]["marks"]


def test_a_long_history_is_shown_around_the_moment_and_says_so(lab):
    history = lab.history("order", "o1")
    stepper = history.step(limit=100)
    header, _, states = read(stepper._steps.lines)
    assert (header["first"], header["last"], stepper.position) == ("1100", "1200", 1200)
    assert header["notes"] == ["only steps 1,101 to 1,200 of 1,200 are shown; .step(limit=1200) shows all"]
    assert states == [as_written(dumps(history.at(version=at).value)) for at in range(1100, 1201)]
    stepper = history.step(limit=100, at=600)
    assert (stepper._steps.first, stepper.position, stepper._steps.last) == (550, 600, 650)
    with pytest.raises(MomentError, match="limit"):
        history.step(limit=0)


def test_what_takes_too_much_room_ends_early_and_says_so(lab, monkeypatch):
    monkeypatch.setitem(eslab.stepping.write.__kwdefaults__, "limit_bytes", 50_000)
    stepper = lab.history("order", "o1").step()
    header, *_ = read(stepper._steps.lines)
    assert len(stepper._steps.lines) < 55_000
    assert stepper.position == stepper._steps.last == int(header["last"]) < 1200
    assert "are not shown" in header["notes"][0]


def test_a_partial_history_says_so(lab):
    history = lab.history("order", "o1")
    history.partial = "events[0] lacks 3 offsets in 0–2 (retention)"
    assert read(history.step()._steps.lines)[0]["notes"] == ["partial: events[0] lacks 3 offsets in 0–2 (retention)"]
    history.unread = 2
    assert read(history.step()._steps.lines)[0]["notes"][1:] == ["2 undecodable records without a key in range, which may belong here"]


# --- what one may ask it


def test_it_opens_at_the_last_step_or_at_a_moment(lab):
    history = lab.history("order", "o1")
    assert history.step().position == 1200
    assert history.step(at=3).position == 3
    assert history.step(at="2026-01-01T09:00:02Z").position == 3
    assert history.step(at="2025-01-01T00:00:00Z").position == 0


def test_position_and_state_are_read_and_set(lab):
    history = lab.history("order", "o1")
    stepper = history.step()
    stepper.position = 7
    assert stepper.state.value == history.at(version=7).value
    assert stepper.state.version == 7
    stepper.state = history.at("2026-01-01T09:00:02Z")
    assert stepper.position == 3
    stepper.state = history.at(version=0)
    assert (stepper.position, stepper.state.value) == (0, {})
    assert repr(stepper) == "<Stepper of order o1: position 0 of 1200>"


def test_a_position_that_is_none_is_refused_and_changes_nothing(lab):
    stepper = lab.history("order", "o1").step(at=5)
    for wrong in (-1, 1201, True, "x", "3", None, 1.0):
        with pytest.raises(VersionOutOfRange, match=f"has positions 0 to 1200 .*; there is no {wrong!r}$"):
            stepper.position = wrong
    with pytest.raises(MomentError, match="height='tall' is no height to read in"):
        stepper.height = "tall"
    assert stepper.position == 5


def test_a_state_of_something_else_is_refused(lab):
    history = lab.history("order", "o1")
    stepper = history.step(at=5)
    other = Projection("other", aggregate="order")
    other.on("OrderChanged")(lambda state, event: {"n": 1})
    for wrong in (lab.history("order", "o1", projection=other).at(version=2), {"total": 1}, 3, None):
        with pytest.raises(MomentError, match="give one of this history"):
            stepper.state = wrong
    assert stepper.position == 5


def test_breakpoints_bookmarks_and_watched_paths_are_read_and_set(lab):
    stepper = lab.history("order", "o1").step(at=5)
    stepper.breakpoints = [("step", 3), ("type", "OrderChanged"), ("type", None), ("mark", "failed"), ("change", 'lines[0]."n"')]
    stepper.bookmarks = [7, 0]
    stepper.watched = ['"total"', ""]
    assert stepper.breakpoints == [["step", 3], ["type", "OrderChanged"], ["type", None], ["mark", "failed"], ["change", "lines[0].n"]]
    assert (stepper.bookmarks, stepper.watched) == ([7, 0], ["total", ""])
    assert '"watched":["total",""]' in stepper.to_html()


@pytest.mark.parametrize(
    "wrong", [("step", 1201), ("step", "3"), ("type", 3), ("mark", None), ("change", 3), ("until", "x"), "step", ("step",), None]
)
def test_what_is_no_breakpoint_is_refused_and_changes_nothing(lab, wrong):
    stepper = lab.history("order", "o1").step()
    stepper.breakpoints = [("step", 3)]
    with pytest.raises(MomentError, match="is no breakpoint of order o1; write one like"):
        stepper.breakpoints = [("step", 4), wrong]
    assert stepper.breakpoints == [["step", 3]]


def test_what_is_no_path_of_a_state_or_no_position_is_not_kept(lab):
    stepper = lab.history("order", "o1").step()
    for wrong, told in (("a b", "cannot be read at position 1"), ("lines[].n", r"name one of them, like lines\[0\].n")):
        with pytest.raises(ConfigError, match=told):
            stepper.watched = [wrong]
        with pytest.raises(ConfigError, match=told):
            stepper.breakpoints = [("change", wrong)]
    with pytest.raises(MomentError, match="3 is no path"):
        stepper.watched = [3]
    with pytest.raises(VersionOutOfRange, match=r"there is no 1201$"):
        stepper.bookmarks = [3, 1201]
    assert (stepper.breakpoints, stepper.bookmarks, stepper.watched) == ([], [], [])


def test_what_is_asked_of_all_steps_at_once_stands_in_the_first_line():
    events = [order(0), order(1, kind="Paid"), order(2), Record(topic="events", key=b"o1", value=None, timestamp_ms=1_767_268_000_000)]
    header = json.loads(eslab.play(events, aggregates={"order": "data.orderId"}).history("order", "o1").step()._steps.lines.split(b"\t")[0])
    assert header["types"] == ["OrderChanged", "Paid", None]
    assert header["type_of"] == [0, 1, 0, 2]
    assert header["times_ms"] == [1_767_258_000_000, 1_767_258_001_000, 1_767_258_002_000, 1_767_268_000_000]


def test_a_height_that_shows_nothing_is_refused(lab):
    assert lab.history("order", "o1").step(height=300).height == 300
    with pytest.raises(MomentError, match="160 pixels"):
        lab.history("order", "o1").step(height=10)


def test_a_history_without_steps_has_its_initial_state(lab):
    stepper = lab.history("order", "o1", at="2025-01-01T00:00:00Z").step()
    assert (stepper.position, stepper.state.value) == (0, {})
    assert "before the first event" in stepper._repr_mimebundle_()[0]["text/html"]


# --- where it is shown


def test_the_page_is_written_whole_or_not_at_all(lab, tmp_path):
    stepper = lab.history("order", "o1").step()
    path = tmp_path / "a.html"
    path.write_text("old")
    assert stepper.to_html(str(path)) == path
    assert path.read_text() == stepper.to_html()
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(OSError, match="none"):
        stepper.to_html(tmp_path / "none" / "a.html")
    if os.geteuid():
        tmp_path.chmod(0o500)
        with pytest.raises(PermissionError):
            stepper.to_html(path)
        tmp_path.chmod(0o700)


def test_the_page_names_no_other_place(lab):
    page = lab.history("order", "o1").step().to_html()
    assert "http:" not in page.replace("http-equiv", "")
    assert "https:" not in page
    assert "default-src 'none'" in page


HOSTILE = [
    "<script>alert(1)</script>",
    "</script><img src=x onerror=alert(1)>",
    "javascript:alert(1)",
    "<!--",
    "\u202eabc",
    "a\x00b",
    "\u2028",
]


@pytest.mark.parametrize("text", HOSTILE)
def test_no_value_becomes_a_tag(text):
    event = {"eventId": text, "eventType": text, "data": {"orderId": "o1", text: text}}
    stepper = eslab.play([event], aggregates={"order": "data.orderId"}).history("order", "o1").step()
    html, page = stepper._repr_mimebundle_()[0]["text/html"], stepper.to_html()
    for found in ("<script>alert", "<img", "<!--"):
        assert found not in page.partition("<main")[2].partition('<script type="module">')[0]
    for found in ("<script>alert", "<img", "<!--", "\u202e", "\x00", "\u2028"):
        assert found not in html


def test_broken_unicode_reaches_neither_the_page_nor_a_notebook_as_it_is():
    lab = eslab.play([order(0)])
    broken = Projection("broken", aggregate="order")
    broken.on("OrderChanged")(lambda state, event: {"\ud800": "\udfff"})
    stepper = lab.history("order", "o1", projection=broken).step()
    assert "\\ud800" in stepper._repr_mimebundle_()[0]["text/html"]
    stepper.to_html().encode()


def test_a_notebook_gets_the_widget_and_html_that_reads_alone(lab):
    data, _ = lab.history("order", "o1").step(at=7)._repr_mimebundle_()
    assert {"application/vnd.jupyter.widget-view+json", "text/html", "text/plain"} <= set(data)
    html = data["text/html"]
    for part in (
        "order o1: position 7 of 1,200",
        "<mark>total</mark>",
        "<del>5</del>",
        "<ins>6</ins>",
        "state after step 7",
        "<td>→</td><td>7</td>",
    ):
        assert part in html.replace(LEFT, "")
    assert "<style" not in html
    assert len(html) < 30_000


def test_neither_eslab_nor_a_history_imports_widgets_before_one_is_drawn():
    code = (
        "import sys, eslab\n"
        "lab = eslab.play([{'eventType': 'T', 'data': {'anId': '1'}}])\n"
        "h = lab.history('an', '1'); h[0]; h.df()\n"
        "assert not {'anywidget', 'ipywidgets', 'eslab.views.stepper'} & set(sys.modules)\n"
        "h.step()\n"
        "assert {'anywidget', 'ipywidgets'} <= set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_what_the_page_needs_is_read_from_files_beside_the_module():
    assert "export default { render }" in str(Stepper._esm)
    assert ".eslab-stepper" in str(Stepper._css)
