"""Two timelines of one history held side by side: as it was, and with other events in it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, overload

import pandas as pd
import pyarrow as pa

from eslab.again import Again
from eslab.changes import Changes, diff, same
from eslab.cuts import Clock
from eslab.history import History, Step
from eslab.model import Event, format_path, pack_state
from eslab.overlay import Place
from eslab.views import tables
from eslab.views import timelines as drawn
from eslab.wording import many

__all__ = ["SIDES", "Pair", "Timelines"]

SIDES: Final = ("as it was", "what if")
_DOWN: Final = frozenset({"failed", "skipped"})


@dataclass(frozen=True, slots=True)
class Pair:
    """One record in two timelines: its step on either side, None where it does not stand there.

    `done` says what was done to it (dropped, edited, inserted, duplicate, moved, delayed; "" for one that is as it was: a record that was moved stands in one row on each side).
    `states` are those of the two sides after it; `differs` whether they are not the same, or only one side has failed.
    """

    left: Step | None
    right: Step | None
    done: str
    states: tuple[Any, Any]
    differs: bool

    @property
    def event(self) -> Event:
        """The event as the what-if has it; where it has not, as it was."""
        step = self.right or self.left
        assert step is not None
        return step.event

    @property
    def paths(self) -> Changes:
        """In what the two sides differ after it."""
        return diff(*self.states, sides=SIDES)

    def __repr__(self) -> str:
        versions = " | ".join("—" if step is None else f"version {step.version}" for step in (self.left, self.right))
        where = ", ".join(format_path(one.path) or "(all)" for one in self.paths[:5])
        differs = f"; they differ{f' in {where}' if where else ''}" if self.differs else ""
        return tables.visible(f"<Pair {versions}: {_named(self.event)}{f', {self.done}' if self.done else ''}{differs}>")

    def _repr_html_(self) -> str:
        return f"<p>{tables.escape(repr(self).strip('<>'))}</p>{self.paths._repr_html_()}"


class Timelines(Again, Sequence[Pair]):
    """The two timelines of a what-if, a row for each record that stands in either, in order.

    `before` and `after` are the histories; `divergence` is the first row after which they differ, None if they never do; `changes` is what differs at the end.
    """

    def __init__(
        self,
        before: History,
        after: History,
        places: tuple[Sequence[Place], Sequence[Place]],
        done: Sequence[str],
        said: Sequence[str],
        clock: Clock,
    ) -> None:
        """`done` says of each row, as `paired` has them, what was done to its record; `said` are the verbs."""
        self.before, self.after, self.said = before, after, tuple(said)
        self._rows, self._done, self._clock = list(paired(*places)), list(done), clock
        self._differs = [differs for *_, differs in self._folded()]

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, at: int) -> Pair: ...
    @overload
    def __getitem__(self, at: slice) -> list[Pair]: ...
    def __getitem__(self, at: int | slice) -> Pair | list[Pair]:
        if isinstance(at, slice):
            return [self[one] for one in range(*at.indices(len(self)))]
        row = range(len(self))[at]
        steps = [None if position is None else history[position] for history, position in zip(self._sides, self._rows[row], strict=True)]
        states = [
            step.after if step is not None else history.at(version=self._version(row, side)).value
            for side, (step, history) in enumerate(zip(steps, self._sides, strict=True))
        ]
        return Pair(steps[0], steps[1], self._done[row], (states[0], states[1]), self._differs[row])

    def __iter__(self) -> Iterator[Pair]:
        for row, (left, right, states, differs) in enumerate(self._folded()):
            yield Pair(left, right, self._done[row], states, differs)

    @property
    def divergence(self) -> Pair | None:
        """The first record after which the two sides differ; None if they never do."""
        return next((self[row] for row, differs in enumerate(self._differs) if differs), None)

    @property
    def changes(self) -> Changes:
        """What differs at the end, from as it was to what if."""
        return diff(self.before.at().value, self.after.at().value, sides=SIDES)

    @property
    def healed(self) -> bool:
        """Whether they differed on the way, and no longer do at the end."""
        return any(self._differs) and not self._differs[-1]

    @property
    def _sides(self) -> tuple[History, History]:
        return self.before, self.after

    def _version(self, row: int, side: int) -> int:
        """How many steps a side has taken after a row."""
        return sum(one[side] is not None for one in self._rows[: row + 1])

    def _folded(self) -> Iterator[tuple[Step | None, Step | None, tuple[Any, Any], bool]]:
        """Each row with its steps, the states after it, and whether they differ. Folds every step of either side once."""
        steps = [iter(history) for history in self._sides]
        states = [history.projection.initial() for history in self._sides]
        down = [False, False]
        for positions in self._rows:
            here: list[Step | None] = [None, None]
            for side, position in enumerate(positions):
                if position is not None:
                    step = here[side] = next(steps[side])
                    states[side], down[side] = step.after, bool(_DOWN & {*step.marks})
            yield here[0], here[1], (states[0], states[1]), down[0] != down[1] or not same(*states)

    def df(self) -> pd.DataFrame:
        """One row per record in either: left_version, right_version, done, event_type, event_id, recorded_at (as the what-if has it), marks of either, differs, paths, and the states left and right after it."""
        rows = list(self)
        events = [row.event for row in rows]
        frame = pd.DataFrame(
            {
                "left_version": pd.Series([row.left and row.left.version for row in rows], dtype="Int64"),
                "right_version": pd.Series([row.right and row.right.version for row in rows], dtype="Int64"),
                "done": pd.Series([row.done for row in rows], dtype="str"),
                "event_type": pd.Series([_type(event) for event in events], dtype="str"),
                "event_id": pd.Series([event.id for event in events], dtype="str"),
                "recorded_at": pd.to_datetime(pd.Series([event.recorded_at for event in events], dtype=object), utc=True),
                "left_marks": pd.Series([", ".join(row.left.marks) if row.left else "" for row in rows], dtype="str"),
                "right_marks": pd.Series([", ".join(row.right.marks) if row.right else "" for row in rows], dtype="str"),
                "differs": pd.Series([row.differs for row in rows], dtype="bool"),
                "paths": pd.Series([[format_path(one.path) for one in row.paths] for row in rows], dtype=object),
                "left": pd.Series([row.states[0] for row in rows], dtype=object),
                "right": pd.Series([row.states[1] for row in rows], dtype=object),
            }
        )
        frame["recorded_at"] = frame["recorded_at"].dt.tz_convert(self._clock.zone)
        return frame

    def arrow(self) -> pa.Table:
        """What `df` has, in Arrow: the states as JSON (`Decimal` and `datetime` as docs/format.md writes them)."""
        frame = self.df()
        paths = pa.array(frame.pop("paths").tolist(), pa.list_(pa.string()))
        for side in ("left", "right"):
            frame[side] = pd.Series([pack_state(state).decode() for state in frame[side]], dtype="str")
        return pa.Table.from_pandas(frame, preserve_index=False).append_column("paths", paths)

    @property
    def sentences(self) -> tuple[str, ...]:
        """What came of it, in one sentence or a few."""
        who = f"{self.before.aggregate} {self.before.aggregate_id}"
        steps = f"{many(len(self.before), 'step')} as it was, {len(self.after):,} in the what-if"
        first = self.divergence
        if first is None:
            told = "nothing comes out different" if any(self._done) else "none of it touches this history"
            return (f"{who}: {steps}; {told}.", *self._failures())
        ends = (
            "at the end they are the same again"
            if self.healed
            else f"at the end {many(len(self.changes), 'path')} differ" + ("s" if len(self.changes) == 1 else "")
        )
        where = ", ".join(format_path(one.path) or "(all)" for one in first.paths[:5])
        when = f"They part after {_named(first.event)} ({first.done or 'as it was'}), recorded {self._clock.show(first.event.recorded_at)}{f', in {where}' if where else ''}"
        return (f"{who}: {steps}.", f"{when}; {ends}.", *self._failures())

    def _failures(self) -> Iterator[str]:
        for name, history in zip(SIDES, self._sides, strict=True):
            failed = history.failure
            if failed is not None:
                yield f"{name.capitalize()} it fails at version {failed[0]}: {failed[1]}."

    def __repr__(self) -> str:
        return tables.visible(f"<Timelines of {' '.join(self.sentences)}>")

    def _repr_html_(self) -> str:
        return drawn.html(self._view()) + tables.shell(self.again)

    def _view(self) -> drawn.View:
        chosen = drawn.chosen(
            len(self),
            [row for row, done in enumerate(self._done) if done],
            next((row for row, differs in enumerate(self._differs) if differs), None),
        )
        return drawn.View(
            SIDES,
            self.said,
            self.sentences,
            [self._row(row) for row in chosen],
            len(self),
            [(format_path(one.path) or "(all)", one.before, one.after) for one in self.changes],
        )

    def _row(self, row: int) -> drawn.Row:
        pair = self[row]
        event = pair.event
        sides = tuple(
            None
            if step is None
            else drawn.Side(step.version, [str(one) for one in step.changes], [*step.marks, *filter(None, [step.problem])])
            for step in (pair.left, pair.right)
        )
        differs = [format_path(one.path) or "(all)" for one in pair.paths] or ["one side has failed"] if pair.differs else []
        return drawn.Row(row, pair.done, _named(event), self._clock.show(event.recorded_at), (sides[0], sides[1]), differs)


def _type(event: Event) -> str | None:
    return event.type if isinstance(event.type, str) else None if event.type is None else "(tombstone)"


def _named(event: Event) -> str:
    return f"{_type(event) or 'undecodable'} {event.id or event.coordinates}"


def paired(left: Sequence[Place], right: Sequence[Place]) -> Iterator[tuple[int | None, int | None]]:
    """Positions in two sorted lists of places, walked along at once: both where they are the same place, else the one that comes first."""
    one = other = 0
    while one < len(left) or other < len(right):
        if other == len(right) or (one < len(left) and left[one] < right[other]):
            yield one, None
            one += 1
        elif one == len(left) or right[other] < left[one]:
            yield None, other
            other += 1
        else:
            yield one, other
            one, other = one + 1, other + 1
