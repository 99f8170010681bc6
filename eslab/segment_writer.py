"""Segments on their way to the disk."""

from __future__ import annotations

import contextlib
import os
import secrets
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, wait
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from eslab.checksums import Checksums
from eslab.durable import commit_file, enough_disk, replace_file
from eslab.errors import CorruptLog
from eslab.model import Life
from eslab.segments import Footer, Log, OpenTransaction, Segment, merge_holes, self_checksum
from eslab.sources import RECORDS, Chunk, Hole, Marker

__all__ = ["SegmentWriter"]

ROW_GROUP_BYTES = 8 << 20  # one row group is what a reader holds at once, and what a writer keeps back

_DICTIONARY = ["timestamp_type", "leader_epoch", "producer_id", "producer_epoch", "transactional"]
_DELTA = dict.fromkeys(("offset", "timestamp_ms", "producer_timestamp_ms"), "DELTA_BINARY_PACKED")


class SegmentWriter:
    """One segment on its way: chunks go to a temporary file, `commit` makes it appear under its name.

    Holds at most about two row groups in memory. `background` runs the writing of one while the next is gathered. A writer that is neither committed nor aborted leaves a temporary file that
    the next capture sweeps away.
    """

    def __init__(
        self,
        log: Log,
        life: Life,
        start: int,
        *,
        before: tuple[Hole, ...],
        facts: dict[str, Any],
        background: Callable[[Callable[[], None]], Future[None]] | None = None,
    ) -> None:
        self._background = background
        self._writing: Future[None] | None = None
        self.life, self.start, self.next = life, start, start
        self.rows = 0
        self.bytes = 0
        self.whole = False
        """Whether it holds whole chunks: at least one, and none half taken when Ctrl-C or an error came. Only then may it be committed."""
        self.opened = time.monotonic()
        self._before, self._facts = before, facts
        self._holes: list[Hole] = []
        self._markers: list[Marker] = []
        self._open: dict[int, OpenTransaction] = {}
        self.epochs: dict[int, int] = {}
        """The leaders that wrote what it holds, by epoch: the offset after the last batch of each."""
        self._checksums = Checksums()
        self._pending: list[pa.Table] = []
        self._pending_bytes = 0
        self._folder = log.place(life)
        self._folder.mkdir(parents=True, exist_ok=True)
        self._temporary = self._folder / f".tmp-{os.getpid()}-{secrets.token_hex(4)}.parquet"
        with enough_disk(self._temporary):
            self._writer = pq.ParquetWriter(
                self._temporary,
                RECORDS,
                compression="zstd",
                compression_level=1,
                use_dictionary=_DICTIONARY,
                column_encoding=_DELTA,
                write_statistics=["offset", "timestamp_ms"],
                write_page_checksum=True,
                store_schema=False,
            )

    def append(self, chunk: Chunk) -> None:
        """Take the next chunk of this partition. Raises `CorruptLog` if it does not begin where the last one ended."""
        if chunk.start != self.next:
            raise CorruptLog(
                f"{chunk.topic}[{chunk.partition}]: the source went from offset {self.next} to {chunk.start}; nothing was committed"
            )
        _check_cover(chunk)
        self.whole = False
        if chunk.records.num_rows:
            self._pending.append(chunk.records)
            self._pending_bytes += chunk.records.nbytes
        self._holes += chunk.holes
        self._markers += chunk.markers
        self.epochs |= dict(chunk.epochs)
        if self._facts["isolation"] == "read_uncommitted":
            _follow_transactions(self._open, chunk)
        self.next = chunk.next
        self.rows += chunk.records.num_rows
        self.bytes += chunk.records.nbytes
        if self._pending_bytes >= ROW_GROUP_BYTES:
            self._flush()
        self.whole = True

    def _flush(self) -> None:
        if not self._pending:
            return
        table = pa.concat_tables(self._pending)
        self._pending, self._pending_bytes = [], 0
        self._settle()
        if self._background:
            self._writing = self._background(lambda: self._write(table))
        else:
            self._write(table)

    def _write(self, table: pa.Table) -> None:
        self._checksums.add(table)
        with enough_disk(self._temporary):
            self._writer.write_table(table, row_group_size=max(table.num_rows, 1))

    def _settle(self) -> None:
        """Wait for the row group that is being written, and raise what came of it."""
        if self._writing:
            self._writing.result()
            self._writing = None

    def commit(self, *, replaces: Sequence[int] = (), level: int = 0) -> Segment:
        """Make the segment appear under its name, durably, and return it.

        With `replaces`, the starts of the segments that it was merged from, it takes the place of the first of them.
        """
        self._flush()
        self._settle()
        topic, partition, incarnation = self.life
        footer = Footer(
            topic=topic,
            partition=partition,
            incarnation=incarnation,
            start=self.start,
            next=self.next,
            rows=self.rows,
            before=self._before,
            holes=tuple(merge_holes(self._holes)),
            markers=tuple(self._markers),
            open=tuple(one for _, one in sorted(self._open.items())),
            last_leader_epoch=next((epoch for epoch, end in self.epochs.items() if end == self.next), None),
            level=level,
            merged=tuple(start for start in replaces if start != self.start),
            checksums=self._checksums.result(),
            **self._facts,
        )
        footer = msgspec.structs.replace(footer, self_checksum=self_checksum(msgspec.json.encode(footer)))
        with enough_disk(self._temporary):
            self._writer.add_key_value_metadata({"eslab": msgspec.json.encode(footer).decode()})
            self._writer.close()
            final = self._folder / f"{self.start:020d}.parquet"
            (replace_file if replaces else commit_file)(self._temporary, final)
        return Segment(final, footer)

    def abort(self) -> None:
        """Forget what was not committed."""
        if self._writing:
            wait([self._writing])
        with contextlib.suppress(OSError, pa.ArrowException):
            self._writer.close()
        self._temporary.unlink(missing_ok=True)


def _follow_transactions(open_: dict[int, OpenTransaction], chunk: Chunk) -> None:
    """Keep `open_` (by producer) up to the end of the chunk: a marker ends what stands before it."""
    ended = {marker.producer_id: marker.offset for marker in chunk.markers}
    for producer in ended:
        open_.pop(producer, None)
    rows = np.flatnonzero(pc.fill_null(chunk.records["transactional"], False).to_numpy())
    if not len(rows):
        return
    producers = pc.fill_null(chunk.records["producer_id"], -1).to_numpy()[rows]
    offsets = chunk.records["offset"].to_numpy()[rows]
    order = np.argsort(producers, kind="stable")
    ids, starts = np.unique(producers[order], return_index=True)
    for producer, own in zip(ids.tolist(), np.split(offsets[order], starts[1:]), strict=True):
        after = np.searchsorted(own, ended.get(producer, -1))
        if after < len(own):
            first = open_[producer].first if producer in open_ else int(own[after])
            open_[producer] = OpenTransaction(producer, first, int(own[-1]))


def _check_cover(chunk: Chunk) -> None:
    held = chunk.records.num_rows + sum(hole.next - hole.start for hole in chunk.holes)
    if held != chunk.next - chunk.start:
        raise CorruptLog(
            f"{chunk.topic}[{chunk.partition}]: the source answered {held} of the offsets {chunk.start}–{chunk.next - 1} without a word on the rest; nothing was committed"
        )
