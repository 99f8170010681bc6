"""Up to here in the log: cuts, and what a replay sees."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import msgspec

from eslab.errors import MomentError
from eslab.markup import Html, escape, grid, visible
from eslab.model.exact import dumps
from eslab.model.record import Coordinates

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

__all__ = ["Cut", "Life", "Selection"]

Life = tuple[str, int, int]
"""topic, partition, incarnation"""


@dataclass(frozen=True, slots=True)
class Cut:
    """The exact way to say "up to here in the log": the next offset (exclusive) of each topic-partition-incarnation.

    Compares by its offsets alone: `a <= b` when everything in `a` is in `b`; `a | b` holds what either holds, `a & b`
    what both do. `label` says how the cut was asked for, `store` holds for each life the fingerprint of the events it was
    resolved on, `excluded` names the partitions it leaves out on purpose; `upcasters` is the fingerprint of those that were declared then, None if
    that is not known.
    """

    offsets: Mapping[Life, int]
    label: str = field(default="", compare=False)
    store: Mapping[Life, str] = field(default_factory=dict, compare=False)
    excluded: tuple[Life, ...] = field(default=(), compare=False)
    upcasters: str | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "offsets", dict(sorted(self.offsets.items())))

    def __hash__(self) -> int:
        return hash(tuple(self.offsets.items()))

    def holds(self, at: Coordinates) -> bool:
        """Whether the record at these coordinates lies before the cut."""
        return at.offset < self.offsets.get((at.topic, at.partition, at.incarnation), 0)

    def __le__(self, other: Cut) -> bool:
        return all(next_ <= other.offsets.get(life, 0) for life, next_ in self.offsets.items())

    def __lt__(self, other: Cut) -> bool:
        return self <= other and not other <= self

    def __or__(self, other: Cut) -> Cut:
        further = {life: max(self, other, key=lambda cut: cut.offsets.get(life, -1)) for life in self.offsets.keys() | other.offsets.keys()}
        return self._combined(other, further, "or")

    def __and__(self, other: Cut) -> Cut:
        nearer = {life: min(self, other, key=lambda cut: cut.offsets[life]) for life in self.offsets.keys() & other.offsets.keys()}
        return self._combined(other, nearer, "and")

    def _combined(self, other: Cut, chosen: Mapping[Life, Cut], word: str) -> Cut:
        """Each life as the cut that was chosen for it has it."""
        label = f"({self.label}) {word} ({other.label})" if self.label and other.label else self.label or other.label
        return Cut(
            {life: cut.offsets[life] for life, cut in chosen.items()},
            label=label,
            store={life: cut.store[life] for life, cut in chosen.items() if life in cut.store},
            excluded=tuple(sorted({*self.excluded, *other.excluded} - chosen.keys())),
            upcasters=self.upcasters
            if self.upcasters == other.upcasters
            else " ".join(sorted({self.upcasters or "", other.upcasters or ""})),
        )

    @property
    def without(self) -> str:
        """The partitions that it leaves out on purpose, in words; "" for none."""
        return ", ".join(map(_told, self.excluded))

    def __repr__(self) -> str:
        parts = ", ".join(f"{_told(life)}<{next_}" for life, next_ in self.offsets.items())
        without = f"; without {self.without}" if self.excluded else ""
        return visible(f"<Cut {self.label + ': ' if self.label else ''}{parts or 'nothing'}{without}>")

    def _repr_html_(self) -> str:
        rows = [[escape(_told(life)), Html(f"{next_:,}")] for life, next_ in self.offsets.items()]
        without = f"<p>without {escape(self.without)}</p>" if self.excluded else ""
        return grid(["partition", "next offset"], rows, left=[True, False], caption=self.label) + without

    def df(self) -> pd.DataFrame:
        """One row per partition: topic, partition, incarnation, next (the offset that the cut ends before)."""
        import pandas as pd  # noqa: PLC0415  # the values know no engine; who asks for a table gets one

        rows = [(*life, next_) for life, next_ in self.offsets.items()]
        return pd.DataFrame(rows, columns=["topic", "partition", "incarnation", "next"]).astype({"topic": "str"})

    def arrow(self) -> pa.Table:
        """What `df` has, in Arrow."""
        import pyarrow as pa  # noqa: PLC0415  # as above

        return pa.Table.from_pandas(self.df(), preserve_index=False)

    def to_json(self) -> str:
        """One line of JSON that `Cut.from_json` reads back."""
        offsets = [
            {"topic": life[0], "partition": life[1], "incarnation": life[2], "next": next_, "store": self.store.get(life, "")}
            for life, next_ in self.offsets.items()
        ]
        excluded = [{"topic": t, "partition": p, "incarnation": i} for t, p, i in self.excluded]
        told = {} if self.upcasters is None else {"upcasters": self.upcasters}
        return dumps({"offsets": offsets, "label": self.label, "excluded": excluded, **told}).decode()

    @classmethod
    def from_json(cls, text: str | bytes) -> Cut:
        """The cut that `to_json` wrote. Raises `MomentError` if the text is no cut."""
        try:
            raw = msgspec.json.decode(text, type=_CutJson)
        except (msgspec.MsgspecError, UnicodeError) as exc:
            raise MomentError(f"this text is no cut: {exc}; a cut is written by cut.to_json()") from exc
        return cls(
            {(o.topic, o.partition, o.incarnation): o.next for o in raw.offsets},
            label=raw.label,
            store={(o.topic, o.partition, o.incarnation): o.store for o in raw.offsets if o.store},
            excluded=tuple((o.topic, o.partition, o.incarnation) for o in raw.excluded),
            upcasters=raw.upcasters,
        )


def _told(life: Life) -> str:
    topic, partition, incarnation = life
    return f"{topic}[{partition}]{f'~{incarnation}' if incarnation else ''}"


class _LifeJson(msgspec.Struct):
    topic: str
    partition: int
    incarnation: int


class _OffsetJson(_LifeJson):
    next: int
    store: str = ""


class _CutJson(msgspec.Struct):
    offsets: list[_OffsetJson]
    label: str = ""
    excluded: list[_LifeJson] = msgspec.field(default_factory=list)
    upcasters: str | None = None


@dataclass(frozen=True, slots=True)
class Selection:
    """What a replay sees: a cut and, with `happened_until`, only what happened until then (inclusive; an event without
    a happened_at counts by recorded_at). The order is always the lab's. `recorded_until` is the time that the cut was made from, where it was from one."""

    cut: Cut
    happened_until: dt.datetime | None = None
    recorded_until: dt.datetime | None = None
