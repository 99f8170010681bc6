"""Two worlds held against each other, key by key."""

import html
import random
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from logs import captured, few, logs
from oracle import Oracle, canonical

import eslab
from eslab import Projection, keyed
from eslab.errors import ProjectionError, UnknownId
from eslab.model import dumps


def event(number, order, **data):
    return {"eventId": f"e{number}", "eventType": "T", "data": {"orderId": order, **data}}


@pytest.fixture
def lab():
    return eslab.play(
        [
            event(1, "o1", total=1),
            event(2, "o2", total=2),
            event(3, "<b>", total=3),
            event(4, "o1", total=4, note="\x1b[31m<script>"),
            event(5, "o4", total=5),
            eslab.Record(topic="events", key=b"o2", value=None, timestamp_ms=1_767_258_100_000),
        ]
    )


def test_what_changed_came_and_went_from_one_moment_to_another(lab):
    before, after = lab.replay("order", at=lab.cut(event_id="e3"), progress=False), lab.replay("order", progress=False)
    found = before.diff(after)
    assert list(found) == ["o1", "o2", "o4"]
    assert str(found["o1"][0]) == "total: 1 → 4"
    assert [(change.path, change.after) for change in found["o2"]] == [((), eslab.MISSING)]
    assert found.counts == {"equal": 1, "changed": 1, "came": 1, "went": 1, "failed": 0}
    assert found.df().to_dict("index")["o1"] == {"kind": "changed", "paths": ["total", "note"]}
    assert list(found.df()["kind"]) == ["changed", "went", "came"]
    assert found.arrow()["after"][1].as_py() is None
    assert (
        repr(found)
        == "<WorldChanges of order: 1 equal, 1 changed, 1 came, 1 went (before: up to and with event e3; after: all that is captured)>"
    )
    assert "&lt;script" in found._repr_html_()
    assert "<script" not in found._repr_html_()
    assert "\x1b" not in found._repr_html_()
    (went,) = found["o2"]
    assert f"{html.escape(dumps(went.before).decode())}</td>" in found._repr_html_()
    assert len(after.diff(after)) == 0
    assert "nothing differs" in after.diff(after)._repr_html_()
    with pytest.raises(UnknownId, match="not among the 3 that differ"):
        found["<b>"]


def test_of_keys_that_failed_nothing_is_said_and_they_are_counted(lab):
    picky = Projection("picky", aggregate="order", evolve=lambda state, event: {"n": 1 // (event.data["total"] - 4)})
    found = lab.replay("order", progress=False).diff(lab.replay(picky, progress=False))
    assert "o1" not in found
    assert found.counts["failed"] == 1
    with pytest.raises(ProjectionError, match="a world of order, that one of topic"):
        lab.replay("order", progress=False).diff(lab.replay(Projection("t", key="topic", evolve=lambda state, event: {}), progress=False))


@few(5)
@given(logs(), st.integers(0, 2**32))
def test_it_is_what_a_loop_over_both_worlds_finds(log, seed):
    chance = random.Random(seed)
    with tempfile.TemporaryDirectory() as folder:
        lab = captured(Path(folder) / "lab", log)
        oracle = Oracle(lab.path)
        sides = [chance.choice(oracle.log).order_at for _ in range(2)]
        worlds = [oracle.world("order", lambda one, at=at: one.order_at <= at) for at in sides]
        found = lab.replay("order", at=sides[0], progress=False).diff(lab.replay("order", at=sides[1], progress=False))
        states = [{key: canonical(state) for key, (_, state) in world.items()} for world in worlds]
        assert set(found) <= {key for key in states[0].keys() | states[1].keys() if states[0].get(key) != states[1].get(key)}
        assert states[0].keys() ^ states[1].keys() <= set(found)
        for key in set(states[0]) & set(states[1]) - set(found):  # what the lab takes for equal differs at most in how a number is written
            assert worlds[0][key][1] == worlds[1][key][1]


def test_past_its_memory_it_goes_to_a_file_that_goes_with_it(lab, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    before, after = lab.replay("order", at=lab.cut(event_id="e1"), progress=False), lab.replay("order", progress=False)
    monkeypatch.setattr(keyed, "IN_MEMORY", 1)
    found = before.diff(after)
    assert len(list(tmp_path.iterdir())) == 1
    assert list(found) == ["<b>", "o1", "o4"]
    del found
    assert list(tmp_path.iterdir()) == []
