"""SQL projections as of a selection, held against plain loops over the oracle's events."""

import datetime as dt
import random
import tempfile
from collections import Counter
from pathlib import Path

import duckdb
import pandas as pd
import polars as pl
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from logs import captured, few, logs, made, new_lab, snapshot
from oracle import Oracle

import eslab
from eslab import Coordinates, Lab, Record, SqlProjection, sql
from eslab.errors import ProjectionError, QueryError
from eslab.quoting import literal
from eslab.sources.memory import MemorySource

COUNTS = SqlProjection("counts", "select event_type, count(*) as n from events group by all")
STEPS = SqlProjection("steps", "select aggregate, aggregate_id, max(version) as version, count(*) as n from history group by all")
PROBLEMS = SqlProjection("odd", "select topic, partition_id, record_offset from problems")


@pytest.fixture
def toy():
    return eslab.play(
        [{"eventType": "Sold", "data": {"orderId": f"o{n % 3}", "total": n}} for n in range(9)]
        + [Record(topic="events", key=b"o1", value=b"{", timestamp_ms=2**41)],
        tz="Europe/Berlin",
    )


def rows_of(table):
    return sorted(tuple(row.values()) for row in table.to_pylist())


def sql_differences(lab, oracle, chance):
    """Where SQL projections do not see what the oracle has in a selection, of every kind."""
    one, other = chance.choice(oracle.log), chance.choice(oracle.log)
    life = one.life
    partial = lab.cut(offsets={life[0]: {life[1]: one.offset + 1}})
    by_event = lab.cut(event_id=Coordinates(*one.life, one.offset))
    time = one.order_at
    kinds = {
        "all": ({}, lambda event: True),
        "time": ({"at": time}, lambda event: event.order_at <= time),
        "event": ({"at": by_event}, oracle.until_event(one)),
        "offsets": ({"at": partial}, lambda event: event.life == life and event.offset <= one.offset),
        "happened": ({"at": other.happened, "clock": "happened"}, lambda event: event.happened <= other.happened),
        "both": (
            {"at": other.happened, "clock": "happened", "cut": by_event},
            lambda event: event.happened <= other.happened and event.order <= one.order,
        ),
    }
    for kind, (asked, held) in kinds.items():
        seen = [event for event in oracle.log if held(event)]
        counts = Counter(event.parts["event_type"] for event in seen if event.kind == "event")
        steps = {key: len(events) for key in oracle.keys if (events := [event for event in seen if key in event.keys])}
        odd = sorted((event.life[0], event.life[1], event.offset) for event in seen if event.kind == "undecodable")
        pairs = [(COUNTS, sorted(counts.items())), (STEPS, sorted((*key, n, n) for key, n in steps.items())), (PROBLEMS, odd)]
        for projection, wanted in pairs:
            world = lab.replay(projection, **asked)
            if rows_of(world.arrow()) != wanted or world.undecodable != len(odd):
                yield f"{projection.name} by {kind}: {world!r}: {rows_of(world.arrow())[:3]}, not {wanted[:3]}"
    for projection in (COUNTS, STEPS, PROBLEMS):
        lab.register(projection)
        asked = lab.sql(f"from {projection.name}_as_of({literal(time.isoformat())}::TIMESTAMPTZ)").to_arrow_table()
        if rows_of(asked) != rows_of(lab.replay(projection, at=time).arrow()):
            yield f"macro of {projection.name} at {time}: {rows_of(asked)[:3]}"


@few(3)
@given(logs(), st.integers(0, 2**32))
def test_a_sql_projection_sees_what_the_oracle_has_in_every_kind_of_selection(log, seed):
    with tempfile.TemporaryDirectory() as folder:
        lab = captured(Path(folder) / "lab", log)
        assert list(sql_differences(lab, Oracle(lab.path), random.Random(seed))) == []


def test_older_incarnations_are_seen_where_a_cut_names_them(tmp_path):
    lab = new_lab(tmp_path / "lab", made(1, 1).rules)
    snapshot(lab, MemorySource(made(30, 1).records), topics=None)
    old = lab.cut()
    before = rows_of(lab.replay(COUNTS).arrow())
    snapshot(lab, MemorySource(made(40, 2).records), topics=None)
    assert rows_of(lab.replay(COUNTS, at=old).arrow()) == before
    assert list(sql_differences(lab, Oracle(lab.path), random.Random(1))) == []


@pytest.mark.parametrize(
    ("right", "wrong"),
    [("record_offset <", "record_offset <="), ("coalesce(happened_at, recorded_at, order_at)", "coalesce(happened_at, order_at)")],
)
def test_the_comparison_finds_a_planted_bug(tmp_path, monkeypatch, right, wrong):
    log = made(100, seed=3)
    lab = new_lab(tmp_path / "lab", log.rules)
    snapshot(lab, MemorySource(log.records))
    intact = eslab.sql.rows
    monkeypatch.setattr(eslab.sql, "rows", lambda *told, **more: intact(*told, **more).replace(right, wrong))
    assert any(difference for seed in range(5) for difference in sql_differences(lab, Oracle(lab.path), random.Random(seed)))


def test_the_answer_is_a_table_that_says_what_it_is_of(toy, tmp_path):
    revenue = SqlProjection("revenue", "select sum((data ->> 'total')::int) as total, max(order_at) as last from events", version=2)
    world = toy.replay(revenue, at="2026-01-01 10:00:05")
    assert world.arrow()["total"].to_pylist() == [0 + 1 + 2 + 3 + 4 + 5]
    assert world.df()["total"][0] == 15
    assert str(world.df()["last"].dt.tz) == "Europe/Berlin"
    assert duckdb.sql("select total from world").fetchall() == [(15,)]
    assert world.sql("select total + $more from world", more=1).fetchall() == world.sql("select total + 1 from world").fetchall() == [(16,)]
    with pytest.raises(QueryError, match="this world is the table world"):
        world.sql("from events")
    assert pq.read_table(world.to_parquet(tmp_path / "revenue.parquet")).equals(world.arrow())
    assert pl.DataFrame(world.reader())["total"].to_list() == [15]
    assert repr(world) == "<revenue v2 in SQL: 1 row, recorded until 2026-01-01 10:00:05 CET>"
    assert "<table" in world._repr_html_()
    assert "1 undecodable record in range" in repr(toy.replay(revenue))


def test_a_query_may_have_its_own_with_comments_types_and_dataframes(toy):
    wanted = pd.DataFrame({"aggregate_id": ["o1"]})
    told = """with mine as (select * from history join wanted using (aggregate_id)) -- as many as there are
    select count(*) as n, max(version) as v from mine; -- done"""
    assert rows_of(toy.replay(SqlProjection("mine", told), at="2026-01-01 10:00:05").arrow()) == [(2, 2)]
    assert len(wanted) == 1
    for text in ("select ';ä' as x; -- ;", "select ';ä' as x /* ; */ ;", "select ';ä' as x -- ;"):
        toy.register(SqlProjection("odd", text))
        assert toy.sql("from odd_as_of(now())").fetchall() == [(";ä",)] == rows_of(toy.replay(SqlProjection("odd", text)).arrow())
    toy.register(SqlProjection("wide", "pivot events on event_type in ('Sold') using count(*)"))
    assert toy.sql("from wide_as_of(TIMESTAMPTZ '2026-01-01 09:00:05Z')").fetchall()[0][-1] == 1
    typed = SqlProjection("typed", 'select sum(total) as total from types."Sold"')
    assert toy.replay(typed, at="2026-01-01 10:00:02").df()["total"][0] == 3


def test_a_registered_one_is_a_macro_of_this_lab_object_alone(toy):
    toy.register(SqlProjection("revenue", "with x as (select * from events) select sum((data ->> 'total')::int) as total from x"))
    assert toy.sql("from revenue_as_of(TIMESTAMPTZ '2026-01-01 09:00:05Z')").fetchall() == [(15,)]
    toy.publish({"eventType": "Sold", "data": {"orderId": "o1", "total": 100}})
    assert toy.sql("from revenue_as_of(TIMESTAMPTZ '2100-01-01 00:00:00Z')").fetchall() == [(136,)], "a new capture keeps it"
    toy.register(SqlProjection("revenue", "select 'other' as it from history limit 1"))
    assert toy.sql("from revenue_as_of(now())").fetchall() == [("other",)]
    with pytest.raises(QueryError, match="revenue_as_of"):
        Lab(toy.path).sql("from revenue_as_of(now())")
    with pytest.raises(duckdb.Error, match="not exist"):
        duckdb.connect(str(toy.path / "lab.duckdb"), read_only=True).sql("from revenue_as_of(now())")
    with pytest.raises(duckdb.Error, match="TIMESTAMPTZ"):
        toy.sql("from revenue_as_of(TIMESTAMP '2026-01-01 09:00:05')").fetchall()


def test_hostile_names_of_projections_are_names(toy):
    for name in ('a"b; drop view events; --', "select", "ü 😀"):
        toy.register(SqlProjection(name, "select count(*) as n from events"))
        quoted = name.replace('"', '""')
        assert toy.sql(f'from "{quoted}_as_of"(now())').fetchall() == [(9,)]


def test_what_no_moment_bounds_is_refused_in_a_macro(toy):
    for source in ('types."Sold"', "main.events", "records", "gaps", "main.records", 'TYPES."sold"'):
        with pytest.raises(ProjectionError, match="would not end at the moment"):
            toy.register(SqlProjection("late", f"select count(*) from {source}"))
    toy.register(SqlProjection("fine", "with records as (select * from events) select count(*) as n from records"))


def test_what_is_no_query_is_one_sentence(toy):
    for text in ("", "drop view events", "select 1; select 2", "create table x as select 1", "set threads = 1", "copy events to 'x'"):
        for act in (toy.replay, toy.register):
            with pytest.raises(ProjectionError, match="is not one query"):
                act(SqlProjection("bad", text))
    for text in ("select", "select nothere from events", "from nothere", "select 1)"):
        for act in (toy.replay, toy.register):
            with pytest.raises(QueryError) as caught:
                act(SqlProjection("bad", text))
            assert "\n" not in str(caught.value)
    for made_ in (lambda: SqlProjection("", "select 1"), lambda: SqlProjection("x", 1)):
        with pytest.raises(ProjectionError):
            made_()
    with pytest.raises(ProjectionError, match="is the macro of an aggregate"):
        toy.register(SqlProjection("ORDER", "select 1"))


def test_it_is_no_fold_and_says_so(toy):
    with pytest.raises(ProjectionError, match="has no keys"):
        toy.replay(COUNTS, keys=["o1"])
    for act in (lambda: toy.history("order", "o1", projection=COUNTS), lambda: toy.compare(COUNTS, "order"), lambda: toy.replay(7)):
        with pytest.raises(ProjectionError, match="folds no events"):
            act()


def test_a_strangers_lab_lets_a_query_read_nothing_else(toy, tmp_path):
    secret = tmp_path / "secret.csv"
    secret.write_text("a\n1\n")
    stranger = Lab(toy.path, trusted=False, tz="UTC")
    assert len(stranger.replay(COUNTS)) == 1
    with pytest.raises(QueryError):
        stranger.replay(SqlProjection("x", f"select * from '{secret}'"))


def test_missing_records_are_named(tmp_path):
    source = MemorySource(
        [Record(topic="t", partition=n % 2, key=b"1", value=b'{"eventType": "T", "data": {"anId": "1"}}', timestamp_ms=n) for n in range(8)]
    )
    lab = Lab(tmp_path / "lab", tz="UTC", say=lambda text: None)
    lab.snapshot(source, start={"t": {0: 2, 1: 0}}, progress=False)
    assert "records of t[0] are missing" in repr(lab.replay(COUNTS))
    assert lab.replay(COUNTS, at=dt.datetime(1960, 1, 1, tzinfo=dt.UTC)).partial == ()


@pytest.mark.parametrize(
    ("text", "made"),
    [
        ("select count(*) from events", {"events"}),
        ('from Types."Order""Paid"', {"types", 'Order"Paid'}),
        ("from order_AS_of(now())", {"order_as_of"}),
        ("select * from misfits", {"misfits"}),
        ("from query_table(['ev' || 'ents'])", None),
        ("select view_name from duckdb_views()", None),
    ],
)
def test_a_question_makes_the_relations_that_it_may_mean(text, made):
    lab = eslab.play(
        [
            {"eventId": "e1", "eventType": 'Order"Paid', "data": {"orderId": "o1", "total": 1}},
            {"eventId": "e2", "eventType": "OrderShipped", "data": {"orderId": "o1"}},
        ],
        aggregates={"order": "data.orderId"},
    )
    every = sql.statements(lab._now(), lab._log)
    asked = sql._asked(every, text)
    assert set(asked) <= {statement for _, statement in every}
    names = {name for name, statement in every if statement in asked}
    assert names >= (made or {name for name, _ in every})
    assert made is None or names <= made | {"events", "types"}  # which stand in every path, and in names of schemas
    with duckdb.connect() as con:
        con.execute("set TimeZone = 'UTC'")
        for statement in asked:  # they need nothing that was left out
            con.execute(statement)
