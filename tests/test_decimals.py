"""Numbers that no float holds, where lab.toml declares them: exact in states, in worlds and in SQL."""

from decimal import Decimal

import duckdb
import pytest

from eslab import Lab, Projection
from eslab.errors import ConfigError
from eslab.mapping import read_mapping
from eslab.model import Record
from eslab.sources.memory import MemorySource

RULES = """format_version = 1
[topics.orders]
envelope = "default"
aggregates = [{ name = "order", id = "data.orderId" }, { name = "item", id = "data.items[].id" }]
decimals = ["data.amount", "data.items[].price"]
"""


def made(folder, *amounts, rules=RULES):
    folder.mkdir()
    (folder / "lab.toml").write_text(rules)
    lab = Lab(folder, tz="UTC", say=lambda notice: None)
    source = MemorySource()
    for amount in amounts:
        text = '{"eventType": "Paid", "data": {"orderId": "o", "amount": %s, "rate": 1.10, "items": [{"id": "i", "price": %s}]}}'
        source.append(Record(topic="orders", key=b"o", value=(text % (amount, amount)).encode()))
        lab.snapshot(source, progress=False)
    return lab


EXACT = {
    "1.10": "1.10",
    "-0.00": "-0.00",
    "12": "12",
    '"2.50"': "2.50",
    "12345678901234567890.1234567890123456789": "12345678901234567890.1234567890123456789",
    "1e2": "1E+2",
}


@pytest.mark.parametrize("literal", EXACT)
def test_a_declared_number_is_a_decimal_with_every_digit_in_states_and_worlds(tmp_path, literal):
    lab = made(tmp_path / "lab", literal)
    wanted = Decimal(EXACT[literal])
    state, item = lab.history("order", "o").at().value, lab.history("item", "i").at().value
    for found in (state["amount"], state["items"][0]["price"], item["price"], lab.replay("order", progress=False)["o"]["amount"]):
        assert isinstance(found, Decimal)
        assert (found, f"{found:f}") == (wanted, f"{wanted:f}")
    assert isinstance(state["rate"], float), "nothing else becomes one"


@pytest.mark.parametrize("literal", ["true", "null", '"n/a"', '"1.2.3"', "[1.5]", '{"a": 1.5}', '"\u0661"'])
def test_what_is_no_number_stays_what_it_is(tmp_path, literal):
    declared = made(tmp_path / "declared", literal)
    plain = made(tmp_path / "plain", literal, rules=RULES.replace("decimals", "# decimals"))
    assert declared.history("order", "o").at().value == plain.history("order", "o").at().value


def test_a_handler_sees_decimals_and_sums_them_exactly(tmp_path):
    sums = Projection("sums", aggregate="order", initial={"sum": Decimal(0)})

    @sums.on("Paid")
    def paid(state, event):
        return {"sum": state["sum"] + event.data["amount"]}

    lab = made(tmp_path / "lab", *["0.1"] * 10)
    assert lab.history("order", "o", projection=sums).at().value == {"sum": Decimal("1.0")}
    assert lab.replay(sums, progress=False)["o"] == {"sum": Decimal("1.0")}
    assert lab.history("order", "o")[3].event.data["amount"] == Decimal("0.1")


def test_sql_sums_declared_numbers_exactly_in_a_column_that_holds_every_digit(tmp_path):
    lab = made(tmp_path / "lab", "0.10", "123456789.5", "-0.0001", "7", "null", '"n/a"')
    relation = lab.sql('select amount from types."Paid" where amount is not null order by record_offset')
    assert [str(kind) for kind in relation.types] == ["DECIMAL(13,4)"]
    assert [str(amount) for (amount,) in relation.fetchall()] == ["0.1000", "123456789.5000", "-0.0001", "7.0000"]
    assert lab.sql('select sum(amount) from types."Paid"').fetchall() == [(Decimal("123456796.5999"),)]
    assert lab.sql("select data ->> 'amount' from events order by record_offset limit 1").fetchall() == [("0.10",)]
    with duckdb.connect(str(lab.export(tmp_path / "out.duckdb"))) as con:
        assert con.sql('select sum(amount) from types."Paid"').fetchall() == [(Decimal("123456796.5999"),)]


def test_more_digits_than_a_decimal_column_holds_are_text(tmp_path):
    lab = made(tmp_path / "lab", "1." + "0" * 30 + "1", "12345678901234567890")
    assert lab.sql('select amount from types."Paid" order by record_offset').fetchall() == [
        ("1." + "0" * 30 + "1",),
        ("12345678901234567890",),
    ]


def test_an_exponent_that_no_decimal_holds_stops_no_snapshot(tmp_path):
    lab = made(tmp_path / "lab", "1.5", "1e99999999999999999999")
    assert [step.marks for step in lab.history("order", "o")] == [(), ("undecodable",)]


def test_a_declaration_made_later_reads_the_log_again(tmp_path):
    lab = made(tmp_path / "lab", "1.10", rules=RULES.replace("decimals", "# decimals"))
    assert lab.history("order", "o").at()["amount"] == 1.1
    (lab.path / "lab.toml").write_text(RULES)
    assert str(lab.history("order", "o").at()["amount"]) == "1.10"


@pytest.mark.parametrize("told", ['"data.amount"', '["amount"]', '["data"]', "[5]", '["data..x"]', '["metadata.x"]'])
def test_a_declaration_that_cannot_be_meant_is_one_sentence(tmp_path, told):
    (tmp_path / "lab.toml").write_text(f"format_version = 1\n[topics.orders]\ndecimals = {told}\n")
    with pytest.raises(ConfigError) as caught:
        read_mapping(tmp_path)
    assert "\n" not in str(caught.value)
