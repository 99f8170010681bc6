import datetime as dt
import random
from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lags import Gapped, at, lab_of, record
from logs import few

import eslab
from eslab import Lab, Record
from eslab.buckets import choose, edges, micros, moment
from eslab.errors import MomentError, UnknownTopic
from eslab.sources.memory import MemorySource
from eslab.wording import Length, read_length

BERLIN = "Europe/Berlin"


def lab_with(folder, records, tz=BERLIN) -> Lab:
    lab = Lab(folder, tz=tz, say=lambda text: None)
    lab.snapshot(MemorySource(records), progress=False)
    return lab


def counted(frame) -> dict:
    return {(row.time, row.topic): (row.records, row.bytes) for row in frame.itertuples() if row.records}


def test_every_record_counts_once_at_its_own_time_with_its_keys_and_values_bytes(tmp_path):
    dice = random.Random(7)
    records = [
        Record(
            topic=dice.choice(["orders", "payments"]),
            partition=dice.randint(0, 3),
            timestamp_ms=int(at(dice.gauss(3000, 1000)).timestamp() * 1000),
            timestamp_type="create",
            key=dice.choice([None, b"", b"key"]),
            value=dice.choice([None, b'{"eventType": "X", "data": {"orderId": "key"}}', b"\xff\xfe"]),
        )
        for _ in range(3_000)
    ]
    records.append(
        Record(
            topic="orders", key=b"key", value=b'{"eventType": "X", "data": {"orderId": "key"}}', timestamp_ms=int(at(0).timestamp() * 1000)
        )
    )
    wanted, size = Counter(), Counter()
    for one in records:
        minutes = one.timestamp_ms // 60_000
        place = dt.datetime.fromtimestamp(minutes * 60, dt.UTC), one.topic
        wanted[place] += 1
        size[place] += len(one.key or b"") + len(one.value or b"")
    found = counted(lab_with(tmp_path / "lab", records).throughput(every="1m").df())
    assert found == {place: (count, size[place]) for place, count in wanted.items()}


def test_a_bucket_without_records_is_there_and_zero(tmp_path):
    lab = lab_with(tmp_path / "lab", [record(0, 0), record(1, 600)])
    frame = lab.throughput(every="1m").df()
    assert frame["records"].tolist() == [1, *[0] * 9, 1]


def test_a_distrusted_clock_and_a_record_without_a_time_count_when_they_came(tmp_path):
    wrong = [
        record(0, 0),
        record(1, 7 * 86_400),
        record(2, 60),
        Record(topic="orders", key=b"a", value=b"{}", timestamp_ms=-1),
        record(4, 120),
    ]
    lab = lab_with(tmp_path / "lab", wrong)
    assert lab.throughput(every="1d").df()["records"].tolist() == [3, *[0] * 6, 2], (
        "the one without a time stands in the shadow of the wrong one"
    )
    lab.distrust(topic="orders", partition=0, offsets=(1, 2))
    assert lab.throughput(every="1m").df()["records"].tolist() == [2, 2, 1]


@pytest.mark.parametrize("rule", [{"source": "bad"}, {"producer_id": 7}, {"producer_id": 7, "source": "bad", "topic": "orders"}])
def test_distrust_by_whom_is_heeded(tmp_path, rule):
    def one(seconds, source, producer):
        return Record(
            topic="orders", key=b"a", producer_id=producer, timestamp_ms=int(at(seconds).timestamp() * 1000),
            value=b'{"eventType": "X", "source": "' + source + b'", "data": {"orderId": "a"}}',
        )  # fmt: skip

    lab = lab_with(tmp_path / "lab", [one(0, b"good", 1), one(86_400 * 30, b"bad", 7), one(60, b"good", 1)])
    lab.distrust(**rule)
    assert lab.throughput(every="1m").df()["records"].tolist() == [2, 1]


def test_start_is_inclusive_and_stop_exclusive(tmp_path):
    lab = lab_with(tmp_path / "lab", [record(n, n * 60) for n in range(10)])
    frame = lab.throughput(every="1m", start=at(120), stop=at(300)).df()
    assert frame["records"].tolist() == [1, 1, 1]
    assert frame["time"].iloc[0] == at(120)
    with pytest.raises(MomentError, match="must lie after"):
        lab.throughput(start=at(10), stop=at(10))


def test_topics_are_those_asked_for_else_all_but_kafkas_own(tmp_path):
    lab = lab_with(tmp_path / "lab", [record(0, 0), record(0, 0, topic="payments"), record(0, 0, topic="__internal")])
    assert set(lab.throughput().df()["topic"]) == {"orders", "payments"}
    assert set(lab.throughput("orders").df()["topic"]) == {"orders"}
    assert set(lab.throughput(["__internal"]).df()["topic"]) == {"__internal"}
    with pytest.raises(UnknownTopic, match="no topic refunds; it has __internal, orders, payments"):
        lab.throughput(["refunds"])


def test_all_lives_of_a_partition_count(tmp_path):
    lab = lab_of(tmp_path / "lab", [record(0, 0), record(1, 1)], [])
    lab.snapshot(Gapped([record(0, 60)], topic_id="another"), progress=False)
    assert lab.throughput(every="1m").df()["records"].tolist() == [2, 1]


def test_what_is_not_captured_and_whose_clock_is_wrong_is_said(tmp_path):
    lab = lab_of(tmp_path / "lab", [record(5, 0), record(6, 86_400), record(7, 10)], [])
    found = lab.throughput()
    assert any("5 offsets not captured (retention)" in note for note in found.notes)
    assert any("a clock ran ahead" in note for note in found.notes)
    assert all(note in repr(found) for note in found.notes)


def test_an_empty_lab_answers_with_nothing(tmp_path):
    found = Lab(tmp_path / "none", tz="UTC").throughput()
    assert (len(found.df()), repr(found)) == (0, "<Throughput: no records>")
    assert "no records" in found._repr_html_()
    assert found.chart().to_dict()


def test_a_hostile_timestamp_stretches_the_range_and_breaks_nothing(tmp_path):
    lab = lab_with(tmp_path / "lab", [record(0, 0), Record(topic="orders", key=b"a", value=b"{}", timestamp_ms=2**62)])
    frame = lab.throughput().df()
    assert (frame["records"].sum(), len(frame) <= 8_100) == (2, True)
    assert lab.throughput().chart().to_dict()


def test_the_faces_say_how_much_and_when_it_was_most(tmp_path):
    lab = lab_with(tmp_path / "lab", [record(0, 0), record(1, 60), record(2, 61), record(0, 0, topic="<b>")])
    found = lab.throughput(every="1m")
    assert repr(found).startswith("<Throughput: 4 records, ")
    assert "most 2 at 2026-03-12 10:00:00 CET" in repr(found)
    page = found._repr_html_()
    assert "<b>" not in page
    assert page.count("<tr>") == 3
    assert found.arrow().num_rows == len(found.df())


# --- buckets --------------------------------------------------------------------------------------


@given(span=st.integers(0, 10**15), most=st.integers(2, 5_000))
@few(15)
def test_the_width_that_is_chosen_makes_no_more_points_than_asked_and_is_the_smallest_that_does(span, most):
    every = choose(span, most)
    if str(every) != "364d":
        assert span // every.us + 1 <= most
    smaller = [one for one in (read_length(told, name="every") for told in ("1s", "1m", "5m", "1h", "1d")) if one.us < every.us]
    assert all(span > one.us * (most - 1) for one in smaller)


@given(
    start=st.integers(0, 3650).map(lambda days: dt.datetime(2020, 1, 1, 7, 13, tzinfo=dt.UTC) + dt.timedelta(days=days)),
    length=st.integers(0, 40 * 86_400),
    every=st.sampled_from(["1h", "6h", "1d", "7d", "13m"]),
)
@few(15)
def test_buckets_cover_the_range_without_gap_and_begin_at_a_midnight_of_the_zone(start, length, every):
    from zoneinfo import ZoneInfo

    zone, low = ZoneInfo(BERLIN), micros(start)
    high = low + length * 1_000_000
    bounds = edges(low, high, read_length(every, name="every"), zone)
    assert bounds[0] <= low < bounds[1]
    assert bounds[-2] <= high < bounds[-1] or bounds[-3] <= high < bounds[-2]
    local = [moment(int(one)).astimezone(zone) for one in bounds]
    if every.endswith("d"):
        assert {one.time() for one in local} == {dt.time()}
        assert {later.date() - sooner.date() for sooner, later in pairwise(local)} == {
            dt.timedelta(days=read_length(every, name="every").count)
        }
    else:
        assert {int(step) for step in bounds[1:] - bounds[:-1]} == {read_length(every, name="every").us}
        midnight = local[0].replace(hour=0, minute=0, second=0, microsecond=0)
        assert (micros(local[0]) - micros(midnight)) % read_length(every, name="every").us == 0


def test_the_day_on_which_the_clocks_change_has_its_own_length(tmp_path):
    start = dt.datetime(2026, 10, 24, 22, tzinfo=dt.UTC)  # midnight in Berlin; the 25th has 25 hours
    stamps = [int((start + dt.timedelta(hours=hour)).timestamp() * 1000) for hour in range(49)]
    records = [
        Record(topic="orders", key=b"a", value=b'{"eventType": "X", "data": {"orderId": "a"}}', timestamp_ms=stamp) for stamp in stamps
    ]
    frame = lab_with(tmp_path / "lab", records).throughput(every="1d").df()
    assert frame["records"].tolist() == [25, 24]


def test_too_many_buckets_are_refused_with_a_width_that_would_do():
    with pytest.raises(MomentError, match="more than 1,000,000 points; 1h"):
        edges(0, 50 * 86_400 * 10**6, Length(1, "ms"), dt.UTC)


def test_the_demo_is_counted_whole(tmp_path):
    shop = eslab.demo(tmp_path / "shop", events=300, progress=False)
    assert shop.throughput().df()["records"].sum() == shop.sql("select count(*) from records").fetchall()[0][0]
