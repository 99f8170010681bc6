"""What is shipped: the wheel, the conda environment, the Makefile, and the runner of notebooks."""

import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import nbformat
import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from rattler import MatchSpec
from run_notebooks import run

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

CONDA_NAMES = {"duckdb": "python-duckdb", "tzdata": "python-tzdata", "confluent-kafka": "python-confluent-kafka"}
CONDA_ONLY = {"python", "cramjam", "hatchling", "pip"}  # the interpreter, what an extra of aiokafka means, and what builds eslab


def _conda_specs() -> dict[str, SpecifierSet]:
    entries = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    specs = [MatchSpec(entry) for entry in entries if isinstance(entry, str)]
    return {spec.name.normalized: _as_specifiers(str(spec.version or "")) for spec in specs}


def _as_specifiers(version: str) -> SpecifierSet:
    """conda writes `0.14.*` for `==0.14.*`."""
    return SpecifierSet(version if not version or version[0] in "<>=!~" else "==" + version)


def test_the_conda_environment_names_the_same_dependencies_in_the_same_versions():
    wanted = [
        Requirement(text)
        for text in (
            *PROJECT["dependencies"],
            *(one for extra in ("cluster", "demo", "lab") for one in PROJECT["optional-dependencies"][extra]),
        )
    ]
    found = _conda_specs()
    assert found.pop("python") == SpecifierSet(PROJECT["requires-python"])
    assert {name: spec for name, spec in found.items() if name not in CONDA_ONLY} == {
        CONDA_NAMES.get(one.name, one.name): one.specifier for one in wanted
    }


def test_what_the_extras_of_aiokafka_stand_for_is_in_the_conda_environment():
    (aiokafka,) = (one for one in map(Requirement, PROJECT["dependencies"]) if one.name == "aiokafka")
    assert aiokafka.extras == {"lz4", "snappy", "zstd"}  # all three are cramjam
    assert "cramjam" in _conda_specs()


def test_the_conda_environment_installs_from_conda_forge_alone():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    assert environment["channels"] == ["conda-forge", "nodefaults"]
    assert environment["dependencies"][-1] == {"pip": ["--no-build-isolation --no-deps -e ."]}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("wheel")
    subprocess.run([sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", out, ROOT], check=True, capture_output=True)
    (built,) = out.glob("*.whl")
    return built


def test_the_wheel_holds_the_package_whole_and_nothing_else(wheel):
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if ".dist-info/" not in name}
    tracked = subprocess.run(["git", "ls-files", "eslab"], cwd=ROOT, check=True, capture_output=True, text=True).stdout.split()
    assert packed >= set(tracked)
    assert "eslab/py.typed" in packed
    assert {name.split("/")[0] for name in packed} == {"eslab"}


def test_the_wheel_works_away_from_its_source(wheel, tmp_path):
    target = tmp_path / "site"
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-index", "--target", target, wheel], check=True)
    script = (
        "import sys; sys.path.insert(0, sys.argv[1]); import eslab\n"
        "assert eslab.__file__.startswith(sys.argv[1]), eslab.__file__\n"
        "missing = [name for name in eslab.__all__ if not hasattr(eslab, name)]\n"
        "assert not missing, missing\n"
        "assert eslab.__all__\n"
    )
    done = subprocess.run([sys.executable, "-c", script, target], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


# --- Makefile -------------------------------------------------------------------------------------


def _make(*arguments: str, **settings: str) -> subprocess.CompletedProcess:
    command = ["make", "--no-print-directory", *arguments, *(f"{name}={value}" for name, value in settings.items())]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_make_alone_says_what_there_is_to_make():
    said = _make().stdout
    assert re.findall(r"make (\w+)", said) == [
        *("help", "lab", "test", "torture", "lint", "bench", "notebooks", "lessons", "screenshots", "showcase", "docs", "clean")
    ]


def test_a_python_that_is_too_old_is_refused_with_the_way_out(tmp_path):
    old = tmp_path / "python3.10"
    old.write_text('#!/bin/sh\n[ "$1" = --version ] && echo Python 3.10.4\nexit 1\n')
    old.chmod(0o755)
    done = _make(str(tmp_path / "venv" / "made"), PYTHON=str(old), VENV=str(tmp_path / "venv"))
    assert done.returncode
    assert "eslab needs Python 3.11 or newer" in done.stderr
    assert "is: Python 3.10.4" in done.stderr


def test_a_second_run_installs_nothing(tmp_path):
    venv = tmp_path / "venv"
    venv.mkdir()
    (venv / "made").touch()
    first = _make("--dry-run", "lint", VENV=str(venv)).stdout
    (venv / "test").touch()
    second = _make("--dry-run", "lint", VENV=str(venv)).stdout
    assert "pip install" in first
    assert "pip install" not in second
    assert "ruff check" in second


def test_the_lab_takes_a_broker_and_more_arguments():
    said = _make("--dry-run", "lab", KAFKA="localhost:9092", LAB_ARGS="--no-browser --port 9999").stdout
    assert "eslab demo data/shop --kafka localhost:9092" in said
    assert "--LabApp.default_url=/lab/tree/README.md --no-browser --port 9999" in said
    assert "--ServerApp.root_dir=notebooks " in said
    assert (ROOT / "notebooks" / "README.md").exists()
    assert "--kafka" not in _make("--dry-run", "lab").stdout


# --- the runner of notebooks ----------------------------------------------------------------------


def _notebook(folder: Path, *cells: str, tags: tuple[str, ...] = ()) -> Path:
    made = [nbformat.v4.new_code_cell(cell, metadata={"tags": list(tags)}) for cell in cells]
    nbformat.write(nbformat.v4.new_notebook(cells=made), folder / "a.ipynb")
    return folder / "a.ipynb"


def test_a_notebook_that_runs_in_its_own_folder_passes(tmp_path):
    (tmp_path / "here.txt").touch()
    assert run(_notebook(tmp_path, "import os; assert os.path.exists('here.txt')", "print('well')")) == []


def test_an_error_fails_a_notebook_unless_the_cell_is_tagged(tmp_path):
    (wrong,) = run(_notebook(tmp_path, "1 / 0"))
    assert "ZeroDivisionError" in wrong
    assert run(_notebook(tmp_path, "1 / 0", tags=("raises-exception",))) == []


def test_a_word_on_stderr_fails_a_notebook(tmp_path):
    assert run(_notebook(tmp_path, "import warnings; warnings.warn('odd')"))[0].startswith("cell 0 wrote to stderr")


def test_committed_outputs_fail_a_notebook(tmp_path):
    path = _notebook(tmp_path, "1")
    book = nbformat.read(path, as_version=4)
    book.cells[0].outputs = [nbformat.v4.new_output("stream", name="stdout", text="1")]
    nbformat.write(book, path)
    assert run(path) == ["cell 0: outputs are committed; clear them (Kernel, Restart Kernel and Clear Outputs)"]


def test_whoever_tries_to_leave_the_machine_is_refused_and_counted(tmp_path):
    told = run(
        _notebook(
            tmp_path,
            "import contextlib, socket, subprocess, sys, urllib.request",
            "with contextlib.suppress(OSError): urllib.request.urlopen('http://example.org/data.json', timeout=5)",
            "with contextlib.suppress(OSError): socket.create_connection(('192.0.2.1', 80), timeout=5)",
            "subprocess.run([sys.executable, '-c', 'import socket; socket.gethostbyname(\"child.example.org\")'], capture_output=True).returncode",
            "server = socket.create_server(('127.0.0.1', 0)); socket.create_connection(server.getsockname())",
        )
    )
    assert told == [
        "tried to leave this machine: socket.getaddrinfo example.org",
        "tried to leave this machine: socket.getaddrinfo 192.0.2.1",
        "tried to leave this machine: socket.gethostbyname child.example.org",
    ]
