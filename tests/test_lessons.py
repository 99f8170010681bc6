"""Every lesson has the form of CONTRIBUTING.md ("A lesson"), breaks as it says it does, and is mended by its repair and its solution."""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path
from typing import Any

import pytest
from lessons import PATHS, PICTURES, ROOT, SECTIONS, SHOP, Lesson, run, slide_types

import eslab

MAP = ROOT / "notebooks" / "README.md"
MINUTES = 15
CODE_CELLS = 15
LINES = 25
SHARED = {"altair", "confluent_kafka", "duckdb", "pandas"}  # what a notebook of eslab has anyhow, beside the standard library
LESSONS = pytest.mark.parametrize("lesson", [Lesson(path) for path in PATHS], ids=lambda lesson: lesson.path.stem)


def _links(text: str) -> list[str]:
    return re.findall(r"\]\(([^)\s]+)\)", text)


# --- the form -------------------------------------------------------------------------------------


@LESSONS
def test_a_lesson_has_its_sections_in_their_order(lesson):
    title, *rest = lesson.sections()
    assert re.fullmatch(rf"{int(lesson.path.stem[:2])}\. .+", title)
    assert tuple(rest) == SECTIONS


@LESSONS
def test_a_lesson_is_short(lesson):
    assert len(lesson.code) <= CODE_CELLS
    assert {cell.id: n for cell in lesson.code if (n := len(cell.source.splitlines())) > LINES} == {}


@LESSONS
def test_each_part_of_a_lesson_stands_in_its_section(lesson):
    sections = lesson.sections()
    parts = {"system": "The system", "switch": "The switch", "exercise": "Exercise", "check": "Exercise", "solution": "Exercise"}
    for tag, section in parts.items():
        assert lesson.tagged(tag) in sections[section], tag
    assert lesson.switch.isupper()
    assert [cell for cell in sections["The switch"] if cell.cell_type == "code"] == [lesson.tagged("switch")]
    assert lesson.code.index(lesson.tagged("check")) == lesson.code.index(lesson.tagged("exercise")) + 1
    assert all(any(cell.cell_type == "code" for cell in sections[name]) for name in SECTIONS[2:4] + SECTIONS[5:7])


@LESSONS
def test_the_solution_is_folded_away(lesson):
    solution = lesson.tagged("solution")
    assert solution.cell_type == "markdown"
    assert re.fullmatch(r"<details><summary>.+?</summary>\n\n.*```python\n.+```\n.*</details>\s*", solution.source, re.DOTALL)


@LESSONS
def test_a_lesson_is_committed_without_outputs(lesson):
    assert all(not cell.outputs and cell.execution_count is None for cell in lesson.code)
    assert set(lesson.book.metadata) <= {"kernelspec", "language_info"}


@LESSONS
def test_a_lesson_has_no_helper_but_the_public_names_of_eslab(lesson):
    tree = ast.parse("\n".join(cell.source for cell in lesson.code))
    imported = {name.name for node in ast.walk(tree) if isinstance(node, ast.Import) for name in node.names}
    imported |= {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert "eslab" in imported
    assert {name.partition(".")[0] for name in imported} - sys.stdlib_module_names - SHARED == {"eslab"}
    assert not {name for name in imported if name.startswith("eslab.")}, "only `import eslab`"
    used = {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "eslab"
    }
    assert used <= set(eslab.__all__)


@LESSONS
def test_the_links_of_a_lesson_lead_somewhere_and_one_goes_back_to_the_map(lesson):
    links = [link for cell in lesson.book.cells if cell.cell_type == "markdown" for link in _links(cell.source)]
    local = [link.partition("#")[0] for link in links if not re.match(r"[a-z]+:", link)]
    assert [link for link in local if not (lesson.path.parent / link).exists()] == []
    assert "../README.md" in local


@LESSONS
def test_a_lesson_ends_with_three_lines_of_what_real_systems_do_and_where_that_is_written(lesson):
    text = "\n".join(cell.source for cell in lesson.sections()["In real systems"])
    lines = re.findall(r"^- .+", text, re.MULTILINE)
    assert len(lines) == 3
    assert any(link.startswith("https://") for line in lines for link in _links(line))


@LESSONS
def test_each_cell_of_a_lesson_has_its_place_in_a_slide_show(lesson):
    wanted = list(slide_types(lesson.book))
    assert [cell.metadata.get("slideshow", {}).get("slide_type") for cell in lesson.book.cells] == wanted


@LESSONS
def test_the_map_names_every_lesson_with_its_title_and_its_minutes(lesson):
    title = next(iter(lesson.sections()))
    number, _, name = title.partition(". ")
    row = re.search(rf"^\| \[{number}\. {re.escape(name)}\]\(patterns/{lesson.path.name}\) \| (\d+)\smin \|", MAP.read_text(), re.MULTILINE)
    assert row, "the map lacks it, or calls it otherwise"
    assert int(row[1]) <= MINUTES
    assert f"{row[1]} minutes" in lesson.book.cells[0].source


@LESSONS
def test_for_each_exercise_some_wrong_answers_are_thought_of(lesson):
    assert len(lesson.wrong_answers()) >= 3


# --- what it does ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("lessons") / "shop"
    eslab.demo(folder, progress=False)
    return folder


@pytest.mark.notebook
@LESSONS
@pytest.mark.parametrize("thrown", [False, True], ids=["as it stands", "thrown"])
def test_a_lesson_keeps_its_promises_and_its_exercise_tells_unsolved_from_solved(lesson, thrown, request, monkeypatch):
    read = lesson.thrown() if thrown else lesson
    monkeypatch.chdir(lesson.path.parent)
    shop = str(request.getfixturevalue("shop")) if any(SHOP in cell.source for cell in read.code) else ""
    names: dict[str, Any] = {"__name__": "__main__"}
    runs = {}
    for cell in read.code:
        runs[cell.id] = run(cell.source, names, shop=shop, draw=thrown)  # a picture takes most of the time: once is enough
        _keeps(cell, names, thrown=thrown)

    sections = read.sections()
    for name in ("Look at it", "What it looks like then") if thrown else ():
        assert any(PICTURES & runs[cell.id].shown.keys() for cell in sections[name] if cell.cell_type == "code"), (
            f"no picture under {name!r}"
        )

    check = read.tagged("check")
    assert re.match("Still wrong: ", runs[check.id].printed)
    for told, answer in () if thrown else read.wrong_answers():
        run(read.tagged("exercise").source, names, shop=shop)
        run(answer, names, shop=shop)
        said = run(check.source, names, shop=shop).printed
        assert re.fullmatch("(Still wrong: .+\n)+", said), (answer, said)
        assert told in said, answer
    if not thrown:
        run(read.tagged("exercise").source, names, shop=shop)
    run(read.solution, names, shop=shop)
    assert run(check.source, names, shop=shop).printed == "Solved.\n"


def _keeps(cell: Any, names: dict[str, Any], *, thrown: bool) -> None:
    """Hold a cell to what its metadata promise; what is promised of the broken system must not be so of the whole one, and the reverse."""
    promises = cell.metadata.get("promises", {})
    assert set(promises) in (set(), {"always"}, {"whole", "broken"}), f"{cell.id}: a promise is 'always', or both 'whole' and 'broken'"
    kept = {when: bool(eval(told, names)) for when, told in promises.items()}
    wanted = {"always": True, "whole": not thrown, "broken": thrown}
    assert kept == {when: wanted[when] for when in promises}, f"{cell.id}: {promises}"


@pytest.mark.notebook
def test_a_switch_that_breaks_nothing_is_noticed():
    lesson, names = Lesson(PATHS[0]), {"__name__": "__main__"}

    def as_if_thrown():
        for cell in lesson.code:
            run(cell.source, names, draw=False)
            _keeps(cell, names, thrown=True)

    with pytest.raises(AssertionError, match="broken"):
        as_if_thrown()


@LESSONS
def test_a_lesson_promises_what_breaks_and_that_the_repair_holds_either_way(lesson):
    sections = lesson.sections()
    promised = {name: [set(cell.metadata.get("promises", ())) for cell in cells] for name, cells in sections.items()}
    assert {"whole", "broken"} in promised["What it looks like then"]
    assert {"always"} in promised["The repair"]
    assert {"always"} in promised["Run it"] + promised["Look at it"]
