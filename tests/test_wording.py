"""Counts and lengths of time, as people write and read them."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pytest

import eslab
from eslab.errors import MomentError
from eslab.wording import many, read_length


@pytest.mark.parametrize(
    ("count", "noun", "said"),
    [
        (1, "record", "1 record"),
        (0, "topic", "0 topics"),
        (1234, "key", "1,234 keys"),
        (2, "history", "2 histories"),
        (1, "history", "1 history"),
    ],
)
def test_one_is_not_many(count: int, noun: str, said: str):
    assert many(count, noun) == said


@pytest.mark.parametrize(
    ("told", "meant_s", "written"),
    [
        ("500ms", 0.5, "500ms"), ("5s", 5, "5s"), ("90s", 90, "90s"), ("1.5m", 90, "90s"), (" 2h ", 7200, "2h"), ("1d", 86_400, "1d"), (3, 3, "3s"),
        (0.5, 0.5, "500ms"), (dt.timedelta(minutes=1), 60, "1m"), (dt.timedelta(microseconds=7), 7e-6, "7us"), (dt.timedelta(days=2), 172_800, "48h"),
    ],
)  # fmt: skip
def test_a_length_of_time_is_written_in_many_ways(told: Any, meant_s: float, written: str):
    length = read_length(told, name="every")
    assert (length.s, str(length)) == (meant_s, written)


@pytest.mark.parametrize(("told", "said"), [("5s", "5 s"), ("90m", "90 min"), ("1h", "1 h"), ("500ms", "500 ms"), (7e-6, "7 µs")])
def test_in_a_sentence_a_length_of_time_is_told_as_people_write_it(told: Any, said: str):
    assert read_length(told, name="every").told == said


def test_a_length_is_said_in_words():
    assert [read_length(one, name="every").words for one in ("1m", "5m", "1d")] == ["minute", "5 minutes", "day"]


@pytest.mark.parametrize(
    "told",
    ["", "5", "s", "-1s", "0s", "5 s", "1w", 0, -1, float("nan"), float("inf"), True, dt.timedelta(0), None, [1], "9999999d", "1e3s", "٣s"],
)
def test_what_is_no_length_of_time_is_refused_by_the_name_it_was_given(told: Any):
    with pytest.raises(MomentError, match=r"^every=.* is no length of time; write seconds, or a number and ms, s, m, h or d") as said:
        read_length(told, name="every")
    assert "\n" not in str(said.value)


def test_every_verb_reads_lengths_of_time_alike():
    lab = eslab.play([{"eventType": "X", "data": {"aId": "1"}}, {"eventType": "X", "data": {"aId": "1"}}])
    for told in ("90s", 90, 90.0, dt.timedelta(seconds=90), "1.5m"):
        assert str(lab.throughput(every=told).every) == "90s"
        assert "1 min 30 s" in repr(lab.late(min=told))
    for ask in (lambda: lab.throughput(every="1w"), lambda: lab.late(min="1w"), lambda: lab.watch("kafka://127.0.0.1:1", every="1w")):
        with pytest.raises(MomentError, match="'1w' is no length of time"):
            ask()
