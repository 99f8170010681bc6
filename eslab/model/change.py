"""One path of a state that differs."""

from __future__ import annotations

from typing import Any

import msgspec

from eslab.markup import visible
from eslab.model.exact import dumps
from eslab.model.paths import Path, format_path
from eslab.model.sentinels import MISSING

__all__ = ["Change"]


class Change(msgspec.Struct, frozen=True, gc=False):
    """One path of a state that differs; a missing side is `MISSING`."""

    # A struct, for the changes of a history are many: it is made at a fifth of the cost of a frozen dataclass, and is part of no circle
    path: Path
    before: Any
    after: Any

    def __str__(self) -> str:
        return visible(f"{format_path(self.path) or '(all)'}: {_show(self.before)} → {_show(self.after)}")


def _show(value: Any) -> str:
    if value is MISSING:
        return "—"
    try:
        return dumps(value).decode()
    except (TypeError, ValueError):
        return repr(value)
