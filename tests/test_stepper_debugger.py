"""The stepper as a debugger: breakpoints, bookmarks, blame, watches, comparing, playing, finding; on `to_html()` in a real browser."""

from __future__ import annotations

import datetime as dt
import random
from typing import TYPE_CHECKING

import pytest
from browser import Chromium, Watched, axe
from test_stepper_page import HOSTILE, IMPORTED, folded, order, position, shown

import eslab
from eslab import Record
from eslab.model import format_path, parse_path

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Page


@pytest.fixture(scope="module")
def plain():
    return eslab.play(
        [
            order(0, total=10, status="new", lines=[{"sku": "a", "n": 1}, {"sku": "b", "n": 2}]),
            order(1, total=12, lines=[{"sku": "a", "n": 1}, {"sku": "b", "n": 3}, {"sku": "c", "n": 1}]),
            order(2, kind="OrderPaid", paid=True),
            *(order(at, total=min(20, at)) for at in range(3, 30)),
        ]
    ).history("order", "o1")


def focus(stepper: Locator) -> None:
    stepper.locator(".es-name").click()


def press(page: Page, stepper: Locator, *keys: str) -> list[int]:
    """Where each key led to."""
    at = []
    for key in keys:
        page.keyboard.press(key)
        at.append(position(stepper))
    return at


def unfold(stepper: Locator, name: str) -> None:
    stepper.locator("summary", has_text=name).click()


def said(stepper: Locator) -> str:
    return stepper.get_by_role("status").inner_text()


# --- breakpoints and bookmarks


def test_a_run_stops_at_the_nearest_breakpoint_either_way_and_says_at_which(page, tmp_path, plain):
    stepper = shown(page, tmp_path, plain, at=5)
    focus(stepper)
    assert press(page, stepper, "r") == [5]
    assert said(stepper) == "no breakpoints yet: B sets one here"
    press(page, stepper, "b")
    unfold(stepper, "Breakpoints (1)")
    stepper.get_by_label("Where to break").select_option("on OrderPaid")
    stepper.get_by_role("button", name="Break", exact=True).click()
    assert press(page, stepper, "Home", "r") == [0, 3]
    assert said(stepper) == "stopped on OrderPaid"
    assert press(page, stepper, "r", "r") == [5, 5]
    assert said(stepper) == "no breakpoint ahead"
    assert press(page, stepper, "End", "Shift+R", "Shift+R", "Shift+R") == [30, 5, 3, 3]
    assert stepper.locator('.es-item[data-position="5"] .es-gutter').inner_text() == "●"
    assert stepper.locator(".es-flag").all_inner_texts() == ["●"]
    stepper.get_by_role("button", name="Remove the breakpoint on OrderPaid").press("Enter")
    stepper.get_by_role("button", name="Next stop").click()
    assert press(page, stepper, "b") == [5]
    assert stepper.locator(".es-gutter", has_text="●").count() == stepper.locator(".es-flag").count() == 0
    stepper.locator('.es-item[data-position="4"] .es-gutter').click()
    assert press(page, stepper, "Shift+R") == [4]


def test_bookmarks_are_places_to_come_back_to(page, tmp_path, plain):
    stepper = shown(page, tmp_path, plain, at=3)
    focus(stepper)
    press(page, stepper, "m", "End", "m", "Home")
    assert press(page, stepper, "n", "n", "n", "Shift+N", "Shift+N") == [3, 30, 30, 3, 3]
    assert stepper.locator(".es-flag").all_inner_texts() == ["★", "★"]
    unfold(stepper, "Bookmarks (2)")
    stepper.get_by_role("button", name="step 30 OrderChanged").click()
    assert position(stepper) == 30
    press(page, stepper, "m")
    assert stepper.locator(".es-rows", has_text="★").locator("li").count() == 1


def test_what_is_kept_goes_into_the_page_that_is_handed_out(page, tmp_path, plain):
    stepper = plain.step(at=7)
    stepper.breakpoints, stepper.bookmarks, stepper.watched = [("change", "total"), ("step", 4)], [2], ["lines[1].n"]
    page.goto(stepper.to_html(tmp_path / "page.html").as_uri())
    root = page.locator(".eslab-stepper")
    focus(root)
    assert press(page, root, "Shift+R", "Shift+R", "Shift+R", "Shift+N") == [6, 5, 4, 2]
    assert root.locator(".es-rows").all_inner_texts()[0].split() == ["±", "lines[1].n", "=", "3", "×"]


# --- what set a value


def changing(events: int, seed: int):
    """A history whose states grow, shrink and change their shape."""

    def handler(state, event):
        random_ = random.Random(f"{seed} {event.id}")
        values = [1, 2, "x", None, [1, 2], [3], {"k": [{"z": 1}]}, {"k": [{"z": 2}, 5]}, {"k": 1, "odd key": {"<": 1}}]
        pool = {**state, **{random_.choice(["a", "b", "<c>", "odd key"]): random_.choice(values) for _ in range(2)}}
        return dict(random_.sample(list(pool.items()), k=len(pool) - (random_.random() < 0.3)))

    return folded(handler, events=events)


PATHS = ["a", "a.k", "a.k[0].z", "b[1]", '"<c>"', '"odd key"."odd key"."<"', "a[0]"]


def test_blame_runs_and_comparisons_are_those_of_python(chromium: Chromium, watched, tmp_path):
    """Held against `h.blame`, `h.run_until`, `h.run_back_until` and `h.diff` on a history whose values change their shape."""
    history = changing(120, 1)
    with chromium.page(watched, bypass_csp=True) as inside:
        shown(inside, tmp_path, history)
        inside.evaluate(IMPORTED)
        for path in PATHS:
            found = inside.evaluate("(path) => [...book.causes(eslab.parsePath(path), 120, -1)].map((cause) => cause.position)", path)
            assert found == list(dict.fromkeys(cause.version for cause in history.blame(path))), path
            assert len(found) > 3
            for way, name, moment in ((1, "run_until", "after"), (-1, "run_back_until", "before")):
                stops = [getattr(history, name)(changed=path, event_type="OrderPaid", **{moment: at}) for at in range(0, 121, 10)]
                asked = [[["change", path], ["type", "OrderPaid"], ["mark", "failed"]], list(range(0, 121, 10)), way]
                told = inside.evaluate(
                    "([stops, from, way]) => from.map((at) => eslab.nextStop(book, stops, at, way)?.position ?? null)", asked
                )
                assert told == [stop and stop.version for stop in stops], (path, way)
        for before, after in [(0, 120), (120, 0), *((random.Random(at).randrange(121), at) for at in range(0, 121, 9))]:
            paths = inside.evaluate(
                "([a, b]) => [...eslab.markedPaths(eslab.differences(book.state(a), book.state(b)) ?? {kids: new Map()})].map(eslab.formatPath)",
                [before, after],
            )
            assert sorted(paths) == sorted(format_path(change.path) for change in history.diff(before, after))
    assert watched == Watched()


def test_the_path_of_a_text_is_the_one_that_python_reads(chromium: Chromium, watched, tmp_path, plain):
    with chromium.page(watched, bypass_csp=True) as inside:
        shown(inside, tmp_path, plain)
        inside.evaluate(IMPORTED)
        texts = [*PATHS, 'a."".b', '"a\\"b"[3]', "ß٣-x", '"\\u2028"']
        assert inside.evaluate("(texts) => texts.map(eslab.parsePath)", texts) == [list(parse_path(text)) for text in texts]
        assert inside.evaluate("(texts) => texts.map(eslab.parsePath)", ["a b", "a[x]", "a..b", '"', "1a", '"\\x"']) == [None] * 6


def test_a_click_on_a_value_tells_what_set_it_and_leads_there(page, tmp_path, plain):
    stepper = shown(page, tmp_path, plain, at=5)
    stepper.locator('.es-state [data-path="total"] .es-leaf[role=button]').click()
    blame = stepper.get_by_role("group", name="What set it")
    rows = blame.locator(".es-cause")
    assert [" ".join(row.split()) for row in rows.all_inner_texts()] == [
        "5 OrderChanged 09:00:04 = 4",
        "4 OrderChanged 09:00:03 = 3",
        "2 OrderChanged 09:00:01 = 12",
        "1 OrderChanged 09:00:00 = 10",
    ]
    assert "up to step 5" in blame.locator("h3").inner_text()
    rows.nth(2).click()
    assert position(stepper) == 2
    assert [row.get_attribute("aria-current") for row in rows.all()] == [None, None, "step", None]
    assert press(page, stepper, "l", "l", "Shift+L", "Shift+L") == [1, 1, 2, 4]
    stepper.get_by_role("button", name="Last", exact=True).click()
    blame.get_by_role("button", name="Previous change").click()
    assert position(stepper) == 21  # nine steps later it is 20 for good
    blame.get_by_role("button", name="Break on change").press("Enter")
    assert press(page, stepper, "Home", "r", "r", "r") == [0, 1, 2, 4]
    assert said(stepper) == "stopped on a change of total"
    blame.get_by_role("button", name="changed again at step 6").click()
    assert rows.first.inner_text().split()[:2] == ["21", "OrderChanged"]
    press(page, stepper, "Escape")
    assert blame.is_hidden()


def test_a_value_is_asked_for_by_the_keyboard_too_and_the_focus_comes_back(page, tmp_path, plain):
    stepper = shown(page, tmp_path, plain, at=2)
    value = stepper.locator('.es-state [data-path="lines"] > .es-row > .es-summary')
    value.focus()
    press(page, stepper, "Enter")
    rows = stepper.locator(".es-cause").all_inner_texts()
    assert [" ".join(row.split()) for row in rows] == [
        "2 OrderChanged 09:00:01 within [1].n, [2]",
        '1 OrderChanged 09:00:00 = [{"sku": "a", "n": 1}, {"sku": "b", "n": 2}]',
    ]
    press(page, stepper, "Escape")
    assert value.evaluate("(value) => document.activeElement === value")
    assert press(page, stepper, "ArrowRight", "ArrowRight") == [3, 4]


# --- watching and comparing


def test_watched_paths_show_their_values_and_which_a_step_changed(page, tmp_path, plain):
    stepper = shown(page, tmp_path, plain, at=2)
    unfold(stepper, "Watch")
    box = stepper.get_by_label("A path to watch")
    for wrong in ("", "a b"):
        box.fill(wrong)
        box.press("Enter")
        assert box.get_attribute("aria-invalid") is not None
    for path in ("total", "paid", "lines[1]"):
        box.fill(path)
        box.press("Enter")
    assert position(stepper) == 2  # letters were typed
    rows = stepper.locator(".es-rows").first.locator("li")

    def told():
        return [" ".join(row.split()).removesuffix(" ×") for row in rows.all_inner_texts()]

    assert told() == ["± total = 12", "paid = — (not there)", '± lines[1] = {"sku": "b", "n": 3}']
    focus(stepper)
    press(page, stepper, "ArrowRight")
    assert told() == ["total = 12", "+ paid = true", 'lines[1] = {"sku": "b", "n": 3}']
    rows.first.get_by_role("button", name="total", exact=True).click()
    assert stepper.locator(".es-cause").count() == 2
    stepper.get_by_role("button", name="Remove paid from the watched").press("Enter")
    assert rows.count() == 2
    assert press(page, stepper, "ArrowRight") == [4]


def test_any_two_steps_are_compared(page, tmp_path, plain):
    stepper = shown(page, tmp_path, plain, at=1)
    stepper.get_by_role("button", name="Compare from here").press("Enter")
    stepper.get_by_role("button", name="Last", exact=True).click()
    state = stepper.locator(".es-state")
    assert state.locator("h3").inner_text() == "State after step 30, compared with step 1"

    def marked():
        return {node.get_attribute("data-path") for node in state.locator(".es-added, .es-changed, .es-removed").all()}

    assert marked() == {format_path(change.path) for change in plain.diff(1, 30)}
    assert "total: 10 → 20" in " ".join(state.inner_text().split())
    assert stepper.locator(".es-flag").all_inner_texts() == ["⚑"]
    focus(stepper)
    press(page, stepper, "Home")
    assert "removed" in state.inner_text()
    press(page, stepper, "c", "ArrowRight", "ArrowRight")
    assert marked() == {"total", "lines[1].n", "lines[2]"}


# --- playing


def test_it_plays_at_the_pace_of_the_record_times_a_speed_and_stops_at_breakpoints(page, tmp_path):
    late = eslab.play([{**order(at), "timestamp": f"2026-01-01T09:{minute:02}:00Z"} for at, minute in enumerate((0, 1, 2, 4, 14, 15))])
    page.clock.install(time=dt.datetime(2026, 1, 1, tzinfo=dt.UTC))
    stepper = shown(page, tmp_path, late.history("order", "o1"), at=0)
    page.clock.pause_at(dt.datetime(2026, 1, 2, tzinfo=dt.UTC))  # from here on time passes when the test says so
    speed = stepper.get_by_label("Speed")
    assert speed.input_value() == "60"  # 15 minutes within half a minute
    focus(stepper)
    press(page, stepper, "Space")
    seen = []
    for _ in range(6):
        page.clock.run_for(1000)
        seen.append(position(stepper))
    assert seen == [2, 3, 3, 4, 4, 4]
    assert stepper.locator(".es-waits").inner_text() == "next in 8.0 s"
    stepper.get_by_role("button", name="Pause").click()
    page.clock.run_for(60_000)
    assert position(stepper) == 4
    speed.select_option("× 600")
    focus(stepper)
    press(page, stepper, "Space")
    page.clock.run_for(1010)
    assert position(stepper) == 5
    page.clock.run_for(110)
    assert position(stepper) == 6
    assert stepper.get_by_role("button", name="Play", exact=True).is_visible()

    press(page, stepper, "Home", "ArrowRight", "ArrowRight", "b", "Home", "Space")
    page.clock.run_for(60_000)
    assert position(stepper) == 2
    assert said(stepper) == "stopped at step 2"
    speed.select_option("2 steps a second")
    focus(stepper)
    press(page, stepper, "Space")
    page.clock.run_for(1100)
    assert position(stepper) == 4
    assert press(page, stepper, "Home") == [0]  # and plays on from there
    page.clock.run_for(600)
    assert position(stepper) == 1


# --- finding


def test_events_are_listed_by_what_stands_in_them_and_by_type(page, tmp_path):
    events = [*(order(at, note=f"n{at}") for at in range(20)), order(20, kind="OrderPaid", note='Grüße "an" <b>'), order(21, note="n21")]
    stepper = shown(page, tmp_path, eslab.play(events).history("order", "o1"), at=3)
    search, found = stepper.get_by_label("Search the events"), stepper.locator(".es-found")
    rows = stepper.get_by_role("listbox", name="Events").get_by_role("option")
    focus(stepper)
    press(page, stepper, "/")
    page.keyboard.type("ORDERPAID")
    page.keyboard.press("Enter")
    assert found.inner_text() == "1 of 22 events"
    assert press(page, stepper, "ArrowDown", "ArrowUp", "ArrowLeft") == [21, 21, 20]
    for text, number in (('grüße "an" <', 1), ("n1", 11), ("e7", 1), ("create", 0), ("events/0/3", 1), ("(", 0), ("09:00:0", 10)):
        search.fill(text)
        search.press("Enter")
        assert found.inner_text() == f"{number} of 22 events", text
        assert rows.count() == number
    search.focus()
    press(page, stepper, "Escape")
    assert found.inner_text() == ""
    assert rows.count() > 10
    stepper.get_by_label("Which events").select_option("OrderPaid (1)")
    assert [row.get_attribute("data-position") for row in rows.all()] == ["21"]
    assert (rows.first.get_attribute("aria-setsize"), rows.first.get_attribute("aria-posinset")) == ("1", "1")


def test_the_timeline_has_a_lane_for_each_common_type_and_leads_to_its_events(page, tmp_path):
    kinds = ["A", *"BBBBB", "A", *"CDEFGH"]
    history = eslab.play([order(at, kind=kind) for at, kind in enumerate(kinds)]).history("order", "o1")
    stepper = shown(page, tmp_path, history, at=1)
    strip = stepper.get_by_role("group", name="Timeline: 13 events of 8 types")
    names = [" ".join(name.split()) for name in strip.locator(".es-lane-name").all_inner_texts()]
    assert names == ["A 2", "B 5", "C 1", "D 1", "E 1", "3 other types 3"]
    assert [lane.locator(".es-tick").count() for lane in strip.locator(".es-lane").all()] == [2, 5, 1, 1, 1, 3]
    lane = strip.locator(".es-lane").nth(0)
    box = lane.bounding_box()
    lane.click(position={"x": box["width"] * 0.9, "y": 5})
    assert position(stepper) == 7  # the later A, though C to H are nearer
    before = strip.locator(".es-cursor").bounding_box()["x"]
    assert before == pytest.approx(box["x"] + box["width"] / 2, abs=3)


def test_marks_of_a_lane_are_as_high_as_there_are_many(page, tmp_path):
    history = eslab.play([order(0), *({**order(at), "timestamp": "2026-01-01T10:00:00Z"} for at in range(1, 101))]).history("order", "o1")
    stepper = shown(page, tmp_path, history)
    one, many = (tick.bounding_box()["height"] for tick in stepper.locator(".es-tick").all())
    assert one < many / 2


# --- strangers' values, and everyone's access


def test_what_strangers_wrote_is_text_in_every_view(page, tmp_path):
    texts = [text for text in HOSTILE if text != "\ud800"]
    events = [{"eventId": f"{text}{at}", "eventType": text, "data": {"orderId": "o1", text: text}} for at in range(2) for text in texts]
    stepper = shown(page, tmp_path, eslab.play(events, aggregates={"order": "data.orderId"}).history("order", "o1"))
    focus(stepper)
    press(page, stepper, "m", "b")
    stepper.get_by_role("button", name="Show unchanged").click()
    values = stepper.locator(".es-state .es-leaf[role=button]")
    assert values.count() > len(texts)
    for at in range(values.count()):
        values.nth(at).click()
        stepper.get_by_role("button", name="Watch", exact=True).first.click()
        stepper.get_by_role("button", name="Break on change").click()
    unfold(stepper, "Breakpoints")
    where = stepper.get_by_label("Where to break")
    for option in range(len(texts)):
        where.select_option(str(option + 1))
        stepper.get_by_role("button", name="Break", exact=True).click()
    press(page, stepper, "Shift+R")
    stepper.get_by_label("Search the events").fill("<img src=x")
    stepper.get_by_label("Search the events").press("Enter")
    assert stepper.locator(".es-found").inner_text() == "2 of 20 events"
    stepper.get_by_role("button", name="Remove the breakpoint on <script>window.hit = 1</script>").click()
    assert page.evaluate("window.hit") is None
    assert stepper.locator("script, img, a, iframe, svg, style").count() == 0
    told = stepper.evaluate(
        """(root) => [...root.querySelectorAll("*")].flatMap((one) => ["title", "aria-label", "aria-valuetext"].map((name) => one.getAttribute(name) ?? ""))
            .join("") + root.textContent"""
    )
    assert not {"\u202e", "\u2066", "\u2028", "\ufeff", "\x00", "\x1b"} & set(told)


@pytest.mark.parametrize(
    ("scheme", "width"),
    [("light", 1280), ("dark", 600), *(pytest.param(*one, marks=pytest.mark.torture) for one in (("light", 600), ("dark", 1280)))],
)
def test_with_everything_open_it_is_accessible_and_fits(chromium, watched, tmp_path, plain, scheme, width):
    stepper = plain.step(at=21)
    stepper.breakpoints, stepper.bookmarks, stepper.watched = [["type", "OrderPaid"], ["step", 3]], [5, 21], ["total", "lines"]
    with chromium.page(watched, color_scheme=scheme, viewport={"width": width, "height": 900}) as page:
        page.goto(stepper.to_html(tmp_path / "page.html").as_uri())
        root = page.locator(".eslab-stepper")
        root.locator('.es-state [data-path="total"] .es-leaf[role=button]').click()
        page.keyboard.press("c")
        unfold(root, "Breakpoints")
        unfold(root, "Bookmarks")
        root.get_by_label("Search the events").fill("o1")
        root.get_by_label("Search the events").press("Enter")
        page.keyboard.press("ArrowLeft")
        assert axe(page) == []
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert watched == Watched()


def test_an_undecodable_a_failed_and_a_dead_step_are_found_by_their_marks(page, tmp_path):
    events = [
        order(0, total=1),
        Record(topic="events", key=b"o1", value=b"{not json", timestamp_ms=1_767_258_000_000),
        {**order(2, total=0), "timestamp": "2026-01-01T10:00:00Z"},
        {**order(3, total=1), "timestamp": "2026-01-01T10:00:01Z"},
    ]
    lab = eslab.play(events, aggregates={"order": "data.orderId"})
    stepper = shown(page, tmp_path, folded(lambda state, event: {"share": 1 / event.data["total"]}, lab=lab), at=0)
    assert stepper.locator(".es-flag").all_inner_texts() == ["?", "✕"]
    unfold(stepper, "Breakpoints")
    stepper.get_by_label("Where to break").select_option("on failed")
    stepper.get_by_role("button", name="Break", exact=True).click()
    stepper.get_by_role("button", name="Next stop").click()
    assert position(stepper) == 3
    stepper.get_by_label("Which events").select_option("(no type) (1)")
    assert stepper.locator(".es-item").all_inner_texts()[0].split()[:2] == ["2", "(undecodable)"]
