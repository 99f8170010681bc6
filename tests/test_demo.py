"""The order shop: the same seed tells the same day, and everything that happens to events happens in it."""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import os
import re
import subprocess
import sys
import time
import tomllib
import types
from collections import Counter, defaultdict
from functools import cache
from pathlib import Path
from zoneinfo import ZoneInfo

import pyarrow as pa
import pytest

from eslab.demo import VERSION, broker, consumers, demo, lab_toml, orders
from eslab.demo.sagas import TOPICS
from eslab.demo.sample import write_sample
from eslab.demo.story import Story
from eslab.errors import ConfigError, LabBusy, NotALab, SourceError, SourceUnreachable
from eslab.model import EACH, Record, parse_path
from eslab.positions import read_samples
from eslab.samples import SAMPLES, write_samples

BERLIN = ZoneInfo("Europe/Berlin")
SIZES = [300, 20_000]
MINUTE_MS = 60_000
GOLDEN = "9bbc3b075b8b327f798bdaf8f789fda9ece09d2bde6dbc1ba212b31063c7ba94"


def ms(text):
    return int(dt.datetime.fromisoformat(f"2026-03-12T{text}").replace(tzinfo=BERLIN).timestamp() * 1000)


@cache
def told(events, seed=1):
    story = Story(events=events, seed=seed)
    return list(story), story


def truth(events):
    return told(events)[1].ground_truth()["phenomena"]


def digest(records):
    return hashlib.sha256("\n".join(map(repr, records)).encode()).hexdigest()


def decoded(record):
    """The event, or None for a tombstone or what is no event."""
    try:
        value = json.loads(record.value)
    except (TypeError, ValueError):
        return None
    return value if isinstance(value, dict) and "eventType" in value else None


@cache
def events_of(size):
    """(record, event) of all that can be decoded, dead letters left out."""
    pairs = [(record, decoded(record)) for record in told(size)[0] if record.topic != "dead-letters"]
    return [(record, event) for record, event in pairs if event]


def happened_ms(event):
    return int(dt.datetime.fromisoformat(event["timestamp"]).timestamp() * 1000)


def published_ms(record):
    """When it reached the broker: the one wrong clock of the day runs 20 minutes ahead."""
    return record.timestamp_ms - (20 * MINUTE_MS if record.value and b"/host-b" in record.value else 0)


# --- the same seed ------------------------------------------------------------------------------


def test_a_seed_tells_the_same_bytes_in_every_process_and_zone():
    code = "import sys; sys.path.insert(0, 'tests'); import test_demo; print(test_demo.digest(test_demo.Story(events=1000, seed=5)))"
    env = os.environ | {"PYTHONHASHSEED": "7", "TZ": "Asia/Tokyo", "PYTHONPATH": "."}
    run = subprocess.run(
        [sys.executable, "-c", code], env=env, cwd=Path(__file__).parent.parent, capture_output=True, text=True, check=True
    )
    assert run.stdout.strip() == digest(Story(events=1000, seed=5))


def test_the_story_is_the_one_that_its_version_names():
    assert (VERSION, digest(told(300)[0])) == (1, GOLDEN), "the same seed tells another story: raise eslab.demo.VERSION, then pin it here"


def test_another_seed_tells_another_day():
    assert digest(told(300)[0]) != digest(told(300, seed=2)[0])


@pytest.mark.parametrize("phenomenon", orders.RATES)
def test_a_phenomenon_that_comes_oftener_moves_nothing_that_it_did_not_hit(phenomenon, monkeypatch):
    records, story = told(6_000, seed=3)
    monkeypatch.setitem(orders.RATES, phenomenon, 0.99)
    oftener = Story(events=6_000, seed=3)
    before, after = by_order(records), by_order(oftener)
    hit = {re.search(r"\d+", who)[0] for each in (story, oftener) for who in each.ground_truth()["phenomena"][phenomenon]["ids"]}
    moved = {number for number in before if before[number] != after[number]}
    assert before.keys() == after.keys()
    assert moved
    assert moved <= hit


def by_order(records):
    """What happened to each order, but for offsets; the night's stocktaking, which fills up, left out."""
    found = defaultdict(list)
    for record in records:
        event = decoded(record) or {}
        if event.get("eventType") == "StockCounted":
            continue
        about = event.get("correlationId") or record.key.decode()
        headers = [head for head in record.headers if head[0] != "original.offset"]
        found[re.search(r"\d+", about)[0]].append((record.topic, record.partition, record.timestamp_ms, record.key, record.value, headers))
    return found


# --- the day ------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [*SIZES, 301, 1_234])
def test_there_are_as_many_events_as_were_asked_for(size):
    assert len(told(size)[0]) == size


def test_too_few_events_for_every_phenomenon_are_refused():
    with pytest.raises(ConfigError, match="300 or more"):
        Story(events=299, seed=1)


@pytest.mark.parametrize("size", SIZES)
def test_all_times_lie_strictly_within_one_day_in_berlin(size):
    times = [record.timestamp_ms for record in told(size)[0]] + [happened_ms(event) for _, event in events_of(size)]
    assert ms("00:00") < min(times)
    assert max(times) < ms("23:59")


def test_the_traffic_has_the_shape_of_a_day():
    hours = Counter(
        dt.datetime.fromtimestamp(record.timestamp_ms / 1000, BERLIN).hour
        for record, event in events_of(20_000)
        if event["eventType"] == "OrderCreated"
    )
    assert hours[19] > 1.3 * hours[9] > 5 * hours[3] > 0


@pytest.mark.parametrize("size", SIZES)
def test_offsets_count_up_from_zero_and_right_clocks_never_fall_back_in_a_partition(size):
    partitions = defaultdict(list)
    for record in told(size)[0]:
        partitions[record.topic, record.partition].append(record)
    assert {topic for topic, _ in partitions} == set(TOPICS)
    for records in partitions.values():
        assert [record.offset for record in records] == list(range(len(records)))
        times = [published_ms(record) for record in records]
        assert times == sorted(times)


@pytest.mark.parametrize("size", SIZES)
def test_every_event_is_in_the_default_envelope_and_caused_by_one_that_came_before_it(size):
    seen = {}
    for _, event in events_of(size):
        assert (
            list(event)
            == ["eventId", "eventType", "eventVersion", "timestamp", "source", "correlationId", "causationId", "data", "metadata"]
            or event["source"] == "erp"
        )
        if event["causationId"]:
            cause = seen[event["causationId"]]
            assert cause["correlationId"] == event["correlationId"]
            assert cause["metadata"]["spanId"] == event["metadata"]["parentSpanId"]
        seen[event["eventId"]] = event


@pytest.mark.parametrize("prefix", ["", "eslab-demo."])
def test_the_mapping_finds_every_aggregate_in_the_events_of_its_topic(prefix):
    mapping = tomllib.loads(lab_toml(prefix))
    assert mapping["format_version"] == 1
    assert set(mapping["topics"]) == {prefix + topic for topic in TOPICS}
    found = Counter()
    for record, event in events_of(300):
        for aggregate in mapping["topics"][prefix + record.topic]["aggregates"]:
            found[aggregate["name"]] += bool(ids({"data": event["data"]}, parse_path(aggregate["id"])))
    assert set(found) == {"order", "item", "payment", "product", "package"}
    assert all(found.values())


def ids(value, path):
    if not path:
        return [value]
    if path[0] is EACH:
        return [each for item in value for each in ids(item, path[1:])]
    return ids(value[path[0]], path[1:]) if path[0] in value else []


# --- what happens in it -------------------------------------------------------------------------


def scanned(size):
    """Every phenomenon found again by a plain reading of the records, knowing nothing of how they were made."""
    found = defaultdict(list)
    seen, charges, failed, released, reserved = Counter(), defaultdict(dict), set(), Counter(), Counter()
    for record, event in events_of(size):
        kind, data, order = event["eventType"], event["data"], event["data"].get("orderId")
        seen[event["eventId"]] += 1
        if seen[event["eventId"]] == 2:
            found["duplicates"].append(event["eventId"])
        if seen[event["eventId"]] > 1:
            continue
        if record.timestamp_ms - happened_ms(event) > 15 * MINUTE_MS:
            found["late"].append(event["eventId"])
        if kind == "OrderCreated":
            found["version_1" if event["eventVersion"] == "1.0" else "version_2"].append(order)
        if kind == "OrderUpdated" and list(data) == ["orderId"]:
            found["notification_style"].append(order)
        if kind == "OrderSnapshot" and {"status", "items", "totalAmount", "customer"} <= data.keys():
            found["state_carrying"].append(order)
        if kind == "PaymentCharged":
            charges[order][event["eventId"]] = (data["paymentId"], event["source"], record.timestamp_ms)
        if kind == "PaymentFailed" and data["retryable"]:
            failed.add(order)
        if kind == "OrderCancelled":
            found["compensated"].append(order)
            assert released[order] == reserved[order]
        if kind == "OrderDelivered":
            found["finished"].append(order)
        reserved[order] += kind == "StockReserved"
        released[order] += kind == "StockReleased"
    found["double_charged"] = [order for order, each in charges.items() if len(each) == 2 and len({pay for pay, *_ in each.values()}) == 2]
    for record in told(size)[0]:
        if record.topic == "dead-letters" and (event := decoded(record)):
            found["dead_lettered"].append(event["data"]["orderId"])
        elif record.value is None:
            found["erased"].append(record.key.decode())
        elif record.topic != "dead-letters" and decoded(record) is None:
            found["malformed"].append(f"{record.topic}/{record.partition}/{record.offset}")
    found["retried"] = sorted(failed - set(found["dead_lettered"]))
    ended = {*found["finished"], *found["compensated"]}
    found["stuck"] = [order for order in found["version_1"] + found["version_2"] if order not in ended]
    return found, charges


@pytest.mark.parametrize("size", SIZES)
def test_a_plain_scan_of_the_records_finds_exactly_what_the_ground_truth_names(size):
    found, _ = scanned(size)
    expected = {name: each for name, each in truth(size).items() if name not in {"clock_ahead", "stalled"}}
    assert found.keys() == expected.keys()
    for name, each in expected.items():
        assert each["count"] == len(found[name]) > 0, name
        assert set(each["ids"]) <= set(found[name]), name
        assert len(set(each["ids"])) == min(each["count"], 1_000), name
        assert each["from"] <= each["to"], name


@pytest.mark.parametrize("size", SIZES)
def test_only_the_faulty_version_charges_twice_and_only_while_it_runs(size):
    found, charges = scanned(size)
    hit = {order: list(charges[order].values()) for order in found["double_charged"]}
    assert {source for each in hit.values() for _, source, _ in each} == {"payments@2.4.0"}
    assert all(ms("10:24") <= at < ms("10:36") for each in hit.values() for *_, at in each)
    assert (truth(size)["double_charged"]["from"], truth(size)["double_charged"]["to"]) == (
        "2026-03-12T10:24:00.000+01:00",
        "2026-03-12T10:36:00.000+01:00",
    )


def test_the_payments_source_changes_at_the_deploy_and_at_the_fix():
    for record, event in events_of(20_000):
        if record.topic == "payments":
            at = record.timestamp_ms
            assert event["source"] == ("payments@2.3.1" if at < ms("10:24") else "payments@2.4.0" if at < ms("10:36") else "payments@2.4.1")


def test_order_4711_of_the_default_demo_is_charged_twice_at_10_25():
    assert "ord-4711" in truth(20_000)["double_charged"]["ids"]
    assert len(truth(20_000)["double_charged"]["ids"]) < sum(
        event["eventType"] == "PaymentCharged" and event["source"] == "payments@2.4.0" for _, event in events_of(20_000)
    ), "some orders, not all"


@pytest.mark.parametrize("size", SIZES)
def test_one_host_stamps_one_partition_ahead_and_its_shadow_is_counted(size):
    told_of = truth(size)["clock_ahead"]
    partition = [record for record in told(size)[0] if (record.topic, record.partition) == ("shipments", told_of["partition"])]
    ahead, shadowed, latest = [], 0, 0
    for record in partition:
        if b"/host-b" in record.value:
            ahead.append(record)
        else:
            shadowed += record.timestamp_ms < latest
        latest = max(latest, record.timestamp_ms)
    assert told_of["offsets"] == [record.offset for record in ahead]
    assert (told_of["count"], told_of["shadowed"]) == (len(ahead), shadowed)
    assert min(len(ahead), shadowed) > 0
    assert all(ms("19:20") <= record.timestamp_ms < ms("20:50") for record in ahead)
    assert {decoded(record)["source"] for record in ahead} == {told_of["source"]}
    assert all(
        b"/host-b" not in (record.value or b"")
        for record in told(size)[0]
        if (record.topic, record.partition) != ("shipments", told_of["partition"])
    )


@pytest.mark.parametrize("size", SIZES)
def test_a_dead_letter_keeps_its_original_and_says_where_that_stands(size):
    at = {(record.topic.encode(), b"%d" % record.partition, b"%d" % record.offset): record for record in told(size)[0]}
    letters = [record for record in told(size)[0] if record.topic == "dead-letters"]
    assert letters
    for letter in letters:
        headers = dict(letter.headers)
        original = at[headers["original.topic"], headers["original.partition"], headers["original.offset"]]
        assert (letter.key, letter.value) == (original.key, original.value)
        assert letter.headers[: len(original.headers)] == original.headers
        assert headers["error"]
        assert letter.timestamp_ms > original.timestamp_ms


@pytest.mark.parametrize("size", SIZES)
def test_a_retry_that_ends_in_the_dead_letters_failed_three_times_before(size):
    attempts = defaultdict(list)
    for record, event in events_of(size):
        if event["eventType"] == "PaymentFailed" and record.headers:
            attempts[event["data"]["orderId"]].append(dict(record.headers)["retry.attempt"])
    assert all(attempts[order] == [b"1", b"2", b"3"] for order in truth(size)["dead_lettered"]["ids"])


@pytest.mark.parametrize("size", SIZES)
def test_malformed_records_come_in_four_kinds_and_carry_a_key(size):
    kinds = set()
    for record in told(size)[0]:
        if record.value is None or decoded(record):
            continue
        assert record.key.startswith(b"ord-")
        try:
            kinds.add(type(json.loads(record.value)).__name__)
        except ValueError as exc:
            kinds.add(type(exc).__name__)
    assert kinds == {"JSONDecodeError", "UnicodeDecodeError", "list", "dict"}


def test_version_2_of_order_created_renames_the_total_and_adds_currency_and_customer():
    fields = {event["eventVersion"]: set(event["data"]) for _, event in events_of(300) if event["eventType"] == "OrderCreated"}
    assert fields["1.0"] - fields["2.0"] == {"total"}
    assert fields["2.0"] - fields["1.0"] == {"totalAmount", "currency", "customer"}


# --- consumers ----------------------------------------------------------------------------------


@pytest.mark.parametrize("size", SIZES)
def test_the_log_end_in_the_samples_is_what_had_been_published_by_then(size):
    records, story = told(size)
    table = consumers.samples(story).to_pylist()
    times = defaultdict(list)
    for record in records:
        times[record.topic, record.partition].append(published_ms(record))
    for row in table[:: len(table) // 2_000]:
        now = row["sampled_at"].timestamp() * 1000
        assert row["log_end"] == sum(at <= now for at in times[row["topic"], row["partition"]])
        assert row["log_start"] == 0
        if row["committed"] is None:
            assert row["committed_at"] is None
        else:
            assert 0 < row["committed"] <= row["log_end"]
            assert row["committed_at"] <= row["sampled_at"]


@pytest.mark.parametrize("size", SIZES)
def test_the_read_model_stands_still_on_orders_in_the_stall_and_nobody_else_does(size):
    frame = consumers.samples(told(size)[1]).to_pandas()
    frame["lag"] = frame["log_end"] - frame["committed"].fillna(0)
    local = frame["sampled_at"].dt.tz_convert(BERLIN).dt.strftime("%H:%M")
    stalled = (frame["group"] == "read-model") & (frame["topic"] == "orders")
    within = stalled & (local >= "14:05") & (local <= "14:47")
    assert (frame[within].groupby("partition")[["committed", "committed_at"]].nunique() <= 1).all(axis=None)
    usual = frame[~stalled | (local < "14:05") | (local > "14:56")]["lag"].max()
    assert frame[within & (local == "14:46")]["lag"].sum() > (usual if size > 300 else 0)
    assert frame[stalled & (local == "14:58")]["lag"].max() <= usual
    assert set(frame["group"]) == {"read-model", "billing", "shipping"}


def rows(*moments):
    row = {
        "group": "g",
        "topic": "t",
        "partition": 0,
        "committed": None,
        "log_start": 0,
        "log_end": 5,
        "committed_at": None,
        "origin": "watch",
    }
    return pa.Table.from_pylist([row | {"sampled_at": dt.datetime(2026, 3, 12, 10, 31, at, tzinfo=dt.UTC)} for at in moments], SAMPLES)


def test_samples_read_back_as_they_were_written_in_the_order_of_time(tmp_path):
    later = write_samples(tmp_path, rows(7, 8))
    first = write_samples(tmp_path, rows(5, 6))
    assert [later.name, first.name] == ["20260312T103107Z.parquet", "20260312T103105Z.parquet"]
    assert read_samples(tmp_path).equals(rows(5, 6, 7, 8))


def test_samples_of_the_same_second_stand_beside_each_other(tmp_path):
    names = [write_samples(tmp_path, rows(5)).name for _ in range(2)]
    assert names == ["20260312T103105Z.parquet", "20260312T103105Z-1.parquet"]
    assert read_samples(tmp_path).num_rows == 2


def test_samples_that_a_dying_process_left_half_written_are_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError("the disk is gone")))
    with pytest.raises(OSError, match="the disk is gone"):
        write_samples(tmp_path, rows(5))
    (tmp_path / "samples" / ".half.tmp").write_bytes(b"PAR1")
    assert read_samples(tmp_path).equals(SAMPLES.empty_table())


# --- publishing ---------------------------------------------------------------------------------


def consumed(url, topics, ends):
    """All records from these ends on, as a consumer gets them: `ends` moves on."""
    from confluent_kafka import Consumer, TopicPartition

    settings = {"group.id": "test", "enable.auto.commit": False, "auto.offset.reset": "error", "fetch.wait.max.ms": 5}
    consumer = Consumer({"bootstrap.servers": url.removeprefix("kafka://"), **settings})
    partitions = [TopicPartition(topic, partition, ends[topic, partition]) for topic in topics for partition in range(4)]
    missing = sum(consumer.get_watermark_offsets(each, timeout=10)[1] - each.offset for each in partitions)
    consumer.assign(partitions)
    found = []
    while len(found) < missing:
        messages = consumer.consume(missing - len(found), timeout=10)
        assert messages, "the broker lost records"
        assert not any(message.error() for message in messages)
        found += map(as_record, messages)
    consumer.close()
    for record in found:
        ends[record.topic, record.partition] = max(ends[record.topic, record.partition], record.offset + 1)
    return found


def as_record(message):
    kind, at = message.timestamp()
    return Record(
        topic=message.topic(),
        partition=message.partition(),
        offset=message.offset(),
        timestamp_ms=at,
        timestamp_type={1: "create"}.get(kind),
        key=message.key(),
        value=message.value(),
        headers=tuple(message.headers() or ()),
    )


def place(record):
    return record.topic, record.partition, record.offset


def test_what_the_embedded_broker_gives_back_in_chunks_is_the_story_byte_for_byte():
    home, ends, found, pieces = broker.embedded(TOPICS), Counter(), [], 0
    for chunk in broker.chunks(Story(events=60_000, seed=1)):
        home.publish(chunk)
        found += consumed(home.url, TOPICS, ends)
        pieces += 1
    assert pieces > 1
    assert sorted(found, key=place) == sorted(Story(events=60_000, seed=1), key=place)


def test_no_chunk_holds_more_than_a_partition_of_the_embedded_broker(monkeypatch):
    monkeypatch.setattr(broker, "CHUNK_BYTES", 100_000)
    records = told(20_000)[0]
    pieces = list(broker.chunks(records))
    assert [record for piece in pieces for record in piece] == records
    for piece in pieces:
        sizes = Counter()
        for record in piece:
            sizes[record.topic, record.partition] += (
                len(record.key) + len(record.value or b"") + sum(len(key) + len(value) for key, value in record.headers)
            )
        assert max(sizes.values()) < 100_000


def test_what_stands_in_the_broker_already_is_not_published_again():
    home = broker.embedded(TOPICS)
    records = told(300)[0]
    home.publish(records)
    home.ends = Counter((record.topic, record.partition) for record in records)
    home.publish(records)
    assert len(consumed(home.url, TOPICS, Counter())) == 300


# --- the folder ---------------------------------------------------------------------------------


class FakeLab:
    """As much of a lab as the demo needs: it keeps what it captured in its folder's log."""

    dies_at = None
    snapshots = 0

    def __init__(self, path, tz=None):
        self.path, self.tz = Path(path), tz
        assert (self.path / "lab.toml").exists()
        self.ends, self.records = Counter(), []

    def snapshot(self, url, topics, *, progress):
        type(self).snapshots += 1
        self.records += consumed(url, topics, self.ends)
        (self.path / "log").mkdir(exist_ok=True)
        with (self.path / "log" / "digest").open("a") as file:
            file.write(digest(sorted(self.records, key=place)))
        if type(self).snapshots == self.dies_at:
            raise KeyboardInterrupt


@pytest.fixture
def lab(monkeypatch):
    kind = type("FakeLab", (FakeLab,), {})
    monkeypatch.setitem(sys.modules, "eslab.lab", types.SimpleNamespace(Lab=kind))
    monkeypatch.setattr(broker, "CHUNK_RECORDS", 150)
    return kind


@pytest.mark.usefixtures("lab")
def test_the_demo_is_a_lab_of_the_story_with_mapping_samples_and_ground_truth(tmp_path):
    made = demo(tmp_path / "shop", events=300, progress=False)
    assert sorted(made.records, key=place) == sorted(told(300)[0], key=place)
    assert made.tz == "Europe/Berlin"
    assert (tmp_path / "shop" / "lab.toml").read_text() == lab_toml()
    assert json.loads((tmp_path / "shop" / "ground-truth.json").read_text()) == told(300)[1].ground_truth()
    assert read_samples(tmp_path / "shop").equals(consumers.samples(told(300)[1]))


def test_a_second_run_rebuilds_nothing(tmp_path, lab):
    demo(tmp_path, events=300, progress=False)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    lab.snapshots = 0
    demo(tmp_path, events=300, progress=False)
    assert lab.snapshots == 0
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def test_a_demo_that_broke_off_is_made_anew_as_if_nothing_had_happened(tmp_path, lab):
    lab.dies_at = 1
    with pytest.raises(KeyboardInterrupt):
        demo(tmp_path / "broken", events=300, progress=False)
    lab.dies_at = None
    demo(tmp_path / "broken", events=300, progress=False)
    demo(tmp_path / "whole", events=300, progress=False)
    files = {
        folder: {path.relative_to(tmp_path / folder): path.read_bytes() for path in (tmp_path / folder).rglob("*") if path.is_file()}
        for folder in ("broken", "whole")
    }
    assert files["broken"] == files["whole"]


@pytest.mark.usefixtures("lab")
@pytest.mark.parametrize("content", ["lab.toml", "notes.txt"])
def test_a_folder_that_holds_anything_else_is_refused_and_left_alone(tmp_path, content):
    (tmp_path / content).write_text("mine")
    with pytest.raises(NotALab, match="something else"):
        demo(tmp_path, events=300, progress=False)
    assert [path.name for path in tmp_path.iterdir()] == [content]


@pytest.mark.usefixtures("lab")
def test_a_folder_that_holds_the_demo_of_another_seed_is_refused(tmp_path):
    demo(tmp_path, events=300, progress=False)
    with pytest.raises(NotALab, match="seed 2"):
        demo(tmp_path, events=300, seed=2, progress=False)


@pytest.mark.usefixtures("lab")
def test_two_processes_do_not_make_a_demo_in_the_same_folder(tmp_path):
    from eslab.demo.folder import alone

    with alone(tmp_path), pytest.raises(LabBusy, match="another process"):
        demo(tmp_path, events=300, progress=False)


@pytest.mark.usefixtures("lab")
def test_a_cluster_that_does_not_answer_is_named_and_leaves_the_folder_empty(tmp_path, monkeypatch):
    monkeypatch.setattr(broker, "_TIMEOUT_S", 0.5)
    with pytest.raises(SourceUnreachable, match=r"127\.0\.0\.1:1 did not answer"):
        demo(tmp_path, events=300, kafka="127.0.0.1:1", progress=False)
    assert list(tmp_path.iterdir()) == []


# --- the sample ---------------------------------------------------------------------------------


def test_the_sample_in_the_repository_is_what_the_demo_writes(tmp_path):
    kept = Path(__file__).parent.parent / "data" / "sample"
    written = write_sample(tmp_path)
    assert {path.name for path in kept.iterdir()} == {path.name for path in written}
    assert all(path.read_bytes() == (kept / path.name).read_bytes() for path in written)
    assert sum(path.stat().st_size for path in written) <= 400_000


# --- a cluster of the user's --------------------------------------------------------------------


@pytest.fixture
def cluster(kafka):
    from confluent_kafka.admin import AdminClient

    address = kafka.bootstrap
    admin = AdminClient({"bootstrap.servers": address})

    def found():
        return [topic for topic in admin.list_topics(timeout=10).topics if topic.startswith("eslab-demo.")]

    assert not found(), f"{address} holds a demo already, which this test would delete"
    yield address, admin
    for future in admin.delete_topics(found()).values():
        future.result()


def test_on_a_cluster_a_demo_that_broke_off_goes_on_and_ends_with_every_record_once(tmp_path, lab, cluster):
    address, admin = cluster
    lab.dies_at = 1
    with pytest.raises(KeyboardInterrupt):
        demo(tmp_path, events=300, kafka=address, progress=False)
    lab.dies_at = None
    made = demo(tmp_path, events=300, kafka=address, progress=False)
    story = sorted(Story(events=300, seed=1, prefix="eslab-demo."), key=place)
    found = sorted(made.records, key=place)
    assert [(place(record), record.timestamp_ms, record.key, record.value) for record in found] == [
        (place(record), record.timestamp_ms, record.key, record.value) for record in story
    ]
    marked = [record for record in found if ("eslab.demo", b"1/300/1") in record.headers]
    assert [record.offset for record in marked] == [0] * len({(record.topic, record.partition) for record in found})
    from confluent_kafka.admin import ConfigResource

    resource = ConfigResource(ConfigResource.Type.TOPIC, "eslab-demo.orders")
    assert admin.describe_configs([resource])[resource].result()["retention.ms"].value == "-1"


@pytest.mark.usefixtures("lab")
@pytest.mark.parametrize("strange", ["other seed", "other topic"])
def test_on_a_cluster_topics_that_are_not_this_demos_are_refused_and_nothing_is_written(tmp_path, cluster, strange):
    from confluent_kafka.admin import NewTopic

    address, admin = cluster
    if strange == "other seed":
        demo(tmp_path / "first", events=300, kafka=address, progress=False)
    else:
        admin.create_topics([NewTopic("eslab-demo.payments", 4)])["eslab-demo.payments"].result()
    while "eslab-demo.payments" not in (before := set(admin.list_topics(timeout=10).topics)):
        time.sleep(0.1)
    with pytest.raises(SourceError, match="not this demo's"):
        demo(tmp_path / "second", events=300, seed=2, kafka=address, progress=False)
    assert set(admin.list_topics(timeout=10).topics) == before
    assert list((tmp_path / "second").iterdir()) == []
