"""Fields of payloads as columns on disk: what SQL finds in them is what it reads from the JSON, whatever came, in however many parts."""

import random
import tempfile
from itertools import pairwise
from pathlib import Path

import duckdb
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from logs import BASE_MS, RULES, few, new_lab, snapshot

import eslab
from eslab import sql, typed
from eslab.events import newest_manifest
from eslab.model import Record, dumps
from eslab.quoting import identifier
from eslab.sources.memory import MemorySource

SEED = 5  # of a log in which all of it is to be seen
NAMES = ["n", "m", "", "a b", 'x"y', "a.b", "o\n"]
FITTING = [[0, 7, -(2**63)], [0.5, -1e300, 3], [True, False]]
ODD = [None, "", "text", "7", "true", "NaN", "1e999", 2**63, 10**30, 1.5, [1], {"a": 1}, "0.10"]


def made(seed, size=24):
    """Orders with items, two types whose fields are mostly of one kind each; what is odd comes late, behind what the types are learned from."""
    chance = random.Random(seed)
    kinds = {(kind, name): chance.choice(FITTING) for kind in ("Placed", "Paid") for name in NAMES}
    records = []
    for at in range(size):
        kind = chance.choice(["Placed", "Paid"])
        fields = {name: chance.choice(kinds[kind, name]) for name in NAMES if chance.random() < 0.8}
        if at > size // 3 and chance.random() < 0.5:
            fields[chance.choice(NAMES)] = chance.choice(ODD)
        data = {"orderId": f"o{at % 3}", "items": [{"id": f"i{n}"} for n in range(at % 3)], **fields}
        records.append(Record(topic="orders", partition=at % 2, timestamp_ms=BASE_MS + at, value=dumps({"eventType": kind, "data": data})))
    return records


def lab_of(folder, records, parts):
    lab = new_lab(folder, RULES)
    source = MemorySource(records)
    for part in range(1, parts):
        snapshot(lab, source, stop=len(records) // 2 * part // parts)
    snapshot(lab, source)
    return lab


def relations(lab):
    """Every typed relation, row by row; floats as texts, since a NaN is no float here."""
    order = "order by topic, partition_id, record_offset"
    return {name: lab.sql(f"from types.{identifier(name)} {order}").fetchall() for name in lab._now().manifest.types}


def typed_differences(lab):
    """Where a typed relation is not what reading the JSON of every event makes of it."""
    found = relations(lab)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sql.typed, "alike", lambda runs: [])
        lab._connection = None
        wanted = relations(lab)
    lab._connection = None
    yield from (f"{name}: {pair}" for name, rows in wanted.items() for pair in zip(found[name], rows, strict=True) if pair[0] != pair[1])


def written(lab):
    """What each run has columns of."""
    return [dict(run.typed) for run in newest_manifest(lab.path).runs]


@few(3)
@given(st.integers(0, 2**32), st.integers(1, 2))
def test_a_typed_relation_is_what_the_json_says(seed, parts):
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(typed, "SAMPLE", 3)
        lab = lab_of(Path(folder) / "lab", made(seed), parts)
        assert list(typed_differences(lab)) == []


def roll_the_columns(monkeypatch):
    intact = typed.with_columns

    def rolled(con, table, columns):
        made_ = intact(con, table, columns)
        order = [made_.num_rows - 1, *range(made_.num_rows - 1)]
        for at in range(len(columns)):
            name = f"typed_{at}"
            made_ = made_.set_column(made_.column_names.index(name), name, made_[name].take(order))
        return made_

    monkeypatch.setattr(typed, "with_columns", rolled)


def take_one_type_for_another(monkeypatch):
    intact = typed.column

    def column(field, kind, columns):
        at = next((at for at, (name, _) in enumerate(columns) if name == field), None)
        return f"typed_{at}" if at is not None and kind != "JSON" else intact(field, kind, columns)

    monkeypatch.setattr(typed, "column", column)


def take_the_columns_of_the_next_field(monkeypatch):
    intact = typed.column
    monkeypatch.setattr(typed, "column", lambda field, kind, columns: intact(field, kind, [*columns[1:], *columns[:1]]))


def take_all_runs_for_alike(monkeypatch):
    intact = typed.alike
    monkeypatch.setattr(typed, "alike", lambda runs: [(intact(runs)[-1][0], list(runs))])


def cast_as_duckdb_does(monkeypatch):
    intact = typed.with_columns

    def cast(con, table, columns):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(typed, "fitting", lambda text, kind: f"try_cast({text} as {kind})")
            return intact(con, table, columns)

    monkeypatch.setattr(typed, "with_columns", cast)


@pytest.fixture(scope="module")
def intact(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(typed, "SAMPLE", 3)
        return lab_of(tmp_path_factory.mktemp("typed") / "lab", made(SEED), 3)


@pytest.mark.parametrize(
    "plant", [take_one_type_for_another, take_the_columns_of_the_next_field, take_all_runs_for_alike], ids=lambda plant: plant.__name__
)
def test_the_comparison_finds_a_bug_planted_where_columns_are_read(intact, monkeypatch, plant):
    assert failing(intact) is None
    plant(monkeypatch)
    intact._connection = None
    assert failing(intact)


@pytest.mark.parametrize("plant", [roll_the_columns, cast_as_duckdb_does], ids=lambda plant: plant.__name__)
def test_the_comparison_finds_a_bug_planted_where_columns_are_written(tmp_path, monkeypatch, plant):
    monkeypatch.setattr(typed, "SAMPLE", 3)
    plant(monkeypatch)
    assert failing(lab_of(tmp_path / "lab", made(SEED), 1))


def failing(lab):
    try:
        return next(typed_differences(lab), None)
    except (eslab.errors.QueryError, duckdb.Error) as exc:  # a column that is not there, or of another type
        return str(exc)


def test_a_sum_reads_the_column_and_no_json_from_whatever_run(tmp_path):
    records = [
        Record(topic="orders", timestamp_ms=BASE_MS + at, value=dumps({"eventType": "Paid", "data": {"orderId": "a", "total": at / 4}}))
        for at in range(20)
    ]
    lab, source = new_lab(tmp_path / "lab", RULES), MemorySource(records)
    for stop in (5, 20):
        snapshot(lab, source, stop=stop)
        asked = 'select sum(total) from types."Paid"'
        assert lab.sql(asked).fetchall() == [(sum(range(stop)) / 4,)]
        assert "data" not in lab.sql(f"explain {asked}").fetchall()[0][1]
        assert all(columns == {"total": "DOUBLE"} for columns in written(lab))
    assert "data" in lab.sql('explain select max("orderId") from types."Paid"').fetchall()[0][1], "texts stay in data"


def test_a_type_that_was_widened_is_read_from_data_until_its_runs_are_merged(tmp_path):
    told = [1, 2, 3, 1.5, 4, 5, 6, 7]
    records = [
        Record(topic="orders", timestamp_ms=BASE_MS + at, value=dumps({"eventType": "Paid", "data": {"orderId": "a", "total": n}}))
        for at, n in enumerate(told)
    ]
    lab, source = new_lab(tmp_path / "lab", RULES), MemorySource(records)
    kinds = []
    for stop in (2, 3, 4, 8):
        snapshot(lab, source, stop=stop)
        kinds.append([columns["total"] for columns in written(lab)])
        assert lab.sql('select total from types."Paid" order by record_offset').fetchall() == [(n,) for n in told[:stop]]
    assert kinds == [["BIGINT"], ["BIGINT"], ["BIGINT", "DOUBLE"], ["DOUBLE"]]


def test_a_run_has_the_columns_that_most_types_have_and_not_too_many(tmp_path, monkeypatch):
    types = {"A": {"x": "BIGINT", "y": "DOUBLE", "s": "VARCHAR", "j": "JSON"}, "B": {"y": "DOUBLE", "x": "BOOLEAN", "d": "DECIMAL(4,2)"}}
    assert typed.stored(types) == [("y", "DOUBLE"), ("d", "DECIMAL(4,2)"), ("x", "BIGINT"), ("x", "BOOLEAN")]
    monkeypatch.setattr(typed, "COLUMNS_MOST", 2)
    lab = lab_of(tmp_path / "lab", made(5), 2)
    assert all(len(columns) == 2 for columns in written(lab))
    assert list(typed_differences(lab)) == []


def test_a_run_from_before_there_were_such_columns_is_read_too(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(typed, "stored", lambda types: [])
        lab = lab_of(tmp_path / "lab", made(5), 1)
    assert written(lab) == [{}]
    (manifest,) = lab.path.glob("events/manifest-*.json")
    manifest.write_text(manifest.read_text().replace('"typed": []', '"other": 0'))
    before = relations(eslab.Lab(lab.path, tz="UTC"))
    assert any(any(row) for rows in before.values() for row in rows)
    more = MemorySource([*made(5), *made(6, 4)])
    snapshot(lab, more)
    assert list(typed_differences(lab)) == []
    assert all(rows[: len(before[name])] for name, rows in relations(lab).items() if before[name])
    assert all(left <= right for left, right in pairwise(len(run) for run in written(lab)))


def test_what_is_learned_of_several_parts_at_once_is_what_is_learned_of_one_after_another():
    def part(*told):
        return pa.table({"event_type": [kind for kind, _ in told], "data": [dumps(data).decode() for _, data in told]})

    parts = [
        (part(("Placed", {"n": "1.50", "m": 1}), ("Paid", {"n": True})), ("n",)),
        (part(*(("Placed", {"n": "12", "m": at}) for at in range(typed.SAMPLE)), ("Placed", {"m": "behind the sample"})), ()),
        (part(("Placed", {"n": 0.5, "k": [1]}), ("Paid", {"n": "-100.125"})), ("n",)),
        (part(("Placed", {"m": 0.5})), ()),
    ]
    together, apart = {}, {}
    with duckdb.connect() as con:
        typed.learn(con, together, parts)
        for one in parts:
            typed.learn(con, apart, [one])
    assert together == apart
    assert together["Placed"]["m"] == "DOUBLE", "each part has a sample of its own, and this one ends before the text"
    assert together["Paid"]["n"] == "DECIMAL(6,3)", "what is declared is no truth, whatever else stands there"
    assert together["Placed"]["n"] == "VARCHAR"
