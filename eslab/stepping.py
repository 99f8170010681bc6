"""A history written down for a page that steps by itself.

UTF-8 lines; their fields are JSON texts parted by tabs, of which JSON text itself has none:

    line 0    {"name", "projection", "first", "last", "total", "keys", "marks", "notes", "line", "types", "type_of", "times_ms"}, the state after `first` steps
    line n    [type, marks, problem, recorded, happened, id, version, source, at, correlation, causation, trace, late_ms, clock, changes],
              the event's data, the patch that makes the state after step first + n, and at the versions in `keys` that whole state

`line` is the line of shell that shows the state at 0, in two parts, between which any other version may stand; null where none does. `types` are the event types in the order in which they came (null: none), `type_of` says for each step which of them, `times_ms` when it was recorded, in the lab's
order of time: what is asked of all steps at once stands in line 0, so that no line is parsed for it.

The data is the payload's own text, and no number goes through a float. A whole state is written once the patches since the last one weigh as much: that doubles
the patches at most, and a jump to any step reads no more than two states' worth.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from eslab.folding import Rows
from eslab.model import Coordinates, dumps
from eslab.patches import Follower

__all__ = ["BYTES", "Folded", "Script", "write"]

BYTES: Final = 64_000_000  # of a script: what a page opens in about a second; a notebook's front end holds it in memory
NEAR: Final = 8  # steps without a whole state between them, at least: so many patches are read faster than asked for
_COLUMNS: Final = (
    *("timestamp_type", "event_id", "event_version", "source", "topic", "partition_id", "incarnation", "record_offset"),
    *("correlation_id", "causation_id", "trace_id"),
)


class Folded(NamedTuple):
    """One step as the fold left it; `state` is lent until the next one is asked for."""

    type: str | None
    state: Any
    marks: tuple[str, ...]
    problem: str | None


@dataclass(frozen=True, slots=True)
class Script:
    """The steps `first` (exclusive) to `last` of a history, written down."""

    first: int
    last: int
    lines: bytes


def write(
    rows: Rows,
    folded: Iterator[Folded],
    *,
    name: str,
    projection: str,
    first: int,
    last: int,
    notes: list[str],
    initial: Any,
    show: Callable[[pa.ChunkedArray], list[str | None]],
    line: tuple[str, str] | None = None,
    limit_bytes: int = BYTES,
) -> Script:
    """Write down the steps first + 1 to last, folding each once; fewer where they would take more than `limit_bytes`, and `notes` then say so."""
    follower = Follower(initial)
    begin = dumps(follower.state)
    lines, keys, marked = [b""], [], dict[str, list[int]]()
    types, type_of = dict[str | None, int](), list[int]()
    total = whole = len(begin)
    patched = since = 0
    if follower.odd:
        notes = [*notes, f"initial state: {follower.odd}"]
    position = first
    for position, (step, row, data) in enumerate(
        zip(folded, _rows(rows, first, last, show), rows.list("data")[first:last], strict=True), first + 1
    ):
        patch = follower.follow(step.state)
        marks, problem = step.marks, step.problem
        if follower.odd:
            marks, problem = (*marks, "no JSON"), problem or follower.odd
        for mark in marks:
            marked.setdefault(mark, []).append(position)
        type_of.append(types.setdefault(step.type, len(types)))
        change = dumps(patch)
        fields = [dumps((step.type, marks, problem, *row, len(patch))), _one_line(data), change]
        patched, since = patched + len(change), since + 1
        if patched >= whole and since >= NEAR:
            fields.append(dumps(follower.state))
            keys.append(position)
            whole, patched, since = len(fields[-1]), 0, 0
        lines.append(b"\t".join(fields))
        total += len(lines[-1])
        if total > limit_bytes and position < last:
            notes = [*notes, f"steps {position + 1:,} to {last:,} are not shown: what is shown already takes {total / 1e6:,.0f} MB"]
            break
    header = {"name": name, "projection": projection, "first": first, "last": position, "total": len(rows)}
    times_ms = _milliseconds(rows.column("order_at").slice(first, position - first))
    index = {"types": list(types), "type_of": type_of, "times_ms": times_ms}
    lines[0] = dumps({**header, "keys": keys, "marks": marked, "notes": notes, "line": line, **index}) + b"\t" + begin
    return Script(first, position, b"\n".join(lines))


def _rows(rows: Rows, first: int, last: int, show: Callable[[pa.ChunkedArray], list[str | None]]) -> Iterator[tuple[Any, ...]]:
    """Of each step what its line tells between `problem` and `changes`."""
    recorded, happened = (rows.column(name).slice(first, last - first) for name in ("recorded_at", "happened_at"))
    clock, event_id, version, source, topic, partition, incarnation, offset, *causes = (rows.list(name)[first:last] for name in _COLUMNS)
    late_ms = _milliseconds(pc.subtract(recorded, happened))
    at = map(str, map(Coordinates, topic, partition, incarnation, offset))
    return zip(show(recorded), show(happened), event_id, version, source, at, *causes, late_ms, clock, strict=True)


def _milliseconds(times: pa.ChunkedArray) -> list[int | None]:
    """Times since 1970, or spans, as whole milliseconds, rounded."""
    whole = (times.cast(pa.int64()).fill_null(0).to_numpy() + 500) // 1000  # no float holds the microseconds of every year
    rounded: list[int | None] = pc.if_else(times.is_valid(), pa.array(whole), None).to_pylist()
    return rounded


def _one_line(text: str | None) -> bytes:
    """A JSON text without the line breaks and tabs that may stand between its parts."""
    return b"null" if text is None else text.encode().replace(b"\n", b" ").replace(b"\r", b" ").replace(b"\t", b" ")
