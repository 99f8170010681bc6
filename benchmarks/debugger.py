"""`trace`, `sagas`, `around`, `find`, `what_if`, `explore`: the questions of an incident, each beside what one would write first: one query of DuckDB over the same files, or a whole replay."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import duckdb

from benchmarks.fold import status
from benchmarks.labs import flows
from benchmarks.report import begin, row
from eslab import Lab
from eslab.sql import literal

SIZES = (100_000, 1_000_000)
ROUNDS = 5
IDS = "event_id, correlation_id, causation_id, trace_id, span_id, parent_span_id, record_key, event_type, source"

Question = tuple[str, dict[str, Any], Callable[[], Any], str, Callable[[], Any]]
"""A row's name and parameters, what asks it of eslab, and what it stands beside."""


def run() -> None:
    for name in ("trace", "sagas", "around", "find", "what_if", "explore"):
        begin(name)
    for events in SIZES:
        lab = flows(events)
        files = ", ".join(literal(str(path)) for path in lab._now().paths)
        with duckdb.connect() as con:
            for name, params, ours, peer, theirs in _questions(
                lab, events, lambda query: con.sql(query.format(files=files)).to_arrow_table()
            ):
                mine, other = _medians(ours, theirs)
                row(name, mine, "ms", "lower", {"n": events, **params}, peer, other)


def _questions(lab: Lab, events: int, bare: Callable[[str], Any]) -> list[Question]:
    nth = events // 2 // 5 * 5 + 2  # the third event of a saga in the middle
    event, correlation = f"evt-{nth:012d}", f"corr-{nth // 5}"
    ((moment,),) = lab.sql("select order_at from events where event_id = $id", id=event).fetchall()
    explorer = lab.explore()
    page = explorer.page()
    rows = "read_parquet([{files}])"
    return [
        (
            "trace",
            {"of": "a saga"},
            lambda: lab.trace(event, done="OrderDelivered")._repr_html_(),
            "duckdb",
            lambda: bare(f"""with recursive tree as (
                select event_id, causation_id from {rows} where correlation_id = '{correlation}'
                union select next.event_id, next.causation_id from {rows} as next join tree on next.causation_id = tree.event_id or next.event_id = tree.causation_id
            ) select tree.*, event_type, order_at from tree join {rows} using (event_id)"""),
        ),
        (
            "sagas",
            {"done": "told"},
            lambda: lab.sagas(done="OrderDelivered").counts,
            "duckdb",
            lambda: (
                bare(f"""select correlation_id, count(*), arg_min(event_type, order_at), min(order_at), arg_max(event_type, order_at), max(order_at),
                bool_or(event_type = 'OrderDelivered') as ended from {rows} where first and kind = 'event' group by correlation_id order by ended, max(order_at)""")
            ),
        ),
        (
            "sagas",
            {"done": "learned"},
            lambda: lab.sagas().counts,
            "duckdb",
            lambda: bare(
                f"select event_type, count(distinct correlation_id) from {rows} where first and kind = 'event' group by event_type"
            ),
        ),
        (
            "around",
            {"within": "1s"},
            lambda: lab.around(moment, before="1s", after="1s")._repr_html_(),
            "duckdb",
            lambda: bare(f"""select * from {rows} where first and order_at between timestamptz '{moment}' - interval 1 second
                and timestamptz '{moment}' + interval 1 second order by order_at, topic, partition_id, record_offset"""),
        ),
        ("find", {"of": "an id"}, lambda: lab.find(correlation).df(), "duckdb", lambda: bare(_anywhere(rows, correlation))),
        ("find", {"of": "nothing"}, lambda: lab.find("nowhere").df(), "duckdb", lambda: bare(_anywhere(rows, "nowhere"))),
        (
            "what_if",
            {"of": "the world"},
            lambda: lab.what_if(status).drop(event, effects=True).compare()._repr_html_(),
            "one_replay",
            lambda: lab.replay(status, progress=False),
        ),
        ("explore", {"page": "first"}, lambda: lab.explore().page().rows(), "duckdb", lambda: bare(_page(rows))),
        (
            "explore",
            {"page": "next"},
            lambda: explorer.page(page.next).rows(),
            "duckdb",
            lambda: bare(_page(rows, "offset 50")),
        ),
        (
            "explore",
            {"page": "a search"},
            lambda: lab.explore(search=correlation).page().rows(),
            "duckdb",
            lambda: bare(_page(rows, where=f"and contains(concat_ws(' ', {IDS}, data, metadata), '{correlation}')")),
        ),
    ]


def _anywhere(rows: str, text: str) -> str:
    return f"select count(*) from {rows} where first and ('{text}' in (aggregate_id, {IDS}) or contains(data, '\"{text}\"') or contains(metadata, '\"{text}\"'))"


def _page(rows: str, more: str = "", where: str = "") -> str:
    return f"select *, count(*) over () as total from {rows} where first {where} order by order_at, topic, partition_id, record_offset limit 50 {more}"


def _medians(ours: Callable[[], Any], theirs: Callable[[], Any]) -> tuple[float, float]:
    """Milliseconds of both in turn, after one time that is not counted."""
    times: tuple[list[float], list[float]] = ([], [])
    for nth in range(ROUNDS + 1):
        for ask, kept in zip((ours, theirs), times, strict=True):
            began = time.perf_counter()
            ask()
            if nth:
                kept.append((time.perf_counter() - began) * 1000)
    return statistics.median(times[0]), statistics.median(times[1])
