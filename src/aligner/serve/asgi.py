"""ASGI, the little of it that is needed: bodies in and out, and work that ends when the client leaves."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, MutableMapping
from typing import Any

from aligner.errors import RequestError
from aligner.serve import headers as h
from aligner.serve import wire

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

_SILENCE = 60.0  # seconds that a client may pause within its body


class ClientLeft(Exception):  # noqa: N818 (nobody is left to tell)
    """The client closed its connection before it was answered."""


class Exchange:
    """One request and its reply.

    Args:
        scope, receive, send: ASGI's.
        limit: bytes that the body may have.
    """

    def __init__(self, scope: Scope, receive: Receive, send: Send, *, limit: int) -> None:
        self.headers: h.Headers = scope["headers"]
        self.method: str = scope["method"]
        query: bytes = scope.get("query_string") or b""
        raw: bytes = scope.get("raw_path") or scope["path"].encode()
        self.path = raw.split(b"?")[0].decode("latin-1")
        self.target = self.path + (f"?{query.decode('latin-1')}" if query else "")
        self.shared: h.Headers = []
        """What every reply has that a page of another site may read; no other header speaks of that then."""
        self.status = 0
        self.finished = False
        self._left = False
        self._receive, self._send, self._limit = receive, send, limit
        self._read = asyncio.Event()

    async def pieces(self) -> AsyncIterator[bytes]:
        """The body as it comes.

        Raises:
            RequestError: 413, it is longer than the limit; 408, nothing of it came for a while.
            ClientLeft: the client did not send it all.
        """
        size = 0
        self._check(int(h.get(self.headers, b"content-length") or 0))
        while True:
            message = await self._next()
            if message["type"] != "http.request":
                raise ClientLeft
            piece: bytes = message.get("body") or b""
            size += len(piece)
            self._check(size)
            more = message.get("more_body", False)
            if not more:
                self._read.set()
            if piece:
                yield piece
            if not more:
                return

    async def body(self) -> bytes:
        """The whole body.

        Raises:
            RequestError, ClientLeft: as `pieces`.
        """
        return b"".join([piece async for piece in self.pieces()])

    async def start(self, status: int, headers: h.Headers) -> None:
        """Send the status and the headers."""
        self.status = status
        if self.shared:
            kept = [(name, value) for name, value in headers if not name.startswith(b"access-control-allow-")]
            headers = [*kept, *self.shared]
        await self._send({"type": "http.response.start", "status": status, "headers": headers})

    async def send(self, data: bytes) -> None:
        """Send a piece of the reply."""
        if data:
            await self._send({"type": "http.response.body", "body": data, "more_body": True})

    async def end(self, data: bytes = b"") -> None:
        """Send the last piece."""
        self.finished = True
        await self._send({"type": "http.response.body", "body": data})

    async def reply(self, status: int, data: bytes, headers: h.Headers) -> None:
        """Send a whole reply."""
        await self.start(status, [*headers, (b"content-length", b"%d" % len(data))])
        await self.end(b"" if self.method == "HEAD" else data)

    async def json(self, value: Any, status: int = 200, headers: h.Headers | None = None) -> None:
        """Send JSON."""
        await self.reply(status, wire.write(value), [(b"content-type", b"application/json"), *(headers or [])])

    async def unless_left(self, work: Coroutine[Any, Any, None]) -> None:
        """Do some work; it is cancelled when the client leaves.

        Raises:
            ClientLeft: it did.
        """
        task = asyncio.current_task()
        assert task is not None, "this is called from a task"
        # The work stays in the task of the request: one more task, where a race takes two and waits for both.
        watch = asyncio.ensure_future(self._watch(task))
        try:
            await work
        except asyncio.CancelledError:
            if self._left and task.uncancel() == 0:
                raise ClientLeft from None
            raise
        finally:
            watch.cancel()

    async def _watch(self, task: asyncio.Task[Any]) -> None:
        await self._read.wait()
        while (await self._receive())["type"] != "http.disconnect":
            pass
        if not self.finished:
            self._left = True
            task.cancel()

    async def _next(self) -> MutableMapping[str, Any]:
        try:
            async with asyncio.timeout(_SILENCE):
                message = await self._receive()
        except TimeoutError:
            raise RequestError(f"nothing of the request's body came for {_SILENCE:g} s; send it again", status=408,
                               code="request_timeout") from None  # fmt: skip
        return message

    def _check(self, size: int) -> None:
        if size > self._limit:
            raise RequestError(f"the request's body has more than {self._limit} bytes; send a smaller one",
                               status=413, code="body_too_long")  # fmt: skip
