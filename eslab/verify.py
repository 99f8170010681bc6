"""Is the log what was captured? Reads every byte of it once and changes nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from eslab.bookmarks import Bookmarks
from eslab.duck import session
from eslab.errors import ConfigError, CorruptLog
from eslab.events import Events, Manifest
from eslab.mapping import read_mapping
from eslab.model import Life
from eslab.runs import read_index
from eslab.samples import check_samples
from eslab.segments import DAMAGED, Log, Segment, check, reaches, read_footer, uncovered
from eslab.views import tables
from eslab.wording import many

__all__ = ["Verification", "verify"]

SHOWN = 5  # histories that a repr names; `.histories` has all
OPEN_END = 2**63 - 1


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong, and the offsets `[start, next)` of a life that it puts in doubt; none where nothing is lost by it."""

    text: str
    life: Life | None = None
    start: int = 0
    next: int = 0


@dataclass(frozen=True, slots=True)
class Verification:
    """What was looked at and what is wrong with it; `ok` if nothing is.

    `samples` are files of consumer groups' positions. `histories` are those that a problem touches (aggregate, aggregate_id, steps, topic, partition, first_offset, last_offset), as the sorted events know them. `notes` say
    what could not be told.
    """

    segments: int
    records: int
    samples: int
    derived: int
    problems: tuple[str, ...]
    histories: pd.DataFrame
    notes: tuple[str, ...] = ()
    again: str = ""
    """The line of shell that shows it again."""

    @property
    def ok(self) -> bool:
        return not self.problems

    def df(self) -> pd.DataFrame:
        """One row per problem."""
        return pd.DataFrame({"problem": list(self.problems)}, dtype="str")

    def arrow(self) -> pa.Table:
        """What `df` has, in Arrow."""
        return pa.Table.from_pandas(self.df(), preserve_index=False)

    def __repr__(self) -> str:
        looked = f"{many(self.segments, 'segment')} with {many(self.records, 'record')}, "
        looked += f"{many(self.samples, 'sample file')} and {many(self.derived, 'derived file')}"
        word = "every one as it was committed" if self.ok else many(len(self.problems), "problem")
        return "\n".join([f"<Verification: {looked}: {word}>", *self.problems, *self._touched(), *(f"note: {note}" for note in self.notes)])

    def _touched(self) -> list[str]:
        count = len(self.histories)
        if self.ok or not count:
            return []
        names = [f"{row.aggregate} {row.aggregate_id}" for row in self.histories.head(SHOWN).itertuples(index=False)]
        more = f" and {count - SHOWN:,} more (`.histories` has them all)" if count > SHOWN else ""
        return [f"touched: the histories of {', '.join(names)}{more}"]

    def _repr_html_(self) -> str:
        head, *rest = repr(self).splitlines()
        listed = tables.html(["problem"], [[problem] for problem in self.problems], caption=head, empty="no problems")
        return listed + tables.paragraphs(rest[len(self.problems) :]) + tables.shell(self.again)


def verify(folder: Path, log: Log, manifest: Manifest | None, *, on_file: Callable[[], None] = lambda: None) -> Verification:
    """Check every segment's content, that none is missing between two, doubled or another log's, and that all the events were built from still stands.

    The rest of the evidence too: every sample's content, and that lab.toml and the bookmarks can be read. A newest segment that was removed before any
    events were built from it leaves no trace: where nothing remembers a partition, a note says so. A sample file that was removed leaves none either.
    """
    problems: list[Problem] = []
    lives: dict[Life, list[Segment]] = {}
    segments = records = 0
    paths = sorted(path for path in log.folder.glob("*/*/*/*.parquet") if not path.name.startswith("."))
    for path in paths:
        segments += 1
        try:
            segment = _checked(path, problems)
        except CorruptLog as exc:
            problems.append(_unreadable(path, paths, str(exc)))
        else:
            records += segment.footer.rows
            lives.setdefault(segment.footer.life, []).append(segment)
        on_file()
    for life, held in lives.items():
        problems += _chain(life, held)
        problems += _foreign(life, held)
    problems += _remembered(manifest, lives)
    samples = 0
    for _, found in check_samples(folder):
        samples += 1
        problems += map(Problem, found)
        on_file()
    problems += _unreadable_words(folder)
    derived = _derived(folder, manifest)
    for path, is_run in derived.items():
        problems += _readable(path, is_run=is_run)
        on_file()
    told = tuple(dict.fromkeys(problem.text for problem in problems))
    return Verification(
        segments, records, samples, len(derived), told, _histories(folder, manifest, problems), tuple(_notes(manifest, lives))
    )


def _checked(path: Path, problems: list[Problem]) -> Segment:
    """The segment, with what is wrong with it added to the problems. A merge may put another in its place meanwhile: then that one counts."""
    segment = Segment(path, read_footer(path))
    found = check(segment)
    if found and (now := read_footer(path)) != segment.footer:
        segment = Segment(path, now)
        found = check(segment)
    problems += [Problem(text, segment.footer.life, segment.footer.start, segment.footer.next) for text in found]
    return segment


def _unreadable_words(folder: Path) -> Iterator[Problem]:
    """What people wrote or named, and no checksum guards: it must be readable at least."""
    for read in (lambda: read_mapping(folder), lambda: len(Bookmarks(folder))):
        try:
            read()
        except ConfigError as exc:
            yield Problem(str(exc))


def _unreadable(path: Path, paths: Sequence[Path], text: str) -> Problem:
    """What a file without a footer held: from its own name to that of the next."""
    topic, partition, incarnation, _ = path.parts[-4:]
    try:
        life = (unquote(topic), int(partition), int(incarnation))
        starts = sorted(int(one.stem) for one in paths if one.parent == path.parent)
        return Problem(text, life, int(path.stem), next((start for start in starts if start > int(path.stem)), OPEN_END))
    except ValueError:
        return Problem(text)


def _chain(life: Life, segments: list[Segment]) -> Iterator[Problem]:
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
            text = f"{topic}[{partition}] incarnation {incarnation}: nothing explains offsets {reached}–{after.start - 1}; a segment is missing there"
            yield Problem(text, life, reached, after.start)
    useful = {reach.segment.path for reach in walk}
    merged = {start for reach in walk for start in reach.segment.footer.merged}  # they stay a day for readers of before the merge
    for segment in segments:
        if segment.path not in useful and segment.footer.start not in merged:
            yield Problem(
                f"{segment.path}: offsets {segment.footer.start}–{segment.footer.next - 1} stand in other segments too; nothing is lost"
            )


def _foreign(life: Life, segments: list[Segment]) -> Iterator[Problem]:
    """One life of a partition has one identity: the commonest one here is its own."""
    told = [(one.footer.cluster_id, one.footer.topic_id) for one in segments]
    own = max(dict.fromkeys(told), key=told.count)
    for segment, identity in zip(segments, told, strict=True):
        if identity != own:
            text = f"{segment.path}: is of topic id {identity[1]} of cluster {identity[0]}, all others of this incarnation of {own[1]} of {own[0]}"
            yield Problem(text, life, segment.footer.start, segment.footer.next)


def _remembered(manifest: Manifest | None, lives: Mapping[Life, list[Segment]]) -> Iterator[Problem]:
    """What the events were built from must still stand, and be what it was."""
    for state in manifest.lives if manifest else []:
        segments = lives.get(state.life, [])
        held = [(reach.start, reach.next) for reach in reaches(segments)]
        place = f"{state.topic}[{state.partition}] incarnation {state.incarnation}"
        once = [*state.covered, (state.next, max(state.next, state.seen))]  # past an open transaction the log went on
        for start, next_ in (lack for covered in once for lack in uncovered(*covered, held)):
            yield Problem(
                f"{place}: offsets {start}–{next_ - 1} were captured once, and no segment holds them now", state.life, start, next_
            )
        for segment in segments:
            known = state.segments.get(segment.footer.start)
            merged_since = any(start in state.segments for start in segment.footer.merged)  # and the events were not brought up to it yet
            if known not in (None, segment.footer.self_checksum) and not merged_since:
                text = f"{segment.path}: is not the segment that the events were built from"
                yield Problem(text, state.life, segment.footer.start, segment.footer.next)


def _notes(manifest: Manifest | None, lives: Mapping[Life, list[Segment]]) -> Iterator[str]:
    known = {state.life for state in manifest.lives} if manifest else set()
    for life in sorted(lives.keys() - known):
        end = max(segment.footer.next for segment in lives[life])
        yield f"{life[0]}[{life[1]}] incarnation {life[2]} ends at offset {end}; nothing remembers whether it once went further"


def _histories(folder: Path, manifest: Manifest | None, problems: Sequence[Problem]) -> pd.DataFrame:
    """Whose records stand in the doubtful ranges, by the sorted events."""
    names = ["aggregate", "aggregate_id", "steps", "topic", "partition", "first_offset", "last_offset"]
    ranges = [problem for problem in problems if problem.life]
    paths = [path for path in Events(folder, manifest).paths if not list(_readable(path, is_run=True))] if manifest and ranges else []
    if not paths:
        return pd.DataFrame(columns=names)
    doubtful = pa.Table.from_pylist([
        {"topic": one.life[0], "partition_id": one.life[1], "incarnation": one.life[2], "start": one.start, "next": one.next} for one in ranges if one.life
    ])  # fmt: skip
    with session() as con:
        con.register("doubtful", doubtful)
        found: pd.DataFrame = con.execute(
            """select aggregate, aggregate_id, count(*) as steps, topic, partition_id as partition, min(record_offset) as first_offset,
                max(record_offset) as last_offset from read_parquet($paths) as held
            where aggregate <> '' and exists (from doubtful where doubtful.topic = held.topic and doubtful.partition_id = held.partition_id
                and doubtful.incarnation = held.incarnation and record_offset >= doubtful.start and record_offset < doubtful.next)
            group by all order by all""",
            {"paths": [str(path) for path in paths]},
        ).df()
    return found


def _derived(folder: Path, manifest: Manifest | None) -> dict[Path, bool]:
    """The files that a manifest names, and whether each is one of a run."""
    if manifest is None:
        return {}
    names = dict.fromkeys((name for run in manifest.runs for name in run.files), True)
    names |= dict.fromkeys(filter(None, (manifest.gaps, manifest.transactions)), False)
    return {folder / "events" / name: is_run for name, is_run in names.items()}


def _readable(path: Path, *, is_run: bool) -> Iterator[Problem]:
    try:
        with pq.ParquetFile(path, page_checksum_verification=True, pre_buffer=False) as file:
            if is_run:
                read_index(file.metadata)
            for at in range(file.num_row_groups):
                file.read_row_group(at)
    except (*DAMAGED, KeyError, ValueError) as exc:
        yield Problem(f"{path}: derived file missing or damaged ({exc}); delete the folder events/ and it is built again")
