"""Event ids that came more than once."""

import datetime as dt
import json
import tempfile
from collections import defaultdict
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given
from logs import captured, few, logs
from oracle import Oracle, canonical

import eslab
from eslab import Coordinates, Record, cli
from eslab.model import dumps
from eslab.sources.memory import MemorySource

NOON = 1_773_313_200_000  # 2026-03-12 12:00:00 in Berlin


def told(at, name, topic="t", kind="T", raw=None, **data):
    value = dumps({"eventId": name, "eventType": kind, "data": {"anId": "1", **data}}) if raw is None else raw
    return Record(topic=topic, key=b"1", timestamp_ms=NOON + at * 1000, value=value)


@pytest.fixture
def lab(tmp_path):
    lab = eslab.Lab(tmp_path / "lab", tz="Europe/Berlin", say=lambda text: None)
    records = [
        *(told(0, "a", n=1), told(1, "b", n=1), told(2, None), told(3, None)),
        *(told(10, "a", n=1), told(70, "a", topic="u", n=2), told(71, "b", n=1.0), told(72, "b", kind="Other", n=1)),
        told(90, "", topic="t-dlq", raw=told(0, "c").value),
        *(told(80, "c"), told(81, "d", raw=b'{"eventId":"d","eventType":"T","data":{"anId":"1","x":[1,2]}}')),
        told(82, "d", raw=b'{"data" : {"x":[1, 2],"anId":"1"}, "eventType":"T","eventId":"d"}'),
    ]
    lab.snapshot(MemorySource(records), progress=False)
    return lab


def test_each_occurrence_after_the_first_is_told_with_the_time_since_then(lab):
    found = lab.duplicates()
    assert [(one.event_id, one.nth, one.seen, str(one.first_at), str(one.at), one.after.total_seconds()) for one in found] == [
        ("a", 2, 3, "t/0/0", "t/0/4", 10.0),
        ("a", 3, 3, "t/0/0", "u/0/0", 70.0),
        ("b", 2, 3, "t/0/1", "t/0/5", 70.0),
        ("b", 3, 3, "t/0/1", "t/0/6", 71.0),
        ("d", 2, 2, "t/0/8", "t/0/9", 1.0),
    ]
    assert found.ids == ("a", "b", "d")
    assert str(found[0].recorded_at) == "2026-03-12 12:00:10+01:00"


def test_a_payload_is_the_same_if_its_type_and_its_values_are_however_it_is_written(lab):
    assert [one.equal for one in lab.duplicates()] == [True, False, True, False, True]


def test_events_without_an_id_and_copies_among_dead_letters_are_no_duplicates(lab):
    found = lab.duplicates()
    assert found.copies == ("t-dlq",)
    assert "c" not in found.ids
    assert (
        repr(found)
        == "<Duplicates: 3 event ids seen more than once, 5 occurrences too many, 2 with another payload; without the copies in t-dlq>"
    )


def test_they_are_a_table(lab):
    frame = lab.duplicates().df()
    assert list(frame.columns) == [
        "event_id",
        "event_type",
        "nth",
        "seen",
        "first_at",
        "at",
        "first_recorded_at",
        "recorded_at",
        "after",
        "equal",
    ]
    assert frame["after"].tolist() == [dt.timedelta(seconds=s) for s in (10, 70, 70, 71, 1)]
    assert str(frame["recorded_at"].dt.tz) == "Europe/Berlin"
    assert lab.duplicates().arrow()["after_us"].to_pylist() == [int(s * 1e6) for s in (10, 70, 70, 71, 1)]
    assert "again 10 s later at t/0/4" in repr(lab.duplicates()[0])


def test_a_lab_without_any_and_an_empty_one_say_so(tmp_path):
    for lab in (eslab.play([{"eventId": "a", "eventType": "T", "data": {}}]), eslab.Lab(tmp_path / "none", tz="UTC")):
        found = lab.duplicates()
        assert (len(found), len(found.df()), found.ids) == (0, 0, ())
        assert repr(found) == "<Duplicates: no event id was seen more than once>"


def test_the_shell_tells_the_same(lab, monkeypatch):
    monkeypatch.setenv("ESLAB_TZ", "Europe/Berlin")
    result = CliRunner().invoke(cli.main, ["duplicates", str(lab.path), "--json"])
    assert result.exit_code == 0
    rows = json.loads(result.stdout)
    assert [(row["event_id"], row["at"], row["after_s"], row["equal"]) for row in rows] == [
        (one.event_id, str(one.at), one.after.total_seconds(), one.equal) for one in lab.duplicates()
    ]
    shown = CliRunner().invoke(cli.main, ["duplicates", str(lab.path)]).stdout
    assert shown.startswith("Duplicates: 3 event ids seen more than once")
    assert shown.endswith(f"eslab duplicates {lab.path} --tz Europe/Berlin\n")


@few(3)
@given(logs())
def test_in_any_log_they_are_the_oracles(log):
    with tempfile.TemporaryDirectory() as folder:
        lab = captured(Path(folder) / "lab", log)
        by_id = defaultdict(list)
        for event in Oracle(lab.path).log:
            if event.kind == "event":
                by_id[event.name].append(event)

        def payload(event):
            return event.parts["event_type"], event.parts["event_version"], canonical(event.data)

        wanted = {
            (name, nth, Coordinates(*one.life, one.offset)): (one.order_at - first.order_at, payload(one) == payload(first))
            for name, (first, *later) in by_id.items()
            for nth, one in enumerate(later, 2)
        }
        found = {(one.event_id, one.nth, one.at): (one.after, one.equal) for one in lab.duplicates()}
        assert found.keys() == wanted.keys()
        assert {key: after for key, (after, _) in found.items()} == {key: after for key, (after, _) in wanted.items()}
        assert all(found[key][1] for key, (_, equal) in wanted.items() if equal)
