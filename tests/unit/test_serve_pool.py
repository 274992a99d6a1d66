"""The pooled client on real sockets: which replies it reads, which connections it uses again, what it calls broken."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from functools import wraps
from typing import Any, ParamSpec

import pytest

from aligner.serve.pool import Origin, Pool

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
P = ParamSpec("P")


def on_a_loop(test: Callable[P, Coroutine[Any, Any, None]]) -> Callable[P, None]:
    @wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        asyncio.run(test(*args, **kwargs))

    return run


@asynccontextmanager
async def server(handler: Handler) -> AsyncIterator[tuple[Origin, list[int]]]:
    """A server whose handler reads and writes bytes; the list counts its connections."""
    connections: list[int] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.append(1)
        try:
            await handler(reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    running = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with running:
        port = running.sockets[0].getsockname()[1]
        yield Origin.of(f"http://127.0.0.1:{port}/v1"), connections


def saying(*replies: bytes) -> Handler:
    """Answers requests without a body, one reply each, and closes."""

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for reply in replies:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(reply)
            await writer.drain()

    return handler


@asynccontextmanager
async def pooled(**settings: float) -> AsyncIterator[Pool]:
    pool = Pool(**{"connect": 2.0, "silence": 2.0, "idle": 2.0, **settings})
    try:
        yield pool
    finally:
        pool.close()


async def got(
    pool: Pool, origin: Origin, method: str = "GET", body: Any = None, *more: tuple[bytes, bytes]
) -> tuple[int, bytes]:
    async with pool.ask(origin, method, "/x?y=1", [(b"accept", b"*/*"), *more], body) as reply:
        return reply.status, b"".join([piece async for piece in reply.pieces()])


OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
CHUNKED = b"HTTP/1.1 201 Made\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n2;x=y\r\nbc\r\n0\r\nTrailer: 1\r\n\r\n"


@on_a_loop
async def test_a_connection_is_used_again() -> None:
    empty = b"HTTP/1.1 204 No Content\r\n\r\n"
    early = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n"
    async with pooled() as pool, server(saying(OK, CHUNKED, empty, early + OK)) as (origin, connections):
        found = [await got(pool, origin) for _ in range(4)]
        assert found == [(200, b"ok"), (201, b"abc"), (204, b""), (200, b"ok")]
        assert len(connections) == 1


@pytest.mark.parametrize(
    ("reply", "method", "body"),
    [
        (b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok", "GET", b"ok"),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok", "GET", b"ok"),
        (b"HTTP/1.1 200 OK\r\n\r\nto the end", "GET", b"to the end"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n", "HEAD", b""),
        (OK + b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nbad", "GET", b"ok"),
    ],
)
@on_a_loop
async def test_a_connection_that_cannot_be_used_again(reply: bytes, method: str, body: bytes) -> None:
    async with pooled() as pool, server(saying(reply)) as (origin, connections):
        assert await got(pool, origin, method) == (200, body)
        assert await got(pool, origin, method) == (200, body)
        assert len(connections) == 2


@on_a_loop
async def test_connections_close_when_they_are_idle() -> None:
    async with pooled(idle=0.05) as pool, server(saying(OK, OK)) as (origin, connections):
        await got(pool, origin)
        await asyncio.sleep(0.2)
        await got(pool, origin)
        assert len(connections) == 2


@pytest.mark.parametrize(
    "reply",
    [
        b"",
        b"HTTP/1.1 200 OK\r\nContent-Le",
        OK[:-1],
        CHUNKED[:-20],
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"SSH-2.0-OpenSSH\r\n",
    ],
)
@on_a_loop
async def test_what_breaks_is_told(reply: bytes) -> None:
    async with pooled() as pool, server(saying(reply)) as (origin, _):
        with pytest.raises(ConnectionError):
            await got(pool, origin)


@on_a_loop
async def test_silence_is_told_and_nobody_listening_too() -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(OK[:-1])
        await reader.read()

    async with pooled(silence=0.1) as pool:
        async with server(silent) as (origin, _):
            with pytest.raises(TimeoutError):
                await got(pool, origin)
        with pytest.raises(ConnectionRefusedError):
            await got(pool, origin)


@pytest.mark.parametrize("size", [10, 3_000_000])
@on_a_loop
async def test_bodies_arrive_whole_and_in_both_directions(size: int) -> None:
    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for _ in range(2):
            head = await reader.readuntil(b"\r\n\r\n")
            if b"transfer-encoding: chunked" in head:
                body = b""
                while length := int(await reader.readuntil(b"\r\n"), 16):
                    body += (await reader.readexactly(length + 2))[:-2]
                await reader.readexactly(2)
            else:
                body = await reader.readexactly(int(head.partition(b"content-length: ")[2].split(b"\r\n")[0]))
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
            await writer.drain()

    async def pieces() -> AsyncIterator[bytes]:
        for i in range(10):
            await asyncio.sleep(0)
            yield b"%d" % i * (size // 10)

    wanted = b"".join([piece async for piece in pieces()])
    async with pooled() as pool, server(echo) as (origin, connections):
        assert await got(pool, origin, "POST", wanted) == (200, wanted)
        assert await got(pool, origin, "POST", pieces()) == (200, wanted)
        assert len(connections) == 1


@on_a_loop
async def test_a_body_that_fails_is_told_as_it_is() -> None:
    async def pieces() -> AsyncIterator[bytes]:
        yield b"a"
        raise LookupError("ours")

    async with pooled() as pool, server(saying(OK, OK)) as (origin, _):
        with pytest.raises(LookupError, match="ours"):
            await got(pool, origin, "POST", pieces(), (b"content-length", b"5"))
