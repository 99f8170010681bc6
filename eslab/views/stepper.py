"""The stepper: a history to step through, in a notebook or in a page of its own.

All stepping is done by the scripts in stepper_page/ on what they were sent once; Python is told where the reader is and what is kept there, and may set both. The
text that is sent is specified in eslab/stepping.py.
"""

from __future__ import annotations

import base64
import hashlib
import os
import secrets
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import anywidget
import msgspec
import traitlets

from eslab.errors import ConfigError, MomentError, VersionOutOfRange
from eslab.model import EACH, MISSING, Change, dumps, format_path, parse_path
from eslab.views import tables

__all__ = ["Stepper", "Steps"]

_PAGE: Final = Path(__file__).parent / "stepper_page"
_PARTS: Final = (
    "tree",
    "text",
    "book",
    "stops",
    "elements",
    "values",
    "events",
    "strip",
    "finding",
    "step",
    "blame",
    "keeps",
    "player",
    "keys",
    "shell",
    "view",
)
_SCRIPT: Final = "\n".join(
    (_PAGE / f"{part}.js").read_text(encoding="utf-8") for part in _PARTS
)  # one module: a widget's script is one text
_STYLE: Final = (_PAGE / "stepper.css").read_text(encoding="utf-8")
LISTED: Final = 50  # steps in the static view
_LEVEL: Final = 3  # of zlib: a page of 5 MB becomes one of 0.8 in 25 ms, and opens sooner
_SHORTEST: Final = 160  # pixels; below it nothing can be read
_KEPT: Final = {"sync": True, "echo_update": False}  # what a busy kernel sends back late would undo what the reader did meanwhile


@dataclass(frozen=True, slots=True)
class Steps:
    """What a stepper draws: the steps first (exclusive) to last, written down in `lines`; and what it asks when Python does.

    `state_at` gives the state after so many steps, `position_of` the reverse (it raises for a state of something else), `changes_at` what a step changed, `line_at` the line of shell that
    shows a state again ("" where none does).
    """

    name: str
    first: int
    last: int
    lines: bytes
    state_at: Callable[[int], Any]
    position_of: Callable[[Any], int]
    changes_at: Callable[[int], Sequence[Change]]
    line_at: Callable[[int], str]


Breakpoint = tuple[str, Any]
"""Where a run stops: ("step", 4), ("type", "OrderPaid"), ("mark", "failed") or ("change", "total")."""


class _Whole(traitlets.Int[Any, Any]):
    """A whole number: what is none goes to the validator too, whose sentence says more than that of traitlets."""

    def validate(self, obj: Any, value: Any) -> Any:
        return value


class Stepper(anywidget.AnyWidget):
    """The widget. `position` n is the state after n steps, 0 before the first; it can be read and set, as can `state`.

    So can what the reader keeps: `breakpoints` (see `Breakpoint`), `bookmarks` (positions) and `watched` (paths, like `items[0].price`).
    """

    _esm = _SCRIPT
    _css = _STYLE

    position = _Whole(0).tag(**_KEPT)
    height = _Whole(640).tag(sync=True)
    breakpoints = traitlets.List[Any](default_value=[]).tag(**_KEPT)
    bookmarks = traitlets.List[Any](default_value=[]).tag(**_KEPT)
    watched = traitlets.List[Any](default_value=[]).tag(**_KEPT)
    _packed = traitlets.Bytes(b"").tag(sync=True)

    def __init__(self, steps: Steps, *, position: int, height: int) -> None:
        self._steps = steps
        super().__init__(position=position, height=height, _packed=zlib.compress(steps.lines, _LEVEL))

    @property
    def state(self) -> Any:
        """The state at the position. Set a state of the same history to go there."""
        return self._steps.state_at(self.position)

    @state.setter
    def state(self, state: Any) -> None:
        self.position = self._steps.position_of(state)

    @traitlets.validate("position")
    def _within(self, proposal: dict[str, Any]) -> int:
        if not self._has(proposal["value"]):
            raise self._outside(proposal["value"])
        return int(proposal["value"])

    def _has(self, position: Any) -> bool:
        return _is_whole(position) and self._steps.first <= position <= self._steps.last

    def _outside(self, position: Any) -> VersionOutOfRange:
        return VersionOutOfRange(
            f"{self._steps.name}: this stepper has positions {self._steps.first} to {self._steps.last} (the state after so many steps); there is no {position!r}"
        )

    @traitlets.validate("breakpoints")
    def _stops(self, proposal: dict[str, Any]) -> list[Any]:
        return [self._stop(one) for one in proposal["value"]]

    def _stop(self, one: Any) -> list[Any]:
        if isinstance(one, (list, tuple)) and len(one) == 2:
            kind, what = one
            if kind == "step" and self._has(what):
                return [kind, int(what)]
            if (kind == "type" and (what is None or isinstance(what, str))) or (kind == "mark" and isinstance(what, str)):
                return [kind, what]
            if kind == "change" and isinstance(what, str):
                return [kind, _path(what)]
        raise MomentError(
            f"{one!r} is no breakpoint of {self._steps.name}; write one like ('step', {self._steps.last}), ('type', 'OrderPaid'), ('mark', 'failed') or ('change', 'total')"
        )

    @traitlets.validate("bookmarks")
    def _marked(self, proposal: dict[str, Any]) -> list[int]:
        for one in proposal["value"]:
            if not self._has(one):
                raise self._outside(one)
        return [int(one) for one in proposal["value"]]

    @traitlets.validate("watched")
    def _paths(self, proposal: dict[str, Any]) -> list[str]:
        return [_path(one) for one in proposal["value"]]

    @traitlets.validate("height")
    def _high_enough(self, proposal: dict[str, Any]) -> int:
        if not _is_whole(proposal["value"]) or proposal["value"] < _SHORTEST:
            raise MomentError(f"height={proposal['value']!r} is no height to read in; give {_SHORTEST} pixels or more")
        return int(proposal["value"])

    def to_html(self, path: str | Path | None = None) -> str | Path:
        """A page that holds everything, what is kept too, and asks for nothing: written to `path` (replacing what is there), which is returned; else its text."""
        kept = {"breakpoints": self.breakpoints, "bookmarks": self.bookmarks, "watched": self.watched}
        page = _page(self._steps, self._packed, {"position": self.position, "height": 0, **kept})
        if path is None:
            return page
        target = Path(path).expanduser().absolute()
        temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}")
        try:
            temporary.write_text(page, encoding="utf-8", newline="\n")
            os.replace(temporary, target)  # noqa: PTH105  # one step, whatever was there
        finally:
            temporary.unlink(missing_ok=True)
        return target

    def __repr__(self) -> str:
        return f"<Stepper of {self._steps.name}: position {self.position} of {self._steps.last}>"

    def _repr_mimebundle_(self, **kwargs: Any) -> tuple[dict[str, Any], dict[str, Any]] | None:
        made = super()._repr_mimebundle_(**kwargs)
        if made is None:
            return None
        data, metadata = made if isinstance(made, tuple) else (made, {})
        return {**data, "text/html": _static(self._steps, self.position)}, metadata


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _path(text: Any) -> str:
    """A path of a state as eslab writes it; "" is the whole state."""
    if not isinstance(text, str):
        raise MomentError(f"{text!r} is no path; write one like items[0].price")
    if text == "":
        return text
    path = parse_path(text)
    if EACH in path:
        raise ConfigError(f"path {text!r} names many values; name one of them, like {text.replace('[]', '[0]')}")
    return format_path(path)


# --- where no widget can run


def _static(steps: Steps, position: int) -> str:
    """The step at the position and the list of all, for a reader without scripts and styles."""
    header, *heads = _heads(steps, position)
    caption = f"{steps.name}: position {position:,} of {steps.last:,} ({header['projection']})"
    notes = "".join(f"<p><strong>{tables.escape(note)}</strong></p>" for note in header["notes"])
    changed = _changes(steps.changes_at(position)) if position else "<p>before the first event</p>"
    state = steps.state_at(position).value
    items = state.items() if isinstance(state, dict) else [("", state)]
    after = tables.html(["field", "value"], items, empty="initial state, empty")
    more = f" ({LISTED} of {steps.last - steps.first:,})" if steps.last - steps.first > LISTED else ""
    listed = tables.html(["", "step", "event", "recorded", "id", "marks", "problem"], heads, empty="no steps")
    return (
        f"<p><strong>{tables.escape(caption)}</strong></p>{notes}{changed}"
        f"<details open><summary>state after step {position:,}</summary>{after}</details><details><summary>steps{more}</summary>{listed}</details>"
        f"{tables.shell(steps.line_at(position))}"
    )


def _heads(steps: Steps, position: int) -> list[Any]:
    """The header, and a row for each of the steps around the position."""
    lines = steps.lines.split(b"\n")
    start = max(1, min(position - steps.first - LISTED // 2, len(lines) - LISTED))
    rows: list[Any] = [msgspec.json.decode(lines[0].split(b"\t", 1)[0])]
    for at in range(start, min(start + LISTED, len(lines))):
        type_, marks, problem, recorded, _, event_id, *_ = msgspec.json.decode(lines[at].split(b"\t", 1)[0])
        here = "→" if steps.first + at == position else ""
        name = type_ or ("(tombstone)" if "tombstone" in marks else "(no event)")
        rows.append([here, steps.first + at, name, recorded or "—", event_id or "—", ", ".join(marks), problem or ""])
    return rows


def _changes(changes: Sequence[Change]) -> str:
    if not changes:
        return "<p>this step changed nothing</p>"
    rows = "".join(
        f"<tr><td><mark>{tables.escape(format_path(one.path) or '(all)')}</mark></td><td>{_side('del', one.before)}</td><td>{_side('ins', one.after)}</td></tr>"
        for one in changes[:LISTED]
    )
    more = f"<p>and {len(changes) - LISTED:,} more</p>" if len(changes) > LISTED else ""
    return f"<table><thead><tr><th>changed</th><th>before</th><th>after</th></tr></thead><tbody>{rows}</tbody></table>{more}"


def _side(tag: str, value: Any) -> str:
    return "—" if value is MISSING else f"<{tag}>{tables.escape(tables.show(value))}</{tag}>"


# --- a page of its own

_MODEL: Final = """
const told = JSON.parse(document.getElementById("eslab-told").textContent);
const packed = atob(document.getElementById("eslab-steps").textContent);
told._packed = new Uint8Array(packed.length);
for (let at = 0; at < packed.length; at++) told._packed[at] = packed.charCodeAt(at);
const heard = new Map();
const model = {
  get: (name) => told[name], set: (name, value) => { told[name] = value; heard.get(`change:${name}`)?.(); },
  on: (what, then) => heard.set(what, then), off: (what) => heard.delete(what), save_changes() {},
};
render({model, el: document.getElementById("eslab")});
"""
_BODY: Final = "h1{position:absolute;clip-path:inset(50%)}html,body{margin:0;height:100%}#eslab{height:100%}@media (prefers-color-scheme:dark){body{background:#14171c}}"


def _page(steps: Steps, packed: bytes, told: dict[str, Any]) -> str:
    script, style = _SCRIPT + _MODEL, _STYLE + _BODY
    policy = f"default-src 'none'; base-uri 'none'; form-action 'none'; script-src {_hash(script)}; style-src {_hash(style)}"
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}"><title>{tables.escape(steps.name)}</title><style>{style}</style></head>\n'
        f'<body><main id="eslab"><h1>{tables.escape(steps.name)}</h1></main><noscript>{_static(steps, told["position"])}</noscript>\n'
        f'<script type="application/json" id="eslab-told">{_without_tags(dumps(told))}</script>\n'
        f'<script type="text/plain" id="eslab-steps">{base64.b64encode(packed).decode()}</script>\n'
        f'<script type="module">{script}</script></body></html>\n'
    )


def _hash(text: str) -> str:
    """The one script or style that the page's own policy lets run."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _without_tags(lines: bytes) -> str:
    """In JSON `<` stands within strings alone, where it may be written so that no parser of HTML sees a tag."""
    return lines.decode().replace("<", "\\u003c")
