"""Is the log what was captured? Reads every byte of it once and changes nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from eslab.errors import CorruptLog
from eslab.events import Manifest
from eslab.model import Life
from eslab.segments import Log, Segment, check, reaches, read_footer
from eslab.views import tables

__all__ = ["Verification", "verify"]


@dataclass(frozen=True, slots=True)
class Verification:
    """What was looked at and what is wrong with it; `ok` if nothing is."""

    segments: int
    records: int
    derived: int
    problems: tuple[str, ...]

    @property
    def ok(self) -> bool:
        return not self.problems

    def df(self) -> pd.DataFrame:
        """One row per problem."""
        return pd.DataFrame({"problem": list(self.problems)}, dtype="str")

    def __repr__(self) -> str:
        looked = f"{self.segments:,} segments with {self.records:,} records and {self.derived:,} derived files"
        return (
            f"<Verification: {looked}: every one as it was committed>"
            if self.ok
            else "\n".join([f"<Verification: {looked}: {len(self.problems)} problems>", *self.problems])
        )

    def _repr_html_(self) -> str:
        return tables.html(["problem"], [[problem] for problem in self.problems], caption=repr(self).splitlines()[0], empty="no problems")


def verify(folder: Path, log: Log, manifest: Manifest | None, *, on_file: Callable[[], None] = lambda: None) -> Verification:
    """Check every segment's content, that none is missing between two or doubled, and that all the events were built from still stands.

    A newest segment that was removed before any events were built from it leaves no trace, and cannot be missed.
    """
    problems: list[str] = []
    lives: dict[Life, list[Segment]] = {}
    segments = records = 0
    for path in sorted(path for path in log.folder.glob("*/*/*/*.parquet") if not path.name.startswith(".")):
        segments += 1
        try:
            segment = Segment(path, read_footer(path))
        except CorruptLog as exc:
            problems.append(str(exc))
        else:
            problems += check(segment)
            records += segment.footer.rows
            lives.setdefault(segment.footer.life, []).append(segment)
        on_file()
    for life, found in lives.items():
        problems += _chain(life, found)
    problems += _remembered(manifest, lives)
    derived = [folder / "events" / name for name in _derived(manifest)]
    for path in derived:
        problems += _readable(path)
        on_file()
    return Verification(segments, records, len(derived), tuple(problems))


def _chain(life: Life, segments: list[Segment]) -> Iterator[str]:
    """What stands between two segments must be explained by the later one."""
    topic, partition, incarnation = life
    walk = reaches(segments)
    for before, after in zip([None, *walk], walk, strict=False):
        reached = before.next if before else 0
        told = sorted((hole.start, hole.next) for hole in after.segment.footer.before if hole.next > reached)
        for start, next_ in told:
            if start <= reached:
                reached = max(reached, next_)
        if reached < after.start:
            yield f"{topic}[{partition}] incarnation {incarnation}: nothing explains offsets {reached}–{after.start - 1}; a segment is missing there"
    useful = {reach.segment.path for reach in walk}
    merged = {start for reach in walk for start in reach.segment.footer.merged}  # they stay a day for readers of before the merge
    for segment in segments:
        if segment.path not in useful and segment.footer.start not in merged:
            yield f"{segment.path}: offsets {segment.footer.start}–{segment.footer.next - 1} stand in other segments too; nothing is lost"


def _remembered(manifest: Manifest | None, lives: dict[Life, list[Segment]]) -> Iterator[str]:
    for state in manifest.lives if manifest else []:
        held = [(reach.start, reach.next) for reach in reaches(lives.get(state.life, []))]
        for start, next_ in state.covered:
            at = start
            for low, high in held:
                if low <= at < high:
                    at = high
            if at < next_:
                yield f"{state.topic}[{state.partition}] incarnation {state.incarnation}: offsets {at}–{next_ - 1} were captured once, and no segment holds them now"


def _derived(manifest: Manifest | None) -> list[str]:
    return (
        [name for run in manifest.runs for name in run.files] + [one for one in (manifest.gaps, manifest.transactions) if one]
        if manifest
        else []
    )


def _readable(path: Path) -> Iterator[str]:
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            for at in range(file.num_row_groups):
                file.read_row_group(at)
    except (OSError, pa.ArrowException) as exc:
        yield f"{path}: derived file missing or damaged ({exc}); delete the folder events/ and it is built again"
