"""Any id or value, found; and how much was searched."""

import json
import random
from collections import defaultdict
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from logs import captured, few, logs
from oracle import Oracle

import eslab
from eslab import values
from eslab.values import find_values

SHOP = [
    {
        "eventId": "e1",
        "eventType": "Created",
        "source": "app",
        "correlationId": "c1",
        "data": {"orderId": "o1", "who": {"name": "Müller"}, "items": [{"sku": "s1", "n": 2}, {"sku": "s2", "n": 2}], "price": 1.5},
        "metadata": {"traceId": "t1", "spanId": "p1", "host": "web-1"},
    },
    {
        "eventId": "e2",
        "eventType": "Paid",
        "correlationId": "c1",
        "causationId": "e1",
        "data": {"orderId": "o1", "by": "Müller", "n": "2", 'odd "key"': "x\\y"},
    },
    {"eventId": "e3", "eventType": "Noted", "data": {"orderId": "o2", "text": 'say "no"\n', "big": 10**30, "flag": True, "none": None}},
]


@pytest.fixture(scope="module")
def lab():
    return eslab.play(SHOP)


def meanings(found):
    return [(row["as"], row["name"], row["count"]) for row in found.df().to_dict("records")]


def test_an_id_is_told_as_all_that_it_is(lab):
    assert meanings(lab.find("o1")) == [("aggregate", "order", 2), ("key", "events", 2), ("value", "data.orderId of Created, Paid", 2)]
    assert meanings(lab.find("e1")) == [("event", "Created", 1), ("causation", "", 1)]
    assert meanings(lab.find("c1")) == [("correlation", "", 2)]
    assert meanings(lab.find("p1")) == [("span", "", 1), ("value", "metadata.spanId of Created", 1)]
    assert meanings(lab.find("Paid")) == [("type", "events", 1)]
    assert meanings(lab.find("app")) == [("source", "events", 1)]


def test_a_value_is_found_wherever_it_stands_with_the_path_and_the_types(lab):
    assert meanings(lab.find("Müller")) == [("value", "data.by of Paid", 1), ("value", "data.who.name of Created", 1)]
    assert meanings(lab.find("s2")) == [("value", "data.items[].sku of Created", 1)]
    assert meanings(lab.find("web-1")) == [("value", "metadata.host of Created", 1)]
    assert meanings(lab.find("x\\y")) == [("value", 'data."odd \\"key\\"" of Paid', 1)]
    assert meanings(lab.find('say "no"\n')) == [("value", "data.text of Noted", 1)]


def test_a_number_is_found_as_json_writes_it_and_as_text(lab):
    for two in (2, "2"):
        assert meanings(lab.find(two)) == [("value", "data.items[].n of Created", 1), ("value", "data.n of Paid", 1)]
    assert meanings(lab.find(1.5)) == meanings(lab.find(Decimal("1.5"))) == [("value", "data.price of Created", 1)]
    assert meanings(lab.find(10**30)) == [("value", "data.big of Noted", 1)]
    assert meanings(lab.find(True)) == meanings(lab.find(None)) == []


def test_the_answer_says_how_much_was_searched_and_that_it_was_all(lab):
    found = lab.find("nobody")
    assert found.complete
    assert repr(found).splitlines() == [
        "nobody: nothing captured has this, as an id, a key, a type, a source or a value",
        "searched: the ids, keys, types and sources of all 3 events, and every value of their data and metadata",
    ]
    assert "of all 3 events" in found._repr_html_()


def test_a_value_that_stands_everywhere_is_searched_so_far_and_no_further_but_when_asked(monkeypatch):
    monkeypatch.setattr(values, "PARSED", 5)
    monkeypatch.setattr(values, "PART", 1)
    lab = eslab.play()
    for start in range(3):  # a run for each
        lab.publish({"eventType": "T", "data": {"anId": "a", "n": start}})
        for at in range(4):
            lab._append({"eventType": "T", "data": {"anId": "a", "n": at}})
        lab.publish({"eventType": "T", "data": {"anId": "a"}})
    found = lab.find("a")
    searched = find_values(lab._now(), "a", whole=False)
    assert 5 <= searched.searched < searched.total == 18
    assert not found.complete
    assert f"of all 18 events, but the values of {searched.searched} alone" in repr(found)
    assert lab.find("a", whole=True).complete
    assert meanings(lab.find("a", whole=True))[-1] == ("value", "data.anId of T", 18)


def test_paths_without_end_are_counted_and_not_told(monkeypatch):
    monkeypatch.setattr(values, "PLACES", 3)
    lab = eslab.play([{"eventType": "T", "data": {"anId": "a", "by": {f"user {at}": "x" for at in range(10)}}}])
    found = lab.find("x")
    assert (len(found), found.complete) == (3, False)
    assert "it stands at 7 paths more" in repr(found)


def test_of_many_types_at_one_path_the_first_are_named():
    lab = eslab.play([{"eventType": f"T{at}", "data": {"anId": "a"}} for at in range(5)])
    assert meanings(lab.find("a"))[-1] == ("value", "data.anId of T0, T1, T2 and 2 more", 5)


def test_an_empty_lab_was_searched_whole(tmp_path):
    found = eslab.Lab(tmp_path / "none", tz="UTC").find("x")
    assert (len(found), found.complete) == (0, True)


# --- as an oracle has it ------------------------------------------------------------------------


def plain_paths(value, path):
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from plain_paths(inner, (*path, name))
    elif isinstance(value, list):
        for inner in value:
            yield from plain_paths(inner, (*path, "[]"))
    elif isinstance(value, str):
        yield value, path
    elif (
        isinstance(value, (int, float)) and not isinstance(value, bool) and "e" not in json.dumps(value)
    ):  # each library writes those its own way
        yield json.dumps(value), path


@few(3)
@given(logs(20), st.integers(0, 2**32))
def test_values_of_made_logs_are_found_where_a_plain_walk_finds_them(tmp_path_factory, log, seed):
    lab = captured(tmp_path_factory.mktemp("lab") / "lab", log)
    wanted = defaultdict(lambda: defaultdict(set))
    for row in lab.sql("select data, metadata, topic, partition_id, record_offset from events").to_arrow_table().to_pylist():
        for name in ("data", "metadata"):
            for text, path in plain_paths(json.loads(row[name]), (name,)) if row[name] else ():
                wanted[text][path].add((row["topic"], row["partition_id"], row["record_offset"]))
    assert len(Oracle(lab.path).log) >= 2
    for text in random.Random(seed).sample(sorted(wanted), min(5, len(wanted))):
        search = find_values(lab._now(), text, whole=True)
        assert sorted(place.count for place in search.places) == sorted(len(at) for at in wanted[text].values()), text
        assert (search.searched, search.more, search.unread) == (search.total, 0, 0)
