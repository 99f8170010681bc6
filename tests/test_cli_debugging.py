"""What a debugger would have, in the shell: changes, explain, run-until, run-back-until, watched values."""

import json

import pytest
from click.testing import CliRunner

import eslab
from eslab import cli

RED = "\x1b[31mred"
SHOP = [
    {"eventId": "e1", "eventType": "Created", "data": {"orderId": "o1", "total": 5}},
    {"eventId": "e2", "eventType": "Paid", "data": {"orderId": "o1", "paid": 10**30}},
    {"eventId": "e3", "eventType": "Noted", "data": {"orderId": "o1", "total": 2**53 + 1, "paid": None}},
    {"eventId": "e4", "eventType": RED, "data": {"orderId": "o1", "note": RED}},
]
CODE = """
import eslab
large = lambda state: state.get("total", 0) > 5
raises = lambda state: state["nothing"]
fragile = eslab.Projection("fragile", aggregate="order")
fragile.on("Created")(lambda state, event: event.data)
fragile.on("Noted")(lambda state, event: {"x": state["nothing"]})
"""


@pytest.fixture(scope="module", name="lab")
def _lab():
    return eslab.play(SHOP)


@pytest.fixture(autouse=True)
def _utc(monkeypatch):
    monkeypatch.setenv("ESLAB_TZ", "UTC")


@pytest.fixture(name="code")
def _code(tmp_path):
    (tmp_path / "p.py").write_text(CODE)
    return f"{tmp_path / 'p.py'}:"


def run(*words):
    return CliRunner().invoke(cli.main, [str(word) for word in words], prog_name="eslab")


def answer(command, lab, *words):
    result = run(command, lab.path, "order", "o1", *words)
    assert (result.exit_code, result.stderr) == (0, "")
    return result.stdout


def document(command, lab, *words):
    return json.loads(answer(command, lab, *words, "--json"))


def test_every_change_is_told_in_order_with_its_event(lab):
    rows = document("changes", lab)
    assert [(row["version"], row["path"]) for row in rows] == [
        (one.version, str(one.change).partition(":")[0]) for one in lab.history("order", "o1").changes()
    ]
    paid = [(row["before"], row["after"], row["event_id"]) for row in rows if row["path"] == "paid"]
    assert paid == [(None, 10**30, "e2"), (10**30, None, "e3")]
    shown = answer("changes", lab)
    assert shown.endswith(f"eslab changes {lab.path} order o1 --tz UTC\n")
    assert "\x1b" not in shown


def test_a_value_is_explained_in_two_sentences_as_of_a_moment(lab):
    told = document("explain", lab, "total")
    assert told["sentences"] == list(lab.history("order", "o1").explain("total").sentences)
    assert [(one["version"], one["event_id"]) for one in told["causes"]] == [(3, "e3"), (1, "e1")]
    shown = answer("explain", lab, "total", "--at", "v2").splitlines()
    assert shown[0].startswith("total is 5 since")
    assert shown[-1] == f"eslab explain {lab.path} order o1 total --at v2 --tz UTC"
    assert "nowhere is in no state" in run("explain", lab.path, "order", "o1", "nowhere").stderr


def test_a_history_runs_until_what_is_asked_for_and_back(lab, code):
    assert document("run-until", lab, "--type", "Paid")["event_id"] == "e2"
    assert document("run-until", lab, "--when", f"{code}large")["version"] == 3
    assert [document("run-until", lab, "--changed", "total", *more)["version"] for more in ([], ["--after", "v1"])] == [1, 3]
    assert [document("run-back-until", lab, "--changed", "total", *more)["version"] for more in ([], ["--before", "v3"])] == [3, 1]
    assert document("run-back-until", lab, "--type", "Paid", "--before", "09:00:03")["version"] == 2
    failed = document("run-until", lab, "--failed", "--projection", f"{code}fragile")
    assert (failed["version"], failed["marks"], failed["problem"]) == (3, "failed", "KeyError: 'nothing'")
    step = document("run-until", lab, "--changed", "paid")
    assert step["state"]["paid"] == 10**30
    assert {"path": "paid", "after": 10**30} in step["changes"], "a side that is not there has no field"


def test_a_step_is_printed_with_the_command_that_finds_it_again(lab):
    shown = answer("run-back-until", lab, "--type", "Noted", "--changed", "total", "--before", "09:00:03")
    lines = shown.splitlines()
    assert lines[0].startswith("version 3: Noted e3, recorded 2026-01-01T09:00:02+00:00, at events/0/2")
    assert "  total: 5 → 9007199254740993" in lines
    assert lines[-1].endswith("order o1 --type Noted --changed total --before 2026-01-01T09:00:03+00:00 --tz UTC")
    assert "\x1b" not in answer("run-until", lab, "--type", RED)


def test_what_never_comes_to_be_is_a_clear_no(lab, code):
    result = run("run-until", lab.path, "order", "o1", "--type", "Nope", "--json")
    assert (result.exit_code, result.stdout) == (1, "null\n")
    assert result.stderr == "eslab: order o1 has no such step; it has 4 steps\n"
    assert "no such step before v1; it" in run("run-back-until", lab.path, "order", "o1", "--type", "Created", "--before", "v1").stderr
    assert "give --type, --when, --changed or --failed" in run("run-until", lab.path, "order", "o1").stderr
    assert "items[]" in run("run-until", lab.path, "order", "o1", "--changed", "items[]").stderr
    raised = run("run-until", lab.path, "order", "o1", "--when", f"{code}raises")
    assert raised.exit_code == 1
    assert raised.stderr.startswith("eslab: when= raised KeyError: 'nothing' on the state after <Step 1: Created e1>: {")


def test_watched_values_are_shown_where_they_change_with_all_digits(lab):
    rows = document("history", lab, "--watch", "total", "--watch", "paid")
    assert [{name: row[name] for name in row.keys() & {"version", "total", "paid"}} for row in rows] == [
        {"version": 1, "total": 5},
        {"version": 2, "total": 5, "paid": 10**30},
        {"version": 3, "total": 2**53 + 1, "paid": None},
    ]
    shown = answer("history", lab, "--watch", "total", "--watch", "paid")
    assert "9007199254740993" in shown
    assert "—" in shown
    assert shown.endswith(f"eslab history {lab.path} order o1 --watch total --watch paid --tz UTC\n")
