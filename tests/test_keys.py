"""Projections by other keys than the aggregate: a path, a function, everything in one state; held against a plain loop over the log."""

import random
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from logs import captured, few, logs, made, state_of
from oracle import EACH, Oracle, _text, _walk, canonical

import eslab
from eslab import Coordinates, Projection, keying, runs
from eslab.errors import ConfigError, ProjectionError, UnknownId


def sold(number, order, customer, *skus, topic="orders", **more):
    items = [{"sku": sku, "n": 1} for sku in skus]
    value = eslab.model.dumps(
        {"eventId": f"e{number}", "eventType": "Sold", "data": {"orderId": order, "customerId": customer, "items": items, **more}}
    )
    return eslab.Record(topic=topic, key=order.encode(), timestamp_ms=1_767_258_000_000 + number * 1000, value=value)


@pytest.fixture
def lab():
    return eslab.play(
        [
            sold(1, "o1", "c1", "a", "b"),
            sold(2, "o2", "c2", "b", "b"),
            sold(3, "o3", "c1", "c"),
            sold(4, "o4", None, topic="returns"),
            sold(5, "o5", "c1", "a", topic="returns", tenant=7),
            eslab.Record(topic="orders", key=b"o1", value=None, timestamp_ms=1_767_258_010_000),
            eslab.Record(topic="orders", key=b"o1", value=b"{", timestamp_ms=1_767_258_011_000),
        ]
    )


def ids(state, event):
    return {"ids": [*state.get("ids", []), event.id]}


def by(key, **options):
    return Projection("by", key=key, evolve=ids, **options)


def world(lab, projection, **options):
    return {key: state["ids"] for key, state in lab.replay(projection, progress=False, **options).items()}


def test_a_path_an_event_of_several_keys_a_function_and_nothing_are_keys(lab):
    assert world(lab, by("data.customerId")) == {"c1": ["e1", "e3", "e5"], "c2": ["e2"]}
    assert world(lab, by("data.items[].sku")) == {"a": ["e1", "e5"], "b": ["e1", "e2"], "c": ["e3"]}
    assert world(lab, by("topic")) == {"orders": ["e1", "e2", "e3"], "returns": ["e4", "e5"]}
    assert world(lab, by("data.tenant")) == {"7": ["e5"]}
    assert world(lab, by(lambda event: event.data["customerId"])) == {"c1": ["e1", "e3", "e5"], "c2": ["e2"]}
    assert world(lab, by(lambda event: [one["sku"] for one in event.data["items"]])) == world(lab, by("data.items[].sku"))
    assert world(lab, by(lambda event: event.partition)) == {"0": ["e1", "e2", "e3", "e4", "e5"]}
    assert world(lab, by(None)) == {"all": ["e1", "e2", "e3", "e4", "e5"]}
    assert world(lab, by("data.nothing")) == {}


def test_several_topics_are_one_projection_and_it_can_be_kept_to_some(lab):
    assert world(lab, by(None, topics="returns")) == {"all": ["e4", "e5"]}
    assert world(lab, by(None, topics=["orders", "returns"])) == world(lab, by(None))
    orders = Projection("orders", aggregate="order", topics="returns", evolve=ids)
    assert world(lab, orders) == {"o4": ["e4"], "o5": ["e5"]}
    assert "<Projection orders v1 of order in returns: " in repr(orders)
    found = lab.replay(orders, progress=False)
    assert found.selection.cut.offsets == {("returns", 0, 0): 2}
    assert found.selection.cut.excluded == (("orders", 0, 0),)
    with pytest.raises(ProjectionError, match="folds the topic 'baskets', which is not captured here; this lab has orders, returns"):
        lab.replay(by(None, topics="baskets"))


def test_tombstones_have_no_key_but_where_they_are_handled(lab):
    handled = by("key")
    assert world(lab, handled)["o1"] == ["e1"]
    handled.on(eslab.TOMBSTONE)(lambda state, event: {"ids": [*state["ids"], "gone"]})
    assert world(lab, handled)["o1"] == ["e1", "gone"]
    everything = by(None)
    everything.on(eslab.TOMBSTONE)(lambda state, event: {"ids": [*state["ids"], event.key]})
    assert world(lab, everything)["all"][-1] == "o1"
    assert lab.replay(by(None), progress=False).undecodable == 1


def test_a_key_has_a_history_moments_and_a_comparison(lab):
    customers = by("data.customerId", aggregate="customer")
    history = lab.history("customer", "c1", projection=customers)
    assert [step.event.id for step in history] == ["e1", "e3", "e5"]
    assert history.at(event_id="e3").value == {"ids": ["e1", "e3"]}
    assert world(lab, customers, at=lab.cut(event_id="e3")) == {"c1": ["e1", "e3"], "c2": ["e2"]}
    assert world(lab, customers, keys="c2") == {"c2": ["e2"]}
    assert world(lab, customers, keys=["c9"]) == {}
    assert repr(customers) == "<Projection by v1 of customer by data.customerId: every type by evolve>"
    assert "2 customer states" in repr(lab.replay(customers, progress=False))
    shorter = customers.copy()
    shorter.on("Sold")(lambda state, event: ids(state, event) if event.id != "e3" else state)
    compared = lab.compare(customers, shorter, progress=False)
    assert (compared.different, compared["c1"].divergence.event_id) == (("c1",), "e3")
    assert compared["c1"].histories[1].at().value == {"ids": ["e1", "e5"]}
    with pytest.raises(ProjectionError, match="keyed differently"):
        lab.compare(customers, by("data.orderId", aggregate="customer"), progress=False)
    with pytest.raises(UnknownId, match="no captured event belongs to customer 'c9'"):
        lab.history("customer", "c9", projection=customers)
    with pytest.raises(UnknownId, match="folds 'customer', not 'order'"):
        lab.history("order", "o1", projection=customers)


def test_a_handler_that_fails_fails_its_key_and_so_does_what_is_no_state(lab):
    picky = Projection("picky", key="data.customerId", evolve=lambda state, event: {"n": 1 // (event.id != "e3")})
    found = lab.replay(picky, progress=False)
    assert [(one.key, one.event_id) for one in found.failed] == [("c1", "e3")]
    assert found["c2"] == {"n": 1}
    odd = Projection("odd", key="data.customerId", evolve=lambda state, event: {"n": {1}} if event.id == "e2" else {})
    assert [(one.key, one.event_id) for one in lab.replay(odd, progress=False).failed] == [("c2", "e2")]


def test_a_function_of_keys_that_fails_ends_the_replay_in_one_sentence_and_leaves_nothing(lab, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    for function, said in [
        (lambda event: event.data["tenant"], r"no key for event e1 \(orders/0/0\): KeyError: 'tenant'"),
        (lambda event: 1.5, "TypeError"),
        (lambda event: [True], "True is no key"),
    ]:
        with pytest.raises(ProjectionError, match=said) as raised:
            lab.replay(by(function), progress=False)
        assert "returns a text or a whole number, several of them, or None" in str(raised.value)
    assert list(tmp_path.iterdir()) == []


def test_an_executor_is_refused_and_a_plan_tells_no_time(lab):
    with (
        ThreadPoolExecutor(1) as executor,
        pytest.raises(ProjectionError, match=r"keyed by data\.customerId: its events are sorted and folded here"),
    ):
        lab.replay(by("data.customerId"), executor=executor, progress=False)
    assert "by over every key of data.customerId: 5 rows" in repr(lab.plan(by("data.customerId")))


def test_handlers_see_the_key_and_every_part_of_the_event(lab):
    seen = Projection("seen", key="data.customerId", aggregate="customer")
    seen.on("Sold")(
        lambda state, event: {"key": event.aggregate_id, "of": event.aggregate, "at": str(event.coordinates), "record": event.key}
    )
    assert lab.replay(seen, progress=False)["c2"] == {"key": "c2", "of": "customer", "at": "orders/0/1", "record": "o2"}


@pytest.mark.parametrize("key", ["nothing", "data[", 7, "topic.x", "kind", "type.a"])
def test_a_key_that_is_none_is_refused_when_it_is_told(key):
    with pytest.raises((ProjectionError, ConfigError)):
        Projection("x", key=key)
    with pytest.raises(ProjectionError, match=r'give the aggregate it folds, such as aggregate="order", or key='):
        Projection("x")


def test_a_path_leads_into_what_upcasters_make(lab):
    def moved(data):
        return {**data, "customer": {"id": data["customerId"]}}

    assert world(lab, by("data.customer.id")) == {}
    lab.upcaster("Sold", from_version=None, to_version="2")(moved)
    assert world(lab, by("data.customer.id")) == {"c1": ["e1", "e3", "e5"], "c2": ["e2"]}
    assert world(lab, by(lambda event: event.data["customer"]["id"], topics="orders")) == {"c1": ["e1", "e3"], "c2": ["e2"]}


def test_what_is_sorted_past_one_piece_goes_to_a_temporary_folder_that_goes_with_it(lab, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(keying, "PIECE_BYTES", 50_000)
    monkeypatch.setattr(keying, "BATCH_BYTES", 10_000)
    spilled = []
    intact = runs.read_merged
    monkeypatch.setattr(
        runs, "read_merged", lambda *of, **more: spilled.append(len(list(tmp_path.glob("eslab-*/*.arrow")))) or intact(*of, **more)
    )
    big = eslab.play([sold(at, f"o{at}", f"c{at % 3}", "a", "b", "a", pad="x" * 100) for at in range(1_000)])
    assert {key: len(found) for key, found in world(big, by("data.items[].sku")).items()} == {"a": 1000, "b": 1000}
    assert world(big, by("data.customerId"))["c2"] == [f"e{at}" for at in range(2, 1_000, 3)]
    assert max(spilled) > 3
    assert list(tmp_path.iterdir()) == [big.path]


# --- held against a plain loop ----------------------------------------------------------------------

TRAIL = lambda state, event: {"trail": [*state.get("trail", []), [event.id, event.type, event.data]]}  # noqa: E731
KEYS = {
    "data.parcelId": lambda event: _walk(event.data, ("parcelId",)),
    "data.items[].id": lambda event: _walk(event.data, ("items", EACH, "id")),
    "data.boxes[].lines[].item.id": lambda event: _walk(event.data, ("boxes", EACH, "lines", EACH, "item", "id")),
    "correlation_id": lambda event: [event.parts["correlation_id"]],
    "topic": lambda event: [event.life[0]],
}


def key_differences(lab, oracle, chance):
    path = chance.choice([*KEYS, None])
    one = chance.choice(oracle.log)
    cut, held = lab.cut(event_id=Coordinates(*one.life, one.offset)), oracle.until_event(one)
    happened = chance.random() < 0.3
    chosen = [event for event in oracle.log if event.kind == "event" and held(event) and (not happened or event.happened <= one.happened)]
    asked = {"at": one.happened, "clock": "happened", "cut": cut} if happened else {"at": cut}
    wanted = {}
    for event in chosen:
        for key in dict.fromkeys(["all"] if path is None else map(_text, KEYS[path](event))):
            if key:
                wanted.setdefault(key, []).append([event.name, event.parts["event_type"], event.data])
    function = (
        None
        if path is None
        else lambda event: (
            keying.KeyPath(path.split(".")[0], keying_path(path)).of(event.data) if path.startswith("data") else getattr(event, path)
        )
    )
    for key in (path, function):
        found = lab.replay(Projection("trail", key=key, evolve=TRAIL), progress=False, **asked)
        told = {row["aggregate_id"]: (row["version"], canonical(state_of(row["state"])["trail"])) for row in found.arrow().to_pylist()}
        if told != {key: (len(trail), canonical(trail)) for key, trail in wanted.items()} or list(found) != sorted(wanted):
            yield f"by {path} ({key}), {asked}: {told} is not {wanted}"


def keying_path(path):
    return eslab.model.parse_path(path)[1:]


@few(6)
@given(logs(), st.integers(0, 2**32))
def test_the_world_by_any_key_is_that_of_a_loop_over_the_log(log, seed):
    with tempfile.TemporaryDirectory() as folder:
        lab = captured(Path(folder) / "lab", log)
        assert list(key_differences(lab, Oracle(lab.path), random.Random(seed))) == []


def in_small_pieces(monkeypatch):
    monkeypatch.setattr(keying, "PIECE_BYTES", 1)
    monkeypatch.setattr(keying, "_at_once", lambda events: 7)


def forget_the_time(monkeypatch):
    monkeypatch.setattr(runs, "KEY", ("aggregate", "aggregate_id", "topic", "partition_id", "incarnation", "record_offset", "order_at"))


def forget_all_but_lists(monkeypatch):
    monkeypatch.setattr(keying, "_texts", lambda told: [str(one) for one in told if one] if isinstance(told, list) else [])


def forget_that_keys_come_twice(monkeypatch):
    intact = keying._found
    monkeypatch.setattr(keying, "_found", lambda told: intact(told).replace("list_distinct", ""))


def lose_the_last_piece(monkeypatch):
    intact = keying._pieces
    monkeypatch.setattr(keying, "_pieces", lambda tables: iter(list(intact(tables))[:-1]))


def test_sorted_in_pieces_it_is_the_same(tmp_path, monkeypatch):
    in_small_pieces(monkeypatch)
    lab = captured(tmp_path / "lab", made(80, seed=9))
    assert [found for seed in range(6) for found in key_differences(lab, Oracle(lab.path), random.Random(seed))] == []


@pytest.mark.parametrize("bug", [forget_the_time, forget_all_but_lists, forget_that_keys_come_twice, lose_the_last_piece])
def test_the_comparison_finds_a_planted_bug(tmp_path, monkeypatch, bug):
    lab = captured(tmp_path / "lab", made(80, seed=9))
    in_small_pieces(monkeypatch)
    bug(monkeypatch)
    oracle = Oracle(lab.path)
    assert next((found for seed in range(12) for found in key_differences(lab, oracle, random.Random(seed))), None)
