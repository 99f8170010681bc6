"""verify: every fault that is planted is found, and it says whose histories it touches."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from logs import RULES, new_lab
from test_crashes import Source
from test_transactions import Entry, Topic

from eslab.capture import capture, plan
from eslab.events import EVENTS, Events, Manifest, newest_manifest
from eslab.lab import Lab
from eslab.merging import NEIGHBOURS, merge
from eslab.segments import Log
from eslab.verify import Verification

PER_PARTITION = 8  # offsets of each segment; record n is offset n // 2 of partition n % 2, of order n % 7 and item n % 3


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three segments in each of two partitions."""
    lab = new_lab(tmp_path_factory.mktemp("whole") / "lab", RULES)
    for part in (1, 2, 3):
        lab.snapshot(Source(2 * PER_PARTITION * part), progress=False)
    return lab.path


@pytest.fixture
def lab(whole: Path, tmp_path: Path) -> Lab:
    """A copy of it, to be damaged."""
    shutil.copytree(whole, tmp_path / "lab")
    return Lab(tmp_path / "lab", tz="UTC", say=lambda notice: None)


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


def flip(path: Path, at: int | None = None) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 4 if at is None else at] ^= 0x10
    path.write_bytes(data)


def no_footer(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def swap(lab: Lab) -> None:
    """Two segments under each other's names."""
    first, second = segment(lab, 0), segment(lab, 1)
    kept = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(kept)


def other_records(size: int, *, same_ids: bool = True) -> Source:
    """The same topic, some of whose records are others."""
    source = Source(size)
    source._logs = {place: [one if one.offset % 3 else replace(one, value=b"{}") for one in log] for place, log in source._logs.items()}
    if not same_ids:
        source._topic_ids = dict.fromkeys(source._topic_ids, "another")
    return source


def trickled(folder: Path, source: Callable[[int], Source], parts: int) -> Log:
    """So many segments in each partition, and no events."""
    log = Log(folder / "log")
    for part in range(1, parts + 1):
        taken = source(2 * PER_PARTITION * part)
        assert list(capture(taken, log, plan(taken, log, None)))
    return log


def foreign(lab: Lab, *, same_ids: bool) -> None:
    """Another lab's segment of the same topic, partition and offsets."""
    other = trickled(lab.path.parent / "other", lambda size: other_records(size, same_ids=same_ids), 2)
    shutil.copyfile(other.place(("orders", 0, 0)) / segment(lab, 1).name, segment(lab, 1))


def rewrite(path: Path, change: Callable[[pa.Table], pa.Table]) -> None:
    """The same segment by another hand, with other rows in it and all that it said of itself."""
    with pq.ParquetFile(path) as file:
        table, said = file.read(), file.metadata.metadata
    with pq.ParquetWriter(path, table.schema, store_schema=False) as writer:
        writer.write_table(change(table))
        writer.add_key_value_metadata({"eslab": said[b"eslab"].decode()})


def turned(table: pa.Table) -> pa.Table:
    return table.take(pa.array(range(table.num_rows - 1, -1, -1)))


def with_others_values(table: pa.Table) -> pa.Table:
    """Every record in its place, with the value of its neighbour."""
    at = table.column_names.index("value")
    return table.set_column(at, table.schema.field("value"), turned(table)["value"])


FAULTS: dict[str, tuple[Callable[[Lab], object], str, tuple[int, ...]]] = {
    "a flipped byte": (lambda lab: flip(segment(lab, 1)), "cannot be read|not what was committed", (1,)),
    "a cut file": (lambda lab: no_footer(segment(lab, 1)), "no segment of eslab, or a damaged one", (1,)),
    "a file that is none": (lambda lab: segment(lab, 1).write_bytes(b"text"), "no segment of eslab", (1,)),
    "a missing one": (lambda lab: segment(lab, 1).unlink(), "nothing explains offsets 8–15; a segment is missing there", (1,)),
    "the first missing": (lambda lab: segment(lab, 0).unlink(), "nothing explains offsets 0–7", (0,)),
    "the newest missing": (lambda lab: segment(lab, 2).unlink(), "offsets 16–23 were captured once, and no segment holds them now", (2,)),
    "a whole partition missing": (lambda lab: shutil.rmtree(segment(lab, 0).parents[1]), "offsets 0–23 were captured once", (0, 1, 2)),
    "two that changed places": (swap, "belongs at", (0, 1)),
    "its rows in another order": (lambda lab: rewrite(segment(lab, 1), turned), "not what was committed|out of order", (1,)),
    "a row less": (lambda lab: rewrite(segment(lab, 1), lambda table: table.slice(1)), "7 records where 8 were committed", (1,)),
    "a row twice": (
        lambda lab: rewrite(segment(lab, 1), lambda table: pa.concat_tables([table, table.slice(7)])),
        "9 records where 8",
        (1,),
    ),
    "values that changed places": (lambda lab: rewrite(segment(lab, 1), with_others_values), "the content of value", (1,)),
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


def test_another_labs_segment_in_the_place_of_a_merged_one_is_found_and_a_merge_that_events_do_not_know_is_none(tmp_path):
    lab = new_lab(tmp_path / "lab", RULES)
    trickled(lab.path, Source, NEIGHBOURS)
    assert len(lab.cut().offsets) == 2, "the events are built"
    merge(Log(lab.path / "log"))
    assert verified(lab).ok, "nothing was captured since, and so the events do not know it yet"
    assert Lab(lab.path, say=lambda notice: None).cut().offsets == lab.cut().offsets
    assert verified(lab).ok
    other = trickled(tmp_path / "other", other_records, NEIGHBOURS)
    merge(other)
    shutil.copyfile(other.place(("orders", 0, 0)) / segment(lab, 0).name, segment(lab, 0))
    found = verified(lab)
    assert found.problems == (f"{segment(lab, 0)}: is not the segment that the events were built from",)
    assert touched(found) == owners(*range(NEIGHBOURS))


def test_a_segment_that_filled_in_an_earlier_range_is_missed_though_the_one_behind_it_explains_what_it_lacked(tmp_path):
    lab = new_lab(tmp_path / "lab", RULES)
    for start in (4, 0):
        lab.snapshot(Source(16), start=start, progress=False)
    assert verified(lab).ok
    segment(lab, 0).unlink()
    found = verified(lab)
    assert found.problems == ("orders[0] incarnation 0: offsets 0–3 were captured once, and no segment holds them now",)
    assert touched(found) == {
        (kind, f"{kind[0]}{2 * offset % modulus}") for offset in range(4) for kind, modulus in (("order", 7), ("item", 3))
    }


def test_the_newest_segment_behind_an_open_transaction_is_missed_though_no_event_was_built_from_it(tmp_path):
    told = [Entry(1, "data"), Entry(2, "data"), Entry(2, "commit")]
    lab = new_lab(tmp_path / "lab", RULES)
    for stop in (1, 3):
        lab.snapshot(Topic(told[:stop]), progress=False)
    assert verified(lab).ok
    max((lab.path / "log").glob("*/*/*/*.parquet")).unlink()
    assert verified(lab).problems == ("orders[0] incarnation 0: offsets 1–2 were captured once, and no segment holds them now",)


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


@pytest.mark.parametrize("part", ["a page", "the index"])
def test_damaged_events_are_named_and_touch_no_history(lab, part):
    run = Events(lab.path, newest_manifest(lab.path) or Manifest()).paths[0]
    column = pq.ParquetFile(run).metadata.row_group(0).column(EVENTS.names.index("data"))
    page = column.data_page_offset + column.total_compressed_size - 1
    flip(run, page if part == "a page" else run.read_bytes().index(b'{"firsts"') + 40)
    found = verified(lab)
    assert any("delete the folder events/ and it is built again" in problem for problem in found.problems)
    assert len(found.histories) == 0
