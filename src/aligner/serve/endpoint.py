"""Corrected: one request of OpenAI's endpoints to its corrected reply, whole or streamed."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from time import perf_counter
from typing import Literal

import aiohttp

from aligner.correct.remote import RemoteAligner
from aligner.errors import RequestError
from aligner.generate.collect import closing
from aligner.serve import headers as h
from aligner.serve import sse, wire
from aligner.serve.ahead import Ahead
from aligner.serve.asgi import Exchange
from aligner.serve.chunks import ChunkStream, Place
from aligner.serve.events import EventStream
from aligner.serve.options import HEADER, Options
from aligner.serve.policy import Outcome, Policy
from aligner.serve.shadow import Shadow
from aligner.serve.upstreams import Route, Upstreams, read_reply
from aligner.serve.wire import Answer, Json
from aligner.types import OpenedLive, Usage

Mode = Literal["correct", "shadow"]
_TELLS = b"x-aligner-corrected"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Asked:
    """A request that was read: its body for us and for the upstream, its options, and why nothing is corrected."""

    kind: wire.Kind
    body: Json
    data: bytes
    options: Options
    route: Route
    untouched: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Live:
    """An answer whose first sentences are shown already."""

    opened: OpenedLive
    whole: asyncio.Future[Answer]
    task: asyncio.Task[None]

    def end(self, answer: Answer) -> None:
        self.whole.set_result(answer)
        self.opened.end(answer.text)


class Corrected:
    """Answers requests: the upstream is asked, its answer corrected and put in its place.

    Args:
        upstreams: who answers.
        policy: what is shown in an answer's place.
        share: of the requests that are corrected, drawn by `seed` and the request's body.
        own_keys: clients send keys of ours, which no upstream may see.
        sentences: show corrected sentences of streams while the upstream still writes.
        shadow: where corrections are recorded that nobody is shown; None shows them.
    """

    def __init__(
        self,
        upstreams: Upstreams,
        policy: Policy,
        *,
        share: float = 1.0,
        seed: int = 0,
        own_keys: bool = False,
        sentences: bool = False,
        shadow: Shadow | None = None,
    ) -> None:
        self.upstreams, self.policy, self.shadow = upstreams, policy, shadow
        self.share, self.seed, self.own_keys = share, seed, own_keys
        self.sentences = sentences
        self._links = AsyncExitStack()

    async def open(self) -> None:
        """Connect to a corrector behind an address, on the event loop that will use it."""
        if isinstance(self.policy.corrector, RemoteAligner):
            await self._links.enter_async_context(self.policy.corrector.connected())

    async def close(self) -> None:
        """Finish what is recorded."""
        if self.shadow is not None:
            await self.shadow.close()
        await self._links.aclose()

    async def answer(self, kind: wire.Kind, exchange: Exchange) -> None:
        """Answer one request.

        Raises:
            RequestError: what the client is to be told.
            ClientLeft: it did not wait.
        """
        asked = await self._read(kind, exchange)
        await exchange.unless_left(self._reply(asked, exchange))

    async def _read(self, kind: wire.Kind, exchange: Exchange) -> _Asked:
        data = await exchange.body()
        body = wire.read(data)
        wire.check(kind, body)
        options = Options()
        changed = "aligner" in body
        if changed:
            options = Options.read(body.pop("aligner"))
        elif (given := h.get(exchange.headers, HEADER)) is not None:
            options = Options.read_header(given)
        options.check(self.policy.best_of)
        route = self.upstreams.route(body.get("model"))
        if route is None:
            raise await self._unknown(body.get("model"), exchange)
        untouched = "off" if options.off else None if self._drawn(data) else "share"
        untouched = untouched or wire.why_not(kind, body, wire.question(kind, body))
        if route.model is not None:
            body["model"], changed = route.model, True
        return _Asked(
            kind=kind, body=body, data=wire.write(body) if changed else data, options=options, route=route,
            untouched=untouched,
        )  # fmt: skip

    def _drawn(self, data: bytes) -> bool:
        """Whether a request is among the corrected share: the same request always is, or never."""
        if self.share >= 1:
            return True
        digest = hashlib.sha256(b"%d:" % self.seed + data).digest()
        return int.from_bytes(digest[:8], "big") < self.share * 2**64

    async def _unknown(self, model: object, exchange: Exchange) -> RequestError:
        try:
            found = await self.upstreams.models(exchange.headers, own_key=self.own_keys)
            names = [str(m["id"]) for m in found[:100]]
        except RequestError:
            names = []
        known = ", ".join(names) or ", ".join(f"{name}/…" for name in self.upstreams.names)
        what = f"the model '{str(model)[:200]}' is not known" if model is not None else "'model' is missing"
        return RequestError(f"{what}; known: {known}", status=404, code="model_not_found")

    async def _reply(self, asked: _Asked, exchange: Exchange) -> None:
        metrics, began = self.policy.metrics, perf_counter()
        async with self.upstreams.ask(
            asked.route.upstream, "POST", exchange.target, exchange.headers, asked.data, own_key=self.own_keys,
            plain=asked.untouched is None,
        ) as reply:  # fmt: skip
            streamed = reply.content_type == "text/event-stream"
            if asked.untouched is not None or reply.status != 200:
                await self._through(exchange, reply, asked.untouched or "upstream_status")
                return
            if reply.headers.get("content-encoding", "identity") != "identity":
                raise RequestError("the upstream compressed its answer though it was asked not to", status=502,
                                   code="upstream_invalid")  # fmt: skip
            if streamed and self.shadow is not None:
                await self._watched(asked, exchange, reply)
                return
            if streamed:
                await self._stream(asked, exchange, reply)
                return
            data = await self.upstreams.whole(reply)
            status, headers = reply.status, told(reply, b"content-length")
        metrics.upstream_seconds.observe(perf_counter() - began)
        response = read_reply(data)
        answers = wire.answers(asked.kind, asked.body, response)
        if self.shadow is not None:
            self.shadow.record(asked.body, answers)
            await exchange.reply(status, data, [*headers, (_TELLS, b"false; reason=shadow")])
            return
        outcomes = await self.policy.correct_all(answers, asked.options.best_of)
        headers.append((_TELLS, _told(outcomes)))
        changed = _put_back(asked.options, response, answers, outcomes)
        await exchange.reply(status, wire.write(response) if changed else data, headers)

    async def _through(self, exchange: Exchange, reply: aiohttp.ClientResponse, reason: str) -> None:
        """The upstream's own reply, byte by byte."""
        await exchange.start(reply.status, [*told(reply), (_TELLS, f"false; reason={reason}".encode())])
        async for piece in reply.content.iter_any():
            await exchange.send(piece)
        await exchange.end()

    async def _watched(self, asked: _Asked, exchange: Exchange, reply: aiohttp.ClientResponse) -> None:
        """The upstream's stream as it is; what would have become of it is recorded."""
        await exchange.start(reply.status, [*told(reply), (_TELLS, b"false; reason=shadow")])
        shape = _shape(asked)
        answers: list[Answer] = []
        async with closing(sse.events(reply.content.iter_any(), self.upstreams.answer_limit)) as events:
            async for event in events:
                await exchange.send(event.raw)
                answers += shape.feed(event).ready
        if self.shadow is not None:
            self.shadow.record(asked.body, answers)
        await exchange.end()

    async def _stream(self, asked: _Asked, exchange: Exchange, reply: aiohttp.ClientResponse) -> None:
        """The upstream's stream with corrected text; what breaks it is its last event."""
        await exchange.start(reply.status, told(reply, b"content-length"))
        shape = _shape(asked)
        broken: list[RequestError] = []
        failed = False
        began = perf_counter()

        async def show(place: Place, pieces: AsyncIterator[str | Outcome], whole: asyncio.Future[Answer]) -> None:
            try:
                await self._show(asked, exchange, shape, place, pieces, whole)
            except RequestError as e:
                broken.append(e)

        live: dict[Place, _Live] = {}

        with Ahead(lambda place: self.policy.open(shape.question(place), asked.options.best_of)) as ahead:
            async with asyncio.TaskGroup() as group:
                try:
                    async with closing(self._events(reply)) as events:
                        async for event in events:
                            step = shape.feed(event)
                            await exchange.send(b"".join(step.now))
                            for place, text in step.heard:
                                opened = ahead.push(place, text)
                                if self.sentences and isinstance(opened, OpenedLive):
                                    whole = asyncio.get_running_loop().create_future()
                                    pieces = self.policy.live(opened, whole)
                                    task = group.create_task(show(place, pieces, whole))
                                    live[place] = _Live(opened=opened, whole=whole, task=task)
                            for answer in step.ready:
                                place = shape.place(answer)
                                if place in live:
                                    live.pop(place).end(answer)
                                    continue
                                whole = asyncio.get_running_loop().create_future()
                                whole.set_result(answer)
                                pieces = self.policy.stream(answer, asked.options.best_of, ahead.take(place))
                                group.create_task(show(place, pieces, whole))
                            failed = failed or step.failed
                except RequestError as e:
                    broken.append(e)
                for left in live.values():  # the upstream broke off: they would wait for ever
                    left.task.cancel()
                self.policy.metrics.upstream_seconds.observe(perf_counter() - began)
        if not broken and not failed and not shape.whole:
            broken.append(RequestError("the upstream broke off before its answer was whole; try again", status=502,
                                       code="upstream_broke_off"))  # fmt: skip
        if broken:
            value = wire.error_body(broken[0])
            name = "error" if asked.kind == "responses" else ""
            await exchange.end(sse.encode({"type": "error", **value["error"]} if name else value, name))
        else:
            await exchange.end(b"" if failed else shape.end())

    async def _events(self, reply: aiohttp.ClientResponse) -> AsyncIterator[sse.Event]:
        """The events of a reply; a connection that breaks is an error that can be told in the stream."""
        try:
            async with closing(sse.events(reply.content.iter_any(), self.upstreams.answer_limit)) as events:
                async for event in events:
                    yield event
        except TimeoutError:
            raise RequestError(f"the upstream was silent for {self.upstreams.timeout:g} s; try again", status=504,
                               code="upstream_timeout") from None  # fmt: skip
        except (aiohttp.ClientError, OSError):
            raise RequestError("the upstream broke off before its answer was whole; try again", status=502,
                               code="upstream_broke_off") from None  # fmt: skip

    async def _show(
        self,
        asked: _Asked,
        exchange: Exchange,
        shape: ChunkStream | EventStream,
        place: Place,
        pieces: AsyncIterator[str | Outcome],
        whole: asyncio.Future[Answer],
    ) -> None:
        outcome = Outcome(text="")
        async with closing(pieces) as shown:
            async for piece in shown:
                if isinstance(piece, Outcome):
                    outcome = piece
                elif piece:
                    await exchange.send(shape.text(place, piece))
        answer = await whole
        lost = wire.drop_token_fields(answer.beside) if isinstance(shape, ChunkStream) else []
        extension = outcome.extension(asked.options, lost)
        await exchange.send(shape.finish(answer, outcome.text, outcome.spent, extension))


def told(reply: aiohttp.ClientResponse, *without: bytes) -> h.Headers:
    """A reply's headers that pass on."""
    # Our server writes a date of its own.
    return h.passing([(key.lower(), value) for key, value in reply.raw_headers], b"date", *without)


def _shape(asked: _Asked) -> ChunkStream | EventStream:
    return EventStream(asked.body) if asked.kind == "responses" else ChunkStream(asked.kind, asked.body)


def _told(outcomes: list[Outcome]) -> bytes:
    """The header's value: whether any answer is the corrector's, and why others are not."""
    reasons = list(dict.fromkeys(o.reason for o in outcomes if o.reason is not None))
    corrected = any(o.reason is None for o in outcomes)
    return (("true" if corrected else "false") + (f"; reason={','.join(reasons)}" if reasons else "")).encode()


def _put_back(options: Options, response: Json, answers: list[Answer], outcomes: list[Outcome]) -> bool:
    """Put the outcomes in the answers' places; returns whether that changed the response at all."""
    changed = False
    spent = Usage()
    for answer, outcome in zip(answers, outcomes, strict=True):
        lost = answer.put(outcome.text)
        extension = outcome.extension(options, lost)
        if extension is not None:
            answer.beside["aligner"] = extension
        spent += outcome.spent
        changed = changed or extension is not None or outcome.correction is not None
    if changed:
        wire.add_usage(response.get("usage"), spent)
    return changed
