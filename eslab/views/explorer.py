"""The explorer: filters, a page of records, and below it the stepper of the row that was opened. What is asked in the page is answered by Python."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypedDict

import anywidget
import traitlets

from eslab.errors import EslabError

__all__ = ["Row", "View", "mimebundle", "widget"]

_HERE: Final = Path(__file__).parent
_SCRIPT: Final = "\n".join(
    (_HERE / part).read_text(encoding="utf-8")
    for part in (
        "stepper_page/text.js",
        "stepper_page/elements.js",
        "stepper_page/keys.js",
        "stepper_page/shell.js",
        "explorer_page/explorer.js",
    )
)  # one module: a widget's script is one text
_STYLE: Final = (_HERE / "explorer_page" / "explorer.css").read_text(encoding="utf-8")


class Row(TypedDict):
    """A record: when and where it was recorded, its event type (or kind), the aggregates and ids that it belongs to (`more` are left out; `named` as one text), its id, and a line of what it holds."""

    recorded: str
    at: str
    event: str
    kind: str
    named: str
    belongs: list[list[str]]
    more: int
    id: str
    told: str


@dataclass(frozen=True, slots=True)
class View:
    """What an explorer draws. `asked` are the filters at first: texts by name, and `newest`.

    `answer(asked, after)` gives a page: what is `said` of it, `rows`, `next` (where the next one begins), the `line` of shell, the `search`. `open(aggregate, id, at)` gives a stepper.
    Both raise `EslabError`, whose sentence is shown.
    """

    name: str
    topics: Sequence[str]
    aggregates: Sequence[str]
    types: Sequence[str]
    asked: Mapping[str, Any]
    answer: Callable[[Mapping[str, Any], str | None], Mapping[str, Any]]
    open: Callable[[str, str, str], Any]


class Pager(anywidget.AnyWidget):
    """The widget. The page tells what it asks for in `_asked` and `_open`, Python what comes of it in `_told` and `_opened`: each has one writer, so that no echo undoes what came after it."""

    _esm = _SCRIPT
    _css = _STYLE

    _choices = traitlets.Dict().tag(sync=True)
    _asked = traitlets.Dict().tag(sync=True)
    _told = traitlets.Dict().tag(sync=True)
    _open = traitlets.Dict().tag(sync=True)
    _opened = traitlets.Dict().tag(sync=True)


def widget(view: View) -> Any:
    """The explorer, and below it room for a stepper."""
    import ipywidgets as w  # noqa: PLC0415  # widgets are imported where one is drawn

    asked = {"number": 0, "filters": dict(view.asked), "trail": []}
    choices = {"name": view.name, "topics": list(view.topics), "aggregates": list(view.aggregates), "types": list(view.types)}
    pager, below = Pager(_choices=choices, _asked=asked, _told=_answered(view, asked)), w.VBox()

    def ask(change: Any) -> None:
        pager._told = _answered(view, change.new)  # noqa: SLF001  ours

    def open_row(change: Any) -> None:
        aggregate, aggregate_id, at = (str(change.new.get(name)) for name in ("aggregate", "id", "at"))
        told = {"number": change.new.get("number"), "at": at}
        try:
            stepper = view.open(aggregate, aggregate_id, at)
        except Exception as exc:  # noqa: BLE001  see _sentence
            pager._opened = {**told, "problem": _sentence(exc)}  # noqa: SLF001  ours
            return
        for old in below.children:
            old.close()
        below.children = (stepper,)
        pager._opened = {**told, "what": f"{aggregate} {aggregate_id}"}  # noqa: SLF001  ours

    pager.observe(ask, "_asked")
    pager.observe(open_row, "_open")
    return w.VBox([pager, below])


def _answered(view: View, asked: Mapping[str, Any]) -> dict[str, Any]:
    """The page that is asked for, or why there is none."""
    trail = asked["trail"]
    try:
        told = view.answer(asked["filters"], trail[-1] if trail else None)
    except Exception as exc:  # noqa: BLE001  see _sentence
        told = {"problem": _sentence(exc)}
    return {"number": asked["number"], **told}


def _sentence(exc: Exception) -> str:
    """What went wrong. Whatever it was, the page is told: it would wait for ever, and what is raised while it is answered is shown nowhere."""
    return str(exc) if isinstance(exc, EslabError) else f"{type(exc).__name__}: {exc}"


def mimebundle(view: View, plain: str, html: str) -> dict[str, Any]:
    """The widget, and what stands for it where none can run."""
    made = widget(view)._repr_mimebundle_()
    shown = made[0] if isinstance(made, tuple) else made or {}
    return {**shown, "text/plain": plain, "text/html": html}
