import datetime as dt
import json
import subprocess
import sys

import duckdb
import pandas as pd
import pytest

import eslab
from eslab import Lab, Record, sql
from eslab.errors import LabError, QueryError
from eslab.model import dumps
from eslab.sources.memory import MemorySource

RELATIONS = ("events", "history", "records", "gaps", "problems", "misfits")


@pytest.fixture(scope="module")
def toy():
    return eslab.play(
        [
            {
                "eventType": "OrderCreated",
                "eventId": "e1",
                "data": {"orderId": "o1", "total": 10.5, "tags": ["a"], "source": "shop", "n": 2**63},
            },
            {"eventType": "OrderCreated", "eventId": "e2", "data": {"orderId": "o2", "total": "many", "TAGS": None, "n": 3}},
            {"eventType": "ordercreated", "data": {"orderId": "o2"}},
            Record(topic="events", key=b"o1", value=b"\xff", timestamp_ms=2**62),
            Record(topic="events", key=b"o2", value=None, timestamp_ms=1767258060000, headers=(("h", b"1"), ("h", None))),
        ],
        tz="Europe/Berlin",
    )


def test_events_has_one_row_per_event_and_history_one_per_step(toy):
    assert toy.sql("select count(*) from events").fetchall() == [(3,)]
    steps = toy.sql("select aggregate_id, version, kind from history order by all").fetchall()
    assert steps == [("o1", 1, "event"), ("o1", 2, "undecodable"), ("o2", 1, "event"), ("o2", 2, "event"), ("o2", 3, "tombstone")]


def test_an_event_of_several_aggregates_is_one_event_and_several_steps():
    items = [{"itemId": f"i{n}"} for n in range(3)]
    lab = eslab.play(
        [{"eventType": "PackageCreated", "data": {"packageId": "p1", "items": items}}],
        aggregates={"package": "data.packageId", "item": "data.items[].itemId"},
    )
    assert lab.sql("select count(*) from events").fetchall() == [(1,)]
    assert lab.sql("select aggregate, count(*) from history group by all order by all").fetchall() == [("item", 3), ("package", 1)]


def test_records_are_verbatim_and_hostile_times_are_null(toy):
    rows = toy.sql("select record_offset, value, headers, recorded_at is null from records order by 1").fetchall()
    assert [row[0] for row in rows] == [0, 1, 2, 3, 4]
    assert bytes(rows[3][1]) == b"\xff"
    assert rows[3][3]
    assert rows[4][1] is None
    assert [(head["key"], head["value"]) for head in rows[4][2]] == [(b"h", b"1"), (b"h", None)]


def test_problems_say_why(toy):
    assert toy.sql("select record_offset, problem from problems").fetchall()[0][0] == 3


def test_no_column_is_a_word_that_sql_keeps_for_itself(toy):
    kept = {name for (name,) in duckdb.sql("select keyword_name from duckdb_keywords() where keyword_category <> 'unreserved'").fetchall()}
    for relation in (*RELATIONS, 'types."OrderCreated"'):
        names = set(toy.sql(f"from {relation}").columns)
        assert names
        payload = {"orderId", "total", "tags", "source", "n", "TAGS", "source_2", "tags_2"}
        assert not {name.lower() for name in names - payload} & kept


def test_each_event_type_is_a_relation_with_typed_columns(toy):
    relation = toy.sql('select "orderId", total, n, tags_2 from types."OrderCreated" order by "orderId"')
    assert [str(kind) for kind in relation.types] == ["VARCHAR", "JSON", "BIGINT", "JSON"]
    rows = relation.fetchall()
    assert rows[0] == ("o1", "10.5", None, '["a"]')
    assert rows[1][1:3] == ('"many"', 3)
    assert toy.sql("select data ->> 'n' from events where event_id = 'e1'").fetchall() == [(str(2**63),)]


def test_whole_numbers_are_of_one_type_whatever_their_signs_and_in_however_many_parts_they_come():
    numbers = [{"eventType": "T", "data": {"anId": "a", "n": n}} for n in (0, -1, 2**63 - 1, 2**63)]
    together, apart = eslab.play(numbers), eslab.play(numbers[:1])
    for number in numbers[1:]:
        apart.publish(number)
    for lab in (together, apart):
        relation = lab.sql('select n from types."T" order by record_offset')
        assert list(map(str, relation.types)) == ["BIGINT"]
        assert relation.fetchall() == [(0,), (-1,), (2**63 - 1,), (None,)]
        assert lab.sql("select field, misfits from misfits").fetchall() == [("n", 1)]


def test_a_value_that_does_not_fit_its_column_is_null_there_counted_and_whole_in_data(monkeypatch):
    monkeypatch.setattr("eslab.typed.SAMPLE", 1)  # columns are learned from a sample: what comes later may not fit
    learned = {"anId": "a", "n": 1, "flag": True, "ratio": 0.5, "text": "t", "any": [1], "none": None}
    odd = [
        {"n": 1.5, "flag": 1, "ratio": "NaN"},
        {"n": "many", "flag": "yes"},
        {"n": "7", "ratio": 3, "text": 5, "any": "x", "none": 2, "flag": False},
        {"n": None, "ratio": [0.5]},
    ]
    rows = [{"eventType": "T", "data": {"anId": "a", **values}} for values in (learned, *odd)]
    lab = eslab.play([*rows, {"eventType": "U", "data": {"anId": "b", "": 1}}, {"eventType": "U", "data": {"anId": "b", "": 1.5}}])
    assert lab.sql('select n, flag, ratio, text from types."T" order by record_offset').fetchall() == [
        (1, True, 0.5, "t"),
        (None, None, None, None),
        (None, None, None, None),
        (7, False, 3.0, "5"),
        (None, None, None, None),
    ]
    assert lab.sql("from misfits order by event_type, field").fetchall() == [
        ("T", "flag", "BOOLEAN", 2, "events/0/1"),
        ("T", "n", "BIGINT", 2, "events/0/1"),
        ("T", "ratio", "DOUBLE", 2, "events/0/1"),
        ("U", "", "BIGINT", 1, "events/0/6"),
    ]
    assert lab.sql("select data ->> 'n' from events where record_offset = 2").fetchall() == [("many",)]


def test_names_that_collide_but_for_case_get_a_suffix(toy):
    columns = toy.sql('from types."OrderCreated"').columns
    assert len({name.lower() for name in columns}) == len(columns)
    assert "source_2" in columns
    names = toy.sql("select view_name from duckdb_views() where schema_name = 'types' order by all").fetchall()
    assert names == [("OrderCreated",), ("ordercreated_2",)]


def test_a_callers_dataframe_joins_by_its_name(toy):
    watched = pd.DataFrame({"aggregate_id": ["o1"], "note": ["mine"]})
    assert toy.sql("select note, count(*) from history join watched using (aggregate_id) group by 1").fetchall() == [("mine", 2)]
    assert len(watched) == 1


def test_parameters_are_bound(toy):
    hostile = "' or 1=1 --"
    assert toy.sql("select count(*) from events where event_id = $id", id=hostile).fetchall() == [(0,)]
    assert toy.sql("select count(*) from events where event_id = $id", id="e1").fetchall() == [(1,)]


def test_times_come_in_the_labs_zone(toy):
    (moment,) = toy.sql("select recorded_at from events where event_id = 'e1'").fetchall()[0]
    assert moment.utcoffset() == dt.timedelta(hours=1)


def test_broken_sql_is_one_sentence(toy):
    for broken in ("select", "from nope", "from events where nothere = 1"):
        with pytest.raises(QueryError) as caught:
            toy.sql(broken).fetchall()
        assert "\n" not in str(caught.value)


def test_hostile_names_stay_names(tmp_path):
    topic, kind, field = "a\"b'c; drop", 'T"; drop view events; --', "x' \"y\n"
    source = MemorySource([Record(topic=topic, key=b"1", value=dumps({"eventType": kind, "data": {"anId": "1", field: 1}}))])
    lab = Lab(tmp_path / "lab", say=lambda text: None)
    lab.snapshot(source, progress=False)
    assert lab.sql("select topic, event_type from events").fetchall() == [(topic, kind)]
    quoted = kind.replace('"', '""')
    assert lab.sql(f'select * from types."{quoted}"').columns[-1] in (field, "anId")
    assert lab.sql("select distinct topic from records").fetchall() == [(topic,)]


@pytest.mark.parametrize("name", ["", "\n", "\x00", "\x1b[31m", 'a"b', "a\\b", "it's", "*", "[0]", "#-1", "$", "😀"])
def test_a_field_of_any_name_is_a_column_with_its_value(name):
    lab = eslab.play([{"eventType": "T", "data": {"anId": "1", name: 7}}])
    columns = lab.sql('from types."T"').columns
    (column,) = {name or "_"} & set(columns)
    assert lab.sql('from types."T"').fetchall()[0][columns.index(column)] == 7


@pytest.mark.parametrize("name", ["a[b]", "a*", "it's", 'a"b', "a{b}", "a b", "ä", "a\nb"])
def test_a_lab_stands_in_a_folder_of_any_name(tmp_path, name):
    lab = Lab(tmp_path / name, say=lambda text: None)
    lab.snapshot(MemorySource([Record(topic="t", key=b"1", value=dumps({"eventType": "T", "data": {"anId": "1"}}))]), progress=False)
    for relation in ("events", "records", "history"):
        assert lab.sql(f"select count(*) from {relation}").fetchall() == [(1,)]
    assert lab.cut("1970-01-01T00:00Z").offsets == {("t", 0, 0): 1}
    assert Lab(lab.path, trusted=False).sql("select count(*) from events").fetchall() == [(1,)]


def test_a_name_that_sql_takes_for_another_is_told_once(tmp_path):
    said = []
    lab = Lab(tmp_path / "lab", say=said.append)
    source = MemorySource()
    for kind in ("Paid", "PAID", "Sent"):
        source.append(Record(topic="t", key=b"1", value=dumps({"eventType": kind, "data": {"anId": "1", "source": 1}})))
        lab.snapshot(source, progress=False)
    named = [text for text in said if "case" in text]
    assert sum('types."Paid_2"' in text and text.startswith("event type 'Paid'") for text in named) == 1
    assert sum(text.startswith("field 'source' is the column \"source_2\"") for text in named) == len(named) - 1
    assert len(named) == len(set(named))


def test_an_export_that_cannot_be_written_says_so_and_leaves_nothing(toy, tmp_path):
    (tmp_path / "folder").mkdir()
    for path in (tmp_path / "folder", tmp_path / "none" / "x.duckdb"):
        with pytest.raises(LabError, match="name a file"):
            toy.export(path)
    assert [path.name for path in tmp_path.rglob("*")] == ["folder"]


def test_an_empty_lab_answers_with_no_rows(tmp_path):
    lab = Lab(tmp_path / "none")
    for relation in RELATIONS:
        assert lab.sql(f"from {relation}").fetchall() == []
    assert not (tmp_path / "none").exists()


def test_columns_are_the_same_in_an_empty_lab(tmp_path, toy):
    empty = Lab(tmp_path / "none")
    for relation in RELATIONS:
        assert empty.sql(f"from {relation}").columns == toy.sql(f"from {relation}").columns
        assert list(map(str, empty.sql(f"from {relation}").types)) == list(map(str, toy.sql(f"from {relation}").types))


def test_lab_duckdb_answers_alike_from_within_the_folder(toy):
    sql.write_database(toy._now(), toy._log)  # nobody else opens a played lab, so it has none
    code = "import duckdb; print(duckdb.connect('lab.duckdb', read_only=True).sql('select count(*), (select sum(n) from types.\"OrderCreated\") from history').fetchall())"
    told = subprocess.run([sys.executable, "-c", code], cwd=toy.path, capture_output=True, text=True, check=True)
    assert told.stdout.strip() == "[(5, 3)]"


def test_an_export_is_one_file_that_needs_no_lab(toy, tmp_path):
    path = toy.export(tmp_path / "all.duckdb")
    code = "import duckdb, sys; c = duckdb.connect(sys.argv[1]); print(c.sql('select count(*) from history').fetchall(), c.sql('from types.\"OrderCreated\"').shape)"
    told = subprocess.run([sys.executable, "-c", code, str(path)], cwd="/", capture_output=True, text=True, check=True)
    assert told.stdout.startswith("[(5,)] (2, ")
    assert [path.name for path in tmp_path.iterdir()] == ["all.duckdb"]


def test_a_strangers_lab_reads_nothing_else(toy, tmp_path):
    secret = tmp_path / "secret.csv"
    secret.write_text("a\n1\n")
    stranger = Lab(toy.path, trusted=False)
    assert stranger.sql("select count(*) from events").fetchall() == [(3,)]
    with pytest.raises(QueryError):
        stranger.sql(f"from '{secret}'").fetchall()
    with pytest.raises(QueryError):
        stranger.sql("set enable_external_access = true").fetchall()


@pytest.mark.parametrize(
    "forged",
    [
        {"types": {"T": {"x": "DOUBLE) as y from events; copy (select 1) to '{out}'; create view v as select try_cast('1' as INTEGER"}}},
        {"runs": [{"level": 0, "rows": 1, "files": ["../../secret.parquet"]}]},
        {"gaps": "../../secret.parquet"},
    ],
)
def test_a_strangers_manifest_is_no_way_into_sql(tmp_path, forged):
    lab = Lab(tmp_path / "lab", say=lambda text: None)
    lab.snapshot(MemorySource([Record(topic="t", key=b"1", value=dumps({"eventType": "T", "data": {"anId": "1"}}))]), progress=False)
    out, (manifest,) = tmp_path / "out.csv", lab.path.glob("events/manifest-*.json")
    (tmp_path / "secret.parquet").write_bytes(next(lab.path.glob("log/*/*/*/*.parquet")).read_bytes())
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | forged).replace("{out}", str(out)))
    for trusted in (True, False):
        assert Lab(lab.path, trusted=trusted, say=lambda text: None).sql("select event_type from events").fetchall() == [("T",)]
    assert not out.exists()


def test_a_strangers_words_are_run_where_nothing_else_can_be_reached(toy, tmp_path, monkeypatch):
    intact, out = sql.statements, tmp_path / "out.csv"
    monkeypatch.setattr(sql, "statements", lambda *args, **options: [*intact(*args, **options), ("out", f"copy (select 1) to '{out}'")])
    with pytest.raises(duckdb.PermissionException):
        sql.connect(toy._now(), toy._log, tz=None, trusted=False)
    assert not out.exists()


def test_older_incarnations_stay_in_records_and_leave_events(tmp_path):
    lab = Lab(tmp_path / "lab", say=lambda text: None)
    for generation in ("old", "new"):
        source = MemorySource([Record(topic="t", key=b"1", value=dumps({"eventType": generation, "data": {"anId": "1"}}))])
        lab.snapshot(source, progress=False)
    assert lab.sql("select event_type, incarnation from events").fetchall() == [("new", 1)]
    assert lab.sql("select incarnation from records order by all").fetchall() == [(0,), (1,)]
    assert [step.event.type for step in lab.history("an", "1")] == ["new"]
