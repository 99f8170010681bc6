"""What differs between two states."""

from __future__ import annotations

import copy
import datetime as dt
from collections.abc import Iterable, Iterator, Sequence
from decimal import Decimal
from itertools import zip_longest
from typing import Any, Final, overload

import pandas as pd
import pyarrow as pa

from eslab.again import Again
from eslab.model import MISSING, Change, Path, format_path, pack_state
from eslab.views import tables

__all__ = ["Changes", "diff", "follow", "same"]

_EXACT: Final = frozenset({str, int, bool, type(None)})  # equal values of one of these types are one value
_FIXED: Final = _EXACT | {float, Decimal, dt.datetime}  # nobody can change these: they are kept without a copy


class Changes(Again, Sequence[Change]):
    """The changed paths from one state to another, in the order of the states' own keys; empty when they are equal.

    `sides` is what `before` and `after` are called where they are shown.
    """

    def __init__(self, changes: Sequence[Change], *, sides: tuple[str, str] = ("before", "after")) -> None:
        self._changes, self.sides = tuple(changes), sides

    @overload
    def __getitem__(self, at: int) -> Change: ...
    @overload
    def __getitem__(self, at: slice) -> Changes: ...
    def __getitem__(self, at: int | slice) -> Change | Changes:
        return Changes(self._changes[at], sides=self.sides) if isinstance(at, slice) else self._changes[at]

    def __len__(self) -> int:
        return len(self._changes)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Changes) and self._changes == other._changes

    def __hash__(self) -> int:
        return hash(tuple(change.path for change in self._changes))

    def __repr__(self) -> str:
        return "\n".join(map(str, self._changes)) or "no changes"

    def _repr_html_(self) -> str:
        rows = [[format_path(one.path) or "(all)", one.before, one.after] for one in self]
        return tables.html(["path", *self.sides], rows, empty="no changes") + tables.shell(self.again)

    def df(self) -> pd.DataFrame:
        """One row per changed path: path (text), before, after (or what the sides are called); a side that is not there is `MISSING`."""
        rows = [(format_path(change.path), change.before, change.after) for change in self]
        return pd.DataFrame(rows, columns=["path", *self.sides], dtype=object).astype({"path": "str"})

    def arrow(self) -> pa.Table:
        """What `df` has, in Arrow: the sides as JSON (`Decimal` and `datetime` as docs/format.md writes them), null where one is not there."""
        columns: dict[str, list[str | None]] = {"path": [format_path(one.path) for one in self]}
        for side, values in zip(self.sides, ([one.before for one in self], [one.after for one in self]), strict=True):
            columns[side] = [None if value is MISSING else pack_state(value).decode() for value in values]
        return pa.table(columns, pa.schema([(name, pa.string()) for name in columns]))


def diff(before: Any, after: Any, *, sides: tuple[str, str] = ("before", "after")) -> Changes:
    """Compare two states. Objects differ by key, lists by position; a list that grew or shrank differs at its end.

    Numbers are equal by value (1 and 1.0), booleans are no numbers.
    """
    return Changes(list(_walk(before, after, ())), sides=sides)


def follow(kept: Any, state: Any) -> tuple[Any, list[Change]]:
    """What `diff` finds from a kept state to what has become of it, and the state to keep now: it shares with the last one what did not change.

    What is kept must not be changed, for the changes hold parts of it; `state` is its owner's, who may change it in place afterwards.
    """
    changes: list[Change] = []
    return _follow(kept, state, (), changes), changes


def same(before: Any, after: Any) -> bool:
    """Whether `diff` would find nothing, at little more than the cost of `==`."""
    if before == after:
        return before is after or _same_kinds(before, after)
    return next(_walk(before, after, ()), None) is None  # for `==` no list equals a tuple


def _same_kinds(before: Any, after: Any) -> bool:
    """Of two values that `==` takes for equal: whether no boolean stands where the other has a number."""
    if isinstance(before, dict):
        for key, value in before.items():
            if value.__class__ is not str and value is not (other := after[key]) and not _same_kinds(value, other):
                return False
        return True
    if isinstance(before, (list, tuple)):
        return all(one is other or _same_kinds(one, other) for one, other in zip(before, after, strict=True))
    return isinstance(before, bool) is isinstance(after, bool)


def _walk(before: Any, after: Any, path: Path) -> Iterator[Change]:
    pairs = _pairs(before, after)
    if pairs is None:
        if _differ(before, after):
            yield Change(path, before, after)
        return
    for key, one, other in pairs:
        if one is other:
            continue
        if isinstance(one, _NESTED) and isinstance(other, _NESTED):  # only these: a generator for each leaf costs most of the time
            yield from _walk(one, other, (*path, key))
        elif _differ(one, other):
            yield Change((*path, key), one, other)


_NESTED = (dict, list, tuple)


def _pairs(before: Any, after: Any) -> Iterable[tuple[Any, Any, Any]] | None:
    """What stands under the same key, or at the same position, of two objects or two lists; None for any other two."""
    if isinstance(before, dict) and isinstance(after, dict):
        keys = [*before, *(key for key in after if key not in before)]
        return ((key, before.get(key, MISSING), after.get(key, MISSING)) for key in keys)
    if isinstance(before, (list, tuple)) and isinstance(after, (list, tuple)):
        return ((at, one, other) for at, (one, other) in enumerate(zip_longest(before, after, fillvalue=MISSING)))
    return None


def _differ(before: Any, after: Any) -> bool:
    return isinstance(before, bool) is not isinstance(after, bool) or bool(before != after)


def _follow(kept: Any, new: Any, path: Path, changes: list[Change]) -> Any:
    """A copy of the new value that shares what it can with the kept one; what differs is added to the changes."""
    if isinstance(kept, dict) and isinstance(new, dict):
        return _follow_object(kept, new, path, changes)
    if isinstance(kept, (list, tuple)) and isinstance(new, (list, tuple)):
        return _follow_list(kept, new, path, changes)
    if kept is new:
        return kept
    own = new if type(new) in _FIXED else copy.deepcopy(new)
    if _differ(kept, new):
        changes.append(Change(path, kept, own))
    return own


def _follow_object(kept: dict[Any, Any], new: dict[Any, Any], path: Path, changes: list[Change]) -> dict[Any, Any]:
    parts, shared = {}, len(kept) == len(new)
    for key, old in kept.items():
        value = new.get(key, MISSING)
        if value is MISSING:
            changes.append(Change((*path, key), old, MISSING))
            continue
        kind = type(value)
        if kind not in _FIXED:
            part = _follow(old, value, (*path, key), changes)
        else:  # most values of most states: a call less for each
            part = old if kind in _EXACT and type(old) is kind and old == value else value
            if part is not old and _differ(old, value):
                changes.append(Change((*path, key), old, value))
        parts[key] = part
        shared = shared and part is old
    for key, value in new.items():
        if key not in kept:
            parts[key] = _follow(MISSING, value, (*path, key), changes)
            shared = False
    if list(parts) != list(new):
        return {key: parts[key] for key in new}
    return kept if shared else parts


def _follow_list(kept: Sequence[Any], new: Sequence[Any], path: Path, changes: list[Change]) -> Sequence[Any]:
    parts = []
    for at, (old, value) in enumerate(zip_longest(kept, new, fillvalue=MISSING)):
        if value is MISSING:
            changes.append(Change((*path, at), old, MISSING))
        else:
            parts.append(_follow(old, value, (*path, at), changes))
    if isinstance(new, tuple):
        return tuple(parts)
    shared = isinstance(kept, list) and len(kept) == len(parts) and all(part is old for part, old in zip(parts, kept, strict=True))
    return kept if shared else parts
