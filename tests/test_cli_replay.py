"""Whole worlds in the shell."""

import json

import pytest
from click.testing import CliRunner

import eslab
from eslab import cli
from eslab.model import dumps
from eslab.sources.memory import MemorySource

NOON = 1_773_313_200_000  # 2026-03-12 12:00:00 in Berlin
PROJECTIONS = """
import eslab

orders = eslab.Projection("orders", aggregate="order", version=2)

@orders.on("Created")
def created(state, event):
    print("a handler may print")
    return {"n": event.data["n"]}

customers = eslab.Projection("customers", key="data.customerId", aggregate="customer", evolve=lambda state, event: {"n": state.get("n", 0) + 1})
picky = eslab.Projection("picky", aggregate="order", evolve=lambda state, event: {"n": 1 // (event.data["n"] - 1)})
sloppy = eslab.Projection("sloppy", aggregate="order", initial={"n": []}, evolve=lambda state, event: state["n"].append(1) or state)
revenue = eslab.SqlProjection("revenue", "select count(*) as events from events")
nothing = eslab.Projection("nothing", aggregate="order")
"""


def told(at):
    value = dumps({"eventId": f"e{at}", "eventType": "Created", "data": {"orderId": f"o{at}", "customerId": f"c{at % 2}", "n": at}})
    return eslab.Record(topic="t", key=f"o{at}".encode(), timestamp_ms=NOON + at * 1000, value=value)


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    folder = tmp_path_factory.mktemp("labs") / "shop"
    records = [*map(told, range(4)), eslab.Record(topic="t", key=b"o3", value=None, timestamp_ms=NOON + 9000)]
    eslab.Lab(folder, say=lambda _: None).snapshot(MemorySource(records), progress=False)
    (folder.parent / "p.py").write_text(PROJECTIONS)
    return folder


@pytest.fixture(autouse=True)
def berlin(monkeypatch):
    monkeypatch.setenv("ESLAB_TZ", "Europe/Berlin")


def run(*words):
    return CliRunner().invoke(cli.main, ["replay", *map(str, words)], prog_name="eslab")


def by(shop, name):
    return ("--projection", f"{shop.parent / 'p.py'}:{name}")


def test_every_key_of_a_projection_is_shown_as_of_a_moment_with_the_command_that_shows_it_again(shop):
    shown = run(shop, *by(shop, "orders"), "--at", "12:00:01")
    assert (shown.exit_code, shown.stdout.splitlines()[0]) == (
        0,
        "World of orders v2: 2 order states from 2 steps, recorded until 2026-03-12 12:00:01 CET",
    )
    assert 'o1     {"n":1}' in shown.stdout
    assert shown.stdout.splitlines()[-1].startswith(
        f"eslab replay {shop} --projection {shop.parent / 'p.py'}:orders --at 2026-03-12T12:00:01+01:00"
    )
    assert "a handler may print" in shown.stderr


def test_json_is_one_document_with_what_is_not_known(shop):
    found = json.loads(run(shop, *by(shop, "orders"), "--json", "--ended", "--key", "o3", "--key", "o0").stdout)
    assert found["states"] == [{"key": "o0", "version": 1, "state": {"n": 0}}, {"key": "o3", "version": 2, "state": {}}]
    assert (found["projection"], found["version"], found["steps"], found["ended"], found["failed"]) == ("orders", 2, 3, 0, [])
    again = json.loads(run(shop, *by(shop, "orders"), "--json", "--cut", json.dumps(found["cut"])).stdout)
    assert [one["key"] for one in again["states"]] == ["o0", "o1", "o2"]
    assert again["ended"] == 1


def test_other_keys_and_the_default_projection_and_sql_are_answered_too(shop):
    assert json.loads(run(shop, *by(shop, "customers"), "--json").stdout)["states"][0] == {"key": "c0", "version": 2, "state": {"n": 2}}
    assert "customer  state" in run(shop, *by(shop, "customers")).stdout
    assert '"customerId":"c1"' in run(shop, "order").stdout
    assert json.loads(run(shop, *by(shop, "revenue"), "--json").stdout)["rows"] == [{"events": 4}]
    assert "revenue v1 in SQL: 1 row" in run(shop, *by(shop, "revenue")).stdout


def test_keys_that_fail_are_named_and_the_exit_code_is_1(shop):
    failed = run(shop, *by(shop, "picky"))
    assert failed.exit_code == 1
    assert "eslab: order o1 failed at e1: ZeroDivisionError" in failed.stderr
    assert 'o2     {"n":1}' in failed.stdout
    (one,) = json.loads(run(shop, *by(shop, "picky"), "--json").stdout)["failed"]
    assert (one["key"], one["at"]) == ("o1", "t/0/1")
    assert run(shop, *by(shop, "sloppy")).exit_code == 0
    strict = run(shop, *by(shop, "sloppy"), "--strict")
    assert (strict.exit_code, "changed what it was given, by append" in strict.stderr) == (1, True)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--projection", "{p}:none"], "p.py has no projection called none; it has orders, customers, picky, sloppy, revenue, nothing"),
        (["--projection", "{p}:nothing"], "projection 'nothing' has no handlers"),
        (["--projection", "no.py:x"], "there is no file no.py"),
        (["--projection", "orders"], "write it as file.py:name"),
        (["--projection", "{bad}:x"], "bad.py, line 1: ZeroDivisionError"),
        (["parcel"], "no captured event belongs to an aggregate 'parcel'; the lab has order"),
        (["order", "--at", "soon"], "'soon' is no time"),
        (["order", "--bookmark", "x"], "no bookmark is called 'x'"),
        (["order", "--cut", "{{}}"], "this text is no cut"),
        (
            ["order", "--cut", '{{"offsets": [{{"topic": "x", "partition": 0, "incarnation": 0, "next": 1}}]}}'],
            "this cut is from another lab",
        ),
    ],
)
def test_whatever_is_wrong_is_one_line(shop, words, said):
    (shop.parent / "bad.py").write_text("1/0\n")
    result = run(shop, *[one.format(p=shop.parent / "p.py", bad=shop.parent / "bad.py") for one in words])
    assert (result.exit_code, result.stdout) == (1, "")
    assert said in result.stderr
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize(
    "words",
    [[], ["order", "--projection", "p.py:x"], ["order", "--at", "12:00", "--bookmark", "x"], ["order", "--bookmark", "x", "--cut", "{}"]],
)
def test_what_makes_no_sense_is_wrong_usage(shop, words):
    assert run(shop, *words).exit_code == 2
    assert run(shop, *by(shop, "revenue"), "--strict").exit_code == 2
