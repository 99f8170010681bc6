"""The docs say what is so: links lead somewhere, commands can be run, names can be imported."""

import pkgutil
import re
import subprocess
import tomllib
from pathlib import Path

import pytest

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
    (contract,) = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    table = re.findall(r"^\| `(\w+)(?:\.py|/)` \|", (ROOT / "CONTRIBUTING.md").read_text(), re.MULTILINE)
    assert table == contract["layers"][::-1]
