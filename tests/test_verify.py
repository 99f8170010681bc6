"""verify: every fault that is planted is found, and it says whose histories it touches."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from logs import RULES, new_lab
from test_crashes import Source

from eslab.events import Events, Manifest, newest_manifest
from eslab.lab import Lab
from eslab.verify import Verification

PER_PARTITION = 8  # offsets of each segment; record n is offset n // 2 of partition n % 2, of order n % 7 and item n % 3


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    """Three segments in each of two partitions."""
    lab = new_lab(tmp_path / "lab", RULES)
    for part in (1, 2, 3):
        lab.snapshot(Source(2 * PER_PARTITION * part), progress=False)
    return lab


def segment(lab: Lab, number: int, partition: int = 0) -> Path:
    return lab.path / "log" / "orders" / str(partition) / "0" / f"{number * PER_PARTITION:020d}.parquet"


def owners(*numbers: int, partition: int = 0) -> set[tuple[str, str]]:
    """Whose records the segments of these numbers hold."""
    records = [2 * offset + partition for one in numbers for offset in range(one * PER_PARTITION, (one + 1) * PER_PARTITION)]
    return {("order", f"o{one % 7}") for one in records} | {("item", f"i{one % 3}") for one in records}


def verified(lab: Lab) -> Verification:
    return Lab(lab.path, say=lambda notice: None).verify(progress=False)


def touched(found: Verification) -> set[tuple[str, str]]:
    return set(zip(found.histories["aggregate"], found.histories["aggregate_id"], strict=True))


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 4] ^= 0x10
    path.write_bytes(data)


def no_footer(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def swap(lab: Lab) -> None:
    """Two segments under each other's names."""
    first, second = segment(lab, 0), segment(lab, 1)
    kept = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(kept)


def foreign(lab: Lab, *, same_ids: bool) -> None:
    """Another lab's segment of the same topic, partition and offsets."""

    class Other(Source):
        def __init__(self, size: int) -> None:
            super().__init__(size)
            self._logs = {
                place: [one if one.offset % 3 else one.__class__(**{**_fields(one), "value": b"{}"}) for one in log]
                for place, log in self._logs.items()
            }
            if not same_ids:
                self._topic_ids = dict.fromkeys(self._topic_ids, "another")

    other = new_lab(lab.path.parent / f"other-{same_ids}", RULES)
    for part in (1, 2):
        other.snapshot(Other(2 * PER_PARTITION * part), progress=False)
    shutil.copyfile(segment(other, 1), segment(lab, 1))


def _fields(record: object) -> dict[str, object]:
    return {name: getattr(record, name) for name in type(record).__dataclass_fields__}  # type: ignore[attr-defined]


FAULTS: dict[str, tuple[Callable[[Lab], object], str, tuple[int, ...]]] = {
    "a flipped byte": (lambda lab: flip(segment(lab, 1)), "cannot be read|not what was committed", (1,)),
    "a cut file": (lambda lab: no_footer(segment(lab, 1)), "no segment of eslab, or a damaged one", (1,)),
    "a file that is none": (lambda lab: segment(lab, 1).write_bytes(b"text"), "no segment of eslab", (1,)),
    "a missing one": (lambda lab: segment(lab, 1).unlink(), "nothing explains offsets 8–15; a segment is missing there", (1,)),
    "the first missing": (lambda lab: segment(lab, 0).unlink(), "nothing explains offsets 0–7", (0,)),
    "the newest missing": (lambda lab: segment(lab, 2).unlink(), "offsets 16–23 were captured once, and no segment holds them now", (2,)),
    "two that changed places": (swap, "belongs at", (0, 1)),
    "another topic's life in its place": (lambda lab: foreign(lab, same_ids=False), "is of topic id another", (1,)),
    "another lab's of the same topic": (
        lambda lab: foreign(lab, same_ids=True),
        "is not the segment that the events were built from",
        (1,),
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_every_planted_fault_is_found_with_the_histories_that_it_touches(lab, fault):
    plant, said, numbers = FAULTS[fault]
    assert verified(lab).ok
    plant(lab)
    found = verified(lab)
    assert any(re.search(said, problem) for problem in found.problems), found.problems
    assert touched(found) == owners(*numbers)
    assert f"touched: the histories of {'item i0, item i1, item i2, order o0, order o1'} and" in repr(found)


@pytest.mark.parametrize("where", [5, 1], ids=["under another start", "in another partition"])
def test_a_doubled_segment_is_found_and_no_history_lost_by_it(lab, where):
    shutil.copyfile(segment(lab, 1), segment(lab, where) if where == 5 else segment(lab, 5, partition=1))
    found = verified(lab)
    assert any("which belongs at" in problem for problem in found.problems)
    assert any("stand in other segments too; nothing is lost" in problem for problem in found.problems)


def test_the_steps_and_offsets_that_are_touched_are_counted(lab):
    segment(lab, 1).unlink()
    frame = verified(lab).histories
    order = frame[(frame["aggregate"] == "order") & (frame["aggregate_id"] == "o2")].iloc[0]
    numbers = [2 * offset for offset in range(8, 16) if 2 * offset % 7 == 2]
    assert (order["steps"], order["topic"], order["partition"]) == (len(numbers), "orders", 0)
    assert (order["first_offset"], order["last_offset"]) == (numbers[0] // 2, numbers[-1] // 2)


def test_where_nothing_remembers_a_partition_it_says_that_it_cannot_tell(lab):
    assert verified(lab).notes == ()
    shutil.rmtree(lab.path / "events")
    segment(lab, 2).unlink()
    found = verified(lab)
    assert found.ok
    assert found.notes[0] == "orders[0] incarnation 0 ends at offset 16; nothing remembers whether it once went further"
    assert "note: orders[0]" in repr(found)
    assert "note: orders[0]" in found._repr_html_()


def test_damaged_events_are_named_and_touch_no_history(lab):
    run = Events(lab.path, newest_manifest(lab.path) or Manifest()).paths[0]
    flip(run)
    found = verified(lab)
    assert any("delete the folder events/ and it is built again" in problem for problem in found.problems)
    assert len(found.histories) == 0
