"""Pool: requests to other servers over HTTP/1.1, on connections that are used again.

Nothing is decoded, followed, retried or remembered: a request is written as it is given, and its reply is read as it
comes.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Self
from urllib.parse import urlsplit

from aligner.serve.connection import Reply
from aligner.serve.headers import Headers, get


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Where connections go."""

    host: str
    port: int
    secure: bool
    name: bytes
    """What the header `host` says."""

    @classmethod
    def of(cls, url: str) -> Self:
        parts = urlsplit(url)
        secure = parts.scheme == "https"
        return cls(host=parts.hostname or "", port=parts.port or (443 if secure else 80), secure=secure,
                   name=parts.netloc.encode("idna" if not parts.netloc.isascii() else "ascii"))  # fmt: skip


class Pool:
    """Connections that are used again.

    Args:
        connect: seconds that connecting may take.
        silence: seconds without a byte after which a reply has failed.
        idle: seconds after which an unused connection is closed.
    """

    def __init__(self, *, connect: float, silence: float, idle: float) -> None:
        self._connect, self._silence, self._seconds = connect, silence, idle
        self._idle: dict[Origin, list[tuple[Reply, asyncio.TimerHandle]]] = {}
        self._tls: ssl.SSLContext | None = None

    def close(self) -> None:
        """Close what is not in use."""
        for kept in self._idle.values():
            for connection, timer in kept:
                timer.cancel()
                connection.close()
        self._idle.clear()

    @asynccontextmanager
    async def ask(
        self, origin: Origin, method: str, target: str, headers: Headers, body: bytes | AsyncIterator[bytes] | None
    ) -> AsyncIterator[Reply]:
        """A reply whose head is there. Left before its body was read, the connection is closed.

        A body that comes in pieces is sent in chunks, unless the headers tell its length.

        Raises:
            TimeoutError: the other side was silent.
            OSError: it cannot be reached, or broke off.
        """
        head = [f"{method} {target} HTTP/1.1\r\nhost: ".encode("latin-1"), origin.name]
        head += [b"\r\n%b: %b" % header for header in headers]
        chunked = isinstance(body, AsyncIterator) and get(headers, b"content-length") is None
        if chunked:
            head.append(b"\r\ntransfer-encoding: chunked")
        elif isinstance(body, bytes):
            head.append(b"\r\ncontent-length: %d" % len(body))
        head.append(b"\r\n\r\n")
        if isinstance(body, bytes):
            head.append(body)
        reply = await self._taken(origin)
        writing = None
        try:
            reply.begin(b"".join(head), bodiless=method == "HEAD")
            if isinstance(body, AsyncIterator):
                writing = asyncio.ensure_future(_write(reply, body, chunked))
            await reply.head()
            yield reply
        finally:
            whole = writing is None or (writing.done() and writing.result())
            self._give(origin, reply, reply.reusable and whole)
            if writing is not None and not writing.done():
                writing.cancel()
                await asyncio.wait([writing])

    async def _taken(self, origin: Origin) -> Reply:
        kept = self._idle.get(origin)
        while kept:
            connection, timer = kept.pop()
            timer.cancel()
            if connection.open:
                return connection
        if origin.secure and self._tls is None:
            self._tls = ssl.create_default_context()
        async with asyncio.timeout(self._connect):
            _, connection = await asyncio.get_running_loop().create_connection(
                lambda: Reply(self._silence), origin.host, origin.port, ssl=self._tls if origin.secure else None
            )  # fmt: skip
        return connection

    def _give(self, origin: Origin, connection: Reply, again: bool) -> None:
        connection.end()
        if not again or not connection.open:
            connection.close()
            return
        kept = self._idle.setdefault(origin, [])
        timer = asyncio.get_running_loop().call_later(self._seconds, self._retire, kept, connection)
        kept.append((connection, timer))

    def _retire(self, kept: list[tuple[Reply, asyncio.TimerHandle]], connection: Reply) -> None:
        kept[:] = [pair for pair in kept if pair[0] is not connection]
        connection.close()


async def _write(reply: Reply, body: AsyncIterator[bytes], chunked: bool) -> bool:
    """Write a body; returns whether all of it was."""
    try:
        async for piece in body:
            await reply.write(b"%x\r\n%b\r\n" % (len(piece), piece) if chunked else piece)
        if chunked:
            await reply.write(b"0\r\n\r\n")
    except Exception as e:  # it is told to whoever waits for the reply
        reply.fail(e)
        return False
    return True
