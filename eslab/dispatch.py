"""A replay in parts on an executor: threads, processes, or a cluster.

A part is a range of keys. Whoever folds it opens the lab's files itself, so the workers of a cluster see the lab's folder under the same path. Projections travel by
cloudpickle, handlers from a notebook's cells included; what they come to returns as Arrow.
"""

from __future__ import annotations

import dataclasses
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import BrokenExecutor, Executor, Future, ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

import msgspec
import pyarrow as pa

from eslab.errors import EslabError, ExecutorError, ProjectionError
from eslab.events import Events, Manifest
from eslab.folding import Failure
from eslab.markup import visible
from eslab.model import AGGREGATE
from eslab.replay import Part, ReplayPlan, fold, slices
from eslab.world import World, WorldBuilder

__all__ = ["run"]

PART_ROWS: Final = 200_000  # of one part: a fifth of a second, against which a message to a worker is nothing
PARTS: Final = 16  # at least, of a replay whose parts are not smaller than a slice: so that workers end at about the same time
SMALLEST: Final = 16_384  # rows
KEYS: Final = 200  # of one part, where keys are looked up
AHEAD: Final = 32  # parts that are asked for before the first of them is taken in: bounds what waits in memory
TRIES: Final = 2

Answer = tuple[bytes, list[Failure], frozenset[str], int, int]


def run(todo: ReplayPlan, executor: Executor, *, on_rows: Callable[[int], None] = lambda count: None) -> World:
    """What `replay.run` returns, folded in parts on the executor, which stays open. A part that is lost with its worker is asked for once more.

    Raises `ExecutorError` where the executor dies, or cannot take the projection; `ProjectionError` for one by other keys than the aggregate's, which are sorted here.
    """
    if todo.projection.key is not AGGREGATE:
        raise ProjectionError(
            f"projection {todo.projection.name!r} is keyed by {todo.projection.aggregate}: its events are sorted and folded here, one key after another; drop executor="
        )
    submit = _submitter(todo, executor)
    builder = WorldBuilder()
    failed, partial, steps = list[Failure](), set[str](), 0
    waiting: deque[_Asked] = deque()
    try:
        for at, part in enumerate(_parts(todo)):
            waiting.append(_Asked(part, at, submit))
            if len(waiting) < AHEAD:
                continue
            steps += _take(waiting.popleft().answer(), builder, failed, partial, on_rows)
        while waiting:
            steps += _take(waiting.popleft().answer(), builder, failed, partial, on_rows)
    except BaseException:
        builder.abandon()
        for asked in waiting:
            asked.future.cancel()
        raise
    return Part(builder.finish(), failed, frozenset(partial), builder.ended, steps).world(todo)


def _take(answer: Answer, builder: WorldBuilder, failed: list[Failure], partial: set[str], on_rows: Callable[[int], None]) -> int:
    rows, failures, lossy, ended, steps = answer
    for batch in pa.ipc.open_stream(rows):
        builder.put(batch)
    builder.ended += ended
    failed += failures
    partial |= lossy
    on_rows(steps)
    return steps


def _parts(todo: ReplayPlan) -> Iterator[ReplayPlan]:
    """The plan in parts, in the order of their keys."""
    if todo.keys is not None:
        for at in range(0, len(todo.keys), KEYS):
            yield dataclasses.replace(todo, keys=todo.keys[at : at + KEYS])
        return
    size = max(SMALLEST, min(PART_ROWS, todo.rows // PARTS))
    for between in todo.events.key_ranges(todo.projection.aggregate, size):
        yield dataclasses.replace(todo, between=between)


class _Asked:
    """One part, and the promise of its answer."""

    def __init__(self, part: ReplayPlan, number: int, submit: Callable[[ReplayPlan], Future[Answer]]) -> None:
        self._part, self._number, self._submit = part, number, submit
        self.future = self._asked()

    def answer(self) -> Answer:
        for _ in range(TRIES - 1):
            try:
                return self.future.result()
            except (EslabError, BrokenExecutor):
                break
            except Exception:  # noqa: BLE001  # what a cluster says of a worker that died is its own
                self.future = self._asked()
        try:
            return self.future.result()
        except EslabError:
            raise
        except Exception as exc:
            raise self._lost(exc) from exc

    def _asked(self) -> Future[Answer]:
        try:
            return self._submit(self._part)
        except EslabError:
            raise
        except Exception as exc:
            raise self._lost(exc) from exc

    def _lost(self, exc: Exception) -> ExecutorError:
        said = visible(f"{type(exc).__name__}: {exc}".splitlines()[0])
        return ExecutorError(
            f"replaying {self._part.projection.name}: the executor lost part {self._number + 1} ({said}); nothing was kept. "
            "Give it a new executor, or none: lab.replay(...) folds here"
        )


def _submitter(todo: ReplayPlan, executor: Executor) -> Callable[[ReplayPlan], Future[Answer]]:
    """How a part is handed over: to a thread as it is, anywhere else as bytes."""
    if not callable(getattr(executor, "submit", None)):
        raise ExecutorError(
            f"executor={executor!r:.80} is none; give a concurrent.futures executor, or that of a Dask cluster: client.get_executor()"
        )
    manifest = msgspec.json.encode(todo.events.manifest)
    folder = str(todo.events.folder)
    if isinstance(executor, ThreadPoolExecutor):
        return lambda part: executor.submit(_fold_here, part, folder, manifest)
    plan = _pickled(todo)
    return lambda part: executor.submit(_fold_there, plan, folder, manifest, part.keys, part.between)


def _pickled(todo: ReplayPlan) -> bytes:
    try:
        import cloudpickle  # noqa: PLC0415  # needed by those alone who leave this process
    except ImportError as exc:
        raise ExecutorError(
            "handlers travel to other processes by cloudpickle, which is not installed: pip install 'eslab[cluster]'"
        ) from exc
    try:
        packed: bytes = cloudpickle.dumps((todo.projection, todo.selection, todo.ended))
    except Exception as exc:
        raise ExecutorError(
            f"projection {todo.projection.name!r} cannot travel to another process: {type(exc).__name__}: {exc}; "
            "its handlers must not hold on to connections, locks or open files"
        ) from exc
    return packed


def _fold_there(plan: bytes, folder: str, manifest: bytes, keys: tuple[str, ...] | None, between: Any) -> Answer:
    """Fold one part, in a worker."""
    import cloudpickle  # noqa: PLC0415

    projection, selection, ended = cloudpickle.loads(plan)
    events = _opened(folder, manifest, threading.get_ident())
    return _answer(ReplayPlan(events, projection, selection, keys, ended, 0, 0, between=between))


def _fold_here(part: ReplayPlan, folder: str, manifest: bytes) -> Answer:
    return _answer(dataclasses.replace(part, events=_opened(folder, manifest, threading.get_ident())))


@lru_cache(maxsize=16)
def _opened(folder: str, manifest: bytes, _thread: int) -> Events:
    """The events, with files that no two threads share: the footers are read once."""
    return Events(Path(folder), msgspec.json.decode(manifest, type=Manifest))


def _answer(todo: ReplayPlan) -> Answer:
    part = fold(todo, slices(todo))
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, part.rows.schema) as writer:
        for batch in part.rows.batches:
            writer.write_batch(batch)
    return sink.getvalue().to_pybytes(), list(part.failed), part.partial, part.ended, part.steps
