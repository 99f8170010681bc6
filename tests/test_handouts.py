"""What a teacher hands out: a lesson as one page that steps without a kernel and asks for nothing, and slides that all fit."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from lessons import PATHS, Lesson
from make_lessons import alone, executed, told_together
from make_lessons import page as as_page
from make_lessons import slides as as_slides

if TYPE_CHECKING:
    from pathlib import Path

    from playwright.sync_api import Page

pytestmark = pytest.mark.notebook

SMALLEST = 0.5  # how far a slide may be shrunk and still be read from the last row
ONE = "02-event-sourcing"
STEMS = [path.stem if path.stem == ONE else pytest.param(path.stem, marks=pytest.mark.torture) for path in PATHS]


@pytest.mark.parametrize("stem", STEMS)
def test_a_lesson_is_handed_out_as_a_page_that_steps_and_as_slides_that_fit(page: Page, tmp_path: Path, stem: str):
    (path,) = (path for path in PATHS if path.stem == stem)
    lesson = Lesson(path).thrown()
    book = alone(executed(lesson))
    (tmp_path / "page.html").write_text(as_page(book, "a lesson"))
    (tmp_path / "slides.html").write_text(as_slides(book, "a lesson"))
    _steps(page, tmp_path / "page.html", wanted=sum(".step(" in cell.source for cell in lesson.code))
    _fits(page, tmp_path / "slides.html")


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_a_cell_stands_on_the_slide_of_the_words_before_it_and_nothing_is_lost(path):
    book = Lesson(path).book
    cells = told_together(book).cells
    assert "\n\n".join(cell.source for cell in cells) == "\n\n".join(cell.source for cell in book.cells)
    kinds = [cell.metadata.slideshow.slide_type for cell in cells]
    for before, cell, kind in zip(cells, cells[1:], kinds[1:], strict=False):
        if cell.cell_type == "code":
            assert kind == ("-" if before.cell_type == "markdown" else "subslide"), cell.source
        assert (kind == "slide") == cell.source.startswith("## "), cell.source
    assert len({cell.id for cell in cells}) == len(cells)


def _steps(page: Page, file: Path, *, wanted: int) -> None:
    page.goto(file.as_uri())
    frames = page.locator("iframe")
    assert frames.count() == wanted
    for number in range(wanted):
        stepper = frames.nth(number).content_frame.locator(".eslab-stepper")
        stepper.get_by_role("slider", name="Position").focus()
        page.keyboard.press("Home")
        page.keyboard.press("ArrowRight")
        assert stepper.get_attribute("data-position") == "1"
    assert page.locator("details").count() >= 1
    assert page.locator("a[href]:not([href^='https://']):not([href^='#'])").count() == 0


def _fits(page: Page, file: Path) -> None:
    page.goto(file.as_uri())
    count = page.evaluate("slides.length")
    assert count > 10
    for number in range(count):
        box = page.evaluate(
            "(n) => { go(n); const {left, right, top, bottom} = slides[n].getBoundingClientRect(); return [left, right, top, bottom]; }",
            number,
        )
        left, right, top, bottom = box
        assert left >= -1 and right <= 1281 and top >= -1 and bottom <= 901, (number + 1, box)  # noqa: PT018
        scale = page.evaluate("(n) => slides[n].getBoundingClientRect().width / slides[n].offsetWidth", number)
        assert scale >= SMALLEST, (number + 1, scale)
        inner = page.evaluate("(n) => [slides[n].scrollWidth, slides[n].clientWidth]", number)
        assert inner[0] <= inner[1], (number + 1, inner)
    page.keyboard.press("Home")
    page.keyboard.press("ArrowRight")
    assert page.locator("nav span").inner_text() == f"2 / {count}"
