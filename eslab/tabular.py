"""The answer of a replay elsewhere: as a Parquet file, or as the table `world` of a DuckDB of its own."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from eslab.duck import engine
from eslab.durable import enough_disk
from eslab.errors import LabError
from eslab.sql import one_line

__all__ = ["as_world", "asked", "written"]


def written(path: str | Path, batches: pa.RecordBatchReader) -> Path:
    """Write a Parquet file, a batch at a time, and return its path. Whole or not at all; an older file is replaced."""
    target = Path(path).expanduser().absolute()
    if target.is_dir() or not target.parent.is_dir():
        raise LabError(
            f"{target} is {'a folder' if target.is_dir() else 'in no folder that exists'}; name a file to write, like orders.parquet"
        )
    temporary = target.with_name(f".{target.name}-{secrets.token_hex(4)}")
    try:
        with enough_disk(temporary), pq.ParquetWriter(temporary, batches.schema, compression="zstd", compression_level=1) as writer:
            for batch in batches:
                writer.write_batch(batch)
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)
    return target


def as_world(batches: pa.RecordBatchReader, columns: str = "*") -> duckdb.DuckDBPyConnection:
    """A connection with these rows as the table `world`; `columns` are what is taken of them, in SQL."""
    con = engine()
    con.register("answer", batches)
    con.execute(f"create table world as select {columns} from answer")
    con.unregister("answer")
    return con


def asked(con: duckdb.DuckDBPyConnection, query: str, parameters: Mapping[str, Any]) -> duckdb.DuckDBPyRelation:
    """The relation that a query over `world` is. Raises `QueryError`."""
    try:
        return con.sql(query, params=dict(parameters) or None)
    except duckdb.Error as exc:
        raise one_line(exc, has="this world is the table world") from exc
