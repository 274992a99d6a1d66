"""Corrected: one request of OpenAI's endpoints to its corrected reply, whole or streamed."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from time import perf_counter
from typing import Literal

from aligner.correct.remote import RemoteAligner
from aligner.errors import RequestError
from aligner.generate.collect import closing
from aligner.serve import headers as h
from aligner.serve import sse, wire
from aligner.serve.ahead import Ahead
from aligner.serve.asgi import Exchange
from aligner.serve.choice import Choice
from aligner.serve.chunks import ChunkStream, Place
from aligner.serve.events import EventStream
from aligner.serve.options import HEADER, Options
from aligner.serve.policy import Outcome, Policy
from aligner.serve.shadow import Shadow
from aligner.serve.upstreams import Reply, Route, Upstreams
from aligner.serve.wire import Answer, Json
from aligner.types import Corrector, OpenedLive, Usage

Mode = Literal["correct", "shadow"]
_TELLS = b"x-aligner-corrected"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Asked:
    """A request that was read: its body for us and for the upstream, its options, and why nothing is corrected."""

    kind: wire.Kind
    body: Json
    data: bytes
    options: Options
    corrector: Corrector
    route: Route
    untouched: str | None


@dataclass(slots=True)
class _Showing:
    """An answer that is being shown, and what it is once the upstream is done, which took `seconds`."""

    place: Place
    pieces: AsyncIterator[str | Outcome]
    whole: asyncio.Future[Answer]
    opened: OpenedLive | None = None  # its first sentences are shown before it is whole
    task: asyncio.Task[None] | None = None
    seconds: float = 0.0

    def end(self, answer: Answer, seconds: float) -> None:
        self.seconds = seconds
        self.whole.set_result(answer)
        if self.opened is not None:
            self.opened.end(answer.text)


class Corrected:
    """Answers requests: the upstream is asked, its answer corrected and put in its place.

    Args:
        upstreams: who answers.
        policy: what is shown in an answer's place.
        choice: the correctors.
        share: of the requests that are corrected, drawn by `seed` and the request's body.
        own_keys: clients send keys of ours, which no upstream may see.
        sentences: show corrected sentences of streams while the upstream still writes.
        shadow: where corrections are recorded that nobody is shown; None shows them.
    """

    def __init__(
        self,
        upstreams: Upstreams,
        policy: Policy,
        choice: Choice,
        *,
        share: float = 1.0,
        seed: int = 0,
        own_keys: bool = False,
        sentences: bool = False,
        shadow: Shadow | None = None,
    ) -> None:
        self.upstreams, self.policy, self.choice, self.shadow = upstreams, policy, choice, shadow
        self.share, self.seed, self.own_keys = share, seed, own_keys
        self.sentences = sentences
        self._links = AsyncExitStack()

    async def open(self) -> None:
        """Connect to a corrector behind an address, on the event loop that will use it."""
        corrector = self.choice.pick(Options())
        if isinstance(corrector, RemoteAligner):
            await self._links.enter_async_context(corrector.connected())

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
        corrector = self.choice.pick(options)
        route = self.upstreams.route(body.get("model"))
        if route is None:
            raise await self._unknown(body.get("model"), exchange)
        untouched = "off" if options.off else None if self._drawn(data) else "share"
        untouched = untouched or wire.why_not(kind, body, wire.question(kind, body))
        if route.model is not None:
            body["model"], changed = route.model, True
        return _Asked(
            kind=kind, body=body, data=wire.write(body) if changed else data, options=options,
            corrector=corrector, route=route, untouched=untouched,
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
            kind = h.get(reply.headers, b"content-type") or ""
            streamed = kind.partition(";")[0].strip().lower() == "text/event-stream"
            if asked.untouched is not None or reply.status != 200:
                await self._through(exchange, reply, asked.untouched or "upstream_status")
                return
            if (h.get(reply.headers, b"content-encoding") or "identity") != "identity":
                raise RequestError("the upstream compressed its answer though it was asked not to", status=502,
                                   code="upstream_invalid")  # fmt: skip
            if streamed and self.shadow is not None:
                await self._watched(asked, exchange, reply)
                return
            if streamed:
                await self._stream(asked, exchange, reply, began)
                return
            data = await self.upstreams.whole(reply)
            status, headers = reply.status, told(reply, b"content-length")
        seconds = perf_counter() - began
        metrics.upstream_seconds.observe(seconds)
        response = wire.read_reply(data)
        answers = wire.answers(asked.kind, asked.body, response)
        if self.shadow is not None:
            self.shadow.record(asked.body, answers, asked.corrector)
            await exchange.reply(status, data, [*headers, (_TELLS, b"false; reason=shadow")])
            return
        outcomes = await self.policy.correct_all(answers, asked.corrector)
        headers.append((_TELLS, _told(outcomes)))
        changed = _put_back(asked.options, response, answers, outcomes, seconds)
        await exchange.reply(status, wire.write(response) if changed else data, headers)

    async def _through(self, exchange: Exchange, reply: Reply, reason: str) -> None:
        """The upstream's own reply, byte by byte."""
        await exchange.start(reply.status, [*told(reply), (_TELLS, f"false; reason={reason}".encode())])
        async for piece in reply.pieces():
            await exchange.send(piece)
        await exchange.end()

    async def _watched(self, asked: _Asked, exchange: Exchange, reply: Reply) -> None:
        """The upstream's stream as it is; what would have become of it is recorded."""
        await exchange.start(reply.status, [*told(reply), (_TELLS, b"false; reason=shadow")])
        shape = _shape(asked)
        answers: list[Answer] = []
        async with closing(sse.events(reply.pieces(), self.upstreams.answer_limit)) as events:
            async for event in events:
                await exchange.send(event.raw)
                answers += shape.feed(event).ready
        if self.shadow is not None:
            self.shadow.record(asked.body, answers, asked.corrector)
        await exchange.end()

    async def _stream(self, asked: _Asked, exchange: Exchange, reply: Reply, began: float) -> None:
        """The upstream's stream with corrected text; what breaks it is its last event. It was asked when `began`."""
        await exchange.start(reply.status, told(reply, b"content-length"))
        shape = _shape(asked)
        broken: list[RequestError] = []
        failed = False

        async def show(showing: _Showing) -> None:
            try:
                await self._show(asked, exchange, shape, showing)
            except RequestError as e:
                broken.append(e)

        live: dict[Place, _Showing] = {}

        with Ahead(lambda place: self.policy.open(shape.question(place), asked.corrector)) as ahead:
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
                                    live[place] = _Showing(place, self.policy.live(opened, whole), whole, opened)
                                    live[place].task = group.create_task(show(live[place]))
                            for answer in step.ready:
                                place = shape.place(answer)
                                showing = live.pop(place, None)
                                if showing is None:
                                    pieces = self.policy.stream(answer, asked.corrector, ahead.take(place))
                                    whole = asyncio.get_running_loop().create_future()
                                    showing = _Showing(place, pieces, whole)
                                    group.create_task(show(showing))
                                showing.end(answer, perf_counter() - began)
                            failed = failed or step.failed
                except RequestError as e:
                    broken.append(e)
                for left in live.values():  # the upstream broke off: they would wait for ever
                    if left.task is not None:
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

    async def _events(self, reply: Reply) -> AsyncIterator[sse.Event]:
        """The events of a reply; a connection that breaks is an error that can be told in the stream."""
        try:
            async with closing(sse.events(reply.pieces(), self.upstreams.answer_limit)) as events:
                async for event in events:
                    yield event
        except TimeoutError:
            raise RequestError(f"the upstream was silent for {self.upstreams.timeout:g} s; try again", status=504,
                               code="upstream_timeout") from None  # fmt: skip
        except OSError:
            raise RequestError("the upstream broke off before its answer was whole; try again", status=502,
                               code="upstream_broke_off") from None  # fmt: skip

    async def _show(
        self, asked: _Asked, exchange: Exchange, shape: ChunkStream | EventStream, showing: _Showing
    ) -> None:
        outcome = Outcome(text="")
        async with closing(showing.pieces) as pieces:
            async for piece in pieces:
                if isinstance(piece, Outcome):
                    outcome = piece
                elif piece:
                    await exchange.send(shape.text(showing.place, piece))
        answer = await showing.whole
        lost = wire.drop_token_fields(answer.beside) if isinstance(shape, ChunkStream) else []
        extension = outcome.extension(asked.options, lost, showing.seconds)
        await exchange.send(shape.finish(answer, outcome.text, outcome.spent, extension))


def told(reply: Reply, *without: bytes) -> h.Headers:
    """A reply's headers that pass on."""
    # Our server writes a date of its own.
    return h.passing(reply.headers, b"date", *without)


def _shape(asked: _Asked) -> ChunkStream | EventStream:
    return EventStream(asked.body) if asked.kind == "responses" else ChunkStream(asked.kind, asked.body)


def _told(outcomes: list[Outcome]) -> bytes:
    """The header's value: whether any answer is the corrector's, and why others are not."""
    reasons = list(dict.fromkeys(o.reason for o in outcomes if o.reason is not None))
    corrected = any(o.reason is None for o in outcomes)
    return (("true" if corrected else "false") + (f"; reason={','.join(reasons)}" if reasons else "")).encode()


def _put_back(options: Options, response: Json, answers: list[Answer], outcomes: list[Outcome], seconds: float) -> bool:
    """Put the outcomes in the answers' places; returns whether that changed the response at all."""
    changed = False
    spent = Usage()
    for answer, outcome in zip(answers, outcomes, strict=True):
        lost = answer.put(outcome.text)
        extension = outcome.extension(options, lost, seconds)
        if extension is not None:
            answer.beside["aligner"] = extension
        spent += outcome.spent
        changed = changed or extension is not None or outcome.correction is not None
    if changed:
        wire.add_usage(response.get("usage"), spent)
    return changed
