import pytest

from eslab.errors import ConfigError
from eslab.mapping import Distrust, infer, read_mapping, write_distrust, write_topic
from eslab.model import dumps, parse_path


def event(**data):
    return dumps({"eventType": "T", "data": data})


def test_the_field_that_equals_the_key_is_the_id(tmp_path):
    told, remarks, said = infer("orders", [(b"o%d" % n, event(customerId="c", orderId=f"o{n}")) for n in range(9)])
    assert told.aggregates == (("order", ("data", "orderId")),)
    assert not remarks
    assert "inferred" in said
    assert "data.orderId" in said


def test_without_a_clear_winner_the_candidates_are_written_as_comments(tmp_path):
    told, remarks, said = infer("orders", [(b"k", event(customerId="c", orderId="o"))] * 3)
    write_topic(tmp_path, "orders", told, remarks)
    assert told.aggregates == ()
    assert "2 candidates" in said
    text = (tmp_path / "lab.toml").read_text()
    assert '# { name = "order", id = "data.orderId" }' in text
    assert read_mapping(tmp_path).topics["orders"].aggregates == ()


def test_a_flat_payload_and_the_known_envelopes_are_recognised():
    flat, *_ = infer("users", [(b"7", dumps({"type": "T", "user_id": 7}))])
    cloud, *_ = infer("x", [(b"7", dumps({"specversion": "1.0", "type": "T", "id": "1", "data": {"userId": "7"}}))])
    bridge, *_ = infer("x", [(b"7", dumps({"detail-type": "T", "id": "1", "detail": {"userId": "7"}}))])
    assert flat.aggregates == (("user", ("user_id",)),)
    assert (cloud.envelope.name, cloud.aggregates) == ("cloudevents", (("user", ("data", "userId")),))
    assert (bridge.envelope.name, bridge.aggregates) == ("eventbridge", (("user", ("detail", "userId")),))


def test_inference_survives_anything_in_a_topic():
    hostile = [(None, None), (b"\xff", b"\xff"), (b"k", b"[]"), (b"k", b'{"data":{"aId":{}, "\\nId": "k"}}'), (b"", b"")]
    _, remarks, said = infer("t", hostile)
    assert "\n" not in said
    assert not any("\n" in remark for remark in remarks)


def test_what_stands_in_lab_toml_is_kept_when_more_is_written(tmp_path):
    (tmp_path / "lab.toml").write_text('format_version = 1 # mine\n\n[topics.a]\naggregates = [{ name = "x", id = "data.xId" }] # why\n')
    write_distrust(tmp_path, Distrust(source='it\'s "odd"'))
    write_distrust(tmp_path, Distrust(topic="a", partition=1, offsets=(3, 9)))
    text = (tmp_path / "lab.toml").read_text()
    assert "# mine" in text
    assert "# why" in text
    assert read_mapping(tmp_path).distrust == (Distrust(source='it\'s "odd"'), Distrust(topic="a", partition=1, offsets=(3, 9)))
    assert read_mapping(tmp_path).topics["a"].aggregates == (("x", parse_path("data.xId")),)


@pytest.mark.parametrize(
    "text",
    [
        "nonsense",
        "format_version = 2",
        "format_version = 1\n[topics.a]\nenvelope = 'nope'",
        "format_version = 1\n[topics.a]\nenvelope = { data = 'x' }",
        "format_version = 1\n[topics.a]\naggregates = [{ name = 'x' }]",
        "format_version = 1\n[topics.a]\naggregates = [{ name = 'x', id = 'a..b' }]",
        "format_version = 1\n[topics.a]\ntypo = 1",
        "format_version = 1\n[[distrust]]\nwho = 'x'",
        "format_version = 1\n[[distrust]]\n",
        "format_version = 1\n[[distrust]]\noffsets = [1, 2]",
        "format_version = 1\ntopics = 3",
        "format_version = 1\ndistrust = 3",
        "format_version = 1\ndistrust = ['x']",
        "format_version = 1\n[[distrust]]\nsource = 5",
        "format_version = 1\n[[distrust]]\nproducer_id = 'x'",
        "format_version = 1\n[[distrust]]\ntopic = 'a'\npartition = 0\noffsets = [1, 2, 3]",
        "format_version = 1\n[topics.a]\nenvelope = { event_type = 'types[]' }",
        "format_version = 1\n[topics.a]\nenvelope = { event_type = 'type', data = 'bodies[].x' }",
        "format_version = 1\n[topics.a]\naggregates = [{ name = 'x', id = 'a[99999999999]' }]",
        "format_version = 1\n[topics.a]\naggregates = [{ name = 'x', id = 'a[].\"\"' }]",
    ],
)
def test_a_wrong_lab_toml_gets_one_sentence(tmp_path, text):
    (tmp_path / "lab.toml").write_text(text)
    with pytest.raises(ConfigError) as caught:
        read_mapping(tmp_path)
    assert "\n" not in str(caught.value)


def test_only_rules_that_touch_a_topic_change_its_fingerprint(tmp_path):
    (tmp_path / "lab.toml").write_text("format_version = 1\n[topics.a]\n[topics.b]\n")
    before = read_mapping(tmp_path)
    write_distrust(tmp_path, Distrust(topic="a", partition=0, offsets=(0, 1)))
    after = read_mapping(tmp_path)
    assert before.fingerprint("a") != after.fingerprint("a")
    assert before.fingerprint("b") == after.fingerprint("b")


def test_a_rule_that_could_not_be_read_back_is_not_written(tmp_path):
    with pytest.raises(ConfigError, match="source"):
        write_distrust(tmp_path, Distrust(source=5))
    assert not (tmp_path / "lab.toml").exists()
