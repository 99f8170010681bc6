"""How every object shows itself: a short repr, HTML that reads without CSS, tables; and what is hostile shows as text."""

from __future__ import annotations

import html.parser
import json
import shutil
import tempfile
import time
import weakref
from decimal import Decimal
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest

import eslab
from eslab import Record, replay
from eslab.model import dumps
from eslab.sources.memory import MemorySource

HOSTILE = {
    "script": "<script>alert(1)</script>",
    "image": "<img src=x onerror=alert(1)>",
    "link": "[x](javascript:alert(1)) javascript:alert(1)",
    "quotes": "\"'><b onmouseover=alert(1)>",
    "closing": "</td></table></details><h1>mine</h1>",
    "turned": "a\u202egnp.exe\u2066",
    "invisible": "a\u200bb\u00ad\ufeff",
    "controls": "\x1b[31mred\x07\x00",
    "lines": "one\ntwo\r\u2028three",
    "entity": "&lt;script&gt;&#0;",
}
HALF = "\ud800 half"  # JSON cannot bring it, a handler can make it
EXACT = {"big": 2**53 + 1, "bigger": 10**40 + 7, "price": Decimal("1.10")}


def views(text: str) -> dict[str, Any]:
    """Everything that shows itself, made of this text wherever a record, a handler or a caller can bring it."""
    payload = {
        "eventId": text,
        "timestamp": 0,
        "eventType": text,
        "source": text,
        "correlationId": text,
        "data": {"orderId": text, text: text, "n": text},
    }
    values = [dumps(payload), dumps({**payload, "data": {"orderId": text, "n": {text: [text]}}}), b"{broken", None]
    records = [Record(topic="orders", timestamp_ms=1000 * (at + 1), key=text.encode(), value=value) for at, value in enumerate(values[:3])]
    lab = eslab.play(records[:2])
    other = eslab.Projection(text, aggregate="order")
    other.on(text)(lambda state, event: {**state, **EXACT, HALF: HALF, "also": text})
    failing = eslab.Projection(f"{text} failing", aggregate="order")

    @failing.on(text)
    def failed(state: Any, event: Any) -> Any:
        if state:
            raise ValueError(text)
        return {"n": text}

    h = lab.history("order", text)
    left = eslab.Projection("left", aggregate="order")
    left.on(text)(lambda state, event: {**state, **EXACT, "also": text, "n": event.data["n"]})
    right = left.copy(version=2)
    right.on(text)(lambda state, event: {**state, **EXACT, "also": HALF.replace("\ud800", "x"), "n": text})
    compared, broken = lab.compare(left, right, progress=False), lab.compare(left, failing, progress=False)
    never = eslab.Invariant(text, "order", lambda state: False)
    taken = lab.snapshot(MemorySource([]), progress=False)
    dead = lab_of_dead_letters(text, values)
    supposed = (
        lab.what_if(h)
        .edit(text, {"type": f"{text}!", f"data.{dumps(text).decode()}": text})
        .insert({**payload, "eventId": f"{text}?"}, key=text)
    )
    lab.bookmark(text, at=lab.cut(event_id=text))
    return {
        "lab": lab,
        "info": lab.info(),
        "snapshot": taken,
        "gaps": lab.gaps(),
        "found": lab.find(text),
        "nothing found": lab.find(text + "?"),
        "verification": lab.verify(progress=False),
        "history": h,
        "blame": h.blame(),
        "explanation": h.explain("orderId"),
        "firsts": lab.first("order", bool, progress=False),
        "first": lab.first("order", bool, progress=False).first,
        "invariant": never,
        "check": lab.check(never, progress=False),
        "violations": lab.check(never, progress=False)[text],
        "violation": lab.check(never, progress=False)[text][0],
        "failed check": lab.check(eslab.Invariant(text, failing, bool), progress=False),
        "failed history": lab.history("order", text, projection=failing),
        "half history": lab.history("order", text, projection=other),
        "step": h[-1],
        "failed step": lab.history("order", text, projection=failing)[-1],
        "event": h[-1].event,
        "state": h.at(),
        "half state": lab.history("order", text, projection=other).at(),
        "changes": h.diff(0, 2),
        "half changes": lab.history("order", text, projection=other).diff(0, 2),
        "change": h.diff(0, 2)[0],
        "cut": lab.cut(event_id=text),
        "bookmarks": lab.bookmarks,
        "late": lab.late(min="0s"),
        "trace": lab.trace(text),
        "traced": lab.trace(text)[0],
        "caused trace": eslab.play([{**payload, "causationId": f"{text} outside"}]).trace(text, done=text),
        "sagas": lab.sagas(stuck_after=0),
        "around": lab.around(event_id=text),
        "explorer": lab.explore(search=text),
        "page": lab.explore(aggregate="order", aggregate_id=text).page(),
        "duplicates": lab.duplicates(),
        "duplicate": lab.duplicates()[0],
        "dead letters": dead.dead_letters(),
        "dead letter": dead.dead_letters()[0],
        "no dead letters": lab.dead_letters(),
        "what if": supposed,
        "timelines": supposed.compare(),
        "half timelines": lab.what_if(lab.history("order", text, projection=other)).drop(("orders", 0, 0)).compare(),
        "failed timelines": lab.what_if(lab.history("order", text, projection=failing)).drop(("orders", 0, 1)).compare(),
        "pair": supposed.compare()[0],
        "world what if": lab.what_if("order").drop(text),
        "world timelines": lab.what_if(failing).duplicate(text).compare(),
        "world": lab.replay("order", progress=False),
        "sql world": lab.replay(eslab.SqlProjection(text, "select event_id, data from events")),
        "failed world": lab.replay(failing, progress=False),
        "exact world": lab.replay(left, progress=False),
        "plan": replay.plan(lab._now(), other, h.selection),
        "projection": other,
        "comparison": compared,
        "difference": compared[text],
        "divergence": compared[text].divergence,
        "failed comparison": broken,
        "failed difference": broken[text],
    }


def lab_of_dead_letters(text: str, values: list[bytes | None]) -> eslab.Lab:
    """One with this text in every header that a letter tells of."""
    told = [(name, text.encode()) for name in ("original.topic", "original.partition", "original.offset", "error", "retry.attempt")]
    letters = [
        Record(topic="dead-letters", timestamp_ms=at, key=text.encode(), value=one, headers=tuple(told)) for at, one in enumerate(values)
    ]
    folder = Path(tempfile.mkdtemp())
    lab = eslab.Lab(folder / "lab", say=lambda notice: None)
    weakref.finalize(lab, shutil.rmtree, folder, ignore_errors=True)
    lab.snapshot(MemorySource(letters), progress=False)
    return lab


ALLOWED = {
    "table",
    "thead",
    "tbody",
    "tr",
    "th",
    "td",
    "p",
    "span",
    "strong",
    "mark",
    "del",
    "ins",
    "details",
    "summary",
    "code",
    "br",
    "ol",
    "li",
    "pre",
}


class Reader(html.parser.HTMLParser):
    """What a browser would make of it: tags and their attributes, and the text."""

    def __init__(self) -> None:
        super().__init__()
        self.odd: list[str] = []
        self.text = ""

    def handle_starttag(self, tag, attrs):
        if tag not in ALLOWED or any(name not in ("align", "style", "open", "nowrap") for name, _ in attrs):
            self.odd.append(f"{tag} {attrs}")

    def handle_comment(self, data):
        self.odd.append(data)

    def handle_data(self, data):
        self.text += data


INVISIBLE = "\u202e\u2066\u200b\u00ad\ufeff\x1b\x07\x00\u2028\ud800"


@pytest.fixture(scope="module", params=[*HOSTILE], name="made")
def _made(request) -> tuple[str, dict[str, Any]]:
    text = HOSTILE[request.param]
    return text, views(text)


def shown(view: Any) -> str:
    return view._repr_html_() if hasattr(view, "_repr_html_") else ""


def test_whatever_is_hostile_shows_as_text_in_every_view(made):
    _, every = made
    for name, view in every.items():
        page = Reader()
        page.feed(shown(view))
        page.close()
        assert page.odd == [], name
        assert not set(INVISIBLE) & set(shown(view)), name
        shown(view).encode()


def test_no_repr_holds_what_steers_a_terminal_or_breaks_utf_8(made):
    _, every = made
    for name, view in every.items():
        repr(view).encode()
        assert not set(INVISIBLE) & set(repr(view)), name


def test_the_widget_of_a_comparison_gets_hostile_text_as_text(made):
    from eslab.views import compare as drawn

    _, every = made
    widget = drawn._widget(every["comparison"]._view())

    def walk(one: Any) -> Any:
        yield one
        for child in getattr(one, "children", ()):
            yield from walk(child)

    for one in walk(widget):
        page = Reader()
        page.feed(getattr(one, "value", None) or "" if type(one).__name__ == "HTML" else "")
        assert page.odd == []
        if type(one).__name__ == "Select":
            assert not set(INVISIBLE) & set("".join(one._options_labels))


def test_every_object_has_a_face_and_the_tabular_ones_have_tables(made):
    _, every = made
    for name, view in every.items():
        assert shown(view) or name == "change", name
        assert len(repr(view)) < 3000, name
    for name in (
        "info",
        "gaps",
        "found",
        "verification",
        "history",
        "blame",
        "firsts",
        "page",
        "duplicates",
        "dead letters",
        "no dead letters",
        "timelines",
        "world timelines",
        "changes",
        "trace",
        "caused trace",
        "sagas",
        "around",
        "cut",
        "world",
        "comparison",
        "failed comparison",
    ):
        frame, table = every[name].df(), every[name].arrow()
        assert isinstance(frame, pd.DataFrame)
        assert isinstance(table, pa.Table)
        assert len(frame) == table.num_rows, name
        assert table.num_columns >= len(frame.columns) or name == "world", name


def test_numbers_past_2_to_53_and_decimals_are_shown_exactly():
    every = views("plain")
    for name in ("half state", "half changes", "comparison", "difference", "half history"):
        page = shown(every[name])
        for number in (str(2**53 + 1), str(10**40 + 7), "1.10"):
            assert number in page, name


def test_a_table_of_a_history_and_of_changes_keeps_them_too():
    every = views("plain")
    assert str(10**40 + 7) in every["comparison"].arrow()["left"][0].as_py()
    table = every["changes"].arrow()
    assert table.column_names == ["path", "before", "after"]
    assert table["before"][0].as_py() is None
    assert json.loads(every["history"].arrow()["state"][-1].as_py())["orderId"] == "plain"


def test_a_state_of_five_megabytes_gives_a_small_view_quickly():
    large = {"orderId": "o", "text": "x" * 2_500_000, "many": list(range(300_000)), **{f"field {at}": at for at in range(2000)}}
    lab = eslab.play([{"eventType": "Made", "data": large}, {"eventType": "Changed", "data": {"orderId": "o", "text": "y" * 2_500_000}}])
    right = eslab.Projection("right", aggregate="order")
    right.on("Made", "Changed")(lambda state, event: {**state, **event.data, "many": [], "text": "z" * 2_500_000})
    h = lab.history("order", "o")
    compared = lab.compare("order", right, progress=False)
    every = [h, h[0], h[-1], h[0].event, h.at(), h.diff(0, 2), lab.replay("order", progress=False), compared, compared["o"], lab]
    for view in every:
        began = time.process_time()
        page, plain = shown(view), repr(view) if not hasattr(view, "changes") else ""
        assert time.process_time() - began < 10, view.__class__
        assert len(page) < 200_000, view.__class__
        assert len(plain) < 10_000 or view.__class__.__name__ == "Changes", view.__class__


def test_columns_of_text_stand_to_the_left_and_numbers_to_the_right():
    from eslab.views import tables

    page = tables.html(["name", "count"], [["a", 1], ["b", 2]])
    assert '<td align="left" style="text-align:left">a</td><td>1</td>' in page


def test_a_long_table_says_how_much_more_there_is():
    from eslab.views import tables

    page = tables.html(["n"], ([at] for at in range(1234)))
    assert page.count("<tr>") == 201
    assert "and 1,034 rows more" in page


def test_in_a_crowded_table_a_time_folds_after_its_day_and_what_is_short_not_at_all():
    from eslab.views import tables

    row = ["2026-03-12 14:05:14.176 CET", "42 min 46 s", "evt-4638-40", "GatewayTimeout: gave up after 3 attempts"]
    crowded = tables.html("abcdefg", [[*row, "", "", ""]])
    assert '<td align="left" style="text-align:left">2026-03-12 <span style="white-space:nowrap">14:05:14.176 CET</span></td>' in crowded
    for short in row[1:3]:
        assert f'white-space:nowrap">{short}</td>' in crowded
    assert f'text-align:left">{row[3]}</td>' in crowded
    assert f'white-space:nowrap">{row[0]}</td>' in tables.html("abcd", [row])


def test_a_rare_column_is_left_out_where_nothing_stands_in_it():
    from eslab.views import tables

    assert "marks" not in tables.html(["id", "marks"], [["a", ""], ["b", ""]], rare={"marks"})
    assert "marks" in tables.html(["id", "marks"], [["a", ""], ["b", "odd"]], rare={"marks"})
    assert "marks" in tables.html(["id", "marks"], [["a", ""], ["b", ""]])


def test_a_cut_has_a_row_for_each_partition():
    lab = eslab.play([{"eventType": "X", "data": {"aId": "1"}}])
    cut = lab.cut()
    assert cut.df().to_dict("records") == [{"topic": "events", "partition": 0, "incarnation": 0, "next": 1}]
    assert cut.arrow().num_rows == 1
    assert "events[0]" in cut._repr_html_()
