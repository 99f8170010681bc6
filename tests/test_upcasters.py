"""Events of an old version, read as the newest: chained, held against a plain loop, rehearsed over all history, and part of what a cut remembers."""

import random
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cloudpickle
import pytest
from hypothesis import given
from hypothesis import strategies as st
from logs import captured, few, logs, state_of
from oracle import Oracle, canonical

import eslab
from eslab import Coordinates, Cut, Lab, Projection, dispatch, freezing, runs, upcasters
from eslab.errors import ProjectionError


def created(number, version, order="o1", **data):
    told = {} if version is None else {"eventVersion": version}
    return {"eventId": f"e{number}", "eventType": "OrderCreated", **told, "data": {"orderId": order, **data}}


@pytest.fixture
def lab():
    return eslab.play(
        [
            created(1, "1.0", name="Ada Lovelace"),
            created(2, "2.0", order="o2", first="Alan", last="Turing"),
            created(3, None, order="o3", n="Grace Hopper"),
            created(4, "3.0", order="o4", first="Edsger", last="Dijkstra", country="NL"),
            {"eventId": "e5", "eventType": "OrderPaid", "eventVersion": "1.0", "data": {"orderId": "o1"}},
        ]
    )


def declare(lab):
    @lab.upcaster("OrderCreated", from_version="1.0", to_version="2.0")
    def split(data):
        first, _, last = data.pop("name").partition(" ")
        return {**data, "first": first, "last": last}

    @lab.upcaster("OrderCreated", from_version=None, to_version="1.0")
    def named(data):
        data["name"] = data.pop("n")
        return data

    @lab.upcaster("OrderCreated", from_version="2.0", to_version="3.0")
    def placed(data):
        return {**data, "country": "GB"}


def test_upcasters_are_chained_and_applied_in_every_fold_while_sql_shows_what_was_written(lab):
    assert lab.history("order", "o1").at(version=1)["name"] == "Ada Lovelace"
    declare(lab)
    wanted = {
        "o1": ["Ada", "Lovelace", "GB"],
        "o2": ["Alan", "Turing", "GB"],
        "o3": ["Grace", "Hopper", "GB"],
        "o4": ["Edsger", "Dijkstra", "NL"],
    }

    def seen(state):
        return [state["first"], state["last"], state["country"]]

    world = lab.replay("order", progress=False)
    assert {key: seen(state) for key, state in world.items()} == wanted
    assert {key: state["_version"] for key, state in world.items()} == {"o1": "1.0", "o2": "3.0", "o3": "3.0", "o4": "3.0"}
    assert {key: seen(lab.history("order", key).at().value) for key in wanted} == wanted
    told = Projection("told", aggregate="order").ignore("OrderPaid")
    told.on("OrderCreated")(
        lambda state, event: {"version": event.version, "data": event.data, "id": event.id, "at": str(event.coordinates)}
    )
    assert lab.replay(told, progress=False)["o3"] == {
        "version": "3.0",
        "data": {"orderId": "o3", "first": "Grace", "last": "Hopper", "country": "GB"},
        "id": "e3",
        "at": "events/0/2",
    }
    assert lab.compare("order", told, progress=False).different == ("o1", "o2", "o3", "o4")
    history = lab.history("order", "o1", projection=told)
    assert [history.at(version=1).value for _ in range(3)] == [history[0].after] * 3, "what an upcaster is given is its own"
    assert history[0].event.data == {"orderId": "o1", "name": "Ada Lovelace"}, "a step shows the record as it was written"
    assert lab.sql("select data->>'name' from events where event_id = 'e1'").fetchall() == [("Ada Lovelace",)]
    assert dict(Lab(lab.path, tz="UTC").replay("order", progress=False))["o1"]["name"] == "Ada Lovelace", "they belong to this object alone"


def test_a_cell_that_is_run_again_replaces_its_upcaster(lab):
    declare(lab)
    lab.upcaster("OrderCreated", from_version="2.0", to_version="3.0")(lambda data: {**data, "country": "IE"})
    assert lab.replay("order", progress=False)["o1"]["country"] == "IE"
    assert len(lab.upcasters) == 3
    assert "OrderCreated 1.0 → 2.0: split" in repr(lab.upcasters)
    assert "<td" in lab.upcasters._repr_html_()
    assert list(lab.upcasters.df()["to_version"]) == lab.upcasters.arrow()["to_version"].to_pylist() == ["2.0", "1.0", "3.0"]


@pytest.mark.parametrize(
    ("start", "to", "said"),
    [
        ("3.0", "1.0", "in a circle: 3.0 → 1.0 → 2.0 → 3.0"),
        ("1.0", "1.0", "in a circle: 1.0 → 1.0"),
        ("4.0", "5.0", "leave a gap: they end in 3.0 and in 5.0"),
        ("1.0", "4.0", "leave a gap: they end in 3.0 and in 4.0"),
    ],
)
def test_circles_and_gaps_are_rejected_when_declared_and_change_nothing(lab, start, to, said):
    declare(lab)
    before = lab.upcasters
    with pytest.raises(ProjectionError, match=said):
        lab.upcaster("OrderCreated", from_version=start, to_version=to)(lambda data: data)
    assert lab.upcasters is before
    lab.upcaster("OrderPaid", from_version="4.0", to_version="5.0")(lambda data: data)


def test_several_old_versions_may_lead_to_one(lab):
    lab.upcaster("OrderCreated", from_version="1.0", to_version="3.0")(lambda data: {"from": 1})
    lab.upcaster("OrderCreated", from_version="2.0", to_version="3.0")(lambda data: {"from": 2})
    assert [lab.replay("order", progress=False)[key].get("from") for key in ("o1", "o2", "o4")] == [1, 2, None]


@pytest.mark.parametrize("words", [(7, "1", "2"), ("T", 1.0, "2"), ("T", "1", None), ("T", True, "2")])
def test_what_is_no_upcaster_says_how_to_write_one(lab, words):
    event_type, start, to = words
    with pytest.raises(ProjectionError, match=r"write @lab\.upcaster\("):
        lab.upcaster(event_type, from_version=start, to_version=to)(lambda data: data)
    with pytest.raises(ProjectionError, match="write @lab"):
        lab.upcaster("T", from_version=1, to_version=2)("no function")


def test_an_upcaster_that_fails_fails_its_keys_alone_and_is_named(lab):
    lab.upcaster("OrderCreated", from_version="1.0", to_version="2.0")(lambda data: data["nick"])
    world = lab.replay("order", progress=False)
    assert set(world) == {"o2", "o3", "o4"}
    (failure,) = world.failed
    assert (failure.key, failure.event_id) == ("o1", "e1")
    assert failure.error == "ProjectionError: the upcaster of OrderCreated from 1.0 to 2.0 raised KeyError: 'nick'"
    assert lab.history("order", "o1")[0].marks == ("failed",)
    lab.upcaster("OrderCreated", from_version="1.0", to_version="2.0")(lambda data: None)
    assert "returned None; an upcaster returns the data of the newer version" in lab.replay("order", progress=False).failed[0].error


def test_the_check_takes_all_of_history_through_them_and_keeps_nothing(lab):
    assert "no upcasters are declared" in repr(lab.upcast_check(progress=False))
    lab.upcaster("OrderCreated", from_version="1.0", to_version="2.0")(lambda data: {**data, "first": data["name"].split()[0]})
    lab.upcaster("OrderCreated", from_version="2.0", to_version="3.0")(lambda data: {**data, "initial": data["first"][0]})
    check = lab.upcast_check(progress=False)
    assert repr(check) == "<Rehearsal of upcasters: of 4 events of 1 type 2 are upcast; no upcaster knows OrderCreated without a version>"
    assert not check.ok
    lab.upcaster("OrderCreated", from_version=None, to_version="3.0")(lambda data: {"wrong": {1}})
    check = lab.upcast_check(progress=False)
    assert check.unknown == []
    rows = check.df().set_index("version").to_dict("index")
    assert (rows["1.0"]["becomes"], rows["1.0"]["events"], rows["1.0"]["failed"]) == ("3.0", 1, 0)
    ((_, failed),) = [(version, row) for version, row in rows.items() if row["failed"]]
    assert (failed["at"], "a state holds JSON values" in failed["error"]) == ("events/0/2", True)
    assert "1 FAILED" in repr(check)
    assert check.arrow().num_rows == 4
    declare(lab)
    lab.publish(created(6, "2.0", order="<b>", first="x"))
    good = lab.upcast_check(progress=False)
    assert good.ok
    assert repr(good) == "<Rehearsal of upcasters: of 5 events of 1 type 4 are upcast; all come through>"


def test_an_event_of_several_aggregates_is_checked_once_and_one_of_none_too(tmp_path):
    (tmp_path / "lab").mkdir()
    rules = 'format_version = 1\n[topics.events]\naggregates = [{ name = "item", id = "data.items[].id" }, { name = "order", id = "data.orderId" }]\n'
    (tmp_path / "lab" / "lab.toml").write_text(rules)
    lab = Lab(tmp_path / "lab", tz="UTC", say=lambda text: None)
    values = ['{"orderId": "o", "items": [{"id": "a"}, {"id": "b"}]}', "{}"]
    records = [eslab.Record(topic="events", offset=at, value=f'{{"type": "T", "data": {one}}}'.encode()) for at, one in enumerate(values)]
    lab.snapshot(eslab.sources.memory.MemorySource(records), progress=False)
    lab.upcaster("T", from_version=None, to_version="1")(lambda data: data)
    assert lab.upcast_check(progress=False).counts["T", None].events == 2


def test_a_cut_remembers_the_upcasters_it_was_made_under_and_says_when_others_are_declared(lab):
    said = []
    lab._say = said.append
    bare = lab.cut(event_id="e2")
    lab.replay("order", at=bare, progress=False)
    assert said == []
    declare(lab)
    lab.replay("order", at=bare, progress=False)
    lab.replay("order", at=bare, progress=False)
    assert said == ["'up to and with event e2': other upcasters are declared now than when this cut was made: answers may differ from then"]
    cut = Cut.from_json(lab.cut(event_id="e2").to_json())
    lab.bookmark("upcast", at=cut)
    said.clear()
    declare(lab)
    lab.replay("order", at=cut, progress=False)
    lab.replay("order", at=cut | lab.cut(), progress=False)
    lab.replay("order", at=lab.cut(bookmark="upcast"), progress=False)
    assert said == [], "the same code, declared again, does the same"
    assert lab.history("order", "o1").at(cut=cut).note == ""
    lab.upcaster("OrderCreated", from_version="2.0", to_version="3.0")(lambda data: {**data, "country": "other"})
    assert "other upcasters" in lab.history("order", "o1").at(cut=cut).note
    other = Lab(lab.path, tz="UTC", say=said.append)
    other.replay("order", at=other.cut(bookmark="upcast"), progress=False)
    assert len(said) == 1
    assert Cut.from_json('{"offsets": []}').upcasters is None


def test_an_executor_folds_through_upcasters_and_over_frozen_states_too(lab):
    declare(lab)
    wanted = dict(lab.replay("order", progress=False))
    with ThreadPoolExecutor(2) as executor:
        assert dict(lab.replay("order", executor=executor, progress=False)) == wanted
        sloppy = Projection("sloppy", aggregate="order", initial={"n": []}, evolve=lambda state, event: state["n"].append(1) or state)
        failed = lab.replay(sloppy, strict=True, executor=executor, progress=False).failed
        assert {one.key for one in failed} == {"o1", "o2", "o3", "o4"}
        assert "changed what it was given, by append" in failed[0].error
    travelled = cloudpickle.loads(cloudpickle.dumps(freezing.strict(lab._folded("order"))))  # as to another process
    assert travelled.upcast_by == lab.upcasters.fingerprint
    assert dict(Lab(lab.path, tz="UTC").replay(travelled, progress=False)) == wanted


def test_a_world_goes_on_with_the_upcasters_that_it_was_made_with(lab):
    declare(lab)
    world = lab.replay("order", at=lab.cut(event_id="e1"), progress=False)
    lab.upcaster("OrderCreated", from_version="2.0", to_version="3.0")(lambda data: {**data, "country": "other"})
    assert {state["country"] for state in world.advance().values()} == {"GB", "NL"}


# --- held against a plain loop ----------------------------------------------------------------------


STEPS = [
    ("Created", None, "1"), ("Created", "1", "2"), ("Created", "2", "3"), ("Changed", "two", "9"), ("Changed", "1", "9"), ("grew", 2, 3),
]  # fmt: skip


def declared(lab):
    for kind, start, to in STEPS:

        def up(data, start=start, to=to):
            if isinstance(data, dict):
                data["touched"] = True  # its own to change
            return {"from": start, "to": to, "data": data}

        lab.upcaster(kind, from_version=start, to_version=to)(up)


def upcast(kind, version, data):
    """The same, by a loop."""
    steps = {(name, None if start is None else str(start)): (start, to) for name, start, to in STEPS}
    while (kind, version) in steps:
        start, to = steps[kind, version]
        data = {"from": start, "to": to, "data": {**data, "touched": True} if isinstance(data, dict) else data}
        version = str(to)
    return version, data


TRAIL = Projection(
    "trail", aggregate="order", evolve=lambda state, event: {"trail": [*state.get("trail", []), [event.type, event.version, event.data]]}
)


def trail(events):
    state = {}
    for event in events:
        if event.kind == "tombstone":
            state = {}
        elif event.kind == "event":
            kind = event.parts["event_type"]
            state = {"trail": [*state.get("trail", []), [kind, *upcast(kind, event.parts["event_version"], event.data)]]}
    return state


def upcast_differences(lab, oracle, chance, executor=None):
    declared(lab)
    one = chance.choice(oracle.log)
    cut, held = lab.cut(event_id=Coordinates(*one.life, one.offset)), oracle.until_event(one)
    world = lab.replay(TRAIL, at=cut, ended=True, executor=executor, progress=False)
    found = {row["aggregate_id"]: canonical(state_of(row["state"])) for row in world.arrow().to_pylist()}
    wanted = {key[1]: canonical(trail(chosen)) for key in oracle.keys if key[0] == "order" and (chosen := oracle.history(key, held))}
    if found != wanted:
        yield f"world: {found} is not {wanted}"
    for key in [key for key in oracle.keys if key[0] == "order"][:2]:
        events = oracle.history(key)
        history = lab.history(*key, projection=TRAIL)
        for version in range(len(events), -1, -1):
            if canonical(history.at(version=version).value) != canonical(trail(events[:version])):
                yield f"{key} at version {version}"
    total = sum(one.events for one in lab.upcast_check(progress=False).counts.values())
    if total != sum(event.kind == "event" and event.parts["event_type"] in {step[0] for step in STEPS} for event in oracle.log):
        yield f"{total} events checked"


@few(7)
@given(logs(), st.integers(0, 2**32))
def test_what_handlers_see_through_upcasters_is_what_a_loop_makes_of_the_log(log, seed):
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(2) as pool, pytest.MonkeyPatch.context() as patch:
        patch.setattr(runs, "ROW_GROUP", 4)
        patch.setattr(dispatch, "SMALLEST", 4)
        lab = captured(Path(folder) / "lab", log)
        assert list(upcast_differences(lab, Oracle(lab.path), random.Random(seed), pool if seed % 2 else None)) == []


@pytest.mark.parametrize("bug", ["forgets the last step", "reads the version as it was written"])
def test_the_comparison_finds_a_planted_bug(tmp_path, monkeypatch, bug):
    from logs import made

    lab = captured(tmp_path / "lab", made(60, seed=4))
    if bug == "forgets the last step":
        intact = upcasters.Upcasters.way
        monkeypatch.setattr(upcasters.Upcasters, "way", lambda self, *of: intact(self, *of)[:-1])
    else:
        intact = eslab.Event.renewed
        monkeypatch.setattr(eslab.Event, "renewed", lambda self, version, data: intact(self, self.version, data))
    assert list(upcast_differences(lab, Oracle(lab.path), random.Random(1)))
