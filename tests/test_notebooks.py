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
pytestmark = pytest.mark.notebook

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
def test_a_notebook_has_one_verb_a_cell_and_no_helper_functions_and_never_reads_the_ground_truth(path):
    cells = [cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
    source = "\n".join(cells)
    assert "truth" not in source
    for cell in cells:
        calls = [node.func for node in ast.walk(ast.parse(cell)) if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)]
        assert sum(isinstance(call.value, ast.Name) and call.value.id == "lab" for call in calls) <= 1, cell
    functions = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.FunctionDef)]
    assert all(function.decorator_list for function in functions), "a function that is no handler of a projection: does eslab lack a verb?"


@pytest.fixture(scope="module")
def incident(shop: Path) -> list[Any]:
    return shown("01-incident.ipynb", shop)


def the(values: list[Any], name: str) -> list[Any]:
    """The shown values of this type."""
    return [value for value in values if type(value).__name__ == name]


def test_each_incident_is_found_in_at_most_five_cells():
    sections: list[list[str]] = []
    for cell in nbformat.read(ROOT / "notebooks" / "01-incident.ipynb", as_version=4).cells:
        if cell.cell_type == "markdown" and "\n## " in f"\n{cell.source}":
            sections.append([])
        elif cell.cell_type == "code" and sections:
            sections[-1].append(cell.source)
    assert [len(cells) for cells in sections] == [5, 5, 2, 4]


def test_the_double_charges_are_found_whom_they_hit_when_and_by_what(incident, shop):
    planted = truth(shop)["double_charged"]
    (check,) = the(incident, "Check")
    frame = check["charged once"].df()
    assert sorted(frame.index) == sorted(planted["ids"])
    assert set(frame["source"]) == {"payments@2.4.0"}
    assert frame["recorded_at"].between(pd.Timestamp(planted["from"]), pd.Timestamp(planted["to"])).all()
    assert check["charged once"].mended == 0
    assert list(check["charged once"].over_time()["violators"]) == list(range(1, planted["count"] + 1))


def test_the_first_wrong_event_and_its_cause_are_the_ones_that_the_prose_names(incident, shop):
    prose = "".join(cell.source for cell in nbformat.read(ROOT / "notebooks" / "01-incident.ipynb", as_version=4).cells)
    (check,) = the(incident, "Check")
    first = check["charged once"][0]
    assert first.key == truth(shop)["double_charged"]["ids"][0]
    (stepper,) = the(incident, "Stepper")
    assert (stepper.state.event.id, stepper.position) == (first.event_id, first.version)
    trail = the(incident, "Trace")[0].df().set_index("event_id")
    cause = trail.loc[first.event_id, "causation_id"]
    assert (trail.loc[cause, "event_type"], trail.loc[cause, "source"]) == ("PaymentRequested", "payments@2.3.1")
    assert list(trail.index[trail["causation_id"] == cause]) == ["evt-4709-45", first.event_id]
    assert cause in prose


def test_the_page_that_stood_still_is_found_and_the_orders_it_showed_wrong(incident, shop):
    planted = truth(shop)["stalled"]
    (stalls,) = the(incident, "Stalls")
    assert set(stalls.df()["topic"]) == {planted["topic"]}
    minute = pd.Timedelta(minutes=1)
    assert stalls.df()["since"].between(pd.Timestamp(planted["from"]), pd.Timestamp(planted["from"]) + minute).all()
    assert stalls.df()["moved"].between(pd.Timestamp(planted["to"]), pd.Timestamp(planted["to"]) + minute).all()
    (wrong,) = the(incident, "WorldChanges")
    told = eslab.Lab(shop, tz="Europe/Berlin").sql(
        """select distinct data ->> '$.orderId' from events
        where topic = 'orders' and recorded_at > $begin and recorded_at <= $at and (data ->> '$.orderId') is not null""",
        begin=pd.Timestamp(planted["from"]).to_pydatetime(),
        at=pd.Timestamp("2026-03-12T14:30:00+01:00").to_pydatetime(),
    )
    assert set(wrong) == {order for (order,) in told.fetchall()} != set()


def test_the_clock_that_ran_ahead_is_found_with_its_source_and_its_shadow(incident, shop):
    planted = truth(shop)["clock_ahead"]
    (info,) = the(incident, "Info")
    ((state, suspect),) = [(state, suspect) for state in info.manifest.lives for suspect in state.suspects]
    assert (state.topic, state.partition, suspect.source) == ("shipments", planted["partition"], planted["source"])
    assert suspect.start <= planted["offsets"][0]
    assert planted["offsets"][-1] < suspect.next
    pushed = table(incident, "pushed")
    assert (pushed["pushed"].tolist(), pushed["partition_id"].tolist()) == ([planted["shadowed"]], [planted["partition"]])


def test_the_stuck_orders_are_found_and_where_they_ended(incident, shop):
    planted = truth(shop)
    (sagas,) = the(incident, "Sagas")
    stuck = sorted(order.replace("ord-", "cor-") for order in planted["stuck"]["ids"])
    assert sorted(sagas.stuck.df().index) == stuck
    (halted,) = the(incident, "Series")
    assert halted.sum() == len(stuck) == 26  # as the prose has it
    assert len(sagas.compensated) == planted["compensated"]["count"]
    assert "1 open end" in repr(the(incident, "Trace")[1])
    (letters,) = the(incident, "DeadLetters")
    assert len(letters) == planted["dead_lettered"]["count"] + planted["malformed"]["count"]


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
