"""Running to where something comes to hold: in one history, and in all of them."""

import json
import random
from collections import defaultdict

import pandas as pd
import pytest
from click.testing import CliRunner
from hypothesis import given
from logs import captured, few, logs

import eslab
from eslab import cli, firsts, looking
from eslab.errors import MomentError, ProjectionError, UnknownId
from eslab.model import MISSING


def events(count: int, keys: int, seed: int = 1):
    chance = random.Random(seed)
    for at in range(count):
        yield {
            "eventId": f"e{at}",
            "eventType": chance.choice(["Added", "Taken"]),
            "data": {"orderId": f"o{chance.randrange(keys)}", "n": at},
        }


def balance(calls=None) -> eslab.Projection:
    made = eslab.Projection("balance", aggregate="order", initial={"n": 0, "last": None})

    @made.on("Added")
    def added(state, event):
        if calls is not None:
            calls.append(event.id)
        return {"n": state["n"] + 1, "last": event.data["n"]}

    @made.on("Taken")
    def taken(state, event):
        if calls is not None:
            calls.append(event.id)
        return {"n": state["n"] - 1, "last": event.data["n"]}

    return made


def negative(state):
    return state["n"] <= -2


@pytest.fixture(name="lab", scope="module")
def _lab():
    return eslab.play(events(400, 12))


def test_the_first_event_of_every_key_is_that_of_a_loop_over_its_history(lab):
    found = lab.first(balance(), negative, progress=False)
    wanted = {}
    for key in lab.replay("order", progress=False):
        for step in lab.history("order", key, projection=balance()):
            if negative(step.after):
                wanted[key] = (step.version, step.event.id, step.after)
                break
    assert {one.key: (one.version, one.event_id, one.state) for one in found} == wanted
    assert 0 < len(wanted) < found.keys == 12
    assert [int(one.event_id[1:]) for one in found] == sorted(int(event_id[1:]) for _, event_id, _ in wanted.values())
    assert found.first == found[0]
    assert repr(found).startswith(f"<negative over balance: held for {len(wanted)} of 12 keys, first at 2026-01-01 ")


def take_what_held_of_the_key_before(monkeypatch):
    monkeypatch.setattr(firsts._Watching, "begin", looking.Looking.begin)


def ask_before_the_step(monkeypatch):
    monkeypatch.setattr(looking.Looking, "place", lambda self, event: (event._row - self._begins, event._row))


@pytest.mark.parametrize("plant", [take_what_held_of_the_key_before, ask_before_the_step], ids=lambda plant: plant.__name__)
def test_a_bug_planted_in_the_pass_is_seen(lab, monkeypatch, plant):
    plant(monkeypatch)
    with pytest.raises(AssertionError):
        test_the_first_event_of_every_key_is_that_of_a_loop_over_its_history(lab)


def test_it_is_one_pass_in_which_each_handler_is_called_once(lab):
    calls, asked = [], []
    lab.first(balance(calls), lambda state: asked.append(state) or negative(state), progress=False)
    assert len(calls) == len(set(calls)) == 400
    assert len(asked) < 400, "a key for which it held is not asked again"


def test_it_is_shown_as_a_table(lab):
    found = lab.first(balance(), negative, progress=False)
    assert found.arrow().column_names == ["aggregate_id", "version", "event_type", "event_id", "source", "recorded_at", "at", "state"]
    assert found.df().loc[found.first.key, "state"] == found.first.state
    assert found.first.key in found._repr_html_()
    assert found[-1].key in repr(found[-1])


def test_what_never_held_is_none(lab):
    found = lab.first(balance(), lambda state: state["n"] > 1000, progress=False)
    assert (len(found), found.first, len(found.df()), found.arrow().num_rows) == (0, None, 0, 0)
    assert "held for 0 of 12 keys" in repr(found)
    assert "it never held" in found._repr_html_()


def test_until_a_moment_and_of_some_keys_alone(lab):
    whole = lab.first(balance(), negative, progress=False)
    some = lab.first(balance(), negative, keys=[whole[1].key, whole[2].key], progress=False)
    assert list(some) == whole[1:3]
    until = lab.first(balance(), negative, at=lab.cut(event_id=whole[1].event_id), progress=False)
    assert list(until) == whole[:2]


def test_a_key_that_fails_before_it_holds_is_named_and_one_that_held_before_is_not():
    made = balance()

    @made.on("Broken")
    def broken(state, event):
        raise ValueError("no")

    def of(key, *types):
        return [{"eventType": one, "data": {"orderId": key, "n": 0}} for one in types]

    lab = eslab.play([*of("a", "Taken", "Broken", "Taken"), *of("b", "Taken", "Taken", "Broken")])
    found = lab.first(made, negative, progress=False)
    assert [one.key for one in found] == ["b"]
    assert [one.key for one in found.failed] == ["a"]
    assert "1 keys FAILED before it held" in repr(found)


def test_a_predicate_that_raises_or_is_none_is_one_sentence(lab):
    with pytest.raises(ProjectionError, match=r"the predicate raised KeyError: 'nope' on order o\d+ after (Added|Taken) e\d+: "):
        lab.first(balance(), lambda state: state["nope"], progress=False)
    with pytest.raises(ProjectionError, match="is no predicate; give a function"):
        lab.first(balance(), "n < 0", progress=False)


@few(5)
@given(logs())
def test_in_any_log_it_is_what_the_histories_say(tmp_path_factory, log):
    lab = captured(tmp_path_factory.mktemp("any") / "lab", log)

    def grown(state):
        return isinstance(state, dict) and len(state) > 3

    wanted = defaultdict(dict)
    found = defaultdict(dict)
    for aggregate in ("order", "parcel", "item"):
        try:
            firsts = lab.first(aggregate, grown, progress=False)
        except UnknownId:
            continue  # no event of this log belongs to one
        found[aggregate] = {one.key: (one.version, one.at) for one in firsts}
        for key in lab.replay(aggregate, ended=True, progress=False):
            held = (step for step in lab.history(aggregate, key) if grown(step.after) and not {"tombstone", "undecodable"} & {*step.marks})
            if (step := next(held, None)) is not None:
                wanted[aggregate][key] = (step.version, step.event.coordinates)
    assert {name: held for name, held in found.items() if held} == {name: held for name, held in wanted.items() if held}


def test_the_shell_tells_the_same(lab, tmp_path):
    (tmp_path / "mine.py").write_text("""
import eslab
balance = eslab.Projection("balance", aggregate="order", initial={"n": 0})
balance.on("Added")(lambda state, event: {"n": state["n"] + 1})
balance.on("Taken")(lambda state, event: {"n": state["n"] - 1})
def negative(state): return state["n"] <= -2
def never(state): return False
""")

    def shell(name, *words):
        told = ["first", str(lab.path), "--projection", f"{tmp_path}/mine.py:balance", "--when", f"{tmp_path}/mine.py:{name}", *words]
        return CliRunner().invoke(cli.main, told)

    found = lab.first(balance(), negative, progress=False)
    told = json.loads(shell("negative", "--json").stdout)
    assert [(row["aggregate_id"], row["version"], row["event_id"]) for row in told] == [
        (one.key, one.version, one.event_id) for one in found
    ]
    shown = shell("negative")
    assert (shown.exit_code, shown.stderr) == (0, "")
    assert shown.stdout.startswith("negative over balance: held for ")
    assert shell("never").exit_code == 1
    wrong = shell("nope")
    assert (wrong.exit_code, wrong.stdout) == (1, "")
    assert "mine.py has no function called nope" in wrong.stderr


# --- in one history


@pytest.fixture(name="h", scope="module")
def _h():
    types = ["Added", "Taken", "Taken", "Noted", "Taken", "Added"]
    return eslab.play(
        [{"eventId": f"e{at}", "eventType": one, "data": {"orderId": "o", "n": at}} for at, one in enumerate(types, 1)]
    ).history("order", "o", projection=balance())


def version(step):
    return None if step is None else step.version


def test_a_history_runs_until_a_type_a_predicate_or_a_change(h):
    assert version(h.run_until(event_type="Taken")) == 2
    assert version(h.run_until(event_type="Taken", after=2)) == 3
    assert version(h.run_until(when=negative)) == 5
    assert version(h.run_until(changed="n", after=3)) == 5
    assert version(h.run_until(event_type="Nothing")) is None
    assert version(h.run_until(event_type="Noted", when=negative)) == 4, "any of them stops it"


def test_and_back_from_the_end_or_from_a_step(h):
    assert version(h.run_back_until(event_type="Taken")) == 5
    assert version(h.run_back_until(event_type="Taken", before=5)) == 3
    assert version(h.run_back_until(changed="n", before=5)) == 3
    assert version(h.run_back_until(when=lambda state: state["n"] == 1)) == 1
    assert version(h.run_back_until(event_type="Added", before=1)) is None
    assert version(h.run_back_until(event_type="Added", before=0)) is None


def test_it_stops_where_a_handler_raises():
    made = balance()
    made.on("Noted")(lambda state, event: 1 / 0)
    h = eslab.play([{"eventType": one, "data": {"orderId": "o", "n": 0}} for one in ("Added", "Noted", "Added")]).history(
        "order", "o", projection=made
    )
    assert version(h.run_until(failed=True)) == 2
    assert h.run_until(failed=True).problem == "ZeroDivisionError: division by zero"
    assert version(h.run_back_until(failed=True)) == 2


def test_to_run_until_nothing_is_refused(h):
    with pytest.raises(MomentError, match="run until what"):
        h.run_until()
    with pytest.raises(MomentError, match="watch what"):
        h.watch()


def test_watched_paths_are_a_table_of_the_steps_that_changed_one(h):
    frame = h.watch("n", "gone.x")
    assert frame.index.tolist() == [1, 2, 3, 5, 6]
    assert frame["n"].tolist() == [1, 0, -1, -2, -1]
    assert frame["gone.x"].tolist() == [MISSING] * 5
    assert frame["event_type"].tolist() == ["Added", "Taken", "Taken", "Taken", "Added"]
    assert isinstance(frame["recorded_at"].dtype, pd.DatetimeTZDtype)
