"""Every error that eslab raises on purpose, as one tree.

    EslabError
    ├── LabError               the folder: not a lab, not there, in use, no room on disk
    │   ├── NotALab
    │   ├── LabNotFound
    │   ├── LabBusy
    │   └── DiskFull
    ├── ConfigError            lab.toml: unreadable, or a mapping that fits nothing
    ├── SourceError            what is captured from
    │   ├── SourceUnreachable
    │   ├── TopicNotFound
    │   ├── AccessDenied
    │   └── SourceChanged
    ├── CorruptLog             a segment that is not what was written
    ├── MomentError            a time, event id, version or cut that names no moment
    │   ├── NaiveTime
    │   ├── UnknownEvent
    │   └── VersionOutOfRange
    ├── UnknownId              an aggregate, or an id, that no event has
    ├── UnknownPath            a path at which no state ever held anything
    ├── UnknownGroup           a consumer group of which the lab has no position
    ├── UnknownTopic           a topic that the lab does not hold
    ├── ProjectionError        a projection that cannot be folded
    ├── WhatIfError            a what-if that asks for what cannot be
    ├── ExecutorError          an executor that died, or cannot take a projection
    └── QueryError             SQL that DuckDB refused

Each message says what happened, where, and what to do next. `EslabError` itself is never raised.
"""

__all__ = [
    "AccessDenied",
    "ConfigError",
    "CorruptLog",
    "DiskFull",
    "EslabError",
    "ExecutorError",
    "LabBusy",
    "LabError",
    "LabNotFound",
    "MomentError",
    "NaiveTime",
    "NotALab",
    "ProjectionError",
    "QueryError",
    "SourceChanged",
    "SourceError",
    "SourceUnreachable",
    "TopicNotFound",
    "UnknownEvent",
    "UnknownGroup",
    "UnknownId",
    "UnknownPath",
    "UnknownTopic",
    "VersionOutOfRange",
    "WhatIfError",
]


class EslabError(Exception):
    """The root: catch it to catch everything that eslab says on purpose."""


class LabError(EslabError):
    """The lab's folder cannot be used as asked."""


class NotALab(LabError):
    """The folder holds other things; nothing in it was touched."""


class LabNotFound(LabError):
    """No lab stands in that folder."""


class LabBusy(LabError):
    """Another process holds the lab's writer lock."""


class DiskFull(LabError):
    """The disk has no room; what was committed before stands."""


class ConfigError(EslabError):
    """lab.toml cannot be read, or names something that is not there."""


class SourceError(EslabError):
    """The place that records come from failed."""


class SourceUnreachable(SourceError):
    """Nothing answers at that address."""


class TopicNotFound(SourceError):
    """The source has no such topic."""


class AccessDenied(SourceError):
    """The source refuses these credentials, or this topic."""


class SourceChanged(SourceError):
    """The source is no longer what it was when this capture began."""


class CorruptLog(EslabError):
    """A segment does not hold what was committed under its name."""


class MomentError(EslabError):
    """The moment asked for cannot be found."""


class NaiveTime(MomentError):
    """A time without a zone, in a lab without `tz=`."""


class UnknownEvent(MomentError):
    """No captured event has that id."""


class VersionOutOfRange(MomentError):
    """The history has fewer steps than that."""


class UnknownId(EslabError, LookupError):
    """No event belongs to that aggregate or id."""


class UnknownPath(EslabError, LookupError):
    """Nothing ever stood at a path of a state."""


class UnknownGroup(EslabError, LookupError):
    """The lab does not know where that consumer group stood."""


class UnknownTopic(EslabError, LookupError):
    """The lab holds no such topic, or the group does not read it."""


class ProjectionError(EslabError):
    """The projection, or one of its handlers, cannot be used."""


class WhatIfError(EslabError):
    """What a what-if asks for cannot be: a path that leads nowhere, an event that is none, a change of something else."""


class ExecutorError(EslabError):
    """The executor of a replay died, or cannot take the projection."""


class QueryError(EslabError):
    """DuckDB refused the statement."""
