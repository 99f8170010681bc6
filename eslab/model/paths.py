"""Where a value stands in a state: paths, read and written."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from eslab.errors import ConfigError
from eslab.model.exact import dumps, loads
from eslab.model.sentinels import EACH, Sentinel

__all__ = ["Path", "format_path", "parse_path", "value_at"]

Path = tuple[str | int | Sentinel, ...]
"""Where a value stands in a state: keys and positions, outermost first; `EACH` in id paths only."""

_NAME = re.compile(r"[^\W\d][\w-]*")
_PART = re.compile(r'\.?(?:(?P<name>[^\W\d][\w-]*)|"(?P<quoted>(?:[^"\\]|\\.)*)")|\[(?P<index>-?\d{1,9})?\]')


def parse_path(text: str) -> Path:
    """The path written in `text`: `a.b[0]`, odd keys quoted as in JSON (`"two words".x`), `[]` for each element.

    Raises `ConfigError` naming the position that it cannot read.
    """
    parts: list[str | int | Sentinel] = []
    at = 0
    while at < len(text):
        match = _PART.match(text, at)
        if not match or (text[at] == ".") != (at > 0 and match["index"] is None and text[at] != "["):
            raise ConfigError(f"path {text!r} cannot be read at position {at}; write it like a.b[0] or items[].id")
        if match["name"] is not None:
            parts.append(match["name"])
        elif match["quoted"] is not None:
            parts.append(loads(b'"' + match["quoted"].encode() + b'"'))
        elif text[at] == "[":
            parts.append(EACH if match["index"] is None else int(match["index"]))
        at = match.end()
    if not parts:
        raise ConfigError("a path must not be empty; write it like a.b[0]")
    return tuple(parts)


def value_at(value: Any, path: Path, default: Any = None) -> Any:
    """What stands at a path without `[]` in a JSON value; `default` where nothing does."""
    for part in path:
        if isinstance(value, dict):
            value = value.get(part, default)
        elif isinstance(value, (list, tuple)) and isinstance(part, int) and -len(value) <= part < len(value):
            value = value[part]
        else:
            return default
    return value


def format_path(path: Iterable[str | int | Sentinel]) -> str:
    """The text that `parse_path` reads back."""
    out = ""
    for part in path:
        if part is EACH:
            out += "[]"
        elif isinstance(part, int):
            out += f"[{part}]"
        else:
            name = str(part)
            out += ("." if out else "") + (name if _NAME.fullmatch(name) else dumps(name).decode())
    return out
