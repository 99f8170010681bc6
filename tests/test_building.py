"""What the folder of the sorted events holds: the newest manifest's files, and older ones for as long as readers may hold them."""

import os
import time
from pathlib import Path

import pytest

from eslab import building, runs
from eslab.lab import Lab
from eslab.model import Record, dumps
from eslab.sources.memory import MemorySource


@pytest.fixture
def source():
    return MemorySource()


@pytest.fixture
def lab(tmp_path, source):
    lab = Lab(tmp_path / "lab", say=lambda text: None)
    snapshot(lab, source)
    return lab


def snapshot(lab, source):
    source.append(Record(topic="t", key=b"1", value=dumps({"eventType": "T", "data": {"anId": "1"}})))
    lab.snapshot(source, progress=False)


def names(lab):
    return {path.name for path in (lab.path / "events").iterdir()}


def age(lab, kept, seconds):
    """Everything but these was last touched so long ago."""
    for name in names(lab) - kept:
        os.utime(lab.path / "events" / name, (time.time() - seconds,) * 2)


def test_what_a_newer_manifest_drops_stays_for_a_day_from_then_on(lab, source):
    first = names(lab)
    age(lab, set(), 10 * building.KEEP_S)
    snapshot(lab, source)
    assert first <= names(lab)
    second = names(lab) - first
    age(lab, second, building.KEEP_S + 60)
    snapshot(lab, source)
    assert not first & names(lab)
    assert second <= names(lab)


def test_what_the_newest_manifest_names_stays_however_old_it_is(lab, source):
    for _ in range(6):  # so that runs of several levels stand beside each other
        snapshot(lab, source)
        age(lab, set(), 10 * building.KEEP_S)
    assert len(Lab(lab.path).history("an", "1")) == 7


def test_no_older_manifest_is_read_to_clean_up(lab, source, monkeypatch):
    for _ in range(3):
        snapshot(lab, source)
    read, intact = [], Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda path: (read.append(path.name), intact(path))[1])
    snapshot(lab, source)
    assert len({name for name in read if name.startswith("manifest")}) <= 2  # the newest before, and the newest after


def test_what_a_build_left_that_died_goes_with_the_next_snapshot_even_if_that_brings_nothing(lab, source):
    folder = lab.path / "events"
    (folder / ".spill-1-ab").mkdir()
    (folder / ".spill-1-ab" / "x.arrow").touch()
    (folder / ".tmp-manifest-ab").touch()
    lab.snapshot(source, progress=False)
    assert not [name for name in names(lab) if name.startswith(".")]


@pytest.mark.parametrize("damage", [b"", b"{}x", b'{"number": 2, "format_version": 99}'])
def test_a_manifest_that_cannot_be_read_is_followed_by_a_new_one(lab, source, damage):
    snapshot(lab, source)
    newest = max(lab.path.glob("events/manifest-*.json"))
    newest.write_bytes(damage)
    assert len(Lab(lab.path, say=lambda text: None).history("an", "1")) == 2
    assert newest.read_bytes() == damage
    snapshot(lab, source)
    assert len(lab.history("an", "1")) == 3


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="no /proc here to see it in")
def test_what_is_put_aside_for_the_sort_is_not_mapped_into_memory(lab, source, monkeypatch):
    monkeypatch.setattr(building, "CHUNK_ROWS", 10)
    intact, seen = runs.merge, []

    def merge(inputs, **options):
        for table in intact(inputs, **options):
            seen.append((sum(isinstance(one, runs.Spill) for one in inputs), ".arrow" in Path("/proc/self/maps").read_text()))
            yield table

    monkeypatch.setattr(runs, "merge", merge)
    for _ in range(50):
        source.append(Record(topic="t", key=b"1", value=dumps({"eventType": "T", "data": {"anId": "1"}})))
    lab.snapshot(source, progress=False)
    assert seen
    assert all(spills and not mapped for spills, mapped in seen)
