"""The docs say what is so: links lead somewhere, commands can be run, names can be imported."""

import pkgutil
import re
import subprocess
import tomllib
from pathlib import Path

import nbformat
import pytest
import showcase

ROOT = Path(__file__).resolve().parent.parent
DOCS = subprocess.run(["git", "ls-files", "*.md"], cwd=ROOT, check=True, capture_output=True, text=True).stdout.split()
TARGETS = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
FENCE = re.compile(r"^(```|~~~).*?^\1\s*$", re.MULTILINE | re.DOTALL)


def _anchors(text: str) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    titles = re.findall(r"^#+ +(.*?) *$", FENCE.sub("", text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("doc", DOCS)
def test_every_link_leads_somewhere(doc):
    path = ROOT / doc
    dead = []
    for target in re.findall(r"\]\(([^)\s]+)\)", FENCE.sub("", path.read_text())):
        if re.match(r"[a-z]+:", target):
            continue  # the web is not asked: a test must not need it
        file, _, anchor = target.partition("#")
        there = (path.parent / file) if file else path
        if not there.exists() or (anchor and anchor not in _anchors(there.read_text())):
            dead.append(target)
    assert dead == []


@pytest.mark.parametrize("doc", DOCS)
def test_every_make_command_exists(doc):
    named = re.findall(r"(?:^|`)make ((?:[a-z]+ ?)+)", (ROOT / doc).read_text(), re.MULTILINE)
    assert {word for words in named for word in words.split()} - TARGETS == set()


@pytest.mark.parametrize("doc", DOCS)
def test_every_dotted_name_can_be_imported(doc):
    unknown = []
    for name in sorted(set(re.findall(r"`(eslab(?:\.\w+)+)[`(]", (ROOT / doc).read_text()))):
        try:
            pkgutil.resolve_name(name)
        except (ImportError, AttributeError):
            unknown.append(name)
    assert unknown == []


@pytest.mark.parametrize("doc", DOCS)
def test_every_file_that_is_named_exists(doc):
    named = re.findall(r"`((?:eslab|tests|docs|notebooks|benchmarks|\.ci)/[\w./-]+)`", (ROOT / doc).read_text())
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_the_table_of_layers_is_the_one_that_imports_are_held_to():
    contract, *_ = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    table = re.findall(r"^\| `(\w+)(?:\.py|/)` \|", (ROOT / "CONTRIBUTING.md").read_text(), re.MULTILINE)
    assert table == contract["layers"][::-1]


def test_the_showcase_is_the_notebook_as_it_is_now():
    source, shown = nbformat.read(showcase.SOURCE, as_version=4), nbformat.read(showcase.SHOWCASE, as_version=4)
    cells = [(cell.cell_type, cell.source) for cell in shown.cells]
    assert cells[1:] == [(cell.cell_type, cell.source) for cell in source.cells], "stale: run `make showcase`"
    assert all(cell.execution_count for cell in shown.cells if cell.cell_type == "code")


def test_the_showcase_is_small_static_and_of_no_one_machine():
    text = showcase.SHOWCASE.read_text()
    outputs = [output for cell in nbformat.reads(text, as_version=4).cells for output in cell.get("outputs", ())]
    assert {output.output_type for output in outputs} <= {"execute_result", "display_data", "stream"}
    assert {mime for output in outputs for mime in output.get("data", ())} <= showcase.STATIC
    assert not re.search(r"<script|/(home|Users|root|tmp|work)/", text)
    assert len(text) < 1_000_000
