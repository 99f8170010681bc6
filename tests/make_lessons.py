"""Writes the lessons for handing out, each with its switch thrown: one HTML page that steps without a kernel and asks for nothing, and slides. `make lessons` calls it.

They come to build/lessons/, or to the folder that is named.
"""

from __future__ import annotations

import base64
import contextlib
import html
import re
import sys
from pathlib import Path
from typing import Any

import nbformat
from lessons import PATHS, ROOT, Lesson, Run, run
from nbconvert import HTMLExporter, SlidesExporter
from nbformat import NotebookNode

TEMPLATES = Path(__file__).resolve().parent / "handouts"
WIDGET = "application/vnd.jupyter.widget-view+json"
CHART = "application/vnd.vegalite.v5+json"
STATIC = ("text/html", "image/svg+xml", "image/png", "text/plain")


def executed(lesson: Lesson) -> NotebookNode:
    """The lesson with what its cells show: a stepper as a page in the page, a chart as a picture, and nothing that needs a kernel."""
    names: dict[str, Any] = {"__name__": "__main__"}
    with contextlib.chdir(lesson.path.parent):
        for number, cell in enumerate(lesson.code, 1):
            done = run(cell.source, names)
            cell.execution_count = number
            cell.outputs = list(_outputs(done, number))
    return lesson.book


def _outputs(done: Run, number: int):
    if done.printed:
        yield nbformat.v4.new_output("stream", name="stdout", text=done.printed)
    if done.shown:
        data = {mime: done.shown[mime] for mime in STATIC if mime in done.shown}
        if WIDGET in done.shown and hasattr(done.value, "to_html"):
            page = html.escape(done.value.to_html())
            data = {"text/html": f'<iframe title="{html.escape(repr(done.value))}" height="{done.value.height}" srcdoc="{page}"></iframe>'}
        elif CHART in done.shown:
            picture = base64.b64encode(done.shown["image/svg+xml"].encode()).decode()
            told = html.escape(done.shown[CHART].get("description", "a chart"))  # nbconvert would say that nothing is known of it
            data = {"text/html": f'<img class="chart" alt="{told}" src="data:image/svg+xml;base64,{picture}">'}
        yield nbformat.v4.new_output("execute_result", data=data, execution_count=number)


def alone(book: NotebookNode) -> NotebookNode:
    """The same without links into a folder that is not handed out."""
    for cell in book.cells:
        if cell.cell_type == "markdown":
            cell.source = re.sub(r" \[All lessons\]\([^)\s]+\)", "", cell.source)
            cell.source = re.sub(r"\[([^\]]+)\]\((?!https?:)[^)\s]+\)", r"\1", cell.source)
    return book


def page(book: NotebookNode, title: str) -> str:
    return _converted(HTMLExporter, "page.html.j2", book, title)


def slides(book: NotebookNode, title: str) -> str:
    return _converted(SlidesExporter, "slides.html.j2", told_together(book), title)


def told_together(book: NotebookNode) -> NotebookNode:
    """The same for slides that are made to fit: a cell with the words before it, and what is said of it before the next heading. (reveal.js lets that overflow.)"""
    cells: list[NotebookNode] = []
    for cell in book.cells:
        first, *headed = re.split(r"\n\n(?=## )", cell.source) if cell.cell_type == "markdown" and not cell.source.startswith("#") else [""]
        if headed:
            cells.append(_cell(cell, "-", source=first))
            cell = _cell(cell, "slide", source="\n\n".join(headed), id=f"{cell.id}-headed")
        elif cell.cell_type == "code" and cells and cells[-1].cell_type == "markdown":
            cell = _cell(cell, "-")
        cells.append(cell)
    return nbformat.from_dict({**book, "cells": cells})


def _cell(cell: NotebookNode, slide_type: str, **changed: str) -> NotebookNode:
    return nbformat.from_dict({**cell, "metadata": {**cell.metadata, "slideshow": {"slide_type": slide_type}}, **changed})


def _converted(exporter: Any, template: str, book: NotebookNode, title: str) -> str:
    told, _ = exporter(raw_template=(TEMPLATES / template).read_text()).from_notebook_node(book, resources={"metadata": {"name": title}})
    return told


def main(folder: Path) -> int:
    folder.mkdir(parents=True, exist_ok=True)
    for path in PATHS:
        lesson = Lesson(path).thrown()
        title, book = next(iter(lesson.sections())), alone(executed(lesson))
        for name, text in ((f"{path.stem}.html", page(book, title)), (f"{path.stem}-slides.html", slides(book, title))):
            (folder / name).write_text(text, encoding="utf-8")
            print(f"{folder / name}: {len(text.encode()):,} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "build" / "lessons"))
