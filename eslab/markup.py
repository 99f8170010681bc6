"""Text and tables as HTML that reads without CSS, and that shows a hostile text as text."""

from __future__ import annotations

import html as escaping
import re
from collections.abc import Sequence
from typing import Final

__all__ = ["LEFT", "Html", "escape", "grid", "visible"]

# Controls, half surrogate pairs (UTF-8 cannot hold them), and whatever is invisible or turns the text around; stepper_page/text.js has the same
_HIDDEN: Final = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\ud800-\udfff\U000e0000-\U000e007f]"
)
SHORT: Final = 30  # characters of a cell that is not folded: a time with milliseconds and zone
FEW: Final = 6  # columns of a table that has room for that
SHORTEST: Final = 16  # characters of a cell that is folded in no table: an id, a length of time, a time without its day
_TIME: Final = re.compile(r"\d{4}-\d\d-\d\d (\d\d:\d\d:\d\d\S* \S+)")
LEFT: Final = ' align="left" style="text-align:left"'  # JupyterLab sets cells to the right; it keeps styles, GitHub only the attribute


class Html(str):
    """Text that is HTML already."""

    __slots__ = ()


def visible(text: str) -> str:
    r"""Text that shows all that is in it, and that UTF-8 can hold: what would be invisible, or turn the text around, as in `\u202e`."""
    return _HIDDEN.sub(lambda hidden: f"\\u{ord(hidden[0]):04x}", text)


def escape(text: str) -> Html:
    """Text that HTML shows as it is."""
    return Html(escaping.escape(visible(text)))


def grid(columns: Sequence[str], rows: Sequence[Sequence[Html]], *, left: Sequence[bool], caption: str = "") -> Html:
    """A table, and a line over it that may be wider; of each column, whether it stands to the left."""
    whole = len(columns) <= FEW
    head = "".join(f"<th{LEFT if side else ''}>{escape(name)}</th>" for name, side in zip(columns, left, strict=True))
    body = "".join(
        "<tr>"
        + "".join(
            f"<td{_side(cell, whole=whole) if side else ''}>{cell if whole else _day_apart(cell)}</td>"
            for cell, side in zip(row, left, strict=True)
        )
        + "</tr>"
        for row in rows
    )
    title = f'<p style="margin:0">{escape(caption)}</p>' if caption else ""  # a caption would be as narrow as its table
    return Html(f'{title}<table style="margin-left:0"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>')


def _side(cell: Html, *, whole: bool) -> str:
    folds = " " in cell or "-" in cell
    return f'{LEFT[:-1]};white-space:nowrap"' if folds and len(cell) <= (SHORT if whole else SHORTEST) else LEFT


def _day_apart(cell: Html) -> Html:
    """A time that folds after its day alone, where there is no room for it."""
    match = _TIME.fullmatch(cell)
    return Html(f'{cell[: match.start(1)]}<span style="white-space:nowrap">{match[1]}</span>') if match else cell
