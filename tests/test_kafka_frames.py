"""Frames of any size come whole from a connection, plain or TLS; and one that is cut is told, with nothing left hanging."""

from __future__ import annotations

import asyncio
import random
import shutil
import ssl
import struct
import subprocess
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from eslab.sources.kafka_frames import LARGE, FrameReader

SIZES = [0, 1, LARGE - 1, LARGE, LARGE + 1, 3, 5_000_000, 2, LARGE * 2, LARGE * 2, 7]


def talk(
    serve: Callable[[asyncio.StreamWriter], Awaitable[None]],
    read: Callable[[FrameReader], Awaitable[None]],
    context: ssl.SSLContext | None = None,
) -> None:
    async def both() -> None:
        served: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await serve(writer)
            writer.close()
            served.set_result(None)

        server = await asyncio.start_server(answer, "127.0.0.1", 0, ssl=context)
        port = server.sockets[0].getsockname()[1]
        trusting = None
        if context:
            trusting = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            trusting.check_hostname, trusting.verify_mode = False, ssl.CERT_NONE
        stream, writer = await asyncio.open_connection("127.0.0.1", port, ssl=trusting, limit=1 << 16)
        await read(FrameReader(stream, writer.transport))
        writer.close()
        await served
        server.close()

    asyncio.run(asyncio.wait_for(both(), 60))


def frames() -> list[bytes]:
    return [random.Random(size).randbytes(size) for size in SIZES]


async def send_all(writer: asyncio.StreamWriter) -> None:
    for frame in frames():
        writer.write(struct.pack(">i", len(frame)) + frame)
    await writer.drain()


async def send_in_pieces(writer: asyncio.StreamWriter) -> None:
    whole = b"".join(struct.pack(">i", len(frame)) + frame for frame in frames())
    for at in range(0, len(whole), 99_991):
        writer.write(whole[at : at + 99_991])
        await writer.drain()
        await asyncio.sleep(0)


async def read_all(reader: FrameReader) -> None:
    for frame in frames():
        (size,) = struct.unpack(">i", await reader.readexactly(4))
        assert await reader.readexactly(size) == frame
    with pytest.raises(asyncio.IncompleteReadError):
        await reader.readexactly(4)
    assert reader.at_eof()


@pytest.mark.parametrize("serve", [send_all, send_in_pieces])
def test_frames_of_any_size_come_whole_one_after_another(serve):
    talk(serve, read_all)


@pytest.mark.parametrize("sent", [0, 10, LARGE, 2 * LARGE - 1])
def test_a_frame_that_is_cut_short_is_told(sent: int):
    async def send(writer: asyncio.StreamWriter) -> None:
        writer.write(bytes(sent))
        await writer.drain()

    async def read(reader: FrameReader) -> None:
        with pytest.raises(asyncio.IncompleteReadError):
            await reader.readexactly(2 * LARGE)
        with pytest.raises(asyncio.IncompleteReadError):
            await reader.readexactly(1)
        assert reader.at_eof()

    talk(send, read)


def test_a_reading_that_is_cancelled_leaves_the_stream_in_its_place():
    async def send(writer: asyncio.StreamWriter) -> None:
        writer.write(bytes(LARGE))
        await writer.drain()

    async def read(reader: FrameReader) -> None:
        before = reader._transport.get_protocol()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await reader.readexactly(2 * LARGE)
        assert reader._transport.get_protocol() is before

    async def slowly(writer: asyncio.StreamWriter) -> None:
        await send(writer)
        await asyncio.sleep(0.3)

    talk(slowly, read)


@pytest.mark.skipif(not shutil.which("openssl"), reason="no openssl here")
def test_frames_come_whole_through_tls(tmp_path: Path):
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    made = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=here", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run(made, check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)

    talk(send_in_pieces, read_all, context)
