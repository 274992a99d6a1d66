"""Upstreams: which address answers a model, and one pooled client that asks it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Self
from urllib.parse import quote

import aiohttp
from multidict import CIMultiDict
from yarl import URL

from aligner.errors import ConfigError, RequestError
from aligner.generate.chat_api import check_url
from aligner.serve import headers as h
from aligner.serve import wire

_log = logging.getLogger(__name__)

# Shorter than the five seconds after which uvicorn, and so vLLM and others, close an idle connection: a request that
# is sent on a connection as it closes is lost.
_KEEP_ALIVE = 4.0
_CONNECT = 10.0
_PIECE = 1 << 18  # bytes that are sent, or wait to be read, at a time
_HEADER = 1 << 16  # bytes that one header of a reply may have
_KEYS = (b"authorization", b"api-key", b"x-api-key", b"x-goog-api-key")  # by which clients are known
_LISTING = 5.0  # seconds that an upstream may take to list its models, while whoever asked waits for all
_ASCII = "".join(map(chr, range(0x21, 0x7F)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Upstream:
    """One address. `name` is "" for the one that answers what no other does; `key` is sent in place of a client's."""

    name: str
    url: str
    key: str | None = None

    @classmethod
    def parse(cls, text: str, keys: Mapping[str, str]) -> Self:
        """From `URL` or `NAME=URL`.

        Raises:
            ConfigError: the address is none.
        """
        name, separator, url = text.partition("=")
        if not separator or "://" in name:
            name, url = "", text
        return cls(name=name.strip(), url=check_url(url.strip()), key=keys.get(name.strip()))

    def address(self, path: str) -> URL:
        """Where a path of ours, which begins with a slash, lies there: /v1/… under the address, all else beside it."""
        # Only what no address may hold is escaped; all else is the client's own spelling.
        path = quote(path, safe=_ASCII, encoding="latin-1")
        if path == "/v1" or path.startswith("/v1/"):
            return URL(self.url + path.removeprefix("/v1"), encoded=True)
        return URL(self.url.removesuffix("/v1") + path, encoded=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """The upstream for a request, and the model's name there; None leaves the request's as it is."""

    upstream: Upstream
    model: str | None = None


class Reply:
    """What an upstream answers: status and headers are there, the body is read piece by piece."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self.status = response.status
        self.headers: h.Headers = [(name.lower(), value) for name, value in response.raw_headers]
        self._response = response

    async def pieces(self) -> AsyncIterator[bytes]:
        """The body as it comes, as it was sent.

        Raises:
            TimeoutError: the upstream was silent.
            ConnectionError: it broke off, or what it sends is no HTTP.
        """
        try:
            async for piece in self._response.content.iter_any():
                yield piece
        except TimeoutError:
            raise
        except (aiohttp.ClientError, OSError) as e:
            raise ConnectionError(type(e).__name__) from None


class Upstreams:
    """The addresses behind a gateway.

    Args:
        upstreams: at most one without a name.
        timeout: seconds of silence after which an upstream has failed.
        answer_limit: bytes that a whole answer, or one event of a stream, may have.

    Raises:
        ConfigError: none is given, or two have one name.
    """

    def __init__(self, upstreams: Sequence[Upstream], *, timeout: float, answer_limit: int) -> None:
        self._all = {upstream.name: upstream for upstream in upstreams}
        if not upstreams or len(self._all) < len(upstreams):
            raise ConfigError("give --upstream at least once, each with a name of its own and at most one without: "
                              "--upstream URL, --upstream NAME=URL")  # fmt: skip
        self.timeout, self.answer_limit = timeout, answer_limit
        self._session: aiohttp.ClientSession | None = None
        self._told: set[tuple[str, str]] = set()  # lists that were left out, and why: each is logged once

    @property
    def first(self) -> Upstream:
        """The one that answers what belongs to no model."""
        return self._all.get("") or next(iter(self._all.values()))

    @property
    def names(self) -> list[str]:
        return [name for name in self._all if name]

    def route(self, model: Any) -> Route | None:
        """By a model's name: NAME itself, NAME/model (of several the longest NAME), or the upstream without a name;
        None where nobody has it."""
        if isinstance(model, str) and model:
            if model in self._all:
                return Route(upstream=self._all[model])
            fitting = [name for name in self.names if model.startswith(f"{name}/") and model != f"{name}/"]
            if fitting:
                name = max(fitting, key=len)
                return Route(upstream=self._all[name], model=model.removeprefix(f"{name}/"))
        default = self._all.get("")
        return Route(upstream=default) if default is not None else None

    async def open(self) -> None:
        """Open the pool of connections; on the event loop that will use it."""
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=_KEEP_ALIVE),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT, sock_read=self.timeout),
            cookie_jar=aiohttp.DummyCookieJar(),  # one client's cookies are not another's
            auto_decompress=False,
            skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding", "Content-Type"),
            read_bufsize=_PIECE,
            max_line_size=_HEADER,
            max_field_size=_HEADER,
        )

    async def close(self) -> None:
        """Close the connections."""
        if self._session is not None:
            await self._session.close()

    @asynccontextmanager
    async def ask(
        self,
        upstream: Upstream,
        method: str,
        path: str,
        headers: Sequence[tuple[bytes, bytes]],
        body: bytes | AsyncIterator[bytes] | None,
        *,
        own_key: bool = False,
        plain: bool = False,
    ) -> AsyncIterator[Reply]:
        """An upstream's reply, its body not yet read. Left early, the connection is closed.

        `own_key`: the client's key is for us and is not passed on. `plain`: the reply is to be read here, so it may not
        be compressed.

        Raises:
            RequestError: 502 or 504, nothing answers there, or it broke off.
        """
        assert self._session is not None, "open() comes first"
        # Our own server has told the client already to go on, where it expected that. Which pages may call is decided
        # at our own door: an upstream may know them by other rules. A browser's cookies are for whatever else this
        # host serves: it sends them to every port.
        without = [b"host", b"content-length", b"expect", b"x-aligner", b"origin", b"cookie"]
        if plain:
            without.append(b"accept-encoding")
        if upstream.key is not None:
            without += _KEYS
        elif own_key:
            without.append(b"authorization")
        sent = CIMultiDict((k.decode("latin-1"), h.text(v)) for k, v in h.passing(headers, *without))
        if plain:
            sent["accept-encoding"] = "identity"
        if upstream.key is not None:
            sent["authorization"] = f"Bearer {upstream.key}"
        if isinstance(body, bytes):
            sent["content-length"] = str(len(body))
        elif body is not None and (length := h.get(headers, b"content-length")):
            sent["content-length"] = length
        upload = _Upload(body) if body is not None and not (isinstance(body, bytes) and len(body) <= _PIECE) else None
        try:
            async with self._session.request(
                method, upstream.address(path), headers=sent, allow_redirects=False,
                data=body if upload is None else upload.pieces(),
            ) as response:  # fmt: skip
                try:
                    yield Reply(response)
                finally:
                    response.close()  # unless the body was read to its end, nobody can use this connection again
        except TimeoutError:
            raise RequestError(f"the upstream was silent for {self.timeout:g} s; try again", status=504,
                               code="upstream_timeout") from None  # fmt: skip
        except (aiohttp.ClientError, OSError) as e:
            if upload is not None and upload.error is not None:
                raise upload.error from None
            raise RequestError(f"the upstream cannot be reached, or broke off ({type(e).__name__}); try again",
                               status=502,
                               code="upstream_unreachable") from None  # fmt: skip

    async def whole(self, reply: Reply) -> bytes:
        """A reply's body.

        Raises:
            RequestError: 502, it is longer than `answer_limit`.
        """
        if int(h.get(reply.headers, b"content-length") or 0) > self.answer_limit:
            raise self.too_long()
        pieces: list[bytes] = []
        size = 0
        async for piece in reply.pieces():
            size += len(piece)
            if size > self.answer_limit:
                raise self.too_long()
            pieces.append(piece)
        return b"".join(pieces)

    async def models(self, headers: Sequence[tuple[bytes, bytes]], *, own_key: bool) -> list[dict[str, Any]]:
        """All upstreams' models; those of a named one are called NAME/model. One that does not tell has none.

        A client's own key is for the first upstream, and no other is sent it. One that does not tell within some
        seconds is left out.

        Raises:
            RequestError: 502 or 504, no upstream tells.
        """
        lists = await asyncio.gather(
            *(self._models(upstream, headers, own_key) for upstream in self._all.values()), return_exceptions=True
        )
        failed = {n: found for n, found in zip(self._all, lists, strict=True) if isinstance(found, BaseException)}
        for name, error in failed.items():
            if not isinstance(error, RequestError):
                raise error
            if (name, str(error)) in self._told:
                continue
            self._told.add((name, str(error)))
            _log.warning("the models of %s are left out: %s", f"the upstream '{name}'" if name else "the upstream "
                         "without a name", error)  # fmt: skip
        if len(failed) == len(lists):
            raise next(iter(failed.values()))
        return [model for found in lists if not isinstance(found, BaseException) for model in found]

    async def _models(
        self, upstream: Upstream, headers: Sequence[tuple[bytes, bytes]], own_key: bool
    ) -> list[dict[str, Any]]:
        # The list is read here, so it may be no 304 and no part.
        without = [b"content-type", b"transfer-encoding", b"if-none-match", b"if-modified-since", b"range"]
        kept = h.passing(headers, *without, *(() if upstream is self.first else _KEYS))
        most = _LISTING if len(self._all) > 1 else self.timeout
        try:
            async with (
                asyncio.timeout(most),
                self.ask(upstream, "GET", "/v1/models", kept, None, own_key=own_key, plain=True) as reply,
            ):
                if reply.status != 200:
                    raise RequestError(f"the upstream's list of models is not to be had (status {reply.status})",
                                       status=reply.status if reply.status in (401, 403, 429) else 502,
                                       code="upstream_failed")  # fmt: skip
                value = wire.read_reply(await self.whole(reply), "the upstream's list of models")
        except TimeoutError:
            raise RequestError(f"the upstream did not list its models within {most:g} s; try again", status=504,
                               code="upstream_timeout") from None  # fmt: skip
        listed = value.get("data")
        listed = listed if isinstance(listed, list) else []
        found = [m for m in listed if isinstance(m, dict) and isinstance(m.get("id"), str)]
        if not upstream.name:
            return found
        return [m if m["id"] == upstream.name else {**m, "id": f"{upstream.name}/{m['id']}"} for m in found]

    def too_long(self) -> RequestError:
        """What is told of an answer over the limit."""
        return RequestError(f"the upstream's answer has more than {self.answer_limit} bytes", status=502,
                            code="upstream_too_long")  # fmt: skip


class _Upload:
    """A body that is sent in pieces; `error` is what its source failed with, for which the client has its own words."""

    def __init__(self, body: bytes | AsyncIterator[bytes]) -> None:
        self._body = body
        self.error: Exception | None = None

    async def pieces(self) -> AsyncIterator[bytes]:
        if isinstance(self._body, bytes):
            for start in range(0, len(self._body), _PIECE):
                yield self._body[start : start + _PIECE]
            return
        try:
            async for piece in self._body:
                yield piece
        except Exception as e:
            self.error = e
            raise
