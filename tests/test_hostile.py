"""Hostile payloads through a real Kafka: kept verbatim, shown as undecodable with the reason where they cannot be read, and counted."""

from __future__ import annotations

import json

from kafka_cluster import KafkaCluster
from logs import new_lab

from eslab.model import loads

RULES = 'format_version = 1\n\n[topics.hostile]\nenvelope = "default"\naggregates = [{ name = "order", id = "data.orderId" }]\n'
DEEP = 10_000
BIG = 20 << 20


def event(data: str) -> bytes:
    return f'{{"eventType": "Changed", "data": {{"orderId": "o1", {data}}}}}'.encode()


READABLE = {
    "20 MB": event(f'"text": "{"x" * BIG}"'),
    "30 digits": event('"n": 123456789012345678901234567890'),
    "-0 and exponents": event('"n": -0.0, "m": 1e-7'),
    "a control character, escaped": event('"text": "\\u001b[31m\\u0000"'),
    "an empty key in data": event('"": 1'),
}
UNREADABLE = {
    "invalid UTF-8": (b'{"eventType": "Changed", "data": {"orderId": "\xff\xfe"}}', "not UTF-8"),
    "10,000 deep": (event('"deep": ' + "[" * DEEP + "]" * DEEP), "nested too deeply"),
    "NaN": (event('"n": NaN'), "invalid"),
    "infinity": (event('"n": -Infinity'), "invalid"),
    "a lone surrogate": (event('"text": "\\ud800"'), ""),
    "empty": (b"", "empty value"),
    "no JSON": (b"\x00\x01\x02 text", ""),
    "cut short": (event('"n": 1')[:-3], ""),
    "two documents": (event('"n": 1') * 2, ""),
    "a number": (b"7", "no eventType or type"),
    "no type": (b"{}", "no eventType or type"),
}
MANY_HEADERS = 10_000


def test_every_hostile_payload_is_kept_verbatim_and_told_apart(kafka: KafkaCluster, tmp_path):
    topic = kafka.create_topic("hostile", max_message_bytes=BIG + (1 << 20))
    values = [*READABLE.values(), *(value for value, _ in UNREADABLE.values()), event('"headers": "many"'), None]
    headers = [(f"h{number}", b"\xff" if number % 2 else None) for number in range(MANY_HEADERS)]
    kafka.produce(
        topic,
        [{"key": b"o1", "value": value, **({"headers": headers} if value and b"many" in value else {})} for value in values],
        message_max_bytes=BIG + (1 << 20),
    )
    lab = new_lab(tmp_path / "lab", RULES)

    made = lab.snapshot(kafka.url, topic, progress=False)

    rows = lab.sql("select value, headers from records order by record_offset").fetchall()
    assert [value for value, _ in rows] == values
    kept = [(head["key"].decode(), head["value"]) for head in rows[len(values) - 2][1]]
    assert kept == headers
    problems = dict(lab.sql("select record_offset, problem from problems").fetchall())
    first = len(READABLE)
    assert sorted(problems) == list(range(first, first + len(UNREADABLE)))
    for (name, (_, why)), told in zip(UNREADABLE.items(), (problems[at] for at in sorted(problems)), strict=True):
        assert told, name
        assert why.lower() in told.lower(), name
    assert made.counts["undecodable"] == len(UNREADABLE)
    assert f"{len(UNREADABLE)} undecodable" in repr(made)
    data = [loads(text) for (text,) in lab.sql("select data from events order by record_offset").fetchall()]
    assert data[1]["n"] == 123456789012345678901234567890
    assert len(data[0]["text"]) == BIG
    assert [json.loads(value)["data"] for value in (*READABLE.values(), values[-2])] == data
    history = lab.history("order", "o1")
    assert len(history) == len(values), "an undecodable record stands in the history of its key"
    assert [step.version for step in history if "undecodable" in step.marks] == list(range(first + 1, first + 1 + len(UNREADABLE)))
