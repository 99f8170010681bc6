"""Traces, sagas and what is around a moment, in the shell."""

import json
import shlex

import pytest
from click.testing import CliRunner

import eslab
from eslab import cli
from eslab.model import dumps
from eslab.sources.memory import MemorySource

NOON = 1_773_313_200_000  # 2026-03-12 12:00:00 in Berlin
RED = "\x1b[31mred"


def told(at_s, name, kind, cause=None, correlation="c1"):
    value = {"eventId": name, "eventType": kind, "causationId": cause, "correlationId": correlation, "data": {"anId": "1"}}
    return eslab.Record(topic="t", key=b"1", timestamp_ms=NOON + at_s * 1000, value=dumps(value))


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shop") / "lab"
    records = [
        told(0, "e1", "Begun", "cmd"),
        told(10, "e2", "Ended", "e1"),
        told(70, "f1", "Begun", correlation="c2"),
        told(80, RED, RED, "f1", "c2"),
        told(8000, "g1", "Begun", correlation="c3"),
    ]
    eslab.Lab(folder, say=lambda _: None).snapshot(MemorySource(records), progress=False)
    return folder


@pytest.fixture(autouse=True)
def _berlin(monkeypatch):
    monkeypatch.setenv("ESLAB_TZ", "Europe/Berlin")


def run(*words):
    return CliRunner().invoke(cli.main, [str(word) for word in words], prog_name="eslab")


def answer(*words):
    result = run(*words)
    assert (result.exit_code, result.stderr) == (0, "")
    return result.stdout


def test_a_trace_is_printed_as_its_tree_and_as_json(shop):
    shown = answer("trace", shop, "e2", "--done", "Ended")
    assert shown.splitlines()[0] == "Trace of e2: 2 events in 1 topic over 10 s, from 2026-03-12 12:00:00 CET"
    assert "  └ Ended  e2  t/0/1  12:00:10 CET  +10 s" in shown
    rows = json.loads(answer("trace", shop, "c1", "--done", "Ended", "--json"))
    assert [(row["event_id"], row["depth"], row["after_s"], row["marks"]) for row in rows] == [
        ("cmd", 0, None, "outside the log"),
        ("e1", 1, None, ""),
        ("e2", 2, 10, ""),
    ]
    assert "nobody" in run("trace", shop, "nobody").stderr
    assert run("trace", shop, "nobody").exit_code == 1


def test_sagas_are_listed_the_stuck_first_and_one_state_can_be_asked_for(shop):
    shown = answer("sagas", shop, "--done", "Ended", "--stuck-after", "30m")
    assert shown.splitlines()[0].startswith(
        "Sagas: 1 finished (half of them within 10 s, the longest 10 s), 1 running, 1 stuck (no event for 30 min or more)"
    )
    assert shown.index("\nc2 ") < shown.index("\nc3 ") < shown.index("\nc1 ")
    rows = json.loads(answer("sagas", shop, "--done", "Ended", "--state", "stuck", "--json"))
    assert [(row["correlation_id"], row["steps"], row["took_s"], row["silent_s"]) for row in rows] == [("c2", 2, 10, 7920)]
    assert [
        row["state"] for row in json.loads(answer("sagas", shop, "--done", "Ended", "--at", "12:02", "--begin", "Begun", "--json"))
    ] == ["running", "finished"]
    learned = run("sagas", shop, "--json")
    assert "no type of event is known to end a saga; too seldom seen to learn: " in learned.stderr
    assert {row["state"] for row in json.loads(learned.stdout)} == {"running", "stuck"}


def test_what_is_around_a_moment_or_an_event_is_listed(shop):
    shown = answer("around", shop, "12:01", "--after", "10s")
    assert shown.splitlines()[0] == "Around 2026-03-12 12:01:00 CET: 3 records from 1m before to 10s after it (t 3)"
    rows = json.loads(answer("around", shop, "--event", "e2", "--before", "1s", "--after", "1s", "--json"))
    assert [(row["event_id"], row["since_s"]) for row in rows] == [("e2", 0)]
    assert run("around", shop).exit_code == run("around", shop, "12:00", "--event", "e2").exit_code == 2


@pytest.mark.parametrize(
    "words",
    [
        ("trace", "e1", "--done", "Ended"),
        ("trace", RED, "--done", "Ended", "--done", RED, "--compensated", "Undone"),
        ("sagas", "--done", "Ended", "--stuck-after", "2h", "--begin", "Begun", "--state", "running", "--at", "2026-03-12T12:30:00+01:00"),
        ("around", "12:01", "--before", "2m"),
        ("around", "--event", RED),
        ("find", "c1", "--whole"),
    ],
)
def test_the_last_line_shows_the_same_again_and_nothing_steers_the_terminal(shop, words):
    shown = answer(words[0], shop, *words[1:])
    assert shown.replace("\n", "").isprintable()
    line = shown.splitlines()[-1]
    if "$'" not in line:  # bash's own quoting, which shlex does not read
        assert run(*shlex.split(line)[1:]).stdout == shown
    assert line.startswith(f"eslab {words[0]} {shop}")
