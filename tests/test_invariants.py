"""What breaks an invariant, against replays and a plain loop over every history."""

from __future__ import annotations

import datetime as dt
import json
import random
from collections import Counter
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import given
from logs import captured, few, logs

import eslab
from eslab import cli, events, invariants, looking, runs
from eslab.errors import ProjectionError, UnknownId

BASE = dt.datetime(2026, 3, 12, 9, tzinfo=dt.UTC)


@pytest.fixture(scope="module", name="lab")
def _lab():
    """Orders that are charged, refunded, ended or fail, in small row groups."""
    chance = random.Random(7)
    told: list[Any] = []
    for number in range(400):
        at = BASE + dt.timedelta(seconds=number // 2)  # two events share each second
        order = f"o{chance.randint(0, 24):02d}"
        if chance.random() < 0.05:
            told.append(eslab.Record(topic="events", key=order.encode(), timestamp_ms=int(at.timestamp() * 1000)))
        else:
            kind = chance.choices(["Charged", "Refunded", "Noted", "Failed"], [8, 7, 4, 0.15])[0]
            told.append({"eventId": f"e{number}", "eventType": kind, "timestamp": at.isoformat(), "data": {"orderId": order}})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runs, "ROW_GROUP", 16)
        return eslab.play(told, tz="UTC")


def charged(calls: Counter[str] | None = None) -> eslab.Projection:
    made = eslab.Projection("charged", aggregate="order", initial={"n": 0})

    @made.on("Charged", "Refunded")
    def moved(state: Any, event: Any) -> Any:
        if calls is not None:
            calls[event.id] += 1
        return {"n": state["n"] + (1 if event.type == "Charged" else -1)}

    made.on("Failed")(lambda state, event: 1 // 0)
    return made


def once(state: Any) -> bool:
    return state["n"] <= 1


def never_below(state: Any) -> bool:
    return state["n"] >= 0


def turns(lab: Any, key: str, holds: Any) -> tuple[Any, list[tuple[dt.datetime, int]]]:
    """By a loop over one history: the step after which the key came to break it and does (or None), and each turn."""
    since, over, moves = None, False, []
    for step in lab.history("order", key, projection=charged()):
        gone = "failed" in step.marks
        if "tombstone" in step.marks:
            over = True
        elif not {"unhandled", "undecodable"} & {*step.marks}:
            over = False
        broken = not (gone or over) and not holds(step.after)
        if broken is not (since is not None):
            since = step if broken else None
            moves.append((step.event.order_at, 1 if broken else -1))
        if gone:
            break
    return since, moves


@pytest.mark.parametrize("holds", [once, never_below], ids=lambda one: one.__name__)
@pytest.mark.parametrize("scanned", [16, 100_000])
def test_the_violators_and_since_when_they_are_is_what_a_loop_over_the_histories_finds(lab, monkeypatch, holds, scanned):
    monkeypatch.setattr(events, "SCAN_ROWS", scanned)  # keys go on in the next slice
    found = lab.check(eslab.Invariant("it", charged(), holds), progress=False)["it"]
    world = lab.replay(charged(), progress=False)
    assert {one.key: one.state for one in found} == {key: state for key, state in world.items() if not holds(state)}
    keys = sorted({*lab.replay("order", ended=True, progress=False)})
    loop = {key: turns(lab, key, holds) for key in keys}
    assert {one.key: (one.version, one.event_id, one.at) for one in found} == {
        key: (since.version, since.event.id, since.event.coordinates) for key, (since, _) in loop.items() if since is not None
    }
    assert [one.key for one in found] == sorted(
        (one.key for one in found), key=lambda key: (loop[key][0].event.order_at, loop[key][0].event.coordinates)
    )
    assert found.keys == len(world)
    assert {one.key for one in found.failed} == {one.key for one in world.failed} != set()
    assert found.mended == sum(since is None and bool(moves) for since, moves in loop.values()) > 0
    times = sorted({at for _, moves in loop.values() for at, _ in moves})
    counts = [sum(by for _, moves in loop.values() for at, by in moves if at <= time) for time in times]
    changed = [(time, count) for time, count, before in zip(times, counts, [0, *counts], strict=False) if count != before]
    assert [(row["time"], row["violators"]) for row in found.moves().to_pylist()] == changed
    for time, count in changed[::9]:
        assert count == sum(not holds(state) for state in lab.replay(charged(), at=time, progress=False).values())
    assert changed[-1][1] == len(found)


def forget_the_rows_before_a_slice(monkeypatch):
    intact = looking.Looking.stand
    monkeypatch.setattr(looking.Looking, "stand", lambda self, key, begins: intact(self, key, max(begins, 0)))


def let_an_ended_key_go_on(monkeypatch):
    monkeypatch.setattr(invariants._Guard, "_gone", lambda self, event: None)


@pytest.mark.parametrize("plant", [forget_the_rows_before_a_slice, let_an_ended_key_go_on], ids=lambda plant: plant.__name__)
def test_a_bug_planted_in_the_pass_is_seen(lab, monkeypatch, plant):
    plant(monkeypatch)
    with pytest.raises(AssertionError):
        test_the_violators_and_since_when_they_are_is_what_a_loop_over_the_histories_finds(lab, monkeypatch, once, 16)


@few(5)
@given(logs())
def test_in_any_log_the_violators_are_those_that_a_replay_shows(tmp_path_factory, log):
    lab = captured(tmp_path_factory.mktemp("any") / "lab", log)

    def small(state):
        return len(state) < 4

    for aggregate in ("order", "parcel", "item"):
        try:
            found = lab.check(eslab.Invariant("small", aggregate, small), progress=False)["small"]
        except UnknownId:
            continue  # no event of this log belongs to one
        world = lab.replay(aggregate, progress=False)
        assert {one.key: one.state for one in found} == {key: state for key, state in world.items() if not small(state)}
        assert found.keys == len(world)
        assert found.partial == world.partial


def test_one_pass_answers_all_that_stand_over_one_projection(lab):
    calls: Counter[str] = Counter()
    own = charged(calls)
    found = lab.check(eslab.Invariant("one", own, once), eslab.Invariant("other", own, never_below), progress=False)
    alone = [lab.check(eslab.Invariant("it", charged(), holds), progress=False)["it"] for holds in (once, never_below)]
    assert [list(one) for one in found.values()] == [list(one) for one in alone]
    assert set(calls.values()) == {1}


def test_it_is_declared_on_the_lab_and_the_same_name_again_replaces_it(lab):
    mine = eslab.Lab(lab.path, tz="UTC")
    with pytest.raises(ProjectionError, match=r"no invariant to check; lab\.invariant\(name, projection, predicate\) declares one"):
        mine.check(progress=False)
    mine.invariant("charged", charged(), lambda state: False)
    declared = mine.invariant("charged", charged(), once)
    mine.invariant("never below", charged(), never_below)
    found = mine.check(progress=False)
    assert list(found) == ["charged", "never below"]
    assert list(found["charged"]) == list(lab.check(declared, progress=False)["charged"])
    with pytest.raises(KeyError, match=r"no invariant 'chraged' was checked; there are 'charged', 'never below'"):
        found["chraged"]


def test_as_of_a_moment(lab):
    whole = lab.check(eslab.Invariant("it", charged(), once), progress=False)["it"]
    last = whole[-1]
    before = lab.check(eslab.Invariant("it", charged(), once), at=lab.cut(event_id=last.event_id), progress=False)["it"]
    assert list(before)[-1].event_id == last.event_id
    time = BASE + dt.timedelta(seconds=60)
    until = lab.check(eslab.Invariant("it", charged(), once), at=time, progress=False)
    assert {one.key for one in until["it"]} == {
        key for key, state in lab.replay(charged(), at=time, progress=False).items() if not once(state)
    }
    assert repr(until).startswith("<Check of 1 invariant, recorded until 2026-03-12 09:01:00 UTC: 1 BROKEN>")
    assert max(row["time"] for row in points(until)) == time


def points(found: Any) -> list[dict[str, Any]]:
    return found._points().to_pylist()


def test_it_is_shown_as_a_line_a_table_and_a_chart(lab):
    found = lab.check(
        eslab.Invariant("charged once", charged(), once), eslab.Invariant("fine", charged(), lambda state: True), progress=False
    )
    assert not found.ok
    assert repr(found).splitlines()[0] == "<Check of 2 invariants, all that is captured: 2 BROKEN>", "a failed key may break anything"
    first = found["charged once"][0]
    assert f"charged once: {len(found['charged once'])} of " in repr(found)
    assert ", the first since 2026-03-12 09:0" in repr(found)
    frame = found.df()
    assert list(frame.columns) == [
        "invariant",
        "aggregate",
        "aggregate_id",
        "version",
        "event_type",
        "event_id",
        "source",
        "recorded_at",
        "at",
        "state",
    ]
    assert frame.loc[0, "state"] == first.state
    assert found.arrow().num_rows == len(frame) == len(found["charged once"])
    assert first.key in found._repr_html_()
    assert repr(first).startswith(f"<Violation of {first.key}: version {first.version}, Charged ")
    over_time = found["charged once"].over_time()
    assert over_time.index.is_monotonic_increasing
    spec = json.dumps(found.chart().to_dict(), default=str)
    assert '"charged once"' in spec
    assert "fine: " in spec, "the keys that failed are told"
    lines = {name: [row["violators"] for row in points(found) if row["name"] == name] for name in found}
    assert lines["fine"] == [0, 0]
    assert lines["charged once"] == [0, *over_time["violators"], over_time["violators"].iloc[-1]]


def test_a_key_that_no_handler_knows_yet_is_asked_by_its_initial_state():
    lab = eslab.play(
        [{"eventId": f"e{at}", "eventType": one, "data": {"orderId": "o"}} for at, one in enumerate(["Noted", "Noted", "Charged"])]
    )
    found = lab.check(eslab.Invariant("charged", charged(), lambda state: state["n"] > 0), at=lab.cut(event_id="e1"), progress=False)[
        "charged"
    ]
    assert [(one.key, one.version, one.event_id, one.state) for one in found] == [("o", 1, "e0", {"n": 0})]
    mended = lab.check(eslab.Invariant("charged", charged(), lambda state: state["n"] > 0), progress=False)["charged"]
    assert (len(mended), mended.mended, list(mended.over_time()["violators"]), mended.ok) == (0, 1, [1, 0], True)


def test_a_predicate_that_raises_is_one_sentence_that_names_key_and_event(lab):
    with pytest.raises(
        ProjectionError, match=r"invariant 'paid' raised KeyError: 'paid' on order o\d\d after (Charged|Refunded|Noted) e\d+: "
    ):
        lab.check(eslab.Invariant("paid", charged(), lambda state: state["paid"]), progress=False)


def test_what_is_no_invariant_is_refused(lab):
    with pytest.raises(ProjectionError, match="is no name"):
        lab.invariant("", "order", once)
    with pytest.raises(ProjectionError, match=r"invariant 'x': 7 folds no events"):
        lab.invariant("x", 7, once)
    with pytest.raises(ProjectionError, match=r"invariant 'x': 'n < 2' is no predicate"):
        lab.invariant("x", "order", "n < 2")
    with pytest.raises(ProjectionError, match=r"two invariants are called 'x'"):
        lab.check(eslab.Invariant("x", "order", once), eslab.Invariant("x", charged(), once), progress=False)


def test_a_violator_whose_state_is_none_has_failed_as_it_has_in_a_replay():
    odd = eslab.Projection("odd", aggregate="order")
    odd.on("Charged")(lambda state, event: {"n": {1, 2}})
    lab = eslab.play([{"eventId": "e0", "eventType": "Charged", "data": {"orderId": "o"}}])
    found = lab.check(eslab.Invariant("no", odd, lambda state: False), progress=False)["no"]
    world = lab.replay(odd, progress=False)
    assert (len(found), found.keys, found.failed) == (len(world), len(world), world.failed)
    assert (found.ok, found.failed[0].key) == (False, "o")


def test_the_shell_tells_the_same(lab, tmp_path):
    (tmp_path / "mine.py").write_text("""
import eslab
charged = eslab.Projection("charged", aggregate="order", initial={"n": 0})
charged.on("Charged")(lambda state, event: {"n": state["n"] + 1})
charged.on("Refunded")(lambda state, event: {"n": state["n"] - 1})
once = eslab.Invariant("charged once", charged, lambda state: state["n"] <= 1)
fine = eslab.Invariant("fine", charged, lambda state: True)
""")

    def shell(*names, **options):
        words = [word for name in names for word in ("--invariant", f"{tmp_path}/mine.py:{name}")]
        return CliRunner().invoke(cli.main, ["check", str(lab.path), "--tz", "UTC", *words, *(f"--{name}" for name in options)])

    own = charged()
    own.on("Failed")(lambda state, event: state)  # which that file does not know
    found = lab.check(eslab.Invariant("charged once", own, once), progress=False)["charged once"]
    told = shell("once", "fine", json=True)
    broken, fine = json.loads(told.stdout)
    assert (told.exit_code, told.stderr) == (1, "")
    assert [(row["aggregate_id"], row["version"], row["event_id"], row["state"]) for row in broken["violations"]] == [
        (one.key, one.version, one.event_id, one.state) for one in found
    ]
    assert (fine["violations"], fine["keys"], broken["mended"]) == ([], found.keys, found.mended)
    shown = shell("once")
    assert shown.stdout.splitlines()[0] == found.summary()
    assert shown.stdout.splitlines()[-1] == f"eslab check {lab.path} --invariant {tmp_path}/mine.py:once --tz UTC"
    assert shell("fine").exit_code == 0
    wrong = shell("nope")
    assert (wrong.exit_code, wrong.stdout) == (1, "")
    assert "mine.py has no invariant called nope; it has once, fine" in wrong.stderr
