"""Tables as HTML that reads without CSS, every value escaped."""

from __future__ import annotations

import html as escaping
from collections.abc import Iterable, Sequence
from typing import Any

from eslab.model import MISSING, dumps

__all__ = ["escape", "html", "show"]

LONGEST = 200  # characters of one value; the whole of it is one look-up away


def html(columns: Sequence[str], rows: Iterable[Sequence[Any]], *, caption: str = "", empty: str = "nothing") -> str:
    """A table; `empty` stands for one without rows."""
    body = "".join("<tr>" + "".join(f"<td>{escape(show(value))}</td>" for value in row) + "</tr>" for row in rows)
    if not body:
        return f"<p>{escape(caption)}{': ' if caption else ''}{escape(empty)}</p>"
    head = "".join(f"<th>{escape(name)}</th>" for name in columns)
    title = f"<caption>{escape(caption)}</caption>" if caption else ""
    return f"<table>{title}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def show(value: Any) -> str:
    """A value as a person reads it in a cell: text as it is, everything else as JSON, long ones cut."""
    if value is MISSING:
        return "—"
    if isinstance(value, str):
        text = value
    else:
        try:
            text = dumps(value).decode()
        except (TypeError, ValueError, RecursionError):
            text = repr(value)
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"


def escape(text: str) -> str:
    """Text that HTML shows as it is."""
    return escaping.escape(text)
