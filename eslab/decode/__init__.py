"""From bytes to events, a column at a time: codec, then envelope.

The result has one row per record: an event, a tombstone or an undecodable record with its reason.
"""

from __future__ import annotations

from collections.abc import Sequence

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from eslab.decode.codecs import read_json
from eslab.decode.decimals import with_decimals, with_digits
from eslab.decode.envelopes import PARTS, Envelope
from eslab.model import EACH, Life, Path, format_path
from eslab.quoting import literal

__all__ = ["EVENT", "TOMBSTONE_KIND", "UNDECODABLE", "decode", "json_path", "with_decimals"]

EVENT, TOMBSTONE_KIND, UNDECODABLE = "event", "tombstone", "undecodable"

# A day within the years 1 to 9999, which Python, pandas and DuckDB can all hold: so every zone can still show them
EARLIEST_MS, LATEST_MS = -62_135_510_400_000, 253_402_214_400_000
_TIMES = pa.timestamp("us", tz="UTC")


def decode(
    con: duckdb.DuckDBPyConnection, records: pa.Table, *, life: Life, envelope: Envelope, ids: Sequence[Path], decimals: Sequence[Path] = ()
) -> tuple[pa.Table, list[pa.Array]]:
    """Decode records of one life of a partition.

    Return the table of events (the columns of `eslab.events.EVENTS` that need no mapping; `order_at` is the caller's) and for each path in
    `ids` a column of strings, or of lists of strings where the path has `EACH` in it. `decimals` are paths from data on whose numbers keep
    all their digits, as texts. `con` is only used to run expressions.
    """
    topic, partition, incarnation = life
    values = records["value"].combine_chunks()
    text, reasons = read_json(values)
    found, id_columns = _extract(con, text, envelope, ids)
    if decimals:
        found["data"] = with_digits(found["data"], values, envelope.data, decimals)
    wanted = " or ".join(format_path(path) for path in envelope.event_type)
    for at in np.flatnonzero(pc.and_(pc.is_valid(text), pc.is_null(found["event_type"])).to_numpy(zero_copy_only=False)):
        reasons[int(at)] = f"no {wanted}"
    problems = pa.array([reasons.get(at) for at in range(len(values))], pa.string()) if reasons else pa.nulls(len(values), pa.string())
    kind = pc.if_else(pc.is_null(values), TOMBSTONE_KIND, pc.if_else(pc.is_valid(problems), UNDECODABLE, EVENT))
    event = pc.equal(kind, EVENT)
    offsets = records["offset"].combine_chunks()
    nothing = pa.scalar(None, pa.string())
    columns: dict[str, pa.Array] = {part: pc.if_else(event, found[part], nothing) for part in PARTS if part != "happened_at"}
    names = pc.binary_join_element_wise(topic, str(partition), offsets.cast(pa.string()), "/")
    columns["event_id"] = pc.if_else(event, pc.coalesce(columns["event_id"], names), nothing)
    columns["data"] = pc.if_else(event, pc.coalesce(columns["data"], "{}"), nothing)
    columns["happened_at"] = pc.if_else(event, found["happened_at"], pa.scalar(None, _TIMES))
    size = len(offsets)
    columns |= {
        "kind": kind,
        "problem": problems,
        "recorded_at": times(records["timestamp_ms"].to_numpy()),
        "timestamp_type": records["timestamp_type"].combine_chunks(),
        "topic": pa.repeat(topic, size),
        "partition_id": pa.array(np.full(size, partition, np.int32)),
        "incarnation": pa.array(np.full(size, incarnation, np.int32)),
        "record_offset": offsets,
        "record_key": _text(records["key"].combine_chunks()),
    }
    return pa.table(columns), [pc.if_else(event, column, pa.scalar(None, column.type)) for column in id_columns]


def times(timestamp_ms: np.ndarray) -> pa.Array:
    """Milliseconds since 1970 as timestamps; -1 (Kafka's own word for none) and what lies outside the years 1 to 9999 become null."""
    fits = (timestamp_ms >= EARLIEST_MS) & (timestamp_ms <= LATEST_MS) & (timestamp_ms != -1)
    micros = np.where(fits, timestamp_ms, 0) * 1000
    return pa.array(micros, pa.int64(), mask=~fits).cast(_TIMES)


def _text(keys: pa.Array) -> pa.Array:
    """Keys as text; a key that is not UTF-8 is null here and whole in the log."""
    try:
        return keys.cast(pa.string())
    except pa.ArrowInvalid:
        return pa.array([None if key is None else _utf8(key) for key in keys.to_pylist()], pa.string())


def _utf8(key: bytes) -> str | None:
    try:
        return key.decode()
    except UnicodeDecodeError:
        return None


def json_path(path: Path) -> str:
    """The path in the form of DuckDB's JSON functions: with `$`, or as a JSON pointer where a name is empty, which `$` cannot say."""
    if "" in path:
        return "".join("/" + str(part).replace("~", "~0").replace("/", "~1") for part in path)
    return "$" + "".join("[*]" if part is EACH else f"[{part}]" if isinstance(part, int) else f'."{_escaped(part)}"' for part in path)


def _escaped(name: object) -> str:
    """Only these two are escaped there; control characters stand as they are."""
    return str(name).replace("\\", "\\\\").replace('"', '\\"')


def _extract(
    con: duckdb.DuckDBPyConnection, text: pa.Array, envelope: Envelope, ids: Sequence[Path]
) -> tuple[dict[str, pa.Array], list[pa.Array]]:
    """Two passes over the JSON: one for what is wanted as text, one for what stays JSON, so that the text "{}" is not taken for an object.

    A path with `EACH` reads again only the list that it goes into.
    """
    texts: dict[str, int] = {}
    values: dict[str, int] = {}

    def text_at(path: Path) -> str:
        return f"texts[{texts.setdefault(json_path(path), len(texts) + 1)}]"

    def json_at(path: Path) -> str:
        return f"nullif(jsons[{values.setdefault(json_path(path), len(values) + 1)}]::varchar, 'null')"

    selected = []
    for part in PARTS:
        place = json_at if part in ("data", "metadata") else text_at
        options = ", ".join(place(path) for path in getattr(envelope, part))
        found = f"coalesce({options})" if options else "null::varchar"
        selected.append(f"{_TIME.format(text=found) if part == 'happened_at' else found} as {part}")
    for number, path in enumerate(ids):
        if EACH in path:
            at = path.index(EACH)
            found = f"json_extract_string({json_at(path[:at])}, {literal(json_path(path[at:]))})"
        else:
            found = text_at(path)
        selected.append(f"{found} as id{number}")
    lists = [
        f"{function}(value, [{', '.join(literal(path) for path in paths)}]) as {name}"
        for name, function, paths in (("texts", "json_extract_string", texts), ("jsons", "json_extract", values))
        if paths
    ]
    con.register("record_values", pa.table({"value": text}))
    table = con.sql(f"select {', '.join(selected)} from (select {', '.join(lists)} from record_values)").to_arrow_table()
    con.unregister("record_values")
    columns = [column.combine_chunks() for column in table.columns]
    return dict(zip(PARTS, columns, strict=False)), columns[len(PARTS) :]


# ISO 8601 with or without a zone (without: UTC), or a number of seconds, milli-, micro- or nanoseconds since 1970, told apart by
# its size: seconds reach 1e11 in the year 5138, milliseconds were there in 1973
_TIME = """
    case when regexp_full_match({text}, '\\d{{4,}}-\\d\\d-\\d\\d.*') then
        case when try_cast({text} as timestamptz) between timestamptz '0001-01-02 00:00:00+00' and timestamptz '9999-12-31 00:00:00+00'
        then try_cast({text} as timestamptz) end
    when regexp_full_match({text}, '\\d{{1,19}}(\\.\\d+)?') then
        case when {text}::double < 1e11 then make_timestamptz(round({text}::double * 1e6)::bigint)
             when {text}::double < 1e14 then make_timestamptz(round({text}::double * 1e3)::bigint)
             when {text}::double < 1e17 then make_timestamptz(round({text}::double)::bigint)
             else make_timestamptz(round({text}::double / 1e3)::bigint) end
    end"""
