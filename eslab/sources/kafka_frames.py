"""Large answers of a broker, from the socket straight into memory of their own.

An asyncio stream copies every byte four times on its way; for fetched records that costs as much as decompressing them.
"""

from __future__ import annotations

import asyncio
import io
from typing import Final

__all__ = ["FrameReader"]

LARGE: Final = 256 << 10  # a stream holds up to 128 KiB already before it is asked


class FrameReader:
    """What aiokafka asks of the reader of a connection; a large frame takes the stream's place on the transport until it is filled."""

    def __init__(self, stream: asyncio.StreamReader, transport: asyncio.Transport) -> None:
        self._stream, self._transport = stream, transport

    def at_eof(self) -> bool:
        return self._stream.at_eof()

    async def readexactly(self, size: int) -> bytes:
        if size < LARGE:
            return await self._stream.readexactly(size)
        begin = await self._stream.read(size)  # all that the stream holds, and empty at the end alone
        if not begin:
            raise asyncio.IncompleteReadError(b"", size)
        memory = io.BytesIO(bytes(size))  # whose value can be filled in place and taken without a copy
        with memory.getbuffer() as view:
            view[: len(begin)] = begin
            if len(begin) < size:
                await self._fill(view[len(begin) :])
        return memory.getvalue()

    async def _fill(self, room: memoryview) -> None:
        stream = self._transport.get_protocol()
        frame = _Frame(room, self._transport, stream)
        self._transport.set_protocol(frame)
        try:
            await frame.filled
        finally:
            self._transport.set_protocol(stream)
            frame.room.release()


class _Frame(asyncio.BufferedProtocol):
    """Fills the room and gives way to the protocol that was there before, which also hears of the connection's end."""

    def __init__(self, room: memoryview, transport: asyncio.Transport, stream: asyncio.BaseProtocol) -> None:
        self.room = room
        self.filled: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._at = 0
        self._transport, self._stream = transport, stream

    def get_buffer(self, sizehint: int) -> memoryview:
        return self.room[self._at :]

    def buffer_updated(self, nbytes: int) -> None:
        self._at += nbytes
        if self._at == len(self.room):
            self._transport.set_protocol(self._stream)
            self._end(None)

    def eof_received(self) -> bool | None:
        self._end(asyncio.IncompleteReadError(b"", len(self.room)))
        return self._stream.eof_received()  # type: ignore[attr-defined, no-any-return]  # a stream's protocol

    def connection_lost(self, exc: Exception | None) -> None:
        self._end(exc or asyncio.IncompleteReadError(b"", len(self.room)))
        self._stream.connection_lost(exc)

    def pause_writing(self) -> None:
        self._stream.pause_writing()

    def resume_writing(self) -> None:
        self._stream.resume_writing()

    def _end(self, exc: Exception | None) -> None:
        if self.filled.done():
            return
        if exc:
            self.filled.set_exception(exc)
        else:
            self.filled.set_result(None)
