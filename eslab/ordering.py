"""The lab's order, and the clocks that bend it.

order_at never decreases along one life of a partition: it is the running maximum of the timestamps that are trusted, the same however the
records were split over snapshots. One clock that runs ahead pushes all later records past every cut before its time; so it is found and told.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from eslab.decode import LATEST_MS
from eslab.events import EVENTS, LifeState, Suspect
from eslab.mapping import Distrust

__all__ = ["put_in_order"]

TOLERANCE_MS: Final = 60_000  # how far a partition's time may fall back before a clock is suspected

_NO_TIME_MS: Final = -1  # Kafka's own word for a record without a timestamp


def put_in_order(state: LifeState, records: pa.Table, events: pa.Table, distrust: tuple[Distrust, ...]) -> pa.Array:
    """order_at of the next records of a life: the running maximum of the timestamps that are trusted.

    Where it stands is kept in `state`, and every clock that left later records in its shadow.
    """
    stamps = np.clip(records["timestamp_ms"].to_numpy(), _NO_TIME_MS, LATEST_MS)
    trusted = ~_distrusted(state, records, events, distrust)
    own = np.where(trusted, stamps, _NO_TIME_MS)
    own[0] = max(own[0], _NO_TIME_MS if state.order_ms is None else state.order_ms)
    order = np.maximum.accumulate(own)
    _suspect(state, records, events, stamps, order, trusted & (stamps > _NO_TIME_MS))
    state.order_ms = int(order[-1])
    return pa.array(order * 1000, pa.int64()).cast(EVENTS.field("order_at").type)


def _distrusted(state: LifeState, records: pa.Table, events: pa.Table, distrust: tuple[Distrust, ...]) -> np.ndarray:
    out = np.zeros(records.num_rows, np.bool_)
    for rule in distrust:
        if rule.topic not in (None, state.topic) or rule.partition not in (None, state.partition):
            continue
        fits = np.ones(records.num_rows, np.bool_)
        if rule.source is not None:
            fits &= pc.fill_null(pc.equal(events["source"], rule.source), False).to_numpy()
        if rule.producer_id is not None:
            fits &= pc.fill_null(pc.equal(records["producer_id"], rule.producer_id), False).to_numpy()
        if rule.offsets is not None:
            offsets = records["offset"].to_numpy()
            fits &= (offsets >= rule.offsets[0]) & (offsets < rule.offsets[1])
        out |= fits
    return out


def _suspect(state: LifeState, records: pa.Table, events: pa.Table, stamps: np.ndarray, order: np.ndarray, timed: np.ndarray) -> None:
    """Find the records that set a maximum which later ones fell behind by more than the tolerance."""
    offsets = records["offset"].to_numpy()
    raised = np.flatnonzero(np.diff(order, prepend=state.order_ms if state.order_ms is not None else order[0] - 1) > 0)
    behind = np.flatnonzero(timed & (order - stamps > TOLERANCE_MS))
    culprits = np.searchsorted(raised, behind, side="right") - 1  # -1: the clock of an earlier part of the log
    sources, producers = events["source"], records["producer_id"]
    for culprit, shadowed in zip(*np.unique(culprits, return_counts=True), strict=True):
        at = raised[culprit] if culprit >= 0 else None
        offset, source, producer = state.leader if at is None else (int(offsets[at]), sources[at].as_py(), producers[at].as_py())
        ahead = int((order[behind] - stamps[behind])[culprits == culprit].max())
        known = next((one for one in state.suspects if (one.source, one.producer_id) == (source, producer)), None)
        if known is None:
            known = Suspect(source, producer, offset, offset + 1)
            state.suspects.append(known)
        known.start, known.next = min(known.start, offset), max(known.next, offset + 1)
        known.records += at is not None or not state.leader_told
        state.leader_told |= at is None
        known.shadowed += int(shadowed)
        known.ahead_ms = max(known.ahead_ms, ahead)
    if len(raised):
        at = raised[-1]
        state.leader = (int(offsets[at]), sources[at].as_py(), producers[at].as_py())
        state.leader_told = len(raised) - 1 in culprits
