"""What stands in a log's folders is told at once, and read again only where a folder changed."""

import os
from pathlib import Path

import pytest

from eslab import listing
from eslab.listing import Listing

LONG_AGO_S = 1_700_000_000


def put(root: Path, *names: str) -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def settle(root: Path) -> None:
    """Let every folder look as if nothing had happened there for long."""
    for folder in [root, *root.rglob("*")]:
        os.utime(folder, (LONG_AGO_S, LONG_AGO_S))


def names(listed: Listing) -> list[str]:
    return ["/".join(path.split("/")[-4:]) for path in listed.paths()]


@pytest.fixture
def read(monkeypatch) -> list[str]:
    """The folders that were read."""
    folders: list[str] = []
    scandir = os.scandir
    monkeypatch.setattr(listing.os, "scandir", lambda folder: folders.append(str(folder)) or scandir(folder))
    return folders


def test_segments_are_listed_and_nothing_else(tmp_path):
    put(tmp_path, "b/0/0/1.parquet", "a/1/0/2.parquet", "a/1/0/.tmp-3.parquet", "a/1/0/4.json", "a/5.parquet", ".writer")
    assert names(Listing(tmp_path)) == ["a/1/0/2.parquet", "b/0/0/1.parquet"]
    assert Listing(tmp_path / "none").paths() == ()


def test_folders_that_did_not_change_are_not_read_again(tmp_path, read):
    put(tmp_path, "a/0/0/1.parquet")
    settle(tmp_path)
    read.clear()  # pathlib reads folders too
    listed = Listing(tmp_path)
    assert [listed.paths() for _ in range(3)] == [(str(tmp_path / "a/0/0/1.parquet"),)] * 3
    assert len(read) == 4  # the root, the topic, the partition and the incarnation, once each


@pytest.mark.parametrize("added", ["a/0/0/2.parquet", "a/0/1/1.parquet", "a/1/0/1.parquet", "b/0/0/1.parquet"])
def test_what_is_added_at_any_depth_is_there_at_once(tmp_path, added):
    put(tmp_path, "a/0/0/1.parquet")
    settle(tmp_path)
    listed = Listing(tmp_path)
    assert names(listed) == ["a/0/0/1.parquet"]
    put(tmp_path, added)
    assert names(listed) == ["a/0/0/1.parquet", added]


def test_what_is_removed_is_gone_at_once_and_so_is_a_log(tmp_path):
    put(tmp_path, "log/a/0/0/1.parquet", "log/a/0/0/2.parquet")
    settle(tmp_path)
    listed = Listing(tmp_path / "log")
    assert len(names(listed)) == 2
    (tmp_path / "log/a/0/0/1.parquet").unlink()
    assert names(listed) == ["a/0/0/2.parquet"]
    (tmp_path / "log").rename(tmp_path / "away")
    assert names(listed) == []
    (tmp_path / "away").rename(tmp_path / "log")
    assert names(listed) == ["a/0/0/2.parquet"]


def test_a_folder_that_changed_a_moment_ago_is_read_again_for_its_time_may_stand_still(tmp_path):
    put(tmp_path, "a/0/0/1.parquet")
    folder = tmp_path / "a/0/0"
    listed, before = Listing(tmp_path), folder.stat()
    assert names(listed) == ["a/0/0/1.parquet"]
    put(tmp_path, "a/0/0/2.parquet")
    os.utime(folder, ns=(before.st_atime_ns, before.st_mtime_ns))  # both within one tick of the clock
    assert names(listed) == ["a/0/0/1.parquet", "a/0/0/2.parquet"]


def test_times_that_stand_still_are_not_trusted_for_long(tmp_path, monkeypatch):
    put(tmp_path, "a/0/0/1.parquet")
    settle(tmp_path)
    listed = Listing(tmp_path)
    assert names(listed) == ["a/0/0/1.parquet"]
    put(tmp_path, "a/0/0/2.parquet")
    settle(tmp_path)  # as a file system that keeps no times of folders tells them
    monkeypatch.setattr(listing, "TRUSTED_S", 0.0)
    assert names(listed) == ["a/0/0/1.parquet", "a/0/0/2.parquet"]
