"""Two projections over the same history: which keys they do not agree on, and from which event on."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final, Self

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from eslab import replay
from eslab.again import NOWHERE, Shell
from eslab.changes import Changes, diff
from eslab.cuts import Clock
from eslab.errors import ProjectionError, UnknownId
from eslab.events import Events
from eslab.folding import Failure
from eslab.history import History, open_history
from eslab.model import MISSING, Coordinates, Selection, format_path, unpack_state
from eslab.parting import GROUPS, Parted, part, unpack_changes, unpack_failure
from eslab.projection import Projection
from eslab.sql import undecodable
from eslab.views import compare as drawn
from eslab.views.tables import shell, visible
from eslab.wording import many

__all__ = ["Comparison", "Difference", "Divergence", "compare"]

SIDES: Final = ("left", "right")


@dataclass(frozen=True, slots=True)
class Divergence:
    """The first event after which the two sides are not the same, and the paths in which they differ then (the first thousand)."""

    version: int
    event_id: str | None
    event_type: str | None
    recorded_at: dt.datetime | None
    coordinates: Coordinates
    paths: Changes

    def __repr__(self) -> str:
        what = f"{self.event_type or 'undecodable'} {self.event_id or self.coordinates}"
        return visible(f"<Divergence at version {self.version}: {what}, in {_paths(self.paths)}>")

    def _repr_html_(self) -> str:
        return drawn.parting(_parting(self, str), SIDES)


@dataclass(frozen=True, slots=True, eq=False)
class Difference:
    """What one key came to under both projections.

    `group` is equal, healed (equal, but not all the way), different, only_left, only_right, failed_left, failed_right or failed_both. `paths` are
    the changes from the left state to the right one; `divergence` is None where the two never differed.
    """

    key: str
    group: str
    names: tuple[str, str]
    steps: int
    divergence: Divergence | None
    failures: tuple[Failure | None, Failure | None]
    _packed: tuple[bytes | None, bytes | None]
    _histories: Callable[[], tuple[History, History]]
    clock: Clock
    again: str = ""
    """The line of shell that shows it again."""

    @property
    def left(self) -> Any:
        """The state on the left; `MISSING` where it ended or failed."""
        return self._side(0)

    @property
    def right(self) -> Any:
        """The state on the right; `MISSING` where it ended or failed."""
        return self._side(1)

    @property
    def paths(self) -> Changes:
        """What differs at the end; nothing where a side failed."""
        return Changes([], sides=SIDES) if any(self.failures) else diff(self.left, self.right, sides=SIDES)

    @property
    def histories(self) -> tuple[History, History]:
        """The history of this key under each of the two, up to where they were compared."""
        return self._histories()

    def step(self, *, height: int = 760) -> Any:
        """Both histories side by side in the stepper, at the divergence. Each has half the width, so all of it stands in one column; `height` in pixels."""
        opened = [history.step(at=self._position, height=height) for history in self.histories]
        return drawn.side_by_side(self.names, opened)

    @property
    def _position(self) -> int:
        return self.divergence.version if self.divergence else self.steps

    def _side(self, at: int) -> Any:
        packed = self._packed[at]
        if packed is not None:
            return unpack_state(packed)
        return self.histories[at].at().value if self.group == "equal" else MISSING

    def __repr__(self) -> str:
        failed = "; ".join(f"{side} failed: {one.error}" for side, one in _failed(self.failures))
        said = [self.group.replace("_", " "), _paths(self.paths), failed]
        return visible(f"<Difference of {self.key}: {', '.join(filter(None, said))}{f'; {self.divergence!r}' if self.divergence else ''}>")

    def _repr_html_(self) -> str:
        return drawn.detail(_detail(self)) + shell(self.again)


def _detail(one: Difference) -> drawn.Detail:
    left, right = one.left, one.right
    changes = Changes([]) if any(one.failures) else diff(left, right)
    rows, more = ([], 0) if left is MISSING and right is MISSING else _beside(left, right, changes)
    return drawn.Detail(
        key=one.key,
        group=one.group,
        names=one.names,
        rows=rows,
        more=more,
        parted=None if one.divergence is None else _parting(one.divergence, one.clock.show),
        failures=[f"{side} failed: {failure.error} (at {failure.event_id or failure.at})" for side, failure in _failed(one.failures)],
    )


def _failed(failures: tuple[Failure | None, Failure | None]) -> list[tuple[str, Failure]]:
    return [(side, one) for side, one in zip(SIDES, failures, strict=True) if one is not None]


def _beside(left: Any, right: Any, changes: Changes) -> tuple[list[tuple[drawn.Pathed, bool]], int]:
    """Two states as rows: each top-level field, and where it differs, each path in it that does; and how many rows there was no room for."""
    if not isinstance(left, dict) or not isinstance(right, dict):
        return [(("(all)", left, right), bool(changes))], 0
    names = dict.fromkeys([*left, *right])
    differing: dict[Any, list[drawn.Pathed]] = {one.path[0]: [] for one in changes}
    for one in changes[: drawn.ROWS]:  # what differs goes before what does not
        differing[one.path[0]].append((format_path(one.path), one.before, one.after))
    room = drawn.ROWS - len(changes[: drawn.ROWS])
    rows: list[tuple[drawn.Pathed, bool]] = []
    for name in names:
        if name in differing:
            rows += [(pathed, True) for pathed in differing[name]]
        elif room:
            room -= 1
            rows.append(((format_path((name,)), left[name], right[name]), False))
    return rows, len(changes) + len(names) - len(differing) - len(rows)


def _parting(parted: Divergence, show: Callable[[dt.datetime | None], str]) -> drawn.Parting:
    return drawn.Parting(
        version=parted.version,
        event_type=parted.event_type or "(undecodable)",
        event_id=parted.event_id or str(parted.coordinates),
        recorded=show(parted.recorded_at),
        at=str(parted.coordinates),
        paths=[(format_path(one.path) or "(all)", one.before, one.after) for one in parted.paths[: drawn.ROWS]],
        more=max(0, len(parted.paths) - drawn.ROWS),
    )


class Comparison(Mapping[str, Difference]):
    """The keys on which two projections do not agree, by id; of any other key that both folded, `comparison[key]` knows as well.

    `counts` has the number of keys in each group; `equal`, `different`, `only_left`, `only_right`, `failed` and `healed` are the ids. A key that `partial`
    names may miss events; `undecodable` counts the records in the selection, of whatever key, that could not be read as events. Keys that ended on both sides are not compared unless they were asked for.
    """

    def __init__(self, events: Events, sides: tuple[Projection, Projection], selection: Selection, clock: Clock, parted: Parted) -> None:
        self.left, self.right = sides
        self.selection, self.counts = selection, dict(parted.counts)
        self.ended, self.partial, self.steps = parted.ended, parted.partial, parted.steps
        self.undecodable = undecodable(events, selection)
        self._events, self._clock, self._parted = events, clock, parted
        self._shell, self._shells = NOWHERE, (NOWHERE, NOWHERE)
        self._keys: Sequence[str] | None = None

    def asked_by(self, shell: Shell, shells: tuple[Shell, Shell], keys: Sequence[str] | None) -> Self:
        """This comparison, which the shell asks for, of these keys; and the histories under either side by shells of their own."""
        self._shell, self._shells, self._keys = shell, shells, keys
        return self

    @property
    def again(self) -> str:
        """The line of shell that shows it again; "" where none does."""
        return self._shell.line("compare", key=self._keys)

    @property
    def equal(self) -> tuple[str, ...]:
        """The keys whose two states are the same; those that had parted on the way are `healed`, too."""
        return tuple(self._parted.equal.keys())

    @property
    def different(self) -> tuple[str, ...]:
        return self._of("different")

    @property
    def only_left(self) -> tuple[str, ...]:
        """The keys that have ended on the right alone."""
        return self._of("only_left")

    @property
    def only_right(self) -> tuple[str, ...]:
        """The keys that have ended on the left alone."""
        return self._of("only_right")

    @property
    def failed(self) -> tuple[str, ...]:
        """The keys for which a handler raised, on either side."""
        return self._of("failed_left", "failed_right", "failed_both")

    @property
    def healed(self) -> tuple[str, ...]:
        """The equal keys that had parted on the way."""
        return self._of("healed")

    def __len__(self) -> int:
        return sum(self.counts.values()) - self.counts["equal"]

    def __iter__(self) -> Iterator[str]:
        for batch in self._parted.rows.batches:
            yield from batch.column("aggregate_id").filter(pc.not_equal(batch.column("group"), "healed")).to_pylist()

    def __contains__(self, key: object) -> bool:
        found = self._parted.rows.find(key)
        return found is not None and found[0].column("group")[found[1]].as_py() != "healed"

    def __getitem__(self, key: str) -> Difference:
        found = self._parted.rows.find(key)
        if found is not None:
            return self._difference({name: found[0].column(name)[found[1]].as_py() for name in found[0].schema.names})
        same = self._parted.equal.find(key)
        if same is None:
            over = f" ({self.ended:,} that ended on both sides are left out; ended=True takes them in)" if self.ended else ""
            raise UnknownId(f"no {self.left.aggregate} {key!r} in this comparison of {sum(self.counts.values()):,}{over}")
        steps = same[0].column("steps")[same[1]].as_py()
        line = self._shell.line("compare", key=key)
        return Difference(
            key, "equal", self._names, steps, None, (None, None), (None, None), lambda: self._histories(key), self._clock, line
        )

    def arrow(self) -> pa.Table:
        """One row per key on which the two do not agree: what `df` has, and the states `left` and `right` as JSON (`Decimal` and `datetime` as docs/format.md writes them)."""
        frame = self.df()
        times = _FRAME.get_field_index("recorded_at")
        zoned = _FRAME.set(times, pa.field("recorded_at", pa.timestamp("us", tz=str(self._clock.zone))))
        table = pa.Table.from_pandas(frame.reset_index(), schema=zoned, preserve_index=False)
        kept = self._parted.rows.table()
        kept = kept.filter(pc.not_equal(kept["group"], "healed"))
        for side in SIDES:
            table = table.append_column(side, kept[side].cast(pa.string()))
        return table

    def df(self) -> pd.DataFrame:
        """One row per key on which the two do not agree, by aggregate_id.

        group, paths (that differ at the end); of the first event after which they differ: version, event_type, event_id, recorded_at, at, and
        parted (the paths that differ there); problem (of a key that failed).
        """
        zone = self._clock.zone
        frame = pd.DataFrame([self._row(one) for one in self.values()], columns=list(_FRAME.names)).set_index("aggregate_id")
        frame.index = frame.index.astype("str")
        frame["version"] = frame["version"].astype("Int64")
        frame["recorded_at"] = pd.to_datetime(frame["recorded_at"], utc=True).dt.tz_convert(zone).dt.as_unit("us")
        texts = ["group", "event_type", "event_id", "at", "problem"]
        return frame.astype(dict.fromkeys(texts, "str"))

    def values(self) -> Iterator[Difference]:  # type: ignore[override]
        """The differences in the order of their keys, read once."""
        return (self._difference(row) for row in self._parted.rows.rows() if row["group"] != "healed")

    def _of(self, *groups: str) -> tuple[str, ...]:
        wanted = pa.array(groups, pa.string())
        return tuple(
            key
            for batch in self._parted.rows.batches
            for key in batch.column("aggregate_id").filter(pc.is_in(batch.column("group"), wanted)).to_pylist()
        )

    def _difference(self, row: dict[str, Any]) -> Difference:
        key = row["aggregate_id"]
        divergence = None
        if row["version"] is not None:
            where = Coordinates(row["topic"], row["partition_id"], row["incarnation"], row["record_offset"])
            divergence = Divergence(
                row["version"],
                row["event_id"],
                row["event_type"],
                row["recorded_at"] and row["recorded_at"].astimezone(self._clock.zone),
                where,
                unpack_changes(row["changes"]),
            )
        failures = (unpack_failure(key, row["left_failure"]), unpack_failure(key, row["right_failure"]))
        return Difference(
            key,
            row["group"],
            self._names,
            row["steps"],
            divergence,
            failures,
            (row["left"], row["right"]),
            lambda: self._histories(key),
            self._clock,
            self._shell.line("compare", key=key),
        )

    def _histories(self, key: str) -> tuple[History, History]:
        left, right = (
            open_history(self._events, side.aggregate, key, side, self.selection, self._clock, shell.of(side.aggregate, key))
            for side, shell in zip((self.left, self.right), self._shells, strict=True)
        )
        return left, right

    def _row(self, one: Difference) -> dict[str, Any]:
        parted = one.divergence
        return {
            "aggregate_id": one.key,
            "group": one.group,
            "paths": _names(one.paths),
            **(
                {
                    "version": parted.version,
                    "event_type": parted.event_type,
                    "event_id": parted.event_id,
                    "recorded_at": parted.recorded_at,
                    "at": str(parted.coordinates),
                    "parted": _names(parted.paths),
                }
                if parted
                else dict.fromkeys(("version", "event_type", "event_id", "recorded_at", "at")) | {"parted": []}
            ),
            "problem": "; ".join(f"{side} failed: {failure.error}" for side, failure in _failed(one.failures)),
        }

    # --- how it looks

    @cached_property
    def _names(self) -> tuple[str, str]:
        left, right = (f"{side.name} v{side.version}" for side in (self.left, self.right))
        return (left, right) if left != right else (f"{left} (left)", f"{right} (right)")

    def _said(self) -> str:
        total = sum(self.counts.values())
        said = [f"{count:,} {group.replace('_', ' ')}" for group, count in self.counts.items() if count or group in ("equal", "different")]
        said += [f"{self._parted.healed:,} of the equal had parted on the way"] if self._parted.healed else []
        said += [f"{self.ended:,} ended on both sides"] if self.ended else []
        said += [f"{len(self.partial):,} partial"] if self.partial else []
        said += [f"{self.undecodable:,} undecodable records in range"] if self.undecodable else []
        said += [f"without {without}"] if (without := self.selection.cut.without) else []
        until = self.selection.cut.label or "by a cut"
        return f"{many(total, f'{self.left.aggregate} key')} from {many(self.steps, 'step')}, {until}: {', '.join(said)}"

    def __repr__(self) -> str:
        return visible(f"<Comparison of {self._names[0]} with {self._names[1]}: {self._said()}>")

    def _repr_html_(self) -> str:
        return drawn.html(self._view())

    def _repr_mimebundle_(self, **_: Any) -> Any:
        return drawn.mimebundle(self._view(), repr(self))

    def _view(self) -> drawn.View:
        return drawn.View(
            names=self._names,
            said=self._said(),
            counts=[(group, self.counts[group]) for group in GROUPS] + [("healed", self._parted.healed)],
            keys=self._labels,
            total=len(self),
            detail=lambda key: _detail(self[key]),
            step=lambda key: self[key].step(),
            again=self.again,
        )

    def _labels(self, wanted: str, most: int) -> list[tuple[str, str]]:
        """The first keys that hold this text, each with its group."""
        found: list[tuple[str, str]] = []
        for batch in self._parted.rows.batches:
            held = pc.match_substring(batch.column("aggregate_id"), wanted) if wanted else pc.is_valid(batch.column("aggregate_id"))
            here = batch.filter(held)
            found += zip(here.column("aggregate_id").to_pylist(), here.column("group").to_pylist(), strict=True)
            if len(found) >= most:
                break
        return found[:most]


_FRAME: Final = pa.schema(
    [
        ("aggregate_id", pa.string()),
        ("group", pa.string()),
        ("paths", pa.list_(pa.string())),
        ("version", pa.int64()),
        ("event_type", pa.string()),
        ("event_id", pa.string()),
        ("recorded_at", pa.timestamp("us", tz="UTC")),
        ("at", pa.string()),
        ("parted", pa.list_(pa.string())),
        ("problem", pa.string()),
    ]
)


def _names(changes: Changes) -> list[str]:
    return [format_path(one.path) or "(all)" for one in changes]


def _paths(changes: Changes) -> str:
    return ", ".join(_names(changes[:3])) + (f" and {len(changes) - 3} more" if len(changes) > 3 else "")


def compare(
    events: Events,
    left: Projection,
    right: Projection,
    selection: Selection,
    clock: Clock,
    *,
    keys: Sequence[str] | None = None,
    ended: bool = False,
    on_rows: Callable[[int], None] = lambda count: None,
    say: Callable[[str], None] = lambda notice: None,
) -> Comparison:
    """Fold both in one pass; `say` hears of keys that no captured event belongs to. Raises `ProjectionError` if they fold different aggregates, and what `replay.plan` raises."""
    if left.aggregate != right.aggregate:
        raise ProjectionError(
            f"{left.name!r} folds {left.aggregate!r} and {right.name!r} folds {right.aggregate!r}; two projections are compared over one aggregate"
        )
    if (left.key, left.topics) != (right.key, right.topics):
        raise ProjectionError(
            f"{left.name!r} and {right.name!r} are keyed differently, or fold other topics; two projections are compared over the same keys"
        )
    plans = [replay.plan(events, one, selection, keys=keys, ended=ended) for one in (left, right)]
    parted = part(plans[0], plans[1], on_rows=on_rows)
    for notice in replay.unknown_keys(plans[0], lambda key: any(kept.find(key) is not None for kept in (parted.equal, parted.rows))):
        say(notice)
    return Comparison(events, (left, right), selection, clock, parted)
