"""The notebooks as a user meets them: in a real JupyterLab, in a real browser, with nothing but this machine."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest
from browser import Chromium, Watched
from jupyter import JupyterLab, Notebook

if TYPE_CHECKING:
    from playwright.sync_api import Page


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
    found = Watched(seen.outside[:], seen.errors[:])
    seen.outside.clear()
    seen.errors.clear()
    assert found == Watched()


@pytest.fixture(scope="module")
def tour(jupyterlab: JupyterLab, desk: Page) -> Notebook:
    notebook = jupyterlab.open(desk, "notebooks/00-tour.ipynb")
    notebook.run_all()
    return notebook


def test_the_tour_runs_to_its_end(tour: Notebook):
    assert tour.errors() == []
    assert "PaymentCharged" in tour.output("h = lab.history").inner_text()


def test_the_tour_runs_in_notebook_7(jupyterlab: JupyterLab, chromium: Chromium, seen: Watched):
    pytest.importorskip("notebook")
    with chromium.page(seen) as page:
        notebook = jupyterlab.open(page, "notebooks/00-tour.ipynb", app="notebooks")
        notebook.run_all()
        assert notebook.errors() == []
        assert "PaymentCharged" in notebook.output("h = lab.history").inner_text()
        notebook.close()
    seen.errors[:] = [error for error in seen.errors if "/static/notebook/" not in error]  # two of its own, at its start
