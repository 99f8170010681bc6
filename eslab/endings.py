"""Which event types end a saga: told by the caller, or learned from where sagas end in this lab."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from eslab.errors import MomentError
from eslab.events import Events
from eslab.model import Selection
from eslab.sql import place, table

__all__ = ["Ending", "Endings", "endings", "types"]

SHARE: Final = (
    0.9  # of the sagas that have an event of this type, in how many it comes last; a late notification may come after an end now and then
)
FEW: Final = 3  # sagas at least that a type has ended before it is learned: one or two may as well be stuck at that step, and would be called finished
ENOUGH: Final = 200_000  # events that are learned from: of a larger lab, every so manieth saga
SHOWN: Final = 5  # types that are named where there are many


class Ending(NamedTuple):
    """A type of event that comes last in nearly every saga that has it: in so many of so many."""

    type: str
    last: int
    having: int

    @property
    def sure(self) -> bool:
        """Whether it is taken for an ending."""
        return self.last >= FEW


@dataclass(frozen=True, slots=True)
class Endings:
    """The types that end a saga well, and those that end its undoing. `learned` is what the lab was asked for, since the caller named none: also what it was too seldom seen to end.
    `sampled` where not all sagas were looked at."""

    done: frozenset[str]
    compensated: frozenset[str]
    learned: Sequence[Ending] | None = None
    sampled: bool = False

    @property
    def all(self) -> frozenset[str]:
        return self.done | self.compensated

    def said(self, known: Collection[str]) -> str:
        """What a reader must know of them: that they were learned, that none are known, or that no event is of a type that was named. "" for nothing."""
        if self.learned is not None:
            sure, unsure = ([one for one in self.learned if one.sure is so and one.type not in self.compensated] for so in (True, False))
            where = "of a sample" if self.sampled else "of those here"
            told = (
                f"what ends a saga, learned from the ends {where}: {_counted(sure)}" if sure else "no type of event is known to end a saga"
            )
            told += f"; too seldom seen to learn: {_counted(unsure)}" if unsure else ""
            return f"{told}; done=[...] names them"
        strange = sorted(self.all - set(known))
        return f"no captured event is of type {', '.join(strange)}" if strange else ""


def endings(
    events: Events, done: str | Iterable[str] | None, compensated: str | Iterable[str] | None, selection: Selection | None = None
) -> Endings:
    """The endings as told; without `done`, every type that is not one of `compensated` and is the last of nearly every saga that has it, and of three at least.

    A type that is named as both raises `MomentError`.
    """
    undone = types(compensated, "compensated")
    if done is None:
        learned, sampled = _learned(events, selection)
        return Endings(frozenset(one.type for one in learned if one.sure) - undone, undone, learned, sampled)
    well = types(done, "done")
    if both := sorted(well & undone):
        raise MomentError(f"{', '.join(both)} stands in done= and in compensated=; an event ends a saga in one way")
    return Endings(well, undone)


def types(told: str | Iterable[str] | None, name: str) -> frozenset[str]:
    """Event types as a caller names them: one, several, or none."""
    if told is None:
        return frozenset()
    found = [told] if isinstance(told, str) else list(told)
    if not all(isinstance(one, str) for one in found):
        raise MomentError(f'{name}={told!r} are no event types; write them like {name}=["OrderDelivered"]')
    return frozenset(found)


def _counted(learned: Sequence[Ending]) -> str:
    """Types, and how many sagas tell of each, the most telling first."""
    first, *others = sorted(learned, key=lambda one: (-one.last, one.type))
    told = [f"{first.type} (ends {first.last:,} of the {first.having:,} that have it)"]
    told += [f"{one.type} ({one.last:,} of {one.having:,})" for one in others[: SHOWN - 1]]
    more = len(learned) - SHOWN
    return ", ".join(told) + (f" and {more:,} more" if more > 0 else "")


def _learned(events: Events, selection: Selection | None) -> tuple[list[Ending], bool]:
    """The types that come last in nearly every saga that has them, and whether not all sagas were looked at. One scan of a few columns; what a saga's events are is told by their first occurrences."""
    held = sum(counts.events for counts in events.manifest.topics.values())
    nth = max(1, -(-held // ENOUGH))
    found = table(
        events,
        f"""with steps as (
            select correlation_id, arg_min(event_type, {place(events)}) as event_type, min({place(events)}) as place from {{rows}}
            where first and kind = 'event' and correlation_id <> '' and hash(correlation_id) % $nth = 0 group by correlation_id, event_id
        ), sagas as (select correlation_id, arg_max(event_type, place) as last from steps group by all),
        having_it as (select event_type, count(distinct correlation_id) as sagas from steps group by all),
        ended_by_it as (select last as event_type, count(*) as sagas from sagas group by all)
        select event_type, ended_by_it.sagas as last, having_it.sagas as held from having_it join ended_by_it using (event_type)
        where ended_by_it.sagas >= $share * having_it.sagas order by 1""",
        {"nth": nth, "share": SHARE},
        selection=selection,
    )
    return [Ending(*row) for row in zip(*(column.to_pylist() for column in found.columns), strict=True)], nth > 1
