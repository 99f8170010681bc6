"""Commands about deliveries that went wrong: what came more than once, and what a consumer gave up on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from eslab.cli.command import Command, json_option, lab_argument, open_lab
from eslab.cli.output import Out, rows_of

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["dead_letters", "duplicates"]


@click.command(cls=Command)
@lab_argument
@json_option
@click.pass_obj
def duplicates(out: Out, *, folder: str, tz: str | None, as_json: bool) -> None:
    """List the event ids that came more than once, over all topics.

    One row for each occurrence after the first; `equal` tells whether its payload is the same. Topics of dead letters do not count.
    """
    found = open_lab(folder, tz).duplicates()
    _show(out, found, found.df(), as_json=as_json)


@click.command(cls=Command, name="dead-letters")
@lab_argument
@json_option
@click.pass_obj
def dead_letters(out: Out, *, folder: str, tz: str | None, as_json: bool) -> None:
    """List the dead letters with original, reason and fate.

    They stand in the topics that lab.toml names by `dead_letters = true`. A letter was handled if, after it and every later one of the same event, an event was recorded that names it as its
    cause; redelivered if the event itself was recorded again after it; else lost, as far as is captured.
    """
    found = open_lab(folder, tz).dead_letters()
    _show(out, found, found.df(), as_json=as_json)


def _show(out: Out, found: Any, frame: pd.DataFrame, *, as_json: bool) -> None:
    """What was found, its timedeltas in seconds."""
    lengths = [name for name in frame.columns if name.endswith("after")]
    frame = frame.assign(**{name: frame[name].dt.total_seconds() for name in lengths}).rename(
        columns={name: f"{name}_s" for name in lengths}
    )
    frame = frame.astype(object).where(frame.notna(), None)
    if as_json:
        out.json(rows_of(frame))
        return
    out.line(repr(found).strip("<>"))
    if len(found):
        out.table(list(frame.columns), (["" if value is None else value for value in row] for row in frame.itertuples(index=False)))
    out.again(found.again)
