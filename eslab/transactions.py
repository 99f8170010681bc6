"""How each transaction ended, resolved when the log is read: from the markers kept in it.

A log that was read committed holds no data but what was committed. One read uncommitted holds the data of aborted and open transactions too; a
transactional record then belongs to the first later marker of its producer. Where offsets between the two may have held another marker
(compaction, retention, not requested, unknown), the outcome is unknown: it is not guessed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from eslab.model import Life
from eslab.segments import LOSSY, OpenTransaction, Segment, holes_of, reaches

__all__ = ["TRANSACTIONS", "Outcome", "Transactions", "waiting"]

Outcome = Literal["committed", "aborted", "open", "unknown"]

NEVER: Final = 2**63 - 1

TRANSACTIONS: Final = pa.schema(
    [
        ("topic", pa.string()),
        ("partition_id", pa.int32()),
        ("incarnation", pa.int32()),
        ("producer_id", pa.int64()),
        ("marker_offset", pa.int64()),
        ("outcome", pa.string()),
        ("certain_from", pa.int64()),
    ]
)
"""One row per marker: the outcome of its producer's records before it, of those from `certain_from` on."""


@dataclass(frozen=True)
class Transactions:
    """The transactions of one life, by its segments."""

    life: Life
    segments: Sequence[Segment]

    @cached_property
    def uncommitted(self) -> bool:
        """Whether any of it was read uncommitted; where nothing was, every record that is held was committed."""
        return any(segment.footer.isolation == "read_uncommitted" for segment in self.segments)

    @cached_property
    def stable_end(self) -> int:
        """Where the first open transaction begins, as the log knows it: what stands from there on may yet be aborted."""
        return min(self._open.values(), default=NEVER) if self.uncommitted else NEVER

    @cached_property
    def waiting(self) -> int:
        """How many transactions are open."""
        return len(self._open) if self.uncommitted else 0

    def outcomes(self, records: pa.Table) -> pa.Array:
        """The outcome of each record (a table with offset, producer_id, transactional), null where it belongs to no transaction."""
        transactional = pc.fill_null(records["transactional"], False).to_numpy()
        if not self.uncommitted:
            return pc.if_else(pa.array(transactional), "committed", pa.scalar(None, pa.string()))
        offsets = records["offset"].to_numpy()
        producers = pc.fill_null(records["producer_id"], -1).to_numpy()
        codes = np.full(len(offsets), -1, np.int8)
        for producer in np.unique(producers[transactional]).tolist():
            rows = np.flatnonzero(transactional & (producers == producer))
            codes[rows] = self._codes(producer, offsets[rows])
        return pa.array(["committed", "aborted", "open", "unknown"]).take(pa.array(codes, mask=codes < 0))

    def table(self) -> pa.Table:
        """Every marker, as rows of `TRANSACTIONS`; none where nothing was read uncommitted."""
        if not self.uncommitted:
            return TRANSACTIONS.empty_table()
        topic, partition, incarnation = self.life
        rows = [
            (topic, partition, incarnation, producer, offset, "committed" if code == 0 else "aborted", self._certain_from(offset))
            for producer, (offsets, codes) in sorted(self._markers.items())
            for offset, code in zip(offsets.tolist(), codes.tolist(), strict=True)
        ]
        columns = list(zip(*rows, strict=True)) or [()] * len(TRANSACTIONS)
        return pa.table([pa.array(column, field.type) for column, field in zip(columns, TRANSACTIONS, strict=True)], schema=TRANSACTIONS)

    @property
    def certain_to_the_end_from(self) -> int:
        """The offset from which on a transaction without a marker is open: before it, its marker may have been lost."""
        return self._certain_from(NEVER)

    def _codes(self, producer: int, offsets: np.ndarray) -> np.ndarray:
        markers, kinds = self._markers.get(producer, (np.empty(0, np.int64), np.empty(0, np.int8)))
        at = np.searchsorted(markers, offsets)
        ended = at < len(markers)
        certain = np.array([self._certain_from(int(one)) for one in np.append(markers, NEVER)])[at]
        codes = np.where(ended, np.append(kinds, 2)[at], 2)
        # a read-committed stretch holds committed data alone, whatever became of the markers
        sure = self._read_committed(offsets)
        out: np.ndarray = np.where(sure, 0, np.where(offsets < certain, 3, codes))
        return out

    def _read_committed(self, offsets: np.ndarray) -> np.ndarray:
        sure = np.zeros(len(offsets), np.bool_)
        for reach in reaches(self.segments):
            if reach.segment.footer.isolation != "read_uncommitted":
                sure |= (offsets >= reach.start) & (offsets < reach.next)
        return sure

    def _certain_from(self, marker: int) -> int:
        """The end of the last stretch before this offset that may have held a marker."""
        at = int(np.searchsorted(self._doubts, marker, side="right"))
        return int(self._doubts[at - 1]) if at else 0

    @cached_property
    def _doubts(self) -> np.ndarray:
        return np.array(sorted(hole.next for hole in holes_of(self.segments) if hole.cause in LOSSY), np.int64)

    @cached_property
    def _markers(self) -> dict[int, tuple[np.ndarray, np.ndarray]]:
        """Producer -> offsets of its markers, ascending, and 0 for each commit, 1 for each abort."""
        found: dict[int, dict[int, int]] = {}
        for marker in self._walk():
            found.setdefault(marker[0], {})[marker[1]] = marker[2]
        return {
            producer: (np.array(sorted(ends), np.int64), np.array([ends[offset] for offset in sorted(ends)], np.int8))
            for producer, ends in found.items()
        }

    def _walk(self) -> Iterator[tuple[int, int, int]]:
        for reach in reaches(self.segments):
            for marker in reach.segment.footer.markers:
                yield marker.producer_id, marker.offset, int(marker.kind == "abort")

    @cached_property
    def _open(self) -> dict[int, int]:
        """Producer -> first offset of its transaction that no marker ends, where none can have been lost."""
        open_: dict[int, OpenTransaction] = {}
        for reach in reaches(self.segments):
            for marker in reach.segment.footer.markers:
                known = open_.get(marker.producer_id)
                if known and known.first < marker.offset:
                    del open_[marker.producer_id]
            for one in reach.segment.footer.open:
                earlier = open_.get(one.producer_id)
                open_[one.producer_id] = OpenTransaction(one.producer_id, earlier.first, one.last) if earlier else one
        certain = self.certain_to_the_end_from
        return {producer: max(one.first, certain) for producer, one in open_.items() if one.last >= certain}


def waiting(lives: Mapping[Life, Sequence[Segment]]) -> Iterator[str]:
    """A word on each partition whose events wait for the end of a transaction that the log holds data of."""
    for life, segments in lives.items():
        if count := (told := Transactions(life, segments)).waiting:
            transactions = "1 transaction is" if count == 1 else f"{count:,} transactions are"
            yield (
                f"{life[0]}[{life[1]}]: {transactions} open; `records` has what they wrote, events from offset {told.stable_end} on wait until they "
                "end and are captured again"
            )
