"""Two projections over the same history: held against a plain loop that folds each key by each of them and looks after every step."""

from __future__ import annotations

import copy
import datetime as dt
import tempfile
from collections import Counter
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from logs import TORTURE, captured, few, logs, made
from oracle import Oracle

import eslab
from eslab import Coordinates, Lab, Projection, folding, keyed, parting
from eslab.changes import diff, same
from eslab.errors import ProjectionError, UnknownId
from eslab.model import MISSING, TOMBSTONE
from eslab.views import compare as drawn

# --- the oracle -----------------------------------------------------------------------------------

NOTHING = object()
"""A side that a tombstone ended."""


def deep_equal(left: Any, right: Any) -> bool:
    """Equality as `eslab.diff` has it, written apart from it."""
    if isinstance(left, dict) and isinstance(right, dict):
        return left.keys() == right.keys() and all(deep_equal(left[key], right[key]) for key in left)
    if isinstance(left, (list, tuple)) and isinstance(right, (list, tuple)):
        return len(left) == len(right) and all(deep_equal(one, other) for one, other in zip(left, right, strict=True))
    return isinstance(left, bool) == isinstance(right, bool) and left == right


class PlainEvent:
    """What the handlers below read of an event."""

    def __init__(self, event: Any) -> None:
        self.type = {"event": event.parts["event_type"], "tombstone": TOMBSTONE}.get(event.kind)
        self.data = copy.deepcopy(event.data)


def plain_fold(projection: Projection, events: list[Any]) -> tuple[list[Any], Any]:
    """The side after each event, and the event at which a handler raised."""
    sides, state = [], projection.initial()
    for event in events:
        seen = PlainEvent(event)
        handler = projection.handler(seen.type) if seen.type is not None else None
        if handler is not None:
            try:
                state = handler(state, seen)
            except (KeyError, ValueError, TypeError):
                return sides, event
            sides.append(copy.deepcopy(state))
        elif seen.type is TOMBSTONE:
            state = projection.initial()
            sides.append(NOTHING)
        else:
            sides.append(sides[-1] if sides else copy.deepcopy(state))
    return sides, None


def plain_comparison(oracle: Oracle, left: Projection, right: Projection, held: Any, *, ended: bool) -> dict[str, tuple[Any, ...]]:
    """id -> group, last states, where they first differ."""
    told: dict[str, tuple[Any, ...]] = {}
    for key, events in oracle.histories.items():
        chosen = [event for event in events if held(event)]
        if key[0] != left.aggregate or not chosen:
            continue
        (lefts, broken_left), (rights, broken_right) = plain_fold(left, chosen), plain_fold(right, chosen)
        if ended:
            lefts, rights = (
                [side if side is not NOTHING else one.initial() for side in sides] for one, sides in ((left, lefts), (right, rights))
            )
        first = next((at for at, (one, other) in enumerate(zip(lefts, rights, strict=False)) if not equal_sides(one, other)), None)
        where = None if first is None else (first + 1, chosen[first].life, chosen[first].offset)
        if broken_left or broken_right:
            group = "failed_both" if broken_left and broken_right else "failed_left" if broken_left else "failed_right"
            told[key[1]] = (group, NOTHING if broken_left else lefts[-1], NOTHING if broken_right else rights[-1], where)
            continue
        one, other = lefts[-1], rights[-1]
        if one is NOTHING and other is NOTHING:
            continue
        group = "only_right" if one is NOTHING else "only_left" if other is NOTHING else "equal" if equal_sides(one, other) else "different"
        told[key[1]] = ("healed" if group == "equal" and where else group, one, other, where)
    return told


def equal_sides(one: Any, other: Any) -> bool:
    return one is other if NOTHING in (one, other) else deep_equal(one, other)


def comparison_differences(lab: Lab, oracle: Oracle, left: Projection, right: Projection, at: Any = None, held: Any = lambda event: True):
    """Where a comparison is not what the plain loop finds."""
    for ended in (False, True):
        wanted = plain_comparison(oracle, left, right, held, ended=ended)
        found = lab.compare(left, right, at=at, ended=ended, progress=False)
        groups = {key: found[key].group for key in {*found, *found.equal}}
        if groups != {key: told[0] for key, told in wanted.items()}:
            odd = [key for key in groups.keys() | wanted.keys() if groups.get(key) != wanted.get(key, (None,))[0]]
            yield f"groups, ended={ended}: {[(key, groups.get(key), wanted.get(key)) for key in odd[:3]]}"
            continue
        counted = Counter("equal" if group == "healed" else group for group in groups.values())
        if {group: count for group, count in found.counts.items() if count} != counted:
            yield f"counts {found.counts} are not {counted}"
        for key, (group, one, other, where) in wanted.items():
            told = found[key]
            parted = told.divergence and (told.divergence.version, told.divergence.coordinates)
            if parted != (where and (where[0], Coordinates(*where[1], where[2]))):
                yield f"{key} ({group}) parts at {parted}, not at {where}"
            sides = [MISSING if side is NOTHING else side for side in (one, other)]
            if group != "equal" and not all(
                deep_equal(got, side) if side is not MISSING else got is MISSING
                for got, side in zip((told.left, told.right), sides, strict=True)
            ):
                yield f"{key} ({group}): {told.left}, {told.right} are not {sides}"


# --- projections that part, heal, fail and end ------------------------------------------------------


def pair(kind: str) -> tuple[Projection, Projection]:
    left, right = Projection("v1", aggregate="order"), Projection("v2", aggregate="order", version=2)

    @left.on("Created", "Changed", "Grew", "grew")
    def merged(state: Any, event: Any) -> Any:
        return {**state, **event.data} if isinstance(event.data, dict) else state

    if kind == "same":
        right.on("Created", "Changed", "Grew", "grew")(merged)
    elif kind == "later":  # parts where n is large, and heals with the next small one

        @right.on("Created", "Changed", "Grew", "grew")
        def small(state: Any, event: Any) -> Any:
            new = merged(state, event)
            return {**new, "n": 0} if isinstance(new.get("n"), int) and new["n"] > 1 else new

    elif kind == "kinds":  # true for 1 and 1.0 for 1: the first differs, the second does not

        @right.on("Created", "Changed", "Grew", "grew")
        def turned(state: Any, event: Any) -> Any:
            new = merged(state, event)
            turn = {True: 1, False: 0.0}
            return {
                key: turn.get(value, value) if isinstance(value, bool) else float(value) if value == 0 else value
                for key, value in new.items()
            }

    elif kind == "fails":

        @right.on("Created", "Changed", "Grew")
        def picky(state: Any, event: Any) -> Any:
            if event.data.get("n") is None:
                raise ValueError("no n")
            return merged(state, event)

        @left.on("grew")
        def pickier(state: Any, event: Any) -> Any:
            return {**state, "b": event.data["b"]}

    elif kind == "ends":
        right.on("Created", "Grew")(merged)  # an event without a handler leaves an ended key ended

        @right.on(TOMBSTONE)
        def buried(state: Any, event: Any) -> Any:
            return {**state, "gone": True} if "n" in state else {}

    elif kind == "in place":  # handlers that change what they are given, as they should not

        @left.on("Created", "Changed", "Grew", "grew")
        def appended(state: Any, event: Any) -> Any:
            state.setdefault("all", []).append(1)
            return merged(state, event)

        @right.on("Created", "Changed", "Grew", "grew")
        def appended_twice(state: Any, event: Any) -> Any:
            state.setdefault("all", []).append(1)
            if event.type == "grew":
                state["all"].append(1)
            return merged(state, event)

    return left, right


KINDS = ["same", "later", "kinds", "fails", "ends", "in place"]


def check(log: Any, seed: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        lab = captured(Path(folder) / "lab", log)
        oracle = Oracle(lab.path)
        event = oracle.log[seed % len(oracle.log)]
        cut = lab.cut(event_id=Coordinates(*event.life, event.offset))
        for kind in KINDS:
            assert list(comparison_differences(lab, oracle, *pair(kind))) == [], kind
            assert list(comparison_differences(lab, oracle, *pair(kind), cut, oracle.until_event(event))) == [], kind


@few(4)
@given(logs(), st.integers(0, 1000))
def test_every_group_state_and_divergence_of_a_made_log_is_what_a_plain_loop_finds(log, seed):
    check(log, seed)


@pytest.mark.torture
@pytest.mark.timeout(0)
@settings(TORTURE, max_examples=500)
@given(logs(60), st.integers(0, 1000))
def test_every_comparison_of_very_many_made_logs_is_what_a_plain_loop_finds(log, seed):
    check(log, seed)


@pytest.fixture(scope="module")
def shop(tmp_path_factory) -> tuple[Lab, Oracle]:
    folder = tmp_path_factory.mktemp("compare") / "shop"
    eslab.demo(folder, events=3000, progress=False)
    return Lab(folder, tz="Europe/Berlin", say=lambda notice: None), Oracle(folder)


def test_times_are_in_the_labs_zone_in_every_table(shop):
    lab, oracle = shop
    order = next(identity for aggregate, identity in oracle.keys if aggregate == "order")
    histories = [lab.history("order", order), lab.find(order)]
    for one in [*histories, lab.compare(*charges(), progress=False), lab.late(), lab.lag("read-model"), lab.throughput()]:
        zones = {field.type.tz for field in one.arrow().schema if pa.types.is_timestamp(field.type)}
        assert zones == {"Europe/Berlin"}, one
        assert len(one.arrow()), one


def charges() -> tuple[Projection, Projection]:
    """Charges counted as they come, and each payment once."""
    left = Projection("charges", aggregate="order")

    @left.on("PaymentCharged")
    def charge(state: Any, event: Any) -> Any:
        return {**state, "charges": state.get("charges", 0) + 1}

    right = Projection("charges", aggregate="order", version=2)

    @right.on("PaymentCharged")
    def charge_once(state: Any, event: Any) -> Any:
        return {**state, "charges": 1}

    return left, right


def test_the_demos_comparison_is_what_a_plain_loop_finds(shop):
    lab, oracle = shop
    assert list(comparison_differences(lab, oracle, *charges())) == []
    found = lab.compare(*charges(), progress=False)
    assert 0 < len(found) < 100
    assert {found[key].divergence.event_type for key in found} == {"PaymentCharged"}


# --- bugs that the oracle must find -------------------------------------------------------------------


def look_one_step_late(monkeypatch):
    intact = parting._Pair._divergence
    monkeypatch.setattr(parting._Pair, "_divergence", lambda self, event, version: intact(self, event, version + 1))


def take_true_for_one(monkeypatch):
    monkeypatch.setattr(parting, "same", lambda one, other: one == other)


def give_both_sides_the_same_data(monkeypatch):
    intact, kept = folding._blocks, {}

    def shared(rows: Any, handlers: Any) -> Any:
        if id(rows) not in kept:
            kept[id(rows)] = (rows, [list(block) for block in intact(rows, handlers)])
        return iter(kept[id(rows)][1])

    monkeypatch.setattr(folding, "_blocks", shared)


def forget_to_begin_anew(monkeypatch):
    intact = parting._Pair._begin

    def begin(self: Any, key: str) -> None:
        kept = self._parted
        intact(self, key)
        self._parted = kept

    monkeypatch.setattr(parting._Pair, "_begin", begin)


def count_the_ended_as_there(monkeypatch):
    monkeypatch.setattr(parting._Pair, "_agree", lambda self: same(self._left.state, self._right.state))


@pytest.mark.parametrize(
    ("plant", "kind"),
    [(look_one_step_late, "later"), (take_true_for_one, "kinds"), (forget_to_begin_anew, "later"), (count_the_ended_as_there, "ends")],
    ids=lambda one: getattr(one, "__name__", one),
)
def test_the_plain_loop_finds_a_planted_bug(tmp_path, monkeypatch, plant, kind):
    plant(monkeypatch)
    log = made(200, seed=9)
    born = b'{"eventType": "Created", "data": {"orderId": "dead"}}'
    log.records.extend(eslab.Record(topic="orders", key=b"dead", timestamp_ms=at, value=value) for at, value in enumerate([born, None]))
    lab = captured(tmp_path / "lab", log)
    assert list(comparison_differences(lab, Oracle(lab.path), *pair(kind)))


@pytest.fixture
def nested() -> tuple[Any, Projection, Projection]:
    """A lab of carts, and two projections that keep a list of the event's and append to it in place; only the left one does so twice."""
    lab = eslab.play(
        [{"eventType": "Made", "data": {"cartId": "c", "items": [1]}}, *({"eventType": "Added", "data": {"cartId": "c"}} for _ in range(3))]
    )
    sides = []
    for times in (2, 1):
        side = Projection("cart", aggregate="cart")
        side.on("Made")(lambda state, event: {"items": event.data["items"]})

        @side.on("Added")
        def added(state: Any, event: Any, times: int = times) -> Any:
            state["items"].extend([2] * times)
            return state

        sides.append(side)
    return lab, *sides


def test_a_handler_that_changes_what_it_was_given_does_not_change_the_other_side(nested):
    lab, left, right = nested
    told = lab.compare(left, right, progress=False)["c"]
    assert (told.left, told.right) == ({"items": [1, 2, 2, 2, 2, 2, 2]}, {"items": [1, 2, 2, 2]})
    assert told.divergence.version == 2
    assert (lab.replay(left, progress=False)["c"], lab.replay(right, progress=False)["c"]) == (told.left, told.right)


def test_that_is_missed_where_both_sides_get_the_same_data(nested, monkeypatch):
    give_both_sides_the_same_data(monkeypatch)
    assert len(nested[0].compare(*nested[1:], progress=False)) == 0


# --- one pass -----------------------------------------------------------------------------------------


def test_each_handler_is_called_once_for_each_event_however_they_part():
    lab = eslab.play([{"eventType": "Added", "data": {"cartId": f"c{number % 3}", "n": number}} for number in range(3000)])
    calls: Counter[str] = Counter()
    sides = []
    for name in ("left", "right"):
        side = Projection(name, aggregate="cart", initial={"n": 0})

        @side.on("Added")
        def added(state: Any, event: Any, name: str = name) -> Any:
            calls[name] += 1
            return {"n": state["n"] + event.data["n"] % (700 if name == "left" else 10**9)}

        sides.append(side)
    found = lab.compare(*sides, progress=False)
    assert calls == {"left": 3000, "right": 3000}
    assert [told.divergence.version for told in found.values()] == [235, 234, 234]
    assert calls == {"left": 3000, "right": 3000}


# --- answers ------------------------------------------------------------------------------------------


def simple(n: Any = 1) -> tuple[Any, Projection, Projection]:
    lab = eslab.play([{"eventType": "Set", "data": {"thingId": f"t{at}", "n": at}} for at in range(5)])
    left = Projection("plain", aggregate="thing")
    left.on("Set")(lambda state, event: {"n": event.data["n"]})
    right = Projection("changed", aggregate="thing")
    right.on("Set")(lambda state, event: {"n": n if event.data["n"] == 3 else event.data["n"]})
    return lab, left, right


def test_two_projections_of_different_aggregates_are_refused():
    lab, left, _ = simple()
    with pytest.raises(ProjectionError, match="'plain' folds 'thing' and 'other' folds 'order'"):
        lab.compare(left, Projection("other", aggregate="order"))


def test_what_has_no_steps_is_refused():
    lab, left, _ = simple()
    with pytest.raises(ProjectionError, match="folds no events"):
        lab.compare(left, eslab.SqlProjection("counts", query="select 1 as n"), progress=False)


def test_the_name_of_an_aggregate_stands_for_its_default_projection():
    lab, left, _ = simple()
    found = lab.compare("thing", left, progress=False)
    assert found.counts["different"] == 5
    assert found["t1"].left == {"thingId": "t1", "n": 1, "_type": "Set"}
    assert {change.after for change in found["t1"].paths} == {MISSING}


def test_an_equal_key_can_be_asked_for_and_an_unknown_one_raises():
    lab, left, right = simple()
    found = lab.compare(left, right, progress=False)
    assert (list(found), len(found), "t1" in found, "t3" in found) == (["t3"], 1, False, True)
    assert found.equal == ("t0", "t1", "t2", "t4")
    told = found["t1"]
    assert (told.group, told.left, told.right, list(told.paths), told.divergence) == ("equal", {"n": 1}, {"n": 1}, [], None)
    with pytest.raises(UnknownId, match="no thing 'nope' in this comparison of 5"):
        found["nope"]
    with pytest.raises(UnknownId, match="no thing 3 in this comparison"):
        found[3]
    world = lab.replay(left, progress=False)
    assert 3 not in world
    with pytest.raises(UnknownId, match="no thing 3 in this world"):
        world[3]


def test_one_key_need_not_be_a_list():
    lab, left, right = simple()
    assert list(lab.compare(left, right, keys="t3", progress=False)) == ["t3"]
    assert list(lab.replay(left, keys="t3", progress=False)) == ["t3"]


def test_only_the_keys_that_are_asked_for_are_compared():
    lab, left, right = simple()
    found = lab.compare(left, right, keys=["t3", "t4", "none"], progress=False)
    assert sum(found.counts.values()) == 2
    assert list(found) == ["t3"]


def test_keys_that_no_event_has_are_told_in_one_notice_and_others_in_none():
    lab, left, right = simple()
    said: list[str] = []
    lab._say = said.append
    for ask in (lambda keys: lab.compare(left, right, keys=keys, progress=False), lambda keys: lab.replay(left, keys=keys, progress=False)):
        ask(["t3", "t4"])
        assert said == []
        ask(["t3", *(f"no {number}" for number in range(7))])
        assert said == ["no captured event belongs to 7 thing keys that keys= names: 'no 0', 'no 1', 'no 2', 'no 3', 'no 4' and 2 more"]
        said.clear()
        ask("none")
        assert said == ["no captured event belongs to 1 thing key that keys= names: 'none'"]
        said.clear()


def test_of_keys_that_agree_nothing_is_said_to_be_marked():
    lab, left, right = simple()
    found = lab.compare(left, right, progress=False)
    assert "what differs is marked" in found["t3"]._repr_html_()
    assert "<mark>" in found["t3"]._repr_html_()
    assert "marked" not in found["t4"]._repr_html_()


def test_a_difference_tells_the_paths_the_first_event_and_both_histories():
    lab, left, right = simple(99)
    told = lab.compare(left, right, progress=False)["t3"]
    assert repr(told.paths) == "n: 3 → 99"
    assert list(told.paths.df().columns) == ["path", "left", "right"]
    assert told.divergence.event_type == "Set"
    assert told.divergence.recorded_at.tzinfo is not None
    assert [history.at().value for history in told.histories] == [{"n": 3}, {"n": 99}]
    assert repr(told) == f"<Difference of t3: different, n; <Divergence at version 1: Set {told.divergence.event_id}, in n>>"


def test_the_frame_and_the_arrow_table_have_a_row_for_each_key_that_differs():
    lab, left, right = simple(Decimal("1.10"))
    found = lab.compare(left, right, progress=False)
    (row,) = found.df().reset_index().to_dict("records")
    assert (row["aggregate_id"], row["group"], row["paths"], row["version"], row["event_type"], row["parted"]) == (
        "t3",
        "different",
        ["n"],
        1,
        "Set",
        ["n"],
    )
    table = found.arrow()
    assert table["right"].to_pylist() == ['{"n":{"$decimal":"1.10"}}']
    assert table["recorded_at"][0].as_py() == row["recorded_at"]


def test_a_comparison_without_differences_has_an_empty_frame_with_its_columns():
    lab, left, _ = simple()
    found = lab.compare(left, left, progress=False)
    assert len(found.df()) == 0
    assert list(found.df().dtypes) == list(lab.compare(left, simple(99)[2], progress=False).df().dtypes)
    assert str(found.df()["recorded_at"].dtype).startswith("datetime64[us,")
    assert found.df()["event_type"].dtype == "str"
    assert found.arrow().num_rows == 0
    assert "5 equal, 0 different" in repr(found)


def test_a_state_that_no_state_may_be_fails_its_key_on_that_side_alone():
    lab, left, right = simple({1, 2})
    told = lab.compare(left, right, progress=False)
    assert told.failed == ("t3",)
    assert told["t3"].group == "failed_right"
    assert told["t3"].failures[0] is None
    assert "datetime and Decimal" in told["t3"].failures[1].error
    assert (told["t3"].left, told["t3"].right) == ({"n": 3}, MISSING)
    assert told["t3"].divergence.paths[0].after == "{1, 2}"


def test_a_key_that_may_miss_events_is_told_as_partial(tmp_path):
    from eslab.sources.memory import MemorySource

    lab = Lab(tmp_path / "lab", tz="UTC", say=lambda notice: None)
    records = [
        eslab.Record(topic="t", offset=at, timestamp_ms=at, key=b"a", value=b'{"eventType": "X", "data": {"aId": "a"}}') for at in range(5)
    ]
    lab.snapshot(MemorySource(records), start=2, progress=False)
    found = lab.compare("a", "a", progress=False)
    assert found.partial == {"a"}
    assert "1 partial" in repr(found)


def test_states_past_the_bound_go_to_a_file_that_goes_with_the_comparison(tmp_path, monkeypatch):
    monkeypatch.setattr(keyed, "IN_MEMORY", 10_000)
    monkeypatch.setattr(keyed, "BATCH", 16)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    lab = eslab.play([{"eventType": "Set", "data": {"thingId": f"t{at:04}", "text": "x" * 100}} for at in range(500)])
    right = Projection("empty", aggregate="thing")
    right.on("Set")(lambda state, event: {})
    found = lab.compare("thing", right, progress=False)
    kept = list(tmp_path.glob("eslab-*/rows.arrow"))
    assert kept
    assert [found[f"t{at:04}"].left["text"] for at in (0, 250, 499)] == ["x" * 100] * 3
    assert len(list(found)) == 500
    del found
    assert not [path for path in kept if path.exists()]


# --- equality -------------------------------------------------------------------------------------------

VALUES = st.recursive(
    st.sampled_from(
        [
            0,
            1,
            True,
            False,
            0.0,
            1.0,
            Decimal(1),
            Decimal("1.0"),
            None,
            "",
            "1",
            dt.datetime(2026, 1, 1, tzinfo=dt.UTC),
            2**70,
            float(2**70),
        ]
    ),
    lambda inner: (
        st.lists(inner, max_size=3) | st.lists(inner, max_size=3).map(tuple) | st.dictionaries(st.sampled_from("ab"), inner, max_size=2)
    ),
    max_leaves=6,
)


@settings(max_examples=500, deadline=None, database=None, derandomize=True)
@given(VALUES, VALUES)
def test_two_values_are_the_same_where_a_diff_finds_nothing(one, other):
    assert same(one, other) is (not diff(one, other)) is deep_equal(one, other)
    assert same(one, one)
    assert same({"k": one}, {"k": other}) is same(one, other)


# --- faces ------------------------------------------------------------------------------------------------


def test_the_static_view_names_groups_the_first_event_and_marks_what_differs():
    lab, left, right = simple(99)
    html = lab.compare(left, right, progress=False)._repr_html_()
    assert "<details><summary>t3: different, from Set" in html
    assert "<mark>3</mark>" in html
    assert "<mark>99</mark>" in html
    assert "<mark>t3" not in html


def test_the_bundle_holds_a_widget_and_static_html_and_the_widget_shows_the_chosen_key():
    lab, left, right = simple(99)
    found = lab.compare(left, right, progress=False)
    bundle = found._repr_mimebundle_()
    assert {"text/plain", "text/html", "application/vnd.jupyter.widget-view+json"} <= bundle.keys()
    widget = drawn._widget(found._view())
    listed, shown = widget.children[1].children[0].children[1], widget.children[1].children[1].children[0]
    assert [key for _, key in listed.options] == ["t3"]
    assert "<mark>99</mark>" in shown.value


def test_the_widget_lists_some_hundreds_and_finds_the_others():
    lab = eslab.play([{"eventType": "Set", "data": {"thingId": f"t{at:04}"}} for at in range(400)])
    right = Projection("empty", aggregate="thing")
    right.on("Set")(lambda state, event: {})
    found = lab.compare("thing", right, progress=False)
    widget = drawn._widget(found._view())
    search, listed, note = widget.children[1].children[0].children
    assert len(listed.options) == 300
    assert "first 300" in note.value
    search.value = "t039"
    assert [key for _, key in listed.options] == [f"t039{at}" for at in range(10)]
    search.value = "nope"
    assert note.value == "no key like that"
    assert listed.value is None
