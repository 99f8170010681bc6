import contextlib
import errno
import random
import threading
import time
from dataclasses import replace

import pytest

from eslab.capture import capture, plan
from eslab.errors import CorruptLog, DiskFull, LabBusy, SourceChanged
from eslab.locking import is_writing, writer_lock
from eslab.model import Record
from eslab.segment_writer import SegmentWriter
from eslab.segments import Log, check, reaches
from eslab.sources import Chunk, Hole, Marker, records_to_table, table_to_records
from eslab.sources.memory import MemorySource


def records(count, topic="t", partitions=2, tag=b"v"):
    return [Record(topic=topic, partition=at % partitions, key=b"k%d" % at, value=tag + b"%d" % at, timestamp_ms=at) for at in range(count)]


class Anonymous(MemorySource):
    """A source without ids, like a file: only its records tell whether it is the same."""

    def partitions(self, topics):
        return [replace(one, topic_id=None, cluster_id=None) for one in super().partitions(topics)]


def take(source, log, **bounds):
    todo = plan(source, log, None, **bounds)
    return todo, list(capture(source, log, todo))


def held(log):
    """Every record of the newest incarnation, by the segments' own tables."""
    found = {}
    newest = {life[:2]: life for life in log.lives()}
    for life in newest.values():
        for segment in log.lives()[life]:
            for table in segment.read():
                for record in table_to_records(life[0], life[1], table):
                    found[record.topic, record.partition, record.offset] = record
    return found


def everything(source):
    ranges = {(one.topic, one.partition): (one.log_start, one.end) for one in source.partitions(None)}
    return {
        (r.topic, r.partition, r.offset): r
        for chunk in source.read(ranges)
        for r in table_to_records(chunk.topic, chunk.partition, chunk.records)
    }


def test_a_capture_goes_on_where_the_last_one_ended(tmp_path):
    log, source = Log(tmp_path / "log"), MemorySource(records(100))
    take(source, log, stop=20)
    _, segments = take(source, log)
    assert [segment.footer.start for segment in segments] == [20, 20]
    assert held(log) == everything(source)
    assert take(source, log)[1] == []


def test_an_earlier_start_fills_in_and_takes_its_gap_away(tmp_path):
    log, source = Log(tmp_path / "log"), MemorySource(records(100))
    take(source, log, start=30, stop=40)
    assert [(life[1], hole) for life, hole in log.holes()] == [(0, Hole(0, 30, "not requested")), (1, Hole(0, 30, "not requested"))]
    take(source, log, start=10, stop=20)
    assert [hole for life, hole in log.holes() if life[1] == 0] == [Hole(0, 10, "not requested"), Hole(20, 30, "not requested")]
    take(source, log, start=0)
    assert list(log.holes()) == []
    assert held(log) == everything(source)


def test_a_topic_made_anew_is_another_incarnation_even_when_it_is_longer(tmp_path):
    log = Log(tmp_path / "log")
    take(MemorySource(records(10)), log)
    for count in (4, 40):
        todo, _ = take(MemorySource(records(count, tag=b"new")), log)
        assert "made anew" in todo.notices[0]
    assert sorted(log.lives()) == [("t", partition, life) for partition in (0, 1) for life in (0, 1, 2)]


def test_a_source_without_ids_is_the_same_while_its_records_are(tmp_path):
    log, old = Log(tmp_path / "log"), records(40)
    take(Anonymous(old[:20]), log)
    assert take(Anonymous(old), log)[0].notices == ()
    old[7] = replace(old[7], value=b"changed")
    todo, _ = take(Anonymous(old), log)
    assert "t[1]: the record at offset 3" in todo.notices[0]
    assert sorted(log.lives()) == [("t", 0, 0), ("t", 1, 0), ("t", 1, 1)]


@pytest.mark.parametrize("field", [{"timestamp_ms": 9}, {"key": None}, {"value": b""}, {"headers": (("h", None),)}])
def test_any_part_of_a_record_that_changed_is_another_log(tmp_path, field):
    log, old = Log(tmp_path / "log"), records(10, partitions=1)
    take(Anonymous(old), log)
    old[4] = replace(old[4], **field)
    assert "offset 4" in take(Anonymous(old), log)[0].notices[0]


def test_a_file_that_shrank_is_another_incarnation(tmp_path):
    log = Log(tmp_path / "log")
    take(Anonymous(records(10, partitions=1)), log)
    todo, _ = take(Anonymous(records(5, partitions=1)), log)
    assert "below offset 10" in todo.notices[0]


def test_a_topic_made_anew_in_mid_capture_stops_it_and_loses_nothing_committed(tmp_path, monkeypatch):
    monkeypatch.setattr("eslab.sources.memory.CHUNK", 100)
    log, source = Log(tmp_path / "log"), MemorySource(records(300, partitions=1))
    take(source, log, stop=5)
    todo = plan(source, log, None)
    reading = source.read

    def turned(ranges):
        for chunk in reading(ranges):
            source._topic_ids["t"] = "another"
            yield chunk

    source.read = turned
    with pytest.raises(SourceChanged, match="made anew"):
        list(capture(source, log, todo))
    assert [segment.footer.next for segment in log.lives()["t", 0, 0]] == [5]
    assert not list(log.folder.rglob(".tmp-*"))


class Electing(MemorySource):
    """One partition in chunks of five. Now and then its leader dies: the next one lacks the last records, and goes on with others under the same topic id."""

    def __init__(self, seed):
        super().__init__()
        self._chance, self._epoch, self.pasts, self.quiet = random.Random(seed), 0, [], False
        self.grow(20)

    def grow(self, count):
        for _ in range(count):
            self.append(Record(topic="t", value=b"%d by leader %d" % (self._chance.random() * 1e9, self._epoch), leader_epoch=self._epoch))

    def elect(self, most):
        log = self._logs["t", 0]
        self.pasts.append(list(log))
        del log[len(log) - min(self._chance.randint(0, most), len(log) - 1) :]
        self._epoch += self._chance.randint(1, 2)
        self.grow(self._chance.randint(0, 30))

    def epoch_end(self, topic, partition, leader_epoch):
        log = self._logs["t", 0]
        return next((one.offset for one in log if one.leader_epoch > leader_epoch), log[-1].offset + 1)

    def read(self, ranges):
        ((start, stop),) = ranges.values()
        for low in range(start, stop, 5):
            if self._logs["t", 0][-1].offset + 1 < min(low + 5, stop):
                raise SourceChanged("ends before that")
            yield from super().read({("t", 0): (low, min(low + 5, stop))})
            if not self.quiet and self._chance.random() < 0.15:
                self.elect(12)


def never_glued(folder, seed):
    """Captures while leaders come and go; every incarnation is the beginning of one log that there was, and the newest one what there is. How many there are."""
    log, source = Log(folder / "log"), Electing(seed)
    for turn in range(12):
        source.quiet = turn == 11
        with contextlib.suppress(SourceChanged):
            take(source, log)
        if not source.quiet:
            source.elect(8) if source._chance.random() < 0.3 else source.grow(10)
    now = [one.value for one in source._logs["t", 0]]
    histories = [now, *([one.value for one in past] for past in source.pasts)]
    for life, segments in log.lives().items():
        held = [value for reach in reaches(segments) for table in reach.read(["offset", "value"]) for value in table["value"].to_pylist()]
        assert any(held == history[: len(held)] for history in histories), (seed, life)
    assert held == now, seed
    return len(log.lives())


class Marked(Electing):
    """Its twenty records are of leader 0, and an abort marker of leader 2 stands behind them."""

    def partitions(self, topics):
        return [replace(one, end=21, high_watermark=21) for one in super().partitions(topics)]

    def epoch_end(self, topic, partition, leader_epoch):
        return 20 if leader_epoch < 2 else 21

    def read(self, ranges):
        yield from MemorySource.read(self, {("t", 0): (0, 20)})
        yield Chunk("t", 0, 20, 21, records_to_table([]), (Hole(20, 21, "control"),), (Marker(20, 1, 0, "abort"),), ((2, 21),))


def test_a_marker_by_a_later_leader_makes_no_other_log_of_what_stands_before_it(tmp_path):
    log, source = Log(tmp_path / "log"), Marked(0)
    take(source, log)
    todo, _ = take(source, log)
    assert (todo.notices, todo.parts, list(log.lives())) == ((), (), [("t", 0, 0)])


@pytest.fixture
def hasty(monkeypatch):
    """A commit for every chunk or two, and none waits for the disk."""
    monkeypatch.setattr("eslab.capture.SEGMENT_BYTES", 500)
    monkeypatch.setattr("eslab.durable.sync", lambda path: None)


@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize("seeds", [4, pytest.param(500, marks=[pytest.mark.torture, pytest.mark.timeout(0)])])
def test_leaders_that_lack_what_others_had_are_never_glued_whenever_they_take_over(tmp_path, seeds):
    assert sum(never_glued(tmp_path / str(seed), seed) for seed in range(seeds)) > 2 * seeds


@pytest.mark.usefixtures("hasty")
def test_a_capture_that_did_not_ask_again_would_glue_two_logs(tmp_path, monkeypatch):
    monkeypatch.setattr("eslab.capture._still_there", lambda *_: None)
    with pytest.raises(AssertionError):
        never_glued(tmp_path, 0)


def test_a_segment_of_markers_alone_remembers_its_leader(tmp_path):
    log = Log(tmp_path)
    facts = {"source": "x", "isolation": "read_committed"}
    for start, epochs, wanted in ((0, ((3, 1),), 3), (1, ((3, 2), (4, 3)), 4), (3, ((4, 4),), None)):
        writer = SegmentWriter(log, ("t", 0, 0), start, before=(), facts=facts)
        next_ = epochs[-1][1]
        writer.append(Chunk("t", 0, start, next_, records_to_table([]), (Hole(start, next_, "control"),), epochs=epochs))
        if wanted is None:  # retention took away what came then
            writer.append(Chunk("t", 0, next_, next_ + 9, records_to_table([]), (Hole(next_, next_ + 9, "retention"),)))
        assert writer.commit().footer.last_leader_epoch == wanted


def test_a_source_that_skips_offsets_without_a_word_is_not_believed(tmp_path):
    writer = SegmentWriter(Log(tmp_path), ("t", 0, 0), 0, before=(), facts={"source": "x", "isolation": "none"})
    rows = records_to_table(records(3, partitions=1)[1:2])
    with pytest.raises(CorruptLog, match="without a word"):
        writer.append(Chunk("t", 0, 0, 3, rows))
    with pytest.raises(CorruptLog, match="from offset 0 to 5"):
        writer.append(Chunk("t", 0, 5, 6, rows))
    writer.abort()
    assert not list(tmp_path.rglob("*.parquet"))


def test_a_range_without_records_is_a_segment_with_its_reason(tmp_path):
    log = Log(tmp_path)
    writer = SegmentWriter(log, ("t", 0, 0), 5, before=(Hole(0, 5, "retention"),), facts={"source": "x", "isolation": "read_committed"})
    writer.append(Chunk("t", 0, 5, 7, records_to_table([]), (Hole(5, 6, "aborted"), Hole(6, 7, "control")), (Marker(6, 1, 0, "abort"),)))
    segment = writer.commit()
    assert (segment.footer.rows, segment.footer.next, segment.footer.markers) == (0, 7, (Marker(6, 1, 0, "abort"),))
    assert check(segment) == []
    assert [hole for _, hole in log.holes()] == [Hole(0, 5, "retention"), Hole(5, 6, "aborted"), Hole(6, 7, "control")]


def test_a_second_writer_is_told_who_the_first_is(tmp_path):
    with writer_lock(tmp_path), pytest.raises(LabBusy, match=r"process \d+"), writer_lock(tmp_path):
        pass
    with writer_lock(tmp_path):
        pass


def test_a_first_capture_that_failed_leaves_nothing_and_a_later_one_what_stood(tmp_path):
    folder = tmp_path / "data" / "lab"

    def failed():
        with writer_lock(folder):
            Log(folder / "log").place(("orders", 0, 0)).mkdir(parents=True)
            raise ZeroDivisionError

    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            failed()
        assert list(tmp_path.iterdir()) == []
    with writer_lock(folder):
        take(MemorySource(records(10)), Log(folder / "log"))
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ZeroDivisionError), writer_lock(folder):
        raise ZeroDivisionError
    assert sorted(tmp_path.rglob("*")) == before


def test_who_waits_for_a_first_capture_that_fails_gets_the_lock_and_not_a_file_that_is_gone(tmp_path, monkeypatch):
    monkeypatch.setattr("eslab.locking.LOCK_TRIES", 10_000)
    folder, held = tmp_path / "lab", []

    def second():
        with writer_lock(folder):
            held.append((is_writing(folder), (folder / "log" / ".writer").exists()))

    waiting = threading.Thread(target=second)

    def first():
        with writer_lock(folder):
            waiting.start()
            time.sleep(0.12)  # it has tried by now
            assert held == []
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        first()
    waiting.join()
    assert held == [(True, True)]
    assert not is_writing(folder)


def test_a_full_disk_is_one_sentence_and_leaves_no_half_segment(tmp_path, monkeypatch):
    log, source = Log(tmp_path / "log"), MemorySource(records(10))
    todo = plan(source, log, None)

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("eslab.durable.os.link", full)
    with pytest.raises(DiskFull, match="disk is full"):
        list(capture(source, log, todo))
    assert not [path for path in log.folder.rglob("*") if path.is_file()]
    monkeypatch.undo()
    take(source, log)
    assert held(log) == everything(source)


def test_what_is_read_before_an_error_is_committed(tmp_path, monkeypatch):
    monkeypatch.setattr("eslab.sources.memory.CHUNK", 100)
    log, source = Log(tmp_path / "log"), MemorySource(records(400, partitions=1))
    todo = plan(source, log, None)

    def stop(chunk):
        if chunk.next > 150:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(capture(source, log, todo, on_chunk=stop))
    assert max(segment.footer.next for segment in log.lives()["t", 0, 0]) == 200
    take(source, log)
    assert held(log) == everything(source)
