"""Gateway: the ASGI application. Every request goes through here: let in, routed, answered, corrected, counted.

The playground is at its root.

It is plain ASGI on raw JSON: a framework that checks and rebuilds every body costs more than all that is done here.
"""

from __future__ import annotations

import logging
import traceback
from collections.abc import Awaitable, Callable
from pathlib import Path
from time import perf_counter

from aligner.errors import RequestError
from aligner.serve import headers as h
from aligner.serve import wire
from aligner.serve.asgi import ClientLeft, Exchange, Receive, Scope, Send
from aligner.serve.endpoint import Corrected, told
from aligner.serve.headers import Door
from aligner.serve.metrics import Metrics
from aligner.serve.openapi import document
from aligner.serve.playground.files import playground_files
from aligner.serve.upstreams import Upstreams

_log = logging.getLogger(__name__)
_FRAMES = 5  # of the places where an error came by

KINDS: dict[str, wire.Kind] = {
    "/v1/chat/completions": "chat",
    "/v1/completions": "completions",
    "/v1/responses": "responses",
}
# Where clients ask whose base URL has no /v1. Passed on as they are, their answers would come uncorrected.
_BARE = ("/chat/completions", "/responses")
SETTINGS = "/playground/settings"


class Gateway:
    """An ASGI application: OpenAI's endpoints, corrected; every other path is the upstream's own.

    Args:
        upstreams: who answers.
        corrected: how answers of the corrected endpoints are made.
        door: who may call.
        metrics: what is counted.
        max_requests: requests under way at the same time; more are refused with 429.
        body_limit: bytes that a request's body may have.
    """

    def __init__(
        self,
        upstreams: Upstreams,
        corrected: Corrected,
        door: Door,
        metrics: Metrics,
        *,
        max_requests: int = 256,
        body_limit: int = 8 << 20,
    ) -> None:
        self.upstreams, self.corrected, self.door, self.metrics = upstreams, corrected, door, metrics
        self.max_requests, self.body_limit = max_requests, body_limit
        self._under_way = 0
        self._document = wire.write(document())
        self._files = playground_files()
        self._own: dict[str, Callable[[Exchange], Awaitable[None]]] = {
            "/health": self._health,
            "/metrics": self._metrics,
            "/openapi.json": self._openapi,
            "/v1/models": self._models,
            SETTINGS: self._settings,
            **dict.fromkeys(self._files, self._file),
        }
        # A browser cannot send a key for a page; what the page asks for then needs one.
        self._open = {"/health", "/openapi.json", *self._files}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI's door."""
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
        elif scope["type"] == "http":
            await self._handle(Exchange(scope, receive, send, limit=self.body_limit))
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1003})

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        while True:
            message = await receive()
            if message["type"] == "lifespan.startup":
                await self.upstreams.open()
                await self.corrected.open()
                await send({"type": "lifespan.startup.complete"})
            else:
                try:
                    await self.corrected.close()
                finally:
                    await self.upstreams.close()
                await send({"type": "lifespan.shutdown.complete"})
                return

    async def _handle(self, exchange: Exchange) -> None:
        began = perf_counter()
        if exchange.path in _BARE:
            exchange.path, exchange.target = f"/v1{exchange.path}", f"/v1{exchange.target}"
        endpoint = exchange.path if exchange.path in KINDS or exchange.path in self._own else "other"
        exchange.shared = self.door.shared(exchange.headers)
        try:
            await self._answer(exchange)
        except ClientLeft:
            exchange.status = exchange.status or 499
        except RequestError as e:
            await _refuse(exchange, e)
        except Exception as e:
            _log.error("a request failed: %s", _where(e))
            await _refuse(
                exchange, RequestError("the gateway failed; its log says more", status=500, code="internal_error")
            )
        finally:
            self.metrics.requests.labels(endpoint, str(exchange.status)).inc()
            self.metrics.seconds.labels(endpoint).observe(perf_counter() - began)

    async def _answer(self, exchange: Exchange) -> None:
        if not exchange.path.startswith("/"):
            raise RequestError("the request's target is no path; begin it with a slash", status=400,
                               code="invalid_path")  # fmt: skip
        wanted = h.get(exchange.headers, b"access-control-request-method")
        if exchange.method == "OPTIONS" and exchange.shared and wanted:
            await _allow(exchange, wanted)
            return
        own = self._own.get(exchange.path) if exchange.method in ("GET", "HEAD") else None
        if exchange.path not in self._open or own is None:
            self.door.check(exchange.headers)
        if own is not None and exchange.path != "/v1/models":
            await own(exchange)
            return
        if self._under_way >= self.max_requests:
            raise RequestError(f"{self.max_requests} requests are under way already; come again in a moment",
                               status=429, code="too_many_requests", retry_after=1)  # fmt: skip
        self._under_way += 1
        self.metrics.in_flight.inc()
        try:
            kind = KINDS.get(exchange.path) if exchange.method == "POST" else None
            if own is not None:
                await exchange.body()
                await exchange.unless_left(self._models(exchange))
            elif kind is not None:
                await self.corrected.answer(kind, exchange)
            else:
                await exchange.unless_left(self._proxy(exchange))
        finally:
            self._under_way -= 1
            self.metrics.in_flight.dec()

    async def _proxy(self, exchange: Exchange) -> None:
        """Hand a request and its reply through, piece by piece."""
        has_body = h.get(exchange.headers, b"content-length") or h.get(exchange.headers, b"transfer-encoding")
        body = exchange.pieces() if has_body else None
        if body is None:
            await exchange.body()
        async with self.upstreams.ask(
            self.upstreams.first, exchange.method, exchange.target, exchange.headers, body,
            own_key=bool(self.door.keys),
        ) as reply:  # fmt: skip
            await exchange.start(reply.status, told(reply))
            async for piece in reply.pieces():
                await exchange.send(piece)
            await exchange.end()

    async def _health(self, exchange: Exchange) -> None:
        await exchange.json({"status": "ok"})

    async def _metrics(self, exchange: Exchange) -> None:
        page, content_type = self.metrics.page()
        await exchange.reply(200, page, [(b"content-type", content_type.encode())])

    async def _openapi(self, exchange: Exchange) -> None:
        await exchange.reply(200, self._document, [(b"content-type", b"application/json")])

    async def _file(self, exchange: Exchange) -> None:
        found = self._files[exchange.path]
        await exchange.reply(200, found.data, found.headers)

    async def _settings(self, exchange: Exchange) -> None:
        """What the playground offers to choose from."""
        choice = self.corrected.choice
        value = {"gate": choice.gate, "gates": choice.gates, "best_of": choice.best_of, "max_best_of": choice.most}
        await exchange.json(value)

    async def _models(self, exchange: Exchange) -> None:
        found = await self.upstreams.models(exchange.headers, own_key=bool(self.door.keys))
        await exchange.json({"object": "list", "data": found})


def _where(error: BaseException) -> str:
    """An error's kind and where it was raised. Its words, and those of its cause, may hold what nobody may read."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    frames = traceback.extract_tb(error.__traceback__)[-_FRAMES:]
    places = " < ".join(f"{Path(f.filename).name}:{f.lineno} {f.name}" for f in reversed(frames))
    return f"{type(error).__name__} at {places}"


async def _allow(exchange: Exchange, method: str) -> None:
    """Tell a browser that a page may send what it asks for. It asks without a key, which comes with the request."""
    names = h.get(exchange.headers, b"access-control-request-headers")
    exchange.shared.append((b"access-control-allow-methods", method.encode("latin-1")))
    if names:
        exchange.shared.append((b"access-control-allow-headers", names.encode("latin-1")))
    await exchange.start(204, [])
    await exchange.end()


async def _refuse(exchange: Exchange, error: RequestError) -> None:
    """Tell the client what is wrong; where a reply has begun, it can only be broken off."""
    if exchange.finished:
        return
    if exchange.status:
        # No end is sent: the server then closes the connection, and the client sees that something is missing.
        return
    headers = [(b"retry-after", b"%d" % error.retry_after)] if error.retry_after is not None else []
    if error.status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    # What was not read of the body is not read any more.
    headers += [(b"connection", b"close")] if error.status in (408, 413) else []
    await exchange.json(wire.error_body(error), error.status, headers)
