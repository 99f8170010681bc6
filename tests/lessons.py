"""What a lesson is (the form: CONTRIBUTING.md, "A lesson"), and how it is read: its cells run in this process, one after the other, in one namespace."""

from __future__ import annotations

import ast
import contextlib
import io
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat
from IPython.core.formatters import DisplayFormatter
from nbformat import NotebookNode

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "notebooks" / "patterns"
PATHS = sorted(FOLDER.glob("*.ipynb"))
SECTIONS = (
    *("The question", "The system", "Run it", "Look at it", "The switch", "What it looks like then", "The repair"),
    *("Exercise", "In real systems"),
)
SHOP = '"../../data/shop"'  # as a lesson names the demo lab
WRONG = ROOT / "tests" / "wrong_answers.md"
PICTURES = {"image/svg+xml", "text/html"}


@dataclass(frozen=True)
class Run:
    """What a code cell showed: what it printed, the value of its last line, and that as a notebook would be given it."""

    printed: str
    value: Any
    shown: dict[str, Any]


class Lesson:
    """A lesson as it is on disk. Nothing is checked here: what is not there raises where it is asked for."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.book: NotebookNode = nbformat.read(path, as_version=4)

    @property
    def code(self) -> list[NotebookNode]:
        return [cell for cell in self.book.cells if cell.cell_type == "code"]

    def tagged(self, tag: str) -> NotebookNode:
        (cell,) = (cell for cell in self.book.cells if tag in cell.metadata.get("tags", ()))
        return cell

    def sections(self) -> dict[str, list[NotebookNode]]:
        """The cells under each heading, in their order; the first heading is the title."""
        found: dict[str, list[NotebookNode]] = {}
        for cell in self.book.cells:
            for line in cell.source.splitlines() if cell.cell_type == "markdown" else ():
                if line.startswith(("# ", "## ")):
                    found[line.lstrip("# ")] = []
            if found:
                found[next(reversed(found))].append(cell)
        return found

    @property
    def switch(self) -> str:
        """The name of the switch."""
        (assignment,) = ast.parse(self.tagged("switch").source).body
        match assignment:
            case ast.Assign(targets=[ast.Name(id=name)], value=ast.Constant(value=False)):
                return name
        raise AssertionError(f"{self.path.name}: the switch is one line, NAME = False")

    def thrown(self) -> Lesson:
        """The same lesson with its switch thrown."""
        other = Lesson(self.path)
        cell = other.tagged("switch")
        cell.source = cell.source.replace(f"{self.switch} = False", f"{self.switch} = True")
        return other

    @property
    def solution(self) -> str:
        """The code that is folded away."""
        _, _, rest = self.tagged("solution").source.partition("```python\n")
        return rest.partition("```")[0]

    def wrong_answers(self) -> list[tuple[str, str]]:
        """What the check has to say, and to which answer, by `wrong_answers.md`."""
        (section,) = re.findall(rf"^## {int(self.path.stem[:2])}\. .+?(?=^## |\Z)", WRONG.read_text(), re.MULTILINE | re.DOTALL)
        return re.findall(r"^> ([^\n]+)\n\n```python\n(.+?)^```$", section, re.MULTILINE | re.DOTALL)


def slide_types(book: NotebookNode) -> Iterator[str]:
    """What each cell is in a slide show: a slide for each heading, the system, the exercise and what has an output on one of its own; no folded solution."""
    for cell in book.cells:
        if "solution" in cell.metadata.get("tags", ()):
            yield "skip"
        elif cell.cell_type == "markdown":
            yield "slide" if cell.source.startswith("#") else "subslide"
        else:
            yield "-" if "switch" in cell.metadata.get("tags", ()) else "subslide"


def run(source: str, names: dict[str, Any], *, shop: str = "", draw: bool = True) -> Run:
    """Run a cell as a notebook would, with the demo lab at `shop` if it is elsewhere; without `draw`, show nothing. A word on stderr is an error, as in `make notebooks`."""
    tree = ast.parse(source.replace(SHOP, repr(shop)) if shop else source)
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    printed, complained = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(complained):
        exec(compile(tree, "<lesson>", "exec"), names)
        value = None if last is None else eval(compile(ast.Expression(last.value), "<lesson>", "eval"), names)
        shown = {} if value is None or not draw else DisplayFormatter().format(value)[0]
    assert complained.getvalue() == ""
    return Run(printed.getvalue(), value, shown)
