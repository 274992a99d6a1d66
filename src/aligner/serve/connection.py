"""Reply: a connection to another server, and what is read on it: HTTP/1.1, parsed in C."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httptools

from aligner.serve.headers import Headers

_UNREAD = 1 << 18  # bytes of a reply that may wait to be read


class Reply(asyncio.Protocol):
    """A connection, and the reply that is read on it. `status` and `headers` (names in small letters) are there first.

    Args:
        silence: seconds without a byte after which it has failed.
    """

    def __init__(self, silence: float) -> None:
        self.status = 0
        self.headers: Headers = []
        self.reusable = False
        self.open = True
        self._silence = silence
        self._loop = asyncio.get_running_loop()
        self._transport: Any = None
        self._busy = False
        self._waiter: asyncio.Future[None] | None = None
        self._writable: asyncio.Future[None] | None = None
        self._moved = 0.0

    # -- one exchange after another ------------------------------------------------------------------------------

    def begin(self, data: bytes, *, bodiless: bool) -> None:
        """Write a request, or the head of one. `bodiless`: whatever its reply's headers say, no body follows (HEAD)."""
        self.status, self.headers, self.reusable = 0, [], False
        self._parser = httptools.HttpResponseParser(self)
        self._coming: Headers = []
        self._pieces: list[bytes] = []
        self._unread = 0
        self._busy, self._complete, self._framed, self._bodiless = True, False, False, bodiless
        self._error: BaseException | None = None if self.open else ConnectionError("the connection was closed")
        self._transport.write(data)

    async def write(self, data: bytes) -> None:
        """Write a piece of the request's body, as fast as the other side reads."""
        self._moved = self._loop.time()
        self._transport.write(data)
        if self._writable is not None:
            await asyncio.shield(self._writable)

    async def head(self) -> None:
        """Wait for the status and the headers.

        Raises:
            TimeoutError: nothing came.
            ConnectionError: the connection broke, or what came is no HTTP.
        """
        while not self.status:
            await self._wait()

    async def pieces(self) -> AsyncIterator[bytes]:
        """The reply's body as it comes.

        Raises:
            TimeoutError, ConnectionError: as `head`.
        """
        while True:
            if self._pieces:
                data = self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces)
                self._pieces.clear()
                if self._unread > _UNREAD:
                    self._transport.resume_reading()
                self._unread = 0
                yield data
            elif self._complete:
                return
            else:
                await self._wait()

    def fail(self, error: BaseException) -> None:
        """Make an error what is read next."""
        self._error = self._error or error
        self._wake()

    def end(self) -> None:
        """The exchange is over; nothing may come any more."""
        self._busy = False
        if self._unread > _UNREAD:
            self._transport.resume_reading()

    def close(self) -> None:
        """Close the connection, whatever is under way."""
        self.open = False
        self._transport.abort()

    async def _wait(self) -> None:
        if self._error is not None:
            raise self._error
        self._waiter = self._loop.create_future()
        timer = self._loop.call_later(self._silence, self._silent, self._waiter)
        try:
            await self._waiter
        finally:
            self._waiter = None
            timer.cancel()

    def _silent(self, waiter: asyncio.Future[None]) -> None:
        if waiter.done():
            return
        left = self._moved + self._silence - self._loop.time()
        if left > 0.001:  # the request is still being written
            self._loop.call_later(left, self._silent, waiter)
        else:
            waiter.set_exception(TimeoutError())

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    # -- what the event loop calls -------------------------------------------------------------------------------

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def connection_lost(self, error: Exception | None) -> None:
        self.open = False
        self.resume_writing()
        if not self._busy or self._complete:
            return
        if self.status and not self._framed and error is None:
            self._complete = True  # such a body ends with its connection
            self._wake()
        else:
            self.fail(ConnectionError("the connection was closed"))

    def data_received(self, data: bytes) -> None:
        if not self._busy:  # nobody asked
            self.close()
            return
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self.reusable = False
            self.fail(ConnectionError("no HTTP"))
        self._wake()

    def pause_writing(self) -> None:
        self._writable = self._loop.create_future()

    def resume_writing(self) -> None:
        if self._writable is not None and not self._writable.done():
            self._writable.set_result(None)
        self._writable = None

    # -- what the parser calls -----------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        if self._complete:  # a second reply to one request
            raise ConnectionError("no HTTP")

    def on_header(self, name: bytes, value: bytes) -> None:
        self._coming.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        status: int = self._parser.get_status_code()
        if status < 200:  # 100 Continue and its like announce the reply
            self._coming = []
            return
        self.status, self.headers, self._coming = status, self._coming, []
        self._framed = any(name in (b"content-length", b"transfer-encoding") for name, _ in self.headers)
        if self._bodiless:
            self._complete = True

    def on_body(self, data: bytes) -> None:
        self._pieces.append(data)
        if self._unread <= _UNREAD < self._unread + len(data):
            self._transport.pause_reading()
        self._unread += len(data)

    def on_message_complete(self) -> None:
        if self.status:
            self._complete = True
            self.reusable = not self._bodiless and bool(self._parser.should_keep_alive())
