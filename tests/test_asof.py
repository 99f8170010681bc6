"""As-of macros against `lab.replay` and the oracle."""

import datetime as dt
import json
import random
import subprocess
import sys
import tempfile
from pathlib import Path

import duckdb
import pytest
from hypothesis import given
from hypothesis import strategies as st
from logs import _digits, captured, few, logs, made, new_lab, snapshot
from oracle import Oracle, canonical, moment

import eslab
from eslab import Lab, Record, asof
from eslab.errors import QueryError
from eslab.model import dumps
from eslab.quoting import identifier, literal
from eslab.sources.memory import MemorySource
from eslab.sql import write_database


def world_in_sql(lab, aggregate, at):
    """id -> version and state."""
    rows = lab.sql(f"from {identifier(aggregate + '_as_of')}({literal(at.isoformat())}::TIMESTAMPTZ)").to_arrow_table().to_pylist()
    return {row["aggregate_id"]: (row["version"], canonical(json.loads(row["state"]))) for row in rows}


def world_by_replay(lab, aggregate, at=None):
    """The same; a declared decimal is a text in SQL."""
    world = lab.replay(aggregate, at=at, progress=False)
    versions = {row["aggregate_id"]: row["version"] for row in world.arrow().to_pylist()}
    return {key: (versions[key], canonical(_digits(world[key]))) for key in world}


def macro_differences(lab, oracle, moments):
    """Where a macro is not the oracle's world, or not the lab's own."""
    for at in moments:
        for aggregate in sorted({key[0] for key in oracle.keys}):
            found = world_in_sql(lab, aggregate, at)
            wanted = {
                key: (version, canonical(_digits(state)))
                for key, (version, state) in oracle.world(aggregate, lambda event, at=at: event.order_at <= at).items()
            }
            own = world_by_replay(lab, aggregate, at)
            odd = sorted(key for key in found.keys() | wanted.keys() | own.keys() if not found.get(key) == wanted.get(key) == own.get(key))
            if odd:
                yield f"{aggregate} at {at}: {odd[:2]}: {[(found.get(key), wanted.get(key), own.get(key)) for key in odd[:2]]}"


def some_moments(oracle, seed):
    chance = random.Random(seed)
    return [
        moment(-2),
        oracle.log[-1].order_at,
        chance.choice(oracle.log).order_at,
        chance.choice(oracle.log).order_at - dt.timedelta(milliseconds=1),
    ]


@few(5)
@given(logs(), st.integers(0, 2**32))
def test_the_world_at_any_moment_is_the_oracles_and_that_of_replay(log, seed):
    with tempfile.TemporaryDirectory() as folder:
        lab = captured(Path(folder) / "lab", log)
        oracle = Oracle(lab.path)
        assert list(macro_differences(lab, oracle, some_moments(oracle, seed))) == []


def test_only_the_newest_incarnations_count(tmp_path):
    lab = new_lab(tmp_path / "lab", made(1, 1).rules)
    for seed in (1, 2):
        snapshot(lab, MemorySource(made(60, seed).records), topics=None)
    oracle = Oracle(lab.path)
    assert {life[2] for life in oracle.newest} == {1}
    assert list(macro_differences(lab, oracle, some_moments(oracle, 3))) == []


def numbers_of_every_size():
    texts = [
        "1e400",
        "-1e309",
        "9" * 400,
        "9" * 5000,
        "9" * 400 + ".5",
        "1e308",
        "1.10",
        "1e-400",
        "[1e999]",
        '"1e999"',
        '{"a": "\\"1e999", "b": 2}',
        "0.1e+0400",
        '"\\\\", "y": 1e999',
    ]
    return [f'{{"eventType": "T", "data": {{"anId": "k{number}", "n": {text}}}}}'.encode() for number, text in enumerate(texts)]


def test_an_event_whose_numbers_no_float_can_hold_leaves_the_state_as_in_every_fold():
    before = [b'{"eventType": "B", "data": {"anId": "k%d", "was": 1}}' % number for number in range(13)]
    lab = eslab.play(
        [Record(topic="events", key=b"x", value=value, timestamp_ms=1_767_258_000_000) for value in before + numbers_of_every_size()],
        aggregates={"an": "data.anId"},
    )
    at = dt.datetime(2027, 1, 1, tzinfo=dt.UTC)
    own = world_by_replay(lab, "an")
    assert world_in_sql(lab, "an", at) == own
    assert sum('"B"' in state for _, state in own.values()) == 7


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    log = made(150, seed=3)
    lab = new_lab(tmp_path_factory.mktemp("large") / "lab", log.rules)
    snapshot(lab, MemorySource(log.records))
    return lab.path


def plant(monkeypatch, right, wrong):
    intact = asof.aggregate_macro
    monkeypatch.setattr("eslab.sql.aggregate_macro", lambda *told: intact(*told).replace(right, wrong))


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("order_at <=", "order_at <"),
        ("where nth > reset", "where true"),
        ("having reset = 0 or newest > reset", ""),
        ("(nth, part, field.id)", "(-nth, part, field.id)"),
        ("filter (readable)", "filter (kind <> 'x')"),
        (" and topic not in", " or topic not in"),
        ("when 'VARCHAR' then", "when 'NOTHING' then"),
    ],
)
def test_the_comparison_finds_a_planted_bug(large, monkeypatch, right, wrong):
    plant(monkeypatch, right, wrong)
    lab, oracle = Lab(large, tz="UTC", say=lambda notice: None), Oracle(large)
    assert any(macro_differences(lab, oracle, some_moments(oracle, 3)))


@pytest.fixture(scope="module")
def toy():
    return eslab.play(
        [{"eventType": "OrderCreated", "data": {"orderId": f"o{n % 3}", "total": n, "tags": [n]}, "eventVersion": "2"} for n in range(9)],
        tz="Europe/Berlin",
    )


def test_a_moment_without_a_zone_is_refused_with_what_to_write(toy):
    for told in ("TIMESTAMP '2026-01-01 10:00:05'", "'2026-01-01 10:00:05'", "DATE '2026-01-01'", "5", "null"):
        with pytest.raises(duckdb.Error, match=r"write order_as_of\(TIMESTAMPTZ '2026-03-12 10:31:00\+01:00'\), with the zone"):
            toy.sql(f"from order_as_of({told})").fetchall()
    assert len(toy.sql("from order_as_of(now())")) == 3
    assert len(toy.sql("from order_as_of($at)", at=dt.datetime(2026, 1, 1, 9, 0, 0, tzinfo=dt.UTC))) == 1


def test_the_state_is_json_of_the_default_projection(toy):
    relation = toy.sql("from order_as_of(TIMESTAMPTZ '2026-01-01 10:00:05+01:00') order by 1")
    assert relation.columns == ["aggregate_id", "version", "state"]
    assert [str(kind) for kind in relation.types] == ["VARCHAR", "BIGINT", "JSON"]
    assert [(key, version, json.loads(state)) for key, version, state in relation.fetchall()] == [
        (f"o{n}", 2, {"orderId": f"o{n}", "total": n + 3, "tags": [n + 3], "_type": "OrderCreated", "_version": "2"}) for n in range(3)
    ]
    total = toy.sql("select sum((state ->> 'total')::int) from order_as_of(TIMESTAMPTZ '2026-01-01 09:00:05Z')").fetchall()
    assert total == [(3 + 4 + 5,)]


def test_lab_duckdb_has_the_macros_too(toy):
    write_database(toy._now(), toy._log)  # nobody else opens a played lab, so it has none
    code = "import duckdb; print(duckdb.connect('lab.duckdb', read_only=True).sql(\"select count(*), sum(version) from order_as_of(TIMESTAMPTZ '2026-01-01 09:00:05Z')\").fetchall())"
    told = subprocess.run([sys.executable, "-c", code], cwd=toy.path, capture_output=True, text=True, check=True)
    assert told.stdout.strip() == "[(3, 6)]"


def test_hostile_names_of_aggregates_are_names():
    names = ["a\"b'c; drop view events; --", "A\"B'C; DROP VIEW EVENTS; --", "select", "ü 😀"]
    lab = eslab.play([{"eventType": "T", "data": {"anId": "1", "n": 1}}], aggregates=dict.fromkeys(names, "data.anId"))
    macros = [
        name
        for (name,) in lab.sql("select function_name from duckdb_functions() where function_name like '%as_of' order by all").fetchall()
    ]
    assert len({name.lower() for name in macros}) == 4
    for macro in macros:
        assert lab.sql(f"select aggregate_id, version from {identifier(macro)}(now())").fetchall() == [("1", 1)]


def test_a_strangers_lab_has_them_and_an_empty_one_has_none(toy, tmp_path):
    assert len(Lab(toy.path, trusted=False).sql("from order_as_of(now())")) == 3
    with pytest.raises(QueryError, match="order_as_of"):
        Lab(tmp_path / "none").sql("from order_as_of(now())")


def test_no_data_is_a_state_too():
    lab = eslab.play(
        [
            Record(topic="events", key=b"1", value=dumps({"eventType": "T", "data": {"anId": "1"}}), timestamp_ms=0),
            Record(topic="events", key=b"2", value=b"{", timestamp_ms=1),
        ],
        aggregates={"an": "data.anId"},
    )
    assert sorted(lab.sql("from an_as_of(now())").fetchall())[1] == ("2", 1, "{}")
