"""Runs notebooks/*.ipynb, or those that are named, each in a new kernel. `make notebooks` calls it.

A notebook fails if a cell raises (unless it is tagged `raises-exception`) or writes to stderr, or if outputs were committed with it:
those would be of another day than the code.
"""

import os
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError

ROOT = Path(__file__).resolve().parent.parent
CELL_S = 300


def committed(book: nbformat.NotebookNode) -> Iterator[str]:
    for number, cell in enumerate(book.cells):
        if cell.cell_type == "code" and (cell.outputs or cell.execution_count is not None):
            yield f"cell {number}: outputs are committed; clear them (Kernel, Restart Kernel and Clear Outputs)"


def executed(book: nbformat.NotebookNode, folder: Path) -> Iterator[str]:
    try:
        NotebookClient(book, timeout=CELL_S, resources={"metadata": {"path": str(folder)}}).execute()
    except (CellExecutionError, CellTimeoutError, DeadKernelError) as exc:
        yield str(exc)
    for number, cell in enumerate(book.cells):
        for output in cell.get("outputs", ()):
            if output.output_type == "stream" and output.name == "stderr":
                yield f"cell {number} wrote to stderr: {output.text.strip()}"


def run(path: Path) -> list[str]:
    """What is wrong with the notebook; it runs in its own folder, as in JupyterLab, and its file is left as it is."""
    book = nbformat.read(path, as_version=4)
    return [*committed(book), *executed(book, path.parent)]


def main(names: list[str]) -> int:
    paths = [Path(name) for name in names] or sorted((ROOT / "notebooks").glob("*.ipynb"))
    if not paths:
        print("there is no notebook in notebooks/")
        return 1
    failed = 0
    with tempfile.TemporaryDirectory() as home:
        os.environ["IPYTHONDIR"] = home  # nobody's own start-up files
        for path in paths:
            began = time.monotonic()
            wrong = run(path)
            failed += bool(wrong)
            print(f"{'FAILED' if wrong else 'passed'} {path.name} in {time.monotonic() - began:.0f} s")
            for sentence in wrong:
                print("    " + sentence.replace("\n", "\n    "))
    print(f"{len(paths) - failed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
