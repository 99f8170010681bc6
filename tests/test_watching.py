"""Watching consumer groups: the loop by itself, and on a real Kafka beside what its `__consumer_offsets` tells."""

from __future__ import annotations

import asyncio
import datetime as dt
import json
import os
import signal
import subprocess
import sys
import threading
import time
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import confluent_kafka as ck
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from kafka_cluster import QUIET, KafkaCluster, free_ports, wait_for

from eslab import cli, watching
from eslab.errors import SourceError, SourceUnreachable
from eslab.lab import Lab
from eslab.locking import writer_lock
from eslab.positions import read_commits, read_samples
from eslab.segments import Log
from eslab.sources import CONSUMER_OFFSETS, GroupPosition
from eslab.sources.kafka_connections import Connections
from eslab.sources.kafka_groups import KafkaGroups

NOON = dt.datetime(2026, 3, 12, 12, tzinfo=dt.UTC)
Place = tuple[str, str, int]


def position(committed: int | None = 5, group: str = "billing") -> GroupPosition:
    return GroupPosition(group, "orders", 0, committed, 0, 9)


# --- the loop -----------------------------------------------------------------------------------


def answers(*script: Any) -> Any:
    """A source that answers by this script: raises what is an exception, returns what is not; its last line over and over."""
    left = list(script)

    def ask() -> Sequence[GroupPosition]:
        told = left.pop(0) if len(left) > 1 else left[0]
        if isinstance(told, BaseException):
            raise told
        return told

    return ask


def run(folder: Path, ask: Any, *, polls: int = 3, say: Any = lambda line: None) -> watching.Watch:
    """Watch until there were so many answers."""
    stop, seen = threading.Event(), []

    def on_poll(samples: int) -> None:
        seen.append(samples)
        if len(seen) == polls:
            stop.set()

    return watching.watch(folder, "kafka://x", ask, every_s=0.01, stop=stop, say=say, on_poll=on_poll)


def test_what_was_told_is_kept(tmp_path: Path):
    made = run(tmp_path, answers([position(1)], [position(2), position(None, "audit")], [position(3)]))
    samples = read_samples(tmp_path)
    assert sorted(samples["committed"].to_pylist(), key=str) == [1, 2, 3, None]
    assert set(samples["origin"].to_pylist()) == {"watch"}
    assert set(samples["committed_at"].to_pylist()) == {None}
    assert (samples["log_start"][0].as_py(), samples["log_end"][0].as_py()) == (0, 9)
    assert repr(made) == "<Watch of kafka://x: 3 polls, 4 samples of 2 groups>"


@pytest.mark.parametrize("end", [KeyboardInterrupt(), SourceError("the group went mad")])
def test_whatever_ends_a_watch_what_was_told_before_is_written(tmp_path: Path, end: BaseException):
    with pytest.raises(type(end)):
        run(tmp_path, answers([position(1)], [position(2)], end), polls=9)
    assert read_samples(tmp_path)["committed"].to_pylist() == [1, 2]


def test_a_source_that_goes_away_is_asked_again_and_the_hole_stays_a_hole(tmp_path: Path):
    said: list[str] = []
    away = SourceUnreachable("nothing answers at x.")
    made = run(tmp_path, answers([position(1)], away, away, [position(2)]), say=said.append)
    assert (made.polls, made.missed) == (3, 2)
    assert read_samples(tmp_path)["committed"].to_pylist() == [1, 2, 2]
    assert said[1:] == [
        "nothing answers at x. It is asked again every 0.01 s; nothing is known of the time between",
        "kafka://x answers again",
    ]


def test_a_source_that_never_answered_ends_the_watch(tmp_path: Path):
    with pytest.raises(SourceUnreachable):
        run(tmp_path, answers(SourceUnreachable("nothing answers")))
    assert not (tmp_path / "samples").exists()


def test_a_cluster_without_groups_is_said_and_watched_on(tmp_path: Path):
    said: list[str] = []
    run(tmp_path, answers([], [], [position(1)]), say=said.append)
    assert said == ["watching kafka://x every 0.01 s: no consumer group has committed anything yet"]
    assert read_samples(tmp_path).num_rows == 1


def test_samples_are_a_file_a_minute(tmp_path: Path):
    keeper = watching._Keeper(tmp_path)
    for second in range(0, 150, 10):
        keeper.keep(NOON + dt.timedelta(seconds=second), [position(second)])
        assert read_samples(tmp_path).num_rows == second // 60 * 6, "all but the current minute is on disk"
    keeper.write()
    names = [path.name for path in sorted((tmp_path / "samples").iterdir())]
    assert names == ["20260312T120000Z.parquet", "20260312T120100Z.parquet", "20260312T120200Z.parquet"]
    assert read_samples(tmp_path)["committed"].to_pylist() == list(range(0, 150, 10))


def test_a_clock_that_is_set_back_begins_a_file(tmp_path: Path):
    keeper = watching._Keeper(tmp_path)
    keeper.keep(NOON, [position(1)])
    keeper.keep(NOON - dt.timedelta(hours=1), [position(2)])
    keeper.write()
    assert [pq.read_table(path)["committed"].to_pylist() for path in sorted((tmp_path / "samples").iterdir())] == [[2], [1]]


def test_a_watch_ends_after_its_time_and_leaves_out_turns_that_a_slow_answer_took(tmp_path: Path):
    def slowly() -> list[GroupPosition]:
        time.sleep(0.12)
        return [position()]

    began = time.monotonic()
    made = watching.watch(tmp_path, "kafka://x", slowly, every_s=0.05, stop=threading.Event(), for_s=0.4)
    assert 0.35 < time.monotonic() - began < 60
    assert 1 <= made.polls <= 3


# --- what cannot be watched ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "word"),
    [
        ("localhost:9092", "no scheme"),
        ("dumps/*.jsonl", "only a Kafka cluster"),
        ("kafka://", "no address"),
        ("kafka://user:secret@x:1", "must not hold"),
    ],
)
def test_an_address_that_is_none_is_told_in_one_sentence_and_makes_nothing(tmp_path: Path, url: str, word: str):
    with pytest.raises(SourceError, match=word):
        Lab(tmp_path / "lab").watch(url, stop="1s", progress=False)
    assert not (tmp_path / "lab").exists()


def test_nobody_there_is_told_in_one_sentence(tmp_path: Path):
    (port,) = free_ports(1)
    with pytest.raises(SourceUnreachable, match="nothing answers"):
        Lab(tmp_path / "lab").watch(f"kafka://127.0.0.1:{port}", stop="1s", progress=False)


def test_the_embedded_broker_says_that_it_tells_no_groups(tmp_path: Path, embedded: str):
    with pytest.raises(SourceError, match="does not tell its consumer groups"):
        Lab(tmp_path / "lab").watch(f"kafka://{embedded}", stop="1s", progress=False)


# --- on a real Kafka ----------------------------------------------------------------------------


def consumer(kafka: KafkaCluster, topic: str, group: str, **config: Any) -> ck.Consumer:
    settings = {
        "bootstrap.servers": kafka.bootstrap,
        "group.id": group,
        "enable.auto.commit": False,
        "auto.offset.reset": "earliest",
        **config,
    }
    made = ck.Consumer(settings, logger=QUIET)
    made.subscribe([topic])
    wait_for(lambda: made.poll(0.1) and made.assignment(), f"assignment of {group}")
    return made


def commit(who: ck.Consumer, topic: str, offset: int) -> None:
    who.commit(offsets=[ck.TopicPartition(topic, 0, offset)], asynchronous=False)


def until_stable(kafka: KafkaCluster) -> None:
    """Wait until no transaction is open on any partition of the commits."""
    for partition in range(3):
        kafka.wait_until_stable(CONSUMER_OFFSETS, partition)


def committed_in_turn(folder: Path, group: str) -> dict[Place, list[tuple[dt.datetime, int | None]]]:
    """What the captured `__consumer_offsets` tells of a group: (commit time, offset) of each place, in turn."""
    told: dict[Place, list[tuple[dt.datetime, int | None]]] = {}
    for row in read_commits(Log(folder / "log")).samples.to_pylist():
        if row["group"] == group:
            told.setdefault((row["group"], row["topic"], row["partition"]), []).append((row["sampled_at"], row["committed"]))
    return told


def as_of(told: list[tuple[dt.datetime, int | None]], moment: dt.datetime) -> int | None:
    at = bisect_right([when for when, _ in told], moment)
    return told[at - 1][1] if at else None


@pytest.fixture
def topic(kafka: KafkaCluster) -> str:
    name = kafka.create_topic(partitions=2)
    kafka.produce(name, ({"value": b"%d" % number} for number in range(50)))
    return name


@pytest.mark.parametrize("protocol", ["classic", "consumer"])
def test_at_every_watched_instant_the_commits_tell_what_the_watch_was_told(
    kafka: KafkaCluster, topic: str, tmp_path: Path, protocol: str, monkeypatch: pytest.MonkeyPatch
):
    group, turn, plain = f"{protocol}-{topic}", threading.Lock(), KafkaGroups.positions

    answers: list[int] = []

    def in_turn(*args: Any) -> Sequence[GroupPosition]:
        with turn:  # a commit under way has its time already, but may not be told yet
            told = plain(*args)
        answers.append(len(told))
        return told

    monkeypatch.setattr(KafkaGroups, "positions", in_turn)
    lab, stop = Lab(tmp_path, say=lambda _: None), threading.Event()
    who = consumer(kafka, topic, group, **{"group.protocol": protocol})
    commit(who, topic, 1)
    watcher = threading.Thread(
        target=lab.watch, args=(kafka.url,), kwargs={"every": "30ms", "groups": group, "stop": stop, "progress": False}
    )
    watcher.start()
    try:
        for offset in range(2, 40):
            with turn:
                commit(who, topic, offset)
            time.sleep(0.02)
        who.close()
        before = len(answers)
        wait_for(lambda: len(answers) > before + 1, "answer to a question that was asked after the last commit")
    finally:
        stop.set()
        watcher.join(60)
    until_stable(kafka)
    lab.snapshot(kafka.url, [CONSUMER_OFFSETS], progress=False)

    told = committed_in_turn(tmp_path, group)
    (place,) = told
    assert [offset for _, offset in told[place]] == list(range(1, 40)), "every commit is in the log"
    watched = [row for row in read_samples(tmp_path).to_pylist() if row["origin"] == "watch"]
    mine = [row for row in watched if row["partition"] == 0]
    assert len({row["committed"] for row in mine}) > 3, "the watch saw the group move"
    until = [row["sampled_at"] for row in mine[1:]] + [dt.datetime.now(dt.UTC)]
    for row, next_ in zip(mine, until, strict=True):
        then = as_of(told[place], row["sampled_at"])
        meanwhile = {offset for when, offset in told[place] if row["sampled_at"] - dt.timedelta(milliseconds=1) <= when <= next_}
        assert row["committed"] in {then, *meanwhile}
        assert (row["log_start"], row["log_end"]) == (0, 50)
    assert mine[-1]["committed"] == as_of(told[place], mine[-1]["sampled_at"]) == 39, "a group without members still has its place"
    assert {row["committed"] for row in watched if row["partition"] == 1} == {None}, "nothing was committed there"
    assert {row["log_end"] for row in watched if row["partition"] == 1} == {0}


def test_offsets_of_transactions_count_once_they_are_committed_and_never_if_aborted(kafka: KafkaCluster, topic: str, tmp_path: Path):
    group, place = f"tx-{topic}", (f"tx-{topic}", topic, 0)
    who = consumer(kafka, topic, group)
    producer = kafka.producer(transactional_id=group)
    producer.init_transactions(30)
    seen: list[tuple[dt.datetime, int | None]] = []

    def in_transaction(offset: int) -> None:
        producer.begin_transaction()
        producer.send_offsets_to_transaction([ck.TopicPartition(topic, 0, offset)], who.consumer_group_metadata(), 30)

    with KafkaGroups(kafka.url) as groups:

        def look() -> int | None:
            until_stable(kafka)
            time.sleep(0.005)  # commit times are whole milliseconds
            when = dt.datetime.now(dt.UTC)
            seen.append((when, next((one.committed for one in groups.positions([group]) if one.partition == 0), None)))
            return seen[-1][1]

        assert look() is None
        in_transaction(10)
        producer.commit_transaction(30)
        assert look() == 10
        in_transaction(20)
        producer.abort_transaction(30)
        assert look() == 10, "an aborted commit is none"
        commit(who, topic, 15)
        assert look() == 15
        in_transaction(30)
        open_ = [one.committed for one in groups.positions([group]) if one.partition == 0]
        assert open_ == [15], "one that is still open is none yet"
        producer.commit_transaction(30)
        assert look() == 30
        who.close()
        kafka.admin.delete_consumer_groups([group])[group].result(30)
        assert look() is None
        assert groups.positions([group]) == []

    lab = Lab(tmp_path, say=lambda _: None)
    lab.snapshot(kafka.url, [CONSUMER_OFFSETS], progress=False)
    told = committed_in_turn(tmp_path, group)[place]
    assert [offset for _, offset in told] == [10, 15, 30, None]
    assert [as_of(told, when) for when, _ in seen] == [committed for _, committed in seen]
    with pytest.raises(SourceError, match="read_committed"):
        lab.snapshot(kafka.url, [CONSUMER_OFFSETS], isolation="read_uncommitted", progress=False)


def test_a_topic_made_anew_does_not_inherit_what_was_committed_on_the_old_one(kafka: KafkaCluster, topic: str, tmp_path: Path):
    group = f"anew-{topic}"
    who = consumer(kafka, topic, group)
    commit(who, topic, 40)
    who.close()
    kafka.delete_topic(topic)
    wait_for(lambda: kafka.create_topic(topic, partitions=2), "topic made anew")
    kafka.produce(topic, [{"value": b"{}"}] * 3)
    who = consumer(kafka, topic, group)
    commit(who, topic, 2)
    who.close()
    until_stable(kafka)
    lab = Lab(tmp_path, say=lambda _: None)
    lab.snapshot(kafka.url, [topic, CONSUMER_OFFSETS], progress=False)
    told = [offset for _, offset in committed_in_turn(tmp_path, group)[group, topic, 0]]
    assert 40 not in told
    assert told[-1] == 2
    assert read_commits(Log(tmp_path / "log")).of_former_lives == 1


def test_a_watch_asks_for_nothing_that_could_change_the_cluster(
    kafka: KafkaCluster, topic: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    asked: set[str] = set()
    plain = Connections.send

    async def noting(self: Connections, address: Any, request: Any, **options: Any) -> Any:
        asked.add(type(request).__name__)
        return await plain(self, address, request, **options)

    who = consumer(kafka, topic, topic)
    commit(who, topic, 1)
    who.close()
    before = kafka.topics()
    monkeypatch.setattr(Connections, "send", noting)
    with writer_lock(tmp_path):  # as if a capture ran
        Lab(tmp_path).watch(kafka.url, every="50ms", stop="120ms", progress=False)
    assert asked == {"MetadataRequest", "ListGroupsRequest", "OffsetFetchRequest", "OffsetRequest"}
    assert kafka.topics() == before
    assert topic in read_samples(tmp_path)["group"].to_pylist()


def test_a_watch_in_a_running_loop_is_a_watch(kafka: KafkaCluster, topic: str, tmp_path: Path):
    async def cell() -> watching.Watch:
        return Lab(tmp_path, say=lambda _: None).watch(kafka.url, every=0.05, groups=["nobody"], stop=0.12, progress=False)

    assert asyncio.run(cell()).polls >= 1


def test_a_cluster_that_comes_back_is_watched_on(own_kafka: KafkaCluster, topic: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    answers: list[int] = []
    plain = KafkaGroups.positions

    def counted(*args: Any) -> Sequence[GroupPosition]:
        told = plain(*args)
        answers.extend([len(told)] if told else [])
        return told

    monkeypatch.setattr(KafkaGroups, "positions", counted)
    who = consumer(own_kafka, topic, topic)
    commit(who, topic, 7)
    who.close()
    said: list[str] = []
    lab, stop = Lab(tmp_path, say=said.append), threading.Event()
    options = {"every": "200ms", "groups": topic, "stop": stop, "progress": False}
    watcher = threading.Thread(target=lab.watch, args=(own_kafka.url,), kwargs=options)
    watcher.start()
    try:
        wait_for(lambda: said, "first answer")
        own_kafka.kill()
        wait_for(lambda: len(said) > 1, "word of the broker's end")
        own_kafka.start()
        before = len(answers)
        wait_for(lambda: len(answers) > before + 1, "group, which its coordinator loads first: a second answer, so the first is kept")
    finally:
        stop.set()
        watcher.join(60)
    assert not watcher.is_alive()
    assert said[0] == f"watching {own_kafka.url} every 0.2 s: 1 group on 2 partitions"
    gone, back = said[1::2], said[2::2]  # more than once, where a coordinator that loads still answers late
    assert all(word.endswith("It is asked again every 0.2 s; nothing is known of the time between") for word in gone)
    assert back
    assert set(back) == {f"{own_kafka.url} answers again"}
    times = sorted(set(read_samples(tmp_path)["sampled_at"].to_pylist()))
    assert max(after - before for before, after in pairwise(times)) > dt.timedelta(seconds=1)


# --- the shell ----------------------------------------------------------------------------------


@pytest.fixture
def committed(kafka: KafkaCluster, topic: str) -> Iterator[str]:
    who = consumer(kafka, topic, topic)
    commit(who, topic, 7)
    yield topic
    who.close()


def test_the_shell_watches_for_a_time(kafka: KafkaCluster, committed: str, tmp_path: Path):
    told = ["watch", str(tmp_path / "lab"), kafka.url, "--every", "50ms", "--for", "120ms", "--group", committed, "--json"]
    done = CliRunner().invoke(cli.main, told)
    assert done.exit_code == 0, done.output
    answer = json.loads(done.stdout)
    assert (answer["groups"], answer["missed"]) == ([committed], 0)
    assert answer["samples"] == 2 * answer["polls"] == read_samples(tmp_path / "lab").num_rows
    assert CliRunner().invoke(cli.main, ["info", str(tmp_path / "lab")]).exit_code == 0, "what it made is a lab"


def test_ctrl_c_keeps_what_was_told(kafka: KafkaCluster, committed: str, tmp_path: Path):
    command = [sys.executable, "-m", "eslab", "watch", str(tmp_path / "lab"), kafka.url, "--every", "50ms", "--group", committed]
    environment = {**os.environ, "PYTHONPATH": str(Path(cli.__file__).parents[2])}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment) as started:
        assert started.stderr
        first = started.stderr.readline()
        started.send_signal(signal.SIGINT)
        out, err = started.communicate(timeout=30)
    assert (started.returncode, out) == (130, "")
    assert first == f"eslab: watching {kafka.url} every 0.05 s: 1 group on 2 partitions\n"
    assert err == "eslab: stopped; all that was told until now is kept\n"
    assert set(read_samples(tmp_path / "lab")["committed"].to_pylist()) == {7, None}


def test_what_is_no_time_is_told_in_one_line(tmp_path: Path):
    done = CliRunner().invoke(cli.main, ["watch", str(tmp_path / "lab"), "kafka://127.0.0.1:1", "--every", "often"])
    assert done.exit_code == 1
    assert "'often' is no length of time" in done.stderr
