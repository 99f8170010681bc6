"""Sagas: which finished, which were compensated, which are stuck."""

import datetime as dt
import random
from collections import defaultdict

import pandas as pd
import pytest
from chains import TYPES, chained, lab_of
from hypothesis import given
from hypothesis import strategies as st
from logs import few

import eslab
from eslab import endings, sagas, sql
from eslab.demo import day, lab_toml
from eslab.demo.story import Story
from eslab.errors import MomentError, UnknownId
from eslab.sources.memory import MemorySource


def event(name, type_, cause=None, *, correlation, at):
    return {
        "eventId": name,
        "eventType": type_,
        "causationId": cause,
        "correlationId": correlation,
        "timestamp": f"2026-01-01T{at}:00Z",
        "data": {"orderId": "o1"},
    }


SHOP = [
    event("a1", "Created", correlation="a", at="09:00"),
    event("a2", "Paid", "a1", correlation="a", at="09:10"),
    event("b1", "Created", correlation="b", at="09:11"),
    event("a3", "Delivered", "a2", correlation="a", at="10:00"),
    event("c1", "Created", correlation="c", at="10:01"),
    event("b1", "Created", correlation="b", at="10:02"),
    event("c2", "Cancelled", "c1", correlation="c", at="10:03"),
    event("d1", "Created", correlation="d", at="10:30"),
    event("x", "Noted", correlation=None, at="10:31"),
]


@pytest.fixture(scope="module")
def lab():
    return eslab.play(SHOP)


def asked(lab, **more):
    return lab.sagas(**{"done": ["Delivered"], "compensated": ["Cancelled"], **more})


def test_each_correlation_id_is_one_instance_with_its_state_steps_and_durations(lab):
    frame = asked(lab).df()
    assert dict(frame["state"]) == {"a": "finished", "b": "stuck", "c": "compensated", "d": "running"}
    assert dict(frame["steps"]) == {"a": 3, "b": 1, "c": 2, "d": 1}, "a duplicate is no step"
    assert frame["took"]["a"] == pd.Timedelta(hours=1)
    assert frame["silent"]["b"] == pd.Timedelta(hours=1, minutes=20)
    assert pd.isna(frame["silent"]["a"])
    assert (frame["last_type"]["b"], frame["ended_type"]["c"]) == ("Created", "Cancelled")


def test_the_parts_are_sagas_too_and_one_is_its_trace(lab):
    found = asked(lab)
    assert [list(part.df().index) for part in (found.finished, found.compensated, found.stuck, found.running)] == [
        ["a"],
        ["c"],
        ["b"],
        ["d"],
    ]
    assert found.counts == {"finished": 1, "compensated": 1, "running": 1, "stuck": 1}
    assert [one.event_id for one in found["a"]] == ["a1", "a2", "a3"]
    assert "b" in found
    assert "b" not in found.finished
    with pytest.raises(UnknownId, match="no saga here"):
        found["nobody"]


def test_how_long_is_too_long_and_as_of_when_can_be_chosen(lab):
    assert list(asked(lab, stuck_after="2h").stuck.df().index) == []
    assert list(asked(lab, stuck_after="0s").stuck.df().index) == ["b", "d"]
    assert dict(asked(lab, at="2026-01-01T09:40:00Z", stuck_after="29m").df()["state"]) == {"a": "stuck", "b": "stuck"}
    assert dict(asked(lab, at=lab.cut("2026-01-01T09:11:00Z"), stuck_after="1m").df()["state"]) == {"a": "stuck", "b": "running"}


def test_the_last_ending_event_says_how_a_saga_ended():
    lab = eslab.play(
        [
            event("a1", "Delivered", correlation="a", at="09:00"),
            event("a2", "Cancelled", correlation="a", at="09:01"),
            event("a3", "Mailed", correlation="a", at="09:02"),
        ]
    )
    found = asked(lab).df().loc["a"]
    assert (found["state"], found["ended_type"], found["last_type"]) == ("compensated", "Cancelled", "Mailed")
    assert found["took"] == pd.Timedelta(minutes=1)


def test_offsets_too_large_to_pack_into_one_number_give_the_same_answer(lab, monkeypatch):
    told = asked(lab).df()
    monkeypatch.setattr(sql, "_ROOM", 0)
    pd.testing.assert_frame_equal(asked(lab).df(), told)


def test_only_those_that_begin_so_can_be_asked_for(lab):
    assert list(asked(lab, begin="Paid").df().index) == ["a"]
    assert "no captured event is of type Begun" in repr(asked(lab, begin=["Begun"]))


def test_the_answer_says_what_it_is_and_what_it_is_not(lab):
    told = repr(asked(lab))
    assert told.splitlines()[0] == (
        "<Sagas: 1 finished (half of them within 1 h 0 min, the longest 1 h 0 min), 1 compensated (half of them within 2 min 0 s, the longest 2 min 0 s), "
        "1 running, 1 stuck (no event for 1 h or more); as of 2026-01-01 10:31:00 UTC>"
    )
    assert "1 event carries no correlation id" in told
    assert "no captured event is of type Shipped" in repr(asked(lab, done=["Delivered", "Shipped"]))
    page = asked(lab)._repr_html_()
    assert page.index('<td align="left" style="text-align:left">b</td>') < page.index('<td align="left" style="text-align:left">a</td>'), (
        "the stuck first"
    )


@pytest.fixture(scope="module")
def grown():
    """The shop once more, where three more sagas end each way, and one is stuck at a step that no other saga has."""
    more = [
        event(f"{kind}{at}", type_, correlation=f"{kind}{at}", at=f"09:{at:02}")
        for kind, last in (("x", "Delivered"), ("y", "Cancelled"))
        for at in range(2)
        for type_ in ("Created", last)
    ]
    more = [{**one, "eventId": f"{one['eventId']}-{one['eventType']}"} for one in more]
    return eslab.play(sorted([*SHOP, *more, event("s1", "Suspected", correlation="s", at="09:05")], key=lambda one: one["timestamp"]))


def test_without_endings_they_are_learned_and_it_is_said_from_how_many_sagas(grown):
    found = grown.sagas()
    states = dict(found.df()["state"])
    assert {name: states[name] for name in "abcd"} == {"a": "finished", "b": "stuck", "c": "finished", "d": "running"}
    said = "what ends a saga, learned from the ends of those here: Cancelled (ends 3 of the 3 that have it), Delivered (3 of 3); too seldom seen to learn: Suspected (ends 1 of the 1 that have it); done=[...] names them"
    assert said in repr(found)
    assert said in found._repr_html_()
    assert said in repr(grown.trace("a"))
    own = grown.sagas(compensated="Cancelled")
    assert dict(own.df()["state"])["c"] == "compensated"
    assert "here: Delivered (ends 3 of the 3 that have it); too" in repr(own)


def test_a_step_at_which_a_saga_or_two_are_stuck_is_not_taken_for_an_ending(lab, grown):
    assert dict(grown.sagas().df()["state"])["s"] == "stuck"
    assert [one.event_id for one in grown.trace("s").open] == ["s1"]
    assert lab.sagas().counts == {"finished": 0, "compensated": 0, "running": 3, "stuck": 1}
    said = "no type of event is known to end a saga; too seldom seen to learn: Cancelled (ends 1 of the 1 that have it), Delivered (1 of 1); done=[...] names them"
    assert said in repr(lab.sagas())
    assert said in repr(lab.trace("a"))


def test_of_many_types_that_end_sagas_those_are_named_of_which_most_is_known():
    told = [
        event(f"{kind}-{at}", f"Type{kind}", correlation=f"{kind}-{at}", at=f"0{kind}:{at:02}")
        for kind in range(1, 8)
        for at in range(3 + kind)
    ]
    said = repr(eslab.play(told).sagas())
    assert "Type7 (ends 10 of the 10 that have it), Type6 (9 of 9), Type5 (8 of 8), Type4 (7 of 7), Type3 (6 of 6) and 2 more; done" in said


def test_endings_are_learned_from_a_part_of_a_large_lab(lab, monkeypatch):
    monkeypatch.setattr(endings, "ENOUGH", 100)
    log = [
        event(f"{kind}{at}", kind, correlation=f"s{at}", at=f"0{kind == 'Ended'}:{at % 60:02}")
        for at in range(400)
        for kind in ("Begun", "Ended")
    ]
    large = eslab.play(sorted(log, key=lambda one: one["timestamp"]))
    assert large.sagas().counts["finished"] == 400
    assert "what ends a saga, learned from the ends of a sample: Ended (ends " in repr(large.sagas())


def test_what_cannot_be_asked_is_one_sentence(lab):
    with pytest.raises(MomentError, match="stuck_after='soon' is no length of time"):
        lab.sagas(stuck_after="soon")
    with pytest.raises(MomentError, match="Paid stands in done= and in compensated="):
        lab.sagas(done="Paid", compensated=["Paid"])
    with pytest.raises(MomentError, match=r"begin=\[None\] are no event types"):
        lab.sagas(begin=[None])


def test_an_empty_lab_has_no_sagas(tmp_path):
    found = eslab.Lab(tmp_path / "none", tz="UTC").sagas()
    assert (len(found), repr(found).splitlines()[0], found.df().empty) == (0, "<Sagas: none>", True)
    assert "none" in found._repr_html_()


# --- the shop's day ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shop")
    (folder / "lab.toml").write_text(lab_toml())
    lab = eslab.Lab(folder, tz=day.ZONE.key, say=lambda notice: None)
    story = Story(events=3_000, seed=1)
    lab.snapshot(MemorySource(story), progress=False)
    return lab, story.ground_truth()["phenomena"]


def test_the_stuck_finished_and_compensated_sagas_of_the_demo_are_those_of_its_ground_truth(shop):
    lab, truth = shop
    found = lab.sagas(begin="OrderCreated", done="OrderDelivered", compensated="OrderCancelled", stuck_after="15m")
    for state in ("stuck", "finished", "compensated"):
        told = {name.replace("cor-", "ord-") for name in getattr(found, state).df().index}
        assert told == set(truth[state]["ids"]), state
        assert len(told) == truth[state]["count"] > 0
    assert len(found.running) == 0


def test_the_endings_of_the_demo_are_learned(shop):
    lab, truth = shop
    stuck = lab.sagas().stuck
    assert {name.replace("cor-", "ord-") for name in stuck.df().index} == set(truth["stuck"]["ids"])
    for name in list(stuck.df().index)[:2]:
        trace = stuck[name]
        assert [one.facts["correlation_id"] for one in trace.open] == [name]
        assert trace.complete


def test_the_clock_that_runs_ahead_in_the_demo_records_effects_before_their_causes(shop):
    lab, truth = shop
    backwards = lab.sagas().backwards
    assert len(backwards) > 0
    trace = backwards[backwards.df().index[0]]
    for effect in trace.backwards:  # what stands behind that clock's records on their partition came later than it was
        cause = trace[effect.parent]
        assert (cause.at.topic, cause.at.partition) == ("shipments", truth["clock_ahead"]["partition"])


# --- as an oracle has it ----------------------------------------------------------------------------


def plain_sagas(oracle, done, compensated, begin, stuck_after, now):
    log = [one for one in oracle.log if one.kind == "event"]
    steps, first = defaultdict(dict), {}
    for one in log:
        first.setdefault(one.name, one)
        if one.parts["correlation_id"]:
            steps[one.parts["correlation_id"]].setdefault(one.name, one)
    out = {}
    for name, each in steps.items():
        events = list(each.values())
        kinds = [one.parts["event_type"] for one in events]
        if begin and not set(kinds) & set(begin):
            continue
        ends = [one for one in events if one.parts["event_type"] in (*done, *compensated)]
        state = (
            ("finished" if ends[-1].parts["event_type"] in done else "compensated")
            if ends
            else "stuck"
            if now - events[-1].order_at >= stuck_after
            else "running"
        )
        causes = [(one, first.get(one.parts["causation_id"])) for one in events]
        out[name] = {
            "state": state,
            "steps": len(events),
            "first_type": kinds[0],
            "last_type": kinds[-1],
            "took": (ends or events)[-1].order_at - events[0].order_at,
            "backwards": sum(cause is not None and one.order_at < cause.order_at for one, cause in causes),
        }
    return out


def check_sagas(seed, most):
    with lab_of(chained(seed, most)) as (lab, oracle):
        chance = random.Random(seed)
        kinds = chance.sample(TYPES, 3)
        begin = chance.choice([[], [], TYPES[:1]])
        after = chance.choice([0, 5, 120])
        now = max(one.order_at for one in oracle.log)
        found = lab.sagas(done=kinds[:1], compensated=kinds[1:2], begin=begin, stuck_after=after).df()
        wanted = plain_sagas(oracle, kinds[:1], kinds[1:2], begin, dt.timedelta(seconds=after), now)
        assert found[["state", "steps", "first_type", "last_type", "took", "backwards"]].to_dict("index") == wanted
        silent = list(found["silent"].dropna())
        assert silent == sorted(silent, reverse=True)


def check_sagas_of_ten(most):
    for seed in range(10):
        check_sagas(seed, most)


@few(3)
@given(st.integers(0, 2**32))
def test_sagas_of_made_logs_are_the_oracles(seed):
    check_sagas(seed, 20)


@pytest.mark.parametrize(
    "planted", [("count(*) > 1", "count(*) > 2"), ("effect.order_at < cause.order_at", "effect.order_at > cause.order_at")]
)
def test_the_oracle_notices_a_repeat_counted_as_a_step_and_an_order_turned_round(monkeypatch, planted):
    class Wrong:
        def __init__(self, con):
            self._con = con

        def execute(self, text, *rest):
            return self._con.execute(text.replace(*planted), *rest)

        def __getattr__(self, name):
            return getattr(self._con, name)

        def __enter__(self):
            return self

        def __exit__(self, *_):
            self._con.close()

    real = sagas.session
    monkeypatch.setattr(sagas, "session", lambda: Wrong(real()))
    with pytest.raises(AssertionError):
        check_sagas_of_ten(20)
