"""Projections as one function, with types left out on purpose, and of a class as application code has it."""

import copy
import threading
from collections import Counter

import pytest

import eslab
from eslab import Projection, freezing
from eslab.errors import ProjectionError


class Order:
    """As in an application: it knows nothing of eslab."""

    def __init__(self):
        self._state = {}
        self.events = []

    def apply_event(self, event):
        if event["type"] == "OrderCreated":
            self._state = {"id": event["data"]["orderId"], "status": "created", "items": event["data"]["items"]}
        elif event["type"] == "ItemAdded":
            self._state["items"].append(event["data"]["sku"])
        elif event["type"] == "OrderPaid":
            self._state["status"] = "paid"
        else:
            raise KeyError(event["type"])
        self.events.append(event)

    def pay(self):
        self.apply_event({"type": "OrderPaid", "data": {}})


class Cart:
    """One that takes its id and holds what cannot be copied."""

    def __init__(self, cart_id):
        self.cart_id = cart_id
        self.count = 0
        self._lock = threading.Lock()
        self.events = []

    def when(self, event):
        with self._lock:
            self.count += 1
        self.events.append(event)


def event(number, kind, order="o1", **data):
    return {"eventId": f"e{number}", "eventType": kind, "data": {"orderId": order, **data}}


@pytest.fixture
def lab():
    return eslab.play(
        [
            event(1, "OrderCreated", items=["a"]),
            event(2, "OrderCreated", order="o2", items=[]),
            event(3, "ItemAdded", sku="b"),
            event(4, "OrderPaid"),
            event(5, "ItemAdded", sku="c"),
            event(6, "OrderPaid", order="o2"),
            eslab.Record(topic="events", key=b"o2", value=None, timestamp_ms=1_767_258_100_000),
        ]
    )


def test_one_function_folds_every_type_and_a_tombstone_still_resets(lab):
    def evolve(state, event):
        return {**state, event.type: state.get(event.type, 0) + 1}

    counts = Projection("counts", aggregate="order", evolve=evolve)
    assert lab.replay(counts, ended=True, progress=False)["o1"] == {"OrderCreated": 1, "ItemAdded": 2, "OrderPaid": 1}
    assert lab.replay(counts, ended=True, progress=False)["o2"] == {}
    counts.on("OrderPaid")(lambda state, event: {**state, "paid": True})
    assert lab.history("order", "o1", projection=counts).at().value == {"OrderCreated": 1, "ItemAdded": 2, "paid": True}
    assert "every other type by evolve" in repr(counts)
    assert counts.copy().handler("ItemAdded") is evolve
    with pytest.raises(ProjectionError, match="evolve is a function"):
        Projection("x", aggregate="order", evolve=7)


def test_an_ignored_type_is_neither_folded_nor_marked_as_unhandled(lab):
    seen = Projection("seen", aggregate="order").ignore("ItemAdded")
    seen.on("OrderCreated")(lambda state, event: {"made": True})
    assert [step.marks for step in lab.history("order", "o1", projection=seen)] == [(), (), ("unhandled",), ()]
    every = Projection("every", aggregate="order", evolve=lambda state, event: {"n": state.get("n", 0) + 1}).ignore(
        "ItemAdded", "OrderPaid"
    )
    assert lab.replay(every, progress=False)["o1"] == {"n": 1}
    assert "ignores ItemAdded, OrderPaid" in repr(every)
    every.on("OrderPaid")(lambda state, event: {"paid": True})
    assert lab.replay(every, progress=False)["o1"] == {"paid": True}
    with pytest.raises(ProjectionError, match="types to leave out"):
        every.ignore()


def test_an_ignored_event_does_not_bring_an_ended_key_back(lab):
    lab.publish({"eventType": "ItemAdded", "data": {"orderId": "o2"}, "timestamp": "2027-01-01T00:00:00Z"})
    assert "o2" not in lab.replay(Projection("x", aggregate="order", evolve=lambda state, event: {}).ignore("ItemAdded"), progress=False)
    assert "o2" in lab.replay(Projection("x", aggregate="order", evolve=lambda state, event: {}), progress=False)


def test_a_class_of_an_application_is_a_projection_as_it_is(lab):
    orders = Projection.of(Order, aggregate="order", name="orders", version=1, apply="apply_event", new=Order)
    wanted = [
        {"id": "o1", "status": "created", "items": ["a"]},
        {"id": "o1", "status": "created", "items": ["a", "b"]},
        {"id": "o1", "status": "paid", "items": ["a", "b"]},
        {"id": "o1", "status": "paid", "items": ["a", "b", "c"]},
    ]
    history = lab.history("order", "o1", projection=orders)
    assert [step.after for step in history] == wanted
    assert [step.before for step in history] == [{}, *wanted[:-1]]
    for version in (4, 1, 3, 0, 2, 4, 1):
        assert history.at(version=version).value == ({} if version == 0 else wanted[version - 1])
    assert [history[at].after for at in (2, 0, 3, 1)] == [wanted[at] for at in (2, 0, 3, 1)]
    assert [str(change) for change in history.diff(1, 2)] == ['items[1]: — → "b"']
    world = lab.replay(orders, progress=False)
    assert dict(world) == {"o1": wanted[-1]}
    assert lab.replay(orders, ended=True, progress=False)["o2"] == {}
    assert repr(orders) == "<Projection orders v1 of order: every type by evolve>"


def test_two_versions_of_a_class_are_compared_and_stepped(lab):
    class Slower(Order):
        def apply_event(self, event):
            if event["type"] != "OrderPaid":
                super().apply_event(event)

    one, other = Projection.of(Order, aggregate="order"), Projection.of(Slower, aggregate="order")
    compared = lab.compare(one, other, progress=False)
    assert "1" in repr(compared)
    assert list(compared.df()["event_id"]) == ["e4"]
    assert lab.history("order", "o1", projection=one).step() is not None


def test_what_it_is_given_and_what_it_shows_can_be_chosen(lab):
    seen = []
    chosen = Projection.of(
        Order,
        aggregate="order",
        event=lambda event: seen.append(event.id) or {"type": event.type, "data": dict(event.data, items=[event.id])},
        state=lambda order: {"n": len(order.events), "items": order._state["items"]},
        copy=copy.deepcopy,
    )
    assert lab.history("order", "o1", projection=chosen).at().value == {"n": 4, "items": ["e1", "b", "c"]}
    assert seen == ["e1", "e3", "e4", "e5"]


def test_a_class_that_takes_the_id_and_cannot_be_copied_is_folded_again_where_it_must_be(lab):
    carts = Projection.of(Cart, aggregate="order", apply="when")
    assert lab.replay(carts, progress=False)["o1"] == {"cart_id": "o1", "count": 4}
    history = lab.history("order", "o1", projection=carts)
    assert [step.after["count"] for step in history] == [1, 2, 3, 4]
    assert [history.at(version=version).value.get("count") for version in (3, 1, 4, 0, 2)] == [3, 1, 4, None, 2]


def test_a_method_may_be_any_function(lab):
    counted = Projection.of(
        Counter, aggregate="order", apply=lambda counter, event: counter.update([event["type"]]), new=nothing_counted, state=dict
    )
    assert lab.replay(counted, progress=False)["o1"] == {"OrderCreated": 1, "ItemAdded": 2, "OrderPaid": 1}


def nothing_counted():
    return Counter()


def test_a_type_that_the_class_does_not_know_fails_the_key_or_is_ignored(lab):
    lab.publish({"eventType": "Viewed", "data": {"orderId": "o1"}})
    orders = Projection.of(Order, aggregate="order")
    (failure,) = lab.replay(orders, progress=False).failed
    assert (failure.key, failure.error) == ("o1", "KeyError: 'Viewed'")
    history = lab.history("order", "o1", projection=orders)
    assert history[-1].marks == ("failed",)
    assert history.at().value["items"] == ["a", "b", "c"]
    assert lab.replay(orders.ignore("Viewed"), progress=False)["o1"]["items"] == ["a", "b", "c"]


def test_what_fits_no_class_is_one_sentence(lab):
    with pytest.raises(ProjectionError, match="Order has no method 'when'"):
        Projection.of(Order, aggregate="order", apply="when")
    with pytest.raises(ProjectionError, match="takes a class"):
        Projection.of("Order", aggregate="order")
    with pytest.raises(ProjectionError, match="folds with its class"):
        Projection.of(Order, aggregate="order").on("X")
    bad = Projection.of(Order, aggregate="order", state=lambda order: [1])
    assert "state= makes a dict of the object, not list" in lab.replay(bad, progress=False).failed[0].error


def test_the_objects_events_are_not_changed_by_the_class(lab):
    orders = Projection.of(Order, aggregate="order")
    history = lab.history("order", "o1", projection=orders)
    history.at()
    assert history[0].event.data["items"] == ["a"]


# --- what fails one key leaves the others alone ---------------------------------------------------------


@pytest.mark.parametrize(
    ("after", "said"),
    [
        (lambda state: 1 // 0, "ZeroDivisionError: integer division or modulo by zero"),
        (lambda state: None, "ProjectionError: evolve returned None for ItemAdded; a handler returns the new state"),
        (lambda state: {"a": {1}}, "a state holds JSON values, datetime and Decimal, but a is {1} (set)"),
        (lambda state: {"a": float("nan")}, "a state holds JSON values, datetime and Decimal, but a is nan (float)"),
        (lambda state: {1: 2}, "a state's keys are strings, but the state has 1"),
    ],
)
def test_a_handler_that_raises_returns_nothing_or_no_state_is_one_sentence_and_other_keys_are_unharmed(lab, after, said):
    def evolve(state, event):
        return after(state) if event.type == "ItemAdded" else {"fine": True}

    bad = Projection("bad", aggregate="order", evolve=evolve).ignore("OrderPaid")
    world = lab.replay(bad, ended=True, progress=False)
    (failure,) = world.failed
    assert (failure.key, said in failure.error, "\n" in failure.error) == ("o1", True, False)
    assert dict(world) == {"o2": {}}
    good = Projection("good", aggregate="order", evolve=lambda state, event: {"fine": True})
    compared = lab.compare(good, bad, ended=True, progress=False)
    assert (compared.failed, compared.equal) == (("o1",), ("o2",))
    assert said in compared["o1"].failures[1].error


# --- strict replays ---------------------------------------------------------------------------------


def changes_a_list(state, event):
    if event.type == "ItemAdded":
        state["items"].append(event.data["sku"])
        return state
    return {"items": event.data.get("items", [])}


def changes_the_event(state, event):
    event.data["seen"] = True
    return {**state, "data": event.data}


@pytest.mark.parametrize(("handler", "how"), [(changes_a_list, "by append"), (changes_the_event, "by __setitem__")])
def test_a_strict_replay_names_the_handler_that_changes_what_it_was_given(lab, handler, how):
    sloppy = Projection("sloppy", aggregate="order", evolve=handler)
    assert lab.replay(sloppy, progress=False).failed == ()
    failed = lab.replay(sloppy, strict=True, progress=False).failed
    assert failed[0].key == "o1"
    assert (
        f"handler {handler.__name__} of {'ItemAdded' if how == 'by append' else 'OrderCreated'} changed what it was given, {how}"
        in failed[0].error
    )
    assert __file__ in failed[0].error
    assert "a handler returns a new state" in failed[0].error


def test_a_strict_replay_of_handlers_that_change_nothing_is_the_same_as_any(lab):
    def evolve(state, event):
        after = copy.deepcopy(state)
        after.setdefault("items", []).extend(event.data.get("items", []))
        other = dict(state)
        other["n"] = len(state.get("kept", []))
        shallow = copy.copy(state) | {"kept": [*state.get("kept", []), (event.id, {"a": [event.data]})]}
        return {**after, **other, **shallow}

    pure = Projection("pure", aggregate="order", evolve=evolve, initial={"items": []})
    world = lab.replay(pure, strict=True, ended=True, progress=False)
    assert world.failed == ()
    assert dict(world) == dict(lab.replay(pure, ended=True, progress=False))
    orders = Projection.of(Order, aggregate="order")
    assert dict(lab.replay(orders, strict=True, progress=False)) == dict(lab.replay(orders, progress=False)), "a class changes by design"
    with pytest.raises(ProjectionError, match="no handlers"):
        lab.replay(eslab.SqlProjection("n", "select count(*) from events"), strict=True)


@pytest.mark.parametrize(
    "act",
    [
        *(lambda it, name=name: getattr(it, name)() for name in ("clear", "popitem")),
        lambda it: it.pop("a"),
        lambda it: it.update(b=1),
        lambda it: it.setdefault("b", 1),
        lambda it: it.__delitem__("a"),
        lambda it: it.__ior__({"b": 1}),
        *(lambda it, name=name: getattr(it["a"], name)() for name in ("clear", "pop", "reverse", "sort")),
        lambda it: it["a"].insert(0, 1),
        lambda it: it["a"].remove(1),
        lambda it: it["a"].extend([1]),
        lambda it: it["a"].__iadd__([1]),
        lambda it: it["a"].__imul__(2),
        lambda it: it["a"].__setitem__(0, 2),
        lambda it: it["a"].__delitem__(0),
        lambda it: it["a"][1]["deep"].append(1),
    ],
)
def test_nothing_changes_what_is_frozen(act):
    held = freezing.frozen({"a": [1, {"deep": []}]})
    with pytest.raises(freezing._Changed):
        act(held)
    assert held == {"a": [1, {"deep": []}]}
