"""What the folder of the sorted events holds: the newest manifest's files, and older ones for as long as readers may hold them."""

import math
import os
import random
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pytest

from eslab import building, runs
from eslab.errors import UnknownId
from eslab.events import Run
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


@pytest.mark.parametrize("pattern", ["equal", "growing", "shrinking", "random"])
def test_no_row_is_written_more_than_once_and_the_logarithm_of_the_snapshots_and_so_many_runs_live(pattern):
    chance = random.Random(1)
    sizes = {
        "equal": [5] * 300,
        "growing": range(1, 301),
        "shrinking": range(300, 0, -1),
        "random": [chance.randint(1, 900) for _ in range(300)],
    }
    live, written = [], 0
    for count, size in enumerate(sizes[pattern], 1):
        kept, merged, level = building._tiers(live)
        rows = size + sum(run.rows for run in merged)
        live, written = [*kept, Run(level, rows, [])], written + rows
        assert len(live) <= 1 + math.log2(count)
        assert written / sum(run.rows for run in live) <= 1 + math.log2(count)


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


# --- which runs hold an id ------------------------------------------------------------------------


def in_three_runs(folder, monkeypatch):
    """Ids 00 to 39, each in the run of one snapshot alone, between those of the others; `all` in every run."""
    monkeypatch.setattr(building, "_tiers", lambda old: (old, [], 0))  # no run is merged
    source, lab = MemorySource(), Lab(folder / "lab", say=lambda text: None)
    for part in range(3):
        for name in ["all", *(f"{number:02d}" for number in range(part, 40, 3))]:
            source.append(Record(topic="t", key=name.encode(), value=dumps({"eventType": "T", "data": {"anId": name, "n": part}})))
        lab.snapshot(source, progress=False)
    assert len(lab._now().manifest.runs) == 3
    return lab


def read_by(lab, monkeypatch, name):
    """How many runs a look-up reads, and what it finds."""
    seen, intact = set(), runs.RunFile.read
    with monkeypatch.context() as patch:
        patch.setattr(runs.RunFile, "read", lambda self, *told: seen.add(self.path) or intact(self, *told))
        found = [step.event.data["n"] for step in lab.history("an", name)]
    return found, len(seen)


def test_a_look_up_reads_the_runs_that_hold_the_id_and_no_other(tmp_path, monkeypatch):
    lab = in_three_runs(tmp_path, monkeypatch)
    for number in range(40):
        assert read_by(lab, monkeypatch, f"{number:02d}") == ([number % 3], 1)
    assert read_by(lab, monkeypatch, "all") == ([0, 1, 2], 3)
    with pytest.raises(UnknownId):
        lab.history("an", "05\ud800")


def test_ids_that_share_a_hash_are_told_apart(tmp_path, monkeypatch):
    monkeypatch.setattr(runs, "hash_of", lambda aggregate, aggregate_id: 7)
    lab = in_three_runs(tmp_path, monkeypatch)
    assert read_by(lab, monkeypatch, "17") == ([2], 3)
    with pytest.raises(UnknownId):
        lab.history("an", "41")


def test_a_process_that_was_forked_looks_up_in_threads_of_its_own(tmp_path, monkeypatch):
    lab = in_three_runs(tmp_path, monkeypatch)
    assert len(lab.history("an", "all")) == 3
    with ProcessPoolExecutor(1, mp_context=get_context("fork")) as pool:
        world = lab.replay("an", keys=["all"], executor=pool, progress=False)
    assert world["all"]["n"] == 2
