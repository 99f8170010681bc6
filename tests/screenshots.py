"""Writes the pictures of the README and the docs: notebook cells that run in a real JupyterLab on the demo. `make screenshots` calls it.

Look at each one before you commit it; nothing compares them.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import browser
from browser import Chromium, Watched
from jupyter import ROOT, JupyterLab, Notebook

import eslab

DOCS = ROOT / "docs"
SIZE = {"width": 1180, "height": 760}
SHARPNESS = 1.5  # picture pixels per page pixel
HEAVIEST = 500_000  # bytes; a README should not take a second to load


def second_charge(notebook: Notebook) -> None:
    """Step to the event that charged the customer again, as a user would."""
    stepper = notebook.page.get_by_role("group", name="Stepper: order ord-4711")
    stepper.get_by_role("listbox", name="Events").get_by_role("option", name="PaymentCharged").nth(1).click()
    stepper.locator('.es-state [data-path="paymentId"] [role=button]').click()
    stepper.get_by_role("slider", name="Position").focus()


def step_through(notebook: Notebook) -> None:
    """Open both histories of an order that the two projections do not agree on."""
    shown = notebook.output("lab.compare")
    shown.locator("select").select_option(index=2)
    shown.get_by_role("button", name="Step through").click()
    shown.locator(".es-item").nth(8).wait_for()


@dataclass(frozen=True)
class Picture:
    """The first cell whose source holds `cell`, at the top of the window; before the picture is taken, `then` is done."""

    name: str
    cell: str
    then: Callable[[Notebook], None] = lambda _: None
    height: int = SIZE["height"]


CELLS = [
    'import eslab\n\nlab = eslab.Lab("../data/shop", tz="Europe/Berlin")',
    'h = lab.history("order", "ord-4711")\nh',
    "h.step()",
    """
every = eslab.Projection("charged", aggregate="order")


@every.on("PaymentCharged")
def charge(state, event):
    return {"charges": state.get("charges", 0) + 1}


once = every.copy()


@once.on("PaymentCharged")
def charge_once(state, event):
    return {"charges": 1}
""".strip(),
    "lab.compare(every, once)",
    'lab.lag("read-model", start="13:00", stop="16:00").chart()',
]
PICTURES = [
    Picture("history", "h = lab.history"),
    Picture("stepper", "h.step()", second_charge, height=850),
    Picture("compare", "lab.compare", step_through, height=1380),
    Picture("lag", "lab.lag", height=900),
]


def take(lab: JupyterLab, chromium: Chromium, names: list[str]) -> list[str]:
    """Take the pictures of those names, or all; return what is wrong."""
    watched, heavy = Watched(), []
    with chromium.page(watched, viewport=SIZE, device_scale_factor=SHARPNESS) as page:
        notebook = lab.open(page, lab.write("notebooks/shop.ipynb", *CELLS))
        notebook.call("await app.commands.execute('application:toggle-left-area')")
        notebook.run_all()
        for picture in PICTURES:
            if names and picture.name not in names:
                continue
            page.set_viewport_size({**SIZE, "height": picture.height})
            cell = notebook.cell(picture.cell)
            picture.then(notebook)
            cell.evaluate("(cell) => cell.scrollIntoView()")
            page.mouse.move(5, 400)  # nothing is hovered
            page.wait_for_timeout(300)  # what fades has faded
            path = DOCS / f"{picture.name}.png"
            page.screenshot(path=path, animations="disabled", caret="hide")
            print(f"{path.relative_to(ROOT)}: {path.stat().st_size:,} bytes")
            if path.stat().st_size > HEAVIEST:
                heavy.append(f"{path.name} is heavier than {HEAVIEST:,} bytes")
        return [*notebook.errors(), *heavy, *watched.outside, *watched.errors]


def main(names: list[str]) -> int:
    if reason := browser.missing():
        print(reason)
        return 1
    with tempfile.TemporaryDirectory() as made:
        folder, home = Path(made) / "checkout", Path(made) / "jupyter"
        (folder / "notebooks").mkdir(parents=True)
        home.mkdir()
        eslab.demo(folder / "data" / "shop", progress=False)
        with JupyterLab(folder, home=home) as lab, Chromium() as chromium:
            wrong = take(lab, chromium, names)
    for sentence in wrong:
        print(sentence)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
