"""How far a consumer group had got on one partition, at any moment: pure arithmetic on what is known of the two.

Offsets and microseconds are int64 arrays, and `NONE` stands for what is not known. Everything ascends in time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

import numpy as np

__all__ = ["NONE", "WHY", "Captured", "Part", "Stall", "Values", "evaluate", "moments", "stalls"]

NONE: Final = -1
EVER: Final = np.iinfo(np.int64).max
GRACE_US: Final = 60_000_000  # a consumer that left nothing waiting for longer than this, or since it was last asked, has caught up

KNOWN, UNSEEN, STALE, NEVER, NO_END, BEYOND, ANEW = range(7)
WHY: Final = (
    "",
    "before the first sample",
    "no sample then",
    "nothing committed",
    "the log's end is not known",
    "the topic is not captured up to there",
    "no sample since the partition was made anew",
)
"""Why a lag is not known, by code."""

Ints = np.ndarray


def _none() -> Ints:
    return np.zeros(0, np.int64)


@dataclass(frozen=True, slots=True)
class Captured:
    """The captured records of one life of a partition: offsets, and the times (order_at) at which they came."""

    offsets: Ints
    times: Ints
    reach: int
    """The log is captured up to here (exclusive)."""
    holes: tuple[Ints, Ints] = field(default_factory=lambda: (_none(), _none()))
    """Starts and nexts of the ranges below `reach` that may have held records: retention, not requested, unknown."""

    def missing(self, low: Ints, high: Ints) -> Ints:
        """Whether anything in `[low, high)` may have been a record that was not captured."""
        starts, nexts = self.holes
        at = np.searchsorted(nexts, low, side="right")
        crossed = np.append(starts, EVER)[at] < high
        return (crossed | (high > self.reach)) & (low < high)


@dataclass(frozen=True, slots=True)
class Part:
    """What is known of a group on one partition.

    At `seen_at` its position was `committed` (NONE: it had committed nothing), which holds until `until` (exclusive) or the next. `exact` says whether that is a commit itself;
    a poll may have missed some. The log began at `starts` and ended at `ends` at the times beside them; the latter is believed until `ends_until` where nothing is captured.
    """

    topic: str
    partition: int
    lives: Sequence[Captured]
    seen_at: Ints
    committed: Ints
    until: Ints
    exact: Ints
    starts_at: Ints
    starts: Ints
    ends_at: Ints
    ends: Ints
    ends_until: Ints
    polled_at: Ints

    @property
    def name(self) -> str:
        return f"{self.topic}[{self.partition}]"

    def life(self, at: Ints) -> Ints:
        """The life that stood at each moment: the newest with a record by then, else the first."""
        return np.maximum(np.searchsorted([life.times[0] if len(life.times) else EVER for life in self.lives[1:]], at, side="right"), 0)


class Values(NamedTuple):
    """A column per question, an entry per moment; NONE where it has no answer, and `why` says why the lag has none."""

    committed: Ints
    end: Ints
    lag: Ints
    records: Ints
    """Captured records in between; NONE too where not all of the range is captured."""
    lag_us: Ints
    why: Ints


def evaluate(part: Part, at: Ints) -> Values:
    """Where the group and the log stood at each of these moments."""
    committed, why = _position(part, at)
    start = _held(part.starts_at, part.starts, at)
    if not part.lives:
        seen = np.searchsorted(part.ends_at, at, side="right") - 1
        end = np.where((seen >= 0) & (at < np.append(part.ends_until, 0)[seen]), np.append(part.ends, NONE)[seen], NONE)
        return _answer(committed, start, end, why, at, None)
    which = part.life(at)
    if len(part.lives) == 1:
        return _within(part, 0, committed, start, why, at)
    out = Values(*(np.full(len(at), NONE) for _ in Values._fields))
    for life in np.unique(which):
        chosen = which == life
        values = _within(part, int(life), committed[chosen], start[chosen], why[chosen], at[chosen])
        for column, found in zip(out, values, strict=True):
            column[chosen] = found
    return out


def _position(part: Part, at: Ints) -> tuple[Ints, Ints]:
    seen = np.searchsorted(part.seen_at, at, side="right") - 1
    stale = at >= np.append(part.until, EVER)[seen]
    committed = np.where((seen < 0) | stale, NONE, np.append(part.committed, NONE)[seen])
    why = np.select([seen < 0, stale, committed == NONE], [UNSEEN, STALE, NEVER], KNOWN)
    return committed, why


def _held(times: Ints, values: Ints, at: Ints) -> Ints:
    """The last value by then; NONE before the first."""
    out: Ints = np.append(values, NONE)[np.searchsorted(times, at, side="right") - 1]
    return out


def _within(part: Part, life: int, committed: Ints, start: Ints, why: Ints, at: Ints) -> Values:
    held = part.lives[life]
    count = np.searchsorted(held.times, at, side="right")
    first = 0 if held.reach == 0 or (len(held.offsets) and held.offsets[0] == 0) else NONE
    end = np.append(held.offsets + 1, first)[count - 1]
    told = np.searchsorted(part.ends_at, at, side="right") - 1
    bound = np.append(part.ends, NONE)[told]
    if life:  # what was said of the life before says nothing of this one
        bound = np.where(np.append(part.ends_at, NONE)[told] >= held.times[0], bound, NONE)
        old = _held(part.seen_at, part.seen_at, at) < held.times[0]
        committed, why = np.where(old, NONE, committed), np.where(old & (why != UNSEEN), ANEW, why)
        start = np.where(_held(part.starts_at, part.starts_at, at) < held.times[0], NONE, start)
    end = np.maximum(end, bound)
    return _answer(committed, start, end, why, at, held)


def _answer(committed: Ints, start: Ints, end: Ints, why: Ints, at: Ints, held: Captured | None) -> Values:
    """Offset lag = max(end - max(committed, log start), 0); time lag = how long ago the first record came that is not consumed."""
    why = np.where((why == KNOWN) & (end == NONE), NO_END, why)
    if held is not None:
        why = np.where((why == KNOWN) & (committed > end) & (committed > held.reach), BEYOND, why)
    known = why == KNOWN
    position = np.maximum(committed, start)
    lag = np.where(known, np.maximum(end - position, 0), NONE)
    if held is None:
        nothing = np.where(lag == 0, 0, NONE)
        return Values(committed, end, lag, nothing, nothing, why)
    low, high = np.searchsorted(held.offsets, position), np.searchsorted(held.offsets, end)
    whole = known & ~held.missing(position, end)
    records = np.where(whole, np.maximum(high - low, 0), NONE)
    next_ = np.where(low < high, np.append(held.offsets, EVER)[low], end)
    waited = np.where(low < high, np.maximum(at - np.append(held.times, EVER)[low], 0), 0)
    lag_us = np.where(known & ((lag == 0) | ~held.missing(position, next_)), np.where(lag == 0, 0, waited), NONE)
    return Values(committed, end, lag, records, lag_us, why)


def moments(part: Part, start: int, stop: int) -> Ints:
    """The moments within `[start, stop]` at which its lag can be highest: each poll, and the last instant before each commit."""
    just_before = part.seen_at[part.exact] - 1
    found = np.unique(np.concatenate([part.polled_at, just_before]))
    return found[(found >= start) & (found <= stop)]


# --- stalls ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Stall:
    """A time in which a group's position stood still while the log went on. Times are microseconds.

    `since`: from here on something waited that was not consumed. `moved`: the position went on (None: not seen to). `caught_up`: nothing waited any more
    for longer than a minute, or since the sample before (None: not by the end). `stood_us`: the longest standstill in it.
    """

    topic: str
    partition: int
    since: int
    moved: int | None
    caught_up: int | None
    stood_us: int
    peak: int
    peak_at: int
    peak_us: int | None

    @property
    def name(self) -> str:
        return f"{self.topic}[{self.partition}]"


def stalls(part: Part, start: int, stop: int, *, at_least_us: int, min_lag: int) -> list[Stall]:
    """The stalls of so long and so far, in order; a standstill while it still catches up belongs to the one before."""
    out: list[Stall] = []
    checked = moments(part, start, stop)
    for since, end, moved in _standstills(part, start, stop, at_least_us):
        stood = end - since
        if out and (out[-1].caught_up is None or since < out[-1].caught_up):
            before = out.pop()
            since, stood = before.since, max(stood, before.stood_us)
        caught_up = None if moved is None else _caught_up(part, checked[checked >= moved])
        until = stop if caught_up is None else caught_up
        within = np.unique(np.append(checked[(checked >= since) & (checked <= until)], [since, until]))
        values = evaluate(part, within)
        top = int(np.argmax(values.lag))
        longest = int(values.lag_us.max())
        if values.lag[top] >= min_lag:
            out.append(
                Stall(
                    part.topic,
                    part.partition,
                    since,
                    moved,
                    caught_up,
                    stood,
                    int(values.lag[top]),
                    int(within[top]),
                    None if longest == NONE else longest,
                )
            )
    return out


def _standstills(part: Part, start: int, stop: int, at_least_us: int) -> list[tuple[int, int, int | None]]:
    """(since something waits, until, moved) of each run of equal positions with something waiting for so long; `moved` is None where it was not seen to move."""
    if not len(part.seen_at):
        return []
    breaks = np.flatnonzero((np.diff(part.committed) != 0) | (part.until[:-1] < part.seen_at[1:])) + 1
    firsts, lasts = np.append(0, breaks), np.append(breaks, len(part.seen_at)) - 1
    position, begin, end = part.committed[firsts], part.seen_at[firsts], part.until[lasts]
    first = np.maximum(position, _held(part.starts_at, part.starts, begin))
    since = np.maximum(np.maximum(begin, _arrived(part, first, begin, end)), start)
    seen_to_move = np.append(part.until[lasts][:-1] == part.seen_at[firsts][1:], False)
    stopped = np.minimum(end, stop)
    worth = np.flatnonzero((position != NONE) & (since < stopped) & (stopped - since >= at_least_us))
    return [(int(since[one]), int(stopped[one]), int(end[one]) if seen_to_move[one] and end[one] <= stop else None) for one in worth]


def _arrived(part: Part, position: Ints, begin: Ints, end: Ints) -> Ints:
    """When something came within `[begin, end)` that stands at or after the position; EVER where nothing did."""
    out = np.full(len(position), EVER)
    if not part.lives:
        first = np.maximum(np.searchsorted(part.ends_at, begin, side="right") - 1, 0)
        for run, (low, high) in enumerate(zip(first, np.searchsorted(part.ends_at, end), strict=True)):
            past = np.flatnonzero(part.ends[low:high] > position[run])
            if len(past):
                out[run] = part.ends_at[low + past[0]]
        return out
    which = part.life(begin)
    for number, life in enumerate(part.lives):
        chosen = which == number
        out[chosen] = np.append(life.times, EVER)[np.searchsorted(life.offsets, position[chosen])]
    return out


def _caught_up(part: Part, at: Ints) -> int | None:
    """The first of these moments at which all had been consumed that was there a minute, or a moment, before."""
    if not len(at):
        return None
    before = at - np.maximum(np.diff(at, prepend=at[0]), GRACE_US)
    committed, why = _position(part, at)
    there = evaluate(part, before).end
    found = np.flatnonzero((why == KNOWN) & (there != NONE) & (committed >= there))
    return int(at[found[0]]) if len(found) else None
