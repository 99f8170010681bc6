"""DuckDB: one engine of this process for our own questions, each in a session of its own; and engines for the SQL of a user.

To start an engine takes a twentieth of a second, a session nothing. What a session registers, sets or makes temporary is its own.
"""

from __future__ import annotations

import atexit
import os
import secrets
import tempfile
from functools import cache
from pathlib import Path
from typing import Final

import duckdb

from eslab.quoting import literal

__all__ = ["engine", "session"]

MEMORY_LIMIT: Final = "1GB"  # of each engine, beside a notebook's own data; the default would be most of the machine


def engine(tz: str | None = None) -> duckdb.DuckDBPyConnection:
    """DuckDB in memory, of which it takes no more than 1 GB; what is larger goes to a temporary folder outside the lab, and away with the connection."""
    con = duckdb.connect()
    con.execute("set scheduler_process_partial = true")  # else Ctrl-C waits for what a thread does of a query
    con.execute(f"set memory_limit = '{MEMORY_LIMIT}'")
    con.execute(f"set temp_directory = {literal(str(Path(tempfile.gettempdir()) / f'eslab-{os.getpid()}-{secrets.token_hex(4)}'))}")
    con.execute(f"set TimeZone = {literal(tz or 'UTC')}")
    return con


def session() -> duckdb.DuckDBPyConnection:
    """A session of this process's engine, in UTC: `with session() as con:` closes it. What it makes must be `temp`: the rest is everybody's."""
    con = _own(os.getpid()).cursor()
    con.execute("set TimeZone = 'UTC'")
    return con


@cache
def _own(_process: int) -> duckdb.DuckDBPyConnection:  # a process that was forked has not the threads of its parent's
    con = engine()
    atexit.register(con.close)
    return con
