import datetime as dt
import json
import random
import re

import altair as alt
import pandas as pd
import pyarrow as pa
import pytest
import vl_convert
from hypothesis import given
from hypothesis import strategies as st
from lags import BASE, at, lab_of, record, sample
from logs import few

import eslab
from eslab.buckets import thin
from eslab.views.offline import MIME, VERSION, bundle, offline

POINTS = 2_000


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    return eslab.demo(tmp_path_factory.mktemp("demo") / "shop", events=2_000, progress=False)


@pytest.fixture(scope="module")
def charts(shop):
    return {"lag": shop.lag("read-model").chart(), "throughput": shop.throughput().chart()}


@pytest.fixture(scope="module")
def bundles(charts):
    return {name: chart._repr_mimebundle_() for name, chart in charts.items()}


def panels(spec: dict) -> list[dict]:
    return spec["vconcat"]


def channels(panel: dict, channel: str) -> list[dict]:
    return [layer["encoding"][channel] for layer in panel["layer"] if channel in layer["encoding"]]


# --- what a notebook is given ---------------------------------------------------------------------


@pytest.mark.parametrize("name", ["lag", "throughput"])
def test_a_chart_brings_its_spec_a_picture_and_a_line_and_nothing_from_outside(bundles, name):
    shown = bundles[name]
    assert set(shown) == {MIME, "image/svg+xml", "text/plain"}
    assert name in shown["text/plain"]
    assert "://" not in json.dumps(shown[MIME])
    assert set(re.findall(r"https?://[^\"' )]+", shown["image/svg+xml"])) <= {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}
    assert shown["image/svg+xml"].count("<path") > 10
    assert json.loads(json.dumps(shown[MIME])) == shown[MIME]


def test_a_picture_is_small_enough_for_a_notebook(bundles):
    assert all(len(json.dumps(shown)) < 600_000 for shown in bundles.values())


@pytest.mark.parametrize("name", ["lag", "throughput"])
def test_every_axis_names_its_unit_or_its_zone(bundles, name):
    for panel in panels(bundles[name][MIME]):
        for x in channels(panel, "x"):
            assert x["scale"]["type"] == "utc", "the browser's zone must not matter"
            assert x["title"] == "12 March 2026, time in Europe/Berlin (CET), UTC+01:00"
        for y in channels(panel, "y"):
            assert "value" in y or re.search(r"offsets|seconds|records per|bytes per", y["title"])


def test_lag_has_produced_and_consumed_offsets_and_seconds(bundles):
    titles = [channels(panel, "y")[-1]["title"] for panel in panels(bundles["lag"][MIME])]
    assert titles == ["offsets (sum over partitions)", "lag (offsets; bold: sum)", "lag (seconds; bold: longest)"]


@pytest.mark.parametrize("name", ["lag", "throughput"])
def test_a_chart_holds_2000_points_or_less(bundles, name):
    spec = bundles[name][MIME]
    assert 100 < sum(len(rows) for rows in spec["datasets"].values()) <= POINTS


@pytest.mark.parametrize("name", ["lag", "throughput"])
@pytest.mark.parametrize("theme", [None, "dark"])
def test_every_panel_draws_its_marks_in_both_themes(bundles, name, theme):
    svg = vl_convert.vegalite_to_svg(bundles[name][MIME], vl_version=VERSION, theme=theme)
    assert svg.count("mark-line") >= len(panels(bundles[name][MIME]))
    assert "NaN" not in svg
    assert "undefined" not in svg


def test_times_are_drawn_on_the_wall_clock_of_the_zone_and_told_with_it(bundles):
    rows = [row for rows in bundles["lag"][MIME]["datasets"].values() for row in rows if "produced" in row]
    peak = max(rows, key=lambda row: row["lag"] or 0)
    wall = dt.datetime.fromtimestamp(peak["x"] / 1000, dt.UTC)
    assert f"{wall:%Y-%m-%d %H:%M:%S} CET" == peak["at"]
    assert "14:4" in peak["at"]


def test_where_the_clocks_change_one_offset_is_kept_and_the_axis_says_so(tmp_path):
    start = dt.datetime(2026, 10, 24, 22, tzinfo=dt.UTC)
    seconds = (start - BASE).total_seconds()
    lab = lab_of(tmp_path / "lab", [record(n, seconds + n * 1800) for n in range(12)], [], tz="Europe/Berlin")
    spec = lab.throughput(every="30m").chart().to_dict()
    (rows,) = spec["datasets"].values()
    assert [row["x"] for row in rows] == sorted({row["x"] for row in rows}), "no hour is drawn twice"
    assert {row["at"][-4:] for row in rows} == {"CEST", " CET"}
    assert (
        channels(panels(spec)[0], "x")[0]["title"] == "25 October 2026, time at UTC+02:00, Europe/Berlin (its clocks change in this range)"
    )


def test_what_is_unknown_is_shaded_and_says_of_whom(tmp_path):
    lab = lab_of(
        tmp_path / "lab",
        [record(n, n * 60) for n in range(100)] + [record(n, n * 60, partition=1) for n in range(100)],
        [sample(3000 + n * 60, n) for n in range(40)] + [sample(3000 + n * 60, None, partition=1) for n in range(40)],
    )
    spec = lab.lag("g", start=BASE).chart().to_dict()
    shaded = [layer for panel in panels(spec) for layer in panel["layer"] if layer["mark"]["type"] == "rect"]
    assert len(shaded) == 3
    rows = spec["datasets"][shaded[0]["data"]["name"]]
    assert {"orders[0]: before the first sample and 1 more", "orders[1]: nothing committed"} <= {row["what"] for row in rows}
    assert any(layer["mark"].get("text") == "unknown in part" for layer in panels(spec)[1]["layer"])
    lines = [row for rows in spec["datasets"].values() for row in rows if "produced" in row]
    assert {row["lag"] for row in lines if row["at"] < "2026-03-12 09:50"} == {None}, "a line that is not known is not drawn"


def test_a_lab_without_anything_to_draw_says_so(tmp_path):
    spec = eslab.Lab(tmp_path / "none", tz="UTC").throughput().chart().to_dict()
    assert spec["mark"]["text"] == "no records"


def test_a_spike_of_one_minute_in_a_month_is_drawn_at_its_height_and_moment(tmp_path):
    minutes = 30 * 24 * 60
    spike = 17_003
    burst = [record(n, spike * 60 + 0.01 * n) for n in range(500)]
    lab = lab_of(
        tmp_path / "lab",
        [*burst, record(500, minutes * 60)],
        [sample(n * 60, 0 if n <= spike + 1 else 500, log_end=0 if n <= spike else 500) for n in range(0, minutes, 1)],
    )
    lag = lab.lag("g", topics="orders")
    rows = [row for rows in lag.chart().to_dict()["datasets"].values() for row in rows if "produced" in row]
    assert len(rows) < 2_000 < minutes
    top = max(rows, key=lambda row: row["lag"] or 0)
    assert (top["lag"], top["at"]) == (500, "2026-03-24 04:24:00 UTC")
    throughput = lab.throughput("orders", every="1m").chart().to_dict()
    (rows,) = throughput["datasets"].values()
    assert (len(rows) <= POINTS, max(row["records"] for row in rows)) == (True, 500)


def test_many_topics_share_a_line_beyond_nine(tmp_path):
    lab = lab_of(tmp_path / "lab", [record(0, n, topic=f"t{n:02}") for n in range(30)], [])
    spec = lab.throughput().chart().to_dict()
    domain = channels(panels(spec)[0], "color")[0]["scale"]["domain"]
    assert (len(domain), domain[-1]) == (10, "other topics")
    (rows,) = spec["datasets"].values()
    assert len(rows) <= POINTS
    assert sum(row["records"] for row in rows if row["topic"] == "other topics") == 21


# --- points that are kept -------------------------------------------------------------------------


@few(6)
@given(seed=st.integers(0, 10**6), most=st.integers(120, 2_000))
def test_thinning_keeps_every_series_peak_and_low_and_no_more_than_asked(seed, most):
    dice = random.Random(seed)
    rows = [
        {"time": at(n * 60), "s": series, "v": dice.choice([None, 0, 0, 1, dice.randint(0, 9)]), "w": dice.random()}
        for series in "abc"
        for n in range(dice.randint(500, 3_000))
    ]
    for series in "abc":
        dice.choice([row for row in rows if row["s"] == series])["v"] = 1_000 + dice.randint(0, 10)
    table = pa.Table.from_pylist(rows)
    thinned = thin(table, "s", highs=["v", "w"], lows=["w"], most=most)
    assert thinned.num_rows <= most
    assert thinned.schema.names == table.schema.names
    before, after = table.to_pandas(), thinned.to_pandas()
    assert len(after.merge(before)) >= len(after), "rows are kept as they are"
    for name in ("v", "w"):
        assert before.groupby("s")[name].max().to_dict() == after.groupby("s")[name].max().to_dict()
    assert before.groupby("s")["w"].min().to_dict() == after.groupby("s")["w"].min().to_dict()
    assert before.groupby("s")["time"].agg(["min", "max"]).equals(after.groupby("s")["time"].agg(["min", "max"]))


def test_a_small_table_is_left_whole():
    table = pa.table({"time": pa.array([BASE]), "s": ["a"], "v": [1]})
    assert thin(table, "s", highs=["v"], most=1) is table


# --- further use ----------------------------------------------------------------------------------


def test_whatever_is_made_of_a_chart_shows_offline_too(charts):
    plain = alt.Chart(pd.DataFrame({"a": [1]})).mark_point().encode(x="a:Q")
    lag = charts["lag"]
    made = [
        lag.properties(title="mine"),
        lag & plain,
        offline(plain).configure_axis(labelFontSize=9),
        offline(plain) + plain,
        plain | offline(plain),
        plain + offline(plain),
        plain & offline(plain),
        offline(plain).interactive(),
        offline(plain).facet("a:N"),
        offline(plain).repeat(["a"]),
        offline(plain).copy(),
    ]
    for one in made:
        assert MIME in one._repr_mimebundle_(), type(one)
    assert made[0].to_dict()["title"] == "mine"
    assert MIME not in (plain._repr_mimebundle_() or {})


def test_offline_charts_are_for_the_users_own_on_request():
    plain = alt.Chart(pd.DataFrame({"a": [1]}), title="mine").mark_point().encode(x="a:Q")
    before = alt.renderers.active
    try:
        eslab.use_offline_charts()
        shown = plain._repr_mimebundle_()
        assert set(shown) == {MIME, "image/svg+xml", "text/plain"}
        assert shown["text/plain"] == "<chart: mine>"
    finally:
        alt.renderers.enable(before)


def test_small_whole_numbers_have_whole_ticks_and_long_notes_are_folded():
    toy = eslab.play([{"eventType": "Set", "correlationId": "c", "data": {"orderId": f"o{n}", "n": n}} for n in range(3)])

    def axis(measure) -> dict:
        (panel,) = panels(toy.timeline("order", measure=measure, progress=False).chart()._repr_mimebundle_()[MIME])
        return channels(panel, "y")[0]["axis"]

    assert (axis(len)["format"], axis(len)["tickMinStep"]) == (",d", 1)
    halves = axis(lambda state: state["n"] / 2)
    assert (halves["format"], "tickMinStep" in halves) == ("~s", False)
    folded = toy.trace("c").chart()._repr_mimebundle_()[MIME]["title"]["subtitle"]
    assert " ".join(folded) == " ".join(toy.trace("c").notes)
    assert len(folded) > 1
    assert max(map(len, folded)) <= 110


def test_a_chart_of_data_elsewhere_fetches_nothing():
    shown = bundle(alt.Chart("http://127.0.0.1:9/data.json").mark_point().encode(x="a:Q").to_dict())
    assert "image/svg+xml" not in shown or "127.0.0.1" not in shown["image/svg+xml"]


def test_hostile_names_are_text_in_a_picture(tmp_path):
    name = "<script>alert(1)</script>"
    lab = lab_of(tmp_path / "lab", [record(0, 0, topic=name), record(1, 1, topic=name)], [sample(0, 0, topic=name, group=name)])
    for chart in (lab.lag(name).chart(), lab.throughput().chart()):
        assert "<script" not in chart._repr_mimebundle_()["image/svg+xml"]


def test_what_is_invisible_in_a_name_or_turns_the_text_around_is_drawn_as_its_code(tmp_path):
    names = ["a\u202egnp.exe", "red\x1b[31m", "a\\u202egnp.exe"]  # the last one is called as the first one is drawn
    records = [record(0, at, topic=name) for at, name in enumerate(names)]
    lab = lab_of(tmp_path / "lab", records, [sample(0, 0, topic=name, group=names[0]) for name in names])
    payload = {"eventId": names[0], "eventType": names[1], "data": {"orderId": names[0]}}
    toy = eslab.play([payload])
    invariants = [eslab.Invariant(name, "order", lambda state: False) for name in names]

    def sized(name):
        return eslab.Projection(name, key="data.orderId", evolve=lambda state, event: {"n": 1})

    drawn = [
        lab.throughput().chart(),
        lab.lag(names[0]).chart(),
        toy.check(*invariants, progress=False).chart(),
        *(toy.timeline(sized(name), measure=len, progress=False).chart() for name in (names[0], '"] and a \\')),
        toy.trace(names[0]).chart(),
    ]
    for chart in drawn:
        shown = chart._repr_mimebundle_()
        assert not re.search("[\x1b\u202e]", json.dumps(shown, ensure_ascii=False)), chart.description
        assert re.search(r"a\\u202egnp\.exe|and a \\", shown["image/svg+xml"])
    for chart, count in zip(drawn[:3], (3, 4, 3), strict=True):
        (domain,) = {tuple(found["scale"]["domain"]) for found in channels(panels(chart.to_dict())[-1], "color")}
        assert len({*domain}) == count, "no two series are drawn as one"
