"""The notebooks as a user meets them: in a real JupyterLab, in a real browser, with nothing but this machine."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest
from browser import Chromium, Watched, axe, contrast, luminance
from jupyter import ROOT, RUN_S, JupyterLab, Notebook
from kafka_cluster import wait_for
from lessons import Lesson

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Page

pytestmark = pytest.mark.notebook

NOTEBOOKS = sorted(path.name for path in (ROOT / "notebooks").glob("*.ipynb"))
# a kernel that ends while JupyterLab asks it; two of Notebook 7, at its start; the splash of JupyterLab's themes, which two in a row remove twice
NOT_OURS = re.compile(r"^(Error: )?Canceled future for|/static/notebook/|'removeChild' on 'Node'.*\n.*/static/lab/jlab_core")
WIDGET = "application/vnd.jupyter.widget-view+json"


@pytest.fixture(scope="module")
def seen() -> Watched:
    return Watched()


@pytest.fixture(scope="module")
def desk(chromium: Chromium, seen: Watched) -> Iterator[Page]:
    """One page for all tests here, as a user's: JupyterLab takes seconds to load, and a notebook in one more tab does not."""
    with chromium.page(seen) as page:
        yield page


@pytest.fixture(autouse=True)
def nothing_left_this_machine_and_nothing_broke(seen: Watched) -> Iterator[None]:
    yield
    found = Watched(seen.outside[:], [error for error in seen.errors if not NOT_OURS.search(error)])
    seen.outside.clear()
    seen.errors.clear()
    assert found == Watched()


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_every_notebook_runs_and_what_it_makes_is_to_be_seen(jupyterlab: JupyterLab, desk: Page, name: str):
    notebook = jupyterlab.open(desk, f"notebooks/{name}")
    notebook.run_all()
    assert notebook.errors() == []
    for chart in notebook.charts():
        assert sum(chart["marks"].values()) > 0, chart
        assert chart["ink"] > 0.02, chart
    for cell in notebook.content().cells:
        shown = [output.get("data", ()) for output in cell.get("outputs", ())]
        if any(WIDGET in data and "text/html" in data for data in shown):  # a progress bar has no HTML, and hides when it is done
            notebook.output(cell.source).locator(".eslab-stepper .es-item, .jupyter-widgets").first.wait_for()
    notebook.close()


# --- the stepper ----------------------------------------------------------------------------------

STEPPING = (
    'import eslab\nlab = eslab.Lab("../data/shop", tz="Europe/Berlin")\nh = lab.history("order", "ord-4711")',
    "stepper = h.step()\nstepper",
)
LABS_OWN = ["a", "b", "x", "d", "d", "m", "y", "j", "k", "Shift+J", "c", "v"]  # in JupyterLab: new cells above and below, cut, delete, ...


@pytest.fixture(scope="module")
def notebook(jupyterlab: JupyterLab, desk: Page) -> Notebook:
    opened = jupyterlab.open(desk, jupyterlab.write("notebooks/stepping.ipynb", *STEPPING))
    opened.run_all()
    assert opened.errors() == []
    return opened


@pytest.fixture
def stepper(notebook: Notebook) -> Iterator[Locator]:
    """The stepper of ord-4711, at its first step and with the focus."""
    root = _stepper(notebook)
    root.get_by_role("slider", name="Position").focus()
    notebook.page.keyboard.press("Home")
    notebook.page.keyboard.press("ArrowRight")
    _at(root, 1)
    yield root
    notebook.theme("JupyterLab Light")


def _stepper(notebook: Notebook) -> Locator:
    notebook.call("app.shell.activateById(nb.id)")
    root = notebook.output("h.step()").get_by_role("group", name="Stepper: order ord-4711")
    root.wait_for()
    return root


def _at(stepper: Locator, position: int) -> None:
    stepper.page.wait_for_function(
        "([root, position]) => root.dataset.position === String(position)", arg=[stepper.element_handle(), position]
    )


def _python(notebook: Notebook, expression: str, wanted: object) -> None:
    """Wait until the kernel says so; a position travels there by itself."""
    told: list[str] = []

    def is_so() -> bool:
        told.append(notebook.ask(f"print({expression})"))
        return told[-1] == str(wanted)

    try:
        wait_for(is_so, f"{wanted} of {expression}")
    except TimeoutError as exc:
        raise AssertionError(f"{expression} is {told[-1]}, not {wanted}; it was {list(dict.fromkeys(told))}") from exc


def test_the_stepper_steps_by_its_buttons(notebook: Notebook, stepper: Locator):
    last = int(notebook.ask("print(len(h))"))
    for name, position in {"Forward": 2, "Last": last, "Back": last - 1, "First": 0}.items():
        stepper.get_by_role("button", name=name, exact=True).click()
        _at(stepper, position)
    assert stepper.get_by_role("button", name="Back", exact=True).is_disabled()


def test_the_stepper_is_scrubbed_by_its_slider(notebook: Notebook, stepper: Locator):
    last = int(notebook.ask("print(len(h))"))
    slider = stepper.get_by_role("slider", name="Position")
    box, mouse, seen = slider.bounding_box(), notebook.page.mouse, []
    mouse.move(box["x"] + 4, box["y"] + box["height"] / 2)
    mouse.down()
    for tenth in range(11):
        mouse.move(box["x"] + 4 + (box["width"] - 8) * tenth / 10, box["y"] + box["height"] / 2)
        seen.append(int(stepper.get_attribute("data-position")))
    mouse.up()
    assert (seen[0], seen[-1]) == (0, last)
    assert seen == sorted(seen)
    assert len(set(seen)) > 5


def test_the_keys_step_and_those_of_jupyterlab_do_not_fire_meanwhile(notebook: Notebook, stepper: Locator):
    press = notebook.page.keyboard.press
    before = [cell.source for cell in notebook.content().cells]
    press("ArrowRight")
    _at(stepper, 2)
    press("End")
    _at(stepper, int(notebook.ask("print(len(h))")))
    press("ArrowLeft")
    _at(stepper, int(notebook.ask("print(len(h))")) - 1)
    press("Home")
    _at(stepper, 0)
    for key in LABS_OWN:
        press(key)
    press("c")  # some of them are the stepper's own too: this one ends the comparison that it began
    assert [cell.source for cell in notebook.content().cells] == before
    _at(stepper, 0)

    assert notebook.call("return nb.context.model.dirty")
    press("Control+s")
    wait_for(lambda: not notebook.call("return nb.context.model.dirty"), "saved notebook")

    notebook.page.locator(".jp-Notebook .jp-InputPrompt:visible").first.click()  # the same key does something outside of the stepper
    press("b")
    wait_for(lambda: len(notebook.content().cells) == len(before) + 1, "new cell")
    notebook.call("await app.commands.execute('notebook:undo-cell-action')")


def test_what_a_step_changed_is_marked_as_python_says(notebook: Notebook, stepper: Locator):
    charge = int(notebook.ask("print(next(step.version for step in h if step.event.type == 'PaymentCharged' and step.version > 3))"))
    notebook.ask(f"stepper.position = {charge}")
    _at(stepper, charge)
    told = set(
        notebook.ask(f"print(*(eslab.model.format_path(change.path) for change in h[{charge - 1}].changes), sep='\\n')").splitlines()
    )
    marked = stepper.get_by_role("group", name="State", exact=True).locator(".es-added, .es-changed, .es-removed")
    assert {node.get_attribute("data-path") for node in marked.all()} == told
    assert told
    for node in marked.all():
        assert node.is_visible()
        assert node.locator("> .es-row > .es-kind").inner_text() in {"added", "changed", "removed"}


def test_the_position_goes_from_the_page_to_python_and_back(notebook: Notebook, stepper: Locator):
    _python(notebook, "stepper.position", 1)
    notebook.ask("stepper.position = 4")
    _at(stepper, 4)
    stepper.get_by_role("button", name="Forward", exact=True).click()
    _python(notebook, "stepper.position, stepper.state.version", "5 5")
    notebook.ask("stepper.state = h.at(version=2)")
    _at(stepper, 2)


@pytest.mark.parametrize("theme", ["JupyterLab Light", "JupyterLab Dark"])
def test_the_stepper_follows_the_theme_and_axe_finds_nothing(notebook: Notebook, stepper: Locator, theme: str):
    notebook.theme(theme)
    colours = stepper.evaluate("(root) => { const {backgroundColor, color} = getComputedStyle(root); return [backgroundColor, color]; }")
    back, text = (sum(map(int, re.findall(r"\d+", colour)[:3])) / 3 for colour in colours)
    assert (back > 240 and text < 60) if theme == "JupyterLab Light" else (back < 60 and text > 200), colours
    for _ in range(int(notebook.ask("print(len(h))"))):
        notebook.page.keyboard.press("ArrowRight")
        if stepper.locator(".es-problem").count():
            break  # a step with a mark has the most colours
    assert axe(notebook.page, ".eslab-stepper") == []


STEP_ALL = """async (root) => {
    const slider = root.querySelector(".es-slider");
    for (let at = 0; at <= Number(slider.max); at++) { slider.value = at; slider.dispatchEvent(new Event("input")); }
    return window.sent.length;
}"""
LISTEN = """
    window.sent = [];
    nb.sessionContext.session.kernel.anyMessage.connect((_, {msg, direction}) => {
        if (direction === "send" && msg.header.msg_type === "comm_msg") window.sent.push(msg);
    });
"""


def test_an_order_is_debugged_through_a_reload_and_the_end_of_its_kernel(jupyterlab: JupyterLab, chromium: Chromium, seen: Watched):
    path = jupyterlab.write("notebooks/debugging.ipynb", *STEPPING)
    with chromium.page(seen) as page:
        notebook = jupyterlab.open(page, path)
        notebook.run_all()
        root = _stepper(notebook)
        press = page.keyboard.press
        last = int(notebook.ask("print(len(h))"))

        notebook.call(LISTEN)
        assert root.evaluate(STEP_ALL) == 0  # no message to the kernel while stepping
        _python(notebook, "stepper.position", last)

        root.get_by_role("slider", name="Position").focus()
        for key in ("Home", "ArrowRight", "b", "End"):
            press(key)
        _python(notebook, "stepper.breakpoints", [["step", 1]])
        charge = int(notebook.ask("print(h.run_back_until(changed='paymentId').version)"))
        root.get_by_role("button", name="Show unchanged").click()
        root.locator('.es-state [data-path="paymentId"] .es-leaf').last.click()
        causes = [row.get_attribute("data-position") for row in root.locator(".es-cause").all()]
        assert causes == notebook.ask("print(*(cause.version for cause in h.blame('paymentId')))").split()
        press("l")
        _at(root, charge)
        root.locator(".es-cause").last.click()
        _at(root, int(causes[-1]))
        press("Shift+R")
        _at(root, 1)

        root.get_by_label("Speed").select_option(label="× 360,000")
        root.get_by_role("button", name="Play").click()
        _at(root, last)
        _python(notebook, "stepper.position", last)
        notebook.theme("JupyterLab Dark")
        assert root.evaluate("(root) => getComputedStyle(root).colorScheme") == "dark"
        notebook.theme("JupyterLab Light")
        root.get_by_role("slider", name="Position").focus()
        press("m")
        press("ArrowLeft")
        _python(notebook, "stepper.position, stepper.bookmarks", f"{last - 1} [{last}]")

        notebook.call("await nb.context.save()")
        page.reload()
        notebook = jupyterlab.open(page, path)
        root = _stepper(notebook)
        _at(root, last - 1)
        root.get_by_role("slider", name="Position").focus()
        for key, position in (("n", last), ("Shift+R", 1)):
            press(key)
            _at(root, position)

        notebook.kill()
        page.locator(".jp-Dialog", has_text="appears to have died").get_by_role("button", name="Ok").click()
        root.get_by_role("slider", name="Position").focus()
        for key, position in (("Home", 0), ("r", 1), ("ArrowRight", 2), ("b", 2), ("End", last), ("Shift+R", 2)):
            press(key)
            _at(root, position)
        assert root.locator(".es-event h3").inner_text().startswith("PaymentRequested")
        notebook.close()


def test_the_stepper_steps_in_notebook_7(jupyterlab: JupyterLab, chromium: Chromium, seen: Watched):
    pytest.importorskip("notebook")
    with chromium.page(seen) as page:
        notebook = jupyterlab.open(page, jupyterlab.write("notebooks/seven.ipynb", *STEPPING), app="notebooks")
        notebook.run_all()
        assert notebook.errors() == []
        root = _stepper(notebook)
        root.get_by_role("slider", name="Position").focus()
        for key in ("Home", "ArrowRight", "b"):
            page.keyboard.press(key)
        _at(root, 1)
        assert len(notebook.content().cells) == len(STEPPING)
        notebook.close()


# --- comparing ------------------------------------------------------------------------------------

COMPARING = (
    """
import eslab
lab = eslab.Lab("../data/shop", tz="Europe/Berlin")
every, once = eslab.Projection("charged", aggregate="order"), eslab.Projection("charged", aggregate="order", version=2)

@every.on("PaymentCharged")
def each(state, event):
    return {**state, "charges": state.get("charges", 0) + 1}

@once.on("PaymentCharged")
def first(state, event):
    return {**state, "charges": 1}
""",
    "found = lab.compare(every, once)\nfound",
)


def test_a_comparison_is_looked_through_and_steps_from_where_the_two_part(jupyterlab: JupyterLab, desk: Page):
    notebook = jupyterlab.open(desk, jupyterlab.write("notebooks/comparing.ipynb", *COMPARING))
    notebook.run_all()
    assert notebook.errors() == []
    shown = notebook.output("lab.compare")
    shown.locator("select").select_option(index=1)
    key = shown.locator("select").input_value().split()[0]
    assert key in notebook.ask("print(*found)").split()
    shown.locator("strong", has_text=key).wait_for()
    assert shown.locator("mark").all_inner_texts() == ["charges", "2", "1"]
    shown.get_by_role("button", name="Step through").click()
    steppers = shown.get_by_role("group", name=f"Stepper: order {key}")
    steppers.nth(1).wait_for()
    version = int(notebook.ask(f"print(found[{key!r}].divergence.version)"))
    for stepper in steppers.all():
        _at(stepper, version)
    assert steppers.count() == 2
    assert axe(desk, f"#{notebook.call('return nb.id')} .jp-OutputArea-output .widget-vbox") == []
    notebook.close()


# --- exploring ------------------------------------------------------------------------------------

HOSTILE = "<img src=x onerror=window.bad=1>\u202egnp.exe\"'</td>"
EXPLORING = (
    'import eslab\nlab = eslab.Lab("../data/shop", tz="Europe/Berlin")',
    "lab.explore()",
    f"""
text = {HOSTILE!r}
toy = eslab.play([{{"eventId": text, "eventType": text, "data": {{"orderId": text, text: text}}}}], tz="UTC")
toy.explore(search=text)
""",
)


def test_a_lab_is_leafed_through_by_keys_and_a_row_opens_in_the_stepper(jupyterlab: JupyterLab, desk: Page):
    notebook = jupyterlab.open(desk, jupyterlab.write("notebooks/exploring.ipynb", *EXPLORING))
    notebook.run_all()
    assert notebook.errors() == []
    cell, press = notebook.output("lab.explore()"), desk.keyboard.press
    root = cell.get_by_role("group", name="Explorer: shop")
    said, rows, line = root.locator(".ee-said"), root.locator(".ee-row"), root.locator(".ee-line")

    def shows(*words: str) -> None:
        wait_for(lambda: all(word in said.inner_text() for word in words), f"{words} in {said.inner_text()!r}", RUN_S)

    shows("1 to 50 of ")
    rows.first.focus()
    press("PageDown")
    shows("51 to 100 of ")
    wait_for(lambda: rows.first.evaluate("(row) => row === document.activeElement"), "the focus in the first row", RUN_S)
    press("PageUp")
    shows("1 to 50 of ")

    press("/")
    desk.keyboard.type("ord-4711")
    press("Enter")
    shows("records with 'ord-4711'", "looked through all")
    assert rows.first.locator("mark").first.inner_text() == "ord-4711"
    root.get_by_label("from", exact=True).fill("soon")
    press("Enter")
    root.get_by_text("'soon' is no time").wait_for()
    root.get_by_label("from", exact=True).fill("10:25:03")
    press("Enter")
    wait_for(lambda: "--start 2026-03-12T10:25:03+01:00" in line.inner_text(), "the line of shell", RUN_S)

    rows.first.focus()
    press("ArrowDown")
    event = desk.locator(".ee-row:focus").get_attribute("data-at")
    press("Enter")  # opens the order, which was searched for
    stepper = cell.get_by_role("group", name="Stepper: order ord-4711")
    stepper.wait_for()
    version = int(
        notebook.ask(f"h = lab.history('order', 'ord-4711'); print(next(s.version for s in h if str(s.event.coordinates) == {event!r}))")
    )
    _at(stepper, version)
    assert root.locator(".ee-row[aria-current]").get_attribute("data-at") == event
    assert root.locator(".ee-noted").inner_text() == "order ord-4711 is open in the stepper below"
    assert stepper.locator(".es-line").inner_text() == f"eslab at ../data/shop order ord-4711 v{version} --tz Europe/Berlin"
    stepper.get_by_role("button", name="Forward", exact=True).click()
    stepper.locator(".es-line", has_text=f"order ord-4711 v{version + 1} ").wait_for()
    assert len(notebook.content().cells) == len(EXPLORING)  # no key was the notebook's

    notebook.theme("JupyterLab Dark")
    assert axe(desk, ".eslab-explorer") == []
    notebook.theme("JupyterLab Light")
    hostile = notebook.output("toy.explore").locator(".eslab-explorer")
    hostile.locator(".ee-belongs").click()
    notebook.output("toy.explore").locator(".eslab-stepper").wait_for()
    assert hostile.locator("img").count() == 0
    assert "\\u202egnp.exe" in hostile.locator(".ee-belongs").inner_text()
    assert desk.evaluate("window.bad") is None
    _say_that_no_kernel_answers(notebook, root)


def _say_that_no_kernel_answers(notebook: Notebook, explorer: Locator) -> None:
    notebook.call("await nb.sessionContext.shutdown()")
    explorer.get_by_role("searchbox").fill("ord-4712")
    for _ in range(2):  # and again, if it is asked again
        explorer.get_by_role("button", name="Show").click()
        explorer.get_by_text("the kernel is gone").wait_for()
        assert explorer.get_attribute("aria-busy") is None
    notebook.close()


# --- charts ---------------------------------------------------------------------------------------

CHARTING = (
    'import altair, eslab, pandas\nlab = eslab.Lab("../data/shop", tz="Europe/Berlin")\neslab.use_offline_charts()',
    'lab.lag("billing").chart()',
    'lab.throughput(["orders", "payments"]).chart()',
    'altair.Chart(pandas.DataFrame({"x": [1, 2, 3], "y": [2, 4, 3]})).mark_bar().encode(x="x:O", y="y:Q")',
    'altair.Chart(pandas.DataFrame({"x": [], "y": []})).mark_line().encode(x="x:Q", y="y:Q")',
)


@pytest.fixture(scope="module")
def charting(jupyterlab: JupyterLab, desk: Page) -> Notebook:
    notebook = jupyterlab.open(desk, jupyterlab.write("notebooks/charting.ipynb", *CHARTING))
    notebook.run_all()
    assert notebook.errors() == []
    return notebook


def test_every_chart_is_drawn_and_an_empty_one_is_told_from_it(charting: Notebook):
    lag, throughput, bars, empty = charting.charts()
    assert lag["marks"]["line"] > 100
    assert throughput["marks"]["line"] > 100
    assert bars["marks"] == {"rect": 3}
    assert sum(empty["marks"].values()) == 0
    assert min(lag["ink"], throughput["ink"], bars["ink"]) > 0.02


def test_charts_can_be_read_in_either_theme(charting: Notebook):
    light = charting.charts()[:2]
    charting.theme("JupyterLab Dark")
    charting.run_all()
    dark = charting.charts()[:2]
    charting.theme("JupyterLab Light")
    for chart in [*light, *dark]:
        assert chart["texts"]
        assert chart["lines"]
        assert {colour: contrast(colour, chart["back"]) for colour in chart["texts"] if contrast(colour, chart["back"]) < 4.5} == {}
        assert {colour: contrast(colour, chart["back"]) for colour in chart["lines"] if contrast(colour, chart["back"]) < 3} == {}
    assert [luminance(chart["back"]) > 0.5 for chart in [*light, *dark]] == [True, True, False, False]


# --- lessons --------------------------------------------------------------------------------------

SET_SOURCE = """
    const cell = nb.content.widgets.find((one) => (one.model.getMetadata("tags") ?? []).includes(args[0]));
    cell.model.sharedModel.setSource(args[1]);
"""


@pytest.mark.parametrize(
    "stem", ["02-event-sourcing", *(pytest.param(stem, marks=pytest.mark.torture) for stem in ("01-events-and-commands", "08-idempotency"))]
)
def test_the_map_leads_to_a_lesson_whose_switch_breaks_it_and_whose_failure_is_stepped_through(
    jupyterlab: JupyterLab, desk: Page, stem: str
):
    path, lesson = f"notebooks/patterns/{stem}.ipynb", Lesson(ROOT / "notebooks" / "patterns" / f"{stem}.ipynb")
    if not desk.url.startswith(f"{jupyterlab.url}lab"):
        jupyterlab.open(desk, jupyterlab.write("notebooks/empty.ipynb", "")).close()
    desk.evaluate("async () => { await window.jupyterapp.commands.execute('docmanager:open', {path: 'notebooks/README.md'}); }")
    title = next(iter(lesson.sections()))
    desk.locator(".jp-MarkdownViewer").get_by_role("link", name=title).click()  # it opened to be read, not as source
    desk.wait_for_function("(path) => window.jupyterapp.shell.currentWidget?.context?.path === path", arg=path)
    notebook = jupyterlab.open(desk, path)
    notebook.call(SET_SOURCE, "switch", lesson.thrown().tagged("switch").source)
    notebook.run_all()
    assert notebook.errors() == []
    (broken,) = (cell for cell in lesson.sections()["What it looks like then"] if ".step(" in cell.source)
    stepper = notebook.output(broken.source).locator(".eslab-stepper")
    stepper.get_by_role("slider", name="Position").focus()
    for key, position in (("Home", 0), ("ArrowRight", 1), ("ArrowRight", 2), ("ArrowLeft", 1)):
        desk.keyboard.press(key)
        _at(stepper, position)
    notebook.close()
