"""Small segments become larger ones while readers read, and nothing is lost at any step of it."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

import pytest
from logs import RULES, new_lab
from oracle import read_log
from test_crashes import Source, assert_whole, done, dying_at, run, state_of

from eslab import merging
from eslab.capture import capture, plan
from eslab.errors import CorruptLog
from eslab.lab import Lab
from eslab.merging import KEEP_S, NEIGHBOURS, merge
from eslab.model import Record
from eslab.segments import Log, reaches
from eslab.sources.memory import MemorySource

PER_SNAPSHOT = 4


def trickled(folder: Path, snapshots: int) -> Lab:
    """A lab of so many small segments a partition, as a capture that follows its source leaves them, not merged."""
    lab = new_lab(folder, RULES)
    log = Log(lab.path / "log")
    for number in range(1, snapshots + 1):
        source = Source(PER_SNAPSHOT * number)
        assert list(capture(source, log, plan(source, log, None)))
    return lab


def files(lab: Lab) -> list[Path]:
    return sorted((lab.path / "log").glob("*/*/*/*.parquet"))


def walk(lab: Lab) -> list[tuple[int, int, int]]:
    """(start, next, level) of what stands for each partition's records now."""
    return [
        (reach.start, reach.next, reach.segment.footer.level)
        for segments in Log(lab.path / "log").lives().values()
        for reach in reaches(segments)
    ]


def test_eight_neighbours_become_one_and_eight_of_those_one_again(tmp_path):
    lab = trickled(tmp_path / "lab", NEIGHBOURS**2 + 1)
    assert len(walk(lab)) == 2 * (NEIGHBOURS**2 + 1)
    merge(Log(lab.path / "log"))
    assert walk(lab) == [(0, 128, 2), (128, 130, 0)] * 2
    assert_whole(lab, PER_SNAPSHOT * (NEIGHBOURS**2 + 1))
    assert merge(Log(lab.path / "log")) == []


def test_records_that_a_merge_mixes_up_are_noticed(tmp_path, monkeypatch):
    def mixed_up(table):
        return table.set_column(table.schema.get_field_index("value"), "value", table["value"].take(list(range(table.num_rows))[::-1]))

    intact = merging._chunk
    monkeypatch.setattr(merging, "_chunk", lambda segment, start, next_, table: intact(segment, start, next_, mixed_up(table)))
    lab = trickled(tmp_path / "lab", NEIGHBOURS)
    merge(Log(lab.path / "log"))
    with pytest.raises(AssertionError):
        assert_whole(lab, PER_SNAPSHOT * NEIGHBOURS)


def test_a_snapshot_merges_what_earlier_ones_left(tmp_path):
    lab = new_lab(tmp_path / "lab", RULES)
    for number in range(1, NEIGHBOURS + 1):
        lab.snapshot(Source(PER_SNAPSHOT * number), progress=False)
    assert [level for _, _, level in walk(lab)] == [1, 1]
    assert_whole(lab, PER_SNAPSHOT * NEIGHBOURS)


def test_merged_files_stay_a_day_for_readers_and_then_go(tmp_path):
    lab = trickled(tmp_path / "lab", NEIGHBOURS)
    before = files(lab)
    merge(Log(lab.path / "log"))
    assert files(lab) == before
    assert lab.verify(progress=False).ok, "what was merged is neither doubled nor foreign"
    old = time.time() - KEEP_S - 60
    for path in before:
        os.utime(path, (old, old))
    merge(Log(lab.path / "log"))
    assert [path.name for path in files(lab)] == [f"{0:020d}.parquet"] * 2
    assert_whole(lab, PER_SNAPSHOT * NEIGHBOURS)


def test_readers_of_before_a_merge_see_what_they_saw(tmp_path):
    lab = trickled(tmp_path / "lab", NEIGHBOURS)
    log = Log(lab.path / "log")
    lives = log.lives()
    relation = lab.sql("select count(*), count(distinct (partition_id, record_offset)), sum(record_offset) from records")
    view = lab.sql("from records")
    wanted = [row[:4] for row in view.order("partition_id, record_offset").fetchall()]
    merge(Log(lab.path / "log"))
    assert relation.fetchall() == [(32, 32, 2 * sum(range(16)))]
    assert [row[:4] for row in lab.sql("from records order by partition_id, record_offset").fetchall()] == wanted
    for segments in lives.values():
        offsets = [offset for reach in reaches(segments) for table in reach.read(["offset"]) for offset in table["offset"].to_pylist()]
        assert offsets == list(range(16)), "an object that read the footers before the merge trims the longer file"
    assert [len(segments) for segments in log.lives().values()] == [NEIGHBOURS, NEIGHBOURS]
    assert [len(reaches(segments)) for segments in log.lives().values()] == [1, 1], "and one that looks again sees the merged file"


def test_a_merged_file_that_got_the_inode_of_one_that_is_gone_is_read_anew(tmp_path):
    lab = trickled(tmp_path / "lab", NEIGHBOURS)
    log, first = Log(lab.path / "log"), files(lab)[0]
    before = log.lives()["orders", 0, 0][0].footer
    shutil.copyfile(first, tmp_path / "small")
    merge(Log(lab.path / "log"))
    merged = first.read_bytes()
    (tmp_path / "small").replace(first)
    assert log.lives()["orders", 0, 0][0].footer == before
    first.write_bytes(merged)  # into the same inode
    os.utime(first, ns=(1, first.stat().st_mtime_ns + 1))
    assert log.lives()["orders", 0, 0][0].footer.next == NEIGHBOURS * before.next


def test_gaps_markers_and_what_lies_before_go_with_the_records(tmp_path):
    records = [Record(topic="orders", key=b"k", value=b'{"eventType": "E", "data": {"orderId": "k"}}', timestamp_ms=at) for at in range(60)]
    source = MemorySource(records)
    source._logs["orders", 0] = [one for one in source._logs["orders", 0] if one.offset >= 3 and one.offset % 5]
    lab = new_lab(tmp_path / "lab", RULES)
    log = Log(lab.path / "log")
    for stop in range(6, 60, 6):
        assert list(capture(source, log, plan(source, log, None, stop=stop)))
    before = lab.gaps().df()
    assert len(before) > 5
    assert len(merge(Log(lab.path / "log"))) == 1
    assert lab.gaps().df().equals(before)
    assert lab.verify(progress=False).ok


def test_damage_is_not_merged_into_a_segment_with_new_checksums(tmp_path, monkeypatch):
    lab = trickled(tmp_path / "lab", NEIGHBOURS)
    monkeypatch.setattr("eslab.merging.Checksums.differ", lambda self, others: ["value.bytes"])
    with pytest.raises(CorruptLog, match="is not merged; run `eslab verify`"):
        merge(Log(lab.path / "log"))
    assert [level for _, _, level in walk(lab)] == [0] * 2 * NEIGHBOURS
    assert not list(lab.path.rglob(".tmp-*"))


def merge_dying_at_each_step(folder: Path) -> None:
    """Merge copies of a lab in forks that are killed at the first, second ... step, until one lives."""
    import sys

    for step in range(1, 100):
        child = os.fork()
        if not child:
            dying_at(step)
            merge(Log(folder / str(step) / "log"))
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if os.WIFEXITED(status):
            sys.stderr.write(f"died {step - 1} times, then {os.WEXITSTATUS(status)}\n")
            return


def killed_merges(tmp_path: Path, base: Lab) -> int:
    """A copy of the lab for each step at which a merge can be killed, killed there; how many that are."""
    for step in range(1, 20):
        shutil.copytree(base.path, tmp_path / str(step))
    during = f"from test_merging import merge_dying_at_each_step\nmerge_dying_at_each_step(Path({str(tmp_path)!r}))"
    code, told = done(run(tmp_path / "other", 1, during=during))
    assert code == 0, told
    times = int(told.split()[1])
    assert told.endswith("then 0\n")
    return times


def test_a_merge_killed_while_it_removes_what_was_merged_a_day_ago_loses_nothing(tmp_path):
    base = trickled(tmp_path / "base", NEIGHBOURS)
    merge(Log(base.path / "log"))
    for path in files(base):
        os.utime(path, (time.time() - KEEP_S - 60,) * 2)
    times = killed_merges(tmp_path, base)
    assert times == 2 * (NEIGHBOURS - 1), "each file but the first of each partition is unlinked"
    for step in range(1, times + 1):
        lab = Lab(tmp_path / str(step), tz="UTC", say=lambda notice: None)
        assert len(files(lab)) == 2 * NEIGHBOURS - step + 1
        held = [offset for _, offset in sorted((life[1], row["offset"]) for life, rows, _ in read_log(lab.path) for row in rows)]
        assert held == [*range(16), *range(16)], step
        merge(Log(lab.path / "log"))
        assert len(files(lab)) == 2
    assert_whole(lab, PER_SNAPSHOT * NEIGHBOURS)


def test_a_merge_killed_at_any_step_loses_nothing_and_is_done_by_the_next(tmp_path):
    times = killed_merges(tmp_path, trickled(tmp_path / "base", NEIGHBOURS + 1))
    assert times >= 6, "two files, each of fsync, replace, fsync of the folder"
    for step in {state_of(tmp_path / str(step)): step for step in range(1, times + 1)}.values():  # of those that are the same, one
        lab = Lab(tmp_path / str(step), tz="UTC", say=lambda notice: None)
        rows = lab.sql("select count(*), count(distinct (partition_id, record_offset)) from records").fetchall()
        assert rows == [(PER_SNAPSHOT * (NEIGHBOURS + 1),) * 2], step
        lab.snapshot(Source(PER_SNAPSHOT * (NEIGHBOURS + 2)), progress=False)
        assert sorted({level for _, _, level in walk(lab)}) == [0, 1]
        assert_whole(lab, PER_SNAPSHOT * (NEIGHBOURS + 2))
