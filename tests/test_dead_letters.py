"""What a consumer gave up on, and what became of it."""

import datetime as dt
import json
import random
import tempfile
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from logs import BASE_MS, RULES, Log, captured, few, made
from oracle import Oracle

import eslab
from eslab import Coordinates, Record, cli
from eslab.demo import lab_toml
from eslab.demo.story import Story
from eslab.errors import ConfigError
from eslab.mapping import DEAD, read_mapping
from eslab.model import dumps
from eslab.sources.memory import MemorySource

NOON = 1_773_313_200_000  # 2026-03-12 12:00:00 in Berlin


def event(name, kind="Asked", cause=None, **data):
    return dumps({"eventId": name, "eventType": kind, "causationId": cause, "data": {"orderId": "o1", **data}})


def record(at, value, topic="orders", headers=()):
    return Record(topic=topic, key=b"o1", timestamp_ms=NOON + at * 1000, value=value, headers=tuple(headers))


def letter(at, value, offset, *more, topic="orders-dlq", original="orders", error="boom"):
    told = [("original.topic", original), ("original.partition", "0"), ("original.offset", str(offset)), ("error", error)]
    return record(at, value, topic, [(name, text.encode()) for name, text in told] + list(more))


def lab_of(folder, records):
    lab = eslab.Lab(folder / "lab", tz="Europe/Berlin", say=lambda text: None)
    lab.snapshot(MemorySource(records), progress=False)
    return lab


@pytest.fixture
def lab(tmp_path):
    broken = b"{broken"
    return lab_of(
        tmp_path,
        [
            *(record(0, event("a")), record(1, event("b")), record(2, event("c")), record(3, broken), record(4, event("d"))),
            record(5, event("d-failed", "Failed", "d")),
            letter(10, event("a"), 0, ("retry.attempt", b"3")),
            *(letter(11, event("b"), 1), letter(12, event("c"), 2, error="no"), letter(13, broken, 3), letter(14, event("d"), 4)),
            *(
                record(20, event("a")),
                record(30, event("b")),
                record(31, event("b-done", "Done", "b")),
                letter(40, event("x"), 99, original="gone"),
            ),
        ],
    )


def test_each_letter_has_its_original_its_reason_and_its_fate(lab):
    found = lab.dead_letters()
    assert [(one.event_id, str(one.original), one.captured, one.reason, one.retries, one.fate) for one in found] == [
        ("a", "orders/0/0", True, "boom", 3, "redelivered"),
        ("b", "orders/0/1", True, "boom", None, "handled"),
        ("c", "orders/0/2", True, "no", None, "lost"),
        (None, "orders/0/3", True, "boom", None, "lost"),
        ("d", "orders/0/4", True, "boom", None, "lost"),
        ("x", "gone/0/99", False, "boom", None, "lost"),
    ]
    assert found.counts == {"handled": 1, "redelivered": 1, "lost": 4}
    assert (found[1].fate_event_id, str(found[1].fate_at), found[1].fate_after) == ("b-done", "orders/0/8", dt.timedelta(seconds=20))
    assert (found[0].fate_event_id, found[0].fate_after) == ("a", dt.timedelta(seconds=10))
    assert repr(found) == "<DeadLetters: 6 dead letters in orders-dlq: 1 handled, 1 redelivered, 4 lost>"


def test_what_was_dead_lettered_again_is_handled_only_by_what_comes_after_the_last_letter(tmp_path):
    again = [
        *(record(0, event("a")), letter(1, event("a"), 0), record(2, event("a")), record(3, event("a-failed", "Failed", "a"))),
        letter(4, event("a"), 1),
    ]
    assert [one.fate for one in lab_of(tmp_path / "one", again).dead_letters()] == ["redelivered", "lost"]
    settled = [*again, record(5, event("a-done", "Done", "a"))]
    assert [one.fate_event_id for one in lab_of(tmp_path / "other", settled).dead_letters()] == ["a-done", "a-done"]


def test_they_are_a_table(lab):
    frame = lab.dead_letters().df()
    assert list(frame.columns) == [
        *("at", "recorded_at", "key", "event_id", "event_type", "original", "captured", "reason", "retries", "fate"),
        *("fate_event_id", "fate_at", "fate_after"),
    ]
    assert frame["fate_after"].dt.total_seconds().fillna(-1).tolist() == [10, 20, -1, -1, -1, -1]
    assert str(frame["recorded_at"].dt.tz) == "Europe/Berlin"
    assert lab.dead_letters().arrow()["fate"].to_pylist() == frame["fate"].tolist()
    assert "redelivered 10 s later (a)" in lab.dead_letters()._repr_html_()


def test_the_headers_of_kafka_connect_and_of_spring_are_understood(tmp_path):
    connect = {"topic": b"orders", "partition": b"0", "offset": b"0", "exception.message": b"boom"}
    spring = {"original-topic": b"orders", "original-partition": bytes(4), "original-offset": bytes(8), "exception-message": b"boom"}
    letters = [
        [(f"__connect.errors.{name}", value) for name, value in connect.items()],
        [(f"kafka_dlt-{name}", value) for name, value in spring.items()],
    ]
    lab = lab_of(tmp_path, [record(0, event("a")), *(record(1, event("a"), "orders-dlq", headers) for headers in letters)])
    assert [(str(one.original), one.reason, one.event_id, one.captured) for one in lab.dead_letters()] == [
        ("orders/0/0", "boom", "a", True)
    ] * 2


def test_headers_that_tell_no_place_are_no_error(tmp_path):
    bads = [None, b"", b"\xff", b"-1", b"9" * 30, "³".encode(), b"abc"]
    told = [
        [
            ("original.topic", b"orders"),
            ("original.partition", b"0"),
            *((name, bad) for name in ("original.offset", "retry.attempt", "error")),
        ]
        for bad in bads
    ]
    letters = [record(1, event("a"), "orders-dlq", headers) for headers in told]
    for one in lab_of(tmp_path, [record(0, event("a")), *letters]).dead_letters():
        assert (one.original, one.captured, one.retries, one.fate) == (None, False, None, "lost")


def test_of_a_header_that_is_repeated_the_last_counts(tmp_path):
    (one,) = lab_of(
        tmp_path, [record(0, event("a")), record(1, event("b")), letter(2, event("b"), 0, ("original.offset", b"1"))]
    ).dead_letters()
    assert str(one.original) == "orders/0/1"


def test_a_topic_whose_name_says_so_is_taken_for_one_aloud_and_written_down(tmp_path):
    said = []
    lab = eslab.Lab(tmp_path / "lab", tz="UTC", say=said.append)
    lab.snapshot(MemorySource([record(0, event("a")), letter(1, event("a"), 0, topic="orders.DLT")]), progress=False)
    assert read_mapping(lab.path).dead_letters == ["orders.DLT"]
    assert any("topic orders.DLT: by its name it holds dead letters" in one for one in said)
    assert len(lab.history("order", "o1")) == 1, "a copy is not folded again"
    assert lab.dead_letters().topics == ("orders.DLT",)


def test_such_names_are_told_from_others():
    said = [
        "dead-letters",
        "orders-dlq",
        "orders.DLT",
        "dlq.orders",
        "ordersDLQ",
        "shop_dead_letter_queue",
        "OrdersDeadLetters",
        "deadletterqueue",
    ]
    assert all(map(DEAD.search, said))
    assert not any(map(DEAD.search, ["orders", "deadlines", "walking-dead", "letters", "dltx", "adlq", "undead-lettering", "newsletters"]))


def test_a_lab_that_names_no_topic_says_what_to_write(tmp_path):
    rules = 'format_version = 1\n[topics.orders-dlq]\nenvelope = "default"\naggregates = [{ name = "order", id = "data.orderId" }]\n'
    (tmp_path / "lab").mkdir()
    (tmp_path / "lab" / "lab.toml").write_text(rules)
    lab = lab_of(tmp_path, [letter(1, event("a"), 0)])
    assert (len(lab.dead_letters()), len(lab.dead_letters().df())) == (0, 0)
    assert "write dead_letters = true under [topics.orders-dlq]" in repr(lab.dead_letters())
    assert "under [topics.<name>]" in repr(eslab.play([]).dead_letters())
    (tmp_path / "lab" / "lab.toml").write_text(f"{rules}dead_letters = true\n")
    assert len(lab.dead_letters()) == 1, "nothing is built anew for it"
    (tmp_path / "lab" / "lab.toml").write_text(f'{rules}dead_letters = "yes"\n')
    with pytest.raises(ConfigError, match="dead_letters is true or false, not 'yes'"):
        lab.dead_letters()


def test_the_shell_tells_the_same(lab, monkeypatch):
    monkeypatch.setenv("ESLAB_TZ", "Europe/Berlin")
    result = CliRunner().invoke(cli.main, ["dead-letters", str(lab.path), "--json"])
    assert result.exit_code == 0
    rows = json.loads(result.stdout)
    assert [(row["event_id"], row["original"], row["retries"], row["fate"], row["fate_after_s"]) for row in rows] == [
        (one.event_id, str(one.original), one.retries, one.fate, one.fate_after and one.fate_after.total_seconds())
        for one in lab.dead_letters()
    ]
    shown = CliRunner().invoke(cli.main, ["dead-letters", str(lab.path)]).stdout
    assert shown.startswith("DeadLetters: 6 dead letters in orders-dlq: 1 handled")
    assert shown.endswith(f"eslab dead-letters {lab.path} --tz Europe/Berlin\n")


def test_those_of_the_demo_and_its_duplicates_are_those_of_its_ground_truth(tmp_path):
    story = Story(events=300, seed=1)
    (tmp_path / "lab").mkdir()
    (tmp_path / "lab" / "lab.toml").write_text(lab_toml())
    lab = lab_of(tmp_path, list(story))
    truth = story.ground_truth()["phenomena"]
    found = lab.dead_letters()
    gave_up = [one for one in found if one.event_id]
    orders = {
        one.event_id: lab.sql("select data ->> 'orderId' from events where event_id = $id limit 1", id=one.event_id).fetchall()[0][0]
        for one in gave_up
    }
    assert sorted(orders.values()) == sorted(truth["dead_lettered"]["ids"])
    assert sorted(str(one.original) for one in found if not one.event_id) == sorted(truth["malformed"]["ids"])
    assert len(found) == truth["dead_lettered"]["count"] + truth["malformed"]["count"]
    assert all(one.captured and one.reason and one.fate == "lost" for one in found)
    assert {one.retries for one in gave_up} == {3}
    assert {one.reason for one in gave_up} == {"GatewayTimeout: gave up after 3 attempts"}
    again = lab.duplicates()
    assert sorted(again.ids) == sorted(truth["duplicates"]["ids"])
    assert len(again) == truth["duplicates"]["count"] > 0
    assert all(one.equal and one.seen == 2 for one in again)


@few(3)
@given(st.integers(0, 2**32))
def test_in_any_log_fates_are_those_of_a_plain_loop(seed):
    chance = random.Random(seed)
    log = [record for record in made(30, seed % 10_000).records if record.partition == 0]
    offsets = dict.fromkeys(("orders", "parcels", "audit"), 0)
    records = []
    for one in log:
        records.append(one)
        offsets[one.topic] += 1
        if chance.random() < 0.4:
            origin = chance.choice([record for record in records if record.topic != "dead"])
            told = [
                ("original.topic", origin.topic),
                ("original.partition", "0"),
                ("original.offset", str(chance.randrange(offsets[origin.topic] + 2))),
            ]
            stamp = BASE_MS + chance.randint(0, 5) * 60_000
            headers = tuple((name, text.encode()) for name, text in told)
            records.append(Record(topic="dead", timestamp_ms=stamp, key=origin.key, value=origin.value, headers=headers))
    rules = f'{RULES}\n[topics.dead]\nenvelope = "default"\naggregates = []\ndead_letters = true\n'
    with tempfile.TemporaryDirectory() as folder:
        lab = captured(Path(folder) / "lab", Log(records, rules))
        oracle = Oracle(lab.path)
        at = {(*one.life, one.offset): one for one in oracle.all}
        letters = [one for one in oracle.log if one.life[0] == "dead"]
        names = {}
        for one in letters:
            headers = {header["key"]: header["value"].decode() for header in one.record["headers"]}
            origin = at.get((headers[b"original.topic"], 0, 0, int(headers[b"original.offset"])))
            names[one.order] = (origin.name if origin else None) or one.name
        wanted = []
        for one in letters:
            name = names[one.order]
            last = max(order for order, told in names.items() if told == name)
            others = [other for other in oracle.log if other.kind == "event" and other.life[0] != "dead" and name is not None]
            handled = [other for other in others if other.parts["causation_id"] == name and other.order > last]
            again = [other for other in others if other.name == name and other.order > one.order]
            shown = (handled or again or [None])[0]
            fate = "handled" if handled else "redelivered" if again else "lost"
            wanted.append((Coordinates(*one.life, one.offset), name, fate, shown and Coordinates(*shown.life, shown.offset)))
        assert [(one.at, one.event_id, one.fate, one.fate_at) for one in lab.dead_letters()] == wanted
