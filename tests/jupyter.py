"""A real JupyterLab for tests: its own settings, a free port on loopback, kernels that import this checkout.

with JupyterLab(tmp_path) as lab:
    notebook = lab.open(page, "00-tour.ipynb")      # in tmp_path
    notebook.run_all()
    assert notebook.errors() == []
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from kafka_cluster import wait_for

if TYPE_CHECKING:
    from nbformat import NotebookNode
    from playwright.sync_api import Locator, Page

ROOT = Path(__file__).resolve().parent.parent
START_S = 60  # it answers after 2 to 4 s on an idle machine
RUN_S = 120

SETTINGS = {
    "apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},  # asks before it asks the outside
    "docmanager-extension/plugin": {"autosave": False},
}


class JupyterLab:
    """A server over `folder`; it ends with the block, and its kernels with it."""

    def __init__(self, folder: Path, *, home: Path) -> None:
        self.folder = folder
        self._home = home
        self._token = secrets.token_hex(16)
        for name, settings in SETTINGS.items():
            path = home / "settings" / "@jupyterlab" / f"{name}.jupyterlab-settings"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(settings))
        environment = {
            **os.environ,
            "IPYTHONDIR": str(home / "ipython"),
            "JUPYTER_CONFIG_DIR": str(home / "config"),
            "JUPYTER_CONFIG_PATH": str(folder / "notebooks" / ".jupyter"),  # as `make lab` does
            "JUPYTER_DATA_DIR": str(home / "data"),
            "JUPYTER_RUNTIME_DIR": str(home / "runtime"),
            "JUPYTER_NO_CONFIG": "",
            "JUPYTERLAB_SETTINGS_DIR": str(home / "settings"),
            "JUPYTERLAB_WORKSPACES_DIR": str(home / "workspaces"),
            "PYTHONPATH": str(ROOT),
        }
        self._said = (home / "said").open("wb")
        self._process = subprocess.Popen(
            [
                *(sys.executable, "-m", "jupyter", "lab", "--no-browser", "--ip=127.0.0.1", "--port=0", "--allow-root"),
                f"--ServerApp.root_dir={folder}",
                f"--IdentityProvider.token={self._token}",
                "--LabApp.expose_app_in_browser=True",
                "--JupyterNotebookApp.expose_app_in_browser=True",
                "--LabApp.extension_manager=readonly",
                "--LabApp.news_url=None",
            ],
            env=environment,
            stdout=self._said,
            stderr=self._said,
        )
        try:
            self.url = wait_for(self._address, f"JupyterLab, see {home / 'said'}", START_S)
        except BaseException:
            self.stop()
            raise

    def _address(self) -> str | None:
        """What the server tells in its runtime folder, once it has written it whole."""
        with contextlib.suppress(ValueError):
            for file in (self._home / "runtime").glob("jpserver-*.json"):
                return json.loads(file.read_text())["url"]
        return None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._said.close()

    def write(self, path: str, *cells: str) -> str:
        """Make a notebook of code cells in `folder`; return its path."""
        import nbformat

        kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}  # or JupyterLab asks which one, in a dialog
        book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells], metadata={"kernelspec": kernel})
        nbformat.write(book, self.folder / path)
        return path

    def open(self, page: Page, path: str, *, app: str = "lab") -> Notebook:
        """Open a notebook of `folder` in JupyterLab (`app="lab"`) or in Notebook 7 (`app="notebooks"`); return once its kernel has started.

        In a page that shows JupyterLab already it becomes one more tab.
        """
        notebook = Notebook(page, path)
        if app == "lab" and page.url.startswith(f"{self.url}lab"):
            page.wait_for_function("window.jupyterapp")  # it may have been loaded again
            page.evaluate("async () => { await window.jupyterapp.restored; }")
            page.evaluate("async (path) => { await window.jupyterapp.commands.execute('docmanager:open', {path}); }", path)
        else:
            page.goto(f"{self.url}{'lab/tree' if app == 'lab' else app}/{path}?token={self._token}")
        page.wait_for_function(f"(path) => {PANEL}?.sessionContext?.session?.kernel", arg=path)
        notebook.call("await nb.context.ready; await nb.sessionContext.session.kernel.info")
        return notebook


PANEL = "[...(window.jupyterapp?.shell.widgets('main') ?? [])].find((panel) => panel.context?.path === path)"
IN_PAGE = """async ([path, body, arguments_, seconds]) => {
    const app = window.jupyterapp;
    const nb = %s;
    const run = new (Object.getPrototypeOf(async () => {}).constructor)("app", "nb", "args", body);
    const late = new Promise((_, reject) => setTimeout(() => reject(new Error(`not done after ${seconds} s: ${body}`)), 1000 * seconds));
    return Promise.race([run(app, nb, arguments_), late]);
}""".replace("%s", PANEL)

# What the charts of a notebook show, as their renderer drew them. `marks`: the visible items of the marks by type, axes and legends left out. `ink`: the share
# of the canvas that is not background. `texts` and `lines`: the colours in use, and `back` what they are seen on.
CHARTS = """
    const pen = document.createElement("canvas").getContext("2d");
    const plain = (colour) => { pen.fillStyle = "#000"; pen.fillStyle = colour; return pen.fillStyle; };
    const seen = (item) => (item.opacity ?? 1) > 0;
    const look = (group, chart) => {  // an item of a group mark holds marks, a mark holds items
        for (const mark of group.items ?? []) {
            if (mark.marktype === "group") { for (const item of mark.items) look(item, chart); continue; }
            const items = mark.items.filter((item) => seen(item) && item.bounds.width() + item.bounds.height() > 0);
            if (mark.marktype === "text") for (const item of items) chart.texts.add(plain(item.fill));
            if (mark.role !== "mark") continue;
            chart.marks[mark.marktype] = (chart.marks[mark.marktype] ?? 0) + items.length;
            if (mark.marktype === "line") for (const item of items) chart.lines.add(plain(item.stroke));
        }
    };
    const inked = (canvas) => {
        const pixels = new Uint32Array(canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data.buffer);
        return pixels.filter((pixel) => pixel !== pixels[0]).length / pixels.length;
    };
    const charts = [];
    const walk = (widget, cell) => {
        const view = widget._result?.view;
        if (view) {
            const chart = {cell, marks: {}, ink: inked(widget.node.querySelector("canvas")), texts: new Set(), lines: new Set()};
            for (const item of view.scenegraph().root.items) look(item, chart);
            chart.back = plain(view.background() ?? getComputedStyle(nb.node).getPropertyValue("--jp-layout-color0"));
            charts.push({...chart, texts: [...chart.texts], lines: [...chart.lines]});
        }
        for (const child of widget.layout ?? []) walk(child, cell);
    };
    nb.content.widgets.forEach((widget, cell) => { if (widget.outputArea) walk(widget.outputArea, cell); });
    return charts;
"""


class Notebook:
    """A notebook that is open in `page`, in JupyterLab or in Notebook 7."""

    def __init__(self, page: Page, path: str) -> None:
        self.page = page
        self._path = path

    def call(self, body: str, *args: Any, timeout_s: float = RUN_S) -> Any:
        """Run an asynchronous function in the page; it knows `app`, the notebook's panel `nb`, and `args`."""
        return self.page.evaluate(IN_PAGE, [self._path, body, list(args), timeout_s])

    def close(self) -> None:
        """Close its tab without saving, and end its kernel."""
        self.call("await nb.sessionContext.shutdown(); nb.dispose()")

    def run_all(self) -> None:
        """Run every cell; return when the last has ended, whether well or not."""
        self.call("app.shell.activateById(nb.id); await app.commands.execute('notebook:run-all-cells')")

    def theme(self, name: str) -> None:
        """`JupyterLab Light` or `JupyterLab Dark`."""
        self.call("await app.commands.execute('apputils:change-theme', {theme: args[0]})", name)
        light = "true" if "Light" in name else "false"
        self.page.wait_for_selector(f"body[data-jp-theme-name='{name}'][data-jp-theme-light='{light}']", state="attached")

    def ask(self, code: str) -> str:
        """What `code` prints in the notebook's kernel, beside its cells."""
        return self.call(
            """
            const future = nb.sessionContext.session.kernel.requestExecute({code: args[0], store_history: false});
            let said = "";
            future.onIOPub = ({header, content}) => {
                if (header.msg_type === "stream") said += content.text;
                if (header.msg_type === "error") said += content.traceback.join("\\n");
            };
            await future.done;
            return said;
            """,
            code,
        ).strip()

    def kill(self) -> None:
        """Kill the kernel as the system does when memory runs out, without a word to JupyterLab."""
        pid = int(self.ask("import os; print(os.getpid())"))
        self.call(
            """
            const gone = (status) => ["autorestarting", "dead", "restarting", "unknown"].includes(status);
            window.gone = new Promise((done) => nb.sessionContext.statusChanged.connect((_, status) => { if (gone(status)) done(); }));
            """
        )
        os.kill(pid, signal.SIGKILL)
        self.page.evaluate("window.gone")

    def content(self) -> NotebookNode:
        import nbformat

        return nbformat.from_dict(self.call("return nb.content.model.toJSON()"))

    def errors(self) -> list[str]:
        """What cells raised, and what they wrote to stderr."""
        found = []
        for number, cell in enumerate(self.content().cells):
            for output in cell.get("outputs", ()):
                if output.output_type == "error":
                    found.append(f"cell {number} raised {output.ename}: {output.evalue}")
                elif output.get("name") == "stderr":
                    found.append(f"cell {number} wrote to stderr: {output.text}")
        return found

    def cell(self, source: str) -> Locator:
        """The first code cell whose source holds `source`, scrolled into view."""
        cells = self.content().cells
        number = next(n for n, cell in enumerate(cells) if cell.cell_type == "code" and source in cell.source)
        cell = self.page.locator(f"#{self.call('return nb.id')} .jp-Notebook .jp-Cell").nth(number)
        cell.evaluate("(cell) => cell.scrollIntoView()")  # what is out of sight has no text yet: its content-visibility is auto
        return cell

    def output(self, source: str) -> Locator:
        """What came out of that cell."""
        return self.cell(source).locator(".jp-Cell-outputArea")

    def charts(self) -> list[dict[str, Any]]:
        """The charts among the outputs, once all are drawn; see CHARTS for what is told of each."""
        wanted = sum(
            "application/vnd.vegalite.v5+json" in output.get("data", ())
            for cell in self.content().cells
            for output in cell.get("outputs", ())
        )
        return wait_for(lambda: len(drawn := self.call(CHARTS)) == wanted and [drawn], f"{wanted} charts", RUN_S)[0]
