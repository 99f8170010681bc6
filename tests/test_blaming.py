"""What set a value, against a plain loop over the states."""

import json

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from logs import few
from test_model import states

import eslab
from eslab import cli
from eslab.changes import same
from eslab.errors import MomentError, UnknownPath
from eslab.model import MISSING, format_path, value_at

EVENTS = [
    {"eventId": "e1", "eventType": "Created", "data": {"orderId": "o", "status": "new", "items": [{"sku": "a", "n": 1}]}},
    {"eventId": "e2", "eventType": "Paid", "data": {"orderId": "o", "status": "paid"}},
    {"eventId": "e3", "eventType": "Noted", "data": {"orderId": "o"}},
    {"eventId": "e4", "eventType": "Changed", "data": {"orderId": "o", "items": [{"sku": "a", "n": 2}]}},
    {"eventId": "e5", "eventType": "Cleared", "data": {"orderId": "o"}},
]


def orders() -> eslab.Projection:
    made = eslab.Projection("orders", aggregate="order", initial={"status": "none"})

    @made.on("Created", "Changed")
    def merged(state, event):
        return {**state, **event.data}

    @made.on("Paid")
    def paid(state, event):
        return {**state, "status": "paid"}

    @made.on("Cleared")
    def cleared(state, event):
        return {key: value for key, value in state.items() if key != "items"}

    return made


@pytest.fixture(name="h")
def _h():
    return eslab.play(EVENTS).history("order", "o", projection=orders())


def blamed(h, path=None, **at):
    return [(one.event.id, one.handler, format_path(one.change.path)) for one in h.blame(path, **at)]


def test_a_path_is_blamed_on_the_events_that_changed_it_newest_first_with_their_handlers(h):
    assert blamed(h, "status") == [("e2", "paid", "status"), ("e1", "merged", "status")]
    assert blamed(h, "status", at=1) == [("e1", "merged", "status")]


def test_what_changes_within_a_path_and_what_holds_it_counts(h):
    assert blamed(h, "items") == [("e5", "cleared", "items"), ("e4", "merged", "items[0].n"), ("e1", "merged", "items")]
    assert blamed(h, "items[0].n") == [("e5", "cleared", "items[0].n"), ("e4", "merged", "items[0].n"), ("e1", "merged", "items[0].n")]
    assert blamed(h, "items[0].sku") == [("e5", "cleared", "items[0].sku"), ("e1", "merged", "items[0].sku")]
    assert h.blame("items[0].sku")[0].change.after is MISSING


def test_without_a_path_the_last_change_of_every_value_is_told(h):
    assert blamed(h, at=4) == [
        ("e4", "merged", "items[0].n"),
        ("e2", "paid", "status"),
        ("e1", "merged", "items[0].sku"),
        ("e1", "merged", "orderId"),
    ]
    assert blamed(h)[0] == ("e5", "cleared", "items")


def test_a_value_is_explained_in_two_sentences(h):
    first, second = repr(h.explain("status")).splitlines()
    assert first == "status is paid since 2026-01-01 09:00:01 UTC: Paid e2 folded by paid (version 2)."
    assert second == "Before that it was new, since 2026-01-01 09:00:00 UTC: Created e1 folded by merged (version 1)."
    assert repr(h.explain("status", at=1)).splitlines()[1] == "Before that it was none, as in the initial state."
    assert repr(h.explain("orderId")).splitlines()[1] == "No earlier event set it."
    assert repr(h.explain("items")).startswith("items is not there since ")
    assert repr(h.explain("status", at=0)) == "status is none in the initial state, and no event up to version 0 changed it."


def test_a_path_at_which_nothing_ever_stood_is_one_clear_sentence(h):
    for asked in (h.blame, h.explain):
        with pytest.raises(UnknownPath, match=r"stauts is in no state up to version 5, and no event ever set it; h\.blame\(\) lists"):
            asked("stauts")
        with pytest.raises(MomentError, match=r"blame one of them, like items\[0\]\.n"):
            asked("items[].n")


def test_what_was_there_from_the_beginning_is_blamed_on_nobody():
    h = eslab.play(EVENTS[2:3]).history("order", "o", projection=orders())
    assert len(h.blame("status")) == 0
    assert len(h.blame()) == 0


def test_every_handler_is_called_once_however_often_one_asks():
    calls = []
    counting = eslab.Projection(
        "counting", aggregate="order", evolve=lambda state, event: calls.append(event.id) or {**state, **event.data}
    )
    h = eslab.play(EVENTS).history("order", "o", projection=counting)
    for _ in range(2):
        h.changes(), h.blame("status"), h.blame()
    assert calls == [event["eventId"] for event in EVENTS]


@pytest.mark.parametrize("ask", [lambda h: h.df(), lambda h: h.watch("status"), lambda h: h.changes()], ids=["df", "watch", "changes"])
def test_whatever_folds_a_whole_history_leaves_the_one_table_of_its_changes(ask):
    calls = []
    counting = eslab.Projection(
        "counting", aggregate="order", evolve=lambda state, event: calls.append(event.id) or {**state, **event.data}
    )
    h = eslab.play(EVENTS).history("order", "o", projection=counting)
    ask(h)
    assert blamed(h, "status") == [("e2", "<lambda>", "status"), ("e1", "<lambda>", "status")]
    assert len(calls) == len(EVENTS)


def test_the_table_and_the_steps_say_the_same_where_handlers_change_their_state_in_place():
    careless = eslab.Projection("careless", aggregate="order", initial={"seen": [], "last": {}})

    @careless.on("Created", "Paid", "Changed")
    def seen(state, event):
        state["seen"].append(dict(event.data))
        state["last"].update(event.data)
        if event.type == "Changed":
            state["seen"][0].pop("status")
        return state

    h = eslab.play(EVENTS).history("order", "o", projection=careless)
    assert [one.change for one in h.changes()] == [change for step in h for change in step.changes]
    frame = h.df()
    assert list(frame["state"]) == [step.after for step in h]
    frame["state"][1]["seen"].clear()
    assert list(h.df()["state"]) == [step.after for step in h], "what a caller does to a table is the caller's own"


def leaves(value, path=()):
    if value and isinstance(value, (dict, list)):
        for part, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from leaves(inner, (*path, part))
    else:
        yield path


objects = states.filter(lambda state: isinstance(state, dict))


@few(8)
@given(st.lists(objects, min_size=1, max_size=6))
def test_blame_is_what_a_loop_over_the_states_finds(made):
    replaced = eslab.Projection("replaced", aggregate="order", evolve=lambda state, event: made[event.data["n"]])
    lab = eslab.play(
        [{"eventType": "Set", "data": {"orderId": "o", "n": at}} for at in range(len(made))], aggregates={"order": "data.orderId"}
    )
    h = lab.history("order", "o", projection=replaced)
    seen = [{}, *made]
    paths = {path for state in made for path in leaves(state) if path}
    wanted = {
        path: [
            version
            for version in range(len(made), 0, -1)
            if not same(value_at(seen[version - 1], path, MISSING), value_at(seen[version], path, MISSING))
        ]
        for path in paths
    }
    caused = h.changes()
    for path, versions in wanted.items():
        if all(isinstance(part, str) or part >= 0 for part in path):
            assert [*dict.fromkeys(one.version for one in h.blame(format_path(path)))] == versions, path
    last = {one.change.path: one.version for one in h.blame()}
    for path in leaves(made[-1]):
        if path:
            assert last[path] == wanted[path][0], path
    assert len(caused) == sum(len(step.changes) for step in h)


def test_the_shell_tells_the_same():
    lab = eslab.play(EVENTS)

    def shell(*words):
        return CliRunner().invoke(cli.main, ["blame", str(lab.path), *words])

    told = shell("order", "o", "status")
    assert (told.exit_code, told.stderr) == (0, "")
    assert told.stdout.startswith("status is paid since ")
    assert "e2" in told.stdout.splitlines()[4]
    assert [row["event_id"] for row in json.loads(shell("order", "o", "items", "--json").stdout)] == ["e4", "e1"]
    assert json.loads(shell("order", "o", "items[0].n", "--json").stdout)[0]["after"] == 2
    wrong = shell("order", "o", "stauts")
    assert (wrong.exit_code, wrong.stdout) == (1, "")
    assert "stauts is in no state" in wrong.stderr


def test_what_an_object_of_a_class_changed_is_blamed_on_its_method():
    class Order:
        def when(self, event):
            self.status = event["data"].get("status")

    h = eslab.play(EVENTS[:2]).history("order", "o", projection=eslab.Projection.of(Order, aggregate="order", apply="when"))
    assert blamed(h, "status") == [("e2", "Order.when", "status"), ("e1", "Order.when", "status")]
