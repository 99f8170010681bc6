"""What files mean as topics: coordinates, growth, and one clear sentence for what cannot be read."""

import datetime as dt
import gzip
import json
import os
import tracemalloc
from dataclasses import replace
from decimal import Decimal

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eslab.errors import ConfigError, SourceChanged, SourceError, TopicNotFound
from eslab.model import Record, loads
from eslab.sources import Hole, file_text, records_to_table, table_to_records
from eslab.sources.files import FileSource
from eslab.sources.memory import MemorySource
from eslab.sources.opening import open_source


def read(source, topic=None, partition=0):
    """All records of a partition (of the only one, where none is named)."""
    one = next(one for one in source.partitions(None) if topic is None or (one.topic, one.partition) == (topic, partition))
    at = (one.topic, one.partition)
    return [record for chunk in source.read({at: (one.log_start, one.end)}) for record in table_to_records(*at, chunk.records)]


def holes(source):
    ranges = {(one.topic, one.partition): (one.log_start, one.end) for one in source.partitions(None)}
    return [(chunk.topic, hole) for chunk in source.read(ranges) for hole in chunk.holes]


def bounds(source):
    return [(one.topic, one.partition, one.log_start, one.end, one.high_watermark) for one in source.partitions(None)]


def kcat_line(**more):
    return json.dumps({"topic": "t", "partition": 0, "offset": 0, "tstype": "create", "ts": 5, "key": "k", "payload": "v"} | more) + "\n"


# --- JSON lines -----------------------------------------------------------------------------------


def test_a_line_is_kept_verbatim_with_its_number_as_offset(tmp_path):
    lines = [b'{"a": 1.10 }', b"no json", b" [1]", b'{"big":123456789012345678901234567890}', b"\xff\xfe\x00"]
    (tmp_path / "t.jsonl").write_bytes(b"\n".join(lines) + b"\n")
    records = read(FileSource(tmp_path / "t.jsonl"))
    assert [(record.offset, record.value) for record in records] == list(enumerate(lines))
    assert {(record.key, record.timestamp_ms, record.timestamp_type, record.headers) for record in records} == {(None, -1, None, ())}


def test_a_byte_order_mark_and_carriage_returns_are_no_part_of_a_value(tmp_path):
    (tmp_path / "t.jsonl").write_bytes(b'\xef\xbb\xbf{"a":1}\r\n{"a":2}\r\n')
    assert [record.value for record in read(FileSource(tmp_path))] == [b'{"a":1}', b'{"a":2}']


def test_blank_lines_are_holes_so_that_an_offset_is_always_the_line_number(tmp_path):
    (tmp_path / "t.jsonl").write_bytes(b"\n1\n \n\n2\n\n")
    source = FileSource(tmp_path)
    assert [(record.offset, record.value) for record in read(source)] == [(1, b"1"), (4, b"2")]
    assert holes(source) == [("t", Hole(0, 1, "unknown")), ("t", Hole(2, 4, "unknown")), ("t", Hole(5, 6, "unknown"))]


@pytest.mark.parametrize(("tail", "end", "high"), [(b'{"b":2}', 2, 2), (b'{"b":', 1, 2), (b"12", 1, 2), (b"", 1, 1), (b"  ", 1, 1)])
def test_a_last_line_without_newline_is_a_record_only_if_nothing_can_follow_it(tmp_path, tail, end, high):
    (tmp_path / "t.jsonl").write_bytes(b'{"a":1}\n' + tail)
    source = FileSource(tmp_path)
    assert bounds(source) == [("t", 0, 0, end, high)]
    assert len(read(source)) == end


@pytest.mark.parametrize(
    ("written", "timestamp_ms"),
    [
        ('"2026-03-12T10:31:00.123Z"', 1_773_311_460_123),
        ('"2026-03-12T11:31:00.1239+01:00"', 1_773_311_460_123),
        ('"2026-03-12T10:31:00"', 1_773_311_460_000),
        ('"2026-03-12"', 1_773_273_600_000),
        ("1773311460", 1_773_311_460_000),
        ("1773311460.123", 1_773_311_460_123),
        ("1773311460123", 1_773_311_460_123),
        ('"1773311460123"', 1_773_311_460_123),
        ("1773311460123456", 1_773_311_460_123),
        ("1773311460123456789", 1_773_311_460_123),
        ('"yesterday"', -1),
        ("true", -1),
        ("null", -1),
        ("1e300", -1),
        ("{}", -1),
    ],
)
def test_a_timestamp_is_iso_8601_or_an_epoch_in_any_unit(tmp_path, written, timestamp_ms):
    (tmp_path / "t.jsonl").write_text(f'{{"timestamp":{written}}}\n')
    assert [record.timestamp_ms for record in read(FileSource(tmp_path))] == [timestamp_ms]


def test_key_and_timestamp_are_found_by_path_or_by_a_field_of_that_very_name(tmp_path):
    (tmp_path / "t.jsonl").write_text(
        '{"data":{"id":"a","at":[1773311460]}}\n{"data":{"id":4711}}\n{"data.id":"dotted","data":{"id":"x"}}\n{"data":[1]}\n7\nx\n'
    )
    records = read(FileSource(tmp_path, key="data.id", timestamp="data.at[0]"))
    assert [record.key for record in records] == [b"a", b"4711", b"dotted", None, None, None]
    assert [record.timestamp_ms for record in records] == [1_773_311_460_000, -1, -1, -1, -1, -1]


def test_a_path_to_several_values_is_refused(tmp_path):
    (tmp_path / "t.jsonl").write_text("{}\n")
    with pytest.raises(ConfigError, match="each element"):
        FileSource(tmp_path, key="items[].id").partitions(None)


def test_a_json_document_over_several_lines_is_refused_with_the_way_out(tmp_path):
    (tmp_path / "t.json").write_text('[\n{"a": 1}\n]\n')
    with pytest.raises(SourceError, match=r"t\.json is not one JSON object a line.*jq"):
        FileSource(tmp_path / "t.json").partitions(None)


# --- growth ---------------------------------------------------------------------------------------


def test_a_file_that_grew_is_read_on_from_where_it_ended(tmp_path, monkeypatch):
    path = tmp_path / "t.jsonl"
    path.write_bytes(b"{}\n" * 1_000 + b'{"half":')
    source = FileSource(path)
    assert bounds(source) == [("t", 0, 0, 1_000, 1_001)]
    begins = []
    monkeypatch.setattr(file_text, "_skip", lambda stream, place: (begins.append(place), stream.seek(place)))
    with path.open("ab") as file:
        file.write(b"true}\n{}\n")
    assert bounds(source) == [("t", 0, 0, 1_002, 1_002)]
    assert begins == [3_000]
    assert [record.value for record in read(source)[-2:]] == [b'{"half":true}', b"{}"]


@pytest.mark.parametrize("kind", ["jsonl", "csv", "kcat"])
def test_growth_in_any_steps_ends_where_one_look_does(tmp_path, kind):
    rows = {
        "jsonl": [f'{{"n":{at}}}\n' for at in range(9)],
        "csv": ["n,text\n", *(f'{at},"a\nb"\n' for at in range(9))],
        "kcat": [kcat_line(topic=f"t{at % 2}", offset=at) for at in range(9)],
    }[kind]
    whole = "".join(rows).encode()
    path = tmp_path / ("t.csv" if kind == "csv" else "t.jsonl")
    steady = path.with_name("steady" + path.suffix)
    steady.write_bytes(whole)
    for step in (1, 7, len(whole) // 2):
        path.write_bytes(b"")
        source = FileSource(path, topic="t")
        for at in range(0, len(whole), step):
            with path.open("ab") as file:
                file.write(whole[at : at + step])
            if kind != "csv" or whole[: at + step].count(b'"') % 2 == 0:  # an open quote is an error, see below
                described = bounds(source)
        assert described == bounds(FileSource(steady, topic="t"))
        for topic, partition, *_ in described:
            assert read(source, topic, partition) == read(FileSource(steady, topic="t"), topic, partition)


def test_a_file_rewritten_in_place_is_indexed_anew(tmp_path):
    path = tmp_path / "t.jsonl"
    path.write_text('{"a":1}\n{"a":2}\n')
    source = FileSource(path)
    assert bounds(source) == [("t", 0, 0, 2, 2)]
    path.write_text('{"another":1}\n' * 3)
    assert bounds(source) == [("t", 0, 0, 3, 3)]
    assert [record.value for record in read(source)] == [b'{"another":1}'] * 3
    path.write_text("{}\n")
    assert [record.value for record in read(source)] == [b"{}"]


def test_an_empty_file_may_still_become_a_dump(tmp_path):
    path = tmp_path / "t.json"
    path.touch()
    source = FileSource(path)
    assert bounds(source) == [("t", 0, 0, 0, 0)]
    path.write_text(kcat_line(topic="orders", offset=4))
    assert bounds(source) == [("orders", 0, 4, 5, 5)]


def test_a_file_cut_while_it_is_read_raises(tmp_path):
    path = tmp_path / "t.jsonl"
    path.write_bytes(b"{}\n" * 50_000)
    source = FileSource(path)
    chunks = source.read({("t", 0): (0, source.partitions(None)[0].end)})
    next(chunks)
    os.truncate(path, 3 * 20_000)
    with pytest.raises(SourceChanged, match=r"t\.jsonl was replaced or cut"):
        list(chunks)


def test_new_files_of_a_folder_are_seen_at_the_next_look(tmp_path):
    (tmp_path / "a.jsonl").write_text("{}\n")
    source = FileSource(tmp_path)
    assert [one.topic for one in source.partitions(None)] == ["a"]
    (tmp_path / "b.jsonl").write_text("{}\n")
    assert [one.topic for one in source.partitions(None)] == ["a", "b"]


# --- several files --------------------------------------------------------------------------------


def test_files_of_one_topic_go_on_from_each_other_by_the_numbers_in_their_names(tmp_path):
    for number in (10, 9, 1):
        (tmp_path / f"part-{number}.jsonl").write_text(f'{{"part":{number}}}\n' * 2)
    (tmp_path / "notes.md").write_text("not taken\n")
    source = FileSource(str(tmp_path / "*"), topic="orders")
    assert [loads(record.value)["part"] for record in read(source)] == [1, 1, 9, 9, 10, 10]
    assert bounds(source) == [("orders", 0, 0, 6, 6)]
    assert source.url == f"file:{tmp_path}/*"


def test_a_list_of_files_is_taken_in_its_order(tmp_path):
    for name in "ab":
        (tmp_path / f"{name}.jsonl").write_text(f'"{name}"\n')
    source = FileSource([tmp_path / "b.jsonl", tmp_path / "a.jsonl"], topic="t")
    assert [record.value for record in read(source)] == [b'"b"', b'"a"']


def test_a_range_of_one_file_of_many_opens_no_other(tmp_path, monkeypatch):
    for at in range(5):
        (tmp_path / f"{at}.jsonl").write_text("{}\n" * 10)
    source = FileSource(tmp_path, topic="t")
    source.partitions(None)
    opened = []
    stream = file_text._stream
    monkeypatch.setattr(file_text, "_stream", lambda path: (opened.append(path.name), stream(path))[1])
    list(source.read({("t", 0): (25, 29)}))
    assert opened == ["2.jsonl"]


# --- kcat -----------------------------------------------------------------------------------------


def test_a_kcat_dump_brings_its_coordinates_headers_and_nulls(tmp_path):
    (tmp_path / "dump.json").write_text(
        kcat_line(topic="a", partition=3, offset=7, headers=["h", "1", "h", None], payload=None)
        + kcat_line(topic="a", partition=3, offset=9, tstype="logappend", key=None, payload="")
        + kcat_line(topic="b", offset=1, headers={"h": ["1", "2"], "g": [None]}, payload="ü\u0000\n")
    )
    source = FileSource(tmp_path)
    assert read(source, "a", 3) == [
        Record(topic="a", partition=3, offset=7, timestamp_ms=5, timestamp_type="create", key=b"k", headers=(("h", b"1"), ("h", None))),
        Record(topic="a", partition=3, offset=9, timestamp_ms=5, timestamp_type="append", value=b""),
    ]
    assert [(record.value, record.headers) for record in read(source, "b")] == [
        ("ü\0\n".encode(), (("h", b"1"), ("h", b"2"), ("g", None))),
    ]
    assert holes(source) == [("a", Hole(8, 9, "unknown"))]


def test_bytes_that_kcat_wrote_raw_come_back_as_they_were(tmp_path):
    line = kcat_line(payload="PAYLOAD", key="KEY").encode().replace(b"PAYLOAD", b'\x00\x01\xff\\"\xfe\\n').replace(b"KEY", b"\xc3\x28")
    (tmp_path / "dump.json").write_bytes(line.replace(b"\x00\x01", b"\\u0000\\u0001"))
    (record,) = read(FileSource(tmp_path))
    assert (record.key, record.value) == (b"\xc3\x28", b'\x00\x01\xff"\xfe\n')


def test_what_kcat_decoded_from_avro_stays_json_and_what_it_could_not_is_a_hole(tmp_path):
    (tmp_path / "dump.json").write_text(
        kcat_line(payload={"n": 1}, value_schema_id=1)
        + kcat_line(offset=1, payload=None, payload_error="no schema")
        + kcat_line(offset=2, payload="x")
    )
    source = FileSource(tmp_path)
    assert [(record.offset, record.value) for record in read(source)] == [(0, b'{"n": 1}'), (2, b"x")]
    assert holes(source) == [("t", Hole(1, 2, "unknown"))]


@pytest.mark.parametrize(
    "broken", ["% Reached end of topic t [0] at offset 1", '{"topic":"t"}', '{"topic":"t","partition":"x","offset":1,"payload":""}']
)
def test_a_broken_line_of_a_dump_is_named(tmp_path, broken):
    (tmp_path / "dump.json").write_text(kcat_line() + "\n" + broken + "\n" + kcat_line(offset=1))
    with pytest.raises(SourceError, match=r"dump\.json:3: not a line of `kcat -J`"):
        FileSource(tmp_path).partitions(None)


def test_a_line_of_a_dump_that_is_still_being_written_waits(tmp_path):
    (tmp_path / "dump.json").write_text(kcat_line() + kcat_line(offset=1)[:-9])
    assert bounds(FileSource(tmp_path)) == [("t", 0, 0, 1, 1)]


@pytest.mark.parametrize("second", [0, 3])
def test_offsets_that_do_not_ascend_are_named_with_file_and_line(tmp_path, second):
    (tmp_path / "dump.json").write_text(kcat_line(offset=3) + kcat_line(topic="other") + kcat_line(offset=second))
    with pytest.raises(SourceError, match=rf"dump\.json:3: offset {second} of t\[0\] stands behind offset 3"):
        FileSource(tmp_path).partitions(None)


def test_dumps_that_overlap_are_named_too(tmp_path):
    for name, offset in (("1.json", 5), ("2.json", 4)):
        (tmp_path / name).write_text(kcat_line(offset=offset))
    with pytest.raises(SourceError, match=r"2\.json:1: offset 4 of t\[0\] stands behind offset 5"):
        FileSource(tmp_path).partitions(None)
    assert bounds(FileSource([tmp_path / "2.json", tmp_path / "1.json"])) == [("t", 0, 4, 6, 6)]


@pytest.mark.parametrize("topic", ["", "..", "../../etc/passwd"])
def test_a_dump_cannot_name_a_topic_that_is_a_path(tmp_path, topic):
    (tmp_path / "dump.json").write_text(kcat_line(topic=topic))
    with pytest.raises(SourceError, match="cannot be the name of a topic"):
        FileSource(tmp_path).partitions(None)


def test_internal_topics_of_a_dump_are_read_only_by_name(tmp_path):
    (tmp_path / "dump.json").write_text(kcat_line() + kcat_line(topic="__consumer_offsets"))
    source = FileSource(tmp_path)
    assert [one.topic for one in source.partitions(None)] == ["t"]
    assert [one.topic for one in source.partitions(["__consumer_offsets"])] == ["__consumer_offsets"]


def test_format_overrules_what_a_file_looks_like(tmp_path):
    (tmp_path / "dump.txt").write_text(kcat_line())
    with pytest.raises(SourceError, match=r"'\.txt'.*format="):
        FileSource(tmp_path / "dump.txt").partitions(None)
    assert bounds(FileSource(tmp_path / "dump.txt", format="kcat")) == [("t", 0, 0, 1, 1)]
    assert bounds(FileSource(tmp_path, format="jsonl")) == [("dump", 0, 0, 1, 1)]


# --- CSV ------------------------------------------------------------------------------------------


def test_a_row_becomes_a_json_object_of_strings(tmp_path):
    (tmp_path / "t.csv").write_bytes(b'\xef\xbb\xbforder id,note,timestamp\r\n1,"a ""b""\r\nc",2026-03-12T10:31:00Z\r\n\r\n007,,\r\n')
    records = read(FileSource(tmp_path, key="order id"))
    assert [(record.offset, record.key, record.timestamp_ms, loads(record.value)) for record in records] == [
        (0, b"1", 1_773_311_460_000, {"order id": "1", "note": 'a "b"\r\nc', "timestamp": "2026-03-12T10:31:00Z"}),
        (1, b"007", -1, {"order id": "007", "note": "", "timestamp": ""}),
    ]


def test_a_column_named_value_makes_no_record_of_a_measurement(tmp_path):
    (tmp_path / "t.csv").write_text("sensor,value\na,1\n")
    assert [record.value for record in read(FileSource(tmp_path))] == [b'{"sensor":"a","value":"1"}']


def test_rows_with_partitions_but_no_offsets_are_counted_in_each(tmp_path):
    (tmp_path / "t.csv").write_text("partition,key,value\n" + "".join(f"{at % 3},k{at},v{at}\n" for at in range(9)))
    source = FileSource(tmp_path)
    assert bounds(source) == [("t", at, 0, 3, 3) for at in range(3)]
    assert [(record.offset, record.value) for record in read(source, "t", 2)] == [(0, b"v2"), (1, b"v5"), (2, b"v8")]


def test_empty_fields_of_a_record_are_null(tmp_path):
    (tmp_path / "t.csv").write_text("offset,key,value,more\n4,,,x\n")
    assert read(FileSource(tmp_path)) == [Record(topic="t", offset=4)]


def test_other_delimiters_are_read_when_named(tmp_path):
    (tmp_path / "t.tsv").write_text("a\tb\n1\t2\n")
    (tmp_path / "u.csv").write_text("a;b\n1;2\n")
    assert [record.value for record in read(FileSource(tmp_path / "t.tsv"))] == [b'{"a":"1","b":"2"}']
    assert [record.value for record in read(FileSource(tmp_path / "u.csv", delimiter=";"))] == [b'{"a":"1","b":"2"}']


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (b"a,b\n1,2\n1,2,3\n", r"t\.csv:3: 3 fields stand under 2 columns"),
        (b"a,a\n1,2\n", r"two columns have the same name"),
        (b"a,b\n1,2\n\xe4,2\n", r"t\.csv:3: not UTF-8"),
        (b'a,b\n1,2\n"1,2\n3,4\n', r"t\.csv:3: the row that begins here is no CSV"),
        (b"a,b\n1,2\n" + b'"x"y,2\n', r"t\.csv:3: the row that begins here is no CSV"),
        (b"offset,value\nx,2\n", r"t\.csv:2: offset 'x' is no integer"),
        (b"offset,value\n4,2\n4,2\n", r"t\.csv:3: offset 4 of t\[0\] stands behind offset 4"),
    ],
)
def test_a_csv_that_cannot_be_read_is_named_with_its_line(tmp_path, text, sentence):
    (tmp_path / "t.csv").write_bytes(text)
    with pytest.raises(SourceError, match=sentence):
        FileSource(tmp_path).partitions(None)


def test_headers_that_cannot_be_read_are_named_with_their_line(tmp_path):
    (tmp_path / "t.csv").write_text('offset,value,headers\n1,v,[]\n2,v,"[""odd""]"\n')
    with pytest.raises(SourceError, match=r"t\.csv:3: "):
        read(FileSource(tmp_path))


@pytest.mark.parametrize(("tail", "end", "high"), [("3,4", 2, 2), ("3", 1, 2), ("", 1, 1)])
def test_a_last_row_without_newline_is_a_record_if_it_has_every_field(tmp_path, tail, end, high):
    (tmp_path / "t.csv").write_text("a,b\n1,2\n" + tail)
    assert bounds(FileSource(tmp_path)) == [("t", 0, 0, end, high)]


def test_a_column_that_is_asked_for_must_be_there(tmp_path):
    (tmp_path / "t.csv").write_text("a,b\n1,2\n")
    with pytest.raises(SourceError, match=r"no column 'orderId'; it has a, b"):
        FileSource(tmp_path, key="orderId").partitions(None)


def test_a_payload_may_be_larger_than_the_csv_modules_own_limit(tmp_path):
    (tmp_path / "t.csv").write_text("key,value\nk," + "x" * 1_000_000 + "\n")
    assert [len(record.value) for record in read(FileSource(tmp_path))] == [1_000_000]


# --- Parquet --------------------------------------------------------------------------------------


def test_rows_of_any_parquet_file_become_json_with_every_digit(tmp_path):
    table = pa.table(
        {
            "id": pa.array([9_007_199_254_740_993], pa.int64()),
            "huge": pa.array([2**64 - 1], pa.uint64()),
            "price": pa.array([Decimal("12345678901234567890.10")], pa.decimal128(38, 2)),
            "timestamp": pa.array([dt.datetime(2026, 3, 12, 10, 31, tzinfo=dt.UTC)], pa.timestamp("us", "UTC")),
            "nanos": pa.array([1_773_311_460_123_456_789], pa.timestamp("ns")),
            "nested": [{"list": [1, None]}],
            "blob": [b"\xff"],
            "nan": [float("nan")],
        }
    )
    pq.write_table(table, tmp_path / "t.parquet")
    (record,) = read(FileSource(tmp_path, key="nested.list[0]"))
    assert record.value == (
        b'{"id":9007199254740993,"huge":18446744073709551615,"price":12345678901234567890.10,"timestamp":"2026-03-12T10:31:00Z",'
        b'"nanos":"2026-03-12T10:31:00.123456789","nested":{"list":[1,null]},"blob":"/w==","nan":null}'
    )
    assert (record.key, record.timestamp_ms) == (b"1", 1_773_311_460_000)


def test_an_export_may_name_its_columns_as_the_lab_does(tmp_path):
    table = pa.table(
        {"record_offset": [3, 5], "partition_id": [1, 1], "record_key": ["k", None], "value": [b"\xff", None], "other": [1, 2]}
    )
    pq.write_table(table, tmp_path / "t.parquet")
    assert read(FileSource(tmp_path), "t", 1) == [
        Record(topic="t", partition=1, offset=3, key=b"k", value=b"\xff"),
        Record(topic="t", partition=1, offset=5),
    ]


@pytest.mark.parametrize(
    "headers",
    [
        pa.array([[("h", b"1")]], pa.map_(pa.string(), pa.binary())),
        pa.array([[{"value": b"1", "key": "h"}]], pa.list_(pa.struct([("value", pa.binary()), ("key", pa.string())]))),
        pa.array(['["h","1"]']),
        pa.array(['{"h":"1"}']),
    ],
    ids=["map", "structs", "flat", "object"],
)
def test_headers_are_read_from_maps_lists_and_json(tmp_path, headers):
    pq.write_table(pa.table({"offset": [0], "value": ["v"], "headers": headers}), tmp_path / "t.parquet")
    assert [record.headers for record in read(FileSource(tmp_path))] == [(("h", b"1"),)]


def test_timestamps_of_an_export_may_be_arrow_timestamps_or_milliseconds(tmp_path):
    for name, column in (
        ("timestamp", pa.array([1_773_311_460_123_999], pa.timestamp("us", "UTC"))),
        ("timestamp_ms", pa.array([1_773_311_460_123])),
    ):
        pq.write_table(pa.table({"offset": [0], "value": ["v"], name: column}), tmp_path / "t.parquet")
        assert [record.timestamp_ms for record in read(FileSource(tmp_path))] == [1_773_311_460_123]


@pytest.mark.parametrize(
    ("offsets", "sentence"),
    [
        ([1, 2, 2], r"row 2: offset 2 of t\[0\] stands behind offset 2"),
        ([5, 4, 6], r"row 1: offset 4 of t\[0\]"),
        ([1, None, 2], "row 1: no offset"),
    ],
)
def test_an_export_with_unusable_offsets_is_named_with_its_row(tmp_path, offsets, sentence):
    pq.write_table(pa.table({"offset": pa.array(offsets, pa.int64()), "value": ["v"] * 3}), tmp_path / "t.parquet")
    with pytest.raises(SourceError, match=r"t\.parquet, " + sentence):
        FileSource(tmp_path).partitions(None)


# --- what cannot be read --------------------------------------------------------------------------


def test_what_is_not_there_is_said_at_once(tmp_path):
    for path, sentence in (
        (tmp_path / "no.jsonl", "there is no file"),
        (tmp_path, "holds no file to read"),
        (tmp_path / "*.csv", "no file matches"),
    ):
        with pytest.raises(SourceError, match=sentence):
            FileSource(path)


@pytest.mark.parametrize("name", ["t.parquet", "t.jsonl.gz", "t.csv.zst"])
def test_a_damaged_file_is_named(tmp_path, name):
    (tmp_path / name).write_bytes(gzip.compress(os.urandom(5_000))[:-20] if name.endswith("gz") else b"PAR1 or what")
    with pytest.raises(SourceError, match=rf"{name} cannot be read"):
        FileSource(tmp_path).partitions(None)


def test_a_file_in_another_encoding_is_named(tmp_path):
    (tmp_path / "t.jsonl").write_text('{"a":1}\n', encoding="utf-16")
    with pytest.raises(SourceError, match=r"t\.jsonl is UTF-16"):
        FileSource(tmp_path).partitions(None)


def test_a_partition_that_is_not_there_is_not_read(tmp_path):
    (tmp_path / "t.jsonl").write_text("{}\n")
    source = FileSource(tmp_path)
    with pytest.raises(TopicNotFound, match="no topic ghost; it has t"):
        list(source.read({("ghost", 0): (0, 1)}))
    with pytest.raises(TopicNotFound, match=r"t\[7\]"):
        source.offset_at("t", 7, 0)


# --- size -----------------------------------------------------------------------------------------


def test_memory_does_not_grow_with_the_file(tmp_path, monkeypatch):
    monkeypatch.setattr(file_text, "BLOCK_ROWS", 2_000)

    def peak(lines):
        (tmp_path / "t.jsonl").write_bytes(b'{"timestamp":1773311460,"text":"%s"}\n' % (b"x" * 200) * lines)
        tracemalloc.start()
        before = pa.total_allocated_bytes()
        most = 0
        source = FileSource(tmp_path)
        for _ in source.read({("t", 0): (0, source.partitions(None)[0].end)}):
            most = max(most, pa.total_allocated_bytes() - before)
        peaked = tracemalloc.get_traced_memory()[1] + most
        tracemalloc.stop()
        return peaked

    assert peak(40_000) < 1.5 * peak(10_000)


# --- round trips ----------------------------------------------------------------------------------

_binary = st.none() | st.binary(max_size=6)
_names = st.text(st.characters(exclude_categories=["Cs"]), max_size=3)
_logs = st.lists(
    st.builds(
        Record,
        topic=st.sampled_from(["a", "b"]),
        partition=st.integers(0, 2),
        offset=st.integers(1, 3),  # the step from the one before
        timestamp_ms=st.integers(-1, 2**50),
        timestamp_type=st.sampled_from(["create", "append", None]),
        key=_binary,
        value=_binary,
        headers=st.lists(st.tuples(_names, _binary), max_size=2).map(tuple),
    ),
    max_size=40,
)


def _ascending(records):
    reached = {}
    out = []
    for record in records:
        at = (record.topic, record.partition)
        reached[at] = reached.get(at, 0) + record.offset
        out.append(replace(record, offset=reached[at]))
    return out


def _by_partition(records):
    found = {}
    for record in records:
        found.setdefault((record.topic, record.partition), []).append(record)
    return found


@pytest.fixture(scope="module")
def small_blocks():
    """Marks and blocks of a few rows, so that a short file has many."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(file_text, "MARK_EVERY", 3)
        patch.setattr(file_text, "BLOCK_ROWS", 4)
        patch.setattr("eslab.sources.file_parquet.BLOCK_ROWS", 4)
        yield


def _write_kcat(path, records):
    types = {"create": "create", "append": "logappend", None: "other"}
    with path.open("wb") as file:
        for r in records:
            latin = lambda value: None if value is None else value.decode("latin-1")  # noqa: E731
            line = {"topic": r.topic, "partition": r.partition, "offset": r.offset, "tstype": types[r.timestamp_type], "ts": r.timestamp_ms}
            line["headers"] = [part for name, value in r.headers for part in (name.encode().decode("latin-1"), latin(value))]
            line |= {"key": latin(r.key), "payload": latin(r.value)}
            file.write(json.dumps(line, ensure_ascii=False).encode("latin-1") + b"\n")  # bytes above 0x7F raw, as kcat writes them


def _write_parquet(path, records):
    table = records_to_table(records).append_column("topic", pa.array([r.topic for r in records], pa.string()))
    table = table.append_column("partition", pa.array([r.partition for r in records], pa.int16()))
    pq.write_table(table, path, row_group_size=7)


@pytest.mark.parametrize("write", [_write_kcat, _write_parquet])
@pytest.mark.usefixtures("small_blocks")
@settings(deadline=None, max_examples=80)
@given(records=_logs, low=st.integers(0, 30), width=st.integers(0, 30))
def test_any_log_comes_back_from_its_dump_in_any_range(tmp_path_factory, write, records, low, width):
    records = _ascending(records)
    path = tmp_path_factory.mktemp("dump") / ("dump.json" if write is _write_kcat else "dump.parquet")
    write(path, records)
    source = FileSource(path)
    truth = _by_partition(records)
    ranges = dict.fromkeys(truth, (low, low + width))
    found = {at: [] for at in truth}
    for chunk in source.read(ranges):
        found[chunk.topic, chunk.partition] += table_to_records(chunk.topic, chunk.partition, chunk.records)
    assert found == {at: [record for record in log if low <= record.offset < low + width] for at, log in truth.items()}


@pytest.mark.parametrize("extension", ["csv", "parquet"])
@pytest.mark.usefixtures("small_blocks")
def test_counted_offsets_are_the_same_wherever_the_reading_of_each_partition_begins(tmp_path, extension):
    rows = [(at % 5 // 2, f"v{at}") for at in range(60)]  # partitions 0, 0, 1, 1, 2 in turn
    truth = {at: [value for partition, value in rows if partition == at] for at in range(3)}
    if extension == "csv":
        (tmp_path / "t.csv").write_text("partition,value\n" + "".join(f"{partition},{value}\n" for partition, value in rows))
    else:
        columns = dict(zip(("partition", "value"), map(list, zip(*rows, strict=True)), strict=True))
        pq.write_table(pa.table(columns), tmp_path / "t.parquet", row_group_size=7)
    source = FileSource(tmp_path)
    for starts in ((0, 20, 10), (19, 4, 0), (11, 23, 5)):
        ranges = {("t", at): (start, len(truth[at])) for at, start in enumerate(starts)}
        found = {at: [] for at in truth}
        for chunk in source.read(ranges):
            found[chunk.partition] += zip(chunk.records["offset"].to_pylist(), chunk.records["value"].to_pylist(), strict=True)
        assert found == {at: [(n, v.encode()) for n, v in enumerate(truth[at]) if n >= start] for at, start in enumerate(starts)}


# --- opening --------------------------------------------------------------------------------------


def test_open_source_takes_paths_globs_lists_and_sources(tmp_path, monkeypatch):
    (tmp_path / "t.jsonl").write_text("{}\n")
    monkeypatch.chdir(tmp_path)
    for url in ("t.jsonl", "*.jsonl", ".", "file:t.jsonl", f"file://{tmp_path}/t.jsonl", tmp_path / "t.jsonl", ["t.jsonl"]):
        assert [one.topic for one in open_source(url).partitions(None)] == ["t"]
    assert open_source("t.jsonl", topic="orders").partitions(None)[0].topic == "orders"
    source = MemorySource()
    assert open_source(source) is source


@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        ("localhost:9092", "kafka://localhost:9092"),
        ("a.example:9092,b.example:9093", "kafka://a.example:9092,b.example:9093"),
        ("http://localhost", "no source is known for http://"),
        ("no.jsonl", r"'no\.jsonl' is no file or folder"),
        ("file:no.jsonl", r"there is no file no\.jsonl"),
        ("", "is no file or folder"),
    ],
)
def test_open_source_says_what_it_understands(tmp_path, monkeypatch, url, sentence):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SourceError, match=sentence):
        open_source(url)


def test_what_is_no_source_at_all_is_said_so():
    for told in (None, 5):
        with pytest.raises(SourceError, match="eslab understands"):
            open_source(told)


def test_settings_beside_a_made_source_are_refused():
    with pytest.raises(SourceError, match="topic: settings belong"):
        open_source(MemorySource(), topic="t")
