"""Charts of throughput, lag, timelines, broken invariants and traces, drawn from plain tables. Imported when a chart is drawn: it loads Altair.

Times are drawn on the wall clock of the lab's zone, whichever zone the browser is in, and every axis names its unit or its zone.
Colours have a contrast of 3 to white and to the dark theme's grey; a theme's own colours are used for the rest.
Names come from payloads and from users: what is invisible in them, or turns the text around, is drawn as its code.
"""

from __future__ import annotations

import datetime as dt
import textwrap
from collections.abc import Iterable, Sequence
from typing import Any, Final

import altair as alt
import pandas as pd
import pyarrow as pa

from eslab.views import waterfall
from eslab.views.offline import offline
from eslab.views.tables import duration, show, visible

__all__ = ["Drawn", "lag", "throughput", "timeline", "trace", "violators"]

Drawn = alt.TopLevelMixin

WIDTH: Final = 600  # with axis and legend this fits a notebook in a window of 1,280 pixels, its file list open
HEIGHT: Final = 170
COLOURS: Final = ["#2f86d6", "#d9711f", "#2f9e44", "#d6457f", "#8a6fd1", "#9a8412", "#1c97a6", "#c0625a", "#6f8a2f", "#808080"]
GREY: Final = "#808080"
BETWEEN: Final = COLOURS[3]
CUT: Final = 60  # characters of a name in a title
SAID: Final = 110  # characters of a line under the title: as wide as the picture; what is wider would be cut off
NOTED: Final = 4 * SAID
NAMED: Final = 26  # characters of an axis's title at its usual size: as long as the axis
LABELLED: Final = 0.08  # of the width: a shaded range that is narrower is named by its tooltip alone

Row = dict[str, Any]


class _Time:
    """The time axis: wall-clock time of the zone. Where the zone changes its clocks within the range, its first offset throughout, and the axis says so."""

    def __init__(self, zone: dt.tzinfo, first: dt.datetime, last: dt.datetime, times: Iterable[dt.datetime]) -> None:
        self._zone = zone
        self._first, self._last = first.astimezone(zone), last.astimezone(zone)
        self._offset = self._first.utcoffset() or dt.timedelta()
        self._changes = {moment.astimezone(zone).utcoffset() for moment in times} - {self._offset, None}

    def wall(self, moment: dt.datetime) -> float:
        """For Vega's UTC scale: the milliseconds since 1970 at which UTC shows this wall clock."""
        return (moment.astimezone(dt.UTC) - _EPOCH + self._offset) / dt.timedelta(milliseconds=1)

    def told(self, moment: dt.datetime) -> str:
        local = moment.astimezone(self._zone)
        spec = "milliseconds" if local.microsecond else "seconds"
        return f"{local.replace(tzinfo=None).isoformat(sep=' ', timespec=spec)} {local.tzname()}"

    def axis(self) -> alt.X:
        scale = {"type": "utc", "domain": [self.wall(self._first), self.wall(self._last)], "nice": False}
        form = self._format()
        axis = {"format": form, "labelOverlap": True, "gridOpacity": 0.3, "tickCount": _TICKS.get(form, 10)}
        return alt.X("x:T", title=self._title(), scale=scale, axis=axis)

    def on_axis(self, field: str = "x") -> alt.X:
        """The same axis, for what lies under or over the lines that bring it."""
        return alt.X(f"{field}:T", title=self._title(), scale={"type": "utc"})

    def _title(self) -> str:
        zone, called, utc = str(self._zone), self._first.tzname(), _utc_offset(self._offset)
        same = self._first.date() == (self._last - dt.timedelta(microseconds=1)).date()
        day = f"{self._first.day} {self._first:%B %Y}, " if same else ""
        if self._changes:
            return f"{day}time at {utc}, {zone} (its clocks change in this range)"
        return f"{day}time in {zone}" + (f" ({called})" if called != zone else "") + (f", {utc}" if utc != zone else "")

    def _format(self) -> str:
        span = self._last - self._first
        if span <= dt.timedelta(seconds=10):
            return "%H:%M:%S.%L"
        if span <= dt.timedelta(minutes=5):
            return "%H:%M:%S"
        if span <= dt.timedelta(hours=36):
            return "%H:%M"
        return "%d %b %H:%M" if span <= dt.timedelta(days=5) else "%d %b %Y"


_TICKS: Final = {"%H:%M:%S.%L": 4, "%H:%M:%S": 8, "%d %b %H:%M": 6}
"""How many ticks have room for their labels. With more, some are dropped, and then it may be those of whole seconds."""

_EPOCH: Final = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)


def _utc_offset(offset: dt.timedelta) -> str:
    minutes = round(offset / dt.timedelta(minutes=1))
    return f"UTC{'-' if minutes < 0 else '+'}{abs(minutes) // 60:02}:{abs(minutes) % 60:02}" if minutes else "UTC"


def throughput(points: pa.Table, *, topics: Sequence[str], every: str, zone: dt.tzinfo, notes: Sequence[str] = ()) -> Any:
    """Records and bytes per bucket, a line for each of `topics`. `points`: time, topic, records, bytes."""
    rows = points.to_pylist()
    if not rows:
        return _nothing("no records")
    moments = [row["time"] for row in rows]
    time = _Time(zone, min(moments), max(moments), moments)
    called = _called(topics)
    base = alt.Chart(_frame([{**row, "topic": called[row["topic"]]} for row in rows], time))
    tips = [
        alt.Tooltip("topic:N", title="topic"),
        alt.Tooltip("at:N", title="from"),
        alt.Tooltip("records:Q", title=f"records per {every}", format=",d"),
        alt.Tooltip("bytes:Q", title=f"bytes per {every}", format=",d"),
    ]
    panels = []
    for field, of, form, legend in (("records", "", ",d", _LEGEND), ("bytes", " (keys and values)", "~s", None)):
        colour = _colour("topic", "topic", called, legend)
        panel = base.encode(x=time.axis(), y=_up(field, f"{field} per {every}{of}", form), color=colour, tooltip=tips)
        panels.append(_panel(*_line(panel, interpolate="step-after")))
    return _stacked(panels, f"Throughput per {every}", notes, f"throughput of {', '.join(topics)} per {every}")


def lag(
    parts: pa.Table,
    total: pa.Table,
    unknown: Sequence[tuple[dt.datetime, dt.datetime, str]],
    *,
    group: str,
    partitions: Sequence[str],
    zone: dt.tzinfo,
    notes: Sequence[str] = (),
) -> Any:
    """Produced against consumed, lag in offsets, lag in seconds: a thin line for each of `partitions`, a bold one for all together.

    `parts`: time, partition, lag, lag_s. `total`: time, partition (a name for all), produced, consumed, lag (the sum), lag_s (the longest). `unknown`: ranges to shade, and what is not known there.
    """
    whole, thin = total.to_pylist(), parts.to_pylist()
    if not whole:
        return _nothing(f"nothing is known of {group}")
    moments = [row["time"] for row in whole]
    time = _Time(zone, min(moments), max(moments), moments)
    called = _called([*partitions, whole[0]["partition"]])
    whole, thin = ([{**row, "partition": called[row["partition"]]} for row in rows] for rows in (whole, thin))
    bold = _frame(whole, time)
    fine = _frame(thin, time) if thin else None
    shade = _shaded(time, unknown, max(moments) - min(moments))
    panels = [_panel(*shade, *_moved(bold, time))]
    range_ = [*_colours(len(partitions)), GREY]
    tips = [
        alt.Tooltip("partition:N", title="partition"),
        alt.Tooltip("at:N", title="time"),
        alt.Tooltip("lag:Q", title="lag in offsets", format=",d"),
        alt.Tooltip("for:N", title="lag in time"),
    ]
    for field, title, form, legend in (
        ("lag", "lag (offsets; bold: sum)", ",d", _LEGEND),
        ("lag_s", "lag (seconds; bold: longest)", ",~f", None),
    ):
        colour = _colour("partition", "partition", called, legend, range_)
        how: dict[str, Any] = {"x": time.axis(), "y": _up(field, title, form), "color": colour, "tooltip": tips}
        lines = [] if fine is None else _line(alt.Chart(fine).encode(**how), width=1.2)
        panels.append(_panel(*shade, *_line(alt.Chart(bold).encode(**how), width=2.8), *lines))
    return _stacked(
        panels, f"Lag of {show(visible(group), CUT)}", notes, f"lag of {group}: produced against consumed, in offsets, in seconds"
    )


def timeline(points: pa.Table, *, name: str, every: str, zone: dt.tzinfo, notes: Sequence[str] = ()) -> Any:
    """One number over time, as a line of steps. `points`: time, value (null: none), keys."""
    rows = points.to_pylist()
    if not rows:
        return _nothing("no events")
    moments = [row["time"] for row in rows]
    time = _Time(zone, min(moments), max(moments), moments)
    shown = show(visible(name), CUT)
    unit = shown.translate(_TITLE)
    tips = [
        alt.Tooltip("at:N", title="at"),
        alt.Tooltip("value:Q", title=unit, format=",.6~f"),
        alt.Tooltip("keys:Q", title="keys", format=",d"),
    ]
    plain = [{field: value for field, value in row.items() if field != "name"} for row in rows]
    base = alt.Chart(_frame(plain, time)).encode(
        x=time.axis(), y=_up("value", unit, _form(rows)), color=alt.value(COLOURS[0]), tooltip=tips
    )
    return _stacked([_panel(*_line(base, interpolate="step-after"))], f"{shown}, per {every}", notes, f"{name} per {every}")


def _form(rows: Sequence[Row]) -> str:
    """How values are told on an axis: small whole numbers as they are."""
    values = [row["value"] for row in rows if row["value"] is not None]
    return ",d" if all(float(value).is_integer() and abs(value) < _LARGE for value in values) else "~s"


_LARGE: Final = 100_000

_TITLE: Final = str.maketrans({"\\": "\N{REVERSE SOLIDUS OPERATOR}", '"': "\N{RIGHT DOUBLE QUOTATION MARK}"})
"""Vega-Lite pastes the title of a channel between quotes into a script, and nothing is drawn if it does not end there: characters that look alike, and mean nothing to it."""


def trace(rows: Sequence[waterfall.Row], *, name: str, zone: dt.tzinfo, notes: Sequence[str] = ()) -> Any:
    """A waterfall: a row for each event of the tree, with a line from its cause to it. Those whose time is unknown have their name alone."""
    moments = [row.moment for row in rows if row.moment is not None]
    if not moments:
        return _nothing(f"nothing is known of {visible(name)}")
    span = max(max(moments) - min(moments), dt.timedelta(milliseconds=1))
    time = _Time(zone, min(moments), max(moments) + span * _MARGIN, moments)
    frame = pd.DataFrame(_steps(rows, time))
    longest = max(len(row) - _NUMBER for row in frame["row"])
    topics = sorted({visible(row.topic) for row in rows if row.moment is not None})
    tips = [alt.Tooltip(f"{field}:N", title=field) for field in ("type", "id", "topic", "at", "time", "after its cause", "marks")]
    axis = {
        "labelExpr": f"substring(datum.value, {_NUMBER})",
        "labelAlign": "left",  # or the tree's levels would not stand under each other
        "labelPadding": longest * _LETTER + 8,
        "labelLimit": 400,
        "labelFont": "monospace",
        "labelFontSize": 11,
        "ticks": False,
    }
    line = alt.Y("row:N", title=None, sort=None, scale={"domain": list(frame["row"])}, axis={**axis, "grid": True, "gridOpacity": 0.2})
    colour = alt.Color("topic:N", title="topic", scale=_scale(topics), sort=topics, legend={**_LEGEND, "symbolType": "circle"})
    marks = {name: value for name, value in _LEGEND.items() if name != "symbolType"}
    occurring = {name: drawn for name, drawn in _SHAPES.items() if name in set(frame["what"])}  # what does not occur needs no explaining
    shape = alt.Shape(
        "what:N",
        title="event",
        scale={"domain": list(occurring), "range": list(occurring.values())},
        legend=marks if len(occurring) > 1 else None,
    )
    base = alt.Chart(frame[frame["x"].notna()]).encode(y=line, tooltip=tips)
    wait = base.mark_rule(strokeWidth=2.5, opacity=0.55).encode(x=time.on_axis("from"), x2="x:Q", color=colour)
    dots = base.mark_point(size=70, filled=True, opacity=1).encode(x=time.axis(), color=colour, shape=shape)
    words = base.mark_text(align="left", dx=8, fontSize=10, color=GREY, limit=260).encode(x=time.on_axis("edge"), text="said:N")
    drawn = alt.layer(wait, dots, words, width=WIDTH, height=max(60, 19 * len(rows)))
    return _stacked(
        [drawn],
        f"Trace of {show(visible(name), CUT)}",
        [show(note, NOTED) for note in notes],
        f"trace of {name}: each event after its cause",
    )


_MARGIN: Final = 0.15  # of the width, to the right of the last event: room for its words
_LETTER: Final = 6.7  # pixels of a monospaced letter at 11
_NUMBER: Final = 5  # digits and a space before what a row is called, so that no two rows have one name
_SHAPES: Final = {"recorded": "circle", "open end": "triangle-right", "before its cause": "diamond"}


def _steps(rows: Sequence[waterfall.Row], time: _Time) -> list[Row]:
    out: list[Row] = []
    for at, (row, branch) in enumerate(zip(rows, waterfall.branches(rows), strict=True)):
        cause = None if row.parent is None else rows[row.parent].moment
        x = None if row.moment is None else time.wall(row.moment)
        backwards = row.after_s is not None and row.after_s < 0
        called = row.type or f"{row.name} ({row.marks})"
        out.append(
            {
                "row": f"{at:0{_NUMBER - 1}d} " + visible(branch.replace(" ", "\N{NO-BREAK SPACE}") + show(called, 40)),
                "x": x,
                "from": x if cause is None else time.wall(cause),
                "edge": x if cause is None or x is None else max(x, time.wall(cause)),
                "what": "open end" if row.open else "before its cause" if backwards else "recorded",
                "said": "  ".join(part for part in (waterfall.after(row), "open" if row.open else "") if part),
                "type": visible(show(row.type)),
                "id": visible(show(row.name)),
                "topic": visible(row.topic),
                "at": visible(row.at),
                "time": row.time,
                "after its cause": waterfall.after(row),
                "marks": visible(show(row.marks)),
            }
        )
    return out


def violators(points: pa.Table, *, names: Sequence[str], zone: dt.tzinfo, notes: Sequence[str] = ()) -> Any:
    """How many keys broke each invariant over time, a line of steps for each of `names`. `points`: time, name, violators."""
    rows = points.to_pylist()
    if not rows:
        return _nothing("no events")
    moments = [row["time"] for row in rows]
    time = _Time(zone, min(moments), max(moments), moments)
    tips = [
        alt.Tooltip("name:N", title="invariant"),
        alt.Tooltip("at:N", title="from"),
        alt.Tooltip("violators:Q", title="keys that break it", format=",d"),
    ]
    called = _called(names)
    colour = _colour("name", "invariant", called, _LEGEND)
    frame = _frame([{**row, "name": called[row["name"]]} for row in rows], time)
    base = alt.Chart(frame).encode(x=time.axis(), y=_up("violators", "keys that break it", ",d"), color=colour, tooltip=tips)
    title = "Keys that break an invariant"
    return _stacked([_panel(*_line(base, interpolate="step-after"))], title, notes, f"{title}, over time: {', '.join(names)}")


def _frame(rows: Sequence[Row], time: _Time) -> pd.DataFrame:
    """The rows with their time as the axis has it, as people read it, and a lag in seconds in words."""
    words = [{"for": "unknown" if row["lag_s"] is None else duration(row["lag_s"])} if "lag_s" in row else {} for row in rows]
    return pd.DataFrame(
        [{**row, **told, "x": time.wall(row["time"]), "at": time.told(row["time"])} for row, told in zip(rows, words, strict=True)]
    ).drop(columns=["time", "unknown"], errors="ignore")


def _moved(bold: pd.DataFrame, time: _Time) -> list[Any]:
    """What was produced and what was consumed, and between the two the lag."""
    ways = ["produced", "consumed"]
    tips = [alt.Tooltip("at:N", title="time"), *(alt.Tooltip(f"{way}:Q", title=f"{way}, offsets", format=",d") for way in ways)]
    title = "offsets (sum over partitions)"
    base = alt.Chart(bold).encode(x=time.axis(), tooltip=tips)
    between = base.mark_area(color=BETWEEN, opacity=0.35).encode(y=_up("produced", title, ",d", zero=False), y2="consumed:Q")
    legend = {**_LEGEND, "labelExpr": "datum.value == 'produced' ? 'produced (log end)' : 'consumed (committed)'"}
    colour = alt.Color("way:N", title="offsets", scale=_scale(ways), sort=ways, legend=legend)
    lines = base.transform_fold([*ways], as_=["way", "offsets"]).encode(y=_up("offsets", title, ",d", zero=False), color=colour)
    return [between, *_line(lines, width=1.8)]


def _up(field: str, title: str, form: str, *, zero: bool = True) -> alt.Y:
    told = "datum.value % 1 ? '' : datum.label" if form == ",d" else "datum.value ? datum.label : '0'"  # or it is 0k
    whole = {"tickMinStep": 1} if form == ",d" else {}
    axis = {"titleFontSize": _fitting(title), "format": form, "labelExpr": told, "gridOpacity": 0.3, "tickCount": 5, **whole}
    return alt.Y(f"{field}:Q", title=title, scale={"zero": zero}, axis=axis)


def _fitting(title: str) -> float:
    """The size of a title that is no longer than its axis, or not by much."""
    return max(9.0, min(11.0, 11 * NAMED / max(len(title), 1)))


def _line(chart: alt.Chart, *, width: float = 1.6, interpolate: Any = "linear") -> list[alt.Chart]:
    """The line, and points that are there for the pointer alone, so that a tooltip is found."""
    return [
        chart.mark_line(strokeWidth=width, interpolate=interpolate, strokeJoin="round"),
        chart.mark_point(size=50, opacity=0, filled=True),
    ]


def _panel(*layers: alt.Chart) -> Any:
    return alt.layer(*layers, width=WIDTH, height=HEIGHT)


def _shaded(time: _Time, ranges: Sequence[tuple[dt.datetime, dt.datetime, str]], span: dt.timedelta) -> list[alt.Chart]:
    if not ranges:
        return []
    rows: list[Row] = [
        {
            "x": time.wall(low),
            "x2": time.wall(high),
            "mid": (time.wall(low) + time.wall(high)) / 2,
            "what": visible(what),
            "from": time.told(low),
            "to": time.told(high),
        }
        for low, high, what in ranges
    ]
    tips = [alt.Tooltip("what:N", title="unknown"), alt.Tooltip("from:N", title="from"), alt.Tooltip("to:N", title="to")]
    base = alt.Chart(pd.DataFrame(rows))
    wide = [row for row, (low, high, _) in zip(rows, ranges, strict=True) if high - low >= span * LABELLED]
    labels = alt.Chart(pd.DataFrame(wide)).mark_text(
        baseline="top", dy=4, color=GREY, fontSize=11, fontStyle="italic", text="unknown in part"
    )
    return [
        base.mark_rect(color=GREY, opacity=0.18).encode(x=time.on_axis(), x2="x2:Q", tooltip=tips),
        *([labels.encode(x=time.on_axis("mid"), y=alt.value(0))] if wide else []),
    ]


_LEGEND: Final = {"orient": "right", "symbolType": "stroke", "symbolStrokeWidth": 3, "symbolOpacity": 1, "labelLimit": 220}


def _scale(names: Sequence[str]) -> dict[str, Any]:
    return {"domain": list(names), "range": _colours(len(names))}


def _colours(count: int) -> list[str]:
    return [COLOURS[at % len(COLOURS)] for at in range(count)]


def _called(names: Sequence[str]) -> dict[str, str]:
    """What each of these series is called in a picture: its name with all that is in it visible, and no two alike."""
    called: dict[str, str] = {}
    for name in names:
        shown, nth = visible(name), 1
        while (told := shown if nth == 1 else f"{shown} ({nth})") in called.values():
            nth += 1
        called[name] = told
    return called


def _colour(field: str, title: str, called: dict[str, str], legend: Any, colours: Sequence[str] = ()) -> alt.Color:
    """A colour for each series, in their order."""
    names = list(called.values())
    scale = {"domain": names, "range": list(colours) or _colours(len(names))}
    return alt.Color(f"{field}:N", title=title, scale=scale, sort=names, legend=legend)


def _stacked(panels: Sequence[Any], title: str, notes: Sequence[str], description: str) -> Any:
    head = {"text": visible(title), "anchor": "start"} | (
        {"subtitle": [line for note in notes for line in textwrap.wrap(visible(note), SAID)], "subtitleColor": GREY} if notes else {}
    )
    told: dict[str, Any] = {"title": head, "description": visible(description), "resolve": {"scale": {"color": "independent"}}}
    return offline(alt.vconcat(*panels, **told, spacing=18, padding={"left": 5, "top": 5, "right": _ROOM, "bottom": 5}))


_ROOM: Final = 24  # pixels: who draws the picture may have wider letters than who measured the legend


def _nothing(what: str) -> Any:
    what = visible(what)
    return offline(
        alt.Chart(pd.DataFrame([{"n": 0}]), title=what, description=what, width=WIDTH, height=40).mark_text(text=what, color=GREY)
    )
