"""Each view prints the line of shell that shows it again: the line runs, and what it shows is the same."""

import contextlib
import datetime as dt
import html
import importlib.util
import json
import re
import shlex
import subprocess
import sys
from unittest.mock import Mock

import pyarrow as pa
import pytest
from click.testing import CliRunner

import eslab
from eslab import Record, cli
from eslab.again import NOWHERE
from eslab.model import dumps
from eslab.origins import origin
from eslab.samples import SAMPLES, write_samples
from eslab.sources.memory import MemorySource

NOON = 1_773_313_200_000  # 2026-03-12 12:00:00 in Berlin
FILE = """
import eslab

totals = eslab.Projection("totals", aggregate="order", initial={"sum": 0})
last = eslab.Projection("totals", aggregate="order", version=2, initial={"sum": 0})
types = eslab.SqlProjection("types", "select event_type, count(*) as n from events group by all order by all")

@totals.on("Created", "Paid")
def add(state, event):
    return {"sum": state["sum"] + event.data.get("total", 0)}

@last.on("Created", "Paid")
def keep(state, event):
    return {"sum": event.data.get("total", 0)}

def large(state):
    return state.get("sum", state.get("total", 0)) > 12

small = eslab.Invariant("small", totals, lambda state: state["sum"] < 12)
even = eslab.Invariant("even", "order", lambda state: state["total"] % 2 == 0)
"""


def record(at_s, name, kind, *, order="o1", cause=None, topic="orders", headers=(), happened_s=None, **data):
    payload = {"eventId": name, "eventType": kind, "source": "app", "correlationId": f"flow-{order}", "causationId": cause}
    payload |= {"timestamp": NOON + 1000 * (at_s if happened_s is None else happened_s), "data": {"orderId": order, **data}}
    return Record(topic=topic, key=order.encode(), timestamp_ms=NOON + at_s * 1000, value=dumps(payload), headers=tuple(headers))


RECORDS = [
    record(0, "e1", "Created", total=10, note="it's"),
    record(1, "e2", "Created", order="-o2", total=7),
    record(2, "e3", "Paid", cause="e1", total=3),
    record(3, "e3", "Paid", cause="e1", total=3),
    record(200, "e4", "Changed", cause="e3", total=5, happened_s=1),
    record(201, "e5", "Closed", cause="e4", note=None),
    record(210, "d1", "Paid", topic="orders-dlq", headers=[("original.topic", b"orders"), ("original.offset", b"2"), ("error", b"boom")]),
]
TIME = dt.datetime.fromtimestamp(NOON / 1000 + 100, dt.UTC)


@pytest.fixture(scope="module")
def code(tmp_path_factory):
    """The file with projections, imported as a notebook would."""
    path = tmp_path_factory.mktemp("code") / "my_shop.py"
    path.write_text(FILE)
    spec = importlib.util.spec_from_file_location("my_shop", path)
    module = sys.modules["my_shop"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    del sys.modules["my_shop"]


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    made = eslab.Lab(tmp_path_factory.mktemp("labs") / "my shop", tz="Europe/Berlin", say=lambda notice: None)
    made.snapshot(MemorySource(RECORDS), progress=False)
    at = [TIME + dt.timedelta(seconds=one) for one in (0, 400)]
    rows = [
        {"group": "billing", "topic": "orders", "partition": 0, "committed": 2 + nth, "log_start": 0, "log_end": 6, "sampled_at": when}
        | {"committed_at": None, "origin": "watch"}
        for nth, when in enumerate(at)
    ]
    write_samples(made.path, pa.Table.from_pylist(rows, SAMPLES))
    made.bookmark("before", at=TIME)
    return made


def column(name):
    return lambda rows: [row[name] for row in rows]


def ids(answer):
    return answer.df().reset_index()["event_id"].tolist()


def causes(answer):
    return [[one.version, str(one.event.id), one.handler] for one in answer]


def compared(answer):
    return [list(answer.said), [row.event.id for row in answer], len(answer.changes)]


def worlds(answer):
    return [list(answer.said), dict(answer.counts)]


CAUSED = lambda rows: [[row["version"], row["event_id"], row["handler"]] for row in rows]  # noqa: E731
STATE = (lambda state: [state.version, state.value], lambda told: [told["version"], told["value"]])
STEPS = (ids, column("event_id"))
CHANGES = (lambda found: [str(one.before) for one in found], lambda rows: [str(row.get("before", "MISSING")) for row in rows])
CAUSES = (causes, CAUSED)
TRACED = (ids, column("event_id"))
HELD = (lambda rows: [one.key for one in rows], column("aggregate_id"))
SUPPOSED = (compared, lambda told: [told["done"], [row["event_id"] for row in told["rows"]], len(told["changes"])])
WORLD = (worlds, lambda told: [told["done"], told["counts"]])
REPLAYED = (
    lambda world: [list(world.items()), world.events],
    lambda told: [[[one["key"], one["state"]] for one in told["states"]], told["steps"]],
)
BROKEN = (lambda check: [[one.name, one.keys, [key.key for key in one]] for one in check.values()],
          lambda rows: [[one["invariant"], one["keys"], column("aggregate_id")(one["violations"])] for one in rows])  # fmt: skip
DIFFER = (
    lambda found: [list(found), {**found.counts, "ended": found.ended}],
    lambda told: [column("aggregate_id")(told["keys"]), told["counts"]],
)


def history(lab, **more):
    return lab.history("order", "o1", **more)


def supposed(lab):
    return lab.what_if(history(lab))


VIEWS = {
    "history": (lambda lab, code: history(lab), STEPS),
    "history, of an id like an option": (lambda lab, code: lab.history("order", "-o2"), STEPS),
    "history, until a time": (lambda lab, code: history(lab, at=TIME), STEPS),
    "history, of a cut": (lambda lab, code: history(lab, at=lab.cut(event_id="e3")), STEPS),
    "history, of a bookmark": (lambda lab, code: history(lab, at=lab.cut(bookmark="before")), STEPS),
    "history, as happened": (lambda lab, code: history(lab, at=TIME, clock="happened"), STEPS),
    "history, as happened of a cut": (lambda lab, code: history(lab, at=TIME, clock="happened", cut=lab.cut(event_id="e3")), STEPS),
    "history, by a projection": (lambda lab, code: history(lab, projection=code.totals), STEPS),
    "at": (lambda lab, code: history(lab).at(), STATE),
    "at, a version": (lambda lab, code: history(lab, projection=code.totals).at(version=2), STATE),
    "at, a time": (lambda lab, code: history(lab).at("12:00:02.500"), STATE),
    "at, an event": (lambda lab, code: history(lab).at(event_id="e2"), STATE),
    "at, of what had come": (lambda lab, code: history(lab, at=TIME).at("23:00"), STATE),
    "at, of a cut": (lambda lab, code: history(lab, at=lab.cut(event_id="e3")).at(version=1), STATE),
    "at, as happened": (lambda lab, code: history(lab, at=TIME, clock="happened").at(), STATE),
    "at, a step": (lambda lab, code: history(lab)[1], (lambda step: [step.version, step.after], STATE[1])),
    "at, where it ran to": (lambda lab, code: history(lab).run_until(changed="note"), (lambda step: [step.version, step.after], STATE[1])),
    "diff": (lambda lab, code: history(lab).diff(1, "12:00:02"), CHANGES),
    "diff, of what had come": (lambda lab, code: history(lab, at=TIME).diff(1, None), CHANGES),
    "changes": (lambda lab, code: history(lab).changes(), CAUSES),
    "changes, until a time": (lambda lab, code: history(lab, at=TIME, projection=code.totals).changes(), CAUSES),
    "blame": (lambda lab, code: history(lab).blame("total"), CAUSES),
    "blame, of all at a version": (lambda lab, code: history(lab).blame(at=2), CAUSES),
    "blame, as happened": (lambda lab, code: history(lab, at=TIME, clock="happened").blame("note"), CAUSES),
    "explain": (
        lambda lab, code: history(lab).explain("total", at="12:00:03"),
        (lambda told: list(told.sentences), lambda told: told["sentences"]),
    ),
    "what-if": (lambda lab, code: supposed(lab).drop("e3", effects=True).compare(), SUPPOSED),
    "what-if, of a changed id": (
        lambda lab, code: supposed(lab).edit("e1", {"id": "e0", "data.total": 1, "data.note": eslab.MISSING}).drop("e0").compare(),
        (lambda found: compared(found)[1:], lambda told: SUPPOSED[1](told)[1:]),
    ),
    "what-if, in another order": (
        lambda lab, code: supposed(lab).move("e4", before="e1").delay("e1", 90).duplicate(("orders", 0, 4), delay="1.5s").compare(),
        SUPPOSED,
    ),
    "what-if, with an event more": (
        lambda lab, code: (
            supposed(lab).insert({"eventType": "Paid", "data": {"orderId": "o1", "total": 1}}, after="e4").move("e5", at=TIME).compare()
        ),
        SUPPOSED,
    ),
    "what-if, with one at its own time": (
        lambda lab, code: (
            lab.what_if(history(lab, at=TIME))
            .insert({"eventType": "X", "timestamp": NOON, "data": {"orderId": "o1"}})
            .insert(None, key="o1")
            .compare()
        ),
        SUPPOSED,
    ),
    "what-if, of a world": (lambda lab, code: lab.what_if("order", at=TIME).drop("e2").compare(), WORLD),
    "what-if, of a projection": (lambda lab, code: lab.what_if(code.totals).edit("e1", {"data.total": 100}).compare(), WORLD),
    "what-if, of a key of a world": (lambda lab, code: lab.what_if(code.totals, at=TIME, ended=True).drop("e2").compare()["-o2"], SUPPOSED),
    "trace": (lambda lab, code: lab.trace("e3"), TRACED),
    "trace, of a saga": (lambda lab, code: lab.sagas(done="Closed", compensated=["Undone"])["flow-o1"], TRACED),
    "sagas": (
        lambda lab, code: lab.sagas(done=["Closed"], stuck_after="1m", at=TIME),
        (lambda found: list(found.df().index), column("correlation_id")),
    ),
    "sagas, that are stuck": (
        lambda lab, code: lab.sagas(begin="Created", stuck_after=0).stuck,
        (lambda found: list(found.df().index), column("correlation_id")),
    ),
    "around": (lambda lab, code: lab.around("12:00:02", before="1s"), STEPS),
    "around, an event": (lambda lab, code: lab.around(event_id="e4", after=2), STEPS),
    "around, a place": (lambda lab, code: lab.around(event_id=("orders", 0, 4), after=2), STEPS),
    "late": (lambda lab, code: lab.late(min="2m", topic="orders"), STEPS),
    "duplicates": (lambda lab, code: lab.duplicates(), STEPS),
    "dead-letters": (lambda lab, code: lab.dead_letters(), STEPS),
    "find": (lambda lab, code: lab.find("e3"), (lambda found: [len(found)], lambda rows: [len(rows)])),
    "find, a number": (lambda lab, code: lab.find(10, whole=True), (lambda found: found.df()["name"].tolist(), column("name"))),
    "events": (
        lambda lab, code: lab.explore(event_type="Paid").page(),
        (lambda page: [row["at"] for row in page.rows()], lambda rows: [f"{row['topic']}/0/{row['record_offset']}" for row in rows]),
    ),
    "replay": (lambda lab, code: lab.replay("order", progress=False), REPLAYED),
    "replay, of some keys until a bookmark": (
        lambda lab, code: lab.replay(code.totals, at=lab.cut(bookmark="before"), keys=["o1"], strict=True, ended=True, progress=False),
        REPLAYED,
    ),
    "replay, carried on": (lambda lab, code: lab.replay("order", at="12:00:01", progress=False).advance(TIME, progress=False), REPLAYED),
    "replay, in SQL": (
        lambda lab, code: lab.replay(code.types, at=TIME),
        (lambda world: world.arrow().to_pylist(), lambda told: told["rows"]),
    ),
    "first": (lambda lab, code: lab.first(code.totals, code.large, keys="o1", progress=False), HELD),
    "first, of a cut": (lambda lab, code: lab.first(code.totals, code.large, at=lab.cut(event_id="e3"), progress=False), HELD),
    "check": (lambda lab, code: lab.check(code.small, code.even, progress=False), BROKEN),
    "check, one of them": (
        lambda lab, code: lab.check(code.small, code.even, at=TIME, progress=False)["even"],
        (lambda one: [[one.name, one.keys, [key.key for key in one]]], BROKEN[1]),
    ),
    "compare": (
        lambda lab, code: lab.compare(code.totals, code.last, progress=False),
        (list, lambda told: column("aggregate_id")(told["keys"])),
    ),
    "compare, one key with the default": (
        lambda lab, code: lab.compare("order", code.last, at=TIME, progress=False)["o1"],
        (lambda one: [one.key], lambda told: column("aggregate_id")(told["keys"])),
    ),
    "lag": (
        lambda lab, code: lab.lag("billing", topics="orders", start="12:00:00"),
        (lambda found: found.peaks().to_pylist(), lambda told: told["partitions"]),
    ),
    "lag, at a moment": (lambda lab, code: lab.lag("billing").at(TIME), (lambda found: found.arrow()["lag"].to_pylist(), column("lag"))),
    "lag, its stalls": (lambda lab, code: lab.lag("billing").stalls(), (lambda found: [len(found)], lambda told: [len(told["stalls"])])),
    "throughput": (
        lambda lab, code: lab.throughput("orders", every="1m", stop="12:05"),
        (lambda found: found.arrow()["records"].to_pylist(), column("records")),
    ),
    "info": (lambda lab, code: lab.info(), (lambda info: info.df()["records"].tolist(), lambda told: column("records")(told["topics"]))),
    "verify": (
        lambda lab, code: lab.verify(progress=False),
        (lambda found: [found.records, found.segments], lambda told: [told["records"], told["segments"]]),
    ),
}


def line_in(view):
    """The line that a view prints under it."""
    lines = re.findall(r"<p><code>(eslab .*?)</code></p>", view._repr_html_())
    assert len(lines) <= 1
    return html.unescape(lines[0]) if lines else ""


def run(line, *more):
    name, *words = shlex.split(line)
    at = words.index("--") if "--" in words else len(words)
    assert name == "eslab"
    return CliRunner().invoke(cli.main, [*words[:at], *more, *words[at:]], prog_name="eslab")


def plain(value):
    """As JSON has it."""
    return json.loads(json.dumps(value, default=lambda one: one.isoformat()))


@pytest.mark.parametrize("name", VIEWS)
def test_the_line_under_a_view_shows_the_same_again(lab, code, name):
    view, (here, there) = VIEWS[name][0](lab, code), VIEWS[name][1]
    line = line_in(view)
    assert line == view.again
    assert line.startswith(f"eslab {name.partition(',')[0]} ")
    told = run(line, "--json")
    assert told.exit_code in (0, 1), told.output
    assert there(json.loads(told.stdout)) == plain(here(view)) != []
    if "," not in name and name not in ("info", "verify"):
        assert run(line).stdout.splitlines()[-1] == line


def test_the_page_of_a_stepper_has_the_line_of_every_position(lab, code):
    stepper = history(lab, projection=code.totals, at=TIME).step(at=2)
    header = json.loads(stepper._steps.lines.split(b"\t")[0])
    line = "2".join(header["line"])
    assert line == stepper._steps.line_at(2) == history(lab, projection=code.totals).at(version=2).again
    assert f"<p><code>{html.escape(line)}</code></p>" in stepper._repr_mimebundle_()[0]["text/html"]
    assert json.loads(run(line, "--json").stdout)["value"] == stepper.state.value


@pytest.mark.parametrize("text", ["it's <b>", "\x1b[31mred", "a\nb", "$(id) `id`", "v1000000000000000"])
def test_a_line_is_one_line_of_text_whatever_is_in_it(tmp_path, text):
    made = eslab.Lab(tmp_path / "lab", tz="UTC", say=lambda notice: None)
    made.snapshot(MemorySource([record(0, text, text, order=text)]), progress=False)
    h = made.history("order", text)
    assert line_in(h).isprintable()
    for line in (line_in(h), h.at().again, "1".join(json.loads(h.step()._steps.lines.split(b"\t")[0])["line"])):
        words = subprocess.run(["bash", "-c", f"printf '%s\\0' {line}"], capture_output=True, check=True).stdout.decode().split("\0")[:-1]
        assert words[2:5] == [str(made.path), "order", text]
    assert words[5] == "v1"


def test_a_lab_that_goes_with_its_object_has_no_lines():
    toy = eslab.play([{"eventId": "e1", "eventType": "Created", "data": {"orderId": "o1"}}])
    h = toy.history("order", "o1")
    views = [toy, h, h[0], h.at(), h.changes(), toy.find("o1"), toy.trace("e1"), toy.sagas(), toy.replay("order", progress=False)]
    assert [line_in(one) for one in [*views, toy.explore().page(), toy.what_if(h).drop("e1").compare()]] == [""] * (len(views) + 2)
    assert json.loads(h.step()._steps.lines.split(b"\t")[0])["line"] is None
    assert "eslab at" not in h.step().to_html()


def made_here(state):
    return True


def test_what_a_cell_made_has_no_line_and_what_stands_in_a_file_has_its_name(lab, code, monkeypatch):
    assert origin(code.totals) == f"{code.__file__}:totals"
    assert origin(code.small) == f"{code.__file__}:small"
    assert origin(lambda state: True) is None
    assert origin(made_here) == "tests/test_shell_lines.py:made_here"
    with contextlib.chdir("tests"):
        assert origin(made_here) == "test_shell_lines.py:made_here"
    with contextlib.chdir("docs"):
        assert origin(made_here) == f"{__file__}:made_here"
    monkeypatch.setattr(made_here, "__module__", "__main__")
    assert line_in(lab.first("order", made_here, progress=False)) == ""
    assert line_in(lab.check(eslab.Invariant("mine", code.totals, made_here), code.small, progress=False)) == ""
    assert line_in(lab.compare(code.totals, code.last.copy(), progress=False)) == ""

    changed = code.totals.copy()
    monkeypatch.setattr(code, "totals", changed)
    assert line_in(history(lab, projection=changed)) != ""
    changed.on("Closed")(made_here)  # by a cell: the file no longer says what is folded
    h = history(lab, projection=changed)
    assert [one for one in (line_in(h), h.at().again, h.step()._steps.line_at(1), lab.replay(changed, progress=False).again) if one] == []


def test_through_upcasters_which_the_shell_has_not_nothing_has_a_line(lab, code):
    seen = eslab.Lab(lab.path, tz="Europe/Berlin")
    seen.upcaster("Paid", from_version=None, to_version=2)(lambda data: {**data, "total": 0})
    assert [line_in(one) for one in (history(seen), history(seen).changes(), seen.replay("order", progress=False))] == [""] * 3
    assert seen.explore().page().again != ""
    assert line_in(seen.replay(code.types, progress=False)) != ""


def test_a_folder_is_called_as_the_user_called_it(lab, monkeypatch):
    monkeypatch.chdir(lab.path.parent)
    monkeypatch.setenv("HOME", str(lab.path.parent))
    assert eslab.Lab("my shop").info().again == "eslab info 'my shop'"
    assert eslab.Lab("~/my shop").info().again == f"eslab info '{lab.path}'"
    assert history(eslab.Lab("my shop", tz="UTC")).at(TIME).again == f"eslab at 'my shop' order o1 {TIME.isoformat()} --tz UTC"


def test_what_the_shell_cannot_ask_for_has_no_line(lab):
    happened = history(lab, at=TIME, clock="happened")
    assert [happened.at(version=1).again, happened.diff(1, 2).again, happened[0].again, happened.blame("total", at=1).again] == [""] * 4
    assert (
        history(lab).at(cut=lab.cut("12:00")).again
        == history(lab).diff(1, lab.cut()).again
        == lab.lag("billing").stalls(min_lag=9).again
        == ""
    )
    assert lab.sagas().backwards.again == lab.sagas().stuck.running.again == lab.compare("order", "order", progress=False).again == ""
    assert history(lab).changes()[:1].again == lab.what_if(history(lab)).drop("e1").history.again == NOWHERE.line("info") == ""


def test_of_a_bookmark_at_a_time_the_line_names_the_version(lab):
    h = history(lab, cut=lab.cut(bookmark="before"))
    for answer in (h.blame("total", at=TIME), h.explain("total", at=TIME)):
        assert " --bookmark before --at v" in answer.again
        assert run(answer.again).exit_code == 0
    assert [step.again for step in h] == [step.again for step in h[:]] != [""] * len(h)


def test_keys_that_are_told_once_are_in_the_line(lab):
    assert lab.replay("order", keys=iter(["o1"]), progress=False).again == lab.replay("order", keys=["o1"], progress=False).again


def test_a_function_that_answers_to_every_name_has_no_line(lab):
    assert lab.first("order", Mock(return_value=True), progress=False).again == ""
