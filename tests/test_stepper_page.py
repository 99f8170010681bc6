"""The stepper's page as a reader meets it: the JavaScript on `to_html()`, in a real browser, with nothing but this machine."""

from __future__ import annotations

import random
from decimal import Decimal
from typing import TYPE_CHECKING

import pytest
from browser import Chromium, Watched, axe

import eslab
from eslab import Projection, Record
from eslab.model import dumps, format_path

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from playwright.sync_api import Locator, Page

SLOW_S = 2  # of a processor, however many others want it: what counts as frozen


def order(at, kind="OrderChanged", **data):
    return {"eventId": f"e{at}", "eventType": kind, "source": "orders@1", "correlationId": "c1", "data": {"orderId": "o1", **data}}


def folded(handler, events=1, lab=None):
    """The history of one order whose states are what `handler` makes of them."""
    projection = Projection("made", aggregate="order")
    projection.on("OrderChanged")(handler)
    return (lab or eslab.play([order(at) for at in range(events)])).history("order", "o1", projection=projection)


def shown(page: Page, tmp_path: Path, history, **options) -> Locator:
    page.goto(history.step(**options).to_html(tmp_path / "page.html").as_uri())
    stepper = page.get_by_role("group", name="Stepper: order o1")
    stepper.locator(".es-event h3").wait_for()
    return stepper


def busy_s(page: Page) -> Callable[[], float]:
    """How long the page's thread has had a processor since then."""
    devtools = page.context.new_cdp_session(page)
    devtools.send("Performance.enable", {"timeDomain": "threadTicks"})
    return lambda: {metric["name"]: metric["value"] for metric in devtools.send("Performance.getMetrics")["metrics"]}["TaskDuration"]


def position(stepper: Locator) -> int:
    return int(stepper.get_attribute("data-position"))


@pytest.fixture(scope="module")
def plain():
    return eslab.play(
        [
            order(0, total=10, status="new", lines=[{"sku": "a", "n": 1}, {"sku": "b", "n": 2}]),
            order(1, total=12, lines=[{"sku": "a", "n": 1}, {"sku": "b", "n": 3}, {"sku": "c", "n": 1}]),
            order(2, kind="OrderPaid", paid=True),
            *(order(at, total=at) for at in range(3, 30)),
        ]
    ).history("order", "o1")


# --- stepping


def test_buttons_step_and_end_at_both_ends(page, tmp_path, plain):
    stepper = shown(page, tmp_path, plain, at=1)
    for name, expected in (("Forward", 2), ("Last", 30), ("Back", 29), ("First", 0)):
        stepper.get_by_role("button", name=name, exact=True).click()
        assert position(stepper) == expected
        assert stepper.locator(".es-where").inner_text() == f"Step {expected} of 30"
    assert stepper.get_by_role("button", name="Back").is_disabled()
    assert stepper.get_by_role("button", name="First").is_disabled()
    assert stepper.locator(".es-event h3").inner_text() == "Before the first event"
    assert stepper.locator(".es-state").inner_text().endswith("{} (empty)")


def test_keys_step_while_the_stepper_has_the_focus_and_only_then(page, tmp_path, plain):
    stepper = shown(page, tmp_path, plain, at=5)
    page.keyboard.press("ArrowRight")
    assert position(stepper) == 5
    stepper.locator(".es-name").click()
    for key, expected in (
        ("ArrowRight", 6),
        ("ArrowLeft", 5),
        ("PageDown", 15),
        ("PageUp", 5),
        ("End", 30),
        ("ArrowRight", 30),
        ("Home", 0),
        ("ArrowLeft", 0),
    ):
        page.keyboard.press(key)
        assert position(stepper) == expected
    page.keyboard.press("Control+ArrowRight")
    assert position(stepper) == 0


def test_each_step_is_read_from_its_top(page, tmp_path, plain):
    stepper = shown(page, tmp_path, plain, at=2)
    pane = stepper.get_by_role("group", name="Event and state")
    pane.evaluate("(pane) => { pane.style.flex = 'none'; pane.style.height = '90px'; pane.scrollTop = 40; }")
    page.wait_for_function(
        "(pane) => new Promise((done) => requestAnimationFrame(() => setTimeout(() => done(pane.scrollTop > 0))))",
        arg=pane.element_handle(),
    )
    stepper.get_by_role("slider", name="Position").focus()
    page.keyboard.press("ArrowRight")
    assert position(stepper) == 3
    assert pane.evaluate("(pane) => pane.scrollTop") == 0


def test_a_button_that_comes_to_its_end_leaves_the_keys_working(page, tmp_path, plain):
    stepper = shown(page, tmp_path, plain, at=1)
    stepper.get_by_role("button", name="Back").press("Enter")
    page.keyboard.press("ArrowRight")
    assert position(stepper) == 1


def test_the_keys_go_on_after_something_in_the_pane_was_unfolded(page, tmp_path, plain):
    stepper = shown(page, tmp_path, plain, at=5)
    stepper.get_by_role("button", name="Show unchanged").press("Enter")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    assert position(stepper) == 7
    assert page.evaluate("document.activeElement.textContent") == "Show unchanged"


def test_the_slider_scrubs(page, tmp_path, plain):
    stepper = shown(page, tmp_path, plain)
    slider = stepper.get_by_role("slider", name="Position")
    slider.fill("12")
    assert position(stepper) == 12
    box = slider.bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.mouse.down()
    page.mouse.move(box["x"] + 2, box["y"] + box["height"] / 2, steps=8)
    assert position(stepper) == 0
    page.mouse.up()
    assert slider.get_attribute("aria-valuetext") == "Step 0 of 30, before the first event"


def test_a_click_in_the_list_goes_there_and_the_arrows_go_on_from_it(page, tmp_path, plain):
    stepper = shown(page, tmp_path, plain, at=1)
    events = stepper.get_by_role("listbox", name="Events")
    events.get_by_role("option").filter(has_text="OrderPaid").click()
    assert position(stepper) == 3
    page.keyboard.press("ArrowDown")
    assert position(stepper) == 4
    (chosen,) = events.locator("[aria-selected=true]").all()
    assert chosen.get_attribute("data-position") == "4"
    assert chosen.get_attribute("id") == events.get_attribute("aria-activedescendant")


def test_a_reader_of_the_screen_is_told_each_step(page, tmp_path, plain):
    stepper = shown(page, tmp_path, plain, at=2)
    stepper.get_by_role("button", name="Forward").click()
    assert stepper.get_by_role("status").inner_text() == "Step 3 of 30, OrderPaid"


IMPORTED = """async () => {
    const source = document.querySelector("script[type=module]").textContent.replace(/\\nconst told = [^]*$/, "");
    window.eslab = await import(URL.createObjectURL(new Blob([source], {type: "text/javascript"})));
    const packed = Uint8Array.from(atob(document.getElementById("eslab-steps").textContent), (one) => one.charCodeAt(0));
    window.book = eslab.reader(await eslab.unpacked(packed));
    window.written = (node) => node instanceof Map ? "{" + [...node].map(([key, value]) => JSON.stringify(key) + ":" + written(value)).join(",") + "}"
        : Array.isArray(node) ? "[" + node.map(written).join(",") + "]" : node;
}"""


@pytest.fixture
def inside(chromium: Chromium, watched: Watched):
    """A page in which the stepper's own functions may be called; its policy would forbid that."""
    with chromium.page(watched, bypass_csp=True) as opened:
        yield opened
    assert watched == Watched()


def test_every_state_is_the_historys_own_whichever_way_it_is_reached(inside, tmp_path):
    """Forwards, backwards and by jumps, over states that grow, shrink, change type and turn their keys."""

    def handler(state, event):
        random_ = random.Random(event.id)
        values = [1, 1.0, "x", None, [1, 2], {"k": [{"z": 1}]}, [], Decimal("1.10")]
        pool = {**state, **{random_.choice("abcdefgh"): random_.choice(values) for _ in range(3)}}
        kept = dict(random_.sample(list(pool.items()), k=random_.randrange(len(pool))))
        return {**kept, "__proto__": random_.randrange(3), "10": 1, "2": [{"at": at} for at in range(random_.randrange(4))]}

    history = folded(handler, events=300)
    shown(inside, tmp_path, history)
    inside.evaluate(IMPORTED)
    states = [dumps(one).decode() for one in ({}, *(step.after for step in history))]
    asked = [*range(301), *range(300, -1, -1), *(random.Random(1).randrange(301) for _ in range(300))]
    assert inside.evaluate("(asked) => asked.map((at) => written(book.state(at)))", asked) == [states[at] for at in asked]
    assert len(set(states)) > 200


def test_paths_are_written_as_eslab_writes_them(inside, tmp_path, plain):
    shown(inside, tmp_path, plain)
    inside.evaluate(IMPORTED)
    paths = [["a", "b", 0, "c"], [0], ["two words", "é_1", "1a"], ["", 'a"b', "a.b"], ["_x", "-x", "x-y", "ß٣", "٣"], ["\n", "\u2028"], []]
    assert inside.evaluate("(paths) => paths.map(eslab.formatPath)", paths) == [format_path(path) for path in paths]


# --- what is shown


def test_what_a_step_changed_is_marked_by_sign_and_word_with_the_old_value_beside_the_new(page, tmp_path, plain):
    stepper = shown(page, tmp_path, plain, at=2)
    rows = {
        node.get_attribute("data-path"): " ".join(node.locator("> .es-row").inner_text().split())
        for node in stepper.locator(".es-state .es-node").all()
    }
    assert rows == {
        "total": "±total: 10 → 12 changed",
        "lines": "lines: [3 items]",
        "lines[1]": "[1]: {2 fields}",
        "lines[1].n": "±n: 2 → 3 changed",
        "lines[2]": "+[2]: {2 fields} added",
        "lines[2].sku": 'sku: "c"',
        "lines[2].n": "n: 1",
    }
    assert "3 changed paths: total, lines[1].n, lines[2]" in stepper.locator(".es-state").inner_text()


def test_what_was_removed_is_marked_with_what_it_was(page, tmp_path):
    stepper = shown(page, tmp_path, folded(lambda state, event: {"a": [1, 2]} if not state else {"a": [1]}, events=2))
    (row,) = stepper.locator(".es-removed").all()
    assert " ".join(row.inner_text().split()) == "−[1]: 2 removed"
    assert row.get_attribute("data-path") == "a[1]"


def test_the_unchanged_rest_is_folded_until_it_is_asked_for(page, tmp_path, plain):
    stepper = shown(page, tmp_path, plain, at=3)
    state = stepper.locator(".es-state")
    assert "status" not in state.inner_text()
    state.get_by_role("button", name="4 unchanged fields").click()
    assert "status" in state.inner_text()
    assert state.get_by_role("button", name="Show unchanged").get_attribute("aria-pressed") == "true"
    stepper.get_by_role("button", name="Forward").click()
    assert "status" in state.inner_text()
    state.get_by_role("button", name="Show unchanged").click()
    assert "status" not in state.inner_text()
    state.get_by_role("button", name="Show unchanged").click()
    lines = state.get_by_role("button", name="lines")
    assert lines.get_attribute("aria-expanded") == "true"
    lines.click()
    assert "sku" not in state.locator('[data-path="lines[0]"]').all_inner_texts()
    assert lines.get_attribute("aria-expanded") == "false"


def test_the_event_is_shown_with_both_clocks_and_where_it_stands(page, tmp_path):
    payload = dumps(
        order(7, total=1) | {"eventVersion": "2.1", "timestamp": "2026-01-01T09:00:00Z", "causationId": "e6", "metadata": {"traceId": "t1"}}
    )
    lab = eslab.play(
        [Record(topic="events", key=b"o1", timestamp_ms=1_767_258_192_500, timestamp_type="append", value=payload)],
        tz="Europe/Berlin",
        aggregates={"order": "data.orderId"},
    )
    stepper = shown(page, tmp_path, lab.history("order", "o1"))
    assert stepper.locator(".es-event h3").inner_text() == "OrderChanged version 2.1"
    names, values = (stepper.locator(f".es-facts {tag}").all_inner_texts() for tag in ("dt", "dd"))
    assert dict(zip(names, values, strict=True)) == {
        "recorded": "2026-01-01 10:03:12.500 CET by the broker's clock",
        "happened": "2026-01-01 10:00:00 CET 3 min 12 s before it was recorded",
        "id": "e7",
        "source": "orders@1",
        "record": "events/0/0",
        "correlation": "c1",
        "causation": "e6",
        "trace": "t1",
    }


def test_the_unusual_stands_out_in_the_list_at_the_top_and_at_its_step(page, tmp_path):
    events = [
        order(0, total=1),
        order(0, total=1),
        order(1, kind="Other"),
        Record(topic="events", key=b"o1", value=b"{not json", timestamp_ms=1_767_258_000_000),
        Record(topic="events", key=b"o1", value=None, timestamp_ms=1_767_258_001_000),
        order(3, total=0, timestamp="2026-01-01T10:00:00Z"),
        order(4, total=1),
    ]
    for at, event in enumerate(events[5:], 5):
        events[at] = {**event, "timestamp": f"2026-01-01T10:0{at}:00Z"}
    lab = eslab.play(events, aggregates={"order": "data.orderId"})
    history = folded(lambda state, event: {"share": 1 / event.data["total"]}, lab=lab)
    stepper = shown(page, tmp_path, history, at=0)
    listed = {row.get_attribute("data-position"): row.locator(".es-mark").all_inner_texts() for row in stepper.locator(".es-item").all()}
    assert listed == {
        "0": [],
        "1": [],
        "2": ["❐ duplicate"],
        "3": ["○ unhandled"],
        "4": ["? undecodable"],
        "5": ["† tombstone"],
        "6": ["✕ failed"],
        "7": ["» skipped"],
    }
    chips = {chip.get_attribute("data-mark"): chip for chip in stepper.locator(".es-chip").all()}
    for mark, at, told in (
        ("duplicate", 2, "the same event id as step 1"),
        ("unhandled", 3, "no handler"),
        ("undecodable", 4, "JSON is malformed"),
        ("tombstone", 5, "null value"),
        ("failed", 6, "ZeroDivisionError: division by zero"),
        ("skipped", 7, "step 6 failed: ZeroDivisionError"),
    ):
        chips[mark].click()
        assert position(stepper) == at
        assert told in stepper.locator(f'.es-problem[data-mark="{mark}"]').inner_text()


def test_a_partial_history_and_a_shortened_one_say_so(page, tmp_path):
    history = folded(lambda state, event: {"n": event.id}, events=50)
    history.partial = "events[0] lacks 3 offsets in 0–2 (retention)"
    stepper = shown(page, tmp_path, history, limit=10)
    assert [one.lstrip("⚠ ") for one in stepper.locator(".es-banner").all_inner_texts()] == [
        "partial: events[0] lacks 3 offsets in 0–2 (retention)",
        "only steps 41 to 50 of 50 are shown; .step(limit=50) shows all",
    ]
    page.keyboard.press("Tab")
    page.keyboard.press("Home")
    assert position(stepper) == 40
    assert '"e39"' in stepper.locator(".es-state").inner_text()


EXACT = {
    "big": 2**53 + 1,
    "bigger": 12345678901234567890123456789012345678901234567890,
    "one": 1.0,
    "small": 5e-324,
    "half": 0.1,
    "large": 1e22,
    "zero": -0.0,
    "money": Decimal("1.10"),
    "many": Decimal("0.1000000000000000000000000001"),
    "text": "1e5",
}


def test_every_number_is_shown_as_pythons_json_writes_it(page, tmp_path):
    stepper = shown(page, tmp_path, folded(lambda state, event: EXACT))
    for name, value in EXACT.items():
        row = stepper.locator(f'.es-state [data-path="{name}"] .es-leaf')
        assert row.inner_text() == dumps(value).decode()


def test_the_numbers_of_a_payload_are_shown_as_they_were_written(page, tmp_path):
    value = b'{"eventType":"OrderChanged","data":{"orderId":"o1",\n\t"a":9007199254740993,\r\n"b":100000000000000000000000000001,"c":1.0}}'
    lab = eslab.play([Record(topic="events", key=b"o1", timestamp_ms=1_767_258_000_000, value=value)], aggregates={"order": "data.orderId"})
    stepper = shown(page, tmp_path, lab.history("order", "o1"))
    assert stepper.locator(".es-data .es-leaf").all_inner_texts() == ['"o1"', "9007199254740993", "100000000000000000000000000001", "1.0"]


# --- strangers' values


HOSTILE = {
    "<script>window.hit = 1</script>": "<script>window.hit = 1</script>",
    "</script><script>window.hit = 1</script>": "</script><script>window.hit = 1</script>",
    "<img src=x onerror=window.hit=1>": "<img src=https://outside.test/x onerror=window.hit=1>",
    "javascript:window.hit=1": "javascript:window.hit=1",
    "__proto__": {"constructor": {"prototype": 1}, "toString": None},
    '"]\\"': "a\\",
    "\u202eabc": "\u202egnp.exe\u2066",
    "a\x00b\x1b[2J": "\x00\x07",
    "\ud800": "\udfff",
    "\u2028": "\ufeff",
    "'; drop table": "&lt;b&gt;",
}


def test_what_strangers_wrote_is_text_and_nothing_of_it_runs_or_leaves(page, tmp_path):
    stepper = shown(page, tmp_path, folded(lambda state, event: HOSTILE))
    assert page.evaluate("window.hit") is None
    assert stepper.locator("script, img, a, iframe, svg, style").count() == 0
    told = stepper.locator(".es-state").inner_text()
    for text in (
        "<script>window.hit = 1</script>",
        "<img src=x onerror=window.hit=1>",
        "\\u202eabc",
        '"\\u202egnp.exe\\u2066"',
        "a\\u0000b\\u001b[2J",
        "\\ud800",
        '"\\udfff"',
        "\\u2028",
        '"\\ufeff"',
        '"&lt;b&gt;"',
    ):
        assert text in told
    assert not {"\u202e", "\u2066", "\u2028", "\ufeff", "\x00"} & set(stepper.text_content())
    assert stepper.locator('.es-state [data-path^="__proto__"]').count() == 4


def test_ids_types_and_sources_of_strangers_are_text(page, tmp_path):
    texts = [text for text in HOSTILE if text != "\ud800"]
    names = ("eventId", "eventType", "source", "correlationId", "causationId", "eventVersion")
    events = [dict.fromkeys(names, text) | {"data": {"orderId": text, text: text}} for text in texts for _ in range(2)]
    lab = eslab.play(events, aggregates={"order": "data.orderId"})
    for text in texts:
        page.goto(lab.history("order", text).step().to_html(tmp_path / "page.html").as_uri())
        page.locator(".es-event h3").wait_for()
        assert page.evaluate("window.hit") is None
        assert page.locator(".eslab-stepper :is(script, img, a, iframe, svg, style)").count() == 0
        seen = "".join(f"\\u{ord(char):04x}" if ord(char) < 32 or char in "\u202e\u2028" else char for char in text)
        assert page.locator(".es-facts dd").all_inner_texts().count(seen) == 4
        assert page.locator(".es-name").inner_text() == f"order {seen}"


def test_text_from_right_to_left_stays_in_its_place(page, tmp_path):
    stepper = shown(page, tmp_path, folded(lambda state, event: {"שלום": "עולם", "total": 1}))
    row = stepper.locator('[data-path="שלום"] > .es-row')
    key, value = (row.locator(name).bounding_box()["x"] for name in (".es-key", ".es-leaf"))
    assert key < value


@pytest.mark.parametrize(
    "made",  # by the test, not by each process that collects it
    [
        pytest.param(lambda: {f"key {at}": "x" * 34 for at in range(100_000)}, marks=pytest.mark.torture, id="many keys"),
        pytest.param(lambda: {"text": "x" * 5_000_000}, id="one giant text"),
        pytest.param(lambda: {"list": list(range(700_000))}, marks=pytest.mark.torture, id="one giant list"),
        pytest.param(
            lambda: {f"k{at}": {f"l{inner}": [1, 2, {"a": "b" * 24}] for inner in range(100)} for at in range(1200)}, id="deep and wide"
        ),
    ],
)
def test_a_state_of_five_megabytes_does_not_freeze_the_page(page, tmp_path, made):
    state = made()

    def handler(before, event):
        return {**state, "at": event.id}

    assert len(dumps(state)) > 4_500_000
    stepper = shown(page, tmp_path, folded(handler, events=4), at=2)
    busy = busy_s(page)
    for action in (
        stepper.get_by_role("button", name="Back").click,
        stepper.get_by_role("button", name="Last").click,
        stepper.get_by_role("button", name="Show unchanged").click,
        stepper.get_by_role("button", name="First").click,
        stepper.get_by_role("button", name="Last").click,
        stepper.locator(".es-state :is(.es-more, .es-fold)").last.click,
    ):
        before = busy()
        action()
        page.evaluate("document.body.offsetHeight")
        assert 0 < busy() - before < SLOW_S
    assert page.locator(".eslab-stepper *").count() < 5000
    assert len(stepper.inner_text()) < 60_000


def test_a_long_text_is_cut_and_shown_in_parts(page, tmp_path):
    stepper = shown(page, tmp_path, folded(lambda state, event: {"a": "é\n" * 6000}))
    row = stepper.locator('.es-state [data-path="a"]')
    assert len(row.inner_text()) < 400
    row.get_by_role("button", name="show 10,000 more of 18,002 characters").click()
    row.get_by_role("button", name="show all").click()
    assert row.locator(".es-leaf").inner_text() == dumps("é\n" * 6000).decode()


# --- many steps


@pytest.fixture(scope="module")
def long():
    return folded(lambda state, event: {**state, "at": event.id, event.id[-1]: event.id}, events=10_000)


def test_of_ten_thousand_events_only_those_in_sight_are_drawn(page, tmp_path, long):
    stepper = shown(page, tmp_path, long)
    events = stepper.get_by_role("listbox", name="Events")
    assert events.get_by_role("option").count() < 60
    assert events.locator("[aria-selected=true]").inner_text().split()[0] == "10,000"
    events.evaluate("(list) => { list.scrollTop = list.scrollHeight / 2; }")
    row = events.locator('[data-position="5005"]')
    row.click()
    assert position(stepper) == 5005
    assert (row.get_attribute("aria-setsize"), row.get_attribute("aria-posinset")) == ("10001", "5006")
    for _ in range(40):
        page.keyboard.press("ArrowUp")
    drawn = [int(one.get_attribute("data-position")) for one in events.get_by_role("option").all()]
    assert drawn == list(range(drawn[0], drawn[-1] + 1))
    assert drawn[0] <= 4965 <= drawn[-1]
    stepper.get_by_role("slider").fill("5005")
    assert '"e5004"' in stepper.locator('.es-state [data-path="at"]').inner_text()


# --- how it looks


@pytest.mark.parametrize(
    ("scheme", "width"),
    [("light", 1280), ("dark", 600), *(pytest.param(*one, marks=pytest.mark.torture) for one in (("light", 600), ("dark", 1280)))],
)
def test_it_is_accessible_in_light_and_dark_wide_and_narrow(chromium, watched, tmp_path, scheme, width):
    events = [order(0, total=1, lines=[1]), order(0, total=2, lines=[]), order(1, kind="Other"), order(2, total=0), order(3, total=0)]
    history = folded(lambda state, event: {"share": 1 / event.data["total"], "lines": event.data["lines"]}, lab=eslab.play(events))
    history.partial = "events[0] lacks 3 offsets"
    with chromium.page(watched, color_scheme=scheme, viewport={"width": width, "height": 800}) as page:
        stepper = shown(page, tmp_path, history, at=2)
        for at in range(2, 6):
            assert position(stepper) == at
            assert axe(page) == []
            stepper.get_by_role("button", name="Forward").press("Enter")
        red, green, blue = page.evaluate(
            "getComputedStyle(document.querySelector('.eslab-stepper')).backgroundColor.match(/\\d+/g).map(Number)"
        )
        assert (red + green + blue > 600) == (scheme == "light")
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        assert stepper.locator(".es-help").inner_text().startswith("← → one step")
    assert watched == Watched()


@pytest.mark.parametrize("light", ["true", "false"])
def test_in_jupyter_the_theme_is_jupyters_whatever_the_system_prefers(chromium, watched, tmp_path, light):
    with chromium.page(watched, color_scheme="dark" if light == "true" else "light") as page:
        shown(page, tmp_path, folded(lambda state, event: {"a": 1}))
        page.evaluate("(light) => document.body.setAttribute('data-jp-theme-light', light)", light)
        assert page.evaluate("getComputedStyle(document.querySelector('.eslab-stepper')).colorScheme") == (
            "light" if light == "true" else "dark"
        )


def test_the_focus_is_seen(page, tmp_path, plain):
    shown(page, tmp_path, plain, at=3)
    for _ in range(9):
        page.keyboard.press("Tab")
        assert (
            page.evaluate("document.activeElement.closest('.eslab-stepper') && getComputedStyle(document.activeElement).outlineStyle")
            == "solid"
        )
