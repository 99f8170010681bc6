"""Everything near a moment."""

import datetime as dt
import random

import pandas as pd
import pytest
from chains import chained, lab_of
from hypothesis import given
from hypothesis import strategies as st
from logs import few

import eslab
from eslab.around import find_around
from eslab.errors import MomentError, NaiveTime, UnknownEvent
from eslab.model import dumps
from eslab.wording import read_length

NOON = 1_767_268_800_000  # 2026-01-01 12:00:00 UTC


def record(at_s, topic="orders", *, broken=False, none=False):
    value = dumps({"eventId": f"e{at_s}", "eventType": "T", "source": "app", "data": {"orderId": "o1"}})
    return eslab.Record(topic=topic, key=b"o1", timestamp_ms=NOON + round(at_s * 1000), value=None if none else b"{" if broken else value)


@pytest.fixture(scope="module")
def lab():
    return eslab.play(
        [
            record(-90),
            record(-60),
            record(0),
            record(59.999),
            record(60.001),
            record(-1, "parcels"),
            record(0, "parcels", broken=True),
            record(1, "parcels", none=True),
        ]
    )


def test_everything_within_is_there_over_all_topics_in_the_labs_order(lab):
    found = lab.around("12:00")
    assert list(found.df()["at"]) == ["orders/0/1", "parcels/0/0", "orders/0/2", "parcels/0/1", "parcels/0/2", "orders/0/3"]
    assert list(found.df()["kind"]) == ["event", "event", "event", "undecodable", "tombstone", "event"]
    assert found.df()["since"][1] == pd.Timedelta(seconds=-1)
    assert found.complete
    assert repr(found) == "<Around 2026-01-01 12:00:00 UTC: 6 records from 1m before to 1m after it (orders 3, parcels 3)>"
    assert found.arrow().schema.field("order_at").type.tz == "UTC"


def test_both_sides_are_inclusive_and_can_be_chosen(lab):
    assert len(lab.around("12:00", before="90s", after="60.001s")) == 8
    assert list(lab.around("12:00", before=0, after=dt.timedelta(seconds=1)).df()["at"]) == ["orders/0/2", "parcels/0/1", "parcels/0/2"]
    assert len(lab.around("12:10", before="1s", after="1s")) == 0
    assert "nothing" in lab.around("12:10")._repr_html_()


def test_an_event_stands_for_its_moment(lab):
    assert lab.around(event_id="e0").df().equals(lab.around("12:00").df())
    assert lab.around(event_id=("parcels", 0, 1)).moment == lab.around("12:00").moment


def test_of_very_many_the_nearest_are_there_and_that_is_said(lab):
    found = find_around(
        lab._now(), lab.moment("12:00"), read_length("2m", name="before"), read_length("2m", name="after"), lab._clock(), most=3
    )
    assert [str(place) for place in found.df()["at"]] == ["parcels/0/0", "orders/0/2", "parcels/0/1"]
    assert not found.complete
    assert "the 3 records nearest to it of 8" in repr(found)


def test_the_page_shows_what_is_next_to_the_moment():
    lab = eslab.play([record(at) for at in range(300)])
    page = lab.around("12:02:30", before="1h", after="1h")._repr_html_()
    assert "; the 100 next to it" in page
    assert ">e150<" in page
    assert ">e100<" in page
    assert ">e99<" not in page
    assert ">e200<" not in page


def test_what_names_no_moment_is_one_sentence(lab, tmp_path):
    for asked in ({}, {"moment": "12:00", "event_id": "e0"}):
        with pytest.raises(MomentError, match="name one moment"):
            lab.around(**asked)
    with pytest.raises(MomentError, match="before='soon' is no length of time"):
        lab.around("12:00", before="soon")
    with pytest.raises(UnknownEvent):
        lab.around(event_id="nobody")
    with pytest.raises(NaiveTime):
        eslab.Lab(tmp_path / "none").around("2026-01-01 12:00")
    assert len(eslab.Lab(tmp_path / "none", tz="UTC").around("2026-01-01 12:00")) == 0


@few(2)
@given(st.integers(0, 2**32))
def test_what_is_near_a_record_of_a_made_log_is_the_oracles(seed):
    chance = random.Random(seed)
    with lab_of(chained(seed, 20)) as (lab, oracle):
        for one in chance.sample(oracle.log, min(2, len(oracle.log))):
            before, after = (dt.timedelta(milliseconds=chance.choice([0, 1, 5, 3000, 600_000])) for _ in range(2))
            near = [each for each in oracle.log if one.order_at - before <= each.order_at <= one.order_at + after]
            found = lab.around(one.order_at, before=before, after=after)
            rows = found.arrow().to_pylist()
            assert [(row["topic"], row["partition_id"], row["record_offset"]) for row in rows] == [
                (*each.life[:2], each.offset) for each in near
            ]
            assert [row["since_us"] for row in rows] == [(each.order_at - one.order_at) // dt.timedelta(microseconds=1) for each in near]
            most = chance.randint(1, 5)
            few = find_around(
                lab._now(), one.order_at, *(read_length(side, name="side", least=0) for side in (before, after)), lab._clock(), most=most
            )
            distances = sorted(abs(row["since_us"]) for row in rows)[:most]
            assert sorted(abs(row["since_us"]) for row in few.arrow().to_pylist()) == distances
            assert few.total == len(near)
