"""The trees that causes make: events by their causes, as values; nothing here reads a lab."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

__all__ = ["Branch", "grown"]

Caused = tuple[str, str | None]
"""An event's name, and that of its cause."""


@dataclass(frozen=True, slots=True)
class Branch:
    """One name in its tree.

    `row` is the event's, None for a cause that is no event here; `parent` the position of its cause in the list of branches, None for a root.
    `circle`: it is a root only because its cause follows from it, or is itself.
    """

    name: str
    row: int | None
    parent: int | None
    depth: int
    circle: bool


def grown(events: Sequence[Caused], asked: Collection[str]) -> list[Branch]:
    """The trees that hold a name that was asked for, one after the other, each cause before its effects.

    `events` have names of their own, in the lab's order, which is that of roots and of siblings too; a cause that is none of them is a root, and stands where its first effect would.
    Of a circle the first event is the root.
    """
    rows = {name: row for row, (name, _) in enumerate(events)}
    broken = _circles([None if cause is None else rows.get(cause) for _, cause in events])
    effects: dict[str, list[int]] = defaultdict(list)
    roots: dict[str, int | None] = {}
    for row, (name, cause) in enumerate(events):
        if cause is None or row in broken:
            roots[name] = row
            continue
        effects[cause].append(row)
        if cause not in rows:
            roots.setdefault(cause, None)
    out: list[Branch] = []
    wanted = set(asked)
    for root, first in roots.items():
        tree = list(_tree(root, first, events, effects, broken, len(out)))
        if any(branch.name in wanted for branch in tree):
            out += tree
    return out


def _tree(
    root: str, row: int | None, events: Sequence[Caused], effects: dict[str, list[int]], broken: Collection[int], start: int
) -> Iterator[Branch]:
    """One tree from its root on; the first branch will stand at `start`."""
    todo: list[tuple[str, int | None, int | None, int]] = [(root, row, None, 0)]
    at = start
    while todo:
        name, row, parent, depth = todo.pop()
        yield Branch(name, row, parent, depth, row in broken)
        todo += [(events[effect][0], effect, at, depth + 1) for effect in reversed(effects.get(name, ()))]
        at += 1


def _circles(causes: Sequence[int | None]) -> set[int]:
    """Of each circle of causes, the first row."""
    found: set[int] = set()
    walked: dict[int, int] = {}  # row -> the row from which a walk came by
    for begin in range(len(causes)):
        row: int | None = begin
        while row is not None and row not in walked:
            walked[row] = begin
            row = causes[row]
        if row is not None and walked[row] == begin:  # met its own trace
            circle = [row]
            while (after := causes[circle[-1]]) is not None and after != row:
                circle.append(after)
            found.add(min(circle))
    return found
