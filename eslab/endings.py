"""Which event types end a saga: told by the caller, or learned from where sagas end in this lab."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Final

from eslab.errors import MomentError
from eslab.events import Events
from eslab.model import Selection
from eslab.sql import place, table

__all__ = ["Endings", "endings", "types"]

SHARE: Final = (
    0.9  # of the sagas that have an event of this type, in how many it comes last; a late notification may come after an end now and then
)
ENOUGH: Final = 200_000  # events that are learned from: of a larger lab, every so manieth saga


@dataclass(frozen=True, slots=True)
class Endings:
    """The types that end a saga well, and those that end its undoing. `learned` where the lab was asked, since the caller named none."""

    done: frozenset[str]
    compensated: frozenset[str]
    learned: bool

    @property
    def all(self) -> frozenset[str]:
        return self.done | self.compensated

    def said(self, known: Collection[str]) -> str:
        """What a reader must know of them: that they were learned, that none are known, or that no event is of a type that was named. "" for nothing."""
        if self.learned:
            named = ", ".join(sorted(self.done))
            learned = f"learned from where sagas end here: {named}" if named else "no type of event is known to end a saga"
            return f"{learned}; done=[...] names them"
        strange = sorted(self.all - set(known))
        return f"no captured event is of type {', '.join(strange)}" if strange else ""


def endings(
    events: Events, done: str | Iterable[str] | None, compensated: str | Iterable[str] | None, selection: Selection | None = None
) -> Endings:
    """The endings as told; without `done`, every type that is not one of `compensated` and is the last of nearly every saga that has it.

    A type that is named as both raises `MomentError`.
    """
    undone = types(compensated, "compensated")
    if done is None:
        return Endings(frozenset(_learned(events, selection)) - undone, undone, learned=True)
    well = types(done, "done")
    if both := sorted(well & undone):
        raise MomentError(f"{', '.join(both)} stands in done= and in compensated=; an event ends a saga in one way")
    return Endings(well, undone, learned=False)


def types(told: str | Iterable[str] | None, name: str) -> frozenset[str]:
    """Event types as a caller names them: one, several, or none."""
    if told is None:
        return frozenset()
    found = [told] if isinstance(told, str) else list(told)
    if not all(isinstance(one, str) for one in found):
        raise MomentError(f'{name}={told!r} are no event types; write them like {name}=["OrderDelivered"]')
    return frozenset(found)


def _learned(events: Events, selection: Selection | None) -> list[str]:
    """One scan of a few columns; what a saga's events are is told by their first occurrences."""
    held = sum(counts.events for counts in events.manifest.topics.values())
    found = table(
        events,
        f"""with steps as (
            select correlation_id, arg_min(event_type, {place(events)}) as event_type, min({place(events)}) as place from {{rows}}
            where first and kind = 'event' and correlation_id <> '' and hash(correlation_id) % $nth = 0 group by correlation_id, event_id
        ), sagas as (select correlation_id, arg_max(event_type, place) as last from steps group by all),
        having_it as (select event_type, count(distinct correlation_id) as sagas from steps group by all),
        ended_by_it as (select last as event_type, count(*) as sagas from sagas group by all)
        select event_type from having_it join ended_by_it using (event_type) where ended_by_it.sagas >= $share * having_it.sagas order by 1""",
        {"nth": max(1, -(-held // ENOUGH)), "share": SHARE},
        selection=selection,
    )
    names: list[str] = found["event_type"].to_pylist()
    return names
