"""What set this value: the changes of a history, and of each the event and the handler that made it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, overload

import msgspec
import pandas as pd
import pyarrow as pa
from msgspec.structs import replace

from eslab.again import Again
from eslab.changes import same
from eslab.cuts import Clock
from eslab.errors import UnknownPath
from eslab.model import MISSING, TOMBSTONE, Change, Event, Path, format_path, pack_state, value_at
from eslab.views import tables

__all__ = ["Cause", "Causes", "Explanation", "explained", "last_of_each", "of_path"]

SHOWN: Final = 20


class Cause(msgspec.Struct, frozen=True, gc=False):
    """One path that a step changed, the event that did it, and the name of the handler ("" where a tombstone reset the state)."""

    version: int
    change: Change
    event: Event
    handler: str

    def __str__(self) -> str:
        by = f" by {self.handler}" if self.handler else ""
        return tables.visible(f"version {self.version}, {told(self.event)}{by}: {self.change}")


def told(event: Event) -> str:
    """An event in few words."""
    kind = "a tombstone" if event.type is TOMBSTONE else event.type or "an undecodable record"
    return f"{kind} {event.id or event.coordinates}"


class Causes(Again, Sequence[Cause]):
    """What changed, and by which event. `said` is what they are the causes of."""

    def __init__(self, causes: Sequence[Cause], *, said: str, clock: Clock) -> None:
        self._causes, self._said, self._clock = tuple(causes), said, clock

    @overload
    def __getitem__(self, at: int) -> Cause: ...
    @overload
    def __getitem__(self, at: slice) -> Causes: ...
    def __getitem__(self, at: int | slice) -> Cause | Causes:
        return Causes(self._causes[at], said=self._said, clock=self._clock) if isinstance(at, slice) else self._causes[at]

    def __len__(self) -> int:
        return len(self._causes)

    def __repr__(self) -> str:
        more = [f"and {len(self) - SHOWN:,} more"] if len(self) > SHOWN else []
        return "\n".join([tables.visible(f"{self._said}: {self._count()}"), *map(str, self._causes[:SHOWN]), *more])

    def _repr_html_(self) -> str:
        columns = ["version", "path", "before", "after", "event", "recorded", "handler"]
        rows = (
            (
                one.version,
                _name(one.change.path),
                one.change.before,
                one.change.after,
                told(one.event),
                self._clock.show(one.event.recorded_at),
                one.handler,
            )
            for one in self._causes
        )
        return tables.html(columns, rows, caption=f"{self._said}: {self._count()}", empty="no event changed it") + tables.shell(self.again)

    def _count(self) -> str:
        return f"{len(self):,} change{'s' * (len(self) != 1)}"

    def df(self) -> pd.DataFrame:
        """One row per change: version, path (text), before, after (`MISSING` where it is not there), event_type, event_id, recorded_at, at, handler."""
        frame = pd.DataFrame(
            {
                "version": pd.Series([one.version for one in self], dtype="int64"),
                "path": pd.Series([_name(one.change.path) for one in self], dtype="str"),
                "before": pd.Series([one.change.before for one in self], dtype=object),
                "after": pd.Series([one.change.after for one in self], dtype=object),
                "event_type": pd.Series([one.event.type if isinstance(one.event.type, str) else None for one in self], dtype="str"),
                "event_id": pd.Series([one.event.id for one in self], dtype="str"),
                "recorded_at": pd.to_datetime(pd.Series([one.event.recorded_at for one in self], dtype=object), utc=True),
                "at": pd.Series([str(one.event.coordinates) for one in self], dtype="str"),
                "handler": pd.Series([one.handler for one in self], dtype="str"),
            }
        )
        frame["recorded_at"] = frame["recorded_at"].dt.tz_convert(self._clock.zone)
        return frame

    def arrow(self) -> pa.Table:
        """What `df` has, in Arrow: before and after as JSON (`Decimal` and `datetime` as docs/format.md writes them), null where it is not there."""
        frame = self.df()
        for side in ("before", "after"):
            packed = [None if value is MISSING else pack_state(value).decode() for value in frame[side]]
            frame[side] = pd.Series(packed, dtype="str")
        return pa.Table.from_pandas(frame, preserve_index=False)


def _name(path: Path) -> str:
    return format_path(path) or "(all)"


def of_path(causes: Iterable[Cause], path: Path) -> Iterator[Cause]:
    """The causes that touched what stands at a path: changes of it, within it, and of what holds it if it came out different."""
    for cause in causes:
        changed, before, after = cause.change.path, cause.change.before, cause.change.after
        if changed[: len(path)] == path:
            yield cause
        elif path[: len(changed)] == changed:
            inner = path[len(changed) :]
            own = Change(path, value_at(before, inner, MISSING), value_at(after, inner, MISSING))
            if not same(own.before, own.after):
                yield replace(cause, change=own)


def last_of_each(causes: Iterable[Cause]) -> list[Cause]:
    """The last change of every path that an event set or removed: each value that is no object or list, or an empty one."""
    last: dict[Path, Cause] = {}
    for cause in causes:
        path, before, after = cause.change.path, cause.change.before, cause.change.after
        for at in range(len(path)):
            last.pop(path[:at], None)  # what holds it was empty
        for gone, _ in _leaves(before, path):
            last.pop(gone, None)
        for leaf, value in _leaves(after, path):
            last.pop(leaf, None)  # so that the newest stands last
            last[leaf] = replace(cause, change=Change(leaf, value_at(before, leaf[len(path) :], MISSING), value))
    return list(last.values())


def _leaves(value: Any, path: Path) -> Iterator[tuple[Path, Any]]:
    if value and isinstance(value, (dict, list, tuple)):
        for part, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _leaves(inner, (*path, part))
    else:
        yield path, value


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why a value is what it is, in at most two sentences. `causes` are the changes that they tell of, newest first."""

    sentences: tuple[str, ...]
    causes: tuple[Cause, ...]
    again: str = ""
    """The line of shell that tells it again."""

    def __repr__(self) -> str:
        return tables.visible("\n".join(self.sentences))

    def _repr_html_(self) -> str:
        return tables.paragraphs(self.sentences) + tables.shell(self.again)


def explained(path: Path, causes: Sequence[Cause], state_at: Callable[[int], Any], version: int, clock: Clock) -> Explanation:
    """Why what stands at a path after `version` steps does. `causes` are those of the path, newest first. Raises `UnknownPath` if it never stood there."""
    name, now = _name(path), value_at(state_at(version), path, MISSING)
    known = tuple(one for one in causes if one.version <= version)[:2]
    if not known:
        if now is MISSING:
            raise UnknownPath(
                f"{name} is in no state up to version {version}, and no event ever set it; h.blame() lists the paths that one set"
            )
        return Explanation((f"{name} is {tables.show(now)} in the initial state, and no event up to version {version} changed it.",), ())
    last, *earlier = known
    was = value_at(state_at(last.version - 1), path, MISSING)
    if earlier:
        before = f"Before that it {_was(was)}, since {_when(earlier[0], clock)}."
    else:
        before = "No earlier event set it." if was is MISSING else f"Before that it {_was(was)}, as in the initial state."
    return Explanation((f"{name} {_is(now)} since {_when(last, clock)}.", before), known)


def _is(value: Any) -> str:
    return "is not there" if value is MISSING else f"is {tables.show(value)}"


def _was(value: Any) -> str:
    return "was not there" if value is MISSING else f"was {tables.show(value)}"


def _when(cause: Cause, clock: Clock) -> str:
    by = f" folded by {cause.handler}" if cause.handler else ""
    return f"{clock.show(cause.event.recorded_at)}: {told(cause.event)}{by} (version {cause.version})"
