"""Writes docs/showcase.ipynb: a notebook with what came out of it, for readers who run nothing. `make showcase` calls it.

It is the only output that is committed. No widget and no script is in it: what remains reads on GitHub, in an editor, and on paper.
"""

import sys
from pathlib import Path

import nbformat
from run_notebooks import executed

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "notebooks" / "01-incident.ipynb"
SHOWCASE = ROOT / "docs" / "showcase.ipynb"
STATIC = {"text/html", "text/plain", "image/svg+xml", "image/png"}
HEAD = nbformat.v4.new_markdown_cell(
    f"*[notebooks/{SOURCE.name}](../notebooks/{SOURCE.name}) as it came out on the demo. "
    "Run it yourself (`make lab`): there the stepper steps and the charts answer to the pointer.*",
    id="showcase",
)


def static(book: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """The executed notebook without what needs a kernel, a script or the network, and without when and where it ran."""
    for cell in book.cells:
        cell.metadata = nbformat.NotebookNode()
        for output in cell.get("outputs", ()):
            if "data" in output:
                output.data = nbformat.NotebookNode(
                    {mime: output.data[mime].replace(f"{ROOT}/", "") for mime in sorted(STATIC & output.data.keys())}
                )
                output.metadata = nbformat.NotebookNode()
    book.metadata.pop("widgets", None)
    book.cells.insert(0, HEAD)
    return book


def main() -> int:
    book = nbformat.read(SOURCE, as_version=4)
    if wrong := list(executed(book, SOURCE.parent)):
        print("\n".join(wrong))
        return 1
    nbformat.write(static(book), SHOWCASE)
    print(f"{SHOWCASE.relative_to(ROOT)}: {SHOWCASE.stat().st_size:,} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
