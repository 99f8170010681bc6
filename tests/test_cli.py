"""The shell, as a person at a terminal and as a program in a pipe meet it."""

import datetime as dt
import fcntl
import json
import os
import pty
import re
import shutil
import signal
import struct
import subprocess
import sys
import termios
import time
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace

import duckdb
import pytest
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st

import eslab
from eslab import cli
from eslab.cli.output import printable
from eslab.locking import writer_lock
from eslab.model import dumps
from eslab.sources.memory import MemorySource

BEGIN = dt.datetime(2026, 3, 12, 9, 30, tzinfo=dt.UTC)
RED = "\x1b[31mevil"
BERLIN = ("--tz", "Europe/Berlin")


def event(number: int, kind: str, order: str, minute: int, **data) -> bytes:
    happened = BEGIN + dt.timedelta(minutes=minute)
    told = {"eventId": f"evt-{number}", "eventType": kind, "timestamp": happened, "source": "shop", "correlationId": f"flow-{order}"}
    return dumps({**told, "data": {"orderId": order, **data}})


def record(minute: int, key: str | bytes, value: bytes | None) -> eslab.Record:
    at = int((BEGIN + dt.timedelta(minutes=minute)).timestamp() * 1000)
    return eslab.Record(
        topic="orders", timestamp_ms=at, timestamp_type="create", key=key.encode() if isinstance(key, str) else key, value=value
    )


RECORDS = [
    record(0, "ord-1", event(1, "OrderCreated", "ord-1", 0, total=10**30, lines=[1, 2])),
    record(1, "ord-2", event(2, "OrderCreated", "ord-2", 1, total=12.5)),
    record(2, "ord-1", event(3, "OrderPaid", "ord-1", 1, paid=True)),  # known to the log a minute late
    record(3, "ord-1", event(3, "OrderPaid", "ord-1", 1, paid=True)),
    record(4, "ord-2", b"no JSON"),
    record(5, "ord-1", event(4, "OrderShipped", "ord-1", 5, total=11, lines=[1])),
    record(6, "ord-2", None),
    record(7, RED, event(5, f"[bold]{RED}", RED, 7, note=RED)),
    record(8, "[red]x", event(6, "OrderCreated", "[red]x", 8, note="[red]x")),
    record(9, b"\xff\xfe", b"\x00"),
    record(10, "-5", event(7, "OrderCreated", "-5", 10)),
    record(11, "it's", event(8, "OrderCreated", "it's", 11)),
]


@pytest.fixture(scope="module")
def shop(tmp_path_factory) -> Path:
    """A lab that no test changes."""
    folder = tmp_path_factory.mktemp("labs") / "shop"
    eslab.Lab(folder, say=lambda _: None).snapshot(MemorySource(RECORDS), progress=False)
    return folder


@pytest.fixture
def copied(shop, tmp_path) -> Path:
    """A lab of one's own."""
    return shutil.copytree(shop, tmp_path / "shop")


@pytest.fixture
def orders(tmp_path) -> Path:
    """A file to capture: 300 events, one a second, of 100 orders."""
    path = tmp_path / "orders.jsonl"
    lines = [
        {"eventType": "Tick", "timestamp": BEGIN + dt.timedelta(seconds=at), "data": {"orderId": f"ord-{at % 100}"}} for at in range(300)
    ]
    path.write_bytes(b"".join(dumps(line) + b"\n" for line in lines))
    return path


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch):
    for name in ("ESLAB_TZ", "ESLAB_TRACEBACK", "FORCE_COLOR", "COLUMNS"):
        monkeypatch.delenv(name, raising=False)


def run(*words, stdin: str | None = None) -> Result:
    return CliRunner().invoke(cli.main, [str(word) for word in words], prog_name="eslab", input=stdin)


def answer(*words, stdin: str | None = None) -> str:
    result = run(*words, stdin=stdin)
    assert (result.exit_code, result.stderr) == (0, "")
    return result.stdout


def document(*words):
    """What --json prints: one line, one document."""
    text = answer(*words, "--json")
    assert text.endswith("\n")
    assert text.count("\n") == 1
    return json.loads(text, parse_float=Decimal, parse_constant=pytest.fail)


def refusal(*words) -> str:
    """The one sentence that a clear no is."""
    result = run(*words)
    assert (result.exit_code, result.stdout) == (1, "")
    assert re.fullmatch(r"eslab: .+\n", result.stderr)
    assert "defect" not in result.stderr
    return result.stderr


def process(*words, **options) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", "eslab", *map(str, words)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options
    )


def on_a_terminal(columns: int, *words) -> str:
    """What a terminal of so many columns gets, escape sequences and all."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    with subprocess.Popen(
        [sys.executable, "-m", "eslab", *map(str, words)], stdout=theirs, stderr=theirs, env={**os.environ, "TERM": "xterm"}
    ):
        os.close(theirs)
        seen = b""
        while True:
            try:
                part = os.read(ours, 65536)
            except OSError:  # how Linux says that the other side is gone
                part = b""
            if not part:
                break
            seen += part
    os.close(ours)
    return seen.decode().replace("\r\n", "\n")


# --- the shell itself


def test_public_names_stay_what_they_are_when_a_module_of_the_same_name_is_imported():
    code = "from eslab.play import play; import eslab; assert eslab.play is play; assert all(getattr(eslab, name) is not None for name in eslab.__all__)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_version_is_the_packages():
    assert answer("--version") == f"eslab {eslab.__version__}\n"


def test_every_command_has_its_help():
    assert list(cli.main.commands) == [
        "demo",
        "snapshot",
        "watch",
        "info",
        "verify",
        "find",
        "events",
        "history",
        "at",
        "diff",
        "changes",
        "blame",
        "explain",
        "run-until",
        "run-back-until",
        "what-if",
        "trace",
        "sagas",
        "around",
        "late",
        "duplicates",
        "dead-letters",
        "bookmark",
        "replay",
        "first",
        "check",
        "compare",
        "lag",
        "throughput",
        "sql",
        "export",
    ]
    for command in cli.main.commands:
        assert answer(command, "--help").startswith(f"Usage: eslab {command} ")


@pytest.mark.parametrize(
    ("words", "code"),
    [(["info", "{shop}"], 0), (["find", "{shop}", "nobody"], 1), (["info", "{shop}/nowhere"], 1), (["info"], 2), (["nonsense"], 2)],
)
def test_exit_codes_reach_the_shell_and_no_traceback_does(shop, words, code):
    with process(*(word.format(shop=shop) for word in words)) as started:
        out, err = started.communicate()
    assert started.returncode == code
    assert bool(out) is (code == 0)
    assert "Traceback" not in err


def test_a_reader_that_goes_away_ends_the_command_quietly(shop):
    with process("sql", shop, "from range(1000000)", "--json") as started:
        assert started.stdout.read(3) == '[{"'
        started.stdout.close()
        assert started.stderr.read() == ""
    assert started.returncode == 1


def test_ctrl_c_is_one_line_and_130(shop, monkeypatch):
    monkeypatch.setattr(eslab.Lab, "find", _raising(KeyboardInterrupt))
    result = run("find", shop, "ord-1")
    assert (result.exit_code, result.stdout, result.stderr) == (130, "", "eslab: stopped\n")


def test_ctrl_c_ends_a_query_that_duckdb_is_busy_with(shop):
    query = "select sum(a.range * b.range) from range(100000000) a, range(100000000) b --" + "x" * 1_000_000
    with process("sql", shop, "-f", "-", stdin=subprocess.PIPE) as started:
        started.stdin.write(query)  # more than a pipe holds: it is being read once this returns
        started.stdin.close()
        time.sleep(1)
        started.send_signal(signal.SIGINT)
        out, err = started.stdout.read(), started.stderr.read()
    assert (started.returncode, out, err) == (130, "", "eslab: stopped\n")


def test_a_defect_is_one_line_that_asks_for_a_report(shop, monkeypatch):
    monkeypatch.setattr(eslab.Lab, "info", _raising(ZeroDivisionError, "by nought"))
    result = run("info", shop)
    assert (result.exit_code, result.stdout) == (1, "")
    assert re.fullmatch(r"eslab: ZeroDivisionError: by nought; this is a defect .*\n", result.stderr)


def test_the_traceback_of_a_defect_is_to_be_had(shop, monkeypatch):
    monkeypatch.setenv("ESLAB_TRACEBACK", "1")
    monkeypatch.setattr(eslab.Lab, "info", _raising(ZeroDivisionError))
    assert "Traceback (most recent call last)" in run("info", shop).stderr


def test_what_the_system_refuses_is_one_sentence(shop, monkeypatch, tmp_path):
    assert "File name too long" in refusal("info", tmp_path / ("x" * 300))
    assert "no folder" in refusal("export", shop, "--duckdb", tmp_path / "nowhere" / "x.duckdb")
    monkeypatch.setattr(eslab.Lab, "info", _raising(PermissionError, 13, "Permission denied", "/locked"))
    assert refusal("info", shop) == "eslab: /locked: Permission denied\n"


def test_a_full_disk_is_named_even_where_no_file_is(shop, monkeypatch):
    monkeypatch.setattr(eslab.Lab, "info", _raising(OSError, 28, "No space left on device"))
    assert refusal("info", shop) == "eslab: No space left on device\n"


def test_an_event_without_a_time_is_shown_with_none(tmp_path):
    lab = tmp_path / "timeless"
    value = dumps({"eventType": "OrderCreated", "data": {"orderId": "ord-1"}})
    eslab.Lab(lab, say=lambda _: None).snapshot(MemorySource([record(0, "ord-1", value)]), progress=False)
    (step,) = document("history", lab, "order", "ord-1")
    assert (step["recorded_at"], step["happened_at"]) == ("2026-03-12T09:30:00+00:00", None)


def test_an_argument_that_is_no_text_is_wrong_usage(shop):
    result = run("find", shop, "\udcff")
    assert result.exit_code == 2
    assert "not UTF-8" in result.stderr


def _raising(kind, *told):
    def fail(*_, **__):
        raise kind(*told)

    return fail


# --- a clear no


def test_a_lab_that_does_not_exist_is_an_error_that_says_how_to_make_one(tmp_path):
    for words in (
        ["info"],
        ["verify"],
        ["find", "x"],
        ["history", "order", "1"],
        ["at", "order", "1"],
        ["diff", "order", "1", "v0", "v1"],
        ["sql", "select 1"],
    ):
        said = refusal(words[0], tmp_path / "nix", *words[1:])
        assert "no lab stands in" in said
        assert f"eslab snapshot {tmp_path / 'nix'}" in said
    assert not (tmp_path / "nix").exists()


def test_an_empty_folder_is_no_lab(tmp_path):
    assert "no lab stands in" in refusal("info", tmp_path)


def test_a_folder_that_holds_something_else_is_refused(tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    assert "holds something else than a lab" in refusal("info", tmp_path)
    assert "holds something else than a lab" in refusal("snapshot", tmp_path, tmp_path / "thesis.txt")
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_an_id_never_seen_is_named(shop):
    for words in (["history"], ["at"], ["diff"]):
        assert "no captured event belongs to order 'ord-77'" in refusal(
            *words, shop, "order", "ord-77", *(["v0", "v1"] if words == ["diff"] else [])
        )
    assert "no captured event belongs to an aggregate 'parcel'; the lab has order" in refusal("history", shop, "parcel", "ord-1")
    assert "no captured event is called 'evt-77'" in refusal("at", shop, "order", "ord-1", "--event", "evt-77")


def test_an_id_that_nothing_has_is_one_sentence_and_1(shop):
    assert "ord-77: nothing captured has this, as an id" in refusal("find", shop, "ord-77")


def test_a_version_past_the_end_says_how_many_there_are(shop):
    for words in (
        ["at", shop, "order", "ord-1", "v5"],
        ["at", shop, "order", "ord-1", "--version", "5"],
        ["diff", shop, "order", "ord-1", "v1", "5"],
    ):
        assert "ord-1 has 4 versions; there is no version 5" in refusal(*words)


def test_a_time_without_a_zone_is_rejected_with_the_way_out(shop):
    for told in ("2026-03-12T10:31", "10:31"):
        for words in (
            ["at", shop, "order", "ord-1", told],
            ["diff", shop, "order", "ord-1", "v1", told],
            ["history", shop, "order", "ord-1", "--at", told],
        ):
            said = refusal(*words)
            assert "has no zone" in said
            assert "--tz Europe/Berlin" in said


def test_what_is_no_moment_is_said_so(shop):
    assert "'yesterday' is no time" in refusal("at", shop, "order", "ord-1", "yesterday")
    assert "this text is no cut" in refusal("at", shop, "order", "ord-1", "--cut", "{}")
    assert "'Mars/Base' is no time zone" in refusal("info", shop, "--tz", "Mars/Base")


def test_two_moments_at_once_are_wrong_usage(shop):
    assert run("at", shop, "order", "ord-1", "v1", "--event", "evt-1").exit_code == 2


def test_two_snapshots_at_once_are_one_too_many(copied, orders):
    with writer_lock(copied):
        assert "is writing to this lab" in refusal("snapshot", copied, orders)


def test_a_mapping_whose_path_no_event_has_names_the_path(copied):
    _edit_mapping(copied, "data.orderId", "data.ordreId")
    assert "none of its 9 events has data.ordreId; correct the id there" in refusal("info", copied)
    _edit_mapping(copied, "data.ordreId", "data.orderId")
    assert "12 records" in answer("info", copied)


def test_a_broken_lab_toml_names_the_file_and_the_line(copied):
    _edit_mapping(copied, "[topics.orders]", "[topics.orders")
    said = refusal("history", copied, "order", "ord-1")
    assert "lab.toml: not readable as TOML" in said
    assert "line 4" in said


def _edit_mapping(folder, before, after):
    path = folder / "lab.toml"
    text = path.read_text()
    assert before in text
    path.write_text(text.replace(before, after))


def test_broken_sql_is_duckdbs_word_in_one_line(shop):
    assert 'syntax error at or near "selct"' in refusal("sql", shop, "selct")
    assert "Table with name nix does not exist" in refusal("sql", shop, "select *\nfrom nix")


def test_sql_that_fails_while_rows_are_fetched_is_one_line_too(shop):
    assert "Could not convert string 'evt-" in refusal("sql", shop, "select event_id::int from events")


def test_a_table_name_never_finds_a_variable_of_the_shell(shop):
    assert "Table with name folder does not exist" in refusal("sql", shop, "from folder")


def test_a_query_is_given_exactly_once(shop, tmp_path):
    query = tmp_path / "q.sql"
    query.write_text("select 1")
    assert run("sql", shop).exit_code == 2
    assert run("sql", shop, "select 1", "-f", query).exit_code == 2
    assert run("sql", shop, "-f", tmp_path / "nowhere.sql").exit_code == 2


@pytest.mark.parametrize(
    ("text", "name", "said"),
    [
        (None, "p", "there is no file"),
        ("x = 1", "", "write it as file.py:name"),
        ("def broken(:", "p", "line 1"),
        ("import nowhere_to_be_found", "p", "line 1: ModuleNotFoundError: No module named 'nowhere_to_be_found'"),
        ("\n\n1 / 0", "p", "line 3: ZeroDivisionError: division by zero"),
        ("raise SystemExit(7)", "p", "SystemExit: 7"),
        ("import eslab\nq = eslab.Projection('q', aggregate='order')\np = 1", "p", "has no projection called p; it has q"),
        ("import eslab\np = eslab.Projection('p', aggregate='order')", "p", "has no handlers"),
        ("import eslab\np = eslab.Projection('p', aggregate='')", "p", "line 2: ProjectionError"),
        ("import eslab\np = eslab.Projection('p', aggregate='parcel')\np.on('A')(print)", "p", "folds 'parcel', not 'order'"),
    ],
)
def test_a_bad_projection_file_is_one_sentence_that_names_the_place(shop, tmp_path, text, name, said):
    path = tmp_path / "mine.py"
    if text is not None:
        path.write_text(text)
    assert said in refusal("history", shop, "order", "ord-1", "--projection", f"{path}:{name}")


# --- what is shown


def test_info_shows_each_topic_and_the_aggregates(shop):
    shown = answer("info", shop)
    assert "12 records, 9 events" in shown
    assert re.search(r"^orders +1 +12 +9 +1 +2 +0 ", shown, re.MULTILINE)
    assert shown.endswith("aggregates: order\n")


def test_info_as_json_is_one_object(shop):
    told = document("info", shop, *BERLIN)
    assert (told["path"], told["gaps"], told["aggregates"]) == (str(shop), 0, ["order"])
    (topic,) = told["topics"]
    assert (topic["topic"], topic["records"], topic["first"]) == ("orders", 12, "2026-03-12T10:30:00+01:00")


def test_verify_says_yes_with_0_and_no_with_1(copied):
    assert "every one as it was committed" in answer("verify", copied)
    assert document("verify", copied)["problems"] == []
    (segment,) = (copied / "log").rglob("*.parquet")
    content = segment.read_bytes()
    segment.write_bytes(content.replace(b"ord-1", b"ord-9"))
    assert segment.read_bytes() != content
    for words in (["verify", copied], ["verify", copied, "--json"]):
        result = run(*words)
        assert (result.exit_code, result.stderr) == (1, "")
        assert segment.name in result.stdout
    assert len(json.loads(result.stdout)["problems"]) == 1


def test_find_tells_every_meaning_of_an_id(shop):
    rows = document("find", shop, "ord-1")
    assert [(row["as"], row["name"], row["count"]) for row in rows[:2]] == [("aggregate", "order", 4), ("key", "orders", 4)]
    assert {row["as"] for row in rows[2:]} == {"value"}
    assert re.search(r"^aggregate +order +4 ", answer("find", shop, "ord-1"), re.MULTILINE)


def test_find_as_json_is_an_empty_list_where_nothing_has_the_id(shop):
    result = run("find", shop, "ord-77", "--json")
    assert (result.exit_code, result.stdout) == (1, "[]\n")
    assert "nothing captured" in result.stderr


def test_history_shows_each_step_with_its_changes_and_marks(shop):
    _, _, _, *steps, _ = answer("history", shop, "order", "ord-1").splitlines()
    assert [line.split()[:4] for line in steps] == [
        ["1", "OrderCreated", "2026-03-12T09:30:00+00:00", "evt-1"],
        ["2", "OrderPaid", "2026-03-12T09:32:00+00:00", "evt-3"],
        ["3", "OrderPaid", "2026-03-12T09:33:00+00:00", "evt-3"],
        ["4", "OrderShipped", "2026-03-12T09:35:00+00:00", "evt-4"],
    ]
    assert "paid: — → true" in steps[1]
    assert "duplicate: the same event id as step 2" in steps[2]


def test_history_shows_what_is_undecodable_and_what_a_tombstone_ended(shop):
    shown = answer("history", shop, "order", "ord-2")
    assert re.search(r"\(undecodable\) .* orders/0/4 .* undecodable: ", shown)
    assert re.search(r"\(tombstone\) .* orders/0/6 .* tombstone$", shown, re.MULTILINE)


def test_history_as_json_is_the_rows_of_its_frame(shop):
    rows = document("history", shop, "order", "ord-1", *BERLIN)
    frame = eslab.Lab(shop, tz="Europe/Berlin").history("order", "ord-1").df().reset_index()
    assert list(rows[0]) == list(frame.columns)
    assert [row["state"] for row in rows] == list(frame["state"])
    assert [row["recorded_at"] for row in rows] == [at.isoformat() for at in frame["recorded_at"]]


def test_a_history_ends_where_it_is_told_to(shop):
    assert len(document("history", shop, "order", "ord-1", "--at", "10:32", *BERLIN)) == 2


def test_integers_of_any_size_are_exact_in_json(shop):
    assert document("at", shop, "order", "ord-1", "v1")["value"]["total"] == 10**30
    assert document("diff", shop, "order", "ord-1", "v1", "v4")[0] == {"path": "total", "before": 10**30, "after": 11}


@pytest.mark.parametrize(
    ("moment", "version"),
    [
        ([], 4),
        (["v2"], 2),
        (["2"], 2),
        (["--version", "0"], 0),
        (["--event", "evt-2"], 1),
        (["2026-03-12T09:32:00Z"], 2),
        (["2026-03-12 10:31:59+01:00"], 1),
        (["10:31", *BERLIN], 1),
        (["10:31", *BERLIN, "--clock", "happened"], 3),
        (["2020-01-01T00:00Z"], 0),
    ],
)
def test_a_moment_is_named_in_every_way_there_is(shop, moment, version):
    assert document("at", shop, "order", "ord-1", *moment)["version"] == version
    assert f"order ord-1 version {version}" in answer("at", shop, "order", "ord-1", *moment)


def test_the_cut_that_json_prints_names_the_moment_again(shop):
    told = document("at", shop, "order", "ord-1", "10:32", *BERLIN)
    again = document("at", shop, "order", "ord-1", "--cut", json.dumps(told["cut"]))
    assert told["version"] == 2
    assert (again["version"], again["value"], again["cut"]) == (told["version"], told["value"], told["cut"])


def test_at_says_after_which_event_it_is(shop):
    assert "after OrderPaid evt-3, recorded 2026-03-12T10:32:00+01:00, at orders/0/2" in answer("at", shop, "order", "ord-1", "v2", *BERLIN)
    told = document("at", shop, "order", "ord-1", "v2")["event"]
    assert (told["event_id"], told["source"], told["happened_at"], told["at"]) == (
        "evt-3",
        "shop",
        "2026-03-12T09:31:00+00:00",
        "orders/0/2",
    )
    assert document("at", shop, "order", "ord-1", "v0")["event"] is None


def test_a_side_of_a_change_that_is_not_there_has_no_field(shop):
    changes = {change.pop("path"): change for change in document("diff", shop, "order", "ord-1", "v1", "v4")}
    assert changes["paid"] == {"after": True}
    assert changes["lines[1]"] == {"before": 2}
    assert document("diff", shop, "order", "[red]x", "v0", "v1")[1] == {"path": "note", "after": "[red]x"}


def test_equal_states_have_no_changes(shop):
    assert answer("diff", shop, "order", "ord-1", "v2", "v3").startswith("no changes\n")
    assert document("diff", shop, "order", "ord-1", "v2", "v3") == []


def test_a_zone_is_read_from_the_environment_too(shop, monkeypatch):
    monkeypatch.setenv("ESLAB_TZ", "Asia/Tokyo")
    assert "2026-03-12T18:30:00+09:00" in answer("history", shop, "order", "ord-1", "--at", "18:30")
    assert document("sql", shop, "select min(recorded_at) as t from events") == [{"t": "2026-03-12T18:30:00+09:00"}]


PROJECTION = """
import eslab
from beside import WORD

mine = eslab.Projection("mine", aggregate="order", version=2)

@mine.on("OrderCreated")
def created(state, event):
    print("a handler talks")
    return {"word": WORD}
"""


def test_a_projection_file_folds_and_imports_what_stands_beside_it(shop, tmp_path):
    (tmp_path / "beside.py").write_text("print('loading')\nWORD = 'folded'")
    (tmp_path / "mine.py").write_text(PROJECTION)
    for words in (["at", "v1"], ["history"], ["diff", "v0", "v1"]):
        result = run(words[0], shop, "order", "ord-1", *words[1:], "--projection", f"{tmp_path / 'mine.py'}:mine", "--json")
        assert result.exit_code == 0
        assert "folded" in str(json.loads(result.stdout))
        assert "a handler talks" in result.stderr
        del sys.modules["beside"]


# --- compare -----------------------------------------------------------------------------------------


@pytest.fixture
def projections(tmp_path) -> str:
    path = tmp_path / "orders.py"
    path.write_text("""
import eslab

v1 = eslab.Projection("orders", aggregate="order")
v1.on("OrderCreated", "OrderPaid", "OrderShipped")(lambda state, event: {**state, **event.data})
v2 = v1.copy(version=2)
v2.on("OrderPaid")(lambda state, event: {**state, "paid": "yes"})
v3 = v1.copy(version=3)
v3.on("OrderCreated")(lambda state, event: {"total": event.data["total"]})
other = eslab.Projection("other", aggregate="customer")
""")
    return str(path)


def test_compare_tells_the_keys_that_differ_and_the_first_event_and_exits_with_1(shop, projections):
    words = ["compare", shop, "order", "--left", f"{projections}:v1", "--right", f"{projections}:v2", *BERLIN]
    result = run(*words)
    assert (result.exit_code, result.stderr) == (1, "")
    assert "1 different" in result.stdout
    assert re.search(r"ord-1 +different +paid +2 +OrderPaid +evt-3 +2026-03-12T10:32:00\+01:00", result.stdout)
    again = result.stdout.splitlines()[-1].split()
    assert again[0] == "eslab"
    assert run(*again[1:]).stdout == result.stdout
    told = json.loads(run(*words, "--json").stdout)
    assert (told["counts"]["different"], told["keys"][0]["aggregate_id"], told["keys"][0]["paths"]) == (1, "ord-1", ["paid"])


def test_compare_exits_with_0_where_nothing_differs(shop, projections):
    words = ("compare", shop, "order", "--left", f"{projections}:v1", "--right", f"{projections}:v2")
    assert "0 different" in answer(*words, "--at", "2026-03-12T09:31:00Z")
    assert "1 equal" in answer(*words, "--key", "it's", "--ended")
    assert answer(*words, "--key", "ord-2", "--ended").splitlines()[-1].endswith("--ended --key ord-2")


def test_compare_tells_what_failed(shop, projections):
    result = run("compare", shop, "order", "--right", f"{projections}:v3", "--json", "--key", "-5", "--key", "it's")
    assert result.exit_code == 1
    told = json.loads(result.stdout)
    assert told["counts"]["failed_right"] == 2
    assert told["keys"][0]["problem"] == "right failed: KeyError: 'total'"
    assert told["keys"][0]["version"] is None
    assert "failed right  KeyError" in run("compare", shop, "order", "--right", f"{projections}:v3", "--key", "-5").stdout


def test_compare_refuses_what_makes_no_comparison(shop, projections):
    assert run("compare", shop, "order").exit_code == 2
    assert "folds 'customer', not 'order'" in refusal("compare", shop, "order", "--left", f"{projections}:other")
    assert "--right nope:v1: there is no file nope" in refusal("compare", shop, "order", "--right", "nope:v1")


# --- the same again

SHOWN = [
    ["find", "{shop}", "ord-1"],
    ["find", "{shop}", RED],
    ["history", "{shop}", "order", "ord-1", "--at", "10:32", *BERLIN],
    ["history", "{shop}", "order", "-5"],
    ["history", "{shop}", "order", "it's"],
    ["at", "{shop}", "order", "ord-1", "10:31", *BERLIN],
    ["at", "{shop}", "order", "ord-1", "10:31", *BERLIN, "--clock", "happened"],
    ["at", "{shop}", "order", "ord-1"],
    ["at", "{shop}", "order", RED, "--event", "evt-5"],
    ["at", "{shop}", "order", "ord-1", "--version", "3"],
    ["at", "{shop}", "order", "ord-1", "--cut", '{{"offsets":[{{"topic":"orders","partition":0,"incarnation":0,"next":3}}]}}'],
    ["diff", "{shop}", "order", "ord-1", "10:30", "v4", *BERLIN],
    ["diff", "{shop}", "order", "-5", "0", "1"],
    ["changes", "{shop}", "order", "it's"],
    ["explain", "{shop}", "order", "ord-1", "total", "--at", "10:32", *BERLIN],
    ["run-until", "{shop}", "order", "ord-1", "--changed", "total", "--after", "10:31", *BERLIN],
]


@pytest.mark.parametrize("words", SHOWN)
def test_the_last_line_is_the_command_that_shows_it_again(shop, words):
    named = [word.format(shop=shop) for word in words[: words.index("{shop}") + 1]]
    rest = [word.replace("{{", "{").replace("}}", "}") for word in words[len(named) :]]
    before, separator = (rest, []) if "-5" not in rest else ([], ["--"])
    shown = answer(named[0], *separator, *named[1:], *(before or rest))
    line = shown.splitlines()[-1]
    assert line.isprintable()
    told = subprocess.run(["bash", "-c", f"printf '%s\\0' {line}"], capture_output=True, check=True).stdout.decode().split("\0")[:-1]
    assert told[:2] == ["eslab", named[0]]
    assert answer(*told[1:]) == shown


def test_the_moment_in_it_is_absolute(shop):
    line = answer("at", shop, "order", "ord-1", "10:31", *BERLIN).splitlines()[-1]
    assert line == f"eslab at {shop} order ord-1 2026-03-12T10:31:00+01:00 --tz Europe/Berlin"
    assert answer("at", shop, "order", "ord-1").splitlines()[-1] == f"eslab at {shop} order ord-1 v4"


# --- hostile values

EVERYTHING = [
    ["info", "{shop}"],
    ["find", "{shop}", RED],
    ["find", "{shop}", "nobody" + RED],
    ["trace", "{shop}", "nobody" + RED],
    ["history", "{shop}", "order", RED],
    ["history", "{shop}", "order", "nobody" + RED],
    ["at", "{shop}", "order", RED],
    ["diff", "{shop}", "order", RED, "v0", "v1"],
    ["changes", "{shop}", "order", RED],
    ["history", "{shop}", "order", RED, "--watch", "note"],
    ["explain", "{shop}", "order", RED, "note"],
    ["explain", "{shop}", "order", RED, RED],
    ["run-until", "{shop}", "order", RED, "--changed", "note"],
    ["run-back-until", "{shop}", "order", RED, "--type", RED],
    ["what-if", "{shop}", "order", RED, "--drop", RED],
    ["what-if", "{shop}", "order", RED, "--edit", RED, RED, RED],
    ["what-if", "{shop}", "order", "--edit", RED, "data.note", "1", "--insert", RED],
    ["what-if", "{shop}", "order", "--duplicate", RED],
    ["events", "{shop}"],
    ["events", "{shop}", "--search", RED],
    ["events", "{shop}", "--topic", RED],
    ["sql", "{shop}", "from events"],
    ["sql", "{shop}", f"select 1 as \"{RED}\", '{RED}' as x"],
    ["sql", "{shop}", f"select error('{RED}')"],
    ["info", "{shop}/" + RED],
]


@pytest.mark.parametrize("words", EVERYTHING)
@pytest.mark.parametrize("form", [[], ["--json"]])
def test_no_value_steers_the_terminal(shop, words, form):
    result = run(*(word.format(shop=shop) for word in words), *form)
    assert result.output.replace("\n", "").isprintable()
    assert "defect" not in result.stderr


def test_no_value_colours_a_real_terminal(shop):
    shown = on_a_terminal(200, "sql", shop, "select aggregate_id, event_type from history order by 1")
    assert "\x1b[1m" in shown  # it is one: the heading is bold
    assert "\x1b[31m" not in shown
    assert "\\x1b[31mevil" in shown
    assert "[red]x" in shown


def test_markup_in_values_is_text(shop):
    assert "[red]x" in answer("at", shop, "order", "[red]x")
    assert "[bold]\\x1b[31mevil" in answer("history", shop, "order", RED)
    assert document("sql", shop, "select distinct aggregate_id as i from history where aggregate_id like '%evil'") == [{"i": RED}]


@given(st.text())
def test_shown_text_is_printable_and_keeps_what_was(text):
    shown = printable(text)
    assert shown.isprintable()
    assert shown == text or not text.isprintable()


# --- tables and SQL


def test_values_are_whole_where_nobody_says_how_wide_the_terminal_is(shop):
    long = "x" * 5000
    assert long in answer("sql", shop, f"select '{long}' as a, '{long}' as b")


def test_on_a_narrow_terminal_rows_stand_under_each_other_and_ids_stay_whole(shop):
    shown = re.sub(r"\x1b\[\d*m", "", on_a_terminal(80, "sql", shop, "from events order by record_offset limit 2"))
    assert re.search(r"^event_id +evt-1$", shown, re.MULTILINE)
    assert re.search(r"^recorded_at +2026-03-12T09:31:00\+00:00$", shown, re.MULTILINE)
    assert max(map(len, shown.splitlines())) <= 80


def test_a_table_holds_the_first_thousand_rows_and_says_so(shop):
    result = run("sql", shop, "from range(1001)")
    assert (result.exit_code, result.stderr) == (0, "eslab: these are the first 1,000 rows; --json gives them all\n")
    assert result.stdout.splitlines()[-1].strip() == "999"
    assert run("sql", shop, "from range(1000)").stderr == ""


def test_json_holds_every_row_in_one_list(shop):
    assert [row["range"] for row in document("sql", shop, "from range(10001)")] == list(range(10001))
    assert document("sql", shop, "select 1 where false") == []


def test_json_keeps_every_digit_and_says_what_is_no_text(shop):
    query = """select 1.10::decimal(4, 2) as d, 170141183460469231731687303715884105727::hugeint as h, 'nan'::double as n, '\\xFF'::blob as b, 'ok'::blob as t,
        '{"x": 1.10,\n "y": 123456789012345678901234567890}'::json as j, null as z, map{1: [2]} as m, timestamptz '2026-03-12 10:00+00' as at, date '2026-03-12' as day,
        timestamp '2000-03-12 10:00:00.5' as local, timestamp '2000-03-12 10:00:00.000007' as exact, [1.5::decimal(3, 1)] as l"""
    assert document("sql", shop, query) == [
        {
            "d": Decimal("1.10"),
            "h": 2**127 - 1,
            "n": None,
            "b": {"$base64": "/w=="},
            "t": "ok",
            "j": {"x": Decimal("1.10"), "y": 123456789012345678901234567890},
            "z": None,
            "m": {"1": [2]},
            "at": "2026-03-12T10:00:00+00:00",
            "day": "2026-03-12",
            "local": "2000-03-12T10:00:00.500",
            "exact": "2000-03-12T10:00:00.000007",
            "l": [Decimal("1.5")],
        }
    ]


def test_columns_of_one_name_are_told_apart_in_json(shop):
    assert document("sql", shop, "select 1 as a, 2 as a, 3 as a_2, 4 as a") == [{"a": 1, "a_2": 2, "a_2_2": 3, "a_3": 4}]


def test_a_query_comes_from_a_file_or_stdin_as_well(shop, tmp_path):
    query = tmp_path / "q.sql"
    query.write_text("select 'ünï' as x")
    assert "ünï" in answer("sql", shop, "-f", query)
    assert "ünï" in answer("sql", shop, "-f", "-", stdin=query.read_text())


def test_a_null_is_no_empty_text(shop):
    assert answer("sql", shop, "select null as a, '' as b, 1 as c").splitlines()[-1].split() == ["null", "1"]


# --- making and taking away


def test_a_snapshot_makes_the_lab_and_goes_on_from_there(tmp_path, orders):
    lab = tmp_path / "new"
    result = run("snapshot", lab, orders)
    assert result.exit_code == 0
    assert re.fullmatch(r"eslab: topic orders: .*\n", result.stderr)
    assert "300 records captured" in result.stdout
    assert "0 records captured; 300 in the lab" in answer("snapshot", lab, orders, "orders")


@pytest.mark.parametrize(
    ("bounds", "offsets"),
    [
        (["--stop", "100"], (0, 99)),
        (["--start", "250"], (250, 299)),
        (["--start", "orders:0=10", "--stop", "orders:0=20"], (10, 19)),
        (["--start", "2026-03-12T09:31:00Z", "--stop", "2026-03-12 10:32", *BERLIN], (60, 119)),
    ],
)
def test_a_snapshot_starts_and_stops_at_offsets_and_times(tmp_path, orders, bounds, offsets):
    assert run("snapshot", tmp_path / "new", orders, *bounds).exit_code == 0
    (row,) = document("sql", tmp_path / "new", "select min(record_offset) as low, max(record_offset) as high from records")
    assert (row["low"], row["high"]) == offsets


def test_bounds_that_do_not_go_together_are_wrong_usage(tmp_path, orders):
    assert run("snapshot", tmp_path / "new", orders, "--start", "10", "--start", "orders:0=20").exit_code == 2
    assert not (tmp_path / "new").exists()


def test_a_source_that_is_not_there_is_one_sentence(tmp_path):
    assert "is no file or folder" in refusal("snapshot", tmp_path / "new", tmp_path / "nowhere.jsonl")
    assert "write kafka://localhost:9092" in refusal("snapshot", tmp_path / "new", "localhost:9092")


def test_ctrl_c_ends_a_snapshot_that_follows_and_nothing_is_lost(tmp_path, orders):
    lab = tmp_path / "new"
    with process("snapshot", lab, orders, "--follow") as started:
        deadline = time.monotonic() + 60
        while not list(lab.glob("events/manifest-*")):
            assert time.monotonic() < deadline
            assert started.poll() is None
            time.sleep(0.05)
        started.send_signal(signal.SIGINT)
        out, err = started.communicate()
    assert (started.returncode, out) == (130, "")
    assert err.splitlines()[-1] == "eslab: stopped; all that was committed is kept, and the same command goes on from there"
    assert "Traceback" not in err
    assert document("info", lab)["topics"][0]["records"] == 300


def test_an_export_is_one_file_that_needs_nothing_else(copied, tmp_path):
    target = tmp_path / "out.duckdb"
    assert answer("export", copied, "--duckdb", target) == f"wrote {target}\n"
    shutil.rmtree(copied)
    with duckdb.connect(str(target), read_only=True) as con:
        assert con.execute("select count(*) from events").fetchone() == (9,)


def test_the_demo_is_made_as_asked_and_shown(shop, monkeypatch):
    asked = {}

    def demo(path, **options):
        asked.update(options, path=path)
        return eslab.Lab(shop)

    monkeypatch.setitem(sys.modules, "eslab.demo", SimpleNamespace(demo=demo))
    assert "12 records" in answer("demo", "here", "--events", "500", "--seed", "7", "--kafka", "localhost:9092")
    assert asked == {"path": "here", "events": 500, "seed": 7, "kafka": "localhost:9092", "progress": False}


# --- lag and throughput ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def demo(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("demo") / "shop"
    eslab.demo(folder, events=2_000, progress=False)
    return folder


def test_lag_says_since_when_how_long_and_how_far_and_how_to_see_it_again(demo):
    told = answer("lag", demo, "read-model", "--tz", "Europe/Berlin")
    assert "stood still from 2026-03-12 14:0" in told
    assert "caught up 2026-03-12 14:55:00 CET" in told
    assert told.splitlines()[-1] == f"eslab lag {demo} read-model --tz Europe/Berlin"
    found = document("lag", demo, "read-model", "--tz", "Europe/Berlin")
    assert {stall["topic"] for stall in found["stalls"]} == {"orders"}
    assert len(found["partitions"]) == 16


def test_lag_at_a_moment_and_over_time_in_the_shell(demo):
    words = ("lag", demo, "read-model", "--topic", "orders", "--topic", "payments", "--tz", "Europe/Berlin")
    told = answer(*words, "--at", "14:30")
    assert told.startswith("read-model at 2026-03-12 14:30:00 CET: ")
    assert told.splitlines()[-1] == (
        f"eslab lag {demo} read-model --topic orders --topic payments --at 2026-03-12T14:30:00+01:00 --tz Europe/Berlin"
    )
    assert len(document(*words, "--at", "14:30")) == 8
    over = answer(*words, "--every", "6h")
    assert [line.split()[0] for line in over.splitlines() if line.startswith("2026")][1:3] == [
        "2026-03-12T06:00:00+01:00",
        "2026-03-12T12:00:00+01:00",
    ]
    rows = document(*words, "--every", "6h")
    assert {row["known"] for row in rows} == {True, False}
    assert all(row["lag"] is None for row in rows if not row["known"])
    assert "--at is one moment" in run(*words, "--at", "14:30", "--every", "1m").output


def test_lag_without_a_group_tells_the_groups_and_a_wrong_one_too(demo):
    assert [row["group"] for row in document("lag", demo)] == ["billing", "read-model", "shipping"]
    assert "read-model" in answer("lag", demo)
    assert "it has billing, read-model, shipping" in refusal("lag", demo, "nobody")


def test_throughput_counts_by_topic_and_says_how_to_see_it_again(demo):
    words = ("throughput", demo, "orders", "--every", "6h", "--start", "06:00", "--tz", "Europe/Berlin")
    told = answer(*words)
    assert told.splitlines()[-1] == f"eslab throughput {demo} orders --every 6h --start 2026-03-12T06:00:00+01:00 --tz Europe/Berlin"
    rows = document(*words)
    assert [row["time"] for row in rows] == [f"2026-03-12T{hour}:00:00+01:00" for hour in ("06", "12", "18")]
    assert all(row["records"] > 0 for row in rows)
