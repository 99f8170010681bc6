"""The records of a lab, leafed through: which ones, on which page, and how much was searched for them."""

import json
import random
import subprocess
from unittest.mock import patch

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from logs import captured, few, logs, made
from oracle import Oracle

import eslab
from eslab import cli, paging
from eslab.again import again
from eslab.errors import MomentError, NaiveTime, UnknownEvent, UnknownId, UnknownTopic
from eslab.model import dumps
from eslab.paging import SEARCHED_IN, Wanted, find_page
from eslab.views.explorer import widget

NOON = 1_767_268_800_000  # 2026-01-01 12:00:00 UTC
RED = "\x1b[31mred"
HOSTILE = f"<img src=x onerror=alert(1)>{RED} 'n\"\\"


def record(at_s, order, kind="Changed", *, topic="orders", broken=False, none=False, **data):
    payload = {"eventId": f"e{at_s}", "eventType": kind, "source": "app", "correlationId": f"flow-{order}"}
    value = dumps({**payload, "data": {"orderId": order, **data}, "metadata": {"host": f"web-{at_s % 2}"}})
    value = b"{" if broken else None if none else value
    return eslab.Record(topic=topic, key=order.encode(), timestamp_ms=NOON + round(at_s * 1000), value=value)


RULES = """
format_version = 1

[topics.orders]
envelope = "default"
aggregates = [{ name = "order", id = "data.orderId" }, { name = "item", id = "data.items[]" }]

[topics.parcels]
envelope = "default"
aggregates = [{ name = "order", id = "data.orderId" }]
"""


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    from eslab.sources.memory import MemorySource

    folder = tmp_path_factory.mktemp("labs") / "it's a shop"
    folder.mkdir()
    (folder / "lab.toml").write_text(RULES)
    made = eslab.Lab(folder, tz="Europe/Berlin", say=lambda notice: None)
    records = [
        record(0, "o1", "Created", items=["i1", "i2"]),
        record(1, "o2", "Created", items=["i1"], text='say "no"\n/'),
        record(2, "o1", "Paid"),
        record(2, "o1", "Sent", topic="parcels"),
        record(3, "o3", broken=True),
        record(4, "o2", none=True),
        record(5, HOSTILE, HOSTILE, text=HOSTILE),
        record(6, "-5"),
    ]
    made.snapshot(MemorySource(records), progress=False)
    return made


def places(page):
    return [row["at"] for row in page.rows()]


def test_all_records_are_there_in_the_labs_order_with_all_that_they_belong_to(lab):
    page = lab.explore().page()
    assert places(page) == ["orders/0/0", "orders/0/1", "orders/0/2", "parcels/0/0", *(f"orders/0/{at}" for at in range(3, 7))]
    assert page.said == "1 to 8 of 8 records"
    assert page.next is None
    told = page.df()
    assert list(told["aggregates"][:6]) == [
        "item i1, item i2, order o1",
        "item i1, order o2",
        "order o1",
        "order o1",
        "order o3",
        "order o2",
    ]
    assert list(told["kind"][3:6]) == ["event", "undecodable", "tombstone"]
    assert [row["event"] for row in page.rows()][3:6] == ["Sent", "(undecodable)", "(tombstone)"]
    assert page.rows()[4]["told"] == list(told["problem"])[4] == "Input data was truncated"
    assert str(told["recorded_at"].dt.tz) == "Europe/Berlin"
    assert page.arrow().num_rows == len(page) == 8


@pytest.mark.parametrize(
    ("asked", "wanted"),
    [
        ({"topic": "parcels"}, ["parcels/0/0"]),
        ({"aggregate": "item"}, ["orders/0/0", "orders/0/1"]),  # the first one once, though it belongs to two
        ({"aggregate": "item", "aggregate_id": "i2"}, ["orders/0/0"]),
        ({"aggregate_id": "o2"}, ["orders/0/1", "orders/0/4"]),
        ({"event_type": "Created", "aggregate_id": "i1", "newest": True}, ["orders/0/1", "orders/0/0"]),
        ({"event_type": "(tombstone)"}, ["orders/0/4"]),
        ({"event_type": "(undecodable)"}, ["orders/0/3"]),
        ({"start": "13:00:02", "stop": "13:00:04"}, ["orders/0/2", "parcels/0/0", "orders/0/3"]),  # Berlin's time; the stop is exclusive
        ({"search": "flow-o1"}, ["orders/0/0", "orders/0/2", "parcels/0/0"]),
        ({"search": "web-1", "topic": "orders"}, ["orders/0/1", "orders/0/5"]),
        ({"search": 'say "no"\n/'}, ["orders/0/1"]),  # as it is
        ({"search": '"text":"say \\"no'}, ["orders/0/1"]),  # as JSON writes it
        ({"search": HOSTILE}, ["orders/0/5"]),
        ({"search": "%"}, []),
        ({"search": "\ud800"}, []),
        ({"aggregate_id": "nobody"}, []),
        ({"topic": "", "search": "", "start": "", "event_type": "Paid"}, ["orders/0/2"]),
    ],
)
def test_a_record_must_fit_all_that_is_asked_for(lab, asked, wanted):
    page = lab.explore(**asked).page()
    assert places(page) == wanted
    assert page.next is None


def test_a_page_goes_on_behind_the_one_before_and_says_which_of_how_many_it_shows(lab):
    explorer = lab.explore(topic="orders")
    first = explorer.page(limit=3)
    second = explorer.page(first.next, limit=3)
    last = explorer.page("orders/0/5", limit=3)
    assert (first.said, second.said, last.said) == ("1 to 3 of 7 records", "4 to 6 of 7 records", "7 to 7 of 7 records")
    assert str(first.next) == "orders/0/2"
    assert [*places(first), *places(second), *places(last)] == [f"orders/0/{at}" for at in range(7)]
    assert last.next is None
    assert explorer.page(("orders", 0, 6)).said == "nothing behind the last of 7 records"
    assert lab.explore(event_type="None such").page().said == "no record fits"


@pytest.mark.parametrize("asked", [{}, {"search": "e"}, {"aggregate": "item", "newest": True}])
def test_what_fits_is_counted_once_for_all_pages_in_whatever_order_they_are_turned(lab, asked):
    def turned(explorer):
        pages = [explorer.page(limit=2)]
        while pages[-1].next:
            pages.append(explorer.page(pages[-1].next, limit=2))
        return [page.said for page in pages]

    explorer = lab.explore(**asked)
    with patch.object(paging, "_count", wraps=paging._count) as count:
        said = turned(explorer)
        counted = count.call_count
        assert (
            counted == 1 if "search" not in asked else counted <= len(said)
        )  # where a page of a search ends tells not how many it passed over
        assert turned(explorer) == said
        assert count.call_count == counted
    assert [lab.explore(**asked).page(limit=2).said] == said[:1]
    explorer._answer({"topic": "parcels"}, None)
    assert turned(explorer) == said


def test_a_search_says_how_much_it_looked_through_and_the_next_page_goes_on_there(lab):
    with patch.object(paging, "LOOKED", 3):
        explorer = lab.explore(search="e6")
        pages = [explorer.page()]
        while pages[-1].next:
            pages.append(explorer.page(pages[-1].next))
    assert [len(page) for page in pages] == [0, 0, 1]
    assert pages[0].said == "0 records with 'e6'; looked through 1 to 4 of 8; 4 are not looked through yet, the next page goes on there"
    assert pages[-1].said.endswith("looked through 8 to 8 of 8")
    assert lab.explore(search="e").page(limit=2).said == "8 records with 'e', here the first 2; looked through all 8".replace(
        "8 records", "7 records"
    )


def test_what_is_not_in_the_lab_is_one_sentence(lab, tmp_path):
    with pytest.raises(UnknownTopic, match="no topic 'nope'; it has orders, parcels"):
        lab.explore(topic="nope").page()
    with pytest.raises(UnknownId, match="no captured event belongs to an aggregate 'nope'"):
        lab.explore(aggregate="nope").page()
    with pytest.raises(UnknownEvent):
        lab.explore().page("orders/0/99")
    with pytest.raises(MomentError, match="'here' is no place of a record"):
        lab.explore().page("here")
    with pytest.raises(MomentError, match="is no time"):
        lab.explore(start="soon")
    with pytest.raises(NaiveTime):
        eslab.Lab(tmp_path / "none").explore(start="2026-01-01 12:00")
    assert eslab.Lab(tmp_path / "none").explore(search="x").page().said == "no record fits"


# --- the same in the shell


@pytest.mark.parametrize(
    "asked",
    [
        {},
        {"topic": "orders", "event_type": "Created", "newest": True},
        {"aggregate": "order", "aggregate_id": "-5"},
        {"aggregate": "order", "aggregate_id": HOSTILE},
        {"start": "13:00:01", "stop": "13:00:05.001", "search": "o"},
        {"search": 'say "no"\n'},
        {"event_type": "(tombstone)"},
    ],
)
def test_the_line_of_shell_shows_the_same_rows_again(lab, asked):
    first = lab.explore(**asked).page(limit=2)
    for page in filter(None, [first, first.next and lab.explore(**asked).page(first.next, limit=2)]):
        assert page.again.isprintable()
        told = (
            subprocess.run(["bash", "-c", f"printf '%s\\0' {page.again}"], capture_output=True, check=True).stdout.decode().split("\0")[:-1]
        )
        assert told[:3] == ["eslab", "events", str(lab.path)]
        shown = CliRunner().invoke(cli.main, told[1:], prog_name="eslab")
        assert (shown.exit_code, shown.stderr) == (0, "")
        assert shown.stdout.splitlines()[0] == page.said
        assert shown.stdout.splitlines()[-1] == page.again
        assert shown.stdout.replace("\n", "").isprintable()
        document = json.loads(CliRunner().invoke(cli.main, [*told[1:], "--json"], prog_name="eslab").stdout)
        assert [f"{row['topic']}/{row['partition_id']}/{row['record_offset']}" for row in document] == places(page)
        for row, mine in zip(document, page.arrow().to_pylist(), strict=True):
            assert row["data"] == (None if mine["data"] is None else json.loads(mine["data"]))
            assert row["aggregates"] == mine["aggregates"]


def test_the_shell_says_where_the_next_page_begins(lab):
    def run(*words):
        return CliRunner().invoke(cli.main, ["events", str(lab.path), *words], prog_name="eslab")

    assert "the next page: --after orders/0/1" in run("--limit", "2").stdout.splitlines()
    assert run("--limit", "2", "--json").stderr == "eslab: 1 to 2 of 8 records; the next page: --after orders/0/1\n"
    assert run("--limit", "0").exit_code == 2
    refused = run("--topic", "nope")
    assert (refused.exit_code, refused.stdout) == (1, "")
    assert refused.stderr == "eslab: the lab has no topic 'nope'; it has orders, parcels\n"


# --- as a widget and without one


def test_the_widget_answers_what_its_page_asks_and_opens_the_stepper_at_the_step_of_a_row(lab):
    explorer, below = widget(lab.explore(topic="orders")._view()).children
    assert explorer._asked["filters"]["topic"] == "orders"
    assert explorer._told["said"] == "1 to 7 of 7 records"
    explorer._asked = {"number": 1, "filters": {"search": "o2"}, "trail": ["orders/0/0"]}
    assert [row["at"] for row in explorer._told["rows"]] == ["orders/0/1", "orders/0/4"]
    explorer._asked = {"number": 2, "filters": {"start": "soon"}, "trail": []}
    assert explorer._told == {
        "number": 2,
        "problem": "'soon' is no time; write it like 2026-03-12T10:31:00+01:00, or 10:31 in a lab of one day",
    }

    explorer._open = {"number": 1, "aggregate": "order", "id": "o1", "at": "orders/0/2"}
    (stepper,) = below.children
    assert (stepper.position, stepper.state.value["orderId"]) == (2, "o1")
    assert explorer._opened == {"number": 1, "at": "orders/0/2", "what": "order o1"}
    assert stepper._steps.line_at(2) == again("at", str(lab.path), "order", "o1", "v2", tz="Europe/Berlin")
    explorer._open = {"number": 2, "aggregate": "order", "id": "gone", "at": "orders/0/2"}
    assert "no captured event belongs to order 'gone'" in explorer._opened["problem"]
    assert below.children == (stepper,)


def test_where_no_widget_can_run_the_first_page_is_a_table_with_the_line(lab):
    bundle = lab.explore()._repr_mimebundle_()
    assert set(bundle) == {"text/plain", "text/html", "application/vnd.jupyter.widget-view+json"}
    assert bundle["text/plain"] == "<Explorer: 1 to 8 of 8 records>"
    assert "<code>eslab events " in bundle["text/html"]
    assert "<img" not in bundle["text/html"]
    assert "\\u001b[31mred" in bundle["text/html"]


def test_the_first_that_a_row_belongs_to_is_what_was_asked_for_or_what_it_is_keyed_by(lab):
    def first(**asked):
        return lab.explore(**asked).page().rows()[0]["belongs"][0]

    assert first() == ["order", "o1"]  # its key
    assert first(aggregate="item") == ["item", "i1"]
    assert first(aggregate_id="i2") == ["item", "i2"]
    assert first(search="i2") == ["item", "i2"]
    rows = eslab.play([{"eventType": "T", "data": {"anId": "k", "n": at}} for at in range(2)]).explore().page().rows()
    assert [(row["named"], row["more"]) for row in rows] == [("an k", 0)] * 2


def test_an_excerpt_shows_what_was_searched_for_and_names_what_has_no_column():
    toy = eslab.play([{"eventType": "T", "correlationId": "flow-1", "data": {"anId": "a", "text": "x" * 300 + "needle" + "y" * 300}}])
    (far,) = toy.explore(search="needle").page().rows()
    assert far["told"].startswith("…")
    assert "needle" in far["told"]
    assert len(far["told"]) < 200
    (named,) = toy.explore(search="flow-1").page().rows()
    assert named["told"] == "correlation_id: flow-1"


# --- as an oracle has it ------------------------------------------------------------------------


def texts_of(lab):
    """What is searched in of each record, by its place, read in SQL: all of the newest incarnations."""
    sources = [f"select topic, partition_id, record_offset, {', '.join(SEARCHED_IN).replace('problem', 'null')} from events"]
    sources += ["select topic, partition_id, record_offset, record_key, problem from problems"]
    found = {}
    for query in sources:
        for topic, partition, offset, *texts in lab.sql(query).fetchall():
            found[topic, partition, offset] = [text for text in texts if text is not None]
    return found


def fits(event, texts, wanted):
    """Whether a record fits, the plain way."""
    named = event.parts["event_type"] if event.kind == "event" else f"({event.kind})"
    keys = [key for key in event.keys if wanted.aggregate in (None, key[0]) and wanted.aggregate_id in (None, key[1])]
    return (
        wanted.topic in (None, event.life[0])
        and (bool(keys) or (wanted.aggregate is None and wanted.aggregate_id is None))
        and wanted.event_type in (None, named)
        and (wanted.start is None or event.order_at >= wanted.start)
        and (wanted.stop is None or event.order_at < wanted.stop)
        and (wanted.search is None or any(wanted.search in text for text in texts))
    )


def drawn(chance, log, texts):
    """Something to ask for, mostly of what is there."""
    one, other = chance.choice(log), chance.choice(log)
    aggregate, aggregate_id = chance.choice(one.keys or [(None, "a")])
    words = texts or ["a"]
    word = chance.choice(words)
    begin = chance.randrange(max(1, len(word)))
    piece = word[begin : begin + chance.randint(1, 4)].replace('"', "").replace("\\", "") or "e"
    options = {
        "topic": one.life[0],
        "aggregate": aggregate,
        "aggregate_id": aggregate_id,
        "event_type": chance.choice([one.parts["event_type"], "(tombstone)", "(undecodable)"]),
        "start": min(one.order_at, other.order_at),
        "stop": max(one.order_at, other.order_at),
        "search": piece if piece.isprintable() else None,
    }
    return Wanted(**{name: value for name, value in options.items() if chance.random() < 0.35}, newest=chance.random() < 0.5)


class Plain:
    """The records of a lab, and the slow and obvious answer to what is asked."""

    def __init__(self, lab):
        self.log, self.texts = Oracle(lab.path).log, texts_of(lab)
        self.every = sorted({text for told in self.texts.values() for text in told})

    def fitting(self, wanted):
        order = self.log[::-1] if wanted.newest else self.log
        return [event for event in order if fits(event, self._texts(event), wanted)]

    def _texts(self, event):
        topic, partition, _ = event.life
        return self.texts.get((topic, partition, event.offset), [event.key_text] if event.key_text else [])

    def keys(self, place):
        return next(sorted(event.keys) for event in self.log if (*event.life, event.offset) == place)


def place(row):
    return row["topic"], row["partition_id"], row["incarnation"], row["record_offset"]


def hold(events, plain, wanted, *, most, looked):
    """That all pages together are what fits, and that each says truly what it is."""
    but_search = Wanted(**{name: getattr(wanted, name) for name in Wanted.__slots__ if name != "search"})
    candidates, expected = plain.fitting(but_search), plain.fitting(wanted)
    seen, after, begin = [], None, 0
    with patch.object(paging, "LOOKED", looked):
        while True:
            found = find_page(events, wanted, after, most=most)
            stretch = candidates[begin : begin + found.searched]
            assert (found.total, found.before, len(stretch)) == (len(candidates), begin, found.searched), wanted
            assert found.found == sum(event in expected for event in stretch), wanted
            assert found.searched >= min(looked if wanted.search is not None else len(candidates), len(candidates) - begin), wanted
            for row in found.rows.to_pylist():
                seen.append(place(row))
                assert [(one["aggregate"], one["aggregate_id"]) for one in row["aggregates"]] == plain.keys(seen[-1]), wanted
            if found.next is None:
                break
            after = found.next
            begin = 1 + next(at for at, event in enumerate(candidates) if (*event.life, event.offset) == after)
    assert seen == [(*event.life, event.offset) for event in expected], wanted


def hold_some(lab, chance, rounds):
    plain, events = Plain(lab), lab._now()
    for _ in range(rounds):
        hold(events, plain, drawn(chance, plain.log, plain.every), most=chance.randint(1, 7), looked=chance.choice([2, 5, 1000]))


@few(3)
@given(logs(30), st.integers(0, 2**32))
def test_the_pages_of_made_logs_hold_what_a_plain_filter_finds(tmp_path_factory, log, seed):
    hold_some(captured(tmp_path_factory.mktemp("lab") / "lab", log), random.Random(seed), 4)


BUGS = {
    "rows for records": ("_one_row_each", lambda events: True),
    "equal times in another order": ("_order", lambda *, newest: "order_at desc, topic" if newest else "order_at, topic desc"),
    "some texts not searched": ("SEARCHED_IN", SEARCHED_IN[:3]),
}


@pytest.mark.parametrize("bug", BUGS)
def test_the_plain_filter_notices_a_planted_bug(tmp_path_factory, bug):
    lab = captured(tmp_path_factory.mktemp("lab") / "lab", made(40, 1))
    with patch.object(paging, *BUGS[bug]), pytest.raises(AssertionError):
        hold_some(lab, random.Random(1), 100)
