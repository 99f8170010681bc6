"""A world: the tables that it can be had as, in memory and on disk, and the plan that comes before it."""

from __future__ import annotations

import re
from pathlib import Path

import duckdb
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from eslab import duck, keyed, play, world
from eslab.errors import LabError, QueryError
from eslab.model import Record
from eslab.projection import Projection

KEYS = 40


@pytest.fixture(params=["in memory", "on disk"])
def carts(request, monkeypatch):
    """A world of forty carts, of which every tenth has ended."""
    monkeypatch.setattr(keyed, "BATCH", 7)
    monkeypatch.setattr(world, "TOGETHER", 3)
    if request.param == "on disk":
        monkeypatch.setattr(keyed, "IN_MEMORY", 100)
    told = [{"eventType": "Added", "data": {"cartId": f"c{number:02d}", "n": number}} for number in range(KEYS)]
    lab = play(
        [*told, *(Record(topic="events", key=f"c{number:02d}".encode(), timestamp_ms=1_900_000_000_000) for number in range(0, KEYS, 10))]
    )
    return lab.replay("cart", progress=False)


WANTED = [f"c{number:02d}" for number in range(KEYS) if number % 10]


def test_a_world_is_the_same_table_in_arrow_polars_duckdb_and_parquet(carts, tmp_path):
    table = carts.arrow()
    assert table["aggregate_id"].to_pylist() == WANTED == list(carts)
    assert pa.table(carts).equals(table)
    assert pl.DataFrame(carts.reader()).to_arrow().cast(table.schema).equals(table)
    assert pl.from_arrow(carts).struct.unnest().to_arrow().cast(table.schema).equals(table)  # to polars a mapping is no frame
    assert duckdb.sql("from carts order by aggregate_id").to_arrow_table().cast(table.schema).equals(table)
    assert pq.read_table(carts.to_parquet(tmp_path / "carts.parquet")).equals(table)
    assert carts.sql("select aggregate_id, (state ->> 'n')::int from world order by all").fetchall() == [
        (key, int(key[1:])) for key in WANTED
    ]
    assert list(carts.df()["n"]) == [int(key[1:]) for key in WANTED]


def test_ended_keys_are_counted_and_not_shown(carts):
    assert carts.ended == 4
    assert len(carts) == len(WANTED)
    assert "c10" not in carts
    assert "c11" in carts
    assert carts["c11"]["n"] == 11
    assert {key: state["n"] for key, state in carts.items()} == {key: int(key[1:]) for key in WANTED}


def test_sql_over_a_world_takes_parameters_and_can_read_it_twice(carts):
    asked = "select count(*) from world one join world other using (aggregate_id) where (one.state ->> 'n')::int > $least"
    assert carts.sql(asked, least=30).fetchall() == [(9,)]
    with pytest.raises(QueryError, match=r"this world is the table world"):
        carts.sql("from events")


def test_a_parquet_file_is_written_whole_or_not_at_all(carts, tmp_path, monkeypatch):
    target = carts.to_parquet(tmp_path / "carts.parquet")
    before = target.read_bytes()
    intact, calls = pq.ParquetWriter.write_batch, []

    def fails(self, batch):
        calls.append(batch)
        if len(calls) == 3:
            raise KeyboardInterrupt
        intact(self, batch)

    monkeypatch.setattr(pq.ParquetWriter, "write_batch", fails)
    with pytest.raises(KeyboardInterrupt):
        carts.to_parquet(target)
    assert target.read_bytes() == before
    assert list(tmp_path.iterdir()) == [target]
    for odd in (tmp_path, tmp_path / "none" / "carts.parquet"):
        with pytest.raises(LabError, match="name a file to write"):
            carts.to_parquet(odd)


def test_what_is_on_disk_goes_with_the_world(monkeypatch, tmp_path):
    monkeypatch.setattr(keyed, "IN_MEMORY", 10)
    monkeypatch.setattr(keyed.tempfile, "tempdir", str(tmp_path))
    made = play([{"eventType": "Added", "data": {"cartId": f"c{number}"}} for number in range(9)]).replay("cart", progress=False)
    folders = list(tmp_path.glob("eslab-*/rows.arrow"))
    assert len(folders) == 1
    assert len(made.arrow()) == 9
    del made
    assert not list(tmp_path.glob("eslab-*/rows.arrow"))


def test_duckdb_takes_no_more_memory_than_it_is_given_and_leaves_nothing_behind(tmp_path, monkeypatch):
    monkeypatch.setattr(duck.tempfile, "tempdir", str(tmp_path))
    lab = play([{"eventType": "Added", "data": {"cartId": "c"}}])
    (limit, folder), *_ = lab.sql("select current_setting('memory_limit'), current_setting('temp_directory')").fetchall()
    assert re.fullmatch(r"95\d\.\d MiB", limit)  # 1 GB
    assert Path(folder).parent == tmp_path
    monkeypatch.setattr(duck, "MEMORY_LIMIT", "40MB")
    con = duck.engine()
    con.execute("set threads = 1")
    con.execute("create table large as select range as n, repeat('x', 100) || range as told from range(800_000)")
    assert con.execute("select count(distinct told) from large").fetchall() == [(800_000,)]
    assert any(path.is_file() for path in tmp_path.rglob("*")), "nothing was put aside: the limit was not felt"
    con.close()
    assert not any(path.is_file() for path in tmp_path.rglob("*.tmp"))


# --- the plan -------------------------------------------------------------------------------------


def test_a_plan_tells_files_rows_and_the_time_that_its_handlers_take():
    lab = play([{"eventType": "Added", "data": {"cartId": f"c{number}"}} for number in range(200)])
    clock = [0.0]
    slow = Projection("slow", aggregate="cart")

    @slow.on("Added")
    def added(state, event):
        clock[0] += 10
        return {"n": 1}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("eslab.replay.time.perf_counter", lambda: clock[0])
        assert lab.plan(slow).seconds == 2000
        assert lab.plan(slow, keys=[f"c{number}" for number in range(100)]).seconds == 1000
        assert lab.plan(slow, keys=["c1", "nobody"]).seconds == 10
        assert repr(lab.plan(slow)) == "<ReplayPlan slow over every key of cart: 200 rows in 1 file, about 33 minutes>"
    assert "200 rows in 1 file, about" in lab.plan("cart")._repr_html_()
