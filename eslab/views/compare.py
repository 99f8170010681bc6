"""How a comparison looks: as HTML that reads without CSS, and in a notebook as a list of keys with the two states of the one that is chosen."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from eslab.model import MISSING
from eslab.views import tables
from eslab.wording import many

__all__ = ["Detail", "Parting", "View", "detail", "html", "mimebundle", "parting", "side_by_side"]

FOLDED: Final = 20  # keys in the static view
LISTED: Final = 300  # keys in the list of the widget; more are found by the search
ROWS: Final = 60  # of two states: what differs comes first
SEARCHED: Final = 12  # keys from which on a search is offered

MEANING: Final = {
    "equal": "the same state at the end",
    "healed": "of the equal ones: differed on the way",
    "different": "two states that differ",
    "only_left": "ended by a tombstone on the right",
    "only_right": "ended by a tombstone on the left",
    "failed_left": "a handler of the left raised",
    "failed_right": "a handler of the right raised",
    "failed_both": "a handler of each raised",
}

Pathed = tuple[str, Any, Any]
"""A path as text, and its value on the left and on the right."""


@dataclass(frozen=True, slots=True)
class Parting:
    """The first event after which the sides differ."""

    version: int
    event_type: str
    event_id: str
    recorded: str
    at: str
    paths: Sequence[Pathed]
    more: int


@dataclass(frozen=True, slots=True)
class Detail:
    """One key: its two states row by row, each with whether it differs, and how many rows more there are."""

    key: str
    group: str
    names: tuple[str, str]
    rows: Sequence[tuple[Pathed, bool]]
    more: int
    parted: Parting | None
    failures: Sequence[str]


@dataclass(frozen=True, slots=True)
class View:
    """What a comparison draws. `keys(text, most)` finds keys and their groups, `detail` tells of one, `step` opens its steppers."""

    names: tuple[str, str]
    said: str
    counts: Sequence[tuple[str, int]]
    keys: Callable[[str, int], Sequence[tuple[str, str]]]
    total: int
    detail: Callable[[str], Detail]
    step: Callable[[str], Any]
    again: str


# --- static ---------------------------------------------------------------------------------------------


def html(view: View) -> str:
    """The groups, and the first keys that differ, each folded."""
    keys = view.keys("", FOLDED)
    folded = "".join(_folded(view.detail(key)) for key, _ in keys)
    more = view.total - len(keys)
    left = f"<p>and {more:,} more: <code>.df()</code> has them all, <code>[key]</code> any one</p>" if more > 0 else ""
    return _groups(view) + folded + left + tables.shell(view.again)


def _groups(view: View) -> str:
    rows = [[group.replace("_", " "), count, MEANING[group]] for group, count in view.counts if count or group in ("equal", "different")]
    return f"<p>{_bold(view.names[0])} (left) and {_bold(view.names[1])} (right): {tables.escape(view.said)}</p>" + tables.html(
        ["group", "keys", "meaning"], rows
    )


def _folded(told: Detail) -> str:
    parted = f", from {told.parted.event_type} {told.parted.event_id} on" if told.parted else ""
    summary = f"{tables.escape(told.key)}: {_group(told)}{tables.escape(parted)}"
    return f"<details><summary>{summary}</summary>{detail(told)}</details>"


def detail(told: Detail) -> str:
    """One key: where it parted, why it failed, and its two states side by side with what differs marked."""
    parts = [f"<p>{_bold(told.key)}: {_group(told)}</p>", *(f"<p>{_bold(failure)}</p>" for failure in told.failures)]
    if told.parted:
        parts.append(parting(told.parted, told.names))
    elif told.group not in ("equal", "healed"):
        parts.append("<p>The two never differed before that.</p>")
    if told.rows:
        parts.append("<p>At the end; what differs is marked:</p>" if any(differs for _, differs in told.rows) else "<p>At the end:</p>")
        parts.append(_table("field", told.names, told.rows, told.more))
    return "".join(parts)


def parting(first: Parting, names: tuple[str, str]) -> str:
    """The first event after which the two differ, and in what they do then."""
    where = f"recorded {first.recorded} at {first.at}; there:"
    return (
        f"<p>First differ after {_bold(f'version {first.version}: {first.event_type}')} {tables.escape(first.event_id)}, {tables.escape(where)}</p>"
        + _table("path", names, [(pathed, False) for pathed in first.paths], first.more)
    )


def _table(what: str, names: tuple[str, str], rows: Sequence[tuple[Pathed, bool]], more: int) -> str:
    cells = [[_marked(cell, differs=differs) for cell in pathed] for pathed, differs in rows]
    return tables.html([what, *names], cells) + (f"<p>and {many(more, 'row')} more</p>" if more else "")


def _marked(value: Any, *, differs: bool) -> tables.Html:
    text = tables.escape(tables.show(value))
    return tables.Html(f"<mark>{text}</mark>" if differs and value is not MISSING else text)


def _group(told: Detail) -> str:
    return tables.escape(told.group.replace("_", " "))


def _bold(text: str) -> str:
    return f"<strong>{tables.escape(text)}</strong>"


# --- as a widget ------------------------------------------------------------------------------------------


def mimebundle(view: View, plain: str) -> dict[str, Any]:
    """The widget, and what stands for it where none can run."""
    bundle = {"text/plain": plain, "text/html": html(view)}
    if view.total or any(count for group, count in view.counts if group == "healed"):
        made = _widget(view)._repr_mimebundle_()
        bundle |= made[0] if isinstance(made, tuple) else made or {}
        bundle["text/plain"] = plain
    return bundle


def _widget(view: View) -> Any:
    import ipywidgets as w  # noqa: PLC0415  # widgets are imported where one is drawn

    def text(inner: str = "") -> Any:
        made = w.HTML(inner)
        made.add_class("jp-RenderedHTMLCommon")  # JupyterLab's own look of tables
        return made

    def above(**layout: str) -> dict[str, Any]:
        """A label that stands above, not beside."""
        return {
            "layout": w.Layout(width="auto", flex_flow="column", align_items="stretch", **layout),
            "style": {"description_width": "fit-content"},
        }

    search = w.Text(description="find", **above())
    search.layout.display = "none" if view.total <= SEARCHED else None
    listed = w.Select(description="keys that differ", rows=12, **above(height="17em"))
    note, shown = w.HTML(), text()
    button = w.Button(description="Step through", icon="step-forward", tooltip="Open both histories in the stepper, where they part")
    steppers = w.VBox()

    def find(*_: Any) -> None:
        found = view.keys(search.value, LISTED + 1)
        listed.options = [(tables.visible(f"{key}   {group.replace('_', ' ')}"), key) for key, group in found[:LISTED]]
        listed.index = 0 if found else None
        note.value = f"the first {LISTED} that fit; type to find others" if len(found) > LISTED else "" if found else "no key like that"

    def choose(*_: Any) -> None:
        steppers.children = ()
        button.disabled = listed.value is None
        shown.value = "" if listed.value is None else detail(view.detail(listed.value))

    def open_steppers(*_: Any) -> None:
        steppers.children = (view.step(listed.value),)

    search.observe(find, "value")
    listed.observe(choose, "value")
    button.on_click(open_steppers)
    find()
    choose()
    left = w.VBox([search, listed, note], layout=w.Layout(flex="0 0 16em"))
    right = w.VBox([shown, button], layout=w.Layout(flex="1 1 0", min_width="0", overflow="auto"))
    line = [w.HTML(tables.shell(view.again))] if view.again else []
    return w.VBox([text(_groups(view)), w.HBox([left, right], layout=w.Layout(grid_gap="1em")), *line, steppers])


def side_by_side(names: Sequence[str], steppers: Sequence[Any]) -> Any:
    """Widgets beside each other, or below each other where there is no room, each under its name."""
    import ipywidgets as w  # noqa: PLC0415  # widgets are imported where one is drawn

    boxes = [
        w.VBox([w.HTML(_bold(name)), one], layout=w.Layout(min_width="0", padding="0 1px 0 0"))
        for name, one in zip(names, steppers, strict=True)
    ]
    return w.GridBox(boxes, layout=w.Layout(grid_template_columns="repeat(auto-fit, minmax(30em, 1fr))", grid_gap="1em"))
