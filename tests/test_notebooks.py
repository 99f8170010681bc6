"""The notebooks find what was planted: what their cells show is held against the demo's ground truth, which they themselves never read."""

from __future__ import annotations

import ast
import json
from pathlib import Path
from typing import Any

import nbformat
import pandas as pd
import pytest

import eslab
from eslab.stalls import Stalls

ROOT = Path(__file__).resolve().parent.parent
LAB = '"../data/shop"'  # as every notebook names it


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("notebooks") / "shop"
    eslab.demo(folder, progress=False)
    return folder


def truth(shop: Path) -> dict[str, Any]:
    return json.loads((shop / "ground-truth.json").read_text())["phenomena"]


def shown(name: str, shop: Path) -> list[Any]:
    """What the last line of each code cell of a notebook evaluates to; None where it shows nothing."""
    names: dict[str, Any] = {}
    values = []
    for cell in nbformat.read(ROOT / "notebooks" / name, as_version=4).cells:
        if cell.cell_type != "code":
            continue
        tree = ast.parse(cell.source.replace(LAB, repr(str(shop))))
        last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
        exec(compile(tree, name, "exec"), names)
        values.append(None if last is None else eval(compile(ast.Expression(last.value), name, "eval"), names))
    return values


def table(values: list[Any], *columns: str) -> pd.DataFrame:
    """The one table among the shown values that has these columns."""
    (found,) = [value for value in values if isinstance(value, pd.DataFrame) and set(columns) <= set(value.columns)]
    return found


@pytest.mark.parametrize("path", sorted((ROOT / "notebooks").glob("*.ipynb")), ids=lambda path: path.stem)
def test_a_notebook_has_no_helper_functions_and_never_reads_the_ground_truth(path):
    source = "\n".join(cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code")
    assert "truth" not in source
    functions = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.FunctionDef)]
    assert all(function.decorator_list for function in functions), "a function that is no handler of a projection: does eslab lack a verb?"


def test_the_incident_is_found_whom_it_hit_when_and_by_what(shop):
    values = shown("01-incident.ipynb", shop)
    planted = truth(shop)["double_charged"]
    hit = table(values, "too much")
    assert sorted(hit["orderId"]) == sorted(planted["ids"])
    versions = table(values, "wrong").set_index("source")
    assert dict(versions["wrong"]) == {"payments@2.3.1": 0, "payments@2.4.0": planted["count"], "payments@2.4.1": 0}
    first, last = versions.loc["payments@2.4.0", ["first_wrong", "last_wrong"]]
    assert pd.Timestamp(planted["from"]) <= first <= last <= pd.Timestamp(planted["to"])
    assert pd.Timestamp(planted["from"]) <= versions.loc["payments@2.4.0", "from"]
    assert versions.loc["payments@2.4.0", "to"] <= pd.Timestamp(planted["to"]) <= versions.loc["payments@2.4.1", "from"]


def test_the_first_wrong_event_and_its_cause_are_the_ones_that_the_prose_names(shop):
    values = shown("01-incident.ipynb", shop)
    prose = "".join(cell.source for cell in nbformat.read(ROOT / "notebooks" / "01-incident.ipynb", as_version=4).cells)
    (first,) = table(values, "event_id", "orderId", "source", "order_at").to_dict("records")
    assert first["orderId"] == truth(shop)["double_charged"]["ids"][0]
    trail = table(values, "causation_id").set_index("event_id")
    cause = trail.loc[first["event_id"], "causation_id"]
    assert trail.loc[cause, "event_type"] == "PaymentRequested"
    assert list(trail.index[trail["causation_id"] == cause]) == ["evt-4709-45", first["event_id"]]
    assert cause in prose
    (stepper,) = [value for value in values if type(value).__name__ == "Stepper"]
    assert (stepper.state.event.id, stepper.position) == (first["event_id"], 4)


def test_the_money_to_give_back_is_what_was_charged_too_much(shop):
    values = shown("01-incident.ipynb", shop)
    owed = table(values, "refund").set_index("order_id")["refund"]
    assert dict(owed.round(2)) == dict(table(values, "too much").set_index("orderId")["too much"].round(2))


def test_the_new_projection_differs_by_the_second_version_of_an_event_and_by_its_redeliveries_alone(shop):
    values = shown("02-new-projection.ipynb", shop)
    planted = truth(shop)
    (parted,) = [value for value in values if isinstance(value, eslab.Comparison)]
    frame = parted.df()
    second = eslab.Lab(shop).sql("""select distinct "orderId" from types."OrderCreated" where event_version = '2.0'""").df()["orderId"]
    assert len(second) == planted["version_2"]["count"]
    assert set(frame.index[frame["paths"].map(lambda paths: "total" in paths)]) == set(second) - set(planted["erased"]["ids"])
    charged = frame[frame["paths"].map(lambda paths: "charged" in paths)]
    redelivered = {"ord-" + event.split("-")[1] for event in planted["duplicates"]["ids"] if event.endswith("-10")}
    assert set(charged.index) <= redelivered
    odd = frame[frame["paths"].map(lambda paths: list(paths) == ["charged"])]
    assert set(odd["event_id"]) <= set(planted["duplicates"]["ids"])
    assert table(values, "parted", "aggregate_id")["aggregate_id"][0] == odd.index[0] == "ord-4375"
    assert table(values, "created").to_dict("list") == {"created": [2], "orders": [len(odd)]}
    assert values[-1] == 0


def test_the_stall_is_found_since_when_how_long_and_how_far(shop):
    values = shown("03-lag.ipynb", shop)
    planted = truth(shop)["stalled"]
    of_read_model, of_billing = [value for value in values if isinstance(value, Stalls)]
    assert (len(of_read_model.df()), len(of_billing.df())) == (4, 0)  # one for each partition
    stalls = of_read_model.df()
    assert set(stalls["topic"]) == {planted["topic"]}
    sample = pd.Timedelta(minutes=1)  # positions are known once a minute; it stands still from the first order after it stopped
    begin, end = pd.Timestamp(planted["from"]), pd.Timestamp(planted["to"])
    assert stalls["since"].between(begin, begin + sample).all()
    assert stalls["moved"].between(end, end + sample).all()
    assert stalls["peak_at"].between(end - sample, end + sample).all()
    wrong = values[-3]
    assert wrong.sum() == len(wrong_orders(shop))


def wrong_orders(shop: Path) -> set[str]:
    """Orders that a record of their topic told of, before 14:30 and after the group had stopped: those whose state the page had wrong or lacked."""
    planted = truth(shop)["stalled"]
    rows = eslab.Lab(shop, tz="Europe/Berlin").sql(
        """select distinct data ->> '$.orderId' from events
        where topic = 'orders' and recorded_at > $begin and recorded_at <= $at and (data ->> '$.status') is not null""",
        begin=pd.Timestamp(planted["from"]).to_pydatetime(),
        at=pd.Timestamp("2026-03-12T14:30:00+01:00").to_pydatetime(),
    )
    return {order for (order,) in rows.fetchall()}
