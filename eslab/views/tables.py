"""Tables as HTML that reads without CSS, every value escaped."""

from __future__ import annotations

import html as escaping
import re
from collections.abc import Iterable, Sequence
from typing import Any

from eslab.model import MISSING, dumps

__all__ = ["escape", "html", "show"]

# Controls, half surrogate pairs (UTF-8 cannot hold them), and whatever is invisible or turns the text around; stepper.js has the same
_HIDDEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\ud800-\udfff\U000e0000-\U000e007f]"
)

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
    """Text that HTML shows as it is; what would be invisible, or turn the text around, is shown by its code."""
    return escaping.escape(_HIDDEN.sub(lambda hidden: f"\\u{ord(hidden[0]):04x}", text))
