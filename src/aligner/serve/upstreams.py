"""Upstreams: which address answers a model, and one pooled client that asks it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Self
from urllib.parse import urlsplit

from aligner.errors import ConfigError, RequestError
from aligner.generate.chat_api import check_url
from aligner.serve import headers as h
from aligner.serve import wire
from aligner.serve.connection import Reply
from aligner.serve.pool import Origin, Pool

# Shorter than the five seconds after which uvicorn, and so vLLM and others, close an idle connection: a request that
# is sent on a connection as it closes is lost.
_KEEP_ALIVE = 4.0
_CONNECT = 10.0


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
        return cls(name=name.strip(), url=check_url(url.strip()), key=keys.get(name.strip(), keys.get("")))

    def target(self, path: str) -> str:
        """Where a path of ours lies there: /v1/… under the address, all else beside its /v1."""
        under = urlsplit(self.url).path
        if path == "/v1" or path.startswith("/v1/"):
            return under + path.removeprefix("/v1") or "/"
        return under.removesuffix("/v1") + path


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """The upstream for a request, and the model's name there; None leaves the request's as it is."""

    upstream: Upstream
    model: str | None = None


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
        self._origins = {upstream.url: Origin.of(upstream.url) for upstream in upstreams}
        self._pool: Pool | None = None

    @property
    def first(self) -> Upstream:
        """The one that answers what belongs to no model."""
        return self._all.get("") or next(iter(self._all.values()))

    @property
    def names(self) -> list[str]:
        return [name for name in self._all if name]

    def route(self, model: Any) -> Route | None:
        """By a model's name: NAME itself, NAME/model, or the upstream without a name; None where nobody has it."""
        if isinstance(model, str) and model:
            if model in self._all:
                return Route(upstream=self._all[model])
            name, separator, rest = model.partition("/")
            if separator and rest and name and name in self._all:
                return Route(upstream=self._all[name], model=rest)
        default = self._all.get("")
        return Route(upstream=default) if default is not None else None

    async def open(self) -> None:
        """Open the pool of connections; on the event loop that will use it."""
        self._pool = Pool(connect=_CONNECT, silence=self.timeout, idle=_KEEP_ALIVE)

    async def close(self) -> None:
        """Close the connections."""
        if self._pool is not None:
            self._pool.close()

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
        assert self._pool is not None, "open() comes first"
        without = [b"host", b"content-length", b"x-aligner"]
        if plain:
            without.append(b"accept-encoding")
        if own_key or upstream.key is not None:
            without.append(b"authorization")
        sent = h.passing(headers, *without)
        if plain:
            sent.append((b"accept-encoding", b"identity"))
        if upstream.key is not None:
            sent.append((b"authorization", f"Bearer {upstream.key}".encode("latin-1")))
        if isinstance(body, AsyncIterator) and (length := h.get(headers, b"content-length")):
            sent.append((b"content-length", length.encode("latin-1")))
        try:
            async with self._pool.ask(self._origins[upstream.url], method, upstream.target(path), sent, body) as reply:
                yield reply
        except TimeoutError:
            raise RequestError(f"the upstream was silent for {self.timeout:g} s; try again", status=504,
                               code="upstream_timeout") from None  # fmt: skip
        except OSError as e:
            raise RequestError(f"the upstream cannot be reached, or broke off ({type(e).__name__}); try again",
                               status=502,
                               code="upstream_unreachable") from None  # fmt: skip

    async def whole(self, reply: Reply) -> bytes:
        """A reply's body.

        Raises:
            RequestError: 502, it is longer than `answer_limit`.
        """
        if int(h.get(reply.headers, b"content-length") or 0) > self.answer_limit:
            raise self._too_long()
        pieces: list[bytes] = []
        size = 0
        async for piece in reply.pieces():
            size += len(piece)
            if size > self.answer_limit:
                raise self._too_long()
            pieces.append(piece)
        return b"".join(pieces)

    async def models(self, headers: Sequence[tuple[bytes, bytes]], *, own_key: bool) -> list[dict[str, Any]]:
        """All upstreams' models; those of a named one are called NAME/model. One that does not tell has none.

        Raises:
            RequestError: 502, no upstream tells.
        """
        lists = await asyncio.gather(
            *(self._models(upstream, headers, own_key) for upstream in self._all.values()), return_exceptions=True
        )
        failed = [found for found in lists if isinstance(found, BaseException)]
        for error in failed:
            if not isinstance(error, RequestError):
                raise error
        if len(failed) == len(lists):
            raise failed[0]
        return [model for found in lists if not isinstance(found, BaseException) for model in found]

    async def _models(
        self, upstream: Upstream, headers: Sequence[tuple[bytes, bytes]], own_key: bool
    ) -> list[dict[str, Any]]:
        kept = h.passing(headers, b"content-type", b"transfer-encoding")
        async with self.ask(upstream, "GET", "/v1/models", kept, None, own_key=own_key, plain=True) as reply:
            if reply.status != 200:
                raise RequestError(f"the upstream's list of models is not to be had (status {reply.status})",
                                   status=reply.status if reply.status in (401, 403, 429) else 502,
                                   code="upstream_failed")  # fmt: skip
            value = wire.read_reply(await self.whole(reply), "the upstream's list of models")
        found = [m for m in value.get("data") or [] if isinstance(m, dict) and isinstance(m.get("id"), str)]
        if not upstream.name:
            return found
        return [m if m["id"] == upstream.name else {**m, "id": f"{upstream.name}/{m['id']}"} for m in found]

    def _too_long(self) -> RequestError:
        return RequestError(f"the upstream's answer has more than {self.answer_limit} bytes", status=502,
                            code="upstream_too_long")  # fmt: skip
