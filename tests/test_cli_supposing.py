"""What if, in the shell: every verb, of a history and of a world."""

import json
import shlex
from decimal import Decimal

import pytest
from click.testing import CliRunner
from test_whatif import SHOP

import eslab
from eslab import cli

NEW = '{"eventId": "n", "eventType": "New", "data": {"orderId": "o1", "n": 1.50}}'
PROJECTIONS = """
import eslab
sums = eslab.Projection("sums", aggregate="kind", key="type")
sums.on("Created", "Noted")(lambda state, event: {"sum": state.get("sum", 0) + event.data["total"]})
fragile = eslab.Projection("fragile", aggregate="order")
fragile.on("Created")(lambda state, event: {"total": event.data["total"]})
fragile.on("Noted")(lambda state, event: {"left": state["total"] - 5})
"""


@pytest.fixture(scope="module", name="lab")
def _lab():
    return eslab.play(SHOP)


@pytest.fixture(autouse=True)
def _utc(monkeypatch):
    monkeypatch.setenv("ESLAB_TZ", "UTC")


@pytest.fixture(name="projections")
def _projections(tmp_path):
    path = tmp_path / "p.py"
    path.write_text(PROJECTIONS)
    return path


def run(lab, *words, stdin=None):
    return CliRunner().invoke(cli.main, ["what-if", str(lab.path), *map(str, words)], prog_name="eslab", input=stdin)


def document(lab, *words, stdin=None):
    result = run(lab, *words, "--json", stdin=stdin)
    assert (result.exit_code, result.stderr) == (0, "")
    return json.loads(result.stdout, parse_float=Decimal)


def ids(lab, *words, stdin=None):
    """The events of o1 in the what-if."""
    return [row["event_id"] for row in document(lab, "order", "o1", *words, stdin=stdin)["rows"] if row["right_version"]]


def refused(lab, *words, stdin=None):
    """The one sentence of a wrong command; the usage and the hint stand before it."""
    result = run(lab, *words, stdin=stdin)
    assert (result.exit_code > 0, result.stdout) == (True, ""), result.output
    return result.stderr.splitlines()[-1]


def test_both_timelines_of_a_history_and_where_they_part(lab):
    words = ["order", "o1", "--drop", "e2", "--effects", "--edit", "e1", "data.total", "10"]
    told = document(lab, *words)
    assert told["done"] == ["drop e2 and the 2 that it caused", "edit e1: data.total"]
    assert told["parted"]["event_id"] == "e1"
    assert {change["path"] for change in told["changes"]} == {"paid", "status"}
    assert [row["done"] for row in told["rows"]] == ["edited", "dropped", "dropped", ""]
    shown = run(lab, *words).stdout
    assert "They part after Created e1 (edited)" in shown
    assert shown.endswith(f"eslab what-if {lab.path} order o1 --drop e2 --effects --edit e1 data.total 10 --tz UTC\n")


def test_every_verb_of_python_and_what_tells_more_of_it(lab):
    assert ids(lab, "--drop", "e2") == ["e1", "e3", "e4"]
    assert ids(lab, "--drop", "e2", "--effects") == ["e1", "e4"]
    assert ids(lab, "--edit", "x1", "data.orderId", '"o1"') == ["e1", "e2", "e3", "e4", "x1"]
    assert "status" not in document(lab, "order", "o1", "--edit", "e3", "data.status", "MISSING")["rows"][-1]["right"]
    assert ids(lab, "--move", "e4", "--before", "e1") == ["e4", "e1", "e2", "e3"]
    assert ids(lab, "--move", "e1", "--after", "e3") == ["e2", "e3", "e1", "e4"]
    assert ids(lab, "--move", "events/0/0", "--to", "09:00:02.5") == ["e2", "e3", "e1", "e4"]
    assert ids(lab, "--duplicate", "e1") == ["e1", "e1", "e2", "e3", "e4"]
    assert ids(lab, "--duplicate", "e1", "--later", "1m") == ["e1", "e2", "e3", "e4", "e1"]
    assert ids(lab, "--delay", "e1", "2500ms") == ["e2", "e3", "e1", "e4"]


def test_an_event_is_inserted_inline_from_a_file_and_from_stdin_at_any_place(lab, tmp_path):
    file = tmp_path / "new.json"
    file.write_text(NEW)
    assert ids(lab, "--insert", NEW) == ["e1", "e2", "e3", "e4", "n"]
    assert ids(lab, "--insert", file, "--before", "e2") == ["e1", "n", "e2", "e3", "e4"]
    assert ids(lab, "--insert", "-", "--after", "e2", stdin=NEW) == ["e1", "e2", "n", "e3", "e4"]
    assert ids(lab, "--insert", NEW, "--to", "09:00:00.5", "--topic", "events") == ["e1", "n", "e2", "e3", "e4"]
    rows = document(lab, "order", "o1", "--insert", "null", "--key", "o1", "--after", "e3", "--insert", NEW)["rows"]
    assert rows[3]["right_marks"] == "tombstone"
    assert rows[-1]["right"]["n"] == Decimal("1.50")


def test_changes_are_made_in_the_order_in_which_they_are_given(lab):
    edited = ["--edit", "e1", "data.total", "6", "--duplicate", "e1"]
    assert [row["right"]["total"] for row in document(lab, "order", "o1", *edited)["rows"][:2]] == [6, 6]
    turned = run(lab, "order", "o1", *edited[4:], *edited[:4], "--json")
    assert [row["right"]["total"] for row in json.loads(turned.stdout)["rows"][:2]] == [6, 5]
    assert "e1 was seen 2 times; the first is meant, events/0/0" in turned.stderr
    assert ids(lab, "--insert", NEW, "--drop", "n") == ["e1", "e2", "e3", "e4"]
    assert "no captured event is called 'n'" in refused(lab, "order", "o1", "--drop", "n", "--insert", NEW)


def test_of_a_world_the_keys_that_are_touched_are_told(lab):
    words = ["order", "--drop", "e2", "--effects", "--edit", "e4", "data.orderId", '"o3"']
    told = document(lab, *words)
    assert told["counts"] == {"changed": 1, "came": 1, "went": 1, "failed": 0, "equal": 0, "ended": 0}
    assert [(one["aggregate_id"], one["kind"]) for one in told["keys"]] == [("o1", "changed"), ("o2", "went"), ("o3", "came")]
    assert {change["path"] for change in told["keys"][0]["changes"]} == {"paid", "status", "total", "_type"}
    assert ["before" in one for one in told["keys"]] == [True, True, False]
    assert told["keys"][2]["after"]["total"] == 7
    shown = run(lab, *words).stdout
    assert "3 order keys touched: 1 changed, 1 came, 1 went" in shown
    assert shown.endswith(f"eslab what-if {lab.path} {shlex.join(words)} --tz UTC\n")


def test_a_world_is_that_of_a_projection_too_and_as_of_a_moment(lab, projections):
    words = ["--projection", f"{projections}:sums", "--edit", "e1", "data.total", "100"]
    (key,) = document(lab, *words)["keys"]
    assert (key["aggregate_id"], key["before"], key["after"]) == ("Created", {"sum": 14}, {"sum": 109})
    (key,) = document(lab, *words, "--at", "09:00:03")["keys"]
    assert (key["before"], key["after"]) == ({"sum": 5}, {"sum": 100})
    assert document(lab, *words, "--cut", lab.cut(event_id="e4").to_json())["keys"] == [key]
    (key,) = document(lab, "--projection", f"{projections}:fragile", "--drop", "e1")["keys"]
    assert (key["kind"], key["problem"]) == ("failed", "what if failed: KeyError: 'total' (at e4)")
    ended = ["order", "--insert", "null", "--key", "o2", "--after", "x1"]
    assert [one["kind"] for one in document(lab, *ended)["keys"] + document(lab, *ended, "--ended")["keys"]] == ["went", "changed"]


def test_one_key_of_a_projection_has_its_timelines(lab, projections):
    told = document(lab, "kind", "Created", "--projection", f"{projections}:sums", "--edit", "e1", "data.total", "100")
    assert [(row["event_id"], row["left"], row["right"]) for row in told["rows"]] == [
        ("e1", {"sum": 5}, {"sum": 100}),
        ("x1", {"sum": 14}, {"sum": 109}),
    ]


def test_the_command_that_is_printed_asks_for_the_same_again(lab):
    words = ["order", "o1", "--insert", "-", "--before", "e1", "--move", "e4", "--to", "09:00:02.5", "--drop", "e2", "--effects"]
    shown = run(lab, *words, stdin='{"eventId": "it\'s", "eventType": "New", "data": {"orderId": "o1", "n": 1.50}}').stdout
    again = shlex.split(shown.splitlines()[-1])
    assert again[-7:-2] == ["--to", "2026-01-01T09:00:02.500000+00:00", "--drop", "e2", "--effects"]
    assert CliRunner().invoke(cli.main, again[1:]).stdout == shown, "what stdin held stands in it"


def test_what_is_asked_wrongly_is_one_sentence(lab, tmp_path):
    list_ = tmp_path / "list.json"
    list_.write_text(f"[{NEW}]")
    one = ["order", "o1"]
    cases = [
        (one, "what if what? give --drop, --edit, --insert, --move, --duplicate or --delay"),
        (["--drop", "e1"], "give an AGGREGATE and an ID for one history; for a world an AGGREGATE, or --projection"),
        (["order", "--projection", "p.py:p", "--drop", "e1"], "for a world an AGGREGATE, or --projection"),
        ([*one, "--drop", "e1", "--ended"], "--ended is about a world"),
        ([*one, "--drop", "e1", "--at", "09:00", "--bookmark", "x"], "name one moment"),
        ([*one, "--effects", "--drop", "e1"], "--effects stands right behind the --drop that it is about"),
        ([*one, "--drop", "e1", "--before", "e2"], "--before stands right behind the --insert or --move that it is about"),
        ([*one, "--insert", NEW, "--topic", "events", "--topic", "t"], "--topic was given twice for one --insert"),
        ([*one, "--move", "e1"], "--move e1 where to? give one of --before EVENT, --after EVENT and --to TIME"),
        ([*one, "--insert", NEW, "--before", "e1", "--to", "09:00"], "where to? give one of"),
        ([*one, "--move", "e1", "--to", "soon"], "is no time"),
        ([*one, "--delay", "e1", "soon"], "is no length of time"),
        ([*one, "--edit", "e1", "data.total", "{nope"], "is no JSON; a text is written"),
        ([*one, "--edit", "e1", "total", "1"], "'total' is nothing in an event that can be edited"),
        ([*one, "--insert", "nowhere.json"], "--insert nowhere.json: there is no such file; an event is written '{"),
        ([*one, "--insert", tmp_path], "Is a directory"),
        ([*one, "--insert", "{nope"], "--insert: this is no JSON"),
        ([*one, "--insert", "-"], "--insert (stdin): this is no JSON"),
        ([*one, "--insert", list_], f"--insert {list_}: an event is one JSON object like"),
        ([*one, "--insert", '{"a": ' * 5000], "nested too deeply"),
        ([*one, "--insert", "-", "--insert", "-"], "- is stdin, which holds one event"),
        ([*one, "--insert", "null"], "a tombstone, which has nothing but its key: add --key"),
        ([*one, "--insert", '{"data": {}}'], "no event of topic events: no eventType"),
        ([*one, "--insert", NEW, "--topic", "nope"], "no topic 'nope'"),
        (["order", "--insert", NEW], "insert it where? right before or after an event, at a time"),
        ([*one, "--drop", "nope"], "no captured event is called 'nope'"),
        (["nothing", "--drop", "e1"], "no captured event belongs to an aggregate 'nothing'"),
    ]
    for words, said in cases:
        assert said in refused(lab, *words), words
