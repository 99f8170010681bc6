"""Envelopes: which place in a payload holds the event's type, id, time and data. Data, never code."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, Final

from eslab.errors import ConfigError
from eslab.model import EACH, Path, format_path, parse_path

__all__ = ["ENVELOPES", "Envelope", "read_envelope"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Envelope:
    """For each part of an event the paths to look at, first found wins; a part without paths is never found.

    `event_type` must be found for a record to be an event. `data` without a path that is there is empty.
    """

    name: str
    event_id: tuple[Path, ...] = ()
    event_type: tuple[Path, ...]
    event_version: tuple[Path, ...] = ()
    source: tuple[Path, ...] = ()
    happened_at: tuple[Path, ...] = ()
    correlation_id: tuple[Path, ...] = ()
    causation_id: tuple[Path, ...] = ()
    trace_id: tuple[Path, ...] = ()
    span_id: tuple[Path, ...] = ()
    parent_span_id: tuple[Path, ...] = ()
    data: tuple[Path, ...] = ()
    metadata: tuple[Path, ...] = ()


PARTS: Final = tuple(one.name for one in fields(Envelope) if one.name != "name")


def _envelope(name: str, **parts: str | list[str]) -> Envelope:
    paths = {part: tuple(parse_path(text) for text in ([texts] if isinstance(texts, str) else texts)) for part, texts in parts.items()}
    return Envelope(name=name, **paths)


ENVELOPES: Final = {
    one.name: one
    for one in (
        _envelope(
            "default",
            event_id="eventId",
            event_type=["eventType", "type"],
            event_version="eventVersion",
            source="source",
            happened_at="timestamp",
            correlation_id="correlationId",
            causation_id="causationId",
            trace_id="metadata.traceId",
            span_id="metadata.spanId",
            parent_span_id="metadata.parentSpanId",
            data="data",
            metadata="metadata",
        ),
        # https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/formats/json-format.md, structured mode;
        # correlationid and causationid are its documented extensions
        _envelope(
            "cloudevents",
            event_id="id",
            event_type="type",
            event_version="dataschema",
            source="source",
            happened_at="time",
            correlation_id="correlationid",
            causation_id="causationid",
            trace_id="traceid",
            data="data",
        ),
        # https://docs.aws.amazon.com/eventbridge/latest/ref/overiew-event-structure.html
        _envelope(
            "eventbridge",
            event_id="id",
            event_type="detail-type",
            event_version="version",
            source="source",
            happened_at="time",
            data="detail",
        ),
    )
}
"""The envelopes that lab.toml can name without writing them out."""


def read_envelope(told: Any, where: str) -> Envelope:
    """The envelope that lab.toml names or writes out as a table of part = path or list of paths."""
    if isinstance(told, str):
        if told not in ENVELOPES:
            raise ConfigError(f"{where}: no envelope is called {told!r}; write one of {', '.join(ENVELOPES)}, or a table of paths")
        return ENVELOPES[told]
    if not isinstance(told, dict) or "event_type" not in told or not told.keys() <= set(PARTS):
        raise ConfigError(f"{where}: an envelope is a name or a table with event_type and any of {', '.join(PARTS)}")
    try:
        envelope = _envelope("custom", **told)
    except (AttributeError, TypeError) as exc:
        raise ConfigError(f"{where}: the parts of an envelope are paths or lists of paths ({exc})") from exc
    for part in PARTS:
        if any(EACH in path for path in getattr(envelope, part)):
            raise ConfigError(f"{where}: {part} stands in one place, and [] means many; only the id of an aggregate takes it")
    return envelope


def describe(envelope: Envelope) -> dict[str, list[str]]:
    """The envelope as plain values, for fingerprints and for people."""
    return {part: [format_path(path) for path in getattr(envelope, part)] for part in PARTS}
