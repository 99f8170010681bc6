"""What arrived after its time."""

import datetime as dt
import random
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from logs import captured, few, logs
from oracle import Oracle

import eslab
from eslab import Lab, Record
from eslab.errors import MomentError, UnknownTopic
from eslab.model import dumps
from eslab.sources.memory import MemorySource

NOON = 1_773_313_200_000  # 2026-03-12 12:00:00 in Berlin


def told(at, late_s, topic="t", **parts):
    value = dumps({"eventId": f"e{at}", "eventType": "T", "timestamp": NOON + (at - late_s) * 1000, "data": {"anId": "1"}, **parts})
    return Record(topic=topic, key=b"1", timestamp_ms=NOON + at * 1000, value=value)


@pytest.fixture
def lab(tmp_path):
    lab = Lab(tmp_path / "lab", tz="Europe/Berlin", say=lambda text: None)
    lab.snapshot(
        MemorySource([told(0, 0), told(10, 5), told(20, 60), told(3600, 3500), told(3601, 59.999), told(5, 86_400 * 2, topic="u")]),
        progress=False,
    )
    return lab


def test_events_late_by_a_minute_or_more_are_listed_the_latest_first(lab):
    late = lab.late()
    assert list(late.df()["event_id"]) == ["e5", "e3600", "e20"]
    assert list(late.df()["late"]) == [dt.timedelta(days=2), dt.timedelta(seconds=3500), dt.timedelta(seconds=60)]
    assert repr(late) == "<Late: 3 events arrived 1 min or more after their time, by up to 2 d (u 1, t 2)>"
    assert str(late.df()["happened_at"].dt.tz) == "Europe/Berlin"
    assert late.arrow().num_rows == len(late) == 3
    assert "2026-03-12 12:01:40 CET" in late._repr_html_()


def test_the_least_and_the_topic_can_be_chosen(lab):
    assert list(lab.late(min="5s").df()["event_id"]) == ["e5", "e3600", "e20", "e3601", "e10"]
    assert list(lab.late(min=dt.timedelta(seconds=59.999), topic="t").df()["event_id"]) == ["e3600", "e20", "e3601"]
    assert len(lab.late(min="0s")) == 5, "one that is in time is not late"
    assert "no event in t arrived 1 h or more" in repr(lab.late(min="1h", topic="t"))
    assert lab.late(min="1h", topic="t").df().empty
    assert "none" in lab.late(min="1h", topic="t")._repr_html_()


def test_what_is_no_length_of_time_and_what_is_no_topic_is_one_sentence(lab):
    for least in ("soon", "-5m", None, "", float("nan"), [1]):
        with pytest.raises(MomentError, match="no length of time"):
            lab.late(min=least)
    with pytest.raises(UnknownTopic, match="no topic 'x'; it has t, u"):
        lab.late(topic="x")


def test_a_late_event_is_what_makes_both_clocks_differ(lab):
    assert len(lab.history("an", "1", at="12:00:30")) == 4
    assert len(lab.history("an", "1", at="12:00:30", clock="happened")) == 4
    assert {"e3600"} == {step.event.id for step in lab.history("an", "1", at="12:01:40", clock="happened")} - {
        step.event.id for step in lab.history("an", "1", at="12:01:40")
    }


def test_a_suspect_clock_is_named_as_a_reason(tmp_path):
    lab = Lab(tmp_path / "lab", tz="UTC", say=lambda text: None)
    ahead = Record(topic="t", key=b"1", timestamp_ms=NOON + 3_600_000, value=told(1, 0).value)
    lab.snapshot(MemorySource([told(0, 0), ahead, told(2, 0)]), progress=False)
    assert "1 suspect clock may make events look late" in repr(lab.late())


def test_an_empty_lab_has_nothing_late(tmp_path):
    assert len(Lab(tmp_path / "none", tz="UTC").late()) == 0


def test_hostile_ids_are_escaped():
    lab = eslab.play([{"eventId": "<b>", "eventType": "T", "data": {"anId": "1"}}, told(0, 600)])
    assert "<b>" not in lab.late(min="0s")._repr_html_()


@few(5)
@given(logs(), st.integers(0, 2**32))
def test_what_is_late_is_the_oracles(log, seed):
    least = dt.timedelta(seconds=random.Random(seed).choice([0, 1, 30, 90, 86_400]))
    with tempfile.TemporaryDirectory() as folder:
        lab = captured(Path(folder) / "lab", log)
        wanted = {
            (*event.life, event.offset): event.order_at - event.happened_at
            for event in Oracle(lab.path).log
            if event.kind == "event"
            and event.happened_at
            and event.order_at - event.happened_at >= max(least, dt.timedelta(microseconds=1))
        }
        rows = lab.late(min=least).arrow().to_pylist()
        found = {
            (row["topic"], row["partition_id"], row["incarnation"], row["record_offset"]): dt.timedelta(microseconds=row["late_us"])
            for row in rows
        }
        assert found == wanted
        assert [row["late_us"] for row in rows] == sorted((row["late_us"] for row in rows), reverse=True)
