"""A projection, a function, or an invariant, that the user named as `file.py:name`."""
# ruff: noqa: PLC0415  pandas, Arrow and DuckDB take most of a second: commands import them when they run, so that --help need not wait

from __future__ import annotations

import itertools
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

from eslab.errors import ProjectionError

if TYPE_CHECKING:
    from eslab.invariants import Invariant
    from eslab.projection import Projection, SqlProjection

__all__ = ["load_function", "load_invariants", "load_projection"]

_RUNS = itertools.count()


@overload
def load_projection(told: str | None, option: str = ..., *, queries: Literal[False] = ...) -> Projection | None: ...
@overload
def load_projection(told: str | None, option: str = ..., *, queries: bool) -> Projection | SqlProjection | None: ...
def load_projection(told: str | None, option: str = "--projection", *, queries: bool = False) -> Projection | SqlProjection | None:
    """The projection (with `queries`, one in SQL, too) in a Python file that the user named, by that option. Runs the file, as a script that stands in its folder."""
    from eslab.projection import Projection, SqlProjection

    if told is None:
        return None
    kinds = (Projection, SqlProjection) if queries else Projection
    file, name, names = _run(told, option)
    found = names.get(name)
    if not isinstance(found, kinds):
        others = ", ".join(other for other, value in names.items() if isinstance(value, kinds))
        raise ProjectionError(f"{file} has no projection called {name}; it has {others or 'none'}")
    return found


def load_function(told: str, option: str) -> Callable[..., Any]:
    """The function in a Python file that the user named as `file.py:name`, by that option. Runs the file."""
    file, name, names = _run(told, option)
    found: Callable[..., Any] | None = names.get(name)
    if not callable(found):
        raise ProjectionError(f"{file} has no function called {name}")
    return found


def load_invariants(told: Sequence[str], option: str) -> list[Invariant]:
    """Each `eslab.Invariant` that the user named as `file.py:name`, by that option. Runs each file once, so that one pass answers all that stand over one projection."""
    from eslab.invariants import Invariant

    ran: dict[str, dict[str, Any]] = {}
    found = []
    for one in told:
        file, _, name = one.rpartition(":")
        if file not in ran:
            _, _, ran[file] = _run(one, option)
        value = ran[file].get(name)
        if not isinstance(value, Invariant):
            others = ", ".join(other for other, value in ran[file].items() if isinstance(value, Invariant))
            raise ProjectionError(
                f"{file} has no invariant called {name}; it has {others or 'none: write one as eslab.Invariant(name, projection, predicate)'}"
            )
        found.append(value)
    return found


def _run(told: str, option: str) -> tuple[str, str, dict[str, Any]]:
    """Run the file that is meant: its name, the name that is asked for, and all names that it has."""
    from importlib.machinery import SourceFileLoader
    from importlib.util import module_from_spec, spec_from_loader

    file, _, name = told.rpartition(":")
    path = Path(file).absolute()
    if not name or not path.is_file():
        raise ProjectionError(f"{option} {told}: " + (f"there is no file {file}" if file and name else "write it as file.py:name"))
    loader = SourceFileLoader(f"eslab_projection_{next(_RUNS)}", str(path))  # a new name: what earlier runs made stays to be found
    spec = spec_from_loader(loader.name, loader)
    assert spec is not None
    module = sys.modules[loader.name] = module_from_spec(spec)
    sys.path.insert(0, str(path.parent))
    try:
        loader.exec_module(module)
    except (Exception, SystemExit) as exc:
        lines = [frame.lineno for frame in traceback.extract_tb(exc.__traceback__) if frame.filename == str(path)]
        where = f"{file}, line {lines[-1]}" if lines else file
        raise ProjectionError(f"{where}: {type(exc).__name__}: {exc}") from exc
    return file, name, vars(module)
