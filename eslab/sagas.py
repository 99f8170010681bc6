"""Sagas: every instance with its steps, how long it took, and whether it finished, was compensated, goes on or is stuck."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Final

import duckdb
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from eslab.again import NOWHERE, Again, Shell
from eslab.cuts import Clock
from eslab.duck import session
from eslab.endings import Endings
from eslab.errors import UnknownId
from eslab.events import Events
from eslab.model import Selection
from eslab.sql import ORDER, marked, rows
from eslab.tracing import Trace
from eslab.views import tables
from eslab.wording import Length, many

__all__ = ["STATES", "Sagas", "find_sagas"]

STATES: Final = ("finished", "compensated", "running", "stuck")
SHOWN: Final = 20

_EVENTS: Final = "first and kind = 'event'"
_SAGA: Final = "correlation_id <> ''"  # an empty id names nothing


@dataclass(frozen=True, slots=True)
class _Asked:
    """What was asked, for the sentences of the answer."""

    endings: Endings
    stuck_after: Length
    begin: Collection[str]
    known: Collection[str]
    now: dt.datetime | None
    without: int
    """Events that carry no correlation id, and so are of no saga."""


class Sagas(Again):
    """One row for each correlation id, those that came to a halt longest ago first. `.stuck`, `.finished`, `.compensated`, `.running` are the parts; `["cor-1"]` is the trace of one.

    `backwards` are those with an effect that was recorded before its cause: clocks or partitions lie.
    """

    def __init__(self, table: pa.Table, asked: _Asked, trace: Callable[[str], Trace], clock: Clock, shell: Shell) -> None:
        self._table, self._asked, self._trace, self._clock, self._shell = table, asked, trace, clock, shell
        self.again = shell.line("sagas")

    def _in(self, state: str) -> Sagas:
        shell = NOWHERE if "state" in self._shell.options else self._shell.of(state=state)
        return Sagas(self._table.filter(pc.equal(self._table["state"], state)), self._asked, self._trace, self._clock, shell)

    @property
    def finished(self) -> Sagas:
        return self._in("finished")

    @property
    def compensated(self) -> Sagas:
        return self._in("compensated")

    @property
    def running(self) -> Sagas:
        return self._in("running")

    @property
    def stuck(self) -> Sagas:
        return self._in("stuck")

    @property
    def backwards(self) -> Sagas:
        return Sagas(self._table.filter(pc.greater(self._table["backwards"], 0)), self._asked, self._trace, self._clock, NOWHERE)

    @property
    def counts(self) -> dict[str, int]:
        """How many are in each state."""
        found = {one["values"]: one["counts"] for one in pc.value_counts(self._table["state"]).to_pylist()}
        return {state: found.get(state, 0) for state in STATES}

    def __len__(self) -> int:
        return int(self._table.num_rows)

    def __contains__(self, correlation_id: object) -> bool:
        return isinstance(correlation_id, str) and bool(pc.any(pc.equal(self._table["correlation_id"], correlation_id)).as_py())

    def __getitem__(self, correlation_id: str) -> Trace:
        """The trace of one instance: its steps, with the times between. Raises `UnknownId`."""
        if correlation_id not in self:
            raise UnknownId(f"no saga here has the correlation id {correlation_id!r}; lab.find({correlation_id!r}) looks for it as any id")
        return self._trace(correlation_id)

    def arrow(self) -> pa.Table:
        """correlation_id, state, steps, first_type, started_at, last_type, last_at, ended_type, ended_at, took_us (to the end, else to the last event), silent_us (since the last event; null where ended), backwards."""
        zoned = pa.timestamp("us", tz=str(self._clock.zone))
        return self._table.cast(pa.schema([one.with_type(zoned) if pa.types.is_timestamp(one.type) else one for one in self._table.schema]))

    def df(self) -> pd.DataFrame:
        """What `arrow` has, by correlation_id, with `took` and `silent` as timedeltas."""
        frame: pd.DataFrame = self.arrow().to_pandas().set_index("correlation_id")
        for name in ("took", "silent"):
            frame[name] = pd.to_timedelta(frame.pop(f"{name}_us"), unit="us")
        return frame[[*(name for name in frame.columns if name != "backwards"), "backwards"]]

    @property
    def notes(self) -> list[str]:
        """What a reader must know beside the table, as sentences."""
        asked = self._asked
        out = [said] if (said := asked.endings.said(asked.known)) else []
        if strange := sorted(set(asked.begin) - set(asked.known)):
            out.append(f"no captured event is of type {', '.join(strange)}")
        if backwards := pc.sum(self._table["backwards"]).as_py():
            out.append(
                f"{many(backwards, 'effect')} recorded before {'its cause' if backwards == 1 else 'their causes'}, in {many(len(self.backwards), 'saga')}: clocks or partitions lie"
            )
        if asked.without:
            out.append(f"{many(asked.without, 'event')} {'carries' if asked.without == 1 else 'carry'} no correlation id")
        return out

    def _summary(self) -> str:
        parts = [f"{count:,} {state}{self._more(state)}" for state, count in self.counts.items() if count]
        return f"Sagas: {', '.join(parts) or 'none'}" + (f"; as of {self._clock.show(self._asked.now)}" if self._asked.now else "")

    def _more(self, state: str) -> str:
        if state == "stuck":
            return f" (no event for {self._asked.stuck_after.told} or more)"
        if state == "running":
            return ""
        took = self._table.filter(pc.equal(self._table["state"], state))["took_us"]
        half, longest = pc.quantile(took, [0.5, 1.0], interpolation="lower").to_pylist()
        return f" (half of them within {tables.duration(half / 1e6)}, the longest {tables.duration(longest / 1e6)})"

    def __repr__(self) -> str:
        return tables.visible("\n".join([f"<{self._summary()}>", *(f"  {note}" for note in self.notes)]))

    def _repr_html_(self) -> str:
        cells = [
            [
                row["correlation_id"],
                row["state"],
                row["steps"],
                row["first_type"],
                self._clock.show(row["started_at"]),
                row["last_type"],
                self._clock.show(row["last_at"]),
                tables.duration(row["took_us"] / 1e6),
                "" if row["silent_us"] is None else tables.duration(row["silent_us"] / 1e6),
                row["backwards"] or "",
            ]
            for row in self._table.slice(0, SHOWN).to_pylist()
        ]
        names = ["correlation", "state", "steps", "first", "started", "last", "last at", "took", "silent for", "backwards"]
        more = f"; the first {SHOWN}" if len(self) > SHOWN else ""
        shown = tables.html(names, cells, caption=self._summary() + more, empty="none", rare={"silent for", "backwards"})
        return shown + tables.paragraphs(self.notes) + tables.shell(self.again)


def find_sagas(
    events: Events,
    selection: Selection,
    endings: Endings,
    *,
    begin: Collection[str],
    stuck_after: Length,
    now: dt.datetime | None,
    trace: Callable[[str], Trace],
    clock: Clock,
    shell: Shell = NOWHERE,
) -> Sagas:
    """Every correlation id as an instance of a saga. Its steps are its events, each by its first occurrence; the last of them that is of an ending type says how it ended.

    One without such an event is stuck if its last event was `stuck_after` or longer before `now` (None: the last moment of the selection), and running otherwise.
    With `begin`, only those that have an event of these types. Some scans of the id columns; memory grows with the number of sagas, not of events.
    """
    with session() as con:
        con.execute(f"create temp view held as from {rows(events, selection=selection)} where {_EVENTS}")
        ((last,),) = con.execute(f"select max(order_at) from {rows(events, selection=selection)}").fetchall()
        ((without,),) = con.execute(f"select count(*) from held where ({_SAGA}) is not true").fetchall()
        moment = now or last
        _mark_repeats(con)
        _mark_backwards(con)
        told = {"done": sorted(endings.done), "compensated": sorted(endings.compensated), "begin": sorted(begin)}
        table = con.sql(_instances(con, events), params={**told, "stuck_us": stuck_after.us, "now": moment}).to_arrow_table()
    asked = _Asked(endings, stuck_after, begin, events.manifest.types, moment and moment.astimezone(dt.UTC), without)
    return Sagas(table, asked, trace, clock, shell)


def _mark_repeats(con: duckdb.DuckDBPyConnection) -> None:
    """`repeats`: the places of all events but the first of their id in their saga. Few ids are seen twice, so they are looked for by their hashes first."""
    con.execute(
        f"""create temp table repeats as
        with twice as materialized (select hash(correlation_id, event_id) as name from held where {_SAGA} group by name having count(*) > 1)
        select topic, partition_id, incarnation, record_offset from held where {_SAGA} and hash(correlation_id, event_id) in (from twice)
        qualify row_number() over (partition by correlation_id, event_id order by {ORDER}) > 1"""
    )


def _mark_backwards(con: duckdb.DuckDBPyConnection) -> None:
    """`backwards`: for each saga its effects that stand at an earlier time than their causes, each event by its first occurrence. Hashes again: few ids are left for the exact look."""
    con.execute(
        f"""create temp table suspects as select distinct effect.cause as name from
        (select hash(causation_id) as cause, order_at from held where causation_id <> '' and {_SAGA}) as effect
        join (select hash(event_id) as id, order_at from held) as cause on effect.cause = cause.id and effect.order_at < cause.order_at"""
    )
    con.execute(
        f"""create temp table backwards as
        with causes as (select event_id, min(order_at) as caused_at from held where hash(event_id) in (from suspects) group by event_id),
        effects as (select correlation_id, causation_id, order_at from held anti join repeats using (topic, partition_id, incarnation, record_offset)
            where {_SAGA} and hash(causation_id) in (from suspects))
        select correlation_id, count(*) as backwards from effects join causes on effects.causation_id = causes.event_id and order_at < caused_at group by all"""
    )


def _instances(con: duckdb.DuckDBPyConnection, events: Events) -> str:
    """The query of all instances. What is kept of each while its events are gathered is numbers alone: memory is what it costs, and texts are most of that."""
    con.execute(
        "create temp table kinds as select event_type, row_number() over () - 1 as code from (select distinct event_type from held)"
    )
    ((kinds, repeated),) = con.execute("select (select count(*) from kinds), (select count(*) from repeats)").fetchall()
    mark, kind, time = marked(events, kinds, "code")
    once = " anti join repeats using (topic, partition_id, incarnation, record_offset)" if repeated else ""
    ends = {"first": "started", "last": "last", "ended": "ended"}
    told = [f"{name}_kind.event_type as {name}_type, {time.format(name, name)} as {when}_at" for name, when in ends.items()]
    named = [f"left join kinds as {name}_kind on {name}_kind.code = {kind.format(name)}" for name in ends]
    return f"""with steps as (
    select correlation_id, {mark} as mark, list_contains($done::varchar[] || $compensated::varchar[], event_type) as ends, list_contains($begin::varchar[], event_type) as begins
    from held{once} left join kinds using (event_type) where {_SAGA}
), gathered as (
    select correlation_id, count(*) as steps, min(mark) as first, max(mark) as last, max(mark) filter (ends) as ended, bool_or(begins) as begins
    from steps group by correlation_id
), instances as (
    select gathered.*, {", ".join(told)} from gathered {" ".join(named)}
)
{_INSTANCES}"""


_INSTANCES: Final = """
select correlation_id,
    case when list_contains($done::varchar[], ended_type) then 'finished' when ended_type is not null then 'compensated'
        when epoch_us($now::timestamptz) - epoch_us(last_at) >= $stuck_us then 'stuck' else 'running' end as state,
    steps, first_type, started_at, last_type, last_at, ended_type, ended_at,
    epoch_us(coalesce(ended_at, last_at)) - epoch_us(started_at) as took_us,
    case when ended_type is null then epoch_us($now::timestamptz) - epoch_us(last_at) end as silent_us, coalesce(backwards, 0) as backwards
from instances left join backwards using (correlation_id) where begins or len($begin::varchar[]) = 0
order by silent_us desc nulls last, last_at, correlation_id"""
