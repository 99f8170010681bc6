"""What a history hands out: a step, and the state at a moment."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from eslab.again import NOWHERE, Shell
from eslab.changes import Changes, diff
from eslab.model import Cut, Event
from eslab.views import tables

__all__ = ["State", "Step"]


@dataclass(frozen=True, slots=True)
class Step:
    """One record of a history and the state after it.

    `marks` say what is not usual: duplicate (an event id seen before in this history; folded again, as delivered), undecodable and unhandled (the state stays), tombstone
    (the state is reset), failed (the handler raised: the state stays, and nothing after it is folded), skipped (comes after a failure).
    """

    version: int
    event: Event
    before: Any
    after: Any
    marks: tuple[str, ...] = ()
    problem: str | None = None
    shell: Shell = field(default=NOWHERE, compare=False)

    @property
    def again(self) -> str:
        """The line of shell that shows the state after it again; "" where none does."""
        return self.shell.line("at", f"v{self.version}")

    @property
    def changes(self) -> Changes:
        """What this step changed."""
        return diff(self.before, self.after)

    def __repr__(self) -> str:
        marks = f" [{', '.join(self.marks)}]" if self.marks else ""
        problem = f": {self.problem}" if self.problem else ""
        return tables.visible(f"<Step {self.version}: {self.event.type_name} {self.event.id or self.event.coordinates}{marks}{problem}>")

    def _repr_html_(self) -> str:
        problem = f"<p><strong>{tables.escape(self.problem)}</strong></p>" if self.problem else ""
        return f"<p>{tables.escape(repr(self).strip('<>'))}</p>{problem}{self.changes._repr_html_()}{tables.shell(self.again)}"


@dataclass(frozen=True, slots=True, eq=False)
class State:
    """The state of an aggregate after `version` steps (0: before the first).

    `value` is the caller's own; `event` the last event folded; `partial` says why events may be missing, "" if none are known
    to be. `note` says what the moment asked for means here, where that is not plain.
    """

    aggregate: str
    aggregate_id: str
    value: Any
    version: int
    event: Event | None
    partial: str = ""
    note: str = ""
    _cut: Callable[[], Cut] = field(default=lambda: Cut({}), repr=False)
    again: str = ""
    """The line of shell that shows it again."""

    @property
    def cut(self) -> Cut:
        """The cut that this state stands at. Scans order_at of all events where the moment was not a cut."""
        return self._cut()

    def __getitem__(self, key: Any) -> Any:
        return self.value[key]

    def _said(self) -> str:
        notes = "".join(f" ({note})" for note in (self.note, f"partial: {self.partial}" if self.partial else "") if note)
        return f"{self.aggregate} {self.aggregate_id} version {self.version}{notes}"

    def __repr__(self) -> str:
        return tables.visible(f"{self._said()}\n{tables.show(self.value)}")

    def _repr_html_(self) -> str:
        items = self.value.items() if isinstance(self.value, dict) else [("", self.value)]
        return tables.html(["field", "value"], items, caption=self._said(), empty="initial state, empty") + tables.shell(self.again)
