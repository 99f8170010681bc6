import datetime as dt
import json

import duckdb
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eslab.decode import decode
from eslab.decode.codecs import read_json
from eslab.decode.envelopes import ENVELOPES, read_envelope
from eslab.errors import ConfigError
from eslab.model import Record, dumps, parse_path
from eslab.sources import records_to_table


@pytest.fixture(scope="module")
def con():
    with duckdb.connect() as connection:
        connection.execute("set TimeZone = 'UTC'")
        yield connection


def decoded(con, *values, envelope="default", ids=()):
    records = records_to_table(Record(topic="t", offset=at, value=value, key=b"k") for at, value in enumerate(values))
    events, columns = decode(con, records, life=("t", 0, 0), envelope=ENVELOPES[envelope], ids=[parse_path(one) for one in ids])
    return events.to_pylist(), [column.to_pylist() for column in columns]


def test_every_part_of_the_default_envelope_is_read(con):
    payload = {
        "eventId": "e", "eventType": "T", "eventVersion": "2", "timestamp": "2026-03-12T10:31:00+01:00", "source": "s",
        "correlationId": "c", "causationId": "b", "data": {"x": 1}, "metadata": {"traceId": "t", "spanId": "p", "parentSpanId": "q"},
    }  # fmt: skip
    (row,), _ = decoded(con, dumps(payload))
    expected = {
        "kind": "event", "problem": None, "event_id": "e", "event_type": "T", "event_version": "2", "source": "s", "correlation_id": "c",
        "causation_id": "b", "trace_id": "t", "span_id": "p", "parent_span_id": "q", "data": '{"x":1}',
        "happened_at": dt.datetime(2026, 3, 12, 9, 31, tzinfo=dt.UTC), "topic": "t", "record_offset": 0, "record_key": "k",
    }  # fmt: skip
    assert {name: row[name] for name in expected} == expected


def test_only_the_type_must_be_there(con):
    rows, _ = decoded(con, b'{"type":"T"}', b'{"eventType":"T","eventId":null,"data":null}')
    assert [(row["kind"], row["event_id"], row["happened_at"], row["data"]) for row in rows] == [
        ("event", "t/0/0", None, "{}"),
        ("event", "t/0/1", None, "{}"),
    ]


def test_null_empty_and_json_null_are_three_things(con):
    rows, _ = decoded(con, None, b"", b"null")
    assert [(row["kind"], row["problem"]) for row in rows] == [
        ("tombstone", None),
        ("undecodable", "empty value"),
        ("undecodable", "no eventType or type"),
    ]


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (b"{bad", "malformed"),
        (b'{"eventType":"T","data":NaN}', "malformed"),
        (b'{"eventType":"T",}', "trailing comma"),
        (b'{"eventType":"\xff"}', "not UTF-8: byte 0xff at position 14"),
        (b"[1]", "no eventType"),
        (b'"text"', "no eventType"),
        (b"[" * 10_000, "too deeply"),
        (b'{"eventType":"T"}{}', "trailing"),
        (b'\xef\xbb\xbf{"eventType":"T"}', "malformed"),
    ],
)
def test_what_cannot_be_read_says_why(con, value, reason):
    rows, _ = decoded(con, value, b'{"eventType":"fine"}')
    assert rows[0]["kind"] == "undecodable"
    assert reason in rows[0]["problem"]
    assert rows[1]["kind"] == "event"


@pytest.mark.parametrize(
    ("told", "moment"),
    [
        ("2026-03-12T10:31:00Z", "2026-03-12T10:31:00+00:00"),
        ("2026-03-12T10:31:00.123456+02:00", "2026-03-12T08:31:00.123456+00:00"),
        ("2026-03-12 10:31", "2026-03-12T10:31:00+00:00"),
        (1773311460, "2026-03-12T10:31:00+00:00"),
        (1773311460123, "2026-03-12T10:31:00.123000+00:00"),
        (1773311460123456, "2026-03-12T10:31:00.123456+00:00"),
        (1773311460.5, "2026-03-12T10:31:00.500000+00:00"),
        ("infinity", None),
        ("2026-99-12", None),
        ("99999-01-01", None),
        ("tomorrow", None),
        ("-1", None),
        ("9" * 19, None),
        (True, None),
        ({"a": 1}, None),
    ],
)
def test_times_in_payloads_are_read_or_null_and_never_fail(con, told, moment):
    (row,), _ = decoded(con, dumps({"eventType": "T", "timestamp": told}))
    found = row["happened_at"]
    assert (found.isoformat() if found else None) == moment or (told == "9" * 19 and found.year > 2200)


def test_ids_are_found_through_lists_and_odd_keys(con):
    payload = {"eventType": "T", "data": {"orderId": 4711, "items": [{"id": "a"}, {"id": None}, {}, {"id": "b"}], "it's": [[1], [2]]}}
    _, ids = decoded(con, dumps(payload), b"{bad", ids=["data.orderId", "data.items[].id", 'data."it\'s"[][]', "data.none[].x"])
    assert [column[0] for column in ids] == ["4711", ["a", None, "b"], ["1", "2"], None]
    assert [column[1] for column in ids] == [None] * 4


def test_cloud_events_and_eventbridge_need_no_configuration(con):
    (cloud,), _ = decoded(
        con, b'{"specversion":"1.0","id":"1","type":"T","time":"2026-01-01T00:00:00Z","data":{"a":1}}', envelope="cloudevents"
    )
    (bridge,), _ = decoded(con, b'{"id":"1","detail-type":"T","time":"2026-01-01T00:00:00Z","detail":{"a":1}}', envelope="eventbridge")
    assert (cloud["event_type"], cloud["data"], cloud["happened_at"]) == (bridge["event_type"], bridge["data"], bridge["happened_at"])


def test_an_envelope_can_be_written_out_as_paths():
    envelope = read_envelope({"event_type": ["kind", "t"], "data": "body"}, "here")
    assert envelope.event_type == (("kind",), ("t",))
    with pytest.raises(ConfigError, match="here"):
        read_envelope({"event_type": 5}, "here")


json_values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), st.text()),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(), inner, max_size=3)),
    max_leaves=10,
)


@given(st.lists(st.one_of(json_values.map(lambda value: json.dumps(value).encode()), st.binary(max_size=20), st.none()), max_size=8))
def test_what_the_codec_calls_json_is_what_a_strict_reader_calls_json(values):
    text, reasons = read_json(pa.array(values, pa.binary()))
    for at, value in enumerate(values):
        if value is None:
            assert at not in reasons
            continue
        try:
            json.loads(value.decode(), parse_constant=lambda name: 1 / 0)
            strict = not value.startswith(b"\xef\xbb\xbf") and "\\ud" not in value.decode().lower()
        except (ValueError, ZeroDivisionError):
            strict = False
        if strict:
            assert text[at].as_py() == value.decode()
        elif "\\ud" not in value.decode(errors="replace").lower():
            assert at in reasons
            assert text[at].as_py() is None


@given(st.dictionaries(st.text(alphabet=st.characters(exclude_categories=["Cs"])), json_values, max_size=4))
def test_data_comes_through_with_every_value_as_it_was(data):
    with duckdb.connect() as con:
        con.execute("set TimeZone = 'UTC'")
        text = json.dumps({"eventType": "T", "data": data}, ensure_ascii=False)
        try:
            value = text.encode()
        except UnicodeEncodeError:
            return
        (row,), _ = decoded(con, value)
    assert json.loads(row["data"]) == data
