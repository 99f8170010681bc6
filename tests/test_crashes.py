"""What a killed, interrupted, starved or doubled capture leaves behind, and what damage to the log goes unseen: nothing."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from logs import BASE_MS, RULES, history_differences, new_lab, table_differences, world_differences
from oracle import Oracle, read_log

from eslab.errors import CorruptLog, DiskFull, EslabError, LabBusy
from eslab.lab import Lab
from eslab.locking import writer_lock
from eslab.model import Record
from eslab.segments import Log, Segment, read_footer
from eslab.sources import Chunk
from eslab.sources.memory import MemorySource

TESTS = Path(__file__).parent
PARTITIONS = 2


def record(number: int) -> Record:
    """The same record for the same number, in every process."""
    value = json.dumps({"eventType": "Changed", "data": {"orderId": f"o{number % 7}", "n": number, "items": [{"id": f"i{number % 3}"}]}})
    return Record(
        topic="orders",
        partition=number % PARTITIONS,
        timestamp_ms=BASE_MS + number,
        key=f"o{number % 7}".encode(),
        value=value.encode(),
        headers=(("h", b"1"),),
    )


class Source(MemorySource):
    """So many of those records in small chunks, under ids that do not change from process to process. With `wait`, each chunk waits for a line on stdin."""

    def __init__(self, size: int, *, chunk: int = 20, wait: bool = False) -> None:
        super().__init__(record(number) for number in range(size))
        self._topic_ids = dict.fromkeys(self._topic_ids, "the same")
        self._chunk, self._wait = chunk, wait

    def read(self, ranges: Any) -> Iterator[Chunk]:
        for place, (start, stop) in ranges.items():
            for low in range(start, stop, self._chunk):
                yield from super().read({place: (low, min(low + self._chunk, stop))})
                if self._wait:
                    sys.stderr.write("one chunk\n")
                    sys.stdin.readline()


def run(lab: Path, size: int, before: str = "", during: str = "", **source: Any) -> subprocess.Popen[str]:
    """A process of its own that captures the first `size` records, after `before` was run in it; `during` replaces the one snapshot."""
    code = f"""
        import os, signal, sys
        from pathlib import Path
        sys.path[:0] = {[str(TESTS), str(TESTS.parent)]!r}
        from eslab.lab import Lab
        from test_crashes import Source
        lab = Lab({str(lab)!r}, tz="UTC", say=lambda notice: None)
        source = Source({size}, **{source!r})
    """
    told = "\n".join(textwrap.dedent(part) for part in (code, before, during or "lab.snapshot(source, progress=False)"))
    return subprocess.Popen([sys.executable, "-W", "error", "-c", told], stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def in_midst_of_a_capture(lab: Path) -> subprocess.Popen[str]:
    """Such a process, which has read one chunk of 400 records, and reads on once it is `done` with."""
    process = run(lab, 400, wait=True)
    assert process.stderr is not None
    assert process.stderr.readline() == "one chunk\n"
    return process


def done(process: subprocess.Popen[str], timeout_s: float = 120) -> tuple[int, str]:
    """How it ended, and what it said. It waits for no line any more."""
    _, errors = process.communicate(timeout=timeout_s)
    return process.returncode, errors


def assert_whole(lab: Lab, size: int) -> None:
    """The log is the source, record for record; the answers are the oracle's; nothing temporary is left."""
    held = [
        (life[1], row["offset"], row["timestamp_ms"], row["key"], row["value"], row["headers"])
        for life, rows, _ in read_log(lab.path)
        for row in rows
    ]
    source = Source(size)
    sent = [
        (one.partition, one.offset, one.timestamp_ms, one.key, one.value, [{"key": b"h", "value": b"1"}])
        for (_, _), log in sorted(source._logs.items())
        for one in log
    ]
    assert held == sent
    oracle = Oracle(lab.path)
    found = [*table_differences(lab, oracle), *history_differences(lab, oracle, [("order", "o3")]), *world_differences(lab, oracle, "item")]
    assert found == []
    assert leftovers(lab.path) == []
    assert lab.verify(progress=False).ok


def leftovers(folder: Path) -> list[str]:
    """Files and folders that only a running capture should have."""
    kept = {".writer", ".config"}
    return [str(path.relative_to(folder)) for path in folder.rglob(".*") if path.name not in kept]


# --- killed ---------------------------------------------------------------------------------------

STEPS = ("fsync", "link", "unlink", "mkdir", "replace", "rename")


def dying_at(last: int) -> None:
    """Let the n-th step that changes a folder kill this process before it is done."""
    steps = [0]

    def dying(intact: Any) -> Any:
        def step(*args: Any, **options: Any) -> Any:
            steps[0] += 1
            if steps[0] == last:
                os.kill(os.getpid(), signal.SIGKILL)
            return intact(*args, **options)

        return step

    for name in STEPS:
        setattr(os, name, dying(getattr(os, name)))


def die_at_each_step(folder: Path, size: int) -> None:
    """Capture into a lab of its own for each step, in a fork that dies there, until one lives. Run where nothing but imports was done before."""
    for step in range(1, 1000):
        child = os.fork()
        if not child:
            dying_at(step)
            Lab(folder / str(step), say=lambda notice: None).snapshot(Source(size), progress=False)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if os.WIFEXITED(status):
            sys.stderr.write(f"died {step - 1} times, then {os.WEXITSTATUS(status)}\n")
            return


def state_of(folder: Path) -> tuple[tuple[str, bytes], ...]:
    """All that stands in a lab. Temporary files are named by chance, and the lock by its holder."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != ".writer")
    return tuple(sorted((re.sub(r"\d+-[0-9a-f]{8}", "#", str(path.relative_to(folder))), path.read_bytes()) for path in files))


def killed_labs(folder: Path, size: int, before: int = 0) -> list[Lab]:
    """A lab for each step at which a capture can be killed, killed there; each had `before` records in it. Of those that are the same, one."""
    base = new_lab(folder / "base", RULES)
    if before:
        base.snapshot(Source(before), progress=False)
    for step in range(1, 61):
        shutil.copytree(base.path, folder / str(step))
    code, told = done(
        run(base.path, 1, during=f"from test_crashes import die_at_each_step\ndie_at_each_step(Path({str(folder)!r}), {size})")
    )
    assert code == 0, told
    times = int(told.split()[1])
    assert told.endswith("then 0\n")
    assert 20 < times < 60  # two segments and a manifest, each of fsync, link, fsync, unlink; runs, gaps and folders besides
    left = {state_of(folder / str(step)): folder / str(step) for step in range(1, times + 1)}
    return [Lab(path, tz="UTC", say=lambda notice: None) for path in left.values()]


ANY = pytest.mark.parametrize("every", [2, pytest.param(1, marks=pytest.mark.torture)])  # of the steps at which it was killed


@ANY
def test_a_capture_killed_at_any_step_of_any_commit_is_completed_by_the_next(tmp_path, every):
    for lab in killed_labs(tmp_path, 40)[::every]:
        lab.snapshot(Source(50), progress=False)
        assert_whole(lab, 50)


@ANY
def test_a_capture_killed_at_any_step_answers_for_all_that_was_committed(tmp_path, every):
    for lab in killed_labs(tmp_path, 40, before=20)[:: 2 * every]:
        oracle = Oracle(lab.path)
        assert 20 <= len(oracle.log) <= 40
        assert [*table_differences(lab, oracle), *history_differences(lab, oracle, [("order", "o3")])] == []


# --- interrupted ----------------------------------------------------------------------------------


def test_ctrl_c_commits_the_whole_chunks_that_were_read_and_the_next_snapshot_the_rest(tmp_path):
    lab = new_lab(tmp_path / "lab", RULES)
    process = in_midst_of_a_capture(lab.path)
    process.send_signal(signal.SIGINT)
    process.wait(60)
    _, errors = done(process)
    assert errors.strip().endswith("KeyboardInterrupt")
    [(_, rows, next_)] = read_log(lab.path)
    assert len(rows) == next_ == 20
    lab.snapshot(Source(400), progress=False)
    assert_whole(lab, 400)


@contextlib.contextmanager
def interrupted_at(line: int) -> Iterator[list[int]]:
    """Ctrl-C at the n-th line that is run in the modules that capture."""
    seen = [0]

    def trace(frame: Any, event: str, arg: Any) -> Any:
        if not frame.f_code.co_filename.endswith(("eslab/segment_writer.py", "eslab/durable.py", "eslab/capture.py")):
            return None
        if event == "line":
            seen[0] += 1
            if seen[0] == line:
                raise KeyboardInterrupt
        return trace

    sys.settrace(trace)
    try:
        yield seen
    finally:
        sys.settrace(None)


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")  # between open() and its `with`
@pytest.mark.parametrize("tried", [12, pytest.param(400, marks=[pytest.mark.torture, pytest.mark.timeout(0)])])
def test_ctrl_c_at_any_line_of_a_capture_leaves_a_log_that_the_next_snapshot_completes(tmp_path, monkeypatch, tried):
    monkeypatch.setattr("eslab.segment_writer.ROW_GROUP_BYTES", 4096)  # so that a capture writes row groups while it reads
    lab = new_lab(tmp_path / "counted", RULES)
    with interrupted_at(-1) as lines:
        lab.snapshot(Source(100), progress=False)
    chance = random.Random(1)
    for line in sorted(chance.sample(range(1, lines[0]), tried)):
        lab = new_lab(tmp_path / str(line), RULES)
        with interrupted_at(line), contextlib.suppress(KeyboardInterrupt):
            lab.snapshot(Source(100), progress=False)
        lab.snapshot(Source(100), progress=False)
        assert_whole(lab, 100)


# --- truncated ------------------------------------------------------------------------------------


def test_a_log_truncated_within_its_first_leader_epoch_goes_on_as_another_incarnation(tmp_path):
    class Truncated(Source):
        def epoch_end(self, topic: str, partition: int, leader_epoch: int) -> int | None:
            return 5 if leader_epoch == 0 else None

    lab = new_lab(tmp_path / "lab", RULES)
    for kind, size, first in ((Source, 20, 20), (Truncated, 40, 5)):
        source = kind(size)
        source._logs = {place: [replace(one, leader_epoch=int(one.offset >= first)) for one in log] for place, log in source._logs.items()}
        lab.snapshot(source, progress=False)
    assert set(Oracle(lab.path).next) == {("orders", partition, life) for partition in (0, 1) for life in (0, 1)}


# --- no room --------------------------------------------------------------------------------------


@contextlib.contextmanager
def small_disk(folder: Path, size_kb: int) -> Iterator[None]:
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size_kb}k", "tmpfs", str(folder)], capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip("no small disk can be mounted here")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small disk")
@pytest.mark.parametrize("step_kb", [24, pytest.param(4, marks=[pytest.mark.torture, pytest.mark.timeout(0)])])
def test_a_full_disk_says_so_and_after_making_room_the_same_snapshot_completes(tmp_path, step_kb):
    told = []
    for free_kb in range(0, 200, step_kb):  # each size is full at another step: segments, runs, manifest, lab.duckdb
        disk = tmp_path / f"disk{free_kb}"
        with small_disk(disk, 1024):
            lab = new_lab(disk / "lab", RULES)
            ballast = disk / "ballast"
            room = os.statvfs(disk)
            ballast.write_bytes(bytes(max(0, room.f_bavail * room.f_frsize - free_kb * 1024)))
            try:
                lab.snapshot(Source(200), progress=False)
            except DiskFull as exc:
                told.append(str(exc))
            ballast.unlink()
            lab.snapshot(Source(200), progress=False)
            assert_whole(lab, 200)
    assert len(told) > 3
    assert all("disk is full" in one and "\n" not in one for one in told)


def test_a_write_that_finds_no_room_is_told_as_one_sentence_and_loses_nothing(tmp_path, monkeypatch):
    lab = new_lab(tmp_path / "lab", RULES)
    lab.snapshot(Source(40), progress=False)

    def no_room(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    for step in ("eslab.segment_writer.pq.ParquetWriter.write_table", "eslab.durable.os.link", "eslab.durable.os.fsync"):
        with monkeypatch.context() as patch:
            patch.setattr(step, no_room)
            with pytest.raises(DiskFull, match="disk is full"):
                lab.snapshot(Source(100), progress=False)
    lab.snapshot(Source(100), progress=False)
    assert_whole(lab, 100)


# --- two at once ----------------------------------------------------------------------------------


def test_a_second_snapshot_at_once_gets_one_clear_sentence(tmp_path):
    lab = new_lab(tmp_path / "lab", RULES)
    process = in_midst_of_a_capture(lab.path)
    with pytest.raises(LabBusy, match=f"process {process.pid} .* is writing to this lab") as told:
        lab.snapshot(Source(400), progress=False)
    assert "\n" not in str(told.value)
    assert done(process)[0] == 0
    assert_whole(lab, 400)


def test_the_lock_of_a_killed_writer_is_free(tmp_path):
    lab = new_lab(tmp_path / "lab", RULES)
    process = in_midst_of_a_capture(lab.path)
    process.kill()
    done(process)
    with writer_lock(lab.path):
        pass


READER = """
    enough = lab.path.parent / "enough"
    seen, reads = {}, 0
    while not enough.exists():
        lab = Lab(lab.path, tz="UTC", say=lambda notice: None)
        cut = lab.cut()
        held = sum(cut.offsets.values())
        count = lab.sql("select count(*), count(distinct (partition_id, record_offset)) from events").fetchall()[0]
        later = sum(lab.cut().offsets.values())
        assert held <= count[0] == count[1] <= later, (held, count, later)
        raw = lab.sql("select count(*) from records").fetchall()[0][0]
        assert raw >= count[0], (raw, count)
        world = lab.replay("order", at=cut, progress=False)
        assert world.events == held and not world.failed, (world, held)
        for key in ("o0", "o3"):
            if key in world:
                history = lab.history("order", key, at=cut)
                now = [(step.event.partition, step.event.offset, step.after["n"]) for step in history]
                assert len(now) == world.arrow().to_pylist()[list(world).index(key)]["version"]
                assert now == sorted(now, key=lambda one: one[2]) and [one[2] for one in now] == list(range(int(key[1]), 7 * len(now), 7)), now
                assert now[: len(seen.get(key, []))] == seen.get(key, []), "an earlier read is a prefix of a later one"
                seen[key] = now
        reads += 1
        (lab.path.parent / f"reads-{os.getpid()}").write_text(str(reads))
"""


def check_readers(folder: Path, reads: int) -> None:
    """Captures go on until both readers have read so often; how fast that is does not matter."""
    lab = new_lab(folder, RULES)
    lab.snapshot(Source(20), progress=False)
    readers = [run(lab.path, 20, during=READER) for _ in range(2)]

    def read(reader: subprocess.Popen[str]) -> int:
        told = folder.parent / f"reads-{reader.pid}"
        return int(told.read_text() or 0) if told.exists() else 0

    size = 20
    while (min(map(read, readers)) < reads or size < 80) and all(reader.poll() is None for reader in readers):
        size += 6
        lab.snapshot(Source(size, chunk=2), progress=False)
    (folder.parent / "enough").touch()
    for code, told in map(done, readers):
        assert code == 0, told
    assert_whole(lab, size)


def test_two_processes_read_whole_prefixes_while_a_third_captures(tmp_path):
    check_readers(tmp_path / "lab", 4)


@pytest.mark.torture
def test_two_processes_read_whole_prefixes_of_very_many_captures(tmp_path):
    check_readers(tmp_path / "lab", 100)


# --- damaged --------------------------------------------------------------------------------------


def small_lab(folder: Path, parts: int = 1) -> Lab:
    lab = new_lab(folder, RULES)
    for part in range(1, parts + 1):
        lab.snapshot(Source(12 * part), progress=False)
    return lab


def content(path: Path) -> Any:
    """Every value and fact of a segment, by eslab's own reader; an error that it says on purpose."""
    try:
        footer = read_footer(path)
        return footer, [table.to_pylist() for table in Segment(path, footer).read()]
    except CorruptLog as exc:
        return exc


def flips(path: Path, every: int) -> Iterator[int]:
    """One byte after another turned over, and turned back."""
    whole = path.read_bytes()
    for at in range(0, len(whole), every):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ (1 << at % 8)]) + whole[at + 1 :])
        yield at
    path.write_bytes(whole)


FLIP = """
    from test_crashes import check_flips
    check_flips(Path({path!r}), {every})
"""


def check_flips(path: Path, every: int) -> None:
    """Run in a process of its own, since a damaged file may bring a reader down: that would be seen too."""
    lab = Lab(path.parents[4], say=lambda notice: None)
    intact = content(path)
    assert not isinstance(intact, Exception)
    unseen = []
    for at in flips(path, every):
        sys.stderr.write(f"byte {at}\n")
        verified, read = lab.verify(progress=False), content(path)
        if verified.ok and not isinstance(read, CorruptLog) and read != intact:
            unseen.append(at)
    assert unseen == [], f"changed without a word at {unseen}"


@pytest.mark.parametrize("every", [47, pytest.param(1, marks=pytest.mark.torture)])
def test_a_flipped_byte_of_a_segment_is_noticed_or_changes_nothing(tmp_path, every):
    lab = small_lab(tmp_path / "lab")
    [path, _] = sorted((lab.path / "log").glob("*/*/*/*.parquet"))
    code, told = done(run(tmp_path / "other", 1, during=FLIP.format(path=str(path), every=every)), timeout_s=280)
    assert code == 0, told[-2000:]


def middle(lab: Lab) -> Path:
    return sorted((lab.path / "log" / "orders" / "0" / "0").glob("*.parquet"))[1]


def problems(lab: Lab) -> str:
    return "\n".join(Lab(lab.path, say=lambda notice: None).verify(progress=False).problems)


def test_a_removed_segment_is_named_by_its_offsets(tmp_path):
    lab = small_lab(tmp_path / "lab", parts=3)
    middle(lab).unlink()
    assert "nothing explains offsets 6–11" in problems(lab)


def test_a_removed_last_segment_is_remembered(tmp_path):
    lab = small_lab(tmp_path / "lab", parts=3)
    max((lab.path / "log" / "orders" / "0" / "0").glob("*.parquet")).unlink()
    assert "offsets 12–17 were captured once, and no segment holds them now" in problems(lab)


def test_a_renamed_segment_is_named(tmp_path):
    lab = small_lab(tmp_path / "lab", parts=3)
    renamed = middle(lab).with_name(f"{7:020d}.parquet")
    middle(lab).rename(renamed)
    assert str(renamed) in problems(lab)


def test_a_segment_copied_under_another_start_is_named(tmp_path):
    lab = small_lab(tmp_path / "lab", parts=3)
    copied = middle(lab).with_name(f"{40:020d}.parquet")
    copied.write_bytes(middle(lab).read_bytes())
    assert str(copied) in problems(lab)


def test_a_segment_copied_into_another_partition_is_named(tmp_path):
    lab = small_lab(tmp_path / "lab", parts=3)
    copied = lab.path / "log" / "orders" / "1" / "0" / f"{40:020d}.parquet"
    copied.write_bytes(middle(lab).read_bytes())
    assert str(copied) in problems(lab)


def test_a_file_that_is_no_segment_is_named_and_stops_the_reading(tmp_path):
    lab = small_lab(tmp_path / "lab", parts=3)
    middle(lab).write_bytes(pq.read_table(middle(lab)).to_pandas().to_csv().encode())
    assert str(middle(lab)) in problems(lab)
    with pytest.raises(EslabError, match="no segment of eslab"):
        list(Log(lab.path / "log").lives())
