"""Runs the notebooks under notebooks/, or those that are named, each in a new kernel and with the network cut. `make notebooks` calls it.

A notebook fails if a cell raises (unless it is tagged `raises-exception`) or writes to stderr, if it tries to reach anything but this machine,
or if outputs were committed with it: those would be of another day than the code.
"""

import fcntl
import os
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError

ROOT = Path(__file__).resolve().parent.parent
OFFLINE = Path(__file__).resolve().parent / "offline"
CELL_S = 300
ALONE = "ESLAB_ALONE"  # set in a process that has no network but loopback


def committed(book: nbformat.NotebookNode) -> Iterator[str]:
    for number, cell in enumerate(book.cells):
        if cell.cell_type == "code" and (cell.outputs or cell.execution_count is not None):
            yield f"cell {number}: outputs are committed; clear them (Kernel, Restart Kernel and Clear Outputs)"


def executed(book: nbformat.NotebookNode, folder: Path) -> Iterator[str]:
    """Fill in the outputs, up to the first cell that raises, and tell what is wrong."""
    with tempfile.TemporaryDirectory() as home:
        attempts = Path(home) / "attempts"
        attempts.touch()
        environment = {
            **os.environ,
            "IPYTHONDIR": home,  # nobody's own start-up files
            "ESLAB_OFFLINE_LOG": str(attempts),
            "PYTHONPATH": os.pathsep.join(filter(None, (str(OFFLINE), os.environ.get("PYTHONPATH")))),
        }
        client = NotebookClient(book, timeout=CELL_S, store_widget_state=False, resources={"metadata": {"path": str(folder)}})
        try:
            client.execute(env=environment)
        except (CellExecutionError, CellTimeoutError, DeadKernelError) as exc:
            yield str(exc)
        yield from (f"tried to leave this machine: {attempt}" for attempt in attempts.read_text().splitlines())
    for number, cell in enumerate(book.cells):
        for output in cell.get("outputs", ()):
            if output.output_type == "stream" and output.name == "stderr":
                yield f"cell {number} wrote to stderr: {output.text.strip()}"


def run(path: Path) -> list[str]:
    """What is wrong with the notebook; it runs in its own folder, as in JupyterLab, and its file is left as it is."""
    book = nbformat.read(path, as_version=4)
    return [*committed(book), *executed(book, path.parent)]


def go_alone() -> bool:
    """Begin anew in a network namespace that holds nothing but loopback; return False where the system does not let us."""
    if ALONE in os.environ:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
            fcntl.ioctl(any_socket, 0x8914, struct.pack("16sh14x", b"lo", 0x41))  # SIOCSIFFLAGS: IFF_UP | IFF_RUNNING
        return True
    unshare = shutil.which("unshare")
    if not unshare or subprocess.run([unshare, "-rn", "true"], capture_output=True, check=False).returncode:
        return False
    os.environ[ALONE] = "1"
    os.execv(unshare, [unshare, "-rn", sys.executable, *sys.argv])
    return True


def main(names: list[str]) -> int:
    paths = [Path(name) for name in names] or sorted((ROOT / "notebooks").glob("**/[0-9]*.ipynb"))
    if not paths:
        print("there is no notebook in notebooks/")
        return 1
    alone = go_alone()
    print(
        f"the network is cut off {'from every process (unshare)' if alone else 'from Python; native code is not held, for want of unshare -rn'}"
    )
    failed = 0
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
