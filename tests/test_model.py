import datetime as dt
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eslab.errors import ConfigError, MomentError, ProjectionError
from eslab.model import (
    EACH,
    MISSING,
    Change,
    Coordinates,
    Cut,
    dumps,
    format_path,
    loads,
    pack_state,
    parse_path,
    unpack_state,
)

names = st.text(min_size=1, max_size=8)
paths = st.lists(st.one_of(names, st.integers(0, 99), st.just(EACH)), min_size=1, max_size=5).map(tuple)
scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(alphabet=st.characters(exclude_categories=["Cs"])),
    st.decimals(allow_nan=False, allow_infinity=False),
    st.datetimes(timezones=st.just(dt.UTC)),
)
texts = st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=8)
states = st.recursive(
    scalars, lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(texts, inner, max_size=4)), max_leaves=12
)


@given(paths)
def test_a_path_reads_back_as_it_was_written(path):
    assert parse_path(format_path(path)) == path


@pytest.mark.parametrize("text", ["", ".", "a..b", ".a", "a.", "a b", "a[", "a]", '"x', 'ab"c"', "a[b]", "a.[0]"])
def test_a_path_that_cannot_be_read_says_where(text):
    with pytest.raises(ConfigError, match="path"):
        parse_path(text)


@given(states)
def test_a_state_comes_back_equal_with_its_decimals_and_times(state):
    back = unpack_state(pack_state(state))
    assert back == state
    assert str(type(back)) == str(type(state))


@pytest.mark.parametrize("state", [{"$decimal": "1.5"}, {"$time": "x"}, {"$$decimal": 1}, {"$": {"$decimal": "2"}}, {"a": {"$time": None}}])
def test_an_object_that_looks_like_a_tag_stays_what_it_is(state):
    assert unpack_state(pack_state(state)) == state


@pytest.mark.parametrize(
    "state", [{"a": float("nan")}, {"a": {1, 2}}, {1: 2}, {"a": object()}, {"a": [float("inf")]}, {"a": Decimal("NaN")}]
)
def test_what_a_state_may_not_hold_is_named(state):
    with pytest.raises(ProjectionError, match=r"state"):
        pack_state(state)


def test_integers_are_exact_at_any_size():
    number = 123456789012345678901234567890
    assert loads(dumps({"n": number})) == {"n": number}
    assert loads("[9007199254740993]") == [9007199254740993]


@pytest.mark.parametrize("text", ["NaN", '{"a":1,}', "", "[1]x", '"\ud800"', "[" * 100_000])
def test_what_is_no_json_raises_value_error(text):
    with pytest.raises(ValueError):
        loads(text.encode("utf-8", "surrogatepass"))


offsets = st.dictionaries(st.tuples(st.sampled_from("ab"), st.integers(0, 2), st.integers(0, 1)), st.integers(0, 9))


@given(offsets, offsets)
def test_a_cut_orders_joins_and_goes_to_json_and_back(left, right):
    a, b = Cut(left, label="a"), Cut(right)
    assert Cut.from_json(a.to_json()) == a
    assert Cut.from_json(a.to_json()).label == "a"
    assert a <= (a | b)
    assert b <= (a | b)
    assert (a & b) <= a
    assert (a & b) <= b
    assert (a < b) == (a <= b and not b <= a)
    assert hash(Cut(dict(reversed(left.items())))) == hash(a)


@given(offsets, st.integers(0, 10))
def test_a_cut_holds_what_lies_before_its_next_offsets(left, offset):
    for topic, partition, incarnation in [("a", 0, 0), ("b", 2, 1)]:
        held = Cut(left).holds(Coordinates(topic, partition, incarnation, offset))
        assert held == (offset < left.get((topic, partition, incarnation), 0))


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"offsets":[{"topic":1}]}', "\udcff"])
def test_what_is_no_cut_says_so(text):
    with pytest.raises(MomentError, match="no cut"):
        Cut.from_json(text.encode("utf-8", "surrogateescape"))


def test_a_change_reads_as_a_line():
    assert str(Change(("a", 0, "b c"), MISSING, None)) == 'a[0]."b c": — → null'
    assert not MISSING
