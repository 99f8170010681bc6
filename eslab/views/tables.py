"""Tables as HTML that reads without CSS, every value escaped."""

from __future__ import annotations

import html as escaping
import re
from collections.abc import Iterable, Sequence
from decimal import Decimal
from typing import Any, Final

from eslab.model import MISSING, dumps

__all__ = ["Html", "escape", "html", "paragraphs", "show", "size", "visible"]

# Controls, half surrogate pairs (UTF-8 cannot hold them), and whatever is invisible or turns the text around; stepper.js has the same
_HIDDEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\ud800-\udfff\U000e0000-\U000e007f]"
)

LONGEST = 200  # characters of one value; the whole of it is one look-up away
LEFT: Final = (
    ' align="left" style="text-align:left"'  # JupyterLab sets cells to the right; it keeps styles, other places only the attribute
)


class Html(str):
    """Text that is HTML already."""

    __slots__ = ()


def html(columns: Sequence[str], rows: Iterable[Sequence[Any]], *, caption: str = "", empty: str = "nothing") -> str:
    """A table; `empty` stands for one without rows. Columns of numbers stand to the right, all others to the left."""
    values = [list(row) for row in rows]
    if not values:
        return f"<p>{escape(caption)}{': ' if caption else ''}{escape(empty)}</p>"
    sides = ["" if all(map(_numeric, column)) else LEFT for column in zip(*values, strict=True)]
    head = "".join(f"<th{side}>{escape(name)}</th>" for name, side in zip(columns, sides, strict=True))
    body = "".join(
        "<tr>" + "".join(f"<td{side}>{_cell(value)}</td>" for value, side in zip(row, sides, strict=True)) + "</tr>" for row in values
    )
    title = f"<caption{LEFT}>{escape(caption)}</caption>" if caption else ""
    return f"<table>{title}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _numeric(value: Any) -> bool:
    return value is None or (isinstance(value, (int, float, Decimal)) and not isinstance(value, bool))


def _cell(value: Any) -> str:
    return value if isinstance(value, Html) else escape(show(value))


def show(value: Any, longest: int = LONGEST) -> str:
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
    return text if len(text) <= longest else text[: longest - 1] + "…"


def escape(text: str) -> str:
    """Text that HTML shows as it is; what would be invisible, or turn the text around, is shown by its code."""
    return escaping.escape(visible(text))


def visible(text: str) -> str:
    """Text that shows all that is in it, and that UTF-8 can hold."""
    return _HIDDEN.sub(lambda hidden: f"\\u{ord(hidden[0]):04x}", text)


def paragraphs(lines: Iterable[str]) -> str:
    """Each line as a paragraph of its own."""
    return "".join(f"<p>{escape(line)}</p>" for line in lines)


def size(count: float) -> str:
    """So many bytes, for people."""
    for unit in ("B", "KB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"
