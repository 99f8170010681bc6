"""The sorted events as one manifest names them: looked up by aggregate, scanned in order.

Everything under `events/` is derived (building.py) and can be deleted. A manifest is a new numbered file; it names the runs, the part of
the log that they were made from and the fingerprints of what made them. An `Events` object is one manifest, for as long as it lives.
"""

from __future__ import annotations

import datetime as dt
import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Final

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from eslab import runs
from eslab.model import Cut, Life, Selection, parse_path
from eslab.model import Path as Place
from eslab.sources import CONSUMER_OFFSETS

__all__ = [
    "EVENTS",
    "PLACE",
    "SCAN_ROWS",
    "Between",
    "ColumnType",
    "Events",
    "LifeState",
    "Manifest",
    "Run",
    "Slice",
    "Suspect",
    "TopicCounts",
    "held",
    "manifest_name",
    "newest_manifest",
    "next_number",
]

FORMAT_VERSION: Final = 2
SCAN_ROWS: Final = 4 * runs.ROW_GROUP  # rows of a replay held at once

_MANIFESTS: Final = f"manifest-{'[0-9]' * 8}.json"
_TIME = pa.timestamp("us", tz="UTC")
_TEXT = pa.string()

EVENTS: Final = pa.schema(
    [
        pa.field("aggregate", _TEXT, nullable=False),  # "" where the event belongs to none
        pa.field("aggregate_id", _TEXT, nullable=False),
        pa.field("order_at", _TIME, nullable=False),
        pa.field("topic", _TEXT, nullable=False),
        pa.field("partition_id", pa.int32(), nullable=False),
        pa.field("incarnation", pa.int32(), nullable=False),
        pa.field("record_offset", pa.int64(), nullable=False),
        pa.field("first", pa.bool_(), nullable=False),
        pa.field("kind", _TEXT, nullable=False),
        ("problem", _TEXT),
        ("event_id", _TEXT),
        ("event_type", _TEXT),
        ("event_version", _TEXT),
        ("source", _TEXT),
        ("recorded_at", _TIME),
        ("timestamp_type", _TEXT),
        ("happened_at", _TIME),
        ("correlation_id", _TEXT),
        ("causation_id", _TEXT),
        ("trace_id", _TEXT),
        ("span_id", _TEXT),
        ("parent_span_id", _TEXT),
        ("record_key", _TEXT),
        ("data", _TEXT),
        ("metadata", _TEXT),
    ]
)
"""One row per (aggregate, event), `first` on one row of each record; docs/format.md tells each column."""


# A manifest may be a stranger's, and both of these go into SQL
FileName = Annotated[str, msgspec.Meta(pattern=r"^[\w-]+\.parquet\Z")]
ColumnType = Annotated[str, msgspec.Meta(pattern=r"^(NULL|BOOLEAN|BIGINT|DOUBLE|DECIMAL\(\d\d?,\d\d?\)|VARCHAR|JSON)\Z")]


class Suspect(msgspec.Struct):
    """A clock that ran ahead in one life: who, where, by how much, and how many records stand in its shadow."""

    source: str | None
    producer_id: int | None
    start: int
    next: int
    records: int = 0
    shadowed: int = 0
    ahead_ms: int = 0


class LifeState(msgspec.Struct):
    """How far one life of a partition was read, and where its clock stood."""

    topic: str
    partition: int
    incarnation: int
    covered: list[tuple[int, int]] = []
    order_ms: int | None = None
    leader: tuple[int, str | None, int | None] = (0, None, None)
    """Offset, source and producer id of the record that `order_ms` is from."""
    leader_told: bool = False
    """Whether that record is counted among the suspects already."""
    lossy: dict[str, tuple[int, int, int]] = {}
    """cause -> (offsets, first, next after the last) of the holes that may have held records."""
    suspects: list[Suspect] = []
    segments: dict[int, int] = {}
    """The segments that were there, by start, and the checksum of what each says of itself."""
    origin: str = ""
    """Stands for the topic's id and its cluster's; "" where the source told none."""
    seen: int = 0
    """Of a log read uncommitted: where it ended. Events end before the first transaction that was open then."""

    @property
    def life(self) -> Life:
        return self.topic, self.partition, self.incarnation

    @property
    def next(self) -> int:
        return self.covered[-1][1] if self.covered else 0


class TopicCounts(msgspec.Struct):
    """What a topic's records turned out to be; times are microseconds since 1970."""

    fingerprint: str
    records: int = 0
    events: int = 0
    tombstones: int = 0
    undecodable: int = 0
    unassigned: int = 0
    commits: int = 0
    """Of consumer groups; only `__consumer_offsets` has them, and it has nothing else of these but `records`, `malformed` and `bytes`."""
    malformed: int = 0
    aborted: int = 0
    """Records of aborted transactions: in the log, in no event."""
    bytes: int = 0
    first_us: int | None = None
    last_us: int | None = None
    decimals: list[str] = []
    """Where numbers of `data` stand as texts of all their digits; folds see them as `Decimal`."""


class Run(msgspec.Struct):
    """A sorted run: its level is how often its rows were merged."""

    level: int
    rows: int
    files: list[FileName]
    typed: list[tuple[str, ColumnType]] = []
    """Field of data and type of the columns `typed_0`, `typed_1` ... that its files have behind those of EVENTS."""


class Manifest(msgspec.Struct):
    """What the events are, at one moment."""

    number: int = 0
    format_version: int = FORMAT_VERSION
    runs: list[Run] = []
    lives: list[LifeState] = []
    topics: dict[str, TopicCounts] = {}
    aggregates: dict[str, int] = {}
    """Rows by aggregate: one per (aggregate, event)."""
    types: dict[str, dict[str, ColumnType]] = {}
    """Event type -> field of its data -> the SQL type that the events seen so far fit."""
    gaps: FileName | None = None
    transactions: FileName | None = None

    def fingerprints(self, offsets: Mapping[Life, int]) -> dict[Life, str]:
        """For each life the fingerprint of what is below an offset (exclusive) and of the rules to read it by: equal ones, equal answers.

        Before a point stands the life's origin, where that is known: it parts labs whose topics have the same names.
        """
        states = {state.life: state for state in self.lives}
        return {life: self._fingerprint(states[life], next_) for life, next_ in offsets.items() if life in states}

    def _fingerprint(self, state: LifeState, next_: int) -> str:
        below = [(low, min(high, next_)) for low, high in state.covered if low < next_]
        told = hashlib.sha256(f"{self.topics[state.topic].fingerprint} {below}".encode()).hexdigest()[:16]
        return f"{state.origin}.{told}" if state.origin else told

    @property
    def newest(self) -> dict[tuple[str, int], int]:
        """The newest incarnation of each partition that makes events."""
        lives = sorted((state.incarnation, state.topic, state.partition) for state in self.lives if state.topic != CONSUMER_OFFSETS)
        return {(topic, partition): incarnation for incarnation, topic, partition in lives}


def manifest_name(number: int) -> str:
    """The file of the manifest with this number, in `events/`."""
    return f"manifest-{number:08d}.json"


def next_number(folder: Path) -> int:
    """The number of the next manifest: above every one that stands, readable or not."""
    return max((int(path.stem.removeprefix("manifest-")) for path in (folder / "events").glob(_MANIFESTS)), default=0) + 1


def newest_manifest(folder: Path) -> Manifest | None:
    """The newest manifest of a lab's `events/`; None where there is none that this eslab reads."""
    for path in sorted((folder / "events").glob(_MANIFESTS), reverse=True):
        try:
            manifest = msgspec.json.decode(path.read_bytes(), type=Manifest)
        except (OSError, msgspec.MsgspecError):
            continue
        return manifest if manifest.format_version == FORMAT_VERSION else None
    return None


Between = tuple[runs.Key, runs.Key]
"""A range of keys: the first, and the one to end before."""


# --- reading ----------------------------------------------------------------------------------------------


class Events:
    """The events that one manifest names. Reading takes no lock; files stay for a day after a newer manifest drops them."""

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self.folder = folder
        self.manifest = manifest
        self._files: dict[str, runs.RunFile] = {}
        self.decimals: Mapping[str, Sequence[Place]] = {
            topic: [parse_path(path) for path in counts.decimals] for topic, counts in manifest.topics.items() if counts.decimals
        }

    @property
    def paths(self) -> list[Path]:
        """Every file of every run."""
        return self.files(self.manifest.runs)

    def files(self, of: Iterable[Run]) -> list[Path]:
        """Every file of these runs."""
        return [self.folder / "events" / name for run in of for name in run.files]

    @cached_property
    def cut(self) -> Cut:
        """All that these events hold, of the newest incarnation of each partition."""
        newest = self.manifest.newest
        offsets = {
            state.life: state.next for state in self.manifest.lives if newest.get((state.topic, state.partition)) == state.incarnation
        }
        return Cut(offsets, label="all that is captured", store=self.manifest.fingerprints(offsets))

    def lossy(self, cut: Cut) -> dict[Life, dict[str, tuple[int, int, int]]]:
        """The lives that lack records before a cut, or were not asked for all: cause -> (offsets, first, next after the last)."""
        found = {
            state.life: {cause: told for cause, told in state.lossy.items() if told[1] < cut.offsets.get(state.life, 0)}
            for state in self.manifest.lives
        }
        return {life: causes for life, causes in found.items() if causes}

    def lookup(self, aggregate: str, aggregate_id: str, columns: Sequence[str], selection: Selection) -> Slice:
        """The rows of one aggregate in the lab's order.

        Reads one row group of each run that holds the id, and more only for long histories.
        """
        low, high = (aggregate, aggregate_id), (aggregate, aggregate_id + "\0")
        sources = [one for one in self._sources() if one.may_hold(aggregate, aggregate_id)]
        return self._slice(sources, low, high, columns, selection, at_once=True)

    def scan(self, aggregate: str, columns: Sequence[str], selection: Selection, between: Between | None = None) -> Iterator[Slice]:
        """Yield the rows of every id of an aggregate (or of those between two keys) in key order, a few thousand at a time."""
        begin, end = between or ((aggregate,), (aggregate + "\0",))
        for low, high in runs.ranges(self._sources(), begin, end, SCAN_ROWS):
            yield self._slice(self._sources(), low, high or end, columns, selection)

    def key_ranges(self, aggregate: str, rows: int) -> list[Between]:
        """The ids of an aggregate in ranges of about so many rows, none of which parts an id."""
        begin, end = (aggregate,), (aggregate + "\0",)
        bounds = dict.fromkeys(low[:2] for low, _ in runs.ranges(self._sources(), begin, end, rows))
        return list(pairwise([*bounds, end]))

    def holds_all(self, selection: Selection) -> bool:
        """Whether a selection holds every event there is, of whatever incarnation."""
        offsets = selection.cut.offsets
        return selection.happened_until is None and all(
            state.next <= offsets.get(state.life, 0) for state in self.manifest.lives if state.topic != CONSUMER_OFFSETS
        )

    def _slice(
        self,
        sources: Sequence[runs.RunFile],
        low: runs.Key,
        high: runs.Key,
        columns: Sequence[str],
        selection: Selection,
        *,
        at_once: bool = False,
    ) -> Slice:
        def read(names: Sequence[str]) -> pa.Table:
            table = runs.read_merged(sources, low, high, names, at_once=at_once)
            return table if table.num_columns else EVENTS.empty_table().select(names)

        return Slice(read, columns, None if self.holds_all(selection) else selection, self.decimals)

    def _sources(self) -> list[runs.RunFile]:
        for run in self.manifest.runs:
            for name in run.files:
                if name not in self._files:
                    self._files[name] = runs.RunFile(self.folder / "events" / name)
        return [self._files[name] for run in self.manifest.runs for name in run.files]


_CUT_COLUMNS: Final = ("topic", "partition_id", "incarnation", "record_offset")
_CLOCK_COLUMNS: Final = ("happened_at", "recorded_at", "order_at")
PLACE: Final = (*_CUT_COLUMNS, *_CLOCK_COLUMNS)
"""What tells whether a selection holds a row."""


class Slice:
    """Rows of a selection (None: all of them) in the lab's order; columns that were not read at first are read when they are asked for.

    `decimals` says by topic where `data` holds numbers as texts of all their digits.
    """

    def __init__(
        self,
        read: Callable[[Sequence[str]], pa.Table],
        columns: Sequence[str],
        selection: Selection | None,
        decimals: Mapping[str, Sequence[Place]],
    ) -> None:
        self._read, self.decimals = read, decimals
        asked = [] if selection is None else [*_CUT_COLUMNS, *(_CLOCK_COLUMNS if selection.happened_until is not None else [])]
        table = read(list(dict.fromkeys(["aggregate_id", *columns, *asked])))
        mask = None if selection is None else held(table, selection)
        self._mask = None if mask is None or mask.all() else pa.array(mask)
        self.table = table if self._mask is None else table.filter(self._mask)

    def column(self, name: str) -> pa.ChunkedArray:
        """One column of the rows."""
        if name in self.table.column_names:
            return self.table[name]
        column = self._read([name])[name]
        return column if self._mask is None else column.filter(self._mask)


def held(table: pa.Table, selection: Selection) -> np.ndarray:
    """Which rows the selection holds."""
    mask = _before(table, selection.cut)
    if selection.happened_until is not None:
        mask &= _happened_by(table, selection.happened_until)
    return mask


def _happened_by(table: pa.Table, moment: dt.datetime) -> np.ndarray:
    """Which rows had happened by a moment; one that does not tell counts by when it was recorded."""
    happened = pc.coalesce(table["happened_at"], table["recorded_at"], table["order_at"])
    by: np.ndarray = pc.less_equal(happened, pa.scalar(moment, _TIME)).to_numpy()
    return by


def _before(table: pa.Table, cut: Cut) -> np.ndarray:
    """Which rows lie before the cut: one look-up by (topic, partition, incarnation) for the whole column."""
    topics = {topic: at for at, topic in enumerate(sorted({life[0] for life in cut.offsets}))}
    codes = pc.fill_null(pc.index_in(table["topic"], pa.array(list(topics), _TEXT)), len(topics)).to_numpy()
    partitions, incarnations = table["partition_id"].to_numpy(), table["incarnation"].to_numpy()
    shape = (
        len(topics) + 1,
        max([life[1] for life in cut.offsets], default=0) + 2,
        max([life[2] for life in cut.offsets], default=0) + 2,
    )
    ends = np.zeros(shape, np.int64)
    for (topic, partition, incarnation), next_ in cut.offsets.items():
        ends[topics[topic], partition, incarnation] = next_
    ends_of_rows = ends[codes, np.minimum(partitions, shape[1] - 1), np.minimum(incarnations, shape[2] - 1)]
    before: np.ndarray = table["record_offset"].to_numpy() < ends_of_rows
    return before
