"""Sample files: written once, merged while watches write and others read, and every damage of them found."""

from __future__ import annotations

import datetime as dt
import os
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from test_crashes import done, dying_at, run

from eslab import samples as module
from eslab import watching
from eslab.errors import CorruptLog
from eslab.lab import Lab
from eslab.locking import writer_lock
from eslab.positions import read_samples
from eslab.samples import NEIGHBOURS, SAMPLES, check_samples, merge_samples, write_samples
from eslab.sources import GroupPosition

BEGAN = dt.datetime(2026, 3, 12, 10, 31, tzinfo=dt.UTC)


def rows(minute: int, count: int = 3) -> pa.Table:
    """What a watch keeps of one minute."""
    at = BEGAN + dt.timedelta(minutes=minute)
    told = [
        {
            "group": "billing", "topic": "orders", "partition": n, "committed": None if n == 0 else 10 * minute + n, "log_start": 0, "log_end": 1000,
            "sampled_at": at + dt.timedelta(seconds=n), "committed_at": None, "origin": "watch",
        }
        for n in range(count)
    ]  # fmt: skip
    return pa.Table.from_pylist(told, SAMPLES)


def minutes(folder: Path, first: int, stop: int) -> list[Path]:
    return [write_samples(folder, rows(minute)) for minute in range(first, stop)]


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "samples").iterdir())


def everything(stop: int) -> pa.Table:
    return pa.concat_tables(rows(minute) for minute in range(stop))


def problems(folder: Path) -> list[str]:
    return [problem for _, found in check_samples(folder) for problem in found]


def test_many_minute_files_becomes_few_and_reads_the_same(tmp_path):
    minutes(tmp_path, 0, 5)
    merge_samples(tmp_path)
    assert len(files(tmp_path)) == 5, "fewer than eight are left alone"
    for first in range(5, 80, 5):
        minutes(tmp_path, first, first + 5)
        merge_samples(tmp_path)
        assert len(files(tmp_path)) <= 2 * (NEIGHBOURS - 1) + 1, "one digit to the base of eight for each level"
    assert files(tmp_path)[0] == "20260312T103100Z.parquet"
    assert read_samples(tmp_path).equals(everything(80))
    assert problems(tmp_path) == []


def merge_dying_at_each_step(folder: Path) -> None:
    """Merge copies of a lab in forks that are killed at the first, second ... step, until one lives."""
    import sys

    for step in range(1, 100):
        child = os.fork()
        if not child:
            dying_at(step)
            merge_samples(folder / str(step))
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if os.WIFEXITED(status):
            sys.stderr.write(f"died {step - 1} times, then {os.WEXITSTATUS(status)}\n")
            return


def test_a_merge_killed_at_any_step_loses_and_doubles_nothing_and_is_done_by_the_next(tmp_path):
    minutes(tmp_path / "base", 0, NEIGHBOURS + 1)
    for step in range(1, 15):
        shutil.copytree(tmp_path / "base", tmp_path / str(step))
    during = f"from test_samples import merge_dying_at_each_step\nmerge_dying_at_each_step(Path({str(tmp_path)!r}))"
    code, told = done(run(tmp_path / "other", 1, during=during))
    assert code == 0, told
    times = int(told.split()[1])
    assert times >= 3 + NEIGHBOURS - 1, "fsync, replace, fsync of the folder, and an unlink for each but the first"
    for step in range(1, times + 1):
        lab = tmp_path / str(step)
        assert read_samples(lab).equals(everything(NEIGHBOURS + 1)), step
        assert problems(lab) == [], "what a killed merge left is no damage"
        later = time.time() + 2 * module.STALE_S
        for path in (lab / "samples").glob(".*"):
            os.utime(path, (later - 4 * module.STALE_S,) * 2)
        merge_samples(lab)
        assert len(files(lab)) == 2, step
        assert read_samples(lab).equals(everything(NEIGHBOURS + 1)), step


def test_a_reader_that_listed_the_files_before_a_merge_begins_again(tmp_path, monkeypatch):
    minutes(tmp_path, 0, NEIGHBOURS)
    plain, listed = module._paths, []

    def merged_meanwhile(folder: Path) -> list[Path]:
        listed.append(plain(folder))
        if len(listed) == 1:
            monkeypatch.setattr(module, "_paths", plain)
            merge_samples(folder)
            monkeypatch.setattr(module, "_paths", merged_meanwhile)
        return listed[-1]

    monkeypatch.setattr(module, "_paths", merged_meanwhile)
    assert read_samples(tmp_path).equals(everything(NEIGHBOURS))
    assert [len(paths) for paths in listed] == [NEIGHBOURS, 1]


def test_a_new_file_under_the_name_of_one_that_was_merged_is_not_taken_for_it(tmp_path):
    names = [path.name for path in minutes(tmp_path, 0, NEIGHBOURS)]
    merge_samples(tmp_path)
    late = rows(1, count=2).set_column(0, SAMPLES.field("group"), pa.array(["another"] * 2))
    assert write_samples(tmp_path, late).name == names[1]
    assert read_samples(tmp_path).num_rows == everything(NEIGHBOURS).num_rows + 2


def test_a_snapshot_merges_what_watches_left(tmp_path):
    from test_crashes import Source

    minutes(tmp_path / "lab", 0, NEIGHBOURS)
    lab = Lab(tmp_path / "lab", tz="UTC", say=lambda notice: None)
    lab.snapshot(Source(20), progress=False)
    assert len(files(lab.path)) == 1
    found = lab.verify(progress=False)
    assert (found.ok, found.samples) == (True, 1)
    assert "1 sample file and" in repr(found)


def test_a_watch_merges_what_it_wrote_but_not_while_a_capture_runs(tmp_path, monkeypatch):
    monkeypatch.setattr(watching, "FILE_S", 0)  # a file for each answer
    lab = Lab(tmp_path, say=lambda notice: None)

    def watch(polls: int) -> None:
        stop, seen = threading.Event(), []

        def ask() -> list[GroupPosition]:
            seen.append(1)
            if len(seen) == polls:
                stop.set()
            return [GroupPosition("billing", "orders", 0, len(seen), 0, 9)]

        watching.watch(tmp_path, "kafka://x", ask, every_s=0.001, stop=stop, on_file=lab._merge_samples)

    with writer_lock(tmp_path):
        watch(NEIGHBOURS)
    assert len(files(tmp_path)) == NEIGHBOURS
    watch(1)
    assert len(files(tmp_path)) == 2
    assert read_samples(tmp_path)["committed"].to_pylist() == [*range(1, NEIGHBOURS + 1), 1]


# --- damaged --------------------------------------------------------------------------------------


def flipped(path: Path, every: int) -> Iterator[int]:
    whole = path.read_bytes()
    for at in range(0, len(whole), every):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ (1 << at % 8)]) + whole[at + 1 :])
        yield at
    path.write_bytes(whole)


def check_flips(folder: Path, every: int) -> None:
    """Run in a process of its own, since a damaged file may bring a reader down: that would be seen too."""
    (path,) = (folder / "samples").iterdir()
    intact, unseen = read_samples(folder), []
    for at in flipped(path, every):
        found = problems(folder)
        try:
            read: Any = read_samples(folder)
        except CorruptLog:
            continue
        if not found and not read.equals(intact):
            unseen.append(at)
    assert unseen == [], f"changed without a word at {unseen}"


@pytest.mark.parametrize("every", [61, pytest.param(1, marks=pytest.mark.torture)])
def test_a_flipped_byte_of_a_sample_file_is_noticed_or_changes_nothing(tmp_path, every):
    write_samples(tmp_path, rows(0, count=20))
    code, told = done(
        run(tmp_path / "other", 1, during=f"from test_samples import check_flips\ncheck_flips(Path({str(tmp_path)!r}), {every})")
    )
    assert code == 0, told[-2000:]


def test_every_planted_fault_of_a_sample_file_is_named_by_verify(tmp_path):
    lab = Lab(tmp_path, say=lambda notice: None)
    first, second, third = minutes(tmp_path, 0, 3)
    assert lab.verify(progress=False).ok
    faults = {
        "cannot be read": lambda: second.write_bytes(b"text"),
        " holds; remove one of them": lambda: shutil.copyfile(first, first.with_name("20260312T103100Z-1.parquet")),
        "begins at 20260312T103300Z, which is another file's name": lambda: third.rename(third.with_name("20260312T103900Z.parquet")),
    }
    for number, (said, plant) in enumerate(faults.items(), 1):
        plant()
        found = lab.verify(progress=False)
        assert len(found.problems) == number
        assert any(said in problem for problem in found.problems), found.problems
    with pytest.raises(CorruptLog, match="run `eslab verify`"):
        read_samples(tmp_path)


def test_damage_is_not_merged_into_a_file_with_new_checksums(tmp_path, monkeypatch):
    minutes(tmp_path, 0, NEIGHBOURS)
    monkeypatch.setattr("eslab.samples.Checksums.differ", lambda self, others: ["committed.value"])
    with pytest.raises(CorruptLog, match="is not merged; run `eslab verify`"):
        merge_samples(tmp_path)
    assert len(files(tmp_path)) == NEIGHBOURS


def test_words_that_cannot_be_read_are_named_by_verify(tmp_path):
    minutes(tmp_path, 0, 1)
    (tmp_path / "bookmarks.json").write_text("{")
    (tmp_path / "lab.toml").write_text("format_version = 7\n")
    found = Lab(tmp_path, say=lambda notice: None).verify(progress=False).problems
    assert ["not readable as bookmarks" in found[1], "format_version is 7" in found[0]] == [True, True]
