"""States as one first state and a patch for each step after it: what a page that steps by itself is sent.

A patch is a list of operations, in this order applied to the state before it:

    ["=", path, value]    set the value at the path; a new key comes last in its object, a new position last in its list
    ["-", path]           remove the key, or the last position of the list
    ["#", path, keys]     put the object's keys in this order

The state after it is the next one to the letter: `dumps` of both is the same.
"""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Sequence
from decimal import Decimal
from typing import Any, Final

from eslab.model import MISSING, Path, dumps, format_path

__all__ = ["Follower", "Patch"]

Patch = list[tuple[Any, ...]]

DEEPEST: Final = 200  # levels; what lies deeper is shown as one text, so that neither Python nor a page runs out of stack
LONGEST: Final = 200  # characters of a value that is shown by its repr
_EXACT: Final = frozenset(
    {str, int, bool, type(None)}
)  # equal values of one of these types are written alike; 1.0 and -0.0, 1.1 and 1.10 are not


class Follower:
    """Follows a state whose owner may change it in place, and says what each step changed.

    Keeps a copy of its own, `state`, of JSON values, Decimal and datetime; what else a careless handler left in the state stands there by its repr, and
    `odd` says so for the step that brought it. A step costs one walk over the state.
    """

    def __init__(self, state: Any) -> None:
        self.odd = ""
        self.state: Any = self._copy(state, ())
        self._patch: Patch = []

    def follow(self, state: Any) -> Patch:
        """The patch from the last state to this one."""
        self.odd, self._patch = "", []
        self.state = self._next(self.state, state, ())
        return self._patch

    def _next(self, kept: Any, new: Any, path: Path) -> Any:
        """Bring what was kept at this path up to the new value; return it, or what takes its place."""
        if type(kept) is dict and isinstance(new, dict) and _keys_are_text(new):
            return self._next_object(kept, new, path)
        if type(kept) is list and isinstance(new, (list, tuple)):
            return self._next_list(kept, new, path)
        if kept is not MISSING and _same(kept, new):
            return kept
        odd = self.odd
        copy = self._copy(new, path)
        if type(kept) is type(copy) and _same(kept, copy):
            self.odd = odd  # an odd value that was there before
            return kept
        self._patch.append(("=", path, copy))
        return copy

    def _next_object(self, kept: dict[str, Any], new: dict[str, Any], path: Path) -> dict[str, Any]:
        for key in [key for key in kept if key not in new]:
            del kept[key]
            self._patch.append(("-", (*path, key)))
        for key, value in new.items():
            old = kept.get(key, MISSING)
            if type(value) not in _EXACT:
                if not _alike(old, value):
                    kept[key] = self._next(old, value, (*path, key))
            elif type(old) is not type(value) or old != value:  # most values of most states, so done here: a call less for each
                kept[key] = value
                self._patch.append(("=", (*path, key), value))
        order = list(new)
        if list(kept) != order:
            self._patch.append(("#", path, order))
            kept = {key: kept[key] for key in order}
        return kept

    def _next_list(self, kept: list[Any], new: Sequence[Any], path: Path) -> list[Any]:
        for at in range(len(kept) - 1, len(new) - 1, -1):
            kept.pop()
            self._patch.append(("-", (*path, at)))
        for at, value in enumerate(new):
            if at == len(kept):
                kept.append(MISSING)
            old = kept[at]
            if type(value) not in _EXACT:
                if not _alike(old, value):
                    kept[at] = self._next(old, value, (*path, at))
            elif type(old) is not type(value) or old != value:
                kept[at] = self._next(old, value, (*path, at))
        return kept

    def _copy(self, value: Any, path: Path) -> Any:
        kind = type(value)
        if kind in _EXACT or (kind is float and math.isfinite(value)) or kind is dt.datetime or (kind is Decimal and value.is_finite()):
            return value
        if len(path) < DEEPEST:
            if isinstance(value, dict) and _keys_are_text(value):
                return {key: self._copy(item, (*path, key)) for key, item in value.items()}
            if isinstance(value, (list, tuple)):
                return [self._copy(item, (*path, at)) for at, item in enumerate(value)]
        text = _repr(value)
        where = format_path(path) or "the state itself"
        self.odd = self.odd or f"{where} is {text:.80} ({kind.__name__}), which no state may hold; it is shown as text"
        return text


def _keys_are_text(value: dict[Any, Any]) -> bool:
    return {str}.issuperset(map(type, value))


def _alike(kept: Any, new: Any) -> bool:
    """Whether two objects or lists are surely written alike: most parts of most states stay as they are, and so are walked in C.

    Neither test is enough: 1 equals True, and NaN is written as null is.
    """
    return type(kept) in (dict, list) and bool(kept == new) and dumps(kept) == dumps(new)


def _same(kept: Any, new: Any) -> bool:
    """Whether two leaves are written alike."""
    kind = type(new)
    if type(kept) is not kind or kind in (dict, list):
        return False
    if kind in _EXACT or (kind is float and (new or kept)):
        return bool(kept == new)  # of floats, zero alone has two spellings
    return kind in (float, Decimal, dt.datetime) and dumps(kept) == dumps(new)


def _repr(value: Any) -> str:
    try:
        text = repr(value)
    except Exception:  # noqa: BLE001  # the repr is a stranger's code, or too deep
        text = f"<{type(value).__name__}>"
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"
