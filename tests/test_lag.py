import datetime as dt
import json
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lags import BASE, SECOND, Gapped, Made, at, facts, lab_of, made, oracle, position, record, sample
from logs import TORTURE, few

import eslab
from eslab import Lab
from eslab.errors import MomentError, NaiveTime, UnknownGroup, UnknownTopic

PARTITIONS = 10


@pytest.fixture(scope="module")
def shop(tmp_path_factory) -> Lab:
    return eslab.demo(tmp_path_factory.mktemp("demo") / "shop", events=2_000, progress=False)


@pytest.fixture(scope="module")
def truth(shop) -> dict:
    return json.loads((shop.path / "ground-truth.json").read_text())["phenomena"]["stalled"]


# --- the oracle's word ----------------------------------------------------------------------------


def differences(folder: Path, seed: int):
    """Where the lag of a made group is not the oracle's, at random moments and at all that are in any way special."""
    scene = made(seed, PARTITIONS)
    lab = lab_of(folder / f"lab-{seed}-{random.random()}", scene.records, scene.samples, scene.causes)
    lag = lab.lag("g")
    special = {one["sampled_at"] for one in scene.samples} | {at((one.timestamp_ms / 1000) - BASE.timestamp()) for one in scene.records}
    moments = [moment + delta for moment in special for delta in (-MICRO, 0 * MICRO, 29 * SECOND)]
    moments += [at(random.Random(seed).uniform(-100, 4000)) for _ in range(30)]
    for moment in random.Random(seed).sample(sorted(set(moments)), min(60, len(set(moments)))):
        standing = lag.at(moment)
        for row in standing.table.to_pylist():
            told = oracle(scene, row["partition"], moment)
            wanted = {**vars(told), "known": told.lag is not None}
            found = {name: row[name] for name in wanted}
            if found != wanted or bool(row["why"]) == row["known"]:
                yield f"seed {seed}, partition {row['partition']} at {moment}: {found} is not {wanted} ({row['why']})"


MICRO = dt.timedelta(microseconds=1)


@few(4)
@given(seed=st.integers(0, 10_000_000))
def test_lag_at_any_moment_is_that_of_the_plain_oracle(tmp_path_factory, seed):
    assert next(differences(tmp_path_factory.mktemp("lag"), seed), None) is None


@pytest.mark.torture
@pytest.mark.timeout(1800)
@settings(TORTURE, max_examples=100)
@given(seed=st.integers(0, 10_000_000))
def test_lag_at_any_moment_is_that_of_the_plain_oracle_for_long(tmp_path_factory, seed):
    assert next(differences(tmp_path_factory.mktemp("lag"), seed), None) is None


def test_the_oracle_notices_a_lag_that_counts_unknown_as_none(tmp_path, monkeypatch):
    from eslab import consumption

    honest = consumption._position
    monkeypatch.setattr(consumption, "_position", lambda part, at: (np.maximum(honest(part, at)[0], 0), honest(part, at)[1] * 0))
    assert next(differences(tmp_path, 3), None)


def test_the_oracle_notices_gaps_that_are_taken_for_nothing(tmp_path, monkeypatch):
    from eslab import consumption

    monkeypatch.setattr(consumption.Captured, "missing", lambda self, low, high: np.zeros(len(low), bool))
    assert any(next(differences(tmp_path, seed), None) for seed in range(4))


@pytest.mark.parametrize("seed", range(4))
def test_a_range_says_at_each_moment_what_that_moment_says_alone_and_its_sums_leave_nothing_out(tmp_path, seed):
    scene = made(seed, PARTITIONS)
    lag = lab_of(tmp_path / "lab", scene.records, scene.samples, scene.causes).lag("g", every="47s")
    long, sums = lag.df(), lag.sum().set_index("time")
    assert set(long["time"]) == set(sums.index)
    for time in random.Random(seed).sample(sorted(sums.index), 12):
        standing, here, row = lag.at(time), long[long["time"] == time], sums.loc[time]
        pd.testing.assert_frame_equal(
            here.drop(columns="time").reset_index(drop=True), standing.df().astype(here.drop(columns="time").dtypes)
        )
        assert (None if pd.isna(row["lag"]) else row["lag"], None if pd.isna(row["lag_s"]) else row["lag_s"]) == (
            standing.lag,
            standing.lag_s,
        )
        assert row["unknown"] == len(standing.unknown) == (~here["known"]).sum()
        if standing.lag is not None:
            assert row["produced"] - row["consumed"] == row["lag"]


# --- one rule each --------------------------------------------------------------------------------


@pytest.fixture
def place(tmp_path):
    return tmp_path / "lab"


def rows(lab: Lab, seconds: float, **more) -> list[dict]:
    return lab.lag("g", **more).at(at(seconds)).table.to_pylist()


def test_before_the_first_sample_nothing_is_known_and_nothing_is_zero(place):
    lab = lab_of(place, [record(n, n) for n in range(10)], [sample(5, 3)])
    standing = lab.lag("g").at(at(4.999))
    (row,) = standing.table.to_pylist()
    assert (row["lag"], row["lag_s"], row["committed"], row["known"]) == (None, None, None, False)
    assert standing.lag is standing.lag_s is None
    assert standing.unknown == ["orders[0]: before the first sample"]
    assert "unknown" in repr(standing)


def test_lag_is_the_log_end_then_less_the_last_commit_and_how_old_the_first_waiting_record_is(place):
    lab = lab_of(place, [record(n, n) for n in range(10)], [sample(5, 3)])
    (row,) = rows(lab, 5)
    assert (row["committed"], row["end"], row["lag"], row["records"], row["lag_s"]) == (3, 6, 3, 3, 2.0)


def test_who_never_committed_is_named_and_not_counted(place):
    lab = lab_of(place, [record(0, 0), record(0, 1, partition=1)], [sample(5, None), sample(5, 0, partition=1)])
    standing = lab.lag("g").at(at(5))
    assert standing.lag == 1
    assert standing.unknown == ["orders[0]: nothing committed"]
    assert "not counting 1 of 2 partitions" in repr(standing)


def test_a_partition_that_no_sample_tells_of_is_named(place):
    lab = lab_of(place, [record(0, 0), record(0, 1, partition=1)], [sample(5, 1)])
    assert lab.lag("g").at(at(5)).unknown == ["orders[1]: before the first sample"]


def test_what_the_log_no_longer_has_is_not_waited_for(place):
    lab = lab_of(place, [record(n, n) for n in range(10)], [sample(9, 2, log_start=7, log_end=10)])
    (row,) = rows(lab, 9)
    assert (row["lag"], row["records"], row["lag_s"]) == (3, 3, 2.0)


def test_gaps_inflate_the_lag_in_offsets_and_not_the_count_of_records(place):
    causes = {("orders", 0, one): "compaction" for one in range(2, 8)}
    lab = lab_of(place, [record(0, 0), record(1, 1), record(8, 8), record(9, 9)], [sample(10, 1)], causes)
    (row,) = rows(lab, 10)
    assert (row["lag"], row["records"], row["lag_s"]) == (9, 3, 9.0)


def test_a_transactions_marker_at_the_end_is_a_lag_in_offsets_alone(place):
    lab = lab_of(place, [record(0, 0), record(1, 1)], [sample(50, 2, log_end=3)], None)
    (row,) = rows(lab, 50)
    assert (row["lag"], row["lag_s"]) == (1, None), "who knows what stands at offset 2: it is not captured"
    lab = lab_of(
        place.with_name("b"), [record(0, 0), record(1, 1), record(3, 60)], [sample(50, 2, log_end=3)], {("orders", 0, 2): "control"}
    )
    (row,) = rows(lab, 50)
    assert (row["lag"], row["records"], row["lag_s"]) == (1, 0, 0.0)


def test_what_was_not_captured_makes_the_time_unknown_and_not_the_offsets(place):
    causes = {("orders", 0, 1): "retention"}
    lab = lab_of(place, [record(0, 0), record(2, 2)], [sample(5, 1)], causes)
    (row,) = rows(lab, 5)
    assert (row["lag"], row["records"], row["lag_s"]) == (2, None, None)


def test_a_topic_that_is_not_captured_has_its_end_from_the_samples_and_no_times(place):
    lab = lab_of(place, [record(0, 0, topic="other")], [sample(0, 5, log_end=9), sample(10, 9, log_end=9)])
    lag = lab.lag("g")
    assert [(row["lag"], row["lag_s"]) for row in (*rows(lab, 0), *rows(lab, 10))] == [(4, None), (0, 0.0)]
    assert "orders is not captured" in repr(lag)


def test_samples_go_on_where_the_capture_ended(place):
    lab = lab_of(place, [record(n, n) for n in range(5)], [sample(60, 4, log_end=50), sample(70, 20)])
    assert [(row["end"], row["lag"], row["lag_s"]) for row in rows(lab, 60)] == [(50, 46, 56.0)]
    lab = lab_of(place.with_name("b"), [record(n, n) for n in range(5)], [sample(70, 20)])
    (row,) = rows(lab, 70)
    assert (row["lag"], row["why"]) == (None, "the topic is not captured up to there")


def test_commits_hold_until_the_next_and_polls_no_longer_than_three_intervals(place):
    records = [record(n, n * 60) for n in range(100)]
    polls = [sample(n * 60, n) for n in (1, 2, 3, 60)]
    lab = lab_of(place, records, polls)
    assert rows(lab, 5 * 60)[0]["committed"] == 3
    assert rows(lab, 6 * 60)[0]["why"] == "no sample then"
    assert rows(lab, 60 * 60)[0]["committed"] == 60
    commits = [{**one, "origin": "commits", "committed_at": one["sampled_at"]} for one in polls]
    lab = lab_of(place.with_name("b"), records, commits)
    assert rows(lab, 59 * 60)[0]["committed"] == 3
    same = lab_of(place.with_name("c"), records, [sample(n * 60, 3) for n in (1, 2, 3, 60)])
    assert rows(same, 30 * 60)[0]["committed"] == 3, "the same before and after: it stood there all the while"


def test_a_commit_counts_from_when_it_was_made_and_not_from_when_it_was_seen(place):
    lab = lab_of(place, [record(n, n) for n in range(100)], [sample(10, 5), sample(70, 60, committed_at=61)])
    assert [rows(lab, seconds)[0]["committed"] for seconds in (60, 61, 70)] == [5, 60, 60]


def test_times_that_fall_back_do_not_make_a_consumer_late(place):
    lab = lab_of(place, [record(0, 100), record(1, 40), record(2, 101)], [sample(100, 1)])
    (row,) = rows(lab, 101)
    assert (row["end"], row["lag_s"]) == (3, 1.0)


def test_the_life_of_a_partition_that_stood_then_is_the_one_that_counts(place):
    lab = lab_of(place, [record(n, n) for n in range(10)], [sample(9, 10, origin="commits"), sample(101, 1, origin="commits")])
    lab.snapshot(Gapped([record(n, 100 + n) for n in range(5)], topic_id="another"), progress=False)
    assert [(row["end"], row["lag"]) for row in (*rows(lab, 50), *rows(lab, 104))] == [(10, 0), (5, 4)]
    (row,) = rows(lab, 100.5)
    assert (row["committed"], row["lag"], row["why"]) == (None, None, "no sample since the partition was made anew")


def test_another_group_changes_nothing(place):
    records = [record(n, n) for n in range(10)]
    alone = lab_of(place, records, [sample(5, 3)])
    both = lab_of(place.with_name("b"), records, [sample(5, 3), sample(6, 9, group="h")])
    assert rows(alone, 9) == rows(both, 9)


# --- stalls ---------------------------------------------------------------------------------------


def test_the_demos_stalled_consumer_is_found_since_when_how_long_and_how_far(shop, truth):
    found = shop.lag(truth["group"]).stalls()
    began, went_on = (dt.datetime.fromisoformat(truth[name]) for name in ("from", "to"))
    frame, minute = found.df(), pd.Timedelta(minutes=1)
    assert len(found) == len(frame) > 0
    assert set(frame["topic"]) == {truth["topic"]}
    assert (frame["since"] >= began - minute).all()
    assert abs(frame["since"].min() - began) <= 5 * minute, "nothing waits before something comes"
    assert (abs(frame["moved"].max() - went_on)) <= minute * 2
    assert frame["caught_up"].max() == began.replace(hour=14, minute=55)
    assert frame["stood_s"].max() == pytest.approx((went_on - began).total_seconds(), abs=5 * 60)
    assert (frame["peak_lag"] > 0).all()
    assert "stood still from 2026-03-12 14:0" in repr(found)
    assert "caught up 2026-03-12 14:55:00 CET" in repr(found)


def test_no_other_group_of_the_demo_stalls(shop, truth):
    assert [group for group in shop.groups()["group"] if len(shop.lag(group).stalls())] == [truth["group"]]


def test_what_a_stall_says_of_its_peak_is_the_highest_that_the_samples_show(shop, truth):
    lag = shop.lag(truth["group"], topics=truth["topic"], every="1m")
    long = lag.df()
    for one in lag.stalls().df().itertuples():
        within = long[(long["partition"] == one.partition) & long["time"].between(one.since, one.caught_up)]
        assert one.peak_lag == within["lag"].max()
        assert one.peak_lag_s == within["lag_s"].max()
        assert one.peak_lag == within.set_index("time").loc[one.peak_at, "lag"]


@pytest.mark.parametrize("seed", range(4))
def test_stalls_are_the_standstills_with_something_waiting_and_no_other(tmp_path, seed):
    scene = made(100 + seed, PARTITIONS)
    highest: dict[int, int] = {}
    for one in scene.samples:  # here the bounds jump to and fro as no log's do
        highest[one["partition"]] = max(highest.get(one["partition"], 0), one["log_end"] or 0)
        one |= {"log_start": None, "log_end": one["log_end"] and highest[one["partition"]]}
    lag = lab_of(tmp_path / "lab", scene.records, scene.samples, scene.causes).lag("g")
    found = lag.stalls(min_duration="2m").df()
    start, stop = lag.start.astimezone(dt.UTC), lag.stop.astimezone(dt.UTC)
    for partition in range(PARTITIONS):
        mine = found[found["partition"] == partition]
        for since, until in standstills(scene, partition, start, stop):
            if until - since >= dt.timedelta(minutes=2):
                assert ((mine["since"] <= since + SECOND) & (mine["caught_up"].fillna(lag.stop) >= until - SECOND)).any(), (
                    partition,
                    since,
                    until,
                )
        for one in mine.itertuples():
            waiting = oracle(scene, partition, one.since + dt.timedelta(seconds=60))
            assert waiting.lag or waiting.lag is None
            assert one.stood_s >= 120
            if not pd.isna(one.caught_up):
                assert one.since < one.moved <= one.caught_up


def standstills(scene: Made, partition: int, start: dt.datetime, stop: dt.datetime):
    """Each range, to ten seconds, in which the position was one and the same and the oracle says that something waited."""
    open_since = last = None
    mine = [one for one in scene.samples if one["partition"] == partition]
    changes = {one[0] for one in facts(mine)}
    moment = start
    while moment <= stop:
        told = oracle(scene, partition, moment)
        seen = position(mine, moment)
        stands = bool(told.lag) and bool(told.lag_s or told.lag_s is None) and seen == last
        changed = any(moment - 20 * SECOND < change <= moment for change in changes)
        if stands and not changed and open_since is None:
            open_since = moment
        if open_since is not None and not stands:
            yield open_since, moment - 20 * SECOND
            open_since = None
        last = seen
        moment += 20 * SECOND
    if open_since is not None:
        yield open_since, stop


def test_a_quiet_night_is_no_stall(place):
    records = [record(0, 0), record(1, 8 * 3600)]
    lab = lab_of(place, records, [sample(1, 1, origin="commits"), sample(8 * 3600 + 1, 2, origin="commits")])
    assert len(lab.lag("g").stalls()) == 0


def test_a_consumer_that_never_moves_again_has_not_caught_up(place):
    lab = lab_of(place, [record(n, n * 60) for n in range(60)], [sample(600, 10, origin="commits")])
    (stall,) = lab.lag("g").stalls()
    assert (stall.moved, stall.caught_up, stall.peak) == (None, None, 50)
    assert "not seen to go on" in repr(lab.lag("g").stalls())


def test_a_halt_while_it_catches_up_belongs_to_the_same_stall(place):
    records = [record(n, n * 10) for n in range(400)]
    commits = [sample(100, 10), sample(1000, 20), sample(1400, 21), sample(2000, 200), sample(3990, 400)]
    lab = lab_of(place, records, [{**one, "origin": "commits"} for one in commits])
    stalls = lab.lag("g").stalls()
    assert len(stalls) == 1
    assert stalls[0].stood_us == pytest.approx(1_990e6, abs=20e6)


def test_a_stall_that_is_too_short_or_too_small_is_left_out(place):
    lab = lab_of(
        place, [record(n, n * 10) for n in range(100)], [{**sample(100, 10), "origin": "commits"}, {**sample(500, 50), "origin": "commits"}]
    )
    lag = lab.lag("g", stop=at(600))
    assert len(lag.stalls()) == 1
    assert len(lag.stalls(min_duration="10m")) == 0
    assert len(lag.stalls(min_lag=1_000)) == 0
    for odd in ("x", 0, 1.5, None, True):
        with pytest.raises(MomentError, match="is no number of offsets; write a whole number from 1 on"):
            lag.stalls(min_lag=odd)
    with pytest.raises(MomentError, match="min_duration='often' is no length of time"):
        lag.stalls(min_duration="often")


# --- asking ---------------------------------------------------------------------------------------


def test_an_unknown_group_is_told_the_groups_that_there_are(shop):
    with pytest.raises(UnknownGroup, match=r"nobody.*it has billing, read-model, shipping"):
        shop.lag("nobody")
    with pytest.raises(UnknownTopic, match="billing has no positions on shipments; it has on orders, payments"):
        shop.lag("billing", topics=["shipments"])
    with pytest.raises(UnknownTopic, match="names none; billing has positions on orders, payments"):
        shop.lag("billing", topics=[])


def test_a_lab_without_positions_says_where_they_come_from(place):
    with pytest.raises(UnknownGroup, match="none: watch a cluster"):
        lab_of(place, [record(0, 0)], []).lag("g")
    assert len(Lab(place, tz="UTC").groups()) == 0


def test_groups_tells_who_is_known_and_since_when(shop):
    frame = shop.groups().set_index("group")
    assert list(frame.index) == ["billing", "read-model", "shipping"]
    assert frame.loc["billing", "topics"] == "orders, payments"
    assert str(frame.loc["billing", "first"]) == "2026-03-12 00:00:00+01:00"


def test_start_is_inclusive_stop_exclusive_and_every_is_kept(shop):
    times = shop.lag("billing", start="14:00", stop="15:00", every="10m").df()["time"].drop_duplicates().dt.strftime("%H:%M:%S.%f").tolist()
    assert times == [*(f"14:{minute:02}:00.000000" for minute in range(0, 60, 10)), "14:59:59.999999"]
    with pytest.raises(MomentError, match="must lie after start"):
        shop.lag("billing", start="15:00", stop="14:00")
    with pytest.raises(MomentError, match="no length of time"):
        shop.lag("billing", every="often")
    with pytest.raises(NaiveTime):
        Lab(shop.path).lag("billing").at("14:00")


def test_a_day_has_2000_moments_or_less_by_itself(shop):
    assert 1_000 < shop.lag("billing").df()["time"].nunique() <= 2_000


def test_the_faces_say_since_when_how_far_and_where_it_stands_now(shop):
    lag = shop.lag("read-model")
    assert "known since 2026-03-12 00:0" in repr(lag)
    assert "highest" in repr(lag)
    assert "at the end, 2026-03-12 23:59:00 CET" in repr(lag)
    for face in (lag, lag.at("14:30"), lag.stalls()):
        assert len(repr(face).splitlines()) <= 25
        page = face._repr_html_()
        assert page.count("<table") == 1
    assert lag.arrow().to_pandas().shape == lag.df().shape


def test_hostile_names_stay_text(place):
    name = "<script>alert(1)</script>'; drop"
    lab = lab_of(place, [record(0, 0, topic=name)], [sample(0, 0, group=name, topic=name)])
    lag = lab.lag(name)
    assert lag.at(at(1)).lag == 1
    for face in (lag, lag.at(at(1)), lag.stalls()):
        assert "<script>" not in face._repr_html_()


def test_nothing_but_a_chart_loads_altair(shop):
    code = f"import eslab, sys; lab = eslab.Lab({str(shop.path)!r}, tz='UTC'); lag = lab.lag('billing'); repr(lag), lag._repr_html_(), lag.stalls(), lab.throughput()._repr_html_(); assert not {{'altair', 'vl_convert'}} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
