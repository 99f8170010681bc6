"""A thread with an event loop of its own, so that a notebook's running loop does not matter and Ctrl-C cancels what is under way."""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

from eslab.errors import SourceError

__all__ = ["LoopThread"]

T = TypeVar("T")


class LoopThread:
    """A daemon thread with an event loop, begun by the first `start` or `run` and ended by `stop`."""

    def __init__(self, clean_up: Callable[[], Awaitable[None]]) -> None:
        self._clean_up = clean_up
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._stopped = False

    def start(self, work: Coroutine[Any, Any, T]) -> concurrent.futures.Future[T]:
        """Begin the work and return its future, whose `cancel` cancels the work."""
        with self._lock:
            if self._stopped:
                work.close()
                raise SourceError("this source is closed; make a new one")
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                self._thread = threading.Thread(target=self._serve, args=(self._loop,), name="eslab-kafka", daemon=True)
                self._thread.start()
            return asyncio.run_coroutine_threadsafe(work, self._loop)

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Do the work and return its result. An interrupt of the calling thread cancels it."""
        future = self.start(work)
        try:
            return future.result()
        except concurrent.futures.CancelledError as exc:
            raise SourceError("this source was closed while it was read") from exc
        finally:
            future.cancel()

    def stop(self) -> None:
        """Cancel what is under way, close connections, end the thread."""
        with self._lock:
            self._stopped = True
            loop, thread, self._loop = self._loop, self._thread, None
        if loop and thread:
            loop.call_soon_threadsafe(loop.stop)
            if thread is not threading.current_thread():  # the garbage collector may call from anywhere
                thread.join()

    def _serve(self, loop: asyncio.AbstractEventLoop) -> None:
        loop.run_forever()
        loop.run_until_complete(self._wind_up())
        loop.close()

    async def _wind_up(self) -> None:
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        await self._clean_up()
