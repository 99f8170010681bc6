"""When a group stood still while its log went on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import pandas as pd
import pyarrow as pa

from eslab import consumption
from eslab.buckets import moment
from eslab.consumption import Stall
from eslab.cuts import Clock
from eslab.lag_tables import frame
from eslab.views import tables
from eslab.wording import many, some

__all__ = ["Stalls"]

SHOWN: Final = 20  # rows of a view


@dataclass(frozen=True)
class Stalls(Sequence[Stall]):
    """When a group stood still while the log went on: a `Stall` per partition and time, the longest first in words, in order of time as a sequence."""

    group: str
    found: tuple[Stall, ...]
    clock: Clock
    looked_at: str
    again: str = ""
    """The line of shell that shows them again."""

    def __len__(self) -> int:
        return len(self.found)

    def __getitem__(self, at: Any) -> Any:
        return self.found[at]

    def df(self) -> pd.DataFrame:
        """One row per stall: topic, partition, since, moved, caught_up, stood_s, peak_lag (offsets), peak_at, peak_lag_s. `moved` and `caught_up` are NaT where that was not seen."""
        return frame(self.arrow())

    def arrow(self) -> pa.Table:
        """The same, as Arrow."""
        time, text, number, seconds = pa.timestamp("us", tz=str(self.clock.zone)), pa.string(), pa.int64(), pa.float64()
        columns: list[tuple[str, Any, list[Any]]] = [
            ("topic", text, [one.topic for one in self.found]),
            ("partition", pa.int32(), [one.partition for one in self.found]),
            *((name, time, [getattr(one, name) for one in self.found]) for name in ("since", "moved", "caught_up")),
            ("stood_s", seconds, [one.stood_us / 1e6 for one in self.found]),
            ("peak_lag", number, [one.peak for one in self.found]),
            ("peak_at", time, [one.peak_at for one in self.found]),
            ("peak_lag_s", seconds, [None if one.peak_us is None else one.peak_us / 1e6 for one in self.found]),
        ]
        return pa.table({name: pa.array(values, number if kind == time else kind).cast(kind) for name, kind, values in columns})

    @property
    def sentences(self) -> list[str]:
        """Since when, how long, how far: one sentence per topic and time, the longest first."""
        return [sentence for _, sentence in sorted(map(self._sentence, self._together()), key=lambda one: -one[0])]

    def _together(self) -> Iterator[list[Stall]]:
        """The stalls of a topic's partitions that overlap in time."""
        for topic in dict.fromkeys(one.topic for one in self.found):
            group: list[Stall] = []
            for one in (stall for stall in self.found if stall.topic == topic):
                if group and one.since > max(_until(other) for other in group):
                    yield group
                    group = []
                group.append(one)
            yield group

    def _sentence(self, group: list[Stall]) -> tuple[int, str]:
        first = group[0]
        partitions = ", ".join(str(one.partition) for one in sorted(group, key=lambda one: one.partition))
        longest = max(one.stood_us for one in group)
        moved = [one.moved for one in group]
        went_on = f", went on {self._show(max(one for one in moved if one is not None))}" if None not in moved else ", not seen to go on"
        back = [one.caught_up for one in group]
        caught_up = (
            f", caught up {self._show(max(one for one in back if one is not None))}"
            if None not in back
            else ""
            if None in moved
            else ", not seen to catch up"
        )
        seconds = [one.peak_us for one in group if one.peak_us is not None]
        far = (
            f"at most {many(sum(one.peak for one in group), 'offset')}"
            + (f" and {tables.duration(max(seconds) / 1e6)}" if seconds else "")
            + " behind"
        )
        return (
            longest,
            f"{first.topic}[{partitions}] stood still from {self._show(min(one.since for one in group))} for {tables.duration(longest / 1e6)}{went_on}{caught_up}; {far}",
        )

    def _show(self, us: int) -> str:
        return self.clock.show(moment(us))

    def __repr__(self) -> str:
        if not self.found:
            return f"<Stalls of {self.group}: none {self.looked_at}>"
        return "\n".join([f"<Stalls of {self.group}: {len(self.found)} {self.looked_at}>", *(f"  {one}" for one in some(self.sentences))])

    def _repr_html_(self) -> str:
        columns = ["partition", "stood still from", "for", "went on", "caught up", "highest lag (offsets)", "at", "longest lag"]
        rows = (
            [
                one.name,
                self._show(one.since),
                tables.duration(one.stood_us / 1e6),
                *("—" if when is None else self._show(when) for when in (one.moved, one.caught_up)),
                one.peak,
                self._show(one.peak_at),
                tables.duration(None if one.peak_us is None else one.peak_us / 1e6),
            ]
            for one in self.found[:SHOWN]
        )
        head = f"Stalls of {self.group}: {len(self.found)} {self.looked_at}"
        shown = tables.paragraphs(self.sentences[:SHOWN]) + tables.html(columns, rows, caption=head, empty="none")
        return shown + tables.shell(self.again)


def _until(stall: Stall) -> int:
    return stall.caught_up or stall.moved or consumption.EVER
