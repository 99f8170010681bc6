"""Where a projection or a function comes from, as the shell takes it: `file.py:name`."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from eslab.projection import Projection

__all__ = ["origin"]


def origin(thing: Any) -> str | None:
    """The file that makes this very object, and its name there; a file under the working directory by its way from there.

    None for what a notebook's cell or the script that runs made, or made a handler of, and for what stands in a package, whose files do not run alone.
    """
    own = [getattr(one, "__module__", None) for one in _parts(thing)]
    if "__main__" in own:
        return None
    modules = _modules(dict.fromkeys([*own, *sys.modules]))  # most likely it stands where its functions do
    return next((f"{_file(module)}:{name}" for module in modules for name, one in list(vars(module).items()) if one is thing), None)


def _parts(thing: Any) -> Iterator[Any]:
    """The functions by which something answers."""
    if isinstance(thing, Projection):
        handlers, evolve, _ = thing.rules()
        yield from (*handlers.values(), evolve)
    else:
        yield thing
        made = getattr(type(thing), "__dataclass_fields__", {})  # of an invariant; what answers to every name is none
        yield from (part for name in ("projection", "predicate") if name in made for part in _parts(getattr(thing, name)))


def _modules(names: Iterable[Any]) -> Iterator[ModuleType]:
    """Those of these that are one file, which runs alone."""
    for name in names:
        module = sys.modules.get(name) if isinstance(name, str) else None
        path = getattr(module, "__file__", None) or ""
        if module is not None and "." not in name and name != "__main__" and path.endswith(".py") and not path.endswith("__init__.py"):
            yield module


def _file(module: ModuleType) -> str:
    path = Path(str(module.__file__)).absolute()
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)
