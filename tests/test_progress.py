"""Progress bars: none for short work, and never a word on a notebook's stderr, which would fail `make notebooks`."""

import nbformat
import pytest
from nbclient import NotebookClient

from eslab import progress

CELL = """
from eslab import progress
progress.DELAY_S = {delay}
with progress.Bar("replaying", 3, unit="steps", shown=True) as bar:
    for _ in range(3):
        import time; time.sleep(0.15)
        bar.count(1)
"""


@pytest.mark.parametrize(("delay", "shown"), [(0.1, 1), (60, 0)])
def test_a_notebook_shows_a_bar_for_long_work_alone_and_nothing_on_stderr(delay, shown):
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(CELL.format(delay=delay))])
    NotebookClient(book, timeout=100).execute()
    outputs = book.cells[0].outputs
    assert [output.output_type for output in outputs] == ["display_data"] * shown


def test_short_work_shows_no_bar_in_a_shell(capsys):
    with progress.Bar("replaying", 3, unit="steps", shown=True) as bar:
        bar.count(3)
    assert capsys.readouterr() == ("", "")
